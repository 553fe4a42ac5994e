package volume

import (
	"bytes"
	"fmt"
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
