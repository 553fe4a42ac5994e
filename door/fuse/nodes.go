package fuse

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/massif-fs/massif/vfs"
)

// nodeTable knows which inodes the kernel knows: how often it was told of each
// (nlookup), so that the tree's Pin and Unpin are called when the first telling
// is made and the last one forgotten. On stateless mounts it also holds the
// Files that the door opened by inode number; for passthrough, what backs an inode.
//
// Sharded by inode number; a shard's lock is held while Pin and Unpin are
// called, which orders them, and never during other calls of the tree.
type nodeTable struct {
	pin    vfs.Pinner // may be nil
	open   func(ctx context.Context, ino vfs.Ino) (vfs.File, error)
	limit  int // open Files a shard may keep
	shards [nodeShards]nodeShard
	files  atomic.Int64
}

const nodeShards = 128

type nodeShard struct {
	mu    sync.Mutex
	nodes map[uint64]*node
	// Open Files in order of use, most recent first.
	head, tail *node
	open       int
	_          [64]byte
}

// node is an inode that the kernel knows or that is in use.
type node struct {
	ino     uint64
	nlookup uint64
	users   int // calls in progress that hold the node
	// learnt: this process has told the kernel of the inode. Where it has not, a
	// predecessor did, and the kernel may use the inode at any time.
	learnt bool

	opening    sync.Mutex // one OpenInode at a time
	file       vfs.File
	prev, next *node

	// plain: the door has seen that no set-id bits are there, and nobody has set
	// the mode since. Trusted on exclusive trees only.
	plain bool
	modes uint32 // changes of the mode

	// How the handles of this inode do their I/O: all in one way (see backing.go).
	handles int // open handles
	backing *backing
}

func (t *nodeTable) init(pin vfs.Pinner, limit int, open func(context.Context, vfs.Ino) (vfs.File, error)) {
	t.pin, t.open = pin, open
	t.limit = max(limit/nodeShards, 1)
	for i := range t.shards {
		t.shards[i].nodes = make(map[uint64]*node)
	}
}

func (t *nodeTable) shard(ino uint64) *nodeShard {
	return &t.shards[(ino*0x9e3779b97f4a7c15)>>57]
}

func (s *nodeShard) get(ino uint64) *node {
	n := s.nodes[ino]
	if n == nil {
		n = &node{ino: ino}
		s.nodes[ino] = n
	}
	return n
}

// learn counts that the kernel is told of an inode.
func (t *nodeTable) learn(ino uint64) {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.get(ino)
	n.nlookup++
	n.learnt = true
	if n.nlookup == 1 && t.pin != nil {
		t.pin.Pin(vfs.Ino(ino))
	}
}

// forget takes back count tellings. More than were counted are taken for all: a
// successor process starts without the counts of its predecessor.
func (t *nodeTable) forget(ino, count uint64) {
	s := t.shard(ino)
	s.mu.Lock()
	n := s.nodes[ino]
	if n == nil {
		s.mu.Unlock()
		return
	}
	had := n.nlookup
	n.nlookup -= min(count, had)
	var closing vfs.File
	if n.nlookup == 0 {
		closing = s.drop(n)
		if had > 0 && t.pin != nil {
			t.unpinLocked(s, ino)
		}
	}
	s.mu.Unlock()
	if closing != nil {
		t.close(closing)
	}
}

// unpinLocked calls Unpin under the shard's lock, which a panic of the tree must
// not leave locked.
func (t *nodeTable) unpinLocked(s *nodeShard, ino uint64) {
	defer func() {
		if p := recover(); p != nil {
			s.mu.Unlock()
			panic(p)
		}
	}()
	t.pin.Unpin(vfs.Ino(ino))
}

// drop removes a node that nobody needs; it returns the File to close.
func (s *nodeShard) drop(n *node) (closing vfs.File) {
	if n.nlookup > 0 || n.users > 0 || n.handles > 0 {
		return nil
	}
	if n.file != nil {
		closing = n.file
		s.unlinkFile(n)
	}
	delete(s.nodes, n.ino)
	return closing
}

func (t *nodeTable) close(f vfs.File) {
	t.files.Add(-1)
	f.Close() // an OpenInode File: Close has nothing to report
}

// acquire returns the door's own File of an inode (stateless mounts), which
// stays open until release.
func (t *nodeTable) acquire(ctx context.Context, ino uint64) (*node, error) {
	s := t.shard(ino)
	s.mu.Lock()
	n := s.get(ino)
	n.users++
	if n.file != nil {
		s.touch(n)
		s.mu.Unlock()
		return n, nil
	}
	s.mu.Unlock()
	if err := t.openNode(ctx, s, n); err != nil {
		t.release(n)
		return nil, err
	}
	return n, nil
}

