package meta

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/kv/pebble"
	"github.com/massif-fs/massif/vfs"
)

func withHistory(f *Format) { f.Retention = 24 * time.Hour }

// dump returns all versioned records.
func dump(t testing.TB, r kv.Reader) (list []string) {
	t.Helper()
	for _, kind := range []byte{kindInode, kindName, kindEntry, kindTarget, kindLink, kindXattr, kindInline, kindChunk} {
		err := r.Scan([]byte{kind}, []byte{kind + 1}, func(key, value []byte) (bool, error) {
			list = append(list, fmt.Sprintf("%q = %q", key, value))
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return list
}

// TestHistory compares the reader of a past time with what the records were then.
func TestHistory(t *testing.T) {
	v := newVolume(t, withHistory)
	d := v.mkdir(vfs.Root, "d")
	h := &hammerer{t: t, s: v.s, e: v.e, dirs: []vfs.Ino{vfs.Root, d}, r: rand.New(rand.NewPCG(3, 4))}
	type state struct {
		stamp   uint64
		records []string
	}
	var states []state
	for range 300 {
		if op, err := h.step(); !expected(err) {
			t.Fatal(op, err)
		}
		v.ok(v.e.view(bg, func(w *view) error {
			states = append(states, state{v.e.clock.last.Load(), dump(t, w.r)})
			return nil
		}))
	}
	h.end()
	r := rand.New(rand.NewPCG(5, 6))
	v.ok(v.e.view(bg, func(w *view) error {
		for _, s := range states {
			past := newHistoryReader(w.r, s.stamp)
			if got := dump(t, past); !slices.Equal(got, s.records) {
				t.Fatalf("at %d:\n%q\ninstead of\n%q", s.stamp, got, s.records)
			}
			checkReader(t, past, r)
		}
		return nil
	}))
	v.verify()
}

// checkReader compares Get, ScanReverse and scans of parts with Scan.
func checkReader(t *testing.T, r kv.Reader, rng *rand.Rand) {
	t.Helper()
	kinds := []byte{kindInode, kindName, kindEntry, kindXattr, kindChunk}
	kind := kinds[rng.IntN(len(kinds))]
	collect := func(scan func(start, end []byte, fn func(key, value []byte) (bool, error)) error, start, end []byte) (list []record) {
		err := scan(start, end, func(key, value []byte) (bool, error) {
			list = append(list, record{bytes.Clone(key), bytes.Clone(value)})
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	same := func(a, b []record) bool {
		return slices.EqualFunc(a, b, func(x, y record) bool { return bytes.Equal(x.key, y.key) && bytes.Equal(x.value, y.value) })
	}
	all := collect(r.Scan, []byte{kind}, []byte{kind + 1})
	back := collect(r.ScanReverse, []byte{kind}, []byte{kind + 1})
	slices.Reverse(back)
	if !same(all, back) {
		t.Fatal("forward and reverse scan differ")
	}
	if len(all) == 0 {
		return
	}
	i := rng.IntN(len(all))
	j := i + rng.IntN(len(all)-i)
	if got := collect(r.Scan, all[i].key, all[j].key); !same(got, all[i:j]) {
		t.Fatalf("scan from %q to %q", all[i].key, all[j].key)
	}
	if got := collect(r.Scan, append(bytes.Clone(all[i].key), 0), nil); !same(got[:len(all)-i-1], all[i+1:]) {
		t.Fatalf("scan behind %q", all[i].key)
	}
	if got, err := r.Get(all[i].key); err != nil || !bytes.Equal(got, all[i].value) {
		t.Fatalf("get %q: %q, %v", all[i].key, got, err)
	}
}

func TestAt(t *testing.T) {
	v := newVolume(t, withHistory)
	d := v.mkdir(vfs.Root, "d")
	f := v.file(d, "f")
	v.write(f, 0, 1000)
	v.ok(v.s.SetXattr(bg, root, f, "user.a", []byte("then"), 0))
	then := v.attr(f)
	extents := v.extents(f, 0)
	at := stampTime(v.e.clock.last.Load())
	v.write(f, 500, 1000)
	v.ok(v.s.RemoveXattr(bg, root, f, "user.a"))
	_, err := v.rename(d, "f", vfs.Root, "g", 0)
	v.ok(err)
	v.unlink(vfs.Root, "g")
	v.ok(v.s.Rmdir(bg, root, vfs.Root, "d"))
	v.file(vfs.Root, "new")

	past, err := v.e.At(bg, at)
	v.ok(err)
	s, err := past.NewSession(bg, SessionInfo{})
	v.ok(err)
	w := &testVolume{TB: t, e: past, s: s}
	if got := w.list(vfs.Root); !slices.Equal(got, []string{"d"}) {
		t.Fatal(got)
	}
	if a, err := w.lookup(d, "f"); err != nil || a != then {
		t.Fatal(a, err)
	}
	if got := w.extents(f, 0); !slices.Equal(got, extents) {
		t.Fatal(got)
	}
	if b, err := s.GetXattr(bg, root, f, "user.a"); err != nil || string(b) != "then" {
		t.Fatal(b, err)
	}
	var a vfs.Attr
	var st vfs.StatFS
	w.ok(s.StatFS(bg, root, f, &st))
	w.want(s.Mkdir(bg, root, vfs.Root, "x", 0, &a), syscall.EROFS)
	w.want(s.Unlink(bg, root, d, "f", &a), syscall.EROFS)
	w.ok(s.Touch(bg, f))
	_, err = s.AllocBlocks(bg, 1)
	w.want(err, syscall.EROFS)
	s.Open(f)
	s.Release(f, 1)
	w.ok(past.Close())

	_, err = v.e.At(bg, time.Unix(1000, 0))
	v.want(err, syscall.ENOENT)
	v.ok(v.e.UpdateSettings(bg, func(f *Format) error { f.Retention = 0; return nil }))
	_, err = v.e.At(bg, at)
	v.want(err, syscall.ENOENT)
	before := v.verify().History
	v.file(vfs.Root, "unrecorded")
	if after := v.verify().History; after > before {
		t.Fatal(before, after)
	}
	v.ok(v.e.UpdateSettings(bg, func(f *Format) error { f.Retention = time.Hour; return nil }))
	now := stampTime(v.e.clock.last.Load())
	v.unlink(vfs.Root, "unrecorded")
	past, err = v.e.At(bg, now)
	v.ok(err)
	s, err = past.NewSession(bg, SessionInfo{})
	v.ok(err)
	w.ok(s.Lookup(bg, root, vfs.Root, "unrecorded", &a))
	v.ok(past.Close())
}

// TestStampsAscend checks that time goes forward over crashes and whatever the
// clock does.
func TestStampsAscend(t *testing.T) {
	db := mem.New()
	f := testFormat()
	f.Retention = time.Hour
	if err := Create(bg, db, f); err != nil {
		t.Fatal(err)
	}
	clock := newTestClock()
	last := uint64(0)
	for i := range 5 {
		v := openVolume(t, db, clock)
		v.file(vfs.Root, fmt.Sprint("f", i))
		stamp := v.e.clock.last.Load()
		if stamp <= last {
			t.Fatalf("stamp %d after %d", stamp, last)
		}
		v.ok(db.Sync(bg))
		last = stamp
		v.verify()
		db = db.Crash()
		clock.pass(-time.Hour)
		v.e.cancel()
		v.e.tasks.Wait()
	}
}

// TestStampBoundAscends: the store's bound on stamps does not go back when a change with
// an older stamp is committed after one that has moved the bound further.
func TestStampBoundAscends(t *testing.T) {
	db, err := pebble.Open(t.TempDir(), pebble.Options{}) // lets transactions run side by side
	if err != nil {
		t.Fatal(err)
	}
	if err := Create(bg, db, testFormat()); err != nil {
		t.Fatal(err)
	}
	v := openVolume(t, db, newTestClock())
	old, young := v.mkdir(vfs.Root, "old"), v.mkdir(vfs.Root, "young")
	slow, err := v.e.NewResumableSession(bg, SessionInfo{}, []byte("secret"))
	v.ok(err)
	v.clock.pass(2 * time.Second)
	runs := 0
	r := &Replay{Reply: func(dst []byte) []byte { // between the stamp of the slow change and its commit
		if runs++; runs == 1 {
			v.clock.pass(time.Minute)
			v.mkdir(young, "d")
		}
		return dst
	}}
	var a vfs.Attr
	v.ok(slow.Mkdir(WithReplay(bg, r), root, old, "d", 0o755, &a))
	v.ok(v.e.view(bg, func(w *view) error {
		bound, err := w.counter(keyCounter(counterStamp))
		if uint64(bound) < v.e.clock.last.Load() {
			t.Errorf("the bound is %d, the last stamp %d", bound, v.e.clock.last.Load())
		}
		if uint64(bound) < v.e.clock.bound.Load() {
			t.Errorf("the bound is %d, and taken for %d", bound, v.e.clock.bound.Load())
		}
		return err
	}))
	v.ok(v.e.Close())
	v.ok(db.Close())
}

func TestSettings(t *testing.T) {
	v := newVolume(t)
	v.want(v.e.UpdateSettings(bg, func(f *Format) error { f.ChunkSize *= 2; return nil }), syscall.EINVAL)
	v.want(v.e.UpdateSettings(bg, func(f *Format) error { f.Compression = "zip"; return nil }), syscall.EINVAL)
	v.want(v.e.UpdateSettings(bg, func(f *Format) error { return syscall.EPERM }), syscall.EPERM)
	v.ok(v.e.UpdateSettings(bg, func(f *Format) error { f.Compression, f.InlineLimit = "zstd", 100; return nil }))
	if f := v.s.Format(); f.Compression != "zstd" || f.InlineLimit != 100 {
		t.Fatal(f)
	}
	again := openVolume(t, v.db, v.clock)
	if again.e.Settings() != v.e.Settings() {
		t.Fatal(again.e.Settings())
	}
	again.ok(again.e.Close())

	f := testFormat()
	v.want(Create(bg, v.db, f), syscall.EEXIST)
	f.ChunkSize = 5
	v.want(Create(bg, mem.New(), f), syscall.EINVAL)
	db := mem.New()
	_, err := Open(bg, db, Options{Logger: quiet})
	v.want(err, syscall.ENOENT)
	v.ok(db.Update(bg, func(w kv.Txn) error { w.Put([]byte("other"), nil); return nil }))
	v.want(Create(bg, db, testFormat()), syscall.ENOTEMPTY)
}

// TestFeed checks what sessions are told, and by whom it was.
func TestFeed(t *testing.T) {
	v := newVolume(t)
	other, err := v.e.NewSession(bg, SessionInfo{})
	v.ok(err)
	var mu sync.Mutex
	var mine, theirs []vfs.Change
	stop := v.s.Watch(func(c vfs.Change) {
		mu.Lock()
		mine = append(mine, c)
		mu.Unlock()
	})
	stop2 := other.Watch(func(c vfs.Change) {
		mu.Lock()
		theirs = append(theirs, c)
		mu.Unlock()
	})
	expect := func(want ...vfs.Change) {
		t.Helper()
		if !slices.Equal(mine, want) {
			t.Errorf("told %+v, want %+v", mine, want)
		}
		for i := range want {
			want[i].Remote = true
		}
		if !slices.Equal(theirs, want) {
			t.Errorf("the other was told %+v, want %+v", theirs, want)
		}
		mine, theirs = nil, nil
	}
	entry := func(parent vfs.Ino, name string, ino vfs.Ino) vfs.Change {
		return vfs.Change{Kind: vfs.ChangeEntry, Parent: parent, Name: name, Ino: ino}
	}
	attr := func(ino vfs.Ino) vfs.Change { return vfs.Change{Kind: vfs.ChangeAttr, Ino: ino} }
	gone := func(ino vfs.Ino) vfs.Change { return vfs.Change{Kind: vfs.ChangeGone, Ino: ino} }
	data := func(ino vfs.Ino, off, n int64) vfs.Change {
		return vfs.Change{Kind: vfs.ChangeData, Ino: ino, Off: off, Len: n}
	}
	d := v.mkdir(vfs.Root, "d")
	expect(entry(vfs.Root, "d", d))
	f := v.file(d, "f")
	expect(entry(d, "f", f))
	v.write(f, 100, 50)
	expect(data(f, 0, 150))
	v.write(f, 20, 10)
	expect(data(f, 20, 10))
	v.truncate(f, 30)
	expect(data(f, 30, -1))
	v.link(f, vfs.Root, "g")
	expect(entry(vfs.Root, "g", f), attr(f))
	_, err = v.rename(vfs.Root, "g", d, "h", 0)
	v.ok(err)
	expect(entry(vfs.Root, "g", 0), attr(f), entry(d, "h", f))
	v.unlink(d, "f")
	expect(entry(d, "f", 0), attr(f))
	v.s.Open(f)
	v.unlink(d, "h")
	expect(entry(d, "h", 0), attr(f))
	v.s.Release(f, 1)
	expect(gone(f))
	v.ok(v.s.Rmdir(bg, root, vfs.Root, "d"))
	expect(entry(vfs.Root, "d", 0), gone(d))
	v.want(v.s.Rmdir(bg, root, vfs.Root, "d"), syscall.ENOENT)
	expect()
	stop2()
	stop2()
	stop()
	v.mkdir(vfs.Root, "e")
	expect()
	if n := v.e.watched.Load(); n != 0 {
		t.Error(n)
	}
}
