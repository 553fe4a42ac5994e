package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// Inline content stays what it is before a hole of any size: who opens the volume again
// reads it, and can change the file in all ways.
func TestInlineBeforeHole(t *testing.T) {
	const inline, size = "in the metadata", 1 << 20
	changes := map[string]func(t *testing.T, fs *FS, f vfs.File, want []byte){
		"nothing": func(*testing.T, *FS, vfs.File, []byte) {},
		"write": func(t *testing.T, _ *FS, f vfs.File, want []byte) {
			put(t, f, []byte("in chunks"), size/2)
			copy(want[size/2:], "in chunks")
		},
		"punch": func(t *testing.T, _ *FS, f vfs.File, want []byte) {
			must(t, f.Allocate(bg, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 3, size/2))
			clear(want[3 : 3+size/2])
		},
		"punch behind": func(t *testing.T, _ *FS, f vfs.File, _ []byte) {
			must(t, f.Allocate(bg, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, size/2, 188))
		},
		"zero": func(t *testing.T, _ *FS, f vfs.File, want []byte) {
			must(t, f.Allocate(bg, unix.FALLOC_FL_ZERO_RANGE, 5, size/2))
			clear(want[5 : 5+size/2])
		},
		"allocate": func(t *testing.T, _ *FS, f vfs.File, _ []byte) {
			must(t, f.Allocate(bg, unix.FALLOC_FL_KEEP_SIZE, size/2, size))
		},
		"cut": func(t *testing.T, _ *FS, f vfs.File, want []byte) {
			must(t, f.Truncate(bg, 7))
			must(t, f.Truncate(bg, size))
			clear(want[7:])
		},
		"copy": func(t *testing.T, fs *FS, f vfs.File, want []byte) {
			n, err := fs.CopyRange(bg, f, 0, f, size/2, 100<<10)
			if err != nil || n != 100<<10 {
				t.Fatal(n, err)
			}
			copy(want[size/2:], want[:100<<10])
		},
		"seek": func(t *testing.T, _ *FS, f vfs.File, _ []byte) {
			data, err := f.Seek(bg, 0, unix.SEEK_DATA)
			hole, err2 := f.Seek(bg, 0, unix.SEEK_HOLE)
			if err != nil || err2 != nil || data != 0 || hole < int64(len(inline)) || hole == size {
				t.Errorf("data at %d, %v, a hole at %d, %v", data, err, hole, err2)
			}
		},
	}
	for _, v := range []struct {
		name      string
		exclusive bool
		format    func(*meta.Format)
	}{{"exclusive", true, nil}, {"shared", false, nil}, {"encrypted", false, encrypted}} {
		for name, change := range changes {
			t.Run(fmt.Sprint(v.name, "/", name), func(t *testing.T) {
				w := newWorld(t, v.format, func(c *Config) { c.Exclusive = v.exclusive })
				f, ino := w.create("f")
				put(t, f, []byte(inline), 0)
				must(t, f.Sync(bg, false))
				must(t, f.Truncate(bg, size))
				must(t, f.Close())
				w.reopen()
				want := make([]byte, size)
				copy(want, inline)
				f = mustOpen(t, w.fs, ino, syscall.O_RDWR)
				change(t, w.fs, f, want)
				if got := w.read(ino); !bytes.Equal(got, want) {
					t.Errorf("%d bytes, %.40q, want %d, %.40q", len(got), got, len(want), want)
				}
				must(t, f.Sync(bg, false))
				must(t, f.Close())
				w.reopen()
				if got := w.read(ino); !bytes.Equal(got, want) {
					t.Errorf("later %d bytes, %.40q, want %d, %.40q", len(got), got, len(want), want)
				}
			})
		}
	}
}

// meddled is a volume with two trees, one of which changes a file before each of the
// other's changes: as often as it does that, the other has to begin anew.
type meddled struct {
	t        *testing.T
	one, two *FS
	sess     *countingSession // of one
	f, g     vfs.File         // the file on one and on two
	ino      vfs.Ino
}

