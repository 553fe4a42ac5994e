package meta

import (
	"context"
	"errors"
	"math"
	"sync"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// MaxLinks is the greatest link count: more names of a file, or more
// subdirectories of a directory, give EMLINK.
const MaxLinks = math.MaxInt32

// firstCookie is the cookie of a directory's first entry: 1 and 2 are left to "."
// and "..".
const firstCookie = 3

const permissionBits = 0o7777

// GetAttr implements Session.
func (s *session) GetAttr(ctx context.Context, _ *vfs.Caller, ino vfs.Ino, out *vfs.Attr) error {
	s.lease(ino, LeaseAttr)
	var n inode
	if err := s.e.attr(ctx, ino, &n); err != nil {
		return fail("stat", "", err)
	}
	n.fill(ino, out)
	return nil
}

// Lookup implements Session.
func (s *session) Lookup(ctx context.Context, _ *vfs.Caller, parent vfs.Ino, name string, out *vfs.Attr) error {
	e := s.e
	if name == ".." {
		return s.lookupParent(ctx, parent, out)
	}
	if err := s.e.format.Load().checkName(name); err != nil {
		return err
	}
	s.lease(parent, LeaseNames)
	l := lookups.Get().(*lookup)
	l.e, l.parent, l.name = e, parent, name
	err := l.run(ctx, out)
	for err == nil && s.implicit() { // the attributes must not be older than their lease
		ino := out.Ino
		if err = s.GetAttr(ctx, nil, ino, out); !errors.Is(err, syscall.ESTALE) {
			break
		}
		err = l.run(ctx, out) // the name means something else by now
	}
	l.e, l.name = nil, ""
	lookups.Put(l)
	return fail("lookup", name, err)
}

// lookup is the memory of a Lookup, so that it allocates nothing.
type lookup struct {
	e      *Engine
	parent vfs.Ino
	name   string
	ent    entry
	node   inode
	cached bool
	fn     func(*view) error // read, made once
}

var lookups = sync.Pool{New: func() any {
	l := new(lookup)
	l.fn = l.read
	return l
}}

func (l *lookup) run(ctx context.Context, out *vfs.Attr) error {
	turn := l.e.cache.now()
	if err := l.e.view(ctx, l.fn); err != nil {
		return err
	}
	if !l.cached {
		l.e.cache.fill(l.ent.ino, &l.node, turn)
	}
	l.node.fill(l.ent.ino, out)
	return nil
}

func (l *lookup) read(v *view) (err error) {
	if l.ent, err = v.entry(l.parent, l.name); err != nil {
		if err == syscall.ENOENT {
			err = l.e.noEntry(v, l.parent)
		}
		return err
	}
	if l.cached = l.e.cache.get(l.ent.ino, &l.node); l.cached {
		return nil
	}
	if err = v.inode(l.ent.ino, &l.node); errors.Is(err, syscall.ESTALE) {
		err = missing(l.ent.ino, l.name)
	}
	return err
}

// noEntry tells why a directory has no entry: ENOENT, or ENOTDIR or ESTALE.
func (e *Engine) noEntry(v *view, dir vfs.Ino) error {
	var n inode
	if !e.cache.get(dir, &n) {
		if err := v.inode(dir, &n); err != nil {
			return err
		}
	}
	if !n.isDir() {
		return syscall.ENOTDIR
	}
	return syscall.ENOENT
}

func (s *session) lookupParent(ctx context.Context, ino vfs.Ino, out *vfs.Attr) error {
	for {
		var n inode
		if err := s.e.attr(ctx, ino, &n); err != nil {
			return fail("lookup", "..", err)
		}
		if !n.isDir() {
			return syscall.ENOTDIR
		}
		parent := n.parent
		if parent == 0 {
			return syscall.ENOENT // the directory has been removed
		}
		err := s.e.attr(ctx, parent, &n)
		if errors.Is(err, syscall.ESTALE) {
			continue // moved and its old parent removed in between
		}
		if err != nil {
			return fail("lookup", "..", err)
		}
		n.fill(parent, out)
		return nil
	}
}

// Readlink implements Session.
func (s *session) Readlink(ctx context.Context, _ *vfs.Caller, ino vfs.Ino) (target string, err error) {
	s.lease(ino, LeaseAttr)
	err = s.e.view(ctx, func(v *view) error {
		var n inode
		if err := v.inode(ino, &n); err != nil {
			return err
		}
		if !n.isSymlink() {
			return syscall.EINVAL
		}
		target, err = v.target(ino)
		return err
	})
	return target, fail("readlink", "", err)
}

// Mknod implements Session.
func (s *session) Mknod(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode, rdev uint32, out *vfs.Attr) error {
	switch mode & syscall.S_IFMT {
	case 0:
		mode |= syscall.S_IFREG
	case syscall.S_IFREG, syscall.S_IFIFO, syscall.S_IFSOCK:
	case syscall.S_IFCHR, syscall.S_IFBLK:
		return s.make(ctx, "mknod", c, parent, name, mode, rdev, "", false, out)
	case syscall.S_IFDIR:
		return syscall.EPERM
	default:
		return syscall.EINVAL
	}
	return s.make(ctx, "mknod", c, parent, name, mode, 0, "", false, out)
}

// Create implements Creator.
func (s *session) Create(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, out *vfs.Attr) error {
	return s.make(ctx, "create", c, parent, name, mode&permissionBits|syscall.S_IFREG, 0, "", true, out)
}

// Mkdir implements Session.
func (s *session) Mkdir(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, out *vfs.Attr) error {
	return s.make(ctx, "mkdir", c, parent, name, syscall.S_IFDIR|mode&permissionBits, 0, "", false, out)
}

// Symlink implements Session.
func (s *session) Symlink(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name, target string, out *vfs.Attr) error {
	if err := s.e.format.Load().checkTarget(target); err != nil {
		return err
	}
	return s.make(ctx, "symlink", c, parent, name, syscall.S_IFLNK|0o777, 0, target, false, out)
}

// make makes a new inode with a name.
func (s *session) make(ctx context.Context, op string, c *vfs.Caller, parent vfs.Ino, name string, mode, rdev uint32, target string, use bool, out *vfs.Attr) error {
	if err := s.e.format.Load().checkName(name); err != nil {
		return err
	}
	if s.e.readOnly {
		return syscall.EROFS
	}
	ino, err := s.newIno(ctx)
	if err != nil {
		return fail(op, name, err)
	}
	err = s.e.update(ctx, s, []vfs.Ino{parent, ino}, func(t *txn) error {
		dir, err := t.loadDir(parent)
		if err != nil {
			return err
		}
		if err := t.free(parent, name); err != nil {
			return err
		}
		if err := t.unused(ino); err != nil {
			return err
		}
		in := inode{
			mode: mode, nlink: 1, uid: c.UID, gid: c.GID, gen: 1, rdev: rdev, parent: parent,
			atime: t.now, mtime: t.now, ctime: t.now, btime: t.now,
		}
		switch in.kind() {
		case syscall.S_IFDIR:
			in.nlink, in.next = 2, firstCookie
			if dir.nlink >= t.e.maxLinks {
				return syscall.EMLINK
			}
			dir.nlink++
		case syscall.S_IFLNK:
			in.size = t.e.format.Load().targetSize(target)
		}
		inheritGroup(&dir.inode, &in, c)
		n := t.create(ino, in)
		if err := t.inheritACL(dir, n, c.Umask); err != nil {
			return err
		}
		if n.isSymlink() {
			if err := t.putTarget(ino, target); err != nil {
				return err
			}
		}
		if err := t.enterName(dir, name, n, entry{}); err != nil {
			return err
		}
		n.fill(ino, out)
		if use {
			t.then = append(t.then, func() { s.Open(ino) })
		}
		return nil
	})
	return fail(op, name, err)
}

// inheritGroup gives a new inode the group of a set-group-id directory. A directory
// inherits the bit too; a group-executable file keeps a bit of its own only if its
// maker may give it.
func inheritGroup(dir, in *inode, c *vfs.Caller) {
	if dir.mode&syscall.S_ISGID == 0 {
		return
	}
	in.gid = dir.gid
	if in.isDir() {
		in.mode |= syscall.S_ISGID
	} else if in.mode&(syscall.S_ISGID|0o010) == syscall.S_ISGID|0o010 && c.UID != 0 && c.GID != dir.gid {
		in.mode &^= syscall.S_ISGID
	}
}

// free returns EEXIST if a directory has a name.
func (t *txn) free(dir vfs.Ino, name string) error {
	_, err := t.entry(dir, name)
	switch err {
	case nil:
		return syscall.EEXIST
	case syscall.ENOENT:
		return nil
	}
	return err
}

// enterName makes name mean n, in the place of old if that has a cookie. The link
// counts, and `p` records of a file with several names, are the caller's business.
func (t *txn) enterName(dir *node, name string, n *node, old entry) error {
	ent := entry{ino: n.ino, kind: n.kind(), cookie: old.cookie}
	if old.cookie == 0 {
		dir.entries++
	}
	if err := t.putName(dir, name, &ent); err != nil {
		return err
	}
	if n.isDir() || n.nlink == 1 {
		n.parent, n.cookie = dir.ino, ent.cookie
	}
	dir.mtime, dir.ctime = t.now, t.now
	t.changedEntry(dir.ino, name, n.ino)
	return nil
}

// leaveName removes a name from a directory.
func (t *txn) leaveName(dir *node, name string, ent entry) error {
	if err := t.delName(dir, name, ent); err != nil {
		return err
	}
	if dir.entries == 0 {
		return corrupt("directory %d counts no entries but has %q", dir.ino, name)
	}
	dir.entries--
	dir.mtime, dir.ctime = t.now, t.now
	t.changedEntry(dir.ino, name, 0)
	return nil
}

// dropName counts that an inode that is no directory has lost a name in dir, and
// removes what has none any more.
func (t *txn) dropName(n *node, dir vfs.Ino, name string) error {
	n.ctime = t.now
	switch n.nlink {
	case 0:
		return corrupt("inode %d has the name %q but no links", n.ino, name)
	case 1:
		if err := t.dropInode(n); err != nil {
			return err
		}
	default:
		if err := t.delLink(n.ino, dir, name); err != nil {
			return err
		}
		n.nlink--
		if err := t.rehome(n); err != nil {
			return err
		}
	}
	t.changedLink(n)
	return nil
}

// rehome makes one of the directories in which a file has names its home, if the
// present one is none, and removes the `p` record of a single name.
func (t *txn) rehome(n *node) error {
	var first vfs.Ino
	var last string
	names, atHome := 0, false
	// The records are in the order of directories: that a few tell is usual.
	err := t.links(n.ino, func(parent vfs.Ino, name []byte) (bool, error) {
		if names++; names == 1 {
			first, last = parent, string(name)
		}
		atHome = atHome || parent == n.parent
		return !atHome || names < 2, nil
	})
	if err != nil {
		return err
	}
	if names == 0 {
		return corrupt("inode %d counts %d links but has no names", n.ino, n.nlink)
	}
	if !atHome {
		n.parent = first
	}
	if n.nlink > 1 {
		return nil
	}
	ent, err := t.entry(first, last)
	if err == syscall.ENOENT {
		return corrupt("name %q of inode %d in directory %d is not there", last, n.ino, first)
	}
	if err != nil {
		return err
	}
	n.cookie = ent.cookie
	return t.delLink(n.ino, first, last)
}

// recordOnlyName writes the `p` record of the only name of a file that is about to
// get a second one.
func (t *txn) recordOnlyName(n *node) error {
	t.key = appendEntryKey(t.key[:0], n.parent, n.cookie)
	b, err := t.view.value(t.key)
	if err != nil {
		return err
	}
	if b == nil {
		return corrupt("the name of inode %d in directory %d is missing", n.ino, n.parent)
	}
	ent, name, err := decodeEntry(b)
	if err != nil {
		return err
	}
	if ent.ino != n.ino {
		return corrupt("the name of inode %d in directory %d means inode %d", n.ino, n.parent, ent.ino)
	}
	n.cookie = 0
	return t.putLink(n.ino, n.parent, string(name))
}

// Link implements Session.
func (s *session) Link(ctx context.Context, _ *vfs.Caller, ino, parent vfs.Ino, name string, out *vfs.Attr) error {
	if err := s.e.format.Load().checkName(name); err != nil {
		return err
	}
	err := s.e.update(ctx, s, []vfs.Ino{ino, parent}, func(t *txn) error {
		dir, err := t.loadDir(parent)
		if err != nil {
			return err
		}
		n, err := t.load(ino)
		switch {
		case err != nil:
			return err
		case n.isDir():
			return syscall.EPERM
		case n.nlink == 0 && n.flags&flagLinkable == 0:
			return syscall.ENOENT // a file that has lost its name stays without
		}
		if err := t.free(parent, name); err != nil {
			return err
		}
		if n.nlink >= t.e.maxLinks {
			return syscall.EMLINK
		}
		switch n.nlink {
		case 0:
			t.nameFirst(n)
		case 1:
			if err := t.recordOnlyName(n); err != nil {
				return err
			}
		}
		n.nlink++
		n.ctime = t.now
		if n.nlink > 1 {
			if err := t.putLink(ino, parent, name); err != nil {
				return err
			}
		}
		if err := t.enterName(dir, name, n, entry{}); err != nil {
			return err
		}
		t.changedAttr(ino)
		n.fill(ino, out)
		return nil
	})
	return fail("link", name, err)
}

// Unlink implements Session.
func (s *session) Unlink(ctx context.Context, _ *vfs.Caller, parent vfs.Ino, name string, out *vfs.Attr) error {
	if err := s.e.format.Load().checkName(name); err != nil {
		return err
	}
	err := s.e.update(ctx, s, []vfs.Ino{parent}, func(t *txn) error {
		dir, err := t.loadDir(parent)
		if err != nil {
			return err
		}
		ent, err := t.entry(parent, name)
		if err != nil {
			return err
		}
		if ent.kind == syscall.S_IFDIR {
			return syscall.EISDIR
		}
		n, err := t.loadNamed(ent, name)
		if err != nil {
			return err
		}
		if err := t.leaveName(dir, name, ent); err != nil {
			return err
		}
		if err := t.dropName(n, parent, name); err != nil {
			return err
		}
		n.fill(n.ino, out)
		return nil
	})
	return fail("unlink", name, err)
}

// loadNamed is load for what an entry means: its absence is damage.
func (t *txn) loadNamed(ent entry, name string) (*node, error) {
	n, err := t.load(ent.ino)
	if errors.Is(err, syscall.ESTALE) {
		return nil, missing(ent.ino, name)
	}
	return n, err
}

// Rmdir implements Session.
func (s *session) Rmdir(ctx context.Context, _ *vfs.Caller, parent vfs.Ino, name string) error {
	if err := s.e.format.Load().checkName(name); err != nil {
		return err
	}
	err := s.e.update(ctx, s, []vfs.Ino{parent}, func(t *txn) error {
		dir, err := t.loadDir(parent)
		if err != nil {
			return err
		}
		ent, err := t.entry(parent, name)
		if err != nil {
			return err
		}
		if ent.kind != syscall.S_IFDIR {
			return syscall.ENOTDIR
		}
		n, err := t.loadNamed(ent, name)
		if err != nil {
			return err
		}
		if n.entries != 0 {
			return syscall.ENOTEMPTY
		}
		if err := t.leaveName(dir, name, ent); err != nil {
			return err
		}
		return t.dropDir(dir, n)
	})
	return fail("rmdir", name, err)
}

// dropDir removes an empty directory that has lost its name in dir.
func (t *txn) dropDir(dir, n *node) error {
	if dir.nlink <= 2 {
		return corrupt("directory %d counts no subdirectories but has one", dir.ino)
	}
	dir.nlink--
	n.ctime = t.now
	if q := t.e.quotas.of(n.ino); q != nil {
		t.delQuota(q)
	}
	if err := t.dropInode(n); err != nil {
		return err
	}
	t.changedLink(n)
	return nil
}
