package meta

import (
	"bytes"
	"errors"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/vfs"
)

const chunk = MinChunkSize

func (v *testVolume) extents(ino vfs.Ino, index uint32) []Extent {
	v.Helper()
	list, err := v.s.Extents(bg, ino, index, nil)
	v.ok(err)
	return list
}

func (v *testVolume) truncate(ino vfs.Ino, size uint64) {
	v.Helper()
	var a vfs.Attr
	v.ok(v.s.SetAttr(bg, root, ino, &vfs.SetAttr{Valid: vfs.SetSize, Size: size}, &a))
	if a.Size != size {
		v.Fatalf("%+v", a)
	}
}

// queued returns the blocks in the delete queue.
func (v *testVolume) queued() (ids []uint64) {
	v.Helper()
	v.ok(v.e.view(bg, func(w *view) error {
		ids = nil
		return w.r.Scan([]byte{kindQueue}, []byte{kindQueue + 1}, func(key, _ []byte) (bool, error) {
			_, id, err := splitQueueKey(key)
			ids = append(ids, id)
			return true, err
		})
	}))
	return ids
}

func TestInline(t *testing.T) {
	v := newVolume(t)
	f := v.file(vfs.Root, "f")
	inline := func(want string, ok bool) {
		t.Helper()
		data, has, err := v.s.Inline(bg, f)
		if err != nil || has != ok || string(data) != want {
			t.Fatalf("inline %q, %t, %v", data, has, err)
		}
		v.verify()
	}
	set := func(data string, size uint64) {
		t.Helper()
		_, err := v.s.Commit(bg, nil, []FileWrite{{Ino: f, SetInline: true, Inline: []byte(data), Size: size}})
		v.ok(err)
	}
	inline("", false)
	set("hello", 0)
	inline("hello", true)
	if a := v.attr(f); a.Size != 5 || a.Blocks != 1 {
		t.Fatal(a)
	}
	set("hello world", 1000)
	if a := v.attr(f); a.Size != 1000 || a.Blocks != 1 {
		t.Fatal(a)
	}
	v.truncate(f, 2000)
	inline("hello world", true)
	v.truncate(f, 5)
	inline("hello", true)
	v.truncate(f, 0)
	inline("", false)
	set("x", 0)
	set("", 50)
	inline("", false)
	if a := v.attr(f); a.Size != 50 || a.Blocks != 0 {
		t.Fatal(a)
	}
	set("abc", 0)
	// To chunks.
	id, err := v.s.AllocBlocks(bg, 1)
	v.ok(err)
	w := FileWrite{Ino: f, Chunks: []Chunk{{Extents: []Extent{{Len: 3, Block: id, Size: 3}}}}, Size: 3}
	_, err = v.s.Commit(bg, []Block{{id, 3}}, []FileWrite{w})
	if !errors.Is(err, ErrLayout) {
		t.Fatal(err)
	}
	inline("abc", true)
	w.ClearInline = true
	_, err = v.s.Commit(bg, []Block{{id, 3}}, []FileWrite{w})
	v.ok(err)
	inline("", false)
	_, err = v.s.Commit(bg, nil, []FileWrite{{Ino: f, SetInline: true, Inline: []byte("x")}})
	if !errors.Is(err, ErrLayout) {
		t.Fatal(err)
	}
	v.truncate(f, 0)
	set("again", 0) // its chunks are gone
	inline("again", true)
	_, _, err = v.s.Inline(bg, 999)
	v.want(err, syscall.ESTALE)
}

