package volume

import (
	"bytes"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/vfs"
)

// never is longer than a test.
func never(c *Config) { c.SettleAfter, c.FlushInterval = time.Hour, time.Hour }

func (w *world) sync(f vfs.File) {
	w.t.Helper()
	if err := f.Sync(bg, false); err != nil {
		w.t.Fatal(err)
	}
}

// objects counts what is in the store.
func (w *world) objects() (n int) {
	w.t.Helper()
	err := w.blocks.Walk(bg, func(block.ID, int64, time.Time) error { n++; return nil })
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) pending() int { return len(w.engine.PendingBlocks()) }

// copyOf is a database with the same records: what a crash leaves.
func copyOf(t *testing.T, db kv.DB) kv.DB {
	t.Helper()
	to := mem.New()
	var keys, values [][]byte
	err := db.View(bg, func(r kv.Reader) error {
		return r.Scan([]byte{0}, nil, func(k, v []byte) (bool, error) {
			keys, values = append(keys, bytes.Clone(k)), append(values, bytes.Clone(v))
			return true, nil
		})
	})
	if err == nil {
		err = to.Update(bg, func(tx kv.Txn) error {
			for i := range keys {
				tx.Put(keys[i], values[i])
			}
			return nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func (w *world) check() {
	w.t.Helper()
	sum, err := w.engine.Check(bg, func(p meta.Problem) { w.t.Errorf("check: %v", p) })
	if err != nil {
		w.t.Errorf("check: %v, %+v", err, sum)
	}
}

// TestSmallSyncNeedsNoObject: what little an fsync flushes is durable with the
// metadata, survives a crash, and is in the store later.
func TestSmallSyncNeedsNoObject(t *testing.T) {
	w := newWorld(t, nil, never)
	rng := rand.New(rand.NewPCG(5, 5))
	want := random(rng, 100<<10)
	f, ino := w.create("f")
	mustWrite(t, f, want, 0)
	w.sync(f)
	part := random(rng, 3000)
	mustWrite(t, f, part, 50_000)
	copy(want[50_000:], part)
	w.sync(f)
	if w.objects() != 0 || w.pending() != 2 {
		t.Fatalf("%d objects in the store, %d pending", w.objects(), w.pending())
	}
	if !bytes.Equal(w.read(ino), want) {
		t.Error("other bytes are read while they are pending")
	}
	w.check()

	// The process dies; its successor has the records and an empty store.
	crashed := &world{t: t, db: copyOf(t, w.db), store: &brokenStore{Store: w.store.Store}, tune: never}
	crashed.open()
	if crashed.pending() != 2 || !bytes.Equal(crashed.read(ino), want) {
		t.Errorf("%d blocks are pending after a crash, or other bytes are read", crashed.pending())
	}
	crashed.close()
	if err := crashed.db.Close(); err != nil {
		t.Error(err)
	}

	// The same objects are put again: nothing is wrong with that.
	if err := w.fs.Settle(bg); err != nil {
		t.Fatal(err)
	}
	if w.objects() != 2 || w.pending() != 0 {
		t.Errorf("after Settle: %d objects in the store, %d pending", w.objects(), w.pending())
	}
	f.Close()
	w.reopen()
	if !bytes.Equal(w.read(ino), want) {
		t.Error("other bytes are read from the store")
	}
	w.check()
}

// TestSettler: the tree moves what is pending by itself.
func TestSettler(t *testing.T) {
	w := newWorld(t, nil, nil)
	f, ino := w.create("f")
	defer f.Close()
	want := bytes.Repeat([]byte("pending "), 2000)
	mustWrite(t, f, want, 0)
	w.sync(f)
	for w.pending() > 0 || w.objects() == 0 {
		time.Sleep(time.Millisecond)
	}
	if !bytes.Equal(w.read(ino), want) {
		t.Error("other bytes are read from the store")
	}
}

// TestOverwrittenIsNeverStored: blocks that are dead before they are moved do not
// reach the store, and the delete queue gets rid of them.
func TestOverwrittenIsNeverStored(t *testing.T) {
	w := newWorld(t, nil, never)
	f, ino := w.create("f")
	defer f.Close()
	rng := rand.New(rand.NewPCG(6, 6))
	var want []byte
	for range 10 {
		want = random(rng, 20<<10)
		mustWrite(t, f, want, 0)
		w.sync(f)
	}
	if err := w.fs.DeleteDead(bg, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if w.pending() != 1 {
		t.Errorf("%d blocks are pending after the dead were deleted", w.pending())
	}
	mustWrite(t, f, want, 0)
	w.sync(f)
	if err := w.fs.Settle(bg); err != nil {
		t.Fatal(err)
	}
	if n := w.store.puts.Load(); n != 1 || w.pending() != 0 {
		t.Errorf("%d objects were put, %d are pending", n, w.pending())
	}
	if !bytes.Equal(w.read(ino), want) {
		t.Error("other bytes are read")
	}
	w.check()
}

// TestPendingPast: what only the past needs is moved, too.
func TestPendingPast(t *testing.T) {
	w := newWorld(t, func(f *meta.Format) { f.Retention = time.Hour }, never)
	f, _ := w.create("f")
	defer f.Close()
	for i := range 2 {
		mustWrite(t, f, bytes.Repeat([]byte{byte(i)}, 20<<10), 0)
		w.sync(f)
	}
	if err := w.fs.Settle(bg); err != nil {
		t.Fatal(err)
	}
	if w.objects() != 2 {
		t.Errorf("%d objects for two versions of a file", w.objects())
	}
}

// TestLargeSyncGoesToTheStore: only little data is kept in the metadata, and no
// more than there is room for.
func TestLargeSyncGoesToTheStore(t *testing.T) {
	w := newWorld(t, nil, never)
	f, _ := w.create("f")
	defer f.Close()
	rng := rand.New(rand.NewPCG(7, 7))
	mustWrite(t, f, random(rng, pendingFlush+1), 1000) // no chunk is full
	w.sync(f)
	if w.pending() != 0 {
		t.Errorf("%d blocks of a large flush are pending", w.pending())
	}
	block := random(rng, 100<<10)
	for i := range 400 {
		mustWrite(t, f, block, int64(i)*meta.MinChunkSize)
		w.sync(f)
	}
	if n := w.pending() * len(block); n > 32<<20 || n < 31<<20 {
		t.Errorf("%d bytes are pending", n)
	}
}

// TestSettleFails: with a store that is down, fsync works until there is no more
// room, and nothing is lost.
func TestSettleFails(t *testing.T) {
	w := newWorld(t, nil, never)
	var down error = &object.Error{Op: "put", Err: syscall.EIO}
	w.store.fail.Store(&down)
	f, ino := w.create("f")
	defer f.Close()
	want := random(rand.New(rand.NewPCG(8, 8)), 30<<10)
	mustWrite(t, f, want, 0)
	w.sync(f)
	if err := w.fs.Settle(bg); vfs.ErrnoOf(err) != syscall.EIO {
		t.Errorf("Settle with a broken store: %v", err)
	}
	if _, err := w.fs.HoldPending(bg); vfs.ErrnoOf(err) != syscall.EIO {
		t.Errorf("HoldPending with a broken store: %v", err)
	}
	if w.pending() != 1 || !bytes.Equal(w.read(ino), want) {
		t.Error("what is pending was lost")
	}
	w.store.fail.Store(nil)
	release, err := w.fs.HoldPending(bg)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, f, want, 100<<10)
	w.sync(f)
	if w.pending() != 0 || w.objects() != 2 {
		t.Errorf("%d blocks are pending while none may be, %d are in the store", w.pending(), w.objects())
	}
	release()
	mustWrite(t, f, want, 200<<10)
	w.sync(f)
	if w.pending() != 1 {
		t.Error("nothing is pending after the hold")
	}
}

// TestSharedSettles: a tree of a shared volume moves what it finds, and keeps
// nothing in the metadata itself.
func TestSharedSettles(t *testing.T) {
	w := newWorld(t, nil, never)
	f, _ := w.create("f")
	want := random(rand.New(rand.NewPCG(9, 9)), 30<<10)
	mustWrite(t, f, want, 0)
	w.sync(f)
	shared := &world{t: t, db: copyOf(t, w.db), store: w.store, tune: func(c *Config) {
		never(c)
		c.Exclusive = false
	}}
	shared.open()
	if shared.pending() != 1 {
		t.Fatalf("%d blocks are pending", shared.pending())
	}
	if err := shared.fs.Settle(bg); err != nil {
		t.Fatal(err)
	}
	g, ino := shared.create("g")
	mustWrite(t, g, want, 0)
	shared.sync(g)
	if shared.pending() != 0 || !bytes.Equal(shared.read(ino), want) || !bytes.Equal(shared.read(shared.lookup("f").Ino), want) {
		t.Errorf("%d blocks are pending, or other bytes are read", shared.pending())
	}
	g.Close()
	f.Close()
	shared.close()
	if err := shared.db.Close(); err != nil {
		t.Error(err)
	}
}
