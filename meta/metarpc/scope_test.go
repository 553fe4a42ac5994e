package metarpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/vfs"
)

// Security: what a client can do that keeps to no rule but those of the wire. Client
// checks nothing of what is tested here, so it serves as the hand-made one.

var nobody = &vfs.Caller{UID: 1000, GID: 1000}

// outcome describes everything below a directory, as the server sees it.
func (g *gated) outcome(dir vfs.Ino) string {
	g.t.Helper()
	ctx := context.Background()
	var out strings.Builder
	var walk func(ino vfs.Ino, path string)
	walk = func(ino vfs.Ino, path string) {
		var a vfs.Attr
		if err := g.direct.GetAttr(ctx, nobody, ino, &a); err != nil {
			g.t.Fatal(err)
		}
		a.Atime = vfs.Time{}
		data, _, err := g.direct.Inline(ctx, ino)
		names, xerr := g.direct.ListXattr(ctx, nobody, ino)
		extents, eerr := g.direct.Extents(ctx, ino, 0, nil)
		fmt.Fprintf(&out, "%s %+v %q %v %v %v %v %v\n", path, a, data, err, names, xerr, extents, eerr)
		if a.Mode&syscall.S_IFMT != syscall.S_IFDIR {
			return
		}
		var entries []vfs.DirEntry
		if err := g.direct.ReadDir(ctx, nobody, ino, 0, false, func(x *vfs.DirEntry) bool {
			entries = append(entries, *x)
			return true
		}); err != nil {
			g.t.Fatal(err)
		}
		slices.SortFunc(entries, func(a, b vfs.DirEntry) int { return strings.Compare(a.Name, b.Name) })
		for _, x := range entries {
			walk(x.Ino, path+"/"+x.Name)
		}
	}
	walk(dir, "")
	return out.String()
}

