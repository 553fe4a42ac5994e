package pebble

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"slices"
	"syscall"

	"github.com/cockroachdb/pebble/v2"

	"github.com/massif-fs/massif/kv"
)

// txn is one run of an Update. It implements kv.Txn. Its memory is reused.
type txn struct {
	db    *DB
	began uint64 // the last commit that was certainly visible when the run began
	err   error  // the first error of a write method

	reads []pointRead
	scans []span
	overlay
	batch   *pebble.Batch // nil until the first write
	size    int           // bytes written
	deletes bool          // the run deletes something
	arena   arena         // keys and values that live as long as the run

	record record // what to enter in the history
	adds   []pendingAdd
	turn   *turn // held, or nil

	iter pebble.IterOptions // lest it be allocated for each scan
}

type pointRead struct {
	hash uint64
	key  []byte
}

// lowerBound is not above any key and upperBound is above every key: DeleteRange has
// no open ends in Pebble. A range that begins with the empty key is forgotten by
// merges of tables before it has deleted anything (seen in Pebble 2.1.7).
var (
	lowerBound = []byte{0}
	upperBound = bytes.Repeat([]byte{0xff}, kv.MaxKey+1)
)

// begin makes t ready for a run.
func (t *txn) begin() {
	t.reset()
	t.began = t.db.history.ended.Load()
}

func (t *txn) reset() {
	t.err, t.size, t.deletes = nil, 0, false
	t.reads = reuse(t.reads)
	t.scans = reuse(t.scans)
	t.adds = reuse(t.adds)
	t.overlay.reset()
	t.arena.reset()
	if t.batch != nil {
		// The batch goes back to Pebble's pool, or, if the engine keeps its
		// content, to the collector. Its errors are of indexed batches only.
		_ = t.batch.Close()
		t.batch = nil
	}
}

// release gives t back after its Update.
func (t *txn) release() {
	t.reset()
	t.db.turns.release(t)
	t.db.txns.Put(t)
}

// reuse empties s, and lets it go if it grew beyond what is usual.
func reuse[T any](s []T) []T {
	if cap(s) > 1024 {
		return nil
	}
	clear(s)
	return s[:0]
}

func (t *txn) wrote() bool { return t.batch != nil || len(t.writes) > 0 }

func (t *txn) hash(key []byte) uint64 { return maphash.Bytes(t.db.seed, key) }

// Get implements kv.Reader.
func (t *txn) Get(key []byte) ([]byte, error) {
	if err := kv.CheckKey(key); err != nil {
		return nil, err
	}
	h := t.hash(key)
	if len(t.writes) > 0 || len(t.ranges) > 0 {
		if w := t.find(h, key); w != nil {
			switch w.kind {
			case putWrite:
				return w.value, nil
			case deleteWrite:
				return nil, kv.ErrNotFound
			}
			return t.sum(h, w)
		}
		if t.inRange(key) {
			return nil, kv.ErrNotFound
		}
	}
	return t.load(h, key)
}

