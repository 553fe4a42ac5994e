package fuse

import (
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/massif-fs/massif/vfs"
)

// Leases: what a reply to the kernel lets it keep where others change the tree, too
// (vfs.LeaseFS). The package comment explains which races there are between a reply on
// its way to the kernel and a recall, and what decides each.

// recallLog remembers which inodes the last recalls were about.
type recallLog struct {
	mu   sync.Mutex
	seq  atomic.Uint64
	ring [recallLogSize]atomic.Uint64 // inode of recall seq at seq % size
}

const (
	recallLogSize = 512
	// everything stands for all inodes in the log.
	everything = 0
)

func (l *recallLog) add(ino uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seq := l.seq.Load() + 1
	l.ring[seq%recallLogSize].Store(ino)
	l.seq.Store(seq)
}

// since tells whether a recall of ino may have come after the log was at from.
func (l *recallLog) since(from, ino uint64) bool {
	now := l.seq.Load()
	if now == from {
		return false
	}
	for seq := from + 1; seq <= now && now-from < recallLogSize; seq++ {
		if v := l.ring[seq%recallLogSize].Load(); v == ino || v == everything {
			return true
		}
	}
	return l.seq.Load()-from >= recallLogSize // what was looked at may have been overwritten
}

var forever = validityOf(vfs.Forever)

// leased tells whether the kernel may keep what the tree has told of an inode in this
// request. The inode must have been counted as known to the kernel (nodeTable.learn)
// before, so that a recall that comes later is passed on to the kernel.
func (r *request) leased(ino uint64, kind vfs.Leases) bool {
	d := r.door
	return d.leases.Leased(vfs.Ino(ino)).Has(kind) && !d.recalls.since(r.recalls, ino)
}

// attrValidity is how long attributes told by this request are valid.
func (r *request) attrValidity(ino uint64) validity {
	if r.door.leases != nil && r.leased(ino, vfs.LeaseAttr) {
		return forever
	}
	return r.door.attrValid
}

// leasedName is how long leased names are valid. Without INC_EPOCH (Linux 6.16) there is
// no way to drop one while its directory is locked, so that it must not live long.
func (d *door) leasedName() validity {
	const epochMinor = 44 // of the protocol
	if d.kernelMinor < epochMinor {
		return validityOf(time.Second)
	}
	return forever
}

// entryValidity is the same for a name in a directory.
func (r *request) entryValidity(dir uint64) validity {
	if r.door.leases != nil && r.leased(dir, vfs.LeaseNames) {
		return r.door.leasedName()
	}
	return r.door.entryValid
}

// negativeValidity is the same for a name that is not there.
func (r *request) negativeValidity(dir uint64) validity {
	if r.door.leases != nil && r.leased(dir, vfs.LeaseNames) {
		return r.door.leasedName()
	}
	return r.door.negValid
}

// unversioned is the validity of attributes in replies that the kernel applies whatever
// has been recalled meanwhile (those of SETATTR, and of LINK to an inode it knows).
func (d *door) unversioned() validity {
	if d.leases != nil {
		return validity{}
	}
	return d.attrValid
}

// keepsPages tells whether a file's pages that the kernel has are still right.
func (r *request) keepsPages(ino uint64) bool {
	if r.door.leases != nil {
		return r.leased(ino, vfs.LeaseData)
	}
	return r.door.keepCache
}

// keepsListing tells whether the kernel may keep a directory's listing.
func (r *request) keepsListing(dir uint64) bool {
	if r.door.leases != nil {
		return r.leased(dir, vfs.LeaseNames)
	}
	return r.door.keepCache && r.door.longLived
}

// leaseWait is how long a READ waits for a lease on what it tells the kernel.
const leaseWait = 2 * time.Second

