package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/meta/sealed"
	"github.com/massif-fs/massif/object"
	objmem "github.com/massif-fs/massif/object/mem"
	"github.com/massif-fs/massif/vfs"
)

var (
	bg   = context.Background()
	root = &vfs.Caller{}
)

// brokenStore is an object store whose Put can be made to fail or to hang.
type brokenStore struct {
	object.Store
	fail atomic.Pointer[error]
	hang atomic.Bool
	puts atomic.Int64
}

func (b *brokenStore) Put(ctx context.Context, key string, body io.Reader, size int64, opts *object.PutOptions) (object.Info, error) {
	if b.hang.Load() {
		<-ctx.Done()
		return object.Info{}, &object.Error{Op: "put", Key: key, Err: ctx.Err()}
	}
	if err := b.fail.Load(); err != nil {
		return object.Info{}, &object.Error{Op: "put", Key: key, Err: *err}
	}
	b.puts.Add(1)
	return b.Store.Put(ctx, key, body, size, opts)
}

// world is a volume on stores in memory that can be opened again and again.
type world struct {
	t      testing.TB
	db     kv.DB
	store  *brokenStore
	format meta.Format
	tune   func(*Config)

	fs     *FS
	engine *meta.Engine
	blocks *block.Store
	memory *cache.Memory
}

func newWorld(t testing.TB, format func(*meta.Format), tune func(*Config)) *world {
	t.Helper()
	w := &world{t: t, db: mem.New(), store: &brokenStore{Store: objmem.New()}, tune: tune}
	w.format = meta.Format{Version: meta.FormatVersion, Name: "test", UUID: "00000000-0000-4000-8000-000000000001",
		ChunkSize: meta.MinChunkSize, Compression: "lz4", InlineLimit: meta.DefaultInlineLimit, Created: time.Now()}
	if format != nil {
		format(&w.format)
	}
	if err := meta.Create(bg, w.db, w.format); err != nil {
		t.Fatal(err)
	}
	w.open()
	t.Cleanup(func() {
		w.close()
		if err := w.db.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) open() {
	w.t.Helper()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	budget := cache.NewBudget(64 << 20)
	bufs, err := cache.NewBuffers(budget)
	must(err)
	w.memory, err = cache.NewMemory(bufs, 16<<20)
	must(err)
	log := slog.New(slog.DiscardHandler)
	w.engine, err = meta.Open(bg, w.db, meta.Options{Logger: log})
	must(err)
	blocks := block.Config{Store: w.store, Budget: budget, Buffers: bufs, Memory: w.memory, Compression: block.LZ4,
		Pending: w.engine, Logger: log}
	sess, err := w.engine.NewSession(bg, meta.SessionInfo{Host: "test"})
	must(err)
	if w.format.Seal != nil {
		blocks.Sealer = testKey.Blocks()
		sess, err = sealed.New(sess, testKey, sealed.Options{})
		must(err)
	}
	w.blocks, err = block.New(bg, blocks)
	must(err)
	cfg := Config{Session: sess, Blocks: w.blocks, Budget: budget, Maintainer: w.engine, Pending: w.engine, Exclusive: true,
		DirtyLimit: 8 << 20, FlushInterval: 20 * time.Millisecond, SettleAfter: 5 * time.Millisecond, StallTimeout: time.Minute, Logger: log}
	if w.tune != nil {
		w.tune(&cfg)
	}
	w.fs, err = New(cfg)
	must(err)
}

func (w *world) close() {
	w.t.Helper()
	if err := w.fs.Close(); err != nil {
		w.t.Errorf("closing the tree: %v", err)
	}
	if used := w.fs.dirty.Used(); used != 0 {
		w.t.Errorf("%d bytes of dirty memory are still taken after Close", used)
	}
	if n := w.fs.dirtyBytes.Load(); n != 0 {
		w.t.Errorf("%d bytes are still dirty after Close", n)
	}
	for _, err := range []error{w.engine.Close(), w.blocks.Close()} {
		if err != nil {
			w.t.Error(err)
		}
	}
}

func (w *world) reopen() {
	w.t.Helper()
	w.close()
	w.open()
}

func (w *world) create(name string) (vfs.File, vfs.Ino) {
	w.t.Helper()
	var a vfs.Attr
	f, err := w.fs.Create(bg, root, vfs.Root, name, 0o644, syscall.O_RDWR, &a)
	if err != nil {
		w.t.Fatal(err)
	}
	return f, a.Ino
}

func (w *world) lookup(name string) vfs.Attr {
	w.t.Helper()
	var a vfs.Attr
	if err := w.fs.Lookup(bg, root, vfs.Root, name, &a); err != nil {
		w.t.Fatalf("lookup %s: %v", name, err)
	}
	return a
}

func (w *world) read(ino vfs.Ino) []byte {
	w.t.Helper()
	return content(w.t, w.fs, ino)
}

// content is what a tree shows of a file.
func content(t testing.TB, fs *FS, ino vfs.Ino) []byte {
	t.Helper()
	f, err := fs.Open(bg, root, ino, syscall.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var a vfs.Attr
	if err := fs.GetAttr(bg, root, ino, &a); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, a.Size+10)
	n, err := f.ReadAt(bg, p, 0)
	if err != nil {
		t.Fatal(err)
	}
	return p[:n]
}

func mustWrite(t *testing.T, f vfs.File, p []byte, off int64) {
	t.Helper()
	if n, err := f.WriteAt(bg, p, off); n != len(p) || err != nil {
		t.Fatalf("WriteAt(%d bytes at %d) = %d, %v", len(p), off, n, err)
	}
}

func random(r *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

func TestSmallFilesNeedNoObject(t *testing.T) {
	w := newWorld(t, nil, nil)
	f, ino := w.create("small")
	want := bytes.Repeat([]byte("massif "), 500)
	mustWrite(t, f, want, 0)
	if err := f.Sync(bg, false); err != nil {
		t.Fatal(err)
	}
	f.Close()
	w.reopen()
	if n := w.store.puts.Load(); n != 0 {
		t.Errorf("%d objects were put for a file of %d bytes", n, len(want))
	}
	if !bytes.Equal(w.read(ino), want) {
		t.Error("inline content differs after reopening")
	}
}

func TestFilesSharePacks(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.FlushInterval = time.Hour })
	const files = 50
	for i := range files {
		f, _ := w.create(fmt.Sprint(i))
		mustWrite(t, f, bytes.Repeat([]byte{byte(i)}, 10000), 0)
		f.Close()
	}
	if err := w.fs.Sync(bg); err != nil {
		t.Fatal(err)
	}
	if n := w.store.puts.Load(); n > 3 {
		t.Errorf("%d objects hold %d files of 10,000 bytes", n, files)
	}
	w.reopen()
	for i := range files {
		if got := w.read(w.lookup(fmt.Sprint(i)).Ino); !bytes.Equal(got, bytes.Repeat([]byte{byte(i)}, 10000)) {
			t.Fatalf("file %d reads back wrong", i)
		}
	}
}

func TestStoreFailureIsToldAndOvercome(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.FlushInterval = time.Hour })
	f, ino := w.create("f")
	first := random(rand.New(rand.NewPCG(2, 2)), 700<<10)
	down := error(object.ErrUnavailable)
	w.store.fail.Store(&down) // before the write: full chunks are put at once
	mustWrite(t, f, first, 0)
	if err := f.Sync(bg, false); err == nil || vfs.ErrnoOf(err) != syscall.EIO {
		t.Fatalf("fsync with the store down = %v, want EIO", err)
	}
	if got := w.read(ino); !bytes.Equal(got, first) {
		t.Fatal("data that could not be flushed reads back wrong")
	}
	second := random(rand.New(rand.NewPCG(3, 3)), 300<<10)
	mustWrite(t, f, second, 100<<10)
	want := bytes.Clone(first)
	copy(want[100<<10:], second)
	w.store.fail.Store(nil)
	if err := f.Sync(bg, false); err != nil {
		t.Fatalf("fsync with the store up again: %v", err)
	}
	f.Close()
	w.reopen()
	if got := w.read(ino); !bytes.Equal(got, want) {
		t.Fatal("data differs after a failed and a good fsync")
	}
}

