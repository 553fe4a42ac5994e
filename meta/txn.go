package meta

import (
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// txn is the layer through which everything is changed. It keeps in one place
// what must hold for all changes: history of versioned records, references of
// blocks, the volume's totals and quotas, the attribute cache, the change feed and
// the order of locks.
//
// Inodes are loaded into nodes, changed there, and written when the transaction's
// function is done: once each, and with what the change means for quotas.
//
// The function may run several times. It must set everything it hands to its
// caller in each run.
type txn struct {
	view
	w     kv.Txn
	ctx   context.Context
	from  *session // whose change it is; nil for the engine's own
	body  func(*txn) error
	apply func(kv.Txn) error // run, made once

	stripes   []uint16 // held, ascending
	wanted    []vfs.Ino
	exclusive bool // holds the gate alone
	moves     bool // holds the lock of moves between directories

	// What stays over runs:
	conflicts []leaseConflict // leases that were in the way of the last one
	acked     []leaseConflict // parts of leases that have been recalled
	held      []vfs.Ino       // inodes marked in the table of leases since their recall

	// Of the present run:
	now     vfs.Time
	stamp   uint64 // its place in time, for history and the delete queue
	nodes   []*node
	count   int // nodes in use
	blocks  []blockChange
	byBlock map[uint64]int // index in blocks
	charges []charge
	changes []vfs.Change
	named   []vfs.Ino // nameless inodes that were marked in the table of uses
	then    []func()  // after the commit, with the locks held
	wants   []Recall  // leases that must not be held by others
	relaid  []Recall  // data whose layout changes, not what it says
	marked  []vfs.Ino // inodes marked in the table of leases, in this run
	recent  []vfs.Ino // inodes marked as not durable
	synced  uint64    // the sync that makes the commit durable
	foreign bool      // depends on what others have changed and is not durable
	lonely  bool      // may depend on it in ways that are not looked for
	cached  bool      // the attribute cache knows of the commit
	charged bool
	partial bool   // not the last transaction of its call
	revives bool   // may point to retired blocks: it holds them (see maintain.go)
	value   []byte // scratch for values
	hkey    []byte // scratch for history
	hvalue  []byte
	old     []byte      // scratch for values that were
	lists   [2][]Extent // scratch for extents
	written []uint64    // hashes of the keys of which there is history
}

// node is an inode in a transaction.
type node struct {
	ino     vfs.Ino
	inode         // as it is to be
	old     inode // as it was; undefined for a fresh one
	fresh   bool  // made by this transaction
	removed bool
}

var (
	// errRelock ends a run that needs locks which it could not have: it is
	// repeated with them.
	errRelock = errors.New("run again with more locks")
	// errExclusive ends a run that needs the gate for itself.
	errExclusive = errors.New("run again alone")
	// errRecall ends a run that leases are in the way of: it is repeated after
	// their recall.
	errRecall = errors.New("run again after a recall")
)

var txns = sync.Pool{New: func() any {
	t := &txn{byBlock: make(map[uint64]int)}
	t.apply = t.runOnce
	return t
}}

// update runs fn in a transaction that holds the locks of inos, commits it and
// tells the cache, the feed and the quotas. Errors come back as fn gave them.
func (e *Engine) update(ctx context.Context, s *session, inos []vfs.Ino, fn func(*txn) error) error {
	return e.transact(ctx, s, inos, together, fn)
}

// updateMoving is update for what may move directories: one at a time, so that none
// of the walks up that keep directories out of themselves sees another's. The store
// would find the conflict too, but late.
func (e *Engine) updateMoving(ctx context.Context, s *session, inos []vfs.Ino, fn func(*txn) error) error {
	return e.transact(ctx, s, inos, moving, fn)
}

// updateAlone is update while no other change is under way.
func (e *Engine) updateAlone(ctx context.Context, s *session, fn func(*txn) error) error {
	return e.transact(ctx, s, nil, alone, fn)
}

// conflictTries is how often an Update is repeated whose driver has given up.
const conflictTries = 100

// company says beside which others a transaction runs.
type company uint8

const (
	together  company = iota
	moving            // no other one of this kind
	alone             // none
	impatient         // any, but it does not wait for a recall: errRecall
)

// transact is update, updateMoving or updateAlone.
func (e *Engine) transact(ctx context.Context, s *session, inos []vfs.Ino, c company, fn func(*txn) error) error {
	if e.readOnly {
		return syscall.EROFS
	}
	if s != nil && s.closed.Load() {
		return vfs.WithErrno(syscall.EIO, errSessionClosed)
	}
	replay := replayOf(ctx)
	if e.absent.some.Load() && !e.opening && !replay.again() {
		if c == impatient {
			return errRecall
		}
		if err := e.absent.waitChanges(ctx, s); err != nil {
			return interrupted(err)
		}
	}
	t := txns.Get().(*txn)
	t.e, t.ctx, t.from, t.body, t.exclusive, t.moves = e, ctx, s, fn, c == alone, c == moving
	t.wanted = append(t.wanted[:0], inos...)
	t.enter()
	var err error
	for tries := 0; ; tries++ {
		t.lock()
		err = e.db.Update(ctx, t.apply)
		if err == nil {
			t.committed()
			t.unlock()
			break
		}
		t.undo()
		t.unlock()
		if errors.Is(err, errExclusive) && !t.exclusive {
			t.leave()
			t.exclusive = true
			t.enter()
		} else if errors.Is(err, errRecall) && c != impatient {
			t.leave()
			if err = t.recallConflicts(ctx); err != nil {
				t.enter()
				break
			}
			t.enter()
			tries = 0
		} else if !errors.Is(err, errRelock) && !(errors.Is(err, kv.ErrConflict) && tries < conflictTries && ctx.Err() == nil) {
			break
		}
	}
	t.leave()
	t.unmark(t.held)
	t.tellReplay(replay, err)
	t.release()
	if errors.Is(err, kv.ErrUnknown) {
		err = errors.Join(err, e.recount())
	}
	return interrupted(err)
}

// interrupted gives the error of an ended context its errno.
func interrupted(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return vfs.WithErrno(syscall.EINTR, err)
	case errors.Is(err, context.DeadlineExceeded):
		return vfs.WithErrno(syscall.ETIMEDOUT, err)
	}
	return err
}

