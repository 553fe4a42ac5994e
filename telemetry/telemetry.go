// Package telemetry is how a Massif process tells what it does: its log, its
// metrics, the statistics of its operations, and on demand a log of each of them.
//
//   - [OpenLog] makes the process's slog.Logger; level and file can be changed
//     while it runs.
//   - [Telemetry] holds the Prometheus registry of the process, and [Telemetry.Serve]
//     answers on --metrics-addr: /metrics, /healthz where the process can tell whether
//     it works, and /debug/pprof if asked for.
//   - [Ops] counts operations with their errors, bytes and a latency histogram,
//     for a few nanoseconds each. Doors and stores record into one; it is read as
//     metrics or as a snapshot for `massif stats`.
//   - [Requests] counts HTTP requests by route and status.
//   - [AccessLog] carries one line an operation to whoever listens; without
//     listeners it costs one atomic load.
//
// Rooms that have numbers of their own return them as a plain struct (Stats,
// Metrics); [Telemetry.AddStats] turns such structs into metrics, so that no
// room but this one knows Prometheus.
//
// All metrics are named massif_…, in base units (seconds, bytes).
package telemetry

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Labels are constant labels of metrics, such as the mount point.
type Labels = prometheus.Labels

// Telemetry is the metrics of a process.
type Telemetry struct {
	registry *prometheus.Registry
}

// New returns the metrics of this process, with those of the Go runtime and of
// the process itself. version is shown as a label of massif_build_info.
func New(version string) *Telemetry {
	t := &Telemetry{registry: prometheus.NewRegistry()}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "massif_build_info",
		Help:        "Version of this process; the value is always 1.",
		ConstLabels: Labels{"version": version, "go": runtime.Version()},
	})
	build.Set(1)
	t.registry.MustRegister(
		build,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return t
}

// Handler answers with the metrics in the format the client asks for. A part
// that cannot be collected is left out, as one bad number should not hide the
// others.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.ContinueOnError,
		Registry:            t.registry,
		MaxRequestsInFlight: 4,
	})
}

// AddOps exports ops as massif_SUBSYSTEM_duration_seconds (a histogram),
// massif_SUBSYSTEM_errors_total and massif_SUBSYSTEM_bytes_total, each with a
// label op, and massif_SUBSYSTEM_errnos_total with the labels op and errno, which has
// a series only for what has occurred. Different labels tell several Ops of one subsystem apart; they must
// then have the same label names. remove ends the export.
func (t *Telemetry) AddOps(subsystem string, labels Labels, ops *Ops) (remove func(), err error) {
	return t.add(newOpsCollector(subsystem, labels, ops))
}

// AddStats exports the numbers in the struct that read returns, or points to, as
// massif_SUBSYSTEM_FIELD. Fields are named by their JSON tags, in snake case;
// times (time.Duration) become seconds, booleans 0 or 1, embedded structs are
// looked into, and all else is left out. read is called at each collection, at
// times from several goroutines; a nil result exports nothing. remove ends the
// export.
func (t *Telemetry) AddStats(subsystem string, labels Labels, read func() any) (remove func(), err error) {
	return t.add(&statsCollector{subsystem: subsystem, labels: labels, read: read})
}

// Add exports a collector of one's own.
func (t *Telemetry) Add(c prometheus.Collector) (remove func(), err error) { return t.add(c) }

func (t *Telemetry) add(c prometheus.Collector) (func(), error) {
	// A collector that describes nothing (statsCollector) can only be told apart
	// by its address: wrapping makes removing it possible.
	if s, ok := c.(*statsCollector); ok {
		c = s.described()
	}
	if err := t.registry.Register(c); err != nil {
		var taken prometheus.AlreadyRegisteredError
		if errors.As(err, &taken) {
			return nil, errors.New("add metrics: there are such metrics with these labels already")
		}
		return nil, fmt.Errorf("add metrics: %w", err)
	}
	return func() { t.registry.Unregister(c) }, nil
}
