package blockgate

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	crand "crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/internal/testserver"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/file"
	"github.com/massif-fs/massif/object/mem"
	"github.com/massif-fs/massif/object/prefixed"
	"github.com/massif-fs/massif/object/retry"
	"github.com/massif-fs/massif/object/s3"
	"github.com/massif-fs/massif/vfs"

	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a gate with a server around it, and an authority that does as the tests
// say.
type world struct {
	t      testing.TB
	gate   *Gate
	server *httptest.Server
	volume *Volume
	logs   *logBuffer
	posts  int // requests for grants

	mu       sync.Mutex
	sessions map[string]*fakeSession
	next     block.ID
}

type use struct {
	at place
	id block.ID
}

type fakeSession struct {
	w        *world
	name     string
	secret   string
	whole    bool
	readOnly bool
	uses     map[use][]block.Range // of the files in its scope
	sizes    map[block.ID]uint32
	mine     map[block.ID]bool // allocated, not committed
	done     chan struct{}
}

func (w *world) Authenticate(_ context.Context, name, secret string) (Session, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sessions[name]
	if s == nil || subtle.ConstantTimeCompare([]byte(s.secret), []byte(secret)) != 1 {
		return nil, ErrSession
	}
	return s, nil
}

func (s *fakeSession) Name() string          { return s.name }
func (s *fakeSession) Volume() *Volume       { return s.w.volume }
func (s *fakeSession) Whole() bool           { return s.whole }
func (s *fakeSession) Done() <-chan struct{} { return s.done }

func (s *fakeSession) Uses(_ context.Context, ino vfs.Ino, chunk uint32, id block.ID) (uint32, []block.Range, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	ranges, ok := s.uses[use{place{ino, chunk}, id}]
	if !ok {
		return 0, nil, ErrDenied
	}
	return s.sizes[id], ranges, nil
}

func (s *fakeSession) MayWrite(_ context.Context, id block.ID) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if s.readOnly || !s.mine[id] {
		return ErrDenied
	}
	return nil
}

// alloc gives the session a number.
func (s *fakeSession) alloc() block.ID {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.w.next++
	s.mine[s.w.next] = true
	return s.w.next
}

func (s *fakeSession) commit(id block.ID) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	delete(s.mine, id)
}

// own makes a file of the session's scope point to ranges of a block.
func (s *fakeSession) own(ino vfs.Ino, chunk uint32, id block.ID, size uint32, ranges ...block.Range) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.uses[use{place{ino, chunk}, id}] = ranges
	s.sizes[id] = size
}

func (w *world) session(whole bool) *fakeSession {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &fakeSession{w: w, name: fmt.Sprint("session-", len(w.sessions)), secret: "session-secret-" + crand.Text(), whole: whole,
		uses: make(map[use][]block.Range), sizes: make(map[block.ID]uint32), mine: make(map[block.ID]bool), done: make(chan struct{})}
	w.sessions[s.name] = s
	return s
}

func (s *fakeSession) end() {
	s.w.mu.Lock()
	delete(s.w.sessions, s.name)
	s.w.mu.Unlock()
	close(s.done)
}

// logBuffer is where the gate and everything else logs to.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

var volumeID = [16]byte{7, 7, 7}

func newWorld(t testing.TB, objects object.Store, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, logs: &logBuffer{}, sessions: make(map[string]*fakeSession)}
	w.volume = &Volume{Objects: objects, Blocks: openBlocks(t, objects, w.logs.logger(), nil)}
	cfg := Config{Authority: w, Logger: w.logs.logger()}
	if change != nil {
		change(&cfg)
	}
	w.gate = New(cfg)
	w.server = httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/grants") {
			w.mu.Lock()
			w.posts++
			w.mu.Unlock()
		}
		w.gate.ServeHTTP(rw, r)
	}))
	w.server.Config.ErrorLog = slog.NewLogLogger(w.logs.logger().Handler(), slog.LevelWarn)
	t.Cleanup(w.server.Close)
	return w
}

func openBlocks(t testing.TB, objects object.Store, log *slog.Logger, change func(*block.Config)) *block.Store {
	t.Helper()
	budget := cache.NewBudget(64 << 20)
	bufs, err := cache.NewBuffers(budget)
	if err != nil {
		t.Fatal(err)
	}
	memory, err := cache.NewMemory(bufs, 0)
	if err != nil {
		t.Fatal(err)
	}
	cfg := block.Config{Store: objects, Budget: budget, Buffers: bufs, Memory: memory, Volume: volumeID, Logger: log, Compression: block.LZ4}
	if change != nil {
		change(&cfg)
	}
	s, err := block.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		memory.Close()
		bufs.Close()
	})
	return s
}

