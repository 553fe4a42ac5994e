package localdir

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/vfs"
)

// B5: who may own a directory.
func TestCheckOwner(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "a", "b")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := CheckOwner(dir, "0xaaa"); vfs.ErrnoOf(err) != syscall.EACCES {
		t.Errorf("without a file: %v", err)
	}
	for _, c := range []struct {
		text, owner string
		ok          bool
	}{
		{"0xaaa", "0xaaa", true}, {"# 0xaaa\n0xbbb\n", "0xaaa", false}, {"0xbbb\n\t0xaaa  # me\n", "0xaaa", true}, {"0xaaab", "0xaaa", false}, {"", "", false}, {"\n", "", false},
	} {
		for _, at := range []string{dir, root} {
			file := filepath.Join(at, OwnersFile)
			if err := os.WriteFile(file, []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := CheckOwner(dir, c.owner); (err == nil) != c.ok {
				t.Errorf("%q in %s for %q: %v", c.text, at, c.owner, err)
			}
			if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
}

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		target, rel string
		ok          bool
	}{
		{"/data", "", true}, {"/data/a/b", "a/b", true}, {"/alias/a", "a", true}, {"/database", "", false}, {"/", "", false}, {"/etc", "", false},
	} {
		if rel, ok := within("/data", "/alias/", c.target); rel != c.rel || ok != c.ok {
			t.Errorf("%s: %q, %v", c.target, rel, ok)
		}
	}
}
