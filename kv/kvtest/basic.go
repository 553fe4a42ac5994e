package kvtest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/kv"
)

var basicTests = []test{
	{"Empty", opened(testEmpty)},
	{"PutGetDelete", opened(testPutGetDelete)},
	{"OwnWrites", opened(testOwnWrites)},
	{"ReusedBuffers", opened(testReusedBuffers)},
	{"SlicesLastUntilTheEnd", opened(testSlicesLast)},
	{"DeleteRange", opened(testDeleteRange)},
	{"DeleteLargeRange", opened(testDeleteLargeRange)},
	{"Counter", opened(testCounter)},
	{"CounterAndDelete", opened(testCounterAndDelete)},
	{"CounterMisuse", opened(testCounterMisuse)},
	{"Rollback", opened(testRollback)},
	{"Panic", opened(testPanic)},
	{"Limits", opened(testLimits)},
	{"LargeValues", opened(testLargeValues)},
	{"ManyWrites", opened(testManyWrites)},
	{"Context", opened(testContext)},
	{"Nested", opened(testNested)},
	{"Closed", opened(testClosed)},
	{"CloseWaits", opened(testCloseWaits)},
}

func testEmpty(t *testing.T, db kv.DB) {
	view(t, db, func(r kv.Reader) {
		wantGet(t, r, "a", absent)
		wantList(t, r, "", "", "")
		wantReverse(t, r, "", "", "")
	})
	update(t, db, func(tx kv.Txn) {}) // writes nothing
	if err := db.Sync(ctx); err != nil {
		t.Errorf("Sync of an empty database: %v", err)
	}
	view(t, db, func(r kv.Reader) {}) // reads nothing
}

func testPutGetDelete(t *testing.T, db kv.DB) {
	put(t, db, "a", "1", "b", "", "c\x00\xff", "\x00")
	wantStored(t, db, "a", "1", "b", "", "c\x00\xff", "\x00", "c", absent, "c\x00", absent)
	put(t, db, "a", "2")
	update(t, db, func(tx kv.Txn) {
		tx.Delete([]byte("b"))
		tx.Delete([]byte("never there"))
	})
	wantStored(t, db, "a", "2", "b", absent)
	put(t, db, "b", "again")
	wantStored(t, db, "b", "again")

	// The error is ErrNotFound itself, so that callers can compare.
	view(t, db, func(r kv.Reader) {
		if _, err := r.Get([]byte("x")); err != kv.ErrNotFound {
			t.Errorf("Get of an absent key: %v, want ErrNotFound itself", err)
		}
	})
}

func testOwnWrites(t *testing.T, db kv.DB) {
	put(t, db, "a", "old", "b", "old")
	update(t, db, func(tx kv.Txn) {
		wantGet(t, tx, "a", "old")
		tx.Put([]byte("a"), []byte("new"))
		wantGet(t, tx, "a", "new")
		tx.Put([]byte("a"), []byte("newer"))
		wantGet(t, tx, "a", "newer")
		tx.Delete([]byte("b"))
		wantGet(t, tx, "b", absent)
		tx.Put([]byte("b"), nil)
		wantGet(t, tx, "b", "")
		tx.Put([]byte("c"), []byte("mine"))
		tx.Delete([]byte("c"))
		wantGet(t, tx, "c", absent)
		wantStored(t, db, "a", "old", "b", "old") // not visible outside yet
	})
	wantStored(t, db, "a", "newer", "b", "", "c", absent)
}

func testReusedBuffers(t *testing.T, db kv.DB) {
	update(t, db, func(tx kv.Txn) {
		key, value := []byte("key1"), []byte("value1")
		tx.Put(key, value)
		copy(key, "key2")
		copy(value, "value2")
		wantGet(t, tx, "key1", "value1")
		tx.Put(key, value)
		copy(key, "cnt1")
		tx.Add(key, 1)
		copy(key, "xxxx")
		copy(value, "xxxxxx")
		if _, err := tx.Get(key); err != kv.ErrNotFound {
			t.Errorf("Get: %v", err)
		}
		copy(key, "yyyy")
	})
	wantStored(t, db, "key1", "value1", "key2", "value2", "xxxx", absent)
	update(t, db, func(tx kv.Txn) {
		from, to := []byte("key1"), []byte("key2")
		tx.DeleteRange(from, to)
		copy(from, "zzzz")
		copy(to, "zzzz")
		wantGet(t, tx, "key1", absent)
	})
	wantStored(t, db, "key1", absent, "key2", "value2")
	view(t, db, func(r kv.Reader) { wantCounter(t, r, "cnt1", 1) })
}

