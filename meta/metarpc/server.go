package metarpc

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
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

// Grant is what an Authenticator lets a client do.
type Grant struct {
	Volume string  // by name
	Root   vfs.Ino // the directory that the client sees as the root of the volume; 0: the volume's
	// ReadOnly refuses every change.
	ReadOnly bool
	// RootSquash makes callers with uid or gid 0 somebody else: SquashUID and
	// SquashGID.
	RootSquash           bool
	SquashUID, SquashGID uint32
	// Commands lets the client give commands (see Volume.Command). With a Root it may
	// not in any case.
	Commands bool
	Expires  time.Time // zero: never
	// Done, if not nil, is closed when the grant is revoked.
	Done <-chan struct{}
	// Principal is whose it is, for logs; no secret.
	Principal string
}

// Authenticator tells what a client may do: EACCES for a token that is not good,
// ENOENT for a volume that there is not. It is asked for each connection, also of
// one that resumes a session.
type Authenticator interface {
	Authenticate(ctx context.Context, h *Hello) (*Grant, error)
}

// Volume is a volume that a Server serves.
type Volume struct {
	Engine *meta.Engine
	// Command, if not nil, does what a client with Grant.Commands asks for: name
	// says what, args how, in a form of their own. What it returns goes to the client.
	// What g.ReadOnly says about it is for Command to know. ctx ends when the client gives
	// up, its session ends or the server closes, which waits for it; after a restart of
	// the server a command without a reply is given again.
	Command func(ctx context.Context, g *Grant, name string, args []byte) ([]byte, error)
	// Early sends replies to changes before they are on stable storage to clients that can
	// make them again should the server die (early.go). Else they wait for the disk.
	Early bool
	// Relaxed sends replies to changes before they are on stable storage: a crash of
	// the server may lose the last ones. Sync still waits.
	Relaxed bool
	// Observe, if not nil, is told of each call: its operation (see OpNames), how long
	// it took until its reply could be sent (waiting for stable storage, or for a lock,
	// is part of it), the bytes of its arguments and reply, and its error. It is
	// called concurrently, and by who does the calls.
	Observe func(op int, took time.Duration, bytes int, err error)
}

// ServerConfig is what a server is made of.
type ServerConfig struct {
	Auth Authenticator
	// Volume returns a volume that is open; ENOENT.
	Volume func(name string) (*Volume, error)
	// Lease is how long a client may use what it has leased without hearing from
	// the server; 0: DefaultLease. Recalls wait no longer than twice that.
	Lease time.Duration
	// Life is how long a session lives that the server hears nothing of; 0:
	// DefaultLife. At least Lease.
	Life    time.Duration
	Version string // of the program, for clients
	Logger  *slog.Logger

	syncDelay time.Duration // 0: syncDelay
}

const (
	DefaultLease = 10 * time.Second
	DefaultLife  = 30 * time.Second

	helloTime = 10 * time.Second // a client has for its hello
)

// Server serves volumes to clients.
type Server struct {
	cfg ServerConfig
	log *slog.Logger

	mu       sync.Mutex
	sessions map[sessionKey]*session
	named    map[string]*session // by blockName
	conns    map[net.Conn]struct{}
	volumes  map[*meta.Engine]*syncer
	closing  bool
	stop     chan struct{}
	resuming sync.Mutex     // one client comes back at a time
	tasks    sync.WaitGroup // of the server
	readers  sync.WaitGroup // of connections

	calls, refused, resumed, restored, connections atomic.Int64
	recalls                                        recallCounters
}

type sessionKey struct {
	volume string
	id     uint64
}

// NewServer makes a server. Close ends it.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Lease == 0 {
		cfg.Lease = DefaultLease
	}
	if cfg.Life == 0 {
		cfg.Life = DefaultLife
	}
	cfg.Life = max(cfg.Life, cfg.Lease)
	if cfg.syncDelay == 0 {
		cfg.syncDelay = syncDelay
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger, stop: make(chan struct{}),
		sessions: make(map[sessionKey]*session), named: make(map[string]*session), conns: make(map[net.Conn]struct{}), volumes: make(map[*meta.Engine]*syncer),
	}
	s.tasks.Go(s.watchOver)
	return s
}

