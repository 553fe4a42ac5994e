package pebble_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/pebble"
)

var ctx = context.Background()

// faults is a file system whose operations fail where a test says so, and that
// says how much space is free.
type faults struct {
	vfs.FS
	mem  *vfs.MemFS
	fail atomic.Pointer[func(op errorfs.Op) error]
	free atomic.Int64 // bytes; negative means unknown
}

func newFaults() *faults {
	f := &faults{mem: vfs.NewCrashableMem()}
	f.free.Store(-1)
	f.FS = errorfs.Wrap(f.mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if fail := f.fail.Load(); fail != nil {
			return (*fail)(op)
		}
		return nil
	}))
	return f
}

func (f *faults) set(fail func(op errorfs.Op) error) { f.fail.Store(&fail) }
func (f *faults) clear()                             { f.fail.Store(nil) }

func (f *faults) GetDiskUsage(path string) (vfs.DiskUsage, error) {
	if n := f.free.Load(); n >= 0 {
		return vfs.DiskUsage{AvailBytes: uint64(n), TotalBytes: 1 << 40}, nil
	}
	return f.FS.GetDiskUsage(path)
}

func writes(op errorfs.Op) bool {
	switch op.Kind {
	case errorfs.OpCreate, errorfs.OpReuseForWrite, errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpFileSyncData,
		errorfs.OpFileSyncTo, errorfs.OpRename, errorfs.OpLink, errorfs.OpRemove, errorfs.OpFileFlush:
		return true
	}
	return false
}

// small makes flushes and merges happen all the time.
func small(f vfs.FS) pebble.Options {
	return pebble.Options{FS: f, Logger: quiet, CacheBytes: 1 << 20, MemTableBytes: 64 << 10}
}

func mustOpen(t testing.TB, f vfs.FS) *pebble.DB {
	t.Helper()
	db, err := pebble.Open("db", small(f))
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return db
}

// step commits number n: the key, its value and the last number must agree.
func step(db kv.DB, n, size int) error {
	return db.Update(ctx, func(tx kv.Txn) error {
		tx.Put(fmt.Appendf(nil, "k%08d", n), []byte(strings.Repeat(string(rune('a'+n%26)), size)))
		tx.Put([]byte("last"), fmt.Append(nil, n))
		tx.Add([]byte("count"), 1)
		if n >= 10 {
			tx.Delete(fmt.Appendf(nil, "k%08d", n-10)) // keeps the database small, and makes tombstones
		}
		return nil
	})
}

// steps returns how many commits of step are in db, and checks that they are a prefix.
func steps(t testing.TB, db kv.DB, size int) int {
	t.Helper()
	count := int64(0)
	err := db.View(ctx, func(r kv.Reader) error {
		v, err := r.Get([]byte("count"))
		if err == kv.ErrNotFound {
			return nil
		}
		if err != nil {
			return err
		}
		if count, err = kv.Counter(v); err != nil {
			return err
		}
		if v, err = r.Get([]byte("last")); err != nil {
			return err
		}
		if string(v) != fmt.Sprint(count-1) {
			return fmt.Errorf("last is %s, count is %d", v, count)
		}
		n := max(0, int(count)-10)
		err = r.Scan([]byte("k"), []byte("l"), func(k, v []byte) (bool, error) {
			if string(k) != fmt.Sprintf("k%08d", n) || string(v) != strings.Repeat(string(rune('a'+n%26)), size) {
				return false, fmt.Errorf("%q=%q… is not commit %d", k, v[:1], n)
			}
			n++
			return true, nil
		})
		if err == nil && n != int(count) {
			err = fmt.Errorf("keys end at %d of %d", n, count)
		}
		return err
	})
	if err != nil {
		t.Fatalf("not a prefix of the commits: %v", err)
	}
	return int(count)
}

// rounds is how often a random test repeats: a quarter with -short, and times
// MASSIF_TEST_ROUNDS where there is more time.
func rounds(n int) int {
	if testing.Short() {
		return max(1, n/4)
	}
	if times, err := strconv.Atoi(os.Getenv("MASSIF_TEST_ROUNDS")); err == nil {
		n *= max(1, times)
	}
	return n
}

