package meta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/seal"
	"github.com/massif-fs/massif/vfs"
)

// Engine is the metadata engine of one volume on a key-value store. A volume has
// one active engine at a time. All methods may be called concurrently.
type Engine struct {
	db       kv.DB
	log      *slog.Logger
	clockNow func() time.Time
	readOnly bool
	at       uint64 // the engine shows the volume as it was at this stamp; 0: the present
	snapshot string // of which that stamp is, if of one

	// gate is held for reading by each change, and alone by what needs the volume
	// at rest: quotas over existing trees, moves between quotas, settings.
	gate    sync.RWMutex
	stripes []stripe
	renames sync.Mutex // held by moves of directories between directories

	format    atomic.Pointer[Format]
	keyholder atomic.Pointer[Keyholder]
	historyOn atomic.Bool
	clock     stampClock

	cache   *attrCache
	uses    *useTable
	quotas  *quotaTable
	pending pendingTable
	inos    *idSource
	blocks  *idSource

	watched  atomic.Int64 // watchers of all sessions
	mu       sync.Mutex
	sessions map[uint64]*session
	closed   bool
	// Who wants to know of changed settings.
	onSettings   map[int]func()
	settingsNext int

	ctx      context.Context // ends with the engine
	cancel   context.CancelFunc
	tasks    sync.WaitGroup
	reaper   reaper
	maxLinks uint32 // MaxLinks, but in tests
	locks    lockTable
	maint    maintenance
	leases   leaseTable
	absent   absentTable
	recent   recentTable
	instance uint64 // tells this engine from those that had the volume open before
	// replayKey, if not nil, is of changes that were acknowledged before they were durable.
	replayKey atomic.Pointer[[]byte]
	opening   bool // Open has not returned: it ends sessions that do not come back
}

// Options are what an engine may be opened with. The zero value will do.
type Options struct {
	Logger   *slog.Logger     // nil: slog.Default
	ReadOnly bool             // every change gives EROFS; the store is not written to
	Clock    func() time.Time // nil: time.Now
	// AttrCache is how many inodes' attributes are kept in memory, about 250
	// bytes each. 0: DefaultAttrCache.
	AttrCache int
	// SessionLeases is how many inodes a session may have leases on. 0:
	// DefaultSessionLeases.
	SessionLeases int
	// Grace is how long sessions that can be resumed have to come back; 0: they are
	// ended.
	Grace time.Duration
	// LeaseGrace is how long, of that time, changes wait for sessions that are not back:
	// what they leased they may be using that long. 0: all the time.
	LeaseGrace time.Duration
}

// DefaultAttrCache is the default of Options.AttrCache.
const DefaultAttrCache = 1 << 16

// Batches of numbers: enough for the time that a slow disk needs to make the next
// one durable.
const (
	inoBatch   = 1 << 14
	blockBatch = 1 << 14
	maxBlockID = 1<<63 - 1
)

var errClosed = errors.New("the volume is closed")

// ErrNoVolume is wrapped by the error of opening a database without a volume.
var ErrNoVolume = errors.New("the database holds no volume")

// Create makes a volume in an empty database: EEXIST if it holds one, ENOTEMPTY if
// it holds anything else. f's Version and Created are set if they are zero. What it
// wrote is durable when it returns.
func Create(ctx context.Context, db kv.DB, f Format) error {
	if f.Version == 0 {
		f.Version = FormatVersion
		if f.Seal != nil {
			f.Version = EncryptedVersion
		}
	}
	if f.Created.IsZero() {
		f.Created = time.Now().UTC()
	}
	if err := f.Validate(); err != nil {
		return vfs.WithErrno(syscall.EINVAL, err)
	}
	text, err := json.Marshal(&f)
	if err != nil {
		return err
	}
	now := vfs.TimeOf(f.Created)
	root := inode{mode: syscall.S_IFDIR | 0o755, nlink: 2, gen: 1, parent: vfs.Root, next: firstCookie,
		atime: now, mtime: now, ctime: now, btime: now}
	err = db.Update(ctx, func(w kv.Txn) error {
		v := view{r: w}
		old, err := v.value(keyFormat())
		if err != nil {
			return err
		}
		if old != nil {
			var have Format
			if json.Unmarshal(old, &have) != nil {
				return vfs.WithErrno(syscall.EEXIST, errors.New("the database already holds a volume"))
			}
			return vfs.WithErrno(syscall.EEXIST, fmt.Errorf("the database already holds volume %q", have.Name))
		}
		err = w.Scan([]byte{0}, nil, func(_, _ []byte) (bool, error) {
			return false, vfs.WithErrno(syscall.ENOTEMPTY, errors.New("the database holds something that is not a volume"))
		})
		if err != nil {
			return err
		}
		w.Put(keyFormat(), text)
		w.Put(appendInodeKey(nil, vfs.Root), root.encode(nil))
		w.Put(keyCounter(counterIno), kv.CounterValue(int64(vfs.Root)+1))
		w.Put(keyCounter(counterBlock), kv.CounterValue(1))
		w.Put(keyCounter(counterSession), kv.CounterValue(1))
		w.Put(keyCounter(counterInodes), kv.CounterValue(1))
		w.Put(keyCounter(counterBytes), kv.CounterValue(0))
		if f.Retention > 0 {
			w.Put(keySince(), sinceRecord(stampOf(now)))
		}
		return nil
	})
	if err == nil {
		err = db.Sync(ctx)
	}
	return fail("create volume", f.Name, err)
}

