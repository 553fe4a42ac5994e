package fuse

import (
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/massif-fs/massif/vfs"
)

// Lookup implements gofuse.RawFileSystem. The names "." and ".." come from the
// NFS server (CAP_EXPORT_SUPPORT), which finds inodes by number.
func (d *door) Lookup(cancel <-chan struct{}, h *gofuse.InHeader, name string, out *gofuse.EntryOut) (code gofuse.Status) {
	r := d.begin(OpLookup, cancel, h, name)
	defer r.end(&code)
	if name == "." {
		r.err = d.fs.GetAttr(r, &r.caller, vfs.Ino(h.NodeId), &r.attr)
	} else {
		r.err = d.fs.Lookup(r, &r.caller, vfs.Ino(h.NodeId), name, &r.attr)
	}
	switch {
	case r.err == nil:
		d.fillEntry(&r.attr, out)
	case d.negValid != (validity{}) && vfs.ErrnoOf(r.err) == syscall.ENOENT:
		// Node 0 is how the protocol says that a name stays absent for a while.
		r.err = nil
		out.EntryValid, out.EntryValidNsec = d.negValid.sec, d.negValid.nsec
	}
	return
}

// Forget implements gofuse.RawFileSystem; it has no reply.
func (d *door) Forget(nodeid, nlookup uint64) {
	d.counts[OpForget].count.Add(1)
	if nodeid != gofuse.FUSE_ROOT_ID {
		d.nodes.forget(nodeid, nlookup)
	}
}

// maskFor sets the umask that the tree must apply: with POSIX ACLs the kernel
// leaves it to us.
func (d *door) maskFor(r *request, umask uint32) {
	if d.acl {
		r.caller.Umask = umask & 0777
	}
}

// Mknod implements gofuse.RawFileSystem. On stateless mounts it makes regular
// files, too.
func (d *door) Mknod(cancel <-chan struct{}, in *gofuse.MknodIn, name string, out *gofuse.EntryOut) (code gofuse.Status) {
	r := d.begin(OpMknod, cancel, &in.InHeader, name)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	d.maskFor(r, in.Umask)
	if r.err = d.fs.Mknod(r, &r.caller, vfs.Ino(in.NodeId), name, in.Mode, in.Rdev, &r.attr); r.err == nil {
		d.fillEntry(&r.attr, out)
		if r.attr.Mode&(syscall.S_ISUID|syscall.S_ISGID) == 0 {
			d.nodes.setPlain(out.NodeId, 0) // new: nobody else knows it yet
		}
	}
	return
}

// Mkdir implements gofuse.RawFileSystem.
func (d *door) Mkdir(cancel <-chan struct{}, in *gofuse.MkdirIn, name string, out *gofuse.EntryOut) (code gofuse.Status) {
	r := d.begin(OpMkdir, cancel, &in.InHeader, name)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	d.maskFor(r, in.Umask)
	if r.err = d.fs.Mkdir(r, &r.caller, vfs.Ino(in.NodeId), name, in.Mode&07777, &r.attr); r.err == nil {
		d.fillEntry(&r.attr, out)
	}
	return
}

// Symlink implements gofuse.RawFileSystem.
func (d *door) Symlink(cancel <-chan struct{}, h *gofuse.InHeader, target, name string, out *gofuse.EntryOut) (code gofuse.Status) {
	r := d.begin(OpSymlink, cancel, h, name)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	if r.err = d.fs.Symlink(r, &r.caller, vfs.Ino(h.NodeId), name, target, &r.attr); r.err == nil {
		d.fillEntry(&r.attr, out)
	}
	return
}

// Readlink implements gofuse.RawFileSystem.
func (d *door) Readlink(cancel <-chan struct{}, h *gofuse.InHeader) (out []byte, code gofuse.Status) {
	r := d.begin(OpReadlink, cancel, h, "")
	defer r.end(&code)
	var target string
	if target, r.err = d.fs.Readlink(r, &r.caller, vfs.Ino(h.NodeId)); r.err == nil {
		out = []byte(target)
	}
	return
}

// Link implements gofuse.RawFileSystem.
func (d *door) Link(cancel <-chan struct{}, in *gofuse.LinkIn, name string, out *gofuse.EntryOut) (code gofuse.Status) {
	r := d.begin(OpLink, cancel, &in.InHeader, name)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	if r.err = d.fs.Link(r, &r.caller, vfs.Ino(in.Oldnodeid), vfs.Ino(in.NodeId), name, &r.attr); r.err == nil {
		d.fillEntry(&r.attr, out)
	}
	return
}

// Unlink implements gofuse.RawFileSystem.
func (d *door) Unlink(cancel <-chan struct{}, h *gofuse.InHeader, name string) (code gofuse.Status) {
	r := d.begin(OpUnlink, cancel, h, name)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	r.err = d.fs.Unlink(r, &r.caller, vfs.Ino(h.NodeId), name)
	return
}

// Rmdir implements gofuse.RawFileSystem.
func (d *door) Rmdir(cancel <-chan struct{}, h *gofuse.InHeader, name string) (code gofuse.Status) {
	r := d.begin(OpRmdir, cancel, h, name)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	r.err = d.fs.Rmdir(r, &r.caller, vfs.Ino(h.NodeId), name)
	return
}

// Rename implements gofuse.RawFileSystem.
func (d *door) Rename(cancel <-chan struct{}, in *gofuse.RenameIn, oldName, newName string) (code gofuse.Status) {
	r := d.begin(OpRename, cancel, &in.InHeader, oldName)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	r.err = d.fs.Rename(r, &r.caller, vfs.Ino(in.NodeId), oldName, vfs.Ino(in.Newdir), newName, in.Flags)
	return
}
