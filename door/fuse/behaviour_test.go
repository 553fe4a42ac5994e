package fuse_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/door/fuse"
	"github.com/massif-fs/massif/tree/local"
	"github.com/massif-fs/massif/vfs"
)

// hookFS is a local tree that tests can make behave.
type hookFS struct {
	*local.FS
	vfs.Feed
	policy  vfs.Policy
	pins    sync.Map // vfs.Ino → *atomic.Int64
	onRead  func(ctx context.Context) error
	onNames func(name string)
	onWait  func(ctx context.Context, name string) error
}

func (h *hookFS) Policy() vfs.Policy { return h.policy }

func (h *hookFS) pinCount(ino vfs.Ino) *atomic.Int64 {
	c, _ := h.pins.LoadOrStore(ino, new(atomic.Int64))
	return c.(*atomic.Int64)
}

func (h *hookFS) Pin(ino vfs.Ino) {
	h.pinCount(ino).Add(1)
	h.FS.Pin(ino)
}

func (h *hookFS) Unpin(ino vfs.Ino) {
	h.pinCount(ino).Add(-1)
	h.FS.Unpin(ino)
}

func (h *hookFS) Lookup(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, out *vfs.Attr) error {
	if h.onNames != nil {
		h.onNames(name)
	}
	if h.onWait != nil {
		if err := h.onWait(ctx, name); err != nil {
			return err
		}
	}
	return h.FS.Lookup(ctx, c, parent, name, out)
}

func (h *hookFS) Open(ctx context.Context, c *vfs.Caller, ino vfs.Ino, flags int) (vfs.File, error) {
	f, err := h.FS.Open(ctx, c, ino, flags)
	if err != nil {
		return nil, err
	}
	return &hookFile{f, h}, nil
}

func (h *hookFS) OpenInode(ctx context.Context, ino vfs.Ino) (vfs.File, error) {
	f, err := h.FS.OpenInode(ctx, ino)
	if err != nil {
		return nil, err
	}
	return &hookFile{f, h}, nil
}

type hookFile struct {
	vfs.File
	fs *hookFS
}

func (f *hookFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if f.fs.onRead != nil {
		if err := f.fs.onRead(ctx); err != nil {
			return 0, err
		}
	}
	return f.File.ReadAt(ctx, p, off)
}

// mountHook mounts a hookFS over a fresh directory.
func mountHook(t testing.TB, h *hookFS, o fuse.Options) (mnt, dir string, s *fuse.Server) {
	t.Helper()
	needFUSE(t)
	dir, mnt = t.TempDir(), t.TempDir()
	tree, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h.FS = tree
	s, err = fuse.Mount(h, mnt, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Unmount(); err != nil {
			t.Errorf("unmount: %v", err)
			s.Abort()
		}
		tree.Close()
	})
	return mnt, dir, s
}

// logBuffer keeps what was logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// cached is a policy under which the kernel asks nothing twice.
var cached = vfs.Policy{EntryValid: vfs.Forever, AttrValid: vfs.Forever, NegativeValid: vfs.Forever, KeepCache: true}

func exclusive() vfs.Policy {
	p := cached
	p.Exclusive = true
	return p
}

// eventually waits for something that a notification brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in 10 s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

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

