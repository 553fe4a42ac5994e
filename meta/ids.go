package meta

import (
	"context"
	"fmt"
	"sync"
	"syscall"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// idSource gives out numbers that are never given out again. It takes them from a
// counter in batches; a batch is durable before its first number is used, because
// what is named by them (a block in the store, an inode that the kernel knows)
// may outlive a crash that takes back the unsynced end of the store. The next
// batch is fetched while the present one is in use.
type idSource struct {
	e     *Engine
	key   []byte
	batch uint64
	limit uint64 // no number is above

	mu          sync.Mutex
	next, end   uint64        // present batch
	next2, end2 uint64        // the batch after it, if it is there already
	fetching    chan struct{} // closed when a fetch under way ends; nil: none is
	err         error         // of the last fetch
}

func newIDSource(e *Engine, counter string, batch, limit uint64) *idSource {
	return &idSource{e: e, key: keyCounter(counter), batch: batch, limit: limit}
}

// take returns the first of n numbers in a row.
func (s *idSource) take(ctx context.Context, n uint64) (uint64, error) {
	if n > s.batch {
		return s.fetch(ctx, n) // a batch of its own
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.end-s.next < n {
		if s.end2 != 0 { // the rest of the old batch, fewer than n, is left unused
			s.next, s.end, s.next2, s.end2 = s.next2, s.end2, 0, 0
			continue
		}
		if s.fetching == nil {
			if s.start(); s.fetching == nil {
				return 0, s.err
			}
		}
		wait := s.fetching
		s.mu.Unlock()
		select {
		case <-wait:
			s.mu.Lock()
			if s.err != nil && s.end2 == 0 {
				return 0, s.err
			}
		case <-ctx.Done():
			s.mu.Lock()
			return 0, ctx.Err()
		}
	}
	first := s.next
	s.next += n
	if s.end-s.next < s.batch/2 && s.end2 == 0 && s.fetching == nil {
		s.start()
	}
	return first, nil
}

// start fetches the batch after the present one. With s.mu held.
func (s *idSource) start() {
	done := make(chan struct{})
	s.fetching, s.err = done, nil
	if !s.e.beginTask() {
		s.fetching, s.err = nil, vfs.WithErrno(syscall.EIO, errClosed)
		close(done)
		return
	}
	go func() {
		defer s.e.tasks.Done()
		first, err := s.fetch(s.e.ctx, s.batch)
		s.mu.Lock()
		if s.err = err; err == nil {
			s.next2, s.end2 = first, first+s.batch
		}
		s.fetching = nil
		close(done)
		s.mu.Unlock()
	}()
}

// fetch takes n numbers from the counter.
func (s *idSource) fetch(ctx context.Context, n uint64) (first uint64, err error) {
	if s.e.readOnly {
		return 0, syscall.EROFS
	}
	err = s.e.db.Update(ctx, func(w kv.Txn) error {
		v := view{r: w}
		have, err := v.counter(s.key)
		if err != nil {
			return err
		}
		if have < 1 {
			return fmt.Errorf("counter %q is %d: %w", s.key, have, kv.ErrCorrupt)
		}
		first = uint64(have)
		if n > s.limit || first > s.limit-n {
			return vfs.WithErrno(syscall.ENOSPC, fmt.Errorf("numbers of counter %q are used up", s.key))
		}
		w.Add(s.key, int64(n))
		return nil
	})
	if err == nil {
		err = s.e.db.Sync(ctx)
	}
	return first, err
}

// giveBack returns what is left to the counter, if nobody has taken more since:
// at a clean end no numbers are lost.
func (s *idSource) giveBack(w kv.Txn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := view{r: w}
	for _, batch := range [][2]uint64{{s.next2, s.end2}, {s.next, s.end}} {
		have, err := v.counter(s.key)
		if err != nil {
			return err
		}
		if batch[1] > batch[0] && uint64(have) == batch[1] {
			w.Add(s.key, -int64(batch[1]-batch[0]))
		}
	}
	return nil
}
