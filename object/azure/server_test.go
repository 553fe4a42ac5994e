package azure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
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
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: %q is no sentence", what, err)
	}
	noSecret(t, what, err)
}

// noSecret looks into the whole chain of an error for parts of keys and SAS.
func noSecret(t *testing.T, what string, err error) {
	t.Helper()
	var look func(err error)
	look = func(err error) {
		if err == nil {
			return
		}
		text := fmt.Sprintf("%v %+v %#v", err, err, err)
		for _, secret := range []string{"sig=", "secret-of", testserver.AzureKey[:20]} {
			if strings.Contains(text, secret) {
				t.Errorf("%s: %q shows a secret (%T)", what, text, err)
			}
		}
		switch u := err.(type) {
		case interface{ Unwrap() error }:
			look(u.Unwrap())
		case interface{ Unwrap() []error }:
			for _, e := range u.Unwrap() {
				look(e)
			}
		}
	}
	look(err)
}

func testMisconfigured(t *testing.T) {
	cfg := serverConfig(t)
	ctx := t.Context()
	all := func(what string, kind error, words []string, change func(*Config)) {
		t.Helper()
		c := cfg
		change(&c)
		s := openStore(t, c)
		_, put := s.Put(ctx, "k", bytes.NewReader(nil), 0, nil)
		_, list := s.List(ctx, object.ListOptions{})
		check := s.(interface {
			Check(context.Context, bool) error
		}).Check(ctx, true)
		wantKind(t, what+": check", check, kind, words...)
		wantKind(t, what+": put", put, kind, words...)
		wantKind(t, what+": list", list, kind, words...)
		if err := s.Delete(ctx, "a", "b"); err == nil {
			t.Errorf("%s: a deletion was accepted", what)
		} else {
			noSecret(t, what, err)
		}
	}
	if err := mustOpen(t, cfg).Check(ctx, true); err != nil {
		t.Errorf("all is well: %v", err)
	}
	all("wrong key", object.ErrAccess, []string{cfg.Container, cfg.Account, "the credentials are wrong"}, func(c *Config) { c.Credentials.AccountKey = "c2VjcmV0LW9m" })
	all("wrong container", object.ErrNoBucket, []string{"no such container", "nobody"}, func(c *Config) { c.Container = "nobody" })
	all("anonymous", object.ErrAccess, []string{cfg.Container}, func(c *Config) { c.Credentials = Credentials{Mode: Anonymous} })
	all("nobody listens", object.ErrUnavailable, []string{"cannot be reached", "127.0.0.1:1"}, func(c *Config) { c.Endpoint = "http://127.0.0.1:1/" + c.Account })
	all("no HTTPS", object.ErrInvalid, []string{"does not speak HTTPS"}, func(c *Config) { c.Endpoint = strings.Replace(c.Endpoint, "http:", "https:", 1) })
	all("no proxy", object.ErrUnavailable, []string{"127.0.0.1:1"}, func(c *Config) { c.Proxy = "http://user:secret-of-proxy@127.0.0.1:1" })
	all("token over HTTP", object.ErrInvalid, []string{"https only"}, func(c *Config) {
		c.Credentials = Credentials{Mode: SPN, TenantID: "t", ClientID: "c", ClientSecret: "secret-of-mine"}
	})
}

// makeSAS signs for the container.
func makeSAS(t *testing.T, cfg Config, life time.Duration) string {
	t.Helper()
	c, err := mustOpen(t, cfg).container()
	if err != nil {
		t.Fatal(err)
	}
	from := time.Now().Add(-2 * time.Hour)
	q, err := sas.BlobSignatureValues{
		Protocol: sas.ProtocolHTTPSandHTTP, StartTime: from, ExpiryTime: time.Now().Add(life),
		Permissions: (&sas.ContainerPermissions{Read: true, Write: true, Create: true, Delete: true, List: true}).String(), ContainerName: cfg.Container,
	}.SignWithSharedKey(mustOpen(t, cfg).auth.key)
	if err != nil || c == nil {
		t.Fatal(err)
	}
	return q.Encode()
}

