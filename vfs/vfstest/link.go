package vfstest

import (
	"bytes"
	"syscall"
	"time"

	"github.com/massif-fs/massif/vfs"
)

var linkTests = []test{
	{"Link", []Feature{HardLinks}, func(e *env) {
		f := e.file(e.dir, "f", []byte("one"))
		sub := e.mkdir(e.dir, "sub").Ino
		var a vfs.Attr
		e.ok(e.fs.Link(e.ctx, e.c, f.Ino, sub, "g", &a), "link")
		if a.Ino != f.Ino || a.Nlink != 2 || a.Size != 3 {
			e.Fatalf("%+v", a)
		}
		if g := e.lookup(sub, "g"); g != a {
			e.Fatalf("link says %+v, lookup %+v", a, g)
		}
		if g := e.attr(f.Ino); g != a {
			e.Fatalf("link says %+v, getattr %+v", a, g)
		}
		w := e.open(e.lookup(sub, "g").Ino, syscall.O_WRONLY)
		e.write(w, []byte("two"), 0)
		e.close(w)
		if got := e.content(e.lookup(e.dir, "f").Ino); string(got) != "two" {
			e.Fatalf("%q", got)
		}
		e.want(e.fs.Link(e.ctx, e.c, f.Ino, e.dir, "f", &a), "link over itself", syscall.EEXIST)
		e.want(e.fs.Link(e.ctx, e.c, f.Ino, e.dir, "sub", &a), "link over a directory", syscall.EEXIST)
		e.want(e.fs.Link(e.ctx, e.c, sub, e.dir, "d", &a), "link of a directory", syscall.EPERM)
		e.unlink(e.dir, "f")
		if a := e.attr(f.Ino); a.Nlink != 1 {
			e.Fatalf("%d links", a.Nlink)
		}
		if got := e.content(f.Ino); string(got) != "two" {
			e.Fatalf("%q", got)
		}
		e.unlink(sub, "g")
		e.want(e.fs.GetAttr(e.ctx, e.c, f.Ino, &a), "getattr", syscall.ESTALE, syscall.ENOENT)
	}},
	{"LinkMany", []Feature{HardLinks}, func(e *env) {
		f := e.file(e.dir, "f", []byte("x"))
		var a vfs.Attr
		for i := range 100 {
			e.ok(e.fs.Link(e.ctx, e.c, f.Ino, e.dir, string(rune('a'+i%26))+string(rune('0'+i/26)), &a), "link")
		}
		if a.Nlink != 101 {
			e.Fatalf("%d links", a.Nlink)
		}
		for _, de := range e.list(e.dir) {
			if de.Ino != f.Ino {
				e.Errorf("%s is inode %d", de.Name, de.Ino)
			}
			e.unlink(e.dir, de.Name)
		}
	}},
	{"LinkOthers", []Feature{HardLinks, Symlinks, Devices}, func(e *env) {
		var a, b vfs.Attr
		e.ok(e.fs.Symlink(e.ctx, e.c, e.dir, "l", "nowhere", &a), "symlink")
		e.ok(e.fs.Link(e.ctx, e.c, a.Ino, e.dir, "l2", &b), "link of a symbolic link")
		if b.Ino != a.Ino || b.Type() != syscall.S_IFLNK || b.Nlink != 2 {
			e.Errorf("%+v", b)
		}
		e.ok(e.fs.Mknod(e.ctx, e.c, e.dir, "p", syscall.S_IFIFO|0o600, 0, &a), "mknod")
		e.ok(e.fs.Link(e.ctx, e.c, a.Ino, e.dir, "p2", &b), "link of a fifo")
	}},
	{"UnlinkedOpen", []Feature{UnlinkedOpen}, func(e *env) {
		f, a := e.create(e.dir, "f")
		data := pattern(100_000, 1)
		e.write(f, data, 0)
		e.unlink(e.dir, "f")
		e.absent(e.dir, "f")
		if got := e.attr(a.Ino); got.Nlink != 0 || got.Size != 100_000 {
			e.Fatalf("%+v", got)
		}
		if !bytes.Equal(e.read(f, 0, 200_000), data) {
			e.Fatal("data of an unlinked file differ")
		}
		e.write(f, []byte("more"), 100_000)
		if e.has(Truncate) {
			e.ok(f.Truncate(e.ctx, 50_000), "truncate")
			if got := e.attr(a.Ino); got.Size != 50_000 {
				e.Fatalf("%+v", got)
			}
		}
		e.ok(f.Sync(e.ctx, false), "fsync")
		// The name is free at once.
		g := e.file(e.dir, "f", []byte("new"))
		if g.Ino == a.Ino {
			e.Fatal("the number of an open file was given again")
		}
		// A second File of the unlinked inode.
		f2 := e.open(a.Ino, syscall.O_RDONLY)
		if !bytes.Equal(e.read(f2, 0, 1000), data[:1000]) {
			e.Fatal("data differ in the second File")
		}
		e.close(f)
		if !bytes.Equal(e.read(f2, 0, 1000), data[:1000]) {
			e.Fatal("data differ after the first File was closed")
		}
		e.close(f2)
		var b vfs.Attr
		e.want(e.fs.GetAttr(e.ctx, e.c, a.Ino, &b), "getattr after the last close", syscall.ESTALE, syscall.ENOENT)
		if got := e.content(g.Ino); string(got) != "new" {
			e.Fatalf("%q", got)
		}
	}},
	{"ReplacedOpen", []Feature{UnlinkedOpen}, func(e *env) {
		f, a := e.create(e.dir, "f")
		e.write(f, []byte("old"), 0)
		e.file(e.dir, "g", []byte("new"))
		e.ok(e.rename(e.dir, "g", e.dir, "f", 0), "rename")
		if got := e.read(f, 0, 10); string(got) != "old" {
			e.Fatalf("%q", got)
		}
		if got := e.attr(a.Ino); got.Nlink != 0 {
			e.Fatalf("%+v", got)
		}
		e.close(f)
	}},
	{"Pinned", []Feature{Pins}, func(e *env) {
		p, ok := e.fs.(vfs.Pinner)
		if !ok {
			e.Fatal("the tree is no vfs.Pinner and does not say so in Lacks")
		}
		data := pattern(10_000, 2)
		f := e.file(e.dir, "f", data)
		d := e.mkdir(e.dir, "d")
		p.Pin(f.Ino)
		p.Pin(d.Ino)
		e.unlink(e.dir, "f")
		e.ok(e.fs.Rmdir(e.ctx, e.c, e.dir, "d"), "rmdir")
		if a := e.attr(f.Ino); a.Nlink != 0 || a.Size != 10_000 {
			e.Fatalf("%+v", a)
		}
		if !bytes.Equal(e.content(f.Ino), data) {
			e.Fatal("data of a pinned file differ")
		}
		w := e.open(f.Ino, syscall.O_RDWR)
		e.write(w, []byte("X"), 5)
		e.close(w)
		if got := e.content(f.Ino); got[5] != 'X' {
			e.Fatal("a write to a pinned file is lost")
		}
		if a := e.attr(d.Ino); !a.IsDir() {
			e.Fatalf("%+v", a)
		}
		var a vfs.Attr
		e.want(e.fs.Mkdir(e.ctx, e.c, d.Ino, "x", 0o755, &a), "mkdir in a removed directory", syscall.ENOENT, syscall.ESTALE)
		if l := e.list(d.Ino); len(l) != 0 {
			e.Fatalf("a removed directory has %v", l)
		}
		p.Unpin(f.Ino)
		p.Unpin(d.Ino)
		e.want(e.fs.GetAttr(e.ctx, e.c, f.Ino, &a), "getattr after unpin", syscall.ESTALE, syscall.ENOENT)
	}},
	{"PinnedStateless", []Feature{Pins}, func(e *env) {
		s, ok := e.fs.(vfs.StatelessFS)
		if !ok {
			e.Skip("the tree is no vfs.StatelessFS")
		}
		p := e.fs.(vfs.Pinner)
		f := e.file(e.dir, "f", []byte("0123456789"))
		p.Pin(f.Ino)
		e.unlink(e.dir, "f")
		for range 3 { // opened and closed as a door with a bounded table does
			o, err := s.OpenInode(e.ctx, f.Ino)
			e.ok(err, "open by inode")
			got := e.read(o, 0, 20)
			e.write(o, []byte{got[0] + 1}, 0)
			e.ok(o.Close(), "close")
		}
		if got := e.content(f.Ino); string(got) != "3123456789" {
			e.Fatalf("%q", got)
		}
		p.Unpin(f.Ino)
		// It may live for a moment longer, where a server hears of that a little later.
		o, err := s.OpenInode(e.ctx, f.Ino)
		for deadline := time.Now().Add(time.Minute); err == nil && time.Now().Before(deadline); {
			e.ok(o.Close(), "close")
			time.Sleep(20 * time.Millisecond)
			o, err = s.OpenInode(e.ctx, f.Ino)
		}
		e.want(err, "open by inode after unpin", syscall.ESTALE, syscall.ENOENT)
		_, err = s.OpenInode(e.ctx, e.dir)
		e.want(err, "open of a directory by inode", syscall.EISDIR)
	}},
}

