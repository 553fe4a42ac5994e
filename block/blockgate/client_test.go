package blockgate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/internal/testserver"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/objecttest"
	"github.com/massif-fs/massif/object/retry"
)

// adapted makes a store of a Client that takes any key and replaces objects, as a
// file system does: each Put goes to a block with a number of its own. A byte goes
// before each object, because a block is never empty.
type adapted struct {
	c *Client
	s *fakeSession

	mu  sync.Mutex
	ids map[string]block.ID
}

func (a *adapted) String() string { return a.c.String() }
func (a *adapted) Close() error   { return a.c.Close() }
func (a *adapted) Capabilities() object.Capabilities {
	return object.Capabilities{Remote: a.c.Capabilities().Remote}
}

func (a *adapted) key(op, key string) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if id, ok := a.ids[key]; ok {
		return block.Key(block.DefaultPrefix, id), nil
	}
	return "", &object.Error{Op: op, Key: key, Err: object.ErrNotFound}
}

func shift(key string, info object.Info, err error) (object.Info, error) {
	info.Key = key
	info.Size--
	return info, err
}

func (a *adapted) Put(ctx context.Context, key string, body io.Reader, size int64, opts *object.PutOptions) (object.Info, error) {
	if size < 0 {
		p, err := io.ReadAll(body)
		if err != nil {
			return object.Info{}, &object.Error{Op: "put", Key: key, Err: err}
		}
		body, size = bytes.NewReader(p), int64(len(p))
	}
	if m, ok := body.(object.MemoryBody); ok {
		p := make([]byte, m.Len())
		if _, err := io.ReadFull(m, p); err != nil {
			return object.Info{}, err
		}
		body = bytes.NewReader(append([]byte{'x'}, p...))
	} else {
		body = io.MultiReader(strings.NewReader("x"), body)
	}
	id := a.s.alloc()
	info, err := a.c.Put(ctx, block.Key(block.DefaultPrefix, id), body, size+1, opts)
	if err == nil {
		a.mu.Lock()
		a.ids[key] = id
		a.mu.Unlock()
	}
	return shift(key, info, err)
}

func (a *adapted) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, object.Info, error) {
	k, err := a.key("get", key)
	if err != nil {
		return nil, object.Info{}, err
	}
	if off >= 0 {
		off++
	}
	body, info, err := a.c.Get(ctx, k, off, n)
	info, err = shift(key, info, err)
	return body, info, err
}

func (a *adapted) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	k, err := a.key("read", key)
	if err != nil {
		return 0, err
	}
	return a.c.ReadRange(ctx, k, p, off+1)
}

func (a *adapted) Head(ctx context.Context, key string) (object.Info, error) {
	k, err := a.key("head", key)
	if err != nil {
		return object.Info{}, err
	}
	info, err := a.c.Head(ctx, k)
	return shift(key, info, err)
}