func TestWriteTellsWhyMemoryDoesNotBecomeFree(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.StallTimeout = 300 * time.Millisecond })
	f, _ := w.create("f")
	full := error(object.ErrNoSpace)
	w.store.fail.Store(&full)
	var err error
	for off := int64(0); err == nil && off < 64<<20; off += 1 << 20 {
		_, err = f.WriteAt(bg, random(rand.New(rand.NewPCG(4, 4)), 1<<20), off)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writing to a full store = %v, want ENOSPC", err)
	}
	if used := w.fs.dirty.Used(); used > 8<<20 {
		t.Errorf("%d bytes are dirty, the limit is %d", used, 8<<20)
	}
	w.store.fail.Store(nil)
	if err := f.Sync(bg, false); err != nil {
		t.Errorf("fsync after the store had room again: %v", err)
	}
	f.Close()
}

func TestDirtyMemoryIsBounded(t *testing.T) {
	w := newWorld(t, nil, nil)
	var group sync.WaitGroup
	var peak atomic.Int64
	for i := range 4 {
		f, _ := w.create(fmt.Sprint(i))
		group.Go(func() {
			defer f.Close()
			r := rand.New(rand.NewPCG(5, uint64(i)))
			p := random(r, 1<<20)
			for range 150 {
				if _, err := f.WriteAt(bg, p[:1+r.IntN(len(p))], r.Int64N(16<<20)); err != nil {
					t.Error(err)
					return
				}
				peak.Store(max(peak.Load(), w.fs.dirty.Used()))
			}
		})
	}
	group.Wait()
	if peak.Load() > 8<<20 {
		t.Errorf("dirty memory reached %d bytes, the limit is %d", peak.Load(), 8<<20)
	}
}

