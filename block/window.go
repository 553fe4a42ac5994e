package block

import (
	"sync"
	"time"
)

const (
	firstWindow = 128 << 10
	mostWindow  = 32 << 20
	// freshWindow bounds the window until the reader's speed is known.
	freshWindow   = 4 << 20
	windowStreams = 4
	// outOfOrder is by how much a request may come too early or too late and still
	// belong to a stream: the kernel's read-ahead sends several at once.
	outOfOrder = 2 << 20
	// startHits is how many requests in a row make a stream.
	startHits = 2
)

// Window decides how far to read ahead for one open file. It recognizes up to four
// interleaved sequential streams, also when their requests come a little out of
// order. The window of a stream starts at 128 KiB and doubles as the reader gets
// on, up to what the store needs to keep up with it: twice the reader's speed
// times the time of a request, and 32 MiB or an eighth of the memory limit at
// most. Random access reads nothing ahead. Methods may be called concurrently.
type Window struct {
	most int64
	cost func() float64 // seconds that a request of maxRun bytes takes
	now  func() time.Time

	mu      sync.Mutex
	streams [windowStreams]readStream
	turn    uint64
}

type readStream struct {
	next   int64 // behind the last byte asked for
	ahead  int64 // behind the last byte prefetched
	window int64
	hits   int
	used   uint64 // turn of the last use; 0: free

	since time.Time // the measurement of the speed began
	from  int64     // at this offset
	speed float64   // bytes/s, 0: not known
}

// NewWindow returns the window of a file that was just opened.
func (s *Store) NewWindow() *Window {
	return NewWindow(min(mostWindow, s.cfg.Budget.Limit()/8), s.runCost)
}

// NewWindow returns the window of a file whose content does not lie in a Store: it
// reaches most bytes ahead at most, and cost tells what fetching 1 MiB takes, in seconds.
func NewWindow(most int64, cost func() float64) *Window {
	return &Window{most: max(firstWindow, most), cost: cost, now: time.Now}
}

// runCost is what fetching maxRun bytes takes, in seconds, by what was measured.
func (s *Store) runCost() float64 {
	s.speed.mu.Lock()
	defer s.speed.mu.Unlock()
	t := s.speed.latency
	if s.speed.bandwidth > 0 {
		t += maxRun / s.speed.bandwidth
	}
	if t == 0 {
		t = 1e-3
		if s.remote {
			t = 50e-3
		}
	}
	return t
}

// Next records a read of n bytes at off in the file, and returns the range to fetch
// ahead now, behind the read; length 0 if there is none. What it returned once it
// does not return again.
func (w *Window) Next(off, n int64) (prefetchOff, prefetchLen int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn++
	st := w.find(off)
	if st == nil {
		st = w.oldest()
		*st = readStream{next: off + n, ahead: off + n, used: w.turn}
		if off > 0 {
			return 0, 0
		}
		// Who reads the front of a file mostly reads on.
		st.hits = startHits - 1
		st.window = firstWindow / 2
	}
	st.used = w.turn
	st.hits++
	end := off + n
	if end > st.next {
		st.next = end
	}
	if st.hits < startHits {
		return 0, 0
	}
	w.merge(st)
	w.measure(st)
	if left := st.ahead - st.next; left > st.window/2 {
		return 0, 0 // half of the window is still ahead
	}
	st.window = max(firstWindow, min(st.window*2, w.limit(st)))
	start := max(st.ahead, st.next)
	st.ahead = st.next + st.window
	if st.ahead <= start {
		st.ahead = start
		return 0, 0
	}
	return start, st.ahead - start
}

// find returns the stream that a read at off goes on with.
func (w *Window) find(off int64) *readStream {
	var best *readStream
	for i := range w.streams {
		st := &w.streams[i]
		if st.used == 0 {
			continue
		}
		tolerance := int64(0) // one request makes no stream yet
		if st.hits >= startHits {
			tolerance = max(outOfOrder, st.window)
		} else if st.hits > 0 {
			tolerance = firstWindow
		}
		d := off - st.next
		if d < 0 {
			d = -d
		}
		if d <= tolerance && (best == nil || d < abs(off-best.next)) {
			best = st
		}
	}
	return best
}

// merge takes over streams that turn out to be the same one.
func (w *Window) merge(st *readStream) {
	for i := range w.streams {
		o := &w.streams[i]
		if o == st || o.used == 0 || abs(o.next-st.next) > max(outOfOrder, st.window) {
			continue
		}
		st.next = max(st.next, o.next)
		st.ahead = max(st.ahead, o.ahead)
		st.window = max(st.window, o.window)
		*o = readStream{}
	}
}

func abs(x int64) int64 { return max(x, -x) }

func (w *Window) oldest() *readStream {
	st := &w.streams[0]
	for i := range w.streams {
		if w.streams[i].used < st.used {
			st = &w.streams[i]
		}
	}
	return st
}

// measure keeps a mean of the reader's speed, stalls included: a reader that waits
// for the store gets a larger window until it does not.
func (w *Window) measure(st *readStream) {
	const interval = 5 * time.Millisecond
	now := w.now()
	if st.since.IsZero() {
		st.since, st.from = now, st.next
		return
	}
	took := now.Sub(st.since)
	if took < interval {
		return
	}
	speed := float64(st.next-st.from) / took.Seconds()
	if st.speed == 0 {
		st.speed = speed
	} else {
		st.speed += (speed - st.speed) / 4
	}
	st.since, st.from = now, st.next
}

// limit is the greatest useful window of a stream.
func (w *Window) limit(st *readStream) int64 {
	if st.speed == 0 {
		return min(freshWindow, w.most)
	}
	need := int64(2 * st.speed * w.cost())
	return max(firstWindow, min(max(need, maxRun), w.most)&^(firstWindow-1))
}
