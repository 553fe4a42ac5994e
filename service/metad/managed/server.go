package managed

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/massif-fs/massif/block/blockgate"
	"github.com/massif-fs/massif/meta/metarpc"
	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/service/admin/adminapi"
	"github.com/massif-fs/massif/telemetry"
	"github.com/massif-fs/massif/vfs"
)

// Config says how a server is made.
type Config struct {
	Admin *adminapi.Client // with the token of the metadata server; not closed
	// Dir holds the volumes' metadata (volumes/ID/meta) and what the admin server said
	// last (state.json). It is made if it is not there.
	Dir     string
	Listen  string // HOST:PORT
	Version string
	Logger  *slog.Logger // nil: slog.Default
	// Early answers changes before they are on stable storage (metarpc.Volume.Early).
	Early bool
	// Metrics gets the figures of the server and of each volume that is open; nil: none.
	Metrics *telemetry.Telemetry
}

// Server is a metadata server.
type Server struct {
	cfg      Config
	log      *slog.Logger
	state    *state
	link     *link
	rpc      *metarpc.Server
	gate     *blockgate.Gate
	http     *http.Server
	listener net.Listener

	traffic traffic
	closed  bool // with mu

	kick chan struct{} // the keeper has something to do

	mu     sync.Mutex
	wanted map[string]*adminapi.ServedVolume // by ID
	open   map[string]*served
	errs   map[string]error // why a volume is not open
	byName map[string]string
}

const (
	// openAgain is how long a volume that could not be opened waits for the next try.
	openAgain = 10 * time.Second
	// handshakeTime is how long a client has for its handshake.
	handshakeTime = 10 * time.Second
	// endPatience is how long the sessions of a deleted volume have to end.
	endPatience = time.Minute
)

// Start asks the admin server what to serve, opens the volumes and listens. Run
// answers; either Run or Close must be called.
func Start(ctx context.Context, cfg Config) (s *Server, err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	s = &Server{
		cfg: cfg, log: cfg.Logger, kick: make(chan struct{}, 1),
		open: map[string]*served{}, errs: map[string]error{},
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("metadata server: %w", errors.Join(err, s.Close()))
		}
	}()
	if s.state, err = openState(ctx, cfg); err != nil {
		return s, err
	}
	s.link = newLink(cfg.Admin, cfg.Logger, func(v *adminapi.ServedVolumes) {
		if err := s.state.keep(v); err != nil {
			s.log.Error("what the admin server says is not kept", "err", err)
		}
		s.want(v)
	})
	s.want(s.state.served())
	s.settle(ctx)
	s.rpc = metarpc.NewServer(metarpc.ServerConfig{Auth: s, Volume: s.volume, Version: cfg.Version, Logger: cfg.Logger})
	s.gate = blockgate.New(blockgate.Config{Authority: s.rpc.BlockAuthority(s.blocks), Logger: cfg.Logger})
	s.http = &http.Server{
		Handler: http.HandlerFunc(s.serveHTTP), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	if err := s.export(cfg.Metrics); err != nil {
		return s, err
	}
	s.listener, err = net.Listen("tcp", cfg.Listen)
	if errors.Is(err, syscall.EACCES) {
		return s, fmt.Errorf("port of %s: only root may listen there; choose another with --listen HOST:PORT", cfg.Listen)
	}
	return s, err
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Name is the server's name at the admin server.
func (s *Server) Name() string { return s.state.served().Server.Name }

// Run answers until ctx is done, then ends cleanly: changes under way are finished,
// clients are told to come back.
func (s *Server) Run(ctx context.Context) error {
	work, stop := context.WithCancel(ctx)
	defer stop()
	var tasks sync.WaitGroup
	tasks.Go(func() { s.link.follow(work, s.state.served().Seq) })
	tasks.Go(func() { s.keep(work) })
	tasks.Go(func() { s.state.renew(work) })
	conns := &handOver{addr: s.listener.Addr(), conns: make(chan net.Conn), done: make(chan struct{})}
	tasks.Go(func() {
		if err := s.http.Serve(conns); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("block server ended", "err", err)
		}
	})
	context.AfterFunc(work, func() { s.listener.Close() })
	err := s.accept(work, conns)
	stop()
	s.ends()
	errs := []error{err, s.rpc.Close()}
	end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.http.Shutdown(end); err != nil {
		errs = append(errs, s.http.Close())
	}
	tasks.Wait()
	s.rpc, s.listener = nil, nil
	return errors.Join(append(errs, s.Close())...)
}

