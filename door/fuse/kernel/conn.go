package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	protocolMajor = 7
	// protocolMinor is what this package speaks; the kernel may speak less.
	protocolMinor = 45
	// oldestMinor is that of Linux 5.4.
	oldestMinor = 31

	// minPayload is what a buffer holds at least besides headers: the longest value
	// of an extended attribute with its name.
	minPayload = 128 << 10
	// classicPages is how many pages a request has that were not negotiated.
	classicPages = 32
)

var pageSize = unix.Getpagesize()

// Config says how a connection is to be. Zero numbers mean the default.
type Config struct {
	// Features that the door would like. What it gets is Init.Features.
	Features Features
	// MaxWrite bounds one READ or WRITE, in bytes. Default 128 KiB; more needs MaxPages.
	MaxWrite int
	// MaxReadAhead is how far the kernel reads ahead, in bytes; it takes no more than
	// it offers, 128 KiB.
	MaxReadAhead int
	// MaxBackground is how many requests without a waiting caller the kernel sends
	// at once. Default 12.
	MaxBackground int
	// MaxMemory bounds the buffers of requests in progress, in bytes. There are always
	// two at least. Default 64 MiB.
	MaxMemory int
	// IOUring has messages come by io_uring, if the kernel offers it: Init.Features
	// tells. Open fails with ErrNoRings, before anything was agreed on, where it
	// cannot be used. The handler must not serve locks (see uring.go). Adopt ignores
	// it.
	IOUring bool
	// Logger receives what the kernel does not take. Default slog.Default().
	Logger *slog.Logger
	// Debug logs each message.
	Debug bool
}

// Init is what a connection's two sides have agreed on. It is plain data: with it and
// the descriptor another process can go on (Adopt).
type Init struct {
	Minor         uint32   `json:"minor"` // of protocol 7, as the kernel speaks it
	Offered       Features `json:"offered"`
	Features      Features `json:"features"`
	MaxWrite      int      `json:"max_write"`
	MaxReadAhead  int      `json:"max_read_ahead"`
	MaxBackground int      `json:"max_background"`
}

// Conn is a connection with the kernel: one mount. Its methods may be called
// concurrently, except for Close.
type Conn struct {
	fd      int
	init    Init
	handler Handler
	log     *slog.Logger
	debug   bool
	prime   atomic.Pointer[prime]

	payload    int // room in a buffer behind its head
	maxReaders int64
	epoch      time.Time

	readerCount
	idle sync.Pool // of *Request
	dead atomic.Bool

	wg       sync.WaitGroup // readers, waiters and the watch
	waiters  atomic.Int64   // requests that wait without a reader (SETLKW)
	mu       sync.Mutex     // guards requests
	requests map[*Request]struct{}

	late interrupts // those that came before their request

	retrieves retrieves

	queues  []*queue    // of io_uring; none: all messages come by read(2)
	replies chan *queue // which have replies that goroutines have written
}

func newConn(fd int, init Init, cfg Config, h Handler) *Conn {
	c := &Conn{fd: fd, init: init, handler: h, log: cfg.Logger, debug: cfg.Debug, requests: map[*Request]struct{}{}, epoch: time.Now()}
	c.wake = make(chan struct{}, 1)
	if c.log == nil {
		c.log = slog.Default()
	}
	c.payload = max(init.MaxWrite, minPayload)
	c.maxReaders = int64(max(cfg.memory()/c.payload, 2))
	return c
}

func (cfg *Config) memory() int {
	if cfg.MaxMemory <= 0 {
		return 64 << 20
	}
	return cfg.MaxMemory
}

// Open takes over the descriptor of a new mount: it answers INIT. The caller then
// settles what depends on Init, and calls Serve. If it fails the descriptor stays
// the caller's.
func Open(fd int, cfg Config, h Handler) (*Conn, error) {
	cfg.Features &^= OverIOUring
	var queues []*queue
	if cfg.IOUring { // before INIT: what was agreed on there must then be done
		var err error
		if queues, err = newQueues(max(cfg.MaxWrite, minPayload), cfg.memory()); err != nil {
			return nil, err
		}
		cfg.Features |= OverIOUring
	}
	init, err := negotiate(fd, cfg)
	if init.Features&OverIOUring == 0 {
		for _, u := range queues {
			u.close()
		}
		queues = nil
	}
	if err != nil {
		return nil, err
	}
	c := newConn(fd, init, cfg, h)
	c.queues = queues
	return c, nil
}

// Adopt takes over the descriptor of a mount that another process has served so far:
// init is what its Conn's Init method said. Requests that the other has read and not
// answered come again after Resend. Config's Features and sizes are not used.
func Adopt(fd int, init Init, cfg Config, h Handler) (*Conn, error) {
	if init.Minor < oldestMinor || init.MaxWrite < pageSize {
		return nil, fmt.Errorf("fuse: cannot go on with a connection of protocol %d.%d and requests of %d bytes",
			protocolMajor, init.Minor, init.MaxWrite)
	}
	return newConn(fd, init, cfg, h), nil
}

