package fuse

import (
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/massif-fs/massif/vfs"
)

// notifier tells the kernel what it must not believe any more: the tree's remote
// changes. See the package comment for the rules that keep it from deadlocks.
//
// The watch function puts changes into a bounded queue; one goroutine, the
// dispatcher, takes them out and never waits long: notifications that cannot block
// it sends itself; names go to a few senders that it does without if they do not
// get on; pages go to a set that a few droppers empty as fast as the kernel lets
// them.
type notifier struct {
	door *door

	mu       sync.Mutex
	queue    []vfs.Change
	overflow bool          // the queue was full: everything is to be dropped
	wake     chan struct{} // capacity 1

	helpers sync.WaitGroup
	senders chan func() // invalidations of names

	pagesMu sync.Mutex
	more    sync.Cond // pages or closed has changed
	pages   map[uint64]span
	closed  bool

	sent, all atomic.Uint64
}

// span is a range of a file to be dropped; end -1 is the end of the file.
type span struct{ off, end int64 }

const (
	notifyQueue    = 8192
	notifySenders  = 4
	notifyDroppers = 4
	// entryPatience is how long an entry's invalidation may wait for the
	// directory's lock before the epoch is raised instead.
	entryPatience = 5 * time.Millisecond
)

// start watches the tree, by watch, until stop is closed.
func (n *notifier) start(watch func(func(vfs.Change)) func(), add func(vfs.Change), stop <-chan struct{}, workers *sync.WaitGroup) {
	n.wake = make(chan struct{}, 1)
	n.senders = make(chan func())
	n.pages = make(map[uint64]span)
	n.more.L = &n.pagesMu
	unwatch := watch(add)
	workers.Go(func() {
		for range notifySenders {
			n.helpers.Go(func() {
				for f := range n.senders {
					f()
				}
			})
		}
		for range notifyDroppers {
			n.helpers.Go(n.dropPages)
		}
		n.dispatch(stop)
		unwatch()
		close(n.senders)
		n.pagesMu.Lock()
		n.closed = true
		n.pagesMu.Unlock()
		n.more.Broadcast()
		n.helpers.Wait() // the connection is gone: none blocks any more
	})
}

// add is the watch function: it must not block.
func (n *notifier) add(c vfs.Change) {
	if !c.Remote {
		return // the kernel has seen it happen
	}
	n.mu.Lock()
	switch {
	case n.overflow:
	case c.Kind == vfs.ChangeAll || len(n.queue) >= notifyQueue:
		n.overflow = true
		n.queue = n.queue[:0]
	default:
		n.queue = append(n.queue, c)
	}
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *notifier) dispatch(stop <-chan struct{}) {
	var batch []vfs.Change
	for {
		select {
		case <-stop:
			return
		case <-n.wake:
		}
		n.mu.Lock()
		batch, n.queue = n.queue, batch[:0]
		everything := n.overflow
		n.overflow = false
		n.mu.Unlock()
		if everything {
			n.dropAll()
		}
		for i := range batch {
			n.handle(&batch[i])
		}
	}
}

func (n *notifier) handle(c *vfs.Change) {
	d := n.door
	switch c.Kind {
	case vfs.ChangeEntry:
		if !d.nodes.known(uint64(c.Parent)) {
			return
		}
		n.name(uint64(c.Parent), c.Name)
		n.data(uint64(c.Parent), 0, -1) // the listing, and the directory's times
		if c.Ino != 0 && d.nodes.known(uint64(c.Ino)) {
			n.attributes(uint64(c.Ino)) // link count
		}
	case vfs.ChangeAttr:
		if d.nodes.known(uint64(c.Ino)) {
			n.attributes(uint64(c.Ino))
		}
	case vfs.ChangeData:
		if d.nodes.known(uint64(c.Ino)) {
			end := int64(-1)
			if c.Len >= 0 {
				end = c.Off + c.Len
			}
			n.data(uint64(c.Ino), c.Off, end)
		}
	case vfs.ChangeGone:
		if d.nodes.known(uint64(c.Ino)) {
			n.data(uint64(c.Ino), 0, -1)
		}
	}
}

