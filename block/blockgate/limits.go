package blockgate

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// limits bounds what goes through the server at one moment, for each session and
// for all, so that one client cannot take the server from the others. A session
// waits with its own requests first, and only then for the others'.
type limits struct {
	sessionRequests, sessionBytes int64
	patience                      time.Duration
	bytes                         int64
	allRequests, allBytes         *semaphore.Weighted

	mu       sync.Mutex
	sessions map[who]*usage
}

// who is a session, whatever value its Authority returns for it.
type who struct {
	v    *Volume
	name string
}

type usage struct {
	requests, bytes *semaphore.Weighted
	users           int
}

func newLimits(cfg Config) *limits {
	return &limits{sessionRequests: int64(cfg.SessionRequests), sessionBytes: cfg.SessionBytes, patience: cfg.Patience, bytes: cfg.Bytes,
		allRequests: semaphore.NewWeighted(int64(cfg.Requests)), allBytes: semaphore.NewWeighted(cfg.Bytes),
		sessions: make(map[who]*usage)}
}

// enter waits until a transfer of n bytes may begin; leave ends it. Transfers
// greater than a limit count as the limit: they go alone.
func (l *limits) enter(ctx context.Context, s Session, n int64) (leave func(), err error) {
	k := who{s.Volume(), s.Name()}
	l.mu.Lock()
	u := l.sessions[k]
	if u == nil {
		u = &usage{requests: semaphore.NewWeighted(l.sessionRequests), bytes: semaphore.NewWeighted(l.sessionBytes)}
		l.sessions[k] = u
	}
	u.users++
	l.mu.Unlock()

	held := []struct {
		sem *semaphore.Weighted
		n   int64
	}{{u.requests, 1}, {u.bytes, min(n, l.sessionBytes)}, {l.allRequests, 1}, {l.allBytes, min(n, l.bytes)}}
	have := 0
	leave = func() {
		for _, h := range held[:have] {
			h.sem.Release(h.n)
		}
		l.mu.Lock()
		if u.users--; u.users == 0 {
			delete(l.sessions, k)
		}
		l.mu.Unlock()
	}
	wait, cancel := context.WithTimeout(ctx, l.patience)
	defer cancel()
	for _, h := range held {
		if err := h.sem.Acquire(wait, h.n); err != nil {
			leave()
			if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
				err = errBusy
			}
			return nil, err
		}
		have++
	}
	return leave, nil
}