func (t *nodeTable) openNode(ctx context.Context, s *nodeShard, n *node) error {
	n.opening.Lock()
	defer n.opening.Unlock()
	s.mu.Lock()
	have := n.file != nil
	s.mu.Unlock()
	if have {
		return nil
	}
	f, err := t.open(ctx, vfs.Ino(n.ino))
	if err != nil {
		return err
	}
	t.files.Add(1)
	s.mu.Lock()
	n.file = f
	s.push(n)
	s.open++
	victim := s.evict(t.limit)
	s.mu.Unlock()
	if victim != nil {
		t.close(victim)
	}
	return nil
}

// release ends an acquire or a hold.
func (t *nodeTable) release(n *node) {
	s := t.shard(n.ino)
	s.mu.Lock()
	n.users--
	var closing vfs.File
	if n.users == 0 {
		if n.nlookup == 0 && (n.learnt || n.file == nil) {
			closing = s.drop(n)
		} else {
			closing = s.evict(t.limit)
		}
	}
	s.mu.Unlock()
	if closing != nil {
		t.close(closing)
	}
}

// hold keeps a node in the table without opening a File.
func (t *nodeTable) hold(ino uint64) *node {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.get(ino)
	n.users++
	return n
}

// known tells whether the kernel may know an inode.
func (t *nodeTable) known(ino uint64) bool {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[ino]
	return n != nil && n.nlookup > 0
}

// inos calls fn with every inode the kernel may know.
func (t *nodeTable) inos(fn func(ino uint64)) {
	var list []uint64
	for i := range t.shards {
		s := &t.shards[i]
		list = list[:0]
		s.mu.Lock()
		for ino, n := range s.nodes {
			if n.nlookup > 0 {
				list = append(list, ino)
			}
		}
		s.mu.Unlock()
		for _, ino := range list {
			fn(ino)
		}
	}
}

func (t *nodeTable) count() (nodes int) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		nodes += len(s.nodes)
		s.mu.Unlock()
	}
	return nodes
}

// forgetAll closes all Files and unpins all inodes, when the kernel is gone.
func (t *nodeTable) forgetAll() {
	for i := range t.shards {
		s := &t.shards[i]
		var files []vfs.File
		var pinned []uint64
		s.mu.Lock()
		for ino, n := range s.nodes {
			if n.file != nil {
				files = append(files, n.file)
				s.unlinkFile(n)
			}
			if n.nlookup > 0 {
				pinned = append(pinned, ino)
			}
		}
		clear(s.nodes)
		s.mu.Unlock()
		for _, f := range files {
			t.close(f)
		}
		if t.pin != nil {
			for _, ino := range pinned {
				t.pin.Unpin(vfs.Ino(ino))
			}
		}
	}
}

// The list of open Files of a shard.

func (s *nodeShard) push(n *node) {
	n.prev, n.next = nil, s.head
	if s.head != nil {
		s.head.prev = n
	}
	s.head = n
	if s.tail == nil {
		s.tail = n
	}
}

func (s *nodeShard) remove(n *node) {
	if n.prev != nil {
		n.prev.next = n.next
	} else {
		s.head = n.next
	}
	if n.next != nil {
		n.next.prev = n.prev
	} else {
		s.tail = n.prev
	}
	n.prev, n.next = nil, nil
}

func (s *nodeShard) touch(n *node) {
	if s.head != n {
		s.remove(n)
		s.push(n)
	}
}

func (s *nodeShard) unlinkFile(n *node) {
	n.file = nil
	s.remove(n)
	s.open--
}

// evict takes the least recently used File that is not in use away from its
// node, if there are more than limit.
func (s *nodeShard) evict(limit int) vfs.File {
	if s.open <= limit {
		return nil
	}
	for n := s.tail; n != nil; n = n.prev {
		if n.users == 0 {
			f := n.file
			s.unlinkFile(n)
			if n.nlookup == 0 {
				s.drop(n)
			}
			return f
		}
	}
	return nil
}

// modeChange notes that an inode's mode may be another from now on.
func (t *nodeTable) modeChange(ino uint64) {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nodes[ino]; n != nil {
		n.plain = false
		n.modes++
	}
}

// modes counts the changes of an inode's mode; setPlain takes the count.
func (t *nodeTable) modes(ino uint64) uint32 {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nodes[ino]; n != nil {
		return n.modes
	}
	return 0
}

// setPlain notes that an inode was seen without set-id bits, unless its mode has
// been changed since modes was asked.
func (t *nodeTable) setPlain(ino uint64, modes uint32) {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nodes[ino]; n != nil && n.modes == modes {
		n.plain = true
	}
}

func (t *nodeTable) isPlain(ino uint64) bool {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[ino]
	return n != nil && n.plain
}
