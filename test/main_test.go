// Package test runs real programs on mounted volumes: databases, compilers,
// version control, archivers, exercisers, and servers that are killed or whose
// stores fail.
//
// The tests build massif (or take the program in $MASSIF_BIN), make volumes below a
// temporary $MASSIF_HOME and mount them in the foreground as processes of their own.
// They need root and /dev/fuse. A test whose program is not installed is skipped,
// or fails with MASSIF_REQUIRE_TOOLS=1. See doc/testing.md.
package test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// program is the massif to test.
var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		program = os.Getenv("MASSIF_BIN")
		if program == "" {
			dir, err := os.MkdirTemp("", "massif-test-")
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			defer os.RemoveAll(dir)
			program = filepath.Join(dir, "massif")
			// The flags are those of the Makefile: what is compiled already is not compiled again.
			build := exec.Command("go", "build", "-trimpath", "-o", program, "github.com/massif-fs/massif/cmd/massif")
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := build.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "building massif: %v\n%s", err, out)
				return 1
			}
		}
		moreParallel()
		return m.Run()
	}())
}

// moreParallel lets twice as many tests run at a time as there are processors: they
// wait for disks, servers and time limits for half of their time.
func moreParallel() {
	flag.Parse()
	set := false
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == "test.parallel" })
	if !set {
		flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
	}
}

// tool returns a program's path; without it the test is skipped, or fails where all
// must be there.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, name+" is not installed")
	}
	return path
}

// missing ends the test because of something that this machine lacks.
func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("MASSIF_REQUIRE_TOOLS") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// needMount ends the test where nothing can be mounted.
func needMount(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "these tests need root")
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		missing(t, "no FUSE here: "+err.Error())
	}
	f.Close()
}

// volume is a volume that a test has made, and its mount.
type volume struct {
	t     testing.TB
	dir   string // everything lies below
	home  string // MASSIF_HOME
	store string // its blocks, where they are files
	mnt   string
	args  []string // of massif mount
	env   []string // further environment
	cmd   *exec.Cmd
	dead  chan struct{}
	peak  int64 // bytes: the servers' greatest resident size
}

// options of newVolume.
type options struct {
	create []string // arguments of volume create
	mount  []string // arguments of mount
	store  string   // URL; default: a directory
	meta   string   // URL; default: below MASSIF_HOME
	env    []string
}

// newVolume makes a volume and mounts it until the end of the test, at which it
// must unmount cleanly and be consistent.
func newVolume(t testing.TB, o options) *volume {
	t.Helper()
	v := createVolume(t, o)
	v.start()
	t.Cleanup(func() {
		if v.cmd != nil {
			v.stop()
		}
		if !t.Failed() {
			v.massif("volume", "fsck", "vol")
		}
	})
	return v
}

// createVolume makes a volume without mounting it.
func createVolume(t testing.TB, o options) *volume {
	t.Helper()
	needMount(t)
	// Not t.TempDir: its name is long, and paths of sockets are short.
	dir, err := os.MkdirTemp("", "mvol-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	v := &volume{
		t: t, dir: dir, home: filepath.Join(dir, "home"), store: filepath.Join(dir, "store"), mnt: filepath.Join(dir, "mnt"),
		args: append([]string{"mount", "--foreground", "vol"}, filepath.Join(dir, "mnt")), env: o.env,
	}
	v.args = append(v.args, o.mount...)
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
	if o.store == "" {
		o.store = "file://" + v.store
	}
	args := append([]string{"volume", "create", "vol", "--store", o.store}, o.create...)
	if o.meta != "" {
		args = append(args, "--meta", o.meta)
	}
	v.massif(args...)
	return v
}

// serve starts the server of what is no volume; the test's end stops it and clears up.
func (v *volume) serve() {
	v.t.Cleanup(func() {
		if v.cmd != nil && !v.t.Failed() {
			v.stop()
		}
		v.kill()
		v.clear()
		if err := os.RemoveAll(v.dir); err != nil {
			v.t.Errorf("cleaning up: %v", err)
		}
	})
	v.start()
}

