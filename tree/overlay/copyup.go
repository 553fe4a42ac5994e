package overlay

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// tempEntry names something new in the directory of things under construction.
func (fs *FS) tempEntry() string { return strconv.FormatUint(fs.serial.Add(1), 36) }

const wholeFile = int64(1<<63 - 1)

// copyUp gives a node an upper inode that is equal to its lower one, if it has none
// yet. Of a file only the first keep bytes are copied: a caller that is about to cut it
// there says so. mu is not held.
func (fs *FS) copyUp(ctx context.Context, n *node, keep int64) error {
	n.copying.Lock()
	defer n.copying.Unlock()
	fs.mu.RLock()
	done := n.upper != 0
	fs.mu.RUnlock()
	if done {
		return nil
	}
	if n.typ == typeDir {
		fs.mu.Lock()
		defer fs.mu.Unlock()
		return fs.copyUpDir(ctx, n)
	}
	select {
	case fs.copies <- struct{}{}:
		defer func() { <-fs.copies }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	var l vfs.Attr
	if err := fs.lower.GetAttr(ctx, &fs.self, n.lower, &l); err != nil {
		return fail("copy up", n.name, err)
	}
	size := min(int64(l.Size), keep)
	if n.typ != typeFile {
		size = 0
	}
	most := atMost(0, size)
	if err := fs.space.reserve(most); err != nil {
		return fail("copy up", n.name, vfs.WithErrno(syscall.ENOSPC, fmt.Errorf("its %d bytes do not fit into the layer: %w", size, err)))
	}
	temp := fs.tempEntry()
	grown := int64(0)
	defer func() { fs.space.settle(most, grown) }()
	u, err := fs.replica(ctx, n, &l, temp, size)
	if err == nil {
		fs.mu.Lock()
		err = fs.install(ctx, n, u, temp)
		fs.mu.Unlock()
	}
	if err != nil {
		// What is left of it the next opening removes.
		if rerr := fs.upper.Unlink(context.WithoutCancel(ctx), &fs.self, fs.temp, temp); rerr != nil && !errors.Is(rerr, syscall.ENOENT) {
			fs.log.Warn("a copy that failed was not removed", "error", rerr)
		}
		return fail("copy up", n.name, err)
	}
	grown = fs.begin(ctx, n)
	return nil
}

// replica makes a copy of a lower inode among the things under construction.
func (fs *FS) replica(ctx context.Context, n *node, l *vfs.Attr, temp string, size int64) (vfs.Ino, error) {
	var u vfs.Attr
	switch n.typ {
	case typeFile:
		f, err := fs.upper.Create(ctx, &fs.self, fs.temp, temp, 0o600, syscall.O_RDWR, &u)
		if err != nil {
			return 0, err
		}
		err = fs.copyData(ctx, f, n.lower, size)
		if err == nil {
			err = fs.dress(ctx, u.Ino, n.lower, l)
		}
		if err == nil && !fs.opts.Volatile {
			err = f.Sync(ctx, false)
		}
		return u.Ino, errors.Join(err, f.Close())
	case syscall.S_IFLNK:
		target, err := fs.lower.Readlink(ctx, &fs.self, n.lower)
		if err == nil {
			err = fs.upper.Symlink(ctx, &fs.self, fs.temp, temp, target, &u)
		}
		if err != nil {
			return 0, err
		}
	default:
		if err := fs.upper.Mknod(ctx, &fs.self, fs.temp, temp, n.typ|0o600, l.Rdev, &u); err != nil {
			return 0, err
		}
	}
	return u.Ino, fs.dress(ctx, u.Ino, n.lower, l)
}

// dress gives a copy the attributes of a lower inode: the owner first, whose change
// takes set-id bits and capabilities away.
func (fs *FS) dress(ctx context.Context, u, lower vfs.Ino, l *vfs.Attr) error {
	var a vfs.Attr
	if err := fs.upper.GetAttr(ctx, &fs.self, u, &a); err != nil {
		return err
	}
	if a.UID != l.UID || a.GID != l.GID {
		if err := fs.upper.SetAttr(ctx, &fs.self, u, &vfs.SetAttr{Valid: vfs.SetUID | vfs.SetGID, UID: l.UID, GID: l.GID}, &a); err != nil {
			return err
		}
	}
	if err := fs.copyXattrs(ctx, u, lower, l); err != nil {
		return err
	}
	if l.Type() != typeDir {
		err := fs.setMark(ctx, u, attrOrigin, binary.LittleEndian.AppendUint64(nil, uint64(lower)))
		if err != nil && (l.IsRegular() || !unmarkable(err)) {
			return err
		}
	}
	set := vfs.SetAttr{Valid: vfs.SetAtime | vfs.SetMtime, Atime: l.Atime, Mtime: l.Mtime}
	if l.Type() != syscall.S_IFLNK {
		set.Valid |= vfs.SetMode
		set.Mode = l.Mode & 0o7777
	}
	return fs.upper.SetAttr(ctx, &fs.self, u, &set, &a)
}

// unmarkable: links and devices take none of the attributes that need no privilege.
func unmarkable(err error) bool {
	switch vfs.ErrnoOf(err) {
	case syscall.EPERM, syscall.EACCES, syscall.EOPNOTSUPP:
		return true
	}
	return false
}

func (fs *FS) copyXattrs(ctx context.Context, u, lower vfs.Ino, l *vfs.Attr) error {
	x, ok := fs.lower.(vfs.XattrFS)
	if !ok || l.NoXattrs {
		return nil
	}
	names, err := x.ListXattr(ctx, &fs.self, lower)
	if errors.Is(err, syscall.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, fs.prefix) {
			continue
		}
		value, err := x.GetXattr(ctx, &fs.self, lower, name)
		if err == nil {
			err = fs.upper.SetXattr(ctx, &fs.self, u, name, value, 0)
		}
		if err != nil && !errors.Is(err, syscall.ENODATA) {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	return nil
}

const copyChunk = 1 << 20

var copyBuffers = sync.Pool{New: func() any { return new([copyChunk]byte) }}

// copyData copies the first size bytes of a lower file. Chunks of zeros become holes.
func (fs *FS) copyData(ctx context.Context, to vfs.File, lower vfs.Ino, size int64) (err error) {
	if size == 0 {
		return nil
	}
	from, err := fs.lower.Open(ctx, &fs.self, lower, syscall.O_RDONLY)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	buf := copyBuffers.Get().(*[copyChunk]byte)
	defer copyBuffers.Put(buf)
	for off := int64(0); off < size; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p := buf[:min(copyChunk, size-off)]
		n, err := from.ReadAt(ctx, p, off)
		if err != nil {
			return err
		}
		if n != len(p) {
			return vfs.WithErrno(syscall.EIO, fmt.Errorf("the lower file ends at %d, not at %d", off+int64(n), size))
		}
		for k := 0; k < n; k += unit {
			piece := p[k:min(k+unit, n)]
			if bytes.Equal(piece, zeros[:len(piece)]) {
				continue
			}
			// As many pieces as have something in them, in one write.
			end := k + len(piece)
			for end < n && !bytes.Equal(p[end:min(end+unit, n)], zeros[:min(unit, n-end)]) {
				end = min(end+unit, n)
			}
			if _, err := to.WriteAt(ctx, p[k:end], off+int64(k)); err != nil {
				return err
			}
			k = (end - 1) / unit * unit
		}
		off += int64(n)
	}
	return to.Truncate(ctx, size)
}

var zeros [unit]byte

// install puts a copy where the lower inode shows, in one step. mu is held for writing.
func (fs *FS) install(ctx context.Context, n *node, u vfs.Ino, temp string) error {
	switch {
	case n.shared:
		var l vfs.Attr
		if err := fs.lower.GetAttr(ctx, &fs.self, n.lower, &l); err != nil {
			return err
		}
		// The count first: without it the copy would have none of its names.
		if err := fs.setLowerNames(ctx, n.origin, l.Nlink); err != nil {
			return err
		}
		if err := fs.upper.Rename(ctx, &fs.self, fs.temp, temp, fs.index, indexKey(n.origin), vfs.RenameNoReplace); err != nil {
			return err
		}
		fs.table.copied(n, u)
	case n.orphan || n.parent == nil:
		// Nobody finds it by a name: it lives as long as it is used.
		fs.table.copied(n, u)
		return fs.upper.Unlink(ctx, &fs.self, fs.temp, temp)
	default:
		if err := fs.copyUpDir(ctx, n.parent); err != nil {
			return err
		}
		restore, err := fs.keepTimes(ctx, n.parent.upper)
		if err != nil {
			return err
		}
		if err := fs.upper.Rename(ctx, &fs.self, fs.temp, temp, n.parent.upper, n.name, vfs.RenameNoReplace); err != nil {
			return err
		}
		fs.table.copied(n, u)
		return restore()
	}
	return nil
}

// keepTimes returns what sets a directory's times back: a copy-up is no change of it.
func (fs *FS) keepTimes(ctx context.Context, dir vfs.Ino) (restore func() error, err error) {
	var a vfs.Attr
	if err := fs.upper.GetAttr(ctx, &fs.self, dir, &a); err != nil {
		return nil, err
	}
	return func() error {
		return fs.upper.SetAttr(ctx, &fs.self, dir, &vfs.SetAttr{Valid: vfs.SetAtime | vfs.SetMtime, Atime: a.Atime, Mtime: a.Mtime}, &a)
	}, nil
}

// copyUpDir gives a directory, and those above it, an upper one. mu is held for writing.
func (fs *FS) copyUpDir(ctx context.Context, n *node) error {
	if n.upper != 0 {
		return nil
	}
	if n.dead {
		return syscall.ENOENT
	}
	if err := fs.copyUpDir(ctx, n.parent); err != nil {
		return err
	}
	var l, u vfs.Attr
	if err := fs.lower.GetAttr(ctx, &fs.self, n.lower, &l); err != nil {
		return err
	}
	temp := fs.tempEntry()
	err := fs.upper.Mkdir(ctx, &fs.self, fs.temp, temp, 0o700, &u)
	if err != nil {
		return fail("copy up", n.name, err)
	}
	var restore func() error
	if err = fs.dress(ctx, u.Ino, n.lower, &l); err == nil {
		restore, err = fs.keepTimes(ctx, n.parent.upper)
	}
	if err == nil {
		err = fs.upper.Rename(ctx, &fs.self, fs.temp, temp, n.parent.upper, n.name, vfs.RenameNoReplace)
	}
	if err != nil {
		return fail("copy up", n.name, errors.Join(err, fs.upper.Rmdir(context.WithoutCancel(ctx), &fs.self, fs.temp, temp)))
	}
	fs.table.copied(n, u.Ino)
	return restore()
}

// The number of names that a lower inode of several names still has in the lower tree is
// the target of a link beside its copy in the index.

func countKey(lower vfs.Ino) string { return indexKey(lower) + ".names" }

func (fs *FS) lowerNames(ctx context.Context, lower vfs.Ino) (uint32, error) {
	var a vfs.Attr
	err := fs.upper.Lookup(ctx, &fs.self, fs.index, countKey(lower), &a)
	if errors.Is(err, syscall.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	text, err := fs.upper.Readlink(ctx, &fs.self, a.Ino)
	if err != nil {
		return 0, err
	}
	count, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, vfs.WithErrno(syscall.EIO, fmt.Errorf("the layer's count of names %q is no number", text))
	}
	return uint32(count), nil
}

func (fs *FS) setLowerNames(ctx context.Context, lower vfs.Ino, count uint32) error {
	var a vfs.Attr
	temp := fs.tempEntry()
	if err := fs.upper.Symlink(ctx, &fs.self, fs.temp, temp, strconv.FormatUint(uint64(count), 10), &a); err != nil {
		return err
	}
	return fs.upper.Rename(ctx, &fs.self, fs.temp, temp, fs.index, countKey(lower), 0)
}
