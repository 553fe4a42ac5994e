package metarpc

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/block/blockgate"
	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/object"
	objmem "github.com/massif-fs/massif/object/mem"
	"github.com/massif-fs/massif/vfs"
)

// granter gives each token the grant that a test has for it.
type granter struct {
	mu sync.Mutex
	m  map[string]func() *Grant
}

func (g *granter) set(token string, grant *Grant) { g.setFunc(token, func() *Grant { return grant }) }

// life gives a token a grant that expires a time after it was asked for.
func (g *granter) life(token string, d time.Duration) {
	g.setFunc(token, func() *Grant { return &Grant{Volume: "v", Expires: time.Now().Add(d)} })
}

func (g *granter) setFunc(token string, fn func() *Grant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.m == nil {
		g.m = make(map[string]func() *Grant)
	}
	g.m[token] = fn
}

func (g *granter) Authenticate(_ context.Context, h *Hello) (*Grant, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if fn := g.m[h.Token]; fn != nil {
		return fn(), nil
	}
	return nil, vfs.WithErrno(syscall.EACCES, errors.New("the token is not good"))
}

// gated is a metadata server with a block gate beside it.
type gated struct {
	t      *testing.T
	e      *meta.Engine
	direct meta.Session
	s      *Server
	l      net.Listener
	gate   *httptest.Server
	grants granter
	mounts int
	blocks *block.Store
}

func newGated(t *testing.T, change ...func(*meta.Format)) *gated {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	bg := context.Background()
	quiet := slog.New(slog.DiscardHandler)
	db := mem.New()
	f := meta.Format{Name: "v", UUID: "00000000-0000-4000-8000-000000000001", ChunkSize: meta.MinChunkSize,
		Compression: "none", InlineLimit: meta.DefaultInlineLimit, Store: "mem:"}
	for _, fn := range change {
		fn(&f)
	}
	must(meta.Create(bg, db, f))
	g := &gated{t: t}
	var err error
	g.e, err = meta.Open(bg, db, meta.Options{Logger: quiet})
	must(err)
	g.direct, err = g.e.NewSession(bg, meta.SessionInfo{Host: "server"})
	must(err)
	budget := cache.NewBudget(32 << 20)
	bufs, err := cache.NewBuffers(budget)
	must(err)
	memory, err := cache.NewMemory(bufs, 0)
	must(err)
	objects := objmem.New()
	g.blocks, err = block.New(bg, block.Config{Store: objects, Budget: budget, Buffers: bufs, Memory: memory, Logger: quiet})
	must(err)
	g.s = NewServer(ServerConfig{Auth: &g.grants, Logger: quiet, Lease: 30 * time.Minute, // leases end for a reason here, never by themselves

		Volume: func(string) (*Volume, error) { return &Volume{Engine: g.e, Relaxed: true}, nil }})
	g.l, err = net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	must(err)
	served := make(chan error, 1)
	go func() { served <- g.s.Serve(g.l) }()
	where := &blockgate.Volume{Objects: objects, Blocks: g.blocks}
	g.gate = httptest.NewTLSServer(blockgate.New(blockgate.Config{Logger: quiet,
		Authority: g.s.BlockAuthority(func(string) (*blockgate.Volume, error) { return where, nil })}))
	t.Cleanup(func() {
		g.gate.Close()
		for _, err := range []error{g.s.Close(), <-served, g.direct.Close(), g.e.Close(), g.blocks.Close(), db.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
		memory.Close()
		bufs.Close()
	})
	return g
}

// mount begins a session, with a way to the blocks.
func (g *gated) mount(grant *Grant) (*Client, *blockgate.Client) {
	g.t.Helper()
	return g.mountAt(grant, "")
}

// mountAt is mount at a time.
func (g *gated) mountAt(grant *Grant, at string) (*Client, *blockgate.Client) {
	g.t.Helper()
	g.mounts++
	token := fmt.Sprint("token ", g.mounts)
	grant.Volume = "v"
	g.grants.set(token, grant)
	return g.mountWith(token, at)
}

// mountWith is mountAt with a token.
func (g *gated) mountWith(token, at string) (*Client, *blockgate.Client) {
	g.t.Helper()
	var d net.Dialer
	c, err := Dial(g.t.Context(), ClientConfig{
		Connect: func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "unix", g.l.Addr().String()) },
		Hello:   Hello{Token: token, At: at}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		g.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(g.gate.Certificate())
	b, err := blockgate.NewClient(blockgate.ClientConfig{URL: g.gate.URL, TLS: &tls.Config{RootCAs: pool}, Session: c.BlockSession})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		b.Close()
		c.Close() // may be over already
	})
	return c, b
}