func TestCommit(t *testing.T) {
	v := newVolume(t)
	f, g := v.file(vfs.Root, "f"), v.file(vfs.Root, "g")
	first, err := v.s.AllocBlocks(bg, 10)
	v.ok(err)
	gone, err := v.s.Commit(bg, []Block{{first, 1000}, {first + 1, 5000}, {first + 2, 7}}, []FileWrite{
		{Ino: f, Size: 5000, Chunks: []Chunk{{Index: 0, Extents: []Extent{{Pos: 0, Len: 500, Block: first, Size: 1000}, {Pos: 1000, Len: 4000, Block: first + 1, Size: 5000}}}}},
		{Ino: 999, Chunks: []Chunk{{Index: 0, Extents: []Extent{{Len: 10, Block: first + 1, Size: 5000}}}}},
		{Ino: g, Size: 2*chunk + 5, Chunks: []Chunk{{Index: 2, Extents: []Extent{{Len: 5, Block: first, Size: 1000, Off: 500}}}}},
	})
	v.ok(err)
	if !slices.Equal(gone, []bool{false, true, false}) {
		t.Fatal(gone)
	}
	v.verify()
	if got := v.queued(); !slices.Equal(got, []uint64{first + 2}) {
		t.Fatal(got)
	}
	if a := v.attr(f); a.Size != 5000 || a.Blocks != 9 {
		t.Fatal(a)
	}
	if a := v.attr(g); a.Size != 2*chunk+5 || a.Blocks != 1 {
		t.Fatal(a)
	}
	// Overlay in the middle of an extent: it is split, its block has two references.
	_, err = v.s.Commit(bg, []Block{{first + 3, 100}}, []FileWrite{{Ino: f, Chunks: []Chunk{{Extents: []Extent{{Pos: 2000, Len: 100, Block: first + 3, Size: 100}}}}}})
	v.ok(err)
	want := []Extent{{0, 500, first, 1000, 0}, {1000, 1000, first + 1, 5000, 0}, {2000, 100, first + 3, 100, 0}, {2100, 2900, first + 1, 5000, 1100}}
	if got := v.extents(f, 0); !slices.Equal(got, want) {
		t.Fatal(got)
	}
	v.verify()
	// Nothing may be registered twice, nor unknown blocks be used.
	for _, x := range []struct {
		blocks []Block
		w      FileWrite
		errno  syscall.Errno
	}{
		{[]Block{{first, 10}}, FileWrite{Ino: f}, syscall.EINVAL},
		{[]Block{{first + 5, 10}, {first + 5, 10}}, FileWrite{Ino: f}, syscall.EINVAL},
		{[]Block{{0, 10}}, FileWrite{Ino: f}, syscall.EINVAL},
		{[]Block{{first + 5, 0}}, FileWrite{Ino: f}, syscall.EINVAL},
		{[]Block{{first + 5, chunk + 1}}, FileWrite{Ino: f}, syscall.EINVAL},
		{nil, FileWrite{Ino: f, Size: 10, Chunks: []Chunk{{Extents: []Extent{{Len: 1, Block: 12345, Size: 1}}}}}, syscall.EINVAL},
		{nil, FileWrite{Ino: f, Size: chunk << 32}, 0},
		{nil, FileWrite{Ino: f, Size: chunk<<32 + 1}, syscall.EFBIG},
		{nil, FileWrite{Ino: vfs.Root}, syscall.EISDIR},
		{nil, FileWrite{Ino: f, SetInline: true, ClearInline: true}, syscall.EINVAL},
		{nil, FileWrite{Ino: g, SetInline: true, Inline: make([]byte, MaxInlineLimit+1)}, syscall.EINVAL},
	} {
		before := v.extents(f, 0)
		_, err := v.s.Commit(bg, x.blocks, []FileWrite{x.w})
		if vfs.ErrnoOf(err) != x.errno || !slices.Equal(before, v.extents(f, 0)) {
			t.Errorf("%+v: %v", x, err)
		}
	}
	for _, list := range [][]Extent{
		{{Len: 0, Block: first, Size: 1}}, {{Pos: chunk, Len: 1}}, {{Pos: chunk - 1, Len: 2}},
		{{Pos: 0, Len: 2}, {Pos: 1, Len: 1}}, {{Pos: 5, Len: 1}, {Pos: 1, Len: 1}},
		{{Len: 2, Block: first, Size: 1}}, {{Len: 1, Off: 1}}, {{Len: 1, Block: first, Size: 10, Off: 10}},
	} {
		_, err := v.s.Commit(bg, nil, []FileWrite{{Ino: f, Size: 100, Chunks: []Chunk{{Extents: list}}}})
		v.want(err, syscall.EINVAL)
	}
	v.truncate(f, 5000)
	// Times only go forward.
	before := v.attr(f)
	_, err = v.s.Commit(bg, nil, []FileWrite{{Ino: f, Mtime: vfs.Time{Sec: 1}}})
	v.ok(err)
	if a := v.attr(f); a.Mtime != before.Mtime || a.Ctime != before.Ctime {
		t.Fatal(a)
	}
	later := vfs.Time{Sec: 1 << 40, Nsec: 5}
	_, err = v.s.Commit(bg, nil, []FileWrite{{Ino: f, Mtime: later}})
	v.ok(err)
	if a := v.attr(f); a.Mtime != later || a.Ctime != later || a.Size != 5000 {
		t.Fatal(a)
	}
	// Data behind the size does not count.
	_, err = v.s.Commit(bg, []Block{{first + 6, 100}}, []FileWrite{{Ino: f, Size: 5050, Chunks: []Chunk{{Extents: []Extent{{Pos: 5000, Len: 100, Block: first + 6, Size: 100}}}}}})
	v.ok(err)
	v.truncate(f, 6000)
	if got := v.extents(f, 0); got[len(got)-1].end() != 5050 {
		t.Fatal(got)
	}
	v.verify()
	v.unlink(vfs.Root, "f")
	v.unlink(vfs.Root, "g")
	v.verify()
	if got := v.queued(); len(got) != 5 {
		t.Fatal(got)
	}
}

