package namespace_test

import (
	"context"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/tree/local"
	"github.com/massif-fs/massif/tree/namespace"
	"github.com/massif-fs/massif/vfs"
)

// world is a namespace that is used by paths, and directories to mount in it.
type world struct {
	*testing.T
	ns   *namespace.FS
	ctx  context.Context
	c    *vfs.Caller
	dirs map[string]string
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, ns: namespace.New(namespace.Options{}), ctx: context.Background(), c: &vfs.Caller{}, dirs: map[string]string{}}
	t.Cleanup(func() {
		if err := w.ns.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// dir makes a directory with files: "path" with its path as content, "path/" a directory.
func (w *world) dir(files ...string) string {
	w.Helper()
	root := w.TempDir()
	for _, f := range files {
		full := filepath.Join(root, f)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			w.Fatal(err)
		}
		var err error
		if strings.HasSuffix(f, "/") {
			err = os.MkdirAll(full, 0o755)
		} else {
			err = os.WriteFile(full, []byte(root+":"+f), 0o644)
		}
		if err != nil {
			w.Fatal(err)
		}
	}
	return root
}

// mount mounts a directory.
func (w *world) mount(dir string, paths ...string) int {
	w.Helper()
	return mountAll(w, w.ns, namespace.Item{Paths: paths, Storage: localStorage(dir, local.Options{})})[0]
}

func (w *world) mountRO(dir string, paths ...string) int {
	w.Helper()
	return mountAll(w, w.ns, namespace.Item{Paths: paths, Storage: localStorage(dir, local.Options{}), ReadOnly: true})[0]
}

// walk finds a path.
func (w *world) walk(p string) (a vfs.Attr, err error) {
	if err = w.ns.GetAttr(w.ctx, w.c, vfs.Root, &a); err != nil {
		return a, err
	}
	for _, name := range strings.Split(strings.Trim(p, "/"), "/") {
		if name == "" {
			continue
		}
		if err = w.ns.Lookup(w.ctx, w.c, a.Ino, name, &a); err != nil {
			return a, err
		}
	}
	return a, nil
}

func (w *world) attr(p string) vfs.Attr {
	w.Helper()
	a, err := w.walk(p)
	if err != nil {
		w.Fatalf("%s: %v", p, err)
	}
	return a
}

// mode checks the permission bits of a path.
func (w *world) mode(p string, want uint32) {
	w.Helper()
	if got := w.attr(p).Mode & 0o7777; got != want {
		w.Errorf("mode of %s is %o, want %o", p, got, want)
	}
}

func (w *world) want(err error, what string, errno syscall.Errno) {
	w.Helper()
	if vfs.ErrnoOf(err) != errno {
		w.Errorf("%s: %v, want %v", what, err, errno)
	}
}

func (w *world) absent(p string) {
	w.Helper()
	_, err := w.walk(p)
	w.want(err, p, syscall.ENOENT)
}

func (w *world) list(p string) (names []string, err error) {
	a, err := w.walk(p)
	if err != nil {
		return nil, err
	}
	d, err := w.ns.OpenDir(w.ctx, w.c, a.Ino)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var cookie uint64
	for {
		before := len(names)
		err := d.Read(w.ctx, cookie, len(names)%2 == 0, func(e *vfs.DirEntry) bool {
			names = append(names, e.Name)
			cookie = e.Cookie
			return len(names)-before < 3
		})
		if err != nil {
			return nil, err
		}
		if len(names) == before {
			sort.Strings(names)
			return names, nil
		}
	}
}

// lists checks the names in a directory.
func (w *world) lists(p string, want ...string) {
	w.Helper()
	got, err := w.list(p)
	sort.Strings(want)
	if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
		w.Errorf("%s lists %q, %v; want %q", p, got, err, want)
	}
}

func (w *world) read(p string) (string, error) {
	a, err := w.walk(p)
	if err != nil {
		return "", err
	}
	f, err := w.ns.Open(w.ctx, w.c, a.Ino, syscall.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer f.Close()
	buf := make([]byte, 4096)
	n, err := f.ReadAt(w.ctx, buf, 0)
	return string(buf[:n]), err
}

// reads checks that a path is the file of a directory.
func (w *world) reads(p, dir, file string) {
	w.Helper()
	if got, err := w.read(p); err != nil || got != dir+":"+file {
		w.Errorf("%s is %q, %v; want the content of %s in %s", p, got, err, file, dir)
	}
}

func (w *world) parent(p string) (vfs.Ino, string) {
	w.Helper()
	return w.attr(filepath.Dir(p)).Ino, filepath.Base(p)
}

func (w *world) create(p, content string) error {
	w.Helper()
	dir, name := w.parent(p)
	var a vfs.Attr
	f, err := w.ns.Create(w.ctx, w.c, dir, name, 0o644, syscall.O_RDWR, &a)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(w.ctx, []byte(content), 0)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

func (w *world) mkdir(p string) error {
	w.Helper()
	dir, name := w.parent(p)
	var a vfs.Attr
	return w.ns.Mkdir(w.ctx, w.c, dir, name, 0o755, &a)
}

func (w *world) unlink(p string) error {
	w.Helper()
	dir, name := w.parent(p)
	return w.ns.Unlink(w.ctx, w.c, dir, name)
}

func (w *world) rmdir(p string) error {
	w.Helper()
	dir, name := w.parent(p)
	return w.ns.Rmdir(w.ctx, w.c, dir, name)
}

func (w *world) rename(from, to string) error {
	w.Helper()
	d1, n1 := w.parent(from)
	d2, n2 := w.parent(to)
	return w.ns.Rename(w.ctx, w.c, d1, n1, d2, n2, 0)
}

// onDisk checks the content of a file of the host.
func (w *world) onDisk(p, want string) {
	w.Helper()
	if got, err := os.ReadFile(p); err != nil || string(got) != want {
		w.Errorf("%s holds %q, %v; want %q", p, got, err, want)
	}
}
