package crashtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// LoadConfig says what a Load does. The zero value of a field means its default.
type LoadConfig struct {
	Seed    uint64
	Workers int // goroutines; default 4
	// Bigs is the greatest size of large files, in bytes; default 6 MiB.
	Bigs int
	// Torn: a server that is killed may leave the first part of a write, as one does
	// that forwards it to a local file system. Files that were never synced may then
	// be short.
	Torn bool
}

// Load puts load on a directory and keeps the journal of what was acknowledged. Each
// worker has a directory of its own with files of several kinds (the actors); one
// goroutine does everything with them, so the journal knows exactly what was done
// when the server died: what an fsync had acknowledged must be there; what came
// later may be there or not, but never in part.
type Load struct {
	cfg     LoadConfig
	dir     string
	workers []*loader

	dying atomic.Bool
	died  func(within time.Duration) bool // the server is dead; set by Start
	stop  chan struct{}
	wg    sync.WaitGroup
	errs  []error

	ops, synced, checked atomic.Int64
}

// loader is one worker.
type loader struct {
	load   *Load
	dir    string
	rng    *rand.Rand
	made   bool // its directory is durably there
	actors []actor
}

// actor is a group of files that are used in one way.
type actor interface {
	// act does one thing. An error leaves the journal such that what was not
	// acknowledged counts as pending.
	act() error
	// verify compares with the journal after a restart, and takes what it finds as
	// the new truth.
	verify() error
}

// NewLoad prepares load on a directory that may yet have to be mounted.
func NewLoad(dir string, cfg LoadConfig) *Load {
	if cfg.Workers <= 0 {
		cfg.Workers = 4
	}
	if cfg.Bigs <= 0 {
		cfg.Bigs = 6 << 20
	}
	l := &Load{cfg: cfg, dir: dir}
	for i := range cfg.Workers {
		w := &loader{load: l, dir: filepath.Join(dir, fmt.Sprintf("w%d", i)), rng: rand.New(rand.NewPCG(cfg.Seed, uint64(i)+100))}
		w.actors = []actor{
			newReplacer(w), newSmalls(w), newAppender(w), newAppender(w), newOverwriter(w),
			newMover(w), newBigs(w), newMeta(w), newUnlinked(w),
		}
		l.workers = append(l.workers, w)
	}
	return l
}

// Counts is how many operations were acknowledged, how many of them made durable, and
// how many files were compared.
func (l *Load) Counts() (ops, synced, checked int) {
	return int(l.ops.Load()), int(l.synced.Load()), int(l.checked.Load())
}

// Start puts load on the mount until Stop. died tells whether the server dies
// within a time: errors are then its death's.
func (l *Load) Start(died func(within time.Duration) bool) {
	l.died = died
	l.dying.Store(false)
	l.stop = make(chan struct{})
	l.errs = make([]error, len(l.workers))
	for i, w := range l.workers {
		l.wg.Go(func() { l.errs[i] = w.run() })
	}
}

// Dying says that from now on errors are to be expected.
func (l *Load) Dying() { l.dying.Store(true) }

// Stop ends the load and returns errors that came before Dying.
func (l *Load) Stop() error {
	close(l.stop)
	l.wg.Wait()
	return errors.Join(l.errs...)
}

func (w *loader) run() error {
	for {
		select {
		case <-w.load.stop:
			return nil
		default:
		}
		err := w.step()
		switch {
		case err == nil:
		case w.load.dying.Load() || gone(err) || w.load.died(time.Second):
			// The harness knows whether it was the server's time to die.
			return nil
		default:
			return err
		}
	}
}

func (w *loader) step() error {
	if !w.made {
		if err := os.Mkdir(w.dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := w.syncDir(w.load.dir); err != nil {
			return err
		}
		w.made = true
	}
	return w.actors[w.rng.IntN(len(w.actors))].act()
}

// gone tells whether an error says that no server answers any more.
func gone(err error) bool {
	return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED)
}

// Verify compares all files with the journal.
func (l *Load) Verify() error {
	errs := make([]error, len(l.workers))
	var wg sync.WaitGroup
	for i, w := range l.workers {
		wg.Go(func() {
			if !w.made {
				return
			}
			for _, a := range w.actors {
				if err := a.verify(); err != nil {
					errs[i] = errors.Join(errs[i], err)
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// did counts acknowledged operations.
func (w *loader) did(ops int) { w.load.ops.Add(int64(ops)) }

// syncDir makes the names in a directory durable.
func (w *loader) syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return w.syncClose(d, nil)
}

// syncClose makes f durable and closes it, unless err is set already; durable means
// that the fsync returned.
func (w *loader) syncClose(f *os.File, err error) error {
	if err == nil {
		if err = f.Sync(); err == nil {
			w.load.synced.Add(1)
		}
	}
	return errors.Join(err, f.Close())
}

func (w *loader) path(name string) string { return filepath.Join(w.dir, name) }

// check counts a comparison.
func (w *loader) check() { w.load.checked.Add(1) }

// wrongf says that a file is not what it must be.
func wrongf(path, format string, args ...any) error {
	return fmt.Errorf("LOST OR WRONG: %s: "+format, append([]any{path}, args...)...)
}
