package block

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mrand "math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/mem"
	"github.com/massif-fs/massif/vfs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if runChild() {
		return
	}
	goleak.VerifyTestMain(m)
}

// testSealer is AES-GCM with random nonces.
type testSealer struct{ aead cipher.AEAD }

func newTestSealer() testSealer {
	b, err := aes.NewCipher([]byte("0123456789abcdef"))
	if err != nil {
		panic(err)
	}
	a, err := cipher.NewGCM(b)
	if err != nil {
		panic(err)
	}
	return testSealer{a}
}

func (s testSealer) ID() uint8     { return 9 }
func (s testSealer) Overhead() int { return 12 + 16 }

func (s testSealer) Seal(dst, plain, aad []byte) []byte {
	var nonce [12]byte
	rand.Read(nonce[:])
	return s.aead.Seal(append(dst, nonce[:]...), nonce[:], plain, aad)
}

func (s testSealer) Open(dst, sealed, aad []byte) ([]byte, error) {
	if len(sealed) < 12 {
		return nil, errors.New("too short")
	}
	return s.aead.Open(dst, sealed[:12], sealed[12:], aad)
}

// asRemote makes a store look as if it were behind a network.
type asRemote struct{ object.Store }

func (r asRemote) Unwrap() object.Store { return r.Store }

func (r asRemote) Capabilities() object.Capabilities {
	c := r.Store.Capabilities()
	c.Remote = true
	return c
}

// bench is a store with what it stands on.
type fixture struct {
	*Store
	budget *cache.Budget
	bufs   *cache.Buffers
	memory *cache.Memory
	once   sync.Once
}

func open(t testing.TB, objects object.Store, change func(*Config)) *fixture {
	t.Helper()
	f, err := tryOpen(objects, 64<<20, change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.shut(t) })
	return f
}

func tryOpen(objects object.Store, limit int64, change func(*Config)) (*fixture, error) {
	f := &fixture{budget: cache.NewBudget(limit)}
	var err error
	if f.bufs, err = cache.NewBuffers(f.budget); err != nil {
		return nil, err
	}
	if f.memory, err = cache.NewMemory(f.bufs, 0); err != nil {
		return nil, err
	}
	cfg := Config{Store: objects, Budget: f.budget, Buffers: f.bufs, Memory: f.memory, Volume: [16]byte{1, 2, 3},
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if change != nil {
		change(&cfg)
	}
	if f.Store, err = New(context.Background(), cfg); err != nil {
		f.memory.Close()
		f.bufs.Close()
		return nil, err
	}
	return f, nil
}

func (f *fixture) shut(t testing.TB) {
	f.once.Do(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		f.memory.Close()
		if err := f.bufs.Close(); err != nil {
			t.Error(err)
		}
		if used := f.budget.Used(); used != 0 {
			t.Errorf("%d bytes of the budget are still used: %+v", used, f.budget.Stats())
		}
	})
}

// content makes data of which a part compresses: kind 0 random, 1 text-like, 2 zero,
// 3 a mixture that changes every few frames.
func content(seed uint64, kind, n int) []byte {
	r := mrand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(kind)})
	p := make([]byte, n)
	switch kind {
	case 0:
		r.Read(p)
	case 1:
		words := strings.Fields("a massif is group of mounts that stands as one func return if err nil the inode extent lease block store object frame " +
			"header sum cache budget share window stage segment record note upload read write sync flush close open seek error context")
		for i := 0; i < n; {
			i += copy(p[i:], words[r.Uint64()%uint64(len(words))])
			i += copy(p[i:], " \n"[r.Uint64()&1:][:1])
		}
	case 3:
		for i := 0; i < n; i += 100_000 {
			k := min(100_000, n-i)
			copy(p[i:i+k], content(seed+uint64(i), (i/100_000)%3, k))
		}
	}
	return p
}

// pieces cuts p at random places, empty pieces included.
func pieces(rnd *mrand.Rand, p []byte) [][]byte {
	var out [][]byte
	for len(p) > 0 {
		n := rnd.IntN(min(len(p), 150_000) + 1)
		out = append(out, p[:n])
		p = p[n:]
	}
	return append(out, nil)
}

