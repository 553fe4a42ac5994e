package meta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/testseed"
	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/kv/pebble"
	"github.com/massif-fs/massif/vfs"
)

// storingSession notes which blocks are put into the store.
type storingSession struct {
	Session
	store *countedStore
}

type countedStore struct {
	mu     sync.Mutex
	blocks map[uint64]time.Time
}

func (s *storingSession) Commit(ctx context.Context, blocks []Block, writes []FileWrite) ([]bool, error) {
	s.store.mu.Lock()
	for _, b := range blocks {
		s.store.blocks[b.ID] = time.Now()
	}
	s.store.mu.Unlock()
	return s.Session.Commit(ctx, blocks, writes)
}

// walk lists a copy of the store: what is put later is not in it.
func (s *countedStore) walk(fn func(uint64, int64, time.Time) error) error {
	s.mu.Lock()
	list := make([]uint64, 0, len(s.blocks))
	for id := range s.blocks {
		list = append(list, id)
	}
	s.mu.Unlock()
	for _, id := range list {
		if err := fn(id, 1, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

// TestMaintenanceRaces does everything that maintenance does while sessions work.
func TestMaintenanceRaces(t *testing.T) {
	for _, driver := range []string{"mem", "pebble"} {
		t.Run(driver, func(t *testing.T) {
			var db, scratch kv.DB = mem.New(), mem.New()
			if driver == "pebble" {
				for _, to := range []*kv.DB{&db, &scratch} {
					p, err := pebble.Open(t.TempDir(), pebble.Options{})
					if err != nil {
						t.Fatal(err)
					}
					defer p.Close()
					*to = p
				}
			}
			f := testFormat()
			f.Retention = 500 * time.Millisecond // of the test's clock: some hundred calls
			if err := Create(bg, db, f); err != nil {
				t.Fatal(err)
			}
			maintainAndWork(t, db, scratch)
		})
	}
}

func maintainAndWork(t *testing.T, db, scratch kv.DB) {
	v := openVolume(t, db, newTestClock())
	dirs := []vfs.Ino{vfs.Root}
	for i := range 3 {
		dirs = append(dirs, v.mkdir(dirs[len(dirs)-1], fmt.Sprint("dir", i)))
	}
	seed := testseed.Of(t, 9)
	store := &countedStore{blocks: make(map[uint64]time.Time)}
	var work, watch sync.WaitGroup
	done := make(chan struct{})
	for w := range 3 {
		s, err := v.e.NewSession(bg, SessionInfo{})
		v.ok(err)
		work.Add(1)
		go func() {
			defer work.Done()
			h := &hammerer{t: t, s: &storingSession{s, store}, e: v.e, dirs: dirs, r: rand.New(rand.NewPCG(seed, uint64(w)))}
			for range 300 {
				if op, err := h.step(); !expected(err) {
					t.Errorf("%s: %v", op, err)
					return
				}
			}
			h.end()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}()
	}
	m := &maintenanceWork{e: v.e, store: store, scratch: scratch, dirs: dirs}
	for i, job := range []func(r *rand.Rand, n int) error{m.delete, m.snapshots, m.copies, m.look} {
		watch.Add(1)
		go func() {
			defer watch.Done()
			r := rand.New(rand.NewPCG(seed, uint64(100+i)))
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				if err := job(r, n); !expected(err) {
					t.Errorf("job %d: %v", i, err)
					return
				}
			}
		}()
	}
	work.Wait()
	close(done)
	watch.Wait()
	v.settle()
	if _, err := v.e.Check(bg, func(p Problem) { t.Error(p) }); err != nil {
		t.Error(err)
	}
	err := v.e.CheckBlocks(bg, func(r BlockRef) error {
		if store.blocks[r.ID].IsZero() {
			t.Errorf("block %d has been deleted, but is needed", r.ID)
		}
		return nil
	})
	v.ok(err)
	v.ok(v.e.Close())
}

type maintenanceWork struct {
	e       *Engine
	store   *countedStore
	scratch kv.DB
	dirs    []vfs.Ino
}

// delete deletes dead blocks and expires history.
func (m *maintenanceWork) delete(r *rand.Rand, n int) error {
	if n%3 == 0 {
		if _, err := m.e.Expire(bg, m.e.clockNow()); err != nil {
			return err
		}
	}
	dead, err := m.e.DeadBlocks(bg, m.e.clockNow(), 50)
	if err != nil {
		return err
	}
	m.store.mu.Lock()
	for _, b := range dead {
		delete(m.store.blocks, b.ID)
	}
	m.store.mu.Unlock()
	return m.e.ForgetBlocks(bg, dead)
}

func (m *maintenanceWork) snapshots(r *rand.Rand, n int) error {
	name := fmt.Sprint("s", r.IntN(3))
	if r.IntN(3) == 0 {
		return m.e.DeleteSnapshot(bg, name)
	}
	if _, err := m.e.CreateSnapshot(bg, name); !expected(err) {
		return err
	}
	past, err := m.e.AtSnapshot(bg, fmt.Sprint("s", r.IntN(3)))
	if err != nil {
		return err
	}
	if _, err = m.e.Restore(bg, past, m.dirs[r.IntN(4)], vfs.Root, fmt.Sprint("restored", n), nil); expected(err) {
		_, err = past.Dump(bg, new(bytes.Buffer), DumpOptions{})
	}
	return errors.Join(err, past.Close())
}

func (m *maintenanceWork) copies(r *rand.Rand, n int) error {
	_, err := m.e.Clone(bg, root, m.dirs[r.IntN(4)], m.dirs[r.IntN(4)], string(rune('a'+r.IntN(6))), nil)
	if !expected(err) {
		return err
	}
	err = m.e.Trash(bg, 0, func(x TrashEntry) error {
		if r.IntN(50) > 0 {
			return nil
		}
		_, err := m.e.RestoreTrash(bg, x, vfs.Root, fmt.Sprint("trash", n), nil)
		if expected(err) {
			err = nil
		}
		return err
	})
	return err
}

// look checks everything online: a consistent state has no problems at any time.
func (m *maintenanceWork) look(r *rand.Rand, n int) error {
	var problems []error
	if _, err := m.e.Check(bg, func(p Problem) { problems = append(problems, errors.New(p.String())) }); err != nil {
		return err
	}
	if len(problems) > 0 {
		return fmt.Errorf("check: %w", errors.Join(append(problems, kv.ErrCorrupt)...))
	}
	if _, err := m.e.Dump(bg, new(bytes.Buffer), DumpOptions{History: true}); err != nil {
		return err
	}
	_, err := m.e.FindOrphans(bg, m.store.walk, time.Hour, m.scratch, func(f StoreFinding) error {
		if f.Problem != Missing {
			return fmt.Errorf("%+v: %w", f, kv.ErrCorrupt)
		}
		m.store.mu.Lock()
		defer m.store.mu.Unlock()
		if !m.store.blocks[f.ID].IsZero() {
			return nil // was listed in an earlier round, before it was put
		}
		if needed, err := m.e.Needed(bg, f.ID); needed || err != nil {
			return fmt.Errorf("%+v is missing (%v): %w", f, err, kv.ErrCorrupt)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return m.scratch.Update(bg, func(w kv.Txn) error { w.DeleteRange([]byte{0}, nil); return nil })
}
