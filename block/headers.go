package block

import (
	"sync"

	"github.com/massif-fs/massif/cache"
)

// headerCache keeps parsed headers, the least recently used leave first. It is
// elastic on the memory budget, and holds an eighth of it at most.
type headerCache struct {
	share *cache.Share

	mu    sync.Mutex
	items map[ID]*headerItem
	root  headerItem // ring: root.next is the most recently used
}

type headerItem struct {
	h          *header
	prev, next *headerItem
}

// headerRank: headers are dear (a request each) and small, so they give back after
// the read cache does.
const headerRank = 20

func newHeaderCache(b *cache.Budget) (*headerCache, error) {
	c := &headerCache{items: make(map[ID]*headerItem)}
	c.root.prev, c.root.next = &c.root, &c.root
	var err error
	c.share, err = b.Elastic("block headers", b.Limit()/8, headerRank, c.reclaim)
	return c, err
}

func (c *headerCache) close() {
	c.reclaim(1 << 62)
	c.share.Remove()
}

func (c *headerCache) get(r Ref) *header {
	c.mu.Lock()
	defer c.mu.Unlock()
	it := c.items[r.ID]
	if it == nil || it.h.size != r.Size {
		return nil
	}
	if c.root.next != it {
		it.unlink()
		it.link(&c.root)
	}
	return it.h
}

// add caches h if there is memory for it, or less recently used headers make room.
func (c *headerCache) add(h *header) {
	n := h.memory()
	for range 4 {
		if c.share.TryAcquire(n) {
			c.mu.Lock()
			old := c.items[h.id]
			if old != nil {
				old.unlink()
			}
			it := &headerItem{h: h}
			it.link(&c.root)
			c.items[h.id] = it
			c.mu.Unlock()
			if old != nil {
				c.share.Release(old.h.memory())
			}
			return
		}
		if c.share.Budget().Pressed() || c.reclaim(n) == 0 {
			return
		}
	}
}

func (c *headerCache) drop(id ID) {
	c.mu.Lock()
	it := c.items[id]
	if it != nil {
		it.unlink()
		delete(c.items, id)
	}
	c.mu.Unlock()
	if it != nil {
		c.share.Release(it.h.memory())
	}
}

func (c *headerCache) dropAll() { c.reclaim(1 << 62) }

func (c *headerCache) reclaim(need int64) (freed int64) {
	c.mu.Lock()
	for freed < need && c.root.prev != &c.root {
		it := c.root.prev
		it.unlink()
		delete(c.items, it.h.id)
		freed += it.h.memory()
	}
	c.mu.Unlock()
	if freed > 0 {
		c.share.Release(freed)
	}
	return freed
}

func (it *headerItem) link(at *headerItem) {
	it.prev, it.next = at, at.next
	it.prev.next, it.next.prev = it, it
}

func (it *headerItem) unlink() {
	it.prev.next, it.next.prev = it.next, it.prev
	it.prev, it.next = nil, nil
}