func (a *adapted) Delete(ctx context.Context, keys ...string) error {
	if err := ctx.Err(); err != nil {
		return &object.Error{Op: "delete", Err: err}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, key := range keys {
		delete(a.ids, key)
	}
	return nil
}

func (a *adapted) List(ctx context.Context, o object.ListOptions) (object.Page, error) {
	if err := ctx.Err(); err != nil {
		return object.Page{}, &object.Error{Op: "list", Err: err}
	}
	return a.c.List(ctx, o)
}

func (a *adapted) Copy(ctx context.Context, dst, src string, o *object.PutOptions) (object.Info, error) {
	if err := ctx.Err(); err != nil {
		return object.Info{}, &object.Error{Op: "copy", Err: err}
	}
	return a.c.Copy(ctx, dst, src, o)
}

// TestStore is the suite of object stores, as far as it is about what a Client has.
func TestStore(t *testing.T) {
	each(t, func(t *testing.T, b backend, objects object.Store) {
		w := newWorld(t, objects, nil)
		objecttest.Run(t, objecttest.Factory{
			New: func(t testing.TB) object.Store {
				s := w.session(true)
				return &adapted{c: w.client(t, s, nil), s: s, ids: make(map[string]block.ID)}
			},
			Only: []string{"PutGet", "GetRange", "ReadRange", "Replace", "BodyLeftOpen", "WrongBodies", "Metadata", "Cancel"},
		})
		if through := w.gate.Stats().Puts > 0; through == b.signs {
			t.Errorf("puts went through the server: %v", through)
		}
		w.kept()
	})
}

// TestBlocks: what one client writes another reads, past the server where the store
// can sign, and the second time without asking for grants.
func TestBlocks(t *testing.T) {
	each(t, func(t *testing.T, b backend, objects object.Store) {
		w := newWorld(t, objects, nil)
		alice, bob := w.session(true), w.session(true)
		writer := w.blocks(t, w.client(t, alice, nil), nil)
		reader := w.blocks(t, w.client(t, bob, nil), nil)
		data := map[block.ID][]byte{}
		for i := range 40 {
			id := alice.alloc()
			p := content(uint64(i), 1+i*i*400)
			if i%2 == 0 {
				p = bytes.Repeat([]byte("compress me "), 1+i*50)
			}
			data[id] = p
		}
		var wg sync.WaitGroup
		for id, p := range data {
			wg.Go(func() {
				if err := writer.Put(t.Context(), id, p[:len(p)/2], p[len(p)/2:]); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		readAll := func(s *block.Store) {
			t.Helper()
			for id, p := range data {
				wg.Go(func() {
					got := make([]byte, len(p))
					if err := s.ReadAt(t.Context(), block.Ref{ID: id, Size: uint32(len(p))}, got, 0); err != nil {
						t.Error(err)
					} else if !bytes.Equal(got, p) {
						t.Errorf("block %d is another", id)
					}
				})
			}
			wg.Wait()
		}
		readAll(reader)
		asked := w.posts
		if err := reader.DropCaches(); err != nil {
			t.Fatal(err)
		}
		readAll(reader)
		if w.posts != asked {
			t.Errorf("reading once more asked for grants %d times", w.posts-asked)
		}
		st := w.gate.Stats()
		if through := st.ObjectGets > 0; through == b.signs {
			t.Errorf("blocks went through the server: %v", through)
		}
		// Deleting is the server's.
		if err := reader.Delete(t.Context(), []block.ID{1}); err == nil {
			t.Error("a client deleted a block")
		}
		w.kept()
	})
}

// TestPutAgain: after a lost answer a block is put again, and the same bytes count
// as put; others do not.
func TestPutAgain(t *testing.T) {
	each(t, func(t *testing.T, b backend, objects object.Store) {
		w := newWorld(t, objects, nil)
		s := w.session(b.name == "file") // a confined one reads what it has just written, too
		c := w.client(t, s, nil)
		key := block.Key(block.DefaultPrefix, s.alloc())
		put := func(p []byte, opts *object.PutOptions) error {
			_, err := c.Put(t.Context(), key, bytes.NewReader(p), int64(len(p)), opts)
			return err
		}
		if err := put([]byte("some bytes"), nil); err != nil {
			t.Fatal(err)
		}
		if err := put([]byte("some bytes"), nil); err != nil {
			t.Errorf("the same bytes again: %v", err)
		}
		if err := put([]byte("some bytes"), &object.PutOptions{IfAbsent: true}); !errors.Is(err, object.ErrExists) {
			t.Errorf("if absent, again: %v", err)
		}
		for _, other := range []string{"some bytez", "some bytes and more"} {
			if err := put([]byte(other), nil); !errors.Is(err, object.ErrExists) {
				t.Errorf("other bytes: %v", err)
			}
		}
		got := make([]byte, 10)
		if _, err := c.ReadRange(t.Context(), key, got, 0); err != nil || string(got) != "some bytes" {
			t.Errorf("it has %q, %v", got, err)
		}
	})
}

// TestExpiredGrant: a grant that the store no longer takes, for whatever reason, is
// asked for anew, once.
func TestExpiredGrant(t *testing.T) {
	objects := backends[1].open(t)
	w := newWorld(t, objects, func(cfg *Config) { cfg.Life = time.Second })
	s := w.session(true)
	c := w.client(t, s, nil)
	id := s.alloc()
	key := block.Key(block.DefaultPrefix, id)
	if _, err := c.Put(t.Context(), key, strings.NewReader("hello"), 5, nil); err != nil {
		t.Fatal(err)
	}
	h, err := c.book.read(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2500 * time.Millisecond) // the server's clock decides
	h.until = time.Now().Add(time.Hour) // ours is wrong
	asked := w.posts
	p := make([]byte, 5)
	if _, err := c.ReadRange(t.Context(), key, p, 0); err != nil || string(p) != "hello" {
		t.Errorf("read with an expired grant: %q, %v", p, err)
	}
	if w.posts != asked+1 {
		t.Errorf("it asked %d times for a new one", w.posts-asked)
	}
}

// TestFaults: connections to the gate and to the bucket break in every way, and
// neither wrong bytes nor secrets come out of it.
func TestFaults(t *testing.T) {
	endpoint, bucket, creds := testserver.S3(t)
	u, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	toBucket := testserver.NewProxy(t, u.Host)
	w := newWorld(t, openS3(t, "http://"+toBucket.Addr(), bucket, creds), nil)
	gate, err := url.Parse(w.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	toGate := testserver.NewProxy(t, gate.Host)
	s := w.session(true)
	c := w.client(t, s, func(cfg *ClientConfig) {
		cfg.URL = "https://" + toGate.Addr()
		cfg.StallTimeout = 150 * time.Millisecond
	})
	blocks := w.blocks(t, c, func(cfg *block.Config) { cfg.Compression = block.None })
	data := content(1, 300_000)
	var errs []error
	for _, p := range []*testserver.Proxy{toGate, toBucket} {
		for _, f := range []testserver.Fault{{Refuse: true}, {CutAnswer: 1}, {CutAnswer: 200}, {CutAnswer: 20_000}, {CutRequest: 1}, {CutRequest: 100_000}, {StallAnswer: -1}, {StallAnswer: 10_000}, {StallRequest: 50_000}} {
			p.SetTimes(f, 2)
			id := s.alloc()
			if err := blocks.Put(t.Context(), id, data); err != nil {
				t.Errorf("%+v: put: %v", f, err)
				continue
			}
			_ = blocks.DropCaches()
			p.SetTimes(f, 2)
			got := make([]byte, len(data))
			if err := blocks.ReadAt(t.Context(), block.Ref{ID: id, Size: uint32(len(data))}, got, 0); err != nil {
				t.Errorf("%+v: read: %v", f, err)
			} else if !bytes.Equal(got, data) {
				t.Errorf("%+v: wrong bytes", f)
			}
			// And without another try, for its errors.
			p.SetTimes(f, 1)
			key := block.Key(block.DefaultPrefix, id)
			_, err := c.ReadRange(t.Context(), key, got, 0)
			_, perr := c.Put(t.Context(), block.Key(block.DefaultPrefix, s.alloc()), bytes.NewReader(data), int64(len(data)), nil)
			for _, err := range []error{err, perr} {
				if err != nil && !retry.Retryable(err) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%+v: %v is not to be tried again", f, err)
				}
				errs = append(errs, err)
			}
			p.Set(testserver.Fault{})
		}
	}
	// Bits flip on a way without TLS: the bucket's.
	id := s.alloc()
	if err := blocks.Put(t.Context(), id, data); err != nil {
		t.Fatal(err)
	}
	_ = blocks.DropCaches()
	toBucket.SetTimes(testserver.Fault{Flip: 100_000}, 1)
	got := make([]byte, len(data))
	if err := blocks.ReadAt(t.Context(), block.Ref{ID: id, Size: uint32(len(data))}, got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("a bit that flipped once: %v", err)
	}
	w.kept(errs...)
}

// TestDamage: an object that was changed in the bucket is noticed, however it comes.
func TestDamage(t *testing.T) {
	each(t, func(t *testing.T, b backend, objects object.Store) {
		w := newWorld(t, objects, nil)
		s := w.session(true)
		blocks := w.blocks(t, w.client(t, s, nil), nil)
		id, other := s.alloc(), s.alloc()
		data := content(1, 200_000)
		for _, id := range []block.ID{id, other} {
			if err := blocks.Put(t.Context(), id, data); err != nil {
				t.Fatal(err)
			}
		}
		ref := block.Ref{ID: id, Size: uint32(len(data))}
		key := w.volume.Blocks.Key(id)
		body, info, err := objects.Get(t.Context(), key, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		good, err := io.ReadAll(body)
		body.Close()
		if err != nil {
			t.Fatal(err)
		}
		body, _, err = objects.Get(t.Context(), w.volume.Blocks.Key(other), 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		swapped, err := io.ReadAll(body)
		body.Close()
		if err != nil {
			t.Fatal(err)
		}
		flipped := bytes.Clone(good)
		flipped[info.Size/2] ^= 1
		for name, p := range map[string][]byte{"a bit flipped": flipped, "cut": good[:info.Size-5], "another block's": swapped, "empty": {}} {
			if _, err := objects.Put(t.Context(), key, bytes.NewReader(p), int64(len(p)), nil); err != nil {
				t.Fatal(err)
			}
			_ = blocks.DropCaches()
			got := make([]byte, len(data))
			if err := blocks.ReadAt(t.Context(), ref, got, 0); !errors.Is(err, block.ErrDamaged) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := objects.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		_ = blocks.DropCaches()
		if err := blocks.ReadAt(t.Context(), ref, make([]byte, 10), 0); !errors.Is(err, block.ErrMissing) {
			t.Errorf("missing: %v", err)
		}
		w.kept()
	})
}

// TestWhomToTrust: the gate must show the certificate that is pinned, signed URLs
// must be of TLS, and nobody is followed elsewhere.
func TestWhomToTrust(t *testing.T) {
	w := newWorld(t, inMemory(t), nil)
	s := w.session(true)
	id := s.alloc()
	key := block.Key(block.DefaultPrefix, id)
	read := func(c *Client) error {
		_, err := c.ReadRange(t.Context(), key, make([]byte, 5), 0)
		return err
	}
	if err := read(w.client(t, s, func(cfg *ClientConfig) { cfg.TLS = nil })); !errors.Is(err, object.ErrAccess) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate that is not pinned: %v", err)
	}
	elsewhere := 0
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	defer other.Close()
	grantOf := func(g string) *Client {
		fake := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(rw, `{"grants":[%s]}`, g)
		}))
		t.Cleanup(fake.Close)
		cfg := w.config(s)
		cfg.URL = fake.URL
		cfg.TLS.RootCAs.AddCert(fake.Certificate())
		c, err := NewClient(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	err := read(grantOf(`{"method":"GET","url":"http://bucket.example.com/k?X-Amz-Signature=abc","life_ms":60000}`))
	if !errors.Is(err, object.ErrAccess) || !strings.Contains(err.Error(), "TLS") {
		t.Errorf("a signed URL without TLS: %v", err)
	}
	w.kept(err)
	bounce := httptest.NewServer(http.RedirectHandler(other.URL+"/?X-Amz-Signature=abc", http.StatusTemporaryRedirect))
	defer bounce.Close()
	err = read(grantOf(`{"method":"GET","url":"` + bounce.URL + `/k?X-Amz-Signature=abc","life_ms":60000}`))
	if !errors.Is(err, object.ErrInvalid) || elsewhere != 0 {
		t.Errorf("a redirection: %v, followed %d times", err, elsewhere)
	}
	w.kept(err)
	for _, g := range []string{"", "{}", `{"method":"PUT","url":"` + other.URL + `"}`, `{"url":"x","through":"object"}`, `{"through":"object"},{"through":"object"}`, `null`} {
		if err := read(grantOf(g)); !errors.Is(err, object.ErrUnavailable) || elsewhere != 0 {
			t.Errorf("answer %s: %v", g, err)
		}
	}
	for _, g := range []string{`{"method":"GET","url":":"}`, `{"method":"GET","url":"ftp://x/"}`, `{"method":"GET","url":"https://user:pass@x/"}`, `{"through":"something"}`} {
		if err := read(grantOf(g)); err == nil {
			t.Errorf("answer %s: no error", g)
		}
	}
	for _, text := range []string{"", "meta.example.com:7700", "ftp://x", "https://u:p@x", "https://x/?a=b"} {
		if _, err := NewClient(ClientConfig{URL: text, Session: w.config(s).Session}); !errors.Is(err, object.ErrInvalid) {
			t.Errorf("address %q: %v", text, err)
		}
	}
}

// TestOtherKeys: a client has blocks and nothing else.
func TestOtherKeys(t *testing.T) {
	w := newWorld(t, inMemory(t), nil)
	c := w.client(t, w.session(true), nil)
	ctx := t.Context()
	for _, key := range []string{"", "k", "blocks/", "blocks/01/1", "blocks/02/0000000000000001", "blocks/01/0000000000000001/x", "blocks/plain/1", "../x"} {
		_, _, err := c.Get(ctx, key, 0, -1)
		_, rerr := c.ReadRange(ctx, key, make([]byte, 1), 0)
		_, perr := c.Put(ctx, key, strings.NewReader("x"), 1, nil)
		for op, err := range map[string]error{"get": err, "read": rerr, "put": perr} {
			var oe *object.Error
			if !errors.Is(err, object.ErrInvalid) || !errors.As(err, &oe) {
				t.Errorf("%s %q: %v", op, key, err)
			}
		}
	}
	key := block.Key("blocks/", 1)
	_, lerr := c.List(ctx, object.ListOptions{})
	_, cerr := c.Copy(ctx, key, key, nil)
	_, merr := c.Put(ctx, key, strings.NewReader("x"), 1, &object.PutOptions{IfMatch: "e"})
	_, serr := c.Put(ctx, key, strings.NewReader("x"), -1, &object.PutOptions{StorageClass: "e"})
	_, uerr := c.Put(ctx, key, io.MultiReader(strings.NewReader("x")), -1, nil)
	for op, err := range map[string]error{"delete": c.Delete(ctx, key), "list": lerr, "copy": cerr, "if match": merr, "class": serr, "unknown length": uerr} {
		var oe *object.Error
		if !errors.Is(err, object.ErrUnsupported) || !errors.As(err, &oe) {
			t.Errorf("%s: %v", op, err)
		}
	}
	if w.posts != 0 {
		t.Errorf("%d requests were sent for that", w.posts)
	}
}

// TestSessionProvider: what it says of a session is what callers get.
func TestSessionProvider(t *testing.T) {
	w := newWorld(t, inMemory(t), nil)
	s := w.session(true)
	over := fmt.Errorf("%w: the token was revoked", object.ErrAccess)
	c := w.client(t, s, func(cfg *ClientConfig) {
		cfg.Session = func(context.Context) (string, string, error) { return "", "", over }
	})
	key := block.Key("blocks/", 1)
	if _, err := c.Head(t.Context(), key); !errors.Is(err, over) {
		t.Errorf("a session that is over: %v", err)
	}
	// A number that the server does not know may be one that it will know again.
	c = w.client(t, s, func(cfg *ClientConfig) {
		cfg.Session = func(context.Context) (string, string, error) { return "session-12345", s.secret, nil }
	})
	if _, err := c.Head(t.Context(), key); !retry.Retryable(err) {
		t.Errorf("an unknown session: %v", err)
	}
	c.Close()
	if _, err := c.Head(t.Context(), key); !errors.Is(err, context.Canceled) {
		t.Errorf("after close: %v", err)
	}
}
