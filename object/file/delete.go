package file

import (
	"context"
	"fmt"
	"path"

	"github.com/massif-fs/massif/internal/crashpoint"
	"github.com/massif-fs/massif/object"
	"golang.org/x/sys/unix"
)

// Delete implements object.Store. When it returns, the deletion is durable; a
// batch costs one fsync for each directory, not for each object.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	const op = "delete"
	if s.opts.ReadOnly && len(keys) > 0 {
		return wrap(op, keys[0], unix.EROFS)
	}
	if s.closed.Load() {
		return wrap(op, "", errClosed)
	}
	failed := make(map[string]error)
	inDir := make(map[string][]string) // directory: keys that were removed from it
	for _, key := range keys {
		if err := ctx.Err(); err != nil {
			if len(failed) == 0 {
				return wrap(op, key, err)
			}
			failed[key] = err
			continue
		}
		if err := object.ValidKey(key); err != nil {
			failed[key] = err
			continue
		}
		rel := pathOf(key)
		gone, err := s.unlink(ctx, key, rel)
		if err != nil {
			failed[key] = wrap(op, key, err)
		}
		if gone {
			dir := path.Dir(rel)
			inDir[dir] = append(inDir[dir], key)
		}
	}
	for dir, keys := range inDir {
		if err := s.removed(dir); err != nil {
			for _, key := range keys {
				failed[key] = wrap(op, key, fmt.Errorf("directory %s: %w", dir, err))
			}
		}
	}
	if len(failed) > 0 {
		return &object.DeleteError{Failed: failed}
	}
	return nil
}

// unlink removes the object's file and says whether there was one.
func (s *Store) unlink(ctx context.Context, key, rel string) (bool, error) {
	unlock, err := s.locks.lock(ctx, key)
	if err != nil {
		return false, err
	}
	defer unlock()
	err = retry(func() error { return unix.Unlinkat(s.root, rel, 0) })
	switch err {
	case nil:
		s.files.forget(key)
		crashpoint.Hit("object.file.unlinked")
		return true, nil
	case unix.ENOENT, unix.ENOTDIR, unix.EISDIR:
		return false, nil
	}
	return false, err
}

// removed is called after files were removed from the directory rel: it removes
// the directory if it is empty now, then its parents likewise, and makes that
// durable.
func (s *Store) removed(rel string) error {
	for rel != "." {
		err := retry(func() error { return unix.Unlinkat(s.root, rel, unix.AT_REMOVEDIR) })
		switch err {
		case nil, unix.ENOENT, unix.ENOTDIR:
			rel = path.Dir(rel)
			continue
		}
		// ENOTEMPTY as a rule. Any other reason not to remove an empty directory is
		// no reason to call the deletion of its objects a failure.
		break
	}
	if s.opts.NoSync {
		return nil
	}
	d, err := s.dirs.acquireExisting(rel)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return s.removed(path.Dir(rel)) // somebody else was quicker
	}
	if err != nil {
		return err
	}
	defer s.dirs.release(d)
	return s.syncDir(d)
}