// TestLogFailures: a failure of the log ends writing, with its errno, for good.
func TestLogFailures(t *testing.T) {
	for _, c := range []struct {
		name  string
		errno error
		match func(op errorfs.Op) bool
	}{
		{"flush", syscall.EIO, func(op errorfs.Op) bool {
			return op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
		}},
		{"write", syscall.ENOSPC, func(op errorfs.Op) bool { return op.Kind == errorfs.OpFileWrite }},
		{"rotate", syscall.ENOSPC, func(op errorfs.Op) bool {
			return op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpReuseForWrite
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFaults()
			db := mustOpen(t, f)
			for n := range 20 {
				if err := step(db, n, 1000); err != nil {
					t.Fatal(err)
				}
			}
			if err := db.Sync(ctx); err != nil {
				t.Fatal(err)
			}
			f.set(func(op errorfs.Op) error {
				if strings.HasSuffix(op.Path, ".log") && c.match(op) {
					return &fs.PathError{Op: "write", Path: op.Path, Err: c.errno}
				}
				return nil
			})
			// Go on until it is noticed: at the next Sync, or when the log is full.
			var err error
			n := 20
			for ; err == nil && n < 2000; n++ {
				if err = step(db, n, 1000); err == nil && n%100 == 0 {
					err = db.Sync(ctx)
				}
			}
			if !errors.Is(err, c.errno) {
				t.Fatalf("after a failing log: %v, want %v", err, c.errno)
			}
			f.clear() // the medium works again; what it lost is lost
			for name, err := range map[string]error{"Update": step(db, n, 1000), "Sync": db.Sync(ctx)} {
				if !errors.Is(err, c.errno) {
					t.Errorf("%s after the failure: %v, want %v", name, err, c.errno)
				}
			}
			if err := db.View(ctx, func(r kv.Reader) error { _, err := r.Get([]byte("last")); return err }); err != nil {
				t.Errorf("View after the failure: %v", err)
			}
			if m := db.Metrics(); m.Failed == "" {
				t.Error("Metrics do not tell the failure")
			}
			if err := db.Close(); !errors.Is(err, c.errno) {
				t.Errorf("Close after the failure: %v, want %v", err, c.errno)
			}
			db = mustOpen(t, f)
			if got := steps(t, db, 1000); got < 20 {
				t.Errorf("%d commits are left, 20 were synced", got)
			}
			closeIfOpen(t, db)
		})
	}
}

// TestManifestFailure: Pebble would end the process.
func TestManifestFailure(t *testing.T) {
	f := newFaults()
	db := mustOpen(t, f)
	if err := step(db, 0, 500); err != nil {
		t.Fatal(err)
	}
	if err := db.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	f.set(func(op errorfs.Op) error {
		if strings.Contains(op.Path, "MANIFEST") && writes(op) {
			return &fs.PathError{Op: "write", Path: op.Path, Err: syscall.EIO}
		}
		return nil
	})
	var err error
	deadline := time.Now().Add(time.Minute)
	n := 1
	for ; err == nil && time.Now().Before(deadline); n++ {
		err = step(db, n, 500)
	}
	if !errors.Is(err, syscall.EIO) {
		t.Fatalf("after a failing manifest: %v, want EIO", err)
	}
	f.clear()
	if err := db.Sync(ctx); !errors.Is(err, syscall.EIO) {
		t.Errorf("Sync: %v, want EIO", err)
	}
	if err := db.Close(); !errors.Is(err, syscall.EIO) {
		t.Errorf("Close: %v, want EIO", err)
	}
	db = mustOpen(t, f)
	if got := steps(t, db, 500); got < 1 || got > n {
		t.Errorf("%d commits are left", got)
	}
	closeIfOpen(t, db)
}

// TestTablesDiskFull: when tables cannot be written for want of space, commits
// are refused with ENOSPC, and go on when there is space.
func TestTablesDiskFull(t *testing.T) {
	f := newFaults()
	db := mustOpen(t, f)
	defer closeIfOpen(t, db)
	f.set(func(op errorfs.Op) error {
		if strings.HasSuffix(op.Path, ".sst") && writes(op) {
			return &fs.PathError{Op: "write", Path: op.Path, Err: syscall.ENOSPC}
		}
		return nil
	})
	put := func(n int) error {
		return db.Update(ctx, func(tx kv.Txn) error {
			tx.Put(fmt.Appendf(nil, "k%08d", n), make([]byte, 1000))
			return nil
		})
	}
	var err error
	n := 0
	for deadline := time.Now().Add(time.Minute); err == nil && time.Now().Before(deadline); n++ {
		err = put(n)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("with a full disk: %v, want ENOSPC", err)
	}
	if err := db.Sync(ctx); err != nil {
		t.Errorf("Sync of what was committed: %v", err)
	}
	f.clear()
	for deadline := time.Now().Add(time.Minute); err != nil && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		err = put(n)
	}
	if err != nil {
		t.Fatalf("after there is space again: %v", err)
	}
	count := 0
	if err := db.View(ctx, func(r kv.Reader) error {
		return r.Scan(nil, nil, func(_, _ []byte) (bool, error) { count++; return true, nil })
	}); err != nil || count != n {
		t.Errorf("%d keys, %d were committed, %v", count, n, err)
	}
}

