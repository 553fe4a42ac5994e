package namespace

import (
	"context"
	"errors"
	"path"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

var (
	_ vfs.FS        = (*FS)(nil)
	_ vfs.Pinner    = (*FS)(nil)
	_ vfs.XattrFS   = (*FS)(nil)
	_ vfs.CopyFS    = (*FS)(nil)
	_ vfs.TmpfileFS = (*FS)(nil)
	_ vfs.PolicyFS  = (*FS)(nil)
	_ vfs.Watchable = (*FS)(nil)
)

var errEnded = errors.New("the namespace is closed")

// Policy implements vfs.PolicyFS.
func (ns *FS) Policy() vfs.Policy {
	return vfs.Policy{EntryValid: ns.opts.Valid, AttrValid: ns.opts.Valid, ReadOnly: ns.opts.ReadOnly}
}

// target is what an inode number means: a union, or an inode of a storage in which a
// call is under way until leave.
type target struct {
	u   *union
	p   *place
	o   *opened
	ino vfs.Ino // in the storage
}

func (t *target) leave() {
	if t.p != nil {
		t.p.b.leave()
	}
}

// at finds an inode: ESTALE.
func (ns *FS) at(ctx context.Context, ino vfs.Ino) (target, error) {
	if ino>>slotShift == 0 {
		u, err := ns.unions.get(ino)
		if err == nil && ns.isClosed() {
			err = &vfs.Error{Op: "namespace", Err: vfs.WithErrno(syscall.EIO, errEnded)}
		}
		return target{u: u}, err
	}
	p := ns.slots.at(ino)
	if p == nil || p.dead.Load() {
		return target{}, syscall.ESTALE
	}
	o, err := p.b.enter(ctx)
	if err != nil {
		return target{}, err
	}
	return target{p: p, o: o, ino: ino & vfs.MaxIno}, nil
}

func (ns *FS) isClosed() bool {
	ns.mu.RLock()
	defer ns.mu.RUnlock()
	return ns.closed
}

// claimTarget is at for a claim.
func (ns *FS) claimTarget(ctx context.Context, cl *claim) (target, error) {
	o, err := cl.p.b.enter(ctx)
	if err != nil {
		return target{}, err
	}
	return target{p: cl.p, o: o, ino: cl.attr.Ino}, nil
}

// GetAttr implements vfs.FS.
func (ns *FS) GetAttr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, out *vfs.Attr) error {
	t, err := ns.at(ctx, ino)
	if err != nil {
		return err
	}
	defer t.leave()
	if t.u != nil {
		cs, here := ns.dirsOf(ctx, c, t.u)
		if !here.exists && len(cs.dirs) == 0 {
			return syscall.ESTALE
		}
		ns.unionAttr(ino, cs.dirs, here.synthetic, out)
		return nil
	}
	if err := t.o.fs.GetAttr(ctx, c, t.ino, out); err != nil {
		return err
	}
	return ns.shown(t.p, t.o, out)
}

// SetAttr implements vfs.FS.
func (ns *FS) SetAttr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, set *vfs.SetAttr, out *vfs.Attr) error {
	t, err := ns.at(ctx, ino)
	if err != nil {
		return err
	}
	u := t.u
	if u != nil {
		one := ns.single(ctx, c, u)
		if one == nil {
			return syscall.EROFS
		}
		if t, err = ns.claimTarget(ctx, one); err != nil {
			return err
		}
	}
	defer t.leave()
	if t.p.ro(t.o) {
		return syscall.EROFS
	}
	if err := t.o.fs.SetAttr(ctx, c, t.ino, set, out); err != nil {
		return err
	}
	ch := vfs.Change{Kind: vfs.ChangeAttr, Ino: t.ino}
	if set.Valid&vfs.SetSize != 0 {
		ch = vfs.Change{Kind: vfs.ChangeData, Ino: t.ino, Off: int64(set.Size), Len: -1}
	}
	ns.own(t.p, t.o, ino, ch)
	t.p.b.watches.didInode(t.o, EventModify, t.ino)
	if u != nil {
		return ns.GetAttr(ctx, c, ino, out)
	}
	return ns.shown(t.p, t.o, out)
}

// StatFS implements vfs.FS. Of a union it describes the storage that takes new files.
func (ns *FS) StatFS(ctx context.Context, c *vfs.Caller, ino vfs.Ino, out *vfs.StatFS) error {
	t, err := ns.at(ctx, ino)
	if err != nil {
		return err
	}
	if t.u != nil {
		one := ns.single(ctx, c, t.u)
		if one == nil {
			*out = vfs.StatFS{BlockSize: 4096, MaxName: vfs.MaxName}
			return nil
		}
		if t, err = ns.claimTarget(ctx, one); err != nil {
			return err
		}
	}
	defer t.leave()
	return t.o.fs.StatFS(ctx, c, t.ino, out)
}

// Readlink implements vfs.FS.
func (ns *FS) Readlink(ctx context.Context, c *vfs.Caller, ino vfs.Ino) (string, error) {
	t, err := ns.at(ctx, ino)
	if err != nil {
		return "", err
	}
	defer t.leave()
	if t.u != nil {
		return "", syscall.EINVAL
	}
	return t.o.fs.Readlink(ctx, c, t.ino)
}

