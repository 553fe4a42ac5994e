package blockgate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/object"
)

// hostile is a client that checks nothing and asks for everything.
type hostile struct {
	t      testing.TB
	w      *world
	name   string
	secret string
	http   *http.Client
}

func (w *world) hostile(t testing.TB, s *fakeSession) *hostile {
	cfg := w.config(s)
	tr := &http.Transport{TLSClientConfig: cfg.TLS}
	t.Cleanup(tr.CloseIdleConnections)
	return &hostile{t, w, s.name, s.secret, &http.Client{Transport: tr}}
}

func (h *hostile) do(method, path string, body []byte, header ...string) (int, []byte, http.Header) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 20*time.Second)
	defer cancel()
	target := path
	if !strings.HasPrefix(path, "http") {
		target = h.w.server.URL + Path + path
	}
	r, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	if target != path {
		r.Header.Set(sessionHeader, h.name)
		r.Header.Set("Authorization", "Bearer "+h.secret)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := h.http.Do(r)
	if err != nil {
		return 0, nil, nil // cut
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, got, nil
	}
	return resp.StatusCode, got, resp.Header
}

func (h *hostile) grants(q grantRequest) []grant {
	h.t.Helper()
	text, err := json.Marshal(q)
	if err != nil {
		h.t.Fatal(err)
	}
	status, body, _ := h.do("POST", "grants", text)
	var reply grantReply
	if status != http.StatusOK || json.Unmarshal(body, &reply) != nil || len(reply.Grants) != len(q.Reads)+len(q.Writes) {
		h.t.Fatalf("grants: status %d %s", status, body)
	}
	return reply.Grants
}

func (h *hostile) readGrant(id block.ID, at place) grant {
	h.t.Helper()
	return h.grants(grantRequest{Reads: []readRequest{{uint64(id), at.ino, at.chunk}}})[0]
}

func (h *hostile) writeGrant(id block.ID, size int64) grant {
	h.t.Helper()
	return h.grants(grantRequest{Writes: []writeRequest{{uint64(id), size, nil}}})[0]
}

// use makes a signed request.
func (h *hostile) use(g grant, body []byte) (int, []byte) {
	h.t.Helper()
	var header []string
	for name, v := range g.Header {
		header = append(header, name, v[0])
	}
	status, got, _ := h.do(g.Method, g.URL, body, header...)
	return status, got
}

func (h *hostile) get(id block.ID, at place) (int, []byte) {
	h.t.Helper()
	status, body, _ := h.do("GET", "object/"+formatID(id)+"?"+at.values().Encode(), nil)
	return status, body
}

func (h *hostile) plain(id block.ID, at place, off, n int) (int, []byte) {
	h.t.Helper()
	v := at.values()
	v.Set("off", strconv.Itoa(off))
	v.Set("len", strconv.Itoa(n))
	status, body, _ := h.do("GET", "plain/"+formatID(id)+"?"+v.Encode(), nil)
	return status, body
}

func (h *hostile) put(id block.ID, body []byte) int {
	h.t.Helper()
	status, _, _ := h.do("PUT", "object/"+formatID(id), body, sumHeader, formatSum(crc32.Checksum(body, castagnoli)))
	return status
}

func isOK(status int) bool { return status >= 200 && status < 300 }

// stage is a volume as hostile clients meet it: alice sees all of it and has written
// a block of a file in mallory's directory, one of a file outside, and a pack with a
// piece of each.
type stage struct {
	*world
	alice, mallory            *fakeSession
	inside, outside, pack     block.ID
	insideData, outsideData   []byte
	packData                  []byte
	insideFile, outsideFile   place
	packInside, packOutside   place
	piece                     block.Range // of the pack, mallory's
	inPack, outsidePackMarker []byte
}

