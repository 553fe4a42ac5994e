package vfstest_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/tree/local"
	"github.com/massif-fs/massif/vfs"
	"github.com/massif-fs/massif/vfs/vfstest"
)

// The suite itself is tested by trees that break one promise each: the named test
// must find it.

func TestMain(m *testing.M) {
	syscall.Umask(0)
	os.Exit(m.Run())
}

// faulty is a good tree whose methods a fault replaces.
type faulty struct {
	*local.FS
	fault string
}

var faults = []struct{ name, found string }{
	{"none", ""},
	{"create-replaces", "Create"},
	{"names-of-256", "BadNames"},
	{"rename-forgets-noreplace", "RenameNoReplace"},
	{"readdir-stops-early", "ReadDir"},
	{"readdir-twice", "ReadDir"},
	{"short-read", "ReadWrite"},
	{"append-overwrites", "Append"},
	{"truncate-keeps-tail", "Truncate"},
	{"hole-not-punched", "PunchHole"},
	{"nlink-always-one", "Link"},
	{"unpinned-at-unlink", "Pinned"},
	{"xattr-flags-ignored", "Xattr"},
	{"utimes-drops-nanoseconds", "Times"},
	{"kill-keeps-setuid", "KillSetID"},
	{"stale-size", "SeveralFiles|DataTimes|ReadWrite"},
}

func (f *faulty) is(name string) bool { return f.fault == name }

func (f *faulty) Create(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, flags int, out *vfs.Attr) (vfs.File, error) {
	if f.is("create-replaces") {
		f.FS.Unlink(ctx, c, parent, name)
	}
	file, err := f.FS.Create(ctx, c, parent, name, mode, flags, out)
	return f.file(file, flags), err
}

func (f *faulty) Open(ctx context.Context, c *vfs.Caller, ino vfs.Ino, flags int) (vfs.File, error) {
	if f.is("append-overwrites") {
		flags &^= syscall.O_APPEND
	}
	file, err := f.FS.Open(ctx, c, ino, flags)
	return f.file(file, flags), err
}

func (f *faulty) Mkdir(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, out *vfs.Attr) error {
	if f.is("names-of-256") && len(name) > vfs.MaxName {
		return f.FS.Mkdir(ctx, c, parent, name[:vfs.MaxName], mode, out)
	}
	return f.FS.Mkdir(ctx, c, parent, name, mode, out)
}

func (f *faulty) Rename(ctx context.Context, c *vfs.Caller, p1 vfs.Ino, n1 string, p2 vfs.Ino, n2 string, flags uint32) error {
	if f.is("rename-forgets-noreplace") {
		flags &^= vfs.RenameNoReplace
	}
	return f.FS.Rename(ctx, c, p1, n1, p2, n2, flags)
}

func (f *faulty) GetAttr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, out *vfs.Attr) error {
	err := f.FS.GetAttr(ctx, c, ino, out)
	if f.is("nlink-always-one") && !out.IsDir() {
		out.Nlink = 1
	}
	if f.is("stale-size") && out.IsRegular() {
		out.Size = 0
	}
	return err
}

func (f *faulty) SetAttr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, set *vfs.SetAttr, out *vfs.Attr) error {
	s := *set
	if f.is("utimes-drops-nanoseconds") {
		s.Mtime.Nsec, s.Atime.Nsec = 0, 0
	}
	if f.is("kill-keeps-setuid") {
		s.Valid &^= vfs.SetKillSUIDGID
	}
	return f.FS.SetAttr(ctx, c, ino, &s, out)
}

func (f *faulty) Unlink(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string) error {
	if f.is("unpinned-at-unlink") {
		var a vfs.Attr
		if f.FS.Lookup(ctx, c, parent, name, &a) == nil {
			f.FS.Unpin(a.Ino)
		}
	}
	return f.FS.Unlink(ctx, c, parent, name)
}

func (f *faulty) SetXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string, value []byte, flags uint32) error {
	if f.is("xattr-flags-ignored") {
		flags = 0
	}
	return f.FS.SetXattr(ctx, c, ino, name, value, flags)
}

func (f *faulty) OpenDir(ctx context.Context, c *vfs.Caller, ino vfs.Ino) (vfs.Dir, error) {
	d, err := f.FS.OpenDir(ctx, c, ino)
	return &faultyDir{d, f}, err
}

type faultyDir struct {
	vfs.Dir
	f *faulty
}

func (d *faultyDir) Read(ctx context.Context, cookie uint64, plus bool, emit func(*vfs.DirEntry) bool) error {
	n := 0
	return d.Dir.Read(ctx, cookie, plus, func(e *vfs.DirEntry) bool {
		n++
		if d.f.is("readdir-stops-early") && n == 7 {
			return true // swallowed
		}
		if d.f.is("readdir-twice") && n == 7 {
			emit(e)
		}
		return emit(e)
	})
}

func (f *faulty) file(file vfs.File, flags int) vfs.File {
	if file == nil {
		return nil
	}
	return &faultyFile{file, f}
}

type faultyFile struct {
	vfs.File
	f *faulty
}

func (f *faultyFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if f.f.is("short-read") && len(p) > 1<<20 {
		p = p[:1<<20]
	}
	return f.File.ReadAt(ctx, p, off)
}

func (f *faultyFile) Truncate(ctx context.Context, size int64) error {
	if f.f.is("truncate-keeps-tail") && size > 100_000 {
		return nil
	}
	return f.File.Truncate(ctx, size)
}

func (f *faultyFile) Allocate(ctx context.Context, mode uint32, off, length int64) error {
	if f.f.is("hole-not-punched") && mode&2 != 0 {
		return nil
	}
	return f.File.Allocate(ctx, mode, off, length)
}

const faultVar = "VFSTEST_FAULT"

// TestFaulty runs the suite on a faulty tree, in a child of TestFindsFaults only.
func TestFaulty(t *testing.T) {
	fault := os.Getenv(faultVar)
	if fault == "" {
		t.Skip("runs in children of TestFindsFaults")
	}
	vfstest.Run(t, vfstest.Factory{
		New: func(t testing.TB) vfs.FS {
			dir, err := os.MkdirTemp("", "faulty")
			if err != nil {
				t.Fatal(err)
			}
			fs, err := local.Open(dir, local.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				fs.Close()
				os.RemoveAll(dir)
			})
			return &faulty{fs, fault}
		},
		Lacks: map[vfstest.Feature]string{vfstest.Feed: "it has none"},
	})
}

func TestFindsFaults(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			run := "^TestFaulty$/^(" + f.found + ")$"
			if f.found == "" {
				run = "^TestFaulty$/^(Create|BadNames|ReadDir|ReadWrite|Append|Truncate|Link|Times)$"
			}
			cmd := exec.Command(os.Args[0], "-test.run="+run, "-test.short")
			cmd.Env = append(os.Environ(), faultVar+"="+f.name)
			out, err := cmd.CombinedOutput()
			switch {
			case f.found == "" && err != nil:
				t.Errorf("found something in a good tree: %s", out)
			case f.found != "" && err == nil:
				t.Errorf("not found by %s", f.found)
			case err != nil && !strings.Contains(string(out), "--- FAIL: TestFaulty/"):
				t.Errorf("the suite fell over: %s", out)
			}
		})
	}
}
