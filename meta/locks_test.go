package meta

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/massif-fs/massif/vfs"
)

// lockBytes is how many positions of a file the model has; the last one stands for
// everything from there to the end.
const lockBytes = 12

// modelLocks is the lock table as one would explain it: for each byte of each file
// what each owner has there.
type modelLocks struct {
	held  map[lockFile]map[lockOwner]*[lockBytes]vfs.LockType
	waits []*modelWait // of all files, in the order in which they came
}

type modelWait struct {
	file     lockFile
	owner    lockOwner
	from, to int
	kind     vfs.LockType
	real     *lockWait
}

func (m *modelLocks) bytes(f lockFile, o lockOwner) *[lockBytes]vfs.LockType {
	if m.held[f] == nil {
		m.held[f] = make(map[lockOwner]*[lockBytes]vfs.LockType)
	}
	if m.held[f][o] == nil {
		m.held[f][o] = new([lockBytes]vfs.LockType)
	}
	return m.held[f][o]
}

func (m *modelLocks) holders(w *modelWait) (list []lockOwner) {
	for o, held := range m.held[w.file] {
		for i := w.from; o != w.owner && i <= w.to; i++ {
			if held[i] == vfs.LockWrite || held[i] == vfs.LockRead && w.kind == vfs.LockWrite {
				list = append(list, o)
				break
			}
		}
	}
	return list
}

func (m *modelLocks) apply(w *modelWait) {
	held := m.bytes(w.file, w.owner)
	for i := w.from; i <= w.to; i++ {
		held[i] = w.kind
	}
}

// wake returns the waits that are over now.
func (m *modelLocks) wake(f lockFile) (granted []*modelWait) {
	for again := true; again; {
		again = false
		var kept []*modelWait
		for _, w := range m.waits {
			if w.file != f || len(m.holders(w)) > 0 {
				kept = append(kept, w)
				continue
			}
			m.apply(w)
			granted = append(granted, w)
			again = true
		}
		m.waits = kept
	}
	return granted
}

func (m *modelLocks) deadlock(w *modelWait) bool {
	reached := map[lockOwner]bool{}
	for _, o := range m.holders(w) {
		reached[o] = true
	}
	for grown := true; grown; {
		grown = false
		for _, x := range m.waits {
			if x.file.kind != vfs.LockPOSIX || !reached[x.owner] {
				continue
			}
			for _, o := range m.holders(x) {
				if !reached[o] {
					reached[o], grown = true, true
				}
			}
		}
	}
	return reached[w.owner]
}

func lockOver(w *lockWait) bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// check compares the table with the model and looks for what must always hold.
func (m *modelLocks) check(t *rapid.T, table *lockTable) {
	count := len(m.waits)
	for id, f := range table.files {
		if len(f.owners) == 0 && len(f.waits) == 0 {
			t.Fatalf("%v is kept for nothing", id)
		}
		for _, o := range f.owners {
			count += len(o.ranges)
			var have [lockBytes]vfs.LockType
			last := lockRange{}
			for i, r := range o.ranges {
				if r.start > r.end || i > 0 && (r.start <= last.end || r.start == last.end+1 && r.kind == last.kind) || r.kind == vfs.LockUnlock {
					t.Fatalf("ranges of %v: %v", o.owner, o.ranges)
				}
				last = r
				for b := r.start; b <= min(r.end, lockBytes-1); b++ {
					have[b] = r.kind
				}
				if r.end != vfs.LockEOF && r.end >= lockBytes-1 {
					t.Fatalf("range %v does not reach the end", r)
				}
			}
			if len(o.ranges) == 0 || have != *m.bytes(id, o.owner) {
				t.Fatalf("%v of %v has %v, should have %v", id, o.owner, o.ranges, m.bytes(id, o.owner))
			}
		}
	}
	for id, owners := range m.held {
		for o, held := range owners {
			if *held == [lockBytes]vfs.LockType{} {
				continue
			}
			f := table.files[id]
			found := false
			for i := range f.owners {
				found = found || f.owners[i].owner == o
			}
			if !found {
				t.Fatalf("%v of %v is missing: %v", id, o, held)
			}
		}
	}
	for _, w := range m.waits {
		if lockOver(w.real) {
			t.Fatalf("wait %+v is over too early: %v", w, w.real.err)
		}
	}
	sum := 0
	for _, s := range table.sessions {
		sum += s.count
	}
	if table.count != count || sum != count {
		t.Fatalf("the table counts %d, its sessions %d, there are %d", table.count, sum, count)
	}
}

func TestLocksModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := new(lockTable)
		m := &modelLocks{held: make(map[lockFile]map[lockOwner]*[lockBytes]vfs.LockType)}
		sessions := []*session{{id: 1}, {id: 2}}
		granted := func(list []*modelWait) {
			for _, w := range list {
				if !lockOver(w.real) || w.real.err != nil {
					t.Fatalf("wait %+v should be over", w)
				}
			}
		}
		step := func() (lockFile, *session, lockOwner) {
			f := lockFile{vfs.Ino(rapid.IntRange(1, 2).Draw(t, "ino")), vfs.LockKind(rapid.IntRange(0, 1).Draw(t, "kind"))}
			s := rapid.SampledFrom(sessions).Draw(t, "session")
			return f, s, lockOwner{s.id, rapid.Uint64Range(1, 2).Draw(t, "owner")}
		}
		draw := func(f lockFile, o lockOwner, kinds ...vfs.LockType) (*modelWait, vfs.Lock) {
			w := &modelWait{file: f, owner: o, kind: rapid.SampledFrom(kinds).Draw(t, "type"), to: lockBytes - 1}
			if f.kind == vfs.LockPOSIX {
				w.from = rapid.IntRange(0, lockBytes-1).Draw(t, "from")
				w.to = rapid.IntRange(w.from, lockBytes-1).Draw(t, "to")
			}
			l := vfs.Lock{Kind: f.kind, Type: w.kind, Owner: o.owner, PID: uint32(o.session*10 + o.owner), Start: uint64(w.from), End: uint64(w.to)}
			if w.to == lockBytes-1 {
				l.End = vfs.LockEOF
			}
			return w, l
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) { m.check(t, table) },
			"set": func(t *rapid.T) {
				f, s, o := step()
				w, l := draw(f, o, vfs.LockUnlock, vfs.LockRead, vfs.LockWrite, vfs.LockWrite)
				wait := rapid.Bool().Draw(t, "wait")
				real, err := table.request(context.Background(), s, f.ino, l, wait)
				if w.kind == vfs.LockUnlock || len(m.holders(w)) == 0 {
					if real != nil || err != nil {
						t.Fatalf("nobody is in the way of %+v: %v", l, err)
					}
					m.apply(w)
					granted(m.wake(f))
					return
				}
				if f.kind == vfs.LockFlock {
					delete(m.held[f], o)
					granted(m.wake(f))
				}
				switch {
				case !wait:
					if real != nil || err != syscall.EAGAIN {
						t.Fatalf("%+v got %v", l, err)
					}
				case f.kind == vfs.LockPOSIX && m.deadlock(w):
					if real != nil || err != syscall.EDEADLK {
						t.Fatalf("%+v got %v, should be a deadlock", l, err)
					}
				case real == nil || err != nil:
					t.Fatalf("%+v does not wait: %v", l, err)
				default:
					w.real = real
					m.waits = append(m.waits, w)
				}
			},
			"get": func(t *rapid.T) {
				f, s, o := step()
				w, l := draw(f, o, vfs.LockRead, vfs.LockWrite)
				got, err := table.get(s, f.ino, l)
				holders := m.holders(w)
				if err != nil || (got.Type == vfs.LockUnlock) != (len(holders) == 0) {
					t.Fatalf("%+v: %+v, %v; should be %v", l, got, err, holders)
				}
				if got.Type == vfs.LockUnlock {
					return
				}
				// It is in the way, and none before it is.
				by := lockOwner{uint64(got.PID / 10), got.Owner}
				have := m.bytes(f, by)
				if have[got.Start] != got.Type || by == o || max(got.Start, l.Start) > min(got.End, l.End) {
					t.Fatalf("%+v is not in the way of %+v", got, l)
				}
				if int(got.Start) > w.from {
					w.to = int(got.Start) - 1
					if len(m.holders(w)) > 0 {
						t.Fatalf("%+v is not the first in the way of %+v", got, l)
					}
				}
			},
			"release": func(t *rapid.T) {
				f, s, o := step()
				table.release(s, f.ino, o.owner, f.kind)
				delete(m.held[f], o)
				granted(m.wake(f))
			},
			"end session": func(t *rapid.T) {
				if rapid.IntRange(0, 3).Draw(t, "rarely") > 0 {
					return
				}
				i := rapid.IntRange(0, len(sessions)-1).Draw(t, "which")
				s := sessions[i]
				s.closed.Store(true)
				table.endSession(s)
				var kept []*modelWait
				for _, w := range m.waits {
					if w.owner.session != s.id {
						kept = append(kept, w)
					} else if !lockOver(w.real) || !errors.Is(w.real.err, errSessionClosed) {
						t.Fatalf("wait %+v of an ended session is left", w)
					}
				}
				m.waits = kept
				for f, owners := range m.held {
					for o := range owners {
						if o.session == s.id {
							delete(owners, o)
						}
					}
					granted(m.wake(f))
				}
				if _, err := table.request(context.Background(), s, 1, vfs.Lock{Type: vfs.LockRead}, true); !errors.Is(err, errSessionClosed) {
					t.Fatalf("an ended session gets a lock: %v", err)
				}
				sessions[i] = &session{id: s.id + uint64(len(sessions))}
			},
		})
	})
}

