package cli

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/massif-fs/massif/internal/testserver"
)

// TestServerMetrics: figures, health and profiles of servers, by flags and by keys.
func TestServerMetrics(t *testing.T) {
	w := newWorld(t)
	addr := "localhost:" + testserver.Port(t)
	config := filepath.Join(w.dir, "all.toml")
	text := fmt.Sprintf("listen = %q\nmeta-listen = %q\nmetrics-addr = %q\npprof = true\n", "localhost:"+testserver.Port(t), "localhost:"+testserver.Port(t), addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w.refuse(2, "--pprof needs --metrics-addr", "serve", "all", "--pprof")
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	w.refuse(1, "--metrics-addr "+addr+": bind: address already in use", "serve", "all", "--config", config)
	if _, err := os.Stat(filepath.Join(w.home, "all")); !os.IsNotExist(err) {
		t.Errorf("a server that does not start has made its directory: %v", err)
	}
	l.Close()
	w.startServer("all", "metadata server local on", "serve", "all", "--config", config)
	for path, want := range map[string]string{
		"/healthz": "ok\n", "/metrics": "\nmassif_metad_volumes_served 1\n", "/debug/pprof/": "goroutine",
	} {
		var body []byte
		eventually(t, path, func() bool { // health is known a moment after the line
			resp, err := http.Get("http://" + addr + path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if body, err = io.ReadAll(resp.Body); err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode == http.StatusOK
		})
		if !strings.Contains(string(body), want) {
			t.Errorf("%s: without %q:\n%s", path, want, body)
		}
	}
}
