package metarpc

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// Calls that were acknowledged before they were durable, the client's part (early.go
// has the server's).

// keptCalls are the calls that the client would have to make again.
type keptCalls struct {
	mu       sync.Mutex
	list     []keptCall
	bytes    int
	instance uint64 // of the engine that the client is connected to
	durable  uint64 // the last sync that is known to be done there
	// lost are inodes of which acknowledged changes are lost, until somebody was told.
	lost  map[vfs.Ino]struct{}
	count int   // lost changes
	why   error // of the first of them
}

type keptCall struct {
	instance    uint64
	sync, stamp uint64
	// frame is the body of the frame that makes it again: receipt, and the call from
	// its op on.
	frame []byte
	call  int // where in frame the call begins
}

// keptBytes bounds the memory for kept calls.
const keptBytes = 8 << 20

// add keeps a call, whose paper is its receipt.
func (q *keptCalls) add(k *call, paper []byte, r *receipt) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if r.sync <= q.durable {
		return
	}
	e := encoder{b: make([]byte, 0, 2+len(paper)+len(k.b)-callOp)}
	e.bytes(paper)
	at := len(e.b)
	e.b = append(e.b, k.b[callOp:]...)
	q.list = append(q.list, keptCall{instance: q.instance, sync: r.sync, stamp: r.stamp, frame: e.b, call: at})
	q.bytes += len(e.b)
}

// drop forgets the calls that fn says so of.
func (q *keptCalls) drop(fn func(x *keptCall) bool) {
	kept := q.list[:0]
	for i := range q.list {
		if x := q.list[i]; fn(&x) {
			q.bytes -= len(x.frame)
		} else {
			kept = append(kept, x)
		}
	}
	clear(q.list[len(kept):])
	if q.list = kept; len(kept) == 0 && cap(kept) > 256 {
		q.list = nil
	}
}

// done takes note of a sync.
func (q *keptCalls) done(sync uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.durable = max(q.durable, sync)
	q.drop(func(x *keptCall) bool { return x.instance == q.instance && x.sync <= q.durable })
}

// full tells whether no call may be added before some are durable.
func (q *keptCalls) full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	// As many again may be under way.
	return len(q.list) >= maxKept-changeSlots || q.bytes >= keptBytes
}

// any tells whether there are calls.
func (q *keptCalls) any() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.list) > 0
}

// connected takes note of which engine the client is connected to; another session than
// before cannot make anything again. It returns the frames that do.
func (q *keptCalls) connected(instance uint64, sameSession bool) (frames []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if instance != q.instance {
		q.instance, q.durable = instance, 0
	}
	if !sameSession {
		q.drop(func(x *keptCall) bool {
			if x.instance == instance {
				return false // it is there, and will be durable
			}
			q.lose(x, errLostSession)
			return true
		})
		return nil
	}
	slices.SortStableFunc(q.list, func(a, b keptCall) int { return cmp.Compare(a.stamp, b.stamp) })
	for i := range q.list {
		if x := &q.list[i]; x.instance != instance {
			from := len(frames)
			frames = append(beginFrame(frames, frameAgain), x.frame...)
			endFrame(frames, from)
		}
	}
	return frames
}

// settled ends the calls that were made again.
func (q *keptCalls) settled(failed map[slotCall]error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.drop(func(x *keptCall) bool {
		if x.instance == q.instance {
			return false
		}
		if err := failed[x.id()]; err != nil {
			q.lose(x, err)
		}
		return true
	})
}

// slotCall identifies a call of a slot.
type slotCall struct {
	slot uint32
	seq  uint64
}

func (x *keptCall) id() slotCall {
	b := x.frame[x.call+1:]
	return slotCall{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint64(b[4:])}
}

// lose takes note of a lost call: whoever makes one of its inodes durable is told.
func (q *keptCalls) lose(x *keptCall, why error) {
	if q.count++; q.count == 1 {
		q.why = why
	}
	if q.lost == nil {
		q.lost = make(map[vfs.Ino]struct{})
	}
	for _, ino := range x.inos() {
		if len(q.lost) < 4*maxKept {
			q.lost[ino] = struct{}{}
		}
	}
}

// inos are the inodes that a kept call names, and the one that it made.
func (x *keptCall) inos() (list []vfs.Ino) {
	p := decoder{b: x.frame}
	q := decoder{b: p.bytes(maxReceipt)}
	if r := q.receipt(); r.ino != 0 {
		list = append(list, r.ino)
	}
	o, d := op(x.frame[x.call]), decoder{b: x.frame[x.call+callSeq+8-callOp:]}
	if o == opCommit {
		d.blocks()
		for n := d.count(8); n > 0 && !d.bad; n-- {
			list = append(list, d.write().Ino)
		}
		return list
	}
	var cr vfs.Caller
	d.caller(&cr)
	list = append(list, d.ino())
	switch o {
	case opLink:
		list = append(list, d.ino())
	case opRename:
		d.name()
		list = append(list, d.ino())
	}
	return list
}

var errLost = errors.New("changes that were acknowledged are lost: the metadata server died before they were durable, and they could not be made again")

// tell returns EIO, once, if changes of an inode (0: of any) are lost.
func (q *keptCalls) tell(ino vfs.Ino) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if ino == 0 {
		if len(q.lost) == 0 {
			return nil
		}
		clear(q.lost)
	} else {
		if _, ok := q.lost[ino]; !ok {
			return nil
		}
		delete(q.lost, ino)
	}
	return vfs.WithErrno(syscall.EIO, fmt.Errorf("%w (%d, the first one: %w)", errLost, q.count, q.why))
}

// early takes in a reply to a change that is not durable yet.
func (c *Client) early(body []byte) error {
	if len(body) < 8 {
		return errMalformed
	}
	d := decoder{b: body[8:]}
	paper := d.bytes(maxReceipt)
	p := decoder{b: paper}
	r := p.receipt()
	if d.bad || p.bad {
		return errMalformed
	}
	id := binary.LittleEndian.Uint64(body)
	c.mu.Lock()
	k := c.pending[id]
	c.mu.Unlock()
	if k != nil && ops[k.op].early {
		c.kept.add(k, paper, &r)
	}
	return c.answered(id, d.b)
}

// settled takes in what became of the changes that were made again.
func (c *Client) settled(body []byte) error {
	d := decoder{b: body}
	if d.u8() != statusOK {
		err := d.error()
		if d.done() != nil {
			return errMalformed
		}
		c.log.Error("the metadata server cannot make changes durable", "err", err)
		return nil
	}
	failed := make(map[slotCall]error)
	for n := d.count(4); n > 0 && !d.bad; n-- {
		x := slotCall{d.u32(), d.uint()}
		failed[x] = d.error()
	}
	if err := d.done(); err != nil {
		return err
	}
	c.kept.settled(failed)
	if len(failed) > 0 {
		c.log.Error("changes that were acknowledged are lost", "changes", len(failed))
	}
	return nil
}

// Sync implements meta.Session. It returns EIO once if acknowledged changes are lost.
func (c *Client) Sync(ctx context.Context) error { return c.SyncInode(ctx, 0) }

// SyncInode implements meta.InodeSyncer.
func (c *Client) SyncInode(ctx context.Context, ino vfs.Ino) error {
	if c.relaxed.Load() || c.kept.any() {
		if err := c.simple(ctx, c.begin(opSync)); err != nil {
			return err
		}
	}
	return c.kept.tell(ino)
}
