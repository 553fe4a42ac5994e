package volume

import (
	"math/bits"
	"slices"
	"sort"
	"sync"
)

// segments are the dirty bytes of one chunk: pieces of memory in order of their
// offset in the chunk that do not overlap.
type segments struct {
	list  []segment
	bytes int64 // dirty bytes in list
}

// memory is what the segments hold, in bytes.
func (s *segments) memory() (n int64) {
	for i := range s.list {
		n += int64(cap(s.list[i].buf))
	}
	return n
}

// segment is a piece of dirty data. Its memory has room for cap(buf) bytes, so
// that appending to it needs no new one.
type segment struct {
	off uint32
	buf []byte
}

func (s *segment) end() uint32 { return s.off + uint32(len(s.buf)) }

const (
	minBuffer = 4 << 10
	maxBuffer = 1 << 20
	// maxGrowth bounds the memory that a stream of small appends is given ahead.
	maxGrowth = 64 << 10
)

// buffers are free pieces of memory by size class: 4 KiB to 1 MiB, powers of two.
var buffers [9]sync.Pool

func bufferClass(n int) int {
	if n <= minBuffer {
		return 0
	}
	return bits.Len(uint(n-1)) - 12
}

// getBuffer returns memory with len 0 and a capacity of at least n, at most
// maxBuffer, bytes.
func getBuffer(n int) []byte {
	class := bufferClass(n)
	if b, ok := buffers[class].Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, minBuffer<<class)
}

func putBuffer(b []byte) {
	b = b[:0]
	buffers[bufferClass(cap(b))].Put(&b)
}

// room is the memory that writing n bytes may take at the most: pieces are
// rounded up to their size class, and a stream of appends is given some ahead.
func room(n int) int64 {
	r := int64(n/maxBuffer)*maxBuffer + maxGrowth
	if rest := n % maxBuffer; rest > 0 {
		r += 2 * int64(minBuffer<<bufferClass(rest))
	}
	return r
}

// find returns the index of the first segment that ends behind off.
func (s *segments) find(off uint32) int {
	if n := len(s.list); n == 0 || s.list[n-1].end() <= off {
		return n // the usual case: appending
	}
	return sort.Search(len(s.list), func(i int) bool { return s.list[i].end() > off })
}

// write puts p at off. It returns the bytes of memory newly taken and the bytes
// that were not dirty before.
func (s *segments) write(off uint32, p []byte) (taken, fresh int64) {
	defer func() { s.bytes += fresh }()
	i := s.find(off)
	for len(p) > 0 {
		if i < len(s.list) && s.list[i].off <= off {
			// Inside an old piece: overwrite.
			n := copy(s.list[i].buf[off-s.list[i].off:], p)
			p, off = p[n:], off+uint32(n)
			i++
			continue
		}
		gap := len(p)
		if i < len(s.list) {
			gap = min(gap, int(s.list[i].off-off))
		}
		if i > 0 {
			// Append to the piece before, if it ends here and has room.
			prev := &s.list[i-1]
			if have := cap(prev.buf) - len(prev.buf); prev.end() == off && have > 0 {
				n := min(gap, have)
				prev.buf = append(prev.buf, p[:n]...)
				p, off, gap, fresh = p[n:], off+uint32(n), gap-n, fresh+int64(n)
				if gap == 0 {
					continue
				}
			}
		}
		n := min(gap, maxBuffer)
		want := n
		if i > 0 && s.list[i-1].end() == off {
			// A stream of small appends: the more there is, the more follows.
			want = max(want, min(2*cap(s.list[i-1].buf), maxGrowth))
		}
		buf := append(getBuffer(want), p[:n]...)
		s.insert(i, segment{off, buf})
		taken += int64(cap(buf))
		p, off, fresh = p[n:], off+uint32(n), fresh+int64(n)
		i++
	}
	return taken, fresh
}

func (s *segments) insert(i int, seg segment) {
	s.list = append(s.list, segment{})
	copy(s.list[i+1:], s.list[i:])
	s.list[i] = seg
}

