package meta

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"syscall"

	"pgregory.net/rapid"
)

// Calls on data

func (s *simulation) commit() {
	now := s.tick()
	sess := s.any()
	var blocks []Block
	var writes []FileWrite
	next := s.w.clone()
	layout := false
	gone := []bool{}
	for range rapid.IntRange(1, 2).Draw(s.T, "writes") {
		ino := s.file()
		w := FileWrite{Ino: ino}
		if rapid.Bool().Draw(s.T, "mtime") {
			w.Mtime = now
		}
		if s.inline && rapid.Bool().Draw(s.T, "as inline") {
			w.SetInline = true
			w.Inline = []byte(strings.Repeat("i", rapid.SampledFrom([]int{0, 1, 511, 512, 5000}).Draw(s.T, "inline")))
			w.Size = rapid.SampledFrom([]uint64{0, 3, 6000}).Draw(s.T, "size")
		} else {
			w.ClearInline = rapid.IntRange(0, 3).Draw(s.T, "clear") > 0
			w.Chunks, blocks = s.drawChunks(sess, blocks)
			for _, c := range w.Chunks {
				last := c.Extents[len(c.Extents)-1]
				w.Size = uint64(c.Index)*s.w.chunk + last.end()
			}
			if rapid.IntRange(0, 5).Draw(s.T, "short") == 0 {
				w.Size = s.offset("size")
			}
		}
		writes = append(writes, w)
		x := next.things[ino]
		gone = append(gone, x == nil)
		if x != nil && x.isRegular() {
			layout = layout || !x.write(&w, s.w.chunk)
		}
	}
	var errnos []syscall.Errno
	for _, w := range writes {
		if x := s.w.things[w.Ino]; x == nil {
			continue
		} else if x.isDir() {
			errnos = append(errnos, syscall.EISDIR)
		} else if !x.isRegular() {
			errnos = append(errnos, syscall.EINVAL)
		}
	}
	for _, b := range blocks {
		s.store[b.ID] = true
	}
	got, err := sess.Commit(bg, blocks, writes)
	if errors.Is(err, ErrLayout) && layout {
		return
	}
	if s.expect(err, errnos...) {
		if layout {
			s.Fatal("a write that does not fit the layout was committed")
		}
		if !slices.Equal(got, gone) {
			s.Fatalf("gone is %v, should be %v", got, gone)
		}
		s.w = next
		s.tock()
	}
}

// drawChunks makes new blocks and extents that point into them.
func (s *simulation) drawChunks(sess Session, blocks []Block) ([]Chunk, []Block) {
	n := rapid.IntRange(1, 4).Draw(s.T, "extents")
	first, err := sess.AllocBlocks(bg, n)
	if err != nil {
		s.Fatal(err)
	}
	var chunks []Chunk
	index := rapid.SampledFrom([]uint32{0, 0, 0, 1, 2, 1 << 20}).Draw(s.T, "chunk")
	pos := uint32(0)
	for i := range n {
		x := Extent{Block: first + uint64(i), Size: rapid.Uint32Range(1, uint32(s.w.chunk)).Draw(s.T, "block size")}
		blocks = append(blocks, Block{ID: x.Block, Size: x.Size})
		x.Off = rapid.Uint32Range(0, x.Size-1).Draw(s.T, "off")
		x.Len = rapid.Uint32Range(1, x.Size-x.Off).Draw(s.T, "len")
		x.Pos = pos + rapid.SampledFrom([]uint32{0, 1, 4096}).Draw(s.T, "gap")
		if rapid.IntRange(0, 5).Draw(s.T, "unwritten") == 0 { // the block is unused
			x.Block, x.Size, x.Off = 0, 0, 0
		}
		if x.end() > s.w.chunk || rapid.IntRange(0, 3).Draw(s.T, "next chunk") == 0 {
			index, x.Pos = index+1, 0
		}
		if k := len(chunks) - 1; k < 0 || chunks[k].Index != index {
			chunks = append(chunks, Chunk{Index: index})
		}
		c := &chunks[len(chunks)-1]
		c.Extents = append(c.Extents, x)
		pos = x.Pos + x.Len
	}
	return chunks, blocks
}

// write is a FileWrite of a Commit; ok is false if it does not fit the layout.
func (x *thing) write(w *FileWrite, chunk uint64) (ok bool) {
	if w.SetInline {
		if len(x.segs) > 0 {
			return false
		}
		x.inline = slices.Clone(w.Inline)
		x.size = max(uint64(len(w.Inline)), w.Size)
	} else {
		if w.ClearInline {
			x.inline = nil
		}
		if len(x.inline) > 0 {
			return false
		}
		x.size = max(x.size, w.Size)
		for _, c := range w.Chunks {
			for _, e := range c.Extents {
				p := seg{off: uint64(c.Index)*chunk + uint64(e.Pos), n: uint64(e.Len), block: e.Block, size: e.Size, boff: e.Off}
				if p.block != 0 && p.off+p.n > x.size {
					p.n = max(x.size, p.off) - p.off
				}
				x.lay(p)
			}
		}
	}
	if x.mtime.Before(w.Mtime) {
		x.mtime = w.Mtime
	}
	if x.ctime.Before(w.Mtime) {
		x.ctime = w.Mtime
	}
	return true
}

