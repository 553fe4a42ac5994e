package block

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

const (
	// maxRun is how many stored bytes one request for frames fetches at most.
	maxRun = 1 << 20
	// smallLocal and smallRemote: a read that ends so early in a block whose
	// header is not known fetches header and data in one request.
	smallLocal  = 256 << 10
	smallRemote = 1 << 20
)

// ReadAt fills p with the bytes of block r from offset off. All bytes are verified:
// after an error p holds nothing of use, but never are wrong bytes returned as
// good ones. A damaged or cut answer is fetched once more, past all caches.
//
// Errors: EINVAL for a range outside of the block, EIO for a block that is missing
// ([ErrMissing]) or damaged ([ErrDamaged]) or a store that fails, ETIMEDOUT,
// EACCES, EINTR, ENOKEY for a sealed block without its Sealer.
func (s *Store) ReadAt(ctx context.Context, r Ref, p []byte, off uint32) error {
	if err := checkRange(r, off, len(p)); err != nil {
		return fail("read", r.ID, err)
	}
	if len(p) == 0 {
		return nil
	}
	err := s.readOnce(ctx, r, p, off)
	if err != nil && errors.Is(err, errDamaged) {
		err = s.again(ctx, r, err, func() error { return s.readOnce(ctx, r, p, off) })
	}
	if err != nil {
		return fail("read", r.ID, err)
	}
	s.stats.reads.Add(1)
	s.stats.readBytes.Add(int64(len(p)))
	return nil
}

func (s *Store) readOnce(ctx context.Context, r Ref, p []byte, off uint32) error {
	err := s.read(ctx, r, p, off)
	if err != nil && errors.Is(err, ErrInParts) {
		return s.readParts(ctx, r, p, off)
	}
	return err
}

func checkRange(r Ref, off uint32, n int) error {
	if r.ID == 0 || r.Size == 0 || r.Size > MaxSize || uint64(off)+uint64(n) > uint64(r.Size) {
		return vfs.WithErrno(syscall.EINVAL, fmt.Errorf("%d bytes at %d do not lie in block %d of %d bytes", n, off, r.ID, r.Size))
	}
	return nil
}

// again repeats a read that met damage, after all caches have forgotten the block.
func (s *Store) again(ctx context.Context, r Ref, err error, read func() error) error {
	s.log.Warn("a block's bytes do not fit their checksums; reading it again", "block", uint64(r.ID), "store", s.store.String(), "error", err)
	s.forget(r.ID)
	s.stats.refetched.Add(1)
	if err = read(); err != nil && errors.Is(err, errDamaged) {
		s.stats.damaged.Add(1)
		s.log.Error("a block is damaged", "block", uint64(r.ID), "key", s.key(r.ID), "store", s.store.String(), "error", err)
	}
	return err
}

// forget drops the block from all caches.
func (s *Store) forget(id ID) {
	s.headers.drop(id)
	s.memory.Drop(uint64(id))
	if s.disk != nil {
		s.disk.Drop(uint64(id))
	}
}

// source tells where the block is to be read. The caller releases it.
func (s *Store) source(id ID) source {
	if s.pending != nil && s.pending.HasPending(uint64(id)) {
		return &pendingSource{s: s, id: id}
	}
	if s.stage != nil {
		if src, ok := s.stage.lookup(id); ok {
			return src
		}
	}
	return storeSource{s, id}
}

func (s *Store) read(ctx context.Context, r Ref, p []byte, off uint32) error {
	h := s.headers.get(r)
	src := s.source(r.ID)
	defer src.release()
	for h == nil {
		var done bool
		var err error
		if h, done, err = s.first(ctx, src, r, p, off, uint32(len(p))); err != nil || done {
			return err
		}
	}
	if len(p) > maxRun && !src.local() {
		s.Prefetch(r, off+maxRun, uint32(len(p)-maxRun)) // at the same time as the first part
	}
	for len(p) > 0 {
		n, err := s.readSome(ctx, src, h, p, off)
		if err != nil {
			return err
		}
		p, off = p[n:], off+uint32(n)
	}
	return nil
}

// readSome reads at least one byte in the way that suits the frame at off.
func (s *Store) readSome(ctx context.Context, src source, h *header, p []byte, off uint32) (int, error) {
	i := int(off >> h.frameShift)
	in := int(off) - i<<h.frameShift
	if src.local() && h.direct(i) {
		n := h.plain(i) - in
		for j := i + 1; n < len(p) && h.direct(j); j++ {
			n += h.plain(j)
		}
		p = p[:min(n, len(p))]
		return len(p), s.readUnits(ctx, src, h, p, off)
	}
	if b := s.memory.Get(uint64(h.id), uint32(i)); b != nil {
		n := copy(p, b.Bytes()[in:])
		b.Release()
		return n, nil
	}
	last := int((uint64(off)+uint64(len(p))-1)>>h.frameShift) + 1
	if src.local() && in == 0 && h.covers(i, p, off) {
		// Whole frames of local objects: the kernel keeps what it gives us, so
		// they are decoded where they are wanted.
		j, stored := i+1, h.frames[i].stored()
		for j < last && !h.direct(j) && h.covers(j, p, off) && stored+h.frames[j].stored() <= maxRun && !s.memory.Has(uint64(h.id), uint32(j)) {
			stored += h.frames[j].stored()
			j++
		}
		end := min(uint32(j)<<h.frameShift, h.size)
		p = p[:end-off]
		return len(p), s.fetch(ctx, src, h, i, j, p, off, nil)
	}
	return s.shared(ctx, src, h, i, last, p, off)
}

