package fsxtree

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestClean(t *testing.T) {
	e, err := New(Config{Dir: t.TempDir(), Seed: 11, MaxNodes: 120})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := e.Run(context.Background(), 3000); err != nil {
			t.Fatal(err)
		}
		if err := e.Check(); err != nil {
			t.Fatal(err)
		}
	}
	if e.Names() < 50 {
		t.Errorf("only %d names", e.Names())
	}
	if err := e.CloseAll(); err != nil {
		t.Fatal(err)
	}
}

// TestFinds: a change behind the exerciser's back is found.
func TestFinds(t *testing.T) {
	harm := map[string]func(dir string) error{
		"extra":  func(dir string) error { return os.WriteFile(filepath.Join(dir, "stranger"), nil, 0o600) },
		"mode":   func(dir string) error { return os.Chmod(dir, 0o711) },
		"linked": func(dir string) error { return unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600) },
	}
	for name, do := range harm {
		t.Run(name, func(t *testing.T) {
			e, err := New(Config{Dir: t.TempDir(), Seed: 2, Workers: 1})
			if err != nil {
				t.Fatal(err)
			}
			if err := e.Run(context.Background(), 500); err != nil {
				t.Fatal(err)
			}
			if err := do(e.workers[0].dir); err != nil {
				t.Fatal(err)
			}
			if err := e.Check(); err == nil {
				t.Error("not found")
			}
			if err := e.CloseAll(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestDiff(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for _, dir := range []string{a, b} {
		for _, name := range []string{"one", "two", "three"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Link(filepath.Join(dir, "one"), filepath.Join(dir, "uno")); err != nil {
			t.Fatal(err)
		}
	}
	diff := func(what What) string {
		t.Helper()
		want, err := Take(a)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Take(b)
		if err != nil {
			t.Fatal(err)
		}
		return Diff(want, got, what)
	}
	if d := diff(What{NoMtime: true}); d != "" {
		t.Fatalf("equal trees differ: %s", d)
	}
	for _, do := range []func() error{
		func() error { return os.WriteFile(filepath.Join(b, "one"), []byte("ONE"), 0o644) },
		func() error { return os.Remove(filepath.Join(b, "two")) },
		func() error { return os.Chmod(filepath.Join(b, "three"), 0o600) },
		func() error { return os.Symlink("x", filepath.Join(b, "four")) },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	d := diff(What{NoMtime: true})
	for _, want := range []string{"one: data is", "two: missing", "three: mode is 100600", "four: must not be there", "uno: data is"} {
		if !strings.Contains(d, want) {
			t.Errorf("%q is not in:\n%s", want, d)
		}
	}
	if strings.Count(d, "\n") != 4 {
		t.Errorf("unexpected lines:\n%s", d)
	}
}

func TestRenameModel(t *testing.T) {
	root := newInode(unix.S_IFDIR, 0o700)
	dir, file, empty := newInode(unix.S_IFDIR, 0o700), newInode(unix.S_IFREG, 0o600), newInode(unix.S_IFDIR, 0o700)
	root.put("dir", dir)
	root.put("empty", empty)
	dir.put("file", file)
	for _, c := range []struct {
		from     *inode
		old      string
		to       *inode
		new      string
		flags    uint
		want     error
		children int // of root afterwards
	}{
		{root, "none", root, "x", 0, unix.ENOENT, 2},
		{root, "dir", dir, "x", 0, unix.EINVAL, 2},
		{dir, "file", root, "dir", 0, unix.ENOTEMPTY, 2},
		{dir, "file", root, "empty", 0, unix.EISDIR, 2},
		{root, "empty", dir, "file", 0, unix.ENOTDIR, 2},
		{root, "empty", root, "dir", 0, unix.ENOTEMPTY, 2},
		{root, "empty", root, "dir", unix.RENAME_NOREPLACE, unix.EEXIST, 2},
		{root, "empty", dir, "file", unix.RENAME_EXCHANGE, nil, 2},
		{root, "empty", dir, "file", unix.RENAME_EXCHANGE, nil, 2},
		{root, "dir", root, "empty", 0, nil, 1},
	} {
		if got := rename(c.from, c.old, c.to, c.new, c.flags); got != c.want {
			t.Errorf("rename %s %s: %v, want %v", c.old, c.new, got, c.want)
		}
		if len(root.children) != c.children {
			t.Errorf("rename %s %s left %v", c.old, c.new, root.names())
		}
	}
	if root.nlink != 3 || dir.nlink != 2 {
		t.Errorf("links: root %d, dir %d", root.nlink, dir.nlink)
	}
}
