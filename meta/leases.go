package meta

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/massif-fs/massif/vfs"
)

// Leases, the engine's side.
//
// The table knows which sessions hold which leases on which inodes. A lease is
// entered before the state is read that is told with it. A transaction looks in the
// table when it knows all that it changes, before its commit and with its locks
// held: it marks these inodes, so that no leases are given on them until the commit
// is over, and if other sessions hold leases on them it does not commit: it lets go
// of all its locks, recalls the leases, waits, and runs again. From the recall to
// the end of the transaction its marks stay. So
//
//   - no lease is held by another session on what a commit changes;
//   - a state that is told with a lease is not older than the lease;
//   - nothing is locked while somebody waits for a client.
//
// Recalls of one name of a directory, or of a range of a file, leave the lease with
// the holder. Where the same thing is recalled again and again, no leases are
// given for a while, except on data: those who would hold them ask each time, and
// those who change need not wait.
type leaseTable struct {
	active atomic.Int64 // sessions that take part
	limit  int64        // leased inodes of a session
	shards [leaseShards]leaseShard
}

const leaseShards = 256

type leaseShard struct {
	mu     sync.Mutex
	m      map[vfs.Ino]*leaseState
	grants int // since the shard was swept
}

// leaseState is what is known of an inode.
type leaseState struct {
	leaseHolder
	busy int32 // transactions that are about to change it: no leases are given
	more *leaseMore
}

// leaseHolder is a session and what it holds.
type leaseHolder struct {
	s     *session // nil: none
	seq   uint32   // changes when what the session may know of the inode changes
	kinds Leases
	// refused: what the session has read of the inode without a lease; voiding: what
	// it is being told that it does not know.
	refused, voiding Leases
}

// leaseMore is what few inodes have.
type leaseMore struct {
	others  []leaseHolder
	pending []*recallWait
	// Recalls since a time; no leases until another one, and for how long next time.
	recalls int
	since   int64
	shared  int64
	period  time.Duration
}

// recallWait is a recall under way.
type recallWait struct {
	s    *session
	what Recall
	done chan struct{}
}

// When to give no leases for a while: after stormRecalls in stormTime, first for
// sharedFirst, then for twice as long each time, up to sharedLast.
const (
	stormRecalls = 8
	stormTime    = time.Second
	sharedFirst  = 2 * time.Second
	sharedLast   = 30 * time.Second
)

// DefaultSessionLeases is how many inodes one session may have leases on, about 60
// bytes each. Who has more loses some by recall.
const DefaultSessionLeases = 1 << 20

func (t *leaseTable) shard(ino vfs.Ino) *leaseShard {
	return &t.shards[uint64(ino)*0x9e3779b97f4a7c15>>56]
}

// monotonic is a clock that nobody sets, in ns.
func monotonic() int64 { return int64(time.Since(processStart)) }

var processStart = time.Now()

// state finds an inode's state, and makes one.
func (sh *leaseShard) state(ino vfs.Ino) *leaseState {
	st := sh.m[ino]
	if st == nil {
		if sh.m == nil {
			sh.m = make(map[vfs.Ino]*leaseState)
		}
		st = new(leaseState)
		sh.m[ino] = st
	}
	return st
}

func (st *leaseState) extra() *leaseMore {
	if st.more == nil {
		st.more = new(leaseMore)
	}
	return st.more
}

// holder returns what s holds; nil: nothing.
func (st *leaseState) holder(s *session) *leaseHolder {
	if st.s == s {
		return &st.leaseHolder
	}
	if st.more != nil {
		for i := range st.more.others {
			if st.more.others[i].s == s {
				return &st.more.others[i]
			}
		}
	}
	return nil
}

// each calls fn with all holders.
func (st *leaseState) each(fn func(h *leaseHolder)) {
	if st.s != nil {
		fn(&st.leaseHolder)
	}
	if st.more != nil {
		for i := range st.more.others {
			fn(&st.more.others[i])
		}
	}
}

