package namespace

import (
	"context"
	"path"
	"sort"
	"strings"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// walk finds a path.
func (ns *FS) walk(ctx context.Context, p string) (a vfs.Attr, err error) {
	c := &vfs.Caller{}
	a.Ino = vfs.Root
	for _, name := range strings.Split(path.Clean("/" + p)[1:], "/") {
		if name == "" {
			return a, ns.GetAttr(ctx, c, vfs.Root, &a)
		}
		if err := ns.Lookup(ctx, c, a.Ino, name, &a); err != nil {
			return a, err
		}
	}
	return a, nil
}

// FileInfo is what a namespace tells of a file.
type FileInfo struct {
	ID    int    // of the mounted item that has it
	Token string // change token; "" if there is none just now
}

// FileInfo finds the storage of the file at a path: ENOENT, EISDIR.
func (ns *FS) FileInfo(ctx context.Context, p string) (info FileInfo, err error) {
	a, err := ns.walk(ctx, p)
	if err != nil {
		return info, err
	}
	if a.IsDir() {
		return info, syscall.EISDIR
	}
	t, err := ns.at(ctx, a.Ino)
	if err != nil {
		return info, err
	}
	defer t.leave()
	info.ID = t.p.m.id
	if t.o.Token != nil {
		a.Ino = t.ino
		info.Token, err = t.o.Token(ctx, &a)
	}
	return info, err
}

// DirInfo returns the ids of the storages that have the directory at a path, and of
// those that are mounted there or below. Some come twice.
func (ns *FS) DirInfo(ctx context.Context, p string) (ids []int, err error) {
	p = path.Clean("/" + p)
	a, err := ns.walk(ctx, p)
	switch {
	case err == nil && !a.IsDir():
		return nil, nil
	case err == nil:
		t, err := ns.at(ctx, a.Ino)
		if err != nil {
			return nil, err
		}
		if t.u == nil {
			ids = append(ids, t.p.m.id)
		} else {
			cs, _ := ns.dirsOf(ctx, &vfs.Caller{}, t.u)
			for i := range cs.dirs {
				ids = append(ids, cs.dirs[i].p.m.id)
			}
		}
		t.leave()
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	ns.mu.RLock()
	defer ns.mu.RUnlock()
	var below []int
	for _, m := range ns.mounted {
		for _, at := range m.paths {
			if at == p || p == "/" || strings.HasPrefix(at, p+"/") {
				below = append(below, m.id)
			}
		}
	}
	sort.Ints(below)
	return append(ids, below...), nil
}
