package pebble

import (
	"bytes"
	"slices"
)

// overlay is what a transaction has written so far, for its own reads. A
// transaction writes a handful of keys, so it is a list; above smallOverlay an
// index is kept.
type overlay struct {
	writes []write // one a key, in the order of the first write
	ranges []span  // deleted ranges; a key in writes is not affected by them

	index  map[uint64]int32 // by hash, of the writes above smallOverlay; the last of equal hashes
	sorted []int32          // writes by key, valid if isSorted
	order  bool             // sorted is kept up to date
}

const smallOverlay = 24

type writeKind uint8

const (
	putWrite writeKind = iota
	deleteWrite
	addWrite // delta on what the store holds
)

type write struct {
	hash  uint64
	key   []byte
	value []byte
	delta int64
	kind  writeKind
	prev  int32 // the write with the same hash before this one, or -1
}

func (o *overlay) reset() {
	o.writes = reuse(o.writes)
	o.ranges = reuse(o.ranges)
	o.sorted = reuse(o.sorted)
	o.order = false
	o.index = nil
}

// find returns the write of key, or nil. It is valid until the next touch.
func (o *overlay) find(hash uint64, key []byte) *write {
	if o.index == nil {
		for i := range o.writes {
			if w := &o.writes[i]; w.hash == hash && bytes.Equal(w.key, key) {
				return w
			}
		}
		return nil
	}
	i, ok := o.index[hash]
	for ok && i >= 0 {
		w := &o.writes[i]
		if bytes.Equal(w.key, key) {
			return w
		}
		i = w.prev
	}
	return nil
}

// touch returns the write of key and makes it if there is none; key is kept.
func (o *overlay) touch(hash uint64, key []byte) *write {
	if w := o.find(hash, key); w != nil {
		return w
	}
	i := int32(len(o.writes))
	o.writes = append(o.writes, write{hash: hash, key: key, prev: -1})
	switch {
	case o.index != nil:
		o.link(i)
	case len(o.writes) > smallOverlay:
		o.index = make(map[uint64]int32, 4*smallOverlay)
		for j := range o.writes {
			o.link(int32(j))
		}
	}
	if o.order {
		at, _ := slices.BinarySearchFunc(o.sorted, key, o.compare)
		o.sorted = slices.Insert(o.sorted, at, i)
	}
	return &o.writes[i]
}

func (o *overlay) link(i int32) {
	w := &o.writes[i]
	if before, ok := o.index[w.hash]; ok {
		w.prev = before
	}
	o.index[w.hash] = i
}

func (o *overlay) compare(i int32, key []byte) int { return bytes.Compare(o.writes[i].key, key) }

// inRange reports whether key was deleted with a range.
func (o *overlay) inRange(key []byte) bool {
	for i := range o.ranges {
		if o.ranges[i].contains(key) {
			return true
		}
	}
	return false
}

// deleteWithin deletes s; it is kept.
func (o *overlay) deleteWithin(s span) {
	for i := range o.writes {
		if w := &o.writes[i]; s.contains(w.key) {
			w.kind, w.value = deleteWrite, nil
		}
	}
	o.ranges = append(o.ranges, s)
}

// within returns the writes in s, ordered by key. The result is valid until the
// next write.
func (o *overlay) within(s span) []int32 {
	if !o.order {
		o.sorted = o.sorted[:0]
		for i := range o.writes {
			o.sorted = append(o.sorted, int32(i))
		}
		slices.SortFunc(o.sorted, func(a, b int32) int { return bytes.Compare(o.writes[a].key, o.writes[b].key) })
		o.order = true
	}
	from, _ := slices.BinarySearchFunc(o.sorted, s.start, o.compare)
	to := len(o.sorted)
	if s.end != nil {
		to, _ = slices.BinarySearchFunc(o.sorted, s.end, o.compare)
	}
	return o.sorted[from:max(from, to)]
}