func (g *gated) mkdir(parent vfs.Ino, name string) vfs.Ino {
	g.t.Helper()
	var a vfs.Attr
	if err := g.direct.Mkdir(g.t.Context(), &vfs.Caller{}, parent, name, 0o777, &a); err != nil {
		g.t.Fatal(err)
	}
	return a.Ino
}

func (g *gated) mkfile(parent vfs.Ino, name string) vfs.Ino {
	g.t.Helper()
	var a vfs.Attr
	if err := g.direct.Mknod(g.t.Context(), &vfs.Caller{}, parent, name, syscall.S_IFREG|0o666, 0, &a); err != nil {
		g.t.Fatal(err)
	}
	return a.Ino
}

func key(id uint64) string { return block.Key(block.DefaultPrefix, block.ID(id)) }

// put puts a block's object through the gate: as it is, the gate does not look into it.
func put(b *blockgate.Client, id uint64, data []byte) error {
	_, err := b.Put(context.Background(), key(id), bytes.NewReader(data), int64(len(data)), &object.PutOptions{IfAbsent: true})
	return err
}

func alloc(t *testing.T, c *Client) uint64 {
	t.Helper()
	id, err := c.AllocBlocks(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func whole(id uint64, size uint32) []meta.Extent {
	return []meta.Extent{{Len: size, Block: id, Size: size}}
}

func write(ino vfs.Ino, list []meta.Extent) []meta.FileWrite {
	w := meta.FileWrite{Ino: ino, Chunks: []meta.Chunk{{Extents: list}}}
	for _, e := range list {
		w.Size = max(w.Size, uint64(e.Pos)+uint64(e.Len))
	}
	return []meta.FileWrite{w}
}

// TestBlockNumbers: a session writes and commits numbers that it was given, once each.
func TestBlockNumbers(t *testing.T) {
	g := newGated(t)
	alice, aliceBlocks := g.mount(&Grant{})
	mallory, malloryBlocks := g.mount(&Grant{})
	reader, readerBlocks := g.mount(&Grant{ReadOnly: true})
	f, m := g.mkfile(vfs.Root, "f"), g.mkfile(vfs.Root, "m")
	ctx := t.Context()
	id := alloc(t, alice)
	if err := put(malloryBlocks, id, []byte("mallory's")); !errors.Is(err, object.ErrAccess) {
		t.Errorf("put of another session's block: %v", err)
	}
	if err := put(readerBlocks, id, []byte("a reader's")); !errors.Is(err, object.ErrAccess) {
		t.Errorf("put of a reader: %v", err)
	}
	if _, err := reader.AllocBlocks(ctx, 1); vfs.ErrnoOf(err) != syscall.EROFS {
		t.Errorf("a reader allocates: %v", err)
	}
	if err := put(aliceBlocks, id, []byte("0123456789")); err != nil {
		t.Fatal(err)
	}
	refuse := func(what string, blocks []meta.Block, list []meta.Extent) {
		t.Helper()
		if _, err := mallory.Commit(ctx, blocks, write(m, list)); vfs.ErrnoOf(err) != syscall.EINVAL {
			t.Errorf("commit of %s: %v", what, err)
		}
	}
	// Before its owner has committed it, and after.
	for range 2 {
		refuse("another session's block", []meta.Block{{ID: id, Size: 10}}, whole(id, 10))
		refuse("an extent in another's block", nil, whole(id, 10))
		mine := alloc(t, mallory)
		refuse("an extent beside its block", []meta.Block{{ID: mine, Size: 10}}, whole(id, 10))
		refuse("an extent of another size", []meta.Block{{ID: mine, Size: 10}}, whole(mine, 11))
		refuse("an extent beyond its block", []meta.Block{{ID: mine, Size: 10}}, []meta.Extent{{Len: 10, Block: mine, Size: 10, Off: 1}})
		if err := put(malloryBlocks, mine, []byte("still mine")); err != nil {
			t.Errorf("after commits that were refused: %v", err)
		}
		if _, err := alice.Commit(ctx, []meta.Block{{ID: id, Size: 10}}, write(f, whole(id, 10))); err != nil && vfs.ErrnoOf(err) != syscall.EINVAL {
			t.Fatal(err)
		}
	}
	if list, err := g.direct.Extents(ctx, f, 0, nil); err != nil || len(list) != 1 || list[0].Block != id {
		t.Fatalf("alice's commit: %v, %v", list, err)
	}
	if list, err := g.direct.Extents(ctx, m, 0, nil); err != nil || len(list) != 0 {
		t.Errorf("mallory's file has %v, %v", list, err)
	}
	// A block that has been committed is not written again, by nobody.
	if err := g.blocks.Delete(ctx, []block.ID{block.ID(id)}); err != nil { // so that only the number can be in the way
		t.Fatal(err)
	}
	if err := put(aliceBlocks, id, []byte("once more!")); !errors.Is(err, object.ErrAccess) {
		t.Errorf("put of a committed block: %v", err)
	}
	if _, err := alice.Commit(ctx, []meta.Block{{ID: id, Size: 10}}, write(m, whole(id, 10))); vfs.ErrnoOf(err) != syscall.EINVAL {
		t.Errorf("a second commit of a block: %v", err)
	}
}

// TestReplaceExtents: new extents in place of old ones bring no bytes that the old
// ones do not have.
func TestReplaceExtents(t *testing.T) {
	g := newGated(t)
	c, _ := g.mount(&Grant{})
	f, other := g.mkfile(vfs.Root, "f"), g.mkfile(vfs.Root, "other")
	ctx := t.Context()
	pack, single := alloc(t, c), alloc(t, c)
	old := []meta.Extent{{Pos: 100, Len: 100, Block: pack, Size: 1000, Off: 500}, {Pos: 300, Len: 50, Block: single, Size: 50}}
	if _, err := c.Commit(ctx, []meta.Block{{ID: pack, Size: 1000}, {ID: single, Size: 50}},
		append(write(f, old), write(other, []meta.Extent{{Len: 100, Block: pack, Size: 1000}})...)); err != nil {
		t.Fatal(err)
	}
	for what, list := range map[string][]meta.Extent{
		"more behind":      {{Pos: 100, Len: 101, Block: pack, Size: 1000, Off: 500}},
		"more before":      {{Pos: 99, Len: 101, Block: pack, Size: 1000, Off: 499}},
		"another part":     {{Pos: 100, Len: 100, Block: pack, Size: 1000, Off: 0}},
		"another place":    {{Pos: 110, Len: 90, Block: pack, Size: 1000, Off: 500}},
		"another size":     {{Pos: 100, Len: 100, Block: pack, Size: 999, Off: 500}},
		"an unknown block": {{Pos: 100, Len: 100, Block: 77777, Size: 1000, Off: 500}},
	} {
		if err := c.Replace(ctx, f, 0, old, list, nil); vfs.ErrnoOf(err) != syscall.EINVAL {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := c.Replace(ctx, f, 0, old[:1], old[:1], nil); !errors.Is(err, meta.ErrLayout) {
		t.Errorf("old extents that are not those that there are: %v", err)
	}
	id := alloc(t, c)
	fresh := []meta.Extent{{Pos: 100, Len: 60, Block: id, Size: 60}, {Pos: 160, Len: 40, Block: pack, Size: 1000, Off: 560}, old[1]}
	if err := c.Replace(ctx, f, 0, old, fresh, []meta.Block{{ID: id, Size: 60}}); err != nil {
		t.Errorf("a part that stays: %v", err)
	}
	if err := c.Replace(ctx, f, 0, fresh, []meta.Extent{{Pos: 100, Len: 60, Block: id, Size: 60}}, []meta.Block{{ID: id, Size: 60}}); vfs.ErrnoOf(err) != syscall.EINVAL {
		t.Errorf("a block that was committed: %v", err)
	}
}

// TestBlockScope: through the gate a session that is confined to a directory reads
// what is there, also while it moves.
func TestBlockScope(t *testing.T) {
	g := newGated(t)
	ctx := t.Context()
	in, out := g.mkdir(vfs.Root, "in"), g.mkdir(vfs.Root, "out")
	inside, outside := g.mkfile(in, "f"), g.mkfile(out, "f")
	all, allBlocks := g.mount(&Grant{})
	ids := map[vfs.Ino]uint64{}
	for _, ino := range []vfs.Ino{inside, outside} {
		id := alloc(t, all)
		if err := put(allBlocks, id, []byte("0123456789")); err != nil {
			t.Fatal(err)
		}
		if _, err := all.Commit(ctx, []meta.Block{{ID: id, Size: 10}}, write(ino, whole(id, 10))); err != nil {
			t.Fatal(err)
		}
		ids[ino] = id
	}
	done := make(chan struct{})
	grant := &Grant{Root: in, Done: done}
	_, confined := g.mount(grant)
	read := func(ino vfs.Ino, id uint64) error {
		_, b := g.mount(&Grant{Root: in}) // without what an earlier one was granted
		b.Refer(ino, 0, block.ID(id))
		_, err := b.ReadRange(ctx, key(id), make([]byte, 10), 0)
		return err
	}
	want := func(what string, err, kind error) {
		t.Helper()
		if kind == nil && err != nil || kind != nil && !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v", what, err, kind)
		}
	}
	want("a file inside", read(inside, ids[inside]), nil)
	want("a file outside", read(outside, ids[outside]), object.ErrNotFound)
	want("its block as that of the file inside", read(inside, ids[outside]), object.ErrNotFound)
	want("the root's", read(vfs.Root, ids[outside]), object.ErrNotFound)
	want("an inode that is not there", read(1<<40, ids[outside]), object.ErrNotFound)
	var a vfs.Attr
	if err := g.direct.Rename(ctx, &vfs.Caller{}, in, "f", out, "g", 0, &a); err != nil {
		t.Fatal(err)
	}
	want("a file that moved away", read(inside, ids[inside]), object.ErrNotFound)
	if err := g.direct.Link(ctx, &vfs.Caller{}, outside, in, "linked", &a); err != nil {
		t.Fatal(err)
	}
	want("a file with another name inside", read(outside, ids[outside]), nil)

	// Who has a file open goes on; who only says so does not.
	if err := g.direct.Unlink(ctx, &vfs.Caller{}, in, "linked", &a); err != nil {
		t.Fatal(err)
	}
	c, b := g.mount(&Grant{Root: in})
	c.Open(outside)
	_ = c.Sync(ctx) // the server has heard it
	b.Refer(outside, 0, block.ID(ids[outside]))
	_, err := b.ReadRange(ctx, key(ids[outside]), make([]byte, 10), 0)
	want("a file outside that it says it has open", err, object.ErrNotFound)
	kept := g.mkfile(in, "kept")
	id := alloc(t, all)
	if err := put(allBlocks, id, []byte("0123456789")); err != nil {
		t.Fatal(err)
	}
	if _, err := all.Commit(ctx, []meta.Block{{ID: id, Size: 10}}, write(kept, whole(id, 10))); err != nil {
		t.Fatal(err)
	}
	c.Open(kept)
	_ = c.Sync(ctx)
	if err := g.direct.Unlink(ctx, &vfs.Caller{}, in, "kept", &a); err != nil {
		t.Fatal(err)
	}
	b.Refer(kept, 0, block.ID(id))
	_, err = b.ReadRange(ctx, key(id), make([]byte, 10), 0)
	want("a file that it has open, without a name", err, nil)

	// A revoked grant.
	confined.Refer(inside, 0, block.ID(ids[inside]))
	close(done)
	_, err = confined.Head(ctx, key(ids[inside]))
	if !errors.Is(err, object.ErrUnavailable) && !errors.Is(err, object.ErrAccess) { // its session says that it is over, soon
		t.Errorf("a revoked grant: %v", err)
	}
}

// TestBlockSession: the gate's secret is no session's, and ends with the session.
func TestBlockSession(t *testing.T) {
	g := newGated(t)
	c, b := g.mount(&Grant{})
	name, bearer, err := c.BlockSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	secret := c.secret
	c.mu.Unlock()
	if bytes.Contains([]byte(bearer), secret) || bearer != blockBearer(secret) || name == "" {
		t.Error("the bearer is not made of the session's secret")
	}
	authority := g.s.BlockAuthority(func(string) (*blockgate.Volume, error) { return &blockgate.Volume{}, nil })
	if _, err := authority.Authenticate(t.Context(), name, bearer); err != nil {
		t.Errorf("the session itself: %v", err)
	}
	for what, pair := range map[string][2]string{"another name": {name + "0", bearer}, "another secret": {name, bearer + "x"}, "none": {name, ""}, "the session's secret": {name, string(secret)}} {
		if _, err := authority.Authenticate(t.Context(), pair[0], pair[1]); !errors.Is(err, blockgate.ErrSession) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Head(t.Context(), key(1)); !errors.Is(err, object.ErrAccess) {
		t.Errorf("after its end: %v", err)
	}
	// The server ends it when it reads that.
	for try := 0; ; try++ {
		if _, err := authority.Authenticate(t.Context(), name, bearer); errors.Is(err, blockgate.ErrSession) {
			break
		} else if try == 2000 {
			t.Fatalf("the gate still knows the session: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
