package metarpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/testserver"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// lazy has the server flush only when somebody waits for it.
func lazy(c *ServerConfig) { c.syncDelay = time.Hour }

// crash is restart with a given number of unsynced commits that survive.
func (h *house) crash(survive int, proxies ...*testserver.Proxy) {
	h.Helper()
	for _, p := range proxies {
		p.Set(testserver.Fault{Refuse: true})
	}
	next := h.db.(*mem.DB).CrashAt(survive)
	h.stop()
	h.db = next
	h.start(h.addr)
}

func (h *house) unsynced() int { return h.db.(*mem.DB).Unsynced() }

func (c *Client) keeps() int {
	c.kept.mu.Lock()
	defer c.kept.mu.Unlock()
	return len(c.kept.list)
}

// diary does one of each change, and notes what it was told.
type diary struct {
	names map[string]vfs.Attr // below vfs.Root, by path
	data  map[vfs.Ino]string
	xattr map[vfs.Ino]string
	temp  vfs.Ino
}

func (h *house) writeDiary(c *Client) *diary {
	h.Helper()
	y := &diary{names: make(map[string]vfs.Attr), data: make(map[vfs.Ino]string), xattr: make(map[vfs.Ino]string)}
	var d, f, g, l, a vfs.Attr
	h.ok(c.Mkdir(bg, root, vfs.Root, "d", 0o751, &d))
	h.ok(c.Mkdir(bg, root, d.Ino, "e", 0o700, &a))
	h.ok(c.Rmdir(bg, root, d.Ino, "e"))
	h.ok(c.Create(bg, root, vfs.Root, "f", 0o640, &f))
	_, err := c.Commit(bg, nil, []meta.FileWrite{{Ino: f.Ino, SetInline: true, Inline: []byte("hello"), Size: 5, Mtime: vfs.Time{Sec: 1_900_000_000}, Base: &meta.FileBase{}}})
	h.ok(err)
	y.data[f.Ino] = "hello"
	h.ok(c.SetAttr(bg, root, f.Ino, &vfs.SetAttr{Valid: vfs.SetMode | vfs.SetMtimeNow, Mode: 0o604}, &a))
	h.ok(c.SetXattr(bg, root, f.Ino, "user.x", []byte("y"), 0))
	h.ok(c.SetXattr(bg, root, f.Ino, "user.z", []byte("w"), 0))
	h.ok(c.RemoveXattr(bg, root, f.Ino, "user.z"))
	y.xattr[f.Ino] = "y"
	h.ok(c.Link(bg, root, f.Ino, d.Ino, "second", &a))
	h.ok(c.Rename(bg, root, vfs.Root, "f", vfs.Root, "renamed", 0, &a))
	h.ok(c.Mknod(bg, root, d.Ino, "g", syscall.S_IFREG|0o600, 0, &g))
	h.ok(c.Mknod(bg, root, d.Ino, "open", syscall.S_IFREG|0o600, 0, &a))
	c.Open(a.Ino)
	open := a.Ino
	h.ok(c.Unlink(bg, root, d.Ino, "open", &a))
	h.ok(c.Unlink(bg, root, d.Ino, "g", &a))
	h.ok(c.Mknod(bg, root, d.Ino, "g", syscall.S_IFREG|0o600, 0, &g))
	h.ok(c.Symlink(bg, root, d.Ino, "l", "target", &l))
	h.ok(c.Tmpfile(bg, root, d.Ino, 0o600, true, &a))
	h.ok(c.Link(bg, root, a.Ino, d.Ino, "was temporary", &a))
	h.ok(c.Tmpfile(bg, root, d.Ino, 0o600, true, &a))
	y.temp = a.Ino
	for path, at := range map[string]struct {
		dir  vfs.Ino
		name string
	}{
		"d": {vfs.Root, "d"}, "renamed": {vfs.Root, "renamed"}, "d/second": {d.Ino, "second"}, "d/g": {d.Ino, "g"}, "d/l": {d.Ino, "l"},
		"d/was temporary": {d.Ino, "was temporary"},
	} {
		h.ok(c.Lookup(bg, root, at.dir, at.name, &a))
		y.names[path] = a
	}
	h.ok(c.GetAttr(bg, root, open, &a))
	y.names["#open"] = a
	h.ok(c.GetAttr(bg, root, y.temp, &a))
	y.names["#temp"] = a
	return y
}

