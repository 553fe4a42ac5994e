package volume

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// Shared volumes
//
// On a volume that other mounts change, too (Config.Exclusive is not set), a node has
// two layers: its base, which is what the metadata say (size, inline content, extents),
// and above it the dirty segments of this mount. The base can be dropped and asked for
// again at any time, in the middle of a flush, too; nothing that is dirty is ever
// merged into it but by a commit. So a recall never waits for I/O and nothing that this
// mount has written is lost by one. doc/consistency.md has the whole story.
//
// A base is kept while the session holds the leases it was got under. Recalls count in
// node.recalled without any lock, because who holds node.mu may be waiting for
// the metadata server; everybody who uses a base compares the count first. A base
// without leases serves the operations that began before it was asked for.
//
// Two rules keep mounts from waiting for each other in a circle: nobody holds node.mu
// while a call of the session changes something, and reads never wait for node.flushMu
// or for such calls. (The kernel drops pages for a recall only when the reads and
// writes of these pages have been answered.)

// sharedNode is what a node has in addition on a shared volume. All but recalled and
// lost is guarded by node.mu.
type sharedNode struct {
	recalled atomic.Uint64 // recalls of what the base consists of

	lostMu sync.Mutex
	lost   span // the part of the extents that was recalled and is not dropped yet

	kept     bool     // the base holds while recalled is keptAt
	keptAt   uint64   //
	loadedAt uint64   // place in FS.ops of the last load: operations before it may use the base
	loads    uint64   // counts loads
	ctime    vfs.Time // as the last load found it
	loose    bool     // some extents were got without a lease

	base     int64 // size, bytes
	based    bool  // the base's bytes are in content (inline, or none), not in extents
	dirtyEnd int64 // where the dirty bytes end

	// toChunks: a flush moves inline content to chunks, because an operation needs it
	// there. Set by who holds flushMu.
	toChunks bool

	// An append goes to the end of the file wherever that is when it is committed:
	// while appending, dirty bytes from appendAt on, the base's size at that time, are
	// such.
	appending bool
	appendAt  int64

	atime vfs.Time // of a read that the metadata do not know of yet, or zero

	// Nodes that nobody uses but that may be used again, in order of use.
	prevIdle, nextIdle *node
	isIdle             bool
}

// span is a range of bytes; to is not in it. from >= to: nothing.
type span struct{ from, to int64 }

const toEnd = 1<<63 - 1

// begin takes an operation's place in time, which current wants to know.
func (fs *FS) begin() uint64 {
	if !fs.shared {
		return 0
	}
	return fs.ops.Add(1)
}

// current tells whether the base may be used by an operation that has begun at start.
// n.mu is held.
func (n *node) current(start uint64) bool {
	return n.loaded && (n.kept && n.keptAt == n.recalled.Load() || n.loadedAt > start)
}

// ensure loads n unless it is current. n.mu is held for writing.
func (fs *FS) ensure(ctx context.Context, n *node, start uint64) error {
	if n.current(start) {
		return nil
	}
	return fs.load(ctx, n)
}

// loadShared asks for the base. n.mu is held for writing.
func (fs *FS) loadShared(ctx context.Context, n *node) error {
	at := fs.ops.Add(1)
	seen := n.recalled.Load()
	n.lostMu.Lock()
	lost := n.lost
	n.lost = span{}
	n.lostMu.Unlock()
	fs.forgetSpan(n, lost)
	var a vfs.Attr
	if err := fs.sess.GetAttr(ctx, nobody, n.ino, &a); err != nil {
		return err
	}
	if a.IsDir() {
		return syscall.EISDIR
	}
	if !a.IsRegular() {
		return syscall.EINVAL
	}
	based, content, inline := a.Blocks == 0, []byte(nil), false
	need := meta.LeaseAttr
	if mayBeInline(&a) {
		data, ok, err := fs.sess.Inline(ctx, n.ino)
		if err != nil {
			return err
		}
		if ok {
			// Copied: the engine may share it. Cut: the size is of a moment before.
			content = bytes.Clone(data[:min(uint64(len(data)), a.Size)])
		}
		based, inline = based || ok, ok
		need |= meta.LeaseData
	}
	if based || n.based || n.loose || fs.leased == nil {
		fs.forgetLayout(n)
		n.loose = false
	}
	n.setBase(int64(a.Size), based, content, inline)
	n.ctime = a.Ctime
	n.kept, n.keptAt, n.loadedAt = fs.leased != nil && fs.leased.Leased(n.ino).Has(need), seen, at
	n.touched = fs.cfg.NoAtime || fs.cfg.ReadOnly || !staleAtime(&a) || n.atime != vfs.Time{}
	n.unlinked.Store(a.Nlink == 0)
	n.loaded = true
	n.loads++
	return nil
}

// setBase sets the base; extents are asked for when they are needed. n.mu is held for
// writing.
func (n *node) setBase(size int64, based bool, content []byte, inline bool) {
	n.base, n.based, n.content, n.hasInline = size, based, content, inline
	n.small = based
	n.size = max(size, n.dirtyEnd)
}

