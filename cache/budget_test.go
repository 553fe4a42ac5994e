package cache

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/massif-fs/massif/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func share(t testing.TB, b *Budget, name string, reserve, limit int64) *Share {
	t.Helper()
	s, err := b.Share(name, reserve, limit)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestBudgetReserves(t *testing.T) {
	b := NewBudget(100)
	x := share(t, b, "x", 30, 0)
	y := share(t, b, "y", 20, 50)
	if _, err := b.Share("z", 60, 0); err == nil {
		t.Error("reserves beyond the limit were accepted")
	}
	if x.Limit() != 80 || y.Limit() != 50 {
		t.Error(x.Limit(), y.Limit())
	}
	if !x.TryAcquire(80) || x.TryAcquire(1) {
		t.Error("x should get all but y's reserve")
	}
	if !y.TryAcquire(20) || y.TryAcquire(1) {
		t.Error("y should get its reserve and no more")
	}
	if err := y.Acquire(context.Background(), 51); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	x.Release(80)
	if !y.TryAcquire(30) || y.TryAcquire(1) {
		t.Error("y should get up to its limit")
	}
	y.Release(50)
	if b.Used() != 0 || b.Stats().Peak != 100 {
		t.Error(b.Stats())
	}
	y.Remove()
	if !x.TryAcquire(100) {
		t.Error("the reserve of a removed share is still kept")
	}
	x.Release(100)
}

func TestBudgetOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(100)
		x := share(t, b, "x", 0, 0)
		y := share(t, b, "y", 10, 0)
		z := share(t, b, "z", 0, 0)
		ctx := context.Background()
		if err := z.Acquire(ctx, 90); err != nil {
			t.Fatal(err)
		}
		var order []int
		var mu sync.Mutex
		start := func(i int, s *Share, n int64) {
			go func() {
				if err := s.Acquire(ctx, n); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
			}()
			synctest.Wait()
		}
		start(1, x, 60) // waits
		start(2, x, 1)  // small, but later
		start(3, y, 5)  // inside its reserve: at once
		start(4, y, 20) // beyond it: behind 1
		if len(order) != 1 || order[0] != 3 {
			t.Fatal(order)
		}
		if x.TryAcquire(1) || y.TryAcquire(1) {
			t.Error("somebody pushed in")
		}
		z.Release(30) // enough for 2 and 4, whose turn it is not
		synctest.Wait()
		if len(order) != 1 {
			t.Fatal(order)
		}
		z.Release(60)
		synctest.Wait()
		if len(order) != 4 {
			t.Fatal(order)
		}
		x.Release(61)
		y.Release(25)
	})
}

func TestBudgetCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(10)
		x := share(t, b, "x", 0, 0)
		if !x.TryAcquire(5) {
			t.Fatal()
		}
		ctx, cancel := context.WithCancel(context.Background())
		large, small := make(chan error, 1), make(chan error, 1)
		go func() { large <- x.Acquire(ctx, 10) }()
		synctest.Wait()
		go func() { small <- x.Acquire(context.Background(), 5) }() // fits, but waits its turn
		synctest.Wait()
		if !b.Pressed() {
			t.Error("nobody waits")
		}
		cancel()
		if err := <-large; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := <-small; err != nil {
			t.Error(err)
		}
		if b.Pressed() || b.Used() != 10 {
			t.Error(b.Stats())
		}
		x.Release(10)
	})
}

