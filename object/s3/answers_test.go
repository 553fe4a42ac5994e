package s3

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/object"
)

// These tests are about answers that a good server does not give, and those that
// it gives too rarely to be waited for.

// answering returns a store whose server is h, and the number of requests so far.
func answering(t *testing.T, h http.HandlerFunc, change ...func(*Config)) (*Store, *atomic.Int64) {
	t.Helper()
	var n atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		h(w, r)
	}))
	t.Cleanup(srv.Close)
	cfg := Config{Bucket: "b", Endpoint: srv.URL, Credentials: &Credentials{AccessKey: "a", SecretKey: "secret-of-mine"}}
	for _, c := range change {
		c(&cfg)
	}
	return mustOpen(t, cfg), &n
}

func errorXML(status int, code, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("x-amz-request-id", "REQ1")
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, message)
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
		{404, "NoSuchKey", object.ErrNotFound, ""},
		{404, "NoSuchBucket", object.ErrNoBucket, ""},
		{404, "SomethingElse", object.ErrInvalid, "SomethingElse"},
		{403, "AccessDenied", object.ErrAccess, "do not allow"},
		{403, "InvalidAccessKeyId", object.ErrAccess, "does not know the access key"},
		{403, "SignatureDoesNotMatch", object.ErrAccess, "secret key is wrong"},
		{403, "RequestTimeTooSkewed", object.ErrAccess, "clock"},
		{400, "ExpiredToken", object.ErrAccess, "token has expired"},
		{403, "InvalidObjectState", object.ErrAccess, "archive"},
		{400, "AuthorizationHeaderMalformed", object.ErrAccess, "region"},
		{400, "KMS.DisabledException", object.ErrAccess, "encryption key"},
		{403, "NewKindOfRefusal", object.ErrAccess, "NewKindOfRefusal"},
		{503, "SlowDown", object.ErrUnavailable, "fewer requests"},
		{500, "InternalError", object.ErrUnavailable, ""},
		{502, "", object.ErrUnavailable, ""},
		{429, "TooMany", object.ErrUnavailable, ""},
		{400, "RequestTimeout", object.ErrUnavailable, ""},
		{400, "BadDigest", object.ErrUnavailable, "damaged"},
		{409, "OperationAborted", object.ErrUnavailable, ""},
		{501, "NotImplemented", object.ErrUnsupported, ""},
		{400, "EntityTooLarge", object.ErrInvalid, "larger"},
		{400, "InvalidStorageClass", object.ErrInvalid, "storage class"},
		{400, "NewKindOfNonsense", object.ErrInvalid, "explained"},
		{507, "XMinioStorageFull", object.ErrNoSpace, ""},
		{301, "PermanentRedirect", object.ErrInvalid, "region"},
		{307, "TemporaryRedirect", object.ErrUnavailable, ""},
	} {
		s, n := answering(t, errorXML(c.status, c.code, "explained by the server"))
		_, _, gerr := s.Get(ctx, "some key", 0, -1)
		_, perr := s.Put(ctx, "some key", strings.NewReader("x"), 1, nil)
		for what, err := range map[string]error{"get": gerr, "put": perr} {
			wantKind(t, what+" "+c.code, err, c.kind, c.words, `"some key"`, `"b"`, s.cfg.Endpoint)
			if c.kind == object.ErrNoSpace && !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s is not ENOSPC", c.code)
			}
			if !strings.Contains(err.Error(), "REQ1") {
				t.Errorf("%s %s: %q does not name the request", what, c.code, err)
			}
		}
		if n.Load() != 2 {
			t.Errorf("%s: %d requests for two operations: the driver must not retry", c.code, n.Load())
		}
	}
	// Not S3 at all.
	for _, status := range []int{200, 403, 404, 500} {
		s, _ := answering(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, "<html><body>Welcome to nginx!</body></html>")
		})
		if _, err := s.List(ctx, object.ListOptions{}); err == nil {
			t.Errorf("a web page with status %d passed for a listing", status)
		}
		if err := s.Delete(ctx, "a", "b"); err == nil && status != 404 {
			t.Errorf("a web page with status %d passed for a deletion", status)
		}
		if _, err := s.Put(ctx, "a", strings.NewReader("x"), 1, nil); err == nil {
			t.Errorf("a web page with status %d passed for a put", status)
		}
		if _, _, err := s.Get(ctx, "a", 0, -1); err == nil {
			t.Errorf("a web page with status %d passed for an object", status)
		}
		if _, err := s.Head(ctx, "a"); err == nil {
			t.Errorf("a web page with status %d passed for a description", status)
		}
	}
}

