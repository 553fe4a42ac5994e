// Bench measures Massif beside the plain local file system.
//
//	make bench
//	go run ./internal/bench -massif bin/massif -quick
//
// One run does the same work on each file system ([Target]): a directory of the
// local disk, a Massif volume whose blocks lie on that disk, a shared one (by way of a
// metadata server on the same machine), and, where their programs are on PATH, bindfs
// (what FUSE itself costs) and JuiceFS with a directory store, with its embedded
// metadata engine and with a Redis. Machines differ and are busy with other
// things, so only ratios within one run mean something: the targets take turns,
// in another order each round, and the table gives medians over rounds and how
// many times faster Massif is than each other.
//
// Nothing passes or fails by time. Wrong data is an error, not a fast answer: every
// block that is read back is checked.
//
// A row's cold state means: unmounted, its own disk cache wiped, the kernel's caches
// dropped, mounted again. Only root can drop the kernel's caches; without root
// such rows are left out.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Config says what to measure.
type Config struct {
	// Work is a directory on the disk to measure on; everything made there is
	// removed again.
	Work string
	// Targets are the file systems, Massif's first being the one compared.
	Targets []Target
	// Rounds is how often everything is measured; 0: 3.
	Rounds int
	// Scale multiplies the amounts of work; 0: 1. A tenth is right for a first look.
	Scale float64
	// Match keeps only sections and rows with these names; empty: all. A row that
	// needs the files of an earlier one makes that one run too.
	Match []string
	// Limit bounds one row, after which the rate so far counts; 0: 30 seconds.
	Limit time.Duration
	// Log, if set, is told what is being done.
	Log func(format string, args ...any)
}

// Sample is one measured value.
type Sample struct {
	Round  int     `json:"round"`
	Target string  `json:"target"`
	Row    string  `json:"row"`
	Value  float64 `json:"value"`
	// Capped: the time was over before the work; the value is the rate till then.
	Capped bool `json:"capped,omitempty"`
	// Warm: the kernel's caches could not be dropped before.
	Warm bool   `json:"warm,omitempty"`
	Err  string `json:"error,omitempty"`
}

// Report is the outcome of a run.
type Report struct {
	Time    time.Time         `json:"time"`
	Machine string            `json:"machine"`
	Scale   float64           `json:"scale"`
	Targets []string          `json:"targets"`
	Units   map[string]string `json:"units"` // by row
	Rows    []string          `json:"rows"`
	Samples []Sample          `json:"samples"`
}

// Run measures. The error is about the run itself; a row that fails on a file
// system is a Sample with Err.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	if cfg.Rounds <= 0 {
		cfg.Rounds = 3
	}
	if cfg.Scale <= 0 {
		cfg.Scale = 1
	}
	if cfg.Limit <= 0 {
		cfg.Limit = 30 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = func(string, ...any) {}
	}
	if len(cfg.Targets) == 0 {
		return nil, errors.New("bench: nothing to measure")
	}
	rows, err := chosen(cfg.Match)
	if err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(cfg.Work, "massif-bench-")
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer os.RemoveAll(work)
	in, err := makeInputs(work, cfg.Scale, rows)
	if err != nil {
		return nil, fmt.Errorf("bench: making the inputs: %w", err)
	}
	rep := &Report{Time: time.Now(), Machine: machine(), Scale: cfg.Scale, Units: map[string]string{}}
	for _, t := range cfg.Targets {
		rep.Targets = append(rep.Targets, t.Name())
	}
	var caches caches
	for round := range cfg.Rounds {
		for i := range cfg.Targets {
			// Another order each round: whoever comes first finds another machine.
			t := cfg.Targets[(i+round)%len(cfg.Targets)]
			cfg.Log("round %d of %d: %s", round+1, cfg.Rounds, t.Name())
			s := &session{cfg: cfg, in: in, target: t, round: round, rep: rep, caches: &caches,
				dir: filepath.Join(work, fmt.Sprintf("%s.%d", t.Name(), round))}
			if err := s.run(ctx, rows); err != nil {
				return nil, fmt.Errorf("bench: %s: %w", t.Name(), err)
			}
		}
	}
	for _, r := range append(slices.Clone(rows), costRows...) {
		rep.Rows = append(rep.Rows, r.name)
		rep.Units[r.name] = r.unit
	}
	return rep, nil
}

