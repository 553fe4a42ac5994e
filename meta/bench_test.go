package meta

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/kv/pebble"
	"github.com/massif-fs/massif/vfs"
)

// benchVolume is a volume on the embedded store, on this machine's disk.
func benchVolume(b *testing.B, change ...func(*Format)) *testVolume {
	b.Helper()
	db, err := pebble.Open(b.TempDir(), pebble.Options{})
	if err != nil {
		b.Fatal(err)
	}
	f := testFormat()
	for _, c := range change {
		c(&f)
	}
	if err := Create(bg, db, f); err != nil {
		b.Fatal(err)
	}
	e, err := Open(bg, db, Options{Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	s, err := e.NewSession(bg, SessionInfo{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := e.Close(); err != nil {
			b.Error(err)
		}
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	return &testVolume{TB: b, db: db, e: e, s: s}
}

func names(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("file-%08d", i)
	}
	return list
}

func (v *testVolume) files(dir vfs.Ino, names []string) []vfs.Ino {
	v.Helper()
	inos := make([]vfs.Ino, len(names))
	for i, name := range names {
		inos[i] = v.file(dir, name)
	}
	return inos
}

func BenchmarkLookup(b *testing.B) {
	v := benchVolume(b)
	list := names(10000)
	v.files(vfs.Root, list)
	b.ReportAllocs()
	var a vfs.Attr
	for i := 0; b.Loop(); i++ {
		v.ok(v.s.Lookup(bg, root, vfs.Root, list[i%len(list)], &a))
	}
}

func BenchmarkLookupMissing(b *testing.B) {
	v := benchVolume(b)
	v.files(vfs.Root, names(10000))
	b.ReportAllocs()
	var a vfs.Attr
	for b.Loop() {
		v.want(v.s.Lookup(bg, root, vfs.Root, "missing", &a), syscall.ENOENT)
	}
}

func BenchmarkGetAttr(b *testing.B) {
	v := benchVolume(b)
	inos := v.files(vfs.Root, names(10000))
	b.ReportAllocs()
	var a vfs.Attr
	for i := 0; b.Loop(); i++ {
		v.ok(v.s.GetAttr(bg, root, inos[i%len(inos)], &a))
	}
}

func BenchmarkCreate(b *testing.B) { benchCreate(b, benchVolume(b)) }

func BenchmarkCreateWithHistory(b *testing.B) { benchCreate(b, benchVolume(b, withHistory)) }

func benchCreate(b *testing.B, v *testVolume) {
	b.ReportAllocs()
	list := names(1 << 20)
	var a vfs.Attr
	dir := vfs.Ino(0)
	for i := 0; b.Loop(); i++ {
		if i%10000 == 0 {
			dir = v.mkdir(vfs.Root, fmt.Sprint("d", i))
		}
		v.ok(v.s.Mknod(bg, root, dir, list[i%len(list)], syscall.S_IFREG|0o644, 0, &a))
	}
}

func BenchmarkCreateParallel(b *testing.B) {
	v := benchVolume(b)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		var a vfs.Attr
		var dir vfs.Attr
		name := ""
		for i := 0; p.Next(); i++ {
			if i%10000 == 0 {
				v.ok(v.s.Mkdir(bg, root, vfs.Root, fmt.Sprintf("%p-%d", &a, i), 0o755, &dir))
			}
			name = fmt.Sprintf("f%d", i)
			v.ok(v.s.Mknod(bg, root, dir.Ino, name, syscall.S_IFREG|0o644, 0, &a))
		}
	})
}

func BenchmarkUnlink(b *testing.B) {
	v := benchVolume(b)
	list := names(b.N)
	v.files(vfs.Root, list)
	b.ReportAllocs()
	b.ResetTimer()
	var a vfs.Attr
	for i := 0; i < b.N; i++ {
		v.ok(v.s.Unlink(bg, root, vfs.Root, list[i], &a))
	}
}

func BenchmarkRename(b *testing.B) {
	v := benchVolume(b)
	list := names(10000)
	v.files(vfs.Root, list)
	dirs := []vfs.Ino{vfs.Root, v.mkdir(vfs.Root, "to")}
	b.ReportAllocs()
	var a vfs.Attr
	for i := 0; b.Loop(); i++ {
		k := i / len(list) % 2
		v.ok(v.s.Rename(bg, root, dirs[k], list[i%len(list)], dirs[1-k], list[i%len(list)], 0, &a))
	}
}

func BenchmarkReadDirPlus(b *testing.B) {
	v := benchVolume(b)
	v.files(vfs.Root, names(10000))
	v.e.cache = newAttrCache(1)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		v.ok(v.s.ReadDir(bg, root, vfs.Root, 0, true, func(d *vfs.DirEntry) bool {
			n++
			return true
		}))
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkCommitInline(b *testing.B) {
	v := benchVolume(b)
	inos := v.files(vfs.Root, names(10000))
	data := make([]byte, 1000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_, err := v.s.Commit(bg, nil, []FileWrite{{Ino: inos[i%len(inos)], SetInline: true, Inline: data, Mtime: vfs.Now()}})
		v.ok(err)
	}
}

func BenchmarkCommitBlock(b *testing.B) {
	v := benchVolume(b)
	inos := v.files(vfs.Root, names(10000))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		v.write(inos[i%len(inos)], uint64(i/len(inos))*1000, 1000)
	}
}

func BenchmarkReadInline(b *testing.B) {
	v := benchVolume(b)
	inos := v.files(vfs.Root, names(10000))
	data := make([]byte, 1000)
	for _, ino := range inos {
		_, err := v.s.Commit(bg, nil, []FileWrite{{Ino: ino, SetInline: true, Inline: data}})
		v.ok(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_, _, err := v.s.Inline(bg, inos[i%len(inos)])
		v.ok(err)
	}
}

// fragmented is a chunk of 4 MiB that was written in random order in pieces of
// 4 KiB.
func fragmented() []Extent {
	list := make([]Extent, 1024)
	for i := range list {
		list[i] = Extent{Pos: uint32(i) << 12, Len: 4096, Block: 1<<20 + uint64(i*7919%1024)*3, Size: 128 << 10, Off: uint32(i%32) << 12}
	}
	return list
}

func BenchmarkChunkDecode(b *testing.B) {
	rec := encodeChunk(nil, fragmented())
	b.ReportMetric(float64(len(rec)), "bytes")
	var list []Extent
	for b.Loop() {
		var err error
		if list, err = decodeChunk(list[:0], rec); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkChunkEncode(b *testing.B) {
	list := fragmented()
	var rec []byte
	for b.Loop() {
		rec = encodeChunk(rec[:0], list)
	}
}

func BenchmarkChunkOverlay(b *testing.B) {
	list := fragmented()
	top := []Extent{{Pos: 512 << 12, Len: 4096, Block: 7, Size: 4096}}
	var dst []Extent
	for b.Loop() {
		dst = overlayExtents(dst[:0], list, top)
	}
}

// BenchmarkCommitFragmented overwrites 4 KiB in each of 32 such chunks.
func BenchmarkCommitFragmented(b *testing.B) {
	v := benchVolume(b, func(f *Format) { f.ChunkSize = 4 << 20 })
	f := v.file(vfs.Root, "f")
	const chunks = 32
	var blocks []Block
	var w FileWrite
	first, err := v.s.AllocBlocks(bg, 1024)
	v.ok(err)
	for i := range uint64(1024) {
		blocks = append(blocks, Block{first + i, 128 << 10})
	}
	for i := range uint32(chunks) {
		list := fragmented()
		for j := range list {
			list[j].Block = first + uint64(j*7919%1024)
		}
		w.Chunks = append(w.Chunks, Chunk{i, list})
	}
	w.Ino, w.Size = f, chunks*4<<20
	_, err = v.s.Commit(bg, blocks, []FileWrite{w})
	v.ok(err)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		id, err := v.s.AllocBlocks(bg, 1)
		v.ok(err)
		w := FileWrite{Ino: f}
		for i := range uint32(chunks) {
			w.Chunks = append(w.Chunks, Chunk{i, []Extent{{Pos: uint32(n*769%1024) << 12, Len: 4096, Block: id, Size: 128 << 10, Off: i << 12}}})
		}
		_, err = v.s.Commit(bg, []Block{{id, 128 << 10}}, []FileWrite{w})
		v.ok(err)
	}
	b.ReportMetric(b.Elapsed().Seconds()*1e6/float64(b.N)/chunks, "µs/chunk")
}
