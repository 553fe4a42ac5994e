package meta

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// Copying trees
//
// A clone is a copy of a file or a directory with all that is below it that shares
// the blocks of its original: only records are made. A restoration is the same of
// something as it was.
//
// The source is one state of the store, so the copy is of one moment whatever
// happens to the original meanwhile. The copy is built in transactions of bounded
// size, below a nameless inode of a session of its own, and gets its name in the
// last one. Nobody sees it before. If the copying ends early, with an error or in a
// crash, the end of that session (by the next Open, after a crash) removes what was
// built, as it removes any inode without a name.
//
// A copy may have to point to blocks that have been retired since its source's
// moment: they are held, that is, not given out by DeadBlocks, until it is done.

// CopyStats tells how far a copy is.
type CopyStats struct {
	Ino    vfs.Ino `json:"ino"`    // of the copy
	Inodes int64   `json:"inodes"` // made
	Bytes  int64   `json:"bytes"`  // allocated bytes that they share with the source
}

// Clone copies src, a file or a directory with everything below it, to the name
// name in directory parent. The copy shares the blocks of the original; written data
// that no Commit has named yet is not in it. For a caller who is not root, the copy
// is the caller's, without set-id bits and with only user attributes and ACLs.
// Permissions are not checked. Hard links within the tree are kept. progress may be
// nil.
//
// Errors: ESTALE, EEXIST, ENOTDIR, ENOSPC, EDQUOT, EMLINK, EROFS.
func (e *Engine) Clone(ctx context.Context, c *vfs.Caller, src, parent vfs.Ino, name string, progress func(CopyStats)) (CopyStats, error) {
	k := &copier{e: e, progress: progress, target: parent, name: name}
	if c.UID != 0 {
		k.owner = c
	}
	// What is retired from here on has a later stamp, except by transactions under
	// way: when the gate has been held alone they are over, and the source's state,
	// which is read after that, does not need what they retired.
	defer e.hold(e.clock.last.Load())()
	e.quiesce()
	stats, err := k.run(ctx, e, src)
	return stats, fail("clone", name, err)
}

// Restore copies src as it is in past, which At or AtSnapshot of e has returned, to
// the name name in directory parent: everything is as it was, except that the
// inode numbers are new. It is like Clone otherwise; ENOENT if the past is over.
func (e *Engine) Restore(ctx context.Context, past *Engine, src, parent vfs.Ino, name string, progress func(CopyStats)) (CopyStats, error) {
	if past.at == 0 || past.db != e.db {
		return CopyStats{}, vfs.WithErrno(syscall.EINVAL, errors.New("restore: that is not a past of this volume"))
	}
	k := &copier{e: e, progress: progress, target: parent, name: name, keepBirth: true}
	defer e.hold(past.at)()
	stats, err := k.run(ctx, past, src)
	return stats, fail("restore", name, err)
}

// hold keeps DeadBlocks from giving out blocks retired at or after a stamp. What it
// has given out before cannot be seen by a view that begins later.
func (e *Engine) hold(stamp uint64) (release func()) {
	m := &e.maint
	m.mu.Lock()
	m.holds = append(m.holds, stamp)
	m.mu.Unlock()
	return func() {
		m.mu.Lock()
		i := slices.Index(m.holds, stamp)
		m.holds = slices.Delete(m.holds, i, i+1)
		m.mu.Unlock()
	}
}

const (
	// copyInodes is how many inodes one transaction makes.
	copyInodes = 128
	// copyBudget is how many other records, extents and KiB of values it writes.
	copyBudget = 4096
	// copyPage is how many names are read at a time, copyPages how many
	// directories above the present one keep what they have read.
	copyPage  = 64
	copyPages = 1000
)

// copier is a copy under way.
type copier struct {
	e         *Engine
	s         *session // that builds it
	src       *view
	owner     *vfs.Caller // nil: as in the source
	keepBirth bool
	target    vfs.Ino
	name      string
	progress  func(CopyStats)
	keys      Keyholder // nil: the volume is not encrypted

	root    vfs.Ino // of the copy
	subdirs uint32  // of root
	stats   CopyStats
	quota   usageSum
	stack   []copyFrame
	batch   []copyItem
}

