package fuse

import (
	"context"
	"sync"

	"github.com/massif-fs/massif/vfs"
)

// node is an inode that is in use: by a message in progress, by a File that the
// door keeps open (stateless mounts), or by handles that are passed through. It
// lives in its shard of the nodeTable, whose lock guards it.
type node struct {
	ino   uint64
	users int // calls in progress and handles that hold the node
	// forgotten: the kernel knew the inode and has forgotten it. A node that it was
	// not told of by this process may still be known from a predecessor.
	forgotten bool

	opening    sync.Mutex // one OpenInode at a time; guards the fields of backing.go
	file       vfs.File
	prev, next *node

	// How the handles of this inode do their I/O: all in one way (see backing.go).
	handles int // open handles
	backing *backing
}

func (s *nodeShard) get(ino uint64) *node {
	n := s.nodes[ino]
	if n == nil {
		n = &node{ino: ino}
		s.nodes[ino] = n
	}
	return n
}

// drop removes a node that nobody uses; it returns the File to close.
func (s *nodeShard) drop(n *node) (closing vfs.File) {
	if n.users > 0 {
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

// acquire returns a node with the door's own File of an inode (stateless mounts),
// which stays open until release.
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

// hold keeps a node without opening a File, until release.
func (t *nodeTable) hold(ino uint64) *node {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.get(ino)
	n.users++
	return n
}

// release ends an acquire or a hold.
func (t *nodeTable) release(n *node) {
	s := t.shard(n.ino)
	s.mu.Lock()
	n.users--
	var closing vfs.File
	if n.users == 0 {
		if n.forgotten || n.file == nil {
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

// inUse counts the nodes.
func (t *nodeTable) inUse() (count int) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		count += len(s.nodes)
		s.mu.Unlock()
	}
	return count
}

// The list of nodes with an open File of a shard.

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
			return s.drop(n)
		}
	}
	return nil
}
