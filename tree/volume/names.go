package volume

import (
	"context"
	"syscall"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// nobody is the caller of what the tree does on its own account.
var nobody = &vfs.Caller{}

// The metadata know of dirty data only after its flush, so what they say of a
// file is merged with its node. A node can be flushed and dropped between the two
// looks; flushGen tells that a flush has ended meanwhile, and the metadata are
// asked again.

// merge puts what n knows better than the metadata into a. n.mu is held.
func (n *node) merge(a *vfs.Attr) {
	if !n.loaded {
		return
	}
	a.Size = uint64(n.size)
	if n.mtime != (vfs.Time{}) && a.Mtime.Before(n.mtime) {
		a.Mtime = n.mtime
	}
	if n.mtime != (vfs.Time{}) && a.Ctime.Before(n.mtime) {
		a.Ctime = n.mtime
	}
	if n.activeBytes > 0 || n.frozenSpace > 0 {
		// An estimate until the flush: as if nothing dirty overwrote anything.
		a.Blocks += uint64(n.activeBytes+n.frozenSpace+511) / 512
	}
}

// fresh merges a, which the metadata gave after gen was read, with the node.
func (fs *FS) fresh(ctx context.Context, a *vfs.Attr, gen uint64) error {
	if fs.shared {
		return fs.freshShared(ctx, a, gen)
	}
	for a.IsRegular() {
		if n := fs.peek(a.Ino); n != nil {
			n.mu.RLock()
			n.merge(a)
			n.mu.RUnlock()
			return nil
		}
		now := fs.flushGen.Load()
		if now == gen {
			return nil
		}
		gen = now
		if err := fs.sess.GetAttr(ctx, nobody, a.Ino, a); err != nil {
			return err
		}
	}
	return nil
}

// StatFS implements vfs.FS.
func (fs *FS) StatFS(ctx context.Context, c *vfs.Caller, ino vfs.Ino, out *vfs.StatFS) error {
	if fs.closing.Load() {
		return errClosed
	}
	if err := fs.sess.StatFS(ctx, c, ino, out); err != nil {
		return err
	}
	if fs.cfg.Space == nil || fs.sess.Format().QuotaBytes != 0 || out.BlockSize == 0 {
		return nil
	}
	total, free, err := fs.cfg.Space()
	if err != nil {
		return &vfs.Error{Op: "statfs", Name: fs.sess.Format().Name, Err: err}
	}
	// A directory quota that is tighter than the store stays in force.
	if bs := uint64(out.BlockSize); out.BlocksFree > free/bs {
		out.Blocks, out.BlocksFree = total/bs, free/bs
	}
	return nil
}

// Lookup implements vfs.FS.
func (fs *FS) Lookup(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, out *vfs.Attr) error {
	if fs.closing.Load() {
		return errClosed
	}
	gen := fs.flushGen.Load()
	if err := fs.sess.Lookup(ctx, c, parent, name, out); err != nil {
		return err
	}
	return fs.fresh(ctx, out, gen)
}

// GetAttr implements vfs.FS.
func (fs *FS) GetAttr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, out *vfs.Attr) error {
	if fs.closing.Load() {
		return errClosed
	}
	gen := fs.flushGen.Load()
	if err := fs.sess.GetAttr(ctx, c, ino, out); err != nil {
		return err
	}
	return fs.fresh(ctx, out, gen)
}

