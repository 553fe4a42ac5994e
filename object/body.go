package object

import (
	"fmt"
	"io"
)

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
