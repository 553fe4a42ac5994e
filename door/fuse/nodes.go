package fuse

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/massif-fs/massif/vfs"
)

// nodeTable knows which inodes the kernel knows: how often it was told of each
// (nlookup), so that the tree's Pin and Unpin are called when the first telling
// is made and the last one forgotten. The kernel may know millions, so this takes
// a few words each. What is in use besides is a node (see inuse.go).
//
// Sharded by inode number; a shard's lock is held while Pin and Unpin are
// called, which orders them, and never during other calls of the tree.
type nodeTable struct {
	pin    vfs.Pinner // may be nil
	open   func(ctx context.Context, ino vfs.Ino) (vfs.File, error)
	limit  int // open Files a shard may keep
	shards [nodeShards]nodeShard
	total  atomic.Int64      // inodes the kernel knows
	files  atomic.Int64      // open Files
	grown  func(total int64) // told of each new inode; may be nil
}

const nodeShards = 128

type nodeShard struct {
	mu    sync.Mutex
	told  map[uint64]told
	nodes map[uint64]*node
	// Nodes with an open File in order of use, most recent first.
	head, tail *node
	open       int
	_          [64]byte
}

// told is what the door remembers of an inode that the kernel knows:
//
//	bits 63–16  how often the kernel was told
//	bits 15–1   changes of the mode, modulo 2^15
//	bit 0       plain: the inode was seen without set-id bits, and its mode has
//	            not been set since. Trusted on exclusive trees, and while there is
//	            a lease.
type told uint64

const (
	toldOnce  told = 1 << 16
	toldMode  told = 1 << 1
	toldModes told = 1<<16 - toldMode
	toldPlain told = 1
)

func (t told) count() uint64 { return uint64(t >> 16) }

func (t *nodeTable) init(pin vfs.Pinner, limit int, open func(context.Context, vfs.Ino) (vfs.File, error)) {
	t.pin, t.open = pin, open
	t.limit = max(limit/nodeShards, 1)
	for i := range t.shards {
		t.shards[i].told = make(map[uint64]told)
		t.shards[i].nodes = make(map[uint64]*node)
	}
}

func (t *nodeTable) shard(ino uint64) *nodeShard {
	return &t.shards[(ino*0x9e3779b97f4a7c15)>>57]
}

// learn counts that the kernel is told of an inode.
func (t *nodeTable) learn(ino uint64) {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.told[ino]
	s.told[ino] = k + toldOnce
	if k.count() > 0 {
		return
	}
	if total := t.total.Add(1); t.grown != nil {
		t.grown(total)
	}
	if n := s.nodes[ino]; n != nil {
		n.forgotten = false
	}
	if t.pin != nil {
		t.pin.Pin(vfs.Ino(ino))
	}
}

// forget takes back count tellings. More than were counted are taken for all: a
// successor process starts without the counts of its predecessor.
func (t *nodeTable) forget(ino, count uint64) {
	s := t.shard(ino)
	closing := t.forgetLocked(s, ino, count)
	if closing != nil {
		t.close(closing)
	}
}

func (t *nodeTable) forgetLocked(s *nodeShard, ino, count uint64) (closing vfs.File) {
	s.mu.Lock()
	defer s.mu.Unlock() // also if Unpin panics
	k, known := s.told[ino]
	if known && count < k.count() {
		s.told[ino] = k - told(count)*toldOnce
		return nil
	}
	if n := s.nodes[ino]; n != nil {
		n.forgotten = true
		closing = s.drop(n)
	}
	if known {
		delete(s.told, ino)
		t.total.Add(-1)
		if t.pin != nil {
			t.pin.Unpin(vfs.Ino(ino))
		}
	}
	return closing
}

// known tells whether the kernel may know an inode.
func (t *nodeTable) known(ino uint64) bool {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.told[ino]
	return ok
}

// inos calls fn with every inode the kernel may know, until it returns false.
func (t *nodeTable) inos(fn func(ino uint64) bool) {
	var list []uint64
	for i := range t.shards {
		s := &t.shards[i]
		list = list[:0]
		s.mu.Lock()
		for ino := range s.told {
			list = append(list, ino)
		}
		s.mu.Unlock()
		for _, ino := range list {
			if !fn(ino) {
				return
			}
		}
	}
}

// forgetAll closes all Files and unpins all inodes, when the kernel is gone.
func (t *nodeTable) forgetAll() {
	for i := range t.shards {
		s := &t.shards[i]
		var files []vfs.File
		s.mu.Lock()
		for _, n := range s.nodes {
			if n.file != nil {
				files = append(files, n.file)
				s.unlinkFile(n)
			}
		}
		clear(s.nodes)
		pinned := s.told
		s.told = make(map[uint64]told)
		s.mu.Unlock()
		for _, f := range files {
			t.close(f)
		}
		t.total.Add(-int64(len(pinned)))
		if t.pin != nil {
			for ino := range pinned {
				t.pin.Unpin(vfs.Ino(ino))
			}
		}
	}
}

// modeChange notes that an inode's mode may be another from now on.
func (t *nodeTable) modeChange(ino uint64) {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, ok := s.told[ino]; ok {
		s.told[ino] = k&^(toldModes|toldPlain) | (k+toldMode)&toldModes
	}
}

// modes counts the changes of an inode's mode; setPlain takes the count.
func (t *nodeTable) modes(ino uint64) told {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told[ino] & toldModes
}

// setPlain notes that an inode was seen without set-id bits, unless its mode has
// been changed since modes was asked.
func (t *nodeTable) setPlain(ino uint64, modes told) {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, ok := s.told[ino]; ok && k&toldModes == modes {
		s.told[ino] = k | toldPlain
	}
}

func (t *nodeTable) isPlain(ino uint64) bool {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told[ino]&toldPlain != 0
}