func (s *simulation) allocate() {
	ino := s.file()
	mode := rapid.SampledFrom([]uint32{0, 1, 3, 0x10, 0x11, 2, 8}).Draw(s.T, "mode")
	off := min(s.offset("off"), 4*s.w.chunk)
	n := rapid.SampledFrom([]uint64{0, 1, 4095, 4096, s.w.chunk, 2*s.w.chunk + 5}).Draw(s.T, "len")
	now := s.tick()
	err := s.any().Allocate(bg, &simCaller, ino, mode, off, n)
	x := s.w.things[ino]
	var errnos []syscall.Errno
	switch {
	case mode == 2 || mode == 8:
		errnos = append(errnos, syscall.EOPNOTSUPP)
	case n == 0:
		errnos = append(errnos, syscall.EINVAL)
	case x == nil:
		errnos = append(errnos, syscall.ESTALE)
	case x.isDir():
		errnos = append(errnos, syscall.EISDIR)
	case !x.isRegular():
		errnos = append(errnos, syscall.EINVAL)
	case len(x.inline) > 0:
		if !errors.Is(err, ErrLayout) {
			s.Fatalf("allocating in an inline file gives %v", err)
		}
		return
	}
	if !s.expect(err, errnos...) {
		return
	}
	switch {
	case mode&2 != 0:
		x.cut(off, off+n)
	case mode&0x10 != 0:
		x.lay(seg{off: off, n: n})
	default:
		x.reserve(off, off+n)
	}
	if mode&1 == 0 {
		x.size = max(x.size, off+n)
	}
	x.mtime, x.ctime = now, now
	s.tock()
}

func (s *simulation) copyRange() {
	in, out := s.file(), s.file()
	inOff, outOff := s.offset("in"), s.offset("out")
	n := rapid.SampledFrom([]uint64{0, 1, 4096, s.w.chunk - 1, 2*s.w.chunk + 5}).Draw(s.T, "len")
	now := s.tick()
	err := s.any().CopyRange(bg, &simCaller, in, inOff, out, outOff, n)
	if n == 0 {
		s.expect(err)
		return
	}
	x, y := s.w.things[in], s.w.things[out]
	var errnos []syscall.Errno
	outdated := x != nil && inOff+n > x.size // inline content, or a source that is too short
	for _, f := range []*thing{x, y} {
		switch {
		case f == nil:
			errnos = append(errnos, syscall.ESTALE)
		case f.isDir():
			errnos = append(errnos, syscall.EISDIR)
		case !f.isRegular():
			errnos = append(errnos, syscall.EINVAL)
		}
		outdated = outdated || f != nil && len(f.inline) > 0
	}
	if in == out && inOff < outOff+n && outOff < inOff+n {
		errnos = append(errnos, syscall.EINVAL)
	}
	if outdated && errors.Is(err, ErrLayout) {
		return
	}
	if !s.expect(err, errnos...) {
		return
	}
	if outdated {
		s.Fatal("a range was copied that is not in chunks")
	}
	parts := x.part(inOff, inOff+n)
	y.cut(outOff, outOff+n)
	for _, p := range parts {
		p.off = p.off - inOff + outOff
		y.lay(p)
	}
	y.size = max(y.size, outOff+n)
	y.mtime, y.ctime = now, now
	s.tock()
}

// compact replaces a chunk's extents by one of a new block.
func (s *simulation) compact() {
	ino := s.file()
	x := s.w.things[ino]
	if x == nil {
		return
	}
	chunks := x.chunks(s.w.chunk)
	if len(chunks) == 0 {
		return
	}
	index := rapid.SampledFrom(slices.Sorted(maps.Keys(chunks))).Draw(s.T, "chunk")
	sess := s.any()
	s.tick()
	old, err := sess.Extents(bg, ino, index, nil)
	s.expect(err)
	wrong := rapid.IntRange(0, 5).Draw(s.T, "outdated") == 0
	if wrong {
		old = append(slices.Clone(old[:len(old)-1]), Extent{Pos: old[len(old)-1].Pos, Len: 1 + old[len(old)-1].Len})
	}
	id, err := sess.AllocBlocks(bg, 1)
	s.expect(err)
	s.store[id] = true
	base := uint64(index) * s.w.chunk
	begin := chunks[index][0].Pos
	end := chunks[index][len(chunks[index])-1].end()
	n := uint32(end) - begin
	err = sess.Replace(bg, ino, index, old, []Extent{{Pos: begin, Len: n, Block: id, Size: n}}, []Block{{ID: id, Size: n}})
	if wrong {
		if !errors.Is(err, ErrLayout) {
			s.Fatalf("replacing what is not there gives %v", err)
		}
		return
	}
	s.expect(err)
	x.cut(base, base+s.w.chunk)
	p := seg{off: base + uint64(begin), n: uint64(n), block: id, size: n}
	if p.off+p.n > x.size {
		p.n = max(x.size, p.off) - p.off
	}
	x.lay(p)
	s.tock()
}
