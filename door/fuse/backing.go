package fuse

import (
	"context"
	"runtime"
	"syscall"
	"unsafe"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/vfs"
)

// backing is a file of the local disk that the kernel reads and writes itself in
// place of an inode's (passthrough). The kernel wants all open handles of an inode
// to agree: the first open decides, until the last one is closed.
type backing struct{ id int32 }

// The ioctls of /dev/fuse for it, and their argument (struct fuse_backing_map of
// linux/fuse.h).
const (
	iocBackingOpen  = 0x4010e501 // _IOW(229, 1, struct fuse_backing_map)
	iocBackingClose = 0x4004e502 // _IOW(229, 2, uint32_t)
)

type backingMap struct {
	fd    int32
	flags uint32
	_     uint64
}

func (d *door) registerBacking(fd uintptr) (int32, error) {
	m := backingMap{fd: int32(fd)}
	id, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(d.connFd), iocBackingOpen, uintptr(unsafe.Pointer(&m)))
	if errno != 0 {
		return 0, errno
	}
	return int32(id), nil
}

func (d *door) unregisterBacking(id int32) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(d.connFd), iocBackingClose, uintptr(unsafe.Pointer(&id)))
	if errno != 0 {
		return errno
	}
	return nil
}

// attach counts a new handle of an inode and lets the kernel work on the file
// behind it, if there is one.
func (d *door) attach(h *handle, out *gofuse.OpenOut) {
	n := d.nodes.hold(h.ino)
	h.node = n
	n.opening.Lock() // guards handles and backing of the node
	defer n.opening.Unlock()
	n.handles++
	if n.handles == 1 && !d.backingOff.Load() && d.plainMode(h.ino) {
		n.backing = d.backingOf(h.file)
	}
	if n.backing != nil {
		out.OpenFlags |= gofuse.FOPEN_PASSTHROUGH
		out.OpenFlags &^= gofuse.FOPEN_KEEP_CACHE
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
	id, err := d.registerBacking(file.Fd())
	runtime.KeepAlive(file)
	switch err {
	case nil:
		return &backing{id}
	case unix.EPERM, unix.ENOTTY, unix.EINVAL, unix.ENOSYS:
		// Not allowed or not known here at all.
		if d.backingOff.CompareAndSwap(false, true) {
			d.log.Info("the kernel refuses passthrough; files are served by the door", "error", err)
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
		if err := d.unregisterBacking(n.backing.id); err != nil && !d.closing.Load() {
			d.log.Warn("passthrough file not given back", "ino", n.ino, "error", err)
		}
		n.backing = nil
	}
	n.opening.Unlock()
	d.nodes.release(n)
}
