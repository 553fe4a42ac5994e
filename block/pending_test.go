package block

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/massif-fs/massif/object/mem"
)

// waiting is a Pending in memory.
type waiting struct {
	mu      sync.Mutex
	objects map[ID][]byte
	late    bool // says it has what it has not any more
}

func (w *waiting) HasPending(id uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.objects[ID(id)]
	return ok
}

func (w *waiting) PendingObject(_ context.Context, id uint64) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.late {
		return nil, nil
	}
	return w.objects[ID(id)], nil
}

func (w *waiting) setLate(late bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late = late
}

// TestPending reads blocks that are kept elsewhere, in every form, while they are
// and after they have been moved.
func TestPending(t *testing.T) {
	ctx := context.Background()
	for _, v := range variants() {
		p := &waiting{objects: map[ID][]byte{}}
		change := v.change
		v.change = func(c *Config) {
			change(c)
			c.Pending = p
		}
		f := v.open(t, mem.New())
		rng := rand.New(rand.NewPCG(4, 4))
		for i := range 12 {
			id, plain := ID(i+1), content(uint64(i), i%4, 1+rng.IntN(300_000))
			object, err := f.Object(ctx, id, nil, pieces(rng, plain)...)
			if err != nil {
				t.Fatal(err)
			}
			r := Ref{id, uint32(len(plain))}
			read := func(when string) {
				t.Helper()
				for range 5 {
					off := rng.IntN(len(plain))
					got := make([]byte, 1+rng.IntN(len(plain)-off))
					if err := f.ReadAt(ctx, r, got, uint32(off)); err != nil || !bytes.Equal(got, plain[off:off+len(got)]) {
						t.Fatalf("%s: other bytes, or %v", when, err)
					}
				}
				if ok, err := f.Exists(ctx, r); !ok || err != nil {
					t.Errorf("%s: Exists says %v, %v", when, ok, err)
				}
				if err := f.Verify(ctx, r); err != nil {
					t.Errorf("%s: %v", when, err)
				}
				if err := f.DropCaches(); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.ReadAt(ctx, r, make([]byte, 1), 0); !errors.Is(err, ErrMissing) {
				t.Errorf("a block that is nowhere: %v", err)
			}
			p.mu.Lock()
			p.objects[id] = object
			p.mu.Unlock()
			f.Prefetch(r, 0, r.Size)
			read("pending")
			if err := f.PutObject(ctx, id, object); err != nil {
				t.Fatal(err)
			}
			p.setLate(true)
			read("just moved")
			p.setLate(false)
			p.mu.Lock()
			delete(p.objects, id)
			p.mu.Unlock()
			read("moved")
		}
	}
}

// TestPutObjectRefuses what is not the object of the block.
func TestPutObjectRefuses(t *testing.T) {
	ctx := context.Background()
	f := open(t, mem.New(), nil)
	object, err := f.Object(ctx, 5, []byte("before"), []byte("content"))
	if err != nil {
		t.Fatal(err)
	}
	object, ok := bytes.CutPrefix(object, []byte("before"))
	if !ok {
		t.Fatal("Object does not append")
	}
	for name, bad := range map[string][]byte{"nothing": nil, "cut": object[:len(object)-1], "longer": append(bytes.Clone(object), 0)} {
		if err := f.PutObject(ctx, 5, bad); err == nil {
			t.Errorf("%s was put", name)
		}
	}
	if err := f.PutObject(ctx, 6, object); err == nil {
		t.Error("a block was put under another's number")
	}
	if _, err := f.Object(ctx, 0, nil, []byte("x")); err == nil {
		t.Error("0 has an object")
	}
}