type variant struct {
	name   string
	change func(*Config)
	remote bool
}

func variants() []variant {
	var vs []variant
	for _, remote := range []bool{false, true} {
		for _, c := range []Compression{None, LZ4, Zstd} {
			for _, seal := range []bool{false, true} {
				vs = append(vs, variant{fmt.Sprintf("remote=%v/%v/seal=%v", remote, c, seal), func(cfg *Config) {
					cfg.Compression = c
					if seal {
						cfg.Sealer = newTestSealer()
					}
				}, remote})
			}
		}
	}
	return vs
}

func (v variant) open(t testing.TB, objects object.Store) *fixture {
	if v.remote {
		objects = asRemote{objects}
	}
	return open(t, objects, v.change)
}

var sizes = []int{1, 2, 4095, 4096, 4097, 20_000, 65535, 65536, 65537, 100_000, 131_071, 131_072, 300_001, 1 << 20, 4 << 20, 4<<20 + 5}

func TestRoundTrip(t *testing.T) {
	for _, v := range variants() {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			s := v.open(t, mem.New())
			rnd := mrand.New(mrand.NewPCG(1, 2))
			id := ID(0)
			for i, n := range sizes {
				if underRace && (i%3 != 0 || n > 1<<20) {
					continue // the detector makes every byte dear
				}
				for kind := range 4 {
					id++
					want := content(uint64(id), kind, n)
					if err := s.Put(ctx, id, pieces(rnd, want)...); err != nil {
						t.Fatal(err)
					}
					r := Ref{id, uint32(n)}
					if rnd.IntN(2) == 0 { // half of them with an unknown header
						s.DropCaches()
					}
					for range 30 {
						off := rnd.IntN(n)
						k := rnd.IntN(min(n-off, []int{n, 5000, 70_000}[rnd.IntN(3)]) + 1)
						switch rnd.IntN(5) {
						case 0:
							off, k = 0, n
						case 1:
							off, k = off&^4095, min(4096, n-off&^4095)
						}
						got := make([]byte, k)
						if err := s.ReadAt(ctx, r, got, uint32(off)); err != nil {
							t.Fatalf("block of %d bytes, kind %d: read %d at %d: %v", n, kind, k, off, err)
						}
						if !bytes.Equal(got, want[off:off+k]) {
							t.Fatalf("block of %d bytes, kind %d: read %d at %d: wrong bytes", n, kind, k, off)
						}
					}
					if err := s.Verify(ctx, r); err != nil {
						t.Fatal(err)
					}
					if ok, err := s.Exists(ctx, r); err != nil || !ok {
						t.Fatal(ok, err)
					}
				}
			}
			if st := s.Stats(); st.Damaged != 0 || st.Refetched != 0 {
				t.Errorf("damage without cause: %+v", st)
			}
		})
	}
}

func TestFrameSizes(t *testing.T) {
	ctx := context.Background()
	objects := mem.New()
	want := content(1, 3, 3<<20+77)
	for i, size := range []int{4 << 10, 32 << 10, 1 << 20} {
		w := open(t, objects, func(c *Config) { c.FrameSize, c.Compression = size, LZ4 })
		if err := w.Put(ctx, ID(i+1), want); err != nil {
			t.Fatal(err)
		}
		w.shut(t)
		for _, o := range []object.Store{objects, asRemote{objects}} {
			s := open(t, o, nil) // with another frame size
			r := Ref{ID(i + 1), uint32(len(want))}
			for _, off := range []int{0, 5, 1 << 20, 3 << 20} {
				got := make([]byte, min(len(want)-off, 1<<20+3))
				if err := s.ReadAt(ctx, r, got, uint32(off)); err != nil || !bytes.Equal(got, want[off:off+len(got)]) {
					t.Fatalf("frame size %d, at %d: %v", size, off, err)
				}
			}
			s.shut(t)
		}
	}
	if _, err := tryOpen(objects, 64<<20, func(c *Config) { c.FrameSize = 5000 }); vfs.ErrnoOf(err) != syscall.EINVAL {
		t.Error(err)
	}
}

