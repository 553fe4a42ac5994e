package metarpc

import (
	"errors"
	"syscall"
	"time"

	"github.com/massif-fs/massif/vfs"
)

var (
	errExpired = vfs.WithErrno(syscall.EACCES, errors.New("the token has expired"))
	errRevoked = vfs.WithErrno(syscall.EACCES, errors.New("the token has been revoked"))
)

// valid returns EACCES for a grant that holds no more.
func (g *Grant) valid() error {
	if closed(g.Done) {
		return errRevoked
	}
	if !g.Expires.IsZero() && !time.Now().Before(g.Expires) {
		return errExpired
	}
	return nil
}

// closed tells whether a channel, if there is one, is closed.
func closed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// longSleep is the longest that a session's end is waited for in one go: timers do
// not see a clock that was set.
const longSleep = time.Minute

// guard ends a session when its grant does.
func (s *Server) guard(ss *session) {
	g := ss.grant
	if g.Done == nil && g.Expires.IsZero() {
		return
	}
	s.tasks.Go(func() {
		for {
			wait := longSleep
			if !g.Expires.IsZero() {
				wait = min(wait, time.Until(g.Expires))
			}
			t := time.NewTimer(max(wait, 0))
			select {
			case <-g.Done:
			case <-t.C:
			case <-ss.over:
				t.Stop()
				return
			case <-s.stop:
				t.Stop()
				return
			}
			t.Stop()
			if err := g.valid(); err != nil {
				ss.end(err)
				return
			}
		}
	})
}
