package volume

import (
	"context"
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// The operations of shared volumes. Those that change something at once, not by a
// flush, hold flushMu, so that a flush of this mount does not come between, and not
// node.mu (see shared.go).

// openShared loads a file that is being opened.
func (fs *FS) openShared(ctx context.Context, n *node) error {
	start := fs.begin()
	n.mu.RLock()
	current := n.current(start)
	n.mu.RUnlock()
	// A file without a name may be gone by the session's own doing, which ends no lease.
	nameless := n.unlinked.Load()
	if current && !nameless {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if nameless {
		return fs.loadShared(ctx, n)
	}
	return fs.ensure(ctx, n, start)
}

// made makes the node of a file that was just created: it is known to be empty.
func (fs *FS) made(a *vfs.Attr) {
	if !fs.shared || a.Size != 0 || a.Blocks != 0 {
		return
	}
	n := fs.use(a.Ino)
	defer fs.drop(n)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.loaded {
		n.setBase(0, true, nil, false)
		// Without leases that is a guess for later operations, which a flush checks.
		n.loaded, n.touched, n.keptAt = true, true, n.recalled.Load()
		n.kept = fs.Leased(n.ino).Has(vfs.LeaseAttr | vfs.LeaseData)
	}
}

// prepareShared makes n ready for a write. What is written lies over whatever the base
// is, so only an append needs to know it. n.mu is held for writing.
func (fs *FS) prepareShared(ctx context.Context, n *node, atEnd bool) error {
	if !n.loaded || atEnd {
		if err := fs.ensure(ctx, n, fs.begin()); err != nil {
			return err
		}
	}
	if atEnd && !n.appending && n.dirtyEnd <= n.base {
		n.appending, n.appendAt = true, n.base
	}
	return nil
}

// setAttrShared is SetAttr without SetSize of a file with a node.
func (fs *FS) setAttrShared(ctx context.Context, c *vfs.Caller, n *node, set *vfs.SetAttr, out *vfs.Attr) error {
	times := set.Valid&(vfs.SetMtime|vfs.SetMtimeNow) != 0
	if times {
		// A flush under way carries the time of its writes: it must not come after
		// a time that is set now.
		n.flushMu.Lock()
		defer n.flushMu.Unlock()
	}
	if err := fs.sess.SetAttr(ctx, c, n.ino, set, out); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if times {
		n.mtime = vfs.Time{}
	}
	n.mergeDirty(out)
	return nil
}

// truncateShared is SetAttr with SetSize.
func (fs *FS) truncateShared(ctx context.Context, c *vfs.Caller, n *node, set *vfs.SetAttr, out *vfs.Attr) error {
	n.flushMu.Lock()
	defer n.flushMu.Unlock()
	recalled, at := n.recalled.Load(), fs.ops.Add(1)
	if err := fs.sess.SetAttr(ctx, c, n.ino, set, out); err != nil {
		return err
	}
	size := int64(set.Size)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dirtyEnd > size {
		fs.cutDirty(n, size, n.dirtyEnd)
		n.dirtyEnd = fs.endOf(n.active)
		n.appending = n.appending && n.dirtyEnd > size
	}
	n.mtime = vfs.Time{} // the metadata's is later now
	fs.forgetLayout(n)
	n.loads++
	if n.loaded {
		switch {
		case size == 0:
			n.setBase(0, true, nil, false)
			n.kept = n.kept && n.keptAt == recalled // and still is, or the count tells
		case n.based:
			// A guess, which a flush checks; who reads asks.
			n.setBase(size, true, n.content[:min(int64(len(n.content)), size)], n.hasInline)
			n.kept = false
		default:
			n.setBase(size, false, nil, false)
			n.kept = false
		}
		n.loadedAt = min(n.loadedAt, at)
	}
	n.size = max(size, n.dirtyEnd)
	if n.appending {
		n.appendAt = size
	}
	fs.unmarkDirty(n)
	n.mergeDirty(out)
	return nil
}

// move flushes n, whose content goes to chunks whatever its size. Another mount may put
// content inline again at any time; what needs it in chunks is refused then (ErrLayout).
// n.flushMu is held.
func (fs *FS) move(ctx context.Context, n *node) error {
	n.mu.Lock()
	err := fs.loadShared(ctx, n)
	n.toChunks = true
	n.mu.Unlock()
	if err == nil {
		err = fs.flushLocked(ctx, n)
	}
	n.mu.Lock()
	n.toChunks = false
	n.mu.Unlock()
	return err
}

func (f *file) allocateShared(ctx context.Context, mode uint32, off, length int64) error {
	fs, n := f.fs, f.n
	n.flushMu.Lock()
	defer n.flushMu.Unlock()
	for r := (refusals{}); ; {
		if err := fs.move(ctx, n); err != nil {
			return err
		}
		err := fs.sess.Allocate(ctx, nobody, n.ino, mode, uint64(off), uint64(length))
		if err == nil {
			break
		}
		if !errors.Is(err, meta.ErrLayout) {
			return err
		}
		if err := r.again(ctx, &job{n: n}); err != nil {
			return err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	fs.changed(n)
	return nil
}

// changed notes that an operation of this mount has changed the base. n.mu is held.
func (fs *FS) changed(n *node) {
	fs.forgetLayout(n)
	n.kept, n.loadedAt = false, 0
	n.loads++
	n.mtime = vfs.Time{}
	fs.unmarkDirty(n)
}

func (f *file) seekShared(ctx context.Context, off int64, whence int) (int64, error) {
	fs, n := f.fs, f.n
	if err := fs.flushNode(ctx, n); err != nil {
		return 0, fs.describe("seek", n, err)
	}
	n.mu.Lock()
	err := fs.ensure(ctx, n, fs.begin())
	based, size, content := n.based, n.size, int64(len(n.content))
	n.mu.Unlock()
	switch {
	case err != nil:
		return 0, fs.describe("seek", n, err)
	case !based:
		return fs.sess.Seek(ctx, n.ino, off, whence)
	case off >= size:
		return 0, syscall.ENXIO
	case whence == unix.SEEK_HOLE:
		return max(off, content), nil
	case off < content:
		return off, nil
	}
	return 0, syscall.ENXIO
}

// maxShares bounds how often sharing is tried where other mounts change the files
// meanwhile; then the bytes are copied.
const maxShares = 16

// shareShared is share on a shared volume.
func (fs *FS) shareShared(ctx context.Context, src *node, inOff int64, dst *node, outOff, length int64) (n int64, done bool, err error) {
	first, second := src, dst
	if first.ino > second.ino {
		first, second = second, first
	}
	first.flushMu.Lock()
	defer first.flushMu.Unlock()
	if first != second {
		second.flushMu.Lock()
		defer second.flushMu.Unlock()
	}
	for range maxShares {
		if err := fs.flushLocked(ctx, src); err != nil {
			return 0, false, err
		}
		src.mu.Lock()
		err := fs.loadShared(ctx, src)
		small, size := src.based, src.base
		src.mu.Unlock()
		switch {
		case err != nil:
			return 0, false, err
		case small:
			return 0, false, nil
		case inOff >= size:
			return 0, true, nil
		}
		length = min(length, size-inOff)
		if err := fs.move(ctx, dst); err != nil {
			return 0, false, err
		}
		err = fs.sess.CopyRange(ctx, nobody, src.ino, uint64(inOff), dst.ino, uint64(outOff), uint64(length))
		if errors.Is(err, meta.ErrLayout) {
			continue
		}
		if err != nil {
			return 0, false, err
		}
		dst.mu.Lock()
		defer dst.mu.Unlock()
		fs.changed(dst)
		return length, true, nil
	}
	return 0, false, nil
}
