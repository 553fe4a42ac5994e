package metarpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// ClientConfig is what a client is made of.
type ClientConfig struct {
	// Connect makes a connection to the server: over a UNIX socket, or with TLS, where
	// it offers ALPN.
	Connect func(ctx context.Context) (net.Conn, error)
	Hello   Hello
	// GiveUp is how long calls wait for a server that cannot be reached before
	// they fail with ETIMEDOUT; 0: as long as it takes.
	GiveUp time.Duration
	// CacheInodes is how many inodes are kept in memory while they are leased, about
	// 300 bytes each, and four times as many names, about 60 bytes each; 0:
	// DefaultCacheInodes.
	CacheInodes int
	// NoCache asks the server for everything.
	NoCache bool
	Logger  *slog.Logger // nil: slog.Default
}

// Client is a session with a metadata server. It implements meta.Session. When the
// connection breaks it makes a new one and resumes the session; calls take longer
// then, and do not fail.
type Client struct {
	cfg ClientConfig
	log *slog.Logger

	format   atomic.Pointer[meta.Format]
	limited  atomic.Bool // there are quotas
	relaxed  atomic.Bool // replies do not tell what is durable
	readOnly bool
	root     vfs.Ino
	lease    time.Duration
	life     time.Duration

	mu      sync.Mutex
	link    *link // nil: not connected
	pending map[uint64]*call
	nextID  uint64
	session uint64
	secret  []byte
	ended   error         // why the session is over; nil: it is not
	lost    time.Time     // since when there is no connection
	over    chan struct{} // closed with ended
	leaving bool          // Close was called: the connection's end is no loss

	permits   chan struct{} // for calls without a slot
	slots     chan int32    // that are free
	waitSlots chan int32    // for calls that may take for ever: locks
	seqs      [slotCount]uint64

	uses  useSet
	locks lockSet
	space spaceSet
	ids   blockIDs
	feed  changeFeed
	cache leaseCache
	kept  keptCalls

	cancel context.CancelFunc
	ctx    context.Context
	tasks  sync.WaitGroup
}

var _ meta.Session = (*Client)(nil)

// Slots of a session: how many changes, and how many lock requests, it may have
// under way. The server keeps the reply of each slot's last call.
const (
	changeSlots = 256
	waitSlots   = 1024
	slotCount   = changeSlots + waitSlots

	// maxReads is how many calls without a slot a client has under way.
	maxReads = 512
)

// link is one connection.
type link struct {
	c     net.Conn
	r     *frameReader
	w     *frameWriter
	heard atomic.Int64 // when something came last, on the clock of nanotime
	good  int64        // before the hello: leases are good for a time from then on
	dead  chan struct{}
	once  sync.Once
}

func newLink(c net.Conn) *link {
	return &link{c: c, r: newFrameReader(c), w: newFrameWriter(c, writeLimit), dead: make(chan struct{})}
}

// writeLimit is how long a write to a peer may take that does not read.
const writeLimit = 30 * time.Second

// close ends a connection. Its reader notices.
func (l *link) close(err error) {
	l.once.Do(func() {
		l.w.fail(err)
		l.c.Close() // nothing is expected of it any more
		close(l.dead)
	})
}

// call is one call under way.
type call struct {
	encoder          // its frame, whole
	key      callKey // what the reply is about, for the cache
	id       uint64
	op       op
	slot     int32 // -1: none
	sent     bool  // on some connection
	detached bool  // nobody waits for it: its slot is given back when it ends
	reply    []byte
	err      error
	done     chan struct{} // gets one value when it is over
}

type callKey struct {
	use    bool // what the call makes is used from the reply on
	ino    vfs.Ino
	name   string
	index  uint32
	cookie uint64
}

var calls = sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}

// Where in the frame of a call what stands.
const (
	callID   = frameHeader
	callOp   = callID + 8
	callSlot = callOp + 1
	callSeq  = callSlot + 4
)

var (
	errLostSession = errors.New("the session was lost while the metadata server could not be reached: whether the call was done is not known")
	errClientEnded = errors.New("the session has been closed")
)

