package s3

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// watchdog ends a request that makes no progress. It watches from the beginning
// of the request to its answer, each byte of the request's body that is taken
// being progress, and again while somebody waits in Read for bytes of the
// answer's body.
type watchdog struct {
	parent context.Context // the caller's
	ctx    context.Context // the request's
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration

	mu  sync.Mutex
	err error // of the body being sent
}

func watch(ctx context.Context, stall time.Duration) *watchdog {
	w := &watchdog{parent: ctx, stall: stall}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(stall, func() { w.cancel(errNoProgress) })
	return w
}

// kick notes progress.
func (w *watchdog) kick() { w.timer.Reset(w.stall) }

// pause stops watching until the next kick.
func (w *watchdog) pause() { w.timer.Stop() }

// end ends the request, if it is not over.
func (w *watchdog) end() {
	w.timer.Stop()
	w.cancel(nil)
}

func (w *watchdog) bodyError() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// sending is the body of a request, from memory. The HTTP client may go on
// reading a body after it has returned an error; after stop it gets nothing more,
// so that the memory can be used again.
type sending struct {
	w     *watchdog
	start int64 // where the body begins in r

	mu sync.Mutex
	r  io.ReadSeeker // nil after stop
}

func (w *watchdog) send(p *payload) *sending {
	return &sending{w: w, start: p.start, r: p.r}
}

func (s *sending) stop() {
	s.mu.Lock()
	s.r = nil
	s.mu.Unlock()
}

var errStopped = fmt.Errorf("the request is over: %w", context.Canceled)

func (s *sending) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.r == nil {
		return 0, errStopped
	}
	s.w.kick()
	return s.r.Read(p)
}

func (s *sending) Seek(off int64, whence int) (int64, error) {
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

// streaming is the body of a request from a reader that cannot be read twice.
type streaming struct {
	w *watchdog

	mu   sync.Mutex
	r    io.Reader // nil after stop
	over bool
}

func (s *streaming) stop() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
}

func (s *streaming) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return 0, errStopped
	}
	s.w.pause() // waiting for the caller's body is not the server's stall
	n, err := s.r.Read(p)
	s.w.kick()
	if err != nil && err != io.EOF {
		s.w.mu.Lock()
		s.w.err = err
		s.w.mu.Unlock()
	}
	return n, err
}

// receiving is the body of an answer: of exactly left bytes.
type receiving struct {
	s    *Store
	w    *watchdog
	key  string
	body io.ReadCloser
	left int64
	// partial: the server sends more than was asked for, and nobody reads that.
	partial bool
	err     error
}

func (r *receiving) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.left == 0 {
		// Reading on to the end lets the SDK compare the object's checksum and the
		// connection be used again.
		r.err = r.drain()
		return 0, r.err
	}
	r.w.kick()
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	r.w.pause()
	r.left -= int64(n)
	switch {
	case err == io.EOF && r.left > 0:
		r.err = r.s.fail("get", r.key, r.w, r.s.cut(r.left))
	case err == io.EOF:
		r.err = io.EOF
	case err != nil:
		r.err = r.s.fail("get", r.key, r.w, readError(err))
	}
	if n > 0 {
		return n, nil // the error comes next
	}
	return n, r.err
}

// drain expects the end of the body.
func (r *receiving) drain() error {
	if r.partial {
		return io.EOF
	}
	r.w.kick()
	defer r.w.pause()
	var one [1]byte
	n, err := io.ReadFull(r.body, one[:])
	switch {
	case n > 0:
		return r.s.fail("get", r.key, r.w, r.s.tooMuch())
	case err == io.EOF:
		return io.EOF
	}
	return r.s.fail("get", r.key, r.w, readError(err))
}

// Close ends the request. A body read to its end leaves the connection for the
// next request.
func (r *receiving) Close() error {
	if r.left == 0 && r.err == nil {
		r.err = r.drain()
	}
	if r.err != io.EOF {
		r.w.end()
	}
	_ = r.body.Close() // what a connection has to say that nobody reads on is of no interest
	r.w.end()
	if r.left == 0 && r.err != io.EOF {
		return r.err
	}
	return nil
}
