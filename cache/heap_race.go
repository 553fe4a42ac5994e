//go:build race

package cache

// The race detector sees Go memory only, so buffers come from the heap under it,
// and freed ones are overwritten, which shows use after release.
const onHeap = true

func poison(m []byte) {
	for i := range m {
		m[i] = 0xDB
	}
}
