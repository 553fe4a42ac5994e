package meta

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/vfs"
)

func (v *testVolume) unlink(parent vfs.Ino, name string) (a vfs.Attr) {
	v.Helper()
	v.ok(v.s.Unlink(bg, root, parent, name, &a))
	return a
}

func (v *testVolume) rename(from vfs.Ino, a string, to vfs.Ino, b string, flags uint32) (replaced vfs.Attr, err error) {
	err = v.s.Rename(bg, root, from, a, to, b, flags, &replaced)
	return replaced, err
}

func (v *testVolume) link(ino, parent vfs.Ino, name string) {
	v.Helper()
	var a vfs.Attr
	v.ok(v.s.Link(bg, root, ino, parent, name, &a))
}

func TestNames(t *testing.T) {
	v := newVolume(t)
	var a vfs.Attr
	for name, errno := range map[string]syscall.Errno{
		"": syscall.EINVAL, ".": syscall.EINVAL, "..": syscall.EINVAL, "a/b": syscall.EINVAL, "a\x00": syscall.EINVAL,
		strings.Repeat("x", 256): syscall.ENAMETOOLONG,
	} {
		v.want(v.s.Mknod(bg, root, vfs.Root, name, syscall.S_IFREG, 0, &a), errno)
		v.want(v.s.Mkdir(bg, root, vfs.Root, name, 0, &a), errno)
		v.want(v.s.Symlink(bg, root, vfs.Root, name, "t", &a), errno)
		v.want(v.s.Unlink(bg, root, vfs.Root, name, &a), errno)
		v.want(v.s.Rmdir(bg, root, vfs.Root, name), errno)
		_, err := v.rename(vfs.Root, "a", vfs.Root, name, 0)
		v.want(err, errno)
		_, err = v.rename(vfs.Root, name, vfs.Root, "a", 0)
		v.want(err, errno)
	}
	odd := []string{strings.Repeat("x", 255), "\xff\xfe", "a b\n", "Ä", "...", "\x01"}
	for _, name := range odd {
		ino := v.file(vfs.Root, name)
		if a, err := v.lookup(vfs.Root, name); err != nil || a.Ino != ino {
			t.Fatal(name, err)
		}
	}
	if got := v.list(vfs.Root); !slices.Equal(got, odd) {
		t.Fatalf("%q", got)
	}
}

func TestParentsThatAreNone(t *testing.T) {
	v := newVolume(t)
	var a vfs.Attr
	f := v.file(vfs.Root, "f")
	gone := v.mkdir(vfs.Root, "gone")
	v.s.Open(gone)
	v.ok(v.s.Rmdir(bg, root, vfs.Root, "gone"))
	for parent, errno := range map[vfs.Ino]syscall.Errno{f: syscall.ENOTDIR, 999: syscall.ESTALE, gone: syscall.ENOENT} {
		v.want(v.s.Mknod(bg, root, parent, "x", syscall.S_IFREG, 0, &a), errno)
		v.want(v.s.Mkdir(bg, root, parent, "x", 0, &a), errno)
		v.want(v.s.Symlink(bg, root, parent, "x", "t", &a), errno)
		v.want(v.s.Link(bg, root, f, parent, "x", &a), errno)
		v.want(v.s.Unlink(bg, root, parent, "x", &a), errno)
		v.want(v.s.Rmdir(bg, root, parent, "x"), errno)
		v.want(v.s.Lookup(bg, root, parent, "x", &a), errno)
		_, err := v.rename(parent, "x", vfs.Root, "y", 0)
		v.want(err, errno)
		_, err = v.rename(vfs.Root, "f", parent, "y", 0)
		v.want(err, errno)
		if parent != gone {
			v.want(v.s.ReadDir(bg, root, parent, 0, true, func(*vfs.DirEntry) bool { return true }), errno)
		}
	}
	v.want(v.s.Lookup(bg, root, gone, "..", &a), syscall.ENOENT)
	if a := v.attr(gone); a.Nlink != 0 {
		t.Fatal(a)
	}
	if got := v.list(gone); len(got) != 0 {
		t.Fatal(got)
	}
	v.s.Release(gone, 1)
	v.want(v.s.GetAttr(bg, root, gone, &a), syscall.ESTALE)
}

