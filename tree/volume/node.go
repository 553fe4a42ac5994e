package volume

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// node is a regular file in use: open, dirty, or just being looked at.
type node struct {
	ino  vfs.Ino
	refs int // users of this node, guarded by the shard's mu

	// flushMu is held by whoever flushes the node or changes its layout.
	flushMu sync.Mutex

	unlinked atomic.Bool // its last name is gone: no need to flush in a hurry

	mu     sync.RWMutex
	loaded bool
	size   int64
	mtime  vfs.Time // of a write that the metadata do not know yet, or zero

	// A file is small while its content lies whole in small: at most the inline
	// limit, with a hole up to size behind it.
	small      bool
	content    []byte
	smallDirty bool
	smallGen   uint64 // counts changes of content
	hasInline  bool   // the metadata may have inline content

	active, frozen map[uint32]*segments // by chunk; frozen is being flushed and unchanging
	activeBytes    int64                // dirty bytes in active
	activeSpace    int64                // memory of active
	frozenSpace    int64                // memory of frozen
	full           bool                 // a chunk has become dirty from end to end
	sizeDirty      bool                 // the metadata may know a smaller size, though the bytes there are not dirty
	reserved       int64                // bytes of quota claimed for active and content

	layout    map[uint32][]meta.Extent // what the metadata say, as far as asked
	layoutGen uint64                   // counts changes of the layout

	flushErr error // of a background flush; told once to Sync, Flush or WriteAt

	touched bool // atime was looked after

	sharedNode // on volumes that others change, too (shared.go)

	// Place in FS.dirtyNodes (nil: none), guarded by FS.dirtyMu.
	place      *list.Element
	dirtySince time.Time
}

// shard is a part of the table of nodes.
type shard struct {
	mu    sync.RWMutex
	nodes map[vfs.Ino]*node
	idle  idleNodes
}

func (fs *FS) shard(ino vfs.Ino) *shard { return &fs.shards[uint64(ino)%uint64(len(fs.shards))] }

// use returns the node of an inode and counts the caller as its user. It makes one
// if need be; it does not look whether there is such an inode.
func (fs *FS) use(ino vfs.Ino) *node {
	s := fs.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[ino]
	if n == nil {
		n = &node{ino: ino}
		s.nodes[ino] = n
	}
	s.wake(n)
	n.refs++
	return n
}

// peek returns the node of an inode if there is one, without counting; the caller
// must not write through it.
func (fs *FS) peek(ino vfs.Ino) *node {
	s := fs.shard(ino)
	s.mu.RLock()
	n := s.nodes[ino]
	s.mu.RUnlock()
	return n
}

// useIfPresent is use without making a node.
func (fs *FS) useIfPresent(ino vfs.Ino) *node {
	s := fs.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[ino]
	if n != nil {
		s.wake(n)
		n.refs++
	}
	return n
}

// drop ends a use of n.
func (fs *FS) drop(n *node) {
	s := fs.shard(n.ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.refs--; n.refs > 0 {
		return
	}
	if fs.leased != nil && n.worthKeeping() {
		for _, old := range s.rest(n) {
			fs.remove(s, old)
		}
		return
	}
	fs.remove(s, n)
}

// remove takes a node that nobody uses out of the table. s.mu is held.
func (fs *FS) remove(s *shard, n *node) {
	delete(s.nodes, n.ino)
	for index := range n.layout {
		fs.layoutSize.Add(-int64(n.weight(index)))
	}
}

// load fills in what the metadata know. n.mu is held for writing.
func (fs *FS) load(ctx context.Context, n *node) error {
	if fs.shared {
		return fs.loadShared(ctx, n)
	}
	if n.loaded {
		return nil
	}
	var a vfs.Attr
	if err := fs.sess.GetAttr(ctx, nil, n.ino, &a); err != nil {
		return err
	}
	if a.IsDir() {
		return syscall.EISDIR
	}
	if !a.IsRegular() {
		return syscall.EINVAL
	}
	n.size = int64(a.Size)
	n.small, n.content, n.hasInline = false, nil, false
	if mayBeInline(&a) {
		data, ok, err := fs.sess.Inline(ctx, n.ino)
		if err != nil {
			return err
		}
		// Without blocks and inline content the file is a hole: it may become
		// small. The content is copied: the engine may share it.
		if ok || a.Blocks == 0 {
			n.small, n.hasInline = true, ok
			n.content = append([]byte(nil), data...)
		}
	}
	n.touched = fs.cfg.NoAtime || fs.cfg.ReadOnly || !staleAtime(&a)
	n.loaded, n.kept = true, true
	return nil
}

// mayBeInline tells whether a file may have inline content: it counts as allocated, and
// there is not much of it, however great the size is (a hole may follow).
func mayBeInline(a *vfs.Attr) bool { return a.Blocks <= (meta.MaxInlineLimit+511)/512 }

// staleAtime is the rule of relatime.
func staleAtime(a *vfs.Attr) bool {
	return !a.Mtime.Before(a.Atime) || !a.Ctime.Before(a.Atime) || time.Since(a.Atime.Time()) > 24*time.Hour
}

// isDirty tells whether a flush has work to do: data, a size, or inline content that has
// to give way to chunks. n.mu is held.
func (n *node) isDirty() bool {
	return n.activeBytes > 0 || n.smallDirty || n.sizeDirty || len(n.frozen) > 0 || n.hasInline && (!n.small || n.toChunks)
}

// forgetLayout drops what is known of the extents. n.mu is held for writing.
func (fs *FS) forgetLayout(n *node) {
	for index := range n.layout {
		fs.forgetChunk(n, index)
	}
	n.layout = nil
	n.layoutGen++
}

// forgetChunk is forgetLayout for one chunk.
func (fs *FS) forgetChunk(n *node, index uint32) {
	fs.layoutSize.Add(-int64(n.weight(index)))
	delete(n.layout, index)
	n.layoutGen++
}

// weight is what a remembered chunk counts in layoutSize.
func (n *node) weight(index uint32) int {
	if extents, ok := n.layout[index]; ok {
		return len(extents) + 1
	}
	return 0
}

// takeError returns the error of a background flush that nobody was told yet.
// n.mu is held for writing.
func (n *node) takeError() error {
	err := n.flushErr
	n.flushErr = nil
	return err
}

// FS.dirtyNodes lists the dirty nodes in order of dirtySince. Being in it counts as
// a use of the node.

// markDirty puts n into the list of dirty nodes; the caller is a user of n.
func (fs *FS) markDirty(n *node) {
	fs.dirtyMu.Lock()
	defer fs.dirtyMu.Unlock()
	if n.place == nil {
		fs.use(n.ino) // the list's own use; n exists, so this is n
		n.place, n.dirtySince = fs.dirtyNodes.PushBack(n), time.Now()
	}
}

// unmarkDirty takes n out of the list if it is clean, or else counts its age
// from now. The caller holds n.mu, has just flushed or cut n, and is a user of it.
func (fs *FS) unmarkDirty(n *node) {
	fs.dirtyMu.Lock()
	if n.place == nil {
		fs.dirtyMu.Unlock()
		return
	}
	if n.isDirty() {
		n.dirtySince = time.Now()
		fs.dirtyNodes.MoveToBack(n.place)
		fs.dirtyMu.Unlock()
		return
	}
	fs.dirtyNodes.Remove(n.place)
	n.place = nil
	fs.dirtyMu.Unlock()
	fs.drop(n)
}
