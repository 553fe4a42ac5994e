// Package fsxtree exercises the namespace of a file system: several goroutines make,
// rename, link, change and remove files, directories, links and fifos at random,
// each in a subtree of its own, and compare each answer (result or errno) and now and
// then the whole subtree with a model in memory.
//
// The operations of a worker depend on the seed and its number alone, so a failure
// can be had again. [Exerciser.Check] compares everything, and may be called after a
// remount; [Take] and [Diff] compare any two trees.
package fsxtree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// Config says what an Exerciser does. The zero value of a field means its default.
type Config struct {
	// Dir is an existing directory; the subtrees w0, w1, … are made in it.
	Dir string
	// Seed chooses the operations.
	Seed uint64
	// Workers is how many goroutines work side by side; default 4.
	Workers int
	// MaxNodes is about how many names a worker's subtree has at most; default 300.
	MaxNodes int
	// NoXattr and NoExchange leave operations out.
	NoXattr, NoExchange bool
}

// Error is a wrong answer.
type Error struct {
	Seed   uint64
	Worker int
	N      int      // the operation, counted by worker from 1
	Log    []string // the worker's last operations, the failed one at the end
	What   string
}

func (e *Error) Error() string {
	text := fmt.Sprintf("fsxtree: seed %d, worker %d, operation %d: %s", e.Seed, e.Worker, e.N, e.What)
	for _, l := range e.Log {
		text += "\n\t" + l
	}
	return text
}

// Exerciser holds the subtrees' models.
type Exerciser struct {
	cfg     Config
	workers []*worker
}

// New makes the subtrees.
func New(cfg Config) (*Exerciser, error) {
	if cfg.Workers <= 0 {
		cfg.Workers = 4
	}
	if cfg.MaxNodes <= 0 {
		cfg.MaxNodes = 300
	}
	e := &Exerciser{cfg: cfg}
	for i := range cfg.Workers {
		dir := filepath.Join(cfg.Dir, fmt.Sprintf("w%d", i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, fmt.Errorf("fsxtree: %w", err)
		}
		e.workers = append(e.workers, newWorker(cfg, i, dir))
	}
	return e, nil
}

// Run does n operations in each subtree. It returns an *Error for a wrong answer.
func (e *Exerciser) Run(ctx context.Context, n int) error {
	errs := make([]error, len(e.workers))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for i, w := range e.workers {
		wg.Go(func() {
			for range n {
				if errs[i] = ctx.Err(); errs[i] != nil {
					return
				}
				if errs[i] = w.step(); errs[i] != nil {
					cancel()
					return
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		var wrong *Error
		if errors.As(err, &wrong) {
			return err
		}
	}
	return errors.Join(errs...)
}

// Check compares all subtrees with their models. Unlinked files that workers keep
// open are looked at too, unless CloseAll was called.
func (e *Exerciser) Check() error {
	for _, w := range e.workers {
		if err := w.checkHeld(); err != nil {
			return err
		}
		got, err := Take(w.dir)
		if err != nil {
			return fmt.Errorf("fsxtree: %w", err)
		}
		what := What{NoMtime: true, NoXattr: e.cfg.NoXattr, NoSystemXattr: true}
		if diff := Diff(w.root.snapshot(), got, what); diff != "" {
			return w.failed("the subtree differs:\n" + diff)
		}
	}
	return nil
}

// CloseAll closes the unlinked files that workers keep open, as must be before an
// unmount.
func (e *Exerciser) CloseAll() error {
	var errs []error
	for _, w := range e.workers {
		for _, h := range w.held {
			errs = append(errs, h.f.Close())
		}
		w.held = nil
	}
	return errors.Join(errs...)
}

// Names is how many names there are now.
func (e *Exerciser) Names() int {
	n := 0
	for _, w := range e.workers {
		n += w.nodes
	}
	return n
}
