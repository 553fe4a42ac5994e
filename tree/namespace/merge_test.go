package namespace_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/tree/local"
	"github.com/massif-fs/massif/tree/namespace"
	"github.com/massif-fs/massif/vfs"
)

func TestEmpty(t *testing.T) {
	w := newWorld(t)
	w.lists("/")
	w.mode("/", 0o555)
	w.absent("/x")
	w.want(w.create("/x", ""), "create in /", syscall.EROFS)
	w.want(w.mkdir("/x"), "mkdir in /", syscall.EROFS)
}

// R1 and the life of a mount path.
func TestOneStorageDeep(t *testing.T) {
	w := newWorld(t)
	d := w.dir("f", "sub/g")
	id := w.mount(d, "/a/b/c", "/other")
	w.lists("/", "a", "other")
	w.lists("/a", "b")
	w.lists("/a/b/c", "f", "sub")
	w.lists("/other/sub", "g")
	w.mode("/", 0o555)
	w.mode("/a", 0o555)
	w.mode("/a/b", 0o555)
	w.mode("/a/b/c", w.mustMode(d))
	w.reads("/a/b/c/sub/g", d, "sub/g")
	if x, y := w.attr("/a/b/c/sub"), w.attr("/other/sub"); x.Ino == y.Ino {
		t.Error("a directory has the same inode number at two paths")
	}
	var up vfs.Attr
	for _, p := range []string{"/a/b/c/sub", "/a/b/c", "/a/b", "/a", "/other"} {
		if err := w.ns.Lookup(w.ctx, w.c, w.attr(p).Ino, "..", &up); err != nil || up.Ino != w.attr(filepath.Dir(p)).Ino {
			t.Errorf("the parent of %s is %d, %v", p, up.Ino, err)
		}
	}
	w.want(w.create("/a/x", ""), "create in a synthetic directory", syscall.EROFS)
	w.want(w.rmdir("/a"), "rmdir of a synthetic directory", syscall.EROFS)
	w.want(w.rmdir("/a/b/c"), "rmdir of a mount point", syscall.ENOTEMPTY)
	w.want(w.rename("/other", "/new"), "rename of a mount point", syscall.EACCES)
	if err := w.create("/a/b/c/new", "data"); err != nil {
		t.Error(err)
	}
	w.onDisk(filepath.Join(d, "new"), "data")
	if err := w.rename("/a/b/c/new", "/other/sub/moved"); err != nil {
		t.Error("rename between two paths of a storage: ", err)
	}
	w.onDisk(filepath.Join(d, "sub/moved"), "data")
	if err := w.ns.Unmount(w.ctx, id); err != nil {
		t.Error(err)
	}
	w.lists("/")
	if err := w.ns.Unmount(w.ctx, id); !errors.Is(err, namespace.ErrUnknown) {
		t.Errorf("second unmount: %v", err)
	}
	if id := w.mount(d, "/again"); id != 2 {
		t.Errorf("the second storage has id %d", id)
	}
}

func (w *world) mustMode(p string) uint32 {
	w.Helper()
	info, err := os.Stat(p)
	if err != nil {
		w.Fatal(err)
	}
	return uint32(info.Mode().Perm())
}

