package fuse_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/door/fuse"
	"github.com/massif-fs/massif/tree/local"
	"github.com/massif-fs/massif/vfs"
)

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
