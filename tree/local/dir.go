package local

import (
	"context"
	"encoding/binary"
	"math"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/vfs"
)

// dir is an open directory of the host.
type dir struct {
	fs    *FS
	n     *inode
	fd    int
	space []byte // what getdents64(2) fills
	buf   []byte // the part of space that was not emitted
	at    uint64 // cookie of the position of buf
	e     vfs.DirEntry
}

const dirBuffer = 32 << 10

// OpenDir implements vfs.FS.
func (fs *FS) OpenDir(ctx context.Context, c *vfs.Caller, ino vfs.Ino) (vfs.Dir, error) {
	n, err := fs.refDir(ino)
	if err != nil {
		return nil, err
	}
	defer fs.table.unref(n)
	fd, err := reopenDir(n.fd)
	if err != nil {
		return nil, fail("opendir", "", err)
	}
	fs.table.opened(n)
	return &dir{fs: fs, n: n, fd: fd}, nil
}

func reopenDir(fd int) (int, error) {
	return unix.Open(procPath(fd), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// The host's directory positions are nearly cookies already. Only 0, 1 and 2,
// which the contract keeps for itself, move to a place below the greatest number
// (ext4's end of a directory) that no file system uses.
const movedPositions = math.MaxInt64 - 16

func cookieOf(pos int64) uint64 {
	if pos >= 0 && pos < 3 {
		return uint64(movedPositions + pos)
	}
	return uint64(pos)
}

func positionOf(cookie uint64) int64 {
	if cookie >= movedPositions && cookie < movedPositions+3 {
		return int64(cookie - movedPositions)
	}
	return int64(cookie)
}

// Offsets in struct linux_dirent64.
const (
	direntIno    = 0
	direntOff    = 8
	direntReclen = 16
	direntType   = 18
	direntName   = 19
)

// Read implements vfs.Dir.
func (d *dir) Read(ctx context.Context, cookie uint64, plus bool, emit func(*vfs.DirEntry) bool) error {
	if d.fs.done.Load() || d.fd < 0 {
		return syscall.EBADF
	}
	if cookie != d.at {
		if cookie > math.MaxInt64 {
			return syscall.EINVAL
		}
		if err := d.seek(cookie); err != nil {
			return fail("readdir", "", err)
		}
	}
	for {
		if len(d.buf) == 0 {
			more, err := d.refill()
			if err != nil || !more {
				return err
			}
		}
		for len(d.buf) > 0 {
			rec := d.buf[:binary.NativeEndian.Uint16(d.buf[direntReclen:])]
			next := cookieOf(int64(binary.NativeEndian.Uint64(rec[direntOff:])))
			if name := direntNameOf(rec); name != "." && name != ".." {
				d.describe(rec, name, next, plus)
				if !emit(&d.e) {
					return nil
				}
			}
			d.buf = d.buf[len(rec):]
			d.at = next
		}
	}
}

// seek goes to a position. To the beginning it goes with a new descriptor: ext4
// (seen on Linux 6.18) goes on giving nothing at 0 to one whose first read was at
// the directory's end.
func (d *dir) seek(cookie uint64) error {
	d.buf = nil
	if cookie == 0 {
		fd, err := reopenDir(d.fd)
		if err != nil {
			return err
		}
		unix.Close(d.fd)
		d.fd = fd
	} else if _, err := unix.Seek(d.fd, positionOf(cookie), unix.SEEK_SET); err != nil {
		return err
	}
	d.at = cookie
	return nil
}

func (d *dir) refill() (more bool, err error) {
	if d.space == nil {
		d.space = make([]byte, dirBuffer)
	}
	for {
		k, err := unix.Getdents(d.fd, d.space)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ENOENT: // the directory was removed
			k = 0
		case err != nil:
			return false, fail("readdir", "", err)
		}
		d.buf = d.space[:k]
		return k > 0, nil
	}
}

func direntNameOf(rec []byte) string {
	name := rec[direntName:]
	for i, b := range name {
		if b == 0 {
			return string(name[:i])
		}
	}
	return string(name)
}

// describe fills in d.e.
func (d *dir) describe(rec []byte, name string, next uint64, plus bool) {
	d.e = vfs.DirEntry{Name: name, Cookie: next, Mode: uint32(rec[direntType]) << 12}
	if plus || rec[direntType] == unix.DT_UNKNOWN {
		if n, err := d.fs.find(d.fd, name, &d.e.Attr); err == nil {
			d.fs.table.unref(n)
			d.e.HasAttr = true
			d.e.Ino, d.e.Mode = d.e.Attr.Ino, d.e.Attr.Mode&unix.S_IFMT
			return
		}
	}
	d.e.Ino = d.fs.table.numberOf(d.n.key.dev, binary.NativeEndian.Uint64(rec[direntIno:]))
}

// Sync implements vfs.Dir.
func (d *dir) Sync(ctx context.Context) error {
	if d.fs.done.Load() || d.fd < 0 {
		return syscall.EBADF
	}
	return fail("fsync", "", retry(func() error { return unix.Fsync(d.fd) }))
}

// Close implements vfs.Dir.
func (d *dir) Close() error {
	if d.fd < 0 {
		return syscall.EBADF
	}
	err := unix.Close(d.fd)
	d.fd = -1
	d.fs.table.closedFile(d.n)
	return fail("closedir", "", err)
}
