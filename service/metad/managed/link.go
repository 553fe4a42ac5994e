// Package managed is a metadata server that an admin server manages: it learns there
// which volumes to serve and where their blocks are, asks there what the tokens of
// mounts allow, and hears from there when that changes.
//
// # While the admin server is away
//
// Sessions go on, and mounts that lost their connection come back: what a token
// allowed is remembered for an hour. New mounts need the admin server anyway. A
// revocation that happens meanwhile takes effect when the admin server is back, an hour
// after the token was last confirmed at the latest.
package managed

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/massif-fs/massif/service/admin/adminapi"
	"github.com/massif-fs/massif/vfs"
)

const (
	// grantFresh is how long an answer of the admin server is used without asking.
	grantFresh = 15 * time.Second
	// grantStale is how long it is used while the admin server cannot be reached.
	grantStale = time.Hour
	// eventsWait is how long a request for events stays open.
	eventsWait = 50 * time.Second
	// maxGrants bounds what is remembered of tokens.
	maxGrants = 1 << 16
)

// adminServer is what a link needs of the admin server: *adminapi.Client.
type adminServer interface {
	Served(ctx context.Context) (*adminapi.ServedVolumes, error)
	Authenticate(ctx context.Context, r adminapi.AuthRequest) (*adminapi.Grant, error)
	Events(ctx context.Context, after uint64, wait time.Duration) (*adminapi.Events, error)
}

// link keeps what the admin server has said.
type link struct {
	admin adminServer
	log   *slog.Logger
	clock func() time.Time
	// changed is called when volumes may have changed.
	changed func(*adminapi.ServedVolumes)

	away atomic.Bool // the admin server was not heard when it was last asked for events

	mu     sync.Mutex
	grants map[string]*granted // by the token's hash
}

// granted is what a token was last known to allow.
type granted struct {
	grant adminapi.Grant
	asked time.Time     // when it was confirmed
	done  chan struct{} // closed when it is revoked or changed
}

func newLink(admin adminServer, log *slog.Logger, changed func(*adminapi.ServedVolumes)) *link {
	return &link{admin: admin, log: log, clock: time.Now, changed: changed, grants: map[string]*granted{}}
}

// authenticate tells what a token allows, and when that ends: EACCES for one that is
// not good, ETIMEDOUT if nobody can tell.
func (l *link) authenticate(ctx context.Context, token, volume string) (adminapi.Grant, <-chan struct{}, error) {
	token, err := adminapi.ParseToken(token)
	if err != nil {
		return adminapi.Grant{}, nil, vfs.WithErrno(syscall.EACCES, err)
	}
	sum := adminapi.TokenHash(token)
	hash := hex.EncodeToString(sum[:])
	l.mu.Lock()
	known := l.grants[hash]
	l.mu.Unlock()
	if known != nil && l.clock().Sub(known.asked) < grantFresh && l.good(known, volume) {
		return known.grant, known.done, nil
	}
	asked := l.clock()
	g, err := l.admin.Authenticate(ctx, adminapi.AuthRequest{TokenSHA256: hash, Volume: volume})
	switch {
	case err == nil:
	case adminapi.IsCode(err, adminapi.CodeForbidden, adminapi.CodeInvalid, adminapi.CodeNotFound):
		if known != nil && (volume == "" || volume == known.grant.Volume) { // not because another volume was asked for
			l.drop(hash)
		}
		return adminapi.Grant{}, nil, vfs.WithErrno(syscall.EACCES, err)
	case known != nil && l.clock().Sub(known.asked) < grantStale && l.good(known, volume):
		l.log.Warn("the admin server cannot be asked about a token; what it said before holds", "token", known.grant.TokenID, "err", err)
		return known.grant, known.done, nil
	default:
		l.log.Warn("the admin server cannot be asked about a token", "err", err)
		return adminapi.Grant{}, nil, vfs.WithErrno(syscall.ETIMEDOUT, errors.New("the admin server cannot be asked about the token"))
	}
	return *g, l.remember(hash, *g, asked), nil
}

// good tells whether a remembered grant opens a volume now.
func (l *link) good(k *granted, volume string) bool {
	select {
	case <-k.done:
		return false
	default:
	}
	if k.grant.Expires != nil && !l.clock().Before(*k.grant.Expires) {
		return false
	}
	return volume == "" || volume == k.grant.Volume
}

