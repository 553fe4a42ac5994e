package crashpoint

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

func TestPlan(t *testing.T) {
	file := filepath.Join(t.TempDir(), "seen")
	p, err := newPoints("a:2,b", file)
	if err != nil {
		t.Fatal(err)
	}
	var died []string
	p.die = func(name string) { died = append(died, name) }
	for _, name := range []string{"a", "c", "a", "c", "a"} {
		p.hit(name)
	}
	if len(died) != 1 || died[0] != "a" {
		t.Fatalf("died at %v, want once at a", died)
	}
	p.hit("b")
	if len(died) != 2 {
		t.Fatalf("a point without a count did not strike the first time")
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != "a\nc\nb\n" {
		t.Fatalf("seen: %q, %v", got, err)
	}
	for _, bad := range []string{"a:0", "a:x", ":3", "a:-1"} {
		if _, err := newPoints(bad, ""); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// TestKill starts this test binary again, armed: it must die by SIGKILL at the
// second hit and not before.
func TestKill(t *testing.T) {
	if os.Getenv("CRASHPOINT_CHILD") != "" {
		Hit("here")
		os.Stdout.WriteString("once\n")
		Hit("here")
		os.Stdout.WriteString("twice\n")
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
	cmd.Env = append(os.Environ(), "CRASHPOINT_CHILD=1", EnvAt+"=here:2")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("ended with %v, want SIGKILL", err)
	}
	if string(out) != "once\n" {
		t.Fatalf("output %q", out)
	}
}

func BenchmarkHit(b *testing.B) {
	for b.Loop() {
		Hit("nothing")
	}
}
