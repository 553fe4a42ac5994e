package meta

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// Sessions that outlast the engine
//
// A session whose client is in another process can be resumed, by a secret, after
// the engine was opened anew. Until it is, and its client has said what it holds, it
// is *absent*. For the time that Options.Grace gives them,
//
//   - an inode that loses its last name is kept for each absent session, which may be
//     using it: an `o` record, which goes when the session is there and does not;
//   - locks are restored, but none is given: whoever wants one waits;
//   - for Options.LeaseGrace changes wait: a client that has not heard of the new engine
//     may still be using what it had leased of the old one.
//
// What a transaction did for a call of such a session is recorded with it (see
// Replay), so that a call that was not answered is not done again.

// sessionRecord is the value of `s`.
type sessionRecord struct {
	SessionInfo
	Secret []byte `json:"secret,omitempty"` // SHA-256 of what the session can be resumed with; none: it cannot
}

// absentTable are the sessions that are not there.
type absentTable struct {
	mu   sync.Mutex
	m    map[uint64]*sessionRecord
	over chan struct{} // closed when there are none
	// leased is when what they have leased is not used any more, on the clock of
	// monotonic.
	leased int64
	some   atomic.Bool // there are any
	// unsettled: they may have changes to make again, so that everybody waits for them.
	unsettled bool
}

// ErrNoSession is wrapped by the error of resuming a session that does not exist, or
// not with this secret.
var ErrNoSession = errors.New("there is no such session")

// NewResumableSession is NewSession for a session that whoever knows secret can resume
// when the engine has been closed, or its process has died. Its end is Close; if the
// engine is closed it lives on.
func (e *Engine) NewResumableSession(ctx context.Context, info SessionInfo, secret []byte) (Session, error) {
	sum := sha256.Sum256(secret)
	return e.newSession(ctx, info, sum[:])
}

// ResumeSession brings a resumable session back. restored: the engine was opened since
// the session began, so that its client must say what it holds (Open, RestoreLock,
// Reserve) and then call Restored, within Options.Grace after all sessions should have
// been back. The client's earlier connection, if there is one, is no longer used.
// ErrNoSession.
func (e *Engine) ResumeSession(ctx context.Context, id uint64, secret []byte) (s Session, restored bool, err error) {
	sum := sha256.Sum256(secret)
	match := func(have []byte) bool { return len(have) > 0 && subtle.ConstantTimeCompare(have, sum[:]) == 1 }
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, false, fail("resume session", "", errClosed)
	}
	if old := e.sessions[id]; old != nil {
		if !match(old.secret) || old.closed.Load() {
			return nil, false, fail("resume session", "", vfs.WithErrno(syscall.ESTALE, ErrNoSession))
		}
		return old, e.absent.has(id), nil
	}
	e.absent.mu.Lock()
	record := e.absent.m[id]
	e.absent.mu.Unlock()
	if record == nil || !match(record.Secret) {
		return nil, false, fail("resume session", "", vfs.WithErrno(syscall.ESTALE, ErrNoSession))
	}
	n := &session{e: e, id: id, info: record.SessionInfo, secret: record.Secret, reserved: make(map[vfs.Ino]*reservation)}
	e.sessions[id] = n
	return n, true, nil
}

func (a *absentTable) has(id uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.m[id] != nil
}

// others lists the absent sessions but one.
func (a *absentTable) others(but uint64) (ids []uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id := range a.m {
		if id != but {
			ids = append(ids, id)
		}
	}
	return ids
}

func (a *absentTable) remove(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.m[id] != nil {
		delete(a.m, id)
		if len(a.m) == 0 {
			a.some.Store(false)
			close(a.over)
		}
	}
}

// wait waits until no session is absent.
func (a *absentTable) wait(ctx context.Context) error {
	a.mu.Lock()
	over := a.over
	none := len(a.m) == 0
	a.mu.Unlock()
	if none {
		return nil
	}
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		return interrupted(ctx.Err())
	}
}

