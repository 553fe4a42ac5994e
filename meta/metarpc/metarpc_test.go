package metarpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/leak"
	"github.com/massif-fs/massif/internal/testserver"
	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

func TestMain(m *testing.M) { leak.Main(m) }

var (
	bg    = context.Background()
	root  = &vfs.Caller{}
	quiet = slog.New(slog.NewTextHandler(io.Discard, nil))
)

func testFormat() meta.Format {
	return meta.Format{Name: "test", UUID: "u", ChunkSize: meta.MinChunkSize, Compression: "none", InlineLimit: meta.DefaultInlineLimit, Store: "mem:",
		Created: time.Unix(1_700_000_000, 0).UTC()}
}

// house is an engine, a server before it, and clients.
type house struct {
	testing.TB
	db     kv.DB
	e      *meta.Engine
	s      *Server
	config ServerConfig
	grant  Grant
	addr   string
	grace  time.Duration
	strict bool
	served chan error
	mu     sync.Mutex
	open   []*Client
}

func (h *house) Authenticate(_ context.Context, hello *Hello) (*Grant, error) {
	if hello.Token != "" && hello.Token != "good" {
		return nil, vfs.WithErrno(syscall.EACCES, errors.New("the token is not known"))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	g := h.grant
	g.Volume = "test"
	return &g, nil
}

func newHouse(t testing.TB, change ...func(*ServerConfig)) *house {
	t.Helper()
	db := mem.NewWithHistory()
	if err := meta.Create(bg, db, testFormat()); err != nil {
		t.Fatal(err)
	}
	h := &house{TB: t, db: db}
	h.config = ServerConfig{Auth: h, Logger: quiet, Version: "test"}
	for _, c := range change {
		c(&h.config)
	}
	h.start("127.0.0.1:0")
	t.Cleanup(func() {
		for _, c := range h.open {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		h.stop()
		e, err := meta.Open(bg, h.db, meta.Options{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Check(bg, func(p meta.Problem) { t.Errorf("check: %v", p) }); err != nil {
			t.Error(err)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// start opens the engine and serves it.
func (h *house) start(addr string) {
	h.Helper()
	e, err := meta.Open(bg, h.db, meta.Options{Logger: quiet, Grace: h.grace})
	if err != nil {
		h.Fatal(err)
	}
	h.e = e
	l, err := net.Listen("tcp", addr)
	if err != nil {
		h.Fatal(err)
	}
	if at := l.Addr().String(); h.addr != at { // clients may be reading it
		h.addr = at
	}
	h.config.Volume = func(string) (*Volume, error) { return &Volume{Engine: e, Early: !h.strict}, nil }
	h.s = NewServer(h.config)
	h.served = make(chan error, 1)
	go func(s *Server) { h.served <- s.Serve(l) }(h.s)
}

func (h *house) stop() {
	h.Helper()
	if err := h.s.Close(); err != nil {
		h.Error(err)
	}
	if err := <-h.served; err != nil {
		h.Error(err)
	}
	if err := h.e.Close(); err != nil {
		h.Error(err)
	}
}

func (h *house) dial(change ...func(*ClientConfig)) *Client {
	h.Helper()
	c, err := h.tryDial(change...)
	if err != nil {
		h.Fatal(err)
	}
	return c
}

func (h *house) tryDial(change ...func(*ClientConfig)) (*Client, error) {
	var d net.Dialer
	cfg := ClientConfig{
		Connect: func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", h.addr) },
		Hello:   Hello{Volume: "test", Info: meta.SessionInfo{Host: "h", PID: 1}},
		Logger:  quiet,
	}
	for _, c := range change {
		c(&cfg)
	}
	c, err := Dial(bg, cfg)
	if err == nil {
		h.open = append(h.open, c)
	}
	return c, err
}

// through makes a client connect to a proxy.
func through(p *testserver.Proxy) func(*ClientConfig) {
	return func(cfg *ClientConfig) {
		var d net.Dialer
		cfg.Connect = func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", p.Addr()) }
	}
}

func (h *house) ok(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h *house) want(err error, errno syscall.Errno) {
	h.Helper()
	if err == nil || vfs.ErrnoOf(err) != errno {
		h.Fatalf("error %v, want %v", err, errno)
	}
}

func (h *house) file(c meta.Session, parent vfs.Ino, name string) vfs.Ino {
	h.Helper()
	var a vfs.Attr
	h.ok(c.Mknod(bg, root, parent, name, syscall.S_IFREG|0o644, 0, &a))
	return a.Ino
}

// patience is longer than anything takes on a busy machine, but a hang.
const patience = 3 * time.Minute

// eventually waits until something is so.
func (h *house) eventually(what string, fn func() bool) {
	h.Helper()
	for end := time.Now().Add(patience); !fn(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			h.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func TestRefusals(t *testing.T) {
	h := newHouse(t)
	_, err := h.tryDial(func(c *ClientConfig) { c.Hello.Token = "secret-bad" })
	h.want(err, syscall.EACCES)
	if !strings.Contains(err.Error(), "token is not known") || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	// A peer that speaks something else gets nothing.
	c, err := net.Dial("tcp", h.addr)
	h.ok(err)
	_, err = c.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	h.ok(err)
	if b, err := io.ReadAll(c); len(b) != 0 {
		t.Error(string(b), err)
	}
	c.Close()
	// Versions.
	hello := Hello{minVersion: 7, maxVersion: 9}
	_, err = hello.version()
	h.want(err, syscall.EPROTONOSUPPORT)
	// The past is read-only; so is what is asked to be.
	r := h.dial(func(c *ClientConfig) { c.Hello.ReadOnly = true })
	var a vfs.Attr
	h.want(r.Mknod(bg, root, vfs.Root, "f", syscall.S_IFREG, 0, &a), syscall.EROFS)
	h.want(r.Reserve(bg, vfs.Root, 1), syscall.EROFS)
	h.ok(r.GetAttr(bg, root, vfs.Root, &a))
}

// TestCacheHits: what is leased is answered without the server.
func TestCacheHits(t *testing.T) {
	h := newHouse(t)
	c := h.dial()
	var a vfs.Attr
	h.ok(c.Mkdir(bg, root, vfs.Root, "d", 0o755, &a))
	d := a.Ino
	f := h.file(c, d, "f")
	h.ok(c.SetXattr(bg, root, f, "user.x", []byte("y"), 0))
	h.ok(c.Symlink(bg, root, d, "l", "target", &a))
	l := a.Ino
	all := func() {
		t.Helper()
		h.ok(c.GetAttr(bg, root, d, &a))
		h.ok(c.Lookup(bg, root, d, "f", &a))
		if a.Ino != f {
			t.Fatal(a)
		}
		h.want(c.Lookup(bg, root, d, "none", &a), syscall.ENOENT)
		if target, err := c.Readlink(bg, root, l); err != nil || target != "target" {
			t.Fatal(target, err)
		}
		if v, err := c.GetXattr(bg, root, f, "user.x"); err != nil || string(v) != "y" {
			t.Fatal(v, err)
		}
		_, err := c.GetXattr(bg, root, f, "user.none")
		h.want(err, syscall.ENODATA)
		if _, ok, err := c.Inline(bg, f); ok || err != nil {
			t.Fatal(ok, err)
		}
		if list, err := c.Extents(bg, f, 3, nil); len(list) != 0 || err != nil {
			t.Fatal(list, err)
		}
		n := 0
		h.ok(c.ReadDir(bg, root, d, 0, true, func(x *vfs.DirEntry) bool {
			if n++; !x.HasAttr {
				t.Errorf("%+v", x)
			}
			return true
		}))
		if n != 2 {
			t.Fatal(n)
		}
	}
	all()
	before := h.s.calls.Load()
	all()
	if n := h.s.calls.Load() - before; n != 0 {
		t.Errorf("%d calls for what is leased", n)
	}
	// Own changes are known at once, and cost one call each.
	other := h.file(c, d, "g")
	before = h.s.calls.Load()
	h.ok(c.Lookup(bg, root, d, "g", &a))
	h.ok(c.GetAttr(bg, root, other, &a))
	h.want(c.Lookup(bg, root, d, "none", &a), syscall.ENOENT)
	if n := h.s.calls.Load() - before; n != 0 {
		t.Errorf("%d calls for what the client has just made", n)
	}
	h.ok(c.SetAttr(bg, root, other, &vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o600}, &a))
	h.ok(c.Rename(bg, root, d, "g", d, "h", 0, &a))
	before = h.s.calls.Load()
	h.want(c.Lookup(bg, root, d, "g", &a), syscall.ENOENT)
	h.ok(c.Lookup(bg, root, d, "h", &a))
	if a.Mode&0o777 != 0o600 || a.Ino != other {
		t.Fatal(a)
	}
	if n := h.s.calls.Load() - before; n != 0 {
		t.Errorf("%d calls for what the client has just changed", n)
	}
	// Another client's change is seen.
	b := h.dial()
	h.ok(b.SetAttr(bg, root, other, &vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o640}, &a))
	h.ok(b.Unlink(bg, root, d, "f", &a))
	h.ok(c.GetAttr(bg, root, other, &a))
	if a.Mode&0o777 != 0o640 {
		t.Fatal(a)
	}
	h.want(c.Lookup(bg, root, d, "f", &a), syscall.ENOENT)
	h.want(c.GetAttr(bg, root, f, &a), syscall.ESTALE)
}

// TestOrder: whatever clients keep, none sees something older than what another was
// told is done.
func TestOrder(t *testing.T) {
	h := newHouse(t)
	checkOrder(h, func() *Client { return h.dial() }, nil)
}

// pace says when calls are to be disturbed again. What cuts connections faster than a
// busy machine makes them would let nothing come through: so something must have been
// done since the last time, but for now and then.
type pace struct {
	done atomic.Int64 // counted by who makes calls
	last int64
	rand *rand.Rand
	stop chan struct{}
}

func newPace(seed uint64) *pace {
	return &pace{rand: rand.New(rand.NewPCG(seed, seed)), stop: make(chan struct{})}
}

// next waits until n things more were done, or else says so, and then for some time up to
// within; false: it is over.
func (p *pace) next(n int64, within time.Duration, or func() bool) bool {
	for now := p.rand.IntN(4) == 0; !now && p.done.Load() < p.last+n && (or == nil || !or()); {
		select {
		case <-p.stop:
			return false
		case <-time.After(time.Millisecond):
		}
	}
	p.last = p.done.Load()
	select {
	case <-p.stop:
		return false
	case <-time.After(time.Duration(p.rand.Int64N(int64(within)))):
		return true
	}
}

// checkOrder has clients change and read the same few things. disturb, if not nil,
// runs meanwhile, until the pace that it is given is over.
func checkOrder(h *house, dial func() *Client, disturb func(*pace)) {
	const files, clients = 3, 3
	steps := 400
	if testing.Short() {
		steps = 100
	}
	if disturb != nil { // each step waits for connections
		steps /= 4
	}
	first := dial()
	var inos [files]vfs.Ino
	var done [files]atomic.Int64
	var doneName atomic.Int64
	for i := range inos {
		inos[i] = h.file(first, vfs.Root, fmt.Sprint(i))
		h.ok(first.SetAttr(bg, root, inos[i], &vfs.SetAttr{Valid: vfs.SetMtime}, new(vfs.Attr)))
	}
	var writers, readers sync.WaitGroup
	var end atomic.Bool
	speed := newPace(3)
	var list []*Client
	for range clients {
		list = append(list, dial())
	}
	for n, c := range list {
		for range 2 {
			readers.Go(func() {
				r := rand.New(rand.NewPCG(uint64(n), 1))
				for !end.Load() {
					runtime.Gosched() // most are answered from the cache, without a wait
					var a vfs.Attr
					if i := r.IntN(files + 1); i < files {
						least := done[i].Load()
						if err := c.GetAttr(bg, root, inos[i], &a); err != nil || a.Mtime.Sec < least {
							h.Errorf("client %d sees %d of %d, which was %d before: %v", n, a.Mtime.Sec, inos[i], least, err)
							return
						}
					} else {
						least := doneName.Load()
						err := c.Lookup(bg, root, vfs.Root, "name", &a)
						if err == syscall.ENOENT && least == 0 {
							continue
						}
						if err != nil || int64(a.Ino) < least {
							h.Errorf("client %d finds %d, it was %d before: %v", n, a.Ino, least, err)
							return
						}
					}
				}
			})
		}
	}
	for i := range files {
		writers.Go(func() {
			for k := range steps {
				c := list[(i+k/7)%clients]
				set := vfs.SetAttr{Valid: vfs.SetMtime, Mtime: vfs.Time{Sec: int64(k)}}
				var a vfs.Attr
				if err := c.SetAttr(bg, root, inos[i], &set, &a); err != nil || a.Mtime.Sec != int64(k) {
					h.Errorf("set %d: %v, %v", k, a.Mtime, err)
					return
				}
				done[i].Store(int64(k))
				speed.done.Add(1)
				// The one who has changed it sees that.
				if err := c.GetAttr(bg, root, inos[i], &a); err != nil || a.Mtime.Sec != int64(k) {
					h.Errorf("after setting %d: %v, %v", k, a.Mtime, err)
					return
				}
				time.Sleep(time.Duration(k%3) * 200 * time.Microsecond)
			}
		})
	}
	writers.Go(func() {
		for k := range steps {
			c := list[k/5%clients]
			f := h.file(c, vfs.Root, "new")
			if err := c.Rename(bg, root, vfs.Root, "new", vfs.Root, "name", 0, new(vfs.Attr)); err != nil {
				h.Error(err)
				return
			}
			doneName.Store(int64(f))
			speed.done.Add(1)
		}
	})
	var disturber sync.WaitGroup
	if disturb != nil {
		disturber.Go(func() { disturb(speed) })
	}
	writers.Wait()
	close(speed.stop)
	disturber.Wait()
	end.Store(true)
	readers.Wait()
	for _, c := range append(list, first) {
		h.ok(c.Sync(bg)) // while there is a way to the server
	}
}

// TestCuts: calls do not fail, and are done once, when connections break all the time.
func TestCuts(t *testing.T) {
	h := newHouse(t)
	p := testserver.NewProxy(t, h.addr)
	steps := 60
	if testing.Short() {
		steps = 20
	}
	c := h.dial(through(p))
	watcher := h.dial()
	speed := newPace(1)
	p.Set(testserver.Fault{}) // the first cut
	var cutter sync.WaitGroup
	cutter.Go(func() {
		for more := true; more; {
			f := testserver.Fault{}
			switch speed.rand.IntN(3) {
			case 0:
				f.CutAnswer = 300 + speed.rand.Int64N(3000)
			case 1:
				f.CutRequest = 300 + speed.rand.Int64N(3000)
			}
			before := h.s.connections.Load()
			p.Set(f)
			// With some of these nothing comes through.
			more = speed.next(8, 50*time.Millisecond, func() bool { return h.s.connections.Load() > before+2 })
		}
		p.Set(testserver.Fault{})
	})
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			for i := range steps {
				var a vfs.Attr
				name := fmt.Sprintf("%d-%d", n, i)
				// Each of these fails if it is done twice.
				if err := c.Mknod(bg, root, vfs.Root, name, syscall.S_IFREG|0o644, 0, &a); err != nil {
					t.Errorf("mknod %s: %v", name, err)
					return
				}
				if err := c.Rename(bg, root, vfs.Root, name, vfs.Root, "x"+name, vfs.RenameNoReplace, &a); err != nil {
					t.Errorf("rename %s: %v", name, err)
					return
				}
				speed.done.Add(1)
				if i%2 == 0 {
					if err := c.Unlink(bg, root, vfs.Root, "x"+name, &a); err != nil {
						t.Errorf("unlink %s: %v", name, err)
						return
					}
				}
			}
		})
	}
	all.Wait()
	close(speed.stop)
	cutter.Wait()
	n := 0
	h.ok(watcher.ReadDir(bg, root, vfs.Root, 0, false, func(*vfs.DirEntry) bool { n++; return true }))
	if n != 8*steps/2 {
		t.Errorf("%d files", n)
	}
	if h.s.resumed.Load() == 0 {
		t.Error("no connection was cut")
	}
	h.ok(c.Sync(bg)) // while there is a way to the server
}

// TestOrderCuts is TestOrder while connections break.
func TestOrderCuts(t *testing.T) {
	h := newHouse(t)
	p := testserver.NewProxy(t, h.addr)
	checkOrder(h, func() *Client { return h.dial(through(p)) }, func(speed *pace) {
		for speed.next(1, 30*time.Millisecond, nil) {
			p.Set(testserver.Fault{})
		}
	})
}

// TestSilence: a client that is cut off keeps nothing for longer than its lease, and
// holds others up no longer.
func TestSilence(t *testing.T) {
	h := newHouse(t, func(c *ServerConfig) { c.Lease, c.Life = 300*time.Millisecond, time.Minute })
	p := testserver.NewProxy(t, h.addr)
	c := h.dial(through(p))
	var told atomic.Int64
	c.OnRecall(func(r meta.Recall) {
		if r.All {
			told.Add(1)
		}
	})
	b := h.dial()
	f := h.file(b, vfs.Root, "f")
	var a vfs.Attr
	h.eventually("the client has a lease", func() bool {
		h.ok(c.GetAttr(bg, root, f, &a))
		return c.Leased(f).Has(meta.LeaseAttr)
	})
	p.Set(testserver.Fault{Refuse: true})
	h.ok(b.SetAttr(bg, root, f, &vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o600}, &a))
	if c.cache.valid() || c.cache.attr(f, &a) {
		t.Fatal("the client still believes what is not so any more")
	}
	h.eventually("the client drops everything", func() bool { return told.Load() > 0 })
	p.Set(testserver.Fault{})
	h.ok(c.GetAttr(bg, root, f, &a))
	if a.Mode&0o777 != 0o600 {
		t.Fatal(a)
	}
}

// TestStubborn: a client that does not acknowledge holds others up only so long.
func TestStubborn(t *testing.T) {
	h := newHouse(t, func(c *ServerConfig) { c.Lease, c.Life = 200*time.Millisecond, time.Minute })
	c, b := h.dial(), h.dial()
	hold := make(chan struct{})
	c.OnRecall(func(r meta.Recall) { <-hold })
	f := h.file(b, vfs.Root, "f")
	var a vfs.Attr
	h.ok(c.GetAttr(bg, root, f, &a))
	h.ok(b.SetAttr(bg, root, f, &vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o600}, &a))
	if c.cache.attr(f, &a) || c.Leased(f) != 0 {
		t.Fatal(a, c.Leased(f))
	}
	close(hold) // it does not come back before
	h.ok(c.GetAttr(bg, root, f, &a))
	if a.Mode&0o777 != 0o600 {
		t.Fatal(a)
	}
}

// TestLocks: across clients, waiting through a broken connection, and until the end of
// a session.
func TestLocks(t *testing.T) {
	h := newHouse(t)
	p := testserver.NewProxy(t, h.addr)
	a, b := h.dial(), h.dial(through(p))
	f := h.file(a, vfs.Root, "f")
	lock := vfs.Lock{Kind: vfs.LockPOSIX, Type: vfs.LockWrite, Owner: 1, PID: 10, Start: 0, End: vfs.LockEOF}
	h.ok(a.SetLock(bg, f, lock, false))
	h.want(b.SetLock(bg, f, lock, false), syscall.EAGAIN)
	if l, err := b.GetLock(bg, f, lock); err != nil || l.PID != 10 {
		t.Fatal(l, err)
	}
	got := make(chan error, 1)
	go func() { got <- b.SetLock(bg, f, lock, true) }()
	waiting := func() int {
		n := 0
		h.s.mu.Lock()
		defer h.s.mu.Unlock()
		for _, ss := range h.s.sessions {
			ss.mu.Lock()
			for _, sl := range ss.slots {
				if sl != nil && sl.running {
					n++
				}
			}
			ss.mu.Unlock()
		}
		return n
	}
	h.eventually("the request waits", func() bool { return waiting() == 1 })
	p.Set(testserver.Fault{}) // cuts
	h.eventually("the client is back", func() bool { return h.s.resumed.Load() > 0 })
	// Another wait is interrupted.
	ctx, cancel := context.WithCancel(bg)
	second := make(chan error, 1)
	lock2 := lock
	lock2.Owner = 2
	go func() { second <- b.SetLock(ctx, f, lock2, true) }()
	h.eventually("the second request waits", func() bool { return waiting() == 2 })
	cancel()
	h.want(<-second, syscall.EINTR)
	h.ok(a.Close())
	h.ok(<-got)
	h.ok(b.ReleaseLocks(bg, f, 1, vfs.LockPOSIX))
	if l, err := b.GetLock(bg, f, lock2); err != nil || l.Type != vfs.LockUnlock {
		t.Fatal(l, err)
	}
}

// TestDeath: the locks and nameless files of a session that is not heard of go.
func TestDeath(t *testing.T) {
	const life = 10 * time.Minute
	h := newHouse(t, func(c *ServerConfig) { c.Lease, c.Life = time.Second, life })
	p := testserver.NewProxy(t, h.addr)
	dead, b := h.dial(through(p)), h.dial()
	f := h.file(dead, vfs.Root, "f")
	var a vfs.Attr
	lock := vfs.Lock{Kind: vfs.LockFlock, Type: vfs.LockWrite, Owner: 1, End: vfs.LockEOF}
	h.ok(dead.SetLock(bg, f, lock, false))
	dead.Open(f)
	h.ok(b.Unlink(bg, root, vfs.Root, "f", &a))
	if a.Nlink != 0 {
		t.Fatal(a)
	}
	b.Open(f)
	defer b.Release(f, 1)
	h.ok(b.GetAttr(bg, root, f, &a)) // it is used
	dead.mu.Lock()
	id := dead.session
	dead.mu.Unlock()
	h.s.mu.Lock()
	ss := h.s.sessions[sessionKey{"test", id}]
	h.s.mu.Unlock()
	p.Set(testserver.Fault{Refuse: true})
	h.eventually("the server notices", func() bool {
		ss.mu.Lock()
		defer ss.mu.Unlock()
		return ss.link == nil
	})
	ss.heard.Store(nanotime() - int64(life)) // and so it goes on
	h.ok(b.SetLock(bg, f, lock, true))       // when the other session has ended
	p.Set(testserver.Fault{})
	// The client goes on with a new session.
	h.file(dead, vfs.Root, "g")
	if len(h.e.Sessions()) != 2 {
		t.Error(h.e.Sessions())
	}
	h.ok(dead.Sync(bg))
}

func TestGiveUp(t *testing.T) {
	h := newHouse(t)
	p := testserver.NewProxy(t, h.addr)
	c := h.dial(through(p), func(c *ClientConfig) { c.GiveUp = 50 * time.Millisecond })
	p.Set(testserver.Fault{Refuse: true})
	var a vfs.Attr
	h.eventually("the cut is noticed", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.link == nil
	})
	h.want(c.Mknod(bg, root, vfs.Root, "f", syscall.S_IFREG, 0, &a), syscall.ETIMEDOUT)
	p.Set(testserver.Fault{})
	h.eventually("calls work again", func() bool {
		return c.Mknod(bg, root, vfs.Root, "g", syscall.S_IFREG, 0, &a) == nil
	})
	h.ok(c.Sync(bg))
}

// TestWatch: the change feed works over the wire.
func TestWatch(t *testing.T) {
	h := newHouse(t)
	a, b := h.dial(), h.dial()
	seen := make(chan vfs.Change, 10)
	stop := a.Watch(func(c vfs.Change) { seen <- c })
	h.file(b, vfs.Root, "f")
	if c := <-seen; c.Kind != vfs.ChangeEntry || c.Name != "f" || !c.Remote {
		t.Errorf("%+v", c)
	}
	stop()
}

// TestSettings: clients learn of changed settings and quotas, and reserve space only
// where there are some.
func TestSettings(t *testing.T) {
	h := newHouse(t)
	c := h.dial()
	f := h.file(c, vfs.Root, "f")
	h.ok(c.Reserve(bg, f, 1<<40))
	h.ok(h.e.UpdateSettings(bg, func(f *meta.Format) error { f.QuotaBytes = 8 << 20; f.Retention = time.Hour; return nil }))
	h.eventually("the client knows", func() bool { return c.Format().Retention == time.Hour })
	before := h.s.calls.Load()
	for range 1000 {
		h.ok(c.Reserve(bg, f, 1000))
	}
	if n := h.s.calls.Load() - before; n > 2 {
		t.Errorf("%d calls to reserve a megabyte", n)
	}
	h.want(c.Reserve(bg, f, 8<<20), syscall.ENOSPC)
	h.ok(c.Reserve(bg, f, 6<<20))
	c.Unreserve(f, 6<<20)
	h.eventually("it is given back", func() bool { return c.Reserve(bg, f, 5<<20) == nil })
}

// TestHostile: what breaks the protocol ends the connection, and nothing else.
func TestHostile(t *testing.T) {
	h := newHouse(t)
	good := h.dial()
	for _, frame := range [][]byte{
		{0xff, 0xff, 0xff, 0xff, 2},
		{0, 0, 0, 0},
		{1, 0, 0, 0, 200},
		append([]byte{3, 0, 0, 0, byte(frameCall)}, 1, 2),
		append([]byte{1 + 8 + 1 + 12, 0, 0, 0, byte(frameCall)}, append(make([]byte, 8), append([]byte{byte(opMknod)}, bytes.Repeat([]byte{0xff}, 12)...)...)...),
	} {
		c := h.dial()
		c.mu.Lock()
		l := c.link
		c.mu.Unlock()
		_ = l.w.write(frame) // the server may have hung up before it returns
		<-l.dead
	}
	h.file(good, vfs.Root, "f")
}

func TestUnix(t *testing.T) {
	h := newHouse(t)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	h.ok(err)
	served := make(chan error, 1)
	go func() { served <- h.s.Serve(l) }()
	c := h.dial(func(cfg *ClientConfig) {
		var d net.Dialer
		cfg.Connect = func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "unix", l.Addr().String()) }
	})
	h.file(c, vfs.Root, "f")
	l.Close()
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// TestNoXattrs: a client that has leased a file's attributes knows that it has no
// extended ones, until somebody sets one.
func TestNoXattrs(t *testing.T) {
	h := newHouse(t)
	a, b := h.dial(), h.dial()
	ino := h.file(a, vfs.Root, "f")
	before := h.s.calls.Load()
	for range 10 {
		_, err := a.GetXattr(bg, root, ino, "security.capability")
		h.want(err, syscall.ENODATA)
	}
	_, err := a.GetXattr(bg, root, ino, "nonsense.x")
	h.want(err, syscall.EOPNOTSUPP)
	if n := h.s.calls.Load() - before; n != 0 {
		t.Errorf("%d calls", n)
	}
	for _, c := range []*Client{b, a} {
		h.ok(c.SetXattr(bg, root, ino, "user.x", []byte("1"), 0))
		for _, c := range []*Client{a, b} {
			if v, err := c.GetXattr(bg, root, ino, "user.x"); err != nil || string(v) != "1" {
				t.Errorf("%q %v", v, err)
			}
		}
		h.ok(c.RemoveXattr(bg, root, ino, "user.x"))
		for _, c := range []*Client{a, b} {
			_, err := c.GetXattr(bg, root, ino, "user.x")
			h.want(err, syscall.ENODATA)
		}
	}
}
