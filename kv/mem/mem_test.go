package mem_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/kvtest"
	"github.com/massif-fs/massif/kv/mem"
)

func TestSuite(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) (kv.DB, func() kv.DB) {
		db := mem.New()
		t.Cleanup(func() { closeIfOpen(t, db) })
		return db, func() kv.DB {
			crashed := db.Crash()
			closeIfOpen(t, db)
			db = crashed
			return db
		}
	})
}

func closeIfOpen(t *testing.T, db kv.DB) {
	if err := db.Close(); err != nil && !errors.Is(err, kv.ErrClosed) {
		t.Errorf("Close: %v", err)
	}
}

// TestCrashAt: each crash point leaves the commits before it.
func TestCrashAt(t *testing.T) {
	ctx := context.Background()
	db := mem.NewWithHistory()
	put := func(i int) {
		if err := db.Update(ctx, func(tx kv.Txn) error { tx.Put(fmt.Append(nil, i), nil); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	put(0)
	put(1)
	if err := db.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	put(2)
	put(3)
	if n := db.Unsynced(); n != 2 {
		t.Errorf("%d commits are not synced, want 2", n)
	}
	for extra, want := range []int{2, 3, 4, 4} {
		count := 0
		err := db.CrashAt(extra).View(ctx, func(r kv.Reader) error {
			return r.Scan(nil, nil, func(_, _ []byte) (bool, error) { count++; return true, nil })
		})
		if err != nil || count != want {
			t.Errorf("CrashAt(%d) leaves %d keys, want %d (%v)", extra, count, want, err)
		}
	}
}
