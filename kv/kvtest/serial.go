package kvtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/testseed"
	"github.com/massif-fs/massif/kv"
)

var serialTests = []test{
	{"LostUpdate", opened(testLostUpdate)},
	{"Adds", opened(testAdds)},
	{"AddsAndResets", opened(testAddsAndResets)},
	{"WriteSkew", opened(testWriteSkew)},
	{"Phantom", opened(testPhantom)},
	{"PhantomReverse", opened(testPhantomReverse)},
	{"Queue", opened(testQueue)},
	{"RangeDelete", opened(testRangeDelete)},
	{"ConsistentErrors", opened(testConsistentErrors)},
	{"Bank", opened(testBank)},
	{"LongTransaction", opened(testLongTransaction)},
	{"ContextEndsRetries", opened(testContextEndsRetries)},
	{"History", opened(testHistory)},
}

// parallel runs fn in n goroutines and waits for them.
func parallel(n int, fn func(worker int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { fn(i) })
	}
	wg.Wait()
}

func rounds(n int) int {
	if testing.Short() {
		return n / 4
	}
	return n
}

func testLostUpdate(t *testing.T, db kv.DB) {
	workers, n := 16, rounds(200)
	parallel(workers, func(int) {
		for range n {
			update(t, db, func(tx kv.Txn) {
				c, err := counter(tx, "n")
				if err != nil {
					t.Error(err)
				}
				tx.Put([]byte("n"), kv.CounterValue(c+1))
			})
		}
	})
	view(t, db, func(r kv.Reader) { wantCounter(t, r, "n", int64(workers*n)) })
}

func testAdds(t *testing.T, db kv.DB) {
	workers, n := 16, rounds(200)
	parallel(workers, func(w int) {
		for i := range n {
			update(t, db, func(tx kv.Txn) {
				tx.Add([]byte("n"), 1)
				tx.Add([]byte(key(w)), int64(i))
				if i%20 == 0 { // reads its own sum
					if c, err := counter(tx, "n"); err != nil || c < 1 {
						t.Errorf("counter %d, %v", c, err)
					}
				}
			})
		}
	})
	view(t, db, func(r kv.Reader) {
		wantCounter(t, r, "n", int64(workers*n))
		for w := range workers {
			wantCounter(t, r, key(w), int64(n*(n-1)/2))
		}
	})
}

// testAddsAndResets moves what adders put into a counter to a total, by Put,
// Delete and DeleteRange: nothing may get lost on the way.
func testAddsAndResets(t *testing.T, db kv.DB) {
	addsAndResets(t, db, 8, 3, rounds(200))
	update(t, db, func(tx kv.Txn) { tx.DeleteRange(nil, nil) })
	addsAndResets(t, db, 2, 9, rounds(100))
}

func addsAndResets(t *testing.T, db kv.DB, workers, resetters, n int) {
	parallel(workers+resetters, func(w int) {
		for range n {
			if w < workers {
				update(t, db, func(tx kv.Txn) { tx.Add([]byte("n"), 1) })
				continue
			}
			update(t, db, func(tx kv.Txn) {
				c, err := counter(tx, "n")
				if err != nil {
					t.Error(err)
				}
				switch (w - workers) % 3 {
				case 0:
					tx.Put([]byte("n"), kv.CounterValue(0))
				case 1:
					tx.Delete([]byte("n"))
				case 2:
					tx.DeleteRange([]byte("m"), []byte("o"))
				}
				tx.Add([]byte("total"), c)
			})
		}
	})
	view(t, db, func(r kv.Reader) {
		rest, err := counter(r, "n")
		if err != nil {
			t.Fatal(err)
		}
		wantCounter(t, r, "total", int64(workers*n)-rest)
	})
}

// testWriteSkew: two accounts may be overdrawn alone but not together.
func testWriteSkew(t *testing.T, db kv.DB) {
	for round := range rounds(100) {
		update(t, db, func(tx kv.Txn) {
			tx.Put([]byte("x"), kv.CounterValue(1))
			tx.Put([]byte("y"), kv.CounterValue(1))
		})
		parallel(4, func(w int) {
			update(t, db, func(tx kv.Txn) {
				x, err1 := counter(tx, "x")
				y, err2 := counter(tx, "y")
				if err1 != nil || err2 != nil {
					t.Error(err1, err2)
				}
				if x+y < 2 {
					return
				}
				if w%2 == 0 {
					tx.Put([]byte("x"), kv.CounterValue(x-2))
				} else {
					tx.Put([]byte("y"), kv.CounterValue(y-2))
				}
			})
		})
		view(t, db, func(r kv.Reader) {
			x, err1 := counter(r, "x")
			y, err2 := counter(r, "y")
			if err1 != nil || err2 != nil || x+y != 0 {
				t.Fatalf("round %d: write skew: x=%d y=%d, %v %v", round, x, y, err1, err2)
			}
		})
	}
}

