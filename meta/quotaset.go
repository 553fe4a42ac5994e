package meta

import (
	"cmp"
	"context"
	"slices"
	"syscall"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// QuotaInfo is a directory quota with its use.
type QuotaInfo struct {
	Ino        vfs.Ino `json:"ino"`
	Bytes      uint64  `json:"bytes"`  // limit; 0: none
	Inodes     uint64  `json:"inodes"` // limit; 0: none
	UsedBytes  int64   `json:"usedBytes"`
	UsedInodes int64   `json:"usedInodes"`
	HeldBytes  int64   `json:"heldBytes"` // reserved for data that is not committed yet
}

// SetQuota limits what is below a directory, the directory itself not counted, to
// bytes and inodes (0: no limit). What is there already counts, and may be more. It
// is durable when it returns. ENOTDIR, ESTALE.
//
// On a directory without a quota it walks the subtree while other changes wait.
func (e *Engine) SetQuota(ctx context.Context, ino vfs.Ino, bytes, inodes uint64) error {
	limit := limitRecord{bytes: bytes, inodes: inodes}
	err := e.updateAlone(ctx, nil, func(t *txn) error {
		if _, err := t.loadDir(ino); err != nil {
			return err
		}
		t.w.Put(appendQuotaKey(nil, ino), limit.encode(nil))
		if q := e.quotas.of(ino); q != nil {
			t.then = append(t.then, func() {
				e.quotas.mu.Lock()
				q.limit = limit
				e.quotas.mu.Unlock()
			})
			return nil
		}
		use, err := t.subtreeAtRest(ino)
		if err != nil {
			return err
		}
		t.w.Put(appendUsageKey(nil, ino, usageBytes), kv.CounterValue(use.bytes))
		t.w.Put(appendUsageKey(nil, ino, usageInodes), kv.CounterValue(use.inodes))
		t.then = append(t.then, func() {
			e.quotas.mu.Lock()
			e.quotas.dirs[ino] = &quota{ino: ino, limit: limit, bytes: use.bytes, inodes: use.inodes}
			e.quotas.mu.Unlock()
		})
		return nil
	})
	if err == nil {
		err = e.db.Sync(ctx)
	}
	if err == nil {
		e.tellSettings()
	}
	return fail("set quota", "", err)
}

// RemoveQuota ends the quota of a directory: ENODATA if it has none.
func (e *Engine) RemoveQuota(ctx context.Context, ino vfs.Ino) error {
	err := e.updateAlone(ctx, nil, func(t *txn) error {
		q := e.quotas.of(ino)
		if q == nil {
			return syscall.ENODATA
		}
		t.delQuota(q)
		return nil
	})
	if err == nil {
		err = e.db.Sync(ctx)
	}
	if err == nil {
		e.tellSettings()
	}
	return fail("remove quota", "", err)
}

// ListQuotas returns the quotas of directories, by inode number.
func (e *Engine) ListQuotas() []QuotaInfo {
	e.quotas.mu.Lock()
	defer e.quotas.mu.Unlock()
	list := make([]QuotaInfo, 0, len(e.quotas.dirs))
	for _, q := range e.quotas.dirs {
		list = append(list, QuotaInfo{Ino: q.ino, Bytes: q.limit.bytes, Inodes: q.limit.inodes,
			UsedBytes: q.bytes, UsedInodes: q.inodes, HeldBytes: q.heldBytes})
	}
	slices.SortFunc(list, func(a, b QuotaInfo) int { return cmp.Compare(a.Ino, b.Ino) })
	return list
}

// Usage returns the volume's use: allocated bytes and inodes.
func (e *Engine) Usage() (bytes, inodes int64) {
	e.quotas.mu.Lock()
	defer e.quotas.mu.Unlock()
	return e.quotas.volume.bytes, e.quotas.volume.inodes
}

func (qt *quotaTable) of(dir vfs.Ino) *quota {
	qt.mu.Lock()
	defer qt.mu.Unlock()
	return qt.dirs[dir]
}

// any tells whether any directory has a quota.
func (qt *quotaTable) any() bool {
	qt.mu.Lock()
	defer qt.mu.Unlock()
	return len(qt.dirs) > 0
}

// delQuota removes a quota's records.
func (t *txn) delQuota(q *quota) {
	t.w.Delete(appendQuotaKey(nil, q.ino))
	t.w.Delete(appendUsageKey(nil, q.ino, usageBytes))
	t.w.Delete(appendUsageKey(nil, q.ino, usageInodes))
	qt := t.e.quotas
	t.then = append(t.then, func() {
		qt.mu.Lock()
		delete(qt.dirs, q.ino)
		delete(qt.chains, q.ino)
		qt.mu.Unlock()
	})
}

// moveUsage charges the quotas of directory to, not those of from, with what is
// below dir.
func (t *txn) moveUsage(dir, from, to vfs.Ino) error {
	qt := t.e.quotas
	old, err := qt.chain(&t.view, from)
	if err != nil {
		return err
	}
	next, err := qt.chain(&t.view, to)
	if err != nil || slices.Equal(old, next) {
		return err
	}
	use, err := t.subtreeAtRest(dir)
	if err != nil {
		return err
	}
	for _, q := range old {
		t.chargeTo(q, -use.bytes, -use.inodes)
	}
	for _, q := range next {
		t.chargeTo(q, use.bytes, use.inodes)
	}
	return nil
}

type usageSum struct{ bytes, inodes int64 }

// subtreeAtRest is subtree for a transaction that has the gate alone and has not
// changed anything there yet. It reads beside the transaction: nobody else can
// change the tree, and a transaction's reads take memory.
func (t *txn) subtreeAtRest(dir vfs.Ino) (sum usageSum, err error) {
	err = t.e.view(t.ctx, func(v *view) (err error) {
		sum, err = v.subtree(dir)
		return err
	})
	return sum, err
}

// subtree counts what lies below a directory. A file with several names counts
// where its home is.
func (v *view) subtree(dir vfs.Ino) (sum usageSum, err error) {
	todo := []vfs.Ino{dir}
	all, err := v.counter(keyCounter(counterInodes))
	if err != nil {
		return sum, err
	}
	var batch []listedName
	for len(todo) > 0 {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for cookie := uint64(0); ; {
			if batch, err = v.names(at, cookie, batch[:0], 1024); err != nil {
				return sum, err
			}
			for _, x := range batch {
				cookie = x.cookie
				var n inode
				if err := v.inode(x.ino, &n); err != nil {
					return sum, err
				}
				if n.isDir() {
					todo = append(todo, x.ino)
				} else if n.nlink > 1 {
					counts, err := v.countsHere(x.ino, &n, at, x.name)
					if err != nil {
						return sum, err
					}
					if !counts {
						continue
					}
				}
				sum.bytes += n.usage()
				if sum.inodes++; sum.inodes > 2*all+1000 { // a ring
					return sum, corrupt("below directory %d is more than all inodes", dir)
				}
			}
			if len(batch) < 1024 {
				break
			}
		}
	}
	return sum, nil
}

// countsHere tells whether a file with several names counts at this one: the
// first in its home.
func (v *view) countsHere(ino vfs.Ino, n *inode, dir vfs.Ino, name string) (bool, error) {
	if n.parent != dir {
		return false, nil
	}
	first := ""
	err := v.links(ino, func(parent vfs.Ino, name []byte) (bool, error) {
		if parent == dir {
			first = string(name)
		}
		return parent != dir, nil
	})
	return first == name, err
}

type listedName struct {
	entry
	name string
}

// names appends up to limit entries of a directory behind a cookie.
func (v *view) names(dir vfs.Ino, cookie uint64, dst []listedName, limit int) ([]listedName, error) {
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
		dst = append(dst, listedName{ent, string(name)})
		return len(dst) < limit, nil
	})
	return dst, err
}

// recount reads the quotas again, when it cannot be told whether a transaction was
// committed.
func (e *Engine) recount() error {
	e.gate.Lock()
	defer e.gate.Unlock()
	fresh := newQuotaTable()
	err := e.view(e.ctx, func(v *view) error { return fresh.load(v, e.format.Load()) })
	if err != nil {
		return err
	}
	qt := e.quotas
	qt.mu.Lock()
	defer qt.mu.Unlock()
	clear(qt.chains)
	qt.volume.bytes, qt.volume.inodes = fresh.volume.bytes, fresh.volume.inodes
	for ino, q := range qt.dirs { // what is held stays held
		if f := fresh.dirs[ino]; f != nil {
			f.heldBytes, f.heldInodes = q.heldBytes, q.heldInodes
			*q = *f
			fresh.dirs[ino] = q
		}
	}
	qt.dirs = fresh.dirs
	return nil
}
