package bucket

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/vfs"
)

// found is what the store says of a name.
type found struct {
	kind   uint32 // 0: there is nothing of that name
	link   bool
	info   object.Info // zero for a directory without a marker
	stored bool        // there is an object
	known  bool        // info has the metadata
	at     time.Time   // when it was asked
}

// Lookup implements vfs.FS.
func (fs *FS) Lookup(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, out *vfs.Attr) error {
	if name == ".." {
		return fs.lookupParent(ctx, parent, out)
	}
	if err := vfs.CheckName(name); err != nil {
		fs.mu.Lock()
		defer fs.mu.Unlock()
		if _, derr := fs.dirLocked(parent); derr != nil {
			return derr
		}
		return err
	}
	if done, err := fs.lookupCached(parent, name, out); done {
		return err
	}
	dir, err := fs.usePlace(ctx, parent, name)
	if err != nil {
		return fail("lookup", name, err)
	}
	defer fs.donePlace(dir, name)
	n, err := fs.find(ctx, dir, name)
	if err != nil {
		return fail("lookup", name, err)
	}
	defer fs.letGo(n)
	fs.fill(n, out)
	return nil
}

func (fs *FS) lookupParent(ctx context.Context, ino vfs.Ino, out *vfs.Attr) error {
	fs.mu.Lock()
	n, err := fs.dirLocked(ino)
	if err == nil && n.parent != nil {
		n = n.parent
	}
	fs.mu.Unlock()
	if err != nil {
		return err
	}
	return fs.GetAttr(ctx, nil, n.ino, out)
}

// lookupCached answers from what is remembered, if that is fresh.
func (fs *FS) lookupCached(parent vfs.Ino, name string, out *vfs.Attr) (done bool, err error) {
	now := time.Now()
	fs.mu.Lock()
	dir, err := fs.dirLocked(parent)
	if err != nil {
		fs.mu.Unlock()
		return true, err
	}
	n := dir.children[name]
	if n == nil {
		known := dir.gone || fs.absentLocked(dir, name, now)
		fs.mu.Unlock()
		if known {
			return true, syscall.ENOENT
		}
		return false, nil
	}
	fs.mu.Unlock()
	if !fs.fresh(n, now) {
		return false, nil
	}
	fs.fill(n, out)
	return true, nil
}

// absentLocked tells whether a name is known not to exist.
func (fs *FS) absentLocked(dir *node, name string, now time.Time) bool {
	if dir.children[name] != nil {
		return false
	}
	if until, ok := dir.dir.absent[name]; ok {
		if now.Before(until) {
			return true
		}
		delete(dir.dir.absent, name)
	}
	return now.Sub(dir.dir.complete) < fs.cfg.ListTimeout || fs.delayed(now)
}

// delayed tells whether the tree is still shown as empty.
func (fs *FS) delayed(now time.Time) bool {
	return fs.cfg.ListDelay > 0 && now.Sub(fs.begun) < fs.cfg.ListDelay
}

// fresh tells whether a node's attributes can be told without asking.
func (fs *FS) fresh(n *node, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.local() || n.parent == nil || n.known && now.Sub(n.checked) < fs.cfg.AttrTimeout
}

// local tells whether this mount knows better than the store. The node's lock is held.
func (n *node) local() bool {
	if n.touched || n.here || !n.stored && !n.isDir() {
		return true
	}
	if n.content == nil {
		return false
	}
	_, changed, _ := n.content.now()
	return changed
}

// listAfter is how many names of a directory are looked up before its listing is got.
const listAfter = 3

