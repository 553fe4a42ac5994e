// Package faulty wraps a kv.DB so that it fails, stalls or stops where a test
// wants it to: for engines that stand on kv.DB, to see that they pass errors on,
// keep their own state right, and survive a crash at any point.
//
//	db := faulty.New(mem.New(), seed)
//	db.Fail(faulty.Commit, faulty.Nth(3), syscall.EIO)  // the third commit fails
//	db.Fail(faulty.Get, faulty.Chance(0.01), syscall.EIO)
//	db.Delay(faulty.Sync, faulty.Always, time.Millisecond)
//	db.Repeat(faulty.Chance(0.5))                       // as if transactions conflicted
//	db.Hook(func(p faulty.Point) { … })                 // crash points
//
// Rules may be added while the database is used. With one goroutine and the
// same seed the same operations fail.
package faulty

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/massif-fs/massif/kv"
)

// Operation is where a fault can be injected.
type Operation int

const (
	// Get is a point read.
	Get Operation = iota
	// Scan is the start of a scan in either direction.
	Scan
	// Next is each key a scan shows.
	Next
	// Begin is the start of a View or an Update.
	Begin
	// Commit is the end of an Update whose function succeeded: with a fault,
	// nothing is written.
	Commit
	// Sync is the flush: with a fault it does not happen.
	Sync
	operations
)

func (o Operation) String() string {
	return [...]string{"get", "scan", "next", "begin", "commit", "sync"}[o]
}

// Point is a place where a crash makes a difference.
type Point int

const (
	// BeforeCommit is reached when an Update's function has succeeded.
	BeforeCommit Point = iota
	// AfterCommit is reached when the commit is visible, before Update returns.
	AfterCommit
	// BeforeSync is reached when Sync is called.
	BeforeSync
	// AfterSync is reached when the commits are durable, before Sync returns.
	AfterSync
)

func (p Point) String() string {
	return [...]string{"before commit", "after commit", "before sync", "after sync"}[p]
}

// When says at which of the calls of an operation a rule applies; n is the
// number of the call, from 1, counted from when the rule was made. It runs with
// a lock held and must not use the database.
type When func(n int, rng *rand.Rand) bool

// Always is at each call.
func Always(int, *rand.Rand) bool { return true }

// Nth is at call number n only.
func Nth(n int) When { return func(i int, _ *rand.Rand) bool { return i == n } }

// From is at call number n and all after it.
func From(n int) When { return func(i int, _ *rand.Rand) bool { return i >= n } }

// Every is at each n-th call.
func Every(n int) When { return func(i int, _ *rand.Rand) bool { return i%n == 0 } }

// Chance is at random calls, with probability p.
func Chance(p float64) When {
	return func(_ int, rng *rand.Rand) bool { return rng.Float64() < p }
}

// DB is a kv.DB with faults.
type DB struct {
	inner kv.DB

	mu     sync.Mutex
	rng    *rand.Rand
	rules  [operations][]*rule
	repeat []*rule
	hook   func(Point)
	calls  [operations]int
	faults int
}

type rule struct {
	when  When
	n     int
	err   error
	delay time.Duration
}

var _ kv.DB = (*DB)(nil)

// New wraps inner, without faults as yet. Close closes inner.
func New(inner kv.DB, seed uint64) *DB {
	return &DB{inner: inner, rng: rand.New(rand.NewPCG(seed, 0))}
}

// Fail lets operation o fail with err, wrapped with the name of the operation.
func (db *DB) Fail(o Operation, when When, err error) {
	db.add(o, &rule{when: when, err: err})
}

// Delay lets operation o take d longer.
func (db *DB) Delay(o Operation, when When, d time.Duration) {
	db.add(o, &rule{when: when, delay: d})
}

func (db *DB) add(o Operation, r *rule) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.rules[o] = append(db.rules[o], r)
}

// Repeat runs the functions of Updates once more than needed and drops the
// first run, as drivers do on conflict: to find functions that do not bear it.
func (db *DB) Repeat(when When) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.repeat = append(db.repeat, &rule{when: when})
}

// Hook calls fn at each crash point, on the goroutine that reached it. fn may
// take the state a crash would leave (see kv/mem's Crash), or panic or block to
// make the caller never learn the outcome. There is one hook; nil removes it.
func (db *DB) Hook(fn func(Point)) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.hook = fn
}

