package volume

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// file is an open file.
type file struct {
	fs    *FS
	n     *node
	flags int
	ahead *block.Window
	once  sync.Once
}

// Open implements vfs.FS.
func (fs *FS) Open(ctx context.Context, c *vfs.Caller, ino vfs.Ino, flags int) (vfs.File, error) {
	f, err := fs.open(ctx, ino, flags, false)
	if err != nil {
		return nil, err
	}
	if flags&syscall.O_TRUNC != 0 && flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		var a vfs.Attr
		set := vfs.SetAttr{Valid: vfs.SetSize}
		if err := fs.truncate(ctx, c, ino, &set, &a); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

// OpenInode implements vfs.StatelessFS.
func (fs *FS) OpenInode(ctx context.Context, ino vfs.Ino) (vfs.File, error) {
	flags := syscall.O_RDWR
	if fs.cfg.ReadOnly {
		flags = syscall.O_RDONLY
	}
	return fs.open(ctx, ino, flags, false)
}

// open opens a file; made says that this mount has just made it.
func (fs *FS) open(ctx context.Context, ino vfs.Ino, flags int, made bool) (*file, error) {
	if fs.closing.Load() {
		return nil, errClosed
	}
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		if err := fs.writable(); err != nil {
			return nil, err
		}
	}
	// The session's use comes first: from here on the inode stays.
	fs.sess.Open(ino)
	n := fs.use(ino)
	f := &file{fs: fs, n: n, flags: flags, ahead: fs.blocks.NewWindow()}
	n.mu.RLock()
	loaded := made || n.loaded && !fs.shared
	n.mu.RUnlock()
	if fs.shared && !loaded {
		if err := fs.openShared(ctx, n); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	} else if !loaded {
		var a vfs.Attr
		err := fs.sess.GetAttr(ctx, nobody, ino, &a)
		if err == nil && a.IsDir() {
			err = syscall.EISDIR
		} else if err == nil && !a.IsRegular() {
			err = syscall.EINVAL
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

// Close implements vfs.File.
func (f *file) Close() error {
	f.once.Do(func() {
		f.fs.sess.Release(f.n.ino, 1)
		f.fs.reap(f.n)
		f.fs.drop(f.n)
	})
	return nil
}

// reap drops the dirty data of a file that is gone. The caller is a user of n.
func (fs *FS) reap(n *node) {
	if !n.unlinked.Load() {
		return
	}
	n.mu.RLock()
	dirty := n.isDirty()
	n.mu.RUnlock()
	if !dirty {
		return
	}
	var a vfs.Attr
	if err := fs.sess.GetAttr(fs.ctx, nobody, n.ino, &a); !isGone(err) {
		return // it still has users, or cannot be told: a flush will find out
	}
	if !n.flushMu.TryLock() {
		return // a flush is under way and finds the file gone
	}
	defer n.flushMu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	fs.discard(n)
	fs.unmarkDirty(n)
}

// discard drops all that is dirty. n.mu and n.flushMu are held.
func (fs *FS) discard(n *node) {
	for _, segs := range n.active {
		segs.release()
	}
	fs.dirty.Release(n.activeSpace)
	fs.dirtyBytes.Add(-n.activeBytes)
	fs.sess.Unreserve(n.ino, n.reserved)
	n.active, n.activeBytes, n.activeSpace, n.reserved = nil, 0, 0, 0
	n.dirtyEnd, n.appending = 0, false
	n.smallDirty, n.sizeDirty, n.mtime = false, false, vfs.Time{}
}

// Flush implements vfs.File. Alone on its volume a mount need not make anything
// visible to others, so only errors are told.
func (f *file) Flush(ctx context.Context) error {
	if !f.fs.cfg.Exclusive && !f.fs.cfg.ReadOnly {
		return f.fs.describe("flush", f.n, f.fs.flushNode(ctx, f.n))
	}
	f.n.mu.RLock()
	clean := f.n.flushErr == nil
	f.n.mu.RUnlock()
	if clean {
		return nil
	}
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	return f.fs.describe("flush", f.n, f.n.takeError())
}

// Sync implements vfs.File.
func (f *file) Sync(ctx context.Context, dataOnly bool) error {
	if f.fs.cfg.ReadOnly {
		return nil
	}
	if err := f.fs.flushNode(ctx, f.n); err != nil {
		return f.fs.describe("fsync", f.n, err)
	}
	return meta.SyncInode(ctx, f.fs.sess, f.n.ino)
}

// Truncate implements vfs.File.
func (f *file) Truncate(ctx context.Context, size int64) error {
	if size < 0 {
		return syscall.EINVAL
	}
	var a vfs.Attr
	set := vfs.SetAttr{Valid: vfs.SetSize, Size: uint64(size)}
	return f.fs.truncate(ctx, nobody, f.n.ino, &set, &a)
}

// maxSize is the greatest size of a file, in bytes: chunk numbers have 32 bits.
func (fs *FS) maxSize() int64 { return fs.chunk << 32 }

// writeStep bounds what one step of a write takes from the budget.
const writeStep = 1 << 20

// WriteAt implements vfs.File.
func (f *file) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if f.flags&syscall.O_ACCMODE == syscall.O_RDONLY {
		return 0, syscall.EBADF
	}
	if err := f.fs.writable(); err != nil {
		return 0, err
	}
	if f.flags&syscall.O_APPEND != 0 && len(p) > writeStep {
		// An append must be one step: appends of others must not come between.
		return f.fs.write(ctx, f.n, p, off, true)
	}
	done := 0
	for done < len(p) {
		step := p[done:min(len(p), done+writeStep)]
		n, err := f.fs.write(ctx, f.n, step, off+int64(done), f.flags&syscall.O_APPEND != 0)
		done += n
		if err != nil {
			if done > 0 {
				return done, nil // the next write meets the error again
			}
			return 0, f.fs.describe("write", f.n, err)
		}
	}
	return done, nil
}

func (fs *FS) write(ctx context.Context, n *node, p []byte, off int64, atEnd bool) (int, error) {
	if off < 0 {
		return 0, syscall.EINVAL
	}
	if len(p) == 0 {
		return 0, nil
	}
	if !atEnd {
		if off >= fs.maxSize() {
			return 0, syscall.EFBIG
		}
		p = p[:min(int64(len(p)), fs.maxSize()-off)]
	}
	space := room(len(p)) + fs.inline
	if err := fs.acquire(ctx, space); err != nil {
		return 0, err
	}
	claim, err := fs.reserve(ctx, n, off, int64(len(p)), atEnd)
	if err != nil {
		fs.dirty.Release(space)
		return 0, err
	}
	taken, kept, err := fs.apply(ctx, n, p, off, atEnd, claim)
	fs.dirty.Release(space - taken)
	if claim > kept {
		fs.sess.Unreserve(n.ino, claim-kept)
	}
	if err != nil {
		return 0, err
	}
	fs.stats.written.Add(int64(len(p)))
	fs.wakeFlusher(n)
	return len(p), nil
}

// apply puts p into the node's memory. It returns the memory it took and how much
// of the claimed quota the node keeps for bytes that were not dirty before.
func (fs *FS) apply(ctx context.Context, n *node, p []byte, off int64, atEnd bool, claim int64) (taken, kept int64, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if fs.shared {
		err = fs.prepareShared(ctx, n, atEnd)
	} else {
		err = fs.load(ctx, n)
	}
	if err != nil {
		return 0, 0, err
	}
	if err := n.takeError(); err != nil {
		return 0, 0, err
	}
	if atEnd {
		off = n.size
		if n.appending {
			off = max(n.appendAt, n.dirtyEnd) // all that is to be appended moves together
		}
		if off+int64(len(p)) > fs.maxSize() {
			return 0, 0, syscall.EFBIG
		}
	}
	var fresh int64
	end := off + int64(len(p))
	if n.small && end <= fs.inline && !fs.shared {
		taken, fresh = fs.writeSmall(n, p, off)
	} else {
		if n.small && !fs.shared {
			taken = fs.convert(n)
		}
		for len(p) > 0 {
			index, at := uint32(off/fs.chunk), uint32(off%fs.chunk)
			part := p[:min(int64(len(p)), fs.chunk-int64(at))]
			segs := n.segments(index)
			t, f := segs.write(at, part)
			n.activeSpace += t
			n.activeBytes += f
			n.full = n.full || segs.bytes == fs.chunk
			taken, fresh = taken+t, fresh+f
			p, off = p[len(part):], off+int64(len(part))
		}
		fs.dirtyBytes.Add(fresh)
	}
	kept = min(fresh, claim)
	n.reserved += kept
	n.size = max(n.size, end)
	n.dirtyEnd = max(n.dirtyEnd, end)
	n.mtime = vfs.Now()
	fs.markDirty(n)
	return taken, kept, nil
}

// segments returns the active segments of a chunk. n.mu is held for writing.
func (n *node) segments(index uint32) *segments {
	if n.active == nil {
		n.active = make(map[uint32]*segments)
	}
	s := n.active[index]
	if s == nil {
		s = new(segments)
		n.active[index] = s
	}
	return s
}

// writeSmall changes the content of a small file. Its memory counts as active
// space while it is dirty.
func (fs *FS) writeSmall(n *node, p []byte, off int64) (taken, fresh int64) {
	old := int64(len(n.content))
	if !n.smallDirty {
		taken += old
		fresh += old
	}
	if end := off + int64(len(p)); end > old {
		n.content = append(n.content, make([]byte, end-old)...)
		taken += end - old
		fresh += end - old
	}
	copy(n.content[off:], p)
	n.smallDirty = true
	n.smallGen++
	n.activeSpace += taken
	n.activeBytes += fresh
	fs.dirtyBytes.Add(fresh)
	// Bytes that were inline before are claimed already by the metadata; what is
	// claimed twice until the flush is at most the inline limit.
	return taken, fresh
}

// convert makes a small file an ordinary one: its content becomes dirty segments.
// n.mu is held for writing. It returns the memory these took. Their quota is
// claimed already: by the content if that was dirty, else by the inline record that
// goes when they are committed.
func (fs *FS) convert(n *node) (taken int64) {
	if n.smallDirty {
		fs.dirty.Release(n.activeSpace)
		fs.dirtyBytes.Add(-n.activeBytes)
		n.activeSpace, n.activeBytes = 0, 0
	}
	content := n.content
	n.small, n.content, n.smallDirty = false, nil, false
	n.smallGen++
	// A chunk is never smaller than the inline limit.
	taken, fresh := n.segments(0).write(0, content)
	n.activeSpace, n.activeBytes = taken, fresh
	fs.dirtyBytes.Add(fresh)
	return taken
}

// acquire takes memory for dirty data, waiting while there is none. If flushing
// makes no progress for the stall timeout, it gives up with the flush's error.
func (fs *FS) acquire(ctx context.Context, n int64) error {
	if fs.dirty.TryAcquire(n) {
		return nil
	}
	fs.kickFlusher()
	fs.stats.stalls.Add(1)
	limited, cancel := context.WithTimeout(ctx, fs.cfg.StallTimeout)
	defer cancel()
	err := fs.dirty.Acquire(limited, n)
	if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if last := fs.lastError.Load(); last != nil {
		return *last
	}
	return vfs.WithErrno(syscall.ETIMEDOUT, errors.New("no memory for writes became free in "+fs.cfg.StallTimeout.Round(time.Second).String()))
}

// reserve claims quota for a write of the given length and returns the bytes it
// claimed. Overwriting needs none, but what is new is known for sure only when
// nothing is dirty; so it claims all, and only where that fails it flushes and counts.
func (fs *FS) reserve(ctx context.Context, n *node, off, length int64, atEnd bool) (int64, error) {
	err := fs.sess.Reserve(ctx, n.ino, length)
	if err == nil {
		return length, nil
	}
	if !isFull(err) || fs.flushNode(ctx, n) != nil {
		return 0, err
	}
	fresh := length
	if !atEnd {
		var countErr error
		if fresh, countErr = fs.unallocated(ctx, n, off, length); countErr != nil {
			return 0, countErr
		}
	}
	if fresh == 0 {
		return 0, nil
	}
	return fresh, fs.sess.Reserve(ctx, n.ino, fresh)
}

// unallocated counts the bytes of a range that the metadata have no room for yet.
func (fs *FS) unallocated(ctx context.Context, n *node, off, length int64) (int64, error) {
	n.mu.Lock()
	err := fs.ensure(ctx, n, fs.begin())
	small, content := n.small || n.based, int64(len(n.content))
	n.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if small {
		return max(0, off+length-max(off, content)), nil
	}
	var extents []meta.Extent
	fresh := length
	for at := off; at < off+length; at = (at/fs.chunk + 1) * fs.chunk {
		if extents, err = fs.sess.Extents(ctx, n.ino, uint32(at/fs.chunk), extents[:0]); err != nil {
			return 0, err
		}
		start := at / fs.chunk * fs.chunk
		for i := range extents {
			lo := max(start+int64(extents[i].Pos), off)
			hi := min(start+int64(extents[i].Pos)+int64(extents[i].Len), off+length)
			fresh -= max(0, hi-lo)
		}
	}
	return fresh, nil
}

// describe makes an error of a file's data one that people can read, and keeps
// its errno.
func (fs *FS) describe(op string, n *node, err error) error {
	if err == nil {
		return nil
	}
	if _, plain := err.(syscall.Errno); plain {
		return err
	}
	return &vfs.Error{Op: op, Name: inodeName(n.ino), Err: err}
}