// Serve takes connections until the listener is closed or the server is.
func (s *Server) Serve(l net.Listener) error {
	stop := make(chan struct{})
	defer close(stop)
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return l.Close()
	}
	s.tasks.Go(func() {
		select {
		case <-s.stop:
			l.Close() // Accept tells
		case <-stop:
		}
	})
	s.mu.Unlock()
	for {
		c, err := l.Accept()
		if err != nil {
			select {
			case <-s.stop:
				return nil
			default:
			}
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED) {
				s.log.Warn("a connection could not be taken", "err", err)
				time.Sleep(50 * time.Millisecond)
				continue
			}
			return err
		}
		if !s.Handle(c) {
			c.Close()
		}
	}
}

// Handle serves one connection in the background; false if the server is closing.
func (s *Server) Handle(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.conns[c] = struct{}{}
	s.readers.Go(func() {
		s.connections.Add(1)
		s.handle(c)
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	})
	return true
}

// readUntil sets the deadline of a connection, unless the server is closing: then its
// reader is to end, and Close waits for it.
func (s *Server) readUntil(c net.Conn, t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return errServerCloses
	}
	return c.SetReadDeadline(t)
}

func (s *Server) handle(c net.Conn) {
	l := newLink(c)
	defer l.w.tasks.Wait()
	defer l.close(net.ErrClosed)
	if err := s.readUntil(c, time.Now().Add(helloTime)); err != nil {
		return
	}
	kind, body, err := l.r.next(maxHello)
	if err != nil || kind != frameHello {
		s.log.Debug("a connection without a hello", "remote", c.RemoteAddr(), "err", err)
		return
	}
	var h Hello
	if err := h.decode(body); err != nil {
		s.log.Debug("a hello that cannot be read", "remote", c.RemoteAddr(), "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), helloTime)
	ss, w := s.welcome(ctx, &h)
	cancel()
	if ss != nil {
		// Its last connection is done with before this one begins.
		ss.takeOver(l)
		defer ss.release(l)
	}
	e := encoder{b: beginFrame(nil, frameWelcome)}
	if err := w.encode(&e); err != nil {
		s.log.Error("settings of the volume", "err", err)
		return
	}
	endFrame(e.b, 0)
	if err := l.w.write(e.b); err != nil || ss == nil {
		return
	}
	if err := s.readUntil(c, time.Time{}); err != nil {
		return
	}
	if !ss.attach(l) {
		return
	}
	err = ss.read(l)
	l.close(net.ErrClosed)
	ss.detach(l, err)
}

// welcome lets a client in, or says why not.
func (s *Server) welcome(ctx context.Context, h *Hello) (*session, *welcome) {
	ss, w, err := s.admit(ctx, h)
	if err != nil {
		s.refused.Add(1)
		s.log.Info("a client was refused", "host", h.Info.Host, "mountpoint", h.Info.Mountpoint, "volume", h.Volume, "err", err)
		w = &welcome{err: err, unknown: errors.Is(err, errUnknownSession)}
	}
	if w.version == 0 {
		w.version = maxVersion
	}
	return ss, w
}

var errUnknownSession = errors.New("the session is not known: it was not heard of for too long, or the server has been away for too long")

func (s *Server) admit(ctx context.Context, h *Hello) (*session, *welcome, error) {
	version, err := h.version()
	if err != nil {
		return nil, nil, err
	}
	g, err := s.cfg.Auth.Authenticate(ctx, h)
	if err != nil {
		return nil, nil, err
	}
	if err := g.valid(); err != nil {
		return nil, nil, err
	}
	v, err := s.cfg.Volume(g.Volume)
	if err != nil {
		return nil, nil, err
	}
	w := &welcome{version: version, format: v.Engine.Settings(), lease: s.cfg.Lease, life: s.cfg.Life,
		durable: !v.Relaxed, limited: v.Engine.Limited(), server: s.cfg.Version, root: max(g.Root, vfs.Root)}
	var ss *session
	if h.session != 0 {
		ss, w.how, err = s.resume(ctx, h, g, v)
	} else {
		ss, err = s.begin(ctx, h, g, v)
	}
	if err != nil {
		return nil, nil, err
	}
	w.session, w.secret, w.readOnly = ss.id, ss.secret, ss.readOnly
	w.early, w.instance = ss.early, ss.vol.Engine.Instance()
	return ss, w, nil
}

// begin makes a new session.
func (s *Server) begin(ctx context.Context, h *Hello, g *Grant, v *Volume) (*session, error) {
	secret := make([]byte, secretSize)
	_, _ = rand.Read(secret) // never fails
	at, ms, err := v.open(ctx, h, secret)
	if err != nil {
		return nil, err
	}
	if err := v.Engine.Sync(ctx); err != nil { // before its client knows of it
		return nil, errors.Join(err, ms.Close())
	}
	ss := s.host(ms, h, g, at)
	ss.secret = secret
	if err := ss.prepareEarly(ctx, h); err != nil {
		return nil, errors.Join(err, ms.Close())
	}
	if err := s.enter(ss); err != nil {
		return nil, errors.Join(err, ms.Close())
	}
	return ss, nil
}

// host makes a session of one of the engine's.
func (s *Server) host(ms hosted, h *Hello, g *Grant, v *Volume) *session {
	ss := newSession(s, v, g, ms)
	ss.readOnly = g.ReadOnly || h.ReadOnly || h.At != ""
	ss.ms.EndWith(ss.endSilent)
	if h.cache {
		ss.leasing = true
		ss.ms.ServeLeases(ss.recall, ss.own)
	}
	return ss
}

// enter makes the server know a session.
func (s *Server) enter(ss *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return errServerCloses
	}
	// A session of the past has an engine of its own, which nobody changes.
	if _, past := ss.ms.(*pastSession); !past {
		e := ss.vol.Engine
		if ss.sync = s.volumes[e]; ss.sync == nil {
			ss.sync = newSyncer(e, s.cfg.syncDelay)
			s.volumes[e] = ss.sync
			if !ss.vol.Relaxed {
				e.TrackDurable()
			}
			forget := e.OnSettings(func() { s.announce(e) })
			s.tasks.Go(func() {
				ss.sync.run(s.stop)
				forget()
			})
		}
	}
	s.sessions[sessionKey{ss.grant.Volume, ss.id}] = ss
	s.named[ss.blockName()] = ss
	s.guard(ss)
	return nil
}

var errServerCloses = vfs.WithErrno(syscall.EAGAIN, errors.New("the metadata server goes down"))

// resume finds the session of a client that was here before, or before the server was
// restarted.
func (s *Server) resume(ctx context.Context, h *Hello, g *Grant, v *Volume) (*session, resumption, error) {
	s.resuming.Lock()
	defer s.resuming.Unlock()
	s.mu.Lock()
	ss := s.sessions[sessionKey{g.Volume, h.session}]
	s.mu.Unlock()
	if ss != nil {
		switch {
		case subtle.ConstantTimeCompare(ss.secret, h.secret) != 1:
			return nil, 0, vfs.WithErrno(syscall.ESTALE, errUnknownSession)
		case ss.grant.Root != g.Root:
			return nil, 0, vfs.WithErrno(syscall.EACCES, errors.New("the token is for another directory than that of the session"))
		}
		s.resumed.Add(1)
		return ss, sessionResumed, nil
	}
	ms, restored, err := v.Engine.ResumeSession(ctx, h.session, h.secret)
	if errors.Is(err, meta.ErrNoSession) {
		return nil, 0, vfs.WithErrno(syscall.ESTALE, errUnknownSession)
	}
	if err != nil {
		return nil, 0, err
	}
	present, err := hostable(v.Engine, ms)
	if err != nil {
		return nil, 0, err
	}
	ss = s.host(present, h, g, v)
	ss.secret, ss.restoring = h.secret, restored
	if err := ss.load(ctx); err != nil {
		return nil, 0, err
	}
	if err := ss.prepareEarly(ctx, h); err != nil {
		return nil, 0, err
	}
	if err := s.enter(ss); err != nil {
		return nil, 0, err
	}
	s.restored.Add(1)
	if !restored {
		return ss, sessionResumed, nil
	}
	return ss, sessionRestored, nil
}

// announce tells the clients of a volume that its settings have changed.
func (s *Server) announce(e *meta.Engine) {
	settings := e.Settings()
	text, err := json.Marshal(&settings)
	if err != nil {
		s.log.Error("settings of the volume", "err", err)
		return
	}
	x := encoder{b: beginFrame(nil, frameFormat)}
	x.bool(e.Limited())
	x.bytes(text)
	endFrame(x.b, 0)
	s.mu.Lock()
	var list []*session
	for _, ss := range s.sessions {
		if ss.vol.Engine == e {
			list = append(list, ss)
		}
	}
	s.mu.Unlock()
	for _, ss := range list {
		ss.push(x.b)
	}
}

// watchOver ends sessions that nothing was heard of for too long.
func (s *Server) watchOver() {
	t := time.NewTicker(max(s.cfg.Lease/16, time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-s.stop:
			return
		}
		now := nanotime()
		var dead, lapsed []*session
		s.mu.Lock()
		for _, ss := range s.sessions {
			if time.Duration(now-ss.heard.Load()) > s.cfg.Life {
				dead = append(dead, ss)
			} else if ss.late(now) {
				lapsed = append(lapsed, ss)
			}
		}
		s.mu.Unlock()
		for _, ss := range lapsed {
			ss.lapse()
		}
		for _, ss := range dead {
			ss.end(vfs.WithErrno(syscall.ESTALE, fmt.Errorf("nothing was heard of the session for %v", s.cfg.Life)))
		}
	}
}

// Close ends the server: no connection is taken any more, calls under way are
// finished, clients are told to come back. The engines stay open, and know the sessions:
// another server can serve them.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return nil
	}
	s.closing = true
	var open []*session
	for _, ss := range s.sessions {
		open = append(open, ss)
	}
	var conns []net.Conn
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		_ = c.SetReadDeadline(time.Unix(1, 0)) // its reader ends; if it cannot be set, it has
	}
	s.readers.Wait()
	for _, ss := range open {
		ss.leave()
	}
	close(s.stop)
	s.tasks.Wait()
	var errs []error
	for _, ss := range open {
		if past, ok := ss.ms.(*pastSession); ok {
			errs = append(errs, past.Close())
		}
	}
	return errors.Join(errs...)
}

