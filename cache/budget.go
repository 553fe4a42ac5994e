package cache

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
)

// ErrTooLarge: the request is greater than its share of the budget could ever
// hold, so that waiting would never end.
var ErrTooLarge = errors.New("request is larger than its share of the memory limit")

// Budget is a hard limit on the memory of a mount. All methods may be called
// concurrently.
//
// The invariant: sum over all shares of max(used, reserve) <= limit.
type Budget struct {
	limit    int64
	pressure atomic.Int32 // number of pressing requests (see recount), readable without the lock

	mu        sync.Mutex
	used      int64
	peak      int64
	committed int64      // sum of max(used, reserve)
	reserved  int64      // sum of reserves
	waiters   *list.List // of *waiter, in order of arrival
	shares    []*Share
}

// NewBudget returns a budget of limit bytes.
func NewBudget(limit int64) *Budget {
	return &Budget{limit: limit, waiters: list.New()}
}

// Share is one class of memory use within a Budget.
type Share struct {
	b       *Budget
	name    string
	reserve int64
	limit   int64
	rank    int // elastic shares: lower ranks give back first; plain: math.MaxInt
	reclaim func(need int64) int64

	// below: under b.mu
	used    int64
	peak    int64
	waiting int
}

type waiter struct {
	s       *Share
	n       int64
	granted chan struct{}
}

// Share adds a class that is sure to get reserve bytes and gets limit bytes at
// most (0: what the budget has beyond the reserves of others). The reserves of
// all shares together cannot exceed the budget.
func (b *Budget) Share(name string, reserve, limit int64) (*Share, error) {
	return b.add(&Share{b: b, name: name, reserve: reserve, limit: limit, rank: math.MaxInt})
}

// Elastic adds a class of memory that can be given back at once: reclaim frees
// and releases up to need bytes, as many as it can without waiting, and returns
// how many. Of several elastic classes that with the lowest rank is asked
// first, and an elastic class can only push away those of lower rank.
func (b *Budget) Elastic(name string, limit int64, rank int, reclaim func(need int64) int64) (*Share, error) {
	return b.add(&Share{b: b, name: name, limit: limit, rank: rank, reclaim: reclaim})
}

func (b *Budget) add(s *Share) (*Share, error) {
	if s.reserve < 0 || s.limit < 0 || (s.limit > 0 && s.limit < s.reserve) {
		return nil, fmt.Errorf("memory share %q: reserve %d and limit %d do not fit", s.name, s.reserve, s.limit)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.committed+s.reserve > b.limit {
		return nil, fmt.Errorf("memory share %q: a reserve of %d bytes does not fit into the memory limit of %d bytes, of which %d are taken",
			s.name, s.reserve, b.limit, b.committed)
	}
	b.committed += s.reserve
	b.reserved += s.reserve
	i := len(b.shares)
	for i > 0 && b.shares[i-1].rank > s.rank {
		i--
	}
	b.shares = append(b.shares, nil)
	copy(b.shares[i+1:], b.shares[i:])
	b.shares[i] = s
	return s, nil
}

// Remove gives the share's reserve back. What the share still holds stays counted
// until it is released.
func (s *Share) Remove() {
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, o := range b.shares {
		if o == s {
			b.shares = append(b.shares[:i:i], b.shares[i+1:]...)
			b.committed += s.used - max(s.used, s.reserve)
			b.reserved -= s.reserve
			s.reserve = 0
			b.grant()
			return
		}
	}
}

// Limit is the size of the budget in bytes.
func (b *Budget) Limit() int64 { return b.limit }

// Used is the number of bytes taken from the budget now.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// Pressed tells whether somebody waits for memory that others hold. Requests that
// only wait for their own share's limit do not press.
func (b *Budget) Pressed() bool { return b.pressure.Load() > 0 }

// ShareStats are the figures of one share, in bytes.
type ShareStats struct {
	Name    string
	Reserve int64
	Limit   int64
	Used    int64
	Peak    int64
	Waiting int // requests
	Elastic bool
}

// BudgetStats are the figures of a budget, in bytes.
type BudgetStats struct {
	Limit  int64
	Used   int64
	Peak   int64
	Shares []ShareStats
}

// Stats returns the figures of the budget and of each share.
func (b *Budget) Stats() BudgetStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := BudgetStats{Limit: b.limit, Used: b.used, Peak: b.peak}
	for _, s := range b.shares {
		st.Shares = append(st.Shares, ShareStats{Name: s.name, Reserve: s.reserve, Limit: s.most(),
			Used: s.used, Peak: s.peak, Waiting: s.waiting, Elastic: s.reclaim != nil})
	}
	return st
}

