package meta

import (
	"context"
	"strings"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// Limits of extended attributes, those of Linux.
const (
	MaxXattrName  = 255
	MaxXattrValue = 64 << 10
	maxXattrList  = 64 << 10 // bytes of an inode's names, each with a NUL: what listxattr(2) can tell
)

// xattrSpaces are the name spaces of attributes that are kept, besides ACLs.
var xattrSpaces = []string{"user.", "trusted.", "security."}

// CheckXattr returns why an attribute cannot be: EOPNOTSUPP for name spaces that are not kept.
func CheckXattr(name string) error {
	switch {
	case name == "" || len(name) > MaxXattrName:
		return syscall.ERANGE
	case strings.IndexByte(name, 0) >= 0:
		return syscall.EINVAL
	case name == vfs.XattrACLAccess, name == vfs.XattrACLDefault:
		return nil
	}
	for _, space := range xattrSpaces {
		if strings.HasPrefix(name, space) {
			if len(name) == len(space) {
				return syscall.EINVAL
			}
			return nil
		}
	}
	return syscall.EOPNOTSUPP
}

// GetXattr implements Session.
func (s *session) GetXattr(ctx context.Context, _ *vfs.Caller, ino vfs.Ino, name string) (value []byte, err error) {
	if err := s.e.format.Load().CheckStoredXattr(name); err != nil {
		return nil, err
	}
	s.lease(ino, LeaseAttr)
	// The kernel asks for some attributes with each write: most inodes have none.
	var n inode
	if err := s.e.attr(ctx, ino, &n); err != nil {
		return nil, fail("get xattr", name, err)
	}
	if n.flags&flagXattr == 0 {
		return nil, syscall.ENODATA
	}
	err = s.e.view(ctx, func(v *view) error {
		b, err := v.xattr(ino, name)
		if err != nil {
			return err
		}
		if b == nil {
			return syscall.ENODATA
		}
		value = append([]byte{}, b...)
		return nil
	})
	return value, fail("get xattr", name, err)
}

// SetXattr implements Session.
func (s *session) SetXattr(ctx context.Context, _ *vfs.Caller, ino vfs.Ino, name string, value []byte, flags uint32) error {
	if err := s.e.format.Load().CheckStoredXattr(name); err != nil {
		return err
	}
	switch {
	case flags&^(vfs.XattrCreate|vfs.XattrReplace) != 0:
		return syscall.EINVAL
	case len(value) > s.e.format.Load().maxXattrValue():
		return syscall.E2BIG
	}
	err := s.e.update(ctx, s, []vfs.Ino{ino}, func(t *txn) error {
		n, err := t.load(ino)
		if err != nil {
			return err
		}
		have, err := t.xattr(ino, name)
		switch {
		case err != nil:
			return err
		case have != nil && flags&vfs.XattrCreate != 0:
			return syscall.EEXIST
		case have == nil && flags&vfs.XattrReplace != 0:
			return syscall.ENODATA
		}
		n.ctime = t.now
		t.changedAttr(ino)
		if name == vfs.XattrACLAccess || name == vfs.XattrACLDefault {
			return t.setACL(n, name, value)
		}
		if have == nil {
			if err := t.roomForXattr(n, name); err != nil {
				return err
			}
		}
		n.flags |= flagXattr
		return t.putXattr(ino, name, value)
	})
	return fail("set xattr", name, err)
}

// roomForXattr returns ENOSPC if the names of an inode's attributes would be more
// than can be listed.
func (t *txn) roomForXattr(n *node, name string) error {
	if n.flags&flagXattr == 0 {
		return nil
	}
	f := t.e.format.Load()
	size := f.xattrNameSize(name) + 1
	err := t.scan(kindXattr, n.ino, func(key, _ []byte) (bool, error) {
		size += f.xattrNameSize(string(key[9:])) + 1
		return true, nil
	})
	if err == nil && size > maxXattrList {
		return syscall.ENOSPC
	}
	return err
}

// ListXattr implements Session.
func (s *session) ListXattr(ctx context.Context, _ *vfs.Caller, ino vfs.Ino) (names []string, err error) {
	s.lease(ino, LeaseAttr)
	var n inode
	if err := s.e.attr(ctx, ino, &n); err != nil {
		return nil, fail("list xattrs", "", err)
	}
	if n.flags&flagXattr == 0 {
		return nil, nil
	}
	err = s.e.view(ctx, func(v *view) (err error) {
		names, err = v.xattrNames(ino)
		return err
	})
	return names, fail("list xattrs", "", err)
}

func (v *view) xattrNames(ino vfs.Ino) (names []string, err error) {
	err = v.scan(kindXattr, ino, func(key, _ []byte) (bool, error) {
		_, name, err := splitXattrKey(key)
		names = append(names, string(name))
		return true, err
	})
	return names, err
}

// RemoveXattr implements Session.
func (s *session) RemoveXattr(ctx context.Context, _ *vfs.Caller, ino vfs.Ino, name string) error {
	if err := s.e.format.Load().CheckStoredXattr(name); err != nil {
		return err
	}
	err := s.e.update(ctx, s, []vfs.Ino{ino}, func(t *txn) error {
		n, err := t.load(ino)
		if err != nil {
			return err
		}
		have, err := t.xattr(ino, name)
		if err != nil {
			return err
		}
		if have == nil {
			return syscall.ENODATA
		}
		n.ctime = t.now
		t.changedAttr(ino)
		return t.removeXattr(n, name)
	})
	return fail("remove xattr", name, err)
}

// removeXattr removes an attribute that is there.
func (t *txn) removeXattr(n *node, name string) error {
	if err := t.delXattr(n.ino, name); err != nil {
		return err
	}
	switch name {
	case vfs.XattrACLAccess:
		n.flags &^= flagACL
	case vfs.XattrACLDefault:
		n.flags &^= flagDefaultACL
	}
	more, err := t.any(kindXattr, n.ino)
	if err == nil && !more {
		n.flags &^= flagXattr
	}
	return err
}
