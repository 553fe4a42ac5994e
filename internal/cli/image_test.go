package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/mount"
)

// imageWorld makes a directory with some content and an image of it.
func imageWorld(t *testing.T, name string) (w *world, source, image string) {
	t.Helper()
	w = newWorld(t)
	source, image = filepath.Join(w.dir, "source"), filepath.Join(w.dir, name)
	for _, d := range []string{"", "bin", "etc"} {
		if err := os.Mkdir(filepath.Join(source, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for file, data := range map[string][]byte{
		"etc/config": []byte("setting=1\n"), "etc/other": []byte("x"), "bin/large": bytes.Repeat([]byte("0123456789abcdef"), 100_000),
	} {
		if err := os.WriteFile(filepath.Join(source, file), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("config", filepath.Join(source, "etc/link")); err != nil {
		t.Fatal(err)
	}
	w.must("image", "pack", source, image, "--store", "dir://"+filepath.Join(w.dir, "blocks"), "--tag", "author=me")
	return w, source, image
}

func TestImageCommands(t *testing.T) {
	for _, name := range []string{"i.fl", "i.flist"} {
		w, source, image := imageWorld(t, name)
		var info imageInfo
		w.mustJSON(&info, "image", "inspect", image)
		if info.Files != 3 || info.Directories != 3 || info.Links != 1 || info.Bytes != 1_600_011 || info.Tags["author"] != "me" || len(info.Stores) != 1 {
			t.Errorf("%s: %+v", name, info)
		}
		if out := w.must("image", "tree", image); !strings.Contains(out, "/etc/link -> config") || strings.Count(out, "\n") != 7 {
			t.Errorf("%s: %s", name, out)
		}
		if out := w.must("image", "verify", image); !strings.Contains(out, "7 names") {
			t.Errorf("%s: %s", name, out)
		}
		out := filepath.Join(w.dir, "out")
		w.must("image", "unpack", image, out)
		for _, file := range []string{"etc/config", "bin/large"} {
			a, _ := os.ReadFile(filepath.Join(source, file))
			if b, err := os.ReadFile(filepath.Join(out, file)); err != nil || !bytes.Equal(a, b) {
				t.Errorf("%s: %s: %v", name, file, err)
			}
		}
		w.refuse(1, "exists", "image", "pack", source, image, "--store", "dir://"+filepath.Join(w.dir, "blocks"))
		w.refuse(1, "directory not empty", "image", "unpack", image, out)
		w.refuse(2, "name at least one block store", "image", "pack", source, image+"2")
		w.refuse(1, "unknown kind of block store", "image", "verify", image, "--store", "ftp://x")
		w.refuse(1, "neither an .fl nor an .flist", "image", "inspect", filepath.Join(source, "etc/config"))
		// A block that is gone is found, and named.
		blocks, err := filepath.Glob(filepath.Join(w.dir, "blocks", "*", "*"))
		if err != nil || len(blocks) == 0 {
			t.Fatal(blocks, err)
		}
		if err := os.Remove(blocks[0]); err != nil {
			t.Fatal(err)
		}
		w.refuse(1, "problems", "image", "verify", image)
	}
}

func TestMountImage(t *testing.T) {
	needFUSE(t)
	for _, name := range []string{"i.fl", "i.flist"} {
		w, source, image := imageWorld(t, name)
		w.must("mount", image, w.mnt)
		if got := w.read("etc/config"); got != "setting=1\n" {
			t.Errorf("%s: %q", name, got)
		}
		a, _ := os.ReadFile(filepath.Join(source, "bin/large"))
		if b := w.read("bin/large"); b != string(a) {
			t.Errorf("%s: %d bytes", name, len(b))
		}
		if target, err := os.Readlink(filepath.Join(w.mnt, "etc/link")); err != nil || target != "config" {
			t.Error(target, err)
		}
		if err := os.WriteFile(filepath.Join(w.mnt, "new"), nil, 0o644); !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: writing: %v", name, err)
		}
		var st mount.Stats
		w.mustJSON(&st, "stats", w.mnt)
		if st.Tree["image"] == nil {
			t.Errorf("%s: stats %+v", name, st.Tree)
		}
		w.must("umount", w.mnt)
		w.refuse(1, "is not the one that was asked for", "mount", image, w.mnt, "--sha256", strings.Repeat("0", 64))
		w.refuse(2, "64 hexadecimal digits", "mount", image, w.mnt, "--sha256", "12")
		w.refuse(2, "--size is the limit of a layer", "mount", image, w.mnt, "--size", "1GiB")
	}
}

func TestMountLayer(t *testing.T) {
	needFUSE(t)
	needRoot(t)
	w, _, image := imageWorld(t, "i.fl")
	const size = 4 << 20
	w.must("mount", image, w.mnt, "--layer", "one", "--size", fmt.Sprint(size))
	w.write("etc/config", "setting=2\n")
	w.write("etc/new", "new")
	if err := os.Remove(filepath.Join(w.mnt, "etc/other")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(w.mnt, "bin"), filepath.Join(w.mnt, "sbin")); err != nil {
		t.Fatal(err)
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(w.mnt, &st); err != nil || st.Blocks*uint64(st.Bsize) != size {
		t.Errorf("df shows %d bytes, %v", st.Blocks*uint64(st.Bsize), err)
	}
	err := os.WriteFile(filepath.Join(w.mnt, "full"), make([]byte, 2*size), 0o644)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writing more than fits: %v", err)
	}
	if err := os.Remove(filepath.Join(w.mnt, "full")); err != nil {
		t.Errorf("removing from a full layer: %v", err)
	}
	second := filepath.Join(w.dir, "mnt2")
	if err := os.Mkdir(second, 0o755); err != nil {
		t.Fatal(err)
	}
	w.refuse(1, "in use by another mount", "mount", image, second, "--layer", "one")
	w.must("umount", w.mnt)
	// A larger limit, and everything is still there.
	w.must("mount", image, w.mnt, "--layer", "one", "--size", fmt.Sprint(2*size))
	if got := w.read("etc/config") + w.read("etc/new"); got != "setting=2\nnew" {
		t.Errorf("%q", got)
	}
	if _, err := os.Stat(filepath.Join(w.mnt, "etc/other")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a removed file: %v", err)
	}
	if got := w.read("sbin/large"); len(got) != 1_600_000 {
		t.Errorf("%d bytes", len(got))
	}
	w.must("umount", w.mnt)
	// The image itself is as it was; a temporary layer goes with its mount.
	w.must("mount", image, w.mnt, "--writable")
	if got := w.read("etc/config"); got != "setting=1\n" {
		t.Errorf("%q", got)
	}
	w.write("etc/config", "gone soon")
	w.must("umount", w.mnt)
	left, err := os.ReadDir(filepath.Join(w.home, "layers"))
	if err != nil || len(left) != 1 || left[0].Name() != "one" {
		t.Errorf("layers: %v, %v", left, err)
	}
	// A layer belongs to one image.
	other := filepath.Join(w.dir, "other.fl")
	w.must("image", "pack", w.mnt, other, "--store", "dir://"+filepath.Join(w.dir, "blocks"))
	w.refuse(1, "belongs to another lower one", "mount", other, w.mnt, "--layer", "one")
	w.refuse(2, "contradict each other", "mount", image, w.mnt, "--layer", "one", "-o", "ro")
	w.refuse(2, "it can change", "mount", "photos", w.mnt, "--writable")
}
