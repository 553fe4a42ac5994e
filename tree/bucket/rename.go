package bucket

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/vfs"
)

// Rename implements vfs.FS.
func (fs *FS) Rename(ctx context.Context, c *vfs.Caller, oldParent vfs.Ino, oldName string, newParent vfs.Ino, newName string, flags uint32) error {
	if flags&^vfs.RenameNoReplace != 0 {
		return syscall.EINVAL // two objects cannot change places at once
	}
	for _, name := range []string{oldName, newName} {
		if err := vfs.CheckName(name); err != nil {
			return err
		}
	}
	if err := fs.changes(); err != nil {
		return err
	}
	// Only one directory moves at a time: find out whether this is one.
	var a vfs.Attr
	for {
		if err := fs.Lookup(ctx, c, oldParent, oldName, &a); err != nil {
			return err
		}
		again, err := fs.renameAs(ctx, a.IsDir(), oldParent, oldName, newParent, newName, flags)
		if !again {
			return fail("rename", oldName, err)
		}
	}
}

// renameAs renames what must be a directory, or must not; else it is to be called again.
func (fs *FS) renameAs(ctx context.Context, isDir bool, oldParent vfs.Ino, oldName string, newParent vfs.Ino, newName string, flags uint32) (again bool, err error) {
	if isDir {
		select {
		case fs.moveDir <- struct{}{}:
			defer func() { <-fs.moveDir }()
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	from, to, err := fs.usePlaces(ctx, oldParent, oldName, newParent, newName)
	if err != nil {
		return false, err
	}
	same := from == to && oldName == newName
	defer func() {
		if !same {
			fs.donePlace(to, newName)
		}
		fs.donePlace(from, oldName)
	}()
	n, err := fs.find(ctx, from, oldName)
	if err != nil {
		return false, err
	}
	defer fs.letGo(n)
	if n.isDir() != isDir {
		return true, nil
	}
	if same {
		if flags&vfs.RenameNoReplace != 0 {
			return false, syscall.EEXIST
		}
		return false, nil
	}
	if err := fs.storable(to.prefix()+newName, newName); err != nil {
		return false, err
	}
	target, err := fs.find(ctx, to, newName)
	switch {
	case errors.Is(err, syscall.ENOENT):
		target = nil
	case err != nil:
		return false, err
	default:
		defer fs.letGo(target)
	}
	if err := fs.mayReplace(n, from, to, target, flags); err != nil {
		return false, err
	}
	if err := fs.hold(ctx, n); err != nil {
		return false, err
	}
	defer fs.release(n)
	if target != nil {
		if err := fs.hold(ctx, target); err != nil {
			return false, err
		}
		defer fs.release(target)
	}
	if err := fs.keep(ctx, from); err != nil {
		return false, err
	}
	return false, fs.move(ctx, n, from, to, newName, target, flags)
}

// usePlaces has two places.
func (fs *FS) usePlaces(ctx context.Context, parent1 vfs.Ino, name1 string, parent2 vfs.Ino, name2 string) (d1, d2 *node, err error) {
	fs.mu.Lock()
	if d1, err = fs.dirLocked(parent1); err == nil {
		d2, err = fs.dirLocked(parent2)
	}
	if err != nil {
		fs.mu.Unlock()
		return nil, nil, err
	}
	nodes, places := []*node{d1}, []place{{d1, name1}}
	if p := (place{d2, name2}); p != places[0] {
		nodes, places = append(nodes, d2), append(places, p)
	}
	if err := fs.useLocked(ctx, nodes, places); err != nil {
		return nil, nil, err
	}
	fs.mu.Lock()
	gone := d1.gone || d2.gone
	fs.mu.Unlock()
	if gone {
		for i, p := range places {
			fs.donePlace(nodes[i], p.name)
		}
		return nil, nil, syscall.ENOENT
	}
	return d1, d2, nil
}

// mayReplace tells why n, which is in from, cannot take the place of target in to.
func (fs *FS) mayReplace(n, from, to, target *node, flags uint32) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for up := to; up != nil; up = up.parent {
		if up == n {
			return syscall.EINVAL
		}
	}
	if target == nil {
		return nil
	}
	if flags&vfs.RenameNoReplace != 0 {
		return syscall.EEXIST
	}
	for up := from; up != nil; up = up.parent {
		if up == target {
			return syscall.ENOTEMPTY
		}
	}
	switch {
	case n.isDir() && !target.isDir():
		return syscall.ENOTDIR
	case !n.isDir() && target.isDir():
		return syscall.EISDIR
	}
	return nil
}

// move moves a node. It and the target are held still.
func (fs *FS) move(ctx context.Context, n, from, to *node, name string, target *node, flags uint32) error {
	var left error // the move took place, but not all of it
	oldPath, newPath := n.path(), to.prefix()+name
	if target != nil {
		if target.isDir() {
			if err := fs.removeDir(ctx, target); err != nil {
				return err
			}
		} else if err := fs.part(ctx, target); err != nil {
			return err
		}
	}
	if n.isDir() {
		moved, err := fs.moveTree(ctx, n, oldPath, newPath)
		if !moved {
			return err
		}
		left = err
	} else if err := fs.moveFile(ctx, n, newPath, target, flags); err != nil {
		return err
	}
	if target != nil {
		fs.removed(to, target)
	}
	fs.mu.Lock()
	fs.used.add(n.ino)
	delete(from.children, n.name)
	fs.unidle(to)
	oldName := n.name
	n.parent, n.name = to, name
	to.children[name] = n
	from.kids--
	to.kids++
	delete(to.dir.absent, name)
	fs.nameChanged(from, oldName, 0)
	fs.nameChanged(to, name, n.ino)
	fs.settle(from)
	n.mu.Lock()
	n.ctime = vfs.Now()
	if n.content != nil {
		n.content.rebase("", version{key: fs.key(n)})
	}
	recorded := n.content != nil && n.content.isRecorded()
	n.mu.Unlock()
	fs.mu.Unlock()
	if recorded {
		if err := fs.persistHeld(n); err != nil {
			return errors.Join(left, err)
		}
	}
	return left
}

// moveFile moves the object of a file or link, if it has one.
func (fs *FS) moveFile(ctx context.Context, n *node, newPath string, target *node, flags uint32) error {
	oldKey, newKey := fs.key(n), newPath
	if n.link {
		newKey += linkSuffix
	}
	n.mu.Lock()
	stored, etag, size, touched := n.stored, n.etag, n.size, n.touched
	meta := fs.metadata(n.kind, n.link, &n.attrs)
	seq, ctype := n.attrSeq, n.contentType
	n.mu.Unlock()
	if !stored {
		// The first upload goes to the new name. What is there is replaced by that.
		if target == nil {
			return nil
		}
		target.mu.Lock()
		tstored, tetag := target.stored, target.etag
		target.mu.Unlock()
		if target.link != n.link || target.kind != n.kind {
			return fs.removeObject(ctx, target)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.stored, n.etag = tstored, tetag
		return nil
	}
	var info object.Info
	var err error
	if r, ok := object.As[object.Renamer](fs.store); ok {
		if err = r.Rename(ctx, newKey, oldKey); err == nil {
			info, err = fs.head(ctx, newKey)
		}
	} else {
		var opts *object.PutOptions
		if touched {
			opts = &object.PutOptions{Metadata: meta, ContentType: ctype}
		}
		if flags&vfs.RenameNoReplace != 0 && fs.store.Capabilities().PutIfAbsent {
			if opts == nil {
				opts = &object.PutOptions{}
			}
			opts.IfAbsent = true
		}
		fs.stats.copies.Add(1)
		info, err = fs.store.Copy(ctx, newKey, oldKey, opts)
		if err == nil {
			if derr := fs.store.Delete(ctx, oldKey); derr != nil {
				if target == nil { // as it was
					derr = errors.Join(derr, fs.store.Delete(context.WithoutCancel(ctx), newKey))
				}
				return derr
			}
			if touched {
				n.mu.Lock()
				if n.attrSeq == seq {
					n.touched = false
				}
				n.mu.Unlock()
			}
		}
	}
	if errors.Is(err, object.ErrNotFound) {
		n.mu.Lock()
		n.checked = time.Time{}
		n.mu.Unlock()
		return syscall.ENOENT
	}
	if err != nil {
		return err
	}
	if target != nil && target.link != n.link {
		if err := fs.removeObject(ctx, target); err != nil {
			return err
		}
	}
	fs.rebase(n, version{oldKey, etag, size}, version{newKey, info.ETag, size})
	return nil
}

// rebase tells a node that its object is under another key.
func (fs *FS) rebase(n *node, from, to version) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.etag = to.etag
	if n.content != nil {
		n.content.rebase(from.etag, to)
	} else {
		fs.disk.rekey(from, to)
	}
}

func (fs *FS) removeObject(ctx context.Context, n *node) error {
	n.mu.Lock()
	stored := n.stored
	n.mu.Unlock()
	if !stored {
		return nil
	}
	return fs.store.Delete(ctx, fs.key(n))
}
