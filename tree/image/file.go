package image

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/flist"
	"github.com/massif-fs/massif/vfs"
)

// listed is how many block names of an open file are kept at once: 32 MiB of it.
const listed = 64

// file is an open regular file.
type file struct {
	fs     *FS
	ino    vfs.Ino
	size   int64
	window *block.Window
	closed atomic.Bool

	mu    sync.Mutex
	first int           // number of the first block in names
	names []flist.Block // some blocks of the file
}

// Open implements vfs.FS.
func (fs *FS) Open(ctx context.Context, _ *vfs.Caller, ino vfs.Ino, flags int) (vfs.File, error) {
	if err := fs.usable(); err != nil {
		return nil, err
	}
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY || flags&syscall.O_TRUNC != 0 {
		return nil, syscall.EROFS
	}
	a, err := fs.im.Attr(ctx, uint64(ino))
	if err != nil {
		return nil, fs.fail("open", ino, err)
	}
	switch a.Type() {
	case syscall.S_IFREG:
	case syscall.S_IFDIR:
		return nil, syscall.EISDIR
	case syscall.S_IFLNK:
		return nil, syscall.ELOOP
	default:
		return nil, syscall.EINVAL
	}
	return &file{fs: fs, ino: ino, size: int64(a.Size), window: fs.blocks.window()}, nil
}

// OpenInode implements vfs.StatelessFS.
func (fs *FS) OpenInode(ctx context.Context, ino vfs.Ino) (vfs.File, error) {
	return fs.Open(ctx, nil, ino, syscall.O_RDONLY)
}

func (f *file) usable() error {
	if f.closed.Load() {
		return syscall.EBADF
	}
	return f.fs.usable()
}

// ReadAt implements vfs.File.
func (f *file) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := f.usable(); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, syscall.EINVAL
	}
	if off >= f.size {
		return 0, nil
	}
	p = p[:min(int64(len(p)), f.size-off)]
	if len(p) == 0 {
		return 0, nil
	}
	end := off + int64(len(p))
	// What else this read needs is fetched beside the first block.
	if off/flist.BlockSize != (end-1)/flist.BlockSize {
		f.ahead(ctx, (off/flist.BlockSize+1)*flist.BlockSize, end)
	}
	for at := off; at < end; {
		i := int(at / flist.BlockSize)
		b, err := f.block(ctx, i)
		if err != nil {
			return 0, f.fs.fail("read", f.ino, err)
		}
		start := int64(i) * flist.BlockSize
		want := min(f.size-start, flist.BlockSize)
		n, err := f.fs.blocks.read(ctx, b, int(want), p[at-off:], int(at-start))
		if err != nil {
			return 0, f.fs.fail("read", f.ino, err)
		}
		at += int64(n)
	}
	if from, n := f.window.Next(off, int64(len(p))); n > 0 {
		f.ahead(ctx, from, from+n)
	}
	return len(p), nil
}

// block returns the names of block i.
func (f *file) block(ctx context.Context, i int) (flist.Block, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if k := i - f.first; k < 0 || k >= len(f.names) {
		// Read-ahead asks for what comes behind: a step back keeps both in.
		first := max(0, i-listed/4)
		names, err := f.fs.im.Blocks(ctx, uint64(f.ino), first, listed)
		if err != nil {
			return flist.Block{}, err
		}
		f.first, f.names = first, names
	}
	if k := i - f.first; k < len(f.names) {
		return f.names[k], nil
	}
	return flist.Block{}, vfs.WithErrno(syscall.EIO, fmt.Errorf("%w: the file has %d bytes, and no block %d", flist.ErrFormat, f.size, i))
}

// ahead begins to fetch the blocks of a range, as far as there is memory to spare.
func (f *file) ahead(ctx context.Context, from, to int64) {
	to = min(to, f.size)
	for i := from / flist.BlockSize; i*flist.BlockSize < to; i++ {
		b, err := f.block(ctx, int(i))
		if err != nil {
			return // whoever reads there will be told
		}
		if !f.fs.blocks.prefetch(b) {
			return
		}
	}
}

// Seek implements vfs.File: images know of no holes.
func (f *file) Seek(_ context.Context, off int64, whence int) (int64, error) {
	if err := f.usable(); err != nil {
		return 0, err
	}
	switch {
	case whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE:
		return 0, syscall.EINVAL
	case off < 0 || off >= f.size:
		return 0, syscall.ENXIO
	case whence == unix.SEEK_HOLE:
		return f.size, nil
	}
	return off, nil
}

func (f *file) WriteAt(context.Context, []byte, int64) (int, error)  { return 0, syscall.EBADF }
func (f *file) Truncate(context.Context, int64) error                { return syscall.EBADF }
func (f *file) Allocate(context.Context, uint32, int64, int64) error { return syscall.EBADF }
func (f *file) Flush(context.Context) error                          { return f.usable() }
func (f *file) Sync(context.Context, bool) error                     { return f.usable() }

// Close implements vfs.File.
func (f *file) Close() error {
	if f.closed.Swap(true) {
		return syscall.EBADF
	}
	return nil
}
