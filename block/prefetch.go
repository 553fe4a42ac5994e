package block

import (
	"context"
	"errors"

	"github.com/massif-fs/massif/object"
)

// advisor is the optional ability of an object store on this machine to bring a
// range of an object into the kernel's page cache, without waiting for it.
type advisor interface {
	Advise(ctx context.Context, key string, off, n int64) error
}

// prefetcher fetches frames before they are asked for. Its queue is bounded: what
// does not fit is dropped, and read when it is needed.
type prefetcher struct {
	s       *Store
	queue   chan prefetchRun
	advisor advisor // nil for remote stores
}

// prefetchRun is a range of one block, fetched by one request.
type prefetchRun struct {
	r      Ref
	off, n uint32
}

// localPrefetchers: the kernel does the work where the store is on this machine.
const localPrefetchers = 4

func newPrefetcher(s *Store) *prefetcher {
	workers := max(1, cap(s.downloads)-1) // one download stays for readers
	if !s.remote {
		workers = min(workers, localPrefetchers)
	}
	f := &prefetcher{s: s, queue: make(chan prefetchRun, 2*workers)}
	if !s.remote {
		f.advisor, _ = object.As[advisor](s.store)
	}
	for range workers {
		s.wg.Add(1)
		go f.work()
	}
	return f
}

// Prefetch begins to bring n bytes of block r from offset off near, and returns at
// once. It is a hint: it does nothing where memory is short, where enough is
// being fetched already, or for a range outside of the block.
func (s *Store) Prefetch(r Ref, off, n uint32) {
	if off < r.Size {
		n = min(n, r.Size-off)
	}
	if n == 0 || checkRange(r, off, int(n)) != nil || s.cfg.Budget.Pressed() {
		return
	}
	if !s.remote && s.prefetch.advisor == nil && s.headers.get(r) != nil {
		return // all that can be done has been done
	}
	for n > 0 {
		// Runs end at multiples of maxRun, so that overlapping hints make the
		// same requests.
		k := min(n, maxRun-off%maxRun)
		select {
		case s.prefetch.queue <- prefetchRun{r, off, k}:
		default:
			s.stats.prefetchDropped.Add(1)
			return
		}
		off, n = off+k, n-k
	}
}

func (f *prefetcher) work() {
	defer f.s.wg.Done()
	for {
		select {
		case <-f.s.ctx.Done():
			return
		case run := <-f.queue:
			f.s.stats.prefetches.Add(1)
			err := f.run(run)
			if err != nil && !errors.Is(err, context.Canceled) {
				// Whoever reads the range will meet the error and report it.
				f.s.log.Debug("read-ahead failed", "block", uint64(run.r.ID), "error", err)
			}
		}
	}
}

// run fetches the frames of a range that are not in memory.
func (f *prefetcher) run(run prefetchRun) error {
	s := f.s
	ctx := s.ctx
	src := s.source(run.r.ID)
	defer src.release()
	h := s.headers.get(run.r)
	for h == nil {
		n := run.n
		if src.local() {
			n = 0
		}
		var err error
		if h, _, err = s.first(ctx, src, run.r, nil, run.off, n); err != nil {
			return err
		}
	}
	i := int(run.off >> h.frameShift)
	last := int((uint64(run.off)+uint64(run.n)-1)>>h.frameShift) + 1
	if src.local() {
		if _, stored := src.(storeSource); !stored || f.advisor == nil {
			return nil
		}
		start, end := h.frames[i].off, h.frames[last-1].end()
		return f.advisor.Advise(ctx, s.key(run.r.ID), int64(start), int64(end-start))
	}
	for i < last {
		if s.cfg.Budget.Pressed() {
			s.stats.prefetchDropped.Add(1)
			return nil
		}
		if s.memory.Has(uint64(h.id), uint32(i)) || s.flights.busy(h.id, i) {
			i++
			continue
		}
		fl, leader := s.flights.begin(h.id, i, s.run(h, i, last))
		if !leader {
			fl.leave(&s.flights)
			i++
			continue
		}
		err := s.fetch(ctx, src, h, i, fl.last, nil, uint32(i)<<h.frameShift, fl)
		i = fl.last
		s.flights.end(ctx, fl, err)
		if err != nil {
			return err
		}
	}
	return nil
}
