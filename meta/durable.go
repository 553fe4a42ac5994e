package meta

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/massif-fs/massif/vfs"
)

// A server that acknowledges changes when they are durable must not let others see
// them earlier: they could be gone after a crash, until the one who made them makes
// them again. So it has the engine remember which inodes have changed since the last
// Sync, and holds answers about them back.

// recentTable knows the inodes whose last change may not be durable yet.
type recentTable struct {
	on      atomic.Bool
	some    atomic.Int64  // entries
	now     atomic.Uint64 // changes that are committed now belong to this sync
	durable atomic.Uint64 // syncs up to this one are done
	shards  [64]recentShard
}

type recentShard struct {
	mu sync.Mutex
	m  map[vfs.Ino]recentChange
}

type recentChange struct {
	underway int32  // transactions between their last look and the end of their commit
	sync     uint64 // that makes the last committed one durable
}

func (t *recentTable) shard(ino vfs.Ino) *recentShard {
	return &t.shards[uint64(ino)*0x9e3779b97f4a7c15>>58]
}

// begin notes that a commit which changes ino may become visible.
func (t *recentTable) begin(ino vfs.Ino) {
	s := t.shard(ino)
	s.mu.Lock()
	if s.m == nil {
		s.m = make(map[vfs.Ino]recentChange)
	}
	x, found := s.m[ino]
	if !found {
		t.some.Add(1)
	}
	x.underway++
	s.m[ino] = x
	s.mu.Unlock()
}

// end is called when the commit is over.
func (t *recentTable) end(ino vfs.Ino) {
	s := t.shard(ino)
	s.mu.Lock()
	x := s.m[ino]
	x.underway--
	x.sync = t.now.Load()
	s.m[ino] = x
	s.mu.Unlock()
}

// sweep forgets what is durable.
func (t *recentTable) sweep() {
	durable := t.durable.Load()
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for ino, x := range s.m {
			if x.underway == 0 && x.sync <= durable {
				delete(s.m, ino)
				t.some.Add(-1)
			}
		}
		s.mu.Unlock()
	}
}

// TrackDurable makes the engine remember what is not durable yet, from now on. Then
// only SyncTracked counts as making it so.
func (e *Engine) TrackDurable() { e.recent.on.Store(true) }

// Durable tells whether the state of an inode, and of the names in it, that a call
// which has returned has told is durable.
func (e *Engine) Durable(ino vfs.Ino) bool {
	t := &e.recent
	if t.some.Load() == 0 {
		return true
	}
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	x, found := s.m[ino]
	return !found || x.underway == 0 && x.sync <= t.durable.Load()
}

// SyncTracked is Sync, after which what was committed before it is Durable. One
// goroutine at a time calls it.
func (e *Engine) SyncTracked(ctx context.Context) error {
	t := &e.recent
	done := t.now.Add(1) - 1
	if err := e.Sync(ctx); err != nil {
		return err
	}
	t.durable.Store(done)
	t.sweep()
	return nil
}

// beginRecent and endRecent are a transaction's part, around its commit.
func (t *txn) beginRecent() {
	r := &t.e.recent
	if !r.on.Load() {
		return
	}
	for _, n := range t.nodes[:t.count] {
		t.recent = append(t.recent, n.ino)
	}
	for i := range t.changes {
		c := &t.changes[i]
		if c.Ino != 0 {
			t.recent = append(t.recent, c.Ino)
		}
		if c.Parent != 0 {
			t.recent = append(t.recent, c.Parent)
		}
	}
	for _, ino := range t.recent {
		r.begin(ino)
	}
}

func (t *txn) endRecent() {
	for _, ino := range t.recent {
		t.e.recent.end(ino)
	}
	t.recent = t.recent[:0]
}