// Name is the name of the share.
func (s *Share) Name() string { return s.name }

// Budget is the budget that the share belongs to.
func (s *Share) Budget() *Budget { return s.b }

// Used is the number of bytes that the share holds.
func (s *Share) Used() int64 {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	return s.used
}

// Limit is the greatest number of bytes that the share can hold.
func (s *Share) Limit() int64 {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	return s.most()
}

// most is Limit under the lock: shares added later lower it.
func (s *Share) most() int64 {
	m := s.b.limit - (s.b.reserved - s.reserve)
	if s.limit > 0 {
		m = min(m, s.limit)
	}
	return m
}

// Acquire takes n bytes and waits until they are there: first come, first
// served. Errors: [ErrTooLarge], or that of ctx.
func (s *Share) Acquire(ctx context.Context, n int64) error {
	b := s.b
	b.mu.Lock()
	if n > s.most() {
		most := s.most()
		b.mu.Unlock()
		return fmt.Errorf("memory share %q: %d bytes wanted of at most %d: %w", s.name, n, most, ErrTooLarge)
	}
	if s.free(n) && !b.ahead(s, n) {
		s.take(n)
		b.mu.Unlock()
		return nil
	}
	w := &waiter{s: s, n: n, granted: make(chan struct{})}
	el := b.waiters.PushBack(w)
	s.waiting++
	b.recount()
	b.mu.Unlock()

	b.Reclaim(s.rank)
	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-w.granted: // it came in the meantime
		s.give(n)
	default:
		b.waiters.Remove(el)
		s.waiting--
	}
	b.grant()
	return context.Cause(ctx)
}

// TryAcquire takes n bytes if they can be had without waiting for anybody.
func (s *Share) TryAcquire(n int64) bool {
	b := s.b
	b.mu.Lock()
	if s.used+n > s.most() || b.ahead(s, n) {
		b.mu.Unlock()
		return false
	}
	if s.free(n) {
		s.take(n)
		b.mu.Unlock()
		return true
	}
	need := b.committed + s.growth(n) - b.limit
	b.mu.Unlock()
	b.reclaim(s.rank, need)

	b.mu.Lock()
	defer b.mu.Unlock()
	if !s.free(n) || b.ahead(s, n) {
		return false
	}
	s.take(n)
	return true
}

// Release gives n bytes back.
func (s *Share) Release(n int64) {
	b := s.b
	b.mu.Lock()
	s.give(n)
	b.grant()
	b.mu.Unlock()
	if s.reclaim == nil && b.pressure.Load() > 0 {
		// A request that waited for this share's limit may wait for elastic memory
		// from now on.
		b.Reclaim(s.rank)
	}
}

// transfer moves n bytes from share s to share to, if neither share to nor anybody
// who presses has requests waiting.
func (s *Share) transfer(to *Share, n int64) bool {
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if to.used+n > to.most() || to.waiting > 0 || b.pressure.Load() > 0 {
		return false
	}
	shrink := max(s.used, s.reserve) - max(s.used-n, s.reserve)
	if b.committed-shrink+to.growth(n) > b.limit {
		return false
	}
	s.give(n)
	to.take(n)
	b.grant()
	return true
}

