package block

import (
	"context"
	"sync"

	"github.com/massif-fs/massif/cache"
)

// headerFlight stands for the header of a block among its frames.
const headerFlight = -1

// flights are the fetches in progress, so that readers of one frame share one.
type flights struct {
	mu sync.Mutex
	m  map[flightKey]*flight
}

type flightKey struct {
	id    ID
	frame int
}

// flight is the fetch of the frames first to last-1 of a block.
type flight struct {
	id          ID
	first, last int
	done        chan struct{}

	// below: written before done is closed, except waiters (under flights.mu)
	err     error
	gaveUp  bool            // the caller of the leader gave up: err says nothing about the store
	frames  []*cache.Buffer // by frame-first; nil where memory was short
	header  *header
	waiters int
}

func (fs *flights) init() { fs.m = make(map[flightKey]*flight) }

// begin joins the flight that fetches frame first, or else begins one for first
// and the frames up to last-1 that nobody fetches yet; leader tells which. A
// joined flight must be waited for and left, a begun one ended.
func (fs *flights) begin(id ID, first, last int) (f *flight, leader bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.m[flightKey{id, first}]; f != nil {
		f.waiters++
		return f, false
	}
	f = &flight{id: id, first: first, done: make(chan struct{})}
	for f.last = first; f.last < last; f.last++ {
		k := flightKey{id, f.last}
		if fs.m[k] != nil {
			break
		}
		fs.m[k] = f
	}
	return f, true
}

// end publishes the result of a flight that was led with ctx. The flight owns the
// buffers in f.frames until the last waiter has left.
func (fs *flights) end(ctx context.Context, f *flight, err error) {
	fs.mu.Lock()
	f.err, f.gaveUp = err, ctx.Err() != nil
	for i := f.first; i < f.last; i++ {
		delete(fs.m, flightKey{f.id, i})
	}
	close(f.done)
	alone := f.waiters == 0
	fs.mu.Unlock()
	if alone {
		f.release()
	}
}

// busy tells whether somebody fetches the frame.
func (fs *flights) busy(id ID, frame int) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.m[flightKey{id, frame}] != nil
}

// wait waits for the end of a joined flight. After an error it has been left. A
// flight whose leader's caller gave up is no error, but may have no result.
func (f *flight) wait(ctx context.Context, fs *flights) error {
	select {
	case <-f.done:
	case <-ctx.Done():
		f.leave(fs)
		return context.Cause(ctx)
	}
	if f.err != nil && !f.gaveUp {
		err := f.err
		f.leave(fs)
		return err
	}
	return nil
}

func (f *flight) leave(fs *flights) {
	fs.mu.Lock()
	f.waiters--
	last := f.waiters == 0
	select {
	case <-f.done:
	default:
		last = false // end does it
	}
	fs.mu.Unlock()
	if last {
		f.release()
	}
}

func (f *flight) release() {
	for _, b := range f.frames {
		if b != nil {
			b.Release()
		}
	}
	f.frames = nil
}

// shared reads from frame i, and those after it up to last-1 that are not cached,
// through the memory cache, in one fetch with whoever else wants them.
func (s *Store) shared(ctx context.Context, src source, h *header, i, last int, p []byte, off uint32) (int, error) {
	in := int(off) - i<<h.frameShift
	for {
		f, leader := s.flights.begin(h.id, i, s.run(h, i, last))
		if !leader {
			if err := f.wait(ctx, &s.flights); err != nil {
				return 0, err
			}
			var n int
			if k := i - f.first; k < len(f.frames) && f.frames[k] != nil {
				n = copy(p, f.frames[k].Bytes()[in:])
			}
			f.leave(&s.flights)
			if n > 0 {
				return n, nil
			}
			if b := s.memory.Get(uint64(h.id), uint32(i)); b != nil {
				n := copy(p, b.Bytes()[in:])
				b.Release()
				return n, nil
			}
			continue
		}
		// The frame may have arrived since the caller looked.
		if b := s.memory.Get(uint64(h.id), uint32(i)); b != nil {
			s.flights.end(ctx, f, nil)
			n := copy(p, b.Bytes()[in:])
			b.Release()
			return n, nil
		}
		end := min(uint32(f.last)<<h.frameShift, h.size)
		p = p[:min(len(p), int(end-off))]
		err := s.fetch(ctx, src, h, i, f.last, p, off, f)
		s.flights.end(ctx, f, err)
		return len(p), err
	}
}

