package meta

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"syscall"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// Removing an inode means removing everything it has. A small one goes with its
// last name, in one transaction. A big one is taken to pieces in several, so that
// no transaction grows with a file's size: an `o` record of session 0 says so until
// the last, also over a crash.

// removeBudget is how many extents or other records one transaction removes.
const removeBudget = 4096

// strip removes up to budget of what an inode has besides its attribute record:
// done tells whether that was all. It counts down budget.
func (t *txn) strip(n *node, budget *int) (done bool, err error) {
	if n.isDir() && n.entries > 0 { // a copy that was not finished
		return false, t.prune(n, budget)
	}
	if n.flags&flagInline != 0 {
		if err := t.delInline(n); err != nil {
			return false, err
		}
	}
	if n.isSymlink() && !n.fresh {
		t.key = appendTargetKey(t.key[:0], n.ino)
		if err := t.del(t.key); err != nil {
			return false, err
		}
	}
	if n.flags&flagXattr != 0 {
		names, err := t.xattrNames(n.ino)
		if err != nil {
			return false, err
		}
		for _, name := range names {
			if err := t.delXattr(n.ino, name); err != nil {
				return false, err
			}
		}
		*budget -= len(names)
		n.flags &^= flagXattr | flagACL | flagDefaultACL
	}
	if n.hasChunks() {
		if _, done, err := t.cutTail(n, 0, budget); !done || err != nil {
			return false, err
		}
		if n.alloc != 0 {
			return false, fmt.Errorf("inode %d has %d allocated bytes more than its chunks: %w", n.ino, n.alloc, kv.ErrCorrupt)
		}
	}
	return true, nil
}

// cutTail removes the extents of a file from offset from on, the last ones first,
// as many as budget allows. done tells whether that was all; if not, cut is the
// offset from which on nothing is left.
func (t *txn) cutTail(n *node, from uint64, budget *int) (cut uint64, done bool, err error) {
	type piece struct {
		index uint32
		list  []Extent
	}
	size := uint64(t.e.format.Load().ChunkSize)
	first := uint32(from / size)
	var pieces []piece
	done = true
	t.key = appendChunkKey(t.key[:0], n.ino, first)
	t.end = appendIno(t.end[:0], kindChunk, n.ino+1)
	err = t.r.ScanReverse(t.key, t.end, func(key, value []byte) (bool, error) {
		_, index, err := splitChunkKey(key)
		if err != nil {
			return false, err
		}
		if *budget <= 0 {
			done = false
			return false, nil
		}
		list, err := decodeChunk(nil, value)
		if err != nil {
			return false, fmt.Errorf("chunk %d of inode %d: %w", index, n.ino, err)
		}
		*budget -= len(list) + 1
		pieces = append(pieces, piece{index, list})
		return true, nil
	})
	if err != nil {
		return 0, false, err
	}
	cut = from
	for _, p := range pieces {
		keep := []Extent(nil)
		if p.index == first && from%size != 0 {
			keep = cutExtents(nil, p.list, from%size, size)
		}
		if err := t.putChunk(n, p.index, p.list, keep); err != nil {
			return 0, false, err
		}
		if !done {
			cut = uint64(p.index) * size
		}
	}
	return cut, done, nil
}

// dropInode removes an inode that has no name: at once, if nobody uses it and it is
// small, else it lives on with `o` records.
func (t *txn) dropInode(n *node) error {
	n.nlink, n.parent, n.cookie = 0, 0, 0
	if users := t.users(n.ino); len(users) > 0 {
		t.named = append(t.named, n.ino)
		for _, id := range users {
			t.putOrphan(id, n.ino)
		}
		return nil
	}
	return t.destroy(n)
}

// destroy removes an inode that has no name and no user.
func (t *txn) destroy(n *node) error {
	budget := removeBudget
	done, err := t.strip(n, &budget)
	if err != nil {
		return err
	}
	if done {
		n.removed = true
		return nil
	}
	t.putOrphan(systemSession, n.ino)
	t.then = append(t.then, t.e.reaper.wake)
	return nil
}

