package metarpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/block/blockgate"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// session is a client's session on the server. It outlives connections.
type session struct {
	srv      *Server
	vol      *Volume
	grant    *Grant
	ms       hosted
	sync     *syncer
	leasing  bool   // the client keeps what it has leased
	early    bool   // it is told of changes before they are durable
	key      []byte // to sign receipts with, of early
	id       uint64
	secret   []byte
	readOnly bool

	heard   atomic.Int64 // when something came last, on the clock of nanotime
	reading sync.Mutex   // held by the reader of the present connection

	mu      sync.Mutex
	link    *link // nil: not connected
	latest  *link // of which a hello came last: it is the connection, or is to be
	slots   []*slot
	running sync.WaitGroup // calls on workers
	ended   bool
	leaving bool // the server goes down: nothing is sent any more
	over    chan struct{}
	halt    chan struct{} // closed when nothing is to be waited for any more
	halting sync.Once

	usesMu sync.Mutex
	used   map[vfs.Ino]struct{} // inodes that the client uses, each once
	// unclaimed are inodes that the client does not say it uses, since it may not have
	// been told of them: what the last calls of slots made without a name.
	unclaimed map[vfs.Ino]struct{}
	// Of a restoration under way, with reading held:
	restored  map[vfs.Ino]struct{}
	restoring bool         // the server knows only what is stored, until its client has said what it holds
	again     *againResult // of changes that came again; nil: none did

	numbers blockgate.Numbers // of blocks, allocated and not committed

	watching func() // ends the feed; with reading held

	leases leaseKeeper
}

// hosted is what the engine's sessions are for a server.
type hosted interface {
	meta.Session
	meta.Creator
	ID() uint64
	ServeLeases(recall func(r meta.Recall, done func()), own func(*meta.OwnChange))
	Lease(ino vfs.Ino, kinds meta.Leases) (meta.Lease, bool)
	Holds(l meta.Lease) bool
	LeaseEpoch() uint64
	LeaseCount() int64
	DropLeases()
	RestoreLock(ctx context.Context, ino vfs.Ino, l vfs.Lock) error
	Restored(ctx context.Context) error
	EndWith(end func())
	Keeps(ctx context.Context, ino vfs.Ino) (bool, error)
	Replays(ctx context.Context, fn func(slot uint32, seq uint64, reply []byte)) error
	RecordBlocks(ctx context.Context, first uint64, n int) error
	OwnBlocks(ctx context.Context, fn func(first uint64, n int)) error
	ReadDirLeased(ctx context.Context, ino vfs.Ino, cookie uint64, emit func(*vfs.DirEntry, *meta.Lease) bool) error
}

// slot has the last call of one of the client's slots.
type slot struct {
	seq     uint64
	id      uint64 // of the call that wants the reply
	running bool
	cancel  context.CancelFunc
	reply   []byte  // its frame's body behind the id
	receipt []byte  // nil: the reply was sent when the call was durable
	temp    vfs.Ino // what the call made without a name: used until the client knows it, and says so
}

func newSession(s *Server, v *Volume, g *Grant, ms hosted) *session {
	ss := &session{srv: s, vol: v, grant: g, ms: ms, id: ms.ID(), over: make(chan struct{}), halt: make(chan struct{}), used: make(map[vfs.Ino]struct{})}
	ss.heard.Store(nanotime())
	ss.leases.until = nanotime() + int64(s.cfg.Lease)
	return ss
}

// takeOver makes l the session's connection as soon as the reader of the one
// before has ended, which it sees to, also where that one is not attached yet. The reader
// of l calls release at its end.
func (ss *session) takeOver(l *link) {
	ss.mu.Lock()
	old := ss.latest
	ss.link, ss.latest = nil, l
	ss.mu.Unlock()
	if old != nil {
		old.close(errOtherConnection)
	}
	ss.reading.Lock()
	ss.heard.Store(nanotime())
	ss.forgetLeases() // the client does the same
	ss.extend()
}

var errOtherConnection = errors.New("the client has another connection")

// release lets the next connection be read, after takeOver of l.
func (ss *session) release(l *link) {
	ss.mu.Lock()
	if ss.latest == l {
		ss.latest = nil
	}
	ss.mu.Unlock()
	ss.reading.Unlock()
}

// attach begins to send what there is for the client on l; false: not there.
func (ss *session) attach(l *link) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.ended || ss.leaving || ss.latest != l {
		return false
	}
	ss.link = l
	if ss.early {
		l.w.add(durableFrame(ss.vol.Engine.DurableSync()))
	}
	return true
}

