package kernel

import (
	"context"
	"encoding/binary"
	"syscall"
)

// Codes of notifications: messages to the kernel that answer none of its own.
const (
	notifyInvalInode = 2
	notifyInvalEntry = 3
	notifyStore      = 4
	notifyRetrieve   = 5
	notifyDelete     = 6
	notifyResend     = 7
	notifyIncEpoch   = 8
	notifyPrune      = 9
)

// All notifications return 0, or the kernel's errno: ENOENT or ENOTDIR where it does not
// know the inode or name (any more), ENOTCONN or ENODEV when the mount is gone, EINVAL
// or ENOSYS where it does not know the notification.

// notification begins a message of a notification with room for n bytes.
func notification(n int) []byte { return make([]byte, replyHeaderSize, replyHeaderSize+n) }

func (c *Conn) notify(code uint32, b []byte) syscall.Errno {
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint32(b[4:], code)
	if c.debug {
		c.log.Info("fuse notify", "code", code, "bytes", len(b))
	}
	return c.write(b)
}

// InvalInode makes the kernel forget an inode's attributes and, from off >= 0, pages
// (length 0: to the end). With pages it waits until none of them is being read; with
// off < 0 it never blocks.
func (c *Conn) InvalInode(nodeID uint64, off, length int64) syscall.Errno {
	b := notification(24)
	b = binary.NativeEndian.AppendUint64(b, nodeID)
	b = binary.NativeEndian.AppendUint64(b, uint64(off))
	b = binary.NativeEndian.AppendUint64(b, uint64(length))
	return c.notify(notifyInvalInode, b)
}

// ExpireOnly has InvalEntry leave the name in place, to be looked up at its next use
// (needs HasExpireOnly).
const ExpireOnly = 1 << 0

// InvalEntry makes the kernel forget a name, found or not found. It waits while the
// directory is locked: as long as a create, unlink or rename runs in it.
func (c *Conn) InvalEntry(parent uint64, name string, flags uint32) syscall.Errno {
	b := notification(16 + len(name) + 1)
	b = binary.NativeEndian.AppendUint64(b, parent)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(name)))
	b = binary.NativeEndian.AppendUint32(b, flags)
	return c.notify(notifyInvalEntry, append(append(b, name...), 0))
}

// Delete tells that child has lost the name: as InvalEntry, but programs that watch
// (inotify) are told, too, and a directory's cached contents go. It does nothing if
// the name stands for another inode meanwhile.
func (c *Conn) Delete(parent, child uint64, name string) syscall.Errno {
	b := notification(24 + len(name) + 1)
	b = binary.NativeEndian.AppendUint64(b, parent)
	b = binary.NativeEndian.AppendUint64(b, child)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(name)))
	b = binary.NativeEndian.AppendUint32(b, 0)
	return c.notify(notifyDelete, append(append(b, name...), 0))
}

// Store puts data into the page cache, and makes the file that long at least as far as
// the kernel is concerned. It waits for pages in use.
func (c *Conn) Store(nodeID uint64, off int64, data []byte) syscall.Errno {
	b := notification(24 + len(data))
	b = binary.NativeEndian.AppendUint64(b, nodeID)
	b = binary.NativeEndian.AppendUint64(b, uint64(off))
	b = binary.NativeEndian.AppendUint32(b, uint32(len(data)))
	b = binary.NativeEndian.AppendUint32(b, 0)
	return c.notify(notifyStore, append(b, data...))
}

// Retrieve takes data out of the page cache: less than size bytes where the cache has
// not all of it.
func (c *Conn) Retrieve(ctx context.Context, nodeID uint64, off int64, size uint32) ([]byte, error) {
	id, ch, ok := c.retrieves.begin()
	if !ok {
		return nil, syscall.ENOTCONN
	}
	b := notification(32)
	b = binary.NativeEndian.AppendUint64(b, id)
	b = binary.NativeEndian.AppendUint64(b, nodeID)
	b = binary.NativeEndian.AppendUint64(b, uint64(off))
	b = binary.NativeEndian.AppendUint32(b, size)
	b = binary.NativeEndian.AppendUint32(b, 0)
	if errno := c.notify(notifyRetrieve, b); errno != 0 {
		c.retrieves.take(id)
		return nil, errno
	}
	return c.retrieves.await(ctx, id, ch)
}

// Resend (Linux 6.9) makes the kernel send all messages again that were read and not
// answered, marked (Request.Resent): for a process that has adopted a connection.
func (c *Conn) Resend() syscall.Errno { return c.notify(notifyResend, notification(0)) }

// IncEpoch (Linux 6.16) makes every name be looked up again at its next use. It never
// blocks.
func (c *Conn) IncEpoch() syscall.Errno { return c.notify(notifyIncEpoch, notification(0)) }

// Prune (Linux 6.18) asks the kernel to forget inodes that are not in use.
func (c *Conn) Prune(nodeIDs []uint64) syscall.Errno {
	b := notification(16 + 8*len(nodeIDs))
	b = binary.NativeEndian.AppendUint32(b, uint32(len(nodeIDs)))
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint64(b, 0)
	for _, id := range nodeIDs {
		b = binary.NativeEndian.AppendUint64(b, id)
	}
	return c.notify(notifyPrune, b)
}