// reap ends a session's hold on an inode that may have no name: it goes if nobody
// else uses it, or if it is big, is left to the reaper.
func (e *Engine) reap(ctx context.Context, id uint64, ino vfs.Ino) error {
	return e.reapBeside(ctx, id, ino, together)
}

func (e *Engine) reapBeside(ctx context.Context, id uint64, ino vfs.Ino, c company) error {
	for more := true; more; {
		from := e.session(id)
		err := e.transact(ctx, from, []vfs.Ino{ino}, c, func(t *txn) error {
			more = false
			n, err := t.load(ino)
			if errors.Is(err, syscall.ESTALE) {
				t.delOrphan(id, ino)
				return nil
			}
			if err != nil {
				return err
			}
			if n.nlink > 0 { // Tmpfile made it, and it has got a name
				t.delOrphan(id, ino)
				return nil
			}
			if id != systemSession {
				t.delOrphan(id, ino)
				if users := t.users(ino); len(users) > 0 {
					for _, other := range users {
						t.putOrphan(other, ino)
					}
					return nil
				}
				err = t.destroy(n)
			} else {
				more, err = t.destroyRest(n)
			}
			if n.removed {
				t.changedLink(n)
			}
			return err
		})
		if errors.Is(err, errSessionClosed) && from != nil {
			more = true // it is nobody's change, then
			continue
		}
		if err != nil {
			return fail("remove inode", fmt.Sprint(ino), err)
		}
	}
	return nil
}

// destroyRest is one more step of a removal that destroy has begun.
func (t *txn) destroyRest(n *node) (more bool, err error) {
	budget := removeBudget
	done, err := t.strip(n, &budget)
	if err != nil || !done {
		return !done, err
	}
	t.delOrphan(systemSession, n.ino)
	n.removed = true
	return false, nil
}

// endSession removes what a session has left in the store: its record last, so that
// whatever interrupts it, it goes on when the volume is opened again.
//
// The session has been marked as closed and uses nothing, or it is no longer absent.
// So transactions that begin now neither are its own nor make it hold an inode (see
// users); those that have begun are waited for. Then nothing of it comes back.
func (e *Engine) endSession(ctx context.Context, id uint64) error {
	e.quiesce()
	if err := e.reapAll(ctx, id); err != nil {
		return err
	}
	return e.db.Update(ctx, func(w kv.Txn) error {
		w.Delete(appendSessionKey(nil, id))
		for _, kind := range sessionKinds {
			w.DeleteRange(appendSessionRecords(nil, kind, id), appendSessionRecords(nil, kind, id+1))
		}
		return nil
	})
}

// sessionKinds are the records that belong to a session, behind the number of which
// more follows in the key; beside `o`, whose inodes go with them.
var sessionKinds = [...]byte{kindCopy, kindReplay, kindAllocation}

// appendSessionRecords is the beginning of the keys of such records.
func appendSessionRecords(dst []byte, kind byte, session uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, kind), session)
}

// reapAll ends a session's hold on all inodes without a name.
func (e *Engine) reapAll(ctx context.Context, id uint64) error {
	for {
		orphans, err := e.orphans(ctx, id, 256)
		if err != nil || len(orphans) == 0 {
			return err
		}
		for _, ino := range orphans {
			if err := e.reap(ctx, id, ino); err != nil {
				return err
			}
		}
	}
}

// orphans lists inodes without a name that a session holds.
func (e *Engine) orphans(ctx context.Context, id uint64, limit int) (list []vfs.Ino, err error) {
	err = e.view(ctx, func(v *view) error {
		list = list[:0]
		return v.r.Scan(appendOrphanKey(nil, id, 0), appendOrphanKey(nil, id+1, 0), func(key, _ []byte) (bool, error) {
			_, ino, err := splitOrphanKey(key)
			list = append(list, ino)
			return len(list) < limit, err
		})
	})
	return list, err
}

