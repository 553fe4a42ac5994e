package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// caches drops the kernel's caches. The kernel visits every mounted file system for
// that and waits, without a way out, while one is being mounted or unmounted, whoever
// it belongs to. So a process of its own does it, and is left behind when it does not
// end.
type caches struct {
	stuck int // a process that still waits; 0: none
}

// dropTime is how long dropping the caches may take. The disk writes what is dirty
// first.
const dropTime = 60 * time.Second

// errStuck says that the kernel's caches were not dropped, since some file system of
// the machine hangs.
var errStuck = errors.New("the kernel's caches cannot be dropped: some file system of this machine is stuck in a mount or unmount; the row is not cold")

// drop writes what is dirty on the disk and on the mount below dir, and makes the
// kernel forget clean pages, names and inodes.
func (c *caches) drop(dir string) error {
	if c.stuck != 0 && !reap(c.stuck, 0, new(unix.WaitStatus)) {
		return errStuck
	}
	c.stuck = 0
	cmd := exec.Command("sh", "-c", `sync -f "$1" && sync -f "$1/.." && echo 3 >/proc/sys/vm/drop_caches`, "sh", dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("dropping the kernel's caches: %w", err)
	}
	return c.finish(cmd.Process.Pid, dropTime)
}

// finish waits for a process that drops the caches.
func (c *caches) finish(pid int, limit time.Duration) error {
	var status unix.WaitStatus
	if !reap(pid, limit, &status) {
		unix.Kill(pid, unix.SIGKILL) // when it comes back
		c.stuck = pid
		return errStuck
	}
	if !status.Exited() || status.ExitStatus() != 0 {
		return fmt.Errorf("dropping the kernel's caches: the command failed (%#x)", uint32(status))
	}
	return nil
}

// reap waits for a child, for no longer than limit: os/exec would wait for ever.
func reap(pid int, limit time.Duration, status *unix.WaitStatus) bool {
	for end := time.Now().Add(limit); ; time.Sleep(2 * time.Millisecond) {
		switch got, err := unix.Wait4(pid, status, unix.WNOHANG, nil); {
		case got == pid, err != nil && err != unix.EINTR:
			return true
		case time.Now().After(end):
			return false
		}
	}
}
