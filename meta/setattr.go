package meta

import (
	"context"
	"syscall"
	"time"

	"github.com/massif-fs/massif/vfs"
)

// truncateBudget is how many extents one transaction cuts off. Only the truncation
// of a file with more takes several: it gets shorter in steps, and a crash or an
// error between them leaves it at one.
const truncateBudget = 1 << 15

// SetAttr implements Session.
func (s *session) SetAttr(ctx context.Context, _ *vfs.Caller, ino vfs.Ino, set *vfs.SetAttr, out *vfs.Attr) error {
	for more := true; more; {
		err := s.e.update(ctx, s, []vfs.Ino{ino}, func(t *txn) error {
			n, err := t.load(ino)
			if err != nil {
				return err
			}
			more = false
			if set.Has(vfs.SetSize) {
				if more, err = t.truncate(n, set.Size); more || err != nil {
					t.partial = more
					return err
				}
			}
			if err := t.setAttr(n, set); err != nil {
				return err
			}
			n.fill(ino, out)
			return nil
		})
		if err != nil {
			return fail("set attributes", "", err)
		}
	}
	return nil
}

func (t *txn) setAttr(n *node, set *vfs.SetAttr) error {
	if set.Valid&^vfs.SetKillSUIDGID == 0 && (set.Valid == 0 || n.isDir() || n.mode&(syscall.S_ISUID|syscall.S_ISGID) == 0) {
		return nil // nothing changes, not even ctime
	}
	if set.Has(vfs.SetMode) {
		n.mode = n.mode&^permissionBits | set.Mode&permissionBits
		if err := t.chmodACL(n); err != nil {
			return err
		}
	}
	if set.Has(vfs.SetUID) {
		n.uid = set.UID
	}
	if set.Has(vfs.SetGID) {
		n.gid = set.GID
	}
	if set.Has(vfs.SetKillSUIDGID) && !n.isDir() {
		n.mode &^= syscall.S_ISUID
		if n.mode&0o010 != 0 {
			n.mode &^= syscall.S_ISGID
		}
	}
	if set.Has(vfs.SetSize) {
		n.mtime = t.now
	}
	switch {
	case set.Has(vfs.SetAtimeNow):
		n.atime = t.now
	case set.Has(vfs.SetAtime):
		n.atime = set.Atime
	}
	switch {
	case set.Has(vfs.SetMtimeNow):
		n.mtime = t.now
	case set.Has(vfs.SetMtime):
		n.mtime = set.Mtime
	}
	n.ctime = t.now
	if set.Has(vfs.SetCtime) {
		n.ctime = set.Ctime
	}
	if n.atime.Nsec > 999_999_999 || n.mtime.Nsec > 999_999_999 || n.ctime.Nsec > 999_999_999 {
		return syscall.EINVAL
	}
	if !set.Has(vfs.SetSize) { // truncate has told more
		t.changedAttr(n.ino)
	}
	return nil
}

// maxSize is the greatest size of a file.
func (e *Engine) maxSize() uint64 { return uint64(e.format.Load().ChunkSize) << 32 }

// truncate makes size the size of a file. more: it is shorter now, but not yet as
// short.
func (t *txn) truncate(n *node, size uint64) (more bool, err error) {
	switch {
	case n.isDir():
		return false, syscall.EISDIR
	case !n.isRegular():
		return false, syscall.EINVAL
	case size > t.e.maxSize():
		return false, syscall.EFBIG
	}
	from := min(size, n.size)
	switch {
	case n.flags&flagInline != 0 && size < n.alloc:
		err = t.cutInline(n, int(size))
	case n.hasChunks() && size < n.size:
		budget := truncateBudget
		cut, done, err := t.cutTail(n, size, &budget)
		if err != nil {
			return false, err
		}
		if !done {
			n.size = min(n.size, cut)
			t.changedData(n.ino, int64(n.size), -1)
			return true, nil
		}
	case n.hasChunks() && size == n.size: // what fallocate(KEEP_SIZE) put behind the end goes
		budget := truncateBudget
		_, done, err := t.cutTail(n, size, &budget)
		if err != nil || !done {
			return !done, err
		}
	}
	if err != nil {
		return false, err
	}
	n.size = size
	t.changedData(n.ino, int64(from), -1)
	return false, nil
}

// cutInline shortens inline content to size bytes.
func (t *txn) cutInline(n *node, size int) error {
	if size == 0 {
		return t.delInline(n)
	}
	data, err := t.inline(n.ino)
	if err != nil {
		return err
	}
	f := t.e.format.Load()
	have, err := f.inlineSize(data)
	if err != nil || uint64(size) > have {
		return corrupt("inline content of inode %d has %d bytes instead of %d", n.ino, have, n.alloc)
	}
	return t.putInline(n, f.cutInline(data, size))
}

// relatimeAge is the age from which on an access time is out of date in any case.
const relatimeAge = 24 * time.Hour

// Touch implements Session.
func (s *session) Touch(ctx context.Context, ino vfs.Ino) error {
	if s.e.readOnly {
		return nil
	}
	var n inode
	if err := s.e.attr(ctx, ino, &n); err != nil {
		return fail("touch", "", err)
	}
	if !stale(&n, s.e.now()) {
		return nil
	}
	err := s.e.update(ctx, s, []vfs.Ino{ino}, func(t *txn) error {
		n, err := t.load(ino)
		if err == nil && stale(&n.inode, t.now) {
			n.atime = t.now
			t.changedAttr(ino)
		}
		return err
	})
	return fail("touch", "", err)
}

// stale tells whether an access time has to be set, as relatime does.
func stale(n *inode, now vfs.Time) bool {
	return !n.mtime.Before(n.atime) || !n.ctime.Before(n.atime) ||
		now.Sec-n.atime.Sec >= int64(relatimeAge/time.Second)
}