// give enters a lease. With the shard locked and nothing in the way.
func (st *leaseState) give(s *session, kinds Leases) *leaseHolder {
	h := st.holder(s)
	if h == nil {
		if st.s == nil {
			st.leaseHolder = leaseHolder{s: s, seq: s.leases.seqs.Add(1)}
			h = &st.leaseHolder
		} else {
			m := st.extra()
			m.others = append(m.others, leaseHolder{s: s, seq: s.leases.seqs.Add(1)})
			h = &m.others[len(m.others)-1]
		}
		s.leases.count.Add(1)
	}
	h.kinds |= kinds
	return h
}

// remove takes a holder out.
func (st *leaseState) remove(s *session) {
	if st.s == s {
		st.leaseHolder = leaseHolder{}
		if m := st.more; m != nil && len(m.others) > 0 {
			st.leaseHolder = m.others[len(m.others)-1]
			m.others = m.others[:len(m.others)-1]
		}
	} else if m := st.more; m != nil {
		m.others = slices.DeleteFunc(m.others, func(h leaseHolder) bool { return h.s == s })
	}
	s.leases.count.Add(-1)
}

// open tells whether leases may be given now.
func (st *leaseState) open(now int64) bool {
	return st.busy == 0 && (st.more == nil || st.more.shared <= now)
}

// forget removes a state of which nothing needs to be known.
func (sh *leaseShard) forget(ino vfs.Ino, st *leaseState, now int64) {
	if st.s != nil || st.busy > 0 {
		return
	}
	if m := st.more; m != nil && (len(m.others) > 0 || len(m.pending) > 0 || m.shared > now || m.since > now-int64(sharedLast)) {
		return
	}
	delete(sh.m, ino)
}

// sessionLeases is a session's part.
type sessionLeases struct {
	serve  func(r Recall, done func()) // delivers a recall; does not wait
	own    func(u *OwnChange)          // nil: nobody wants to know
	count  atomic.Int64                // inodes with leases
	epoch  atomic.Uint64               // counts changes of seq
	seqs   atomic.Uint32               // gives each lease, and each change of one, a number of its own
	queue  *RecallQueue                // of OnRecall
	expl   bool                        // leases are asked for with Lease
	victim atomic.Uint32               // which shard is pruned next
}

// Lease is a lease that a session was given, as long as Holds says so.
type Lease struct {
	Ino  vfs.Ino
	Kind Leases
	seq  uint32
}

// OwnChange tells a session what a change of its own has made of what it has leased.
type OwnChange struct {
	// Attrs are inodes that were changed or made, with the leases that the session
	// has on them. One that is Gone has no more than its number.
	Attrs []OwnAttr
	// Changes are names and data, as the change feed has them; of what is leased only.
	Changes []vfs.Change
}

// OwnAttr is one inode of an OwnChange.
type OwnAttr struct {
	Attr  vfs.Attr
	Fresh bool // it was made: an empty directory, a file without data
	Gone  bool
	Leases
}

// ServeLeases makes the session take part in leases for a client elsewhere, once,
// before it is used. recall is told of leases that end, and calls done when the
// client has acknowledged, or its time is over; own of what the session's own
// changes did, in their order, before the call that made them returns. Both must not
// wait. Leases are only given by Lease.
func (s *session) ServeLeases(recall func(r Recall, done func()), own func(*OwnChange)) {
	if s.leases != nil { // another server had it
		s.DropLeases()
	} else {
		s.e.leases.active.Add(1)
	}
	s.leases = &sessionLeases{serve: recall, own: own, expl: true}
}

// OnRecall implements LeasedSession.
func (s *session) OnRecall(fn func(Recall)) {
	q := NewRecallQueue(fn)
	s.leases = &sessionLeases{serve: q.Add, queue: q}
	s.e.leases.active.Add(1)
}

// Leased implements LeasedSession.
func (s *session) Leased(ino vfs.Ino) Leases {
	if s.leases == nil {
		return 0
	}
	sh := s.e.leases.shard(ino)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if st := sh.m[ino]; st != nil {
		if h := st.holder(s); h != nil {
			return h.kinds &^ (h.refused | h.voiding)
		}
	}
	return 0
}

