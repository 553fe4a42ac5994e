package wire

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
)

// Receiving is the body of an answer: of exactly Left bytes. Fewer are
// io.ErrUnexpectedEOF, more make no sense. Reading on to the end lets whatever
// verifies the whole body do so, and the connection be used again.
type Receiving struct {
	Watch *watchdog.Dog
	Body  io.ReadCloser
	Left  int64
	// Partial: the server sends more than was asked for, and nobody reads that.
	Partial bool
	Where   string
	// Fail makes the caller's error of what went wrong.
	Fail func(err error) error
	// Verify, if not nil, is asked at the end whether the bytes were right.
	Verify func() error
	// Sum, if not nil, is given all bytes, for Verify.
	Sum io.Writer

	err error
}

func (r *Receiving) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.Left == 0 {
		r.err = r.drain()
		return 0, r.err
	}
	r.Watch.Kick()
	n, err := r.Body.Read(p[:min(int64(len(p)), r.Left)])
	r.Watch.Pause()
	r.Left -= int64(n)
	if r.Sum != nil {
		_, _ = r.Sum.Write(p[:n]) // a hash never fails
	}
	switch {
	case err == io.EOF && r.Left > 0:
		r.err = r.Fail(&Failure{object.ErrUnavailable, fmt.Sprintf("%s: the answer was cut short by %d bytes", r.Where, r.Left), io.ErrUnexpectedEOF})
	case err == io.EOF:
		r.err = r.verified()
	case err != nil:
		r.err = r.Fail(err)
	}
	if n > 0 {
		return n, nil // the error comes next
	}
	return n, r.err
}

// drain expects the end of the body.
func (r *Receiving) drain() error {
	if r.Partial {
		return io.EOF
	}
	r.Watch.Kick()
	defer r.Watch.Pause()
	var one [1]byte
	n, err := io.ReadFull(r.Body, one[:])
	switch {
	case n > 0:
		return r.Fail(Nonsense(r.Where, "more bytes than announced"))
	case err == io.EOF:
		return r.verified()
	}
	return r.Fail(err)
}

func (r *Receiving) verified() error {
	if r.Verify != nil {
		if err := r.Verify(); err != nil {
			return r.Fail(err)
		}
	}
	return io.EOF
}

// Close ends the request. A body read to its end leaves the connection for the
// next request.
func (r *Receiving) Close() error {
	if r.Left == 0 && r.err == nil {
		r.err = r.drain()
	}
	if r.err != io.EOF {
		r.Watch.End()
	}
	_ = r.Body.Close() // what a connection has to say that nobody reads on is of no interest
	r.Watch.End()
	if r.Left == 0 && r.err != io.EOF {
		return r.err
	}
	return nil
}

// ReadInto fills p. An object that ends before gives io.ErrUnexpectedEOF with the
// count read.
func (r *Receiving) ReadInto(p []byte, op, key string) (int, error) {
	n, err := io.ReadFull(r, p)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF { // the object ends here, the answer was whole
		err = &object.Error{Op: op, Key: key, Err: io.ErrUnexpectedEOF}
	}
	return n, err
}

// Asked is a range that was asked for: N bytes at Off, all from there on if N is
// negative.
type Asked struct{ Off, N int64 }

// Ranged reports whether the request needs a range.
func (a Asked) Ranged() bool { return a.Off > 0 || a.N > 0 }

// Header is the value of the Range header.
func (a Asked) Header() string {
	if a.N > 0 && a.Off+a.N > 0 { // the sum may overflow
		return fmt.Sprintf("bytes=%d-%d", a.Off, a.Off+a.N-1)
	}
	return fmt.Sprintf("bytes=%d-", a.Off)
}

// Accept looks at the length and the Content-Range of an answer, "" if there is
// none. It returns how many bytes of the body are those that were asked for, and
// the size of the object; or what makes no sense.
func (a Asked) Accept(length int64, contentRange string) (left, total int64, nonsense string) {
	if contentRange == "" {
		// The whole object: right only if the range began at its beginning.
		if a.Off > 0 {
			return 0, 0, "the server ignores ranges"
		}
		if a.N > 0 && a.N < length {
			return a.N, length, ""
		}
		return length, length, ""
	}
	if length == 0 && contentRange == fmt.Sprintf("bytes %d-%d/%d", a.Off, a.Off-1, a.Off) {
		return 0, a.Off, "" // as some say "nothing is there" of a range that begins at the end
	}
	from, to, total, err := ParseContentRange(contentRange)
	if err != nil {
		return 0, 0, err.Error()
	}
	if from != a.Off || to-from+1 != length || a.N > 0 && length > a.N || a.N > 0 && length < a.N && to != total-1 || a.N < 0 && to != total-1 {
		return 0, 0, fmt.Sprintf("Content-Range %q for %d bytes, asked for %q", contentRange, length, a.Header())
	}
	return length, total, ""
}

// ParseContentRange parses "bytes FROM-TO/TOTAL" (RFC 9110, section 14.4).
func ParseContentRange(h string) (from, to, total int64, err error) {
	bad := fmt.Errorf("Content-Range %q", h)
	rest, ok := strings.CutPrefix(h, "bytes ")
	if !ok {
		return 0, 0, 0, bad
	}
	span, size, ok1 := strings.Cut(rest, "/")
	first, last, ok2 := strings.Cut(span, "-")
	if !ok1 || !ok2 {
		return 0, 0, 0, bad
	}
	for _, f := range []struct {
		v *int64
		s string
	}{{&from, first}, {&to, last}, {&total, size}} {
		n, err := strconv.ParseUint(f.s, 10, 63)
		if err != nil {
			return 0, 0, 0, bad
		}
		*f.v = int64(n)
	}
	if from > to || to >= total {
		return 0, 0, 0, bad
	}
	return from, to, total, nil
}
