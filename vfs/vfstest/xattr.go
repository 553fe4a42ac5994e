package vfstest

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

func (e *env) xattrs() vfs.XattrFS {
	e.Helper()
	x, ok := e.fs.(vfs.XattrFS)
	if !ok {
		e.Fatal("the tree is no vfs.XattrFS and does not say so in Lacks")
	}
	return x
}

var xattrTests = []test{
	{"Xattr", []Feature{Xattrs}, func(e *env) {
		x := e.xattrs()
		f := e.file(e.dir, "f", nil).Ino
		for _, ino := range []vfs.Ino{f, e.dir} {
			_, err := x.GetXattr(e.ctx, e.c, ino, "user.none")
			e.want(err, "get of nothing", syscall.ENODATA)
			e.want(x.RemoveXattr(e.ctx, e.c, ino, "user.none"), "remove of nothing", syscall.ENODATA)
			values := map[string][]byte{
				"user.a": []byte("value"), "user.empty": {}, "user.bin": {0, 1, 255, 0}, "user.big": pattern(2000, 1),
				"user.Ünïcödé": []byte("x"),
			}
			if e.has(XattrTrusted) && e.c.UID == 0 {
				values["trusted.t"] = []byte("secret")
			}
			for name, v := range values {
				e.ok(x.SetXattr(e.ctx, e.c, ino, name, v, 0), "set "+name)
			}
			for name, v := range values {
				got, err := x.GetXattr(e.ctx, e.c, ino, name)
				e.ok(err, "get "+name)
				if !bytes.Equal(got, v) {
					e.Errorf("%s: %q", name, got)
				}
			}
			list, err := x.ListXattr(e.ctx, e.c, ino)
			e.ok(err, "list")
			for name := range values {
				if !slices.Contains(list, name) {
					e.Errorf("%s is not in the list %q", name, list)
				}
			}
			e.want(x.SetXattr(e.ctx, e.c, ino, "user.a", []byte("n"), vfs.XattrCreate), "create of what is there", syscall.EEXIST)
			e.want(x.SetXattr(e.ctx, e.c, ino, "user.n", []byte("n"), vfs.XattrReplace), "replace of nothing", syscall.ENODATA)
			e.ok(x.SetXattr(e.ctx, e.c, ino, "user.n", []byte("n"), vfs.XattrCreate), "create")
			e.ok(x.SetXattr(e.ctx, e.c, ino, "user.n", []byte("longer"), vfs.XattrReplace), "replace")
			if got, _ := x.GetXattr(e.ctx, e.c, ino, "user.n"); string(got) != "longer" {
				e.Errorf("%q", got)
			}
			for name := range values {
				e.ok(x.RemoveXattr(e.ctx, e.c, ino, name), "remove")
				_, err := x.GetXattr(e.ctx, e.c, ino, name)
				e.want(err, "get after remove", syscall.ENODATA)
			}
		}
		// The attributes are the inode's.
		e.ok(e.rename(e.dir, "f", e.dir, "g", 0), "rename")
		if got, err := x.GetXattr(e.ctx, e.c, e.lookup(e.dir, "g").Ino, "user.n"); err != nil || string(got) != "longer" {
			e.Errorf("after rename: %q, %v", got, err)
		}
	}},
	{"XattrLimits", []Feature{Xattrs}, func(e *env) {
		x := e.xattrs()
		f := e.file(e.dir, "f", nil).Ino
		long := "user." + strings.Repeat("n", 250)
		e.ok(x.SetXattr(e.ctx, e.c, f, long, []byte("v"), 0), "name of 255 bytes")
		e.want(x.SetXattr(e.ctx, e.c, f, long+"x", []byte("v"), 0), "name of 256 bytes", syscall.ERANGE, syscall.ENAMETOOLONG)
		e.want(x.SetXattr(e.ctx, e.c, f, "", []byte("v"), 0), "empty name", syscall.EINVAL, syscall.EOPNOTSUPP, syscall.ERANGE)
		if err := x.SetXattr(e.ctx, e.c, f, "user.huge", make([]byte, 65536), 0); err != nil {
			e.want(err, "64 KiB", syscall.ENOSPC, syscall.E2BIG, syscall.ERANGE)
		}
		e.want(x.SetXattr(e.ctx, e.c, f, "user.huger", make([]byte, 65537), 0), "more than 64 KiB", syscall.E2BIG, syscall.ENOSPC, syscall.ERANGE)
		e.want(x.SetXattr(e.ctx, e.c, f, "nonsense.x", []byte("v"), 0), "unknown name space", syscall.EOPNOTSUPP, syscall.EPERM)
	}},
	{"XattrCtime", []Feature{Xattrs}, func(e *env) {
		x := e.xattrs()
		f := e.file(e.dir, "f", nil)
		e.ok(x.SetXattr(e.ctx, e.c, f.Ino, "user.a", []byte("v"), 0), "set")
		if a := e.attr(f.Ino); a.Ctime.Before(f.Ctime) || a.Mtime != f.Mtime {
			e.Errorf("before %+v\nafter %+v", f, a)
		}
	}},
}

// ACL entries in the kernel's binary form (linux/posix_acl_xattr.h).
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclMask     = 0x10
	aclOther    = 0x20
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

