package telemetry

import (
	"errors"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// Ops counts operations of a fixed set: how many, how many failed, how many
// bytes they moved, and how long they took. Record takes some ten nanoseconds
// and never allocates (but once an operation); all methods may be called
// concurrently. An operation is a small number, such as door/fuse's OpLookup.
type Ops struct {
	names []string
	stats []atomic.Pointer[opStat] // made at the first Record of an operation
}

type opStat struct {
	nanos  atomic.Int64
	errors atomic.Uint64
	bytes  atomic.Uint64
	_      [40]byte // the histogram on cache lines of its own
	times  histogram
	errnos [maxErrno + 1]atomic.Uint64 // failures by errno; 0: those above maxErrno
}

// maxErrno is the highest errno that Linux has a name for (EHWPOISON).
const maxErrno = 133

// NewOps returns Ops for operations 0 to len(names)-1.
func NewOps(names []string) *Ops {
	return &Ops{names: names, stats: make([]atomic.Pointer[opStat], len(names))}
}

// Record counts one operation that took d, moved bytes bytes, and failed if
// errno is not 0. An operation that is not in the set is ignored.
func (o *Ops) Record(op int, d time.Duration, bytes int, errno syscall.Errno) {
	if uint(op) >= uint(len(o.stats)) {
		return
	}
	s := o.stats[op].Load()
	if s == nil {
		s = new(opStat)
		if !o.stats[op].CompareAndSwap(nil, s) {
			s = o.stats[op].Load()
		}
	}
	s.times[bucketOf(d)].Add(1) // its sum is the count
	s.nanos.Add(int64(d))
	if bytes > 0 {
		s.bytes.Add(uint64(bytes))
	}
	if errno != 0 {
		s.errors.Add(1)
		if errno > maxErrno {
			errno = 0
		}
		s.errnos[errno].Add(1)
	}
}

// RecordError is Record with an error: 0 for nil, else the errno it wraps, or EIO.
func (o *Ops) RecordError(op int, d time.Duration, bytes int, err error) {
	o.Record(op, d, bytes, errnoOf(err))
}

// OpSnapshot is what is known of one operation. Times are nanoseconds in JSON;
// percentiles are exact to 6 %.
type OpSnapshot struct {
	Op     string        `json:"op"`
	Count  uint64        `json:"count"`
	Errors uint64        `json:"errors"`
	Bytes  uint64        `json:"bytes"`
	Total  time.Duration `json:"time_ns"` // sum of all
	P50    time.Duration `json:"p50_ns"`
	P90    time.Duration `json:"p90_ns"`
	P99    time.Duration `json:"p99_ns"`
	Max    time.Duration `json:"max_ns"` // rounded up to the end of its bucket
}

// Mean is the average time.
func (s OpSnapshot) Mean() time.Duration {
	if s.Count == 0 {
		return 0
	}
	return s.Total / time.Duration(s.Count)
}

// Snapshot returns the operations that occurred, in the order of their numbers.
func (o *Ops) Snapshot() []OpSnapshot { return o.Since(nil) }

// Window remembers a state of Ops, to see what happened since. The zero value
// is the beginning of time.
type Window struct{ before []opCounts }

type opCounts struct {
	times         counts
	nanos         int64
	errors, bytes uint64
}

// Since returns what happened since the last call with w, for live displays; w
// is used by one caller at a time and with one Ops. A nil w means all.
func (o *Ops) Since(w *Window) []OpSnapshot {
	var out []OpSnapshot
	var before opCounts
	if w != nil && w.before == nil {
		w.before = make([]opCounts, len(o.stats))
	}
	for op := range o.stats {
		s := o.stats[op].Load()
		if s == nil {
			continue
		}
		// The parts are read one after the other, so that under load they may
		// differ by the operations recorded meanwhile.
		var now opCounts
		count := s.times.read(&now.times)
		now.nanos, now.errors, now.bytes = s.nanos.Load(), s.errors.Load(), s.bytes.Load()
		delta := now
		if w != nil {
			before, w.before[op] = w.before[op], now
			for i, n := range before.times {
				delta.times[i] -= n
				count -= n
			}
			delta.nanos -= before.nanos
			delta.errors -= before.errors
			delta.bytes -= before.bytes
		}
		if count == 0 {
			continue
		}
		out = append(out, OpSnapshot{
			Op: o.names[op], Count: count, Errors: delta.errors, Bytes: delta.bytes, Total: time.Duration(delta.nanos),
			P50: delta.times.quantile(0.5, count), P90: delta.times.quantile(0.9, count),
			P99: delta.times.quantile(0.99, count), Max: delta.times.highest(),
		})
	}
	return out
}

// opsCollector exports Ops.
type opsCollector struct {
	ops                             *Ops
	duration, errors, errnos, bytes *prometheus.Desc
}

func newOpsCollector(subsystem string, labels Labels, ops *Ops) *opsCollector {
	desc := func(name, help string, more ...string) *prometheus.Desc {
		return prometheus.NewDesc("massif_"+subsystem+"_"+name, help, append([]string{"op"}, more...), labels)
	}
	return &opsCollector{
		ops:      ops,
		duration: desc("duration_seconds", "Time that operations took."),
		errors:   desc("errors_total", "Operations that failed."),
		errnos:   desc("errnos_total", "Operations that failed, by errno.", "errno"),
		bytes:    desc("bytes_total", "Bytes that operations moved."),
	}
}

// Describe implements prometheus.Collector.
func (c *opsCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.duration
	ch <- c.errors
	ch <- c.errnos
	ch <- c.bytes
}

// Collect implements prometheus.Collector. Of the buckets it shows every
// sixteenth: each second power of two from 1 µs to 69 s.
func (c *opsCollector) Collect(ch chan<- prometheus.Metric) {
	for op := range c.ops.stats {
		s := c.ops.stats[op].Load()
		if s == nil {
			continue
		}
		var times counts
		total := s.times.read(&times)
		shown := make(map[float64]uint64, 14)
		sum, next := uint64(0), 0
		for log := firstBits + 2; log < lastBits; log += 2 {
			for end := 1 + (log-firstBits)<<partBits; next < end; next++ {
				sum += times[next]
			}
			shown[time.Duration(1<<log).Seconds()] = sum
		}
		name := c.ops.names[op]
		ch <- prometheus.MustNewConstHistogram(c.duration, total, time.Duration(s.nanos.Load()).Seconds(), shown, name)
		ch <- prometheus.MustNewConstMetric(c.errors, prometheus.CounterValue, float64(s.errors.Load()), name)
		for errno := range s.errnos {
			n := s.errnos[errno].Load()
			if n == 0 {
				continue
			}
			label := "other"
			if errno != 0 {
				label = ErrnoName(syscall.Errno(errno))
			}
			ch <- prometheus.MustNewConstMetric(c.errnos, prometheus.CounterValue, float64(n), name, label)
		}
		ch <- prometheus.MustNewConstMetric(c.bytes, prometheus.CounterValue, float64(s.bytes.Load()), name)
	}
}

// ErrnoName returns the symbol of an errno, such as ENOENT, for logs; empty for 0.
func ErrnoName(errno syscall.Errno) string {
	if errno == 0 {
		return ""
	}
	if name := unix.ErrnoName(errno); name != "" {
		return name
	}
	return "errno " + strconv.Itoa(int(errno))
}

func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if errno := syscall.Errno(0); errors.As(err, &errno) && errno != 0 {
		return errno
	}
	return syscall.EIO
}
