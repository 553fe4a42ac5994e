package meta

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// Advisory locks
//
// Locks live in memory: they belong to sessions, and when the process ends all
// its sessions do. Two owners are the same if session and Lock.Owner are.
//
// fcntl locks are kept per owner as ordered ranges that do not overlap, as POSIX
// says: a lock replaces what its owner had on the range, so setting one splits,
// merges, upgrades and downgrades others. flock locks are the same thing with one
// range for the whole file; converting one that others are in the way of gives up
// the old lock first, as flock(2) says (two owners that both upgrade would wait
// for each other for ever).
//
// A request is granted if no lock of another owner is in its way, even when others
// wait, as on local file systems: making it queue behind them could hang programs
// that are right elsewhere. Those that wait are served in the order in which they
// came.
//
// A request that would wait for an owner who, over any number of steps, waits for
// the requester fails with EDEADLK. As on Linux an owner whose threads wait for
// different locks counts as waiting for each of them, and a cycle is only looked
// for when a request begins to wait.

const (
	// maxLocks bounds the memory of the table: ranges held and requests waiting.
	maxLocks = 1 << 20
	// maxSessionLocks is one session's part.
	maxSessionLocks = 1 << 17
	// maxDeadlockSteps bounds the search for a deadlock: a longer one is none.
	maxDeadlockSteps = 1 << 14
)

// lockTable holds the locks of all sessions. Its zero value is ready. Its methods
// may be called concurrently.
type lockTable struct {
	mu       sync.Mutex
	files    map[lockFile]*lockedFile
	sessions map[uint64]*lockSession
	waits    map[lockOwner][]*lockWait // fcntl requests that wait, for finding deadlocks
	count    int                       // ranges and waits
}

// lockFile is what is locked: fcntl and flock locks of an inode do not see each
// other.
type lockFile struct {
	ino  vfs.Ino
	kind vfs.LockKind
}

type lockOwner struct{ session, owner uint64 }

type lockSession struct {
	files map[lockFile]int // owners and waits of this session there
	count int
}

type lockedFile struct {
	owners []ownerLocks
	waits  []*lockWait // in the order in which they came
}

type ownerLocks struct {
	owner  lockOwner
	ranges []lockRange // ordered, not overlapping, neighbours of one type merged
}

type lockRange struct {
	start, end uint64 // inclusive
	kind       vfs.LockType
	pid        uint32
}

// lockWait is a request that waits.
type lockWait struct {
	file  lockFile
	owner lockOwner
	want  lockRange
	done  chan struct{} // closed when the request is over, with err
	err   error
}

var errTooManyLocks = errors.New("too many locks are held or waited for")

// GetLock implements Session.
func (s *session) GetLock(ctx context.Context, ino vfs.Ino, l vfs.Lock) (vfs.Lock, error) {
	if err := s.e.absent.wait(ctx); err != nil { // their locks are not there yet
		return vfs.Lock{}, fail("find lock", "", err)
	}
	found, err := s.e.locks.get(s, ino, l)
	return found, fail("find lock", "", err)
}

// SetLock implements Session.
func (s *session) SetLock(ctx context.Context, ino vfs.Ino, l vfs.Lock, wait bool) error {
	if l.Type != vfs.LockUnlock {
		if err := s.e.absent.wait(ctx); err != nil { // they may hold it
			return fail("lock", "", err)
		}
	}
	return fail("lock", "", s.e.locks.set(ctx, s, ino, l, wait))
}

// ReleaseLocks implements Session.
func (s *session) ReleaseLocks(_ context.Context, ino vfs.Ino, owner uint64, kind vfs.LockKind) error {
	s.e.locks.release(s, ino, owner, kind)
	return nil
}

