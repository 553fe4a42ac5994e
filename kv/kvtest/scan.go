package kvtest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/massif-fs/massif/kv"
)

var scanTests = []test{
	{"Bounds", opened(testScanBounds)},
	{"Stop", opened(testScanStop)},
	{"OwnWrites", opened(testScanOwnWrites)},
	{"NestedReads", opened(testScanNestedReads)},
	{"PrefixEnd", opened(testPrefixEnd)},
	{"Snapshot", opened(testScanSnapshot)},
}

// key is the i-th of a sorted series of keys.
func key(i int) string { return fmt.Sprintf("k%06d", i) }

func testScanBounds(t *testing.T, db kv.DB) {
	put(t, db, "a", "1", "b", "2", "ba", "3", "c", "4")
	update(t, db, func(tx kv.Txn) { checkScanBounds(t, tx) })
	view(t, db, func(r kv.Reader) { checkScanBounds(t, r) })
	// Through the overlay of a transaction that wrote something.
	update(t, db, func(tx kv.Txn) {
		tx.Put([]byte("b"), []byte("2"))
		checkScanBounds(t, tx)
	})
}

func checkScanBounds(t *testing.T, r kv.Reader) {
	t.Helper()
	wantList(t, r, "", "", "a=1 b=2 ba=3 c=4")
	wantList(t, r, "b", "c", "b=2 ba=3")
	wantList(t, r, "b", "b\x00", "b=2")
	wantList(t, r, "b\x00", "", "ba=3 c=4")
	wantList(t, r, "", "a", "")
	wantList(t, r, "c", "b", "")
	wantList(t, r, "b", "b", "")
	wantList(t, r, "d", "", "")
	wantReverse(t, r, "", "", "c=4 ba=3 b=2 a=1")
	wantReverse(t, r, "b", "c", "ba=3 b=2")
	wantReverse(t, r, "", "b", "a=1")
	wantReverse(t, r, "c", "b", "")
	wantReverse(t, r, "b", "b", "")
	wantReverse(t, r, "d", "", "")
	wantReverse(t, r, "", "zzz", "c=4 ba=3 b=2 a=1")
	// An end that is there but empty lies below every key.
	for _, scan := range []func([]byte, []byte, func(k, v []byte) (bool, error)) error{r.Scan, r.ScanReverse} {
		if err := scan(nil, []byte{}, func(k, _ []byte) (bool, error) {
			t.Errorf("a scan up to the empty key shows %q", k)
			return true, nil
		}); err != nil {
			t.Error(err)
		}
	}
}

func testScanStop(t *testing.T, db kv.DB) {
	put(t, db, "a", "1", "b", "2", "c", "3")
	mine := errors.New("mine")
	check := func(r kv.Reader) {
		t.Helper()
		for _, scan := range []func([]byte, []byte, func(k, v []byte) (bool, error)) error{r.Scan, r.ScanReverse} {
			n := 0
			if err := scan(nil, nil, func(_, _ []byte) (bool, error) { n++; return n < 2, nil }); err != nil || n != 2 {
				t.Errorf("scan stopped after %d keys (want 2) with %v", n, err)
			}
			n = 0
			if err := scan(nil, nil, func(_, _ []byte) (bool, error) { n++; return true, mine }); err != mine || n != 1 {
				t.Errorf("scan ended after %d keys (want 1) with %v, want fn's error", n, err)
			}
		}
	}
	view(t, db, func(r kv.Reader) { check(r) })
	update(t, db, func(tx kv.Txn) {
		check(tx)
		tx.Put([]byte("aa"), nil)
		check(tx)
	})
}

