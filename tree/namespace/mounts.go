package namespace

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/massif-fs/massif/vfs"
)

// Options say how a namespace behaves.
type Options struct {
	// UID and GID own the directories that no storage has.
	UID, GID uint32
	// Valid is how long doors may believe names and attributes without asking again,
	// if no Change says otherwise.
	Valid time.Duration
	// ReadOnly makes every change fail with EROFS.
	ReadOnly bool
	// UnmountPatience is how long Unmount waits for calls under way, and for the
	// storage to close. Default 10 s.
	UnmountPatience time.Duration
}

// Item is what Mount mounts.
type Item struct {
	// Paths are where: absolute, without "..". The first is the main path, at which
	// there may be one mounted item only.
	Paths    []string
	Storage  Storage
	ReadOnly bool
	// Remount has what is mounted at the main path unmounted first.
	Remount bool
	// Info is kept for List.
	Info any
}

// Mounted is an item that is mounted.
type Mounted struct {
	ID       int
	Paths    []string // clean, as often as they were given
	ReadOnly bool
	Info     any
	// Err is why the storage could not be opened, when that was tried last.
	Err error
}

// known is an error whose text clients of the original driver know, with its capital letter.
type known string

func (e known) Error() string { return string(e) }

// ErrMounted is wrapped by errors of items whose main path is taken.
var ErrMounted error = known("Storage already mounted under main path")

// ErrUnknown is wrapped by errors about an id that nothing mounted has.
var ErrUnknown = errors.New("storage not found")

// mounted is an item that is mounted.
type mounted struct {
	id     int
	item   Item
	paths  []string
	places []*place
	b      *backend
}

// node is a name in the tree of mount paths. "/" is always there.
type node struct {
	path     string
	children map[string]*node
	places   []*place // in mount order
}

// synthetic tells whether a node is a directory whatever its storages say.
func (n *node) synthetic() bool { return n != nil && (len(n.children) > 0 || len(n.places) != 1) }

// FS is a namespace. All methods may be called concurrently.
type FS struct {
	opts Options

	mu       sync.RWMutex
	nodes    map[string]*node
	mounted  map[int]*mounted
	mains    map[string]*mounted
	backends map[string]*backend
	lastID   int
	closed   bool
	unions   unionTable
	slots    slotTable

	feed    vfs.Feed
	closers sync.WaitGroup // of backends that are being closed
}

// New makes a namespace in which nothing is mounted.
func New(o Options) *FS {
	if o.UnmountPatience == 0 {
		o.UnmountPatience = 10 * time.Second
	}
	ns := &FS{
		opts: o, nodes: map[string]*node{"/": {path: "/"}}, mounted: map[int]*mounted{}, mains: map[string]*mounted{}, backends: map[string]*backend{},
	}
	ns.unions.init()
	return ns
}

// cleanPath checks a mount path and takes "." and empty components away.
func cleanPath(p string) (string, error) {
	if !strings.HasPrefix(p, "/") {
		return "", fmt.Errorf("mount path %q is not absolute", p)
	}
	for _, part := range strings.Split(p, "/") {
		if part == ".." {
			return "", fmt.Errorf("mount path %q has a \"..\" in it", p)
		}
		if part == "" || part == "." {
			continue
		}
		if err := vfs.CheckName(part); err != nil {
			return "", fmt.Errorf("mount path %q: %w", p, err)
		}
	}
	return path.Clean(p), nil
}

// Mount mounts items in their order and returns their ids, 0 for one that was refused, and
// the errors of these, joined in order. Unless lazy it opens each storage first and
// refuses those that cannot be opened (what does not exist yet, see Absent, can).
func (ns *FS) Mount(ctx context.Context, items []Item, lazy bool) (ids []int, errs []error) {
	ids = make([]int, len(items))
	var closing []*backend
	var changed changedPaths
	for i := range items {
		id, old, err := ns.mountOne(ctx, &items[i], lazy, &changed)
		ids[i] = id
		if err != nil {
			errs = append(errs, err)
		}
		if old != nil {
			closing = append(closing, old)
		}
	}
	ns.tellPaths(changed)
	for _, b := range closing {
		if err := ns.shutBackend(b); err != nil {
			errs = append(errs, err)
		}
	}
	return ids, errs
}