func TestKinds(t *testing.T) {
	v := newVolume(t)
	var a vfs.Attr
	for i, mode := range []uint32{syscall.S_IFREG, syscall.S_IFIFO, syscall.S_IFSOCK, syscall.S_IFCHR, syscall.S_IFBLK} {
		v.ok(v.s.Mknod(bg, root, vfs.Root, fmt.Sprint(i), mode|0o640, 0x1234, &a))
		rdev := uint32(0)
		if mode == syscall.S_IFCHR || mode == syscall.S_IFBLK {
			rdev = 0x1234
		}
		if a.Mode != mode|0o640 || a.Rdev != rdev || a.Nlink != 1 || a.Size != 0 || v.attr(a.Ino) != a {
			t.Errorf("%+v", a)
		}
	}
	v.want(v.s.Mknod(bg, root, vfs.Root, "d", syscall.S_IFDIR, 0, &a), syscall.EPERM)
	v.want(v.s.Mknod(bg, root, vfs.Root, "d", syscall.S_IFLNK, 0, &a), syscall.EINVAL)
	v.ok(v.s.Symlink(bg, root, vfs.Root, "l", "some/where", &a))
	if target, err := v.s.Readlink(bg, root, a.Ino); err != nil || target != "some/where" || a.Size != 10 || a.Mode != syscall.S_IFLNK|0o777 {
		t.Error(target, err, a)
	}
	_, err := v.s.Readlink(bg, root, vfs.Root)
	v.want(err, syscall.EINVAL)
	v.want(v.s.Symlink(bg, root, vfs.Root, "l2", strings.Repeat("x", vfs.MaxSymlink+1), &a), syscall.ENAMETOOLONG)
	v.ok(v.s.Symlink(bg, root, vfs.Root, "l2", strings.Repeat("x", vfs.MaxSymlink), &a))
	v.want(v.s.Symlink(bg, root, vfs.Root, "l3", "", &a), syscall.ENOENT)
	v.want(v.s.SetAttr(bg, root, a.Ino, &vfs.SetAttr{Valid: vfs.SetSize}, &a), syscall.EINVAL)
	v.want(v.s.SetAttr(bg, root, vfs.Root, &vfs.SetAttr{Valid: vfs.SetSize}, &a), syscall.EISDIR)
}