// testSAS: a SAS that has ended is told from a wrong one, and one in a file can be
// replaced while the store is open.
func testSAS(t *testing.T) {
	ctx := t.Context()
	cfg := serverConfig(t)
	file := filepath.Join(t.TempDir(), "sas")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("?" + makeSAS(t, cfg, -time.Hour) + "\n")
	withSAS := cfg
	withSAS.Credentials = Credentials{SASFile: file}
	s := mustOpen(t, withSAS)
	_, err := s.List(ctx, object.ListOptions{})
	wantKind(t, "ended SAS", err, object.ErrAccess, "the SAS ended at 2")
	good := makeSAS(t, cfg, time.Hour)
	write(strings.Replace(good, "sig=", "sig=AAAA", 1))
	_, err = s.List(ctx, object.ListOptions{})
	wantKind(t, "wrong SAS", err, object.ErrAccess)
	write("hello")
	_, err = s.List(ctx, object.ListOptions{})
	wantKind(t, "no SAS", err, object.ErrAccess, "has no signature")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	_, err = s.List(ctx, object.ListOptions{})
	wantKind(t, "missing file", err, object.ErrAccess, "cannot be read")
	write(good)
	if err := s.Check(ctx, true); err != nil {
		t.Error(err)
	}
	for _, key := range []string{"a", "b", "c"} {
		mustPut(t, s, key)
	}
	if _, err := s.Copy(ctx, "d", "a", nil); err != nil {
		t.Errorf("copy: %v", err)
	}
	if err := s.Delete(ctx, "a", "b", "c", "missing"); err != nil {
		t.Errorf("batch: %v", err)
	}
	if got := listAll(t, s, object.ListOptions{}); len(got) != 1 || got[0] != "d" {
		t.Errorf("left: %q", got)
	}
	// The connection breaks: the URL in the error of the HTTP client has the SAS.
	withSAS.Endpoint = "http://127.0.0.1:1/" + cfg.Account
	_, err = mustOpen(t, withSAS).Head(ctx, "d")
	wantKind(t, "unreachable", err, object.ErrUnavailable)
	if name := mustOpen(t, withSAS).String(); strings.Contains(name, "sig") {
		t.Errorf("the name %q shows the SAS", name)
	}
}

// testCopyInBackground: a server without Put Block From URL copies by Copy Blob.
func testCopyInBackground(t *testing.T) {
	s := mustOpen(t, serverConfig(t))
	mustPut(t, s, "src")
	if _, err := s.Copy(t.Context(), "dst", "src", &object.PutOptions{ContentType: "text/y", Metadata: map[string]string{"x": "y"}}); err != nil {
		t.Fatal(err)
	}
	if !s.noStage.Load() {
		t.Error("Azurite has learnt Put Block From URL: this test tests nothing")
	}
	got, err := s.Head(t.Context(), "dst")
	if err != nil || got.ContentType != "text/y" || got.Metadata["x"] != "y" || content(t, s, "dst") != "src" {
		t.Errorf("%+v, %v", got, err)
	}
}

