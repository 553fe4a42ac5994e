package pebble

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/massif-fs/massif/kv"
)

// errConflict says that a run read something that was written meanwhile.
var errConflict = errors.New("conflict")

const (
	quickRepeats = 3  // repeats without a pause
	slowRepeats  = 7  // repeats before a transaction asks for the turn
	maxRepeats   = 64 // then Update gives up
)

// turnstile lets a transaction through that keeps losing against others. While
// one has the turn, other commits wait for it. They wait a bounded time only: the
// transaction with the turn may itself be waiting for a lock that one of them
// holds.
type turnstile struct {
	sem    chan struct{} // one token: held with the turn
	holder atomic.Pointer[turn]
}

type turn struct {
	done     chan struct{}
	patience atomic.Int64 // how long others wait, a time.Duration
}

// wait passes the time until t, whose run number attempt lost, is repeated.
func (s *turnstile) wait(ctx context.Context, t *txn, attempt int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	switch {
	case attempt < quickRepeats:
		runtime.Gosched()
		return nil
	case attempt < slowRepeats:
		return sleep(ctx, rand.N(50*time.Microsecond<<(attempt-quickRepeats)))
	case attempt >= maxRepeats:
		return fmt.Errorf("%w after %d runs", kv.ErrConflict, attempt+1)
	}
	if t.turn == nil {
		select {
		case s.sem <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		t.turn = &turn{done: make(chan struct{})}
		s.holder.Store(t.turn)
	}
	// A longer function needs more patience of the others.
	t.turn.patience.Store(int64(5 * time.Millisecond << min(attempt-slowRepeats, 7)))
	return nil
}

// yield waits while another transaction has the turn.
func (s *turnstile) yield(ctx context.Context, t *txn) error {
	h := s.holder.Load()
	if h == nil || h == t.turn {
		return nil
	}
	timer := time.NewTimer(time.Duration(h.patience.Load()))
	defer timer.Stop()
	select {
	case <-h.done:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// release gives the turn back.
func (s *turnstile) release(t *txn) {
	if t.turn != nil {
		s.holder.Store(nil)
		close(t.turn.done)
		t.turn = nil
		<-s.sem
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
