package volume

import (
	"testing"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
	"github.com/massif-fs/massif/vfs/vfstest"
)

// TestSuite runs the conformance suite of trees in process.
func TestSuite(t *testing.T) { testSuite(t, true, nil) }

// TestSuiteShared runs it on a volume that others might change, too.
func TestSuiteShared(t *testing.T) { testSuite(t, false, nil) }

// TestSuiteEncrypted runs it on an encrypted volume, which others might change.
func TestSuiteEncrypted(t *testing.T) { testSuite(t, false, encrypted) }

func testSuite(t *testing.T, exclusive bool, format func(*meta.Format)) {
	worlds := make(map[vfs.FS]*world)
	reopen := func(fs vfs.FS, readOnly bool) vfs.FS {
		w := worlds[fs]
		delete(worlds, fs)
		w.tune = func(c *Config) {
			c.ReadOnly, c.Exclusive = readOnly, exclusive
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
			w := newWorld(t, format, func(c *Config) { c.Exclusive = exclusive })
			worlds[w.fs] = w
			return w.fs
		},
		Reopen:   func(t testing.TB, fs vfs.FS) vfs.FS { return reopen(fs, false) },
		ReadOnly: func(t testing.TB, fs vfs.FS) vfs.FS { return reopen(fs, true) },
	})
}
