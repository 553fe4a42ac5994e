package meta

import (
	"slices"
	"sync"

	"github.com/massif-fs/massif/vfs"
)

// useTable counts which sessions use which inodes (Session.Open). It is in memory
// only: when the process ends, all its sessions do. Under a kernel it has an entry
// for each inode that the kernel knows, so entries are small.
type useTable struct {
	shards [64]useShard
}

type useShard struct {
	mu sync.Mutex
	m  map[vfs.Ino]use
}

type use struct {
	useCount
	others *[]useCount // of other sessions; nil: there are none, as nearly always
}

type useCount struct {
	session uint64
	n       int32
	// nameless, in the first count: the inode has lost its last name, or is about to
	// in a transaction that holds its lock. The last Release looks after it then.
	nameless bool
}

func newUseTable() *useTable {
	t := new(useTable)
	for i := range t.shards {
		t.shards[i].m = make(map[vfs.Ino]use)
	}
	return t
}

func (t *useTable) shard(ino vfs.Ino) *useShard {
	return &t.shards[uint64(ino)*0x9e3779b97f4a7c15>>58]
}

// open counts one more use by a session, unless it has ended: whoever has marked it as
// closed finds all its uses with usedBy, and none is added after that.
func (t *useTable) open(ino vfs.Ino, by *session) {
	session := by.id
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if by.closed.Load() {
		return
	}
	u, found := s.m[ino]
	switch i := u.find(session); {
	case !found:
		u.useCount = useCount{session: session, n: 1}
	case i == 0:
		u.n++
	case i > 0:
		(*u.others)[i-1].n++
	case u.others == nil:
		u.others = &[]useCount{{session: session, n: 1}}
	default:
		*u.others = append(*u.others, useCount{session: session, n: 1})
	}
	s.m[ino] = u
}

// find returns which of the counts is a session's; -1: none.
func (u *use) find(session uint64) int {
	switch {
	case u.n > 0 && u.session == session:
		return 0
	case u.others == nil:
		return -1
	}
	i := slices.IndexFunc(*u.others, func(c useCount) bool { return c.session == session })
	if i < 0 {
		return -1
	}
	return i + 1
}

// release counts n uses less (n < 0: all of them) and tells whether the session's
// last use of an inode without a name has ended.
func (t *useTable) release(ino vfs.Ino, session uint64, n int) (reap bool) {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	u, found := s.m[ino]
	i := u.find(session)
	if !found || i < 0 {
		return false
	}
	c := &u.useCount
	if i > 0 {
		c = &(*u.others)[i-1]
	}
	if n >= 0 && int(c.n) > n {
		c.n -= int32(n)
		s.m[ino] = u
		return false
	}
	nameless := u.nameless
	switch {
	case u.others == nil:
		delete(s.m, ino)
		return nameless
	case i == 0: // one of the others takes the first place
		last := len(*u.others) - 1
		u.useCount = (*u.others)[last]
		u.nameless = nameless
		*u.others = (*u.others)[:last]
	default:
		*u.others = slices.Delete(*u.others, i-1, i)
	}
	if len(*u.others) == 0 {
		u.others = nil
	}
	s.m[ino] = u
	return nameless
}

// claim marks an inode as one without a name and returns the sessions that use
// it; if there are none, nothing is marked.
func (t *useTable) claim(ino vfs.Ino) []uint64 {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	u, found := s.m[ino]
	if !found {
		return nil
	}
	u.nameless = true
	s.m[ino] = u
	ids := []uint64{u.session}
	if u.others != nil {
		for _, c := range *u.others {
			ids = append(ids, c.session)
		}
	}
	return ids
}

// revive takes back claim.
func (t *useTable) revive(ino vfs.Ino) {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if u, found := s.m[ino]; found {
		u.nameless = false
		s.m[ino] = u
	}
}

// usedBy returns the inodes that a session uses.
func (t *useTable) usedBy(session uint64) (list []vfs.Ino) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for ino, u := range s.m {
			if u.find(session) >= 0 {
				list = append(list, ino)
			}
		}
		s.mu.Unlock()
	}
	return list
}