// attempts are calls that name inodes, by op: each element is one way to name ino, the
// others being the client's own.
func attempts(c *Client, file, dir vfs.Ino) map[op][]func(ctx context.Context, ino vfs.Ino) error {
	var a vfs.Attr
	type try = func(ctx context.Context, ino vfs.Ino) error
	return map[op][]try{
		opStatFS:  {func(ctx context.Context, i vfs.Ino) error { var st vfs.StatFS; return c.StatFS(ctx, nobody, i, &st) }},
		opLookup:  {func(ctx context.Context, i vfs.Ino) error { return c.Lookup(ctx, nobody, i, "secret", &a) }, func(ctx context.Context, i vfs.Ino) error { return c.Lookup(ctx, nobody, i, "..", &a) }},
		opGetAttr: {func(ctx context.Context, i vfs.Ino) error { return c.GetAttr(ctx, nobody, i, &a) }},
		opSetAttr: {func(ctx context.Context, i vfs.Ino) error {
			return c.SetAttr(ctx, nobody, i, &vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o777}, &a)
		}, func(ctx context.Context, i vfs.Ino) error {
			return c.SetAttr(ctx, nobody, i, &vfs.SetAttr{Valid: vfs.SetSize}, &a)
		}},
		opReadlink: {func(ctx context.Context, i vfs.Ino) error { _, err := c.Readlink(ctx, nobody, i); return err }},
		opMknod: {func(ctx context.Context, i vfs.Ino) error {
			return c.Mknod(ctx, nobody, i, "new", syscall.S_IFREG, 0, &a)
		}},
		opCreate:  {func(ctx context.Context, i vfs.Ino) error { return c.Create(ctx, nobody, i, "new", 0o600, &a) }},
		opMkdir:   {func(ctx context.Context, i vfs.Ino) error { return c.Mkdir(ctx, nobody, i, "new", 0o777, &a) }},
		opSymlink: {func(ctx context.Context, i vfs.Ino) error { return c.Symlink(ctx, nobody, i, "new", "x", &a) }},
		opLink: {func(ctx context.Context, i vfs.Ino) error { return c.Link(ctx, nobody, i, dir, "stolen", &a) },
			func(ctx context.Context, i vfs.Ino) error { return c.Link(ctx, nobody, file, i, "new", &a) }},
		opTmpfile: {func(ctx context.Context, i vfs.Ino) error { return c.Tmpfile(ctx, nobody, i, 0o600, true, &a) }},
		opUnlink:  {func(ctx context.Context, i vfs.Ino) error { return c.Unlink(ctx, nobody, i, "secret", &a) }},
		opRmdir:   {func(ctx context.Context, i vfs.Ino) error { return c.Rmdir(ctx, nobody, i, "sub") }},
		opRename: {func(ctx context.Context, i vfs.Ino) error {
			return c.Rename(ctx, nobody, i, "secret", dir, "stolen", 0, &a)
		},
			func(ctx context.Context, i vfs.Ino) error { return c.Rename(ctx, nobody, dir, "f", i, "secret", 0, &a) },
			func(ctx context.Context, i vfs.Ino) error {
				return c.Rename(ctx, nobody, dir, "f", i, "secret", vfs.RenameExchange, &a)
			}},
		opReadDir: {func(ctx context.Context, i vfs.Ino) error {
			return c.ReadDir(ctx, nobody, i, 0, true, func(*vfs.DirEntry) bool { return true })
		}},
		opGetXattr: {func(ctx context.Context, i vfs.Ino) error { _, err := c.GetXattr(ctx, nobody, i, "user.a"); return err }},
		opSetXattr: {func(ctx context.Context, i vfs.Ino) error {
			return c.SetXattr(ctx, nobody, i, "user.b", []byte("x"), 0)
		}},
		opListXattr:   {func(ctx context.Context, i vfs.Ino) error { _, err := c.ListXattr(ctx, nobody, i); return err }},
		opRemoveXattr: {func(ctx context.Context, i vfs.Ino) error { return c.RemoveXattr(ctx, nobody, i, "user.a") }},
		opTouch:       {func(ctx context.Context, i vfs.Ino) error { return touch(ctx, c, i) }},
		opInline:      {func(ctx context.Context, i vfs.Ino) error { _, _, err := c.Inline(ctx, i); return err }},
		opExtents:     {func(ctx context.Context, i vfs.Ino) error { _, err := c.Extents(ctx, i, 0, nil); return err }},
		opCommit: {func(ctx context.Context, i vfs.Ino) error {
			_, err := c.Commit(ctx, nil, []meta.FileWrite{{Ino: i, SetInline: true, Inline: []byte("overwritten")}})
			return err
		}, func(ctx context.Context, i vfs.Ino) error {
			_, err := c.Commit(ctx, nil, []meta.FileWrite{{Ino: file, SetInline: true, Inline: []byte("mine")}, {Ino: i, SetInline: true, Inline: []byte("overwritten")}})
			return err
		}},
		opReplace: {func(ctx context.Context, i vfs.Ino) error {
			return c.Replace(ctx, i, 0, nil, []meta.Extent{{Len: 1}}, nil)
		}},
		opReserve:  {func(ctx context.Context, i vfs.Ino) error { return reserve(ctx, c, i) }},
		opAllocate: {func(ctx context.Context, i vfs.Ino) error { return c.Allocate(ctx, nobody, i, 0, 0, 100) }},
		opSeek:     {func(ctx context.Context, i vfs.Ino) error { _, err := c.Seek(ctx, i, 0, 3); return err }},
		opCopyRange: {func(ctx context.Context, i vfs.Ino) error { return c.CopyRange(ctx, nobody, i, 0, file, 0, 5) },
			func(ctx context.Context, i vfs.Ino) error { return c.CopyRange(ctx, nobody, file, 0, i, 0, 5) }},
		opGetLock: {func(ctx context.Context, i vfs.Ino) error { _, err := c.GetLock(ctx, i, vfs.Lock{End: 10}); return err }},
		opSetLock: {func(ctx context.Context, i vfs.Ino) error {
			return c.SetLock(ctx, i, vfs.Lock{Type: syscall.F_WRLCK, End: 10, Owner: 1}, false)
		}},
		opReleaseLocks: {func(ctx context.Context, i vfs.Ino) error { return releaseLocks(ctx, c, i) }},
	}
}

// reserve, touch and releaseLocks are calls that Client makes only where there is something
// to be had.
func reserve(ctx context.Context, c *Client, ino vfs.Ino) error {
	k := c.begin(opReserve)
	k.ino(ino)
	k.int(4096)
	return c.simple(ctx, k)
}

