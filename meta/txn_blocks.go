package meta

import (
	"fmt"
	"syscall"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

type blockChange struct {
	id    uint64
	size  uint32
	fresh bool // registered by this transaction
	refs  int64
	live  int64
}

func (t *txn) block(id uint64) *blockChange {
	i, ok := t.byBlock[id]
	if !ok {
		i = len(t.blocks)
		t.byBlock[id] = i
		t.blocks = append(t.blocks, blockChange{id: id})
	}
	return &t.blocks[i]
}

// refer counts references to a block, and bytes that they cover.
func (t *txn) refer(id uint64, refs, live int64) {
	b := t.block(id)
	b.refs += refs
	b.live += live
}

// register adds a new block: EINVAL if the id is 0 or in use.
func (t *txn) register(nb Block) error {
	t.key = appendBlockKey(t.key[:0], nb.ID)
	old, err := t.view.value(t.key)
	if err != nil {
		return err
	}
	b := t.block(nb.ID)
	if nb.ID == 0 || nb.Size == 0 || old != nil || b.fresh {
		return vfs.WithErrno(syscall.EINVAL, fmt.Errorf("block %d of %d bytes cannot be registered: empty, or its id is in use", nb.ID, nb.Size))
	}
	b.fresh, b.size = true, nb.Size
	return nil
}

// flushBlocks writes the blocks' records. One whose last reference went is put
// into the delete queue, one that is referred to again is taken out.
func (t *txn) flushBlocks() error {
	for i := range t.blocks {
		c := &t.blocks[i]
		if !c.fresh && c.refs == 0 && c.live == 0 {
			continue
		}
		r := blockRecord{size: c.size, created: t.stamp}
		if !c.fresh {
			t.key = appendBlockKey(t.key[:0], c.id)
			b, err := t.view.value(t.key)
			if err != nil {
				return err
			}
			if b == nil {
				return vfs.WithErrno(syscall.EINVAL, fmt.Errorf("block %d is not known", c.id))
			}
			if r, err = decodeBlock(b); err != nil {
				return fmt.Errorf("block %d: %w", c.id, err)
			}
			if r.refs == 0 && c.refs > 0 {
				if !t.revives { // it may be on its way out of the store
					return vfs.WithErrno(syscall.EINVAL, fmt.Errorf("block %d has been retired", c.id))
				}
				t.key = appendQueueKey(t.key[:0], r.retired, c.id)
				t.w.Delete(t.key)
			}
		}
		refs, live := int64(r.refs)+c.refs, int64(r.live)+c.live
		if refs < 0 || live < 0 || refs == 0 && live != 0 {
			return fmt.Errorf("references of block %d do not add up (%d%+d, bytes %d%+d): %w", c.id, r.refs, c.refs, r.live, c.live, kv.ErrCorrupt)
		}
		r.refs, r.live = uint64(refs), uint64(live)
		if refs == 0 {
			r.retired = t.stamp
			t.value = queueRecord{size: r.size, created: r.created}.encode(t.value[:0])
			t.key = appendQueueKey(t.key[:0], t.stamp, c.id)
			t.w.Put(t.key, t.value)
		}
		t.value = r.encode(t.value[:0])
		t.key = appendBlockKey(t.key[:0], c.id)
		t.w.Put(t.key, t.value)
	}
	return nil
}
