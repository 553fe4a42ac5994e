package meta

import (
	"slices"
	"sync"

	"github.com/massif-fs/massif/vfs"
)

// useTable counts which sessions use which inodes (Session.Open). It is in memory
// only: when the process ends, all its sessions do.
type useTable struct {
	shards [64]useShard
}

type useShard struct {
	mu sync.Mutex
	m  map[vfs.Ino]*use
}

type use struct {
	// nameless: the inode has lost its last name, or is about to in a transaction
	// that holds its lock. The last Release looks after it then.
	nameless bool
	by       []useCount // one, nearly always
}

type useCount struct {
	session uint64
	n       int
}

func newUseTable() *useTable {
	t := new(useTable)
	for i := range t.shards {
		t.shards[i].m = make(map[vfs.Ino]*use)
	}
	return t
}

func (t *useTable) shard(ino vfs.Ino) *useShard {
	return &t.shards[uint64(ino)*0x9e3779b97f4a7c15>>58]
}

// open counts one more use.
func (t *useTable) open(ino vfs.Ino, session uint64) {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.m[ino]
	if u == nil {
		u = new(use)
		s.m[ino] = u
	}
	for i := range u.by {
		if u.by[i].session == session {
			u.by[i].n++
			return
		}
	}
	u.by = append(u.by, useCount{session, 1})
}

// release counts n uses less (n < 0: all of them) and tells whether the session's
// last use of an inode without a name has ended.
func (t *useTable) release(ino vfs.Ino, session uint64, n int) (reap bool) {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.m[ino]
	if u == nil {
		return false
	}
	i := slices.IndexFunc(u.by, func(c useCount) bool { return c.session == session })
	if i < 0 {
		return false
	}
	if u.by[i].n > n && n >= 0 {
		u.by[i].n -= n
		return false
	}
	u.by = slices.Delete(u.by, i, i+1)
	if len(u.by) == 0 {
		delete(s.m, ino)
	}
	return u.nameless
}

// claim marks an inode as one without a name and returns the sessions that use
// it; if there are none, nothing is marked.
func (t *useTable) claim(ino vfs.Ino) []uint64 {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.m[ino]
	if u == nil {
		return nil
	}
	u.nameless = true
	return u.sessions()
}

// revive takes back claim.
func (t *useTable) revive(ino vfs.Ino) {
	s := t.shard(ino)
	s.mu.Lock()
	if u := s.m[ino]; u != nil {
		u.nameless = false
	}
	s.mu.Unlock()
}

func (u *use) sessions() []uint64 {
	ids := make([]uint64, len(u.by))
	for i := range u.by {
		ids[i] = u.by[i].session
	}
	return ids
}

// usedBy returns the inodes that a session uses.
func (t *useTable) usedBy(session uint64) (list []vfs.Ino) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for ino, u := range s.m {
			if slices.ContainsFunc(u.by, func(c useCount) bool { return c.session == session }) {
				list = append(list, ino)
			}
		}
		s.mu.Unlock()
	}
	return list
}
