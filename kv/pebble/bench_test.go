package pebble_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/pebble"
)

func benchOpen(b *testing.B) *pebble.DB {
	db, err := pebble.Open(b.TempDir(), pebble.Options{Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	return db
}

// creator does what the creation of a file in a directory of its own does: it
// reads the directory's inode, the free name and a limit, and writes the inode,
// the name, the directory and a counter.
type creator struct {
	db                         *pebble.DB
	parent, limit, usage, name []byte
	inode                      []byte
	value                      [80]byte
	next                       uint64
	add                        bool
}

func newCreator(db *pebble.DB, id int) *creator {
	c := &creator{db: db, next: uint64(id) << 32}
	c.parent = fmt.Appendf(nil, "i%08d", id)
	c.limit = []byte("limit")
	c.usage = fmt.Appendf(nil, "u%08d", id)
	c.name = fmt.Appendf(nil, "d%08d/file00000000", id)
	c.inode = make([]byte, 9)
	c.inode[0] = 'n'
	return c
}

func (c *creator) create(ctx context.Context) error {
	c.next++
	binary.BigEndian.PutUint64(c.inode[1:], c.next)
	binary.BigEndian.PutUint64(c.name[len(c.name)-8:], c.next)
	return c.db.Update(ctx, func(tx kv.Txn) error {
		if _, err := tx.Get(c.parent); err != nil && err != kv.ErrNotFound {
			return err
		}
		if _, err := tx.Get(c.name); err != kv.ErrNotFound {
			return fmt.Errorf("exists: %w", err)
		}
		if _, err := tx.Get(c.limit); err != nil && err != kv.ErrNotFound {
			return err
		}
		tx.Put(c.inode, c.value[:])
		tx.Put(c.name, c.inode)
		tx.Put(c.parent, c.value[:])
		if c.add {
			tx.Add(c.usage, 1)
		} else {
			tx.Put(c.usage, c.value[:8])
		}
		return nil
	})
}

func benchCreate(b *testing.B, callers int, sync, add bool) {
	ctx := context.Background()
	db := benchOpen(b)
	b.ReportAllocs()
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	done := make(chan error, callers)
	for i := range callers {
		go func() {
			c := newCreator(db, i)
			c.add = add
			for left.Add(-1) >= 0 {
				err := c.create(ctx)
				if err == nil && sync {
					err = db.Sync(ctx)
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range callers {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	m := db.Metrics()
	b.ReportMetric(float64(m.Conflicts)/float64(b.N), "conflicts/op")
	if sync {
		b.ReportMetric(float64(m.LogFlushes)/float64(b.N), "flushes/op")
	}
}

func BenchmarkCreateTxn(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) { benchCreate(b, callers, false, false) })
	}
	b.Run("callers=1/counter", func(b *testing.B) { benchCreate(b, 1, false, true) })
}

func BenchmarkDurable(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) { benchCreate(b, callers, true, false) })
	}
}

func BenchmarkGet(b *testing.B) {
	ctx := context.Background()
	db := benchOpen(b)
	const n = 200_000
	key := make([]byte, 9)
	value := make([]byte, 80)
	for i := 0; i < n; i += 1000 {
		err := db.Update(ctx, func(tx kv.Txn) error {
			for j := range 1000 {
				binary.BigEndian.PutUint64(key[1:], uint64(i+j)*0x9e3779b97f4a7c15)
				tx.Put(key, value)
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	get := func(b *testing.B, run func(i uint64) error) {
		b.ReportAllocs()
		for i := range uint64(b.N) {
			binary.BigEndian.PutUint64(key[1:], (i*7919%n)*0x9e3779b97f4a7c15)
			if err := run(i); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("View", func(b *testing.B) {
		get(b, func(uint64) error {
			return db.View(ctx, func(r kv.Reader) error { _, err := r.Get(key); return err })
		})
	})
	b.Run("Update", func(b *testing.B) {
		get(b, func(uint64) error {
			return db.Update(ctx, func(tx kv.Txn) error { _, err := tx.Get(key); return err })
		})
	})
	b.Run("Scan10", func(b *testing.B) {
		get(b, func(uint64) error {
			return db.View(ctx, func(r kv.Reader) error {
				left := 10
				return r.Scan(key, nil, func(_, _ []byte) (bool, error) { left--; return left > 0, nil })
			})
		})
	})
}

// BenchmarkEngine does what BenchmarkCreateTxn does on the storage engine alone,
// without transactions: what they cost is the difference.
func BenchmarkEngine(b *testing.B) {
	engine := benchOpen(b).Engine()
	c := newCreator(nil, 0)
	b.ReportAllocs()
	for range b.N {
		c.next++
		binary.BigEndian.PutUint64(c.inode[1:], c.next)
		binary.BigEndian.PutUint64(c.name[len(c.name)-8:], c.next)
		for _, key := range [][]byte{c.parent, c.name, c.limit} {
			if _, closer, err := engine.Get(key); err == nil {
				err = closer.Close()
				if err != nil {
					b.Fatal(err)
				}
			} else if err != pebble.EngineNotFound {
				b.Fatal(err)
			}
		}
		batch := engine.NewBatch()
		err := errors.Join(
			batch.Set(c.inode, c.value[:], nil),
			batch.Set(c.name, c.inode, nil),
			batch.Set(c.parent, c.value[:], nil),
			batch.Set(c.usage, c.value[:8], nil),
			batch.Commit(pebble.EngineNoSync),
			batch.Close())
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEngineSync is what a flush of the log costs without Sync around it.
func BenchmarkEngineSync(b *testing.B) {
	engine := benchOpen(b).Engine()
	for range b.N {
		if err := engine.Set([]byte("key"), []byte("value"), pebble.EngineSync); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSync(b *testing.B) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	db := benchOpen(b)
	for range b.N {
		if err := db.Update(ctx, func(tx kv.Txn) error { tx.Put([]byte("key"), []byte("value")); return nil }); err != nil {
			b.Fatal(err)
		}
		if err := db.Sync(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDeleteRange removes a few keys with a range, next to reads.
func BenchmarkDeleteRange(b *testing.B) {
	ctx := context.Background()
	db := benchOpen(b)
	for i := range b.N {
		prefix := fmt.Appendf(nil, "k%08d/", i)
		err := db.Update(ctx, func(tx kv.Txn) error {
			for j := range byte(4) {
				tx.Put(append(prefix, j), prefix)
			}
			return nil
		})
		if err == nil {
			err = db.Update(ctx, func(tx kv.Txn) error {
				if _, err := tx.Get([]byte("other")); err != kv.ErrNotFound {
					return err
				}
				tx.DeleteRange(prefix, kv.PrefixEnd(prefix))
				return nil
			})
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
