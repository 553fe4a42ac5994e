package fuse_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/door/fuse"
	"github.com/massif-fs/massif/tree/local"
)

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
