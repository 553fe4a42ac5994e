package volume

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/block/blockgate"
	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/object/retry"
	"github.com/massif-fs/massif/vfs"
)

// gated is a session as the metadata server keeps it for the block gate. scope, if
// not nil, has the inodes that it may see.
type gated struct {
	meta.Session
	name    string
	volume  *blockgate.Volume
	scope   map[vfs.Ino]bool
	numbers blockgate.Numbers
}

func (g *gated) AllocBlocks(ctx context.Context, n int) (uint64, error) {
	first, err := g.Session.AllocBlocks(ctx, n)
	if err == nil {
		g.numbers.Allocated(block.ID(first), n)
	}
	return first, err
}

func (g *gated) Commit(ctx context.Context, blocks []meta.Block, writes []meta.FileWrite) ([]bool, error) {
	for _, b := range blocks {
		g.numbers.Committed(block.ID(b.ID))
	}
	return g.Session.Commit(ctx, blocks, writes)
}

func (g *gated) Name() string              { return g.name }
func (g *gated) Volume() *blockgate.Volume { return g.volume }
func (g *gated) Whole() bool               { return g.scope == nil }
func (g *gated) Done() <-chan struct{}     { return nil }

func (g *gated) MayWrite(_ context.Context, id block.ID) error {
	if !g.numbers.Has(id) {
		return blockgate.ErrDenied
	}
	return nil
}

func (g *gated) Uses(ctx context.Context, ino vfs.Ino, chunk uint32, id block.ID) (size uint32, ranges []block.Range, err error) {
	if g.scope != nil && !g.scope[ino] {
		return 0, nil, blockgate.ErrDenied
	}
	extents, err := g.Session.Extents(ctx, ino, chunk, nil)
	for _, e := range extents {
		if e.Block == uint64(id) {
			size, ranges = e.Size, append(ranges, block.Range{Off: e.Off, Len: e.Len})
		}
	}
	return size, ranges, err
}

type gatedSessions map[string]*gated

func (m gatedSessions) Authenticate(_ context.Context, name, secret string) (blockgate.Session, error) {
	if g := m[name]; g != nil && secret == "secret of "+name {
		return g, nil
	}
	return nil, blockgate.ErrSession
}

// TestThroughGate: two trees on one volume without credentials of its store, one of
// them confined to a directory whose files share packs with others. Its client
// remembers the files of few blocks, so that it has to ask for layouts again.
func TestThroughGate(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.Exclusive = false })
	sessions := gatedSessions{}
	gate := httptest.NewTLSServer(blockgate.New(blockgate.Config{Authority: sessions, Logger: slog.New(slog.DiscardHandler)}))
	defer gate.Close()
	pool := x509.NewCertPool()
	pool.AddCert(gate.Certificate())
	serve := &blockgate.Volume{Objects: w.store, Blocks: w.blocks}
	open := func(name string, scope map[vfs.Ino]bool) *FS {
		ms, err := w.engine.NewSession(bg, meta.SessionInfo{Host: name})
		if err != nil {
			t.Fatal(err)
		}
		g := &gated{Session: ms, name: name, volume: serve, scope: scope}
		sessions[name] = g
		c, err := blockgate.NewClient(blockgate.ClientConfig{URL: gate.URL, TLS: &tls.Config{RootCAs: pool}, Files: 8, Grants: 8,
			Session: func(context.Context) (string, string, error) { return name, "secret of " + name, nil }})
		if err != nil {
			t.Fatal(err)
		}
		budget := cache.NewBudget(32 << 20)
		bufs, err := cache.NewBuffers(budget)
		if err != nil {
			t.Fatal(err)
		}
		memory, err := cache.NewMemory(bufs, 4<<20)
		if err != nil {
			t.Fatal(err)
		}
		log := slog.New(slog.DiscardHandler)
		blocks, err := block.New(bg, block.Config{Store: retry.New(c, retry.Options{First: time.Millisecond}), Budget: budget, Buffers: bufs, Memory: memory, Compression: block.LZ4, Logger: log})
		if err != nil {
			t.Fatal(err)
		}
		fs, err := New(Config{Session: g, Blocks: blocks, Budget: budget, Refer: c.Refer, Logger: log, FlushInterval: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			for _, err := range []error{fs.Close(), blocks.Close(), c.Close()} {
				if err != nil {
					t.Error(err)
				}
			}
			memory.Close()
			bufs.Close()
		})
		return fs
	}
	scope := map[vfs.Ino]bool{}
	all, confined := open("all", nil), open("confined", scope)

	type content struct {
		ino    vfs.Ino
		data   []byte
		inside bool
	}
	r := rand.New(rand.NewPCG(1, 1))
	random := func(n int) []byte {
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		return p
	}
	write := func(fs *FS, c *content, p []byte, off int) {
		t.Helper()
		f, err := fs.Open(bg, root, c.ino, syscall.O_WRONLY)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(bg, p, int64(off)); err != nil {
			t.Fatal(err)
		}
		c.data = append(c.data, make([]byte, max(0, off+len(p)-len(c.data)))...)
		copy(c.data[off:], p)
	}
	read := func(fs *FS, c *content) ([]byte, error) {
		t.Helper()
		f, err := fs.Open(bg, root, c.ino, syscall.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		p := make([]byte, len(c.data)+1)
		n, err := f.ReadAt(bg, p, 0)
		return p[:n], err
	}
	var files []*content
	for i := range 60 {
		var a vfs.Attr
		f, err := all.Create(bg, root, vfs.Root, fmt.Sprint("file", i), 0o644, syscall.O_RDWR|syscall.O_CREAT, &a)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		c := &content{ino: a.Ino, inside: i%3 != 0}
		scope[a.Ino] = c.inside
		n := 6000 + i*500 // packed
		if i%10 == 0 {
			n = 600_000 // several chunks
		}
		write(all, c, random(n), 0)
		files = append(files, c)
	}
	check := func() {
		t.Helper()
		for _, fs := range []*FS{all, confined} {
			if err := fs.Sync(bg); err != nil {
				t.Fatal(err)
			}
		}
		for pass := range 2 {
			for i, c := range files {
				for _, fs := range []*FS{all, confined} {
					got, err := read(fs, c)
					switch {
					case fs == confined && !c.inside:
						if !errors.Is(err, block.ErrMissing) || vfs.ErrnoOf(err) != syscall.EIO {
							t.Fatalf("pass %d: file %d outside: %d bytes, %v", pass, i, len(got), err)
						}
					case err != nil:
						t.Fatalf("pass %d: file %d: %v", pass, i, err)
					case !bytes.Equal(got, c.data):
						t.Fatalf("pass %d: file %d has other bytes", pass, i)
					}
				}
			}
		}
	}
	check()
	for i, c := range files {
		fs := all
		if c.inside && i%2 == 0 {
			fs = confined
		}
		write(fs, c, random(1+r.IntN(5000)), r.IntN(len(c.data)))
	}
	check()
}
