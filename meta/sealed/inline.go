package sealed

import (
	"context"
	"fmt"
	"sync"
	"syscall"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/seal"
	"github.com/massif-fs/massif/vfs"
)

func (s *session) Inline(ctx context.Context, ino vfs.Ino) (data []byte, ok bool, err error) {
	stored, ok, err := s.in.Inline(ctx, ino)
	if err != nil || !ok {
		return nil, ok, err
	}
	data, err = openInline(s.keys, s.place(ino), stored)
	if err != nil {
		return nil, false, damaged("the content of inode %d cannot be read: %w", ino, err)
	}
	s.sums.put(ino, data, stored)
	return data, true, nil
}

func openInline(keys *seal.Meta, ino uint64, stored []byte) ([]byte, error) {
	keep, sealed, err := meta.SplitInline(stored)
	if err != nil {
		return nil, err
	}
	data, err := keys.OpenInline(ino, sealed)
	if err != nil {
		return nil, err
	}
	return data[:keep], nil
}

func sealInline(keys *seal.Meta, ino uint64, data []byte) []byte {
	stored := meta.JoinInline(make([]byte, 0, 4+len(data)+seal.Overhead), len(data))
	return keys.Inline(stored, ino, data)
}

func (s *session) Commit(ctx context.Context, blocks []meta.Block, writes []meta.FileWrite) (gone []bool, err error) {
	out := make([]meta.FileWrite, len(writes))
	for i := range writes {
		w := writes[i]
		if len(w.Inline) > meta.MaxInlineLimit {
			return nil, vfs.WithErrno(syscall.EINVAL, fmt.Errorf("commit: %d bytes are too many to be inline", len(w.Inline)))
		}
		if len(w.Inline) > 0 {
			w.Inline = sealInline(s.keys, s.place(w.Ino), w.Inline)
		}
		if w.Base != nil && w.Base.Inline != 0 {
			base := *w.Base
			if base.Inline, err = s.storedSum(ctx, w.Ino, base.Inline); err != nil {
				return nil, err
			}
			w.Base = &base
		}
		out[i] = w
	}
	gone, err = s.in.Commit(ctx, blocks, out)
	if err == nil {
		for i := range out {
			if out[i].SetInline && len(out[i].Inline) > 0 && !gone[i] {
				s.sums.put(out[i].Ino, writes[i].Inline, out[i].Inline)
			}
		}
	}
	return gone, err
}

// storedSum is the InlineSum of the stored form of the content whose sum is plain,
// if that is what the file has; any other sum, if it is not.
func (s *session) storedSum(ctx context.Context, ino vfs.Ino, plain uint64) (uint64, error) {
	if stored, ok := s.sums.get(ino, plain); ok {
		return stored, nil
	}
	data, ok, err := s.Inline(ctx, ino)
	switch {
	case vfs.ErrnoOf(err) == syscall.ESTALE:
		return 0, nil // the file is gone, as Commit will find
	case err != nil:
		return 0, err
	case !ok || meta.InlineSum(data) != plain:
		return 0, meta.ErrLayout
	}
	if stored, ok := s.sums.get(ino, plain); ok {
		return stored, nil
	}
	return 0, meta.ErrLayout // changed meanwhile
}

// inlineSums remembers, of files whose inline content was read or written, the sums
// of its plain and of its stored form, so that a commit can tell the engine in its
// terms what the client took the file for. It only saves reads.
type inlineSums struct {
	mu sync.Mutex
	of map[vfs.Ino]inlineSum
}

type inlineSum struct{ plain, stored uint64 }

// maxSums bounds the memory of inlineSums: some 40 bytes each.
const maxSums = 1 << 14

func (t *inlineSums) put(ino vfs.Ino, plain, stored []byte) {
	sum := inlineSum{meta.InlineSum(plain), meta.InlineSum(stored)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = make(map[vfs.Ino]inlineSum)
	}
	if len(t.of) >= maxSums {
		for old := range t.of { // any
			delete(t.of, old)
			break
		}
	}
	t.of[ino] = sum
}

func (t *inlineSums) get(ino vfs.Ino, plain uint64) (stored uint64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	sum, ok := t.of[ino]
	return sum.stored, ok && sum.plain == plain
}