func TestTruncate(t *testing.T) {
	v := newVolume(t)
	f := v.file(vfs.Root, "f")
	for i := range uint64(5) {
		v.write(f, i*chunk, chunk)
	}
	v.truncate(f, 3*chunk+100)
	v.verify()
	if got := v.extents(f, 3); len(got) != 1 || got[0].Len != 100 || got[0].Size != chunk {
		t.Fatal(got)
	}
	v.truncate(f, 10*chunk)
	if got := v.extents(f, 4); len(got) != 0 {
		t.Fatal("what was cut off is back", got)
	}
	if a := v.attr(f); a.Blocks != (3*chunk+100+511)/512 {
		t.Fatal(a)
	}
	v.truncate(f, 2*chunk)
	v.verify()
	v.truncate(f, 0)
	if n := len(v.queued()); n != 5 {
		t.Fatal(n)
	}
	var a vfs.Attr
	v.want(v.s.SetAttr(bg, root, f, &vfs.SetAttr{Valid: vfs.SetSize, Size: chunk<<32 + 1}, &a), syscall.EFBIG)
	v.truncate(f, chunk<<32)
	// Space behind the end, from fallocate, goes with a truncation to the same size.
	g := v.file(vfs.Root, "g")
	v.write(g, 0, 100)
	v.ok(v.s.Allocate(bg, root, g, fallocKeepSize, 0, 3*chunk))
	if a := v.attr(g); a.Size != 100 || a.Blocks != 3*chunk/512 {
		t.Fatal(a)
	}
	v.truncate(g, 100)
	if a := v.attr(g); a.Blocks != 1 {
		t.Fatal(a)
	}
}