// mountOne mounts an item. old is a backend that lost its last user by that.
func (ns *FS) mountOne(ctx context.Context, item *Item, lazy bool, changed *changedPaths) (id int, old *backend, err error) {
	if len(item.Paths) == 0 {
		return 0, nil, errors.New("a storage needs a mount path")
	}
	m := &mounted{item: *item}
	for _, p := range item.Paths {
		clean, err := cleanPath(p)
		if err != nil {
			return 0, nil, err
		}
		m.paths = append(m.paths, clean)
	}

	ns.mu.Lock()
	if ns.closed {
		ns.mu.Unlock()
		return 0, nil, syscall.EIO
	}
	if err := ns.mainFreeLocked(m); err != nil {
		ns.mu.Unlock()
		return 0, nil, err
	}
	m.b = ns.backendLocked(item.Storage)
	ns.mu.Unlock()

	if !lazy { // outside of the lock, before anything is seen
		_, err := m.b.enter(ctx)
		switch {
		case err == nil:
			m.b.leave()
		case !IsAbsent(err):
			ns.mu.Lock()
			unused := ns.dropBackendLocked(m.b)
			ns.mu.Unlock()
			if cause := m.b.why(); cause != nil {
				err = cause
			}
			return 0, unused, fmt.Errorf("%s: %w", m.paths[0], err)
		}
	}

	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.closed {
		return 0, ns.dropBackendLocked(m.b), syscall.EIO
	}
	if err := ns.mainFreeLocked(m); err != nil { // somebody was quicker
		return 0, ns.dropBackendLocked(m.b), err
	}
	if last := ns.mains[m.paths[0]]; last != nil {
		old = ns.removeLocked(last, changed)
	}
	ns.lastID++
	m.id = ns.lastID
	ns.mounted[m.id] = m
	ns.mains[m.paths[0]] = m
	for i, p := range m.paths {
		if !containsString(m.paths[:i], p) {
			ns.addPlaceLocked(m, p)
			changed.add(p)
		}
	}
	return m.id, old, nil
}

func (ns *FS) mainFreeLocked(m *mounted) error {
	if ns.mains[m.paths[0]] != nil && !m.item.Remount {
		return fmt.Errorf("%w: %s", ErrMounted, m.paths[0])
	}
	return nil
}

func containsString(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// backendLocked finds or makes the backend of a storage and counts a user.
func (ns *FS) backendLocked(s Storage) *backend {
	b := ns.backends[s.Key]
	if s.Key == "" || b == nil {
		b = newBackend(ns, s.Key, s.Open)
		if s.Key != "" {
			ns.backends[s.Key] = b
		}
	}
	b.refs++
	return b
}

// dropBackendLocked takes a user back and returns the backend if that was the last.
func (ns *FS) dropBackendLocked(b *backend) *backend {
	if b.refs--; b.refs > 0 {
		return nil
	}
	if ns.backends[b.key] == b {
		delete(ns.backends, b.key)
	}
	return b
}

func (ns *FS) addPlaceLocked(m *mounted, p string) {
	pl := &place{m: m, b: m.b, path: p}
	pl.readOnly = m.item.ReadOnly || ns.opts.ReadOnly
	m.places = append(m.places, pl)
	m.b.places = append(m.b.places, pl)
	n := ns.nodeLocked(p)
	n.places = append(n.places, pl)
}

// nodeLocked finds or makes the node of a path and those above it.
func (ns *FS) nodeLocked(p string) *node {
	if n := ns.nodes[p]; n != nil {
		return n
	}
	up := ns.nodeLocked(path.Dir(p))
	n := &node{path: p}
	if up.children == nil {
		up.children = map[string]*node{}
	}
	up.children[path.Base(p)] = n
	ns.nodes[p] = n
	return n
}

// removeLocked takes a mounted item out of the tree and returns its backend if nobody
// else uses that.
func (ns *FS) removeLocked(m *mounted, changed *changedPaths) *backend {
	delete(ns.mounted, m.id)
	if ns.mains[m.paths[0]] == m {
		delete(ns.mains, m.paths[0])
	}
	for _, pl := range m.places {
		n := ns.nodes[pl.path]
		n.places = withoutPlace(n.places, pl)
		for n.path != "/" && len(n.places) == 0 && len(n.children) == 0 {
			delete(ns.nodes, n.path)
			up := ns.nodes[path.Dir(n.path)]
			delete(up.children, path.Base(n.path))
			n = up
		}
		changed.add(pl.path)
	}
	for _, pl := range m.places {
		m.b.places = withoutPlace(m.b.places, pl)
		pl.dead.Store(true)
	}
	for _, pl := range ns.slots.linksOf(m.b) {
		if pl.m == m {
			pl.dead.Store(true)
		}
	}
	m.b.watches.stopOf(m.id)
	return ns.dropBackendLocked(m.b)
}

func withoutPlace(list []*place, pl *place) []*place {
	out := list[:0:0]
	for _, x := range list {
		if x != pl {
			out = append(out, x)
		}
	}
	return out
}

// Unmount unmounts an item. Its name is gone at once; then Unmount waits until the
// calls under way are done and, if nobody else uses the storage, until that is
// closed, whose error it returns. ErrUnknown.
func (ns *FS) Unmount(ctx context.Context, id int) error {
	ns.mu.Lock()
	m := ns.mounted[id]
	if m == nil {
		ns.mu.Unlock()
		return fmt.Errorf("%w: %d", ErrUnknown, id)
	}
	var changed changedPaths
	b := ns.removeLocked(m, &changed)
	ns.mu.Unlock()
	ns.tellPaths(changed)
	if b == nil {
		return nil
	}
	return ns.shutBackend(b)
}

// shutBackend closes a backend that has no users, and waits for that as long as it
// is patient.
func (ns *FS) shutBackend(b *backend) error {
	done := make(chan error, 1)
	ns.closers.Go(func() { done <- b.shut() })
	timer := time.NewTimer(ns.opts.UnmountPatience)
	defer timer.Stop()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("unmounted, but not closed cleanly: %w", err)
		}
		return nil
	case <-timer.C:
		return nil // it goes on behind; Close waits for it
	}
}

