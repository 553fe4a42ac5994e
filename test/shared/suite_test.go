package shared

import (
	"os"
	"testing"

	"github.com/massif-fs/massif/vfs"
	"github.com/massif-fs/massif/vfs/vfstest"
)

// TestSuite runs the conformance suite on a client beside others.
func TestSuite(t *testing.T) {
	vfstest.Run(t, vfstest.Factory{
		New: func(t testing.TB) vfs.FS { return newCluster(t, 2).clients[0].fs },
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
