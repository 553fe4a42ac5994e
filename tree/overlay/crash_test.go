package overlay_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/tree/local"
	"github.com/massif-fs/massif/tree/overlay"
	"github.com/massif-fs/massif/vfs"
)

// errCrash is what a tree says whose process is gone.
var errCrash = vfs.WithErrno(syscall.EIO, errors.New("crashed"))

// crashing is an upper tree that does nothing more after a number of changes.
type crashing struct {
	*local.FS
	left    int
	crashed bool
}

func (c *crashing) step() error {
	if c.left == 0 {
		c.crashed = true
		return errCrash
	}
	c.left--
	return nil
}

func (c *crashing) Mknod(ctx context.Context, cl *vfs.Caller, p vfs.Ino, n string, m, r uint32, o *vfs.Attr) error {
	if err := c.step(); err != nil {
		return err
	}
	return c.FS.Mknod(ctx, cl, p, n, m, r, o)
}

func (c *crashing) Mkdir(ctx context.Context, cl *vfs.Caller, p vfs.Ino, n string, m uint32, o *vfs.Attr) error {
	if err := c.step(); err != nil {
		return err
	}
	return c.FS.Mkdir(ctx, cl, p, n, m, o)
}

func (c *crashing) Symlink(ctx context.Context, cl *vfs.Caller, p vfs.Ino, n, t string, o *vfs.Attr) error {
	if err := c.step(); err != nil {
		return err
	}
	return c.FS.Symlink(ctx, cl, p, n, t, o)
}

func (c *crashing) Link(ctx context.Context, cl *vfs.Caller, i, p vfs.Ino, n string, o *vfs.Attr) error {
	if err := c.step(); err != nil {
		return err
	}
	return c.FS.Link(ctx, cl, i, p, n, o)
}

func (c *crashing) Unlink(ctx context.Context, cl *vfs.Caller, p vfs.Ino, n string) error {
	if err := c.step(); err != nil {
		return err
	}
	return c.FS.Unlink(ctx, cl, p, n)
}

func (c *crashing) Rmdir(ctx context.Context, cl *vfs.Caller, p vfs.Ino, n string) error {
	if err := c.step(); err != nil {
		return err
	}
	return c.FS.Rmdir(ctx, cl, p, n)
}

func (c *crashing) Rename(ctx context.Context, cl *vfs.Caller, p vfs.Ino, n string, p2 vfs.Ino, n2 string, f uint32) error {
	if err := c.step(); err != nil {
		return err
	}
	return c.FS.Rename(ctx, cl, p, n, p2, n2, f)
}

func (c *crashing) Create(ctx context.Context, cl *vfs.Caller, p vfs.Ino, n string, m uint32, fl int, o *vfs.Attr) (vfs.File, error) {
	if err := c.step(); err != nil {
		return nil, err
	}
	f, err := c.FS.Create(ctx, cl, p, n, m, fl, o)
	return &crashingFile{f, c}, err
}

func (c *crashing) Open(ctx context.Context, cl *vfs.Caller, i vfs.Ino, fl int) (vfs.File, error) {
	if fl&syscall.O_TRUNC != 0 {
		if err := c.step(); err != nil {
			return nil, err
		}
	}
	f, err := c.FS.Open(ctx, cl, i, fl)
	if err != nil {
		return nil, err
	}
	return &crashingFile{f, c}, nil
}

func (c *crashing) SetAttr(ctx context.Context, cl *vfs.Caller, i vfs.Ino, s *vfs.SetAttr, o *vfs.Attr) error {
	if err := c.step(); err != nil {
		return err
	}
	return c.FS.SetAttr(ctx, cl, i, s, o)
}

func (c *crashing) SetXattr(ctx context.Context, cl *vfs.Caller, i vfs.Ino, n string, v []byte, f uint32) error {
	if err := c.step(); err != nil {
		return err
	}
	return c.FS.SetXattr(ctx, cl, i, n, v, f)
}

type crashingFile struct {
	vfs.File
	c *crashing
}

func (f *crashingFile) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := f.c.step(); err != nil {
		return 0, err
	}
	return f.File.WriteAt(ctx, p, off)
}