// TestTimes checks which operations change which times of which inodes.
func TestTimes(t *testing.T) {
	v := newVolume(t)
	d1, d2 := v.mkdir(vfs.Root, "d1"), v.mkdir(vfs.Root, "d2")
	f := v.file(d1, "f")
	other := v.file(d1, "other")
	var a vfs.Attr
	for _, x := range []struct {
		name         string
		do           func() error
		mtime, ctime []vfs.Ino // changed; others must not
	}{
		{"mknod", func() error { return v.s.Mknod(bg, root, d1, "new", syscall.S_IFREG, 0, &a) }, []vfs.Ino{d1}, []vfs.Ino{d1}},
		{"unlink", func() error { return v.s.Unlink(bg, root, d1, "new", &a) }, []vfs.Ino{d1}, []vfs.Ino{d1}},
		{"link", func() error { return v.s.Link(bg, root, f, d2, "g", &a) }, []vfs.Ino{d2}, []vfs.Ino{d2, f}},
		{"unlink one of two", func() error { return v.s.Unlink(bg, root, d2, "g", &a) }, []vfs.Ino{d2}, []vfs.Ino{d2, f}},
		{"rename", func() error { _, err := v.rename(d1, "f", d2, "f", 0); return err }, []vfs.Ino{d1, d2}, []vfs.Ino{d1, d2, f}},
		{"exchange", func() error { _, err := v.rename(d2, "f", d1, "other", vfs.RenameExchange); return err }, []vfs.Ino{d1, d2}, []vfs.Ino{d1, d2, f, other}},
		{"failed rename", func() error { v.rename(d2, "none", d1, "f", 0); return nil }, nil, nil},
		{"rename to itself", func() error { _, err := v.rename(d2, "f", d2, "f", 0); return err }, nil, nil},
		{"chmod", func() error {
			return v.s.SetAttr(bg, root, f, &vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o600}, &a)
		}, nil, []vfs.Ino{f}},
		{"chown", func() error { return v.s.SetAttr(bg, root, f, &vfs.SetAttr{Valid: vfs.SetUID, UID: 5}, &a) }, nil, []vfs.Ino{f}},
		{"truncate to the same size", func() error { return v.s.SetAttr(bg, root, f, &vfs.SetAttr{Valid: vfs.SetSize}, &a) }, []vfs.Ino{f}, []vfs.Ino{f}},
		{"nothing", func() error { return v.s.SetAttr(bg, root, f, &vfs.SetAttr{}, &a) }, nil, nil},
		{"utimes", func() error { return v.s.SetAttr(bg, root, f, &vfs.SetAttr{Valid: vfs.SetAtimeNow}, &a) }, nil, []vfs.Ino{f}},
		{"mtime now", func() error { return v.s.SetAttr(bg, root, f, &vfs.SetAttr{Valid: vfs.SetMtimeNow}, &a) }, []vfs.Ino{f}, []vfs.Ino{f}},
		{"setxattr", func() error { return v.s.SetXattr(bg, root, f, "user.x", nil, 0) }, nil, []vfs.Ino{f}},
		{"removexattr", func() error { return v.s.RemoveXattr(bg, root, f, "user.x") }, nil, []vfs.Ino{f}},
		{"allocate", func() error { return v.s.Allocate(bg, root, f, 0, 0, 100) }, []vfs.Ino{f}, []vfs.Ino{f}},
		{"copy", func() error { return v.s.CopyRange(bg, root, f, 0, other, 0, 10) }, []vfs.Ino{other}, []vfs.Ino{other}},
		{"mkdir", func() error { return v.s.Mkdir(bg, root, d2, "sub", 0, &a) }, []vfs.Ino{d2}, []vfs.Ino{d2}},
		{"rmdir", func() error { return v.s.Rmdir(bg, root, d2, "sub") }, []vfs.Ino{d2}, []vfs.Ino{d2}},
	} {
		all := []vfs.Ino{vfs.Root, d1, d2, f, other}
		before := make([]vfs.Attr, len(all))
		for i, ino := range all {
			before[i] = v.attr(ino)
		}
		if err := x.do(); err != nil {
			t.Fatal(x.name, err)
		}
		for i, ino := range all {
			now := v.attr(ino)
			if m, c := now.Mtime != before[i].Mtime, now.Ctime != before[i].Ctime; m != slices.Contains(x.mtime, ino) || c != slices.Contains(x.ctime, ino) {
				t.Errorf("%s: inode %d: mtime changed %t, ctime changed %t", x.name, ino, m, c)
			}
		}
	}
	at := vfs.Time{Sec: -5, Nsec: 999_999_999}
	v.ok(v.s.SetAttr(bg, root, f, &vfs.SetAttr{Valid: vfs.SetAtime | vfs.SetMtime | vfs.SetCtime, Atime: at, Mtime: at, Ctime: at}, &a))
	if a.Atime != at || a.Mtime != at || a.Ctime != at || v.attr(f) != a {
		t.Errorf("%+v", a)
	}
	v.want(v.s.SetAttr(bg, root, f, &vfs.SetAttr{Valid: vfs.SetAtime, Atime: vfs.Time{Nsec: 1e9}}, &a), syscall.EINVAL)
}

