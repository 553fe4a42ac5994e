// Package pebble keeps a kv.DB in a local directory, on cockroachdb/pebble: the
// embedded default.
//
// Pebble is a log-structured merge tree. A commit is appended to a write-ahead
// log and inserted into a table in memory; full tables are written out as
// sorted files, which are merged in the background. It offers atomic batches
// and snapshots but no transactions: those are this package's.
//
// # Transactions
//
// Transactions are optimistic. A run of the function reads the live store,
// notes what it read (hashes of keys, spans of scans) and collects its writes
// in a batch that its own reads look through. At the commit, under one mutex,
// the driver checks that nothing of what was read has been written since the
// run began: point reads against a table of the last commit for each key hash,
// scans against a ring of the keys of recent commits (history.go). If so, the
// batch is applied, else the run is dropped and repeated. Because the check
// comes last and covers all reads, whatever the function returned was computed
// from the state the transaction commits on; a run that only reads or that
// fails is checked as well, so that no error from an inconsistent view gets out.
//
// A transaction that keeps losing gets the turn: other commits wait for it, for
// a bounded time (conflict.go).
//
// # Durability
//
// Commits go to the log without waiting for the disk. Sync flushes the log once
// for all callers that came while the previous flush was running (sync.go). The log is replayed up to its first incomplete
// record, so after a crash the store holds a prefix of the commits.
//
// # Failure
//
// Pebble ends the process, or corrupts its own locks, when its log or its
// manifest cannot be written. This package stands between it and the file
// system (disk.go): the first such failure is kept, nothing is written to the
// directory any more, and every later Update and Sync returns it with its
// errno. Reads go on. After the cause is gone, the database is reopened.
//
// A disk that fills up is met earlier: below a reserve of free space commits
// are refused with ENOSPC and admitted again when there is space (pressure.go).
package pebble

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/massif-fs/massif/kv"
)

// Options configure Open. The zero value is good for a volume of any size.
type Options struct {
	// CacheBytes bounds the memory for blocks of sorted files; 0 means 64 MiB.
	CacheBytes int64
	// MemTableBytes is the size of one table in memory; 0 means 16 MiB. Up to
	// three of them exist at a time, besides CacheBytes.
	MemTableBytes int64
	// ReserveBytes is the free space of the file system below which commits
	// are refused with ENOSPC; 0 means four times MemTableBytes, negative means
	// none. It is never more than a twentieth of the file system. Transactions that delete something are admitted down to a quarter of
	// it, so that a full volume can be emptied.
	ReserveBytes int64
	// ReadOnly opens an existing database without changing it.
	ReadOnly bool
	// FS replaces the operating system's file system, in tests.
	FS vfs.FS
	// Logger gets what the storage engine reports; nil means slog.Default().
	Logger *slog.Logger
}

const (
	maxMemTables = 3  // tables in memory, the one being filled included
	maxSublevels = 24 // of level 0, above which commits wait for merging
	maxOpenFiles = 512
)

// Open opens the database in directory dir and creates it if it is not there
// (except with Options.ReadOnly). The error wraps kv.ErrLocked if another
// process, or this one, has it open, and kv.ErrCorrupt if it is damaged.
func Open(dir string, options Options) (*DB, error) {
	o := options
	if o.CacheBytes <= 0 {
		o.CacheBytes = 64 << 20
	}
	if o.MemTableBytes <= 0 {
		o.MemTableBytes = 16 << 20
	}
	// Pebble addresses a table with 32 bits and wants room for its largest entry.
	o.MemTableBytes = min(max(o.MemTableBytes, 64<<10), 1<<30)
	if o.ReserveBytes == 0 {
		o.ReserveBytes = 4 * o.MemTableBytes
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}

	if o.ReadOnly {
		if _, err := o.FS.Stat(dir); err != nil {
			return nil, fmt.Errorf("open database %s: %w", dir, cause(err))
		}
	} else if err := o.FS.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create database directory %s: %w", dir, cause(err))
	}
	db := newDB(dir, o)
	lock, err := pebble.LockDirectory(dir, db.disk)
	if err != nil {
		if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) || strings.Contains(err.Error(), "lock held") {
			return nil, fmt.Errorf("open database %s: %w", dir, kv.ErrLocked)
		}
		return nil, fmt.Errorf("lock database %s: %w", dir, cause(err))
	}

	if err := db.checkPresence(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	p, err := openEngine(dir, engineOptions(db, lock))
	if err != nil {
		return nil, errors.Join(db.openError(err), lock.Close())
	}
	// Made only now, for Pebble does not let go of all that it was given when it
	// fails to open.
	db.p, db.lock, db.history = p, lock, new(history)
	db.disk.armed.Store(true)
	db.pressure.refresh()
	db.sync.start()
	return db, nil
}