func testBrokenConnections(t *testing.T) {
	cfg := serverConfig(t)
	u, err := url.Parse(cfg.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	proxy := testserver.NewProxy(t, u.Host)
	cfg.Endpoint = "http://" + proxy.Addr() + u.Path
	s := mustOpen(t, cfg)
	ctx := t.Context()
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	put := func() error {
		_, err := s.Put(ctx, "k", bytes.NewReader(data), int64(len(data)), nil)
		return err
	}
	get := func() error {
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
	wantKind(t, "put refused", put(), object.ErrUnavailable, proxy.Addr())
	wantKind(t, "get refused", get(), object.ErrUnavailable, proxy.Addr())
	proxy.Set(testserver.Fault{CutAnswer: 100_000})
	wantKind(t, "get cut short", get(), io.ErrUnexpectedEOF)
	proxy.Set(testserver.Fault{CutRequest: 100_000})
	wantKind(t, "put cut short", put(), object.ErrUnavailable)
	s.cfg.StallTimeout = 200 * time.Millisecond
	proxy.Set(testserver.Fault{StallAnswer: 100_000})
	wantKind(t, "get stalled", get(), syscall.ETIMEDOUT, "no progress")
	proxy.Set(testserver.Fault{StallRequest: 100_000})
	wantKind(t, "put stalled", put(), syscall.ETIMEDOUT, "no progress")
	s.cfg.StallTimeout = 30 * time.Second
	proxy.Set(testserver.Fault{})
	if err := get(); err != nil {
		t.Error(err)
	}
	// With retries none of it is seen.
	r := retry.New(s, retry.Options{First: time.Millisecond, Most: 2 * time.Millisecond})
	for _, f := range []testserver.Fault{{Refuse: true}, {CutAnswer: 400_000}, {CutRequest: 300_000}} {
		proxy.SetTimes(f, 2)
		if _, err := r.Put(ctx, "k", bytes.NewReader(data), int64(len(data)), nil); err != nil {
			t.Errorf("%+v: %v", f, err)
		}
		proxy.SetTimes(f, 2)
		if content(t, r, "k") != string(data) {
			t.Errorf("%+v: wrong bytes", f)
		}
	}
}

// testNothingLeft: no goroutine outlives its call, or at least the store.
func testNothingLeft(t *testing.T) {
	cfg := serverConfig(t)
	before := goleak.IgnoreCurrent()
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 5*mib)
	if _, err := s.Put(t.Context(), "k", io.MultiReader(bytes.NewReader(data)), -1, nil); err != nil {
		t.Fatal(err)
	}
	broken := io.MultiReader(bytes.NewReader(data), iotest.ErrReader(errors.New("broken")))
	if _, err := s.Put(t.Context(), "k", broken, -1, nil); err == nil {
		t.Error("a broken body was stored")
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

func testContentMD5(t *testing.T) {
	cfg := serverConfig(t)
	cfg.ContentMD5 = true
	s := mustOpen(t, cfg)
	ctx := t.Context()
	for key, size := range map[string]int{"small": 1000, "long": 5 * mib} {
		data := strings.Repeat("x", size)
		if _, err := s.Put(ctx, key, io.MultiReader(strings.NewReader(data)), -1, nil); err != nil {
			t.Fatal(err)
		}
		c, err := s.blob(key)
		if err != nil {
			t.Fatal(err)
		}
		p, err := c.GetProperties(ctx, nil)
		if err != nil || len(p.ContentMD5) != 16 {
			t.Errorf("%s: MD5 %x, %v", key, p.ContentMD5, err)
		}
		if content(t, s, key) != data {
			t.Errorf("%s: wrong bytes", key)
		}
	}
	// What was put with a wrong one is not taken for right.
	up := s.newUpload("wrong", &object.PutOptions{})
	part, err := up.PutPart(ctx, 1, strings.NewReader("abc"), 3)
	if err != nil {
		t.Fatal(err)
	}
	up.md5 = make([]byte, 16)
	if _, err := up.Complete(ctx, []object.Part{part}); err != nil {
		t.Fatal(err)
	}
	body, _, err := s.Get(ctx, "wrong", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	_, err = io.ReadAll(body)
	wantKind(t, "wrong MD5", err, object.ErrCorrupt)
}

// TestToken: an identity's token is shown to the server, and the next one when the
// first has ended.
func TestToken(t *testing.T) {
	endpoint, ca := testserver.AzureTLS(t)
	cfg := Config{Account: testserver.AzureAccount, Container: "tokens", Endpoint: endpoint, CAFile: ca, Credentials: Credentials{AccountKey: testserver.AzureKey}}
	c, err := mustOpen(t, cfg).container()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, cfg)
	s.auth.key = nil
	source := &tokens{life: time.Hour}
	s.auth.token = scoped{source, scope("https://storage.azure.com/")}
	if err := s.Check(t.Context(), true); err != nil {
		t.Error(err)
	}
	mustPut(t, s, "a", "b")
	if err := s.Delete(t.Context(), "a", "b"); err != nil {
		t.Errorf("batch: %v", err)
	}
	if source.scopes != "https://storage.azure.com/.default" {
		t.Errorf("scopes %q", source.scopes)
	}
}

// tokens gives out tokens as Azurite takes them.
type tokens struct {
	life   time.Duration
	scopes string
}

func (s *tokens) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	s.scopes = strings.Join(o.Scopes, " ")
	now := time.Now()
	part := func(v string) string { return strings.TrimRight(base64URL(v), "=") }
	text := part(`{"alg":"RS256","typ":"JWT"}`) + "." + part(fmt.Sprintf(
		`{"aud":"https://storage.azure.com","iss":"https://sts.windows.net/ab1f708d-50f6-404c-a006-d71b2ac7a606/","iat":%d,"nbf":%d,"exp":%d}`,
		now.Unix()-60, now.Unix()-60, now.Add(s.life).Unix())) + "." + part("signature")
	return azcore.AccessToken{Token: text, ExpiresOn: now.Add(s.life)}, nil
}
