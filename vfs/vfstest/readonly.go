package vfstest

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/vfs"
)

// RunReadOnly checks trees that are made whole by other means than this interface, such as
// images: Factory.New makes a writable tree of any kind, ReadOnly the tree under test
// of what it holds.
func RunReadOnly(t *testing.T, f Factory) {
	t.Run("Refuses", func(t *testing.T) { testReadOnly(t, f) })
	t.Run("Content", func(t *testing.T) { testReadOnlyContent(t, f) })
}

// known is what an inode of a read-only tree should be.
type known struct {
	attr   vfs.Attr
	data   []byte
	target string
	xattrs map[string]string
	names  map[string]*known // of a directory
}

func testReadOnlyContent(t *testing.T, f Factory) {
	e := newEnv(t, f.New(t))
	e.lacks = f.Lacks
	d := e.mkdir(vfs.Root, "dir")
	e.mkdir(d.Ino, "below")
	many := e.mkdir(vfs.Root, "many")
	for i := range 300 {
		e.file(many.Ino, fmt.Sprintf("%03d", i), pattern(i, byte(i)))
	}
	for i, n := range []int{0, 1, 4096, 512 << 10, 512<<10 + 1, 3<<20 + 77} {
		e.file(d.Ino, fmt.Sprint("file", i), pattern(n, byte(i)))
	}
	e.file(d.Ino, strings.Repeat("n", vfs.MaxName), nil)
	if e.has(Symlinks) {
		var a vfs.Attr
		e.ok(e.fs.Symlink(e.ctx, e.c, d.Ino, "link", "../many/001", &a), "symlink")
	}
	if e.has(HardLinks) {
		var a vfs.Attr
		e.ok(e.fs.Link(e.ctx, e.c, e.lookup(d.Ino, "file2").Ino, many.Ino, "again", &a), "link")
	}
	if x, ok := e.fs.(vfs.XattrFS); ok && e.has(Xattrs) {
		e.ok(x.SetXattr(e.ctx, e.c, e.lookup(d.Ino, "file1").Ino, "user.a", []byte("b"), 0), "setxattr")
	}
	e.set(e.lookup(d.Ino, "file1").Ino, vfs.SetAttr{Valid: vfs.SetMode | vfs.SetMtime, Mode: 0o4711, Mtime: vfs.Time{Sec: 1e9, Nsec: 12345}})
	want := e.remember(vfs.Root)
	e.fs = f.ReadOnly(t, e.fs)
	e.compare("", vfs.Root, vfs.Root, want)
	// Everything once more, now that it is known, and from many sides.
	done := make(chan struct{})
	for range 4 {
		go func() {
			defer func() { done <- struct{}{} }()
			e.compare("", vfs.Root, vfs.Root, want)
		}()
	}
	for range 4 {
		<-done
	}
	e.absent(vfs.Root, "absent")
	var a vfs.Attr
	file := e.lookup(e.lookup(vfs.Root, "dir").Ino, "file1").Ino
	e.want(e.fs.Lookup(e.ctx, e.c, file, "x", &a), "lookup in a file", syscall.ENOTDIR)
	_, err := e.fs.OpenDir(e.ctx, e.c, file)
	e.want(err, "opendir of a file", syscall.ENOTDIR)
	_, err = e.fs.Open(e.ctx, e.c, vfs.Root, syscall.O_RDONLY)
	e.want(err, "open of a directory", syscall.EISDIR)
	_, err = e.fs.Readlink(e.ctx, e.c, file)
	e.want(err, "readlink of a file", syscall.EINVAL)
	e.want(e.fs.GetAttr(e.ctx, e.c, vfs.MaxIno-5, &a), "getattr of no inode", syscall.ESTALE)
	e.want(e.fs.Lookup(e.ctx, e.c, vfs.Root, strings.Repeat("n", vfs.MaxName+1), &a), "a name too long", syscall.ENAMETOOLONG)
	e.want(e.fs.Lookup(e.ctx, e.c, vfs.Root, "a/b", &a), "a name with a slash", syscall.EINVAL)
}

// remember walks a tree and keeps what it holds.
func (e *env) remember(ino vfs.Ino) *known {
	e.Helper()
	k := &known{attr: e.attr(ino)}
	if x, ok := e.fs.(vfs.XattrFS); ok && e.has(Xattrs) {
		names, err := x.ListXattr(e.ctx, e.c, ino)
		e.ok(err, "listxattr")
		k.xattrs = map[string]string{}
		for _, name := range names {
			value, err := x.GetXattr(e.ctx, e.c, ino, name)
			e.ok(err, "getxattr")
			k.xattrs[name] = string(value)
		}
	}
	switch k.attr.Type() {
	case syscall.S_IFREG:
		k.data = e.content(ino)
	case syscall.S_IFLNK:
		target, err := e.fs.Readlink(e.ctx, e.c, ino)
		e.ok(err, "readlink")
		k.target = target
	case syscall.S_IFDIR:
		k.names = map[string]*known{}
		for _, de := range e.list(ino) {
			k.names[de.Name] = e.remember(e.lookup(ino, de.Name).Ino)
		}
	}
	return k
}

