package metarpc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/testserver"
	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// restart kills the server, as far as its clients behind p and its store can tell, and
// starts another one. What was not synced may be lost.
func (h *house) restart(p *testserver.Proxy, r *rand.Rand) {
	h.Helper()
	p.Set(testserver.Fault{Refuse: true}) // nothing that it says is heard any more
	db := h.db.(*mem.DB)
	next := db.CrashAt(r.IntN(db.Unsynced() + 1))
	h.stop()
	h.db = next
	h.start(h.addr)
	p.Set(testserver.Fault{})
}

func newCrashHouse(t *testing.T, change ...func(*ServerConfig)) (*house, *testserver.Proxy) {
	h := newHouse(t, append(change, func(c *ServerConfig) { c.Life = 20 * time.Second })...)
	h.stop()
	h.grace = 20 * time.Second
	h.db = h.db.(*mem.DB).CrashAt(0)
	h.start("127.0.0.1:0")
	return h, testserver.NewProxy(t, h.addr)
}

// TestRestarts: no call fails, is lost, or is done twice, whenever the server is
// killed.
func TestRestarts(t *testing.T) {
	h, p := newCrashHouse(t)
	c := h.dial(through(p))
	var all sync.WaitGroup
	speed := newPace(3)
	steps := 150
	if testing.Short() {
		steps = 50
	}
	var d vfs.Attr
	h.ok(c.Mkdir(bg, root, vfs.Root, "d", 0o755, &d))
	counted := h.file(c, vfs.Root, "counted")
	for n := range 4 {
		all.Go(func() {
			for i := range steps {
				var a vfs.Attr
				name := fmt.Sprintf("%d-%d", n, i)
				if err := c.Mknod(bg, root, vfs.Root, name, syscall.S_IFREG|0o644, 0, &a); err != nil {
					t.Errorf("mknod %s: %v", name, err)
					return
				}
				f := a.Ino
				if err := c.Rename(bg, root, vfs.Root, name, d.Ino, name, vfs.RenameNoReplace, &a); err != nil {
					t.Errorf("rename %s: %v", name, err)
					return
				}
				if err := c.Link(bg, root, counted, vfs.Root, "l"+name, &a); err != nil {
					t.Errorf("link %s: %v", name, err)
					return
				}
				id, err := c.AllocBlocks(bg, 1)
				if err != nil {
					t.Errorf("allocate: %v", err)
					return
				}
				gone, err := c.Commit(bg, []meta.Block{{ID: id, Size: 10}}, []meta.FileWrite{{Ino: f, Size: 10,
					Chunks: []meta.Chunk{{Extents: []meta.Extent{{Len: 10, Block: id, Size: 10}}}}}})
				if err != nil || len(gone) != 1 || gone[0] {
					t.Errorf("commit: %v %v", gone, err)
					return
				}
				speed.done.Add(1)
				if i%3 == 0 {
					if err := c.Unlink(bg, root, d.Ino, name, &a); err != nil || a.Ino != f || a.Nlink != 0 || a.Size != 10 {
						t.Errorf("unlink %s: %+v %v", name, a, err)
						return
					}
				}
			}
		})
	}
	var killer sync.WaitGroup
	kills := 0
	killer.Go(func() {
		for more := true; more; more = speed.next(1, 15*time.Millisecond, nil) {
			h.restart(p, speed.rand)
			kills++
		}
	})
	all.Wait()
	close(speed.stop)
	killer.Wait()
	var a vfs.Attr
	h.ok(c.GetAttr(bg, root, counted, &a))
	if want := uint32(1 + 4*steps); a.Nlink != want {
		t.Errorf("%d links, want %d", a.Nlink, want)
	}
	n := 0
	h.ok(c.ReadDir(bg, root, d.Ino, 0, true, func(x *vfs.DirEntry) bool { n++; return true }))
	if want := 4 * (steps - (steps+2)/3); n != want {
		t.Errorf("%d files, want %d", n, want)
	}
	h.ok(c.Sync(bg))
	t.Logf("%d kills", kills)
}

// TestOrderRestarts is TestOrder while the server is killed.
func TestOrderRestarts(t *testing.T) {
	h, p := newCrashHouse(t)
	checkOrder(h, func() *Client { return h.dial(through(p)) }, func(speed *pace) {
		for speed.next(1, 100*time.Millisecond, nil) {
			h.restart(p, speed.rand)
		}
	})
}

