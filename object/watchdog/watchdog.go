// Package watchdog ends HTTP requests that make no progress, for drivers of object
// stores. A time limit would not do: a large body on a slow line may take long,
// but something of it arrives all the time.
package watchdog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Dog watches one request: from its beginning to its answer, each byte of the
// request's body that is taken being progress, and again while somebody waits in
// Read for bytes of the answer's body.
type Dog struct {
	parent context.Context
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration

	mu  sync.Mutex
	err error // of the body being sent
}

var errNoProgress = errors.New("no progress")

// Watch begins to watch a request of ctx's. The request is to be made with Context;
// End must be called.
func Watch(ctx context.Context, stall time.Duration) *Dog {
	w := &Dog{parent: ctx, stall: stall}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(stall, func() { w.cancel(errNoProgress) })
	return w
}

// Context is the request's: it ends with the caller's, with End, and when the
// request makes no progress.
func (w *Dog) Context() context.Context { return w.ctx }

// Parent is the caller's context.
func (w *Dog) Parent() context.Context { return w.parent }

// Limit is how long a request may stand still.
func (w *Dog) Limit() time.Duration { return w.stall }

// Stalled tells whether the request was ended for want of progress.
func (w *Dog) Stalled() bool { return errors.Is(context.Cause(w.ctx), errNoProgress) }

// Kick notes progress.
func (w *Dog) Kick() { w.timer.Reset(w.stall) }

// Pause stops watching until the next Kick.
func (w *Dog) Pause() { w.timer.Stop() }

// End ends the request, if it is not over.
func (w *Dog) End() {
	w.timer.Stop()
	w.cancel(nil)
}

// BodyError is what a body made by Stream failed with by itself, nil if it did not.
func (w *Dog) BodyError() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Sending is the body of a request, from memory. The HTTP client may go on
// reading a body after it has returned an error; after Stop it gets nothing more,
// so that the memory can be used again.
type Sending struct {
	w     *Dog
	start int64 // where the body begins in r

	mu sync.Mutex
	r  io.ReadSeeker // nil after Stop
}

// Send makes a body of what r holds from offset start on.
func (w *Dog) Send(r io.ReadSeeker, start int64) *Sending {
	return &Sending{w: w, start: start, r: r}
}

// Stop ends all reading.
func (s *Sending) Stop() {
	s.mu.Lock()
	s.r = nil
	s.mu.Unlock()
}

var errStopped = fmt.Errorf("the request is over: %w", context.Canceled)

func (s *Sending) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.r == nil {
		return 0, errStopped
	}
	s.w.Kick()
	return s.r.Read(p)
}

// Seek is relative to the body's beginning.
func (s *Sending) Seek(off int64, whence int) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.r == nil {
		return 0, errStopped
	}
	if whence == io.SeekStart {
		off += s.start
	}
	pos, err := s.r.Seek(off, whence)
	return pos - s.start, err
}

// Streaming is the body of a request from a reader that cannot be read twice.
type Streaming struct {
	w *Dog

	mu   sync.Mutex
	r    io.Reader
	over bool
}

// Stream makes a body of what r gives. Waiting for r is not the server's stall.
func (w *Dog) Stream(r io.Reader) *Streaming { return &Streaming{w: w, r: r} }

// Stop ends all reading.
func (s *Streaming) Stop() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
}

func (s *Streaming) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return 0, errStopped
	}
	s.w.Pause()
	n, err := s.r.Read(p)
	s.w.Kick()
	if err != nil && err != io.EOF {
		s.w.mu.Lock()
		s.w.err = err
		s.w.mu.Unlock()
	}
	return n, err
}
