package namespace_test

import (
	"context"
	"os"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/massif-fs/massif/door/fuse"
	"github.com/massif-fs/massif/tree/local"
	"github.com/massif-fs/massif/tree/namespace"
	"github.com/massif-fs/massif/vfs"
	"github.com/massif-fs/massif/vfs/vfstest"
)

func TestMain(m *testing.M) {
	syscall.Umask(0) // as programs that serve trees do
	goleak.VerifyTestMain(m)
}

// localStorage is a directory as a storage.
func localStorage(dir string, o local.Options) namespace.Storage {
	return namespace.Storage{Open: func(context.Context) (*namespace.Backend, error) {
		fs, err := local.Open(dir, o)
		if err != nil {
			return nil, err
		}
		return &namespace.Backend{FS: fs}, nil
	}}
}

// mountAll mounts each storage at its paths and fails if one is refused.
func mountAll(t testing.TB, ns *namespace.FS, items ...namespace.Item) []int {
	t.Helper()
	ids, errs := ns.Mount(context.Background(), items, false)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return ids
}

// factory makes namespaces with one storage, mounted at path.
func factory(path string) vfstest.Factory {
	var mu sync.Mutex
	dirs := map[vfs.FS]string{}
	open := func(t testing.TB, dir string, o namespace.Options) vfs.FS {
		ns := namespace.New(o)
		t.Cleanup(func() { ns.Close() })
		mountAll(t, ns, namespace.Item{Paths: []string{path}, Storage: localStorage(dir, local.Options{})})
		mu.Lock()
		dirs[ns] = dir
		mu.Unlock()
		return ns
	}
	again := func(t testing.TB, fs vfs.FS, o namespace.Options) vfs.FS {
		mu.Lock()
		dir := dirs[fs]
		mu.Unlock()
		if err := fs.Close(); err != nil {
			t.Fatal(err)
		}
		return open(t, dir, o)
	}
	return vfstest.Factory{
		New:      func(t testing.TB) vfs.FS { return open(t, t.TempDir(), namespace.Options{}) },
		Reopen:   func(t testing.TB, fs vfs.FS) vfs.FS { return again(t, fs, namespace.Options{}) },
		ReadOnly: func(t testing.TB, fs vfs.FS) vfs.FS { return again(t, fs, namespace.Options{ReadOnly: true}) },
		Lacks:    map[vfstest.Feature]string{vfstest.NarrowInos: "the storage's slot stands above the 48 bits"},
	}
}

func TestConformance(t *testing.T) { vfstest.Run(t, factory("/")) }

func TestConformanceMounted(t *testing.T) {
	if os.Getenv("VFSTEST_MOUNTPOINT") == "" {
		if _, err := os.Stat("/dev/fuse"); err != nil {
			t.Skip("there is no /dev/fuse")
		}
	}
	vfstest.RunMounted(t, vfstest.Mounted{
		Mount: func(t testing.TB) string {
			point := t.TempDir()
			fs := factory("/").New(t)
			s, err := fuse.Mount(fs, point, fuse.Options{AllowOther: os.Geteuid() == 0})
			if err != nil {
				if os.Geteuid() != 0 || os.Getenv("MASSIF_REQUIRE_TOOLS") == "" {
					t.Skip("mount: ", err)
				}
				t.Fatal(err)
			}
			t.Cleanup(func() {
				s.Detach()
				s.Wait()
			})
			return point
		},
		Lacks: map[vfstest.Feature]string{vfstest.ACLs: "the root, which doors ask, keeps none"},
	})
}