func (ss *session) detach(l *link, err error) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.link == l {
		ss.link = nil
	}
	if !ss.ended && !ss.leaving {
		ss.srv.log.Info("connection of a client lost", "session", ss.id, "err", err)
	}
}

// read serves a connection until it ends.
func (ss *session) read(l *link) error {
	h := &handler{ss: ss, l: l}
	for {
		if !l.r.waiting() {
			if err := l.w.flush(); err != nil {
				return err
			}
		}
		kind, body, err := l.r.next(MaxFrame)
		if err != nil {
			return err
		}
		ss.heard.Store(nanotime())
		if err := ss.receive(h, kind, body); err != nil {
			ss.srv.log.Warn("a client's message is refused", "session", ss.id, "err", err)
			return err
		}
		if kind == frameBye {
			return nil
		}
	}
}

func (ss *session) receive(h *handler, kind frameKind, body []byte) error {
	switch kind {
	case frameCall:
		return ss.call(h, body)
	case frameCancel:
		if len(body) != 8 {
			return errMalformed
		}
		ss.interrupt(binary.LittleEndian.Uint64(body))
	case framePing:
		if len(body) != 8 {
			return errMalformed
		}
		lapsed, ok := ss.extend()
		if !ok {
			return nil // its time runs out
		}
		b := beginFrame(make([]byte, 0, 16), framePong)
		b = append(b, body...)
		b = append(b, lapsed)
		endFrame(b, 0)
		h.l.w.add(b)
	case frameAck:
		d := decoder{b: body}
		id := d.uint()
		if err := d.done(); err != nil {
			return err
		}
		ss.acknowledge(id)
	case frameUses:
		d := decoder{b: body}
		opened, released := d.inos(), d.inos()
		if err := d.done(); err != nil {
			return err
		}
		for _, ino := range opened {
			ss.use(ino)
			ss.claimed(ino)
		}
		for _, ino := range released {
			ss.unuse(ino)
		}
	case frameAgain:
		return ss.redo(h.l, body)
	case frameRestore:
		return ss.restore(body)
	case frameBye:
		ss.end(vfs.WithErrno(syscall.EIO, errClientEnded))
	default:
		return fmt.Errorf("%w: frame of kind %d", errMalformed, kind)
	}
	return nil
}

// use counts an inode as used by the session, once.
func (ss *session) use(ino vfs.Ino) {
	// The scope is looked at here, because what is in use is seen: a file whose last
	// name goes, or leaves the scope, can still be read by who has it open.
	ino = ss.real(ino)
	sees, err := ss.sees(context.Background(), ino)
	if err == nil && !sees && ss.restoring {
		sees, err = ss.ms.Keeps(context.Background(), ino)
	}
	if err != nil || !sees {
		return
	}
	ss.usesMu.Lock()
	defer ss.usesMu.Unlock()
	if _, ok := ss.used[ino]; !ok {
		ss.used[ino] = struct{}{}
		ss.ms.Open(ino)
	}
}

// usedAlready takes note that the engine has counted a use of what a call of slot sl
// made.
func (ss *session) usedAlready(sl *slot, ino vfs.Ino) {
	ss.usesMu.Lock()
	ss.used[ino] = struct{}{}
	ss.usesMu.Unlock()
	ss.mu.Lock()
	sl.temp = ino
	ss.mu.Unlock()
}

func (ss *session) unuse(ino vfs.Ino) {
	ino = ss.real(ino)
	ss.usesMu.Lock()
	defer ss.usesMu.Unlock()
	if _, ok := ss.used[ino]; ok {
		delete(ss.used, ino)
		ss.ms.Release(ino, 1)
	}
}

// claimed notes that the client has said itself that it uses an inode.
func (ss *session) claimed(ino vfs.Ino) {
	ss.usesMu.Lock()
	delete(ss.unclaimed, ss.real(ino))
	ss.usesMu.Unlock()
}

// known notes that the client has been told what a call made without a name, and so
// what of it it uses.
func (ss *session) known(temp vfs.Ino) {
	ss.usesMu.Lock()
	_, unclaimed := ss.unclaimed[temp]
	delete(ss.unclaimed, temp)
	ss.usesMu.Unlock()
	if unclaimed {
		ss.unuse(temp)
	}
}

