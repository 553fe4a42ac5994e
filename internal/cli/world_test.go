package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The tests of this package run the program as people do: built once, with a home
// of its own for each test.

var binary string // path of the program under test

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "massif-cli")
	if err != nil {
		panic(err)
	}
	code := func() int {
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o755); err != nil { // tests without root run it too
			panic(err)
		}
		binary = filepath.Join(dir, "massif")
		// The flags are those of the Makefile: what is compiled already is not compiled again.
		build := exec.Command("go", "build", "-trimpath", "-o", binary, "github.com/massif-fs/massif/cmd/massif")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
		// Parallel tests are those that mostly wait.
		flag.Parse()
		set := false
		flag.Visit(func(f *flag.Flag) { set = set || f.Name == "test.parallel" })
		if !set {
			flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
		}
		return m.Run()
	}()
	os.Exit(code)
}

// world is a home of volumes and a mount point.
type world struct {
	t    *testing.T
	dir  string
	home string
	mnt  string
	env  []string
	cred *syscall.Credential
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, home: filepath.Join(dir, "home"), mnt: filepath.Join(dir, "mnt")}
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); name != "MASSIF_HOME" && name != "NOTIFY_SOCKET" && !strings.HasPrefix(name, "AWS_") && !strings.HasPrefix(name, "AZURE_") && !strings.HasPrefix(name, "GOOGLE_") {
			w.env = append(w.env, kv)
		}
	}
	w.env = append(w.env, "MASSIF_HOME="+w.home, "LC_ALL=C")
	if err := os.Mkdir(w.mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Whatever failed: nothing of this test stays mounted.
		for range 8 {
			if !w.mounted(w.mnt) {
				break
			}
			w.run("umount", "--force", w.mnt)
			if w.mounted(w.mnt) {
				syscall.Unmount(w.mnt, syscall.MNT_DETACH)
			}
		}
	})
	return w
}

// needFUSE skips a test that mounts where that is impossible.
func needFUSE(t *testing.T) {
	t.Helper()
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		if os.Getenv("MASSIF_REQUIRE_TOOLS") != "" {
			t.Fatalf("FUSE is required: %v", err)
		}
		t.Skipf("no FUSE: %v", err)
	} else {
		f.Close()
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// result is how a run of the program ended.
type result struct {
	out, err string
	code     int
}

func (w *world) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = w.env
	cmd.Dir = w.dir
	if w.cred != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: w.cred}
	}
	return cmd
}

// run runs the program and returns how it ended. It has three minutes.
func (w *world) run(args ...string) result {
	w.t.Helper()
	return w.finish(w.command(args...))
}

func (w *world) finish(cmd *exec.Cmd) result {
	w.t.Helper()
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	timer := time.AfterFunc(3*time.Minute, func() { cmd.Process.Kill() })
	err := cmd.Wait()
	if !timer.Stop() {
		w.t.Fatalf("massif %q took more than three minutes", cmd.Args[1:])
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// must runs the program, which must succeed, and returns its output.
func (w *world) must(args ...string) string {
	w.t.Helper()
	r := w.run(args...)
	if r.code != 0 {
		w.t.Fatalf("massif %q: exit status %d\n%s%s%s", args, r.code, r.out, r.err, w.logs())
	}
	return r.out
}

// refuse runs the program, which must fail with the exit status and one line that
// holds want.
func (w *world) refuse(code int, want string, args ...string) {
	w.t.Helper()
	r := w.run(args...)
	line := strings.TrimSuffix(r.err, "\n")
	switch {
	case r.code != code:
		w.t.Errorf("massif %q: exit status %d, want %d; %s", args, r.code, code, line)
	case !strings.HasPrefix(line, "massif: ") || strings.Contains(line, "\n"):
		w.t.Errorf("massif %q: the error is not one line: %q", args, r.err)
	case !strings.Contains(line, want):
		w.t.Errorf("massif %q: %q does not say %q", args, line, want)
	}
}

// mustJSON runs the program with --json and decodes what it prints.
func (w *world) mustJSON(into any, args ...string) {
	w.t.Helper()
	out := w.must(append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		w.t.Fatalf("massif %q: %v in %s", args, err, out)
	}
}

func (w *world) mounted(point string) bool {
	w.t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.Contains(string(data), " "+point+" ")
}

func (w *world) write(name, content string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.mnt, name), []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) read(name string) string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.mnt, name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(data)
}

// logs returns what the mounts have logged.
func (w *world) logs() string {
	var b strings.Builder
	files, _ := filepath.Glob(filepath.Join(w.home, "log", "*.log"))
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err == nil {
			fmt.Fprintf(&b, "-- %s\n%s", f, data)
		}
	}
	return b.String()
}

// tree lists a directory with the content of its files, to see whether anything
// changed; logs are left out.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel == "home/log" || rel == "log" {
				return filepath.SkipDir
			}
			out[rel+"/"] = ""
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		out[rel] = string(data)
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return out
}

// eventually waits for something that another process does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
