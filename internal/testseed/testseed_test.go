package testseed

import (
	"slices"
	"testing"
)

func TestRule(t *testing.T) {
	fixed := []uint64{3, 5}
	if got, err := choose("", fixed); err != nil || !slices.Equal(got, fixed) {
		t.Errorf("without a word: %v, %v", got, err)
	}
	if got, err := choose("7", fixed); err != nil || !slices.Equal(got, []uint64{7}) {
		t.Errorf("a number: %v, %v", got, err)
	}
	drawn := map[uint64]bool{}
	for range 20 {
		got, err := choose("random", fixed)
		if err != nil || len(got) != 1 || got[0] == 0 {
			t.Fatalf("random: %v, %v", got, err)
		}
		drawn[got[0]] = true
	}
	if len(drawn) == 1 {
		t.Error("random seeds are all the same")
	}
	for _, word := range []string{"0", "-1", "x", "Random", "18446744073709551616"} {
		if got, err := choose(word, fixed); err == nil {
			t.Errorf("%q is taken for %v", word, got)
		}
	}
}

func TestOf(t *testing.T) {
	t.Setenv(Variable, "")
	if got := Of(t, 9); got != 9 {
		t.Errorf("%d instead of the fixed seed", got)
	}
	t.Setenv(Variable, "12")
	if got := Of(t, 9); got != 12 {
		t.Errorf("%d instead of the seed of the environment", got)
	}
}
