package overlay_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/tree/overlay"
	"github.com/massif-fs/massif/vfs"
)

var self = &vfs.Caller{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}

// tree works on a vfs.FS by paths.
type tree struct {
	vfs.FS
}

func (t tree) find(p string) (a vfs.Attr, err error) {
	a.Ino = vfs.Root
	if p == "" {
		return a, t.GetAttr(context.Background(), self, vfs.Root, &a)
	}
	for _, name := range strings.Split(p, "/") {
		if err := t.Lookup(context.Background(), self, a.Ino, name, &a); err != nil {
			return a, err
		}
	}
	return a, nil
}

func (t tree) parent(p string) (vfs.Ino, string, error) {
	dir, name := path.Split(p)
	a, err := t.find(strings.TrimSuffix(dir, "/"))
	return a.Ino, name, err
}

func (t tree) names(ino vfs.Ino) (names []string, inos map[string]vfs.Ino, err error) {
	d, err := t.OpenDir(context.Background(), self, ino)
	if err != nil {
		return nil, nil, err
	}
	inos = map[string]vfs.Ino{}
	err = d.Read(context.Background(), 0, false, func(e *vfs.DirEntry) bool {
		names = append(names, e.Name)
		inos[e.Name] = e.Ino
		return true
	})
	sort.Strings(names)
	return names, inos, errors.Join(err, d.Close())
}

func (t tree) read(ino vfs.Ino) ([]byte, error) {
	f, err := t.Open(context.Background(), self, ino, syscall.O_RDONLY)
	if err != nil {
		return nil, err
	}
	p := make([]byte, 1<<20)
	n, err := f.ReadAt(context.Background(), p, 0)
	return p[:n], errors.Join(err, f.Close())
}

// snapshot describes all that a tree shows.
func (t tree) snapshot() (string, error) {
	var lines []string
	first := map[vfs.Ino]string{}
	var walk func(p string, ino vfs.Ino) error
	walk = func(p string, ino vfs.Ino) error {
		var a vfs.Attr
		if err := t.GetAttr(context.Background(), self, ino, &a); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		line := fmt.Sprintf("/%s %o %d:%d", p, a.Mode, a.UID, a.GID)
		if !a.IsDir() {
			if first[a.Ino] == "" {
				first[a.Ino] = p
			}
			line += fmt.Sprintf(" nlink=%d first=%s", a.Nlink, first[a.Ino])
		}
		switch a.Type() {
		case syscall.S_IFREG:
			data, err := t.read(ino)
			if err != nil || int(a.Size) != len(data) {
				return fmt.Errorf("%s: %d bytes of %d: %w", p, len(data), a.Size, err)
			}
			line += fmt.Sprintf(" size=%d %x", a.Size, sha256.Sum256(data))
			x := t.FS.(vfs.XattrFS)
			names, err := x.ListXattr(context.Background(), self, ino)
			if err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
			sort.Strings(names)
			for _, n := range names {
				v, err := x.GetXattr(context.Background(), self, ino, n)
				if err != nil {
					return fmt.Errorf("%s: %w", p, err)
				}
				line += fmt.Sprintf(" %s=%q", n, v)
			}
		case syscall.S_IFLNK:
			target, err := t.Readlink(context.Background(), self, ino)
			if err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
			line += " -> " + target
		case syscall.S_IFDIR:
			lines = append(lines, line)
			names, inos, err := t.names(ino)
			if err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
			for _, n := range names {
				var b vfs.Attr
				if err := t.Lookup(context.Background(), self, ino, n, &b); err != nil || b.Ino != inos[n] {
					return fmt.Errorf("%s/%s is listed as %d and found as %d: %w", p, n, inos[n], b.Ino, err)
				}
				if err := walk(path.Join(p, n), b.Ino); err != nil {
					return err
				}
			}
			return nil
		}
		lines = append(lines, line)
		return nil
	}
	err := walk("", vfs.Root)
	return strings.Join(lines, "\n"), err
}

func same(t testing.TB, what string, want, got tree) {
	t.Helper()
	w, err := want.snapshot()
	if err != nil {
		t.Fatal(what, err)
	}
	g, err := got.snapshot()
	if err != nil {
		t.Fatal(what, err)
	}
	if w != g {
		differ(t, what, w, g)
	}
}

