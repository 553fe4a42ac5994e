package fuse

import (
	"syscall"

	"github.com/massif-fs/massif/door/fuse/kernel"
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

// Create implements kernel.Handler. Stateless mounts say ENOSYS, once: the
// kernel then uses MKNOD and opens without a message.
func (d *door) Create(q *kernel.Request, in *kernel.CreateIn, name string, out *kernel.CreateOut) (code syscall.Errno) {
	if d.stateless && !d.readOnly {
		return syscall.ENOSYS
	}
	r := d.begin(OpCreate, q, name)
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	d.maskFor(r, in.Umask)
	var f vfs.File
	f, r.err = d.fs.Create(r, &r.caller, vfs.Ino(q.NodeID), name, in.Mode&07777, d.treeFlags(in.Flags), &r.attr)
	if r.err == nil {
		d.fillEntry(r, &r.attr, &out.EntryOut)
		d.opened(r, f, uint64(r.attr.Ino), in.Flags, &out.OpenOut)
	}
	return
}

// Tmpfile implements kernel.Handler: open(2) with O_TMPFILE.
func (d *door) Tmpfile(q *kernel.Request, in *kernel.CreateIn, out *kernel.CreateOut) (code syscall.Errno) {
	if d.tmpfile == nil {
		return syscall.ENOSYS // the kernel says EOPNOTSUPP and does not ask again
	}
	r := d.begin(OpTmpfile, q, "")
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	d.maskFor(r, in.Umask)
	var f vfs.File
	f, r.err = d.tmpfile.Tmpfile(r, &r.caller, vfs.Ino(q.NodeID), in.Mode&07777, d.treeFlags(in.Flags), &r.attr)
	if r.err != nil {
		return
	}
	d.fillEntry(r, &r.attr, &out.EntryOut)
	if d.stateless {
		out.OpenFlags = kernel.FopenKeepCache
		r.err = f.Close() // the pin keeps the inode
		return
	}
	d.opened(r, f, uint64(r.attr.Ino), in.Flags, &out.OpenOut)
	return
}

// Open implements kernel.Handler. Stateless mounts say ENOSYS, once: from
// then on the kernel opens files without a message and uses the handle 0.
func (d *door) Open(q *kernel.Request, in *kernel.OpenIn, out *kernel.OpenOut) (code syscall.Errno) {
	if d.stateless {
		return syscall.ENOSYS
	}
	r := d.begin(OpOpen, q, "")
	defer r.end(&code)
	if d.readOnly && (in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY || in.Flags&syscall.O_TRUNC != 0) {
		r.err = syscall.EROFS
		return
	}
	var f vfs.File
	if f, r.err = d.fs.Open(r, &r.caller, vfs.Ino(q.NodeID), d.treeFlags(in.Flags)); r.err != nil {
		return
	}
	if in.OpenFlags&kernel.OpenKillSUIDGID != 0 && in.Flags&syscall.O_TRUNC != 0 {
		if r.err = d.killPrivileges(r, q.NodeID); r.err != nil {
			f.Close()
			return
		}
	}
	d.opened(r, f, q.NodeID, in.Flags, out)
	return
}

// opened gives the kernel a handle.
func (d *door) opened(r *request, f vfs.File, ino uint64, flags uint32, out *kernel.OpenOut) {
	h := &handle{ino: ino, file: f}
	out.OpenFlags = kernel.FopenParallelDirectWrites
	if r.keepsPages(ino) {
		out.OpenFlags |= kernel.FopenKeepCache
	}
	if flags&syscall.O_ACCMODE == syscall.O_RDONLY && d.locks == nil {
		out.OpenFlags |= kernel.FopenNoFlush
	}
	if d.direct(flags) {
		out.OpenFlags |= kernel.FopenDirectIO
	} else if d.passthrough {
		d.attach(h, out)
	}
	out.Fh = d.handles.addFile(h, flags)
}

// Release implements kernel.Handler; nobody waits for its reply.
func (d *door) Release(q *kernel.Request, in *kernel.ReleaseIn) {
	var code syscall.Errno
	r := d.begin(OpRelease, q, "")
	defer r.end(&code)
	if d.locks != nil && in.ReleaseFlags&kernel.ReleaseFlockUnlock != 0 {
		if err := d.locks.ReleaseLocks(r, vfs.Ino(q.NodeID), in.LockOwner, vfs.LockFlock); err != nil {
			r.err = err
		}
	}
	if h := d.handles.take(in.Fh); h != nil {
		for _, owner := range h.owners {
			if err := d.locks.ReleaseLocks(r, vfs.Ino(q.NodeID), owner, vfs.LockPOSIX); err != nil {
				r.err = err
			}
		}
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
