package fuse_test

import (
	"os"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/tree/local"
	"github.com/massif-fs/massif/vfs"
	"github.com/massif-fs/massif/vfs/vfstest"
)

func TestMain(m *testing.M) {
	syscall.Umask(0) // as programs that serve trees do
	os.Exit(m.Run())
}

// TestMounted runs the mounted suite in every mode.
func TestMounted(t *testing.T) {
	needFUSE(t)
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			vfstest.RunMounted(t, vfstest.Mounted{
				Mount: func(t testing.TB) string {
					o := mode.o
					o.AllowOther = true
					mnt, _, _ := mountLocal(t, mode.lo, o)
					return mnt
				},
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
				Lacks: map[vfstest.Feature]string{vfstest.Feed: "the host does not tell it of changes"},
			})
		})
	}
}