// Lease gives the session leases on an inode, before it is read; false: not now.
func (s *session) Lease(ino vfs.Ino, kinds Leases) (Lease, bool) {
	sl := s.leases
	if sl == nil || s.closed.Load() {
		return Lease{}, false
	}
	t := &s.e.leases
	sh := t.shard(ino)
	sh.mu.Lock()
	st := sh.state(ino)
	// Leases on data alone are always given: a kernel cannot be told what was read
	// without one being kept from its page cache, so that such a read waits for one.
	if st.busy > 0 || kinds != LeaseData && st.more != nil && !st.open(monotonic()) {
		if sl.expl {
			sh.forget(ino, st, monotonic())
		} else {
			st.refuse(s, kinds)
		}
		sh.mu.Unlock()
		return Lease{}, false
	}
	h := st.give(s, kinds)
	l := Lease{Ino: ino, Kind: kinds, seq: h.seq}
	var void []Recall
	if again := h.refused & kinds; again != 0 && h.voiding == 0 {
		void = append(void, h.void(ino, again))
	}
	if sh.grants++; sh.grants >= 1<<14 {
		void = append(void, sh.sweep(s)...)
	}
	sh.mu.Unlock()
	for _, r := range void {
		s.void(r)
	}
	if sl.count.Load() > t.limit {
		s.prune()
	}
	return l, true
}

// lease is Lease for calls that bring leases by themselves.
func (s *session) lease(ino vfs.Ino, kinds Leases) {
	if s.leases != nil && !s.leases.expl {
		s.Lease(ino, kinds)
	}
}

// implicit tells whether calls bring leases by themselves.
func (s *session) implicit() bool { return s.leases != nil && !s.leases.expl }

// Holds tells whether nothing was recalled since the lease was given, and the
// session has changed nothing of the inode itself.
func (s *session) Holds(l Lease) bool {
	sh := s.e.leases.shard(l.Ino)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	st := sh.m[l.Ino]
	if st == nil {
		return false
	}
	h := st.holder(s)
	return h != nil && h.seq == l.seq && h.kinds.Has(l.Kind)
}

// LeaseEpoch changes whenever one of the session's leases stops to hold.
func (s *session) LeaseEpoch() uint64 { return s.leases.epoch.Load() }

// LeaseCount is of how many inodes the session, which takes part in leases, has some.
func (s *session) LeaseCount() int64 { return s.leases.count.Load() }

// sweep removes states that nobody needs, and returns inodes of which s is to be
// told that it knows nothing. With the shard locked.
func (sh *leaseShard) sweep(s *session) (void []Recall) {
	sh.grants = 0
	now := monotonic()
	for ino, st := range sh.m {
		if h := st.holder(s); h != nil && h.refused != 0 && h.voiding == 0 && h.kinds == 0 {
			void = append(void, h.void(ino, h.refused))
		}
		sh.forget(ino, st, now)
	}
	return void
}

// refuse notes that a session reads something of an inode without a lease. Its next
// lease could make it believe that what it read is leased: so before it sees it, it is
// told that it knows nothing.
func (st *leaseState) refuse(s *session, kinds Leases) { st.give(s, 0).refused |= kinds }

// void notes that a session is to be told that it knows nothing of what it was refused.
func (h *leaseHolder) void(ino vfs.Ino, kinds Leases) Recall {
	h.refused &^= kinds
	h.voiding = kinds
	return Recall{Kind: kinds, Ino: ino, Len: -1}
}

// void tells a session that has been refused leases that it knows nothing.
func (s *session) void(r Recall) {
	t, ino := &s.e.leases, r.Ino
	s.leases.serve(r, func() {
		sh := t.shard(ino)
		sh.mu.Lock()
		defer sh.mu.Unlock()
		if st := sh.m[ino]; st != nil {
			if h := st.holder(s); h != nil {
				h.voiding = 0
				st.tidy(h)
				sh.forget(ino, st, monotonic())
			}
		}
	})
}

