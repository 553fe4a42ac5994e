package block

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/massif-fs/massif/cache"
)

// encoder makes objects of plain data.
type encoder struct {
	volume      [16]byte
	compression Compression
	sealer      Sealer
	frameShift  uint8
	bufs        *cache.Buffers
	share       *cache.Share // for compressed and sealed frames
	scratch     sync.Pool    // of *scratch
}

func newEncoder(volume [16]byte, c Compression, s Sealer, frameShift uint8, bufs *cache.Buffers, share *cache.Share) *encoder {
	e := &encoder{volume: volume, compression: c, sealer: s, frameShift: frameShift, bufs: bufs, share: share}
	e.scratch.New = func() any {
		frame := max(1<<frameShift, probeLength)
		return &scratch{in: make([]byte, frame), out: make([]byte, frame+compressSlack)}
	}
	return e
}

// scratch holds a frame that lies in several slices, and its compressed form
// before it is sealed.
type scratch struct{ in, out []byte }

// compressSlack is by how much a compression may exceed its input on the way.
const compressSlack = 4096

// probeLength is how many bytes are compressed at each place of a probe.
const probeLength = 16 << 10

// encoded is a block ready for the store. Raw frames are the caller's slices.
type encoded struct {
	h    *header
	body *body
	bufs []*cache.Buffer
}

// close ends the use of the caller's slices and frees the buffers.
func (e *encoded) close() {
	e.body.close()
	for _, b := range e.bufs {
		b.Release()
	}
	e.bufs = nil
}

// plainSize adds up the slices and checks the sum.
func plainSize(data [][]byte) (uint32, error) {
	var n int64
	for _, d := range data {
		n += int64(len(d))
	}
	if n < 1 || n > MaxSize {
		return 0, fmt.Errorf("a block cannot hold %d bytes (1 to %d)", n, MaxSize)
	}
	return uint32(n), nil
}

// most is the greatest length that the object of the data can have.
func (c *encoder) most(data [][]byte) int64 {
	size, err := plainSize(data)
	if err != nil {
		return 0
	}
	n := int64(maxHeaderLength(size, c.frameShift)) + int64(size)
	if c.sealer != nil {
		n += int64(frameCount(size, c.frameShift)) * int64(c.sealer.Overhead())
	}
	return n
}

// encode makes the object of block id. It waits for memory only if frames are
// compressed or sealed.
func (c *encoder) encode(ctx context.Context, id ID, data [][]byte) (*encoded, error) {
	size, err := plainSize(data)
	if err != nil {
		return nil, err
	}
	n := frameCount(size, c.frameShift)
	h := &header{id: id, volume: c.volume, size: size, compression: c.compression, frameShift: c.frameShift,
		frames: make([]frameInfo, n)}
	if c.sealer != nil {
		h.seal = c.sealer.ID()
	}
	g := gather{data: data}
	if h.compression != None && !c.probe(g, size) {
		h.compression = None
	}

	e := &encoded{h: h}
	var parts [][]byte
	if h.compression == None && c.sealer == nil {
		h.sums = make([]uint64, 0, (size+unitSize-1)>>unitShift)
		for i := range h.frames {
			c.raw(h, i, &g)
		}
		parts = append(make([][]byte, 1, 1+len(data)), data...)
	} else {
		w, err := c.writer(ctx, h)
		if errors.Is(err, cache.ErrTooLarge) && c.sealer == nil {
			// Memory for this block's frames will never be there: store them raw.
			plain := encoder{volume: c.volume, frameShift: c.frameShift}
			return plain.encode(ctx, id, data)
		}
		if err != nil {
			return nil, err
		}
		w.g = gather{data: data}
		w.parts = make([][]byte, 1, 1+len(data)+n)
		w.frames()
		parts, e.bufs = w.parts, w.bufs
	}

	h.length = headerLength(size, n, len(h.sums))
	off := h.length
	for i := range h.frames {
		h.frames[i].off = off
		off += h.frames[i].stored()
	}
	h.object = off
	parts[0] = h.appendTo(make([]byte, 0, h.length))
	e.body = newBody(parts)
	return e, nil
}

