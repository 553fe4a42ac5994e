package meta

import (
	"encoding/binary"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// An ACL in the kernel's form for extended attributes (linux/posix_acl_xattr.h):
// a version and entries of tag, permissions and id, all little-endian.
const (
	aclVersion   = 2
	aclHeader    = 4
	aclEntrySize = 8
	aclNoID      = 0xffffffff
)

// Tags of ACL entries, in the order in which they stand.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// acl is a valid ACL: its entries ordered by tag, one each of owner, group and
// others, a mask if there are named users or groups.
type acl []aclEntry

// parseACL returns EINVAL for what is no ACL. An empty list of entries is nil.
func parseACL(b []byte) (acl, error) {
	if len(b) < aclHeader || (len(b)-aclHeader)%aclEntrySize != 0 || binary.LittleEndian.Uint32(b) != aclVersion {
		return nil, syscall.EINVAL
	}
	b = b[aclHeader:]
	if len(b) == 0 {
		return nil, nil
	}
	a := make(acl, 0, len(b)/aclEntrySize)
	var seen, last uint16
	for ; len(b) > 0; b = b[aclEntrySize:] {
		x := aclEntry{binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])}
		named := x.tag == aclUser || x.tag == aclGroup
		switch x.tag {
		case aclUserObj, aclUser, aclGroupObj, aclGroup, aclMask, aclOther:
		default:
			return nil, syscall.EINVAL
		}
		if x.perm > 7 || x.tag < last || seen&x.tag != 0 && !named || named && x.id == aclNoID {
			return nil, syscall.EINVAL
		}
		if !named {
			x.id = aclNoID
		}
		seen |= x.tag
		last = x.tag
		a = append(a, x)
	}
	const needed = aclUserObj | aclGroupObj | aclOther
	if seen&needed != needed || seen&(aclUser|aclGroup) != 0 && seen&aclMask == 0 {
		return nil, syscall.EINVAL
	}
	return a, nil
}

func (a acl) encode() []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, aclHeader+len(a)*aclEntrySize), aclVersion)
	for _, x := range a {
		b = binary.LittleEndian.AppendUint16(b, x.tag)
		b = binary.LittleEndian.AppendUint16(b, x.perm)
		b = binary.LittleEndian.AppendUint32(b, x.id)
	}
	return b
}

// minimal tells whether the ACL says no more than permission bits can.
func (a acl) minimal() bool { return len(a) == 3 }

func (a acl) find(tag uint16) *aclEntry {
	for i := range a {
		if a[i].tag == tag {
			return &a[i]
		}
	}
	return nil
}

// groupClass is the entry that the group bits of the mode show: the mask, or
// without one the owning group's.
func (a acl) groupClass() *aclEntry {
	if m := a.find(aclMask); m != nil {
		return m
	}
	return a.find(aclGroupObj)
}

// mode returns the nine permission bits that show the ACL.
func (a acl) mode() uint32 {
	return uint32(a.find(aclUserObj).perm)<<6 | uint32(a.groupClass().perm)<<3 | uint32(a.find(aclOther).perm)
}

// chmod makes the ACL show the nine permission bits of mode.
func (a acl) chmod(mode uint32) {
	a.find(aclUserObj).perm = uint16(mode >> 6 & 7)
	a.groupClass().perm = uint16(mode >> 3 & 7)
	a.find(aclOther).perm = uint16(mode & 7)
}

// inheritACL applies the directory's default ACL to a new inode, or, where there
// is none, the umask.
func (t *txn) inheritACL(dir, n *node, umask uint32) error {
	if n.isSymlink() {
		return nil
	}
	if dir.flags&flagDefaultACL == 0 {
		n.mode &^= umask & 0o777
		return nil
	}
	b, err := t.xattr(dir.ino, vfs.XattrACLDefault)
	if err != nil {
		return err
	}
	a, err := parseACL(b)
	if err != nil || a == nil {
		return corrupt("default ACL of directory %d is unreadable", dir.ino)
	}
	if n.isDir() {
		if err := t.putXattr(n.ino, vfs.XattrACLDefault, b); err != nil {
			return err
		}
		n.flags |= flagXattr | flagDefaultACL
	}
	// The default ACL limited by the mode asked for is the access ACL.
	a.chmod(a.mode() & n.mode)
	n.mode = n.mode&^0o777 | a.mode()
	if a.minimal() {
		return nil
	}
	n.flags |= flagXattr | flagACL
	return t.putXattr(n.ino, vfs.XattrACLAccess, a.encode())
}

// chmodACL makes the access ACL follow a changed mode.
func (t *txn) chmodACL(n *node) error {
	if n.flags&flagACL == 0 {
		return nil
	}
	b, err := t.xattr(n.ino, vfs.XattrACLAccess)
	if err != nil {
		return err
	}
	a, err := parseACL(b)
	if err != nil || a == nil {
		return corrupt("access ACL of inode %d is unreadable", n.ino)
	}
	if a.mode() == n.mode&0o777 {
		return nil
	}
	a.chmod(n.mode)
	return t.putXattr(n.ino, vfs.XattrACLAccess, a.encode())
}

// setACL sets an ACL attribute. An access ACL that permission bits can say goes
// into the mode.
func (t *txn) setACL(n *node, name string, value []byte) error {
	a, err := parseACL(value)
	switch {
	case err != nil:
		return err
	case n.isSymlink():
		return syscall.EOPNOTSUPP
	case name == vfs.XattrACLDefault && !n.isDir():
		return syscall.EACCES
	case a == nil: // an empty ACL is none
		if have, err := t.xattr(n.ino, name); err != nil || have == nil {
			return err
		}
		return t.removeXattr(n, name)
	case name == vfs.XattrACLDefault:
		n.flags |= flagXattr | flagDefaultACL
		return t.putXattr(n.ino, name, a.encode())
	}
	n.mode = n.mode&^0o777 | a.mode()
	if !a.minimal() {
		n.flags |= flagXattr | flagACL
		return t.putXattr(n.ino, name, a.encode())
	}
	if n.flags&flagACL != 0 {
		return t.removeXattr(n, name)
	}
	return nil
}
