package meta

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/massif-fs/massif/vfs"
)

// A change that is not on stable storage yet must not be seen by others than the
// session that made it: it could be gone after a crash, until that session makes it
// again. So a server has the engine remember which inodes have changed since the last
// Sync, and whose changes these are, and holds answers about them back from everybody
// else.

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
	by       uint64 // the session that made all of them; severalSessions
}

// severalSessions stands for changes of more than one session, or of the engine.
const severalSessions = 1<<64 - 1

// foreign tells whether there are changes that are not durable and not all of session.
func (x *recentChange) foreign(session, durable uint64) bool {
	return (x.underway > 0 || x.sync > durable) && x.by != session
}

func (t *recentTable) shard(ino vfs.Ino) *recentShard {
	return &t.shards[uint64(ino)*0x9e3779b97f4a7c15>>58]
}

// begin notes that a commit of a session which changes ino may become visible.
// foreign: what it changes is not durable, and somebody else's.
func (t *recentTable) begin(ino vfs.Ino, session uint64) (foreign bool) {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = make(map[vfs.Ino]recentChange)
	}
	x, found := s.m[ino]
	if !found {
		t.some.Add(1)
	}
	foreign = x.foreign(session, t.durable.Load())
	if foreign {
		x.by = severalSessions
	} else {
		x.by = session
	}
	x.underway++
	s.m[ino] = x
	return foreign
}

// end is called when the commit is over, with the sync that makes it durable.
func (t *recentTable) end(ino vfs.Ino, sync uint64) {
	s := t.shard(ino)
	s.mu.Lock()
	x := s.m[ino]
	x.underway--
	x.sync = max(x.sync, sync)
	s.m[ino] = x
	s.mu.Unlock()
}

// foreign tells whether ino has changes that are not durable and not all of session.
func (t *recentTable) foreign(ino vfs.Ino, session uint64) bool {
	if t.some.Load() == 0 {
		return false
	}
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	x, found := s.m[ino]
	return found && x.foreign(session, t.durable.Load())
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
// which has returned has told is durable, but for changes that session alone has made.
func (e *Engine) Durable(ino vfs.Ino, session uint64) bool { return !e.recent.foreign(ino, session) }

// AllDurable tells whether all that calls which have returned have told is durable.
func (e *Engine) AllDurable() bool { return e.recent.some.Load() == 0 }

// DurableSync is the last sync (see Replay.Sync) that has been done.
func (e *Engine) DurableSync() uint64 { return e.recent.durable.Load() }

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
		if !n.fresh && !n.removed && n.inode != n.old && n.onlyRead() {
			continue // an access time is nothing that others must not see early
		}
		t.recent = append(t.recent, n.ino)
	}
	for i := range t.changes {
		c := &t.changes[i]
		if c.Ino != 0 && c.Kind != vfs.ChangeAttr {
			t.recent = append(t.recent, c.Ino)
		}
		if c.Parent != 0 {
			t.recent = append(t.recent, c.Parent)
		}
	}
	// What it has read and not changed it depends on, too.
	t.foreign = t.dependsOnOthers()
	id := t.sessionID()
	for _, ino := range t.recent {
		if r.begin(ino, id) {
			t.foreign = true
		}
	}
}

func (t *txn) endRecent() {
	t.synced = t.e.recent.now.Load()
	for _, ino := range t.recent {
		t.e.recent.end(ino, t.synced)
	}
	t.recent = t.recent[:0]
}

// dependsOnOthers tells whether an inode that the transaction has loaded has changes
// of other sessions that are not durable.
func (t *txn) dependsOnOthers() bool {
	id := t.sessionID()
	for _, n := range t.nodes[:t.count] {
		if t.e.recent.foreign(n.ino, id) {
			return true
		}
	}
	return false
}

// sessionID is that of the session whose transaction it is; severalSessions: the
// engine's.
func (t *txn) sessionID() uint64 {
	if t.from == nil {
		return severalSessions
	}
	return t.from.id
}

// tellReplay tells the server of a call what became of it.
func (t *txn) tellReplay(r *Replay, err error) {
	switch {
	case r == nil || t.from == nil:
	case err != nil:
		r.Foreign = r.Foreign || t.lonely || t.dependsOnOthers()
	default:
		r.Foreign = r.Foreign || t.foreign || t.lonely || r.Committed // several transactions are not made again one by one
		r.Committed, r.Stamp, r.Now, r.Sync = true, t.stamp, t.now, t.synced
	}
}