// raw fills in frame i of h, stored as it is: the sums of its units.
func (c *encoder) raw(h *header, i int, g *gather) {
	plain := h.plain(i)
	h.frames[i] = frameInfo{len: uint32(plain) | rawFlag, sum: uint32(len(h.sums))}
	unit := uint64(i) << (h.frameShift - unitShift)
	var scratch [unitSize]byte
	for done := 0; done < plain; done += unitSize {
		p := g.next(min(unitSize, plain-done), scratch[:])
		h.sums = append(h.sums, checksum(&h.volume, h.id, unit, p))
		unit++
	}
}

// probe tries the compression on a few places of the block, and tells whether any
// is worth compressing. Data that does not compress is so found at little cost.
func (c *encoder) probe(g gather, size uint32) bool {
	const places = 4
	if size <= places*probeLength {
		return true // the frames themselves are the trial
	}
	s := c.scratch.Get().(*scratch)
	defer c.scratch.Put(s)
	step := (int(size) - probeLength) / (places - 1)
	for i := range places {
		p := g.next(probeLength, s.in)
		if n, err := c.compression.compress(s.out, p); err == nil && n > 0 {
			return true
		}
		if i < places-1 {
			g.skip(step - probeLength)
		}
	}
	return false
}

// frameWriter compresses and seals frames into buffers.
type frameWriter struct {
	*encoder
	h     *header
	g     gather
	bufs  []*cache.Buffer
	cur   int // index of the buffer written to
	used  int // bytes used in it
	parts [][]byte
}

// writer takes buffers for the frames of h, all at once.
func (c *encoder) writer(ctx context.Context, h *header) (*frameWriter, error) {
	const chunk = 1 << 20
	overhead := compressSlack
	total := int(h.size)
	if c.sealer != nil {
		overhead += c.sealer.Overhead()
		total += len(h.frames) * c.sealer.Overhead()
	}
	most := min(int(h.size), 1<<h.frameShift) + overhead // of one frame
	var sizes []int
	if total+most <= chunk {
		sizes = []int{total + overhead}
	} else {
		each := chunk
		for each < 2*most {
			each *= 2
		}
		for left := total; left > 0; left -= each - most {
			sizes = append(sizes, each)
		}
	}
	bufs, err := c.bufs.GetAll(ctx, c.share, sizes...)
	if err != nil {
		return nil, err
	}
	return &frameWriter{encoder: c, h: h, bufs: bufs}, nil
}

// room returns space for a frame of up to n bytes.
func (w *frameWriter) room(n int) []byte {
	if w.bufs[w.cur].Cap()-w.used < n {
		w.cur++
		w.used = 0
	}
	b := w.bufs[w.cur]
	b.SetLen(b.Cap())
	return b.Bytes()[w.used : w.used+n : w.used+n]
}

// frames encodes all frames. A row of frames that do not compress makes it skip
// some without trying, more and more of them.
func (w *frameWriter) frames() {
	s := w.scratch.Get().(*scratch)
	defer w.scratch.Put(s)
	h := w.h
	misses, skip := 0, 0
	for i := range h.frames {
		plain := h.plain(i)
		try := h.compression != None && skip == 0
		if skip > 0 {
			skip--
		}
		ok := false
		if try {
			ok = w.compressed(i, plain, s)
			if ok {
				misses = 0
			} else {
				misses++
				skip = min(1<<misses, 16) - 1
				if misses == 1 {
					skip = 0
				}
			}
		}
		switch {
		case ok:
		case w.sealer != nil:
			w.sealed(i, w.peek(plain, s.in), true)
		default:
			g := w.g
			w.encoder.raw(h, i, &g)
			w.appendData(plain)
		}
		w.g.skip(plain)
	}
	// What was not needed goes back before the upload begins.
	need := w.cur + 1
	if w.cur == 0 && w.used == 0 {
		need = 0
	}
	for _, b := range w.bufs[need:] {
		b.Release()
	}
	w.bufs = w.bufs[:need]
}

