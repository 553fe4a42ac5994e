package kernel

import (
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestPossibleCPUs(t *testing.T) {
	for list, want := range map[string]int{"0\n": 1, "0-1\n": 2, "0-3,8-9": 6, "0,2,4": 3, "": 0, "a": 0, "3-1": 0, "1-": 0} {
		n, err := possibleCPUs(list)
		if n != want && err == nil || (want == 0) != (err != nil) {
			t.Errorf("%q: %d, %v", list, n, err)
		}
	}
}

// TestRingStructures: sizes and places are those of the kernel's headers.
func TestRingStructures(t *testing.T) {
	var s submission
	var h entryHeaders
	for _, x := range []struct {
		what      string
		got, want uintptr
	}{
		{"io_uring_sqe", unsafe.Sizeof(s), 128}, {"io_uring_sqe.addr", unsafe.Offsetof(s.addr), 16},
		{"io_uring_sqe.user_data", unsafe.Offsetof(s.userData), 32}, {"io_uring_sqe.cmd", unsafe.Offsetof(s.cmd), 48},
		{"io_uring_cqe", unsafe.Sizeof(completion{}), 16}, {"io_uring_params", unsafe.Sizeof(ringParams{}), 120},
		{"fuse_uring_req_header", unsafe.Sizeof(h), 288}, {"fuse_uring_ent_in_out", unsafe.Offsetof(h.flags), 256},
		{"payload_sz", unsafe.Offsetof(h.payload), 272}, {"fuse_uring_cmd_req", unsafe.Sizeof(entryCmd{}), 24},
	} {
		if x.got != x.want {
			t.Errorf("%s: %d, not %d", x.what, x.got, x.want)
		}
	}
}

// TestQueueRescue: a handler that takes long without having done so before does not
// keep others waiting, also not those of its own processor, and what they answer is
// right.
func TestQueueRescue(t *testing.T) {
	var first atomic.Bool
	release := make(chan struct{})
	o := &oneFile{data: []byte("hello"), onRead: func(*Request) syscall.Errno {
		if first.CompareAndSwap(false, true) {
			<-release
		}
		return 0
	}}
	c, mnt := serve(t, o, Config{IOUring: true})
	if c.Init().Features&OverIOUring == 0 {
		t.Skip("the kernel does not offer io_uring")
	}
	fd, err := unix.Open(filepath.Join(mnt, "f"), unix.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var held, others sync.WaitGroup
	read := func() {
		b := make([]byte, 100)
		if n, err := unix.Pread(fd, b, 0); err != nil || string(b[:n]) != "hello" {
			t.Errorf("read %q, %v", b[:max(n, 0)], err)
		}
	}
	held.Go(read)
	wait(t, "one is held", first.Load)
	for range 4 {
		others.Go(func() {
			for range 50 {
				read()
				var st unix.Stat_t
				if err := unix.Fstat(fd, &st); err != nil {
					t.Error(err)
				}
			}
		})
	}
	others.Wait()
	close(release)
	held.Wait()
}

// TestQueueFull: more messages than there are entries are answered, in turn.
func TestQueueFull(t *testing.T) {
	o := &oneFile{data: []byte("hello"), onRead: func(*Request) syscall.Errno { time.Sleep(time.Millisecond); return 0 }}
	_, mnt := serve(t, o, Config{IOUring: true, MaxMemory: 64 * minEntries * minPayload})
	fd, err := unix.Open(filepath.Join(mnt, "f"), unix.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			if n, err := unix.Pread(fd, make([]byte, 10), 0); n != 5 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		})
	}
	all.Wait()
}

// TestRingsRefused: what cannot be is said before anything was agreed on.
func TestRingsRefused(t *testing.T) {
	mnt, fd := mountFuse(t)
	defer unix.Close(fd)
	_, err := Open(fd, Config{IOUring: true, Features: wanted, MaxMemory: 1}, &oneFile{})
	if err == nil {
		t.Fatal("queues without memory")
	}
	c, err := Open(fd, Config{Features: wanted}, &oneFile{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { c.Serve(); close(done) }()
	if _, err := os.Stat(filepath.Join(mnt, "f")); err != nil {
		t.Error(err)
	}
	if err := unix.Unmount(mnt, 0); err != nil {
		t.Error(err)
	}
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("it serves on")
	}
}
