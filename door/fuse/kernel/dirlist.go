package kernel

import "unsafe"

// DirList is the reply of READDIR and READDIRPLUS while it is being filled.
type DirList struct {
	buf  []byte
	used int
}

// NewDirList makes a list in buf, which must be aligned to eight bytes.
func NewDirList(buf []byte) *DirList { return &DirList{buf: buf} }

// Bytes is the list so far.
func (l *DirList) Bytes() []byte { return l.buf[:l.used] }

// Reset empties it.
func (l *DirList) Reset() { l.used = 0 }

// DirEntry is an entry of a DirList.
type DirEntry struct {
	Ino  uint64
	Off  uint64 // position behind the entry
	Mode uint32 // of which the type of file is told
	Name string
}

type dirent struct {
	ino     uint64
	off     uint64
	nameLen uint32
	typ     uint32
}

const (
	direntSize = int(unsafe.Sizeof(dirent{}))
	entrySize  = int(unsafe.Sizeof(EntryOut{}))
)

// Add appends an entry; false if it does not fit any more.
func (l *DirList) Add(e *DirEntry) bool {
	return l.add(e, l.used)
}

// AddPlus appends an entry with its attributes, which are to be filled in. The
// structure is all zeros, which means: nothing is known of the inode. nil: it does not
// fit.
func (l *DirList) AddPlus(e *DirEntry) *EntryOut {
	at := l.used
	if !l.add(e, at+entrySize) {
		return nil
	}
	out := (*EntryOut)(unsafe.Pointer(&l.buf[at]))
	*out = EntryOut{}
	return out
}

func (l *DirList) add(e *DirEntry, at int) bool {
	end := at + direntSize + (len(e.Name)+7)&^7
	if end > len(l.buf) {
		return false
	}
	*(*dirent)(unsafe.Pointer(&l.buf[at])) = dirent{ino: e.Ino, off: e.Off, nameLen: uint32(len(e.Name)), typ: e.Mode & 0170000 >> 12}
	n := copy(l.buf[at+direntSize:], e.Name)
	clear(l.buf[at+direntSize+n : end])
	l.used = end
	return true
}
