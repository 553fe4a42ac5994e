package s3

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/massif-fs/massif/object"
)

// TestCustomerKey: the key goes with every request that needs it, over HTTPS only.
func TestCustomerKey(t *testing.T) {
	dir := t.TempDir()
	key := bytes.Repeat([]byte{7}, 32)
	file := filepath.Join(dir, "key")
	for _, text := range [][]byte{key, []byte(base64.StdEncoding.EncodeToString(key) + "\n"), fmt.Appendf(nil, "%x\n", key)} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := readCustomerKey(file)
		if err != nil || k.text != base64.StdEncoding.EncodeToString(key) {
			t.Errorf("%q: %v", text, err)
		}
	}
	headers := make(map[string]http.Header)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		what := r.Method
		if r.Header.Get("x-amz-copy-source") != "" {
			what = "COPY"
			fmt.Fprint(w, `<CopyObjectResult><ETag>"e"</ETag></CopyObjectResult>`)
		}
		headers[what] = r.Header.Clone()
		w.Header().Set("ETag", `"e"`)
		w.Header().Set("Content-Length", "0")
	}))
	t.Cleanup(srv.Close)
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Bucket: "b", Endpoint: srv.URL, CAFile: ca, CustomerKeyFile: file, Credentials: &Credentials{AccessKey: "a", SecretKey: "secret-of-mine"}}
	s := mustOpen(t, cfg)
	ctx := t.Context()
	if _, err := s.Put(ctx, "k", bytes.NewReader(nil), 0, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Head(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	_, _ = s.Copy(ctx, "l", "k", nil) // the answer is not to the point
	_ = s.Delete(ctx, "k")
	for what, prefix := range map[string]string{
		"PUT": "x-amz-server-side-encryption-customer-", "HEAD": "x-amz-server-side-encryption-customer-",
		"COPY": "x-amz-copy-source-server-side-encryption-customer-",
	} {
		h := headers[what]
		if h.Get(prefix+"algorithm") != "AES256" || h.Get(prefix+"key") != base64.StdEncoding.EncodeToString(key) || h.Get(prefix+"key-MD5") == "" {
			t.Errorf("%s: %v", what, h)
		}
		if !strings.Contains(h.Get("Authorization"), prefix+"key") {
			t.Errorf("%s: the key is not signed: %s", what, h.Get("Authorization"))
		}
	}
	if h := headers["DELETE"]; h.Get("x-amz-server-side-encryption-customer-key") != "" {
		t.Error("a deletion shows the key")
	}
	if _, err := s.PresignGet(ctx, "k", time.Minute); err == nil {
		t.Error("a signed request would hold the key")
	}
	cfg.Endpoint = strings.Replace(cfg.Endpoint, "https", "http", 1)
	_, err := Open(ctx, cfg)
	wantKind(t, "over HTTP", err, object.ErrInvalid, "https only")
	if err := os.WriteFile(file, []byte("secret-of-mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Endpoint = srv.URL
	_, err = Open(ctx, cfg)
	wantKind(t, "short key", err, object.ErrInvalid, "256 bits")
	cfg.SSE = "AES256"
	_, err = Open(ctx, cfg)
	wantKind(t, "two encryptions", err, object.ErrInvalid, "exclude")
}

func TestRequesterPays(t *testing.T) {
	var payer atomic.Value
	record := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		payer.Store(r.Header.Get("x-amz-request-payer"))
		w.Header().Set("ETag", `"e"`)
		w.Header().Set("Content-Length", "0")
	}
	s, _ := answering(t, record, func(c *Config) { c.RequesterPays = true })
	for what, do := range map[string]func(context.Context) error{
		"put":  func(ctx context.Context) error { _, err := s.Put(ctx, "k", bytes.NewReader(nil), 0, nil); return err },
		"head": func(ctx context.Context) error { _, err := s.Head(ctx, "k"); return err },
		"list": func(ctx context.Context) error { _, _ = s.List(ctx, object.ListOptions{}); return nil },
	} {
		payer.Store("")
		if err := do(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if payer.Load() != "requester" {
			t.Errorf("%s: payer %q", what, payer.Load())
		}
	}
}

// TestReload: keys of a shared file are replaced while the store is open, and a
// profile of the configuration comes before that of the environment.
func TestReload(t *testing.T) {
	var auth atomic.Value
	s, _ := answering(t, func(w http.ResponseWriter, r *http.Request) {
		auth.Store(r.Header.Get("Authorization") + " " + r.Header.Get("x-amz-security-token"))
		w.Header().Set("ETag", `"e"`)
		w.Header().Set("Content-Length", "0")
	}, func(c *Config) {
		c.Credentials = nil
		c.CredentialFiles = []string{filepath.Join(t.TempDir(), "credentials")}
		c.Profile = "mine"
		write := "[mine]\naws_access_key_id=FIRST\naws_secret_access_key=secret-of-1\naws_session_token=session-1\n[other]\naws_access_key_id=OTHER\naws_secret_access_key=x\n"
		if err := os.WriteFile(c.CredentialFiles[0], []byte(write), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("AWS_PROFILE", "other")
	})
	head := func(words ...string) {
		t.Helper()
		if _, err := s.Head(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		for _, w := range words {
			if got := auth.Load().(string); !strings.Contains(got, w) {
				t.Errorf("%q was shown, want %q", got, w)
			}
		}
	}
	head("Credential=FIRST/", "session-1")
	if err := os.WriteFile(s.cfg.CredentialFiles[0], []byte("[mine]\naws_access_key_id=SECOND\naws_secret_access_key=secret-of-2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	head("Credential=SECOND/")
	// Half a file is no reason to forget what was there.
	if err := os.WriteFile(s.cfg.CredentialFiles[0], []byte("[mi"), 0o600); err != nil {
		t.Fatal(err)
	}
	head("Credential=SECOND/")
}

// TestWebIdentity: a federated token is exchanged for keys.
func TestWebIdentity(t *testing.T) {
	var auth atomic.Value
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err == nil && r.PostForm.Get("Action") == "AssumeRoleWithWebIdentity" {
			if r.PostForm.Get("WebIdentityToken") != "federated" || r.PostForm.Get("RoleArn") != "arn:aws:iam::1:role/r" {
				t.Errorf("asked for %v", r.PostForm)
			}
			fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ROLE</AccessKeyId>`+
				`<SecretAccessKey>secret-of-role</SecretAccessKey><SessionToken>session</SessionToken><Expiration>%s</Expiration></Credentials>`+
				`</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
			return
		}
		auth.Store(r.Header.Get("Authorization") + " " + r.Header.Get("x-amz-security-token"))
		w.Header().Set("ETag", `"e"`)
		w.Header().Set("Content-Length", "0")
	}))
	t.Cleanup(srv.Close)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("federated"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", file)
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/r")
	t.Setenv("AWS_ENDPOINT_URL_STS", srv.URL)
	s := mustOpen(t, Config{Bucket: "b", Endpoint: srv.URL})
	if _, err := s.Head(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	if got, _ := auth.Load().(string); !strings.Contains(got, "Credential=ROLE/") || !strings.Contains(got, "session") {
		t.Errorf("%q was shown", got)
	}
}

// TestProxyOption: the configuration's proxy is asked, whatever the environment's.
func TestProxyOption(t *testing.T) {
	var asked atomic.Value
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.URL.String())
		w.Header().Set("ETag", `"e"`)
		w.Header().Set("Content-Length", "0")
	}))
	t.Cleanup(proxy.Close)
	s := mustOpen(t, Config{Bucket: "b", Endpoint: "http://store.invalid", Proxy: proxy.URL, Credentials: &Credentials{AccessKey: "a", SecretKey: "b"}})
	if _, err := s.Head(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	if asked.Load() != "http://store.invalid/b/k" {
		t.Errorf("the proxy was asked for %v", asked.Load())
	}
}

// TestWrongRegion: where the bucket is, is said.
func TestWrongRegion(t *testing.T) {
	s, _ := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("x-amz-bucket-region", "eu-central-1")
		w.WriteHeader(http.StatusMovedPermanently)
	}, func(c *Config) { c.Region = "us-west-2" })
	wantKind(t, "another region", s.Check(t.Context(), true), object.ErrInvalid, "in region eu-central-1", "set to us-west-2")
}
