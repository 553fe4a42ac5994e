package image

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/flist"
	"github.com/massif-fs/massif/vfs"
)

// fetchBytes is what a fetch takes of the budget: the answer of a store, which may be
// read into a buffer twice its size, and the plain text.
var fetchBytes = int64(2*flist.MaxSealed + flist.BlockSize)

// mostAhead bounds the read-ahead of one file, in bytes.
const mostAhead = 32 << 20

// blocks reads blocks through the caches.
type blocks struct {
	version  flist.Version
	from     Fetcher
	memory   *cache.Memory
	disk     *cache.Disk
	budget   *cache.Budget
	share    *cache.Share
	parallel chan struct{}
	log      *slog.Logger
	seed     uint64

	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	flights map[string]*flight // by block id
	ahead   int                // flights that nobody waited for when they began
	took    float64            // mean of what a fetch takes, in seconds; 0: not known

	stats struct {
		memoryHits, diskHits, fetched, fetchedBytes, damaged, failed, prefetched atomic.Int64
	}
}

// flight is the fetch of a block, which ends when nobody waits for it any more.
type flight struct {
	id      string
	cancel  context.CancelFunc
	done    chan struct{}
	data    []byte
	free    func()
	err     error
	waiters int  // under blocks.mu
	ahead   bool // for nobody yet: it goes on without waiters
}

func newBlocks(cfg Config) (*blocks, error) {
	share, err := cfg.Budget.Share("image fetches", fetchBytes, max(fetchBytes, cfg.Budget.Limit()/2))
	if err != nil {
		return nil, fmt.Errorf("memory: %w", err)
	}
	b := &blocks{
		version: cfg.Image.Version(), from: cfg.Blocks, memory: cfg.Memory, disk: cfg.Disk, budget: cfg.Budget, share: share,
		parallel: make(chan struct{}, cfg.Parallel), log: cfg.Logger, seed: rand.Uint64(), flights: map[string]*flight{},
	}
	b.ctx, b.stop = context.WithCancel(context.Background())
	return b, nil
}

func (b *blocks) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.stop()
	b.wg.Wait()
	b.share.Remove()
}

// window is the read-ahead of an open file.
func (b *blocks) window() *block.Window {
	return block.NewWindow(min(mostAhead, b.budget.Limit()/8), func() float64 {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.took == 0 {
			return 50e-3
		}
		return 2 * b.took // of 1 MiB
	})
}

// memoryKey names a block in the memory cache. The seed keeps an image's author from
// finding two blocks of one name.
func (b *blocks) memoryKey(blk flist.Block) uint64 { return xxh3.HashSeed(blk.ID, b.seed) }

// diskKey names a block in the disk cache. What comes from there is verified, so that
// two blocks of one name are a miss, not a mistake.
func diskKey(blk flist.Block) uint64 { return binary.LittleEndian.Uint64(blk.ID) }

func wellFormed(blk flist.Block) error {
	if len(blk.ID) < 16 || len(blk.Key) < 16 {
		return vfs.WithErrno(syscall.EIO, fmt.Errorf("%w: the name of a block has %d bytes", flist.ErrFormat, len(blk.ID)))
	}
	return nil
}

// read copies from offset off of a block, which has size bytes, to p, and returns how
// much.
func (b *blocks) read(ctx context.Context, blk flist.Block, size int, p []byte, off int) (int, error) {
	if err := wellFormed(blk); err != nil {
		return 0, err
	}
	if buf := b.memory.Get(b.memoryKey(blk), 0); buf != nil {
		defer buf.Release()
		b.stats.memoryHits.Add(1)
		return b.copy(blk, size, p, buf.Bytes(), off)
	}
	f, err := b.join(blk, false)
	if err != nil {
		return 0, err
	}
	defer b.leave(f)
	select {
	case <-f.done:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	if f.err != nil {
		return 0, f.err
	}
	return b.copy(blk, size, p, f.data, off)
}

func (b *blocks) copy(blk flist.Block, size int, p, data []byte, off int) (int, error) {
	if len(data) < size {
		return 0, vfs.WithErrno(syscall.EIO, fmt.Errorf("%w: block %v has %d bytes, not %d", flist.ErrFormat, blk, len(data), size))
	}
	return copy(p, data[off:size]), nil
}

// prefetch begins to fetch a block that nobody waits for; false if that is better
// left for now.
func (b *blocks) prefetch(blk flist.Block) bool {
	if wellFormed(blk) != nil || b.budget.Pressed() {
		return false
	}
	if b.memory.Has(b.memoryKey(blk), 0) {
		return true
	}
	f, err := b.join(blk, true)
	if f != nil {
		b.leave(f)
	}
	return err == nil
}

// join returns the flight of a block, which it begins if need be. Read-ahead takes all
// but one of the places for fetches at most.
func (b *blocks) join(blk flist.Block, ahead bool) (*flight, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, syscall.EIO
	}
	if f := b.flights[string(blk.ID)]; f != nil {
		f.waiters++
		return f, nil
	}
	if ahead && b.ahead >= max(1, cap(b.parallel)-1) {
		return nil, syscall.EAGAIN
	}
	f := &flight{id: string(blk.ID), done: make(chan struct{}), waiters: 1, ahead: ahead}
	ctx, cancel := context.WithCancel(b.ctx)
	f.cancel = cancel
	if ahead {
		b.ahead++
		b.stats.prefetched.Add(1)
	}
	b.flights[string(blk.ID)] = f
	b.wg.Go(func() { b.fly(ctx, blk, f) })
	return f, nil
}

