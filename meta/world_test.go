package meta

import (
	"maps"
	"slices"
	"sort"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// world is a POSIX file system as one would explain it: the model that the engine
// is compared with. It keeps as little as possible and works out the rest (link
// counts, allocated bytes, who lives) by looking at everything.
type world struct {
	things map[vfs.Ino]*thing
	chunk  uint64
}

// thing is an inode.
type thing struct {
	ino      vfs.Ino
	mode     uint32
	uid, gid uint32
	rdev     uint32
	size     uint64
	target   string
	xattrs   map[string]string
	names    map[string]vfs.Ino // of directories
	inline   []byte
	segs     []seg       // of files, ordered by off
	opens    map[int]int // by number of session
	linkable bool        // has never had a name, but may get one

	atime, mtime, ctime, btime vfs.Time
}

// seg says where a piece of a file lies, at any offset of the file.
type seg struct {
	off, n uint64
	block  uint64 // 0: unwritten
	size   uint32
	boff   uint32
}

func newWorld(chunk uint64, now vfs.Time) *world {
	w := &world{things: make(map[vfs.Ino]*thing), chunk: chunk}
	root := w.add(vfs.Root, syscall.S_IFDIR|0o755, now)
	root.uid, root.gid = 0, 0
	return w
}

func (w *world) add(ino vfs.Ino, mode uint32, now vfs.Time) *thing {
	x := &thing{ino: ino, mode: mode, xattrs: map[string]string{}, opens: map[int]int{}, atime: now, mtime: now, ctime: now, btime: now}
	if x.isDir() {
		x.names = map[string]vfs.Ino{}
	}
	w.things[ino] = x
	return x
}

func (w *world) clone() *world {
	c := &world{things: make(map[vfs.Ino]*thing, len(w.things)), chunk: w.chunk}
	for ino, x := range w.things {
		y := *x
		y.xattrs, y.names, y.opens = maps.Clone(x.xattrs), maps.Clone(x.names), maps.Clone(x.opens)
		y.inline, y.segs = slices.Clone(x.inline), slices.Clone(x.segs)
		c.things[ino] = &y
	}
	return c
}

func (x *thing) kind() uint32    { return x.mode & syscall.S_IFMT }
func (x *thing) isDir() bool     { return x.kind() == syscall.S_IFDIR }
func (x *thing) isRegular() bool { return x.kind() == syscall.S_IFREG }

// linked counts the names of a thing.
func (w *world) linked(ino vfs.Ino) (n int) {
	for _, d := range w.things {
		for _, to := range d.names {
			if to == ino {
				n++
			}
		}
	}
	return n
}

// parent returns the directory in which a directory is; 0 if it has been removed.
func (w *world) parent(ino vfs.Ino) vfs.Ino {
	if ino == vfs.Root {
		return vfs.Root
	}
	for _, d := range w.things {
		for _, to := range d.names {
			if to == ino {
				return d.ino
			}
		}
	}
	return 0
}

// below tells whether a directory is dir or lies below it.
func (w *world) below(at, dir vfs.Ino) bool {
	for at != dir && at != vfs.Root && at != 0 {
		at = w.parent(at)
	}
	return at == dir
}

func (w *world) nlink(x *thing) uint32 {
	n := w.linked(x.ino)
	if !x.isDir() || n == 0 && x.ino != vfs.Root {
		return uint32(n)
	}
	for _, to := range x.names {
		if w.things[to].isDir() {
			n++
		}
	}
	if x.ino == vfs.Root {
		n++
	}
	return uint32(n + 1)
}

func (x *thing) alloc() (n uint64) {
	for _, s := range x.segs {
		n += s.n
	}
	return n + uint64(len(x.inline))
}

func (w *world) attr(x *thing) vfs.Attr {
	a := vfs.Attr{
		Ino: x.ino, Gen: 1, Mode: x.mode, Nlink: w.nlink(x), UID: x.uid, GID: x.gid, Rdev: x.rdev,
		Size: x.size, Blocks: (x.alloc() + 511) / 512, BlockSize: preferredIO,
		Atime: x.atime, Mtime: x.mtime, Ctime: x.ctime, Btime: x.btime,
		NoXattrs: len(x.xattrs) == 0,
	}
	if x.isDir() {
		a.Size = directorySize
	}
	return a
}

// bury removes what has neither a name nor a user.
func (w *world) bury() {
	for ino, x := range w.things {
		if ino != vfs.Root && len(x.opens) == 0 && w.linked(ino) == 0 {
			delete(w.things, ino)
		}
	}
}

// dir returns what keeps a thing from being a directory in which names are made.
func (w *world) dir(ino vfs.Ino) (*thing, syscall.Errno) {
	x := w.things[ino]
	switch {
	case x == nil:
		return nil, syscall.ESTALE
	case !x.isDir():
		return nil, syscall.ENOTDIR
	case w.nlink(x) == 0:
		return nil, syscall.ENOENT
	}
	return x, 0
}

// put makes name in dir mean x (nil: nothing).
func (d *thing) put(name string, x *thing, now vfs.Time) {
	if x == nil {
		delete(d.names, name)
	} else {
		d.names[name] = x.ino
	}
	d.mtime, d.ctime = now, now
}

// cut removes what lies in [from, to).
func (x *thing) cut(from, to uint64) {
	var kept []seg
	for _, s := range x.segs {
		if s.off < from {
			left := s
			left.n = min(s.n, from-s.off)
			kept = append(kept, left)
		}
		if s.off+s.n > to {
			right := s
			skip := max(to, s.off) - s.off
			right.off, right.n = s.off+skip, s.n-skip
			if s.block != 0 {
				right.boff += uint32(skip)
			}
			kept = append(kept, right)
		}
	}
	x.segs = kept
}

// lay puts a piece in the place of what was there.
func (x *thing) lay(s seg) {
	if s.n == 0 {
		return
	}
	x.cut(s.off, s.off+s.n)
	x.segs = append(x.segs, s)
	sort.Slice(x.segs, func(i, j int) bool { return x.segs[i].off < x.segs[j].off })
}

// part returns what lies in [from, to).
func (x *thing) part(from, to uint64) []seg {
	c := thing{segs: slices.Clone(x.segs)}
	c.cut(0, from)
	c.cut(to, 1<<63)
	return c.segs
}

// reserve puts unwritten pieces where nothing is in [from, to).
func (x *thing) reserve(from, to uint64) {
	for _, s := range x.part(from, to) {
		x.lay(seg{off: from, n: s.off - from})
		from = s.off + s.n
	}
	x.lay(seg{off: from, n: to - from})
}

func (x *thing) truncate(size uint64) {
	if size < uint64(len(x.inline)) {
		x.inline = x.inline[:size]
	}
	if size <= x.size {
		x.cut(size, 1<<63)
	}
	x.size = size
}

// chunks returns the layout as Session.Extents should give it, but with neighbours
// joined.
func (x *thing) chunks(chunk uint64) map[uint32][]Extent {
	m := map[uint32][]Extent{}
	for _, s := range x.segs {
		for s.n > 0 {
			index := s.off / chunk
			n := min(s.n, (index+1)*chunk-s.off)
			e := Extent{Pos: uint32(s.off % chunk), Len: uint32(n), Block: s.block, Size: s.size, Off: s.boff}
			m[uint32(index)] = joinExtents(m[uint32(index)], e)
			s.off += n
			s.n -= n
			if s.block != 0 {
				s.boff += uint32(n)
			}
		}
	}
	return m
}

func joinExtents(list []Extent, e Extent) []Extent {
	if k := len(list) - 1; k >= 0 {
		l := &list[k]
		if l.Pos+l.Len == e.Pos && l.Block == e.Block && (e.Block == 0 || l.Off+l.Len == e.Off) {
			l.Len += e.Len
			return list
		}
	}
	return append(list, e)
}

func joinAll(list []Extent) (out []Extent) {
	for _, e := range list {
		out = joinExtents(out, e)
	}
	return out
}

// data tells whether a byte is data, as lseek(2) sees it.
func (x *thing) data(at uint64) bool {
	if at < uint64(len(x.inline)) {
		return true
	}
	for _, s := range x.segs {
		if s.block != 0 && at >= s.off && at < s.off+s.n {
			return true
		}
	}
	return false
}

// seek is lseek(2) with SEEK_DATA (hole: SEEK_HOLE).
func (x *thing) seek(off uint64, hole bool) (uint64, bool) {
	if off >= x.size {
		return 0, false
	}
	at := []uint64{off, uint64(len(x.inline))}
	for _, s := range x.segs {
		at = append(at, s.off, s.off+s.n)
	}
	slices.Sort(at)
	for _, p := range at {
		if p >= off && p < x.size && x.data(p) != hole {
			return p, true
		}
	}
	return x.size, hole
}