// endSession releases all locks of a session, which has been marked as closed, and
// fails its requests that wait. None comes after that.
func (t *lockTable) endSession(ended *session) {
	session := ended.id
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sessions[session]
	if s == nil {
		return
	}
	delete(t.sessions, session)
	for id := range s.files {
		f := t.files[id]
		f.waits = slices.DeleteFunc(f.waits, func(w *lockWait) bool {
			if w.owner.session != session {
				return false
			}
			t.leave(w)
			w.err = vfs.WithErrno(syscall.EIO, errSessionClosed)
			close(w.done)
			return true
		})
		f.owners = slices.DeleteFunc(f.owners, func(o ownerLocks) bool {
			if o.owner.session != session {
				return false
			}
			t.count -= len(o.ranges)
			return true
		})
		t.wake(id, f)
		t.forget(id, f)
	}
}

// get returns the first lock that is in the way of l, or l with Type LockUnlock.
func (t *lockTable) get(s *session, ino vfs.Ino, l vfs.Lock) (vfs.Lock, error) {
	want, err := rangeOf(&l)
	switch {
	case err != nil:
		return vfs.Lock{}, err
	case l.Type == vfs.LockUnlock:
		return vfs.Lock{}, syscall.EINVAL
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var found lockRange
	var by lockOwner
	if f := t.files[lockFile{ino, l.Kind}]; f != nil {
		f.conflicts(lockOwner{s.id, l.Owner}, want, func(o lockOwner, r lockRange) bool {
			if found.kind == vfs.LockUnlock || r.start < found.start {
				found, by = r, o
			}
			return true
		})
	}
	if found.kind == vfs.LockUnlock {
		l.Type = vfs.LockUnlock
		return l, nil
	}
	return vfs.Lock{Kind: l.Kind, Type: found.kind, Owner: by.owner, PID: found.pid, Start: found.start, End: found.end}, nil
}

// set is Session.SetLock.
func (t *lockTable) set(ctx context.Context, s *session, ino vfs.Ino, l vfs.Lock, wait bool) error {
	w, err := t.request(ctx, s, ino, l, wait)
	if w == nil {
		return err
	}
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-w.done: // it was granted at the last moment
		return w.err
	default:
	}
	f := t.files[w.file]
	f.waits = slices.DeleteFunc(f.waits, func(x *lockWait) bool { return x == w })
	t.leave(w)
	t.forget(w.file, f)
	return vfs.WithErrno(syscall.EINTR, ctx.Err())
}

// request sets a lock, fails, or returns a wait.
func (t *lockTable) request(ctx context.Context, from *session, ino vfs.Ino, l vfs.Lock, wait bool) (*lockWait, error) {
	want, err := rangeOf(&l)
	if err != nil {
		return nil, err
	}
	id, owner := lockFile{ino, l.Kind}, lockOwner{from.id, l.Owner}
	t.mu.Lock()
	defer t.mu.Unlock()
	if from.closed.Load() {
		return nil, vfs.WithErrno(syscall.EIO, errSessionClosed)
	}
	f := t.files[id]
	if f == nil {
		if want.kind == vfs.LockUnlock {
			return nil, nil
		}
		f = new(lockedFile)
		if t.files == nil {
			t.files = make(map[lockFile]*lockedFile)
			t.waits = make(map[lockOwner][]*lockWait)
			t.sessions = make(map[uint64]*lockSession)
		}
		t.files[id] = f
	}
	s := t.sessions[from.id]
	if s == nil {
		s = &lockSession{files: make(map[lockFile]int)}
		t.sessions[from.id] = s
	}
	defer t.forget(id, f)
	if want.kind == vfs.LockUnlock || f.free(owner, want) {
		weaker, err := t.apply(id, f, owner, want)
		if weaker {
			t.wake(id, f)
		}
		return nil, err
	}
	if l.Kind == vfs.LockFlock {
		t.drop(id, f, owner)
	}
	if !wait {
		return nil, syscall.EAGAIN
	}
	if err := ctx.Err(); err != nil {
		return nil, vfs.WithErrno(syscall.EINTR, err)
	}
	if t.count >= maxLocks || s.count >= maxSessionLocks {
		return nil, vfs.WithErrno(syscall.ENOLCK, errTooManyLocks)
	}
	w := &lockWait{file: id, owner: owner, want: want, done: make(chan struct{})}
	if l.Kind == vfs.LockPOSIX {
		if t.deadlock(w) {
			return nil, syscall.EDEADLK
		}
		t.waits[owner] = append(t.waits[owner], w)
	}
	f.waits = append(f.waits, w)
	s.files[id]++
	s.count++
	t.count++
	return w, nil
}

