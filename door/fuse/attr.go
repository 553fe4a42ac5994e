package fuse

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/door/fuse/kernel"
	"github.com/massif-fs/massif/vfs"
)

// fillAttr translates attributes for the kernel.
func (d *door) fillAttr(a *vfs.Attr, out *kernel.Attr) {
	*out = kernel.Attr{
		Ino: uint64(a.Ino), Size: a.Size, Blocks: a.Blocks,
		Atime: uint64(a.Atime.Sec), Mtime: uint64(a.Mtime.Sec), Ctime: uint64(a.Ctime.Sec),
		AtimeNsec: a.Atime.Nsec, MtimeNsec: a.Mtime.Nsec, CtimeNsec: a.Ctime.Nsec,
		Mode: a.Mode, Nlink: a.Nlink, UID: a.UID, GID: a.GID,
		Rdev: a.Rdev, BlockSize: a.BlockSize,
	}
	d.override(&out.Mode, &out.UID, &out.GID)
}

// override applies the options UID, GID and Umask.
func (d *door) override(mode, uid, gid *uint32) {
	if d.opts.UID != nil {
		*uid = *d.opts.UID
	}
	if d.opts.GID != nil {
		*gid = *d.opts.GID
	}
	if d.opts.Umask != nil && *mode&syscall.S_IFMT != syscall.S_IFLNK {
		*mode &^= *d.opts.Umask & 0777
	}
}

// fillEntry tells the kernel of an inode, found or made: from now on the kernel
// knows its number.
func (d *door) fillEntry(r *request, a *vfs.Attr, out *kernel.EntryOut) {
	d.nodes.learn(uint64(a.Ino))
	d.fillEntryUncounted(a, out)
	r.fillValidity(out)
}

// fillEntryUncounted leaves it to the caller to count, and then to call fillValidity.
func (d *door) fillEntryUncounted(a *vfs.Attr, out *kernel.EntryOut) {
	out.NodeID = uint64(a.Ino)
	out.Generation = uint64(a.Gen)
	d.fillAttr(a, &out.Attr)
}

// fillValidity says how long the kernel may believe an entry of the request's node.
func (r *request) fillValidity(out *kernel.EntryOut) {
	v := r.entryValidity(r.ino)
	out.EntryValid, out.EntryValidNsec = v.sec, v.nsec
	v = r.attrValidity(out.NodeID)
	out.AttrValid, out.AttrValidNsec = v.sec, v.nsec
}

func (d *door) fillAttrOut(a *vfs.Attr, v validity, out *kernel.AttrOut) {
	out.AttrValid, out.AttrValidNsec = v.sec, v.nsec
	d.fillAttr(a, &out.Attr)
}

// GetAttr implements kernel.Handler.
func (d *door) GetAttr(q *kernel.Request, in *kernel.GetAttrIn, out *kernel.AttrOut) (code syscall.Errno) {
	r := d.begin(OpGetAttr, q, "")
	defer r.end(&code)
	if r.err = d.fs.GetAttr(r, &r.caller, vfs.Ino(q.NodeID), &r.attr); r.err == nil {
		d.fillAttrOut(&r.attr, r.attrValidity(q.NodeID), out)
	}
	return
}

// Statx implements kernel.Handler. It is asked for the birth time only; the
// rest comes by GETATTR.
func (d *door) Statx(q *kernel.Request, in *kernel.StatxIn, out *kernel.StatxOut) (code syscall.Errno) {
	r := d.begin(OpGetAttr, q, "")
	defer r.end(&code)
	a := &r.attr
	if r.err = d.fs.GetAttr(r, &r.caller, vfs.Ino(q.NodeID), a); r.err != nil {
		return
	}
	mode, uid, gid := a.Mode, a.UID, a.GID
	d.override(&mode, &uid, &gid)
	v := r.attrValidity(q.NodeID)
	out.AttrValid, out.AttrValidNsec = v.sec, v.nsec
	out.Statx = kernel.Statx{
		Mask: unix.STATX_BASIC_STATS | unix.STATX_BTIME,
		Ino:  uint64(a.Ino), Size: a.Size, Blocks: a.Blocks, BlockSize: a.BlockSize,
		Nlink: a.Nlink, UID: uid, GID: gid, Mode: uint16(mode),
		Atime: statxTime(a.Atime), Mtime: statxTime(a.Mtime), Ctime: statxTime(a.Ctime), Btime: statxTime(a.Btime),
		RdevMajor: unix.Major(uint64(a.Rdev)), RdevMinor: unix.Minor(uint64(a.Rdev)),
	}
	return
}

func statxTime(t vfs.Time) kernel.Time {
	return kernel.Time{Sec: t.Sec, Nsec: t.Nsec}
}