// forgetSpan drops the extents of a range.
func (fs *FS) forgetSpan(n *node, s span) {
	if s.from >= s.to {
		return
	}
	n.layoutGen++
	for index := range n.layout {
		if start := int64(index) * fs.chunk; start < s.to && s.from < start+fs.chunk {
			fs.forgetChunk(n, index)
		}
	}
}

// readBase copies a part of the file at off from a base without extents.
func (n *node) readBase(p []byte, off int64) {
	done := 0
	if off < int64(len(n.content)) {
		done = copy(p, n.content[off:])
	}
	clear(p[done:])
}

// Recalls

// recallPatience bounds how long a recall waits for the doors. The metadata server
// would give the session up after 30 s.
const recallPatience = 10 * time.Second

// recalled is told by the session that leases have ended: first the nodes must not
// use their bases any more, then doors drop what they have in the kernel.
func (fs *FS) recalled(r meta.Recall) {
	if r.All {
		for i := range fs.shards {
			s := &fs.shards[i]
			s.mu.RLock()
			for _, n := range s.nodes {
				n.lose(span{0, toEnd})
			}
			s.mu.RUnlock()
		}
		fs.tellDoors(vfs.Change{Kind: vfs.ChangeAll})
		return
	}
	lost := span{}
	if r.Kind.Has(meta.LeaseData) {
		if lost = (span{r.Off, r.Off + r.Len}); r.Len < 0 {
			lost.to = toEnd
		}
	}
	if n := fs.peek(r.Ino); n != nil {
		n.lose(lost)
	}
	// Names and data are dropped with the attributes.
	if r.Kind.Has(meta.LeaseNames) {
		fs.tellDoors(vfs.Change{Kind: vfs.ChangeEntry, Parent: r.Ino, Name: r.Name})
	}
	switch {
	case r.Kind.Has(meta.LeaseData):
		fs.tellDoors(vfs.Change{Kind: vfs.ChangeData, Ino: r.Ino, Off: r.Off, Len: r.Len})
	case r.Kind == meta.LeaseAttr:
		fs.tellDoors(vfs.Change{Kind: vfs.ChangeAttr, Ino: r.Ino})
	}
}

// tellDoors has the doors drop what they have in the kernel, and waits for it.
func (fs *FS) tellDoors(c vfs.Change) {
	ctx, cancel := context.WithTimeout(context.Background(), recallPatience)
	defer cancel()
	if err := fs.recalls.Recall(ctx, c); err != nil {
		fs.log.Warn("the kernel has not dropped what is being changed", "inode", max(c.Ino, c.Parent), "waited", recallPatience)
	}
}

// lose notes a recall.
func (n *node) lose(s span) {
	if s.from < s.to {
		n.lostMu.Lock()
		if n.lost.from < n.lost.to {
			s = span{min(s.from, n.lost.from), max(s.to, n.lost.to)}
		}
		n.lost = s
		n.lostMu.Unlock()
	}
	n.recalled.Add(1)
}

// dropPagesSoon has the doors drop a file's pages from off on, which this mount itself
// has made untrue, and does not wait for it: the caller holds locks.
func (fs *FS) dropPagesSoon(ino vfs.Ino, off int64) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = fs.recalls.Recall(ctx, vfs.Change{Kind: vfs.ChangeData, Ino: ino, Off: off, Len: -1})
}

// Leased implements vfs.LeaseFS; Policy.Leased tells whether it is in force.
func (fs *FS) Leased(ino vfs.Ino) (have vfs.Leases) {
	if fs.leased == nil {
		return 0
	}
	held := fs.leased.Leased(ino)
	for _, k := range [...]struct {
		meta meta.Leases
		vfs  vfs.Leases
	}{{meta.LeaseAttr, vfs.LeaseAttr}, {meta.LeaseNames, vfs.LeaseNames}, {meta.LeaseData, vfs.LeaseData}} {
		if held.Has(k.meta) {
			have |= k.vfs
		}
	}
	return have
}

// Recalls implements vfs.LeaseFS.
func (fs *FS) Recalls(fn func(vfs.Change)) (stop func()) { return fs.recalls.Watch(fn) }

// Attributes

// freshShared merges a, which the metadata gave after gen was read, with what is
// dirty of the node.
func (fs *FS) freshShared(ctx context.Context, a *vfs.Attr, gen uint64) error {
	for a.IsRegular() {
		if n := fs.peek(a.Ino); n != nil {
			n.mu.RLock()
			n.mergeDirty(a)
			n.mu.RUnlock()
		}
		now := fs.flushGen.Load()
		if !fs.flushed.has(a.Ino, gen, now) {
			return nil
		}
		gen = now
		if err := fs.sess.GetAttr(ctx, nobody, a.Ino, a); err != nil {
			return err
		}
	}
	return nil
}

// flushedInodes are the inodes of the flushes that ended last, by FS.flushGen.
type flushedInodes [256]atomic.Uint64

