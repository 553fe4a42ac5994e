package telemetry

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestBuckets: the buckets follow each other without gaps, and each time is in its own.
func TestBuckets(t *testing.T) {
	for i := range bucketCount - 1 {
		end := bucketEnd(i)
		if got := bucketOf(end - 1); got != i {
			t.Errorf("%d ns is in bucket %d, want %d", end-1, got, i)
		}
		if got := bucketOf(end); got != i+1 {
			t.Errorf("%d ns is in bucket %d, want %d", end, got, i+1)
		}
	}
	for _, d := range []time.Duration{math.MinInt64, -1, 0} {
		if bucketOf(d) != 0 {
			t.Errorf("%v is in bucket %d", d, bucketOf(d))
		}
	}
	if bucketOf(math.MaxInt64) != bucketCount-1 {
		t.Errorf("the longest time is in bucket %d of %d", bucketOf(math.MaxInt64), bucketCount)
	}
}

// TestQuantiles compares percentiles with those of the sorted times.
func TestQuantiles(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ops := NewOps([]string{"op"})
		var times []time.Duration
		for range rapid.IntRange(1, 300).Draw(rt, "count") {
			d := time.Duration(rapid.Int64Range(300, int64(200*time.Second)).Draw(rt, "time"))
			times = append(times, d)
			ops.Record(0, d, 1, 0)
		}
		slices.Sort(times)
		s := ops.Snapshot()[0]
		for q, got := range map[float64]time.Duration{0.5: s.P50, 0.9: s.P90, 0.99: s.P99} {
			want := times[min(int(q*float64(len(times))), len(times)-1)]
			if math.Abs(float64(got-want)) > 0.0626*float64(want) {
				rt.Errorf("%v of %d times is %v, want %v", q, len(times), got, want)
			}
		}
		if last := times[len(times)-1]; s.Max < last || float64(s.Max) > 1.13*float64(last) {
			rt.Errorf("max is %v, want about %v", s.Max, last)
		}
	})
}

func TestRecord(t *testing.T) {
	ops := NewOps([]string{"read", "write", "never"})
	if got := ops.Snapshot(); got != nil {
		t.Errorf("snapshot before the first operation: %v", got)
	}
	ops.Record(0, time.Millisecond, 4096, 0)
	ops.Record(0, time.Millisecond, 0, syscall.ENOENT)
	ops.RecordError(1, time.Second, 10, fmt.Errorf("write: %w", syscall.ENOSPC))
	ops.RecordError(1, time.Second, 10, nil)
	ops.RecordError(1, time.Second, -1, fmt.Errorf("no errno"))
	ops.Record(3, time.Second, 0, 0) // not in the set
	ops.Record(-1, time.Second, 0, 0)
	got := ops.Snapshot()
	if len(got) != 2 {
		t.Fatalf("%d operations: %+v", len(got), got)
	}
	r, w := got[0], got[1]
	if r.Op != "read" || r.Count != 2 || r.Errors != 1 || r.Bytes != 4096 || r.Total != 2*time.Millisecond || r.Mean() != time.Millisecond {
		t.Errorf("read: %+v", r)
	}
	if w.Op != "write" || w.Count != 3 || w.Errors != 2 || w.Bytes != 20 {
		t.Errorf("write: %+v", w)
	}
	out, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"op":"read","count":2,"errors":1,"bytes":4096,"time_ns":2000000,"p50_ns":1015808,"p90_ns":1015808,"p99_ns":1015808,"max_ns":1048576}`
	if string(out) != want {
		t.Errorf("JSON\n got %s\nwant %s", out, want)
	}
}

func TestWindow(t *testing.T) {
	ops := NewOps([]string{"a", "b"})
	var w Window
	ops.Record(0, time.Millisecond, 1, 0)
	if got := ops.Since(&w); len(got) != 1 || got[0].Count != 1 {
		t.Errorf("first window: %+v", got)
	}
	if got := ops.Since(&w); len(got) != 0 {
		t.Errorf("empty window: %+v", got)
	}
	ops.Record(0, time.Second, 5, syscall.EIO)
	ops.Record(1, time.Second, 0, 0)
	got := ops.Since(&w)
	if len(got) != 2 || got[0].Count != 1 || got[0].Bytes != 5 || got[0].Errors != 1 || got[0].P50 < 900*time.Millisecond || got[0].Total != time.Second {
		t.Errorf("second window: %+v", got)
	}
	if got := ops.Snapshot(); got[0].Count != 2 {
		t.Errorf("all: %+v", got)
	}
}

func TestRecordConcurrently(t *testing.T) {
	ops := NewOps([]string{"a", "b", "c"})
	const workers, n = 8, 2000
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 0))
			for i := range n {
				ops.Record(i%3, time.Duration(rng.IntN(1e6)), 1, syscall.Errno(i%2))
				if i%100 == 0 {
					ops.Snapshot()
				}
			}
		})
	}
	wg.Wait()
	count, errs, bytes := uint64(0), uint64(0), uint64(0)
	for _, s := range ops.Snapshot() {
		count, errs, bytes = count+s.Count, errs+s.Errors, bytes+s.Bytes
	}
	if count != workers*n || errs != workers*n/2 || bytes != workers*n {
		t.Errorf("%d operations, %d errors, %d bytes", count, errs, bytes)
	}
}

func TestRecordDoesNotAllocate(t *testing.T) {
	ops := NewOps([]string{"a"})
	ops.Record(0, 1, 1, 0)
	if n := testing.AllocsPerRun(100, func() { ops.Record(0, time.Millisecond, 1, 0) }); n != 0 {
		t.Errorf("%v allocations a Record", n)
	}
}

func BenchmarkRecord(b *testing.B) {
	ops := NewOps([]string{"a", "b"})
	b.Run("one", func(b *testing.B) {
		for i := range b.N {
			ops.Record(i&1, time.Duration(i), 4096, 0)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				ops.Record(i&1, time.Duration(i), 4096, 0)
			}
		})
	})
}
