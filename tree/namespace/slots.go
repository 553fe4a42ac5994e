package namespace

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/massif-fs/massif/vfs"
)

const (
	slotShift = 48
	maxSlot   = 1<<16 - 1
	// slotRest is how long a slot is left alone after something in it was found: a
	// door may be about to pin it.
	slotRest = 10 * time.Second
)

var (
	errNoSlot  = errors.New("more than 65,535 places are in use")
	errWideIno = errors.New("the storage's inode numbers have more than 48 bits")
)

// place is one path of a mounted item, or (if link is set) a directory of one that a
// symbolic link leads to.
type place struct {
	m        *mounted
	b        *backend
	path     string
	readOnly bool

	// Of places of links.
	link   *linkKey
	target vfs.Ino // root of the place
	depth  int     // links on the way here

	dead  atomic.Bool  // unmounted
	slot  atomic.Int64 // 0: none
	gen   atomic.Uint32
	holds atomic.Int64 // pinned inodes and open files in the slot
	found atomic.Int64 // Unix seconds of the last lookup here
}

// linkKey names a directory link: where it stands.
type linkKey struct {
	p    *place
	dir  vfs.Ino
	name string
}

// root is the place's root in the storage.
func (p *place) root(o *opened) vfs.Ino {
	if p.link != nil {
		return p.target
	}
	return o.root
}

// ro tells whether nothing may be changed here.
func (p *place) ro(o *opened) bool { return p.readOnly || o.ro }

// slotTable gives out slots.
type slotTable struct {
	mu     sync.Mutex // held for changes
	places [maxSlot + 1]atomic.Pointer[place]
	gens   [maxSlot + 1]uint32
	next   int
	free   []int
	links  map[linkKey]*place
}

// at returns the place of a slot, nil if it has none.
func (t *slotTable) at(ino vfs.Ino) *place { return t.places[ino>>slotShift].Load() }

// take gives a place a slot if it has none. ENFILE.
func (t *slotTable) take(p *place) error {
	p.found.Store(time.Now().Unix())
	if p.slot.Load() != 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.takeLocked(p)
}

func (t *slotTable) takeLocked(p *place) error {
	if p.slot.Load() != 0 {
		return nil
	}
	if p.dead.Load() {
		return syscall.ESTALE
	}
	if len(t.free) == 0 && t.next == maxSlot {
		t.reclaim()
	}
	var slot int
	switch {
	case len(t.free) > 0:
		slot = t.free[len(t.free)-1]
		t.free = t.free[:len(t.free)-1]
	case t.next < maxSlot:
		t.next++
		slot = t.next
	default:
		return &vfs.Error{Op: "namespace", Err: vfs.WithErrno(syscall.ENFILE, errNoSlot)}
	}
	p.gen.Store(t.gens[slot])
	t.gens[slot]++
	t.places[slot].Store(p)
	p.slot.Store(int64(slot))
	return nil
}

// reclaim takes slots from places, unmounted ones or not, that nobody uses.
func (t *slotTable) reclaim() {
	limit := time.Now().Add(-slotRest).Unix()
	for i := 1; i <= t.next; i++ {
		if p := t.places[i].Load(); p != nil && p.holds.Load() == 0 && p.found.Load() < limit {
			t.releaseLocked(p)
		}
	}
}

func (t *slotTable) releaseLocked(p *place) {
	slot := int(p.slot.Swap(0))
	if slot == 0 {
		return
	}
	t.places[slot].Store(nil)
	t.free = append(t.free, slot)
	if p.link != nil && t.links[*p.link] == p {
		delete(t.links, *p.link)
		p.dead.Store(true)
	}
}

// linksOf returns the places of links in a backend.
func (t *slotTable) linksOf(b *backend) (out []*place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.links {
		if p.b == b {
			out = append(out, p)
		}
	}
	return out
}

func (t *slotTable) hasLinks() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.links) > 0
}

// linkPlace finds or makes the place of a directory link, with a slot.
func (t *slotTable) linkPlace(key linkKey, target vfs.Ino) (*place, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.links[key]; p != nil {
		if p.target == target && !p.dead.Load() {
			p.found.Store(time.Now().Unix())
			return p, nil
		}
		delete(t.links, key) // it leads elsewhere now
		p.dead.Store(true)
		if p.holds.Load() == 0 {
			t.releaseLocked(p)
		}
	}
	p := &place{m: key.p.m, b: key.p.b, path: key.p.path, readOnly: key.p.readOnly, link: &key, target: target, depth: key.p.depth + 1}
	p.found.Store(time.Now().Unix())
	if key.p.dead.Load() {
		return nil, syscall.ESTALE
	}
	if err := t.takeLocked(p); err != nil {
		return nil, err
	}
	if t.links == nil {
		t.links = map[linkKey]*place{}
	}
	t.links[key] = p
	return p, nil
}

func (p *place) hold()   { p.holds.Add(1) }
func (p *place) unhold() { p.holds.Add(-1) }

// shown makes the attributes of a storage's inode those of the namespace's.
func (ns *FS) shown(p *place, o *opened, a *vfs.Attr) error {
	if a.Ino > vfs.MaxIno {
		return &vfs.Error{Op: "namespace", Name: p.path, Err: vfs.WithErrno(syscall.EIO, errWideIno)}
	}
	if err := ns.slots.take(p); err != nil {
		return err
	}
	a.Ino |= vfs.Ino(p.slot.Load()) << slotShift
	a.Gen += p.gen.Load() * 0x9e3779b1
	if p.ro(o) && a.Type() != syscall.S_IFLNK {
		a.Mode &^= 0o222
	}
	return nil
}
