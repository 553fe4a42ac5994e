package managed

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/leak"
	"github.com/massif-fs/massif/service/admin/adminapi"
	"github.com/massif-fs/massif/vfs"
)

func TestMain(m *testing.M) { leak.Main(m) }

// fakeAdmin is an admin server that can be away.
type fakeAdmin struct {
	mu     sync.Mutex
	away   bool
	grants map[string]adminapi.Grant // by hash
	events []adminapi.Event
	news   chan struct{}
	asked  int
	served int
	missed int // requests for events while away
}

var errAway = errors.New("connection refused")

func (f *fakeAdmin) Served(context.Context) (*adminapi.ServedVolumes, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away {
		return nil, errAway
	}
	f.served++
	return &adminapi.ServedVolumes{}, nil
}

func (f *fakeAdmin) Authenticate(_ context.Context, r adminapi.AuthRequest) (*adminapi.Grant, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away {
		return nil, errAway
	}
	f.asked++
	g, ok := f.grants[r.TokenSHA256]
	if !ok || r.Volume != "" && r.Volume != g.Volume {
		return nil, &adminapi.Error{Code: adminapi.CodeForbidden, Message: "the token is not known"}
	}
	return &g, nil
}

func (f *fakeAdmin) Events(ctx context.Context, after uint64, wait time.Duration) (*adminapi.Events, error) {
	for {
		f.mu.Lock()
		away, news := f.away, f.news
		if away {
			f.missed++
		}
		var out []adminapi.Event
		for _, e := range f.events {
			if e.Seq > after {
				out = append(out, e)
			}
		}
		f.mu.Unlock()
		if away {
			return nil, errAway
		}
		if len(out) > 0 {
			return &adminapi.Events{Events: out, Seq: out[len(out)-1].Seq}, nil
		}
		if wait == 0 {
			return &adminapi.Events{Seq: after}, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// change changes what the fake says and wakes who waits.
func (f *fakeAdmin) change(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
	close(f.news)
	f.news = make(chan struct{})
}

func hashOf(token string) string {
	h := adminapi.TokenHash(token)
	return hex.EncodeToString(h[:])
}

func newTestLink(t *testing.T) (*link, *fakeAdmin, *time.Time, string) {
	t.Helper()
	token := adminapi.NewToken()
	f := &fakeAdmin{news: make(chan struct{}), grants: map[string]adminapi.Grant{hashOf(token): {TokenID: "t1", Volume: "v1"}}}
	l := newLink(f, slog.New(slog.DiscardHandler), func(*adminapi.ServedVolumes) {})
	now := time.Now()
	l.clock = func() time.Time { return now }
	return l, f, &now, token
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestAuthenticate(t *testing.T) {
	l, f, now, token := newTestLink(t)
	ctx := context.Background()
	g, done, err := l.authenticate(ctx, token, "v1")
	if err != nil || g.TokenID != "t1" || closed(done) {
		t.Fatalf("%+v, %v", g, err)
	}
	for range 5 {
		if _, again, err := l.authenticate(ctx, token, ""); err != nil || again != done {
			t.Fatal(err)
		}
	}
	if f.asked != 1 {
		t.Errorf("asked %d times within a moment", f.asked)
	}
	for bad, errno := range map[string]syscall.Errno{"nonsense": syscall.EACCES, adminapi.NewToken(): syscall.EACCES} {
		if _, _, err := l.authenticate(ctx, bad, "v1"); vfs.ErrnoOf(err) != errno {
			t.Errorf("%q: %v", bad, err)
		}
	}
	// Another volume is asked about, and refused; and that ends nothing of this one's.
	if _, _, err := l.authenticate(ctx, token, "v2"); vfs.ErrnoOf(err) != syscall.EACCES || closed(done) {
		t.Errorf("another volume: %v", err)
	}
	// While the admin server is away, what it said holds for an hour.
	if _, done, err = l.authenticate(ctx, token, "v1"); err != nil {
		t.Fatal(err)
	}
	f.away = true
	*now = now.Add(50 * time.Minute)
	if _, _, err := l.authenticate(ctx, token, "v1"); err != nil {
		t.Errorf("a known token while the admin server is away: %v", err)
	}
	if _, _, err := l.authenticate(ctx, adminapi.NewToken(), "v1"); vfs.ErrnoOf(err) != syscall.ETIMEDOUT {
		t.Errorf("an unknown token while the admin server is away: %v", err)
	}
	*now = now.Add(20 * time.Minute)
	if _, _, err := l.authenticate(ctx, token, "v1"); vfs.ErrnoOf(err) != syscall.ETIMEDOUT {
		t.Errorf("a token that nobody confirmed for an hour: %v", err)
	}
	if l.forgetOld(); !closed(done) {
		t.Error("its sessions go on")
	}
}

// TestGrantChanges: a token that allows something else ends the sessions it has.
func TestGrantChanges(t *testing.T) {
	l, f, now, token := newTestLink(t)
	ctx := context.Background()
	_, done, err := l.authenticate(ctx, token, "v1")
	if err != nil {
		t.Fatal(err)
	}
	f.grants[hashOf(token)] = adminapi.Grant{TokenID: "t1", Volume: "v1", ReadOnly: true}
	*now = now.Add(grantFresh)
	g, next, err := l.authenticate(ctx, token, "v1")
	if err != nil || !g.ReadOnly || !closed(done) || closed(next) {
		t.Errorf("%+v, %v", g, err)
	}
	soon := now.Add(time.Second)
	f.grants[hashOf(token)] = adminapi.Grant{TokenID: "t1", Volume: "v1", Expires: &soon}
	*now = now.Add(grantFresh)
	if _, _, err := l.authenticate(ctx, token, "v1"); err != nil {
		t.Fatal(err)
	}
	asked := f.asked
	*now = now.Add(2 * time.Second)
	delete(f.grants, hashOf(token))
	if _, _, err := l.authenticate(ctx, token, "v1"); vfs.ErrnoOf(err) != syscall.EACCES || f.asked == asked {
		t.Errorf("an expired grant was used: %v", err)
	}
}

// TestRevocation: a revoked token ends its sessions at once, and at the latest when
// the admin server is back.
func TestRevocation(t *testing.T) {
	l, f, _, token := newTestLink(t)
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	_, done, err := l.authenticate(ctx, token, "v1")
	if err != nil {
		t.Fatal(err)
	}
	tasks.Go(func() { l.follow(ctx, 0) })
	f.change(func() {
		delete(f.grants, hashOf(token))
		f.events = append(f.events, adminapi.Event{Seq: 1, Kind: adminapi.EventToken, Token: "t1", Volume: "v1"})
	})
	<-done
	if _, _, err := l.authenticate(ctx, token, "v1"); vfs.ErrnoOf(err) != syscall.EACCES {
		t.Errorf("after the revocation: %v", err)
	}
	f.change(func() { f.events = append(f.events, adminapi.Event{Seq: 2, Kind: adminapi.EventVolume, Volume: "v1"}) })
	until := func(n *int) {
		for {
			f.mu.Lock()
			some := *n > 0
			f.mu.Unlock()
			if some {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	until(&f.served)

	// Revoked while the admin server is away, and the event lost.
	second := adminapi.NewToken()
	f.change(func() { f.grants[hashOf(second)] = adminapi.Grant{TokenID: "t2", Volume: "v1"} })
	if _, done, err = l.authenticate(ctx, second, "v1"); err != nil {
		t.Fatal(err)
	}
	f.change(func() { f.away = true })
	until(&f.missed)
	f.change(func() { delete(f.grants, hashOf(second)) })
	if closed(done) {
		t.Error("ended while nobody knows")
	}
	f.change(func() { f.away = false })
	<-done
}

func TestGrantsAreBounded(t *testing.T) {
	l, _, now, _ := newTestLink(t)
	var first <-chan struct{}
	for i := range maxGrants + 10 {
		done := l.remember(hashOf(adminapi.NewToken()), adminapi.Grant{TokenID: "t"}, *now)
		if i == 0 {
			first = done
		}
	}
	if len(l.grants) > maxGrants {
		t.Errorf("%d grants", len(l.grants))
	}
	_ = first
	l.endToken("t")
	if len(l.grants) != 0 || !closed(first) {
		t.Errorf("%d grants are left", len(l.grants))
	}
}