// Dial connects to a server and begins a session. Errors say whose fault it is:
// EACCES (the token is not good), ENOENT (no such volume), EPROTONOSUPPORT.
func Dial(ctx context.Context, cfg ClientConfig) (*Client, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	c := &Client{
		cfg: cfg, log: cfg.Logger,
		pending: make(map[uint64]*call), nextID: 1, over: make(chan struct{}),
		permits: make(chan struct{}, maxReads), slots: make(chan int32, changeSlots), waitSlots: make(chan int32, waitSlots),
	}
	for i := range int32(slotCount) {
		if i < changeSlots {
			c.slots <- i
		} else {
			c.waitSlots <- i
		}
	}
	c.cfg.Hello.cache = !cfg.NoCache
	c.cfg.Hello.early = true
	c.cache.init(cfg.CacheInodes)
	c.uses.init()
	c.locks.init()
	c.space.init()
	l, w, err := c.greet(ctx)
	if err != nil {
		return nil, fmt.Errorf("metadata server: %w", err)
	}
	c.readOnly, c.lease, c.life = w.readOnly, w.lease, w.life
	c.relaxed.Store(!w.durable)
	c.kept.connected(w.instance, true)
	c.format.Store(&w.format)
	c.limited.Store(w.limited)
	c.root = w.root
	c.session, c.secret = w.session, w.secret
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.link = l
	c.extend(l.good)
	c.tasks.Go(func() { c.run(l) })
	c.tasks.Go(c.tellUses)
	c.tasks.Go(c.guard)
	return c, nil
}

// Root returns the number that the volume knows the session's vfs.Root by: what is
// sealed there is bound to it (package sealed).
func (c *Client) Root() vfs.Ino { return c.root }

// greet makes a connection and introduces the client.
func (c *Client) greet(ctx context.Context) (*link, *welcome, error) {
	conn, err := c.cfg.Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	l := newLink(conn)
	begin := nanotime()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	w, err := c.introduce(l)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		l.close(err)
		if ctx.Err() != nil {
			err = errors.Join(ctx.Err(), err)
		}
		return nil, w, err
	}
	l.heard.Store(nanotime())
	l.good = begin
	return l, w, nil
}

func (c *Client) introduce(l *link) (*welcome, error) {
	hello := c.cfg.Hello
	hello.minVersion, hello.maxVersion = minVersion, maxVersion
	c.mu.Lock()
	hello.session, hello.secret = c.session, c.secret
	c.mu.Unlock()
	if hello.session != 0 {
		// When the server reads this it lets others go on.
		c.cache.stop()
	}
	e := encoder{b: beginFrame(nil, frameHello)}
	hello.encode(&e)
	endFrame(e.b, 0)
	if err := l.w.write(e.b); err != nil {
		return nil, err
	}
	kind, body, err := l.r.next(1 << 20)
	if err != nil {
		return nil, err
	}
	if kind != frameWelcome {
		return nil, errMalformed
	}
	w := new(welcome)
	if err := w.decode(body); err != nil {
		return nil, err
	}
	return w, w.err
}

var started = time.Now()

// nanotime is a clock that nobody sets.
func nanotime() int64 { return int64(time.Since(started)) }

