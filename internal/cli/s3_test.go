package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/massif-fs/massif/internal/testserver"
	"github.com/massif-fs/massif/mount"
)

func TestVolumeOnS3(t *testing.T) {
	needFUSE(t)
	endpoint, bucket, creds := testserver.S3(t)
	w := newWorld(t)
	plain := w.env
	w.env = append(plain[:len(plain):len(plain)], "AWS_ACCESS_KEY_ID="+creds.AccessKey, "AWS_SECRET_ACCESS_KEY="+creds.SecretKey)
	url := func(prefix string) string {
		return fmt.Sprintf("s3://%s/%s?endpoint=%s&region=us-east-1&path-style=true", bucket, prefix, endpoint)
	}

	// What cannot work is refused, and nothing is made.
	before := tree(t, w.dir)
	w.refuse(1, "no such bucket", "volume", "create", "v", "--store", strings.Replace(url("v"), bucket, "no-such-bucket", 1))
	w.env = append(plain[:len(plain):len(plain)], "AWS_ACCESS_KEY_ID="+creds.AccessKey, "AWS_SECRET_ACCESS_KEY=wrong")
	w.refuse(1, "access denied", "volume", "create", "v", "--store", url("v"))
	w.env = append(plain[:len(plain):len(plain)], "AWS_EC2_METADATA_DISABLED=true", "HOME="+w.dir)
	w.refuse(1, "", "volume", "create", "v", "--store", url("v"))
	w.env = append(plain[:len(plain):len(plain)], "AWS_ACCESS_KEY_ID="+creds.AccessKey, "AWS_SECRET_ACCESS_KEY="+creds.SecretKey)
	if diff := cmp.Diff(before, withoutRegistry(tree(t, w.dir))); diff != "" {
		t.Errorf("a refusal changed something:\n%s", diff)
	}

	w.must("volume", "create", "v", "--store", url("v"))
	w.refuse(1, `belongs to volume "v"`, "volume", "create", "w", "--store", url("v"))
	record, err := os.ReadFile(filepath.Join(w.home, "volumes", "v", "volume.json"))
	if err != nil || strings.Contains(string(record), creds.SecretKey) || strings.Contains(string(record), creds.AccessKey) {
		t.Errorf("the record holds credentials, or cannot be read: %v", err)
	}
	w.must("mount", "v", w.mnt, "-o", "cache-size=64MiB")
	data := random(t, 5<<20)
	w.write("f", data)
	w.must("umount", w.mnt)
	w.must("mount", "v", w.mnt, "--cache-dir", filepath.Join(w.dir, "cache"))
	if w.read("f") != data {
		t.Error("the file differs")
	}
	w.must("umount", w.mnt)
	if entries, err := os.ReadDir(filepath.Join(w.dir, "cache")); err != nil || len(entries) != 1 {
		t.Errorf("disk cache: %v, %v", entries, err)
	}
	w.must("fsck", "v", "--data")
	w.must("volume", "delete", "v", "--yes")
	w.must("volume", "create", "v", "--store", url("v")) // its place is free again
}

// withoutRegistry leaves out the empty registry, which the first creation makes,
// failed or not.
func withoutRegistry(files map[string]string) map[string]string {
	for _, name := range []string{"home/", "home/volumes/", "home/volumes/.lock"} {
		delete(files, name)
	}
	return files
}

// Unmounting waits for a store that is away, because only the mount's process has
// the data; --force gives up and says what was lost.
func TestUmountWaitsForStore(t *testing.T) {
	needFUSE(t)
	t.Parallel()
	endpoint, bucket, creds := testserver.S3(t)
	proxy := testserver.NewProxy(t, strings.TrimPrefix(endpoint, "http://"))
	w := newWorld(t)
	w.env = append(w.env, "AWS_ACCESS_KEY_ID="+creds.AccessKey, "AWS_SECRET_ACCESS_KEY="+creds.SecretKey)
	w.must("volume", "create", "v", "--store", fmt.Sprintf("s3://%s/v?endpoint=http://%s&region=us-east-1&path-style=true", bucket, proxy.Addr()))
	w.must("mount", "v", w.mnt)
	data := random(t, 300_000)
	proxy.Set(testserver.Fault{Refuse: true})
	w.write("f", data)

	umount := w.command("umount", w.mnt)
	if err := umount.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the mount to be gone", func() bool { return !w.mounted(w.mnt) })
	if _, alive, err := mount.Find(w.mnt); err != nil || !alive {
		t.Errorf("the process has not waited for the store: %v", err)
	}
	proxy.Set(testserver.Fault{})
	if err := umount.Wait(); err != nil {
		t.Errorf("umount: %v\n%s", err, w.logs())
	}
	w.must("mount", "v", w.mnt)
	if w.read("f") != data {
		t.Error("the file differs")
	}
	if testing.Short() {
		w.must("umount", w.mnt)
		return
	}

	proxy.Set(testserver.Fault{Refuse: true})
	w.write("lost", data)
	// That it ends, with the store away as ever, is the point.
	r := w.run("umount", "--force", w.mnt)
	if r.code != 1 || r.err == "" {
		t.Errorf("umount --force: %+v", r)
	}
	proxy.Set(testserver.Fault{})
	w.must("mount", "v", w.mnt)
	if w.read("f") != data {
		t.Error("the file differs")
	}
	w.must("umount", w.mnt)
	w.must("fsck", "v", "--data")
}
