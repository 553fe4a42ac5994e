package meta

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// Looking after blocks and time
//
// A block may be deleted from the store when no state that anybody can still read
// points to it: neither the present, nor the past that can be shown, nor a
// snapshot. The past that can be shown begins at the time in record `H`. Expire and
// DeadBlocks move it forward as retention runs out, in a transaction of its own
// before anything is removed, and whoever shows the past looks at it in the same
// state of the store from which it reads (view.reach). So nobody can begin to use
// what is about to be removed: a block that has been retired is never pointed to
// again, except by a transaction that copies from the past and holds it meanwhile.

// maintenance is what the engine remembers between calls of Maintainer.
type maintenance struct {
	mu      sync.Mutex
	passed  []byte    // key of the delete queue: snapshots need all blocks before it
	began   time.Time // when the queue was last looked at from its beginning
	cleaned uint64    // the beginning of history when it was last cleaned up
	dirty   bool      // what snapshots need has changed since
	holds   []uint64  // stamps from which on retired blocks are kept by copies under way
}

var _ Maintainer = (*Engine)(nil)

const (
	// maintainBatch is how many records one transaction of maintenance removes.
	maintainBatch = 1000
	// maintainScan is how many records one view of maintenance reads.
	maintainScan = 20000
	// queueAgain is how often the delete queue is looked at from its beginning.
	queueAgain = time.Hour
)

// reachBack moves the beginning of the past that can be shown to where retention
// ends at now, if it is behind that by more than slack, and returns it; 0 if no
// history is kept.
func (e *Engine) reachBack(ctx context.Context, now time.Time, slack time.Duration) (since uint64, err error) {
	move := func(v *view) (from, to uint64, err error) {
		f, err := v.format()
		if err != nil {
			return 0, 0, err
		}
		from, err = v.since()
		return from, stampOf(vfs.TimeOf(now.Add(-f.Retention))), err
	}
	var to uint64
	err = e.view(ctx, func(v *view) (err error) {
		since, to, err = move(v)
		return err
	})
	if err != nil || since == 0 || to <= since || to-since <= uint64(slack) {
		return since, err
	}
	err = e.db.Update(ctx, func(w kv.Txn) error {
		v := view{e: e, r: w}
		if since, to, err = move(&v); err != nil || since == 0 || to <= since {
			return err
		}
		since = to
		w.Put(keySince(), sinceRecord(to))
		return nil
	})
	return since, err
}

// slack is how late the past may end after its retention, so that not every look
// at the delete queue writes.
func (e *Engine) slack() time.Duration {
	if r := e.format.Load().Retention; r > 0 {
		return min(time.Minute, r/64)
	}
	return time.Minute
}

// queueEmpty tells whether the delete queue has nothing from before horizon, other
// than what snapshots need.
func (e *Engine) queueEmpty(ctx context.Context, horizon uint64) (empty bool, err error) {
	err = e.view(ctx, func(v *view) error {
		empty = true
		return v.r.Scan(e.maint.queueStart(), appendQueueKey(nil, horizon, 0), func(_, _ []byte) (bool, error) {
			empty = false
			return false, nil
		})
	})
	return empty, err
}

func (m *maintenance) queueStart() []byte {
	if m.passed == nil {
		return []byte{kindQueue}
	}
	return m.passed
}

// DeadBlocks implements Maintainer.
func (e *Engine) DeadBlocks(ctx context.Context, now time.Time, limit int) (dead []Block, err error) {
	if e.readOnly {
		return nil, syscall.EROFS
	}
	m := &e.maint
	m.mu.Lock() // no copy begins meanwhile
	defer m.mu.Unlock()
	if t := e.clockNow(); t.Sub(m.began) > queueAgain || t.Before(m.began) {
		m.passed, m.began = nil, t
	}
	horizon := stampOf(vfs.TimeOf(now))
	if idle, err := e.queueEmpty(ctx, horizon); idle || err != nil {
		return nil, fail("find dead blocks", "", err)
	}
	since, err := e.reachBack(ctx, now, e.slack())
	if err != nil {
		return nil, fail("find dead blocks", "", err)
	}
	if since != 0 {
		horizon = min(horizon, since)
	}
	for _, stamp := range m.holds {
		horizon = min(horizon, stamp)
	}
	q := &queueScan{at: bytes.Clone(m.queueStart()), end: appendQueueKey(nil, horizon, 0), limit: limit}
	for !q.done {
		if err := e.view(ctx, q.page); err != nil {
			return nil, fail("find dead blocks", "", err)
		}
		if len(q.dead) == 0 {
			m.passed = append(m.passed[:0], q.at...)
		}
	}
	return q.dead, nil
}

