package fuse

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/vfs"
)

// notifier tells the kernel what it must not believe any more: the tree's remote
// changes. See the package comment for the rules that keep it from deadlocks.
//
// The watch function puts changes into a bounded queue; one goroutine, the
// dispatcher, takes them out. Notifications that cannot block are sent by it
// directly, the others by a few senders, for which it waits a moment only.
type notifier struct {
	door *door

	mu       sync.Mutex
	queue    []vfs.Change
	overflow bool          // the queue was full: everything is to be dropped
	wake     chan struct{} // capacity 1

	senders chan func() // work that may block

	sent, all atomic.Uint64
	dead      atomic.Bool // the connection is gone
}

const (
	notifyQueue   = 8192
	notifySenders = 4
	// entryPatience is how long an entry's invalidation may wait for the
	// directory's lock before the epoch is raised instead.
	entryPatience = 5 * time.Millisecond
)

// start watches the tree until stop is closed.
func (n *notifier) start(d *door, w vfs.Watchable, stop <-chan struct{}, workers *sync.WaitGroup) {
	n.wake = make(chan struct{}, 1)
	n.senders = make(chan func())
	unwatch := w.Watch(n.add)
	workers.Add(1)
	go func() {
		defer workers.Done()
		var senders sync.WaitGroup
		for range notifySenders {
			senders.Add(1)
			go func() {
				defer senders.Done()
				for f := range n.senders {
					f()
				}
			}()
		}
		n.dispatch(stop)
		unwatch()
		close(n.senders)
		senders.Wait() // the connection is gone: none blocks any more
	}()
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
		parent, name := uint64(c.Parent), c.Name
		n.patiently(func() { n.entry(parent, name) }, n.epoch)
		n.data(parent, 0, 0) // the listing, and the directory's times
		if c.Ino != 0 && d.nodes.known(uint64(c.Ino)) {
			n.attributes(uint64(c.Ino)) // link count
		}
	case vfs.ChangeAttr:
		if d.nodes.known(uint64(c.Ino)) {
			n.attributes(uint64(c.Ino))
		}
	case vfs.ChangeData, vfs.ChangeGone:
		if !d.nodes.known(uint64(c.Ino)) {
			return
		}
		off, length := c.Off, c.Len
		if c.Kind == vfs.ChangeGone {
			off, length = 0, -1
		}
		n.data(uint64(c.Ino), off, max(length, 0))
	}
}

// data drops attributes at once, and pages as soon as the kernel lets it.
func (n *notifier) data(ino uint64, off, length int64) {
	n.attributes(ino)
	n.patiently(func() { n.inode(ino, off, length) }, nil)
}

// patiently runs f, which may block in the kernel, on a sender. When it has not
// returned after entryPatience, or no sender is free so long, instead (if not nil)
// makes its effect sure; f is done nevertheless, however late.
func (n *notifier) patiently(f func(), instead func()) {
	timer := time.NewTimer(entryPatience)
	defer timer.Stop()
	done := make(chan struct{})
	work := func() {
		f()
		close(done)
	}
	select {
	case n.senders <- work:
	case <-timer.C:
		if instead != nil {
			instead() // needs no f after it
			return
		}
		n.senders <- work // data must be dropped: wait for a sender
		return
	}
	select {
	case <-done:
	case <-timer.C:
		if instead != nil {
			instead()
		}
	}
}

// dropAll makes the kernel ask anew for everything.
func (n *notifier) dropAll() {
	n.all.Add(1)
	n.epoch()
	n.door.nodes.inos(func(ino uint64) {
		n.attributes(ino)
		n.patiently(func() { n.inode(ino, 0, 0) }, nil)
	})
}

// attributesNow drops cached attributes from a request's goroutine, which is
// allowed as it never waits for locks.
func (n *notifier) attributesNow(ino uint64) { n.attributes(ino) }

// The messages: struct fuse_out_header with the code in place of an errno and
// without a unique number, then the notification (linux/fuse.h).

func (n *notifier) attributes(ino uint64) { n.inode(ino, -1, 0) }

// inode invalidates attributes and, from off >= 0, pages (length 0: to the end).
func (n *notifier) inode(ino uint64, off, length int64) {
	var b [16 + 24]byte
	binary.NativeEndian.PutUint64(b[16:], ino)
	binary.NativeEndian.PutUint64(b[24:], uint64(off))
	binary.NativeEndian.PutUint64(b[32:], uint64(length))
	n.send(b[:], gofuse.NOTIFY_INVAL_INODE)
}

// entry makes a directory forget a name, found or not found.
func (n *notifier) entry(parent uint64, name string) {
	b := make([]byte, 16+16+len(name)+1)
	binary.NativeEndian.PutUint64(b[16:], parent)
	binary.NativeEndian.PutUint32(b[24:], uint32(len(name)))
	copy(b[32:], name)
	n.send(b, gofuse.NOTIFY_INVAL_ENTRY)
}

// epoch makes every name be looked up again at its next use. It never blocks.
func (n *notifier) epoch() {
	var b [16]byte
	n.send(b[:], gofuse.NOTIFY_INC_EPOCH)
}

func (n *notifier) send(b []byte, code int32) {
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint32(b[4:], uint32(code))
	for {
		_, err := unix.Write(n.door.connFd, b)
		switch err {
		case nil:
			n.sent.Add(1)
		case unix.EINTR:
			continue
		case unix.ENOENT, unix.ENOTDIR: // the kernel does not know it (any more)
		case unix.ENODEV, unix.ENOTCONN, unix.EBADF:
			n.dead.Store(true)
		default:
			n.door.complain("notify", syscall.Errno(err.(unix.Errno)))
		}
		return
	}
}
