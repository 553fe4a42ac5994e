package metarpc

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/massif-fs/massif/vfs"
)

// What a client holds on the server. It keeps a record of it, so that a server that
// was restarted can be told.

// useSet counts the uses of inodes (Session.Open). The server only knows which
// inodes are used at all, and learns it a moment later: in any case before a change
// that this client makes, and before another client's change of what this one has
// leased.
type useSet struct {
	mu      sync.Mutex
	n       map[vfs.Ino]int32
	touched map[vfs.Ino]struct{} // the server may believe something else of these
	dirty   atomic.Bool
	kick    chan struct{}
}

// useDelay is how long uses are gathered before the server is told.
const useDelay = 2 * time.Millisecond

func (u *useSet) init() {
	u.n, u.touched = make(map[vfs.Ino]int32), make(map[vfs.Ino]struct{})
	u.kick = make(chan struct{}, 1)
}

// touch notes that the server is to be told of ino. With mu held.
func (u *useSet) touch(ino vfs.Ino) {
	u.touched[ino] = struct{}{}
	if !u.dirty.Swap(true) {
		select {
		case u.kick <- struct{}{}:
		default:
		}
	}
}

// Open implements meta.Session.
func (c *Client) Open(ino vfs.Ino) {
	u := &c.uses
	u.mu.Lock()
	if u.n[ino]++; u.n[ino] == 1 {
		u.touch(ino)
	}
	u.mu.Unlock()
}

// Release implements meta.Session.
func (c *Client) Release(ino vfs.Ino, n int) {
	u := &c.uses
	u.mu.Lock()
	last := false
	if have, ok := u.n[ino]; ok && n > 0 {
		if last = int(have) <= n; last {
			delete(u.n, ino)
			u.touch(ino)
		} else {
			u.n[ino] = have - int32(n)
		}
	}
	u.mu.Unlock()
	if last {
		c.cache.released(ino)
		c.returnSpace(ino)
	}
}

// settle tells the server before it is asked for an inode whose use has just ended.
func (u *useSet) settle(c *Client, ino vfs.Ino) {
	if !u.dirty.Load() {
		return
	}
	u.mu.Lock()
	_, touched := u.touched[ino]
	u.mu.Unlock()
	if touched {
		u.flush(c)
	}
}

