package fuse

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// A file handle, as the kernel keeps it, is a number that means something to this
// process, but also tells a successor enough to open the file again:
//
//	bits 63–48  epoch of the process that gave it, never 0
//	bits 47–40  flags of open(2), packed (see packFlags); bit 47: a directory
//	bits 39–0   number, unique within the epoch
//
// With the inode number, which every message carries, that makes a handle of
// another epoch reopenable. The handle 0 belongs to stateless mounts.
type handleTable struct {
	epoch  uint64
	next   atomic.Uint64
	shards [handleShards]handleShard
}

const handleShards = 64

type handleShard struct {
	mu sync.RWMutex
	m  map[uint64]*handle
	_  [64]byte
}

// handle is an open file or directory of the kernel.
type handle struct {
	ino  uint64
	file vfs.File
	node *node // of files; held for passthrough's sake, else nil

	dirMu  sync.Mutex // one Read at a time
	dir    vfs.Dir
	cached bool // the kernel keeps what it is told

	// Owners of fcntl locks that were set through this handle. The kernel tells of the
	// close of a descriptor (FLUSH), which ends a process's locks, but not of the end of
	// locks that belong to the open file (F_OFD_SETLK): that is RELEASE.
	ownerMu sync.Mutex
	owners  []uint64

	reopen sync.Once // of handles of another epoch
	err    error
}

// addOwner notes an owner of fcntl locks.
func (h *handle) addOwner(owner uint64) {
	h.ownerMu.Lock()
	defer h.ownerMu.Unlock()
	if !slices.Contains(h.owners, owner) {
		h.owners = append(h.owners, owner)
	}
}

func (t *handleTable) init() {
	t.epoch = uint64(rand.Uint32N(1<<16-1)+1) << 48
	for i := range t.shards {
		t.shards[i].m = make(map[uint64]*handle)
	}
}

const (
	fhDirectory = 1 << 47
	fhFlagShift = 40
)

// packFlags packs the flags that matter when a file is opened again into 7 bits:
// access mode, O_APPEND, O_DIRECT, O_SYNC, O_DSYNC.
func packFlags(flags uint32) uint64 {
	var p uint64
	p = uint64(flags) & syscall.O_ACCMODE
	if flags&syscall.O_APPEND != 0 {
		p |= 1 << 2
	}
	if flags&syscall.O_DIRECT != 0 {
		p |= 1 << 3
	}
	if flags&syscall.O_SYNC == syscall.O_SYNC {
		p |= 1 << 4
	} else if flags&syscall.O_DSYNC != 0 {
		p |= 1 << 5
	}
	return p
}

// fhFlags unpacks the open(2) flags of a handle.
func fhFlags(fh uint64) int {
	p := fh >> fhFlagShift
	flags := int(p & syscall.O_ACCMODE)
	if p&(1<<2) != 0 {
		flags |= syscall.O_APPEND
	}
	if p&(1<<3) != 0 {
		flags |= syscall.O_DIRECT
	}
	if p&(1<<4) != 0 {
		flags |= syscall.O_SYNC
	}
	if p&(1<<5) != 0 {
		flags |= syscall.O_DSYNC
	}
	return flags
}

func (t *handleTable) shard(fh uint64) *handleShard { return &t.shards[fh%handleShards] }

// addFile gives a handle for a file.
func (t *handleTable) addFile(h *handle, flags uint32) (fh uint64) {
	return t.add(h, packFlags(flags)<<fhFlagShift)
}

// addDir gives a handle for a directory.
func (t *handleTable) addDir(h *handle) (fh uint64) { return t.add(h, fhDirectory) }

func (t *handleTable) add(h *handle, bits uint64) uint64 {
	fh := t.epoch | bits | t.next.Add(1)&(1<<fhFlagShift-1)
	s := t.shard(fh)
	s.mu.Lock()
	s.m[fh] = h
	s.mu.Unlock()
	return fh
}

// get finds a handle. One of another epoch is made anew by open, once.
func (t *handleTable) get(fh, ino uint64, open func(h *handle) error) (*handle, error) {
	s := t.shard(fh)
	s.mu.RLock()
	h := s.m[fh]
	s.mu.RUnlock()
	if h != nil && fh&(0xffff<<48) == t.epoch {
		return h, nil
	}
	if h == nil {
		if fh&(0xffff<<48) == t.epoch || fh == 0 {
			return nil, syscall.EBADF
		}
		s.mu.Lock()
		if h = s.m[fh]; h == nil {
			h = &handle{ino: ino}
			s.m[fh] = h
		}
		s.mu.Unlock()
	}
	h.reopen.Do(func() { h.err = open(h) })
	if h.err != nil {
		err := h.err
		s.mu.Lock()
		if s.m[fh] == h { // the next message tries again
			delete(s.m, fh)
		}
		s.mu.Unlock()
		return nil, err
	}
	return h, nil
}

// peek finds a handle of this process; nil if there is none.
func (t *handleTable) peek(fh uint64) *handle {
	s := t.shard(fh)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.m[fh]
}

// take removes a handle; nil if there is none.
func (t *handleTable) take(fh uint64) *handle {
	s := t.shard(fh)
	s.mu.Lock()
	h := s.m[fh]
	delete(s.m, fh)
	s.mu.Unlock()
	return h
}

// takeAll removes all handles.
func (t *handleTable) takeAll() (all []*handle) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for _, h := range s.m {
			all = append(all, h)
		}
		clear(s.m)
		s.mu.Unlock()
	}
	return all
}

func (t *handleTable) count() (n int) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.RLock()
		n += len(s.m)
		s.mu.RUnlock()
	}
	return n
}
