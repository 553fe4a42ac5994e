package fuse

import (
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/massif-fs/massif/vfs"
)

// Locks come here only for trees that several mounts share (vfs.LockFS, not
// exclusive); else the kernel keeps them.

func lockOf(in *gofuse.LkIn) (vfs.Lock, error) {
	l := vfs.Lock{Owner: in.Owner, PID: in.Lk.Pid, Start: in.Lk.Start, End: in.Lk.End}
	if in.LkFlags&gofuse.LK_FLOCK != 0 {
		l.Kind, l.Start, l.End = vfs.LockFlock, 0, vfs.LockEOF
	}
	switch in.Lk.Typ {
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

// GetLk implements gofuse.RawFileSystem.
func (d *door) GetLk(cancel <-chan struct{}, in *gofuse.LkIn, out *gofuse.LkOut) (code gofuse.Status) {
	r := d.begin(OpGetLock, cancel, &in.InHeader, "")
	defer r.end(&code)
	var l vfs.Lock
	if l, r.err = lockOf(in); r.err != nil {
		return
	}
	if l, r.err = d.locks.GetLock(r, vfs.Ino(in.NodeId), l); r.err != nil {
		return
	}
	out.Lk = gofuse.FileLock{Start: l.Start, End: l.End, Pid: l.PID}
	switch l.Type {
	case vfs.LockRead:
		out.Lk.Typ = syscall.F_RDLCK
	case vfs.LockWrite:
		out.Lk.Typ = syscall.F_WRLCK
	default:
		out.Lk.Typ = syscall.F_UNLCK
	}
	return
}

// SetLk implements gofuse.RawFileSystem.
func (d *door) SetLk(cancel <-chan struct{}, in *gofuse.LkIn) gofuse.Status {
	return d.setLock(cancel, in, false)
}

// SetLkw implements gofuse.RawFileSystem.
func (d *door) SetLkw(cancel <-chan struct{}, in *gofuse.LkIn) gofuse.Status {
	return d.setLock(cancel, in, true)
}

func (d *door) setLock(cancel <-chan struct{}, in *gofuse.LkIn, wait bool) (code gofuse.Status) {
	r := d.begin(OpSetLock, cancel, &in.InHeader, "")
	r.prompt = wait
	defer r.end(&code)
	var l vfs.Lock
	if l, r.err = lockOf(in); r.err == nil {
		r.err = d.locks.SetLock(r, vfs.Ino(in.NodeId), l, wait)
	}
	return
}