// flush tells the server what has changed.
func (u *useSet) flush(c *Client) {
	if !u.dirty.Load() {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.dirty.Store(false)
	if len(u.touched) == 0 {
		return
	}
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	if l != nil { // else the restoration tells all
		var opened, released []vfs.Ino
		for ino := range u.touched {
			if u.n[ino] > 0 {
				opened = append(opened, ino)
			} else {
				released = append(released, ino)
			}
		}
		e := encoder{b: beginFrame(nil, frameUses)}
		e.inos(opened)
		e.inos(released)
		endFrame(e.b, 0)
		l.w.add(e.b)
	}
	clear(u.touched)
}

// tellUses tells the server of uses from time to time.
func (c *Client) tellUses() {
	for {
		select {
		case <-c.uses.kick:
		case <-c.ctx.Done():
			return
		}
		select {
		case <-time.After(useDelay):
		case <-c.ctx.Done():
			return
		}
		c.uses.flush(c)
		c.mu.Lock()
		l := c.link
		c.mu.Unlock()
		if l != nil {
			if err := l.w.flush(); err != nil {
				l.close(err)
			}
		}
	}
}

// lockSet remembers the locks that the client holds.
type lockSet struct {
	mu sync.Mutex
	m  map[lockKey][]vfs.Lock // ranges do not overlap
}

type lockKey struct {
	ino   vfs.Ino
	kind  vfs.LockKind
	owner uint64
}

func (s *lockSet) init() { s.m = make(map[lockKey][]vfs.Lock) }

// set takes note of a lock that was granted or given up.
func (s *lockSet) set(ino vfs.Ino, l vfs.Lock) {
	if l.Kind == vfs.LockFlock {
		l.Start, l.End = 0, vfs.LockEOF
	}
	l.End = min(l.End, vfs.LockEOF)
	key := lockKey{ino, l.Kind, l.Owner}
	s.mu.Lock()
	defer s.mu.Unlock()
	var kept []vfs.Lock
	for _, have := range s.m[key] {
		if have.End < l.Start || have.Start > l.End {
			kept = append(kept, have)
			continue
		}
		if have.Start < l.Start {
			left := have
			left.End = l.Start - 1
			kept = append(kept, left)
		}
		if have.End > l.End {
			right := have
			right.Start = l.End + 1
			kept = append(kept, right)
		}
	}
	if l.Type != vfs.LockUnlock {
		kept = append(kept, l)
	}
	if len(kept) == 0 {
		delete(s.m, key)
	} else {
		s.m[key] = kept
	}
}

func (s *lockSet) release(ino vfs.Ino, owner uint64, kind vfs.LockKind) {
	s.mu.Lock()
	delete(s.m, lockKey{ino, kind, owner})
	s.mu.Unlock()
}

func (s *lockSet) forget() {
	s.mu.Lock()
	clear(s.m)
	s.mu.Unlock()
}

// giveUp releases what an interrupted request, k, was granted in the end.
func (s *lockSet) giveUp(c *Client, k *call) {
	d := decoder{b: k.b[callSeq+8:]}
	ino, l := d.ino(), d.lock()
	l.Type = vfs.LockUnlock
	if err := c.SetLock(c.ctx, ino, l, false); err != nil && c.ctx.Err() == nil {
		c.log.Warn("a lock that came too late could not be given up", "inode", uint64(ino), "err", err)
	}
}

// spaceSet remembers reservations. Where there are quotas some more than asked for
// is reserved at once, so that not each write makes a call.
type spaceSet struct {
	mu sync.Mutex
	m  map[vfs.Ino]*space
}

type space struct {
	held  int64 // reserved on the server
	spare int64 // of that, not used here
}

const (
	spareSpace = 1 << 20 // reserved more than asked for
	mostSpare  = 4 << 20 // kept when it is given back
)

func (s *spaceSet) init() { s.m = make(map[vfs.Ino]*space) }

func (s *spaceSet) forget() {
	s.mu.Lock()
	clear(s.m)
	s.mu.Unlock()
}

func (s *spaceSet) add(ino vfs.Ino, held, spare int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.m[ino]
	if x == nil {
		x = new(space)
		s.m[ino] = x
	}
	x.held = max(x.held+held, 0)
	x.spare = min(max(x.spare+spare, 0), x.held)
	if x.held == 0 {
		delete(s.m, ino)
	}
}

// takeSpare uses up to n bytes of what is spare.
func (s *spaceSet) takeSpare(ino vfs.Ino, n int64) (took int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.m[ino]; x != nil {
		took = min(x.spare, n)
		x.spare -= took
	}
	return took
}

// cut takes what is spare beyond keep.
func (s *spaceSet) cut(ino vfs.Ino, keep int64) (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.m[ino]
	if x == nil || x.spare <= keep {
		return 0
	}
	n = x.spare - keep
	x.spare -= n
	if x.held -= n; x.held == 0 {
		delete(s.m, ino)
	}
	return n
}

// Reserve implements meta.Session. Without quotas there is nothing to ask for.
func (c *Client) Reserve(ctx context.Context, ino vfs.Ino, bytes int64) error {
	switch {
	case bytes <= 0:
		return nil
	case c.readOnly:
		return syscall.EROFS
	case !c.limited.Load():
		return c.endedErr()
	}
	took := c.space.takeSpare(ino, bytes)
	need := bytes - took
	if need == 0 {
		return c.endedErr()
	}
	err := c.reserve(ctx, ino, need+spareSpace)
	if err == nil {
		c.space.add(ino, need+spareSpace, spareSpace)
		return nil
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		if err = c.reserve(ctx, ino, need); err == nil {
			c.space.add(ino, need, 0)
			return nil
		}
	}
	c.space.add(ino, 0, took)
	return err
}

func (c *Client) reserve(ctx context.Context, ino vfs.Ino, bytes int64) error {
	k := c.begin(opReserve)
	k.ino(ino)
	k.int(bytes)
	return c.simple(ctx, k)
}

// Unreserve implements meta.Session.
func (c *Client) Unreserve(ino vfs.Ino, bytes int64) {
	if bytes <= 0 {
		return
	}
	c.space.add(ino, 0, bytes)
	c.giveBack(ino, c.space.cut(ino, mostSpare))
}

// returnSpace gives back what an inode that is not used any more has spare.
func (c *Client) returnSpace(ino vfs.Ino) { c.giveBack(ino, c.space.cut(ino, 0)) }

func (c *Client) giveBack(ino vfs.Ino, n int64) {
	if n <= 0 {
		return
	}
	c.background(func() {
		k := c.begin(opUnreserve)
		k.ino(ino)
		k.int(n)
		if err := c.simple(c.ctx, k); err != nil && c.ctx.Err() == nil {
			c.log.Warn("reserved space could not be given back", "inode", uint64(ino), "err", err)
		}
	})
}

// blockIDs are block ids that the server has given this client, in a row.
type blockIDs struct {
	mu        sync.Mutex
	next, end uint64
}

const blockBatch = 256

func (b *blockIDs) forget() {
	b.mu.Lock()
	b.next, b.end = 0, 0
	b.mu.Unlock()
}

// AllocBlocks implements meta.Session.
func (c *Client) AllocBlocks(ctx context.Context, n int) (first uint64, err error) {
	if n <= 0 {
		return 0, syscall.EINVAL
	}
	b := &c.ids
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end-b.next < uint64(n) {
		want := max(n, blockBatch)
		k := c.begin(opAllocBlocks)
		k.uint(uint64(want))
		d, err := c.finish(ctx, k)
		if err != nil {
			c.drop(k)
			return 0, err
		}
		first := d.uint()
		if err := c.end(k, d); err != nil {
			return 0, err
		}
		b.next, b.end = first, first+uint64(want)
	}
	first = b.next
	b.next += uint64(n)
	return first, nil
}

// Restoration

const (
	restoreLast = 1 << iota
	restoreWatch
)

// restorePart is how many inodes a frame of a restoration names.
const restorePart = 1 << 16

// restoration appends the frames that say what the client holds. With uses.mu held.
func (c *Client) restoration(dst []byte) []byte {
	inos := slices.Collect(maps.Keys(c.uses.n))
	clear(c.uses.touched)
	c.uses.dirty.Store(false)
	e := encoder{b: dst}
	for len(inos) > restorePart {
		from := len(e.b)
		e.b = beginFrame(e.b, frameRestore)
		e.u8(0)
		e.inos(inos[:restorePart])
		inos = inos[restorePart:]
		endFrame(e.b, from)
	}
	from := len(e.b)
	e.b = beginFrame(e.b, frameRestore)
	flags := uint8(restoreLast)
	if c.feed.watched() {
		flags |= restoreWatch
	}
	e.u8(flags)
	e.inos(inos)
	c.locks.mu.Lock()
	count := 0
	for _, list := range c.locks.m {
		count += len(list)
	}
	e.uint(uint64(count))
	for key, list := range c.locks.m {
		for i := range list {
			e.ino(key.ino)
			e.lock(&list[i])
		}
	}
	c.locks.mu.Unlock()
	c.space.mu.Lock()
	e.uint(uint64(len(c.space.m)))
	for ino, x := range c.space.m {
		e.ino(ino)
		e.int(x.held)
	}
	c.space.mu.Unlock()
	endFrame(e.b, from)
	return e.b
}

func (e *encoder) inos(list []vfs.Ino) {
	e.uint(uint64(len(list)))
	for _, ino := range list {
		e.ino(ino)
	}
}

func (d *decoder) inos() []vfs.Ino {
	n := d.count(1)
	list := make([]vfs.Ino, 0, min(n, 1<<16))
	for ; n > 0 && !d.bad; n-- {
		list = append(list, d.ino())
	}
	return list
}

// Change feed

type changeFeed struct {
	vfs.Feed
	n atomic.Int64 // watchers
}

func (f *changeFeed) watched() bool { return f.n.Load() > 0 }

// Watch implements meta.Session. Changes during the time that a connection is lost
// are told as one ChangeAll.
func (c *Client) Watch(fn func(vfs.Change)) (stop func()) {
	end := c.feed.Feed.Watch(fn)
	if c.feed.n.Add(1) == 1 {
		c.tellWatch(true)
	}
	var once sync.Once
	return func() {
		end()
		once.Do(func() {
			if c.feed.n.Add(-1) == 0 {
				c.tellWatch(false)
			}
		})
	}
}

func (c *Client) tellWatch(on bool) {
	ctx, cancel := context.WithTimeout(c.ctx, c.life)
	defer cancel()
	k := c.begin(opWatch)
	k.bool(on)
	if err := c.simple(ctx, k); err != nil && c.ctx.Err() == nil {
		c.log.Debug("the change feed is set when the connection is there again", "err", err)
	}
}

func (f *changeFeed) receive(body []byte) error {
	d := decoder{b: body}
	for n := d.count(6); n > 0 && !d.bad; n-- {
		ch := d.change()
		if !d.bad {
			f.Send(ch)
		}
	}
	return d.done()
}

func (e *encoder) change(ch *vfs.Change) {
	e.u8(uint8(ch.Kind))
	e.ino(ch.Ino)
	e.ino(ch.Parent)
	e.str(ch.Name)
	e.int(ch.Off)
	e.int(ch.Len)
	e.bool(ch.Remote)
}

func (d *decoder) change() vfs.Change {
	return vfs.Change{Kind: vfs.ChangeKind(d.u8()), Ino: d.ino(), Parent: d.ino(), Name: d.name(), Off: d.int(), Len: d.int(), Remote: d.bool()}
}
