package vfstest

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/massif-fs/massif/vfs"
)

var rootTests = []test{
	{"Root", nil, func(e *env) {
		a := e.attr(vfs.Root)
		if !a.IsDir() {
			e.Fatalf("the root's mode is %o", a.Mode)
		}
		if up := e.lookup(vfs.Root, ".."); up.Ino != vfs.Root {
			e.Fatalf("the root's parent is %d", up.Ino)
		}
		sub := e.mkdir(e.dir, "sub")
		if sub.Ino <= vfs.Root || sub.Ino > vfs.MaxIno && e.has(NarrowInos) {
			e.Fatalf("inode number %d", sub.Ino)
		}
		if up := e.lookup(sub.Ino, ".."); up.Ino != e.dir {
			e.Fatalf("parent of a directory in %d is %d", e.dir, up.Ino)
		}
	}},
	{"StatFS", nil, func(e *env) {
		var st vfs.StatFS
		e.ok(e.fs.StatFS(e.ctx, e.c, e.dir, &st), "statfs")
		if st.BlockSize == 0 || st.MaxName != vfs.MaxName {
			e.Fatalf("%+v", st)
		}
		if e.has(StatFSSpace) && (st.Blocks == 0 || st.BlocksFree > st.Blocks || st.FilesFree > st.Files) {
			e.Fatalf("%+v", st)
		}
	}},
	{"Policy", nil, func(e *env) {
		p := vfs.PolicyOf(e.fs)
		if p.EntryValid < 0 || p.AttrValid < 0 || p.NegativeValid < 0 || p.ReadOnly {
			e.Fatalf("policy of a writable tree: %+v", p)
		}
	}},
}