// add is called before flushGen becomes gen.
func (f *flushedInodes) add(ino vfs.Ino, gen uint64) { f[gen%uint64(len(f))].Store(uint64(ino)) }

// has tells whether a flush of ino may have ended behind gen, up to now.
func (f *flushedInodes) has(ino vfs.Ino, gen, now uint64) bool {
	if now-gen >= uint64(len(f)) {
		return true
	}
	for ; gen < now; gen++ {
		if f[(gen+1)%uint64(len(f))].Load() == uint64(ino) {
			return true
		}
	}
	return false
}

// mergeDirty puts what is dirty of n into a. n.mu is held.
func (n *node) mergeDirty(a *vfs.Attr) {
	a.Size = max(a.Size, uint64(n.dirtyEnd))
	if n.mtime != (vfs.Time{}) && a.Mtime.Before(n.mtime) {
		a.Mtime = n.mtime
	}
	if n.mtime != (vfs.Time{}) && a.Ctime.Before(n.mtime) {
		a.Ctime = n.mtime
	}
	if n.atime != (vfs.Time{}) && a.Atime.Before(n.atime) {
		a.Atime = n.atime
	}
	// An estimate until the flush: as if nothing dirty overwrote anything.
	a.Blocks += uint64(n.activeBytes+n.frozenSpace+511) / 512
}

// touchShared updates the access time without waiting: other mounts are asked to
// forget what they know of it, and a read must not wait for that.
func (fs *FS) touchShared(n *node) {
	n.mu.Lock()
	first := !n.touched
	n.touched = true
	if first {
		n.atime = vfs.Now()
	}
	n.mu.Unlock()
	if !first || !fs.touching.TryAcquire(1) {
		return // one access time less
	}
	fs.use(n.ino)
	go func() {
		defer fs.touching.Release(1) // Close waits for it
		defer fs.drop(n)
		if err := fs.sess.Touch(fs.ctx, n.ino); err != nil {
			fs.log.Debug("access time not updated", "inode", n.ino, "error", err)
		}
		n.mu.Lock()
		n.atime = vfs.Time{}
		n.mu.Unlock()
	}()
}

// maxTouching is how many access times are being updated at once.
const maxTouching = 4

// Idle nodes

// idleNodes are a shard's nodes that nobody uses and that are kept because leases
// make them right: opening and reading such a file asks nobody.
type idleNodes struct {
	first, last *node // most recently used first
	count       int
	bytes       int64
}

const (
	// maxIdle and maxIdleBytes bound the idle nodes of a shard and the inline
	// content that they hold: 4096 nodes and 16 MiB in all.
	maxIdle      = 64
	maxIdleBytes = 256 << 10
)

// worthKeeping tells whether n, which nobody uses, is of use to the next who opens it.
func (n *node) worthKeeping() bool {
	return n.current(toEnd) && !n.unlinked.Load() && n.flushErr == nil && n.atime == vfs.Time{}
}

// rest makes n idle and returns the nodes that must go for it. s.mu is held.
func (s *shard) rest(n *node) (out []*node) {
	l := &s.idle
	n.isIdle, n.prevIdle, n.nextIdle = true, nil, l.first
	if l.first != nil {
		l.first.prevIdle = n
	} else {
		l.last = n
	}
	l.first = n
	l.count++
	l.bytes += int64(len(n.content))
	for l.count > maxIdle || l.bytes > maxIdleBytes {
		old := l.last
		s.wake(old)
		out = append(out, old)
	}
	return out
}

// wake takes n out of the idle nodes if it is one. s.mu is held.
func (s *shard) wake(n *node) {
	if !n.isIdle {
		return
	}
	l := &s.idle
	if n.prevIdle != nil {
		n.prevIdle.nextIdle = n.nextIdle
	} else {
		l.first = n.nextIdle
	}
	if n.nextIdle != nil {
		n.nextIdle.prevIdle = n.prevIdle
	} else {
		l.last = n.prevIdle
	}
	n.isIdle, n.prevIdle, n.nextIdle = false, nil, nil
	l.count--
	l.bytes -= int64(len(n.content))
}

// endOf returns where the segments of a file's chunks end.
func (fs *FS) endOf(chunks map[uint32]*segments) (end int64) {
	for index, s := range chunks {
		if k := len(s.list); k > 0 {
			end = max(end, int64(index)*fs.chunk+int64(s.list[k-1].end()))
		}
	}
	return end
}

// underlay returns list, the segments of chunk 0, with what they leave free of content.
// The memory of content is used, not copied.
func underlay(list []segment, content []byte) []segment {
	var out []segment
	at := uint32(0)
	fill := func(to uint32) {
		if to = min(to, uint32(len(content))); at < to {
			out = append(out, segment{at, slices.Clip(content[at:to])})
		}
	}
	for _, s := range list {
		fill(s.off)
		out = append(out, s)
		at = max(at, s.end())
	}
	fill(uint32(len(content)))
	return out
}
