package fuse

import (
	"syscall"

	"github.com/massif-fs/massif/door/fuse/kernel"
	"github.com/massif-fs/massif/vfs"
)

// Lookup implements kernel.Handler. The names "." and ".." come from the
// NFS server (CAP_EXPORT_SUPPORT), which finds inodes by number.
func (d *door) Lookup(q *kernel.Request, name string, out *kernel.EntryOut) (code syscall.Errno) {
	r := d.begin(OpLookup, q, name)
	defer r.end(&code)
	if name == "." {
		r.err = d.fs.GetAttr(r, &r.caller, vfs.Ino(q.NodeID), &r.attr)
	} else {
		r.err = d.fs.Lookup(r, &r.caller, vfs.Ino(q.NodeID), name, &r.attr)
	}
	switch {
	case r.err == nil:
		d.fillEntry(r, &r.attr, out)
	case vfs.ErrnoOf(r.err) == syscall.ENOENT:
		if v := r.negativeValidity(q.NodeID); v != (validity{}) {
			// Node 0 is how the protocol says that a name stays absent for a while.
			r.err = nil
			out.EntryValid, out.EntryValidNsec = v.sec, v.nsec
		}
	}
	return
}

// Forget implements kernel.Handler; it has no reply.
func (d *door) Forget(nodeid, nlookup uint64) {
	d.counts[OpForget].count.Add(1)
	if nodeid != kernel.RootID {
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

// Mknod implements kernel.Handler. On stateless mounts it makes regular
// files, too.
func (d *door) Mknod(q *kernel.Request, in *kernel.MknodIn, name string, out *kernel.EntryOut) (code syscall.Errno) {
	r := d.begin(OpMknod, q, name)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	d.maskFor(r, in.Umask)
	if r.err = d.fs.Mknod(r, &r.caller, vfs.Ino(q.NodeID), name, in.Mode, in.Rdev, &r.attr); r.err == nil {
		d.fillEntry(r, &r.attr, out)
		if r.attr.Mode&(syscall.S_ISUID|syscall.S_ISGID) == 0 && d.leases == nil {
			d.nodes.setPlain(out.NodeID, 0) // new: nobody else knows it yet
		}
	}
	return
}

// Mkdir implements kernel.Handler.
func (d *door) Mkdir(q *kernel.Request, in *kernel.MkdirIn, name string, out *kernel.EntryOut) (code syscall.Errno) {
	r := d.begin(OpMkdir, q, name)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	d.maskFor(r, in.Umask)
	if r.err = d.fs.Mkdir(r, &r.caller, vfs.Ino(q.NodeID), name, in.Mode&07777, &r.attr); r.err == nil {
		d.fillEntry(r, &r.attr, out)
	}
	return
}

// Symlink implements kernel.Handler.
func (d *door) Symlink(q *kernel.Request, target, name string, out *kernel.EntryOut) (code syscall.Errno) {
	r := d.begin(OpSymlink, q, name)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	if r.err = d.fs.Symlink(r, &r.caller, vfs.Ino(q.NodeID), name, target, &r.attr); r.err == nil {
		d.fillEntry(r, &r.attr, out)
	}
	return
}

// Readlink implements kernel.Handler.
func (d *door) Readlink(q *kernel.Request) (target string, code syscall.Errno) {
	r := d.begin(OpReadlink, q, "")
	defer r.end(&code)
	target, r.err = d.fs.Readlink(r, &r.caller, vfs.Ino(q.NodeID))
	return
}

// Link implements kernel.Handler.
func (d *door) Link(q *kernel.Request, in *kernel.LinkIn, name string, out *kernel.EntryOut) (code syscall.Errno) {
	r := d.begin(OpLink, q, name)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	if r.err = d.fs.Link(r, &r.caller, vfs.Ino(in.OldNodeID), vfs.Ino(q.NodeID), name, &r.attr); r.err == nil {
		d.fillEntry(r, &r.attr, out)
		v := d.unversioned()
		out.AttrValid, out.AttrValidNsec = v.sec, v.nsec
	}
	return
}

// Unlink implements kernel.Handler.
func (d *door) Unlink(q *kernel.Request, name string) (code syscall.Errno) {
	r := d.begin(OpUnlink, q, name)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	r.err = d.fs.Unlink(r, &r.caller, vfs.Ino(q.NodeID), name)
	return
}

// Rmdir implements kernel.Handler.
func (d *door) Rmdir(q *kernel.Request, name string) (code syscall.Errno) {
	r := d.begin(OpRmdir, q, name)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	r.err = d.fs.Rmdir(r, &r.caller, vfs.Ino(q.NodeID), name)
	return
}

// Rename implements kernel.Handler.
func (d *door) Rename(q *kernel.Request, in *kernel.RenameIn, oldName, newName string) (code syscall.Errno) {
	r := d.begin(OpRename, q, oldName)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	r.locks(in.NewDir)
	r.err = d.fs.Rename(r, &r.caller, vfs.Ino(q.NodeID), oldName, vfs.Ino(in.NewDir), newName, in.Flags)
	return
}
