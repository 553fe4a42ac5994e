package bucket

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/vfs"
)

// Caching says how the data of files travel.
type Caching uint8

const (
	// Blocks fetches what is read, and ahead of who reads on.
	Blocks Caching = iota
	// WholeFiles fetches all of a file when some of it is read.
	WholeFiles
	// Stream is Blocks that keeps nothing of a file that nobody has open.
	Stream
	// Preload fetches all files when the mount begins.
	Preload
)

// Links says how symbolic links are kept.
type Links uint8

const (
	MetadataLinks Links = iota // the metadata is_symlink=true
	SuffixLinks                // a key that ends in ".rclonelink"
	NoLinks
)

// Markers says how directories are kept.
type Markers uint8

const (
	SlashMarkers  Markers = iota // an object "name/"
	FolderMarkers                // an object "name" with the metadata hdi_isfolder=true
	NoMarkers
)

// Config says what to present, and how. Only Store and CacheDir are required.
type Config struct {
	Store    object.Store
	Identity string // names store and prefix: a cache of another one is refused; empty: Store.String
	Budget   *cache.Budget
	Logger   *slog.Logger

	ReadOnly  bool
	Writeback bool // close and fsync return when what was written is on the local disk

	Caching             Caching
	CacheDir            string
	CacheLimit          int64 // bytes; 0: 10 GiB
	CacheHigh, CacheLow int   // percents; 0: 90 and 80
	CacheTimeout        time.Duration
	CacheEmptyAtStart   bool
	CacheDropAtEnd      bool
	BlockSize           int64 // bytes; 0: 4 MiB
	Prefetch            int   // blocks; 0: none
	PrefetchOnOpen      bool
	Parallel            int // requests for data at once; 0: 32
	Uploads             int // files uploaded at once; 0: 8
	CreateEmpty         bool
	IgnoreSync          bool

	// How long things are believed without asking; 0: never.
	AttrTimeout, ListTimeout, NegativeTimeout time.Duration
	KernelAttr, KernelEntry, KernelNegative   time.Duration
	NoKernelData                              bool
	MaxEntries                                int // 0: 100,000

	NoMetadata        bool // neither read nor write objects' metadata
	FailUnsupported   bool
	FileMode, DirMode uint32 // permission bits; 0: 0644 and 0755
	UID, GID          uint32 // of what has none
	Links             Links
	Markers           Markers
	MarkedOnly        bool
	ListDelay         time.Duration
	Capacity          int64 // bytes; 0: 1 PiB
	MaxFileSize       int64 // bytes; 0: 5 TiB

	// AttrDelay is how long changed attributes wait for more of them before they are
	// stored, RetryMost the longest wait before a failed upload is tried again. 0: 1 s, 30 s.
	AttrDelay, RetryMost time.Duration
}

