package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/massif-fs/massif/internal/testserver"
)

func TestVolumeOnAzure(t *testing.T) {
	needFUSE(t)
	endpoint := testserver.Azure(t)
	testserver.AzureContainer(t, endpoint, "massif-test")
	w := newWorld(t)
	plain := w.env
	with := func(env ...string) { w.env = append(plain[:len(plain):len(plain)], env...) }
	url := fmt.Sprintf("az://massif-test/v?account=%s&endpoint=%s", testserver.AzureAccount, endpoint)

	before := tree(t, w.dir)
	with("AZURE_STORAGE_ACCESS_KEY=" + testserver.AzureKey)
	w.refuse(1, "no such container", "volume", "create", "v", "--store", strings.Replace(url, "massif-test", "no-such-container", 1))
	with("AZURE_STORAGE_ACCESS_KEY=d3Jvbmc=")
	w.refuse(1, "access denied", "volume", "create", "v", "--store", url)
	with("AZURE_STORAGE_ACCESS_KEY=not base64!")
	w.refuse(1, "base64", "volume", "create", "v", "--store", url)
	with("AZURE_STORAGE_ACCESS_KEY=" + testserver.AzureKey)
	w.refuse(2, "must not hold secrets", "volume", "create", "v", "--store", url+"&account-key=x")
	if diff := cmp.Diff(before, withoutRegistry(tree(t, w.dir))); diff != "" {
		t.Errorf("a refusal changed something:\n%s", diff)
	}
	w.lifeOfAVolume(url, testserver.AzureKey)
}

func TestVolumeOnGCS(t *testing.T) {
	needFUSE(t)
	endpoint, bucket := testserver.GCS(t)
	w := newWorld(t)
	url := fmt.Sprintf("gs://%s/v?endpoint=%s&anonymous=true", bucket, endpoint)
	before := tree(t, w.dir)
	w.refuse(1, "no such bucket", "volume", "create", "v", "--store", strings.Replace(url, bucket, "no-such-bucket", 1))
	w.env = append(w.env, "GOOGLE_APPLICATION_CREDENTIALS="+filepath.Join(w.dir, "missing.json"))
	w.refuse(1, "credentials cannot be read", "volume", "create", "v", "--store", strings.Replace(url, "&anonymous=true", "", 1))
	if diff := cmp.Diff(before, withoutRegistry(tree(t, w.dir))); diff != "" {
		t.Errorf("a refusal changed something:\n%s", diff)
	}
	w.lifeOfAVolume(url, "")
}

// lifeOfAVolume creates a volume in a store, fills it, mounts it again, reads it
// back, deletes some, and has the store cleaned up. secret must not be kept.
func (w *world) lifeOfAVolume(url, secret string) {
	t := w.t
	t.Helper()
	w.must("volume", "create", "v", "--store", url)
	w.refuse(1, `belongs to volume "v"`, "volume", "create", "w", "--store", url)
	record, err := os.ReadFile(filepath.Join(w.home, "volumes", "v", "volume.json"))
	if err != nil || secret != "" && strings.Contains(string(record), secret) {
		t.Errorf("the record holds credentials, or cannot be read: %v", err)
	}
	w.must("mount", "v", w.mnt, "-o", "cache-size=64MiB")
	data := random(t, 9<<20)
	w.write("kept", data)
	w.write("gone", random(t, 6<<20))
	w.must("umount", w.mnt)
	w.must("mount", "v", w.mnt, "--cache-dir", filepath.Join(w.dir, "cache"))
	if w.read("kept") != data {
		t.Error("the file differs")
	}
	if err := os.Remove(filepath.Join(w.mnt, "gone")); err != nil {
		t.Error(err)
	}
	w.must("umount", w.mnt)
	w.must("volume", "gc", "v")
	w.must("fsck", "v", "--data")
	w.must("mount", "v", w.mnt)
	if w.read("kept") != data {
		t.Error("the file differs after the clean-up")
	}
	w.must("umount", w.mnt)
	w.must("volume", "delete", "v", "--yes")
	w.must("volume", "create", "v", "--store", url) // its place is free again
}