func TestInvalidation(t *testing.T) {
	h := &hookFS{policy: cached}
	mnt, dir, s := mountHook(t, h, fuse.Options{})
	ino := func(name string) vfs.Ino {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(mnt, name), &st); err != nil {
			t.Fatal(err)
		}
		return vfs.Ino(st.Ino)
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(mnt, name))
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	host := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	missing := func(name string) bool {
		_, err := os.Lstat(filepath.Join(mnt, name))
		return os.IsNotExist(err)
	}

	// A name that was not there.
	if !missing("new") {
		t.Fatal("new is there")
	}
	host("new", "one")
	if !missing("new") {
		t.Log("the kernel asked again by itself, perhaps after an earlier notification: this step tests nothing")
	}
	h.Send(vfs.Change{Kind: vfs.ChangeEntry, Parent: vfs.Root, Name: "new", Ino: 1, Remote: true})
	eventually(t, "a new name", func() bool { return !missing("new") })

	// Data, and the size with them.
	if got := read("new"); got != "one" {
		t.Fatal(got)
	}
	host("new", "twotwo")
	if got := read("new"); got == "twotwo" {
		t.Log("the kernel asked again by itself, perhaps after an earlier notification: this step tests nothing")
	}
	h.Send(vfs.Change{Kind: vfs.ChangeData, Ino: ino("new"), Len: -1, Remote: true})
	eventually(t, "new data", func() bool { return read("new") == "twotwo" })

	// Attributes, of a file that is not read: a read makes the kernel ask for the
	// access time.
	host("unread", "")
	h.Send(vfs.Change{Kind: vfs.ChangeEntry, Parent: vfs.Root, Name: "unread", Remote: true})
	mode := func() os.FileMode {
		fi, err := os.Stat(filepath.Join(mnt, "unread"))
		if err != nil {
			t.Fatal(err)
		}
		return fi.Mode().Perm()
	}
	mode()
	if err := os.Chmod(filepath.Join(dir, "unread"), 0o600); err != nil {
		t.Fatal(err)
	}
	if mode() != 0o644 {
		t.Log("the kernel asked again by itself, perhaps after an earlier notification: this step tests nothing")
	}
	h.Send(vfs.Change{Kind: vfs.ChangeAttr, Ino: ino("unread"), Remote: true})
	eventually(t, "new mode", func() bool { return mode() == 0o600 })
	if err := os.Remove(filepath.Join(mnt, "unread")); err != nil {
		t.Fatal(err)
	}

	// Own changes are no reason to forget anything.
	before := s.Stats().Invalidations
	h.Send(vfs.Change{Kind: vfs.ChangeAll})
	h.Send(vfs.Change{Kind: vfs.ChangeAttr, Ino: ino("new")})

	// A removed name, and the listing.
	if l, _ := os.ReadDir(mnt); len(l) != 1 {
		t.Fatal(l)
	}
	if err := os.Remove(filepath.Join(dir, "new")); err != nil {
		t.Fatal(err)
	}
	if missing("new") {
		t.Log("the kernel asked again by itself, perhaps after an earlier notification: this step tests nothing")
	}
	h.Send(vfs.Change{Kind: vfs.ChangeEntry, Parent: vfs.Root, Name: "new", Remote: true})
	eventually(t, "a removed name", func() bool { return missing("new") })
	eventually(t, "a shorter listing", func() bool { l, _ := os.ReadDir(mnt); return len(l) == 0 })
	if after := s.Stats().Invalidations; after <= before {
		t.Errorf("%d invalidations, before %d", after, before)
	}

	// Everything at once, by word or by too many words.
	for _, all := range []func(){
		func() { h.Send(vfs.Change{Kind: vfs.ChangeAll, Remote: true}) },
		func() {
			for i := range 100_000 {
				h.Send(vfs.Change{Kind: vfs.ChangeEntry, Parent: vfs.Root, Name: fmt.Sprint(i), Remote: true})
			}
		},
	} {
		host("a", "old")
		eventually(t, "a", func() bool { h.Send(vfs.Change{Kind: vfs.ChangeAll, Remote: true}); return read("a") == "old" })
		was := s.Stats().InvalidationsAll
		host("a", "new")
		if err := os.Mkdir(filepath.Join(dir, "b"), 0o755); err != nil {
			t.Fatal(err)
		}
		all()
		eventually(t, "everything dropped", func() bool { return s.Stats().InvalidationsAll > was })
		eventually(t, "new data", func() bool { return read("a") == "new" })
		eventually(t, "new name", func() bool { return !missing("b") })
		if err := os.Remove(filepath.Join(dir, "b")); err != nil {
			t.Fatal(err)
		}
		h.Send(vfs.Change{Kind: vfs.ChangeAll, Remote: true})
		eventually(t, "name gone", func() bool { return missing("b") })
	}
}