// TestBigFile removes and truncates files with more extents than a transaction
// takes.
func TestBigFile(t *testing.T) {
	v := newVolume(t)
	make := func(name string, chunks uint64) vfs.Ino {
		f := v.file(vfs.Root, name)
		v.truncate(f, chunks*chunk)
		for i := range chunks / 1024 {
			var w FileWrite
			w.Ino = f
			id, err := v.s.AllocBlocks(bg, 1)
			v.ok(err)
			for j := range uint32(1024) {
				w.Chunks = append(w.Chunks, Chunk{Index: uint32(i)*1024 + j, Extents: []Extent{{Len: 2, Block: id, Size: 4}, {Pos: 2, Len: 1}, {Pos: 10, Len: 2, Block: id, Size: 4, Off: 2}}})
			}
			_, err = v.s.Commit(bg, []Block{{id, 4}}, []FileWrite{w})
			v.ok(err)
		}
		return f
	}
	f := make("f", 4*1024)
	v.unlink(vfs.Root, "f")
	v.check() // in the middle of it, or not
	v.ok(v.e.reapAll(bg, systemSession))
	var a vfs.Attr
	v.want(v.s.GetAttr(bg, root, f, &a), syscall.ESTALE)
	if n := len(v.queued()); n != 4 {
		t.Fatal(n)
	}
	g := make("g", 12*1024)
	v.truncate(g, chunk+1)
	v.verify()
	if n := len(v.queued()); n != 4+11 {
		t.Fatal(n)
	}
	if got := v.extents(g, 1); len(got) != 1 || got[0].Len != 1 {
		t.Fatal(got)
	}
	// A crash in the middle: the next engine goes on.
	h := make("h", 8*1024)
	v.e.cancel() // the reaper's
	v.e.tasks.Wait()
	v.s.Open(h)
	v.unlink(vfs.Root, "h")
	v.s.Release(h, 1)
	v.verify()
	v.attr(h)
	again := openVolume(t, v.db, v.clock)
	again.ok(again.e.reapAll(bg, systemSession))
	again.want(again.s.GetAttr(bg, root, h, &a), syscall.ESTALE)
	again.verify()
	again.ok(again.e.Close())
	v.e = openVolume(t, v.db, v.clock).e // for the end of the test
}

func TestReplace(t *testing.T) {
	v := newVolume(t)
	f := v.file(vfs.Root, "f")
	v.write(f, 0, 100)
	v.write(f, 100, 100)
	old := v.extents(f, 0)
	before := v.attr(f)
	id, err := v.s.AllocBlocks(bg, 1)
	v.ok(err)
	list := []Extent{{Len: 200, Block: id, Size: 200}}
	if err := v.s.Replace(bg, f, 0, old[:1], list, []Block{{id, 200}}); !errors.Is(err, ErrLayout) {
		t.Fatal(err)
	}
	v.ok(v.s.Replace(bg, f, 0, old, list, []Block{{id, 200}}))
	if got := v.extents(f, 0); !slices.Equal(got, list) || v.attr(f) != before {
		t.Fatal(got)
	}
	v.verify()
	if err := v.s.Replace(bg, f, 1, nil, list, nil); !errors.Is(err, ErrLayout) {
		t.Fatal(err)
	}
}

