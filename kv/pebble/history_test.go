package pebble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/massif-fs/massif/kv"
)

var anyKey = rapid.Custom(func(t *rapid.T) []byte {
	return []byte(rapid.StringMatching(`[ab\x{ff}]{1,3}`).Draw(t, "key"))
})

var anySpan = rapid.Custom(func(t *rapid.T) span {
	s := span{start: rapid.OneOf(anyKey, rapid.Just([]byte{})).Draw(t, "start")}
	if rapid.IntRange(0, 3).Draw(t, "bounded") > 0 {
		s.end = append(bytes.Clone(s.start), anyKey.Draw(t, "end")...)
	}
	return s
})

// TestRecord compares what a record says with what was written.
func TestRecord(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var tx txn
		for _, key := range rapid.SliceOfN(anyKey, 0, 5).Draw(rt, "keys") {
			tx.touch(0, key)
		}
		tx.ranges = rapid.SliceOfN(anySpan, 0, 3).Draw(rt, "ranges")
		if len(tx.writes)+len(tx.ranges) == 0 {
			return
		}
		var r record
		for range rapid.IntRange(1, 2).Draw(rt, "uses") {
			r.list(&tx, recordMax)
		}
		probe := anySpan.Draw(rt, "probe")
		touched := false
		for i := range tx.writes {
			touched = touched || probe.contains(tx.writes[i].key)
		}
		for _, d := range tx.ranges {
			touched = touched || (d.end == nil || bytes.Compare(probe.start, d.end) < 0) && (probe.end == nil || bytes.Compare(d.start, probe.end) < 0)
		}
		if got := r.touches(probe); got != touched {
			rt.Errorf("touches(%q) is %v, want %v", probe, got, touched)
		}
		key := anyKey.Draw(rt, "key")
		deleted := false
		for _, d := range tx.ranges {
			deleted = deleted || d.contains(key)
		}
		if got := r.deletes(key); got != deleted {
			rt.Errorf("deletes(%q) is %v, want %v", key, got, deleted)
		}
	})
}

// TestCoarseRecord: a record too large to list is taken to have written all
// between its first and its last key.
func TestCoarseRecord(t *testing.T) {
	var tx txn
	for i := range 10_000 {
		tx.touch(uint64(i), fmt.Appendf(nil, "k%06d", i*2))
	}
	var r record
	r.list(&tx, recordMax)
	if !r.coarse || len(r.buf) > 100 {
		t.Errorf("coarse: %v, %d bytes", r.coarse, len(r.buf))
	}
	for probe, want := range map[string]bool{"k000001": true, "k000000": true, "a": false, "z": false, "k019998": true, "k019999": false} {
		if got := r.touches(span{[]byte(probe), []byte(probe + "\x00")}); got != want {
			t.Errorf("touches(%s) is %v, want %v", probe, got, want)
		}
		if r.deletes([]byte(probe)) {
			t.Errorf("deletes(%s), but no range was deleted", probe)
		}
	}
	tx.ranges = []span{{start: []byte("k0"), end: []byte("k1")}}
	r.list(&tx, recordMax)
	for probe, want := range map[string]bool{"k000001": true, "k0": true, "a": false, "z": false} {
		if got := r.deletes([]byte(probe)); got != want {
			t.Errorf("with a range, deletes(%s) is %v, want %v", probe, got, want)
		}
	}
}

// TestRingTooShort: a transaction older than the ring must be repeated if it
// scanned, and need not be for its point reads.
func TestRingTooShort(t *testing.T) {
	h := new(history)
	commit := func(hash uint64, key string) {
		var tx txn
		tx.touch(hash, []byte(key))
		tx.record.list(&tx, h.recordLimit())
		h.end(&tx, h.begin())
	}
	commit(1, "a")
	began := h.ended.Load()
	scanned := &txn{began: began, scans: []span{{start: []byte("x")}}}
	read := &txn{began: began, reads: []pointRead{{hash: 2, key: []byte("x")}}}
	for range ringSize {
		commit(1, "a")
	}
	if !h.valid(scanned) || !h.valid(read) {
		t.Error("what nobody wrote is taken for changed")
	}
	commit(1, "a")
	if h.valid(scanned) {
		t.Error("a scan that cannot be checked is taken for valid")
	}
	if !h.valid(read) {
		t.Error("a point read needs the ring")
	}
	commit(2, "x")
	if h.valid(read) {
		t.Error("a change was not seen")
	}
}

// TestRingMemory: large commits do not make the ring grow without bound.
func TestRingMemory(t *testing.T) {
	h := new(history)
	long := bytes.Repeat([]byte("0"), 480)
	for i := range 3 * ringSize {
		var tx txn
		for j := range 20 {
			tx.touch(uint64(j), append(fmt.Appendf(nil, "key %06d %06d", i, j), long...))
		}
		tx.record.list(&tx, h.recordLimit())
		h.end(&tx, h.begin())
	}
	total := 0
	for i := range h.ring {
		total += cap(h.ring[i].buf)
	}
	if total > ringBytes+ringSize*2*recordLean || int64(total) != h.bytes.Load() {
		t.Errorf("%d bytes, counted as %d", total, h.bytes.Load())
	}
}

