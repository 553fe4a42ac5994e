package meta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// Inline implements Session.
func (s *session) Inline(ctx context.Context, ino vfs.Ino) (data []byte, ok bool, err error) {
	s.lease(ino, LeaseData)
	err = s.e.view(ctx, func(v *view) error {
		v.key = appendInlineKey(v.key[:0], ino)
		b, err := v.value(v.key)
		if err != nil {
			return err
		}
		if ok = b != nil; ok {
			data = bytes.Clone(b)
			return nil
		}
		return v.exists(ino)
	})
	if err != nil {
		return nil, false, fail("read inline content", "", err)
	}
	return data, ok, nil
}

// Extents implements Session.
func (s *session) Extents(ctx context.Context, ino vfs.Ino, index uint32, dst []Extent) ([]Extent, error) {
	s.lease(ino, LeaseData)
	begin := len(dst)
	err := s.e.view(ctx, func(v *view) (err error) {
		dst, err = v.chunk(ino, index, dst[:begin])
		if err != nil || len(dst) > begin {
			return err
		}
		return v.exists(ino)
	})
	return dst, fail("read extents", "", err)
}

// AllocBlocks implements Session.
func (s *session) AllocBlocks(ctx context.Context, n int) (first uint64, err error) {
	if n <= 0 {
		return 0, syscall.EINVAL
	}
	first, err = s.e.blocks.take(ctx, uint64(n))
	return first, fail("allocate block ids", "", err)
}