// begin begins a call without a slot.
func (c *Client) begin(o op) *call {
	k := calls.Get().(*call)
	k.op, k.slot, k.sent, k.detached, k.err, k.key = o, -1, false, false, nil, callKey{}
	k.b = beginFrame(k.b[:0], frameCall)
	k.b = append(k.b, 0, 0, 0, 0, 0, 0, 0, 0, byte(o))
	if ops[o].slot {
		k.b = append(k.b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	return k
}

// finish sends a call and waits for its reply. The reply belongs to the call, which
// the caller gives back with end.
func (c *Client) finish(ctx context.Context, k *call) (decoder, error) {
	free := c.permits
	for ops[k.op].early && c.kept.full() {
		if err := c.simple(ctx, c.begin(opSync)); err != nil {
			return decoder{}, err
		}
	}
	switch {
	case ops[k.op].slot:
		slots := c.slots
		if k.op == opSetLock {
			slots = c.waitSlots
		}
		select {
		case k.slot = <-slots:
		default:
			select {
			case k.slot = <-slots:
			case <-ctx.Done():
				return decoder{}, interrupted(ctx)
			case <-c.over:
				return decoder{}, c.endedErr()
			}
		}
		c.seqs[k.slot]++
		binary.LittleEndian.PutUint32(k.b[callSlot:], uint32(k.slot))
		binary.LittleEndian.PutUint64(k.b[callSeq:], c.seqs[k.slot])
	default:
		select {
		case free <- struct{}{}:
		default:
			select {
			case free <- struct{}{}:
			case <-ctx.Done():
				return decoder{}, interrupted(ctx)
			}
		}
		defer func() { <-free }()
	}
	endFrame(k.b, 0)
	if len(k.b) > MaxFrame {
		c.freeSlot(k)
		return decoder{}, vfs.WithErrno(syscall.E2BIG, errFrameTooLong)
	}
	c.uses.flush(c) // lest the call overtakes them
	c.mu.Lock()
	if c.ended != nil {
		err := c.ended
		c.mu.Unlock()
		c.freeSlot(k)
		return decoder{}, err
	}
	k.id = c.nextID
	c.nextID++
	binary.LittleEndian.PutUint64(k.b[callID:], k.id)
	c.pending[k.id] = k
	l := c.link
	if l != nil {
		k.sent = true
	}
	c.mu.Unlock()
	if l != nil {
		if err := l.w.write(k.b); err != nil {
			l.close(err) // the call is sent again on the next one
		}
	}
	if err := c.wait(ctx, k, l); err != nil {
		return decoder{}, err
	}
	c.freeSlot(k)
	if k.err != nil {
		return decoder{}, k.err
	}
	d := decoder{b: k.reply}
	switch d.u8() {
	case statusOK:
		if ops[k.op].leased {
			if d.u8()&replyMissing != 0 {
				if k.op == opGetXattr {
					return decoder{}, syscall.ENODATA
				}
				return decoder{}, syscall.ENOENT
			}
		}
		return d, nil
	case statusError:
		return decoder{}, d.error()
	}
	return decoder{}, c.broken(k)
}

// wait waits for the end of a call. An error says that it goes on without a
// waiter.
func (c *Client) wait(ctx context.Context, k *call, l *link) error {
	var giveUp <-chan time.Time
	if c.cfg.GiveUp > 0 {
		t := time.NewTimer(c.cfg.GiveUp)
		defer t.Stop()
		giveUp = t.C
	}
	for {
		select {
		case <-k.done:
			return nil
		case <-ctx.Done():
			return c.abandon(ctx, k)
		case <-giveUp:
			c.mu.Lock()
			since := c.lost
			down := c.link == nil && time.Since(since) >= c.cfg.GiveUp
			c.mu.Unlock()
			if down {
				if !c.detach(k) {
					<-k.done
					return nil
				}
				return vfs.WithErrno(syscall.ETIMEDOUT, fmt.Errorf("%v: the metadata server cannot be reached since %s", k.op, since.UTC().Format(time.RFC3339)))
			}
			giveUp = time.After(max(c.cfg.GiveUp/4, 10*time.Millisecond))
		}
	}
}

// abandon is what an interrupted caller does: a call that changes nothing is
// forgotten; of others the server is told, and says what became of them, if it can
// be reached.
func (c *Client) abandon(ctx context.Context, k *call) error {
	if k.slot >= 0 {
		c.mu.Lock()
		l := c.link
		c.mu.Unlock()
		if l != nil {
			b := beginFrame(make([]byte, 0, 16), frameCancel)
			b = binary.LittleEndian.AppendUint64(b, k.id)
			endFrame(b, 0)
			if l.w.write(b) == nil {
				select {
				case <-k.done:
					return nil
				case <-l.dead:
				}
			}
		}
	}
	if !c.detach(k) {
		<-k.done
		return nil
	}
	return interrupted(ctx)
}

// detach leaves a call without a waiter; false: it is over.
func (c *Client) detach(k *call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending[k.id] != k {
		return false
	}
	if k.slot < 0 || !k.sent { // nothing was or will be done
		delete(c.pending, k.id)
		c.freeSlot(k)
		return true
	}
	k.detached = true
	return true
}

func interrupted(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return vfs.WithErrno(syscall.ETIMEDOUT, ctx.Err())
	}
	return vfs.WithErrno(syscall.EINTR, ctx.Err())
}

func (c *Client) freeSlot(k *call) {
	switch {
	case k.slot < 0:
	case k.slot < changeSlots:
		c.slots <- k.slot
	default:
		c.waitSlots <- k.slot
	}
	k.slot = -1
}

// end gives a call back, after d, its reply, has been read; d must have been read
// to its end.
func (c *Client) end(k *call, d decoder) error {
	err := d.done()
	if err != nil {
		err = c.broken(k)
	}
	c.drop(k)
	return err
}

// drop gives a call back, unless somebody may still use it.
func (c *Client) drop(k *call) {
	if k.detached || k.slot >= 0 {
		return
	}
	if cap(k.b) > 64<<10 || cap(k.reply) > 64<<10 {
		return
	}
	calls.Put(k)
}

// broken is the error of a reply that makes no sense.
func (c *Client) broken(k *call) error {
	return vfs.WithErrno(syscall.EIO, fmt.Errorf("reply to %v: %w", k.op, errMalformed))
}

func (c *Client) endedErr() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// background runs fn, which Close waits for, unless the session has ended.
func (c *Client) background(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		c.tasks.Go(fn)
	}
}

// simple makes a call that returns nothing.
func (c *Client) simple(ctx context.Context, k *call) error {
	d, err := c.finish(ctx, k)
	if err != nil {
		c.drop(k)
		return err
	}
	return c.end(k, d)
}