// TestCounterCache: the cache says what the store says, whatever happens to counters.
func TestCounterCache(t *testing.T) {
	var c counterCache
	key := []byte("n")
	if _, ok := c.get(7, key); ok {
		t.Error("an empty cache knows a counter")
	}
	if _, ok := c.get(0, nil); ok {
		t.Error("a free slot is a counter")
	}
	c.set(7, key, 5)
	if n, ok := c.get(7, key); !ok || n != 5 {
		t.Errorf("%d, %v", n, ok)
	}
	if _, ok := c.get(7, []byte("m")); ok {
		t.Error("a key with the same hash is the same counter")
	}
	c.set(7+512<<32, []byte("m"), 6) // the same slot
	if _, ok := c.get(7, key); ok {
		t.Error("a counter that was replaced is still there")
	}
	var add, put txn
	add.touch(7+512<<32, []byte("m")).kind = addWrite
	put.touch(7+512<<32, []byte("m")).kind = putWrite
	if c.drop(&add); !has(&c, 7+512<<32, "m") {
		t.Error("an Add drops the counter")
	}
	if c.drop(&put); has(&c, 7+512<<32, "m") {
		t.Error("a Put does not drop the counter")
	}
	c.set(7, key, 5)
	ranged := txn{}
	ranged.ranges = []span{{start: []byte("a"), end: []byte("n")}}
	if c.drop(&ranged); !has(&c, 7, "n") {
		t.Error("a range beside it drops the counter")
	}
	ranged.ranges = []span{{start: []byte("n")}}
	if c.drop(&ranged); has(&c, 7, "n") {
		t.Error("a range does not drop the counter")
	}
}

func has(c *counterCache, hash uint64, key string) bool {
	_, ok := c.get(hash, []byte(key))
	return ok
}

// TestMerger: sums come out the same however they are grouped.
func TestMerger(t *testing.T) {
	m, err := counterMerger.Merge([]byte("n"), kv.CounterValue(5))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.MergeNewer(kv.CounterValue(-7)); err != nil {
		t.Fatal(err)
	}
	if err := m.MergeOlder(kv.CounterValue(100)); err != nil {
		t.Fatal(err)
	}
	got, _, err := m.Finish(true)
	if err != nil || !bytes.Equal(got, kv.CounterValue(98)) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := counterMerger.Merge([]byte("n"), []byte("text")); err == nil {
		t.Error("a value that is no counter can be merged")
	}
}

// TestAddMeetsOthers lets others write a counter between the moment when an Add
// reads it ahead of its commit and the commit.
func TestAddMeetsOthers(t *testing.T) {
	ctx := context.Background()
	n := []byte("n")
	for name, other := range map[string]func(tx kv.Txn){
		"nobody": func(tx kv.Txn) {},
		"put":    func(tx kv.Txn) { tx.Put(n, kv.CounterValue(100)) },
		"delete": func(tx kv.Txn) { tx.Delete(n) },
		"range":  func(tx kv.Txn) { tx.DeleteRange([]byte("m"), nil) },
		"add":    func(tx kv.Txn) { tx.Add(n, 50) },
	} {
		want := map[string]int64{"nobody": 12, "put": 107, "delete": 7, "range": 7, "add": 62}[name]
		for _, cached := range []bool{false, true} {
			for _, few := range []int{-1, 512} {
				restore := SetFewKeys(few)
				db, err := Open("db", Options{FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Fatal(err)
				}
				first := func(tx kv.Txn) error { tx.Put(n, kv.CounterValue(5)); return nil }
				if cached {
					first = func(tx kv.Txn) error { tx.Add(n, 5); return nil }
				}
				if err := db.Update(ctx, first); err != nil {
					t.Fatal(err)
				}
				tx := db.txns.Get().(*txn)
				tx.begin()
				tx.Add(n, 7)
				tx.prepareRecord()
				if err := tx.readCounters(); err != nil {
					t.Fatal(err)
				}
				if err := db.Update(ctx, func(tx kv.Txn) error { other(tx); return nil }); err != nil {
					t.Fatal(err)
				}
				if _, err := db.apply(tx); err != nil {
					t.Fatal(err)
				}
				tx.release()
				for range 2 { // as it is read, and as the next Add finds it
					err = db.Update(ctx, func(tx kv.Txn) error {
						v, err := tx.Get(n)
						if err != nil {
							return err
						}
						if got, err := kv.Counter(v); got != want || err != nil {
							t.Errorf("%s, cached %v: counter is %d, want %d; %v", name, cached, got, want, err)
						}
						tx.Add(n, 1)
						return nil
					})
					if err != nil {
						t.Fatal(err)
					}
					want++
				}
				want -= 2
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				restore()
			}
		}
	}
}

// TestEnginePanic: a panic of the engine in a commit ends writing and lets
// nobody hang.
func TestEnginePanic(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	db, err := Open("db", Options{FS: mem, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	put := func(tx kv.Txn) error { tx.Put([]byte("a"), nil); return nil }
	if err := errors.Join(db.Update(ctx, put), db.Sync(ctx)); err != nil {
		t.Fatal(err)
	}
	engine := db.p
	tx := db.txns.Get().(*txn)
	tx.begin()
	tx.Put([]byte("b"), nil)
	tx.prepareRecord()
	db.p = nil // what panics
	_, err = db.apply(tx)
	db.p = engine
	tx.release()
	if !errors.Is(err, kv.ErrUnknown) {
		t.Errorf("commit: %v", err)
	}
	if err := db.Update(ctx, put); err == nil {
		t.Error("Update after a panic succeeds")
	}
	if err := db.Sync(ctx); err == nil {
		t.Error("Sync after a panic succeeds")
	}
	if err := db.Close(); err == nil {
		t.Error("Close after a panic succeeds")
	}
	again, err := Open("db", Options{FS: mem, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("reopen: %v", err)
	}
	if err := errors.Join(again.Update(ctx, put), again.Close()); err != nil {
		t.Error(err)
	}
	_ = engine.Close() // which Close rightly left alone
}