// testSlicesLast: what Get returned stays as it is until the transaction ends.
func testSlicesLast(t *testing.T, db kv.DB) {
	var pairs []string
	for i := range 300 {
		pairs = append(pairs, key(i), strings.Repeat(key(i), 1+i))
	}
	put(t, db, pairs...)
	check := func(r kv.Reader, change func(i int)) {
		var got [][]byte
		for i := range 300 {
			value, err := r.Get([]byte(key(i)))
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, value)
			change(i)
		}
		for i := range got {
			if want := strings.Repeat(key(i), 1+i); string(got[i]) != want {
				t.Fatalf("value %d changed before the end of the transaction", i)
			}
		}
	}
	view(t, db, func(r kv.Reader) {
		check(r, func(i int) {
			if i%50 == 0 {
				put(t, db, key(i), "changed", key(i+1), "changed")
			}
		})
	})
	put(t, db, pairs...)
	update(t, db, func(tx kv.Txn) {
		check(tx, func(i int) { tx.Put([]byte(key(i)), bytes.Repeat([]byte("x"), 2000)) })
	})
}

func testDeleteRange(t *testing.T, db kv.DB) {
	put(t, db, "a", "1", "b", "2", "c", "3", "d", "4")
	update(t, db, func(tx kv.Txn) {
		tx.Put([]byte("bb"), []byte("own"))
		tx.Put([]byte("d"), []byte("own"))
		tx.DeleteRange([]byte("b"), []byte("d"))
		wantGet(t, tx, "a", "1")
		wantGet(t, tx, "b", absent)
		wantGet(t, tx, "bb", absent)
		wantGet(t, tx, "c", absent)
		wantGet(t, tx, "d", "own")
		tx.Put([]byte("c"), []byte("after"))
		wantList(t, tx, "", "", "a=1 c=after d=own")
		wantReverse(t, tx, "", "", "d=own c=after a=1")
	})
	view(t, db, func(r kv.Reader) { wantList(t, r, "", "", "a=1 c=after d=own") })

	update(t, db, func(tx kv.Txn) {
		tx.DeleteRange([]byte("c"), []byte("c")) // nothing
		tx.DeleteRange([]byte("d"), []byte("a")) // nothing
		wantList(t, tx, "", "", "a=1 c=after d=own")
	})
	highest := strings.Repeat("\xff", kv.MaxKey)
	put(t, db, highest, "top")
	update(t, db, func(tx kv.Txn) {
		tx.DeleteRange([]byte("b"), nil)
		wantList(t, tx, "", "", "a=1")
	})
	view(t, db, func(r kv.Reader) { wantList(t, r, "", "", "a=1") })
	update(t, db, func(tx kv.Txn) { tx.DeleteRange(nil, nil) })
	view(t, db, func(r kv.Reader) { wantList(t, r, "", "", "") })
}

// testDeleteLargeRange: drivers may delete few keys in another way than many.
func testDeleteLargeRange(t *testing.T, db kv.DB) {
	const n = 2000
	fill := func() {
		update(t, db, func(tx kv.Txn) {
			for i := range n {
				tx.Put([]byte(key(i)), []byte("x"))
			}
		})
	}
	for _, size := range []int{1, 100, n - 2} {
		fill()
		from, to := 1, 1+size
		want := key(0) + "=x " + key(from) + "=own"
		update(t, db, func(tx kv.Txn) {
			tx.Put([]byte(key(from)+"a"), []byte("gone"))
			tx.Add([]byte(key(from)+"b"), 1)
			tx.DeleteRange([]byte(key(from)), []byte(key(to)))
			tx.Put([]byte(key(from)), []byte("own"))
			wantList(t, tx, "", key(to), want)
			wantGet(t, tx, key(to-1)+"a", absent)
		})
		view(t, db, func(r kv.Reader) {
			wantList(t, r, "", key(to), want)
			wantGet(t, r, key(to), "x")
		})
	}
}

