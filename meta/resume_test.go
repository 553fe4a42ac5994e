package meta

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/vfs"
)

// stoppedDB stops the next transaction when its function is done, before its commit.
type stoppedDB struct {
	kv.DB
	next  atomic.Pointer[func()] // called there
	views atomic.Int64           // that are over
}

func (db *stoppedDB) Update(ctx context.Context, fn func(kv.Txn) error) error {
	return db.DB.Update(ctx, func(w kv.Txn) error {
		err := fn(w)
		if err == nil {
			if stop := db.next.Swap(nil); stop != nil {
				(*stop)()
			}
		}
		return err
	})
}

func (db *stoppedDB) View(ctx context.Context, fn func(kv.Reader) error) error {
	defer db.views.Add(1)
	return db.DB.View(ctx, fn)
}

// beforeCommit runs fn beside the next transaction, between its last look and its
// commit, until fn is over, has looked into the store itself, waits for the
// transaction, or ready says so. finish waits for its end.
func (v *testVolume) beforeCommit(db *stoppedDB, fn func(), ready func() bool) (finish func()) {
	over := make(chan struct{})
	stop := func() {
		before := db.views.Load()
		go func() {
			defer close(over)
			fn()
		}()
		for end := time.Now().Add(3 * time.Minute); db.views.Load() == before; time.Sleep(10 * time.Microsecond) {
			select {
			case <-over:
				return
			default:
			}
			if ready != nil && ready() {
				return
			}
			if !v.e.gate.TryRLock() {
				return // fn wants it alone
			}
			v.e.gate.RUnlock()
			if time.Now().After(end) {
				v.Error("it does nothing")
				return
			}
		}
	}
	db.next.Store(&stop)
	return func() {
		v.Helper()
		if db.next.Load() != nil {
			v.Fatal("there was no transaction")
		}
		<-over
	}
}

const secret = "secret"

// newAbsent is a volume with a file f of which a session that was not ended knows, and
// another session.
func newAbsent(t *testing.T) (v *testVolume, db *stoppedDB, absent uint64, f vfs.Ino) {
	db = &stoppedDB{DB: mem.New()}
	if err := Create(bg, db, testFormat()); err != nil {
		t.Fatal(err)
	}
	v = &testVolume{TB: t, db: db, clock: newTestClock()}
	v.open(0)
	s, err := v.e.NewResumableSession(bg, SessionInfo{}, []byte(secret))
	v.ok(err)
	absent = s.(*session).id
	f = v.file(vfs.Root, "f")
	v.ok(v.e.Close())
	v.open(time.Hour)
	t.Cleanup(func() {
		v.verify()
		v.ok(v.e.Close())
	})
	return v, db, absent, f
}

// open opens the engine again, with a session.
func (v *testVolume) open(grace time.Duration) {
	v.Helper()
	var err error
	v.e, err = Open(bg, v.db, Options{Logger: quiet, Clock: v.clock.Now, Grace: grace, LeaseGrace: 1})
	v.ok(err)
	v.s, err = v.e.NewSession(bg, SessionInfo{})
	v.ok(err)
}

func (v *testVolume) resume(id uint64) *session {
	v.Helper()
	s, restored, err := v.e.ResumeSession(bg, id, []byte(secret))
	v.ok(err)
	if !restored {
		v.Error("the engine knows what it holds")
	}
	return s.(*session)
}

func (v *testVolume) wantGone(ino vfs.Ino) {
	v.Helper()
	v.want(v.s.GetAttr(bg, root, ino, new(vfs.Attr)), syscall.ESTALE)
}

// TestEndWhileUnlinked: a file loses its last name while a session ends for which it
// would have been kept.
func TestEndWhileUnlinked(t *testing.T) {
	v, db, absent, f := newAbsent(t)
	finish := v.beforeCommit(db, v.e.endAbsent, nil)
	v.unlink(vfs.Root, "f")
	finish()
	v.wantGone(f)
	_, _, err := v.e.ResumeSession(bg, absent, []byte(secret))
	v.want(err, syscall.ESTALE)
}

// TestRestoredWhileUnlinked: as before, but the session has just said that it does not
// use the file.
func TestRestoredWhileUnlinked(t *testing.T) {
	v, db, absent, f := newAbsent(t)
	s := v.resume(absent)
	finish := v.beforeCommit(db, func() { v.ok(s.Restored(bg)) }, nil)
	v.unlink(vfs.Root, "f")
	finish()
	v.wantGone(f)
	v.file(vfs.Root, "g")
}

