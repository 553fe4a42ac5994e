package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"

	"github.com/massif-fs/massif/telemetry"
)

// serverWatch is how a server is watched: figures, whether it works, and profiles.
type serverWatch struct {
	metrics *telemetry.Telemetry // nil: nobody watches
	web     *telemetry.Server
	health  atomic.Pointer[func(context.Context) error]
}

// watch begins to answer on --metrics-addr, before the server is started: that it
// is not ready yet is worth knowing.
func (f *serverFlags) watch(log *slog.Logger) (*serverWatch, error) {
	w := new(serverWatch)
	if f.metricsAddr == "" {
		if f.pprof {
			return nil, usageError("--pprof needs --metrics-addr")
		}
		return w, nil
	}
	w.working(func(context.Context) error { return errors.New("the server is starting") })
	w.metrics = telemetry.New(currentVersion().Version)
	health := func(ctx context.Context) error { return (*w.health.Load())(ctx) }
	var err error
	w.web, err = w.metrics.Serve(f.metricsAddr, telemetry.ServeOptions{Pprof: f.pprof, Health: health, Logger: log})
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return nil, fmt.Errorf("--metrics-addr %s: %w", f.metricsAddr, err)
	}
	log.Info("metrics", "url", fmt.Sprintf("http://%s/metrics", w.web.Addr()), "pprof", f.pprof)
	return w, nil
}

// working says how to learn whether the server works.
func (w *serverWatch) working(health func(context.Context) error) { w.health.Store(&health) }

func (w *serverWatch) close() error {
	if w.web == nil {
		return nil
	}
	return w.web.Close()
}