var nameTests = []test{
	{"BadNames", nil, func(e *env) {
		f := e.file(e.dir, "f", nil)
		var a vfs.Attr
		try := func(name string, errno syscall.Errno) {
			what := "name " + short(name)
			e.want(e.fs.Mkdir(e.ctx, e.c, e.dir, name, 0o755, &a), "mkdir, "+what, errno)
			e.want(e.fs.Mknod(e.ctx, e.c, e.dir, name, syscall.S_IFREG|0o644, 0, &a), "mknod, "+what, errno)
			_, err := e.fs.Create(e.ctx, e.c, e.dir, name, 0o644, syscall.O_RDWR, &a)
			e.want(err, "create, "+what, errno)
			e.want(e.fs.Unlink(e.ctx, e.c, e.dir, name), "unlink, "+what, errno)
			e.want(e.fs.Rmdir(e.ctx, e.c, e.dir, name), "rmdir, "+what, errno)
			e.want(e.rename(e.dir, name, e.dir, "g", 0), "rename from, "+what, errno)
			e.want(e.rename(e.dir, "f", e.dir, name, 0), "rename to, "+what, errno)
			if e.has(HardLinks) {
				e.want(e.fs.Link(e.ctx, e.c, f.Ino, e.dir, name, &a), "link, "+what, errno)
			}
			if e.has(Symlinks) {
				e.want(e.fs.Symlink(e.ctx, e.c, e.dir, name, "x", &a), "symlink, "+what, errno)
			}
			if name != ".." {
				e.want(e.fs.Lookup(e.ctx, e.c, e.dir, name, &a), "lookup, "+what, errno)
			}
		}
		for _, name := range []string{"", ".", "..", "a/b", "/", "a\x00b"} {
			try(name, syscall.EINVAL)
		}
		try(strings.Repeat("n", vfs.MaxName+1), syscall.ENAMETOOLONG)
		try(strings.Repeat("é", 128), syscall.ENAMETOOLONG)
	}},
	{"GoodNames", nil, func(e *env) {
		names := []string{
			"a", "-rf", "*?[", "Ünïcödé", "日本語のファイル", "e\u0301", "\u00e9", "😀", "UPPER", "upper", "a:b", "~", "#", "%41", ".hidden", "con",
			strings.Repeat("n", vfs.MaxName), strings.Repeat("é", 127) + "x", strings.Repeat("日", 85),
		}
		if e.has(OddNames) {
			names = append(names, " ", "...", "name with spaces ", "tab\tand\nline", "\x01\x7f", `back\slash`, "file.", "trailing.dot.")
		}
		if e.has(ByteNames) {
			names = append(names, "\xff\xfe", "a\x80b", strings.Repeat("\xc3", vfs.MaxName))
		}
		made := map[string]vfs.Ino{}
		for i, name := range names {
			if i%2 == 0 {
				made[name] = e.file(e.dir, name, []byte(name)).Ino
			} else {
				made[name] = e.mkdir(e.dir, name).Ino
			}
		}
		for _, de := range e.list(e.dir) {
			if made[de.Name] != de.Ino {
				e.Errorf("listing has %q as %d, want %d", de.Name, de.Ino, made[de.Name])
			}
			if e.lookup(e.dir, de.Name).Ino != de.Ino {
				e.Errorf("lookup of %q", de.Name)
			}
			delete(made, de.Name)
		}
		for name := range made {
			e.Errorf("%q is not listed", name)
		}
	}},
	{"Absent", nil, func(e *env) {
		e.absent(e.dir, "none")
		e.want(e.fs.Unlink(e.ctx, e.c, e.dir, "none"), "unlink", syscall.ENOENT)
		e.want(e.fs.Rmdir(e.ctx, e.c, e.dir, "none"), "rmdir", syscall.ENOENT)
		e.want(e.rename(e.dir, "none", e.dir, "other", 0), "rename", syscall.ENOENT)
	}},
	{"ParentNoDirectory", nil, func(e *env) {
		f := e.file(e.dir, "f", nil).Ino
		e.file(e.dir, "g", nil)
		var a vfs.Attr
		e.want(e.fs.Lookup(e.ctx, e.c, f, "x", &a), "lookup", syscall.ENOTDIR)
		e.want(e.fs.Mkdir(e.ctx, e.c, f, "x", 0o755, &a), "mkdir", syscall.ENOTDIR)
		e.want(e.fs.Mknod(e.ctx, e.c, f, "x", syscall.S_IFREG|0o644, 0, &a), "mknod", syscall.ENOTDIR)
		_, err := e.fs.Create(e.ctx, e.c, f, "x", 0o644, syscall.O_RDWR, &a)
		e.want(err, "create", syscall.ENOTDIR)
		e.want(e.fs.Unlink(e.ctx, e.c, f, "x"), "unlink", syscall.ENOTDIR)
		e.want(e.fs.Rmdir(e.ctx, e.c, f, "x"), "rmdir", syscall.ENOTDIR)
		e.want(e.rename(e.dir, "g", f, "x", 0), "rename to", syscall.ENOTDIR)
		e.want(e.rename(f, "x", e.dir, "g", 0), "rename from", syscall.ENOTDIR)
		_, err = e.fs.OpenDir(e.ctx, e.c, f)
		e.want(err, "opendir", syscall.ENOTDIR)
		if e.has(HardLinks) {
			e.want(e.fs.Link(e.ctx, e.c, f, f, "x", &a), "link", syscall.ENOTDIR)
		}
		if e.has(Symlinks) {
			e.want(e.fs.Symlink(e.ctx, e.c, f, "x", "y", &a), "symlink", syscall.ENOTDIR)
		}
	}},
	{"UnknownInode", nil, func(e *env) {
		const ino = vfs.MaxIno - 12345
		var a vfs.Attr
		var st vfs.SetAttr
		st.Valid, st.Mode = vfs.SetMode, 0o600
		e.want(e.fs.GetAttr(e.ctx, e.c, ino, &a), "getattr", syscall.ESTALE)
		e.want(e.fs.SetAttr(e.ctx, e.c, ino, &st, &a), "setattr", syscall.ESTALE)
		e.want(e.fs.Lookup(e.ctx, e.c, ino, "x", &a), "lookup", syscall.ESTALE)
		e.want(e.fs.Mkdir(e.ctx, e.c, ino, "x", 0o755, &a), "mkdir", syscall.ESTALE)
		_, err := e.fs.Create(e.ctx, e.c, ino, "x", 0o644, syscall.O_RDWR, &a)
		e.want(err, "create", syscall.ESTALE)
		_, err = e.fs.Open(e.ctx, e.c, ino, syscall.O_RDONLY)
		e.want(err, "open", syscall.ESTALE)
		_, err = e.fs.OpenDir(e.ctx, e.c, ino)
		e.want(err, "opendir", syscall.ESTALE)
		_, err = e.fs.Readlink(e.ctx, e.c, ino)
		e.want(err, "readlink", syscall.ESTALE)
		if p, ok := e.fs.(vfs.Pinner); ok { // harmless
			p.Pin(ino)
			p.Unpin(ino)
			e.want(e.fs.GetAttr(e.ctx, e.c, ino, &a), "getattr", syscall.ESTALE)
		}
	}},
}

