package cli

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/massif-fs/massif/mount"
)

func TestVolumeLife(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	if out := w.run("volume", "list"); out.code != 0 || !strings.Contains(out.err, "there are no volumes") {
		t.Errorf("list of nothing: %+v", out)
	}
	w.must("volume", "create", "photos", "--block-size", "1MiB", "--compression", "zstd", "--retention", "7d")
	var list []volumeRow
	w.mustJSON(&list, "volume", "list")
	if len(list) != 1 || list[0].Name != "photos" || list[0].Mounted != "" {
		t.Errorf("list: %+v", list)
	}
	record := filepath.Join(w.home, "volumes", "photos", "volume.json")
	if info, err := os.Stat(record); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("record: %v, %v", info, err)
	}

	w.must("mount", "photos", w.mnt)
	big := make([]byte, 3<<20+17)
	rand.Read(big)
	w.write("big", string(big))
	w.write("small", "hello")
	if err := os.Mkdir(filepath.Join(w.mnt, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}

	// The same questions, answered by the mount and, later, without one.
	ask := func() (info mount.VolumeInfo) {
		t.Helper()
		w.mustJSON(&info, "volume", "info", "photos")
		if info.Settings.ChunkSize != 1<<20 || info.Settings.Compression != "zstd" || mount.Duration(info.Settings.Retention).String() != "7d" {
			t.Errorf("info: %+v", info.Settings)
		}
		if out := w.must("volume", "info", "photos"); !strings.Contains(out, "zstd") {
			t.Errorf("info: %s", out)
		}
		if out := w.must("volume", "df"); !strings.Contains(out, "photos") {
			t.Errorf("df: %s", out)
		}
		return info
	}
	w.mustJSON(&list, "volume", "list")
	if list[0].Mounted != w.mnt {
		t.Errorf("list: %+v", list)
	}
	ask()
	w.refuse(1, "is in use", "volume", "delete", "photos", "--yes")
	other := filepath.Join(w.dir, "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	w.refuse(1, "has it mounted at "+w.mnt, "mount", "photos", other)

	w.must("umount", w.mnt)
	info := ask()
	if info.Usage.Inodes != 4 || info.Usage.Bytes < int64(len(big)) {
		t.Errorf("usage: %+v", info.Usage)
	}
	w.must("mount", "photos", w.mnt, "-o", "ro")
	if w.read("big") != string(big) || w.read("small") != "hello" {
		t.Error("files differ after mounting again")
	}
	w.must("umount", w.mnt)

	w.refuse(2, "confirm it with --yes", "volume", "delete", "photos")
	w.must("volume", "delete", "photos", "--yes")
	w.refuse(1, "there is no volume", "volume", "info", "photos")
	if left := tree(t, filepath.Join(w.home, "volumes")); !cmp.Equal(left, map[string]string{"./": "", ".lock": ""}) {
		t.Errorf("left behind: %v", left)
	}
}

// A deletion that was interrupted is finished by repeating it; meanwhile the volume
// cannot be used. Leftovers of interrupted creations go with the next one.
func TestInterruptedDeletion(t *testing.T) {
	w := newWorld(t)
	w.must("volume", "create", "v")
	record := filepath.Join(w.home, "volumes", "v", "volume.json")
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	deleting := strings.Replace(string(text), "{", `{"deleting": true,`, 1)
	if err := os.WriteFile(record, []byte(deleting), 0o600); err != nil {
		t.Fatal(err)
	}
	w.refuse(1, "is being deleted", "mount", "v", w.mnt)
	w.refuse(1, "is being deleted", "volume", "info", "v")
	if out := w.must("volume", "list"); !strings.Contains(out, "(being deleted)") {
		t.Errorf("list: %s", out)
	}
	leftover := filepath.Join(w.home, "volumes", ".new-x-123", "meta")
	if err := os.MkdirAll(leftover, 0o700); err != nil {
		t.Fatal(err)
	}
	w.must("volume", "delete", "v", "--yes")
	if left := tree(t, filepath.Join(w.home, "volumes")); !cmp.Equal(left, map[string]string{"./": "", ".lock": ""}) {
		t.Errorf("left behind: %v", left)
	}
}

func TestVolumeElsewhere(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	store, meta := filepath.Join(w.dir, "disk2", "a store"), filepath.Join(w.dir, "ssd", "meta")
	w.must("volume", "create", "v", "--store", "file://"+strings.ReplaceAll(store, " ", "%20"), "--meta", "pebble://"+meta)
	w.must("mount", "v", w.mnt)
	w.write("f", strings.Repeat("x", 100_000))
	w.must("umount", w.mnt)

	// What is in use by a volume is refused for another, and not touched.
	before := tree(t, w.dir)
	w.refuse(1, `belongs to volume "v"`, "volume", "create", "w", "--store", "file://"+strings.ReplaceAll(store, " ", "%20"))
	w.refuse(1, "is not empty", "volume", "create", "w", "--meta", "pebble://"+meta)
	if diff := cmp.Diff(before, tree(t, w.dir)); diff != "" {
		t.Errorf("a refusal changed something:\n%s", diff)
	}
	w.must("volume", "delete", "v", "--yes")
	for _, dir := range []string{store, meta} {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", dir, err)
		}
	}
	if _, err := os.Stat(filepath.Join(w.dir, "disk2")); err != nil {
		t.Errorf("a directory of others is gone: %v", err)
	}
}

