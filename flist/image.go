package flist

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// Root is the number of an image's root directory.
const Root uint64 = 1

// BlockSize is how many bytes of a file a block holds; the last one may hold less.
const BlockSize = 512 << 10

// Image is an open image. All methods may be called concurrently. Inode numbers that
// mean nothing give ESTALE; what is wrong with the image itself gives errors that
// wrap [ErrFormat] and EIO.
type Image interface {
	// Version is 1 or 2.
	Version() Version
	// Attr returns the attributes of an inode.
	Attr(ctx context.Context, ino uint64) (Attr, error)
	// Parent returns the directory that a directory lies in; the root's is the root.
	Parent(ctx context.Context, dir uint64) (uint64, error)
	// Lookup finds a name in a directory; ENOENT.
	Lookup(ctx context.Context, dir uint64, name string) (Attr, error)
	// ReadDir returns up to n entries of a directory behind the position after (0: the
	// first ones), fewer only at the end. Each has its position in Cookie.
	ReadDir(ctx context.Context, dir uint64, after uint64, n int) ([]Entry, error)
	// Readlink returns the target of a symbolic link.
	Readlink(ctx context.Context, ino uint64) (string, error)
	// Blocks returns up to n blocks of a regular file from number first on, fewer only
	// at the end of the list, which may come too early (see doc/image.md).
	Blocks(ctx context.Context, ino uint64, first, n int) ([]Block, error)
	// Xattrs returns the extended attributes by name; nil if there are none.
	Xattrs(ctx context.Context, ino uint64) (map[string][]byte, error)
	// HasXattrs tells whether any inode has some.
	HasXattrs() bool
	// Tags are what the image says about itself, by key: metadata of version 1, tags of
	// version 2.
	Tags(ctx context.Context) (map[string]string, error)
	// Routes tell where the blocks are, in the order in which pools of stores are to be
	// asked; empty if the image does not say.
	Routes(ctx context.Context) (Routes, error)
	// Inodes is the number of inodes, as far as it is cheap to know: in version 1 of
	// directories alone.
	Inodes(ctx context.Context) (uint64, error)
	Close() error
}

// Attr are the attributes of an inode of an image.
type Attr struct {
	Ino   uint64
	Mode  uint32 // type and permission bits
	UID   uint32
	GID   uint32
	Rdev  uint32 // of devices, as vfs.Attr has it
	Nlink uint32 // 1 for directories: not counted
	Size  uint64 // bytes
	Mtime vfs.Time
	Ctime vfs.Time
}

// Type returns the type bits of the mode.
func (a *Attr) Type() uint32 { return a.Mode & syscall.S_IFMT }

// Entry is an entry of a directory.
type Entry struct {
	Name   string
	Attr   Attr
	Cookie uint64 // position behind it; 3 or greater
}

// ErrFormat is wrapped by errors that are an image's own fault.
var ErrFormat = errors.New("the image is damaged")

// badImage says what is wrong with an image.
func badImage(format string, args ...any) error {
	return vfs.WithErrno(syscall.EIO, fmt.Errorf("%w: %w", ErrFormat, fmt.Errorf(format, args...)))
}

func stale(ino uint64) error {
	return &vfs.Error{Op: "inode", Name: fmt.Sprint(ino), Err: syscall.ESTALE}
}

// checkEntry refuses names that no directory can hold, and what is no inode at all.
func checkEntry(name string, mode uint32) error {
	if err := vfs.CheckName(name); err != nil {
		return badImage("%.40q is no file name", name)
	}
	switch mode & syscall.S_IFMT {
	case syscall.S_IFREG, syscall.S_IFDIR, syscall.S_IFLNK, syscall.S_IFIFO, syscall.S_IFSOCK, syscall.S_IFCHR, syscall.S_IFBLK:
		return nil
	}
	return badImage("%.40q has mode %#o, which is no type of file", name, mode)
}

// maxFileSize is the greatest size of a file that is believed.
const maxFileSize = 1 << 50
