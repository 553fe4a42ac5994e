package azure

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/massif-fs/massif/object"
)

// These tests are about answers that a good server does not give, and those that
// it gives too rarely to be waited for.

// answering returns a store whose server is h, and the number of requests so far.
func answering(t *testing.T, h http.HandlerFunc, change ...func(*Config)) (object.Store, *atomic.Int64) {
	t.Helper()
	var n atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		h(w, r)
	}))
	t.Cleanup(srv.Close)
	cfg := Config{Account: "acc", Container: "ccc", Endpoint: srv.URL + "/acc", Credentials: Credentials{SAS: "sv=1&sig=secret-of-mine"}}
	for _, c := range change {
		c(&cfg)
	}
	return openStore(t, cfg), &n
}

func errorXML(status int, code, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("x-ms-request-id", "REQ1")
		if code != "" {
			w.Header().Set("x-ms-error-code", code)
		}
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>%s\nRequestId:1</Message></Error>", code, message)
		}
	}
}

func TestErrorCodes(t *testing.T) {
	ctx := t.Context()
	for _, c := range []struct {
		status int
		code   string
		kind   error
		words  string
	}{
		{404, "BlobNotFound", object.ErrNotFound, ""},
		{404, "ContainerNotFound", object.ErrNoBucket, "no such container"},
		{404, "SomethingNotFound", object.ErrInvalid, "misses something"},
		{403, "AuthenticationFailed", object.ErrAccess, "wrong"},
		{403, "AuthorizationPermissionMismatch", object.ErrAccess, "permission"},
		{401, "NoAuthenticationInformation", object.ErrAccess, "no credentials"},
		{409, "BlobArchived", object.ErrAccess, "rehydrated"},
		{409, "SomethingElse", object.ErrInvalid, "state"},
		{412, "ConditionNotMet", object.ErrPrecondition, ""},
		{412, "LeaseIdMissing", object.ErrAccess, "lease"},
		{429, "TooManyRequests", object.ErrUnavailable, "fewer requests"},
		{429, "", object.ErrUnavailable, "fewer requests"},
		{503, "ServerBusy", object.ErrUnavailable, "fewer requests"},
		{500, "OperationTimedOut", object.ErrUnavailable, "too long"},
		{502, "", object.ErrUnavailable, "cannot answer"},
		{400, "Md5Mismatch", object.ErrUnavailable, "damaged"},
		{400, "InvalidBlobTier", object.ErrInvalid, "tier"},
		{507, "", object.ErrNoSpace, ""},
	} {
		s, n := answering(t, errorXML(c.status, c.code, "something is wrong"))
		_, _, gerr := s.Get(ctx, "some key", 0, -1)
		_, perr := s.Put(ctx, "some key", strings.NewReader("x"), 1, nil)
		for what, err := range map[string]error{"get": gerr, "put": perr} {
			wantKind(t, fmt.Sprintf("%s %d %s", what, c.status, c.code), err, c.kind, c.words, `"some key"`, `"ccc"`, "REQ1")
		}
		if n.Load() != 2 {
			t.Errorf("%d %s: %d requests for two operations: the driver must not retry", c.status, c.code, n.Load())
		}
	}
	// Not Azure at all, by both protocols.
	for _, status := range []int{200, 403, 404, 500} {
		for _, tree := range []bool{false, true} {
			s, _ := answering(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				fmt.Fprint(w, "<html><body>Welcome to nginx!</body></html>")
			}, func(c *Config) { c.Hierarchical = tree })
			_, lerr := s.List(ctx, object.ListOptions{})
			_, perr := s.Put(ctx, "a", strings.NewReader("x"), 1, nil)
			_, _, gerr := s.Get(ctx, "a", 0, -1)
			_, herr := s.Head(ctx, "a")
			_, cerr := s.Copy(ctx, "b", "a", nil)
			for what, err := range map[string]error{"listing": lerr, "put": perr, "object": gerr, "description": herr, "copy": cerr} {
				if err == nil && !(tree && what == "listing" && status == 404) {
					t.Errorf("a web page with status %d passed for a %s (tree: %v)", status, what, tree)
				} else {
					noSecret(t, what, err)
				}
			}
		}
	}
}

