package overlay

import (
	"context"
	"errors"
	"sort"
	"syscall"

	"github.com/zeebo/xxh3"

	"github.com/massif-fs/massif/vfs"
)

// dir is an open directory.
//
// Positions in a directory with a lower part are hashes of names, so that they mean the
// same whatever comes from which tree: the names are read and put in their order. A
// directory that is in the upper tree alone is read as that one is.
type dir struct {
	fs     *FS
	n      *node
	upper  vfs.Dir // of directories without a lower part
	list   []listed
	added  uint64 // node.added when list was read
	read   bool
	closed bool
	e      vfs.DirEntry
}

// listed is a name that shows in a directory with a lower part.
type listed struct {
	cookie uint64
	name   string
	// mode and lower of what is in the lower tree alone and has one name; 0 for others.
	mode  uint32
	lower vfs.Ino
}

const firstCookie = 3

// cookieOf is the position behind a name.
func cookieOf(name string) uint64 {
	return max(xxh3.HashString(name)>>2, firstCookie)
}

// list reads the names that show in a directory, in the order of their positions; with
// one, one of them if there are any. mu is held.
func (fs *FS) list(ctx context.Context, n *node, one bool) (all []listed, err error) {
	if n.dead {
		return nil, nil
	}
	upper := map[string]bool{}
	if n.upper != 0 {
		err := fs.eachName(ctx, fs.upper, n.upper, func(e *vfs.DirEntry) (bool, error) {
			if n == fs.root && e.Name == workName {
				return true, nil
			}
			upper[e.Name] = true
			if e.Mode == syscall.S_IFCHR {
				var a vfs.Attr
				if err := fs.upper.Lookup(ctx, &fs.self, n.upper, e.Name, &a); err != nil || isWhiteout(&a) {
					return err == nil, err
				}
			}
			all = append(all, listed{name: e.Name})
			return !one, nil
		})
		if err != nil || one && len(all) > 0 {
			return all, err
		}
	}
	if n.lower != 0 {
		err := fs.eachName(ctx, fs.lower, n.lower, func(e *vfs.DirEntry) (bool, error) {
			if upper[e.Name] || n == fs.root && e.Name == workName {
				return true, nil
			}
			l := listed{name: e.Name}
			if e.HasAttr && (e.Attr.Nlink < 2 || e.Mode == typeDir) {
				l.mode, l.lower = e.Mode, e.Ino
			}
			all = append(all, l)
			return !one, nil
		})
		if err != nil {
			return nil, err
		}
	}
	for i := range all {
		all[i].cookie = cookieOf(all[i].name)
	}
	sort.Slice(all, func(i, k int) bool {
		if all[i].cookie != all[k].cookie {
			return all[i].cookie < all[k].cookie
		}
		return all[i].name < all[k].name
	})
	for i := 1; i < len(all); i++ { // names of one hash
		all[i].cookie = max(all[i].cookie, all[i-1].cookie+1)
	}
	return all, nil
}

// eachName calls fn with the entries of a directory of one tree until it returns false
// or an error.
func (fs *FS) eachName(ctx context.Context, tree vfs.FS, ino vfs.Ino, fn func(*vfs.DirEntry) (bool, error)) error {
	d, err := tree.OpenDir(ctx, &fs.self, ino)
	if err != nil {
		return err
	}
	// The entries first: a tree may not be called from within Read.
	var batch []vfs.DirEntry
	cookie := uint64(0)
	for more := true; more && err == nil; {
		batch = batch[:0]
		err = d.Read(ctx, cookie, tree == fs.lower, func(e *vfs.DirEntry) bool {
			batch = append(batch, *e)
			return len(batch) < 512
		})
		for i := 0; i < len(batch) && more && err == nil; i++ {
			cookie = batch[i].Cookie
			more, err = fn(&batch[i])
		}
		more = more && len(batch) > 0
	}
	return errors.Join(err, d.Close())
}

