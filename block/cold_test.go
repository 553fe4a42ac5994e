package block

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/massif-fs/massif/object/file"
	"golang.org/x/sys/unix"
)

// evict drops the files below dir from the kernel's page cache.
func evict(t testing.TB, dir string) {
	unix.Sync()
	filepath.Walk(dir, func(name string, i os.FileInfo, err error) error {
		if err == nil && i.Mode().IsRegular() {
			if f, err := os.Open(name); err == nil {
				unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
				f.Close()
			}
		}
		return nil
	})
}

// BenchmarkCold reads blocks that are not in the kernel's page cache.
func BenchmarkCold(b *testing.B) {
	const size, blocks = 4 << 20, 64
	dir := b.TempDir()
	objects, err := file.Open(dir, file.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer objects.Close()
	s, err := tryOpen(objects, 300<<20, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer s.shut(b)
	for id := ID(1); id <= blocks; id++ {
		if err := s.Put(context.Background(), id, content(uint64(id), 0, size)); err != nil {
			b.Fatal(err)
		}
	}
	cold := func(b *testing.B) {
		b.StopTimer()
		evict(b, dir)
		s.DropCaches()
		b.StartTimer()
	}
	p := make([]byte, 1<<20)
	for _, step := range []int{128 << 10, 1 << 20} {
		for _, ahead := range []bool{false, true} {
			name := "seq128KiB"
			if step == 1<<20 {
				name = "seq1MiB"
			}
			if ahead {
				name += "/ahead"
			}
			b.Run(name, func(b *testing.B) {
				b.SetBytes(size * blocks)
				for range b.N {
					cold(b)
					w := s.NewWindow()
					for off := int64(0); off < size*blocks; off += int64(step) {
						if ahead {
							po, pn := w.Next(off, int64(step))
							for pn > 0 && po < size*blocks {
								n := min(pn, size-po%size)
								s.Prefetch(Ref{ID(po/size + 1), size}, uint32(po%size), uint32(n))
								po, pn = po+n, pn-n
							}
						}
						if err := s.ReadAt(context.Background(), Ref{ID(off/size + 1), size}, p[:step], uint32(off%size)); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
	b.Run("plain", func(b *testing.B) {
		b.SetBytes(size * blocks)
		for range b.N {
			cold(b)
			filepath.Walk(dir, func(name string, i os.FileInfo, err error) error {
				if err == nil && i.Size() > 1<<20 {
					f, err := os.Open(name)
					if err != nil {
						b.Fatal(err)
					}
					for {
						if n, _ := f.Read(p); n == 0 {
							break
						}
					}
					f.Close()
				}
				return nil
			})
		}
	})
	b.Run("random4KiB", func(b *testing.B) {
		rnd := rand.New(rand.NewPCG(1, 1))
		cold(b)
		for b.Loop() {
			if err := s.ReadAt(context.Background(), Ref{ID(rnd.IntN(blocks) + 1), size}, p[:4096], uint32(rnd.IntN(size/4096))*4096); err != nil {
				b.Fatal(err)
			}
		}
	})
}
