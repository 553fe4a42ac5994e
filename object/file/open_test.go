package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/objecttest"
	"golang.org/x/sys/unix"
)

func put(t testing.TB, s *Store, key, data string) object.Info {
	t.Helper()
	info, err := s.Put(t.Context(), key, strings.NewReader(data), int64(len(data)), nil)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	want := func(what string, err, kind error, errno syscall.Errno, words string) {
		t.Helper()
		if !errors.Is(err, kind) || !errors.Is(err, errno) || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := Open(filepath.Join(dir, "missing"), Options{})
	want("missing", err, object.ErrNotFound, unix.ENOENT, "does not exist")
	_, err = Open(plain, Options{})
	want("a file", err, object.ErrInvalid, unix.ENOTDIR, "not a directory")
	_, err = Open(plain+"/below", Options{Create: true})
	want("below a file", err, object.ErrNotFound, unix.ENOTDIR, "")
	if _, err := os.Stat(filepath.Join(dir, own)); err == nil {
		t.Error("a failed open left something")
	}

	s, err := Open(filepath.Join(dir, "a/b/c"), Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", "v")
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Head(t.Context(), "k"); !errors.Is(err, object.ErrInvalid) {
		t.Errorf("head after close: %v", err)
	}
	if _, err := s.List(t.Context(), object.ListOptions{}); !errors.Is(err, object.ErrInvalid) {
		t.Errorf("list after close: %v", err)
	}
	if err := s.Delete(t.Context(), "k"); !errors.Is(err, object.ErrInvalid) {
		t.Errorf("delete after close: %v", err)
	}
	// A later layout is refused.
	if err := os.WriteFile(filepath.Join(dir, "a/b/c", ownFormat), []byte("massif objects 2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = Open(filepath.Join(dir, "a/b/c"), Options{})
	if !errors.Is(err, object.ErrInvalid) || !strings.Contains(err.Error(), "massif objects 2") {
		t.Errorf("newer layout: %v", err)
	}
}

// mountTmpfs mounts a small file system, if the test may.
func mountTmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("massif-test", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("no permission to mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestReadOnly(t *testing.T) {
	dir := mountTmpfs(t, "size=1m")
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "d/k", "value")
	s.Close()
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	_, err = Open(dir, Options{})
	if !errors.Is(err, object.ErrAccess) || !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), "cannot be written") {
		t.Errorf("writable open: %v", err)
	}
	if s, err = Open(dir, Options{ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := t.Context()
	p := make([]byte, 5)
	if _, err := s.ReadRange(ctx, "d/k", p, 0); err != nil || string(p) != "value" {
		t.Errorf("read %q, %v", p, err)
	}
	if page, err := s.List(ctx, object.ListOptions{}); err != nil || len(page.Objects) != 1 {
		t.Errorf("list %v, %v", page, err)
	}
	for what, do := range map[string]func() error{
		"put":    func() error { _, err := s.Put(ctx, "x", strings.NewReader(""), 0, nil); return err },
		"delete": func() error { return s.Delete(ctx, "d/k") },
		"copy":   func() error { _, err := s.Copy(ctx, "x", "d/k", nil); return err },
		"rename": func() error { return s.Rename(ctx, "x", "d/k") },
		"upload": func() error { _, err := s.CreateMultipart(ctx, "x", nil); return err },
	} {
		if err := do(); !errors.Is(err, unix.EROFS) || !errors.Is(err, object.ErrAccess) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestNoSpace: a full disk is ENOSPC, and does no harm.
func TestNoSpace(t *testing.T) {
	dir := mountTmpfs(t, "size=2m,nr_inodes=60")
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := t.Context()
	put(t, s, "old", "content")
	full := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, object.ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v", what, err)
		}
	}
	big := make([]byte, 3<<20)
	for _, key := range []string{"new", "old"} {
		_, err := s.Put(ctx, key, bytes.NewReader(big), int64(len(big)), nil)
		full("put", err)
		_, err = s.Put(ctx, key, io.MultiReader(bytes.NewReader(big)), -1, nil)
		full("streamed put", err)
	}
	up, err := s.CreateMultipart(ctx, "up", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = up.PutPart(ctx, 1, bytes.NewReader(big), int64(len(big)))
	full("part", err)
	if err := up.Abort(ctx); err != nil {
		t.Error(err)
	}
	// No inodes.
	for i := 0; ; i++ {
		if _, err = s.Put(ctx, fmt.Sprintf("d%d/k", i), strings.NewReader(""), 0, nil); err != nil || i == 100 {
			break
		}
	}
	full("put without inodes", err)
	body, _, err := s.Get(ctx, "old", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if p, err := io.ReadAll(body); err != nil || string(p) != "content" {
		t.Errorf("the old object holds %q, %v", p, err)
	}
	// Room is found again.
	for i := range 100 {
		if err := s.Delete(ctx, fmt.Sprintf("d%d/k", i)); err != nil {
			t.Fatal(err)
		}
	}
	put(t, s, "new", "fits")
}

func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	old, young := filepath.Join(dir, ownTemp, "old"), filepath.Join(dir, ownTemp, "young")
	for _, p := range []string{old, young} {
		if err := os.WriteFile(p, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir, Options{TempAge: time.Hour}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := os.Stat(old); err == nil {
		t.Error("an old leftover was kept")
	}
	if _, err := os.Stat(young); err != nil {
		t.Error("a file that may be in use was removed")
	}
	if entries, _ := os.ReadDir(filepath.Join(dir, ownTemp)); len(entries) != 1 {
		t.Errorf("open left %v", entries)
	}
}

// TestForeignFiles: what others put into the directory is no object and does no
// harm.
func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put(t, s, "d/k", "value")
	for _, name := range []string{"lost+found", "plain directory", "d+/sub directory", "x%+"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{".hidden", "plain directory/file", "bad%escape", "d+/bad%z", strings.Repeat("n", 200)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	page, err := s.List(ctx, object.ListOptions{})
	if err != nil || len(page.Objects) != 1 || page.Objects[0].Key != "d/k" {
		t.Errorf("list %v, %v", page.Objects, err)
	}
	for _, key := range []string{"link", "fifo", "dir"} {
		if _, err := s.Head(ctx, key); !errors.Is(err, object.ErrNotFound) {
			t.Errorf("head %s: %v", key, err)
		}
		if _, err := s.ReadRange(ctx, key, make([]byte, 1), 0); !errors.Is(err, object.ErrNotFound) {
			t.Errorf("read %s: %v", key, err)
		}
	}
	// A plain file that happens to be named like an object is one: an existing
	// directory of files can be listed and read.
	if err := os.WriteFile(filepath.Join(dir, "simple.txt"), []byte("simple"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 6)
	if _, err := s.ReadRange(ctx, "simple.txt", p, 0); err != nil || string(p) != "simple" {
		t.Errorf("read %q, %v", p, err)
	}
}

// TestDescriptors: no descriptor is left open by anything, and those kept are
// bounded.
func TestDescriptors(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(entries)
	}
	before := count()
	s, err := Open(t.TempDir(), Options{NoSync: true, OpenFiles: 20})
	if err != nil {
		t.Fatal(err)
	}
	s.dirs.most = 10
	ctx := t.Context()
	past := time.Now().Add(-time.Hour)
	for i := range 200 {
		key := fmt.Sprintf("d%d/%d", i%50, i)
		put(t, s, key, key)
		// Young files are not kept open; the change time cannot be set, so wait for
		// none and pretend.
		fd, st, err := s.openObject(key)
		if err != nil {
			t.Fatal(err)
		}
		st.Ctim = unix.NsecToTimespec(past.UnixNano())
		s.files.release(s.files.add(key, fd, st))
		if _, err := s.Head(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	if n := count() - before; n > 20+10+8 {
		t.Errorf("%d descriptors are open", n)
	}
	if n := count() - before; n < 20 {
		t.Errorf("only %d descriptors are kept", n)
	}
	s.Close()
	if n := count() - before; n != 0 {
		t.Errorf("%d descriptors are left", n)
	}
}

// TestKeptFiles: descriptors are really kept and really used.
func TestKeptFiles(t *testing.T) {
	s, err := Open(t.TempDir(), Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := t.Context()
	put(t, s, "k", "one")
	deadline := time.Now().Add(time.Minute)
	p := make([]byte, 3)
	for f := (*openFile)(nil); f == nil; {
		if time.Now().After(deadline) {
			t.Fatal("the file is never kept open")
		}
		if _, err := s.ReadRange(ctx, "k", p, 0); err != nil || string(p) != "one" {
			t.Fatalf("%q, %v", p, err)
		}
		if f = s.files.acquire("k"); f != nil {
			s.files.release(f)
		}
	}
	s.files.closeIdle()
	if s.files.shard("k").all["k"] == nil {
		t.Error("a file in use was closed")
	}
	s.files.closeIdle()
	if s.files.shard("k").all["k"] != nil {
		t.Error("an idle file was not closed")
	}
	if _, err := s.ReadRange(ctx, "k", p, 0); err != nil || string(p) != "one" {
		t.Fatalf("%q, %v", p, err)
	}
	put(t, s, "k", "two")
	if f := s.files.shard("k").all["k"]; f != nil {
		t.Error("a replaced object's file is kept open")
	}
	if _, err := s.ReadRange(ctx, "k", p, 0); err != nil || string(p) != "two" {
		t.Errorf("%q, %v", p, err)
	}
}

// TestSmallListings runs the cases about listings as if directories were too
// large to be held in memory.
func TestSmallListings(t *testing.T) {
	old := maxNames
	maxNames = 7
	defer func() { maxNames = old }()
	f := factory(Options{NoSync: true}, nil, inMemory)
	f.Only = []string{"List", "ListMany", "ListChanging", "NestedKeys"}
	objecttest.Run(t, f)
}

func FuzzDecodeAttrs(f *testing.F) {
	for _, s := range []string{`{}`, `{"type":"a/b","meta":{"k":"v"}}`, `{"meta":null}`, ``, `[]`, `{"type":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		a, err := decodeAttrs(p)
		if err != nil {
			if !errors.Is(err, object.ErrCorrupt) {
				t.Errorf("%q: %v", p, err)
			}
			return
		}
		q, err := a.encode()
		if err != nil {
			return // too long
		}
		b, err := decodeAttrs(q)
		if err != nil || a.ContentType != b.ContentType || len(a.Metadata) != len(b.Metadata) {
			t.Errorf("%q became %+v, %q and %+v: %v", p, a, q, b, err)
		}
	})
}

func FuzzDecodeUpload(f *testing.F) {
	for _, s := range []string{`{"key":"k","started":"2026-01-02T03:04:05Z"}`, `{}`, `{"key":""}`, `x`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if u, err := decodeUpload(p); err == nil && object.ValidKey(u.Key) != nil {
			t.Errorf("%q gives the key %q", p, u.Key)
		}
	})
}
