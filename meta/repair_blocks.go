package meta

import (
	"encoding/binary"
	"errors"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// These passes of Repair set right blocks, history, counters and quotas.

// sumBlocks sums up what extents say of blocks.
func (r *repairer) sumBlocks() error {
	var list []Extent
	return r.each(kindChunk, func(_ *view, key, value []byte) (err error) {
		if list, err = decodeChunk(list[:0], value); err != nil {
			return err
		}
		for _, x := range list {
			if x.Block != 0 {
				r.sums = append(r.sums, sumEdit{key: sumKey('b', x.Block), add: [sumFields]int64{1, int64(x.Len), 0, 0, int64(x.Size)}, set: true})
			}
		}
		if len(r.sums) > 8*maintainBatch {
			return r.flushSums()
		}
		return nil
	})
}

// blocks makes blocks count what points to them, and puts those that nothing
// points to into the delete queue.
func (r *repairer) blocks() error {
	return r.each(kindBlock, func(in *view, key, value []byte) error {
		id, err := splitBlockKey(key)
		if err != nil {
			return err
		}
		sum, err := r.sum('b', id)
		if err != nil {
			return err
		}
		old, bad := decodeBlock(value)
		if bad != nil {
			old = blockRecord{size: uint32(sum[4]), created: r.stamp}
			if sum[0] == 0 {
				r.blockProblem(id, "its record cannot be read and nothing points to it: removed")
				r.del(key)
				return nil
			}
		}
		x := old
		if x.refs, x.live = uint64(sum[0]), uint64(sum[1]); x.refs > 0 {
			x.retired = 0
		} else if x.retired == 0 {
			x.retired = r.stamp
		}
		if x != old || bad != nil {
			r.blockProblem(id, "counted %d references of %d bytes, has %d of %d", old.refs, old.live, x.refs, x.live)
			r.put(key, x.encode(nil))
		}
		if x.refs > 0 {
			return nil
		}
		q := queueRecord{size: x.size, created: x.created}
		qkey := appendQueueKey(nil, x.retired, id)
		b, err := in.value(qkey)
		if err != nil {
			return err
		}
		if have, err := decodeQueue(b); err != nil || have != q {
			r.blockProblem(id, "was not in the delete queue")
			r.put(qkey, q.encode(nil))
		}
		return nil
	})
}

func (r *repairer) blockProblem(id uint64, text string, args ...any) {
	r.problem("block", 0, "block %d: "+text, append([]any{id}, args...)...)
}

// unknownBlocks makes records of blocks that are pointed to and have none.
func (r *repairer) unknownBlocks() error {
	at := sumKey('b', 0)
	for more := true; more; {
		type known struct {
			id  uint64
			sum [sumFields]int64
		}
		var page []known
		err := r.scratch.View(r.ctx, func(reader kv.Reader) error {
			more = false
			return reader.Scan(at, []byte{'b' + 1}, func(key, _ []byte) (bool, error) {
				if len(page) == maintainBatch {
					more = true
					return false, nil
				}
				id := binary.BigEndian.Uint64(key[1:])
				sum, err := readSum(reader, key)
				page = append(page, known{id, sum})
				return true, err
			})
		})
		if err != nil {
			return err
		}
		err = r.e.db.View(r.ctx, func(reader kv.Reader) error {
			in := &view{e: r.e, r: reader}
			for _, x := range page {
				at = sumKey('b', x.id+1)
				key := appendBlockKey(nil, x.id)
				b, err := in.value(key)
				if err != nil {
					return err
				}
				if b == nil {
					r.blockProblem(x.id, "had no record, but is pointed to")
					r.put(key, blockRecord{size: uint32(x.sum[4]), refs: uint64(x.sum[0]), live: uint64(x.sum[1]), created: r.stamp}.encode(nil))
				}
			}
			return nil
		})
		if err == nil {
			err = r.flush()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// queue removes from the delete queue what does not belong there.
func (r *repairer) queue() error {
	return r.each(kindQueue, func(in *view, key, _ []byte) error {
		stamp, id, err := splitQueueKey(key)
		if err != nil {
			return err
		}
		b, err := in.value(appendBlockKey(nil, id))
		if err != nil {
			return err
		}
		if x, err := decodeBlock(b); err != nil || x.refs != 0 || x.retired != stamp {
			r.blockProblem(id, "removed from the delete queue")
			r.del(key)
		}
		return nil
	})
}

// pending removes objects of blocks that are not there.
func (r *repairer) pending() error {
	return r.each(kindPending, func(in *view, key, _ []byte) error {
		id, err := splitBlockKey(key)
		if err != nil {
			return err
		}
		b, err := in.value(appendBlockKey(nil, id))
		if err == nil && b == nil {
			r.blockProblem(id, "its object waits for a place in the store, but it has no record: removed")
			r.del(key)
		}
		return err
	})
}

// past removes records of history that cannot be read.
func (r *repairer) past() error {
	newest := uint64(0)
	err := r.each(kindHistory, func(_ *view, key, value []byte) error {
		old, stamp, err := splitHistoryKey(key)
		if err == nil {
			_, err = oldValue(old, value)
		}
		if err != nil && !errors.Is(err, kv.ErrNotFound) {
			r.problem("history", 0, "record %q cannot be read: removed", key)
			r.del(key)
			return nil
		}
		newest = max(newest, stamp)
		return nil
	})
	if err != nil {
		return err
	}
	r.e.clock.advance(newest)
	return r.setCounter(counterStamp, func(have int64) int64 { return max(have, int64(newest)) })
}

// setCounter makes a counter what want says.
func (r *repairer) setCounter(name string, want func(have int64) int64) error {
	key := keyCounter(name)
	err := r.e.db.View(r.ctx, func(reader kv.Reader) error {
		have, err := r.counter(&view{e: r.e, r: reader}, key)
		if n := want(have); err == nil && n != have {
			r.problem("counter", 0, "counter %q was %d, is %d", name, have, n)
			r.put(key, kv.CounterValue(n))
		}
		return err
	})
	if err == nil {
		err = r.flush()
	}
	return err
}

func (r *repairer) counters() error {
	if err := r.setCounter(counterInodes, func(int64) int64 { return r.use.inodes }); err != nil {
		return err
	}
	return r.setCounter(counterBytes, func(int64) int64 { return r.use.bytes })
}

// quotas counts the use of quotas, in the store and in memory.
func (r *repairer) quotas() error {
	uses := make(map[vfs.Ino]usageSum)
	err := r.each(kindQuota, func(in *view, key, value []byte) error {
		ino, err := keyIno(key)
		if err != nil {
			return err
		}
		n, err := find(in, ino)
		if err != nil {
			return err
		}
		if _, err := decodeLimit(value); err != nil || n == nil || !n.isDir() || n.nlink == 0 {
			r.problem("quota", ino, "quota removed: it cannot be read, or there is no such directory")
			r.del(key)
			r.del(appendUsageKey(nil, ino, usageBytes))
			r.del(appendUsageKey(nil, ino, usageInodes))
			return nil
		}
		use, err := (&view{e: r.e, r: in.r}).subtree(ino)
		if err != nil {
			return err
		}
		uses[ino] = use
		for which, want := range map[byte]int64{usageBytes: use.bytes, usageInodes: use.inodes} {
			key := appendUsageKey(nil, ino, which)
			have, err := r.counter(in, key)
			if err != nil {
				return err
			}
			if have != want {
				r.problem("quota", ino, "use was %d, is %d", have, want)
				r.put(key, kv.CounterValue(want))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	qt := r.e.quotas
	qt.mu.Lock()
	defer qt.mu.Unlock()
	qt.volume.bytes, qt.volume.inodes = r.use.bytes, r.use.inodes
	for ino, q := range qt.dirs {
		use, ok := uses[ino]
		if !ok {
			delete(qt.dirs, ino)
			continue
		}
		q.bytes, q.inodes = use.bytes, use.inodes
	}
	return nil
}
