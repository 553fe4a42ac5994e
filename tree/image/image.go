// Package image presents an image of package flist as a read-only tree.
//
// Names, attributes and extended attributes come from the image file, content from
// the stores, block by block when it is read: memory cache, disk cache, store. Every
// block is verified when it comes from a disk or a store (doc/image.md). Readers of one
// block share one fetch, sequential readers have blocks fetched ahead, and all memory
// that grows with use is the budget's.
//
// Nothing changes below the tree, so doors cache without an end. Inode numbers are
// those of the image, below 2^47, and mean the same in a successor process.
//
// # Exceptions
//
// Directories have a link count of 1, which says that it is not known: counting
// sub-directories would mean to read them all. Times of access are those of modification.
// Images of version 1 have neither nanoseconds, extended attributes nor hard links.
package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"sync/atomic"
	"syscall"

	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/flist"
	"github.com/massif-fs/massif/vfs"
)

// Fetcher gets the verified plain text of a block, written to dst; *flist.Router is one.
type Fetcher interface {
	Fetch(ctx context.Context, b flist.Block, dst []byte) ([]byte, error)
}

// Config is what an image is served with. Everything in it belongs to the caller, who
// closes it after the tree.
type Config struct {
	Image  flist.Image
	Blocks Fetcher
	Budget *cache.Budget // of Buffers, too
	Memory *cache.Memory
	Disk   *cache.Disk // nil: none
	// Parallel is how many blocks are fetched at once; 0: 16.
	Parallel int
	Logger   *slog.Logger // nil: slog.Default()
}

// FS is an image as a tree.
type FS struct {
	im     flist.Image
	blocks *blocks
	log    *slog.Logger
	closed atomic.Bool
}

var (
	_ vfs.FS          = (*FS)(nil)
	_ vfs.XattrFS     = (*FS)(nil)
	_ vfs.PolicyFS    = (*FS)(nil)
	_ vfs.StatelessFS = (*FS)(nil)
)

// New returns the tree of an image.
func New(cfg Config) (*FS, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = 16
	}
	b, err := newBlocks(cfg)
	if err != nil {
		return nil, err
	}
	return &FS{im: cfg.Image, blocks: b, log: cfg.Logger}, nil
}

// Policy implements vfs.PolicyFS.
func (fs *FS) Policy() vfs.Policy {
	return vfs.Policy{EntryValid: vfs.Forever, AttrValid: vfs.Forever, NegativeValid: vfs.Forever, KeepCache: true, Exclusive: true, ReadOnly: true}
}

// Close implements vfs.FS: it ends what is being fetched.
func (fs *FS) Close() error {
	if fs.closed.Swap(true) {
		return nil
	}
	fs.blocks.close()
	return nil
}

// Sync implements vfs.FS.
func (fs *FS) Sync(context.Context) error { return fs.usable() }

func (fs *FS) usable() error {
	if fs.closed.Load() {
		return syscall.EIO
	}
	return nil
}

// fail gives errors that are not bare errnos the operation and the inode.
func (fs *FS) fail(op string, ino vfs.Ino, err error) error {
	var errno syscall.Errno
	if err == nil || errors.As(err, &errno) && err == error(errno) {
		return err
	}
	return &vfs.Error{Op: op, Name: fmt.Sprintf("inode %d of the image", ino), Err: err}
}

func fill(a *flist.Attr, out *vfs.Attr) {
	*out = vfs.Attr{
		Ino: vfs.Ino(a.Ino), Mode: a.Mode, Nlink: a.Nlink, UID: a.UID, GID: a.GID, Rdev: a.Rdev,
		Size: a.Size, BlockSize: 4096, Blocks: (a.Size + 511) / 512, Atime: a.Mtime, Mtime: a.Mtime, Ctime: a.Ctime, Btime: a.Mtime,
	}
	if a.Type() == syscall.S_IFLNK {
		out.Blocks = 0
	}
}

func (fs *FS) fill(a *flist.Attr, out *vfs.Attr) {
	fill(a, out)
	out.NoXattrs = !fs.im.HasXattrs()
}

// StatFS implements vfs.FS: a full file system whose size is not known.
func (fs *FS) StatFS(ctx context.Context, _ *vfs.Caller, ino vfs.Ino, out *vfs.StatFS) error {
	if err := fs.usable(); err != nil {
		return err
	}
	if _, err := fs.im.Attr(ctx, uint64(ino)); err != nil {
		return fs.fail("statfs", ino, err)
	}
	n, err := fs.im.Inodes(ctx)
	if err != nil {
		return fs.fail("statfs", ino, err)
	}
	*out = vfs.StatFS{BlockSize: 4096, Files: n, MaxName: vfs.MaxName}
	return nil
}

