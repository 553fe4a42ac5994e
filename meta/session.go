package meta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// SessionInfo tells people who a session is.
type SessionInfo struct {
	ID         uint64    `json:"id"` // given by the engine
	Host       string    `json:"host"`
	PID        int       `json:"pid"`
	Mountpoint string    `json:"mountpoint"`
	Version    string    `json:"version"`
	Started    time.Time `json:"started"` // given by the engine
}

// session is a Session of an engine in this process.
type session struct {
	e    *Engine
	id   uint64
	info SessionInfo
	// secret is the hash of what the session can be resumed with; nil: it cannot.
	secret []byte

	feed     vfs.Feed
	watchers atomic.Int64

	reserve  sync.Mutex
	reserved map[vfs.Ino]*reservation

	leases *sessionLeases // nil: the session takes no part in leases

	endWith atomic.Pointer[func()] // see EndWith
	closed  atomic.Bool
}

var _ LeasedSession = (*session)(nil)

var errSessionClosed = errors.New("the session has ended")

// systemSession is the session of `o` records for inodes that are being removed.
const systemSession = 0

// NewSession begins a session. It ends with its Close, or with the engine.
func (e *Engine) NewSession(ctx context.Context, info SessionInfo) (Session, error) {
	return e.newSession(ctx, info, nil)
}

// newSession is NewSession, or NewResumableSession with the hash of a secret.
func (e *Engine) newSession(ctx context.Context, info SessionInfo, secret []byte) (Session, error) {
	s := &session{e: e, secret: secret, reserved: make(map[vfs.Ino]*reservation)}
	info.Started = e.clockNow().UTC()
	if !e.readOnly {
		err := e.db.Update(ctx, func(w kv.Txn) error {
			v := view{r: w}
			id, err := v.counter(keyCounter(counterSession))
			if err != nil {
				return err
			}
			if id < 1 {
				return fmt.Errorf("counter %q is %d: %w", counterSession, id, kv.ErrCorrupt)
			}
			s.id, info.ID = uint64(id), uint64(id)
			text, err := json.Marshal(&sessionRecord{SessionInfo: info, Secret: secret})
			if err != nil {
				return err
			}
			w.Add(keyCounter(counterSession), 1)
			w.Put(appendSessionKey(nil, s.id), text)
			return nil
		})
		if err != nil {
			return nil, fail("begin session", "", err)
		}
	}
	s.info = info
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, fail("begin session", "", errClosed)
	}
	if e.readOnly { // not recorded: unique among the engine's own is enough
		s.id = uint64(len(e.sessions)) + 1
		for e.sessions[s.id] != nil {
			s.id++
		}
	}
	e.sessions[s.id] = s
	return s, nil
}

// Sessions lists the sessions that there are.
func (e *Engine) Sessions() []SessionInfo {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]SessionInfo, 0, len(e.sessions))
	for _, s := range e.sessions {
		list = append(list, s.info)
	}
	return list
}

// session finds an open session; nil if there is none of this id.
func (e *Engine) session(id uint64) *session {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.sessions[id]; s != nil && !s.closed.Load() {
		return s
	}
	return nil
}

// Format implements Session.
func (s *session) Format() Format { return s.e.Settings() }

// Sync implements Session.
func (s *session) Sync(ctx context.Context) error {
	return fail("sync metadata", "", s.e.db.Sync(ctx))
}

// Open implements Session.
func (s *session) Open(ino vfs.Ino) {
	s.e.uses.open(ino, s)
}

// Release implements Session.
func (s *session) Release(ino vfs.Ino, n int) {
	if n > 0 && s.e.uses.release(ino, s.id, n) {
		s.e.reapNow(s.id, ino)
	}
}

// Watch implements Session.
func (s *session) Watch(fn func(vfs.Change)) (stop func()) {
	end := s.feed.Watch(fn)
	s.watchers.Add(1)
	s.e.watched.Add(1)
	var once sync.Once
	return func() {
		end()
		once.Do(func() {
			s.watchers.Add(-1)
			s.e.watched.Add(-1)
		})
	}
}

// tell sends changes that a session (nil: the engine) has made to all watchers.
func (e *Engine) tell(from *session, changes []vfs.Change) {
	var few [8]*session
	list := few[:0]
	e.mu.Lock()
	for _, s := range e.sessions {
		if s.watchers.Load() > 0 {
			list = append(list, s)
		}
	}
	e.mu.Unlock()
	for _, s := range list {
		for _, c := range changes {
			c.Remote = s != from
			s.feed.Send(c)
		}
	}
}

// suspend ends a session in memory only.
func (s *session) suspend() {
	s.closed.Store(true)
	s.e.locks.endSession(s)
	s.endLeases()
}

// Close implements Session.
func (s *session) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	e := s.e
	if e.absent.has(s.id) {
		e.quiesce() // no change that it makes again is in the middle when others are let in
		e.absent.remove(s.id)
	}
	s.reserve.Lock()
	for ino, r := range s.reserved {
		e.quotas.mu.Lock()
		e.quotas.volume.heldBytes -= r.bytes
		hold(r.chain, -r.bytes)
		e.quotas.mu.Unlock()
		delete(s.reserved, ino)
	}
	s.reserve.Unlock()
	e.locks.endSession(s)
	s.endLeases()
	ctx := context.Background()
	var errs []error
	for _, ino := range e.uses.usedBy(s.id) {
		if e.uses.release(ino, s.id, -1) {
			errs = append(errs, e.reap(ctx, s.id, ino))
		}
	}
	if !e.readOnly {
		errs = append(errs, e.endSession(ctx, s.id))
	}
	e.mu.Lock()
	delete(e.sessions, s.id)
	e.mu.Unlock()
	return fail("end session", s.info.Mountpoint, errors.Join(errs...))
}
