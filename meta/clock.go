package meta

import (
	"sync/atomic"

	"github.com/massif-fs/massif/vfs"
)

// stampClock gives transactions their places in time: nanoseconds since the
// epoch, each later than the one before even when the wall clock is not.
type stampClock struct {
	last  atomic.Uint64
	bound atomic.Uint64 // what the store has as bound on stamps
}

func stampOf(t vfs.Time) uint64 {
	if t.Sec < 0 {
		return 0
	}
	return uint64(t.Sec)*1e9 + uint64(t.Nsec)
}

func (c *stampClock) tick(now vfs.Time) uint64 {
	at := stampOf(now)
	for {
		last := c.last.Load()
		stamp := max(at, last+1)
		if c.last.CompareAndSwap(last, stamp) {
			return stamp
		}
	}
}

// advance makes every later stamp greater than stamp.
func (c *stampClock) advance(stamp uint64) {
	for {
		last := c.last.Load()
		if last >= stamp || c.last.CompareAndSwap(last, stamp) {
			return
		}
	}
}
