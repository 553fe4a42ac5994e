package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSharedPast: --atTime shows the volume as it was; outside of its history the
// earliest time is named.
func TestSharedPast(t *testing.T) {
	needFUSE(t)
	s := newSite(t)
	token, _ := s.token("--volume", "main")
	s.mustFlex("init", "creds", "--adminAddr", s.addr, "--token", token, "--fingerprint", s.fingerprint)
	s.mustFlex("start", "main", s.mnt)
	old := strings.Repeat("as it was ", 100_000)
	s.write("f", old)
	s.write("removed later", "x")
	if out := s.must("umount", s.mnt); out != "" {
		t.Error(out)
	}
	at := time.Now().UTC()
	time.Sleep(2 * time.Millisecond) // so that what follows is later
	s.mustFlex("start", "main", s.mnt)
	s.write("f", "as it is")
	if err := os.Remove(filepath.Join(s.mnt, "removed later")); err != nil {
		t.Fatal(err)
	}
	s.must("umount", s.mnt)

	s.mustFlex("start", "main", s.mnt, "--atTime", at.Format(time.RFC3339Nano))
	if s.read("f") != old || s.read("removed later") != "x" {
		t.Error("not as it was")
	}
	if err := os.WriteFile(filepath.Join(s.mnt, "new"), nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("the past is changed: %v", err)
	}
	// The present goes on meanwhile, also for another mount.
	other := filepath.Join(s.dir, "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	s.mustFlex("start", "main", other)
	t.Cleanup(func() { s.run("umount", "--force", other) })
	if data, err := os.ReadFile(filepath.Join(other, "f")); err != nil || string(data) != "as it is" {
		t.Errorf("%.20q, %v", data, err)
	}
	s.must("umount", other)
	s.must("umount", s.mnt)

	r := s.flex("start", "main", s.mnt, "--atTime", "2001-01-01T00:00:00Z")
	_, earliest, named := strings.Cut(strings.TrimSpace(r.err), "the earliest time is ")
	if r.code != 1 || !named {
		t.Fatalf("%+v", r)
	}
	s.mustFlex("start", "main", s.mnt, "--atTime", earliest)
	s.must("umount", s.mnt)
}