// find finds a name in a directory whose place its caller has, and holds the node. ENOENT.
func (fs *FS) find(ctx context.Context, dir *node, name string) (*node, error) {
	now := time.Now()
	fs.mu.Lock()
	n := dir.children[name]
	if n == nil && fs.absentLocked(dir, name, now) {
		fs.mu.Unlock()
		return nil, syscall.ENOENT
	}
	if n != nil {
		n.holds++
		fs.unidle(n)
	}
	misses := dir.dir.misses
	list := n == nil && misses >= listAfter && fs.cfg.ListTimeout > 0 && now.Sub(dir.dir.large) > time.Minute && fs.real == nil
	dir.dir.misses++
	fs.mu.Unlock()
	if n != nil {
		if fs.fresh(n, now) {
			return n, nil
		}
		defer fs.letGo(n)
	}
	if list {
		if err := fs.list(ctx, dir, listedAtOnce); err == nil {
			fs.mu.Lock()
			n = dir.children[name]
			absent := fs.absentLocked(dir, name, time.Now())
			if n != nil {
				n.holds++
				fs.unidle(n)
			}
			fs.mu.Unlock()
			switch {
			case n == nil && absent:
				return nil, syscall.ENOENT
			case n != nil && fs.fresh(n, time.Now()):
				return n, nil
			case n != nil:
				defer fs.letGo(n)
			}
		}
	}
	f, err := fs.ask(ctx, dir, name, n)
	if err != nil {
		return nil, err
	}
	return fs.enter(dir, name, f)
}

// ask asks the store for a name. n is what it was, nil if that is not known.
func (fs *FS) ask(ctx context.Context, dir *node, name string, n *node) (found, error) {
	path := dir.prefix() + name
	if object.ValidKey(path+"/") != nil {
		return found{at: time.Now()}, nil
	}
	now := time.Now()
	if n != nil && !n.isDir() && !n.link && fs.real == nil {
		// It is most likely what it was.
		info, err := fs.head(ctx, path)
		if err == nil && fs.kindOf(&info) == n.kind {
			return found{kind: n.kind, info: info, stored: true, known: true, at: now}, nil
		}
		if err != nil && !errors.Is(err, object.ErrNotFound) {
			return found{}, err
		}
	}
	var file, link, folder found
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		info, err := fs.head(gctx, path)
		if err == nil {
			file = found{kind: fs.kindOf(&info), info: info, stored: true, known: true}
		}
		return unlessAbsent(err)
	})
	if fs.cfg.Links == SuffixLinks {
		group.Go(func() error {
			info, err := fs.head(gctx, path+linkSuffix)
			if err == nil {
				link = found{kind: syscall.S_IFLNK, link: true, info: info, stored: true, known: true}
			}
			return unlessAbsent(err)
		})
	}
	group.Go(func() (err error) {
		folder, err = fs.askDir(gctx, path)
		return err
	})
	if err := group.Wait(); err != nil {
		return found{}, err
	}
	switch {
	case folder.kind != 0 && file.kind != syscall.S_IFDIR:
		file = folder
	case file.kind == 0:
		file = link
	}
	file.at = now
	return file, nil
}

func unlessAbsent(err error) error {
	if errors.Is(err, object.ErrNotFound) {
		return nil
	}
	return err
}

// askDir asks whether a path is a directory.
func (fs *FS) askDir(ctx context.Context, path string) (found, error) {
	if fs.real != nil {
		info, err := fs.real.HeadDir(ctx, path)
		if err != nil {
			return found{}, unlessAbsent(err)
		}
		return found{kind: syscall.S_IFDIR, info: info, stored: true, known: true}, nil
	}
	fs.stats.lists.Add(1)
	// The marker sorts before all else below it.
	page, err := fs.store.List(ctx, object.ListOptions{Prefix: path + "/", Limit: 1})
	for err == nil && len(page.Objects) == 0 && page.Next != "" {
		page, err = fs.store.List(ctx, object.ListOptions{Prefix: path + "/", Limit: 1, Token: page.Next})
	}
	if err != nil || len(page.Objects) == 0 {
		return found{}, err
	}
	info := page.Objects[0]
	if info.Key != path+"/" {
		if fs.cfg.MarkedOnly {
			return found{}, nil
		}
		return found{kind: syscall.S_IFDIR, known: true}, nil
	}
	if info.Metadata == nil && !fs.cfg.NoMetadata {
		info, err = fs.head(ctx, path+"/")
		if errors.Is(err, object.ErrNotFound) { // a listing that is behind, or a directory of the server's own
			return found{kind: syscall.S_IFDIR, known: true}, nil
		}
		if err != nil {
			return found{}, err
		}
	}
	return found{kind: syscall.S_IFDIR, info: info, stored: true, known: true}, nil
}

