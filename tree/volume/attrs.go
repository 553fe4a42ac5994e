package volume

import (
	"context"

	"github.com/massif-fs/massif/vfs"
)

// GetXattr implements vfs.XattrFS.
func (fs *FS) GetXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string) ([]byte, error) {
	return fs.sess.GetXattr(ctx, c, ino, name)
}

// SetXattr implements vfs.XattrFS.
func (fs *FS) SetXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string, value []byte, flags uint32) error {
	if err := fs.writable(); err != nil {
		return err
	}
	return fs.sess.SetXattr(ctx, c, ino, name, value, flags)
}

// ListXattr implements vfs.XattrFS.
func (fs *FS) ListXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino) ([]string, error) {
	return fs.sess.ListXattr(ctx, c, ino)
}

// RemoveXattr implements vfs.XattrFS.
func (fs *FS) RemoveXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string) error {
	if err := fs.writable(); err != nil {
		return err
	}
	return fs.sess.RemoveXattr(ctx, c, ino, name)
}
