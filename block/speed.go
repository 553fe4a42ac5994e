package block

import (
	"sync"
	"time"
)

// speed keeps moving averages of what requests to the store cost.
type speed struct {
	mu        sync.Mutex
	latency   float64 // seconds of a small request
	bandwidth float64 // bytes/s inside one large request, after its latency
}

const (
	smallRequest = 128 << 10
	largeRequest = 256 << 10
	speedWeight  = 1.0 / 8
)

func (s *speed) add(n int, took time.Duration) {
	t := took.Seconds()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case n <= smallRequest:
		s.latency += (t - s.latency) * weight(s.latency)
	case n >= largeRequest:
		// A request cannot have had more latency than it took.
		bw := float64(n) / max(t-s.latency, t/4, 1e-6)
		s.bandwidth += (bw - s.bandwidth) * weight(s.bandwidth)
	}
}

// weight lets the first sample count in full.
func weight(old float64) float64 {
	if old == 0 {
		return 1
	}
	return speedWeight
}

// Latency is the recent mean time of a small read from the object store, 0 before
// the first.
func (s *Store) Latency() time.Duration {
	s.speed.mu.Lock()
	defer s.speed.mu.Unlock()
	return time.Duration(s.speed.latency * float64(time.Second))
}

// Bandwidth is the recent mean speed of one large read from the object store in
// bytes/s, 0 before the first.
func (s *Store) Bandwidth() float64 {
	s.speed.mu.Lock()
	defer s.speed.mu.Unlock()
	return s.speed.bandwidth
}
