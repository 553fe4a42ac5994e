package wire

import (
	"bytes"
	"context"
	"errors"
	"hash"
	"io"
	"sync"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
	"golang.org/x/sync/semaphore"
)

// Payload is the body of a request, in memory. It can be sent several times, one
// after the other.
type Payload struct {
	Size int64
	Sum  []byte // of its hash, nil for none

	r     io.ReadSeeker
	start int64 // of the body in r
}

// NewPayload takes the rest of m, which must have size bytes unless size is
// negative, and puts it through h, if that is not nil.
func NewPayload(m object.MemoryBody, size int64, h hash.Hash) (*Payload, error) {
	if err := object.CheckLength(m, size); err != nil {
		return nil, err
	}
	start, err := m.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, err
	}
	p := &Payload{r: m, start: start, Size: int64(m.Len())}
	if h != nil {
		if _, err := m.WriteTo(h); err != nil {
			return nil, err
		}
		p.Sum = h.Sum(nil)
	}
	return p, p.Rewind()
}

// Body is the payload as the body of a request that w watches.
func (p *Payload) Body(w *watchdog.Dog) *watchdog.Sending { return w.Send(p.r, p.start) }

// Rewind makes the payload ready to be sent again.
func (p *Payload) Rewind() error {
	_, err := p.r.Seek(p.start, io.SeekStart)
	return err
}

// Buffers are the memory for parts of long uploads under way: for all uploads of a
// store together, PartSize × Concurrency bytes at most.
type Buffers struct {
	partSize int64
	most     int64
	memory   *semaphore.Weighted
	pool     sync.Pool // of *[]byte of partSize
}

// NewBuffers returns buffers of partSize bytes, of which concurrency are in use at
// most.
func NewBuffers(partSize int64, concurrency int) *Buffers {
	b := &Buffers{partSize: partSize, most: partSize * int64(concurrency)}
	b.memory = semaphore.NewWeighted(b.most)
	b.pool.New = func() any { p := make([]byte, partSize); return &p }
	return b
}

// Get returns a buffer for a part of n bytes when memory for it is free. A part
// larger than all of the memory gets all of it.
func (s *Buffers) Get(ctx context.Context, n int64) (*Buffer, error) {
	weight := min(max(n, s.partSize), s.most)
	if err := s.memory.Acquire(ctx, weight); err != nil {
		return nil, err
	}
	b := &Buffer{s: s, weight: weight}
	if n <= s.partSize {
		b.pooled = s.pool.Get().(*[]byte)
		b.P = (*b.pooled)[:n]
	} else {
		b.P = make([]byte, n)
	}
	return b, nil
}

// Buffer is memory for one part, P.
type Buffer struct {
	P []byte

	s      *Buffers
	weight int64
	pooled *[]byte
}

// Free gives the memory back.
func (b *Buffer) Free() {
	if b.pooled != nil {
		b.s.pool.Put(b.pooled)
	}
	b.s.memory.Release(b.weight)
}

// Fill reads until the buffer is full or the body ends, which last says; then P is
// what was read.
func (b *Buffer) Fill(ctx context.Context, body io.Reader) (last bool, err error) {
	n := 0
	for n < len(b.P) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		m, err := body.Read(b.P[n:])
		n += m
		if err == io.EOF {
			b.P = b.P[:n]
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// Ended finds whether a body is at its end. If not, a byte of it is gone.
func Ended(body io.Reader) (bool, error) {
	n, err := io.ReadFull(body, make([]byte, 1))
	if n > 0 {
		return false, nil
	}
	if err == io.EOF {
		return true, nil
	}
	return false, err
}

// First reads the first part of a body of size bytes, -1 if that is unknown. whole
// says that it is the only one. The caller frees the buffer, if there is no error.
func (s *Buffers) First(ctx context.Context, body io.Reader, size, partSize int64) (b *Buffer, whole bool, err error) {
	if b, err = s.Get(ctx, partSize); err != nil {
		return nil, false, err
	}
	whole, err = b.Fill(ctx, body)
	if err == nil && !whole && size == int64(len(b.P)) {
		whole, err = Ended(body)
	}
	if err != nil {
		b.Free()
		return nil, false, err
	}
	return b, whole, nil
}

// Parts says how a long body is cut and sent.
type Parts struct {
	Buffers     *Buffers
	Concurrency int
	Most        int               // number of parts
	Size        func(n int) int64 // of part n, from 1
	Send        func(ctx context.Context, n int, part *bytes.Reader) (object.Part, error)
}

// SendAll uploads first and the rest of body as parts, as many at once as there
// are buffers. It frees first.
func (u *Parts) SendAll(ctx context.Context, first *Buffer, body io.Reader) ([]object.Part, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	type result struct {
		part object.Part
		err  error
	}
	results := make(chan result)
	running := 0
	var parts []object.Part
	var failed error
	collect := func(r result) {
		running--
		if r.err != nil {
			if failed == nil {
				failed = r.err
				cancel(r.err)
			}
			return
		}
		parts = append(parts, r.part)
	}
	start := func(n int, b *Buffer) {
		running++
		go func() {
			part, err := u.Send(ctx, n, bytes.NewReader(b.P))
			b.Free()
			results <- result{part, err}
		}()
	}
	b, last := first, false
	for n := 1; failed == nil; n++ {
		start(n, b)
		if last {
			break
		}
		if n == u.Most {
			failed = invalid("the object has more than %d parts of up to %d bytes", u.Most, len(b.P))
			cancel(failed)
			break
		}
		for running >= u.Concurrency {
			collect(<-results)
		}
		if failed != nil {
			break
		}
		var err error
		if b, err = u.Buffers.Get(ctx, u.Size(n+1)); err == nil {
			last, err = b.Fill(ctx, body)
			if err == nil && last && len(b.P) == 0 { // the body ended with the part before
				b.Free()
				break
			}
			if err != nil {
				b.Free()
			}
		}
		if err != nil {
			if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
				err = cause
			}
			if failed == nil {
				failed = err
			}
			cancel(err)
		}
	}
	for running > 0 {
		collect(<-results)
	}
	return parts, failed
}