// peek returns the next n plain bytes and leaves the position where it is.
func (w *frameWriter) peek(n int, scratch []byte) []byte {
	g := w.g
	return g.next(n, scratch)
}

// compressed stores frame i compressed, if that is worth while.
func (w *frameWriter) compressed(i, plain int, s *scratch) bool {
	src := w.peek(plain, s.in)
	dst := s.out[:plain+compressSlack]
	if w.sealer == nil {
		dst = w.room(plain + compressSlack)
	}
	n, err := w.h.compression.compress(dst, src)
	if err != nil || n == 0 {
		return false
	}
	if w.sealer != nil {
		w.sealed(i, dst[:n], false)
		return true
	}
	w.add(i, n, false)
	return true
}

func (w *frameWriter) sealed(i int, p []byte, raw bool) {
	var aad [64]byte
	dst := w.room(len(p) + w.sealer.Overhead())
	out := w.sealer.Seal(dst[:0], p, w.h.aad(aad[:0], i, raw))
	if len(out) > len(dst) {
		panic(fmt.Sprintf("block: sealer %d promised an overhead of %d bytes and used %d", w.sealer.ID(), w.sealer.Overhead(), len(out)-len(p)))
	}
	w.add(i, len(out), raw)
}

// add records frame i as the next n bytes of the current buffer.
func (w *frameWriter) add(i, n int, raw bool) {
	h := w.h
	p := w.bufs[w.cur].Bytes()[w.used : w.used+n]
	f := frameInfo{len: uint32(len(p)), sum: uint32(len(h.sums))}
	if raw {
		f.len |= rawFlag
	}
	h.frames[i] = f
	h.sums = append(h.sums, checksum(&h.volume, h.id, frameIndex(i), p))
	w.used += len(p)
	w.appendPart(p)
}

// frameIndex is the index of the sum of a whole frame, apart from those of units.
func frameIndex(i int) uint64 { return 1<<32 | uint64(i) }

// appendData adds the next n plain bytes as they are.
func (w *frameWriter) appendData(n int) {
	g := w.g
	for n > 0 {
		p := g.piece(n)
		w.appendPart(p)
		n -= len(p)
	}
}

// appendPart adds p to the object, as one piece with its neighbour if it is one.
func (w *frameWriter) appendPart(p []byte) {
	if k := len(w.parts) - 1; k > 0 {
		last := w.parts[k]
		if len(last)+len(p) <= cap(last) && unsafe.Add(unsafe.Pointer(unsafe.SliceData(last)), len(last)) == unsafe.Pointer(unsafe.SliceData(p)) {
			w.parts[k] = last[:len(last)+len(p)]
			return
		}
	}
	w.parts = append(w.parts, p)
}

// gather walks over slices as if they were one.
type gather struct {
	data [][]byte
	off  int // in data[0]
}

// piece returns up to n bytes that lie together, and moves behind them.
func (g *gather) piece(n int) []byte {
	for g.off == len(g.data[0]) {
		g.data, g.off = g.data[1:], 0
	}
	d := g.data[0]
	n = min(n, len(d)-g.off)
	p := d[g.off : g.off+n]
	g.off += n
	return p
}

// next returns the next n bytes, in place where they lie together, else copied to
// scratch.
func (g *gather) next(n int, scratch []byte) []byte {
	p := g.piece(n)
	if len(p) == n {
		return p
	}
	k := copy(scratch, p)
	for k < n {
		k += copy(scratch[k:n], g.piece(n-k))
	}
	return scratch[:n]
}

func (g *gather) skip(n int) {
	for n > 0 {
		n -= len(g.piece(n))
	}
}
