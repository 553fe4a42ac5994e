package telemetry

import (
	"context"
	"io"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// AccessLog carries lines, one an operation, to those who listen at the time.
// Nobody usually does, so whoever produces lines asks Active first:
//
//	if log.Active() {
//		log.Append(access.AppendLine(buf[:0]))
//	}
//
// A listener that does not keep up loses lines, never slows the operations
// down; it finds a line that says how many. All methods may be called
// concurrently. The zero value is ready for use.
type AccessLog struct {
	active atomic.Bool

	mu        sync.Mutex
	listeners []*Listener
	onChange  func(active bool)
}

// Active reports whether anyone listens.
func (l *AccessLog) Active() bool { return l.active.Load() }

// OnChange calls fn when the first listener comes and when the last goes, for
// producers that would rather be switched than ask. fn is called with a lock
// held and must not use l. It is called at once if there are listeners already.
func (l *AccessLog) OnChange(fn func(active bool)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.onChange = fn
	if fn != nil && len(l.listeners) > 0 {
		fn(true)
	}
}

// Append gives a line, without its newline, to all listeners. The slice may be
// reused afterwards.
func (l *AccessLog) Append(line []byte) {
	if !l.active.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, listener := range l.listeners {
		listener.append(line)
	}
}

// defaultBuffer holds some thousand lines.
const defaultBuffer = 256 << 10

// Listen adds a listener that gets the lines from now on; 0 bufferBytes means
// 256 KiB. It must be closed.
func (l *AccessLog) Listen(bufferBytes int) *Listener {
	if bufferBytes <= 0 {
		bufferBytes = defaultBuffer
	}
	n := &Listener{log: l, limit: bufferBytes, ready: make(chan struct{}, 1), closed: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listeners = append(l.listeners, n)
	l.changed()
	return n
}

// changed tells producers. l.mu is held.
func (l *AccessLog) changed() {
	active := len(l.listeners) > 0
	if l.active.Swap(active) != active && l.onChange != nil {
		l.onChange(active)
	}
}

// Listener is a reader of an access log.
type Listener struct {
	log   *AccessLog
	limit int
	ready chan struct{} // has a token when there is something to read

	mu      sync.Mutex
	buf     []byte
	spare   []byte // the buffer that was read last
	lost    uint64
	once    sync.Once
	closed  chan struct{}
	pending []byte // read but not yet returned by Read; of the reader only
}

func (n *Listener) append(line []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lost > 0 || len(n.buf)+len(line)+1 > n.limit {
		n.lost++
		return
	}
	n.buf = append(append(n.buf, line...), '\n')
	select {
	case n.ready <- struct{}{}:
	default:
	}
}

// Next waits for lines and returns those there are, each with its newline. The
// slice is valid until the next call. It returns io.EOF after Close, and ctx's
// error. It is for one goroutine at a time and not to be mixed with Read.
func (n *Listener) Next(ctx context.Context) ([]byte, error) {
	for {
		n.mu.Lock()
		if len(n.buf) > 0 || n.lost > 0 {
			out := n.buf
			if n.lost > 0 {
				out = append(out, "# "...)
				out = strconv.AppendUint(out, n.lost, 10)
				out = append(out, " lines lost\n"...)
				n.lost = 0
			}
			n.buf, n.spare = n.spare[:0], out
			n.mu.Unlock()
			return out, nil
		}
		n.mu.Unlock()
		select {
		case <-n.ready:
		case <-n.closed:
			return nil, io.EOF
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Read implements io.Reader over Next.
func (n *Listener) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(n.pending) == 0 {
		var err error
		if n.pending, err = n.Next(context.Background()); err != nil {
			return 0, err
		}
	}
	c := copy(p, n.pending)
	n.pending = n.pending[c:]
	return c, nil
}

// Close ends the listener and a Next that waits; lines not yet read are dropped.
func (n *Listener) Close() error {
	n.once.Do(func() {
		close(n.closed)
		l := n.log
		l.mu.Lock()
		defer l.mu.Unlock()
		l.listeners = slices.DeleteFunc(l.listeners, func(other *Listener) bool { return other == n })
		l.changed()
		n.mu.Lock()
		n.buf, n.lost = nil, 0
		n.mu.Unlock()
	})
	return nil
}

// Access is one operation, for a line of the access log.
type Access struct {
	Op       string
	Ino      uint64
	Name     string // the entry's, for operations on one
	UID, GID uint32
	PID      uint32
	Start    time.Time
	Duration time.Duration
	Bytes    int
	Errno    syscall.Errno
}

// AppendLine appends the line, without a newline:
//
//	2026-11-21T02:30:00.123456Z create ino=1 name="a file" uid=0 gid=0 pid=4242 bytes=0 time=0.000123 errno=ENOSPC
//
// Fields that say nothing (no name, no bytes, no error) are left out. Names are
// quoted as in Go, so that a line stays a line whatever is in them.
func (a *Access) AppendLine(b []byte) []byte {
	b = a.Start.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = append(b, ' ')
	b = append(b, a.Op...)
	b = strconv.AppendUint(append(b, " ino="...), a.Ino, 10)
	if a.Name != "" {
		b = strconv.AppendQuote(append(b, " name="...), a.Name)
	}
	b = strconv.AppendUint(append(b, " uid="...), uint64(a.UID), 10)
	b = strconv.AppendUint(append(b, " gid="...), uint64(a.GID), 10)
	b = strconv.AppendUint(append(b, " pid="...), uint64(a.PID), 10)
	if a.Bytes != 0 {
		b = strconv.AppendInt(append(b, " bytes="...), int64(a.Bytes), 10)
	}
	b = strconv.AppendFloat(append(b, " time="...), a.Duration.Seconds(), 'f', 6, 64)
	if a.Errno != 0 {
		b = append(append(b, " errno="...), ErrnoName(a.Errno)...)
	}
	return b
}
