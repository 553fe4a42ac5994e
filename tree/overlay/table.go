package overlay

import (
	"container/list"
	"sync"

	"github.com/massif-fs/massif/vfs"
)

// node is an inode of the overlay. It holds a pin on the upper inode, if it has one, and
// on the lower one.
type node struct {
	ino vfs.Ino
	typ uint32 // S_IFMT

	// Under FS.mu, and written with table.mu held, too. upper and lower are 0 where there
	// is none. lower of a directory is what merges with the upper one; of another inode
	// what it is until it is copied up.
	upper, lower vfs.Ino
	origin       vfs.Ino // the lower inode that it is or was, of others than directories
	parent       *node   // of directories, and of lower files with one name; nil: no name
	name         string  // in parent
	path         string  // of the lower directory, from the lower root; "" for that
	dead         bool    // a directory that was removed
	shared       bool    // a lower inode of several names: its copy is in the index
	added        uint64  // how often a name came into the directory

	copying sync.Mutex // held while the inode is copied up

	account sync.Mutex // held by what changes how much space the upper inode takes
	counted int64      // how much of FS.space.used is for it, in bytes
	counts  bool       // counted is known

	// Under table.mu.
	pins     int
	opens    int
	children int // nodes that have this one as parent
	idle     *list.Element
	orphan   bool // no name leads to it; its space is free when it is forgotten
}

// table holds the nodes.
type table struct {
	fs      *FS
	mu      sync.Mutex
	byIno   map[vfs.Ino]*node
	byUpper map[vfs.Ino]*node
	idle    list.List // of nodes that could be forgotten, oldest in front
	most    int
}

func (t *table) init(fs *FS, most int) {
	t.fs, t.most = fs, most
	t.byIno, t.byUpper = map[vfs.Ino]*node{}, map[vfs.Ino]*node{}
}

func (t *table) addRoot() *node {
	n := &node{ino: vfs.Root, typ: typeDir, upper: vfs.Root, lower: vfs.Root, pins: 1}
	n.parent = n
	t.byIno[n.ino], t.byUpper[n.upper] = n, n
	return n
}

// Numbers: those of lower inodes are even, of upper ones odd; the root has 1.
func lowerNumber(ino vfs.Ino) vfs.Ino { return 2 * ino }
func upperNumber(ino vfs.Ino) vfs.Ino { return 2*ino + 1 }

func (t *table) get(ino vfs.Ino) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byIno[ino]
}

func (t *table) ofUpper(ino vfs.Ino) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byUpper[ino]
}

// add puts a node that was just found into the table, or returns the one that is there
// already. The node is not forgotten before the next one is added.
func (t *table) add(n *node) *node {
	t.mu.Lock()
	if have := t.byIno[n.ino]; have != nil {
		if have.parent == nil && n.parent != nil && have.typ != typeDir && !have.shared && have.upper == 0 {
			t.setParent(have, n.parent, n.name)
		}
		t.mu.Unlock()
		return have
	}
	parent := n.parent
	n.parent = nil
	t.setParent(n, parent, n.name)
	t.byIno[n.ino] = n
	if n.upper != 0 {
		t.byUpper[n.upper] = n
		t.fs.pinUpper(n.upper)
	}
	if p, ok := t.fs.lower.(vfs.Pinner); ok && n.lower != 0 {
		p.Pin(n.lower)
	}
	gone := t.evict()
	t.settle(n)
	t.mu.Unlock()
	t.drop(gone)
	return n
}

// setParent is called with mu held.
func (t *table) setParent(n, parent *node, name string) {
	if old := n.parent; old != nil && old != n {
		old.children--
		t.settle(old)
	}
	n.parent, n.name = parent, name
	if parent != nil {
		parent.children++
		t.settle(parent)
	}
}

// moved notes a name of a node; nil: none.
func (t *table) moved(n, parent *node, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.setParent(n, parent, name)
}

// copied notes the upper inode of a node.
func (t *table) copied(n *node, upper vfs.Ino) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.upper = upper
	t.byUpper[upper] = n
	t.fs.pinUpper(upper)
}

// settle puts a node among the idle ones, or takes it from there. mu is held.
func (t *table) settle(n *node) {
	busy := n.pins > 0 || n.opens > 0 || n.children > 0
	switch {
	case busy && n.idle != nil:
		t.idle.Remove(n.idle)
		n.idle = nil
	case !busy && n.idle == nil && t.byIno[n.ino] == n:
		n.idle = t.idle.PushBack(n)
	}
}

// evict takes the oldest idle nodes out of the table. mu is held; what it returns is
// dropped without it.
func (t *table) evict() (gone []*node) {
	for t.idle.Len() > t.most {
		n := t.idle.Front().Value.(*node)
		t.remove(n)
		gone = append(gone, n)
	}
	return gone
}

// remove takes an idle node out of the table, and gives its pins back unless it is an
// orphan. mu is held.
func (t *table) remove(n *node) {
	t.idle.Remove(n.idle)
	n.idle = nil
	delete(t.byIno, n.ino)
	if n.upper != 0 {
		delete(t.byUpper, n.upper)
	}
	if n.parent != nil {
		p := n.parent
		n.parent = nil
		p.children--
		t.settle(p)
	}
	if !n.orphan {
		t.unpin(n)
	}
}

// unpin is called with mu held where the inodes could be met again.
func (t *table) unpin(n *node) {
	if n.upper != 0 {
		t.fs.unpinUpper(n.upper)
	}
	if p, ok := t.fs.lower.(vfs.Pinner); ok && n.lower != 0 {
		p.Unpin(n.lower)
	}
}

// drop gives back what orphans held, which nobody finds again.
func (t *table) drop(gone []*node) {
	for _, n := range gone {
		if n.orphan {
			t.fs.released(n)
			t.unpin(n)
		}
	}
}

func (t *table) pin(ino vfs.Ino, by int) {
	t.mu.Lock()
	n := t.byIno[ino]
	if n == nil {
		t.mu.Unlock()
		return
	}
	n.pins += by
	gone := t.used(n)
	t.mu.Unlock()
	t.drop(gone)
}

// open counts open Files and Dirs of a node.
func (t *table) open(n *node, by int) {
	t.mu.Lock()
	n.opens += by
	gone := t.used(n)
	t.mu.Unlock()
	t.drop(gone)
}

// used forgets an orphan that nobody uses any more. mu is held.
func (t *table) used(n *node) (gone []*node) {
	t.settle(n)
	if n.orphan && n.idle != nil {
		t.remove(n)
		gone = append(gone, n)
	}
	return gone
}

// orphaned notes that the last name of a node is gone.
func (t *table) orphaned(n *node) {
	t.mu.Lock()
	n.orphan = true
	if n.typ != typeDir {
		t.setParent(n, nil, "")
	}
	gone := t.used(n)
	t.mu.Unlock()
	t.drop(gone)
}

// adopted notes that a node has a name again.
func (t *table) adopted(n *node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.orphan = false
}
