package kernel

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/internal/leak"
)

// oneFile is a file system with a file "f" (node 2), whose reads can be made to wait.
type oneFile struct {
	echo
	data   []byte
	onRead func(q *Request) syscall.Errno
	reads  atomic.Int64
	stats  atomic.Int64
}

func (o *oneFile) attr(node uint64) Attr {
	if node == RootID {
		return Attr{Ino: node, Mode: syscall.S_IFDIR | 0755, Nlink: 2}
	}
	return Attr{Ino: node, Mode: syscall.S_IFREG | 0644, Nlink: 1, Size: uint64(len(o.data))}
}

func (o *oneFile) Lookup(q *Request, name string, out *EntryOut) syscall.Errno {
	if q.NodeID != RootID || name != "f" {
		return syscall.ENOENT
	}
	out.NodeID, out.EntryValid, out.Attr = 2, 1000, o.attr(2)
	return 0
}

func (o *oneFile) GetAttr(q *Request, in *GetAttrIn, out *AttrOut) syscall.Errno {
	o.stats.Add(1)
	out.Attr = o.attr(q.NodeID)
	return 0
}

func (o *oneFile) Open(q *Request, in *OpenIn, out *OpenOut) syscall.Errno {
	out.OpenFlags = FopenKeepCache
	return 0
}

func (o *oneFile) Read(q *Request, in *ReadIn, buf []byte) (int, syscall.Errno) {
	o.reads.Add(1)
	if o.onRead != nil {
		if errno := o.onRead(q); errno != 0 {
			return 0, errno
		}
	}
	return copy(buf, o.data[min(in.Offset, uint64(len(o.data))):]), 0
}

// Several messages are being handled at a time: no counting in echo.

func (o *oneFile) Forget(nodeID, n uint64)                       {}
func (o *oneFile) Release(q *Request, in *ReleaseIn)             {}
func (o *oneFile) Flush(q *Request, in *FlushIn) syscall.Errno   { return 0 }
func (o *oneFile) Access(q *Request, in *AccessIn) syscall.Errno { return syscall.ENOSYS }
func (o *oneFile) GetXattr(q *Request, name string, dest []byte) (int, syscall.Errno) {
	return 0, syscall.ENOSYS
}

const wanted = AsyncRead | BigWrites | MaxPages | ParallelDirOps | HasExpireOnly | HasResend | SetXattrExt

// mountFuse mounts without anybody who serves.
func mountFuse(t testing.TB) (mnt string, fd int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting in tests needs root")
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
	mnt = t.TempDir()
	if err := unix.Mount("test", mnt, "fuse.test", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)); err != nil {
		unix.Close(fd)
		t.Skipf("cannot mount here: %v", err)
	}
	// This process is server and user in one: if it should end with a call of its own
	// unanswered, it would never end. Whatever takes that long has failed.
	abort := func() { unix.Unmount(mnt, unix.MNT_FORCE|unix.MNT_DETACH) }
	timer := time.AfterFunc(3*time.Minute, abort)
	t.Cleanup(func() { timer.Stop(); abort() })
	return mnt, fd
}

// serve mounts and serves in this process until the test's end.
func serve(t testing.TB, h Handler, cfg Config) (c *Conn, mnt string) {
	t.Helper()
	mnt, fd := mountFuse(t)
	cfg.Features |= wanted
	cfg.IOUring = cfg.IOUring || os.Getenv("MASSIF_TEST_TRANSPORT") == "uring"
	c, err := Open(fd, cfg, h)
	if errors.Is(err, ErrNoRings) {
		unix.Close(fd)
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		c.Serve()
		close(served)
	}()
	t.Cleanup(func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Errorf("unmount: %v", err)
			unix.Unmount(mnt, unix.MNT_FORCE|unix.MNT_DETACH)
		}
		select {
		case <-served:
		case <-time.After(time.Minute):
			t.Fatal("still serving after the unmount")
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		leak.None(t)
	})
	if err := c.Prime(mnt); err != nil {
		t.Fatal(err)
	}
	return c, mnt
}