// Close closes what Start has opened.
func (s *Server) Close() error {
	var errs []error
	if s.listener != nil {
		errs = append(errs, s.listener.Close())
	}
	if s.rpc != nil {
		errs = append(errs, s.rpc.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, v := range s.open {
		if err := v.Close(); err != nil {
			errs = append(errs, fmt.Errorf("volume %s: %w", id, err))
		}
		delete(s.open, id)
	}
	return errors.Join(errs...)
}

// accept takes connections and gives each to the protocol that it chooses.
func (s *Server) accept(ctx context.Context, conns *handOver) error {
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{metarpc.ALPN, "http/1.1"}, GetCertificate: s.state.certificate,
	}
	var shaking sync.WaitGroup
	defer shaking.Wait()
	for {
		c, err := s.listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED) {
				s.log.Warn("a connection could not be taken", "err", err)
				sleep(ctx, 50*time.Millisecond)
				continue
			}
			return err
		}
		shaking.Go(func() { s.shake(ctx, tls.Server(c, config), conns) })
	}
}

// shake does the handshake of a connection and hands it on.
func (s *Server) shake(ctx context.Context, c *tls.Conn, conns *handOver) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		s.log.Debug("handshake failed", "remote", c.RemoteAddr(), "err", err)
		c.Close()
		return
	}
	if c.ConnectionState().NegotiatedProtocol == metarpc.ALPN {
		if !s.rpc.Handle(&countedConn{c, &s.traffic}) {
			c.Close()
		}
		return
	}
	select {
	case conns.conns <- c:
	case <-conns.done:
		c.Close()
	}
}

// handOver is a net.Listener of connections that another one has taken.
type handOver struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (h *handOver) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handOver) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

func (h *handOver) Addr() net.Addr { return h.addr }

// serveHTTP answers what is not the metadata protocol.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, blockgate.Path) {
		s.gate.ServeHTTP(w, r)
		return
	}
	if r.Method == http.MethodGet && r.URL.Path == "/health" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "ok")
		return
	}
	http.NotFound(w, r)
}

// Authenticate implements metarpc.Authenticator.
func (s *Server) Authenticate(ctx context.Context, h *metarpc.Hello) (*metarpc.Grant, error) {
	g, done, err := s.link.authenticate(ctx, h.Token, s.volumeID(h.Volume))
	if err != nil {
		s.traffic.unauthenticated(err)
		return nil, err
	}
	v, err := s.find(g.Volume)
	if err != nil {
		return nil, err
	}
	out := &metarpc.Grant{Volume: g.Volume, ReadOnly: g.ReadOnly, Done: done, Principal: "token " + g.TokenID + " on " + h.Info.Host}
	if out.Root, err = v.root(ctx, g.Path); err != nil {
		return nil, err
	}
	if g.Expires != nil {
		out.Expires = *g.Expires
	}
	err = applyFlags(out, g.Flags)
	// Commands act as root.
	out.Commands = out.Root == 0 && !out.RootSquash
	return out, err
}

// applyFlags enforces here what of the demanded mount options can be.
func applyFlags(g *metarpc.Grant, flags string) error {
	var o mount.Options
	if err := o.ParseOptions(flags); err != nil {
		return vfs.WithErrno(syscall.EACCES, fmt.Errorf("the token's mount options: %w", err))
	}
	g.ReadOnly = g.ReadOnly || o.ReadOnly
	if o.RootSquash {
		g.RootSquash, g.SquashUID, g.SquashGID = true, mount.Nobody, mount.Nobody
		if o.RootSquashUID != nil {
			g.SquashUID = *o.RootSquashUID
		}
		if o.RootSquashGID != nil {
			g.SquashGID = *o.RootSquashGID
		}
	}
	return nil
}

// volumeID takes a volume's name or ID.
func (s *Server) volumeID(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id, ok := s.byName[name]; ok {
		return id
	}
	return name
}