func (fs *FS) head(ctx context.Context, key string) (object.Info, error) {
	fs.stats.heads.Add(1)
	return fs.store.Head(ctx, key)
}

// enter makes the table agree with what the store said of a name, and holds the node.
func (fs *FS) enter(dir *node, name string, f found) (*node, error) {
	fs.mu.Lock()
	old := dir.children[name]
	if f.kind == 0 {
		if old != nil && !old.keepsItself() {
			fs.lost(old)
			old = nil
		}
		if old == nil {
			fs.noteAbsent(dir, name)
			fs.mu.Unlock()
			return nil, syscall.ENOENT
		}
		old.holds++
		fs.mu.Unlock()
		return old, nil
	}
	n := old
	if n != nil && n.kind != f.kind && n.reshape(f.kind) {
		n.link = f.link
	}
	if n != nil && (n.kind != f.kind || n.link != f.link) {
		if n.keepsItself() {
			n.holds++
			fs.mu.Unlock()
			return n, nil
		}
		fs.lost(n)
		n = nil
	}
	made := n == nil
	if made {
		n = fs.newNode(dir, name, f.kind)
		n.link = f.link
		n.attrs = fs.attrsOf(f.kind, &f.info)
		n.stored, n.etag, n.size = f.stored, f.info.ETag, f.info.Size
		n.known, n.checked = f.known || fs.cfg.NoMetadata, f.at
	}
	n.holds++
	fs.unidle(n)
	fs.mu.Unlock()
	if !made {
		fs.update(n, f)
	}
	return n, nil
}

// reshape makes a node that was only listed what it turned out to be. FS.mu is held.
func (n *node) reshape(kind uint32) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known || n.isDir() || n.pins > 0 || n.opens > 0 || n.local() {
		return false
	}
	if n.kind = kind; n.isDir() {
		n.children, n.dir = make(map[string]*node), &dirState{}
	}
	return true
}

// keepsItself tells whether a node is there because of this mount, whatever the store says.
// FS.mu is held.
func (n *node) keepsItself() bool {
	if n.queued || n.isDir() && (n.users > 0 || len(n.children) > 0) {
		return true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.local()
}

// lost ends a node whose object somebody else has removed. FS.mu is held.
func (fs *FS) lost(n *node) {
	fs.feed.Send(vfs.Change{Kind: vfs.ChangeEntry, Parent: n.parent.ino, Name: n.name, Remote: true})
	fs.unname(n)
}

// update takes over what the store says of a node.
func (fs *FS) update(n *node, f found) {
	n.mu.Lock()
	if n.local() || f.at.Before(n.checked) {
		n.mu.Unlock()
		return
	}
	changed := n.stored && f.stored && !n.isDir() && (n.etag != f.info.ETag || n.size != f.info.Size)
	if changed {
		n.abandon()
		n.target, n.known = "", false
	}
	if n.isDir() && n.known && n.stored && !f.stored {
		// A marker that went, or a directory of a store that does not list them all.
		f.stored, f.info.ETag = true, n.etag
	} else if f.known || !n.known {
		at := n.attrs
		n.attrs = fs.attrsOf(n.kind, &f.info)
		if n.isDir() && !f.stored {
			n.attrs = at // nothing says anything else
		}
	}
	n.stored, n.etag, n.size = f.stored, f.info.ETag, f.info.Size
	n.known = n.known || f.known || fs.cfg.NoMetadata
	if f.at.After(n.checked) {
		n.checked = f.at
	}
	n.mu.Unlock()
	if changed {
		fs.feed.Send(vfs.Change{Kind: vfs.ChangeData, Ino: n.ino, Len: -1, Remote: true})
	}
}

// abandon parts a node from a content whose object is no more. Files that have it get ESTALE.
// The node's lock is held.
func (n *node) abandon() {
	if c := n.content; c != nil {
		c.mu.Lock()
		c.stale = true
		c.mu.Unlock()
		n.content = nil
	}
}

// freshen asks for a node's attributes if they are not fresh. ESTALE if it is gone.
func (fs *FS) freshen(ctx context.Context, n *node) error {
	now := time.Now()
	fs.mu.Lock()
	gone, parent, name := n.gone, n.parent, n.name
	fs.mu.Unlock()
	if gone || parent == nil || fs.fresh(n, now) {
		return nil
	}
	dir, err := fs.usePlace(ctx, parent.ino, name)
	if err != nil {
		return err
	}
	defer fs.donePlace(dir, name)
	m, err := fs.find(ctx, dir, name)
	if errors.Is(err, syscall.ENOENT) || m != nil && m != n {
		err = nil
		fs.mu.Lock()
		if n.gone {
			err = syscall.ESTALE
		}
		fs.mu.Unlock()
	}
	if m != nil {
		fs.letGo(m)
	}
	return err
}

// GetAttr implements vfs.FS.
func (fs *FS) GetAttr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, out *vfs.Attr) error {
	n, err := fs.held(ino)
	if err != nil {
		return err
	}
	defer fs.letGo(n)
	if err := fs.freshen(ctx, n); err != nil {
		return fail("getattr", "", err)
	}
	fs.fill(n, out)
	return nil
}

