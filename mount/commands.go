package mount

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/door/control"
	"github.com/massif-fs/massif/door/fuse"
	"github.com/massif-fs/massif/telemetry"
)

// Status is what a mount says of itself.
type Status struct {
	Running
	Kind     string        `json:"kind"`
	ReadOnly bool          `json:"readOnly"`
	LogLevel string        `json:"logLevel"`
	Uptime   time.Duration `json:"uptime_ns"`
}

// Stats is a snapshot of a mount's figures.
type Stats struct {
	Status  Status       `json:"status"`
	Process ProcessStats `json:"process"`
	FUSE    fuse.Stats   `json:"fuse"`
	// Ops are the requests of the kernel with the distribution of their times.
	Ops  []telemetry.OpSnapshot `json:"ops"`
	Tree map[string]any         `json:"tree,omitempty"`
}

// ProcessStats are the figures of the mount's process.
type ProcessStats struct {
	UserTime   time.Duration `json:"userTime_ns"`
	SystemTime time.Duration `json:"systemTime_ns"`
	RSS        int64         `json:"rss"`     // bytes
	PeakRSS    int64         `json:"peakRSS"` // bytes
	Heap       int64         `json:"heap"`    // bytes of the Go heap
	Goroutines int           `json:"goroutines"`
	GCs        int64         `json:"gcs"`
}

// commands are the commands of a mount's control socket.
func (s *server) commands() map[string]control.Handler {
	m := map[string]control.Handler{
		"status":      plain(func() (any, error) { return s.status(), nil }),
		"stats":       plain(func() (any, error) { return s.stats(), nil }),
		"sync":        s.commandSync,
		"shutdown":    s.commandShutdown,
		"log-level":   s.commandLogLevel,
		"access-log":  s.commandAccessLog,
		"drop-caches": s.commandDropCaches,
		"refresh":     s.commandDropCaches,
		"drain":       s.commandDrain,
		"queue":       s.commandQueue,
		"version":     plain(func() (any, error) { return buildVersion(), nil }),
	}
	if v := s.opened.Volume; v != nil {
		for name, op := range volumeOps {
			m["volume-"+name] = func(ctx context.Context, call *control.Call) (any, error) {
				return op(ctx, v, call.Decode, call.Progress)
			}
		}
	}
	for name, h := range s.opened.Commands {
		m[name] = h
	}
	return m
}

// plain is a command without arguments.
func plain(fn func() (any, error)) control.Handler {
	return func(_ context.Context, call *control.Call) (any, error) {
		if err := call.Decode(&struct{}{}); err != nil {
			return nil, err
		}
		return fn()
	}
}

func (s *server) status() Status {
	return Status{
		Running: s.running, Kind: s.spec.Tree.Kind, ReadOnly: s.spec.Mount.ReadOnly,
		LogLevel: s.log.Level().String(), Uptime: time.Since(s.started),
	}
}

func (s *server) stats() Stats {
	st := Stats{Status: s.status(), Process: processStats(), FUSE: s.fuse.Stats(), Ops: s.observe.ops.Snapshot(), Tree: map[string]any{}}
	for name, read := range s.opened.Stats {
		st.Tree[name] = read()
	}
	return st
}

func processStats() ProcessStats {
	var st ProcessStats
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &usage) == nil {
		st.UserTime = time.Duration(usage.Utime.Nano())
		st.SystemTime = time.Duration(usage.Stime.Nano())
		st.PeakRSS = usage.Maxrss << 10
	}
	if data, err := os.ReadFile("/proc/self/statm"); err == nil {
		var size, resident int64
		if n, _ := fmt.Sscan(string(data), &size, &resident); n == 2 {
			st.RSS = resident * int64(os.Getpagesize())
		}
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	st.Heap, st.GCs = int64(mem.HeapAlloc), int64(mem.NumGC)
	st.Goroutines = runtime.NumGoroutine()
	return st
}

// commandSync makes everything written durable.
func (s *server) commandSync(ctx context.Context, call *control.Call) (any, error) {
	if err := call.Decode(&struct{}{}); err != nil {
		return nil, err
	}
	// The kernel first: it may hold written pages.
	if err := syncPoint(s.point); err != nil {
		return nil, err
	}
	return nil, s.opened.FS.Sync(ctx)
}

// commandShutdown unmounts and answers when all is stored (with lazy: when the
// name is gone).
func (s *server) commandShutdown(_ context.Context, call *control.Call) (any, error) {
	var args struct {
		Force bool `json:"force"`
		Lazy  bool `json:"lazy"`
	}
	if err := call.Decode(&args); err != nil {
		return nil, err
	}
	if args.Force {
		// What waits for a store that does not answer is given some time.
		timer := time.AfterFunc(forcePatience, s.force)
		defer timer.Stop()
	}
	err := s.end(args.Force, args.Lazy)
	if busy, ok := err.(*BusyError); ok {
		return nil, &control.Error{Class: ClassBusy, Desc: busy.Desc}
	}
	if err != nil {
		return nil, err
	}
	if !args.Lazy {
		<-s.gone
		return nil, s.goneErr
	}
	return nil, nil
}

func (s *server) commandLogLevel(_ context.Context, call *control.Call) (any, error) {
	var args struct {
		Level string `json:"level"`
	}
	if err := call.Decode(&args); err != nil {
		return nil, err
	}
	if args.Level != "" {
		level, err := telemetry.ParseLevel(args.Level)
		if err != nil {
			return nil, err
		}
		s.log.Info("log level", "was", s.log.Level(), "is", level)
		s.log.SetLevel(level)
	}
	return map[string]string{"is": s.log.Level().String()}, nil
}

// commandAccessLog tells every operation as progress until the client goes.
func (s *server) commandAccessLog(ctx context.Context, call *control.Call) (any, error) {
	if err := call.Decode(&struct{}{}); err != nil {
		return nil, err
	}
	listener := s.observe.access.Listen(0)
	defer listener.Close()
	call.Progress("")
	for {
		lines, err := listener.Next(ctx)
		if err != nil {
			return nil, nil // the client or the mount is gone
		}
		call.Progress(string(lines))
	}
}

func (s *server) commandDropCaches(_ context.Context, call *control.Call) (any, error) {
	if err := call.Decode(&struct{}{}); err != nil {
		return nil, err
	}
	if s.opened.DropCaches != nil {
		if err := s.opened.DropCaches(); err != nil {
			return nil, err
		}
	}
	debug.FreeOSMemory()
	return nil, nil
}

// commandDrain makes everything written durable and waits until what is staged on the
// local disk is in the store.
func (s *server) commandDrain(ctx context.Context, call *control.Call) (any, error) {
	if _, err := s.commandSync(ctx, call); err != nil {
		return nil, err
	}
	if s.opened.Drain == nil {
		return nil, nil
	}
	return nil, s.opened.Drain(ctx)
}

// commandQueue tells what is staged on the local disk: null for trees that stage nothing.
func (s *server) commandQueue(_ context.Context, call *control.Call) (any, error) {
	if err := call.Decode(&struct{}{}); err != nil {
		return nil, err
	}
	if v := s.opened.Volume; v != nil {
		return v.Blocks.StageQueue(), nil
	}
	return nil, nil
}

// buildVersion says what this process was built from.
func buildVersion() map[string]string {
	out := map[string]string{"go": runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		out["version"] = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				out["commit"] = s.Value
			}
		}
	}
	return out
}