// SetAttr implements vfs.FS.
func (fs *FS) SetAttr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, set *vfs.SetAttr, out *vfs.Attr) error {
	if set.Has(vfs.SetSize) {
		return fs.truncate(ctx, c, ino, set, out)
	}
	if err := fs.writable(); err != nil {
		return err
	}
	n := fs.useIfPresent(ino)
	if n == nil {
		gen := fs.flushGen.Load()
		if err := fs.sess.SetAttr(ctx, c, ino, set, out); err != nil {
			return err
		}
		return fs.fresh(ctx, out, gen)
	}
	defer fs.drop(n)
	if fs.shared {
		return fs.setAttrShared(ctx, c, n, set, out)
	}
	// A flush under way carries the time of its writes: it must not come after
	// a time that is set now.
	if set.Valid&(vfs.SetMtime|vfs.SetMtimeNow) != 0 {
		n.flushMu.Lock()
		defer n.flushMu.Unlock()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := fs.sess.SetAttr(ctx, c, ino, set, out); err != nil {
		return err
	}
	if set.Valid&(vfs.SetMtime|vfs.SetMtimeNow) != 0 {
		n.mtime = vfs.Time{}
	}
	n.merge(out)
	return nil
}

// Readlink implements vfs.FS.
func (fs *FS) Readlink(ctx context.Context, c *vfs.Caller, ino vfs.Ino) (string, error) {
	return fs.sess.Readlink(ctx, c, ino)
}

// Mknod implements vfs.FS.
func (fs *FS) Mknod(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode, rdev uint32, out *vfs.Attr) error {
	if err := fs.writable(); err != nil {
		return err
	}
	return fs.sess.Mknod(ctx, c, parent, name, mode, rdev, out)
}

// Mkdir implements vfs.FS.
func (fs *FS) Mkdir(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, out *vfs.Attr) error {
	if err := fs.writable(); err != nil {
		return err
	}
	return fs.sess.Mkdir(ctx, c, parent, name, mode, out)
}

// Symlink implements vfs.FS.
func (fs *FS) Symlink(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name, target string, out *vfs.Attr) error {
	if err := fs.writable(); err != nil {
		return err
	}
	return fs.sess.Symlink(ctx, c, parent, name, target, out)
}

// Link implements vfs.FS.
func (fs *FS) Link(ctx context.Context, c *vfs.Caller, ino, parent vfs.Ino, name string, out *vfs.Attr) error {
	if err := fs.writable(); err != nil {
		return err
	}
	gen := fs.flushGen.Load()
	if err := fs.sess.Link(ctx, c, ino, parent, name, out); err != nil {
		return err
	}
	if n := fs.peek(ino); n != nil {
		n.unlinked.Store(false)
	}
	return fs.fresh(ctx, out, gen)
}

// Create implements vfs.FS.
func (fs *FS) Create(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, flags int, out *vfs.Attr) (vfs.File, error) {
	if creator, ok := fs.sess.(meta.Creator); ok {
		if err := fs.writable(); err != nil {
			return nil, err
		}
		if err := creator.Create(ctx, c, parent, name, mode&07777, out); err != nil {
			return nil, err
		}
		defer fs.sess.Release(out.Ino, 1) // the File counts itself
	} else if err := fs.Mknod(ctx, c, parent, name, mode&07777|syscall.S_IFREG, 0, out); err != nil {
		return nil, err
	}
	fs.made(out)
	return fs.open(ctx, out.Ino, flags, true)
}

// Tmpfile implements vfs.TmpfileFS.
func (fs *FS) Tmpfile(ctx context.Context, c *vfs.Caller, parent vfs.Ino, mode uint32, flags int, out *vfs.Attr) (vfs.File, error) {
	if err := fs.writable(); err != nil {
		return nil, err
	}
	if err := fs.sess.Tmpfile(ctx, c, parent, mode, flags&syscall.O_EXCL == 0, out); err != nil {
		return nil, err
	}
	defer fs.sess.Release(out.Ino, 1) // the File counts itself
	n := fs.use(out.Ino)
	n.unlinked.Store(true)
	defer fs.drop(n)
	fs.made(out)
	return fs.open(ctx, out.Ino, flags&^syscall.O_EXCL, true)
}

// Unlink implements vfs.FS.
func (fs *FS) Unlink(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string) error {
	if err := fs.writable(); err != nil {
		return err
	}
	var a vfs.Attr
	if err := fs.sess.Unlink(ctx, c, parent, name, &a); err != nil {
		return err
	}
	fs.lostName(&a)
	return nil
}

// lostName takes note that an inode lost a name, a being what is left of it.
func (fs *FS) lostName(a *vfs.Attr) {
	if a.Ino == 0 || a.Nlink > 0 || !a.IsRegular() {
		return
	}
	n := fs.useIfPresent(a.Ino)
	if n == nil {
		return
	}
	n.unlinked.Store(true)
	fs.reap(n)
	fs.drop(n)
}

// Pin implements vfs.Pinner.
func (fs *FS) Pin(ino vfs.Ino) { fs.sess.Open(ino) }

// Unpin implements vfs.Pinner.
func (fs *FS) Unpin(ino vfs.Ino) {
	fs.sess.Release(ino, 1)
	if n := fs.useIfPresent(ino); n != nil {
		fs.reap(n)
		fs.drop(n)
	}
}

// Rmdir implements vfs.FS.
func (fs *FS) Rmdir(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string) error {
	if err := fs.writable(); err != nil {
		return err
	}
	return fs.sess.Rmdir(ctx, c, parent, name)
}

// Rename implements vfs.FS.
func (fs *FS) Rename(ctx context.Context, c *vfs.Caller, oldParent vfs.Ino, oldName string, newParent vfs.Ino, newName string, flags uint32) error {
	if err := fs.writable(); err != nil {
		return err
	}
	var replaced vfs.Attr
	if err := fs.sess.Rename(ctx, c, oldParent, oldName, newParent, newName, flags, &replaced); err != nil {
		return err
	}
	if flags&vfs.RenameExchange == 0 {
		fs.lostName(&replaced)
	}
	return nil
}

// dir is an open directory: its position is in the cookies, so it has no state.
type dir struct {
	fs  *FS
	ino vfs.Ino
}

// OpenDir implements vfs.FS.
func (fs *FS) OpenDir(ctx context.Context, c *vfs.Caller, ino vfs.Ino) (vfs.Dir, error) {
	if fs.closing.Load() {
		return nil, errClosed
	}
	var a vfs.Attr
	if err := fs.sess.GetAttr(ctx, c, ino, &a); err != nil {
		return nil, err
	}
	if !a.IsDir() {
		return nil, syscall.ENOTDIR
	}
	fs.sess.Open(ino)
	return &dir{fs: fs, ino: ino}, nil
}

// Read implements vfs.Dir.
func (d *dir) Read(ctx context.Context, cookie uint64, plus bool, emit func(*vfs.DirEntry) bool) error {
	gen := d.fs.flushGen.Load()
	var failed error
	err := d.fs.sess.ReadDir(ctx, nobody, d.ino, cookie, plus, func(e *vfs.DirEntry) bool {
		if e.HasAttr {
			if failed = d.fs.fresh(ctx, &e.Attr, gen); failed != nil {
				return false
			}
		}
		return emit(e)
	})
	if failed != nil {
		return failed
	}
	return err
}

// Sync implements vfs.Dir.
func (d *dir) Sync(ctx context.Context) error { return meta.SyncInode(ctx, d.fs.sess, d.ino) }

// Close implements vfs.Dir.
func (d *dir) Close() error {
	d.fs.sess.Release(d.ino, 1)
	return nil
}
