package vfstest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Mounted says where a mounted tree is and what it lacks.
type Mounted struct {
	// Mount makes an empty writable mount that all users may use, and returns its
	// mount point. Clean-up goes through t.Cleanup.
	Mount func(t testing.TB) string
	Lacks map[Feature]string
}

// RunMounted checks a tree through the kernel, with system calls. As root it also
// checks what other users may do.
//
// The mount is made here, the tests run in a child process (the same test binary,
// told by the environment): a Go process that touches a mapping of its own mount
// can stop itself for ever, as a page fault holds up its garbage collector and so
// the goroutine that would serve it.
func RunMounted(t *testing.T, m Mounted) {
	if root := os.Getenv(mountpointVar); root != "" {
		runMounted(t, m, root)
		return
	}
	root := m.Mount(t)
	var parts []string
	for part := range strings.SplitSeq(t.Name(), "/") {
		parts = append(parts, "^"+regexp.QuoteMeta(part)+"$")
	}
	limit := 10 * time.Minute
	if d, ok := t.Deadline(); ok {
		limit = min(limit, time.Until(d)-5*time.Second)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run="+strings.Join(parts, "/"), "-test.v", "-test.timeout="+limit.String())
	if testing.Short() {
		child.Args = append(child.Args, "-test.short")
	}
	child.Env = append(os.Environ(), mountpointVar+"="+root)
	child.WaitDelay = 5 * time.Second
	out, err := child.CombinedOutput()
	if err != nil {
		t.Errorf("mounted tests: %v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("\n%s", out)
	}
}

const mountpointVar = "VFSTEST_MOUNTPOINT"

func runMounted(t *testing.T, m Mounted, root string) {
	for _, group := range [][]mountedTest{mountedFiles, mountedNames, mountedDirs, mountedMemory, mountedUsers, mountedMisc} {
		for _, tc := range group {
			t.Run(tc.name, func(t *testing.T) {
				f := Factory{Lacks: m.Lacks}
				f.skip(t, tc.needs)
				dir := filepath.Join(root, "m-"+tc.name)
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				tc.run(&mnt{T: t, dir: dir, lacks: m.Lacks})
			})
		}
	}
}

type mountedTest struct {
	name  string
	needs []Feature
	run   func(m *mnt)
}

// mnt is what a test below a mount point works with.
type mnt struct {
	*testing.T
	dir   string
	lacks map[Feature]string
}

func (m *mnt) has(f Feature) bool {
	_, lacks := m.lacks[f]
	return !lacks
}

func (m *mnt) path(name string) string { return filepath.Join(m.dir, name) }

func (m *mnt) ok(err error, what string) {
	m.Helper()
	if err != nil {
		m.Fatalf("%s: %v", what, err)
	}
}

func (m *mnt) want(err error, what string, errnos ...syscall.Errno) {
	m.Helper()
	for _, n := range errnos {
		if errors.Is(err, n) {
			return
		}
	}
	m.Fatalf("%s: %v, want %v", what, err, errnos)
}

// open opens a file of the test's directory; it is closed at the test's end.
func (m *mnt) open(name string, flags int, mode uint32) int {
	m.Helper()
	fd, err := openRetry(m.path(name), flags|unix.O_CLOEXEC, mode)
	m.ok(err, "open "+short(name))
	m.Cleanup(func() { unix.Close(fd) })
	return fd
}

func openRetry(path string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Open(path, flags, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func (m *mnt) file(name string, data []byte) {
	m.Helper()
	m.ok(os.WriteFile(m.path(name), data, 0o644), "write "+short(name))
}

func (m *mnt) content(name string) []byte {
	m.Helper()
	data, err := os.ReadFile(m.path(name))
	m.ok(err, "read "+short(name))
	return data
}

func (m *mnt) pwrite(fd int, p []byte, off int64) {
	m.Helper()
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, off)
		if err == unix.EINTR {
			continue
		}
		m.ok(err, "pwrite")
		p, off = p[n:], off+int64(n)
	}
}

func (m *mnt) pread(fd int, off int64, n int) []byte {
	m.Helper()
	p := make([]byte, n)
	done := 0
	for done < n {
		k, err := unix.Pread(fd, p[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		m.ok(err, "pread")
		if k == 0 {
			break
		}
		done += k
	}
	return p[:done]
}

func (m *mnt) fstat(fd int) unix.Stat_t {
	m.Helper()
	var st unix.Stat_t
	m.ok(unix.Fstat(fd, &st), "fstat")
	return st
}

func (m *mnt) stat(name string) unix.Stat_t {
	m.Helper()
	var st unix.Stat_t
	m.ok(unix.Lstat(m.path(name), &st), "stat "+short(name))
	return st
}

// asUser runs f on a thread with another identity. The thread ends afterwards. f
// reaches files relative to a directory descriptor, since the way to the mount
// point may be closed to others.
func (m *mnt) asUser(uid, gid int, groups []int, f func(dirfd int)) {
	m.Helper()
	if os.Geteuid() != 0 {
		m.Skip("needs root")
	}
	dirfd, err := unix.Open(m.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	m.ok(err, "open the directory")
	defer unix.Close(dirfd)
	failed := make(chan error, 1)
	go func() {
		defer close(failed)
		runtime.LockOSThread() // never unlocked: the thread is of no more use
		if err := becomeUser(uid, gid, groups); err != nil {
			failed <- err
			return
		}
		f(dirfd)
	}()
	m.ok(<-failed, "become another user")
}

// becomeUser changes the identity of this thread alone, unlike the functions of
// package syscall.
func becomeUser(uid, gid int, groups []int) error {
	list := make([]uint32, len(groups)+1)
	for i, g := range groups {
		list[i] = uint32(g)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(ptr(&list[0])), 0); e != 0 {
		return fmt.Errorf("setgroups: %w", e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); e != 0 {
		return fmt.Errorf("setresgid: %w", e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
		return fmt.Errorf("setresuid: %w", e)
	}
	return nil
}

// expect is want for the functions of asUser, which run in goroutines of their own.
func (m *mnt) expect(err error, what string, errno syscall.Errno) {
	m.Helper()
	if errno == 0 && err != nil || errno != 0 && !errors.Is(err, errno) {
		m.Errorf("%s: %v, want %v", what, err, errno)
	}
}
