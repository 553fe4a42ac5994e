package bucket

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/vfs"
)

// handle is an open file. It keeps the content it was opened with: if somebody else changes the
// object, the handle gets ESTALE, and who opens the file then gets the new one.
type handle struct {
	fs     *FS
	n      *node
	c      *content
	write  bool
	append bool
	closed atomic.Bool

	mu     sync.Mutex
	next   int64 // where the last read ended
	window int64 // bytes fetched ahead; 0: it reads at random
}

// Open implements vfs.FS.
func (fs *FS) Open(ctx context.Context, c *vfs.Caller, ino vfs.Ino, flags int) (vfs.File, error) {
	write := flags&syscall.O_ACCMODE != syscall.O_RDONLY
	if write || flags&syscall.O_TRUNC != 0 {
		if err := fs.changes(); err != nil {
			return nil, err
		}
	}
	n, err := fs.held(ino)
	if err != nil {
		return nil, err
	}
	defer fs.letGo(n)
	if err := fs.freshen(ctx, n); err != nil {
		return nil, fail("open", "", err)
	}
	switch n.kind {
	case syscall.S_IFDIR:
		return nil, syscall.EISDIR
	case syscall.S_IFLNK:
		return nil, syscall.ELOOP
	}
	h, err := fs.attach(n, flags)
	if err != nil {
		return nil, fail("open", "", err)
	}
	if flags&syscall.O_TRUNC != 0 {
		if err := h.truncate(0); err != nil {
			return nil, errors.Join(err, h.Close())
		}
	}
	if fs.cfg.PrefetchOnOpen && !write {
		fs.ahead(n, h.c, span{0, int64(fs.cfg.Prefetch) * fs.cfg.BlockSize})
	}
	return h, nil
}

// attach makes a handle.
func (fs *FS) attach(n *node, flags int) (*handle, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed {
		return nil, syscall.EBADF
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.content != nil {
		fs.disk.use(n.content)
	} else {
		if n.gone {
			return nil, syscall.ESTALE
		}
		n.content = fs.disk.take(version{fs.key(n), n.etag, n.size})
	}
	n.opens++
	fs.unidle(n)
	return &handle{fs: fs, n: n, c: n.content, write: flags&syscall.O_ACCMODE != syscall.O_RDONLY, append: flags&syscall.O_APPEND != 0}, nil
}

// Close implements vfs.File.
func (h *handle) Close() error {
	if h.closed.Swap(true) {
		return syscall.EBADF
	}
	fs, n := h.fs, h.n
	left, changed := fs.leave(n, h.c)
	fs.mu.Lock()
	n.opens--
	end := n.gone && n.opens == 0
	closed := fs.closed
	fs.mu.Unlock()
	switch {
	case end && !closed:
		n.mu.Lock()
		if n.content == h.c {
			n.content = nil
			fs.disk.discard(h.c)
		}
		n.mu.Unlock()
	case changed && left == 0 && !closed:
		fs.queue.add(fs, n, 0) // pages of a mapping may come after the last flush
	}
	fs.mu.Lock()
	fs.settle(n)
	fs.mu.Unlock()
	return nil
}

// leave ends a use of a node's content. Without users and changes the node parts from it.
func (fs *FS) leave(n *node, c *content) (left int, changed bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	left = fs.disk.drop(c, fs.cfg.Caching != Stream)
	_, changed, _ = c.now()
	if left == 0 && !changed && n.content == c {
		n.content = nil
	}
	return left, changed
}

func (h *handle) usable(write bool) error {
	h.fs.mu.Lock()
	closed := h.fs.closed
	h.fs.mu.Unlock()
	switch {
	case closed || h.closed.Load() || write && !h.write:
		return syscall.EBADF
	case write:
		return h.fs.changes()
	}
	return nil
}

// stale tells whether the object was changed by somebody else since the file was opened.
func (h *handle) stale() error {
	h.c.mu.RLock()
	defer h.c.mu.RUnlock()
	if h.c.stale {
		return syscall.ESTALE
	}
	return nil
}

// ReadAt implements vfs.File.
func (h *handle) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := h.usable(false); err != nil {
		return 0, err
	}
	for try := 0; ; try++ {
		if err := h.stale(); err != nil {
			return 0, err
		}
		n, missing, err := h.c.read(p, off)
		if err != nil {
			return 0, fail("read", "", err)
		}
		if len(missing) == 0 {
			if h.fs.cfg.Caching != WholeFiles || n > 0 {
				h.lookAhead(off, n)
			}
			return n, nil
		}
		want := span{missing[0].off, missing[len(missing)-1].end}
		if h.fs.cfg.Caching == WholeFiles || h.fs.cfg.Caching == Preload {
			size, _, _ := h.c.now()
			h.fs.ahead(h.n, h.c, span{want.off, size})
		}
		err = h.fs.fetch(ctx, h.n, h.c, want, h.fs.cfg.BlockSize)
		if errors.Is(err, syscall.ENOSPC) || err == nil && try >= 3 {
			n, err = h.fs.readPast(ctx, h.n, h.c, p, off)
			return n, fail("read", "", err)
		}
		if err != nil {
			return 0, fail("read", "", err)
		}
	}
}

