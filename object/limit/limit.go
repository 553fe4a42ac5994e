// Package limit bounds what is asked of an object store: requests at once,
// requests a second, bytes a second each way. Callers wait for their turn.
package limit

import (
	"context"
	"io"
	"math"
	"sync"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/intercept"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

// Options are the limits; 0 is none.
type Options struct {
	// Concurrency is the number of requests at once. A Get counts until its body
	// is closed, so that a caller must not wait for one request with the body of
	// another in hand.
	Concurrency int
	// Requests is the number of requests begun a second, on average.
	Requests float64
	// Upload and Download are bytes a second, on average.
	Upload, Download float64
}

// New returns s within the limits.
func New(s object.Store, o Options) object.Store {
	l := &limiter{}
	if o.Concurrency > 0 {
		l.slots = semaphore.NewWeighted(int64(o.Concurrency))
	}
	if o.Requests > 0 {
		l.requests = rate.NewLimiter(rate.Limit(o.Requests), max(1, int(o.Requests/10)))
	}
	l.up, l.down = byteLimiter(o.Upload), byteLimiter(o.Download)
	return intercept.New(s, l)
}

// byteLimiter lets a tenth of a second's bytes go at once.
func byteLimiter(perSecond float64) *rate.Limiter {
	if perSecond <= 0 {
		return nil
	}
	burst := max(1, min(perSecond/10, math.MaxInt32))
	return rate.NewLimiter(rate.Limit(perSecond), int(burst))
}

type limiter struct {
	slots    *semaphore.Weighted
	requests *rate.Limiter
	up, down *rate.Limiter
}

// slot is a place among the requests under way, found in the context.
type slot struct {
	free func()
	kept bool // by a body
}

type slotKey struct{}

func (l *limiter) Around(ctx context.Context, _ *intercept.Call, do func(context.Context) error) error {
	s := &slot{free: func() {}}
	if l.slots != nil {
		if err := l.slots.Acquire(ctx, 1); err != nil {
			return err
		}
		s.free = sync.OnceFunc(func() { l.slots.Release(1) })
	}
	if l.requests != nil {
		if err := wait(ctx, l.requests, 1); err != nil {
			s.free()
			return err
		}
	}
	err := do(context.WithValue(ctx, slotKey{}, s))
	if err != nil || !s.kept {
		s.free()
	}
	return err
}

// wait waits for n tokens. Unlike rate.Limiter.WaitN it takes more than a burst,
// and waits although the deadline will come first: the caller then gets the
// context's error, at the time it expects it.
func wait(ctx context.Context, l *rate.Limiter, n int) error {
	for n > 0 {
		some := min(n, l.Burst())
		n -= some
		if err := l.WaitN(ctx, some); err != nil {
			if ctx.Err() == nil { // would be after the deadline
				<-ctx.Done()
			}
			return ctx.Err()
		}
	}
	return ctx.Err()
}

func (l *limiter) Sending(ctx context.Context, _ *intercept.Call, body io.Reader) io.Reader {
	if l.up == nil {
		return body
	}
	return &slowReader{ctx, body, l.up}
}

// slowReader waits after each piece for as long as that may take.
type slowReader struct {
	ctx context.Context
	r   io.Reader
	l   *rate.Limiter
}

func (s *slowReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p[:min(len(p), max(s.l.Burst(), 1))])
	if n > 0 {
		if werr := wait(s.ctx, s.l, n); werr != nil {
			return n, werr
		}
	}
	return n, err
}

func (l *limiter) Receiving(ctx context.Context, _ *intercept.Call, body io.ReadCloser) io.ReadCloser {
	if l.down == nil && l.slots == nil {
		return body
	}
	s := ctx.Value(slotKey{}).(*slot)
	s.kept = true
	b := &limitedBody{Reader: body, Closer: body, free: s.free}
	if l.down != nil {
		b.Reader = &slowReader{ctx, body, l.down}
	}
	return b
}

type limitedBody struct {
	io.Reader
	io.Closer
	free func()
}

func (b *limitedBody) Close() error {
	err := b.Closer.Close()
	b.free()
	return err
}

// Received makes the reader wait for what it has got: the next one comes later.
func (l *limiter) Received(ctx context.Context, _ *intercept.Call, p []byte) (int, error) {
	if l.down == nil {
		return len(p), nil
	}
	return len(p), wait(ctx, l.down, len(p))
}
