package vfstest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/vfs"
)

var abilityTests = []test{
	{"Tmpfile", []Feature{Tmpfile, UnlinkedOpen}, func(e *env) {
		tfs, ok := e.fs.(vfs.TmpfileFS)
		if !ok {
			e.Fatal("the tree is no vfs.TmpfileFS and does not say so in Lacks")
		}
		var a, b vfs.Attr
		f, err := tfs.Tmpfile(e.ctx, e.c, e.dir, 0o640, syscall.O_RDWR, &a)
		e.ok(err, "tmpfile")
		if a.Nlink != 0 || !a.IsRegular() || e.has(Owners) && a.Mode&07777 != 0o640 {
			e.Fatalf("%+v", a)
		}
		if l := e.list(e.dir); len(l) != 0 {
			e.Fatalf("listed: %v", l)
		}
		e.write(f, []byte("quiet"), 0)
		if e.has(HardLinks) {
			e.ok(e.fs.Link(e.ctx, e.c, a.Ino, e.dir, "named", &b), "link")
			if b.Ino != a.Ino || b.Nlink != 1 {
				e.Fatalf("%+v", b)
			}
			e.close(f)
			if got := e.content(e.lookup(e.dir, "named").Ino); string(got) != "quiet" {
				e.Fatalf("%q", got)
			}
			f, err = tfs.Tmpfile(e.ctx, e.c, e.dir, 0o640, syscall.O_RDWR, &a)
			e.ok(err, "tmpfile")
		}
		e.close(f)
		e.want(e.fs.GetAttr(e.ctx, e.c, a.Ino, &b), "getattr of a nameless file after close", syscall.ESTALE, syscall.ENOENT)
	}},
	{"OpenInode", nil, func(e *env) {
		s, ok := e.fs.(vfs.StatelessFS)
		if !ok {
			e.Skip("the tree is no vfs.StatelessFS")
		}
		a := e.file(e.dir, "f", []byte("before"))
		f, err := s.OpenInode(e.ctx, a.Ino)
		e.ok(err, "open by inode")
		g := e.open(a.Ino, syscall.O_RDWR)
		e.write(f, []byte("B"), 0)
		if got := e.read(g, 0, 10); string(got) != "Before" {
			e.Fatalf("%q", got)
		}
		e.write(g, []byte("after!!"), 0)
		if got := e.read(f, 0, 10); string(got) != "after!!" {
			e.Fatalf("%q", got)
		}
		e.close(g)
		e.write(f, []byte("A"), 0)
		e.ok(f.Sync(e.ctx, false), "sync")
		e.ok(f.Close(), "close")
		if got := e.content(a.Ino); string(got) != "After!!" {
			e.Fatalf("%q", got)
		}
		_, err = s.OpenInode(e.ctx, vfs.MaxIno-99)
		e.want(err, "open of no inode", syscall.ESTALE)
	}},
	{"Backing", nil, func(e *env) {
		a := e.file(e.dir, "f", []byte("passed through"))
		f := e.open(a.Ino, syscall.O_RDONLY)
		defer f.Close()
		p, ok := f.(vfs.PassthroughFile)
		if !ok {
			e.Skip("its files are no vfs.PassthroughFile")
		}
		back := p.Backing()
		if back == nil {
			e.Skip("this one has no file behind it")
		}
		got, err := io.ReadAll(io.NewSectionReader(back, 0, 100))
		if err != nil || string(got) != "passed through" {
			e.Fatalf("%q, %v", got, err)
		}
	}},
	{"Locks", nil, testLocks},
	{"Feed", []Feature{Feed}, testFeed},
}

