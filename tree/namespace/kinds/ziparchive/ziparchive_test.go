package ziparchive

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/massif-fs/massif/tree/namespace"
	"github.com/massif-fs/massif/tree/namespace/kinds"
	"github.com/massif-fs/massif/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type zipEntry struct{ name, text string }

// pack makes an archive in the place of what is there, as programs do: whole or not at all.
func pack(t testing.TB, location string, stamp time.Time, entries ...zipEntry) {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		f, err := w.CreateHeader(&zip.FileHeader{Name: e.name, Method: zip.Deflate, Modified: time.Unix(1e9, 0)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, e.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	temp := location + ".new"
	if err := os.WriteFile(temp, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(temp, stamp, stamp); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temp, location); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, location string) *namespace.Backend {
	t.Helper()
	p, err := kinds.ParseParams(json.RawMessage(fmt.Sprintf(`{"type": "zip-archive", "location": %q}`, location)))
	if err != nil {
		t.Fatal(err)
	}
	made, err := kinds.Make(p, &kinds.Env{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := made.Storage.Open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.FS.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func read(fs vfs.FS, path ...string) (string, error) {
	ctx, c := context.Background(), &vfs.Caller{}
	a := vfs.Attr{Ino: vfs.Root}
	for _, name := range path {
		if err := fs.Lookup(ctx, c, a.Ino, name, &a); err != nil {
			return "", err
		}
	}
	f, err := fs.Open(ctx, c, a.Ino, syscall.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer f.Close()
	buf := make([]byte, a.Size+1)
	n, err := f.ReadAt(ctx, buf, 0)
	if err != nil {
		return "", err
	}
	// Backwards and in the middle it is the same.
	for off := int64(n) - 1; off >= 0; off -= max(int64(n)/3, 1) {
		part := make([]byte, 3)
		k, err := f.ReadAt(ctx, part, off)
		if err != nil || !bytes.HasPrefix(buf[off:n], part[:k]) || k == 0 {
			return "", fmt.Errorf("read at %d: %q, %w", off, part[:k], err)
		}
	}
	return string(buf[:n]), nil
}

func TestArchive(t *testing.T) {
	location := filepath.Join(t.TempDir(), "a.zip")
	pack(t, location, time.Unix(2e9, 0), zipEntry{"top.txt", "top"}, zipEntry{"d/e/deep", "deep"}, zipEntry{"empty/", ""},
		zipEntry{"../out", "x"}, zipEntry{"/abs", "x"}, zipEntry{"twice", "1"}, zipEntry{"twice", "2"}, zipEntry{"file", "x"}, zipEntry{"file/below", "y"})
	fs := open(t, location).FS
	for _, c := range []struct {
		path []string
		want string
	}{{[]string{"top.txt"}, "top"}, {[]string{"d", "e", "deep"}, "deep"}, {[]string{"twice"}, "2"}, {[]string{"file", "below"}, "y"}} {
		if got, err := read(fs, c.path...); got != c.want || err != nil {
			t.Errorf("%q: %q, %v", c.path, got, err)
		}
	}
	d, err := fs.OpenDir(context.Background(), &vfs.Caller{}, vfs.Root)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var names []string
	if err := d.Read(context.Background(), 0, false, func(e *vfs.DirEntry) bool { names = append(names, e.Name); return true }); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(names); got != "[d empty file top.txt twice]" {
		t.Errorf("names: %s", got)
	}
}

// W4: a file that is replaced is told as what is gone, new and different.
func TestReplaced(t *testing.T) {
	location := filepath.Join(t.TempDir(), "a.zip")
	pack(t, location, time.Unix(2e9, 0), zipEntry{"gone.txt", "1"}, zipEntry{"changed.txt", "1"}, zipEntry{"same.txt", "1"})
	b := open(t, location)
	ctx, c := context.Background(), &vfs.Caller{}
	var a vfs.Attr
	if err := b.FS.Lookup(ctx, c, vfs.Root, "gone.txt", &a); err != nil {
		t.Fatal(err)
	}
	old, err := b.FS.Open(ctx, c, a.Ino, syscall.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan []namespace.Event, 10)
	stop, err := b.Watch(func(e []namespace.Event) { told <- e })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	pack(t, location, time.Unix(2e9+5, 0), zipEntry{"new.txt", "1"}, zipEntry{"changed.txt", "2"}, zipEntry{"same.txt", "1"})
	select {
	case got := <-told:
		if fmt.Sprint(got) != "[{delete gone.txt} {create new.txt} {modify changed.txt}]" {
			t.Errorf("events: %v", got)
		}
	case <-time.After(time.Minute):
		t.Fatal("no events")
	}
	if got, err := read(b.FS, "changed.txt"); got != "2" || err != nil {
		t.Errorf("changed: %q, %v", got, err)
	}
	if _, err := read(b.FS, "gone.txt"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("gone: %v", err)
	}
	buf := make([]byte, 1) // what is open is of the archive as it was
	if n, err := old.ReadAt(ctx, buf, 0); n != 1 || err != nil || buf[0] != '1' {
		t.Errorf("the open file: %q, %v", buf, err)
	}
	old.Close()
}

func TestDamage(t *testing.T) {
	location := filepath.Join(t.TempDir(), "a.zip")
	pack(t, location, time.Unix(2e9, 0), zipEntry{"f", string(bytes.Repeat([]byte("abcdefgh"), 4000))})
	data, err := os.ReadFile(location)
	if err != nil {
		t.Fatal(err)
	}
	data[45] ^= 0xff // in the compressed data
	if err := os.WriteFile(location, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := read(open(t, location).FS, "f"); !errors.Is(err, syscall.EIO) {
		t.Errorf("a damaged file: %v", err)
	}
	if _, err := readContents(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func FuzzArchive(f *testing.F) {
	dir := f.TempDir()
	seed := filepath.Join(dir, "seed.zip")
	pack(f, seed, time.Unix(2e9, 0), zipEntry{"a", "x"}, zipEntry{"b/c", "y"}, zipEntry{"b/../d", "z"})
	data, err := os.ReadFile(seed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		location := filepath.Join(t.TempDir(), "f.zip")
		if err := os.WriteFile(location, data, 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := readContents(location)
		if err != nil {
			return
		}
		defer c.file.Close()
		for p := range c.files {
			if !sound(p) {
				t.Fatalf("file %q", p)
			}
			if _, dir := c.dirs[p]; dir {
				t.Fatalf("%q is a file and a directory", p)
			}
		}
	})
}
