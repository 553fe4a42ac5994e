package meta

import (
	"errors"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/vfs"
)

// fakeStore is the objects of a store.
type fakeStore map[uint64]time.Time

func (f fakeStore) walk(fn func(id uint64, size int64, mod time.Time) error) error {
	for id, mod := range f {
		if err := fn(id, 10, mod); err != nil {
			return err
		}
	}
	return nil
}

func (v *testVolume) findings(f fakeStore, grace time.Duration) (list []StoreFinding, sum StoreSummary) {
	v.Helper()
	sum, err := v.e.FindOrphans(bg, f.walk, grace, mem.New(), func(f StoreFinding) error {
		list = append(list, f)
		return nil
	})
	v.ok(err)
	slices.SortFunc(list, func(a, b StoreFinding) int { return int(a.ID) - int(b.ID) })
	return list, sum
}

func TestFindOrphans(t *testing.T) {
	v := newVolume(t, withHistory)
	old := v.clock.Now()
	f := v.file(vfs.Root, "f")
	g := v.file(vfs.Root, "g")
	kept, over := v.write(f, 0, 100), v.write(f, 200, 100)
	gone := v.write(g, 0, 100)
	first, err := v.s.AllocBlocks(bg, 2) // put, but not committed
	v.ok(err)
	store := fakeStore{kept: old, over: old, gone: old, first: old}
	v.clock.pass(time.Minute)
	store[first+1] = v.clock.Now()
	if list, sum := v.findings(store, time.Second); len(list) != 1 || list[0].ID != first || list[0].Problem != Orphan ||
		sum.Young != 1 || sum.Objects != 5 || sum.OrphanBytes != 10 {
		t.Fatalf("%+v %+v", list, sum)
	}
	if list, _ := v.findings(store, 0); len(list) != 2 {
		t.Fatalf("%+v", list)
	}
	delete(store, first)
	delete(store, first+1)
	store[1<<40] = old
	if list, _ := v.findings(store, 0); len(list) != 1 || list[0].Problem != Foreign {
		t.Fatalf("%+v", list)
	}
	delete(store, 1<<40)

	// What files and the past need is missing if it is not there.
	delete(store, over)
	delete(store, gone)
	var a vfs.Attr
	v.ok(v.s.Unlink(bg, root, vfs.Root, "g", &a))
	list, sum := v.findings(store, 0)
	if len(list) != 2 || list[0].ID != over || list[0].Past || list[1].ID != gone || !list[1].Past || sum.Missing != 2 || sum.MissingBytes != 200 {
		t.Fatalf("%+v %+v", list, sum)
	}
	var users []BlockUser
	v.ok(v.e.BlockUsers(bg, map[uint64]bool{over: true, gone: true}, func(u BlockUser) error {
		users = append(users, u)
		return nil
	}))
	if len(users) != 1 || users[0] != (BlockUser{over, f, 200, 100}) {
		t.Fatalf("%+v", users)
	}
	// Once the past is over it is only waiting to be deleted.
	v.clock.pass(48 * time.Hour)
	_, err = v.e.Expire(bg, v.clock.Now())
	v.ok(err)
	if list, _ := v.findings(store, 0); len(list) != 1 || list[0].ID != over {
		t.Fatalf("%+v", list)
	}
	var ids []uint64
	v.ok(v.e.CheckBlocks(bg, func(r BlockRef) error {
		ids = append(ids, r.ID)
		return nil
	}))
	if !slices.Equal(ids, []uint64{kept, over}) {
		t.Fatalf("blocks %v are needed", ids)
	}
	for id, want := range map[uint64]bool{kept: true, gone: false, 77777: false} {
		if needed, err := v.e.Needed(bg, id); err != nil || needed != want {
			t.Errorf("block %d: needed is %t (%v)", id, needed, err)
		}
	}
}

// TestFindOrphansMuch has more than a batch, and callers that give up.
func TestFindOrphansMuch(t *testing.T) {
	v := newVolume(t)
	store := fakeStore{}
	first, err := v.s.AllocBlocks(bg, 3*maintainBatch)
	v.ok(err)
	f := v.file(vfs.Root, "f")
	for i := range uint64(3 * maintainBatch) {
		id := first + i
		if store[id] = v.clock.Now(); i%3 == 0 {
			_, err := v.s.Commit(bg, []Block{{id, 4}}, []FileWrite{{Ino: f, Size: i + 1, Chunks: []Chunk{{Extents: []Extent{{Pos: uint32(i), Len: 1, Block: id, Size: 4}}}}}})
			v.ok(err)
		}
	}
	list, sum := v.findings(store, 0)
	if len(list) != 2*maintainBatch || sum.Missing != 0 {
		t.Fatalf("%d findings, %+v", len(list), sum)
	}
	stop := errors.New("stop")
	if _, err := v.e.FindOrphans(bg, store.walk, 0, nil, func(StoreFinding) error { return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	clear(store)
	if list, _ := v.findings(store, 0); len(list) != maintainBatch {
		t.Fatalf("%d blocks are missing", len(list))
	}
}

func TestPath(t *testing.T) {
	v := newVolume(t)
	d := v.mkdir(v.mkdir(vfs.Root, "d"), "e")
	f := v.file(d, "f")
	path := func(ino vfs.Ino, want ...string) {
		t.Helper()
		got, err := v.e.Path(bg, ino)
		if err != nil || !slices.Contains(want, got) {
			t.Errorf("path of %d is %q (%v), not %q", ino, got, err, want)
		}
	}
	path(vfs.Root, "/")
	path(f, "/d/e/f")
	var a vfs.Attr
	v.ok(v.s.Link(bg, root, f, vfs.Root, "g", &a))
	path(f, "/d/e/f", "/g")
	v.ok(v.s.Rename(bg, root, vfs.Root, "d", vfs.Root, "h", 0, &a))
	path(d, "/h/e")
	v.ok(v.s.Unlink(bg, root, d, "f", &a))
	path(f, "/g")
	v.s.Open(f)
	v.ok(v.s.Unlink(bg, root, vfs.Root, "g", &a))
	_, err := v.e.Path(bg, f)
	v.want(err, syscall.ENOENT)
	_, err = v.e.Path(bg, 12345)
	v.want(err, syscall.ESTALE)
	v.s.Release(f, 1)
}
