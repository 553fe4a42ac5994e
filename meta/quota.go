package meta

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// Quotas
//
// The store holds limits and use of the volume and of directory quotas; use only
// ever changes through Txn.Add, so that transactions do not conflict in it. For
// checks the engine has the same numbers in memory, exact: what a transaction
// needs more is held before its commit and becomes use, or is given back, after it.
// What it needs less is given back after its commit only.
//
// An inode counts for all quotas on its parent and above. Where the parents lead is
// remembered (chains); it cannot change while a transaction runs, because
// directories move between parents, where there are quotas at all, only with the
// engine's gate held alone.

// quota is a limit on bytes and inodes and their use.
type quota struct {
	ino    vfs.Ino // the directory below which it holds; 0: the whole volume
	limit  limitRecord
	bytes  int64 // used: allocated bytes
	inodes int64
	// Claimed by reservations and by transactions under way:
	heldBytes  int64
	heldInodes int64
}

// charge is what a transaction changes of a quota's use.
type charge struct {
	q             *quota
	bytes, inodes int64
	given         int64 // reserved bytes that the transaction gives back
	hold          int64 // bytes held until it is committed
	holdInodes    int64
}

type quotaTable struct {
	mu     sync.Mutex
	volume quota
	dirs   map[vfs.Ino]*quota
	chains map[vfs.Ino][]*quota // quotas that hold for what is in a directory
}

// maxChains bounds the memory for chains; they are made again when needed.
const maxChains = 1 << 16

func newQuotaTable() *quotaTable {
	return &quotaTable{dirs: make(map[vfs.Ino]*quota), chains: make(map[vfs.Ino][]*quota)}
}

// room tells whether bytes and inodes more fit.
func (q *quota) room(bytes, inodes int64) error {
	over := func(limit uint64, have, more int64) bool {
		return limit > 0 && more > 0 && (have > int64(limit) || more > int64(limit)-have)
	}
	if !over(q.limit.bytes, q.bytes+q.heldBytes, bytes) && !over(q.limit.inodes, q.inodes+q.heldInodes, inodes) {
		return nil
	}
	if q.ino == 0 {
		return syscall.ENOSPC
	}
	return syscall.EDQUOT
}

// load reads limits and use when the engine opens.
func (qt *quotaTable) load(v *view, f *Format) error {
	var err error
	qt.volume.limit = limitRecord{bytes: f.QuotaBytes, inodes: f.QuotaInodes}
	if qt.volume.bytes, err = v.counter(keyCounter(counterBytes)); err != nil {
		return err
	}
	if qt.volume.inodes, err = v.counter(keyCounter(counterInodes)); err != nil {
		return err
	}
	err = v.r.Scan([]byte{kindQuota}, []byte{kindQuota + 1}, func(key, value []byte) (bool, error) {
		ino, err := keyIno(key)
		if err != nil {
			return false, err
		}
		limit, err := decodeLimit(value)
		if err != nil {
			return false, fmt.Errorf("quota of directory %d: %w", ino, err)
		}
		qt.dirs[ino] = &quota{ino: ino, limit: limit}
		return true, nil
	})
	if err != nil {
		return err
	}
	for ino, q := range qt.dirs {
		if q.bytes, err = v.counter(appendUsageKey(nil, ino, usageBytes)); err != nil {
			return err
		}
		if q.inodes, err = v.counter(appendUsageKey(nil, ino, usageInodes)); err != nil {
			return err
		}
	}
	return nil
}

func (qt *quotaTable) forgetChains() {
	qt.mu.Lock()
	clear(qt.chains)
	qt.mu.Unlock()
}

// chain returns the quotas that hold for what is in directory dir.
func (qt *quotaTable) chain(v *view, dir vfs.Ino) ([]*quota, error) {
	qt.mu.Lock()
	if len(qt.dirs) == 0 || dir == 0 {
		qt.mu.Unlock()
		return nil, nil
	}
	if c, ok := qt.chains[dir]; ok {
		qt.mu.Unlock()
		return c, nil
	}
	qt.mu.Unlock()
	var path []vfs.Ino
	var above []*quota
	for at := dir; ; {
		path = append(path, at)
		if at == vfs.Root {
			break
		}
		if len(path) > maxDepth {
			return nil, fmt.Errorf("directories above %d do not lead to the root: %w", dir, kv.ErrCorrupt)
		}
		var n inode
		if err := v.inode(at, &n); err != nil {
			return nil, err
		}
		at = n.parent
		if at == 0 { // removed, but in use: nothing holds for it
			return nil, nil
		}
		qt.mu.Lock()
		c, ok := qt.chains[at]
		qt.mu.Unlock()
		if ok {
			above = c
			break
		}
	}
	qt.mu.Lock()
	defer qt.mu.Unlock()
	if len(qt.chains)+len(path) > maxChains {
		clear(qt.chains)
	}
	for i := len(path) - 1; i >= 0; i-- {
		if q := qt.dirs[path[i]]; q != nil {
			above = append([]*quota{q}, above...)
		}
		qt.chains[path[i]] = above
	}
	return above, nil
}