func touch(ctx context.Context, c *Client, ino vfs.Ino) error {
	k := c.begin(opTouch)
	k.ino(ino)
	return c.simple(ctx, k)
}

func releaseLocks(ctx context.Context, c *Client, ino vfs.Ino) error {
	k := c.begin(opReleaseLocks)
	k.ino(ino)
	k.uint(1)
	k.u8(0)
	return c.simple(ctx, k)
}

// without an inode among their arguments.
var inodeless = []op{opAllocBlocks, opUnreserve, opSync, opWatch, opCommand}

// TestScopeOfCalls calls everything on what is outside of the session's directory.
func TestScopeOfCalls(t *testing.T) {
	g := newGated(t)
	ctx := t.Context()
	in, out := g.mkdir(vfs.Root, "in"), g.mkdir(vfs.Root, "out")
	file, sub := g.mkfile(in, "f"), g.mkdir(in, "sub")
	secret, link := g.mkfile(out, "secret"), vfs.Ino(0)
	g.mkdir(out, "sub")
	var a vfs.Attr
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(g.direct.Symlink(ctx, nobody, out, "link", "target", &a))
	link = a.Ino
	must(g.direct.SetXattr(ctx, nobody, secret, "user.a", []byte("secret"), 0))
	_, err := g.direct.Commit(ctx, nil, []meta.FileWrite{{Ino: secret, SetInline: true, Inline: []byte("the secret"), Size: 10}})
	must(err)
	gone := g.mkfile(out, "gone")
	g.direct.Open(gone)
	must(g.direct.Unlink(ctx, nobody, out, "gone", &a))
	before := g.outcome(vfs.Root)

	c, _ := g.mount(&Grant{Root: in})
	tries := attempts(c, file, sub)
	for o := range ops {
		if o := op(o); o.known() && tries[o] == nil && !slices.Contains(inodeless, o) {
			t.Errorf("nobody tries %v", o)
		}
	}
	for _, ino := range []vfs.Ino{out, secret, link, gone, in + 1000, vfs.MaxIno} {
		c.Open(ino) // so says a client that lies
		must(c.Sync(ctx))
		for o, list := range tries {
			for i, try := range list {
				if err := try(ctx, ino); vfs.ErrnoOf(err) != syscall.ESTALE {
					t.Errorf("%v (%d) of inode %d: %v, want ESTALE", o, i, ino, err)
				}
			}
		}
		c.Release(ino, 1)
	}
	// The way up ends at its directory, which it calls the root.
	for _, dir := range []vfs.Ino{vfs.Root, in, sub} {
		if err := c.Lookup(ctx, nobody, dir, "..", &a); err != nil || a.Ino != vfs.Root {
			t.Errorf("above %d is %d, %v", dir, a.Ino, err)
		}
	}
	var names []string
	must(c.ReadDir(ctx, nobody, vfs.Root, 0, true, func(x *vfs.DirEntry) bool { names = append(names, x.Name); return true }))
	slices.Sort(names)
	if !slices.Equal(names, []string{"f", "sub"}) {
		t.Errorf("its root has %v", names)
	}
	if err := c.GetAttr(ctx, nobody, vfs.Root, &a); err != nil || a.Ino != vfs.Root {
		t.Errorf("its root is inode %d, %v", a.Ino, err)
	}
	if err := c.Lookup(ctx, nobody, vfs.Root, "out", &a); vfs.ErrnoOf(err) != syscall.ENOENT {
		t.Errorf("the volume's root is to be seen: %v", err)
	}
	if after := g.outcome(vfs.Root); after != before {
		t.Errorf("something has changed:\n%s\nwas\n%s", after, before)
	}
	// Inside it may do what it likes.
	must(c.Mkdir(ctx, nobody, vfs.Root, "new", 0o755, &a))
	must(c.Rename(ctx, nobody, vfs.Root, "f", a.Ino, "f", 0, &a))
	if err := g.direct.Lookup(ctx, nobody, in, "new", &a); err != nil {
		t.Error(err)
	}
	g.direct.Release(gone, 1)
}

