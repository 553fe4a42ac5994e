package kernel

import (
	"crypto/rand"
	"fmt"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// prime is the file that Prime opens.
type prime struct{ name string }

// primeID is its node id, far from all inode numbers.
const primeID = 1<<64 - 2

// Prime makes the kernel find out that POLL is not implemented here, before
// anybody else does.
//
// It matters to a Go process that uses its own mount: os.Open adds the file to an
// epoll set, the kernel then asks the file system whether the file is ready, and Go's
// runtime makes that system call without telling its scheduler that it might take
// time. The processor (P) that should run the handler is kept by the call that waits for
// it; with GOMAXPROCS=1 for ever. After one ENOSYS the kernel asks no more. So the
// first POLL comes from here, by a system call that the scheduler knows of, on a file
// that exists for this purpose and moment only: poll(2) needs one.
func (c *Conn) Prime(mountpoint string) error {
	p := &prime{name: ".massif-" + rand.Text()}
	c.prime.Store(p)
	defer c.prime.Store(nil)
	path := filepath.Join(mountpoint, p.name)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("fuse: first contact with %s: %w", mountpoint, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0); err != nil && err != unix.EINTR {
		return fmt.Errorf("fuse: first contact with %s: %w", mountpoint, err)
	}
	return nil
}

// lookup answers for the file, if that is what is looked up.
func (p *prime) lookup(q *Request, name string, out *EntryOut) bool {
	if q.NodeID != RootID || name != p.name {
		return false
	}
	out.NodeID = primeID
	out.AttrValid = 1
	out.Attr = Attr{Ino: primeID, Mode: syscall.S_IFREG | 0400, Nlink: 1, UID: q.UID, GID: q.GID, BlockSize: 4096}
	return true
}
