package admin

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/leak"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/service/admin/adminapi"
)

func TestMain(m *testing.M) { leak.Main(m) }

// world is a running server and a client of the installation's owner.
type world struct {
	*adminapi.Client
	t      *testing.T
	server *Server
	addr   string
	token  string
	trust  adminapi.Trust
	clock  *clock
	log    *lockedBuffer
}

type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

type lockedBuffer struct {
	mu   sync.Mutex
	text []byte
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	return len(p), nil
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	db := mem.New()
	w := &world{t: t, clock: &clock{at: time.Now()}, log: &lockedBuffer{}}
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	w.server, err = New(context.Background(), Config{DB: db, Dir: t.TempDir(), Version: "test", Logger: log, Clock: w.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.server.Serve(ctx, l) }()
	w.addr, w.token, w.trust = l.Addr().String(), w.server.FirstToken(), adminapi.Trust{Fingerprint: w.server.Fingerprint()}
	w.Client = w.client(w.token)
	t.Cleanup(func() {
		w.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
		db.Close()
	})
	return w
}

// client makes a client with a token.
func (w *world) client(token string) *adminapi.Client {
	w.t.Helper()
	c, err := adminapi.NewClient(w.addr, token, w.trust)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	return c
}

type fields = map[string]any

// create makes an entity with a client, which must work.
func create[T any](w *world, c *adminapi.Client, table string, f fields) *T {
	w.t.Helper()
	out := new(T)
	if err := c.Create(context.Background(), table, f, out); err != nil {
		w.t.Fatalf("create %s %v: %v", table, f, err)
	}
	return out
}

// volume makes a store, a metadata server and a volume.
func (w *world) volume(name string, more fields) (*adminapi.Volume, *adminapi.MetadataServer) {
	w.t.Helper()
	create[adminapi.Store](w, w.Client, adminapi.TableStores, fields{"name": name + "-store", "url": "s3://bucket/data?region=eu-central-1", "accessKeyID": "AKIDEXAMPLE", "secretKey": "the-secret-of-the-store"})
	ms := create[adminapi.MetadataServer](w, w.Client, adminapi.TableMetadataServers, fields{"name": name + "-meta", "address": "127.0.0.1:9"})
	f := fields{"name": name, "store": name + "-store", "metadataServer": name + "-meta"}
	for k, v := range more {
		f[k] = v
	}
	return create[adminapi.Volume](w, w.Client, adminapi.TableVolumes, f), ms
}

// refused checks a refusal's code and that its message names what is wrong.
func (w *world) refused(err error, code, want string) {
	w.t.Helper()
	switch {
	case err == nil:
		w.t.Errorf("allowed; expected a refusal with %q", want)
	case !adminapi.IsCode(err, code):
		w.t.Errorf("refused with %v; expected code %s", err, code)
	case !contains(err.Error(), want):
		w.t.Errorf("refused with %q, which does not say %q", err, want)
	}
}
