package meta_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/meta/metarpc"
)

// The tests of the engine's sessions also run with a metadata server between them
// and the engine: TestOverTheWire runs this binary again with wireVariable set.
const wireVariable = "MASSIF_TEST_META_WIRE"

func init() {
	if os.Getenv(wireVariable) != "" {
		meta.OverTheWire = dial
	}
}

type open struct{ volume string }

func (o open) Authenticate(context.Context, *metarpc.Hello) (*metarpc.Grant, error) {
	return &metarpc.Grant{Volume: o.volume}, nil
}

// dial serves an engine on a socket and begins a session there.
func dial(t testing.TB, e *meta.Engine, info meta.SessionInfo) meta.Session {
	t.Helper()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	dir, err := os.MkdirTemp("", "massif-wire")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := metarpc.NewServer(metarpc.ServerConfig{
		Auth:   open{"test"},
		Volume: func(string) (*metarpc.Volume, error) { return &metarpc.Volume{Engine: e, Relaxed: true}, nil },
		Logger: quiet,
	})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	var d net.Dialer
	c, err := metarpc.Dial(context.Background(), metarpc.ClientConfig{
		Connect: func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "unix", l.Addr().String()) },
		Hello:   metarpc.Hello{Volume: "test", Info: info},
		Logger:  quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return c
}

func TestOverTheWire(t *testing.T) {
	if os.Getenv(wireVariable) != "" {
		t.Skip("this is the run over the wire")
	}
	if testing.Short() {
		t.Skip("runs the other tests once more")
	}
	// Left out are those that look for what a client knows, or has done, a moment
	// later or more of at once: settings, the feed, reservations, block ids; and those
	// that look into the session itself.
	cmd := exec.Command(os.Args[0], "-test.short", "-test.timeout=5m", "-test.count=1",
		"-test.skip=^(TestSettings|TestFeed|TestReserve|TestTmpfile)$|^TestRepair$/^counters$")
	cmd.Env = append(os.Environ(), wireVariable+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("over the wire: %v\n%s", err, out)
	}
}
