package block

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/mem"
	"github.com/massif-fs/massif/vfs"
)

func rawGet(t testing.TB, o object.Store, key string) []byte {
	t.Helper()
	body, _, err := o.Get(context.Background(), key, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	p, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func rawPut(t testing.TB, o object.Store, key string, p []byte) {
	t.Helper()
	if _, err := o.Put(context.Background(), key, bytes.NewReader(p), int64(len(p)), nil); err != nil {
		t.Fatal(err)
	}
}

// TestDamage changes every region of an object: a read gives the right bytes or
// EIO, never others.
func TestDamage(t *testing.T) {
	ctx := context.Background()
	for _, v := range variants() {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			objects := mem.New()
			s := v.open(t, objects)
			rnd := rand.New(rand.NewPCG(3, 3))
			for _, n := range []int{100, 70_000, 400_000} {
				want := content(uint64(n), 3, n)
				if n < 100_000 {
					want = content(uint64(n), n%2, n)
				}
				r, other := Ref{1, uint32(n)}, Ref{2, uint32(n)}
				for id := ID(1); id <= 2; id++ {
					if err := s.Put(ctx, id, want); err != nil {
						t.Fatal(err)
					}
				}
				good := rawGet(t, objects, s.key(1))
				headerLen := int(s.headers.get(r).length)
				if err := s.DropCaches(); err != nil {
					t.Fatal(err)
				}
				try := func(what string, p []byte) {
					t.Helper()
					rawPut(t, objects, s.key(1), p)
					if err := s.Verify(ctx, r); !errors.Is(err, ErrDamaged) {
						t.Errorf("%d bytes, %s: Verify says %v", n, what, err)
					}
					for _, read := range [][2]int{{0, n}, {0, min(n, 4096)}, {n / 2, n - n/2}, {n - 1, 1}} {
						got := make([]byte, read[1])
						err := s.ReadAt(ctx, r, got, uint32(read[0]))
						if err != nil && vfs.ErrnoOf(err) != syscall.EIO {
							t.Errorf("%s: %v", what, err)
						}
						if err == nil && !bytes.Equal(got, want[read[0]:read[0]+read[1]]) {
							t.Errorf("%d bytes, %s: wrong bytes at %d", n, what, read[0])
						}
					}
					s.DropCaches()
				}
				for range 30 {
					p := bytes.Clone(good)
					p[rnd.IntN(len(p))] ^= 1 << rnd.IntN(8)
					try("flipped bit", p)
				}
				for i := 0; i < headerLen; i += 1 + headerLen/40 {
					p := bytes.Clone(good)
					p[i] ^= 1 << rnd.IntN(8)
					try("flipped bit of the header", p)
				}
				for _, k := range []int{0, 1, 47, 48, headerLen - 1, headerLen, headerLen + 1, len(good) / 2, len(good) - 1} {
					if k < len(good) {
						try("cut off", good[:k])
					}
				}
				try("longer", append(bytes.Clone(good), 0))
				try("another block", rawGet(t, objects, s.key(2)))
				if n > 300_000 {
					p := bytes.Clone(good)
					copy(p[headerLen:], good[headerLen+4096:])
					try("shifted", p)
				}
				rawPut(t, objects, s.key(1), good)
				if err := s.Verify(ctx, r); err != nil {
					t.Error(err)
				}
				if err := s.Verify(ctx, other); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestForeignVolume: the object of another volume in the place of ours is damage.
func TestForeignVolume(t *testing.T) {
	ctx := context.Background()
	objects := mem.New()
	a := open(t, objects, nil)
	if err := a.Put(ctx, 1, []byte("volume a")); err != nil {
		t.Fatal(err)
	}
	b := open(t, objects, func(c *Config) { c.Volume = [16]byte{7} })
	if err := b.ReadAt(ctx, Ref{1, 8}, make([]byte, 8), 0); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	// A sealed block without the key is an error too, as is one with another key.
	c := open(t, objects, func(c *Config) { c.Sealer = newTestSealer() })
	if err := c.Put(ctx, 2, []byte("secret")); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(rawGet(t, objects, c.key(2)), []byte("secret")) {
		t.Error("a sealed block is readable")
	}
	if err := a.ReadAt(ctx, Ref{2, 6}, make([]byte, 6), 0); vfs.ErrnoOf(err) != syscall.ENOKEY || errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	if err := a.Verify(ctx, Ref{2, 6}); err != nil {
		t.Error("without the key the checksums can be verified:", err)
	}
}

// flaky gives wrong answers to some reads.
type flaky struct {
	object.Store
	n    atomic.Int64
	mode atomic.Int64 // 0: good; 1: every second answer is bad; 2: every one
	kind func(p []byte, n int) (int, error)
}

func (f *flaky) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	n, err := object.ReadRange(ctx, f.Store, key, p, off)
	switch f.mode.Load() {
	case 1:
		if f.n.Add(1)%2 == 1 {
			return f.kind(p, n)
		}
	case 2:
		return f.kind(p, n)
	}
	return n, err
}

// TestFlakyStore: a bad answer is fetched again; a store that stays bad gives EIO
// or what fits, and a store that recovers is used again.
func TestFlakyStore(t *testing.T) {
	ctx := context.Background()
	kinds := map[string]struct {
		kind  func(p []byte, n int) (int, error)
		errno syscall.Errno
		again bool // such an answer is asked for again
	}{
		"corrupt": {func(p []byte, n int) (int, error) {
			if n > 0 {
				p[n/2] ^= 0x10
			}
			return n, nil
		}, syscall.EIO, true},
		"truncate": {func(p []byte, n int) (int, error) { return n / 2, io.ErrUnexpectedEOF }, syscall.EIO, true},
		"empty":    {func(p []byte, n int) (int, error) { return 0, io.ErrUnexpectedEOF }, syscall.EIO, true},
		"noticed":  {func(p []byte, n int) (int, error) { return 0, &object.Error{Op: "get", Err: object.ErrCorrupt} }, syscall.EIO, true},
		"missing": {func(p []byte, n int) (int, error) { return 0, &object.Error{Op: "get", Err: object.ErrNotFound} },
			syscall.EIO, false},
		"down": {func(p []byte, n int) (int, error) { return 0, &object.Error{Op: "get", Err: object.ErrUnavailable} },
			syscall.EIO, false},
		"denied": {func(p []byte, n int) (int, error) { return 0, &object.Error{Op: "get", Err: object.ErrAccess} },
			syscall.EACCES, false},
		"slow": {func(p []byte, n int) (int, error) { return 0, &object.Error{Op: "get", Err: context.DeadlineExceeded} },
			syscall.ETIMEDOUT, false},
	}
	for name, k := range kinds {
		for _, remote := range []bool{false, true} {
			f := &flaky{Store: mem.New(), kind: k.kind}
			var objects object.Store = f
			if remote {
				objects = asRemote{f}
			}
			s := open(t, objects, func(c *Config) { c.Compression = LZ4 })
			want := content(4, 3, 300_000)
			r := Ref{1, uint32(len(want))}
			if err := s.Put(ctx, 1, want); err != nil {
				t.Fatal(err)
			}
			read := func(off, n int) error {
				s.DropCaches()
				p := make([]byte, n)
				err := s.ReadAt(ctx, r, p, uint32(off))
				if err == nil && !bytes.Equal(p, want[off:off+n]) {
					t.Errorf("%s: wrong bytes", name)
				}
				return err
			}
			f.mode.Store(1)
			for i := range 20 {
				f.n.Store(0)
				if err := read(i*7000, 4096); err != nil && k.again {
					t.Errorf("%s: %v", name, err)
				}
			}
			f.mode.Store(2)
			if err := read(9000, 5000); vfs.ErrnoOf(err) != k.errno {
				t.Errorf("%s: %v", name, err)
			}
			f.mode.Store(0)
			if err := read(0, len(want)); err != nil {
				t.Errorf("%s, afterwards: %v", name, err)
			}
		}
	}
}

func TestPutErrors(t *testing.T) {
	for sentinel, errno := range map[error]syscall.Errno{object.ErrNoSpace: syscall.ENOSPC, object.ErrAccess: syscall.EACCES,
		object.ErrUnavailable: syscall.EIO, context.DeadlineExceeded: syscall.ETIMEDOUT} {
		s := open(t, failingPut{mem.New(), sentinel}, nil)
		if err := s.Put(context.Background(), 1, []byte("x")); vfs.ErrnoOf(err) != errno || !errors.Is(err, sentinel) {
			t.Error(err)
		}
	}
}

type failingPut struct {
	object.Store
	err error
}

func (f failingPut) Put(_ context.Context, key string, _ io.Reader, _ int64, _ *object.PutOptions) (object.Info, error) {
	return object.Info{}, &object.Error{Op: "put", Key: key, Err: f.err}
}

// TestDiskCache: what was read from a remote store is read from the disk after a
// restart, verified; what is damaged there is fetched again.
func TestDiskCache(t *testing.T) {
	ctx := context.Background()
	for _, v := range variants() {
		if !v.remote {
			continue
		}
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			objects := &counting{Store: mem.New()}
			dir := t.TempDir()
			var disk *cache.Disk
			start := func() *fixture {
				var err error
				if disk, err = cache.OpenDisk(cache.DiskConfig{Dir: dir, Limit: 64 << 20, MinFree: 1, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}); err != nil {
					t.Fatal(err)
				}
				if err := disk.Flush(ctx); err != nil { // its index has been read
					t.Fatal(err)
				}
				return open(t, asRemote{objects}, func(c *Config) { v.change(c); c.Disk = disk })
			}
			stop := func(s *fixture) {
				if err := disk.Flush(ctx); err != nil {
					t.Fatal(err)
				}
				if err := disk.Close(); err != nil {
					t.Fatal(err)
				}
				s.shut(t)
			}
			sizes := []int{1000, 100_000, 2 << 20}
			s := start()
			readAll := func() {
				for i, n := range sizes {
					got := make([]byte, n)
					want := content(uint64(i), 3, n)
					for off := 0; off < n; off += 300_000 {
						k := min(300_000, n-off)
						if err := s.ReadAt(ctx, Ref{ID(i + 1), uint32(n)}, got[off:off+k], uint32(off)); err != nil {
							t.Fatal(err)
						}
					}
					if !bytes.Equal(got, want) {
						t.Error("wrong bytes")
					}
				}
			}
			for i, n := range sizes {
				if err := s.Put(ctx, ID(i+1), content(uint64(i), 3, n)); err != nil {
					t.Fatal(err)
				}
			}
			s.headers.dropAll()
			readAll()
			stop(s)

			s = start()
			before := objects.reads.Load()
			readAll()
			if n := objects.reads.Load() - before; n != 0 {
				t.Errorf("%d requests for what is on the disk: %+v", n, disk.Stats())
			}
			if err := s.Delete(ctx, []ID{1}); err != nil {
				t.Fatal(err)
			}
			if disk.Has(1, 0) {
				t.Error("a deleted block is still cached")
			}
			stop(s)
		})
	}
}

// FuzzHeader parses arbitrary objects: no panic, and what parses is consistent.
func FuzzHeader(f *testing.F) {
	objects := mem.New()
	volume := [16]byte{1, 2, 3}
	for i, c := range []Compression{None, LZ4, Zstd} {
		s := open(f, objects, func(cfg *Config) { cfg.Compression, cfg.FrameSize = c, 4096 })
		if err := s.Put(context.Background(), 1, content(1, i, 9000)); err != nil {
			f.Fatal(err)
		}
		f.Add(rawGet(f, objects, s.key(1)), uint64(1), uint32(9000))
		s.shut(f)
	}
	f.Add([]byte(magic), uint64(1), uint32(1))
	f.Fuzz(func(t *testing.T, p []byte, id uint64, size uint32) {
		if size == 0 || size > MaxSize || id == 0 {
			return
		}
		r := Ref{ID(id), size}
		// Let the fuzzer get past the checksum.
		if len(p) > fixedBytes+sumBytes {
			if n := int(p[40]) | int(p[41])<<8 | int(p[42])<<16; n >= fixedBytes+sumBytes && n <= len(p) {
				q := bytes.Clone(p)
				sum := checksum(&volume, r.ID, headerSum, q[:n-8])
				for i := range 8 {
					q[n-8+i] = byte(sum >> (8 * i))
				}
				parseAndDecode(q, volume, r)
			}
		}
		parseAndDecode(p, volume, r)
	})
}

var fuzzEncoder = newEncoder([16]byte{}, None, nil, defaultFrameShift, nil, nil)

func parseAndDecode(p []byte, volume [16]byte, r Ref) {
	h, err := parseHeader(p, volume, r)
	if err != nil {
		return
	}
	d := decoder{enc: fuzzEncoder}
	dst := make([]byte, 1<<h.frameShift)
	for i, f := range h.frames {
		if int(f.end()) <= len(p) {
			_ = d.decode(h, i, dst[:h.plain(i)], p[f.off:f.end()])
			_ = h.compression.decompress(dst[:h.plain(i)], p[f.off:f.end()])
		}
	}
}

// FuzzStage replays arbitrary segments.
func FuzzStage(f *testing.F) {
	dir := f.TempDir()
	s := open(f, downStore{mem.New()}, withStage(dir, nil))
	for id := ID(1); id < 4; id++ {
		if err := s.Put(context.Background(), id, content(1, 1, 3000)); err != nil {
			f.Fatal(err)
		}
	}
	name := s.stage.segmentPath(0)
	s.shut(f)
	whole := readFile(f, name)
	f.Add(whole)
	f.Add(whole[:len(whole)-100])
	f.Add(whole[:segmentHeader])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) {
		dir := t.TempDir()
		writeFile(t, dir+"/segment-0000000000000000", p)
		s, err := tryOpen(downStore{mem.New()}, 64<<20, withStage(dir, func(c *StageConfig) { c.MaxAge = time.Hour }))
		if err != nil {
			return
		}
		want := content(1, 1, 3000)
		for id := ID(1); id < 4; id++ {
			got := make([]byte, len(want))
			if err := s.ReadAt(context.Background(), Ref{id, 3000}, got, 0); err == nil && !bytes.Equal(got, want) {
				t.Error("wrong bytes")
			}
		}
		s.shut(t)
	})
}
