package vfstest

import (
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/vfs"
)

// testLeases checks vfs.LeaseFS with two trees of one storage: whoever keeps what is
// leased is told of each change of the other before it is made, and the change waits.
func testLeases(t *testing.T, f Factory) {
	one, two := f.Pair(t)
	a, b := newEnv(t, one), newEnv(t, two)
	a.own("leases")
	b.dir = a.dir
	l, ok := one.(vfs.LeaseFS)
	if !ok || !vfs.PolicyOf(one).Leased {
		t.Skip("the tree is no vfs.LeaseFS, or not one that is in force")
	}
	recalls := make(chan vfs.Change, 1000)
	defer l.Recalls(func(c vfs.Change) {
		if c.Ack == nil {
			t.Error("a recall without Ack")
			return
		}
		recalls <- c
	})()

	file := a.file(a.dir, "f", []byte("0123456789"))
	open, err := one.Open(a.ctx, a.c, file.Ino, syscall.O_RDWR)
	a.ok(err, "open")
	defer open.Close()

	// read makes calls that bring leases, until there are those wanted.
	read := func(ino vfs.Ino, want vfs.Leases) {
		t.Helper()
		for begin := time.Now(); ; time.Sleep(time.Millisecond) {
			var attr vfs.Attr
			switch {
			case want.Has(vfs.LeaseNames):
				err := one.Lookup(a.ctx, a.c, ino, "f", &attr)
				if err == nil {
					err = one.GetAttr(a.ctx, a.c, ino, &attr)
				}
				a.ok(err, "lookup")
			default:
				_, err := open.ReadAt(a.ctx, make([]byte, 4), 0)
				if err == nil {
					err = one.GetAttr(a.ctx, a.c, ino, &attr)
				}
				a.ok(err, "read")
			}
			if l.Leased(ino).Has(want) {
				return
			}
			if time.Since(begin) > 2*time.Minute {
				t.Fatalf("no leases on inode %d: have %b, want %b", ino, l.Leased(ino), want)
			}
		}
	}
	// waits does a change of the other tree and checks that it is recalled first.
	waits := func(what string, is func(c vfs.Change) bool, change func() error) {
		t.Helper()
		for len(recalls) > 0 { // of what was done to set up
			c := <-recalls
			c.Ack.Done()
		}
		done := make(chan error, 1)
		go func() { done <- change() }()
		found := false
		for {
			select {
			case c := <-recalls:
				if is(c) && !found {
					found = true
					select {
					case err := <-done:
						t.Fatalf("%s: done before its recall was acknowledged: %v", what, err)
					case <-time.After(20 * time.Millisecond):
					}
				}
				c.Ack.Done()
				continue
			case err := <-done:
				a.ok(err, what)
			case <-time.After(2 * time.Minute):
				t.Fatalf("%s: it does not go on", what)
			}
			break
		}
		if !found {
			t.Fatalf("%s: there was no recall", what)
		}
	}
	names := func(name string) func(c vfs.Change) bool {
		return func(c vfs.Change) bool {
			return c.Kind == vfs.ChangeEntry && c.Parent == a.dir && (c.Name == name || c.Name == "") || c.Kind == vfs.ChangeAll
		}
	}
	attributes := func(c vfs.Change) bool {
		return (c.Kind == vfs.ChangeAttr || c.Kind == vfs.ChangeData) && c.Ino == file.Ino || c.Kind == vfs.ChangeAll
	}
	data := func(c vfs.Change) bool {
		return c.Kind == vfs.ChangeData && c.Ino == file.Ino || c.Kind == vfs.ChangeAll
	}
	var attr vfs.Attr

	read(a.dir, vfs.LeaseNames)
	waits("create", names("new"), func() error {
		return two.Mknod(b.ctx, b.c, b.dir, "new", syscall.S_IFREG|0o644, 0, &vfs.Attr{})
	})
	a.ok(one.Lookup(a.ctx, a.c, a.dir, "new", &attr), "lookup of what the other made")

	read(a.dir, vfs.LeaseNames)
	waits("unlink", names("new"), func() error { return two.Unlink(b.ctx, b.c, b.dir, "new") })
	a.want(one.Lookup(a.ctx, a.c, a.dir, "new", &attr), "lookup of what the other removed", syscall.ENOENT)

	read(file.Ino, vfs.LeaseAttr)
	waits("chmod", attributes, func() error {
		return two.SetAttr(b.ctx, b.c, file.Ino, &vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o600}, &vfs.Attr{})
	})
	a.ok(one.GetAttr(a.ctx, a.c, file.Ino, &attr), "getattr")
	if attr.Mode&0o7777 != 0o600 {
		t.Errorf("mode %o after the other's chmod", attr.Mode)
	}

	read(file.Ino, vfs.LeaseData)
	waits("write and flush", data, func() error {
		g, err := two.Open(b.ctx, b.c, file.Ino, syscall.O_RDWR)
		if err != nil {
			return err
		}
		defer g.Close()
		if _, err := g.WriteAt(b.ctx, []byte("ab"), 2); err != nil {
			return err
		}
		return g.Flush(b.ctx)
	})
	if got := string(a.read(open, 0, 20)); got != "01ab456789" {
		t.Errorf("%q after the other's write", got)
	}

	read(file.Ino, vfs.LeaseData)
	waits("truncate", data, func() error {
		return two.SetAttr(b.ctx, b.c, file.Ino, &vfs.SetAttr{Valid: vfs.SetSize, Size: 3}, &vfs.Attr{})
	})
	if got := string(a.read(open, 0, 20)); got != "01a" {
		t.Errorf("%q after the other's truncation", got)
	}

	// What the tree does itself is no recall.
	read(a.dir, vfs.LeaseNames)
	for len(recalls) > 0 {
		c := <-recalls
		c.Ack.Done()
	}
	a.file(a.dir, "own", nil)
	select {
	case c := <-recalls:
		c.Ack.Done()
		if names("own")(c) && c.Kind == vfs.ChangeEntry {
			t.Errorf("an own change was recalled: %+v", c)
		}
	case <-time.After(10 * time.Millisecond):
	}
}