// R2, R3: two storages at one path.
func TestConflicts(t *testing.T) {
	w := newWorld(t)
	a := w.dir("file.xyz.jpg", "only-a", "both/x", "both/in-a", "mix", "real.wl_1.txt")
	b := w.dir("file.xyz.jpg", "only-b", "both/x", "mix/", "real.wl_1.txt")
	w.mount(a, "/m")
	w.mount(b, "/m2", "/m")
	w.lists("/m", "both", "file.xyz.wl_1.jpg", "file.xyz.wl_2.jpg", "mix", "mix.wl_1", "only-a", "only-b", "real.wl_1.wl_1.txt", "real.wl_1.wl_2.txt")
	w.lists("/m/both", "in-a", "x.wl_1", "x.wl_2")
	w.absent("/m/file.xyz.jpg")
	w.absent("/m/only-a.wl_1")
	w.absent("/m/file.xyz.wl_3.jpg")
	w.reads("/m/file.xyz.wl_1.jpg", a, "file.xyz.jpg")
	w.reads("/m/file.xyz.wl_2.jpg", b, "file.xyz.jpg")
	w.reads("/m/both/x.wl_2", b, "both/x")
	w.reads("/m/mix.wl_1", a, "mix")
	w.reads("/m/real.wl_1.wl_2.txt", b, "real.wl_1.txt")
	w.mode("/m/both", 0o555)
	w.mode("/m", 0o555)
	w.reads("/m2/real.wl_1.txt", b, "real.wl_1.txt")

	w.want(w.create("/m/new", ""), "create in a merge of two writables", syscall.EROFS)
	w.want(w.mkdir("/m/new"), "mkdir there", syscall.EROFS)
	w.want(w.rename("/m/only-a", "/m/x"), "rename there", syscall.EACCES)
	w.want(w.rename("/m/both/in-a", "/x"), "rename to /", syscall.EACCES)
	w.want(w.rename("/m/only-a", "/m2/x"), "rename between storages", syscall.EXDEV)
	w.want(w.rmdir("/m/both"), "rmdir of a merged directory", syscall.EROFS)
	w.want(w.rmdir("/m/only-a"), "rmdir of a file", syscall.ENOTDIR)
	w.want(w.unlink("/m/both"), "unlink of a directory", syscall.EISDIR)
	w.want(w.unlink("/m/zz"), "unlink of nothing", syscall.ENOENT)
	if err := w.unlink("/m/file.xyz.wl_2.jpg"); err != nil { // file rights decide
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(b, "file.xyz.jpg")); !os.IsNotExist(err) {
		t.Error("the file is still there: ", err)
	}
	w.reads("/m/file.xyz.jpg", a, "file.xyz.jpg")
	w.absent("/m/file.xyz.wl_1.jpg")
}

// A name that conflict names of others have is not lost.
func TestGeneratedNames(t *testing.T) {
	w := newWorld(t)
	a := w.dir("f.txt", "f.wl_2.txt")
	b := w.dir("f.txt")
	w.mount(a, "/m")
	w.mount(b, "/b", "/m")
	w.lists("/m", "f.wl_1.txt", "f.wl_2.txt", "f.wl_2.wl_1.txt")
	w.reads("/m/f.wl_2.txt", b, "f.txt")
	w.reads("/m/f.wl_2.wl_1.txt", a, "f.wl_2.txt")
}