// copyFrame is a directory whose entries are being copied.
type copyFrame struct {
	from, to vfs.Ino
	cookie   uint64
	page     []listedName
	end      bool // page is the last
}

// copyItem is one thing that a transaction does.
type copyItem struct {
	from, to vfs.Ino
	parent   vfs.Ino // of the copy; 0: the top
	name     string
	kind     copyKind
	chunk    uint32 // of a file: the first that has not been copied
}

type copyKind uint8

const (
	copyMake copyKind = iota // makes the inode, and as much of a file as fits
	copyMore                 // goes on with a file
	copyDone                 // a directory has all its entries: sets its times
)

func (k *copier) run(ctx context.Context, from *Engine, src vfs.Ino) (stats CopyStats, err error) {
	if k.keys, err = k.e.keys(); err != nil {
		return stats, err
	}
	shown := k.name
	if k.name, err = k.e.sealedName(k.target, shown); err != nil {
		return stats, err
	}
	if err := k.lookAhead(ctx); err != nil {
		return stats, err
	}
	s, err := k.e.NewSession(ctx, SessionInfo{Mountpoint: "(copy to " + shown + ")"})
	if err != nil {
		return stats, err
	}
	k.s = s.(*session)
	defer func() {
		ended := s.Close() // removes what has no name
		if err != nil {
			err = errors.Join(err, ended)
		} else if ended != nil {
			k.e.log.Warn("the session of a copy could not be ended and goes when the volume is opened next", "err", ended)
		}
	}()
	err = from.view(ctx, func(v *view) error {
		k.src = v
		return k.tree(ctx, src)
	})
	if err == nil {
		err = k.attach(ctx)
	}
	return k.stats, err
}

// lookAhead finds out early what attach would find in the end.
func (k *copier) lookAhead(ctx context.Context) error {
	if k.e.readOnly {
		return syscall.EROFS
	}
	return k.e.view(ctx, func(v *view) error {
		var n inode
		if err := v.inode(k.target, &n); err != nil {
			return err
		}
		if !n.isDir() {
			return syscall.ENOTDIR
		}
		if _, err := v.entry(k.target, k.name); err == nil {
			return syscall.EEXIST
		} else if err != syscall.ENOENT {
			return err
		}
		return nil
	})
}

func (k *copier) tree(ctx context.Context, src vfs.Ino) error {
	if err := k.add(ctx, copyItem{from: src, kind: copyMake}, 0); err != nil {
		return err
	}
	k.root = k.batch[0].to
	k.stats.Ino = k.root
	for len(k.stack) > 0 {
		f := &k.stack[len(k.stack)-1]
		if len(f.page) == 0 && !f.end {
			if err := f.read(k.src); err != nil {
				return err
			}
		}
		if len(f.page) == 0 {
			done := copyItem{from: f.from, to: f.to, kind: copyDone}
			k.stack = k.stack[:len(k.stack)-1]
			if err := k.add(ctx, done, 0); err != nil {
				return err
			}
			continue
		}
		x := f.page[0]
		f.page = f.page[1:]
		f.cookie = x.cookie
		if x.kind == syscall.S_IFDIR && len(k.stack) > copyPages {
			f.page, f.end = nil, false // read again later
		}
		name, err := k.moved(f.from, f.to, x.name)
		if err != nil {
			return err
		}
		if err := k.add(ctx, copyItem{from: x.ino, parent: f.to, name: name, kind: copyMake}, x.kind); err != nil {
			return err
		}
	}
	return k.flush(ctx)
}

// moved is the stored form in directory to of a name that is stored in directory
// from.
func (k *copier) moved(from, to vfs.Ino, name string) (string, error) {
	if k.keys == nil {
		return name, nil
	}
	plain, err := k.keys.OpenName(from, name)
	if err != nil {
		return "", vfs.WithErrno(syscall.EIO, fmt.Errorf("a name in directory %d: %w", from, err))
	}
	return k.keys.SealName(to, plain), nil
}

