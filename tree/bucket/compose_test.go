package bucket

import (
	"math/rand/v2"
	"testing"
)

// Parts cover the object in order, have allowed sizes, and copy only what is the old object's.
func TestPlan(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	planned := 0
	for range 20_000 {
		size := 1 + r.Int64N(3000)
		base := r.Int64N(3000)
		baseEnd := min(base, size)
		minPart := 1 + r.Int64N(100)
		maxPart := 2*minPart + r.Int64N(1000)
		var dirty spans
		for range r.IntN(6) {
			off := r.Int64N(size)
			dirty = dirty.add(span{off, off + 1 + r.Int64N(size-off)})
		}
		before := append(spans{}, dirty...)
		parts, sent := plan(size, baseEnd, dirty, minPart, maxPart, 10_000)
		for i := range before {
			if before[i] != dirty[i] {
				t.Fatal("the set of changes was changed")
			}
		}
		if parts == nil {
			continue
		}
		planned++
		at := int64(0)
		for i, p := range parts {
			if p.off != at || p.len() < 1 || p.len() > maxPart || p.len() < minPart && i < len(parts)-1 {
				t.Fatalf("size %d, parts of %d to %d: %v", size, minPart, maxPart, parts)
			}
			at = p.end
			if p.copied && (p.end > baseEnd || len(dirty.within(p.span)) > 0) {
				t.Fatalf("%v is copied; the old object's end is %d, changed is %v", p, baseEnd, dirty)
			}
			if !p.copied && len(sent.missing(p.span)) > 0 {
				t.Fatalf("%v is sent, but %v is said to be", p, sent)
			}
		}
		if at != size {
			t.Fatalf("size %d: %v", size, parts)
		}
	}
	if planned < 1000 {
		t.Fatalf("only %d of the cases had a plan", planned)
	}
}
