// Package volume is the tree of a volume: it joins the metadata engine
// (package meta) and the block engine (package block) to a vfs.FS.
//
// # Where data is
//
// What is written lies in memory first, as dirty segments of its node (one node
// per file in use), within the dirty share of the memory budget. A flush makes
// blocks of it, puts them into the object store, and then commits the extents
// in one transaction; so metadata never points at data that is not durable.
// Files up to the volume's inline limit go into the metadata instead, and the
// pieces of many files that are flushed together share blocks (packs).
//
// Flushes happen on Sync, when the volume's FlushInterval has passed, when full
// chunks have gathered, and when the dirty share fills up. A failed flush leaves
// the data dirty: it is reported to the next Sync, Flush or WriteAt of the file
// and tried again.
//
// What is different on volumes that other mounts change at the same time stands in
// shared.go.
//
// # Locks
//
// Three, taken in this order: node.flushMu (one flush or change of layout of a
// file at a time; held during I/O), node.mu (the node's state; held during copies
// in memory and calls of the metadata engine that change this file, never during
// block I/O), shard.mu and FS.dirtyMu (tables; held for moments).
package volume

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// Config is what a volume's tree is made of.
type Config struct {
	Session meta.Session // closed by FS.Close
	Blocks  *block.Store // not closed
	Budget  *cache.Budget

	// Maintainer, if not nil, makes this FS look after the volume: delete blocks
	// that nothing points to, expire history, compact fragmented chunks.
	Maintainer meta.Maintainer

	// Pending, if not nil, keeps what little an fsync flushes until this FS has
	// moved it to the store. Blocks must know it, too (block.Config.Pending).
	Pending meta.Pending

	// Exclusive says that no other client changes the volume while this FS is
	// open, so that doors and this FS may cache without asking.
	Exclusive bool
	ReadOnly  bool
	// NoAtime leaves access times alone; else they are kept as relatime does.
	NoAtime bool

	// Refer, if not nil, is told to which blocks a chunk points whenever the
	// metadata has said so, before any of them is read: for an object store that
	// must know for which file a block is asked (blockgate.Client.Refer).
	Refer func(ino vfs.Ino, chunk uint32, ids ...block.ID)

	// DirtyLimit is the memory for data that is not flushed yet, in bytes; 0:
	// a third of the budget, at most 96 MiB.
	DirtyLimit int64
	// FlushInterval is how long data stays dirty at the most while the store
	// works; 0: 2 s.
	FlushInterval time.Duration
	// SettleAfter is how long what an fsync flushed stays pending at the least; 0:
	// 1 s.
	SettleAfter time.Duration
	// StallTimeout is how long a write waits for memory while nothing can be
	// flushed, before it fails with the store's error; 0: 60 s.
	StallTimeout time.Duration

	// Space, if not nil, tells how many bytes the object store has in all and
	// free, for statfs of volumes without a quota.
	Space func() (total, free uint64, err error)

	Logger *slog.Logger // nil: slog.Default
}

// FS is the tree of a volume. It implements vfs.FS and the abilities Pinner,
// StatelessFS, TmpfileFS, XattrFS, LockFS, CopyFS, PolicyFS, LeaseFS and Watchable.
type FS struct {
	cfg     Config
	sess    meta.Session
	blocks  *block.Store
	log     *slog.Logger
	dirty   *cache.Share
	shared  bool               // others change the volume, too
	leased  meta.LeasedSession // of a shared volume, or nil
	chunk   int64              // chunk size, bytes
	inline  int64              // inline limit, bytes
	closing atomic.Bool        // Close or ForceClose has begun to end the FS
	closed  chan struct{}      // closed when it has ended

	shards [64]shard

	dirtyMu    sync.Mutex
	dirtyNodes list.List // of *node, in order of dirtySince
	dirtyBytes atomic.Int64
	lastError  atomic.Pointer[error] // of the newest flush; nil when it worked
	flushGen   atomic.Uint64         // counts flushes of nodes that ended

	layoutSize atomic.Int64 // extents remembered by all nodes

	// Of shared volumes.
	ops      atomic.Uint64 // counts operations, see node.current
	recalls  vfs.Feed      // of leases
	flushed  flushedInodes
	flushEnd sync.Mutex          // orders flushed and flushGen
	touching *semaphore.Weighted // updates of access times under way
	locks    heldLocks

	settleMu   sync.Mutex   // held while pending blocks are moved, or blocks deleted
	pendingOff atomic.Int32 // above 0: flushes put everything into the store

	fragmentMu sync.Mutex
	fragments  map[fragment]struct{} // chunks to be compacted

	kick   chan struct{} // wakes the flusher
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	stats counters
}

