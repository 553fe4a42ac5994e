package mount

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/pebble"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/seal"
	"github.com/massif-fs/massif/tree/volume"
)

// Volume is an open volume: its engines, and the tree where it is mounted.
type Volume struct {
	Record  *Record
	DB      *pebble.DB
	Engine  *meta.Engine
	Objects object.Store
	Budget  *cache.Budget
	Buffers *cache.Buffers
	Memory  *cache.Memory
	Disk    *cache.Disk // nil without a disk cache
	Blocks  *block.Store
	Key     *seal.Key  // of an encrypted volume; nil: it is not encrypted, or locked
	FS      *volume.FS // nil where only the engines were asked for

	point  string         // where it is mounted; "" if it is not
	served bool           // this process is its metadata server: others have it mounted
	close  []func() error // in order of opening
}

// OpenOptions say how OpenVolume opens a volume.
type OpenOptions struct {
	Options *Options // of the mount; nil: defaults
	// Tree asks for FS too.
	Tree bool
	// Point is where the tree will be mounted, if it will.
	Point string
	// Passphrase unlocks an encrypted volume. It is refused for others: whoever
	// gives one does not want to write plain text. Without one, an encrypted volume
	// is a *LockedError, or with Locked it is opened as far as that is possible
	// without its key.
	Passphrase seal.Passphrase
	Locked     bool
	Log        *slog.Logger // nil: slog.Default
}

// InUseError says that another process has a volume open.
type InUseError struct {
	Name    string
	Running *Running // the mount, if it is one of this user
}

func (e *InUseError) Error() string {
	if e.Running != nil {
		return fmt.Sprintf("volume %s is in use: process %d has it mounted at %s", e.Name, e.Running.PID, e.Running.Point)
	}
	return fmt.Sprintf("volume %s is in use by another process", e.Name)
}

func (e *InUseError) Unwrap() error { return kv.ErrLocked }

// OpenVolume opens a volume of the registry. One process at a time has a volume
// open: *InUseError tells that another one has.
func (g *Registry) OpenVolume(ctx context.Context, name string, o OpenOptions) (v *Volume, err error) {
	record, err := g.Get(name)
	if err != nil {
		return nil, err
	}
	if record.Deleting {
		return nil, fmt.Errorf("volume %s is being deleted: finish that with \"massif volume delete %s\"", name, name)
	}
	if o.Options == nil {
		o.Options = &Options{}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	v = &Volume{Record: record, point: o.Point}
	defer func() {
		if err != nil {
			if cerr := v.Close(); cerr != nil {
				o.Log.Warn("clean-up after a failed start", "volume", name, "err", cerr)
			}
			v = nil
		}
	}()
	lock, err := record.lockOpen()
	if err != nil {
		return v, err
	}
	v.close = append(v.close, lock.Close)
	if err := record.sweep(); err != nil {
		return v, err
	}
	memory := divideMemory(memoryLimit(o.Options))
	// The store first: a volume whose store is not the right one stays untouched.
	if err := v.openObjects(ctx); err != nil {
		return v, err
	}
	if err := v.openMeta(ctx, memory, o); err != nil {
		return v, err
	}
	if err := v.openBlocks(ctx, v.Engine.Settings(), memory, o); err != nil {
		return v, err
	}
	if o.Tree {
		return v, v.openTree(ctx, o)
	}
	return v, nil
}

func (v *Volume) openMeta(ctx context.Context, memory memoryPlan, o OpenOptions) (err error) {
	name := v.Record.Name
	dir, err := metaDir(v.Record.Meta)
	if err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	// A database that is not there would be made; a volume's is never made here.
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("volume %s: metadata: %w", name, err)
	}
	if len(entries) == 0 {
		return fmt.Errorf("volume %s: its metadata directory %s is empty", name, dir)
	}
	v.DB, err = openDatabase(dir, memory.pebbleCache, o.Options.ReadOnly, o.Log)
	if errors.Is(err, kv.ErrLocked) {
		return &InUseError{Name: name, Running: findVolume(v.Record.UUID)}
	}
	if err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	v.close = append(v.close, v.DB.Close)
	v.Engine, err = meta.Open(ctx, v.DB, meta.Options{Logger: o.Log, ReadOnly: o.Options.ReadOnly})
	if err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	v.close = append(v.close, v.Engine.Close)
	if have := v.Engine.Settings().UUID; have != v.Record.UUID {
		return fmt.Errorf("volume %s: the metadata in %s belongs to another volume (%s)", name, dir, v.Engine.Settings().Name)
	}
	return v.unlock(o)
}

