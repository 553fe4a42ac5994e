package meta

import (
	"testing"

	"github.com/massif-fs/massif/vfs"
)

func TestDurable(t *testing.T) {
	v := newVolume(t)
	v.e.TrackDurable()
	f := v.file(vfs.Root, "f")
	if v.e.Durable(f, 0) || v.e.Durable(vfs.Root, 0) {
		t.Error("a new file, or its directory, counts as durable")
	}
	v.ok(v.s.Sync(bg)) // not the one that counts
	if v.e.Durable(f, 0) {
		t.Error("durable without a sync")
	}
	v.ok(v.e.SyncTracked(bg))
	if !v.e.Durable(f, 0) || !v.e.Durable(vfs.Root, 0) {
		t.Error("not durable after a sync")
	}
	if n := v.e.recent.some.Load(); n != 0 {
		t.Errorf("%d inodes are remembered", n)
	}
	v.write(f, 0, 10)
	if v.e.Durable(f, 0) || !v.e.Durable(vfs.Root, 0) {
		t.Error("a write is of the file alone")
	}
	v.unlink(vfs.Root, "f")
	v.ok(v.e.SyncTracked(bg))
	if !v.e.Durable(f, 0) {
		t.Error("not durable after a sync")
	}
}