// Open opens the volume in db, which stays the caller's to close, after the
// engine. Sessions that a crash has left are ended: inodes without a name go.
func Open(ctx context.Context, db kv.DB, o Options) (*Engine, error) {
	e := newEngine(db, o)
	err := e.view(ctx, func(v *view) error {
		f, err := v.format()
		if err != nil {
			return err
		}
		e.format.Store(f)
		snapshots := false
		err = v.r.Scan([]byte{kindSnapshot}, []byte{kindSnapshot + 1}, func(_, _ []byte) (bool, error) {
			snapshots = true
			return false, nil
		})
		if err != nil {
			return err
		}
		e.historyOn.Store(f.Retention > 0 || snapshots)
		if err := e.startClock(v); err != nil {
			return err
		}
		if err := e.loadPending(v); err != nil {
			return err
		}
		if err := e.loadReplayKey(v); err != nil {
			return err
		}
		return e.quotas.load(v, f)
	})
	e.opening = true
	if err == nil && !e.readOnly {
		err = e.keepAbsent(ctx, o)
	}
	if err == nil && !e.readOnly {
		err = e.endDeadSessions(ctx)
	}
	e.opening = false
	if err != nil {
		e.cancel()
		return nil, fail("open volume", "", err)
	}
	if !e.readOnly {
		e.startReaper()
		e.watchAbsent(o.Grace)
	}
	return e, nil
}

// newEngine makes an engine without settings.
func newEngine(db kv.DB, o Options) *Engine {
	e := &Engine{
		db: db, log: o.Logger, clockNow: o.Clock, readOnly: o.ReadOnly, maxLinks: MaxLinks,
		stripes: make([]stripe, lockStripes),
		uses:    newUseTable(), quotas: newQuotaTable(), sessions: make(map[uint64]*session),
	}
	if e.log == nil {
		e.log = slog.Default()
	}
	if e.clockNow == nil {
		e.clockNow = time.Now
	}
	if o.AttrCache == 0 {
		o.AttrCache = DefaultAttrCache
	}
	e.cache = newAttrCache(o.AttrCache)
	e.inos = newIDSource(e, counterIno, inoBatch, uint64(vfs.MaxIno))
	e.blocks = newIDSource(e, counterBlock, blockBatch, maxBlockID)
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.reaper.kick = make(chan struct{}, 1)
	e.recent.now.Store(1)
	e.instance = rand.Uint64()
	e.leases.limit = int64(o.SessionLeases)
	if e.leases.limit == 0 {
		e.leases.limit = DefaultSessionLeases
	}
	return e
}

// format reads the settings.
func (v *view) format() (*Format, error) {
	b, err := v.value(keyFormat())
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, vfs.WithErrno(syscall.ENOENT, ErrNoVolume)
	}
	f := new(Format)
	if err := json.Unmarshal(b, f); err != nil {
		return nil, fmt.Errorf("settings of the volume are unreadable (%v): %w", err, kv.ErrCorrupt)
	}
	if err := f.Validate(); err != nil {
		return nil, vfs.WithErrno(syscall.EINVAL, err)
	}
	return f, nil
}

// Settings returns the volume's settings.
func (e *Engine) Settings() Format { return *e.format.Load() }