// restore makes the session hold what its client says it does.
func (ss *session) restore(body []byte) error {
	d := decoder{b: body}
	flags := d.u8()
	inos := d.inos()
	if d.bad {
		return errMalformed
	}
	if ss.restored == nil {
		ss.restored = make(map[vfs.Ino]struct{}, len(inos))
	}
	for _, ino := range inos {
		ss.restored[ss.real(ino)] = struct{}{}
	}
	if flags&restoreLast == 0 {
		return d.done()
	}
	ctx := context.Background()
	for n := d.count(7); n > 0 && !d.bad; n-- {
		ino, l := ss.real(d.ino()), d.lock()
		if d.bad || !ss.restoring {
			continue // the server has them
		}
		sees, err := ss.sees(ctx, ino)
		if err == nil && sees {
			err = ss.ms.RestoreLock(ctx, ino, l)
		}
		if err != nil {
			ss.srv.log.Warn("a lock that a client held could not be restored", "session", ss.id, "inode", uint64(ino), "err", err)
		}
	}
	for n := d.count(2); n > 0 && !d.bad; n-- {
		ino, held := ss.real(d.ino()), d.int()
		if d.bad || !ss.restoring {
			continue
		}
		if err := ss.ms.Reserve(ctx, ino, held); err != nil {
			ss.srv.log.Debug("space that a client had reserved is not there any more", "session", ss.id, "inode", uint64(ino), "err", err)
		}
	}
	if err := d.done(); err != nil {
		return err
	}
	unclaimed := make(map[vfs.Ino]struct{})
	ss.mu.Lock()
	for _, sl := range ss.slots {
		if sl == nil || sl.temp == 0 {
			continue
		}
		if _, ok := ss.restored[sl.temp]; !ok {
			unclaimed[sl.temp] = struct{}{}
		}
	}
	ss.mu.Unlock()
	for ino := range ss.restored {
		ss.use(ino)
	}
	for ino := range unclaimed {
		if ss.restoring { // else it is in use, unless the client has let go of it
			ss.use(ino)
		}
		ss.restored[ino] = struct{}{}
	}
	ss.usesMu.Lock()
	ss.unclaimed = unclaimed
	ss.usesMu.Unlock()
	var gone []vfs.Ino
	ss.usesMu.Lock()
	for ino := range ss.used {
		if _, ok := ss.restored[ino]; !ok {
			gone = append(gone, ino)
		}
	}
	ss.usesMu.Unlock()
	for _, ino := range gone {
		ss.unuse(ino)
	}
	ss.restored = nil
	if ss.restoring {
		ss.restoring = false
		if err := ss.ms.Restored(ctx); err != nil {
			return err
		}
	}
	ss.watch(flags&restoreWatch != 0)
	ss.settle()
	return nil
}

// watch begins or ends the change feed.
func (ss *session) watch(on bool) {
	if ss.watching != nil {
		ss.watching()
		ss.watching = nil
	}
	if on {
		ss.watching = ss.ms.Watch(func(ch vfs.Change) {
			if !ss.tells(&ch) {
				return
			}
			e := encoder{b: beginFrame(make([]byte, 0, 64), frameChange)}
			e.uint(1)
			e.change(&ch)
			endFrame(e.b, 0)
			ss.push(e.b)
		})
	}
}

// push sends frames to the client, if it is connected. A client that does not take
// them loses the connection.
func (ss *session) push(frames []byte) {
	ss.mu.Lock()
	l := ss.link
	ss.mu.Unlock()
	if l != nil && !l.w.post(frames) {
		l.close(errors.New("the client does not take what it is sent"))
	}
}

// end ends the session for good; the client is told why.
func (ss *session) end(why error) {
	if l := ss.finish(why); l != nil {
		e := encoder{b: beginFrame(nil, frameEnd)}
		e.error(why)
		endFrame(e.b, 0)
		_ = l.w.write(e.b) // it may be gone
		l.close(why)
	}
}

var errSilent = errors.New("the client came back after a restart of the server and did not say in time what it holds")

// endSilent ends the session because its client does not say what it holds. The
// client loses the connection only: it comes back, learns that the session is not known
// any more, and begins a new one.
func (ss *session) endSilent() {
	if l := ss.finish(errSilent); l != nil {
		l.close(errSilent)
	}
}

// finish makes the session one that there is not any more, and returns its connection.
func (ss *session) finish(why error) *link {
	ss.mu.Lock()
	if ss.ended {
		ss.mu.Unlock()
		return nil
	}
	ss.ended = true
	close(ss.over)
	ss.halting.Do(func() { close(ss.halt) })
	l := ss.link
	for _, sl := range ss.slots {
		if sl != nil && sl.running {
			sl.cancel()
		}
	}
	ss.mu.Unlock()
	ss.srv.mu.Lock()
	delete(ss.srv.sessions, sessionKey{ss.grant.Volume, ss.id})
	delete(ss.srv.named, ss.blockName())
	ss.srv.mu.Unlock()
	ss.running.Wait()
	ss.forgetLeases()
	if err := ss.ms.Close(); err != nil {
		ss.srv.log.Error("a session could not be ended", "session", ss.id, "err", err)
	}
	ss.srv.log.Info("session ended", "session", ss.id, "host", ss.grant.Principal, "why", why)
	return l
}

