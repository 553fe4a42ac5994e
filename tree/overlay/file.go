package overlay

import (
	"context"
	"errors"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/vfs"
)

// file is an open file. One that was opened for reading on the lower tree goes on in
// the upper one as soon as the inode has been copied up.
type file struct {
	fs    *FS
	n     *node
	flags int

	mu      sync.RWMutex // held for reading while f is used
	f       vfs.File
	onUpper bool
	closed  bool
}

func (fs *FS) newFile(n *node, f vfs.File, flags int, onUpper bool) *file {
	fs.table.open(n, 1)
	return &file{fs: fs, n: n, f: f, flags: flags, onUpper: onUpper}
}

func writes(flags int) bool {
	return flags&syscall.O_ACCMODE != syscall.O_RDONLY || flags&syscall.O_TRUNC != 0
}

// Open implements vfs.FS. Opening for writing copies up.
func (fs *FS) Open(ctx context.Context, c *vfs.Caller, ino vfs.Ino, flags int) (vfs.File, error) {
	if err := fs.usable(); err != nil {
		return nil, err
	}
	n, err := fs.get(ino)
	if err != nil {
		return nil, err
	}
	switch n.typ {
	case typeFile:
	case typeDir:
		return nil, syscall.EISDIR
	case syscall.S_IFLNK:
		return nil, syscall.ELOOP
	default:
		return nil, syscall.EINVAL
	}
	if writes(flags) {
		keep := wholeFile
		if flags&syscall.O_TRUNC != 0 {
			keep = 0
		}
		if err := fs.copyUp(ctx, n, keep); err != nil {
			return nil, err
		}
	}
	upper := fs.top(n)
	if upper == 0 {
		f, err := fs.lower.Open(ctx, c, n.lower, flags)
		if err != nil {
			return nil, err
		}
		return fs.newFile(n, f, flags, false), nil
	}
	var f vfs.File
	open := func() (err error) {
		f, err = fs.upper.Open(ctx, c, upper, flags)
		return err
	}
	if flags&syscall.O_TRUNC != 0 {
		err = fs.spend(ctx, n, 0, open)
	} else {
		err = open()
	}
	if err != nil {
		return nil, err
	}
	return fs.newFile(n, f, flags&^syscall.O_TRUNC, true), nil
}

// use gives the File of the tree that the inode is in now, and done to be called after its
// use.
func (f *file) use(ctx context.Context) (file vfs.File, done func(), err error) {
	for {
		f.mu.RLock()
		if f.closed {
			f.mu.RUnlock()
			return nil, nil, syscall.EBADF
		}
		if err := f.fs.usable(); err != nil {
			f.mu.RUnlock()
			return nil, nil, err
		}
		if f.onUpper || f.fs.top(f.n) == 0 {
			return f.f, f.mu.RUnlock, nil
		}
		f.mu.RUnlock()
		if err := f.change(ctx); err != nil {
			return nil, nil, err
		}
	}
}

// change goes over to the upper tree.
func (f *file) change(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.onUpper || f.closed {
		return nil
	}
	u, err := f.fs.upper.Open(ctx, &f.fs.self, f.fs.top(f.n), f.flags)
	if err != nil {
		return err
	}
	err = f.f.Close()
	f.f, f.onUpper = u, true
	return err
}

// ReadAt implements vfs.File.
func (f *file) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	u, done, err := f.use(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	return u.ReadAt(ctx, p, off)
}

// WriteAt implements vfs.File. Where the limit has no room for all of p, as much is
// written as it has room for.
func (f *file) WriteAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	u, done, err := f.use(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	write := func(p []byte, off int64, most int64) (n int, err error) {
		err = f.fs.spend(ctx, f.n, most, func() error {
			n, err = u.WriteAt(ctx, p, off)
			return err
		})
		return n, err
	}
	appends := f.flags&syscall.O_APPEND != 0
	most := atMost(off, int64(len(p)))
	if appends {
		most = atMost(unit-1, int64(len(p))) // wherever the end is
	}
	n, err = write(p, off, most)
	if n > 0 || !errors.Is(err, syscall.ENOSPC) || f.fs.space.limit == 0 {
		return n, err
	}
	for n < len(p) {
		at := off + int64(n)
		if appends {
			var a vfs.Attr
			if err := f.fs.upper.GetAttr(ctx, &f.fs.self, f.fs.top(f.n), &a); err != nil {
				return n, err
			}
			at = int64(a.Size)
		}
		// To the end of the block: what the next one needs is another question.
		piece := p[n:min(len(p), n+int(unit-at%unit))]
		most := int64(unit)
		if filled(ctx, u, at/unit*unit, at%unit+1) || filled(ctx, u, at, int64(len(piece))) {
			most = 0
		}
		k, err := write(piece, at, most)
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Truncate implements vfs.File.
func (f *file) Truncate(ctx context.Context, size int64) error {
	u, done, err := f.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	return f.fs.spend(ctx, f.n, 0, func() error { return u.Truncate(ctx, size) })
}

// Allocate implements vfs.File.
func (f *file) Allocate(ctx context.Context, mode uint32, off, length int64) error {
	u, done, err := f.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	most := int64(0)
	if mode&unix.FALLOC_FL_PUNCH_HOLE == 0 && length > 0 && off >= 0 && !filled(ctx, u, off, length) {
		most = atMost(off, length)
	}
	return f.fs.spend(ctx, f.n, most, func() error { return u.Allocate(ctx, mode, off, length) })
}

// Seek implements vfs.File.
func (f *file) Seek(ctx context.Context, off int64, whence int) (int64, error) {
	u, done, err := f.use(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	return u.Seek(ctx, off, whence)
}

// Flush implements vfs.File.
func (f *file) Flush(ctx context.Context) error {
	u, done, err := f.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	return u.Flush(ctx)
}

// Sync implements vfs.File.
func (f *file) Sync(ctx context.Context, dataOnly bool) error {
	u, done, err := f.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	return u.Sync(ctx, dataOnly)
}

// Close implements vfs.File.
func (f *file) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return syscall.EBADF
	}
	f.closed = true
	err := f.f.Close()
	f.fs.table.open(f.n, -1)
	return err
}
