package pebble

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/massif-fs/massif/kv"
)

// Metrics is a snapshot of the state of a database. Byte counts are current,
// counts of events are since Open.
type Metrics struct {
	DiskBytes     uint64 `json:"diskBytes"`     // all files of the directory that the engine knows
	LogBytes      uint64 `json:"logBytes"`      // of these, write-ahead logs
	CacheBytes    int64  `json:"cacheBytes"`    // memory for blocks of files
	MemTableBytes uint64 `json:"memTableBytes"` // memory for tables not yet written out
	CacheHits     int64  `json:"cacheHits"`
	CacheMisses   int64  `json:"cacheMisses"`
	Flushes       int64  `json:"flushes"` // of tables in memory to files
	Compactions   int64  `json:"compactions"`
	DebtBytes     uint64 `json:"debtBytes"`     // estimated bytes that wait to be merged
	ReadAmp       int    `json:"readAmp"`       // sorted runs a read may have to look at
	WrittenBytes  uint64 `json:"writtenBytes"`  // to files by flushes and merges
	LogWritten    uint64 `json:"logWritten"`    // to logs
	Commits       uint64 `json:"commits"`       // transactions that wrote
	Conflicts     uint64 `json:"conflicts"`     // runs that had to be repeated
	LogFlushes    uint64 `json:"logFlushes"`    // by Sync; several callers share one
	Full          bool   `json:"full"`          // changes are refused for want of space
	Failed        string `json:"failed"`        // why writing has ended; empty if it has not
	OpenSnapshots int    `json:"openSnapshots"` // Views running
}

// Metrics returns the state of the database; zero once it is closed.
func (db *DB) Metrics() Metrics {
	if !db.calls.enter() {
		return Metrics{}
	}
	defer db.calls.leave()
	m := db.p.Metrics()
	total := m.Total()
	out := Metrics{
		DiskBytes:     m.DiskSpaceUsage(),
		LogBytes:      m.WAL.PhysicalSize,
		CacheBytes:    m.BlockCache.Size,
		MemTableBytes: m.MemTable.Size + m.MemTable.ZombieSize,
		CacheHits:     m.BlockCache.Hits,
		CacheMisses:   m.BlockCache.Misses,
		Flushes:       m.Flush.Count,
		Compactions:   m.Compact.Count,
		DebtBytes:     m.Compact.EstimatedDebt,
		ReadAmp:       m.ReadAmp(),
		WrittenBytes:  total.TableBytesFlushed + total.TableBytesCompacted,
		LogWritten:    m.WAL.BytesWritten,
		Commits:       db.history.ended.Load(),
		Conflicts:     db.conflicts.Load(),
		LogFlushes:    db.syncs.Load(),
		Full:          db.pressure.low.Load() != spaceFine,
		OpenSnapshots: m.Snapshots.Count,
	}
	if err := db.failure(); err != nil {
		out.Failed = err.Error()
	}
	return out
}

// Checkpoint writes a copy of the database as of now into directory dir, which
// must not exist, for a backup. Files are hard-linked where possible, so the
// copy costs little if dir is on the same file system. It can be opened with Open.
func (db *DB) Checkpoint(dir string) error {
	if !db.calls.enter() {
		return kv.ErrClosed
	}
	defer db.calls.leave()
	if err := db.failure(); err != nil {
		return err
	}
	// The copy of the log ends where the log on disk ends, so it is flushed.
	if err := db.p.Checkpoint(dir, pebble.WithFlushedWAL()); err != nil {
		return fmt.Errorf("copy database %s to %s: %w", db.dir, dir, err)
	}
	return nil
}