func (v *Volume) openObjects(ctx context.Context) (err error) {
	v.Objects, err = openPatientStore(ctx, v.Record.Store)
	if err != nil {
		return fmt.Errorf("volume %s: store: %w", v.Record.Name, err)
	}
	v.close = append(v.close, v.Objects.Close)
	return v.checkStore(ctx)
}

func (v *Volume) openBlocks(ctx context.Context, settings meta.Format, memory memoryPlan, o OpenOptions) (err error) {
	name := v.Record.Name
	v.Budget = cache.NewBudget(memory.budget)
	if v.Buffers, err = cache.NewBuffers(v.Budget); err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	v.close = append(v.close, v.Buffers.Close)
	var most int64 // of the read cache; 0: what the budget leaves
	if !v.Objects.Capabilities().Remote {
		most = min(memory.budget/4, localReadCache)
	}
	if v.Memory, err = cache.NewMemory(v.Buffers, most); err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	v.close = append(v.close, func() error { v.Memory.Close(); return nil })
	compression, err := block.ParseCompression(settings.Compression)
	if err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	id, err := uuidBytes(v.Record.UUID)
	if err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	config := block.Config{
		Store: v.Objects, Volume: id, Compression: compression,
		Budget: v.Budget, Buffers: v.Buffers, Memory: v.Memory,
		Uploads: o.Options.Uploads, Logger: o.Log,
	}
	if v.Engine != nil {
		config.Pending = v.Engine
	}
	if v.Key != nil {
		config.Sealer = v.Key.Blocks()
	}
	if err := v.openDisk(o); err != nil {
		return fmt.Errorf("volume %s: disk cache: %w", name, err)
	}
	config.Disk = v.Disk
	if config.Stage, err = v.journal(ctx, config, o); err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	if v.Blocks, err = block.New(ctx, config); err != nil {
		return fmt.Errorf("volume %s: blocks: %w", name, err)
	}
	v.close = append(v.close, v.Blocks.Close)
	return nil
}

// checkStore refuses a store whose marker is another volume's. A store on this
// machine must have one. A remote one is not waited for: it may come back while
// the volume is in use.
func (v *Volume) checkStore(ctx context.Context) error {
	if v.Objects.Capabilities().Remote {
		return nil
	}
	m, err := readMarker(ctx, v.Objects)
	switch {
	case errors.Is(err, object.ErrNotFound):
		return fmt.Errorf("volume %s: store %s is not this volume's: %s is missing there", v.Record.Name, v.Objects, markerKey)
	case err != nil:
		return fmt.Errorf("volume %s: store %s: %w", v.Record.Name, v.Objects, err)
	case m.UUID != v.Record.UUID:
		return fmt.Errorf("volume %s: store %s belongs to another volume, %q", v.Record.Name, v.Objects, m.Name)
	}
	return nil
}

