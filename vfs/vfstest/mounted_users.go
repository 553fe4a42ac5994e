package vfstest

import (
	"bytes"
	"os"
	"syscall"

	"github.com/massif-fs/massif/vfs"
	"golang.org/x/sys/unix"
)

// mountedUsers check the rules between users; they need root.
var mountedUsers = []mountedTest{
	{"Permissions", []Feature{Owners}, func(m *mnt) {
		m.file("private", []byte("x"))
		m.ok(os.Chmod(m.path("private"), 0o600), "chmod")
		m.file("public", []byte("x"))
		m.file("group", []byte("x"))
		m.ok(os.Chmod(m.path("group"), 0o040), "chmod")
		m.ok(os.Chmod(m.dir, 0o755), "chmod")
		open := func(dirfd int, name string, flags int) error {
			fd, err := unix.Openat(dirfd, name, flags|unix.O_CLOEXEC, 0o644)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}
		if os.Geteuid() == 0 {
			m.ok(os.Chown(m.path("group"), 0, 4242), "chown")
		}
		m.asUser(1001, 1001, nil, func(d int) {
			m.expect(open(d, "private", unix.O_RDONLY), "open of another's private file", syscall.EACCES)
			m.expect(open(d, "public", unix.O_RDONLY), "open of a public file", 0)
			m.expect(open(d, "public", unix.O_RDWR), "open of a public file for writing", syscall.EACCES)
			m.expect(open(d, "new", unix.O_CREAT|unix.O_RDWR), "create in another's directory", syscall.EACCES)
			m.expect(unix.Unlinkat(d, "public", 0), "unlink in another's directory", syscall.EACCES)
			m.expect(unix.Fchmodat(d, "public", 0o777, 0), "chmod of another's file", syscall.EPERM)
			m.expect(unix.Fchownat(d, "public", 1001, -1, 0), "chown of another's file", syscall.EPERM)
			m.expect(open(d, "group", unix.O_RDONLY), "open by a stranger", syscall.EACCES)
		})
		m.asUser(1001, 1001, []int{4242}, func(d int) {
			m.expect(open(d, "group", unix.O_RDONLY), "open by a member of the group", 0)
		})
		m.ok(os.Chmod(m.dir, 0o777), "chmod")
		m.asUser(1001, 1002, nil, func(d int) {
			m.expect(open(d, "mine", unix.O_CREAT|unix.O_RDWR), "create", 0)
			m.expect(unix.Mkdirat(d, "mydir", 0o700), "mkdir", 0)
			m.expect(unix.Fchmodat(d, "mine", 0o640, 0), "chmod of the own file", 0)
			m.expect(unix.Fchownat(d, "mine", -1, 4242, 0), "chgrp to a strange group", syscall.EPERM)
			m.expect(unix.Fchownat(d, "mine", 1001, 1002, 0), "chown to oneself", 0)
		})
		if st := m.stat("mine"); st.Uid != 1001 || st.Gid != 1002 || st.Mode&0o7777 != 0o640 {
			m.Errorf("owner %d:%d mode %o", st.Uid, st.Gid, st.Mode)
		}
		if st := m.stat("mydir"); st.Uid != 1001 || st.Gid != 1002 || st.Mode&0o7777 != 0o700 {
			m.Errorf("owner %d:%d mode %o", st.Uid, st.Gid, st.Mode)
		}
	}},
	{"Sticky", []Feature{Owners}, func(m *mnt) {
		m.ok(unix.Chmod(m.dir, 0o1777), "chmod")
		m.file("theirs", nil)
		m.asUser(1001, 1001, nil, func(d int) {
			m.expect(unix.Unlinkat(d, "theirs", 0), "unlink of another's file", syscall.EPERM)
			m.expect(unix.Renameat(d, "theirs", d, "x"), "rename of another's file", syscall.EPERM)
			fd, err := unix.Openat(d, "mine", unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o644)
			m.expect(err, "create", 0)
			unix.Close(fd)
			m.expect(unix.Renameat(d, "mine", d, "theirs"), "rename over another's file", syscall.EPERM)
		})
		m.asUser(1002, 1002, nil, func(d int) {
			m.expect(unix.Unlinkat(d, "mine", 0), "unlink by a third", syscall.EPERM)
		})
		m.asUser(1001, 1001, nil, func(d int) {
			m.expect(unix.Unlinkat(d, "mine", 0), "unlink of the own file", 0)
		})
	}},
	{"SetID", []Feature{Owners, SetIDs}, func(m *mnt) {
		reset := func(mode uint32) {
			m.ok(unix.Chmod(m.path("f"), mode), "chmod")
			if st := m.stat("f"); st.Mode&0o7777 != mode {
				m.Fatalf("mode %o, want %o", st.Mode&0o7777, mode)
			}
		}
		expect := func(what string, mode uint32) {
			m.Helper()
			if st := m.stat("f"); st.Mode&0o7777 != mode {
				m.Errorf("%s: mode %o, want %o", what, st.Mode&0o7777, mode)
			}
		}
		m.file("f", []byte("content"))
		if os.Geteuid() == 0 {
			m.ok(os.Chown(m.path("f"), 1001, 1001), "chown")
		}
		write := func(d int) {
			fd, err := unix.Openat(d, "f", unix.O_RDWR|unix.O_CLOEXEC, 0)
			m.expect(err, "open", 0)
			_, err = unix.Pwrite(fd, []byte("x"), 0)
			m.expect(err, "write", 0)
			m.expect(unix.Close(fd), "close", 0)
		}
		for _, who := range []int{1001, 1002} {
			reset(0o6777)
			m.asUser(who, who, nil, write)
			expect("write by an ordinary user", 0o777)
			reset(0o2767)
			m.asUser(who, who, nil, write)
			if who == 1001 {
				expect("write by an ordinary user, not group-executable", 0o2767)
			}
			reset(0o6777)
			m.asUser(who, who, nil, func(d int) {
				fd, err := unix.Openat(d, "f", unix.O_RDWR|unix.O_TRUNC|unix.O_CLOEXEC, 0)
				m.expect(err, "open with O_TRUNC", 0)
				unix.Close(fd)
			})
			expect("O_TRUNC by an ordinary user", 0o777)
			reset(0o6777)
			m.asUser(who, who, nil, func(d int) {
				fd, err := unix.Openat(d, "f", unix.O_RDWR|unix.O_CLOEXEC, 0)
				m.expect(err, "open", 0)
				m.expect(unix.Ftruncate(fd, 3), "ftruncate", 0)
				unix.Close(fd)
			})
			expect("truncation by an ordinary user", 0o777)
			if m.has(Allocate) {
				reset(0o6777)
				m.asUser(who, who, nil, func(d int) {
					fd, err := unix.Openat(d, "f", unix.O_RDWR|unix.O_CLOEXEC, 0)
					m.expect(err, "open", 0)
					m.expect(unix.Fallocate(fd, 0, 0, 100), "fallocate", 0)
					unix.Close(fd)
				})
				expect("fallocate by an ordinary user", 0o777)
			}
		}
		reset(0o6777)
		m.ok(os.Chown(m.path("f"), 1003, 1003), "chown by root")
		expect("chown", 0o777)
		m.ok(os.Chown(m.path("f"), 1001, 1001), "chown by root")
		m.asUser(1001, 1001, []int{1005}, func(d int) {
			m.expect(unix.Fchmodat(d, "f", 0o2755, 0), "chmod of the own file", 0)
		})
		expect("chmod with the own group", 0o2755)
		m.ok(os.Chown(m.path("f"), 1001, 1009), "chown by root")
		m.asUser(1001, 1001, nil, func(d int) {
			m.expect(unix.Fchmodat(d, "f", 0o2755, 0), "chmod with a strange group", 0)
		})
		expect("chmod with a strange group drops the set-group-id bit", 0o755)
	}},
	{"SetGIDDirectory", []Feature{Owners, SetIDs}, func(m *mnt) {
		if os.Geteuid() != 0 {
			m.Skip("needs root")
		}
		m.ok(os.Chown(m.dir, 0, 4242), "chown")
		m.ok(unix.Chmod(m.dir, 0o2777), "chmod")
		m.asUser(1001, 1001, nil, func(d int) {
			fd, err := unix.Openat(d, "f", unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o644)
			m.expect(err, "create", 0)
			unix.Close(fd)
			m.expect(unix.Mkdirat(d, "d", 0o755), "mkdir", 0)
		})
		if st := m.stat("f"); st.Uid != 1001 || st.Gid != 4242 {
			m.Errorf("file of %d:%d", st.Uid, st.Gid)
		}
		if st := m.stat("d"); st.Uid != 1001 || st.Gid != 4242 || st.Mode&unix.S_ISGID == 0 {
			m.Errorf("directory of %d:%d mode %o", st.Uid, st.Gid, st.Mode)
		}
	}},
	{"ACL", []Feature{Owners, Xattrs, ACLs}, func(m *mnt) {
		if os.Geteuid() != 0 {
			m.Skip("needs root")
		}
		m.file("f", []byte("x"))
		m.ok(os.Chmod(m.path("f"), 0o600), "chmod")
		list := acl(aclEntry{aclUserObj, 6, 0}, aclEntry{aclUser, 4, 1001}, aclEntry{aclGroupObj, 0, 0}, aclEntry{aclMask, 4, 0}, aclEntry{aclOther, 0, 0})
		m.ok(unix.Setxattr(m.path("f"), vfs.XattrACLAccess, list, 0), "set ACL")
		if st := m.stat("f"); st.Mode&0o777 != 0o640 {
			m.Errorf("mode %o", st.Mode&0o777)
		}
		try := func(d int, flags int) error {
			fd, err := unix.Openat(d, "f", flags|unix.O_CLOEXEC, 0)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}
		m.asUser(1001, 1001, nil, func(d int) {
			m.expect(try(d, unix.O_RDONLY), "open by the named user", 0)
			m.expect(try(d, unix.O_RDWR), "open for writing by the named user", syscall.EACCES)
		})
		m.asUser(1002, 1002, nil, func(d int) {
			m.expect(try(d, unix.O_RDONLY), "open by another user", syscall.EACCES)
		})
		m.ok(os.Chmod(m.path("f"), 0o600), "chmod") // the mask takes the named user's right away
		m.asUser(1001, 1001, nil, func(d int) {
			m.expect(try(d, unix.O_RDONLY), "open under an empty mask", syscall.EACCES)
		})
		buf := make([]byte, 1000)
		n, err := unix.Getxattr(m.path("f"), vfs.XattrACLAccess, buf)
		m.ok(err, "get ACL")
		if want := acl(aclEntry{aclUserObj, 6, 0}, aclEntry{aclUser, 4, 1001}, aclEntry{aclGroupObj, 0, 0}, aclEntry{aclMask, 0, 0}, aclEntry{aclOther, 0, 0}); !bytes.Equal(buf[:n], want) {
			m.Errorf("ACL %x, want %x", buf[:n], want)
		}
		// Default ACLs are inherited, and the umask does not hold there.
		def := acl(aclEntry{aclUserObj, 7, 0}, aclEntry{aclUser, 6, 1001}, aclEntry{aclGroupObj, 5, 0}, aclEntry{aclMask, 7, 0}, aclEntry{aclOther, 0, 0})
		m.ok(os.Mkdir(m.path("d"), 0o755), "mkdir")
		old := syscall.Umask(0o077)
		m.file("d/before", nil)
		syscall.Umask(old)
		if st := m.stat("d/before"); st.Mode&0o777 != 0o600 {
			m.Errorf("without a default ACL under umask 077: mode %o", st.Mode&0o777)
		}
		m.ok(unix.Setxattr(m.path("d"), vfs.XattrACLDefault, def, 0), "set default ACL")
		old = syscall.Umask(0o077)
		m.file("d/f", []byte("x")) // asks for 0644
		syscall.Umask(old)
		if st := m.stat("d/f"); st.Mode&0o777 != 0o640 {
			m.Errorf("with a default ACL: mode %o, want 640", st.Mode&0o777)
		}
	}},
}
