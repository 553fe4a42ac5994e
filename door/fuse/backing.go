package fuse

import (
	"context"
	"runtime"
	"syscall"

	"github.com/massif-fs/massif/door/fuse/kernel"
	"github.com/massif-fs/massif/vfs"
)

// backing is a file of the local disk that the kernel reads and writes itself in
// place of an inode's (passthrough). The kernel wants all open handles of an inode
// to agree: the first open decides, until the last one is closed.
type backing struct{ id int32 }

// attach counts a new handle of an inode and lets the kernel work on the file
// behind it, if there is one.
func (d *door) attach(h *handle, out *kernel.OpenOut) {
	n := d.nodes.hold(h.ino)
	h.node = n
	n.opening.Lock() // guards handles and backing of the node
	defer n.opening.Unlock()
	n.handles++
	if n.handles == 1 && !d.backingOff.Load() && d.plainMode(h.ino) {
		n.backing = d.backingOf(h.file)
	}
	if n.backing != nil {
		out.OpenFlags |= kernel.FopenPassthrough
		out.OpenFlags &^= kernel.FopenKeepCache
		out.BackingID = n.backing.id
	}
}

func (d *door) plainMode(ino uint64) bool {
	var a vfs.Attr
	err := d.fs.GetAttr(context.Background(), &vfs.Caller{}, vfs.Ino(ino), &a)
	return err == nil && a.Mode&(syscall.S_ISUID|syscall.S_ISGID) == 0
}

func (d *door) backingOf(f vfs.File) *backing {
	p, ok := f.(vfs.PassthroughFile)
	if !ok {
		return nil
	}
	file := p.Backing()
	if file == nil {
		return nil
	}
	id, errno := d.conn.RegisterBacking(file.Fd())
	runtime.KeepAlive(file)
	switch errno {
	case 0:
		return &backing{id}
	case syscall.EPERM, syscall.ENOTTY, syscall.EINVAL, syscall.ENOSYS:
		// Not allowed or not known here at all.
		if d.backingOff.CompareAndSwap(false, true) {
			d.log.Info("the kernel refuses passthrough; files are served by the door", "error", errno.Error())
		}
	default: // this file lies where it is not possible (ELOOP: stacked too deep)
	}
	return nil
}

// detach takes back an attach when the handle is closed.
func (d *door) detach(h *handle) {
	n := h.node
	n.opening.Lock()
	n.handles--
	if n.handles == 0 && n.backing != nil {
		if errno := d.conn.UnregisterBacking(n.backing.id); errno != 0 && !d.closing.Load() {
			d.log.Warn("passthrough file not given back", "ino", n.ino, "error", errno.Error())
		}
		n.backing = nil
	}
	n.opening.Unlock()
	d.nodes.release(n)
}