func whole(kind vfs.LockKind, typ vfs.LockType, owner uint64) vfs.Lock {
	return vfs.Lock{Kind: kind, Type: typ, Owner: owner, End: vfs.LockEOF}
}

func TestLockWait(t *testing.T) {
	table := new(lockTable)
	a, b := &session{id: 1}, &session{id: 2}
	ctx := context.Background()
	if err := table.set(ctx, a, 5, whole(vfs.LockPOSIX, vfs.LockWrite, 1), false); err != nil {
		t.Fatal(err)
	}
	done, cancel := context.WithCancel(ctx)
	result := make(chan error)
	go func() { result <- table.set(done, b, 5, whole(vfs.LockPOSIX, vfs.LockRead, 1), true) }()
	go func() { result <- table.set(ctx, b, 5, whole(vfs.LockPOSIX, vfs.LockRead, 2), true) }()
	waitForLocks(t, table, 3)
	cancel()
	if err := <-result; !errors.Is(err, syscall.EINTR) || vfs.ErrnoOf(err) != syscall.EINTR {
		t.Fatalf("an interrupted wait gives %v", err)
	}
	if err := table.set(done, b, 5, whole(vfs.LockPOSIX, vfs.LockRead, 3), true); !errors.Is(err, syscall.EINTR) {
		t.Fatalf("a wait interrupted before it gives %v", err)
	}
	table.release(a, 5, 1, vfs.LockPOSIX)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	go func() { result <- table.set(ctx, a, 5, whole(vfs.LockPOSIX, vfs.LockWrite, 1), true) }()
	waitForLocks(t, table, 2)
	a.closed.Store(true)
	table.endSession(a)
	if err := <-result; vfs.ErrnoOf(err) != syscall.EIO {
		t.Fatalf("a wait of an ended session gives %v", err)
	}
	table.endSession(b)
	if table.count != 0 || len(table.files)+len(table.sessions)+len(table.waits) != 0 {
		t.Fatalf("something is left: %+v", table)
	}
}

// waitForLocks waits until the table holds n ranges and waits.
func waitForLocks(t *testing.T, table *lockTable, n int) {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(100 * time.Microsecond) {
		table.mu.Lock()
		have := table.count
		table.mu.Unlock()
		if have == n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the table has %d locks and waits, not %d", have, n)
		}
	}
}