// name makes the kernel forget a name. Where that does not get on, since a request
// runs in the directory, it makes it look up all names anew instead.
func (n *notifier) name(parent uint64, name string) {
	timer := time.NewTimer(entryPatience)
	defer timer.Stop()
	done := make(chan struct{})
	select {
	case n.senders <- func() { n.entry(parent, name); close(done) }:
	case <-timer.C:
		n.epoch()
		return
	}
	select {
	case <-done:
	case <-timer.C:
		n.epoch()
	}
}

// data drops attributes at once, and pages as soon as the kernel lets it. The set
// of pages to drop is bounded by the inodes that the kernel knows.
func (n *notifier) data(ino uint64, off, end int64) {
	n.attributes(ino)
	n.pagesMu.Lock()
	if s, ok := n.pages[ino]; ok {
		off = min(off, s.off)
		if s.end < 0 || end < 0 {
			end = -1
		} else {
			end = max(end, s.end)
		}
	}
	n.pages[ino] = span{off, end}
	n.pagesMu.Unlock()
	n.more.Signal()
}

// stopped tells whether the mount is gone.
func (n *notifier) stopped() bool {
	n.pagesMu.Lock()
	defer n.pagesMu.Unlock()
	return n.closed
}

// listing drops a directory's listing, once those under way have been read.
func (n *notifier) listing(dir uint64) {
	n.helpers.Go(func() {
		n.entry(dir, noName)
		n.inode(dir, 0, 0)
	})
}

// dropPages is the work of a dropper. An invalidation of pages waits while the
// kernel reads one of them.
func (n *notifier) dropPages() {
	n.pagesMu.Lock()
	defer n.pagesMu.Unlock()
	for {
		for len(n.pages) == 0 && !n.closed {
			n.more.Wait()
		}
		if n.closed {
			return
		}
		for ino, s := range n.pages { // any one
			delete(n.pages, ino)
			n.pagesMu.Unlock()
			if s.end < 0 {
				n.inode(ino, s.off, 0)
			} else if s.end > s.off {
				n.inode(ino, s.off, s.end-s.off)
			}
			n.pagesMu.Lock()
			break
		}
	}
}

// dropAll makes the kernel ask anew for everything.
func (n *notifier) dropAll() {
	n.all.Add(1)
	n.epoch()
	n.door.nodes.inos(func(ino uint64) bool { n.data(ino, 0, -1); return true })
}

// attributesNow drops cached attributes from a request's goroutine, which is
// allowed as it never waits for locks.
func (n *notifier) attributesNow(ino uint64) { n.attributes(ino) }

func (n *notifier) attributes(ino uint64) { n.inode(ino, -1, 0) }

// inode invalidates attributes and, from off >= 0, pages (length 0: to the end).
func (n *notifier) inode(ino uint64, off, length int64) syscall.Errno {
	errno := n.door.conn.InvalInode(ino, off, length)
	n.sentTo(errno)
	return errno
}

// entry makes a directory forget a name, found or not found.
func (n *notifier) entry(parent uint64, name string) {
	n.sentTo(n.door.conn.InvalEntry(parent, name, 0))
}

// epoch makes every name be looked up again at its next use. It never blocks.
func (n *notifier) epoch() { n.sentTo(n.door.conn.IncEpoch()) }

// sentTo takes note of what a notification has come to.
func (n *notifier) sentTo(errno syscall.Errno) {
	switch errno {
	case 0:
		n.sent.Add(1)
	case syscall.ENOENT, syscall.ENOTDIR: // the kernel does not know it (any more)
	case syscall.ENODEV, syscall.ENOTCONN, syscall.EBADF: // it is gone
	default:
		n.door.complain("notify", errno)
	}
}
