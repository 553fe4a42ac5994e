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

// GetLock implements vfs.LockFS.
func (fs *FS) GetLock(ctx context.Context, ino vfs.Ino, lock vfs.Lock) (vfs.Lock, error) {
	return fs.sess.GetLock(ctx, ino, lock)
}

// SetLock implements vfs.LockFS.
func (fs *FS) SetLock(ctx context.Context, ino vfs.Ino, lock vfs.Lock, wait bool) error {
	return fs.sess.SetLock(ctx, ino, lock, wait)
}

// ReleaseLocks implements vfs.LockFS.
func (fs *FS) ReleaseLocks(ctx context.Context, ino vfs.Ino, owner uint64, kind vfs.LockKind) error {
	return fs.sess.ReleaseLocks(ctx, ino, owner, kind)
}