func TestAllocateAndSeek(t *testing.T) {
	v := newVolume(t)
	f := v.file(vfs.Root, "f")
	v.write(f, 1000, 100)
	v.write(f, 2*chunk, 100)
	seek := func(off int64, whence int, want int64, errno syscall.Errno) {
		t.Helper()
		got, err := v.s.Seek(bg, f, off, whence)
		if vfs.ErrnoOf(err) != errno || err == nil && got != want {
			t.Fatalf("seek %d %d: %d, %v; want %d, %v", off, whence, got, err, want, errno)
		}
	}
	const data, hole = unix.SEEK_DATA, unix.SEEK_HOLE
	check := func() {
		t.Helper()
		seek(0, data, 1000, 0)
		seek(0, hole, 0, 0)
		seek(1000, hole, 1100, 0)
		seek(1050, data, 1050, 0)
		seek(1100, data, 2*chunk, 0)
		seek(1100, hole, 1100, 0)
		seek(2*chunk+99, hole, 2*chunk+100, 0)
		seek(2*chunk+100, data, 0, syscall.ENXIO)
		seek(2*chunk+100, hole, 0, syscall.ENXIO)
		seek(-1, data, 0, syscall.ENXIO)
	}
	check()
	v.ok(v.s.Allocate(bg, root, f, fallocKeepSize, 500, 5*chunk))
	check() // unwritten is a hole
	if a := v.attr(f); a.Size != 2*chunk+100 || a.Blocks != 5*chunk/512 {
		t.Fatal(a)
	}
	v.verify()
	v.ok(v.s.Allocate(bg, root, f, 0, 0, 3*chunk))
	if a := v.attr(f); a.Size != 3*chunk {
		t.Fatal(a)
	}
	seek(2*chunk+100, hole, 2*chunk+100, 0)
	v.ok(v.s.Allocate(bg, root, f, fallocZeroRange|fallocKeepSize, 1020, 20))
	seek(1000, hole, 1020, 0)
	seek(1020, data, 1040, 0)
	before := v.attr(f).Blocks
	v.ok(v.s.Allocate(bg, root, f, fallocPunchHole|fallocKeepSize, 100, 2*chunk))
	seek(0, data, 2*chunk+100-0, syscall.ENXIO)
	v.verify()
	if got := v.attr(f).Blocks; got != before-2*chunk/512 {
		t.Fatal(got, before)
	}
	v.write(f, 0, chunk)
	v.write(f, chunk, chunk)
	seek(0, hole, 2*chunk, 0)
	for _, mode := range []uint32{fallocPunchHole, unix.FALLOC_FL_COLLAPSE_RANGE, unix.FALLOC_FL_INSERT_RANGE, 0x1000} {
		v.want(v.s.Allocate(bg, root, f, mode, 0, 1), syscall.EOPNOTSUPP)
	}
	v.want(v.s.Allocate(bg, root, f, 0, 0, 0), syscall.EINVAL)
	v.want(v.s.Allocate(bg, root, f, 0, 1, 1<<64-1), syscall.EFBIG)
	v.want(v.s.Allocate(bg, root, f, 0, chunk<<32, 1), syscall.EFBIG)
	v.want(v.s.Allocate(bg, root, vfs.Root, 0, 0, 1), syscall.EISDIR)
	_, err := v.s.Seek(bg, f, 0, 0)
	v.want(err, syscall.EINVAL)

	g := v.file(vfs.Root, "g")
	_, err = v.s.Commit(bg, nil, []FileWrite{{Ino: g, SetInline: true, Inline: []byte("data"), Size: 10}})
	v.ok(err)
	f = g
	seek(0, data, 0, 0)
	seek(0, hole, 4, 0)
	seek(4, data, 0, syscall.ENXIO)
	seek(4, hole, 4, 0)
	if err := v.s.Allocate(bg, root, g, 0, 0, 10); !errors.Is(err, ErrLayout) {
		t.Fatal(err)
	}
	v.truncate(g, 4)
	seek(0, hole, 4, 0)
	seek(3, hole, 4, 0)
}

func TestCopyRange(t *testing.T) {
	v := newVolume(t)
	f, g := v.file(vfs.Root, "f"), v.file(vfs.Root, "g")
	a := v.write(f, 0, chunk)
	b := v.write(f, chunk+100, 1000)
	v.write(g, 0, 50)
	v.write(g, 3*chunk, 100)
	v.ok(v.s.CopyRange(bg, root, f, 50, g, 100, chunk+500))
	v.verify()
	// From chunk 0 of f at 50: chunk-50 bytes to 100, then a hole of 100 bytes, then 450 of b.
	if got, want := v.extents(g, 0)[1:], []Extent{{100, chunk - 100, a, chunk, 50}}; !slices.Equal(got, want) {
		t.Fatal(got)
	}
	if got, want := v.extents(g, 1), []Extent{{0, 50, a, chunk, chunk - 50}, {150, 450, b, 1000, 0}}; !slices.Equal(got, want) {
		t.Fatal(got)
	}
	if got := v.attr(g).Size; got != 3*chunk+100 {
		t.Fatal(got)
	}
	v.unlink(vfs.Root, "f") // the blocks live on
	v.verify()
	if got := v.queued(); len(got) != 0 {
		t.Fatal(got)
	}
	v.ok(v.s.CopyRange(bg, root, g, 0, g, 5*chunk, chunk)) // of one file
	v.want(v.s.CopyRange(bg, root, g, 0, g, chunk-1, chunk), syscall.EINVAL)
	if err := v.s.CopyRange(bg, root, g, 6*chunk-10, g, 0, 20); !errors.Is(err, ErrLayout) {
		t.Errorf("a source that is too short: %v", err)
	}
	v.want(v.s.CopyRange(bg, root, g, 0, g, chunk<<32, 20), syscall.EFBIG)
	v.want(v.s.CopyRange(bg, root, 999, 0, g, 0, 20), syscall.ESTALE)
	v.ok(v.s.CopyRange(bg, root, g, 2*chunk, g, 0, chunk)) // a hole over data
	if got := v.extents(g, 0); len(got) != 0 {
		t.Fatal(got)
	}
	h := v.file(vfs.Root, "h")
	_, err := v.s.Commit(bg, nil, []FileWrite{{Ino: h, SetInline: true, Inline: bytes.Repeat([]byte("x"), 100)}})
	v.ok(err)
	if err := v.s.CopyRange(bg, root, h, 0, g, 0, 10); !errors.Is(err, ErrLayout) {
		t.Fatal(err)
	}
	if err := v.s.CopyRange(bg, root, g, 0, h, 0, 10); !errors.Is(err, ErrLayout) {
		t.Fatal(err)
	}
}

