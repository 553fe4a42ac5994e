package namespace

import (
	"context"
	"path"
	"strings"
	"sync"

	"github.com/massif-fs/massif/vfs"
)

// Watch implements vfs.Watchable.
func (ns *FS) Watch(fn func(vfs.Change)) (stop func()) { return ns.feed.Watch(fn) }

// changedPaths are mount paths at which something was mounted or unmounted.
type changedPaths []string

func (c *changedPaths) add(p string) { *c = append(*c, p) }

// maxPathChanges is how many mount paths are told one by one.
const maxPathChanges = 256

// tellPaths has the names on the way to mount paths looked up anew.
func (ns *FS) tellPaths(changed changedPaths) {
	if len(changed) == 0 {
		return
	}
	if len(changed) > maxPathChanges {
		ns.feed.Send(vfs.Change{Kind: vfs.ChangeAll, Remote: true})
		return
	}
	told := map[string]bool{}
	for _, p := range changed {
		if p == "/" { // everything may have merged
			ns.feed.Send(vfs.Change{Kind: vfs.ChangeAll, Remote: true})
			return
		}
		at := "/"
		for _, name := range strings.Split(p[1:], "/") {
			full := path.Join(at, name)
			u := ns.unions.find(at)
			if u == nil {
				break // nobody has seen what is below
			}
			if !told[full] {
				told[full] = true
				ns.feed.Send(vfs.Change{Kind: vfs.ChangeEntry, Parent: u.ino, Name: name, Remote: true})
				ns.feed.Send(vfs.Change{Kind: vfs.ChangeAttr, Ino: u.ino, Remote: true})
			}
			at = full
		}
	}
}

// view is a way in which an inode of a storage is seen.
type view struct {
	ino vfs.Ino
	u   *union // not nil where it is a layer of a union
}

// viewsOf lists how a directory or file of a backend may be known to a door.
func (ns *FS) viewsOf(b *backend, o *opened, ino vfs.Ino) (out []view) {
	add := func(p *place) {
		if slot := p.slot.Load(); slot != 0 {
			out = append(out, view{ino: vfs.Ino(slot)<<slotShift | ino})
		}
		if u := ns.unions.with(layer{p, ino}); u != nil {
			out = append(out, view{ino: u.ino, u: u})
		}
		if p.link == nil && ino == o.root {
			if u := ns.unions.find(p.path); u != nil {
				out = append(out, view{ino: u.ino, u: u})
			}
		}
	}
	ns.mu.RLock()
	places := b.places
	ns.mu.RUnlock()
	for _, p := range places {
		add(p)
	}
	if ns.slots.hasLinks() {
		for _, p := range ns.slots.linksOf(b) {
			add(p)
		}
	}
	return out
}

// own tells of a change that was made through the namespace, in inode numbers of the storage.
// at is the inode that the door named: who asked there knows of it.
func (ns *FS) own(p *place, o *opened, at vfs.Ino, ch vfs.Change) {
	ns.tell(p.b, o, at, p, ch)
}

// remote tells of a change that was not.
func (ns *FS) remote(b *backend, o *opened, ch vfs.Change) { ns.tell(b, o, 0, nil, ch) }

func (ns *FS) tell(b *backend, o *opened, at vfs.Ino, through *place, ch vfs.Change) {
	where := ch.Ino
	if ch.Kind == vfs.ChangeEntry {
		where = ch.Parent
	}
	if ch.Kind == vfs.ChangeAll {
		ns.feed.Send(vfs.Change{Kind: vfs.ChangeAll, Remote: true})
		return
	}
	for _, v := range ns.viewsOf(b, o, where) {
		seen := ch
		seen.Remote = v.ino != at
		if ch.Kind != vfs.ChangeEntry {
			seen.Ino = v.ino
			ns.feed.Send(seen)
			continue
		}
		seen.Parent = v.ino
		seen.Ino = 0
		if ch.Ino != 0 && through != nil && !seen.Remote {
			seen.Ino = ch.Ino | vfs.Ino(through.slot.Load())<<slotShift
		}
		ns.feed.Send(seen)
		if v.u != nil {
			ns.tellConflicts(v.u, b, ch.Name)
		}
	}
}

// tellConflicts has a name and all that stand for it in a union looked up anew, if
// others than the backend that changed have it: with a file that comes or goes, others get
// or lose their conflict names.
func (ns *FS) tellConflicts(u *union, changed *backend, name string) {
	ctx, c := context.Background(), &vfs.Caller{}
	layers, _ := ns.layersOf(u)
	if len(layers) < 2 {
		return
	}
	var also []string
	for _, l := range layers {
		if l.p.b == changed {
			also = append(also, conflictName(name, l.p.m.id))
		} else if _, err := ns.claimIn(ctx, c, l, name); err == nil {
			also = append(also, name, conflictName(name, l.p.m.id))
		}
	}
	if len(also) < 2 {
		return
	}
	for _, n := range also {
		ns.feed.Send(vfs.Change{Kind: vfs.ChangeEntry, Parent: u.ino, Name: n, Remote: true})
	}
}

// feedQueue is how many changes of a storage's own feed may wait to be told.
const feedQueue = 4096

// watchFeed passes on what the storage's tree tells of others' changes. A watch function
// must not wait, so that a goroutine does it.
func (o *opened) watchFeed(b *backend) {
	w, ok := o.fs.(vfs.Watchable)
	if !ok {
		return
	}
	var (
		mu       sync.Mutex
		queue    []vfs.Change
		overflow bool
		wake     = make(chan struct{}, 1)
		quit     = make(chan struct{})
		done     = make(chan struct{})
	)
	unwatch := w.Watch(func(ch vfs.Change) {
		if !ch.Remote {
			return
		}
		mu.Lock()
		if len(queue) < feedQueue {
			queue = append(queue, ch)
		} else {
			overflow = true
		}
		mu.Unlock()
		select {
		case wake <- struct{}{}:
		default:
		}
	})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			case <-wake:
			}
			mu.Lock()
			batch, lost := queue, overflow
			queue, overflow = nil, false
			mu.Unlock()
			if lost {
				batch = []vfs.Change{{Kind: vfs.ChangeAll, Remote: true}}
			}
			for _, ch := range batch {
				b.ns.remote(b, o, ch)
				b.watches.fromFeed(o, ch)
			}
		}
	}()
	o.stop = func() {
		unwatch()
		close(quit)
		<-done
	}
}
