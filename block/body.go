package block

import (
	"errors"
	"io"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// body reads a list of slices as one object, without copying them together. It
// can be rewound, for a second try, and hands the slices to a file by writev.
//
// After close it gives no bytes any more: an HTTP transport may go on reading the
// body of a request that has failed, when the memory behind the slices is in use
// for something else.
type body struct {
	size int64

	mu     sync.Mutex // held while the slices are read
	parts  [][]byte
	closed bool
	// position: the next byte is parts[part][off]
	part int
	off  int
	pos  int64
}

// newBody takes the list over.
func newBody(parts [][]byte) *body {
	b := &body{parts: parts[:0]}
	for _, p := range parts {
		if len(p) > 0 {
			b.parts = append(b.parts, p)
			b.size += int64(len(p))
		}
	}
	return b
}

func (b *body) Size() int64 { return b.size }

// Len is the number of bytes left.
func (b *body) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int(b.size - b.pos)
}

var errBodyClosed = errors.New("the upload of this object has ended")

// close waits for a read in progress and ends all later ones.
func (b *body) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.parts, b.closed = nil, true
}

func (b *body) Read(p []byte) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, errBodyClosed
	}
	if b.pos == b.size {
		return 0, io.EOF
	}
	for n < len(p) && b.part < len(b.parts) {
		k := copy(p[n:], b.parts[b.part][b.off:])
		n += k
		b.advance(k)
	}
	return n, nil
}

// advance moves forward inside the current part.
func (b *body) advance(n int) {
	b.pos += int64(n)
	b.off += n
	for b.part < len(b.parts) && b.off == len(b.parts[b.part]) {
		b.part++
		b.off = 0
	}
}

func (b *body) Seek(offset int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, errBodyClosed
	}
	switch whence {
	case io.SeekCurrent:
		offset += b.pos
	case io.SeekEnd:
		offset += b.size
	}
	if offset < 0 || offset > b.size {
		return 0, errors.New("seek outside of the object")
	}
	b.part, b.off, b.pos = 0, 0, 0
	for left := offset; left > 0; {
		k := min(left, int64(len(b.parts[b.part])))
		b.advance(int(k))
		left -= k
	}
	return offset, nil
}

func (b *body) ReadAt(p []byte, off int64) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, errBodyClosed
	}
	for _, part := range b.parts {
		if off >= int64(len(part)) {
			off -= int64(len(part))
			continue
		}
		n += copy(p[n:], part[off:])
		off = 0
		if n == len(p) {
			return n, nil
		}
	}
	return n, io.EOF
}

// WriteTo writes what is left to w. After an error the position is undefined.
func (b *body) WriteTo(w io.Writer) (n int64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, errBodyClosed
	}
	if f, ok := w.(*os.File); ok {
		return b.writeFile(f)
	}
	// Small pieces go together, so that many of them are not as many calls.
	buf := gatherPool.Get().(*[]byte)
	defer gatherPool.Put(buf)
	write := func(p []byte) error {
		k, err := w.Write(p)
		n += int64(k)
		if err == nil && k < len(p) {
			err = io.ErrShortWrite
		}
		return err
	}
	gathered := (*buf)[:0]
	for b.part < len(b.parts) {
		p := b.parts[b.part][b.off:]
		small := len(p) <= smallPiece
		if len(gathered) > 0 && (!small || len(gathered)+len(p) > cap(gathered)) {
			if err := write(gathered); err != nil {
				return n, err
			}
			gathered = gathered[:0]
		}
		if small {
			gathered = append(gathered, p...)
		} else if err := write(p); err != nil {
			return n, err
		}
		b.advance(len(p))
	}
	if len(gathered) > 0 {
		err = write(gathered)
	}
	return n, err
}

// Pieces implements object.PiecesBody.
func (b *body) Pieces(fn func(pieces [][]byte) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errBodyClosed
	}
	pieces := slices.Clone(b.parts[b.part:])
	if b.off > 0 {
		pieces[0] = pieces[0][b.off:]
	}
	if err := fn(pieces); err != nil {
		return err
	}
	b.part, b.off, b.pos = len(b.parts), 0, b.size
	return nil
}

const (
	gatherSize = 256 << 10
	smallPiece = 32 << 10
)

var gatherPool = sync.Pool{New: func() any { p := make([]byte, gatherSize); return &p }}

func (b *body) writeFile(f *os.File) (n int64, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	const most = 256 // slices in one call
	var vec [most][]byte
	for b.part < len(b.parts) {
		v := vec[:0]
		v = append(v, b.parts[b.part][b.off:])
		for i := b.part + 1; i < len(b.parts) && len(v) < most; i++ {
			v = append(v, b.parts[i])
		}
		var k int
		var werr error
		cerr := conn.Write(func(fd uintptr) bool {
			for {
				k, werr = unix.Writev(int(fd), v)
				if werr != unix.EINTR {
					return werr != unix.EAGAIN
				}
			}
		})
		if werr == nil {
			werr = cerr
		}
		if werr == nil && k <= 0 {
			werr = io.ErrShortWrite
		}
		if werr != nil {
			return n, &os.PathError{Op: "write", Path: f.Name(), Err: werr}
		}
		n += int64(k)
		for k > 0 {
			step := min(k, len(b.parts[b.part])-b.off)
			b.advance(step)
			k -= step
		}
	}
	return n, nil
}
