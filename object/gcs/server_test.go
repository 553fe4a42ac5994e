package gcs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/massif-fs/massif/internal/leak"
	"github.com/massif-fs/massif/internal/testserver"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/retry"
	"go.uber.org/goleak"
)

// wantKind checks the sentinel, and that the sentence names what people need and
// no secret.
func wantKind(t *testing.T, what string, err, kind error, words ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: %v, want %v", what, err, kind)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %q does not say %q", what, err, w)
		}
	}
	if text := err.Error(); strings.Contains(text, "secret-of") || strings.Contains(text, "upload_id") || strings.Contains(text, "\n") {
		t.Errorf("%s: %q is no sentence, or shows a secret", what, err)
	}
}

func TestMisconfigured(t *testing.T) {
	cfg := serverConfig(t)
	ctx := t.Context()
	all := func(what string, kind error, words []string, change func(*Config)) {
		t.Helper()
		c := cfg
		change(&c)
		s := mustOpen(t, c)
		_, put := s.Put(ctx, "k", bytes.NewReader(nil), 0, nil)
		_, stream := s.Put(ctx, "k", io.MultiReader(bytes.NewReader(make([]byte, 3*mib))), -1, nil)
		_, list := s.List(ctx, object.ListOptions{})
		for op, err := range map[string]error{"check": s.Check(ctx, true), "put": put, "stream": stream, "list": list} {
			wantKind(t, what+": "+op, err, kind, words...)
		}
	}
	if err := mustOpen(t, cfg).Check(ctx, true); err != nil {
		t.Errorf("all is well: %v", err)
	}
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.WriteFile(bad, []byte(`{"type":"secret-of-nobody"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	all("wrong bucket", object.ErrNoBucket, []string{"nobody", cfg.Endpoint}, func(c *Config) { c.Bucket = "nobody" })
	all("nobody listens", object.ErrUnavailable, []string{"cannot be reached", "127.0.0.1:1"}, func(c *Config) { c.Endpoint = "http://127.0.0.1:1" })
	all("no HTTPS", object.ErrInvalid, []string{"does not speak HTTPS"}, func(c *Config) { c.Endpoint = strings.Replace(c.Endpoint, "http:", "https:", 1) })
	all("no proxy", object.ErrUnavailable, []string{"127.0.0.1:1"}, func(c *Config) { c.Proxy = "http://user:secret-of-proxy@127.0.0.1:1" })
	all("missing credentials", object.ErrAccess, []string{cfg.Bucket, "cannot be read"}, func(c *Config) { c.Anonymous, c.CredentialsFile = false, "/nonexistent" })
	all("bad credentials", object.ErrAccess, []string{"holds no credentials"}, func(c *Config) { c.Anonymous, c.CredentialsFile = false, bad })
	all("ended token", object.ErrAccess, []string{"the token ended"}, func(c *Config) {
		c.Anonymous = false
		c.Tokens = func(context.Context) (string, time.Time, error) {
			return "secret-of-mine", time.Now().Add(-time.Hour), nil
		}
	})
}

// answering returns a store whose server is h, and the number of requests so far.
func answering(t *testing.T, h http.HandlerFunc, change ...func(*Config)) (*Store, *atomic.Int64) {
	t.Helper()
	var n atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		h(w, r)
	}))
	t.Cleanup(srv.Close)
	cfg := Config{Bucket: "b", Endpoint: srv.URL, Anonymous: true, PartSize: mib}
	for _, c := range change {
		c(&cfg)
	}
	return mustOpen(t, cfg), &n
}

func errorJSON(status int, reason, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"error":{"code":%d,"message":%q,"errors":[{"reason":%q,"message":%q}]}}`, status, message, reason, message)
	}
}

