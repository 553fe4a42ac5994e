package overlay

import (
	"context"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// Rename implements vfs.FS.
func (fs *FS) Rename(ctx context.Context, _ *vfs.Caller, oldParent vfs.Ino, oldName string, newParent vfs.Ino, newName string, flags uint32) error {
	if flags&^(vfs.RenameNoReplace|vfs.RenameExchange) != 0 || flags == vfs.RenameNoReplace|vfs.RenameExchange {
		return syscall.EINVAL
	}
	from, err := fs.dirOf(oldParent)
	if err != nil {
		return err
	}
	to, err := fs.dirOf(newParent)
	if err != nil {
		return err
	}
	if err := vfs.CheckName(oldName); err != nil {
		return err
	}
	if err := fs.checkNew(to, newName); err != nil {
		return err
	}
	r := &renaming{fs: fs, from: from, to: to, old: oldName, new: newName, exchange: flags == vfs.RenameExchange, noReplace: flags == vfs.RenameNoReplace}
	return fail("rename", oldName, r.run(ctx))
}

type renaming struct {
	fs                  *FS
	from, to            *node
	old, new            string
	exchange, noReplace bool
	a, b                place // what is under the old and the new name
}

func (r *renaming) run(ctx context.Context) error {
	fs := r.fs
	triedTarget := false
	for {
		if err := r.precheck(ctx); err != nil || r.a.n == r.b.n {
			return err
		}
		a, err := fs.settled(ctx, r.from, r.old, true)
		if err != nil {
			return err
		}
		r.a = a
		// Now mu is held. The target may need a copy, too: for an exchange, or to count its
		// names.
		if r.b, err = fs.find(ctx, r.to, r.new); err == nil {
			err = r.check(ctx)
		}
		if err != nil || r.a.n == r.b.n {
			fs.mu.Unlock()
			return err
		}
		if b := r.b.n; b != nil && b.typ != typeDir && b.upper == 0 && (r.exchange || b.shared && !triedTarget) {
			fs.mu.Unlock()
			triedTarget = true
			if err := fs.copyUp(ctx, b, wholeFile); err != nil && (r.exchange || ctx.Err() != nil) {
				return err
			}
			continue
		}
		err = r.do(ctx)
		fs.mu.Unlock()
		return err
	}
}

// precheck looks whether the rename is possible before anything is copied for it.
func (r *renaming) precheck(ctx context.Context) (err error) {
	r.fs.mu.RLock()
	defer r.fs.mu.RUnlock()
	if r.a, err = r.fs.find(ctx, r.from, r.old); err != nil {
		return err
	}
	if r.a.n == nil {
		return syscall.ENOENT
	}
	if r.b, err = r.fs.find(ctx, r.to, r.new); err != nil {
		return err
	}
	return r.check(ctx)
}

// below tells whether a directory is n or lies below it.
func below(dir, n *node) bool {
	for {
		if dir == n {
			return true
		}
		if dir.parent == dir || dir.parent == nil {
			return false
		}
		dir = dir.parent
	}
}

func (r *renaming) check(ctx context.Context) error {
	a, b := r.a.n, r.b.n
	switch {
	case r.to.dead, r.exchange && b == nil:
		return syscall.ENOENT
	case r.noReplace && b != nil:
		return syscall.EEXIST
	case a == b:
		return nil
	case a.typ == typeDir && below(r.to, a), r.exchange && b.typ == typeDir && below(r.from, b):
		return syscall.EINVAL
	case r.exchange || b == nil:
		return nil
	case b.typ == typeDir && below(r.from, b):
		return syscall.ENOTEMPTY
	case a.typ == typeDir && b.typ != typeDir:
		return syscall.ENOTDIR
	case a.typ != typeDir && b.typ == typeDir:
		return syscall.EISDIR
	case b.typ == typeDir:
		return r.fs.empty(ctx, b)
	}
	return nil
}

// do makes the change. mu is held for writing, and what needed one has a copy.
func (r *renaming) do(ctx context.Context) error {
	fs := r.fs
	for _, dir := range []*node{r.from, r.to} {
		if err := fs.copyUpDir(ctx, dir); err != nil {
			return err
		}
	}
	if err := r.ready(ctx, &r.a, r.from, r.old, r.b.covered); err != nil {
		return err
	}
	if r.exchange {
		if err := r.ready(ctx, &r.b, r.to, r.new, r.a.covered); err != nil {
			return err
		}
		if err := fs.upper.Rename(ctx, &fs.self, r.from.upper, r.old, r.to.upper, r.new, vfs.RenameExchange); err != nil {
			return err
		}
		r.moved(r.b.n, r.to, r.new, r.from, r.old)
		r.moved(r.a.n, r.from, r.old, r.to, r.new)
		return nil
	}
	var err error
	if r.a.n.typ == typeDir {
		err = r.directory(ctx)
	} else {
		err = r.other(ctx)
	}
	if err != nil {
		return err
	}
	if r.b.n != nil && r.b.n.typ != typeDir {
		err = fs.lost(ctx, r.to, r.new, r.b)
	}
	r.moved(r.a.n, r.from, r.old, r.to, r.new)
	return err
}

// ready makes an upper entry of what is to move, such that it means the same elsewhere:
// covered tells whether the lower tree has the name there.
func (r *renaming) ready(ctx context.Context, p *place, dir *node, name string, covered bool) error {
	fs, n := r.fs, p.n
	if n.typ != typeDir {
		if !p.upper {
			return fs.promote(ctx, dir, name, p)
		}
		return nil
	}
	if err := fs.copyUpDir(ctx, n); err != nil {
		return err
	}
	p.upper = true
	switch {
	case n.lower != 0:
		return fs.setMark(ctx, n.upper, attrRedirect, []byte("/"+n.path))
	case covered:
		return fs.setMark(ctx, n.upper, attrOpaque, []byte("y"))
	}
	return nil
}

// promote makes an upper entry of a lower name whose inode has a copy in the index.
func (fs *FS) promote(ctx context.Context, dir *node, name string, p *place) error {
	var a vfs.Attr
	temp := fs.tempEntry()
	if err := fs.upper.Link(ctx, &fs.self, p.n.upper, fs.temp, temp, &a); err != nil {
		return err
	}
	if err := fs.upper.Rename(ctx, &fs.self, fs.temp, temp, dir.upper, name, vfs.RenameNoReplace); err != nil {
		return err
	}
	p.upper = true
	left, err := fs.lowerNames(ctx, p.n.origin)
	if err != nil || left == 0 {
		return err
	}
	return fs.setLowerNames(ctx, p.n.origin, left-1)
}

// directory moves a directory. One that is in the way is empty, and is removed first.
func (r *renaming) directory(ctx context.Context) error {
	fs := r.fs
	whiteout := r.b.whiteout
	if r.b.n != nil {
		if err := fs.removeDir(ctx, r.to, r.new, r.b); err != nil {
			return err
		}
		whiteout = r.b.covered
	}
	if r.a.covered && !whiteout {
		if err := fs.whiteout(ctx, r.to.upper, r.new); err != nil { // over nothing
			return err
		}
		whiteout = true
	}
	if !whiteout {
		return fs.upper.Rename(ctx, &fs.self, r.from.upper, r.old, r.to.upper, r.new, vfs.RenameNoReplace)
	}
	if err := fs.upper.Rename(ctx, &fs.self, r.from.upper, r.old, r.to.upper, r.new, vfs.RenameExchange); err != nil {
		return err
	}
	if r.a.covered {
		return nil // the whiteout that is there now is needed
	}
	return fs.upper.Unlink(ctx, &fs.self, r.from.upper, r.old)
}

// other moves what is no directory. Where the old name is to have a whiteout, the new
// name comes first: at no time do both show something old.
func (r *renaming) other(ctx context.Context) error {
	fs := r.fs
	if !r.a.covered {
		return fs.upper.Rename(ctx, &fs.self, r.from.upper, r.old, r.to.upper, r.new, 0)
	}
	var a vfs.Attr
	temp := fs.tempEntry()
	if err := fs.upper.Link(ctx, &fs.self, r.a.n.upper, fs.temp, temp, &a); err != nil {
		return err
	}
	if err := fs.upper.Rename(ctx, &fs.self, fs.temp, temp, r.to.upper, r.new, 0); err != nil {
		return err
	}
	return fs.whiteoutOver(ctx, r.from.upper, r.old)
}

func (r *renaming) moved(n, from *node, old string, to *node, name string) {
	if n.typ == typeDir || n.parent == from && n.name == old {
		r.fs.table.moved(n, to, name)
	}
	to.added++
}
