package managed

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/meta/metarpc"
	"github.com/massif-fs/massif/service/admin"
	"github.com/massif-fs/massif/service/admin/adminapi"
	"github.com/massif-fs/massif/telemetry"
	"github.com/massif-fs/massif/vfs"
)

// page is what a server tells at an address of metrics.
func page(t *testing.T, url string) (status int, text []byte) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, text
}

// figures are metrics, as Prometheus reads them.
type figures map[string]*dto.MetricFamily

func readFigures(t *testing.T, url string) (figures, string) {
	t.Helper()
	status, text := page(t, url+"/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if status != http.StatusOK || err != nil {
		t.Fatalf("%d, %v:\n%s", status, err, text)
	}
	return families, string(text)
}

// get returns the sum of the series that have the labels (name, value, …); -1 if there
// are none. Of a histogram it is the count.
func (f figures) get(name string, labels ...string) float64 {
	sum, some := 0.0, false
	if f[name] == nil {
		return -1
	}
	for _, m := range f[name].Metric {
		have := map[string]string{}
		for _, l := range m.Label {
			have[l.GetName()] = l.GetValue()
		}
		fits := true
		for i := 0; i < len(labels); i += 2 {
			fits = fits && have[labels[i]] == labels[i+1]
		}
		if fits {
			some = true
			sum += m.GetCounter().GetValue() + m.GetUntyped().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	if !some {
		return -1
	}
	return sum
}

// watched is a metadata server with its admin server, and the metrics of both.
type watched struct {
	t      *testing.T
	owner  *adminapi.Client
	server *Server
	token  string // of the volume v
	admin  string // address
	url    string // of the metrics
}

func newWatched(t *testing.T) *watched {
	t.Helper()
	ctx, log, dir := context.Background(), slog.New(slog.DiscardHandler), t.TempDir()
	w := &watched{t: t}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	metrics := telemetry.New("test")
	a, err := admin.Start(ctx, admin.RunOptions{Dir: filepath.Join(dir, "admin"), Listen: "127.0.0.1:0", Logger: log, Metrics: metrics})
	must(err)
	run := func(fn func(context.Context) error) {
		ctx, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- fn(ctx) }()
		t.Cleanup(func() {
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	w.admin = a.Addr().String()
	run(a.Run)
	trust := adminapi.Trust{Fingerprint: a.Fingerprint()}
	w.owner, err = adminapi.NewClient(w.admin, a.FirstToken(), trust)
	must(err)
	t.Cleanup(w.owner.Close)
	var ms adminapi.MetadataServer
	must(w.owner.Create(ctx, adminapi.TableMetadataServers, map[string]any{"name": "m", "address": "127.0.0.1:9"}, &ms))
	must(w.owner.Create(ctx, adminapi.TableStores, map[string]any{"name": "s", "url": "file://" + filepath.Join(dir, "blocks")}, nil))
	must(w.owner.Create(ctx, adminapi.TableVolumes, map[string]any{"name": "v", "store": "s", "metadataServer": "m"}, nil))
	var token adminapi.Token
	must(w.owner.Create(ctx, adminapi.TableTokens, map[string]any{"volume": "v"}, &token))
	w.token = token.Token
	own, err := adminapi.NewClient(w.admin, ms.Token, trust)
	must(err)
	t.Cleanup(own.Close)
	w.server, err = Start(ctx, Config{Admin: own, Dir: filepath.Join(dir, "meta"), Listen: "127.0.0.1:0", Logger: log, Metrics: metrics})
	must(err)
	web, err := metrics.Serve("127.0.0.1:0", telemetry.ServeOptions{Logger: log, Health: func(ctx context.Context) error {
		return errors.Join(w.server.Health(), a.Health(ctx))
	}})
	must(err)
	t.Cleanup(func() {
		if status, text := page(t, w.url+"/healthz"); status != http.StatusServiceUnavailable || !strings.Contains(string(text), "goes down") {
			t.Errorf("health of servers that have ended: %d %s", status, text)
		}
		if err := web.Close(); err != nil {
			t.Error(err)
		}
	})
	w.url = "http://" + web.Addr().String()
	run(w.server.Run)
	return w
}

// dial begins a session with a token.
func (w *watched) dial(token string) (*metarpc.Client, error) {
	addr := w.server.Addr().String()
	return metarpc.Dial(context.Background(), metarpc.ClientConfig{
		Connect: func(ctx context.Context) (net.Conn, error) {
			d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{metarpc.ALPN}}} // the test's own server
			return d.DialContext(ctx, "tcp", addr)
		},
		Hello:  metarpc.Hello{Token: token, Volume: "v", Info: meta.SessionInfo{Host: "h", Mountpoint: "/secret-place"}},
		Logger: slog.New(slog.DiscardHandler),
	})
}

// TestMetrics: a few calls of clients, in the figures of the servers.
func TestMetrics(t *testing.T) {
	w := newWatched(t)
	ctx := context.Background()
	if status, text := page(t, w.url+"/healthz"); status != http.StatusOK || string(text) != "ok\n" {
		t.Errorf("health: %d %s", status, text)
	}
	before, _ := readFigures(t, w.url)
	if n := before.get("massif_rpc_sessions"); n != 0 {
		t.Errorf("%v sessions before the first", n)
	}

	a, err := w.dial(w.token)
	if err != nil {
		t.Fatal(err)
	}
	b, err := w.dial(w.token)
	if err != nil {
		t.Fatal(err)
	}
	wrong := adminapi.NewToken()
	if _, err := w.dial(wrong); vfs.ErrnoOf(err) != syscall.EACCES {
		t.Fatalf("a wrong token: %v", err)
	}
	cr := &vfs.Caller{}
	var dir, attr vfs.Attr
	for _, name := range []string{"secret-name", "another"} {
		if err := a.Mkdir(ctx, cr, vfs.Root, name, 0o755, &dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Mkdir(ctx, cr, vfs.Root, "another", 0o755, &dir); err != syscall.EEXIST {
		t.Fatal(err)
	}
	// What one has leased the other changes, so that it is recalled.
	if err := a.GetAttr(ctx, cr, dir.Ino, &attr); err != nil {
		t.Fatal(err)
	}
	if err := b.Lookup(ctx, cr, vfs.Root, "another", &attr); err != nil {
		t.Fatal(err)
	}
	held, _ := readFigures(t, w.url)
	if n := held.get("massif_rpc_leases"); n < 1 {
		t.Errorf("%v inodes leased", n)
	}
	if err := b.Mkdir(ctx, cr, attr.Ino, "below", 0o755, &dir); err != nil {
		t.Fatal(err)
	}

	// The block gate refuses who is not a session, the admin server who has no good token.
	gate := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := gate.Post("https://"+w.server.Addr().String()+"/blocks/v1/grants", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	bad, err := adminapi.NewClient(w.admin, wrong, adminapi.Trust{Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	if _, err := bad.Mount(ctx); !adminapi.IsCode(err, adminapi.CodeUnauthorized) {
		t.Fatal(err)
	}

	got, text := readFigures(t, w.url)
	for _, x := range []struct {
		least  float64
		name   string
		labels []string
	}{
		{2, "massif_rpc_sessions", nil},
		{2, "massif_rpc_connections", nil},
		{1, "massif_rpc_refused_total", nil},
		{1, "massif_rpc_recalls_total", nil},
		{1, "massif_rpc_recalls_acknowledged_total", nil},
		{3, "massif_rpc_duration_seconds", []string{"op", "mkdir", "volume", "v"}},
		{1, "massif_rpc_errors_total", []string{"op", "mkdir", "volume", "v"}},
		{1, "massif_rpc_errnos_total", []string{"op", "mkdir", "errno", "EEXIST"}},
		{50, "massif_rpc_bytes_total", []string{"op", "mkdir"}},
		{100, "massif_metad_received_bytes_total", nil},
		{100, "massif_metad_sent_bytes_total", nil},
		{1, "massif_metad_volumes_served", nil},
		{1, "massif_metad_auth_refused_total", nil},
		{1, "massif_metad_admin_heard", nil},
		{2, "massif_volume_sessions", []string{"volume", "v"}},
		{0, "massif_volume_pending_blocks", []string{"volume", "v"}},
		{1000, "massif_database_disk_bytes", []string{"volume", "v"}},
		{1, "massif_block_gate_unauthenticated", nil},
		{0, "massif_block_gate_sent_bytes", nil},
		{1, "massif_admin_requests_total", []string{"route", "GET /v1/mount", "status", "401"}},
		{1, "massif_admin_requests_total", []string{"route", "POST /v1/volumes", "status", "201"}},
		{1, "massif_admin_request_duration_seconds", []string{"route", "POST /v1/volumes"}},
		{1, "massif_admin_auth_refused_total", nil},
		{1000, "massif_admin_database_disk_bytes", nil},
	} {
		if n := got.get(x.name, x.labels...); n < x.least {
			t.Errorf("%s%v is %v, expected %v or more", x.name, x.labels, n, x.least)
		}
	}
	for _, secret := range []string{w.token, wrong, "secret-name", "secret-place", w.admin} {
		if strings.Contains(text, secret) {
			t.Errorf("the metrics tell %q", secret)
		}
	}
	for _, c := range []*metarpc.Client{a, b} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	got, _ = readFigures(t, w.url)
	if n, l := got.get("massif_rpc_sessions"), got.get("massif_rpc_leases"); n != 0 || l != 0 {
		t.Errorf("%v sessions with %v leases after the last has ended", n, l)
	}
}

// TestHealth: what is wrong is said; a volume that cannot be opened is not among the
// figures.
func TestHealth(t *testing.T) {
	w := newWatched(t)
	ctx := context.Background()
	if err := w.owner.Create(ctx, adminapi.TableStores, map[string]any{"name": "bad", "url": "file:///dev/null/nowhere"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := w.owner.Create(ctx, adminapi.TableVolumes, map[string]any{"name": "broken", "store": "bad", "metadataServer": "m"}, nil); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		status, text := page(t, w.url+"/healthz")
		if status == http.StatusServiceUnavailable && strings.HasPrefix(string(text), "volume broken: store: ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("health: %d %s", status, text)
		}
		time.Sleep(5 * time.Millisecond)
	}
	f, _ := readFigures(t, w.url)
	if wanted, served := f.get("massif_metad_volumes_wanted"), f.get("massif_metad_volumes_served"); wanted != 2 || served != 1 {
		t.Errorf("%v volumes wanted, %v served", wanted, served)
	}
	if n := f.get("massif_volume_sessions", "volume", "broken"); n != -1 {
		t.Errorf("figures of a volume that is not open: %v", n)
	}
}

// TestMetricsWhileVolumesCome: figures are read while a volume comes and goes, and its
// name comes again.
func TestMetricsWhileVolumesCome(t *testing.T) {
	w := newWatched(t)
	ctx := context.Background()
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				readFigures(t, w.url)
			}
		}
	})
	defer reader.Wait()
	defer close(stop)
	until := func(what string, ok func(f figures) bool) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for f, _ := readFigures(t, w.url); !ok(f); f, _ = readFigures(t, w.url) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v", what, w.server.Health())
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	for range 2 {
		store := map[string]any{"name": adminapi.NewToken()[:8], "url": "file://" + filepath.Join(t.TempDir(), "blocks")}
		if err := w.owner.Create(ctx, adminapi.TableStores, store, nil); err != nil {
			t.Fatal(err)
		}
		var v adminapi.Volume
		if err := w.owner.Create(ctx, adminapi.TableVolumes, map[string]any{"name": "again", "store": store["name"], "metadataServer": "m"}, &v); err != nil {
			t.Fatal(err)
		}
		until("the volume is served", func(f figures) bool { return f.get("massif_volume_up", "volume", "again", "id", v.ID) == 1 })
		if err := w.owner.Delete(ctx, adminapi.TableVolumes, v.ID); err != nil {
			t.Fatal(err)
		}
		until("the volume has gone", func(f figures) bool { return f.get("massif_volume_up", "id", v.ID) == -1 })
	}
}
