package volume

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/internal/testseed"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// TestDataAgainstModel drives random changes of a few files, with the flusher
// running under it, and compares with byte slices; it reopens the volume meanwhile, or
// does it from two mounts by turns.
func TestDataAgainstModel(t *testing.T) {
	for _, v := range []struct {
		name      string
		inline    uint32
		exclusive bool
		mounts    int
	}{{"inline=0", 0, true, 1}, {"inline=4096", 4 << 10, true, 1}, {"inline=65536", 64 << 10, true, 1}, {"shared", 4 << 10, false, 1}, {"two mounts", 4 << 10, false, 2}} {
		t.Run(v.name, func(t *testing.T) {
			var w *world
			var second *FS
			if v.mounts == 1 {
				w = newWorld(t, func(f *meta.Format) { f.InlineLimit = v.inline }, func(c *Config) { c.Exclusive, c.FlushInterval = v.exclusive, 4*time.Millisecond })
			} else {
				w, _, second, _ = pair(t)
			}
			r := rand.New(rand.NewPCG(testseed.Of(t, 1), uint64(v.inline)))
			const files, maxSize = 4, 900 << 10
			var model [files][]byte
			var opened [2][files]vfs.File
			for i := range files {
				f, ino := w.create(fmt.Sprint(i))
				if opened[0][i] = f; v.mounts == 2 {
					opened[1][i] = mustOpen(t, second, ino, syscall.O_RDWR)
				}
			}
			steps := 3000
			if testing.Short() {
				steps = 500
			}
			check := func(fs *FS, i, step int) {
				t.Helper()
				var a vfs.Attr
				must(t, fs.Lookup(bg, root, vfs.Root, fmt.Sprint(i), &a))
				if a.Size != uint64(len(model[i])) {
					t.Fatalf("step %d: size of file %d is %d, want %d", step, i, a.Size, len(model[i]))
				}
				if got := content(t, fs, a.Ino); !bytes.Equal(got, model[i]) {
					for at := range got {
						if got[at] != model[i][at] {
							t.Fatalf("step %d: file %d differs at byte %d of %d", step, i, at, len(got))
						}
					}
				}
			}
			grow := func(i, size int) {
				if size > len(model[i]) {
					model[i] = append(model[i], make([]byte, size-len(model[i]))...)
				}
			}
			span := func() (off, n int) {
				limit := maxSize
				if r.IntN(2) == 0 {
					limit = 8 << 10 // around the inline limit
				}
				off = r.IntN(limit)
				return off, 1 + r.IntN(min(limit, 200<<10))
			}
			for step := range steps {
				mount := r.IntN(v.mounts)
				fs, open := []*FS{w.fs, second}[mount], &opened[mount]
				i := r.IntN(files)
				f := open[i]
				off, n := span()
				switch op := r.IntN(100); {
				case op < 40:
					p := random(r, n)
					mustWrite(t, f, p, int64(off))
					grow(i, off+n)
					copy(model[i][off:], p)
				case op < 55:
					if err := f.Truncate(bg, int64(off)); err != nil {
						t.Fatal(err)
					}
					grow(i, off)
					model[i] = model[i][:off]
				case op < 60:
					if err := f.Allocate(bg, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n)); err != nil {
						t.Fatal(err)
					}
					clear(model[i][min(off, len(model[i])):min(off+n, len(model[i]))])
				case op < 64:
					if err := f.Allocate(bg, unix.FALLOC_FL_ZERO_RANGE, int64(off), int64(n)); err != nil {
						t.Fatal(err)
					}
					grow(i, off+n)
					clear(model[i][off : off+n])
				case op < 68:
					if err := f.Allocate(bg, 0, int64(off), int64(n)); err != nil {
						t.Fatal(err)
					}
					grow(i, off+n)
				case op < 76:
					j := r.IntN(files)
					from, _ := span()
					if i == j && from < off+n && off < from+n {
						continue
					}
					done, err := fs.CopyRange(bg, open[j], int64(from), f, int64(off), int64(n))
					if err != nil {
						t.Fatal(err)
					}
					want := max(0, min(n, len(model[j])-from))
					if int(done) > want || want > 0 && done == 0 {
						t.Fatalf("step %d: copied %d of %d bytes", step, done, want)
					}
					if done > 0 {
						grow(i, off+int(done))
						copy(model[i][off:off+int(done)], model[j][from:])
					}
				case op < 84:
					if err := f.Sync(bg, r.IntN(2) == 0); err != nil {
						t.Fatal(err)
					}
				case op < 99:
					check(fs, i, step)
				case v.mounts == 1:
					for i := range files {
						if err := open[i].Close(); err != nil {
							t.Fatal(err)
						}
					}
					w.reopen()
					for i := range files {
						var err error
						if open[i], err = w.fs.Open(bg, root, w.lookup(fmt.Sprint(i)).Ino, syscall.O_RDWR); err != nil {
							t.Fatal(err)
						}
					}
				}
				if v.mounts == 2 { // what has returned from it is seen by the other
					must(t, f.Flush(bg))
				}
			}
			for mount, fs := range []*FS{w.fs, second}[:v.mounts] {
				for i := range files {
					check(fs, i, steps)
					must(t, opened[mount][i].Close())
				}
			}
		})
	}
}

// A size that was written stays, whatever becomes of the bytes before they are flushed.
func TestPunchBeforeFlush(t *testing.T) {
	const at, n = 700_001, 50_000
	for _, v := range []struct {
		name   string
		mode   uint32
		before int // bytes written before, which may be flushed as full chunks
	}{
		{"punch", unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, 100},
		{"zero", unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE, meta.MinChunkSize + 1},
		{"punch behind full chunks", unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, 2 * meta.MinChunkSize},
		{"punch of an empty file", unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, 0},
	} {
		for _, exclusive := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, exclusive=%t", v.name, exclusive), func(t *testing.T) {
				w := newWorld(t, nil, func(c *Config) { c.Exclusive, c.FlushInterval = exclusive, time.Hour })
				f, ino := w.create("f")
				want := make([]byte, at+n)
				copy(want, random(rand.New(rand.NewPCG(6, 6)), v.before))
				if v.before > 0 {
					mustWrite(t, f, want[:v.before], 0)
					must(t, f.Sync(bg, false))
				}
				mustWrite(t, f, bytes.Repeat([]byte("x"), n), at)
				must(t, f.Allocate(bg, v.mode, at-1, n+100))
				must(t, f.Close())
				if got := w.read(ino); !bytes.Equal(got, want) {
					t.Errorf("%d bytes, want %d", len(got), len(want))
				}
				w.reopen()
				if got := w.read(ino); !bytes.Equal(got, want) {
					t.Errorf("%d bytes after reopening, want %d", len(got), len(want))
				}
			})
		}
	}
}

// A copy within a file ends where the file has ended before it.
func TestCopyBehindTheEnd(t *testing.T) {
	for _, exclusive := range []bool{true, false} {
		w := newWorld(t, nil, func(c *Config) { c.Exclusive = exclusive })
		f, ino := w.create("f")
		mustWrite(t, f, []byte("0123456789"), 0)
		n, err := w.fs.CopyRange(bg, f, 4, f, 10_004, 10_000)
		if err != nil || n != 6 {
			t.Errorf("copied %d bytes, %v", n, err)
		}
		want := append(append([]byte("0123456789"), make([]byte, 9994)...), "456789"...)
		if got := w.read(ino); !bytes.Equal(got, want) {
			t.Errorf("%d bytes, want %d", len(got), len(want))
		}
		f.Close()
	}
}
