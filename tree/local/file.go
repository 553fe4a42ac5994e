package local

import (
	"context"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/vfs"
)

// openMask are the flags of open(2) that reach the host. O_DIRECT does not: the
// callers' buffers need not be aligned.
const openMask = unix.O_ACCMODE | unix.O_APPEND | unix.O_SYNC

// file is an open file of the host.
type file struct {
	fs     *FS
	n      *inode
	f      *os.File
	fd     int
	append bool
	write  bool
	closed atomic.Bool
}

var _ vfs.PassthroughFile = (*file)(nil)

func (fs *FS) newFile(n *inode, f *os.File, flags int) *file {
	fs.table.opened(n)
	return &file{
		fs: fs, n: n, f: f, fd: int(f.Fd()),
		append: flags&unix.O_APPEND != 0, write: flags&unix.O_ACCMODE != unix.O_RDONLY,
	}
}

// Open implements vfs.FS.
func (fs *FS) Open(ctx context.Context, c *vfs.Caller, ino vfs.Ino, flags int) (vfs.File, error) {
	if flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0 {
		if err := fs.changes(); err != nil {
			return nil, err
		}
	}
	n, err := fs.refFile(ino)
	if err != nil {
		return nil, err
	}
	defer fs.table.unref(n)
	var fd int
	err = retry(func() (err error) {
		fd, err = unix.Open(procPath(n.fd), flags&(openMask|unix.O_TRUNC)|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fail("open", "", err)
	}
	return fs.newFile(n, os.NewFile(uintptr(fd), "file"), flags), nil
}

// OpenInode implements vfs.StatelessFS. Where the host forbids writing, the File
// can only read.
func (fs *FS) OpenInode(ctx context.Context, ino vfs.Ino) (vfs.File, error) {
	if !fs.opts.ReadOnly {
		f, err := fs.Open(ctx, &vfs.Caller{}, ino, unix.O_RDWR)
		switch vfs.ErrnoOf(err) {
		case unix.EACCES, unix.EPERM, unix.EROFS, unix.ETXTBSY:
		default:
			return f, err
		}
	}
	return fs.Open(ctx, &vfs.Caller{}, ino, unix.O_RDONLY)
}

// refFile references a regular file.
func (fs *FS) refFile(ino vfs.Ino) (*inode, error) {
	n, err := fs.table.ref(ino)
	if err != nil {
		return nil, err
	}
	switch n.typ {
	case unix.S_IFREG:
		return n, nil
	case unix.S_IFDIR:
		err = syscall.EISDIR
	case unix.S_IFLNK:
		err = syscall.ELOOP
	default:
		err = syscall.EINVAL
	}
	fs.table.unref(n)
	return nil, err
}

// usable tells whether the File may still be used.
func (f *file) usable() error {
	if f.fs.done.Load() || f.closed.Load() {
		return syscall.EBADF
	}
	return nil
}

// ReadAt implements vfs.File.
func (f *file) ReadAt(ctx context.Context, p []byte, off int64) (done int, err error) {
	if err := f.usable(); err != nil {
		return 0, err
	}
	for done < len(p) {
		k, err := unix.Pread(f.fd, p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return done, fail("read", "", err)
		case k == 0:
			return done, nil
		}
		done += k
	}
	return done, nil
}

// WriteAt implements vfs.File.
func (f *file) WriteAt(ctx context.Context, p []byte, off int64) (done int, err error) {
	if err := f.writable(); err != nil {
		return 0, err
	}
	for done < len(p) {
		var k int
		if f.append {
			k, err = unix.Write(f.fd, p[done:]) // one call, else it is not atomic
		} else {
			k, err = unix.Pwrite(f.fd, p[done:], off+int64(done))
		}
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return done, fail("write", "", err)
		}
		done += k
	}
	return done, nil
}

func (f *file) writable() error {
	if err := f.usable(); err != nil {
		return err
	}
	if !f.write {
		return syscall.EBADF
	}
	return f.fs.changes()
}

// Truncate implements vfs.File.
func (f *file) Truncate(ctx context.Context, size int64) error {
	if err := f.writable(); err != nil {
		return err
	}
	return fail("truncate", "", retry(func() error { return unix.Ftruncate(f.fd, size) }))
}

// Allocate implements vfs.File.
func (f *file) Allocate(ctx context.Context, mode uint32, off, length int64) error {
	if err := f.writable(); err != nil {
		return err
	}
	return fail("fallocate", "", retry(func() error { return unix.Fallocate(f.fd, mode, off, length) }))
}

// Seek implements vfs.File.
func (f *file) Seek(ctx context.Context, off int64, whence int) (int64, error) {
	if err := f.usable(); err != nil {
		return 0, err
	}
	if whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE {
		return 0, syscall.EINVAL
	}
	pos, err := unix.Seek(f.fd, off, whence) // moves a position that nobody uses
	if err != nil {
		return 0, err
	}
	return pos, nil
}

// Flush implements vfs.File: it closes a duplicate, which is when network file
// systems tell of failed writes.
func (f *file) Flush(ctx context.Context) error {
	if err := f.usable(); err != nil {
		return err
	}
	if !f.write {
		return nil
	}
	fd, err := unix.FcntlInt(uintptr(f.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fail("close", "", err)
	}
	return fail("close", "", unix.Close(fd))
}

// Sync implements vfs.File.
func (f *file) Sync(ctx context.Context, dataOnly bool) error {
	if err := f.usable(); err != nil {
		return err
	}
	if dataOnly {
		return fail("fdatasync", "", retry(func() error { return unix.Fdatasync(f.fd) }))
	}
	return fail("fsync", "", retry(func() error { return unix.Fsync(f.fd) }))
}

// Close implements vfs.File.
func (f *file) Close() error {
	if f.closed.Swap(true) {
		return syscall.EBADF
	}
	err := f.f.Close()
	f.fs.table.closedFile(f.n)
	if err != nil {
		return fail("close", "", vfs.ErrnoOf(err))
	}
	return nil
}

// Backing implements vfs.PassthroughFile.
func (f *file) Backing() *os.File {
	if f.fs.opts.ReadOnly && f.write {
		return nil
	}
	return f.f
}

// CopyRange implements vfs.CopyFS.
func (fs *FS) CopyRange(ctx context.Context, in vfs.File, inOff int64, out vfs.File, outOff int64, n int64) (int64, error) {
	src, ok1 := in.(*file)
	dst, ok2 := out.(*file)
	if !ok1 || !ok2 {
		return 0, syscall.EXDEV
	}
	if err := src.usable(); err != nil {
		return 0, err
	}
	if err := dst.writable(); err != nil {
		return 0, err
	}
	if dst.append {
		return 0, syscall.EBADF // as the host says
	}
	for {
		k, err := unix.CopyFileRange(src.fd, &inOff, dst.fd, &outOff, int(n), 0)
		if err == unix.EINTR && ctx.Err() == nil {
			continue
		}
		return int64(max(k, 0)), fail("copy_file_range", "", err)
	}
}
