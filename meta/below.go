package meta

import (
	"context"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// Below tells whether an inode is the directory dir or lies below it, by any of its
// names: at one moment, that of the engine if it shows the past. An inode without
// a name lies nowhere, nor does one below a directory that was removed. ESTALE: there
// is no such inode.
func (e *Engine) Below(ctx context.Context, ino, dir vfs.Ino) (below bool, err error) {
	err = e.view(ctx, func(v *view) (err error) {
		below, err = v.below(ino, dir)
		return err
	})
	return below, fail("find directory of inode", "", err)
}

func (v *view) below(ino, dir vfs.Ino) (bool, error) {
	var n inode
	if err := v.inode(ino, &n); err != nil {
		return false, err
	}
	if ino == dir {
		return true, nil
	}
	if n.isDir() || n.nlink <= 1 {
		return v.climbs(n.parent, dir)
	}
	// A file with several names: the home first, it is the likely one.
	below, err := v.climbs(n.parent, dir)
	if err != nil || below {
		return below, err
	}
	var parents []vfs.Ino // each once: names come in order of their directories
	err = v.links(ino, func(parent vfs.Ino, _ []byte) (bool, error) {
		if parent != n.parent && (len(parents) == 0 || parents[len(parents)-1] != parent) {
			parents = append(parents, parent)
		}
		return true, nil
	})
	for _, parent := range parents {
		if err == nil && !below {
			below, err = v.climbs(parent, dir)
		}
	}
	return below, err
}

// climbs tells whether the way from directory at to the root passes dir.
func (v *view) climbs(at, dir vfs.Ino) (bool, error) {
	for depth := 0; at != 0; depth++ {
		if at == dir {
			return true, nil
		}
		if at == vfs.Root {
			return false, nil
		}
		if depth > maxDepth {
			return false, corrupt("directories above %d do not lead to the root", at)
		}
		var n inode
		err := v.inode(at, &n)
		if err == syscall.ESTALE {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		at = n.parent
	}
	return false, nil
}
