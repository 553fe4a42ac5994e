package volume

import (
	"testing"

	"github.com/massif-fs/massif/vfs"
	"github.com/massif-fs/massif/vfs/vfstest"
)

// TestSuite runs the conformance suite of trees in process.
func TestSuite(t *testing.T) {
	worlds := make(map[vfs.FS]*world)
	reopen := func(fs vfs.FS, readOnly bool) vfs.FS {
		w := worlds[fs]
		delete(worlds, fs)
		w.tune = func(c *Config) {
			c.ReadOnly = readOnly
			if readOnly {
				c.Maintainer = nil
			}
		}
		w.reopen()
		worlds[w.fs] = w
		return w.fs
	}
	vfstest.Run(t, vfstest.Factory{
		New: func(t testing.TB) vfs.FS {
			w := newWorld(t, nil, nil)
			worlds[w.fs] = w
			return w.fs
		},
		Reopen:   func(t testing.TB, fs vfs.FS) vfs.FS { return reopen(fs, false) },
		ReadOnly: func(t testing.TB, fs vfs.FS) vfs.FS { return reopen(fs, true) },
	})
}