// held finds a node and holds it in the table.
func (fs *FS) held(ino vfs.Ino) (*node, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := fs.table[ino]
	if n == nil || fs.closed || n.gone && n.opens == 0 && n.pins == 0 {
		return nil, syscall.ESTALE
	}
	n.holds++
	fs.unidle(n)
	return n, nil
}

// fill writes a node's attributes.
func (fs *FS) fill(n *node, out *vfs.Attr) {
	fs.mu.Lock()
	nlink := uint32(1)
	if n.gone {
		nlink = 0
	}
	fs.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	size := n.size
	if n.content != nil {
		size, _, _ = n.content.now()
	}
	if n.isDir() {
		size = 4096
	}
	*out = vfs.Attr{
		Ino: n.ino, Mode: n.kind | n.mode, Nlink: nlink, UID: n.uid, GID: n.gid, Size: uint64(size), Blocks: uint64(size+511) / 512,
		BlockSize: 1 << 20, Atime: n.atime, Mtime: n.mtime, Ctime: n.ctime, Btime: n.btime, NoXattrs: n.known && len(n.xattrs) == 0,
	}
}

// Readlink implements vfs.FS.
func (fs *FS) Readlink(ctx context.Context, c *vfs.Caller, ino vfs.Ino) (string, error) {
	n, err := fs.use(ctx, ino)
	if err != nil {
		return "", err
	}
	defer fs.done(n)
	if n.kind != syscall.S_IFLNK {
		return "", syscall.EINVAL
	}
	n.mu.Lock()
	target := n.target
	n.mu.Unlock()
	if target != "" {
		return target, nil
	}
	body, info, err := fs.store.Get(ctx, fs.key(n), 0, vfs.MaxSymlink+1)
	if err != nil {
		return "", fail("readlink", n.name, err)
	}
	defer body.Close()
	var b strings.Builder
	if _, err := copyAll(&b, body); err != nil {
		return "", fail("readlink", n.name, err)
	}
	if b.Len() > vfs.MaxSymlink || b.Len() == 0 || !utf8.ValidString(b.String()) || strings.IndexByte(b.String(), 0) >= 0 {
		return "", &vfs.Error{Op: "readlink", Name: n.name, Err: vfs.WithErrno(syscall.EIO, errors.New("the object holds no target of a link"))}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.etag == info.ETag {
		n.target = b.String()
	}
	return b.String(), nil
}