func acl(entries ...aclEntry) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, en := range entries {
		b = binary.LittleEndian.AppendUint16(b, en.tag)
		b = binary.LittleEndian.AppendUint16(b, en.perm)
		id := en.id
		if en.tag != aclUser {
			id = 1<<32 - 1
		}
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	return b
}

var aclTests = []test{
	{"ACL", []Feature{Xattrs, ACLs, Owners}, func(e *env) {
		x := e.xattrs()
		f := e.file(e.dir, "f", nil).Ino
		// An ACL of the three classes alone is the mode.
		e.ok(x.SetXattr(e.ctx, e.c, f, vfs.XattrACLAccess, acl(aclEntry{aclUserObj, 6, 0}, aclEntry{aclGroupObj, 4, 0}, aclEntry{aclOther, 0, 0}), 0), "set minimal ACL")
		if a := e.attr(f); a.Mode&07777 != 0o640 {
			e.Errorf("mode %o", a.Mode&07777)
		}
		_, err := x.GetXattr(e.ctx, e.c, f, vfs.XattrACLAccess)
		e.want(err, "get of a minimal ACL", syscall.ENODATA)
		// With more, the group bits of the mode are the mask.
		full := acl(aclEntry{aclUserObj, 7, 0}, aclEntry{aclUser, 5, 1001}, aclEntry{aclGroupObj, 1, 0}, aclEntry{aclMask, 5, 0}, aclEntry{aclOther, 4, 0})
		e.ok(x.SetXattr(e.ctx, e.c, f, vfs.XattrACLAccess, full, 0), "set ACL")
		if a := e.attr(f); a.Mode&07777 != 0o754 {
			e.Errorf("mode %o, want 754", a.Mode&07777)
		}
		got, err := x.GetXattr(e.ctx, e.c, f, vfs.XattrACLAccess)
		e.ok(err, "get ACL")
		if !bytes.Equal(got, full) {
			e.Errorf("ACL %x, want %x", got, full)
		}
		e.set(f, vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o610})
		got, err = x.GetXattr(e.ctx, e.c, f, vfs.XattrACLAccess)
		e.ok(err, "get ACL")
		if want := acl(aclEntry{aclUserObj, 6, 0}, aclEntry{aclUser, 5, 1001}, aclEntry{aclGroupObj, 1, 0}, aclEntry{aclMask, 1, 0}, aclEntry{aclOther, 0, 0}); !bytes.Equal(got, want) {
			e.Errorf("ACL after chmod %x, want %x", got, want)
		}
		e.ok(x.RemoveXattr(e.ctx, e.c, f, vfs.XattrACLAccess), "remove ACL")
		_, err = x.GetXattr(e.ctx, e.c, f, vfs.XattrACLAccess)
		e.want(err, "get of a removed ACL", syscall.ENODATA)
		for _, bad := range [][]byte{{1}, {1, 0, 0, 0}, full[:len(full)-1], acl(aclEntry{aclUser, 7, 1}), acl(aclEntry{aclUserObj, 9, 0}, aclEntry{aclGroupObj, 4, 0}, aclEntry{aclOther, 0, 0})} {
			if err := x.SetXattr(e.ctx, e.c, f, vfs.XattrACLAccess, bad, 0); err == nil {
				e.Errorf("the ACL %x was taken", bad)
			}
		}
	}},
	{"ACLDefault", []Feature{Xattrs, ACLs, Owners}, func(e *env) {
		x := e.xattrs()
		def := acl(aclEntry{aclUserObj, 7, 0}, aclEntry{aclUser, 6, 1001}, aclEntry{aclGroupObj, 5, 0}, aclEntry{aclMask, 7, 0}, aclEntry{aclOther, 1, 0})
		e.ok(x.SetXattr(e.ctx, e.c, e.dir, vfs.XattrACLDefault, def, 0), "set default ACL")
		c := *e.c
		c.Umask = 0o077 // does not hold where there is a default ACL
		var a vfs.Attr
		f, err := e.fs.Create(e.ctx, &c, e.dir, "f", 0o666, syscall.O_RDWR, &a)
		e.ok(err, "create")
		e.close(f)
		if a.Mode&07777 != 0o660 {
			e.Errorf("file mode %o, want 660", a.Mode&07777)
		}
		got, err := x.GetXattr(e.ctx, e.c, a.Ino, vfs.XattrACLAccess)
		e.ok(err, "get inherited ACL")
		if want := acl(aclEntry{aclUserObj, 6, 0}, aclEntry{aclUser, 6, 1001}, aclEntry{aclGroupObj, 5, 0}, aclEntry{aclMask, 6, 0}, aclEntry{aclOther, 0, 0}); !bytes.Equal(got, want) {
			e.Errorf("inherited %x, want %x", got, want)
		}
		e.ok(e.fs.Mkdir(e.ctx, &c, e.dir, "d", 0o777, &a), "mkdir")
		if a.Mode&07777 != 0o771 {
			e.Errorf("directory mode %o, want 771", a.Mode&07777)
		}
		got, err = x.GetXattr(e.ctx, e.c, a.Ino, vfs.XattrACLDefault)
		e.ok(err, "get inherited default ACL")
		if !bytes.Equal(got, def) {
			e.Errorf("inherited default %x, want %x", got, def)
		}
		e.want(x.SetXattr(e.ctx, e.c, e.lookup(e.dir, "f").Ino, vfs.XattrACLDefault, def, 0), "default ACL of a file", syscall.EACCES, syscall.EPERM, syscall.EINVAL)
	}},
}
