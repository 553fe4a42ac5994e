package overlay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

const (
	typeDir  = syscall.S_IFDIR
	typeFile = syscall.S_IFREG
)

// place is what is under a name in both trees.
type place struct {
	n        *node // what shows; nil: nothing
	attr     vfs.Attr
	upper    bool // the upper tree has the name, be it a whiteout
	whiteout bool
	// covered: the lower tree has the name, so that it would show if the upper one had
	// it not.
	covered bool
}

// find looks a name up. mu is held, in whatever way.
func (fs *FS) find(ctx context.Context, dir *node, name string) (p place, err error) {
	if dir.dead || dir == fs.root && name == workName {
		return p, nil
	}
	var u, l vfs.Attr
	if dir.upper != 0 {
		err := fs.upper.Lookup(ctx, &fs.self, dir.upper, name, &u)
		switch {
		case err == nil:
			p.upper, p.whiteout = true, isWhiteout(&u)
		case !errors.Is(err, syscall.ENOENT):
			return p, err
		}
	}
	if dir.lower != 0 {
		err := fs.lower.Lookup(ctx, &fs.self, dir.lower, name, &l)
		switch {
		case err == nil:
			p.covered = !isWhiteout(&l)
		case !errors.Is(err, syscall.ENOENT):
			return p, err
		}
	}
	switch {
	case p.whiteout, !p.upper && !p.covered:
		return p, nil
	case p.upper:
		p.n, err = fs.upperNode(ctx, dir, name, &u, &l, p.covered)
		p.attr = u
	default:
		p.n, err = fs.lowerNode(ctx, dir, name, &l)
		p.attr = l
		if err == nil && p.n.upper != 0 { // copied up under another name
			err = fs.upper.GetAttr(ctx, &fs.self, p.n.upper, &p.attr)
		}
	}
	if err == nil {
		err = fs.adjust(ctx, p.n, &p.attr)
	}
	return p, err
}

func childPath(dir *node, name string) string {
	if dir.path == "" {
		return name
	}
	return dir.path + "/" + name
}

// lowerNode returns the node of a lower entry that shows.
func (fs *FS) lowerNode(ctx context.Context, dir *node, name string, l *vfs.Attr) (*node, error) {
	if n := fs.table.get(lowerNumber(l.Ino)); n != nil {
		if n.typ != typeDir && !n.shared && n.parent == nil && n.upper == 0 {
			fs.table.moved(n, dir, name)
		}
		return n, nil
	}
	if l.Ino > vfs.MaxIno/2-1 {
		return nil, vfs.WithErrno(syscall.EOVERFLOW, fmt.Errorf("the lower inode number %d has more than 47 bits", l.Ino))
	}
	n := &node{ino: lowerNumber(l.Ino), typ: l.Type(), lower: l.Ino, parent: dir, name: name}
	if n.typ == typeDir {
		n.path = childPath(dir, name)
	} else {
		n.origin = l.Ino
	}
	if n.typ != typeDir && l.Nlink > 1 {
		// Names of one inode: its copy, if there is one, is found by its number.
		n.shared, n.parent = true, nil
		var a vfs.Attr
		err := fs.upper.Lookup(ctx, &fs.self, fs.index, indexKey(l.Ino), &a)
		switch {
		case err == nil:
			n.upper = a.Ino
		case !errors.Is(err, syscall.ENOENT):
			return nil, err
		}
	}
	return fs.table.add(n), nil
}

func indexKey(lower vfs.Ino) string { return strconv.FormatUint(uint64(lower), 16) }

// upperNode returns the node of an upper entry. l is what the lower tree has there if
// it is covered.
func (fs *FS) upperNode(ctx context.Context, dir *node, name string, u, l *vfs.Attr, covered bool) (*node, error) {
	if n := fs.table.ofUpper(u.Ino); n != nil {
		return n, nil
	}
	n := &node{ino: upperNumber(u.Ino), typ: u.Type(), upper: u.Ino}
	if u.Ino > vfs.MaxIno/2-1 {
		return nil, vfs.WithErrno(syscall.EOVERFLOW, fmt.Errorf("the upper inode number %d has more than 47 bits", u.Ino))
	}
	if n.typ != typeDir {
		origin, err := fs.mark(ctx, u, attrOrigin)
		if err != nil {
			return nil, err
		}
		if len(origin) == 8 {
			n.origin = vfs.Ino(binary.LittleEndian.Uint64(origin))
			n.ino = lowerNumber(n.origin)
			// Its copy is in the index if the lower one has several names.
			var a vfs.Attr
			err := fs.upper.Lookup(ctx, &fs.self, fs.index, indexKey(n.origin), &a)
			if err != nil && !errors.Is(err, syscall.ENOENT) {
				return nil, err
			}
			n.shared = err == nil && a.Ino == u.Ino
		}
		return fs.table.add(n), nil
	}
	n.parent, n.name = dir, name
	redirect, err := fs.mark(ctx, u, attrRedirect)
	if err != nil {
		return nil, err
	}
	opaque, err := fs.mark(ctx, u, attrOpaque)
	if err != nil {
		return nil, err
	}
	switch {
	case len(redirect) > 0:
		path, absolute := strings.CutPrefix(string(redirect), "/")
		if !absolute {
			return nil, vfs.WithErrno(syscall.EIO, fmt.Errorf("the layer's redirect %.80q of directory %q is no path from the root", redirect, name))
		}
		if n.lower, err = fs.lowerDir(ctx, path); err != nil {
			return nil, fmt.Errorf("the lower directory %s, which merges with %q: %w", redirect, name, err)
		}
		n.path = path
	case string(opaque) == "y":
	case covered && l.IsDir():
		n.lower, n.path = l.Ino, childPath(dir, name)
	}
	if n.lower != 0 {
		n.ino = lowerNumber(n.lower)
	}
	return fs.table.add(n), nil
}

