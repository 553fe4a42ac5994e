package meta

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
	"syscall"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

func (x Extent) end() uint64 { return uint64(x.Pos) + uint64(x.Len) }

// part returns the piece of x that lies in [from, to) of the chunk, which must
// not be empty.
func (x Extent) part(from, to uint64) Extent {
	if from > uint64(x.Pos) {
		cut := uint32(from - uint64(x.Pos))
		x.Pos, x.Len = x.Pos+cut, x.Len-cut
		if x.Block != 0 {
			x.Off += cut
		}
	}
	if to < x.end() {
		x.Len = uint32(to - uint64(x.Pos))
	}
	return x
}

// joins tells whether y continues x, so that one extent can be both.
func (x Extent) joins(y Extent) bool {
	return x.end() == uint64(y.Pos) && x.Block == y.Block && (x.Block == 0 || x.Off+x.Len == y.Off && x.Size == y.Size)
}

// appendExtent appends x to an ordered list, joining it with the last one if it
// continues that.
func appendExtent(dst []Extent, x Extent) []Extent {
	if n := len(dst); n > 0 && dst[n-1].joins(x) {
		dst[n-1].Len += x.Len
		return dst
	}
	return append(dst, x)
}

// cutExtents appends to dst what old has outside [from, to).
func cutExtents(dst, old []Extent, from, to uint64) []Extent {
	for _, x := range old {
		if uint64(x.Pos) < from {
			dst = appendExtent(dst, x.part(0, from))
		}
		if x.end() > to {
			dst = appendExtent(dst, x.part(to, x.end()))
		}
	}
	return dst
}

// partExtents appends to dst what old has in [from, to).
func partExtents(dst, old []Extent, from, to uint64) []Extent {
	for _, x := range old {
		if x.end() > from && uint64(x.Pos) < to {
			dst = appendExtent(dst, x.part(from, to))
		}
	}
	return dst
}

// overlayExtents appends to dst the extents of top, and what old has where top
// has nothing. Both are ordered and without overlaps. What lies before and behind
// top is copied as it is: a commit changes little of a chunk with many extents.
func overlayExtents(dst, old, top []Extent) []Extent {
	if len(top) == 0 {
		return append(dst, old...)
	}
	begin, end := uint64(top[0].Pos), top[len(top)-1].end()
	first := sort.Search(len(old), func(i int) bool { return old[i].end() > begin })
	last := first + sort.Search(len(old)-first, func(i int) bool { return uint64(old[first+i].Pos) >= end })
	dst = append(dst, old[:first]...)
	dst = overlayAll(dst, old[first:last], top)
	if last < len(old) {
		dst = appendExtent(dst, old[last])
		dst = append(dst, old[last+1:]...)
	}
	return dst
}

func overlayAll(dst, old, top []Extent) []Extent {
	var from uint64 // old is dealt with up to here
	i := 0
	upTo := func(to uint64) {
		for i < len(old) && uint64(old[i].Pos) < to {
			if old[i].end() > from && from < to {
				dst = appendExtent(dst, old[i].part(from, to))
			}
			if old[i].end() > to {
				break // the rest of it may show behind top's extent
			}
			i++
		}
	}
	for _, x := range top {
		upTo(uint64(x.Pos))
		dst = appendExtent(dst, x)
		from = x.end()
	}
	upTo(1 << 32)
	return dst
}

// differing cuts off what two lists have in common at their beginnings and ends.
func differing(a, b []Extent) (x, y []Extent) {
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return a, b
}

// fillExtents appends to dst what old has, with allocated but unwritten extents
// in the holes of [from, to).
func fillExtents(dst, old []Extent, from, to uint64) []Extent {
	at := from
	hole := func(end uint64) {
		if end > to {
			end = to
		}
		if at < end {
			dst = appendExtent(dst, Extent{Pos: uint32(at), Len: uint32(end - at)})
			at = end
		}
	}
	for _, x := range old {
		hole(uint64(x.Pos))
		dst = appendExtent(dst, x)
		if x.end() > at {
			at = x.end()
		}
	}
	hole(to)
	return dst
}

// sumExtents returns the number of bytes that extents cover.
func sumExtents(list []Extent) (n uint64) {
	for _, x := range list {
		n += uint64(x.Len)
	}
	return n
}

