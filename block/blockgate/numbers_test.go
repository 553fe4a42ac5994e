package blockgate

import (
	"math/rand/v2"
	"testing"

	"github.com/massif-fs/massif/block"
)

func TestNumbers(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		var s Numbers
		model := map[block.ID]bool{}
		next := block.ID(1)
		for range 200 {
			switch r.IntN(3) {
			case 0:
				next += block.ID(r.IntN(3)) // of other sessions
				n := r.IntN(5)
				s.Allocated(next, n)
				for range n {
					model[next] = true
					next++
				}
			default:
				id := block.ID(r.IntN(int(next) + 2))
				if s.Committed(id) != model[id] {
					t.Fatalf("commit of block %d: %v", id, !model[id])
				}
				if model[id] && r.IntN(4) == 0 { // the commit failed
					s.Allocated(id, 1)
				} else {
					delete(model, id)
				}
			}
			for id := block.ID(0); id < next+3; id++ {
				if s.Has(id) != model[id] {
					t.Fatalf("block %d: %v", id, s.Has(id))
				}
			}
		}
	}
	var s Numbers
	for i := range 2 * maxNumbers {
		s.Allocated(block.ID(10*i+1), 2)
	}
	if len(s.ranges) > maxNumbers || !s.Has(20*maxNumbers-9) || s.Has(1) {
		t.Errorf("%d ranges", len(s.ranges))
	}
}