func (f *crashingFile) Truncate(ctx context.Context, size int64) error {
	if err := f.c.step(); err != nil {
		return err
	}
	return f.File.Truncate(ctx, size)
}

// crashLower is what the crash tests begin with.
func crashLower(t testing.TB, dir string) {
	t.Helper()
	ctx := context.Background()
	fs := tree{localTree(t, dir, false)}
	defer fs.Close()
	var a vfs.Attr
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	mk := func(p string) vfs.Ino {
		parent, name, err := fs.parent(p)
		ok(err)
		if strings.HasSuffix(name, "-dir") {
			ok(fs.Mkdir(ctx, self, parent, name, 0o751, &a))
			return a.Ino
		}
		f, err := fs.Create(ctx, self, parent, name, 0o640, syscall.O_RDWR, &a)
		ok(err)
		_, err = f.WriteAt(ctx, []byte("content of "+p), 0)
		ok(errors.Join(err, f.Close()))
		return a.Ino
	}
	for _, p := range []string{"d-dir", "d-dir/f", "d-dir/sub-dir", "d-dir/sub-dir/g", "e-dir", "f", "g"} {
		mk(p)
	}
	ok(fs.Symlink(ctx, self, vfs.Root, "s", "somewhere", &a))
	twice := mk("twice")
	d, err := fs.find("d-dir")
	ok(err)
	ok(fs.Link(ctx, self, twice, d.Ino, "again", &a))
}

func rename(from, to string, flags uint32) func(tree) error {
	return func(t tree) error {
		dir, name, err := t.parent(from)
		if err != nil {
			return err
		}
		dir2, name2, err := t.parent(to)
		if err != nil {
			return err
		}
		return t.Rename(context.Background(), self, dir, name, dir2, name2, flags)
	}
}

func remove(p string) func(tree) error {
	return func(t tree) error {
		dir, name, err := t.parent(p)
		if err != nil {
			return err
		}
		if strings.HasSuffix(name, "-dir") {
			return t.Rmdir(context.Background(), self, dir, name)
		}
		return t.Unlink(context.Background(), self, dir, name)
	}
}

func mkdir(p string) func(tree) error {
	return func(t tree) error {
		dir, name, err := t.parent(p)
		if err != nil {
			return err
		}
		var a vfs.Attr
		return t.Mkdir(context.Background(), self, dir, name, 0o755, &a)
	}
}

func create(p string) func(tree) error {
	return func(t tree) error {
		dir, name, err := t.parent(p)
		if err != nil {
			return err
		}
		var a vfs.Attr
		f, err := t.Create(context.Background(), self, dir, name, 0o640, syscall.O_RDWR, &a)
		if err != nil {
			return err
		}
		return f.Close()
	}
}

func chmod(p string) func(tree) error {
	return func(t tree) error {
		a, err := t.find(p)
		if err != nil {
			return err
		}
		return t.SetAttr(context.Background(), self, a.Ino, &vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o700}, &a)
	}
}

func link(from, to string) func(tree) error {
	return func(t tree) error {
		a, err := t.find(from)
		if err != nil {
			return err
		}
		dir, name, err := t.parent(to)
		if err != nil {
			return err
		}
		return t.Link(context.Background(), self, a.Ino, dir, name, &a)
	}
}

