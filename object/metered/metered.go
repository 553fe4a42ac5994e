// Package metered reports what is done with an object store: how often, how much,
// how long, and how it ended. Where the reports go is up to the [Recorder]:
// [Counters] adds them up in memory; a Prometheus registry is another.
package metered

import (
	"context"
	"errors"
	"io"
	"maps"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/intercept"
)

// Recorder takes reports. Its methods are called concurrently, on the caller's
// time.
type Recorder interface {
	// Begin is called when an operation begins, Record when it has ended.
	Begin(op string)
	Record(Report)
}

// Report is about one operation that has ended. A Get ends when its body is
// closed or its end has been read.
type Report struct {
	Op       string
	Duration time.Duration
	Sent     int64  // bytes of bodies
	Received int64  // bytes of bodies
	Err      error  // nil if it succeeded
	Outcome  string // see OutcomeOf
}

// OutcomeOf puts errors into few words, fit for a label: "ok", "missing",
// "conflict", "denied", "invalid", "full", "corrupt", "cancelled", "unavailable",
// "error".
func OutcomeOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.Is(err, object.ErrNotFound):
		return "missing"
	case errors.Is(err, object.ErrExists), errors.Is(err, object.ErrPrecondition):
		return "conflict"
	case errors.Is(err, object.ErrAccess), errors.Is(err, object.ErrNoBucket):
		return "denied"
	case errors.Is(err, object.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return "unavailable"
	case errors.Is(err, object.ErrCorrupt):
		return "corrupt"
	case errors.Is(err, object.ErrNoSpace):
		return "full"
	case errors.Is(err, object.ErrInvalid), errors.Is(err, object.ErrUnsupported):
		return "invalid"
	}
	return "error"
}

// New returns s with its operations reported to r.
func New(s object.Store, r Recorder) object.Store { return intercept.New(s, &meter{r}) }

type meter struct{ r Recorder }

// running is an operation under way, found in its context.
type running struct {
	r     Recorder
	op    string
	start time.Time
	sent  atomic.Int64
	recv  atomic.Int64
	body  bool // it ends with its body
	once  sync.Once
}

type runningKey struct{}

func (o *running) end(err error) {
	o.once.Do(func() {
		o.r.Record(Report{o.op, time.Since(o.start), o.sent.Load(), o.recv.Load(), err, OutcomeOf(err)})
	})
}

func (m *meter) Around(ctx context.Context, c *intercept.Call, do func(context.Context) error) error {
	o := &running{r: m.r, op: string(c.Op), start: time.Now()}
	m.r.Begin(o.op)
	err := do(context.WithValue(ctx, runningKey{}, o))
	if err == nil && c.Size > 0 && (c.Op == intercept.Put || c.Op == intercept.PutPart) {
		o.sent.Store(c.Size)
	}
	if err != nil || !o.body {
		o.end(err)
	}
	return err
}

// Sending counts bodies whose size nobody knows.
func (m *meter) Sending(ctx context.Context, c *intercept.Call, body io.Reader) io.Reader {
	if c.Size >= 0 {
		return body
	}
	return &countingReader{body, &ctx.Value(runningKey{}).(*running).sent}
}

type countingReader struct {
	r io.Reader
	n *atomic.Int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func (m *meter) Receiving(ctx context.Context, _ *intercept.Call, body io.ReadCloser) io.ReadCloser {
	o := ctx.Value(runningKey{}).(*running)
	o.body = true
	return &countingBody{body, o}
}

type countingBody struct {
	io.ReadCloser
	o *running
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.o.recv.Add(int64(n))
	switch {
	case err == io.EOF:
		b.o.end(nil)
	case err != nil:
		b.o.end(err)
	}
	return n, err
}

func (b *countingBody) Close() error {
	err := b.ReadCloser.Close()
	b.o.end(err)
	return err
}

func (m *meter) Received(ctx context.Context, _ *intercept.Call, p []byte) (int, error) {
	ctx.Value(runningKey{}).(*running).recv.Add(int64(len(p)))
	return len(p), nil
}

// Counters is a Recorder that adds up. The zero Counters are ready for use.
type Counters struct {
	mu  sync.Mutex
	ops map[string]*Totals
}

// Totals are the sums of one kind of operation.
type Totals struct {
	Running  int64 // under way now
	Count    int64 // ended
	Sent     int64 // bytes
	Received int64 // bytes
	Duration time.Duration
	Outcomes map[string]int64
	// Latency counts operations by duration: element i those of less than 2^i µs
	// (and of 2^(i-1) or more), the last one all others.
	Latency [32]int64
}

// Begin implements Recorder.
func (c *Counters) Begin(op string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of(op).Running++
}

// of is called with mu held.
func (c *Counters) of(op string) *Totals {
	t := c.ops[op]
	if t == nil {
		t = &Totals{Outcomes: make(map[string]int64)}
		if c.ops == nil {
			c.ops = make(map[string]*Totals)
		}
		c.ops[op] = t
	}
	return t
}

// Record implements Recorder.
func (c *Counters) Record(r Report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.of(r.Op)
	t.Running--
	t.Count++
	t.Sent += r.Sent
	t.Received += r.Received
	t.Duration += r.Duration
	t.Outcomes[r.Outcome]++
	t.Latency[min(bits.Len64(uint64(r.Duration.Microseconds())), len(t.Latency)-1)]++
}

// Totals returns the sums so far, by operation.
func (c *Counters) Totals() map[string]Totals {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]Totals, len(c.ops))
	for op, t := range c.ops {
		totals := *t
		totals.Outcomes = maps.Clone(t.Outcomes)
		out[op] = totals
	}
	return out
}

// Quantile returns a duration that the fraction q of the operations did not
// exceed, 0 if there were none. It is exact to a factor of two.
func (t Totals) Quantile(q float64) time.Duration {
	left := int64(q * float64(t.Count))
	i := slices.IndexFunc(t.Latency[:], func(n int64) bool {
		left -= n
		return left < 0 || left == 0 && n > 0
	})
	if t.Count == 0 || i < 0 {
		return 0
	}
	return time.Microsecond << i
}