func (f *copyFrame) read(v *view) (err error) {
	f.page, err = v.names(f.from, f.cookie, f.page[:0], copyPage)
	f.end = len(f.page) < copyPage
	return err
}

// add puts an item into the batch. A directory's entries come next.
func (k *copier) add(ctx context.Context, it copyItem, kind uint32) error {
	if it.kind == copyMake {
		id, err := k.e.inos.take(ctx, 1)
		if err != nil {
			return err
		}
		it.to = vfs.Ino(id)
		if it.parent == 0 {
			var n inode
			if err := k.src.inode(it.from, &n); err != nil {
				return err
			}
			kind = n.kind()
		}
		if kind == syscall.S_IFDIR {
			k.stack = append(k.stack, copyFrame{from: it.from, to: it.to})
		}
	}
	k.batch = append(k.batch, it)
	if len(k.batch) < copyInodes {
		return nil
	}
	return k.flush(ctx)
}

// flush makes what is in the batch.
func (k *copier) flush(ctx context.Context) error {
	for len(k.batch) > 0 {
		if err := k.room(ctx); err != nil {
			return err
		}
		var step copyStep
		err := k.e.update(ctx, k.s, nil, func(t *txn) error {
			step = copyStep{budget: copyBudget}
			t.revives = true
			if err := k.step(t, &step); err != nil {
				return err
			}
			t.changes = t.changes[:0] // nobody sees it yet
			return nil
		})
		if err != nil {
			return err
		}
		k.subdirs += step.subdirs
		k.quota.inodes += step.use.inodes
		k.quota.bytes += step.use.bytes
		k.stats.Inodes, k.stats.Bytes = k.quota.inodes, k.quota.bytes
		if step.rest != nil {
			k.batch[step.done] = *step.rest
		}
		k.batch = slices.Delete(k.batch, 0, step.done)
		if k.progress != nil {
			k.progress(k.stats)
		}
	}
	return nil
}

// copyStep is what one transaction has done.
type copyStep struct {
	budget  int
	done    int       // items of the batch
	rest    *copyItem // what is left of the one after them
	subdirs uint32    // of the copy's root
	use     usageSum
}

func (k *copier) step(t *txn, s *copyStep) error {
	for s.done = 0; s.done < len(k.batch) && s.budget > 0; s.done++ {
		it := k.batch[s.done]
		var err error
		switch it.kind {
		case copyMake:
			err = k.make(t, s, &it)
		case copyMore:
			var n *node
			if n, err = t.load(it.to); err == nil {
				err = k.chunks(t, s, &it, n)
			}
		case copyDone:
			err = k.finish(t, &it)
		}
		if err != nil || s.rest != nil {
			return err
		}
	}
	return nil
}

// finish sets the times of a directory, which its entries have changed.
func (k *copier) finish(t *txn, it *copyItem) error {
	var in inode
	if err := k.src.inode(it.from, &in); err != nil {
		return err
	}
	n, err := t.load(it.to)
	if err == nil {
		n.mtime = in.mtime
	}
	return err
}