// release is Session.ReleaseLocks.
func (t *lockTable) release(s *session, ino vfs.Ino, owner uint64, kind vfs.LockKind) {
	id := lockFile{ino, kind}
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.files[id]; f != nil {
		t.drop(id, f, lockOwner{s.id, owner})
		t.forget(id, f)
	}
}

// rangeOf checks a lock and returns its range.
func rangeOf(l *vfs.Lock) (lockRange, error) {
	switch {
	case l.Kind != vfs.LockPOSIX && l.Kind != vfs.LockFlock,
		l.Type != vfs.LockUnlock && l.Type != vfs.LockRead && l.Type != vfs.LockWrite:
		return lockRange{}, vfs.WithErrno(syscall.EINVAL, fmt.Errorf("lock of unknown kind %d or type %d", l.Kind, l.Type))
	case l.Kind == vfs.LockFlock:
		l.Start, l.End = 0, vfs.LockEOF
	case l.End > vfs.LockEOF:
		l.End = vfs.LockEOF
	}
	if l.Start > l.End {
		return lockRange{}, vfs.WithErrno(syscall.EINVAL, fmt.Errorf("lock from %d to %d", l.Start, l.End))
	}
	return lockRange{start: l.Start, end: l.End, kind: l.Type, pid: l.PID}, nil
}

// conflicts calls fn, until it returns false, with the first range of each other
// owner that is in the way of want.
func (f *lockedFile) conflicts(owner lockOwner, want lockRange, fn func(lockOwner, lockRange) bool) {
	for i := range f.owners {
		o := &f.owners[i]
		if o.owner == owner {
			continue
		}
		for _, r := range o.ranges[o.firstEnding(want.start):] {
			if r.start > want.end {
				break
			}
			if r.kind == vfs.LockWrite || want.kind == vfs.LockWrite {
				if !fn(o.owner, r) {
					return
				}
				break
			}
		}
	}
}

// free tells whether nobody is in the way of want.
func (f *lockedFile) free(owner lockOwner, want lockRange) bool {
	free := true
	f.conflicts(owner, want, func(lockOwner, lockRange) bool {
		free = false
		return false
	})
	return free
}

// firstEnding returns the index of the first range that ends at or behind at.
func (o *ownerLocks) firstEnding(at uint64) int {
	return sort.Search(len(o.ranges), func(i int) bool { return o.ranges[i].end >= at })
}

// apply makes want what owner has on its range. weaker tells whether others may
// be able to have a lock that they could not have before.
func (t *lockTable) apply(id lockFile, f *lockedFile, owner lockOwner, want lockRange) (weaker bool, err error) {
	at := slices.IndexFunc(f.owners, func(o ownerLocks) bool { return o.owner == owner })
	var old []lockRange
	if at >= 0 {
		old = f.owners[at].ranges
	} else if want.kind == vfs.LockUnlock {
		return false, nil
	}
	o := ownerLocks{ranges: old}
	// old[from:to] overlap want or, of its type, touch it; what sticks out stays.
	from := o.firstEnding(want.start - min(want.start, 1))
	if from < len(old) && old[from].end < want.start && old[from].kind != want.kind {
		from++
	}
	to := from
	merged := want
	var left, right []lockRange // at most one each
	for ; to < len(old) && old[to].start <= want.end+1; to++ {
		r := old[to]
		if r.kind == want.kind {
			merged.start, merged.end = min(merged.start, r.start), max(merged.end, r.end)
			continue
		}
		if r.start > want.end {
			break
		}
		weaker = weaker || r.kind > want.kind
		if r.start < want.start {
			left = append(left, lockRange{r.start, want.start - 1, r.kind, r.pid})
		}
		if r.end > want.end {
			right = append(right, lockRange{want.end + 1, r.end, r.kind, r.pid})
		}
	}
	put := append(make([]lockRange, 0, 3), left...)
	if want.kind != vfs.LockUnlock {
		put = append(put, merged)
	}
	put = append(put, right...)
	more := len(put) - (to - from)
	s := t.sessions[owner.session]
	if more > 0 && (t.count+more > maxLocks || s.count+more > maxSessionLocks) {
		return false, vfs.WithErrno(syscall.ENOLCK, errTooManyLocks)
	}
	t.count += more
	s.count += more
	ranges := slices.Replace(old, from, to, put...)
	if cap(ranges) > 64 && len(ranges) < cap(ranges)/4 {
		ranges = slices.Clone(ranges)
	}
	switch {
	case len(ranges) == 0:
		if at >= 0 {
			t.removeOwner(id, f, at)
		}
	case at < 0:
		f.owners = append(f.owners, ownerLocks{owner: owner, ranges: ranges})
		s.files[id]++
	default:
		f.owners[at].ranges = ranges
	}
	return weaker, nil
}