var inodeTests = []test{
	{"Mkdir", nil, func(e *env) {
		a := e.mkdir(e.dir, "d")
		if !a.IsDir() || e.has(Owners) && (a.Mode&07777 != 0o755 || a.UID != e.c.UID || a.GID != e.c.GID) {
			e.Fatalf("%+v", a)
		}
		var b vfs.Attr
		e.want(e.fs.Mkdir(e.ctx, e.c, e.dir, "d", 0o755, &b), "mkdir twice", syscall.EEXIST)
		f := e.file(e.dir, "f", nil)
		e.want(e.fs.Mkdir(e.ctx, e.c, e.dir, "f", 0o755, &b), "mkdir over a file", syscall.EEXIST)
		e.want(e.fs.Rmdir(e.ctx, e.c, e.dir, "f"), "rmdir of a file", syscall.ENOTDIR)
		e.want(e.fs.Unlink(e.ctx, e.c, e.dir, "d"), "unlink of a directory", syscall.EISDIR, syscall.EPERM)
		e.file(a.Ino, "x", nil)
		e.want(e.fs.Rmdir(e.ctx, e.c, e.dir, "d"), "rmdir of a full directory", syscall.ENOTEMPTY, syscall.EEXIST)
		e.unlink(a.Ino, "x")
		e.ok(e.fs.Rmdir(e.ctx, e.c, e.dir, "d"), "rmdir")
		e.absent(e.dir, "d")
		if e.lookup(e.dir, "f").Ino != f.Ino {
			e.Fatal("another file")
		}
	}},
	{"DirLinkCount", []Feature{DirLinkCount}, func(e *env) {
		links := func(want uint32, what string) {
			e.Helper()
			if a := e.attr(e.dir); a.Nlink != want {
				e.Fatalf("%s: %d links, want %d", what, a.Nlink, want)
			}
		}
		links(2, "empty")
		e.mkdir(e.dir, "a")
		b := e.mkdir(e.dir, "b").Ino
		e.file(e.dir, "f", nil)
		links(4, "two directories")
		e.ok(e.rename(e.dir, "a", b, "a", 0), "rename")
		links(3, "one moved down")
		if n := e.attr(b).Nlink; n != 3 {
			e.Fatalf("new parent: %d links", n)
		}
		e.mkdir(e.dir, "c")
		e.ok(e.rename(b, "a", e.dir, "c", 0), "rename over an empty directory")
		links(4, "moved back over another")
		e.ok(e.fs.Rmdir(e.ctx, e.c, e.dir, "b"), "rmdir")
		links(3, "one removed")
	}},
	{"Create", nil, func(e *env) {
		c := *e.c
		if c.UID == 0 && e.has(Owners) {
			c.UID, c.GID = 1234, 5678
		}
		var a, b vfs.Attr
		f, err := e.fs.Create(e.ctx, &c, e.dir, "f", 0o640, syscall.O_RDWR, &a)
		e.ok(err, "create")
		if !a.IsRegular() || a.Size != 0 || a.Nlink != 1 {
			e.Fatalf("%+v", a)
		}
		if e.has(Owners) && (a.Mode&07777 != 0o640 || a.UID != c.UID || a.GID != c.GID) {
			e.Fatalf("%+v", a)
		}
		if got := e.attr(a.Ino); got != a {
			e.Fatalf("create says %+v\ngetattr says %+v", a, got)
		}
		if got := e.lookup(e.dir, "f"); got != a {
			e.Fatalf("create says %+v\nlookup says %+v", a, got)
		}
		now := time.Now()
		for _, at := range []vfs.Time{a.Atime, a.Mtime, a.Ctime} {
			if d := now.Sub(at.Time()); d > time.Minute || d < -time.Minute {
				e.Fatalf("made at %v: %+v", now, a)
			}
		}
		_, err = e.fs.Create(e.ctx, e.c, e.dir, "f", 0o644, syscall.O_RDWR, &b)
		e.want(err, "create twice", syscall.EEXIST)
		e.want(e.fs.Mknod(e.ctx, e.c, e.dir, "f", syscall.S_IFREG|0o644, 0, &b), "mknod of a name that is there", syscall.EEXIST)
		e.close(f)
		e.unlink(e.dir, "f")
		e.absent(e.dir, "f")
		e.want(e.fs.GetAttr(e.ctx, e.c, a.Ino, &b), "getattr of a removed file", syscall.ESTALE, syscall.ENOENT)
	}},
	{"CreateUnreadable", nil, func(e *env) {
		// A new file is open for writing whatever its mode.
		var a vfs.Attr
		f, err := e.fs.Create(e.ctx, e.c, e.dir, "f", 0, syscall.O_WRONLY, &a)
		e.ok(err, "create")
		e.write(f, []byte("secret"), 0)
		e.close(f)
		if a := e.attr(a.Ino); a.Size != 6 {
			e.Fatalf("%+v", a)
		}
	}},
	{"NumbersDiffer", nil, func(e *env) {
		seen := map[[2]uint64]string{}
		for i := range 300 {
			name := fmt.Sprint(i % 50)
			a := e.file(e.dir, name, nil)
			id := [2]uint64{uint64(a.Ino), uint64(a.Gen)}
			if old, ok := seen[id]; ok {
				e.Fatalf("inode %d generation %d was %s, is %s", a.Ino, a.Gen, old, name)
			}
			seen[id] = name
			if i >= 20 {
				e.unlink(e.dir, name)
			} else {
				e.ok(e.rename(e.dir, name, e.dir, "keep"+name, 0), "rename")
			}
		}
	}},
	{"ParentTimes", nil, func(e *env) {
		// Each change of a directory's names moves its mtime and ctime.
		step := func(what string, f func()) {
			e.Helper()
			before := e.attr(e.dir)
			time.Sleep(12 * time.Millisecond) // coarser than any clock tick
			f()
			after := e.attr(e.dir)
			if !before.Mtime.Before(after.Mtime) || !before.Ctime.Before(after.Ctime) {
				e.Errorf("%s: directory times %v %v, before %v %v", what, after.Mtime, after.Ctime, before.Mtime, before.Ctime)
			}
		}
		step("create", func() { e.file(e.dir, "f", nil) })
		step("mkdir", func() { e.mkdir(e.dir, "d") })
		step("rename", func() { e.ok(e.rename(e.dir, "f", e.dir, "g", 0), "rename") })
		if e.has(HardLinks) {
			g := e.lookup(e.dir, "g")
			step("link", func() { e.ok(e.fs.Link(e.ctx, e.c, g.Ino, e.dir, "h", &g), "link") })
		}
		step("unlink", func() { e.unlink(e.dir, "g") })
		step("rmdir", func() { e.ok(e.fs.Rmdir(e.ctx, e.c, e.dir, "d"), "rmdir") })
	}},
	{"Mknod", []Feature{Devices}, func(e *env) {
		for _, n := range []struct {
			name string
			typ  uint32
			rdev uint32
		}{
			{"reg", syscall.S_IFREG, 0}, {"fifo", syscall.S_IFIFO, 0}, {"sock", syscall.S_IFSOCK, 0},
			{"chr", syscall.S_IFCHR, 1<<8 | 3}, {"blk", syscall.S_IFBLK, 7<<8 | 200},
			{"big", syscall.S_IFCHR, 0x3abcd<<20&0xfff00000 | 0x123<<8 | 0xcd},
		} {
			if e.c.UID != 0 && (n.typ == syscall.S_IFCHR || n.typ == syscall.S_IFBLK) {
				continue
			}
			var a vfs.Attr
			e.ok(e.fs.Mknod(e.ctx, e.c, e.dir, n.name, n.typ|0o600, n.rdev, &a), "mknod "+n.name)
			if a.Mode != n.typ|0o600 || a.Rdev != n.rdev || a.Nlink != 1 || a.Size != 0 {
				e.Errorf("%s: %+v", n.name, a)
			}
			if got := e.attr(a.Ino); got != a {
				e.Errorf("%s: mknod says %+v\ngetattr %+v", n.name, a, got)
			}
		}
		for _, de := range e.list(e.dir) {
			if a := e.lookup(e.dir, de.Name); a.Type() != de.Mode {
				e.Errorf("%s is listed with type %o, has %o", de.Name, de.Mode, a.Type())
			}
		}
		fifo := e.lookup(e.dir, "fifo")
		e.unlink(e.dir, "fifo")
		_, err := e.fs.Open(e.ctx, e.c, fifo.Ino, syscall.O_RDONLY)
		if err == nil {
			e.Error("a fifo was opened as a file")
		}
	}},
	{"Symlink", []Feature{Symlinks}, func(e *env) {
		for i, target := range []string{
			"x", "../a/./b//c", "/absolute", "dangling to nowhere", "日本", strings.Repeat("l", vfs.MaxName),
			strings.Repeat("0123456789abcde/", 255) + "0123456789abcde", // 4095
		} {
			name := fmt.Sprint("l", i)
			var a vfs.Attr
			e.ok(e.fs.Symlink(e.ctx, e.c, e.dir, name, target, &a), "symlink "+short(target))
			if a.Type() != syscall.S_IFLNK || a.Size != uint64(len(target)) || a.Nlink != 1 {
				e.Errorf("%+v", a)
			}
			got, err := e.fs.Readlink(e.ctx, e.c, a.Ino)
			e.ok(err, "readlink")
			if got != target {
				e.Errorf("target %s, want %s", short(got), short(target))
			}
		}
		var a vfs.Attr
		e.want(e.fs.Symlink(e.ctx, e.c, e.dir, "l0", "y", &a), "symlink twice", syscall.EEXIST)
		e.want(e.fs.Symlink(e.ctx, e.c, e.dir, "long", strings.Repeat("l", vfs.MaxSymlink+1), &a), "long target", syscall.ENAMETOOLONG)
		f := e.file(e.dir, "f", nil)
		_, err := e.fs.Readlink(e.ctx, e.c, f.Ino)
		e.want(err, "readlink of a file", syscall.EINVAL)
		_, err = e.fs.Readlink(e.ctx, e.c, e.dir)
		e.want(err, "readlink of a directory", syscall.EINVAL)
		e.unlink(e.dir, "l0")
		e.absent(e.dir, "l0")
	}},
	{"OpenWrongType", nil, func(e *env) {
		_, err := e.fs.Open(e.ctx, e.c, e.dir, syscall.O_RDWR)
		e.want(err, "open of a directory", syscall.EISDIR)
	}},
	{"Deep", nil, func(e *env) {
		const depth = 150
		at := e.dir
		for range depth {
			at = e.mkdir(at, "d").Ino
		}
		e.file(at, "f", []byte("deep"))
		down := e.dir
		for range depth {
			down = e.lookup(down, "d").Ino
		}
		if got := e.content(e.lookup(down, "f").Ino); !bytes.Equal(got, []byte("deep")) {
			e.Fatalf("%q", got)
		}
		for range depth {
			down = e.lookup(down, "..").Ino
		}
		if down != e.dir {
			e.Fatalf("the way up ends at %d, not %d", down, e.dir)
		}
	}},
}