// TestLockDeadlock makes a ring of waits over three files and two sessions.
func TestLockDeadlock(t *testing.T) {
	table := new(lockTable)
	ctx := context.Background()
	s := []*session{{id: 1}, {id: 2}, {id: 1}}
	var waits []*lockWait
	for i := range 3 {
		if err := table.set(ctx, s[i], vfs.Ino(i+1), whole(vfs.LockPOSIX, vfs.LockWrite, uint64(i)), true); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 {
		w, err := table.request(ctx, s[i], vfs.Ino(i+2), whole(vfs.LockPOSIX, vfs.LockRead, uint64(i)), true)
		if err != nil {
			t.Fatal(err)
		}
		waits = append(waits, w)
	}
	err := table.set(ctx, s[2], 1, whole(vfs.LockPOSIX, vfs.LockRead, 2), true)
	if vfs.ErrnoOf(err) != syscall.EDEADLK {
		t.Fatalf("a deadlock gives %v", err)
	}
	if err := table.set(ctx, s[2], 1, whole(vfs.LockPOSIX, vfs.LockRead, 2), false); err != syscall.EAGAIN {
		t.Fatal(err)
	}
	table.release(s[2], 3, 2, vfs.LockPOSIX)
	<-waits[1].done
	table.release(s[1], 2, 1, vfs.LockPOSIX)
	<-waits[0].done
}

// TestFlockUpgrade: of two owners that both upgrade, one gets the lock.
func TestFlockUpgrade(t *testing.T) {
	table := new(lockTable)
	ctx := context.Background()
	s := &session{id: 1}
	for owner := range uint64(2) {
		if err := table.set(ctx, s, 1, whole(vfs.LockFlock, vfs.LockRead, owner), false); err != nil {
			t.Fatal(err)
		}
	}
	w, err := table.request(ctx, s, 1, whole(vfs.LockFlock, vfs.LockWrite, 0), true)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.set(ctx, s, 1, whole(vfs.LockFlock, vfs.LockWrite, 1), false); err != nil {
		t.Fatal("the other has given up its lock, but", err)
	}
	// The same locks of fcntl(2) are something else.
	if err := table.set(ctx, s, 1, whole(vfs.LockPOSIX, vfs.LockWrite, 7), false); err != nil {
		t.Fatal(err)
	}
	table.release(s, 1, 1, vfs.LockFlock)
	<-w.done
}

func TestLockLimit(t *testing.T) {
	table := new(lockTable)
	ctx := context.Background()
	s := &session{id: 1}
	at := func(i uint64, typ vfs.LockType) vfs.Lock {
		return vfs.Lock{Type: typ, Owner: 1, Start: i, End: i}
	}
	for i := range uint64(maxSessionLocks) {
		if err := table.set(ctx, s, 1, at(2*i, vfs.LockWrite), false); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := table.set(ctx, s, 1, at(1e9, vfs.LockWrite), false); vfs.ErrnoOf(err) != syscall.ENOLCK {
		t.Fatalf("one lock too many gives %v", err)
	}
	if err := table.set(ctx, s, 1, at(4, vfs.LockRead), false); err != nil {
		t.Fatal("a lock in place of another:", err)
	}
	if err := table.set(ctx, &session{id: 2}, 1, at(1e9, vfs.LockWrite), false); err != nil {
		t.Fatal("another session's lock:", err)
	}
	if err := table.set(ctx, s, 1, vfs.Lock{Owner: 1, End: vfs.LockEOF}, false); err != nil {
		t.Fatal(err)
	}
	if table.count != 1 {
		t.Fatalf("%d locks are left", table.count)
	}
}

func TestLockInvalid(t *testing.T) {
	table := new(lockTable)
	s := &session{id: 1}
	for _, l := range []vfs.Lock{
		{Kind: 2, Type: vfs.LockRead}, {Type: 3}, {Type: vfs.LockWrite, Start: 2, End: 1}, {Type: vfs.LockRead, Start: 1 << 63, End: 1<<64 - 1},
	} {
		if err := table.set(context.Background(), s, 1, l, true); vfs.ErrnoOf(err) != syscall.EINVAL {
			t.Errorf("%+v gives %v", l, err)
		}
	}
	if _, err := table.get(s, 1, vfs.Lock{}); vfs.ErrnoOf(err) != syscall.EINVAL {
		t.Errorf("finding an unlock gives %v", err)
	}
	if len(table.files) != 0 {
		t.Error("something is kept")
	}
}

// TestLocksHammer has owners of several sessions lock ranges and check that nobody
// else is inside, with interruptions, deadlocks and sessions that end.
func TestLocksHammer(t *testing.T) {
	const workers, rounds, positions = 8, 400, 6
	table := new(lockTable)
	var inside [2][positions]atomic.Int64 // writers count 1000, readers 1
	var wg sync.WaitGroup
	var got atomic.Int64
	for worker := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rnd := rand.New(rand.NewPCG(7, uint64(worker)))
			s := &session{id: uint64(worker + 1)}
			for round := range rounds {
				if round%50 == 49 {
					s.closed.Store(true)
					table.endSession(s)
					s = &session{id: s.id + workers}
				}
				kind := vfs.LockKind(rnd.IntN(2))
				l := vfs.Lock{Kind: kind, Type: vfs.LockRead + vfs.LockType(rnd.IntN(2)), Owner: 1, End: positions - 1}
				if kind == vfs.LockPOSIX {
					l.Start = rnd.Uint64N(positions)
					l.End = l.Start + rnd.Uint64N(positions-l.Start)
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rnd.IntN(2000))*time.Microsecond)
				if rnd.IntN(4) > 0 {
					cancel()
					ctx, cancel = context.WithCancel(context.Background())
				}
				err := table.set(ctx, s, 9, l, rnd.IntN(8) > 0)
				cancel()
				switch vfs.ErrnoOf(err) {
				case 0:
				case syscall.EAGAIN, syscall.EINTR, syscall.EDEADLK:
					continue
				default:
					t.Error(err)
					return
				}
				got.Add(1)
				weight := int64(1)
				if l.Type == vfs.LockWrite {
					weight = 1000
				}
				for i := l.Start; i <= l.End; i++ {
					if n := inside[kind][i].Add(weight); n >= 1000 && n != weight {
						t.Errorf("%d are inside at %d of kind %d", n, i, kind)
					}
				}
				for i := l.Start; i <= l.End; i++ {
					inside[kind][i].Add(-weight)
				}
				if rnd.IntN(2) == 0 {
					l.Type = vfs.LockUnlock
					if err := table.set(context.Background(), s, 9, l, false); err != nil {
						t.Error(err)
					}
				} else {
					table.release(s, 9, 1, kind)
				}
			}
			s.closed.Store(true)
			table.endSession(s)
		}()
	}
	wg.Wait()
	if table.count != 0 || len(table.files)+len(table.sessions)+len(table.waits) != 0 {
		t.Errorf("something is left: %d, %v", table.count, table.files)
	}
	t.Log(got.Load(), "locks")
}

