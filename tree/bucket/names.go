package bucket

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/vfs"
)

// prepare checks a new name and has its place.
func (fs *FS) prepare(ctx context.Context, parent vfs.Ino, name string) (*node, error) {
	if err := vfs.CheckName(name); err != nil {
		return nil, err
	}
	if err := fs.changes(); err != nil {
		return nil, err
	}
	dir, err := fs.usePlace(ctx, parent, name)
	if err != nil {
		return nil, err
	}
	if err := fs.storable(dir.prefix()+name, name); err != nil {
		fs.donePlace(dir, name)
		return nil, err
	}
	return dir, nil
}

// storable tells why no object can have a key.
func (fs *FS) storable(key, name string) error {
	switch {
	case !utf8.ValidString(name):
		return &vfs.Error{Op: "create", Name: name, Err: vfs.WithErrno(syscall.EILSEQ, errors.New("keys of objects are UTF-8"))}
	case len(key)+len(linkSuffix) > object.MaxKey:
		return syscall.ENAMETOOLONG
	case fs.cfg.Links == SuffixLinks && strings.HasSuffix(name, linkSuffix):
		return &vfs.Error{Op: "create", Name: name, Err: vfs.WithErrno(syscall.EINVAL, errors.New("names that end so are links"))}
	}
	return nil
}

// free makes sure that there is nothing of a name: EEXIST.
func (fs *FS) free(ctx context.Context, dir *node, name string) error {
	n, err := fs.find(ctx, dir, name)
	switch {
	case errors.Is(err, syscall.ENOENT):
		return nil
	case err != nil:
		return err
	}
	fs.letGo(n)
	return syscall.EEXIST
}

// newAttrs are the attributes of a new inode.
func (fs *FS) newAttrs(c *vfs.Caller, dir *node, kind, mode uint32) attrs {
	now := vfs.Now()
	a := attrs{mode: mode & 0o7777 &^ (c.Umask & 0o777), uid: c.UID, gid: c.GID, atime: now, mtime: now, ctime: now, btime: now}
	dir.mu.Lock()
	if dir.mode&syscall.S_ISGID != 0 {
		a.gid = dir.gid
		if kind == syscall.S_IFDIR {
			a.mode |= syscall.S_ISGID
		}
	}
	dir.mu.Unlock()
	if kind == syscall.S_IFLNK {
		a.mode = 0o777
	}
	return a
}

// added enters a node that this mount made, and holds it.
func (fs *FS) added(dir *node, name string, kind uint32, a attrs, info *object.Info) *node {
	fs.mu.Lock()
	n := fs.newNode(dir, name, kind)
	n.holds++
	fs.unidle(n)
	n.mu.Lock()
	n.attrs, n.known, n.checked = a, true, time.Now()
	if info != nil {
		n.stored, n.etag, n.size = true, info.ETag, info.Size
	}
	n.mu.Unlock()
	fs.nameChanged(dir, name, n.ino)
	fs.mu.Unlock()
	return n
}

// nameChanged tells that this mount has changed a name, and sets the directory's times. FS.mu is
// held.
func (fs *FS) nameChanged(dir *node, name string, ino vfs.Ino) {
	dir.dir.tell(name)
	if ino == 0 {
		fs.noteAbsent(dir, name)
	}
	dir.mu.Lock()
	dir.mtime = vfs.Now()
	dir.ctime = dir.mtime
	dir.mu.Unlock()
	fs.feed.Send(vfs.Change{Kind: vfs.ChangeEntry, Parent: dir.ino, Name: name, Ino: ino})
	fs.dirTouched(dir)
}

// Create implements vfs.FS.
func (fs *FS) Create(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, flags int, out *vfs.Attr) (vfs.File, error) {
	dir, err := fs.prepare(ctx, parent, name)
	if err != nil {
		return nil, fail("create", name, err)
	}
	defer fs.donePlace(dir, name)
	if err := fs.free(ctx, dir, name); err != nil {
		return nil, fail("create", name, err)
	}
	a := fs.newAttrs(c, dir, syscall.S_IFREG, mode)
	var info *object.Info
	if fs.cfg.CreateEmpty {
		i, err := fs.putSmall(ctx, dir.prefix()+name, nil, fs.metadata(syscall.S_IFREG, false, &a), true)
		if err != nil {
			return nil, fail("create", name, err)
		}
		info = &i
	}
	n := fs.added(dir, name, syscall.S_IFREG, a, info)
	defer fs.letGo(n)
	h, err := fs.attach(n, flags)
	if err != nil {
		return nil, err
	}
	if info == nil {
		h.c.mu.Lock()
		h.c.touch() // an empty file is stored, too
		h.c.mu.Unlock()
	}
	fs.fill(n, out)
	return h, nil
}

// putSmall stores an object in one request.
func (fs *FS) putSmall(ctx context.Context, key string, data []byte, meta map[string]string, absent bool) (object.Info, error) {
	absent = absent && fs.store.Capabilities().PutIfAbsent
	return fs.store.Put(ctx, key, bytes.NewReader(data), int64(len(data)), &object.PutOptions{IfAbsent: absent, Metadata: meta})
}

