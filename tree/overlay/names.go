package overlay

import (
	"context"
	"errors"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// checkNew refuses names that cannot be given.
func (fs *FS) checkNew(dir *node, name string) error {
	if err := vfs.CheckName(name); err != nil {
		return err
	}
	if dir == fs.root && name == workName {
		return syscall.EPERM
	}
	return nil
}

// vacant finds that a name can be made in a directory, which it copies up. mu is held
// for writing.
func (fs *FS) vacant(ctx context.Context, dir *node, name string) (place, error) {
	if err := fs.checkNew(dir, name); err != nil {
		return place{}, err
	}
	if dir.dead {
		return place{}, syscall.ENOENT
	}
	p, err := fs.find(ctx, dir, name)
	if err == nil && p.n != nil {
		err = syscall.EEXIST
	}
	if err == nil {
		err = fs.copyUpDir(ctx, dir)
	}
	return p, err
}

// create makes something new by mk. mu is held for writing.
func (fs *FS) create(ctx context.Context, dir *node, name string, typ uint32, out *vfs.Attr, mk func(parent vfs.Ino, name string) error) (*node, error) {
	p, err := fs.vacant(ctx, dir, name)
	if err != nil {
		return nil, err
	}
	if p.whiteout {
		err = fs.createOver(ctx, dir, name, typ == typeDir, mk)
	} else {
		err = mk(dir.upper, name)
	}
	if err != nil {
		return nil, err
	}
	dir.added++
	n := &node{ino: upperNumber(out.Ino), typ: typ, upper: out.Ino}
	if typ == typeDir {
		n.parent, n.name = dir, name
	}
	n = fs.table.add(n)
	return n, fs.adjust(ctx, n, out)
}

// createOver makes something new where a whiteout is. It is made in a directory under
// construction that is like the one where it will be, so that it inherits the same, and a
// directory is opaque before it shows.
func (fs *FS) createOver(ctx context.Context, dir *node, name string, isDir bool, mk func(parent vfs.Ino, name string) error) (err error) {
	stage := fs.tempEntry()
	var s vfs.Attr
	if err := fs.upper.Mkdir(ctx, &fs.self, fs.temp, stage, 0o700, &s); err != nil {
		return err
	}
	defer func() {
		if derr := fs.discard(context.WithoutCancel(ctx), fs.temp, stage, true); derr != nil {
			fs.log.Warn("something under construction was not removed", "error", derr)
		}
	}()
	if err := fs.resemble(ctx, s.Ino, dir.upper); err != nil {
		return err
	}
	const made = "new"
	if err := mk(s.Ino, made); err != nil {
		return err
	}
	if !isDir {
		return fs.upper.Rename(ctx, &fs.self, s.Ino, made, dir.upper, name, 0)
	}
	var a vfs.Attr
	if err := fs.upper.Lookup(ctx, &fs.self, s.Ino, made, &a); err != nil {
		return err
	}
	if err := fs.setMark(ctx, a.Ino, attrOpaque, []byte("y")); err != nil {
		return err
	}
	return fs.upper.Rename(ctx, &fs.self, s.Ino, made, dir.upper, name, vfs.RenameExchange)
}

// resemble gives an upper directory owner, mode and ACLs of another one.
func (fs *FS) resemble(ctx context.Context, ino, like vfs.Ino) error {
	var a, b vfs.Attr
	if err := fs.upper.GetAttr(ctx, &fs.self, like, &a); err != nil {
		return err
	}
	if err := fs.upper.SetAttr(ctx, &fs.self, ino, &vfs.SetAttr{Valid: vfs.SetUID | vfs.SetGID, UID: a.UID, GID: a.GID}, &b); err != nil {
		return err
	}
	if !a.NoXattrs {
		for _, name := range []string{vfs.XattrACLDefault, vfs.XattrACLAccess} {
			acl, err := fs.upper.GetXattr(ctx, &fs.self, like, name)
			switch vfs.ErrnoOf(err) {
			case syscall.ENODATA, syscall.EOPNOTSUPP:
				continue
			case 0:
				err = fs.upper.SetXattr(ctx, &fs.self, ino, name, acl, 0)
			}
			if err != nil {
				return err
			}
		}
	}
	return fs.upper.SetAttr(ctx, &fs.self, ino, &vfs.SetAttr{Valid: vfs.SetMode, Mode: a.Mode & 0o7777}, &b)
}

// lockedCreate is create with everything around it.
func (fs *FS) lockedCreate(ctx context.Context, op string, parent vfs.Ino, name string, typ uint32, out *vfs.Attr, mk func(parent vfs.Ino, name string) error) (*node, error) {
	dir, err := fs.dirOf(parent)
	if err != nil {
		return nil, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.create(ctx, dir, name, typ, out, mk)
	return n, fail(op, name, err)
}

// Mknod implements vfs.FS.
func (fs *FS) Mknod(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, rdev uint32, out *vfs.Attr) error {
	if mode&syscall.S_IFMT == syscall.S_IFCHR && rdev == 0 {
		return syscall.EPERM // it would be a whiteout
	}
	_, err := fs.lockedCreate(ctx, "mknod", parent, name, mode&syscall.S_IFMT, out, func(dir vfs.Ino, name string) error {
		return fs.upper.Mknod(ctx, c, dir, name, mode, rdev, out)
	})
	return err
}

// Mkdir implements vfs.FS.
func (fs *FS) Mkdir(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, out *vfs.Attr) error {
	_, err := fs.lockedCreate(ctx, "mkdir", parent, name, typeDir, out, func(dir vfs.Ino, name string) error {
		return fs.upper.Mkdir(ctx, c, dir, name, mode, out)
	})
	return err
}

// Symlink implements vfs.FS.
func (fs *FS) Symlink(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name, target string, out *vfs.Attr) error {
	_, err := fs.lockedCreate(ctx, "symlink", parent, name, syscall.S_IFLNK, out, func(dir vfs.Ino, name string) error {
		return fs.upper.Symlink(ctx, c, dir, name, target, out)
	})
	return err
}

// Create implements vfs.FS.
func (fs *FS) Create(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, flags int, out *vfs.Attr) (vfs.File, error) {
	var f vfs.File
	n, err := fs.lockedCreate(ctx, "create", parent, name, typeFile, out, func(dir vfs.Ino, name string) (err error) {
		f, err = fs.upper.Create(ctx, c, dir, name, mode, flags, out)
		return err
	})
	if err != nil {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
		return nil, err
	}
	return fs.newFile(n, f, flags, true), nil
}

var _ vfs.TmpfileFS = (*FS)(nil)

// Tmpfile implements vfs.TmpfileFS; EOPNOTSUPP if the upper tree does not.
func (fs *FS) Tmpfile(ctx context.Context, c *vfs.Caller, parent vfs.Ino, mode uint32, flags int, out *vfs.Attr) (vfs.File, error) {
	upper, ok := fs.upper.(vfs.TmpfileFS)
	if !ok {
		return nil, syscall.EOPNOTSUPP
	}
	dir, err := fs.dirOf(parent)
	if err != nil {
		return nil, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if err := fs.copyUpDir(ctx, dir); err != nil {
		return nil, err
	}
	f, err := upper.Tmpfile(ctx, c, dir.upper, mode, flags, out)
	if err != nil {
		return nil, err
	}
	n := fs.table.add(&node{ino: upperNumber(out.Ino), typ: typeFile, upper: out.Ino})
	file := fs.newFile(n, f, flags, true)
	fs.table.orphaned(n)
	return file, fs.adjust(ctx, n, out)
}

// Link implements vfs.FS.
func (fs *FS) Link(ctx context.Context, _ *vfs.Caller, ino vfs.Ino, parent vfs.Ino, name string, out *vfs.Attr) error {
	dir, err := fs.dirOf(parent)
	if err != nil {
		return err
	}
	n, err := fs.get(ino)
	if err != nil {
		return err
	}
	if n.typ == typeDir {
		return syscall.EPERM
	}
	if err := fs.probe(ctx, dir, name); err != nil {
		return err
	}
	if err := fs.copyUp(ctx, n, wholeFile); err != nil {
		return err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	p, err := fs.vacant(ctx, dir, name)
	if err != nil {
		return fail("link", name, err)
	}
	if p.whiteout {
		temp := fs.tempEntry()
		if err = fs.upper.Link(ctx, &fs.self, n.upper, fs.temp, temp, out); err == nil {
			err = fs.upper.Rename(ctx, &fs.self, fs.temp, temp, dir.upper, name, 0)
		}
	} else {
		err = fs.upper.Link(ctx, &fs.self, n.upper, dir.upper, name, out)
	}
	if err != nil {
		return fail("link", name, err)
	}
	dir.added++
	fs.table.adopted(n)
	return fs.stat(ctx, n, out)
}

// probe finds early that a name is there already, before anything is copied for it.
func (fs *FS) probe(ctx context.Context, dir *node, name string) error {
	if err := fs.checkNew(dir, name); err != nil {
		return err
	}
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	p, err := fs.find(ctx, dir, name)
	if err == nil && p.n != nil {
		err = syscall.EEXIST
	}
	return err
}

// settled finds a name for a change that removes or moves it, with mu held for writing
// when it returns without an error. A lower inode of several names is copied up before it
// loses one, so that they can be counted, and with copy one of a single name, too.
func (fs *FS) settled(ctx context.Context, dir *node, name string, copy bool) (place, error) {
	tried := false
	for {
		fs.mu.Lock()
		p, err := fs.find(ctx, dir, name)
		if err == nil && p.n == nil {
			err = syscall.ENOENT
		}
		if err != nil {
			fs.mu.Unlock()
			return p, err
		}
		if p.n.typ == typeDir || p.n.upper != 0 || !copy && (tried || !p.n.shared) {
			return p, nil
		}
		fs.mu.Unlock()
		tried = true
		if err := fs.copyUp(ctx, p.n, wholeFile); err != nil && (copy || ctx.Err() != nil) {
			return p, err
		}
		// Without room for a copy a name can be removed all the same; the count of names
		// is one too high then.
	}
}

// Unlink implements vfs.FS.
func (fs *FS) Unlink(ctx context.Context, _ *vfs.Caller, parent vfs.Ino, name string) error {
	dir, err := fs.dirOf(parent)
	if err != nil {
		return err
	}
	if err := vfs.CheckName(name); err != nil {
		return err
	}
	p, err := fs.settled(ctx, dir, name, false)
	if err != nil {
		return fail("unlink", name, err)
	}
	defer fs.mu.Unlock()
	if p.n.typ == typeDir {
		return syscall.EISDIR
	}
	if err := fs.hide(ctx, dir, name, p); err != nil {
		return fail("unlink", name, err)
	}
	return fail("unlink", name, fs.lost(ctx, dir, name, p))
}

// hide removes what is no directory from a directory. mu is held for writing.
func (fs *FS) hide(ctx context.Context, dir *node, name string, p place) error {
	switch {
	case !p.covered:
		return fs.upper.Unlink(ctx, &fs.self, dir.upper, name)
	case !p.upper:
		if err := fs.copyUpDir(ctx, dir); err != nil {
			return err
		}
		return fs.whiteout(ctx, dir.upper, name)
	}
	return fs.whiteoutOver(ctx, dir.upper, name)
}

// whiteout makes a whiteout where the upper tree has nothing.
func (fs *FS) whiteout(ctx context.Context, dir vfs.Ino, name string) error {
	var a vfs.Attr
	return fs.upper.Mknod(ctx, &fs.self, dir, name, syscall.S_IFCHR, 0, &a)
}

// whiteoutOver puts a whiteout in the place of an upper entry that is no directory.
func (fs *FS) whiteoutOver(ctx context.Context, dir vfs.Ino, name string) error {
	temp := fs.tempEntry()
	if err := fs.whiteout(ctx, fs.temp, temp); err != nil {
		return err
	}
	return fs.upper.Rename(ctx, &fs.self, fs.temp, temp, dir, name, 0)
}

// lost notes that a node, no directory, has lost a name. mu is held for writing.
func (fs *FS) lost(ctx context.Context, dir *node, name string, p place) error {
	n := p.n
	if n.parent == dir && n.name == name {
		fs.table.moved(n, nil, "")
	}
	if n.upper == 0 {
		if !n.shared {
			fs.table.orphaned(n)
		}
		return nil
	}
	var a vfs.Attr
	if err := fs.upper.GetAttr(ctx, &fs.self, n.upper, &a); err != nil {
		if !errors.Is(err, syscall.ESTALE) {
			return err
		}
		a.Nlink = 0
	}
	if !n.shared {
		if a.Nlink == 0 {
			fs.table.orphaned(n)
		}
		return nil
	}
	left, err := fs.lowerNames(ctx, n.origin)
	if err != nil {
		return err
	}
	if !p.upper && left > 0 {
		left--
		if err := fs.setLowerNames(ctx, n.origin, left); err != nil {
			return err
		}
	}
	if left > 0 || a.Nlink > 1 {
		return nil
	}
	fs.table.orphaned(n)
	return errors.Join(fs.upper.Unlink(ctx, &fs.self, fs.index, indexKey(n.origin)), fs.upper.Unlink(ctx, &fs.self, fs.index, countKey(n.origin)))
}

// Rmdir implements vfs.FS.
func (fs *FS) Rmdir(ctx context.Context, _ *vfs.Caller, parent vfs.Ino, name string) error {
	dir, err := fs.dirOf(parent)
	if err != nil {
		return err
	}
	if err := vfs.CheckName(name); err != nil {
		return err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	p, err := fs.find(ctx, dir, name)
	switch {
	case err != nil:
	case p.n == nil:
		err = syscall.ENOENT
	case p.n.typ != typeDir:
		err = syscall.ENOTDIR
	default:
		if err = fs.empty(ctx, p.n); err == nil {
			err = fs.removeDir(ctx, dir, name, p)
		}
	}
	return fail("rmdir", name, err)
}

// removeDir removes a directory that shows nothing. mu is held for writing.
func (fs *FS) removeDir(ctx context.Context, dir *node, name string, p place) (err error) {
	temp := fs.tempEntry()
	switch {
	case !p.upper:
		if err = fs.copyUpDir(ctx, dir); err == nil {
			err = fs.whiteout(ctx, dir.upper, name)
		}
	case p.covered:
		if err = fs.whiteout(ctx, fs.temp, temp); err == nil {
			err = fs.upper.Rename(ctx, &fs.self, fs.temp, temp, dir.upper, name, vfs.RenameExchange)
		}
	default:
		err = fs.upper.Rename(ctx, &fs.self, dir.upper, name, fs.temp, temp, vfs.RenameNoReplace)
	}
	if err != nil {
		return err
	}
	if p.upper {
		// It holds whiteouts at most. What is left of it the next opening removes.
		if derr := fs.discard(context.WithoutCancel(ctx), fs.temp, temp, true); derr != nil {
			fs.log.Warn("a removed directory was not cleaned up", "error", derr)
		}
	}
	p.n.dead = true
	fs.table.orphaned(p.n)
	return nil
}

// empty tells by ENOTEMPTY that a directory shows something. mu is held.
func (fs *FS) empty(ctx context.Context, n *node) error {
	list, err := fs.list(ctx, n, true)
	if err == nil && len(list) > 0 {
		err = syscall.ENOTEMPTY
	}
	return err
}
