// Package retry tries operations of an object store again that failed for a
// reason that may pass: throttling, server errors, broken connections, time-outs.
// It waits longer from attempt to attempt, by a random part of a doubling interval
// (full jitter), so that many clients do not come back all at once.
//
// What cannot pass (a missing object, wrong credentials, a failed condition, a
// full store) is returned at once. What does not pass in time is returned wrapped
// in an error that is ETIMEDOUT as well, which a file system tells its callers.
//
// # Bodies
//
// A Put can be repeated if its body can be: if it is an io.Seeker. Another body
// allows a new attempt only as long as none of its bytes has been read. Nothing is
// buffered here.
//
// A body that Get returned goes on behind a broken connection where it stopped,
// as long as the object is still the same by its ETag.
//
// # Operations that took effect although they failed
//
// When the answer is lost nobody knows whether a request was carried out. Most
// operations can be repeated without harm. A Put with IfAbsent or IfMatch cannot:
// its second attempt fails because the first one succeeded. In that case the
// object is compared with the body, and equal content counts as success. So two
// writers of equal content with IfAbsent may both be told that they won, if the
// store is failing; let contents differ where that matters.
package retry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"time"

	"github.com/massif-fs/massif/object"
)

// Options say how often and how long to try. The zero Options are right for a
// file system on a network.
type Options struct {
	// Attempts is the greatest number of attempts; 0: no bound but Total.
	Attempts int
	// Total bounds the time from the first attempt to the beginning of the last,
	// in which nothing was achieved; 0: 2 min. Negative: no bound but Attempts.
	Total time.Duration
	// Attempt bounds each attempt, except bodies being read or written; 0: none.
	// Drivers have time-outs of their own.
	Attempt time.Duration
	// First and Most are the first and the longest interval to wait a random part
	// of; 0: 50 ms and 10 s.
	First, Most time.Duration
	// Notify, if not nil, is told of each failed attempt that is to be repeated,
	// and how long it waits.
	Notify func(op, key string, attempt int, err error, wait time.Duration)
}

// Store tries again. It has the abilities of the store below.
type Store struct {
	s object.Store
	o Options
}

var (
	_ object.Store       = (*Store)(nil)
	_ object.RangeReader = (*Store)(nil)
	_ object.Renamer     = (*Store)(nil)
	_ object.Multipart   = (*Store)(nil)
	_ object.Forwarder   = (*Store)(nil)
	_ object.Unwrapper   = (*Store)(nil)
)

// New returns s with operations tried again.
func New(s object.Store, o Options) *Store {
	if o.Total == 0 {
		o.Total = 2 * time.Minute
	}
	if o.First <= 0 {
		o.First = 50 * time.Millisecond
	}
	if o.Most <= 0 {
		o.Most = 10 * time.Second
	}
	return &Store{s, o}
}

