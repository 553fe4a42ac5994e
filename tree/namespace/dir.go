package namespace

import (
	"context"
	"hash/fnv"
	"path"
	"sort"
	"strings"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// OpenDir implements vfs.FS.
func (ns *FS) OpenDir(ctx context.Context, c *vfs.Caller, ino vfs.Ino) (vfs.Dir, error) {
	t, err := ns.at(ctx, ino)
	if err != nil {
		return nil, err
	}
	defer t.leave()
	if t.u != nil {
		ns.unions.hold(ino, 1)
		return &unionDir{ns: ns, u: t.u, c: *c}, nil
	}
	d, err := t.o.fs.OpenDir(ctx, c, t.ino)
	if err != nil {
		return nil, err
	}
	t.p.hold()
	return &plainDir{ns: ns, p: t.p, o: t.o, dir: t.ino, c: *c, inner: d}, nil
}

// plainDir is an open directory of one storage.
type plainDir struct {
	ns    *FS
	p     *place
	o     *opened
	dir   vfs.Ino
	c     vfs.Caller
	inner vfs.Dir
	e     vfs.DirEntry
}

func (d *plainDir) enter() error {
	if d.p.dead.Load() || d.p.b.hold() != nil {
		return &vfs.Error{Op: "readdir", Name: d.p.path, Err: vfs.WithErrno(syscall.EIO, errUnmounted)}
	}
	return nil
}

// Read implements vfs.Dir.
func (d *plainDir) Read(ctx context.Context, cookie uint64, plus bool, emit func(*vfs.DirEntry) bool) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.p.b.leave()
	if err := d.ns.slots.take(d.p); err != nil {
		return err
	}
	slot := vfs.Ino(d.p.slot.Load()) << slotShift
	return d.inner.Read(ctx, cookie, plus, func(e *vfs.DirEntry) bool {
		d.e = *e
		d.e.Ino |= slot
		if d.o.Links != nil && e.Mode&syscall.S_IFMT == syscall.S_IFLNK {
			d.e.HasAttr = false
			d.e.Mode = linkType(ctx, &d.c, d.o, d.dir, e.Name)
			return emit(&d.e)
		}
		if e.HasAttr {
			d.o.learn(d.dir, e.Name, e.Attr.Ino)
			d.e.HasAttr = d.ns.shown(d.p, d.o, &d.e.Attr) == nil
		}
		return emit(&d.e)
	})
}

// linkType is the type of what a link leads to, 0 if it leads nowhere.
func linkType(ctx context.Context, c *vfs.Caller, o *opened, dir vfs.Ino, name string) uint32 {
	var a vfs.Attr
	if o.fs.Lookup(ctx, c, dir, name, &a) != nil {
		return 0
	}
	left := maxLinks
	if a.Type() == syscall.S_IFLNK && followFrom(ctx, c, o, dir, &a, &left) != nil {
		return 0
	}
	return a.Type()
}

// Sync implements vfs.Dir.
func (d *plainDir) Sync(ctx context.Context) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.p.b.leave()
	return d.inner.Sync(ctx)
}

// Close implements vfs.Dir.
func (d *plainDir) Close() error {
	d.p.unhold()
	return d.inner.Close()
}

// unionDir is an open directory of the namespace. What it shows is collected when it is
// read from the beginning, in the order of the names.
type unionDir struct {
	ns   *FS
	u    *union
	c    vfs.Caller
	list []listed
	read bool
}

// listed is an entry of a union.
type listed struct {
	name string
	mode uint32
	ino  vfs.Ino
	// closed: what stands there is a storage that nobody has used yet. A listing
	// opens none.
	closed bool
}

// firstCookie is behind those that doors use themselves.
const firstCookie = 3

