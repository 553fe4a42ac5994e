package local

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/vfs"
	"github.com/massif-fs/massif/vfs/vfstest"
)

func openDir(t *testing.T, opts Options) (*FS, string) {
	t.Helper()
	dir := t.TempDir()
	fs, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fs.Close() })
	return fs, dir
}

// MemoryDir makes a directory on tmpfs where there is one: another file system than
// the usual temporary directory's, and a faster one.
func MemoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "local")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

var (
	bg   = context.Background()
	self = &vfs.Caller{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
)

// TestWithoutHandles: the suite again, as for a process that may not open by handle.
func TestWithoutHandles(t *testing.T) {
	allowed := handlesAllowed
	handlesAllowed = func() bool { return false }
	defer func() { handlesAllowed = allowed }()
	vfstest.Run(t, vfstest.Factory{
		New: func(t testing.TB) vfs.FS {
			fs, err := Open(MemoryDir(t), Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { fs.Close() })
			return fs
		},
		Lacks: map[vfstest.Feature]string{
			vfstest.Feed:      "the host does not tell it of changes",
			vfstest.ZeroRange: "tmpfs has not",
		},
	})
}

// TestBounds: neither descriptors nor idle inodes grow with the number of files.
func TestBounds(t *testing.T) {
	fs, dir := openDir(t, Options{MaxDescriptors: 10, MaxIdle: 50})
	if !handlesAllowed() {
		t.Skip("needs handles")
	}
	for i := range 300 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte{byte(i)}, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fds := func() int { l, _ := os.ReadDir("/proc/self/fd"); return len(l) }
	before := fds()
	pinned := map[string]vfs.Ino{}
	var a vfs.Attr
	for i := range 300 {
		name := fmt.Sprint(i)
		if err := fs.Lookup(bg, self, vfs.Root, name, &a); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			fs.Pin(a.Ino)
			pinned[name] = a.Ino
		}
	}
	if n := fds() - before; n > 15 {
		t.Errorf("%d descriptors more", n)
	}
	if n := len(fs.table.byIno); n > 100+50+1 {
		t.Errorf("%d inodes", n)
	}
	// All pinned ones are still there, under other names too.
	for name, ino := range pinned {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(dir, "x"+name)); err != nil {
			t.Fatal(err)
		}
		if err := fs.GetAttr(bg, self, ino, &a); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var b vfs.Attr
		if err := fs.Lookup(bg, self, vfs.Root, "x"+name, &b); err != nil || b.Ino != ino || b.Gen != a.Gen {
			t.Fatalf("%s: %v, inode %d, was %d", name, err, b.Ino, ino)
		}
		fs.Unpin(ino)
	}
	if n := fds() - before; n > 15 {
		t.Errorf("%d descriptors more at the end", n)
	}
}

// TestChangesOnHost: what somebody else does shows, and deleted files are not kept.
func TestChangesOnHost(t *testing.T) {
	fs, dir := openDir(t, Options{})
	p := filepath.Join(dir, "f")
	if err := os.WriteFile(p, []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	var a, b vfs.Attr
	if err := fs.Lookup(bg, self, vfs.Root, "f", &a); err != nil {
		t.Fatal(err)
	}
	fs.Pin(a.Ino)
	if err := os.WriteFile(p, []byte("longer"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := fs.GetAttr(bg, self, a.Ino, &b); err != nil || b.Size != 6 {
		t.Fatalf("%v, %+v", err, b)
	}
	// Deleted and made again, perhaps with the same number on the host.
	for range 20 {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte("again"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := fs.Lookup(bg, self, vfs.Root, "f", &b); err != nil {
			t.Fatal(err)
		}
		if b.Ino == a.Ino && b.Gen == a.Gen {
			t.Fatalf("a new file is inode %d generation %d as the deleted one", b.Ino, b.Gen)
		}
	}
	fs.Unpin(a.Ino)
}

// TestParentOutside: ".." does not lead out of the tree.
func TestParentOutside(t *testing.T) {
	fs, dir := openDir(t, Options{})
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	var a, b vfs.Attr
	if err := fs.Lookup(bg, self, vfs.Root, "a", &a); err != nil {
		t.Fatal(err)
	}
	if err := fs.Lookup(bg, self, a.Ino, "b", &b); err != nil {
		t.Fatal(err)
	}
	if err := fs.Lookup(bg, self, b.Ino, "..", &a); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "a"), filepath.Join(t.TempDir(), "a")); err != nil {
		t.Fatal(err)
	}
	if err := fs.Lookup(bg, self, a.Ino, "..", &b); vfs.ErrnoOf(err) != syscall.ESTALE {
		t.Errorf("the parent of a directory that was moved out: %v, inode %d", err, b.Ino)
	}
}

// TestCallers: files belong to who makes them from the first moment, and threads
// return to their own identity.
func TestCallers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	fs, dir := openDir(t, Options{})
	os.Chmod(dir, 0o700) // the callers could not do it themselves
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			c := &vfs.Caller{UID: uint32(1000 + w), GID: uint32(2000 + w)}
			for i := range 50 {
				var a vfs.Attr
				name := fmt.Sprintf("%d-%d", w, i)
				var err error
				switch i % 4 {
				case 0:
					var f vfs.File
					if f, err = fs.Create(bg, c, vfs.Root, name, 0o4755, syscall.O_RDWR, &a); err == nil {
						f.Close()
					}
				case 1:
					err = fs.Mkdir(bg, c, vfs.Root, name, 0o755, &a)
				case 2:
					err = fs.Mknod(bg, c, vfs.Root, name, syscall.S_IFCHR|0o600, 1<<8|3, &a)
				default:
					err = fs.Symlink(bg, c, vfs.Root, name, "t", &a)
				}
				if err != nil {
					t.Error(err)
				} else if a.UID != c.UID || a.GID != c.GID || i%4 == 0 && a.Mode&07777 != 0o4755 {
					t.Errorf("%s: %+v", name, a)
				}
			}
		})
	}
	wg.Wait()
	for range 50 {
		wg.Go(func() {
			if uid, _ := unix.SetfsuidRetUid(-1); uid != 0 {
				t.Errorf("a thread acts as user %d", uid)
			}
		})
	}
	wg.Wait()
}

func TestDevices(t *testing.T) {
	for _, d := range [][2]uint32{{0, 0}, {1, 3}, {8, 255}, {8, 256}, {4095, 1048575}, {0xabc, 0x54321}} {
		if ma, mi := decodeDev(encodeDev(d[0], d[1])); ma != d[0] || mi != d[1] {
			t.Errorf("%v became %d:%d", d, ma, mi)
		}
	}
}

func FuzzCookies(f *testing.F) {
	for _, pos := range []int64{0, 1, 2, 3, 1 << 40, math.MaxInt64} {
		f.Add(pos)
	}
	f.Fuzz(func(t *testing.T, pos int64) {
		if pos < 0 || pos >= movedPositions && pos < movedPositions+3 {
			t.Skip()
		}
		c := cookieOf(pos)
		if c < 3 || c >= 1<<63 {
			t.Errorf("position %d has cookie %d", pos, c)
		}
		if got := positionOf(c); got != pos {
			t.Errorf("position %d became %d", pos, got)
		}
	})
}
