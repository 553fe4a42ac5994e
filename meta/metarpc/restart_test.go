package metarpc

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/testserver"
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
	stop := make(chan struct{})
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
		r := rand.New(rand.NewPCG(3, 4))
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(1+r.IntN(15)) * time.Millisecond):
			}
			h.restart(p, r)
			kills++
		}
	})
	all.Wait()
	close(stop)
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
	if kills == 0 {
		t.Error("the server was never killed")
	}
	t.Logf("%d kills", kills)
}

// TestOrderRestarts is TestOrder while the server is killed.
func TestOrderRestarts(t *testing.T) {
	h, p := newCrashHouse(t)
	checkOrder(h, func() *Client { return h.dial(through(p)) }, func(stop <-chan struct{}) {
		r := rand.New(rand.NewPCG(5, 6))
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
				h.restart(p, r)
			}
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
	h.grace = 500 * time.Millisecond
	lost, b := h.dial(through(p)), h.dial(through(p))
	f := h.file(lost, vfs.Root, "f")
	lock := vfs.Lock{Kind: vfs.LockFlock, Type: vfs.LockWrite, Owner: 1, End: vfs.LockEOF}
	h.ok(lost.SetLock(bg, f, lock, false))
	lost.Open(f)
	h.ok(lost.GetAttr(bg, root, f, new(vfs.Attr)))
	// It dies with the server.
	lost.cancel()
	h.restart(p, rand.New(rand.NewPCG(1, 1)))
	start := time.Now()
	var x vfs.Attr
	h.ok(b.Unlink(bg, root, vfs.Root, "f", &x)) // waits, too: the other may be using leases
	b.Open(f)
	h.ok(b.SetLock(bg, f, lock, false))
	if d := time.Since(start); d < 100*time.Millisecond {
		t.Errorf("the lock was given after %v", d)
	}
	if n := len(h.e.Sessions()); n != 1 {
		t.Errorf("%d sessions", n)
	}
	b.Release(f, 1)
	h.eventually("it goes", func() bool { return vfs.ErrnoOf(b.GetAttr(bg, root, f, &x)) == syscall.ESTALE })
}