// List returns what is mounted, in the order of mounting.
func (ns *FS) List() []Mounted {
	ns.mu.RLock()
	all := make([]*mounted, 0, len(ns.mounted))
	for _, m := range ns.mounted {
		all = append(all, m)
	}
	ns.mu.RUnlock()
	sort.Slice(all, func(i, j int) bool { return all[i].id < all[j].id })
	out := make([]Mounted, len(all))
	for i, m := range all {
		out[i] = m.describe()
	}
	return out
}

func (m *mounted) describe() Mounted {
	return Mounted{ID: m.id, Paths: m.paths, ReadOnly: m.item.ReadOnly, Info: m.item.Info, Err: m.b.why()}
}

// Get returns a mounted item: ErrUnknown.
func (ns *FS) Get(id int) (Mounted, error) {
	ns.mu.RLock()
	m := ns.mounted[id]
	ns.mu.RUnlock()
	if m == nil {
		return Mounted{}, fmt.Errorf("%w: %d", ErrUnknown, id)
	}
	return m.describe(), nil
}

// ClearCache drops what is cached of a storage (id 0: of all that are open), in it and in
// the kernel: ErrUnknown.
func (ns *FS) ClearCache(ctx context.Context, id int) error {
	ns.mu.RLock()
	var list []*backend
	for _, m := range ns.mounted {
		if id == 0 || m.id == id {
			list = append(list, m.b)
		}
	}
	ns.mu.RUnlock()
	if id != 0 && len(list) == 0 {
		return fmt.Errorf("%w: %d", ErrUnknown, id)
	}
	var errs []error
	for _, b := range list {
		b.mu.Lock()
		b.failedAt = time.Time{} // the next call tries again
		b.mu.Unlock()
		o := b.enterOpen()
		if o == nil {
			continue
		}
		if o.ClearCache != nil {
			errs = append(errs, o.ClearCache(ctx))
		}
		b.leave()
	}
	ns.feed.Send(vfs.Change{Kind: vfs.ChangeAll, Remote: true})
	return errors.Join(errs...)
}

// Close implements vfs.FS: it unmounts everything.
func (ns *FS) Close() error {
	ns.mu.Lock()
	ns.closed = true
	var changed changedPaths
	var list []*backend
	for _, m := range ns.mounted {
		if b := ns.removeLocked(m, &changed); b != nil {
			list = append(list, b)
		}
	}
	ns.mu.Unlock()
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	limit := make(chan struct{}, 32)
	for i, b := range list {
		limit <- struct{}{}
		wg.Go(func() { errs[i] = b.shut(); <-limit })
	}
	wg.Wait()
	ns.closers.Wait()
	return errors.Join(errs...)
}

// Sync implements vfs.FS.
func (ns *FS) Sync(ctx context.Context) error {
	ns.mu.RLock()
	list := map[*backend]bool{}
	for _, m := range ns.mounted {
		list[m.b] = true
	}
	ns.mu.RUnlock()
	var errs []error
	for b := range list {
		if o := b.enterOpen(); o != nil {
			errs = append(errs, o.fs.Sync(ctx))
			b.leave()
		}
	}
	return errors.Join(errs...)
}
