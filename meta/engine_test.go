package meta

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/vfs"
)

var (
	bg    = context.Background()
	root  = &vfs.Caller{}
	quiet = slog.New(slog.NewTextHandler(io.Discard, nil))
)

// testClock moves on with each look, so that times differ.
type testClock struct {
	mu  sync.Mutex
	now time.Time
}

func newTestClock() *testClock { return &testClock{now: time.Unix(1_700_000_000, 0)} }

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Millisecond)
	return c.now
}

func (c *testClock) pass(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	c.mu.Unlock()
}

type testVolume struct {
	testing.TB
	db    kv.DB
	e     *Engine
	s     Session
	clock *testClock
}

func testFormat() Format {
	return Format{Name: "test", UUID: "u", ChunkSize: MinChunkSize, Compression: "none", InlineLimit: DefaultInlineLimit, Store: "mem:",
		Created: time.Unix(1_700_000_000, 0).UTC()}
}

func newVolume(t testing.TB, change ...func(*Format)) *testVolume {
	t.Helper()
	f := testFormat()
	for _, c := range change {
		c(&f)
	}
	db := mem.New()
	if err := Create(bg, db, f); err != nil {
		t.Fatal(err)
	}
	v := openVolume(t, db, newTestClock())
	t.Cleanup(func() {
		v.verify()
		if err := v.e.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

func openVolume(t testing.TB, db kv.DB, clock *testClock) *testVolume {
	t.Helper()
	e, err := Open(bg, db, Options{Logger: quiet, Clock: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	return &testVolume{TB: t, db: db, e: e, s: newSession(t, e, SessionInfo{Host: "h", PID: 1}), clock: clock}
}

func (v *testVolume) ok(err error) {
	v.Helper()
	if err != nil {
		v.Fatal(err)
	}
}

func (v *testVolume) want(err error, errno syscall.Errno) {
	v.Helper()
	if err == nil || vfs.ErrnoOf(err) != errno {
		v.Fatalf("error %v, want %v", err, errno)
	}
}

func (v *testVolume) mkdir(parent vfs.Ino, name string) vfs.Ino {
	v.Helper()
	var a vfs.Attr
	v.ok(v.s.Mkdir(bg, root, parent, name, 0o755, &a))
	return a.Ino
}

func (v *testVolume) file(parent vfs.Ino, name string) vfs.Ino {
	v.Helper()
	var a vfs.Attr
	v.ok(v.s.Mknod(bg, root, parent, name, syscall.S_IFREG|0o644, 0, &a))
	return a.Ino
}

func (v *testVolume) attr(ino vfs.Ino) (a vfs.Attr) {
	v.Helper()
	v.ok(v.s.GetAttr(bg, root, ino, &a))
	return a
}

func (v *testVolume) lookup(parent vfs.Ino, name string) (a vfs.Attr, err error) {
	err = v.s.Lookup(bg, root, parent, name, &a)
	return a, err
}

func (v *testVolume) list(dir vfs.Ino) (names []string) {
	v.Helper()
	v.ok(v.s.ReadDir(bg, root, dir, 0, true, func(d *vfs.DirEntry) bool {
		names = append(names, d.Name)
		if !d.HasAttr || d.Attr.Ino != d.Ino || d.Attr.Type() != d.Mode {
			v.Errorf("entry %q has attributes %+v", d.Name, d.Attr)
		}
		return true
	}))
	return names
}

// write commits n bytes at off of a chunk in a new block.
func (v *testVolume) write(ino vfs.Ino, off, n uint64) (block uint64) {
	v.Helper()
	id, err := v.s.AllocBlocks(bg, 1)
	v.ok(err)
	_, err = v.s.Commit(bg, []Block{{ID: id, Size: uint32(n)}}, []FileWrite{{
		Ino:    ino,
		Chunks: []Chunk{{Index: uint32(off / MinChunkSize), Extents: []Extent{{Pos: uint32(off % MinChunkSize), Len: uint32(n), Block: id, Size: uint32(n)}}}},
		Size:   off + n,
	}})
	v.ok(err)
	return id
}

// verify checks all invariants, and what the engine has in memory. Nothing else may
// be under way.
func (v *testVolume) verify() CheckSummary {
	v.Helper()
	sum := v.check()
	v.verifyMemory()
	return sum
}

// check is verify of the records only, which may be done at any time.
func (v *testVolume) check() CheckSummary {
	v.Helper()
	sum, err := v.e.Check(bg, func(p Problem) { v.Errorf("check: %v", p) })
	v.ok(err)
	return sum
}

func (v *testVolume) verifyMemory() {
	v.Helper()
	v.ok(v.e.view(bg, func(w *view) error {
		fresh := newQuotaTable()
		f := v.e.Settings()
		if err := fresh.load(w, &f); err != nil {
			return err
		}
		qt := v.e.quotas
		for ino, want := range fresh.dirs {
			if have := qt.dirs[ino]; have == nil || have.bytes != want.bytes || have.inodes != want.inodes || have.limit != want.limit {
				v.Errorf("quota of %d in memory is %+v, stored %+v", ino, have, want)
			}
		}
		if len(fresh.dirs) != len(qt.dirs) {
			v.Errorf("%d quotas in memory, %d stored", len(qt.dirs), len(fresh.dirs))
		}
		if have := qt.volume; have.bytes != fresh.volume.bytes || have.inodes != fresh.volume.inodes || have.limit != fresh.volume.limit {
			v.Errorf("totals in memory are %+v, stored %+v", have, fresh.volume)
		}
		for i := range v.e.cache.shards {
			s := &v.e.cache.shards[i]
			if s.busy != 0 {
				v.Errorf("shard %d of the cache is busy", i)
			}
			for ino, slot := range s.index {
				var n inode
				if err := w.inode(ino, &n); err != nil || n != s.slots[slot].node {
					v.Errorf("inode %d is cached as %+v, stored %+v (%v)", ino, s.slots[slot].node, n, err)
				}
			}
		}
		return nil
	}))
}

func TestFirst(t *testing.T) {
	v := newVolume(t)
	d := v.mkdir(vfs.Root, "d")
	f := v.file(d, "f")
	v.write(f, 0, 1000)
	if a := v.attr(f); a.Size != 1000 || a.Blocks != 2 {
		t.Fatalf("%+v", a)
	}
	if got := v.list(d); len(got) != 1 || got[0] != "f" {
		t.Fatal(got)
	}
	var a vfs.Attr
	v.want(v.s.Rmdir(bg, root, vfs.Root, "d"), syscall.ENOTEMPTY)
	v.ok(v.s.Rename(bg, root, d, "f", vfs.Root, "g", 0, &a))
	v.ok(v.s.Rmdir(bg, root, vfs.Root, "d"))
	v.verify()
	v.s.Open(f)
	v.ok(v.s.Unlink(bg, root, vfs.Root, "g", &a))
	if a.Nlink != 0 {
		t.Fatal(a)
	}
	v.attr(f)
	v.s.Release(f, 1)
	v.want(v.s.GetAttr(bg, root, f, &a), syscall.ESTALE)
	if b, n := v.e.Usage(); b != 0 || n != 1 {
		t.Fatal(b, n)
	}
}