// read compares what a client sees with what was noted.
func (y *diary) read(h *house, who string, c *Client) {
	h.Helper()
	for path, want := range y.names {
		var a vfs.Attr
		if strings.HasPrefix(path, "#") {
			h.ok(c.GetAttr(bg, root, want.Ino, &a))
		} else {
			a.Ino = vfs.Root
			for name := range strings.SplitSeq(path, "/") {
				h.ok(c.Lookup(bg, root, a.Ino, name, &a))
			}
		}
		if a != want {
			h.Errorf("%s sees %s as\n%+v, it was\n%+v", who, path, a, want)
		}
	}
	for ino, want := range y.data {
		if data, ok, err := c.Inline(bg, ino); err != nil || !ok || string(data) != want {
			h.Errorf("%s reads %q, %v, %v", who, data, ok, err)
		}
	}
	for ino, want := range y.xattr {
		if v, err := c.GetXattr(bg, root, ino, "user.x"); err != nil || string(v) != want {
			h.Errorf("%s: attribute %q, %v", who, v, err)
		}
		if _, err := c.GetXattr(bg, root, ino, "user.z"); vfs.ErrnoOf(err) != syscall.ENODATA {
			h.Errorf("%s: removed attribute: %v", who, err)
		}
	}
	n := 0
	var d vfs.Attr
	h.ok(c.Lookup(bg, root, vfs.Root, "d", &d))
	h.ok(c.ReadDir(bg, root, d.Ino, 0, false, func(*vfs.DirEntry) bool { n++; return true }))
	if n != 4 {
		h.Errorf("%s: %d names in d", who, n)
	}
}

// TestAgain: whatever part of the changes that were acknowledged a crash of the server
// takes back, afterwards they are as they were, to the inode number and the time.
func TestAgain(t *testing.T) {
	step := 1
	if testing.Short() {
		step = 5
	}
	for survive := 0; ; survive += step {
		h, p := newCrashHouse(t, lazy)
		c, b := h.dial(through(p)), h.dial()
		h.ok(c.Sync(bg))
		y := h.writeDiary(c)
		n := h.unsynced()
		if kept := c.keeps(); kept < 20 {
			t.Fatalf("%d changes are kept", kept)
		}
		h.crash(survive, p)
		p.Set(testserver.Fault{})
		y.read(h, "its author", c)
		h.ok(c.Sync(bg))
		if kept := c.keeps(); kept != 0 {
			t.Fatalf("%d changes are kept after a sync", kept)
		}
		y.read(h, "another", b)
		h.crash(0, p)
		p.Set(testserver.Fault{})
		y.read(h, "another", b)
		y.read(h, "its author", c)
		h.ok(c.Sync(bg))
		if survive >= n {
			break
		}
	}
}

// TestAgainCuts is TestAgain while the connection breaks and the server dies in the
// middle of it.
func TestAgainCuts(t *testing.T) {
	h, p := newCrashHouse(t, lazy)
	c, b := h.dial(through(p)), h.dial()
	y := h.writeDiary(c)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 20 {
		h.crash(0, p)
		f := testserver.Fault{CutRequest: 200 + r.Int64N(3000)}
		if i%2 == 0 {
			f = testserver.Fault{CutAnswer: 200 + r.Int64N(3000)}
		}
		p.Set(f)
		h.eventually("it has come as far as that", func() bool { return h.s.connections.Load() > 3 || h.s.restored.Load() > 1 })
	}
	p.Set(testserver.Fault{})
	y.read(h, "its author", c)
	y.read(h, "another", b)
	h.ok(c.Sync(bg))
}

