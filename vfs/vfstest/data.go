package vfstest

import (
	"bytes"
	"math/rand/v2"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// Modes of fallocate(2).
const (
	fallocKeepSize  = 0x01
	fallocPunchHole = 0x02
	fallocCollapse  = 0x08
	fallocZeroRange = 0x10
	fallocInsert    = 0x20
)

const (
	seekData = 3
	seekHole = 4
)

var dataTests = []test{
	{"ReadWrite", nil, func(e *env) {
		f, a := e.create(e.dir, "f")
		if got := e.read(f, 0, 10); len(got) != 0 {
			e.Fatalf("an empty file has %q", got)
		}
		data := pattern(3<<20+123, 1) // some chunks
		for off := 0; off < len(data); off += 1 << 20 {
			e.write(f, data[off:min(off+1<<20, len(data))], int64(off))
		}
		if got := e.attr(a.Ino); got.Size != uint64(len(data)) {
			e.Fatalf("size %d, want %d", got.Size, len(data))
		}
		if !bytes.Equal(e.read(f, 0, len(data)+100), data) {
			e.Fatal("data differ")
		}
		for _, r := range [][2]int{{0, 1}, {len(data) - 1, 5}, {1<<20 - 1, 2}, {1 << 20, 1 << 20}, {4095, 4098}} {
			want := data[r[0]:min(r[0]+r[1], len(data))]
			if got := e.read(f, int64(r[0]), r[1]); !bytes.Equal(got, want) {
				e.Errorf("%d bytes at %d differ", r[1], r[0])
			}
		}
		for _, off := range []int64{int64(len(data)), int64(len(data)) + 1, 1 << 40} {
			if got := e.read(f, off, 10); len(got) != 0 {
				e.Errorf("%d bytes at %d, behind the end", len(got), off)
			}
		}
		e.write(f, nil, 5) // nothing
		e.close(f)
		if !bytes.Equal(e.content(a.Ino), data) {
			e.Fatal("data differ after close")
		}
		e.ok(e.fs.Sync(e.ctx), "sync")
		if !bytes.Equal(e.content(a.Ino), data) {
			e.Fatal("data differ after sync")
		}
	}},
	{"SmallWrites", nil, func(e *env) {
		f, a := e.create(e.dir, "f")
		var want []byte
		for i := range 2000 {
			p := pattern(1+i%37, byte(i))
			e.write(f, p, int64(len(want)))
			want = append(want, p...)
		}
		if !bytes.Equal(e.read(f, 0, len(want)+1), want) {
			e.Fatal("data differ")
		}
		e.close(f)
		if !bytes.Equal(e.content(a.Ino), want) {
			e.Fatal("data differ after close")
		}
	}},
	{"InlineBorders", []Feature{RandomWrites, Truncate}, func(e *env) {
		// Sizes around which trees like to change how they keep a file.
		for _, size := range []int{1, 511, 4095, 4096, 4097, 65535, 65536, 65537, 1 << 20, 1<<20 + 1, 4<<20 - 1, 4 << 20, 4<<20 + 1} {
			f, a := e.create(e.dir, "f")
			want := pattern(size, byte(size))
			e.write(f, want, 0)
			e.ok(f.Sync(e.ctx, true), "fdatasync")
			e.write(f, []byte("end"), int64(size)) // grow past the border
			want = append(want, "end"...)
			e.write(f, []byte("B"), 0)
			want[0] = 'B'
			e.ok(f.Truncate(e.ctx, int64(size)), "truncate")
			e.ok(f.Truncate(e.ctx, int64(size)+10), "truncate up")
			want = append(want[:size], make([]byte, 10)...)
			e.close(f)
			if !bytes.Equal(e.content(a.Ino), want) {
				e.Errorf("size %d: data differ", size)
			}
			e.unlink(e.dir, "f")
		}
	}},
	{"Sparse", []Feature{RandomWrites, SparseFiles}, func(e *env) {
		f, a := e.create(e.dir, "f")
		const far = 1 << 30
		e.write(f, []byte("far"), far)
		if got := e.attr(a.Ino); got.Size != far+3 || got.Blocks > 1<<20/512 {
			e.Errorf("size %d, blocks %d", got.Size, got.Blocks)
		}
		if got := e.read(f, far-5, 20); !bytes.Equal(got, []byte("\x00\x00\x00\x00\x00far")) {
			e.Errorf("%q", got)
		}
		if got := e.read(f, 1<<20, 1<<16); !bytes.Equal(got, make([]byte, 1<<16)) {
			e.Error("a hole is not zero")
		}
		e.write(f, []byte("mid"), 5000)
		if got := e.read(f, 4998, 7); !bytes.Equal(got, []byte("\x00\x00mid\x00\x00")) {
			e.Errorf("%q", got)
		}
		e.close(f)
	}},
	{"Truncate", []Feature{Truncate}, func(e *env) {
		f, a := e.create(e.dir, "f")
		want := pattern(200_000, 3)
		e.write(f, want, 0)
		for i, size := range []int{150_000, 150_001, 300_000, 4096, 4095, 10_000, 1, 0, 70_000, 70_000} {
			if i%2 == 0 {
				e.ok(f.Truncate(e.ctx, int64(size)), "truncate")
			} else if got := e.set(a.Ino, vfs.SetAttr{Valid: vfs.SetSize, Size: uint64(size)}); got.Size != uint64(size) {
				e.Fatalf("size %d, want %d", got.Size, size)
			}
			want = append(want[:min(size, len(want))], make([]byte, max(0, size-len(want)))...)
			if got := e.attr(a.Ino); got.Size != uint64(size) {
				e.Fatalf("size %d, want %d", got.Size, size)
			}
			if got := e.read(f, 0, 400_000); !bytes.Equal(got, want) {
				e.Fatalf("data differ after truncation to %d", size)
			}
		}
		e.write(f, []byte("tail"), 100_000) // what was cut off does not come back
		want = append(want, make([]byte, 30_000)...)
		want = append(want, "tail"...)
		if got := e.read(f, 0, 400_000); !bytes.Equal(got, want) {
			e.Fatal("data differ behind a hole")
		}
		e.close(f)
	}},
	{"OpenTruncates", []Feature{Truncate}, func(e *env) {
		a := e.file(e.dir, "f", []byte("content"))
		f := e.open(a.Ino, syscall.O_RDWR|syscall.O_TRUNC)
		if got := e.attr(a.Ino); got.Size != 0 {
			e.Fatalf("size %d", got.Size)
		}
		e.write(f, []byte("x"), 3)
		e.close(f)
		if got := e.content(a.Ino); string(got) != "\x00\x00\x00x" {
			e.Fatalf("%q", got)
		}
	}},
	{"SeveralFiles", nil, func(e *env) {
		// What one File has written, the others see at once.
		f, a := e.create(e.dir, "f")
		g, h := e.open(a.Ino, syscall.O_RDWR), e.open(a.Ino, syscall.O_RDONLY)
		e.write(f, []byte("hello"), 0)
		if got := e.read(h, 0, 10); string(got) != "hello" {
			e.Fatalf("%q", got)
		}
		e.write(g, []byte("J"), 0)
		if got := e.read(f, 0, 10); string(got) != "Jello" {
			e.Fatalf("%q", got)
		}
		if e.has(Truncate) {
			e.ok(g.Truncate(e.ctx, 2), "truncate")
			if got := e.read(h, 0, 10); string(got) != "Je" {
				e.Fatalf("%q", got)
			}
		}
		_, err := h.WriteAt(e.ctx, []byte("x"), 0)
		if err != nil {
			e.want(err, "write to a File opened for reading", syscall.EBADF, syscall.EACCES)
		}
		e.close(f)
		e.write(g, []byte("after"), 0)
		e.close(g)
		if got := e.read(h, 0, 10); string(got) != "after" {
			e.Fatalf("%q", got)
		}
		e.close(h)
	}},
	{"Append", []Feature{Append}, func(e *env) {
		a := e.file(e.dir, "f", []byte("one"))
		f := e.open(a.Ino, syscall.O_WRONLY|syscall.O_APPEND)
		e.write(f, []byte("two"), 0)
		e.write(f, []byte("three"), 1)
		if got := e.content(a.Ino); string(got) != "onetwothree" {
			e.Fatalf("%q", got)
		}
		if e.has(Truncate) {
			e.set(a.Ino, vfs.SetAttr{Valid: vfs.SetSize, Size: 1})
			e.write(f, []byte("2"), 0)
			if got := e.content(a.Ino); string(got) != "o2" {
				e.Fatalf("%q", got)
			}
		}
		e.close(f)
	}},
	{"BigOffset", []Feature{RandomWrites}, func(e *env) {
		f, a := e.create(e.dir, "f")
		const off = 1 << 40
		_, err := f.WriteAt(e.ctx, []byte("x"), off)
		if err == nil {
			if got := e.attr(a.Ino); got.Size != off+1 {
				e.Fatalf("size %d", got.Size)
			}
			if got := e.read(f, off-1, 5); string(got) != "\x00x" {
				e.Fatalf("%q", got)
			}
		} else {
			e.want(err, "write at 1 TiB", syscall.EFBIG)
		}
		_, err = f.WriteAt(e.ctx, make([]byte, 100), 1<<63-50)
		e.want(err, "write over the greatest offset", syscall.EFBIG, syscall.EINVAL)
		e.close(f)
	}},
	{"Sync", nil, func(e *env) {
		f, _ := e.create(e.dir, "f")
		e.write(f, []byte("data"), 0)
		e.ok(f.Sync(e.ctx, true), "fdatasync")
		e.ok(f.Sync(e.ctx, false), "fsync")
		e.ok(f.Flush(e.ctx), "flush")
		e.ok(f.Flush(e.ctx), "flush again") // as two descriptors of one open
		e.ok(f.Close(), "close")
		d, err := e.fs.OpenDir(e.ctx, e.c, e.dir)
		e.ok(err, "opendir")
		e.ok(d.Sync(e.ctx), "fsync of a directory")
		e.ok(d.Close(), "closedir")
		e.ok(e.fs.Sync(e.ctx), "sync")
	}},
	{"NameAndMetadataAreNotData", nil, func(e *env) {
		// A rename in the middle of writing changes nothing for the writer.
		f, a := e.create(e.dir, "f")
		e.write(f, []byte("first "), 0)
		e.ok(e.rename(e.dir, "f", e.dir, "g", 0), "rename")
		e.write(f, []byte("second"), 6)
		e.close(f)
		if got := e.content(e.lookup(e.dir, "g").Ino); string(got) != "first second" {
			e.Fatalf("%q", got)
		}
		if e.lookup(e.dir, "g").Ino != a.Ino {
			e.Fatal("another inode")
		}
	}},
}

var allocateTests = []test{
	{"Allocate", []Feature{Allocate}, func(e *env) {
		f, a := e.create(e.dir, "f")
		e.write(f, []byte("data"), 0)
		e.ok(f.Allocate(e.ctx, 0, 0, 100_000), "allocate")
		if got := e.attr(a.Ino); got.Size != 100_000 {
			e.Fatalf("size %d", got.Size)
		}
		e.ok(f.Allocate(e.ctx, fallocKeepSize, 50_000, 500_000), "allocate behind the end")
		if got := e.attr(a.Ino); got.Size != 100_000 {
			e.Fatalf("size %d", got.Size)
		}
		want := append([]byte("data"), make([]byte, 99_996)...)
		if !bytes.Equal(e.read(f, 0, 200_000), want) {
			e.Fatal("data differ")
		}
		e.want(f.Allocate(e.ctx, 0, 0, 0), "allocation of nothing", syscall.EINVAL)
		e.close(f)
	}},
	{"PunchHole", []Feature{PunchHole}, func(e *env) {
		f, a := e.create(e.dir, "f")
		want := pattern(300_000, 4)
		e.write(f, want, 0)
		for _, r := range [][2]int{{0, 10}, {4096, 4096}, {10_000, 1}, {65_000, 70_000}, {299_990, 10}, {299_000, 100_000}, {500_000, 1000}} {
			e.ok(f.Allocate(e.ctx, fallocPunchHole|fallocKeepSize, int64(r[0]), int64(r[1])), "punch")
			if r[0] < len(want) {
				clear(want[r[0]:min(r[0]+r[1], len(want))])
			}
			if !bytes.Equal(e.read(f, 0, 400_000), want) {
				e.Fatalf("data differ after a hole of %d at %d", r[1], r[0])
			}
		}
		if got := e.attr(a.Ino); got.Size != 300_000 {
			e.Fatalf("size %d", got.Size)
		}
		e.want(f.Allocate(e.ctx, fallocPunchHole, 0, 10), "punch without keep size", syscall.EOPNOTSUPP, syscall.EINVAL)
		e.close(f)
	}},
	{"ZeroRange", []Feature{ZeroRange}, func(e *env) {
		f, a := e.create(e.dir, "f")
		want := pattern(100_000, 5)
		e.write(f, want, 0)
		e.ok(f.Allocate(e.ctx, fallocZeroRange, 1000, 50_000), "zero")
		clear(want[1000:51_000])
		e.ok(f.Allocate(e.ctx, fallocZeroRange|fallocKeepSize, 99_000, 50_000), "zero over the end, keep size")
		clear(want[99_000:])
		if !bytes.Equal(e.read(f, 0, 200_000), want) {
			e.Fatal("data differ")
		}
		e.ok(f.Allocate(e.ctx, fallocZeroRange, 90_000, 50_000), "zero over the end")
		if got := e.attr(a.Ino); got.Size != 140_000 {
			e.Fatalf("size %d", got.Size)
		}
		clear(want[90_000:])
		want = append(want, make([]byte, 40_000)...)
		if !bytes.Equal(e.read(f, 0, 200_000), want) {
			e.Fatal("data differ")
		}
		e.close(f)
	}},
	{"CollapseInsert", nil, func(e *env) {
		// Rarely possible; where refused, nothing changes.
		for _, mode := range []uint32{fallocCollapse, fallocInsert} {
			f, a := e.create(e.dir, "f")
			want := pattern(64<<10, 6)
			e.write(f, want, 0)
			err := f.Allocate(e.ctx, mode, 16<<10, 16<<10)
			switch {
			case err != nil:
				e.want(err, "collapse or insert", syscall.EOPNOTSUPP, syscall.EINVAL)
			case mode == fallocCollapse:
				want = append(want[:16<<10:16<<10], want[32<<10:]...)
			default:
				want = append(append(want[:16<<10:16<<10], make([]byte, 16<<10)...), want[16<<10:]...)
			}
			e.close(f)
			if !bytes.Equal(e.content(a.Ino), want) {
				e.Errorf("mode %x: data differ", mode)
			}
			e.unlink(e.dir, "f")
		}
	}},
	{"Seek", nil, func(e *env) {
		f, _ := e.create(e.dir, "f")
		const size = 8 << 20
		e.write(f, pattern(1<<20, 7), 0)
		if e.has(RandomWrites) {
			e.write(f, pattern(1<<20, 8), size-1<<20)
		} else {
			e.write(f, make([]byte, size-1<<20), 1<<20)
		}
		seek := func(off int64, whence int) int64 {
			e.Helper()
			pos, err := f.Seek(e.ctx, off, whence)
			e.ok(err, "seek")
			return pos
		}
		if pos := seek(10, seekData); pos != 10 {
			e.Errorf("data at 10 found at %d", pos)
		}
		if pos := seek(size-10, seekData); pos != size-10 {
			e.Errorf("data near the end found at %d", pos)
		}
		if pos := seek(size-10, seekHole); pos != size {
			e.Errorf("the hole at the end is at %d", pos)
		}
		if e.has(SeekHoles) && e.has(RandomWrites) {
			if pos := seek(0, seekHole); pos < 1<<20 || pos > 3<<20 {
				e.Errorf("hole at %d", pos)
			}
			if pos := seek(4<<20, seekData); pos < 5<<20 || pos > size-1<<20 {
				e.Errorf("data behind the hole at %d", pos)
			}
			if pos := seek(4<<20, seekHole); pos != 4<<20 {
				e.Errorf("in the hole the next hole is at %d", pos)
			}
		}
		for _, whence := range []int{seekData, seekHole} {
			_, err := f.Seek(e.ctx, size, whence)
			e.want(err, "seek at the end", syscall.ENXIO)
			_, err = f.Seek(e.ctx, size+1, whence)
			e.want(err, "seek behind the end", syscall.ENXIO)
		}
		e.close(f)
	}},
	{"CopyRange", []Feature{CopyRange}, func(e *env) {
		c, ok := e.fs.(vfs.CopyFS)
		if !ok {
			e.Fatal("the tree is no vfs.CopyFS and does not say so in Lacks")
		}
		src, _ := e.create(e.dir, "src")
		dst, d := e.create(e.dir, "dst")
		data := pattern(300_000, 9)
		e.write(src, data, 0)
		want := pattern(100_000, 10)
		e.write(dst, want, 0)
		all := func(in vfs.File, inOff int64, out vfs.File, outOff, n int64) (total int64) {
			e.Helper()
			for n > 0 {
				k, err := c.CopyRange(e.ctx, in, inOff, out, outOff, n)
				e.ok(err, "copy")
				if k == 0 {
					return total
				}
				total, inOff, outOff, n = total+k, inOff+k, outOff+k, n-k
			}
			return total
		}
		if n := all(src, 1000, dst, 50_000, 200_000); n != 200_000 {
			e.Fatalf("copied %d", n)
		}
		want = append(want[:50_000], data[1000:201_000]...)
		if !bytes.Equal(e.content(d.Ino), want) {
			e.Fatal("data differ")
		}
		if n := all(src, 299_000, dst, 0, 5000); n != 1000 {
			e.Fatalf("copied %d up to the end", n)
		}
		copy(want, data[299_000:])
		if n := all(src, 300_000, dst, 0, 5000); n != 0 {
			e.Fatalf("copied %d from behind the end", n)
		}
		_, err := c.CopyRange(e.ctx, dst, 0, dst, 100, 1000)
		e.want(err, "overlapping copy", syscall.EINVAL)
		if n := all(dst, 0, dst, 260_000, 4096); n != 4096 {
			e.Fatalf("copied %d in one file", n)
		}
		want = append(want, make([]byte, 10_000)...)
		want = append(want, want[:4096]...)
		if !bytes.Equal(e.content(d.Ino), want) {
			e.Fatal("data differ")
		}
		// The copy is one: later writes to the source do not show.
		e.write(src, make([]byte, 300_000), 0)
		if !bytes.Equal(e.content(d.Ino), want) {
			e.Fatal("the copy changed with its source")
		}
		e.close(src)
		e.close(dst)
	}},
}

var modelTests = []test{
	{"Model", []Feature{RandomWrites, Truncate}, func(e *env) {
		r := rng(e)
		for i := range 3 {
			e.model(r, "f"+string(rune('0'+i)), []int{9000, 300_000, 6 << 20}[i], rounds([]int{600, 600, 250}[i]))
		}
	}},
}

// model writes at random to a file and to a byte slice, and compares.
func (e *env) model(r *rand.Rand, name string, limit, steps int) {
	e.Helper()
	f, a := e.create(e.dir, name)
	files := []vfs.File{f, e.open(a.Ino, syscall.O_RDWR), e.open(a.Ino, syscall.O_RDWR)}
	var want []byte
	check := func(step int, what string, off, n int) {
		e.Helper()
		got := e.read(files[r.IntN(len(files))], int64(off), n)
		exp := want[min(off, len(want)):min(off+n, len(want))]
		if !bytes.Equal(got, exp) {
			at := 0
			for at < len(got) && at < len(exp) && got[at] == exp[at] {
				at++
			}
			e.Fatalf("step %d, after %s: %d bytes at %d differ from place %d on (%d bytes read, %d expected)", step, what, n, off, off+at, len(got), len(exp))
		}
	}
	grow := func(n int) {
		if n > len(want) {
			want = append(want, make([]byte, n-len(want))...)
		}
	}
	for step := range steps {
		file := files[r.IntN(len(files))]
		off := r.IntN(limit)
		n := 1 + r.IntN(limit-off)
		if r.IntN(3) > 0 {
			n = min(n, 1+r.IntN(5000))
		}
		what := "write"
		switch op := r.IntN(20); {
		case op < 9:
			p := pattern(n, byte(r.Uint32()))
			e.write(file, p, int64(off))
			grow(off + n)
			copy(want[off:], p)
		case op < 10:
			what = "truncate"
			e.ok(file.Truncate(e.ctx, int64(off)), what)
			grow(off)
			want = want[:off]
		case op < 12:
			what = "setattr size"
			size := min(len(want)+r.IntN(3000), limit)
			e.set(a.Ino, vfs.SetAttr{Valid: vfs.SetSize, Size: uint64(size)})
			grow(size)
			want = want[:size]
		case op < 14 && e.has(PunchHole):
			what = "punch hole"
			e.ok(file.Allocate(e.ctx, fallocPunchHole|fallocKeepSize, int64(off), int64(n)), what)
			if off < len(want) {
				clear(want[off:min(off+n, len(want))])
			}
		case op < 15 && e.has(ZeroRange):
			what = "zero range"
			e.ok(file.Allocate(e.ctx, fallocZeroRange, int64(off), int64(n)), what)
			grow(off + n)
			clear(want[off : off+n])
		case op < 16 && e.has(Allocate):
			what = "allocate"
			e.ok(file.Allocate(e.ctx, 0, int64(off), int64(n)), what)
			grow(off + n)
		case op < 17:
			what = "sync"
			e.ok(file.Sync(e.ctx, r.IntN(2) == 0), what)
		case op < 18:
			what = "reopen"
			i := r.IntN(len(files))
			e.close(files[i])
			files[i] = e.open(a.Ino, syscall.O_RDWR)
		case op < 19 && e.has(CopyRange):
			what = "copy range"
			if len(want) < 2 {
				break
			}
			to := r.IntN(limit)
			from := r.IntN(len(want))
			k := min(n, len(want)-from, limit-to)
			if k < 1 || from < to+k && to < from+k {
				break
			}
			got, err := e.fs.(vfs.CopyFS).CopyRange(e.ctx, file, int64(from), files[0], int64(to), int64(k))
			e.ok(err, what)
			grow(to + int(got))
			copy(want[to:to+int(got)], want[from:])
		default:
			what = "read"
		}
		check(step, what, off, min(n+100, limit))
		if step%50 == 0 {
			check(step, what, 0, limit+10)
			if got := e.attr(a.Ino); got.Size != uint64(len(want)) {
				e.Fatalf("step %d, after %s: size %d, want %d", step, what, got.Size, len(want))
			}
		}
	}
	for _, f := range files {
		e.close(f)
	}
	if !bytes.Equal(e.content(a.Ino), want) {
		e.Fatal("data differ after close")
	}
}
