package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/flist"
	"github.com/massif-fs/massif/tree/local"
	"github.com/massif-fs/massif/vfs"
	"github.com/massif-fs/massif/vfs/vfstest"
)

func TestMain(m *testing.M) {
	syscall.Umask(0)
	goleak.VerifyTestMain(m)
}

// stand is an image with everything it is served with.
type stand struct {
	*FS
	budget *cache.Budget
	memory *cache.Memory
	disk   *cache.Disk
}

func pack(t testing.TB, v flist.Version, dir string) (file, store string) {
	t.Helper()
	file, store = filepath.Join(t.TempDir(), "image"), t.TempDir()
	w, err := flist.Create(v, file)
	if err != nil {
		t.Fatal(err)
	}
	routes := flist.Routes{flist.Everything("dir://" + store)}
	r, err := flist.NewRouter(t.Context(), v, routes)
	if err == nil {
		_, err = flist.Pack(t.Context(), dir, w, flist.PackOptions{Put: r.Put})
		err = errors.Join(err, w.SetRoutes(routes), w.Finish(), r.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return file, store
}

// serve opens an image; through, if not nil, stands between it and its stores.
func serve(t testing.TB, file string, memory int64, cacheDir string, through func(Fetcher) Fetcher) *stand {
	t.Helper()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	im, err := flist.Open(t.Context(), file, flist.OpenOptions{TempDir: t.TempDir()})
	ok(err)
	routes, err := im.Routes(t.Context())
	ok(err)
	r, err := flist.NewRouter(t.Context(), im.Version(), routes)
	ok(err)
	s := &stand{budget: cache.NewBudget(memory)}
	bufs, err := cache.NewBuffers(s.budget)
	ok(err)
	s.memory, err = cache.NewMemory(bufs, 0)
	ok(err)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if cacheDir != "" {
		s.disk, err = cache.OpenDisk(cache.DiskConfig{Dir: cacheDir, Limit: 1 << 30, MinFree: 1, Identity: "flist", Logger: log})
		ok(err)
		ok(s.disk.Flush(context.Background())) // the index is read
	}
	from := Fetcher(r)
	if through != nil {
		from = through(r)
	}
	s.FS, err = New(Config{Image: im, Blocks: from, Budget: s.budget, Memory: s.memory, Disk: s.disk, Logger: log})
	ok(err)
	var once sync.Once
	t.Cleanup(func() {
		once.Do(func() {
			ok(s.FS.Close())
			if s.disk != nil {
				ok(s.disk.Close())
			}
			s.memory.Close()
			ok(bufs.Close())
			ok(r.Close())
			ok(im.Close())
		})
	})
	return s
}

func TestTree(t *testing.T) {
	for name, v := range map[string]flist.Version{"v1": flist.V1, "v2": flist.V2} {
		t.Run(name, func(t *testing.T) {
			lacks := map[vfstest.Feature]string{}
			if v == flist.V1 {
				for _, f := range []vfstest.Feature{vfstest.HardLinks, vfstest.Xattrs, vfstest.NanoTimes} {
					lacks[f] = "version 1 has no place for them"
				}
			}
			dirs := map[vfs.FS]string{}
			vfstest.RunReadOnly(t, vfstest.Factory{
				Lacks: lacks,
				New: func(t testing.TB) vfs.FS {
					dir := t.TempDir()
					fs, err := local.Open(dir, local.Options{})
					if err != nil {
						t.Fatal(err)
					}
					dirs[fs] = dir
					return fs
				},
				ReadOnly: func(t testing.TB, fs vfs.FS) vfs.FS {
					if err := fs.Close(); err != nil {
						t.Fatal(err)
					}
					file, _ := pack(t, v, dirs[fs])
					return serve(t, file, 64<<20, t.TempDir(), nil)
				},
			})
		})
	}
}

// source makes a directory with one file of n bytes.
func source(t testing.TB, n int) (dir string, data []byte) {
	t.Helper()
	dir = t.TempDir()
	data = make([]byte, n)
	x := uint64(n) + 1
	for i := range data {
		x = x*6364136223846793005 + 1442695040888963407
		data[i] = byte(x >> 56)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, data
}

func open(t testing.TB, fs vfs.FS) vfs.File {
	t.Helper()
	var a vfs.Attr
	if err := fs.Lookup(t.Context(), &vfs.Caller{}, vfs.Root, "file", &a); err != nil {
		t.Fatal(err)
	}
	f, err := fs.Open(t.Context(), &vfs.Caller{}, a.Ino, syscall.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func readAll(t testing.TB, f vfs.File, want []byte) {
	t.Helper()
	p := make([]byte, len(want)+1)
	n, err := f.ReadAt(t.Context(), p, 0)
	if err != nil || !bytes.Equal(p[:n], want) {
		t.Fatalf("%d of %d bytes, %v", n, len(want), err)
	}
}

// counting counts fetches, and holds them up until it is opened.
type counting struct {
	Fetcher
	n    atomic.Int64
	gate chan struct{} // nil: open
	err  atomic.Pointer[error]
}

func (c *counting) Fetch(ctx context.Context, b flist.Block, dst []byte) ([]byte, error) {
	c.n.Add(1)
	if c.gate != nil {
		select {
		case <-c.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err := c.err.Load(); err != nil {
		return nil, *err
	}
	return c.Fetcher.Fetch(ctx, b, dst)
}

// Readers of one block share a fetch, and one that gives up does not disturb the others.
func TestOneFetch(t *testing.T) {
	dir, data := source(t, 1000)
	file, _ := pack(t, flist.V2, dir)
	c := &counting{gate: make(chan struct{})}
	s := serve(t, file, 32<<20, "", func(f Fetcher) Fetcher { c.Fetcher = f; return c })
	f := open(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	given := make(chan error, 1)
	go func() {
		_, err := f.ReadAt(ctx, make([]byte, 10), 0)
		given <- err
	}()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			p := make([]byte, 1000)
			if n, err := f.ReadAt(t.Context(), p, 0); err != nil || !bytes.Equal(p[:n], data) {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
	wait(t, func() bool {
		s.blocks.mu.Lock()
		defer s.blocks.mu.Unlock()
		for _, f := range s.blocks.flights {
			return f.waiters == 21
		}
		return false
	})
	cancel()
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	close(c.gate)
	wg.Wait()
	if n := c.n.Load(); n != 1 {
		t.Fatalf("%d fetches", n)
	}
}

func wait(t testing.TB, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come about")
		}
	}
}

// A fetch that nobody waits for is called off; whoever comes then begins a new one.
func TestCalledOff(t *testing.T) {
	dir, data := source(t, 1000)
	file, _ := pack(t, flist.V2, dir)
	c := &counting{gate: make(chan struct{})}
	s := serve(t, file, 32<<20, "", func(f Fetcher) Fetcher { c.Fetcher = f; return c })
	f := open(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.ReadAt(ctx, make([]byte, 10), 0); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { readAll(t, f, data); close(done) }()
	wait(t, func() bool { return c.n.Load() > 0 })
	close(c.gate)
	<-done
}

// With all blocks in the disk cache the stores are not needed; a block that was changed
// there is never given out.
func TestDiskCache(t *testing.T) {
	dir, data := source(t, 3*flist.BlockSize+5)
	for _, v := range []flist.Version{flist.V1, flist.V2} {
		file, store := pack(t, v, dir)
		cacheDir := t.TempDir()
		t.Run("fill", func(t *testing.T) {
			s := serve(t, file, 64<<20, cacheDir, nil)
			readAll(t, open(t, s), data)
			if err := s.disk.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
		aside := store + ".aside"
		if err := os.Rename(store, aside); err != nil {
			t.Fatal(err)
		}
		t.Run("offline", func(t *testing.T) {
			s := serve(t, file, 64<<20, cacheDir, nil)
			readAll(t, open(t, s), data)
			if st := s.Stats(); st.DiskHits != 4 || st.Fetched != 0 {
				t.Errorf("%+v", st)
			}
		})
		// Another block's bytes under this one's name, as the cache itself would take them.
		t.Run("swapped", func(t *testing.T) {
			s := serve(t, file, 64<<20, cacheDir, nil)
			var a vfs.Attr
			if err := s.Lookup(t.Context(), nil, vfs.Root, "file", &a); err != nil {
				t.Fatal(err)
			}
			names, err := s.im.Blocks(t.Context(), uint64(a.Ino), 0, 4)
			if err != nil {
				t.Fatal(err)
			}
			s.disk.Drop(diskKey(names[0]))
			s.disk.Add(diskKey(names[0]), 1, []cache.Range{{Slot: 0, Data: data[flist.BlockSize : 2*flist.BlockSize]}}, nil)
			if err := s.disk.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			f := open(t, s)
			if n, err := f.ReadAt(t.Context(), make([]byte, 10), 0); vfs.ErrnoOf(err) != syscall.EIO {
				t.Fatalf("%d bytes, %v", n, err)
			}
			if err := os.Rename(aside, store); err != nil {
				t.Fatal(err)
			}
			readAll(t, f, data)
			if st := s.Stats(); st.Damaged != 1 || st.Fetched != 1 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// A sequential reader has blocks fetched ahead; a random one has not.
func TestReadAhead(t *testing.T) {
	const n = 40 * flist.BlockSize
	dir, data := source(t, n)
	file, _ := pack(t, flist.V2, dir)
	c := &counting{}
	s := serve(t, file, 128<<20, "", func(f Fetcher) Fetcher { c.Fetcher = f; return c })
	f := open(t, s)
	p := make([]byte, 128<<10)
	for off := 0; off < n; off += len(p) {
		if k, err := f.ReadAt(t.Context(), p, int64(off)); err != nil || !bytes.Equal(p[:k], data[off:off+k]) {
			t.Fatal(off, k, err)
		}
	}
	if st := s.Stats(); st.Prefetched == 0 || st.Fetched != 40 {
		t.Errorf("sequential: %+v", st)
	}
	s.memory.DropAll()
	before := s.Stats()
	g := open(t, s)
	for _, i := range []int{30, 3, 17, 25, 9} {
		if _, err := g.ReadAt(t.Context(), p[:4096], int64(i*flist.BlockSize)); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.Stats(); st.Prefetched != before.Prefetched || st.Fetched != before.Fetched+5 {
		t.Errorf("random: %+v, before %+v", st, before)
	}
}

// Memory stays within the budget whatever is read, also where it has room for only one
// fetch.
func TestSmallMemory(t *testing.T) {
	dir, data := source(t, 20*flist.BlockSize)
	file, _ := pack(t, flist.V2, dir)
	s := serve(t, file, 4<<20, t.TempDir(), nil)
	f := open(t, s)
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			p := make([]byte, 300<<10)
			for off := w * 100000; off < len(data); off += 700 << 10 {
				n, err := f.ReadAt(t.Context(), p, int64(off))
				if err != nil || !bytes.Equal(p[:n], data[off:off+n]) {
					t.Errorf("%d bytes at %d: %v", n, off, err)
				}
			}
		})
	}
	wg.Wait()
	if st := s.budget.Stats(); st.Peak > 4<<20 {
		t.Errorf("%d bytes of memory", st.Peak)
	}
}

// Faults of the stores are EIO, and pass when they do; closing ends what waits.
func TestFaults(t *testing.T) {
	dir, data := source(t, 1000)
	file, _ := pack(t, flist.V2, dir)
	c := &counting{}
	s := serve(t, file, 32<<20, "", func(f Fetcher) Fetcher { c.Fetcher = f; return c })
	f := open(t, s)
	down := vfs.WithErrno(syscall.EIO, errors.New("down"))
	c.err.Store(&down)
	if _, err := f.ReadAt(t.Context(), make([]byte, 10), 0); vfs.ErrnoOf(err) != syscall.EIO {
		t.Fatal(err)
	}
	c.err.Store(nil)
	readAll(t, f, data)

	c.gate = make(chan struct{})
	s.memory.DropAll()
	done := make(chan error, 1)
	before := c.n.Load()
	go func() {
		_, err := f.ReadAt(t.Context(), make([]byte, 10), 0)
		done <- err
	}()
	wait(t, func() bool { return c.n.Load() > before })
	if err := s.FS.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; vfs.ErrnoOf(err) != syscall.EIO {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(t.Context(), make([]byte, 10), 0); vfs.ErrnoOf(err) != syscall.EIO {
		t.Fatal(err)
	}
}

// A file whose blocks are missing gives EIO, not zeros, where they should be.
func TestMissingBlocks(t *testing.T) {
	dir, _ := source(t, 1000)
	file, _ := pack(t, flist.V2, dir)
	s := serve(t, file, 32<<20, "", nil)
	short := &shortImage{s.im}
	s.im = short
	f := open(t, s)
	p := make([]byte, 2000)
	if n, err := f.ReadAt(t.Context(), p, 0); vfs.ErrnoOf(err) != syscall.EIO || !errors.Is(err, flist.ErrFormat) {
		t.Fatal(n, err)
	}
	if n, err := f.ReadAt(t.Context(), p, flist.BlockSize+5); vfs.ErrnoOf(err) != syscall.EIO {
		t.Fatal(n, err)
	}
}

// shortImage says that files are larger than their blocks.
type shortImage struct{ flist.Image }

func (s *shortImage) Attr(ctx context.Context, ino uint64) (flist.Attr, error) {
	a, err := s.Image.Attr(ctx, ino)
	if a.Type() == syscall.S_IFREG {
		a.Size = flist.BlockSize + 100
	}
	return a, err
}