func TestArguments(t *testing.T) {
	ctx := context.Background()
	s := open(t, mem.New(), nil)
	if err := s.Put(ctx, 0, []byte("x")); vfs.ErrnoOf(err) != syscall.EINVAL {
		t.Error(err)
	}
	if err := s.Put(ctx, 1); vfs.ErrnoOf(err) != syscall.EINVAL {
		t.Error(err)
	}
	if err := s.Put(ctx, 1, make([]byte, MaxSize), []byte("x")); vfs.ErrnoOf(err) != syscall.EINVAL {
		t.Error(err)
	}
	if err := s.Put(ctx, 1, []byte("hello")); err != nil {
		t.Error(err)
	}
	p := make([]byte, 6)
	for _, c := range []struct {
		r   Ref
		off uint32
		n   int
	}{{Ref{1, 5}, 0, 6}, {Ref{1, 5}, 5, 1}, {Ref{0, 5}, 0, 1}, {Ref{1, 0}, 0, 1}} {
		if err := s.ReadAt(ctx, c.r, p[:c.n], c.off); vfs.ErrnoOf(err) != syscall.EINVAL {
			t.Error(c, err)
		}
	}
	if err := s.ReadAt(ctx, Ref{1, 5}, p[:0], 5); err != nil {
		t.Error(err)
	}
	// A size that is not the block's is damage, never other bytes.
	if err := s.ReadAt(ctx, Ref{1, 6}, p, 0); !errors.Is(err, ErrDamaged) || vfs.ErrnoOf(err) != syscall.EIO {
		t.Error(err)
	}
	if err := s.ReadAt(ctx, Ref{2, 6}, p, 0); !errors.Is(err, ErrMissing) || vfs.ErrnoOf(err) != syscall.EIO {
		t.Error(err)
	}
	if err := s.Verify(ctx, Ref{2, 6}); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
	if ok, err := s.Exists(ctx, Ref{2, 6}); ok || err != nil {
		t.Error(ok, err)
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.ReadAt(done, Ref{1, 5}, p[:5], 0); err != nil && vfs.ErrnoOf(err) != syscall.EINTR {
		t.Error(err)
	}
}

func TestDeleteAndWalk(t *testing.T) {
	ctx := context.Background()
	objects := mem.New()
	s := open(t, objects, nil)
	for id := ID(1); id <= 600; id++ {
		if err := s.Put(ctx, id*7, []byte("some data")); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"blocks/x", "blocks/07/0000000000000008", "blocks/07/000000000000007", "other"} {
		if _, err := objects.Put(ctx, key, bytes.NewReader(nil), 0, nil); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[ID]bool{}
	foreign := 0
	walk := func() {
		clear(seen)
		foreign = 0
		err := s.WalkAll(ctx, func(id ID, n int64, _ time.Time) error {
			if n < 9 || seen[id] {
				t.Errorf("block %d: %d bytes", id, n)
			}
			seen[id] = true
			return nil
		}, func(string, int64) error { foreign++; return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	walk()
	if len(seen) != 600 || foreign != 3 {
		t.Fatal(len(seen), foreign)
	}
	if err := s.Delete(ctx, []ID{7, 14, 9999, 0}); err != nil {
		t.Fatal(err)
	}
	walk()
	if len(seen) != 598 || seen[7] || seen[14] {
		t.Fatal(len(seen))
	}
	if err := s.ReadAt(ctx, Ref{7, 9}, make([]byte, 9), 0); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
	stop := errors.New("stop")
	if err := s.Walk(ctx, func(ID, int64, time.Time) error { return stop }); err != stop {
		t.Error(err)
	}
}

// counting counts the reads that reach the store.
type counting struct {
	object.Store
	reads atomic.Int64
	gate  chan struct{} // if not nil, reads wait for it
}

func (c *counting) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	c.reads.Add(1)
	if c.gate != nil {
		select {
		case <-c.gate:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return object.ReadRange(ctx, c.Store, key, p, off)
}

func TestSingleFlight(t *testing.T) {
	ctx := context.Background()
	objects := &counting{Store: mem.New()}
	want := content(5, 3, 4<<20)
	s := open(t, asRemote{objects}, func(c *Config) { c.Compression = LZ4 })
	r := Ref{1, uint32(len(want))}
	if err := s.Put(ctx, 1, want); err != nil {
		t.Fatal(err)
	}
	read := func(s *fixture, n, off int) {
		p := make([]byte, n)
		if err := s.ReadAt(ctx, r, p, uint32(off)); err != nil || !bytes.Equal(p, want[off:off+n]) {
			t.Errorf("read %d at %d: %v", n, off, err)
		}
	}
	gate := make(chan struct{})
	objects.gate = gate
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			read(s, 4096, 2<<20+i*1000)
		}()
	}
	waitFor(t, func() bool { return objects.reads.Load() > 0 })
	close(gate)
	wg.Wait()
	if n := objects.reads.Load(); n > 2 { // the 50 reads touch one frame, or its neighbour
		t.Errorf("%d requests for a frame that many read at once", n)
	}
	before := objects.reads.Load()
	read(s, 4096, 2<<20+100)
	if n := objects.reads.Load() - before; n != 0 {
		t.Errorf("%d requests for a cached frame", n)
	}
	// A cold small read costs one request for the header and one for a frame.
	s.DropCaches()
	before = objects.reads.Load()
	read(s, 4096, 3<<20)
	if n := objects.reads.Load() - before; n != 2 {
		t.Errorf("%d requests for a cold random read", n)
	}
	// A cold read at the front takes the header along.
	s.DropCaches()
	before = objects.reads.Load()
	read(s, 256<<10, 0)
	if n := objects.reads.Load() - before; n != 1 {
		t.Errorf("%d requests for a cold read at the front", n)
	}
}

// waitFor waits until the condition holds, for 10 s at most.
func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); {
		if time.Now().After(end) {
			t.Fatal("condition never came true")
		}
		time.Sleep(time.Millisecond)
	}
}

// TestLeaderCancelled: followers of a fetch whose leader gives up get their bytes.
func TestLeaderCancelled(t *testing.T) {
	objects := &counting{Store: mem.New()}
	s := open(t, asRemote{objects}, nil)
	want := content(5, 0, 1<<20)
	if err := s.Put(context.Background(), 1, want); err != nil {
		t.Fatal(err)
	}
	r := Ref{1, uint32(len(want))}
	gate := make(chan struct{})
	objects.gate = gate
	ctx, cancel := context.WithCancel(context.Background())
	errs := make(chan error, 1)
	go func() { errs <- s.ReadAt(ctx, r, make([]byte, 4096), 0) }()
	waitFor(t, func() bool { return objects.reads.Load() > 0 })
	done := make(chan error, 1)
	go func() {
		p := make([]byte, 4096)
		err := s.ReadAt(context.Background(), r, p, 0)
		if err == nil && !bytes.Equal(p, want[:4096]) {
			err = errors.New("wrong bytes")
		}
		done <- err
	}()
	cancel()
	if err := <-errs; vfs.ErrnoOf(err) != syscall.EINTR {
		t.Error(err)
	}
	close(gate)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestTimeoutShared: when the store times out, those who wait for the same frame are
// told, too, and do not try one after the other.
func TestTimeoutShared(t *testing.T) {
	ctx := context.Background()
	f := &flaky{Store: mem.New()}
	var reads atomic.Int64
	gate := make(chan struct{})
	f.kind = func([]byte, int) (int, error) {
		reads.Add(1)
		<-gate
		return 0, &object.Error{Op: "get", Err: context.DeadlineExceeded}
	}
	s := open(t, asRemote{f}, nil)
	if err := s.Put(ctx, 1, content(1, 0, 1<<20)); err != nil {
		t.Fatal(err)
	}
	f.mode.Store(2)
	var wg sync.WaitGroup
	for range 30 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := s.ReadAt(ctx, Ref{1, 1 << 20}, make([]byte, 4096), 0); vfs.ErrnoOf(err) != syscall.ETIMEDOUT {
				t.Error(err)
			}
		}()
	}
	waitFor(t, func() bool {
		s.flights.mu.Lock()
		defer s.flights.mu.Unlock()
		fl := s.flights.m[flightKey{1, 0}]
		return fl != nil && fl.waiters == 29
	})
	close(gate)
	wg.Wait()
	if n := reads.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestPrefetch(t *testing.T) {
	ctx := context.Background()
	objects := &counting{Store: mem.New()}
	s := open(t, asRemote{objects}, nil)
	want := content(5, 0, 4<<20)
	if err := s.Put(ctx, 1, want); err != nil {
		t.Fatal(err)
	}
	r := Ref{1, uint32(len(want))}
	s.Prefetch(r, 0, r.Size)
	s.Prefetch(Ref{2, 100}, 0, 100) // missing: nothing happens
	s.Prefetch(Ref{1, 100}, 200, 100)
	for i := uint32(0); i < r.Size; i += 65536 {
		p := make([]byte, 65536)
		if err := s.ReadAt(ctx, r, p, i); err != nil || !bytes.Equal(p, want[i:i+65536]) {
			t.Fatal(err)
		}
	}
}

// TestBudget hammers a store with little memory: nothing hangs, nothing exceeds
// the limit, nothing is wrong.
func TestBudget(t *testing.T) {
	const limit = 16 << 20
	for _, remote := range []bool{false, true} {
		t.Run(fmt.Sprint("remote=", remote), func(t *testing.T) {
			var objects object.Store = mem.New()
			if remote {
				objects = asRemote{objects}
			}
			s, err := tryOpen(objects, limit, func(c *Config) { c.Compression = LZ4; c.Sealer = newTestSealer() })
			if err != nil {
				t.Fatal(err)
			}
			defer s.shut(t)
			const workers, rounds, size = 8, 6, 1<<20 + 333
			var wg sync.WaitGroup
			for w := range workers {
				wg.Add(1)
				go func() {
					defer wg.Done()
					rnd := mrand.New(mrand.NewPCG(uint64(w), 7))
					for i := range rounds {
						id := ID(w*rounds + i + 1)
						want := content(uint64(id), 3, size)
						if err := s.Put(context.Background(), id, want); err != nil {
							t.Error(err)
							return
						}
						s.Prefetch(Ref{id, size}, 0, size)
						for range 20 {
							off := rnd.IntN(size)
							p := make([]byte, rnd.IntN(min(size-off, 300_000))+1)
							if err := s.ReadAt(context.Background(), Ref{id, size}, p, uint32(off)); err != nil || !bytes.Equal(p, want[off:off+len(p)]) {
								t.Error(err)
								return
							}
						}
					}
				}()
			}
			wg.Wait()
			if st := s.budget.Stats(); st.Peak > limit {
				t.Errorf("%d bytes used of %d", st.Peak, limit)
			}
		})
	}
}

// TestLargest stores a block of the greatest size.
func TestLargest(t *testing.T) {
	if testing.Short() || underRace {
		t.Skip("moves 64 MiB about")
	}
	ctx := context.Background()
	want := bytes.Repeat(content(1, 3, 1<<20), MaxSize>>20)
	for _, objects := range []object.Store{mem.New(), asRemote{mem.New()}} {
		s := open(t, objects, func(c *Config) {
			c.Compression = LZ4
			c.Stage = &StageConfig{Dir: t.TempDir()}
		})
		if err := s.Put(ctx, 1, want); err != nil {
			t.Fatal(err)
		}
		drain(t, s)
		s.DropCaches()
		got := make([]byte, MaxSize)
		if err := s.ReadAt(ctx, Ref{1, MaxSize}, got, 0); err != nil || !bytes.Equal(got, want) {
			t.Fatal(err)
		}
		if err := s.ReadAt(ctx, Ref{1, MaxSize}, got[:10], MaxSize-10); err != nil || !bytes.Equal(got[:10], want[MaxSize-10:]) {
			t.Fatal(err)
		}
		s.shut(t)
	}
}