// UpdateSettings changes settings that Format calls changeable: change gets the
// present ones and returns what is wrong, if anything is. EINVAL for an impossible
// setting or the change of a fixed one. They hold when it returns and are durable.
func (e *Engine) UpdateSettings(ctx context.Context, change func(*Format) error) error {
	err := e.updateAlone(ctx, nil, func(t *txn) error {
		old := e.Settings()
		f := old
		if err := change(&f); err != nil {
			return err
		}
		if err := f.Validate(); err != nil {
			return vfs.WithErrno(syscall.EINVAL, err)
		}
		fixed := f
		fixed.Compression, fixed.InlineLimit, fixed.Retention = old.Compression, old.InlineLimit, old.Retention
		fixed.QuotaBytes, fixed.QuotaInodes = old.QuotaBytes, old.QuotaInodes
		if f.Seal != nil && old.Seal != nil && f.Seal.KeyID == old.Seal.KeyID {
			fixed.Seal = old.Seal
		}
		if fixed != old {
			return vfs.WithErrno(syscall.EINVAL, errors.New("only compression, inline limit, retention, quotas and passphrase of a volume can be changed"))
		}
		text, err := json.Marshal(&f)
		if err != nil {
			return err
		}
		t.w.Put(keyFormat(), text)
		history, err := t.setHistory(f.Retention)
		if err != nil {
			return err
		}
		t.then = append(t.then, func() {
			e.format.Store(&f)
			e.historyOn.Store(history)
			e.quotas.mu.Lock()
			e.quotas.volume.limit = limitRecord{bytes: f.QuotaBytes, inodes: f.QuotaInodes}
			e.quotas.mu.Unlock()
		})
		return nil
	})
	if err == nil {
		err = e.db.Sync(ctx)
	}
	if err == nil {
		e.tellSettings()
	}
	return fail("change settings", "", err)
}

// SetSeal replaces the encryption record of the volume by another of the same key,
// if it still is old: EAGAIN if not, EINVAL for another key or none.
func (e *Engine) SetSeal(ctx context.Context, old, next *seal.Record) error {
	return e.UpdateSettings(ctx, func(f *Format) error {
		if !f.Seal.Equal(old) {
			return vfs.WithErrno(syscall.EAGAIN, errors.New("somebody else has changed the passphrase meanwhile"))
		}
		f.Seal = next
		return nil
	})
}

// Close ends all sessions and the engine's goroutines, and syncs. The database stays
// open.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	var open []*session
	for _, s := range e.sessions {
		open = append(open, s)
	}
	e.mu.Unlock()
	var errs []error
	for _, s := range open {
		if s.secret != nil && !e.readOnly { // its client may come back
			s.suspend()
			continue
		}
		errs = append(errs, s.Close())
	}
	e.cancel()
	e.tasks.Wait()
	if !e.readOnly {
		ctx := context.Background()
		errs = append(errs, e.db.Update(ctx, func(w kv.Txn) error {
			if err := e.stopClock(w); err != nil {
				return err
			}
			w.Delete(keyEarly()) // all is durable when this is
			return errors.Join(e.inos.giveBack(w), e.blocks.giveBack(w))
		}), e.db.Sync(ctx))
	}
	return fail("close volume", "", errors.Join(errs...))
}

// beginTask counts a goroutine that Close is to wait for: not when it has begun to.
func (e *Engine) beginTask() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.tasks.Add(1)
	}
	return !e.closed
}

func (e *Engine) now() vfs.Time { return vfs.TimeOf(e.clockNow()) }

// attr reads an inode, from the cache if it is there: ESTALE if it is gone.
func (e *Engine) attr(ctx context.Context, ino vfs.Ino, n *inode) error {
	if e.cache.get(ino, n) {
		return nil
	}
	got, err := e.readAttr(ctx, ino) // not into n: callers keep it on their stack
	*n = got
	return err
}

func (e *Engine) readAttr(ctx context.Context, ino vfs.Ino) (n inode, err error) {
	turn := e.cache.now()
	err = e.view(ctx, func(v *view) error { return v.inode(ino, &n) })
	if err == nil {
		e.cache.fill(ino, &n, turn)
	}
	return n, err
}

// fail gives an error operation and name, unless it needs neither: an errno alone
// says everything, and ErrLayout is for the client.
func fail(op, name string, err error) error {
	if err == nil || err == ErrLayout {
		return err
	}
	if _, bare := err.(syscall.Errno); bare {
		return err
	}
	return &vfs.Error{Op: op, Name: name, Err: err}
}