func (w *world) config(s *fakeSession) ClientConfig {
	pool := x509.NewCertPool()
	pool.AddCert(w.server.Certificate())
	return ClientConfig{URL: w.server.URL, TLS: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, UserAgent: "massif-test/1",
		Session: func(context.Context) (string, string, error) { return s.name, s.secret, nil }}
}

func (w *world) client(t testing.TB, s *fakeSession, change func(*ClientConfig)) *Client {
	t.Helper()
	cfg := w.config(s)
	if change != nil {
		change(&cfg)
	}
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// blocks opens the volume as a client does.
func (w *world) blocks(t testing.TB, c *Client, change func(*block.Config)) *block.Store {
	return openBlocks(t, retry.New(c, retry.Options{First: time.Millisecond, Most: 20 * time.Millisecond, Total: 20 * time.Second}), w.logs.logger(), change)
}

// kept checks that no secret is in what was logged or in an error.
func (w *world) kept(errs ...error) {
	w.t.Helper()
	text := w.logs.String()
	for _, err := range errs {
		if err != nil {
			text += fmt.Sprintf("\n%v %+v", err, err)
			for e := range chain(err) {
				var ue *url.Error
				if errors.As(e, &ue) {
					w.t.Errorf("an error has a URL in its chain: %T", e)
				}
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	secrets := []string{"X-Amz-Signature", "X-Amz-Credential"}
	for _, s := range w.sessions {
		secrets = append(secrets, s.secret)
	}
	for _, secret := range secrets {
		if i := strings.Index(text, secret); i >= 0 {
			w.t.Errorf("a secret was logged or told: …%s…", text[max(0, i-200):i])
		}
	}
}

// chain gives an error and all that it wraps.
func chain(err error) func(func(error) bool) {
	return func(yield func(error) bool) {
		queue := []error{err}
		for len(queue) > 0 {
			e := queue[0]
			queue = queue[1:]
			if e == nil {
				continue
			}
			if !yield(e) {
				return
			}
			switch u := e.(type) {
			case interface{ Unwrap() error }:
				queue = append(queue, u.Unwrap())
			case interface{ Unwrap() []error }:
				queue = append(queue, u.Unwrap()...)
			}
		}
	}
}

// backend is an object store to serve.
type backend struct {
	name  string
	signs bool
	open  func(t testing.TB) object.Store
}

var backends = []backend{
	{"file", false, func(t testing.TB) object.Store {
		s, err := file.Open(t.TempDir(), file.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}},
	{"versitygw", true, func(t testing.TB) object.Store {
		endpoint, bucket, creds := testserver.S3(t)
		return openS3(t, endpoint, bucket, creds)
	}},
	{"minio", true, func(t testing.TB) object.Store {
		endpoint, creds := testserver.MinIO(t)
		s := openS3(t, endpoint, "massif-test", creds)
		if err := makeBucket(t.Context(), endpoint, "massif-test", creds); err != nil {
			t.Fatal(err)
		}
		return s
	}},
}

func openS3(t testing.TB, endpoint, bucket string, creds testserver.Credentials) object.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), s3.Config{Bucket: bucket, Endpoint: endpoint, Region: "us-east-1",
		Credentials: &s3.Credentials{AccessKey: creds.AccessKey, SecretKey: creds.SecretKey}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return prefixed.Borrow(s, "a volume/")
}

func makeBucket(ctx context.Context, endpoint, bucket string, creds testserver.Credentials) error {
	c := awss3.New(awss3.Options{Region: "us-east-1", BaseEndpoint: &endpoint, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(creds.AccessKey, creds.SecretKey, "")})
	_, err := c.CreateBucket(ctx, &awss3.CreateBucketInput{Bucket: &bucket})
	return err
}

// each runs a test with every kind of store.
func each(t *testing.T, do func(t *testing.T, b backend, objects object.Store)) {
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) {
			if b.name == "minio" && testing.Short() {
				t.Skip("it takes long to start")
			}
			do(t, b, b.open(t))
		})
	}
}

func inMemory(testing.TB) object.Store { return mem.New() }

func content(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// testSealer is AES-GCM with random nonces.
type testSealer struct{ aead cipher.AEAD }

func newTestSealer(t testing.TB) testSealer {
	b, err := aes.NewCipher([]byte("0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := cipher.NewGCM(b)
	if err != nil {
		t.Fatal(err)
	}
	return testSealer{a}
}

func (s testSealer) ID() uint8     { return 9 }
func (s testSealer) Overhead() int { return 28 }

func (s testSealer) Seal(dst, plain, aad []byte) []byte {
	var nonce [12]byte
	crand.Read(nonce[:])
	return s.aead.Seal(append(dst, nonce[:]...), nonce[:], plain, aad)
}

func (s testSealer) Open(dst, sealed, aad []byte) ([]byte, error) {
	if len(sealed) < 12 {
		return nil, errors.New("too short")
	}
	return s.aead.Open(dst, sealed[:12], sealed[12:], aad)
}