// make makes one inode of the copy with its name.
func (k *copier) make(t *txn, s *copyStep, it *copyItem) error {
	var in inode
	if err := k.src.inode(it.from, &in); err != nil {
		return err
	}
	var dir *node
	if it.parent != 0 {
		var err error
		if dir, err = t.load(it.parent); err != nil {
			return err
		}
	}
	shared := dir != nil && !in.isDir() && in.nlink > 1
	if shared {
		if linked, err := k.link(t, s, it, dir); linked || err != nil {
			return err
		}
	}
	out := inode{mode: in.mode, uid: in.uid, gid: in.gid, gen: 1, rdev: in.rdev, size: in.size, nlink: 1,
		atime: in.atime, mtime: in.mtime, ctime: t.now, btime: t.now}
	if k.keepBirth {
		out.btime = in.btime
	}
	if k.owner != nil {
		out.uid, out.gid = k.owner.UID, k.owner.GID
		if !out.isDir() || out.gid != in.gid {
			out.mode &^= syscall.S_ISUID | syscall.S_ISGID
		}
	}
	if out.isDir() {
		out.nlink, out.next, out.size = 2, firstCookie, 0
	}
	if dir != nil {
		out.parent = dir.ino
	}
	n := t.create(it.to, out)
	if dir == nil {
		n.nlink = 0
		t.putOrphan(k.s.id, n.ino)
	} else {
		if n.isDir() && dir.nlink > 0 {
			dir.nlink++
		} else if n.isDir() {
			s.subdirs++
		}
		if err := t.enterName(dir, it.name, n, entry{}); err != nil {
			return err
		}
	}
	if shared {
		t.w.Put(appendCopyKey(nil, k.s.id, it.from), binary.AppendUvarint(nil, uint64(n.ino)))
	}
	s.use.inodes++
	s.budget -= 3
	if in.flags&flagXattr != 0 {
		if err := k.xattrs(t, s, it, n, &in); err != nil {
			return err
		}
	}
	switch {
	case in.isSymlink():
		target, err := k.src.target(it.from)
		if err != nil {
			return err
		}
		return t.putTarget(n.ino, target)
	case in.flags&flagInline != 0:
		data, err := k.src.inline(it.from)
		if err != nil {
			return err
		}
		if k.keys != nil {
			if data, err = k.keys.MoveInline(it.from, n.ino, data); err != nil {
				return err
			}
		}
		if err := t.putInline(n, data); err != nil {
			return err
		}
		s.budget -= len(data) >> 10
		s.use.bytes += n.usage()
	case in.hasChunks():
		return k.chunks(t, s, it, n)
	}
	return nil
}

// link gives a file with several names, which has been copied already, another
// one.
func (k *copier) link(t *txn, s *copyStep, it *copyItem, dir *node) (linked bool, err error) {
	b, err := t.view.value(appendCopyKey(nil, k.s.id, it.from))
	if err != nil || b == nil {
		return false, err
	}
	ino, size := binary.Uvarint(b)
	if size != len(b) {
		return false, corrupt("the record of a copy of inode %d is unreadable", it.from)
	}
	n, err := t.load(vfs.Ino(ino))
	if err != nil {
		return false, err
	}
	if n.nlink == 1 {
		if err := t.recordOnlyName(n); err != nil {
			return false, err
		}
	}
	n.nlink++
	s.budget -= 3
	if err := t.putLink(n.ino, dir.ino, it.name); err != nil {
		return false, err
	}
	return true, t.enterName(dir, it.name, n, entry{})
}

func (k *copier) xattrs(t *txn, s *copyStep, it *copyItem, n *node, in *inode) error {
	names, err := k.src.xattrNames(it.from)
	if err != nil {
		return err
	}
	for _, name := range names {
		acl := name == vfs.XattrACLAccess || name == vfs.XattrACLDefault
		if k.owner != nil && !acl && !strings.HasPrefix(name, "user.") {
			continue
		}
		value, err := k.src.xattr(it.from, name)
		if err != nil {
			return err
		}
		if k.keys != nil && !acl {
			if name, value, err = k.keys.MoveXattr(it.from, n.ino, name, value); err != nil {
				return err
			}
		}
		if err := t.putXattr(n.ino, name, value); err != nil {
			return err
		}
		n.flags |= flagXattr
		s.budget -= 1 + len(value)>>10
	}
	n.flags |= in.flags & (flagACL | flagDefaultACL)
	return nil
}

