package cache

import (
	"context"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	minClass   = 12 // 4 KiB
	maxClass   = 27 // 128 MiB
	numClasses = maxClass - minClass + 1

	// chunkSize is how much address space is mapped at least at a time.
	chunkSize = 1 << 20
	// hugeSize is the size of the kernel's huge pages on the common machines.
	hugeSize = 2 << 20
	// trimInterval is how long a free buffer keeps its memory.
	trimInterval = 10 * time.Second
)

// Buffers is a pool of page-aligned buffers in size classes of powers of two from
// 4 KiB to 128 MiB. The memory of a buffer in use is counted by the share it was
// taken for, that of a free one by an elastic share of the pool, until it goes
// back to the operating system: after some idle seconds, or at once when
// somebody waits for memory.
//
// The buffers lie outside the Go heap. Address space is mapped as needed and
// kept for reuse until Close; only memory is given back in between.
type Buffers struct {
	budget  *Budget
	idle    *Share
	classes [numClasses]class
	inUse   atomic.Int64 // buffers

	stop chan struct{}
	done chan struct{}

	mapMu    sync.Mutex
	mappings [][]byte
}

// class holds the free buffers of one size.
type class struct {
	mu   sync.Mutex
	warm []*Buffer // with memory, most recently used last
	cold []*Buffer // address space only
	low  int       // the least len(warm) since the last trim
}

// Buffer is a piece of memory with a reference count. The holder of a reference
// may read Bytes; only a sole holder may write. Data keeps its value while
// anybody holds a reference.
type Buffer struct {
	pool  *Buffers
	share *Share
	home  *Memory // the read cache that holds a reference, or nil
	mem   []byte  // the whole class size
	n     int
	class uint8
	refs  atomic.Int32
}

// NewBuffers returns a pool that counts its buffers by b. It owns a goroutine
// that ends with Close.
func NewBuffers(b *Budget) (*Buffers, error) {
	p := &Buffers{budget: b, stop: make(chan struct{}), done: make(chan struct{})}
	var err error
	if p.idle, err = b.Elastic("idle buffers", 0, 0, p.reclaim); err != nil {
		return nil, err
	}
	go p.trimmer()
	return p, nil
}

// Close gives all address space back. No buffer may be in use: one that is still
// held keeps its mapping, and Close reports it.
func (p *Buffers) Close() error {
	close(p.stop)
	<-p.done
	p.reclaim(1 << 62)
	if n := p.inUse.Load(); n > 0 {
		return fmt.Errorf("cache: %d buffers are still in use", n)
	}
	p.mapMu.Lock()
	defer p.mapMu.Unlock()
	for i := range p.classes {
		c := &p.classes[i]
		c.mu.Lock()
		c.cold = nil
		c.mu.Unlock()
	}
	for _, m := range p.mappings {
		if err := unmapMemory(m); err != nil {
			return err
		}
	}
	p.mappings = nil
	p.idle.Remove()
	return nil
}

// Size returns how much memory a buffer of n bytes takes.
func (p *Buffers) Size(n int) int64 { return 1 << classOf(n) }

func classOf(n int) int {
	if n <= 1<<minClass {
		return minClass
	}
	return bits.Len(uint(n - 1))
}

// Get returns a buffer of n bytes with one reference, counted by share s; it
// waits until the memory is there. Its content is undefined. Errors:
// [ErrTooLarge], ENOMEM where the system gives no memory, or that of ctx.
func (p *Buffers) Get(ctx context.Context, s *Share, n int) (*Buffer, error) {
	c := classOf(n)
	if c > maxClass {
		return nil, fmt.Errorf("buffer of %d bytes: %w", n, ErrTooLarge)
	}
	if b := p.reuse(s, c); b != nil {
		return b.use(s, n), nil
	}
	if err := s.Acquire(ctx, 1<<c); err != nil {
		return nil, err
	}
	return p.acquired(s, c, n)
}