func testCounter(t *testing.T, db kv.DB) {
	update(t, db, func(tx kv.Txn) {
		tx.Add([]byte("n"), 5)
		wantCounter(t, tx, "n", 5)
		tx.Add([]byte("n"), -7)
		wantCounter(t, tx, "n", -2)
	})
	view(t, db, func(r kv.Reader) { wantCounter(t, r, "n", -2) })
	update(t, db, func(tx kv.Txn) { tx.Add([]byte("n"), 10) })
	update(t, db, func(tx kv.Txn) {
		wantCounter(t, tx, "n", 8)
		tx.Add([]byte("n"), 1)
		wantCounter(t, tx, "n", 9)
		if got := list(t, tx, "n", "", false); got != "n="+string(kv.CounterValue(9)) {
			t.Errorf("scan of a counter: %q", got)
		}
		if got := list(t, tx, "", "", true); got != "n="+string(kv.CounterValue(9)) {
			t.Errorf("reverse scan of a counter: %q", got)
		}
	})
	update(t, db, func(tx kv.Txn) { tx.Add([]byte("n"), 1<<62) })
	view(t, db, func(r kv.Reader) { wantCounter(t, r, "n", 9+1<<62) })

	// A counter may be set.
	update(t, db, func(tx kv.Txn) { tx.Put([]byte("n"), kv.CounterValue(100)); tx.Add([]byte("n"), 1) })
	update(t, db, func(tx kv.Txn) {
		tx.Add([]byte("n"), 1)
		wantCounter(t, tx, "n", 102)
		tx.Put([]byte("n"), kv.CounterValue(-1))
		tx.Add([]byte("n"), -1)
	})
	view(t, db, func(r kv.Reader) { wantCounter(t, r, "n", -2) })

	// Adding nothing makes the counter exist.
	update(t, db, func(tx kv.Txn) { tx.Add([]byte("zero"), 0) })
	wantStored(t, db, "zero", string(kv.CounterValue(0)))
	for range 100 {
		update(t, db, func(tx kv.Txn) {
			tx.Add([]byte("many"), 3)
			tx.Add([]byte("other"), -1)
		})
	}
	view(t, db, func(r kv.Reader) { wantCounter(t, r, "many", 300); wantCounter(t, r, "other", -100) })
}

func testCounterAndDelete(t *testing.T, db kv.DB) {
	n := []byte("n")
	update(t, db, func(tx kv.Txn) { tx.Add(n, 5) })
	update(t, db, func(tx kv.Txn) {
		tx.Delete(n)
		tx.Add(n, 3)
		wantCounter(t, tx, "n", 3)
	})
	view(t, db, func(r kv.Reader) { wantCounter(t, r, "n", 3) })
	update(t, db, func(tx kv.Txn) {
		tx.Add(n, 4)
		tx.Delete(n)
		wantGet(t, tx, "n", absent)
	})
	wantStored(t, db, "n", absent)
	update(t, db, func(tx kv.Txn) { tx.Add(n, 2) })
	view(t, db, func(r kv.Reader) { wantCounter(t, r, "n", 2) })
	update(t, db, func(tx kv.Txn) {
		tx.Add(n, 40)
		tx.DeleteRange([]byte("m"), []byte("o"))
		tx.Add(n, 7)
		wantCounter(t, tx, "n", 7)
		wantList(t, tx, "", "", "n="+string(kv.CounterValue(7)))
	})
	view(t, db, func(r kv.Reader) { wantCounter(t, r, "n", 7) })
	update(t, db, func(tx kv.Txn) { tx.DeleteRange([]byte("n"), []byte("o")) })
	wantStored(t, db, "n", absent)
	update(t, db, func(tx kv.Txn) { tx.Add(n, 1) })
	view(t, db, func(r kv.Reader) { wantCounter(t, r, "n", 1) })
}

// testCounterMisuse: adding to a plain value is the caller's error and is told.
func testCounterMisuse(t *testing.T, db kv.DB) {
	put(t, db, "plain", "text")
	err := db.Update(ctx, func(tx kv.Txn) error { tx.Add([]byte("plain"), 1); return nil })
	if err == nil {
		t.Error("Add to a plain value is not an error")
	}
	err = db.Update(ctx, func(tx kv.Txn) error {
		tx.Put([]byte("mine"), []byte("text"))
		tx.Add([]byte("mine"), 1)
		return nil
	})
	if err == nil {
		t.Error("Add to an own plain value is not an error")
	}
	wantStored(t, db, "plain", "text", "mine", absent)
}

func testRollback(t *testing.T, db kv.DB) {
	put(t, db, "a", "1", "b", "2")
	update(t, db, func(tx kv.Txn) { tx.Add([]byte("n"), 1) })
	mine := errors.New("mine")
	err := db.Update(ctx, func(tx kv.Txn) error {
		tx.Put([]byte("a"), []byte("x"))
		tx.Delete([]byte("b"))
		tx.Add([]byte("n"), 5)
		tx.Put([]byte("c"), []byte("x"))
		tx.DeleteRange([]byte("a"), []byte("z"))
		return mine
	})
	if err != mine {
		t.Errorf("Update returned %v, want fn's own error as it is", err)
	}
	wantStored(t, db, "a", "1", "b", "2", "c", absent)
	view(t, db, func(r kv.Reader) { wantCounter(t, r, "n", 1) })
	if err := db.View(ctx, func(kv.Reader) error { return mine }); err != mine {
		t.Errorf("View returned %v, want fn's own error as it is", err)
	}
	update(t, db, func(tx kv.Txn) { tx.Add([]byte("n"), 1) })
	view(t, db, func(r kv.Reader) { wantCounter(t, r, "n", 2) })
}