// R5, F6: with one writable storage everything new goes there.
func TestOneWritable(t *testing.T) {
	w := newWorld(t)
	ro := w.dir("old", "d/ro-file", "only/")
	rw := w.dir("d/rw-file")
	if err := os.Chmod(filepath.Join(ro, "only"), 0o500); err != nil {
		t.Fatal(err)
	}
	w.mountRO(ro, "/ro", "/m")
	w.mount(rw, "/m")
	w.mode("/m", w.mustMode(rw))
	w.mode("/m/d", 0o755)
	w.mode("/m/only", 0o500)
	w.mode("/m/old", 0o444)
	w.mode("/m/d/rw-file", 0o644)
	w.mode("/ro", w.mustMode(ro)&^0o222)
	if err := w.create("/m/new", "x"); err != nil {
		t.Error(err)
	}
	if err := w.mkdir("/m/d/newdir"); err != nil {
		t.Error(err)
	}
	if err := w.rename("/m/new", "/m/d/newer"); err != nil {
		t.Error(err)
	}
	w.onDisk(filepath.Join(rw, "d/newer"), "x")
	if err := w.rmdir("/m/d/newdir"); err != nil {
		t.Error(err)
	}
	w.want(w.unlink("/m/old"), "unlink in a read-only storage", syscall.EROFS)
	w.want(w.rename("/m/old", "/m/x"), "rename out of it", syscall.EXDEV)
	w.want(w.create("/ro/x", ""), "create in it", syscall.EROFS)
	w.want(w.mkdir("/ro/x"), "mkdir in it", syscall.EROFS)
	w.want(w.rmdir("/ro/only"), "rmdir in it", syscall.EROFS)
	w.want(w.rename("/m/d/newer", "/ro/x"), "rename into it", syscall.EXDEV)
	w.want(w.rename("/ro/old", "/ro/x"), "rename within it", syscall.EROFS)
	old := w.attr("/m/old").Ino
	_, err := w.ns.Open(w.ctx, w.c, old, syscall.O_WRONLY)
	w.want(err, "open for writing", syscall.EROFS)
	_, err = w.ns.Open(w.ctx, w.c, old, syscall.O_RDONLY|syscall.O_TRUNC)
	w.want(err, "truncating open", syscall.EROFS)
	var a vfs.Attr
	w.want(w.ns.SetAttr(w.ctx, w.c, old, &vfs.SetAttr{Valid: vfs.SetSize}, &a), "truncate", syscall.EROFS)
	w.want(w.ns.SetXattr(w.ctx, w.c, old, "user.x", nil, 0), "setxattr", syscall.EROFS)
}

// R4, F10: what is mounted below a path of another storage.
func TestNested(t *testing.T) {
	w := newWorld(t)
	outer := w.dir("top", "nested1/file-conflict", "nested1/file1")
	inner := w.dir("file-conflict", "file2")
	w.mount(outer, "/container1")
	w.mount(inner, "/container1/nested1", "/nested2")
	w.lists("/container1", "nested1", "top")
	w.lists("/container1/nested1", "file-conflict.wl_1", "file-conflict.wl_2", "file1", "file2")
	w.lists("/nested2", "file-conflict", "file2")
	w.want(w.create("/container1/nested1/new", ""), "new file in the merged directory", syscall.EROFS)
	if err := w.create("/nested2/file1", "x"); err != nil {
		t.Error(err)
	}
	w.lists("/container1/nested1", "file-conflict.wl_1", "file-conflict.wl_2", "file1.wl_1", "file1.wl_2", "file2")
	// With a child node that the storage below does not have.
	w.mount(inner, "/container1/deep/er")
	w.lists("/container1", "deep", "nested1", "top")
	w.lists("/container1/deep", "er")
	// The outer one is the only one that takes new files in its own directory.
	if err := w.create("/container1/new", "y"); err != nil {
		t.Error(err)
	}
	w.onDisk(filepath.Join(outer, "new"), "y")
	w.want(w.create("/container1/deep", ""), "create over a node", syscall.EEXIST)
	// A file where something is mounted is reachable all the same.
	third := w.dir("deep")
	w.mount(third, "/third", "/container1")
	w.lists("/container1", "deep", "deep.wl_4", "nested1", "new", "top")
	w.reads("/container1/deep.wl_4", third, "deep")
}

