package managed

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/massif-fs/massif/internal/atomicfile"
	"github.com/massif-fs/massif/service/admin"
	"github.com/massif-fs/massif/service/admin/adminapi"
)

// state is what the admin server said last, kept in a file so that the metadata server
// can be started while the admin server is away: its volumes, and its own certificate.
type state struct {
	cfg  Config
	path string

	mu   sync.Mutex
	file stateFile
	cert *tls.Certificate
}

// stateFile holds secrets: keys of stores, and of the certificate.
type stateFile struct {
	Served *adminapi.ServedVolumes `json:"served"`
	Chain  string                  `json:"chain"` // PEM
	Key    string                  `json:"key"`   // PEM
}

const (
	renewBefore = 30 * 24 * time.Hour
	renewPause  = time.Hour
)

// openState asks the admin server, or reads what it said before.
func openState(ctx context.Context, cfg Config) (*state, error) {
	if err := admin.MakeDir(cfg.Dir); err != nil {
		return nil, err
	}
	s := &state{cfg: cfg, path: filepath.Join(cfg.Dir, "state.json")}
	data, err := os.ReadFile(s.path)
	switch {
	case err == nil:
		if err := json.Unmarshal(data, &s.file); err != nil {
			return nil, fmt.Errorf("%s: %w", s.path, err)
		}
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	served, err := cfg.Admin.Served(ctx)
	if err == nil {
		if s.file.Served != nil && s.file.Served.Server.ID != served.Server.ID {
			return nil, fmt.Errorf("directory %s is that of the metadata server %s, the token that of %s", cfg.Dir, s.file.Served.Server.Name, served.Server.Name)
		}
		if err := s.keep(served); err != nil {
			return nil, err
		}
		if s.due() {
			err = s.certify(ctx)
		}
	}
	refused := adminapi.IsCode(err, adminapi.CodeUnauthorized, adminapi.CodeForbidden)
	if err != nil && (refused || s.cert == nil || s.file.Served == nil) {
		return nil, err
	}
	if err != nil {
		cfg.Logger.Warn("the admin server is away: serving what it said last", "err", err)
	}
	return s, nil
}

func (s *state) served() *adminapi.ServedVolumes {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file.Served
}

// keep remembers what the admin server says.
func (s *state) keep(v *adminapi.ServedVolumes) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file.Served = v
	return s.write()
}

// write writes the file; s.mu is held.
func (s *state) write() error {
	data, err := json.Marshal(&s.file)
	if err != nil {
		return err
	}
	return atomicfile.Write(s.path, data, 0o600)
}

// load makes the certificate of the file's text.
func (s *state) load() error {
	if s.file.Chain == "" {
		return nil
	}
	cert, err := tls.X509KeyPair([]byte(s.file.Chain), []byte(s.file.Key))
	if err != nil {
		return fmt.Errorf("certificate in %s: %w", s.path, err)
	}
	s.cert = &cert
	return nil
}

// due tells whether a new certificate is needed.
func (s *state) due() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cert == nil || time.Until(s.cert.Leaf.NotAfter) < renewBefore
}

// certify gets a certificate for a new key.
func (s *state) certify(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	cert, err := s.cfg.Admin.Certify(ctx, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})))
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file.Chain, s.file.Key = cert.Chain, string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	if err := s.load(); err != nil {
		return err
	}
	return s.write()
}

// renew renews the certificate in time, until ctx is done.
func (s *state) renew(ctx context.Context) {
	t := time.NewTicker(renewPause)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if s.due() {
			if err := s.certify(ctx); err != nil && ctx.Err() == nil {
				s.cfg.Logger.Warn("the certificate is not renewed yet", "err", err)
			}
		}
	}
}

// certificate is tls.Config.GetCertificate.
func (s *state) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cert, nil
}