// prune recalls some of the session's leases. Nobody waits for that.
func (s *session) prune() {
	t := &s.e.leases
	sh := &t.shards[s.leases.victim.Add(1)%leaseShards]
	var out []*recallWait
	sh.mu.Lock()
	for ino, st := range sh.m {
		if h := st.holder(s); h != nil && st.busy == 0 {
			out = append(out, st.recall(h, Recall{Kind: h.kinds, Ino: ino}))
		}
	}
	sh.mu.Unlock()
	for _, w := range out {
		t.deliver(w)
	}
}

// recall begins the recall of (a part of) what h holds; the caller delivers it after
// it has unlocked the shard. h is invalid afterwards.
func (st *leaseState) recall(h *leaseHolder, what Recall) *recallWait {
	w := &recallWait{s: h.s, what: what, done: make(chan struct{})}
	h.seq = h.s.leases.seqs.Add(1)
	h.s.leases.epoch.Add(1)
	m := st.extra()
	m.pending = append(m.pending, w)
	h.kinds &^= what.Kind &^ what.kept()
	st.tidy(h)
	return w
}

// tidy removes a holder of nothing.
func (st *leaseState) tidy(h *leaseHolder) {
	if h.kinds == 0 && h.refused == 0 && h.voiding == 0 {
		st.remove(h.s)
	}
}

// kept returns the leases that the holder keeps on the rest of the names or data.
func (r *Recall) kept() (kinds Leases) {
	if r.Name != "" {
		kinds |= LeaseNames
	}
	if r.Off > 0 || r.Len >= 0 {
		kinds |= LeaseData
	}
	return kinds & r.Kind
}

// overlaps tells whether two recalls are of the same thing.
func (r *Recall) overlaps(o *Recall) bool {
	switch both := r.Kind & o.Kind; {
	case r.Ino != o.Ino || both == 0:
		return false
	case both == LeaseNames && r.Name != "" && o.Name != "":
		return r.Name == o.Name
	}
	return true
}

// deliver hands a recall to its session.
func (t *leaseTable) deliver(w *recallWait) {
	if w.s.closed.Load() {
		t.acknowledged(w)
		return
	}
	var once sync.Once
	w.s.leases.serve(w.what, func() { once.Do(func() { t.acknowledged(w) }) })
}

func (t *leaseTable) acknowledged(w *recallWait) {
	sh := t.shard(w.what.Ino)
	sh.mu.Lock()
	if st := sh.m[w.what.Ino]; st != nil && st.more != nil {
		st.more.pending = slices.DeleteFunc(st.more.pending, func(x *recallWait) bool { return x == w })
		sh.forget(w.what.Ino, st, monotonic())
	}
	sh.mu.Unlock()
	close(w.done)
}

// DropLeases ends all leases of a session without telling it: its client has
// stopped to use them.
func (s *session) DropLeases() {
	if s.leases == nil {
		return
	}
	t := &s.e.leases
	now := monotonic()
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		for ino, st := range sh.m {
			if st.holder(s) != nil {
				st.remove(s)
				sh.forget(ino, st, now)
			}
		}
		sh.mu.Unlock()
	}
	s.leases.epoch.Add(1)
}

// endLeases is the end of a session's part in leases.
func (s *session) endLeases() {
	if s.leases == nil {
		return
	}
	s.DropLeases()
	s.e.leases.active.Add(-1)
	if s.leases.queue != nil {
		s.leases.queue.Close()
	}
}

// Transactions

// claim marks what the transaction changes, and finds out which leases are in the
// way: errRecall if any are.
func (t *txn) claim() error {
	t.wants = t.appendWants(t.wants[:0])
	t.conflicts = t.conflicts[:0]
	table := &t.e.leases
	for i := range t.wants {
		w := &t.wants[i]
		sh := table.shard(w.Ino)
		sh.mu.Lock()
		st := sh.state(w.Ino)
		st.busy++
		t.marked = append(t.marked, w.Ino)
		st.each(func(h *leaseHolder) {
			if h.s == t.from || h.kinds&w.Kind == 0 {
				return
			}
			what := *w
			what.Kind &= h.kinds
			if !t.recalled(h.s, &what) {
				t.conflicts = append(t.conflicts, leaseConflict{s: h.s, what: what})
			}
		})
		if st.more != nil {
			for _, p := range st.more.pending {
				if p.s != t.from && p.what.overlaps(w) {
					t.conflicts = append(t.conflicts, leaseConflict{wait: p.done})
				}
			}
		}
		sh.mu.Unlock()
	}
	if len(t.conflicts) > 0 {
		return errRecall
	}
	return nil
}