// engineOptions translates o for Pebble.
func engineOptions(db *DB, lock *pebble.Lock) *pebble.Options {
	o := db.options
	po := &pebble.Options{
		// Tables in memory are charged to the cache, so it gets their room too.
		CacheSize:          o.CacheBytes + (maxMemTables+1)*o.MemTableBytes,
		MemTableSize:       uint64(o.MemTableBytes),
		FormatMajorVersion: pebble.FormatValueSeparation,
		FS:                 db.disk,
		Lock:               lock,
		Logger:             engineLogger{db},
		EventListener:      db.events(),
		Merger:             counterMerger,
		ReadOnly:           o.ReadOnly,
		MaxOpenFiles:       maxOpenFiles,
		// Pebble's own write stalls block while holding the commit lock, deaf to
		// contexts and to a full disk. pressure.go waits in their place.
		MemTableStopWritesThreshold: 1 << 20,
		L0StopWritesThreshold:       1 << 20,
		L0CompactionThreshold:       4,
		LBaseMaxBytes:               64 << 20,
		BytesPerSync:                512 << 10,
		WALBytesPerSync:             512 << 10,
		CompactionConcurrencyRange: func() (int, int) {
			return 1, max(1, min(4, runtime.GOMAXPROCS(0)/2))
		},
	}
	po.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionFastest })
	for i := range po.Levels {
		po.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		po.Levels[i].BlockSize = 8 << 10
		po.Levels[i].IndexBlockSize = 64 << 10
	}
	return po
}

// openEngine opens Pebble and turns a panic on unreadable content into an error.
func openEngine(dir string, po *pebble.Options) (p *pebble.DB, err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case error:
			p, err = nil, r
			if errno := syscall.Errno(0); !errors.As(r, &errno) {
				err = fmt.Errorf("%w: %w", kv.ErrCorrupt, r)
			}
		default:
			p, err = nil, fmt.Errorf("%w: %v", kv.ErrCorrupt, r)
		}
	}()
	return pebble.Open(dir, po)
}

// checkPresence refuses a directory that holds data but not the marker which
// names the manifest: Pebble would take it for a new database and delete the rest.
func (db *DB) checkPresence() error {
	names, err := db.options.FS.List(db.dir)
	if err != nil {
		return fmt.Errorf("open database %s: %w", db.dir, cause(err))
	}
	data, marker := "", false
	for _, name := range names {
		switch {
		case strings.HasPrefix(name, "marker.manifest."):
			marker = true
		case fileKind(name) == walKind || fileKind(name) == tableKind:
			data = name
		}
	}
	if marker {
		return nil
	}
	if data != "" {
		return fmt.Errorf("open database %s: %w: there is data (%s) but no manifest", db.dir, kv.ErrCorrupt, data)
	}
	if db.options.ReadOnly {
		return fmt.Errorf("open database %s: no database there: %w", db.dir, fs.ErrNotExist)
	}
	return nil
}

// openError says what kept the database from opening: an error of the system, a
// format this program does not know, or else something about the content that
// Pebble does not accept. The directory is there, so that a file is missing is
// of the last kind.
func (db *DB) openError(err error) error {
	errno := syscall.Errno(0)
	system := errors.As(err, &errno) && errno != syscall.ENOENT
	if system || strings.Contains(err.Error(), "unknown format") || errors.Is(err, kv.ErrCorrupt) {
		return fmt.Errorf("open database %s: %w", db.dir, err)
	}
	return fmt.Errorf("open database %s: %w: %w", db.dir, kv.ErrCorrupt, err)
}

// cause strips the operation and path that fs errors carry, for messages that
// name both already.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
