package fuse_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/door/fuse"
	"github.com/massif-fs/massif/tree/local"
	"github.com/massif-fs/massif/vfs"
)

// TestInterrupt: a signal reaches a call that takes long, and ends it.
func TestInterrupt(t *testing.T) {
	started, ended := make(chan struct{}), make(chan error, 1)
	h := &hookFS{onWait: func(ctx context.Context, name string) error {
		if name != "slow" {
			return nil
		}
		close(started)
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Second):
		}
		ended <- ctx.Err()
		return ctx.Err()
	}}
	mnt, _, _ := mountHook(t, h, fuse.Options{})
	stat := exec.Command("stat", filepath.Join(mnt, "slow"))
	if err := stat.Start(); err != nil {
		t.Fatal(err)
	}
	<-started
	if err := stat.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the context says %v", err)
	}
	if err := stat.Wait(); err == nil {
		t.Error("stat ended well")
	}
}

func TestPanic(t *testing.T) {
	var logged logBuffer
	h := &hookFS{onNames: func(name string) {
		if name == "panic" {
			panic("as asked")
		}
	}}
	mnt, _, s := mountHook(t, h, fuse.Options{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if _, err := os.Stat(filepath.Join(mnt, "panic")); !errors.Is(err, syscall.EIO) {
		t.Fatalf("%v, want EIO", err)
	}
	if err := os.WriteFile(filepath.Join(mnt, "f"), []byte("alive"), 0o644); err != nil {
		t.Fatal(err)
	}
	if n := s.Stats().Panics; n != 1 {
		t.Errorf("%d panics counted", n)
	}
	if n := s.Stats().InFlight; n > 1 {
		t.Errorf("%d requests in flight", n)
	}
	if out := logged.String(); !strings.Contains(out, "as asked") || !strings.Contains(out, "hookFS") {
		t.Errorf("the log has no stack: %s", out)
	}
}

// TestErrorIsLoggedOnce: an EIO reaches the program and, rarely, the log.
func TestErrorIsLoggedOnce(t *testing.T) {
	var logged logBuffer
	h := &hookFS{onRead: func(context.Context) error {
		return &vfs.Error{Op: "read", Name: "f", Err: errors.New("the disk is on fire")}
	}}
	mnt, dir, _ := mountHook(t, h, fuse.Options{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := os.ReadFile(filepath.Join(mnt, "f")); !errors.Is(err, syscall.EIO) {
			t.Fatalf("%v, want EIO", err)
		}
	}
	if n := strings.Count(logged.String(), "the disk is on fire"); n != 1 {
		t.Errorf("logged %d times: %s", n, logged.String())
	}
}

func TestReadOnly(t *testing.T) {
	for _, stateless := range []fuse.Tristate{fuse.Off, fuse.On} {
		h := &hookFS{}
		mnt, dir, _ := mountHook(t, h, fuse.Options{ReadOnly: true, Stateless: stateless})
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		p := filepath.Join(mnt, "f")
		if b, err := os.ReadFile(p); err != nil || string(b) != "x" {
			t.Errorf("%q, %v", b, err)
		}
		for what, err := range map[string]error{
			"write": os.WriteFile(p, nil, 0o644), "mkdir": os.Mkdir(p+"d", 0o755), "remove": os.Remove(p),
			"chmod": os.Chmod(p, 0o600), "rename": os.Rename(p, p+"2"), "truncate": os.Truncate(p, 0),
			"setxattr": unix.Setxattr(p, "user.x", nil, 0),
		} {
			if !errors.Is(err, syscall.EROFS) {
				t.Errorf("%s: %v, want EROFS", what, err)
			}
		}
	}
}

func TestAllowOther(t *testing.T) {
	needFUSE(t)
	for _, allow := range []bool{false, true} {
		mnt, _, _ := mountLocal(t, local.Options{}, fuse.Options{AllowOther: allow})
		os.Chmod(mnt, 0o755)
		for p := filepath.Dir(mnt); strings.HasPrefix(p, os.TempDir()+"/"); p = filepath.Dir(p) {
			os.Chmod(p, 0o755)
		}
		ls := exec.Command("ls", mnt)
		ls.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1001, Gid: 1001}}
		out, err := ls.CombinedOutput()
		if (err == nil) != allow {
			t.Errorf("allow_other %v: %v %s", allow, err, out)
		}
	}
}

func TestOwnerOverride(t *testing.T) {
	uid, gid, umask := uint32(1001), uint32(1002), uint32(0o027)
	mnt, _, _ := mountLocal(t, local.Options{}, fuse.Options{UID: &uid, GID: &gid, Umask: &umask})
	p := filepath.Join(mnt, "f")
	if err := os.WriteFile(p, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		t.Fatal(err)
	}
	if st.Uid != uid || st.Gid != gid || st.Mode&0o777 != 0o640 {
		t.Errorf("%d:%d %o", st.Uid, st.Gid, st.Mode)
	}
}

type recorder struct {
	n     atomic.Int64
	bytes atomic.Int64
}

func (r *recorder) Record(op int, d time.Duration, bytes int, errno syscall.Errno) {
	r.n.Add(1)
	if op == fuse.OpWrite {
		r.bytes.Add(int64(bytes))
	}
}

func TestRecorderAndAccessLog(t *testing.T) {
	var rec recorder
	var mu sync.Mutex
	names := map[string]bool{}
	mnt, _, s := mountLocal(t, local.Options{}, fuse.Options{
		Passthrough: fuse.Off, Recorder: &rec,
		AccessLog: func(a *fuse.Access) {
			mu.Lock()
			defer mu.Unlock()
			names[fuse.OpName(a.Op)+" "+a.Name] = true
			if a.PID == 0 && a.Op == fuse.OpMkdir {
				t.Error("no pid")
			}
		},
	})
	if err := os.WriteFile(filepath.Join(mnt, "f"), []byte("12345"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(mnt, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if !names["create f"] || !names["mkdir d"] || rec.n.Load() == 0 || rec.bytes.Load() != 5 {
		t.Errorf("%v, %d requests, %d bytes", names, rec.n.Load(), rec.bytes.Load())
	}
	var written uint64
	for _, op := range s.Stats().Ops {
		if op.Op == "write" {
			written = op.Bytes
		}
	}
	if written != 5 {
		t.Errorf("%d bytes in the statistics", written)
	}
}

func TestBadMounts(t *testing.T) {
	needFUSE(t)
	tree, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	file := filepath.Join(t.TempDir(), "file")
	os.WriteFile(file, nil, 0o644)
	for _, tc := range []struct {
		point string
		o     fuse.Options
		want  string
	}{
		{filepath.Join(t.TempDir(), "none"), fuse.Options{}, "no such file"},
		{file, fuse.Options{}, "not a directory"},
		{t.TempDir(), fuse.Options{Extra: []string{"nonsense"}}, "nonsense"},
		{t.TempDir(), fuse.Options{Extra: []string{"a,b"}}, "one by one"},
		{t.TempDir(), fuse.Options{Subtype: "a b"}, "subtype"},
		{t.TempDir(), fuse.Options{WritebackCache: fuse.On}, "write-back"},
		{t.TempDir(), fuse.Options{Stateless: fuse.On, Passthrough: fuse.On}, "passthrough"},
	} {
		s, err := fuse.Mount(tree, tc.point, tc.o)
		if err == nil {
			s.Unmount()
			t.Errorf("%s with %+v was mounted", tc.point, tc.o)
		} else if !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v, want something about %q", err, tc.want)
		}
	}
}

// TestNoLabels: on a host without SELinux a file without a label is one of a file system
// without labels; a label that was set is told.
func TestNoLabels(t *testing.T) {
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err == nil {
		t.Skip("this host runs SELinux")
	}
	mnt, _, _ := mountLocal(t, local.Options{}, fuse.Options{})
	p := filepath.Join(mnt, "f")
	if err := os.WriteFile(p, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if _, err := unix.Getxattr(p, "security.selinux", buf); err != unix.EOPNOTSUPP {
		t.Errorf("label of a file without one: %v", err)
	}
	if _, err := unix.Getxattr(p, "security.other", buf); err != unix.ENODATA {
		t.Errorf("another attribute: %v", err)
	}
	if err := unix.Setxattr(p, "security.selinux", []byte("u:r:t"), 0); err != nil {
		t.Skip(err)
	}
	if n, err := unix.Getxattr(p, "security.selinux", buf); err != nil || string(buf[:n]) != "u:r:t" {
		t.Errorf("label %q, %v", buf[:max(n, 0)], err)
	}
}
