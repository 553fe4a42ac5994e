package metarpc

import (
	"errors"
	"sync"

	"github.com/massif-fs/massif/meta"
)

// leaseKeeper is a session's part in leases that the client has to do with: recalls
// under way, and until when the client believes its leases to be good.
//
// The client counts from before it sent its last heartbeat that was answered, the
// server from when it got it: so the client stops first, whatever their clocks say. A
// client that does not acknowledge a recall for a lease's time gets no answers to its
// heartbeats any more; so a recall never takes longer than twice that time.
type leaseKeeper struct {
	mu       sync.Mutex
	until    int64 // on the clock of nanotime
	refusing bool  // heartbeats are not answered
	lapsed   bool  // the client is to be told that its leases are gone
	next     uint64
	recalls  map[uint64]*keptRecall
}

type keptRecall struct {
	since int64
	done  func()
}

// recall is told by the engine of a lease that ends.
func (ss *session) recall(r meta.Recall, done func()) {
	ss.srv.recalls.sent.Add(1)
	k := &ss.leases
	k.mu.Lock()
	id := k.next
	k.next++
	if k.recalls == nil {
		k.recalls = make(map[uint64]*keptRecall)
	}
	k.recalls[id] = &keptRecall{since: nanotime(), done: done}
	k.mu.Unlock()
	ss.mu.Lock()
	l, ended := ss.link, ss.ended
	ss.mu.Unlock()
	if ended {
		ss.acknowledge(id)
		return
	}
	if l == nil {
		return // the client drops everything when it comes back, or its time runs out
	}
	e := encoder{b: beginFrame(make([]byte, 0, 64), frameRecall)}
	e.uint(id)
	e.u8(uint8(r.Kind))
	e.ino(ss.shown(r.Ino))
	if ss.confined() { // it may have left the scope: what is called how there is nobody's business
		e.str("")
	} else {
		e.str(r.Name)
	}
	e.int(r.Off)
	e.int(r.Len)
	endFrame(e.b, 0)
	if !l.w.post(e.b) {
		l.close(errors.New("the client does not take recalls"))
	}
}

// acknowledge ends a recall.
func (ss *session) acknowledge(id uint64) {
	k := &ss.leases
	k.mu.Lock()
	x := k.recalls[id]
	delete(k.recalls, id)
	k.mu.Unlock()
	if x != nil {
		ss.srv.recalls.acknowledged.Add(1)
		ss.srv.recalls.waited.Add(nanotime() - x.since)
		x.done()
	}
}

// extend gives the leases another time, because of a heartbeat: ok is false if it is not
// to be answered. lapsed is 1 if the client must drop everything first.
func (ss *session) extend() (lapsed uint8, ok bool) {
	k := &ss.leases
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refusing {
		return 0, false
	}
	k.until = nanotime() + int64(ss.srv.cfg.Lease)
	if k.lapsed {
		k.lapsed = false
		return 1, true
	}
	return 0, true
}

// late tells whether recalls have waited too long.
func (ss *session) late(now int64) bool {
	k := &ss.leases
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, x := range k.recalls {
		if now-x.since > int64(ss.srv.cfg.Lease) {
			k.refusing = true
		}
	}
	return len(k.recalls) > 0 && now > k.until
}

// lapse ends all leases of a client that has lost them by being silent.
func (ss *session) lapse() {
	ss.srv.log.Warn("a client has lost its leases: it did not answer in time", "session", ss.id)
	k := &ss.leases
	k.mu.Lock()
	refused := k.refusing
	k.refusing, k.lapsed = false, true
	ss.srv.recalls.expired.Add(int64(len(k.recalls)))
	k.mu.Unlock()
	ss.forgetLeases()
	if refused { // it is there, but does not do as it should
		ss.mu.Lock()
		l := ss.link
		ss.mu.Unlock()
		if l != nil {
			l.close(errors.New("the client does not acknowledge recalls"))
		}
	}
}

// forgetLeases ends all leases and recalls.
func (ss *session) forgetLeases() {
	if !ss.leasing {
		return
	}
	ss.ms.DropLeases()
	k := &ss.leases
	k.mu.Lock()
	all := k.recalls
	k.recalls = nil
	k.mu.Unlock()
	for _, x := range all {
		x.done()
	}
}

// own is told by the engine, in their order, of the session's own changes. The frame
// is before the replies of these changes.
func (ss *session) own(u *meta.OwnChange) {
	ss.mu.Lock()
	l := ss.link
	ss.mu.Unlock()
	if l == nil {
		return
	}
	e := encoder{b: beginFrame(make([]byte, 0, 256), frameOwn)}
	e.uint(uint64(len(u.Attrs)))
	for i := range u.Attrs {
		x := &u.Attrs[i]
		e.u8(uint8(x.Leases))
		var flags uint8
		if x.Fresh {
			flags |= ownFresh
		}
		if x.Gone {
			e.u8(flags | ownGone)
			e.ino(ss.shown(x.Attr.Ino))
			continue
		}
		x.Attr.Ino = ss.shown(x.Attr.Ino)
		e.u8(flags)
		e.attr(&x.Attr)
	}
	e.uint(uint64(len(u.Changes)))
	for i := range u.Changes {
		c := &u.Changes[i]
		c.Ino, c.Parent = ss.shown(c.Ino), ss.shown(c.Parent)
		e.change(c)
	}
	endFrame(e.b, 0)
	// At once, although it may not be durable yet: a recall of the same thing, which
	// can only come when the change's locks are given back, must come behind it.
	l.w.add(e.b)
}