func TestTouch(t *testing.T) {
	v := newVolume(t)
	f := v.file(vfs.Root, "f")
	born := v.attr(f)
	v.ok(v.s.Touch(bg, f)) // not later than mtime
	first := v.attr(f)
	if !born.Atime.Before(first.Atime) || first.Ctime != born.Ctime || first.Mtime != born.Mtime {
		t.Fatalf("%+v", first)
	}
	v.ok(v.s.Touch(bg, f))
	if v.attr(f) != first {
		t.Fatal("touched a second time")
	}
	v.clock.pass(24 * time.Hour)
	v.ok(v.s.Touch(bg, f))
	if a := v.attr(f); !first.Atime.Before(a.Atime) {
		t.Fatal("not touched after a day")
	}
	v.want(v.s.Touch(bg, 999), syscall.ESTALE)
}

func TestOwners(t *testing.T) {
	v := newVolume(t)
	c := &vfs.Caller{UID: 10, GID: 20, Umask: 0o027}
	var dir, a vfs.Attr
	v.ok(v.s.Mkdir(bg, c, vfs.Root, "d", 0o777, &dir))
	if dir.UID != 10 || dir.GID != 20 || dir.Mode != syscall.S_IFDIR|0o750 {
		t.Fatalf("%+v", dir)
	}
	v.ok(v.s.SetAttr(bg, root, dir.Ino, &vfs.SetAttr{Valid: vfs.SetMode | vfs.SetGID, Mode: 0o2777, GID: 30}, &dir))
	v.ok(v.s.Mknod(bg, c, dir.Ino, "f", syscall.S_IFREG|0o666, 0, &a))
	if a.GID != 30 || a.Mode != syscall.S_IFREG|0o640 {
		t.Fatalf("%+v", a)
	}
	v.ok(v.s.Mkdir(bg, c, dir.Ino, "sub", 0o777, &a))
	if a.GID != 30 || a.Mode != syscall.S_IFDIR|0o2750 {
		t.Fatalf("%o %+v", a.Mode, a)
	}
	v.ok(v.s.Mknod(bg, c, dir.Ino, "x", syscall.S_IFREG|0o2770, 0, &a)) // not in group 30
	if a.Mode != syscall.S_IFREG|0o750 {
		t.Fatalf("%o", a.Mode)
	}
	v.ok(v.s.Mknod(bg, root, dir.Ino, "y", syscall.S_IFREG|0o2770, 0, &a))
	if a.Mode != syscall.S_IFREG|0o2770 {
		t.Fatalf("%o", a.Mode)
	}
	for _, x := range []struct{ mode, want uint32 }{{0o6755, 0o755}, {0o6744, 0o2744}, {0o4755, 0o755}} {
		v.ok(v.s.SetAttr(bg, root, a.Ino, &vfs.SetAttr{Valid: vfs.SetMode, Mode: x.mode}, &a))
		v.ok(v.s.SetAttr(bg, root, a.Ino, &vfs.SetAttr{Valid: vfs.SetUID | vfs.SetKillSUIDGID, UID: 7}, &a))
		if a.Mode != syscall.S_IFREG|x.want {
			t.Errorf("%o became %o", x.mode, a.Mode)
		}
	}
}