// TestInvalidationBehindLock: while a request runs in a directory its names cannot
// be invalidated; the notifier must neither wait for ever nor skip anything.
func TestInvalidationBehindLock(t *testing.T) {
	h := &hookFS{policy: cached}
	held, release := make(chan struct{}), make(chan struct{})
	h.onNames = func(name string) {
		if name == "slow" {
			close(held)
			<-release
		}
	}
	mnt, dir, _ := mountHook(t, h, fuse.Options{})
	let := sync.OnceFunc(func() { close(release) })
	t.Cleanup(let)
	if err := os.Mkdir(filepath.Join(dir, "other"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(mnt, "none")); !os.IsNotExist(err) {
		t.Fatal(err)
	}
	// By a descriptor: when the epoch has changed, the way through the locked
	// directory waits for the lock.
	var st unix.Stat_t
	other, err := unix.Open(filepath.Join(mnt, "other"), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(other) })
	if err := unix.Fstat(other, &st); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fstatat(other, "none", new(unix.Stat_t), 0); err != unix.ENOENT {
		t.Fatal(err)
	}
	// A create holds the directory's lock while it looks the name up.
	done := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(filepath.Join(mnt, "slow"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
		if err == nil {
			f.Close()
		}
		done <- err
	}()
	<-held
	for _, name := range []string{"none", "other/none"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 { // more than there are senders
		h.Send(vfs.Change{Kind: vfs.ChangeEntry, Parent: vfs.Root, Name: "none", Ino: 1, Remote: true})
	}
	h.Send(vfs.Change{Kind: vfs.ChangeEntry, Parent: vfs.Ino(st.Ino), Name: "none", Ino: 1, Remote: true})
	eventually(t, "the other directory's new name", func() bool {
		return unix.Fstatat(other, "none", new(unix.Stat_t), 0) == nil
	})
	let()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new name", func() bool {
		_, err := os.Stat(filepath.Join(mnt, "none"))
		return err == nil
	})
}

// TestPins: each inode that the kernel knows is pinned once, and none in the end.
func TestPins(t *testing.T) {
	for _, stateless := range []fuse.Tristate{fuse.Off, fuse.On} {
		t.Run("stateless-"+stateless.String(), func(t *testing.T) {
			h := &hookFS{policy: exclusive()}
			mnt, _, s := mountHook(t, h, fuse.Options{Stateless: stateless, MaxOpenInodes: 1})
			var wg sync.WaitGroup
			for w := range 4 {
				wg.Go(func() {
					for i := range 100 {
						p := filepath.Join(mnt, fmt.Sprintf("%d-%d", w, i%10))
						if err := os.WriteFile(p, []byte("x"), 0o644); err != nil {
							t.Error(err)
							return
						}
						os.Stat(p)
						os.ReadDir(mnt)
						if i%2 == 0 {
							os.Remove(p)
						}
					}
				})
			}
			wg.Wait()
			h.pins.Range(func(ino, c any) bool {
				if n := c.(*atomic.Int64).Load(); n < 0 || n > 1 {
					t.Errorf("inode %d is pinned %d times", ino, n)
				}
				return true
			})
			// Unlinked but open, and forgotten by nobody.
			f, err := os.Create(filepath.Join(mnt, "f"))
			if err != nil {
				t.Fatal(err)
			}
			f.WriteString("kept")
			os.Remove(f.Name())
			b := make([]byte, 4)
			if _, err := f.ReadAt(b, 0); err != nil || string(b) != "kept" {
				t.Errorf("%q, %v", b, err)
			}
			f.Close()
			if err := s.Unmount(); err != nil {
				t.Fatal(err)
			}
			h.pins.Range(func(ino, c any) bool {
				if n := c.(*atomic.Int64).Load(); n != 0 {
					t.Errorf("inode %d is pinned %d times after unmount", ino, n)
				}
				return true
			})
			if st := s.Stats(); st.OpenFiles != 0 || st.Handles != 0 || st.Nodes != 0 || st.InFlight != 0 {
				t.Errorf("left behind: %+v", st)
			}
		})
	}
}