// read copies the dirty bytes of [off, off+len(p)) to p and calls gap with each
// part of the range that is not dirty.
func (s *segments) read(p []byte, off uint32, gap func(p []byte, off uint32)) {
	if s == nil {
		gap(p, off)
		return
	}
	for i := s.find(off); len(p) > 0; i++ {
		if i == len(s.list) || s.list[i].off >= off+uint32(len(p)) {
			gap(p, off)
			return
		}
		seg := &s.list[i]
		if seg.off > off {
			n := seg.off - off
			gap(p[:n], off)
			p, off = p[n:], seg.off
		}
		n := copy(p, seg.buf[off-seg.off:])
		p, off = p[n:], off+uint32(n)
	}
}

// cut drops what lies in [from, to) and returns the bytes of memory given back and
// the bytes that are not dirty any more.
func (s *segments) cut(from, to uint32) (freed, lost int64) {
	defer func() { s.bytes -= lost }()
	i := s.find(from)
	j := i
	for ; j < len(s.list) && s.list[j].off < to; j++ {
		seg := &s.list[j]
		switch {
		case seg.off < from && seg.end() > to:
			// A hole in the middle: the part behind gets memory of its own,
			// taken from what this piece had.
			tail := append(getBuffer(int(seg.end()-to)), seg.buf[to-seg.off:]...)
			seg.buf = seg.buf[:from-seg.off]
			s.insert(j+1, segment{to, tail})
			return -int64(cap(tail)), int64(to - from)
		case seg.off < from:
			lost += int64(seg.end() - from)
			seg.buf = seg.buf[:from-seg.off]
			i = j + 1
		case seg.end() > to:
			n := to - seg.off
			lost += int64(n)
			seg.buf = append(seg.buf[:0], seg.buf[n:]...)
			seg.off = to
			s.list = append(s.list[:i], s.list[j:]...)
			return freed, lost
		default:
			lost += int64(len(seg.buf))
			freed += int64(cap(seg.buf))
			putBuffer(seg.buf)
		}
	}
	if j > i {
		s.list = append(s.list[:i], s.list[j:]...)
	}
	return freed, lost
}

// mergeUnder adds what old has and s has not; old is empty afterwards. It returns
// the memory given back and the bytes that both had (that is, which count no longer).
func (s *segments) mergeUnder(old *segments) (freed, lost int64) {
	for _, seg := range s.list {
		f, l := old.cut(seg.off, seg.end())
		freed, lost = freed+f, lost+l
	}
	s.list = append(s.list, old.list...)
	sort.Slice(s.list, func(i, j int) bool { return s.list[i].off < s.list[j].off })
	s.bytes += old.bytes
	old.list, old.bytes = nil, 0
	return freed, lost
}

// split takes out what lies at from and behind it.
func (s *segments) split(from uint32) (tail []segment) {
	i := s.find(from)
	if i < len(s.list) && s.list[i].off < from {
		head, rest := splitBuffer(s.list[i].buf, int(from-s.list[i].off))
		s.list[i].buf = head
		s.insert(i+1, segment{from, rest})
		i++
	}
	tail = slices.Clone(s.list[i:])
	s.list = slices.Delete(s.list, i, len(s.list))
	for i := range tail {
		s.bytes -= int64(len(tail[i].buf))
	}
	return tail
}

// put lays a piece, whose memory is taken over, over what is there.
func (s *segments) put(seg segment) {
	s.cut(seg.off, seg.end())
	s.insert(s.find(seg.off), seg)
	s.bytes += int64(len(seg.buf))
}

// splitBuffer divides a piece of memory behind its first n bytes: the greater part keeps
// it, the other gets new memory, if there is any.
func splitBuffer(buf []byte, n int) (first, second []byte) {
	switch rest := len(buf) - n; {
	case rest == 0:
		return buf, nil
	case rest <= n:
		return buf[:n], append(getBuffer(rest), buf[n:]...)
	default:
		first = append(getBuffer(n), buf[:n]...)
		return first, append(buf[:0], buf[n:]...)
	}
}

// release gives back all memory and returns how much it was, and the dirty bytes.
func (s *segments) release() (freed, lost int64) {
	for i := range s.list {
		freed += int64(cap(s.list[i].buf))
		lost += int64(len(s.list[i].buf))
		putBuffer(s.list[i].buf)
	}
	s.list, s.bytes = nil, 0
	return freed, lost
}