// testPanic: a panic of fn goes through and leaves the database usable.
func testPanic(t *testing.T, db kv.DB) {
	for range 3 {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic was swallowed")
				}
			}()
			_ = db.Update(ctx, func(tx kv.Txn) error {
				tx.Put([]byte("a"), []byte("x"))
				panic("mine")
			})
		}()
		func() {
			defer func() { recover() }()
			_ = db.View(ctx, func(r kv.Reader) error {
				return r.Scan(nil, nil, func([]byte, []byte) (bool, error) { panic("mine") })
			})
		}()
	}
	wantStored(t, db, "a", absent)
	put(t, db, "a", "1")
	wantStored(t, db, "a", "1")
	if err := db.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func testLimits(t *testing.T, db kv.DB) {
	longest := strings.Repeat("k", kv.MaxKey)
	put(t, db, longest, "v", "k", "w")
	wantStored(t, db, longest, "v")
	refused := func(what string, fn func(tx kv.Txn) error) {
		t.Helper()
		if err := db.Update(ctx, fn); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%s: %v, want EINVAL", what, err)
		}
	}
	for name, key := range map[string]string{"empty": "", "too long": longest + "k"} {
		k := []byte(key)
		refused("Put of an "+name+" key", func(tx kv.Txn) error { tx.Put(k, nil); return nil })
		refused("Delete of an "+name+" key", func(tx kv.Txn) error { tx.Delete(k); return nil })
		refused("Add to an "+name+" key", func(tx kv.Txn) error { tx.Add(k, 1); return nil })
		refused("Get of an "+name+" key", func(tx kv.Txn) error { _, err := tx.Get(k); return err })
		if err := db.View(ctx, func(r kv.Reader) error { _, err := r.Get(k); return err }); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("Get of an %s key: %v, want EINVAL", name, err)
		}
	}
	refused("Put of a value too long", func(tx kv.Txn) error {
		tx.Put([]byte("a"), make([]byte, kv.MaxValue+1))
		return nil
	})
	refused("a bad write before a good one", func(tx kv.Txn) error {
		tx.Put(nil, nil)
		tx.Put([]byte("a"), nil)
		return nil
	})
	mine := errors.New("mine")
	if err := db.Update(ctx, func(tx kv.Txn) error { tx.Put(nil, nil); return mine }); err != mine {
		t.Errorf("Update returned %v, want fn's own error", err)
	}
	wantStored(t, db, "a", absent)

	// Bounds may be longer than keys.
	view(t, db, func(r kv.Reader) {
		wantList(t, r, longest+"\x00", "", "")
		wantList(t, r, "", longest+"\x00", "k=w "+longest+"=v")
		wantReverse(t, r, longest, longest+"\x00", longest+"=v")
	})
}

func testLargeValues(t *testing.T, db kv.DB) {
	value := func(i, n int) string {
		return strings.Repeat(string(rune('a'+i)), n)
	}
	sizes := []int{64 << 10, 1 << 20, kv.MaxValue}
	for i, n := range sizes {
		put(t, db, key(i), value(i, n))
	}
	for i, n := range sizes {
		view(t, db, func(r kv.Reader) {
			if get(t, r, key(i)) != value(i, n) {
				t.Errorf("value of %d bytes came back changed", n)
			}
		})
	}
	update(t, db, func(tx kv.Txn) {
		for i, n := range sizes {
			tx.Put([]byte(key(10+i)), []byte(value(i, n)))
		}
		if get(t, tx, key(12)) != value(2, kv.MaxValue) {
			t.Error("own large value came back changed")
		}
		tx.Put([]byte("small"), []byte("x"))
	})
	wantStored(t, db, "small", "x")
	big := []byte(value(0, kv.MaxValue))
	err := db.Update(ctx, func(tx kv.Txn) error {
		for i := range kv.MaxTxn/kv.MaxValue + 1 {
			tx.Put([]byte(key(i)), big)
		}
		return nil
	})
	if !errors.Is(err, syscall.E2BIG) {
		t.Errorf("transaction above MaxTxn: %v, want E2BIG", err)
	}
	put(t, db, "small", "y")
	wantStored(t, db, "small", "y")
}

