// Package fsx exercises the data path of a file system: random operations on a
// few files, each checked against a copy of what the files must hold.
//
// The idea is Apple's old fsx program; this one is written anew. One goroutine
// draws operations from a seeded generator (read, write, append, truncate,
// mmap reads and writes, msync, fallocate, punch hole, zero range,
// copy_file_range, SEEK_DATA/SEEK_HOLE, fsync, drop of the page cache, reopen,
// O_DIRECT, a remount) and applies each to the file and to a shadow in memory.
// A read that differs from the shadow, a size that is wrong, a hole where data is, a
// SIGBUS or an unexpected error ends the run with an [Error] that holds the
// operations leading there. The same [Config] gives the same operations again.
//
// What a file system cannot do at all (EOPNOTSUPP at the first try) is left out
// unless [Config.Require] names it.
package fsx

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Config says what a run does. The zero value of a field means its default.
type Config struct {
	// Path is the first file, made anew; further files are Path.1, Path.2, …
	Path string
	// Seed chooses the operations.
	Seed uint64
	// Ops is how many operations to do; default 10,000.
	Ops int
	// Files is how many files are worked on in turn; default 1.
	Files int
	// MaxSize is the greatest size of a file, in bytes; default 256 KiB.
	MaxSize int64
	// MaxLen is the greatest length of one operation, in bytes; default 64 KiB.
	MaxLen int64
	// Align makes offsets and lengths multiples of it; default 1.
	Align int64
	// Direct adds reads and writes through a second, O_DIRECT descriptor.
	Direct bool
	// NoMmap leaves out operations through memory maps.
	NoMmap bool
	// SyncEvery is the mean number of operations between fsyncs; default 200, less
	// than 0: never.
	SyncEvery int
	// Remount, if set, is called about every RemountEvery operations (default
	// 10,000) with all files closed; afterwards their contents are compared.
	Remount      func() error
	RemountEvery int
	// Require names operations that must be there: "punch", "zero", "falloc",
	// "copy", "seek", "direct".
	Require []string
	// Without names operations to leave out, by the names of Result.Done.
	Without []string
	// Keep leaves the files there at the end; after a failure they always stay.
	Keep bool
	// Progress, if set, is told now and then how many operations are done.
	Progress func(done int)
}

func (c *Config) setDefaults() {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def64 := func(p *int64, v int64) {
		if *p <= 0 {
			*p = v
		}
	}
	def(&c.Ops, 10_000)
	def(&c.Files, 1)
	def(&c.SyncEvery, 200)
	def(&c.RemountEvery, 10_000)
	def64(&c.MaxSize, 256<<10)
	def64(&c.MaxLen, 64<<10)
	def64(&c.Align, 1)
	c.MaxLen = min(c.MaxLen, c.MaxSize)
}

// Result is what a clean run did.
type Result struct {
	Ops   int
	Done  map[string]int // operations by name
	Left  []string       // operations the file system has not
	Took  time.Duration
	Bytes int64 // read and written
}

// Error is a failed run.
type Error struct {
	Config Config
	Op     Op     // the operation that failed
	What   string // what was wrong
	Err    error  // may be nil
	// Log holds the last operations, oldest first, Op at its end.
	Log []Op
	// From and To bound the wrong bytes, where bytes were wrong (To > 0).
	From, To int64
}

func (e *Error) Unwrap() error { return e.Err }

// Error describes the failure: seed, operation and the operations before it that
// touched the wrong bytes.
func (e *Error) Error() string {
	text := fmt.Sprintf("fsx: seed %d, operation %d (%s): %s", e.Config.Seed, e.Op.N, e.Op, e.What)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	var last []Op
	for _, op := range e.Log {
		if op.File == e.Op.File && (e.To == 0 || op.touches(e.From, e.To)) || op.Kind == opRemount {
			last = append(last, op)
		}
	}
	for _, op := range last[max(0, len(last)-25):] {
		text += fmt.Sprintf("\n\t%7d %s", op.N, op)
	}
	return text
}

// logSize is how many operations are kept for an Error.
const logSize = 4096

// runner is a run under way.
type runner struct {
	cfg   Config
	rng   *rand.Rand
	files []*file
	log   []Op // a ring
	n     int  // operations begun
	table []weighted
	res   Result
	buf   []byte // MaxLen, aligned for O_DIRECT
}