// testPhantom: each transaction counts the keys and adds the next one.
func testPhantom(t *testing.T, db kv.DB) {
	workers, n := 8, rounds(40)
	parallel(workers, func(int) {
		for range n {
			update(t, db, func(tx kv.Txn) {
				count := 0
				if err := tx.Scan([]byte("k"), []byte("l"), func(_, _ []byte) (bool, error) { count++; return true, nil }); err != nil {
					t.Error(err)
				}
				tx.Put([]byte(key(count)), nil)
			})
		}
	})
	wantKeys(t, db, workers*n)
}

// testPhantomReverse: each transaction looks for the last key only.
func testPhantomReverse(t *testing.T, db kv.DB) {
	workers, n := 8, rounds(80)
	parallel(workers, func(int) {
		for range n {
			update(t, db, func(tx kv.Txn) {
				next := 0
				err := tx.ScanReverse([]byte("k"), []byte("l"), func(k, _ []byte) (bool, error) {
					_, err := fmt.Sscanf(string(k), "k%d", &next)
					next++
					return false, err
				})
				if err != nil {
					t.Error(err)
				}
				tx.Put([]byte(key(next)), nil)
			})
		}
	})
	wantKeys(t, db, workers*n)
}

func wantKeys(t *testing.T, db kv.DB, n int) {
	t.Helper()
	view(t, db, func(r kv.Reader) {
		count := 0
		if err := r.Scan([]byte("k"), []byte("l"), func(k, _ []byte) (bool, error) {
			if string(k) != key(count) {
				t.Errorf("key %d is %q", count, k)
			}
			count++
			return true, nil
		}); err != nil {
			t.Fatal(err)
		}
		if count != n {
			t.Errorf("%d keys, want %d: transactions overwrote each other's", count, n)
		}
	})
}

// testQueue: each element is taken by one taker.
func testQueue(t *testing.T, db kv.DB) {
	n := rounds(400)
	update(t, db, func(tx kv.Txn) {
		for i := range n {
			tx.Put([]byte(key(i)), nil)
		}
	})
	var mu sync.Mutex
	taken := make(map[string]int)
	parallel(8, func(int) {
		for {
			var got string
			update(t, db, func(tx kv.Txn) {
				got = ""
				err := tx.Scan([]byte("k"), []byte("l"), func(k, _ []byte) (bool, error) {
					got = string(k)
					return false, nil
				})
				if err != nil {
					t.Error(err)
				}
				if got != "" {
					tx.Delete([]byte(got))
				}
			})
			if got == "" {
				return
			}
			mu.Lock()
			taken[got]++
			mu.Unlock()
		}
	})
	for i := range n {
		if c := taken[key(i)]; c != 1 {
			t.Errorf("%s was taken %d times", key(i), c)
		}
	}
}

// testRangeDelete: transactions that found a key leave a mark, unless the key
// has been deleted with its range; then the mark must not be there either.
func testRangeDelete(t *testing.T, db kv.DB) {
	for round := range rounds(100) {
		update(t, db, func(tx kv.Txn) {
			for _, k := range []string{"k1", "k2", "k3"} {
				tx.Put([]byte(k), nil)
				tx.Delete([]byte("mark" + k))
			}
		})
		parallel(4, func(w int) {
			update(t, db, func(tx kv.Txn) {
				if w == 3 {
					tx.DeleteRange([]byte("k1"), []byte("k9"))
					tx.DeleteRange([]byte("markk1"), []byte("markk9"))
					return
				}
				k := fmt.Sprintf("k%d", w+1)
				if w == 2 { // by a scan
					if list(t, tx, "k3", "k4", false) != "" {
						tx.Put([]byte("mark"+k), nil)
					}
				} else if get(t, tx, k) != absent {
					tx.Put([]byte("mark"+k), nil)
				}
			})
		})
		view(t, db, func(r kv.Reader) {
			if got := list(t, r, "", "", false); got != "" {
				t.Fatalf("round %d: left after the range was deleted: %s", round, got)
			}
		})
	}
}

