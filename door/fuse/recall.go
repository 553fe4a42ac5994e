package fuse

import (
	"syscall"
	"time"

	"github.com/massif-fs/massif/vfs"
)

// Recalls: somebody else is about to make a change and waits until the kernel does not
// believe the opposite any more. Each recall has a goroutine of its own, because some
// wait for the kernel's locks; there are as many as the tree has recalls under way.

const (
	// entryStep is how often it is looked at why the invalidation of a name waits.
	entryStep = entryPatience
	// entryLimit is how long it may wait for others than requests that change the
	// directory: these end by themselves.
	entryLimit = time.Second
	// pageLimit is how long pages may stay locked, by a READ or WRITE that the tree
	// does not answer, before the change goes on all the same. They are dropped then
	// as soon as that is possible.
	pageLimit = 5 * time.Second
	// unknownLimit is how long the kernel may take to learn of an inode from a reply.
	unknownLimit = time.Second
)

// addRecall is the watch function of recalls: it must not block.
func (n *notifier) addRecall(c vfs.Change) {
	d := n.door
	switch c.Kind {
	case vfs.ChangeAll:
		d.recalls.add(everything)
	case vfs.ChangeEntry:
		d.recalls.add(uint64(c.Parent))
	default:
		d.recalls.add(uint64(c.Ino))
	}
	n.helpers.Go(func() {
		defer c.Ack.Done()
		n.recall(&c)
	})
}

// recall returns when the kernel has dropped what c makes untrue.
func (n *notifier) recall(c *vfs.Change) {
	switch c.Kind {
	case vfs.ChangeEntry:
		if parent := uint64(c.Parent); n.door.nodes.known(parent) {
			n.surelyAttributes(parent)
			n.surelyName(parent, c.Name)
			// Behind the name, whose invalidation has waited for listings under way.
			n.surelyPages(parent, 0, -1)
		}
	case vfs.ChangeAttr:
		n.surelyAttributes(uint64(c.Ino))
	case vfs.ChangeData:
		n.surelyAttributes(uint64(c.Ino))
		n.surelyPages(uint64(c.Ino), c.Off, c.Len)
	case vfs.ChangeGone:
		n.surelyAttributes(uint64(c.Ino))
		n.surelyPages(uint64(c.Ino), 0, -1)
	case vfs.ChangeAll:
		n.dropAll()
	}
}

// surelyAttributes drops attributes. An inode that the kernel was told of but does not
// know is about to be learned from a reply: it is waited for.
func (n *notifier) surelyAttributes(ino uint64) {
	n.door.nodes.modeChange(ino)
	pause := 20 * time.Microsecond
	for waited := time.Duration(0); n.door.nodes.known(ino); waited += pause {
		if n.inode(ino, -1, 0) != syscall.ENOENT || waited > unknownLimit {
			return
		}
		if n.stopped() {
			return
		}
		time.Sleep(pause)
		pause = min(2*pause, 5*time.Millisecond)
	}
}

// noName is a name that no directory has: its invalidation only waits for the
// directory's lock.
const noName = "."

// surelyName makes the kernel look a name up at its next use; "" stands for all names.
func (n *notifier) surelyName(parent uint64, name string) {
	all := name == ""
	if all {
		name = noName
	}
	done := make(chan struct{})
	n.helpers.Go(func() {
		n.entry(parent, name)
		close(done)
	})
	step := time.NewTicker(entryStep)
	defer step.Stop()
	for begin := time.Now(); ; {
		select {
		case <-done:
			if all {
				n.epoch()
			}
			return
		case <-step.C:
		}
		// A request that changes the directory may itself be waiting for somebody who
		// waits for us. The epoch does not reach names that a listing under way is about
		// to tell the kernel, but while the lock is held alone there is none. Lookups
		// and listings end by themselves.
		if n.door.locked.locked(parent) || time.Since(begin) > entryLimit {
			n.epoch()
			return
		}
	}
}

// surelyPages drops pages. Dirty ones, of mapped files, are written back first: these
// WRITEs come while we wait.
func (n *notifier) surelyPages(ino uint64, off, length int64) {
	if length == 0 || !n.door.nodes.known(ino) {
		return
	}
	running := &n.door.recalling
	running.begin(ino)
	timer := time.NewTimer(pageLimit)
	defer timer.Stop()
	for {
		fills := running.fills(ino)
		done := make(chan struct{})
		n.helpers.Go(func() {
			n.inode(ino, off, max(length, 0))
			close(done)
		})
		select {
		case <-done:
			if running.end(ino, fills, false) {
				return
			}
		case <-timer.C:
			running.end(ino, fills, true)
			n.door.log.Warn("the kernel is still reading or writing what another client is changing, and has not dropped it yet", "inode", ino)
			return
		}
	}
}
