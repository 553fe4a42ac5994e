// Package squash is a tree over another one on which root is nobody: what root asks
// for is done, and permitted, as for an ordinary user without groups.
//
// The kernel checks the permissions of all other users (default_permissions), but lets
// root pass whatever a file's mode says. So this tree checks for root: owner, group and
// mode, access ACLs, sticky directories, and who may change which attribute. What root
// makes belongs to nobody. As with NFS, what the kernel has cached of a path is walked
// without asking; each open, listing and change is checked.
//
// This protects against root on machines that are trusted to run their own kernel and
// this program. Where they are not, the metadata server does the same for the sessions of
// tokens that demand it (metarpc.Grant.RootSquash): it makes root's files nobody's.
package squash

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// Tree is what the tree below must be able to do. It has no vfs.StatelessFS: opens
// must come here.
type Tree interface {
	vfs.FS
	vfs.Pinner
	vfs.XattrFS
	vfs.LockFS
	vfs.CopyFS
	vfs.TmpfileFS
	vfs.PolicyFS
	vfs.LeaseFS
	vfs.Watchable
	ForceClose(ctx context.Context) error
}

// FS is the tree. It may be used concurrently as the one below may.
type FS struct {
	Tree
	uid, gid uint32
}

// New makes root the given user and group.
func New(below Tree, uid, gid uint32) *FS { return &FS{below, uid, gid} }

// squash returns the caller to act for, and whether it is a squashed one.
func (fs *FS) squash(c *vfs.Caller) (*vfs.Caller, bool) {
	if c == nil || c.UID != 0 {
		return c, false
	}
	nobody := *c
	nobody.UID, nobody.GID = fs.uid, fs.gid
	return &nobody, true
}

const (
	mayExec  = 1
	mayWrite = 2
	mayRead  = 4
)

func denied(op, name string, errno syscall.Errno) error {
	return &vfs.Error{Op: op, Name: name, Err: errno}
}

// may checks access to an inode. a gets its attributes.
func (fs *FS) may(ctx context.Context, c *vfs.Caller, op, name string, ino vfs.Ino, want uint32, a *vfs.Attr) error {
	if err := fs.Tree.GetAttr(ctx, c, ino, a); err != nil {
		return err
	}
	have, err := fs.rights(ctx, c, a)
	if err == nil && have&want != want {
		err = denied(op, name, syscall.EACCES)
	}
	return err
}

// rights are the bits of rwx that the squashed caller has.
func (fs *FS) rights(ctx context.Context, c *vfs.Caller, a *vfs.Attr) (uint32, error) {
	if a.UID == c.UID {
		return a.Mode >> 6 & 7, nil
	}
	acl, err := fs.Tree.GetXattr(ctx, c, a.Ino, vfs.XattrACLAccess)
	switch {
	case err == nil:
		return aclRights(acl, c, a), nil
	case !errors.Is(err, syscall.ENODATA) && !errors.Is(err, syscall.EOPNOTSUPP):
		return 0, err
	case a.GID == c.GID:
		return a.Mode >> 3 & 7, nil
	}
	return a.Mode & 7, nil
}

// aclRights evaluates an ACL in the kernel's form as acl(5) says, for a caller that is
// not the owner and in one group. What is no ACL gives no rights.
func aclRights(b []byte, c *vfs.Caller, a *vfs.Attr) uint32 {
	const (
		header, entry                             = 4, 8
		user, groupObj, group, mask, other uint16 = 0x02, 0x04, 0x08, 0x10, 0x20
	)
	if len(b) < header || (len(b)-header)%entry != 0 {
		return 0
	}
	limit, others := uint32(7), uint32(0)
	var named, groups uint32
	isNamed, inGroup := false, false
	for e := b[header:]; len(e) > 0; e = e[entry:] {
		tag, perm, id := binary.LittleEndian.Uint16(e), uint32(binary.LittleEndian.Uint16(e[2:]))&7, binary.LittleEndian.Uint32(e[4:])
		switch {
		case tag == user && id == c.UID:
			named, isNamed = perm, true
		case tag == groupObj && a.GID == c.GID, tag == group && id == c.GID:
			// Of several entries one that grants all suffices; with one group of a
			// caller there are two at most.
			groups, inGroup = groups|perm, true
		case tag == mask:
			limit = perm
		case tag == other:
			others = perm
		}
	}
	switch {
	case isNamed:
		return named & limit
	case inGroup:
		return groups & limit
	}
	return others
}

// mayRemove checks the removal of a name from a directory.
func (fs *FS) mayRemove(ctx context.Context, c *vfs.Caller, op string, parent vfs.Ino, name string) error {
	var dir, a vfs.Attr
	if err := fs.may(ctx, c, op, name, parent, mayWrite|mayExec, &dir); err != nil {
		return err
	}
	if dir.Mode&syscall.S_ISVTX == 0 || dir.UID == c.UID {
		return nil
	}
	if err := fs.Tree.Lookup(ctx, c, parent, name, &a); err != nil {
		return err
	}
	if a.UID != c.UID {
		return denied(op, name, syscall.EPERM)
	}
	return nil
}

