package namespace

import (
	"context"
	"path"
	"strings"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// Lookup implements vfs.FS.
func (ns *FS) Lookup(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, out *vfs.Attr) error {
	t, err := ns.at(ctx, parent)
	if err != nil {
		return err
	}
	defer t.leave()
	if name == ".." {
		return ns.lookupParent(ctx, c, &t, out)
	}
	if t.u == nil {
		p, err := ns.lookupIn(ctx, c, t.o, t.p, t.ino, name, out)
		if err != nil {
			return err
		}
		return ns.shown(p, t.o, out)
	}
	if err := vfs.CheckName(name); err != nil {
		return err
	}
	f, err := ns.resolve(ctx, c, t.u, name)
	if err != nil {
		return err
	}
	if f.union {
		u := ns.unionAt(path.Join(t.u.path, name), inheritedLayers(f.dirs), true)
		ns.unionAttr(u.ino, f.dirs, f.child.synthetic, out)
		return nil
	}
	*out = f.one.attr
	return ns.shown(f.one.p, f.one.o, out)
}

// inheritedLayers are the layers among a union's claims that are not roots of places.
func inheritedLayers(dirs []claim) (out []layer) {
	for i := range dirs {
		if dirs[i].dir != 0 {
			out = append(out, layer{dirs[i].p, dirs[i].attr.Ino})
		}
	}
	return out
}

// lookupIn finds a name in a directory of a storage and follows links where the storage
// wants that. It returns the place of what was found, which is another one
// for directories behind links.
func (ns *FS) lookupIn(ctx context.Context, c *vfs.Caller, o *opened, p *place, dir vfs.Ino, name string, out *vfs.Attr) (*place, error) {
	if err := o.fs.Lookup(ctx, c, dir, name, out); err != nil {
		return nil, err
	}
	if o.Links != nil && out.Type() == syscall.S_IFLNK {
		return ns.follow(ctx, c, o, p, dir, name, out)
	}
	o.learn(dir, name, out.Ino)
	return p, nil
}

// maxLinks is how many links are followed on the way to something.
const maxLinks = 40

// follow finds what a link leads to: EXDEV if that is outside of the storage.
func (ns *FS) follow(ctx context.Context, c *vfs.Caller, o *opened, p *place, dir vfs.Ino, name string, out *vfs.Attr) (*place, error) {
	left := maxLinks - p.depth
	if err := followFrom(ctx, c, o, dir, out, &left); err != nil {
		return nil, err
	}
	if !out.IsDir() {
		return p, nil
	}
	return ns.slots.linkPlace(linkKey{p, dir, strings.Clone(name)}, out.Ino)
}

// followFrom replaces a link that stands in dir by what it leads to.
func followFrom(ctx context.Context, c *vfs.Caller, o *opened, dir vfs.Ino, a *vfs.Attr, left *int) error {
	if *left--; *left < 0 {
		return syscall.ELOOP
	}
	to, err := o.fs.Readlink(ctx, c, a.Ino)
	if err != nil {
		return err
	}
	if strings.HasPrefix(to, "/") {
		rel, ok := o.Links(to)
		if !ok {
			return syscall.EXDEV
		}
		dir, to = o.root, rel
	}
	if err := o.fs.GetAttr(ctx, c, dir, a); err != nil {
		return err
	}
	for _, part := range strings.Split(to, "/") {
		switch part {
		case "", ".":
			continue
		case "..":
			if dir == o.root {
				return syscall.EXDEV
			}
		}
		if err := o.fs.Lookup(ctx, c, dir, part, a); err != nil {
			return err
		}
		if a.Type() == syscall.S_IFLNK {
			if err := followFrom(ctx, c, o, dir, a, left); err != nil {
				return err
			}
		}
		dir = a.Ino
	}
	return nil
}

// newIn finds the directory of a storage in which something new is made under a name of
// parent: EROFS if there is no single one, or it is read-only.
func (ns *FS) newIn(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string) (target, error) {
	t, err := ns.at(ctx, parent)
	if err != nil {
		return t, err
	}
	if t.u != nil {
		if err := vfs.CheckName(name); err != nil {
			return t, err
		}
		if ns.nodeAt(path.Join(t.u.path, name)).exists {
			return t, syscall.EEXIST
		}
		one := ns.single(ctx, c, t.u)
		if one == nil {
			return t, syscall.EROFS
		}
		if t, err = ns.claimTarget(ctx, one); err != nil {
			return t, err
		}
	}
	if t.p.ro(t.o) {
		t.leave()
		return t, syscall.EROFS
	}
	return t, nil
}

// made ends the making of something new.
func (ns *FS) made(ctx context.Context, t *target, parent vfs.Ino, name string, out *vfs.Attr) error {
	t.o.learn(t.ino, name, out.Ino)
	inner := out.Ino
	err := ns.shown(t.p, t.o, out)
	ns.own(t.p, t.o, parent, vfs.Change{Kind: vfs.ChangeEntry, Parent: t.ino, Name: name, Ino: inner})
	return err
}

// Mknod implements vfs.FS. Storages whose links are followed take regular files only.
func (ns *FS) Mknod(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, rdev uint32, out *vfs.Attr) error {
	t, err := ns.newIn(ctx, c, parent, name)
	if err != nil {
		return err
	}
	defer t.leave()
	if typ := mode & syscall.S_IFMT; t.o.Links != nil && typ != 0 && typ != syscall.S_IFREG {
		return syscall.ENOSYS
	}
	if err := t.o.fs.Mknod(ctx, c, t.ino, name, mode, rdev, out); err != nil {
		return err
	}
	t.p.b.watches.did(t.o, EventCreate, t.ino, name)
	return ns.made(ctx, &t, parent, name, out)
}

// Mkdir implements vfs.FS.
func (ns *FS) Mkdir(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, out *vfs.Attr) error {
	t, err := ns.newIn(ctx, c, parent, name)
	if err != nil {
		return err
	}
	defer t.leave()
	if err := t.o.fs.Mkdir(ctx, c, t.ino, name, mode, out); err != nil {
		return err
	}
	t.p.b.watches.did(t.o, EventCreate, t.ino, name)
	return ns.made(ctx, &t, parent, name, out)
}

// Symlink implements vfs.FS: ENOSYS for storages whose links are followed.
func (ns *FS) Symlink(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name, to string, out *vfs.Attr) error {
	t, err := ns.newIn(ctx, c, parent, name)
	if err != nil {
		return err
	}
	defer t.leave()
	if t.o.Links != nil {
		return syscall.ENOSYS
	}
	if err := t.o.fs.Symlink(ctx, c, t.ino, name, to, out); err != nil {
		return err
	}
	t.p.b.watches.did(t.o, EventCreate, t.ino, name)
	return ns.made(ctx, &t, parent, name, out)
}

// Link implements vfs.FS: EXDEV between storages, EPERM for storages whose links are
// followed.
func (ns *FS) Link(ctx context.Context, c *vfs.Caller, ino vfs.Ino, parent vfs.Ino, name string, out *vfs.Attr) error {
	src, err := ns.at(ctx, ino)
	if err != nil {
		return err
	}
	defer src.leave()
	if src.u != nil {
		return syscall.EPERM
	}
	t, err := ns.newIn(ctx, c, parent, name)
	if err != nil {
		return err
	}
	defer t.leave()
	switch {
	case t.p.b != src.p.b:
		return syscall.EXDEV
	case t.o.Links != nil:
		return syscall.EPERM
	}
	if err := t.o.fs.Link(ctx, c, src.ino, t.ino, name, out); err != nil {
		return err
	}
	t.p.b.watches.did(t.o, EventCreate, t.ino, name)
	if src.p == t.p {
		return ns.made(ctx, &t, parent, name, out)
	}
	// The kernel has the inode by the number that it knows it by.
	ns.own(t.p, t.o, parent, vfs.Change{Kind: vfs.ChangeEntry, Parent: t.ino, Name: name, Ino: out.Ino})
	return ns.shown(src.p, src.o, out)
}

// Create implements vfs.FS.
func (ns *FS) Create(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, flags int, out *vfs.Attr) (vfs.File, error) {
	t, err := ns.newIn(ctx, c, parent, name)
	if err != nil {
		return nil, err
	}
	defer t.leave()
	f, err := t.o.fs.Create(ctx, c, t.ino, name, mode, flags, out)
	if err != nil {
		return nil, err
	}
	inner := out.Ino
	if err := ns.made(ctx, &t, parent, name, out); err != nil {
		f.Close()
		return nil, err
	}
	return ns.newFile(&t, inner, f, EventCreate), nil
}

// Tmpfile implements vfs.TmpfileFS.
func (ns *FS) Tmpfile(ctx context.Context, c *vfs.Caller, parent vfs.Ino, mode uint32, flags int, out *vfs.Attr) (vfs.File, error) {
	t, err := ns.newIn(ctx, c, parent, "tmpfile")
	if err != nil {
		return nil, err
	}
	defer t.leave()
	maker, ok := t.o.fs.(vfs.TmpfileFS)
	if !ok {
		return nil, syscall.EOPNOTSUPP
	}
	f, err := maker.Tmpfile(ctx, c, t.ino, mode, flags, out)
	if err != nil {
		return nil, err
	}
	inner := out.Ino
	if err := ns.shown(t.p, t.o, out); err != nil {
		f.Close()
		return nil, err
	}
	return ns.newFile(&t, inner, f, ""), nil
}

// named is where in a storage a name stands.
type named struct {
	target        // of the directory
	name   string // there
	root   bool   // it is a place's root: there is no name
}

// locate finds where a name stands. one is the claim, where parent is a union. A union
// without a single layer that takes changes has no target: p is nil.
func (ns *FS) locate(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string) (n named, f *found, err error) {
	t, err := ns.at(ctx, parent)
	if err != nil {
		return n, nil, err
	}
	if t.u == nil {
		return named{target: t, name: name}, nil, nil
	}
	if err := vfs.CheckName(name); err != nil {
		return n, nil, err
	}
	if f, err = ns.resolve(ctx, c, t.u, name); err != nil {
		return n, nil, err
	}
	one := f.one
	if f.union {
		if one = soleWriter(f.dirs); one == nil {
			return n, f, nil
		}
	}
	if t, err = ns.claimTarget(ctx, one); err != nil {
		return n, f, err
	}
	n = named{target: t, name: one.name, root: one.dir == 0}
	if !n.root {
		n.ino = one.dir
	}
	return n, f, nil
}

// Unlink implements vfs.FS.
func (ns *FS) Unlink(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string) error {
	n, f, err := ns.locate(ctx, c, parent, name)
	if err != nil {
		return err
	}
	defer n.leave()
	switch {
	case f != nil && f.union:
		return syscall.EISDIR
	case n.p.ro(n.o):
		return syscall.EROFS
	case f != nil && f.one.isDir() && n.o.Links == nil:
		return syscall.EISDIR
	case n.root:
		return syscall.EBUSY // something is mounted there
	}
	if err := n.o.fs.Unlink(ctx, c, n.ino, n.name); err != nil {
		return err
	}
	n.p.b.watches.did(n.o, EventDelete, n.ino, n.name)
	ns.own(n.p, n.o, parent, vfs.Change{Kind: vfs.ChangeEntry, Parent: n.ino, Name: n.name})
	return nil
}

// Rmdir implements vfs.FS.
func (ns *FS) Rmdir(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string) error {
	n, f, err := ns.locate(ctx, c, parent, name)
	if err != nil {
		return err
	}
	defer n.leave()
	switch {
	case n.p == nil:
		return syscall.EROFS
	case n.root && (f.union || f.one.isDir()):
		return ns.rootEmpty(ctx, c, &n.target)
	case n.p.ro(n.o):
		return syscall.EROFS
	case f != nil && !f.union && !f.one.isDir():
		return syscall.ENOTDIR
	case f != nil && f.child.exists:
		return syscall.ENOTEMPTY
	}
	err = n.o.fs.Rmdir(ctx, c, n.ino, n.name)
	if err == syscall.ENOTDIR && n.o.Links != nil {
		// Shown as a directory, but a link to one.
		var a vfs.Attr
		if n.o.fs.Lookup(ctx, c, n.ino, n.name, &a) == nil && a.Type() == syscall.S_IFLNK {
			err = n.o.fs.Unlink(ctx, c, n.ino, n.name)
		}
	}
	if err != nil {
		return err
	}
	n.p.b.watches.did(n.o, EventDelete, n.ino, n.name)
	ns.own(n.p, n.o, parent, vfs.Change{Kind: vfs.ChangeEntry, Parent: n.ino, Name: n.name})
	return nil
}

// rootEmpty is why the root of a storage is not removed: ENOTEMPTY or EBUSY.
func (ns *FS) rootEmpty(ctx context.Context, c *vfs.Caller, t *target) error {
	d, err := t.o.fs.OpenDir(ctx, c, t.ino)
	if err != nil {
		return err
	}
	defer d.Close()
	empty := true
	if err := d.Read(ctx, 0, false, func(*vfs.DirEntry) bool { empty = false; return false }); err != nil {
		return err
	}
	if empty {
		return syscall.EBUSY
	}
	return syscall.ENOTEMPTY
}

// Rename implements vfs.FS: EXDEV between storages, EACCES where source or target
// directory is of no single one.
func (ns *FS) Rename(ctx context.Context, c *vfs.Caller, oldParent vfs.Ino, oldName string, newParent vfs.Ino, newName string, flags uint32) error {
	if err := vfs.CheckName(newName); err != nil {
		return err
	}
	src, _, err := ns.locate(ctx, c, oldParent, oldName)
	if err != nil {
		return err
	}
	defer src.leave()
	dst, err := ns.at(ctx, newParent)
	if err != nil {
		return err
	}
	if u := dst.u; u != nil {
		one := ns.single(ctx, c, u)
		if one == nil {
			return syscall.EACCES
		}
		if ns.nodeAt(path.Join(u.path, newName)).exists {
			return syscall.EBUSY
		}
		if dst, err = ns.claimTarget(ctx, one); err != nil {
			return err
		}
	}
	defer dst.leave()
	switch {
	case src.p == nil:
		return syscall.EACCES
	case src.root || src.p.b != dst.p.b:
		return syscall.EXDEV
	case src.p.ro(src.o) || dst.p.ro(dst.o):
		return syscall.EROFS
	}
	if err := src.o.fs.Rename(ctx, c, src.ino, src.name, dst.ino, newName, flags); err != nil {
		return err
	}
	w := &src.p.b.watches
	w.did(src.o, EventDelete, src.ino, src.name)
	w.did(src.o, EventCreate, dst.ino, newName)
	ns.movedTo(ctx, c, &src, oldParent, vfs.RenameExchange&flags != 0)
	to := named{target: dst, name: newName}
	ns.movedTo(ctx, c, &to, newParent, true)
	return nil
}

// movedTo tells what a name means after a rename.
func (ns *FS) movedTo(ctx context.Context, c *vfs.Caller, n *named, parent vfs.Ino, there bool) {
	ch := vfs.Change{Kind: vfs.ChangeEntry, Parent: n.ino, Name: n.name}
	var a vfs.Attr
	if there && n.o.fs.Lookup(ctx, c, n.ino, n.name, &a) == nil {
		ch.Ino = a.Ino
		n.o.learn(n.ino, n.name, a.Ino)
	}
	ns.own(n.p, n.o, parent, ch)
}