// leaseConflict is a lease in a transaction's way: to be recalled, or waited for.
type leaseConflict struct {
	s    *session
	what Recall
	wait <-chan struct{}
}

// recalled tells whether the transaction has recalled a part of a lease already.
func (t *txn) recalled(s *session, what *Recall) bool {
	return slices.ContainsFunc(t.acked, func(c leaseConflict) bool {
		kind := c.what.Kind
		c.what.Kind = what.Kind
		return c.s == s && c.what == *what && what.Kind&^kind == 0
	})
}

// appendWants lists what the transaction changes.
func (t *txn) appendWants(list []Recall) []Recall {
	for _, n := range t.nodes[:t.count] {
		switch {
		case n.fresh:
		case n.removed:
			list = append(list, Recall{Kind: LeaseAttr | LeaseNames | LeaseData, Ino: n.ino, Len: -1})
		case n.inode != n.old && !n.onlyRead():
			list = append(list, Recall{Kind: LeaseAttr, Ino: n.ino})
		}
	}
	for i := range t.changes {
		switch c := &t.changes[i]; c.Kind {
		case vfs.ChangeEntry:
			list = addWant(list, Recall{Kind: LeaseNames, Ino: c.Parent, Name: c.Name})
		case vfs.ChangeData:
			list = addWant(list, Recall{Kind: LeaseData, Ino: c.Ino, Off: c.Off, Len: c.Len})
		}
	}
	return append(list, t.relaid...)
}

// onlyRead tells whether nothing has changed but the access time. Others may show an
// old one: a recall for each reader of a file would cost more than it is worth.
func (n *node) onlyRead() bool {
	old := n.old
	old.atime = n.atime
	return n.inode == old
}

// addWant adds to the list, as one with the attributes of the same inode where that
// is possible: one recall tells of both.
func addWant(list []Recall, r Recall) []Recall {
	for i := range list {
		x := &list[i]
		switch {
		case x.Ino != r.Ino || x.Kind&LeaseAttr == 0:
		case x.Kind == LeaseAttr:
			r.Kind |= LeaseAttr
			*x = r
			return list
		case x.Kind == LeaseAttr|LeaseNames|LeaseData: // the inode goes
			return list
		}
	}
	return append(list, r)
}

// unmark takes claim's marks back.
func (t *txn) unmark(marked []vfs.Ino) {
	now := int64(0)
	for _, ino := range marked {
		sh := t.e.leases.shard(ino)
		sh.mu.Lock()
		if st := sh.m[ino]; st != nil {
			if st.busy--; st.busy == 0 && st.s == nil {
				if st.more != nil && now == 0 {
					now = monotonic()
				}
				sh.forget(ino, st, now)
			}
		}
		sh.mu.Unlock()
	}
}