// GetAll is Get for several buffers at once. A caller that needs two buffers of a
// share at the same time must take them in one call: holding one while waiting
// for the other could wait for ever.
func (p *Buffers) GetAll(ctx context.Context, s *Share, sizes ...int) ([]*Buffer, error) {
	var total int64
	for _, n := range sizes {
		if classOf(n) > maxClass {
			return nil, fmt.Errorf("buffer of %d bytes: %w", n, ErrTooLarge)
		}
		total += p.Size(n)
	}
	if err := s.Acquire(ctx, total); err != nil {
		return nil, err
	}
	out := make([]*Buffer, 0, len(sizes))
	for i, n := range sizes {
		b, err := p.acquired(s, classOf(n), n)
		if err != nil {
			for _, b := range out {
				b.Release()
			}
			for _, n := range sizes[i+1:] {
				s.Release(p.Size(n))
			}
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// TryGet is Get without waiting; nil if the memory is not there.
func (p *Buffers) TryGet(s *Share, n int) *Buffer {
	c := classOf(n)
	if c > maxClass {
		return nil
	}
	if b := p.reuse(s, c); b != nil {
		return b.use(s, n)
	}
	if !s.TryAcquire(1 << c) {
		return nil
	}
	b, err := p.acquired(s, c, n)
	if err != nil {
		return nil
	}
	return b
}

// reuse takes a free buffer together with its place in the budget.
func (p *Buffers) reuse(s *Share, c int) *Buffer {
	b := p.popWarm(c)
	if b == nil {
		return nil
	}
	if !p.idle.transfer(s, 1<<c) {
		p.pushWarm(b)
		return nil
	}
	return b
}

// acquired makes a buffer of class c for which s has acquired the memory.
func (p *Buffers) acquired(s *Share, c, n int) (*Buffer, error) {
	if b := p.popWarm(c); b != nil {
		p.idle.Release(1 << c)
		return b.use(s, n), nil
	}
	cl := &p.classes[c-minClass]
	cl.mu.Lock()
	if k := len(cl.cold); k > 0 {
		b := cl.cold[k-1]
		cl.cold = cl.cold[:k-1]
		cl.mu.Unlock()
		return b.use(s, n), nil
	}
	cl.mu.Unlock()
	b, err := p.carve(c)
	if err != nil {
		s.Release(1 << c)
		return nil, err
	}
	return b.use(s, n), nil
}

// carve maps address space for buffers of class c and returns one of them.
func (p *Buffers) carve(c int) (*Buffer, error) {
	size := 1 << c
	mem, err := mapMemory(max(size, chunkSize))
	if err != nil {
		return nil, fmt.Errorf("memory for a buffer of %d bytes: %w", size, err)
	}
	p.mapMu.Lock()
	p.mappings = append(p.mappings, mem)
	p.mapMu.Unlock()
	made := make([]Buffer, len(mem)/size)
	fresh := make([]*Buffer, len(made))
	for i := range made {
		made[i] = Buffer{pool: p, mem: mem[i*size : (i+1)*size : (i+1)*size], class: uint8(c)}
		fresh[len(made)-1-i] = &made[i]
	}
	cl := &p.classes[c-minClass]
	cl.mu.Lock()
	cl.cold = append(cl.cold, fresh[:len(fresh)-1]...)
	cl.mu.Unlock()
	return fresh[len(fresh)-1], nil
}

func (p *Buffers) popWarm(c int) *Buffer {
	cl := &p.classes[c-minClass]
	cl.mu.Lock()
	defer cl.mu.Unlock()
	k := len(cl.warm)
	if k == 0 {
		return nil
	}
	b := cl.warm[k-1]
	cl.warm = cl.warm[:k-1]
	cl.low = min(cl.low, k-1)
	return b
}

func (p *Buffers) pushWarm(b *Buffer) {
	cl := &p.classes[b.class-minClass]
	cl.mu.Lock()
	cl.warm = append(cl.warm, b)
	cl.mu.Unlock()
}

// cool gives the memory of a free buffer back to the system, not its place in the
// budget.
func (p *Buffers) cool(b *Buffer) {
	dropMemory(b.mem)
	cl := &p.classes[b.class-minClass]
	cl.mu.Lock()
	cl.cold = append(cl.cold, b)
	cl.mu.Unlock()
}

// reclaim frees idle buffers, the largest first.
func (p *Buffers) reclaim(need int64) (freed int64) {
	for c := maxClass; c >= minClass && freed < need; c-- {
		for freed < need {
			b := p.popWarm(c)
			if b == nil {
				break
			}
			p.cool(b)
			p.idle.Release(1 << c)
			freed += 1 << c
		}
	}
	return freed
}

// trimmer frees the buffers that nobody used for a while.
func (p *Buffers) trimmer() {
	defer close(p.done)
	t := time.NewTicker(trimInterval)
	defer t.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-t.C:
			p.trim()
		}
	}
}

func (p *Buffers) trim() {
	for i := range p.classes {
		cl := &p.classes[i]
		cl.mu.Lock()
		n := min(cl.low, len(cl.warm))
		// The bottom of the stack is what was not needed.
		old := append([]*Buffer(nil), cl.warm[:n]...)
		cl.warm = append(cl.warm[:0], cl.warm[n:]...)
		cl.low = len(cl.warm)
		cl.mu.Unlock()
		for _, b := range old {
			p.cool(b)
			p.idle.Release(1 << b.class)
		}
	}
}

// Bytes is the content.
func (b *Buffer) Bytes() []byte { return b.mem[:b.n] }

// Cap is the size of the memory behind the buffer in bytes.
func (b *Buffer) Cap() int { return len(b.mem) }

// SetLen changes the length of Bytes, to Cap at most. Only for a sole holder.
func (b *Buffer) SetLen(n int) {
	_ = b.mem[:n]
	b.n = n
}

// Retain adds a reference. The caller holds one already.
func (b *Buffer) Retain() *Buffer {
	if b.refs.Add(1) <= 1 {
		panic("cache: Retain of a free buffer")
	}
	return b
}

// Release drops a reference; the memory is free after the last one.
func (b *Buffer) Release() {
	home := b.home
	switch refs := b.refs.Add(-1); {
	case refs == 0:
		b.free()
	case refs == 1 && home != nil && b.pool.budget.Pressed():
		// It was pinned when memory was asked for, and is not any more.
		b.pool.budget.Reclaim(home.share.rank + 1)
	case refs < 0:
		panic("cache: Release of a free buffer")
	}
}

func (b *Buffer) use(s *Share, n int) *Buffer {
	if !b.refs.CompareAndSwap(0, 1) {
		panic("cache: a free buffer has references")
	}
	b.share, b.n, b.home = s, n, nil
	b.pool.inUse.Add(1)
	return b
}

func (b *Buffer) free() {
	p, s, size := b.pool, b.share, int64(1)<<b.class
	p.inUse.Add(-1)
	b.share, b.home = nil, nil
	poison(b.mem)
	if s.transfer(p.idle, size) {
		p.pushWarm(b)
		if s.reclaim == nil && p.budget.Pressed() { // the transfer let somebody's own share have room
			p.budget.Reclaim(p.idle.rank + 1)
		}
		return
	}
	p.cool(b)
	s.Release(size)
}

func mapMemory(n int) ([]byte, error) {
	if onHeap {
		// Room for the alignment that a mapping has by itself.
		m := make([]byte, n+4095)
		off := -int(uintptr(unsafe.Pointer(unsafe.SliceData(m)))) & 4095
		return m[off : off+n : off+n], nil
	}
	m, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	if n >= hugeSize {
		// Advice only: fewer page faults while large buffers are filled.
		_ = unix.Madvise(m, unix.MADV_HUGEPAGE)
	}
	return m, nil
}

func unmapMemory(m []byte) error {
	if onHeap {
		return nil
	}
	return unix.Munmap(m)
}

func dropMemory(m []byte) {
	if onHeap {
		return
	}
	if err := unix.Madvise(m, unix.MADV_DONTNEED); err != nil {
		panic(fmt.Sprintf("cache: madvise: %v", err)) // only wrong arguments can fail
	}
}