// sum reads a counter that the run has added to.
func (t *txn) sum(h uint64, w *write) ([]byte, error) {
	var n int64
	base, err := t.load(h, w.key)
	if err == nil {
		n, err = kv.Counter(base)
	} else if err == kv.ErrNotFound {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	return t.arena.counter(n + w.delta), nil
}

// load reads key from the live store and notes that it did.
func (t *txn) load(h uint64, key []byte) ([]byte, error) {
	t.reads = append(t.reads, pointRead{h, t.arena.copy(key)})
	return t.arena.get(t.db, t.db.p, key)
}

// Scan implements kv.Reader.
func (t *txn) Scan(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	return t.scan(start, end, false, fn)
}

// ScanReverse implements kv.Reader.
func (t *txn) ScanReverse(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	return t.scan(start, end, true, fn)
}

func (t *txn) scan(start, end []byte, reverse bool, fn func(key, value []byte) (bool, error)) error {
	if end != nil && bytes.Compare(start, end) >= 0 {
		return nil
	}
	// The whole span until it is known how far the scan went: fn may panic.
	t.scans = append(t.scans, span{t.arena.copy(start), nil})
	at := len(t.scans) - 1
	if end != nil {
		t.scans[at].end = t.arena.copy(end)
	}

	t.iter.LowerBound, t.iter.UpperBound = start, end
	it, err := t.db.p.NewIter(&t.iter)
	t.iter.LowerBound, t.iter.UpperBound = nil, nil
	if err != nil {
		return t.db.readError(err)
	}
	defer it.Close()
	var last []byte
	if len(t.writes) == 0 && len(t.ranges) == 0 {
		last, err = scanStore(t.db, it, reverse, fn)
	} else {
		last, err = t.scanMerged(it, t.scans[at], reverse, fn)
	}
	if last != nil { // stopped there: the rest of the span was not looked at
		if reverse {
			t.scans[at].start = t.arena.copy(last)
		} else {
			t.scans[at].end = append(t.arena.copy(last), 0)
		}
	}
	return err
}

// scanStore passes the keys of it to fn. If fn ended the scan it returns the
// key that fn ended it at.
func scanStore(db *DB, it *pebble.Iterator, reverse bool, fn func(key, value []byte) (bool, error)) ([]byte, error) {
	for ok := first(it, reverse); ok; ok = advance(it, reverse) {
		value, err := it.ValueAndErr()
		if err != nil {
			return nil, db.readError(err)
		}
		if more, err := fn(it.Key(), value); err != nil || !more {
			return it.Key(), err
		}
	}
	if err := it.Error(); err != nil {
		return nil, db.readError(err)
	}
	return nil, nil
}

func first(it *pebble.Iterator, reverse bool) bool {
	if reverse {
		return it.Last()
	}
	return it.First()
}

func advance(it *pebble.Iterator, reverse bool) bool {
	if reverse {
		return it.Prev()
	}
	return it.Next()
}

// scanMerged is scanStore through the run's own writes.
func (t *txn) scanMerged(it *pebble.Iterator, s span, reverse bool, fn func(key, value []byte) (bool, error)) ([]byte, error) {
	own := t.within(s)
	ok := first(it, reverse)
	var buf [8]byte
	for ok || len(own) > 0 {
		// Which comes next: the store's key, the own write, or both as one?
		order := -1
		var w *write
		if len(own) > 0 {
			i := own[0]
			if reverse {
				i = own[len(own)-1]
			}
			w = &t.writes[i]
			order = 1
			if ok {
				order = bytes.Compare(it.Key(), w.key)
				if reverse {
					order = -order
				}
			}
		}
		var key, value []byte
		var err error
		show := true
		if order <= 0 {
			if value, err = it.ValueAndErr(); err != nil {
				return nil, t.db.readError(err)
			}
			key = it.Key()
			show = !t.inRange(key)
		}
		if order >= 0 {
			key = w.key
			switch w.kind {
			case putWrite:
				value, show = w.value, true
			case deleteWrite:
				show = false
			case addWrite:
				var n int64
				if order == 0 {
					if n, err = kv.Counter(value); err != nil {
						return nil, err
					}
				}
				value, show = putCounter(&buf, n+w.delta), true
			}
			if reverse {
				own = own[:len(own)-1]
			} else {
				own = own[1:]
			}
		}
		if show {
			if more, err := fn(key, value); err != nil || !more {
				return key, err
			}
		}
		if order <= 0 {
			ok = advance(it, reverse)
		}
	}
	if err := it.Error(); err != nil {
		return nil, t.db.readError(err)
	}
	return nil, nil
}

// writable counts a write and reports whether it may be done.
func (t *txn) writable(key, value []byte) bool {
	if t.err != nil {
		return false
	}
	if t.err = kv.CheckKey(key); t.err == nil {
		t.err = kv.CheckValue(value)
	}
	return t.grow(len(key) + len(value))
}

func (t *txn) grow(n int) bool {
	if t.size += n; t.size > kv.MaxTxn && t.err == nil {
		t.err = fmt.Errorf("transaction writes more than %d bytes: %w", kv.MaxTxn, syscall.E2BIG)
	}
	if t.err != nil {
		return false
	}
	if t.batch == nil {
		t.batch = t.db.p.NewBatch()
	}
	return true
}

// Put implements kv.Txn.
func (t *txn) Put(key, value []byte) {
	if t.writable(key, value) {
		t.put(key, value)
	}
}

func (t *txn) put(key, value []byte) {
	op := t.batch.SetDeferred(len(key), len(value))
	copy(op.Key, key)
	copy(op.Value, value)
	w := t.touch(t.hash(key), op.Key)
	w.kind, w.value = putWrite, op.Value
}

// Delete implements kv.Txn.
func (t *txn) Delete(key []byte) {
	if !t.writable(key, nil) {
		return
	}
	t.deletes = true
	op := t.batch.DeleteDeferred(len(key))
	copy(op.Key, key)
	w := t.touch(t.hash(key), op.Key)
	w.kind, w.value = deleteWrite, nil
}

// DeleteRange implements kv.Txn.
func (t *txn) DeleteRange(start, end []byte) {
	if len(start) == 0 {
		start = lowerBound
	}
	if end != nil && bytes.Compare(start, end) >= 0 || !t.grow(len(start)+len(end)) {
		return
	}
	t.deletes = true
	if t.deleteFew(start, end) || t.err != nil {
		return
	}
	limit := end
	if end == nil {
		limit = upperBound
	}
	op := t.batch.DeleteRangeDeferred(len(start), len(limit))
	copy(op.Key, start)
	copy(op.Value, limit)
	s := span{start: op.Key}
	if end != nil {
		s.end = op.Value
	}
	t.deleteWithin(s)
}

// fewKeys is how many keys are deleted one by one. Pebble arranges the deleted
// ranges in memory anew for the first read after each, so with thousands of them
// a read takes as long as a thousand others.
var fewKeys = 512 // tests change it

// deleteFew deletes the keys in a range one by one and reports whether it did:
// not if they are too many.
func (t *txn) deleteFew(start, end []byte) bool {
	var keys [][]byte
	t.iter.LowerBound, t.iter.UpperBound = start, end
	it, err := t.db.p.NewIter(&t.iter)
	t.iter.LowerBound, t.iter.UpperBound = nil, nil
	if err != nil {
		t.err = t.db.readError(err)
		return false
	}
	for ok := it.First(); ok && len(keys) <= fewKeys; ok = it.Next() {
		keys = append(keys, t.arena.copy(it.Key()))
	}
	if err := it.Close(); err != nil {
		t.err = t.db.readError(err)
		return false
	}
	if len(keys) > fewKeys {
		return false
	}
	// Which keys there are has been read, so nobody may add one meanwhile.
	s := span{start: t.arena.copy(start)}
	if end != nil {
		s.end = t.arena.copy(end)
	}
	t.scans = append(t.scans, s)
	for _, i := range slices.Clone(t.within(s)) {
		t.Delete(t.writes[i].key)
	}
	for _, key := range keys {
		if w := t.find(t.hash(key), key); w == nil || w.kind != deleteWrite {
			t.Delete(key)
		}
	}
	return true
}

// Add implements kv.Txn.
func (t *txn) Add(key []byte, delta int64) {
	if !t.writable(key, nil) {
		return
	}
	h := t.hash(key)
	w := t.find(h, key)
	var buf [8]byte
	switch {
	case w == nil && !t.inRange(key):
		// Nothing is known of it here; the commit works out the sum.
		w = t.touch(h, t.arena.copy(key))
		w.kind, w.delta = addWrite, delta
	case w == nil || w.kind == deleteWrite:
		t.put(key, putCounter(&buf, delta))
	case w.kind == addWrite:
		w.delta += delta
	default:
		n, err := kv.Counter(w.value)
		if err != nil {
			t.err = fmt.Errorf("add to a value that is no counter: %w", err)
			return
		}
		t.put(key, putCounter(&buf, n+delta))
	}
}

// prepareRecord lists the writes for the history, outside of its mutex.
func (t *txn) prepareRecord() { t.record.list(t, t.db.history.recordLimit()) }
