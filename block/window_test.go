package block

import (
	"math/rand/v2"
	"testing"
	"time"
)

func testWindow(cost time.Duration) (*Window, *time.Time) {
	now := time.Unix(1000, 0)
	return &Window{most: mostWindow, cost: func() float64 { return cost.Seconds() }, now: func() time.Time { return now }}, &now
}

func TestWindowSequential(t *testing.T) {
	const step = 128 << 10
	for _, c := range []struct {
		name     string
		cost     time.Duration
		speed    float64 // of the reader, bytes/s
		min, max int64   // of the window in the end
	}{
		{"near store, fast reader", time.Millisecond, 1e9, 1 << 20, 4 << 20},
		{"far store, fast reader", 50 * time.Millisecond, 1e9, 32 << 20, 32 << 20},
		{"far store, slow reader", 50 * time.Millisecond, 20e6, 1 << 20, 4 << 20},
	} {
		w, now := testWindow(c.cost)
		ahead, largest := int64(0), int64(0)
		for off := int64(0); off < 256<<20; off += step {
			*now = now.Add(time.Duration(step / c.speed * 1e9))
			p, n := w.Next(off, step)
			if n > 0 {
				if ahead > 0 && p != ahead {
					t.Fatalf("%s: at %d: prefetch from %d, the last ended at %d", c.name, off, p, ahead)
				}
				if p < off+step {
					t.Fatalf("%s: at %d: prefetch of what is being read", c.name, off)
				}
				ahead = p + n
			}
			if off == 0 && n != firstWindow {
				t.Errorf("%s: the first read prefetches %d", c.name, n)
			}
			if off > 128<<20 {
				largest = max(largest, ahead-off-step)
				if ahead < off+step {
					t.Fatalf("%s: at %d: nothing is ahead", c.name, off)
				}
			}
		}
		if largest < c.min || largest > c.max {
			t.Errorf("%s: window of %d", c.name, largest)
		}
	}
}

func TestWindowRandom(t *testing.T) {
	w, now := testWindow(50 * time.Millisecond)
	rnd := rand.New(rand.NewPCG(1, 2))
	var ahead int64
	for range 10_000 {
		*now = now.Add(time.Millisecond)
		_, n := w.Next(rnd.Int64N(100<<30)+1, 4096)
		ahead += n
	}
	if ahead > 1<<20 {
		t.Errorf("random reads prefetched %d bytes", ahead)
	}
}

func TestWindowInterleaved(t *testing.T) {
	w, now := testWindow(20 * time.Millisecond)
	const step = 64 << 10
	var ahead [3]int64
	for i := int64(0); i < 500; i++ {
		for s := range ahead {
			*now = now.Add(100 * time.Microsecond)
			base := int64(s) * 10 << 30
			if p, n := w.Next(base+i*step, step); n > 0 {
				ahead[s] = p + n - base
			}
		}
	}
	for s, a := range ahead {
		if a < 500*step+1<<20 {
			t.Errorf("stream %d was prefetched up to %d", s, a)
		}
	}
}

// TestWindowOutOfOrder: requests that overtake each other still make one stream,
// and nothing is prefetched twice.
func TestWindowOutOfOrder(t *testing.T) {
	w, now := testWindow(20 * time.Millisecond)
	rnd := rand.New(rand.NewPCG(4, 2))
	const step, group = 128 << 10, 8
	var total, ahead int64
	for g := int64(0); g < 200; g++ {
		for _, i := range rnd.Perm(group) {
			*now = now.Add(200 * time.Microsecond)
			p, n := w.Next((g*group+int64(i))*step, step)
			if n == 0 {
				continue
			}
			if p < ahead {
				t.Fatalf("%d is prefetched twice", p)
			}
			ahead = p + n
			total += n
		}
	}
	if total < 180*group*step {
		t.Errorf("only %d bytes were prefetched", total)
	}
}
