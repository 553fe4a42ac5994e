package meta

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// listing is the memory of a ReadDir: entries are read in batches, so that no
// state of the store is held while emit runs.
type listing struct {
	entries []listed
	names   []byte
	order   []int32 // entries by inode number
	dirent  vfs.DirEntry
}

type listed struct {
	entry
	nameEnd int
	known   bool // node is there
	lease   Lease
	leased  bool
	node    inode
}

var listings = sync.Pool{New: func() any { return new(listing) }}

// Entries of a batch. The first is small: many callers stop soon.
const (
	firstBatch = 32
	lastBatch  = 1024
)

// ReadDir implements Session.
func (s *session) ReadDir(ctx context.Context, _ *vfs.Caller, ino vfs.Ino, cookie uint64, plus bool, emit func(*vfs.DirEntry) bool) error {
	s.lease(ino, LeaseNames)
	return s.readDir(ctx, ino, cookie, plus, plus && s.implicit(), func(x *vfs.DirEntry, _ *listed) bool { return emit(x) })
}

// ReadDirLeased is ReadDir with plus for a session that serves leases: emit also gets
// the lease on the entry's attributes; nil: none was given.
func (s *session) ReadDirLeased(ctx context.Context, ino vfs.Ino, cookie uint64, emit func(*vfs.DirEntry, *Lease) bool) error {
	return s.readDir(ctx, ino, cookie, true, true, func(d *vfs.DirEntry, x *listed) bool {
		if !x.leased {
			return emit(d, nil)
		}
		return emit(d, &x.lease)
	})
}

func (s *session) readDir(ctx context.Context, ino vfs.Ino, cookie uint64, plus, leased bool, emit func(*vfs.DirEntry, *listed) bool) error {
	l := listings.Get().(*listing)
	defer listings.Put(l)
	for size := firstBatch; ; size = min(4*size, lastBatch) {
		more, err := l.read(ctx, s.e, ino, cookie, plus && !leased, size)
		if err == nil && leased {
			err = l.leasedAttributes(ctx, s)
		}
		if err != nil {
			return fail("read directory", "", err)
		}
		names, at := string(l.names), 0 // one string for the names of a batch
		for i := range l.entries {
			x := &l.entries[i]
			l.dirent = vfs.DirEntry{Name: names[at:x.nameEnd], Ino: x.ino, Mode: x.kind, Cookie: x.cookie}
			at = x.nameEnd
			if x.known {
				l.dirent.HasAttr = true
				x.node.fill(x.ino, &l.dirent.Attr)
			}
			if !emit(&l.dirent, x) {
				return nil
			}
			cookie = x.cookie
		}
		if !more {
			return nil
		}
	}
}

// read gets up to size entries behind cookie. more: there may be others.
func (l *listing) read(ctx context.Context, e *Engine, dir vfs.Ino, cookie uint64, plus bool, size int) (more bool, err error) {
	if cookie >= 1<<63-1 {
		return false, syscall.EINVAL
	}
	err = e.view(ctx, func(v *view) error {
		l.entries, l.names, more = l.entries[:0], l.names[:0], false
		v.key = appendEntryKey(v.key[:0], dir, cookie+1)
		v.end = appendIno(v.end[:0], kindEntry, dir+1)
		err := v.r.Scan(v.key, v.end, func(key, value []byte) (bool, error) {
			_, cookie, err := splitEntryKey(key)
			if err != nil {
				return false, err
			}
			ent, name, err := decodeEntry(value)
			if err != nil {
				return false, corrupt("entry %d of directory %d: %v", cookie, dir, err)
			}
			ent.cookie = cookie
			l.names = append(l.names, name...)
			l.entries = append(l.entries, listed{entry: ent, nameEnd: len(l.names)})
			more = len(l.entries) < size
			return more, nil
		})
		if err != nil {
			return err
		}
		more = len(l.entries) == size
		if len(l.entries) == 0 {
			if err := e.noEntry(v, dir); err != syscall.ENOENT {
				return err
			}
			return nil
		}
		if plus {
			return l.attributes(v)
		}
		return nil
	})
	return more, err
}

// leasedAttributes reads the attributes of all entries after it has leased them: from
// a later state than the entries, in which an inode may be gone.
func (l *listing) leasedAttributes(ctx context.Context, s *session) error {
	for i := range l.entries {
		x := &l.entries[i]
		x.lease, x.leased = s.Lease(x.ino, LeaseAttr)
	}
	return s.e.view(ctx, func(v *view) error {
		for i := range l.entries {
			x := &l.entries[i]
			if x.known = v.e.cache.peek(x.ino, &x.node); x.known {
				continue
			}
			switch err := v.inode(x.ino, &x.node); {
			case err == nil:
				x.known = true
			case err != syscall.ESTALE:
				return err
			}
		}
		return nil
	})
}

// attributes reads the attributes of all entries: from the cache, and where many
// are missing and lie together, as those of files made one after the other do, by
// a scan.
func (l *listing) attributes(v *view) error {
	l.order = l.order[:0]
	for i := range l.entries {
		x := &l.entries[i]
		if v.e.cache.peek(x.ino, &x.node) {
			x.known = true
		} else {
			l.order = append(l.order, int32(i))
		}
	}
	ino := func(i int32) vfs.Ino { return l.entries[i].ino }
	slices.SortFunc(l.order, func(a, b int32) int { return cmp.Compare(ino(a), ino(b)) })
	for from := 0; from < len(l.order); {
		to := from + 1
		for to < len(l.order) && ino(l.order[to])-ino(l.order[to-1]) <= scanGap {
			to++
		}
		if err := l.run(v, l.order[from:to]); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// scanGap is how many records a scan may pass over rather than be begun anew.
const scanGap = 8

func (l *listing) run(v *view, order []int32) error {
	if len(order) <= 2 {
		for _, i := range order {
			x := &l.entries[i]
			if err := v.inode(x.ino, &x.node); err == nil {
				x.known = true
			} else if err != syscall.ESTALE {
				return err
			} else {
				return corrupt("inode %d, which an entry means, does not exist", x.ino)
			}
		}
		return nil
	}
	v.key = appendInodeKey(v.key[:0], l.entries[order[0]].ino)
	v.end = appendInodeKey(v.end[:0], l.entries[order[len(order)-1]].ino+1)
	at := 0
	return v.r.Scan(v.key, v.end, func(key, value []byte) (bool, error) {
		ino, err := keyIno(key)
		if err != nil {
			return false, err
		}
		for at < len(order) && l.entries[order[at]].ino < ino {
			at++
		}
		// Names of one inode stand side by side.
		for ; at < len(order) && l.entries[order[at]].ino == ino; at++ {
			x := &l.entries[order[at]]
			if err := x.node.decode(value); err != nil {
				return false, corrupt("inode %d: %v", ino, err)
			}
			x.known = true
		}
		return at < len(order), nil
	})
}