// New opens the tree of a volume.
func New(cfg Config) (*FS, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.DirtyLimit == 0 {
		cfg.DirtyLimit = min(cfg.Budget.Limit()/3, 96<<20)
	}
	if cfg.FlushInterval == 0 {
		cfg.FlushInterval = 2 * time.Second
	}
	if cfg.SettleAfter == 0 {
		cfg.SettleAfter = settleAfter
	}
	if cfg.StallTimeout == 0 {
		cfg.StallTimeout = time.Minute
	}
	share, err := cfg.Budget.Share("dirty", 0, cfg.DirtyLimit)
	if err != nil {
		return nil, fmt.Errorf("memory for writes: %w", err)
	}
	format := cfg.Session.Format()
	ctx, cancel := context.WithCancel(context.Background())
	fs := &FS{
		cfg: cfg, sess: cfg.Session, blocks: cfg.Blocks, log: cfg.Logger, dirty: share,
		chunk: int64(format.ChunkSize), inline: int64(format.InlineLimit),
		kick: make(chan struct{}, 1), closed: make(chan struct{}), ctx: ctx, cancel: cancel,
		shared: !cfg.Exclusive, touching: semaphore.NewWeighted(maxTouching),
	}
	for i := range fs.shards {
		fs.shards[i].nodes = make(map[vfs.Ino]*node)
	}
	if fs.shared {
		if fs.leased, _ = cfg.Session.(meta.LeasedSession); fs.leased != nil {
			fs.leased.OnRecall(fs.recalled)
		}
	}
	if !cfg.ReadOnly {
		fs.tasks.Go(fs.flusher)
		if cfg.Pending != nil {
			fs.tasks.Go(fs.settler)
		}
		if cfg.Maintainer != nil {
			fs.tasks.Go(fs.maintain)
		}
	}
	return fs, nil
}

// Policy implements vfs.PolicyFS. Alone on its volume, the door may cache
// everything without an end; else what leases allow.
func (fs *FS) Policy() vfs.Policy {
	p := vfs.Policy{ReadOnly: fs.cfg.ReadOnly, Exclusive: fs.cfg.Exclusive, Leased: fs.leased != nil}
	if fs.cfg.Exclusive {
		p.EntryValid, p.AttrValid, p.NegativeValid, p.KeepCache = vfs.Forever, vfs.Forever, vfs.Forever, true
	}
	return p
}

// Watch implements vfs.Watchable.
func (fs *FS) Watch(fn func(vfs.Change)) (stop func()) { return fs.sess.Watch(fn) }

// Sync flushes everything dirty and makes it durable.
func (fs *FS) Sync(ctx context.Context) error {
	if fs.cfg.ReadOnly {
		return nil
	}
	if err := fs.flushAll(ctx); err != nil {
		return &vfs.Error{Op: "sync", Name: fs.sess.Format().Name, Err: err}
	}
	return fs.sess.Sync(ctx)
}

// Close flushes everything, ends the FS's goroutines and its session. An error
// says what could not be flushed; that data is lost unless the caller keeps the
// process and calls Close again.
func (fs *FS) Close() error {
	if fs.closing.Load() {
		return nil
	}
	if err := fs.Sync(context.Background()); err != nil {
		return err
	}
	if fs.closing.Swap(true) {
		return nil // ForceClose was faster
	}
	defer close(fs.closed)
	fs.endTasks()
	ctx, cancel := context.WithTimeout(context.Background(), settleAtClose)
	defer cancel()
	if err := fs.Settle(ctx); err != nil {
		fs.log.Warn("small writes stay in the metadata and are moved to the store later", "error", err)
	}
	err := fs.sess.Close()
	fs.dirty.Remove()
	return err
}

// ForceClose is Close for a store that does not answer: it flushes until ctx is
// done and then drops what is still dirty, and says so. If Close is under way and has
// flushed everything, it waits for its end, until ctx is done.
func (fs *FS) ForceClose(ctx context.Context) error {
	syncErr := fs.Sync(ctx)
	if fs.closing.Swap(true) {
		select {
		case <-fs.closed:
		case <-ctx.Done():
		}
		return syncErr
	}
	defer close(fs.closed)
	fs.endTasks()
	if n := fs.dirtyBytes.Load(); n > 0 {
		fs.log.Error("unflushed data is dropped", "bytes", n, "error", syncErr)
	}
	return errors.Join(syncErr, fs.sess.Close())
}

// endTasks ends the goroutines and waits for them.
func (fs *FS) endTasks() {
	fs.cancel()
	fs.tasks.Wait()
	// Cannot fail; it is not given back, so that no new one begins.
	_ = fs.touching.Acquire(context.Background(), maxTouching)
}

// writable returns EROFS or EIO if the tree cannot be changed (any more).
func (fs *FS) writable() error {
	if fs.cfg.ReadOnly {
		return syscall.EROFS
	}
	if fs.closing.Load() {
		return errClosed
	}
	return nil
}

// errClosed is what every call gives after Close.
var errClosed = vfs.WithErrno(syscall.EIO, errors.New("the volume has been closed"))