func TestErrorCodes(t *testing.T) {
	ctx := t.Context()
	for _, c := range []struct {
		status int
		reason string
		kind   error
		words  string
	}{
		{404, "notFound", object.ErrNotFound, ""},
		{401, "authError", object.ErrAccess, "expired"},
		{401, "required", object.ErrAccess, "not open to everybody"},
		{403, "forbidden", object.ErrAccess, "permission"},
		{403, "rateLimitExceeded", object.ErrUnavailable, "fewer requests"},
		{429, "rateLimitExceeded", object.ErrUnavailable, "fewer requests"},
		{429, "", object.ErrUnavailable, "fewer requests"},
		{400, "userProjectMissing", object.ErrAccess, "which project pays"},
		{412, "conditionNotMet", object.ErrPrecondition, ""},
		{408, "", object.ErrUnavailable, ""},
		{500, "backendError", object.ErrUnavailable, "the server failed"},
		{503, "", object.ErrUnavailable, "cannot answer"},
		{507, "", object.ErrNoSpace, ""},
		{400, "invalid", object.ErrInvalid, "something is wrong"},
		{301, "", object.ErrInvalid, "right endpoint"},
	} {
		s, n := answering(t, errorJSON(c.status, c.reason, "something is wrong\nhere"))
		_, herr := s.Head(ctx, "some key")
		_, _, gerr := s.Get(ctx, "some key", 0, -1)
		for what, err := range map[string]error{"head": herr, "get": gerr} {
			wantKind(t, fmt.Sprintf("%s %d %s", what, c.status, c.reason), err, c.kind, c.words, `"some key"`, `"b"`, s.cfg.Endpoint)
		}
		if n.Load() != 2 {
			t.Errorf("%d %s: %d requests for two operations: the driver must not retry", c.status, c.reason, n.Load())
		}
	}
	// Not Google at all.
	for _, status := range []int{200, 403, 404, 500} {
		s, _ := answering(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, "<html><body>Welcome to nginx!</body></html>")
		})
		_, lerr := s.List(ctx, object.ListOptions{})
		_, perr := s.Put(ctx, "a", strings.NewReader("x"), 1, nil)
		_, _, gerr := s.Get(ctx, "a", 0, -1)
		_, herr := s.Head(ctx, "a")
		_, cerr := s.Copy(ctx, "b", "a", nil)
		for what, err := range map[string]error{"listing": lerr, "put": perr, "object": gerr, "description": herr, "copy": cerr} {
			if err == nil {
				t.Errorf("a web page with status %d passed for a %s", status, what)
			}
		}
	}
}

// TestDamagedBodies: what was stored otherwise than it was sent, and what comes
// otherwise than it was stored, is an error.
func TestDamagedBodies(t *testing.T) {
	ctx := t.Context()
	s, _ := answering(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			fmt.Fprint(w, `{"kind":"storage#object","name":"k","generation":"5","size":"3","crc32c":"AAAAAA==","updated":"2026-01-02T03:04:05Z"}`)
			return
		}
		w.Header().Set("X-Goog-Generation", "5")
		w.Header().Set("X-Goog-Hash", "crc32c=AAAAAA==,md5=x")
		w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		fmt.Fprint(w, "abc")
	})
	_, err := s.Put(ctx, "k", strings.NewReader("abc"), 3, nil)
	wantKind(t, "put", err, object.ErrUnavailable, "damaged")
	body, _, err := s.Get(ctx, "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	_, err = io.ReadAll(body)
	wantKind(t, "get", err, object.ErrCorrupt)
}

// TestResumed: a server that takes a part only partly gets the rest again.
func TestResumed(t *testing.T) {
	var got bytes.Buffer
	var base string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, _ := io.ReadAll(r.Body)
		switch r.Method {
		case http.MethodPost:
			w.Header().Set("Location", base+"/session?upload_id=secret-of-session")
		case http.MethodPut:
			var from, to int
			if _, err := fmt.Sscanf(r.Header.Get("Content-Range"), "bytes %d-%d/", &from, &to); err != nil || from != got.Len() || to-from+1 != len(p) {
				t.Errorf("Content-Range %q for %d bytes after %d", r.Header.Get("Content-Range"), len(p), got.Len())
			}
			take := len(p)
			if take > partUnit {
				take = partUnit
			}
			got.Write(p[:take])
			if _, total, ok := strings.Cut(r.Header.Get("Content-Range"), "/"); ok && total == fmt.Sprint(got.Len()) {
				fmt.Fprintf(w, `{"kind":"storage#object","name":"k","generation":"7","size":"%d","updated":"2026-01-02T03:04:05Z"}`, got.Len())
				return
			}
			w.Header().Set("Range", fmt.Sprintf("bytes=0-%d", got.Len()-1))
			w.WriteHeader(statusResume)
		}
	}))
	t.Cleanup(srv.Close)
	base = srv.URL
	s := mustOpen(t, Config{Bucket: "b", Endpoint: srv.URL, Anonymous: true, PartSize: mib})
	data := bytes.Repeat([]byte("0123456789abcdef"), (2*mib+12345)/16)
	info, err := s.Put(t.Context(), "k", io.MultiReader(bytes.NewReader(data)), -1, nil)
	if err != nil || info.ETag != "7" || !bytes.Equal(got.Bytes(), data) {
		t.Errorf("%+v, %v, %d bytes of %d arrived", info, err, got.Len(), len(data))
	}
}

