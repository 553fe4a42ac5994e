package kvtest

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/massif-fs/massif/kv"
)

var durableTests = []test{
	{"Reopen", testReopen},
	{"Prefix", testPrefix},
	{"GroupSync", testGroupSync},
}

func needReopen(t *testing.T, open Opener) (kv.DB, func() kv.DB) {
	db, reopen := open(t)
	if reopen == nil {
		t.Skip("the driver cannot be reopened")
	}
	return db, reopen
}

// testReopen: what was synced is there afterwards, again and again.
func testReopen(t *testing.T, open Opener) {
	db, reopen := needReopen(t, open)
	big := strings.Repeat("x", 3<<20)
	for i := range 4 {
		update(t, db, func(tx kv.Txn) {
			for j := range 100 {
				tx.Put([]byte(key(j)), []byte(fmt.Sprint(i, j)))
			}
			tx.Put([]byte("big"), []byte(big))
			tx.Delete([]byte(key(i)))
			tx.DeleteRange([]byte(key(50)), []byte(key(60)))
			tx.Add([]byte("n"), int64(i))
		})
		update(t, db, func(tx kv.Txn) { tx.Add([]byte("n"), 1) })
		if err := db.Sync(ctx); err != nil {
			t.Fatalf("Sync: %v", err)
		}
		db = reopen()
		wantStored(t, db, key(i), absent, key(49), fmt.Sprint(i, 49), key(50), absent, key(60), fmt.Sprint(i, 60), "big", big)
		view(t, db, func(r kv.Reader) { wantCounter(t, r, "n", int64(i*(i+1)/2+i+1)) })
	}
}

// testPrefix: whatever came after the last Sync, what is there is a prefix of
// the commits that contains all that was synced.
func testPrefix(t *testing.T, open Opener) {
	db, reopen := needReopen(t, open)
	next := 0
	for round := range 5 {
		synced := 0
		for i := range 100 {
			n := next + i
			update(t, db, func(tx kv.Txn) {
				tx.Put([]byte(key(n)), []byte(fmt.Sprint(n)))
				tx.Put([]byte("last"), []byte(fmt.Sprint(n)))
			})
			if i == 30+round*10 {
				if err := db.Sync(ctx); err != nil {
					t.Fatalf("Sync: %v", err)
				}
				synced = n
			}
		}
		db = reopen()
		view(t, db, func(r kv.Reader) {
			count := 0
			if err := r.Scan([]byte("k"), []byte("l"), func(k, v []byte) (bool, error) {
				if string(k) != key(count) || string(v) != fmt.Sprint(count) {
					return false, fmt.Errorf("key %d is %s=%s", count, k, v)
				}
				count++
				return true, nil
			}); err != nil {
				t.Fatal(err)
			}
			if count <= synced {
				t.Errorf("%d commits are there, %d were synced", count, synced+1)
			}
			wantGet(t, r, "last", fmt.Sprint(count-1))
			next = count
		})
	}
}

// testGroupSync: many callers of Sync at a time, each of whom finds its commit
// durable.
func testGroupSync(t *testing.T, open Opener) {
	db, reopen := needReopen(t, open)
	workers, n := 32, rounds(20)
	var synced [32]atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range n {
				put(t, db, fmt.Sprintf("w%02d", w), fmt.Sprint(i))
				if err := db.Sync(ctx); err != nil {
					t.Errorf("Sync: %v", err)
					return
				}
				synced[w].Store(int64(i))
			}
		})
	}
	wg.Wait()
	db = reopen()
	for w := range workers {
		wantStored(t, db, fmt.Sprintf("w%02d", w), fmt.Sprint(synced[w].Load()))
	}
}