// TestEndWhileItWorks: what a session does while it ends leaves nothing of it.
func TestEndWhileItWorks(t *testing.T) {
	for name, do := range map[string]func(v *testVolume, s Session, ending func(locked bool)) error{
		"tmpfile": func(_ *testVolume, s Session, ending func(locked bool)) error {
			ending(true)
			return s.Tmpfile(bg, root, vfs.Root, 0o600, true, new(vfs.Attr))
		},
		"unlinks what it uses": func(v *testVolume, s Session, ending func(locked bool)) error {
			s.Open(v.file(vfs.Root, "g"))
			ending(true)
			return s.Unlink(bg, root, vfs.Root, "g", new(vfs.Attr))
		},
		"another unlinks what it uses": func(v *testVolume, s Session, ending func(locked bool)) error {
			s.Open(v.file(vfs.Root, "g"))
			ending(true)
			return v.s.Unlink(bg, root, vfs.Root, "g", new(vfs.Attr))
		},
		"block ids": func(_ *testVolume, s Session, ending func(locked bool)) error {
			ending(false)
			return s.(*session).RecordBlocks(bg, 1, 10)
		},
		"call": func(_ *testVolume, s Session, ending func(locked bool)) error {
			ending(false)
			replay := &Replay{Slot: 1, Seq: 1, Reply: func(dst []byte) []byte { return dst }}
			return s.Mknod(WithReplay(bg, replay), root, vfs.Root, "g", syscall.S_IFREG, 0, new(vfs.Attr))
		},
	} {
		t.Run(name, func(t *testing.T) {
			v, db, _, _ := newAbsent(t)
			v.file(vfs.Root, "first") // so that there are inode numbers
			s, err := v.e.NewResumableSession(bg, SessionInfo{}, []byte(secret))
			v.ok(err)
			var finish func()
			id := s.(*session).id
			v.ok(do(v, s, func(locked bool) {
				var ready func() bool
				if locked { // its end waits for the lock of an inode that it uses
					ready = func() bool { return s.(*session).closed.Load() && len(v.e.uses.usedBy(id)) == 0 }
				}
				finish = v.beforeCommit(db, func() { v.ok(s.Close()) }, ready)
			}))
			finish()
			v.wantNothingOf(id)
		})
	}
}

// wantNothingOf checks that the store has no record of a session.
func (v *testVolume) wantNothingOf(id uint64) {
	v.Helper()
	v.ok(v.db.View(bg, func(r kv.Reader) error {
		for _, kind := range append([]byte{kindSession, kindOrphan}, sessionKinds[:]...) {
			err := r.Scan(appendSessionRecords(nil, kind, id), appendSessionRecords(nil, kind, id+1), func(key, value []byte) (bool, error) {
				v.Errorf("left of session %d: %q: %q", id, key, value)
				return true, nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// TestResumeInTime: a session comes back, or has ended, and never both.
func TestResumeInTime(t *testing.T) {
	v, _, absent, f := newAbsent(t)
	s := v.resume(absent)
	v.e.endAbsent() // it is there
	v.ok(s.SetAttr(bg, root, f, &vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o600}, new(vfs.Attr)))
	v.unlink(vfs.Root, "f")
	s.Open(f)
	v.ok(s.Restored(bg))
	v.e.endSilent() // it has said what it holds
	v.ok(s.GetAttr(bg, root, f, new(vfs.Attr)))
	s.Release(f, 1)
	v.wantGone(f)
}

// TestSilent: a session that is there and does not say what it holds ends later.
func TestSilent(t *testing.T) {
	for _, hosted := range []bool{false, true} {
		v, _, absent, f := newAbsent(t)
		s := v.resume(absent)
		called := false
		if hosted {
			s.EndWith(func() {
				called = true
				v.ok(s.Close())
			})
		}
		v.unlink(vfs.Root, "f")
		v.e.endAbsent()
		v.ok(s.GetAttr(bg, root, f, new(vfs.Attr)))
		v.e.endSilent()
		if called != hosted {
			t.Errorf("called: %t", called)
		}
		v.wantGone(f)
		v.wantNothingOf(absent)
		_, _, err := v.e.ResumeSession(bg, absent, []byte(secret))
		if !errors.Is(err, ErrNoSession) {
			t.Error(err)
		}
		v.ok(v.e.absent.wait(bg))
	}
}

// TestNoUseAfterEnd: no use of a session is counted that its end does not see.
func TestNoUseAfterEnd(t *testing.T) {
	v := newVolume(t)
	for range 50 {
		s, err := v.e.NewSession(bg, SessionInfo{})
		v.ok(err)
		var all sync.WaitGroup
		for n := range 3 {
			all.Go(func() {
				for i := range 200 {
					s.Open(vfs.Ino(1000*(n+1) + i))
				}
			})
		}
		v.ok(s.Close())
		all.Wait()
		if list := v.e.uses.usedBy(s.(*session).id); len(list) > 0 {
			t.Fatalf("session %d uses %v after its end", s.(*session).id, list)
		}
	}
}

// TestOpenHeals: what is left of sessions that do not exist goes when the volume is
// opened.
func TestOpenHeals(t *testing.T) {
	v, _, absent, f := newAbsent(t)
	v.s.Open(f)
	v.unlink(vfs.Root, "f")
	v.crash()
	const dead, last = 77, 1<<63 - 1
	v.ok(v.db.Update(bg, func(w kv.Txn) error {
		for _, id := range []uint64{absent, v.s.(*session).id} {
			w.Delete(appendOrphanKey(nil, id, f))
		}
		for _, id := range []uint64{dead, last} {
			w.Put(appendOrphanKey(nil, id, f), nil)
			w.Put(appendReplayKey(nil, id, 3), []byte("reply"))
			w.Put(appendAllocationKey(nil, id, 5), []byte{1})
			w.Put(appendCopyKey(nil, id, f), nil)
		}
		w.Put([]byte{kindReplay, 0, 1}, nil) // no key at all: Repair's
		return nil
	}))
	v.open(time.Hour)
	for _, id := range []uint64{dead, last} {
		v.wantNothingOf(id)
	}
	v.ok(v.s.GetAttr(bg, root, f, new(vfs.Attr))) // the one that may come back may be using it
	v.ok(v.resume(absent).Restored(bg))
	v.wantGone(f)
}
