package volume

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// modelChunk is the simple picture of segments: a byte and whether it is dirty.
type modelChunk struct {
	data  [1 << 16]byte
	dirty [1 << 16]bool
}

func (m *modelChunk) count() (n int64) {
	for _, d := range m.dirty {
		if d {
			n++
		}
	}
	return n
}

func checkSegments(t *rapid.T, s *segments, m *modelChunk, space int64) {
	for i := range s.list {
		if len(s.list[i].buf) == 0 {
			t.Fatalf("segment %d is empty", i)
		}
		if i > 0 && s.list[i-1].end() > s.list[i].off {
			t.Fatalf("segments %d and %d overlap", i-1, i)
		}
	}
	if held := s.memory(); held != space {
		t.Fatalf("segments hold %d bytes, accounted are %d", held, space)
	}
	got := make([]byte, len(m.data))
	var gaps [1 << 16]bool
	s.read(got, 0, func(p []byte, off uint32) {
		for i := range p {
			gaps[int(off)+i] = true
		}
	})
	for i := range got {
		if gaps[i] == m.dirty[i] {
			t.Fatalf("byte %d: dirty is %v, want %v", i, !gaps[i], m.dirty[i])
		}
		if m.dirty[i] && got[i] != m.data[i] {
			t.Fatalf("byte %d is %d, want %d", i, got[i], m.data[i])
		}
	}
}

func TestSegmentsAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s segments
		var m modelChunk
		var space, bytes int64
		tag := byte(0)
		write := func(s *segments, m *modelChunk, space, bytes *int64) {
			off := rapid.IntRange(0, len(m.data)-1).Draw(t, "off")
			n := rapid.IntRange(1, min(20000, len(m.data)-off)).Draw(t, "len")
			p := make([]byte, n)
			for i := range p {
				tag++
				p[i] = tag
				m.data[off+i], m.dirty[off+i] = tag, true
			}
			taken, fresh := s.write(uint32(off), p)
			if taken > room(n) {
				t.Fatalf("writing %d bytes took %d, more than room() = %d", n, taken, room(n))
			}
			*space += taken
			*bytes += fresh
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) { write(&s, &m, &space, &bytes) },
			"cut": func(t *rapid.T) {
				from := rapid.IntRange(0, len(m.data)-1).Draw(t, "from")
				to := rapid.IntRange(from, len(m.data)).Draw(t, "to")
				freed, lost := s.cut(uint32(from), uint32(to))
				space -= freed
				bytes -= lost
				clear(m.dirty[from:to])
			},
			"mergeUnder": func(t *rapid.T) {
				var young segments
				var ym modelChunk
				var yspace, ybytes int64
				for range rapid.IntRange(0, 4).Draw(t, "writes") {
					write(&young, &ym, &yspace, &ybytes)
				}
				freed, lost := young.mergeUnder(&s)
				space += yspace - freed
				bytes += ybytes - lost
				s = young
				for i := range ym.dirty {
					if ym.dirty[i] {
						m.dirty[i], m.data[i] = true, ym.data[i]
					}
				}
			},
			"move": func(t *rapid.T) {
				from := rapid.IntRange(0, len(m.data)-1).Draw(t, "from")
				by := rapid.IntRange(-from, len(m.data)).Draw(t, "by")
				tail := s.split(uint32(from))
				dirty := m.dirty
				clear(m.dirty[from:])
				before := m.data
				for i := from; i < len(m.data); i++ {
					if dirty[i] && i+by < len(m.data) {
						m.dirty[i+by], m.data[i+by] = true, before[i]
					}
				}
				for _, seg := range tail {
					seg.off += uint32(by)
					switch over := int(seg.end()) - len(m.data); {
					case over >= len(seg.buf):
						continue
					case over > 0:
						seg.buf, _ = splitBuffer(seg.buf, len(seg.buf)-over)
					}
					s.put(seg)
				}
				space, bytes = s.memory(), m.count()
			},
			"": func(t *rapid.T) {
				checkSegments(t, &s, &m, space)
				if n := m.count(); n != bytes || n != s.bytes {
					t.Fatalf("%d bytes are dirty, accounted are %d and %d", n, bytes, s.bytes)
				}
			},
		})
	})
}

func TestSegmentsSmallAppendsShareMemory(t *testing.T) {
	var s segments
	var want []byte
	for i := range 1000 {
		p := []byte{byte(i), byte(i >> 8), 7}
		s.write(uint32(len(want)), p)
		want = append(want, p...)
	}
	if len(s.list) > 2 {
		t.Errorf("1000 appends of 3 bytes made %d segments", len(s.list))
	}
	got := make([]byte, len(want))
	s.read(got, 0, func([]byte, uint32) { t.Fatal("a gap in what was appended") })
	if !bytes.Equal(got, want) {
		t.Error("appended bytes read back differ")
	}
}
