package block

import (
	"context"
	"errors"
	"time"

	"github.com/massif-fs/massif/object"
)

// Delete removes blocks: their objects, staged copies and cache entries. A block
// that is not there is no error. If some could not be removed the error says
// which; the call can be repeated.
func (s *Store) Delete(ctx context.Context, ids []ID) error {
	keys := make([]string, 0, len(ids))
	for _, id := range ids {
		s.forget(id)
		if id != 0 {
			keys = append(keys, s.key(id))
		}
	}
	if len(keys) == 0 {
		return nil
	}
	if s.stage != nil {
		if err := s.stage.forget(ctx, ids); err != nil {
			return fail("delete", 0, err)
		}
	}
	if err := s.store.Delete(ctx, keys...); err != nil {
		return fail("delete", 0, err)
	}
	s.stats.deletes.Add(int64(len(keys)))
	return nil
}

// Walk calls fn for each block in the object store, in the order of the keys, with
// the size of its object in bytes and the time it was stored. Blocks that are
// only in the stage are not among them. Keys below the prefix that are no block's
// are passed to foreign, if that is not nil. An error of fn or foreign ends the
// walk.
func (s *Store) Walk(ctx context.Context, fn func(id ID, objectBytes int64, modTime time.Time) error) error {
	return s.WalkAll(ctx, fn, nil)
}

// WalkAll is Walk that also reports foreign keys.
func (s *Store) WalkAll(ctx context.Context, fn func(id ID, objectBytes int64, modTime time.Time) error, foreign func(key string, bytes int64) error) error {
	opts := object.ListOptions{Prefix: s.prefix}
	for {
		page, err := s.store.List(ctx, opts)
		if err != nil {
			return fail("list", 0, err)
		}
		for _, o := range page.Objects {
			if id, ok := s.parseKey(o.Key); ok {
				err = fn(id, o.Size, o.ModTime)
			} else {
				s.stats.foreignKeys.Add(1)
				if foreign != nil {
					err = foreign(o.Key, o.Size)
				}
			}
			if err != nil {
				return err
			}
		}
		if page.Next == "" {
			return nil
		}
		opts.Token = page.Next
	}
}

// Exists tells whether block r is in the store, staged or pending, as an object of
// a possible size. It reads none of its bytes.
func (s *Store) Exists(ctx context.Context, r Ref) (bool, error) {
	if s.pending != nil && s.pending.HasPending(uint64(r.ID)) {
		object, err := s.pending.PendingObject(ctx, uint64(r.ID))
		if err != nil || object != nil {
			return object != nil, fail("check", r.ID, err)
		}
	}
	if s.stage != nil {
		if src, ok := s.stage.lookup(r.ID); ok {
			src.release()
			return true, nil
		}
	}
	info, err := s.store.Head(ctx, s.key(r.ID))
	if errors.Is(err, object.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fail("check", r.ID, err)
	}
	if info.Size < fixedBytes+sumBytes {
		return true, fail("check", r.ID, damaged("object has %d bytes", info.Size))
	}
	return true, nil
}

// Verify reads all of block r from the store (or the stage), past the caches, and
// checks every byte: the checksums, and that what is compressed or sealed can be
// undone, where the key is there. An error that is [ErrMissing] or [ErrDamaged] speaks about
// the block, any other about the attempt.
func (s *Store) Verify(ctx context.Context, r Ref) error {
	if err := checkRange(r, 0, int(r.Size)); err != nil {
		return fail("verify", r.ID, err)
	}
	src := s.source(r.ID)
	defer src.release()
	return fail("verify", r.ID, s.verify(ctx, src, r, true))
}

// verify checks all checksums of a block, and, if deep, that its frames can be opened
// and decompressed.
func (s *Store) verify(ctx context.Context, src source, r Ref, deep bool) error {
	size := maxHeaderLength(r.Size, minFrameShift)
	b, err := s.bufs.Get(ctx, s.share, max(int(size), 2*maxRun))
	if err != nil {
		return err
	}
	defer b.Release()
	n, err := src.read(ctx, b.Bytes()[:size], 0)
	if err != nil {
		return err
	}
	h, err := s.parse(b.Bytes()[:n], r)
	if err != nil {
		return err
	}
	deep = deep && s.dec.canOpen(h)
	var dst []byte
	if deep {
		dst = make([]byte, 1<<h.frameShift)
	}
	for i := 0; i < len(h.frames); {
		j, stored := i+1, h.frames[i].stored()
		for j < len(h.frames) && stored+h.frames[j].stored() <= maxRun {
			stored += h.frames[j].stored()
			j++
		}
		if err := readFull(ctx, src, b.Bytes()[:stored], int64(h.frames[i].off)); err != nil {
			return err
		}
		for base := h.frames[i].off; i < j; i++ {
			f := h.frames[i]
			stored := b.Bytes()[f.off-base : f.end()-base]
			if deep {
				err = s.dec.decode(h, i, dst[:h.plain(i)], stored)
			} else {
				err = h.verify(i, stored)
			}
			if err != nil {
				return err
			}
		}
	}
	// Nothing may follow.
	if n, err := src.read(ctx, b.Bytes()[:1], int64(h.object)); err != nil {
		return err
	} else if n > 0 {
		return damaged("object is longer than its %d bytes", h.object)
	}
	return nil
}

// DropCaches forgets all clean data of this store: memory, headers, disk cache.
func (s *Store) DropCaches() error {
	s.headers.dropAll()
	s.memory.DropAll()
	if s.disk != nil {
		s.disk.DropAll()
	}
	return nil
}