// TestScopeMoves: what moves out of the scope is out, but for a file in use.
func TestScopeMoves(t *testing.T) {
	g := newGated(t)
	ctx := t.Context()
	in, out := g.mkdir(vfs.Root, "in"), g.mkdir(vfs.Root, "out")
	dir, used, unused := g.mkdir(in, "dir"), g.mkfile(in, "used"), g.mkfile(in, "unused")
	below := g.mkfile(dir, "below")
	c, _ := g.mount(&Grant{Root: in})
	var a vfs.Attr
	for _, ino := range []vfs.Ino{dir, used} {
		if err := c.GetAttr(ctx, nobody, ino, &a); err != nil {
			t.Fatal(err)
		}
		c.Open(ino)
	}
	if err := c.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dir", "used", "unused"} {
		if err := g.direct.Rename(ctx, nobody, in, name, out, name, 0, &a); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.GetAttr(ctx, nobody, used, &a); err != nil {
		t.Errorf("a file that it has open: %v", err)
	}
	for what, ino := range map[string]vfs.Ino{"a directory": dir, "what is in it": below, "a file": unused} {
		if err := c.GetAttr(ctx, nobody, ino, &a); vfs.ErrnoOf(err) != syscall.ESTALE {
			t.Errorf("%s that moved away: %v", what, err)
		}
	}
	c.Release(used, 1)
	if err := c.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.GetAttr(ctx, nobody, used, &a); vfs.ErrnoOf(err) != syscall.ESTALE {
		t.Errorf("a file that it had open: %v", err)
	}
}

// TestScopePast: to a session of the past the scope is what it was then, for calls and
// blocks alike.
func TestScopePast(t *testing.T) {
	g := newGated(t, func(f *meta.Format) { f.Retention = time.Hour })
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	in, out := g.mkdir(vfs.Root, "in"), g.mkdir(vfs.Root, "out")
	deleted, left, came := g.mkfile(in, "deleted"), g.mkfile(in, "left"), g.mkfile(out, "came")
	all, allBlocks := g.mount(&Grant{})
	ids := map[vfs.Ino]uint64{}
	for _, ino := range []vfs.Ino{deleted, left, came} {
		id := alloc(t, all)
		must(put(allBlocks, id, []byte("0123456789")))
		_, err := all.Commit(ctx, []meta.Block{{ID: id, Size: 10}}, write(ino, whole(id, 10)))
		must(err)
		ids[ino] = id
	}
	at := time.Now().UTC().Add(time.Millisecond)
	time.Sleep(3 * time.Millisecond) // so that what follows is later
	var a vfs.Attr
	must(g.direct.Unlink(ctx, nobody, in, "deleted", &a))
	must(g.direct.Rename(ctx, nobody, in, "left", out, "left", 0, &a))
	must(g.direct.Rename(ctx, nobody, out, "came", in, "came", 0, &a))
	late := g.mkfile(in, "late")

	c, b := g.mountAt(&Grant{Root: in}, at.Format(time.RFC3339Nano))
	for ino, sees := range map[vfs.Ino]bool{deleted: true, left: true, came: false, late: false, out: false} {
		want := syscall.Errno(0)
		if !sees {
			want = syscall.ESTALE
		}
		if err := c.GetAttr(ctx, nobody, ino, &a); sees != (err == nil) || !sees && vfs.ErrnoOf(err) != want {
			t.Errorf("inode %d: %v, want %v", ino, err, want)
		}
		if id := ids[ino]; id != 0 {
			b.Refer(ino, 0, block.ID(id))
			_, err := b.ReadRange(ctx, key(id), make([]byte, 10), 0)
			if sees != (err == nil) || !sees && !errors.Is(err, object.ErrNotFound) {
				t.Errorf("block of inode %d: %v", ino, err)
			}
		}
	}
	if err := c.Mkdir(ctx, nobody, vfs.Root, "new", 0o755, &a); vfs.ErrnoOf(err) != syscall.EROFS {
		t.Errorf("the past is changed: %v", err)
	}
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	if len(g.s.volumes) != 1 {
		t.Errorf("the server keeps %d engines in mind", len(g.s.volumes))
	}
}