// remember keeps a grant. One that says something else than before ends the sessions of
// the one before.
func (l *link) remember(hash string, g adminapi.Grant, asked time.Time) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if old := l.grants[hash]; old != nil {
		select {
		case <-old.done:
		default:
			if sameGrant(&old.grant, &g) {
				old.asked = asked
				return old.done
			}
			close(old.done)
		}
	}
	if len(l.grants) >= maxGrants {
		for h, k := range l.grants { // any: who has a session keeps its channel
			delete(l.grants, h)
			close(k.done)
			break
		}
	}
	k := &granted{grant: g, asked: asked, done: make(chan struct{})}
	l.grants[hash] = k
	return k.done
}

func sameGrant(a, b *adminapi.Grant) bool {
	sameTime := (a.Expires == nil) == (b.Expires == nil) && (a.Expires == nil || a.Expires.Equal(*b.Expires))
	return a.TokenID == b.TokenID && a.Volume == b.Volume && a.Path == b.Path && a.ReadOnly == b.ReadOnly && a.Flags == b.Flags && sameTime
}

func (l *link) drop(hash string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := l.grants[hash]; k != nil {
		delete(l.grants, hash)
		select {
		case <-k.done:
		default:
			close(k.done)
		}
	}
}

// endToken ends the sessions of a token.
func (l *link) endToken(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for hash, k := range l.grants {
		if k.grant.TokenID == id {
			delete(l.grants, hash)
			close(k.done)
		}
	}
}

// confirm asks about every token that is remembered, after events may have been
// missed.
func (l *link) confirm(ctx context.Context) {
	l.mu.Lock()
	type item struct{ hash, volume string }
	var all []item
	for hash, k := range l.grants {
		all = append(all, item{hash, k.grant.Volume})
	}
	l.mu.Unlock()
	for _, i := range all {
		asked := l.clock()
		g, err := l.admin.Authenticate(ctx, adminapi.AuthRequest{TokenSHA256: i.hash, Volume: i.volume})
		switch {
		case err == nil:
			l.remember(i.hash, *g, asked)
		case adminapi.IsCode(err, adminapi.CodeForbidden, adminapi.CodeInvalid, adminapi.CodeNotFound):
			l.drop(i.hash)
		default:
			return // not there again: the next round confirms
		}
	}
}

// follow hears what changes, until ctx is done. start is what the server has loaded.
func (l *link) follow(ctx context.Context, seq uint64) {
	pause := time.Second
	away := false
	for ctx.Err() == nil {
		wait := eventsWait
		if away {
			wait = 0 // that it is back must be known at once
		}
		e, err := l.admin.Events(ctx, seq, wait)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			if !away {
				l.log.Warn("the admin server is not heard", "err", err)
			}
			away = true
			l.away.Store(true)
			l.forgetOld()
			sleep(ctx, pause)
			pause = min(2*pause, 15*time.Second)
			continue
		}
		pause = time.Second
		if away {
			away = false
			l.away.Store(false)
			l.log.Info("the admin server is heard again")
			l.confirm(ctx)
		}
		reload := e.Reset
		if e.Reset {
			l.confirm(ctx)
		}
		for _, event := range e.Events {
			switch event.Kind {
			case adminapi.EventToken:
				l.endToken(event.Token)
			case adminapi.EventVolume:
				reload = true
			}
		}
		if reload && !l.reload(ctx) {
			sleep(ctx, pause)
			continue // the same events again
		}
		seq = e.Seq
	}
}

// reload asks for the volumes anew.
func (l *link) reload(ctx context.Context) bool {
	served, err := l.admin.Served(ctx)
	if err != nil {
		l.log.Warn("the admin server does not tell the volumes", "err", err)
		return false
	}
	l.changed(served)
	return true
}

// forgetOld ends sessions of tokens that nobody has confirmed for too long.
func (l *link) forgetOld() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for hash, k := range l.grants {
		if l.clock().Sub(k.asked) >= grantStale {
			delete(l.grants, hash)
			close(k.done)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// errRetired is the error of a volume that was deleted.
func errRetired(name string) error {
	return vfs.WithErrno(syscall.ENOENT, fmt.Errorf("the volume %s is deleted", name))
}
