package bucket

import (
	"context"
	"hash/maphash"
	"sync"
	"syscall"
	"time"

	"github.com/massif-fs/massif/vfs"
)

// node is a file, directory or link that somebody uses, or that is remembered.
//
// A node knows its parent and its name, so that renaming a directory moves all below it.
// Keys are made from that when they are needed, by whoever keeps the place still (see use).
type node struct {
	ino  vfs.Ino
	kind uint32 // S_IFMT bits
	link bool   // a symbolic link kept by rclone's convention

	// Guarded by FS.mu.
	parent   *node // also of a node that is gone, while it is in the table
	name     string
	children map[string]*node // present ones that are in the table
	kids     int              // nodes whose parent this is, gone ones too
	pins     int
	opens    int
	holds    int  // keep it in the table, and nothing else
	users    int  // calls that need this node or one below it to stay where it is
	moving   bool // somebody changes where it is, or ends it
	gone     bool // it has no name any more
	queued   bool // something of it is to be stored
	older    *node
	newer    *node // in FS.idle
	inIdle   bool
	dir      *dirState // of a directory

	save chan struct{} // holds one token: who stores the node has it

	mu sync.Mutex
	attrs
	stored   bool // there is an object (of a directory: a marker)
	etag     string
	size     int64 // of the object
	known    bool  // attrs are the object's metadata, or this mount's
	checked  time.Time
	content  *content // what its Files use; nil: it has none, or it is not in use
	touched  bool     // attrs differ from those of the object
	here     bool     // a directory that exists in this mount alone
	attrSeq  uint64
	target   string    // of a symbolic link, where it is known
	attempts []attempt // uploads whose outcome is not known
}

// dirState is what is remembered of a directory. Guarded by FS.mu.
type dirState struct {
	absent   map[string]time.Time // names known not to exist, until when
	complete time.Time            // the children are all there are: when the listing began; zero: they are not
	listing  sync.Mutex           // one listing at a time
	listers  int
	forgot   uint64               // children that were taken out of the table for want of room
	changed  map[string]struct{}  // names that this mount changed while somebody lists
	misses   int                  // lookups that had to ask since the last listing
	large    time.Time            // it has more entries than are kept: when that was seen
	sorted   []dirItem            // the children in order of their cookies; nil: make it anew
	recent   [2]map[uint64]string // cookies given to readers of a large directory: sort keys
}

func (n *node) isDir() bool { return n.kind == syscall.S_IFDIR }

const (
	absentMost = 4096 // names a directory remembers not to have
	// ownNumbers is where inode numbers begin that are not made of a path.
	ownNumbers vfs.Ino = 1 << 47
)

// numberOf makes the inode number of a path, which is the same in every mount.
func numberOf(path string) vfs.Ino {
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(path) {
		h = (h ^ uint64(path[i])) * 1099511628211
	}
	h ^= h >> 29 // short paths differ in the upper bits, too
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 32
	return vfs.Ino(h)&(ownNumbers-1) | 2
}

// usedNumbers remembers numbers of files that are gone, so that no other file gets them. It is
// a Bloom filter: a number may be taken for used that was not, which does no harm.
type usedNumbers struct {
	seed maphash.Seed
	bits [1 << 15]uint64
}

func (u *usedNumbers) places(ino vfs.Ino) [2]uint64 {
	h := maphash.Comparable(u.seed, ino)
	return [2]uint64{h % (uint64(len(u.bits)) * 64), h >> 32 % (uint64(len(u.bits)) * 64)}
}

func (u *usedNumbers) add(ino vfs.Ino) {
	for _, p := range u.places(ino) {
		u.bits[p/64] |= 1 << (p % 64)
	}
}

func (u *usedNumbers) has(ino vfs.Ino) bool {
	for _, p := range u.places(ino) {
		if u.bits[p/64]&(1<<(p%64)) == 0 {
			return false
		}
	}
	return true
}

// path is the node's key, of a directory without the '/' at the end, "" for the root. FS.mu
// is held, or a use of the node.
func (n *node) path() string {
	if n.parent == nil {
		return ""
	}
	if up := n.parent.path(); up != "" {
		return up + "/" + n.name
	}
	return n.name
}

// prefix begins the keys of what is in a directory.
func (n *node) prefix() string {
	if p := n.path(); p != "" {
		return p + "/"
	}
	return ""
}

