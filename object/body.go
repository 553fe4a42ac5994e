package object

import (
	"fmt"
	"io"
)

// MemoryBody is a body that lies in memory, as bytes.Reader and strings.Reader do:
// it can be read again from any place, reading it takes no time and does not fail.
// Drivers send such bodies as they are, and wrappers hand them on unwrapped.
type MemoryBody interface {
	io.ReadSeeker
	io.WriterTo
	Len() int // bytes left
}

// PiecesBody is a MemoryBody that can show the memory it lies in, for drivers that
// write or send many slices in one call.
type PiecesBody interface {
	MemoryBody
	// Pieces calls fn with the slices that are left, in order. They may be read
	// until fn returns, and are not changed meanwhile. If fn returns nil the body
	// has been read to its end; else it stands where it stood.
	Pieces(fn func(pieces [][]byte) error) error
}

// CheckLength returns the error of a MemoryBody that has not exactly size bytes
// left: io.ErrUnexpectedEOF or ErrInvalid. A negative size fits every body.
func CheckLength(body MemoryBody, size int64) error {
	switch have := int64(body.Len()); {
	case size < 0 || have == size:
		return nil
	case have < size:
		return fmt.Errorf("body ends %d bytes before the %d announced: %w", size-have, size, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("%w: body is longer than the %d bytes announced", ErrInvalid, size)
}

// Sized returns a reader of exactly size bytes of r: an r that ends early gives
// io.ErrUnexpectedEOF in place of io.EOF, an r that goes on gives ErrInvalid. A
// negative size returns r as it is. Drivers put it around the body of Put, so
// that a body of the wrong length never becomes an object.
func Sized(r io.Reader, size int64) io.Reader {
	if size < 0 {
		return r
	}
	return &sizedReader{r: r, size: size, left: size}
}

type sizedReader struct {
	r          io.Reader
	size, left int64
}

func (s *sizedReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if s.left == 0 {
		var one [1]byte
		switch n, err := io.ReadFull(s.r, one[:]); {
		case n > 0:
			return 0, fmt.Errorf("%w: body is longer than the %d bytes announced", ErrInvalid, s.size)
		default:
			return 0, err // io.EOF, or what broke the body
		}
	}
	if int64(len(p)) > s.left {
		p = p[:s.left]
	}
	n, err := s.r.Read(p)
	s.left -= int64(n)
	if err == io.EOF {
		if s.left > 0 {
			return n, fmt.Errorf("body ended %d bytes before the %d announced: %w", s.left, s.size, io.ErrUnexpectedEOF)
		}
		if n > 0 {
			err = nil // the next call finds the end
		}
	}
	return n, err
}