func (t *txn) enter() {
	if t.exclusive {
		t.e.gate.Lock()
	} else {
		t.e.gate.RLock()
	}
}

func (t *txn) leave() {
	if t.exclusive {
		t.e.quotas.forgetChains() // directories may have moved
		t.e.gate.Unlock()
	} else {
		t.e.gate.RUnlock()
	}
}

// quiesce waits until every run of a transaction that has begun is over. Those that
// begin from then on see what the caller had changed in memory before. With the gate not
// held.
func (e *Engine) quiesce() {
	e.gate.Lock()
	defer e.gate.Unlock()
}

// release forgets what the transaction held and gives its memory back.
func (t *txn) release() {
	t.reset()
	clear(t.conflicts)
	clear(t.acked)
	t.conflicts, t.acked, t.held = t.conflicts[:0], t.acked[:0], t.held[:0]
	t.e, t.ctx, t.from, t.body, t.w, t.r = nil, nil, nil, nil, nil, nil
	if cap(t.value) > 64<<10 {
		t.value, t.lists = nil, [2][]Extent{}
	}
	txns.Put(t)
}

// reset forgets the last run.
func (t *txn) reset() {
	t.count = 0
	if len(t.nodes) > 64 {
		t.nodes = nil
	}
	t.blocks = t.blocks[:0]
	if cap(t.blocks) > 1024 {
		t.blocks, t.byBlock = nil, make(map[uint64]int)
	}
	clear(t.byBlock)
	clear(t.charges)
	t.charges = t.charges[:0]
	clear(t.changes)
	t.changes = t.changes[:0]
	t.named = t.named[:0]
	t.relaid = t.relaid[:0]
	t.partial, t.foreign, t.lonely = false, false, false
	t.written = t.written[:0]
	t.revives = false
	clear(t.then)
	t.then = t.then[:0]
}

