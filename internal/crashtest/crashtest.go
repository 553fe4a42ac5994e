// Package crashtest kills a file system's server again and again under load and
// checks after each death that nothing acknowledged was lost.
//
// One cycle: start the server, compare all files with the journal of what was
// acknowledged in earlier cycles, put load on the mount, let the server die by
// SIGKILL (at a random time, or at a point of internal/crashpoint drawn at random),
// clear the dead mount away. The load and the journal live in this process,
// outside the mount, so they survive; see [Load] for what the load does and what
// is asked of the files afterwards.
//
// Now and then, with nothing mounted, the caller's own check runs: fsck, gc, a
// count of the store's objects.
package crashtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/internal/crashpoint"
)

// Config says what to kill and how often.
type Config struct {
	// Server makes the command that serves the mount in the foreground. Its
	// environment and output are set by Run where they are nil.
	Server func() *exec.Cmd
	// Mnt is the mount point.
	Mnt string
	// Scratch is a directory outside the mount.
	Scratch string
	// Cycles is how often the server is killed.
	Cycles int
	// Seed chooses times, points and the load.
	Seed uint64
	// MinLoad and MaxLoad bound how long a server lives under load; default 100
	// and 600 ms.
	MinLoad, MaxLoad time.Duration
	// Points is the share of cycles that end at a crash point rather than at a
	// random time, 0 to 1. Points are those that servers were seen to pass.
	Points float64
	// Only keeps only points with these names; empty: all.
	Only []string
	// Check is called with nothing mounted after every Every cycles (default 20)
	// and at the end.
	Check func(ctx context.Context) error
	Every int
	// Load says what the load does.
	Load LoadConfig
	// Log, if set, is told about cycles.
	Log func(format string, args ...any)
}

// Result is what a run did.
type Result struct {
	Kills   int            // servers that died
	AtPoint map[string]int // how many of them died at which point
	Seen    []string       // points that were passed
	Ops     int            // operations acknowledged
	Synced  int            // of them, made durable by an fsync
	Checked int            // files compared after restarts
	Took    time.Duration
}

// runner is a run under way.
type runner struct {
	cfg  Config
	rng  *rand.Rand
	load *Load
	res  Result
	seen map[string]bool
}

// Run kills servers. An error that is not about the harness itself means that
// the file system lost or mixed up data, and says what.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	if cfg.MinLoad <= 0 {
		cfg.MinLoad = 100 * time.Millisecond
	}
	if cfg.MaxLoad < cfg.MinLoad {
		cfg.MaxLoad = max(600*time.Millisecond, cfg.MinLoad)
	}
	if cfg.Every <= 0 {
		cfg.Every = 20
	}
	if cfg.Log == nil {
		cfg.Log = func(string, ...any) {}
	}
	if cfg.Check == nil {
		cfg.Check = func(context.Context) error { return nil }
	}
	cfg.Load.Seed = cfg.Seed
	r := &runner{
		cfg:  cfg,
		rng:  rand.New(rand.NewPCG(cfg.Seed, 1)),
		load: NewLoad(cfg.Mnt, cfg.Load),
		res:  Result{AtPoint: map[string]int{}},
		seen: map[string]bool{},
	}
	start := time.Now()
	err := r.run(ctx)
	clear(cfg.Mnt)
	r.res.Took = time.Since(start)
	for name := range r.seen {
		r.res.Seen = append(r.res.Seen, name)
	}
	slices.Sort(r.res.Seen)
	r.res.Ops, r.res.Synced, r.res.Checked = r.load.Counts()
	return &r.res, err
}

func (r *runner) run(ctx context.Context) error {
	for cycle := 1; cycle <= r.cfg.Cycles; cycle++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.cycle(ctx, cycle); err != nil {
			return fmt.Errorf("seed %d, cycle %d: %w", r.cfg.Seed, cycle, err)
		}
		if cycle%r.cfg.Every == 0 || cycle == r.cfg.Cycles {
			if err := r.cfg.Check(ctx); err != nil {
				return fmt.Errorf("seed %d, after cycle %d: %w", r.cfg.Seed, cycle, err)
			}
			r.cfg.Log("%d kills, %d operations", r.res.Kills, r.load.ops.Load())
		}
	}
	// A last look, and an orderly end.
	s, err := r.start(ctx, "")
	if err != nil {
		return err
	}
	defer s.kill()
	if err := r.load.Verify(); err != nil {
		return fmt.Errorf("seed %d, at the end: %w\n%s", r.cfg.Seed, err, s.said())
	}
	if err := s.end(); err != nil {
		return err
	}
	return r.cfg.Check(ctx)
}

