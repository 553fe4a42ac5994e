package metarpc

import (
	"encoding/binary"
	"errors"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// Values on the wire: integers as varints (signed ones zigzag), strings and bytes
// with their length before them, everything in a fixed order. There is no
// reflection and nothing optional; what a later version adds is behind a version
// or a flag.

// encoder appends values to b.
type encoder struct{ b []byte }

func (e *encoder) u8(v uint8)      { e.b = append(e.b, v) }
func (e *encoder) uint(v uint64)   { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) int(v int64)     { e.b = binary.AppendUvarint(e.b, uint64(v)<<1^uint64(v>>63)) }
func (e *encoder) ino(v vfs.Ino)   { e.uint(uint64(v)) }
func (e *encoder) str(s string)    { e.uint(uint64(len(s))); e.b = append(e.b, s...) }
func (e *encoder) bytes(b []byte)  { e.uint(uint64(len(b))); e.b = append(e.b, b...) }
func (e *encoder) time(t vfs.Time) { e.int(t.Sec); e.uint(uint64(t.Nsec)) }
func (e *encoder) bool(v bool) {
	if v {
		e.u8(1)
	} else {
		e.u8(0)
	}
}

func (e *encoder) caller(c *vfs.Caller) {
	if c == nil {
		c = &vfs.Caller{}
	}
	e.uint(uint64(c.UID))
	e.uint(uint64(c.GID))
	e.uint(uint64(c.PID))
	e.uint(uint64(c.Umask))
}

// noXattrs stands with the bits that say which times are equal.
const noXattrs = 1 << 3

func (e *encoder) attr(a *vfs.Attr) {
	e.ino(a.Ino)
	e.uint(uint64(a.Gen))
	e.uint(uint64(a.Mode))
	e.uint(uint64(a.Nlink))
	e.uint(uint64(a.UID))
	e.uint(uint64(a.GID))
	e.uint(uint64(a.Rdev))
	e.uint(a.Size)
	e.uint(a.Blocks)
	e.uint(uint64(a.BlockSize))
	e.time(a.Ctime)
	// Most times are equal to ctime.
	var same uint8
	for i, t := range [...]vfs.Time{a.Mtime, a.Atime, a.Btime} {
		if t == a.Ctime {
			same |= 1 << i
		}
	}
	if a.NoXattrs {
		same |= noXattrs
	}
	e.u8(same)
	for i, t := range [...]vfs.Time{a.Mtime, a.Atime, a.Btime} {
		if same&(1<<i) == 0 {
			e.time(t)
		}
	}
}

func (e *encoder) extents(list []meta.Extent) {
	e.uint(uint64(len(list)))
	for i := range list {
		x := &list[i]
		e.uint(uint64(x.Pos))
		e.uint(uint64(x.Len))
		e.uint(x.Block)
		e.uint(uint64(x.Size))
		e.uint(uint64(x.Off))
	}
}

func (e *encoder) blocks(list []meta.Block) {
	e.uint(uint64(len(list)))
	for _, b := range list {
		e.uint(b.ID)
		e.uint(uint64(b.Size))
	}
}

func (e *encoder) lock(l *vfs.Lock) {
	e.u8(uint8(l.Kind))
	e.u8(uint8(l.Type))
	e.uint(l.Owner)
	e.uint(uint64(l.PID))
	e.uint(l.Start)
	e.uint(l.End)
}

var errMalformed = errors.New("the message is malformed")

// decoder reads values from b. After the first one that is not there or out of
// bounds all are zero, and done tells so: callers check once. Slices are parts of
// b.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) fail() {
	d.b, d.bad = nil, true
}

func (d *decoder) u8() uint8 {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) bool() bool {
	v := d.u8()
	if v > 1 {
		d.fail()
	}
	return v == 1
}

func (d *decoder) uint() uint64 {
	if len(d.b) > 0 && d.b[0] < 0x80 { // most are small
		v := d.b[0]
		d.b = d.b[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// most is uint with a bound: more is malformed.
func (d *decoder) most(max uint64) uint64 {
	v := d.uint()
	if v > max {
		d.fail()
		return 0
	}
	return v
}

func (d *decoder) u32() uint32 { return uint32(d.most(1<<32 - 1)) }

// fixed32 reads a number of four bytes.
func (d *decoder) fixed32() uint32 {
	if len(d.b) < 4 {
		d.fail()
		return 0
	}
	v := binary.LittleEndian.Uint32(d.b)
	d.b = d.b[4:]
	return v
}

func (d *decoder) int() int64 {
	v := d.uint()
	return int64(v>>1) ^ -int64(v&1)
}

func (d *decoder) ino() vfs.Ino { return vfs.Ino(d.most(uint64(vfs.MaxIno))) }

func (d *decoder) bytes(max int) []byte {
	n := d.most(uint64(max))
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) str(max int) string { return string(d.bytes(max)) }

// name is a name, or anything that the engine refuses as one: it says why.
func (d *decoder) name() string { return d.str(4 << 10) }

func (d *decoder) time() vfs.Time {
	return vfs.Time{Sec: d.int(), Nsec: d.u32()}
}

func (d *decoder) caller(c *vfs.Caller) {
	*c = vfs.Caller{UID: d.u32(), GID: d.u32(), PID: d.u32(), Umask: d.u32()}
}

func (d *decoder) attr(a *vfs.Attr) {
	*a = vfs.Attr{Ino: d.ino(), Gen: d.u32(), Mode: d.u32(), Nlink: d.u32(), UID: d.u32(), GID: d.u32(), Rdev: d.u32(),
		Size: d.uint(), Blocks: d.uint(), BlockSize: d.u32(), Ctime: d.time()}
	same := d.u8()
	for i, t := range [...]*vfs.Time{&a.Mtime, &a.Atime, &a.Btime} {
		if *t = a.Ctime; same&(1<<i) == 0 {
			*t = d.time()
		}
	}
	a.NoXattrs = same&noXattrs != 0
}

// count reads how many values of at least size bytes follow.
func (d *decoder) count(size int) int {
	return int(d.most(uint64(len(d.b)/size) + 1))
}

func (d *decoder) extents(dst []meta.Extent) []meta.Extent {
	for n := d.count(5); n > 0 && !d.bad; n-- {
		dst = append(dst, meta.Extent{Pos: d.u32(), Len: d.u32(), Block: d.uint(), Size: d.u32(), Off: d.u32()})
	}
	return dst
}

func (d *decoder) blocks() (list []meta.Block) {
	for n := d.count(2); n > 0 && !d.bad; n-- {
		list = append(list, meta.Block{ID: d.uint(), Size: d.u32()})
	}
	return list
}

func (d *decoder) lock() vfs.Lock {
	return vfs.Lock{Kind: vfs.LockKind(d.u8()), Type: vfs.LockType(d.u8()), Owner: d.uint(), PID: d.u32(), Start: d.uint(), End: d.uint()}
}

// done returns an error if a value was missing or bytes are left over.
func (d *decoder) done() error {
	if d.bad || len(d.b) != 0 {
		return errMalformed
	}
	return nil
}