// maxDepth is a bound on the depth of directories, to notice damage: paths of
// programs are 4096 bytes, but trees can be deeper than that.
const maxDepth = 1 << 20

// charge counts bytes and inodes that were added (or, negative, went) in
// directory home, or in none (0), for the volume and the quotas there.
func (t *txn) charge(home vfs.Ino, bytes, inodes int64) error {
	t.chargeTo(&t.e.quotas.volume, bytes, inodes)
	return t.chargeDirs(home, bytes, inodes)
}

// chargeDirs is charge for the directory quotas only.
func (t *txn) chargeDirs(home vfs.Ino, bytes, inodes int64) error {
	chain, err := t.e.quotas.chain(&t.view, home)
	if err != nil {
		return err
	}
	for _, q := range chain {
		t.chargeTo(q, bytes, inodes)
	}
	return nil
}

func (t *txn) chargeTo(q *quota, bytes, inodes int64) {
	c := t.chargeOf(q)
	c.bytes += bytes
	c.inodes += inodes
}

func (t *txn) chargeOf(q *quota) *charge {
	for i := range t.charges {
		if t.charges[i].q == q {
			return &t.charges[i]
		}
	}
	t.charges = append(t.charges, charge{q: q})
	return &t.charges[len(t.charges)-1]
}

// flushCharges checks the quotas, holds what is needed, and counts.
func (t *txn) flushCharges() error {
	for i := range t.charges {
		c := &t.charges[i]
		bytes, inodes := byte(0), byte(0)
		if c.q.ino != 0 {
			bytes, inodes = usageBytes, usageInodes
		}
		t.add(c.q, bytes, counterBytes, c.bytes)
		t.add(c.q, inodes, counterInodes, c.inodes)
	}
	if err := t.e.quotas.hold(t.charges, replayOf(t.ctx).again()); err != nil {
		return err
	}
	t.charged = true
	return nil
}

func (t *txn) add(q *quota, which byte, counter string, delta int64) {
	if delta == 0 {
		return
	}
	if which == 0 {
		t.key = append(append(t.key[:0], kindCounter), counter...)
	} else {
		t.key = appendUsageKey(t.key[:0], q.ino, which)
	}
	t.w.Add(t.key, delta)
}

// hold checks that there is room for charges, but for those that there was room for
// once already, and holds it.
func (qt *quotaTable) hold(charges []charge, again bool) error {
	qt.mu.Lock()
	defer qt.mu.Unlock()
	for i := range charges {
		c := &charges[i]
		c.hold, c.holdInodes = max(c.bytes-c.given, 0), max(c.inodes, 0)
		if again {
			continue
		}
		if err := c.q.room(c.hold, c.holdInodes); err != nil {
			return err
		}
	}
	for i := range charges {
		charges[i].q.heldBytes += charges[i].hold
		charges[i].q.heldInodes += charges[i].holdInodes
	}
	return nil
}

func (qt *quotaTable) undo(charges []charge) {
	qt.mu.Lock()
	defer qt.mu.Unlock()
	for i := range charges {
		charges[i].q.heldBytes -= charges[i].hold
		charges[i].q.heldInodes -= charges[i].holdInodes
	}
}

// settle makes charges of a committed transaction use.
func (qt *quotaTable) settle(charges []charge) {
	qt.mu.Lock()
	defer qt.mu.Unlock()
	for i := range charges {
		c := &charges[i]
		c.q.bytes += c.bytes
		c.q.inodes += c.inodes
		c.q.heldBytes -= c.hold + c.given
		c.q.heldInodes -= c.holdInodes
	}
}

// Reservations

// reservation is what a session has claimed for a file, and from which quotas.
type reservation struct {
	bytes int64
	chain []*quota
}

