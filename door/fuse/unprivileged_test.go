package fuse_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/door/fuse"
	"github.com/massif-fs/massif/tree/local"
)

const unprivilegedVar = "MASSIF_TEST_UNPRIVILEGED"

// TestUnprivileged mounts without root, through fusermount3: in a child process
// of the user nobody, whose part is the first half.
func TestUnprivileged(t *testing.T) {
	if base := os.Getenv(unprivilegedVar); base != "" {
		for _, exclusive := range []bool{false, true} {
			tree, err := local.Open(filepath.Join(base, "dir"), local.Options{Exclusive: exclusive})
			if err != nil {
				t.Fatal(err)
			}
			mnt := filepath.Join(base, "mnt")
			s, err := fuse.Mount(tree, mnt, fuse.Options{})
			if err != nil {
				t.Fatal(err)
			}
			want := bytes.Repeat([]byte("unprivileged"), 100_000)
			p := filepath.Join(mnt, "f")
			if err := os.WriteFile(p, want, 0o644); err != nil {
				t.Error(err)
			}
			if got, err := os.ReadFile(p); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if l, err := os.ReadDir(mnt); err != nil || len(l) != 1 {
				t.Errorf("%v, %v", l, err)
			}
			f, err := os.Open(p)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Unmount(); err == nil {
				t.Error("unmounted with an open file")
			}
			f.Close()
			if err := os.Remove(p); err != nil {
				t.Error(err)
			}
			if err := s.Unmount(); err != nil {
				t.Error(err)
			}
			tree.Close()
		}
		return
	}

	needFUSE(t)
	if _, err := exec.LookPath("fusermount3"); err != nil {
		t.Skip(err)
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	uid, _ := strconv.Atoi(nobody.Uid)
	gid, _ := strconv.Atoi(nobody.Gid)
	base, err := os.MkdirTemp("", "unprivileged")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	for _, dir := range []string{base, filepath.Join(base, "dir"), filepath.Join(base, "mnt")} {
		os.Mkdir(dir, 0o755)
		os.Chmod(dir, 0o755)
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	// The test binary lies where others may not go.
	bin := filepath.Join(base, "test")
	copyFile(t, os.Args[0], bin)
	child := exec.Command(bin, "-test.run=^TestUnprivileged$", "-test.v")
	child.Env = append(os.Environ(), unprivilegedVar+"="+base)
	child.Dir = base
	child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(dst, src); err != nil {
		t.Fatal(err)
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestPassthrough: the kernel reads and writes the host's files itself, and all
// handles of a file agree.
func TestPassthrough(t *testing.T) {
	mnt, dir, s := mountLocal(t, local.Options{}, fuse.Options{Passthrough: fuse.On})
	if !s.Stats().Passthrough {
		t.Skip("the kernel has no passthrough")
	}
	p := filepath.Join(mnt, "f")
	want := bytes.Repeat([]byte("direct"), 200_000)
	if err := os.WriteFile(p, want, 0o644); err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	for _, flags := range []int{os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDWR | syscall.O_DIRECT} {
		f, err := os.OpenFile(p, flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if _, err := files[2].WriteString("appended"); err != nil {
		t.Fatal(err)
	}
	want = append(want, "appended"...)
	files[0].Close()
	files[0] = nil
	f, err := os.Open(p) // joins those that are open
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if fi, err := os.Stat(p); err != nil || fi.Size() != int64(len(want)) {
		t.Errorf("%v, %v", fi, err)
	}
	for _, f := range append(files, f) {
		if f != nil {
			f.Close()
		}
	}
	for _, op := range s.Stats().Ops {
		if op.Op == "read" || op.Op == "write" {
			t.Errorf("%d messages %s", op.Count, op.Op)
		}
	}
	if got, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("on the host %d bytes, %v", len(got), err)
	}
}
