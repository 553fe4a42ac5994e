package s3

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
)

func BenchmarkPut(b *testing.B) {
	for _, size := range []int{4 << 10, 4 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			s := mustOpen(b, serverConfig(b))
			data := make([]byte, size)
			var n atomic.Int64
			b.SetBytes(int64(size))
			b.SetParallelism(4)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := s.Put(context.Background(), fmt.Sprint("k", n.Add(1)%32), bytes.NewReader(data), int64(size), nil); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func BenchmarkReadRange(b *testing.B) {
	s := mustOpen(b, serverConfig(b))
	const size = 4 << 20
	if _, err := s.Put(b.Context(), "k", bytes.NewReader(make([]byte, size)), size, nil); err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{4 << 10, 1 << 20, size} {
		b.Run(fmt.Sprintf("%dKiB", n>>10), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.SetParallelism(4)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				p := make([]byte, n)
				for pb.Next() {
					if _, err := s.ReadRange(context.Background(), "k", p, rand.Int64N(int64(size-n+1))); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
