package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/massif-fs/massif/internal/testserver"
)

// lifeOfABucket uses a mount and looks at what the next one shows.
func (c *foreign) lifeOfABucket(args ...string) {
	c.t.Helper()
	args = append([]string{"mount", c.mnt}, args...)
	big := bytes.Repeat([]byte("0123456789abcdef"), 200_000) // of several parts and blocks
	c.do(args...)
	mkdir(c.t, filepath.Join(c.mnt, "a/b"))
	mkdir(c.t, filepath.Join(c.mnt, "empty"))
	c.write("a/b/small", "hello")
	c.write("a/big", string(big))
	if err := os.Symlink("b/small", filepath.Join(c.mnt, "a/link")); err != nil {
		c.t.Error(err)
	}
	if err := os.Rename(filepath.Join(c.mnt, "a/b/small"), filepath.Join(c.mnt, "a/b/renamed")); err != nil {
		c.t.Error(err)
	}
	if !c.listed(c.mnt) {
		c.t.Error("the mount is not listed")
	}
	c.do("unmount", c.mnt)
	c.do(args...)
	if got := c.read("a/b/renamed"); got != "hello" {
		c.t.Errorf("after another mount: %q", got)
	}
	if c.read("a/big") != string(big) {
		c.t.Error("after another mount: the large file has other bytes")
	}
	if info, err := os.Stat(filepath.Join(c.mnt, "empty")); err != nil || !info.IsDir() {
		c.t.Errorf("an empty directory did not last: %v", err)
	}
	if target, err := os.Readlink(filepath.Join(c.mnt, "a/link")); err != nil || target != "b/small" {
		c.t.Errorf("link: %q, %v", target, err)
	}
	if err := os.RemoveAll(filepath.Join(c.mnt, "a")); err != nil {
		c.t.Error(err)
	}
	if err := os.Remove(filepath.Join(c.mnt, "empty")); err != nil {
		c.t.Error(err)
	}
	c.do("unmount", c.mnt)
}

func TestCloudfuseOnS3(t *testing.T) {
	needFUSE(t)
	endpoint, bucket, creds := testserver.S3(t)
	c := underCloudfuse(t)
	config := func(more ...string) {
		c.config("config.yaml", append([]string{"s3storage:", "  bucket-name: " + bucket, "  endpoint: " + endpoint, "  key-id: " + creds.AccessKey, "  secret-key: " + creds.SecretKey, "  subdirectory: sub"}, more...)...)
	}
	// The flags of the seed, and each component that caches.
	config()
	c.lifeOfABucket("--config-file=config.yaml", "--tmp-path="+filepath.Join(c.dir, "cache"), "--file-cache-timeout=60", "--cache-size-mb=100", "--attr-timeout=5", "--entry-timeout=5", "--negative-timeout=5",
		"--high-disk-threshold=90", "--low-disk-threshold=80", "--log-level=LOG_INFO")
	if testing.Short() {
		return
	}
	config("components: [libfuse, block_cache, attr_cache, s3storage]", "block_cache: {block-size-mb: 1}")
	c.lifeOfABucket("--attr-cache-timeout=10", "--block-cache-prefetch=12", "--block-cache-pool-size=128", "--block-cache-prefetch-on-open=true")
	config("components: [libfuse, stream, attr_cache, s3storage]", "stream: {block-size-mb: 1, buffer-size-mb: 8, max-buffers: 16}")
	c.lifeOfABucket("-o", "direct_io")
}

func TestCloudfuseOnAzure(t *testing.T) {
	needFUSE(t)
	endpoint := testserver.Azure(t)
	testserver.AzureContainer(t, endpoint, "letters")
	c := underCloudfuse(t)
	// All from the environment, as the seed has it, and an encrypted configuration for the rest.
	c.env = append(c.env, "AZURE_STORAGE_ACCOUNT="+testserver.AzureAccount, "AZURE_STORAGE_ACCESS_KEY="+testserver.AzureKey, "AZURE_STORAGE_BLOB_ENDPOINT="+endpoint,
		"AZURE_STORAGE_ACCOUNT_CONTAINER=letters", "AZURE_STORAGE_AUTH_TYPE=key", "AZURE_STORAGE_ACCOUNT_TYPE=block", "CLOUDFUSE_SECURE_CONFIG_PASSPHRASE=correct horse")
	c.config("config.yaml", "file_cache:", "  path: "+filepath.Join(c.dir, "cache"), "  max-size-mb: 100")
	c.do("secure", "encrypt", "--config-file=config.yaml")
	c.lifeOfABucket("--config-file=config.yaml.aes")
}

func TestCloudfuseMountsAll(t *testing.T) {
	needFUSE(t)
	endpoint := testserver.Azure(t)
	for _, name := range []string{"letters", "photos", "secrets"} {
		testserver.AzureContainer(t, endpoint, name)
	}
	c := underCloudfuse(t)
	all := mkdir(t, filepath.Join(c.dir, "all"))
	t.Cleanup(func() {
		if r := c.try("unmount", all+"/.*"); strings.Contains(r.err, "failed to unmount") {
			t.Errorf("unmount all: %s", r.err)
		}
	})
	c.config("config.yaml", "azstorage:", "  account-name: "+testserver.AzureAccount, "  type: block", "  endpoint: "+endpoint, "  account-key: "+testserver.AzureKey,
		"file_cache:", "  path: "+filepath.Join(c.dir, "cache"), "  max-size-mb: 64", "mountall:", "  container-denylist:", "    - secrets")
	out := c.do("mount", "all", all, "--config-file=config.yaml")
	want := "Mounting container : letters to path " + all + "/letters\nMounting container : photos to path " + all + "/photos\n2 of 2 containers were successfully mounted\n"
	if out != want {
		t.Errorf("mount all: %q", out)
	}
	for _, name := range []string{"letters", "photos"} {
		if !c.listed(filepath.Join(all, name)) {
			t.Errorf("%s is not listed", name)
		}
		if err := os.WriteFile(filepath.Join(all, name, "of-"+name), []byte(name), 0o644); err != nil {
			t.Error(err)
		}
		kept := filepath.Join(c.dir, "ann", ".cloudfuse", "config_"+name+".yaml")
		if info, err := os.Stat(kept); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v", kept, err)
		} else if text := readFile(t, kept); !strings.Contains(text, "container: "+name) || !strings.Contains(text, "cache/"+name) {
			t.Errorf("%s: %s", kept, text)
		}
	}
	// "unmount all" would take the mounts of other tests, too.
	if out := c.do("unmount", all+"/.*"); out != "2 of 2 mounts were successfully unmounted\n" {
		t.Errorf("unmount: %q", out)
	}
	// One of them with the configuration that was kept.
	c.do("mount", filepath.Join(all, "photos"), "--config-file="+filepath.Join(c.dir, "ann", ".cloudfuse", "config_photos.yaml"))
	if got := readFile(t, filepath.Join(all, "photos", "of-photos")); got != "photos" {
		t.Errorf("photos holds %q", got)
	}
	c.do("unmount", filepath.Join(all, "photos"))
}