// key is the key of the node's object.
func (fs *FS) key(n *node) string {
	switch {
	case n.isDir():
		return fs.markerKey(n.path())
	case n.link:
		return n.path() + linkSuffix
	}
	return n.path()
}

// newNode puts a node into the table, with the lock held.
func (fs *FS) newNode(parent *node, name string, kind uint32) *node {
	n := &node{parent: parent, name: name, kind: kind, save: make(chan struct{}, 1)}
	if kind == syscall.S_IFDIR {
		n.children = make(map[string]*node)
		n.dir = &dirState{}
	}
	if parent == nil {
		n.ino = vfs.Root
	} else {
		n.ino = numberOf(n.path())
		if fs.table[n.ino] != nil || fs.used.has(n.ino) {
			fs.nextIno++
			n.ino = fs.nextIno
		}
		parent.kids++
		fs.unidle(parent)
		parent.children[name] = n
		delete(parent.dir.absent, name)
		parent.dir.sorted = nil
	}
	fs.table[n.ino] = n
	fs.settle(n)
	return n
}

// settle lets a node that nobody needs be forgotten some day, or at once if it is gone. The
// lock is held.
func (fs *FS) settle(n *node) {
	if n.pins > 0 || n.opens > 0 || n.holds > 0 || n.users > 0 || n.kids > 0 || n.queued || n.moving || n.parent == nil || n.isDir() && n.here {
		fs.unidle(n)
		return
	}
	if n.gone {
		fs.forget(n)
		return
	}
	if !n.inIdle {
		n.inIdle = true
		n.older = fs.idleNew
		if fs.idleNew != nil {
			fs.idleNew.newer = n
		} else {
			fs.idleOld = n
		}
		fs.idleNew = n
		fs.idleN++
	}
	for fs.idleN > fs.cfg.MaxEntries {
		fs.forget(fs.idleOld)
	}
}

func (fs *FS) unidle(n *node) {
	if !n.inIdle {
		return
	}
	n.inIdle = false
	fs.idleN--
	if n.older != nil {
		n.older.newer = n.newer
	} else {
		fs.idleOld = n.newer
	}
	if n.newer != nil {
		n.newer.older = n.older
	} else {
		fs.idleNew = n.older
	}
	n.older, n.newer = nil, nil
}

// forget takes a node out of the table.
func (fs *FS) forget(n *node) {
	fs.unidle(n)
	delete(fs.table, n.ino)
	if n.gone {
		fs.used.add(n.ino)
	} else {
		delete(n.parent.children, n.name)
		n.parent.dir.complete = time.Time{}
		n.parent.dir.sorted = nil
		n.parent.dir.forgot++
	}
	n.parent.kids--
	fs.settle(n.parent)
}

// unname takes a node's name away, with the lock held.
func (fs *FS) unname(n *node) {
	if n.gone {
		return
	}
	n.gone = true
	delete(n.parent.children, n.name)
	n.parent.dir.sorted = nil
	fs.settle(n)
}

// noteAbsent remembers that a directory has no entry of that name.
func (fs *FS) noteAbsent(dir *node, name string) {
	if fs.cfg.NegativeTimeout <= 0 {
		return
	}
	d := dir.dir
	if d.absent == nil || len(d.absent) >= absentMost {
		d.absent = make(map[string]time.Time)
	}
	d.absent[name] = time.Now().Add(fs.cfg.NegativeTimeout)
}

// tell notes for listings under way that this mount has changed a name. The lock is held.
func (d *dirState) tell(name string) {
	d.sorted = nil
	if d.listers > 0 {
		d.changed[name] = struct{}{}
	}
}

// # Keeping places still
//
// A call that needs a key, because it talks to the store about an object, uses the object's
// node meanwhile: neither the node nor a directory above it moves. A call that makes, removes or moves
// a name also has that name of that directory for itself. Whoever moves or ends a node
// waits for its users, and for those of all below it.
//
// All that a call uses it takes at once, waiting with nothing in its hands; the one exception is
// the wait for the users of a node that moves, whose uses end without anything from above
// it. Only one directory is moved at a time.

type place struct {
	dir  *node
	name string
}

// use finds a node by number and uses it. It waits for moves. ESTALE.
func (fs *FS) use(ctx context.Context, ino vfs.Ino) (*node, error) {
	fs.mu.Lock()
	n := fs.table[ino]
	if n == nil || fs.closed {
		fs.mu.Unlock()
		return nil, syscall.ESTALE
	}
	return n, fs.useLocked(ctx, []*node{n}, nil)
}

