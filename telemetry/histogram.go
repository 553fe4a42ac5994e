package telemetry

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A histogram has log-linear buckets: each power of two nanoseconds is cut into
// eight equal parts, so that a percentile read from it is off by 6 % at most.
// The first bucket holds all below 256 ns, the last all from 2^38 ns (275 s) on.
const (
	firstBits   = 8
	lastBits    = 38
	partBits    = 3
	bucketCount = 1 + (lastBits-firstBits)<<partBits + 1
)

type histogram [bucketCount]atomic.Uint64

// bucketOf returns the index of the bucket for d.
func bucketOf(d time.Duration) int {
	n := uint64(max(d, 0))
	log := bits.Len64(n) - 1 // n is in [2^log, 2^(log+1))
	if log < firstBits {
		return 0
	}
	if log >= lastBits {
		return bucketCount - 1
	}
	part := n >> (log - partBits) & (1<<partBits - 1)
	return 1 + (log-firstBits)<<partBits + int(part)
}

// bucketEnd returns the smallest time above bucket i.
func bucketEnd(i int) time.Duration {
	if i == 0 {
		return 1 << firstBits
	}
	i--
	log := firstBits + i>>partBits
	part := i&(1<<partBits-1) + 1
	return time.Duration(1)<<log + time.Duration(part)<<(log-partBits)
}

// bucketMiddle is the time that stands for those in bucket i.
func bucketMiddle(i int) time.Duration {
	switch i {
	case 0:
		return 1 << (firstBits - 1)
	case bucketCount - 1:
		return 1 << lastBits
	}
	return (bucketEnd(i-1) + bucketEnd(i)) / 2
}

// counts is the content of a histogram at one time, or between two.
type counts [bucketCount]uint64

func (h *histogram) read(into *counts) (total uint64) {
	for i := range h {
		into[i] = h[i].Load()
		total += into[i]
	}
	return total
}

// quantile returns the time that part q of total are not above.
func (c *counts) quantile(q float64, total uint64) time.Duration {
	if total == 0 {
		return 0
	}
	rank := min(uint64(q*float64(total)), total-1) // from 0
	for i, n := range c {
		if rank < n {
			return bucketMiddle(i)
		}
		rank -= n
	}
	return bucketMiddle(bucketCount - 1)
}

// highest returns an upper bound of the longest time.
func (c *counts) highest() time.Duration {
	for i := bucketCount - 1; i >= 0; i-- {
		if c[i] > 0 {
			return bucketEnd(min(i, bucketCount-2))
		}
	}
	return 0
}
