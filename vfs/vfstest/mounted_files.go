package vfstest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func ptr[T any](p *T) unsafe.Pointer { return unsafe.Pointer(p) }

var mountedFiles = []mountedTest{
	{"OpenFlags", nil, func(m *mnt) {
		m.file("f", []byte("content"))
		_, err := openRetry(m.path("f"), unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o644)
		m.want(err, "O_EXCL of what is there", syscall.EEXIST)
		_, err = openRetry(m.path("none"), unix.O_RDWR, 0)
		m.want(err, "open of nothing", syscall.ENOENT)
		_, err = openRetry(m.path("f"), unix.O_DIRECTORY, 0)
		m.want(err, "O_DIRECTORY of a file", syscall.ENOTDIR)
		_, err = openRetry(m.dir, unix.O_RDWR, 0)
		m.want(err, "open of a directory for writing", syscall.EISDIR)
		fd := m.open("f", unix.O_RDONLY, 0)
		_, err = unix.Write(fd, []byte("x"))
		m.want(err, "write to a read-only descriptor", syscall.EBADF)
		fd = m.open("f", unix.O_RDWR|unix.O_TRUNC, 0)
		if st := m.fstat(fd); st.Size != 0 {
			m.Fatalf("size %d after O_TRUNC", st.Size)
		}
		m.pwrite(fd, []byte("new"), 0)
		if got := m.content("f"); string(got) != "new" {
			m.Fatalf("%q", got)
		}
		// O_CREAT with a mode that forbids what the open asks for.
		fd = m.open("ro", unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o400)
		m.pwrite(fd, []byte("written once"), 0)
		if got := m.content("ro"); string(got) != "written once" {
			m.Fatalf("%q", got)
		}
		fd = m.open("t", unix.O_CREAT|unix.O_TRUNC|unix.O_WRONLY, 0o644)
		m.pwrite(fd, []byte("t"), 0)
		if m.has(Symlinks) {
			m.ok(os.Symlink("f", m.path("l")), "symlink")
			_, err = openRetry(m.path("l"), unix.O_NOFOLLOW, 0)
			m.want(err, "O_NOFOLLOW of a link", syscall.ELOOP)
			if got := m.content("l"); string(got) != "new" {
				m.Fatalf("through a link: %q", got)
			}
		}
	}},
	{"SeveralDescriptors", nil, func(m *mnt) {
		a := m.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		b := m.open("f", unix.O_RDWR, 0)
		m.pwrite(a, []byte("hello"), 0)
		if got := m.pread(b, 0, 10); string(got) != "hello" {
			m.Fatalf("%q", got)
		}
		if st := m.stat("f"); st.Size != 5 {
			m.Fatalf("size %d", st.Size)
		}
		m.pwrite(b, []byte("J"), 0)
		if got := m.pread(a, 0, 10); string(got) != "Jello" {
			m.Fatalf("%q", got)
		}
		m.ok(unix.Ftruncate(b, 2), "ftruncate")
		if got := m.pread(a, 0, 10); string(got) != "Je" {
			m.Fatalf("%q", got)
		}
		m.ok(unix.Ftruncate(a, 4), "ftruncate")
		if got := m.pread(b, 0, 10); string(got) != "Je\x00\x00" {
			m.Fatalf("%q", got)
		}
	}},
	{"Append", []Feature{Append}, func(m *mnt) {
		m.file("f", nil)
		var wg sync.WaitGroup
		const writers, each = 4, 100
		for w := range writers {
			fd := m.open("f", unix.O_WRONLY|unix.O_APPEND, 0)
			wg.Go(func() {
				rec := bytes.Repeat([]byte{byte('A' + w)}, 64)
				for i := 0; i < each; i++ {
					if n, err := unix.Write(fd, rec); err == unix.EINTR {
						i--
					} else if err != nil || n != len(rec) {
						m.Errorf("append: %d, %v", n, err)
						return
					}
				}
			})
		}
		wg.Wait()
		got := m.content("f")
		if len(got) != writers*each*64 {
			m.Fatalf("%d bytes, want %d", len(got), writers*each*64)
		}
		for off := 0; off < len(got); off += 64 {
			if !bytes.Equal(got[off:off+64], bytes.Repeat(got[off:off+1], 64)) {
				m.Fatalf("record at %d is mixed", off)
			}
		}
	}},
	{"UnlinkedOpen", []Feature{UnlinkedOpen}, func(m *mnt) {
		fd := m.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		data := pattern(100_000, 31)
		m.pwrite(fd, data, 0)
		m.ok(os.Remove(m.path("f")), "unlink")
		if st := m.fstat(fd); st.Nlink != 0 || st.Size != 100_000 {
			m.Fatalf("%d links, size %d", st.Nlink, st.Size)
		}
		m.ok(unix.Ftruncate(fd, 150_000), "ftruncate")
		m.pwrite(fd, []byte("end"), 149_997)
		want := append(append(data, make([]byte, 49_997)...), "end"...)
		if !bytes.Equal(m.pread(fd, 0, 200_000), want) {
			m.Fatal("data differ")
		}
		m.ok(unix.Fchmod(fd, 0o600), "fchmod")
		m.ok(unix.Fsync(fd), "fsync")
		if st := m.fstat(fd); st.Mode&0o777 != 0o600 || st.Size != 150_000 {
			m.Fatalf("mode %o, size %d", st.Mode, st.Size)
		}
		m.file("f", []byte("another"))
		if !bytes.Equal(m.pread(fd, 0, 200_000), want) {
			m.Fatal("data differ after the name was used again")
		}
		dup, err := openRetry(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		m.ok(err, "open of an unlinked file through /proc")
		if !bytes.Equal(m.pread(dup, 0, 200_000), want) {
			m.Fatal("data differ in a second open")
		}
		unix.Close(dup)
	}},
	{"RenamedOpen", nil, func(m *mnt) {
		fd := m.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		m.pwrite(fd, []byte("first "), 0)
		m.ok(os.Rename(m.path("f"), m.path("g")), "rename")
		m.pwrite(fd, []byte("second"), 6)
		if got := m.content("g"); string(got) != "first second" {
			m.Fatalf("%q", got)
		}
		m.file("h", []byte("replaces"))
		m.ok(os.Rename(m.path("h"), m.path("g")), "rename over an open file")
		if m.has(UnlinkedOpen) {
			if got := m.pread(fd, 0, 20); string(got) != "first second" {
				m.Fatalf("%q", got)
			}
			if st := m.fstat(fd); st.Nlink != 0 {
				m.Fatalf("%d links", st.Nlink)
			}
		}
		if got := m.content("g"); string(got) != "replaces" {
			m.Fatalf("%q", got)
		}
	}},
	{"Truncate", []Feature{Truncate}, func(m *mnt) {
		m.file("f", pattern(100_000, 32))
		want := pattern(100_000, 32)
		for _, size := range []int{70_000, 70_001, 4096, 4095, 90_000, 0, 10} {
			m.ok(os.Truncate(m.path("f"), int64(size)), "truncate")
			want = append(want[:min(size, len(want))], make([]byte, max(0, size-len(want)))...)
			if got := m.content("f"); !bytes.Equal(got, want) {
				m.Fatalf("data differ after truncation to %d", size)
			}
		}
		m.want(unix.Truncate(m.path("f"), -1), "truncate to -1", syscall.EINVAL)
		m.want(unix.Truncate(m.dir, 0), "truncate of a directory", syscall.EISDIR)
	}},
	{"Fallocate", []Feature{Allocate, PunchHole}, func(m *mnt) {
		fd := m.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		want := pattern(200_000, 33)
		m.pwrite(fd, want, 0)
		m.ok(unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 5000, 60_000), "punch")
		clear(want[5000:65_000])
		if !bytes.Equal(m.pread(fd, 0, 300_000), want) {
			m.Fatal("data differ after punch")
		}
		if m.has(ZeroRange) {
			m.ok(unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 190_000, 20_000), "zero")
			want = append(want[:190_000], make([]byte, 20_000)...)
			if !bytes.Equal(m.pread(fd, 0, 300_000), want) {
				m.Fatal("data differ after zero")
			}
		}
		m.ok(unix.Fallocate(fd, 0, 0, 250_000), "allocate")
		if st := m.fstat(fd); st.Size != 250_000 {
			m.Fatalf("size %d", st.Size)
		}
		m.ok(unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, 500_000), "allocate, keep size")
		if st := m.fstat(fd); st.Size != 250_000 {
			m.Fatalf("size %d", st.Size)
		}
	}},
	{"Seek", nil, func(m *mnt) {
		// Also of data that may still be in the page cache only.
		fd := m.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		m.pwrite(fd, pattern(1<<20, 34), 4<<20)
		m.ok(unix.Ftruncate(fd, 16<<20), "ftruncate")
		for round := range 2 {
			pos, err := unix.Seek(fd, 0, unix.SEEK_DATA)
			m.ok(err, "SEEK_DATA")
			if pos > 4<<20 || m.has(SeekHoles) && round == 1 && pos < 3<<20 {
				m.Errorf("round %d: data at %d", round, pos)
			}
			pos, err = unix.Seek(fd, 4<<20, unix.SEEK_HOLE)
			m.ok(err, "SEEK_HOLE")
			if pos < 5<<20 {
				m.Errorf("round %d: hole at %d, where data are", round, pos)
			}
			_, err = unix.Seek(fd, 16<<20, unix.SEEK_DATA)
			m.want(err, "SEEK_DATA at the end", syscall.ENXIO)
			m.ok(unix.Fsync(fd), "fsync")
		}
		m.pwrite(fd, []byte("late"), 12<<20)
		pos, err := unix.Seek(fd, 11<<20, unix.SEEK_DATA)
		m.ok(err, "SEEK_DATA")
		if pos > 12<<20 {
			m.Errorf("data just written are not found: %d", pos)
		}
	}},
	{"CopyFileRange", nil, func(m *mnt) {
		src, dst := m.open("src", unix.O_CREAT|unix.O_RDWR, 0o644), m.open("dst", unix.O_CREAT|unix.O_RDWR, 0o644)
		data := pattern(300_000, 35)
		m.pwrite(src, data, 0)
		in, out := int64(1000), int64(5000)
		left := 250_000
		for left > 0 {
			n, err := unix.CopyFileRange(src, &in, dst, &out, left, 0)
			if err == unix.EINTR {
				continue
			}
			m.ok(err, "copy_file_range")
			if n == 0 {
				m.Fatal("copy_file_range stops")
			}
			left -= n
		}
		want := append(make([]byte, 5000), data[1000:251_000]...)
		if !bytes.Equal(m.content("dst"), want) {
			m.Fatal("data differ")
		}
		m.pwrite(src, make([]byte, 300_000), 0)
		if !bytes.Equal(m.content("dst"), want) {
			m.Fatal("the copy changed with its source")
		}
	}},
	{"Sync", nil, func(m *mnt) {
		fd := m.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		m.pwrite(fd, []byte("data"), 0)
		m.ok(unix.Fdatasync(fd), "fdatasync")
		m.ok(unix.Fsync(fd), "fsync")
		m.ok(unix.Syncfs(fd), "syncfs")
		d, err := os.Open(m.dir)
		m.ok(err, "open")
		defer d.Close()
		m.ok(d.Sync(), "fsync of a directory")
		sfd := m.open("s", unix.O_CREAT|unix.O_WRONLY|unix.O_SYNC, 0o644)
		m.pwrite(sfd, []byte("at once"), 0)
		if got := m.content("s"); string(got) != "at once" {
			m.Fatalf("%q", got)
		}
	}},
	{"DirectIO", []Feature{DirectIO}, func(m *mnt) {
		fd, err := openRetry(m.path("f"), unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0o644)
		if err == unix.EINVAL {
			m.Skip("open with O_DIRECT: EINVAL")
		}
		m.ok(err, "open with O_DIRECT")
		defer unix.Close(fd)
		const size = 1 << 20
		buf, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		m.ok(err, "mmap")
		defer unix.Munmap(buf)
		copy(buf, pattern(size, 36))
		m.pwrite(fd, buf, 0)
		m.pwrite(fd, buf[:8192], size)
		cached := m.open("f", unix.O_RDWR, 0)
		if got := m.pread(cached, 0, size); !bytes.Equal(got, buf) {
			m.Fatal("what was written directly reads differently through the cache")
		}
		m.pwrite(cached, []byte("through the cache"), 100)
		got, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		m.ok(err, "mmap")
		defer unix.Munmap(got)
		n, err := unix.Pread(fd, got, 0)
		m.ok(err, "direct read")
		copy(buf[100:], "through the cache")
		if n != size || !bytes.Equal(got, buf) {
			m.Fatalf("%d bytes read directly differ from what was written through the cache", n)
		}
	}},
	{"Times", nil, func(m *mnt) {
		m.file("f", []byte("x"))
		ts := []unix.Timespec{{Sec: 1_000_000_000, Nsec: 123_456_789}, {Sec: 1_200_000_000, Nsec: 987_654_321}}
		if !m.has(NanoTimes) {
			ts[0].Nsec, ts[1].Nsec = 0, 0
		}
		m.ok(unix.UtimesNanoAt(unix.AT_FDCWD, m.path("f"), ts, 0), "utimensat")
		if st := m.stat("f"); st.Atim != ts[0] || st.Mtim != ts[1] {
			m.Errorf("times %v %v", st.Atim, st.Mtim)
		}
		m.ok(unix.UtimesNanoAt(unix.AT_FDCWD, m.path("f"), []unix.Timespec{{Nsec: unix.UTIME_OMIT}, ts[0]}, 0), "utimensat")
		if st := m.stat("f"); st.Atim != ts[0] || st.Mtim != ts[0] {
			m.Errorf("times %v %v", st.Atim, st.Mtim)
		}
		// A write moves mtime to now, and neither close nor fsync moves it back.
		before := time.Now().Add(-time.Second).UnixNano()
		fd := m.open("f", unix.O_RDWR, 0)
		m.pwrite(fd, []byte("y"), 0)
		last := m.fstat(fd).Mtim
		if last.Nano() < before {
			m.Errorf("mtime %v after a write", last)
		}
		later := func(what string) {
			m.Helper()
			if now := m.stat("f").Mtim; now.Nano() < last.Nano() {
				m.Errorf("after %s mtime went back from %v to %v", what, last, now)
			} else {
				last = now
			}
		}
		m.ok(unix.Fsync(fd), "fsync")
		later("fsync")
		m.pwrite(fd, []byte("z"), 0)
		later("a write")
		unix.Close(fd)
		later("close")
		// What utimensat has set stays over later flushes.
		fd = m.open("f", unix.O_RDWR, 0)
		m.pwrite(fd, []byte("w"), 0)
		m.ok(unix.UtimesNanoAt(unix.AT_FDCWD, m.path("f"), ts, 0), "utimensat")
		unix.Close(fd)
		if st := m.stat("f"); st.Mtim != ts[1] {
			m.Errorf("mtime %v after utimensat and close, want %v", st.Mtim, ts[1])
		}
	}},
	{"Model", []Feature{RandomWrites, Truncate}, func(m *mnt) {
		r := rng(m)
		m.model(r, 2<<20, rounds(600))
	}},
	{"ParallelWriters", []Feature{RandomWrites}, func(m *mnt) {
		const writers, piece, each = 6, 5003, 40
		want := pattern(writers*piece*each, 37)
		m.file("f", nil)
		var wg sync.WaitGroup
		for w := range writers {
			fd := m.open("f", unix.O_WRONLY, 0)
			wg.Go(func() {
				for k := range each {
					off := (k*writers + w) * piece
					p := want[off : off+piece]
					for len(p) > 0 {
						n, err := unix.Pwrite(fd, p, int64(off))
						if err == unix.EINTR {
							continue
						}
						if err != nil {
							m.Errorf("pwrite: %v", err)
							return
						}
						p, off = p[n:], off+n
					}
				}
			})
		}
		wg.Wait()
		if !bytes.Equal(m.content("f"), want) {
			m.Fatal("data differ")
		}
	}},
}

