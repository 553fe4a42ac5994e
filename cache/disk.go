package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"
)

// DiskConfig says where and how much a Disk may keep.
type DiskConfig struct {
	// Dir is the directory of this cache alone; it is made if it is not there.
	Dir string
	// Limit is the number of bytes that files below Dir may take.
	Limit int64
	// MinFree is the number of bytes that stay free on the file system: below it
	// the cache shrinks. 0: 1 % of the file system, at least 64 MiB.
	MinFree int64
	// MaxBlocks bounds the number of files, and with it the memory of the index
	// (about 200 bytes each); 0: 500,000.
	MaxBlocks int
	// Identity names what is cached (the volume). A directory that holds the
	// cache of something else is emptied.
	Identity string
	// QueueBytes bounds the ranges that wait to be written; more are not cached.
	// 0: 16 MiB.
	QueueBytes int64
	Logger     *slog.Logger // nil: slog.Default()
}

// Disk is a cache of immutable ranges in a directory. The ranges of a block have
// numbers (slots) and lie in one file for each block. The directory survives
// restarts and crashes: nothing is synced, but each range has a checksum that
// knows identity, block, slot and length, and is returned only if that fits.
//
// Eviction is by block, with the two queues of S3-FIFO (see Memory). One process
// uses a directory at a time. All methods may be called concurrently.
type Disk struct {
	cfg    DiskConfig
	salt   uint64
	log    *slog.Logger
	lock   *os.File
	queue  chan fill
	queued atomic.Int64 // bytes in queue
	stop   chan struct{}
	wg     sync.WaitGroup
	// scanned is closed when the index holds all that the directory has.
	scanned chan struct{}

	mu      sync.Mutex
	files   map[uint64]*diskFile
	small   fileQueue
	main    fileQueue
	ghost   ghostQueue
	opened  fileQueue // those with an open descriptor, by last use
	used    int64
	adds    uint64 // files added so far
	pausing time.Time
	checked time.Time // when free space was looked at
	since   int64     // bytes written since then
	warned  time.Time

	hits, misses, fills, dropped, damaged, evicted, failed atomic.Int64
}

const (
	maxOpenFiles   = 128
	freeCheckBytes = 32 << 20
	freeCheckTime  = 5 * time.Second
)

