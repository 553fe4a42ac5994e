package pebble

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"

	"github.com/massif-fs/massif/kv"
)

// DB is an open database. It implements kv.DB.
type DB struct {
	dir     string
	options Options
	p       *pebble.DB
	lock    *pebble.Lock
	disk    *disk

	calls    calls
	failed   atomic.Pointer[failure]
	down     chan struct{} // closed on the first failure
	poisoned atomic.Bool   // the engine panicked in a commit

	seed      maphash.Seed
	history   *history
	counters  counterCache // guarded by history.mu
	ranges    int          // deleted since the last flush for their sake; guarded by history.mu
	snapshots snapshots
	turns     turnstile
	pressure  pressure
	sync      syncer

	txns  sync.Pool // *txn
	views sync.Pool // *view

	conflicts atomic.Uint64
	syncs     atomic.Uint64
}

var _ kv.DB = (*DB)(nil)

// failure is the error that ended writing.
type failure struct{ err error }

func newDB(dir string, o Options) *DB {
	db := &DB{dir: dir, options: o, down: make(chan struct{}), seed: maphash.MakeSeed()}
	db.disk = newDisk(o.FS, dir, db.fail)
	db.calls.drained = make(chan struct{})
	db.snapshots.db = db
	db.turns.sem = make(chan struct{}, 1)
	db.pressure.init(db)
	db.sync.init(db)
	db.txns.New = func() any { return &txn{db: db} }
	db.views.New = func() any { return &view{db: db} }
	return db
}

// View implements kv.DB. The snapshot is taken at the first read.
func (db *DB) View(ctx context.Context, fn func(kv.Reader) error) error {
	if !db.calls.enter() {
		return kv.ErrClosed
	}
	defer db.calls.leave()
	if err := ctx.Err(); err != nil {
		return err
	}
	v := db.views.Get().(*view)
	defer v.release()
	return fn(v)
}

// Update implements kv.DB.
func (db *DB) Update(ctx context.Context, fn func(kv.Txn) error) error {
	if !db.calls.enter() {
		return kv.ErrClosed
	}
	defer db.calls.leave()
	if err := ctx.Err(); err != nil {
		return err
	}
	if db.options.ReadOnly {
		return fmt.Errorf("update database %s, opened read-only: %w", db.dir, syscall.EROFS)
	}
	t := db.txns.Get().(*txn)
	defer t.release()
	for attempt := 0; ; attempt++ {
		if err := db.failure(); err != nil {
			return err
		}
		t.begin()
		err := db.commit(ctx, t, fn(t))
		if err != errConflict {
			return err
		}
		db.conflicts.Add(1)
		if err := db.turns.wait(ctx, t, attempt); err != nil {
			return err
		}
	}
}

// commit ends one run of a transaction whose function returned fnErr. It
// returns errConflict if the run must be repeated.
func (db *DB) commit(ctx context.Context, t *txn, fnErr error) error {
	if fnErr == nil {
		fnErr = t.err
	}
	if fnErr != nil || !t.wrote() {
		if db.history.begun.Load() == t.began {
			return fnErr // no commit since the run began, not even one under way
		}
		db.history.mu.Lock()
		ok := db.history.valid(t)
		db.history.mu.Unlock()
		if !ok {
			return errConflict
		}
		return fnErr
	}

	if err := db.pressure.admit(ctx, t); err != nil {
		return err
	}
	if err := db.turns.yield(ctx, t); err != nil {
		return err
	}
	t.prepareRecord()
	if err := t.readCounters(); err != nil {
		return err
	}

	flush, err := db.apply(t)
	db.snapshots.drop()
	if flush {
		if _, err := db.p.AsyncFlush(); err != nil {
			db.options.Logger.Warn("metadata database: flush", "path", db.dir, "error", err)
		}
	}
	return err
}

