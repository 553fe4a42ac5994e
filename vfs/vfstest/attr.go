package vfstest

import (
	"syscall"
	"time"

	"github.com/massif-fs/massif/vfs"
)

var attrTests = []test{
	{"Chmod", []Feature{Owners}, func(e *env) {
		f := e.file(e.dir, "f", nil)
		for _, mode := range []uint32{0, 0o777, 0o640, 0o1644, 0o600} {
			a := e.set(f.Ino, vfs.SetAttr{Valid: vfs.SetMode, Mode: mode})
			if a.Mode != syscall.S_IFREG|mode {
				e.Errorf("mode %o after setting %o", a.Mode, mode)
			}
			if a != e.attr(f.Ino) {
				e.Errorf("setattr says %+v, getattr %+v", a, e.attr(f.Ino))
			}
		}
		d := e.mkdir(e.dir, "d")
		if a := e.set(d.Ino, vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o1777}); a.Mode != syscall.S_IFDIR|0o1777 {
			e.Errorf("directory mode %o", a.Mode)
		}
	}},
	{"Chown", []Feature{Owners}, func(e *env) {
		if e.c.UID != 0 {
			e.Skip("needs root")
		}
		f := e.file(e.dir, "f", nil)
		if a := e.set(f.Ino, vfs.SetAttr{Valid: vfs.SetUID, UID: 42, GID: 99}); a.UID != 42 || a.GID != f.GID {
			e.Errorf("uid: %+v", a)
		}
		if a := e.set(f.Ino, vfs.SetAttr{Valid: vfs.SetGID, UID: 99, GID: 43}); a.UID != 42 || a.GID != 43 {
			e.Errorf("gid: %+v", a)
		}
		a := e.set(f.Ino, vfs.SetAttr{Valid: vfs.SetUID | vfs.SetGID | vfs.SetMode, UID: 1, GID: 2, Mode: 0o604})
		if a.UID != 1 || a.GID != 2 || a.Mode&07777 != 0o604 {
			e.Errorf("all: %+v", a)
		}
		if a := e.set(f.Ino, vfs.SetAttr{Valid: vfs.SetUID, UID: 1<<32 - 2}); a.UID != 1<<32-2 {
			e.Errorf("great uid: %+v", a)
		}
	}},
	{"KillSetID", []Feature{Owners, SetIDs}, func(e *env) {
		f := e.file(e.dir, "f", []byte("x")).Ino
		for _, tc := range []struct{ before, after uint32 }{
			{0o6755, 0o755}, {0o6745, 0o2745}, {0o4644, 0o644}, {0o2755, 0o755}, {0o1755, 0o1755},
		} {
			for _, with := range []vfs.SetAttr{
				{}, {Valid: vfs.SetSize, Size: 1}, {Valid: vfs.SetUID, UID: e.c.UID}, {Valid: vfs.SetGID, GID: e.c.GID},
			} {
				e.set(f, vfs.SetAttr{Valid: vfs.SetMode, Mode: tc.before})
				with.Valid |= vfs.SetKillSUIDGID
				if a := e.set(f, with); a.Mode&07777 != tc.after {
					e.Errorf("%o with %x became %o, want %o", tc.before, with.Valid, a.Mode&07777, tc.after)
				}
			}
			// Without being asked, the tree leaves them.
			e.set(f, vfs.SetAttr{Valid: vfs.SetMode, Mode: tc.before})
			w := e.open(f, syscall.O_WRONLY)
			e.write(w, []byte("y"), 0)
			e.close(w)
			if a := e.set(f, vfs.SetAttr{Valid: vfs.SetSize, Size: 1}); a.Mode&07777 != tc.before {
				e.Errorf("a write or truncation alone made %o of %o", a.Mode&07777, tc.before)
			}
		}
		d := e.mkdir(e.dir, "d").Ino
		e.set(d, vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o6775})
		if a := e.set(d, vfs.SetAttr{Valid: vfs.SetGID | vfs.SetKillSUIDGID, GID: e.c.GID}); a.Mode&07777 != 0o6775 {
			e.Errorf("a directory's mode became %o", a.Mode&07777)
		}
	}},
	{"SetGIDDirectory", []Feature{Owners, SetIDs}, func(e *env) {
		if e.c.UID != 0 {
			e.Skip("needs root")
		}
		e.set(e.dir, vfs.SetAttr{Valid: vfs.SetGID, GID: 777})
		e.set(e.dir, vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o2777})
		c := &vfs.Caller{UID: 100, GID: 200}
		var a vfs.Attr
		f, err := e.fs.Create(e.ctx, c, e.dir, "f", 0o644, syscall.O_RDWR, &a)
		e.ok(err, "create")
		e.close(f)
		if a.UID != 100 || a.GID != 777 || a.Mode&07777 != 0o644 {
			e.Errorf("file: %+v", a)
		}
		e.ok(e.fs.Mkdir(e.ctx, c, e.dir, "d", 0o755, &a), "mkdir")
		if a.UID != 100 || a.GID != 777 || a.Mode&07777 != 0o2755 {
			e.Errorf("directory: %+v", a)
		}
		if e.has(Devices) {
			e.ok(e.fs.Mknod(e.ctx, c, e.dir, "n", syscall.S_IFIFO|0o600, 0, &a), "mknod")
			if a.UID != 100 || a.GID != 777 {
				e.Errorf("fifo: %+v", a)
			}
		}
		if e.has(Symlinks) {
			e.ok(e.fs.Symlink(e.ctx, c, e.dir, "l", "t", &a), "symlink")
			if a.UID != 100 || a.GID != 777 {
				e.Errorf("symlink: %+v", a)
			}
		}
	}},
	{"Times", nil, func(e *env) {
		f := e.file(e.dir, "f", nil).Ino
		at, mt := vfs.Time{Sec: 1_000_000_000}, vfs.Time{Sec: 1_100_000_000}
		if e.has(NanoTimes) {
			at.Nsec, mt.Nsec = 123_456_789, 999_999_999
		}
		a := e.set(f, vfs.SetAttr{Valid: vfs.SetAtime | vfs.SetMtime, Atime: at, Mtime: mt})
		if a.Atime != at || a.Mtime != mt {
			e.Errorf("times %v %v, want %v %v", a.Atime, a.Mtime, at, mt)
		}
		if a != e.attr(f) {
			e.Errorf("setattr says %+v, getattr %+v", a, e.attr(f))
		}
		// One alone leaves the other.
		if a := e.set(f, vfs.SetAttr{Valid: vfs.SetMtime, Mtime: at}); a.Atime != at || a.Mtime != at {
			e.Errorf("mtime alone: %v %v", a.Atime, a.Mtime)
		}
		before := time.Now().Add(-time.Second)
		a = e.set(f, vfs.SetAttr{Valid: vfs.SetAtimeNow})
		if a.Atime.Time().Before(before) || a.Mtime != at {
			e.Errorf("atime now: %+v", a)
		}
		a = e.set(f, vfs.SetAttr{Valid: vfs.SetMtimeNow})
		if a.Mtime.Time().Before(before) {
			e.Errorf("mtime now: %+v", a)
		}
	}},
	{"TimeRange", []Feature{TimeRange}, func(e *env) {
		f := e.file(e.dir, "f", nil).Ino
		for _, at := range []vfs.Time{
			{Sec: -1}, {Sec: 0}, {Sec: -1 << 31}, {Sec: 1<<31 - 1}, {Sec: 1 << 31}, {Sec: 1 << 32},
			{Sec: time.Date(1901, 12, 14, 0, 0, 0, 0, time.UTC).Unix()}, {Sec: time.Date(2446, 5, 10, 22, 0, 0, 0, time.UTC).Unix()},
		} {
			a := e.set(f, vfs.SetAttr{Valid: vfs.SetAtime | vfs.SetMtime, Atime: at, Mtime: at})
			if a.Atime != at || a.Mtime != at {
				e.Errorf("%v became %v %v", at, a.Atime, a.Mtime)
			}
			if got := e.attr(f); got.Mtime != at {
				e.Errorf("%v became %v", at, got.Mtime)
			}
		}
	}},
	{"DataTimes", nil, func(e *env) {
		f, a := e.create(e.dir, "f")
		step := func(what string, mtime bool, do func()) {
			e.Helper()
			before := e.attr(a.Ino)
			time.Sleep(12 * time.Millisecond)
			do()
			after := e.attr(a.Ino)
			if mtime && !before.Mtime.Before(after.Mtime) {
				e.Errorf("%s: mtime %v, before %v", what, after.Mtime, before.Mtime)
			}
			if !mtime && before.Mtime != after.Mtime {
				e.Errorf("%s changed mtime", what)
			}
			if !before.Ctime.Before(after.Ctime) {
				e.Errorf("%s: ctime %v, before %v", what, after.Ctime, before.Ctime)
			}
		}
		step("write", true, func() { e.write(f, []byte("hello"), 0) })
		step("overwrite", true, func() { e.write(f, []byte("H"), 0) })
		if e.has(Truncate) {
			step("truncate", true, func() { e.set(a.Ino, vfs.SetAttr{Valid: vfs.SetSize, Size: 2}) })
		}
		if e.has(Owners) {
			step("chmod", false, func() { e.set(a.Ino, vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o600}) })
		}
		step("utimes", true, func() { e.set(a.Ino, vfs.SetAttr{Valid: vfs.SetMtimeNow}) })
		step("rename", false, func() {
			e.ok(e.rename(e.dir, "f", e.dir, "g", 0), "rename")
			e.set(a.Ino, vfs.SetAttr{Valid: vfs.SetAtimeNow}) // whether rename itself does is free
		})
		if e.has(HardLinks) {
			step("link", false, func() {
				var b vfs.Attr
				e.ok(e.fs.Link(e.ctx, e.c, a.Ino, e.dir, "h", &b), "link")
			})
			step("unlink", false, func() { e.unlink(e.dir, "h") })
		}
		e.close(f)
	}},
	{"SetSizeWrongType", nil, func(e *env) {
		var a vfs.Attr
		set := vfs.SetAttr{Valid: vfs.SetSize, Size: 0}
		e.want(e.fs.SetAttr(e.ctx, e.c, e.dir, &set, &a), "truncate of a directory", syscall.EISDIR)
		if e.has(Devices) {
			e.ok(e.fs.Mknod(e.ctx, e.c, e.dir, "p", syscall.S_IFIFO|0o600, 0, &a), "mknod")
			e.want(e.fs.SetAttr(e.ctx, e.c, a.Ino, &set, &a), "truncate of a fifo", syscall.EINVAL)
		}
		f := e.file(e.dir, "f", nil)
		set.Size = 1 << 63
		e.want(e.fs.SetAttr(e.ctx, e.c, f.Ino, &set, &a), "truncate to 2^63", syscall.EFBIG, syscall.EINVAL)
	}},
	{"Umask", []Feature{Owners, Umask}, func(e *env) {
		c := *e.c
		c.Umask = 0o027
		var a vfs.Attr
		f, err := e.fs.Create(e.ctx, &c, e.dir, "f", 0o666, syscall.O_RDWR, &a)
		e.ok(err, "create")
		e.close(f)
		if a.Mode&07777 != 0o640 {
			e.Errorf("file mode %o", a.Mode&07777)
		}
		e.ok(e.fs.Mkdir(e.ctx, &c, e.dir, "d", 0o777, &a), "mkdir")
		if a.Mode&07777 != 0o750 {
			e.Errorf("directory mode %o", a.Mode&07777)
		}
		e.ok(e.fs.Mknod(e.ctx, &c, e.dir, "n", syscall.S_IFREG|0o666, 0, &a), "mknod")
		if a.Mode&07777 != 0o640 {
			e.Errorf("node mode %o", a.Mode&07777)
		}
	}},
}
