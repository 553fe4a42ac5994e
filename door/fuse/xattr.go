package fuse

import (
	"strings"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/massif-fs/massif/vfs"
)

// For trees without attributes go-fuse answers ENOSYS for the door, and the
// kernel asks no more.

// maxXattrList is the kernel's limit of a list, in bytes (XATTR_LIST_MAX).
const maxXattrList = 64 << 10

// GetXAttr implements gofuse.RawFileSystem. An empty dest asks for the size.
func (d *door) GetXAttr(cancel <-chan struct{}, h *gofuse.InHeader, name string, dest []byte) (size uint32, code gofuse.Status) {
	r := d.begin(OpGetXattr, cancel, h, name)
	defer r.end(&code)
	var value []byte
	if value, r.err = d.xattrs.GetXattr(r, &r.caller, vfs.Ino(h.NodeId), name); r.err != nil {
		return
	}
	size = uint32(len(value))
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

// ListXAttr implements gofuse.RawFileSystem.
func (d *door) ListXAttr(cancel <-chan struct{}, h *gofuse.InHeader, dest []byte) (size uint32, code gofuse.Status) {
	r := d.begin(OpListXattr, cancel, h, "")
	defer r.end(&code)
	var names []string
	if names, r.err = d.xattrs.ListXattr(r, &r.caller, vfs.Ino(h.NodeId)); r.err != nil {
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
	size = uint32(total)
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

// SetXAttr implements gofuse.RawFileSystem.
func (d *door) SetXAttr(cancel <-chan struct{}, in *gofuse.SetXAttrIn, name string, data []byte) (code gofuse.Status) {
	r := d.begin(OpSetXattr, cancel, &in.InHeader, name)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	r.bytes = len(data)
	ino := vfs.Ino(in.NodeId)
	if r.err = d.xattrs.SetXattr(r, &r.caller, ino, name, data, in.Flags); r.err != nil {
		return
	}
	if name == vfs.XattrACLAccess && in.SetXAttrFlags&gofuse.SETXATTR_ACL_KILL_SGID != 0 {
		// The caller is neither of the file's group nor privileged.
		if r.err = d.fs.GetAttr(r, &r.caller, ino, &r.attr); r.err == nil && r.attr.Mode&syscall.S_ISGID != 0 {
			r.set = vfs.SetAttr{Valid: vfs.SetMode, Mode: r.attr.Mode & 07777 &^ syscall.S_ISGID}
			r.err = d.fs.SetAttr(r, &r.caller, ino, &r.set, &r.attr)
		}
	}
	return
}

// RemoveXAttr implements gofuse.RawFileSystem.
func (d *door) RemoveXAttr(cancel <-chan struct{}, h *gofuse.InHeader, name string) (code gofuse.Status) {
	r := d.begin(OpRemoveXattr, cancel, h, name)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	r.err = d.xattrs.RemoveXattr(r, &r.caller, vfs.Ino(h.NodeId), name)
	if r.err != nil && strings.HasPrefix(name, "system.posix_acl_") && vfs.ErrnoOf(r.err) == syscall.ENODATA {
		r.err = nil // removing an ACL that is not there succeeds on Linux
	}
	return
}
