// Package testseed gives random tests their seeds, by one rule: a test draws the same
// each time it runs, so that what is found by it is found again, and a change that
// breaks nothing fails nowhere by chance. The environment says otherwise:
//
//	MASSIF_SEED=7        each test runs with the seed 7
//	MASSIF_SEED=random   each test runs with a seed drawn anew, which its log tells
//
// With the seed a failing test told, it does the same again, as far as the order of
// what happens at the same time allows. "make soak" runs the random tests with
// random seeds. Tests that are drawn by pgregory.net/rapid obey RAPID_SEED, which the
// Makefile sets by the same rule.
package testseed

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// Variable is the environment variable with the seed.
const Variable = "MASSIF_SEED"

// Of returns the seed of a test that by itself uses fixed, and logs it.
func Of(t testing.TB, fixed uint64) uint64 {
	t.Helper()
	return All(t, fixed)[0]
}

// All returns the seeds of a test that by itself runs once with each of the fixed ones,
// and logs them. With the environment's word it is one.
func All(t testing.TB, fixed ...uint64) []uint64 {
	t.Helper()
	seeds, err := choose(os.Getenv(Variable), fixed)
	if err != nil {
		t.Fatal(err)
	}
	for _, seed := range seeds {
		t.Logf("%s=%d", Variable, seed)
	}
	return seeds
}

func choose(word string, fixed []uint64) ([]uint64, error) {
	switch word {
	case "":
		return fixed, nil
	case "random":
		return []uint64{1 + rand.Uint64N(1<<32)}, nil
	}
	n, err := strconv.ParseUint(word, 10, 64)
	if err != nil || n == 0 { // rapid takes 0 for a random one
		return nil, fmt.Errorf("%s=%q: use a number above 0, or random", Variable, word)
	}
	return []uint64{n}, nil
}