// Lookup implements vfs.FS.
func (fs *FS) Lookup(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, out *vfs.Attr) error {
	if n, squashed := fs.squash(c); squashed {
		if err := fs.may(ctx, n, "lookup", name, parent, mayExec, out); err != nil {
			return err
		}
		c = n
	}
	return fs.Tree.Lookup(ctx, c, parent, name, out)
}

// SetAttr implements vfs.FS.
func (fs *FS) SetAttr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, set *vfs.SetAttr, out *vfs.Attr) error {
	if n, squashed := fs.squash(c); squashed {
		if err := fs.maySet(ctx, n, ino, set, out); err != nil {
			return err
		}
		c = n
	}
	return fs.Tree.SetAttr(ctx, c, ino, set, out)
}

func (fs *FS) maySet(ctx context.Context, c *vfs.Caller, ino vfs.Ino, set *vfs.SetAttr, a *vfs.Attr) error {
	if err := fs.Tree.GetAttr(ctx, c, ino, a); err != nil {
		return err
	}
	have, err := fs.rights(ctx, c, a)
	if err != nil {
		return err
	}
	owner := a.UID == c.UID
	switch v := set.Valid; {
	case v&vfs.SetUID != 0 && (!owner || set.UID != a.UID):
	case v&vfs.SetGID != 0 && (!owner || set.GID != a.GID && set.GID != c.GID):
	case v&vfs.SetMode != 0 && !owner:
	case v&(vfs.SetAtime|vfs.SetMtime) != 0 && !owner:
	case v&(vfs.SetAtimeNow|vfs.SetMtimeNow) != 0 && !owner && have&mayWrite == 0:
		return denied("setattr", "", syscall.EACCES)
	case v&vfs.SetSize != 0 && have&mayWrite == 0:
		return denied("setattr", "", syscall.EACCES)
	default:
		return nil
	}
	return denied("setattr", "", syscall.EPERM)
}

// inDir checks a change of a directory for root, and returns the caller to act for.
func (fs *FS) inDir(ctx context.Context, c *vfs.Caller, op string, parent vfs.Ino, name string) (*vfs.Caller, error) {
	n, squashed := fs.squash(c)
	if !squashed {
		return c, nil
	}
	var a vfs.Attr
	return n, fs.may(ctx, n, op, name, parent, mayWrite|mayExec, &a)
}

// Mknod implements vfs.FS. Devices are root's to make, and nobody here is root.
func (fs *FS) Mknod(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode, rdev uint32, out *vfs.Attr) error {
	n, err := fs.inDir(ctx, c, "mknod", parent, name)
	if err != nil {
		return err
	}
	if t := mode & syscall.S_IFMT; n != c && (t == syscall.S_IFCHR || t == syscall.S_IFBLK) {
		return denied("mknod", name, syscall.EPERM)
	}
	return fs.Tree.Mknod(ctx, n, parent, name, mode, rdev, out)
}

// Mkdir implements vfs.FS.
func (fs *FS) Mkdir(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, out *vfs.Attr) error {
	n, err := fs.inDir(ctx, c, "mkdir", parent, name)
	if err != nil {
		return err
	}
	return fs.Tree.Mkdir(ctx, n, parent, name, mode, out)
}

// Symlink implements vfs.FS.
func (fs *FS) Symlink(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name, target string, out *vfs.Attr) error {
	n, err := fs.inDir(ctx, c, "symlink", parent, name)
	if err != nil {
		return err
	}
	return fs.Tree.Symlink(ctx, n, parent, name, target, out)
}

// Link implements vfs.FS.
func (fs *FS) Link(ctx context.Context, c *vfs.Caller, ino, parent vfs.Ino, name string, out *vfs.Attr) error {
	n, err := fs.inDir(ctx, c, "link", parent, name)
	if err != nil {
		return err
	}
	return fs.Tree.Link(ctx, n, ino, parent, name, out)
}

// Unlink implements vfs.FS.
func (fs *FS) Unlink(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string) error {
	n, squashed := fs.squash(c)
	if squashed {
		if err := fs.mayRemove(ctx, n, "unlink", parent, name); err != nil {
			return err
		}
	}
	return fs.Tree.Unlink(ctx, n, parent, name)
}

// Rmdir implements vfs.FS.
func (fs *FS) Rmdir(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string) error {
	n, squashed := fs.squash(c)
	if squashed {
		if err := fs.mayRemove(ctx, n, "rmdir", parent, name); err != nil {
			return err
		}
	}
	return fs.Tree.Rmdir(ctx, n, parent, name)
}

// Rename implements vfs.FS.
func (fs *FS) Rename(ctx context.Context, c *vfs.Caller, oldParent vfs.Ino, oldName string, newParent vfs.Ino, newName string, flags uint32) error {
	n, squashed := fs.squash(c)
	if squashed {
		if err := fs.mayRename(ctx, n, oldParent, oldName, newParent, newName); err != nil {
			return err
		}
	}
	return fs.Tree.Rename(ctx, n, oldParent, oldName, newParent, newName, flags)
}

