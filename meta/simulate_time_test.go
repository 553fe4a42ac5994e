package meta

import (
	"fmt"
	"slices"
	"syscall"
	"time"

	"pgregory.net/rapid"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/vfs"
)

// shot is a snapshot.
type shot struct {
	name string
	w    *world
}

// blocks returns the blocks that files with names point to.
func (w *world) blocks() []uint64 {
	var list []uint64
	for _, x := range w.things {
		for _, p := range x.segs {
			if p.block != 0 {
				list = append(list, p.block)
			}
		}
	}
	return list
}

// named is the world without what only sessions hold.
func (w *world) named() *world {
	c := w.clone()
	for _, x := range c.things {
		clear(x.opens)
	}
	for n := -1; n != len(c.things); { // directories that are gone keep names of nothing
		n = len(c.things)
		c.bury()
	}
	return c
}

// stored checks that the store has all blocks of a world.
func (s *simulation) stored(w *world, what string) {
	for _, id := range w.blocks() {
		if !s.store[id] {
			s.Fatalf("block %d of %s has been deleted", id, what)
		}
	}
}

// pass lets time pass.
func (s *simulation) pass() {
	s.now = s.now.Add(time.Duration(rapid.IntRange(1, 60).Draw(s.T, "hours")) * time.Hour)
}

// reachable is the time from which on the volume's past must be there.
func (s *simulation) reachable() time.Time {
	r := s.e.Settings().Retention
	if r == 0 {
		return s.now.Add(1000 * time.Hour)
	}
	if from := s.now.Add(-r); from.After(s.began) {
		s.began = from
	}
	return s.began
}

// past looks at the volume as it was.
func (s *simulation) past() {
	all := append(slices.Clone(s.before), s.moments...)
	m := all[rapid.IntRange(0, len(all)-1).Draw(s.T, "moment")]
	e, err := s.e.At(bg, m.at.Add(time.Second))
	if vfs.ErrnoOf(err) == syscall.ENOENT && m.at.Before(s.reachable()) {
		return
	}
	s.expect(err)
	s.showsPast(e, m.w.named(), fmt.Sprint("as it was at ", m.at))
}

func (s *simulation) showsPast(e *Engine, w *world, what string) {
	sess, err := e.NewSession(bg, SessionInfo{})
	s.expect(err)
	if diff := w.differs(sess); diff != "" {
		s.Fatalf("%s: %s", what, diff)
	}
	s.stored(w, what)
	var a vfs.Attr
	if err := sess.Mkdir(bg, root, vfs.Root, "new", 0o755, &a); vfs.ErrnoOf(err) != syscall.EROFS {
		s.Fatalf("the past can be changed: %v", err)
	}
	s.expect(e.Close())
}

func (s *simulation) snapshot() {
	s.tick()
	name := rapid.SampledFrom([]string{"s1", "s2", "s3"}).Draw(s.T, "name")
	i := slices.IndexFunc(s.shots, func(x shot) bool { return x.name == name })
	switch rapid.SampledFrom([]string{"create", "look", "look", "delete"}).Draw(s.T, "what") {
	case "create":
		_, err := s.e.CreateSnapshot(bg, name)
		if i >= 0 {
			s.expect(err, syscall.EEXIST)
			return
		}
		s.expect(err)
		s.shots = append(s.shots, shot{name, s.w.named()})
		s.tock()
	case "look":
		e, err := s.e.AtSnapshot(bg, name)
		if i < 0 {
			s.expect(err, syscall.ENOENT)
			return
		}
		s.expect(err)
		s.showsPast(e, s.shots[i].w, "snapshot "+name)
	case "delete":
		err := s.e.DeleteSnapshot(bg, name)
		if i < 0 {
			s.expect(err, syscall.ENOENT)
			return
		}
		s.expect(err)
		s.shots = slices.Delete(s.shots, i, i+1)
		s.tock()
	}
	list, err := s.e.ListSnapshots(bg)
	s.expect(err)
	if len(list) != len(s.shots) {
		s.Fatalf("snapshots are %v, should be %d", list, len(s.shots))
	}
	for i, x := range s.shots {
		if list[i].Name != x.name {
			s.Fatalf("snapshots are %v, should be %v", list, s.shots)
		}
	}
}

// settings changes how long the past is kept.
func (s *simulation) settings() {
	s.tick()
	had := s.e.Settings().Retention
	want := rapid.SampledFrom([]time.Duration{0, 10 * time.Hour, 100 * time.Hour}).Draw(s.T, "retention")
	s.reachable() // with the old retention
	s.expect(s.e.UpdateSettings(bg, func(f *Format) error {
		f.Retention = want
		return nil
	}))
	if had == 0 {
		s.began = s.now
	}
	s.tock()
}

// maintain deletes dead blocks and expires history.
func (s *simulation) maintain() {
	s.tick()
	if rapid.Bool().Draw(s.T, "expire") {
		_, err := s.e.Expire(bg, s.now)
		s.expect(err)
	}
	s.deleteDead(rapid.IntRange(0, 20).Draw(s.T, "limit"), rapid.IntRange(0, 4).Draw(s.T, "forget") > 0)
	s.tock()
}

func (s *simulation) deleteDead(limit int, forget bool) (n int) {
	dead, err := s.e.DeadBlocks(bg, s.now, limit)
	s.expect(err)
	s.expect(s.sessions[0].Sync(bg))
	if len(dead) > limit {
		s.Fatalf("%d dead blocks instead of up to %d", len(dead), limit)
	}
	for _, b := range dead {
		delete(s.store, b.ID)
	}
	s.stored(s.w, "the present")
	if forget {
		s.expect(s.e.ForgetBlocks(bg, dead))
	}
	return len(dead)
}

// cleanUp checks that all that nobody needs any more goes in the end.
func (s *simulation) cleanUp() {
	s.tick()
	for _, x := range s.shots {
		s.expect(s.e.DeleteSnapshot(bg, x.name))
	}
	for _, sess := range s.sessions {
		s.expect(sess.Close())
	}
	s.forgetUses()
	s.expect(s.e.reapAll(bg, systemSession)) // the reaper may not be done
	s.now = s.now.Add(200 * time.Hour)
	_, err := s.e.Expire(bg, s.now)
	s.expect(err)
	for s.deleteDead(7, true) > 0 {
	}
	s.collect(mem.New())
	sum, err := s.e.Check(bg, func(p Problem) { s.Errorf("%v", p) })
	s.expect(err)
	used := map[uint64]bool{}
	for _, id := range s.w.blocks() {
		used[id] = true
	}
	if len(s.store) != len(used) {
		s.Fatalf("%d blocks are in the store, %d in use", len(s.store), len(used))
	}
	if sum.Retired != 0 || sum.History != 0 || sum.Blocks != int64(len(used)) || sum.Inodes != int64(len(s.w.things)) {
		s.Fatalf("%d blocks and %d inodes should be left, there are %+v", len(used), len(s.w.things), sum)
	}
}

// collect removes what crashes have left in the store, and checks that nothing is
// missing there.
func (s *simulation) collect(scratch kv.DB) {
	walk := func(fn func(uint64, int64, time.Time) error) error {
		for id := range s.store {
			if err := fn(id, 1, s.now); err != nil {
				return err
			}
		}
		return nil
	}
	_, err := s.e.FindOrphans(bg, walk, 0, scratch, func(f StoreFinding) error {
		if f.Problem != Orphan {
			s.Errorf("%+v", f)
		}
		delete(s.store, f.ID)
		return nil
	})
	s.expect(err)
	s.stored(s.w, "the present after garbage collection")
}
