package volume

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/internal/crashpoint"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

const (
	// deletePause is the time between looks at the delete queue.
	deletePause = 5 * time.Second
	// deleteGrace lets reads of blocks that were just overwritten finish.
	deleteGrace = 10 * time.Second
	deleteBatch = 1000
	// expirePause is the time between clean-ups of history.
	expirePause = 10 * time.Minute
	// compactAt is the number of extents from which a chunk is worth compacting.
	compactAt = 64
	// maxCandidates bounds the chunks remembered for compaction.
	maxCandidates = 4096
)

// fragment names a chunk that was seen with many extents.
type fragment struct {
	ino   vfs.Ino
	index uint32
}

// maintain deletes dead blocks, expires history and compacts chunks, until the FS
// is closed.
func (fs *FS) maintain() {
	pause, grace := deletePause, deleteGrace
	if crashpoint.Armed() {
		// Servers in crash tests live for less than a second; they shall die here, too.
		pause, grace = 100*time.Millisecond, time.Second
	}
	tick := time.NewTicker(pause)
	defer tick.Stop()
	nextExpiry := time.Now().Add(expirePause)
	for {
		select {
		case <-fs.ctx.Done():
			return
		case <-tick.C:
		}
		fs.report("deleting dead blocks", fs.DeleteDead(fs.ctx, time.Now().Add(-grace)))
		fs.report("compacting fragmented chunks", fs.compactSeen(fs.ctx))
		if now := time.Now(); now.After(nextExpiry) {
			nextExpiry = now.Add(expirePause)
			_, err := fs.cfg.Maintainer.Expire(fs.ctx, now)
			fs.report("expiring history", err)
		}
	}
}

// report logs the failure of background work, which is tried again later.
func (fs *FS) report(work string, err error) {
	if err != nil && fs.ctx.Err() == nil {
		fs.log.Warn(work+" failed and is tried again later", "error", err)
	}
}

// DeleteDead deletes the blocks that nothing points to since the given time or
// longer, as far as retention allows.
func (fs *FS) DeleteDead(ctx context.Context, since time.Time) error {
	for {
		dead, err := fs.cfg.Maintainer.DeadBlocks(ctx, since, deleteBatch)
		if err != nil || len(dead) == 0 {
			return err
		}
		// The commit that retired the blocks must outlive their deletion.
		if err := fs.sess.Sync(ctx); err != nil {
			return err
		}
		ids := make([]block.ID, len(dead))
		for i := range dead {
			ids[i] = block.ID(dead[i].ID)
		}
		if err := fs.deleteBlocks(ctx, dead, ids); err != nil {
			return err
		}
		if len(dead) < deleteBatch {
			return nil
		}
	}
}

// deleteBlocks deletes blocks from the store and then from the metadata.
func (fs *FS) deleteBlocks(ctx context.Context, dead []meta.Block, ids []block.ID) error {
	fs.settleMu.Lock() // none of them is being put there
	defer fs.settleMu.Unlock()
	crashpoint.Hit("delete.before")
	if err := fs.blocks.Delete(ctx, ids); err != nil {
		return err
	}
	crashpoint.Hit("delete.after")
	return fs.cfg.Maintainer.ForgetBlocks(ctx, dead)
}

// sawFragmented remembers a chunk for compaction.
func (fs *FS) sawFragmented(ino vfs.Ino, index uint32) {
	fs.fragmentMu.Lock()
	defer fs.fragmentMu.Unlock()
	if fs.fragments == nil {
		fs.fragments = make(map[fragment]struct{})
	}
	if len(fs.fragments) < maxCandidates {
		fs.fragments[fragment{ino, index}] = struct{}{}
	}
}

func (fs *FS) compactSeen(ctx context.Context) error {
	fs.fragmentMu.Lock()
	seen := fs.fragments
	fs.fragments = nil
	fs.fragmentMu.Unlock()
	for f := range seen {
		if err := fs.compact(ctx, f); err != nil && !isGone(err) {
			return err
		}
	}
	return nil
}

// CompactAll compacts every chunk of the volume that has at least min extents.
func (fs *FS) CompactAll(ctx context.Context, min int) (compacted int, err error) {
	var batch []fragment
	err = fs.cfg.Maintainer.Fragmented(ctx, min, func(ino vfs.Ino, index uint32, _ []meta.Extent) bool {
		batch = append(batch, fragment{ino, index})
		return len(batch) < 1<<20
	})
	if err != nil {
		return 0, err
	}
	for _, f := range batch {
		switch err := fs.compact(ctx, f); {
		case err == nil:
			compacted++
		case !isGone(err):
			return compacted, err
		}
	}
	return compacted, nil
}

// compact writes the data of a chunk anew as one block and makes the chunk point to
// it, unless it was changed meanwhile.
func (fs *FS) compact(ctx context.Context, f fragment) error {
	old, err := fs.sess.Extents(ctx, f.ino, f.index, nil)
	if err != nil || len(old) < 2 {
		return err
	}
	var total int64
	for i := range old {
		if old[i].Block != 0 {
			total += int64(old[i].Len)
		}
	}
	if total == 0 {
		return nil
	}
	if err := fs.dirty.Acquire(ctx, total); err != nil {
		return err
	}
	defer fs.dirty.Release(total)
	buf := make([]byte, total)
	fresh := make([]meta.Extent, 0, len(old))
	var off uint32
	for i := range old {
		e := old[i]
		if e.Block != 0 {
			ref := block.Ref{ID: block.ID(e.Block), Size: e.Size}
			if err := fs.blocks.ReadAt(ctx, ref, buf[off:off+e.Len], e.Off); err != nil {
				if errors.Is(err, block.ErrMissing) {
					return nil // overwritten meanwhile; or for fsck to tell
				}
				return err
			}
			last := len(fresh) - 1
			if last >= 0 && fresh[last].Block != 0 && fresh[last].Pos+fresh[last].Len == e.Pos {
				fresh[last].Len += e.Len
				off += e.Len
				continue
			}
			e.Block, e.Size, e.Off = 1, uint32(total), off // the id follows
			off += e.Len
		}
		fresh = append(fresh, e)
	}
	id, err := fs.sess.AllocBlocks(ctx, 1)
	if err != nil {
		return err
	}
	for i := range fresh {
		if fresh[i].Block != 0 {
			fresh[i].Block = id
		}
	}
	if err := fs.blocks.Put(ctx, block.ID(id), buf); err != nil {
		return err
	}
	crashpoint.Hit("compact.put")
	err = fs.sess.Replace(ctx, f.ino, f.index, slices.Clone(old), fresh, []meta.Block{{ID: id, Size: uint32(total)}})
	if err != nil {
		if !errors.Is(err, meta.ErrLayout) && !isGone(err) {
			return err // who knows what became of it: if nothing points to the block, gc finds it
		}
		delErr := fs.blocks.Delete(ctx, []block.ID{block.ID(id)})
		if errors.Is(err, meta.ErrLayout) {
			return delErr // it will be seen again
		}
		return errors.Join(err, delErr)
	}
	if n := fs.useIfPresent(f.ino); n != nil {
		n.mu.Lock()
		fs.forgetLayout(n)
		n.mu.Unlock()
		fs.drop(n)
	}
	return nil
}