func wait(t testing.TB, what string, until func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !until(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("in vain: " + what)
		}
	}
}

// cat reads a file in another process, past the page cache: what the kernel reads into
// the cache has no caller.
func cat(t testing.TB, path string) (cmd *exec.Cmd, out *bytes.Buffer) {
	t.Helper()
	cmd, out = exec.Command("dd", "if="+path, "iflag=direct", "bs=4096", "status=none"), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// TestBlockedHandlers: many that wait do not keep others waiting, and in the end there
// are few readers again.
func TestBlockedHandlers(t *testing.T) {
	release := make(chan struct{})
	o := &oneFile{data: []byte("hello"), onRead: func(*Request) syscall.Errno { <-release; return 0 }}
	c, mnt := serve(t, o, Config{})
	if c.isSlow(opRead) {
		t.Error("reads are slow before the first one")
	}
	fd, err := unix.Open(filepath.Join(mnt, "f"), unix.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	const blocked = 20
	errs := make(chan error, blocked)
	for range blocked {
		go func() {
			b := make([]byte, 100)
			n, err := unix.Pread(fd, b, 0)
			if err == nil && string(b[:n]) != "hello" {
				err = fmt.Errorf("read %q", b[:n])
			}
			errs <- err
		}()
	}
	wait(t, "reads arrive", func() bool { return o.reads.Load() == blocked })
	wait(t, "it learns that reads are slow", func() bool { return c.isSlow(opRead) })
	before := o.stats.Load()
	var st unix.Stat_t
	for range 100 {
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
	}
	if o.stats.Load() < before+100 {
		t.Error("nobody was asked")
	}
	close(release)
	for range blocked {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	unix.Close(fd)
	wait(t, "readers end", func() bool { return c.readers.Load() <= c.target.Load() })
}

// waitLocks makes SETLKW wait.
type waitLocks struct {
	oneFile
	release chan struct{}
	locks   atomic.Int64
}

func (w *waitLocks) SetLkw(q *Request, in *LkIn) syscall.Errno {
	w.locks.Add(1)
	defer w.locks.Add(-1)
	select {
	case <-w.release:
		return 0
	case <-q.Interrupted():
		return syscall.EINTR
	}
}

func (w *waitLocks) SetLk(q *Request, in *LkIn) syscall.Errno { return 0 }

// TestWaitingLocks: who waits for a lock takes no reader, however many there are.
func TestWaitingLocks(t *testing.T) {
	w := &waitLocks{release: make(chan struct{})}
	c, mnt := serve(t, w, Config{Features: FlockLocks | PosixLocks, MaxMemory: 4 * minPayload})
	fd, err := unix.Open(filepath.Join(mnt, "f"), unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	const waiters = 100
	errs := make(chan error, waiters)
	for range waiters {
		go func() { errs <- unix.Flock(fd, unix.LOCK_EX) }()
	}
	wait(t, "all wait", func() bool { return w.locks.Load() == waiters })
	if n := c.Reading(); n > 4 {
		t.Errorf("%d readers", n)
	}
	// A caller that is killed waits no more.
	killed := exec.Command("flock", filepath.Join(mnt, "f"), "true")
	if err := killed.Start(); err != nil {
		t.Skip(err)
	}
	wait(t, "another waits", func() bool { return w.locks.Load() == waiters+1 })
	killed.Process.Kill()
	killed.Wait()
	wait(t, "it is gone", func() bool { return w.locks.Load() == waiters })
	close(w.release)
	for range waiters {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	unix.Close(fd)
}

// TestMemoryBound: no more messages than there are buffers are in progress, and the
// others get their turn.
func TestMemoryBound(t *testing.T) {
	var now, most atomic.Int64
	o := &oneFile{data: []byte("hello"), onRead: func(*Request) syscall.Errno {
		most.Store(max(most.Load(), now.Add(1)))
		time.Sleep(2 * time.Millisecond)
		now.Add(-1)
		return 0
	}}
	c, mnt := serve(t, o, Config{MaxMemory: 4 * minPayload})
	fd, err := unix.Open(filepath.Join(mnt, "f"), unix.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	errs := make(chan error)
	for range 40 {
		go func() { _, err := unix.Pread(fd, make([]byte, 10), 0); errs <- err }()
	}
	for range 40 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if c.maxReaders != 4 || most.Load() > 4 {
		t.Errorf("%d of %d at a time", most.Load(), c.maxReaders)
	}
}

// TestInterrupt: a signal to the caller reaches the handler.
func TestInterrupt(t *testing.T) {
	o := &oneFile{data: []byte("hello"), onRead: func(q *Request) syscall.Errno {
		select {
		case <-q.Interrupted():
			return syscall.EINTR
		case <-time.After(2 * time.Minute):
			return syscall.ETIMEDOUT
		}
	}}
	_, mnt := serve(t, o, Config{})
	for i := range int64(20) {
		cmd, out := cat(t, filepath.Join(mnt, "f"))
		wait(t, "the read arrives", func() bool { return o.reads.Load() > i })
		cmd.Process.Kill()
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatal("the killed process still waits")
		}
		if out.Len() != 0 {
			t.Errorf("it said %q", out)
		}
	}
}

// TestAbort: who is aborted interrupts what is in progress.
func TestAbort(t *testing.T) {
	mnt, fd := mountFuse(t)
	o := &oneFile{data: []byte("hello"), onRead: func(q *Request) syscall.Errno { <-q.Interrupted(); return syscall.EINTR }}
	c, err := Open(fd, Config{Features: wanted}, o)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { c.Serve(); close(served) }()
	cmd, _ := cat(t, filepath.Join(mnt, "f"))
	wait(t, "the read arrives", func() bool { return o.reads.Load() == 1 })
	if err := unix.Unmount(mnt, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the read succeeded")
	}
	<-served
	if _, err := c.Retrieve(context.Background(), 2, 0, 10); !errors.Is(err, syscall.ENOTCONN) {
		t.Error(err)
	}
	c.Close()
}

// TestNotifications: what they do to the kernel's caches.
func TestNotifications(t *testing.T) {
	o := &oneFile{data: bytes.Repeat([]byte("a"), 3*pageSize)}
	c, mnt := serve(t, o, Config{})
	f, err := os.Open(filepath.Join(mnt, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(all, o.data) {
		t.Fatal(len(all), err)
	}
	ok := func(what string, errno syscall.Errno) {
		t.Helper()
		if errno != 0 {
			t.Errorf("%s: %v", what, errno)
		}
	}
	reads := o.reads.Load()
	ok("store", c.Store(2, int64(pageSize), []byte("bbbb")))
	b := make([]byte, 6)
	if _, err := f.ReadAt(b, int64(pageSize)); err != nil || string(b) != "bbbbaa" {
		t.Errorf("after store %q, %v", b, err)
	}
	got, err := c.Retrieve(context.Background(), 2, int64(pageSize)-2, 8)
	if err != nil || string(got) != "aabbbbaa" {
		t.Errorf("retrieved %q, %v", got, err)
	}
	if o.reads.Load() != reads {
		t.Error("it read again")
	}
	ok("invalidate", c.InvalInode(2, int64(pageSize), int64(pageSize)))
	if _, err := f.ReadAt(b, int64(pageSize)); err != nil || string(b) != "aaaaaa" || o.reads.Load() == reads {
		t.Errorf("after invalidation %q, %v", b, err)
	}
	ok("attributes", c.InvalInode(2, -1, 0))
	ok("expire", c.InvalEntry(RootID, "f", ExpireOnly))
	ok("entry", c.InvalEntry(RootID, "f", 0))
	if errno := c.InvalEntry(RootID, "f", 0); errno != syscall.ENOENT {
		t.Errorf("entry again: %v", errno)
	}
	if errno := c.InvalInode(99, -1, 0); errno != syscall.ENOENT {
		t.Errorf("unknown inode: %v", errno)
	}
	if _, err := c.Retrieve(context.Background(), 99, 0, 8); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("retrieve of an unknown inode: %v", err)
	}
	if _, err := os.Stat(filepath.Join(mnt, "f")); err != nil { // the name is there again
		t.Fatal(err)
	}
	f.Close()
	ok("delete", c.Delete(RootID, 2, "f"))
	if c.Init().Minor >= 40 {
		ok("resend", c.Resend())
	}
	if c.Init().Minor >= 44 {
		ok("epoch", c.IncEpoch())
	}
	if c.Init().Minor >= 45 {
		ok("prune", c.Prune([]uint64{2, 99}))
	}
}

// TestWrongBacking: passthrough of what is no file.
func TestWrongBacking(t *testing.T) {
	c, _ := serve(t, &oneFile{}, Config{})
	if id, errno := c.RegisterBacking(^uintptr(0)); errno == 0 {
		t.Errorf("registered nothing as %d", id)
	}
	if errno := c.UnregisterBacking(77); errno == 0 {
		t.Error("gave back what was not registered")
	}
}

// The server of TestAdopt is another process, which can be killed.

const serverEnv = "MASSIF_TEST_KERNEL_SERVER"

func init() {
	if s, ok := os.LookupEnv(serverEnv); ok {
		if err := server(s); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// server serves descriptor 3: it opens it if state is empty, and then answers no
// read; else it adopts it.
func server(state string) error {
	cfg := Config{Features: wanted}
	if state == "" {
		c, err := Open(3, cfg, &oneFile{data: []byte("hello"), onRead: func(q *Request) syscall.Errno {
			fmt.Println("reading")
			select {}
		}})
		if err != nil {
			return err
		}
		b, err := json.Marshal(c.Init())
		if err != nil {
			return err
		}
		fmt.Println(string(b))
		c.Serve()
		return nil
	}
	var init Init
	if err := json.Unmarshal([]byte(state), &init); err != nil {
		return err
	}
	c, err := Adopt(3, init, cfg, &oneFile{data: []byte("hello"), onRead: func(q *Request) syscall.Errno {
		fmt.Println("resent", q.Resent())
		return 0
	}})
	if err != nil {
		return err
	}
	if errno := c.Resend(); errno != 0 {
		return errno
	}
	c.Serve()
	return nil
}

func startServer(t *testing.T, fd int, state string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(dup), "/dev/fuse")
	defer f.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverEnv+"="+state)
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd, bufio.NewReader(out)
}

// TestAdopt: a server is killed while a program waits for it; another one goes on, and
// the program notices nothing.
func TestAdopt(t *testing.T) {
	mnt, fd := mountFuse(t)
	defer unix.Close(fd)
	first, said := startServer(t, fd, "")
	state, err := said.ReadString('\n')
	if err != nil {
		t.Fatal(state, err)
	}
	var init Init
	if err := json.Unmarshal([]byte(state), &init); err != nil {
		t.Fatal(state, err)
	}
	if init.Features&HasResend == 0 {
		t.Skip("the kernel cannot send again")
	}
	program, out := cat(t, filepath.Join(mnt, "f"))
	if line, err := said.ReadString('\n'); line != "reading\n" {
		t.Fatal(line, err)
	}
	first.Process.Kill()
	first.Wait()

	second, said := startServer(t, fd, strings.TrimSpace(state))
	if line, err := said.ReadString('\n'); line != "resent true\n" {
		t.Error(line, err)
	}
	if err := program.Wait(); err != nil || out.String() != "hello" {
		t.Errorf("the program got %q, %v", out, err)
	}
	if err := unix.Unmount(mnt, 0); err != nil {
		t.Fatal(err)
	}
	if err := second.Wait(); err != nil {
		t.Error(err)
	}
}

// TestAdoptNothing: what cannot be a state is refused.
func TestAdoptNothing(t *testing.T) {
	if _, err := Adopt(0, Init{}, Config{}, &echo{}); err == nil {
		t.Error("adopted")
	}
}
