package s3

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/massif-fs/massif/internal/leak"
	"github.com/massif-fs/massif/internal/testserver"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/objecttest"
	"github.com/massif-fs/massif/object/retry"
	"go.uber.org/goleak"
)

// These tests talk to a real server, mostly by way of a connection that is not to
// be relied on.

// bodies are the cases in which the way that bodies are sent matters.
var bodies = []string{"PutGet", "GetRange", "Stream", "Metadata", "Copy", "Multipart", "WrongBodies", "IfAbsent"}

func TestStoreOverTLS(t *testing.T) {
	endpoint, bucket, creds, ca := testserver.S3TLS(t)
	for _, sum := range []Checksum{CRC32C, CRC64NVME, NoChecksum} {
		t.Run(string(sum), func(t *testing.T) {
			f := factory(Config{
				Bucket: bucket, Endpoint: endpoint, CAFile: ca, PartSize: minPart, Checksum: sum, Prefix: "deep/down/",
				Credentials: &Credentials{AccessKey: creds.AccessKey, SecretKey: creds.SecretKey},
			})
			f.Only = append(slices.Clone(bodies), presignCases[0])
			f.HTTP = trusting(t, ca)
			objecttest.Run(t, f)
		})
	}
}

func TestStoreWithoutChecksums(t *testing.T) {
	cfg := serverConfig(t)
	cfg.Checksum = NoChecksum
	f := factory(cfg)
	f.Only = bodies
	objecttest.Run(t, f)
}

// TestStoreOverMinIO is the suite once more, if the server is installed.
func TestStoreOverMinIO(t *testing.T) {
	endpoint, creds := testserver.MinIO(t)
	cfg := Config{
		Bucket: "massif-test", Endpoint: endpoint, PartSize: minPart,
		Credentials: &Credentials{AccessKey: creds.AccessKey, SecretKey: creds.SecretKey},
	}
	if _, err := mustOpen(t, cfg).client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &cfg.Bucket}); err != nil {
		t.Fatal(err)
	}
	if err := mustOpen(t, cfg).Check(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	f := factory(cfg)
	f.NoNesting = "MinIO keeps an object below another, but does not list it"
	f.Skip = map[string]string{
		"OddKeys":        "MinIO was seen to end a listing too early that begins after a key of 241 bytes",
		"ConcurrentKeys": "MinIO was seen to answer AccessDenied to a put into a directory from which another request just took the last object",
		"ListChanging":   "MinIO goes on with a listing as it was when it began",
		"AbortStale":     "MinIO lists uploads only by whole keys; it drops those that are a day old itself",
	}
	refuses := f.RefusesKey
	f.RefusesKey = func(key string) string {
		if dir, ok := strings.CutSuffix(key, "/"); ok && refuses(key+"x") == "" { // unlike versitygw
			if name := dir[strings.LastIndexByte(dir, '/')+1:]; len(name) > 255-len("__XLDIR__") {
				return "longer than the file system's names, together with MinIO's mark"
			}
			return ""
		}
		return refuses(key)
	}
	objecttest.Run(t, f)
}

func TestCopyByParts(t *testing.T) {
	s := mustOpen(t, serverConfig(t))
	singleCopyLimit = minPart
	defer func() { singleCopyLimit = maxSingleCopy }()
	data := bytes.Repeat([]byte("0123456789abcdef"), 13*mib/16)
	opts := &object.PutOptions{ContentType: "text/x", Metadata: map[string]string{"a": "b", "umlaut": "ä ö"}}
	if _, err := s.Put(t.Context(), "src +%", bytes.NewReader(data), int64(len(data)), opts); err != nil {
		t.Fatal(err)
	}
	info, err := s.Copy(t.Context(), "dst", "src +%", nil)
	if err != nil {
		t.Fatal(err)
	}
	body, got, err := s.Get(t.Context(), "dst", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	p, err := io.ReadAll(body)
	if err != nil || !bytes.Equal(p, data) {
		t.Errorf("the copy has %d bytes, %v", len(p), err)
	}
	if got.ETag != info.ETag || got.ContentType != "text/x" || got.Metadata["umlaut"] != "ä ö" {
		t.Errorf("the copy is %+v, returned %+v", got, info)
	}
}

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
	if strings.Contains(err.Error(), "secret-of") {
		t.Errorf("%s: %q shows the secret", what, err)
	}
}