// queueScan looks for blocks in the delete queue that no snapshot needs.
type queueScan struct {
	at, end []byte
	limit   int
	dead    []Block
	done    bool
}

// page looks at some records more.
func (q *queueScan) page(v *view) error {
	shots, err := v.snapshotStamps()
	if err != nil {
		return err
	}
	n := 0
	q.done = true
	start := bytes.Clone(q.at)
	return v.r.Scan(start, q.end, func(key, value []byte) (bool, error) {
		if n == maintainScan || len(q.dead) >= q.limit {
			q.done = len(q.dead) >= q.limit
			return false, nil
		}
		n++
		stamp, id, err := splitQueueKey(key)
		if err != nil {
			return false, err
		}
		r, err := decodeQueue(value)
		if err != nil {
			return false, fmt.Errorf("block %d: %w", id, err)
		}
		if !anyBetween(shots, r.created, stamp) {
			q.dead = append(q.dead, Block{ID: id, Size: r.size})
		}
		q.at = append(append(q.at[:0], key...), 0)
		return true, nil
	})
}

// anyBetween tells whether one of the ascending stamps is in [from, to).
func anyBetween(stamps []uint64, from, to uint64) bool {
	i, _ := slices.BinarySearch(stamps, from)
	return i < len(stamps) && stamps[i] < to
}

// ForgetBlocks implements Maintainer.
func (e *Engine) ForgetBlocks(ctx context.Context, blocks []Block) error {
	if e.readOnly {
		return syscall.EROFS
	}
	for batch := range slices.Chunk(blocks, maintainBatch) {
		var settled []uint64
		err := e.db.Update(ctx, func(w kv.Txn) error {
			settled = settled[:0]
			v := view{e: e, r: w}
			for _, b := range batch {
				v.key = appendBlockKey(v.key[:0], b.ID)
				value, err := v.value(v.key)
				if err != nil {
					return err
				}
				if value == nil {
					continue // forgotten already
				}
				r, err := decodeBlock(value)
				if err != nil {
					return fmt.Errorf("block %d: %w", b.ID, err)
				}
				if r.refs != 0 {
					return vfs.WithErrno(syscall.EINVAL, fmt.Errorf("block %d is in use and cannot be forgotten", b.ID))
				}
				w.Delete(v.key)
				v.key = appendQueueKey(v.key[:0], r.retired, b.ID)
				w.Delete(v.key)
				if e.pending.has(b.ID) {
					w.Delete(appendPendingKey(nil, b.ID))
					settled = append(settled, b.ID)
				}
			}
			return nil
		})
		if err != nil {
			return fail("forget deleted blocks", "", err)
		}
		e.pending.remove(settled)
	}
	return nil
}

// Expire implements Maintainer. It reads all of history, so it does so only when
// the past that can be shown has become shorter by a good part of the retention, or
// a snapshot has been deleted, since the last time.
func (e *Engine) Expire(ctx context.Context, now time.Time) (removed int, err error) {
	if e.readOnly {
		return 0, syscall.EROFS
	}
	since, err := e.reachBack(ctx, now, 0)
	if err != nil {
		return 0, fail("expire history", "", err)
	}
	m := &e.maint
	m.mu.Lock()
	part := time.Hour
	if r := e.format.Load().Retention; r > 0 {
		part = r / 32
	}
	worth := m.dirty || m.cleaned == 0 || since == 0 || since-m.cleaned >= uint64(part)
	m.mu.Unlock()
	if !worth {
		return 0, nil
	}
	return e.cleanHistory(ctx, since)
}

