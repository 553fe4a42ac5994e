package mount

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Running describes a mount that a Massif process serves. It stands in the mount
// point's lock file, whose lock the process holds as long as it lives.
type Running struct {
	Point   string    `json:"point"`
	Source  string    `json:"source"`
	Volume  string    `json:"volume,omitempty"` // UUID, where the tree is a volume
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Control string    `json:"control"` // path of the control socket
	Log     string    `json:"log,omitempty"`
}

// pointLock is the lock of a mount point: one mount of this user at a time.
type pointLock struct {
	file *os.File
}

// lockPoint takes the lock of a mount point. If another process has it, the
// error names that process.
func lockPoint(point string) (*pointLock, error) {
	path, err := runtimeFile(point, ".lock")
	if err != nil {
		return nil, err
	}
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock of mount point %s: %w", point, err)
		}
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		if err == nil && stillThere(f, path) {
			return &pointLock{f}, nil
		}
		if err == nil { // the last holder removed it between open and lock
			f.Close()
			continue
		}
		run := readRunning(f)
		f.Close()
		if !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EACCES) {
			return nil, fmt.Errorf("lock of mount point %s: %w", point, err)
		}
		if run.PID != 0 {
			return nil, fmt.Errorf("mount point %s is in use: process %d serves %s there", point, run.PID, run.Source)
		}
		return nil, fmt.Errorf("mount point %s is in use by another massif process", point)
	}
}

// stillThere tells whether the open file is the one the path names now.
func stillThere(f *os.File, path string) bool {
	a, err1 := f.Stat()
	b, err2 := os.Lstat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

// describe writes who holds the lock.
func (l *pointLock) describe(r Running) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := l.file.Truncate(0); err != nil {
		return err
	}
	_, err = l.file.WriteAt(data, 0)
	return err
}

// release removes the lock file and gives the lock back.
func (l *pointLock) release() error {
	err := os.Remove(l.file.Name())
	return errors.Join(err, l.file.Close())
}

func readRunning(f *os.File) Running {
	var r Running
	data, err := io.ReadAll(io.NewSectionReader(f, 0, 64<<10))
	if err == nil {
		_ = json.Unmarshal(data, &r) // being written just now: unknown holder
	}
	return r
}

// List returns the mounts of this user that a living process serves.
func List() ([]Running, error) {
	dir, err := runtimeDir()
	if err != nil {
		return nil, fmt.Errorf("runtime directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []Running
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".lock") {
			continue
		}
		r, held, err := inspectLock(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		if held && r.PID != 0 {
			out = append(out, r)
		}
	}
	return out, nil
}

// Find returns the living mount at a mount point.
func Find(point string) (Running, bool, error) {
	path, err := runtimeFile(point, ".lock")
	if err != nil {
		return Running{}, false, err
	}
	r, held, err := inspectLock(path)
	return r, held && r.PID != 0, err
}

// inspectLock reads a lock file and tells whether its lock is held.
func inspectLock(path string) (r Running, held bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return r, false, nil
	}
	if err != nil {
		return r, false, err
	}
	defer f.Close()
	r = readRunning(f)
	// Asking takes no lock, so it never stands in the way of one who wants it.
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return r, false, err
	}
	return r, lock.Type != unix.F_UNLCK, nil
}

// checkPoint makes a mount point ready or says in a sentence why it cannot be
// used. A mount left behind by a dead server is detached first.
func checkPoint(point string, log *slog.Logger) error {
	m, mounted, err := mountedAt(point)
	if err != nil {
		return fmt.Errorf("mount table: %w", err)
	}
	if mounted && strings.HasPrefix(m.Type, "fuse") && IsDead(point) {
		log.Warn("detaching a mount whose server is gone", "point", point, "source", m.Source)
		if err := Detach(point); err != nil {
			return fmt.Errorf("mount point %s holds a dead mount of %s which cannot be removed: %w", point, m.Source, err)
		}
		if m, mounted, err = mountedAt(point); err != nil {
			return fmt.Errorf("mount table: %w", err)
		}
	}
	if mounted && m.Type == FuseType {
		return fmt.Errorf("mount point %s is already mounted: %s is there", point, m.Source)
	}
	info, err := os.Stat(point)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("mount point %s does not exist", point)
	case err != nil:
		return fmt.Errorf("mount point %s: %w", point, err)
	case !info.IsDir():
		return fmt.Errorf("mount point %s is not a directory", point)
	}
	return nil
}

// checkEmpty refuses a mount point that holds anything.
func checkEmpty(point string) error {
	entries, err := os.ReadDir(point)
	if err != nil {
		return fmt.Errorf("mount point %s: %w", point, err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("mount point %s is not empty (%s is there); mount over it all the same with nonempty", point, entries[0].Name())
	}
	return nil
}

// IsDead tells whether a mount's server is gone. It asks for the file system's
// size, which the kernel never answers by itself. A server that is there but does
// not answer counts as alive.
func IsDead(point string) bool { return probe(point) == stateDead }

// State tells how a mount does: "alive", "dead" (its server is gone) or "hung" (its
// server does not answer).
func State(point string) string { return probe(point) }

const (
	stateAlive = "alive"
	stateDead  = "dead"
	stateHung  = "hung"

	// probePatience is how long a server has for an answer.
	probePatience = 5 * time.Second
)

// probe asks in a process of its own: a call to a silent server cannot be
// interrupted, and a process with such a call cannot end.
func probe(point string) string {
	cmd := exec.Command("stat", "--file-system", "--format=%t", "--", point)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return probeHere(point)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		why := strings.ToLower(said.String()) // as Go writes its errors
		if err != nil && (strings.Contains(why, unix.ENOTCONN.Error()) || strings.Contains(why, unix.ECONNABORTED.Error())) {
			return stateDead
		}
		return stateAlive
	case <-time.After(probePatience):
		cmd.Process.Kill() // it ends when the server answers or is gone
		return stateHung
	}
}

// probeHere is probe for a machine without stat(1).
func probeHere(point string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(point, &st); errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) {
		return stateDead
	}
	return stateAlive
}

// holders names up to max processes that use something on the mount, as far as
// this process may see them.
func holders(point string, max int) []string {
	m, ok, err := mountedAt(point)
	if err != nil || !ok {
		return nil
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(m.Dev, "%d:%d", &major, &minor); err != nil {
		return nil
	}
	dev := unix.Mkdev(major, minor)
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []string
	for _, p := range procs {
		if p.Name()[0] < '0' || p.Name()[0] > '9' || !processUses("/proc/"+p.Name(), point, dev) {
			continue
		}
		name, _ := os.ReadFile("/proc/" + p.Name() + "/comm")
		out = append(out, fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), p.Name()))
		if len(out) == max {
			break
		}
	}
	return out
}

// processUses looks at links only: a stat could wait for the server itself.
func processUses(proc, point string, dev uint64) bool {
	below := func(link string) bool {
		target, err := os.Readlink(link)
		return err == nil && (target == point || strings.HasPrefix(target, point+"/"))
	}
	if below(proc+"/cwd") || below(proc+"/root") || below(proc+"/exe") {
		return true
	}
	fds, err := os.ReadDir(proc + "/fd")
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if below(proc + "/fd/" + fd.Name()) {
			return true
		}
	}
	maps, err := os.ReadFile(proc + "/maps")
	return err == nil && strings.Contains(string(maps), fmt.Sprintf(" %02x:%02x ", unix.Major(dev), unix.Minor(dev)))
}