// lowerDir finds a lower directory by its path.
func (fs *FS) lowerDir(ctx context.Context, path string) (vfs.Ino, error) {
	a := vfs.Attr{Ino: vfs.Root, Mode: typeDir}
	for _, name := range strings.Split(path, "/") {
		if err := fs.lower.Lookup(ctx, &fs.self, a.Ino, name, &a); err != nil {
			return 0, err
		}
	}
	if !a.IsDir() {
		return 0, syscall.ENOTDIR
	}
	return a.Ino, nil
}

// mark reads an attribute of the layer; nil if there is none.
func (fs *FS) mark(ctx context.Context, u *vfs.Attr, name string) ([]byte, error) {
	if u.NoXattrs {
		return nil, nil
	}
	v, err := fs.upper.GetXattr(ctx, &fs.self, u.Ino, fs.prefix+name)
	switch vfs.ErrnoOf(err) {
	case syscall.ENODATA, syscall.EOPNOTSUPP, syscall.EPERM, syscall.EACCES: // links and devices may have none
		return nil, nil
	}
	return v, err
}

func (fs *FS) setMark(ctx context.Context, ino vfs.Ino, name string, value []byte) error {
	return fs.upper.SetXattr(ctx, &fs.self, ino, fs.prefix+name, value, 0)
}

// adjust makes the attributes of one tree's inode those of the overlay's. mu is held.
func (fs *FS) adjust(ctx context.Context, n *node, a *vfs.Attr) error {
	a.Ino = n.ino
	switch {
	case n.typ == typeDir && n.dead:
		a.Nlink = 0
	case n.typ == typeDir && n.lower != 0:
		a.Nlink = 1 // sub-directories are not counted over both trees
	case n.shared && n.upper != 0:
		left, err := fs.lowerNames(ctx, n.origin)
		if err != nil {
			return err
		}
		a.Nlink = max(a.Nlink, 1) - 1 + left // one is the index
	case n.orphan && n.upper == 0:
		a.Nlink = 0
	}
	if n.origin != 0 {
		a.Gen = 0 // the number is the lower one's
	}
	return nil
}

// stat returns the attributes of a node. mu is held.
func (fs *FS) stat(ctx context.Context, n *node, out *vfs.Attr) error {
	var err error
	if n.upper != 0 {
		err = fs.upper.GetAttr(ctx, &fs.self, n.upper, out)
	} else {
		err = fs.lower.GetAttr(ctx, &fs.self, n.lower, out)
	}
	if err != nil {
		return err
	}
	return fs.adjust(ctx, n, out)
}

// GetAttr implements vfs.FS.
func (fs *FS) GetAttr(ctx context.Context, _ *vfs.Caller, ino vfs.Ino, out *vfs.Attr) error {
	if err := fs.usable(); err != nil {
		return err
	}
	n, err := fs.get(ino)
	if err != nil {
		return err
	}
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	return fs.stat(ctx, n, out)
}

// dirOf returns the node of a directory: ESTALE, ENOTDIR.
func (fs *FS) dirOf(ino vfs.Ino) (*node, error) {
	if err := fs.usable(); err != nil {
		return nil, err
	}
	n, err := fs.get(ino)
	if err == nil && n.typ != typeDir {
		err = syscall.ENOTDIR
	}
	return n, err
}

// Lookup implements vfs.FS.
func (fs *FS) Lookup(ctx context.Context, _ *vfs.Caller, parent vfs.Ino, name string, out *vfs.Attr) error {
	dir, err := fs.dirOf(parent)
	if err != nil {
		return err
	}
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	if name == ".." {
		return fs.stat(ctx, dir.parent, out)
	}
	if err := vfs.CheckName(name); err != nil {
		return err
	}
	p, err := fs.find(ctx, dir, name)
	switch {
	case err != nil:
		return fail("lookup", name, err)
	case p.n == nil:
		return syscall.ENOENT
	}
	*out = p.attr
	return nil
}

// Readlink implements vfs.FS.
func (fs *FS) Readlink(ctx context.Context, _ *vfs.Caller, ino vfs.Ino) (string, error) {
	if err := fs.usable(); err != nil {
		return "", err
	}
	n, err := fs.get(ino)
	if err != nil {
		return "", err
	}
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	if n.upper != 0 {
		return fs.upper.Readlink(ctx, &fs.self, n.upper)
	}
	return fs.lower.Readlink(ctx, &fs.self, n.lower)
}
