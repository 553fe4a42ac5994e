package shared

import (
	"os"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/posix"
	"github.com/massif-fs/massif/vfs"
	"github.com/massif-fs/massif/vfs/vfstest"
)

// TestSuite runs the conformance suite on a client beside others.
func TestSuite(t *testing.T) {
	vfstest.Run(t, vfstest.Factory{
		New: func(t testing.TB) vfs.FS { return newCluster(t, 2).clients[0].fs },
		Pair: func(t testing.TB) (one, two vfs.FS) {
			c := newCluster(t, 2)
			return c.clients[0].fs, c.clients[1].fs
		},
	})
}

// TestSuiteMounted runs it on a mount beside others, through the kernel.
func TestSuiteMounted(t *testing.T) {
	if os.Getenv(mountsVar) == "" {
		needFUSE(t)
	}
	vfstest.RunMounted(t, vfstest.Mounted{
		Mount: func(t testing.TB) string {
			c := newCluster(t, 2)
			c.mount(c.clients[1])
			return c.mount(c.clients[0])
		},
	})
}

// TestPosix runs pjdfstest (see doc/posix.md) on a mount while another one looks at
// everything that comes and goes, so that all of it is leased twice and recalled.
func TestPosix(t *testing.T) {
	suite := os.Getenv("MASSIF_PJDFSTEST")
	if suite == "" {
		t.Skip("MASSIF_PJDFSTEST does not name the built suite, see doc/posix.md")
	}
	onMounts(t, 2, func(t *testing.T, dirs []string) {
		done, watched := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(watched)
			for {
				select {
				case <-done:
					return
				case <-time.After(20 * time.Millisecond):
					look(dirs[1], 4)
				}
			}
		}()
		report, err := posix.Run(t.Context(), posix.Config{Suite: suite, Dir: dirs[0]})
		close(done)
		<-watched
		check(t, err)
		all, failed := report.Cases()
		t.Logf("%d cases, %d failed", all, failed)
		for _, f := range report.Bad() {
			t.Errorf("%s: %s %v", f.Name, f.Problem, f.Failed)
		}
	})
}

// look lists and stats what is below a directory; what goes meanwhile does not matter.
func look(dir string, depth int) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		path := dir + "/" + e.Name()
		if info, err := os.Lstat(path); err == nil && info.IsDir() && depth > 0 {
			look(path, depth-1)
		}
	}
}
