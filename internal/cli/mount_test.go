package cli

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/internal/testserver"
	"github.com/massif-fs/massif/mount"
)

func TestMountLocalDirectory(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	src := filepath.Join(w.dir, "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	w.must("mount", "file://"+src, w.mnt)
	w.write("a", "hello")
	if got, err := os.ReadFile(filepath.Join(src, "a")); err != nil || string(got) != "hello" {
		t.Errorf("in the directory itself: %q, %v", got, err)
	}

	var rows []mountRow
	w.mustJSON(&rows, "mounts")
	found := false
	for _, r := range rows {
		found = found || r.Point == w.mnt && r.State == "alive" && r.Source == "file://"+src && r.PID != 0
	}
	if !found {
		t.Errorf("massif mounts does not show the mount: %+v", rows)
	}
	var st mount.Stats
	w.mustJSON(&st, "stats", w.mnt)
	if st.Status.Point != w.mnt || len(st.FUSE.Ops) == 0 || st.Process.RSS == 0 {
		t.Errorf("stats: %+v", st)
	}
	if out := w.must("stats", w.mnt); !strings.Contains(out, "REQUEST") {
		t.Errorf("stats: %s", out)
	}

	// A second mount there is refused and changes nothing.
	w.refuse(1, "is in use", "mount", "file://"+src, w.mnt)
	if w.read("a") != "hello" {
		t.Error("the first mount suffered")
	}

	// A busy mount stays, and the user learns who holds it.
	f, err := os.Open(filepath.Join(w.mnt, "a"))
	if err != nil {
		t.Fatal(err)
	}
	w.refuse(1, fmt.Sprintf("(process %d)", os.Getpid()), "umount", w.mnt)
	if w.read("a") != "hello" {
		t.Error("the busy mount is gone")
	}
	f.Close()
	w.must("umount", w.mnt)
	if w.mounted(w.mnt) {
		t.Error("still mounted")
	}
	w.refuse(1, "is not mounted", "umount", w.mnt)
	w.refuse(1, "is not a mount point of massif", "stats", w.mnt)
}

func TestMountSpecFile(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	spec := filepath.Join(w.dir, "data.yaml")
	text := fmt.Sprintf("tree:\n  kind: local\n  path: %s\nmount:\n  ro: true\npoint: %s\n", w.home, w.mnt)
	if err := os.WriteFile(spec, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(w.home, 0o700); err != nil {
		t.Fatal(err)
	}
	w.must("mount", spec)
	if err := os.WriteFile(filepath.Join(w.mnt, "x"), nil, 0o600); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("write to a read-only mount: %v", err)
	}
	w.must("umount", w.mnt)
	// The command line wins over the file.
	w.must("mount", spec, "-o", "rw")
	w.write("x", "y")
	w.must("umount", w.mnt)
}

func TestForceTakesAway(t *testing.T) {
	needFUSE(t)
	t.Parallel()
	w := newWorld(t)
	w.must("volume", "create", "v")
	w.must("mount", "v", w.mnt)
	f, err := os.Create(filepath.Join(w.mnt, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("written before"); err != nil {
		t.Fatal(err)
	}
	w.must("umount", "--force", w.mnt)
	if w.mounted(w.mnt) {
		t.Error("still mounted")
	}
	if _, err := f.WriteString("x"); err == nil {
		if err = f.Sync(); err == nil {
			t.Error("a file of a mount that was taken away takes writes")
		}
	}
	w.must("mount", "v", w.mnt)
	if got := w.read("f"); got != "written before" {
		t.Errorf("what was written before: %q", got)
	}
	w.must("umount", w.mnt)
}

// TestForceLeavesTheMountBelow: another file system at the same place stays.
func TestForceLeavesTheMountBelow(t *testing.T) {
	needFUSE(t)
	needRoot(t)
	w := newWorld(t)
	if err := unix.Mount("tmpfs", w.mnt, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(w.mnt, unix.MNT_DETACH) })
	w.write("below", "stays")
	w.must("volume", "create", "v")
	w.must("mount", "v", w.mnt)
	f, err := os.Create(filepath.Join(w.mnt, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w.must("umount", "--force", w.mnt)
	if got := w.read("below"); got != "stays" {
		t.Errorf("below: %q", got)
	}
}

func TestLazyUmount(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.must("volume", "create", "v")
	w.must("mount", "v", w.mnt)
	f, err := os.Create(filepath.Join(w.mnt, "f"))
	if err != nil {
		t.Fatal(err)
	}
	w.must("umount", "--lazy", w.mnt)
	if w.mounted(w.mnt) {
		t.Error("the name is still there")
	}
	if _, err := f.WriteString("written after"); err != nil {
		t.Errorf("write to a detached mount: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "the end of the detached mount", func() bool {
		_, alive, err := mount.Find(w.mnt)
		return err == nil && !alive
	})
	w.must("mount", "v", w.mnt)
	if got := w.read("f"); got != "written after" {
		t.Errorf("what was written: %q", got)
	}
	w.must("umount", w.mnt)
}

// foregroundLog is where the mount of foreground logs.
func (w *world) foregroundLog() string { return filepath.Join(w.dir, "foreground.log") }

// foreground starts "massif mount -f" and waits until it answers.
func (w *world) foreground(args ...string) *exec.Cmd {
	w.t.Helper()
	cmd := w.command(append([]string{"mount", "-f"}, args...)...)
	log, err := os.Create(w.foregroundLog())
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if w.t.Failed() {
			said, _ := os.ReadFile(w.foregroundLog())
			w.t.Logf("the mount said:\n%s", said)
		}
	})
	eventually(w.t, "the mount", func() bool {
		_, alive, err := mount.Find(w.mnt)
		return err == nil && alive && w.mounted(w.mnt)
	})
	return cmd
}

func TestSignals(t *testing.T) {
	needFUSE(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT} {
		t.Run(sig.String(), func(t *testing.T) {
			w := newWorld(t)
			w.must("volume", "create", "v")
			cmd := w.foreground("v", w.mnt)
			w.write("f", "kept")
			cmd.Process.Signal(sig)
			if err := cmd.Wait(); err != nil {
				t.Errorf("exit: %v", err)
			}
			if w.mounted(w.mnt) {
				t.Error("still mounted")
			}
			w.must("mount", "v", w.mnt)
			if got := w.read("f"); got != "kept" {
				t.Errorf("after the signal: %q", got)
			}
			w.must("umount", w.mnt)
		})
	}
}

func TestSignalsOnBusyMount(t *testing.T) {
	needFUSE(t)
	t.Parallel()
	w := newWorld(t)
	w.must("volume", "create", "v")
	cmd := w.foreground("v", w.mnt)
	f, err := os.Create(filepath.Join(w.mnt, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("kept"); err != nil {
		t.Fatal(err)
	}
	// The first signal waits for the mount to become free: it still works.
	cmd.Process.Signal(syscall.SIGTERM)
	eventually(t, "the first signal's failure", func() bool {
		said, err := os.ReadFile(w.foregroundLog())
		return err == nil && strings.Contains(string(said), "cannot unmount yet")
	})
	if _, err := f.WriteString(" still"); err != nil {
		t.Errorf("write after the first signal: %v", err)
	}
	if !w.mounted(w.mnt) {
		t.Error("a busy mount was removed by the first signal")
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("exit: %v", err)
	}
	w.must("mount", "v", w.mnt)
	if got := w.read("f"); got != "kept still" {
		t.Errorf("after the second signal: %q", got)
	}
	w.must("umount", w.mnt)
}

// A server that was killed leaves a dead mount, which is shown, removed by umount,
// and cleaned up by the next mount.
func TestKilledServer(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.must("volume", "create", "v")
	for _, cleaner := range []string{"umount", "mount"} {
		w.must("mount", "v", w.mnt)
		running, alive, err := mount.Find(w.mnt)
		if err != nil || !alive {
			t.Fatalf("mount: %v", err)
		}
		if err := syscall.Kill(running.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the server's end", func() bool {
			_, alive, err := mount.Find(w.mnt)
			return err == nil && !alive && mount.IsDead(w.mnt)
		})
		if out := w.must("mounts"); !strings.Contains(out, w.mnt) || !strings.Contains(out, "dead") {
			t.Errorf("mounts: %s", out)
		}
		w.refuse(1, "is dead", "stats", w.mnt)
		if cleaner == "umount" {
			w.must("umount", w.mnt)
		} else {
			w.must("mount", "v", w.mnt)
			w.write("f", "works")
			w.must("umount", w.mnt)
		}
		if w.mounted(w.mnt) {
			t.Errorf("%s left the mount", cleaner)
		}
	}
}

// A server that does not answer cannot keep its mount point for ever.
func TestHungServer(t *testing.T) {
	needFUSE(t)
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for time-outs")
	}
	w := newWorld(t)
	w.must("volume", "create", "v")
	w.must("mount", "v", w.mnt)
	running, alive, err := mount.Find(w.mnt)
	if err != nil || !alive {
		t.Fatalf("mount: %v", err)
	}
	if err := syscall.Kill(running.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(running.PID, syscall.SIGCONT)
	var rows []mountRow
	w.mustJSON(&rows, "mounts")
	for _, r := range rows {
		if r.Point == w.mnt && r.State != "hung" {
			t.Errorf("mounts: %+v", r)
		}
	}
	w.refuse(1, "does not answer", "umount", "--lazy", w.mnt)
	if w.mounted(w.mnt) {
		t.Error("still mounted")
	}
	// When it goes on, it ends by itself.
	if err := syscall.Kill(running.PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server's end", func() bool {
		_, alive, err := mount.Find(w.mnt)
		return err == nil && !alive
	})
	w.must("fsck", "v")
}

func TestNotifySocket(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	dir, err := os.MkdirTemp("", "notify")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w.env = append(w.env, "NOTIFY_SOCKET="+path)
	w.must("volume", "create", "v")
	cmd := w.foreground("v", w.mnt)
	expect := func(want string) {
		t.Helper()
		buf := make([]byte, 256)
		c.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := c.Read(buf)
		if err != nil || !strings.Contains(string(buf[:n]), want) {
			t.Errorf("notification %q, %v; want %q", buf[:n], err, want)
		}
	}
	expect("READY=1")
	cmd.Process.Signal(syscall.SIGTERM)
	expect("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestMaxIdle(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.must("volume", "create", "v")
	w.must("mount", "v", w.mnt, "-o", "max_idle=200ms")
	eventually(t, "the idle mount's end", func() bool {
		_, alive, err := mount.Find(w.mnt)
		return err == nil && !alive && !w.mounted(w.mnt)
	})
}

func TestMetricsAndLogs(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.must("volume", "create", "v")
	addr := "127.0.0.1:" + testserver.Port(t)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	// The address is in use: the mount fails, in a sentence.
	w.refuse(1, "address already in use", "mount", "v", w.mnt, "--metrics-addr", addr)
	l.Close()
	w.must("mount", "v", w.mnt, "--metrics-addr", addr, "--pprof", "--access-log", filepath.Join(w.dir, "access.log"))
	w.write("f", "x")
	for path, want := range map[string]string{
		"/metrics": `massif_fuse_duration_seconds_count{op="lookup",point="` + w.mnt + `"}`, "/debug/pprof/": "goroutine",
	} {
		resp, err := http.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s: %v, without %q:\n%s", path, err, want, body)
		}
	}

	// The access log tells what happens while somebody reads it.
	watcher := w.command("access-log", w.mnt)
	pipe, err := watcher.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watcher.Start(); err != nil {
		t.Fatal(err)
	}
	seen := make(chan bool, 1)
	go func() {
		for s := bufio.NewScanner(pipe); s.Scan(); {
			if strings.Contains(s.Text(), `name="seen`) {
				seen <- true
				return
			}
		}
		seen <- false
	}()
	for i := 0; ; i++ { // until the watcher listens
		w.write(fmt.Sprintf("seen%d", i), "abc")
		select {
		case ok := <-seen:
			if !ok {
				t.Error("the access log ended")
			}
		case <-time.After(20 * time.Millisecond):
			if i < 500 {
				continue
			}
			t.Error("nothing in the access log")
		}
		break
	}
	watcher.Process.Signal(syscall.SIGINT)
	if err := watcher.Wait(); err != nil {
		t.Errorf("access-log: %v", err)
	}

	if got := w.must("log-level", w.mnt); got != "INFO\n" {
		t.Errorf("log level: %q", got)
	}
	w.must("log-level", w.mnt, "debug")
	if got := w.must("log-level", w.mnt); got != "DEBUG\n" {
		t.Errorf("log level: %q", got)
	}
	w.refuse(1, "it is debug, info, warn or error", "log-level", w.mnt, "loud")
	w.must("umount", w.mnt)
	if text, err := os.ReadFile(filepath.Join(w.dir, "access.log")); err != nil || !strings.Contains(string(text), `name="f"`) {
		t.Errorf("access log file: %v", err)
	}
	if logs := w.logs(); !strings.Contains(logs, "msg=mounted") || !strings.Contains(logs, "msg=unmounted") {
		t.Errorf("log: %s", logs)
	}
}

// Everything works for users without privileges, by way of fusermount3.
func TestWithoutRoot(t *testing.T) {
	needFUSE(t)
	needRoot(t) // to become somebody else
	if _, err := exec.LookPath("fusermount3"); err != nil {
		if os.Getenv("MASSIF_REQUIRE_TOOLS") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if info, err := os.Stat("/dev/fuse"); err != nil || info.Mode().Perm()&0o006 != 0o006 {
		t.Skip("/dev/fuse is root's alone here (scripts/setup.sh opens it)")
	}
	w := newWorld(t)
	const nobody = 65534
	w.cred = &syscall.Credential{Uid: nobody, Gid: nobody}
	w.env = append(w.env, "XDG_RUNTIME_DIR="+w.dir)
	for dir := w.dir; strings.HasPrefix(dir, os.TempDir()) && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{w.dir, w.mnt} {
		if err := os.Chown(p, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	w.must("volume", "create", "v")
	w.must("mount", "v", w.mnt)
	script := exec.Command("/bin/sh", "-c", "cd "+w.mnt+" && mkdir d && echo hello >d/f && cat d/f && ln -s f d/l && rm d/l && chmod 600 d/f")
	script.SysProcAttr = &syscall.SysProcAttr{Credential: w.cred}
	if out, err := script.CombinedOutput(); err != nil || string(out) != "hello\n" {
		t.Errorf("work on the mount: %v\n%s%s", err, out, w.logs())
	}
	// Root sees the mount in the table, but not into it, and need not.
	if _, err := os.Stat(filepath.Join(w.mnt, "d")); err == nil {
		t.Error("root gets into a mount without allow_other")
	}
	if out := w.must("mounts"); !strings.Contains(out, "alive") {
		t.Errorf("mounts: %s", out)
	}
	w.must("umount", w.mnt)
	if w.mounted(w.mnt) {
		t.Error("still mounted")
	}
}

func TestMountHelper(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.must("volume", "create", "v")
	bin := filepath.Join(w.dir, "sbin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	w.must("install-helpers", bin)
	w.must("install-helpers", bin) // again, over its own links
	helper := func(name string, args ...string) result {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Env, cmd.Dir = w.env, w.dir
		return w.finish(cmd)
	}
	// As mount(8) calls it.
	r := helper("mount.massif", "v", w.mnt, "-s", "-v", "-o", "rw,noatime,_netdev,x-systemd.automount,quux=3")
	if r.code != 0 || !strings.Contains(r.out, `"noatime": true`) {
		t.Fatalf("mount.massif: %+v\n%s", r, w.logs())
	}
	w.write("f", "x")
	if r := helper("umount.fuse.massif", w.mnt, "-v"); r.code != 0 || w.mounted(w.mnt) {
		t.Errorf("umount.fuse.massif: %+v", r)
	}
	if r := helper("mount.massif", "v", w.mnt, "-f"); r.code != 0 || w.mounted(w.mnt) {
		t.Errorf("mount.massif -f: %+v", r)
	}
	if r := helper("mount.massif", "v", w.mnt, "-o", "quux=3"); r.code != 2 || !strings.Contains(r.err, `unknown option "quux"`) {
		t.Errorf("mount.massif with an unknown option: %+v", r)
	}
	if r := helper("mount.massif", "v"); r.code != 2 {
		t.Errorf("mount.massif without a mount point: %+v", r)
	}
	// As mount.fuse(8) calls it.
	w.must("v", w.mnt, "-o", "rw,noexec")
	if r := helper("umount.fuse.massif", w.mnt); r.code != 0 {
		t.Errorf("umount.fuse.massif: %+v", r)
	}
	// Files that are no links stay.
	if err := os.Remove(filepath.Join(bin, "mount.massif")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "mount.massif"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.refuse(1, "not touched", "install-helpers", bin)
}

func TestMountRefuses(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.must("volume", "create", "photos")
	file := filepath.Join(w.dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	damaged := filepath.Join(w.home, "volumes", "broken")
	if err := os.Mkdir(damaged, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(damaged, "volume.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := tree(t, w.dir)
	w.refuse(1, `there is no volume "fotos"; did you mean "photos"?`, "mount", "fotos", w.mnt)
	w.refuse(1, "does not exist", "mount", "photos", filepath.Join(w.dir, "nowhere"))
	w.refuse(1, "does not exist", "mount", "photos", filepath.Join(w.dir, "no", "where"))
	w.refuse(1, "is not a directory", "mount", "photos", file)
	w.refuse(1, "does not exist", "mount", "file:///no/such/dir", w.mnt)
	w.refuse(1, "lies inside the directory", "mount", "file://"+w.dir, w.mnt)
	w.refuse(1, "its record", "mount", "broken", w.mnt)
	w.refuse(2, "a URL must not hold secrets", "mount", "s3://bucket/prefix?secret-key=x", w.mnt)
	w.refuse(2, `unknown option "noatme"; did you mean "noatime"?`, "mount", "photos", w.mnt, "-o", "noatme")
	w.refuse(2, "unknown flag --memory-limt; did you mean --memory-limit?", "mount", "photos", w.mnt, "--memory-limt", "1G")
	w.refuse(2, "too little", "mount", "photos", w.mnt, "--memory-limit", "1MiB")
	w.refuse(2, "contradict", "mount", "photos", w.mnt, "-o", "ro,writeback")
	w.refuse(2, "SOURCE is missing", "mount")
	w.refuse(2, "MOUNTPOINT is missing", "mount", "photos")
	w.refuse(2, "too many arguments", "mount", "photos", w.mnt, "more")
	w.refuse(1, "no such file", "mount", "./photos", w.mnt)
	after := tree(t, w.dir)
	for name, content := range before {
		if got, ok := after[name]; !ok || got != content {
			t.Errorf("%s was changed", name)
		}
	}
	if len(after) != len(before) {
		t.Errorf("files came: %d instead of %d", len(after), len(before))
	}
}

func TestPrintSpec(t *testing.T) {
	w := newWorld(t)
	out := w.must("mount", "photos", "/mnt", "--print-spec", "-o", "ro", "--umask", "022")
	spec, err := mount.ParseSpec([]byte(out))
	if err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if !spec.Mount.ReadOnly || *spec.Mount.Umask != 0o22 || spec.Tree.Kind != "volume" {
		t.Errorf("spec: %s", out)
	}
}
