package meta

import (
	"bytes"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/vfs"
)

func aclOf(entries ...aclEntry) []byte { return acl(entries).encode() }

var (
	userObj  = func(p uint16) aclEntry { return aclEntry{aclUserObj, p, aclNoID} }
	groupObj = func(p uint16) aclEntry { return aclEntry{aclGroupObj, p, aclNoID} }
	mask     = func(p uint16) aclEntry { return aclEntry{aclMask, p, aclNoID} }
	others   = func(p uint16) aclEntry { return aclEntry{aclOther, p, aclNoID} }
	user     = func(id uint32, p uint16) aclEntry { return aclEntry{aclUser, p, id} }
	group    = func(id uint32, p uint16) aclEntry { return aclEntry{aclGroup, p, id} }
)

func TestParseACL(t *testing.T) {
	minimal := aclOf(userObj(7), groupObj(5), others(0))
	full := aclOf(userObj(7), user(1, 6), user(2, 4), groupObj(5), group(3, 1), mask(6), others(0))
	for _, b := range [][]byte{minimal, full} {
		a, err := parseACL(b)
		if err != nil || !bytes.Equal(a.encode(), b) {
			t.Errorf("%v, %v", a, err)
		}
	}
	if a, err := parseACL([]byte{2, 0, 0, 0}); a != nil || err != nil {
		t.Error(a, err)
	}
	for _, b := range [][]byte{
		nil, {2}, {1, 0, 0, 0}, minimal[:len(minimal)-1], append(bytes.Clone(minimal), 0),
		aclOf(userObj(7), groupObj(5)),
		aclOf(userObj(8), groupObj(5), others(0)),
		aclOf(groupObj(5), userObj(7), others(0)),
		aclOf(userObj(7), userObj(7), groupObj(5), others(0)),
		aclOf(userObj(7), user(1, 7), groupObj(5), others(0)),
		aclOf(userObj(7), user(aclNoID, 7), groupObj(5), mask(7), others(0)),
		aclOf(userObj(7), groupObj(5), mask(7), mask(7), others(0)),
		aclOf(userObj(7), groupObj(5), aclEntry{0x40, 0, 0}, others(0)),
		aclOf(userObj(7), groupObj(5), others(0), aclEntry{0, 0, 0}),
	} {
		if a, err := parseACL(b); err != syscall.EINVAL {
			t.Errorf("%x: %v, %v", b, a, err)
		}
	}
}

func TestACL(t *testing.T) {
	v := newVolume(t)
	var a vfs.Attr
	get := func(ino vfs.Ino, name string) []byte {
		t.Helper()
		b, err := v.s.GetXattr(bg, root, ino, name)
		if vfs.ErrnoOf(err) == syscall.ENODATA {
			return nil
		}
		v.ok(err)
		v.verify()
		return b
	}
	f := v.file(vfs.Root, "f")
	set := func(ino vfs.Ino, name string, b []byte) {
		t.Helper()
		v.ok(v.s.SetXattr(bg, root, ino, name, b, 0))
	}
	// A minimal ACL is the mode.
	set(f, vfs.XattrACLAccess, aclOf(userObj(7), groupObj(5), others(1)))
	if a := v.attr(f); a.Mode != syscall.S_IFREG|0o751 || get(f, vfs.XattrACLAccess) != nil {
		t.Fatalf("%o", a.Mode)
	}
	// A longer one shows its mask.
	full := aclOf(userObj(6), user(1, 7), groupObj(5), mask(6), others(0))
	set(f, vfs.XattrACLAccess, full)
	if a := v.attr(f); a.Mode != syscall.S_IFREG|0o660 || !bytes.Equal(get(f, vfs.XattrACLAccess), full) {
		t.Fatalf("%o", a.Mode)
	}
	// chmod changes the mask.
	v.ok(v.s.SetAttr(bg, root, f, &vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o4741}, &a))
	if a.Mode != syscall.S_IFREG|0o4741 || !bytes.Equal(get(f, vfs.XattrACLAccess), aclOf(userObj(7), user(1, 7), groupObj(5), mask(4), others(1))) {
		t.Fatalf("%o", a.Mode)
	}
	set(f, vfs.XattrACLAccess, aclOf(userObj(6), groupObj(4), others(4)))
	if a := v.attr(f); a.Mode != syscall.S_IFREG|0o4644 || get(f, vfs.XattrACLAccess) != nil {
		t.Fatalf("%o", a.Mode)
	}
	set(f, vfs.XattrACLAccess, full)
	set(f, vfs.XattrACLAccess, []byte{2, 0, 0, 0}) // empty: none
	if get(f, vfs.XattrACLAccess) != nil {
		t.Fatal("still there")
	}
	set(f, vfs.XattrACLAccess, full)
	v.ok(v.s.RemoveXattr(bg, root, f, vfs.XattrACLAccess))
	v.want(v.s.RemoveXattr(bg, root, f, vfs.XattrACLAccess), syscall.ENODATA)
	v.want(v.s.SetXattr(bg, root, f, vfs.XattrACLAccess, []byte("nonsense"), 0), syscall.EINVAL)
	v.want(v.s.SetXattr(bg, root, f, vfs.XattrACLDefault, full, 0), syscall.EACCES)
	v.ok(v.s.Symlink(bg, root, vfs.Root, "l", "t", &a))
	v.want(v.s.SetXattr(bg, root, a.Ino, vfs.XattrACLAccess, full, 0), syscall.EOPNOTSUPP)

	// Inheritance: the default ACL in the place of the umask.
	c := &vfs.Caller{UID: 1, GID: 1, Umask: 0o077}
	d := v.mkdir(vfs.Root, "d")
	def := aclOf(userObj(7), user(1, 7), groupObj(5), mask(7), others(5))
	set(d, vfs.XattrACLDefault, def)
	v.ok(v.s.Mknod(bg, c, d, "f", syscall.S_IFREG|0o664, 0, &a))
	if want := aclOf(userObj(6), user(1, 7), groupObj(5), mask(6), others(4)); a.Mode != syscall.S_IFREG|0o664 || !bytes.Equal(get(a.Ino, vfs.XattrACLAccess), want) || get(a.Ino, vfs.XattrACLDefault) != nil {
		t.Fatalf("%o", a.Mode)
	}
	v.ok(v.s.Mkdir(bg, c, d, "sub", 0o777, &a))
	if a.Mode != syscall.S_IFDIR|0o775 || !bytes.Equal(get(a.Ino, vfs.XattrACLAccess), def) || !bytes.Equal(get(a.Ino, vfs.XattrACLDefault), def) {
		t.Fatalf("%o", a.Mode)
	}
	set(d, vfs.XattrACLDefault, aclOf(userObj(7), groupObj(7), others(0)))
	v.ok(v.s.Mknod(bg, c, d, "g", syscall.S_IFREG|0o666, 0, &a))
	if a.Mode != syscall.S_IFREG|0o660 || get(a.Ino, vfs.XattrACLAccess) != nil {
		t.Fatalf("%o", a.Mode)
	}
	v.ok(v.s.Symlink(bg, c, d, "l", "t", &a))
	if a.Mode != syscall.S_IFLNK|0o777 {
		t.Fatalf("%o", a.Mode)
	}
	v.ok(v.s.RemoveXattr(bg, root, d, vfs.XattrACLDefault))
	v.ok(v.s.Mknod(bg, c, d, "h", syscall.S_IFREG|0o666, 0, &a))
	if a.Mode != syscall.S_IFREG|0o600 {
		t.Fatalf("%o", a.Mode)
	}
}

