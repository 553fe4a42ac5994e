package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/massif-fs/massif/internal/fsx"
	"github.com/massif-fs/massif/internal/testserver"
)

// mountBucket mounts the bucket of a fresh S3 server as massif mount s3://… does.
func mountBucket(t *testing.T, options ...string) *volume {
	t.Helper()
	needMount(t)
	endpoint, name, creds := testserver.S3(t)
	dir, err := os.MkdirTemp("", "mbkt-")
	if err != nil {
		t.Fatal(err)
	}
	v := &volume{
		t: t, dir: dir, home: filepath.Join(dir, "home"), mnt: filepath.Join(dir, "mnt"),
		env: []string{"AWS_ACCESS_KEY_ID=" + creds.AccessKey, "AWS_SECRET_ACCESS_KEY=" + creds.SecretKey},
	}
	if err := os.Mkdir(v.mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	v.args = append([]string{"mount", "--foreground", fmt.Sprintf("s3://%s/part?endpoint=%s", name, endpoint), v.mnt}, options...)
	v.serve()
	return v
}

// shell runs a script in the mount.
func (v *volume) shell(script string) string {
	v.t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = v.mnt
	out, err := cmd.CombinedOutput()
	if err != nil {
		v.t.Fatalf("%s: %v\n%s\n%s", script, err, out, v.said())
	}
	return string(out)
}

// TestBucket exercises a bucket through the kernel: data, names, attributes and links, and all
// of it again after a new mount.
func TestBucket(t *testing.T) {
	t.Parallel()
	v := mountBucket(t)
	cfg := fsx.Config{Path: v.path("file"), Ops: 600, Seed: 6, SyncEvery: 200, Files: 2}
	if _, err := fsx.Run(context.Background(), cfg); err != nil {
		t.Fatalf("%v\n%s", err, v.said())
	}
	source := t.TempDir()
	for i := range 30 {
		path := filepath.Join(source, fmt.Sprint("d", i%3), "deep", fmt.Sprint("f", i))
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, i*i*100), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("deep/f0", filepath.Join(source, "d0", "link")); err != nil {
		t.Fatal(err)
	}
	v.shell("cp -a " + source + " copy && mv copy there && touch -d @1000000000 there/d1/deep/f1 && chmod 4711 there/d1/deep/f1")
	v.shell("mkdir empty && rm there/d2/deep/* && rmdir there/d2/deep && (printf one; sleep 0) > a && mv a b && printf two >> b")
	v.shell("exec 5<>b; rm b; printf 3 >&5; exec 5>&-; ! test -e b")
	check := func() {
		t.Helper()
		v.shell("diff -r " + source + "/d0 there/d0 && diff -r " + source + "/d1 there/d1 && test -d empty && test -d there/d2 && ! test -e there/d2/deep")
		if got := v.shell("stat -c '%a %Y %s' there/d1/deep/f1 && readlink there/d0/link"); got != "4711 1000000000 100\ndeep/f0\n" {
			t.Errorf("%q", got)
		}
		want, err := os.Stat(filepath.Join(source, "d0", "deep", "f3"))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.Stat(v.path("there/d0/deep/f3")); err != nil || got.Mode() != want.Mode() || !got.ModTime().Equal(want.ModTime()) {
			t.Errorf("%v, %v", got, err)
		}
	}
	check()
	v.remount()
	check()
	// What an earlier program left to itself is told by one sentence.
	if _, err := v.try("mount", "s3://no-such-bucket?"+endpointOf(v), t.TempDir()); err == nil {
		t.Error("a bucket that does not exist was mounted")
	}
}

func endpointOf(v *volume) string {
	source := v.args[2]
	for i := range source {
		if source[i] == '?' {
			return source[i+1:]
		}
	}
	return ""
}

// TestBucketKilled kills the server of a bucket with write-back: what was closed or synced
// is uploaded by the next one.
func TestBucketKilled(t *testing.T) {
	t.Parallel()
	v := mountBucket(t, "--writeback")
	v.shell("mkdir d; for i in 1 2 3 4 5 6 7 8; do head -c $((i * 100000)) /dev/zero | tr '\\0' $i > d/f$i; done")
	v.kill()
	v.clear()
	v.start()
	check := func() {
		t.Helper()
		v.shell("for i in 1 2 3 4 5 6 7 8; do head -c $((i * 100000)) /dev/zero | tr '\\0' $i | cmp - d/f$i; done")
	}
	check()
	v.stop()
	if err := os.RemoveAll(filepath.Join(v.home, "buckets")); err != nil { // nothing comes from the cache
		t.Fatal(err)
	}
	v.start()
	check()
}