// find returns an open volume, or why it is not.
func (s *Server) find(id string) (*served, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.open[id]; v != nil && (s.wanted[id] == nil || s.wanted[id].Volume.Retired == nil) {
		return v, nil
	}
	w := s.wanted[id]
	switch {
	case w == nil:
		return nil, vfs.WithErrno(syscall.ENOENT, errors.New("this metadata server does not serve the volume"))
	case w.Volume.Retired != nil:
		return nil, errRetired(w.Volume.Name)
	case s.errs[id] != nil:
		return nil, vfs.WithErrno(syscall.EAGAIN, s.errs[id])
	}
	return nil, vfs.WithErrno(syscall.EAGAIN, fmt.Errorf("the volume %s is being opened", w.Volume.Name))
}

// volume is metarpc.ServerConfig.Volume.
func (s *Server) volume(id string) (*metarpc.Volume, error) {
	v, err := s.find(id)
	if err != nil {
		return nil, err
	}
	return v.rpc, nil
}

// blocks tells the block gate where a volume's blocks are.
func (s *Server) blocks(id string) (*blockgate.Volume, error) {
	v, err := s.find(id)
	if err != nil {
		return nil, err
	}
	return v.gate, nil
}

// want notes what to serve.
func (s *Server) want(v *adminapi.ServedVolumes) {
	s.mu.Lock()
	s.wanted, s.byName = map[string]*adminapi.ServedVolume{}, map[string]string{}
	for i := range v.Volumes {
		s.wanted[v.Volumes[i].Volume.ID] = &v.Volumes[i]
		if v.Volumes[i].Volume.Retired == nil {
			s.byName[v.Volumes[i].Volume.Name] = v.Volumes[i].Volume.ID
		}
	}
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// keep makes what is served what is wanted, until ctx is done.
func (s *Server) keep(ctx context.Context) {
	t := time.NewTicker(openAgain)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.kick:
		case <-t.C:
		}
		s.settle(ctx)
	}
}

// settle opens, changes and removes volumes. One goroutine at a time calls it.
func (s *Server) settle(ctx context.Context) {
	s.mu.Lock()
	var all []*adminapi.ServedVolume
	for _, w := range s.wanted {
		all = append(all, w)
	}
	s.mu.Unlock()
	for _, w := range all {
		id := w.Volume.ID
		s.mu.Lock()
		v := s.open[id]
		s.mu.Unlock()
		var err error
		switch {
		case w.Volume.Retired != nil:
			err = s.retire(ctx, w, v)
		case v == nil:
			v, err = open(ctx, &s.cfg, w, s.log.With("volume", w.Volume.Name))
		default:
			err = v.apply(ctx, w)
		}
		s.mu.Lock()
		if v != nil && w.Volume.Retired == nil {
			s.open[id] = v
		}
		again := s.errs[id] != nil && err != nil && s.errs[id].Error() == err.Error()
		s.errs[id] = err
		s.mu.Unlock()
		if err != nil && ctx.Err() == nil && !again && !errors.Is(err, errNotSealed) {
			s.log.Error("a volume is not as it should be; trying again", "err", err)
		}
	}
}

// retire closes and removes a deleted volume. Its tokens are revoked by now, which ends
// its sessions.
func (s *Server) retire(ctx context.Context, w *adminapi.ServedVolume, v *served) error {
	if v != nil {
		deadline := time.Now().Add(endPatience)
		for v.sessions() > 0 && time.Now().Before(deadline) && ctx.Err() == nil {
			sleep(ctx, 100*time.Millisecond)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.mu.Lock()
		delete(s.open, w.Volume.ID)
		s.mu.Unlock()
		if err := v.Close(); err != nil {
			s.log.Warn("a deleted volume was not closed cleanly", "volume", w.Volume.Name, "err", err)
		}
	}
	if err := purge(ctx, s.cfg.volumes(), w); err != nil {
		return fmt.Errorf("removing the deleted volume %s: %w", w.Volume.Name, err)
	}
	if err := s.cfg.Admin.Purged(ctx, w.Volume.ID); err != nil && !adminapi.IsCode(err, adminapi.CodeNotFound) {
		return err
	}
	s.mu.Lock()
	if s.wanted[w.Volume.ID] == w {
		delete(s.wanted, w.Volume.ID)
	}
	s.mu.Unlock()
	s.log.Info("a deleted volume and its data are removed", "volume", w.Volume.Name, "id", w.Volume.ID)
	return nil
}

func (c *Config) volumes() string { return strings.TrimSuffix(c.Dir, "/") + "/volumes" }