func newMeddled(t *testing.T, content string, flags int) *meddled {
	t.Helper()
	_, one, two, _ := pair(t)
	m := &meddled{t: t, one: one, two: two, sess: one.sess.(*countingSession)}
	var a vfs.Attr
	var err error
	m.f, err = one.Create(bg, root, vfs.Root, "f", 0o644, syscall.O_RDWR|flags, &a)
	must(t, err)
	m.ino = a.Ino
	put(t, m.f, []byte(content), 0)
	must(t, m.f.Flush(bg))
	m.g = mustOpen(t, two, a.Ino, syscall.O_RDWR|flags)
	t.Cleanup(func() {
		must(t, m.f.Close())
		must(t, m.g.Close())
	})
	return m
}

// before has fn called before the first n operations of a kind of one.
func (m *meddled) before(op string, n int, fn func(i int)) {
	i := 0
	var mu sync.Mutex // files are flushed at the same time
	m.sess.before = func(what string) error {
		mu.Lock()
		defer mu.Unlock()
		if what == op && i < n {
			i++
			fn(i)
		}
		return nil
	}
	m.t.Cleanup(func() {
		if i < n {
			m.t.Errorf("the other mount has got between %d times, should %d times", i, n)
		}
	})
}

// want compares the file as both mounts see it.
func (m *meddled) want(content string) {
	m.t.Helper()
	for _, fs := range []*FS{m.one, m.two} {
		if got := all(m.t, fs, m.ino); string(got) != content {
			m.t.Errorf("%d bytes %.40q, want %d, %.40q", len(got), got, len(content), content)
		}
	}
}

// collisions are more than anybody should have to bear, and fewer than take time.
const collisions = 100

