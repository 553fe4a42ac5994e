package meta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// stampAhead is how far ahead of the last stamp the store's bound on stamps is
// put, in ns. After a crash time goes on from that bound, so that stamps ascend
// whatever the wall clock does.
const stampAhead = uint64(time.Second)

const counterStamp = "stamp" // no transaction has a greater stamp

func (e *Engine) startClock(v *view) error {
	bound, err := v.counter(keyCounter(counterStamp))
	if err == nil {
		e.clock.advance(uint64(bound))
	}
	return err
}

// bound makes sure that the store's bound is not below the run's stamp. Commits
// become durable in their order, so the bound is there whenever the stamp is. It never
// goes back: it is read first, so that of two transactions that move it at the same time
// the one with the older stamp runs again.
func (t *txn) bound() error {
	c := &t.e.clock
	if t.stamp <= c.bound.Load() {
		return nil
	}
	have, err := t.counter(keyCounter(counterStamp))
	if err != nil {
		return err
	}
	bound := uint64(have)
	if bound < t.stamp {
		bound = t.stamp + stampAhead
		t.w.Put(keyCounter(counterStamp), kv.CounterValue(int64(bound)))
	}
	t.then = append(t.then, func() {
		for old := c.bound.Load(); old < bound && !c.bound.CompareAndSwap(old, bound); old = c.bound.Load() {
		}
	})
	return nil
}

func (e *Engine) stopClock(w kv.Txn) error {
	w.Put(keyCounter(counterStamp), kv.CounterValue(int64(e.clock.last.Load())))
	return nil
}

func sinceRecord(stamp uint64) []byte { return kv.CounterValue(int64(stamp)) }

// since reads from which stamp on history is complete; 0 if none is kept.
func (v *view) since() (uint64, error) {
	n, err := v.counter(keySince())
	return uint64(n), err
}

// setHistory makes the record of since when there is history fit the retention
// and the snapshots, and tells whether history is kept from now on. It needs the
// gate alone.
func (t *txn) setHistory(retention time.Duration) (on bool, err error) {
	on = retention > 0
	if !on {
		err = t.r.Scan([]byte{kindSnapshot}, []byte{kindSnapshot + 1}, func(_, _ []byte) (bool, error) {
			on = true
			return false, nil
		})
		if err != nil {
			return false, err
		}
	}
	since, err := t.since()
	switch {
	case err != nil:
	case on && since == 0:
		t.w.Put(keySince(), sinceRecord(t.stamp))
	case !on && since != 0:
		t.w.Delete(keySince())
	}
	return on, err
}

// At returns a read-only engine that shows the volume as it was at a time: ENOENT
// if history does not reach back that far. It uses e's database and must be closed
// before it.
func (e *Engine) At(ctx context.Context, when time.Time) (*Engine, error) {
	past, err := e.atStamp(ctx, stampOf(vfs.TimeOf(when)), "")
	return past, fail("show volume at a time", when.Format(time.RFC3339), err)
}

// atStamp is At for a stamp, which may be that of a snapshot.
func (e *Engine) atStamp(ctx context.Context, stamp uint64, snapshot string) (*Engine, error) {
	if err := e.view(ctx, func(v *view) error { return v.reach(stamp, snapshot) }); err != nil {
		return nil, err
	}
	past := newEngine(e.db, Options{Logger: e.log, ReadOnly: true, Clock: e.clockNow, AttrCache: DefaultAttrCache / 4})
	past.at, past.snapshot = stamp, snapshot
	past.format.Store(e.format.Load())
	past.keyholder.Store(e.keyholder.Load())
	return past, nil
}

func stampTime(stamp uint64) time.Time {
	return time.Unix(int64(stamp/1e9), int64(stamp%1e9)).UTC()
}

// historyReader is a kv.Reader of the state at a time: for each key the oldest
// history record younger than it, else the present record.
type historyReader struct {
	r  kv.Reader
	at uint64
}

func newHistoryReader(r kv.Reader, at uint64) *historyReader { return &historyReader{r, at} }

// Get implements kv.Reader.
func (h *historyReader) Get(key []byte) ([]byte, error) {
	if len(key) == 0 || !versioned(key[0]) {
		return h.r.Get(key)
	}
	var old []byte
	found := false
	start := appendHistoryKey(nil, key, h.at+1)
	end := kv.PrefixEnd(appendHistoryPrefix(nil, key))
	err := h.r.Scan(start, end, func(_, value []byte) (bool, error) {
		found = true
		old = bytes.Clone(value)
		return false, nil
	})
	switch {
	case err != nil:
		return nil, err
	case !found:
		return h.r.Get(key)
	}
	return oldValue(key, old)
}