func TestConditions(t *testing.T) {
	ctx := t.Context()
	absent, match := &object.PutOptions{IfAbsent: true}, &object.PutOptions{IfMatch: "etag"}
	put := func(s *Store, o *object.PutOptions) error {
		_, err := s.Put(ctx, "k", bytes.NewReader(nil), 0, o)
		return err
	}
	s, _ := answering(t, errorXML(412, "PreconditionFailed", ""))
	wantKind(t, "absent", put(s, absent), object.ErrExists)
	wantKind(t, "match", put(s, match), object.ErrPrecondition)
	s, _ = answering(t, errorXML(404, "NoSuchKey", ""))
	wantKind(t, "match of a missing object", put(s, match), object.ErrPrecondition)

	// A conflict is asked again, until it is decided.
	var n atomic.Int64
	s, _ = answering(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("If-None-Match"); got != "*" {
			t.Errorf("If-None-Match %q", got)
		}
		if n.Add(1) < 4 {
			errorXML(409, "ConditionalRequestConflict", "")(w, r)
			return
		}
		errorXML(412, "PreconditionFailed", "")(w, r)
	})
	wantKind(t, "conflict", put(s, absent), object.ErrExists)
	if n.Load() != 4 {
		t.Errorf("%d requests", n.Load())
	}
	s, _ = answering(t, errorXML(500, "", ""), func(c *Config) { c.NoConditionalPut = true })
	wantKind(t, "a server without conditions", put(s, absent), object.ErrUnsupported)
}

