package fuse_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/door/fuse"
	"github.com/massif-fs/massif/vfs"
)

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