// OpenDir implements vfs.FS.
func (fs *FS) OpenDir(ctx context.Context, c *vfs.Caller, ino vfs.Ino) (vfs.Dir, error) {
	n, err := fs.dirOf(ino)
	if err != nil {
		return nil, err
	}
	d := &dir{fs: fs, n: n}
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	if n.lower == 0 && !n.dead {
		if d.upper, err = fs.upper.OpenDir(ctx, &fs.self, n.upper); err != nil {
			return nil, fail("opendir", n.name, err)
		}
	}
	fs.table.open(n, 1)
	return d, nil
}

// Read implements vfs.Dir.
func (d *dir) Read(ctx context.Context, cookie uint64, plus bool, emit func(*vfs.DirEntry) bool) error {
	if d.closed {
		return syscall.EBADF
	}
	if err := d.fs.usable(); err != nil {
		return err
	}
	if d.upper != nil {
		return d.readUpper(ctx, cookie, plus, emit)
	}
	return d.readMerged(ctx, cookie, plus, emit)
}

// describe fills in an entry: by what is known of it, or by looking it up; false if it is
// gone.
func (d *dir) describe(ctx context.Context, l *listed, plus bool) (bool, error) {
	d.e = vfs.DirEntry{Name: l.name, Cookie: l.cookie}
	if !plus && l.lower != 0 {
		d.e.Ino, d.e.Mode = lowerNumber(l.lower), l.mode
		return true, nil
	}
	d.fs.mu.RLock()
	defer d.fs.mu.RUnlock()
	p, err := d.fs.find(ctx, d.n, l.name)
	if err != nil || p.n == nil {
		return false, err
	}
	d.e.Ino, d.e.Mode, d.e.HasAttr, d.e.Attr = p.n.ino, p.n.typ, true, p.attr
	return true, nil
}

func (d *dir) readMerged(ctx context.Context, cookie uint64, plus bool, emit func(*vfs.DirEntry) bool) error {
	d.fs.mu.RLock()
	if !d.read || cookie == 0 || d.added != d.n.added {
		list, err := d.fs.list(ctx, d.n, false)
		if err != nil {
			d.fs.mu.RUnlock()
			return fail("readdir", d.n.name, err)
		}
		d.list, d.added, d.read = list, d.n.added, true
	}
	d.fs.mu.RUnlock()
	i := sort.Search(len(d.list), func(i int) bool { return d.list[i].cookie > cookie })
	for ; i < len(d.list); i++ {
		there, err := d.describe(ctx, &d.list[i], plus)
		if err != nil {
			return fail("readdir", d.n.name, err)
		}
		if there && !emit(&d.e) {
			return nil
		}
	}
	return nil
}

// readUpper reads a directory of the upper tree alone, in batches: an entry's number may
// have to be looked up, which must not be done from within the tree's Read.
func (d *dir) readUpper(ctx context.Context, cookie uint64, plus bool, emit func(*vfs.DirEntry) bool) error {
	for {
		var batch []listed
		err := d.upper.Read(ctx, cookie, false, func(e *vfs.DirEntry) bool {
			batch = append(batch, listed{name: e.Name, cookie: e.Cookie})
			return len(batch) < 128
		})
		if err != nil || len(batch) == 0 {
			return fail("readdir", d.n.name, err)
		}
		for i := range batch {
			there, err := d.describe(ctx, &batch[i], plus)
			if err != nil {
				return fail("readdir", d.n.name, err)
			}
			if there && !emit(&d.e) {
				return nil
			}
			cookie = batch[i].cookie
		}
	}
}

// Sync implements vfs.Dir.
func (d *dir) Sync(ctx context.Context) error {
	if d.closed {
		return syscall.EBADF
	}
	if err := d.fs.usable(); err != nil {
		return err
	}
	if d.upper != nil {
		return d.upper.Sync(ctx)
	}
	top := d.fs.top(d.n)
	if top == 0 || d.n.dead {
		return nil
	}
	u, err := d.fs.upper.OpenDir(ctx, &d.fs.self, top)
	if err != nil {
		return err
	}
	return errors.Join(u.Sync(ctx), u.Close())
}

// Close implements vfs.Dir.
func (d *dir) Close() error {
	if d.closed {
		return syscall.EBADF
	}
	d.closed = true
	var err error
	if d.upper != nil {
		err = d.upper.Close()
	}
	d.fs.table.open(d.n, -1)
	return err
}