// runOnce is one run within the store's Update.
func (t *txn) runOnce(w kv.Txn) error {
	t.undo()
	t.reset()
	if t.from != nil && t.from.closed.Load() { // what it would leave, nobody would remove (see endSession)
		return vfs.WithErrno(syscall.EIO, errSessionClosed)
	}
	t.w, t.r = w, w
	t.now = t.e.now()
	if r := replayOf(t.ctx); r.again() {
		if !t.e.absent.has(t.from.id) { // others have been let in
			return vfs.WithErrno(syscall.EIO, errTooLate)
		}
		t.now = r.Again.Now
	}
	t.stamp = t.e.clock.tick(t.now)
	if err := t.body(t); err != nil {
		return err
	}
	if err := t.bound(); err != nil {
		return err
	}
	if err := t.flushNodes(); err != nil {
		return err
	}
	if err := t.flushBlocks(); err != nil {
		return err
	}
	if err := t.flushCharges(); err != nil {
		return err
	}
	t.recordReplay()
	if t.e.leases.active.Load() > 0 {
		if err := t.claim(); err != nil {
			return err
		}
	}
	t.beginRecent()
	for _, n := range t.nodes[:t.count] {
		t.e.cache.begin(n.ino)
	}
	t.cached = true
	return nil
}

// undo takes back what a run that was not committed left in memory.
func (t *txn) undo() {
	if t.cached {
		for _, n := range t.nodes[:t.count] {
			t.e.cache.end(n.ino, nil)
		}
		t.cached = false
	}
	if t.charged {
		t.e.quotas.undo(t.charges)
		t.charged = false
	}
	for _, ino := range t.named {
		t.e.uses.revive(ino)
	}
	t.named = t.named[:0]
	t.unmark(t.marked)
	t.marked = t.marked[:0]
	t.endRecent()
}

// committed tells everybody, with the locks still held so that changes of an
// inode are told in their order.
func (t *txn) committed() {
	for _, n := range t.nodes[:t.count] {
		if n.removed {
			t.e.cache.end(n.ino, nil)
		} else {
			t.e.cache.end(n.ino, &n.inode)
		}
	}
	t.cached = false
	t.endRecent()
	t.e.quotas.settle(t.charges)
	t.charged = false
	t.named = t.named[:0]
	for _, fn := range t.then {
		fn()
	}
	if len(t.changes) > 0 && t.e.watched.Load() > 0 {
		t.e.tell(t.from, t.changes)
	}
	if len(t.marked) > 0 || t.from != nil && t.from.leases != nil {
		t.settleLeases()
	}
}

// Locks

// Each inode belongs to one of lockStripes locks. A transaction that changes an
// inode holds its lock, so that transactions in this process seldom conflict in
// the store, and stamps of an inode's changes ascend. They are taken in ascending
// order, or tried.
const lockStripes = 1024

type stripe struct {
	sync.Mutex
	_ [56]byte
}

func stripeOf(ino vfs.Ino) uint16 { return uint16(uint64(ino) * 0x9e3779b97f4a7c15 >> 54) }

// lock takes the locks of the wanted inodes.
func (t *txn) lock() {
	t.stripes = t.stripes[:0]
	if t.exclusive {
		return // nobody else is here
	}
	if t.moves {
		t.e.renames.Lock()
	}
	for _, ino := range t.wanted {
		t.stripes = append(t.stripes, stripeOf(ino))
	}
	slices.Sort(t.stripes)
	t.stripes = slices.Compact(t.stripes)
	for _, i := range t.stripes {
		t.e.stripes[i].Lock()
	}
}

func (t *txn) unlock() {
	for _, i := range t.stripes {
		t.e.stripes[i].Unlock()
	}
	t.stripes = t.stripes[:0]
	if t.moves && !t.exclusive {
		t.e.renames.Unlock()
	}
}

// alsoLock makes sure that the lock of ino is held, or returns errRelock.
func (t *txn) alsoLock(ino vfs.Ino) error {
	if t.exclusive {
		return nil
	}
	i := stripeOf(ino)
	if slices.Contains(t.stripes, i) {
		return nil
	}
	if t.e.stripes[i].TryLock() {
		t.stripes = append(t.stripes, i)
		return nil
	}
	t.wanted = append(t.wanted, ino)
	return errRelock
}

// Inodes

// load returns the node of an inode that is there: ESTALE if not. Changes made
// to the node are written when the function is done.
func (t *txn) load(ino vfs.Ino) (*node, error) {
	for _, n := range t.nodes[:t.count] {
		if n.ino == ino {
			if n.removed {
				return nil, syscall.ESTALE
			}
			return n, nil
		}
	}
	if err := t.alsoLock(ino); err != nil {
		return nil, err
	}
	n := t.node(ino)
	if err := t.inode(ino, &n.old); err != nil {
		t.count--
		return nil, err
	}
	n.inode = n.old
	return n, nil
}

