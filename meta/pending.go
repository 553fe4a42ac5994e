package meta

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/massif-fs/massif/kv"
)

// Pending blocks
//
// What an fsync has to make durable is often a few KiB. Put into the object store
// first, it costs the flush of an object and of its directory, or a round trip to a
// bucket, before the one of the commit. So the object of a small block may come with
// the Commit that brings the block, and lies in a record, `w`, until somebody has
// put it into the store: the block is pending. The record is part of the
// transaction, so metadata never points at data that is not durable here either.
// The object's bytes are those that the store gets, with their checksums and sealed
// if the volume is.
//
// Who reads a pending block asks PendingObject before the store; so every reader
// of the volume's blocks must be given the engine (block.Config.Pending). Settle
// ends it, when the store has the object durably. A crash in between leaves both,
// and the object is put again.

// Pending is the part of the engine that keeps objects of small blocks until they
// are in the store. Its methods may be called concurrently.
type Pending interface {
	// PendingRoom tells whether objects of n bytes in all may be given to a Commit.
	// It is a guide: callers that ask at the same time may go over the limit.
	PendingRoom(n int64) bool
	// Pend says that the store does not have the object of a block yet: the Commit
	// that brings the block, which follows, keeps it. The caller leaves the object
	// alone until that has returned.
	Pend(id uint64, object []byte)
	// HasPending tells whether the block is pending. It is an in-memory call.
	HasPending(id uint64) bool
	// PendingObject returns the object of a pending block; nil if the store must
	// have it.
	PendingObject(ctx context.Context, id uint64) ([]byte, error)
	// PendingBlocks returns the pending blocks whose Commit has ended, in ascending
	// order, which is about the order in which they came. Some may have no object,
	// because the Commit failed; they are to be settled all the same.
	PendingBlocks() []uint64
	// Overwritten tells whether nothing needs a pending block any more, nor ever
	// will: it may be settled without an object in the store.
	Overwritten(ctx context.Context, id uint64) (bool, error)
	// Settle removes the objects of blocks that the store has durably.
	Settle(ctx context.Context, ids []uint64) error
}

const (
	// maxPending bounds the bytes of pending objects: the time to read them when
	// the volume is opened, and what a mount leaves to its successor.
	maxPending = 32 << 20
	// maxPendingBlocks bounds their number, and so the memory of the table.
	maxPendingBlocks = 16 << 10
)

var _ Pending = (*Engine)(nil)

// pendingTable knows which blocks are pending. A block is in it before the commit
// that brings its record, and until the record is gone: it may be in it without
// a record, never the other way round.
type pendingTable struct {
	mu       sync.RWMutex
	sizes    map[uint64]int64
	incoming map[uint64][]byte // objects that a commit is to keep
	bytes    int64
	count    atomic.Int64 // spares the usual caller the lock
}

func (p *pendingTable) add(id uint64, size int64, object []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sizes == nil {
		p.sizes, p.incoming = make(map[uint64]int64), make(map[uint64][]byte)
	}
	p.bytes += size - p.sizes[id]
	p.sizes[id] = size
	if object != nil {
		p.incoming[id] = object
	}
	p.count.Store(int64(len(p.sizes)))
}

// object returns what the commit of a block is to keep; nil if nothing.
func (p *pendingTable) object(id uint64) []byte {
	if p.count.Load() == 0 {
		return nil
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.incoming[id]
}

// taken lets go of the objects of a commit that has ended. Where it failed, or may
// have, the table goes on to say that the blocks are pending: whoever moves them
// finds out.
func (p *pendingTable) taken(blocks []Block) {
	if p.count.Load() == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range blocks {
		delete(p.incoming, b.ID)
	}
}

func (p *pendingTable) remove(ids []uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		delete(p.incoming, id)
		p.bytes -= p.sizes[id]
		delete(p.sizes, id)
	}
	p.count.Store(int64(len(p.sizes)))
}

func (p *pendingTable) has(id uint64) bool {
	if p.count.Load() == 0 {
		return false
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	_, ok := p.sizes[id]
	return ok
}

// loadPending finds what an earlier process has left pending.
func (e *Engine) loadPending(v *view) error {
	return v.r.Scan([]byte{kindPending}, []byte{kindPending + 1}, func(key, value []byte) (bool, error) {
		id, err := splitBlockKey(key)
		if err == nil {
			e.pending.add(id, int64(len(value)), nil)
		}
		return true, err
	})
}

// PendingRoom implements Pending.
func (e *Engine) PendingRoom(n int64) bool {
	if e.readOnly {
		return false
	}
	p := &e.pending
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.bytes+n <= maxPending && len(p.sizes) < maxPendingBlocks
}

// Pend implements Pending.
func (e *Engine) Pend(id uint64, object []byte) { e.pending.add(id, int64(len(object)), object) }

// HasPending implements Pending.
func (e *Engine) HasPending(id uint64) bool { return e.pending.has(id) }

// PendingObject implements Pending.
func (e *Engine) PendingObject(ctx context.Context, id uint64) (object []byte, err error) {
	if !e.pending.has(id) {
		return nil, nil
	}
	err = e.db.View(ctx, func(r kv.Reader) error {
		v := view{e: e, r: r}
		b, err := v.value(appendPendingKey(nil, id))
		object = bytes.Clone(b)
		return err
	})
	return object, fail("read pending block", fmt.Sprint(id), interrupted(err))
}

// PendingBlocks implements Pending.
func (e *Engine) PendingBlocks() []uint64 {
	p := &e.pending
	if p.count.Load() == 0 {
		return nil
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	ids := make([]uint64, 0, len(p.sizes))
	for id := range p.sizes {
		if p.incoming[id] == nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Overwritten implements Pending.
func (e *Engine) Overwritten(ctx context.Context, id uint64) (gone bool, err error) {
	m := &e.maint
	m.mu.Lock() // no copy begins meanwhile
	defer m.mu.Unlock()
	if len(m.holds) > 0 {
		return false, nil // one that is under way may point to it again
	}
	err = e.view(ctx, func(v *view) error {
		since, err := v.since()
		if err != nil || since != 0 {
			return err
		}
		b, err := v.value(appendBlockKey(nil, id))
		if err != nil || b == nil {
			gone = err == nil
			return err
		}
		r, err := decodeBlock(b)
		gone = err == nil && r.refs == 0
		return err
	})
	return gone, fail("look for pending block", fmt.Sprint(id), err)
}

// Settle implements Pending.
func (e *Engine) Settle(ctx context.Context, ids []uint64) error {
	if e.readOnly {
		return syscall.EROFS
	}
	err := e.db.Update(ctx, func(w kv.Txn) error {
		for _, id := range ids {
			w.Delete(appendPendingKey(nil, id))
		}
		return nil
	})
	if err != nil {
		return fail("settle pending blocks", "", interrupted(err))
	}
	e.pending.remove(ids)
	return nil
}

// pend writes the object of a new block, if it came with one.
func (t *txn) pend(b Block) {
	if object := t.e.pending.object(b.ID); object != nil {
		t.key = appendPendingKey(t.key[:0], b.ID)
		t.w.Put(t.key, object)
	}
}
