package pebble

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"

	"github.com/massif-fs/massif/kv"
)

// counterMerger adds counters up. Its name is on disk.
var counterMerger = &pebble.Merger{
	Name: "massif.counter.v1",
	Merge: func(key, value []byte) (pebble.ValueMerger, error) {
		m := new(counterSum)
		return m, m.MergeNewer(value)
	},
}

// counterSum implements pebble.ValueMerger.
type counterSum struct{ n int64 }

func (m *counterSum) MergeNewer(value []byte) error {
	n, err := kv.Counter(value)
	m.n += n
	return err
}

func (m *counterSum) MergeOlder(value []byte) error { return m.MergeNewer(value) }

func (m *counterSum) Finish(bool) ([]byte, io.Closer, error) {
	return kv.CounterValue(m.n), nil, nil
}

func putCounter(buf *[8]byte, n int64) []byte {
	binary.LittleEndian.PutUint64(buf[:], uint64(n))
	return buf[:]
}

// counterCache knows the values of counters that were added to recently.
//
// Merge records alone would make a counter slow to read: a read adds up all of
// them since the last flush, and a volume's usage counter gets one with each
// file. With the value at hand, the commit writes the new sum instead. All
// methods are called with history.mu held.
type counterCache struct {
	slots [512]counterSlot // by hash
	used  bool
}

type counterSlot struct {
	hash  uint64
	key   []byte // nil: free
	value int64
}

func (c *counterCache) at(hash uint64) *counterSlot { return &c.slots[hash>>32%uint64(len(c.slots))] }

func (c *counterCache) get(hash uint64, key []byte) (int64, bool) {
	s := c.at(hash)
	if s.hash != hash || !bytes.Equal(s.key, key) || s.key == nil {
		return 0, false
	}
	return s.value, true
}

func (c *counterCache) set(hash uint64, key []byte, n int64) {
	s := c.at(hash)
	if s.key == nil || s.hash != hash || !bytes.Equal(s.key, key) {
		*s = counterSlot{hash: hash, key: bytes.Clone(key)}
	}
	s.value = n
	c.used = true
}

// drop forgets what t is about to change other than by adding.
func (c *counterCache) drop(t *txn) {
	if !c.used {
		return
	}
	for i := range t.writes {
		w := &t.writes[i]
		if s := c.at(w.hash); w.kind != addWrite && s.key != nil && s.hash == w.hash {
			*s = counterSlot{}
		}
	}
	for _, r := range t.ranges {
		for i := range c.slots {
			if s := &c.slots[i]; s.key != nil && r.contains(s.key) {
				*s = counterSlot{}
			}
		}
	}
}

// pendingAdd is an Add whose key may not be cached.
type pendingAdd struct {
	write int32 // index into writes
	read  bool  // base is the value as of commit seq
	seq   uint64
	base  int64
}

// readCounters reads the counters that t adds to and that are not cached, ahead
// of the commit and without its mutex.
func (t *txn) readCounters() error {
	for i := range t.writes {
		w := &t.writes[i]
		if w.kind != addWrite {
			continue
		}
		h := t.db.history
		h.mu.Lock()
		_, ok := t.db.counters.get(w.hash, w.key)
		h.mu.Unlock()
		a := pendingAdd{write: int32(i)}
		if !ok {
			a.read, a.seq = true, h.ended.Load()
			base, err := t.arena.get(t.db, t.db.p, w.key)
			if err == nil {
				a.base, err = kv.Counter(base)
			} else if errors.Is(err, kv.ErrNotFound) {
				err = nil
			}
			if err != nil {
				return fmt.Errorf("add to counter: %w", err)
			}
		}
		t.adds = append(t.adds, a)
	}
	return nil
}

// writeCounters completes the batch with the sums of t's Adds.
func (t *txn) writeCounters() error {
	c := &t.db.counters
	c.drop(t)
	for _, a := range t.adds {
		w := &t.writes[a.write]
		n, ok := c.get(w.hash, w.key)
		if !ok && a.read && t.db.history.unchanged(w.hash, a.seq) {
			n, ok = a.base, true
		}
		var buf [8]byte
		var err error
		if ok {
			n += w.delta
			c.set(w.hash, w.key, n)
			err = t.batch.Set(w.key, putCounter(&buf, n), nil)
		} else {
			// Somebody wrote it just now and it is not cached: leave the sum to reads.
			err = t.batch.Merge(w.key, putCounter(&buf, w.delta), nil)
		}
		if err != nil {
			return fmt.Errorf("add to counter: %w", err)
		}
	}
	return nil
}