// endDeadSessions ends the sessions of an engine that did not end them itself, and
// removes what damage has left of sessions that have no record any more.
func (e *Engine) endDeadSessions(ctx context.Context) error {
	var ids []uint64
	err := e.view(ctx, func(v *view) error {
		ids = ids[:0]
		err := v.sessions(func(id uint64) (bool, error) {
			ids = append(ids, id)
			return true, nil
		})
		for _, kind := range append([]byte{kindOrphan}, sessionKinds[:]...) {
			if err == nil {
				ids, err = v.appendOwners(ids, kind)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		if e.absent.has(id) {
			continue
		}
		if err := e.endSession(ctx, id); err != nil {
			return err
		}
		e.log.Info("a session that was not ended has been cleaned up", "session", id)
	}
	return nil
}

// appendOwners appends the sessions that have records of one of sessionKinds, or `o`.
// Keys that make no sense are left to Repair.
func (v *view) appendOwners(ids []uint64, kind byte) ([]uint64, error) {
	at, end := appendSessionRecords(nil, kind, systemSession+1), appendSessionRecords(nil, kind, math.MaxInt64+1)
	for more := true; more; {
		more = false
		err := v.r.Scan(at, end, func(key, _ []byte) (bool, error) {
			more = true
			if len(key) < 9 {
				at = append(append(at[:0], key...), 0)
				return false, nil
			}
			id := binary.BigEndian.Uint64(key[1:])
			ids = append(ids, id)
			at = appendSessionRecords(at[:0], kind, id+1)
			return false, nil
		})
		if err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// reaper removes in the background what takes several transactions, or could not
// be removed when it should have been.
type reaper struct {
	kick  chan struct{}
	mu    sync.Mutex
	again []reapJob
}

type reapJob struct {
	session uint64
	ino     vfs.Ino
}

func (r *reaper) wake() {
	select {
	case r.kick <- struct{}{}:
	default: // it has not begun with what it was woken for before
	}
}

// later notes a removal that has failed: it is tried again when the reaper wakes
// next, or when the volume is opened again.
func (r *reaper) later(session uint64, ino vfs.Ino) {
	r.mu.Lock()
	if len(r.again) < 1<<16 { // after that many failures the store is no good
		r.again = append(r.again, reapJob{session, ino})
	}
	r.mu.Unlock()
}

func (e *Engine) startReaper() {
	r := &e.reaper
	r.wake()
	e.tasks.Add(1)
	go func() {
		defer e.tasks.Done()
		for {
			select {
			case <-r.kick:
			case <-e.ctx.Done():
				return
			}
			r.mu.Lock()
			jobs := r.again
			r.again = nil
			r.mu.Unlock()
			for _, j := range jobs {
				e.reapOrLater(j.session, j.ino)
			}
			if err := e.reapAll(e.ctx, systemSession); err != nil && e.ctx.Err() == nil {
				e.log.Warn("removing an unlinked file goes on later", "err", err)
			}
		}
	}()
}

// reapNow is reap for callers that must not wait for other sessions' leases: the
// reaper does.
func (e *Engine) reapNow(id uint64, ino vfs.Ino) {
	switch err := e.reapBeside(e.ctx, id, ino, impatient); {
	case errors.Is(err, errRecall):
		e.reaper.later(id, ino)
		e.reaper.wake()
	case err != nil && e.ctx.Err() == nil:
		e.log.Warn("an inode without a name is removed later", "inode", uint64(ino), "err", err)
		e.reaper.later(id, ino)
	}
}

// reapOrLater is reap for callers that cannot do anything about an error.
func (e *Engine) reapOrLater(id uint64, ino vfs.Ino) {
	if err := e.reap(e.ctx, id, ino); err != nil && e.ctx.Err() == nil {
		e.log.Warn("an inode without a name is removed later", "inode", uint64(ino), "err", err)
		e.reaper.later(id, ino)
	}
}
