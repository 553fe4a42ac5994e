package faulty_test

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/faulty"
	"github.com/massif-fs/massif/kv/kvtest"
	"github.com/massif-fs/massif/kv/mem"
)

var ctx = context.Background()

// TestSuite: without rules, and with repeats only, the wrapper keeps the contract.
func TestSuite(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) (kv.DB, func() kv.DB) {
		inner := mem.New()
		db := faulty.New(inner, 1)
		db.Repeat(faulty.Chance(0.3))
		db.Delay(faulty.Commit, faulty.Every(50), 10*time.Microsecond)
		t.Cleanup(func() {
			if err := db.Close(); err != nil && !errors.Is(err, kv.ErrClosed) {
				t.Error(err)
			}
		})
		return db, func() kv.DB {
			inner = inner.Crash()
			return faulty.New(inner, 2)
		}
	})
}

func put(db kv.DB, key string) error {
	return db.Update(ctx, func(tx kv.Txn) error { tx.Put([]byte(key), nil); return nil })
}

func keys(t *testing.T, db kv.DB) string {
	out := ""
	if err := db.View(ctx, func(r kv.Reader) error {
		out = ""
		return r.Scan(nil, nil, func(k, _ []byte) (bool, error) { out += string(k); return true, nil })
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestFail(t *testing.T) {
	db := faulty.New(mem.New(), 1)
	db.Fail(faulty.Commit, faulty.Nth(2), syscall.EIO)
	for i, k := range []string{"a", "b", "c"} {
		if err := put(db, k); (i == 1) != errors.Is(err, syscall.EIO) {
			t.Errorf("commit %d: %v", i+1, err)
		}
	}
	if got := keys(t, db); got != "ac" {
		t.Errorf("keys are %q", got)
	}
	db.Fail(faulty.Get, faulty.Always, syscall.EIO)
	db.Fail(faulty.Next, faulty.Nth(2), syscall.EBADMSG)
	db.Fail(faulty.Sync, faulty.From(2), syscall.ENOSPC)
	err := db.View(ctx, func(r kv.Reader) error {
		if _, err := r.Get([]byte("a")); !errors.Is(err, syscall.EIO) {
			t.Errorf("Get: %v", err)
		}
		n := 0
		err := r.ScanReverse(nil, nil, func(_, _ []byte) (bool, error) { n++; return true, nil })
		if n != 1 {
			t.Errorf("scan failed after %d keys", n)
		}
		return err
	})
	if !errors.Is(err, syscall.EBADMSG) {
		t.Errorf("View: %v", err)
	}
	for i := range 3 {
		if err := db.Sync(ctx); (i > 0) != errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Sync %d: %v", i+1, err)
		}
	}
	if db.Faults() != 5 || db.Calls(faulty.Sync) != 3 {
		t.Errorf("%d faults, %d syncs", db.Faults(), db.Calls(faulty.Sync))
	}
	db.Clear()
	if err := db.Sync(ctx); err != nil {
		t.Error(err)
	}
}

func TestDelayEndsWithContext(t *testing.T) {
	db := faulty.New(mem.New(), 1)
	db.Delay(faulty.Sync, faulty.Always, time.Hour)
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	if err := db.Sync(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Sync: %v", err)
	}
}

// TestCrashPoints takes what a crash would leave at each point.
func TestCrashPoints(t *testing.T) {
	inner := mem.New()
	db := faulty.New(inner, 1)
	var got []string
	db.Hook(func(p faulty.Point) {
		got = append(got, fmt.Sprintf("%s:%s/%s", p, keys(t, inner), keys(t, inner.Crash())))
	})
	if err := errors.Join(put(db, "a"), db.Sync(ctx), put(db, "b")); err != nil {
		t.Fatal(err)
	}
	want := "[before commit:/ after commit:a/ before sync:a/ after sync:a/a before commit:a/a after commit:ab/a]"
	if fmt.Sprint(got) != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
}