// model does to a file, through descriptors and mappings, what a byte slice tells.
func (m *mnt) model(r *rand.Rand, limit, steps int) {
	m.Helper()
	fds := []int{m.open("f", unix.O_CREAT|unix.O_RDWR, 0o644), m.open("f", unix.O_RDWR, 0)}
	var want []byte
	grow := func(n int) {
		if n > len(want) {
			want = append(want, make([]byte, n-len(want))...)
		}
	}
	for step := range steps {
		fd := fds[r.IntN(len(fds))]
		off := r.IntN(limit)
		n := 1 + r.IntN(min(limit-off, 70_000))
		what := "pwrite"
		switch op := r.IntN(16); {
		case op < 6:
			p := pattern(n, byte(r.Uint32()))
			m.pwrite(fd, p, int64(off))
			grow(off + n)
			copy(want[off:], p)
		case op < 8:
			what = "ftruncate"
			m.ok(unix.Ftruncate(fd, int64(off)), what)
			grow(off)
			want = want[:off]
		case op < 9 && m.has(PunchHole):
			what = "punch hole"
			m.ok(unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n)), what)
			if off < len(want) {
				clear(want[off:min(off+n, len(want))])
			}
		case op < 10 && m.has(ZeroRange):
			what = "zero range"
			m.ok(unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, int64(off), int64(n)), what)
			grow(off + n)
			clear(want[off : off+n])
		case op < 12 && m.has(MmapShared) && len(want) > 0:
			what = "mmap write"
			start := r.IntN(len(want))
			k := min(n, len(want)-start)
			p := pattern(k, byte(r.Uint32()))
			mem, err := unix.Mmap(fd, 0, len(want), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			m.ok(err, what)
			copy(mem[start:], p)
			if r.IntN(2) == 0 {
				m.ok(unix.Msync(mem, unix.MS_SYNC), "msync")
			}
			m.ok(unix.Munmap(mem), "munmap")
			copy(want[start:], p)
		case op < 13:
			what = "fsync"
			m.ok(unix.Fsync(fd), what)
		case op < 14 && len(want) > 0:
			what = "copy_file_range"
			from, to := int64(r.IntN(len(want))), int64(r.IntN(limit))
			k := min(n, len(want)-int(from), limit-int(to))
			if k < 1 || from < to+int64(k) && to < from+int64(k) {
				break
			}
			i, o := from, to
			got, err := unix.CopyFileRange(fd, &i, fds[0], &o, k, 0)
			if err != unix.EINTR {
				m.ok(err, what)
				grow(int(to) + got)
				copy(want[to:int(to)+got], want[from:])
			}
		default:
			what = "reopen"
			i := r.IntN(len(fds))
			m.ok(unix.Close(fds[i]), "close")
			var err error
			fds[i], err = openRetry(m.path("f"), unix.O_RDWR|unix.O_CLOEXEC, 0)
			m.ok(err, "open")
		}
		if st := m.fstat(fds[r.IntN(len(fds))]); st.Size != int64(len(want)) {
			m.Fatalf("step %d, after %s: size %d, want %d", step, what, st.Size, len(want))
		}
		if got, exp := m.pread(fds[r.IntN(len(fds))], int64(off), n), want[min(off, len(want)):min(off+n, len(want))]; !bytes.Equal(got, exp) {
			m.Fatalf("step %d, after %s: %d bytes at %d differ", step, what, n, off)
		}
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	if !bytes.Equal(m.content("f"), want) {
		m.Fatal("data differ at the end")
	}
}