// Lookup implements vfs.FS.
func (fs *FS) Lookup(ctx context.Context, _ *vfs.Caller, parent vfs.Ino, name string, out *vfs.Attr) error {
	if err := fs.usable(); err != nil {
		return err
	}
	var a flist.Attr
	var err error
	if name == ".." {
		var up uint64
		if up, err = fs.im.Parent(ctx, uint64(parent)); err == nil {
			a, err = fs.im.Attr(ctx, up)
		}
	} else if err = vfs.CheckName(name); err == nil {
		a, err = fs.im.Lookup(ctx, uint64(parent), name)
	}
	if err != nil {
		return fs.fail("lookup", parent, err)
	}
	fs.fill(&a, out)
	return nil
}

// GetAttr implements vfs.FS.
func (fs *FS) GetAttr(ctx context.Context, _ *vfs.Caller, ino vfs.Ino, out *vfs.Attr) error {
	if err := fs.usable(); err != nil {
		return err
	}
	a, err := fs.im.Attr(ctx, uint64(ino))
	if err != nil {
		return fs.fail("getattr", ino, err)
	}
	fs.fill(&a, out)
	return nil
}

// Readlink implements vfs.FS.
func (fs *FS) Readlink(ctx context.Context, _ *vfs.Caller, ino vfs.Ino) (string, error) {
	if err := fs.usable(); err != nil {
		return "", err
	}
	target, err := fs.im.Readlink(ctx, uint64(ino))
	return target, fs.fail("readlink", ino, err)
}

// GetXattr implements vfs.XattrFS.
func (fs *FS) GetXattr(ctx context.Context, _ *vfs.Caller, ino vfs.Ino, name string) ([]byte, error) {
	all, err := fs.xattrs(ctx, ino)
	if err != nil {
		return nil, err
	}
	value, ok := all[name]
	if !ok {
		return nil, syscall.ENODATA
	}
	return value, nil
}

// ListXattr implements vfs.XattrFS.
func (fs *FS) ListXattr(ctx context.Context, _ *vfs.Caller, ino vfs.Ino) ([]string, error) {
	all, err := fs.xattrs(ctx, ino)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	sort.Strings(names)
	return names, nil
}

func (fs *FS) xattrs(ctx context.Context, ino vfs.Ino) (map[string][]byte, error) {
	if err := fs.usable(); err != nil {
		return nil, err
	}
	if !fs.im.HasXattrs() {
		_, err := fs.im.Attr(ctx, uint64(ino))
		return nil, fs.fail("xattrs", ino, err)
	}
	all, err := fs.im.Xattrs(ctx, uint64(ino))
	if err == nil && all == nil {
		_, err = fs.im.Attr(ctx, uint64(ino))
	}
	return all, fs.fail("xattrs", ino, err)
}

// Nothing can be changed.

func (fs *FS) SetXattr(context.Context, *vfs.Caller, vfs.Ino, string, []byte, uint32) error {
	return syscall.EROFS
}
func (fs *FS) RemoveXattr(context.Context, *vfs.Caller, vfs.Ino, string) error { return syscall.EROFS }
func (fs *FS) SetAttr(context.Context, *vfs.Caller, vfs.Ino, *vfs.SetAttr, *vfs.Attr) error {
	return syscall.EROFS
}
func (fs *FS) Mknod(context.Context, *vfs.Caller, vfs.Ino, string, uint32, uint32, *vfs.Attr) error {
	return syscall.EROFS
}
func (fs *FS) Mkdir(context.Context, *vfs.Caller, vfs.Ino, string, uint32, *vfs.Attr) error {
	return syscall.EROFS
}
func (fs *FS) Symlink(context.Context, *vfs.Caller, vfs.Ino, string, string, *vfs.Attr) error {
	return syscall.EROFS
}
func (fs *FS) Link(context.Context, *vfs.Caller, vfs.Ino, vfs.Ino, string, *vfs.Attr) error {
	return syscall.EROFS
}
func (fs *FS) Unlink(context.Context, *vfs.Caller, vfs.Ino, string) error { return syscall.EROFS }
func (fs *FS) Rmdir(context.Context, *vfs.Caller, vfs.Ino, string) error  { return syscall.EROFS }
func (fs *FS) Rename(context.Context, *vfs.Caller, vfs.Ino, string, vfs.Ino, string, uint32) error {
	return syscall.EROFS
}
func (fs *FS) Create(context.Context, *vfs.Caller, vfs.Ino, string, uint32, int, *vfs.Attr) (vfs.File, error) {
	return nil, syscall.EROFS
}