// Pin implements vfs.Pinner.
func (ns *FS) Pin(ino vfs.Ino) {
	if ino>>slotShift == 0 {
		ns.unions.hold(ino, 1)
		return
	}
	if p := ns.slots.at(ino); p != nil {
		p.hold()
		if o := p.b.enterOpen(); o != nil {
			o.pin(ino & vfs.MaxIno)
			p.b.leave()
		}
	}
}

// Unpin implements vfs.Pinner.
func (ns *FS) Unpin(ino vfs.Ino) {
	if ino>>slotShift == 0 {
		ns.unions.hold(ino, -1)
		return
	}
	if p := ns.slots.at(ino); p != nil {
		if o := p.b.enterOpen(); o != nil {
			o.unpin(ino & vfs.MaxIno)
			p.b.leave()
		}
		p.unhold()
	}
}

// xattrs finds the tree that keeps an inode's attributes: EOPNOTSUPP.
func (ns *FS) xattrs(ctx context.Context, ino vfs.Ino) (target, vfs.XattrFS, error) {
	t, err := ns.at(ctx, ino)
	if err != nil {
		return t, nil, err
	}
	if t.u != nil {
		return t, nil, syscall.EOPNOTSUPP
	}
	x, ok := t.o.fs.(vfs.XattrFS)
	if !ok {
		t.leave()
		return t, nil, syscall.EOPNOTSUPP
	}
	return t, x, nil
}

// GetXattr implements vfs.XattrFS. Unions have none.
func (ns *FS) GetXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string) ([]byte, error) {
	t, x, err := ns.xattrs(ctx, ino)
	if err != nil {
		return nil, err
	}
	defer t.leave()
	return x.GetXattr(ctx, c, t.ino, name)
}

// SetXattr implements vfs.XattrFS.
func (ns *FS) SetXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string, value []byte, flags uint32) error {
	t, x, err := ns.xattrs(ctx, ino)
	if err != nil {
		return err
	}
	defer t.leave()
	if t.p.ro(t.o) {
		return syscall.EROFS
	}
	err = x.SetXattr(ctx, c, t.ino, name, value, flags)
	if err == nil {
		ns.own(t.p, t.o, ino, vfs.Change{Kind: vfs.ChangeAttr, Ino: t.ino})
	}
	return err
}

// ListXattr implements vfs.XattrFS.
func (ns *FS) ListXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino) ([]string, error) {
	t, x, err := ns.xattrs(ctx, ino)
	if errors.Is(err, syscall.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer t.leave()
	return x.ListXattr(ctx, c, t.ino)
}

// RemoveXattr implements vfs.XattrFS.
func (ns *FS) RemoveXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string) error {
	t, x, err := ns.xattrs(ctx, ino)
	if err != nil {
		return err
	}
	defer t.leave()
	if t.p.ro(t.o) {
		return syscall.EROFS
	}
	err = x.RemoveXattr(ctx, c, t.ino, name)
	if err == nil {
		ns.own(t.p, t.o, ino, vfs.Change{Kind: vfs.ChangeAttr, Ino: t.ino})
	}
	return err
}

// numberOf is the number by which a directory of a storage is seen at a place.
func (ns *FS) numberOf(p *place, o *opened, dir vfs.Ino) (vfs.Ino, error) {
	if u := ns.unions.with(layer{p, dir}); u != nil {
		return u.ino, nil
	}
	if p.link == nil && dir == o.root {
		if p.path == "/" {
			return vfs.Root, nil
		}
		if ns.nodeAt(p.path).synthetic {
			return ns.unionAt(p.path, nil, false).ino, nil
		}
	}
	if err := ns.slots.take(p); err != nil {
		return 0, err
	}
	return vfs.Ino(p.slot.Load())<<slotShift | dir, nil
}

// lookupParent finds "..".
func (ns *FS) lookupParent(ctx context.Context, c *vfs.Caller, t *target, out *vfs.Attr) error {
	if t.u != nil {
		if t.u.path == "/" {
			return ns.GetAttr(ctx, c, vfs.Root, out)
		}
		return ns.GetAttr(ctx, c, ns.unionAt(path.Dir(t.u.path), nil, false).ino, out)
	}
	if t.ino == t.p.root(t.o) {
		if k := t.p.link; k != nil {
			up, err := ns.numberOf(k.p, t.o, k.dir)
			if err != nil {
				return err
			}
			return ns.GetAttr(ctx, c, up, out)
		}
		return ns.GetAttr(ctx, c, ns.unionAt(path.Dir(t.p.path), nil, false).ino, out)
	}
	if err := t.o.fs.Lookup(ctx, c, t.ino, "..", out); err != nil {
		return err
	}
	up, err := ns.numberOf(t.p, t.o, out.Ino)
	if err != nil {
		return err
	}
	if up>>slotShift == 0 {
		return ns.GetAttr(ctx, c, up, out)
	}
	return ns.shown(t.p, t.o, out)
}