// TestHoldings: locks, open files and unlinked ones survive the server.
func TestHoldings(t *testing.T) {
	h, p := newCrashHouse(t)
	a, b := h.dial(through(p)), h.dial(through(p))
	r := rand.New(rand.NewPCG(7, 8))
	f := h.file(a, vfs.Root, "f")
	var x vfs.Attr
	lock := vfs.Lock{Kind: vfs.LockPOSIX, Type: vfs.LockWrite, Owner: 1, PID: 9, End: 99}
	h.ok(a.SetLock(bg, f, lock, false))
	open := h.file(a, vfs.Root, "open")
	later := h.file(a, vfs.Root, "later")
	var temp vfs.Attr
	h.ok(a.Tmpfile(bg, root, vfs.Root, 0o600, true, &temp))
	a.Open(open)
	a.Open(later)
	h.ok(a.Unlink(bg, root, vfs.Root, "open", &x))
	for range 3 {
		h.restart(p, r)
		h.want(b.SetLock(bg, f, lock, false), syscall.EAGAIN)
		for _, ino := range []vfs.Ino{open, later, temp.Ino} {
			h.ok(a.GetAttr(bg, root, ino, &x))
		}
	}
	h.ok(b.Unlink(bg, root, vfs.Root, "later", &x)) // in use by a, which the server was told
	h.restart(p, r)
	h.ok(a.GetAttr(bg, root, later, &x))
	h.ok(a.Link(bg, root, temp.Ino, vfs.Root, "temp", &x))
	for _, ino := range []vfs.Ino{open, later, temp.Ino} {
		a.Release(ino, 1)
	}
	for _, ino := range []vfs.Ino{open, later} {
		h.eventually("it goes with its last use", func() bool { return vfs.ErrnoOf(b.GetAttr(bg, root, ino, &x)) == syscall.ESTALE })
	}
	h.ok(b.GetAttr(bg, root, temp.Ino, &x))
	lock.Type = vfs.LockUnlock
	h.ok(a.SetLock(bg, f, lock, false))
	lock.Type = vfs.LockWrite
	h.ok(b.SetLock(bg, f, lock, false))
}

// TestGrace: what a client that does not come back held is given to others when its
// time is over, and not before.
func TestGrace(t *testing.T) {
	h, p := newCrashHouse(t)
	h.grace = time.Second
	lost, b := h.dial(through(p)), h.dial(through(p))
	f := h.file(lost, vfs.Root, "f")
	lock := vfs.Lock{Kind: vfs.LockFlock, Type: vfs.LockWrite, Owner: 1, End: vfs.LockEOF}
	h.ok(lost.SetLock(bg, f, lock, false))
	lost.Open(f)
	h.ok(lost.GetAttr(bg, root, f, new(vfs.Attr)))
	h.ok(lost.Sync(bg))
	connection := func() *link {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.link
	}
	old := connection()
	// It dies with the server.
	lost.cancel()
	start := time.Now()
	h.restart(p, rand.New(rand.NewPCG(1, 1)))
	h.eventually("the other notices", func() bool { return connection() != old })
	var x vfs.Attr
	h.ok(b.Unlink(bg, root, vfs.Root, "f", &x)) // waits, too: the first may be using leases
	if d := time.Since(start); d < h.grace {
		t.Errorf("the file went after %v", d)
	}
	b.Open(f)
	h.ok(b.SetLock(bg, f, lock, false))
	if d := time.Since(start); d < h.grace {
		t.Errorf("the lock was given after %v", d)
	}
	if n := len(h.e.Sessions()); n != 1 {
		t.Errorf("%d sessions", n)
	}
	b.Release(f, 1)
	h.eventually("it goes", func() bool { return vfs.ErrnoOf(b.GetAttr(bg, root, f, &x)) == syscall.ESTALE })
	h.ok(b.Sync(bg))
}