// TestOddListings: by the Data Lake protocol.
func TestOddListings(t *testing.T) {
	entry := func(name string, more string) string {
		return fmt.Sprintf(`{"name":%q,"contentLength":"1","etag":"0x1","lastModified":"Mon, 02 Jan 2006 15:04:05 GMT"%s}`, name, more)
	}
	for what, c := range map[string]struct {
		doc   string
		kind  error
		words string
	}{
		"out of order":      {`{"paths":[` + entry("b", "") + "," + entry("a", "") + `]}`, object.ErrUnsupported, "out of order"},
		"twice":             {`{"paths":[` + entry("a", "") + "," + entry("a", "") + `]}`, object.ErrUnsupported, "out of order"},
		"elsewhere":         {`{"paths":[` + entry("x/y", "") + `]}`, object.ErrUnavailable, "makes no sense"},
		"no listing":        {`{"files":[]}`, object.ErrUnavailable, "not a listing"},
		"cut short":         {`{"paths":[` + entry("a", ""), object.ErrUnavailable, "not a listing"},
		"no time":           {`{"paths":[{"name":"a","etag":"0x1"}]}`, object.ErrUnavailable, "no length"},
		"a negative length": {`{"paths":[{"name":"a","contentLength":"-1","etag":"0x1","lastModified":"Mon, 02 Jan 2006 15:04:05 GMT"}]}`, object.ErrUnavailable, "no length"},
	} {
		s, _ := answering(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, c.doc) }, func(c *Config) { c.Hierarchical = true })
		_, err := s.List(t.Context(), object.ListOptions{})
		wantKind(t, what, err, c.kind, c.words)
	}
	s, n := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("x-ms-continuation", "again")
		fmt.Fprint(w, `{"paths":[]}`)
	}, func(c *Config) { c.Hierarchical = true })
	_, err := s.List(t.Context(), object.ListOptions{})
	wantKind(t, "no progress", err, object.ErrUnavailable, "does not get ahead")
	if n.Load() > 3 {
		t.Errorf("%d requests", n.Load())
	}
}

// TestRequests: what is asked for is what the configuration says.
func TestRequests(t *testing.T) {
	var got http.Header
	s, _ := answering(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		w.Header().Set("ETag", `"0x1"`)
		w.WriteHeader(http.StatusCreated)
	}, func(c *Config) {
		c.Tier, c.EncryptionScope, c.UserAgent, c.APIVersion = "Cool", "scope", "massif/1.2", "2021-12-02"
	})
	put := func(opts *object.PutOptions) {
		t.Helper()
		if _, err := s.Put(t.Context(), "k", strings.NewReader("123456789"), 9, opts); err != nil {
			t.Fatal(err)
		}
	}
	want := func(name, value string) {
		t.Helper()
		if v := got.Get(name); v != value {
			t.Errorf("%s: %q, want %q", name, v, value)
		}
	}
	put(&object.PutOptions{IfAbsent: true, ContentType: "text/x", Metadata: map[string]string{"a-b": "ü"}})
	want("x-ms-access-tier", "Cool")
	want("x-ms-encryption-scope", "scope")
	want("x-ms-version", "2021-12-02")
	want("If-None-Match", "*")
	want("x-ms-blob-content-type", "text/x")
	want("x-ms-meta-esc_a_2db", "=?utf-8?b?w7w=?=")
	// The check value of CRC-64/NVME, 0xAE8B14860A799888, little end first.
	want("x-ms-content-crc64", base64.StdEncoding.EncodeToString(binary.LittleEndian.AppendUint64(nil, 0xAE8B14860A799888)))
	if !strings.Contains(got.Get("User-Agent"), "massif/1.2") {
		t.Errorf("User-Agent %q", got.Get("User-Agent"))
	}
	put(&object.PutOptions{IfMatch: "0x5", StorageClass: "Archive"})
	want("If-Match", `"0x5"`)
	want("x-ms-access-tier", "Archive")
	if _, err := s.Head(context.WithoutCancel(t.Context()), "k"); err != nil {
		wantKind(t, "a description without a length", err, object.ErrUnavailable)
	}
}