func newStage(t *testing.T, objects object.Store, sealer block.Sealer, change func(*Config)) *stage {
	w := newWorld(t, objects, change)
	w.volume.Sealed = sealer != nil
	st := &stage{world: w, alice: w.session(true), mallory: w.session(false),
		insideFile: place{10, 0}, outsideFile: place{20, 3}, packInside: place{11, 0}, packOutside: place{21, 0},
		insideData: content(1, 150_000), outsideData: content(2, 150_000)}
	st.inPack, st.outsidePackMarker = content(3, 9_000), bytes.Repeat([]byte("the neighbour's secret. "), 5000)
	st.piece = block.Range{Off: 130_000, Len: 9_000}
	st.packData = bytes.Clone(st.outsidePackMarker[:100_000])
	st.packData = append(st.packData, content(4, 30_000)...)
	st.packData = append(st.packData, st.inPack...)
	st.packData = append(st.packData, content(5, 150_000)...)
	blocks := w.blocks(t, w.client(t, st.alice, nil), func(cfg *block.Config) { cfg.Sealer = sealer })
	for _, b := range []struct {
		id   *block.ID
		data []byte
	}{{&st.inside, st.insideData}, {&st.outside, st.outsideData}, {&st.pack, st.packData}} {
		*b.id = st.alice.alloc()
		if err := blocks.Put(t.Context(), *b.id, b.data); err != nil {
			t.Fatal(err)
		}
		st.alice.commit(*b.id)
	}
	st.mallory.own(10, 0, st.inside, uint32(len(st.insideData)), block.Range{Off: 0, Len: uint32(len(st.insideData))})
	st.mallory.own(11, 0, st.pack, uint32(len(st.packData)), st.piece)
	return st
}

// TestScope: a session that is confined to a directory reads what is there, and by
// no request anything else.
func TestScope(t *testing.T) {
	each(t, func(t *testing.T, b backend, objects object.Store) {
		st := newStage(t, objects, nil, nil)
		// The client that does as it should.
		c := st.client(t, st.mallory, nil)
		blocks := st.blocks(t, c, nil)
		c.Refer(10, 0, st.inside)
		c.Refer(11, 0, st.pack, 0)
		got := make([]byte, len(st.insideData))
		if err := blocks.ReadAt(t.Context(), block.Ref{ID: st.inside, Size: uint32(len(got))}, got, 0); err != nil || !bytes.Equal(got, st.insideData) {
			t.Errorf("a block of his file: %v", err)
		}
		pack := block.Ref{ID: st.pack, Size: uint32(len(st.packData))}
		for range 2 {
			got = make([]byte, st.piece.Len)
			if err := blocks.ReadAt(t.Context(), pack, got, st.piece.Off); err != nil || !bytes.Equal(got, st.inPack) {
				t.Errorf("his piece of a pack: %v", err)
			}
		}
		blocks.Prefetch(pack, st.piece.Off, st.piece.Len)
		if err := blocks.ReadAt(t.Context(), pack, make([]byte, 100), st.piece.Off-1); !errors.Is(err, block.ErrMissing) {
			t.Errorf("a byte before his piece: %v", err)
		}
		c.Refer(11, 0, st.outside, st.pack)
		for _, id := range []block.ID{st.outside, 999} {
			if err := blocks.ReadAt(t.Context(), block.Ref{ID: id, Size: 150_000}, make([]byte, 100), 0); !errors.Is(err, block.ErrMissing) {
				t.Errorf("block %d, which is none of his: %v", id, err)
			}
		}

		// The one that does not.
		m := st.hostile(t, st.mallory)
		all := []place{{}, st.insideFile, st.packInside, st.outsideFile, st.packOutside, {1, 0}, {10, 1}, {1 << 47, 1<<32 - 1}}
		for _, at := range all {
			if at != st.insideFile {
				if g := m.readGrant(st.inside, at); g.Code != "missing" {
					t.Errorf("grant for his block by another file: %v", g.Code)
				}
			}
			if g := m.readGrant(st.outside, at); g.Code != "missing" || g.URL != "" || g.Through != "" {
				t.Errorf("grant for a block outside as of %v: %v", at, g.Code)
			}
			if status, body := m.get(st.outside, at); status != http.StatusNotFound || leaks(body, st) {
				t.Errorf("block outside as of %v: status %d", at, status)
			}
			if g := m.readGrant(st.pack, at); at == st.packInside && (g.Through != throughPlain || g.URL != "") || at != st.packInside && g.Code != "missing" {
				t.Errorf("grant for the pack as of %v: %q %q", at, g.Code, g.Through)
			}
			if status, body := m.get(st.pack, at); isOK(status) || leaks(body, st) {
				t.Errorf("the pack as of %v: status %d", at, status)
			}
			for _, r := range [][2]int{{0, 100}, {0, 250_000}, {129_999, 2}, {138_999, 2}, {139_000, 1}, {130_000, 9_001}, {0, 1 << 20}, {1 << 25, 1}} {
				if status, body := m.plain(st.pack, at, r[0], r[1]); isOK(status) || leaks(body, st) {
					t.Errorf("plain bytes %v of the pack as of %v: status %d", r, at, status)
				}
				if status, body := m.plain(st.outside, at, r[0], r[1]); isOK(status) || leaks(body, st) {
					t.Errorf("plain bytes %v of a block outside as of %v: status %d", r, at, status)
				}
			}
		}
		if status, body := m.plain(st.pack, st.packInside, 130_000, 9_000); status != http.StatusOK || !bytes.Equal(body, st.inPack) {
			t.Errorf("his own plain bytes: status %d", status)
		}
		st.kept()
	})
}