// Read implements vfs.Dir.
func (d *unionDir) Read(ctx context.Context, cookie uint64, plus bool, emit func(*vfs.DirEntry) bool) error {
	if cookie == 0 || !d.read {
		list, err := d.ns.list(ctx, &d.c, d.u)
		if err != nil {
			return err
		}
		d.list, d.read = list, true
	}
	from := 0
	if cookie >= firstCookie {
		from = int(min(cookie-firstCookie+1, uint64(len(d.list))))
	}
	for i := from; i < len(d.list); i++ {
		e := vfs.DirEntry{Name: d.list[i].name, Mode: d.list[i].mode, Ino: d.list[i].ino, Cookie: firstCookie + uint64(i)}
		if plus && !d.list[i].closed && d.ns.Lookup(ctx, &d.c, d.u.ino, e.Name, &e.Attr) == nil {
			e.HasAttr, e.Ino, e.Mode = true, e.Attr.Ino, e.Attr.Type()
		}
		if !emit(&e) {
			return nil
		}
	}
	return nil
}

// Sync implements vfs.Dir.
func (d *unionDir) Sync(ctx context.Context) error {
	layers, _ := d.ns.layersOf(d.u)
	for _, l := range layers {
		o := l.p.b.enterOpen()
		if o == nil {
			continue
		}
		dir := l.ino
		if dir == 0 {
			dir = l.p.root(o)
		}
		err := syncDir(ctx, &d.c, o, dir)
		l.p.b.leave()
		if err != nil && !l.p.ro(o) {
			return err
		}
	}
	return nil
}

func syncDir(ctx context.Context, c *vfs.Caller, o *opened, dir vfs.Ino) error {
	d, err := o.fs.OpenDir(ctx, c, dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync(ctx)
}

// Close implements vfs.Dir.
func (d *unionDir) Close() error {
	d.ns.unions.hold(d.u.ino, -1)
	return nil
}

// listing collects the names of a union.
type listing struct {
	ns    *FS
	ctx   context.Context
	c     *vfs.Caller
	u     *union
	names map[string][]layerEntry
	nodes map[string]child
}

// layerEntry is an entry of a layer.
type layerEntry struct {
	p    *place
	ino  vfs.Ino
	mode uint32
}

func (e *layerEntry) isDir() bool { return e.mode&syscall.S_IFMT == syscall.S_IFDIR }

// list makes the listing of a union.
func (ns *FS) list(ctx context.Context, c *vfs.Caller, u *union) ([]listed, error) {
	l := &listing{ns: ns, ctx: ctx, c: c, u: u, names: map[string][]layerEntry{}, nodes: map[string]child{}}
	ns.mu.RLock()
	here := ns.nodes[u.path]
	if here != nil {
		for name, n := range here.children {
			l.nodes[name] = child{exists: true, synthetic: n.synthetic(), places: n.places}
		}
	}
	ns.mu.RUnlock()
	layers, node := ns.layersOf(u)
	failed := 0
	var last error
	for _, layer := range layers {
		if err := l.read(layer); err != nil {
			failed++
			last = err
		}
	}
	switch {
	case here == nil && len(layers) == 0:
		return nil, syscall.ENOENT
	case last != nil && failed == len(layers) && len(l.nodes) == 0 && len(layers) == 1 && !node.emptyWhileAbsent():
		return nil, last
	}
	return l.entries(), nil
}

// read reads a layer.
func (l *listing) read(from layer) error {
	o, err := from.p.b.enter(l.ctx)
	if err != nil {
		return err
	}
	defer from.p.b.leave()
	dir := from.ino
	if dir == 0 {
		dir = from.p.root(o)
	}
	d, err := o.fs.OpenDir(l.ctx, l.c, dir)
	if err != nil {
		return err
	}
	defer d.Close()
	var cookie uint64
	for {
		n := 0
		err := d.Read(l.ctx, cookie, false, func(e *vfs.DirEntry) bool {
			n++
			cookie = e.Cookie
			l.names[e.Name] = append(l.names[e.Name], layerEntry{from.p, e.Ino, e.Mode & syscall.S_IFMT})
			return true
		})
		if err != nil || n == 0 {
			break
		}
	}
	for name, entries := range l.names {
		e := &entries[len(entries)-1]
		if e.p == from.p && (e.mode == 0 || e.mode == syscall.S_IFLNK && o.Links != nil) {
			e.mode = linkType(l.ctx, l.c, o, dir, name)
		}
	}
	return err
}

// claimants completes what there is under a name by what is mounted there alone.
func (l *listing) claimants(name string) (entries []layerEntry, node child) {
	entries, node = l.names[name], l.nodes[name]
	if node.exists && !node.synthetic && len(entries) > 0 {
		if cl, err := l.ns.rootClaim(l.ctx, l.c, node.places[0]); err == nil {
			entries = append(entries[:len(entries):len(entries)], layerEntry{cl.p, cl.attr.Ino, cl.attr.Type()})
		}
	}
	return entries, node
}

// conflicts tells whether files of this name are shown under conflict names.
func (l *listing) conflicts(name string, entries []layerEntry, node child) bool {
	return node.synthetic || len(entries) > 1 || l.generated(name)
}

// generated tells whether a name stands for a file in conflict.
func (l *listing) generated(name string) bool {
	true_, id, ok := parseConflictName(name)
	if !ok {
		return false
	}
	entries, node := l.claimants(true_)
	for i := range entries {
		if entries[i].p.m.id == id && !entries[i].isDir() && l.conflicts(true_, entries, node) {
			return true
		}
	}
	return false
}

func (l *listing) entries() []listed {
	var out []listed
	shown := map[string]bool{}
	add := func(e listed) {
		if !shown[e.name] && len(e.name) <= vfs.MaxName {
			shown[e.name] = true
			out = append(out, e)
		}
	}
	for name, node := range l.nodes {
		if len(l.names[name]) == 0 {
			add(l.mountPoint(name, node))
		}
	}
	// Directories first: they keep their names.
	for name := range l.names {
		entries, node := l.claimants(name)
		e := listed{name: name, mode: syscall.S_IFDIR, ino: pseudoIno(path.Join(l.u.path, name))}
		dirs := 0
		for i := range entries {
			if entries[i].isDir() {
				if dirs++; dirs == 1 && !node.synthetic {
					e.ino = l.number(&entries[i])
				} else {
					e.ino = pseudoIno(path.Join(l.u.path, name))
				}
			}
		}
		if dirs > 0 || node.synthetic {
			add(e)
		}
	}
	for name := range l.names {
		entries, node := l.claimants(name)
		as := func(id int) string { return name }
		if l.conflicts(name, entries, node) {
			as = func(id int) string { return conflictName(name, id) }
		}
		for i := range entries {
			if e := &entries[i]; !e.isDir() {
				add(listed{name: as(e.p.m.id), mode: e.mode, ino: l.number(e)})
			}
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].name < out[j].name })
	return out
}

