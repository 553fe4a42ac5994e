package metarpc

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// The client's life: connect, resume, read until the connection breaks, again.

const (
	firstBackoff = 10 * time.Millisecond
	lastBackoff  = 2 * time.Second
)

// run owns the connection.
func (c *Client) run(l *link) {
	for l != nil {
		err := c.serve(l)
		l.close(err)
		l.w.tasks.Wait()
		if c.unlink(l, err) {
			return
		}
		l = c.reconnect()
	}
}

// serve reads from a connection until it ends.
func (c *Client) serve(l *link) error {
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.heartbeat(l, stop)
	}()
	defer func() {
		close(stop)
		<-done
	}()
	for {
		kind, body, err := l.r.next(MaxFrame)
		if err != nil {
			return err
		}
		l.heard.Store(nanotime())
		if err := c.receive(l, kind, body); err != nil {
			return err
		}
	}
}

// unlink takes note that a connection has ended, and tells whether the session has.
func (c *Client) unlink(l *link, err error) (ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == l {
		c.link = nil
		c.lost = time.Now()
	}
	if c.ended == nil && !c.leaving {
		c.log.Warn("connection to the metadata server lost, reconnecting", "err", err)
	}
	return c.ended != nil
}

// receive deals with one frame.
func (c *Client) receive(l *link, kind frameKind, body []byte) error {
	switch kind {
	case frameReply:
		return c.replied(body)
	case frameEarly:
		return c.early(body)
	case frameDurable:
		d := decoder{b: body}
		sync := d.uint()
		if err := d.done(); err != nil {
			return err
		}
		c.kept.done(sync)
	case frameSettled:
		return c.settled(body)
	case framePong:
		return c.pong(body)
	case frameRecall:
		return c.recalled(l, body)
	case frameOwn:
		return c.own(body)
	case frameChange:
		return c.feed.receive(body)
	case frameFormat:
		d := decoder{b: body}
		limited, text := d.bool(), d.bytes(maxFormat)
		if err := d.done(); err != nil {
			return err
		}
		f, err := parseFormat(text)
		if err != nil {
			return err
		}
		c.format.Store(f)
		c.limited.Store(limited)
	case frameLeave:
		return errors.New("the server goes down")
	case frameEnd:
		d := decoder{b: body}
		err := d.error()
		if d.done() != nil {
			err = errMalformed
		}
		c.finishSession(err)
		return err
	default:
		return errMalformed
	}
	return nil
}

// replied hands a reply to its call.
func (c *Client) replied(body []byte) error {
	if len(body) < 8 {
		return errMalformed
	}
	return c.answered(binary.LittleEndian.Uint64(body), body[8:])
}

// answered hands the reply to a call on.
func (c *Client) answered(id uint64, reply []byte) error {
	c.mu.Lock()
	k := c.pending[id]
	delete(c.pending, id)
	if k == nil {
		c.mu.Unlock()
		return nil // its caller was interrupted
	}
	detached := k.detached
	k.reply = append(k.reply[:0], reply...)
	c.mu.Unlock()
	c.learn(k, k.reply)
	if k.key.use && (!detached || k.op.used()) {
		// Before a recall that follows the reply: the server hears of the use first.
		var a vfs.Attr
		if d := (decoder{b: k.reply}); d.u8() == statusOK {
			if d.attr(&a); !d.bad {
				c.Open(a.Ino)
			}
			if detached && !d.bad { // nobody wants what the server keeps for us
				c.Release(a.Ino, 1)
			}
		}
	}
	if detached {
		c.undetach(k)
		return nil
	}
	k.done <- struct{}{}
	return nil
}

// undetach ends a call that nobody waits for. A lock that it got is given up.
func (c *Client) undetach(k *call) {
	if k.op == opSetLock && len(k.reply) > 0 && k.reply[0] == statusOK {
		c.background(func() { c.locks.giveUp(c, k) })
	}
	c.freeSlot(k)
}