// After a crash at any change of the upper tree, an operation has been done or not.
func TestCrash(t *testing.T) {
	type step = func(tree) error
	for _, c := range []struct {
		what  string
		first []step // before the operation that crashes
		op    step
		// between are states that may be seen, too: operations of which each is done or not.
		between []step
	}{
		{"copy up", nil, chmod("d-dir/sub-dir/g"), nil},
		{"copy up of a directory", nil, chmod("d-dir/sub-dir"), nil},
		{"copy up of one of several names", nil, chmod("twice"), nil},
		{"unlink", nil, remove("f"), nil},
		{"unlink below", nil, remove("d-dir/sub-dir/g"), nil},
		{"unlink of a copy", []step{chmod("f")}, remove("f"), nil},
		{"unlink of a new file", []step{create("new")}, remove("new"), nil},
		{"create over a whiteout", []step{remove("f")}, create("f"), nil},
		{"mkdir over a whiteout", []step{remove("f")}, mkdir("f"), nil},
		{"mkdir over a removed directory", []step{remove("d-dir/sub-dir/g"), remove("d-dir/sub-dir")}, mkdir("d-dir/sub-dir"), nil},
		{"rmdir", nil, remove("e-dir"), nil},
		{"rmdir of a merged directory", []step{remove("d-dir/sub-dir/g")}, remove("d-dir/sub-dir"), nil},
		{"rename", nil, rename("f", "e-dir/h", 0), []step{link("f", "e-dir/h")}},
		{"rename over", nil, rename("f", "g", 0), []step{func(t tree) error { return errors.Join(remove("g")(t), link("f", "g")(t)) }}},
		{"rename over a new file", []step{create("new")}, rename("f", "new", 0), []step{func(t tree) error { return errors.Join(remove("new")(t), link("f", "new")(t)) }}},
		{"rename of a new file", []step{create("new")}, rename("new", "f", 0), nil},
		{"rename over a whiteout", []step{remove("g"), create("new")}, rename("new", "g", 0), nil},
		{"exchange", nil, rename("f", "d-dir", vfs.RenameExchange), nil},
		{"exchange of directories", nil, rename("e-dir", "d-dir/sub-dir", vfs.RenameExchange), nil},
		{"rename of a directory", nil, rename("d-dir", "moved", 0), nil},
		{"rename of a directory over one", nil, rename("d-dir", "e-dir", 0), []step{remove("e-dir")}},
		{"rename of a new directory over one", []step{mkdir("new"), create("new/x")}, rename("new", "e-dir", 0), []step{remove("e-dir")}},
		{"rename of a directory over a new one", []step{mkdir("new")}, rename("d-dir", "new", 0), []step{func(t tree) error {
			a, err := t.find("")
			return errors.Join(err, t.Rmdir(context.Background(), self, a.Ino, "new"))
		}}},
		{"rename of a directory to and fro", []step{rename("d-dir", "x", 0)}, rename("x", "d-dir", 0), nil},
		{"link over a whiteout", []step{remove("f")}, link("g", "f"), nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			lower := scratch(t)
			crashLower(t, lower)
			// state is what is seen when some operations were done.
			state := func(ops ...step) string {
				fs := tree{join(t, scratch(t), lower, overlay.Options{})}
				for _, op := range ops {
					if err := op(fs); err != nil {
						t.Fatal(err)
					}
				}
				s, err := fs.snapshot()
				if err != nil {
					t.Fatal(err)
				}
				fs.Close()
				return s
			}
			allowed := []string{state(c.first...), state(append(c.first[:len(c.first):len(c.first)], c.op)...)}
			for _, b := range c.between {
				allowed = append(allowed, state(append(c.first[:len(c.first):len(c.first)], b)...))
			}
			for left := 0; ; left++ {
				dir := scratch(t)
				upper := &crashing{FS: localTree(t, dir, false), left: 1 << 30}
				fs, err := overlay.New(t.Context(), upper, localTree(t, lower, true), overlay.Options{Volatile: true, Logger: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Fatal(err)
				}
				for _, op := range c.first {
					if err := op(tree{fs}); err != nil {
						t.Fatal(err)
					}
				}
				upper.left = left
				err = c.op(tree{fs})
				if err != nil && !upper.crashed {
					t.Fatal(err)
				}
				fs.Close()
				again := tree{join(t, dir, lower, overlay.Options{})}
				got, err := again.snapshot()
				if err != nil {
					t.Fatalf("after a crash at change %d: %v", left, err)
				}
				found := false
				for _, a := range allowed {
					found = found || countless(a) == countless(got)
				}
				if !found {
					differ(t, fmt.Sprintf("after a crash at change %d, compared with before", left), allowed[0], got)
				}
				again.Close()
				if !upper.crashed {
					if got != allowed[1] {
						differ(t, "without a crash", allowed[1], got)
					}
					if left == 0 {
						t.Fatal("nothing was changed")
					}
					break
				}
			}
		})
	}
}

// countless takes the link counts out of a snapshot: that of a lower inode of several
// names can be one too high after a crash.
func countless(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		before, after, ok := strings.Cut(l, " nlink=")
		if ok {
			_, after, _ = strings.Cut(after, " ")
			lines[i] = before + " " + after
		}
	}
	return strings.Join(lines, "\n")
}