// Clear removes all rules and the hook.
func (db *DB) Clear() {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.rules, db.repeat, db.hook = [operations][]*rule{}, nil, nil
}

// Calls returns how often operation o was called.
func (db *DB) Calls(o Operation) int {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.calls[o]
}

// Faults returns how many errors were injected.
func (db *DB) Faults() int {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.faults
}

// inject applies the rules for o.
func (db *DB) inject(ctx context.Context, o Operation) error {
	db.mu.Lock()
	db.calls[o]++
	var delay time.Duration
	var err error
	for _, r := range db.rules[o] {
		if r.n++; r.when(r.n, db.rng) {
			delay += r.delay
			if err == nil && r.err != nil {
				err = fmt.Errorf("injected %s fault: %w", o, r.err)
				db.faults++
			}
		}
	}
	db.mu.Unlock()
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (db *DB) reached(p Point) {
	db.mu.Lock()
	hook := db.hook
	db.mu.Unlock()
	if hook != nil {
		hook(p)
	}
}

func (db *DB) repeats() bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	again := false
	for _, r := range db.repeat {
		r.n++
		again = r.when(r.n, db.rng) || again
	}
	return again
}

// View implements kv.DB.
func (db *DB) View(ctx context.Context, fn func(kv.Reader) error) error {
	if err := db.inject(ctx, Begin); err != nil {
		return err
	}
	return db.inner.View(ctx, func(r kv.Reader) error { return fn(&reader{db, ctx, r}) })
}

var errRepeat = errors.New("dropped run")

// Update implements kv.DB.
func (db *DB) Update(ctx context.Context, fn func(kv.Txn) error) error {
	if err := db.inject(ctx, Begin); err != nil {
		return err
	}
	if db.repeats() {
		ran := false
		err := db.inner.Update(ctx, func(tx kv.Txn) error {
			ran = true
			_ = fn(&txn{reader{db, ctx, tx}, tx}) // a dropped run's error is dropped with it
			return errRepeat
		})
		if !ran || !errors.Is(err, errRepeat) {
			return err
		}
	}
	err := db.inner.Update(ctx, func(tx kv.Txn) error {
		if err := fn(&txn{reader{db, ctx, tx}, tx}); err != nil {
			return err
		}
		if err := db.inject(ctx, Commit); err != nil {
			return err
		}
		db.reached(BeforeCommit)
		return nil
	})
	if err == nil {
		db.reached(AfterCommit)
	}
	return err
}

// Sync implements kv.DB.
func (db *DB) Sync(ctx context.Context) error {
	db.reached(BeforeSync)
	if err := db.inject(ctx, Sync); err != nil {
		return err
	}
	err := db.inner.Sync(ctx)
	if err == nil {
		db.reached(AfterSync)
	}
	return err
}

// Close implements kv.DB.
func (db *DB) Close() error { return db.inner.Close() }

// reader implements kv.Reader.
type reader struct {
	db    *DB
	ctx   context.Context
	inner kv.Reader
}

func (r *reader) Get(key []byte) ([]byte, error) {
	if err := r.db.inject(r.ctx, Get); err != nil {
		return nil, err
	}
	return r.inner.Get(key)
}

func (r *reader) Scan(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	return r.scan(r.inner.Scan, start, end, fn)
}

func (r *reader) ScanReverse(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	return r.scan(r.inner.ScanReverse, start, end, fn)
}

type visit = func(key, value []byte) (bool, error)

func (r *reader) scan(scan func(start, end []byte, fn visit) error, start, end []byte, fn visit) error {
	if err := r.db.inject(r.ctx, Scan); err != nil {
		return err
	}
	return scan(start, end, func(key, value []byte) (bool, error) {
		if err := r.db.inject(r.ctx, Next); err != nil {
			return false, err
		}
		return fn(key, value)
	})
}

// txn implements kv.Txn.
type txn struct {
	reader
	tx kv.Txn
}

func (t *txn) Put(key, value []byte)         { t.tx.Put(key, value) }
func (t *txn) Delete(key []byte)             { t.tx.Delete(key) }
func (t *txn) DeleteRange(start, end []byte) { t.tx.DeleteRange(start, end) }
func (t *txn) Add(key []byte, delta int64)   { t.tx.Add(key, delta) }
