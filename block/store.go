package block

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/internal/crashpoint"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/vfs"
)

// ID is the number of a block, unique in its volume and never used again. 0 is
// no block.
type ID uint64

// Ref names a block and says how many plain bytes it holds, 1 to MaxSize.
type Ref struct {
	ID   ID
	Size uint32
}

// Config says where blocks are kept and what may be used for it.
type Config struct {
	Store       object.Store
	Prefix      string // of the keys; empty: DefaultPrefix
	Volume      [16]byte
	Compression Compression
	Sealer      Sealer // nil: blocks are not encrypted
	// FrameSize is the unit of compression and of reading, in bytes: a power of
	// two from 4 KiB to 1 MiB; 0: 64 KiB. It may differ from block to block.
	FrameSize int

	Budget  *cache.Budget
	Buffers *cache.Buffers
	Memory  *cache.Memory
	// Disk keeps what was read from a remote store, as it is there: compressed
	// and sealed. May be nil.
	Disk *cache.Disk

	// Uploads and Downloads bound the requests in flight; 0: 16 and 64 to a store
	// on this machine, 16 and 32 to a remote one.
	Uploads, Downloads int
	Stage              *StageConfig // nil: Put returns when the object store has the block
	Pending            Pending      // has blocks that the store does not have yet; may be nil
	Logger             *slog.Logger // nil: slog.Default()
}

// Store keeps blocks in an object store. All methods may be called concurrently.
// Errors carry an errno (vfs.ErrnoOf).
type Store struct {
	cfg     Config
	store   object.Store
	prefix  string
	volume  [16]byte
	log     *slog.Logger
	remote  bool
	sealer  Sealer
	enc     *encoder
	dec     decoder
	bufs    *cache.Buffers
	memory  *cache.Memory
	disk    *cache.Disk  // nil, or the store is on this machine
	share   *cache.Share // transient buffers of uploads and downloads
	headers *headerCache
	flights flights
	speed   speed

	uploads   chan struct{}
	downloads chan struct{}

	prefetch *prefetcher
	stage    *stage  // may be nil
	pending  Pending // may be nil

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	stats counters
}

// counters are the running figures of a Store.
type counters struct {
	puts, putBytes, storedBytes       atomic.Int64
	reads, readBytes                  atomic.Int64
	fetches, fetchedBytes, headerGets atomic.Int64
	prefetches, prefetchDropped       atomic.Int64
	deletes                           atomic.Int64
	damaged, refetched                atomic.Int64
	foreignKeys                       atomic.Int64
}

