package file

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/testseed"
	"golang.org/x/sys/unix"
)

// TestPowerLoss stops the world at a random moment, takes the disk as it is then,
// without anything the kernel still has in memory, and looks at the store on it.
//
// The disk is a file with a file system in a loop device; what was written to the
// device is in that file. A real disk may in addition lose what is in its own
// cache without a flush, which this cannot show. It needs root and mkfs, and runs
// only with MASSIF_TEST_POWER_LOSS set, to ext4, xfs or btrfs.
func TestPowerLoss(t *testing.T) {
	kind := os.Getenv("MASSIF_TEST_POWER_LOSS")
	if kind == "" {
		t.Skip("MASSIF_TEST_POWER_LOSS is not set")
	}
	for range 10 {
		t.Run("", func(t *testing.T) { losePower(t, kind) })
	}
}

// waitStopped waits until no thread of a process runs any more: a stop signal takes
// its time, the more so on a busy machine, and meanwhile the work goes on.
func waitStopped(t *testing.T, pid int) {
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil || len(stats) == 0 {
			t.Fatalf("no threads of %d: %v", pid, err)
		}
		running := 0
		for _, stat := range stats {
			text, err := os.ReadFile(stat)
			if err != nil {
				t.Fatal(err)
			}
			// PID (NAME) STATE …; see proc_pid_stat(5)
			if i := bytes.LastIndexByte(text, ')'); i < 0 || i+2 >= len(text) || text[i+2] != 'T' {
				running++
			}
		}
		if running == 0 {
			return
		}
		time.Sleep(100 * time.Microsecond)
	}
	t.Fatal("the process does not stop")
}

func losePower(t *testing.T, kind string) {
	work := inMemory(t)
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	disk, after := filepath.Join(work, "disk"), filepath.Join(work, "after")
	run("truncate", "-s", "400M", disk)
	run("mkfs."+kind, "-q", disk)
	mount := func(image string) string {
		t.Helper()
		dir := t.TempDir()
		run("mount", "-o", "loop", image, dir)
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		return dir
	}
	dir := mount(disk)
	s, err := Open(filepath.Join(dir, "store"), Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	seed := testseed.Of(t, 1)
	at := 20 + rand.New(rand.NewPCG(seed, crashWorkers)).IntN(500)
	log := runCrash(t, s.Path(), seed, []string{"MASSIF_TEST_CRASH_SYNC=1"}, func(p *os.Process, lines int) {
		if lines != at {
			return
		}
		// What the worker says between this and the signal is in the pipe, and counts.
		if err := p.Signal(syscall.SIGSTOP); err != nil {
			t.Error(err)
		}
		waitStopped(t, p.Pid)
		run("cp", "--sparse=always", disk, after)
		_ = p.Kill()
	})
	t.Logf("power was lost after %d lines", log.lines)
	dir = mount(after)
	checkCrash(t, filepath.Join(dir, "store"), log)
}