// Run does the operations of cfg. It returns an *Error if the file system was
// wrong, another error if the run could not be done.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	cfg.setDefaults()
	r := &runner{
		cfg: cfg,
		rng: rand.New(rand.NewPCG(cfg.Seed, 0x6d617373)),
		res: Result{Done: map[string]int{}},
		buf: alignedBuffer(cfg.MaxLen),
	}
	start := time.Now()
	if err := r.open(); err != nil {
		return nil, err
	}
	defer r.close()
	if err := r.probe(); err != nil {
		return nil, err
	}
	for r.n < cfg.Ops {
		if r.n%256 == 0 && ctx.Err() != nil {
			return nil, fmt.Errorf("fsx: after %d operations: %w", r.n, ctx.Err())
		}
		if err := r.step(); err != nil {
			return nil, err
		}
		if cfg.Progress != nil && r.n%10_000 == 0 {
			cfg.Progress(r.n)
		}
	}
	for _, f := range r.files {
		if err := r.finish(f); err != nil {
			return nil, err
		}
	}
	r.res.Ops, r.res.Took = r.n, time.Since(start)
	return &r.res, nil
}

// open makes the files.
func (r *runner) open() error {
	for i := range r.cfg.Files {
		path := r.cfg.Path
		if i > 0 {
			path = fmt.Sprintf("%s.%d", path, i)
		}
		f := &file{index: i, path: path, shadow: make([]byte, 0, r.cfg.MaxSize), direct: r.cfg.Direct}
		r.files = append(r.files, f)
		if err := f.open(os.O_RDWR | os.O_CREATE | os.O_TRUNC); err != nil {
			r.close()
			return fmt.Errorf("fsx: %w", err)
		}
	}
	return nil
}

func (r *runner) close() {
	for _, f := range r.files {
		f.close()
	}
}

// probe finds what the file system can do and makes the table of operations.
func (r *runner) probe() error {
	f := r.files[0]
	missing := map[string]bool{}
	for _, p := range probes {
		err := p.try(f, filepath.Dir(r.cfg.Path))
		if err == nil {
			continue
		}
		if !unsupported(err) {
			return fmt.Errorf("fsx: trying %s: %w", p.name, err)
		}
		missing[p.name] = true
		r.res.Left = append(r.res.Left, p.name)
		if slices.Contains(r.cfg.Require, p.name) {
			return fmt.Errorf("fsx: the file system has no %s: %w", p.name, err)
		}
	}
	if missing["direct"] {
		for _, f := range r.files {
			f.direct = false
		}
	}
	if err := f.reset(); err != nil {
		return fmt.Errorf("fsx: %w", err)
	}
	for _, w := range weights {
		if !missing[w.kind.needs()] && !slices.Contains(r.cfg.Without, w.kind.String()) && !(w.kind.mapped() && r.cfg.NoMmap) && !(w.kind.isDirect() && !f.direct) {
			r.table = append(r.table, w)
		}
	}
	return nil
}

// step does one operation.
func (r *runner) step() (err error) {
	op := r.choose()
	r.n++
	op.N = r.n
	f := r.files[op.File]
	op.Size = f.size()
	r.note(op)
	r.res.Done[op.Kind.String()]++
	if what := r.apply(f, op); what != nil {
		return r.failed(op, what)
	}
	return nil
}

func (r *runner) note(op Op) {
	if len(r.log) < logSize {
		r.log = append(r.log, op)
		return
	}
	r.log[(op.N-1)%logSize] = op
}

// failed makes the Error of an operation.
func (r *runner) failed(op Op, err error) error {
	e := &Error{Config: r.cfg, Op: op}
	var wrong *wrongError
	if errors.As(err, &wrong) {
		e.What, e.From, e.To = wrong.what, wrong.from, wrong.to
	} else {
		e.What, e.Err = "failed", err
	}
	e.Log = slices.Clone(r.log)
	slices.SortFunc(e.Log, func(a, b Op) int { return a.N - b.N })
	return e
}

// finish compares a whole file a last time and removes it.
func (r *runner) finish(f *file) error {
	op := Op{N: r.n, Kind: opReopen, File: f.index, Size: f.size()}
	if err := r.apply(f, op); err != nil {
		return r.failed(op, err)
	}
	if err := f.compare(r.buf); err != nil {
		return r.failed(op, err)
	}
	if err := f.close(); err != nil {
		return r.failed(op, err)
	}
	if r.cfg.Keep {
		return nil
	}
	return os.Remove(f.path)
}
