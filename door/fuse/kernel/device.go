package kernel

import (
	"syscall"
	"unsafe"
)

// ioctl(2)s of /dev/fuse.
const (
	iocBackingOpen  = 0x4010e501 // _IOW(229, 1, backingMap)
	iocBackingClose = 0x4004e502 // _IOW(229, 2, uint32)
)

type backingMap struct {
	fd    int32
	flags uint32
	_     uint64
}

// RegisterBacking gives an open file to the kernel, to be read and written by it in
// place of an inode (FopenPassthrough). EPERM without CAP_SYS_ADMIN; ELOOP where the
// file's own file system is stacked too deep.
func (c *Conn) RegisterBacking(fd uintptr) (int32, syscall.Errno) {
	m := backingMap{fd: int32(fd)}
	id, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(c.fd), iocBackingOpen, uintptr(unsafe.Pointer(&m)))
	if errno != 0 {
		return 0, errno
	}
	return int32(id), 0
}

// UnregisterBacking takes it back. Open files go on using it.
func (c *Conn) UnregisterBacking(id int32) syscall.Errno {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(c.fd), iocBackingClose, uintptr(unsafe.Pointer(&id)))
	return errno
}