// TestCancelled: an upload that fails is cancelled, and nothing is seen of it.
func TestCancelled(t *testing.T) {
	var cancelled atomic.Int64
	var base string
	s, _ := answering(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPost:
			w.Header().Set("Location", base+"/session?upload_id=secret-of-session")
		case http.MethodDelete:
			cancelled.Add(1)
			w.WriteHeader(499)
		default:
			w.Header().Set("Range", strings.Replace(strings.SplitN(r.Header.Get("Content-Range"), "/", 2)[0], "bytes ", "bytes=", 1))
			w.WriteHeader(statusResume)
		}
	})
	base = s.cfg.Endpoint
	broken := errors.New("the body broke")
	_, err := s.Put(t.Context(), "k", io.MultiReader(bytes.NewReader(make([]byte, 2*mib)), iotest.ErrReader(broken)), -1, nil)
	wantKind(t, "broken body", err, broken)
	if cancelled.Load() != 1 {
		t.Errorf("the upload was cancelled %d times", cancelled.Load())
	}
}

// TestRequests: what is asked for is what the configuration says.
func TestRequests(t *testing.T) {
	var got *http.Request
	s, _ := answering(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		fmt.Fprint(w, `{"kind":"storage#object","name":"k","generation":"7","size":"3","updated":"2026-01-02T03:04:05Z"}`)
	}, func(c *Config) {
		c.Anonymous, c.UserProject, c.KMSKey, c.UserAgent = false, "payer", "projects/p/key", "massif/1.2"
		c.Tokens = func(context.Context) (string, time.Time, error) { return "token-1", time.Time{}, nil }
	})
	if _, err := s.Put(t.Context(), "k", strings.NewReader("abc"), 3, &object.PutOptions{IfMatch: "12"}); err != nil {
		t.Fatal(err)
	}
	q := got.URL.Query()
	if q.Get("userProject") != "payer" || q.Get("kmsKeyName") != "projects/p/key" || q.Get("ifGenerationMatch") != "12" ||
		got.Header.Get("Authorization") != "Bearer token-1" || got.Header.Get("User-Agent") != "massif/1.2" {
		t.Errorf("%v %v", got.URL, got.Header)
	}
}