// syncer makes changes durable, many at a time, and then sends the replies that wait for
// that. Where nothing does it takes its time.
type syncer struct {
	e    *meta.Engine
	mu   sync.Mutex
	todo []func(error)
	told map[*session]struct{} // to be told of the next sync
	kick chan struct{}
	soon chan struct{}
	wait time.Duration // how long changes that nobody waits for are gathered for one sync
}

// syncDelay is what a syncer waits: some hundred changes, which a client has to keep.
const syncDelay = 10 * time.Millisecond

func newSyncer(e *meta.Engine, wait time.Duration) *syncer {
	return &syncer{e: e, wait: wait, told: make(map[*session]struct{}), kick: make(chan struct{}, 1), soon: make(chan struct{}, 1)}
}

// after calls fn when all that has been committed is durable.
func (y *syncer) after(fn func(error)) {
	y.mu.Lock()
	y.todo = append(y.todo, fn)
	first := len(y.todo) == 1
	y.mu.Unlock()
	if first {
		y.kick <- struct{}{}
	}
}

// tell has a session told when what has been committed is durable.
func (y *syncer) tell(ss *session) {
	y.mu.Lock()
	y.told[ss] = struct{}{}
	first := len(y.told) == 1
	y.mu.Unlock()
	if first {
		select {
		case y.soon <- struct{}{}:
		default:
		}
	}
}

func (y *syncer) run(stop <-chan struct{}) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-y.kick:
		case <-y.soon:
			t.Reset(y.wait)
			select {
			case <-t.C:
			case <-y.kick:
			case <-stop:
				return
			}
		case <-stop:
			return
		}
		y.mu.Lock()
		todo, told := y.todo, y.told
		y.todo, y.told = nil, make(map[*session]struct{})
		y.mu.Unlock()
		err := y.e.SyncTracked(context.Background())
		for ss := range told {
			if err != nil {
				ss.srv.log.Error("changes that clients believe to be done cannot be made durable", "session", ss.id, "err", err)
				continue
			}
			ss.push(durableFrame(y.e.DurableSync()))
		}
		for _, fn := range todo {
			fn(err)
		}
	}
}
