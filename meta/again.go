package meta

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"syscall"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// Changes that are made again
//
// A server may acknowledge a session's change when it is committed and not yet durable,
// if it shows nobody else before it is (see Durable), and if the session's client makes
// it again should a crash take it back: a call with Replay.Again, before the session is
// Restored. Until all sessions are, or their time is over, nobody else is let in: what
// one of them has been told that it had done must not be missing where another looks.
//
// The `E` record says that there may be such changes. It is there, durably, before the
// first of them and until an engine is closed; its value is a secret that a server
// signs with what is decided only once (time, inode number), so that no client can
// invent it.

func keyEarly() []byte { return []byte{kindEarly} }

// replayKeySize is the length of the value of `E`.
const replayKeySize = 32

func (e *Engine) loadReplayKey(v *view) error {
	b, err := v.value(keyEarly())
	if err != nil || b == nil {
		return err
	}
	if len(b) != replayKeySize {
		return corrupt("the key of changes that may be made again has %d bytes", len(b))
	}
	key := bytes.Clone(b)
	e.replayKey.Store(&key)
	return nil
}

// AcknowledgeEarly prepares for changes that are acknowledged before they are durable,
// and returns the secret to sign them with. TrackDurable is part of it.
func (e *Engine) AcknowledgeEarly(ctx context.Context) (key []byte, err error) {
	e.TrackDurable()
	if k := e.replayKey.Load(); k != nil {
		return *k, nil
	}
	fresh := make([]byte, replayKeySize)
	_, _ = rand.Read(fresh) // never fails
	err = e.db.Update(ctx, func(w kv.Txn) error {
		have, err := w.Get(keyEarly())
		switch {
		case err == nil:
			key = bytes.Clone(have)
		case errors.Is(err, kv.ErrNotFound):
			key = fresh
			w.Put(keyEarly(), key)
			err = nil
		}
		return err
	})
	if err == nil {
		err = e.db.Sync(ctx)
	}
	if err != nil {
		return nil, fail("acknowledge early", "", interrupted(err))
	}
	e.replayKey.Store(&key)
	return key, nil
}

// Instance tells this engine from others that had the volume open before.
func (e *Engine) Instance() uint64 { return e.instance }

// Unsettled tells whether sessions are absent that may have changes to make again:
// nobody else may look, see AwaitSessions.
func (e *Engine) Unsettled() bool { return e.absent.some.Load() && e.absent.unsettled }

// AwaitSessions waits until the engine is not Unsettled, or stop is closed.
func (e *Engine) AwaitSessions(ctx context.Context, stop <-chan struct{}) error {
	if !e.Unsettled() {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	return e.absent.wait(ctx)
}

// newIno takes the number of a new inode, or the one that a call which is made again
// had.
func (s *session) newIno(ctx context.Context) (vfs.Ino, error) {
	if r := replayOf(ctx); r.again() && r.Again.Ino != 0 {
		return r.Again.Ino, nil
	}
	id, err := s.e.inos.take(ctx, 1)
	return vfs.Ino(id), err
}

// unused returns EIO if a call that is made again would make an inode that is there.
func (t *txn) unused(ino vfs.Ino) error {
	if !replayOf(t.ctx).again() {
		return nil
	}
	var n inode
	switch err := t.inode(ino, &n); {
	case errors.Is(err, syscall.ESTALE):
		return nil
	case err != nil:
		return err
	}
	return vfs.WithErrno(syscall.EIO, errors.New("the inode that the change made exists"))
}
