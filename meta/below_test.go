package meta

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/vfs"
)

func TestBelow(t *testing.T) {
	v := newVolume(t, func(f *Format) { f.Retention = 3600 })
	var a vfs.Attr
	in, out := v.mkdir(vfs.Root, "in"), v.mkdir(vfs.Root, "out")
	deep := v.mkdir(v.mkdir(in, "a"), "b")
	inside, outside, both := v.file(deep, "inside"), v.file(out, "outside"), v.file(out, "both")
	for i, dir := range []vfs.Ino{vfs.Root, out, deep} {
		if err := v.s.Link(bg, root, both, dir, string(rune('x'+i)), &a); err != nil {
			t.Fatal(err)
		}
	}
	check := func(e *Engine, ino, dir vfs.Ino, want bool) {
		t.Helper()
		if got, err := e.Below(bg, ino, dir); err != nil || got != want {
			t.Errorf("inode %d below %d: %v, %v", ino, dir, got, err)
		}
	}
	for _, ino := range []vfs.Ino{vfs.Root, in, out, deep, inside, outside, both} {
		check(v.e, ino, vfs.Root, true)
		check(v.e, ino, ino, true)
	}
	for _, ino := range []vfs.Ino{in, deep, inside, both} {
		check(v.e, ino, in, true)
	}
	for _, ino := range []vfs.Ino{vfs.Root, out, outside} {
		check(v.e, ino, in, false)
	}
	check(v.e, deep, inside, false)
	before := v.clock.Now()
	if err := v.s.Unlink(bg, root, deep, "z", &a); err != nil {
		t.Fatal(err)
	}
	check(v.e, both, in, false)
	check(v.e, both, out, true)
	if err := v.s.Rename(bg, root, deep, "inside", out, "inside", 0, &a); err != nil {
		t.Fatal(err)
	}
	check(v.e, inside, in, false)
	if err := v.s.Rename(bg, root, vfs.Root, "out", deep, "out", 0, &a); err != nil {
		t.Fatal(err)
	}
	check(v.e, outside, in, true)
	direct, err := v.e.NewSession(bg, SessionInfo{}) // one that tells at once what it uses
	v.ok(err)
	defer direct.Close()
	direct.Open(outside)
	if err := v.s.Unlink(bg, root, out, "outside", &a); err != nil {
		t.Fatal(err)
	}
	check(v.e, outside, in, false)
	check(v.e, outside, vfs.Root, false)
	direct.Release(outside, 1)
	for OverTheWire != nil { // the lease of v.s is recalled first
		if _, err = v.e.Below(bg, outside, in); err != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if _, err = v.e.Below(bg, outside, in); !errors.Is(err, syscall.ESTALE) {
		t.Errorf("an inode that is gone: %v", err)
	}
	past, err := v.e.At(bg, before)
	if err != nil {
		t.Fatal(err)
	}
	defer past.Close()
	check(past, inside, in, true)
	check(past, outside, in, false)
	check(past, both, in, true)
}