func TestMisconfigured(t *testing.T) {
	cfg := serverConfig(t)
	ctx := t.Context()
	try := func(change func(*Config)) (check, put, list error) {
		c := cfg
		keys := *cfg.Credentials
		c.Credentials = &keys
		change(&c)
		s := mustOpen(t, c)
		check = s.Check(ctx, true)
		_, put = s.Put(ctx, "k", bytes.NewReader(nil), 0, nil)
		_, list = s.List(ctx, object.ListOptions{})
		return check, put, list
	}
	all := func(what string, kind error, words []string, change func(*Config)) {
		t.Helper()
		check, put, list := try(change)
		wantKind(t, what+": check", check, kind, words...)
		wantKind(t, what+": put", put, kind, words...)
		wantKind(t, what+": list", list, kind, words...)
	}
	if check, _, _ := try(func(*Config) {}); check != nil {
		t.Errorf("all is well: %v", check)
	}
	all("wrong secret", object.ErrAccess, []string{"the secret key is wrong", cfg.Bucket, cfg.Endpoint}, func(c *Config) { c.Credentials.SecretKey = "secret-of-nobody" })
	all("wrong key", object.ErrAccess, []string{"does not know the access key", cfg.Bucket, cfg.Endpoint}, func(c *Config) { c.Credentials.AccessKey = "nobody" })
	all("anonymous", object.ErrAccess, []string{cfg.Bucket, cfg.Endpoint}, func(c *Config) { c.Credentials, c.Anonymous = nil, true })
	all("no credentials", object.ErrAccess, []string{"no credentials"}, func(c *Config) { c.Credentials = nil })
	all("wrong bucket", object.ErrNoBucket, []string{"no-such-bucket", cfg.Endpoint}, func(c *Config) { c.Bucket = "no-such-bucket" })
	all("nobody listens", object.ErrUnavailable, []string{"cannot be reached", "127.0.0.1:1"}, func(c *Config) { c.Endpoint = "http://127.0.0.1:1" })
	all("no HTTPS", object.ErrInvalid, []string{"does not speak HTTPS"}, func(c *Config) { c.Endpoint = strings.Replace(c.Endpoint, "http:", "https:", 1) })
	endpoint, _, _, _ := testserver.S3TLS(t)
	all("unknown certificate", object.ErrAccess, []string{"certificate"}, func(c *Config) { c.Endpoint = endpoint })
}

// proxied returns a store whose connections go through a proxy.
func proxied(t *testing.T) (*Store, *testserver.Proxy) {
	cfg := serverConfig(t)
	u, err := url.Parse(cfg.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	p := testserver.NewProxy(t, u.Host)
	cfg.Endpoint = "http://" + p.Addr()
	return mustOpen(t, cfg), p
}

func TestBrokenConnections(t *testing.T) {
	s, proxy := proxied(t)
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
	read := func() error {
		p := make([]byte, 500_000)
		_, err := s.ReadRange(ctx, "k", p, 1000)
		if err == nil && !bytes.Equal(p, data[1000:501_000]) {
			t.Error("a broken read gave wrong bytes without an error")
		}
		return err
	}
	if err := put(); err != nil {
		t.Fatal(err)
	}
	// What breaks is noticed as such, and not because nothing came for long.
	broken := func(what string, err error) error {
		t.Helper()
		if errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("%s was noticed by a time limit only: %v", what, err)
		}
		return err
	}

	proxy.Set(testserver.Fault{Refuse: true})
	for what, do := range map[string]func() error{"put": put, "get": get, "read": read} {
		wantKind(t, what+" refused", broken(what, do()), object.ErrUnavailable, "massif-test", proxy.Addr())
	}
	proxy.Set(testserver.Fault{CutAnswer: 100_000})
	for what, do := range map[string]func() error{"get": get, "read": read} {
		err := broken(what, do())
		wantKind(t, what+" cut short", err, io.ErrUnexpectedEOF)
		if !errors.Is(err, object.ErrUnavailable) {
			t.Errorf("%s cut short: %v is not ErrUnavailable", what, err)
		}
	}
	proxy.Set(testserver.Fault{CutRequest: 100_000})
	wantKind(t, "put cut short", broken("put", put()), object.ErrUnavailable)
	impatient := func(d time.Duration) { s.cfg.StallTimeout, s.cfg.SlowTimeout = d, d }
	impatient(200 * time.Millisecond)
	for _, f := range []testserver.Fault{{StallAnswer: 100_000}, {StallAnswer: -1}, {StallRequest: -1}} {
		proxy.Set(f)
		for what, do := range map[string]func() error{"get": get, "read": read} {
			err := do()
			wantKind(t, what+" stalled", err, syscall.ETIMEDOUT, "no progress")
			if !errors.Is(err, object.ErrUnavailable) {
				t.Errorf("%s stalled: %v is not ErrUnavailable", what, err)
			}
		}
	}
	proxy.Set(testserver.Fault{StallRequest: 100_000})
	wantKind(t, "put stalled", put(), syscall.ETIMEDOUT, "no progress")
	impatient(30 * time.Second)
	proxy.Set(testserver.Fault{Flip: 500_000})
	wantKind(t, "get damaged", get(), object.ErrCorrupt)

	// Nothing of that did anything to the object.
	proxy.Set(testserver.Fault{})
	if err := get(); err != nil {
		t.Error(err)
	}

	// With retries none of it is seen.
	impatient(time.Second)
	r := retry.New(s, retry.Options{First: time.Millisecond, Most: 2 * time.Millisecond})
	for _, f := range []testserver.Fault{{Refuse: true}, {CutAnswer: 400_000}, {StallAnswer: 200_000}, {CutRequest: 300_000}} {
		proxy.SetTimes(f, 2)
		if _, err := r.Put(ctx, "k", bytes.NewReader(data), int64(len(data)), nil); err != nil {
			t.Errorf("%+v: %v", f, err)
		}
		proxy.SetTimes(f, 2)
		body, _, err := r.Get(ctx, "k", 0, -1)
		if err != nil {
			t.Errorf("%+v: %v", f, err)
			continue
		}
		got, err := io.ReadAll(body)
		body.Close()
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%+v: %d bytes, %v", f, len(got), err)
		}
	}
}

