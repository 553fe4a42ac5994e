package fuse

import (
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/massif-fs/massif/vfs"
)

// OpenDir implements gofuse.RawFileSystem. Stateless mounts say ENOSYS, once: the
// kernel then opens directories without a message and caches their listings.
func (d *door) OpenDir(cancel <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) (code gofuse.Status) {
	if d.stateless && !d.openDirs {
		return gofuse.ENOSYS
	}
	r := d.begin(OpOpenDir, cancel, &in.InHeader, "")
	defer r.end(&code)
	h := &handle{ino: in.NodeId}
	if h.dir, r.err = d.fs.OpenDir(r, &r.caller, vfs.Ino(in.NodeId)); r.err != nil {
		return
	}
	if d.keepCache && d.longLived {
		out.OpenFlags |= gofuse.FOPEN_CACHE_DIR | gofuse.FOPEN_KEEP_CACHE
	}
	out.Fh = d.handles.addDir(h)
	return
}

// ReleaseDir implements gofuse.RawFileSystem.
func (d *door) ReleaseDir(in *gofuse.ReleaseIn) {
	var code gofuse.Status
	r := d.begin(OpReleaseDir, nil, &in.InHeader, "")
	defer r.end(&code)
	if h := d.handles.take(in.Fh); h != nil {
		r.err = d.closeHandle(h)
	}
}

// ReadDir implements gofuse.RawFileSystem.
func (d *door) ReadDir(cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) (code gofuse.Status) {
	r := d.begin(OpReadDir, cancel, &in.InHeader, "")
	defer r.end(&code)
	r.err = d.readDir(r, in, out, false)
	return
}

// ReadDirPlus implements gofuse.RawFileSystem: a listing that is a lookup of each
// of its entries as well.
func (d *door) ReadDirPlus(cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) (code gofuse.Status) {
	r := d.begin(OpReadDirPlus, cancel, &in.InHeader, "")
	defer r.end(&code)
	r.err = d.readDir(r, in, out, true)
	return
}

// Positions 1 and 2 lie behind "." and "..", which the door makes; a tree's
// cookies start at 3.
const (
	cookieDot    = 1
	cookieDotDot = 2
)

func (d *door) readDir(r *request, in *gofuse.ReadIn, out *gofuse.DirEntryList, plus bool) error {
	dir, end, err := d.dir(r, in.NodeId, in.Fh)
	if err != nil {
		return err
	}
	defer end()

	pos := in.Offset
	if pos < cookieDotDot {
		if !d.addDots(r, in.NodeId, pos, out, plus) {
			return nil
		}
		pos = cookieDotDot
	}
	cookie := pos
	if cookie == cookieDotDot {
		cookie = 0
	}
	r.learnt = r.learnt[:0]
	full := false
	err = dir.Read(r, cookie, plus, func(e *vfs.DirEntry) bool {
		entry := gofuse.DirEntry{Mode: e.Mode, Name: e.Name, Ino: uint64(e.Ino), Off: e.Cookie}
		if !plus {
			full = !out.AddDirEntry(entry)
			return !full
		}
		o := out.AddDirLookupEntry(entry)
		if o == nil {
			full = true
			return false
		}
		if e.HasAttr && e.Attr.Ino == e.Ino {
			d.fillEntryUncounted(&e.Attr, o)
			r.learnt = append(r.learnt, uint64(e.Ino))
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
	for _, ino := range r.learnt {
		d.nodes.learn(ino)
	}
	return nil
}

// addDots adds "." and ".." behind pos.
func (d *door) addDots(r *request, ino, pos uint64, out *gofuse.DirEntryList, plus bool) bool {
	add := func(name string, ino, off uint64) bool {
		e := gofuse.DirEntry{Mode: syscall.S_IFDIR, Name: name, Ino: ino, Off: off}
		if plus {
			return out.AddDirLookupEntry(e) != nil // node 0: the kernel looks nothing up for it
		}
		return out.AddDirEntry(e)
	}
	if pos < cookieDot && !add(".", ino, cookieDot) {
		return false
	}
	parent := ino
	if ino != gofuse.FUSE_ROOT_ID && d.fs.Lookup(r, &r.caller, vfs.Ino(ino), "..", &r.parent) == nil {
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

// FsyncDir implements gofuse.RawFileSystem.
func (d *door) FsyncDir(cancel <-chan struct{}, in *gofuse.FsyncIn) (code gofuse.Status) {
	r := d.begin(OpFsyncDir, cancel, &in.InHeader, "")
	defer r.end(&code)
	dir, end, err := d.dir(r, in.NodeId, in.Fh)
	if err != nil {
		r.err = err
		return
	}
	defer end()
	r.err = dir.Sync(r)
	return
}
