package pebble

import (
	"bytes"
	"encoding/binary"
	"sync"
	"sync/atomic"
)

const (
	slotCount  = 1 << 16 // 512 KiB
	ringSize   = 1 << 12
	recordKeep = 1 << 10  // largest buffer of a record that is kept for reuse
	recordMax  = 16 << 10 // largest record that is listed; only its bounds are kept above that
	recordLean = 512      // the same while there are many large ones
	ringBytes  = 4 << 20  // what is many: bytes of all records
)

// history remembers which keys recent commits wrote, to find out whether what
// a transaction read has changed since. Commits are numbered from 1.
type history struct {
	mu sync.Mutex // held from the check of a transaction to the end of its commit

	begun atomic.Uint64 // the last commit that may have become visible
	ended atomic.Uint64 // the last commit that certainly is visible

	// slots holds the last commit that wrote a key with that hash, for point
	// reads; two keys on one slot cost at most an unneeded repeat.
	slots [slotCount]uint64
	// lastRange is the last commit that deleted a range, which slots cannot say.
	lastRange uint64
	// ring holds the keys of the last ringSize commits, for scans.
	ring  [ringSize]record
	bytes atomic.Int64 // of the records in it
}

// record lists the keys and ranges one commit wrote.
type record struct {
	buf      []byte // points, then ranges as start and end; each with its length before it
	points   int
	ranges   int
	min, max []byte // bounds of all of them, inclusive; max nil means no upper bound
	coarse   bool   // too many to list: only min and max
}

// begin numbers the commit that is about to be applied.
func (h *history) begin() uint64 {
	seq := h.begun.Load() + 1
	h.begun.Store(seq)
	return seq
}

// end enters what t wrote with commit seq.
func (h *history) end(t *txn, seq uint64) {
	for i := range t.writes {
		h.slots[t.writes[i].hash%slotCount] = seq
	}
	if len(t.ranges) > 0 {
		h.lastRange = seq
	}
	slot := &h.ring[seq%ringSize]
	h.bytes.Add(int64(cap(t.record.buf)) - int64(cap(slot.buf)))
	*slot, t.record = t.record, *slot
	h.ended.Store(seq)
}

// recordLimit is how many bytes of keys the next record may have.
func (h *history) recordLimit() int {
	if h.bytes.Load() > ringBytes {
		return recordLean
	}
	return recordMax
}

// valid reports whether nothing that t read was written since t began.
func (h *history) valid(t *txn) bool {
	now := h.ended.Load()
	if now == t.began {
		return true
	}
	for i := range t.reads {
		if h.slots[t.reads[i].hash%slotCount] > t.began {
			return false
		}
	}
	ranges := len(t.reads) > 0 && h.lastRange > t.began
	if len(t.scans) == 0 && !ranges {
		return true
	}
	if now-t.began > ringSize {
		return false
	}
	for seq := t.began + 1; seq <= now; seq++ {
		r := &h.ring[seq%ringSize]
		for i := range t.scans {
			if r.touches(t.scans[i]) {
				return false
			}
		}
		if ranges && r.ranges > 0 {
			for i := range t.reads {
				if r.deletes(t.reads[i].key) {
					return false
				}
			}
		}
	}
	return true
}

// unchanged reports whether no key with that hash was written after commit seq.
func (h *history) unchanged(hash, seq uint64) bool {
	return h.slots[hash%slotCount] <= seq && h.lastRange <= seq
}

// span is the keys from start up to, not including, end; a nil end means no
// upper bound.
type span struct{ start, end []byte }

func (s span) contains(key []byte) bool {
	return bytes.Compare(key, s.start) >= 0 && (s.end == nil || bytes.Compare(key, s.end) < 0)
}

// reset empties r for reuse.
func (r *record) reset() {
	buf := r.buf[:0]
	if cap(buf) > recordKeep {
		buf = nil
	}
	*r = record{buf: buf}
}

// list fills r with the keys and ranges that t wrote, unless they take more
// than limit bytes.
func (r *record) list(t *txn, limit int) {
	r.reset()
	n := 0
	for i := range t.writes {
		n += len(t.writes[i].key) + 2
	}
	for i := range t.ranges {
		n += len(t.ranges[i].start) + len(t.ranges[i].end) + 6
	}
	r.coarse = n > limit
	r.points, r.ranges = len(t.writes), len(t.ranges)
	if cap(r.buf) < n && !r.coarse {
		r.buf = make([]byte, 0, max(n, 256))
	}

	var low, high []byte
	first, open := true, false
	widen := func(from, to []byte) {
		if first || bytes.Compare(from, low) < 0 {
			low = from
		}
		if first || bytes.Compare(to, high) > 0 {
			high = to
		}
		first = false
	}
	for i := range t.writes {
		key := t.writes[i].key
		widen(key, key)
		if !r.coarse {
			r.buf = binary.AppendUvarint(r.buf, uint64(len(key)))
			r.buf = append(r.buf, key...)
		}
	}
	for _, s := range t.ranges {
		widen(s.start, s.end) // end itself is one key too many, which does no harm
		open = open || s.end == nil
		if !r.coarse {
			r.buf = binary.AppendUvarint(r.buf, uint64(len(s.start)))
			r.buf = append(r.buf, s.start...)
			// A length one too high marks an end that is there.
			if s.end == nil {
				r.buf = append(r.buf, 0)
			} else {
				r.buf = binary.AppendUvarint(r.buf, uint64(len(s.end)+1))
				r.buf = append(r.buf, s.end...)
			}
		}
	}
	at := len(r.buf)
	r.buf = append(append(r.buf, low...), high...)
	r.min = r.buf[at : at+len(low) : at+len(low)]
	if !open {
		r.max = r.buf[at+len(low) : at+len(low)+len(high)]
	}
}

// touches reports whether the commit wrote a key in s.
func (r *record) touches(s span) bool {
	if s.end != nil && bytes.Compare(r.min, s.end) >= 0 || r.max != nil && bytes.Compare(r.max, s.start) < 0 {
		return false
	}
	if r.coarse {
		return true
	}
	b := r.buf
	for range r.points {
		var key []byte
		key, b = next(b, 0)
		if s.contains(key) {
			return true
		}
	}
	for range r.ranges {
		var d span
		d, b = nextRange(b)
		if (d.end == nil || bytes.Compare(s.start, d.end) < 0) && (s.end == nil || bytes.Compare(d.start, s.end) < 0) {
			return true
		}
	}
	return false
}

// deletes reports whether the commit deleted a range that contains key.
func (r *record) deletes(key []byte) bool {
	if r.ranges == 0 || bytes.Compare(key, r.min) < 0 || r.max != nil && bytes.Compare(key, r.max) > 0 {
		return false
	}
	if r.coarse {
		return true
	}
	b := r.buf
	for range r.points {
		_, b = next(b, 0)
	}
	for range r.ranges {
		var d span
		d, b = nextRange(b)
		if d.contains(key) {
			return true
		}
	}
	return false
}

// next cuts one key off b, whose length is stored with the given excess.
func next(b []byte, excess int) (key, rest []byte) {
	n, w := binary.Uvarint(b)
	end := w + int(n) - excess
	return b[w:end:end], b[end:]
}

func nextRange(b []byte) (span, []byte) {
	var s span
	s.start, b = next(b, 0)
	if b[0] == 0 {
		return s, b[1:]
	}
	s.end, b = next(b, 1)
	return s, b
}