func TestVolumeCreateRefuses(t *testing.T) {
	w := newWorld(t)
	w.must("volume", "create", "photos")
	foreign := filepath.Join(w.dir, "foreign")
	if err := os.Mkdir(foreign, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(foreign, "thesis.txt"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(foreign, "thesis.txt")
	before := tree(t, w.dir)
	w.refuse(1, "volume photos exists already", "volume", "create", "photos")
	w.refuse(2, "use a power of two from 256KiB to 8MiB", "volume", "create", "x", "--block-size", "3MiB")
	w.refuse(2, "use a power of two from 256KiB to 8MiB", "volume", "create", "x", "--block-size", "128KiB")
	w.refuse(2, "write a number with a unit", "volume", "create", "x", "--block-size", "big")
	w.refuse(2, "use lz4, zstd or none", "volume", "create", "x", "--compression", "gzip")
	w.refuse(2, "use at most 64KiB", "volume", "create", "x", "--inline-limit", "1MiB")
	w.refuse(2, "write a number with a unit", "volume", "create", "x", "--retention", "7")
	w.refuse(2, "letters, digits", "volume", "create", "../x")
	w.refuse(2, "letters, digits", "volume", "create", "")
	w.refuse(2, "NAME is missing", "volume", "create")
	w.refuse(2, "", "volume", "create", "x", "--store", "ftp://host/x")
	w.refuse(2, "", "volume", "create", "x", "--store", "s3://")
	w.refuse(2, "mem:// store ends with the process", "volume", "create", "x", "--store", "mem://x")
	w.refuse(2, "", "volume", "create", "x", "--store", "s3://key:secret@bucket/x")
	w.refuse(2, "known is pebble:///DIR", "volume", "create", "x", "--meta", "redis://localhost")
	w.refuse(2, "three slashes", "volume", "create", "x", "--meta", "pebble://host/dir")
	w.refuse(1, "is not empty", "volume", "create", "x", "--store", "file://"+foreign)
	w.refuse(1, "is not empty", "volume", "create", "x", "--meta", "pebble://"+foreign)
	w.refuse(1, "not a directory", "volume", "create", "x", "--store", "file://"+file+"/y")
	w.refuse(1, "not a directory", "volume", "create", "x", "--meta", "pebble://"+file+"/y")
	w.refuse(1, "", "volume", "create", "x", "--store", "s3://bucket/x?endpoint=http://127.0.0.1:1&region=x&anonymous=true")
	if diff := cmp.Diff(before, tree(t, w.dir)); diff != "" {
		t.Errorf("a refusal changed something:\n%s", diff)
	}
}

func TestDamagedVolume(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	for name, damage := range map[string]func(dir string) error{
		"meta gone": func(dir string) error { return os.RemoveAll(filepath.Join(dir, "meta")) },
		"meta empty": func(dir string) error {
			if err := os.RemoveAll(filepath.Join(dir, "meta")); err != nil {
				return err
			}
			return os.Mkdir(filepath.Join(dir, "meta"), 0o700)
		},
		"meta garbled": func(dir string) error {
			files, err := filepath.Glob(filepath.Join(dir, "meta", "MANIFEST-*"))
			if err != nil || len(files) == 0 {
				t.Fatalf("no manifest: %v", err)
			}
			for _, f := range files {
				if err := os.WriteFile(f, []byte("not a manifest"), 0o600); err != nil {
					return err
				}
			}
			return nil
		},
		"store gone":    func(dir string) error { return os.RemoveAll(filepath.Join(dir, "store")) },
		"store swapped": func(dir string) error { return os.Remove(filepath.Join(dir, "store", "massif-volume.json")) },
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.must("volume", "create", "v")
			dir := filepath.Join(w.home, "volumes", "v")
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			before := tree(t, dir)
			w.refuse(1, "volume v", "mount", "v", w.mnt)
			if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
				t.Errorf("the attempt changed something:\n%s", diff)
			}
			if w.mounted(w.mnt) {
				t.Error("mounted")
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestQuota(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.must("volume", "create", "v")
	w.must("mount", "v", w.mnt)
	if err := os.MkdirAll(filepath.Join(w.mnt, "raw", "deep"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.must("volume", "quota", "set", "v", "/raw/deep", "--bytes", "1MiB")
	w.must("volume", "quota", "set", "v", "/", "--inodes", "5")
	var quotas []mount.QuotaEntry
	w.mustJSON(&quotas, "volume", "quota", "list", "v")
	if len(quotas) != 2 || quotas[0].Path != "/" || quotas[0].Inodes != 5 || quotas[1].Path != "/raw/deep" || quotas[1].Bytes != 1<<20 {
		t.Errorf("quotas: %+v", quotas)
	}
	err := os.WriteFile(filepath.Join(w.mnt, "raw", "deep", "big"), make([]byte, 2<<20), 0o644)
	if err == nil || !strings.Contains(err.Error(), "quota exceeded") {
		t.Errorf("write beyond the quota: %v", err)
	}
	w.must("umount", w.mnt)
	w.must("volume", "quota", "remove", "v", "/raw/deep")
	w.refuse(1, "has no quota", "volume", "quota", "remove", "v", "/raw/deep")
	w.refuse(1, "no such file", "volume", "quota", "set", "v", "/nowhere", "--bytes", "1M")
	w.refuse(2, "give --bytes or --inodes", "volume", "quota", "set", "v", "/raw")
	w.must("volume", "set", "v", "--quota-inodes", "0", "--compression", "none")
	w.mustJSON(&quotas, "volume", "quota", "list", "v")
	if len(quotas) != 0 {
		t.Errorf("quotas: %+v", quotas)
	}
	w.refuse(2, "name a setting", "volume", "set", "v")
	w.refuse(1, "use lz4, zstd or none", "volume", "set", "v", "--compression", "gzip")
}

func TestWriteback(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.must("volume", "create", "v")
	w.must("mount", "v", w.mnt, "--writeback")
	data := strings.Repeat("0123456789abcdef", 20_000)
	w.write("f", data)
	f, err := os.Open(filepath.Join(w.mnt, "f"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	running, _, err := mount.Find(w.mnt)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := os.FindProcess(running.PID); err != nil || p.Kill() != nil {
		t.Fatal("kill")
	}
	eventually(t, "the server's end", func() bool { return mount.IsDead(w.mnt) })
	// Without write-back: what lay in the journal is uploaded first.
	w.must("mount", "v", w.mnt)
	if w.read("f") != data {
		t.Error("fsynced data is lost")
	}
	w.must("umount", w.mnt)
	if _, err := os.Stat(filepath.Join(w.home, "volumes", "v", "journal")); !os.IsNotExist(err) {
		t.Errorf("the journal is still there: %v", err)
	}
}
