package meta

import (
	"context"
	"io"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/vfs"
)

// Modes of Allocate, with Linux's values.
const (
	fallocKeepSize  = unix.FALLOC_FL_KEEP_SIZE
	fallocPunchHole = unix.FALLOC_FL_PUNCH_HOLE
	fallocZeroRange = unix.FALLOC_FL_ZERO_RANGE
)

// stepChunks is how many chunks one transaction of Allocate or CopyRange changes:
// longer ranges take several, and an error leaves what those before it did.
const stepChunks = 4096

// Allocate implements Session.
func (s *session) Allocate(ctx context.Context, _ *vfs.Caller, ino vfs.Ino, mode uint32, off, length uint64) error {
	switch mode {
	case 0, fallocKeepSize, fallocPunchHole | fallocKeepSize, fallocZeroRange, fallocZeroRange | fallocKeepSize:
	default:
		return syscall.EOPNOTSUPP
	}
	if length == 0 {
		return syscall.EINVAL
	}
	end := off + length
	if end < off || end > s.e.maxSize() {
		return syscall.EFBIG
	}
	chunkSize := uint64(s.e.format.Load().ChunkSize)
	for at := off; at < end; {
		next := min(end, (at/chunkSize+stepChunks)*chunkSize)
		err := s.e.update(ctx, s, []vfs.Ino{ino}, func(t *txn) error {
			n, err := t.loadFile(ino)
			if err != nil {
				return err
			}
			if n.flags&flagInline != 0 {
				return ErrLayout
			}
			t.partial = next < end
			return t.allocate(n, mode, at, next)
		})
		if err != nil {
			return fail("allocate space", "", err)
		}
		at = next
	}
	return nil
}

// allocate changes the range [from, to).
func (t *txn) allocate(n *node, mode uint32, from, to uint64) error {
	var err error
	if mode&fallocPunchHole != 0 {
		err = t.punch(n, from, to)
	} else {
		err = t.eachChunk(from, to, func(index uint32, from, to uint64) error {
			old, err := t.chunk(n.ino, index, nil)
			if err != nil {
				return err
			}
			var list []Extent
			if mode&fallocZeroRange != 0 {
				list = overlayExtents(nil, old, []Extent{{Pos: uint32(from), Len: uint32(to - from)}})
			} else {
				list = fillExtents(nil, old, from, to)
			}
			return t.putChunk(n, index, old, list)
		})
	}
	if err != nil {
		return err
	}
	if mode&fallocKeepSize == 0 && n.size < to {
		n.size = to
	}
	n.mtime, n.ctime = t.now, t.now
	t.changedData(n.ino, int64(from), int64(to-from))
	return nil
}

// eachChunk calls fn with each chunk that [from, to) touches, and the part of it.
func (t *txn) eachChunk(from, to uint64, fn func(index uint32, from, to uint64) error) error {
	size := uint64(t.e.format.Load().ChunkSize)
	for from < to {
		index := from / size
		end := min(to, (index+1)*size)
		if err := fn(uint32(index), from-index*size, end-index*size); err != nil {
			return err
		}
		from = end
	}
	return nil
}