// TestScopeFeed: a session is told of nothing outside.
func TestScopeFeed(t *testing.T) {
	g := newGated(t)
	in, out := g.mkdir(vfs.Root, "in"), g.mkdir(vfs.Root, "out")
	c, _ := g.mount(&Grant{Root: in})
	var mu sync.Mutex
	var got []vfs.Change
	last := make(chan struct{})
	stop := c.Watch(func(ch vfs.Change) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, ch)
		if ch.Name == "last" {
			close(last)
		}
	})
	defer stop()
	// The server is told of the watcher in the background.
	for deadline := time.Now().Add(patience); ; {
		g.mkfile(in, fmt.Sprint("try", time.Now().UnixNano()))
		time.Sleep(10 * time.Millisecond)
		mu.Lock()
		n := len(got)
		mu.Unlock()
		if n > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was told")
		}
	}
	g.mkfile(out, "secret")
	g.mkdir(vfs.Root, "secret")
	g.mkfile(in, "last")
	<-last
	mu.Lock()
	defer mu.Unlock()
	for _, ch := range got {
		if ch.Name == "secret" || ch.Parent == out || ch.Ino == out || ch.Parent == in || ch.Ino == in {
			t.Errorf("told %+v", ch)
		}
	}
}

// TestReadOnlyCalls: a session that may not change anything makes every call of that
// kind in vain.
func TestReadOnlyCalls(t *testing.T) {
	g := newGated(t)
	ctx := t.Context()
	dir := g.mkdir(vfs.Root, "dir")
	file := g.mkfile(dir, "f")
	g.mkfile(dir, "secret")
	g.mkdir(dir, "sub")
	before := g.outcome(vfs.Root)
	c, _ := g.mount(&Grant{ReadOnly: true})
	for o, list := range attempts(c, file, dir) {
		if !ops[o].change {
			continue
		}
		for i, try := range list {
			if err := try(ctx, dir); vfs.ErrnoOf(err) != syscall.EROFS {
				t.Errorf("%v (%d): %v, want EROFS", o, i, err)
			}
		}
	}
	if after := g.outcome(vfs.Root); after != before {
		t.Errorf("something has changed:\n%s\nwas\n%s", after, before)
	}
}

// TestTokens: wrong, expired and revoked ones.
func TestTokens(t *testing.T) {
	g := newGated(t)
	ctx := t.Context()
	greet := func(h Hello) error {
		t.Helper()
		conn, err := net.Dial("unix", g.l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		l := newLink(conn)
		defer l.close(net.ErrClosed)
		h.minVersion, h.maxVersion = minVersion, maxVersion
		e := encoder{b: beginFrame(nil, frameHello)}
		h.encode(&e)
		endFrame(e.b, 0)
		if err := l.w.write(e.b); err != nil {
			t.Fatal(err)
		}
		kind, body, err := l.r.next(1 << 20)
		if err != nil || kind != frameWelcome {
			t.Fatalf("no welcome: %v", err)
		}
		var w welcome
		if err := w.decode(body); err != nil {
			t.Fatal(err)
		}
		return w.err
	}
	done := make(chan struct{})
	close(done)
	g.grants.set("good", &Grant{Volume: "v"})
	g.grants.set("expired", &Grant{Volume: "v", Expires: time.Now().Add(-time.Second)})
	g.grants.set("revoked", &Grant{Volume: "v", Done: done})
	for _, token := range []string{"", "wrong", "good ", "Good", "expired", "revoked", strings.Repeat("x", 4000)} {
		if err := greet(Hello{Token: token}); vfs.ErrnoOf(err) != syscall.EACCES || token != "" && strings.Contains(err.Error(), token) && len(token) > 8 {
			t.Errorf("token %.20q: %v", token, err)
		}
	}
	// A session is its owner's: another token, or a wrong secret, does not resume it.
	c, _ := g.mount(&Grant{})
	other := &Grant{Volume: "v", Root: g.mkdir(vfs.Root, "other")}
	g.grants.set("other", other)
	c.mu.Lock()
	id, secret := c.session, slices.Clone(c.secret)
	c.mu.Unlock()
	wrong := slices.Clone(secret)
	wrong[5] ^= 1
	if err := greet(Hello{Token: "good", session: id, secret: wrong}); vfs.ErrnoOf(err) != syscall.ESTALE {
		t.Errorf("another secret: %v", err)
	}
	if err := greet(Hello{Token: "good", session: id, secret: nil}); vfs.ErrnoOf(err) != syscall.ESTALE {
		t.Errorf("no secret: %v", err)
	}
	if err := greet(Hello{Token: "good", session: id + 1000, secret: secret}); vfs.ErrnoOf(err) != syscall.ESTALE {
		t.Errorf("another session: %v", err)
	}
	if err := greet(Hello{Token: "other", session: id, secret: secret}); vfs.ErrnoOf(err) != syscall.EACCES {
		t.Errorf("a token for another directory: %v", err)
	}

	if err := greet(Hello{Token: "good", session: id, secret: secret}); err != nil {
		t.Errorf("its owner: %v", err)
	}

	// What lives ends with its grant.
	over := make(chan struct{})
	revoked, _ := g.mount(&Grant{Done: over})
	g.grants.life("token of a second", time.Second)
	short, _ := g.mountWith("token of a second", "")
	var a vfs.Attr
	if err := revoked.GetAttr(ctx, nobody, vfs.Root, &a); err != nil {
		t.Fatal(err)
	}
	// Nothing of what it has cached is used afterwards.
	_ = short.GetAttr(ctx, nobody, vfs.Root, &a) // if it is still good
	close(over)
	for what, c := range map[string]*Client{"revoked": revoked, "expired": short} {
		<-c.over
		for deadline := time.Now().Add(patience); c.cache.valid(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("what was leased is still good")
			}
		}
		if err := c.GetAttr(ctx, nobody, vfs.Root, &a); vfs.ErrnoOf(err) != syscall.EACCES || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
		if err := c.Mkdir(ctx, nobody, vfs.Root, what, 0o755, &a); vfs.ErrnoOf(err) != syscall.EACCES {
			t.Errorf("%s: mkdir: %v", what, err)
		}
	}
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	if n := len(g.s.sessions); n != 1 || len(g.s.named) != n { // c's
		t.Errorf("%d sessions are left, %d have names", n, len(g.s.named))
	}
}

