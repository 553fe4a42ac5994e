package cli

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRootSquash: root gets no more than nobody on a mount with root-squash.
func TestRootSquash(t *testing.T) {
	needFUSE(t)
	needRoot(t)
	w := newWorld(t)
	w.must("volume", "create", "v")
	w.must("mount", "v", w.mnt)
	at := func(name string) string { return filepath.Join(w.mnt, name) }
	for _, f := range []struct {
		name string
		mode os.FileMode
		uid  int
		dir  bool
	}{
		{"open", 0o777, 1000, true}, {"shut", 0o700, 1000, true}, {"shut/f", 0o644, 1000, false}, {"sticky", 0o777 | os.ModeSticky, 1000, true},
		{"sticky/f", 0o666, 1000, false}, {"open/secret", 0o600, 1000, false}, {"open/shown", 0o644, 1000, false}, {"open/acl", 0o600, 1000, false},
		{"open/nobodys", 0o600, 65534, false},
	} {
		var err error
		if f.dir {
			err = os.Mkdir(at(f.name), 0o700)
		} else {
			err = os.WriteFile(at(f.name), []byte("x"), 0o600)
		}
		if err = errors.Join(err, os.Chmod(at(f.name), f.mode), os.Chown(at(f.name), f.uid, f.uid)); err != nil {
			t.Fatal(err)
		}
	}
	// An ACL that lets nobody (65534) read: version, then tag, permission, ID of each.
	acl := []byte{2, 0, 0, 0, 1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, 2, 0, 4, 0, 0xfe, 0xff, 0, 0, 4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
		0x10, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, 0x20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}
	if err := unix.Setxattr(at("open/acl"), "system.posix_acl_access", acl, 0); err != nil {
		t.Fatal(err)
	}
	w.must("umount", w.mnt)
	w.must("mount", "v", w.mnt, "--root-squash")
	read := func(name string) func() error {
		return func() error { _, err := os.ReadFile(at(name)); return err }
	}
	write := func(name string) func() error {
		return func() error { return os.WriteFile(at(name), []byte("y"), 0o644) }
	}
	for what, c := range map[string]struct {
		do   func() error
		want error
	}{
		"read secret":        {read("open/secret"), syscall.EACCES},
		"read shown":         {read("open/shown"), nil},
		"write shown":        {write("open/shown"), syscall.EACCES},
		"read by ACL":        {read("open/acl"), nil},
		"write by ACL":       {write("open/acl"), syscall.EACCES},
		"read nobody's":      {read("open/nobodys"), nil},
		"walk":               {read("shut/f"), syscall.EACCES},
		"list":               {func() error { _, err := os.ReadDir(at("shut")); return err }, syscall.EACCES},
		"create in the root": {write("new"), syscall.EACCES},
		"remove sticky":      {func() error { return os.Remove(at("sticky/f")) }, syscall.EPERM},
		"rename sticky":      {func() error { return os.Rename(at("sticky/f"), at("sticky/g")) }, syscall.EPERM},
		"write sticky":       {write("sticky/f"), nil},
		"chmod":              {func() error { return os.Chmod(at("open/shown"), 0o666) }, syscall.EPERM},
		"chown":              {func() error { return os.Chown(at("open/shown"), 0, 0) }, syscall.EPERM},
		"chmod nobody's":     {func() error { return os.Chmod(at("open/nobodys"), 0o640) }, nil},
		"give away nobody's": {func() error { return os.Chown(at("open/nobodys"), 1000, -1) }, syscall.EPERM},
		"truncate":           {func() error { return os.Truncate(at("open/shown"), 0) }, syscall.EACCES},
		"touch":              {func() error { return os.Chtimes(at("open/shown"), time.Unix(1, 0), time.Unix(1, 0)) }, syscall.EPERM},
		"xattr":              {func() error { return unix.Setxattr(at("open/shown"), "user.a", []byte("b"), 0) }, syscall.EACCES},
		"trusted xattr":      {func() error { return unix.Setxattr(at("open/nobodys"), "trusted.a", []byte("b"), 0) }, syscall.EPERM},
		"device":             {func() error { return unix.Mknod(at("open/dev"), unix.S_IFCHR|0o600, 0x103) }, syscall.EPERM},
		"mkdir in the root":  {func() error { return os.Mkdir(at("d"), 0o755) }, syscall.EACCES},
	} {
		if err := c.do(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
	if err := write("open/made")(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(at("open/made"))
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 65534 || st.Gid != 65534 {
		t.Errorf("what root made belongs to %d:%d", st.Uid, st.Gid)
	}
	w.must("umount", w.mnt)
	w.refuse(2, "is for volumes", "mount", "file://"+w.dir, w.mnt, "--root-squash")
}
