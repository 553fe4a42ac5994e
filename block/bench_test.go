package block

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/massif-fs/massif/object/file"
	"github.com/massif-fs/massif/object/mem"
	"golang.org/x/sys/unix"
)

// The benchmarks write below TMPDIR; what they measure is this package over a
// directory store, with all of the disk's durability.

func benchStore(b *testing.B, change func(*Config)) *fixture {
	b.Helper()
	objects, err := file.Open(b.TempDir(), file.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { objects.Close() })
	f, err := tryOpen(objects, 300<<20, change)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.shut(b) })
	return f
}

var benchKinds = []struct {
	name string
	kind int
	comp Compression
}{{"random/none", 0, None}, {"random/lz4", 0, LZ4}, {"text/lz4", 1, LZ4}, {"text/zstd", 1, Zstd}}

func BenchmarkPut(b *testing.B) {
	const size = 4 << 20
	for _, k := range benchKinds {
		for _, par := range []int{1, 4} {
			b.Run(fmt.Sprintf("%s/parallel=%d", k.name, par), func(b *testing.B) {
				s := benchStore(b, func(c *Config) { c.Compression = k.comp })
				data := content(1, k.kind, size)
				var id atomic.Uint64
				b.SetBytes(size)
				b.SetParallelism((par + 1) / 2)
				put := func() {
					n := ID(id.Add(1))
					if err := s.Put(context.Background(), n, data[:1<<20], data[1<<20:2<<20], data[2<<20:]); err != nil {
						b.Error(err)
					}
					if n > 16 { // keep the disk from filling up
						if err := s.Delete(context.Background(), []ID{n - 16}); err != nil {
							b.Error(err)
						}
					}
				}
				b.ResetTimer()
				if par == 1 {
					for b.Loop() {
						put()
					}
					return
				}
				b.RunParallel(func(p *testing.PB) {
					for p.Next() {
						put()
					}
				})
			})
		}
	}
}

// BenchmarkEncode is Put without the store.
func BenchmarkEncode(b *testing.B) {
	const size = 4 << 20
	for _, k := range benchKinds {
		b.Run(k.name, func(b *testing.B) {
			s := benchStore(b, func(c *Config) { c.Compression = k.comp })
			data := [][]byte{content(1, k.kind, size)}
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				e, err := s.enc.encode(context.Background(), 1, data)
				if err != nil {
					b.Fatal(err)
				}
				e.close()
			}
		})
	}
}

// BenchmarkPlainFile is what Put is compared with: files written and synced.
func BenchmarkPlainFile(b *testing.B) {
	const size = 4 << 20
	for _, par := range []int{1, 4} {
		b.Run(fmt.Sprintf("parallel=%d", par), func(b *testing.B) {
			dir := b.TempDir()
			data := content(1, 0, size)
			var n atomic.Uint64
			b.SetBytes(size)
			b.SetParallelism((par + 1) / 2)
			put := func() {
				i := n.Add(1)
				f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := f.Write(data); err != nil {
					b.Fatal(err)
				}
				if err := f.Sync(); err != nil {
					b.Fatal(err)
				}
				f.Close()
				if i > 16 {
					os.Remove(filepath.Join(dir, fmt.Sprint(i-16)))
				}
			}
			if par == 1 {
				for b.Loop() {
					put()
				}
				return
			}
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					put()
				}
			})
		})
	}
}

func BenchmarkStage(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 4 << 20} {
		for _, par := range []int{1, 8} {
			b.Run(fmt.Sprintf("%dKiB/parallel=%d", size>>10, par), func(b *testing.B) {
				// The object store takes no disk time, as one behind a network.
				s := benchStore(b, func(c *Config) {
					c.Store = asRemote{mem.New()}
					c.Stage = &StageConfig{Dir: b.TempDir()}
				})
				data := content(1, 0, size)
				var id atomic.Uint64
				b.SetBytes(int64(size))
				b.SetParallelism((par + 1) / 2)
				b.RunParallel(func(p *testing.PB) {
					for p.Next() {
						n := ID(id.Add(1))
						if err := s.Put(context.Background(), n, data); err != nil {
							b.Error(err)
						}
						if n > 16 {
							if err := s.Delete(context.Background(), []ID{n - 16}); err != nil {
								b.Error(err)
							}
						}
					}
				})
			})
		}
	}
}

// BenchmarkPlainSync is what the stage is compared with: appends to one file, each
// synced.
func BenchmarkPlainSync(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 4 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			f, err := os.Create(filepath.Join(b.TempDir(), "f"))
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			data := content(1, 0, size)
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := f.Write(data); err != nil {
					b.Fatal(err)
				}
				if err := unix.Fdatasync(int(f.Fd())); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRead reads blocks that the kernel has in its page cache.
func BenchmarkRead(b *testing.B) {
	const size, blocks = 4 << 20, 16
	for _, k := range benchKinds {
		s := benchStore(b, func(c *Config) { c.Compression = k.comp })
		data := content(1, k.kind, size)
		for id := ID(1); id <= blocks; id++ {
			if err := s.Put(context.Background(), id, data); err != nil {
				b.Fatal(err)
			}
		}
		seq := func(b *testing.B, n int) {
			p := make([]byte, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			pos := 0
			for b.Loop() {
				if err := s.ReadAt(context.Background(), Ref{ID(pos/size%blocks + 1), size}, p, uint32(pos%size)); err != nil {
					b.Fatal(err)
				}
				pos += n
			}
		}
		b.Run(k.name+"/seq1MiB", func(b *testing.B) { seq(b, 1<<20) })
		b.Run(k.name+"/seq128KiB", func(b *testing.B) { seq(b, 128<<10) })
		random := func(b *testing.B, drop bool) {
			rnd := rand.New(rand.NewPCG(1, 1))
			p := make([]byte, 4096)
			b.ReportAllocs()
			for b.Loop() {
				id := ID(rnd.IntN(blocks) + 1)
				off := uint32(rnd.IntN(size/4096)) * 4096
				if drop {
					s.memory.Drop(uint64(id))
				}
				if err := s.ReadAt(context.Background(), Ref{id, size}, p, off); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.Run(k.name+"/random4KiB", func(b *testing.B) { random(b, false) })
		b.Run(k.name+"/random4KiB_nocache", func(b *testing.B) { random(b, true) })
		b.Run(k.name+"/random4KiB_parallel", func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				rnd := rand.New(rand.NewPCG(rand.Uint64(), 1))
				p := make([]byte, 4096)
				for pb.Next() {
					id := ID(rnd.IntN(blocks) + 1)
					if err := s.ReadAt(context.Background(), Ref{id, size}, p, uint32(rnd.IntN(size/4096))*4096); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