func TestIDs(t *testing.T) {
	v := newVolume(t)
	seen := map[uint64]bool{}
	take := func(s Session, n int) {
		t.Helper()
		first, err := s.AllocBlocks(bg, n)
		v.ok(err)
		for id := first; id < first+uint64(n); id++ {
			if id == 0 || seen[id] {
				t.Fatalf("block id %d again", id)
			}
			seen[id] = true
		}
	}
	for i := range 3000 {
		take(v.s, 1+i%7)
	}
	take(v.s, 3*blockBatch)
	_, err := v.s.AllocBlocks(bg, 0)
	v.want(err, syscall.EINVAL)
	v.ok(v.e.Close())
	for range 3 { // a clean end loses none
		again := openVolume(t, v.db, v.clock)
		take(again.s, 1)
		again.ok(again.e.Close())
	}
	top := slices.Max(keys(seen))
	if uint64(len(seen)) < top-2*blockBatch {
		t.Errorf("%d ids of %d were used", len(seen), top)
	}
	v.e = openVolume(t, v.db, v.clock).e
}

func keys(m map[uint64]bool) (list []uint64) {
	for k := range m {
		list = append(list, k)
	}
	return list
}

// A write that says what it is based on is refused when that has changed.
func TestCommitBase(t *testing.T) {
	v := newVolume(t)
	f := v.file(vfs.Root, "f")
	commit := func(w FileWrite, base *FileBase, want error) {
		t.Helper()
		w.Ino, w.Base = f, base
		if _, err := v.s.Commit(bg, nil, []FileWrite{w}); !errors.Is(err, want) {
			t.Fatalf("commit: %v, want %v", err, want)
		}
	}
	abc := InlineSum([]byte("abc"))
	commit(FileWrite{SetInline: true, Inline: []byte("abc")}, &FileBase{}, nil)
	commit(FileWrite{SetInline: true, Inline: []byte("lost")}, &FileBase{}, ErrLayout)
	commit(FileWrite{SetInline: true, Inline: []byte("lost")}, &FileBase{Size: 3, Inline: 7}, ErrLayout)
	commit(FileWrite{ClearInline: true, Size: 3}, &FileBase{Size: 2, Inline: abc}, ErrLayout)
	if data, ok, err := v.s.Inline(bg, f); err != nil || !ok || string(data) != "abc" {
		t.Fatal(string(data), ok, err)
	}
	commit(FileWrite{SetInline: true, Inline: []byte("abcd")}, &FileBase{Size: 3, Inline: abc}, nil)
	v.truncate(f, 100)
	commit(FileWrite{ClearInline: true}, &FileBase{Size: 4, Inline: InlineSum([]byte("abcd"))}, ErrLayout)
	commit(FileWrite{ClearInline: true}, &FileBase{Size: 100, Inline: InlineSum([]byte("abcd"))}, nil)
	commit(FileWrite{Size: 200}, &FileBase{Size: 100}, nil)
	commit(FileWrite{Size: 300}, &FileBase{Size: 100}, ErrLayout)
	if a := v.attr(f); a.Size != 200 || InlineSum(nil) != 0 {
		t.Fatal(a)
	}
}
