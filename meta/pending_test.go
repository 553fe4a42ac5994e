package meta

import (
	"bytes"
	"errors"
	"slices"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/kv"
)

// pend commits a block with its object as all of a new file.
func (v *testVolume) pend(name string, object []byte) (id uint64) {
	v.Helper()
	id, err := v.s.AllocBlocks(bg, 1)
	v.ok(err)
	v.e.Pend(id, object)
	w := FileWrite{Ino: v.file(1, name), Size: 1000,
		Chunks: []Chunk{{Extents: []Extent{{Len: 1000, Block: id, Size: 1000}}}}}
	_, err = v.s.Commit(bg, []Block{{id, 1000}}, []FileWrite{w})
	v.ok(err)
	return id
}

func (v *testVolume) object(id uint64) []byte {
	v.Helper()
	p, err := v.e.PendingObject(bg, id)
	v.ok(err)
	return p
}

func TestPending(t *testing.T) {
	v := newVolume(t)
	one, two := v.pend("one", []byte("object 1")), v.pend("two", []byte("object 2"))
	check := func(want ...uint64) {
		t.Helper()
		if got := v.e.PendingBlocks(); !slices.Equal(got, want) {
			t.Errorf("pending are %v, not %v", got, want)
		}
	}
	check(one, two)
	if !v.e.HasPending(two) || v.e.HasPending(two+1) {
		t.Error("HasPending does not know which")
	}
	// Another engine over the same records finds them.
	again, err := Open(bg, v.db, Options{Logger: quiet, ReadOnly: true})
	v.ok(err)
	if got, err := again.PendingObject(bg, one); err != nil || string(got) != "object 1" {
		t.Errorf("after opening: %q, %v", got, err)
	}
	if again.PendingRoom(1) || !errors.Is(again.Settle(bg, nil), syscall.EROFS) {
		t.Error("a read-only engine takes or gives up objects")
	}
	v.ok(again.Close())

	v.ok(v.e.Settle(bg, []uint64{one}))
	check(two)
	if v.object(one) != nil || !bytes.Equal(v.object(two), []byte("object 2")) {
		t.Error("Settle removed something else")
	}
	// A block that is deleted is not pending any more.
	if gone, err := v.e.Overwritten(bg, two); gone || err != nil {
		t.Errorf("a block in use counts as overwritten (%v)", err)
	}
	v.unlink(1, "two")
	if gone, err := v.e.Overwritten(bg, two); !gone || err != nil {
		t.Errorf("a block of a removed file is still needed (%v)", err)
	}
	dead, err := v.e.DeadBlocks(bg, v.clock.Now().Add(1), 10)
	v.ok(err)
	v.ok(v.e.ForgetBlocks(bg, dead))
	check()
	if v.object(two) != nil {
		t.Error("the object of a forgotten block is still there")
	}
}

// TestPendingCommitFails: what was given to a commit that failed takes no room for
// ever, and is not settled while the commit may still come.
func TestPendingCommitFails(t *testing.T) {
	v := newVolume(t)
	id, err := v.s.AllocBlocks(bg, 1)
	v.ok(err)
	v.e.Pend(id, []byte("object"))
	if got := v.e.PendingBlocks(); len(got) > 0 {
		t.Errorf("%v may be settled before their commit", got)
	}
	ino := v.file(1, "f")
	bad := FileWrite{Ino: ino, SetInline: true, ClearInline: true}
	if _, err := v.s.Commit(bg, []Block{{id, 1}}, []FileWrite{bad}); err == nil {
		t.Fatal("a commit that contradicts itself was made")
	}
	if got := v.e.PendingBlocks(); !slices.Equal(got, []uint64{id}) || v.object(id) != nil {
		t.Errorf("after the commit failed: %v", got)
	}
	if gone, err := v.e.Overwritten(bg, id); !gone || err != nil {
		t.Errorf("a block that was never committed is needed (%v)", err)
	}
	v.ok(v.e.Settle(bg, []uint64{id}))
	if v.e.HasPending(id) || v.e.pending.bytes != 0 || len(v.e.pending.incoming) != 0 {
		t.Error("something is left of it")
	}
}

// TestPendingPast: the past, and copies under way, need what the present does not.
func TestPendingPast(t *testing.T) {
	v := newVolume(t)
	id := v.pend("f", []byte("object"))
	v.e.maint.mu.Lock()
	v.e.maint.holds = append(v.e.maint.holds, 1)
	v.e.maint.mu.Unlock()
	v.unlink(1, "f")
	if gone, err := v.e.Overwritten(bg, id); gone || err != nil {
		t.Errorf("a copy under way may need it (%v)", err)
	}
	v.e.maint.mu.Lock()
	v.e.maint.holds = nil
	v.e.maint.mu.Unlock()

	h := newVolume(t, func(f *Format) { f.Retention = 1e12 })
	id = h.pend("f", []byte("object"))
	h.unlink(1, "f")
	if gone, err := h.e.Overwritten(bg, id); gone || err != nil {
		t.Errorf("the past needs it (%v)", err)
	}
}

// TestPendingDamage: an object without a block's record is found and removed.
func TestPendingDamage(t *testing.T) {
	v := newVolume(t)
	v.ok(v.db.Update(bg, func(w kv.Txn) error {
		w.Put(appendPendingKey(nil, 77), []byte("object"))
		return nil
	}))
	var found []Problem
	_, err := v.e.Check(bg, func(p Problem) { found = append(found, p) })
	v.ok(err)
	if len(found) != 1 {
		t.Errorf("found %v", found)
	}
	v.repair()
	if err := v.db.View(bg, func(r kv.Reader) error { _, err := r.Get(appendPendingKey(nil, 77)); return err }); !errors.Is(err, kv.ErrNotFound) {
		t.Errorf("the object is still there (%v)", err)
	}
}
