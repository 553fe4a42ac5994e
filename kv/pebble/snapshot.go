package pebble

import (
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// snapshots hands out snapshots of the store. To end a snapshot makes Pebble
// look for merges that have become possible, which costs as much as a read; so
// Views between two commits share one.
type snapshots struct {
	db *DB

	mu      sync.Mutex
	current *snapshot   // what the next View may share; it holds a reference
	shared  atomic.Bool // current is set
}

// snapshot is a shared snapshot.
type snapshot struct {
	*pebble.Snapshot
	seq  uint64 // the last commit in it
	refs int    // guarded by snapshots.mu
}

// acquire returns a snapshot with all that is committed.
func (s *snapshots) acquire() *snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.current; c != nil && c.seq == s.db.history.begun.Load() {
		c.refs++
		return c
	}
	s.forget()
	seq := s.db.history.ended.Load()
	c := &snapshot{Snapshot: s.db.p.NewSnapshot(), seq: seq, refs: 1}
	// A snapshot during a commit may or may not contain it, so it is not shared.
	if s.db.history.begun.Load() == seq {
		c.refs++
		s.current = c
		s.shared.Store(true)
	}
	return c
}

// release gives c back.
func (s *snapshots) release(c *snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unref(c)
}

// drop lets go of the shared snapshot after a commit: it would keep old
// versions of keys from being merged away.
func (s *snapshots) drop() {
	if s.shared.Load() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if c := s.current; c != nil && c.seq != s.db.history.begun.Load() {
			s.forget()
		}
	}
}

// close lets go of the shared snapshot for good.
func (s *snapshots) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
}

func (s *snapshots) forget() {
	if c := s.current; c != nil {
		s.current = nil
		s.shared.Store(false)
		s.unref(c)
	}
}

func (s *snapshots) unref(c *snapshot) {
	if c.refs--; c.refs == 0 {
		_ = c.Close() // never fails
	}
}
