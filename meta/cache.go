package meta

import (
	"sync"
	"sync/atomic"

	"github.com/massif-fs/massif/vfs"
)

// attrCache keeps decoded attribute records. It never gives an older state than
// what any call that has returned has seen: a transaction takes the inodes that it
// changes out before its commit and marks their shards busy, so that nobody puts
// an old state back, and puts the new states in after it.
type attrCache struct {
	turns  atomic.Uint64 // counts begin and end
	shards [cacheShards]cacheShard
	each   int // entries of a shard
}

const cacheShards = 64

type cacheShard struct {
	mu    sync.Mutex
	busy  int    // commits under way that change inodes of this shard
	turn  uint64 // when one began or ended last
	index map[vfs.Ino]int32
	slots []cacheSlot
	free  []int32
	hand  int
	_     [32]byte // shards on cache lines of their own
}

type cacheSlot struct {
	ino  vfs.Ino // 0: empty
	used bool
	node inode
}

func newAttrCache(entries int) *attrCache {
	c := &attrCache{each: max(entries/cacheShards, 1)}
	for i := range c.shards {
		c.shards[i].index = make(map[vfs.Ino]int32)
	}
	return c
}

func (c *attrCache) shard(ino vfs.Ino) *cacheShard {
	return &c.shards[uint64(ino)*0x9e3779b97f4a7c15>>58]
}

// now returns the turn that fill wants. It is taken before the state is read from
// which the cache is filled.
func (c *attrCache) now() uint64 { return c.turns.Load() }

// get finds an inode.
func (c *attrCache) get(ino vfs.Ino, n *inode) bool {
	s := c.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	i, found := s.index[ino]
	if found {
		s.slots[i].used = true
		*n = s.slots[i].node
	}
	return found
}

// peek is get for callers that will not fill, and that see many inodes once.
func (c *attrCache) peek(ino vfs.Ino, n *inode) bool {
	s := c.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	i, found := s.index[ino]
	if found {
		*n = s.slots[i].node
	}
	return found
}

// fill puts in what was read since turn, if nothing was committed meanwhile.
func (c *attrCache) fill(ino vfs.Ino, n *inode, turn uint64) {
	s := c.shard(ino)
	s.mu.Lock()
	if s.busy == 0 && s.turn <= turn {
		s.put(c.each, ino, n)
	}
	s.mu.Unlock()
}

// begin is called before the commit of a change of ino.
func (c *attrCache) begin(ino vfs.Ino) {
	s := c.shard(ino)
	s.mu.Lock()
	s.busy++
	s.turn = c.turns.Add(1)
	s.drop(ino)
	s.mu.Unlock()
}

// end is called after it, with the new state, or nil if there is none or nothing
// was committed. Calls of the same inode are in the order of their commits.
func (c *attrCache) end(ino vfs.Ino, n *inode) {
	s := c.shard(ino)
	s.mu.Lock()
	s.busy--
	s.turn = c.turns.Add(1)
	if n != nil {
		s.put(c.each, ino, n)
	}
	s.mu.Unlock()
}

func (s *cacheShard) drop(ino vfs.Ino) {
	if i, found := s.index[ino]; found {
		delete(s.index, ino)
		s.slots[i].ino = 0
		s.free = append(s.free, i)
	}
}

func (s *cacheShard) put(limit int, ino vfs.Ino, n *inode) {
	if i, found := s.index[ino]; found {
		s.slots[i].node = *n
		return
	}
	var i int32
	switch {
	case len(s.free) > 0:
		i = s.free[len(s.free)-1]
		s.free = s.free[:len(s.free)-1]
	case len(s.slots) < limit:
		i = int32(len(s.slots))
		s.slots = append(s.slots, cacheSlot{})
	default: // the clock: the first that was not used since the hand passed
		for s.slots[s.hand].used {
			s.slots[s.hand].used = false
			s.hand = (s.hand + 1) % len(s.slots)
		}
		i = int32(s.hand)
		s.hand = (s.hand + 1) % len(s.slots)
		delete(s.index, s.slots[i].ino)
	}
	s.slots[i] = cacheSlot{ino: ino, node: *n}
	s.index[ino] = i
}
