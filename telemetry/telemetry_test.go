package telemetry

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func serve(t *testing.T, tel *Telemetry, o ServeOptions) (url string) {
	s, err := tel.Serve("127.0.0.1:0", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return "http://" + s.Addr().String()
}

type inner struct {
	Hits int `json:"hits"`
}

type stats struct {
	inner
	Inner
	DiskBytes uint64        `json:"diskBytes"`
	Wait      time.Duration `json:"wait_ns"`
	Ratio     float64       `json:"ratio,omitempty"`
	Full      bool          `json:"full"`
	Cache     inner         `json:"cache"`
	ReadAMP   int
	Secret    string `json:"secret"`
	Hidden    int    `json:"-"`
	private   int
}

// Inner is embedded.
type Inner struct {
	Size int8 `json:"size"`
}

func TestMetrics(t *testing.T) {
	tel := New("1.2.3")
	ops := NewOps([]string{"read", "write", "link"})
	ops.Record(0, 3*time.Microsecond, 4096, 0)
	ops.Record(0, 100*time.Millisecond, 0, syscall.EIO)
	ops.Record(2, time.Millisecond, 0, syscall.Errno(5000))
	removeOps, err := tel.AddOps("fuse", Labels{"mount": "/a \"b\""}, ops)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tel.AddOps("fuse", Labels{"mount": "/a \"b\""}, ops); err == nil {
		t.Error("the same metrics can be added twice")
	}
	if _, err := tel.AddOps("fuse", Labels{"mount": "/c"}, NewOps(nil)); err != nil {
		t.Errorf("other labels: %v", err)
	}
	s := &stats{Inner: Inner{3}, DiskBytes: 1 << 40, Wait: 1500 * time.Millisecond, Ratio: 0.25, Full: true, Cache: inner{7}, ReadAMP: 2, Secret: "hush", Hidden: 1, private: 1}
	removeStats, err := tel.AddStats("kv", Labels{"volume": "v"}, func() any { return s })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tel.AddStats("kv", Labels{"volume": "w"}, func() any { return stats{} }); err != nil {
		t.Errorf("other labels: %v", err)
	}
	if _, err := tel.AddStats("gone", nil, func() any { return (*stats)(nil) }); err != nil {
		t.Error(err)
	}
	url := serve(t, tel, ServeOptions{})
	status, body := fetch(t, url+"/metrics")
	if status != 200 {
		t.Fatalf("status %d: %s", status, body)
	}
	for _, line := range []string{
		`massif_build_info{go="`,
		`massif_fuse_duration_seconds_bucket{mount="/a \"b\"",op="read",le="1.024e-06"} 0`,
		`massif_fuse_duration_seconds_bucket{mount="/a \"b\"",op="read",le="4.096e-06"} 1`,
		`massif_fuse_duration_seconds_bucket{mount="/a \"b\"",op="read",le="0.268435456"} 2`,
		`massif_fuse_duration_seconds_count{mount="/a \"b\"",op="read"} 2`,
		`massif_fuse_errors_total{mount="/a \"b\"",op="read"} 1`,
		`massif_fuse_errnos_total{errno="EIO",mount="/a \"b\"",op="read"} 1`,
		`massif_fuse_errnos_total{errno="other",mount="/a \"b\"",op="link"} 1`,
		`massif_fuse_bytes_total{mount="/a \"b\"",op="read"} 4096`,
		`massif_kv_up{volume="v"} 1`,
		`massif_kv_disk_bytes{volume="v"} 1.099511627776e+12`,
		`massif_kv_disk_bytes{volume="w"} 0`,
		`massif_kv_wait_seconds{volume="v"} 1.5`,
		`massif_kv_ratio{volume="v"} 0.25`,
		`massif_kv_full{volume="v"} 1`,
		`massif_kv_cache_hits{volume="v"} 7`,
		`massif_kv_read_amp{volume="v"} 2`,
		`massif_kv_size{volume="v"} 3`,
		`go_goroutines `,
		`process_open_fds `,
	} {
		if !strings.Contains(body, "\n"+line) {
			t.Errorf("no line begins with %s", line)
		}
	}
	for _, word := range []string{"hush", "secret", "hidden", "private", `op="write"`, "massif_gone"} {
		if strings.Contains(body, word) {
			t.Errorf("%s is in the metrics", word)
		}
	}
	removeOps()
	removeStats()
	if _, body = fetch(t, url+"/metrics"); strings.Contains(body, `volume="v"`) || strings.Contains(body, `op="read"`) {
		t.Error("removed metrics are still there")
	}
	if _, err := tel.AddStats("kv", Labels{"volume": "v"}, func() any { return s }); err != nil {
		t.Errorf("removed metrics cannot be added again: %v", err)
	}
	if status, _ := fetch(t, url+"/debug/pprof/"); status != 404 {
		t.Errorf("pprof without being asked for: status %d", status)
	}
}

func TestSnake(t *testing.T) {
	for name, want := range map[string]string{
		"diskBytes": "disk_bytes", "DiskBytes": "disk_bytes", "disk_bytes": "disk_bytes", "ReadAMP": "read_amp", "HTTPCode": "http_code",
		"p99": "p99", "P50": "p50", "a-b": "a_b", "Size": "size", "IOErrors": "io_errors",
	} {
		if got := snake(name); got != want {
			t.Errorf("snake(%q) = %q, want %q", name, got, want)
		}
	}
}

// TestPprof: Close does not wait for the end of a long profile.
func TestPprof(t *testing.T) {
	var out bytes.Buffer
	tel := New("")
	s, err := tel.Serve("127.0.0.1:0", ServeOptions{Pprof: true, Logger: slog.New(slog.NewTextHandler(&out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + s.Addr().String()
	if status, body := fetch(t, url+"/debug/pprof/goroutine?debug=1"); status != 200 || !strings.Contains(body, "TestPprof") {
		t.Errorf("goroutines: %d %s", status, body)
	}
	if _, body := fetch(t, url+"/"); body != "/metrics\n/debug/pprof/\n" {
		t.Errorf("index: %q", body)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		if resp, err := client.Get(url + "/debug/pprof/trace?seconds=3600"); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}()
	for !strings.Contains(func() string { _, body := fetch(t, url+"/debug/pprof/goroutine?debug=1"); return body }(), "pprof.Trace") {
		time.Sleep(time.Millisecond)
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Errorf("Close: %v", err)
		}
	case <-time.After(closeTimeout + time.Minute):
		t.Fatal("Close waits for the profile")
	}
	<-done
}

func TestServeErrors(t *testing.T) {
	tel := New("")
	s, err := tel.Serve("127.0.0.1:0", ServeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := tel.Serve(s.Addr().String(), ServeOptions{}); err == nil || !strings.Contains(err.Error(), s.Addr().String()) {
		t.Errorf("a port that is taken: %v", err)
	}
	if _, err := tel.Serve("nonsense", ServeOptions{}); err == nil {
		t.Error("an address that is none is no error")
	}
}