// Reserve implements Session.
func (s *session) Reserve(ctx context.Context, ino vfs.Ino, bytes int64) error {
	if bytes <= 0 {
		return nil
	}
	e := s.e
	if e.readOnly {
		return syscall.EROFS
	}
	e.gate.RLock()
	defer e.gate.RUnlock()
	chain, err := e.chainOf(ctx, ino)
	if err != nil {
		return fail("reserve space", "", err)
	}
	qt := e.quotas
	s.reserve.Lock()
	defer s.reserve.Unlock()
	if s.closed.Load() { // nobody would give it back
		return vfs.WithErrno(syscall.EIO, errSessionClosed)
	}
	qt.mu.Lock()
	defer qt.mu.Unlock()
	if err := qt.volume.room(bytes, 0); err != nil {
		return err
	}
	for _, q := range chain {
		if err := q.room(bytes, 0); err != nil {
			return err
		}
	}
	r := s.reserved[ino]
	if r == nil {
		r = &reservation{chain: chain}
		s.reserved[ino] = r
	}
	if !slices.Equal(r.chain, chain) { // the file has moved
		hold(r.chain, -r.bytes)
		hold(chain, r.bytes)
		r.chain = chain
	}
	r.bytes += bytes
	qt.volume.heldBytes += bytes
	hold(chain, bytes)
	return nil
}

// chainOf returns the quotas that hold for a file: ESTALE if it is gone.
func (e *Engine) chainOf(ctx context.Context, ino vfs.Ino) ([]*quota, error) {
	var n inode
	if err := e.attr(ctx, ino, &n); err != nil {
		return nil, err
	}
	qt := e.quotas
	qt.mu.Lock()
	if len(qt.dirs) == 0 || n.parent == 0 {
		qt.mu.Unlock()
		return nil, nil
	}
	c, ok := qt.chains[n.parent]
	qt.mu.Unlock()
	if ok {
		return c, nil
	}
	err := e.view(ctx, func(v *view) (err error) {
		c, err = qt.chain(v, n.parent)
		return err
	})
	return c, err
}

func hold(chain []*quota, bytes int64) {
	for _, q := range chain {
		q.heldBytes += bytes
	}
}

// Unreserve implements Session.
func (s *session) Unreserve(ino vfs.Ino, bytes int64) {
	s.reserve.Lock()
	defer s.reserve.Unlock()
	if r, n := s.take(ino, bytes); n > 0 {
		qt := s.e.quotas
		qt.mu.Lock()
		qt.volume.heldBytes -= n
		hold(r.chain, -n)
		qt.mu.Unlock()
	}
}

// take removes up to bytes of the reservation for ino. With s.reserve held.
func (s *session) take(ino vfs.Ino, bytes int64) (*reservation, int64) {
	r := s.reserved[ino]
	if r == nil || bytes <= 0 {
		return nil, 0
	}
	n := min(bytes, r.bytes)
	r.bytes -= n
	if r.bytes == 0 {
		delete(s.reserved, ino)
	}
	return r, n
}

// StatFS implements Session: the quota with the least room, of those that hold
// there.
func (s *session) StatFS(ctx context.Context, _ *vfs.Caller, ino vfs.Ino, out *vfs.StatFS) error {
	e := s.e
	e.gate.RLock()
	defer e.gate.RUnlock()
	var n inode
	if err := e.attr(ctx, ino, &n); err != nil {
		return fail("statfs", "", err)
	}
	dir := ino
	if !n.isDir() {
		dir = n.parent
	}
	qt := e.quotas
	var chain []*quota
	err := e.view(ctx, func(v *view) (err error) {
		chain, err = qt.chain(v, dir)
		return err
	})
	if err != nil {
		return fail("statfs", "", err)
	}
	const unit = 4096
	qt.mu.Lock()
	defer qt.mu.Unlock()
	bytes, bytesFree := space(qt.volume.limit.bytes, qt.volume.bytes+qt.volume.heldBytes, unlimitedBytes)
	files, filesFree := space(qt.volume.limit.inodes, qt.volume.inodes+qt.volume.heldInodes, unlimitedInodes)
	for _, q := range chain {
		if q.limit.bytes > 0 {
			if all, free := space(q.limit.bytes, q.bytes+q.heldBytes, 0); free < bytesFree {
				bytes, bytesFree = all, free
			}
		}
		if q.limit.inodes > 0 {
			if all, free := space(q.limit.inodes, q.inodes+q.heldInodes, 0); free < filesFree {
				files, filesFree = all, free
			}
		}
	}
	*out = vfs.StatFS{
		BlockSize: unit, Blocks: bytes / unit, BlocksFree: bytesFree / unit,
		Files: files, FilesFree: filesFree, MaxName: vfs.MaxName,
	}
	return nil
}

// What statfs shows as free where nothing limits.
const (
	unlimitedBytes  = 1 << 50
	unlimitedInodes = 1 << 32
)

// space returns the whole and the free of a limit, or where there is none what is
// used and free.
func space(limit uint64, used int64, free uint64) (all, left uint64) {
	u := uint64(max(used, 0))
	if limit == 0 {
		return u + free, free
	}
	return limit, limit - min(u, limit)
}