// Mknod implements vfs.FS.
func (fs *FS) Mknod(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, rdev uint32, out *vfs.Attr) error {
	dir, err := fs.prepare(ctx, parent, name)
	if err != nil {
		return fail("mknod", name, err)
	}
	defer fs.donePlace(dir, name)
	if t := mode & syscall.S_IFMT; t != 0 && t != syscall.S_IFREG {
		return syscall.EPERM
	}
	if err := fs.free(ctx, dir, name); err != nil {
		return fail("mknod", name, err)
	}
	a := fs.newAttrs(c, dir, syscall.S_IFREG, mode)
	info, err := fs.putSmall(ctx, dir.prefix()+name, nil, fs.metadata(syscall.S_IFREG, false, &a), true)
	if err != nil {
		return fail("mknod", name, err)
	}
	n := fs.added(dir, name, syscall.S_IFREG, a, &info)
	fs.fill(n, out)
	fs.letGo(n)
	return nil
}

// Symlink implements vfs.FS.
func (fs *FS) Symlink(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name, target string, out *vfs.Attr) error {
	if len(target) > vfs.MaxSymlink {
		return syscall.ENAMETOOLONG
	}
	dir, err := fs.prepare(ctx, parent, name)
	if err != nil {
		return fail("symlink", name, err)
	}
	defer fs.donePlace(dir, name)
	if fs.cfg.Links == NoLinks {
		return syscall.EOPNOTSUPP
	}
	if err := fs.free(ctx, dir, name); err != nil {
		return fail("symlink", name, err)
	}
	link := fs.cfg.Links == SuffixLinks
	key := dir.prefix() + name
	if link {
		key += linkSuffix
	}
	a := fs.newAttrs(c, dir, syscall.S_IFLNK, 0)
	info, err := fs.putSmall(ctx, key, []byte(target), fs.metadata(syscall.S_IFLNK, link, &a), true)
	if err != nil {
		return fail("symlink", name, err)
	}
	info.Size = int64(len(target))
	n := fs.added(dir, name, syscall.S_IFLNK, a, &info)
	n.link = link
	n.mu.Lock()
	n.target = target
	n.mu.Unlock()
	fs.fill(n, out)
	fs.letGo(n)
	return nil
}

// Link implements vfs.FS: an object has one key.
func (fs *FS) Link(ctx context.Context, c *vfs.Caller, ino vfs.Ino, parent vfs.Ino, name string, out *vfs.Attr) error {
	if err := fs.changes(); err != nil {
		return err
	}
	return syscall.EPERM
}

// Mkdir implements vfs.FS.
func (fs *FS) Mkdir(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, out *vfs.Attr) error {
	dir, err := fs.prepare(ctx, parent, name)
	if err != nil {
		return fail("mkdir", name, err)
	}
	defer fs.donePlace(dir, name)
	if err := fs.free(ctx, dir, name); err != nil {
		return fail("mkdir", name, err)
	}
	a := fs.newAttrs(c, dir, syscall.S_IFDIR, mode)
	info, err := fs.putMarker(ctx, dir.prefix()+name, &a, true)
	if err != nil {
		return fail("mkdir", name, err)
	}
	n := fs.added(dir, name, syscall.S_IFDIR, a, info)
	fs.mu.Lock()
	n.dir.complete = time.Now() // it is empty
	fs.mu.Unlock()
	if info == nil {
		fs.setHere(n)
	}
	fs.fill(n, out)
	fs.letGo(n)
	return nil
}

// markerKey is the key of a directory's marker.
func (fs *FS) markerKey(path string) string {
	if fs.cfg.Markers == FolderMarkers {
		return path
	}
	return path + "/"
}

// putMarker makes a directory last. nil: that is not wanted.
func (fs *FS) putMarker(ctx context.Context, path string, a *attrs, absent bool) (*object.Info, error) {
	if fs.real != nil {
		err := fs.real.Mkdir(ctx, path)
		if errors.Is(err, object.ErrExists) && !absent {
			err = nil
		}
		return &object.Info{}, err
	}
	if fs.cfg.Markers == NoMarkers {
		return nil, nil
	}
	info, err := fs.putSmall(ctx, fs.markerKey(path), nil, fs.metadata(syscall.S_IFDIR, false, a), absent)
	return &info, err
}

// keep makes a directory last that would be gone with its last file.
func (fs *FS) keep(ctx context.Context, dir *node) error {
	dir.mu.Lock()
	need := !dir.stored && !dir.here
	a := dir.attrs
	a.xattrs, a.other = maps.Clone(a.xattrs), maps.Clone(a.other)
	dir.mu.Unlock()
	if !need || dir.parent == nil {
		return nil
	}
	info, err := fs.putMarker(ctx, dir.path(), &a, false)
	if err != nil {
		return err
	}
	if info == nil {
		fs.setHere(dir)
		return nil
	}
	dir.mu.Lock()
	defer dir.mu.Unlock()
	dir.stored, dir.etag = true, info.ETag
	return nil
}

// setHere makes a directory last as long as the mount.
func (fs *FS) setHere(dir *node) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	dir.mu.Lock()
	defer dir.mu.Unlock()
	dir.here = true
	fs.unidle(dir)
}