// mountPoint is the entry of what is mounted under a name that no layer has.
func (l *listing) mountPoint(name string, node child) listed {
	full := path.Join(l.u.path, name)
	e := listed{name: name, mode: syscall.S_IFDIR, ino: pseudoIno(full)}
	if node.synthetic {
		for _, p := range node.places {
			e.closed = e.closed || p.b.cur.Load() == nil
		}
		return e
	}
	p := node.places[0]
	if p.m.item.Storage.File {
		e.mode = syscall.S_IFREG
	}
	o := p.b.enterOpen()
	if o == nil {
		e.closed = true
		return e
	}
	defer p.b.leave()
	e.ino = l.number(&layerEntry{p: p, ino: p.root(o)})
	return e
}

// number is the inode number of an entry: what a lookup gives where that is known.
func (l *listing) number(e *layerEntry) vfs.Ino {
	if l.ns.slots.take(e.p) != nil {
		return pseudoIno(e.p.path)
	}
	return vfs.Ino(e.p.slot.Load())<<slotShift | e.ino
}

// pseudoIno is the number of a directory that has none yet, as good as any.
func pseudoIno(p string) vfs.Ino {
	h := fnv.New64a()
	h.Write([]byte(strings.TrimSuffix(p, "/")))
	return vfs.Ino(h.Sum64()&(1<<46-1) | 1<<47)
}
