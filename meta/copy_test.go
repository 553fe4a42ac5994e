package meta

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/vfs"
)

// plant makes a tree that needs several transactions to copy: many names, a deep
// path, a file with many extents, files with several names.
func (v *testVolume) plant() (dir vfs.Ino) {
	v.Helper()
	dir = v.mkdir(vfs.Root, "src")
	var a vfs.Attr
	at := dir
	for i := range 150 {
		v.file(at, "f")
		at = v.mkdir(at, fmt.Sprint("d", i%3))
		if i%10 == 0 {
			v.ok(v.s.Symlink(bg, root, at, "link", "target", &a))
			v.ok(v.s.SetXattr(bg, root, at, "user.x", []byte("y"), 0))
		}
	}
	big := v.file(dir, "big")
	first, err := v.s.AllocBlocks(bg, 1)
	v.ok(err)
	w := FileWrite{Ino: big}
	for c := range uint32(60) {
		chunk := Chunk{Index: c}
		for i := range uint32(100) {
			chunk.Extents = append(chunk.Extents, Extent{Pos: 2 * i, Len: 1, Block: first, Size: 1000, Off: 999 - i})
		}
		w.Chunks = append(w.Chunks, chunk)
		w.Size = uint64(c)*MinChunkSize + 200
	}
	_, err = v.s.Commit(bg, []Block{{first, 1000}}, []FileWrite{w})
	v.ok(err)
	v.ok(v.s.Link(bg, root, big, at, "big too", &a))
	_, err = v.s.Commit(bg, nil, []FileWrite{{Ino: v.file(at, "inline"), SetInline: true, Inline: []byte("text")}})
	v.ok(err)
	return dir
}

// tree lists everything below a directory: what must be the same of a copy.
func (v *testVolume) tree(dir vfs.Ino) (list []string) {
	v.Helper()
	inos := map[vfs.Ino]int{}
	var walk func(dir vfs.Ino, path string)
	walk = func(dir vfs.Ino, path string) {
		v.ok(v.s.ReadDir(bg, root, dir, 0, true, func(d *vfs.DirEntry) bool {
			a := d.Attr
			if inos[a.Ino] == 0 {
				inos[a.Ino] = len(inos) + 1
			}
			a.Ino = vfs.Ino(inos[a.Ino])
			a.Ctime, a.Btime = vfs.Time{}, vfs.Time{}
			list = append(list, fmt.Sprintf("%s/%s %+v", path, d.Name, a))
			if a.IsRegular() {
				chunk, err := v.s.Extents(bg, d.Ino, 59, nil)
				v.ok(err)
				list = append(list, fmt.Sprint(chunk))
			}
			if d.Mode == syscall.S_IFDIR {
				walk(d.Ino, path+"/"+d.Name)
			}
			return true
		}))
	}
	walk(dir, "")
	return list
}

func (v *testVolume) inodes() int64 {
	_, n := v.e.Usage()
	return n
}

func TestClone(t *testing.T) {
	v := newVolume(t)
	src := v.plant()
	want := v.tree(src)
	before := v.inodes()
	bytes, _ := v.e.Usage()
	calls := 0
	stats, err := v.e.Clone(bg, root, src, vfs.Root, "copy", func(CopyStats) { calls++ })
	v.ok(err)
	got := v.tree(stats.Ino)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%d entries, should be %d", len(got), len(want))
	}
	if stats.Inodes != before-1 || v.inodes() != 2*before-1 || stats.Bytes != bytes || calls < 3 {
		t.Fatalf("%+v after %d steps, %d inodes before", stats, calls, before)
	}
	// A copy into itself is of the state before it.
	stats, err = v.e.Clone(bg, root, vfs.Root, src, "everything", nil)
	v.ok(err)
	if stats.Inodes != 2*before-1 {
		t.Fatalf("%+v", stats)
	}
	_, err = v.e.Clone(bg, root, src, vfs.Root, "copy", nil)
	v.want(err, syscall.EEXIST)
	_, err = v.e.Clone(bg, root, 99999, vfs.Root, "c", nil)
	v.want(err, syscall.ESTALE)
	_, err = v.e.Clone(bg, root, src, v.file(vfs.Root, "file"), "c", nil)
	v.want(err, syscall.ENOTDIR)
	if n := len(v.e.Sessions()); n != 1 {
		t.Errorf("%d sessions are left", n)
	}
}

// TestCloneQuota: a copy that does not fit leaves nothing.
func TestCloneQuota(t *testing.T) {
	v := newVolume(t)
	src := v.plant()
	d := v.mkdir(vfs.Root, "d")
	before := v.inodes()
	v.ok(v.e.SetQuota(bg, d, 0, uint64(before)-3))
	_, err := v.e.Clone(bg, root, src, d, "copy", nil)
	v.want(err, syscall.EDQUOT)
	v.ok(v.e.SetQuota(bg, d, 1000, 0))
	_, err = v.e.Clone(bg, root, src, d, "copy", nil)
	v.want(err, syscall.EDQUOT)
	v.settle()
	if got := v.inodes(); got != before {
		t.Fatalf("%d inodes instead of %d", got, before)
	}
	v.ok(v.e.SetQuota(bg, d, 0, uint64(before)-2))
	_, err = v.e.Clone(bg, root, src, d, "copy", nil)
	v.ok(err)
	if q := v.e.ListQuotas()[0]; q.UsedInodes != before-2 {
		t.Fatalf("%+v", q)
	}
	v.want(v.s.Mkdir(bg, root, d, "more", 0o755, new(vfs.Attr)), syscall.EDQUOT)
	// The volume's quota.
	v.ok(v.e.UpdateSettings(bg, func(f *Format) error { f.QuotaInodes = uint64(v.inodes()) + 50; return nil }))
	_, err = v.e.Clone(bg, root, src, vfs.Root, "copy", nil)
	v.want(err, syscall.ENOSPC)
	v.settle()
}