// testConsistentErrors: no error that a function computed from an inconsistent
// view gets out, and no View is inconsistent.
func testConsistentErrors(t *testing.T, db kv.DB) {
	put(t, db, "x", "0", "y", "0")
	torn := errors.New("x and y differ")
	check := func(r kv.Reader) error {
		x := get(t, r, "x")
		y := get(t, r, "y")
		if x != y {
			return torn
		}
		return nil
	}
	n := rounds(400)
	parallel(6, func(w int) {
		for i := range n {
			var err error
			switch {
			case w < 2:
				put(t, db, "x", fmt.Sprint(w, i), "y", fmt.Sprint(w, i))
			case w < 4:
				err = db.Update(ctx, func(tx kv.Txn) error { return check(tx) })
			case w == 4:
				err = db.Update(ctx, func(tx kv.Txn) error {
					if err := check(tx); err != nil {
						return err
					}
					tx.Put([]byte("z"), nil)
					return nil
				})
			default:
				err = db.View(ctx, check)
			}
			if err != nil {
				t.Errorf("worker %d: %v", w, err)
				return
			}
		}
	})
}

// testBank moves money between accounts: its sum stays, in every view.
func testBank(t *testing.T, db kv.DB) {
	const accounts, each = 10, 100
	update(t, db, func(tx kv.Txn) {
		for i := range accounts {
			tx.Put([]byte(key(i)), kv.CounterValue(each))
		}
	})
	sum := func(r kv.Reader) (total int64) {
		err := r.Scan([]byte("k"), []byte("l"), func(_, v []byte) (bool, error) {
			n, err := kv.Counter(v)
			total += n
			return true, err
		})
		if err != nil {
			t.Error(err)
		}
		return total
	}
	n, seed := rounds(200), testseed.Of(t, 1)
	parallel(10, func(w int) {
		rng := rand.New(rand.NewPCG(uint64(w), seed))
		for range n {
			from, to := key(rng.IntN(accounts)), key(rng.IntN(accounts))
			amount := rng.Int64N(30)
			var total int64
			switch {
			case w < 6:
				update(t, db, func(tx kv.Txn) {
					if c, err := counter(tx, from); err != nil || c < amount {
						return
					}
					tx.Add([]byte(from), -amount)
					tx.Add([]byte(to), amount)
				})
				continue
			case w < 8:
				view(t, db, func(r kv.Reader) { total = sum(r) })
			default:
				update(t, db, func(tx kv.Txn) { total = sum(tx) })
			}
			if total != accounts*each {
				t.Errorf("worker %d sees a sum of %d, want %d", w, total, accounts*each)
				return
			}
		}
	})
	view(t, db, func(r kv.Reader) {
		for i := range accounts {
			if c, err := counter(r, key(i)); err != nil || c < 0 {
				t.Errorf("account %d has %d, %v", i, c, err)
			}
		}
	})
}

// testLongTransaction: a transaction that reads much gets through although
// others write all the time what it reads.
func testLongTransaction(t *testing.T, db kv.DB) {
	const keys = 200
	update(t, db, func(tx kv.Txn) {
		for i := range keys {
			tx.Add([]byte(key(i)), 1)
		}
	})
	seed := testseed.Of(t, 2)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), seed))
			for {
				select {
				case <-stop:
					return
				default:
				}
				update(t, db, func(tx kv.Txn) {
					k := key(rng.IntN(keys))
					c, err := counter(tx, k)
					if err != nil {
						t.Error(err)
					}
					tx.Put([]byte(k), kv.CounterValue(c+1))
				})
			}
		})
	}
	for range 5 {
		update(t, db, func(tx kv.Txn) {
			total := int64(0)
			for i := range keys {
				c, err := counter(tx, key(i))
				if err != nil {
					t.Error(err)
				}
				total += c
			}
			tx.Put([]byte("total"), kv.CounterValue(total))
		})
	}
	close(stop)
	wg.Wait()
}

// testContextEndsRetries: a transaction that can never commit ends with its context.
func testContextEndsRetries(t *testing.T, db kv.DB) {
	put(t, db, "a", "0")
	short, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
	defer cancel()
	runs := 0
	err := db.Update(short, func(tx kv.Txn) error {
		runs++
		get(t, tx, "a")
		tx.Put([]byte("b"), nil)
		if runs > 1000 {
			return errors.New("repeated too often")
		}
		// Invalidate the read from outside, unless Updates exclude each other.
		inner, cancel := context.WithTimeout(short, 5*time.Millisecond)
		defer cancel()
		_ = db.Update(inner, func(tx kv.Txn) error { tx.Put([]byte("a"), []byte("1")); return nil })
		return nil
	})
	if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, kv.ErrConflict) {
		t.Errorf("Update: %v", err)
	}
}

