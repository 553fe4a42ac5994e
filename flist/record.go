package flist

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"capnproto.org/go/capnp/v3"

	"github.com/massif-fs/massif/vfs"
)

// The records of version 1 are Cap'n Proto messages of schema 0xae9223e76351538a. They
// are read and written by position, as there are few fields: offsets are those of the
// data section in bytes, numbers those of pointers.

// maxRecord bounds the record of a directory, in bytes.
const maxRecord = 64 << 20

// dirRecord is a directory with all its entries.
type dirRecord struct {
	mtime, ctime uint32
	name         string
	location     string // path without a slash in front
	parent       string // key of the directory above; the root's is its own
	acl          string
	entries      []entryRecord
	byName       map[string]int
}

// The kinds of entries: the tag of the union.
const (
	kindDir = iota
	kindFile
	kindLink
	kindSpecial
)

type entryRecord struct {
	name         string
	kind         uint16
	size         uint64
	mtime, ctime uint32
	acl          string
	key          string  // of a directory
	blocks       []Block // of a file
	target       string  // of a link
	special      uint16  // specialSocket, …
	device       string  // "MAJOR,MINOR"
}

const (
	specialSocket = iota
	specialBlock
	specialChar
	specialFIFO
)

var (
	sizeDir     = capnp.ObjectSize{DataSize: 16, PointerCount: 5}
	sizeInode   = capnp.ObjectSize{DataSize: 24, PointerCount: 3}
	sizeSubDir  = capnp.ObjectSize{PointerCount: 1}
	sizeFile    = capnp.ObjectSize{DataSize: 8, PointerCount: 1}
	sizeBlock   = capnp.ObjectSize{PointerCount: 2}
	sizeLink    = capnp.ObjectSize{PointerCount: 1}
	sizeSpecial = capnp.ObjectSize{DataSize: 8, PointerCount: 1}
	sizeACI     = capnp.ObjectSize{DataSize: 24, PointerCount: 3}
)

// recordReader reads the pointers of a message and keeps the first error.
type recordReader struct {
	err error
	// left is how many elements of lists may still be met: more than the message has
	// room for is a message that shows one list many times.
	left int
}

// openRecord returns the root structure of a message.
func openRecord(data []byte) (*recordReader, capnp.Struct, error) {
	if len(data) > maxRecord {
		return nil, capnp.Struct{}, badImage("a record has %d bytes", len(data))
	}
	msg, err := capnp.Unmarshal(data)
	if err != nil {
		return nil, capnp.Struct{}, badImage("a record is not well formed")
	}
	// Nothing is read twice, so what is read cannot be more than there is; pointers
	// to one place from many are for nothing but to exhaust the reader.
	msg.TraverseLimit = uint64(8*len(data) + 4096)
	root, err := msg.Root()
	if err != nil || !root.Struct().IsValid() {
		return nil, capnp.Struct{}, badImage("a record has no root")
	}
	return &recordReader{left: len(data)/8 + 1}, root.Struct(), nil
}

func (r *recordReader) ptr(s capnp.Struct, i uint16) capnp.Ptr {
	p, err := s.Ptr(i)
	if err != nil && r.err == nil {
		r.err = err
	}
	return p
}

func (r *recordReader) text(s capnp.Struct, i uint16) string { return r.ptr(s, i).Text() }

func (r *recordReader) list(s capnp.Struct, i uint16) capnp.List {
	l := r.ptr(s, i).List()
	if !l.IsValid() {
		return l
	}
	if r.left -= l.Len(); r.left < 0 {
		if r.err == nil {
			r.err = errors.New("its lists are longer than it has room for")
		}
		return capnp.List{}
	}
	return l
}

