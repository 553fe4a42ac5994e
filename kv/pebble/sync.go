package pebble

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/massif-fs/massif/kv"
)

// syncer serves Sync: the log is flushed once for all callers that came while the
// flush before was running. A caller who finds no flush running does it himself,
// which spares waking another goroutine twice; those who came meanwhile are served
// by a goroutine.
type syncer struct {
	db      *DB
	durable atomic.Uint64 // the last commit known to be on stable storage

	mu      sync.Mutex
	busy    bool   // a flush is running
	next    *flush // what callers join; nil if none waits
	wake    chan struct{}
	quit    chan struct{}
	done    chan struct{}
	started bool
}

// flush is one flush of the log, and those who wait for it.
type flush struct {
	done chan struct{}
	err  error // read after done is closed
}

func (s *syncer) init(db *DB) {
	s.db = db
	s.wake = make(chan struct{}, 1)
	s.quit = make(chan struct{})
	s.done = make(chan struct{})
}

func (s *syncer) start() {
	s.started = true
	go s.run()
}

// stop ends the goroutine. No caller may be waiting.
func (s *syncer) stop() {
	close(s.quit)
	if s.started {
		<-s.done
	}
}

func (s *syncer) run() {
	defer close(s.done)
	for {
		select {
		case <-s.wake:
		case <-s.quit:
			return
		}
		s.mu.Lock()
		f := s.next
		if s.busy || f == nil {
			s.mu.Unlock()
			continue // whoever is flushing wakes again
		}
		s.next, s.busy = nil, true
		s.mu.Unlock()
		f.err = s.flush()
		close(f.done)
		s.finish()
	}
}

// finish ends the flush that was running.
func (s *syncer) finish() {
	s.mu.Lock()
	s.busy = false
	if s.next != nil {
		s.wakeUp()
	}
	s.mu.Unlock()
}

func (s *syncer) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// flush makes every commit so far durable.
func (s *syncer) flush() error {
	if err := s.db.failure(); err != nil {
		return err
	}
	upTo := s.db.history.ended.Load()
	if upTo <= s.durable.Load() {
		return nil
	}
	// An empty record with a flush behind it: the log is written in order.
	b := s.db.p.NewBatch()
	if err := b.LogData(nil, nil); err != nil {
		return fmt.Errorf("flush database %s: %w", s.db.dir, err)
	}
	if err := s.db.p.ApplyNoSyncWait(b, pebble.Sync); err != nil {
		return fmt.Errorf("flush database %s: %w", s.db.dir, err)
	}
	if err := b.SyncWait(); err != nil {
		s.db.fail("flush log", err)
	}
	if err := b.Close(); err != nil {
		s.db.fail("flush log", err)
	}
	s.db.syncs.Add(1)
	if err := s.db.failure(); err != nil {
		return err
	}
	s.durable.Store(upTo)
	return nil
}

// Sync implements kv.DB.
func (db *DB) Sync(ctx context.Context) error {
	if !db.calls.enter() {
		return kv.ErrClosed
	}
	defer db.calls.leave()
	if err := db.failure(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s := &db.sync
	if db.options.ReadOnly || db.history.ended.Load() <= s.durable.Load() {
		return nil
	}
	s.mu.Lock()
	f := s.next
	if f == nil && !s.busy {
		// A flush cannot be left in the middle, so only for those who have time.
		if _, hurry := ctx.Deadline(); !hurry {
			s.busy = true
			s.mu.Unlock()
			err := s.flush()
			s.finish()
			return err
		}
	}
	if f == nil {
		f = &flush{done: make(chan struct{})}
		s.next = f
		if !s.busy {
			s.wakeUp()
		}
	}
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}