// TestShown: what another client has seen survives without its author.
func TestShown(t *testing.T) {
	looks := map[string]func(h *house, b *Client, y *diary){
		"lookup": func(h *house, b *Client, y *diary) { h.ok(b.Lookup(bg, root, vfs.Root, "d", new(vfs.Attr))) },
		"list": func(h *house, b *Client, y *diary) {
			h.ok(b.ReadDir(bg, root, y.names["d"].Ino, 0, true, func(*vfs.DirEntry) bool { return true }))
		},
		"stat": func(h *house, b *Client, y *diary) { h.ok(b.GetAttr(bg, root, y.names["d/g"].Ino, new(vfs.Attr))) },
		"absence": func(h *house, b *Client, y *diary) {
			h.want(b.Lookup(bg, root, vfs.Root, "f", new(vfs.Attr)), syscall.ENOENT)
		},
		"failure": func(h *house, b *Client, y *diary) {
			h.want(b.Mknod(bg, root, vfs.Root, "renamed", syscall.S_IFREG, 0, new(vfs.Attr)), syscall.EEXIST)
		},
		"not empty": func(h *house, b *Client, y *diary) { h.want(b.Rmdir(bg, root, vfs.Root, "d"), syscall.ENOTEMPTY) },
		"change": func(h *house, b *Client, y *diary) {
			h.ok(b.Mknod(bg, root, vfs.Root, "other", syscall.S_IFREG, 0, new(vfs.Attr)))
			if b.keeps() != 0 {
				h.Error("a change that depends on another client's is not durable")
			}
		},
		"read-only": func(h *house, b *Client, y *diary) {
			r := h.dial(func(c *ClientConfig) { c.Hello.ReadOnly = true })
			h.ok(r.GetAttr(bg, root, y.names["d/g"].Ino, new(vfs.Attr)))
		},
	}
	for name, look := range looks {
		t.Run(name, func(t *testing.T) {
			h, p := newCrashHouse(t, lazy)
			h.grace = time.Millisecond
			c, b := h.dial(through(p)), h.dial()
			h.ok(c.Sync(bg))
			y := h.writeDiary(c)
			for path := range y.names {
				if strings.HasPrefix(path, "#") { // they go with the session
					delete(y.names, path)
				}
			}
			if h.unsynced() == 0 {
				t.Fatal("everything is durable already")
			}
			look(h, b, y)
			if n := h.unsynced(); n > 0 {
				t.Errorf("%d commits are not durable", n)
			}
			h.eventually("the author knows", func() bool { return c.keeps() == 0 })
			h.crash(0, p) // and the author stays away
			y.read(h, "another", b)
			p.Set(testserver.Fault{})
			h.ok(c.Sync(bg))
		})
	}
}

// TestAgainWaits: nobody looks before all have made again what they had done.
func TestAgainWaits(t *testing.T) {
	h, p := newCrashHouse(t, lazy)
	c, b := h.dial(through(p)), h.dial()
	h.file(b, vfs.Root, "b")
	h.ok(b.Sync(bg))
	f := h.file(c, vfs.Root, "f")
	h.crash(0, p)
	got := make(chan string, 4)
	go func() {
		var a vfs.Attr
		err := b.Lookup(bg, root, vfs.Root, "f", &a)
		got <- fmt.Sprint(err, a.Ino)
	}()
	go func() {
		var a vfs.Attr
		err := b.Mknod(bg, root, vfs.Root, "f", syscall.S_IFREG, 0, &a)
		got <- fmt.Sprint(errors.Is(err, syscall.EEXIST))
	}()
	h.eventually("the other is back", func() bool { return h.s.restored.Load() == 1 })
	h.eventually("its calls have come", func() bool { return h.s.calls.Load() >= 2 })
	select {
	case x := <-got:
		t.Errorf("an answer %q before the author was back", x)
	default:
	}
	p.Set(testserver.Fault{})
	seen := map[string]bool{<-got: true, <-got: true}
	if !seen[fmt.Sprint(nil, f)] || !seen["true"] {
		t.Error(seen)
	}
	h.ok(c.Sync(bg))
}

