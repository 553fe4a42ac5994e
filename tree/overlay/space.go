package overlay

import (
	"context"
	"errors"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/vfs"
)

// space counts the bytes that the files of the upper tree occupy, in whole blocks as
// it gives them out. What a write may take at most is reserved before it, so that the limit
// holds whatever writes at once.
type space struct {
	mu       sync.Mutex
	limit    int64 // 0: none
	used     int64
	reserved int64
}

// unit is in what steps a file system gives out space, in bytes.
const unit = 4096

// atMost is what n bytes at off can take.
func atMost(off, n int64) int64 {
	return (off+n+unit-1)/unit*unit - off/unit*unit
}

// reserve takes n bytes: ENOSPC.
func (s *space) reserve(n int64) error {
	if s.limit == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used+s.reserved+n > s.limit {
		return syscall.ENOSPC
	}
	s.reserved += n
	return nil
}

// settle gives a reservation back and notes by how much the use really grew.
func (s *space) settle(reserved, grown int64) {
	if s.limit == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved -= reserved
	s.used = max(0, s.used+grown)
}

// show bounds the figures of a file system by the limit.
func (s *space) show(out *vfs.StatFS) {
	if s.limit == 0 || out.BlockSize == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	free := uint64(max(0, s.limit-s.used-s.reserved)) / uint64(out.BlockSize)
	out.Blocks = uint64(s.limit) / uint64(out.BlockSize)
	out.BlocksFree = min(out.BlocksFree, free)
}

// Usage tells how many bytes of the limit are used; the limit is 0 if there is none.
func (fs *FS) Usage() (used, limit int64) {
	fs.space.mu.Lock()
	defer fs.space.mu.Unlock()
	return fs.space.used, fs.space.limit
}

// allocated is what an upper inode occupies.
func (fs *FS) allocated(ctx context.Context, ino vfs.Ino) int64 {
	var a vfs.Attr
	if err := fs.upper.GetAttr(ctx, &fs.self, ino, &a); err != nil || !a.IsRegular() {
		return 0
	}
	return int64(a.Blocks) * 512
}

// begin counts a new upper inode and returns what it takes.
func (fs *FS) begin(ctx context.Context, n *node) int64 {
	if fs.space.limit == 0 || n.typ != typeFile {
		return 0
	}
	n.account.Lock()
	defer n.account.Unlock()
	n.counted, n.counts = fs.allocated(ctx, fs.top(n)), true
	return n.counted
}

// released notes that an upper inode goes away.
func (fs *FS) released(n *node) {
	if fs.space.limit == 0 || n.upper == 0 || n.typ != typeFile || fs.closed.Load() {
		return
	}
	n.account.Lock()
	defer n.account.Unlock()
	if !n.counts {
		n.counted = fs.allocated(context.Background(), n.upper)
	}
	fs.space.settle(0, -n.counted)
	n.counted = 0
}

// spend does what changes an upper file and may take up to most bytes more.
func (fs *FS) spend(ctx context.Context, n *node, most int64, do func() error) error {
	if fs.space.limit == 0 {
		return do()
	}
	if err := fs.space.reserve(most); err != nil {
		return err
	}
	n.account.Lock()
	defer n.account.Unlock()
	upper := fs.top(n)
	if !n.counts {
		n.counted, n.counts = fs.allocated(ctx, upper), true
	}
	err := do()
	now := fs.allocated(context.WithoutCancel(ctx), upper)
	fs.space.settle(most, now-n.counted)
	n.counted = now
	return err
}

// top returns the upper inode of a node, 0 if it has none. mu is not held.
func (fs *FS) top(n *node) vfs.Ino {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	return n.upper
}

// measure adds up what the upper tree occupies.
func (fs *FS) measure(ctx context.Context) (total int64, err error) {
	seen := map[vfs.Ino]bool{} // of several names
	todo := []vfs.Ino{vfs.Root}
	for len(todo) > 0 {
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		d, err := fs.upper.OpenDir(ctx, &fs.self, dir)
		if err != nil {
			return 0, err
		}
		err = d.Read(ctx, 0, true, func(e *vfs.DirEntry) bool {
			a := &e.Attr
			if !e.HasAttr {
				a = new(vfs.Attr)
				if fs.upper.Lookup(ctx, &fs.self, dir, e.Name, a) != nil {
					return true
				}
			}
			switch {
			case a.IsDir():
				todo = append(todo, a.Ino)
			case a.IsRegular() && (a.Nlink < 2 || !seen[a.Ino]):
				total += int64(a.Blocks) * 512
				if a.Nlink > 1 {
					seen[a.Ino] = true
				}
			}
			return true
		})
		if err = errors.Join(err, d.Close()); err != nil {
			return 0, err
		}
	}
	return total, nil
}

// filled tells whether a range of an upper file has space already, so that writing there
// takes none.
func filled(ctx context.Context, f vfs.File, off, n int64) bool {
	hole, err := f.Seek(ctx, off, unix.SEEK_HOLE)
	return err == nil && hole >= off+n
}
