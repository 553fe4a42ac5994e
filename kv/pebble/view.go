package pebble

import (
	"bytes"
	"encoding/binary"
	"io"

	"github.com/cockroachdb/pebble/v2"

	"github.com/massif-fs/massif/kv"
)

// view is one run of a View. It implements kv.Reader.
type view struct {
	db    *DB
	snap  *snapshot // nil until the first read
	arena arena
	iter  pebble.IterOptions
}

func (v *view) release() {
	if v.snap != nil {
		v.db.snapshots.release(v.snap)
		v.snap = nil
	}
	v.arena.reset()
	v.db.views.Put(v)
}

func (v *view) snapshot() *pebble.Snapshot {
	if v.snap == nil {
		v.snap = v.db.snapshots.acquire()
	}
	return v.snap.Snapshot
}

// Get implements kv.Reader.
func (v *view) Get(key []byte) ([]byte, error) {
	if err := kv.CheckKey(key); err != nil {
		return nil, err
	}
	return v.arena.get(v.db, v.snapshot(), key)
}

// Scan implements kv.Reader.
func (v *view) Scan(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	return v.scan(start, end, false, fn)
}

// ScanReverse implements kv.Reader.
func (v *view) ScanReverse(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	return v.scan(start, end, true, fn)
}

func (v *view) scan(start, end []byte, reverse bool, fn func(key, value []byte) (bool, error)) error {
	if end != nil && bytes.Compare(start, end) >= 0 {
		return nil
	}
	v.iter.LowerBound, v.iter.UpperBound = start, end
	it, err := v.snapshot().NewIter(&v.iter)
	v.iter.LowerBound, v.iter.UpperBound = nil, nil
	if err != nil {
		return v.db.readError(err)
	}
	defer it.Close()
	_, err = scanStore(v.db, it, reverse, fn)
	return err
}

// arena holds small keys and values until the end of a transaction.
type arena struct{ buf []byte }

const (
	arenaChunk = 4 << 10
	arenaKeep  = 32 << 10 // largest chunk kept for reuse
	arenaAlone = 8 << 10  // values from here on get their own memory
)

func (a *arena) reset() {
	if cap(a.buf) > arenaKeep {
		a.buf = nil
	}
	a.buf = a.buf[:0]
}

// alloc returns n bytes. A full chunk is left to those who point into it.
func (a *arena) alloc(n int) []byte {
	if n >= arenaAlone {
		return make([]byte, n)
	}
	if n > cap(a.buf)-len(a.buf) {
		a.buf = make([]byte, 0, max(n, min(max(arenaChunk, 2*cap(a.buf)), 4*arenaKeep)))
	}
	at := len(a.buf)
	a.buf = a.buf[:at+n]
	return a.buf[at : at+n : at+n]
}

func (a *arena) copy(p []byte) []byte {
	c := a.alloc(len(p))
	copy(c, p)
	return c
}

func (a *arena) counter(n int64) []byte {
	c := a.alloc(8)
	binary.LittleEndian.PutUint64(c, uint64(n))
	return c
}

// getter is a live store or a snapshot.
type getter interface {
	Get(key []byte) (value []byte, closer io.Closer, err error)
}

// get reads key into the arena.
func (a *arena) get(db *DB, from getter, key []byte) ([]byte, error) {
	value, closer, err := from.Get(key)
	if err == pebble.ErrNotFound {
		return nil, kv.ErrNotFound
	}
	if err != nil {
		return nil, db.readError(err)
	}
	value = a.copy(value)
	if err := closer.Close(); err != nil {
		return nil, db.readError(err)
	}
	return value, nil
}
