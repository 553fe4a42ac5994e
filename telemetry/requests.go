package telemetry

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Requests counts the requests of an HTTP server. All methods may be called
// concurrently; those of nil do nothing.
type Requests struct {
	count *prometheus.CounterVec
	time  *prometheus.HistogramVec
}

// AddRequests exports massif_SUBSYSTEM_requests_total, with the labels route and
// status, and massif_SUBSYSTEM_request_duration_seconds, a histogram with the label
// route, of what is recorded with the result.
func (t *Telemetry) AddRequests(subsystem string) (*Requests, error) {
	r := &Requests{
		count: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "massif_" + subsystem + "_requests_total", Help: "Requests that were answered.",
		}, []string{"route", "status"}),
		time: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "massif_" + subsystem + "_request_duration_seconds", Help: "Time that requests took.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10), // to 131 s
		}, []string{"route"}),
	}
	remove, err := t.add(r.count)
	if err != nil {
		return nil, err
	}
	if _, err := t.add(r.time); err != nil {
		remove()
		return nil, err
	}
	return r, nil
}

// Record counts one request. route is that of the server's table, such as
// "GET /v1/volumes/{id}", never the path of the request: there is a series for each.
func (r *Requests) Record(route string, status int, d time.Duration) {
	if r == nil {
		return
	}
	r.count.WithLabelValues(route, strconv.Itoa(status)).Inc()
	r.time.WithLabelValues(route).Observe(d.Seconds())
}
