// Package kv states the contract of an ordered, transactional key-value
// store: what the metadata engine (package meta) stands on.
//
// A driver lives in a folder named by how it keeps the keys: kv/pebble (the
// embedded default), kv/mem (tests), later kv/postgres, kv/etcd and kv/tikv.
// Every driver passes the suite in kv/kvtest.
//
// # Keys and values
//
// Keys are byte strings of 1 to [MaxKey] bytes, ordered as bytes.Compare
// orders them. Values are byte strings of 0 to [MaxValue] bytes. An empty
// value is a value: the key exists.
//
// # Transactions
//
// [DB.Update] runs a function in a serializable transaction: the outcome of
// all transactions that committed is the outcome of some order of running them
// one after the other, and a transaction that began after another's Update had
// returned comes after it in that order. Drivers may run the function several
// times (optimistic drivers do so on conflict), so it must have no effect
// outside its [Txn] that a repeat would spoil. What a run that is later
// repeated has read may be inconsistent; the function must not loop or panic on
// it, and whatever error it returned is dropped together with that run.
//
// # Durability
//
// A committed transaction is visible at once and durable once a [DB.Sync] that
// began after the commit has returned. Commits become durable in commit order:
// after a crash the store holds a prefix of the commits, never one without an
// earlier one.
package kv

import (
	"context"
	"errors"
)

const (
	// MaxKey is the length of the longest key, in bytes.
	MaxKey = 4 << 10
	// MaxValue is the length of the longest value, in bytes.
	MaxValue = 8 << 20
	// MaxTxn is the largest sum of the lengths of the keys and values that one
	// transaction writes, in bytes; above it Update returns E2BIG.
	MaxTxn = 64 << 20
)

var (
	// ErrNotFound is what Get returns for a key that does not exist.
	ErrNotFound = errors.New("key not found")
	// ErrClosed is what every call returns after Close.
	ErrClosed = errors.New("database is closed")
	// ErrConflict is what Update returns when a transaction still conflicts
	// after the driver's last retry. Nothing was written.
	ErrConflict = errors.New("transaction conflict")
	// ErrCorrupt is wrapped by errors that say the database is damaged.
	ErrCorrupt = errors.New("database is damaged")
	// ErrLocked is wrapped by the error of opening a database that another
	// process has open.
	ErrLocked = errors.New("database is in use by another process")
)

// DB is an open key-value store. All methods may be called concurrently.
//
// Errors of the medium below keep their errno, so that errors.Is(err,
// syscall.ENOSPC) works on what any method returns.
type DB interface {
	// View runs fn over an unchanging snapshot of the store. fn's error is
	// returned as it is.
	View(ctx context.Context, fn func(Reader) error) error

	// Update runs fn in a serializable transaction and commits it. If fn
	// returns an error, nothing is written and Update returns that error as it
	// is. When Update returns nil the commit is visible to every later View and
	// Update; it is durable after a later Sync. If committing fails, nothing was
	// written, except where the returned error wraps ErrUnknown.
	//
	// A done ctx ends waiting and retrying with ctx's error; it never takes back
	// a commit.
	Update(ctx context.Context, fn func(Txn) error) error

	// Sync returns when every transaction committed before it was called is on
	// stable storage. Concurrent calls share one disk flush (group commit). An
	// error means that durability is unknown; the store stays failed: every
	// later Update and Sync returns an error too, because a medium that failed
	// one flush may have dropped the data of others.
	Sync(ctx context.Context) error

	// Close syncs, releases the store and its lock, and waits for the driver's
	// goroutines. Calls still running finish first. A second Close returns
	// ErrClosed.
	Close() error
}

// ErrUnknown is wrapped by the error of a commit whose outcome cannot be told,
// such as a lost connection to a database server. The embedded drivers return it
// only for a commit during which the medium failed, after which the store
// accepts no more changes.
var ErrUnknown = errors.New("outcome of the commit is unknown")

// Reader reads one consistent state. It is valid, as are the slices it hands
// out, only until the function it was given to returns. A Reader is used by one
// goroutine at a time.
type Reader interface {
	// Get returns the value of key, or ErrNotFound itself, unwrapped. The slice must not be
	// changed and is valid until the transaction's end.
	Get(key []byte) ([]byte, error)

	// Scan calls fn with each key in [start, end) in ascending order until fn
	// returns false or an error; that error is returned. A nil or empty start
	// means the first key, a nil end no upper bound; bounds may be longer than
	// MaxKey. The slices are valid only during the call of fn, which may read
	// but must not change them. fn must not write through the same
	// transaction.
	Scan(start, end []byte, fn func(key, value []byte) (more bool, err error)) error

	// ScanReverse is Scan in descending order.
	ScanReverse(start, end []byte, fn func(key, value []byte) (more bool, err error)) error
}

// Txn reads and writes within one transaction. Reads see the transaction's own
// writes. Key and value slices given to it may be reused by the caller as soon as
// a method returns. Errors of the driver (a closed database, a bad key length) are
// returned by the Update that runs the transaction, so the write methods have none.
type Txn interface {
	Reader

	// Put sets key to value.
	Put(key, value []byte)
	// Delete removes key; removing an absent key is no error.
	Delete(key []byte)
	// DeleteRange removes every key in [start, end); a nil end means no upper
	// bound.
	DeleteRange(start, end []byte)
	// Add adds delta to the counter at key, an absent one counting as 0. It
	// reads nothing, so transactions that only Add to one key do not conflict.
	// A counter's value is read with Get and decoded with Counter. A key is
	// either a counter or a plain value: mixing Put and Add on one key is an
	// error of the caller (Put of a value made by CounterValue excepted).
	Add(key []byte, delta int64)
}
