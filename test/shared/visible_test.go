package shared

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// content reads the whole file through an open descriptor.
func content(t testing.TB, f *os.File) string {
	t.Helper()
	var b bytes.Buffer
	_, err := io.Copy(&b, io.NewSectionReader(f, 0, 1<<40))
	check(t, err)
	return b.String()
}

// TestVisible: what is written on one mount is seen on the others when close or fsync
// has returned, also through files that are open there and that the kernel has cached.
func TestVisible(t *testing.T) {
	onMounts(t, 2, func(t *testing.T, dirs []string) {
		for _, size := range []int{10, 5000, 700_000} {
			t.Run(fmt.Sprint(size), func(t *testing.T) {
				name := fmt.Sprint("f", size)
				a, b := filepath.Join(dirs[0], name), filepath.Join(dirs[1], name)
				check(t, os.WriteFile(a, []byte(strings.Repeat("0", size)), 0o644))
				there, err := os.OpenFile(b, os.O_RDWR, 0)
				check(t, err)
				defer there.Close()
				here, err := os.OpenFile(a, os.O_RDWR, 0)
				check(t, err)
				defer here.Close()
				want := bytes.Repeat([]byte("0"), size)
				for round := range 60 {
					writer, reader, path := here, there, b
					if round%3 == 2 {
						writer, reader, path = there, here, a
					}
					if got := content(t, reader); got != string(want) {
						t.Fatalf("round %d: before the write: %d bytes, want %d; first difference at %d", round, len(got), len(want), differ(got, want))
					}
					off := (round * 7919) % size
					p := []byte(fmt.Sprintf("%d-", round))
					if round%10 == 9 {
						off = len(want) // appends
					}
					if end := off + len(p); end > len(want) {
						want = append(want, make([]byte, end-len(want))...)
					}
					copy(want[off:], p)
					_, err := writer.WriteAt(p, int64(off))
					check(t, err)
					if round%2 == 0 {
						check(t, writer.Sync())
					} else {
						fd, err := unix.Dup(int(writer.Fd()))
						check(t, err)
						check(t, unix.Close(fd)) // a close flushes
					}
					info, err := os.Stat(path)
					check(t, err)
					if info.Size() != int64(len(want)) {
						t.Fatalf("round %d: stat tells %d bytes, want %d", round, info.Size(), len(want))
					}
					if got := content(t, reader); got != string(want) {
						t.Fatalf("round %d: after the write: %d bytes, want %d; first difference at %d", round, len(got), len(want), differ(got, want))
					}
				}
				check(t, here.Truncate(3))
				if got := content(t, there); got != string(want[:3]) {
					t.Fatalf("after a truncation: %d bytes, %q…", len(got), got[:min(len(got), 10)])
				}
			})
		}
	})
}

func differ(a string, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// TestInterval: without fsync or close, data is seen when the flush interval is over.
func TestInterval(t *testing.T) {
	onMounts(t, 2, func(t *testing.T, dirs []string) {
		f, err := os.Create(filepath.Join(dirs[0], "log"))
		check(t, err)
		defer f.Close()
		g, err := os.Open(filepath.Join(dirs[1], "log"))
		check(t, err)
		defer g.Close()
		for i := range 3 {
			_, err = f.WriteString("line\n")
			check(t, err)
			want := strings.Repeat("line\n", i+1)
			for begin := time.Now(); content(t, g) != want; time.Sleep(10 * time.Millisecond) {
				if time.Since(begin) > 20*time.Second {
					t.Fatalf("%q after %v, want %q", content(t, g), time.Since(begin), want)
				}
			}
		}
	})
}

// TestMmap: a file that is mapped anew shows what another mount has written; what
// was stored in a mapping is there for others after msync.
func TestMmap(t *testing.T) {
	onMounts(t, 2, func(t *testing.T, dirs []string) {
		a, b := filepath.Join(dirs[0], "m"), filepath.Join(dirs[1], "m")
		const size = 20_000
		check(t, os.WriteFile(a, bytes.Repeat([]byte("0"), size), 0o644))
		withMap := func(path string, fn func(m []byte)) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			check(t, err)
			defer f.Close()
			m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			check(t, err)
			fn(m)
			check(t, unix.Munmap(m))
		}
		for i := range 20 {
			writer, reader := a, b
			if i%2 == 1 {
				writer, reader = b, a
			}
			want := []byte(fmt.Sprintf("round %d", i))
			at := i * 900
			withMap(reader, func(m []byte) { _ = m[at] }) // in its page cache
			withMap(writer, func(m []byte) {
				copy(m[at:], want)
				check(t, unix.Msync(m, unix.MS_SYNC))
				f, err := os.OpenFile(writer, os.O_RDWR, 0)
				check(t, err)
				check(t, f.Sync())
				check(t, f.Close())
			})
			withMap(reader, func(m []byte) {
				if got := m[at : at+len(want)]; !bytes.Equal(got, want) {
					t.Fatalf("round %d: the mapping shows %q", i, got)
				}
			})
		}
		// Dirty pages are written back before they are dropped: a byte stored here and
		// one written there, in different pages, both stay.
		withMap(a, func(m []byte) {
			m[0] = 'A'
			f, err := os.OpenFile(b, os.O_RDWR, 0)
			check(t, err)
			_, err = f.WriteAt([]byte("B"), 8192)
			check(t, err)
			check(t, f.Close())
			if m[0] != 'A' || m[8192] != 'B' {
				t.Fatalf("the mapping has %q and %q", m[0], m[8192])
			}
			check(t, unix.Msync(m, unix.MS_SYNC))
			f, err = os.OpenFile(a, os.O_RDWR, 0)
			check(t, err)
			check(t, f.Sync())
			check(t, f.Close())
		})
		got, err := os.ReadFile(b)
		check(t, err)
		if got[0] != 'A' || got[8192] != 'B' {
			t.Fatalf("the file has %q and %q", got[0], got[8192])
		}
	})
}