// checkExtents returns EINVAL if list cannot be a chunk's.
func checkExtents(list []Extent, chunkSize uint32) error {
	var at uint64
	for _, x := range list {
		switch {
		case x.Len == 0, uint64(x.Pos) < at, x.end() > uint64(chunkSize):
		case x.Block == 0 && (x.Off != 0 || x.Size != 0):
		case x.Block != 0 && uint64(x.Off)+uint64(x.Len) > uint64(x.Size):
		default:
			at = x.end()
			continue
		}
		return vfs.WithErrno(syscall.EINVAL, fmt.Errorf("extent %+v does not fit its chunk or its block", x))
	}
	return nil
}

// A chunk's record is the number of its extents and for each: the gap to the one
// before, the length, 0 if it is unwritten, else 1, the block (as difference to
// the last one), the block's size and the offset.

func encodeChunk(dst []byte, list []Extent) []byte {
	dst = append(dst, recordVersion)
	dst = binary.AppendUvarint(dst, uint64(len(list)))
	var at, block uint64
	for _, x := range list {
		dst = binary.AppendUvarint(dst, uint64(x.Pos)-at)
		dst = binary.AppendUvarint(dst, uint64(x.Len))
		at = x.end()
		if x.Block == 0 {
			dst = append(dst, 0)
			continue
		}
		delta := int64(x.Block - block)
		dst = append(dst, 1)
		dst = appendInt64(dst, delta)
		dst = binary.AppendUvarint(dst, uint64(x.Size))
		dst = binary.AppendUvarint(dst, uint64(x.Off))
		block = x.Block
	}
	return dst
}

// decodeChunk appends the record's extents to dst. It is a decoder of its own
// because it may have thousands of them to read with each commit.
func decodeChunk(dst []Extent, b []byte) ([]Extent, error) {
	begin := len(dst)
	if len(b) == 0 || b[0] != recordVersion {
		return dst, errChunk
	}
	count, p := uvarint(b, 1)
	if p < 0 || count > uint64(len(b)) { // each takes at least three bytes
		return dst, errChunk
	}
	dst = slices.Grow(dst, int(count))
	var at, block uint64
	for range count {
		var gap, n, written uint64
		gap, p = uvarint(b, p)
		n, p = uvarint(b, p)
		written, p = uvarint(b, p)
		if p < 0 || gap > MaxChunkSize || n > MaxChunkSize || n == 0 || at+gap+n > MaxChunkSize || written > 1 {
			return dst[:begin], errChunk
		}
		x := Extent{Pos: uint32(at + gap), Len: uint32(n)}
		at += gap + n
		if written == 1 {
			var delta, size, off uint64
			delta, p = uvarint(b, p)
			size, p = uvarint(b, p)
			off, p = uvarint(b, p)
			block += delta>>1 ^ -(delta & 1)
			if p < 0 || block == 0 || size > 1<<32-1 || off > size || n > size-off {
				return dst[:begin], errChunk
			}
			x.Block, x.Size, x.Off = block, uint32(size), uint32(off)
		}
		dst = append(dst, x)
	}
	if p != len(b) {
		return dst[:begin], errChunk
	}
	return dst, nil
}

var errChunk = fmt.Errorf("chunk record is unreadable: %w", kv.ErrCorrupt)

// uvarint reads a number at b[p:] and returns the position behind it: below 0 if
// there is none, or if p is.
func uvarint(b []byte, p int) (uint64, int) {
	if uint(p) < uint(len(b)) && b[p] < 0x80 { // most are small
		return uint64(b[p]), p + 1
	}
	return longUvarint(b, p)
}

func longUvarint(b []byte, p int) (uint64, int) {
	if p < 0 || p >= len(b) {
		return 0, -1
	}
	if r := b[p:]; len(r) >= 3 && r[0] >= 0x80 {
		if r[1] < 0x80 {
			return uint64(r[0]&0x7f) | uint64(r[1])<<7, p + 2
		}
		if r[2] < 0x80 {
			return uint64(r[0]&0x7f) | uint64(r[1]&0x7f)<<7 | uint64(r[2])<<14, p + 3
		}
	}
	v, n := binary.Uvarint(b[p:])
	if n <= 0 {
		return 0, -1
	}
	return v, p + n
}