func TestLinks(t *testing.T) {
	v := newVolume(t)
	var a vfs.Attr
	d := v.mkdir(vfs.Root, "d")
	f := v.file(vfs.Root, "f")
	v.link(f, vfs.Root, "g")
	v.link(f, d, "f")
	if a := v.attr(f); a.Nlink != 3 {
		t.Fatal(a)
	}
	v.verify()
	v.want(v.s.Link(bg, root, f, d, "f", &a), syscall.EEXIST)
	v.want(v.s.Link(bg, root, d, vfs.Root, "x", &a), syscall.EPERM)
	v.want(v.s.Link(bg, root, 999, vfs.Root, "x", &a), syscall.ESTALE)
	if a := v.unlink(vfs.Root, "f"); a.Nlink != 2 || a.Ino != f {
		t.Fatal(a)
	}
	v.verify()
	v.unlink(vfs.Root, "g") // the last one in the home directory
	v.verify()
	v.link(f, vfs.Root, "h") // from the recorded name in d
	v.verify()
	// A name that is renamed over another of the same inode: nothing happens.
	before := v.attr(f)
	replaced, err := v.rename(d, "f", vfs.Root, "h", 0)
	v.ok(err)
	if replaced.Ino != 0 || v.attr(f) != before {
		t.Fatal(replaced)
	}
	_, err = v.rename(d, "f", vfs.Root, "h", vfs.RenameNoReplace)
	v.want(err, syscall.EEXIST)
	_, err = v.rename(d, "f", vfs.Root, "h", vfs.RenameExchange)
	v.ok(err)
	v.e.maxLinks = 3
	v.link(f, d, "3")
	v.want(v.s.Link(bg, root, f, d, "4", &a), syscall.EMLINK)
	v.mkdir(d, "sub")
	v.want(v.s.Mkdir(bg, root, d, "sub2", 0, &a), syscall.EMLINK)
	// A file without a name gets none again.
	g := v.file(vfs.Root, "temp")
	v.s.Open(g)
	v.unlink(vfs.Root, "temp")
	v.want(v.s.Link(bg, root, g, vfs.Root, "back", &a), syscall.ENOENT)
	v.verify()
	v.s.Release(g, 1)
}

func TestRename(t *testing.T) {
	v := newVolume(t)
	d := v.mkdir(vfs.Root, "d")
	sub := v.mkdir(d, "sub")
	deep := v.mkdir(sub, "deep")
	empty := v.mkdir(vfs.Root, "empty")
	full := v.mkdir(vfs.Root, "full")
	v.file(full, "x")
	v.file(vfs.Root, "f")
	g := v.file(vfs.Root, "g")
	for _, x := range []struct {
		from  vfs.Ino
		a     string
		to    vfs.Ino
		b     string
		flags uint32
		errno syscall.Errno
	}{
		{vfs.Root, "none", vfs.Root, "x", 0, syscall.ENOENT},
		{vfs.Root, "d", sub, "x", 0, syscall.EINVAL},
		{vfs.Root, "d", deep, "x", 0, syscall.EINVAL},
		{vfs.Root, "d", d, "x", 0, syscall.EINVAL},
		{d, "sub", vfs.Root, "d", 0, syscall.ENOTEMPTY},
		{sub, "deep", vfs.Root, "d", vfs.RenameExchange, syscall.EINVAL},
		{vfs.Root, "d", sub, "deep", vfs.RenameExchange, syscall.EINVAL},
		{vfs.Root, "f", vfs.Root, "empty", 0, syscall.EISDIR},
		{vfs.Root, "empty", vfs.Root, "f", 0, syscall.ENOTDIR},
		{vfs.Root, "empty", vfs.Root, "full", 0, syscall.ENOTEMPTY},
		{vfs.Root, "f", vfs.Root, "g", vfs.RenameNoReplace, syscall.EEXIST},
		{vfs.Root, "f", vfs.Root, "none", vfs.RenameExchange, syscall.ENOENT},
		{vfs.Root, "f", vfs.Root, "g", 4, syscall.EINVAL},
		{vfs.Root, "f", vfs.Root, "g", 3, syscall.EINVAL},
	} {
		_, err := v.rename(x.from, x.a, x.to, x.b, x.flags)
		if vfs.ErrnoOf(err) != x.errno {
			t.Errorf("rename %+v: %v", x, err)
		}
	}
	v.verify()
	replaced, err := v.rename(vfs.Root, "f", vfs.Root, "g", 0)
	v.ok(err)
	if replaced.Ino != g || replaced.Nlink != 0 {
		t.Fatal(replaced)
	}
	// Directories, with the link counts of their parents.
	replaced, err = v.rename(d, "sub", vfs.Root, "empty", 0)
	v.ok(err)
	if replaced.Ino != empty || v.attr(d).Nlink != 2 || v.attr(vfs.Root).Nlink != 5 {
		t.Fatal(replaced, v.attr(d).Nlink, v.attr(vfs.Root).Nlink)
	}
	if a, err := v.lookup(sub, ".."); err != nil || a.Ino != vfs.Root {
		t.Fatal(a, err)
	}
	// A directory for a file, across directories.
	_, err = v.rename(vfs.Root, "g", sub, "deep", vfs.RenameExchange)
	v.ok(err)
	if a, err := v.lookup(deep, ".."); err != nil || a.Ino != vfs.Root || v.attr(sub).Nlink != 2 || v.attr(vfs.Root).Nlink != 6 {
		t.Fatal(a, err)
	}
	v.verify()
	v.e.maxLinks = 6
	v.mkdir(sub, "another")
	_, err = v.rename(sub, "another", vfs.Root, "x", 0)
	v.want(err, syscall.EMLINK)
	_, err = v.rename(sub, "another", vfs.Root, "d", 0) // replaces one: the count stays
	v.ok(err)
	_, err = v.rename(full, "x", vfs.Root, "d", vfs.RenameExchange)
	v.ok(err)
}

