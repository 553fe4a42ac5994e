package cache

import (
	"sync"
	"sync/atomic"
)

// Memory is a cache of immutable ranges in memory, keyed by block id and index
// (frame) inside the block. It grows into what its budget has to spare and gives
// back at once when others need memory.
//
// Eviction is S3-FIFO (Yang et al., "FIFO queues are all you need for cache
// eviction", SOSP 2023): new entries enter a small queue, and only those used
// again while they are there, or wanted again soon after they left, reach the
// main queue. A scan passes through the small queue and leaves the rest alone.
//
// All methods may be called concurrently.
type Memory struct {
	bufs   *Buffers
	share  *Share
	shards [memoryShards]memoryShard
	next   atomic.Uint32 // the shard to evict from next

	hits, misses, evictions atomic.Int64
}

const (
	memoryShards = 16
	ghostEntries = 1024 // remembered keys of evicted entries, in each shard
	maxFrequency = 3
	// smallPart: the small queue gets a quarter of the memory, more than the tenth
	// of the paper, because what was read ahead waits there until it is used.
	smallPart = 4
	// memoryRank: the read cache gives back after idle buffers do.
	memoryRank = 10
)

type memoryShard struct {
	mu     sync.Mutex
	blocks map[uint64]*memoryBlock
	small  entryQueue
	main   entryQueue
	ghost  ghostQueue
	seq    uint64 // insertions so far
}

// memoryBlock holds the cached frames of one block by index.
type memoryBlock struct {
	frames []*memoryEntry
	count  int
}

type memoryEntry struct {
	id         uint64
	frame      uint32
	buf        *Buffer
	seq        uint64 // of the insertion
	freq       uint8
	inMain     bool
	prev, next *memoryEntry
}

// NewMemory returns an empty cache whose memory is an elastic share of the
// budget behind bufs, of limit bytes at most (0: no limit of its own).
func NewMemory(bufs *Buffers, limit int64) (*Memory, error) {
	m := &Memory{bufs: bufs}
	for i := range m.shards {
		m.shards[i].blocks = make(map[uint64]*memoryBlock)
	}
	var err error
	m.share, err = bufs.budget.Elastic("read cache", limit, memoryRank, m.reclaim)
	return m, err
}

// Close empties the cache. Buffers that somebody still holds stay valid until
// they are released.
func (m *Memory) Close() {
	m.DropAll()
	m.share.Remove()
}

func (m *Memory) shard(id uint64) *memoryShard {
	return &m.shards[(id*0x9e3779b97f4a7c15)>>60]
}

// Get returns the range with a reference that the caller releases, or nil.
func (m *Memory) Get(id uint64, frame uint32) *Buffer {
	s := m.shard(id)
	s.mu.Lock()
	if b := s.blocks[id]; b != nil && int(frame) < len(b.frames) {
		if e := b.frames[frame]; e != nil {
			// Uses right after the insertion belong to the same pass (a scan in
			// small steps) and say nothing about later use.
			if e.freq < maxFrequency && (e.inMain || s.seq-e.seq > uint64(s.small.len)/4) {
				e.freq++
			}
			buf := e.buf.Retain()
			s.mu.Unlock()
			m.hits.Add(1)
			return buf
		}
	}
	s.mu.Unlock()
	m.misses.Add(1)
	return nil
}

// Has tells whether the range is cached, without counting as a use.
func (m *Memory) Has(id uint64, frame uint32) bool {
	s := m.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blocks[id]
	return b != nil && int(frame) < len(b.frames) && b.frames[frame] != nil
}

// Alloc returns a buffer of n bytes to fill and then Insert, nil if the budget
// has no memory to spare for it.
func (m *Memory) Alloc(n int) *Buffer {
	for range 4 {
		if b := m.bufs.TryGet(m.share, n); b != nil {
			return b
		}
		if m.bufs.budget.Pressed() || m.reclaim(m.bufs.Size(n)) == 0 {
			return nil
		}
	}
	return nil
}

// Insert makes buf, from Alloc, the cached content of the range. The caller keeps
// its reference, must not write any more, and gives references to others only
// afterwards. A range that is cached already stays as it is: ranges are immutable.
func (m *Memory) Insert(id uint64, frame uint32, buf *Buffer) {
	s := m.shard(id)
	s.mu.Lock()
	b := s.blocks[id]
	if b == nil {
		b = &memoryBlock{}
		s.blocks[id] = b
	}
	for int(frame) >= len(b.frames) {
		b.frames = append(b.frames, nil)
	}
	if b.frames[frame] != nil {
		s.mu.Unlock()
		return
	}
	buf.home = m
	s.seq++
	e := &memoryEntry{id: id, frame: frame, buf: buf.Retain(), seq: s.seq}
	b.frames[frame] = e
	b.count++
	if s.ghost.remove(ghostKey(id, frame)) {
		e.inMain = true
		s.main.push(e)
	} else {
		s.small.push(e)
	}
	s.mu.Unlock()
}

