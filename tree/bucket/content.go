package bucket

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// version names one state of an object. Its bytes never change.
type version struct {
	key  string
	etag string // none: there is no object yet
	size int64
}

func (v version) name() string { return v.key + "\x00" + v.etag }

// content is the bytes of a file as this mount has them: an object's, with what was
// written over them since. They lie in a sparse file of the cache directory, as far as they
// are here at all.
type content struct {
	d  *disk
	id string

	// gate is held for reading by changes, and for writing by an upload, which wants a
	// file that stands still. One that nobody waits for is given up for a writer.
	gate   sync.RWMutex
	yield  atomic.Pointer[context.CancelFunc]
	flying flights

	mu       sync.RWMutex // held for reading while bytes are read from f
	f        *os.File     // nil: not open
	base     version
	baseEnd  int64 // bytes from here on are not the object's (any more)
	size     int64
	have     spans // what is in f
	dirty    spans // what in f is not the object's
	changed  bool  // differs from the object
	stale    bool  // somebody else has changed the object: no more use
	seq      uint64
	recorded bool  // there is a record of it as one that waits
	cursor   int64 // where it was last read

	charged int64 // bytes of the disk's limit, changed with mu held
	// Guarded by d.mu.
	users    int
	lastUsed time.Time

	pending *record // as it was found at the start
}

func newContent(d *disk, v version) *content {
	var id [12]byte
	rand.Read(id[:])
	return &content{d: d, id: hex.EncodeToString(id[:]), base: v, baseEnd: v.size, size: v.size}
}

// open opens the file, with the lock held. Without create a file that is not there stays so.
func (c *content) open(create bool) error {
	if c.f != nil {
		return nil
	}
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(c.d.path(dataDir, c.id), flags, 0o600)
	if errors.Is(err, os.ErrNotExist) && !create {
		return nil
	}
	if err != nil {
		return err
	}
	c.f = f
	return nil
}

func (c *content) closeFile() {
	if c.f != nil {
		if err := c.f.Close(); err != nil {
			c.d.log.Warn("cache", "err", err)
		}
		c.f = nil
	}
}

// absent returns what of a span must be fetched before it can be read. The lock is held.
func (c *content) absent(s span) spans {
	s.end = min(s.end, c.baseEnd)
	if s.off >= s.end {
		return nil
	}
	return c.have.missing(s)
}

// read reads what is here. If bytes are missing it reads none and tells which.
func (c *content) read(p []byte, off int64) (n int, missing spans, err error) {
	for {
		c.mu.RLock()
		if c.f != nil || len(c.have) == 0 {
			break
		}
		c.mu.RUnlock()
		c.mu.Lock()
		err := c.open(false)
		if err == nil && c.f == nil {
			err = &os.PathError{Op: "open", Path: c.d.path(dataDir, c.id), Err: os.ErrNotExist}
		}
		c.mu.Unlock()
		if err != nil {
			return 0, nil, err
		}
	}
	defer c.mu.RUnlock()
	if off >= c.size {
		return 0, nil, nil
	}
	p = p[:min(int64(len(p)), c.size-off)]
	if missing := c.absent(span{off, off + int64(len(p))}); len(missing) > 0 {
		return 0, missing, nil
	}
	if c.f != nil {
		if n, err = c.f.ReadAt(p, off); err != nil && err != io.EOF {
			return n, nil, err
		}
	}
	clear(p[n:]) // a hole at the end
	return len(p), nil, nil
}

