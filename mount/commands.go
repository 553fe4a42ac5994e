package mount

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/door/control"
	"github.com/massif-fs/massif/door/fuse"
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
	Status  Status         `json:"status"`
	Process ProcessStats   `json:"process"`
	FUSE    fuse.Stats     `json:"fuse"`
	Tree    map[string]any `json:"tree,omitempty"`
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
	}
	if v := s.opened.Volume; v != nil {
		for name, op := range volumeOps {
			m["volume-"+name] = func(ctx context.Context, call *control.Call) (any, error) {
				return op(ctx, v, call.Decode, call.Progress)
			}
		}
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
		LogLevel: s.level.Level().String(), Uptime: time.Since(s.started),
	}
}

func (s *server) stats() Stats {
	st := Stats{Status: s.status(), Process: processStats(), FUSE: s.fuse.Stats()}
	if s.opened.Stats != nil {
		st.Tree = s.opened.Stats()
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
	was := s.level.Level().String()
	if args.Level != "" {
		level, err := parseLevel(args.Level)
		if err != nil {
			return nil, fmt.Errorf("log level %q: use debug, info, warn or error", args.Level)
		}
		s.level.Set(level)
		s.log.Info("log level", "was", was, "is", level.String())
	}
	return map[string]string{"was": was, "is": s.level.Level().String()}, nil
}

func (s *server) commandAccessLog(_ context.Context, call *control.Call) (any, error) {
	var args struct {
		File string `json:"file"`
	}
	if err := call.Decode(&args); err != nil {
		return nil, err
	}
	if args.File == "" {
		s.fuse.SetAccessLog(nil)
		return nil, s.access.close()
	}
	if !filepath.IsAbs(args.File) {
		return nil, fmt.Errorf("access log %s: write an absolute path", args.File)
	}
	if filepath.Dir(args.File) == s.point || within(args.File, s.point) {
		return nil, fmt.Errorf("access log %s: it lies on the mount itself", args.File)
	}
	if err := s.access.open(args.File); err != nil {
		return nil, err
	}
	s.fuse.SetAccessLog(s.access.record)
	return nil, nil
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

// errnoName returns the symbol of an errno.
func errnoName(e syscall.Errno) string {
	if name := unix.ErrnoName(e); name != "" {
		return name
	}
	return fmt.Sprintf("errno %d", int(e))
}