// leaseRead sees to it that the pages which are being filled by a READ, whose result is
// in buf, go when they are not true any more. The READ is repeated until there was a
// lease on it: there is none while somebody else's change is under way, which
// takes a moment. But a change that waits for this very door must not be waited for;
// its recall drops the pages again before it lets the change go on.
func (r *request) leaseRead(f vfs.File, buf []byte, off int64) {
	d, ino := r.door, r.ino
	pause := 100 * time.Microsecond
	for waited := time.Duration(0); !r.leased(ino, vfs.LeaseData) && !d.recalling.filled(ino); waited += pause {
		if waited > leaseWait || r.Err() != nil {
			// Behind the reply: the invalidation waits for the pages' locks.
			d.notify.data(ino, off, off+int64(r.bytes))
			return
		}
		if waited > 0 {
			time.Sleep(pause)
			pause = min(2*pause, 10*time.Millisecond)
		}
		r.recalls = d.recalls.seq.Load()
		if r.bytes, r.err = f.ReadAt(r, buf, off); r.err != nil && r.err != io.EOF {
			return
		}
		r.err = nil
	}
}

// pageRecalls are the recalls of data under way.
type pageRecalls struct {
	mu sync.Mutex
	m  map[uint64]*pageRecall
}

type pageRecall struct {
	n     int    // recalls of the inode under way
	fills uint64 // READs that were answered without a lease meanwhile
}

func (p *pageRecalls) begin(ino uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m == nil {
		p.m = make(map[uint64]*pageRecall)
	}
	c := p.m[ino]
	if c == nil {
		c = new(pageRecall)
		p.m[ino] = c
	}
	c.n++
}

// filled tells whether a recall is under way, and if so counts that a READ is answered
// without a lease.
func (p *pageRecalls) filled(ino uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.m[ino]
	if c != nil {
		c.fills++
	}
	return c != nil
}

// fills counts the READs that were answered without a lease.
func (p *pageRecalls) fills(ino uint64) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.m[ino].fills
}

// end ends a recall, unless more READs have been answered than fills and force is not
// set.
func (p *pageRecalls) end(ino, fills uint64, force bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.m[ino]
	if c.fills != fills && !force {
		return false
	}
	if c.n--; c.n == 0 {
		delete(p.m, ino)
	}
	return true
}

// clipWriteBack returns how much of a page that the kernel writes back of its own
// accord lies within the file. Such writes never extend a file: if it is shorter by
// now, it was cut by somebody else.
func (d *door) clipWriteBack(r *request, ino uint64, off, length int64) (int64, error) {
	if d.policy.Exclusive || d.writeback {
		return length, nil
	}
	if err := d.fs.GetAttr(r, &r.caller, vfs.Ino(ino), &r.attr); err != nil {
		return 0, err
	}
	return max(min(length, int64(r.attr.Size)-off), 0), nil
}

// lockTable counts, for each directory, the requests under way during which the kernel
// holds its lock alone: while there is one, an INVAL_ENTRY waits, and nobody else can
// be reading the directory.
type lockTable struct {
	mu sync.Mutex
	m  map[uint64]int
}

func (t *lockTable) lock(dir uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = make(map[uint64]int)
	}
	t.m[dir]++
}

func (t *lockTable) unlock(dir uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m[dir]--; t.m[dir] == 0 {
		delete(t.m, dir)
	}
}

func (t *lockTable) locked(dir uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.m[dir] > 0
}

// locksNode tells whether the kernel holds the lock of a message's node while it waits
// for the reply.
func locksNode(op int) bool {
	switch op {
	case OpMknod, OpMkdir, OpSymlink, OpLink, OpUnlink, OpRmdir, OpRename, OpCreate, OpSetAttr, OpSetXattr, OpRemoveXattr, OpFsyncDir:
		return true
	}
	return false
}

// beginLeased notes what leases need to know of a request.
func (r *request) beginLeased() {
	r.recalls = r.door.recalls.seq.Load()
	if locksNode(r.op) {
		r.locks(r.ino)
	}
}

// locks notes that the kernel holds a directory's lock until the end of the request.
func (r *request) locks(dir uint64) {
	if r.door.leases != nil {
		r.door.locked.lock(dir)
		r.locking = append(r.locking, dir)
	}
}

func (r *request) endLeased() {
	for _, dir := range r.locking {
		r.door.locked.unlock(dir)
	}
	r.locking = r.locking[:0]
}

// direct tells whether a file that is opened with these flags must be read and written
// past the kernel's pages: what is appended goes to where the file ends when the tree
// gets to it, not to where the kernel thought it did.
func (d *door) direct(flags uint32) bool {
	return d.leases != nil && flags&syscall.O_APPEND != 0 && flags&syscall.O_ACCMODE != syscall.O_RDONLY
}