// recorded is a connection whose bytes to the server are kept.
type recorded struct {
	net.Conn
	mu   *sync.Mutex
	sent *[]byte
}

func (r recorded) Write(p []byte) (int, error) {
	r.mu.Lock()
	*r.sent = append(*r.sent, p...)
	r.mu.Unlock()
	return r.Conn.Write(p)
}

// TestReplayedFrames: what somebody recorded on a session's connection (a wire tap
// behind the TLS: on the server, say) and sends once more does nothing a second time.
func TestReplayedFrames(t *testing.T) {
	g := newGated(t)
	ctx := t.Context()
	g.grants.set("token", &Grant{Volume: "v"})
	var mu sync.Mutex
	var sent []byte
	conns := 0
	connect := func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", g.l.Addr().String())
		if err != nil {
			return nil, err
		}
		mu.Lock()
		conns++
		if conns == 1 {
			mu.Unlock()
			return c, nil
		}
		mu.Unlock()
		return recorded{c, &mu, &sent}, nil
	}
	c, err := Dial(ctx, ClientConfig{Connect: connect, Hello: Hello{Token: "token"}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The second connection resumes the session, so that its hello does, too.
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	l.close(errors.New("test"))
	var a vfs.Attr
	// More calls than there are slots, so that one has been used again.
	var names []string
	for i := range changeSlots + 10 {
		names = append(names, fmt.Sprint("once", i))
		if err := c.Mkdir(ctx, nobody, vfs.Root, names[i], 0o755, &a); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	tape := slices.Clone(sent)
	mu.Unlock()
	if len(tape) == 0 {
		t.Fatal("nothing was recorded")
	}
	for _, name := range names {
		if err := g.direct.Rmdir(ctx, nobody, vfs.Root, name); err != nil {
			t.Fatal(err)
		}
	}
	before := g.outcome(vfs.Root)
	for cut := len(tape); cut > 0; cut -= 1 + len(tape)/5 {
		conn, err := net.Dial("unix", g.l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(tape[:cut]); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
	}
	if after := g.outcome(vfs.Root); after != before {
		t.Errorf("the replay did something:\n%s\nwas\n%s", after, before)
	}
	// And the session goes on.
	if err := c.Mkdir(ctx, nobody, vfs.Root, "again", 0o755, &a); err != nil {
		t.Errorf("after it: %v", err)
	}
}
