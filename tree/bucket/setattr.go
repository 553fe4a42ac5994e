package bucket

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// SetAttr implements vfs.FS. Attributes are stored a moment later, with others that change
// meanwhile, or by fsync.
func (fs *FS) SetAttr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, set *vfs.SetAttr, out *vfs.Attr) error {
	if err := fs.changes(); err != nil {
		return err
	}
	n, err := fs.held(ino)
	if err != nil {
		return err
	}
	defer fs.letGo(n)
	if err := fs.freshen(ctx, n); err != nil {
		return fail("setattr", "", err)
	}
	if set.Has(vfs.SetSize) {
		if err := fs.setSize(ctx, n, set.Size); err != nil {
			return fail("truncate", "", err)
		}
	}
	if err := fs.setAttrs(n, set); err != nil {
		return fail("setattr", "", err)
	}
	fs.fill(n, out)
	return nil
}

// setSize truncates a file by name. If nobody has it open the object is replaced at once.
func (fs *FS) setSize(ctx context.Context, n *node, size uint64) error {
	switch {
	case n.isDir():
		return syscall.EISDIR
	case n.kind != syscall.S_IFREG:
		return syscall.EINVAL
	case size > uint64(fs.cfg.MaxFileSize):
		return syscall.EFBIG
	}
	h, err := fs.attach(n, syscall.O_WRONLY)
	if err != nil {
		return err
	}
	err = h.truncate(int64(size))
	fs.mu.Lock()
	alone := n.opens == 1
	fs.mu.Unlock()
	if err == nil && alone {
		err = h.settle(ctx, false)
	}
	return errors.Join(err, h.Close())
}

// setAttrs changes attributes other than the size.
func (fs *FS) setAttrs(n *node, set *vfs.SetAttr) error {
	now := vfs.Now()
	n.mu.Lock()
	if set.Has(vfs.SetMode) {
		n.mode = set.Mode & 0o7777
	}
	if set.Has(vfs.SetUID) {
		n.uid = set.UID
	}
	if set.Has(vfs.SetGID) {
		n.gid = set.GID
	}
	if set.Has(vfs.SetKillSUIDGID) && n.kind == syscall.S_IFREG {
		n.mode &^= syscall.S_ISUID
		if n.mode&0o010 != 0 {
			n.mode &^= syscall.S_ISGID
		}
	}
	switch {
	case set.Has(vfs.SetAtime):
		n.atime = set.Atime
	case set.Has(vfs.SetAtimeNow):
		n.atime = now
	}
	switch {
	case set.Has(vfs.SetMtime):
		n.mtime = set.Mtime
	case set.Has(vfs.SetMtimeNow):
		n.mtime = now
	}
	n.ctime = now
	if set.Has(vfs.SetCtime) {
		n.ctime = set.Ctime
	}
	n.mu.Unlock()
	if set.Valid&^vfs.SetSize == 0 {
		return nil
	}
	return fs.attrsChanged(n)
}

// attrsChanged has changed attributes stored.
func (fs *FS) attrsChanged(n *node) error {
	if fs.cfg.NoMetadata && fs.cfg.FailUnsupported {
		return syscall.EOPNOTSUPP
	}
	fs.touch(n)
	fs.feed.Send(vfs.Change{Kind: vfs.ChangeAttr, Ino: n.ino})
	return nil
}

// touch notes that a node's attributes are not those of its object.
func (fs *FS) touch(n *node) {
	if fs.cfg.NoMetadata {
		return
	}
	fs.mu.Lock()
	gone := n.gone || n.parent == nil
	fs.mu.Unlock()
	n.mu.Lock()
	n.attrSeq++
	keeps := !gone && (n.stored || !n.isDir() || fs.cfg.Markers != NoMarkers)
	n.touched = n.touched || keeps && (n.stored || n.isDir())
	queue := n.touched
	n.mu.Unlock()
	if queue {
		fs.queue.add(fs, n, fs.cfg.AttrDelay)
	}
}

