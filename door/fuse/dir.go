package fuse

import (
	"syscall"

	"github.com/massif-fs/massif/door/fuse/kernel"
	"github.com/massif-fs/massif/vfs"
)

// OpenDir implements kernel.Handler. Stateless mounts say ENOSYS, once: the
// kernel then opens directories without a message and caches their listings.
func (d *door) OpenDir(q *kernel.Request, in *kernel.OpenIn, out *kernel.OpenOut) (code syscall.Errno) {
	if d.stateless && !d.openDirs {
		return syscall.ENOSYS
	}
	r := d.begin(OpOpenDir, q, "")
	defer r.end(&code)
	h := &handle{ino: q.NodeID}
	if h.dir, r.err = d.fs.OpenDir(r, &r.caller, vfs.Ino(q.NodeID)); r.err != nil {
		return
	}
	if r.keepsListing(q.NodeID) {
		h.cached = true
		out.OpenFlags |= kernel.FopenCacheDir | kernel.FopenKeepCache
	}
	out.Fh = d.handles.addDir(h)
	return
}

// ReleaseDir implements kernel.Handler.
func (d *door) ReleaseDir(q *kernel.Request, in *kernel.ReleaseIn) {
	var code syscall.Errno
	r := d.begin(OpReleaseDir, q, "")
	defer r.end(&code)
	if h := d.handles.take(in.Fh); h != nil {
		r.err = d.closeHandle(h)
	}
}

// ReadDir implements kernel.Handler.
func (d *door) ReadDir(q *kernel.Request, in *kernel.ReadIn, out *kernel.DirList) (code syscall.Errno) {
	r := d.begin(OpReadDir, q, "")
	defer r.end(&code)
	r.err = d.readDir(r, q, in, out, false)
	return
}

// ReadDirPlus implements kernel.Handler: a listing that is a lookup of each
// of its entries as well.
func (d *door) ReadDirPlus(q *kernel.Request, in *kernel.ReadIn, out *kernel.DirList) (code syscall.Errno) {
	r := d.begin(OpReadDirPlus, q, "")
	defer r.end(&code)
	r.err = d.readDir(r, q, in, out, true)
	return
}

// Positions 1 and 2 lie behind "." and "..", which the door makes; a tree's
// cookies start at 3.
const (
	cookieDot    = 1
	cookieDotDot = 2
)

func (d *door) readDir(r *request, q *kernel.Request, in *kernel.ReadIn, out *kernel.DirList, plus bool) error {
	dir, end, err := d.dir(r, q.NodeID, in.Fh)
	if err != nil {
		return err
	}
	defer end()

	pos := in.Offset
	if pos < cookieDotDot {
		if !d.addDots(r, q.NodeID, pos, out, plus) {
			return nil
		}
		pos = cookieDotDot
	}
	cookie := pos
	if cookie == cookieDotDot {
		cookie = 0
	}
	r.learnt = r.learnt[:0]
	h := d.handles.peek(in.Fh)
	if h != nil && h.cached && d.leases != nil {
		// Behind the reply: what the kernel keeps of it without a lease must go.
		defer func() {
			if !r.leased(q.NodeID, vfs.LeaseNames) {
				d.notify.listing(q.NodeID)
			}
		}()
	}
	full := false
	err = dir.Read(r, cookie, plus, func(e *vfs.DirEntry) bool {
		entry := kernel.DirEntry{Mode: e.Mode, Name: e.Name, Ino: uint64(e.Ino), Off: e.Cookie}
		if !plus {
			full = !out.Add(&entry)
			return !full
		}
		o := out.AddPlus(&entry)
		if o == nil {
			full = true
			return false
		}
		if e.HasAttr && e.Attr.Ino == e.Ino {
			d.fillEntryUncounted(&e.Attr, o)
			r.learnt = append(r.learnt, o)
		}
		return true
	})
	r.bytes = len(out.Bytes())
	if err != nil {
		if r.bytes == 0 {
			return err
		}
		// What was read is good; the next call meets the error.
		if errno := vfs.ErrnoOf(err); unexpected(errno) {
			r.err = err
			d.complaints.report(d.log, r, errno)
			r.err = nil
		}
	}
	// Outside of Read: it may hold locks that Pin needs.
	for _, o := range r.learnt {
		d.nodes.learn(o.NodeID)
		r.fillValidity(o)
	}
	return nil
}

// addDots adds "." and ".." behind pos.
func (d *door) addDots(r *request, ino, pos uint64, out *kernel.DirList, plus bool) bool {
	add := func(name string, ino, off uint64) bool {
		e := kernel.DirEntry{Mode: syscall.S_IFDIR, Name: name, Ino: ino, Off: off}
		if plus {
			return out.AddPlus(&e) != nil // node 0: the kernel looks nothing up for it
		}
		return out.Add(&e)
	}
	if pos < cookieDot && !add(".", ino, cookieDot) {
		return false
	}
	parent := ino
	if ino != kernel.RootID && d.fs.Lookup(r, &r.caller, vfs.Ino(ino), "..", &r.parent) == nil {
		parent = uint64(r.parent.Ino)
	}
	return add("..", parent, cookieDotDot)
}

// dir finds the Dir of a message, and what to call when it is not used any more.
func (d *door) dir(r *request, ino, fh uint64) (dir vfs.Dir, end func(), err error) {
	if d.stateless && !d.openDirs {
		if dir, err = d.fs.OpenDir(r, &r.caller, vfs.Ino(ino)); err != nil {
			return nil, nil, err
		}
		return dir, func() { dir.Close() }, nil
	}
	h, err := d.handles.get(fh, ino, d.reopen(r, fh))
	if err != nil {
		return nil, nil, err
	}
	if h.dir == nil {
		return nil, nil, syscall.EBADF
	}
	h.dirMu.Lock()
	return h.dir, h.dirMu.Unlock, nil
}

// FsyncDir implements kernel.Handler.
func (d *door) FsyncDir(q *kernel.Request, in *kernel.FsyncIn) (code syscall.Errno) {
	r := d.begin(OpFsyncDir, q, "")
	defer r.end(&code)
	dir, end, err := d.dir(r, q.NodeID, in.Fh)
	if err != nil {
		r.err = err
		return
	}
	defer end()
	r.err = dir.Sync(r)
	return
}