// loadDir is load for a directory that can get and lose names: ENOTDIR, and
// ENOENT if it has been removed.
func (t *txn) loadDir(ino vfs.Ino) (*node, error) {
	n, err := t.load(ino)
	switch {
	case err != nil:
		return nil, err
	case !n.isDir():
		return nil, syscall.ENOTDIR
	case n.nlink == 0:
		return nil, syscall.ENOENT
	}
	return n, nil
}

// loadFile is load for a regular file: EISDIR, EINVAL.
func (t *txn) loadFile(ino vfs.Ino) (*node, error) {
	n, err := t.load(ino)
	switch {
	case err != nil:
		return nil, err
	case n.isDir():
		return nil, syscall.EISDIR
	case !n.isRegular():
		return nil, syscall.EINVAL
	}
	return n, nil
}

// create adds a new inode.
func (t *txn) create(ino vfs.Ino, in inode) *node {
	n := t.node(ino)
	n.inode, n.fresh = in, true
	return n
}

func (t *txn) node(ino vfs.Ino) *node {
	if t.count == len(t.nodes) {
		t.nodes = append(t.nodes, new(node))
	}
	n := t.nodes[t.count]
	t.count++
	n.ino, n.fresh, n.removed = ino, false, false
	return n
}

// flushNodes writes the attribute records and charges what their change means.
func (t *txn) flushNodes() error {
	for _, n := range t.nodes[:t.count] {
		switch {
		case n.removed && n.fresh:
			continue
		case n.removed:
			if err := t.rememberNode(n); err != nil {
				return err
			}
			t.w.Delete(t.key)
			if err := t.charge(n.old.parent, -n.old.usage(), -1); err != nil {
				return err
			}
		case n.fresh || n.inode != n.old:
			if err := t.rememberNode(n); err != nil {
				return err
			}
			t.value = n.encode(t.value[:0])
			t.w.Put(t.key, t.value)
			if err := t.chargeNode(n); err != nil {
				return err
			}
		}
	}
	return nil
}

// rememberNode is remember for an attribute record, and leaves its key in t.key.
func (t *txn) rememberNode(n *node) error {
	t.key = appendInodeKey(t.key[:0], n.ino)
	if n.fresh {
		return t.rememberAs(t.key, nil)
	}
	if !t.keeps(t.key) {
		return nil
	}
	t.old = n.old.encode(t.old[:0])
	return t.rememberAs(t.key, t.old)
}

func (t *txn) chargeNode(n *node) error {
	switch {
	case n.fresh:
		return t.charge(n.parent, n.usage(), 1)
	case n.parent != n.old.parent:
		if err := t.charge(n.old.parent, -n.old.usage(), -1); err != nil {
			return err
		}
		return t.charge(n.parent, n.usage(), 1)
	case n.usage() != n.old.usage():
		return t.charge(n.parent, n.usage()-n.old.usage(), 0)
	}
	return nil
}

// Changes

func (t *txn) changed(c vfs.Change) {
	if t.e.watched.Load() > 0 || t.e.leases.active.Load() > 0 {
		t.changes = append(t.changes, c)
	}
}

func (t *txn) changedEntry(parent vfs.Ino, name string, ino vfs.Ino) {
	t.changed(vfs.Change{Kind: vfs.ChangeEntry, Parent: parent, Name: name, Ino: ino})
}

func (t *txn) changedAttr(ino vfs.Ino) { t.changed(vfs.Change{Kind: vfs.ChangeAttr, Ino: ino}) }

func (t *txn) changedData(ino vfs.Ino, off, length int64) {
	t.changed(vfs.Change{Kind: vfs.ChangeData, Ino: ino, Off: off, Len: length})
}

// changedLink tells that an inode lost a name: it lives on, or is gone.
func (t *txn) changedLink(n *node) {
	if n.removed {
		t.changed(vfs.Change{Kind: vfs.ChangeGone, Ino: n.ino})
	} else {
		t.changedAttr(n.ino)
	}
}