// dirTouched has the times of a directory stored some day, if it has a marker. FS.mu is held.
func (fs *FS) dirTouched(dir *node) {
	if fs.cfg.NoMetadata || dir.parent == nil || dir.gone || fs.real != nil || fs.cfg.Markers == NoMarkers {
		return
	}
	dir.mu.Lock()
	defer dir.mu.Unlock()
	if dir.stored {
		dir.attrSeq++
		dir.touched = true
		if !dir.queued {
			dir.queued = true
			fs.unidle(dir)
			fs.queue.addLocked(dir, dirTimesDelay)
		}
	}
}

// GetXattr implements vfs.XattrFS.
func (fs *FS) GetXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string) ([]byte, error) {
	n, err := fs.xattrNode(ctx, ino, name)
	if err != nil {
		return nil, err
	}
	defer fs.letGo(n)
	n.mu.Lock()
	defer n.mu.Unlock()
	value, ok := n.xattrs[name]
	if !ok {
		return nil, syscall.ENODATA
	}
	return slices.Clone(value), nil
}

// xattrNode holds a node and has its metadata.
func (fs *FS) xattrNode(ctx context.Context, ino vfs.Ino, name string) (*node, error) {
	switch {
	case fs.cfg.NoMetadata:
		return nil, syscall.EOPNOTSUPP
	case len(name) > 255:
		return nil, syscall.ERANGE
	case !strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "trusted.") && !strings.HasPrefix(name, "security."):
		return nil, syscall.EOPNOTSUPP
	}
	n, err := fs.held(ino)
	if err != nil {
		return nil, err
	}
	if err := fs.freshen(ctx, n); err != nil {
		fs.letGo(n)
		return nil, fail("getxattr", "", err)
	}
	return n, nil
}

// SetXattr implements vfs.XattrFS. ENOSPC: metadata of objects have room for little.
func (fs *FS) SetXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string, value []byte, flags uint32) error {
	if err := fs.changes(); err != nil {
		return err
	}
	n, err := fs.xattrNode(ctx, ino, name)
	if err != nil {
		return err
	}
	defer fs.letGo(n)
	n.mu.Lock()
	_, there := n.xattrs[name]
	switch {
	case there && flags&vfs.XattrCreate != 0:
		err = syscall.EEXIST
	case !there && flags&vfs.XattrReplace != 0:
		err = syscall.ENODATA
	case len(value) > 65536:
		err = syscall.E2BIG
	default:
		x := maps.Clone(n.xattrs)
		if x == nil {
			x = make(map[string][]byte)
		}
		if x[name] = slices.Clone(value); len(encodeXattrs(x)) > maxXattrs {
			err = syscall.ENOSPC
			break
		}
		n.xattrs, n.ctime = x, vfs.Now()
	}
	n.mu.Unlock()
	if err != nil {
		return err
	}
	return fs.attrsChanged(n)
}

// ListXattr implements vfs.XattrFS.
func (fs *FS) ListXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino) ([]string, error) {
	if fs.cfg.NoMetadata {
		return nil, nil
	}
	n, err := fs.xattrNode(ctx, ino, "user.")
	if err != nil {
		return nil, err
	}
	defer fs.letGo(n)
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(maps.Keys(n.xattrs)), nil
}

// RemoveXattr implements vfs.XattrFS.
func (fs *FS) RemoveXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string) error {
	if err := fs.changes(); err != nil {
		return err
	}
	n, err := fs.xattrNode(ctx, ino, name)
	if err != nil {
		return err
	}
	defer fs.letGo(n)
	n.mu.Lock()
	_, there := n.xattrs[name]
	if there {
		x := maps.Clone(n.xattrs)
		delete(x, name)
		n.xattrs, n.ctime = x, vfs.Now()
	}
	n.mu.Unlock()
	if !there {
		return syscall.ENODATA
	}
	return fs.attrsChanged(n)
}
