package test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/testserver"
)

// site is an admin and a metadata server (massif serve all) over a bucket.
type site struct {
	admin string // HOST:PORT
	dir   string
	said  string // file with the servers' output and log
	cmd   *exec.Cmd
}

// startSite starts the servers; owner gets the credentials of the volume "main" and of the
// account.
func startSite(t testing.TB, owner *volume) *site {
	t.Helper()
	endpoint, bucket, creds := testserver.S3(t)
	s := &site{admin: "localhost:" + testserver.Port(t), dir: filepath.Join(owner.dir, "site"), said: filepath.Join(owner.dir, "site.log")}
	secret := filepath.Join(owner.dir, "secret")
	if err := os.WriteFile(secret, []byte(creds.SecretKey), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(s.said)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	s.cmd = exec.Command(program, "serve", "all", "--dir", s.dir, "--listen", s.admin, "--meta-listen", "localhost:"+testserver.Port(t),
		"--store", fmt.Sprintf("s3://%s/shared?endpoint=%s&path-style=true", bucket, endpoint), "--access-key-id", creds.AccessKey, "--secret-key-file", secret,
		"--token-file", filepath.Join(owner.dir, "account"))
	s.cmd.Env = owner.environ()
	s.cmd.Stdout, s.cmd.Stderr = out, out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dead := make(chan error, 1)
	go func() { dead <- s.cmd.Wait() }()
	t.Cleanup(func() {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-dead:
			if err != nil {
				t.Errorf("the servers ended with %v\n%s", err, s.log())
			}
		case <-time.After(time.Minute):
			_ = s.cmd.Process.Kill()
			<-dead
			t.Errorf("the servers did not end\n%s", s.log())
		}
	})
	for deadline := time.Now().Add(time.Minute); !strings.Contains(s.log(), "metadata server local on"); {
		select {
		case err := <-dead:
			dead <- err
			t.Fatalf("the servers ended: %v\n%s", err, s.log())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("the servers do not come up\n%s", s.log())
		}
	}
	return s
}

func (s *site) log() string {
	b, err := os.ReadFile(s.said)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// member is a user of a site, with a MASSIF_HOME of his own.
func member(t testing.TB) *volume {
	t.Helper()
	needMount(t)
	dir, err := os.MkdirTemp("", "mshare-")
	if err != nil {
		t.Fatal(err)
	}
	v := &volume{t: t, dir: dir, home: filepath.Join(dir, "home"), mnt: filepath.Join(dir, "mnt")}
	t.Cleanup(func() {
		v.kill()
		v.clear()
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	if err := os.Mkdir(v.mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	return v
}

// join makes v a member with a token.
func (v *volume) join(s *site, token string) {
	v.t.Helper()
	file := filepath.Join(v.dir, "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		v.t.Fatal(err)
	}
	v.massif("creds", "init", "--admin", s.admin, "--token-file", file, "--fingerprint", regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(s.log()))
	v.args = []string{"mount", "--foreground", s.admin + "/main", v.mnt}
}

// TestSharedAccess: a mount with a token for one directory gets no credentials of the
// bucket, sees its directory, whose files share packs with others, and nothing else; its
// mount ends with its token.
func TestSharedAccess(t *testing.T) {
	owner := member(t)
	s := startSite(t, owner)
	owner.args = []string{"mount", "--foreground", s.admin + "/main", owner.mnt}
	owner.start()
	defer owner.stop()
	content := func(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "file %d, ", i), 400*i+10) }
	for _, dir := range []string{"in", "out"} {
		if err := os.Mkdir(owner.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const files = 30
	for i := range files {
		for _, dir := range []string{"in", "out"} {
			if err := os.WriteFile(owner.path(fmt.Sprintf("%s/%d", dir, i)), content(i), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	big := bytes.Repeat([]byte("0123456789abcdef"), 9<<20/16)
	if err := os.WriteFile(owner.path("in/big"), big, 0o644); err != nil {
		t.Fatal(err)
	}
	owner.syncfs()

	made := owner.massif("admin", "create", "token", "--kind", "volume", "--volume", "main", "--path", "in")
	ids := regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`).FindAllString(made, -1)
	if len(ids) < 2 {
		t.Fatalf("made a token: %s", made)
	}
	guest := member(t)
	guest.join(s, ids[len(ids)-1])
	guest.start()
	entries, err := os.ReadDir(guest.mnt)
	if err != nil || len(entries) != files+1 {
		t.Fatalf("the guest's mount has %d entries, %v", len(entries), err)
	}
	for i := range files {
		if got, err := os.ReadFile(guest.path(fmt.Sprint(i))); err != nil || !bytes.Equal(got, content(i)) {
			t.Errorf("file %d: %d bytes, %v", i, len(got), err)
		}
	}
	if got, err := os.ReadFile(guest.path("big")); err != nil || !bytes.Equal(got, big) {
		t.Errorf("the big file: %d bytes, %v", len(got), err)
	}
	if _, err := os.Stat(guest.path("../out")); err == nil {
		t.Error("the guest sees another directory")
	}
	if err := os.WriteFile(guest.path("new"), big[:100_000], 0o644); err != nil {
		t.Fatal(err)
	}
	guest.syncfs()
	if got, err := os.ReadFile(owner.path("in/new")); err != nil || !bytes.Equal(got, big[:100_000]) {
		t.Errorf("what the guest wrote: %d bytes, %v", len(got), err)
	}

	// What the guest has on disk, and what the servers and mounts have logged, holds
	// neither the bucket's secret nor a signed URL.
	secret, err := os.ReadFile(filepath.Join(owner.dir, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	hides := func(path string, words ...string) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		}
		for _, w := range words {
			if bytes.Contains(b, []byte(w)) {
				t.Errorf("%s holds a secret", path)
			}
		}
	}
	err = filepath.WalkDir(guest.home, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			hides(path, string(secret), "X-Amz-Signature")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{guest.logFile(), owner.logFile(), s.said} {
		hides(path, string(secret), "X-Amz-Signature", ids[len(ids)-1])
	}
	hides(fmt.Sprintf("/proc/%d/environ", guest.cmd.Process.Pid), string(secret))

	owner.massif("admin", "delete", "token", ids[0])
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := os.Mkdir(guest.path(fmt.Sprint("late", time.Now().UnixNano())), 0o755)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			if !errors.Is(err, syscall.EACCES) {
				t.Errorf("after the token was revoked: %v", err)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a revoked token's mount goes on")
		}
	}
	if out, err := guest.try("creds", "init", "--force", "--admin", s.admin, "--token-file", filepath.Join(guest.dir, "token"), "--fingerprint",
		regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(s.log())); err == nil {
		t.Errorf("a revoked token makes credentials: %s", out)
	}
}

// syncfs makes everything that was written durable.
func (v *volume) syncfs() {
	v.t.Helper()
	command{}.run(v.t, "sync", "-f", v.mnt)
}
