package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if file := os.Getenv(serverEnv); file != "" {
		os.Exit(watched(file))
	}
	os.Exit(m.Run())
}

func TestScale(t *testing.T) {
	s := Scale{Work: t.TempDir(), Clients: []int{1, 3}, Time: 20 * time.Millisecond, Files: 40, Sessions: 2, Log: t.Logf}
	var out bytes.Buffer
	if err := s.Run(context.Background(), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"clients", "\n        3  ", "bytes a file", "a session", "extrapolated"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	if left, err := os.ReadDir(s.Work); err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

// TestServerThatFails: what a server says when it does not begin is in the error.
func TestServerThatFails(t *testing.T) {
	never := func(string) bool { return false }
	_, err := start(context.Background(), t.TempDir(), "thing", nil, never, "sh", "-c", "echo no such colour; exit 3")
	if err == nil || !strings.Contains(err.Error(), "no such colour") || !strings.Contains(err.Error(), "thing") {
		t.Errorf("%v", err)
	}
}

// TestStuckDrop: a command that does not end is left behind, and no second one is
// begun until it has ended.
func TestStuckDrop(t *testing.T) {
	var c caches
	cmd := exec.Command("sh", "-c", "trap '' TERM; sleep 1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	if err := c.finish(pid, 0); !errors.Is(err, errStuck) {
		t.Fatal(err)
	}
	if c.stuck != pid {
		t.Errorf("stuck is %d, not %d", c.stuck, pid)
	}
	// It is killed, which ends one that is not in the kernel.
	for end := time.Now().Add(30 * time.Second); alive(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it was not killed")
		}
	}
	failing := exec.Command("sh", "-c", "exit 1")
	if err := failing.Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.finish(failing.Process.Pid, time.Minute); err == nil || errors.Is(err, errStuck) {
		t.Errorf("a command that failed: %v", err)
	}
}

func TestNamed(t *testing.T) {
	all := append([]Target{Local(), Massif("massif", "", "", ""), Shared("massif", "", false)}, JuiceFS())
	got, err := named(all, []string{"shared", "local"})
	if err != nil || len(got) != 2 || got[0].Name() != "massif-shared" || got[1].Name() != LocalName {
		t.Errorf("%v %v", got, err)
	}
	if _, err := named(all, []string{"local", "zfs"}); err == nil || !strings.Contains(err.Error(), "zfs") {
		t.Errorf("%v", err)
	}
}

func TestWarmNote(t *testing.T) {
	rep := &Report{Samples: []Sample{{Target: "massif", Row: "x", Value: 2, Warm: true}, {Target: "massif", Row: "x", Value: 2, Capped: true, Warm: true}}}
	if _, note, _ := rep.Median("massif", "x"); note != "~*" {
		t.Errorf("note %q", note)
	}
}
