package namespace

import (
	"context"
	"errors"
	"os"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// file is an open file of a storage.
type file struct {
	ns    *FS
	p     *place
	o     *opened
	ino   vfs.Ino // in the storage
	inner vfs.File
	event EventType // told at the end; "" none
}

var _ vfs.PassthroughFile = (*file)(nil)

func (ns *FS) newFile(t *target, ino vfs.Ino, f vfs.File, event EventType) *file {
	t.p.hold()
	return &file{ns: ns, p: t.p, o: t.o, ino: ino, inner: f, event: event}
}

var errUnmounted = errors.New("the storage was unmounted")

// enter begins a call: EIO once the storage is unmounted.
func (f *file) enter() error {
	if f.p.dead.Load() || f.p.b.hold() != nil {
		return &vfs.Error{Op: "file", Name: f.p.path, Err: vfs.WithErrno(syscall.EIO, errUnmounted)}
	}
	return nil
}

// Open implements vfs.FS.
func (ns *FS) Open(ctx context.Context, c *vfs.Caller, ino vfs.Ino, flags int) (vfs.File, error) {
	t, err := ns.at(ctx, ino)
	if err != nil {
		return nil, err
	}
	defer t.leave()
	if t.u != nil {
		return nil, syscall.EISDIR
	}
	changes := flags&syscall.O_ACCMODE != syscall.O_RDONLY || flags&syscall.O_TRUNC != 0
	if changes && t.p.ro(t.o) {
		return nil, syscall.EROFS
	}
	f, err := t.o.fs.Open(ctx, c, t.ino, flags)
	if err != nil {
		return nil, err
	}
	event := EventType("")
	if changes {
		event = EventModify
	}
	if flags&syscall.O_TRUNC != 0 {
		t.p.b.watches.didInode(t.o, EventModify, t.ino)
		ns.own(t.p, t.o, ino, vfs.Change{Kind: vfs.ChangeData, Ino: t.ino, Len: -1})
	}
	return ns.newFile(&t, t.ino, f, event), nil
}

// number is the inode by which the file was opened.
func (f *file) number() vfs.Ino { return vfs.Ino(f.p.slot.Load())<<slotShift | f.ino }

// ReadAt implements vfs.File.
func (f *file) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := f.enter(); err != nil {
		return 0, err
	}
	defer f.p.b.leave()
	return f.inner.ReadAt(ctx, p, off)
}

// WriteAt implements vfs.File.
func (f *file) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := f.enter(); err != nil {
		return 0, err
	}
	defer f.p.b.leave()
	n, err := f.inner.WriteAt(ctx, p, off)
	if n > 0 {
		f.ns.own(f.p, f.o, f.number(), vfs.Change{Kind: vfs.ChangeData, Ino: f.ino, Off: off, Len: int64(n)})
	}
	return n, err
}

// Truncate implements vfs.File.
func (f *file) Truncate(ctx context.Context, size int64) error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.p.b.leave()
	err := f.inner.Truncate(ctx, size)
	if err == nil {
		f.ns.own(f.p, f.o, f.number(), vfs.Change{Kind: vfs.ChangeData, Ino: f.ino, Off: size, Len: -1})
	}
	return err
}

// Allocate implements vfs.File.
func (f *file) Allocate(ctx context.Context, mode uint32, off, length int64) error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.p.b.leave()
	err := f.inner.Allocate(ctx, mode, off, length)
	if err == nil {
		f.ns.own(f.p, f.o, f.number(), vfs.Change{Kind: vfs.ChangeData, Ino: f.ino, Off: off, Len: -1})
	}
	return err
}

// Seek implements vfs.File.
func (f *file) Seek(ctx context.Context, off int64, whence int) (int64, error) {
	if err := f.enter(); err != nil {
		return 0, err
	}
	defer f.p.b.leave()
	return f.inner.Seek(ctx, off, whence)
}

// Flush implements vfs.File.
func (f *file) Flush(ctx context.Context) error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.p.b.leave()
	return f.inner.Flush(ctx)
}

// Sync implements vfs.File.
func (f *file) Sync(ctx context.Context, dataOnly bool) error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.p.b.leave()
	return f.inner.Sync(ctx, dataOnly)
}

// Close implements vfs.File. The storage's File is closed also when the storage is.
func (f *file) Close() error {
	err := f.inner.Close()
	if f.event != "" && !f.p.dead.Load() {
		// What the kernel wrote by itself (see Backing) did not come by here.
		f.ns.own(f.p, f.o, f.number(), vfs.Change{Kind: vfs.ChangeData, Ino: f.ino, Len: -1})
		f.p.b.watches.didInode(f.o, f.event, f.ino)
	}
	f.p.unhold()
	return err
}

// Backing implements vfs.PassthroughFile.
func (f *file) Backing() *os.File {
	if b, ok := f.inner.(vfs.PassthroughFile); ok {
		return b.Backing()
	}
	return nil
}

// CopyRange implements vfs.CopyFS within a storage; EXDEV otherwise.
func (ns *FS) CopyRange(ctx context.Context, in vfs.File, inOff int64, out vfs.File, outOff int64, n int64) (int64, error) {
	src, ok1 := in.(*file)
	dst, ok2 := out.(*file)
	if !ok1 || !ok2 || src.p.b != dst.p.b {
		return 0, syscall.EXDEV
	}
	if err := src.enter(); err != nil {
		return 0, err
	}
	defer src.p.b.leave()
	if err := dst.enter(); err != nil {
		return 0, err
	}
	defer dst.p.b.leave()
	copier, ok := src.o.fs.(vfs.CopyFS)
	if !ok {
		return 0, syscall.EXDEV
	}
	done, err := copier.CopyRange(ctx, src.inner, inOff, dst.inner, outOff, n)
	if done > 0 {
		ns.own(dst.p, dst.o, dst.number(), vfs.Change{Kind: vfs.ChangeData, Ino: dst.ino, Off: outOff, Len: done})
	}
	return done, err
}
