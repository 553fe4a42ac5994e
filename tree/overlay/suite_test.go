package overlay_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/tree/local"
	"github.com/massif-fs/massif/tree/overlay"
	"github.com/massif-fs/massif/vfs"
	"github.com/massif-fs/massif/vfs/vfstest"
)

func TestMain(m *testing.M) {
	syscall.Umask(0)
	goleak.VerifyTestMain(m)
}

func localTree(t testing.TB, dir string, readOnly bool) *local.FS {
	t.Helper()
	fs, err := local.Open(dir, local.Options{Exclusive: true, ReadOnly: readOnly})
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

func join(t testing.TB, upper, lower string, o overlay.Options) *overlay.FS {
	t.Helper()
	o.Volatile = true
	fs, err := overlay.New(t.Context(), localTree(t, upper, false), localTree(t, lower, true), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fs.Close(); err != nil {
			t.Error(err)
		}
	})
	return fs
}

// scratch makes a directory in memory where there is a tmpfs that keeps what a layer
// needs: a busy disk makes these tests slow.
func scratch(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "massif-overlay-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if unix.Setxattr(dir, "user.test", []byte("x"), 0) != nil || unix.Mknod(filepath.Join(dir, "w"), unix.S_IFCHR, 0) != nil {
		return t.TempDir()
	}
	if err := errors.Join(unix.Removexattr(dir, "user.test"), os.Remove(filepath.Join(dir, "w"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestSuite(t *testing.T) {
	for _, c := range []struct {
		name  string
		limit int64
		short bool
		dir   func(testing.TB) string
	}{
		{"free", 0, false, func(t testing.TB) string { return t.TempDir() }},
		{"limited", 4 << 30, true, scratch},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && !c.short {
				t.Skip("the other one is enough for a short test")
			}
			limit := c.limit
			dirs := map[vfs.FS][2]string{}
			open := func(t testing.TB, upper, lower string) vfs.FS {
				fs := join(t, upper, lower, overlay.Options{Limit: limit})
				dirs[fs] = [2]string{upper, lower}
				return fs
			}
			vfstest.Run(t, vfstest.Factory{
				New: func(t testing.TB) vfs.FS { return open(t, c.dir(t), c.dir(t)) },
				Reopen: func(t testing.TB, fs vfs.FS) vfs.FS {
					if err := fs.Close(); err != nil {
						t.Fatal(err)
					}
					return open(t, dirs[fs][0], dirs[fs][1])
				},
				Lacks: map[vfstest.Feature]string{
					vfstest.Feed:      "nobody else changes the trees, and a door knows of its own changes",
					vfstest.ZeroRange: "tmpfs has not",
					vfstest.CopyRange: "the upper tree's own files are not seen by the caller",
				},
			})
		})
	}
}