// testManyWrites: one transaction with thousands of writes that it reads back.
func testManyWrites(t *testing.T, db kv.DB) {
	const n = 3000
	put(t, db, "a", "1")
	update(t, db, func(tx kv.Txn) {
		for i := range n {
			k := []byte(key(i * 7919 % n))
			tx.Put(k, k)
			if i%3 == 0 {
				tx.Delete(k)
			}
			if i%500 == 0 {
				count := 0
				if err := tx.Scan([]byte("k"), nil, func(_, _ []byte) (bool, error) { count++; return true, nil }); err != nil {
					t.Fatal(err)
				}
				if want := i + 1 - (i/3 + 1); count != want {
					t.Fatalf("after %d writes the scan shows %d keys, want %d", i+1, count, want)
				}
			}
		}
		for i := range n {
			want := key(i * 7919 % n)
			if i%3 == 0 {
				want = absent
			}
			if got := get(t, tx, key(i*7919%n)); got != want {
				t.Fatalf("own write %d: %q, want %q", i, got, want)
			}
		}
	})
	count := 0
	view(t, db, func(r kv.Reader) {
		if err := r.Scan([]byte("k"), nil, func(k, v []byte) (bool, error) {
			if !bytes.Equal(k, v) {
				t.Errorf("%s=%s", k, v)
			}
			count++
			return true, nil
		}); err != nil {
			t.Fatal(err)
		}
	})
	if count != n-n/3 {
		t.Errorf("%d keys, want %d", count, n-n/3)
	}
}

func testContext(t *testing.T, db kv.DB) {
	done, cancel := context.WithCancel(ctx)
	cancel()
	ran := false
	if err := db.Update(done, func(kv.Txn) error { ran = true; return nil }); !errors.Is(err, context.Canceled) || ran {
		t.Errorf("Update with a done context: %v, fn run: %v", err, ran)
	}
	if err := db.View(done, func(kv.Reader) error { ran = true; return nil }); !errors.Is(err, context.Canceled) || ran {
		t.Errorf("View with a done context: %v, fn run: %v", err, ran)
	}
	put(t, db, "a", "1")
	if err := db.Sync(done); !errors.Is(err, context.Canceled) {
		t.Errorf("Sync with a done context: %v", err)
	}
	// A context that ends while fn runs does not take the commit back; it may
	// keep it from happening.
	half, cancel := context.WithCancel(ctx)
	err := db.Update(half, func(tx kv.Txn) error { tx.Put([]byte("a"), []byte("2")); cancel(); return nil })
	want := "2"
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Update: %v", err)
		}
		want = "1"
	}
	wantStored(t, db, "a", want)
}

// testNested: Views may run within other transactions.
func testNested(t *testing.T, db kv.DB) {
	put(t, db, "a", "1")
	update(t, db, func(tx kv.Txn) {
		tx.Put([]byte("a"), []byte("2"))
		view(t, db, func(r kv.Reader) {
			wantGet(t, r, "a", "1")
			view(t, db, func(r kv.Reader) { wantGet(t, r, "a", "1") })
		})
	})
	wantStored(t, db, "a", "2")
}

func testClosed(t *testing.T, db kv.DB) {
	put(t, db, "a", "1")
	if err := db.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	ran := false
	for name, err := range map[string]error{
		"View":   db.View(ctx, func(kv.Reader) error { ran = true; return nil }),
		"Update": db.Update(ctx, func(kv.Txn) error { ran = true; return nil }),
		"Sync":   db.Sync(ctx),
		"Close":  db.Close(),
	} {
		if !errors.Is(err, kv.ErrClosed) {
			t.Errorf("%s after Close: %v, want ErrClosed", name, err)
		}
	}
	if ran {
		t.Error("a function ran after Close")
	}
}

// testCloseWaits: Close lets running transactions finish, and they succeed.
func testCloseWaits(t *testing.T, db kv.DB) {
	put(t, db, "a", "1")
	inside, goOn := make(chan struct{}), make(chan struct{})
	result := make(chan error, 2)
	go func() {
		result <- db.View(ctx, func(r kv.Reader) error {
			close(inside)
			<-goOn
			_, err := r.Get([]byte("a"))
			return err
		})
	}()
	<-inside
	closed := make(chan error, 1)
	go func() { closed <- db.Close() }()
	select {
	case err := <-closed:
		t.Errorf("Close returned %v while a View was running", err)
	case <-time.After(20 * time.Millisecond):
	}
	close(goOn)
	if err := <-result; err != nil {
		t.Errorf("View during Close: %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
}