// Commit implements Session. Written extents behind the size that a file has after
// it are cut off.
func (s *session) Commit(ctx context.Context, blocks []Block, writes []FileWrite) (gone []bool, err error) {
	e := s.e
	defer e.pending.taken(blocks)
	if e.readOnly {
		return nil, syscall.EROFS
	}
	f := e.format.Load()
	chunkSize := f.ChunkSize
	inos := make([]vfs.Ino, len(writes))
	for i := range writes {
		if err := writes[i].check(f); err != nil {
			return nil, fail("commit", "", err)
		}
		inos[i] = writes[i].Ino
	}
	given := s.takeReserved(writes)
	gone = make([]bool, len(writes))
	if r := replayOf(ctx); r != nil {
		r.Gone = gone
	}
	err = e.update(ctx, s, inos, func(t *txn) error {
		for _, b := range blocks {
			if b.Size > chunkSize {
				return vfs.WithErrno(syscall.EINVAL, fmt.Errorf("block %d of %d bytes is greater than a chunk", b.ID, b.Size))
			}
			if err := t.register(b); err != nil {
				return err
			}
			t.pend(b)
		}
		for _, g := range given {
			t.giveBack(g)
		}
		for i := range writes {
			n, err := t.loadFile(writes[i].Ino)
			if gone[i] = errors.Is(err, syscall.ESTALE); gone[i] {
				continue
			}
			if err == nil {
				err = t.write(n, &writes[i])
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.restoreReserved(given)
		return nil, fail("commit", "", err)
	}
	return gone, nil
}

// check returns EINVAL for a write that contradicts itself.
func (w *FileWrite) check(f *Format) error {
	if _, err := f.inlineSize(w.Inline); err != nil {
		return err
	}
	chunkSize := f.ChunkSize
	switch {
	case w.SetInline && (w.ClearInline || len(w.Chunks) > 0):
		return vfs.WithErrno(syscall.EINVAL, errors.New("a write is either inline or in chunks"))
	case w.Size > uint64(chunkSize)<<32:
		return syscall.EFBIG
	case w.Mtime.Nsec > 999_999_999:
		return syscall.EINVAL
	}
	for _, c := range w.Chunks {
		if err := checkExtents(c.Extents, chunkSize); err != nil {
			return err
		}
	}
	return nil
}

// write makes one file's change of a Commit.
func (t *txn) write(n *node, w *FileWrite) error {
	f := t.e.format.Load()
	chunkSize := uint64(f.ChunkSize)
	from, to := uint64(1<<64-1), uint64(0) // what changes
	size := max(n.size, w.Size)
	if w.Base != nil {
		if err := t.checkBase(n, w.Base); err != nil {
			return err
		}
	}
	switch {
	case w.SetInline:
		if n.hasChunks() {
			return ErrLayout
		}
		if n.flags&flagInline != 0 && len(w.Inline) == 0 {
			if err := t.delInline(n); err != nil {
				return err
			}
		} else if len(w.Inline) > 0 {
			if err := t.putInline(n, w.Inline); err != nil {
				return err
			}
		}
		inline, err := f.inlineSize(w.Inline)
		if err != nil {
			return err
		}
		size = max(inline, w.Size)
		from, to = 0, max(size, n.size)
	case w.ClearInline && n.flags&flagInline != 0:
		if err := t.delInline(n); err != nil {
			return err
		}
		from, to = 0, max(size, n.size)
	case n.flags&flagInline != 0 && len(w.Chunks) > 0:
		return ErrLayout
	}
	for _, c := range w.Chunks {
		if len(c.Extents) == 0 {
			continue
		}
		base := uint64(c.Index) * chunkSize
		top := clipWritten(c.Extents, base, size)
		if len(top) == 0 {
			continue
		}
		old, err := t.chunk(n.ino, c.Index, t.lists[0][:0])
		if err != nil {
			return err
		}
		t.lists[0] = old
		list := top
		if len(old) > 0 {
			list = overlayExtents(t.lists[1][:0], old, top)
			t.lists[1] = list
		}
		if err := t.putChunk(n, c.Index, old, list); err != nil {
			return err
		}
		from = min(from, base+uint64(top[0].Pos))
		to = max(to, base+top[len(top)-1].end())
	}
	if size != n.size {
		from, to = min(from, n.size, size), max(to, n.size, size)
		n.size = size
	}
	if w.Mtime != (vfs.Time{}) {
		if n.mtime.Before(w.Mtime) {
			n.mtime = w.Mtime
		}
		if n.ctime.Before(w.Mtime) {
			n.ctime = w.Mtime
		}
	}
	if from < to {
		t.changedData(n.ino, int64(from), int64(to-from))
	} else if n.inode != n.old {
		t.changedAttr(n.ino)
	}
	return nil
}

// checkBase returns ErrLayout if a file is not what a write took it for.
func (t *txn) checkBase(n *node, base *FileBase) error {
	if n.size != base.Size {
		return ErrLayout
	}
	var sum uint64
	if n.flags&flagInline != 0 {
		data, err := t.inline(n.ino)
		if err != nil {
			return err
		}
		sum = InlineSum(data)
	}
	if sum != base.Inline {
		return ErrLayout
	}
	return nil
}

// clipWritten cuts off what extents of a chunk at base have behind size: it would
// show when the file grows again. Unwritten ones may lie there.
func clipWritten(list []Extent, base, size uint64) []Extent {
	n := len(list)
	if n == 0 || base+list[n-1].end() <= size {
		return list
	}
	var kept []Extent
	for _, x := range list {
		switch {
		case x.Block == 0 || base+x.end() <= size:
			kept = append(kept, x)
		case base+uint64(x.Pos) < size:
			kept = append(kept, x.part(0, size-base))
		}
	}
	return kept
}

// Replace implements Session.
func (s *session) Replace(ctx context.Context, ino vfs.Ino, index uint32, old, new []Extent, blocks []Block) error {
	chunkSize := s.e.format.Load().ChunkSize
	if err := checkExtents(new, chunkSize); err != nil {
		return fail("replace extents", "", err)
	}
	err := s.e.update(ctx, s, []vfs.Ino{ino}, func(t *txn) error {
		n, err := t.loadFile(ino)
		if err != nil {
			return err
		}
		have, err := t.chunk(ino, index, nil)
		if err != nil {
			return err
		}
		if len(have) == 0 || !slices.Equal(have, old) {
			return ErrLayout
		}
		for _, b := range blocks {
			if err := t.register(b); err != nil {
				return err
			}
		}
		t.relaid = append(t.relaid, Recall{Kind: LeaseData, Ino: ino, Off: int64(index) * int64(chunkSize), Len: int64(chunkSize)})
		return t.putChunk(n, index, have, clipWritten(new, uint64(index)*uint64(chunkSize), n.size))
	})
	return fail("replace extents", "", err)
}

// Reservations given back by a Commit

type givenBack struct {
	ino   vfs.Ino
	bytes int64
	chain []*quota
}

func (s *session) takeReserved(writes []FileWrite) (list []givenBack) {
	for i := range writes {
		if writes[i].Reserved <= 0 {
			continue
		}
		s.reserve.Lock()
		if r, n := s.take(writes[i].Ino, writes[i].Reserved); n > 0 {
			list = append(list, givenBack{writes[i].Ino, n, r.chain})
		}
		s.reserve.Unlock()
	}
	return list
}

// restoreReserved takes back takeReserved.
func (s *session) restoreReserved(list []givenBack) {
	s.reserve.Lock()
	defer s.reserve.Unlock()
	qt := s.e.quotas
	for _, g := range list {
		if s.closed.Load() { // nobody will give it back any more
			qt.mu.Lock()
			qt.volume.heldBytes -= g.bytes
			hold(g.chain, -g.bytes)
			qt.mu.Unlock()
			continue
		}
		r := s.reserved[g.ino]
		if r == nil {
			r = &reservation{chain: g.chain}
			s.reserved[g.ino] = r
		} else if !slices.Equal(r.chain, g.chain) {
			qt.mu.Lock()
			hold(g.chain, -g.bytes)
			hold(r.chain, g.bytes)
			qt.mu.Unlock()
		}
		r.bytes += g.bytes
	}
}

// giveBack counts reserved bytes that the transaction gives back.
func (t *txn) giveBack(g givenBack) {
	t.chargeOf(&t.e.quotas.volume).given += g.bytes
	for _, q := range g.chain {
		t.chargeOf(q).given += g.bytes
	}
}