func testLocks(e *env) {
	l, ok := e.fs.(vfs.LockFS)
	if !ok {
		e.Skip("the tree is no vfs.LockFS")
	}
	f := e.file(e.dir, "f", nil).Ino
	lock := func(owner uint64, typ vfs.LockType, start, end uint64) vfs.Lock {
		return vfs.Lock{Kind: vfs.LockPOSIX, Type: typ, Owner: owner, PID: uint32(owner), Start: start, End: end}
	}
	e.ok(l.SetLock(e.ctx, f, lock(1, vfs.LockWrite, 10, 19), false), "lock")
	e.want(l.SetLock(e.ctx, f, lock(2, vfs.LockRead, 15, 25), false), "conflicting lock", syscall.EAGAIN)
	e.ok(l.SetLock(e.ctx, f, lock(2, vfs.LockRead, 20, vfs.LockEOF), false), "lock beside it")
	e.ok(l.SetLock(e.ctx, f, lock(3, vfs.LockRead, 20, 30), false), "shared lock")
	got, err := l.GetLock(e.ctx, f, lock(3, vfs.LockWrite, 0, 12))
	e.ok(err, "getlk")
	if got.Type != vfs.LockWrite || got.Start != 10 || got.End != 19 || got.PID != 1 {
		e.Errorf("%+v", got)
	}
	got, err = l.GetLock(e.ctx, f, lock(3, vfs.LockWrite, 0, 9))
	e.ok(err, "getlk")
	if got.Type != vfs.LockUnlock {
		e.Errorf("%+v", got)
	}
	// flock locks are a world of their own.
	whole := vfs.Lock{Kind: vfs.LockFlock, Type: vfs.LockWrite, Owner: 9, End: vfs.LockEOF}
	e.ok(l.SetLock(e.ctx, f, whole, false), "flock")
	whole.Owner = 10
	e.want(l.SetLock(e.ctx, f, whole, false), "second flock", syscall.EAGAIN, syscall.EWOULDBLOCK)
	// Splitting.
	e.ok(l.SetLock(e.ctx, f, lock(1, vfs.LockUnlock, 13, 15), false), "unlock in the middle")
	e.ok(l.SetLock(e.ctx, f, lock(4, vfs.LockWrite, 13, 15), false), "lock of the gap")
	e.want(l.SetLock(e.ctx, f, lock(4, vfs.LockWrite, 12, 12), false), "lock before the gap", syscall.EAGAIN)
	e.want(l.SetLock(e.ctx, f, lock(4, vfs.LockWrite, 16, 16), false), "lock behind the gap", syscall.EAGAIN)
	// Waiting.
	done := make(chan error, 1)
	go func() { done <- l.SetLock(e.ctx, f, lock(5, vfs.LockWrite, 10, 12), true) }()
	select {
	case err := <-done:
		e.Fatalf("a conflicting lock was given: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	e.ok(l.ReleaseLocks(e.ctx, f, 1, vfs.LockPOSIX), "release")
	select {
	case err := <-done:
		e.ok(err, "lock after release")
	case <-time.After(time.Minute):
		e.Fatal("the waiter was not woken")
	}
	// Interrupted waiting.
	ctx, cancel := context.WithCancel(e.ctx)
	go func() { done <- l.SetLock(ctx, f, lock(6, vfs.LockWrite, 10, 12), true) }()
	cancel()
	select {
	case err := <-done:
		e.want(err, "interrupted wait", syscall.EINTR)
	case <-time.After(time.Minute):
		e.Fatal("the wait was not interrupted")
	}
	// Deadlock: 5 holds 10–12 and waits for 13–15 of 4, which then wants 10.
	ctx, cancel = context.WithCancel(e.ctx)
	defer cancel()
	go func() { done <- l.SetLock(ctx, f, lock(5, vfs.LockWrite, 13, 15), true) }()
	deadlock := make(chan error, 1)
	go func() { // whichever waits second is told
		deadlock <- l.SetLock(ctx, f, lock(4, vfs.LockWrite, 10, 10), true)
	}()
	select {
	case err := <-done:
		e.want(err, "deadlock", syscall.EDEADLK)
		done <- nil
	case err := <-deadlock:
		e.want(err, "deadlock", syscall.EDEADLK)
		deadlock <- nil
	case <-time.After(time.Minute):
		e.Fatal("a deadlock was not found")
	}
	cancel()
	<-done
	<-deadlock
	for owner := range uint64(11) {
		e.ok(l.ReleaseLocks(e.ctx, f, owner, vfs.LockPOSIX), "release")
		e.ok(l.ReleaseLocks(e.ctx, f, owner, vfs.LockFlock), "release")
	}
}

func testFeed(e *env) {
	w, ok := e.fs.(vfs.Watchable)
	if !ok {
		e.Fatal("the tree is no vfs.Watchable and does not say so in Lacks")
	}
	var mu sync.Mutex
	var got []vfs.Change
	came := make(chan struct{}, 1)
	stop := w.Watch(func(c vfs.Change) {
		mu.Lock()
		got = append(got, c)
		mu.Unlock()
		select {
		case came <- struct{}{}:
		default:
		}
	})
	expect := func(what string, match func(vfs.Change) bool) {
		e.Helper()
		deadline := time.After(time.Minute)
		for {
			mu.Lock()
			for i, c := range got {
				if match(c) {
					if c.Remote {
						e.Errorf("%s: an own change is called remote: %+v", what, c)
					}
					got = got[i+1:]
					mu.Unlock()
					return
				}
			}
			mu.Unlock()
			select {
			case <-came:
			case <-deadline:
				e.Fatalf("%s: no such change among %+v", what, got)
			}
		}
	}
	entry := func(name string, ino vfs.Ino) func(vfs.Change) bool {
		return func(c vfs.Change) bool {
			return c.Kind == vfs.ChangeEntry && c.Parent == e.dir && c.Name == name && c.Ino == ino
		}
	}
	f, a := e.create(e.dir, "f")
	expect("create", entry("f", a.Ino))
	e.write(f, []byte("hello"), 3)
	e.ok(f.Sync(e.ctx, false), "sync")
	expect("write", func(c vfs.Change) bool {
		return c.Kind == vfs.ChangeData && c.Ino == a.Ino && c.Off <= 3 && (c.Len < 0 || c.Off+c.Len >= 8)
	})
	if e.has(Owners) {
		e.set(a.Ino, vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o600})
		expect("chmod", func(c vfs.Change) bool { return c.Kind == vfs.ChangeAttr && c.Ino == a.Ino })
	}
	e.ok(e.rename(e.dir, "f", e.dir, "g", 0), "rename")
	// In either order.
	expect("rename", func(c vfs.Change) bool { return entry("f", 0)(c) || entry("g", a.Ino)(c) })
	expect("rename", func(c vfs.Change) bool { return entry("f", 0)(c) || entry("g", a.Ino)(c) })
	e.close(f)
	e.unlink(e.dir, "g")
	expect("unlink", entry("g", 0))
	d := e.mkdir(e.dir, "d")
	expect("mkdir", entry("d", d.Ino))
	stop()
	mu.Lock()
	got = nil
	mu.Unlock()
	e.file(e.dir, "quiet", nil)
	mu.Lock()
	defer mu.Unlock()
	if len(got) != 0 {
		e.Errorf("changes after the end of the watch: %+v", got)
	}
}

// testClosed: a closed tree serves nothing, and does not fall over.
func testClosed(e *env) {
	f, a := e.create(vfs.Root, "f")
	e.write(f, []byte("x"), 0)
	e.ok(e.fs.Close(), "close of the tree")
	if _, err := f.ReadAt(e.ctx, make([]byte, 1), 0); err == nil {
		e.Error("a File of a closed tree can be read")
	} else {
		e.want(err, "read", syscall.EIO, syscall.EBADF)
	}
	if _, err := f.WriteAt(e.ctx, []byte("y"), 0); err == nil {
		e.Error("a File of a closed tree can be written")
	} else {
		e.want(err, "write", syscall.EIO, syscall.EBADF, syscall.EROFS)
	}
	var b vfs.Attr
	if err := e.fs.GetAttr(e.ctx, e.c, a.Ino, &b); err == nil {
		e.Error("a closed tree answers")
	}
	f.Close()
}

// testReopen: what was synced or closed with is there again, with its numbers.
func testReopen(t *testing.T, f Factory) {
	e := newEnv(t, f.New(t))
	e.lacks = f.Lacks
	data := pattern(1<<20+7, 21)
	d := e.mkdir(vfs.Root, "d")
	want := []vfs.Attr{d, e.file(d.Ino, "big", data), e.file(d.Ino, "small", []byte("s")), e.file(d.Ino, "empty", nil)}
	if e.has(Symlinks) {
		var a vfs.Attr
		e.ok(e.fs.Symlink(e.ctx, e.c, d.Ino, "l", "target", &a), "symlink")
	}
	if e.has(Xattrs) {
		e.ok(e.xattrs().SetXattr(e.ctx, e.c, want[1].Ino, "user.x", []byte("v"), 0), "setxattr")
	}
	if e.has(UnlinkedOpen) { // open and nameless at the end: must not come back
		g, _ := e.create(d.Ino, "gone")
		e.unlink(d.Ino, "gone")
		defer g.Close()
	}
	for i := range want {
		want[i] = e.attr(want[i].Ino)
	}
	e.fs = f.Reopen(t, e.fs)
	d = e.lookup(vfs.Root, "d")
	for i, name := range []string{"", "big", "small", "empty"} {
		a := d
		if name != "" {
			a = e.lookup(d.Ino, name)
		}
		a.Atime, a.Blocks = want[i].Atime, want[i].Blocks
		if a != want[i] {
			t.Errorf("%q was %+v\nis %+v", name, want[i], a)
		}
	}
	if !bytes.Equal(e.content(want[1].Ino), data) {
		t.Error("data differ")
	}
	if e.has(Symlinks) {
		if got, err := e.fs.Readlink(e.ctx, e.c, e.lookup(d.Ino, "l").Ino); err != nil || got != "target" {
			t.Errorf("link to %q, %v", got, err)
		}
	}
	if e.has(Xattrs) {
		if got, err := e.xattrs().GetXattr(e.ctx, e.c, want[1].Ino, "user.x"); err != nil || string(got) != "v" {
			t.Errorf("attribute %q, %v", got, err)
		}
	}
	e.absent(d.Ino, "gone")
}

// testReadOnly: everything can be read and nothing changed.
func testReadOnly(t *testing.T, f Factory) {
	e := newEnv(t, f.New(t))
	e.lacks = f.Lacks
	e.file(vfs.Root, "f", []byte("content"))
	e.mkdir(vfs.Root, "d")
	e.fs = f.ReadOnly(t, e.fs)
	if !vfs.PolicyOf(e.fs).ReadOnly {
		t.Error("the policy does not say read-only")
	}
	a := e.lookup(vfs.Root, "f")
	if got := e.content(a.Ino); string(got) != "content" {
		t.Fatalf("%q", got)
	}
	if n := len(e.list(vfs.Root)); n < 2 {
		t.Errorf("%d entries", n)
	}
	var b vfs.Attr
	set := vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o600}
	e.want(e.fs.SetAttr(e.ctx, e.c, a.Ino, &set, &b), "setattr", syscall.EROFS)
	e.want(e.fs.Mkdir(e.ctx, e.c, vfs.Root, "n", 0o755, &b), "mkdir", syscall.EROFS)
	e.want(e.fs.Mknod(e.ctx, e.c, vfs.Root, "n", syscall.S_IFREG|0o644, 0, &b), "mknod", syscall.EROFS)
	_, err := e.fs.Create(e.ctx, e.c, vfs.Root, "n", 0o644, syscall.O_RDWR, &b)
	e.want(err, "create", syscall.EROFS)
	e.want(e.fs.Symlink(e.ctx, e.c, vfs.Root, "n", "t", &b), "symlink", syscall.EROFS)
	e.want(e.fs.Link(e.ctx, e.c, a.Ino, vfs.Root, "n", &b), "link", syscall.EROFS)
	e.want(e.fs.Unlink(e.ctx, e.c, vfs.Root, "f"), "unlink", syscall.EROFS)
	e.want(e.fs.Rmdir(e.ctx, e.c, vfs.Root, "d"), "rmdir", syscall.EROFS)
	e.want(e.rename(vfs.Root, "f", vfs.Root, "n", 0), "rename", syscall.EROFS)
	_, err = e.fs.Open(e.ctx, e.c, a.Ino, syscall.O_RDWR)
	e.want(err, "open for writing", syscall.EROFS)
	if x, ok := e.fs.(vfs.XattrFS); ok {
		e.want(x.SetXattr(e.ctx, e.c, a.Ino, "user.x", nil, 0), "setxattr", syscall.EROFS)
		e.want(x.RemoveXattr(e.ctx, e.c, a.Ino, "user.x"), "removexattr", syscall.EROFS)
	}
	if got := e.lookup(vfs.Root, "f"); got.Mode != a.Mode || got.Size != a.Size {
		t.Errorf("was %+v, is %+v", a, got)
	}
	if errors.Is(e.fs.Sync(e.ctx), syscall.EROFS) {
		t.Error("sync of a read-only tree fails")
	}
}