func TestBrokenConnections(t *testing.T) {
	cfg := serverConfig(t)
	proxy := testserver.NewProxy(t, strings.TrimPrefix(cfg.Endpoint, "http://"))
	s := mustOpen(t, cfg)
	// The server answers to its own name only.
	s.http.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, proxy.Addr())
	}
	ctx := t.Context()
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	put := func() error {
		_, err := s.Put(ctx, "k", bytes.NewReader(data), int64(len(data)), nil)
		return err
	}
	get := func(s object.Store) error {
		body, _, err := s.Get(ctx, "k", 0, -1)
		if err != nil {
			return err
		}
		defer body.Close()
		got, err := io.ReadAll(body)
		if err == nil && !bytes.Equal(got, data) {
			t.Error("a broken get gave wrong bytes without an error")
		}
		return err
	}
	if err := put(); err != nil {
		t.Fatal(err)
	}
	proxy.Set(testserver.Fault{Refuse: true})
	wantKind(t, "put refused", put(), object.ErrUnavailable, cfg.Endpoint)
	proxy.Set(testserver.Fault{CutAnswer: 100_000})
	wantKind(t, "get cut short", get(s), io.ErrUnexpectedEOF)
	proxy.Set(testserver.Fault{CutRequest: 100_000})
	wantKind(t, "put cut short", put(), object.ErrUnavailable)
	proxy.Set(testserver.Fault{Flip: 500_000})
	wantKind(t, "get damaged", get(s), object.ErrCorrupt)
	s.cfg.StallTimeout = 200 * time.Millisecond
	proxy.Set(testserver.Fault{StallAnswer: 100_000})
	wantKind(t, "get stalled", get(s), syscall.ETIMEDOUT, "no progress")
	proxy.Set(testserver.Fault{StallRequest: 100_000})
	wantKind(t, "put stalled", put(), syscall.ETIMEDOUT, "no progress")
	s.cfg.StallTimeout = 30 * time.Second
	r := retry.New(s, retry.Options{First: time.Millisecond, Most: 2 * time.Millisecond})
	for _, f := range []testserver.Fault{{Refuse: true}, {CutAnswer: 400_000}, {CutRequest: 300_000}} {
		proxy.SetTimes(f, 2)
		if _, err := r.Put(ctx, "k", bytes.NewReader(data), int64(len(data)), nil); err != nil {
			t.Errorf("%+v: %v", f, err)
		}
		proxy.SetTimes(f, 2)
		if err := get(r); err != nil {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

// TestNothingLeft: no goroutine outlives its call, or at least the store.
func TestNothingLeft(t *testing.T) {
	cfg := serverConfig(t)
	before := goleak.IgnoreCurrent()
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "k", io.MultiReader(bytes.NewReader(make([]byte, 5*mib))), -1, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	body, _, err := s.Get(ctx, "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	body.Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	leak.None(t, before)
}

// TestServiceAccount: credentials of a file are found, used, and found anew when
// the file has changed.
func TestServiceAccount(t *testing.T) {
	var tokens atomic.Int64
	var seen atomic.Value
	s, _ := answering(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"Bearer","expires_in":3600}`, tokens.Add(1))
			return
		}
		seen.Store(r.Header.Get("Authorization"))
		fmt.Fprint(w, `{"kind":"storage#object","name":"k","generation":"7","size":"3","updated":"2026-01-02T03:04:05Z"}`)
	})
	file := filepath.Join(t.TempDir(), "creds.json")
	write := func(refresh string, mod time.Time) {
		t.Helper()
		// A user's credentials: no private key has to be made for them. The token's
		// address is Google's, so that the transport is led to the test's server.
		text := fmt.Sprintf(`{"type":"authorized_user","client_id":"c","client_secret":"secret-of-user","refresh_token":%q}`, refresh)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, mod, mod); err != nil {
			t.Fatal(err)
		}
	}
	write("one", time.Now().Add(-time.Hour))
	s.cfg.Anonymous, s.cfg.CredentialsFile = false, file
	s.client.Transport = toTestServer{s.http, s.cfg.Endpoint}
	for i, want := range []string{"Bearer token-1", "Bearer token-1", "Bearer token-2"} {
		if i == 2 {
			write("two", time.Now())
		}
		if _, err := s.Head(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		if seen.Load() != want {
			t.Errorf("request %d showed %v, want %s", i, seen.Load(), want)
		}
	}
}

// toTestServer sends what is for Google's token server to the test's.
type toTestServer struct {
	http.RoundTripper
	base string
}

func (r toTestServer) RoundTrip(req *http.Request) (*http.Response, error) {
	if strings.HasSuffix(req.URL.Host, "googleapis.com") {
		req = req.Clone(req.Context())
		req.URL.Scheme, req.URL.Host = "http", strings.TrimPrefix(r.base, "http://")
		req.Host = ""
	}
	return r.RoundTripper.RoundTrip(req)
}

func TestBadConfig(t *testing.T) {
	for what, c := range map[string]struct {
		cfg   Config
		words string
	}{
		"no bucket": {Config{}, "no bucket"},
		"bucket":    {Config{Bucket: "a/b"}, "no bucket's name"},
		"endpoint":  {Config{Bucket: "b", Endpoint: "x"}, "http or https"},
		"both":      {Config{Bucket: "b", Anonymous: true, CredentialsFile: "x"}, "exclude"},
		"part size": {Config{Bucket: "b", PartSize: 1000}, "256 KiB"},
		"proxy":     {Config{Bucket: "b", Proxy: "secret-of-mine@x"}, "proxy"},
		"CA":        {Config{Bucket: "b", CAFile: "/nonexistent"}, "certificates"},
	} {
		_, err := Open(t.Context(), c.cfg)
		wantKind(t, what, err, object.ErrInvalid, c.words)
	}
}

func FuzzParseError(f *testing.F) {
	f.Add([]byte(`{"error":{"message":"m","errors":[{"reason":"r"}]}}`))
	f.Add([]byte(`<Error><Code>NoSuchKey</Code><Message>m</Message></Error>`))
	f.Fuzz(func(t *testing.T, p []byte) {
		reason, msg := parseError(p)
		if len(reason) > 60 || len(msg) > 300 || strings.Contains(msg, "\n") {
			t.Errorf("%q, %q", reason, msg)
		}
	})
}