func (b *blocks) leave(f *flight) {
	b.mu.Lock()
	f.waiters--
	last := f.waiters == 0
	over := false
	select {
	case <-f.done:
		over = true
	default:
	}
	if last && !over && !f.ahead {
		b.forget(f) // nobody may join what is called off
		f.cancel()
	}
	b.mu.Unlock()
	if last && over {
		f.release()
	}
}

// forget is called under b.mu.
func (b *blocks) forget(f *flight) {
	if b.flights[f.id] == f {
		delete(b.flights, f.id)
	}
}

func (f *flight) release() {
	if f.free != nil {
		f.free()
		f.free = nil
	}
}

func (b *blocks) fly(ctx context.Context, blk flist.Block, f *flight) {
	f.data, f.free, f.err = b.fetch(ctx, blk)
	if f.err != nil && ctx.Err() == nil {
		b.stats.failed.Add(1)
	}
	b.mu.Lock()
	b.forget(f)
	if f.ahead {
		b.ahead--
	}
	close(f.done)
	alone := f.waiters == 0
	b.mu.Unlock()
	f.cancel()
	if alone {
		f.release()
	}
}

// fetch gets a block from the disk cache or a store, and keeps it in both caches.
func (b *blocks) fetch(ctx context.Context, blk flist.Block) (data []byte, free func(), err error) {
	select {
	case b.parallel <- struct{}{}:
		defer func() { <-b.parallel }()
	case <-ctx.Done():
		return nil, nil, b.ended(ctx)
	}
	if err := b.share.Acquire(ctx, fetchBytes); err != nil {
		if ctx.Err() != nil {
			err = b.ended(ctx)
		}
		return nil, nil, err
	}
	var dst []byte
	buf := b.memory.Alloc(flist.BlockSize)
	if buf != nil {
		dst = buf.Bytes()
		b.share.Release(flist.BlockSize)
		free = buf.Release
	} else {
		dst = make([]byte, flist.BlockSize)
		free = func() { b.share.Release(flist.BlockSize) }
	}
	defer b.share.Release(fetchBytes - flist.BlockSize)
	data, fromDisk := b.fromDisk(blk, dst)
	if data == nil {
		start := time.Now()
		data, err = b.from.Fetch(ctx, blk, dst)
		if err != nil {
			free()
			if ctx.Err() != nil {
				err = b.ended(ctx)
			}
			return nil, nil, err
		}
		b.note(time.Since(start))
		b.stats.fetched.Add(1)
		b.stats.fetchedBytes.Add(int64(len(data)))
	}
	if buf != nil {
		buf.SetLen(len(data))
		b.memory.Insert(b.memoryKey(blk), 0, buf)
	}
	if b.disk != nil && !fromDisk {
		// Without a buffer the bytes are this flight's, which nobody writes any more.
		b.disk.Add(diskKey(blk), 1, []cache.Range{{Slot: 0, Data: data}}, buf)
	}
	return data, free, nil
}

// ended is the error of a fetch that was called off: nobody waits for it any more, or
// the tree was closed.
func (b *blocks) ended(ctx context.Context) error {
	if b.ctx.Err() != nil {
		return syscall.EIO
	}
	return context.Cause(ctx)
}

// fromDisk reads a block from the disk cache. One whose bytes do not fit is dropped.
func (b *blocks) fromDisk(blk flist.Block, dst []byte) ([]byte, bool) {
	if b.disk == nil {
		return nil, false
	}
	n, ok := b.disk.Read(diskKey(blk), 0, dst)
	if !ok {
		return nil, false
	}
	if !b.version.Verify(blk, dst[:n]) {
		b.stats.damaged.Add(1)
		b.log.Warn("a block in the disk cache is not what it should be; it is fetched again", "block", blk.String())
		b.disk.Drop(diskKey(blk))
		return nil, false
	}
	b.stats.diskHits.Add(1)
	return dst[:n], true
}

// note records what a fetch took.
func (b *blocks) note(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.took == 0 {
		b.took = d.Seconds()
	} else {
		b.took += (d.Seconds() - b.took) / 8
	}
}

// Stats are the figures of an image.
type Stats struct {
	MemoryHits   int64 `json:"memoryHits"` // blocks
	DiskHits     int64 `json:"diskHits"`
	Fetched      int64 `json:"fetched"`
	FetchedBytes int64 `json:"fetchedBytes"` // of plain text
	Prefetched   int64 `json:"prefetched"`   // fetches that nobody waited for when they began
	Damaged      int64 `json:"damaged"`      // blocks of the disk cache that were not what they should be
	Failed       int64 `json:"failed"`       // fetches without a result
}

// Stats returns the figures.
func (fs *FS) Stats() Stats {
	s := &fs.blocks.stats
	return Stats{
		MemoryHits: s.memoryHits.Load(), DiskHits: s.diskHits.Load(), Fetched: s.fetched.Load(), FetchedBytes: s.fetchedBytes.Load(),
		Prefetched: s.prefetched.Load(), Damaged: s.damaged.Load(), Failed: s.failed.Load(),
	}
}
