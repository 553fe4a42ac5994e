package pebble_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/kvtest"
	"github.com/massif-fs/massif/kv/pebble"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("KV_PEBBLE_CHILD"); role != "" {
		os.Exit(child(role)) // crash_test.go
	}
	// Pebble leaves this one behind when it fails late in Open.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/cockroachdb/pebble/v2.(*ConcurrencyLimitScheduler).periodicGranter"))
}

var quiet = slog.New(slog.DiscardHandler)

func TestSuite(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) (kv.DB, func() kv.DB) { return openDir(t, t.TempDir(), pebble.Options{}) })
}

// TestSuiteSmall runs the suite with tables in memory so small that flushes and
// merges happen all the time, and ranges always deleted as such.
func TestSuiteSmall(t *testing.T) {
	defer pebble.SetFewKeys(-1)()
	kvtest.Run(t, func(t *testing.T) (kv.DB, func() kv.DB) {
		return openDir(t, t.TempDir(), pebble.Options{CacheBytes: 1 << 20, MemTableBytes: 64 << 10})
	})
}

// TestDeleteAllAndMerge: a range without a beginning stays deleted when tables are
// merged, which happens all the time here.
func TestDeleteAllAndMerge(t *testing.T) {
	defer pebble.SetFewKeys(-1)()
	db, reopen := openDir(t, t.TempDir(), pebble.Options{CacheBytes: 1 << 20, MemTableBytes: 64 << 10})
	r := rand.New(rand.NewPCG(1, 2))
	update := func(fn func(tx kv.Txn)) {
		t.Helper()
		if err := db.Update(t.Context(), func(tx kv.Txn) error { fn(tx); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	for round := range uint16(300) {
		update(func(tx kv.Txn) { tx.DeleteRange(nil, nil) })
		for range 1 + r.IntN(8) {
			update(func(tx kv.Txn) {
				for range r.IntN(40) {
					if key := byte(r.IntN(100)); r.IntN(8) == 0 {
						tx.DeleteRange([]byte{key}, nil) // fills the table in memory
					} else {
						tx.Put([]byte{key}, binary.BigEndian.AppendUint16(nil, round))
					}
				}
			})
		}
		if r.IntN(20) == 0 {
			db = reopen()
		}
		err := db.View(t.Context(), func(r kv.Reader) error {
			return r.Scan(nil, nil, func(k, v []byte) (bool, error) {
				if of := binary.BigEndian.Uint16(v); of != round {
					return false, fmt.Errorf("key %v of round %d is back", k, of)
				}
				return true, nil
			})
		})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}

func openDir(t *testing.T, dir string, o pebble.Options) (kv.DB, func() kv.DB) {
	if o.Logger == nil {
		o.Logger = quiet
	}
	db, err := pebble.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIfOpen(t, db) })
	return db, func() kv.DB {
		closeIfOpen(t, db)
		if db, err = pebble.Open(dir, o); err != nil {
			t.Fatal(err)
		}
		return db
	}
}

func closeIfOpen(t *testing.T, db kv.DB) {
	if err := db.Close(); err != nil && !errors.Is(err, kv.ErrClosed) {
		t.Errorf("Close: %v", err)
	}
}
