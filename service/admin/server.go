// Package admin is the admin server: it knows which accounts, object stores,
// metadata servers, volumes and tokens there are, tells a mount how to mount the
// volume of its token, and tells metadata servers what to serve and whom to let in.
// It is on no data path: while it is away mounts go on, and no new ones begin.
//
// # Security
//
// Tokens are 128 random bits; of each the SHA-256 is kept. What a token may do is
// decided here and by the metadata server, never by who has it. Secrets (tokens, keys
// of stores) go in or come out once, at creation, and stand in no list, log or
// audit record; keys of stores go out again to metadata servers that serve a volume of
// the store, and to mounts of volumes whose owner chose blockAccess=direct.
//
// Every request that changes something, and every token that is refused, leaves
// a record in the audit log, written in the transaction of the change itself.
// Addresses from which wrong tokens come are slowed down.
//
// # Revocation
//
// A change of a token or of a volume is an event. Metadata servers wait for events
// with a request that stays open, and end the sessions concerned: within a round
// trip where they are connected, else when they next ask about the token.
//
// # Database
//
// An ordered key-value store ([kv.DB]; by default kv/pebble in one directory). Each
// change is one transaction, durable before it is answered. The records are described
// in records.go, with their version and its migrations.
package admin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/service/admin/adminapi"
	"github.com/massif-fs/massif/telemetry"
)

// Config says how a server is made.
type Config struct {
	DB kv.DB // not closed by the server
	// Dir holds the authority's files, ca.crt and ca.key. It is the caller's to make,
	// with mode 0700.
	Dir string
	// Hosts are the names and addresses under which clients reach the server.
	Hosts []string
	// CertFile and KeyFile replace the server's own certificate, such as by one of a
	// public authority.
	CertFile, KeyFile string

	Version string
	Logger  *slog.Logger     // nil: slog.Default
	Clock   func() time.Time // nil: time.Now
	// Metrics gets the server's figures; nil: none.
	Metrics *telemetry.Telemetry
}

// Server is the admin server. Its methods may be called concurrently.
type Server struct {
	cfg       Config
	db        kv.DB
	log       *slog.Logger
	authority *authority
	cert      func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	chain     []*x509.Certificate // that clients are shown
	limit     *limiter
	mux       *http.ServeMux
	requests  *telemetry.Requests
	failures  failures
	firstRun  string

	mu     sync.Mutex
	news   chan struct{} // closed when there are events
	closed bool
}

// New opens the server. On the first start it makes the installation's account.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	s := &Server{cfg: cfg, db: cfg.DB, log: cfg.Logger, limit: newLimiter(cfg.Clock), news: make(chan struct{})}
	if _, err := migrate(ctx, s.db, s.now()); err != nil {
		return nil, fmt.Errorf("admin database: %w", err)
	}
	var err error
	if s.authority, err = openAuthority(cfg.Dir, cfg.Clock); err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	if err := s.loadCert(); err != nil {
		return nil, err
	}
	if err := s.firstAccount(ctx); err != nil {
		return nil, fmt.Errorf("first account: %w", err)
	}
	s.mux = s.routes()
	return s, s.export(cfg.Metrics)
}

// loadCert opens the given certificate, or has one made.
func (s *Server) loadCert() error {
	if s.cfg.CertFile == "" && s.cfg.KeyFile == "" {
		own := &serverCert{authority: s.authority, names: hostNames(s.cfg.Hosts)}
		cert, err := own.get(nil)
		if err != nil {
			return fmt.Errorf("certificate: %w", err)
		}
		s.cert, s.chain = own.get, []*x509.Certificate{cert.Leaf, s.authority.cert}
		return nil
	}
	cert, err := tls.LoadX509KeyPair(s.cfg.CertFile, s.cfg.KeyFile)
	if err != nil {
		return fmt.Errorf("certificate %s: %w", s.cfg.CertFile, err)
	}
	for _, der := range cert.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("certificate %s: %w", s.cfg.CertFile, err)
		}
		s.chain = append(s.chain, c)
	}
	s.cert = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }
	return nil
}