// Unlink implements vfs.FS.
func (fs *FS) Unlink(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string) error {
	dir, n, err := fs.victim(ctx, parent, name)
	if err != nil {
		return fail("unlink", name, err)
	}
	defer fs.donePlace(dir, name)
	defer fs.letGo(n)
	if n.isDir() {
		return syscall.EISDIR
	}
	if err := fs.hold(ctx, n); err != nil {
		return fail("unlink", name, err)
	}
	defer fs.release(n)
	if err := fs.keep(ctx, dir); err != nil {
		return fail("unlink", name, err)
	}
	if err := fs.part(ctx, n); err != nil {
		return fail("unlink", name, err)
	}
	n.mu.Lock()
	stored := n.stored
	n.mu.Unlock()
	if stored {
		if err := fs.store.Delete(ctx, fs.key(n)); err != nil {
			return fail("unlink", name, err)
		}
	}
	fs.removed(dir, n)
	return nil
}

// victim has the place of a name that is to be removed, and holds what is there.
func (fs *FS) victim(ctx context.Context, parent vfs.Ino, name string) (dir, n *node, err error) {
	if err := vfs.CheckName(name); err != nil {
		return nil, nil, err
	}
	if err := fs.changes(); err != nil {
		return nil, nil, err
	}
	if dir, err = fs.usePlace(ctx, parent, name); err != nil {
		return nil, nil, err
	}
	if n, err = fs.find(ctx, dir, name); err != nil {
		fs.donePlace(dir, name)
	}
	return dir, n, err
}

// part brings all of a file here that somebody has open, before its object goes. The node is
// held still.
func (fs *FS) part(ctx context.Context, n *node) error {
	fs.mu.Lock()
	opens := n.opens
	fs.mu.Unlock()
	n.mu.Lock()
	c := n.content
	n.mu.Unlock()
	if opens == 0 || c == nil || n.kind != syscall.S_IFREG {
		return nil
	}
	return fs.fetchAll(ctx, n, c)
}

// removed takes away the name of a node whose object is gone.
func (fs *FS) removed(dir, n *node) {
	n.mu.Lock()
	c := n.content
	n.stored, n.touched = false, false
	n.ctime = vfs.Now()
	n.mu.Unlock()
	if c != nil {
		c.detach()
	}
	fs.queue.remove(fs, n)
	fs.mu.Lock()
	opens := n.opens
	fs.unname(n)
	fs.nameChanged(dir, n.name, 0)
	fs.mu.Unlock()
	if c != nil && opens == 0 {
		n.mu.Lock()
		n.content = nil
		n.mu.Unlock()
		fs.disk.discard(c)
	} else if c != nil {
		fs.disk.unrecord(c)
	}
}

// Rmdir implements vfs.FS.
func (fs *FS) Rmdir(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string) error {
	dir, n, err := fs.victim(ctx, parent, name)
	if err != nil {
		return fail("rmdir", name, err)
	}
	defer fs.donePlace(dir, name)
	defer fs.letGo(n)
	if !n.isDir() {
		return syscall.ENOTDIR
	}
	if err := fs.hold(ctx, n); err != nil {
		return fail("rmdir", name, err)
	}
	defer fs.release(n)
	if err := fs.keep(ctx, dir); err != nil {
		return fail("rmdir", name, err)
	}
	if err := fs.removeDir(ctx, n); err != nil {
		return fail("rmdir", name, err)
	}
	fs.removed(dir, n)
	return nil
}

// removeDir removes the directory of a node that is held still, if it is empty: ENOTEMPTY.
func (fs *FS) removeDir(ctx context.Context, n *node) error {
	fs.mu.Lock()
	for _, child := range n.children {
		if child.keepsItself() {
			fs.mu.Unlock()
			return syscall.ENOTEMPTY
		}
	}
	fs.mu.Unlock()
	path := n.path()
	if fs.real != nil {
		err := fs.real.Rmdir(ctx, path)
		if err != nil && !errors.Is(err, object.ErrNotFound) {
			return err
		}
	} else {
		empty, err := fs.isEmpty(ctx, path)
		if err != nil {
			return err
		}
		if !empty {
			return syscall.ENOTEMPTY
		}
		keys := []string{path + "/"}
		if fs.cfg.Markers == FolderMarkers {
			keys = append(keys, path)
		}
		if err := fs.store.Delete(ctx, keys...); err != nil {
			return err
		}
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, child := range n.children { // others have removed their objects
		fs.unname(child)
	}
	return nil
}

// isEmpty tells whether there is no object below a path but its marker.
func (fs *FS) isEmpty(ctx context.Context, path string) (bool, error) {
	opts := object.ListOptions{Prefix: path + "/", Limit: 2}
	for {
		fs.stats.lists.Add(1)
		page, err := fs.store.List(ctx, opts)
		if err != nil {
			return false, err
		}
		for _, o := range page.Objects {
			if o.Key != path+"/" {
				return false, nil
			}
		}
		if page.Next == "" {
			return true, nil
		}
		opts.Token = page.Next
	}
}
