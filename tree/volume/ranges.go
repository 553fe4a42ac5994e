package volume

import (
	"context"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/vfs"
)

// truncate is SetAttr with SetSize.
func (fs *FS) truncate(ctx context.Context, c *vfs.Caller, ino vfs.Ino, set *vfs.SetAttr, out *vfs.Attr) error {
	if err := fs.writable(); err != nil {
		return err
	}
	if set.Size > uint64(fs.maxSize()) {
		return syscall.EFBIG
	}
	n := fs.use(ino)
	defer fs.drop(n)
	if fs.shared {
		return fs.truncateShared(ctx, c, n, set, out)
	}
	n.flushMu.Lock()
	defer n.flushMu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := fs.load(ctx, n); err != nil {
		return err
	}
	if err := fs.sess.SetAttr(ctx, c, ino, set, out); err != nil {
		return err
	}
	size := int64(set.Size)
	if size < n.size {
		fs.cutDirty(n, size, n.size)
		if n.small && int64(len(n.content)) > size {
			n.content = n.content[:size]
			n.smallGen++
		}
	}
	n.size, n.sizeDirty = size, false
	n.mtime = vfs.Time{} // the metadata's is later now
	fs.forgetLayout(n)
	if size == 0 && !n.small {
		n.small, n.content = true, nil
	}
	fs.unmarkDirty(n)
	n.merge(out)
	return nil
}

// cutDirty drops the dirty segments of a range and returns how many bytes were dirty.
// n.mu and n.flushMu are held.
func (fs *FS) cutDirty(n *node, from, to int64) (lost int64) {
	var freed int64
	for index, segs := range n.active {
		start := int64(index) * fs.chunk
		if start >= to || start+fs.chunk <= from {
			continue
		}
		f, l := segs.cut(uint32(max(from-start, 0)), uint32(min(to-start, fs.chunk)))
		freed, lost = freed+f, lost+l
		if len(segs.list) == 0 {
			delete(n.active, index)
		}
	}
	n.activeSpace -= freed
	n.activeBytes -= lost
	fs.dirty.Release(freed)
	fs.dirtyBytes.Add(-lost)
	if back := min(lost, n.reserved); back > 0 {
		n.reserved -= back
		fs.sess.Unreserve(n.ino, back)
	}
	return lost
}

// Allocate implements vfs.File.
func (f *file) Allocate(ctx context.Context, mode uint32, off, length int64) error {
	return f.fs.describe("fallocate", f.n, f.allocate(ctx, mode, off, length))
}

func (f *file) allocate(ctx context.Context, mode uint32, off, length int64) error {
	const known = unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_ZERO_RANGE
	fs, n := f.fs, f.n
	punch, zero := mode&unix.FALLOC_FL_PUNCH_HOLE != 0, mode&unix.FALLOC_FL_ZERO_RANGE != 0
	keep := mode&unix.FALLOC_FL_KEEP_SIZE != 0
	switch {
	case f.flags&syscall.O_ACCMODE == syscall.O_RDONLY:
		return syscall.EBADF
	case off < 0 || length <= 0:
		return syscall.EINVAL
	case mode&^known != 0 || punch && zero || punch && !keep:
		return syscall.EOPNOTSUPP
	case off > fs.maxSize()-length:
		return syscall.EFBIG
	}
	if err := fs.writable(); err != nil {
		return err
	}
	if fs.shared {
		return f.allocateShared(ctx, mode, off, length)
	}
	// Memory first: nothing may wait for it holding a lock that a flush needs.
	space := room(int(fs.inline)) + fs.inline
	if err := fs.acquire(ctx, space); err != nil {
		return err
	}
	var taken int64
	defer func() { fs.dirty.Release(space - taken) }()
	n.flushMu.Lock()
	defer n.flushMu.Unlock()
	end := off + length
	n.mu.Lock()
	if err := fs.load(ctx, n); err != nil {
		n.mu.Unlock()
		return err
	}
	if n.small {
		if punch || zero && (keep || end <= n.size) {
			defer n.mu.Unlock()
			taken = fs.zeroSmall(n, off, end)
			return nil
		}
		taken = fs.convert(n)
		if n.isDirty() {
			fs.markDirty(n)
		}
	}
	// Inline content must be in blocks before the engine allocates beside it.
	for n.hasInline {
		n.mu.Unlock()
		if err := fs.flushLocked(ctx, n); err != nil {
			return err
		}
		n.mu.Lock()
	}
	defer n.mu.Unlock()
	if err := fs.sess.Allocate(ctx, nobody, n.ino, mode, uint64(off), uint64(length)); err != nil {
		return err
	}
	if (punch || zero) && fs.cutDirty(n, off, end) > 0 {
		n.sizeDirty = true // their flush would have told it
	}
	if !keep && !punch {
		n.size = max(n.size, end)
	}
	n.mtime = vfs.Now()
	fs.forgetLayout(n)
	fs.unmarkDirty(n)
	return nil
}

// zeroSmall zeroes a range of a small file's content and returns the memory that
// took. n.mu is held for writing.
func (fs *FS) zeroSmall(n *node, off, end int64) (taken int64) {
	n.mtime = vfs.Now()
	if off < int64(len(n.content)) {
		taken, _ = fs.writeSmall(n, make([]byte, min(end, int64(len(n.content)))-off), off)
		fs.markDirty(n)
	}
	return taken
}

