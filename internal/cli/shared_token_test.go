package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/service/admin/adminapi"
)

// TestSharedTokens: what a token allows holds on the mount, and its revocation ends it.
func TestSharedTokens(t *testing.T) {
	needFUSE(t)
	s := newSite(t)
	s.must("mount", s.addr+"/main", s.mnt)
	if err := os.MkdirAll(filepath.Join(s.mnt, "team/a"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.write("team/a/f", "of the team")
	s.write("other", "of others")
	// A second mount of the same user on the same machine, with a cache of its own.
	second := t.TempDir()
	s.must("mount", s.addr+"/main", second)
	if b, err := os.ReadFile(filepath.Join(second, "team/a/f")); err != nil || string(b) != "of the team" {
		t.Errorf("second mount: %q, %v", b, err)
	}
	s.must("umount", second)
	s.must("umount", s.mnt)

	token, id := s.token("--volume", "main", "--path", "team", "--read-only", "--flags", "noexec", "--expires", "1h")
	file := s.secretFile("token", token+"\n")
	join := []string{"creds", "init", "--admin", s.addr, "--token-file", file, "--fingerprint", s.fingerprint}
	s.refuse(1, "--force replaces them", join...)
	s.must(append(join, "--force")...)
	s.must("mount", s.addr+"/main", s.mnt)
	if s.read("a/f") != "of the team" {
		t.Error("another content")
	}
	if _, err := os.Stat(filepath.Join(s.mnt, "other")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("out of scope: %v", err)
	}
	if err := os.WriteFile(filepath.Join(s.mnt, "new"), nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("read-only: %v", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, " "+s.mnt+" ") && !strings.Contains(line, "noexec") {
			t.Errorf("the token demands noexec: %s", line)
		}
	}
	// A token is looked at again when its volume is changed, and the mount goes on.
	s.must("admin", "update", "volume", "main", "--quota-bytes", "1GiB")
	if s.read("a/f") != "of the team" {
		t.Error("another content")
	}
	s.must("admin", "delete", "token", id)
	eventually(t, "the revocation ends the mount's session", func() bool {
		_, err := os.ReadDir(filepath.Join(s.mnt, "a"))
		if err == nil { // the kernel may still have the listing
			_, err = os.Stat(filepath.Join(s.mnt, adminapi.NewToken()))
			return err != nil && !errors.Is(err, os.ErrNotExist)
		}
		return true
	})
	s.must("umount", "--force", s.mnt)
	s.refuse(1, "was revoked at", "mount", s.addr+"/main", s.mnt)
	s.refuse(1, "was revoked at", append(join, "--force")...)

	// Another certificate than the one that is pinned is refused, with both.
	other := "sha256:" + strings.Repeat("ab", 32)
	fresh, _ := s.token("--volume", "main")
	r := s.run("creds", "init", "--admin", s.addr, "--token-file", s.secretFile("token", fresh), "--fingerprint", other, "--force")
	if r.code != 1 || !strings.Contains(r.err, other) || !strings.Contains(r.err, s.fingerprint) {
		t.Errorf("%+v", r)
	}
	r = s.run("creds", "init", "--admin", s.addr, "--token-file", s.secretFile("token", fresh), "--insecure", "--force")
	if r.code != 0 || !strings.Contains(r.err, "WARNING: --insecure") {
		t.Errorf("%+v", r)
	}

	// The servers are started anew; nothing is lost, and the mount goes on.
	s.must("mount", s.addr+"/main", s.mnt)
	s.write("before", "the restart")
	s.server.Process.Signal(syscall.SIGKILL)
	s.server.Wait()
	s.start()
	if s.read("before") != "the restart" {
		t.Error("another content")
	}
	s.write("after", "the restart")
	s.must("umount", s.mnt)

	// A deleted volume ends its mounts, and its data goes.
	s.must("mount", s.addr+"/main", s.mnt)
	s.must("admin", "delete", "volume", "main")
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.output())
		}
	})
	eventually(t, "the deleted volume's data is removed", func() bool {
		left, err := filepath.Glob(filepath.Join(s.home, "all/store/*/*"))
		return err == nil && len(left) == 0 && !strings.Contains(s.run("admin", "list", "volume", "--all").out, "main ")
	})
	s.must("umount", s.mnt)
}