// TestShutDown: a server that goes down properly leaves nothing to be made again, and
// nobody waits for those who are not back.
func TestShutDown(t *testing.T) {
	h, p := newCrashHouse(t, lazy)
	c, b := h.dial(through(p)), h.dial()
	f := h.file(c, vfs.Root, "f")
	p.Set(testserver.Fault{Refuse: true})
	if c.keeps() == 0 {
		t.Fatal("it is durable already")
	}
	h.stop()
	h.start(h.addr)
	if h.e.Unsettled() {
		t.Error("everybody waits")
	}
	var a vfs.Attr
	h.ok(b.Lookup(bg, root, vfs.Root, "f", &a))
	if a.Ino != f {
		t.Error(a)
	}
	p.Set(testserver.Fault{})
	h.ok(c.Sync(bg))
	if n := c.keeps(); n > 0 {
		t.Errorf("%d calls are kept", n)
	}
}

// TestAgainLost: who cannot make its changes again is told, and nobody has seen them.
func TestAgainLost(t *testing.T) {
	h, p := newCrashHouse(t, lazy)
	h.grace = 300 * time.Millisecond
	c, b := h.dial(through(p)), h.dial()
	kept := h.file(c, vfs.Root, "kept")
	h.ok(c.Sync(bg))
	var a vfs.Attr
	f := h.file(c, vfs.Root, "f")
	h.ok(c.SetAttr(bg, root, kept, &vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o600}, &a))
	h.crash(0, p)
	h.want(b.Lookup(bg, root, vfs.Root, "f", &a), syscall.ENOENT) // waits for the grace
	h.ok(b.GetAttr(bg, root, kept, &a))
	if a.Mode&0o777 == 0o600 {
		t.Error("a change that is lost is seen")
	}
	p.Set(testserver.Fault{})
	h.ok(c.GetAttr(bg, root, kept, &a)) // it goes on
	for _, ino := range []vfs.Ino{f, kept} {
		err := c.SyncInode(bg, ino)
		h.want(err, syscall.EIO)
		if !errors.Is(err, errLost) {
			t.Error(err)
		}
		h.ok(c.SyncInode(bg, ino)) // once
	}
	h.want(c.Sync(bg), syscall.EIO) // the directory
	h.ok(c.Sync(bg))
	g := h.file(c, vfs.Root, "g")
	if g == f {
		t.Error("an inode number is used twice")
	}
	h.ok(c.SyncInode(bg, g))
}

// TestAgainForged: only what was acknowledged comes again, to a session that is not
// back yet, and within its rights.
func TestAgainForged(t *testing.T) {
	h, p := newCrashHouse(t, lazy)
	c, b := h.dial(through(p)), h.dial()
	other := h.file(b, vfs.Root, "other")
	h.ok(b.Sync(bg))
	var a vfs.Attr
	for i := range 4 {
		h.file(c, vfs.Root, fmt.Sprint("f", i))
	}
	c.kept.mu.Lock()
	for i := range c.kept.list {
		frame := c.kept.list[i].frame
		switch i {
		case 0: // another name
			frame[len(frame)-3] ^= 1
		case 1: // another inode
			frame[len(frame)-len(c.kept.list[i].frame[c.kept.list[i].call:])-receiptMAC-1] = byte(other)
		case 2: // another signature
			frame[c.kept.list[i].call-1] ^= 1
		}
	}
	late := c.kept.list[3]
	late.frame = bytes.Clone(late.frame)
	c.kept.mu.Unlock()
	h.crash(0, p)
	p.Set(testserver.Fault{})
	h.want(c.Sync(bg), syscall.EIO)
	n := 0
	h.ok(b.ReadDir(bg, root, vfs.Root, 0, false, func(*vfs.DirEntry) bool { n++; return true }))
	if n != 2 {
		t.Errorf("%d names", n)
	}
	h.ok(b.Lookup(bg, root, vfs.Root, "f3", &a))
	// Too late: the session is back.
	h.s.mu.Lock()
	ss := h.s.sessions[sessionKey{"test", c.session}]
	h.s.mu.Unlock()
	binary.LittleEndian.PutUint64(late.frame[late.call+callSeq-callOp:], 1<<40)
	ss.again = nil
	h.ok(ss.redo(nil, late.frame))
	if len(ss.again.failed) != 1 || ss.again.failed[0].err != errAgainLate {
		t.Errorf("%+v", ss.again)
	}
}