// run returns the end of the row of frames from i on that one request can fetch.
func (s *Store) run(h *header, i, last int) int {
	stored := h.frames[i].stored()
	j := i + 1
	for j < last && stored+h.frames[j].stored() <= maxRun && !s.memory.Has(uint64(h.id), uint32(j)) {
		stored += h.frames[j].stored()
		j++
	}
	return j
}

// fetch reads the frames i to last-1 from src and decodes them: what p (the plain
// bytes from off) wants of them into p, and all of them into the memory cache if
// there is a flight f, which gets the buffers.
func (s *Store) fetch(ctx context.Context, src source, h *header, i, last int, p []byte, off uint32, f *flight) error {
	start, end := h.frames[i].off, h.frames[last-1].end()
	b, err := s.bufs.Get(ctx, s.share, int(end-start))
	if err != nil {
		return err
	}
	defer b.Release()
	if s.disk == nil || src.local() {
		if err := readFull(ctx, src, b.Bytes(), int64(start)); err != nil {
			return err
		}
		return s.decodeRun(src, h, i, last, b.Bytes(), p, off, f)
	}
	missing, err := s.diskFetch(ctx, src, h, i, last, b.Bytes())
	if err != nil {
		return err
	}
	if err := s.decodeRun(src, h, i, last, b.Bytes(), p, off, f); err != nil {
		return err
	}
	for _, m := range missing {
		s.diskAdd(src, h, b, b.Bytes()[h.frames[m[0]].off-start:], false, m[0], m[1])
	}
	return nil
}

// decodeRun decodes the frames i to last-1, whose stored bytes begin at stored[0].
// The parameters are those of fetch. Frames that p wants only a part of are
// cached, the others where there is a flight.
func (s *Store) decodeRun(src source, h *header, i, last int, stored []byte, p []byte, off uint32, f *flight) error {
	base := h.frames[i].off
	first := i
	if f != nil {
		f.frames = make([]*cache.Buffer, last-first)
	}
	for ; i < last; i++ {
		fr := h.frames[i]
		in := stored[fr.off-base : fr.end()-base]
		start, plain := uint32(i)<<h.frameShift, h.plain(i)
		covered := h.covers(i, p, off)
		if f == nil && covered {
			if err := s.dec.decode(h, i, p[start-off:][:plain], in); err != nil {
				return err
			}
			continue
		}
		if f == nil && src.local() && h.direct(i) {
			if err := h.verify(i, in); err != nil {
				return err
			}
			copyRange(p, off, in, start)
			continue
		}
		b := s.memory.Alloc(plain)
		if b == nil {
			if err := s.decodePart(h, i, in, p, off); err != nil {
				return err
			}
			continue
		}
		if err := s.dec.decode(h, i, b.Bytes(), in); err != nil {
			b.Release()
			return err
		}
		s.memory.Insert(uint64(h.id), uint32(i), b)
		copyRange(p, off, b.Bytes(), start)
		if f != nil {
			f.frames[i-first] = b
		} else {
			b.Release()
		}
	}
	return nil
}

// decodePart decodes a frame for p alone, where the cache has no memory.
func (s *Store) decodePart(h *header, i int, stored, p []byte, off uint32) error {
	start, plain := uint32(i)<<h.frameShift, h.plain(i)
	if h.covers(i, p, off) {
		return s.dec.decode(h, i, p[start-off:][:plain], stored)
	}
	if start >= off+uint32(len(p)) || start+uint32(plain) <= off {
		return nil
	}
	sc := framePool.Get().(*[]byte)
	defer framePool.Put(sc)
	if cap(*sc) < plain {
		*sc = make([]byte, plain)
	}
	dst := (*sc)[:plain]
	if err := s.dec.decode(h, i, dst, stored); err != nil {
		return err
	}
	copyRange(p, off, dst, start)
	return nil
}

var framePool = sync.Pool{New: func() any { return new([]byte) }}

// copyRange copies into p, which begins at off, what src, which begins at at, has
// of it.
func copyRange(p []byte, off uint32, src []byte, at uint32) {
	if at < off {
		if int(off-at) >= len(src) {
			return
		}
		copy(p, src[off-at:])
		return
	}
	if int(at-off) >= len(p) {
		return
	}
	copy(p[at-off:], src)
}