// TestReserve: below the reserve only what deletes is admitted, below a quarter nothing.
func TestReserve(t *testing.T) {
	f := newFaults()
	f.free.Store(1 << 30)
	o := small(f)
	o.ReserveBytes = 1 << 20
	db, err := pebble.Open("db", o)
	if err != nil {
		t.Fatal(err)
	}
	defer closeIfOpen(t, db)
	n := 0
	put := func(tx kv.Txn) error { n++; tx.Put(fmt.Append(nil, n), make([]byte, 100<<10)); return nil }
	remove := func(tx kv.Txn) error { tx.Delete([]byte("1")); tx.Put([]byte("x"), nil); return nil }
	// The space is looked at now and then only; and after a refusal again soon.
	eventually := func(what string, fn func(tx kv.Txn) error, want error) {
		t.Helper()
		var err error
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if err = db.Update(ctx, fn); errors.Is(err, want) {
				return
			}
		}
		t.Fatalf("%s: %v, want %v", what, err, want)
	}
	eventually("put with space", put, nil)
	f.free.Store(1<<20 - 1)
	eventually("put below the reserve", put, syscall.ENOSPC)
	eventually("delete below the reserve", remove, nil)
	if !db.Metrics().Full {
		t.Error("Metrics do not tell that the disk is full")
	}
	f.free.Store(1<<18 - 1)
	eventually("delete with nearly no space", remove, syscall.ENOSPC)
	if err := db.Sync(ctx); err != nil {
		t.Errorf("Sync: %v", err)
	}
	f.free.Store(1 << 30)
	eventually("put with space again", put, nil)
}

// TestRandomFaults lets one kind of operation fail, once or from some point on,
// at every stage of the life of a database: nothing may panic, hang, or lose
// what was synced.
func TestRandomFaults(t *testing.T) {
	rounds := rounds(60)
	for seed := range rounds {
		rng := rand.New(rand.NewPCG(uint64(seed), 1))
		f := newFaults()
		at := int64(rng.IntN(300))
		once := rng.IntN(2) == 0
		errno := []error{syscall.EIO, syscall.ENOSPC}[rng.IntN(2)]
		suffix := []string{"", ".log", ".sst", "MANIFEST", "marker"}[rng.IntN(5)]
		if suffix != "" {
			at /= 8
		}
		var count atomic.Int64
		fail := func(op errorfs.Op) error {
			if !writes(op) || !strings.Contains(op.Path, suffix) {
				return nil
			}
			if n := count.Add(1); n < at || once && n > at {
				return nil
			}
			return &fs.PathError{Op: "injected", Path: op.Path, Err: errno}
		}
		what := fmt.Sprintf("seed %d: %v at write %d of %q, once %v", seed, errno, at, suffix, once)
		f.set(fail)
		db, err := pebble.Open("db", small(f))
		committed, synced, unknown := 0, 0, 0
		if err != nil {
			if !errors.Is(err, errno) {
				t.Errorf("%s: Open: %v", what, err)
			}
		} else {
			for range 400 {
				err := step(db, committed, 700)
				if err == nil {
					committed++
					if rng.IntN(10) == 0 {
						if err = db.Sync(ctx); err == nil {
							synced = committed
						}
					}
				}
				if err != nil && !errors.Is(err, errno) {
					t.Errorf("%s: %v", what, err)
				}
				if errors.Is(err, kv.ErrUnknown) {
					unknown = 1
				}
				if err != nil {
					break
				}
			}
			if err := db.Close(); err == nil {
				synced = committed
			} else if !errors.Is(err, errno) {
				t.Errorf("%s: Close: %v", what, err)
			}
		}
		f.clear()
		db, err = pebble.Open("db", small(f))
		if err != nil {
			t.Errorf("%s: reopen: %v", what, err)
			continue
		}
		if got := steps(t, db, 700); got < synced || got > committed+unknown {
			t.Errorf("%s: %d commits are left, %d were synced, %d committed, %d unknown", what, got, synced, committed, unknown)
		}
		if err := step(db, steps(t, db, 700), 700); err != nil {
			t.Errorf("%s: commit after reopening: %v", what, err)
		}
		closeIfOpen(t, db)
		if t.Failed() {
			return
		}
	}
}