// chunks copies the layout of a file from it.chunk on, as much of it as fits.
func (k *copier) chunks(t *txn, s *copyStep, it *copyItem, n *node) error {
	type piece struct {
		index uint32
		list  []Extent
	}
	var pieces []piece
	before := n.usage()
	err := k.src.chunks(it.from, it.chunk, 1<<32-1, func(index uint32, list []Extent) (bool, error) {
		if s.budget <= 0 {
			rest := *it
			rest.kind, rest.chunk = copyMore, index
			s.rest = &rest
			return false, nil
		}
		s.budget -= 1 + len(list)
		pieces = append(pieces, piece{index, slices.Clone(list)})
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, p := range pieces {
		if err := t.putChunk(n, p.index, nil, p.list); err != nil {
			return err
		}
	}
	s.use.bytes += n.usage() - before
	return nil
}

// room returns an error if the quotas at the target have no room for what has been
// copied so far.
func (k *copier) room(ctx context.Context) error {
	e := k.e
	e.gate.RLock()
	defer e.gate.RUnlock()
	chain, err := e.chainOfDir(ctx, k.target)
	if err != nil {
		return err
	}
	e.quotas.mu.Lock()
	defer e.quotas.mu.Unlock()
	for _, q := range chain {
		if err := q.room(k.quota.bytes, k.quota.inodes); err != nil {
			return err
		}
	}
	return nil
}

// chainOfDir returns the quotas that hold for what is in a directory.
func (e *Engine) chainOfDir(ctx context.Context, dir vfs.Ino) (chain []*quota, err error) {
	if !e.quotas.any() {
		return nil, nil
	}
	err = e.view(ctx, func(v *view) (err error) {
		chain, err = e.quotas.chain(v, dir)
		return err
	})
	return chain, err
}

// attach gives the copy its name.
func (k *copier) attach(ctx context.Context) error {
	return k.e.update(ctx, k.s, []vfs.Ino{k.target, k.root}, func(t *txn) error {
		dir, err := t.loadDir(k.target)
		if err != nil {
			return err
		}
		if err := t.free(dir.ino, k.name); err != nil {
			return err
		}
		n, err := t.load(k.root)
		if err != nil {
			return err
		}
		// The root of the copy is charged by its change of home.
		if err := t.chargeDirs(dir.ino, k.quota.bytes-n.usage(), k.quota.inodes-1); err != nil {
			return err
		}
		n.nlink = 1
		if n.isDir() {
			if dir.nlink >= t.e.maxLinks {
				return syscall.EMLINK
			}
			dir.nlink++
			n.nlink = 2 + k.subdirs
		}
		t.delOrphan(k.s.id, n.ino)
		t.w.DeleteRange(appendCopyKey(nil, k.s.id, 0), appendCopyKey(nil, k.s.id+1, 0))
		return t.enterName(dir, k.name, n, entry{})
	})
}

// prune removes up to budget of the names in a nameless directory, with what they
// mean. Directories that are not empty become nameless themselves, and go later. So
// does dir: quotas look at the parents of what is removed.
func (t *txn) prune(dir *node, budget *int) error {
	page, err := t.names(dir.ino, 0, nil, min(copyInodes, max(1, *budget)))
	if err != nil {
		return err
	}
	for _, x := range page {
		if *budget <= 0 {
			return nil
		}
		*budget -= 3
		n, err := t.loadNamed(x.entry, x.name)
		if err != nil {
			return err
		}
		if err := t.leaveName(dir, x.name, x.entry); err != nil {
			return err
		}
		if !n.isDir() && n.nlink > 1 {
			if err := t.dropName(n, dir.ino, x.name); err != nil {
				return err
			}
			continue
		}
		n.nlink, n.parent, n.cookie = 0, 0, 0
		gone := false
		if !n.isDir() || n.entries == 0 {
			if gone, err = t.strip(n, budget); err != nil {
				return err
			}
		}
		if n.removed = gone; !gone {
			t.putOrphan(systemSession, n.ino)
			t.then = append(t.then, t.e.reaper.wake)
		}
	}
	return nil
}

// appendCopyKey is the key of the record that says what inode a file with several
// names has become in the copy that a session makes.
func appendCopyKey(dst []byte, session uint64, ino vfs.Ino) []byte {
	return binary.BigEndian.AppendUint64(appendSessionRecords(dst, kindCopy, session), uint64(ino))
}
