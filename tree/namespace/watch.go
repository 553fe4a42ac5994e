package namespace

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/massif-fs/massif/vfs"
)

// EventType is what an event tells of.
type EventType string

const (
	EventCreate   EventType = "create"
	EventDelete   EventType = "delete"
	EventModify   EventType = "modify"
	EventOverflow EventType = "overflow" // some were lost
)

// Event is a change of a file or directory of a storage. Path is relative to the
// storage's root.
type Event struct {
	Type EventType
	Path string
}

// WatchOptions say what a watch is told.
type WatchOptions struct {
	// Pattern is matched from the right, component by component, as path.Match
	// does; "[!a]" is "[^a]". So "*" matches everything, "*.txt" d/a.txt.
	Pattern string
	// IgnoreOwn leaves out what was done through the namespace, for storages that
	// hear of what others do.
	IgnoreOwn bool
}

// watch is a subscription to the events of one mounted item.
type watch struct {
	id        int // of the mounted
	pattern   []string
	ignoreOwn bool
	fn        func([]Event)
}

// watchSet are the watches of a backend.
type watchSet struct {
	b      *backend
	active atomic.Bool

	mu      sync.Mutex
	list    map[*watch]struct{}
	stop    func() // of the backend's watcher; nil if that does not run
	sourced bool   // the backend's watcher tells of own changes, too
	recent  map[Event]time.Time
}

// ParsePattern checks a pattern: it must not be empty or begin with a slash.
func ParsePattern(pattern string) ([]string, error) {
	if strings.HasPrefix(pattern, "/") {
		return nil, known("Pattern should not start with /")
	}
	var parts []string
	for _, part := range strings.Split(pattern, "/") {
		if part == "" || part == "." {
			continue
		}
		part = strings.ReplaceAll(part, "[!", "[^")
		if _, err := path.Match(part, ""); err != nil {
			return nil, fmt.Errorf("pattern %q is malformed", pattern)
		}
		parts = append(parts, part)
	}
	if len(parts) == 0 {
		return nil, errors.New("the pattern is empty")
	}
	return parts, nil
}