// Retryable reports whether an error may pass.
func Retryable(err error) bool {
	for _, final := range []error{
		object.ErrNotFound, object.ErrExists, object.ErrPrecondition, object.ErrNoBucket, object.ErrAccess,
		object.ErrInvalid, object.ErrUnsupported, object.ErrNoSpace, context.Canceled,
	} {
		if errors.Is(err, final) {
			return false
		}
	}
	var ne net.Error
	switch {
	case err == nil:
		return false
	case errors.Is(err, object.ErrUnavailable), errors.Is(err, errAttempt):
		return true
	case errors.As(err, &ne):
		return true
	}
	for _, errno := range []syscall.Errno{
		syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.ECONNABORTED, syscall.EPIPE, syscall.ETIMEDOUT,
		syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN, syscall.ESTALE,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// retryableRead adds what reading again may put right: bytes damaged or cut short
// on their way.
func retryableRead(err error) bool {
	return Retryable(err) || errors.Is(err, object.ErrCorrupt)
}

// errAttempt: an attempt took longer than Options.Attempt.
var errAttempt = fmt.Errorf("attempt timed out: %w", syscall.ETIMEDOUT)

// task is an operation being tried.
type task struct {
	o       *Options
	op, key string
	begun   time.Time
	tries   int
}

func (s *Store) task(op, key string) *task {
	return &task{o: &s.o, op: op, key: key, begun: time.Now()}
}

// again waits for the next attempt. It returns nil if there is to be one, else the
// error for the caller.
func (t *task) again(ctx context.Context, err error, retryable bool) error {
	t.tries++
	if cerr := ctx.Err(); cerr != nil && err != nil {
		if errors.Is(err, cerr) {
			return err
		}
		return &object.Error{Op: t.op, Key: t.key, Err: fmt.Errorf("%w, after: %w", cerr, err)}
	}
	if !retryable {
		return err
	}
	interval := t.o.Most
	if shift := t.tries - 1; shift < 30 {
		interval = min(t.o.Most, t.o.First<<shift)
	}
	wait := rand.N(interval)
	spent := time.Since(t.begun)
	if t.o.Attempts > 0 && t.tries >= t.o.Attempts || t.o.Total > 0 && spent+wait > t.o.Total {
		return &object.Error{Op: t.op, Key: t.key, Err: &exhausted{t.tries, spent, err}}
	}
	if t.o.Notify != nil {
		t.o.Notify(t.op, t.key, t.tries, err, wait)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return &object.Error{Op: t.op, Key: t.key, Err: fmt.Errorf("%w, after: %w", ctx.Err(), err)}
	}
}

// progress begins the count anew.
func (t *task) progress() { t.tries, t.begun = 0, time.Now() }

// exhausted is the error of a task that was given up.
type exhausted struct {
	tries int
	spent time.Duration
	last  error
}

func (e *exhausted) Error() string {
	return fmt.Sprintf("gave up after %d attempts in %v: %v", e.tries, e.spent.Round(time.Millisecond), cause(e.last))
}

// cause takes off what the new error says again.
func cause(err error) error {
	if oe, ok := err.(*object.Error); ok {
		return oe.Err
	}
	return err
}

// Unwrap gives the last error, and ETIMEDOUT for whoever needs an errno.
func (e *exhausted) Unwrap() []error { return []error{e.last, syscall.ETIMEDOUT} }

// try calls do until it succeeds.
func (s *Store) try(ctx context.Context, op, key string, retryable func(error) bool, do func(ctx context.Context, try int) error) error {
	t := s.task(op, key)
	for try := 0; ; try++ {
		err := s.attempt(ctx, func(ctx context.Context) error { return do(ctx, try) })
		if err == nil {
			return nil
		}
		if err := t.again(ctx, err, retryable(err)); err != nil {
			return err
		}
	}
}

// attempt calls do with the time that an attempt may take.
func (s *Store) attempt(ctx context.Context, do func(context.Context) error) error {
	if s.o.Attempt <= 0 {
		return do(ctx)
	}
	actx, cancel := context.WithTimeoutCause(ctx, s.o.Attempt, errAttempt)
	defer cancel()
	err := do(actx)
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(actx), errAttempt) && errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w (%v): %v", errAttempt, s.o.Attempt, err)
	}
	return err
}

// String returns the name of the store below.
func (s *Store) String() string { return s.s.String() }

// Capabilities returns those of the store below.
func (s *Store) Capabilities() object.Capabilities { return s.s.Capabilities() }

// Close closes the store below.
func (s *Store) Close() error { return s.s.Close() }

// Unwrap returns the store below.
func (s *Store) Unwrap() object.Store { return s.s }

// Forwards implements object.Forwarder.
func (s *Store) Forwards() object.Store { return s.s }

// Head implements object.Store.
func (s *Store) Head(ctx context.Context, key string) (info object.Info, err error) {
	err = s.try(ctx, "head", key, Retryable, func(ctx context.Context, _ int) (err error) {
		info, err = s.s.Head(ctx, key)
		return err
	})
	return info, err
}