// Reclaim asks the elastic shares of a rank below the given one for what waiting
// requests need. It is called by a request that begins to wait, and by owners
// of elastic memory when something became free that was pinned before.
func (b *Budget) Reclaim(rank int) {
	b.mu.Lock()
	var want int64
	for el := b.waiters.Front(); el != nil; el = el.Next() {
		if w := el.Value.(*waiter); w.presses() {
			want += w.s.growth(w.n)
		}
	}
	need := want + b.committed - b.limit
	b.mu.Unlock()
	b.reclaim(rank, need)
}

func (b *Budget) reclaim(rank int, need int64) {
	if need <= 0 {
		return
	}
	b.mu.Lock()
	var ask []func(int64) int64 // lowest rank first
	for _, s := range b.shares {
		if s.reclaim != nil && s.rank < rank {
			ask = append(ask, s.reclaim)
		}
	}
	b.mu.Unlock()
	var moved int64
	for i, f := range ask {
		freed := f(need)
		if i > 0 {
			moved += freed
		}
		if need -= freed; need <= 0 {
			break
		}
	}
	if moved > 0 {
		ask[0](moved) // freed buffers may be idle ones now
	}
}

// growth is by how much n more bytes of s raise b.committed.
func (s *Share) growth(n int64) int64 {
	return max(s.used+n, s.reserve) - max(s.used, s.reserve)
}

// free tells whether n bytes fit now.
func (s *Share) free(n int64) bool {
	return s.used+n <= s.most() && s.b.committed+s.growth(n) <= s.b.limit
}

// ahead tells whether a request has to queue behind others: of its own share, or,
// if it needs memory beyond its reserve, of anybody.
func (b *Budget) ahead(s *Share, n int64) bool {
	if s.waiting > 0 {
		return true
	}
	return b.pressure.Load() > 0 && s.growth(n) > 0
}

// presses tells whether the waiter's own share has room for it, so that it waits for
// others.
func (w *waiter) presses() bool { return w.s.used+w.n <= w.s.most() }

// recount sets the number of pressing requests. It is called when a waiter or the
// use of a share that has one changes.
func (b *Budget) recount() {
	n := int32(0)
	for el := b.waiters.Front(); el != nil; el = el.Next() {
		if el.Value.(*waiter).presses() {
			n++
		}
	}
	b.pressure.Store(n)
}

func (s *Share) take(n int64) {
	b := s.b
	b.committed += s.growth(n)
	b.used += n
	s.used += n
	s.peak = max(s.peak, s.used)
	b.peak = max(b.peak, b.used)
}

func (s *Share) give(n int64) {
	if n > s.used {
		panic(fmt.Sprintf("cache: share %q releases %d bytes and holds %d", s.name, n, s.used))
	}
	b := s.b
	before := max(s.used, s.reserve)
	s.used -= n
	b.used -= n
	b.committed += max(s.used, s.reserve) - before
}

// grant serves waiting requests in order. One that does not fit keeps back the
// later ones of its own share, and all that want memory beyond their reserve;
// but one that waits only for its share's own limit keeps back nobody else.
func (b *Budget) grant() {
	if b.waiters.Len() == 0 {
		b.pressure.Store(0)
		return
	}
	var blocked map[*Share]bool
	common := false // somebody waits for the common part
	var next *list.Element
	for el := b.waiters.Front(); el != nil; el = next {
		next = el.Next()
		w := el.Value.(*waiter)
		s := w.s
		if !blocked[s] && s.free(w.n) && (!common || s.growth(w.n) == 0) {
			s.take(w.n)
			s.waiting--
			b.waiters.Remove(el)
			close(w.granted)
			continue
		}
		if blocked == nil {
			blocked = make(map[*Share]bool)
		}
		if !blocked[s] && w.presses() {
			common = true
		}
		blocked[s] = true
	}
	b.recount()
}