func TestUnlinkedFilesAreNotUploaded(t *testing.T) {
	w := newWorld(t, nil, nil)
	f, ino := w.create("temporary")
	w.fs.Pin(ino)
	if err := w.fs.Unlink(bg, root, vfs.Root, "temporary"); err != nil {
		t.Fatal(err)
	}
	want := random(rand.New(rand.NewPCG(6, 6)), 300<<10)
	mustWrite(t, f, want, 0)
	f.Close()
	time.Sleep(100 * time.Millisecond) // several flush intervals: nothing may happen in them
	if got := w.read(ino); !bytes.Equal(got, want) {
		t.Fatal("a pinned file without a name reads back wrong")
	}
	w.fs.Unpin(ino)
	if n := w.store.puts.Load(); n != 0 {
		t.Errorf("%d objects were put for a file without a name", n)
	}
	if w.fs.dirtyBytes.Load() != 0 {
		t.Error("its data is still in memory")
	}
	var a vfs.Attr
	if err := w.fs.GetAttr(bg, root, ino, &a); !isGone(err) {
		t.Errorf("GetAttr after the last unpin = %v, want ESTALE", err)
	}
}

// TestSizeNeverGoesBack looks at sizes while files are being flushed and dropped.
func TestSizeNeverGoesBack(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.FlushInterval = 4 * time.Millisecond })
	done := make(chan struct{})
	var size atomic.Int64
	_, ino := func() (vfs.File, vfs.Ino) { f, ino := w.create("f"); f.Close(); return f, ino }()
	go func() {
		defer close(done)
		for range 400 {
			f, err := w.fs.Open(bg, root, ino, syscall.O_WRONLY)
			if err != nil {
				t.Error(err)
				return
			}
			mustWrite(t, f, make([]byte, 100), size.Load())
			size.Add(100)
			f.Close()
		}
	}()
	for {
		before := size.Load()
		var a, b vfs.Attr
		if err := w.fs.GetAttr(bg, root, ino, &a); err != nil {
			t.Fatal(err)
		}
		if err := w.fs.Lookup(bg, root, vfs.Root, "f", &b); err != nil {
			t.Fatal(err)
		}
		if a.Size < uint64(before) || b.Size < uint64(before) {
			t.Fatalf("sizes %d and %d were shown after %d bytes had been written", a.Size, b.Size, before)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

func TestQuotaIsMetAtTheWrite(t *testing.T) {
	w := newWorld(t, func(f *meta.Format) { f.QuotaBytes = 2 << 20 }, nil)
	f, _ := w.create("f")
	defer f.Close()
	p := random(rand.New(rand.NewPCG(7, 7)), 256<<10)
	var err error
	var off int64
	for ; err == nil && off < 8<<20; off += int64(len(p)) {
		_, err = f.WriteAt(bg, p, off)
	}
	if !errors.Is(err, syscall.ENOSPC) || off > 3<<20 {
		t.Fatalf("writing over the quota = %v after %d bytes, want ENOSPC after 2 MiB", err, off)
	}
	if err := f.Sync(bg, false); err != nil {
		t.Fatalf("fsync of what fitted: %v", err)
	}
	mustWrite(t, f, p, 0) // overwriting needs no room
	if err := f.Sync(bg, false); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(bg, 0); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, f, p, 0)
}

func TestCompactionKeepsBytes(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.FlushInterval = time.Hour })
	f, ino := w.create("f")
	r := rand.New(rand.NewPCG(8, 8))
	want := random(r, 256<<10)
	mustWrite(t, f, want, 0)
	for range 150 {
		p := random(r, 1+r.IntN(3000))
		off := r.IntN(len(want) - len(p))
		mustWrite(t, f, p, int64(off))
		copy(want[off:], p)
		if err := f.Sync(bg, true); err != nil {
			t.Fatal(err)
		}
	}
	before, err := w.fs.sess.Extents(bg, ino, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := w.fs.CompactAll(bg, 10)
	if err != nil || n != 1 {
		t.Fatalf("CompactAll = %d, %v", n, err)
	}
	after, err := w.fs.sess.Extents(bg, ino, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(before) < 100 || len(after) != 1 {
		t.Errorf("%d extents became %d, want 1", len(before), len(after))
	}
	if got := w.read(ino); !bytes.Equal(got, want) {
		t.Error("bytes differ after compaction")
	}
	if err := w.fs.DeleteDead(bg, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	w.reopen()
	if got := w.read(ino); !bytes.Equal(got, want) {
		t.Error("bytes differ after compaction, deletion and reopening")
	}
}
