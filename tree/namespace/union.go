package namespace

import (
	"container/list"
	"context"
	"path"
	"slices"
	"sync"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// layer is a directory of a storage that is part of a union.
type layer struct {
	p   *place
	ino vfs.Ino // in the storage; 0: the place's root
}

// union is a directory of the namespace itself: several layers, or one below which
// something is mounted, or none.
type union struct {
	ino  vfs.Ino
	path string

	// Guarded by the table's lock.
	inherited []layer // what its name led to in the layers of its parent
	holds     int     // pins and open Dirs
	idle      *list.Element
}

// unionTable knows the unions that were looked up and are still needed, and as many
// others as it may keep.
type unionTable struct {
	mu      sync.Mutex
	byPath  map[string]*union
	byIno   map[vfs.Ino]*union
	byLayer map[layer]*union // inherited layers
	idle    list.List        // of those that nobody holds, least recently used first
	next    vfs.Ino
}

const maxIdleUnions = 1 << 16

func (t *unionTable) init() {
	root := &union{ino: vfs.Root, path: "/", holds: 1}
	t.byPath = map[string]*union{"/": root}
	t.byIno = map[vfs.Ino]*union{vfs.Root: root}
	t.byLayer = map[layer]*union{}
	t.next = vfs.Root + 1
}

// get finds a union by number: ESTALE.
func (t *unionTable) get(ino vfs.Ino) (*union, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.byIno[ino]
	if u == nil {
		return nil, syscall.ESTALE
	}
	if u.idle != nil {
		t.idle.MoveToBack(u.idle)
	}
	return u, nil
}

// at finds or makes the union of a path. inherited replaces what it has inherited, if
// known; the caller sees to pins of what is returned.
func (t *unionTable) at(p string, inherited []layer, known bool) (u *union, added, removed []layer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u = t.byPath[p]
	if u == nil {
		u = &union{ino: t.next, path: p}
		t.next++
		t.byPath[p] = u
		t.byIno[u.ino] = u
		u.idle = t.idle.PushBack(u)
		for t.idle.Len() > maxIdleUnions {
			removed = append(removed, t.forgetLocked(t.idle.Front().Value.(*union))...)
		}
	} else if u.idle != nil {
		t.idle.MoveToBack(u.idle)
	}
	if known && !slices.Equal(u.inherited, inherited) {
		added = inherited
		removed = append(removed, u.inherited...)
		t.setLayersLocked(u, inherited)
	}
	return u, added, removed
}

func (t *unionTable) setLayersLocked(u *union, inherited []layer) {
	for _, l := range u.inherited {
		if t.byLayer[l] == u {
			delete(t.byLayer, l)
		}
	}
	u.inherited = inherited
	for _, l := range inherited {
		t.byLayer[l] = u
	}
}

func (t *unionTable) forgetLocked(u *union) (removed []layer) {
	removed = u.inherited
	t.setLayersLocked(u, nil)
	if u.idle != nil {
		t.idle.Remove(u.idle)
		u.idle = nil
	}
	delete(t.byPath, u.path)
	delete(t.byIno, u.ino)
	return removed
}

// hold changes the number of those who need a union.
func (t *unionTable) hold(ino vfs.Ino, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.byIno[ino]
	if u == nil || ino == vfs.Root {
		return
	}
	u.holds = max(u.holds+n, 0)
	switch {
	case u.holds > 0 && u.idle != nil:
		t.idle.Remove(u.idle)
		u.idle = nil
	case u.holds == 0 && u.idle == nil:
		u.idle = t.idle.PushBack(u)
	}
}

// find returns the union of a path, nil if nobody has looked it up.
func (t *unionTable) find(p string) *union {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byPath[p]
}

// with returns the unions that have one of the layers.
func (t *unionTable) with(l layer) *union {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byLayer[l]
}

func (t *unionTable) inheritedOf(u *union) []layer {
	t.mu.Lock()
	defer t.mu.Unlock()
	return u.inherited
}

// unionAt finds or makes the union of a path.
func (ns *FS) unionAt(p string, inherited []layer, known bool) *union {
	u, added, removed := ns.unions.at(p, inherited, known)
	for _, l := range added {
		if o := l.p.b.enterOpen(); o != nil {
			o.pin(l.ino)
			l.p.b.leave()
		}
	}
	for _, l := range removed {
		if o := l.p.b.enterOpen(); o != nil {
			o.unpin(l.ino)
			l.p.b.leave()
		}
	}
	return u
}

// child is what the tree of nodes has under a name.
type child struct {
	exists    bool
	synthetic bool
	places    []*place
}

// emptyWhileAbsent tells whether what is mounted alone at a node is shown as an empty
// directory while it does not exist.
func (c *child) emptyWhileAbsent() bool {
	return c.exists && !c.synthetic && c.places[0].m.item.Storage.EmptyWhileAbsent && IsAbsent(c.places[0].b.why())
}

// nodeAt copies what the tree of nodes has at a path.
func (ns *FS) nodeAt(p string) child {
	ns.mu.RLock()
	defer ns.mu.RUnlock()
	n := ns.nodes[p]
	if n == nil {
		return child{}
	}
	return child{exists: true, synthetic: n.synthetic(), places: n.places} // places are replaced, not changed
}

// layersOf are the layers of a union now. here is the node at its path.
func (ns *FS) layersOf(u *union) (layers []layer, here child) {
	for _, l := range ns.unions.inheritedOf(u) {
		if !l.p.dead.Load() {
			layers = append(layers, l)
		}
	}
	here = ns.nodeAt(u.path)
	for _, p := range here.places {
		layers = append(layers, layer{p: p})
	}
	return layers, here
}

// claim is what a storage has under a name (or as a layer).
type claim struct {
	p    *place
	o    *opened
	dir  vfs.Ino // where the name stands; 0: it is the place's root
	name string  // there
	attr vfs.Attr
}

func (cl *claim) isDir() bool { return cl.attr.IsDir() }

// writable tells whether the claim is a directory that takes new files.
func (cl *claim) writable() bool {
	return cl.isDir() && cl.attr.Mode&0o200 != 0 && !cl.p.ro(cl.o)
}

// claims is what all storages have under a name of a union.
type claims struct {
	child child
	dirs  []claim
	files []claim
	asked int   // layers and mounted roots
	err   error // of one of them, if not ENOENT
}

func (cs *claims) add(cl claim, err error) {
	cs.asked++
	switch {
	case err != nil:
		if errno := vfs.ErrnoOf(err); errno != syscall.ENOENT && errno != syscall.ESTALE && cs.err == nil {
			cs.err = err
		}
	case cl.isDir():
		cs.dirs = append(cs.dirs, cl)
	default:
		cs.files = append(cs.files, cl)
	}
}

// nothing is the error of a name that nobody has: that of the only claimant, else ENOENT.
func (cs *claims) nothing() error {
	if cs.err != nil && cs.asked == 1 {
		return cs.err
	}
	return syscall.ENOENT
}

// rootClaim asks a place for its root.
func (ns *FS) rootClaim(ctx context.Context, c *vfs.Caller, p *place) (cl claim, err error) {
	o, err := p.b.enter(ctx)
	if err != nil {
		return cl, err
	}
	defer p.b.leave()
	cl = claim{p: p, o: o}
	err = o.fs.GetAttr(ctx, c, p.root(o), &cl.attr)
	return cl, err
}

// layerClaim asks a layer for its attributes.
func (ns *FS) layerClaim(ctx context.Context, c *vfs.Caller, l layer) (cl claim, err error) {
	if l.ino == 0 {
		return ns.rootClaim(ctx, c, l.p)
	}
	o, err := l.p.b.enter(ctx)
	if err != nil {
		return cl, err
	}
	defer l.p.b.leave()
	cl = claim{p: l.p, o: o}
	err = o.fs.GetAttr(ctx, c, l.ino, &cl.attr)
	return cl, err
}

// claim asks all who may have a name in a union.
func (ns *FS) claim(ctx context.Context, c *vfs.Caller, u *union, name string) *claims {
	cs := &claims{child: ns.nodeAt(path.Join(u.path, name))}
	layers, _ := ns.layersOf(u)
	for _, l := range layers {
		cl, err := ns.claimIn(ctx, c, l, name)
		cs.add(cl, err)
	}
	for _, p := range cs.child.places {
		cl, err := ns.rootClaim(ctx, c, p)
		cs.add(cl, err)
	}
	return cs
}

// claimIn asks a layer for a name.
func (ns *FS) claimIn(ctx context.Context, c *vfs.Caller, l layer, name string) (cl claim, err error) {
	o, err := l.p.b.enter(ctx)
	if err != nil {
		return cl, err
	}
	defer l.p.b.leave()
	dir := l.ino
	if dir == 0 {
		dir = l.p.root(o)
	}
	cl = claim{o: o, dir: dir, name: name}
	cl.p, err = ns.lookupIn(ctx, c, o, l.p, dir, name, &cl.attr)
	if vfs.ErrnoOf(err) == syscall.ENOTDIR {
		err = syscall.ENOENT // the layer is a file by now
	}
	return cl, err
}

// found is what a name of a union means.
type found struct {
	one   *claim  // a single file or directory of a storage
	union bool    // a directory of the namespace
	dirs  []claim // its layers, with the roots of what is mounted there
	child child
}

// resolve finds a name in a union: ENOENT, or the error of the only one who may have it.
func (ns *FS) resolve(ctx context.Context, c *vfs.Caller, u *union, name string) (*found, error) {
	cs := ns.claim(ctx, c, u, name)
	switch {
	case cs.child.synthetic || len(cs.dirs) > 1:
		return &found{union: true, dirs: cs.dirs, child: cs.child}, nil
	case len(cs.dirs) == 1:
		return &found{one: &cs.dirs[0], child: cs.child}, nil
	}
	if cl := ns.renamed(ctx, c, u, name); cl != nil {
		return &found{one: cl}, nil
	}
	switch len(cs.files) {
	case 0:
		if cs.child.emptyWhileAbsent() {
			return &found{union: true, child: cs.child}, nil
		}
		return nil, cs.nothing()
	case 1:
		return &found{one: &cs.files[0]}, nil
	}
	return nil, syscall.ENOENT
}

// renamed finds the file that is shown under a conflict name, nil if name is none.
func (ns *FS) renamed(ctx context.Context, c *vfs.Caller, u *union, name string) *claim {
	true_, id, ok := parseConflictName(name)
	if !ok {
		return nil
	}
	cs := ns.claim(ctx, c, u, true_)
	for i := range cs.files {
		if cs.files[i].p.m.id != id {
			continue
		}
		if len(cs.files) > 1 || len(cs.dirs) > 0 || cs.child.synthetic || ns.renamed(ctx, c, u, true_) != nil {
			return &cs.files[i]
		}
	}
	return nil
}

// unionAttr are the attributes of a directory with these layers.
func (ns *FS) unionAttr(ino vfs.Ino, dirs []claim, synthetic bool, out *vfs.Attr) {
	one := soleWriter(dirs)
	if one == nil && len(dirs) == 1 && !synthetic {
		one = &dirs[0]
	}
	if one != nil {
		*out = one.attr
		if one.p.ro(one.o) {
			out.Mode &^= 0o222
		}
		out.Gen = 0
	} else {
		*out = vfs.Attr{Mode: syscall.S_IFDIR | 0o555, Nlink: 2, UID: ns.opts.UID, GID: ns.opts.GID, BlockSize: 4096, NoXattrs: true}
	}
	out.Ino = ino
}

// soleWriter is the only directory that takes new files.
func soleWriter(dirs []claim) (one *claim) {
	for i := range dirs {
		if dirs[i].writable() {
			if one != nil {
				return nil
			}
			one = &dirs[i]
		}
	}
	return one
}

// dirsOf asks the layers of a union.
func (ns *FS) dirsOf(ctx context.Context, c *vfs.Caller, u *union) (*claims, child) {
	layers, here := ns.layersOf(u)
	cs := &claims{child: here}
	for _, l := range layers {
		cl, err := ns.layerClaim(ctx, c, l)
		cs.add(cl, err)
	}
	return cs, here
}

// single is the layer of a union that a change of the union goes to, nil if there is no
// single one.
func (ns *FS) single(ctx context.Context, c *vfs.Caller, u *union) *claim {
	cs, here := ns.dirsOf(ctx, c, u)
	if one := soleWriter(cs.dirs); one != nil {
		return one
	}
	if len(cs.dirs) == 1 && !here.synthetic {
		return &cs.dirs[0]
	}
	return nil
}