// TestAgainLimits: what fitted into a quota fits again, even if it is full.
func TestAgainLimits(t *testing.T) {
	h, p := newCrashHouse(t, lazy)
	h.ok(h.e.UpdateSettings(bg, func(f *meta.Format) error { f.QuotaInodes = 6; return nil }))
	c, b := h.dial(through(p)), h.dial()
	var a vfs.Attr
	var d [2]vfs.Attr
	h.ok(b.Mkdir(bg, root, vfs.Root, "0", 0o755, &d[0]))
	h.ok(b.Mkdir(bg, root, vfs.Root, "1", 0o755, &d[1]))
	for i := range 3 {
		h.file(b, d[0].Ino, fmt.Sprint(i))
	}
	h.ok(b.Sync(bg))
	h.want(c.Mknod(bg, root, d[1].Ino, "f", syscall.S_IFREG, 0, &a), syscall.ENOSPC)
	h.ok(b.Unlink(bg, root, d[0].Ino, "0", &a))
	f := h.file(c, d[1].Ino, "f")
	if c.keeps() == 0 {
		t.Fatal("it is durable")
	}
	h.crash(0, p)
	p.Set(testserver.Fault{})
	h.ok(c.Lookup(bg, root, d[1].Ino, "f", &a))
	if a.Ino != f {
		t.Error(a)
	}
	h.want(c.Mknod(bg, root, d[1].Ino, "g", syscall.S_IFREG, 0, &a), syscall.ENOSPC)
	h.ok(c.Sync(bg))
}

// TestStrict: nothing is acknowledged early where that is not wanted.
func TestStrict(t *testing.T) {
	h := newHouse(t, lazy)
	h.stop()
	h.db = h.db.(*mem.DB).CrashAt(0)
	h.strict = true
	h.start("127.0.0.1:0")
	c := h.dial()
	h.file(c, vfs.Root, "f")
	if n := h.unsynced(); n > 0 || c.keeps() > 0 {
		t.Errorf("%d commits are not durable, %d calls kept", n, c.keeps())
	}
	h.ok(c.Sync(bg))
}

// TestKeptBound: a client keeps no more than it may.
func TestKeptBound(t *testing.T) {
	h := newHouse(t, lazy)
	c := h.dial()
	var a vfs.Attr
	set := vfs.SetAttr{Valid: vfs.SetMode}
	most := 0
	for i := range maxKept + 100 {
		set.Mode = uint32(i) & 0o777
		h.ok(c.SetAttr(bg, root, vfs.Root, &set, &a))
		most = max(most, c.keeps())
	}
	if most < maxKept/2 || most > maxKept {
		t.Errorf("%d calls were kept", most)
	}
	ctx, cancel := context.WithTimeout(bg, 30*time.Second)
	defer cancel()
	h.ok(c.Sync(ctx))
	if n := c.keeps(); n != 0 {
		t.Errorf("%d calls are kept after a sync", n)
	}
}
