package meta

import (
	"context"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// Tmpfile implements Session. The inode begins like one that has lost its last
// name while it was open: an `o` record holds it, and goes when Link gives it a name.
func (s *session) Tmpfile(ctx context.Context, c *vfs.Caller, parent vfs.Ino, mode uint32, linkable bool, out *vfs.Attr) error {
	if s.e.readOnly {
		return syscall.EROFS
	}
	ino, err := s.newIno(ctx)
	if err != nil {
		return fail("tmpfile", "", err)
	}
	s.Open(ino)
	err = s.e.update(ctx, s, []vfs.Ino{parent, ino}, func(t *txn) error {
		dir, err := t.loadDir(parent)
		if err != nil {
			return err
		}
		if err := t.unused(ino); err != nil {
			return err
		}
		in := inode{
			mode: syscall.S_IFREG | mode&permissionBits, uid: c.UID, gid: c.GID, gen: 1,
			atime: t.now, mtime: t.now, ctime: t.now, btime: t.now,
		}
		inheritGroup(&dir.inode, &in, c)
		n := t.create(ino, in)
		if err := t.inheritACL(dir, n, c.Umask); err != nil {
			return err
		}
		if linkable {
			n.flags |= flagLinkable
		}
		t.e.uses.claim(ino)
		t.named = append(t.named, ino)
		t.putOrphan(s.id, ino) // also if the session is ending: it looks after it, then
		n.fill(ino, out)
		return nil
	})
	if err != nil {
		s.e.uses.release(ino, s.id, 1)
	}
	return fail("tmpfile", "", err)
}

// nameFirst prepares an inode that Tmpfile made for its first name.
func (t *txn) nameFirst(n *node) {
	n.flags &^= flagLinkable
	for _, id := range t.e.uses.claim(n.ino) {
		t.delOrphan(id, n.ino)
	}
	ino := n.ino
	t.then = append(t.then, func() { t.e.uses.revive(ino) })
}
