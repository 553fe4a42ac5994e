//go:build race

package cache

import "bytes"

// The race detector sees Go memory only, so buffers come from the heap under it,
// and freed ones are overwritten, which shows use after release.
const onHeap = true

var poisoned = bytes.Repeat([]byte{0xDB}, 64<<10)

func poison(m []byte) {
	for len(m) > 0 {
		m = m[copy(m, poisoned):]
	}
}