var renameTests = []test{
	{"Rename", nil, func(e *env) {
		f := e.file(e.dir, "f", []byte("f"))
		sub := e.mkdir(e.dir, "sub").Ino
		e.ok(e.rename(e.dir, "f", e.dir, "g", 0), "rename in one directory")
		e.absent(e.dir, "f")
		if e.lookup(e.dir, "g").Ino != f.Ino {
			e.Fatal("another inode")
		}
		e.ok(e.rename(e.dir, "g", sub, "h", 0), "rename to another directory")
		e.absent(e.dir, "g")
		if e.lookup(sub, "h").Ino != f.Ino {
			e.Fatal("another inode")
		}
		e.ok(e.rename(sub, "h", sub, "h", 0), "rename to itself")
		if e.content(f.Ino)[0] != 'f' {
			e.Fatal("content")
		}
	}},
	{"RenameOver", nil, func(e *env) {
		a, b := e.file(e.dir, "a", []byte("a")), e.file(e.dir, "b", []byte("b"))
		e.ok(e.rename(e.dir, "a", e.dir, "b", 0), "rename over a file")
		if got := e.lookup(e.dir, "b"); got.Ino != a.Ino || got.Nlink != 1 {
			e.Fatalf("%+v", got)
		}
		var x vfs.Attr
		e.want(e.fs.GetAttr(e.ctx, e.c, b.Ino, &x), "getattr of the replaced file", syscall.ESTALE, syscall.ENOENT)
		e.mkdir(e.dir, "d")
		e.want(e.rename(e.dir, "b", e.dir, "d", 0), "file over directory", syscall.EISDIR)
		e.want(e.rename(e.dir, "d", e.dir, "b", 0), "directory over file", syscall.ENOTDIR)
		if e.has(Symlinks) {
			e.ok(e.fs.Symlink(e.ctx, e.c, e.dir, "l", "nowhere", &x), "symlink")
			e.ok(e.rename(e.dir, "b", e.dir, "l", 0), "file over symbolic link")
			if e.lookup(e.dir, "l").Ino != a.Ino {
				e.Fatal("another inode")
			}
		}
	}},
	{"RenameHardLinks", []Feature{HardLinks}, func(e *env) {
		f := e.file(e.dir, "f", nil)
		var a vfs.Attr
		e.ok(e.fs.Link(e.ctx, e.c, f.Ino, e.dir, "g", &a), "link")
		e.ok(e.rename(e.dir, "f", e.dir, "g", 0), "rename to another name of the same inode")
		e.lookup(e.dir, "f")
		e.lookup(e.dir, "g")
		if n := e.attr(f.Ino).Nlink; n != 2 {
			e.Fatalf("%d links", n)
		}
	}},
	{"RenameDirectory", []Feature{RenameDirs}, func(e *env) {
		d := e.mkdir(e.dir, "d")
		in := e.mkdir(d.Ino, "in")
		f := e.file(in.Ino, "f", []byte("f"))
		to := e.mkdir(e.dir, "to")
		e.ok(e.rename(e.dir, "d", to.Ino, "moved", 0), "rename of a directory")
		m := e.lookup(to.Ino, "moved")
		if m.Ino != d.Ino || e.lookup(e.lookup(m.Ino, "in").Ino, "f").Ino != f.Ino {
			e.Fatal("another tree")
		}
		if up := e.lookup(m.Ino, ".."); up.Ino != to.Ino {
			e.Fatalf("parent is %d", up.Ino)
		}
		for _, p := range []vfs.Ino{m.Ino, in.Ino} {
			e.want(e.rename(to.Ino, "moved", p, "x", 0), "rename below itself", syscall.EINVAL)
		}
		e.want(e.rename(e.dir, "to", in.Ino, "x", 0), "rename far below itself", syscall.EINVAL)
		empty, full := e.mkdir(e.dir, "empty"), e.mkdir(e.dir, "full")
		e.file(full.Ino, "x", nil)
		e.ok(e.rename(to.Ino, "moved", e.dir, "empty", 0), "rename over an empty directory")
		if e.lookup(e.dir, "empty").Ino != d.Ino {
			e.Fatal("another directory")
		}
		var a vfs.Attr
		e.want(e.fs.GetAttr(e.ctx, e.c, empty.Ino, &a), "getattr of the replaced directory", syscall.ESTALE, syscall.ENOENT)
		e.want(e.rename(e.dir, "empty", e.dir, "full", 0), "rename over a full directory", syscall.ENOTEMPTY, syscall.EEXIST)
		e.want(e.rename(e.dir, "empty", in.Ino, "f", 0), "rename over a file below itself", syscall.EINVAL, syscall.ENOTDIR)
		if got := e.content(f.Ino); string(got) != "f" {
			e.Fatalf("%q", got)
		}
		e.want(e.rename(e.dir, "full", vfs.Root, "t-RenameDirectory", 0), "rename over an ancestor", syscall.ENOTEMPTY, syscall.EINVAL, syscall.EEXIST)
	}},
	{"RenameNoReplace", []Feature{RenameFlags}, func(e *env) {
		a, b := e.file(e.dir, "a", nil), e.file(e.dir, "b", nil)
		e.want(e.rename(e.dir, "a", e.dir, "b", vfs.RenameNoReplace), "noreplace", syscall.EEXIST)
		e.mkdir(e.dir, "d")
		e.want(e.rename(e.dir, "a", e.dir, "d", vfs.RenameNoReplace), "noreplace over a directory", syscall.EEXIST)
		if e.lookup(e.dir, "a").Ino != a.Ino || e.lookup(e.dir, "b").Ino != b.Ino {
			e.Fatal("something moved")
		}
		e.ok(e.rename(e.dir, "a", e.dir, "c", vfs.RenameNoReplace), "noreplace to a free name")
		if e.lookup(e.dir, "c").Ino != a.Ino {
			e.Fatal("another inode")
		}
		e.absent(e.dir, "a")
	}},
	{"RenameExchange", []Feature{RenameFlags}, func(e *env) {
		f := e.file(e.dir, "f", []byte("f"))
		d, sub := e.mkdir(e.dir, "d"), e.mkdir(e.dir, "sub")
		g := e.file(sub.Ino, "g", []byte("g"))
		e.file(d.Ino, "in", nil)
		e.ok(e.rename(e.dir, "f", sub.Ino, "g", vfs.RenameExchange), "exchange of files")
		if e.lookup(e.dir, "f").Ino != g.Ino || e.lookup(sub.Ino, "g").Ino != f.Ino {
			e.Fatal("not exchanged")
		}
		if e.has(RenameDirs) {
			e.ok(e.rename(e.dir, "d", sub.Ino, "g", vfs.RenameExchange), "exchange of a directory and a file")
			if e.lookup(e.dir, "d").Ino != f.Ino || e.lookup(sub.Ino, "g").Ino != d.Ino {
				e.Fatal("not exchanged")
			}
			e.lookup(d.Ino, "in")
			if up := e.lookup(d.Ino, ".."); up.Ino != sub.Ino {
				e.Fatalf("parent is %d", up.Ino)
			}
			if e.has(DirLinkCount) {
				if n := e.attr(e.dir).Nlink; n != 3 {
					e.Errorf("%d links", n)
				}
				if n := e.attr(sub.Ino).Nlink; n != 3 {
					e.Errorf("%d links", n)
				}
			}
			e.want(e.rename(e.dir, "sub", d.Ino, "in", vfs.RenameExchange), "exchange with something below itself", syscall.EINVAL)
			e.want(e.rename(d.Ino, "in", e.dir, "sub", vfs.RenameExchange), "exchange with an ancestor", syscall.EINVAL, syscall.ENOTEMPTY)
		}
		e.want(e.rename(e.dir, "f", e.dir, "none", vfs.RenameExchange), "exchange with nothing", syscall.ENOENT)
	}},
	{"RenameBadFlags", nil, func(e *env) {
		e.file(e.dir, "f", nil)
		e.want(e.rename(e.dir, "f", e.dir, "g", 1<<20), "unknown flag", syscall.EINVAL)
		e.want(e.rename(e.dir, "f", e.dir, "g", vfs.RenameNoReplace|vfs.RenameExchange), "contradicting flags", syscall.EINVAL)
		e.lookup(e.dir, "f")
	}},
}