func (fs *FS) mayRename(ctx context.Context, c *vfs.Caller, oldParent vfs.Ino, oldName string, newParent vfs.Ino, newName string) error {
	if err := fs.mayRemove(ctx, c, "rename", oldParent, oldName); err != nil {
		return err
	}
	// What is replaced is removed; where there is nothing, a name is added.
	if err := fs.mayRemove(ctx, c, "rename", newParent, newName); err != nil && !errors.Is(err, syscall.ENOENT) {
		return err
	}
	var a vfs.Attr
	if oldParent == newParent {
		return nil
	}
	if err := fs.Tree.Lookup(ctx, c, oldParent, oldName, &a); err != nil || a.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		return err
	}
	return fs.may(ctx, c, "rename", oldName, a.Ino, mayWrite, &a) // its ".." changes
}

// Create implements vfs.FS.
func (fs *FS) Create(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, flags int, out *vfs.Attr) (vfs.File, error) {
	n, err := fs.inDir(ctx, c, "create", parent, name)
	if err != nil {
		return nil, err
	}
	return fs.Tree.Create(ctx, n, parent, name, mode, flags, out)
}

// Tmpfile implements vfs.TmpfileFS.
func (fs *FS) Tmpfile(ctx context.Context, c *vfs.Caller, parent vfs.Ino, mode uint32, flags int, out *vfs.Attr) (vfs.File, error) {
	n, err := fs.inDir(ctx, c, "tmpfile", parent, "")
	if err != nil {
		return nil, err
	}
	return fs.Tree.Tmpfile(ctx, n, parent, mode, flags, out)
}

// fmodeExec is the kernel's flag of an open for execution.
const fmodeExec = 0x20

// Open implements vfs.FS.
func (fs *FS) Open(ctx context.Context, c *vfs.Caller, ino vfs.Ino, flags int) (vfs.File, error) {
	n, squashed := fs.squash(c)
	if squashed {
		want := uint32(mayRead)
		switch {
		case flags&syscall.O_ACCMODE == os.O_WRONLY:
			want = mayWrite
		case flags&syscall.O_ACCMODE == os.O_RDWR:
			want = mayRead | mayWrite
		case flags&fmodeExec != 0:
			want = mayExec
		}
		if flags&syscall.O_TRUNC != 0 {
			want |= mayWrite
		}
		var a vfs.Attr
		if err := fs.may(ctx, n, "open", "", ino, want, &a); err != nil {
			return nil, err
		}
	}
	return fs.Tree.Open(ctx, n, ino, flags)
}

// OpenDir implements vfs.FS.
func (fs *FS) OpenDir(ctx context.Context, c *vfs.Caller, ino vfs.Ino) (vfs.Dir, error) {
	n, squashed := fs.squash(c)
	if squashed {
		var a vfs.Attr
		if err := fs.may(ctx, n, "opendir", "", ino, mayRead, &a); err != nil {
			return nil, err
		}
	}
	return fs.Tree.OpenDir(ctx, n, ino)
}

// GetXattr implements vfs.XattrFS.
func (fs *FS) GetXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string) ([]byte, error) {
	n, squashed := fs.squash(c)
	if squashed && name != vfs.XattrACLAccess && name != vfs.XattrACLDefault {
		var a vfs.Attr
		if err := fs.may(ctx, n, "getxattr", name, ino, mayRead, &a); err != nil {
			return nil, err
		}
	}
	return fs.Tree.GetXattr(ctx, n, ino, name)
}

// SetXattr implements vfs.XattrFS.
func (fs *FS) SetXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string, value []byte, flags uint32) error {
	n, err := fs.mayXattr(ctx, c, "setxattr", ino, name)
	if err != nil {
		return err
	}
	return fs.Tree.SetXattr(ctx, n, ino, name, value, flags)
}

// RemoveXattr implements vfs.XattrFS.
func (fs *FS) RemoveXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string) error {
	n, err := fs.mayXattr(ctx, c, "removexattr", ino, name)
	if err != nil {
		return err
	}
	return fs.Tree.RemoveXattr(ctx, n, ino, name)
}

// mayXattr checks a change of an extended attribute: "user." takes the right to write,
// ACLs the owner, and the others are root's.
func (fs *FS) mayXattr(ctx context.Context, c *vfs.Caller, op string, ino vfs.Ino, name string) (*vfs.Caller, error) {
	n, squashed := fs.squash(c)
	if !squashed {
		return c, nil
	}
	var a vfs.Attr
	if err := fs.Tree.GetAttr(ctx, n, ino, &a); err != nil {
		return n, err
	}
	switch {
	case name == vfs.XattrACLAccess || name == vfs.XattrACLDefault:
		if a.UID != n.UID {
			return n, denied(op, name, syscall.EPERM)
		}
	case len(name) > 5 && name[:5] == "user.":
		have, err := fs.rights(ctx, n, &a)
		if err != nil {
			return n, err
		}
		if have&mayWrite == 0 {
			return n, denied(op, name, syscall.EACCES)
		}
	default:
		return n, denied(op, name, syscall.EPERM)
	}
	return n, nil
}