func TestLayoutChangesUnderAllocate(t *testing.T) {
	for _, v := range []struct {
		name string
		mode uint32
		want string
	}{
		{"allocate", 0, fmt.Sprint("inline ", collisions, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")},
		{"punch", unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, "in" + strings.Repeat("\x00", 8)},
		{"zero", unix.FALLOC_FL_ZERO_RANGE, "in" + strings.Repeat("\x00", 18)},
	} {
		t.Run(v.name, func(t *testing.T) {
			m := newMeddled(t, "content", 0)
			m.before("allocate", collisions, func(i int) {
				must(t, m.g.Truncate(bg, 0))
				put(t, m.g, fmt.Append(nil, "inline ", i), 0)
				must(t, m.g.Flush(bg))
			})
			must(t, m.f.Allocate(bg, v.mode, 2, 18))
			m.want(v.want)
		})
	}
}

func TestLayoutChangesUnderFlush(t *testing.T) {
	m := newMeddled(t, "one, two", 0)
	m.before("commit", collisions, func(i int) {
		put(t, m.g, fmt.Append(nil, i), 5)
		must(t, m.g.Flush(bg))
	})
	put(t, m.f, []byte("ONE"), 0)
	must(t, m.f.Flush(bg))
	m.want(fmt.Sprint("ONE, ", collisions))
}

// What becomes inline and chunks by turns under a flush.
func TestLayoutMovesUnderFlush(t *testing.T) {
	m := newMeddled(t, "content", 0)
	m.before("commit", collisions, func(i int) {
		must(t, m.g.Truncate(bg, 0))
		put(t, m.g, []byte("small"), 0)
		must(t, m.g.Flush(bg))
		if i%2 == 0 {
			must(t, m.g.Allocate(bg, unix.FALLOC_FL_KEEP_SIZE, 0, 100))
		}
	})
	put(t, m.f, []byte("S"), 0)
	must(t, m.f.Flush(bg))
	m.want("Small")
}

// An append goes to the end, which moves, and needs no memory for that.
func TestLayoutChangesUnderAppend(t *testing.T) {
	m := newMeddled(t, "", syscall.O_APPEND)
	n := int(m.one.chunk) + 10
	m.before("commit", collisions, func(i int) {
		put(t, m.g, []byte("two "), 0)
		must(t, m.g.Flush(bg))
	})
	long := bytes.Repeat([]byte("1"), n)
	put(t, m.f, long, 0)
	held := m.one.dirty.Limit() - m.one.dirty.Used()
	if !m.one.dirty.TryAcquire(held) {
		t.Fatal("the memory for writes cannot be taken")
	}
	must(t, m.f.Flush(bg))
	m.one.dirty.Release(held)
	m.want(strings.Repeat("two ", collisions) + string(long))
	if used := m.one.dirty.Used(); used != 0 {
		t.Errorf("%d bytes of memory are taken after the flush", used)
	}
}

// A file in dispute does not keep those back that are flushed with it.
func TestLayoutChangesUnderSync(t *testing.T) {
	m := newMeddled(t, "one, two", 0)
	var others []vfs.Ino
	for i := range 10 {
		var a vfs.Attr
		f, err := m.one.Create(bg, root, vfs.Root, fmt.Sprint("other", i), 0o644, syscall.O_RDWR, &a)
		must(t, err)
		put(t, f, []byte("other"), 0)
		must(t, f.Close())
		others = append(others, a.Ino)
	}
	put(t, m.f, []byte("ONE"), 0)
	done := false
	var mu sync.Mutex
	m.sess.before = func(string) error {
		mu.Lock()
		defer mu.Unlock()
		if done {
			return nil
		}
		put(t, m.g, []byte("TWO"), 5)
		must(t, m.g.Truncate(bg, 8)) // changes ctime, too
		must(t, m.g.Flush(bg))
		for _, ino := range others {
			if len(all(t, m.two, ino)) == 0 {
				return nil
			}
		}
		done = true
		return nil
	}
	must(t, m.one.Sync(bg))
	m.want("ONE, TWO")
}

// A source that gets shorter or inline while it is copied.
func TestLayoutChangesUnderCopy(t *testing.T) {
	const size = 200 << 10
	text := strings.Repeat("0123456789abcdef", size/16)
	for _, often := range []int{1, 5, maxShares} {
		m := newMeddled(t, text, 0)
		var a vfs.Attr
		to, err := m.one.Create(bg, root, vfs.Root, "to", 0o644, syscall.O_RDWR, &a)
		must(t, err)
		m.before("copy", often, func(i int) { must(t, m.g.Truncate(bg, int64(size-i))) })
		n, err := m.one.CopyRange(bg, m.f, 0, to, 5, size)
		if want := int64(size - often); err != nil || n != want {
			t.Errorf("%d times shorter: copied %d, %v, want %d", often, n, err, want)
		}
		if got := string(all(t, m.one, a.Ino)); got != "\x00\x00\x00\x00\x00"+text[:size-often] {
			t.Errorf("%d times shorter: %d wrong bytes", often, len(got))
		}
		must(t, to.Close())
	}
}

// An operation that never gets through ends with its caller's patience.
func TestLayoutChangesForEver(t *testing.T) {
	for _, v := range []struct {
		before string
		op     func(ctx context.Context, m *meddled) error
		want   string
	}{
		{"commit", func(ctx context.Context, m *meddled) error { return m.f.Flush(ctx) }, fmt.Sprint("Content ", collisions)},
		{"allocate", func(ctx context.Context, m *meddled) error { // which flushes first
			return m.f.Allocate(ctx, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 2)
		}, fmt.Sprint("content ", collisions)},
	} {
		t.Run(v.before, func(t *testing.T) {
			m := newMeddled(t, "content", 0)
			put(t, m.f, []byte("C"), 0)
			ctx, cancel := context.WithCancel(bg)
			defer cancel()
			m.before(v.before, collisions, func(i int) {
				must(t, m.g.Truncate(bg, 0))
				put(t, m.g, fmt.Append(nil, "content ", i), 0)
				must(t, m.g.Flush(bg))
				if i == collisions {
					cancel()
				}
			})
			if err := v.op(ctx, m); vfs.ErrnoOf(err) != syscall.EINTR {
				t.Errorf("%v, want EINTR", err)
			}
			must(t, m.f.Flush(bg)) // nothing is lost
			m.want(v.want)
		})
	}
}

// Metadata that refuse what nobody has changed are not asked for ever.
func TestLayoutRefusedWithoutChange(t *testing.T) {
	m := newMeddled(t, "content", 0)
	put(t, m.f, []byte("C"), 0)
	m.sess.before = func(string) error { return meta.ErrLayout }
	for name, err := range map[string]error{
		"flush": m.f.Flush(bg),
		"punch": m.f.Allocate(bg, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 2),
	} {
		if vfs.ErrnoOf(err) != syscall.EIO || errors.Is(err, meta.ErrLayout) {
			t.Errorf("%s: %v, want EIO", name, err)
		}
	}
	m.sess.before = nil
	must(t, m.f.Flush(bg))
	m.want("Content")
}