// TestSilentClient: a client that does not say what it holds loses its session, but not
// the server.
func TestSilentClient(t *testing.T) {
	h := newHouse(t)
	c, other := h.dial(), h.dial()
	f := h.file(c, vfs.Root, "f")
	lock := vfs.Lock{Kind: vfs.LockFlock, Type: vfs.LockWrite, Owner: 1, End: vfs.LockEOF}
	h.ok(c.SetLock(bg, f, lock, false))
	session := func() uint64 {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.link == nil {
			return 0
		}
		return c.session
	}
	id := session()
	h.s.mu.Lock()
	ss := h.s.sessions[sessionKey{"test", id}]
	h.s.mu.Unlock()
	ss.endSilent()
	h.ok(other.SetLock(bg, f, lock, false))
	h.eventually("it has a new session", func() bool { now := session(); return now != 0 && now != id })
	h.file(c, vfs.Root, "g")
	h.want(c.SetLock(bg, f, lock, false), syscall.EAGAIN)
	if n := len(h.e.Sessions()); n != 2 {
		t.Errorf("%d sessions", n)
	}
}

// slowDB lets Sync wait while it is held.
type slowDB struct {
	*mem.DB
	held atomic.Pointer[chan struct{}]
}

func (db *slowDB) Sync(ctx context.Context) error {
	if held := db.held.Load(); held != nil {
		<-*held
	}
	return db.DB.Sync(ctx)
}

// TestTmpfileRestored: a file without a name is there for a client that had not been
// told of it when the server went down.
func TestTmpfileRestored(t *testing.T) {
	h, p := newCrashHouse(t)
	h.stop()
	db := &slowDB{DB: h.db.(*mem.DB)}
	h.db = db
	h.start(h.addr)
	c, other := h.dial(through(p)), h.dial(through(p))
	h.file(c, vfs.Root, "f") // so that there are inode numbers
	held := make(chan struct{})
	db.held.Store(&held)
	var a, x vfs.Attr
	made := make(chan error, 1)
	go func() { made <- c.Tmpfile(bg, root, vfs.Root, 0o600, true, &a) }()
	h.eventually("it is made", func() (is bool) {
		h.ok(db.View(bg, func(r kv.Reader) error {
			return r.Scan([]byte("o"), []byte("p"), func(_, _ []byte) (bool, error) {
				is = true
				return false, nil
			})
		}))
		return is
	})
	p.Set(testserver.Fault{Refuse: true}) // no reply comes through
	db.held.Store(nil)
	close(held)
	h.stop()
	h.db = db.CrashAt(0)
	h.start(h.addr)
	p.Set(testserver.Fault{})
	h.ok(<-made)
	h.ok(other.GetAttr(bg, root, a.Ino, &x))
	h.ok(c.Link(bg, root, a.Ino, vfs.Root, "g", &x))
	h.ok(c.Unlink(bg, root, vfs.Root, "g", &x))
	h.ok(other.GetAttr(bg, root, a.Ino, &x))
	c.Release(a.Ino, 1)
	h.eventually("it goes with its last use", func() bool { return vfs.ErrnoOf(other.GetAttr(bg, root, a.Ino, &x)) == syscall.ESTALE })
}

// heldConn is a connection on which nothing arrives while the gate is locked.
type heldConn struct {
	net.Conn
	gate *sync.RWMutex
}

func (c heldConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.gate.RLock()
	defer c.gate.RUnlock()
	return n, err
}

// TestCreatedIsInUse: what a client creates is in use by it from the first moment, also if
// another removes the name before the first has heard of it.
func TestCreatedIsInUse(t *testing.T) {
	h := newHouse(t)
	var gate sync.RWMutex
	c, other := h.dial(func(cfg *ClientConfig) {
		cfg.NoCache = true // else the recall of its leases waits for it
		connect := cfg.Connect
		cfg.Connect = func(ctx context.Context) (net.Conn, error) {
			conn, err := connect(ctx)
			return heldConn{conn, &gate}, err
		}
	}), h.dial()
	var a, x vfs.Attr
	made := make(chan error, 1)
	gate.Lock()
	go func() { made <- c.Create(bg, root, vfs.Root, "f", 0o600, &a) }()
	h.eventually("it is made", func() bool { return other.Lookup(bg, root, vfs.Root, "f", &x) == nil })
	h.ok(other.Unlink(bg, root, vfs.Root, "f", &x))
	gate.Unlock()
	h.ok(<-made)
	h.ok(c.GetAttr(bg, root, a.Ino, &x))
	if x.Nlink != 0 {
		t.Errorf("%d names", x.Nlink)
	}
	c.Release(a.Ino, 1)
	h.eventually("it goes with its last use", func() bool { return vfs.ErrnoOf(other.GetAttr(bg, root, a.Ino, &x)) == syscall.ESTALE })
}

