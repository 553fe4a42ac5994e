package block

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/massif-fs/massif/object"
)

// A block may hold pieces of several files (a pack). To a session of a shared
// volume that sees only one directory, its object must not be given out: the store
// (package block/blockgate) then answers ErrInParts, and serves the pieces that
// the session may see as plain bytes, by the name that PlainKey makes. They are not
// cached here: what a session sees of such a block depends on its files, and a
// cache knows blocks.

// ErrInParts is the answer of a store that does not give out the object of a
// block, but parts of its plain bytes, by PlainKey.
var ErrInParts = errors.New("only parts of the block are given out")

const plainPart = "plain/"

// PlainKey names the plain bytes of a block in a store that knows ErrInParts.
func PlainKey(prefix string, id ID) string {
	return string(appendID([]byte(prefix+plainPart), id))
}

// ParsePlainKey is the inverse of PlainKey; false for a key of another form.
func ParsePlainKey(prefix, key string) (ID, bool) {
	rest, ok := strings.CutPrefix(key, prefix+plainPart)
	if !ok || len(rest) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(rest, 16, 64)
	if err != nil || n == 0 || PlainKey(prefix, ID(n)) != key {
		return 0, false
	}
	return ID(n), true
}

// readParts is read for a block of which the store gives out only parts.
func (s *Store) readParts(ctx context.Context, r Ref, p []byte, off uint32) error {
	for len(p) > 0 {
		part := p[:min(len(p), maxRun)]
		if err := acquire(ctx, s.downloads); err != nil {
			return err
		}
		n, err := object.ReadRange(ctx, s.store, PlainKey(s.prefix, r.ID), part, int64(off))
		<-s.downloads
		s.stats.fetches.Add(1)
		s.stats.fetchedBytes.Add(int64(n))
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = damaged("block ends at byte %d", int64(off)+int64(n))
		}
		if errors.Is(err, object.ErrCorrupt) {
			err = fmt.Errorf("%w: %w", errDamaged, err)
		}
		if err != nil {
			return err
		}
		p, off = p[len(part):], off+uint32(len(part))
	}
	return nil
}

// Range is a range of the plain bytes of a block.
type Range struct{ Off, Len uint32 }

// Span is a range of the bytes of a block's object.
type Span struct{ Off, Len int64 }

// Spans tells which bytes of the object of block r one needs to read the given
// ranges: the header, and the frames that hold them. The spans come in order, do
// not touch, and lie within the object's length. It reads the header, as ReadAt
// does, but no frame, and needs no key.
//
// Errors: as ReadAt.
func (s *Store) Spans(ctx context.Context, r Ref, ranges []Range) (spans []Span, length int64, err error) {
	for _, want := range ranges {
		if err := checkRange(r, want.Off, int(want.Len)); err != nil {
			return nil, 0, fail("read", r.ID, err)
		}
	}
	src := s.source(r.ID)
	defer src.release()
	h := s.headers.get(r)
	for h == nil {
		if h, _, err = s.first(ctx, src, r, nil, 0, 0); err != nil {
			return nil, 0, fail("read", r.ID, err)
		}
	}
	frames := make([]bool, len(h.frames))
	for _, want := range ranges {
		if want.Len == 0 {
			continue
		}
		for i := want.Off >> h.frameShift; i <= (want.Off+want.Len-1)>>h.frameShift; i++ {
			frames[i] = true
		}
	}
	spans = append(spans, Span{0, int64(h.length)})
	for i, wanted := range frames {
		if !wanted {
			continue
		}
		f := h.frames[i]
		if last := &spans[len(spans)-1]; last.Off+last.Len == int64(f.off) {
			last.Len += int64(f.stored())
		} else {
			spans = append(spans, Span{int64(f.off), int64(f.stored())})
		}
	}
	return slices.Clip(spans), int64(h.object), nil
}