// apply checks what t read and applies what it wrote. flush is true if too many
// deleted ranges are in memory.
func (db *DB) apply(t *txn) (flush bool, err error) {
	h := db.history
	h.mu.Lock()
	defer func() {
		if r := recover(); r != nil {
			// Pebble panics with locks held. Nobody may wait for them from now on.
			db.poisoned.Store(true)
			db.fail("commit", fmt.Errorf("panic in the storage engine: %v", r))
			flush, err = false, fmt.Errorf("commit to database %s: %w: %w", db.dir, kv.ErrUnknown, db.failure())
		}
		h.mu.Unlock()
	}()
	if err := db.failure(); err != nil {
		return false, err
	}
	if !h.valid(t) {
		return false, errConflict
	}
	err = t.writeCounters()
	if err == nil {
		seq := h.begin()
		err = db.p.Apply(t.batch, pebble.NoSync)
		h.end(t, seq)
		db.pressure.written(t.size)
		if db.ranges += len(t.ranges); db.ranges >= maxRanges {
			db.ranges, flush = 0, true
		}
		// An engine that could not apply the batch has reported why on the way.
		if failed := db.failure(); failed != nil {
			err = fmt.Errorf("%w: %w", kv.ErrUnknown, failed)
		}
	}
	if err != nil {
		db.counters = counterCache{} // may be ahead of the store
		return false, fmt.Errorf("commit to database %s: %w", db.dir, err)
	}
	return flush, nil
}

// maxRanges is how many deleted ranges are kept in memory: see fewKeys.
const maxRanges = 200

// fail keeps the first failure to write, after which nothing is written.
func (db *DB) fail(operation string, err error) {
	f := &failure{fmt.Errorf("database %s no longer accepts changes until it is reopened: %s: %w", db.dir, operation, err)}
	db.disk.dead.Store(true)
	if db.failed.CompareAndSwap(nil, f) {
		close(db.down)
		db.options.Logger.Error("metadata database failed", "path", db.dir, "operation", operation, "error", err)
	}
}

func (db *DB) failure() error {
	if f := db.failed.Load(); f != nil {
		return f.err
	}
	return nil
}

// readError translates an error of reading. Writing goes on: one damaged file
// says nothing about the others.
func (db *DB) readError(err error) error {
	if pebble.IsCorruptionError(err) {
		return fmt.Errorf("read database %s: %w: %w", db.dir, kv.ErrCorrupt, err)
	}
	return fmt.Errorf("read database %s: %w", db.dir, err)
}

// Close implements kv.DB.
func (db *DB) Close() error {
	if !db.calls.close() {
		return kv.ErrClosed
	}
	<-db.calls.drained
	db.sync.stop()
	var err error
	if !db.options.ReadOnly {
		err = db.sync.flush()
	}
	db.disk.close()
	if db.poisoned.Load() {
		// The engine cannot be closed. It can change nothing any more either (disk).
		return errors.Join(err, db.disk.lock.Close())
	}
	db.snapshots.close()
	cerr := db.p.Close()
	if err == nil && cerr != nil {
		err = fmt.Errorf("close database %s: %w", db.dir, cerr)
	}
	return errors.Join(err, db.lock.Close())
}

// calls counts the calls that are running, so that Close can wait for them.
type calls struct {
	state   atomic.Int64 // number of calls, plus closing
	once    sync.Once
	drained chan struct{}
}

const closing = int64(1) << 62

func (c *calls) enter() bool {
	if c.state.Add(1) >= closing {
		c.leave()
		return false
	}
	return true
}

func (c *calls) leave() {
	if c.state.Add(-1) == closing {
		c.once.Do(func() { close(c.drained) })
	}
}

// close lets no call enter any more; it reports whether it was the first to.
func (c *calls) close() bool {
	old := c.state.Or(closing)
	if old >= closing {
		return false
	}
	if old == 0 {
		c.once.Do(func() { close(c.drained) })
	}
	return true
}