// removeOwner removes an owner who has no ranges any more.
func (t *lockTable) removeOwner(id lockFile, f *lockedFile, at int) {
	t.unuse(f.owners[at].owner.session, id)
	f.owners = slices.Delete(f.owners, at, at+1)
}

// drop removes all that an owner has on a file.
func (t *lockTable) drop(id lockFile, f *lockedFile, owner lockOwner) {
	i := slices.IndexFunc(f.owners, func(o ownerLocks) bool { return o.owner == owner })
	if i < 0 {
		return
	}
	n := len(f.owners[i].ranges)
	t.count -= n
	t.sessions[owner.session].count -= n
	t.removeOwner(id, f, i)
	t.wake(id, f)
}

// wake grants what can be granted of those who wait, in the order in which they
// came. A grant may itself make room: a write lock that becomes a read lock.
func (t *lockTable) wake(id lockFile, f *lockedFile) {
	for again := true; again; {
		again = false
		kept := f.waits[:0]
		for _, w := range f.waits {
			if !f.free(w.owner, w.want) {
				kept = append(kept, w)
				continue
			}
			t.leave(w) // first, so that its place in the counts is free for the lock
			var weaker bool
			weaker, w.err = t.apply(id, f, w.owner, w.want)
			again = again || weaker
			close(w.done)
		}
		clear(f.waits[len(kept):])
		f.waits = kept
	}
}

// leave takes a wait that has been taken out of its file's queue out of
// everything else.
func (t *lockTable) leave(w *lockWait) {
	t.count--
	if s := t.sessions[w.owner.session]; s != nil {
		s.count--
	}
	if w.file.kind == vfs.LockPOSIX {
		list := slices.DeleteFunc(t.waits[w.owner], func(x *lockWait) bool { return x == w })
		if len(list) == 0 {
			delete(t.waits, w.owner)
		} else {
			t.waits[w.owner] = list
		}
	}
	t.unuse(w.owner.session, w.file)
}

// unuse counts one owner or wait of a session on a file less.
func (t *lockTable) unuse(session uint64, id lockFile) {
	s := t.sessions[session]
	if s == nil {
		return // it is being dropped
	}
	if s.files[id]--; s.files[id] == 0 {
		delete(s.files, id)
	}
}

// forget removes a file on which nothing is held and nobody waits.
func (t *lockTable) forget(id lockFile, f *lockedFile) {
	if len(f.owners) == 0 && len(f.waits) == 0 {
		delete(t.files, id)
	}
}

// deadlock tells whether one of those for whom w would wait waits, over any number
// of steps, for w's owner.
func (t *lockTable) deadlock(w *lockWait) bool {
	seen := map[lockOwner]bool{}
	next := []*lockWait{w}
	found := false
	for steps := 0; len(next) > 0 && !found; {
		x := next[len(next)-1]
		next = next[:len(next)-1]
		t.files[x.file].conflicts(x.owner, x.want, func(holder lockOwner, _ lockRange) bool {
			steps++
			found = holder == w.owner
			if !found && !seen[holder] {
				seen[holder] = true
				next = append(next, t.waits[holder]...)
			}
			return !found && steps < maxDeadlockSteps
		})
		if steps >= maxDeadlockSteps {
			return found
		}
	}
	return found
}