func BenchmarkLock(b *testing.B) {
	for _, owners := range []int{1, 100} {
		b.Run(fmt.Sprint(owners), func(b *testing.B) {
			table := new(lockTable)
			s := &session{id: 1}
			for i := range owners {
				if err := table.set(context.Background(), s, 1, vfs.Lock{Type: vfs.LockWrite, Owner: uint64(i), Start: uint64(i), End: uint64(i)}, false); err != nil {
					b.Fatal(err)
				}
			}
			l := vfs.Lock{Type: vfs.LockWrite, Owner: 1 << 20, Start: 1 << 20, End: 1<<20 + 9}
			b.ReportAllocs()
			for b.Loop() {
				l.Type = vfs.LockWrite
				if table.set(context.Background(), s, 1, l, true) != nil {
					b.Fatal()
				}
				l.Type = vfs.LockUnlock
				if table.set(context.Background(), s, 1, l, true) != nil {
					b.Fatal()
				}
			}
		})
	}
}

// TestSessionLocks: locks hold between sessions and go with theirs.
func TestSessionLocks(t *testing.T) {
	v := newVolume(t)
	f := v.file(vfs.Root, "f")
	other, err := v.e.NewSession(bg, SessionInfo{})
	v.ok(err)
	mine := whole(vfs.LockPOSIX, vfs.LockWrite, 1)
	mine.PID = 42
	v.ok(v.s.SetLock(bg, f, mine, false))
	theirs := whole(vfs.LockPOSIX, vfs.LockRead, 1) // the same owner of another session is another
	v.want(other.SetLock(bg, f, theirs, false), syscall.EAGAIN)
	if got, err := other.GetLock(bg, f, theirs); err != nil || got.Type != vfs.LockWrite || got.PID != 42 {
		t.Fatalf("%+v %v", got, err)
	}
	done := make(chan error)
	go func() { done <- other.SetLock(bg, f, theirs, true) }()
	waitForLocks(t, &v.e.locks, 2)
	v.ok(v.s.ReleaseLocks(bg, f, 1, vfs.LockPOSIX))
	v.ok(<-done)
	go func() { done <- v.s.SetLock(bg, f, mine, true) }()
	waitForLocks(t, &v.e.locks, 2)
	v.ok(other.Close())
	v.ok(<-done)
	v.want(other.SetLock(bg, f, theirs, false), syscall.EIO)
	v.want(v.s.SetLock(bg, f, vfs.Lock{Type: vfs.LockRead, Start: 3, End: 2}, false), syscall.EINVAL)
}
