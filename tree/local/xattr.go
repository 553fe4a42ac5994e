package local

import (
	"context"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/vfs"
)

const maxXattrName = 255

// GetXattr implements vfs.XattrFS.
func (fs *FS) GetXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string) ([]byte, error) {
	n, err := fs.refXattr(ino, name)
	if err != nil {
		return nil, err
	}
	defer fs.table.unref(n)
	path := procPath(n.fd)
	buf := make([]byte, 256)
	for {
		k, err := unix.Getxattr(path, name, buf)
		switch err {
		case nil:
			return buf[:k], nil
		case unix.ERANGE:
			if k, err = unix.Getxattr(path, name, nil); err != nil {
				return nil, fail("getxattr", name, err)
			}
			buf = make([]byte, k+64)
		case unix.ENODATA, unix.EOPNOTSUPP:
			return nil, err
		default:
			return nil, fail("getxattr", name, err)
		}
	}
}

func (fs *FS) refXattr(ino vfs.Ino, name string) (*inode, error) {
	if len(name) > maxXattrName {
		return nil, syscall.ERANGE
	}
	if name == "" || strings.IndexByte(name, 0) >= 0 {
		return nil, syscall.EINVAL
	}
	return fs.table.ref(ino)
}

// SetXattr implements vfs.XattrFS.
func (fs *FS) SetXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string, value []byte, flags uint32) error {
	if err := fs.changes(); err != nil {
		return err
	}
	n, err := fs.refXattr(ino, name)
	if err != nil {
		return err
	}
	defer fs.table.unref(n)
	err = unix.Setxattr(procPath(n.fd), name, value, int(flags))
	if err == unix.ENODATA || err == unix.EOPNOTSUPP {
		return err
	}
	return fail("setxattr", name, err)
}

// ListXattr implements vfs.XattrFS.
func (fs *FS) ListXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino) ([]string, error) {
	n, err := fs.table.ref(ino)
	if err != nil {
		return nil, err
	}
	defer fs.table.unref(n)
	path := procPath(n.fd)
	buf := make([]byte, 1024)
	for {
		k, err := unix.Listxattr(path, buf)
		if err == unix.ERANGE {
			if k, err = unix.Listxattr(path, nil); err == nil {
				buf = make([]byte, k+256)
				continue
			}
		}
		if err != nil {
			return nil, fail("listxattr", "", err)
		}
		if k == 0 {
			return nil, nil
		}
		return strings.Split(strings.TrimSuffix(string(buf[:k]), "\x00"), "\x00"), nil
	}
}

// RemoveXattr implements vfs.XattrFS.
func (fs *FS) RemoveXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string) error {
	if err := fs.changes(); err != nil {
		return err
	}
	n, err := fs.refXattr(ino, name)
	if err != nil {
		return err
	}
	defer fs.table.unref(n)
	err = unix.Removexattr(procPath(n.fd), name)
	if err == unix.ENODATA || err == unix.EOPNOTSUPP {
		return err
	}
	return fail("removexattr", name, err)
}