// New opens the blocks of a volume. Without a stage it does not touch the store.
// With one, blocks that an earlier process staged and did not upload are found
// again. Errors: EINVAL for a configuration that cannot work, and those of the
// staging directory.
func New(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Store == nil || cfg.Budget == nil || cfg.Buffers == nil || cfg.Memory == nil {
		return nil, vfs.WithErrno(syscall.EINVAL, errors.New("a block store needs an object store, a memory budget, buffers and a read cache"))
	}
	if cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	shift := uint8(defaultFrameShift)
	if f := cfg.FrameSize; f != 0 {
		shift = uint8(bits.Len(uint(f)) - 1)
		if f != 1<<shift || shift < minFrameShift || shift > maxFrameShift {
			return nil, vfs.WithErrno(syscall.EINVAL, fmt.Errorf("frame size %d is not a power of two from 4 KiB to 1 MiB", f))
		}
	}
	if cfg.Compression > Zstd {
		return nil, vfs.WithErrno(syscall.EINVAL, fmt.Errorf("%v is not known", cfg.Compression))
	}
	if cfg.Sealer != nil && (cfg.Sealer.ID() == 0 || cfg.Sealer.Overhead() > maxSealOverhead || cfg.Sealer.Overhead() < 0) {
		return nil, vfs.WithErrno(syscall.EINVAL, fmt.Errorf("sealer %d adds %d bytes to a frame", cfg.Sealer.ID(), cfg.Sealer.Overhead()))
	}
	remote := cfg.Store.Capabilities().Remote
	if cfg.Uploads <= 0 {
		cfg.Uploads = 16
	}
	if cfg.Downloads <= 0 {
		cfg.Downloads = 64
		if remote {
			cfg.Downloads = 32
		}
	}

	s := &Store{cfg: cfg, store: cfg.Store, prefix: cfg.Prefix, volume: cfg.Volume, log: cfg.Logger, remote: remote,
		sealer: cfg.Sealer, bufs: cfg.Buffers, memory: cfg.Memory, pending: cfg.Pending,
		uploads: make(chan struct{}, cfg.Uploads), downloads: make(chan struct{}, cfg.Downloads)}
	if remote {
		s.disk = cfg.Disk
	}
	limit := cfg.Budget.Limit()
	var err error
	if s.share, err = cfg.Budget.Share("transfers", min(limit/8, 32<<20), limit/2); err != nil {
		return nil, vfs.WithErrno(syscall.EINVAL, err)
	}
	if s.headers, err = newHeaderCache(cfg.Budget); err != nil {
		s.share.Remove()
		return nil, vfs.WithErrno(syscall.EINVAL, err)
	}
	s.enc = newEncoder(cfg.Volume, cfg.Compression, cfg.Sealer, shift, cfg.Buffers, s.share)
	s.dec = decoder{sealer: cfg.Sealer, enc: s.enc}
	s.flights.init()
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.prefetch = newPrefetcher(s)
	if cfg.Stage != nil {
		if s.stage, err = openStage(ctx, s, *cfg.Stage); err != nil {
			s.cancel()
			s.wg.Wait()
			s.headers.close()
			s.share.Remove()
			return nil, err
		}
	}
	return s, nil
}

// Close waits for all background work to end and frees what the store holds. Staged
// blocks stay in the stage, for the next New. No other call may be in progress.
func (s *Store) Close() error {
	s.cancel()
	s.wg.Wait()
	var err error
	if s.stage != nil {
		err = s.stage.close()
	}
	s.headers.close()
	s.share.Remove()
	return err
}

// Put stores the data, gathered from the slices, as block id. It returns when the
// block is durable: in the object store, or in the stage where there is one. The
// slices are read until it returns and never changed. Putting the same block
// again after an error is allowed.
//
// Errors: EINVAL for id 0 or a size out of range, ENOSPC, EACCES, ETIMEDOUT, EIO,
// ENOMEM where the memory limit cannot hold one block, EINTR.
func (s *Store) Put(ctx context.Context, id ID, data ...[]byte) error {
	if id == 0 {
		return fail("write", id, vfs.WithErrno(syscall.EINVAL, errors.New("0 is not a block's number")))
	}
	if _, err := plainSize(data); err != nil {
		return fail("write", id, vfs.WithErrno(syscall.EINVAL, err))
	}
	var room int64
	if s.stage != nil {
		// Before memory is taken: the uploads that make room need some, too.
		var err error
		if room, err = s.stage.reserve(ctx, s.enc.most(data)); err != nil {
			return fail("write", id, err)
		}
	}
	e, err := s.enc.encode(ctx, id, data)
	if err != nil {
		if s.stage != nil {
			s.stage.cancelRoom(room)
		}
		return fail("write", id, err)
	}
	defer e.close()
	if s.stage != nil {
		err = s.stage.put(ctx, id, e.h, e.body, room)
	} else {
		crashpoint.Hit("block.put.before")
		err = s.upload(ctx, id, e.body, e.body.Size())
		crashpoint.Hit("block.put.after")
	}
	if err != nil {
		return fail("write", id, err)
	}
	s.headers.add(e.h)
	s.stats.puts.Add(1)
	s.stats.putBytes.Add(int64(e.h.size))
	s.stats.storedBytes.Add(e.body.Size())
	return nil
}

// Staged tells whether Put returns before the object store has the block.
func (s *Store) Staged() bool { return s.stage != nil }

func acquire(ctx context.Context, sem chan struct{}) error {
	select {
	case sem <- struct{}{}:
		return nil
	default:
	}
	select {
	case sem <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
