package meta

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/vfs"
)

func (v *testVolume) trash(dir vfs.Ino) (list []TrashEntry, paths []string) {
	v.Helper()
	v.ok(v.e.Trash(bg, dir, func(x TrashEntry) error {
		list = append(list, x)
		paths = append(paths, x.Path)
		return nil
	}))
	return list, paths
}

func TestTrash(t *testing.T) {
	v := newVolume(t, withHistory)
	var a vfs.Attr
	d := v.mkdir(vfs.Root, "d")
	sub := v.mkdir(d, "sub")
	f := v.file(sub, "f")
	v.write(f, 0, 1234)
	v.ok(v.s.Link(bg, root, f, vfs.Root, "g", &a))
	v.file(vfs.Root, "kept")
	v.file(vfs.Root, "over")
	v.ok(v.s.Rename(bg, root, vfs.Root, "kept", vfs.Root, "over", 0, &a)) // "over" goes
	v.ok(v.s.Unlink(bg, root, sub, "f", &a))                              // has another name
	v.ok(v.s.Rename(bg, root, vfs.Root, "d", vfs.Root, "dir", 0, &a))
	v.ok(v.s.Rename(bg, root, vfs.Root, "g", sub, "h", 0, &a))
	v.s.Open(f)
	v.ok(v.s.Unlink(bg, root, sub, "h", &a)) // the last one
	v.s.Release(f, 1)
	v.ok(v.s.Rmdir(bg, root, d, "sub"))
	_, paths := v.trash(0)
	if !slices.Equal(paths, []string{"/over", "/dir/sub", "/dir/sub/h"}) {
		t.Fatalf("%q", paths)
	}
	list, _ := v.trash(sub)
	if len(list) != 1 || list[0].Size != 1234 || list[0].Ino != f || list[0].Name != "h" || list[0].Parent != sub {
		t.Fatalf("%+v", list)
	}
	stats, err := v.e.RestoreTrash(bg, list[0], vfs.Root, "back", nil)
	v.ok(err)
	if a := v.attr(stats.Ino); a.Size != 1234 || a.Nlink != 1 {
		t.Fatalf("%+v", a)
	}
	if x, err := v.s.Extents(bg, stats.Ino, 0, nil); err != nil || len(x) != 1 {
		t.Fatal(x, err)
	}
	stop := errors.New("stop")
	if err := v.e.Trash(bg, 0, func(TrashEntry) error { return stop }); err != stop {
		t.Error(err)
	}
	v.clock.pass(48 * time.Hour)
	_, err = v.e.Purge(bg, v.clock.Now())
	v.ok(err)
	if list, _ := v.trash(0); len(list) != 0 {
		t.Errorf("after the purge: %+v", list)
	}
	_, err = v.e.RestoreTrash(bg, list[0], vfs.Root, "again", nil)
	v.want(err, syscall.ENOENT)
}

func TestTrashMuch(t *testing.T) {
	const n = maintainBatch + 10
	v := newVolume(t, withHistory)
	for i := range n {
		v.file(vfs.Root, fmt.Sprint(i))
		v.ok(v.s.Unlink(bg, root, vfs.Root, fmt.Sprint(i), new(vfs.Attr)))
	}
	if list, _ := v.trash(0); len(list) != n {
		t.Errorf("%d entries", len(list))
	}
	none := newVolume(t)
	none.file(vfs.Root, "f")
	none.ok(none.s.Unlink(bg, root, vfs.Root, "f", new(vfs.Attr)))
	if list, _ := none.trash(0); len(list) != 0 {
		t.Errorf("without retention: %v", list)
	}
}