// testHistory runs random transactions that append their number to lists and
// note the lists they read, and checks that the transactions can be put in one
// order that explains all of it.
func testHistory(t *testing.T, db kv.DB) {
	const lists = 4
	type run struct{ reads map[int][]uint32 }
	workers, n, seed := 8, rounds(100), testseed.Of(t, 3)
	runs := make([]run, workers*n+1)
	read := func(value []byte) (ids []uint32) {
		for ; len(value) >= 4; value = value[4:] {
			ids = append(ids, binary.BigEndian.Uint32(value))
		}
		return ids
	}
	parallel(workers, func(w int) {
		rng := rand.New(rand.NewPCG(uint64(w), seed))
		for i := range n {
			id := uint32(1 + w*n + i)
			var reads map[int][]uint32
			// The same choices in each repeat are not needed, but the last counts.
			update(t, db, func(tx kv.Txn) {
				reads = make(map[int][]uint32)
				lo := rng.IntN(lists)
				hi := min(lists, lo+1+rng.IntN(2))
				if rng.IntN(2) == 0 {
					for k := lo; k < hi; k++ {
						reads[k] = nil
					}
					err := tx.Scan([]byte(key(lo)), []byte(key(hi)), func(k, v []byte) (bool, error) {
						var i int
						_, err := fmt.Sscanf(string(k), "k%d", &i)
						reads[i] = read(v)
						return true, err
					})
					if err != nil {
						t.Error(err)
					}
				} else {
					for k := lo; k < hi; k++ {
						v, err := tx.Get([]byte(key(k)))
						if err != nil && err != kv.ErrNotFound {
							t.Error(err)
						}
						reads[k] = read(v)
					}
				}
				if rng.IntN(4) > 0 {
					k := []byte(key(rng.IntN(lists)))
					old, err := tx.Get(k)
					if err != nil && err != kv.ErrNotFound {
						t.Error(err)
					}
					tx.Put(k, binary.BigEndian.AppendUint32(bytes.Clone(old), id))
				}
			})
			runs[id] = run{reads}
		}
	})

	// Edges from what must come before to what must come after.
	after := make([][]uint32, len(runs))
	edge := func(from, to uint32) {
		if from != 0 && to != 0 && from != to {
			after[from] = append(after[from], to)
		}
	}
	final := make([][]uint32, lists)
	view(t, db, func(r kv.Reader) {
		for k := range lists {
			v, err := r.Get([]byte(key(k)))
			if err != nil && err != kv.ErrNotFound {
				t.Fatal(err)
			}
			final[k] = read(v)
			for i := 1; i < len(final[k]); i++ {
				edge(final[k][i-1], final[k][i])
			}
		}
	})
	for id, r := range runs {
		for k, seen := range r.reads {
			if len(seen) > len(final[k]) {
				t.Fatalf("transaction %d saw more of list %d than there is", id, k)
			}
			for i := range seen {
				if seen[i] != final[k][i] {
					t.Fatalf("transaction %d saw a state of list %d that never was", id, k)
				}
			}
			if len(seen) > 0 {
				edge(seen[len(seen)-1], uint32(id)) // it read what that one wrote
			}
			if len(seen) < len(final[k]) {
				edge(uint32(id), final[k][len(seen)]) // and not what this one wrote
			}
		}
	}
	// And the order of each worker.
	for w := range workers {
		for i := 1; i < n; i++ {
			edge(uint32(w*n+i), uint32(1+w*n+i))
		}
	}
	before := make([]int, len(runs))
	for _, tos := range after {
		for _, to := range tos {
			before[to]++
		}
	}
	var ready []uint32
	for id := range before {
		if before[id] == 0 {
			ready = append(ready, uint32(id))
		}
	}
	placed := 0
	for len(ready) > 0 {
		id := ready[len(ready)-1]
		ready = ready[:len(ready)-1]
		placed++
		for _, to := range after[id] {
			if before[to]--; before[to] == 0 {
				ready = append(ready, to)
			}
		}
	}
	if placed != len(runs) {
		t.Errorf("no order of the transactions explains what they read: %d of %d are in a cycle", len(runs)-placed, len(runs))
	}
}