// cycle is one life of a server.
func (r *runner) cycle(ctx context.Context, cycle int) error {
	point := r.drawPoint()
	s, err := r.start(ctx, point)
	if err != nil {
		return err
	}
	defer s.kill()
	// A point may strike while files are compared: reading commits things too.
	if err := r.load.Verify(); err != nil && !s.diedWithin(time.Second) {
		return fmt.Errorf("%w\n%s", err, s.said())
	}
	life := r.cfg.MinLoad + time.Duration(r.rng.Int64N(int64(r.cfg.MaxLoad-r.cfg.MinLoad)+1))
	if point != "" {
		life = r.cfg.MaxLoad * 2 // time to get there
	}
	r.load.Start(s.diedWithin)
	select {
	case <-s.dead:
	case <-time.After(life):
	case <-ctx.Done():
	}
	byItself := s.isDead()
	r.load.Dying() // errors from here on are the kill's
	s.kill()
	errs := r.load.Stop()
	if byItself && point == "" {
		return fmt.Errorf("the server died by itself: %v\n%s", s.state, s.said())
	}
	if errs != nil {
		return fmt.Errorf("before the kill: %w\n%s", errs, s.said())
	}
	r.res.Kills++
	if byItself {
		name, _, _ := strings.Cut(point, ":")
		r.res.AtPoint[name]++
	}
	r.learn(s)
	return clear(r.cfg.Mnt)
}

// drawPoint draws a point and a count, or "".
func (r *runner) drawPoint() string {
	var names []string
	for name := range r.seen {
		if len(r.cfg.Only) == 0 || slices.Contains(r.cfg.Only, name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 || r.rng.Float64() >= r.cfg.Points {
		return ""
	}
	slices.Sort(names)
	// Points that have struck least come first, so that rare ones get their turn.
	slices.SortStableFunc(names, func(a, b string) int { return r.res.AtPoint[a] - r.res.AtPoint[b] })
	name := names[r.rng.IntN(min(len(names), 1+len(names)/2))]
	return fmt.Sprintf("%s:%d", name, 1+int(r.rng.ExpFloat64()*15))
}

// learn notes the points that a server passed.
func (r *runner) learn(s *server) {
	b, err := os.ReadFile(s.seenFile)
	if err != nil {
		return // it passed none
	}
	for name := range strings.FieldsSeq(string(b)) {
		r.seen[name] = true
	}
}

// server is one living server.
type server struct {
	cmd      *exec.Cmd
	mnt      string
	seenFile string
	logFile  string
	dead     chan struct{}
	state    error // valid after dead is closed
}

// start starts a server and waits until its mount answers.
func (r *runner) start(ctx context.Context, point string) (*server, error) {
	s := &server{
		cmd: r.cfg.Server(), mnt: r.cfg.Mnt, dead: make(chan struct{}),
		seenFile: filepath.Join(r.cfg.Scratch, "points"), logFile: filepath.Join(r.cfg.Scratch, "server.log"),
	}
	log, err := os.Create(s.logFile)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if s.cmd.Env == nil {
		s.cmd.Env = os.Environ()
	}
	s.cmd.Env = append(s.cmd.Env, crashpoint.EnvSeen+"="+s.seenFile)
	if point != "" {
		s.cmd.Env = append(s.cmd.Env, crashpoint.EnvAt+"="+point)
	}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.state = s.cmd.Wait()
		close(s.dead)
	}()
	for deadline := time.Now().Add(30 * time.Second); ; {
		if mounted(s.mnt) {
			return s, nil
		}
		select {
		case <-s.dead:
			if point != "" {
				// It struck while starting: start again without it.
				r.res.Kills++
				name, _, _ := strings.Cut(point, ":")
				r.res.AtPoint[name]++
				if err := clear(s.mnt); err != nil {
					return nil, err
				}
				return r.start(ctx, "")
			}
			return nil, fmt.Errorf("the server did not start: %v\n%s", s.state, s.said())
		case <-time.After(2 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.kill()
			return nil, fmt.Errorf("the mount did not answer within 30s\n%s", s.said())
		}
	}
}

func (s *server) isDead() bool {
	select {
	case <-s.dead:
		return true
	default:
		return false
	}
}

func (s *server) diedWithin(d time.Duration) bool {
	select {
	case <-s.dead:
		return true
	case <-time.After(d):
		return false
	}
}

// kill sends SIGKILL and waits; it may be dead already.
func (s *server) kill() {
	s.cmd.Process.Signal(syscall.SIGKILL)
	<-s.dead
}

// end stops the server as a user would.
func (s *server) end() error {
	s.cmd.Process.Signal(syscall.SIGTERM)
	if !s.diedWithin(30 * time.Second) {
		return fmt.Errorf("the server did not end within 30s of SIGTERM\n%s", s.said())
	}
	if s.state != nil {
		return fmt.Errorf("the server ended with %w\n%s", s.state, s.said())
	}
	return clear(s.mnt)
}

// said is the end of the server's log.
func (s *server) said() string {
	b, err := os.ReadFile(s.logFile)
	if err != nil {
		return err.Error()
	}
	if len(b) > 4000 {
		b = b[len(b)-4000:]
	}
	return "server's log: " + string(b)
}

// mounted tells whether something answers that is mounted on dir itself.
func mounted(dir string) bool {
	var st, up unix.Stat_t
	if unix.Stat(dir, &st) != nil || unix.Stat(filepath.Dir(dir), &up) != nil {
		return false
	}
	return st.Dev != up.Dev
}

// clear removes dead mounts.
func clear(mnt string) error {
	for range 50 {
		err := unix.Unmount(mnt, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) {
			return nil // nothing mounted
		}
		if err != nil {
			return fmt.Errorf("unmounting %s: %w", mnt, err)
		}
	}
	return fmt.Errorf("%s does not become free", mnt)
}