// leaks tells whether something of the blocks outside is in an answer.
func leaks(body []byte, st *stage) bool {
	return bytes.Contains(body, st.outsidePackMarker[:24]) || bytes.Contains(body, st.outsideData[:16]) || bytes.Contains(body, st.packData[:16])
}

// TestScopeSealed: of a pack that the server cannot open a confined session gets the
// frames that hold its bytes, and zeros for the others.
func TestScopeSealed(t *testing.T) {
	each(t, func(t *testing.T, b backend, objects object.Store) {
		sealer := newTestSealer(t)
		st := newStage(t, objects, sealer, nil)
		c := st.client(t, st.mallory, nil)
		blocks := st.blocks(t, c, func(cfg *block.Config) { cfg.Sealer = sealer })
		c.Refer(10, 0, st.inside)
		c.Refer(11, 0, st.pack)
		got := make([]byte, len(st.insideData))
		if err := blocks.ReadAt(t.Context(), block.Ref{ID: st.inside, Size: uint32(len(got))}, got, 0); err != nil || !bytes.Equal(got, st.insideData) {
			t.Errorf("a block of his file: %v", err)
		}
		pack := block.Ref{ID: st.pack, Size: uint32(len(st.packData))}
		got = make([]byte, st.piece.Len)
		if err := blocks.ReadAt(t.Context(), pack, got, st.piece.Off); err != nil || !bytes.Equal(got, st.inPack) {
			t.Errorf("his piece of a pack: %v", err)
		}
		// A frame that he was not given does not open, and is not taken for zeros.
		if err := blocks.ReadAt(t.Context(), pack, make([]byte, 100), 0); !errors.Is(err, block.ErrDamaged) {
			t.Errorf("another's frame: %v", err)
		}
		m := st.hostile(t, st.mallory)
		spans, length, err := st.volume.Blocks.Spans(t.Context(), pack, []block.Range{st.piece})
		if err != nil {
			t.Fatal(err)
		}
		body, _, err := objects.Get(t.Context(), st.volume.Blocks.Key(st.pack), 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		whole, err := io.ReadAll(body)
		body.Close()
		if err != nil || int64(len(whole)) != length {
			t.Fatalf("%d bytes, %v", len(whole), err)
		}
		status, answer := m.get(st.pack, st.packInside)
		if status != http.StatusOK || len(answer) != len(whole) {
			t.Fatalf("the pack: status %d, %d bytes", status, len(answer))
		}
		want := make([]byte, len(whole))
		for _, s := range spans {
			copy(want[s.Off:s.Off+s.Len], whole[s.Off:])
		}
		if !bytes.Equal(answer, want) {
			t.Error("the answer has other bytes than those of the spans")
		}
		if bytes.Equal(want, whole) || len(spans) != 2 {
			t.Errorf("all of the pack is in %d spans", len(spans))
		}
		if g := m.readGrant(st.pack, st.packInside); g.Through != throughObject || g.URL != "" {
			t.Errorf("grant for the pack: %q, signed %v", g.Through, g.URL != "")
		}
		if status, _ := m.plain(st.pack, st.packInside, 130_000, 9_000); status != http.StatusNotImplemented {
			t.Errorf("plain bytes of a sealed block: status %d", status)
		}
		if status, body := m.get(st.pack, st.outsideFile); status != http.StatusNotFound || len(body) > 500 {
			t.Errorf("the pack as of another's file: status %d", status)
		}
	})
}

// TestWrites: a session writes blocks that were allocated to it, once, and no
// others.
func TestWrites(t *testing.T) {
	each(t, func(t *testing.T, b backend, objects object.Store) {
		st := newStage(t, objects, nil, nil)
		bob, reader := st.session(true), st.session(true)
		reader.readOnly = true
		theirs, readers, mine := bob.alloc(), reader.alloc(), st.mallory.alloc()
		data := content(9, 10_000)
		m := st.hostile(t, st.mallory)
		denied := map[string]block.ID{"a committed block": st.inside, "a block outside": st.outside, "another session's": theirs, "one that nobody has": 10_000}
		for name, id := range denied {
			if g := m.writeGrant(id, 10_000); g.Code != "denied" || g.URL != "" {
				t.Errorf("grant to write %s: %q", name, g.Code)
			}
			if status := m.put(id, data); status != http.StatusForbidden {
				t.Errorf("put of %s: status %d", name, status)
			}
		}
		r := st.hostile(t, reader)
		if g := r.writeGrant(readers, 10_000); g.Code != "denied" {
			t.Errorf("grant to write to a read-only session: %q", g.Code)
		}
		if status := r.put(readers, data); status != http.StatusForbidden {
			t.Errorf("put of a read-only session: status %d", status)
		}
		// Its own, of the announced length and content, once: also with a grant
		// that was kept until after the commit.
		kept := m.writeGrant(mine, 10_000)
		write := func(p []byte) int {
			if b.signs {
				status, _ := m.use(kept, p)
				return status
			}
			return m.put(mine, p)
		}
		if b.signs != (kept.URL != "") {
			t.Fatalf("grant through %q", kept.Through)
		}
		if b.signs {
			for _, p := range [][]byte{data[:9_999], append(bytes.Clone(data), 1), nil} {
				if status := write(p); isOK(status) {
					t.Errorf("put of %d bytes by a grant for 10000: status %d", len(p), status)
				}
			}
		} else {
			status, _, _ := m.do("PUT", "object/"+formatID(mine), data, sumHeader, "00000000")
			if isOK(status) {
				t.Errorf("put of bytes that do not fit their checksum: status %d", status)
			}
		}
		if status := write(data); !isOK(status) {
			t.Fatalf("put of its own block: status %d", status)
		}
		for _, when := range []string{"before", "after"} {
			if status := write(content(10, 10_000)); status != http.StatusPreconditionFailed && status != http.StatusForbidden {
				t.Errorf("put once more %s the commit: status %d", when, status)
			}
			if status := m.put(mine, content(10, 10_000)); status != http.StatusPreconditionFailed && status != http.StatusForbidden {
				t.Errorf("put once more through the server %s the commit: status %d", when, status)
			}
			st.mallory.commit(mine)
		}
		body, _, err := objects.Get(t.Context(), st.volume.Blocks.Key(mine), 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		body.Close()
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("the block has other bytes: %v", err)
		}
		// Nothing is deleted, by nobody.
		for _, h := range []*hostile{m, st.hostile(t, st.alice)} {
			for _, path := range []string{"object/" + formatID(mine), "object/" + formatID(st.inside), "plain/" + formatID(mine), "grants", ""} {
				for _, method := range []string{"DELETE", "POST", "PATCH", "COPY"} {
					if status, _, _ := h.do(method, path, nil); isOK(status) {
						t.Errorf("%s %s: status %d", method, path, status)
					}
				}
			}
			for _, g := range []grant{h.readGrant(st.inside, st.insideFile)} {
				if g.URL == "" {
					continue
				}
				for _, method := range []string{"DELETE", "PUT", "HEAD", "POST"} {
					used := g
					used.Method = method
					if status, _ := h.use(used, data); isOK(status) {
						t.Errorf("%s by a grant to read: status %d", method, status)
					}
				}
			}
		}
		if _, err := objects.Head(t.Context(), st.volume.Blocks.Key(st.inside)); err != nil {
			t.Error(err)
		}
	})
}

// TestRacingWrites: of many puts of one block through the server, one wins, whether
// or not the store has conditional puts.
func TestRacingWrites(t *testing.T) {
	for _, conditional := range []bool{true, false} {
		t.Run(fmt.Sprint(conditional), func(t *testing.T) {
			objects := object.Store(backends[0].open(t))
			if !conditional {
				objects = unconditional{objects}
			}
			w := newWorld(t, objects, nil)
			s := w.session(true)
			h := w.hostile(t, s)
			for range 5 {
				id := s.alloc()
				var wg sync.WaitGroup
				statuses := make([]int, 8)
				for i := range statuses {
					wg.Go(func() { statuses[i] = h.put(id, content(uint64(i), 100_000)) })
				}
				wg.Wait()
				won := -1
				for i, status := range statuses {
					switch {
					case isOK(status) && won >= 0:
						t.Fatalf("two puts of a block: %v", statuses)
					case isOK(status):
						won = i
					}
				}
				if won < 0 {
					t.Fatalf("nobody won: %v", statuses)
				}
				if status, body := h.get(id, place{}); status != http.StatusOK || !bytes.Equal(body, content(uint64(won), 100_000)) {
					t.Errorf("the block is not the winner's: status %d", status)
				}
			}
		})
	}
}

// unconditional hides the conditional put of a store.
type unconditional struct{ object.Store }

func (u unconditional) Capabilities() object.Capabilities {
	c := u.Store.Capabilities()
	c.PutIfAbsent = false
	return c
}

func (u unconditional) Put(ctx context.Context, key string, body io.Reader, size int64, opts *object.PutOptions) (object.Info, error) {
	if opts != nil && opts.IfAbsent {
		return object.Info{}, &object.Error{Op: "put", Key: key, Err: object.ErrUnsupported}
	}
	return u.Store.Put(ctx, key, body, size, opts)
}

// TestAuthentication: who is no live session gets nothing, and is not told why.
func TestAuthentication(t *testing.T) {
	st := newStage(t, backends[0].open(t), nil, nil)
	good := st.hostile(t, st.alice)
	if status, _ := good.get(st.inside, place{}); status != http.StatusOK {
		t.Fatalf("alice herself: status %d", status)
	}
	ended := st.session(true)
	was := st.hostile(t, ended)
	if status, _ := was.get(st.inside, place{}); status != http.StatusOK {
		t.Fatalf("a live session: status %d", status)
	}
	ended.end()
	text, _ := json.Marshal(grantRequest{Reads: []readRequest{{Block: uint64(st.inside)}}})
	var first []byte
	for name, h := range map[string]*hostile{
		"no secret":       {t, st.world, st.alice.name, "", good.http},
		"wrong secret":    {t, st.world, st.alice.name, "session-secret-x", good.http},
		"another's":       {t, st.world, st.alice.name, st.mallory.secret, good.http},
		"unknown session": {t, st.world, "session-4711", st.alice.secret, good.http},
		"ended session":   was,
		"long secret":     {t, st.world, st.alice.name, strings.Repeat("x", 1000), good.http},
	} {
		for _, r := range []struct {
			method, path string
			body         []byte
		}{{"POST", "grants", text}, {"GET", "object/" + formatID(st.inside), nil}, {"GET", "plain/" + formatID(st.inside) + "?ino=10&chunk=0&off=0&len=10", nil}, {"PUT", "object/" + formatID(st.inside), []byte("x")}} {
			status, body, _ := h.do(r.method, r.path, r.body)
			if status != http.StatusUnauthorized {
				t.Errorf("%s: %s %s: status %d", name, r.method, r.path, status)
			}
			if first == nil {
				first = body
			}
			if !bytes.Equal(body, first) {
				t.Errorf("%s: the answer tells it from others: %s", name, body)
			}
		}
	}
	for _, header := range [][]string{{sessionHeader, "x"}, {sessionHeader, ""}, {sessionHeader, strings.Repeat("x", 1000)}, {"Authorization", ""}, {"Authorization", st.alice.secret}, {"Authorization", "Basic " + st.alice.secret}} {
		if status, _, _ := good.do("GET", "object/"+formatID(st.inside), nil, header...); status != http.StatusUnauthorized {
			t.Errorf("%v: status %d", header[0], status)
		}
	}
	// Secrets in URLs are not looked at.
	good.secret = ""
	if status, _, _ := good.do("GET", "object/"+formatID(st.inside)+"?session="+st.alice.name+"&secret="+st.alice.secret, nil); status != http.StatusUnauthorized {
		t.Errorf("secret in the URL: status %d", status)
	}
	st.kept()
}

// TestEndedSession: an Authority that still knows a session that has ended makes no
// difference; nor does metadata that points beyond a block open it.
func TestEndedSession(t *testing.T) {
	st := newStage(t, inMemory(t), nil, nil)
	st.mallory.own(12, 0, st.pack, 100, block.Range{Off: 50, Len: 100_000})
	m := st.hostile(t, st.mallory)
	if g := m.readGrant(st.pack, place{12, 0}); g.Code != "corrupt" {
		t.Errorf("grant for more than the block has: %q", g.Code)
	}
	if status, _ := m.plain(st.pack, place{12, 0}, 60, 90_000); isOK(status) {
		t.Errorf("plain bytes beyond the block: status %d", status)
	}
	close(st.mallory.done)
	if status, _ := m.get(st.inside, st.insideFile); status != http.StatusUnauthorized {
		t.Errorf("a session that has ended: status %d", status)
	}
}

// TestExpiry: a signed request ends with its life, also for a session that lives.
func TestExpiry(t *testing.T) {
	st := newStage(t, backends[1].open(t), nil, func(cfg *Config) { cfg.Life = time.Second })
	h := st.hostile(t, st.alice)
	id := st.alice.alloc()
	read, write := h.readGrant(st.inside, place{}), h.writeGrant(id, 100)
	if read.LifeMillis != 1000 || write.LifeMillis != 1000 {
		t.Errorf("lives of %d and %d ms", read.LifeMillis, write.LifeMillis)
	}
	if status, _ := h.use(read, nil); status != http.StatusOK {
		t.Fatalf("read by a fresh grant: status %d", status)
	}
	time.Sleep(2500 * time.Millisecond) // the server's clock decides
	if status, _ := h.use(read, nil); isOK(status) {
		t.Errorf("read after its life: status %d", status)
	}
	if status, _ := h.use(write, content(1, 100)); isOK(status) {
		t.Errorf("write after its life: status %d", status)
	}
}

// TestBadRequests: each is refused with a sentence, and nothing else happens.
func TestBadRequests(t *testing.T) {
	w := newWorld(t, inMemory(t), nil)
	s := w.session(true)
	h := w.hostile(t, s)
	many := grantRequest{}
	for i := range maxBatch + 1 {
		many.Reads = append(many.Reads, readRequest{Block: uint64(i + 1)})
	}
	tooMany, _ := json.Marshal(many)
	for name, body := range map[string]string{
		"nothing": "", "no JSON": "hello", "empty": "{}", "null": "null", "a list": "[]", "block 0": `{"reads":[{"block":0}]}`, "block -1": `{"reads":[{"block":-1}]}`,
		"too great a block": `{"reads":[{"block":9223372036854775808}]}`, "too great an inode": `{"reads":[{"block":1,"ino":281474976710656}]}`,
		"no size": `{"writes":[{"block":1}]}`, "too great a size": `{"writes":[{"block":1,"size":999999999999}]}`, "two values": `{"reads":[{"block":1}]}{"reads":[{"block":1}]}`,
		"too many": string(tooMany), "too long": `{"reads":[{"block":1` + strings.Repeat(" ", maxRequest) + `}]}`,
	} {
		status, answer, _ := h.do("POST", "grants", []byte(body))
		var ref refusal
		if status != http.StatusBadRequest || json.Unmarshal(answer, &ref) != nil || ref.Code != "invalid" || ref.Message == "" {
			t.Errorf("%s: status %d %s", name, status, answer)
		}
	}
	id := formatID(1)
	for _, path := range []string{"object/1", "object/" + strings.Repeat("0", 16), "object/zzzzzzzzzzzzzzzz", "object/ffffffffffffffff", "object/" + id + "?ino=x&chunk=0", "object/" + id + "?ino=1",
		"object/" + id + "?ino=1&chunk=4294967296", "plain/" + id, "plain/" + id + "?ino=1&chunk=0&off=0&len=0", "plain/" + id + "?ino=1&chunk=0&off=0&len=1048577", "plain/" + id + "?ino=1&chunk=0&off=-1&len=1",
		"object/..%2f..%2fx"} {
		if status, answer, _ := h.do("GET", path, nil); status != http.StatusBadRequest {
			t.Errorf("GET %s: status %d %s", path, status, answer)
		}
	}
	for _, text := range []string{"bytes=5-1", "bytes=-5", "bytes=0-1,3-4", "lines=0-1", "bytes=x-y", "bytes=9999999999999999999-"} {
		if status, _, _ := h.do("GET", "object/"+id, nil, "Range", text); status != http.StatusBadRequest {
			t.Errorf("Range %s: status %d", text, status)
		}
	}
	for _, sum := range []string{"x", "123", "123456789"} {
		if status, _, _ := h.do("PUT", "object/"+id, []byte("x"), sumHeader, sum); status != http.StatusBadRequest {
			t.Errorf("checksum %s: status %d", sum, status)
		}
	}
	if status, _, _ := h.do("PUT", "object/"+id, nil); status != http.StatusBadRequest {
		t.Errorf("empty put: status %d", status)
	}
	put := s.alloc()
	if status := h.put(put, []byte("0123456789")); !isOK(status) {
		t.Fatalf("put: status %d", status)
	}
	if status, _, header := h.do("GET", "object/"+formatID(put), nil, "Range", "bytes=10-20"); status != http.StatusRequestedRangeNotSatisfiable || header.Get("Content-Range") != "bytes */10" {
		t.Errorf("range beyond the object: status %d, %q", status, header.Get("Content-Range"))
	}
	if status, body, header := h.do("GET", "object/"+formatID(put), nil, "Range", "bytes=8-20"); status != http.StatusPartialContent || string(body) != "89" || header.Get("Cache-Control") != "no-store" {
		t.Errorf("range across the end: status %d, %q", status, body)
	}
}

// slowBody gives its bytes when it is told to.
type slowBody struct {
	io.Reader
	started chan struct{}
	gate    chan struct{}
	once    sync.Once
}

func (s *slowBody) Read(p []byte) (int, error) {
	s.once.Do(func() { close(s.started); <-s.gate })
	return s.Reader.Read(p)
}

// TestLimits: a session with too much in flight is put off, others are not.
func TestLimits(t *testing.T) {
	w := newWorld(t, inMemory(t), func(cfg *Config) {
		cfg.SessionRequests, cfg.Patience = 1, 30*time.Millisecond
	})
	greedy, other := w.session(true), w.session(true)
	h := w.hostile(t, greedy)
	first, second := greedy.alloc(), greedy.alloc()
	slow := &slowBody{Reader: bytes.NewReader(content(1, 100)), started: make(chan struct{}), gate: make(chan struct{})}
	result := make(chan int)
	go func() {
		r, _ := http.NewRequestWithContext(t.Context(), "PUT", w.server.URL+Path+"object/"+formatID(first), struct{ io.Reader }{slow})
		r.ContentLength = 100
		r.Header.Set(sessionHeader, h.name)
		r.Header.Set("Authorization", "Bearer "+h.secret)
		resp, err := h.http.Do(r)
		if err != nil {
			result <- 0
			return
		}
		resp.Body.Close()
		result <- resp.StatusCode
	}()
	<-slow.started
	// The server has begun with it when it knows the writer.
	for {
		w.gate.mu.Lock()
		n := len(w.gate.writing)
		w.gate.mu.Unlock()
		if n == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	status, _, header := h.do("PUT", "object/"+formatID(second), content(2, 100))
	if status != http.StatusTooManyRequests || header.Get("Retry-After") == "" {
		t.Errorf("a second request at once: status %d", status)
	}
	if status := w.hostile(t, other).put(other.alloc(), content(3, 100)); !isOK(status) {
		t.Errorf("another session: status %d", status)
	}
	close(slow.gate)
	if status := <-result; !isOK(status) {
		t.Errorf("the slow put: status %d", status)
	}
	if status := h.put(second, content(2, 100)); !isOK(status) {
		t.Errorf("afterwards: status %d", status)
	}
	w.gate.limits.mu.Lock()
	defer w.gate.limits.mu.Unlock()
	if n := len(w.gate.limits.sessions); n != 0 {
		t.Errorf("%d sessions are remembered with nothing in flight", n)
	}
}

// TestSessionEnds: what a session has under way ends with it.
func TestSessionEnds(t *testing.T) {
	w := newWorld(t, inMemory(t), nil)
	s := w.session(true)
	h := w.hostile(t, s)
	id := s.alloc()
	if status := h.put(id, content(1, 40<<20)); !isOK(status) {
		t.Fatalf("put: status %d", status)
	}
	r, _ := http.NewRequestWithContext(t.Context(), "GET", w.server.URL+Path+"object/"+formatID(id), nil)
	r.Header.Set(sessionHeader, h.name)
	r.Header.Set("Authorization", "Bearer "+h.secret)
	resp, err := h.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	s.end()
	if n, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Errorf("%d bytes came after the session's end, and no error", n)
	}
	// The same for what it sends.
	s = w.session(true)
	h = w.hostile(t, s)
	id = s.alloc()
	slow := &slowBody{Reader: bytes.NewReader(content(1, 1<<20)), started: make(chan struct{}), gate: make(chan struct{})}
	go func() {
		<-slow.started
		s.end()
		close(slow.gate)
	}()
	put, _ := http.NewRequestWithContext(t.Context(), "PUT", w.server.URL+Path+"object/"+formatID(id), struct{ io.Reader }{slow})
	put.ContentLength = 1 << 20
	put.Header = r.Header.Clone()
	put.Header.Set(sessionHeader, h.name)
	put.Header.Set("Authorization", "Bearer "+h.secret)
	presp, err := h.http.Do(put)
	if err == nil {
		presp.Body.Close()
		if isOK(presp.StatusCode) {
			t.Errorf("a put went on after its session's end: status %d", presp.StatusCode)
		}
	}
	if _, err := w.volume.Objects.Head(t.Context(), w.volume.Blocks.Key(id)); !errors.Is(err, object.ErrNotFound) {
		t.Errorf("it was stored: %v", err)
	}
}

// slowStore takes its time with what it has got.
type slowStore struct{ object.Store }

func (s slowStore) Put(ctx context.Context, key string, body io.Reader, size int64, opts *object.PutOptions) (object.Info, error) {
	p, err := io.ReadAll(body)
	if err != nil {
		return object.Info{}, err
	}
	select {
	case <-time.After(300 * time.Millisecond):
	case <-ctx.Done():
		return object.Info{}, ctx.Err()
	}
	return s.Store.Put(ctx, key, bytes.NewReader(p), size, opts)
}

// TestSlowStore: a client that has sent everything is not to blame for the time that
// the store takes.
func TestSlowStore(t *testing.T) {
	w := newWorld(t, slowStore{inMemory(t)}, func(cfg *Config) { cfg.StallTimeout = 50 * time.Millisecond })
	s := w.session(true)
	h := w.hostile(t, s)
	for range 2 { // on one connection
		if status := h.put(s.alloc(), content(1, 1000)); !isOK(status) {
			t.Errorf("put into a slow store: status %d", status)
		}
		if g := h.writeGrant(s.alloc(), 10); g.Through == "" {
			t.Errorf("grant: %q", g.Code)
		}
		time.Sleep(100 * time.Millisecond) // longer than a client may stand still
	}
}
