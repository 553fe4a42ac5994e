package blockgate

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/vfs"
)

func FuzzGrantRequest(f *testing.F) {
	sum := uint32(5)
	good, err := json.Marshal(grantRequest{Reads: []readRequest{{1, 2, 3}}, Writes: []writeRequest{{4, 5, &sum}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	for _, text := range []string{"", "{}", `{"reads":[{"block":0}]}`, `{"reads":[{"block":18446744073709551615}]}`, `{"writes":[{"block":1,"size":-1}]}`, `[[[[[[`, `{"reads":null}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		q, err := decodeGrants(bytes.NewReader(p))
		if err != nil {
			if !errors.Is(err, object.ErrInvalid) {
				t.Fatalf("%v is not ErrInvalid", err)
			}
			return
		}
		if n := len(q.Reads) + len(q.Writes); n < 1 || n > maxBatch {
			t.Fatalf("%d blocks", n)
		}
		for _, r := range q.Reads {
			if r.Block == 0 || r.Block > maxBlockID || r.Ino > vfs.MaxIno {
				t.Fatalf("%+v", r)
			}
		}
		for _, w := range q.Writes {
			if w.Block == 0 || w.Block > maxBlockID || w.Size < 1 || w.Size > block.MaxObject {
				t.Fatalf("%+v", w)
			}
		}
		again, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeGrants(bytes.NewReader(again)); err != nil && len(again) <= maxRequest {
			t.Fatalf("encoded again: %v", err)
		}
	})
}

func FuzzGrantReply(f *testing.F) {
	for _, text := range []string{`{"grants":[{"method":"GET","url":"https://x/y?z","life_ms":1,"header":{"A":["b"]}}]}`, `{"grants":[{"through":"plain"}]}`, `{"grants":[{"code":"denied","message":"no"}]}`, `{"grants":[null]}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		var reply grantReply
		if decode(bytes.NewReader(p), maxReply, &reply) != nil {
			return
		}
		for i := range reply.Grants {
			g := &reply.Grants[i]
			if g.Code != "" {
				if text := g.error().Error(); strings.ContainsAny(text, "\n\r\x00") || len(text) > 300 {
					t.Fatalf("error text %q", text)
				}
				continue
			}
			c := &Client{}
			if r, err := c.toBucket(t.Context(), g, nil); err == nil && (r.URL.Host == "" || r.URL.User != nil) {
				t.Fatalf("a request to %q", r.URL.Host)
			}
		}
	})
}

func FuzzQuery(f *testing.F) {
	f.Add("ino=1&chunk=2&off=3&len=4", "bytes=1-2", "0123456789abcdef", "00ff00ff")
	f.Add("ino=&chunk=", "bytes=5-", "0000000000000000", "")
	f.Add("off=99999999999999999999", "bytes=-1", "xyz", "zzzzzzzz")
	f.Fuzz(func(t *testing.T, query, span, id, sum string) {
		if v, err := url.ParseQuery(query); err == nil {
			if p, err := parsePlace(v); err == nil && p.ino > vfs.MaxIno {
				t.Fatalf("%+v", p)
			}
			if off, n, err := parsePlain(v); err == nil && (off > block.MaxSize || n < 1 || n > maxPlain) {
				t.Fatalf("%d bytes at %d", n, off)
			}
		}
		if off, n, err := parseRange(span); err == nil && (off < 0 || n == 0 || off+n < -1) {
			t.Fatalf("range %d, %d", off, n)
		}
		if b, err := parseID(id); err == nil && (b == 0 || !strings.EqualFold(formatID(b), id)) {
			t.Fatalf("block %q is %d", id, b)
		}
		if s, ok, err := parseSum(sum); err == nil && ok && !strings.EqualFold(formatSum(s), sum) {
			t.Fatalf("checksum %q is %d", sum, s)
		}
	})
}

// TestCodes: each error comes through the wire as one that means the same.
func TestCodes(t *testing.T) {
	seen := make(map[string]bool)
	for _, c := range codes {
		ref, status := refuse(&object.Error{Op: "get", Key: "k at secret.example.com", Err: c.err})
		if ref.Code != c.code || status != c.status {
			t.Errorf("%v is refused as %q, %d; want %q, %d", c.err, ref.Code, status, c.code, c.status)
		}
		if strings.Contains(ref.Message, "secret") || ref.Message == "" {
			t.Errorf("%v tells the client %q", c.err, ref.Message)
		}
		if seen[c.code] {
			t.Errorf("code %q is there twice", c.code)
		}
		seen[c.code] = true
		err := ref.error()
		switch c.code {
		case "denied":
			err = errors.Join(err, errors.New(""))
			if !errors.Is(err, object.ErrAccess) {
				t.Errorf("denied comes as %v", err)
			}
		case "session":
			if !errors.Is(err, object.ErrUnavailable) {
				t.Errorf("session comes as %v", err)
			}
		case "damaged":
			if !errors.Is(err, object.ErrCorrupt) {
				t.Errorf("damaged comes as %v", err)
			}
		default:
			if !errors.Is(err, c.err) {
				t.Errorf("%v comes as %v", c.err, err)
			}
		}
	}
	if ref, status := refuse(errors.New("disk /var/x on fire")); ref.Code != "unavailable" || strings.Contains(ref.Message, "/var") || status != 503 {
		t.Errorf("an unknown error is refused as %+v, %d", ref, status)
	}
}

// TestRanges compares covers, within and redact with what they mean, byte by byte.
func TestRanges(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		size := 1 + r.IntN(20)
		have := make([]bool, 64)
		var ranges []block.Range
		var spans []block.Span
		next := 0
		for range r.IntN(5) {
			off, n := r.IntN(size), r.IntN(size)
			n = min(n, size-off)
			ranges = append(ranges, block.Range{Off: uint32(off), Len: uint32(n)})
			for i := range n {
				have[off+i] = true
			}
		}
		all := true
		for i := range size {
			all = all && have[i]
		}
		if covers(ranges, uint32(size)) != all {
			t.Fatalf("covers(%v, %d) is %v", ranges, size, !all)
		}
		off, n := r.IntN(size+2), 1+r.IntN(size)
		inside := true
		for i := off; i < off+n; i++ {
			inside = inside && have[i]
		}
		if within(ranges, uint32(off), n) != inside {
			t.Fatalf("within(%v, %d, %d) is %v", ranges, off, n, !inside)
		}
		keep := make([]bool, 64)
		for next < 40 && r.IntN(4) > 0 {
			s := block.Span{Off: int64(next + r.IntN(5)), Len: int64(1 + r.IntN(6))}
			spans = append(spans, s)
			for i := s.Off; i < s.Off+s.Len; i++ {
				keep[i] = true
			}
			next = int(s.Off+s.Len) + 1
		}
		p := bytes.Repeat([]byte{1}, 1+r.IntN(12))
		at := r.IntN(40)
		redact(p, int64(at), spans)
		for i := range p {
			if (p[i] == 1) != keep[at+i] {
				t.Fatalf("redact at %d by %v: byte %d is %d", at, spans, at+i, p[i])
			}
		}
	}
}

// TestRecent: what is used stays, and no more than twice the limit is kept.
func TestRecent(t *testing.T) {
	r := recent[int, int]{limit: 10}
	for i := range 1000 {
		r.put(i, i*i)
		if v, ok := r.get(i); !ok || v != i*i {
			t.Fatalf("%d is not there", i)
		}
		r.put(-1, 1) // used all the time
		if _, ok := r.get(-1); !ok {
			t.Fatal("what is used was forgotten")
		}
		if n := len(r.young) + len(r.old); n > 20 {
			t.Fatalf("%d entries", n)
		}
		for j := max(0, i-7); j <= i; j++ {
			if _, ok := r.old[j]; !ok {
				if _, ok := r.young[j]; !ok {
					t.Fatalf("after %d, %d was forgotten", i, j)
				}
			}
		}
	}
	r.drop(999)
	if _, ok := r.get(999); ok {
		t.Error("what was dropped is there")
	}
	if _, ok := r.get(5); ok {
		t.Error("the oldest is there")
	}
}