// environ is the environment of massif.
func (v *volume) environ() []string {
	return append(append(os.Environ(), "MASSIF_HOME="+v.home), v.env...)
}

// server makes the command that serves the mount.
func (v *volume) server() *exec.Cmd {
	cmd := exec.Command(program, v.args...)
	cmd.Env = v.environ()
	return cmd
}

// massif runs a command that must succeed and returns what it printed.
func (v *volume) massif(args ...string) string {
	v.t.Helper()
	out, err := v.try(args...)
	if err != nil {
		v.t.Fatalf("massif %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// try runs a command and returns its output; the error has its messages.
func (v *volume) try(args ...string) (string, error) {
	cmd := exec.Command(program, args...)
	cmd.Env = v.environ()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%w\n%s%s", err, stdout.String(), stderr.String())
	}
	return stdout.String(), err
}

// logFile is where servers write, one after the other.
func (v *volume) logFile() string { return filepath.Join(v.dir, "server.log") }

func (v *volume) said() string {
	b, err := os.ReadFile(v.logFile())
	if err != nil {
		return err.Error()
	}
	return "server's log: " + string(b[max(0, len(b)-6000):])
}

// start starts the server and waits until the mount answers.
func (v *volume) start() {
	v.t.Helper()
	log, err := os.OpenFile(v.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		v.t.Fatal(err)
	}
	defer log.Close()
	cmd := v.server()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	v.cmd, v.dead = cmd, make(chan struct{})
	go func() {
		cmd.Wait()
		close(v.dead)
	}()
	for deadline := time.Now().Add(2 * time.Minute); !mounted(v.mnt); {
		select {
		case <-v.dead:
			v.t.Fatalf("the mount did not come up: %v\n%s", cmd.ProcessState, v.said())
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			v.t.Fatalf("the mount does not answer\n%s", v.said())
		}
	}
}

// stop unmounts as a user does; the server must end well.
func (v *volume) stop() {
	v.t.Helper()
	v.peak = max(v.peak, v.rss())
	v.massif("umount", v.mnt)
	select {
	case <-v.dead:
	case <-time.After(3 * time.Minute):
		v.t.Fatalf("the server did not end after umount\n%s", v.said())
	}
	if !v.cmd.ProcessState.Success() {
		v.t.Fatalf("the server ended with %v\n%s", v.cmd.ProcessState, v.said())
	}
	v.cmd = nil
}

// remount unmounts and mounts again, with nothing left in the kernel's caches.
func (v *volume) remount() {
	v.t.Helper()
	v.stop()
	v.start()
}

// kill ends the server by SIGKILL, if it lives.
func (v *volume) kill() {
	if v.cmd == nil {
		return
	}
	v.cmd.Process.Kill()
	<-v.dead
	v.cmd = nil
}

// clear takes dead mounts away.
func (v *volume) clear() {
	for unix.Unmount(v.mnt, unix.MNT_DETACH) == nil {
	}
}

// rss is the server's greatest resident size so far, in bytes.
func (v *volume) rss() int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.SplitSeq(string(status), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10
		}
	}
	return 0
}

// path names something in the mount.
func (v *volume) path(name string) string { return filepath.Join(v.mnt, name) }

// mounted tells whether something answers that is mounted on dir itself.
func mounted(dir string) bool {
	var st, up unix.Stat_t
	return unix.Stat(dir, &st) == nil && unix.Stat(filepath.Dir(dir), &up) == nil && st.Dev != up.Dev
}

// command is a program to run in a test.
type command struct {
	dir   string
	env   []string
	uid   uint32 // 0: as we are
	input string
}

// run runs a program that must succeed and returns its output.
func (c command) run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := c.output(name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// output runs a program and returns all it printed.
func (c command) output(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = c.dir
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), c.env...)
	if c.uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.uid, Gid: c.uid}}
	}
	if c.input != "" {
		cmd.Stdin = strings.NewReader(c.input)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}
