package vfstest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

var mountedNames = []mountedTest{
	{"Names", nil, func(m *mnt) {
		for _, name := range []string{"a", "sp ace", "日本", "new\nline", strings.Repeat("n", 255)} {
			m.file(name, []byte(name))
			if got := m.content(name); string(got) != name {
				m.Errorf("%s: %q", short(name), got)
			}
		}
		m.want(os.WriteFile(m.path(strings.Repeat("n", 256)), nil, 0o644), "name of 256 bytes", syscall.ENAMETOOLONG)
		_, err := os.Lstat(m.path(strings.Repeat("n", 256)))
		m.want(err, "stat of a name of 256 bytes", syscall.ENAMETOOLONG)
		_, err = os.Lstat(m.path("a/b"))
		m.want(err, "stat below a file", syscall.ENOTDIR)
		m.want(os.Mkdir(m.path("none/b"), 0o755), "mkdir below nothing", syscall.ENOENT)
		if m.has(ByteNames) {
			m.file("\xff\xfe", []byte("x"))
			m.content("\xff\xfe")
		}
	}},
	{"NegativeNames", nil, func(m *mnt) {
		// A name once not found is found as soon as it is there.
		absent := func(name string) {
			m.Helper()
			if _, err := os.Lstat(m.path(name)); !os.IsNotExist(err) {
				m.Fatalf("%s: %v", name, err)
			}
		}
		for range 3 {
			absent("f")
			absent("f")
			m.file("f", []byte("here"))
			m.stat("f")
			absent("g")
			m.ok(os.Rename(m.path("f"), m.path("g")), "rename")
			m.stat("g")
			absent("f")
			m.ok(os.Mkdir(m.path("f"), 0o755), "mkdir")
			m.stat("f")
			m.ok(os.Remove(m.path("f")), "rmdir")
			absent("f")
			if m.has(HardLinks) {
				m.ok(os.Link(m.path("g"), m.path("f")), "link")
				m.stat("f")
				m.ok(os.Remove(m.path("f")), "unlink")
			}
			if m.has(Symlinks) {
				m.ok(os.Symlink("x", m.path("f")), "symlink")
				m.stat("f")
				m.ok(os.Remove(m.path("f")), "unlink")
			}
			m.ok(os.Remove(m.path("g")), "unlink")
			absent("g")
		}
	}},
	{"Links", []Feature{HardLinks}, func(m *mnt) {
		m.file("f", []byte("x"))
		m.stat("f")
		m.ok(os.Link(m.path("f"), m.path("g")), "link")
		a, b := m.stat("f"), m.stat("g")
		if a.Ino != b.Ino || a.Nlink != 2 || b.Nlink != 2 {
			m.Fatalf("inodes %d %d, links %d %d", a.Ino, b.Ino, a.Nlink, b.Nlink)
		}
		m.ok(os.WriteFile(m.path("g"), []byte("longer"), 0o644), "write")
		if st := m.stat("f"); st.Size != 6 {
			m.Fatalf("size %d by the other name", st.Size)
		}
		m.ok(os.Remove(m.path("f")), "unlink")
		if st := m.stat("g"); st.Nlink != 1 {
			m.Fatalf("%d links", st.Nlink)
		}
		m.want(os.Link(m.dir, m.path("d")), "link of a directory", syscall.EPERM)
		m.want(os.Link(m.path("g"), m.path("g")), "link over itself", syscall.EEXIST)
	}},
	{"Symlinks", []Feature{Symlinks}, func(m *mnt) {
		m.file("f", []byte("target"))
		m.ok(os.Symlink("f", m.path("l")), "symlink")
		for range 2 {
			if got, err := os.Readlink(m.path("l")); err != nil || got != "f" {
				m.Fatalf("%q, %v", got, err)
			}
		}
		if st := m.stat("l"); st.Size != 1 || st.Mode&unix.S_IFMT != unix.S_IFLNK {
			m.Fatalf("%+v", st)
		}
		m.ok(os.Remove(m.path("l")), "unlink")
		m.ok(os.Symlink("elsewhere", m.path("l")), "symlink again")
		if got, _ := os.Readlink(m.path("l")); got != "elsewhere" {
			m.Fatalf("%q", got)
		}
		m.ok(os.Symlink("loop", m.path("loop")), "symlink")
		_, err := os.Stat(m.path("loop"))
		m.want(err, "a loop", syscall.ELOOP)
		m.want(os.Symlink(strings.Repeat("x", 4096), m.path("long")), "long target", syscall.ENAMETOOLONG)
	}},
	{"RenameFlags", []Feature{RenameFlags}, func(m *mnt) {
		m.file("a", []byte("a"))
		m.file("b", []byte("b"))
		re := func(from, to string, flags uint) error {
			return unix.Renameat2(unix.AT_FDCWD, m.path(from), unix.AT_FDCWD, m.path(to), flags)
		}
		m.want(re("a", "b", unix.RENAME_NOREPLACE), "noreplace", syscall.EEXIST)
		m.ok(re("a", "b", unix.RENAME_EXCHANGE), "exchange")
		if a, b := m.content("a"), m.content("b"); string(a) != "b" || string(b) != "a" {
			m.Fatalf("%q %q", a, b)
		}
		m.ok(os.Mkdir(m.path("d"), 0o755), "mkdir")
		m.file("d/in", []byte("in"))
		m.ok(re("d", "a", unix.RENAME_EXCHANGE), "exchange of a directory and a file")
		if got := m.content("a/in"); string(got) != "in" {
			m.Fatalf("%q", got)
		}
		if got := m.content("d"); string(got) != "b" {
			m.Fatalf("%q", got)
		}
		m.want(re("a", "none", unix.RENAME_EXCHANGE), "exchange with nothing", syscall.ENOENT)
		m.ok(re("d", "new", unix.RENAME_NOREPLACE), "noreplace to a free name")
	}},
	{"RenameTree", []Feature{RenameDirs}, func(m *mnt) {
		m.ok(os.MkdirAll(m.path("a/b/c"), 0o755), "mkdir")
		m.file("a/b/c/f", []byte("f"))
		fd := m.open("a/b/c/f", unix.O_RDWR, 0)
		m.ok(os.Mkdir(m.path("to"), 0o755), "mkdir")
		m.ok(os.Rename(m.path("a"), m.path("to/a")), "rename")
		m.pwrite(fd, []byte("F"), 0)
		if got := m.content("to/a/b/c/f"); string(got) != "F" {
			m.Fatalf("%q", got)
		}
		if _, err := os.Stat(m.path("a")); !os.IsNotExist(err) {
			m.Fatal(err)
		}
		m.want(unix.Rename(m.path("to"), m.path("to/a/x")), "rename below itself", syscall.EINVAL)
		m.ok(os.Mkdir(m.path("full"), 0o755), "mkdir")
		m.file("full/x", nil)
		m.want(unix.Rename(m.path("to"), m.path("full")), "rename over a full directory", syscall.ENOTEMPTY, syscall.EEXIST)
		m.ok(os.RemoveAll(m.path("to")), "remove all")
		m.pwrite(fd, []byte("G"), 0)
	}},
	{"Tmpfile", []Feature{Tmpfile, HardLinks}, func(m *mnt) {
		fd, err := openRetry(m.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o640)
		m.ok(err, "open with O_TMPFILE")
		defer unix.Close(fd)
		m.pwrite(fd, []byte("quiet"), 0)
		if st := m.fstat(fd); st.Nlink != 0 {
			m.Fatalf("%d links", st.Nlink)
		}
		m.ok(unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, m.path("named"), unix.AT_SYMLINK_FOLLOW), "linkat")
		if got := m.content("named"); string(got) != "quiet" {
			m.Fatalf("%q", got)
		}
		if st := m.stat("named"); st.Nlink != 1 || st.Mode&0o777 != 0o640 {
			m.Fatalf("%d links, mode %o", st.Nlink, st.Mode)
		}
	}},
	{"RemovedDirectory", nil, func(m *mnt) {
		m.ok(os.Mkdir(m.path("d"), 0o755), "mkdir")
		fd, err := unix.Open(m.path("d"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		m.ok(err, "open")
		defer unix.Close(fd)
		m.ok(os.Remove(m.path("d")), "rmdir")
		m.want(unix.Mkdirat(fd, "x", 0o755), "mkdir in a removed directory", syscall.ENOENT)
		_, err = unix.Openat(fd, "x", unix.O_CREAT|unix.O_RDWR, 0o644)
		m.want(err, "create in a removed directory", syscall.ENOENT)
	}},
}

var mountedDirs = []mountedTest{
	{"ReadDir", nil, func(m *mnt) {
		const n = 2500
		want := map[string]bool{}
		for i := range n {
			name := fmt.Sprintf("file-with-a-longer-name-%d", i)
			fd, err := openRetry(m.path(name), unix.O_CREAT|unix.O_WRONLY, 0o644)
			m.ok(err, "create")
			unix.Close(fd)
			want[name] = true
		}
		fd, err := unix.Open(m.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		m.ok(err, "open")
		defer unix.Close(fd)
		for range 3 { // the second and third time perhaps from the cache
			_, err := unix.Seek(fd, 0, unix.SEEK_SET)
			m.ok(err, "rewind")
			all := m.getdents(fd, -1)
			seen := map[string]int{}
			for _, e := range all {
				seen[e.name]++
			}
			if seen["."] != 1 || seen[".."] != 1 || len(seen) != n+2 {
				m.Fatalf("%d names of %d", len(seen), n+2)
			}
			for name := range want {
				if seen[name] != 1 {
					m.Fatalf("%s is given %d times", name, seen[name])
				}
			}
			// telldir and seekdir.
			for _, i := range []int{0, 1, 2, 500, n, n + 1} {
				_, err := unix.Seek(fd, all[i].off, unix.SEEK_SET)
				m.ok(err, "seekdir")
				rest := m.getdents(fd, 3)
				for k := range min(3, len(all)-i-1) {
					if rest[k].name != all[i+1+k].name {
						m.Fatalf("behind entry %d comes %s, want %s", i, rest[k].name, all[i+1+k].name)
					}
				}
			}
		}
		for name := range want {
			m.ok(os.Remove(m.path(name)), "unlink")
		}
		if left, _ := os.ReadDir(m.dir); len(left) != 0 {
			m.Fatalf("%d entries left", len(left))
		}
	}},
	{"ListingFollowsChanges", nil, func(m *mnt) {
		names := func() string {
			l, err := os.ReadDir(m.dir)
			m.ok(err, "readdir")
			var s []string
			for _, e := range l {
				s = append(s, e.Name())
			}
			return strings.Join(s, " ")
		}
		expect := func(want string) {
			m.Helper()
			if got := names(); got != want {
				m.Fatalf("listing %q, want %q", got, want)
			}
		}
		expect("")
		m.file("a", nil)
		expect("a")
		m.ok(os.Mkdir(m.path("b"), 0o755), "mkdir")
		expect("a b")
		m.ok(os.Rename(m.path("a"), m.path("c")), "rename")
		expect("b c")
		m.ok(os.Rename(m.path("c"), m.path("b/c")), "rename")
		expect("b")
		m.ok(os.RemoveAll(m.path("b")), "remove")
		expect("")
	}},
	{"RemoveAll", nil, func(m *mnt) {
		for i := range 15 {
			d := m.path(fmt.Sprintf("d/%d/%d", i%3, i))
			m.ok(os.MkdirAll(d, 0o755), "mkdir")
			for k := range 20 {
				m.ok(os.WriteFile(filepath.Join(d, fmt.Sprint(k)), []byte("x"), 0o644), "write")
			}
		}
		count := 0
		m.ok(filepath.WalkDir(m.path("d"), func(string, os.DirEntry, error) error { count++; return nil }), "walk")
		if count != 1+3+15+300 {
			m.Errorf("%d inodes", count)
		}
		m.ok(os.RemoveAll(m.path("d")), "remove all")
	}},
	{"DirAttributes", nil, func(m *mnt) {
		before := m.stat(".")
		m.ok(os.Mkdir(m.path("d"), 0o755), "mkdir")
		after := m.stat(".")
		if m.has(DirLinkCount) && after.Nlink != before.Nlink+1 {
			m.Errorf("%d links, before %d", after.Nlink, before.Nlink)
		}
		if after.Mtim.Nano() < before.Mtim.Nano() {
			m.Errorf("mtime went back")
		}
		up := m.stat("d/..")
		if up.Ino != after.Ino {
			m.Errorf("parent is %d, not %d", up.Ino, after.Ino)
		}
	}},
}

type dirent struct {
	name string
	off  int64
}

// getdents reads entries from where fd stands: at least n, or all.
func (m *mnt) getdents(fd, n int) (all []dirent) {
	m.Helper()
	buf := make([]byte, 4096)
	for n < 0 || len(all) < n {
		k, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		m.ok(err, "getdents")
		if k == 0 {
			break
		}
		for b := buf[:k]; len(b) > 0; {
			rec := b[:binary.NativeEndian.Uint16(b[16:])]
			name, _, _ := bytes.Cut(rec[19:], []byte{0})
			all = append(all, dirent{string(name), int64(binary.NativeEndian.Uint64(rec[8:]))})
			b = b[len(rec):]
		}
	}
	return all
}