func differ(t testing.TB, what, want, got string) {
	t.Helper()
	w, g := map[string]bool{}, map[string]bool{}
	for _, l := range strings.Split(want, "\n") {
		w[l] = true
	}
	for _, l := range strings.Split(got, "\n") {
		g[l] = true
		if !w[l] {
			t.Errorf("%s: there is %s", what, l)
		}
	}
	for l := range w {
		if !g[l] {
			t.Errorf("%s: there is no %s", what, l)
		}
	}
	t.FailNow()
}

// op is a change that is made to two trees alike.
type op struct {
	what   string
	do     func(t tree) error
	before string // a path whose inode keeps its number
}

// paths that operations are about: few, so that they meet.
func randomPath(r *rand.Rand) string {
	p := fmt.Sprintf("%c", 'a'+r.IntN(4))
	for r.IntN(3) > 0 && len(p) < 6 {
		p += fmt.Sprintf("/%c", 'a'+r.IntN(4))
	}
	return p
}

func randomOp(r *rand.Rand) op {
	ctx := context.Background()
	p, q := randomPath(r), randomPath(r)
	var a vfs.Attr
	at := func(p string, do func(t tree, dir vfs.Ino, name string) error) func(tree) error {
		return func(t tree) error {
			dir, name, err := t.parent(p)
			if err != nil {
				return err
			}
			return do(t, dir, name)
		}
	}
	on := func(p string, do func(t tree, a vfs.Attr) error) func(tree) error {
		return func(t tree) error {
			a, err := t.find(p)
			if err != nil {
				return err
			}
			return do(t, a)
		}
	}
	data := make([]byte, r.IntN(9000))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	off := int64(r.IntN(10000))
	switch n := r.IntN(22); n {
	case 0, 1:
		return op{"create " + p, at(p, func(t tree, dir vfs.Ino, name string) error {
			f, err := t.Create(ctx, self, dir, name, 0o640, syscall.O_RDWR, &a)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(ctx, data, 0)
			return errors.Join(err, f.Close())
		}), ""}
	case 2, 3:
		return op{"mkdir " + p, at(p, func(t tree, dir vfs.Ino, name string) error {
			return t.Mkdir(ctx, self, dir, name, 0o750, &a)
		}), ""}
	case 4:
		return op{"symlink " + p, at(p, func(t tree, dir vfs.Ino, name string) error {
			return t.Symlink(ctx, self, dir, name, "to/"+q, &a)
		}), ""}
	case 5:
		return op{"mkfifo " + p, at(p, func(t tree, dir vfs.Ino, name string) error {
			return t.Mknod(ctx, self, dir, name, syscall.S_IFIFO|0o600, 0, &a)
		}), ""}
	case 6, 7:
		return op{"unlink " + p, at(p, func(t tree, dir vfs.Ino, name string) error { return t.Unlink(ctx, self, dir, name) }), ""}
	case 8, 9:
		return op{"rmdir " + p, at(p, func(t tree, dir vfs.Ino, name string) error { return t.Rmdir(ctx, self, dir, name) }), ""}
	case 10, 11, 12, 13:
		flags := []uint32{0, 0, vfs.RenameNoReplace, vfs.RenameExchange}[n-10]
		return op{fmt.Sprintf("rename %s %s %d", p, q, flags), at(p, func(t tree, dir vfs.Ino, name string) error {
			dir2, name2, err := t.parent(q)
			if err != nil {
				return err
			}
			return t.Rename(ctx, self, dir, name, dir2, name2, flags)
		}), ""}
	case 14:
		return op{fmt.Sprintf("link %s %s", p, q), on(p, func(t tree, from vfs.Attr) error {
			dir, name, err := t.parent(q)
			if err != nil {
				return err
			}
			return t.Link(ctx, self, from.Ino, dir, name, &a)
		}), p}
	case 15, 16:
		return op{fmt.Sprintf("write %s %d+%d", p, off, len(data)), on(p, func(t tree, b vfs.Attr) error {
			f, err := t.Open(ctx, self, b.Ino, syscall.O_RDWR)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(ctx, data, off)
			return errors.Join(err, f.Close())
		}), p}
	case 17:
		return op{fmt.Sprintf("truncate %s %d", p, off), on(p, func(t tree, b vfs.Attr) error {
			return t.SetAttr(ctx, self, b.Ino, &vfs.SetAttr{Valid: vfs.SetSize, Size: uint64(off)}, &a)
		}), p}
	case 18:
		mode := uint32(r.IntN(0o1000))
		return op{fmt.Sprintf("chmod %s %o", p, mode), on(p, func(t tree, b vfs.Attr) error {
			if b.Type() == syscall.S_IFLNK {
				return nil
			}
			return t.SetAttr(ctx, self, b.Ino, &vfs.SetAttr{Valid: vfs.SetMode, Mode: mode}, &a)
		}), p}
	case 19:
		return op{"setxattr " + p, on(p, func(t tree, b vfs.Attr) error {
			return t.FS.(vfs.XattrFS).SetXattr(ctx, self, b.Ino, "user.x", data[:min(len(data), 50)], 0)
		}), p}
	case 20:
		return op{"removexattr " + p, on(p, func(t tree, b vfs.Attr) error {
			return t.FS.(vfs.XattrFS).RemoveXattr(ctx, self, b.Ino, "user.x")
		}), p}
	default:
		return op{"open with O_TRUNC " + p, on(p, func(t tree, b vfs.Attr) error {
			f, err := t.Open(ctx, self, b.Ino, syscall.O_WRONLY|syscall.O_TRUNC)
			if err != nil {
				return err
			}
			return f.Close()
		}), p}
	}
}

