package overlay

import (
	"context"
	"strings"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// SetAttr implements vfs.FS. It copies up: the whole file, or what a new size leaves
// of it.
func (fs *FS) SetAttr(ctx context.Context, _ *vfs.Caller, ino vfs.Ino, set *vfs.SetAttr, out *vfs.Attr) error {
	if err := fs.usable(); err != nil {
		return err
	}
	n, err := fs.get(ino)
	if err != nil {
		return err
	}
	keep := wholeFile
	if set.Has(vfs.SetSize) {
		switch {
		case n.typ == typeDir:
			return syscall.EISDIR
		case n.typ != typeFile:
			return syscall.EINVAL
		case set.Size > 1<<63-1:
			return syscall.EFBIG
		}
		keep = int64(set.Size)
	}
	if err := fs.copyUp(ctx, n, keep); err != nil {
		return err
	}
	upper := fs.top(n)
	change := func() error { return fs.upper.SetAttr(ctx, &fs.self, upper, set, out) }
	if set.Has(vfs.SetSize) {
		err = fs.spend(ctx, n, 0, change)
	} else {
		err = change()
	}
	if err != nil {
		return err
	}
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	return fs.adjust(ctx, n, out)
}

// ours tells whether an attribute belongs to the layer.
func (fs *FS) ours(name string) bool {
	return strings.HasPrefix(name, "user.overlay.") || strings.HasPrefix(name, "trusted.overlay.")
}

// xattrs returns the tree that has the attributes of an inode now; nil if that keeps none.
func (fs *FS) xattrs(ino vfs.Ino) (tree vfs.XattrFS, in vfs.Ino, err error) {
	if err := fs.usable(); err != nil {
		return nil, 0, err
	}
	n, err := fs.get(ino)
	if err != nil {
		return nil, 0, err
	}
	if upper := fs.top(n); upper != 0 {
		return fs.upper, upper, nil
	}
	tree, ok := fs.lower.(vfs.XattrFS)
	if !ok {
		return nil, 0, nil
	}
	return tree, n.lower, nil
}

// GetXattr implements vfs.XattrFS.
func (fs *FS) GetXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string) ([]byte, error) {
	tree, in, err := fs.xattrs(ino)
	if err != nil {
		return nil, err
	}
	if tree == nil || fs.ours(name) {
		return nil, syscall.ENODATA
	}
	return tree.GetXattr(ctx, c, in, name)
}

// ListXattr implements vfs.XattrFS.
func (fs *FS) ListXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino) ([]string, error) {
	tree, in, err := fs.xattrs(ino)
	if err != nil || tree == nil {
		return nil, err
	}
	all, err := tree.ListXattr(ctx, c, in)
	names := all[:0]
	for _, name := range all {
		if !fs.ours(name) {
			names = append(names, name)
		}
	}
	return names, err
}

// SetXattr implements vfs.XattrFS.
func (fs *FS) SetXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string, value []byte, flags uint32) error {
	return fs.changeXattr(ctx, ino, name, func(upper vfs.Ino) error {
		return fs.upper.SetXattr(ctx, c, upper, name, value, flags)
	})
}

// RemoveXattr implements vfs.XattrFS.
func (fs *FS) RemoveXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string) error {
	return fs.changeXattr(ctx, ino, name, func(upper vfs.Ino) error {
		return fs.upper.RemoveXattr(ctx, c, upper, name)
	})
}

func (fs *FS) changeXattr(ctx context.Context, ino vfs.Ino, name string, change func(upper vfs.Ino) error) error {
	if err := fs.usable(); err != nil {
		return err
	}
	if fs.ours(name) {
		return syscall.EPERM
	}
	n, err := fs.get(ino)
	if err != nil {
		return err
	}
	if err := fs.copyUp(ctx, n, wholeFile); err != nil {
		return err
	}
	return change(fs.top(n))
}