// Init returns what was agreed on.
func (c *Conn) Init() Init { return c.init }

// Close gives the descriptor up, after Serve has returned and when no other method
// is running or will be called.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// negotiate answers the INIT message.
func negotiate(fd int, cfg Config) (Init, error) {
	buf := make([]byte, 2*headSize+minPayload)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR || err == unix.ENOENT {
			continue
		}
		if err != nil {
			return Init{}, fmt.Errorf("fuse: reading INIT: %w", err)
		}
		init, reply, again, err := answerInit(buf[:n], cfg)
		if err != nil {
			return Init{}, err
		}
		if _, err := unix.Write(fd, reply); err != nil {
			return Init{}, fmt.Errorf("fuse: answering INIT: %w", err)
		}
		if !again {
			return init, nil
		}
	}
}

// answerInit makes the reply of an INIT message; again tells that the kernel speaks a
// newer major protocol and will ask once more.
func answerInit(msg []byte, cfg Config) (init Init, reply []byte, again bool, err error) {
	if len(msg) < headerSize+compatInitInSize {
		return init, nil, false, errors.New("fuse: the kernel's first message is too short")
	}
	var h Header
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&h)), headerSize), msg)
	if h.Opcode != opInit {
		return init, nil, false, fmt.Errorf("fuse: the kernel's first message is %v, not INIT", h.Opcode)
	}
	var in initIn
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&in)), unsafe.Sizeof(in)), msg[headerSize:])
	if in.major < protocolMajor || in.major == protocolMajor && in.minor < oldestMinor {
		return init, nil, false, fmt.Errorf("fuse: the kernel speaks protocol %d.%d; %d.%d (Linux 5.4) is the oldest that can be served",
			in.major, in.minor, protocolMajor, oldestMinor)
	}
	out := initOut{major: protocolMajor, minor: protocolMinor}
	again = in.major > protocolMajor
	if !again {
		offered := Features(in.flags)
		if offered&initExt != 0 {
			offered |= Features(in.flags2) << 32
		}
		init = Init{
			Minor: in.minor, Offered: offered, Features: (cfg.Features | initExt) & offered,
			MaxWrite: cfg.MaxWrite, MaxReadAhead: min(cfg.MaxReadAhead, int(in.maxReadahead)), MaxBackground: cfg.MaxBackground,
		}
		if init.MaxWrite <= 0 {
			init.MaxWrite = classicPages * pageSize
		}
		if init.Features&MaxPages == 0 {
			init.MaxWrite = min(init.MaxWrite, classicPages*pageSize)
		}
		init.MaxWrite = max(init.MaxWrite, pageSize)
		if init.MaxReadAhead <= 0 {
			init.MaxReadAhead = int(in.maxReadahead)
		}
		if init.MaxBackground <= 0 {
			init.MaxBackground = 12
		}
		init.MaxBackground = min(init.MaxBackground, 1<<16-1)
		out = initOut{
			major: protocolMajor, minor: min(in.minor, protocolMinor), maxReadahead: uint32(init.MaxReadAhead),
			flags: uint32(init.Features), flags2: uint32(init.Features >> 32),
			maxBackground: uint16(init.MaxBackground), congestionThreshold: uint16(max(init.MaxBackground*3/4, 1)),
			maxWrite: uint32(init.MaxWrite), timeGran: 1,
			maxPages: uint16(min((init.MaxWrite+pageSize-1)/pageSize, 1<<16-1)),
			// A file behind passthrough may itself lie on a file system that lies on
			// another one (overlayfs) if this is 1.
			maxStackDepth: 1,
		}
	}
	reply = make([]byte, replyHeaderSize+unsafe.Sizeof(out))
	*(*replyHeader)(unsafe.Pointer(&reply[0])) = replyHeader{len: uint32(len(reply)), unique: h.Unique}
	copy(reply[replyHeaderSize:], unsafe.Slice((*byte)(unsafe.Pointer(&out)), unsafe.Sizeof(out)))
	return init, reply, again, nil
}

// died notes that the connection has ended: nobody waits for answers any more.
func (c *Conn) died() {
	if c.dead.Swap(true) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for q := range c.requests {
		q.interrupt(q.state.Load())
	}
	c.retrieves.fail()
	c.rouse()
	for _, u := range c.queues {
		u.rouse()
	}
}

// now is the time since the Conn was made, from the monotonic clock.
func (c *Conn) now() time.Duration { return time.Since(c.epoch) }

// Epoch is the moment from which Request.Start counts.
func (c *Conn) Epoch() time.Time { return c.epoch }

func (c *Conn) register(q *Request) {
	c.mu.Lock()
	c.requests[q] = struct{}{}
	c.mu.Unlock()
}

func (c *Conn) unregister(q *Request) {
	c.mu.Lock()
	delete(c.requests, q)
	c.mu.Unlock()
}

func errnoName(e syscall.Errno) string {
	if s := unix.ErrnoName(e); s != "" {
		return s
	}
	return "OK"
}
