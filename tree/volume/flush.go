package volume

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/internal/crashpoint"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// job is the flush of one node: what it had dirty when it was frozen.
type job struct {
	n        *node
	write    meta.FileWrite
	smallGen uint64 // of the content in write.Inline
	bytes    int64
	whole    bool // all that is dirty of the node
	shared   sharedJob
	err      error // set by flush if it failed
}

// pack is a block being put together from the pieces of one or several files.
type pack struct {
	size uint32
	data [][]byte
}

// freeze takes what is dirty of n for a flush, or returns nil if there is nothing.
// With onlyFull it takes only chunks that are dirty from end to end, so that a file
// which is still being written is cut where it will not be cut again. n.flushMu is
// held.
func (fs *FS) freeze(n *node, onlyFull bool) *job {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.isDirty() {
		return nil
	}
	if fs.shared {
		return fs.freezeShared(n, onlyFull)
	}
	j := &job{n: n, write: meta.FileWrite{Ino: n.ino, Size: uint64(n.size), Mtime: n.mtime}, whole: !onlyFull}
	if n.small {
		if onlyFull {
			return nil
		}
		j.write.SetInline, j.write.Inline = true, slices.Clone(n.content)
		j.smallGen = n.smallGen
		j.write.Reserved = n.reserved
		n.reserved = 0
		return j
	}
	n.full = false
	if !onlyFull {
		n.frozen, n.active = n.active, nil
		j.bytes, n.activeBytes = n.activeBytes, 0
		n.frozenSpace, n.activeSpace = n.activeSpace, 0
	} else {
		var space, end int64
		for index, segs := range n.active {
			if segs.bytes != fs.chunk {
				continue
			}
			if n.frozen == nil {
				n.frozen = make(map[uint32]*segments)
			}
			n.frozen[index] = segs
			delete(n.active, index)
			j.bytes += segs.bytes
			space += segs.memory()
			end = max(end, (int64(index)+1)*fs.chunk)
		}
		if len(n.frozen) == 0 {
			return nil
		}
		n.frozenSpace = space
		n.activeBytes -= j.bytes
		n.activeSpace -= space
		// The size must not reach over data that is not committed.
		j.write.Size = uint64(min(n.size, end))
	}
	j.write.ClearInline = n.hasInline
	j.write.Reserved = min(n.reserved, j.bytes)
	if !onlyFull {
		j.write.Reserved = n.reserved
	}
	n.reserved -= j.write.Reserved
	return j
}

// flushNode makes what is dirty of n durable in the store and commits it. It does
// not make the commit durable. It tells the error of an earlier background flush
// only if it failed itself: otherwise the data is safe now.
func (fs *FS) flushNode(ctx context.Context, n *node) error {
	n.mu.RLock()
	dirty := n.isDirty()
	n.mu.RUnlock()
	if !dirty {
		return nil
	}
	n.flushMu.Lock()
	defer n.flushMu.Unlock()
	return fs.flushLocked(ctx, n)
}

// flushLocked is flushNode for a caller that holds n.flushMu.
func (fs *FS) flushLocked(ctx context.Context, n *node) error {
	j := fs.freeze(n, false)
	if j == nil {
		return nil
	}
	err := fs.flush(ctx, []*job{j}, true)
	n.mu.Lock()
	n.flushErr = nil // told now, or overcome
	n.mu.Unlock()
	return err
}

// flush puts the data of jobs into blocks, the blocks into the store, and commits.
// With awaited, because somebody waits for it, little data may stay in the metadata
// (see pending.go). The flushMu of each job's node is held. If it fails the data is
// dirty again.
func (fs *FS) flush(ctx context.Context, jobs []*job, awaited bool) error {
	gone, err := fs.store(ctx, jobs, awaited)
	for r := (refusals{}); fs.shared && errors.Is(err, meta.ErrLayout); {
		if err = fs.rebase(ctx, jobs); err != nil {
			break
		}
		if err = r.again(ctx, jobs...); err != nil {
			break
		}
		if r.count == maxTogether && len(jobs) > 1 {
			return fs.flushEach(ctx, jobs, awaited)
		}
		gone, err = fs.store(ctx, jobs, awaited)
	}
	for i, j := range jobs {
		switch {
		case err != nil:
			j.err = err
			fs.refreeze(j)
		default:
			fs.finish(j, gone[i])
		}
	}
	if err != nil {
		fs.lastError.Store(&err)
		fs.stats.flushErrors.Add(1)
		return err
	}
	fs.lastError.Store(nil)
	fs.stats.flushes.Add(1)
	return nil
}

// flushEach is flush where one of the files is in the way of the others.
func (fs *FS) flushEach(ctx context.Context, jobs []*job, awaited bool) error {
	var g errgroup.Group
	g.SetLimit(16)
	for _, j := range jobs {
		g.Go(func() error { return fs.flush(ctx, []*job{j}, awaited) })
	}
	_ = g.Wait()
	errs := make([]error, len(jobs))
	for i, j := range jobs {
		errs[i] = j.err
	}
	return errors.Join(errs...)
}

