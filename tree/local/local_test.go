package local_test

import (
	"os"
	"sync"
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

// factory makes trees of fresh directories.
func factory(opts local.Options, dir func(testing.TB) string) vfstest.Factory {
	var mu sync.Mutex
	dirs := map[vfs.FS]string{}
	open := func(t testing.TB, dir string, o local.Options) vfs.FS {
		fs, err := local.Open(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { fs.Close() })
		mu.Lock()
		dirs[fs] = dir
		mu.Unlock()
		return fs
	}
	again := func(t testing.TB, fs vfs.FS, o local.Options) vfs.FS {
		mu.Lock()
		dir := dirs[fs]
		mu.Unlock()
		if err := fs.Close(); err != nil {
			t.Fatal(err)
		}
		return open(t, dir, o)
	}
	ro := opts
	ro.ReadOnly = true
	return vfstest.Factory{
		New:      func(t testing.TB) vfs.FS { return open(t, dir(t), opts) },
		Reopen:   func(t testing.TB, fs vfs.FS) vfs.FS { return again(t, fs, opts) },
		ReadOnly: func(t testing.TB, fs vfs.FS) vfs.FS { return again(t, fs, ro) },
		Lacks: map[vfstest.Feature]string{
			vfstest.Feed: "the host does not tell it of changes",
		},
	}
}

func TestConformance(t *testing.T) {
	vfstest.Run(t, factory(local.Options{}, testing.TB.TempDir))
}

// With next to no room each call has to find its inode again.
func TestConformanceFewDescriptors(t *testing.T) {
	f := factory(local.Options{MaxDescriptors: 1}, local.MemoryDir)
	f.Lacks[vfstest.ZeroRange] = "tmpfs has not"
	vfstest.Run(t, f)
}
