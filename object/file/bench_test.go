package file

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// The benchmarks compare the store with the least that plain files could do:
// write, fsync, and nothing else.

func benchmarkPut(b *testing.B, size, parallel int, put func(i int64, data []byte) error) {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	var n atomic.Int64
	b.SetBytes(int64(size))
	b.SetParallelism(max(parallel/2, 1)) // times GOMAXPROCS, 2 on the machines in mind
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := put(n.Add(1), data); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkPut(b *testing.B) {
	for _, size := range []int{4 << 10, 100 << 10, 4 << 20} {
		for _, parallel := range []int{1, 8, 32} {
			name := fmt.Sprintf("%dKiB/%d", size>>10, parallel)
			b.Run("store/"+name, func(b *testing.B) {
				s, err := Open(b.TempDir(), Options{})
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				for i := range 64 { // directories are made once
					if _, err := s.Put(b.Context(), fmt.Sprintf("chunks/%02x/first", i), bytes.NewReader(nil), 0, nil); err != nil {
						b.Fatal(err)
					}
				}
				benchmarkPut(b, size, parallel, func(i int64, data []byte) error {
					_, err := s.Put(context.Background(), fmt.Sprintf("chunks/%02x/%d", i%64, i), bytes.NewReader(data), int64(size), nil)
					return err
				})
			})
			b.Run("plain/"+name, func(b *testing.B) {
				dir := b.TempDir()
				benchmarkPut(b, size, parallel, func(i int64, data []byte) error {
					f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
					if err != nil {
						return err
					}
					defer f.Close()
					if _, err := f.Write(data); err != nil {
						return err
					}
					return f.Sync()
				})
			})
		}
	}
}

func BenchmarkReadRange(b *testing.B) {
	const objects, size = 64, 4 << 20
	s, err := Open(b.TempDir(), Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	data := make([]byte, size)
	var keys [objects]string
	for i := range keys {
		keys[i] = fmt.Sprintf("chunks/%02x/%d", i%8, i)
		if _, err := s.Put(b.Context(), keys[i], bytes.NewReader(data), size, nil); err != nil {
			b.Fatal(err)
		}
	}
	read := func(b *testing.B, get func(key string, p []byte, off int64) error) {
		b.RunParallel(func(pb *testing.PB) {
			p := make([]byte, 4096)
			for pb.Next() {
				if err := get(keys[rand.IntN(objects)], p, rand.Int64N(size/4096)*4096); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	b.Run("store", func(b *testing.B) {
		read(b, func(key string, p []byte, off int64) error {
			_, err := s.ReadRange(context.Background(), key, p, off)
			return err
		})
	})
	b.Run("plain", func(b *testing.B) {
		read(b, func(key string, p []byte, off int64) error {
			f, err := os.Open(filepath.Join(s.Path(), pathOf(key)))
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.ReadAt(p, off)
			return err
		})
	})
}