// session measures one target in one round.
type session struct {
	cfg    Config
	in     *inputs
	target Target
	round  int
	rep    *Report
	dir    string // the target's directory
	mnt    string // where the work is done
	caches *caches
	usage  usage
}

func (s *session) run(ctx context.Context, rows []row) (err error) {
	s.mnt = filepath.Join(s.dir, "mnt")
	if err := os.MkdirAll(s.mnt, 0o755); err != nil {
		return err
	}
	state := filepath.Join(s.dir, "state")
	if err := os.MkdirAll(state, 0o755); err != nil {
		return err
	}
	if err := s.target.Setup(ctx, state); err != nil {
		return err
	}
	if err := s.target.Mount(ctx, state, s.mnt); err != nil {
		return errors.Join(err, s.target.Teardown(context.WithoutCancel(ctx), state))
	}
	defer func() {
		// Also when the run was interrupted.
		ctx := context.WithoutCancel(ctx)
		s.usage.gather(daemons(s.mnt)...)
		var server usage
		t, isServed := s.target.(*served)
		if isServed {
			server.gather(t.serverPID())
		}
		err = errors.Join(err, s.target.Unmount(ctx, state, s.mnt), s.target.Teardown(ctx, state))
		if err == nil {
			err = os.RemoveAll(s.dir)
		}
		if err == nil && s.target.Name() != LocalName {
			s.add("cpu", Sample{Value: s.usage.cpu.Seconds()})
			s.add("memory_peak", Sample{Value: float64(s.usage.peak) / (1 << 20)})
		}
		if err == nil && isServed {
			s.add("server_cpu", Sample{Value: server.cpu.Seconds()})
			s.add("server_memory_peak", Sample{Value: float64(server.peak) / (1 << 20)})
		}
	}()
	dead := false
	for _, r := range rows {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if dead {
			s.add(r.name, Sample{Err: "the file system had failed before"})
			continue
		}
		v, err := s.measure(ctx, r, state)
		switch {
		case errors.Is(err, errNeedsRoot):
			continue
		case err != nil:
			s.cfg.Log("  %-24s %v", r.name, err)
			s.add(r.name, Sample{Err: err.Error()})
			dead = errors.Is(err, errMount)
		default:
			s.cfg.Log("  %-24s %12.1f %s", r.name, v.Value, r.unit)
			s.add(r.name, v)
		}
	}
	return nil
}

func (s *session) add(name string, v Sample) {
	v.Round, v.Target, v.Row = s.round, s.target.Name(), name
	s.rep.Samples = append(s.rep.Samples, v)
}

var (
	errNeedsRoot = errors.New("only root can drop the kernel's caches")
	errMount     = errors.New("cannot mount again")
)

// measure brings the file system into the state that a row asks for and runs it.
func (s *session) measure(ctx context.Context, r row, state string) (v Sample, err error) {
	if r.prep != asIs && os.Geteuid() != 0 {
		return v, errNeedsRoot
	}
	if r.prep == cold {
		s.usage.gather(daemons(s.mnt)...)
		if err := s.target.Unmount(ctx, state, s.mnt); err != nil {
			return v, fmt.Errorf("%w: %w", errMount, err)
		}
		if err := s.target.Wipe(ctx, state); err != nil {
			return v, err
		}
	}
	if r.prep != asIs {
		err := s.caches.drop(s.mnt)
		if errors.Is(err, errStuck) {
			s.cfg.Log("  %v", err)
			v.Warm = true
		} else if err != nil {
			return v, err
		}
	}
	if r.prep == cold {
		if err := s.target.Mount(ctx, state, s.mnt); err != nil {
			return v, fmt.Errorf("%w: %w", errMount, err)
		}
	}
	w := &work{in: s.in, dir: filepath.Join(s.mnt, r.dir), scale: s.cfg.Scale, threads: max(r.threads, 1), limit: s.cfg.Limit}
	// A file system that hangs is cut off: its calls then fail.
	hung := time.AfterFunc(4*s.cfg.Limit, func() { abort(s.mnt) })
	defer hung.Stop()
	w.begin()
	v.Value, err = r.do(w)
	v.Capped = w.capped
	return v, err
}
