package volume

import "sync"

// window finds sequential streams in the reads of a file and says what to fetch
// ahead of them.
type window struct {
	mu      sync.Mutex
	next    int64 // where a sequential read would go on
	fetched int64 // up to where was asked for
	size    int64 // present window, bytes
}

const (
	minWindow = 256 << 10
	maxWindow = 16 << 20
)

// Next tells the window of a read and returns what to prefetch.
func (w *window) Next(off, length int64) (from, size int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if off < w.next-maxWindow || off > w.next+minWindow {
		w.next, w.fetched, w.size = off+length, off+length, 0
		return 0, 0
	}
	w.next = max(w.next, off+length)
	w.fetched = max(w.fetched, w.next)
	w.size = min(max(2*w.size, minWindow), maxWindow)
	if w.fetched-w.next > w.size/2 {
		return 0, 0
	}
	from = w.fetched
	size = w.next + w.size - from
	w.fetched = from + size
	return from, size
}