// punch makes [from, to) a hole.
func (t *txn) punch(n *node, from, to uint64) error {
	if !n.hasChunks() {
		return nil
	}
	type piece struct {
		index uint32
		list  []Extent
	}
	size := uint64(t.e.format.Load().ChunkSize)
	var pieces []piece
	err := t.chunks(n.ino, uint32(from/size), uint32((to-1)/size), func(index uint32, list []Extent) (bool, error) {
		pieces = append(pieces, piece{index, append([]Extent(nil), list...)})
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, p := range pieces {
		base := uint64(p.index) * size
		a, b := max(from, base)-base, min(to-base, size)
		if err := t.putChunk(n, p.index, p.list, cutExtents(nil, p.list, a, b)); err != nil {
			return err
		}
	}
	return nil
}

// Seek implements Session. Unwritten extents count as holes.
func (s *session) Seek(ctx context.Context, ino vfs.Ino, off int64, whence int) (int64, error) {
	if whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE {
		return 0, syscall.EINVAL
	}
	var found int64
	err := s.e.view(ctx, func(v *view) error {
		var n inode
		if err := v.inode(ino, &n); err != nil {
			return err
		}
		if !n.isRegular() {
			return syscall.EINVAL
		}
		if off < 0 || uint64(off) >= n.size {
			return syscall.ENXIO
		}
		at, err := v.seek(ino, &n, uint64(off), whence == unix.SEEK_DATA)
		if err == io.EOF {
			err = nil
			if at = n.size; whence == unix.SEEK_DATA {
				err = syscall.ENXIO
			}
		}
		found = int64(at)
		return err
	})
	return found, fail("seek", "", err)
}

// seek finds the next data or hole at or behind off: io.EOF if there is none in
// the file.
func (v *view) seek(ino vfs.Ino, n *inode, off uint64, data bool) (uint64, error) {
	if n.flags&flagInline != 0 {
		inData := off < n.alloc
		switch {
		case inData == data:
			return off, nil
		case inData && n.alloc < n.size:
			return n.alloc, nil
		}
		return 0, io.EOF
	}
	size := uint64(v.e.format.Load().ChunkSize)
	at, found := off, false
	if n.hasChunks() {
		err := v.chunks(ino, uint32(off/size), 1<<32-1, func(index uint32, list []Extent) (bool, error) {
			base := uint64(index) * size
			for _, x := range list {
				if x.Block == 0 || base+x.end() <= at {
					continue
				}
				pos := base + uint64(x.Pos)
				if data {
					at, found = max(at, pos), true
					return false, nil
				}
				if pos > at { // a hole before it
					return false, nil
				}
				at = base + x.end()
			}
			// No data up to the end of the chunk, or none behind at.
			return at < n.size && (data || at == base+size), nil
		})
		if err != nil {
			return 0, err
		}
	}
	if at >= n.size || data && !found {
		return 0, io.EOF
	}
	return at, nil
}

// CopyRange implements Session.
func (s *session) CopyRange(ctx context.Context, _ *vfs.Caller, in vfs.Ino, inOff uint64, out vfs.Ino, outOff, n uint64) error {
	switch {
	case n == 0:
		return nil
	case inOff+n < n || outOff+n < n:
		return syscall.EINVAL
	case outOff+n > s.e.maxSize():
		return syscall.EFBIG
	case in == out && inOff < outOff+n && outOff < inOff+n:
		return syscall.EINVAL
	}
	chunkSize := uint64(s.e.format.Load().ChunkSize)
	for n > 0 {
		step := min(n, (outOff/chunkSize+stepChunks)*chunkSize-outOff)
		err := s.e.update(ctx, s, []vfs.Ino{in, out}, func(t *txn) error {
			t.partial = step < n
			return t.copyRange(in, inOff, out, outOff, step)
		})
		if err != nil {
			return fail("copy range", "", err)
		}
		inOff, outOff, n = inOff+step, outOff+step, n-step
	}
	return nil
}

func (t *txn) copyRange(in vfs.Ino, inOff uint64, out vfs.Ino, outOff, length uint64) error {
	src, err := t.loadFile(in)
	if err != nil {
		return err
	}
	dst, err := t.loadFile(out)
	switch {
	case err != nil:
		return err
	case (src.flags|dst.flags)&flagInline != 0:
		return ErrLayout
	case inOff+length > src.size: // cut meanwhile
		return ErrLayout
	}
	size := uint64(t.e.format.Load().ChunkSize)
	var sources [2][]Extent // the two chunks of in that a chunk of out can get parts of
	err = t.eachChunk(outOff, outOff+length, func(index uint32, from, to uint64) error {
		old, err := t.chunk(out, index, nil)
		if err != nil {
			return err
		}
		list := cutExtents(nil, old, from, to)
		var top []Extent
		at := inOff + (uint64(index)*size + from - outOff) // in in
		for i := 0; from < to; i++ {
			begin := at % size
			part := min(to-from, size-begin)
			if sources[i], err = t.chunk(in, uint32(at/size), sources[i][:0]); err != nil {
				return err
			}
			for _, x := range partExtents(nil, sources[i], begin, begin+part) {
				x.Pos = uint32(uint64(x.Pos) - begin + from)
				top = appendExtent(top, x)
			}
			from, at = from+part, at+part
		}
		return t.putChunk(dst, index, old, overlayExtents(nil, list, top))
	})
	if err != nil {
		return err
	}
	dst.size = max(dst.size, outOff+length)
	dst.mtime, dst.ctime = t.now, t.now
	t.changedData(out, int64(outOff), int64(length))
	return nil
}