// TestListing checks that a walk gives what is there throughout exactly once,
// whatever happens meanwhile.
func TestListing(t *testing.T) {
	v := newVolume(t)
	var keep []string
	for i := range 3000 {
		name := fmt.Sprint("n", i)
		v.file(vfs.Root, name)
		if i%3 == 0 {
			keep = append(keep, name)
		}
	}
	v.e.cache = newAttrCache(100)
	seen := map[string]int{}
	i := 0
	cookie := uint64(0)
	for more := true; more; {
		more = false
		n := 0
		v.ok(v.s.ReadDir(bg, root, vfs.Root, cookie, i%2 == 0, func(d *vfs.DirEntry) bool {
			if d.Cookie <= cookie || d.Cookie < 3 {
				t.Fatalf("cookie %d after %d", d.Cookie, cookie)
			}
			cookie = d.Cookie
			seen[d.Name]++
			n++
			more = n == 100
			return !more
		}))
		for j := i * 30; j < (i+1)*30 && j < 3000; j++ {
			switch j % 3 {
			case 1:
				v.unlink(vfs.Root, fmt.Sprint("n", j))
			case 2: // replaced in place: keeps its position
				v.file(vfs.Root, "temp")
				_, err := v.rename(vfs.Root, "temp", vfs.Root, fmt.Sprint("n", j), 0)
				v.ok(err)
				keep = append(keep, fmt.Sprint("n", j))
			}
		}
		v.file(vfs.Root, fmt.Sprint("late", i))
		i++
		if i > 1000 {
			t.Fatal("endless")
		}
	}
	for _, name := range keep {
		if seen[name] != 1 {
			t.Errorf("%s seen %d times", name, seen[name])
		}
	}
	v.want(v.s.ReadDir(bg, root, vfs.Root, 1<<63, false, nil), syscall.EINVAL)
}