func testScanOwnWrites(t *testing.T, db kv.DB) {
	put(t, db, "b", "2", "d", "4", "f", "6", "h", "8")
	update(t, db, func(tx kv.Txn) {
		tx.Put([]byte("a"), []byte("own"))
		tx.Put([]byte("d"), []byte("own"))
		tx.Delete([]byte("f"))
		tx.Put([]byte("g"), []byte("own"))
		wantList(t, tx, "", "", "a=own b=2 d=own g=own h=8")
		wantReverse(t, tx, "", "", "h=8 g=own d=own b=2 a=own")
		wantList(t, tx, "b", "g", "b=2 d=own")
		wantReverse(t, tx, "b", "g", "d=own b=2")
		tx.Put([]byte("z"), []byte("own")) // written after a scan
		tx.Put([]byte("c"), []byte("own"))
		wantList(t, tx, "c", "", "c=own d=own g=own h=8 z=own")
		wantReverse(t, tx, "", "c\x00", "c=own b=2 a=own")
		tx.DeleteRange([]byte("c"), []byte("h"))
		wantList(t, tx, "", "", "a=own b=2 h=8 z=own")
		tx.Put([]byte("e"), []byte("late"))
		wantList(t, tx, "", "", "a=own b=2 e=late h=8 z=own")
		wantReverse(t, tx, "", "", "z=own h=8 e=late b=2 a=own")
	})
	view(t, db, func(r kv.Reader) { wantList(t, r, "", "", "a=own b=2 e=late h=8 z=own") })
	// Own writes only.
	update(t, db, func(tx kv.Txn) {
		tx.DeleteRange(nil, nil)
		for i := range 50 {
			tx.Put([]byte(key(49-i)), nil)
		}
		n := 0
		if err := tx.Scan(nil, nil, func(k, _ []byte) (bool, error) {
			if string(k) != key(n) {
				t.Errorf("key %d of the scan is %q", n, k)
			}
			n++
			return true, nil
		}); err != nil || n != 50 {
			t.Errorf("%d keys, %v", n, err)
		}
	})
}

// testScanNestedReads: a scan's function may read, and scan again.
func testScanNestedReads(t *testing.T, db kv.DB) {
	put(t, db, "a", "1", "b", "2", "c", "3")
	check := func(r kv.Reader) {
		var got string
		err := r.Scan(nil, nil, func(k, v []byte) (bool, error) {
			got += string(k) + get(t, r, string(k)) + list(t, r, "b", "", false) + ";"
			return true, nil
		})
		if want := "a1b=2 c=3;b2b=2 c=3;c3b=2 c=3;"; err != nil || got != want {
			t.Errorf("nested reads: %q, %v", got, err)
		}
	}
	view(t, db, func(r kv.Reader) { check(r) })
	update(t, db, func(tx kv.Txn) {
		tx.Put([]byte("b"), []byte("2"))
		check(tx)
	})
}

func testPrefixEnd(t *testing.T, db kv.DB) {
	put(t, db, "a\xff", "1", "a\xff\xff", "2", "b", "3", "\xff", "4", "\xff\xff", "5")
	view(t, db, func(r kv.Reader) {
		wantList(t, r, "a\xff", string(kv.PrefixEnd([]byte("a\xff"))), "a\xff=1 a\xff\xff=2")
		wantList(t, r, "\xff", string(kv.PrefixEnd([]byte("\xff"))), "\xff=4 \xff\xff=5")
	})
}

// testScanSnapshot: a View does not see what is committed while it runs.
func testScanSnapshot(t *testing.T, db kv.DB) {
	var pairs []string
	for i := range 100 {
		pairs = append(pairs, key(i), "old")
	}
	put(t, db, pairs...)
	view(t, db, func(r kv.Reader) {
		wantGet(t, r, key(0), "old")
		n := 0
		err := r.Scan(nil, nil, func(k, v []byte) (bool, error) {
			if string(k) != key(n) || string(v) != "old" {
				t.Errorf("key %d of the snapshot is %s=%s", n, k, v)
			}
			if n%10 == 0 {
				update(t, db, func(tx kv.Txn) {
					tx.Put([]byte(key(n+1)), []byte("new"))
					tx.Put([]byte(key(n)+"x"), []byte("new"))
					tx.Delete([]byte(key(n + 2)))
					tx.DeleteRange([]byte(key(n+3)), []byte(key(n+5)))
				})
			}
			n++
			return true, nil
		})
		if err != nil || n != 100 {
			t.Errorf("%d keys, %v", n, err)
		}
		wantGet(t, r, key(2), "old")
	})
	wantStored(t, db, key(2), absent, key(1), "new")
}