// finishSession ends the session: calls fail with err.
func (c *Client) finishSession(err error) {
	c.mu.Lock()
	if c.ended != nil {
		c.mu.Unlock()
		return
	}
	c.ended = err
	close(c.over)
	var failed []*call
	for id, k := range c.pending {
		delete(c.pending, id)
		failed = append(failed, k)
	}
	c.mu.Unlock()
	// The server has let go of what was leased: nothing of it is good any more.
	c.cache.until.Store(0)
	c.cache.dropAll()
	for _, k := range failed {
		c.fail(k, err)
	}
}

func (c *Client) fail(k *call, err error) {
	k.err = err
	if k.detached {
		c.freeSlot(k)
		return
	}
	k.done <- struct{}{}
}

// reconnect makes a connection and resumes the session, however long it takes; nil
// when the session has ended.
func (c *Client) reconnect() *link {
	for wait := firstBackoff; ; wait = min(2*wait, lastBackoff) {
		select {
		case <-c.ctx.Done():
			return nil
		case <-time.After(wait/2 + rand.N(wait/2)):
		}
		ctx, cancel := context.WithTimeout(c.ctx, max(c.life/2, time.Second))
		l, w, err := c.greet(ctx)
		cancel()
		switch {
		case err == nil:
			c.resume(l, w)
			return l
		case w != nil && w.unknown:
			c.log.Error("the metadata server has ended this session: its locks are lost, a new one begins", "err", err)
			c.forgetSession()
			wait = firstBackoff
		case w != nil && (errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.ESTALE) || errors.Is(err, syscall.EPROTONOSUPPORT)):
			c.finishSession(err)
			return nil
		default:
			c.log.Debug("the metadata server cannot be reached", "err", err)
		}
	}
}

// forgetSession gives up a session that the server does not know any more: what
// has been sent and not answered may have been done or not.
func (c *Client) forgetSession() {
	c.locks.forget()
	c.space.forget()
	c.ids.forget()
	c.mu.Lock()
	c.session, c.secret = 0, nil
	var failed []*call
	for id, k := range c.pending {
		if k.slot >= 0 && k.sent {
			delete(c.pending, id)
			failed = append(failed, k)
		}
	}
	c.mu.Unlock()
	for _, k := range failed {
		c.fail(k, vfs.WithErrno(syscall.EIO, errLostSession))
	}
}

// resume makes l the connection: the server is told what the client holds, then
// gets all calls that are under way.
func (c *Client) resume(l *link, w *welcome) {
	c.format.Store(&w.format)
	c.limited.Store(w.limited)
	c.extend(l.good)
	if c.feed.watched() {
		c.feed.Send(vfs.Change{Kind: vfs.ChangeAll, Remote: true})
	}
	c.uses.mu.Lock() // so that no change of uses comes in between
	c.mu.Lock()
	if c.ended != nil {
		c.mu.Unlock()
		c.uses.mu.Unlock()
		l.close(c.ended)
		return
	}
	c.relaxed.Store(!w.durable)
	frames := c.restoration(c.kept.connected(w.instance, c.session == w.session))
	c.session, c.secret = w.session, w.secret
	c.link = l
	ids := make([]uint64, 0, len(c.pending))
	for id := range c.pending {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		k := c.pending[id]
		k.sent = true
		frames = append(frames, k.b...)
		if k.detached { // its caller was interrupted
			from := len(frames)
			frames = beginFrame(frames, frameCancel)
			frames = binary.LittleEndian.AppendUint64(frames, id)
			endFrame(frames, from)
		}
	}
	l.w.add(frames)
	c.mu.Unlock()
	c.uses.mu.Unlock()
	if err := l.w.flush(); err != nil {
		l.close(err)
	}
	c.log.Info("connected to the metadata server again")
}

