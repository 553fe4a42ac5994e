package meta

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/vfs"
)

var _ Maintainer = (*Engine)(nil)

// fill makes n files of three extents each in a directory.
func (v *testVolume) fill(dir vfs.Ino, n int) (files []vfs.Ino) {
	v.Helper()
	for i := range n {
		f := v.file(dir, fmt.Sprint("f", i))
		v.write(f, 0, 1000)
		v.write(f, 100, 100)
		files = append(files, f)
	}
	return files
}

func (v *testVolume) deadBlocks(at time.Time, limit int) int {
	v.Helper()
	dead, err := v.e.DeadBlocks(bg, at, limit)
	v.ok(err)
	v.ok(v.e.ForgetBlocks(bg, dead))
	return len(dead)
}

// TestMaintainMuch has more to remove than one transaction does.
func TestMaintainMuch(t *testing.T) {
	const n = maintainBatch + 300
	v := newVolume(t, withHistory)
	d := v.mkdir(vfs.Root, "d")
	v.fill(d, n)
	found := 0
	v.ok(v.e.Fragmented(bg, 3, func(_ vfs.Ino, _ uint32, list []Extent) bool {
		found++
		if len(list) != 3 {
			t.Errorf("%d extents", len(list))
		}
		return found < n+1
	}))
	if found != n {
		t.Fatalf("%d fragmented chunks instead of %d", found, n)
	}
	v.ok(v.e.Fragmented(bg, 4, func(vfs.Ino, uint32, []Extent) bool { t.Error("a chunk of 4 extents"); return true }))
	v.ok(v.e.Fragmented(bg, 1, func(vfs.Ino, uint32, []Extent) bool { found++; return false }))
	if found != n+1 {
		t.Error("Fragmented does not end when it is told to")
	}
	_, err := v.e.CreateSnapshot(bg, "all")
	v.ok(err)
	var a vfs.Attr
	for i := range n {
		v.ok(v.s.Unlink(bg, root, d, fmt.Sprint("f", i), &a))
	}
	v.clock.pass(48 * time.Hour)
	if _, err := v.e.Expire(bg, v.clock.Now()); err != nil {
		t.Fatal(err)
	}
	if got := v.deadBlocks(v.clock.Now(), 10*n); got != 0 {
		t.Fatalf("%d blocks of a snapshot are dead", got)
	}
	if v.e.maint.passed == nil {
		t.Error("the blocks that a snapshot needs are looked at again each time")
	}
	past, err := v.e.AtSnapshot(bg, "all")
	v.ok(err)
	defer past.Close()
	s, err := past.NewSession(bg, SessionInfo{})
	v.ok(err)
	count := 0
	v.ok(s.ReadDir(bg, root, d, 0, true, func(*vfs.DirEntry) bool { count++; return true }))
	if count != n {
		t.Fatalf("the snapshot shows %d files", count)
	}
	v.ok(v.e.DeleteSnapshot(bg, "all"))
	v.want(s.ReadDir(bg, root, d, 0, false, func(*vfs.DirEntry) bool { return true }), syscall.ENOENT)
	removed, err := v.e.Expire(bg, v.clock.Now())
	if err != nil || removed < 3*n {
		t.Fatalf("%d records of history were removed: %v", removed, err)
	}
	got := 0
	for more := 1; more > 0; got += more {
		more = v.deadBlocks(v.clock.Now(), 400)
	}
	if got != 2*n {
		t.Fatalf("%d dead blocks instead of %d", got, 2*n)
	}
	sum, err := v.e.Check(bg, func(p Problem) { t.Error(p) })
	if err != nil || sum.Blocks != 0 || sum.History > 1 {
		t.Fatalf("%+v %v", sum, err)
	}
}

func TestPurge(t *testing.T) {
	v := newVolume(t, withHistory)
	v.fill(vfs.Root, 3)
	var a vfs.Attr
	v.ok(v.s.Unlink(bg, root, vfs.Root, "f0", &a))
	v.clock.pass(time.Minute)
	middle := v.clock.Now()
	v.clock.pass(time.Minute)
	v.ok(v.s.Unlink(bg, root, vfs.Root, "f1", &a))
	if got := v.deadBlocks(v.clock.Now(), 10); got != 0 {
		t.Fatalf("%d dead blocks", got)
	}
	removed, err := v.e.Purge(bg, middle)
	v.ok(err)
	if removed == 0 {
		t.Error("nothing was removed")
	}
	_, err = v.e.At(bg, middle.Add(-time.Second))
	v.want(err, syscall.ENOENT)
	past, err := v.e.At(bg, middle)
	v.ok(err)
	s, err := past.NewSession(bg, SessionInfo{})
	v.ok(err)
	v.ok(s.Lookup(bg, root, vfs.Root, "f1", &a))
	v.ok(past.Close())
	if got := v.deadBlocks(v.clock.Now(), 10); got != 2 {
		t.Fatalf("%d dead blocks instead of 2", got)
	}
	_, err = v.e.Purge(bg, v.clock.Now().Add(time.Hour)) // the future is not purged
	v.ok(err)
	past, err = v.e.At(bg, v.clock.Now())
	v.ok(err)
	v.ok(past.Close())
}

// TestRetiredBlockStays: what is in the delete queue cannot be used again.
func TestRetiredBlockStays(t *testing.T) {
	v := newVolume(t)
	f := v.file(vfs.Root, "f")
	id := v.write(f, 0, 1000)
	v.write(f, 0, 1000)
	_, err := v.s.Commit(bg, nil, []FileWrite{{Ino: f, Chunks: []Chunk{{Extents: []Extent{{Len: 10, Block: id, Size: 1000}}}}}})
	v.want(err, syscall.EINVAL)
	v.want(v.e.ForgetBlocks(bg, []Block{{ID: id + 1}}), syscall.EINVAL)
	v.ok(v.e.ForgetBlocks(bg, []Block{{ID: id}, {ID: id}, {ID: 1 << 40}}))
}

// TestDeadBlocksIdle: looking at an empty queue writes nothing.
func TestDeadBlocksIdle(t *testing.T) {
	v := newVolume(t, withHistory)
	v.clock.pass(100 * time.Hour)
	var before uint64
	v.ok(v.e.view(bg, func(w *view) (err error) { before, err = w.since(); return err }))
	if got := v.deadBlocks(v.clock.Now(), 10); got != 0 {
		t.Fatal(got)
	}
	v.ok(v.e.view(bg, func(w *view) error {
		after, err := w.since()
		if after != before {
			t.Errorf("the beginning of history was moved from %d to %d", before, after)
		}
		return err
	}))
}