// SetAttr implements kernel.Handler: chmod, chown, truncate, utimensat, and
// the times and sizes of a kernel that caches writes.
func (d *door) SetAttr(q *kernel.Request, in *kernel.SetAttrIn, out *kernel.AttrOut) (code syscall.Errno) {
	r := d.begin(OpSetAttr, q, "")
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	set := &r.set
	translateSetAttr(in, set)
	if set.Valid&(vfs.SetUID|vfs.SetGID) != 0 {
		// Under HANDLE_KILLPRIV_V2 a change of owner always clears set-id bits, of
		// all but directories, without the kernel's asking.
		if r.err = d.fs.GetAttr(r, &r.caller, vfs.Ino(q.NodeID), &r.attr); r.err != nil {
			return
		}
		if !r.attr.IsDir() {
			set.Valid |= vfs.SetKillSUIDGID
		}
	}
	if set.Valid&vfs.SetMode != 0 {
		// Before and after: a writer that looks meanwhile must not believe what it saw.
		d.nodes.modeChange(q.NodeID)
		defer d.nodes.modeChange(q.NodeID)
	}
	if r.err = d.fs.SetAttr(r, &r.caller, vfs.Ino(q.NodeID), set, &r.attr); r.err == nil {
		d.fillAttrOut(&r.attr, d.unversioned(), out)
	}
	return
}

func translateSetAttr(in *kernel.SetAttrIn, set *vfs.SetAttr) {
	*set = vfs.SetAttr{
		Mode: in.Mode & 07777, UID: in.UID, GID: in.GID, Size: in.Size,
		Atime: vfs.Time{Sec: int64(in.Atime), Nsec: in.AtimeNsec},
		Mtime: vfs.Time{Sec: int64(in.Mtime), Nsec: in.MtimeNsec},
		Ctime: vfs.Time{Sec: int64(in.Ctime), Nsec: in.CtimeNsec},
	}
	has := func(bit uint32) bool { return in.Valid&bit != 0 }
	for _, f := range [...]struct {
		bit  uint32
		mask vfs.SetMask
	}{
		{kernel.SetAttrMode, vfs.SetMode}, {kernel.SetAttrUID, vfs.SetUID}, {kernel.SetAttrGID, vfs.SetGID},
		{kernel.SetAttrSize, vfs.SetSize}, {kernel.SetAttrCtime, vfs.SetCtime},
		{kernel.SetAttrKillSUIDGID, vfs.SetKillSUIDGID},
	} {
		if has(f.bit) {
			set.Valid |= f.mask
		}
	}
	switch {
	case has(kernel.SetAttrAtimeNow):
		set.Valid |= vfs.SetAtimeNow
	case has(kernel.SetAttrAtime):
		set.Valid |= vfs.SetAtime
	}
	switch {
	case has(kernel.SetAttrMtimeNow):
		set.Valid |= vfs.SetMtimeNow
	case has(kernel.SetAttrMtime):
		set.Valid |= vfs.SetMtime
	}
}

// killPrivileges clears the set-id bits of a file that somebody without the
// privilege to keep them is writing to. Most files have none: on exclusive trees
// the door remembers that.
func (d *door) killPrivileges(r *request, ino uint64) error {
	if (d.policy.Exclusive || d.leases != nil && d.leases.Leased(vfs.Ino(ino)).Has(vfs.LeaseAttr)) && d.nodes.isPlain(ino) {
		return nil
	}
	modes := d.nodes.modes(ino)
	if err := d.fs.GetAttr(r, &r.caller, vfs.Ino(ino), &r.attr); err != nil {
		return err
	}
	if r.attr.Mode&(syscall.S_ISUID|syscall.S_ISGID) == 0 {
		if d.leases == nil || r.leased(ino, vfs.LeaseAttr) {
			d.nodes.setPlain(ino, modes)
		}
		return nil
	}
	r.set = vfs.SetAttr{Valid: vfs.SetKillSUIDGID}
	if err := d.fs.SetAttr(r, &r.caller, vfs.Ino(ino), &r.set, &r.attr); err != nil {
		return err
	}
	// The kernel does not expect its cached mode to change by a write.
	d.notify.attributesNow(ino)
	return nil
}

// killPrivilegesOf does so where the message does not tell of the caller's
// privileges: root keeps the bits.
func (d *door) killPrivilegesOf(r *request, ino uint64) error {
	if r.caller.UID == 0 {
		return nil
	}
	return d.killPrivileges(r, ino)
}

// StatFs implements kernel.Handler.
func (d *door) StatFs(q *kernel.Request, out *kernel.StatfsOut) (code syscall.Errno) {
	r := d.begin(OpStatFS, q, "")
	defer r.end(&code)
	st := &r.statfs
	*st = vfs.StatFS{}
	ino := q.NodeID
	if ino == 0 {
		ino = kernel.RootID
	}
	if r.err = d.fs.StatFS(r, &r.caller, vfs.Ino(ino), st); r.err != nil {
		return
	}
	if st.MaxName == 0 {
		st.MaxName = vfs.MaxName
	}
	*out = kernel.StatfsOut{
		Blocks: st.Blocks, Bfree: st.BlocksFree, Bavail: st.BlocksFree, Files: st.Files, Ffree: st.FilesFree,
		Bsize: st.BlockSize, Frsize: st.BlockSize, NameLen: st.MaxName,
	}
	return
}