// leave ends the session's connection because the server goes down. Its reader has
// ended.
func (ss *session) leave() {
	ss.halting.Do(func() { close(ss.halt) })
	ss.mu.Lock()
	for _, sl := range ss.slots { // those that wait for locks: the client asks again
		if sl != nil && sl.running && sl.cancel != nil {
			sl.cancel()
		}
	}
	ss.mu.Unlock()
	ss.running.Wait()
	ss.mu.Lock()
	ss.leaving = true
	l := ss.link
	ss.link = nil
	ss.mu.Unlock()
	if l != nil {
		b := beginFrame(make([]byte, 0, 8), frameLeave)
		endFrame(b, 0)
		_ = l.w.write(b) // it may be gone
		l.close(errServerCloses)
	}
}

// interrupt cancels a call that waits.
func (ss *session) interrupt(id uint64) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for _, sl := range ss.slots {
		if sl != nil && sl.running && sl.id == id {
			sl.cancel()
			return
		}
	}
}

// call deals with a call: one without a slot is answered here, others are done by a
// worker, once.
func (ss *session) call(h *handler, body []byte) error {
	if len(body) < 9 {
		return errMalformed
	}
	id, o := binary.LittleEndian.Uint64(body), op(body[8])
	body = body[9:]
	ss.srv.calls.Add(1)
	if !o.known() {
		h.begin(id)
		h.e.u8(statusError)
		h.e.error(vfs.WithErrno(syscall.EOPNOTSUPP, fmt.Errorf("%v is not known to this metadata server", o)))
		h.send()
		return nil
	}
	if !ops[o].slot {
		if o != opWatch && ss.vol.Engine.Unsettled() {
			return ss.answerLater(h.l, id, o, body)
		}
		h.begin(id)
		began := ss.begun()
		err := h.run(context.Background(), o, body)
		bytes, failed := len(body)+len(h.e.b), h.failed
		if h.early() {
			h.sendLater(func() { ss.observed(o, began, bytes, failed) })
		} else {
			h.send()
			ss.observed(o, began, bytes, failed)
		}
		return err
	}
	if len(body) < 12 {
		return errMalformed
	}
	n, seq := binary.LittleEndian.Uint32(body), binary.LittleEndian.Uint64(body[4:])
	body = body[12:]
	if n >= slotCount {
		return fmt.Errorf("%w: slot %d", errMalformed, n)
	}
	ss.mu.Lock()
	if ss.ended || ss.leaving {
		ss.mu.Unlock()
		return nil
	}
	for int(n) >= len(ss.slots) {
		ss.slots = append(ss.slots, nil)
	}
	sl := ss.slots[n]
	if sl == nil {
		sl = new(slot)
		ss.slots[n] = sl
	}
	switch {
	case seq < sl.seq:
		ss.mu.Unlock()
		return fmt.Errorf("%w: call %d of slot %d comes after call %d", errMalformed, seq, n, sl.seq)
	case seq == sl.seq:
		sl.id = id
		if sl.running {
			ss.mu.Unlock()
			return nil // the reply goes to this connection
		}
		frame := sl.frame()
		ss.mu.Unlock()
		h.l.w.add(frame)
		return nil
	case sl.running:
		ss.mu.Unlock()
		return fmt.Errorf("%w: slot %d is in use", errMalformed, n)
	}
	var ctx context.Context
	ctx, sl.cancel = context.WithCancel(context.Background())
	temp := sl.temp
	sl.receipt = nil
	sl.seq, sl.id, sl.running, sl.temp = seq, id, true, 0
	ss.running.Add(1)
	ss.mu.Unlock()
	if temp != 0 { // its client has had the reply before
		ss.known(temp)
	}
	w := &handler{ss: ss, l: h.l, slot: sl}
	if ops[o].change {
		w.replay = &meta.Replay{Slot: n, Seq: seq}
		ctx = meta.WithReplay(ctx, w.replay)
	}
	args := append([]byte(nil), body...)
	go ss.work(ctx, w, sl, o, args)
	return nil
}

