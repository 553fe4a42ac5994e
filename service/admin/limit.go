package admin

import (
	"crypto/sha256"
	"math"
	"net"
	"net/netip"
	"sync"
	"time"
)

// limiter slows down who shows wrong tokens. Each address has an allowance of
// failures that refills with time; when it is spent, its tokens are not even looked
// at. Tokens that were good a while ago are: somebody behind the same address cannot
// lock others out. Addresses of one IPv6 network of 64 bits count as one.
type limiter struct {
	mu      sync.Mutex
	clock   func() time.Time
	sources map[netip.Addr]*allowance
	good    map[[sha256.Size]byte]time.Time // when the token was good last
}

type allowance struct {
	left float64
	at   time.Time
}

const (
	failureBurst   = 20              // failures in a row
	failureRefill  = 3 * time.Second // for one more
	maxSources     = 4096
	maxGood        = 4096
	rememberedGood = time.Hour
)

func newLimiter(clock func() time.Time) *limiter {
	return &limiter{clock: clock, sources: map[netip.Addr]*allowance{}, good: map[[sha256.Size]byte]time.Time{}}
}

// source makes the key of a remote address.
func source(remote string) netip.Addr {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	if a = a.Unmap().WithZone(""); a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			a = p.Addr()
		}
	}
	return a
}

// wait returns how long a token from an address must wait before it is looked at.
func (l *limiter) wait(remote string, hash [sha256.Size]byte) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock()
	if at, ok := l.good[hash]; ok && now.Sub(at) < rememberedGood {
		return 0
	}
	a := l.of(source(remote), now)
	if a.left >= 1 {
		return 0
	}
	return time.Duration((1 - a.left) * float64(failureRefill))
}

// failed counts a failure.
func (l *limiter) failed(remote string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(source(remote), l.clock())
	a.left = max(a.left-1, 0)
}

// succeeded remembers a good token.
func (l *limiter) succeeded(hash [sha256.Size]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock()
	if len(l.good) >= maxGood {
		for h, at := range l.good {
			if now.Sub(at) >= rememberedGood || len(l.good) >= maxGood {
				delete(l.good, h)
			}
		}
	}
	l.good[hash] = now
}

// forget takes the privilege of a good token away, when it is good no more.
func (l *limiter) forget(hash [sha256.Size]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.good, hash)
}

// of returns the allowance of a source as it is now. l.mu is held.
func (l *limiter) of(s netip.Addr, now time.Time) *allowance {
	a := l.sources[s]
	if a == nil {
		if len(l.sources) >= maxSources {
			l.sweep(now)
		}
		if len(l.sources) >= maxSources {
			s = netip.Addr{} // all others share one
			if a = l.sources[s]; a != nil {
				a.refill(now)
				return a
			}
		}
		a = &allowance{failureBurst, now}
		l.sources[s] = a
	}
	a.refill(now)
	return a
}

func (a *allowance) refill(now time.Time) {
	a.left = math.Min(failureBurst, a.left+float64(now.Sub(a.at))/float64(failureRefill))
	a.at = now
}

// sweep drops sources whose allowance is full again.
func (l *limiter) sweep(now time.Time) {
	for s, a := range l.sources {
		if a.refill(now); a.left >= failureBurst {
			delete(l.sources, s)
		}
	}
}
