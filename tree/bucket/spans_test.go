package bucket

import (
	"math/rand/v2"
	"testing"
)

// Spans are compared with a set of single bytes.
func TestSpans(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var s spans
	var want [200]bool
	for range 20_000 {
		n := span{int64(r.IntN(200)), 0}
		n.end = n.off + int64(r.IntN(200-int(n.off)+1))
		switch r.IntN(5) {
		case 0, 1:
			s = s.add(n)
			for i := n.off; i < n.end; i++ {
				want[i] = true
			}
		case 2:
			s = s.remove(n)
			for i := n.off; i < n.end; i++ {
				want[i] = false
			}
		}
		var have, within, missing [200]bool
		last := int64(-1)
		for _, x := range s {
			if x.off <= last || x.off >= x.end {
				t.Fatalf("not in order, or touching: %v", s)
			}
			last = x.end
			for i := x.off; i < x.end; i++ {
				have[i] = true
			}
		}
		if have != want {
			t.Fatalf("%v", s)
		}
		for _, x := range s.within(n) {
			for i := x.off; i < x.end; i++ {
				within[i] = true
			}
		}
		for _, x := range s.missing(n) {
			for i := x.off; i < x.end; i++ {
				missing[i] = true
			}
		}
		total := int64(0)
		for i := range want {
			inside := int64(i) >= n.off && int64(i) < n.end
			if within[i] != (inside && want[i]) || missing[i] != (inside && !want[i]) {
				t.Fatalf("%v within or missing of %v: wrong at %d", s, n, i)
			}
			if want[i] {
				total++
			}
		}
		if s.total() != total {
			t.Fatalf("%d bytes, want %d", s.total(), total)
		}
	}
}