func matches(pattern []string, p string) bool {
	parts := strings.Split(p, "/")
	if len(pattern) > len(parts) {
		return false
	}
	parts = parts[len(parts)-len(pattern):]
	for i := range pattern {
		if ok, err := path.Match(pattern[i], parts[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// WatchStorage calls fn with the events of a mounted item that fit, from any goroutine, one
// call at a time; fn must not wait. stop ends that; so does unmounting. ErrUnknown.
func (ns *FS) WatchStorage(ctx context.Context, id int, o WatchOptions, fn func([]Event)) (stop func(), err error) {
	pattern, err := ParsePattern(o.Pattern)
	if err != nil {
		return nil, err
	}
	ns.mu.RLock()
	m := ns.mounted[id]
	ns.mu.RUnlock()
	if m == nil {
		return nil, fmt.Errorf("%w: %d", ErrUnknown, id)
	}
	w := &watch{id: id, pattern: pattern, ignoreOwn: o.IgnoreOwn, fn: fn}
	if err := m.b.watches.start(ctx, w); err != nil {
		return nil, err
	}
	return func() { m.b.watches.end(w) }, nil
}

// start adds a watch; the first one starts the backend's watcher.
func (s *watchSet) start(ctx context.Context, w *watch) error {
	o, err := s.b.enter(ctx)
	if err != nil && !IsAbsent(err) {
		return err
	}
	if err == nil {
		defer s.b.leave()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.list == nil {
		s.list = map[*watch]struct{}{}
	}
	if o != nil && o.Watch != nil && s.stop == nil {
		stop, err := o.Watch(s.fromBackend)
		if err != nil {
			return fmt.Errorf("watching: %w", err)
		}
		s.stop, s.sourced = stop, true
	}
	s.list[w] = struct{}{}
	s.active.Store(true)
	return nil
}

// end removes a watch; the last one stops the backend's watcher.
func (s *watchSet) end(w *watch) {
	s.mu.Lock()
	delete(s.list, w)
	stop := s.settleLocked()
	s.mu.Unlock()
	if stop != nil {
		stop()
	}
}

func (s *watchSet) settleLocked() (stop func()) {
	if len(s.list) > 0 {
		return nil
	}
	stop, s.stop, s.sourced, s.recent = s.stop, nil, false, nil
	s.active.Store(false)
	return stop
}

// stopOf removes the watches of a mounted item that is unmounted.
func (s *watchSet) stopOf(id int) {
	s.mu.Lock()
	for w := range s.list {
		if w.id == id {
			delete(s.list, w)
		}
	}
	stop := s.settleLocked()
	s.mu.Unlock()
	if stop != nil {
		s.b.ns.closers.Go(stop) // the caller holds a lock
	}
}

func (s *watchSet) stopAll() {
	s.mu.Lock()
	clear(s.list)
	stop := s.settleLocked()
	s.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// fromBackend distributes what the backend's watcher has seen. What others did is also told
// to doors, before it is told to watches.
func (s *watchSet) fromBackend(events []Event) {
	s.mu.Lock()
	own := make([]bool, len(events))
	for i, e := range events {
		at, ok := s.recent[e]
		own[i] = ok && time.Since(at) < ownEcho
	}
	s.mu.Unlock()
	if o := s.b.enterOpen(); o != nil {
		for i, e := range events {
			if !own[i] {
				s.b.foreign(o, e)
			}
		}
		s.b.leave()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sendLocked(events, own)
}

// foreign tells doors of a change that others made in the storage.
func (b *backend) foreign(o *opened, e Event) {
	if e.Type == EventOverflow {
		b.ns.feed.Send(vfs.Change{Kind: vfs.ChangeAll, Remote: true})
		return
	}
	ctx, c := context.Background(), &vfs.Caller{}
	a := vfs.Attr{Ino: o.root}
	dir, name := path.Split(e.Path)
	for _, part := range strings.Split(strings.Trim(dir, "/"), "/") {
		if part != "" && o.fs.Lookup(ctx, c, a.Ino, part, &a) != nil {
			return // it is gone: what was told of it says so
		}
	}
	parent := a.Ino
	if e.Type != EventModify {
		b.ns.remote(b, o, vfs.Change{Kind: vfs.ChangeEntry, Parent: parent, Name: name})
		return
	}
	if o.fs.Lookup(ctx, c, parent, name, &a) == nil {
		b.ns.remote(b, o, vfs.Change{Kind: vfs.ChangeData, Ino: a.Ino, Len: -1})
	}
}

// sendLocked gives each watch what fits. own tells which are own changes.
func (s *watchSet) sendLocked(events []Event, own []bool) {
	for w := range s.list {
		var fit []Event
		for i, e := range events {
			if w.ignoreOwn && own[i] {
				continue
			}
			if e.Type == EventOverflow || matches(w.pattern, e.Path) {
				fit = append(fit, e)
			}
		}
		if len(fit) > 0 {
			w.fn(fit)
		}
	}
}

const (
	// ownEcho is how long after an own change the backend's watcher may tell of it.
	ownEcho = 5 * time.Second
	// maxRecent bounds the own changes that are remembered for that.
	maxRecent = 4096
)

// did tells of an own change of what is called name in dir.
func (s *watchSet) did(o *opened, t EventType, dir vfs.Ino, name string) {
	if !s.active.Load() {
		return
	}
	at, ok := s.b.pathOf(o, dir)
	if !ok {
		return
	}
	s.didPath(o, t, path.Join(at, name))
}

// didInode is did for an inode.
func (s *watchSet) didInode(o *opened, t EventType, ino vfs.Ino) {
	if !s.active.Load() {
		return
	}
	if at, ok := s.b.pathOf(o, ino); ok && at != "" {
		s.didPath(o, t, at)
	}
}

func (s *watchSet) didPath(o *opened, t EventType, p string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := Event{t, p}
	if !s.sourced {
		// Where nobody else tells of changes, own ones are all there is.
		_, feeds := o.fs.(vfs.Watchable)
		s.sendLocked([]Event{e}, []bool{feeds})
		return
	}
	if s.recent == nil {
		s.recent = map[Event]time.Time{}
	}
	if len(s.recent) >= maxRecent {
		for old, at := range s.recent {
			if time.Since(at) >= ownEcho {
				delete(s.recent, old)
			}
		}
		if len(s.recent) >= maxRecent {
			clear(s.recent)
		}
	}
	s.recent[e] = time.Now()
}

// fromFeed makes events of the feed of the storage's tree. It asks the tree nothing.
func (s *watchSet) fromFeed(o *opened, ch vfs.Change) {
	if !s.active.Load() {
		return
	}
	var e Event
	switch ch.Kind {
	case vfs.ChangeEntry:
		at, ok := s.b.pathOf(o, ch.Parent)
		if !ok {
			return
		}
		e = Event{EventCreate, path.Join(at, ch.Name)}
		if ch.Ino == 0 {
			e.Type = EventDelete
		}
	case vfs.ChangeData, vfs.ChangeAttr:
		at, ok := s.b.pathOf(o, ch.Ino)
		if !ok || at == "" {
			return
		}
		e = Event{EventModify, at}
	case vfs.ChangeAll:
		e = Event{Type: EventOverflow}
	default:
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.sourced {
		s.sendLocked([]Event{e}, []bool{false})
	}
}

// nameTable remembers under which name inodes were found, for events of storages that
// cannot tell paths.
type nameTable struct {
	mu sync.Mutex
	m  map[vfs.Ino]nameEntry
}

type nameEntry struct {
	dir  vfs.Ino
	name string
}

// maxNames bounds the table; beyond, it begins anew.
const maxNames = 1 << 18

func (t *nameTable) learn(dir vfs.Ino, name string, ino vfs.Ino) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e, ok := t.m[ino]; ok && e.dir == dir && e.name == name {
		return
	}
	if t.m == nil || len(t.m) >= maxNames {
		t.m = make(map[vfs.Ino]nameEntry)
	}
	t.m[ino] = nameEntry{dir, strings.Clone(name)}
}

func (t *nameTable) forget(ino vfs.Ino) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, ino)
}

// learn notes where an inode was found.
func (o *opened) learn(dir vfs.Ino, name string, ino vfs.Ino) {
	if o.PathOf == nil {
		o.names.learn(dir, name, ino)
	}
}

// pathOf is the path of an inode relative to the storage's root, if it is known.
func (b *backend) pathOf(o *opened, ino vfs.Ino) (string, bool) {
	if o.PathOf != nil {
		return o.PathOf(ino)
	}
	o.names.mu.Lock()
	defer o.names.mu.Unlock()
	var parts []string
	for depth := 0; ino != o.root; depth++ {
		e, ok := o.names.m[ino]
		if !ok || depth > 4096 {
			return "", false
		}
		parts = append(parts, e.name)
		ino = e.dir
	}
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(parts, "/"), true
}
