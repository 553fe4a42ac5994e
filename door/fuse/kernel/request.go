package kernel

import (
	"context"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Request is a message while a Handler works on it. A handler keeps nothing of it
// after its return: the next message uses the same memory.
type Request struct {
	Header
	// Local is the handler's: what it keeps with the Request from one message to the
	// next (buffers, say).
	Local any
	// Start is when the message was read, since Conn.Epoch.
	Start time.Duration
	// Took is how long the handler took. It may set it at its end; if it does not,
	// nothing is learnt (see watch.go).
	Took time.Duration

	conn  *Conn
	entry *entry // where the message came from, if by io_uring (uring.go)
	buf   []byte // see reader.go
	op    []byte // the operation's structure, if that is not the beginning of body
	body  []byte // of the message, without extensions
	// The reply's data lies in buf[from:from+size], with room for its header before
	// it. If it is a structure it is put at out.
	from int
	out  int

	// state is the number of the message in progress; that with bit 0 set, which no
	// message has, after an interrupt; 0 when there is none.
	state    atomic.Uint64
	mu       sync.Mutex // held to interrupt, and to get over that
	progress progress
	cancel   chan struct{}
}

const (
	interruptedBit = 1 << 0
	resentBit      = 1 << 63
)

// Interrupted returns a channel that is closed when the kernel tells that the caller
// got a signal, or the connection ended. It belongs to this request until the
// handler returns.
func (q *Request) Interrupted() <-chan struct{} { return q.cancel }

// Resent tells that the message was read before, by whoever served the mount then,
// and not answered: what it asks for may have been done already. (See Conn.Resend.)
func (q *Request) Resent() bool { return q.Unique&resentBit != 0 }

// begin makes the request that of a message.
func (q *Request) begin() {
	q.state.Store(q.Unique)
	if q.conn.dead.Load() { // died may have looked before
		q.interrupt(q.Unique)
	}
}

// end ends it. No interrupt reaches it from now on.
func (q *Request) end() {
	if q.state.CompareAndSwap(q.Unique, 0) {
		return
	}
	q.mu.Lock() // whoever interrupts has done so
	defer q.mu.Unlock()
	q.cancel = make(chan struct{})
	q.state.Store(0)
}

// interrupt ends what the request's handler waits for, if its number is unique.
func (q *Request) interrupt(unique uint64) bool {
	if unique == 0 || q.state.Load()&^interruptedBit != unique&^interruptedBit {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.state.CompareAndSwap(unique&^interruptedBit, unique|interruptedBit) {
		close(q.cancel)
		return true
	}
	return q.state.Load() == unique|interruptedBit
}

// interrupt does what an INTERRUPT message asks for. It tells whether the request was
// found.
func (c *Conn) interrupt(unique uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for q := range c.requests {
		if q.interrupt(unique) {
			return true
		}
	}
	return false
}

// interrupts are those that overtook their request: one reader has read the request
// and not yet begun with it when another one reads the interrupt. The kernel asks for
// an EAGAIN in that case and sends it again if the request is still in progress; a
// moment's wait spares it a busy loop.
type interrupts struct {
	mu      sync.Mutex
	uniques []uint64
	running bool
}

const (
	lateWait = time.Millisecond
	// lateMax bounds the memory of a flood of interrupts; those above are answered
	// at once.
	lateMax = 4096
)

// overtook keeps an interrupt whose request was not found; unique is the request's.
func (c *Conn) overtook(unique uint64) {
	c.late.mu.Lock()
	defer c.late.mu.Unlock()
	if len(c.late.uniques) >= lateMax {
		c.again(unique)
		return
	}
	c.late.uniques = append(c.late.uniques, unique)
	if !c.late.running {
		c.late.running = true
		c.wg.Go(c.retryInterrupts)
	}
}

func (c *Conn) retryInterrupts() {
	for {
		time.Sleep(lateWait)
		c.late.mu.Lock()
		list := c.late.uniques
		c.late.uniques = nil
		if len(list) == 0 {
			c.late.running = false
		}
		c.late.mu.Unlock()
		if len(list) == 0 {
			return
		}
		for _, unique := range list {
			if !c.interrupt(unique) {
				c.again(unique)
			}
		}
	}
}

// again has the kernel repeat an interrupt. ENOENT: the request has been answered.
func (c *Conn) again(unique uint64) {
	h := replyHeader{len: replyHeaderSize, error: -int32(syscall.EAGAIN), unique: unique | interruptedBit}
	c.write(headerBytes(&h))
}

// retrieves are the calls of Retrieve that wait for pages.
type retrieves struct {
	mu   sync.Mutex
	next uint64
	wait map[uint64]chan []byte // capacity 1
	over bool
}

func (r *retrieves) begin() (id uint64, ch chan []byte, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return 0, nil, false
	}
	r.next++
	if r.wait == nil {
		r.wait = map[uint64]chan []byte{}
	}
	ch = make(chan []byte, 1)
	r.wait[r.next] = ch
	return r.next, ch, true
}

func (r *retrieves) take(id uint64) chan []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	ch := r.wait[id]
	delete(r.wait, id)
	return ch
}

func (r *retrieves) fail() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	for id, ch := range r.wait {
		close(ch)
		delete(r.wait, id)
	}
}

// await waits for the pages of a Retrieve.
func (r *retrieves) await(ctx context.Context, id uint64, ch chan []byte) ([]byte, error) {
	select {
	case data, ok := <-ch:
		if !ok {
			return nil, syscall.ENOTCONN
		}
		return data, nil
	case <-ctx.Done():
		r.take(id)
		return nil, ctx.Err()
	}
}
