package objecttest

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/massif-fs/massif/object"
)

// signed makes a signed request, with changes, and returns status and body.
func (s *suite) signed(t *testing.T, r object.SignedRequest, body []byte, change func(*http.Request)) (int, []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range r.Header {
		req.Header[name] = values
	}
	if change != nil {
		change(req)
	}
	resp, err := s.HTTP.Do(req)
	if err != nil {
		// A server may end the connection instead of reading a body that it refuses.
		return 0, nil
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil
	}
	return resp.StatusCode, got
}

func ok(status int) bool { return status >= 200 && status < 300 }

func (s *suite) testPresign(t *testing.T, store object.Store) {
	p, can := object.As[object.Presigner](store)
	if !can {
		t.Skip("the store signs no requests")
	}
	ctx := t.Context()
	data, other := content(1, 100_000), content(2, 100_000)
	put(t, store, "dir/a b", data, nil)
	put(t, store, "dir/c", other, nil)

	get, err := p.PresignGet(ctx, "dir/a b", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if get.Life <= 0 || get.Life > time.Minute {
		t.Errorf("asked for a minute, signed for %v", get.Life)
	}
	hidden(t, get)
	if status, got := s.signed(t, get, nil, nil); status != http.StatusOK || !bytes.Equal(got, data) {
		t.Errorf("get: status %d, %d bytes", status, len(got))
	}
	status, got := s.signed(t, get, nil, func(r *http.Request) { r.Header.Set("Range", "bytes=1000-1999") })
	if status != http.StatusPartialContent || !bytes.Equal(got, data[1000:2000]) {
		t.Errorf("get of a range: status %d, %d bytes", status, len(got))
	}
	// It is good for nothing else.
	for name, change := range map[string]func(*http.Request){
		"another key": func(r *http.Request) { r.URL.Path, r.URL.RawPath = strings.Replace(r.URL.Path, "a b", "c", 1), "" },
		"put":         func(r *http.Request) { r.Method = http.MethodPut },
		"delete":      func(r *http.Request) { r.Method = http.MethodDelete },
		"no query":    func(r *http.Request) { r.URL.RawQuery = "" },
	} {
		if status, _ := s.signed(t, get, nil, change); ok(status) {
			t.Errorf("signed get used for %s: status %d", name, status)
		}
	}
	if later, _ := longer(get.URL); later != "" {
		forged := get
		forged.URL = later
		if status, _ := s.signed(t, forged, nil, nil); ok(status) {
			t.Errorf("a signed get whose expiry was changed: status %d", status)
		}
	}
	wantContent(t, store, "dir/a b", data)
	if missing, err := p.PresignGet(ctx, "dir/none", time.Minute); err != nil {
		t.Errorf("sign get of a missing object: %v", err)
	} else if status, _ := s.signed(t, missing, nil, nil); status != http.StatusNotFound {
		t.Errorf("signed get of a missing object: status %d", status)
	}

	sum := crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
	fresh, err := p.PresignPut(ctx, "dir/new", int64(len(data)), &sum, time.Minute, nil)
	if err != nil {
		t.Fatal(err)
	}
	hidden(t, fresh)
	for name, body := range map[string][]byte{"a shorter body": data[:99_999], "a longer body": append(content(1, 100_000), 1), "no body": nil} {
		if status, _ := s.signed(t, fresh, body, nil); ok(status) {
			t.Errorf("signed put with %s: status %d", name, status)
		}
	}
	if status, _ := s.signed(t, fresh, other, nil); ok(status) && len(fresh.Header) > 0 && strings.Contains(strings.ToLower(fmt.Sprint(fresh.Header)), "checksum") {
		t.Errorf("signed put of other bytes than the checksum's: status %d", status)
	}
	if status, body := s.signed(t, fresh, data, nil); !ok(status) {
		t.Errorf("signed put: status %d %s", status, brief(body))
	}
	wantContent(t, store, "dir/new", data)

	absent, err := p.PresignPut(ctx, "dir/once", 100_000, nil, time.Minute, &object.PutOptions{IfAbsent: true})
	if !store.Capabilities().PutIfAbsent {
		wantError(t, "sign conditional put", err, object.ErrUnsupported)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if status, body := s.signed(t, absent, data, nil); !ok(status) {
		t.Errorf("signed put if absent: status %d %s", status, brief(body))
	}
	if status, _ := s.signed(t, absent, other, nil); status != http.StatusPreconditionFailed {
		t.Errorf("signed put if absent, once more: status %d, want 412", status)
	}
	for name, change := range map[string]func(*http.Request){
		"without its condition": func(r *http.Request) { r.Header.Del("If-None-Match") },
		"with another":          func(r *http.Request) { r.Header.Set("If-None-Match", `"x"`) },
		"to another key":        func(r *http.Request) { r.URL.Path, r.URL.RawPath = strings.Replace(r.URL.Path, "once", "c", 1), "" },
	} {
		if status, _ := s.signed(t, absent, other, change); ok(status) {
			t.Errorf("signed put if absent used %s: status %d", name, status)
		}
	}
	wantContent(t, store, "dir/once", data)
	wantContent(t, store, "dir/c", other)

	for _, life := range []time.Duration{0, -time.Second, time.Millisecond, 8 * 24 * time.Hour} {
		_, err := p.PresignGet(ctx, "dir/c", life)
		wantError(t, fmt.Sprintf("sign get for %v", life), err, object.ErrInvalid)
	}
	_, err = p.PresignGet(ctx, "", time.Minute)
	wantError(t, "sign get of no key", err, object.ErrInvalid)
	_, err = p.PresignPut(ctx, "dir/c", -1, nil, time.Minute, nil)
	wantError(t, "sign put of unknown size", err, object.ErrInvalid)
}

// longer changes the expiry of a signed URL, where it is to be seen.
func longer(signed string) (string, bool) {
	u, err := url.Parse(signed)
	if err != nil {
		return "", false
	}
	q := u.Query()
	if q.Get("X-Amz-Expires") == "" {
		return "", false
	}
	q.Set("X-Amz-Expires", "86400")
	u.RawQuery = q.Encode()
	return u.String(), true
}

// hidden checks that a signed request does not print what it is signed with.
func hidden(t *testing.T, r object.SignedRequest) {
	t.Helper()
	u, err := url.Parse(r.URL)
	if err != nil {
		t.Fatalf("sign: the URL cannot be parsed")
	}
	for _, text := range []string{fmt.Sprint(r), fmt.Sprintf("%+v", r), fmt.Sprintf("%#v", r), r.LogValue().String()} {
		for _, values := range u.Query() {
			for _, v := range values {
				if len(v) > 8 && strings.Contains(text, v) {
					t.Errorf("a signed request prints a part of its query")
				}
			}
		}
	}
}

// testPresignExpired uses requests after their life.
func (s *suite) testPresignExpired(t *testing.T, store object.Store) {
	p, can := object.As[object.Presigner](store)
	if !can {
		t.Skip("the store signs no requests")
	}
	data := content(1, 1000)
	put(t, store, "a", data, nil)
	get, err := p.PresignGet(t.Context(), "a", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	create, err := p.PresignPut(t.Context(), "b", 1000, nil, time.Second, nil)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2500 * time.Millisecond) // what is tested is the server's clock, in whole seconds
	if status, _ := s.signed(t, get, nil, nil); status != http.StatusForbidden && status != http.StatusUnauthorized && status != http.StatusBadRequest {
		t.Errorf("signed get after its life: status %d", status)
	}
	if status, _ := s.signed(t, create, data, nil); ok(status) {
		t.Errorf("signed put after its life: status %d", status)
	}
	wantAbsent(t, store, "b")
}