func (fs *FS) store(ctx context.Context, jobs []*job, awaited bool) (gone []bool, err error) {
	packs := fs.pack(jobs)
	var blocks []meta.Block
	if len(packs) > 0 {
		first, err := fs.sess.AllocBlocks(ctx, len(packs))
		if err != nil {
			return nil, err
		}
		blocks = make([]meta.Block, len(packs))
		for i := range packs {
			blocks[i] = meta.Block{ID: first + uint64(i), Size: packs[i].size}
		}
		if awaited && fs.pendable(packs) {
			done, err := fs.pend(ctx, packs, blocks)
			if err != nil {
				return nil, err
			}
			defer done()
		} else if err := fs.put(ctx, packs, blocks); err != nil {
			return nil, err
		}
	}
	writes := make([]meta.FileWrite, len(jobs))
	for i, j := range jobs {
		for c := range j.write.Chunks {
			extents := j.write.Chunks[c].Extents
			for e := range extents {
				b := blocks[extents[e].Block]
				extents[e].Block, extents[e].Size = b.ID, b.Size
			}
		}
		writes[i] = j.write
	}
	crashpoint.Hit("commit.before")
	gone, err = fs.sess.Commit(ctx, blocks, writes)
	crashpoint.Hit("commit.after")
	if errors.Is(err, meta.ErrLayout) && len(blocks) > 0 {
		// Nothing points to the blocks and nothing will: gc finds what stays.
		ids := make([]block.ID, len(blocks))
		for i := range blocks {
			ids[i] = block.ID(blocks[i].ID)
		}
		if delErr := fs.blocks.Delete(ctx, ids); delErr != nil {
			fs.log.Debug("blocks of a commit that came too late stay", "error", delErr)
		}
	}
	return gone, err
}

// put puts packs into the store.
func (fs *FS) put(ctx context.Context, packs []pack, blocks []meta.Block) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := range packs {
		g.Go(func() error { return fs.blocks.Put(gctx, block.ID(blocks[i].ID), packs[i].data...) })
	}
	return g.Wait()
}

// pack lays the frozen segments of jobs out in blocks of at most the chunk size
// and fills in the jobs' extents, with the pack's index in place of the block id.
// Pieces of half a chunk and more get a block of their own, smaller ones share.
func (fs *FS) pack(jobs []*job) []pack {
	var packs []pack
	shared := -1
	place := func(data [][]byte, size uint32) (index int, off uint32) {
		if int64(size) >= fs.chunk/2 {
			packs = append(packs, pack{size: size, data: data})
			return len(packs) - 1, 0
		}
		if shared < 0 || int64(packs[shared].size)+int64(size) > fs.chunk {
			packs = append(packs, pack{})
			shared = len(packs) - 1
		}
		p := &packs[shared]
		off = p.size
		p.size += size
		p.data = append(p.data, data...)
		return shared, off
	}
	for _, j := range jobs {
		if j.write.SetInline {
			continue
		}
		for _, index := range j.chunks() {
			list := j.segments(index)
			var extents []meta.Extent
			for i := 0; i < len(list); {
				e := meta.Extent{Pos: list[i].off}
				var data [][]byte
				for end := e.Pos; i < len(list) && list[i].off == end; i++ {
					data = append(data, list[i].buf)
					end = list[i].end()
					e.Len = end - e.Pos
				}
				at, off := place(data, e.Len)
				e.Block, e.Off = uint64(at), off
				extents = append(extents, e)
			}
			if len(extents) > 0 {
				j.write.Chunks = append(j.write.Chunks, meta.Chunk{Index: index, Extents: extents})
			}
		}
	}
	return packs
}

// finish ends a job that was committed.
func (fs *FS) finish(j *job, gone bool) {
	n := j.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if fs.shared {
		fs.finishShared(j)
	}
	for index, segs := range n.frozen {
		segs.release()
		fs.forgetChunk(n, index)
	}
	n.layoutGen++
	fs.dirty.Release(n.frozenSpace)
	fs.dirtyBytes.Add(-j.bytes)
	n.frozen, n.frozenSpace = nil, 0
	n.sizeDirty = n.sizeDirty && !j.whole
	if n.mtime == j.write.Mtime {
		n.mtime = vfs.Time{}
	}
	if j.write.SetInline && !fs.shared {
		n.hasInline = true
		if n.smallGen == j.smallGen {
			fs.dirty.Release(n.activeSpace)
			fs.dirtyBytes.Add(-n.activeBytes)
			n.smallDirty, n.activeSpace, n.activeBytes = false, 0, 0
		}
	}
	if j.write.ClearInline && !fs.shared {
		n.hasInline = false
	}
	if gone {
		fs.discard(n)
	}
	if fs.shared {
		fs.flushEnd.Lock()
		fs.flushed.add(n.ino, fs.flushGen.Load()+1)
		fs.flushGen.Add(1)
		fs.flushEnd.Unlock()
	} else {
		fs.flushGen.Add(1)
	}
	fs.unmarkDirty(n)
}

// refreeze ends a job that failed: its data is dirty again, under what was written
// since.
func (fs *FS) refreeze(j *job) {
	n := j.n
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reserved += j.write.Reserved
	n.activeSpace += n.frozenSpace
	n.activeBytes += j.bytes
	var freed, lost int64
	for index, old := range n.frozen {
		f, l := n.segments(index).mergeUnder(old)
		freed, lost = freed+f, lost+l
	}
	n.activeSpace -= freed
	n.activeBytes -= lost
	fs.dirty.Release(freed)
	fs.dirtyBytes.Add(-lost)
	n.frozen, n.frozenSpace = nil, 0
}