// TestPowerLoss takes the file system as a power cut would leave it, with any
// part of what was not flushed, while transactions run.
func TestPowerLoss(t *testing.T) {
	rounds := rounds(15)
	for seed := range rounds {
		rng := rand.New(rand.NewPCG(uint64(seed), 2))
		f := newFaults()
		db := mustOpen(t, f)
		var synced, committed atomic.Int64
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := step(db, n, 700); err != nil {
					t.Error(err)
					return
				}
				committed.Store(int64(n + 1))
			}
		})
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				n := committed.Load()
				if err := db.Sync(ctx); err != nil {
					t.Error(err)
					return
				}
				synced.Store(n)
			}
		})
		for range 3 {
			for target := committed.Load() + int64(rng.IntN(300)); committed.Load() < target && !t.Failed(); {
				time.Sleep(time.Millisecond)
			}
			before := synced.Load()
			crashed := f.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
			after := committed.Load() + 1
			again := mustOpen(t, crashed)
			if got := int64(steps(t, again, 700)); got < before || got > after {
				t.Errorf("seed %d: %d commits are left, %d were synced, %d committed", seed, got, before, after)
			}
			closeIfOpen(t, again)
		}
		close(stop)
		wg.Wait()
		closeIfOpen(t, db)
		if t.Failed() {
			return
		}
	}
}

// TestDamage changes bytes of files: that must be found, or not matter.
func TestDamage(t *testing.T) {
	const size, total = 300, 3000
	rounds := rounds(120)
	original := vfs.NewMem()
	db := mustOpen(t, original)
	for n := range total {
		if err := step(db, n, size); err != nil {
			t.Fatal(err)
		}
	}
	closeIfOpen(t, db)
	names, err := original.List("db")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for seed := range rounds {
		rng := rand.New(rand.NewPCG(uint64(seed), 3))
		damaged := vfs.NewMem()
		if _, err := vfs.Clone(original, damaged, "db", "db"); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join("db", names[rng.IntN(len(names))])
		what := damage(t, damaged, name, rng)
		if what == "" {
			continue
		}
		db, err := pebble.Open("db", small(damaged))
		if err == nil {
			count := 0
			err = db.View(ctx, func(r kv.Reader) error {
				return r.Scan(nil, nil, func(k, v []byte) (bool, error) {
					if k[0] == 'k' {
						if len(v) != size || strings.Trim(string(v), string(v[:1])) != "" {
							t.Errorf("%s: %q has a wrong value", what, k)
						}
						count++
					}
					return true, nil
				})
			})
			if err == nil && strings.Contains(name, ".sst") && count < 10 {
				t.Errorf("%s: %d keys are left", what, count)
			}
			if cerr := db.Close(); cerr != nil {
				t.Logf("%s: Close: %v", what, cerr)
			}
		}
		if err != nil {
			found++
			if !errors.Is(err, kv.ErrCorrupt) || !strings.Contains(err.Error(), "db") {
				t.Errorf("%s: %v, want an error that wraps ErrCorrupt and names the database", what, err)
			}
		}
	}
	t.Logf("%d of %d damages were found", found, rounds)
	if found < rounds/12 {
		t.Error("hardly any damage is found")
	}
}

func damage(t *testing.T, fs vfs.FS, name string, rng *rand.Rand) string {
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, info.Size())
	if len(data) > 0 {
		if _, err := f.ReadAt(data, 0); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	what := name
	switch rng.IntN(4) {
	case 0:
		if err := fs.Remove(name); err != nil {
			t.Fatal(err)
		}
		return what + " removed"
	case 1:
		if len(data) == 0 {
			return ""
		}
		n := rng.IntN(len(data))
		data = data[:n]
		what = fmt.Sprintf("%s cut to %d bytes", name, n)
	default:
		if len(data) == 0 {
			return ""
		}
		at := rng.IntN(len(data))
		data[at] ^= byte(1 + rng.IntN(255))
		what = fmt.Sprintf("%s changed at %d of %d", name, at, len(data))
	}
	w, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Sync(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return what
}