func parseDir(data []byte) (*dirRecord, error) {
	r, s, err := openRecord(data)
	if err != nil {
		return nil, err
	}
	d := &dirRecord{
		mtime: s.Uint32(8), ctime: s.Uint32(12),
		name: r.text(s, 0), location: r.text(s, 1), parent: r.text(s, 3), acl: r.text(s, 4),
	}
	list := r.list(s, 2)
	n := 0
	if list.IsValid() {
		n = list.Len()
	}
	d.entries = make([]entryRecord, 0, n)
	d.byName = make(map[string]int, n)
	for i := range n {
		e := r.entry(list.Struct(i))
		if r.err != nil {
			break
		}
		if vfs.CheckName(e.name) != nil {
			return nil, badImage("%.40q is no file name", e.name)
		}
		if _, twice := d.byName[e.name]; twice {
			return nil, badImage("directory %.80q has two entries %.40q", d.location, e.name)
		}
		d.byName[e.name] = i
		d.entries = append(d.entries, e)
	}
	if r.err != nil {
		return nil, badImage("the record of a directory is not well formed")
	}
	return d, nil
}

func (r *recordReader) entry(s capnp.Struct) entryRecord {
	e := entryRecord{
		size: s.Uint64(0), kind: s.Uint16(8), mtime: s.Uint32(12), ctime: s.Uint32(16),
		name: r.text(s, 0), acl: r.text(s, 2),
	}
	a := r.ptr(s, 1).Struct()
	switch e.kind {
	case kindDir:
		e.key = r.text(a, 0)
	case kindFile:
		blocks := r.list(a, 0)
		if !blocks.IsValid() {
			break
		}
		e.blocks = make([]Block, 0, blocks.Len())
		for i := range blocks.Len() {
			b := blocks.Struct(i)
			e.blocks = append(e.blocks, Block{ID: r.ptr(b, 0).Data(), Key: r.ptr(b, 1).Data()})
			if r.err != nil {
				break
			}
		}
	case kindLink:
		e.target = r.text(a, 0)
	case kindSpecial:
		e.special, e.device = a.Uint16(0), string(r.ptr(a, 0).Data())
	default:
		if r.err == nil {
			r.err = errors.New("an entry is of no known kind")
		}
	}
	return e
}

// mode returns the type bits of an entry, and a device's numbers.
func (e *entryRecord) mode() (typ, rdev uint32) {
	switch e.kind {
	case kindDir:
		return syscall.S_IFDIR, 0
	case kindFile:
		return syscall.S_IFREG, 0
	case kindLink:
		return syscall.S_IFLNK, 0
	}
	rdev, device := parseDevice(e.device)
	switch {
	case e.special == specialFIFO:
		return syscall.S_IFIFO, 0
	case e.special == specialBlock && device:
		return syscall.S_IFBLK, rdev
	case device:
		// Writers forget the type; character devices are the more usual ones.
		return syscall.S_IFCHR, rdev
	}
	return syscall.S_IFSOCK, 0
}

func parseDevice(s string) (rdev uint32, ok bool) {
	a, b, ok := strings.Cut(strings.TrimRight(s, "\x00"), ",")
	if !ok {
		return 0, false
	}
	major, err1 := strconv.ParseUint(a, 10, 12)
	minor, err2 := strconv.ParseUint(b, 10, 20)
	if err1 != nil || err2 != nil {
		return 0, false
	}
	return makeDevice(uint32(major), uint32(minor)), true
}

// makeDevice and splitDevice are Linux's new_encode_dev and its reverse.
func makeDevice(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}

func splitDevice(dev uint32) (major, minor uint32) {
	return dev & 0xfff00 >> 8, dev&0xff | dev>>12&0xfff00
}

// aciRecord are owner and permissions. uid and gid are -1 where an old record does
// not have them: then the names count.
type aciRecord struct {
	mode         uint16
	uid, gid     int64
	uname, gname string
}

func parseACI(data []byte) (aciRecord, error) {
	r, s, err := openRecord(data)
	if err != nil {
		return aciRecord{}, err
	}
	a := aciRecord{mode: s.Uint16(0) & 0o7777, uid: ^int64(s.Uint64(8)), gid: ^int64(s.Uint64(16)), uname: r.text(s, 0), gname: r.text(s, 1)}
	if r.err != nil {
		return aciRecord{}, badImage("an owner record is not well formed")
	}
	return a, nil
}

// recordWriter writes the pointers of a message and keeps the first error.
type recordWriter struct {
	msg *capnp.Message
	seg *capnp.Segment
	err error
}