// answerLater is call, for one without a slot, when those who were here before have
// made again what they had done.
func (ss *session) answerLater(l *link, id uint64, o op, body []byte) error {
	ss.mu.Lock()
	if ss.ended || ss.leaving {
		ss.mu.Unlock()
		return nil
	}
	ss.running.Add(1)
	ss.mu.Unlock()
	args := append([]byte(nil), body...)
	go func() {
		defer ss.running.Done()
		if ss.vol.Engine.AwaitSessions(context.Background(), ss.halt) != nil {
			return // the client asks again
		}
		h := &handler{ss: ss, l: l}
		h.begin(id)
		began := ss.begun()
		err := h.run(context.Background(), o, args)
		if h.early() {
			h.sendLater(func() { ss.observed(o, began, len(args)+len(h.e.b), h.failed) })
		} else {
			h.send()
			ss.observed(o, began, len(args)+len(h.e.b), h.failed)
			l.w.post(nil)
		}
		if err != nil {
			ss.srv.log.Warn("a client's call is refused", "session", ss.id, "op", o.String(), "err", err)
			l.close(err)
		}
	}()
	return nil
}

// load makes the session what the store has of it.
func (ss *session) load(ctx context.Context) error {
	err := ss.ms.Replays(ctx, func(n uint32, seq uint64, reply []byte) {
		if n >= slotCount || len(reply) < 2 {
			return
		}
		for int(n) >= len(ss.slots) {
			ss.slots = append(ss.slots, nil)
		}
		sl := &slot{seq: seq, reply: reply[1:]}
		if op(reply[0]).used() { // its client may not know yet what it has
			var a vfs.Attr
			d := decoder{b: reply[2:]}
			if d.attr(&a); !d.bad {
				sl.temp = ss.real(a.Ino)
			}
		}
		ss.slots[n] = sl
	})
	if err != nil {
		return err
	}
	return ss.ms.OwnBlocks(ctx, func(first uint64, n int) { ss.numbers.Allocated(block.ID(first), n) })
}

// frame returns the frame of a slot's reply.
func (sl *slot) frame() []byte {
	kind := frameReply
	if sl.receipt != nil {
		kind = frameEarly
	}
	b := beginFrame(make([]byte, 0, frameHeader+8+len(sl.receipt)+len(sl.reply)), kind)
	b = binary.LittleEndian.AppendUint64(b, sl.id)
	b = append(b, sl.receipt...)
	b = append(b, sl.reply...)
	endFrame(b, 0)
	return b
}

// work does a call with a slot.
func (ss *session) work(ctx context.Context, h *handler, sl *slot, o op, args []byte) {
	h.begin(0)
	began := ss.begun()
	if o != opSetLock && o != opReleaseLocks {
		// If it ends early the call is answered with what it would have been told then.
		_ = ss.vol.Engine.AwaitSessions(ctx, ss.halt)
	}
	err := h.run(ctx, o, args)
	if err == nil && ss.holds(h, o, len(args)) {
		ss.sync.after(func(err error) {
			if err != nil && h.failed == nil { // done, but nobody knows for how long
				h.begin(0)
				h.e.u8(statusError)
				h.e.error(vfs.WithErrno(syscall.EIO, fmt.Errorf("%v: the change may not be durable: %w", o, err)))
			}
			if err == nil {
				err = h.failed
			}
			ss.observed(o, began, len(args)+len(h.e.b), err)
			ss.complete(h, sl)
		})
		return
	}
	ss.observed(o, began, len(args)+len(h.e.b), h.failed)
	if err == nil && h.failed == nil && ss.early && ops[o].early && h.replay.Committed {
		h.receipt = ss.receipt(h, o, args)
		ss.sync.tell(ss) // before the client can ask for a sync, which tells it, too
	}
	ss.complete(h, sl)
	if err != nil {
		ss.srv.log.Warn("a client's call is refused", "session", ss.id, "op", o.String(), "err", err)
		h.l.close(err)
	}
}

// complete sends a slot's reply and keeps it.
func (ss *session) complete(h *handler, sl *slot) {
	reply := h.e.b[frameHeader+8:]
	ss.mu.Lock()
	sl.running = false
	sl.cancel()
	sl.reply = append(sl.reply[:0], reply...)
	sl.receipt = h.receipt
	frame := sl.frame()
	l := ss.link
	if ss.leaving {
		l = nil
	}
	ss.mu.Unlock()
	if l != nil && !l.w.post(frame) {
		l.close(errors.New("the client does not take its replies"))
	}
	ss.running.Done()
}