func (c *Config) complete() error {
	if c.Store == nil || c.CacheDir == "" {
		return errors.New("bucket: a store and a cache directory are needed")
	}
	if c.Identity == "" {
		c.Identity = c.Store.String()
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.ReadOnly = c.ReadOnly || c.Caching == Preload
	setDefault(&c.CacheLimit, 10<<30)
	setDefault(&c.CacheHigh, 90)
	setDefault(&c.CacheLow, min(80, c.CacheHigh))
	setDefault(&c.BlockSize, 4<<20)
	setDefault(&c.Parallel, 32)
	setDefault(&c.Uploads, 8)
	setDefault(&c.MaxEntries, 100_000)
	setDefault(&c.FileMode, 0o644)
	setDefault(&c.DirMode, 0o755)
	setDefault(&c.Capacity, 1<<50)
	setDefault(&c.MaxFileSize, 5<<40)
	setDefault(&c.AttrDelay, time.Second)
	setDefault(&c.RetryMost, 30*time.Second)
	if c.NoMetadata && c.Links == MetadataLinks {
		c.Links = NoLinks
	}
	c.NoMetadata = c.NoMetadata || !c.Store.Capabilities().Metadata
	if c.NoMetadata && c.Markers == FolderMarkers {
		c.Markers = SlashMarkers
	}
	if c.Budget == nil {
		c.Budget = cache.NewBudget(int64(c.Parallel+1) * copyBuffer)
	}
	return nil
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// FS is a bucket as a tree. It implements vfs.FS, vfs.Pinner, vfs.XattrFS, vfs.PolicyFS and
// vfs.Watchable.
type FS struct {
	cfg   Config
	store object.Store
	real  object.Tree // nil: directories are prefixes of keys
	disk  *disk
	feed  vfs.Feed
	log   *slog.Logger
	begun time.Time

	transfers *cache.Share
	slots     chan struct{} // requests for data under way

	mu               sync.Mutex
	table            map[vfs.Ino]*node
	root             *node
	nextIno          vfs.Ino
	used             usedNumbers
	idleOld, idleNew *node // list of nodes that nobody needs
	idleN            int
	places           map[place]struct{}
	changed          chan struct{} // closed when a use ends
	waiters          int
	closed           bool

	moveDir chan struct{} // one directory moves at a time

	queue queue
	ctx   context.Context // of work in the background
	stop  context.CancelFunc
	wg    sync.WaitGroup
	stats counters
}

// counters are the figures of Stats.
type counters struct {
	heads, lists, fetches, uploads, copies, conflicts atomic.Int64
	fetched, uploaded, copied                         atomic.Int64 // bytes
}

// Stats are figures of a mounted bucket.
type Stats struct {
	Entries      int   `json:"entries"` // files and directories in memory
	Heads        int64 `json:"heads"`
	Lists        int64 `json:"lists"`
	Fetches      int64 `json:"fetches"`
	FetchedBytes int64 `json:"fetchedBytes"`
	Uploads      int64 `json:"uploads"`
	UploadBytes  int64 `json:"uploadBytes"`
	CopiedBytes  int64 `json:"copiedBytes"` // of uploads, copied inside the store
	Conflicts    int64 `json:"conflicts"`
	CacheUsed    int64 `json:"cacheUsed"`
	CacheLimit   int64 `json:"cacheLimit"`
	CacheFiles   int   `json:"cacheFiles"`
	Queued       int   `json:"queued"` // files with something to store
	Failing      int   `json:"failing"`
}

var (
	_ vfs.FS        = (*FS)(nil)
	_ vfs.Pinner    = (*FS)(nil)
	_ vfs.XattrFS   = (*FS)(nil)
	_ vfs.PolicyFS  = (*FS)(nil)
	_ vfs.Watchable = (*FS)(nil)
)

// New opens a tree. What an earlier mount has left to upload is uploaded in the background.
// The store is not closed by Close.
func New(ctx context.Context, cfg Config) (_ *FS, err error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	fs := &FS{
		cfg: cfg, store: cfg.Store, log: cfg.Logger, begun: time.Now(),
		table: make(map[vfs.Ino]*node), places: make(map[place]struct{}), changed: make(chan struct{}),
		nextIno: ownNumbers, moveDir: make(chan struct{}, 1), slots: make(chan struct{}, cfg.Parallel),
	}
	fs.used.seed = maphash.MakeSeed()
	fs.real, _ = object.As[object.Tree](cfg.Store)
	fs.ctx, fs.stop = context.WithCancel(context.Background())
	var pending []*content
	fs.disk, pending, err = openDisk(diskConfig{
		dir: cfg.CacheDir, identity: cfg.Identity, limit: cfg.CacheLimit, high: cfg.CacheHigh, low: cfg.CacheLow,
		empty: cfg.CacheEmptyAtStart, log: cfg.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	if fs.transfers, err = cfg.Budget.Share("bucket transfers", copyBuffer, int64(cfg.Parallel+1)*copyBuffer); err != nil {
		return nil, errors.Join(err, fs.disk.close(false))
	}
	fs.mu.Lock()
	fs.root = fs.newNode(nil, "", syscall.S_IFDIR)
	fs.root.attrs = fs.defaults(syscall.S_IFDIR, vfs.Now())
	fs.root.known, fs.root.stored = true, true
	fs.mu.Unlock()
	fs.queue.init()
	if !cfg.ReadOnly {
		if err := fs.finishMoves(ctx); err != nil {
			fs.log.Warn("a rename of a directory that was cut off could not be finished", "err", err)
		}
		fs.abortStale(ctx)
	}
	fs.adopt(pending)
	fs.wg.Go(fs.runQueue)
	if cfg.CacheTimeout > 0 {
		fs.wg.Go(fs.runExpiry)
	}
	if cfg.Caching == Preload {
		fs.wg.Go(fs.preload)
	}
	return fs, nil
}

// staleUpload is the age from which an upload in parts is one that a crash has left.
const staleUpload = 24 * time.Hour

// abortStale drops the parts of uploads that nobody will complete.
func (fs *FS) abortStale(context.Context) {
	m, ok := object.As[object.Multipart](fs.store)
	if !ok {
		return
	}
	fs.wg.Go(func() {
		n, err := m.AbortStale(fs.ctx, "", time.Now().Add(-staleUpload))
		switch {
		case err != nil && fs.ctx.Err() == nil:
			fs.log.Info("abandoned uploads were not looked for", "err", err)
		case n > 0:
			fs.log.Info("abandoned uploads were aborted", "uploads", n)
		}
	})
}

func (fs *FS) runExpiry() {
	tick := time.NewTicker(max(fs.cfg.CacheTimeout/4, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-fs.ctx.Done():
			return
		case now := <-tick.C:
			fs.disk.expire(now.Add(-fs.cfg.CacheTimeout))
		}
	}
}

// Policy implements vfs.PolicyFS.
func (fs *FS) Policy() vfs.Policy {
	return vfs.Policy{
		EntryValid: fs.cfg.KernelEntry, AttrValid: fs.cfg.KernelAttr, NegativeValid: fs.cfg.KernelNegative,
		KeepCache: !fs.cfg.NoKernelData, ReadOnly: fs.cfg.ReadOnly,
	}
}

// Watch implements vfs.Watchable.
func (fs *FS) Watch(fn func(vfs.Change)) (stop func()) { return fs.feed.Watch(fn) }

// StatFS implements vfs.FS.
func (fs *FS) StatFS(ctx context.Context, c *vfs.Caller, ino vfs.Ino, out *vfs.StatFS) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.table[ino] == nil || fs.closed {
		return syscall.ESTALE
	}
	const block = 4096
	blocks := uint64(fs.cfg.Capacity) / block
	*out = vfs.StatFS{BlockSize: block, Blocks: blocks, BlocksFree: blocks, Files: 1 << 40, FilesFree: 1 << 40, MaxName: vfs.MaxName}
	return nil
}

// Stats returns the present figures.
func (fs *FS) Stats() Stats {
	s := Stats{
		Heads: fs.stats.heads.Load(), Lists: fs.stats.lists.Load(), Fetches: fs.stats.fetches.Load(), FetchedBytes: fs.stats.fetched.Load(),
		Uploads: fs.stats.uploads.Load(), UploadBytes: fs.stats.uploaded.Load(), CopiedBytes: fs.stats.copied.Load(), Conflicts: fs.stats.conflicts.Load(),
		CacheLimit: fs.disk.limit,
	}
	fs.mu.Lock()
	s.Entries = len(fs.table)
	fs.mu.Unlock()
	fs.disk.mu.Lock()
	s.CacheUsed, s.CacheFiles = fs.disk.used, fs.disk.lru.Len()+len(fs.disk.busy)
	fs.disk.mu.Unlock()
	s.Queued, s.Failing = fs.queue.count()
	return s
}

// changes tells why nothing can be changed.
func (fs *FS) changes() error {
	if fs.cfg.ReadOnly {
		return syscall.EROFS
	}
	return nil
}

// Sync implements vfs.FS: everything written is in the store, or with write-back on the local
// disk.
func (fs *FS) Sync(ctx context.Context) error {
	var nodes []*node
	fs.mu.Lock()
	for _, n := range fs.table {
		if n.queued || n.isDir() || n.opens > 0 {
			n.holds++
			nodes = append(nodes, n)
		}
	}
	fs.mu.Unlock()
	var group errgroup.Group
	group.SetLimit(fs.cfg.Uploads)
	for _, n := range nodes {
		group.Go(func() error {
			defer fs.letGo(n)
			return fs.settleData(ctx, n)
		})
	}
	return group.Wait()
}

// Drain waits until everything is in the store.
func (fs *FS) Drain(ctx context.Context) error {
	return fs.queue.drain(ctx, func(n *node) error { return fs.storeNode(ctx, n, false) })
}

// DropCaches forgets what could be asked for or fetched again.
func (fs *FS) DropCaches() error {
	fs.disk.dropIdle()
	fs.Refresh("")
	return nil
}

// Refresh has everything below a path (without '/' at either end; "" for all) asked for
// anew when it is next used.
func (fs *FS) Refresh(path string) {
	fs.mu.Lock()
	var drop []*node
	for _, n := range fs.table {
		p := n.path()
		if path != "" && p != path && (len(p) <= len(path) || p[:len(path)] != path || p[len(path)] != '/') {
			continue
		}
		drop = append(drop, n)
		if n.isDir() {
			n.dir.absent, n.dir.complete, n.dir.misses, n.dir.large = nil, time.Time{}, 0, time.Time{}
		}
	}
	fs.mu.Unlock()
	for _, n := range drop {
		n.mu.Lock()
		n.checked = time.Time{}
		n.mu.Unlock()
	}
	fs.feed.Send(vfs.Change{Kind: vfs.ChangeAll, Remote: true})
}

// Close implements vfs.FS. If something could not be uploaded the tree stays open and the
// error tells; a write-back tree leaves it on the local disk for the next mount.
func (fs *FS) Close() error {
	fs.mu.Lock()
	closed := fs.closed
	fs.mu.Unlock()
	if closed {
		return nil
	}
	if !fs.cfg.ReadOnly {
		if err := fs.Sync(fs.ctx); err != nil {
			return err
		}
		if fs.cfg.Writeback {
			fs.log.Info("uploading what is queued", "files", fs.Stats().Queued)
			if err := fs.Drain(fs.ctx); err != nil {
				fs.log.Warn("what is queued is uploaded by the next mount", "err", err)
			}
		}
	}
	return fs.shut()
}

// ForceClose tries to upload until ctx is done. What is left stays in the cache directory
// and is uploaded by the next mount.
func (fs *FS) ForceClose(ctx context.Context) error {
	err := fs.Sync(ctx)
	if err == nil {
		err = fs.Drain(ctx)
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("not everything is uploaded; the next mount does that from %s: %w", fs.cfg.CacheDir, err), fs.keepAll())
	}
	return errors.Join(err, fs.shut())
}

func (fs *FS) shut() error {
	fs.mu.Lock()
	if fs.closed {
		fs.mu.Unlock()
		return nil
	}
	fs.closed = true
	fs.wake()
	fs.mu.Unlock()
	fs.stop()
	fs.queue.close()
	fs.wg.Wait()
	fs.transfers.Remove()
	return fs.disk.close(fs.cfg.CacheDropAtEnd)
}