func TestUnmountBusy(t *testing.T) {
	mnt, _, s := mountLocal(t, local.Options{}, fuse.Options{})
	f, err := os.Create(filepath.Join(mnt, "f"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Unmount(); !errors.Is(err, syscall.EBUSY) {
		t.Fatalf("unmount with an open file: %v", err)
	}
	if _, err := f.WriteString("still mounted"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := s.Unmount(); err != nil {
		t.Fatal(err)
	}
	if err := s.Unmount(); err != nil {
		t.Fatalf("second unmount: %v", err)
	}
	s.Wait()
	if l, err := os.ReadDir(mnt); err != nil || len(l) != 0 {
		t.Errorf("the mount point has %v, %v", l, err)
	}
}

func TestUnmountBySomebodyElse(t *testing.T) {
	mnt, _, s := mountLocal(t, local.Options{}, fuse.Options{})
	if err := unix.Unmount(mnt, 0); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the server does not end")
	}
}

func TestDetach(t *testing.T) {
	mnt, _, s := mountLocal(t, local.Options{}, fuse.Options{})
	f, err := os.Create(filepath.Join(mnt, "f"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Detach(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(mnt, "f")); !os.IsNotExist(err) {
		t.Errorf("the name is still there: %v", err)
	}
	if _, err := f.WriteString("x"); err != nil {
		t.Errorf("write after detach: %v", err)
	}
	f.Close()
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the server does not end after the last close")
	}
}

func TestAbort(t *testing.T) {
	mnt, _, s := mountLocal(t, local.Options{}, fuse.Options{Passthrough: fuse.Off})
	f, err := os.Create(filepath.Join(mnt, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := s.Abort(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the server does not end")
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("a write after the abort went well")
	}
	if l, err := os.ReadDir(mnt); err != nil || len(l) != 0 {
		t.Errorf("the mount point has %v, %v", l, err)
	}
}

// TestAbortedBySomebodyElse: the dead mount is cleared away.
func TestAbortedBySomebodyElse(t *testing.T) {
	mnt, _, s := mountLocal(t, local.Options{}, fuse.Options{})
	if err := fuse.AbortConnection(s); err != nil {
		t.Skip(err)
	}
	s.Wait()
	if err := s.Unmount(); err != nil {
		t.Fatal(err)
	}
	if l, err := os.ReadDir(mnt); err != nil || len(l) != 0 {
		t.Errorf("the mount point has %v, %v", l, err)
	}
}

func TestMaxIdle(t *testing.T) {
	mnt, _, s := mountLocal(t, local.Options{}, fuse.Options{MaxIdle: 50 * time.Millisecond, Logger: quiet})
	f, err := os.Create(filepath.Join(mnt, "f"))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Done():
		t.Fatal("unmounted with an open file")
	case <-time.After(300 * time.Millisecond):
	}
	f.Close()
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("still mounted")
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

// TestNoLeaks: nothing of a mount is left when it is gone.
func TestNoLeaks(t *testing.T) {
	needFUSE(t)
	ignore := goleak.IgnoreCurrent()
	fds := func() int { l, _ := os.ReadDir("/proc/self/fd"); return len(l) }
	before := fds()
	for range 3 {
		tree, err := local.Open(t.TempDir(), local.Options{Exclusive: true})
		if err != nil {
			t.Fatal(err)
		}
		mnt := t.TempDir()
		s, err := fuse.Mount(&hookFS{FS: tree, policy: exclusive()}, mnt, fuse.Options{MaxIdle: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		os.WriteFile(filepath.Join(mnt, "f"), []byte("x"), 0o644)
		if err := s.Unmount(); err != nil {
			t.Fatal(err)
		}
		tree.Close()
	}
	if after := fds(); after > before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
	goleak.VerifyNone(t, ignore)
}

// lockFS is a shared tree with locks, which the kernel must send here.
type lockFS struct {
	*hookFS
	mu    sync.Mutex
	free  *sync.Cond
	locks []vfs.Lock
}

func (l *lockFS) conflict(want vfs.Lock) *vfs.Lock {
	for i, have := range l.locks {
		if have.Kind == want.Kind && have.Owner != want.Owner && have.Start <= want.End && want.Start <= have.End &&
			(have.Type == vfs.LockWrite || want.Type == vfs.LockWrite) && want.Type != vfs.LockUnlock {
			return &l.locks[i]
		}
	}
	return nil
}

func (l *lockFS) GetLock(ctx context.Context, ino vfs.Ino, lock vfs.Lock) (vfs.Lock, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.conflict(lock); c != nil {
		return *c, nil
	}
	lock.Type = vfs.LockUnlock
	return lock, nil
}

func (l *lockFS) SetLock(ctx context.Context, ino vfs.Ino, lock vfs.Lock, wait bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer context.AfterFunc(ctx, l.free.Broadcast)()
	for l.conflict(lock) != nil {
		if !wait {
			return syscall.EAGAIN
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		l.free.Wait()
	}
	// No splitting: the test locks and unlocks the same ranges.
	l.locks = slices.DeleteFunc(l.locks, func(h vfs.Lock) bool {
		return h.Kind == lock.Kind && h.Owner == lock.Owner && lock.Start <= h.Start && h.End <= lock.End
	})
	if lock.Type != vfs.LockUnlock {
		l.locks = append(l.locks, lock)
	}
	l.free.Broadcast()
	return nil
}

func (l *lockFS) ReleaseLocks(ctx context.Context, ino vfs.Ino, owner uint64, kind vfs.LockKind) error {
	return l.SetLock(ctx, ino, vfs.Lock{Kind: kind, Owner: owner, End: vfs.LockEOF}, false)
}

// TestLocks: locks of a shared tree are the tree's.
func TestLocks(t *testing.T) {
	needFUSE(t)
	tree, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	l := &lockFS{hookFS: &hookFS{FS: tree}}
	l.free = sync.NewCond(&l.mu)
	mnt := t.TempDir()
	s, err := fuse.Mount(l, mnt, fuse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Unmount(); err != nil {
			t.Error(err)
		}
	}()
	open := func() *os.File {
		f, err := os.OpenFile(filepath.Join(mnt, "f"), os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	held := func() (n int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.locks)
	}
	a, b := open(), open()
	if err := unix.Flock(int(a.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EWOULDBLOCK {
		t.Errorf("second flock: %v", err)
	}
	if held() != 1 {
		t.Errorf("the tree has %d locks", held())
	}
	got := make(chan error, 1)
	go func() { got <- unix.Flock(int(b.Fd()), unix.LOCK_EX) }()
	select {
	case err := <-got:
		t.Fatalf("a lock that is held was given: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	a.Close() // gives the lock back
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	b.Close()
	eventually(t, "flock released", func() bool { return held() == 0 })

	c := open()
	fl := unix.Flock_t{Type: unix.F_WRLCK, Start: 10, Len: 5}
	if err := unix.FcntlFlock(c.Fd(), unix.F_SETLK, &fl); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	if len(l.locks) != 1 || l.locks[0].Kind != vfs.LockPOSIX || l.locks[0].Start != 10 || l.locks[0].End != 14 || l.locks[0].PID == 0 {
		t.Errorf("%+v", l.locks)
	}
	l.mu.Unlock()
	// Another process asks who holds it.
	other := exec.Command("flock", "--fcntl", "-n", filepath.Join(mnt, "f"), "true")
	if err := other.Run(); err == nil {
		t.Error("another process got the lock")
	}
	c.Close()
	if held() != 0 {
		t.Errorf("after close the tree has %d locks", held())
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
