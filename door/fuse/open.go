package fuse

import (
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/massif-fs/massif/vfs"
)

// openMask are the flags of open(2) that a tree is told of.
const openMask = syscall.O_ACCMODE | syscall.O_APPEND | syscall.O_TRUNC | syscall.O_DIRECT | syscall.O_SYNC | syscall.O_EXCL

// treeFlags are the flags with which the door opens a file for the kernel. A
// kernel that caches writes reads the pages it fills up, also of files opened for
// writing only, and finds the end of appends itself.
func (d *door) treeFlags(flags uint32) int {
	f := int(flags) & openMask
	if d.writeback {
		if f&syscall.O_ACCMODE == syscall.O_WRONLY {
			f = f&^syscall.O_ACCMODE | syscall.O_RDWR
		}
		f &^= syscall.O_APPEND
	}
	return f
}

// Create implements gofuse.RawFileSystem. Stateless mounts say ENOSYS, once: the
// kernel then uses MKNOD and opens without a message.
func (d *door) Create(cancel <-chan struct{}, in *gofuse.CreateIn, name string, out *gofuse.CreateOut) (code gofuse.Status) {
	if d.stateless && !d.readOnly {
		return gofuse.ENOSYS
	}
	r := d.begin(OpCreate, cancel, &in.InHeader, name)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	d.maskFor(r, in.Umask)
	var f vfs.File
	f, r.err = d.fs.Create(r, &r.caller, vfs.Ino(in.NodeId), name, in.Mode&07777, d.treeFlags(in.Flags), &r.attr)
	if r.err == nil {
		d.fillEntry(&r.attr, &out.EntryOut)
		d.opened(f, uint64(r.attr.Ino), in.Flags, &out.OpenOut)
	}
	return
}

// Tmpfile implements gofuse.RawFileSystem: open(2) with O_TMPFILE.
func (d *door) Tmpfile(cancel <-chan struct{}, in *gofuse.CreateIn, out *gofuse.CreateOut) (code gofuse.Status) {
	if d.tmpfile == nil {
		return gofuse.ENOSYS // the kernel says EOPNOTSUPP and does not ask again
	}
	r := d.begin(OpTmpfile, cancel, &in.InHeader, "")
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	d.maskFor(r, in.Umask)
	var f vfs.File
	f, r.err = d.tmpfile.Tmpfile(r, &r.caller, vfs.Ino(in.NodeId), in.Mode&07777, d.treeFlags(in.Flags), &r.attr)
	if r.err != nil {
		return
	}
	d.fillEntry(&r.attr, &out.EntryOut)
	if d.stateless {
		out.OpenFlags = gofuse.FOPEN_KEEP_CACHE
		r.err = f.Close() // the pin keeps the inode
		return
	}
	d.opened(f, uint64(r.attr.Ino), in.Flags, &out.OpenOut)
	return
}

// Open implements gofuse.RawFileSystem. Stateless mounts say ENOSYS, once: from
// then on the kernel opens files without a message and uses the handle 0.
func (d *door) Open(cancel <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) (code gofuse.Status) {
	if d.stateless {
		return gofuse.ENOSYS
	}
	r := d.begin(OpOpen, cancel, &in.InHeader, "")
	defer r.end(&code)
	if d.readOnly && (in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY || in.Flags&syscall.O_TRUNC != 0) {
		r.err = syscall.EROFS
		return
	}
	var f vfs.File
	if f, r.err = d.fs.Open(r, &r.caller, vfs.Ino(in.NodeId), d.treeFlags(in.Flags)); r.err != nil {
		return
	}
	if in.Mode&gofuse.OPEN_KILL_SUIDGID != 0 && in.Flags&syscall.O_TRUNC != 0 {
		if r.err = d.killPrivileges(r, in.NodeId); r.err != nil {
			f.Close()
			return
		}
	}
	d.opened(f, in.NodeId, in.Flags, out)
	return
}

// opened gives the kernel a handle.
func (d *door) opened(f vfs.File, ino uint64, flags uint32, out *gofuse.OpenOut) {
	h := &handle{ino: ino, file: f}
	out.OpenFlags = gofuse.FOPEN_PARALLEL_DIRECT_WRITES
	if d.keepCache {
		out.OpenFlags |= gofuse.FOPEN_KEEP_CACHE
	}
	if flags&syscall.O_ACCMODE == syscall.O_RDONLY && d.locks == nil {
		out.OpenFlags |= gofuse.FOPEN_NOFLUSH
	}
	if d.passthrough {
		d.attach(h, out)
	}
	out.Fh = d.handles.addFile(h, flags)
}

// Release implements gofuse.RawFileSystem; nobody waits for its reply.
func (d *door) Release(cancel <-chan struct{}, in *gofuse.ReleaseIn) {
	var code gofuse.Status
	r := d.begin(OpRelease, cancel, &in.InHeader, "")
	defer r.end(&code)
	const releaseFlockUnlock = 1 << 1 // FUSE_RELEASE_FLOCK_UNLOCK
	if d.locks != nil && in.ReleaseFlags&releaseFlockUnlock != 0 {
		if err := d.locks.ReleaseLocks(r, vfs.Ino(in.NodeId), in.LockOwner, vfs.LockFlock); err != nil {
			r.err = err
		}
	}
	if h := d.handles.take(in.Fh); h != nil {
		if err := d.closeHandle(h); err != nil {
			r.err = err
		}
	}
}

func (d *door) closeHandle(h *handle) (err error) {
	if h.file != nil {
		err = h.file.Close()
	}
	if h.dir != nil {
		err = h.dir.Close()
	}
	if h.node != nil {
		d.detach(h)
	}
	return err
}

// file finds the File of a message: of its handle, or on stateless mounts the
// door's own of the inode. done must be called with n when the File is not used
// any more.
func (d *door) file(r *request, ino, fh uint64) (f vfs.File, n *node, err error) {
	if d.stateless {
		n, err = d.nodes.acquire(r, ino)
		if err != nil {
			return nil, nil, err
		}
		return n.file, n, nil
	}
	h, err := d.handles.get(fh, ino, d.reopen(r, fh))
	if err != nil {
		return nil, nil, err
	}
	if h.file == nil {
		return nil, nil, syscall.EBADF
	}
	return h.file, nil, nil
}

// done ends the use of what file returned.
func (d *door) done(n *node) {
	if n != nil {
		d.nodes.release(n)
	}
}

// reopen returns the function that opens a predecessor's handle again.
func (d *door) reopen(r *request, fh uint64) func(*handle) error {
	return func(h *handle) (err error) {
		if fh&fhDirectory != 0 {
			h.dir, err = d.fs.OpenDir(r, &r.caller, vfs.Ino(h.ino))
		} else {
			h.file, err = d.fs.Open(r, &r.caller, vfs.Ino(h.ino), d.treeFlags(uint32(fhFlags(fh))))
		}
		return err
	}
}
