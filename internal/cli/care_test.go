package cli

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/mount"
)

// objects lists the blocks in a volume's default store.
func (w *world) objects(volume string) []string {
	w.t.Helper()
	var out []string
	err := filepath.WalkDir(filepath.Join(w.home, "volumes", volume, "store"), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(path, "blocks") {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func random(t *testing.T, n int) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFsckAndGC(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.must("volume", "create", "v")
	w.must("mount", "v", w.mnt)
	w.write("a", random(t, 300_000))
	w.write("b", random(t, 300_000))

	var r mount.FsckResult
	w.mustJSON(&r, "volume", "fsck", "v", "--data") // of a mounted volume
	if !r.Clean || r.Meta.Inodes != 3 || r.Verified == 0 {
		t.Errorf("fsck of a mounted volume: %+v", r)
	}
	w.must("umount", w.mnt)
	if out := w.must("fsck", "v", "--data"); !strings.Contains(out, "volume v is clean") {
		t.Errorf("fsck: %s", out)
	}

	// An object nobody knows is an orphan once nobody has the volume open. Its
	// number must have been given out: it takes the place of a block of a file that
	// is deleted.
	before := w.objects("v")
	orphan, err := os.ReadFile(before[0])
	if err != nil {
		t.Fatal(err)
	}
	w.must("mount", "v", w.mnt)
	for _, f := range []string{"a", "b"} {
		if err := os.Remove(filepath.Join(w.mnt, f)); err != nil {
			t.Fatal(err)
		}
	}
	w.must("umount", w.mnt)
	w.must("volume", "gc", "v")
	if left := w.objects("v"); len(left) != 0 {
		t.Errorf("after gc: %d blocks are left of %d", len(left), len(before))
	}
	if err := os.MkdirAll(filepath.Dir(before[0]), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(before[0], orphan, 0o600); err != nil {
		t.Fatal(err)
	}
	var g mount.GCResult
	w.mustJSON(&g, "volume", "gc", "v", "--dry-run")
	if g.Orphans != 1 || len(w.objects("v")) != 1 {
		t.Errorf("gc --dry-run: %+v", g)
	}
	w.mustJSON(&g, "volume", "gc", "v")
	if g.Orphans != 1 || len(w.objects("v")) != 0 {
		t.Errorf("gc: %+v", g)
	}
	w.must("fsck", "v")
}

func TestFsckFindsDamage(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.must("volume", "create", "v")
	w.must("mount", "v", w.mnt)
	w.write("damaged", random(t, 300_000))
	w.must("umount", w.mnt)
	first := w.objects("v")
	w.must("mount", "v", w.mnt)
	w.write("missing", random(t, 300_000))
	w.must("umount", w.mnt)

	data, err := os.ReadFile(first[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 0x40
	if err := os.WriteFile(first[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, o := range w.objects("v") {
		known := false
		for _, f := range first {
			known = known || f == o
		}
		if !known {
			if err := os.Remove(o); err != nil {
				t.Fatal(err)
			}
		}
	}
	res := w.run("fsck", "v")
	if res.code != 1 || !strings.Contains(res.out, "/missing lacks data") || strings.Contains(res.out, "/damaged lacks data") {
		t.Errorf("fsck: %+v", res)
	}
	res = w.run("fsck", "v", "--data")
	if res.code != 1 || !strings.Contains(res.out, "/missing lacks data") || !strings.Contains(res.out, "/damaged lacks data") {
		t.Errorf("fsck --data: %+v", res)
	}
	// And reading gives an error, never wrong bytes.
	w.must("mount", "v", w.mnt)
	for _, f := range []string{"damaged", "missing"} {
		if _, err := os.ReadFile(filepath.Join(w.mnt, f)); err == nil {
			t.Errorf("%s can be read", f)
		}
	}
	w.must("umount", w.mnt)
}

func TestSnapshotCloneRestore(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.must("volume", "create", "v")
	w.must("mount", "v", w.mnt)
	if err := os.Mkdir(filepath.Join(w.mnt, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	data := random(t, 200_000)
	w.write("dir/f", data)
	w.write("dir/small", "old")

	w.must("volume", "clone", "v", "/dir", "/copy")
	if w.read("copy/f") != data || w.read("copy/small") != "old" {
		t.Error("the clone differs")
	}
	w.refuse(1, "/copy exists already", "volume", "clone", "v", "/dir", "/copy")
	w.refuse(1, "no such file", "volume", "clone", "v", "/nowhere", "/x")

	w.must("volume", "snapshot", "create", "v", "before")
	w.refuse(1, `there is a snapshot "before" already`, "volume", "snapshot", "create", "v", "before")
	w.write("dir/small", "new")
	if err := os.Remove(filepath.Join(w.mnt, "dir", "f")); err != nil {
		t.Fatal(err)
	}
	var list []meta.Snapshot
	w.mustJSON(&list, "volume", "snapshot", "list", "v")
	if len(list) != 1 || list[0].Name != "before" {
		t.Errorf("snapshots: %+v", list)
	}
	w.must("volume", "restore", "v", "/dir", "/back", "--at-time", "before")
	if w.read("back/f") != data || w.read("back/small") != "old" || w.read("dir/small") != "new" {
		t.Error("the restored files differ")
	}
	w.refuse(1, `there is no snapshot "nix"`, "volume", "restore", "v", "/dir", "/x", "--at-time", "nix")
	w.refuse(2, "--at-time", "volume", "restore", "v", "/dir", "/x")
	w.must("umount", w.mnt)

	// The snapshot as a mount of its own.
	w.must("mount", "v", w.mnt, "--at-time", "before")
	if w.read("dir/f") != data || w.read("dir/small") != "old" {
		t.Error("the mounted snapshot differs")
	}
	if err := os.WriteFile(filepath.Join(w.mnt, "x"), nil, 0o600); err == nil {
		t.Error("the past can be changed")
	}
	w.must("umount", w.mnt)
	w.must("volume", "snapshot", "delete", "v", "before")
	w.refuse(1, `there is no snapshot "before"`, "volume", "snapshot", "delete", "v", "before")
	w.must("fsck", "v", "--data")
}

func TestTrash(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.must("volume", "create", "v", "--retention", "1d")
	w.must("mount", "v", w.mnt)
	data := random(t, 100_000)
	w.write("kept", data)
	w.write("gone", data)
	if out := w.run("volume", "trash", "v"); out.code != 0 || !strings.Contains(out.err, "nothing was removed") {
		t.Errorf("trash of nothing: %+v", out)
	}
	w.must("volume", "snapshot", "create", "v", "all")
	if err := os.Remove(filepath.Join(w.mnt, "gone")); err != nil {
		t.Fatal(err)
	}
	var list []meta.TrashEntry
	w.mustJSON(&list, "volume", "trash", "v")
	if len(list) != 1 || list[0].Path != "/gone" || list[0].Size != 100_000 {
		t.Errorf("trash: %+v", list)
	}
	w.mustJSON(&list, "volume", "trash", "v", "/elsewhere")
	if len(list) != 0 {
		t.Errorf("trash elsewhere: %+v", list)
	}
	w.must("volume", "restore", "v", "/gone", "/gone", "--at-time", "all")
	if w.read("gone") != data {
		t.Error("the file that was brought back differs")
	}
	w.must("umount", w.mnt)
	if out := w.must("fsck", "v", "--repair"); !strings.Contains(out, "volume v is clean") {
		t.Errorf("fsck --repair: %s", out)
	}
}

func TestDumpAndLoad(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.must("volume", "create", "v")
	w.must("mount", "v", w.mnt)
	data := random(t, 200_000)
	w.write("f", data)
	w.write("small", "hello")
	dump := filepath.Join(w.dir, "v.dump")
	w.refuse(1, "lies on the mount itself", "volume", "dump", "v", filepath.Join(w.mnt, "dump"))
	w.must("volume", "dump", "v", dump)
	if info, err := os.Stat(dump); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("dump: %v, %v", info, err)
	}
	w.write("later", data) // of which the dump knows nothing
	w.refuse(1, "exists already", "volume", "load", "v", dump)
	w.refuse(1, "is in use", "volume", "load", "v", dump, "--replace")
	w.must("umount", w.mnt)

	// The metadata is lost.
	metadata := filepath.Join(w.home, "volumes", "v", "meta")
	if err := os.RemoveAll(metadata); err != nil {
		t.Fatal(err)
	}
	before := tree(t, w.dir)
	broken := filepath.Join(w.dir, "broken.dump")
	whole, err := os.ReadFile(dump)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(broken, whole[:len(whole)-5], 0o600); err != nil {
		t.Fatal(err)
	}
	w.refuse(1, "damaged", "volume", "load", "v", broken, "--replace")
	w.refuse(1, "no volume", "volume", "load", "w", dump, "--replace")
	w.refuse(1, "which is here", "volume", "load", "w", dump)
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	after := tree(t, w.dir)
	if len(before) != len(after) {
		t.Errorf("a refusal changed something: %d files instead of %d", len(after), len(before))
	}

	w.must("volume", "load", "v", dump, "--replace")
	w.must("mount", "v", w.mnt)
	if w.read("f") != data || w.read("small") != "hello" {
		t.Error("files differ after loading")
	}
	if _, err := os.Stat(filepath.Join(w.mnt, "later")); err == nil {
		t.Error("the dump knows of later files")
	}
	more := random(t, 100_000)
	w.write("more", more)
	w.must("umount", w.mnt)
	w.must("mount", "v", w.mnt)
	if w.read("more") != more {
		t.Error("a file written after loading differs")
	}
	w.must("umount", w.mnt)
	w.must("fsck", "v", "--data")

	// On a machine that does not know the volume.
	store := filepath.Join(w.home, "volumes", "v", "store")
	w.home = filepath.Join(w.dir, "home2")
	w.env = append(w.env, "MASSIF_HOME="+w.home)
	w.must("volume", "load", "w", dump, "--store", "file://"+store)
	w.must("mount", "w", w.mnt)
	if w.read("f") != data {
		t.Error("files differ on the other machine")
	}
	w.must("umount", w.mnt)
}
