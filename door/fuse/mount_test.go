package fuse_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/massif-fs/massif/door/fuse"
	"github.com/massif-fs/massif/door/fuse/kernel"
	"github.com/massif-fs/massif/tree/local"
)

// needFUSE skips tests that cannot mount here.
func needFUSE(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting in tests needs root")
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
	f.Close()
}

// mountLocal mounts a fresh directory of the host.
func mountLocal(t testing.TB, lo local.Options, o fuse.Options) (mnt, dir string, s *fuse.Server) {
	t.Helper()
	needFUSE(t)
	dir, mnt = t.TempDir(), t.TempDir()
	if o.Logger == nil {
		o.Logger = quiet
	}
	tree, err := local.Open(dir, lo)
	if err != nil {
		t.Fatal(err)
	}
	s, err = fuse.Mount(tree, mnt, o)
	if errors.Is(err, kernel.ErrNoRings) {
		tree.Close()
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Unmount(); err != nil {
			t.Errorf("unmount: %v", err)
			s.Abort()
		}
		if err := tree.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return mnt, dir, s
}

// modes are the ways in which a tree may be mounted.
var modes = []struct {
	name string
	lo   local.Options
	o    fuse.Options
}{
	{"plain", local.Options{}, fuse.Options{Passthrough: fuse.Off}},
	{"passthrough", local.Options{}, fuse.Options{Passthrough: fuse.On}},
	{"exclusive", local.Options{Exclusive: true}, fuse.Options{Stateless: fuse.Off, WritebackCache: fuse.Off, Passthrough: fuse.Off}},
	{"writeback", local.Options{Exclusive: true}, fuse.Options{Stateless: fuse.Off, WritebackCache: fuse.On}},
	{"stateless", local.Options{Exclusive: true}, fuse.Options{}},
	{"stateless-writeback", local.Options{Exclusive: true}, fuse.Options{WritebackCache: fuse.On}},
	{"uring", local.Options{Exclusive: true}, fuse.Options{Transport: fuse.TransportURing}},
	{"uring-stateful", local.Options{Exclusive: true}, fuse.Options{Stateless: fuse.Off, Transport: fuse.TransportURing}},
}

func TestSmoke(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			mnt, dir, s := mountLocal(t, m.lo, m.o)
			p := filepath.Join(mnt, "a", "b")
			if err := os.MkdirAll(p, 0o755); err != nil {
				t.Fatal(err)
			}
			want := bytes.Repeat([]byte("massif"), 100_000)
			name := filepath.Join(p, "file")
			if err := os.WriteFile(name, want, 0o444); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(name)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("read back %d bytes, %v", len(got), err)
			}
			got, err = os.ReadFile(filepath.Join(dir, "a", "b", "file"))
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("on the host: %d bytes, %v", len(got), err)
			}
			entries, err := os.ReadDir(p)
			if err != nil || len(entries) != 1 || entries[0].Name() != "file" {
				t.Fatalf("listing %v, %v", entries, err)
			}
			if err := os.Rename(name, name+"2"); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(filepath.Join(mnt, "a")); err != nil {
				t.Fatal(err)
			}
			st := s.Stats()
			t.Logf("%+v", st)
		})
	}
}