// heartbeat keeps the session alive and notices a dead connection.
func (c *Client) heartbeat(l *link, stop <-chan struct{}) {
	interval := min(c.lease, c.life) / 4
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		b := beginFrame(make([]byte, 0, 16), framePing)
		b = binary.LittleEndian.AppendUint64(b, uint64(nanotime()))
		endFrame(b, 0)
		if err := l.w.write(b); err != nil {
			l.close(err)
			return
		}
		select {
		case <-t.C:
		case <-stop:
			return
		}
		if quiet := time.Duration(nanotime() - l.heard.Load()); quiet > 3*interval {
			l.close(vfs.WithErrno(syscall.ETIMEDOUT, errors.New("the metadata server does not answer")))
			return
		}
	}
}

// pong learns how long the leases are good: from when the ping was sent.
func (c *Client) pong(body []byte) error {
	if len(body) != 9 {
		return errMalformed
	}
	if body[8] != 0 { // the server has let others go on without asking us
		c.cache.dropAll()
	}
	c.extend(int64(binary.LittleEndian.Uint64(body)))
	return nil
}

// extend makes leases good for their time from a moment before the server was sent
// what it has answered now. The last part of it is for dropping everything in time.
func (c *Client) extend(sent int64) {
	until := sent + int64(c.lease-c.lease/8)
	for {
		old := c.cache.until.Load()
		if old >= until {
			return
		}
		if c.cache.until.CompareAndSwap(old, until) {
			break
		}
	}
	select {
	case <-c.over: // meanwhile
		c.cache.until.Store(0)
	default:
	}
}

// guard drops everything that was leased when nothing was heard of the server in time.
func (c *Client) guard() {
	dropped := int64(0) // the end that was dealt with
	for {
		until := c.cache.until.Load()
		wait := time.Duration(until - nanotime())
		if wait <= 0 && until != dropped {
			dropped = until
			c.cache.dropAll()
		}
		if wait <= 0 {
			wait = c.lease / 16
		}
		select {
		case <-time.After(wait):
		case <-c.ctx.Done():
			return
		}
	}
}

// recalled drops what a recall is about, and acknowledges it when nobody uses it any
// more.
func (c *Client) recalled(l *link, body []byte) error {
	d := decoder{b: body}
	id := d.uint()
	r := meta.Recall{Kind: meta.Leases(d.u8()), Ino: d.ino(), Name: d.str(meta.MaxStoredName), Off: d.int(), Len: d.int()}
	if err := d.done(); err != nil {
		return err
	}
	c.cache.recall(&r)
	c.cache.tell(r, func() {
		c.uses.flush(c) // the server is to know who uses an inode before somebody removes it
		e := encoder{b: beginFrame(make([]byte, 0, 16), frameAck)}
		e.uint(id)
		endFrame(e.b, 0)
		if !l.w.post(e.b) {
			l.close(errors.New("the server does not take what it is sent"))
		}
	})
	return nil
}

// Close implements meta.Session. It waits until what the server has acknowledged is
// durable, as long as a session lives at the most.
func (c *Client) Close() error {
	var lost error
	if c.kept.any() {
		ctx, cancel := context.WithTimeout(c.ctx, max(c.life, DefaultLife))
		lost = c.Sync(ctx)
		cancel()
	}
	c.uses.flush(c)
	c.mu.Lock()
	l := c.link
	over := c.ended != nil
	c.leaving = true
	c.mu.Unlock()
	if l != nil && !over {
		b := beginFrame(make([]byte, 0, 16), frameBye)
		endFrame(b, 0)
		if l.w.write(b) == nil {
			select { // the server confirms
			case <-c.over:
			case <-l.dead:
			case <-time.After(max(c.life, time.Second)):
			}
		}
	}
	c.finishSession(vfs.WithErrno(syscall.EIO, errClientEnded))
	c.cancel()
	c.mu.Lock()
	l = c.link
	c.mu.Unlock()
	if l != nil {
		l.close(errClientEnded)
	}
	c.tasks.Wait()
	if q := c.cache.queue.Load(); q != nil {
		q.Close()
	}
	return lost
}