// settle waits for removals in the background.
func (v *testVolume) settle() {
	v.Helper()
	v.ok(v.e.reapAll(bg, systemSession))
	// The reaper's last commit is visible before it is counted.
	v.e.quiesce()
}

func TestCloneInterrupted(t *testing.T) {
	v := newVolume(t)
	src := v.plant()
	before := v.inodes()
	ctx, cancel := context.WithCancel(bg)
	_, err := v.e.Clone(ctx, root, src, vfs.Root, "copy", func(CopyStats) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	v.settle()
	if got := v.inodes(); got != before {
		t.Fatalf("%d inodes instead of %d", got, before)
	}
	if n := len(v.list(vfs.Root)); n != 1 {
		t.Errorf("the root has %d entries", n)
	}
}

// TestCloneCrash loses the commits of a clone from each one on.
func TestCloneCrash(t *testing.T) {
	db := mem.NewWithHistory()
	if err := Create(bg, db, testFormat()); err != nil {
		t.Fatal(err)
	}
	clock := newTestClock()
	v := openVolume(t, db, clock)
	src := v.plant()
	want := fmt.Sprint(v.tree(src))
	before := v.inodes()
	v.ok(v.s.Sync(bg))
	_, err := v.e.Clone(bg, root, src, vfs.Root, "copy", nil)
	v.ok(err)
	commits := db.Unsynced()
	if commits < 5 {
		t.Fatalf("only %d commits", commits)
	}
	complete := 0
	for keep := range commits + 1 {
		w := openVolume(t, db.CrashAt(keep), clock)
		w.settle()
		a, err := w.lookup(vfs.Root, "copy")
		inodes := before
		if err == nil {
			complete++
			inodes = 2*before - 1
			if got := fmt.Sprint(w.tree(a.Ino)); got != want {
				t.Errorf("after %d commits the copy is incomplete", keep)
			}
		}
		if got := w.inodes(); got != inodes {
			t.Errorf("after %d commits there are %d inodes instead of %d", keep, got, inodes)
		}
		if _, err := w.e.Check(bg, func(p Problem) { t.Error(keep, p) }); err != nil {
			t.Error(err)
		}
		w.ok(w.e.Close())
	}
	if complete == 0 || complete == commits+1 {
		t.Errorf("%d of %d crashes left a complete copy", complete, commits+1)
	}
	v.ok(v.e.Close())
}

// TestCloneHoldsBlocks: blocks that are retired and looked for while a copy is made
// are not given out.
func TestCloneHoldsBlocks(t *testing.T) {
	v := newVolume(t)
	d := v.mkdir(vfs.Root, "d")
	files := v.fill(d, 200)
	var once sync.Once
	stats, err := v.e.Clone(bg, root, d, vfs.Root, "copy", func(CopyStats) {
		once.Do(func() {
			for i, f := range files {
				if i%2 == 0 {
					v.write(f, 0, 1000)
				} else {
					v.ok(v.s.Unlink(bg, root, d, fmt.Sprint("f", i), new(vfs.Attr)))
				}
			}
			v.clock.pass(time.Hour)
			if _, err := v.e.Check(bg, func(p Problem) { t.Error(p) }); err != nil {
				t.Error(err)
			}
			if n := v.deadBlocks(v.clock.Now(), 10000); n != 0 {
				t.Errorf("%d blocks are given out", n)
			}
		})
	})
	v.ok(err)
	if got := len(v.list(stats.Ino)); got != 200 {
		t.Errorf("the copy has %d files", got)
	}
	v.deadBlocks(v.clock.Now(), 10000)
	for _, x := range v.list(stats.Ino) {
		a, err := v.lookup(stats.Ino, x)
		v.ok(err)
		if list, err := v.s.Extents(bg, a.Ino, 0, nil); err != nil || len(list) != 3 {
			t.Errorf("%s has extents %v (%v)", x, list, err)
		}
	}
}

func TestRestore(t *testing.T) {
	v := newVolume(t, withHistory)
	src := v.plant()
	want := fmt.Sprint(v.tree(src))
	when := v.clock.Now()
	var remove func(dir vfs.Ino)
	remove = func(dir vfs.Ino) {
		for _, name := range v.list(dir) {
			a, err := v.lookup(dir, name)
			v.ok(err)
			if a.IsDir() {
				remove(a.Ino)
				v.ok(v.s.Rmdir(bg, root, dir, name))
			} else {
				v.ok(v.s.Unlink(bg, root, dir, name, &a))
			}
		}
	}
	remove(vfs.Root)
	v.clock.pass(time.Hour)
	past, err := v.e.At(bg, when)
	v.ok(err)
	defer past.Close()
	_, err = v.e.Restore(bg, v.e, src, vfs.Root, "back", nil)
	v.want(err, syscall.EINVAL)
	stats, err := v.e.Restore(bg, past, src, vfs.Root, "back", nil)
	v.ok(err)
	if got := fmt.Sprint(v.tree(stats.Ino)); got != want {
		t.Fatal("what was restored differs")
	}
	v.clock.pass(48 * time.Hour)
	_, err = v.e.Expire(bg, v.clock.Now())
	v.ok(err)
	_, err = v.e.Restore(bg, past, src, vfs.Root, "again", nil)
	v.want(err, syscall.ENOENT)
	v.deadBlocks(v.clock.Now(), 1000)
	if got := fmt.Sprint(v.tree(stats.Ino)); got != want {
		t.Fatal("what was restored does not last")
	}
}