func TestUnlinkedOpen(t *testing.T) {
	v := newVolume(t)
	other, err := v.e.NewSession(bg, SessionInfo{})
	v.ok(err)
	f := v.file(vfs.Root, "f")
	v.write(f, 0, 100)
	v.ok(v.s.SetXattr(bg, root, f, "user.x", []byte("1"), 0))
	v.s.Open(f)
	v.s.Open(f)
	v.unlink(vfs.Root, "f")
	v.verify()
	other.Open(f) // of an inode without a name
	v.s.Release(f, 1)
	v.write(f, 100, 100) // still writable
	v.s.Release(f, 1)
	v.verify()
	if a := v.attr(f); a.Nlink != 0 || a.Size != 200 {
		t.Fatal(a)
	}
	other.Release(f, 1)
	var a vfs.Attr
	for OverTheWire != nil && v.s.GetAttr(bg, root, f, &a) == nil { // until its lease has been recalled
		time.Sleep(time.Millisecond)
	}
	v.want(v.s.GetAttr(bg, root, f, &a), syscall.ESTALE)
	if b, n := v.e.Usage(); b != 0 || n != 1 {
		t.Fatal(b, n)
	}
	v.s.Release(f, 1) // harmless
	v.s.Open(f)
	v.s.Release(f, 5)
	// What a session leaves open goes with it.
	g := v.file(vfs.Root, "g")
	other.Open(g)
	v.unlink(vfs.Root, "g")
	v.verify()
	v.ok(other.Close())
	v.want(v.s.GetAttr(bg, root, g, &a), syscall.ESTALE)
	v.want(other.Mkdir(bg, root, vfs.Root, "d", 0, &a), syscall.EIO)
	// Replaced by a rename while open.
	h := v.file(vfs.Root, "h")
	v.file(vfs.Root, "i")
	v.s.Open(h)
	replaced, err := v.rename(vfs.Root, "i", vfs.Root, "h", 0)
	v.ok(err)
	if replaced.Ino != h || replaced.Nlink != 0 {
		t.Fatal(replaced)
	}
	v.attr(h)
	v.s.Release(h, 1)
	v.want(v.s.GetAttr(bg, root, h, &a), syscall.ESTALE)
}

func TestTmpfile(t *testing.T) {
	v := newVolume(t)
	other, err := v.e.NewSession(bg, SessionInfo{})
	v.ok(err)
	d := v.mkdir(vfs.Root, "d")
	v.ok(v.e.SetQuota(bg, d, 1000, 1))
	temp := func(linkable bool) vfs.Ino {
		t.Helper()
		var a vfs.Attr
		v.ok(v.s.Tmpfile(bg, &vfs.Caller{UID: 5, Umask: 0o022}, d, 0o666, linkable, &a))
		if a.Nlink != 0 || a.Mode != syscall.S_IFREG|0o644 || a.UID != 5 {
			t.Fatalf("%+v", a)
		}
		v.verify()
		return a.Ino
	}
	var a vfs.Attr
	f := temp(false)
	v.want(v.s.Link(bg, root, f, d, "f", &a), syscall.ENOENT)
	v.s.Release(f, 1)
	v.want(v.s.GetAttr(bg, root, f, &a), syscall.ESTALE)

	f = temp(true)
	v.write(f, 0, 2000) // no quota of d holds yet
	v.want(v.s.Link(bg, root, f, d, "f", &a), syscall.EDQUOT)
	v.verify()
	v.truncate(f, 500)
	// Another session takes over the only use, and the name comes before the first
	// has let go of it for good.
	other.Open(f)
	v.e.uses.release(f, v.s.(*session).id, 1)
	v.link(f, d, "f")
	v.ok(v.e.reap(bg, v.s.(*session).id, f))
	v.wantUse(d, 512, 1)
	v.link(f, vfs.Root, "g")
	v.unlink(d, "f")
	other.Release(f, 1)
	if a := v.attr(f); a.Nlink != 1 {
		t.Fatal(a)
	}
	v.unlink(vfs.Root, "g")
	v.want(v.s.GetAttr(bg, root, f, &a), syscall.ESTALE)
	v.want(v.s.Tmpfile(bg, root, 999, 0, true, &a), syscall.ESTALE)
	v.want(v.s.Tmpfile(bg, root, f, 0, true, &a), syscall.ESTALE)
	g := temp(true)
	v.ok(v.s.Close())
	v.want(v.s.GetAttr(bg, root, g, &a), syscall.ESTALE)
	v.s = other
}
