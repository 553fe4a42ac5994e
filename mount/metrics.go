package mount

import (
	"encoding/json"
	"strings"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"
)

// mountCollector gives Prometheus the figures of "massif stats" at each scrape:
// those of FUSE operations by operation, those of the tree each under the name of
// its place in the snapshot (block.Stats.FetchedBytes becomes
// massif_blocks_fetched_bytes).
type mountCollector struct{ s *server }

var (
	fuseRequests = prometheus.NewDesc("massif_fuse_requests_total", "Requests of the kernel.", []string{"op"}, nil)
	fuseErrors   = prometheus.NewDesc("massif_fuse_errors_total", "Requests of the kernel answered with an error.", []string{"op"}, nil)
	fuseBytes    = prometheus.NewDesc("massif_fuse_bytes_total", "Bytes read and written by requests of the kernel.", []string{"op"}, nil)
	fuseSeconds  = prometheus.NewDesc("massif_fuse_seconds_total", "Time spent on requests of the kernel.", []string{"op"}, nil)
	fuseInFlight = prometheus.NewDesc("massif_fuse_in_flight", "Requests of the kernel being worked on.", nil, nil)
	fuseNodes    = prometheus.NewDesc("massif_fuse_nodes", "Inodes that the kernel knows.", nil, nil)
	fuseHandles  = prometheus.NewDesc("massif_fuse_handles", "Open files and directories.", nil, nil)
	mountInfo    = prometheus.NewDesc("massif_mount_info", "The mount; always 1.", []string{"point", "source", "kind"}, nil)
)

// Describe sends nothing: what the tree tells differs from kind to kind, which
// Prometheus calls an unchecked collector.
func (c *mountCollector) Describe(chan<- *prometheus.Desc) {}

func (c *mountCollector) Collect(out chan<- prometheus.Metric) {
	send := func(desc *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, t, v, labels...)
	}
	st := c.s.stats()
	send(mountInfo, prometheus.GaugeValue, 1, st.Status.Point, st.Status.Source, st.Status.Kind)
	for _, op := range st.FUSE.Ops {
		send(fuseRequests, prometheus.CounterValue, float64(op.Count), op.Op)
		send(fuseErrors, prometheus.CounterValue, float64(op.Errors), op.Op)
		send(fuseBytes, prometheus.CounterValue, float64(op.Bytes), op.Op)
		send(fuseSeconds, prometheus.CounterValue, op.Time.Seconds(), op.Op)
	}
	send(fuseInFlight, prometheus.GaugeValue, float64(st.FUSE.InFlight))
	send(fuseNodes, prometheus.GaugeValue, float64(st.FUSE.Nodes))
	send(fuseHandles, prometheus.GaugeValue, float64(st.FUSE.Handles))
	for name, v := range flatten("massif", st.Tree) {
		send(prometheus.NewDesc(name, "See massif stats.", nil, nil), prometheus.UntypedValue, v)
	}
}

// flatten makes one entry of each number in v, a value that can be written as
// JSON, named by its place.
func flatten(prefix string, v any) map[string]float64 {
	out := map[string]float64{}
	data, err := json.Marshal(v)
	if err != nil {
		return out
	}
	var tree any
	if json.Unmarshal(data, &tree) == nil {
		flattenInto(out, prefix, tree)
	}
	return out
}

func flattenInto(out map[string]float64, name string, v any) {
	switch v := v.(type) {
	case float64:
		out[name] = v
	case bool:
		out[name] = 0
		if v {
			out[name] = 1
		}
	case map[string]any:
		for key, value := range v {
			flattenInto(out, name+"_"+snakeCase(key), value)
		}
	}
}

// snakeCase writes "FetchedBytes", "fetchedBytes" and "fetched bytes" as
// "fetched_bytes".
func snakeCase(s string) string {
	var b strings.Builder
	runes := []rune(s)
	for i, r := range runes {
		switch {
		case unicode.IsUpper(r):
			startsWord := i > 0 && (!unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1]))
			if startsWord && b.Len() > 0 && !strings.HasSuffix(b.String(), "_") {
				b.WriteByte('_')
			}
			b.WriteRune(unicode.ToLower(r))
		case r < unicode.MaxASCII && (unicode.IsLower(r) || unicode.IsDigit(r)):
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "_"):
			b.WriteByte('_')
		}
	}
	return strings.TrimSuffix(b.String(), "_")
}
