package volume

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// piece is a part of a read that lies in a block.
type piece struct {
	ref block.Ref
	off uint32
	p   []byte
}

// ReadAt implements vfs.File.
func (f *file) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if f.flags&syscall.O_ACCMODE == syscall.O_WRONLY {
		return 0, syscall.EBADF
	}
	if off < 0 {
		return 0, syscall.EINVAL
	}
	if f.fs.closing.Load() {
		return 0, errClosed
	}
	// Blocks never change, but a concurrent overwrite may retire one and the
	// maintenance delete it before it is read: then the layout is asked again.
	const attempts = 3
	for attempt := 1; ; attempt++ {
		n, err := f.read(ctx, p, off)
		if err == nil {
			f.fs.stats.read.Add(int64(n))
			return n, nil
		}
		if attempt == attempts || !errors.Is(err, block.ErrMissing) {
			return 0, f.fs.describe("read", f.n, err)
		}
		f.n.mu.Lock()
		f.fs.forgetLayout(f.n)
		f.n.kept = !f.fs.shared // where it lies now may have moved, too
		f.n.mu.Unlock()
	}
}

func (f *file) read(ctx context.Context, p []byte, off int64) (int, error) {
	fs, n := f.fs, f.n
	var store [8]piece
	pieces := store[:0]
	got, pieces, err := fs.plan(ctx, n, p, off, pieces)
	if err != nil || got == 0 {
		return 0, err
	}
	for i := range pieces {
		if err := fs.blocks.ReadAt(ctx, pieces[i].ref, pieces[i].p, pieces[i].off); err != nil {
			return 0, err
		}
	}
	if len(pieces) > 0 {
		f.readAhead(ctx, off, int64(got))
	}
	return got, nil
}

// plan copies what is in memory of the range to p and returns the pieces that must
// be read from blocks to fill it up, and the length of the range.
func (fs *FS) plan(ctx context.Context, n *node, p []byte, off int64, pieces []piece) (int, []piece, error) {
	start := fs.begin()
	for {
		n.mu.RLock()
		if !n.current(start) {
			n.mu.RUnlock()
			n.mu.Lock()
			err := fs.ensure(ctx, n, start)
			n.mu.Unlock()
			if err != nil {
				return 0, nil, err
			}
			continue
		}
		if !n.touched {
			n.mu.RUnlock()
			fs.touch(ctx, n)
			continue
		}
		if off >= n.size {
			n.mu.RUnlock()
			return 0, pieces, nil
		}
		want := p[:min(int64(len(p)), n.size-off)]
		if n.small && !fs.shared {
			clear(want[n.copySmall(want, off):])
			n.mu.RUnlock()
			return len(want), pieces, nil
		}
		missing, found := n.lacksLayout(fs.chunk, off, len(want))
		if !found && !n.based {
			gen := n.layoutGen
			n.mu.RUnlock()
			if err := fs.loadLayout(ctx, n, missing, gen); err != nil {
				return 0, nil, err
			}
			continue
		}
		for at := 0; at < len(want); {
			index, pos := uint32((off+int64(at))/fs.chunk), uint32((off+int64(at))%fs.chunk)
			part := want[at:min(len(want), at+int(fs.chunk)-int(pos))]
			n.active[index].read(part, pos, func(part []byte, pos uint32) {
				n.frozen[index].read(part, pos, func(part []byte, pos uint32) {
					if n.based {
						n.readBase(part, int64(index)*fs.chunk+int64(pos))
					} else {
						pieces = base(n.layout[index], part, pos, pieces)
					}
				})
			})
			at += len(part)
		}
		n.mu.RUnlock()
		return len(want), pieces, nil
	}
}

// copySmall copies from the content of a small file.
func (n *node) copySmall(p []byte, off int64) int {
	if off >= int64(len(n.content)) {
		return 0
	}
	return copy(p, n.content[off:])
}

// lacksLayout returns the first chunk of the range whose extents are needed and not
// known; found is true if there is none.
func (n *node) lacksLayout(chunk, off int64, length int) (index uint32, found bool) {
	for i := off / chunk; i <= (off+int64(length)-1)/chunk; i++ {
		if _, ok := n.layout[uint32(i)]; !ok {
			return uint32(i), false
		}
	}
	return 0, true
}

