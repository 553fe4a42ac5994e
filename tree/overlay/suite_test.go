package overlay_test

import (
	"syscall"
	"testing"

	"go.uber.org/goleak"

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

func TestSuite(t *testing.T) {
	for name, limit := range map[string]int64{"free": 0, "limited": 4 << 30} {
		t.Run(name, func(t *testing.T) {
			dirs := map[vfs.FS][2]string{}
			open := func(t testing.TB, upper, lower string) vfs.FS {
				fs := join(t, upper, lower, overlay.Options{Limit: limit})
				dirs[fs] = [2]string{upper, lower}
				return fs
			}
			vfstest.Run(t, vfstest.Factory{
				New: func(t testing.TB) vfs.FS { return open(t, t.TempDir(), t.TempDir()) },
				Reopen: func(t testing.TB, fs vfs.FS) vfs.FS {
					if err := fs.Close(); err != nil {
						t.Fatal(err)
					}
					return open(t, dirs[fs][0], dirs[fs][1])
				},
				Lacks: map[vfstest.Feature]string{
					vfstest.Feed:      "nobody else changes the trees, and a door knows of its own changes",
					vfstest.CopyRange: "the upper tree's own files are not seen by the caller",
				},
			})
		})
	}
}
