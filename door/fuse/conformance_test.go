package fuse_test

import (
	"os"
	"slices"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/door/fuse"
	"github.com/massif-fs/massif/tree/local"
	"github.com/massif-fs/massif/vfs"
	"github.com/massif-fs/massif/vfs/vfstest"
)

func TestMain(m *testing.M) {
	syscall.Umask(0) // as programs that serve trees do
	os.Exit(m.Run())
}

// lacks tells what a tree loses in a mode.
func lacks(o fuse.Options, more map[vfstest.Feature]string) map[vfstest.Feature]string {
	if more == nil {
		more = map[vfstest.Feature]string{}
	}
	if o.WritebackCache == fuse.On {
		more[vfstest.SeekHoles] = "the tree does not know of the kernel's dirty pages, so all of a file counts as data"
	}
	return more
}

// some leaves out modes that others nearly cover, unless MASSIF_ALL_MODES is set;
// with -short all but the first.
func some(t *testing.T, mode string, names ...string) {
	if testing.Short() {
		names = names[:1]
	}
	if os.Getenv("MASSIF_ALL_MODES") == "" && !slices.Contains(names, mode) {
		t.Skip("only with MASSIF_ALL_MODES=1")
	}
}

// TestMounted runs the mounted suite in the modes.
func TestMounted(t *testing.T) {
	needFUSE(t)
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			some(t, mode.name, "stateless", "passthrough", "stateless-writeback", "uring")
			vfstest.RunMounted(t, vfstest.Mounted{
				Mount: func(t testing.TB) string {
					o := mode.o
					o.AllowOther = true
					mnt, _, _ := mountLocal(t, mode.lo, o)
					return mnt
				},
				Lacks: lacks(mode.o, nil),
			})
		})
	}
}

// TestThroughDoor runs the suite for trees on a tree that is itself the mount of
// another: every call goes through the kernel.
func TestThroughDoor(t *testing.T) {
	needFUSE(t)
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			some(t, mode.name, "stateless", "plain", "uring")
			vfstest.Run(t, vfstest.Factory{
				New: func(t testing.TB) vfs.FS {
					mnt, _, _ := mountLocal(t, mode.lo, mode.o)
					fs, err := local.Open(mnt, local.Options{})
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { fs.Close() })
					return fs
				},
				Lacks: lacks(mode.o, map[vfstest.Feature]string{vfstest.Feed: "the host does not tell it of changes"}),
			})
		})
	}
}