// TestBudgetElastic: pinned elastic memory is given back when it is unpinned.
func TestBudgetElastic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1 << 20)
		x := share(t, b, "x", 64<<10, 0)
		bufs, err := NewBuffers(b)
		if err != nil {
			t.Fatal(err)
		}
		m, err := NewMemory(bufs, 0)
		if err != nil {
			t.Fatal(err)
		}
		var pinned []*Buffer
		for i := range uint32(100) {
			buf := m.Alloc(64 << 10)
			if buf == nil {
				break
			}
			m.Insert(1, i, buf)
			if i < 8 {
				pinned = append(pinned, buf)
			} else {
				buf.Release()
			}
		}
		if n := m.Stats().Bytes; n < 900<<10 {
			t.Errorf("the cache uses %d bytes of what is free", n)
		}
		// All but the pinned ones go at once.
		if err := x.Acquire(context.Background(), 512<<10); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- x.Acquire(context.Background(), 256<<10) }()
		synctest.Wait()
		select {
		case <-done:
			t.Fatal("pinned memory was given away")
		default:
		}
		for _, p := range pinned {
			p.Release()
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if used := b.Used(); used > b.Limit() {
			t.Error(used)
		}
		x.Release(768 << 10)
		m.Close()
		if err := bufs.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestBudgetOwnLimit: requests that wait for their share's own limit are served, even
// if the cache takes all that is free in the meantime, and do not press it before.
func TestBudgetOwnLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(4 << 20)
		bufs, err := NewBuffers(b)
		if err != nil {
			t.Fatal(err)
		}
		m, err := NewMemory(bufs, 0)
		if err != nil {
			t.Fatal(err)
		}
		x := share(t, b, "x", 0, 2<<20)
		fill := func() {
			for i := uint32(0); ; i++ {
				if b.Used() > b.Limit()-64<<10 {
					return
				}
				c := m.Alloc(64 << 10)
				if c == nil {
					t.Fatal("the cache is pressed")
				}
				m.Insert(uint64(i)+uint64(b.Used())<<20, i, c)
				c.Release()
			}
		}
		ctx := context.Background()
		first, err := bufs.GetAll(ctx, x, 1<<20, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		fill()
		got := make(chan *Buffer)
		go func() {
			c, err := bufs.Get(ctx, x, 2<<20)
			if err != nil {
				t.Error(err)
			}
			got <- c
		}()
		synctest.Wait()
		if b.Pressed() {
			t.Error("a request that its own share keeps back presses others")
		}
		for _, c := range first {
			c.Release()
			fill()
		}
		(<-got).Release()
		if !x.TryAcquire(2 << 20) { // pushes the cache away without waiting
			t.Error("TryAcquire does not reclaim")
		}
		x.Release(2 << 20)
		m.Close()
		if err := bufs.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestBudgetHammer: many takers in all ways; the limit holds at all times, and
// everybody gets something.
func TestBudgetHammer(t *testing.T) {
	const limit = 4 << 20
	b := NewBudget(limit)
	bufs, err := NewBuffers(b)
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewMemory(bufs, 0)
	if err != nil {
		t.Fatal(err)
	}
	x := share(t, b, "x", 1<<20, 3<<20)
	y := share(t, b, "y", 512<<10, 0)
	var wg sync.WaitGroup
	var held atomic.Int64
	for w := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rnd := rand.New(rand.NewPCG(uint64(w), 1))
			s := x
			if w%2 == 1 {
				s = y
			}
			for range 400 {
				n := 1 << (12 + rnd.IntN(8))
				buf, err := bufs.Get(context.Background(), s, n)
				if err != nil {
					t.Error(err)
					return
				}
				if h := held.Add(int64(buf.Cap())); h > limit {
					t.Errorf("%d bytes are in use", h)
				}
				p := buf.Bytes()
				p[0], p[n-1] = byte(w), byte(w)
				if c := m.Alloc(1 << (12 + rnd.IntN(5))); c != nil {
					c.Bytes()[0] = byte(w)
					m.Insert(uint64(rnd.IntN(50)+1), uint32(rnd.IntN(10)), c)
					c.Release()
				}
				if g := m.Get(uint64(rnd.IntN(50)+1), uint32(rnd.IntN(10))); g != nil {
					_ = g.Bytes()[0]
					g.Release()
				}
				runtime.Gosched()
				if p[0] != byte(w) || p[n-1] != byte(w) {
					t.Error("somebody else wrote into a buffer")
				}
				held.Add(-int64(buf.Cap()))
				buf.Release()
			}
		}()
	}
	wg.Wait()
	if st := b.Stats(); st.Peak > limit {
		t.Error(st)
	}
	m.Close()
	if err := bufs.Close(); err != nil {
		t.Error(err)
	}
	if b.Used() != 0 {
		t.Error(b.Stats())
	}
}

func TestBuffers(t *testing.T) {
	b := NewBudget(64 << 20)
	s := share(t, b, "s", 0, 0)
	bufs, err := NewBuffers(b)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	all, err := bufs.GetAll(ctx, s, 1, 4096, 4097, 1<<20, 5<<20)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{4096, 4096, 8192, 1 << 20, 8 << 20} {
		if all[i].Cap() != want {
			t.Error(i, all[i].Cap())
		}
		clear(all[i].Bytes())
	}
	if s.Used() != 4096+4096+8192+1<<20+8<<20 {
		t.Error(s.Used())
	}
	r := all[0].Retain()
	releaseAll(all)
	if s.Used() != 4096 {
		t.Error(s.Used())
	}
	r.Release()
	if b.Used() != 4096+4096+8192+1<<20+8<<20 {
		t.Error("idle buffers are not counted:", b.Used())
	}
	bufs.trim()
	bufs.trim()
	if b.Used() != 0 {
		t.Error("idle buffers were not trimmed:", b.Stats())
	}
	if _, err := bufs.Get(ctx, s, 65<<20); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if _, err := bufs.Get(ctx, s, 1<<30); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if _, err := bufs.GetAll(ctx, s, 40<<20, 4096); !errors.Is(err, ErrTooLarge) {
		t.Error("64 MiB and 4 KiB do not fit into 64 MiB:", err)
	}
	held := bufs.TryGet(s, 100)
	if err := bufs.Close(); err == nil {
		t.Error("Close did not notice a buffer in use")
	}
	held.Release()
	defer func() {
		if recover() == nil {
			t.Error("a double Release was not noticed")
		}
	}()
	held.Release()
}

func TestMemoryScan(t *testing.T) {
	b := NewBudget(4 << 20)
	bufs, err := NewBuffers(b)
	if err != nil {
		t.Fatal(err)
	}
	defer bufs.Close()
	m, err := NewMemory(bufs, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	insert := func(id uint64) {
		buf := m.Alloc(16 << 10)
		if buf == nil {
			t.Fatal("no memory")
		}
		m.Insert(id, 0, buf)
		buf.Release()
	}
	// A working set that is used again and again, then a scan of much more.
	hot := func(id uint64) bool {
		buf := m.Get(id, 0)
		if buf == nil {
			insert(id)
			return false
		}
		buf.Release()
		return true
	}
	extra := uint64(0)
	for range 20 {
		for id := uint64(1); id <= 64; id++ {
			hot(id)
		}
		for range 30 {
			extra++
			insert(1<<40 + extra)
		}
	}
	for id := uint64(1 << 20); id < 1<<20+2000; id++ {
		insert(id)
		if g := m.Get(id, 0); g != nil { // the same pass looks at it twice
			g.Release()
		}
	}
	kept := 0
	for id := uint64(1); id <= 64; id++ {
		if m.Has(id, 0) {
			kept++
		}
	}
	if kept < 48 {
		t.Errorf("a scan left %d of 64 hot entries", kept)
	}
	m.Drop(1)
	if m.Has(1, 0) {
		t.Error("Drop left an entry")
	}
	m.DropAll()
	if st := m.Stats(); st.Entries != 0 || st.Bytes != 0 {
		t.Error(st)
	}
}