// compare walks the tree under test. It runs in several goroutines.
func (e *env) compare(path string, parent, ino vfs.Ino, want *known) {
	var a vfs.Attr
	if err := e.fs.GetAttr(e.ctx, e.c, ino, &a); err != nil {
		e.Errorf("/%s: getattr: %v", path, err)
		return
	}
	w := want.attr
	if e.has(NanoTimes) {
		if a.Mtime != w.Mtime {
			e.Errorf("/%s: modified %v, not %v", path, a.Mtime, w.Mtime)
		}
	} else if a.Mtime.Sec != w.Mtime.Sec {
		e.Errorf("/%s: modified %v, not %v", path, a.Mtime, w.Mtime)
	}
	if a.Mode != w.Mode || a.UID != w.UID || a.GID != w.GID || !a.IsDir() && a.Size != w.Size || e.has(HardLinks) && !a.IsDir() && a.Nlink != w.Nlink {
		e.Errorf("/%s: is %+v, not %+v", path, a, w)
	}
	if x, ok := e.fs.(vfs.XattrFS); ok && e.has(Xattrs) {
		names, err := x.ListXattr(e.ctx, e.c, ino)
		if err != nil || len(names) != len(want.xattrs) {
			e.Errorf("/%s: attributes %v, not %v: %v", path, names, want.xattrs, err)
		}
		for _, name := range names {
			if v, err := x.GetXattr(e.ctx, e.c, ino, name); err != nil || string(v) != want.xattrs[name] {
				e.Errorf("/%s: attribute %s is %q: %v", path, name, v, err)
			}
		}
	}
	switch a.Type() {
	case syscall.S_IFLNK:
		if target, err := e.fs.Readlink(e.ctx, e.c, ino); err != nil || target != want.target {
			e.Errorf("/%s: leads to %q: %v", path, target, err)
		}
	case syscall.S_IFREG:
		e.compareData(path, ino, want.data)
	case syscall.S_IFDIR:
		e.compareDir(path, parent, ino, want)
	}
}

func (e *env) compareData(path string, ino vfs.Ino, want []byte) {
	f, err := e.fs.Open(e.ctx, e.c, ino, syscall.O_RDONLY)
	if err != nil {
		e.Errorf("/%s: open: %v", path, err)
		return
	}
	defer f.Close()
	read := func(off int64, n int) {
		p := make([]byte, n)
		k, err := f.ReadAt(e.ctx, p, off)
		expect := want[min(off, int64(len(want))):]
		expect = expect[:min(n, len(expect))]
		if err != nil || !bytes.Equal(p[:k], expect) {
			e.Errorf("/%s: %d bytes at %d: %d, %v", path, n, off, k, err)
		}
	}
	for off := 0; off <= len(want); off += 128 << 10 {
		read(int64(off), 128<<10)
	}
	read(0, len(want)+1000)
	for i := range 10 {
		read(int64((i*7919+i*i*104729)%(len(want)+100)), 5000)
	}
}

func (e *env) compareDir(path string, parent, ino vfs.Ino, want *known) {
	var up vfs.Attr
	if err := e.fs.Lookup(e.ctx, e.c, ino, "..", &up); err != nil || up.Ino != parent {
		e.Errorf("/%s: '..' is %d, not %d: %v", path, up.Ino, parent, err)
	}
	d, err := e.fs.OpenDir(e.ctx, e.c, ino)
	if err != nil {
		e.Errorf("/%s: opendir: %v", path, err)
		return
	}
	defer d.Close()
	seen := map[string]vfs.DirEntry{}
	cookie := uint64(0)
	for {
		n := 0
		err := d.Read(e.ctx, cookie, true, func(de *vfs.DirEntry) bool {
			if n == 7 { // an answer that is full
				return false
			}
			n++
			if _, twice := seen[de.Name]; twice {
				e.Errorf("/%s: %s is listed twice", path, short(de.Name))
			}
			seen[de.Name], cookie = *de, de.Cookie
			return true
		})
		if err != nil {
			e.Errorf("/%s: readdir: %v", path, err)
		}
		if n == 0 || err != nil {
			break
		}
	}
	if len(seen) != len(want.names) {
		e.Errorf("/%s: %d entries, not %d", path, len(seen), len(want.names))
	}
	for name, k := range want.names {
		var a vfs.Attr
		if err := e.fs.Lookup(e.ctx, e.c, ino, name, &a); err != nil {
			e.Errorf("/%s: lookup %s: %v", path, short(name), err)
			continue
		}
		if de := seen[name]; de.Ino != a.Ino || de.Mode != a.Type() || de.HasAttr && de.Attr != a {
			e.Errorf("/%s: %s is listed as %+v, found as %+v", path, short(name), de, a)
		}
		e.compare(path+"/"+name, ino, a.Ino, k)
	}
}