// Fingerprint is what clients compare on their first contact.
func (s *Server) Fingerprint() string { return adminapi.Fingerprint(s.chain[len(s.chain)-1]) }

// FirstToken is the token of the installation's account, on the server's first start
// only; "" afterwards. It is kept nowhere.
func (s *Server) FirstToken() string { return s.firstRun }

// Names are the names in the server's certificate.
func (s *Server) Names() []string {
	names := append([]string(nil), s.chain[0].DNSNames...)
	for _, ip := range s.chain[0].IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

func (s *Server) now() time.Time { return s.cfg.Clock().UTC().Truncate(time.Millisecond) }

func newID() string { return adminapi.NewToken() }

// firstAccount makes the installation's account and a token of its owner, if there
// is no account.
func (s *Server) firstAccount(ctx context.Context) error {
	secret := ""
	err := s.db.Update(ctx, func(w kv.Txn) error {
		secret = ""
		some := false
		err := scan(w, adminapi.SchemaOf(adminapi.TableAccounts), "", func(adminapi.Entity) (bool, error) {
			some = true
			return false, nil
		})
		if err != nil || some {
			return err
		}
		now := s.now()
		a := &adminapi.Account{System: true}
		a.ID, a.Name, a.Created, a.Changed = newID(), "main", now, now
		w.Put([]byte(nameKey(adminapi.TableAccounts, "", a.Name)), []byte(a.ID))
		if err := putJSON(w, entityKey(adminapi.TableAccounts, a.ID), a); err != nil {
			return err
		}
		secret, err = s.issueOwner(w, a.ID, now)
		return err
	})
	if err != nil {
		return err
	}
	s.firstRun = secret
	return s.db.Sync(ctx)
}

// issueOwner makes a token of an account's owner, without anybody's asking over the
// network.
func (s *Server) issueOwner(w kv.Txn, account string, now time.Time) (string, error) {
	c := &change{w: w, now: now}
	t := &adminapi.Token{Kind: adminapi.TokenAccount, Role: adminapi.RoleOwner}
	t.ID, t.Account, t.Created, t.Changed = newID(), account, now, now
	if err := c.issue(t); err != nil {
		return "", err
	}
	return c.secret, appendAudit(w, adminapi.AuditRecord{
		Time: now, Account: account, Action: "start", Table: adminapi.TableTokens, Entity: t.ID, Result: "ok",
	})
}

// NewOwnerToken makes another token of the installation's owner, for those who have
// lost theirs and can start the server.
func (s *Server) NewOwnerToken(ctx context.Context) (secret string, err error) {
	err = s.db.Update(ctx, func(w kv.Txn) error {
		account := ""
		err := scan(w, adminapi.SchemaOf(adminapi.TableAccounts), "", func(e adminapi.Entity) (bool, error) {
			if e.(*adminapi.Account).System {
				account = e.Base().ID
			}
			return account == "", nil
		})
		if err != nil {
			return err
		}
		secret, err = s.issueOwner(w, account, s.now())
		return err
	})
	if err != nil {
		return "", err
	}
	return secret, s.db.Sync(ctx)
}

// Serve answers on a listener until ctx is done. Then it lets running requests
// finish, for ten seconds at most.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler: s, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.cert},
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.ServeTLS(l, "", "") }()
	select {
	case err := <-ended:
		return fmt.Errorf("admin server: %w", err)
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.closed = true
	close(s.news) // who waits for events is answered
	s.news = make(chan struct{})
	s.mu.Unlock()
	shutdown, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := srv.Shutdown(shutdown)
	if err != nil {
		err = errors.Join(err, srv.Close())
	}
	if end := <-ended; !errors.Is(end, http.ErrServerClosed) {
		err = errors.Join(err, end)
	}
	return err
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Strict-Transport-Security", "max-age=31536000")
	s.mux.ServeHTTP(w, r)
}

// MakeDir makes a directory for a server's files, or checks that nobody else reads
// it.
func MakeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("directory %s is open to others (mode %04o): it will hold keys; chmod 700 it", dir, info.Mode().Perm())
	}
	return nil
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"code":"internal","message":"the answer cannot be written"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(data, '\n')) // the client may be gone
}