// waitChanges waits until changes may be made: nobody uses what was leased of the engine
// before this one, and all that were acknowledged then have been made again. What the
// engine does itself (s is nil) does not wait for the latter: it is part of opening it.
func (a *absentTable) waitChanges(ctx context.Context, s *session) error {
	if !a.some.Load() {
		return nil
	}
	if a.unsettled && s != nil {
		return a.wait(ctx)
	}
	a.mu.Lock()
	over := a.over
	a.mu.Unlock()
	left := a.leased - monotonic()
	if left <= 0 {
		return nil
	}
	t := time.NewTimer(time.Duration(left))
	defer t.Stop()
	select {
	case <-over:
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// keepAbsent takes note of the sessions that may come back. With no grace there are
// none.
func (e *Engine) keepAbsent(ctx context.Context, o Options) error {
	if o.Grace <= 0 {
		return nil
	}
	found := make(map[uint64]*sessionRecord)
	err := e.view(ctx, func(v *view) error {
		clear(found)
		return v.r.Scan([]byte{kindSession}, []byte{kindSession + 1}, func(key, value []byte) (bool, error) {
			r := new(sessionRecord)
			if len(key) != 9 {
				return false, badKey(key)
			}
			if err := json.Unmarshal(value, r); err != nil {
				return false, corrupt("record of session %q: %v", key[1:], err)
			}
			if len(r.Secret) > 0 {
				found[binary.BigEndian.Uint64(key[1:])] = r
			}
			return true, nil
		})
	})
	if err != nil || len(found) == 0 {
		return err
	}
	if o.LeaseGrace <= 0 {
		o.LeaseGrace = o.Grace
	}
	e.absent.m, e.absent.over = found, make(chan struct{})
	e.absent.leased = monotonic() + int64(o.LeaseGrace)
	e.absent.unsettled = e.replayKey.Load() != nil
	e.absent.some.Store(true)
	e.log.Info("waiting for the clients that were here before", "sessions", len(found), "for", o.Grace)
	return nil
}

// watchAbsent ends the sessions that do not come back in time. One that has come back
// has as long again to say what it holds.
func (e *Engine) watchAbsent(grace time.Duration) {
	if len(e.absent.m) == 0 {
		return
	}
	e.tasks.Add(1)
	go func() {
		defer e.tasks.Done()
		t := time.NewTimer(grace)
		defer t.Stop()
		for _, end := range []func(){e.endAbsent, e.endSilent} {
			select {
			case <-t.C:
			case <-e.absent.over:
				return
			case <-e.ctx.Done():
				return
			}
			end()
			t.Reset(grace)
		}
	}()
}

// endAbsent ends the sessions that have not come back.
func (e *Engine) endAbsent() {
	for _, id := range e.absent.others(0) {
		e.mu.Lock()
		there := e.sessions[id] != nil
		if !there {
			e.absent.remove(id) // it is too late for ResumeSession
		}
		e.mu.Unlock()
		if there {
			continue
		}
		if err := e.endSession(e.ctx, id); err != nil {
			if e.ctx.Err() == nil {
				e.log.Error("a session that did not come back could not be ended", "session", id, "err", err)
			}
			continue
		}
		e.log.Warn("a session did not come back and has been ended", "session", id)
	}
}

// endSilent ends the sessions that have come back and do not say what they hold.
func (e *Engine) endSilent() {
	for _, id := range e.absent.others(0) {
		s := e.session(id)
		if s == nil {
			continue // it is ending
		}
		e.log.Warn("a session came back but does not say what it holds: it is ended", "session", id)
		if end := s.endWith.Load(); end != nil {
			(*end)()
		} else if err := s.Close(); err != nil {
			e.log.Error("a session that came back could not be ended", "session", id, "err", err)
		}
	}
}

// EndWith makes the engine call end, which is to call Close, when it has to end the
// session because its client does not say in time what it holds (see ResumeSession).
func (s *session) EndWith(end func()) { s.endWith.Store(&end) }

// RestoreLock is SetLock for a lock that the session held when the engine was
// closed: EAGAIN if it is not free.
func (s *session) RestoreLock(ctx context.Context, ino vfs.Ino, l vfs.Lock) error {
	return fail("restore lock", "", s.e.locks.set(ctx, s, ino, l, false))
}

// Restored says that the session holds what it has been told since it was resumed, and
// nothing else. What was kept for it goes.
func (s *session) Restored(ctx context.Context) error {
	e := s.e
	if !e.absent.has(s.id) {
		return nil
	}
	e.absent.remove(s.id)
	e.quiesce() // what others keep for it from now on it does use
	after := vfs.Ino(0)
	for {
		orphans, err := e.orphansAfter(ctx, s.id, after, 256)
		if err != nil || len(orphans) == 0 {
			return fail("restore session", "", err)
		}
		for _, ino := range orphans {
			after = ino
			if e.uses.mark(ino, s.id) {
				continue // its last Release looks after it
			}
			e.reapNow(s.id, ino)
		}
	}
}

// orphanPerhaps is the value of an `o` record of a session of which it is not known
// whether it uses the inode.
var orphanPerhaps = []byte{1}

// Keeps tells whether the session had an inode in use, before the engine was opened,
// that has no name any more.
func (s *session) Keeps(ctx context.Context, ino vfs.Ino) (keeps bool, err error) {
	err = s.e.view(ctx, func(v *view) error {
		b, err := v.value(appendOrphanKey(nil, s.id, ino))
		keeps = b != nil && len(b) == 0
		return err
	})
	return keeps, fail("restore use", "", err)
}

// orphansAfter is orphans behind an inode.
func (e *Engine) orphansAfter(ctx context.Context, id uint64, after vfs.Ino, limit int) (list []vfs.Ino, err error) {
	err = e.view(ctx, func(v *view) error {
		list = list[:0]
		return v.r.Scan(appendOrphanKey(nil, id, after+1), appendOrphanKey(nil, id+1, 0), func(key, _ []byte) (bool, error) {
			_, ino, err := splitOrphanKey(key)
			list = append(list, ino)
			return len(list) < limit, err
		})
	})
	return list, err
}

// mark notes that an inode which a session uses has no name; false: it does not.
func (t *useTable) mark(ino vfs.Ino, session uint64) bool {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	u, found := s.m[ino]
	if !found || u.find(session) < 0 {
		return false
	}
	u.nameless = true
	s.m[ino] = u
	return true
}

// Replays

// Replay identifies a call, so that its transaction records that it was done. A slot
// keeps the record of the last call that had it.
type Replay struct {
	Slot uint32
	Seq  uint64
	// Reply appends to dst what is to be answered if the call comes again. It is
	// called when the call has set what it returns.
	Reply func(dst []byte) []byte
	// Gone is what a Commit returns, for Reply.
	Gone []bool

	// What became of the call, when it has returned. Foreign: what it did, or its error,
	// depends on changes of others that are not durable, so that nobody may hear of it
	// before these are. Committed: it has changed the volume, at the stamp Stamp and by
	// the clock Now, which the sync numbered Sync makes durable. Stamps of changes that
	// depend on each other ascend.
	Foreign, Committed bool
	Stamp, Sync        uint64
	Now                vfs.Time

	// Again, if not nil, makes the call once more what it was before a crash took it
	// back: at that time, with that new inode, whatever quotas say. Only for a session
	// that is absent: EIO else.
	Again *Again
}

// Again is what of a call is not decided anew.
type Again struct {
	Now vfs.Time
	Ino vfs.Ino // that it made; 0: none
}

func (r *Replay) again() bool { return r != nil && r.Again != nil }

// errTooLate is the error of a change that comes again when others have been let in.
var errTooLate = errors.New("the volume has been changed by others since it was opened")

// replayOf returns the Replay that a call was given; nil: none.
func replayOf(ctx context.Context) *Replay {
	r, _ := ctx.Value(replayKey{}).(*Replay)
	return r
}

type replayKey struct{}

// WithReplay makes the calls that are given the context record that they were done.
// One call has one transaction that counts, the last if there are several.
func WithReplay(ctx context.Context, r *Replay) context.Context {
	return context.WithValue(ctx, replayKey{}, r)
}

// recordReplay is the end of a transaction that does a call.
func (t *txn) recordReplay() {
	if t.from == nil || t.from.secret == nil || t.partial {
		return
	}
	r := replayOf(t.ctx)
	if r == nil {
		return
	}
	t.key = appendReplayKey(t.key[:0], t.from.id, r.Slot)
	t.value = binary.BigEndian.AppendUint64(t.value[:0], r.Seq)
	t.value = r.Reply(t.value)
	t.w.Put(t.key, t.value)
}

// Replays calls fn with the last call of each slot that was done.
func (s *session) Replays(ctx context.Context, fn func(slot uint32, seq uint64, reply []byte)) error {
	err := s.e.view(ctx, func(v *view) error {
		return v.r.Scan(appendReplayKey(nil, s.id, 0), appendReplayKey(nil, s.id+1, 0), func(key, value []byte) (bool, error) {
			if len(key) != 13 || len(value) < 8 {
				return false, badKey(key)
			}
			fn(binary.BigEndian.Uint32(key[9:]), binary.BigEndian.Uint64(value), bytes.Clone(value[8:]))
			return true, nil
		})
	})
	return fail("read replies", "", err)
}

// Block numbers of resumable sessions

// RecordBlocks records that n block ids from first on were given to the session, for
// OwnBlocks after it was resumed. It is durable with the next commit that is.
func (s *session) RecordBlocks(ctx context.Context, first uint64, n int) error {
	if s.secret == nil {
		return nil
	}
	s.e.gate.RLock() // so that its end waits for it
	defer s.e.gate.RUnlock()
	if s.closed.Load() {
		return vfs.WithErrno(syscall.EIO, errSessionClosed)
	}
	err := s.e.db.Update(ctx, func(w kv.Txn) error {
		w.Put(appendAllocationKey(nil, s.id, first), binary.AppendUvarint(nil, uint64(n)))
		return nil
	})
	return fail("record block ids", "", interrupted(err))
}

// OwnBlocks calls fn with the block ids that were given to the session and have not
// been committed, as ranges.
func (s *session) OwnBlocks(ctx context.Context, fn func(first uint64, n int)) error {
	err := s.e.view(ctx, func(v *view) error {
		type span struct{ first, end uint64 }
		var all []span
		err := v.r.Scan(appendAllocationKey(nil, s.id, 0), appendAllocationKey(nil, s.id+1, 0), func(key, value []byte) (bool, error) {
			n, size := binary.Uvarint(value)
			if len(key) != 17 || size != len(value) || n > maxBlockID {
				return false, badKey(key)
			}
			first := binary.BigEndian.Uint64(key[9:])
			all = append(all, span{first, first + n})
			return true, nil
		})
		for _, x := range all {
			if err != nil {
				return err
			}
			free := x.first
			err = v.r.Scan(appendBlockKey(nil, x.first), appendBlockKey(nil, x.end), func(key, _ []byte) (bool, error) {
				id, err := splitBlockKey(key)
				if err == nil && id > free {
					fn(free, int(id-free))
				}
				free = id + 1
				return true, err
			})
			if err == nil && free < x.end {
				fn(free, int(x.end-free))
			}
		}
		return err
	})
	return fail("read block ids", "", err)
}

func appendReplayKey(dst []byte, session uint64, slot uint32) []byte {
	return binary.BigEndian.AppendUint32(appendSessionRecords(dst, kindReplay, session), slot)
}

func appendAllocationKey(dst []byte, session, first uint64) []byte {
	return binary.BigEndian.AppendUint64(appendSessionRecords(dst, kindAllocation, session), first)
}

// users lists who may be using an inode: those who do, and those who are absent.
func (t *txn) users(ino vfs.Ino) []uint64 {
	ids := t.e.uses.claim(ino)
	for _, id := range t.e.absent.others(0) {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}