// oldValue decodes the value of a history record: ErrNotFound if there was no
// record before.
func oldValue(key, value []byte) ([]byte, error) {
	switch {
	case len(value) == 1 && value[0] == 0:
		return nil, kv.ErrNotFound
	case len(value) >= 1 && value[0] == 1:
		return value[1:], nil
	}
	return nil, fmt.Errorf("history of record %q is unreadable: %w", key, kv.ErrCorrupt)
}

// Scan implements kv.Reader.
func (h *historyReader) Scan(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	return h.merge(start, end, false, fn)
}

// ScanReverse implements kv.Reader.
func (h *historyReader) ScanReverse(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	return h.merge(start, end, true, fn)
}

// merge walks the present records and those of history side by side. Keys of
// history have the order of the keys they are about.
func (h *historyReader) merge(start, end []byte, reverse bool, fn func(key, value []byte) (bool, error)) error {
	present := &cursor{r: h.r, start: bytes.Clone(start), end: bytes.Clone(end), reverse: reverse}
	past := &cursor{r: h.r, start: append([]byte{kindHistory}, start...), reverse: reverse}
	if past.end = []byte{kindHistory + 1}; end != nil {
		past.end = append([]byte{kindHistory}, end...)
	}
	old := &versions{c: past, at: h.at, start: start, end: end}
	p, err := present.next()
	if err != nil {
		return err
	}
	o, err := old.next()
	if err != nil {
		return err
	}
	for p != nil || o != nil {
		order := 0
		switch {
		case p == nil:
			order = 1
		case o == nil:
			order = -1
		default:
			if order = bytes.Compare(p.key, o.key); reverse {
				order = -order
			}
		}
		show := p
		if order >= 0 {
			show = o
		}
		more := true
		if show == o {
			value, err := oldValue(o.key, o.value)
			if err == nil {
				more, err = fn(o.key, value)
			} else if errors.Is(err, kv.ErrNotFound) {
				err = nil
			}
			if err != nil {
				return err
			}
		} else if more, err = fn(p.key, p.value); err != nil {
			return err
		}
		if !more {
			return nil
		}
		if order <= 0 {
			if p, err = present.next(); err != nil {
				return err
			}
		}
		if order >= 0 {
			if o, err = old.next(); err != nil {
				return err
			}
		}
	}
	return nil
}

// versions gives from a cursor over history records one for each key: the one
// that holds for a time, if any does.
type versions struct {
	c          *cursor
	at         uint64
	start, end []byte // bounds of keys
	ahead      *record
}

func (v *versions) next() (*record, error) {
	var best *record
	var bestKey []byte
	for {
		rec := v.ahead
		v.ahead = nil
		if rec == nil {
			var err error
			if rec, err = v.c.next(); err != nil {
				return nil, err
			}
		}
		if rec == nil {
			break
		}
		key, stamp, err := splitHistoryKey(rec.key)
		if err != nil {
			return nil, err
		}
		if bytes.Compare(key, v.start) < 0 || v.end != nil && bytes.Compare(key, v.end) >= 0 || stamp <= v.at {
			continue
		}
		if best != nil && !bytes.Equal(key, bestKey) {
			v.ahead = rec
			break
		}
		if best == nil || v.c.reverse { // the smallest stamp above at
			best, bestKey = rec, key
		}
	}
	if best == nil {
		return nil, nil
	}
	return &record{key: bestKey, value: best.value}, nil
}

// cursor walks a range with Scan, some records at a time.
type cursor struct {
	r          kv.Reader
	start, end []byte
	reverse    bool
	batch      []record
	at         int
	done       bool
}

type record struct{ key, value []byte }

func (c *cursor) next() (*record, error) {
	if c.at == len(c.batch) && !c.done {
		size := min(max(16, 2*len(c.batch)), 256)
		c.batch, c.at = make([]record, 0, size), 0 // those handed out stay as they are
		c.done = true
		scan := c.r.Scan
		if c.reverse {
			scan = c.r.ScanReverse
		}
		err := scan(c.start, c.end, func(key, value []byte) (bool, error) {
			c.batch = append(c.batch, record{slices.Clone(key), slices.Clone(value)})
			c.done = len(c.batch) < size
			return c.done, nil
		})
		if err != nil {
			return nil, err
		}
		if n := len(c.batch); n > 0 {
			if last := c.batch[n-1].key; c.reverse {
				c.end = last
			} else {
				c.start = append(slices.Clone(last), 0)
			}
		}
	}
	if c.at == len(c.batch) {
		return nil, nil
	}
	c.at++
	return &c.batch[c.at-1], nil
}