// maxLayout bounds the extents that all nodes together remember (24 bytes each);
// above it a node remembers only the chunk that it reads.
const maxLayout = 512 << 10

// loadLayout asks the metadata for the extents of a chunk; they are remembered
// unless the layout has changed since gen.
func (fs *FS) loadLayout(ctx context.Context, n *node, index uint32, gen uint64) error {
	extents, err := fs.sess.Extents(ctx, n.ino, index, nil)
	if err != nil {
		return err
	}
	if len(extents) >= compactAt && fs.cfg.Maintainer != nil {
		fs.sawFragmented(n.ino, index)
	}
	if fs.cfg.Refer != nil {
		ids := make([]block.ID, len(extents))
		for i := range extents {
			ids[i] = block.ID(extents[i].Block)
		}
		fs.cfg.Refer(n.ino, index, ids...)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if fs.leased != nil && !fs.leased.Leased(n.ino).Has(meta.LeaseData) {
		n.kept, n.loose = false, true // good for operations that have begun, no longer
	}
	if n.layoutGen != gen {
		return nil
	}
	if fs.layoutSize.Load() > maxLayout {
		fs.forgetLayout(n)
	}
	if n.layout == nil {
		n.layout = make(map[uint32][]meta.Extent)
	}
	fs.layoutSize.Add(int64(len(extents) + 1 - n.weight(index)))
	n.layout[index] = extents
	return nil
}

// base fills p from the extents of a chunk: holes with zeros, the rest it adds to
// pieces.
func base(extents []meta.Extent, p []byte, pos uint32, pieces []piece) []piece {
	lo, hi := 0, len(extents)
	for lo < hi { // the first extent that ends behind pos
		mid := (lo + hi) / 2
		if extents[mid].Pos+extents[mid].Len > pos {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	for ; len(p) > 0; lo++ {
		if lo == len(extents) || extents[lo].Pos >= pos+uint32(len(p)) {
			clear(p)
			break
		}
		e := &extents[lo]
		if e.Pos > pos {
			hole := e.Pos - pos
			clear(p[:hole])
			p, pos = p[hole:], e.Pos
		}
		skip := pos - e.Pos
		length := min(uint32(len(p)), e.Len-skip)
		if e.Block == 0 {
			clear(p[:length])
		} else {
			pieces = append(pieces, piece{block.Ref{ID: block.ID(e.Block), Size: e.Size}, e.Off + skip, p[:length]})
		}
		p, pos = p[length:], pos+length
	}
	return pieces
}

// readAhead asks for what a sequential reader will want next.
func (f *file) readAhead(ctx context.Context, off, length int64) {
	fs, n := f.fs, f.n
	from, size := f.ahead.Next(off, length)
	for size > 0 {
		index, pos := uint32(from/fs.chunk), uint32(from%fs.chunk)
		part := uint32(min(size, fs.chunk-int64(pos)))
		n.mu.RLock()
		past, small := from >= n.size, n.small || n.based
		extents, known := n.layout[index]
		gen := n.layoutGen
		n.mu.RUnlock()
		if past || small {
			return
		}
		if !known {
			if fs.loadLayout(ctx, n, index, gen) != nil {
				return // the read itself will tell
			}
			n.mu.RLock()
			extents = n.layout[index]
			n.mu.RUnlock()
		}
		for i := range extents {
			e := &extents[i]
			start, end := max(e.Pos, pos), min(e.Pos+e.Len, pos+part)
			if e.Block != 0 && start < end {
				fs.blocks.Prefetch(block.Ref{ID: block.ID(e.Block), Size: e.Size}, e.Off+start-e.Pos, end-start)
			}
		}
		from, size = from+int64(part), size-int64(part)
	}
}

// touch updates the access time once for this use of the file.
func (fs *FS) touch(ctx context.Context, n *node) {
	if fs.shared {
		fs.touchShared(n)
		return
	}
	n.mu.Lock()
	first := !n.touched
	n.touched = true
	n.mu.Unlock()
	if !first {
		return
	}
	if err := fs.sess.Touch(ctx, n.ino); err != nil {
		// The data is what the reader wants; a lost access time is worth a note.
		fs.log.Debug("access time not updated", "inode", n.ino, "error", err)
	}
}

func inodeName(ino vfs.Ino) string { return fmt.Sprintf("inode %d", ino) }