// TestTmpfileReleased: a file without a name goes whose client lets go of it while it has
// no connection.
func TestTmpfileReleased(t *testing.T) {
	h, p := newCrashHouse(t)
	c, other := h.dial(through(p)), h.dial(through(p))
	for _, restart := range []bool{false, true} {
		var a, x vfs.Attr
		h.ok(c.Tmpfile(bg, root, vfs.Root, 0o600, true, &a))
		p.Set(testserver.Fault{Refuse: true})
		h.eventually("it notices", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.link == nil
		})
		c.Release(a.Ino, 1)
		if restart {
			h.restart(p, rand.New(rand.NewPCG(1, 1)))
		}
		p.Set(testserver.Fault{})
		for range changeSlots { // so that the server knows that its reply came
			h.ok(c.SetAttr(bg, root, vfs.Root, &vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o755}, &x))
		}
		h.eventually("it goes", func() bool { return vfs.ErrnoOf(other.GetAttr(bg, root, a.Ino, &x)) == syscall.ESTALE })
	}
	h.ok(c.Sync(bg))
}

// TestCloseWhileWelcomed: a client that is let in while the server closes does not hold
// it up.
func TestCloseWhileWelcomed(t *testing.T) {
	h := newHouse(t)
	closed := make(chan error, 1)
	here, there := net.Pipe()
	told := make(chan struct{})
	h.s.Handle(&slowConn{Conn: &closingConn{Conn: there, told: told}, welcome: func() {
		go func() { closed <- h.s.Close() }()
		<-told
	}})
	c, err := h.tryDial(func(cfg *ClientConfig) {
		first := true
		cfg.Connect = func(context.Context) (net.Conn, error) {
			if !first {
				return nil, syscall.ECONNREFUSED
			}
			first = false
			return here, nil
		}
	})
	h.ok(err)
	select {
	case err := <-closed:
		h.ok(err)
	case <-time.After(patience):
		t.Error("the server does not close")
		c.link.close(net.ErrClosed)
		h.ok(<-closed)
	}
}

// TestTakeOver: a client's second connection is not held up by one whose welcome is just
// being sent.
func TestTakeOver(t *testing.T) {
	h := newHouse(t)
	here, there := net.Pipe()
	second := make(chan error, 1)
	h.s.Handle(&slowConn{Conn: there, welcome: func() {
		var hello Hello
		h.s.mu.Lock()
		for _, ss := range h.s.sessions {
			hello.session, hello.secret = ss.id, ss.secret
		}
		h.s.mu.Unlock()
		go func() {
			conn, err := net.Dial("tcp", h.addr)
			if err == nil {
				err = greet(conn, &hello)
				conn.Close()
			}
			second <- err
		}()
		for end := time.Now().Add(patience); h.s.resumed.Load() == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Error("the second is not let in")
				return
			}
		}
	}})
	first := make(chan error, 1)
	go func() { first <- greet(here, new(Hello)) }()
	h.ok(<-second)
	<-first // it may have its welcome or not
	here.Close()
}

// greet introduces a client and waits for its welcome.
func greet(conn net.Conn, hello *Hello) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	l := newLink(conn)
	hello.Volume, hello.minVersion, hello.maxVersion = "test", minVersion, maxVersion
	e := encoder{b: beginFrame(nil, frameHello)}
	hello.encode(&e)
	endFrame(e.b, 0)
	if err := l.w.write(e.b); err != nil {
		return err
	}
	_, body, err := l.r.next(1 << 20)
	if err != nil {
		return err
	}
	var w welcome
	if err := w.decode(body); err != nil {
		return err
	}
	return w.err
}

// slowConn calls welcome before the first write.
type slowConn struct {
	net.Conn
	once    sync.Once
	welcome func()
}

func (c *slowConn) Write(b []byte) (int, error) {
	c.once.Do(c.welcome)
	return c.Conn.Write(b)
}

// closingConn knows when it was told to end.
type closingConn struct {
	net.Conn
	told chan struct{}
}

func (c *closingConn) SetReadDeadline(t time.Time) error {
	if !t.IsZero() && t.Before(time.Now()) {
		close(c.told)
	}
	return c.Conn.SetReadDeadline(t)
}
