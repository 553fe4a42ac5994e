package blockgate

import (
	"slices"
	"sync"

	"github.com/massif-fs/massif/block"
)

// maxNumbers bounds the ranges that Numbers remembers.
const maxNumbers = 1 << 14

// Numbers are the block numbers that were allocated to a session and that no commit
// has named yet, for an Authority. They are remembered as ranges, a bounded number of
// them: a session that allocates more and commits none of them loses the
// oldest. The zero value is ready; methods may be called concurrently.
type Numbers struct {
	mu     sync.Mutex
	ranges []numberRange // ascending, apart
}

type numberRange struct{ first, end block.ID }

// Allocated adds n numbers from first on.
func (s *Numbers) Allocated(first block.ID, n int) {
	if n <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := numberRange{first, first + block.ID(n)}
	i := s.at(first)
	if i > 0 && first < s.ranges[i-1].end || i < len(s.ranges) && r.end > s.ranges[i].first {
		return // some are there already: nobody gives a number twice
	}
	if i > 0 && s.ranges[i-1].end == first { // goes on where the one before ended
		s.ranges[i-1].end = r.end
		return
	}
	s.ranges = slices.Insert(s.ranges, i, r)
	if len(s.ranges) > maxNumbers {
		s.ranges = slices.Delete(s.ranges, 0, 1) // numbers rise
	}
}

// at is the index of the first range that begins behind id.
func (s *Numbers) at(id block.ID) int {
	i, _ := slices.BinarySearchFunc(s.ranges, id, func(r numberRange, id block.ID) int {
		if r.first > id {
			return 1
		}
		return -1
	})
	return i
}

// Has tells whether a number was allocated and not committed.
func (s *Numbers) Has(id block.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.at(id) - 1
	return i >= 0 && id < s.ranges[i].end
}

// Committed removes a number, and tells whether it was there: before the commit is
// done, so that no grant is given for a block that others may already read.
func (s *Numbers) Committed(id block.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.at(id) - 1
	if i < 0 || id >= s.ranges[i].end {
		return false
	}
	r := s.ranges[i]
	var rest []numberRange
	if r.first < id {
		rest = append(rest, numberRange{r.first, id})
	}
	if id+1 < r.end {
		rest = append(rest, numberRange{id + 1, r.end})
	}
	s.ranges = slices.Replace(s.ranges, i, i+1, rest...)
	return true
}