func TestMainPath(t *testing.T) {
	w := newWorld(t)
	a, b := w.dir("a"), w.dir("b")
	w.mount(a, "/x", "/shared")
	w.mount(b, "/y", "/x", "/shared")
	item := namespace.Item{Paths: []string{"/x"}, Storage: localStorage(b, local.Options{})}
	if ids, errs := w.ns.Mount(w.ctx, []namespace.Item{item}, true); len(errs) != 1 || !errors.Is(errs[0], namespace.ErrMounted) || ids[0] != 0 {
		t.Errorf("second mount: %v, %v", ids, errs)
	}
	item.Remount = true
	item.Paths = []string{"/x", "/new"}
	ids, errs := w.ns.Mount(w.ctx, []namespace.Item{item}, true)
	if len(errs) != 0 || ids[0] != 3 {
		t.Errorf("remount: %v, %v", ids, errs)
	}
	w.lists("/", "new", "shared", "x", "y")
	w.lists("/x", "b.wl_2", "b.wl_3")
	w.lists("/shared", "b")
	for _, bad := range []string{"", "x", "/a/../b", "/a\x00", "/" + strings.Repeat("n", 256)} {
		if _, errs := w.ns.Mount(w.ctx, []namespace.Item{{Paths: []string{bad}, Storage: localStorage(a, local.Options{})}}, true); len(errs) != 1 {
			t.Errorf("mount at %q: %v", bad, errs)
		}
	}
	if got := w.ns.List(); len(got) != 2 || got[0].ID != 2 || got[1].ID != 3 {
		t.Errorf("mounted are %+v", got)
	}
}

// Items are mounted whatever becomes of the others.
func TestItemsOneByOne(t *testing.T) {
	w := newWorld(t)
	d := w.dir("f")
	failing := namespace.Storage{Open: func(context.Context) (*namespace.Backend, error) { return nil, errors.New("it is broken") }}
	ids, errs := w.ns.Mount(w.ctx, []namespace.Item{
		{Paths: []string{"/bad"}, Storage: failing},
		{Paths: []string{"/good"}, Storage: localStorage(d, local.Options{})},
	}, false)
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "it is broken") || ids[0] != 0 || ids[1] != 1 {
		t.Errorf("ids %v, errors %v", ids, errs)
	}
	w.lists("/", "good")
	// Lazily it is mounted, and says why it does not work.
	if _, errs := w.ns.Mount(w.ctx, []namespace.Item{{Paths: []string{"/bad"}, Storage: failing}}, true); len(errs) != 0 {
		t.Fatal(errs)
	}
	w.lists("/", "bad", "good")
	_, err := w.walk("/bad")
	w.want(err, "lookup", syscall.EIO)
	if got := w.ns.List()[1]; got.Err == nil || got.Err.Error() != "it is broken" {
		t.Errorf("the reason is %v", got.Err)
	}
}

// F4: a storage that does not exist yet.
func TestAbsent(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "later")
	open := func(ctx context.Context) (*namespace.Backend, error) {
		if _, err := os.Stat(dir); err != nil {
			return nil, namespace.Absent(err)
		}
		return localStorage(dir, local.Options{}).Open(ctx)
	}
	mountAll(t, w.ns, namespace.Item{Paths: []string{"/x"}, Storage: namespace.Storage{Open: open}})
	w.lists("/", "x")
	w.absent("/x")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := w.create("/x/f", "1"); err != nil {
		t.Error(err)
	}
	w.onDisk(filepath.Join(dir, "f"), "1")
}

func TestSharing(t *testing.T) {
	w := newWorld(t)
	d := w.dir("f")
	opens, closes := 0, 0
	storage := namespace.Storage{Key: "k", Open: func(ctx context.Context) (*namespace.Backend, error) {
		opens++
		b, err := localStorage(d, local.Options{}).Open(ctx)
		b.Close = func() error { closes++; return nil }
		return b, err
	}}
	ids := mountAll(t, w.ns, namespace.Item{Paths: []string{"/a"}, Storage: storage}, namespace.Item{Paths: []string{"/b"}, Storage: storage, ReadOnly: true})
	w.reads("/a/f", d, "f")
	w.reads("/b/f", d, "f")
	w.mode("/b/f", 0o444)
	w.want(w.create("/b/x", ""), "create in the read-only one", syscall.EROFS)
	w.want(w.rename("/a/f", "/b/x"), "rename into the read-only one", syscall.EROFS)
	w.ns.Unmount(w.ctx, ids[0])
	w.reads("/b/f", d, "f")
	if opens != 1 || closes != 0 {
		t.Errorf("opened %d times, closed %d times", opens, closes)
	}
	w.ns.Unmount(w.ctx, ids[1])
	if closes != 1 {
		t.Errorf("closed %d times", closes)
	}
}

