package flist

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// makeTree makes a tree with all kinds of things in it. Devices and owners are for root.
func makeTree(t testing.TB, dir string) {
	t.Helper()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"a", "a/b", "a/b/c", "empty", "sticky", "many"} {
		ok(os.Mkdir(p(d), 0o755))
	}
	ok(unix.Chmod(p("sticky"), 0o1777))
	for name, data := range map[string][]byte{
		"small": []byte("content"), "nothing": nil, "a/exact": randomBytes(1, BlockSize), "a/over": randomBytes(2, BlockSize+1),
		"a/b/big": randomBytes(3, 3*BlockSize+12345), "a/b/zeros": make([]byte, 2*BlockSize), "a/b/c/\xff\xfe": []byte("no UTF-8"),
	} {
		ok(os.WriteFile(p(name), data, 0o640))
	}
	for i := range 300 {
		ok(os.WriteFile(p(fmt.Sprintf("many/%03d", i)), []byte{byte(i)}, 0o600))
	}
	ok(unix.Chmod(p("small"), 0o4755))
	ok(os.Symlink("a/b/big", p("link")))
	ok(os.Symlink("/nowhere/"+strings.Repeat("x", 3000), p("long")))
	ok(os.Link(p("small"), p("a/again")))
	ok(os.Link(p("small"), p("a/b/once-more")))
	ok(unix.Mkfifo(p("fifo"), 0o600))
	ok(unix.Setxattr(p("a/exact"), "user.colour", []byte("green"), 0))
	ok(unix.Setxattr(p("a"), "user.empty", nil, 0))
	if os.Geteuid() == 0 {
		ok(unix.Mknod(p("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(8, 300))))
		ok(unix.Mknod(p("tty"), unix.S_IFCHR|0o620, int(unix.Mkdev(5, 1))))
		ok(unix.Mknod(p("sock"), unix.S_IFSOCK|0o700, 0))
		ok(unix.Lchown(p("a/b/big"), 1234, 70000))
		ok(unix.Lchown(p("link"), 11, 22))
	}
	ts := []unix.Timespec{{Sec: 100, Nsec: 5}, {Sec: 1234567890, Nsec: 123456789}}
	ok(unix.UtimesNanoAt(unix.AT_FDCWD, p("small"), ts, 0))
	ok(unix.UtimesNanoAt(unix.AT_FDCWD, p("a/b"), ts, 0))
	ok(unix.UtimesNanoAt(unix.AT_FDCWD, p("link"), ts, unix.AT_SYMLINK_NOFOLLOW))
}

// describe lists a tree: all that version 2 keeps, or with v1 what that keeps.
func describe(t testing.TB, dir string, v Version) string {
	t.Helper()
	first := map[uint64]string{}
	var lines []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		line := fmt.Sprintf("%q mode=%o owner=%d:%d", name, st.Mode, st.Uid, st.Gid)
		if v == V1 {
			line += fmt.Sprintf(" mtime=%d", st.Mtim.Sec)
		} else {
			line += fmt.Sprintf(" mtime=%d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
			if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
				if first[st.Ino] == "" {
					first[st.Ino] = name
				}
				line += " link=" + first[st.Ino]
			}
			x, err := readXattrs(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" xattrs=%q", x)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" size=%d %x", len(data), V2.hash(data))
		case unix.S_IFLNK:
			target, _ := os.Readlink(path)
			line += " -> " + target
		case unix.S_IFBLK, unix.S_IFCHR:
			line += fmt.Sprintf(" dev=%#x", st.Rdev)
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// packTree packs a directory with its blocks in a directory and returns the image.
func packTree(t testing.TB, v Version, dir string) (image, store string) {
	t.Helper()
	image, store = filepath.Join(t.TempDir(), "image"), t.TempDir()
	w, err := Create(v, image)
	if err != nil {
		t.Fatal(err)
	}
	routes := Routes{Everything("dir://" + store)}
	r, err := NewRouter(t.Context(), v, routes)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := Pack(t.Context(), dir, w, PackOptions{Put: r.Put, Workers: 3}); err != nil {
		t.Fatal(errors.Join(err, w.Abort()))
	}
	for _, err := range []error{w.SetRoutes(routes), w.SetTag("author", "somebody"), w.Finish()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	left, err := os.ReadDir(filepath.Dir(image))
	if err != nil || len(left) != 1 {
		t.Fatalf("beside the image: %v, %v", left, err)
	}
	return image, store
}

func openImage(t testing.TB, file string) (Image, *Router) {
	t.Helper()
	im, err := Open(t.Context(), file, OpenOptions{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { im.Close() })
	routes, err := im.Routes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewRouter(t.Context(), im.Version(), routes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return im, r
}

func TestPackUnpack(t *testing.T) {
	source := t.TempDir()
	makeTree(t, source)
	for _, v := range []Version{V1, V2} {
		t.Run(fmt.Sprint("v", v), func(t *testing.T) {
			file, _ := packTree(t, v, source)
			im, r := openImage(t, file)
			if tags, err := im.Tags(t.Context()); err != nil || tags["author"] != "somebody" {
				t.Fatalf("%v, %v", tags, err)
			}
			out := t.TempDir()
			if _, err := Unpack(t.Context(), im, r, out, UnpackOptions{Owners: os.Geteuid() == 0}); err != nil {
				t.Fatal(err)
			}
			want, got := describe(t, source, v), describe(t, out, v)
			if want != got {
				w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
				for i := range min(len(w), len(g)) {
					if w[i] != g[i] {
						t.Errorf("was %s\n is %s", w[i], g[i])
					}
				}
				t.Fatalf("%d entries became %d", len(w), len(g))
			}
			if _, err := Unpack(t.Context(), im, r, out, UnpackOptions{}); !errors.Is(err, syscall.ENOTEMPTY) {
				t.Fatalf("into a directory that is not empty: %v", err)
			}
		})
	}
}

// Numbers, cookies and lookups agree with each other.
func TestImageWalk(t *testing.T) {
	source := t.TempDir()
	makeTree(t, source)
	for _, v := range []Version{V1, V2} {
		file, _ := packTree(t, v, source)
		im, _ := openImage(t, file)
		ctx := t.Context()
		seen := map[uint64]string{}
		var walk func(dir uint64, path string)
		walk = func(dir uint64, path string) {
			if up, err := im.Parent(ctx, dir); err != nil || up == 0 {
				t.Fatal(err)
			}
			after := uint64(0)
			for {
				list, err := im.ReadDir(ctx, dir, after, 7)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range list {
					if e.Cookie < firstCookie || e.Cookie <= after {
						t.Fatalf("cookie %d after %d", e.Cookie, after)
					}
					after = e.Cookie
					full := path + "/" + e.Name
					a, err := im.Lookup(ctx, dir, e.Name)
					if err != nil || a != e.Attr {
						t.Fatalf("%s: listed %+v, found %+v, %v", full, e.Attr, a, err)
					}
					if b, err := im.Attr(ctx, a.Ino); err != nil || b != a {
						t.Fatalf("%s: found %+v, is %+v, %v", full, a, b, err)
					}
					if first, twice := seen[a.Ino]; twice && a.Nlink < 2 {
						t.Fatalf("%s and %s have one number", first, full)
					}
					seen[a.Ino] = full
					if a.Type() == syscall.S_IFDIR {
						if up, err := im.Parent(ctx, a.Ino); err != nil || up != dir {
							t.Fatalf("%s lies in %d, not %d: %v", full, up, dir, err)
						}
						walk(a.Ino, full)
					} else if _, err := im.Lookup(ctx, a.Ino, "x"); !errors.Is(err, syscall.ENOTDIR) {
						t.Fatalf("lookup in %s: %v", full, err)
					}
				}
				if len(list) < 7 {
					break
				}
			}
		}
		walk(Root, "")
		if len(seen) < 310 {
			t.Fatalf("%d inodes", len(seen))
		}
		if _, err := im.Lookup(ctx, Root, "absent"); !errors.Is(err, syscall.ENOENT) {
			t.Fatal(err)
		}
		for _, ino := range []uint64{1 << 46, 1 << 40, 999999} {
			if _, err := im.Attr(ctx, ino); !errors.Is(err, syscall.ESTALE) {
				t.Fatalf("inode %d: %v", ino, err)
			}
		}
	}
}

// An image that is not finished leaves nothing; one that exists is not replaced.
func TestPackFails(t *testing.T) {
	source, dir := t.TempDir(), t.TempDir()
	makeTree(t, source)
	file := filepath.Join(dir, "image.fl")
	for _, v := range []Version{V1, V2} {
		w, err := Create(v, file)
		if err != nil {
			t.Fatal(err)
		}
		full := errors.New("the store is full")
		_, err = Pack(t.Context(), source, w, PackOptions{Put: func(context.Context, []byte, []byte) error { return full }})
		if !errors.Is(err, full) {
			t.Fatal(err)
		}
		if err := w.Abort(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if w, err = Create(v, file); err != nil {
			t.Fatal(err)
		}
		if _, err = Pack(ctx, source, w, PackOptions{Put: func(context.Context, []byte, []byte) error { return nil }}); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if err := w.Abort(); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Fatalf("left: %v", left)
	}
	if err := os.WriteFile(file, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(V2, file); err == nil {
		t.Fatal("an existing file is taken")
	}
	if data, _ := os.ReadFile(file); !bytes.Equal(data, []byte("precious")) {
		t.Fatal("it was changed")
	}
}

func BenchmarkPack(b *testing.B) {
	source := b.TempDir()
	for i := range 64 {
		if err := os.WriteFile(filepath.Join(source, fmt.Sprint(i)), randomBytes(uint64(i), BlockSize), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(64 * BlockSize)
	for b.Loop() {
		w, err := Create(V2, filepath.Join(b.TempDir(), fmt.Sprint(time.Now().UnixNano())))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Pack(b.Context(), source, w, PackOptions{Put: func(context.Context, []byte, []byte) error { return nil }}); err != nil {
			b.Fatal(err)
		}
		if err := w.Finish(); err != nil {
			b.Fatal(err)
		}
	}
}
