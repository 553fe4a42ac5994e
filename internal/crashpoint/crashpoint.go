// Package crashpoint names the places in the code where a crash would be most
// interesting, so that tests can make the process die exactly there.
//
// Code that makes something durable in several steps calls [Hit] between them:
//
//	store.Put(ctx, key, data)
//	crashpoint.Hit("block.put.after")
//	meta.Commit(ctx, extents)
//
// Hit costs one atomic load unless the process was armed by the environment:
//
//	MASSIF_CRASH_AT=block.put.after:3    the third Hit of that point kills the process
//	MASSIF_CRASH_AT=a:1,b:7              whichever comes first
//	MASSIF_CRASH_SEEN=FILE               each point's first Hit appends its name to FILE
//
// The process dies by SIGKILL: no deferred function runs, no buffer is written, as
// when the kernel's OOM killer or an operator's kill -9 strikes. It does not lose
// what the kernel already has: power loss is another test's business.
//
// Names are ROOM.STEP[.before|.after], lower case. The crash harness
// (internal/crashtest) learns them through MASSIF_CRASH_SEEN, so a new point is
// tested without being listed anywhere.
package crashpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// Environment variables that arm the points of a process.
const (
	EnvAt   = "MASSIF_CRASH_AT"
	EnvSeen = "MASSIF_CRASH_SEEN"
)

var (
	armed atomic.Bool
	plan  *points // set before armed
)

// points is what an armed process does at its points.
type points struct {
	mu   sync.Mutex
	left map[string]int // hits until death
	seen map[string]bool
	file *os.File // of names seen; may be nil
	die  func(name string)
}

func init() {
	at, seen := os.Getenv(EnvAt), os.Getenv(EnvSeen)
	if at == "" && seen == "" {
		return
	}
	p, err := newPoints(at, seen)
	if err != nil {
		// A test that believes its process is armed must not pass by mistake.
		fmt.Fprintln(os.Stderr, "massif: crash points:", err)
		os.Exit(2)
	}
	plan = p
	armed.Store(true)
}

// Hit marks a point. It does nothing unless the process is armed, and may be
// called from any goroutine.
func Hit(name string) {
	if armed.Load() {
		plan.hit(name)
	}
}

// Armed tells whether points do anything in this process, for the few places that
// must take another path (a buffer split in two) to make a point reachable.
func Armed() bool { return armed.Load() }

// newPoints reads the two environment values.
func newPoints(at, seenFile string) (*points, error) {
	p := &points{left: map[string]int{}, seen: map[string]bool{}, die: kill}
	for item := range strings.SplitSeq(at, ",") {
		if item == "" {
			continue
		}
		name, count, ok := strings.Cut(item, ":")
		n := 1
		if ok {
			var err error
			if n, err = strconv.Atoi(count); err != nil || n < 1 {
				return nil, fmt.Errorf("%s: %q is not POINT:COUNT with a count of 1 or more", EnvAt, item)
			}
		}
		if name == "" {
			return nil, fmt.Errorf("%s: %q names no point", EnvAt, item)
		}
		p.left[name] = n
	}
	if seenFile != "" {
		f, err := os.OpenFile(seenFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", EnvSeen, err)
		}
		p.file = f
	}
	return p, nil
}

func (p *points) hit(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file != nil && !p.seen[name] {
		p.seen[name] = true
		if _, err := fmt.Fprintln(p.file, name); err != nil {
			fmt.Fprintln(os.Stderr, "massif: crash points:", err)
		}
	}
	n, ok := p.left[name]
	if !ok {
		return
	}
	if n--; n == 0 {
		p.die(name)
	}
	p.left[name] = n
}

// kill ends the process and never returns.
func kill(string) {
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
