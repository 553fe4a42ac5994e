package pebble_test

import (
	"errors"
	"log/slog"
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
