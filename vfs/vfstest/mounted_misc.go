package vfstest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var mountedMemory = []mountedTest{
	{"MmapShared", []Feature{MmapShared}, func(m *mnt) {
		fd := m.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		want := pattern(100_000, 41)
		m.pwrite(fd, want, 0)
		mem, err := unix.Mmap(fd, 0, len(want), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		m.ok(err, "mmap")
		if !bytes.Equal(mem, want) {
			m.Fatal("the mapping differs from what was written")
		}
		copy(mem[50_000:], "through the mapping")
		copy(want[50_000:], "through the mapping")
		if !bytes.Equal(m.pread(fd, 0, 100_000), want) {
			m.Fatal("a read misses what the mapping got")
		}
		m.pwrite(fd, []byte("through the descriptor"), 10)
		copy(want[10:], "through the descriptor")
		if !bytes.Equal(mem, want) {
			m.Fatal("the mapping misses a write")
		}
		m.ok(unix.Msync(mem, unix.MS_SYNC), "msync")
		other := m.open("f", unix.O_RDONLY, 0)
		mem2, err := unix.Mmap(other, 0, len(want), unix.PROT_READ, unix.MAP_SHARED)
		m.ok(err, "second mmap")
		mem[99_999] = '!'
		want[99_999] = '!'
		if mem2[99_999] != '!' {
			m.Fatal("two mappings differ")
		}
		m.ok(unix.Munmap(mem2), "munmap")
		m.ok(os.Remove(m.path("f")), "unlink")
		mem[0] = '?'
		want[0] = '?'
		if m.has(UnlinkedOpen) && !bytes.Equal(m.pread(fd, 0, 100_000), want) {
			m.Fatal("data differ after unlink")
		}
		m.ok(unix.Munmap(mem), "munmap")
	}},
	{"MmapAfterClose", []Feature{MmapShared}, func(m *mnt) {
		m.file("f", make([]byte, 20_000))
		fd, err := openRetry(m.path("f"), unix.O_RDWR|unix.O_CLOEXEC, 0)
		m.ok(err, "open")
		mem, err := unix.Mmap(fd, 0, 20_000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		m.ok(err, "mmap")
		m.ok(unix.Close(fd), "close")
		want := pattern(20_000, 42)
		copy(mem, want)
		m.ok(unix.Munmap(mem), "munmap")
		if !bytes.Equal(m.content("f"), want) {
			m.Fatal("data differ")
		}
	}},
	{"MmapPrivate", nil, func(m *mnt) {
		want := pattern(10_000, 43)
		m.file("f", want)
		fd := m.open("f", unix.O_RDONLY, 0)
		mem, err := unix.Mmap(fd, 0, len(want), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		m.ok(err, "mmap")
		mem[0]++
		m.ok(unix.Munmap(mem), "munmap")
		if !bytes.Equal(m.content("f"), want) {
			m.Fatal("a private mapping changed the file")
		}
	}},
	{"Exec", nil, func(m *mnt) {
		bin, err := exec.LookPath("true")
		m.ok(err, "find true")
		data, err := os.ReadFile(bin)
		m.ok(err, "read")
		m.ok(os.WriteFile(m.path("true"), data, 0o755), "write")
		for range 100 {
			err = exec.Command(m.path("true")).Run()
			if !errors.Is(err, syscall.ETXTBSY) { // a fork elsewhere may hold the descriptor
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if errors.Is(err, syscall.EACCES) {
			m.Skip("the mount is noexec")
		}
		m.ok(err, "run")
	}},
}

var mountedMisc = []mountedTest{
	{"StatFS", nil, func(m *mnt) {
		var st unix.Statfs_t
		m.ok(unix.Statfs(m.dir, &st), "statfs")
		if st.Bsize == 0 || st.Namelen != 255 || m.has(StatFSSpace) && (st.Blocks == 0 || st.Bfree > st.Blocks) {
			m.Errorf("%+v", st)
		}
	}},
	{"Statx", nil, func(m *mnt) {
		m.file("f", []byte("x"))
		var st unix.Statx_t
		m.ok(unix.Statx(unix.AT_FDCWD, m.path("f"), 0, unix.STATX_ALL, &st), "statx")
		if st.Size != 1 || st.Mask&unix.STATX_BASIC_STATS != unix.STATX_BASIC_STATS {
			m.Errorf("%+v", st)
		}
		if st.Mask&unix.STATX_BTIME != 0 {
			if age := time.Since(time.Unix(st.Btime.Sec, 0)); age > time.Hour || age < -time.Minute {
				m.Errorf("made %v ago", age)
			}
		}
	}},
	{"Nodes", []Feature{Devices}, func(m *mnt) {
		m.ok(unix.Mkfifo(m.path("fifo"), 0o600), "mkfifo")
		got := make(chan string, 1)
		go func() {
			f, err := os.OpenFile(m.path("fifo"), os.O_RDONLY, 0)
			if err != nil {
				got <- err.Error()
				return
			}
			defer f.Close()
			b, _ := io.ReadAll(f)
			got <- string(b)
		}()
		w, err := os.OpenFile(m.path("fifo"), os.O_WRONLY, 0)
		m.ok(err, "open of the fifo")
		w.WriteString("through the fifo")
		w.Close()
		if s := <-got; s != "through the fifo" {
			m.Errorf("%q", s)
		}
		if len(m.path("sock")) < 100 {
			l, err := net.Listen("unix", m.path("sock"))
			m.ok(err, "bind")
			c, err := net.Dial("unix", m.path("sock"))
			m.ok(err, "connect")
			c.Close()
			l.Close()
		}
		if os.Geteuid() == 0 {
			m.ok(unix.Mknod(m.path("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), "mknod")
			st := m.stat("null")
			if st.Mode&unix.S_IFMT != unix.S_IFCHR || unix.Major(st.Rdev) != 1 || unix.Minor(st.Rdev) != 3 {
				m.Errorf("%+v", st)
			}
			m.ok(unix.Mknod(m.path("big"), unix.S_IFBLK|0o600, int(unix.Mkdev(0xabc, 0x54321))), "mknod")
			if st := m.stat("big"); unix.Major(st.Rdev) != 0xabc || unix.Minor(st.Rdev) != 0x54321 {
				m.Errorf("device %x:%x", unix.Major(st.Rdev), unix.Minor(st.Rdev))
			}
		}
	}},
	{"Locks", []Feature{Locks}, func(m *mnt) {
		m.file("f", []byte("x"))
		a, b := m.open("f", unix.O_RDWR, 0), m.open("f", unix.O_RDWR, 0)
		m.ok(unix.Flock(a, unix.LOCK_EX|unix.LOCK_NB), "flock")
		m.want(unix.Flock(b, unix.LOCK_EX|unix.LOCK_NB), "second flock", syscall.EWOULDBLOCK)
		m.ok(unix.Flock(a, unix.LOCK_SH|unix.LOCK_NB), "downgrade")
		m.ok(unix.Flock(b, unix.LOCK_SH|unix.LOCK_NB), "shared flock")
		m.ok(unix.Flock(a, unix.LOCK_UN), "unlock")
		m.ok(unix.Flock(b, unix.LOCK_EX|unix.LOCK_NB), "upgrade")
		// Locks of the open file, which one process can try.
		lock := func(fd int, typ int16, start, length int64) error {
			return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: typ, Start: start, Len: length})
		}
		m.ok(lock(a, unix.F_WRLCK, 10, 10), "lock")
		m.want(lock(b, unix.F_WRLCK, 15, 1), "conflicting lock", syscall.EAGAIN)
		m.ok(lock(b, unix.F_WRLCK, 20, 0), "lock beside it")
		q := unix.Flock_t{Type: unix.F_WRLCK, Start: 0, Len: 12}
		m.ok(unix.FcntlFlock(uintptr(b), unix.F_OFD_GETLK, &q), "getlk")
		if q.Type != unix.F_WRLCK || q.Start != 10 || q.Len != 10 {
			m.Errorf("%+v", q)
		}
		unix.Close(a)
		m.ok(lock(b, unix.F_WRLCK, 15, 1), "lock after the holder's close")
	}},
	{"Xattr", []Feature{Xattrs}, func(m *mnt) {
		m.file("f", nil)
		p := m.path("f")
		value := pattern(1000, 44)
		m.ok(unix.Setxattr(p, "user.a", value, 0), "setxattr")
		m.ok(unix.Setxattr(p, "user.empty", nil, 0), "setxattr")
		buf := make([]byte, 2000)
		n, err := unix.Getxattr(p, "user.a", buf)
		m.ok(err, "getxattr")
		if !bytes.Equal(buf[:n], value) {
			m.Error("value differs")
		}
		if n, err = unix.Getxattr(p, "user.a", nil); err != nil || n != 1000 {
			m.Errorf("size %d, %v", n, err)
		}
		if n, err = unix.Getxattr(p, "user.empty", buf); err != nil || n != 0 {
			m.Errorf("empty value: %d, %v", n, err)
		}
		_, err = unix.Getxattr(p, "user.a", buf[:999])
		m.want(err, "getxattr with little room", syscall.ERANGE)
		_, err = unix.Getxattr(p, "user.none", buf)
		m.want(err, "getxattr of nothing", syscall.ENODATA)
		n, err = unix.Listxattr(p, buf)
		m.ok(err, "listxattr")
		list := "\x00" + string(buf[:n])
		for _, name := range []string{"user.a", "user.empty"} {
			if !strings.Contains(list, "\x00"+name+"\x00") {
				m.Errorf("%s is not in the list %q", name, list)
			}
		}
		size, err := unix.Listxattr(p, nil)
		if err != nil || size != n {
			m.Errorf("size of the list %d, %v", size, err)
		}
		_, err = unix.Listxattr(p, buf[:n-1])
		m.want(err, "listxattr with little room", syscall.ERANGE)
		m.want(unix.Setxattr(p, "user.a", nil, unix.XATTR_CREATE), "create of what is there", syscall.EEXIST)
		m.want(unix.Setxattr(p, "user.b", nil, unix.XATTR_REPLACE), "replace of nothing", syscall.ENODATA)
		m.ok(unix.Removexattr(p, "user.a"), "removexattr")
		m.want(unix.Removexattr(p, "user.a"), "removexattr of nothing", syscall.ENODATA)
	}},
	{"ManyOpen", nil, func(m *mnt) {
		var fds []int
		for i := range 300 {
			fd := m.open(fmt.Sprint(i), unix.O_CREAT|unix.O_RDWR, 0o644)
			m.pwrite(fd, []byte{byte(i)}, int64(i))
			fds = append(fds, fd)
		}
		for i, fd := range fds {
			if got := m.pread(fd, int64(i), 2); len(got) != 1 || got[0] != byte(i) {
				m.Fatalf("file %d: %v", i, got)
			}
		}
	}},
	{"Inotify", nil, func(m *mnt) {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		m.ok(err, "inotify")
		defer unix.Close(fd)
		_, err = unix.InotifyAddWatch(fd, m.dir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVED_TO)
		m.ok(err, "watch")
		m.file("f", nil)
		m.ok(os.Rename(m.path("f"), m.path("g")), "rename")
		m.ok(os.Remove(m.path("g")), "unlink")
		buf := make([]byte, 4096)
		n, err := unix.Read(fd, buf)
		m.ok(err, "events")
		if n == 0 {
			m.Error("no events")
		}
	}},
}