// usePlace uses a directory and has a name in it.
func (fs *FS) usePlace(ctx context.Context, ino vfs.Ino, name string) (*node, error) {
	fs.mu.Lock()
	n, err := fs.dirLocked(ino)
	if err != nil {
		fs.mu.Unlock()
		return nil, err
	}
	if err := fs.useLocked(ctx, []*node{n}, []place{{n, name}}); err != nil {
		return nil, err
	}
	if n.gone {
		fs.donePlace(n, name)
		return nil, syscall.ENOENT
	}
	return n, nil
}

func (fs *FS) dirLocked(ino vfs.Ino) (*node, error) {
	n := fs.table[ino]
	switch {
	case n == nil || fs.closed:
		return nil, syscall.ESTALE
	case !n.isDir():
		return nil, syscall.ENOTDIR
	}
	return n, nil
}

// useNode is use for a node in hand. With now it does not wait: EBUSY.
func (fs *FS) useNode(ctx context.Context, n *node, now bool) error {
	fs.mu.Lock()
	if now && n.still() != nil {
		fs.mu.Unlock()
		return syscall.EBUSY
	}
	return fs.useLocked(ctx, []*node{n}, nil)
}

// still returns the node on the way up that is moving.
func (n *node) still() *node {
	for ; n != nil; n = n.parent {
		if n.moving {
			return n
		}
	}
	return nil
}

// useLocked takes nodes and places as soon as all are free. It is called with the lock held
// and returns without.
func (fs *FS) useLocked(ctx context.Context, nodes []*node, places []place) error {
	defer fs.mu.Unlock()
	for _, n := range nodes { // they stay in the table while we wait
		n.users++
		fs.unidle(n)
	}
	free := func() bool {
		for _, n := range nodes {
			if n.still() != nil {
				return false
			}
		}
		for _, p := range places {
			if _, taken := fs.places[p]; taken {
				return false
			}
		}
		return true
	}
	// A wait must not look like a use to who moves.
	for _, n := range nodes {
		n.users--
		n.holds++
	}
	err := fs.await(ctx, free)
	for _, n := range nodes {
		n.holds--
		if err == nil {
			for up := n; up != nil; up = up.parent {
				up.users++
				fs.unidle(up)
			}
		} else {
			fs.settle(n)
		}
	}
	if err != nil {
		return err
	}
	for _, p := range places {
		fs.places[p] = struct{}{}
	}
	return nil
}

// await waits until cond holds, with the lock held except while it sleeps.
func (fs *FS) await(ctx context.Context, cond func() bool) error {
	for !cond() {
		changed := fs.changed
		fs.waiters++
		fs.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		fs.mu.Lock()
		fs.waiters--
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// wake lets those look again who wait.
func (fs *FS) wake() {
	if fs.waiters > 0 {
		close(fs.changed)
		fs.changed = make(chan struct{})
	}
}

// done ends a use.
func (fs *FS) done(n *node) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.doneLocked(n)
}

func (fs *FS) doneLocked(n *node) {
	for up := n; up != nil; {
		next := up.parent
		up.users--
		fs.settle(up)
		up = next
	}
	fs.wake()
}

// donePlace ends what usePlace began.
func (fs *FS) donePlace(n *node, name string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.places, place{n, name})
	fs.doneLocked(n)
}

// hold waits for the users of a node to end and keeps new ones out, until release.
func (fs *FS) hold(ctx context.Context, n *node) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if err := fs.await(ctx, func() bool { return !n.moving }); err != nil {
		return err
	}
	n.moving = true
	if err := fs.await(ctx, func() bool { return n.users == 0 }); err != nil {
		n.moving = false
		fs.settle(n)
		fs.wake()
		return err
	}
	return nil
}

func (fs *FS) release(n *node) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n.moving = false
	fs.settle(n)
	fs.wake()
}

// letGo ends a hold in the table that somebody took with the lock held.
func (fs *FS) letGo(n *node) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n.holds--
	fs.settle(n)
}

// Pin implements vfs.Pinner.
func (fs *FS) Pin(ino vfs.Ino) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if n := fs.table[ino]; n != nil {
		n.pins++
		fs.unidle(n)
	}
}

// Unpin implements vfs.Pinner.
func (fs *FS) Unpin(ino vfs.Ino) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if n := fs.table[ino]; n != nil && n.pins > 0 {
		n.pins--
		fs.settle(n)
	}
}