func (v *Volume) openTree(ctx context.Context, o OpenOptions) error {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	engine, readOnly := v.Engine, o.Options.ReadOnly
	if o.Options.AtTime != "" {
		at, snapshot := ParsePast(o.Options.AtTime, time.Now())
		if engine, err = v.past(ctx, at, snapshot); err != nil {
			return fmt.Errorf("volume %s: %w", v.Record.Name, err)
		}
		v.close = append(v.close, engine.Close)
		readOnly = true
	}
	session, err := v.begin(ctx, engine, meta.SessionInfo{Host: host, PID: os.Getpid(), Mountpoint: o.Point})
	if err != nil {
		return fmt.Errorf("volume %s: %w", v.Record.Name, err)
	}
	config := volume.Config{
		Session: session, Blocks: v.Blocks, Budget: v.Budget,
		Exclusive: true, // the database has one process
		ReadOnly:  readOnly, NoAtime: o.Options.NoAtime,
		Space: v.space, Logger: o.Log,
	}
	if !readOnly {
		config.Maintainer, config.Pending = v.Engine, v.Engine
	}
	if v.FS, err = volume.New(config); err != nil {
		return errors.Join(fmt.Errorf("volume %s: %w", v.Record.Name, err), session.Close())
	}
	return nil
}

// space tells the size of a store in a local directory; a bucket has none.
func (v *Volume) space() (total, free uint64, err error) {
	dir, ok := localDir(v.Record.Store)
	if !ok {
		return 1 << 50, 1 << 50, nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	return st.Blocks * uint64(st.Bsize), st.Bavail * uint64(st.Bsize), nil
}

// Close closes the engines, in the opposite order of opening. FS is closed before,
// by its own Close.
func (v *Volume) Close() error {
	var errs []error
	for i := len(v.close) - 1; i >= 0; i-- {
		errs = append(errs, v.close[i]())
	}
	v.close = nil
	return errors.Join(errs...)
}

// memoryPlan divides the memory limit of a mount.
type memoryPlan struct {
	pebbleCache int64 // of the metadata database
	budget      int64 // of everything that grows with data
}

// localReadCache bounds the read cache over a store on this machine, in bytes: the
// kernel's page cache holds the store's files already.
const localReadCache = 32 << 20

// divideMemory keeps aside what the metadata database and the program itself take;
// the rest is the budget.
func divideMemory(limit int64) memoryPlan {
	p := memoryPlan{pebbleCache: min(max(limit/8, 8<<20), 64<<20)}
	p.budget = max(limit-p.pebbleCache-3*memTable(p.pebbleCache)-min(limit/8, 32<<20), limit/2)
	return p
}

// memTable is the size of one table in memory for a database of the given cache.
func memTable(cacheBytes int64) int64 { return min(max(cacheBytes/4, 4<<20), 16<<20) }

func openDatabase(dir string, cacheBytes int64, readOnly bool, log *slog.Logger) (*pebble.DB, error) {
	o := pebble.Options{CacheBytes: cacheBytes, ReadOnly: readOnly, Logger: log}
	if cacheBytes > 0 {
		o.MemTableBytes = memTable(cacheBytes)
	}
	return pebble.Open(dir, o)
}

// findVolume returns the mount that has a volume open, if it is one of this user.
func findVolume(uuid string) *Running {
	all, err := List()
	if err != nil {
		return nil
	}
	for _, r := range all {
		if r.Volume == uuid {
			return &r
		}
	}
	return nil
}

func metaURL(dir string) string { return (&url.URL{Scheme: "pebble", Path: dir}).String() }

// metaDir returns the directory of a metadata URL.
func metaDir(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "", &UsageError{fmt.Errorf("the metadata URL is not well formed; write pebble:///DIR")}
	case u.Scheme != "pebble":
		return "", &UsageError{fmt.Errorf("metadata engine %q is not known; known is pebble:///DIR", u.Scheme)}
	case u.Host != "" || !strings.HasPrefix(u.Path, "/") || u.Path == "/":
		return "", &UsageError{fmt.Errorf("metadata URL %s: write pebble:///DIR, with three slashes", s)}
	}
	return filepath.Clean(u.Path), nil
}

func storeURL(dir string) string { return (&url.URL{Scheme: "file", Path: dir}).String() }

func uuidBytes(s string) (id [16]byte, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		return id, fmt.Errorf("UUID %q is not well formed", s)
	}
	return [16]byte(b), nil
}