// Drop forgets all ranges of a block.
func (m *Memory) Drop(id uint64) {
	s := m.shard(id)
	s.mu.Lock()
	var victims []*Buffer
	if b := s.blocks[id]; b != nil {
		for _, e := range b.frames {
			if e != nil {
				s.unlink(e)
				victims = append(victims, e.buf)
			}
		}
		delete(s.blocks, id)
	}
	s.mu.Unlock()
	releaseAll(victims)
}

// DropAll forgets everything.
func (m *Memory) DropAll() {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		var victims []*Buffer
		for _, b := range s.blocks {
			for _, e := range b.frames {
				if e != nil {
					victims = append(victims, e.buf)
				}
			}
		}
		s.blocks = make(map[uint64]*memoryBlock)
		s.small, s.main, s.ghost = entryQueue{}, entryQueue{}, ghostQueue{}
		s.mu.Unlock()
		releaseAll(victims)
	}
}

// MemoryStats are the figures of a Memory.
type MemoryStats struct {
	Bytes, Entries          int64
	Hits, Misses, Evictions int64
}

// Stats returns the figures.
func (m *Memory) Stats() MemoryStats {
	st := MemoryStats{Bytes: m.share.Used(), Hits: m.hits.Load(), Misses: m.misses.Load(), Evictions: m.evictions.Load()}
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		st.Entries += int64(s.small.len + s.main.len)
		s.mu.Unlock()
	}
	return st
}

// reclaim evicts until need bytes are free again, and returns how many are. It
// goes round the shards, so that all of them shrink alike.
func (m *Memory) reclaim(need int64) (freed int64) {
	for idle := 0; freed < need && idle < memoryShards; {
		s := &m.shards[m.next.Add(1)%memoryShards]
		s.mu.Lock()
		victim := s.evict()
		s.mu.Unlock()
		if victim == nil {
			idle++
			continue
		}
		idle = 0
		freed += int64(victim.Cap())
		m.evictions.Add(1)
		victim.Release()
	}
	return freed
}

// evict takes one unpinned entry out by the rules of S3-FIFO, nil if there is
// none. Pinned entries go round again.
func (s *memoryShard) evict() *Buffer {
	for tries := 2 * (s.small.len + s.main.len) * (maxFrequency + 1); tries > 0; tries-- {
		fromSmall := s.small.len > 0 && (s.main.len == 0 || s.small.bytes*smallPart >= s.small.bytes+s.main.bytes)
		if fromSmall {
			e := s.small.tail
			if e.freq > 0 {
				s.small.remove(e)
				e.freq, e.inMain = 0, true
				s.main.push(e)
				continue
			}
			if e.buf.refs.Load() > 1 {
				s.small.remove(e)
				s.small.push(e)
				continue
			}
			s.ghost.add(ghostKey(e.id, e.frame))
			return s.forget(e)
		}
		e := s.main.tail
		if e == nil {
			return nil
		}
		if e.freq > 0 || e.buf.refs.Load() > 1 {
			if e.freq > 0 {
				e.freq--
			}
			s.main.remove(e)
			s.main.push(e)
			continue
		}
		return s.forget(e)
	}
	return nil
}

// forget removes e from the index and its queue.
func (s *memoryShard) forget(e *memoryEntry) *Buffer {
	s.unlink(e)
	b := s.blocks[e.id]
	b.frames[e.frame] = nil
	if b.count--; b.count == 0 {
		delete(s.blocks, e.id)
	}
	return e.buf
}

func (s *memoryShard) unlink(e *memoryEntry) {
	if e.inMain {
		s.main.remove(e)
	} else {
		s.small.remove(e)
	}
}

func releaseAll(bufs []*Buffer) {
	for _, b := range bufs {
		b.Release()
	}
}

// entryQueue is a FIFO of entries that can also leave from the middle.
type entryQueue struct {
	head, tail *memoryEntry // head: the newest
	len        int
	bytes      int64
}

func (q *entryQueue) push(e *memoryEntry) {
	e.prev, e.next = nil, q.head
	if q.head != nil {
		q.head.prev = e
	} else {
		q.tail = e
	}
	q.head = e
	q.len++
	q.bytes += int64(e.buf.Cap())
}

func (q *entryQueue) remove(e *memoryEntry) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		q.head = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		q.tail = e.prev
	}
	e.prev, e.next = nil, nil
	q.len--
	q.bytes -= int64(e.buf.Cap())
}

// ghostQueue remembers the last keys that left the small queue.
type ghostQueue struct {
	keys map[uint64]struct{}
	ring []uint64
	pos  int
}

func ghostKey(id uint64, frame uint32) uint64 {
	return (id+1)*0x9e3779b97f4a7c15 ^ uint64(frame)*0xc2b2ae3d27d4eb4f
}

func (g *ghostQueue) add(k uint64) {
	if g.keys == nil {
		g.keys = make(map[uint64]struct{}, ghostEntries)
	}
	if len(g.ring) < ghostEntries {
		g.ring = append(g.ring, k)
	} else {
		delete(g.keys, g.ring[g.pos])
		g.ring[g.pos] = k
		g.pos = (g.pos + 1) % ghostEntries
	}
	g.keys[k] = struct{}{}
}

func (g *ghostQueue) remove(k uint64) bool {
	if _, ok := g.keys[k]; !ok {
		return false
	}
	delete(g.keys, k)
	return true
}
