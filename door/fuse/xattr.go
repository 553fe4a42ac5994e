package fuse

import (
	"os"
	"strings"
	"syscall"

	"github.com/massif-fs/massif/door/fuse/kernel"
	"github.com/massif-fs/massif/vfs"
)

// For trees without attributes the answer is ENOSYS, and the kernel asks no more.

// maxXattrList is the kernel's limit of a list, in bytes (XATTR_LIST_MAX).
const maxXattrList = 64 << 10

// xattrSELinux is the label of a file under SELinux, for which ls -l asks of every file.
// Where the host does not run SELinux, that a file has none is said as EOPNOTSUPP, as by
// file systems without labels: programs then do not ask for the other files of the
// mount. A label that there is is told.
const xattrSELinux = "security.selinux"

// runsSELinux tells whether the host does.
func runsSELinux() bool {
	_, err := os.Stat("/sys/fs/selinux/enforce")
	return err == nil
}

// GetXattr implements kernel.Handler. An empty dest asks for the size.
func (d *door) GetXattr(q *kernel.Request, name string, dest []byte) (size int, code syscall.Errno) {
	if d.xattrs == nil {
		return 0, syscall.ENOSYS
	}
	r := d.begin(OpGetXattr, q, name)
	defer r.end(&code)
	var value []byte
	if value, r.err = d.xattrs.GetXattr(r, &r.caller, vfs.Ino(q.NodeID), name); r.err != nil {
		if name == xattrSELinux && !d.selinux && r.err == syscall.ENODATA {
			r.err = syscall.EOPNOTSUPP
		}
		return
	}
	size = len(value)
	r.bytes = len(value)
	if len(dest) == 0 {
		return
	}
	if len(value) > len(dest) {
		r.err = syscall.ERANGE
		return
	}
	copy(dest, value)
	return
}

// ListXattr implements kernel.Handler.
func (d *door) ListXattr(q *kernel.Request, dest []byte) (size int, code syscall.Errno) {
	if d.xattrs == nil {
		return 0, syscall.ENOSYS
	}
	r := d.begin(OpListXattr, q, "")
	defer r.end(&code)
	var names []string
	if names, r.err = d.xattrs.ListXattr(r, &r.caller, vfs.Ino(q.NodeID)); r.err != nil {
		return
	}
	total := 0
	for _, n := range names {
		total += len(n) + 1
	}
	if total > maxXattrList {
		r.err = syscall.E2BIG
		return
	}
	size = total
	if len(dest) == 0 {
		return
	}
	if total > len(dest) {
		r.err = syscall.ERANGE
		return
	}
	for _, n := range names {
		k := copy(dest, n)
		dest[k] = 0
		dest = dest[k+1:]
	}
	return
}

// SetXattr implements kernel.Handler.
func (d *door) SetXattr(q *kernel.Request, in *kernel.SetXattrIn, name string, data []byte) (code syscall.Errno) {
	if d.xattrs == nil {
		return syscall.ENOSYS
	}
	r := d.begin(OpSetXattr, q, name)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	r.bytes = len(data)
	ino := vfs.Ino(q.NodeID)
	if r.err = d.xattrs.SetXattr(r, &r.caller, ino, name, data, in.Flags); r.err != nil {
		return
	}
	if name == vfs.XattrACLAccess && in.SetXattrFlags&kernel.SetXattrACLKillSGID != 0 {
		// The caller is neither of the file's group nor privileged.
		if r.err = d.fs.GetAttr(r, &r.caller, ino, &r.attr); r.err == nil && r.attr.Mode&syscall.S_ISGID != 0 {
			r.set = vfs.SetAttr{Valid: vfs.SetMode, Mode: r.attr.Mode & 07777 &^ syscall.S_ISGID}
			r.err = d.fs.SetAttr(r, &r.caller, ino, &r.set, &r.attr)
		}
	}
	return
}

// RemoveXattr implements kernel.Handler.
func (d *door) RemoveXattr(q *kernel.Request, name string) (code syscall.Errno) {
	if d.xattrs == nil {
		return syscall.ENOSYS
	}
	r := d.begin(OpRemoveXattr, q, name)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	r.err = d.xattrs.RemoveXattr(r, &r.caller, vfs.Ino(q.NodeID), name)
	if r.err != nil && strings.HasPrefix(name, "system.posix_acl_") && vfs.ErrnoOf(r.err) == syscall.ENODATA {
		r.err = nil // removing an ACL that is not there succeeds on Linux
	}
	return
}
