package volume

import (
	"context"
	"errors"
	"sync"

	"github.com/massif-fs/massif/vfs"
)

// Locks are the metadata engine's, so that they hold between mounts. Programs lock in
// order to see each other's data: what one has written before it unlocks, the next one
// reads after it has locked.

// heldLocks are the owners that may hold locks, so that a close of a file that nobody
// has locked asks nobody.
type heldLocks struct {
	mu sync.Mutex
	m  map[heldLock]struct{}
}

type heldLock struct {
	ino   vfs.Ino
	owner uint64
	kind  vfs.LockKind
}

func (h *heldLocks) add(l heldLock) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.m == nil {
		h.m = make(map[heldLock]struct{})
	}
	h.m[l] = struct{}{}
}

// take tells whether an owner may hold locks, and forgets it.
func (h *heldLocks) take(l heldLock) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, held := h.m[l]
	delete(h.m, l)
	return held
}

// GetLock implements vfs.LockFS.
func (fs *FS) GetLock(ctx context.Context, ino vfs.Ino, lock vfs.Lock) (vfs.Lock, error) {
	return fs.sess.GetLock(ctx, ino, lock)
}

// SetLock implements vfs.LockFS. Before others may get a lock, what was written under
// it is flushed: if that fails the lock is given up all the same, and the error told.
// What is read after a lock was got is asked for anew unless leases make that needless.
func (fs *FS) SetLock(ctx context.Context, ino vfs.Ino, lock vfs.Lock, wait bool) error {
	var flushed error
	if fs.shared && lock.Type != vfs.LockWrite {
		flushed = fs.flushInode(ctx, ino)
	}
	held := heldLock{ino, lock.Owner, lock.Kind}
	if lock.Type != vfs.LockUnlock {
		fs.locks.add(held) // before: an interrupted call may have got it
	}
	if err := fs.sess.SetLock(ctx, ino, lock, wait); err != nil {
		return errors.Join(err, flushed)
	}
	if fs.shared && lock.Type != vfs.LockUnlock && !fs.Leased(ino).Has(vfs.LeaseData|vfs.LeaseAttr) {
		fs.tellDoors(vfs.Change{Kind: vfs.ChangeData, Ino: ino, Len: -1})
	}
	return flushed
}

// ReleaseLocks implements vfs.LockFS.
func (fs *FS) ReleaseLocks(ctx context.Context, ino vfs.Ino, owner uint64, kind vfs.LockKind) error {
	if !fs.locks.take(heldLock{ino, owner, kind}) {
		return nil
	}
	var flushed error
	if fs.shared {
		flushed = fs.flushInode(ctx, ino)
	}
	return errors.Join(fs.sess.ReleaseLocks(ctx, ino, owner, kind), flushed)
}

// flushInode flushes what is dirty of a file.
func (fs *FS) flushInode(ctx context.Context, ino vfs.Ino) error {
	if fs.cfg.ReadOnly {
		return nil
	}
	n := fs.useIfPresent(ino)
	if n == nil {
		return nil
	}
	defer fs.drop(n)
	return fs.flushNode(ctx, n)
}
