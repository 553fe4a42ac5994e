package meta

import (
	"context"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// Rename implements Session.
func (s *session) Rename(ctx context.Context, _ *vfs.Caller, oldParent vfs.Ino, oldName string, newParent vfs.Ino, newName string, flags uint32, replaced *vfs.Attr) error {
	f := s.e.format.Load()
	if err := f.checkName(oldName); err != nil {
		return err
	}
	if err := f.checkName(newName); err != nil {
		return err
	}
	switch flags {
	case 0, vfs.RenameNoReplace, vfs.RenameExchange:
	default:
		return syscall.EINVAL
	}
	r := rename{oldParent: oldParent, newParent: newParent, oldName: oldName, newName: newName, flags: flags}
	update := s.e.update
	if oldParent != newParent {
		update = s.e.updateMoving
	}
	err := update(ctx, s, []vfs.Ino{oldParent, newParent}, func(t *txn) error {
		*replaced = vfs.Attr{}
		return r.run(t, replaced)
	})
	return fail("rename", oldName, err)
}

// rename is a move of a name.
type rename struct {
	oldParent, newParent vfs.Ino
	oldName, newName     string
	flags                uint32
}

func (r *rename) run(t *txn, replaced *vfs.Attr) error {
	from, err := t.loadDir(r.oldParent)
	if err != nil {
		return err
	}
	to, err := t.loadDir(r.newParent)
	if err != nil {
		return err
	}
	ent, err := t.entry(from.ino, r.oldName)
	if err != nil {
		return err
	}
	old, err := t.entry(to.ino, r.newName)
	exists := err == nil
	switch {
	case err != nil && err != syscall.ENOENT:
		return err
	case exists && r.flags == vfs.RenameNoReplace:
		return syscall.EEXIST
	case !exists && r.flags == vfs.RenameExchange:
		return syscall.ENOENT
	case exists && old.ino == ent.ino:
		return nil // names of one inode: nothing happens
	}
	n, err := t.loadNamed(ent, r.oldName)
	if err != nil {
		return err
	}
	var target *node
	if exists {
		if target, err = t.loadNamed(old, r.newName); err != nil {
			return err
		}
	}
	if from != to {
		if err := r.checkMove(t, n, target); err != nil {
			return err
		}
	}
	if r.flags == vfs.RenameExchange {
		return r.exchange(t, from, to, n, target, ent, old)
	}
	return r.move(t, from, to, n, target, ent, old, replaced)
}

// checkMove looks at moves between directories: a directory must not come below
// itself, and where it moves between quotas its whole subtree does.
func (r *rename) checkMove(t *txn, n, target *node) error {
	exchange := r.flags == vfs.RenameExchange
	t.lonely = n.isDir() || exchange && target.isDir() // the walk up reads what it does not load
	if n.isDir() {
		if err := t.outside(n.ino, r.newParent); err != nil {
			return err
		}
	}
	if exchange && target.isDir() {
		if err := t.outside(target.ino, r.oldParent); err != nil {
			return err
		}
	}
	if !n.isDir() && !(exchange && target.isDir()) || !t.e.quotas.any() {
		return nil
	}
	if !t.exclusive {
		return errExclusive
	}
	if n.isDir() {
		if err := t.moveUsage(n.ino, r.oldParent, r.newParent); err != nil {
			return err
		}
	}
	if exchange && target.isDir() {
		return t.moveUsage(target.ino, r.newParent, r.oldParent)
	}
	return nil
}

// outside returns EINVAL if at is dir or lies below it.
func (t *txn) outside(dir, at vfs.Ino) error {
	for depth := 0; at != vfs.Root; depth++ {
		if at == dir {
			return syscall.EINVAL
		}
		if depth > maxDepth {
			return corrupt("directories above %d do not lead to the root", at)
		}
		var n inode
		if err := t.inode(at, &n); err != nil {
			return err
		}
		if at = n.parent; at == 0 {
			return syscall.ENOENT // removed meanwhile
		}
	}
	if dir == vfs.Root {
		return syscall.EINVAL
	}
	return nil
}

// move gives n, a name in from, a name in to, which target (nil: nothing) had.
func (r *rename) move(t *txn, from, to, n, target *node, ent, old entry, replaced *vfs.Attr) error {
	if target != nil {
		switch {
		case n.isDir() && !target.isDir():
			return syscall.ENOTDIR
		case !n.isDir() && target.isDir():
			return syscall.EISDIR
		case target.isDir() && target.entries != 0:
			return syscall.ENOTEMPTY
		}
	}
	if n.isDir() && from != to {
		if to.nlink >= t.e.maxLinks && target == nil {
			return syscall.EMLINK
		}
		from.nlink--
		to.nlink++
	}
	if err := t.leaveName(from, r.oldName, ent); err != nil {
		return err
	}
	if target != nil {
		if target.isDir() {
			if err := t.dropDir(to, target); err != nil {
				return err
			}
		} else if err := t.dropName(target, to.ino, r.newName); err != nil {
			return err
		}
		target.fill(target.ino, replaced)
	}
	n.ctime = t.now
	t.changedAttr(n.ino)
	if err := t.moveLink(n, from.ino, r.oldName, to.ino, r.newName); err != nil {
		return err
	}
	return t.enterName(to, r.newName, n, old)
}

// moveLink moves the `p` record of a file with several names.
func (t *txn) moveLink(n *node, from vfs.Ino, oldName string, to vfs.Ino, newName string) error {
	if n.isDir() || n.nlink == 1 {
		return nil
	}
	if err := t.delLink(n.ino, from, oldName); err != nil {
		return err
	}
	if err := t.putLink(n.ino, to, newName); err != nil {
		return err
	}
	if from == n.parent && from != to {
		return t.rehome(n)
	}
	return nil
}

// exchange swaps what two names mean.
func (r *rename) exchange(t *txn, from, to, n, target *node, ent, old entry) error {
	if from != to && n.isDir() != target.isDir() {
		gains, loses := to, from
		if target.isDir() {
			gains, loses = from, to
		}
		if gains.nlink >= t.e.maxLinks {
			return syscall.EMLINK
		}
		gains.nlink++
		loses.nlink--
	}
	n.ctime, target.ctime = t.now, t.now
	t.changedAttr(n.ino)
	t.changedAttr(target.ino)
	if err := t.moveLink(n, from.ino, r.oldName, to.ino, r.newName); err != nil {
		return err
	}
	if err := t.moveLink(target, to.ino, r.newName, from.ino, r.oldName); err != nil {
		return err
	}
	if err := t.enterName(to, r.newName, n, old); err != nil {
		return err
	}
	return t.enterName(from, r.oldName, target, ent)
}
