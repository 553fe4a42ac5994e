package flist

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/vfs"
)

// UnpackOptions say how Unpack writes a tree.
type UnpackOptions struct {
	// Owners keeps the owners of the image; otherwise everything is the caller's.
	Owners bool
	// Progress, if not nil, is called after each file.
	Progress func(UnpackStats)
}

// UnpackStats count what was written.
type UnpackStats struct {
	Inodes int64 `json:"inodes"`
	Bytes  int64 `json:"bytes"`
}

// maxDepth bounds how deep directories lie in each other.
const maxDepth = 4096

// Unpack writes the tree of an image below a directory, which must exist and be
// empty. It stops at the first error and leaves what it has written.
func Unpack(ctx context.Context, im Image, r *Router, dir string, o UnpackOptions) (UnpackStats, error) {
	u := &unpacker{im: im, r: r, o: o, links: map[uint64]string{}, buf: make([]byte, BlockSize)}
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > 0 {
		err = &vfs.Error{Op: "unpack", Name: dir, Err: syscall.ENOTEMPTY}
	}
	if err == nil {
		var fd int
		if fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
			defer unix.Close(fd)
			u.root = fd
			var a Attr
			if a, err = im.Attr(ctx, Root); err == nil {
				err = u.dir(ctx, fd, "", a, 0)
			}
		}
	}
	return u.stats, err
}

type unpacker struct {
	im    Image
	r     *Router
	o     UnpackOptions
	root  int
	stats UnpackStats
	links map[uint64]string // first path of inodes with several names
	buf   []byte
}

// dir fills an open directory and then gives it its attributes, as filling it changes
// its times and may need more permissions.
func (u *unpacker) dir(ctx context.Context, fd int, path string, a Attr, depth int) error {
	if depth > maxDepth {
		return badImage("its directories lie more than %d deep", maxDepth)
	}
	after := uint64(0)
	for {
		list, err := u.im.ReadDir(ctx, a.Ino, after, 256)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			break
		}
		for i := range list {
			e := &list[i]
			after = e.Cookie
			if err := u.entry(ctx, fd, path, e, depth); err != nil {
				return fmt.Errorf("/%s: %w", joinPath(path, e.Name), err)
			}
			u.stats.Inodes++
			if u.o.Progress != nil {
				u.o.Progress(u.stats)
			}
		}
	}
	return u.finish(ctx, fd, &a)
}

func (u *unpacker) entry(ctx context.Context, dir int, path string, e *Entry, depth int) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := checkEntry(e.Name, e.Attr.Mode); err != nil {
		return err
	}
	if e.Attr.Nlink > 1 && e.Attr.Type() != syscall.S_IFDIR {
		if first, ok := u.links[e.Attr.Ino]; ok {
			return unix.Linkat(u.root, first, dir, e.Name, 0)
		}
		u.links[e.Attr.Ino] = joinPath(path, e.Name)
	}
	switch e.Attr.Type() {
	case syscall.S_IFDIR:
		if err := unix.Mkdirat(dir, e.Name, 0o700); err != nil {
			return err
		}
		fd, err := unix.Openat(dir, e.Name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return u.dir(ctx, fd, joinPath(path, e.Name), e.Attr, depth+1)
	case syscall.S_IFREG:
		fd, err := unix.Openat(dir, e.Name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), e.Name)
		err = u.content(ctx, f, &e.Attr)
		if err == nil {
			err = u.finish(ctx, fd, &e.Attr)
		}
		return errors.Join(err, f.Close())
	case syscall.S_IFLNK:
		target, err := u.im.Readlink(ctx, e.Attr.Ino)
		if err == nil {
			err = unix.Symlinkat(target, dir, e.Name)
		}
		if err != nil {
			return err
		}
	default:
		major, minor := splitDevice(e.Attr.Rdev)
		if err := unix.Mknodat(dir, e.Name, e.Attr.Mode&(syscall.S_IFMT|0o777), int(unix.Mkdev(major, minor))); err != nil {
			return err
		}
	}
	return u.finishAt(ctx, dir, e)
}

func (u *unpacker) content(ctx context.Context, f *os.File, a *Attr) error {
	err := EachBlock(ctx, u.im, a, func(_ int64, b Block, want int) error {
		plain, err := u.r.Fetch(ctx, b, u.buf)
		if err != nil {
			return err
		}
		if len(plain) != want {
			return badImage("a block has %d bytes, not %d", len(plain), want)
		}
		u.stats.Bytes += int64(len(plain))
		_, err = f.Write(plain)
		return err
	})
	return err
}

// EachBlock calls fn with the blocks of a file, in order: the offset and the number of
// bytes that the file's size has it hold. Blocks that are missing at the end of the list
// are an error.
func EachBlock(ctx context.Context, im Image, a *Attr, fn func(off int64, b Block, size int) error) error {
	off := int64(0)
	for first := 0; off < int64(a.Size); {
		blocks, err := im.Blocks(ctx, a.Ino, first, 64)
		if err != nil {
			return err
		}
		if len(blocks) == 0 {
			return badImage("the file has %d bytes, and blocks only up to %d", a.Size, off)
		}
		for _, b := range blocks {
			want := min(int64(a.Size)-off, BlockSize)
			if want <= 0 {
				return nil // more blocks than the size has room for
			}
			if err := fn(off, b, int(want)); err != nil {
				return err
			}
			off += want
		}
		first += len(blocks)
	}
	return nil
}

func timespecs(a *Attr) []unix.Timespec {
	ts := unix.Timespec{Sec: a.Mtime.Sec, Nsec: int64(a.Mtime.Nsec)}
	return []unix.Timespec{ts, ts}
}

// finish gives an open file its attributes: the owner first, which takes set-id bits and
// capabilities away.
func (u *unpacker) finish(ctx context.Context, fd int, a *Attr) error {
	if u.o.Owners {
		if err := unix.Fchown(fd, int(a.UID), int(a.GID)); err != nil {
			return err
		}
	}
	if err := u.setXattrs(ctx, filepath.Join("/proc/self/fd", fmt.Sprint(fd)), a.Ino, unix.Setxattr); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, a.Mode&0o7777); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), timespecs(a), 0)
}

// finishAt does the same for what cannot be opened.
func (u *unpacker) finishAt(ctx context.Context, dir int, e *Entry) error {
	a := &e.Attr
	if u.o.Owners {
		if err := unix.Fchownat(dir, e.Name, int(a.UID), int(a.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	if err := u.setXattrs(ctx, fmt.Sprintf("/proc/self/fd/%d/%s", dir, e.Name), a.Ino, unix.Lsetxattr); err != nil {
		return err
	}
	if a.Type() != syscall.S_IFLNK {
		if err := unix.Fchmodat(dir, e.Name, a.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(dir, e.Name, timespecs(a), unix.AT_SYMLINK_NOFOLLOW)
}

func (u *unpacker) setXattrs(ctx context.Context, path string, ino uint64, set func(string, string, []byte, int) error) error {
	if !u.im.HasXattrs() {
		return nil
	}
	all, err := u.im.Xattrs(ctx, ino)
	if err != nil {
		return err
	}
	for name, value := range all {
		if err := set(path, name, value, 0); err != nil {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	return nil
}
