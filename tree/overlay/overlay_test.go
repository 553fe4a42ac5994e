package overlay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/tree/overlay"
	"github.com/massif-fs/massif/vfs"
)

func openFile(t testing.TB, fs tree, p string, flags int) vfs.File {
	t.Helper()
	a, err := fs.find(p)
	if err != nil {
		t.Fatal(err)
	}
	f, err := fs.Open(t.Context(), self, a.Ino, flags)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func newFile(t testing.TB, fs tree, name string) vfs.File {
	t.Helper()
	var a vfs.Attr
	f, err := fs.Create(t.Context(), self, vfs.Root, name, 0o644, syscall.O_RDWR, &a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// A file that is open for reading when somebody else opens it for writing shows what that
// one writes, and keeps its number.
func TestReadersFollow(t *testing.T) {
	lower := scratch(t)
	if err := os.WriteFile(filepath.Join(lower, "f"), []byte("lower content"), 0o644); err != nil {
		t.Fatal(err)
	}
	fs := tree{join(t, scratch(t), lower, overlay.Options{})}
	before, _ := fs.find("f")
	r := openFile(t, fs, "f", syscall.O_RDONLY)
	w := openFile(t, fs, "f", syscall.O_RDWR)
	if _, err := w.WriteAt(t.Context(), []byte("UPPER"), 0); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 20)
	if n, err := r.ReadAt(t.Context(), p, 0); err != nil || string(p[:n]) != "UPPER content" {
		t.Fatalf("%q, %v", p[:n], err)
	}
	if after, _ := fs.find("f"); after.Ino != before.Ino || after.Mtime == before.Mtime {
		t.Errorf("was %+v, is %+v", before, after)
	}
	if data, _ := os.ReadFile(filepath.Join(lower, "f")); string(data) != "lower content" {
		t.Errorf("the lower file is %q", data)
	}
}

// A lower file that is unlinked while it is open can be read, written and is gone with its
// last user.
func TestUnlinkedLower(t *testing.T) {
	lower, upper := scratch(t), scratch(t)
	if err := os.WriteFile(filepath.Join(lower, "f"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	fs := tree{join(t, upper, lower, overlay.Options{Limit: 1 << 20})}
	a, _ := fs.find("f")
	fs.FS.(vfs.Pinner).Pin(a.Ino)
	r := openFile(t, fs, "f", syscall.O_RDONLY)
	if err := fs.Unlink(t.Context(), self, vfs.Root, "f"); err != nil {
		t.Fatal(err)
	}
	w, err := fs.Open(t.Context(), self, a.Ino, syscall.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt(t.Context(), []byte("C"), 0); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 20)
	if n, err := r.ReadAt(t.Context(), p, 0); err != nil || string(p[:n]) != "Content" {
		t.Fatalf("%q, %v", p[:n], err)
	}
	var now vfs.Attr
	if err := fs.GetAttr(t.Context(), self, a.Ino, &now); err != nil || now.Nlink != 0 {
		t.Errorf("%+v, %v", now, err)
	}
	if err := errors.Join(w.Close(), r.Close()); err != nil {
		t.Fatal(err)
	}
	fs.FS.(vfs.Pinner).Unpin(a.Ino)
	if err := fs.GetAttr(t.Context(), self, a.Ino, &now); !errors.Is(err, syscall.ESTALE) {
		t.Errorf("the inode is still there: %v", err)
	}
	if used, _ := fs.FS.(*overlay.FS).Usage(); used != 0 {
		t.Errorf("%d bytes are still used", used)
	}
}

func TestLimit(t *testing.T) {
	const limit = 64 << 10
	lower, upper := scratch(t), scratch(t)
	for name, n := range map[string]int{"small": 8 << 10, "large": limit + 1} {
		if err := os.WriteFile(filepath.Join(lower, name), bytes.Repeat([]byte{1}, n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fs := tree{join(t, upper, lower, overlay.Options{Limit: limit})}
	o := fs.FS.(*overlay.FS)
	used := func() int64 { u, _ := o.Usage(); return u }
	f := newFile(t, fs, "new")
	data := bytes.Repeat([]byte("x"), limit+10000)
	n, err := f.WriteAt(t.Context(), data, 0)
	if n != limit || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if used() != limit {
		t.Fatalf("%d bytes are used", used())
	}
	var st vfs.StatFS
	if err := fs.StatFS(t.Context(), self, vfs.Root, &st); err != nil || st.BlocksFree != 0 || st.Blocks*uint64(st.BlockSize) != limit {
		t.Errorf("%+v, %v", st, err)
	}
	// What has space already can be overwritten.
	if n, err := f.WriteAt(t.Context(), data[:5000], 100); n != 5000 || err != nil {
		t.Errorf("overwriting: %d, %v", n, err)
	}
	if n, err := f.WriteAt(t.Context(), data[:1], limit); n != 0 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("behind the end: %d, %v", n, err)
	}
	// A copy-up needs its whole size; without it the lower file stays as it is.
	a, _ := fs.find("small")
	if err := fs.SetAttr(t.Context(), self, a.Ino, &vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o600}, &a); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("copy-up: %v", err)
	}
	if data, err := fs.read(a.Ino); err != nil || len(data) != 8<<10 {
		t.Errorf("the lower file: %d, %v", len(data), err)
	}
	// Removing works when the layer is full, of lower files, too.
	for _, name := range []string{"small", "new"} {
		if err := fs.Unlink(t.Context(), self, vfs.Root, name); err != nil {
			t.Fatal(err)
		}
	}
	if used() != limit { // it is open
		t.Errorf("%d bytes are used", used())
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if used() != 0 {
		t.Errorf("%d bytes are used", used())
	}
	// A file too large for the layer can be cut, and then written.
	a, _ = fs.find("large")
	if _, err := fs.Open(t.Context(), self, a.Ino, syscall.O_RDWR); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the large file: %v", err)
	}
	if err := fs.SetAttr(t.Context(), self, a.Ino, &vfs.SetAttr{Valid: vfs.SetSize, Size: 10}, &a); err != nil || used() > 4096 {
		t.Errorf("cut: %v, %d bytes", err, used())
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	again := join(t, upper, lower, overlay.Options{Limit: limit})
	if u, _ := again.Usage(); u > 4096 || u == 0 {
		t.Errorf("%d bytes are used after a remount", u)
	}
}

// Whatever is written at once, the limit holds, and the count is what there is.
func TestLimitParallel(t *testing.T) {
	const limit = 1 << 20
	upper := scratch(t)
	fs := tree{join(t, upper, scratch(t), overlay.Options{Limit: limit})}
	var wg sync.WaitGroup
	var full sync.Map
	for w := range 8 {
		f := newFile(t, fs, fmt.Sprint("f", w%4, "-", w))
		wg.Go(func() {
			p := bytes.Repeat([]byte{byte(w + 1)}, 10000)
			for i := range 40 {
				_, err := f.WriteAt(context.Background(), p, int64(i*9000))
				if errors.Is(err, syscall.ENOSPC) {
					full.Store(w, true)
					if err := f.Truncate(context.Background(), 0); err != nil {
						t.Error(err)
					}
				} else if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	n := 0
	full.Range(func(any, any) bool { n++; return true })
	if n == 0 {
		t.Error("the limit was never met")
	}
	total := int64(0)
	entries, err := os.ReadDir(upper)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(upper, e.Name()), &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			total += st.Blocks * 512
		}
	}
	used, _ := fs.FS.(*overlay.FS).Usage()
	if total > limit || used > limit {
		t.Errorf("%d bytes are there, %d counted, of %d", total, used, limit)
	}
}

// The layer's own things are neither seen nor touched.
func TestHidden(t *testing.T) {
	lower := scratch(t)
	if err := os.WriteFile(filepath.Join(lower, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	fs := tree{join(t, scratch(t), lower, overlay.Options{})}
	ctx := t.Context()
	var a vfs.Attr
	if err := fs.Mkdir(ctx, self, vfs.Root, ".massif-work", 0o755, &a); !errors.Is(err, syscall.EPERM) {
		t.Error(err)
	}
	if err := fs.Lookup(ctx, self, vfs.Root, ".massif-work", &a); !errors.Is(err, syscall.ENOENT) {
		t.Error(err)
	}
	if names, _, _ := fs.names(vfs.Root); len(names) != 1 {
		t.Error(names)
	}
	if err := fs.Rename(ctx, self, vfs.Root, "f", vfs.Root, ".massif-work", 0); !errors.Is(err, syscall.EPERM) {
		t.Error(err)
	}
	if err := fs.Mknod(ctx, self, vfs.Root, "w", syscall.S_IFCHR, 0, &a); !errors.Is(err, syscall.EPERM) {
		t.Error(err)
	}
	if err := chmod("f")(fs); err != nil {
		t.Fatal(err)
	}
	a, _ = fs.find("f")
	x := fs.FS.(vfs.XattrFS)
	if names, err := x.ListXattr(ctx, self, a.Ino); err != nil || len(names) != 0 {
		t.Error(names, err)
	}
	for _, name := range []string{"user.overlay.opaque", "trusted.overlay.redirect"} {
		if err := x.SetXattr(ctx, self, a.Ino, name, []byte("y"), 0); !errors.Is(err, syscall.EPERM) {
			t.Error(name, err)
		}
	}
}

func TestIdentity(t *testing.T) {
	upper, lower := scratch(t), scratch(t)
	for range 2 {
		if err := join(t, upper, lower, overlay.Options{Identity: "one"}).Close(); err != nil {
			t.Fatal(err)
		}
	}
	fs, err := overlay.New(t.Context(), localTree(t, upper, false), localTree(t, lower, true), overlay.Options{Identity: "another"})
	if err == nil {
		fs.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "belongs to another") {
		t.Fatal(err)
	}
}

// What the layer writes is what the kernel's overlayfs reads, as far as that knows it.
func TestKernelReads(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := scratch(t)
	upper, lower, work, point := filepath.Join(dir, "upper"), filepath.Join(dir, "lower"), filepath.Join(dir, "work"), filepath.Join(dir, "point")
	for _, d := range []string{upper, lower, work, point} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	crashLower(t, lower)
	fs := tree{join(t, upper, lower, overlay.Options{})}
	for _, op := range []func(tree) error{remove("f"), remove("d-dir/f"), chmod("g"), remove("e-dir"), mkdir("e-dir"), create("new"), rename("d-dir", "moved", 0)} {
		if err := op(fs); err != nil {
			t.Fatal(err)
		}
	}
	want, _, _ := fs.names(vfs.Root)
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	err := unix.Mount("overlay", point, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,redirect_dir=on", lower, upper, work))
	if err != nil {
		t.Skip("the kernel mounts no overlay here:", err)
	}
	defer unix.Unmount(point, unix.MNT_DETACH)
	var got []string
	entries, err := os.ReadDir(point)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != ".massif-work" {
			got = append(got, e.Name())
		}
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("the kernel shows %v, not %v", got, want)
	}
	if _, err := os.Stat(filepath.Join(point, "moved", "f")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a removed file: %v", err)
	}
	if data, err := os.ReadFile(filepath.Join(point, "moved", "sub-dir", "g")); err != nil || len(data) == 0 {
		t.Errorf("a file below a renamed directory: %q, %v", data, err)
	}
}