// Seek implements vfs.File.
func (f *file) Seek(ctx context.Context, off int64, whence int) (int64, error) {
	fs, n := f.fs, f.n
	if whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE || off < 0 {
		return 0, syscall.EINVAL
	}
	if fs.shared {
		return f.seekShared(ctx, off, whence)
	}
	n.mu.Lock()
	err := fs.load(ctx, n)
	small, size, content := n.small, n.size, int64(len(n.content))
	n.mu.Unlock()
	if err != nil {
		return 0, f.fs.describe("seek", n, err)
	}
	if off >= size {
		return 0, syscall.ENXIO
	}
	if small {
		switch {
		case whence == unix.SEEK_HOLE:
			return max(off, content), nil
		case off < content:
			return off, nil
		}
		return 0, syscall.ENXIO
	}
	if err := fs.flushNode(ctx, n); err != nil {
		return 0, fs.describe("seek", n, err)
	}
	return fs.sess.Seek(ctx, n.ino, off, whence)
}

// CopyRange implements vfs.CopyFS. Where both ranges lie in chunks the files share
// blocks afterwards; small ranges are copied.
func (fs *FS) CopyRange(ctx context.Context, in vfs.File, inOff int64, out vfs.File, outOff, length int64) (int64, error) {
	src, ok1 := in.(*file)
	dst, ok2 := out.(*file)
	if !ok1 || !ok2 || src.fs != fs || dst.fs != fs {
		return 0, syscall.EXDEV
	}
	switch {
	case src.flags&syscall.O_ACCMODE == syscall.O_WRONLY, dst.flags&syscall.O_ACCMODE == syscall.O_RDONLY, dst.flags&syscall.O_APPEND != 0:
		return 0, syscall.EBADF
	case inOff < 0 || outOff < 0 || length < 0:
		return 0, syscall.EINVAL
	case outOff > fs.maxSize()-length:
		return 0, syscall.EFBIG
	}
	if err := fs.writable(); err != nil {
		return 0, err
	}
	if src.n == dst.n && inOff < outOff+length && outOff < inOff+length {
		return 0, syscall.EINVAL
	}
	const worthSharing = 64 << 10
	if length >= worthSharing {
		share := fs.share
		if fs.shared {
			share = fs.shareShared
		}
		n, done, err := share(ctx, src.n, inOff, dst.n, outOff, length)
		if done || err != nil {
			return n, fs.describe("copy_file_range", dst.n, err)
		}
	}
	return fs.copyBytes(ctx, src, inOff, dst, outOff, length)
}

func (fs *FS) copyBytes(ctx context.Context, src *file, inOff int64, dst *file, outOff, length int64) (int64, error) {
	space := int64(min(length, writeStep))
	if err := fs.acquire(ctx, space); err != nil {
		return 0, fs.describe("copy_file_range", dst.n, err)
	}
	defer fs.dirty.Release(space)
	buf := make([]byte, space)
	var done int64
	for done < length {
		want := min(space, length-done)
		n, err := src.ReadAt(ctx, buf[:want], inOff+done)
		if n > 0 {
			n, err = dst.WriteAt(ctx, buf[:n], outOff+done)
			done += int64(n)
		}
		if err != nil && done == 0 {
			return 0, err
		}
		if err != nil || int64(n) < want {
			break // or the source has ended: in the same file, what was just copied may follow
		}
	}
	return done, nil
}

// share makes dst's range point to src's blocks. done is false where a file is
// small or is being written so fast that copying is as good.
func (fs *FS) share(ctx context.Context, src *node, inOff int64, dst *node, outOff, length int64) (n int64, done bool, err error) {
	first, second := src, dst
	if first.ino > second.ino {
		first, second = second, first
	}
	first.flushMu.Lock()
	defer first.flushMu.Unlock()
	if first != second {
		second.flushMu.Lock()
		defer second.flushMu.Unlock()
	}
	dst.mu.Lock()
	if err := fs.load(ctx, dst); err != nil {
		dst.mu.Unlock()
		return 0, false, err
	}
	inline := dst.small && (dst.hasInline || len(dst.content) > 0)
	dst.mu.Unlock()
	if inline {
		return 0, false, nil
	}
	for _, node := range []*node{src, dst} {
		if err := fs.flushLocked(ctx, node); err != nil {
			return 0, false, err
		}
	}
	// Lock order between nodes' mu: by inode number.
	first.mu.Lock()
	defer first.mu.Unlock()
	if first != second {
		second.mu.Lock()
		defer second.mu.Unlock()
	}
	if err := fs.load(ctx, src); err != nil {
		return 0, false, err
	}
	if src.small || src.isDirty() || dst.isDirty() || dst.hasInline {
		return 0, false, nil
	}
	if inOff >= src.size {
		return 0, true, nil
	}
	length = min(length, src.size-inOff)
	if err := fs.sess.CopyRange(ctx, nobody, src.ino, uint64(inOff), dst.ino, uint64(outOff), uint64(length)); err != nil {
		return 0, false, err
	}
	dst.small, dst.content = false, nil
	dst.size = max(dst.size, outOff+length)
	dst.mtime = vfs.Time{}
	fs.forgetLayout(dst)
	return length, true, nil
}
