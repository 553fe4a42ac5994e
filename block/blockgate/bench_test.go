package blockgate

import (
	"bytes"
	"context"
	"log/slog"
	"testing"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/internal/testserver"
	"github.com/massif-fs/massif/object"
)

// BenchmarkBlock compares the ways of a 4 MiB block: straight to the bucket with
// its credentials, by signed requests, and through the server.
//
//	go test -run '^$' -bench Block -count 6 ./block/blockgate
func BenchmarkBlock(b *testing.B) {
	const size = 4 << 20
	endpoint, bucket, creds := testserver.S3(b)
	direct := openS3(b, endpoint, bucket, creds)
	signed := newWorld(b, direct, func(cfg *Config) { cfg.Logger = slog.New(slog.DiscardHandler) })
	through := newWorld(b, direct, func(cfg *Config) { cfg.Logger = slog.New(slog.DiscardHandler) })
	through.volume.NoSigning = true
	through.next = 1 << 30
	data := content(1, size)
	ways := []struct {
		name  string
		store object.Store
		alloc func() block.ID
	}{{"direct", direct, nil}, {"signed", nil, nil}, {"through", nil, nil}}
	next := block.ID(1 << 40)
	ways[0].alloc = func() block.ID { next++; return next }
	for i, w := range []*world{signed, through} {
		s := w.session(true)
		ways[i+1].store, ways[i+1].alloc = w.client(b, s, nil), s.alloc
	}
	for _, way := range ways {
		b.Run("put/"+way.name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				if _, err := way.store.Put(context.Background(), block.Key(block.DefaultPrefix, way.alloc()), bytes.NewReader(data), size, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for _, way := range ways {
		key := block.Key(block.DefaultPrefix, way.alloc())
		if _, err := way.store.Put(context.Background(), key, bytes.NewReader(data), size, nil); err != nil {
			b.Fatal(err)
		}
		p := make([]byte, size)
		b.Run("get/"+way.name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				if _, err := object.ReadRange(context.Background(), way.store, key, p, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("get64K/"+way.name, func(b *testing.B) {
			b.SetBytes(64 << 10)
			for b.Loop() {
				if _, err := object.ReadRange(context.Background(), way.store, key, p[:64<<10], 1<<20); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkGrants is what the gate needs for a request of 32 reads, all signed.
func BenchmarkGrants(b *testing.B) {
	endpoint, bucket, creds := testserver.S3(b)
	w := newWorld(b, openS3(b, endpoint, bucket, creds), func(cfg *Config) { cfg.Logger = slog.New(slog.DiscardHandler) })
	s := w.session(true)
	c := w.client(b, s, nil)
	var q grantRequest
	for i := range 32 {
		q.Reads = append(q.Reads, readRequest{Block: uint64(i + 1)})
	}
	for b.Loop() {
		if _, err := c.askGrants(b.Context(), &q); err != nil {
			b.Fatal(err)
		}
	}
}
