package fuse

import (
	"syscall"

	"github.com/massif-fs/massif/door/fuse/kernel"
	"github.com/massif-fs/massif/vfs"
)

// Locks come here only for trees that several mounts share (vfs.LockFS, not
// exclusive); else the kernel keeps them.

func lockOf(in *kernel.LkIn) (vfs.Lock, error) {
	l := vfs.Lock{Owner: in.Owner, PID: in.Lk.PID, Start: in.Lk.Start, End: in.Lk.End}
	if in.LkFlags&kernel.LkFlock != 0 {
		l.Kind, l.Start, l.End = vfs.LockFlock, 0, vfs.LockEOF
	}
	switch in.Lk.Type {
	case syscall.F_RDLCK:
		l.Type = vfs.LockRead
	case syscall.F_WRLCK:
		l.Type = vfs.LockWrite
	case syscall.F_UNLCK:
		l.Type = vfs.LockUnlock
	default:
		return l, syscall.EINVAL
	}
	return l, nil
}

// GetLk implements kernel.Handler.
func (d *door) GetLk(q *kernel.Request, in *kernel.LkIn, out *kernel.LkOut) (code syscall.Errno) {
	if d.locks == nil {
		return syscall.ENOSYS
	}
	r := d.begin(OpGetLock, q, "")
	defer r.end(&code)
	var l vfs.Lock
	if l, r.err = lockOf(in); r.err != nil {
		return
	}
	if l, r.err = d.locks.GetLock(r, vfs.Ino(q.NodeID), l); r.err != nil {
		return
	}
	out.Lk = kernel.FileLock{Start: l.Start, End: l.End, PID: l.PID}
	switch l.Type {
	case vfs.LockRead:
		out.Lk.Type = syscall.F_RDLCK
	case vfs.LockWrite:
		out.Lk.Type = syscall.F_WRLCK
	default:
		out.Lk.Type = syscall.F_UNLCK
	}
	return
}

// SetLk implements kernel.Handler.
func (d *door) SetLk(q *kernel.Request, in *kernel.LkIn) syscall.Errno {
	return d.setLock(q, in, false)
}

// SetLkw implements kernel.Handler.
func (d *door) SetLkw(q *kernel.Request, in *kernel.LkIn) syscall.Errno {
	return d.setLock(q, in, true)
}

func (d *door) setLock(q *kernel.Request, in *kernel.LkIn, wait bool) (code syscall.Errno) {
	if d.locks == nil {
		return syscall.ENOSYS
	}
	r := d.begin(OpSetLock, q, "")
	r.prompt = wait
	defer r.end(&code)
	var l vfs.Lock
	if l, r.err = lockOf(in); r.err == nil {
		if h := d.handles.peek(in.Fh); h != nil && l.Kind == vfs.LockPOSIX && l.Type != vfs.LockUnlock {
			h.addOwner(l.Owner)
		}
		r.err = d.locks.SetLock(r, vfs.Ino(q.NodeID), l, wait)
	}
	return
}