// build makes equal trees in two directories.
func build(t testing.TB, seed uint64, steps int, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		fs := tree{localTree(t, dir, false)}
		r := rand.New(rand.NewPCG(seed, 7))
		for range steps {
			_ = randomOp(r).do(fs) // many do not work
		}
		if err := fs.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The overlay behaves as a directory does that began with the lower tree's content, also
// over remounts, in results, errors and inode numbers.
func TestModel(t *testing.T) {
	seeds, steps := uint64(8), 400
	if testing.Short() {
		seeds, steps = 3, 150
	}
	if s := os.Getenv("OVERLAY_SEEDS"); s != "" { // more of them
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		seeds = n
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			upper, lower, plain := scratch(t), scratch(t), scratch(t)
			build(t, seed, 150, lower, plain)
			before := tree{localTree(t, lower, true)}
			untouched, err := before.snapshot()
			if err != nil {
				t.Fatal(err)
			}
			before.Close()
			model := tree{localTree(t, plain, false)}
			defer model.Close()
			o := overlay.Options{Identity: "lower"}
			if seed%2 == 1 {
				o.Limit = 1 << 40
			}
			fs := tree{join(t, upper, lower, o)}
			same(t, "at the beginning", model, fs)
			r := rand.New(rand.NewPCG(seed, 8))
			for i := range steps {
				op := randomOp(r)
				var was vfs.Attr
				if op.before != "" {
					was, _ = fs.find(op.before)
				}
				werr, gerr := op.do(model), op.do(fs)
				if vfs.ErrnoOf(werr) != vfs.ErrnoOf(gerr) {
					t.Fatalf("step %d, %s: %v, on a plain directory %v", i, op.what, gerr, werr)
				}
				if is, err := fs.find(op.before); op.before != "" && err == nil && is.Ino != was.Ino {
					t.Fatalf("step %d, %s: inode %d became %d", i, op.what, was.Ino, is.Ino)
				}
				if i%20 == 0 || i == steps-1 {
					same(t, fmt.Sprintf("step %d, %s", i, op.what), model, fs)
				}
				if i%50 == 49 {
					if err := fs.Close(); err != nil {
						t.Fatal(err)
					}
					fs = tree{join(t, upper, lower, o)}
					same(t, fmt.Sprintf("remounted after step %d", i), model, fs)
				}
			}
			if err := fs.Close(); err != nil {
				t.Fatal(err)
			}
			after := tree{localTree(t, lower, true)}
			defer after.Close()
			if now, err := after.snapshot(); err != nil || now != untouched {
				t.Fatal("the lower tree was changed", err)
			}
			if left, err := os.ReadDir(filepath.Join(upper, ".massif-work", "temp")); err != nil || len(left) > 0 {
				t.Errorf("left under construction: %v, %v", left, err)
			}
		})
	}
}
