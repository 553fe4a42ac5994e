package volume

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// Flushes on shared volumes. A write to extents lies over what is there, whatever that
// is. Writes that depend on the base, because they put inline content in its place or
// because they are appends, say so (meta.FileWrite.Base), and where another mount has
// changed the file meanwhile, the metadata refuse them (ErrLayout). Then the base is
// asked for again and the same dirty bytes are put over the new one.

// sharedJob is what a job of a shared volume has in addition.
type sharedJob struct {
	onlyFull bool
	loads    uint64 // of the node when it was frozen
	recalled uint64
	under    []byte // inline content that has to move to chunks
}

// chunks lists the chunks that a job writes.
func (j *job) chunks() []uint32 {
	list := slices.Sorted(maps.Keys(j.n.frozen))
	if j.shared.under != nil && (len(list) == 0 || list[0] != 0) {
		list = slices.Insert(list, 0, 0)
	}
	return list
}

// segments returns what a job writes to a chunk.
func (j *job) segments(index uint32) []segment {
	var list []segment
	if s := j.n.frozen[index]; s != nil {
		list = s.list
	}
	if index == 0 && j.shared.under != nil {
		list = underlay(list, j.shared.under)
	}
	return list
}

// freezeShared is freeze on a shared volume. n.mu and n.flushMu are held, n is dirty.
func (fs *FS) freezeShared(n *node, onlyFull bool) *job {
	j := &job{n: n, write: meta.FileWrite{Ino: n.ino, Mtime: n.mtime}}
	j.shared = sharedJob{onlyFull: onlyFull, loads: n.loads, recalled: n.recalled.Load()}
	n.full = false
	if onlyFull && n.appending {
		return nil // others' appends would come between the parts
	}
	if onlyFull {
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
			n.frozenSpace += segs.memory()
		}
		if len(n.frozen) == 0 {
			return nil
		}
		n.activeBytes -= j.bytes
		n.activeSpace -= n.frozenSpace
		j.write.Reserved = min(n.reserved, j.bytes)
	} else {
		n.frozen, n.active = n.active, nil
		j.bytes, n.activeBytes = n.activeBytes, 0
		n.frozenSpace, n.activeSpace = n.activeSpace, 0
		j.write.Reserved = n.reserved
	}
	n.reserved -= j.write.Reserved
	end := fs.endOf(n.frozen)
	j.write.Size = uint64(end)
	inline := n.based && !n.toChunks && !onlyFull && max(int64(len(n.content)), end) <= fs.inline
	if inline || n.hasInline || n.appending {
		j.write.Base = &meta.FileBase{Size: uint64(n.base), Inline: meta.InlineSum(n.content)}
		if n.appending {
			j.write.Base.Size = uint64(n.appendAt) // another base moves it, see rebase
		}
	}
	switch {
	case inline:
		content := make([]byte, max(int64(len(n.content)), end))
		n.frozen[0].read(content, 0, func(p []byte, off uint32) { n.readBase(p, int64(off)) })
		j.write.SetInline, j.write.Inline = true, content
		j.write.Size = uint64(max(n.base, end))
	case n.hasInline:
		j.write.ClearInline, j.shared.under = true, n.content
	}
	return j
}

// finishShared makes what was committed the base, unless something has changed it
// meanwhile: then it is asked for again. n.mu is held.
func (fs *FS) finishShared(j *job) {
	n, w := j.n, &j.write
	if w.SetInline {
		n.setBase(int64(w.Size), true, w.Inline, len(w.Inline) > 0)
	} else {
		n.base = max(n.base, int64(w.Size))
		if w.ClearInline || len(w.Chunks) > 0 {
			n.setBase(n.base, false, nil, false)
		}
	}
	if n.loads != j.shared.loads || n.recalled.Load() != j.shared.recalled {
		n.kept, n.loadedAt = false, 0
	}
	n.dirtyEnd = fs.endOf(n.active)
	n.size = max(n.base, n.dirtyEnd)
	n.appendAt = n.base
	n.appending = n.appending && n.dirtyEnd > n.base
	n.touched = n.touched && (fs.cfg.NoAtime || n.mtime == vfs.Time{})
}

// rebase puts the data of jobs whose commit was refused over the files as they are
// now. The jobs stay frozen whatever it returns.
func (fs *FS) rebase(ctx context.Context, jobs []*job) error {
	var errs []error
	for _, j := range jobs {
		n := j.n
		fs.refreeze(j)
		n.mu.Lock()
		err := fs.loadShared(ctx, n)
		moved := int64(0)
		if err == nil {
			moved = fs.moveAppend(n)
		}
		from := n.base - max(moved, 0)
		n.mu.Unlock()
		if moved != 0 {
			fs.dropPagesSoon(n.ino, from)
		}
		if err != nil && !isGone(err) {
			errs = append(errs, err)
		}
		if fresh := fs.freeze(n, j.shared.onlyFull); fresh != nil {
			*j = *fresh
		} else {
			*j = job{n: n, write: meta.FileWrite{Ino: n.ino}, shared: j.shared}
		}
	}
	return errors.Join(errs...)
}

// moveAppend moves what is to be appended to where the file ends now, and returns how
// far. n.mu is held for writing, nothing is frozen.
//
// It does not wait for memory, which may have been taken by what it moves: pieces keep
// theirs. Where one comes to lie across a border of chunks, the smaller part gets memory
// that is not waited for but counted; it goes with the flush that is under way.
func (fs *FS) moveAppend(n *node) (by int64) {
	by = n.base - n.appendAt
	if !n.appending || by == 0 {
		return 0
	}
	type piece struct {
		off int64
		buf []byte
	}
	var tail []piece
	for index, segs := range n.active {
		start := int64(index) * fs.chunk
		if start+fs.chunk <= n.appendAt {
			continue
		}
		for _, s := range segs.split(uint32(max(n.appendAt-start, 0))) {
			tail = append(tail, piece{start + int64(s.off), s.buf})
		}
		if len(segs.list) == 0 {
			delete(n.active, index)
		}
	}
	slices.SortFunc(tail, func(a, b piece) int { return cmp.Compare(a.off, b.off) })
	for _, t := range tail {
		off := t.off + by
		first, second := splitBuffer(t.buf, int(min(int64(len(t.buf)), fs.chunk-off%fs.chunk)))
		n.segments(uint32(off / fs.chunk)).put(segment{uint32(off % fs.chunk), first})
		if len(second) > 0 {
			n.segments(uint32(off/fs.chunk) + 1).put(segment{0, second})
		}
	}
	var space, dirty int64
	for _, segs := range n.active {
		space += segs.memory()
		dirty += segs.bytes
	}
	fs.dirty.Release(n.activeSpace - space)
	fs.dirtyBytes.Add(dirty - n.activeBytes)
	n.activeSpace, n.activeBytes = space, dirty
	n.appendAt = n.base
	n.dirtyEnd = fs.endOf(n.active)
	n.size = max(n.base, n.dirtyEnd)
	return by
}
