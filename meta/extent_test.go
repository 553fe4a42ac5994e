package meta

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// cell is a byte of a chunk: which byte of which block, or unwritten, or a hole.
type cell struct {
	block uint64
	off   uint32
	set   bool
}

func cells(list []Extent, size int) []cell {
	out := make([]cell, size)
	for _, x := range list {
		for i := uint32(0); i < x.Len; i++ {
			c := cell{block: x.Block, set: true}
			if x.Block != 0 {
				c.off = x.Off + i
			}
			out[x.Pos+i] = c
		}
	}
	return out
}

func randomExtents(r *rand.Rand, size int) (list []Extent) {
	for at := r.IntN(3); at < size; at += r.IntN(4) {
		n := min(1+r.IntN(6), size-at)
		x := Extent{Pos: uint32(at), Len: uint32(n)}
		if r.IntN(3) > 0 {
			x.Block, x.Size, x.Off = 1+r.Uint64N(3), 64, uint32(at)
		}
		list = append(list, x)
		at += n
	}
	return list
}

// TestExtentAlgebra compares the operations with what they mean byte by byte.
func TestExtentAlgebra(t *testing.T) {
	const size = 32
	r := rand.New(rand.NewPCG(1, 2))
	valid := func(what string, list []Extent) {
		t.Helper()
		if err := checkExtents(list, MinChunkSize); err != nil {
			t.Fatalf("%s: %v: %v", what, list, err)
		}
		got, err := decodeChunk(nil, encodeChunk(nil, list))
		if err != nil || !slices.Equal(got, list) {
			t.Fatalf("%s: decoded %v instead of %v: %v", what, got, list, err)
		}
	}
	for range 20000 {
		old, top := randomExtents(r, size), randomExtents(r, size)
		from := r.IntN(size)
		to := from + 1 + r.IntN(size-from)
		was, over := cells(old, size), cells(top, size)

		both := overlayExtents(nil, old, top)
		valid("overlay", both)
		for i, c := range cells(both, size) {
			want := was[i]
			if over[i].set {
				want = over[i]
			}
			if c != want {
				t.Fatalf("overlay of %v on %v is %v: byte %d", top, old, both, i)
			}
		}
		cut := cutExtents(nil, old, uint64(from), uint64(to))
		part := partExtents(nil, old, uint64(from), uint64(to))
		fill := fillExtents(nil, old, uint64(from), uint64(to))
		valid("cut", cut)
		valid("part", part)
		valid("fill", fill)
		c, p, f := cells(cut, size), cells(part, size), cells(fill, size)
		for i := range was {
			inside := i >= from && i < to
			wantCut, wantPart, wantFill := was[i], cell{}, was[i]
			if inside {
				wantCut, wantPart = cell{}, was[i]
				wantFill.set = true
			}
			if c[i] != wantCut || p[i] != wantPart || f[i] != wantFill {
				t.Fatalf("[%d, %d) of %v: cut %v, part %v, fill %v: byte %d", from, to, old, cut, part, fill, i)
			}
		}
		if n := sumExtents(cut) + sumExtents(part); n != sumExtents(old) {
			t.Fatalf("cut and part have %d bytes of %d", n, sumExtents(old))
		}
	}
}