// OpenDisk opens or makes the cache in a directory. It returns at once; the index
// of an existing cache is read in the background. Errors: EBUSY if another
// process uses the directory, or those of the file system.
func OpenDisk(cfg DiskConfig) (*Disk, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.MaxBlocks <= 0 {
		cfg.MaxBlocks = 500_000
	}
	if cfg.QueueBytes <= 0 {
		cfg.QueueBytes = 16 << 20
	}
	if cfg.Limit <= 0 {
		return nil, fmt.Errorf("disk cache %s: a limit of %d bytes", cfg.Dir, cfg.Limit)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("disk cache: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(cfg.Dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("disk cache: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if err == unix.EWOULDBLOCK {
			return nil, fmt.Errorf("disk cache %s is in use by another process: %w", cfg.Dir, syscall.EBUSY)
		}
		return nil, fmt.Errorf("disk cache %s: lock: %w", cfg.Dir, err)
	}
	d := &Disk{cfg: cfg, log: cfg.Logger, lock: lock, salt: xxh3.HashString("massif disk cache\x00" + cfg.Identity),
		queue: make(chan fill, 256), stop: make(chan struct{}), scanned: make(chan struct{}), files: make(map[uint64]*diskFile), opened: fileQueue{byUse: true}}
	if d.cfg.MinFree <= 0 {
		var st unix.Statfs_t
		if err := unix.Statfs(cfg.Dir, &st); err != nil {
			lock.Close()
			return nil, fmt.Errorf("disk cache %s: statfs: %w", cfg.Dir, err)
		}
		d.cfg.MinFree = max(int64(st.Blocks)*st.Bsize/100, 64<<20)
	}
	if err := d.checkIdentity(); err != nil {
		lock.Close()
		return nil, fmt.Errorf("disk cache: %w", err)
	}
	d.wg.Add(2)
	go d.scan()
	go d.writer()
	return d, nil
}

// checkIdentity empties a directory that caches something else.
func (d *Disk) checkIdentity() error {
	name := filepath.Join(d.cfg.Dir, "identity")
	want := fmt.Sprintf("massif disk cache 1 %016x\n", d.salt)
	have, err := os.ReadFile(name)
	if err == nil && string(have) == want {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for i := range 256 {
		if err := os.RemoveAll(filepath.Join(d.cfg.Dir, fmt.Sprintf("%02x", i))); err != nil {
			return err
		}
	}
	tmp := name + ".new"
	if err := os.WriteFile(tmp, []byte(want), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// Close writes what is queued and ends the cache's goroutines.
func (d *Disk) Close() error {
	close(d.stop)
	d.wg.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	for f := d.opened.tail; f != nil; f = d.opened.tail {
		d.closeFile(f)
	}
	return d.lock.Close()
}

func (d *Disk) path(id uint64) string {
	return filepath.Join(d.cfg.Dir, fmt.Sprintf("%02x", byte(id)), fmt.Sprintf("%016x", id))
}

// scan builds the index of what an earlier process left, the oldest files first in
// the order of eviction.
func (d *Disk) scan() {
	defer d.wg.Done()
	defer close(d.scanned)
	type found struct {
		id    uint64
		size  int64
		mtime time.Time
	}
	var all []found
	for i := range 256 {
		dir := filepath.Join(d.cfg.Dir, fmt.Sprintf("%02x", i))
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.log.Warn("disk cache cannot be read", "dir", dir, "error", err)
		}
		for _, e := range entries {
			select {
			case <-d.stop:
				return
			default:
			}
			id, err := strconv.ParseUint(e.Name(), 16, 64)
			if err != nil || strings.ToLower(e.Name()) != e.Name() || len(e.Name()) != 16 || byte(id) != byte(i) {
				_ = os.RemoveAll(filepath.Join(dir, e.Name())) // nothing of ours
				continue
			}
			if info, err := e.Info(); err == nil {
				all = append(all, found{id, info.Size(), info.ModTime()})
			}
		}
	}
	slices.SortFunc(all, func(a, b found) int { return a.mtime.Compare(b.mtime) })
	d.mu.Lock()
	for _, x := range all {
		if d.files[x.id] == nil {
			d.addFile(x.id, x.size, true)
		}
	}
	victims := d.shrink(0)
	d.mu.Unlock()
	d.unlink(victims)
}

// Read copies range slot of block id to p and returns its length, if it is cached,
// undamaged and not longer than p.
func (d *Disk) Read(id uint64, slot int, p []byte) (n int, ok bool) {
	f := d.acquire(id)
	if f == nil {
		d.misses.Add(1)
		return 0, false
	}
	defer d.release(f)
	f.mu.Lock()
	var e slotEntry
	if slot < len(f.table) {
		e = f.table[slot]
	}
	f.mu.Unlock()
	if e.len == 0 || int64(e.len) > int64(len(p)) {
		d.misses.Add(1)
		return 0, false
	}
	p = p[:e.len]
	n, err := preadFull(f.fd, p, int64(e.off))
	if err == nil && n == len(p) && d.sum(id, slot, p) == e.sum {
		d.hits.Add(1)
		return n, true
	}
	d.damaged.Add(1)
	d.misses.Add(1)
	d.log.Warn("disk cache: a damaged range was dropped", "block", id, "slot", slot, "error", err)
	d.Drop(id)
	return 0, false
}

// Has tells whether the range seems to be cached.
func (d *Disk) Has(id uint64, slot int) bool {
	f := d.acquire(id)
	if f == nil {
		return false
	}
	defer d.release(f)
	f.mu.Lock()
	defer f.mu.Unlock()
	return slot < len(f.table) && f.table[slot].len > 0
}

// Range is a part of a block to be cached.
type Range struct {
	Slot int
	Data []byte
}

type fill struct {
	id     uint64
	slots  int
	ranges []Range
	bytes  int64
	buf    *Buffer
	done   chan struct{} // closed when its turn has come; nil for ranges
}

// Add caches ranges of block id, which has the given number of slots (1 to 65,536),
// soon: it queues them and returns. The data lies in buf, of which the queue takes
// a reference of its own; a nil buf says that the data stays unchanged anyhow.
// Where too much is queued already, or the index is still being read, nothing is
// cached.
func (d *Disk) Add(id uint64, slots int, ranges []Range, buf *Buffer) {
	if slots < 1 || slots > maxSlots || !d.scanDone() {
		return
	}
	it := fill{id: id, slots: slots, ranges: ranges, buf: buf}
	for _, r := range ranges {
		it.bytes += int64(len(r.Data))
	}
	if d.queued.Add(it.bytes) > d.cfg.QueueBytes {
		d.queued.Add(-it.bytes)
		d.dropped.Add(1)
		return
	}
	if buf != nil {
		buf.Retain()
	}
	select {
	case d.queue <- it:
	default:
		d.dropped.Add(1)
		d.filled(it)
	}
}

// Queued is the number of bytes that wait to be written.
func (d *Disk) Queued() int64 { return d.queued.Load() }

func (d *Disk) filled(it fill) {
	d.queued.Add(-it.bytes)
	if it.buf != nil {
		it.buf.Release()
	}
}

// Flush waits until all that is queued now has been written or refused.
func (d *Disk) Flush(ctx context.Context) error {
	it := fill{done: make(chan struct{})}
	select {
	case d.queue <- it:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-it.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Drop forgets blocks.
func (d *Disk) Drop(ids ...uint64) {
	var victims []uint64
	d.mu.Lock()
	for _, id := range ids {
		if f := d.files[id]; f != nil {
			d.removeFile(f)
			victims = append(victims, id)
		} else if !d.scanDone() {
			victims = append(victims, id)
		}
	}
	d.mu.Unlock()
	d.unlink(victims)
}

// DropAll forgets everything.
func (d *Disk) DropAll() {
	<-d.scanned
	d.mu.Lock()
	victims := make([]uint64, 0, len(d.files))
	for id, f := range d.files {
		d.removeFile(f)
		victims = append(victims, id)
	}
	d.ghost = ghostQueue{}
	d.mu.Unlock()
	d.unlink(victims)
}

// DiskStats are the figures of a Disk.
type DiskStats struct {
	Limit, Bytes, Blocks   int64
	Hits, Misses           int64
	Fills, Dropped, Failed int64 // ranges written; not taken for a full queue; not written for an error
	Damaged, Evicted       int64 // ranges; blocks
	Paused                 bool  // nothing is written for a while after an error
}

// Stats returns the figures.
func (d *Disk) Stats() DiskStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return DiskStats{Limit: d.cfg.Limit, Bytes: d.used, Blocks: int64(len(d.files)),
		Hits: d.hits.Load(), Misses: d.misses.Load(), Fills: d.fills.Load(), Dropped: d.dropped.Load(), Failed: d.failed.Load(),
		Damaged: d.damaged.Load(), Evicted: d.evicted.Load(), Paused: time.Now().Before(d.pausing)}
}

func (d *Disk) scanDone() bool {
	select {
	case <-d.scanned:
		return true
	default:
		return false
	}
}

func (d *Disk) unlink(ids []uint64) {
	for _, id := range ids {
		if err := os.Remove(d.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.log.Warn("disk cache: a file cannot be removed", "error", err)
		}
	}
}

// sum ties data to its place: identity of the cache, block, slot and length.
func (d *Disk) sum(id uint64, slot int, p []byte) uint64 {
	x := d.salt ^ id*0x9e3779b97f4a7c15 ^ (uint64(slot)<<32|uint64(len(p)))*0xc2b2ae3d27d4eb4f
	x = (x ^ x>>29) * 0xbf58476d1ce4e5b9
	return xxh3.Hash(p) ^ x ^ x>>32
}

func preadFull(fd int, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(fd, p[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return done, err
		}
		done += n
	}
	return done, nil
}