// write writes at off, or with end at the end.
func (c *content) write(p []byte, off int64, end bool, maxSize int64) (int, error) {
	if !end && (off > maxSize || int64(len(p)) > maxSize-off) {
		return 0, syscall.EFBIG
	}
	n := int64(len(p))
	if err := c.d.reserve(n); err != nil {
		// On a full disk what is here can be written over.
		c.mu.RLock()
		over := !end && len(c.have.missing(span{off, off + n})) == 0
		c.mu.RUnlock()
		if !over {
			return 0, err
		}
		c.d.release(-n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if end {
		off = c.size
	}
	var err error
	written := 0
	switch {
	case c.stale:
		err = syscall.ESTALE
	case n > maxSize-off:
		err = syscall.EFBIG
	default:
		if err = c.open(true); err == nil {
			written, err = c.f.WriteAt(p, off)
		}
	}
	s := span{off, off + int64(written)}
	fresh := int64(0)
	if written > 0 {
		fresh = c.have.missing(s).total()
		c.have, c.dirty = c.have.add(s), c.dirty.add(s)
		c.size = max(c.size, s.end)
		c.touch()
	}
	c.charged += fresh
	c.d.release(n - fresh)
	return written, err
}

func (c *content) touch() {
	c.changed = true
	c.seq++
}

// truncate sets the size.
func (c *content) truncate(size int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stale {
		return syscall.ESTALE
	}
	if size == c.size {
		return nil
	}
	if size < c.size {
		cut := span{size, c.size}
		if c.f != nil || len(c.have) > 0 {
			if err := c.open(true); err != nil {
				return err
			}
			if err := c.f.Truncate(size); err != nil {
				return err
			}
		}
		c.have, c.dirty = c.have.remove(cut), c.dirty.remove(cut)
		c.recharge()
		c.baseEnd = min(c.baseEnd, size)
	}
	c.size = size
	c.touch()
	return nil
}

func (c *content) recharge() {
	now := c.have.total()
	c.d.release(c.charged - now)
	c.charged = now
}

// zero makes bytes zero, with extend also beyond the end.
func (c *content) zero(s span, extend bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stale {
		return syscall.ESTALE
	}
	if !extend {
		s.end = min(s.end, c.size)
	}
	if s.off >= s.end {
		return nil
	}
	if err := c.open(true); err != nil {
		return err
	}
	err := unix.Fallocate(int(c.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, s.off, s.len())
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = writeZeros(c.f, s)
	}
	if err != nil {
		return err
	}
	// They are bytes of this file now, though they take no room.
	fresh := c.have.missing(s).total()
	c.have, c.dirty = c.have.add(s), c.dirty.add(s)
	c.charged += fresh
	c.d.release(-fresh)
	c.size = max(c.size, s.end)
	c.touch()
	return nil
}

func writeZeros(f *os.File, s span) error {
	zeros := make([]byte, 64<<10)
	for s.off < s.end {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), s.len())], s.off)
		if err != nil {
			return err
		}
		s.off += int64(n)
	}
	return nil
}

// install puts fetched bytes where none are yet. The room for them is reserved; what of it
// was not needed is given back. It tells whether the object is still the one fetched from.
func (c *content) install(from version, p []byte, off int64) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	used := int64(0)
	defer func() { c.d.release(int64(len(p)) - used) }()
	if c.base.etag != from.etag || c.stale {
		return false, nil
	}
	if err := c.open(true); err != nil {
		return true, err
	}
	for _, s := range c.absent(span{off, off + int64(len(p))}) {
		if _, err := c.f.WriteAt(p[s.off-off:s.end-off], s.off); err != nil {
			return true, err
		}
		c.have = c.have.add(s)
		c.charged += s.len()
		used += s.len()
	}
	return true, nil
}

// dropClean punches out bytes that can be fetched again, but those from where it is read up
// to near bytes ahead. Both locks are held. It returns how many.
func (c *content) dropClean(near int64) (dropped int64) {
	if c.f == nil || c.base.etag == "" {
		return 0
	}
	for _, s := range c.have.within(span{0, c.baseEnd}) {
		for _, clean := range c.dirty.missing(s) {
			for _, far := range (spans{{c.cursor, c.cursor + near}}).missing(clean) {
				if near == 0 {
					far = clean
				}
				if unix.Fallocate(int(c.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, far.off, far.len()) != nil {
					return dropped
				}
				c.have = c.have.remove(far)
				dropped += far.len()
			}
		}
	}
	c.charged -= dropped
	return dropped
}

// uploaded tells that the object is now what the content was at seq.
func (c *content) uploaded(v version, seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base = v
	if c.seq == seq {
		// Holes behind the old object's end are fetched if they are read: they are zeros there.
		c.baseEnd, c.dirty, c.changed = v.size, nil, false
	}
}

// now returns size and the number of the last change.
func (c *content) now() (size int64, changed bool, seq uint64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.size, c.changed, c.seq
}

// begin lets a change in, as soon as no upload is under way.
func (c *content) begin() (end func()) {
	if !c.gate.TryRLock() {
		if cancel := c.yield.Load(); cancel != nil {
			(*cancel)()
		}
		c.gate.RLock()
	}
	return c.gate.RUnlock
}

// fragmented tells whether there are too many pieces to remember.
func (c *content) fragmented() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.have) > spanLimit
}

// passed drops clean bytes that somebody who reads on has left behind.
func (c *content) passed(s span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.f == nil || c.base.etag == "" {
		return
	}
	for _, have := range c.have.within(span{s.off, min(s.end, c.baseEnd)}) {
		for _, clean := range c.dirty.missing(have) {
			if unix.Fallocate(int(c.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, clean.off, clean.len()) != nil {
				return
			}
			c.have = c.have.remove(clean)
		}
	}
	c.recharge()
}

// allHere tells whether nothing needs to be fetched.
func (c *content) allHere() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.absent(span{0, c.baseEnd})) == 0
}

// detach makes a content that is all here independent of its object, which goes away.
func (c *content) detach() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base.etag, c.baseEnd, c.changed = "", 0, false
}

// rebase tells that the object is under another key.
func (c *content) rebase(from string, to version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.base.etag == from && from != "" {
		c.base = to
	} else {
		c.base.key = to.key
	}
}

func (c *content) isRecorded() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.recorded
}
