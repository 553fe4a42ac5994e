package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"
)

// A cache file is a header, a table with an entry for each slot, and the ranges in
// the order they came:
//
//	 0  magic "MASSIFDC"
//	 8  version u32 = 1, number of slots u32
//	16  block id u64
//	24  xxh3 of bytes 0 to 23, u64
//	32  for each slot: offset u32, length u32 (0: absent), sum u64
//
// all little-endian. An entry is written after its range; whatever a crash leaves
// of both, the sum does not fit, and the file is dropped when it is met.
const (
	diskMagic   = "MASSIFDC"
	diskVersion = 1
	diskHeader  = 32
	entryBytes  = 16
	maxSlots    = 1 << 16
	maxDiskFile = 1 << 31
)

type slotEntry struct {
	off, len uint32
	sum      uint64
}

// diskFile is a cached block. Fields without a comment are under Disk.mu.
type diskFile struct {
	id     uint64
	size   int64 // bytes of the file
	freq   uint8
	inMain bool
	gone   bool // removed; closed when nobody uses it
	seq    uint64
	refs   int

	fd    int        // -1: not open
	mu    sync.Mutex // of the entries of table
	table []slotEntry

	order, used links // in small or main; in opened
}

type links struct{ prev, next *diskFile }

// fileQueue is a FIFO of files; by: which links it goes by.
type fileQueue struct {
	head, tail *diskFile
	len        int
	bytes      int64
	byUse      bool
}

func (q *fileQueue) links(f *diskFile) *links {
	if q.byUse {
		return &f.used
	}
	return &f.order
}

func (q *fileQueue) push(f *diskFile) {
	l := q.links(f)
	l.prev, l.next = nil, q.head
	if q.head != nil {
		q.links(q.head).prev = f
	} else {
		q.tail = f
	}
	q.head = f
	q.len++
	q.bytes += diskUse(f.size)
}

func (q *fileQueue) remove(f *diskFile) {
	l := q.links(f)
	if l.prev != nil {
		q.links(l.prev).next = l.next
	} else {
		q.head = l.next
	}
	if l.next != nil {
		q.links(l.next).prev = l.prev
	} else {
		q.tail = l.prev
	}
	*l = links{}
	q.len--
	q.bytes -= diskUse(f.size)
}

// diskUse is what a file of n bytes takes on the disk, about.
func diskUse(n int64) int64 { return (n + 4095) &^ 4095 }

func (d *Disk) queueOf(f *diskFile) *fileQueue {
	if f.inMain {
		return &d.main
	}
	return &d.small
}

// addFile puts a file into the index. d.mu is held.
func (d *Disk) addFile(id uint64, size int64, inMain bool) *diskFile {
	d.adds++
	f := &diskFile{id: id, size: size, fd: -1, seq: d.adds, inMain: inMain || d.ghost.remove(ghostKey(id, 0))}
	d.files[id] = f
	d.queueOf(f).push(f)
	d.used += diskUse(size)
	return f
}

// grow records that the file has another size. d.mu is held.
func (d *Disk) grow(f *diskFile, size int64) {
	if f.gone {
		f.size = size
		return
	}
	delta := diskUse(size) - diskUse(f.size)
	d.queueOf(f).bytes += delta
	if f.fd >= 0 {
		d.opened.bytes += delta
	}
	d.used += delta
	f.size = size
}

// removeFile takes a file out of the index. The caller unlinks it afterwards. d.mu
// is held.
func (d *Disk) removeFile(f *diskFile) {
	delete(d.files, f.id)
	d.queueOf(f).remove(f)
	d.used -= diskUse(f.size)
	f.gone = true
	if f.fd >= 0 {
		d.opened.remove(f)
		if f.refs == 0 {
			unix.Close(f.fd)
			f.fd = -1
		}
	}
}

// closeFile closes the descriptor of an unused file. d.mu is held.
func (d *Disk) closeFile(f *diskFile) {
	d.opened.remove(f)
	if f.refs == 0 {
		unix.Close(f.fd)
		f.fd, f.table = -1, nil
	}
}

// acquire returns the open file of a block, nil if there is none. It counts as a
// use of the block.
func (d *Disk) acquire(id uint64) *diskFile {
	d.mu.Lock()
	f := d.files[id]
	if f == nil {
		if d.scanDone() {
			d.mu.Unlock()
			return nil
		}
		f = &diskFile{id: id, fd: -1} // perhaps one that the scan has not met
	} else if f.freq < maxFrequency && (f.inMain || d.adds-f.seq > uint64(d.small.len)/4) {
		f.freq++
	}
	if f.fd >= 0 {
		f.refs++
		if d.opened.head != f {
			d.opened.remove(f)
			d.opened.push(f)
		}
		d.mu.Unlock()
		return f
	}
	d.mu.Unlock()

	fd, table, size, err := d.load(id)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			d.damaged.Add(1)
			d.log.Warn("disk cache: a file was dropped", "block", id, "error", err)
		}
		d.Drop(id)
		return nil
	}
	return d.install(id, fd, table, size)
}