// lookAhead finds out whether somebody reads on, and fetches what comes next.
func (h *handle) lookAhead(off int64, n int) {
	fs := h.fs
	most := int64(fs.cfg.Prefetch) * fs.cfg.BlockSize
	h.mu.Lock()
	near := off >= h.next-fetchUnit*2 && off <= h.next+fetchUnit*2 // readers in the kernel come out of order
	switch {
	case !near || n == 0:
		h.window = 0
	case h.window == 0:
		h.window = min(firstAhead, most)
	default:
		h.window = min(2*h.window, most)
	}
	h.next = off + int64(n)
	s := span{h.next, h.next + h.window}
	h.mu.Unlock()
	h.c.mu.Lock()
	h.c.cursor = s.off
	absent := h.c.absent(s)
	h.c.mu.Unlock()
	if fs.cfg.Caching == Stream && s.off > keepNearEye {
		h.c.passed(span{0, s.off - keepNearEye})
	}
	// One request for much is better than many for little.
	if absent.total() >= s.len()/2 && len(absent) > 0 {
		fs.ahead(h.n, h.c, s)
	}
}

// WriteAt implements vfs.File.
func (h *handle) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := h.usable(true); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, syscall.EINTR
	}
	if len(p) == 0 {
		return 0, nil
	}
	end := h.c.begin()
	n, err := h.c.write(p, off, h.append, h.fs.cfg.MaxFileSize)
	if n > 0 {
		h.fs.wrote(h.n, off, int64(n))
	}
	end()
	if h.c.fragmented() {
		h.fs.join(ctx, h.n, h.c, off)
	}
	return n, fail("write", "", err)
}

// wrote sets the times of a file whose data changed.
func (fs *FS) wrote(n *node, off, length int64) {
	n.mu.Lock()
	n.mtime = vfs.Now()
	n.ctime = n.mtime
	delete(n.other, metaMD5)
	n.mu.Unlock()
	fs.feed.Send(vfs.Change{Kind: vfs.ChangeData, Ino: n.ino, Off: off, Len: length})
}

// join fetches what lies between the pieces of a file that has too many of them.
func (fs *FS) join(ctx context.Context, n *node, c *content, off int64) {
	c.mu.RLock()
	i := c.have.at(off)
	s := span{c.have[max(i-32, 0)].off, c.have[min(i+32, len(c.have)-1)].end}
	c.mu.RUnlock()
	if err := fs.fetch(ctx, n, c, s, fs.cfg.BlockSize); err != nil {
		fs.log.Debug("joining pieces of a file", "err", err)
	}
}

// Truncate implements vfs.File.
func (h *handle) Truncate(ctx context.Context, size int64) error {
	if err := h.usable(true); err != nil {
		return err
	}
	return fail("truncate", "", h.truncate(size))
}

func (h *handle) truncate(size int64) error {
	if size > h.fs.cfg.MaxFileSize {
		return syscall.EFBIG
	}
	defer h.c.begin()()
	if err := h.c.truncate(size); err != nil {
		return err
	}
	h.fs.wrote(h.n, size, -1)
	return nil
}

// Allocate implements vfs.File. Room in the store cannot be promised.
func (h *handle) Allocate(ctx context.Context, mode uint32, off, length int64) error {
	if err := h.usable(true); err != nil {
		return err
	}
	if length <= 0 || off < 0 {
		return syscall.EINVAL
	}
	keep := mode&unix.FALLOC_FL_KEEP_SIZE != 0
	if !keep && (off > h.fs.cfg.MaxFileSize || length > h.fs.cfg.MaxFileSize-off) {
		return syscall.EFBIG
	}
	defer h.c.begin()()
	var err error
	switch mode &^ unix.FALLOC_FL_KEEP_SIZE {
	case 0:
		size, _, _ := h.c.now()
		if keep || off+length <= size {
			return nil
		}
		err = h.c.truncate(off + length)
	case unix.FALLOC_FL_PUNCH_HOLE:
		if !keep {
			return syscall.EOPNOTSUPP
		}
		err = h.c.zero(span{off, off + length}, false)
	case unix.FALLOC_FL_ZERO_RANGE:
		err = h.c.zero(span{off, off + length}, !keep)
	default:
		return syscall.EOPNOTSUPP
	}
	if err == nil {
		h.fs.wrote(h.n, off, length)
	}
	return fail("fallocate", "", err)
}

// Seek implements vfs.File. An object has no holes.
func (h *handle) Seek(ctx context.Context, off int64, whence int) (int64, error) {
	if err := h.usable(false); err != nil {
		return 0, err
	}
	size, _, _ := h.c.now()
	switch {
	case whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE || off < 0:
		return 0, syscall.EINVAL
	case off >= size:
		return 0, syscall.ENXIO
	case whence == unix.SEEK_HOLE:
		return size, nil
	}
	return off, nil
}

// Flush implements vfs.File: what was written is in the store, or with write-back on the local
// disk.
func (h *handle) Flush(ctx context.Context) error {
	if err := h.usable(false); err != nil {
		return err
	}
	if !h.write {
		return nil
	}
	return fail("close", "", h.settle(ctx, false))
}

// Sync implements vfs.File.
func (h *handle) Sync(ctx context.Context, dataOnly bool) error {
	if err := h.usable(false); err != nil {
		return err
	}
	if h.fs.cfg.IgnoreSync || h.fs.cfg.ReadOnly {
		return nil
	}
	return fail("fsync", "", h.settle(ctx, !dataOnly))
}

func (h *handle) settle(ctx context.Context, attrs bool) error {
	if err := h.stale(); err != nil {
		if _, changed, _ := h.c.now(); changed {
			return err
		}
		return nil
	}
	if _, changed, _ := h.c.now(); !changed && !attrs {
		return nil
	}
	return h.fs.settleData(ctx, h.n)
}
