// Package mem keeps a kv.DB in memory, for tests and as the plainest example of
// the contract.
//
// The keys are in a copy-on-write B-tree. A View reads the tree as it was when
// it began; an Update changes a copy and puts it in place, one Update at a time.
// Sync remembers the tree, and Crash and CrashAt give the database as it would
// come back after a crash: what Sync remembered, and perhaps some of the commits
// after it.
package mem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/tidwall/btree"

	"github.com/massif-fs/massif/kv"
)

// DB is a database in memory. It implements kv.DB.
type DB struct {
	writer chan struct{} // one token: held by the running Update

	mu       sync.Mutex
	tree     *tree
	synced   *tree
	unsynced []*tree // after each commit since the last Sync, if history is kept
	keep     bool
	closed   bool
	calls    sync.WaitGroup

	commits, syncs atomic.Uint64
}

var _ kv.DB = (*DB)(nil)

type tree = btree.BTreeG[item]

type item struct{ key, value []byte }

func newTree() *tree {
	return btree.NewBTreeGOptions(func(a, b item) bool { return bytes.Compare(a.key, b.key) < 0 },
		btree.Options{NoLocks: true, Degree: 16})
}

// New returns an empty database.
func New() *DB { return from(newTree(), false) }

// NewWithHistory returns an empty database that keeps each state since the last
// Sync, which CrashAt needs. It uses memory for each commit.
func NewWithHistory() *DB { return from(newTree(), true) }

func from(t *tree, keep bool) *DB {
	return &DB{writer: make(chan struct{}, 1), tree: t, synced: t.Copy(), keep: keep}
}

// Unsynced returns the number of commits since the last Sync; it is 0 unless
// the database keeps history.
func (db *DB) Unsynced() int {
	db.mu.Lock()
	defer db.mu.Unlock()
	return len(db.unsynced)
}

// Crash returns what a crash now would leave at least: a new database with
// exactly what has been synced. db stays as it is.
func (db *DB) Crash() *DB { return db.CrashAt(0) }

// CrashAt returns a new database with what has been synced and the first extra
// commits after that, at most all. Only 0 is of use unless db keeps history.
func (db *DB) CrashAt(extra int) *DB {
	db.mu.Lock()
	defer db.mu.Unlock()
	t := db.synced
	if extra = min(extra, len(db.unsynced)); extra > 0 {
		t = db.unsynced[extra-1]
	}
	return from(t.Copy(), db.keep)
}

func (db *DB) enter() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return kv.ErrClosed
	}
	db.calls.Add(1)
	return nil
}

// View implements kv.DB.
func (db *DB) View(ctx context.Context, fn func(kv.Reader) error) error {
	if err := db.enter(); err != nil {
		return err
	}
	defer db.calls.Done()
	if err := ctx.Err(); err != nil {
		return err
	}
	db.mu.Lock()
	t := db.tree.Copy()
	db.mu.Unlock()
	return fn(&reader{t})
}

// Update implements kv.DB. It runs fn once.
func (db *DB) Update(ctx context.Context, fn func(kv.Txn) error) error {
	if err := db.enter(); err != nil {
		return err
	}
	defer db.calls.Done()
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case db.writer <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-db.writer }()

	db.mu.Lock()
	t := &txn{reader: reader{db.tree.Copy()}}
	db.mu.Unlock()
	if err := fn(t); err != nil {
		return err
	}
	if t.err != nil {
		return t.err
	}
	if !t.wrote {
		return nil
	}
	db.commits.Add(1)
	db.mu.Lock()
	defer db.mu.Unlock()
	db.tree = t.tree
	if db.keep {
		db.unsynced = append(db.unsynced, t.tree.Copy())
	}
	return nil
}

// Sync implements kv.DB.
func (db *DB) Sync(ctx context.Context) error {
	if err := db.enter(); err != nil {
		return err
	}
	defer db.calls.Done()
	if err := ctx.Err(); err != nil {
		return err
	}
	db.syncs.Add(1)
	db.mu.Lock()
	defer db.mu.Unlock()
	db.synced = db.tree.Copy()
	db.unsynced = nil
	return nil
}

// Close implements kv.DB. What was in the database can still be had with Crash.
func (db *DB) Close() error {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		return kv.ErrClosed
	}
	db.closed = true
	db.mu.Unlock()
	db.calls.Wait()
	db.mu.Lock()
	defer db.mu.Unlock()
	db.synced = db.tree.Copy()
	db.unsynced = nil
	return nil
}

// reader implements kv.Reader on a tree of its own.
type reader struct{ tree *tree }

func (r *reader) Get(key []byte) ([]byte, error) {
	if err := kv.CheckKey(key); err != nil {
		return nil, err
	}
	i, ok := r.tree.Get(item{key: key})
	if !ok {
		return nil, kv.ErrNotFound
	}
	return i.value, nil
}

func (r *reader) Scan(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	var err error
	r.tree.Ascend(item{key: start}, func(i item) bool {
		if end != nil && bytes.Compare(i.key, end) >= 0 {
			return false
		}
		var more bool
		more, err = fn(i.key, i.value)
		return more && err == nil
	})
	return err
}

func (r *reader) ScanReverse(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	var err error
	visit := func(i item) bool {
		if end != nil && bytes.Compare(i.key, end) >= 0 {
			return true // the pivot is inclusive, end is not
		}
		if bytes.Compare(i.key, start) < 0 {
			return false
		}
		var more bool
		more, err = fn(i.key, i.value)
		return more && err == nil
	}
	if end == nil {
		r.tree.Reverse(visit)
	} else {
		r.tree.Descend(item{key: end}, visit)
	}
	return err
}

// txn implements kv.Txn on a tree of its own.
type txn struct {
	reader
	size  int
	wrote bool
	err   error
}

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
	t.wrote = true
	if t.size += n; t.size > kv.MaxTxn && t.err == nil {
		t.err = fmt.Errorf("transaction writes more than %d bytes: %w", kv.MaxTxn, syscall.E2BIG)
	}
	return t.err == nil
}

func (t *txn) Put(key, value []byte) {
	if t.writable(key, value) {
		t.tree.Set(item{bytes.Clone(key), append([]byte{}, value...)})
	}
}

func (t *txn) Delete(key []byte) {
	if t.writable(key, nil) {
		t.tree.Delete(item{key: key})
	}
}

func (t *txn) DeleteRange(start, end []byte) {
	if !t.grow(len(start) + len(end)) {
		return
	}
	var keys [][]byte
	err := t.Scan(start, end, func(key, _ []byte) (bool, error) {
		keys = append(keys, key)
		return true, nil
	})
	if err != nil {
		t.err = err
	}
	for _, key := range keys {
		t.tree.Delete(item{key: key})
	}
}

func (t *txn) Add(key []byte, delta int64) {
	if !t.writable(key, nil) {
		return
	}
	var n int64
	base, err := t.Get(key)
	if err == nil {
		n, err = kv.Counter(base)
	}
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		t.err = fmt.Errorf("add to counter: %w", err)
		return
	}
	t.tree.Set(item{bytes.Clone(key), kv.CounterValue(n + delta)})
}
