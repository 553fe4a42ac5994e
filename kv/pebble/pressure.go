package pebble

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// pressure holds commits back while the storage engine cannot take them: it
// waits while tables in memory or merging lag behind, unless that is because
// they fail, and refuses while the disk is full.
//
// Pebble's events only say that something changed (they come with its locks
// held); the next commit looks.
type pressure struct {
	db      *DB
	changed atomic.Bool // look again before the next commit
	behind  atomic.Bool // flushes or merges lag
	low     atomic.Int32
	bytes   atomic.Int64 // written since the last look

	mu       sync.Mutex
	event    chan struct{} // closed and replaced when a flush or merge ends
	err      error         // of the last flush or merge, if it failed
	errTill  time.Time     // err is believed until then
	nextLook time.Time     // not before this while space is low
}

const (
	spaceFine  = int32(iota) // all commits are admitted
	spaceLow                 // only those that delete
	spaceSpent               // none
)

const (
	lookEvery = 4 << 20                // bytes committed between two looks at the free space
	lookPause = 50 * time.Millisecond  // between two looks while space is low
	errPause  = 500 * time.Millisecond // how long a failed flush or merge is believed; they are repeated meanwhile
)

func (p *pressure) init(db *DB) {
	p.db = db
	p.event = make(chan struct{})
}

// written counts the bytes of a commit.
func (p *pressure) written(n int) {
	if p.bytes.Add(int64(n)) >= lookEvery {
		p.changed.Store(true)
	}
}

// admit returns when t may commit, or why it may not.
func (p *pressure) admit(ctx context.Context, t *txn) error {
	for {
		if p.changed.CompareAndSwap(true, false) {
			p.refresh()
		}
		if level := p.low.Load(); level != spaceFine {
			p.lookAgain()
			if level = p.low.Load(); level == spaceSpent || level == spaceLow && !t.deletes {
				return fmt.Errorf("commit to database %s: %w", p.db.dir, syscall.ENOSPC)
			}
		}
		if !p.behind.Load() {
			return nil
		}
		p.mu.Lock()
		event, err := p.event, p.failure()
		p.mu.Unlock()
		if err != nil {
			return fmt.Errorf("commit to database %s: background work fails: %w", p.db.dir, err)
		}
		if p.changed.Load() {
			continue // it ended just now
		}
		select {
		case <-event:
			p.changed.Store(true)
		case <-ctx.Done():
			return ctx.Err()
		case <-p.db.down:
			return p.db.failure()
		case <-time.After(lookPause):
			p.changed.Store(true) // space may have run out meanwhile
		}
	}
}

// refresh looks at the state of the engine and at the free space.
func (p *pressure) refresh() {
	if p.db.options.ReadOnly {
		return
	}
	p.bytes.Store(0)
	m := p.db.p.Metrics()
	p.behind.Store(m.MemTable.Size >= uint64(maxMemTables*p.db.options.MemTableBytes) ||
		m.Levels[0].Sublevels >= maxSublevels)
	p.lookAtSpace()
}

// lookAgain looks at the free space, but not all the time.
func (p *pressure) lookAgain() {
	p.mu.Lock()
	due := time.Now().After(p.nextLook)
	p.mu.Unlock()
	if due {
		p.lookAtSpace()
	}
}

func (p *pressure) lookAtSpace() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nextLook = time.Now().Add(lookPause)
	level := spaceFine
	if isFull(p.failure()) {
		level = spaceLow
	}
	reserve := p.db.options.ReserveBytes
	if reserve > 0 {
		// A file system that cannot tell is taken to have space.
		if u, err := p.db.options.FS.GetDiskUsage(p.db.dir); err == nil {
			want := min(uint64(reserve), u.TotalBytes/20)
			switch {
			case u.AvailBytes < want/4:
				level = spaceSpent
			case u.AvailBytes < want:
				level = max(level, spaceLow)
			}
		}
	}
	if old := p.low.Swap(level); old == spaceFine && level != spaceFine {
		p.db.options.Logger.Warn("metadata database refuses changes: disk full", "path", p.db.dir)
	} else if old != spaceFine && level == spaceFine {
		p.db.options.Logger.Info("metadata database accepts changes again", "path", p.db.dir)
	}
}

// failure is why background work fails at present. p.mu is held.
func (p *pressure) failure() error {
	if p.err != nil && time.Now().After(p.errTill) {
		p.err = nil
	}
	return p.err
}

// failed is called when a background job has failed and will be repeated.
func (p *pressure) failed(err error) {
	p.mu.Lock()
	p.err, p.errTill = err, time.Now().Add(errPause)
	if isFull(err) {
		p.low.CompareAndSwap(spaceFine, spaceLow)
	}
	p.mu.Unlock()
	p.ended(err)
}

// ended is called when a background job has ended. An error here need not be a
// failure: a flush may have found nothing to write, a merge may have been
// cancelled. Failures are reported on their own.
func (p *pressure) ended(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.err = nil
	}
	p.changed.Store(true)
	close(p.event)
	p.event = make(chan struct{})
}

// events connects Pebble's events. They come with locks of Pebble held, so they
// must not call it.
func (db *DB) events() *pebble.EventListener {
	log := func(level slog.Level, what string, args ...any) {
		db.options.Logger.Log(context.Background(), level, "metadata database: "+what, append(args, "path", db.dir)...)
	}
	return &pebble.EventListener{
		BackgroundError: func(err error) {
			if !db.disk.dead.Load() {
				log(slog.LevelWarn, "background work failed, will be repeated", "error", err)
			}
			db.pressure.failed(err)
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			log(slog.LevelError, "damaged file", "file", info.Path, "error", info.Details)
		},
		DiskSlow:      func(info pebble.DiskSlowInfo) { log(slog.LevelWarn, "slow disk", "event", info.String()) },
		FlushEnd:      func(info pebble.FlushInfo) { db.pressure.ended(info.Err) },
		CompactionEnd: func(info pebble.CompactionInfo) { db.pressure.ended(info.Err) },
		WALCreated:    func(pebble.WALCreateInfo) { db.pressure.changed.Store(true) },
	}
}
