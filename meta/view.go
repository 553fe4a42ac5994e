package meta

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// view reads typed records from one consistent state. What it returns is decoded
// and belongs to the caller, except byte slices, which are valid only until the
// view's end.
type view struct {
	e   *Engine
	r   kv.Reader
	key []byte // scratch for keys
	end []byte // scratch for the ends of scans
	fn  func(*view) error
	run func(kv.Reader) error // runs fn; made once so that a call allocates nothing
}

var views = sync.Pool{New: func() any {
	v := new(view)
	v.run = func(r kv.Reader) error {
		v.r = r
		if v.e.at != 0 {
			if err := v.reach(v.e.at, v.e.snapshot); err != nil {
				return err
			}
			v.r = newHistoryReader(r, v.e.at)
		}
		return v.fn(v)
	}
	return v
}}

// view runs fn over one state: the present one, or that of the engine's time.
func (e *Engine) view(ctx context.Context, fn func(*view) error) error {
	v := views.Get().(*view)
	v.e, v.fn = e, fn
	err := e.db.View(ctx, v.run)
	v.e, v.fn, v.r = nil, nil, nil
	views.Put(v)
	return interrupted(err)
}

// inode reads the attribute record: ESTALE if there is none.
func (v *view) inode(ino vfs.Ino, n *inode) error {
	v.key = appendInodeKey(v.key[:0], ino)
	b, err := v.r.Get(v.key)
	if err != nil {
		if errors.Is(err, kv.ErrNotFound) {
			return syscall.ESTALE
		}
		return err
	}
	if err := n.decode(b); err != nil {
		return fmt.Errorf("inode %d: %w", ino, err)
	}
	return nil
}

// exists returns ESTALE if there is no such inode.
func (v *view) exists(ino vfs.Ino) error {
	var n inode
	if v.e.cache.get(ino, &n) {
		return nil
	}
	return v.inode(ino, &n)
}

// entry reads what a name means: ENOENT if nothing.
func (v *view) entry(parent vfs.Ino, name string) (entry, error) {
	v.key = appendNameKey(v.key[:0], parent, name)
	b, err := v.r.Get(v.key)
	if err != nil {
		if errors.Is(err, kv.ErrNotFound) {
			return entry{}, syscall.ENOENT
		}
		return entry{}, err
	}
	e, err := decodeName(b)
	if err != nil {
		return entry{}, fmt.Errorf("name %q in directory %d: %w", name, parent, err)
	}
	return e, nil
}

// value reads a record as it is; nil if there is none.
func (v *view) value(key []byte) ([]byte, error) {
	b, err := v.r.Get(key)
	if errors.Is(err, kv.ErrNotFound) {
		return nil, nil
	}
	if err == nil && b == nil {
		b = []byte{}
	}
	return b, err
}

func (v *view) counter(key []byte) (int64, error) {
	b, err := v.value(key)
	if err != nil || b == nil {
		return 0, err
	}
	return kv.Counter(b)
}

func (v *view) target(ino vfs.Ino) (string, error) {
	v.key = appendTargetKey(v.key[:0], ino)
	b, err := v.value(v.key)
	if err == nil && b == nil {
		err = fmt.Errorf("target of symbolic link %d is missing: %w", ino, kv.ErrCorrupt)
	}
	return string(b), err
}

// inline reads the inline content of a file that has some.
func (v *view) inline(ino vfs.Ino) ([]byte, error) {
	v.key = appendInlineKey(v.key[:0], ino)
	b, err := v.value(v.key)
	if err == nil && b == nil {
		err = fmt.Errorf("inline content of inode %d is missing: %w", ino, kv.ErrCorrupt)
	}
	return b, err
}

// xattr returns nil if there is no such attribute.
func (v *view) xattr(ino vfs.Ino, name string) ([]byte, error) {
	v.key = appendXattrKey(v.key[:0], ino, name)
	return v.value(v.key)
}

// chunk appends the extents of a chunk to dst.
func (v *view) chunk(ino vfs.Ino, index uint32, dst []Extent) ([]Extent, error) {
	v.key = appendChunkKey(v.key[:0], ino, index)
	b, err := v.value(v.key)
	if err != nil || b == nil {
		return dst, err
	}
	dst, err = decodeChunk(dst, b)
	if err != nil {
		return dst, fmt.Errorf("chunk %d of inode %d: %w", index, ino, err)
	}
	return dst, nil
}

// scan calls fn with an inode's records of one kind. As in all scans of a view,
// fn must not use the view, whose scratch memory holds the bounds.
func (v *view) scan(kind byte, ino vfs.Ino, fn func(key, value []byte) (bool, error)) error {
	v.key = appendIno(v.key[:0], kind, ino)
	v.end = appendIno(v.end[:0], kind, ino+1)
	return v.r.Scan(v.key, v.end, fn)
}

// chunks calls fn with the chunks of an inode in [from, to], in order. The
// extents are valid during the call.
func (v *view) chunks(ino vfs.Ino, from, to uint32, fn func(index uint32, list []Extent) (bool, error)) error {
	v.key = appendChunkKey(v.key[:0], ino, from)
	if to == 1<<32-1 {
		v.end = appendIno(v.end[:0], kindChunk, ino+1)
	} else {
		v.end = appendChunkKey(v.end[:0], ino, to+1)
	}
	var list []Extent
	return v.r.Scan(v.key, v.end, func(key, value []byte) (bool, error) {
		_, index, err := splitChunkKey(key)
		if err != nil {
			return false, err
		}
		if list, err = decodeChunk(list[:0], value); err != nil {
			return false, fmt.Errorf("chunk %d of inode %d: %w", index, ino, err)
		}
		return fn(index, list)
	})
}

// links calls fn with the names of an inode that has several.
func (v *view) links(ino vfs.Ino, fn func(parent vfs.Ino, name []byte) (bool, error)) error {
	return v.scan(kindLink, ino, func(key, _ []byte) (bool, error) {
		_, parent, name, err := splitLinkKey(key)
		if err != nil {
			return false, err
		}
		return fn(parent, name)
	})
}

// any tells whether an inode has a record of a kind.
func (v *view) any(kind byte, ino vfs.Ino) (found bool, err error) {
	err = v.scan(kind, ino, func(_, _ []byte) (bool, error) {
		found = true
		return false, nil
	})
	return found, err
}