// TestUnlinkedOpen: a file that is open here and removed there stays readable here.
func TestUnlinkedOpen(t *testing.T) {
	onMounts(t, 2, func(t *testing.T, dirs []string) {
		for _, size := range []int{100, 300_000} {
			want := strings.Repeat("x", size)
			a, b := filepath.Join(dirs[0], "u"), filepath.Join(dirs[1], "u")
			check(t, os.WriteFile(a, []byte(want), 0o644))
			f, err := os.OpenFile(a, os.O_RDWR, 0)
			check(t, err)
			check(t, os.Remove(b))
			if _, err := os.Stat(a); !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("the name is still there: %v", err)
			}
			if got := content(t, f); got != want {
				t.Fatalf("%d bytes, want %d", len(got), size)
			}
			_, err = f.WriteAt([]byte("more"), int64(size))
			check(t, err)
			check(t, f.Sync())
			if got := content(t, f); got != want+"more" {
				t.Fatal("what was written after the removal is not there")
			}
			check(t, f.Close())
			// A file that is replaced by a rename while it is open here.
			check(t, os.WriteFile(a, []byte(want), 0o644))
			f, err = os.Open(a)
			check(t, err)
			check(t, os.WriteFile(b+".new", []byte("new"), 0o644))
			check(t, os.Rename(b+".new", b))
			if got := content(t, f); got != want {
				t.Fatal("the replaced file has changed")
			}
			if got, err := os.ReadFile(a); err != nil || string(got) != "new" {
				t.Fatalf("the new file reads %q, %v", got, err)
			}
			check(t, f.Close())
			check(t, os.Remove(a))
		}
	})
}

// TestAttributes: attributes, extended attributes, link counts and listings are seen
// at once.
func TestAttributes(t *testing.T) {
	onMounts(t, 2, func(t *testing.T, dirs []string) {
		a, b := filepath.Join(dirs[0], "f"), filepath.Join(dirs[1], "f")
		check(t, os.WriteFile(a, nil, 0o644))
		stat := func(path string) (st syscall.Stat_t) {
			check(t, syscall.Lstat(path, &st))
			return st
		}
		names := func(dir string) string {
			entries, err := os.ReadDir(dir)
			check(t, err)
			var list []string
			for _, e := range entries {
				list = append(list, e.Name())
			}
			return strings.Join(list, " ")
		}
		for i := range 100 {
			x, y, dir := a, b, dirs[1]
			if i%2 == 1 {
				x, y, dir = b, a, dirs[0]
			}
			stat(y)
			names(dir)
			mode := uint32(0o600 + i%8)
			check(t, os.Chmod(x, os.FileMode(mode)))
			if got := stat(y).Mode & 0o777; got != mode {
				t.Fatalf("round %d: mode %o, want %o", i, got, mode)
			}
			value := fmt.Sprint(i)
			check(t, unix.Setxattr(x, "user.v", []byte(value), 0))
			buf := make([]byte, 10)
			n, err := unix.Getxattr(y, "user.v", buf)
			check(t, err)
			if string(buf[:n]) != value {
				t.Fatalf("round %d: extended attribute %q", i, buf[:n])
			}
			link := fmt.Sprint(x, ".", i)
			check(t, os.Link(x, link))
			if got := stat(y).Nlink; got != 2 {
				t.Fatalf("round %d: %d links", i, got)
			}
			if got, want := names(dir), filepath.Base(link); !strings.Contains(got+" ", want+" ") {
				t.Fatalf("round %d: the listing %q lacks %s", i, got, want)
			}
			check(t, os.Remove(link))
			if got := names(dir); got != "f" {
				t.Fatalf("round %d: listing %q", i, got)
			}
			if got := stat(y).Nlink; got != 1 {
				t.Fatalf("round %d: %d links", i, got)
			}
		}
	})
}
