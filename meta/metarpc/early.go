package metarpc

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// Replies before a change is durable, the server's part (doc/metarpc.md, "Before it is
// durable"). The reply carries a receipt: what of the change was decided once and for
// all, signed. The client keeps call and receipt until it is told that the change is
// durable. If the server dies first it sends both to the next one, which makes the
// change again.

// maxEarly is how long the arguments of a call may be that a client has to keep.
const maxEarly = 64 << 10

// maxKept is how many calls a client keeps at the most.
const maxKept = 1 << 12

// prepareEarly decides whether the session's client is told of changes early.
func (ss *session) prepareEarly(ctx context.Context, h *Hello) (err error) {
	if !h.early || !ss.vol.Early || ss.vol.Relaxed || ss.readOnly {
		return nil
	}
	ss.key, err = ss.vol.Engine.AcknowledgeEarly(ctx)
	ss.early = err == nil
	return err
}

// author is the session whose changes it may hear of before they are durable: itself, if
// it is told of them early.
func (ss *session) author() uint64 {
	if ss.early {
		return ss.id
	}
	return 0 // no session
}

// holds tells whether the reply to a call of slots waits until everything is durable.
func (ss *session) holds(h *handler, o op, size int) bool {
	t := &ops[o]
	switch {
	case ss.sync == nil || ss.vol.Relaxed:
		return false
	case o == opSync || o == opCommand:
		return true
	case !t.change || !t.durable && h.failed == nil:
		return false
	case h.replay.Foreign:
		return true // it would reveal what others have done
	case h.failed != nil:
		return h.early()
	case !ss.early || !t.early || size > maxEarly:
		return true
	}
	return !h.replay.Committed && h.early()
}

const (
	receiptMAC = 16
	maxReceipt = 64
)

// receipt returns what a client keeps with a call: the sync that makes it durable, its
// place among others, and what is decided, signed together with the call.
func (ss *session) receipt(h *handler, o op, args []byte) []byte {
	r := h.replay
	e := encoder{b: make([]byte, 1, maxReceipt)}
	e.uint(r.Sync)
	e.uint(r.Stamp)
	e.time(r.Now)
	e.ino(h.made)
	e.b = append(e.b, ss.sign(e.b[1:], o, r.Slot, r.Seq, args)...)
	e.b[0] = byte(len(e.b) - 1) // the length, as encoder.bytes has it
	return e.b
}

func (ss *session) sign(decided []byte, o op, slot uint32, seq uint64, args []byte) []byte {
	m := hmac.New(sha256.New, ss.key)
	var head [22]byte
	binary.LittleEndian.PutUint64(head[:], ss.id)
	binary.LittleEndian.PutUint32(head[8:], slot)
	binary.LittleEndian.PutUint64(head[12:], seq)
	head[20], head[21] = byte(o), byte(len(decided))
	m.Write(head[:])
	m.Write(decided)
	m.Write(args)
	return m.Sum(nil)[:receiptMAC]
}

// receipt is what a receipt says.
type receipt struct {
	sync, stamp uint64
	now         vfs.Time
	ino         vfs.Ino
	mac         []byte
}

func (d *decoder) receipt() (r receipt) {
	r = receipt{sync: d.uint(), stamp: d.uint(), now: d.time(), ino: d.ino(), mac: d.b}
	if len(d.b) != receiptMAC {
		d.fail()
	}
	d.b = nil
	return r
}

// againResult is what changes that came again have come to.
type againResult struct {
	failed []againFailure
}

type againFailure struct {
	slot uint32
	seq  uint64
	err  error
}

var (
	errAgainLate   = vfs.WithErrno(syscall.EIO, errors.New("the change was lost when the metadata server died, and comes too late to be made again"))
	errAgainForged = vfs.WithErrno(syscall.EIO, errors.New("the change to be made again was not acknowledged by a metadata server of this volume"))
)

// redo makes a change again that was acknowledged before the server died, unless it
// survived. They come in the order in which they were made, before the restoration.
func (ss *session) redo(l *link, body []byte) error {
	d := decoder{b: body}
	paper := d.bytes(maxReceipt)
	if d.bad || len(d.b) < 13 || len(paper) <= receiptMAC {
		return errMalformed
	}
	decided := paper[:len(paper)-receiptMAC]
	p := decoder{b: paper}
	r := p.receipt()
	o, n, seq := op(d.b[0]), binary.LittleEndian.Uint32(d.b[1:]), binary.LittleEndian.Uint64(d.b[5:])
	args := append([]byte(nil), d.b[13:]...)
	if p.bad || !o.known() || !ops[o].early || n >= slotCount {
		return errMalformed
	}
	if ss.again == nil {
		ss.again = new(againResult)
	}
	if len(ss.again.failed) > maxKept {
		return fmt.Errorf("%w: too many changes come again", errMalformed)
	}
	ss.mu.Lock()
	for int(n) >= len(ss.slots) {
		ss.slots = append(ss.slots, nil)
	}
	sl := ss.slots[n]
	if sl == nil {
		sl = new(slot)
		ss.slots[n] = sl
	}
	done := sl.seq >= seq
	ss.mu.Unlock()
	if done { // it, or a later call of the same slot, has survived
		return nil
	}
	fail := func(err error) {
		ss.again.failed = append(ss.again.failed, againFailure{n, seq, err})
		ss.srv.log.Error("an acknowledged change is lost", "session", ss.id, "op", o.String(), "err", err)
	}
	if !ss.restoring {
		fail(errAgainLate)
		return nil
	}
	if !ss.early || !hmac.Equal(r.mac, ss.sign(decided, o, n, seq, args)) {
		fail(errAgainForged)
		return nil
	}
	replay := &meta.Replay{Slot: n, Seq: seq, Again: &meta.Again{Now: r.now, Ino: r.ino}}
	h := &handler{ss: ss, l: l, slot: new(slot), replay: replay}
	h.begin(0)
	if err := h.run(meta.WithReplay(context.Background(), replay), o, args); err != nil {
		return err
	}
	if h.failed != nil {
		fail(h.failed)
		return nil
	}
	ss.mu.Lock()
	sl.seq, sl.reply = seq, append(sl.reply[:0], h.e.b[frameHeader+8:]...)
	ss.mu.Unlock()
	return nil
}

// settle tells the client, when it is durable, what became of the changes that came
// again.
func (ss *session) settle() {
	r := ss.again
	if ss.again = nil; r == nil || ss.sync == nil {
		return
	}
	ss.sync.after(func(err error) {
		e := encoder{b: beginFrame(nil, frameSettled)}
		if err != nil {
			e.u8(statusError)
			e.error(err)
		} else {
			e.u8(statusOK)
			e.uint(uint64(len(r.failed)))
			for _, f := range r.failed {
				e.uint(uint64(f.slot))
				e.uint(f.seq)
				e.error(f.err)
			}
		}
		endFrame(e.b, 0)
		ss.push(e.b)
	})
}

// durableFrame tells a client which syncs are done.
func durableFrame(sync uint64) []byte {
	e := encoder{b: beginFrame(make([]byte, 0, 16), frameDurable)}
	e.uint(sync)
	endFrame(e.b, 0)
	return e.b
}