// install makes the loaded file the open one of the block, unless another caller
// was faster.
func (d *Disk) install(id uint64, fd int, table []slotEntry, size int64) *diskFile {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[id]
	if f == nil {
		f = d.addFile(id, size, false)
	}
	f.refs++
	if f.fd >= 0 {
		unix.Close(fd)
		return f
	}
	f.fd, f.table = fd, table
	d.opened.push(f)
	for g := d.opened.tail; d.opened.len > maxOpenFiles && g != nil; {
		prev := g.used.prev
		if g.refs == 0 {
			d.closeFile(g)
		}
		g = prev
	}
	return f
}

func (d *Disk) release(f *diskFile) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f.refs--
	if f.refs == 0 && f.gone && f.fd >= 0 {
		unix.Close(f.fd)
		f.fd = -1
	}
}

// load opens a cache file and reads its table.
func (d *Disk) load(id uint64) (int, []slotEntry, int64, error) {
	fd, err := unix.Open(d.path(id), unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, nil, 0, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, nil, 0, err
	}
	head := make([]byte, min(st.Size, diskHeader+maxSlots*entryBytes))
	n := 0
	if n, err = preadFull(fd, head[:min(len(head), 8192)], 0); err == nil {
		want := min(len(head), tableEnd(head[:n]))
		if want > n {
			_, err = preadFull(fd, head[n:want], int64(n))
		}
		head = head[:want]
	}
	var table []slotEntry
	if err == nil {
		table, err = parseTable(head, id, st.Size)
	}
	if err != nil {
		unix.Close(fd)
		return -1, nil, 0, err
	}
	return fd, table, st.Size, nil
}

// tableEnd is where the table ends by what the header says.
func tableEnd(head []byte) int {
	if len(head) < diskHeader {
		return diskHeader
	}
	return diskHeader + entryBytes*int(min(binary.LittleEndian.Uint32(head[12:]), maxSlots))
}

// parseTable reads header and table of a file of the given size.
func parseTable(p []byte, id uint64, size int64) ([]slotEntry, error) {
	le := binary.LittleEndian
	switch {
	case len(p) < diskHeader, string(p[:8]) != diskMagic, le.Uint32(p[8:]) != diskVersion,
		le.Uint64(p[24:]) != xxh3.Hash(p[:24]):
		return nil, errors.New("no cache file")
	case le.Uint64(p[16:]) != id:
		return nil, fmt.Errorf("file holds block %d", le.Uint64(p[16:]))
	}
	slots := le.Uint32(p[12:])
	if slots < 1 || slots > maxSlots || len(p) < diskHeader+entryBytes*int(slots) {
		return nil, errors.New("table is cut off")
	}
	table := make([]slotEntry, slots)
	for i := range table {
		q := p[diskHeader+entryBytes*i:]
		e := slotEntry{le.Uint32(q), le.Uint32(q[4:]), le.Uint64(q[8:])}
		if int64(e.off)+int64(e.len) > size || e.len > 0 && int(e.off) < diskHeader+entryBytes*int(slots) {
			e = slotEntry{} // its range never reached the disk
		}
		table[i] = e
	}
	return table, nil
}

// create makes the empty file of a block.
func (d *Disk) create(id uint64, slots int) (int, []slotEntry, int64, error) {
	name := d.path(id)
	// A file that was dropped may still be there, and be read: it stays as it is.
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return -1, nil, 0, err
	}
	flags := unix.O_RDWR | unix.O_CREAT | unix.O_EXCL | unix.O_CLOEXEC
	fd, err := unix.Open(name, flags, 0o600)
	if err == unix.ENOENT {
		if err = os.Mkdir(filepath.Dir(name), 0o700); err == nil || errors.Is(err, os.ErrExist) {
			fd, err = unix.Open(name, flags, 0o600)
		}
	}
	if err != nil {
		return -1, nil, 0, err
	}
	le := binary.LittleEndian
	p := make([]byte, diskHeader+entryBytes*slots)
	copy(p, diskMagic)
	le.PutUint32(p[8:], diskVersion)
	le.PutUint32(p[12:], uint32(slots))
	le.PutUint64(p[16:], id)
	le.PutUint64(p[24:], xxh3.Hash(p[:24]))
	if err := pwriteFull(fd, p, 0); err != nil {
		unix.Close(fd)
		_ = os.Remove(name) // it is useless, and the disk may be full
		return -1, nil, 0, err
	}
	return fd, make([]slotEntry, slots), int64(len(p)), nil
}

func pwriteFull(fd int, p []byte, off int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}