// recallConflicts recalls what claim found, and waits until nobody uses it any
// more. The transaction holds no locks. Marks stay until its end.
func (t *txn) recallConflicts(ctx context.Context) error {
	table := &t.e.leases
	now := monotonic()
	var waits []<-chan struct{}
	var out []*recallWait
	for _, c := range t.conflicts {
		if c.wait != nil {
			waits = append(waits, c.wait)
			continue
		}
		sh := table.shard(c.what.Ino)
		sh.mu.Lock()
		st := sh.state(c.what.Ino)
		st.busy++
		t.held = append(t.held, c.what.Ino)
		if st.storm(now) { // whatever else it holds there goes, too
			c.what = Recall{Kind: LeaseAttr | LeaseNames | LeaseData, Ino: c.what.Ino, Len: -1}
		}
		if h := st.holder(c.s); h != nil && h.kinds&c.what.Kind != 0 {
			c.what.Kind &= h.kinds
			out = append(out, st.recall(h, c.what))
		}
		sh.mu.Unlock()
	}
	for _, w := range out {
		table.deliver(w)
	}
	for _, w := range out {
		select {
		case <-w.done:
			if w.what.kept() != 0 {
				t.acked = append(t.acked, leaseConflict{s: w.s, what: w.what})
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for _, w := range waits {
		select {
		case <-w:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// storm counts a recall and tells whether no leases are to be given for a while.
func (st *leaseState) storm(now int64) bool {
	m := st.extra()
	if now-m.since > int64(stormTime) {
		if now-m.since > int64(sharedLast) {
			m.period = 0
		}
		m.since, m.recalls = now, 0
	}
	if m.recalls++; m.recalls < stormRecalls {
		return m.shared > now
	}
	m.period = min(max(2*m.period, sharedFirst), sharedLast)
	m.shared = now + int64(m.period)
	m.recalls = 0
	return true
}

// settleLeases is the end of a committed transaction: its session learns what became
// of what it has leased. With the transaction's locks still held.
func (t *txn) settleLeases() {
	t.unmark(t.marked)
	t.marked = t.marked[:0]
	s := t.from
	if s == nil || s.leases == nil || s.closed.Load() {
		return
	}
	t.unmark(t.held) // lest the transaction's own marks keep its session from a lease
	t.held = t.held[:0]
	own := s.leases.own
	var u OwnChange
	for _, n := range t.nodes[:t.count] {
		kinds := Leases(0)
		switch {
		case n.removed && n.fresh, !n.fresh && !n.removed && n.inode == n.old:
			continue
		case n.fresh:
			kinds = LeaseAttr
			if n.isDir() {
				kinds |= LeaseNames
			} else if n.isRegular() {
				kinds |= LeaseData
			}
		case !n.removed:
			kinds = LeaseAttr
		}
		x := OwnAttr{Fresh: n.fresh, Gone: n.removed}
		sh := t.e.leases.shard(n.ino)
		sh.mu.Lock()
		now := monotonic()
		st := sh.state(n.ino)
		if n.removed {
			if h := st.holder(s); h != nil {
				st.remove(s)
			}
		} else {
			if h := st.holder(s); h != nil {
				h.seq = h.s.leases.seqs.Add(1)
				s.leases.epoch.Add(1)
			}
			if st.open(now) {
				x.Leases = st.give(s, kinds).kinds
			} else if h := st.holder(s); h != nil {
				x.Leases = h.kinds
			}
			if !st.open(now) && !s.leases.expl {
				st.refuse(s, kinds)
			}
		}
		sh.forget(n.ino, st, now)
		sh.mu.Unlock()
		if own != nil {
			x.Attr.Ino = n.ino
			if !n.removed {
				n.fill(n.ino, &x.Attr)
			}
			u.Attrs = append(u.Attrs, x)
		}
	}
	if own == nil {
		return
	}
	for _, c := range t.changes {
		if c.Kind == vfs.ChangeEntry || c.Kind == vfs.ChangeData {
			t.touchLease(s, c)
			u.Changes = append(u.Changes, c)
		}
	}
	for _, r := range t.relaid {
		c := vfs.Change{Kind: vfs.ChangeData, Ino: r.Ino, Off: r.Off, Len: r.Len}
		t.touchLease(s, c)
		u.Changes = append(u.Changes, c)
	}
	if len(u.Attrs) > 0 || len(u.Changes) > 0 {
		own(&u)
	}
}

// touchLease makes what the session is just reading of a changed inode unfit to be
// kept.
func (t *txn) touchLease(s *session, c vfs.Change) {
	ino := c.Ino
	if c.Kind == vfs.ChangeEntry {
		ino = c.Parent
	}
	sh := t.e.leases.shard(ino)
	sh.mu.Lock()
	if st := sh.m[ino]; st != nil {
		if h := st.holder(s); h != nil {
			h.seq = h.s.leases.seqs.Add(1)
			s.leases.epoch.Add(1)
		}
	}
	sh.mu.Unlock()
}