func TestXattr(t *testing.T) {
	v := newVolume(t)
	f := v.file(vfs.Root, "f")
	set := func(name, value string, flags uint32) error {
		return v.s.SetXattr(bg, root, f, name, []byte(value), flags)
	}
	_, err := v.s.GetXattr(bg, root, f, "user.a")
	v.want(err, syscall.ENODATA)
	v.want(set("user.a", "1", vfs.XattrReplace), syscall.ENODATA)
	v.ok(set("user.a", "1", vfs.XattrCreate))
	v.want(set("user.a", "2", vfs.XattrCreate), syscall.EEXIST)
	v.ok(set("user.a", "", vfs.XattrReplace))
	if b, err := v.s.GetXattr(bg, root, f, "user.a"); err != nil || b == nil || len(b) != 0 {
		t.Fatal(b, err)
	}
	v.ok(set("trusted.b", strings.Repeat("x", MaxXattrValue), 0))
	v.ok(set("security.capability", "c", 0))
	names, err := v.s.ListXattr(bg, root, f)
	if want := []string{"security.capability", "trusted.b", "user.a"}; err != nil || !slices.Equal(names, want) {
		t.Fatal(names, err)
	}
	for name, errno := range map[string]syscall.Errno{
		"system.other": syscall.EOPNOTSUPP, "nothing": syscall.EOPNOTSUPP, "user.": syscall.EINVAL,
		"": syscall.ERANGE, "user." + strings.Repeat("x", 251): syscall.ERANGE, "user.a\x00": syscall.EINVAL,
	} {
		v.want(set(name, "", 0), errno)
		v.want(v.s.RemoveXattr(bg, root, f, name), errno)
		_, err := v.s.GetXattr(bg, root, f, name)
		v.want(err, errno)
	}
	v.want(set("user.b", strings.Repeat("x", MaxXattrValue+1), 0), syscall.E2BIG)
	v.want(set("user.b", "", 4), syscall.EINVAL)
	v.verify()
	for _, name := range names {
		v.ok(v.s.RemoveXattr(bg, root, f, name))
		v.verify()
	}
	if names, err := v.s.ListXattr(bg, root, f); err != nil || len(names) != 0 {
		t.Fatal(names, err)
	}
	// As many as can be listed.
	long := strings.Repeat("x", 240)
	for i := 0; ; i++ {
		err := set("user."+long+string(rune('a'+i/26%26))+string(rune('a'+i%26))+string(rune('a'+i/676)), "", 0)
		if err != nil {
			v.want(err, syscall.ENOSPC)
			break
		}
		if i > 300 {
			t.Fatal("no limit")
		}
	}
	v.ok(v.s.SetXattr(bg, root, f, "user."+long+"aaa", []byte("changed"), 0))
	v.want(v.s.SetXattr(bg, root, 999, "user.a", nil, 0), syscall.ESTALE)
	v.unlink(vfs.Root, "f")
}