func TestUnmountUnderOpenFiles(t *testing.T) {
	w := newWorld(t)
	d := w.dir("f", "sub/g")
	id := w.mount(d, "/x")
	ino := w.attr("/x/f").Ino
	w.ns.Pin(ino)
	f, err := w.ns.Open(w.ctx, w.c, ino, syscall.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := w.ns.OpenDir(w.ctx, w.c, w.attr("/x/sub").Ino)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(w.ctx, []byte("kept"), 0); err != nil {
		t.Fatal(err)
	}
	if err := w.ns.Unmount(w.ctx, id); err != nil {
		t.Fatal(err)
	}
	_, err = f.ReadAt(w.ctx, make([]byte, 1), 0)
	w.want(err, "read", syscall.EIO)
	_, err = f.WriteAt(w.ctx, make([]byte, 1), 0)
	w.want(err, "write", syscall.EIO)
	w.want(dir.Read(w.ctx, 0, false, func(*vfs.DirEntry) bool { return true }), "readdir", syscall.EIO)
	var a vfs.Attr
	w.want(w.ns.GetAttr(w.ctx, w.c, ino, &a), "getattr", syscall.ESTALE)
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	dir.Close()
	w.ns.Unpin(ino)
	if got, _ := os.ReadFile(filepath.Join(d, "f")); !strings.HasPrefix(string(got), "kept") {
		t.Errorf("written before: %q", got)
	}
}

// A storage that hangs holds up nobody else, and can be unmounted.
func TestHangingStorage(t *testing.T) {
	w := newWorld(t)
	w.ns.Close()
	w.ns = namespace.New(namespace.Options{UnmountPatience: time.Millisecond})
	release := make(chan struct{})
	began := make(chan struct{})
	hanging := namespace.Storage{Open: func(context.Context) (*namespace.Backend, error) {
		close(began)
		<-release
		return nil, errors.New("too late")
	}}
	d := w.dir("f")
	ids, _ := w.ns.Mount(w.ctx, []namespace.Item{
		{Paths: []string{"/hang"}, Storage: hanging},
		{Paths: []string{"/fine"}, Storage: localStorage(d, local.Options{})},
	}, true)
	done := make(chan error)
	go func() {
		_, err := w.walk("/hang")
		done <- err
	}()
	<-began
	ctx, cancel := context.WithCancel(w.ctx)
	cancel()
	var a vfs.Attr
	w.want(w.ns.Lookup(ctx, w.c, vfs.Root, "hang", &a), "an interrupted lookup", syscall.EINTR)
	w.lists("/", "fine", "hang")
	w.reads("/fine/f", d, "f")
	if err := w.ns.Unmount(w.ctx, ids[0]); err != nil {
		t.Error(err)
	}
	w.lists("/", "fine")
	close(release)
	w.want(<-done, "the lookup that waited", syscall.EIO)
}

func TestManyStorages(t *testing.T) {
	w := newWorld(t)
	d := w.dir("f")
	n := 10000
	var items []namespace.Item
	for i := range n {
		items = append(items, namespace.Item{Paths: []string{fmt.Sprintf("/.uuid/%d", i), fmt.Sprintf("/c/%d", i)}, Storage: localStorage(d, local.Options{})})
	}
	ids, errs := w.ns.Mount(w.ctx, items, true)
	if len(errs) != 0 || ids[n-1] != n {
		t.Fatal(errs)
	}
	if names, err := w.list("/c"); err != nil || len(names) != n {
		t.Errorf("%d names, %v", len(names), err)
	}
	for i := 0; i < n; i += 997 {
		w.reads(fmt.Sprintf("/c/%d/f", i), d, "f")
	}
}

// F9: links are followed within the storage.
func TestLinks(t *testing.T) {
	w := newWorld(t)
	d := w.dir("f", "sub/g")
	for name, to := range map[string]string{
		"to-file": "f", "to-dir": "sub", "dangling": "nowhere", "out": "../x", "abs-out": "/etc/passwd", "abs-in": d + "/sub/g",
		"loop": "loop", "self": ".", "sub/up": "../f", "sub/self": "../sub", "chain": "to-dir",
	} {
		if err := os.Symlink(to, filepath.Join(d, name)); err != nil {
			t.Fatal(err)
		}
	}
	storage := namespace.Storage{Open: func(ctx context.Context) (*namespace.Backend, error) {
		b, err := localStorage(d, local.Options{}).Open(ctx)
		if err == nil {
			b.Links = func(to string) (string, bool) { return strings.CutPrefix(to, d+"/") }
		}
		return b, err
	}}
	mountAll(t, w.ns, namespace.Item{Paths: []string{"/x"}, Storage: storage})
	for p, file := range map[string]string{
		"/x/to-file": "f", "/x/to-dir/g": "sub/g", "/x/abs-in": "sub/g", "/x/sub/up": "f", "/x/sub/self/self/self/g": "sub/g", "/x/self/self/f": "f", "/x/chain/g": "sub/g",
	} {
		w.reads(p, d, file)
	}
	for p, errno := range map[string]syscall.Errno{
		"/x/dangling": syscall.ENOENT, "/x/out": syscall.EXDEV, "/x/abs-out": syscall.EXDEV, "/x/loop": syscall.ELOOP, "/x" + strings.Repeat("/self", 60): syscall.ELOOP,
	} {
		_, err := w.walk(p)
		w.want(err, p, errno)
	}
	if a := w.attr("/x/to-dir"); !a.IsDir() || a.Ino == w.attr("/x/sub").Ino {
		t.Errorf("a directory behind a link: %+v", a)
	}
	var up vfs.Attr
	if err := w.ns.Lookup(w.ctx, w.c, w.attr("/x/to-dir").Ino, "..", &up); err != nil || up.Ino != w.attr("/x").Ino {
		t.Errorf("its parent is %d, %v", up.Ino, err)
	}
	dir, name := w.parent("/x/l")
	var a vfs.Attr
	w.want(w.ns.Symlink(w.ctx, w.c, dir, name, "f", &a), "symlink", syscall.ENOSYS)
	w.want(w.ns.Link(w.ctx, w.c, w.attr("/x/f").Ino, dir, name, &a), "link", syscall.EPERM)
	if err := w.unlink("/x/to-file"); err != nil {
		t.Error(err)
	}
	if err := w.rmdir("/x/to-dir"); err != nil {
		t.Error(err)
	}
	w.reads("/x/f", d, "f")
	w.reads("/x/sub/g", d, "sub/g")
	w.absent("/x/to-dir")
}

// What changes in one way of seeing a storage is told for all others.
func TestChangesOfOtherViews(t *testing.T) {
	w := newWorld(t)
	d := w.dir("f")
	w.mount(d, "/a", "/b")
	one, two := w.attr("/a").Ino, w.attr("/b").Ino
	var got []vfs.Change
	stop := w.ns.Watch(func(c vfs.Change) { got = append(got, c) })
	if err := w.create("/a/new", "x"); err != nil {
		t.Fatal(err)
	}
	id := w.mount(w.dir(), "/a/below")
	w.ns.Unmount(w.ctx, id)
	stop()
	has := func(parent vfs.Ino, name string, remote bool) bool {
		for _, c := range got {
			if c.Kind == vfs.ChangeEntry && c.Parent == parent && c.Name == name && c.Remote == remote {
				return true
			}
		}
		return false
	}
	if !has(one, "new", false) || has(one, "new", true) || !has(two, "new", true) || !has(vfs.Root, "a", true) {
		t.Errorf("changes: %+v", got)
	}
}