func TestOddBodies(t *testing.T) {
	ctx := t.Context()
	content := strings.Repeat("0123456789", 100)
	get := func(s *Store, off, n int64) (string, error) {
		body, _, err := s.Get(ctx, "k", off, n)
		if err != nil {
			return "", err
		}
		defer body.Close()
		p, err := io.ReadAll(body)
		return string(p), err
	}
	// No ranges: only what begins at the beginning can be read.
	s, _ := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"e"`)
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		fmt.Fprint(w, content)
	})
	if got, err := get(s, 0, 10); err != nil || got != content[:10] {
		t.Errorf("the beginning: %q, %v", got, err)
	}
	_, err := get(s, 5, 10)
	wantKind(t, "a range that was ignored", err, object.ErrUnavailable, "ignores ranges")

	for _, rng := range []string{"bytes 0-9/1000", "bytes 5-15/1000", "bytes 5-14/8", "bytes 5-14/*", "bytes 5-14", "items 5-14/1000", "bytes 5-9/1000", "x"} {
		s, _ := answering(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", rng)
			w.Header().Set("ETag", `"e"`)
			n := 10
			if rng == "bytes 5-9/1000" {
				n = 5
			}
			w.Header().Set("Content-Length", fmt.Sprint(n))
			w.WriteHeader(http.StatusPartialContent)
			fmt.Fprint(w, content[5:5+n])
		})
		_, err := get(s, 5, 10)
		wantKind(t, "Content-Range "+rng, err, object.ErrUnavailable, "makes no sense")
	}
	// An answer without a length cannot be checked.
	s, _ = answering(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, content)
		w.(http.Flusher).Flush()
	})
	_, err = get(s, 0, -1)
	wantKind(t, "no length", err, object.ErrUnavailable)
	// Nothing at or beyond the end.
	s, _ = answering(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			w.Header().Set("Content-Length", "10")
			w.Header().Set("ETag", `"e"`)
			return
		}
		errorXML(416, "InvalidRange", "")(w, r)
	})
	if got, err := get(s, 10, 5); err != nil || got != "" {
		t.Errorf("at the end: %q, %v", got, err)
	}
	if n, err := s.ReadRange(ctx, "k", make([]byte, 5), 10); n != 0 || !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, object.ErrUnavailable) {
		t.Errorf("read at the end: %d, %v", n, err)
	}
}

type listing struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	Name                  string
	IsTruncated           bool
	NextContinuationToken string   `xml:",omitempty"`
	EncodingType          string   `xml:",omitempty"`
	Keys                  []string `xml:"-"`
	Contents              []listed
	CommonPrefixes        []struct{ Prefix string }
}

type listed struct {
	Key  string
	Size int
}

func list(keys ...string) *listing {
	l := &listing{Name: "b"}
	for _, k := range keys {
		l.Contents = append(l.Contents, listed{Key: k})
	}
	return l
}

func (l *listing) more(token string) *listing {
	l.IsTruncated, l.NextContinuationToken = true, token
	return l
}

func TestOddListings(t *testing.T) {
	ctx := t.Context()
	one := func(l *listing, opts object.ListOptions, change ...func(*Config)) (object.Page, error) {
		s, _ := answering(t, func(w http.ResponseWriter, _ *http.Request) { _ = xml.NewEncoder(w).Encode(l) }, change...)
		return s.List(ctx, opts)
	}
	keysOf := func(p object.Page) (keys []string) {
		for _, o := range p.Objects {
			keys = append(keys, o.Key)
		}
		return keys
	}
	// start-after is ignored.
	page, err := one(list("a", "b", "c", "d"), object.ListOptions{StartAfter: "b"})
	if err != nil || !slices.Equal(keysOf(page), []string{"c", "d"}) {
		t.Errorf("after b: %q, %v", keysOf(page), err)
	}
	_, err = one(list("a", "c", "b"), object.ListOptions{})
	wantKind(t, "out of order", err, object.ErrUnsupported, "out of order")
	_, err = one(list("a", "a"), object.ListOptions{})
	wantKind(t, "twice", err, object.ErrUnsupported, "out of order")
	_, err = one(list("a").more(""), object.ListOptions{})
	wantKind(t, "no token", err, object.ErrUnavailable, "token")
	_, err = one(list("other/a"), object.ListOptions{Prefix: "p/"})
	wantKind(t, "another prefix", err, object.ErrUnavailable, "other/a")
	_, err = one(list("a"), object.ListOptions{}, func(c *Config) { c.Prefix = "mine/" })
	wantKind(t, "outside of the store's prefix", err, object.ErrUnavailable)
	l := list("mine/a+b", "mine/x%2By")
	l.EncodingType = "url"
	page, err = one(l, object.ListOptions{}, func(c *Config) { c.Prefix = "mine/" })
	if err != nil || !slices.Equal(keysOf(page), []string{"a b", "x+y"}) {
		t.Errorf("encoded: %q, %v", keysOf(page), err)
	}
	l = list("x%zz")
	l.EncodingType = "url"
	_, err = one(l, object.ListOptions{})
	wantKind(t, "badly encoded", err, object.ErrUnavailable)

	// A server that gives the same page for ever.
	s, n := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		_ = xml.NewEncoder(w).Encode(list("a", "b").more("again"))
	})
	opts := object.ListOptions{}
	for range 10 {
		var page object.Page
		if page, err = s.List(ctx, opts); err != nil {
			break
		}
		opts.Token = page.Next
	}
	wantKind(t, "no progress", err, object.ErrUnavailable, "does not get ahead")
	if n.Load() > 3 {
		t.Errorf("%d requests", n.Load())
	}
	_, err = s.List(ctx, object.ListOptions{Token: "nonsense"})
	wantKind(t, "a token of nobody", err, object.ErrInvalid)
}

func TestOddDeletes(t *testing.T) {
	ctx := t.Context()
	var mu sync.Mutex
	var single []string
	s, n := answering(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			errorXML(501, "NotImplemented", "")(w, r)
			return
		}
		mu.Lock()
		single = append(single, r.URL.Path)
		mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	})
	if err := s.Delete(ctx, "a", "b", "c"); err != nil || len(single) != 3 {
		t.Errorf("without DeleteObjects: %q, %v", single, err)
	}
	before := n.Load()
	if err := s.Delete(ctx, "d", "e"); err != nil || n.Load()-before != 2 {
		t.Errorf("the server was asked again: %d requests, %v", n.Load()-before, err)
	}

	s, _ = answering(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Md5") == "" {
			t.Error("DeleteObjects without Content-MD5")
		}
		fmt.Fprint(w, `<DeleteResult><Deleted><Key>p/a</Key></Deleted><Error><Key>p/b</Key><Code>AccessDenied</Code><Message>no</Message></Error>`+
			`<Error><Key>p/c</Key><Code>NoSuchKey</Code></Error><Error><Key>p/d</Key><Code>InternalError</Code></Error></DeleteResult>`)
	}, func(c *Config) { c.Prefix = "p/" })
	err := s.Delete(ctx, "a", "b", "c", "d")
	var de *object.DeleteError
	if !errors.As(err, &de) || len(de.Failed) != 2 || !errors.Is(de.Failed["b"], object.ErrAccess) || !errors.Is(de.Failed["d"], object.ErrUnavailable) {
		t.Errorf("deletion in part: %v", err)
	}
	s, _ = answering(t, errorXML(404, "NoSuchBucket", ""))
	if err := s.Delete(ctx, "a", "b"); !errors.Is(err, object.ErrNoBucket) {
		t.Errorf("without a bucket: %v", err)
	}
}

// TestCheckFindsConditionsIgnored: a server that stores whatever it gets.
func TestCheckFindsConditionsIgnored(t *testing.T) {
	var mu sync.Mutex
	objects := map[string][]byte{}
	s, _ := answering(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch r.Method {
		case http.MethodPut:
			objects[r.URL.Path], _ = io.ReadAll(r.Body)
			w.Header().Set("ETag", `"e"`)
		case http.MethodGet:
			p := objects[r.URL.Path]
			w.Header().Set("Content-Length", fmt.Sprint(len(p)))
			w.Header().Set("ETag", `"e"`)
			_, _ = w.Write(p)
		case http.MethodDelete:
			delete(objects, r.URL.Path)
			w.WriteHeader(http.StatusNoContent)
		}
	})
	if c := s.Capabilities(); !c.PutIfAbsent {
		t.Error("conditions are not expected to work")
	}
	if err := s.Check(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if c := s.Capabilities(); c.PutIfAbsent || c.PutIfMatch {
		t.Error("conditions that are ignored are taken to work")
	}
	if len(objects) != 0 {
		t.Errorf("left: %v", objects)
	}
}

// TestRequests: what is asked for is what the configuration says.
func TestRequests(t *testing.T) {
	ctx := t.Context()
	var got http.Header
	record := func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("ETag", `"e"`)
	}
	want := func(name, value string) {
		t.Helper()
		if v := got.Get(name); v != value {
			t.Errorf("%s: %q, want %q", name, v, value)
		}
	}
	s, _ := answering(t, record, func(c *Config) {
		c.SSE, c.SSEKMSKeyID, c.StorageClass, c.UserAgent = "aws:kms", "key-1", "STANDARD_IA", "massif/1.2"
		c.Credentials.SessionToken = "session"
	})
	if _, err := s.Put(ctx, "k", bytes.NewReader([]byte("abc")), 3, &object.PutOptions{Metadata: map[string]string{"m": "ü"}}); err != nil {
		t.Fatal(err)
	}
	want("x-amz-server-side-encryption", "aws:kms")
	want("x-amz-server-side-encryption-aws-kms-key-id", "key-1")
	want("x-amz-storage-class", "STANDARD_IA")
	want("x-amz-security-token", "session")
	want("x-amz-checksum-crc32c", "Nks/tw==")
	want("Expect", "")
	want("x-amz-meta-m", "=?utf-8?b?w7w=?=")
	if ua := got.Get("User-Agent"); !strings.Contains(ua, "massif/1.2") {
		t.Errorf("User-Agent %q", ua)
	}
	if strings.Contains(strings.ToLower(got.Get("Content-Encoding")), "aws-chunked") {
		t.Error("the body is chunked in Amazon's own way, which many servers cannot read")
	}
	s, _ = answering(t, record, func(c *Config) { c.Checksum, c.SSE = NoChecksum, "AES256" })
	if _, err := s.Put(ctx, "k", bytes.NewReader([]byte("abc")), 3, nil); err != nil {
		t.Fatal(err)
	}
	want("x-amz-server-side-encryption", "AES256")
	for name := range got {
		if strings.HasPrefix(strings.ToLower(name), "x-amz-checksum") || strings.HasPrefix(strings.ToLower(name), "x-amz-sdk-checksum") {
			t.Errorf("a checksum was sent: %s", name)
		}
	}
	s, _ = answering(t, record, func(c *Config) { c.Credentials, c.Anonymous = nil, true })
	if _, err := s.Put(ctx, "k", bytes.NewReader([]byte("abc")), 3, nil); err != nil {
		t.Fatal(err)
	}
	want("Authorization", "")
}

// TestBucketPlace: where the bucket stands in requests.
func TestBucketPlace(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"localhost/some-bucket/k": func(*Config) {},
		"some-bucket.localhost/k": func(c *Config) { c.VirtualHost = true },
	} {
		var got string
		s, _ := answering(t, func(w http.ResponseWriter, r *http.Request) {
			host, _, _ := strings.Cut(r.Host, ":")
			got = host + r.URL.Path
			w.Header().Set("ETag", `"e"`)
			w.Header().Set("Content-Length", "1")
		}, func(c *Config) {
			c.Endpoint = strings.Replace(c.Endpoint, "127.0.0.1", "localhost", 1)
			c.Bucket = "some-bucket"
		}, change)
		s.http.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			_, port, _ := net.SplitHostPort(addr)
			return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:"+port)
		}
		if _, err := s.Head(t.Context(), "k"); err != nil || got != want {
			t.Errorf("the server was asked for %s, want %s: %v", got, want, err)
		}
	}
}

func TestBadConfig(t *testing.T) {
	for what, cfg := range map[string]Config{
		"no bucket":       {},
		"bucket":          {Bucket: "a/b"},
		"endpoint":        {Bucket: "b", Endpoint: "localhost:9000"},
		"userinfo":        {Bucket: "b", Endpoint: "http://u:secret-of-mine@h"},
		"both":            {Bucket: "b", Anonymous: true, Credentials: &Credentials{AccessKey: "a", SecretKey: "b"}},
		"half":            {Bucket: "b", Credentials: &Credentials{AccessKey: "a"}},
		"part size":       {Bucket: "b", PartSize: 1},
		"no CA":           {Bucket: "b", CAFile: "/nonexistent"},
		"missing profile": {Bucket: "b", Profile: "nobody"},
	} {
		_, err := Open(t.Context(), cfg)
		wantKind(t, what, err, object.ErrInvalid)
	}
	c := Credentials{AccessKey: "a", SecretKey: "secret-of-mine"}
	if s := fmt.Sprintf("%v %+v %#v %s", c, c, c, &c); strings.Contains(s, "secret-of") {
		t.Errorf("credentials print as %s", s)
	}
}