// covers tells whether p at off wants all of frame i.
func (h *header) covers(i int, p []byte, off uint32) bool {
	start := uint32(i) << h.frameShift
	return off <= start && int(start-off)+h.plain(i) <= len(p)
}

var unitPool = sync.Pool{New: func() any { return new([unitSize]byte) }}

// readUnits reads from raw frames in a row: the units that p touches, straight
// into p where it covers them.
func (s *Store) readUnits(ctx context.Context, src source, h *header, p []byte, off uint32) error {
	for len(p) > 0 {
		in := int(off & (unitSize - 1))
		whole := len(p) &^ (unitSize - 1)
		if uint32(len(p)) == h.size-off {
			whole = len(p) // up to the block's end, also if its last unit is short
		}
		if in == 0 && whole > 0 {
			if err := s.units(ctx, src, h, p[:whole], off); err != nil {
				return err
			}
			p, off = p[whole:], off+uint32(whole)
			continue
		}
		u := unitPool.Get().(*[unitSize]byte)
		start := off - uint32(in)
		unit := u[:min(unitSize, h.size-start)]
		if err := s.units(ctx, src, h, unit, start); err != nil {
			unitPool.Put(u)
			return err
		}
		n := copy(p, unit[in:])
		unitPool.Put(u)
		p, off = p[n:], off+uint32(n)
	}
	return nil
}

// units reads and verifies whole units at off.
func (s *Store) units(ctx context.Context, src source, h *header, p []byte, off uint32) error {
	i := off >> h.frameShift
	f := h.frames[i]
	in := off - i<<h.frameShift
	if err := readFull(ctx, src, p, int64(f.off+in)); err != nil {
		return err
	}
	return h.verifyUnits(uint64(off>>unitShift), f.sum+in>>unitShift, p)
}

// first reads the header of a block, and with it the n bytes from off if they are
// near: into p, or, for a nil p, into the memory cache. done: p is filled. Only
// one caller at a time does it for a block; the others find the header afterwards.
func (s *Store) first(ctx context.Context, src source, r Ref, p []byte, off, n uint32) (h *header, done bool, err error) {
	f, leader := s.flights.begin(r.ID, headerFlight, headerFlight+1)
	if !leader {
		if err := f.wait(ctx, &s.flights); err != nil {
			return nil, false, err
		}
		// The header may not be in the cache, where memory is short.
		h := f.header
		f.leave(&s.flights)
		if h == nil || h.size != r.Size {
			return s.headers.get(r), false, nil
		}
		return h, false, nil
	}
	defer func() {
		f.header = h
		s.flights.end(ctx, f, err)
	}()
	if h := s.headers.get(r); h != nil {
		return h, false, nil
	}
	if h := s.diskHeader(ctx, src, r); h != nil {
		s.headers.add(h)
		return h, false, nil
	}
	near := uint32(smallLocal)
	if !src.local() {
		near = smallRemote
	}
	shift := s.enc.frameShift
	want := maxHeaderLength(r.Size, shift)
	if end := off + n; n > 0 && end <= near {
		// Up to the end of the last frame; sealed ones are longer.
		end = min((end+1<<shift-1)&^(1<<shift-1), r.Size)
		want += end
		if s.sealer != nil {
			want += uint32(frameCount(end, shift) * s.sealer.Overhead())
		}
	}
	b, err := s.bufs.Get(ctx, s.share, int(want))
	if err != nil {
		return nil, false, err
	}
	defer b.Release()
	s.stats.headerGets.Add(1)
	got, err := src.read(ctx, b.Bytes(), 0)
	if err != nil {
		return nil, false, err
	}
	prefix := b.Bytes()[:got]
	h, err = s.parse(prefix, r)
	var short *shortHeaderError
	if errors.As(err, &short) {
		h, err = s.longHeader(ctx, src, r, short.length)
	}
	if err != nil {
		return nil, false, err
	}
	if got < int(want) && got < int(h.object) {
		return nil, false, damaged("object has %d bytes, not %d", got, h.object)
	}
	s.headers.add(h)
	i := int(off >> h.frameShift)
	last := int((uint64(off) + uint64(n) + 1<<h.frameShift - 1) >> h.frameShift)
	if n == 0 || int(h.frames[last-1].end()) > got { // the header alone
		s.diskAdd(src, h, b, prefix, true, 0, 0)
		return h, false, nil
	}
	if err := s.decodeRun(src, h, i, last, prefix[h.frames[i].off:], p, off, nil); err != nil {
		return h, false, err
	}
	s.diskAdd(src, h, b, prefix, true, i, last)
	return h, true, nil
}

// longHeader reads a header whose length is known, of a block with smaller frames
// than new ones have.
func (s *Store) longHeader(ctx context.Context, src source, r Ref, length uint32) (*header, error) {
	// The caller holds a buffer of the transfers' share already; waiting for a
	// second one could wait for ever.
	p := make([]byte, length)
	if err := readFull(ctx, src, p, 0); err != nil {
		return nil, err
	}
	return s.parse(p, r)
}
