package s3

import (
	"io"

	"github.com/massif-fs/massif/object/watchdog"
)

// receiving is the body of an answer: of exactly left bytes.
type receiving struct {
	s    *Store
	w    *watchdog.Dog
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
	r.w.Kick()
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	r.w.Pause()
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
	r.w.Kick()
	defer r.w.Pause()
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
		r.w.End()
	}
	_ = r.body.Close() // what a connection has to say that nobody reads on is of no interest
	r.w.End()
	if r.left == 0 && r.err != io.EOF {
		return r.err
	}
	return nil
}