// TestSlowIsNotStalled: a body that comes slowly, and one that nobody reads for a
// while, are all right.
func TestSlowIsNotStalled(t *testing.T) {
	s, proxy := proxied(t)
	s.cfg.StallTimeout = 2 * time.Second
	data := bytes.Repeat([]byte("x"), 300_000)
	if _, err := s.Put(t.Context(), "k", bytes.NewReader(data), int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
	proxy.Set(testserver.Fault{Delay: 50 * time.Millisecond})
	body, _, err := s.Get(t.Context(), "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	time.Sleep(2200 * time.Millisecond) // longer than the watchdog waits
	if got, err := io.ReadAll(body); err != nil || len(got) != len(data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestCancelStalled(t *testing.T) {
	s, proxy := proxied(t)
	s.cfg.StallTimeout, s.cfg.SlowTimeout = time.Hour, time.Hour
	proxy.Set(testserver.Fault{StallAnswer: -1})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Head(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// TestConnectionsAreKept: requests use connections again, also after reads of a
// part and reads that were closed at their last byte.
func TestConnectionsAreKept(t *testing.T) {
	cfg := serverConfig(t)
	u, _ := url.Parse(cfg.Endpoint)
	counter := &countingListener{t: t, server: u.Host}
	cfg.Endpoint = "http://" + counter.start()
	s := mustOpen(t, cfg)
	ctx := t.Context()
	data := make([]byte, 100_000)
	for range 20 {
		if _, err := s.Put(ctx, "k", bytes.NewReader(data), int64(len(data)), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ReadRange(ctx, "k", make([]byte, 5000), 100); err != nil {
			t.Fatal(err)
		}
		body, _, err := s.Get(ctx, "k", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(body, data); err != nil {
			t.Fatal(err)
		}
		body.Close()
		if _, err := s.Head(ctx, "missing"); !errors.Is(err, object.ErrNotFound) {
			t.Fatal(err)
		}
	}
	// Each of the four kinds of request alone would take twenty; one more or less is the
	// transport's affair, which gives up connections of which it learns too late.
	if n := counter.count(); n > 10 {
		t.Errorf("80 requests in a row took %d connections", n)
	}
}

// countingListener passes connections on and counts them.
type countingListener struct {
	t      *testing.T
	server string
	n      chan int
}

func (c *countingListener) start() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	c.n = make(chan int, 1)
	c.n <- 0
	c.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			c.n <- <-c.n + 1
			b, err := net.Dial("tcp", c.server)
			if err != nil {
				a.Close()
				continue
			}
			pass := func(dst, src net.Conn) {
				_, _ = io.Copy(dst, src)
				dst.Close()
			}
			go pass(a, b)
			go pass(b, a)
		}
	}()
	return l.Addr().String()
}

func (c *countingListener) count() int {
	n := <-c.n
	c.n <- n
	return n
}

// TestNothingLeft: no goroutine outlives its call, or at least the store.
func TestNothingLeft(t *testing.T) {
	cfg := serverConfig(t)
	before := goleak.IgnoreCurrent()
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 12*mib)
	if _, err := s.Put(t.Context(), "k", io.MultiReader(bytes.NewReader(data)), -1, nil); err != nil {
		t.Fatal(err)
	}
	broken := io.MultiReader(bytes.NewReader(data), iotest.ErrReader(errors.New("broken")))
	if _, err := s.Put(t.Context(), "k", broken, -1, nil); err == nil {
		t.Error("a broken body was stored")
	}
	if n, err := s.AbortStale(t.Context(), "", time.Now().Add(time.Hour)); n != 0 || err != nil {
		t.Errorf("%d uploads were left, %v", n, err)
	}
	for range 3 {
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
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	leak.None(t, before)
}