// Purge ends the past before a time: what was removed and overwritten until then
// cannot be brought back, except from snapshots, and its space becomes free. It
// returns the number of records removed.
func (e *Engine) Purge(ctx context.Context, before time.Time) (removed int, err error) {
	if e.readOnly {
		return 0, syscall.EROFS
	}
	stamp := min(stampOf(vfs.TimeOf(before)), stampOf(e.now()))
	var since uint64
	err = e.db.Update(ctx, func(w kv.Txn) (err error) {
		v := view{e: e, r: w}
		if since, err = v.since(); err != nil || since == 0 || stamp <= since {
			return err
		}
		since = stamp
		w.Put(keySince(), sinceRecord(since))
		return nil
	})
	if err != nil {
		return 0, fail("purge history", "", err)
	}
	return e.cleanHistory(ctx, since)
}

// cleanHistory removes the records of history that neither a time after since (0:
// no time) nor a snapshot needs.
func (e *Engine) cleanHistory(ctx context.Context, since uint64) (removed int, err error) {
	m := &e.maint
	m.mu.Lock()
	wasDirty := m.dirty
	m.dirty = false
	m.mu.Unlock()
	h := &historyScan{since: since, at: []byte{kindHistory}}
	for !h.done && err == nil {
		if err = e.view(ctx, h.page); err != nil || len(h.dead) == 0 {
			continue
		}
		err = e.db.Update(ctx, func(w kv.Txn) error {
			for _, key := range h.dead {
				w.Delete(key)
			}
			return nil
		})
		if err == nil {
			removed += len(h.dead)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.dirty = m.dirty || wasDirty
		return removed, fail("expire history", "", err)
	}
	m.cleaned = since
	return removed, nil
}

// historyScan looks for records of history that nobody needs. A record says what
// a key was from the record before it until its own time. It is needed if a time
// that can be shown, or a snapshot, lies between.
type historyScan struct {
	since uint64
	at    []byte
	done  bool
	dead  [][]byte
	key   []byte // of the last record seen
	stamp uint64 // and its time
}

// page looks at some records more.
func (h *historyScan) page(v *view) error {
	shots, err := v.snapshotStamps()
	if err != nil {
		return err
	}
	h.dead = h.dead[:0]
	h.done = true
	n := 0
	start := bytes.Clone(h.at)
	return v.r.Scan(start, []byte{kindHistory + 1}, func(hkey, _ []byte) (bool, error) {
		if n == maintainScan || len(h.dead) == maintainBatch {
			h.done = false
			return false, nil
		}
		n++
		key, stamp, err := splitHistoryKey(hkey)
		if err != nil {
			return false, err
		}
		from := uint64(0)
		if bytes.Equal(key, h.key) {
			from = h.stamp
		}
		if (h.since == 0 || stamp <= h.since) && !anyBetween(shots, from, stamp) {
			h.dead = append(h.dead, bytes.Clone(hkey))
		}
		h.key, h.stamp = append(h.key[:0], key...), stamp
		h.at = append(append(h.at[:0], hkey...), 0)
		return true, nil
	})
}

// Fragmented implements Maintainer. fn is called while no state of the store is
// held; what it gets is its own.
func (e *Engine) Fragmented(ctx context.Context, min int, fn func(ino vfs.Ino, index uint32, extents []Extent) bool) error {
	type found struct {
		ino   vfs.Ino
		index uint32
		list  []Extent
	}
	var page []found
	at := []byte{kindChunk}
	for more := true; more; {
		err := e.view(ctx, func(v *view) error {
			page, more = page[:0], false
			n := 0
			start := bytes.Clone(at)
			var list []Extent
			return v.r.Scan(start, []byte{kindChunk + 1}, func(key, value []byte) (bool, error) {
				if n == maintainScan || len(page) == maintainBatch {
					more = true
					return false, nil
				}
				n++
				ino, index, err := splitChunkKey(key)
				if err != nil {
					return false, err
				}
				if list, err = decodeChunk(list[:0], value); err != nil {
					return false, fmt.Errorf("chunk %d of inode %d: %w", index, ino, err)
				}
				if len(list) >= min {
					page = append(page, found{ino, index, slices.Clone(list)})
				}
				at = append(append(at[:0], key...), 0)
				return true, nil
			})
		})
		if err != nil {
			return fail("find fragmented files", "", err)
		}
		for _, f := range page {
			if !fn(f.ino, f.index, f.list) {
				return nil
			}
		}
	}
	return nil
}