// List implements object.Store.
func (s *Store) List(ctx context.Context, opts object.ListOptions) (page object.Page, err error) {
	err = s.try(ctx, "list", opts.Prefix, Retryable, func(ctx context.Context, _ int) (err error) {
		page, err = s.s.List(ctx, opts)
		return err
	})
	if err != nil {
		return object.Page{}, err
	}
	return page, nil
}

// Delete implements object.Store. Of a batch that failed in part only those keys
// are tried again that may succeed.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	failed := make(map[string]error)
	left := keys
	first := ""
	if len(keys) > 0 {
		first = keys[0]
	}
	err := s.try(ctx, "delete", first, Retryable, func(ctx context.Context, _ int) error {
		err := s.s.Delete(ctx, left...)
		var de *object.DeleteError
		if !errors.As(err, &de) || ctx.Err() != nil {
			return err
		}
		left = nil
		var last error
		for key, err := range de.Failed {
			if Retryable(err) {
				left, last = append(left, key), err
			} else {
				failed[key] = err
			}
		}
		return last
	})
	if err != nil && len(left) == len(keys) {
		return err // about all of them
	}
	if err != nil {
		for _, key := range left {
			failed[key] = err
		}
	}
	if len(failed) > 0 {
		return &object.DeleteError{Failed: failed}
	}
	return nil
}

// ReadRange implements object.RangeReader, by Get if the store below must.
func (s *Store) ReadRange(ctx context.Context, key string, p []byte, off int64) (n int, err error) {
	err = s.try(ctx, "read", key, retryableRead, func(ctx context.Context, _ int) (err error) {
		n, err = object.ReadRange(ctx, s.s, key, p, off) // from the beginning, into all of p
		return err
	})
	return n, err
}

// Get implements object.Store. See the package comment about its body.
func (s *Store) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, object.Info, error) {
	b := &body{s: s, ctx: ctx, key: key, off: off, n: n, task: s.task("get", key)}
	for {
		info, err := b.open()
		if err == nil {
			b.etag = info.ETag
			return b, info, nil
		}
		if err := b.task.again(ctx, err, retryableRead(err)); err != nil {
			return nil, object.Info{}, err
		}
	}
}

// body is the body of a Get.
type body struct {
	s    *Store
	ctx  context.Context
	key  string
	off  int64 // of the next byte
	n    int64 // bytes left, negative: to the end
	etag string
	task *task
	r    io.ReadCloser // nil: to be opened again
	err  error         // final
}

// open opens the rest of the object.
func (b *body) open() (info object.Info, err error) {
	// A time limit of the attempt would be one of the body.
	b.r, info, err = b.s.s.Get(b.ctx, b.key, b.off, b.n)
	if err != nil {
		b.r = nil
	}
	return info, err
}

func (b *body) Read(p []byte) (int, error) {
	for b.err == nil {
		n, err := b.read(p)
		b.off += int64(n)
		if b.n >= 0 {
			b.n -= int64(n)
		}
		if n > 0 {
			b.task.progress()
		}
		if err != nil && err != io.EOF {
			b.drop()
			again := (retryableRead(err) || errors.Is(err, io.ErrUnexpectedEOF)) && !errors.Is(err, object.ErrPrecondition)
			if n > 0 && again {
				return n, nil // the next call opens it again
			}
			err = b.task.again(b.ctx, err, again)
		}
		if err != nil || n > 0 || len(p) == 0 {
			b.err = err
			return n, err
		}
	}
	return 0, b.err
}

func (b *body) read(p []byte) (int, error) {
	if b.r == nil {
		info, err := b.open()
		if err != nil {
			return 0, err
		}
		if info.ETag != b.etag {
			return 0, &object.Error{Op: "get", Key: b.key, Err: fmt.Errorf("%w while it was read", object.ErrPrecondition)}
		}
	}
	return b.r.Read(p)
}

// drop gives the broken body up; what it has to say in Close is known already.
func (b *body) drop() {
	if b.r != nil {
		_ = b.r.Close()
		b.r = nil
	}
}

func (b *body) Close() error {
	if b.r == nil {
		return nil
	}
	return b.r.Close()
}
