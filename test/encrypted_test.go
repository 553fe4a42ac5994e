package test

import (
	"testing"

	"github.com/massif-fs/massif/vfs/vfstest"
)

// TestMountedEncrypted runs the mounted conformance suite on an encrypted volume.
func TestMountedEncrypted(t *testing.T) {
	vfstest.RunMounted(t, vfstest.Mounted{Mount: func(t testing.TB) string {
		return newVolume(t, options{
			create: []string{"--encrypt"}, env: []string{"MASSIF_PASSPHRASE=correct horse battery"},
		}).mnt
	}})
}