func newRecord(size capnp.ObjectSize) (*recordWriter, capnp.Struct) {
	msg, seg, err := capnp.NewMessage(capnp.SingleSegment(nil))
	w := &recordWriter{msg: msg, seg: seg, err: err}
	if err != nil {
		return w, capnp.Struct{}
	}
	s, err := capnp.NewRootStruct(seg, size)
	w.note(err)
	return w, s
}

func (w *recordWriter) note(err error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *recordWriter) text(s capnp.Struct, i uint16, v string) { w.note(s.SetNewText(i, v)) }

func (w *recordWriter) bytes() ([]byte, error) {
	if w.err != nil {
		return nil, fmt.Errorf("record: %w", w.err)
	}
	p, err := w.msg.Marshal()
	if err == nil && len(p) > maxRecord {
		err = errors.New("a directory has more entries than version 1 has room for")
	}
	return p, err
}

func (w *recordWriter) sub(s capnp.Struct, i uint16, size capnp.ObjectSize) capnp.Struct {
	if w.err != nil {
		return capnp.Struct{}
	}
	c, err := capnp.NewStruct(w.seg, size)
	w.note(err)
	if err == nil {
		w.note(s.SetPtr(i, c.ToPtr()))
	}
	return c
}

func (w *recordWriter) list(s capnp.Struct, i uint16, size capnp.ObjectSize, n int) capnp.List {
	if w.err != nil {
		return capnp.List{}
	}
	l, err := capnp.NewCompositeList(w.seg, size, int32(n))
	w.note(err)
	if err == nil {
		w.note(s.SetPtr(i, l.ToPtr()))
	}
	return l
}

func (d *dirRecord) marshal() ([]byte, error) {
	w, s := newRecord(sizeDir)
	if w.err != nil {
		return w.bytes()
	}
	s.SetUint64(0, 4096)
	s.SetUint32(8, d.mtime)
	s.SetUint32(12, d.ctime)
	w.text(s, 0, d.name)
	w.text(s, 1, d.location)
	w.text(s, 3, d.parent)
	w.text(s, 4, d.acl)
	list := w.list(s, 2, sizeInode, len(d.entries))
	for i := range d.entries {
		if w.err != nil {
			break
		}
		w.entry(list.Struct(i), &d.entries[i])
	}
	return w.bytes()
}

func (w *recordWriter) entry(s capnp.Struct, e *entryRecord) {
	s.SetUint64(0, e.size)
	s.SetUint16(8, e.kind)
	s.SetUint32(12, e.mtime)
	s.SetUint32(16, e.ctime)
	w.text(s, 0, e.name)
	w.text(s, 2, e.acl)
	switch e.kind {
	case kindDir:
		if sub := w.sub(s, 1, sizeSubDir); w.err == nil {
			w.text(sub, 0, e.key)
		}
	case kindFile:
		f := w.sub(s, 1, sizeFile)
		if w.err != nil {
			return
		}
		f.SetUint16(0, BlockSize/4096)
		if len(e.blocks) == 0 {
			return
		}
		blocks := w.list(f, 0, sizeBlock, len(e.blocks))
		for i, b := range e.blocks {
			if w.err != nil {
				return
			}
			w.note(blocks.Struct(i).SetData(0, b.ID))
			w.note(blocks.Struct(i).SetData(1, b.Key))
		}
	case kindLink:
		if link := w.sub(s, 1, sizeLink); w.err == nil {
			w.text(link, 0, e.target)
		}
	case kindSpecial:
		p := w.sub(s, 1, sizeSpecial)
		if w.err != nil {
			return
		}
		p.SetUint16(0, e.special)
		w.note(p.SetData(0, []byte(e.device)))
	}
}

func (a *aciRecord) marshal() ([]byte, error) {
	w, s := newRecord(sizeACI)
	if w.err != nil {
		return w.bytes()
	}
	s.SetUint16(0, a.mode)
	s.SetUint64(8, uint64(^a.uid))
	s.SetUint64(16, uint64(^a.gid))
	w.text(s, 0, a.uname)
	w.text(s, 1, a.gname)
	return w.bytes()
}
