package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/pebble"
	"github.com/massif-fs/massif/telemetry"
)

// RunOptions say how Start starts a server with its database in a directory.
type RunOptions struct {
	// Dir holds the database (db), the authority (ca.crt, ca.key). Mode 0700; it is made
	// if it is not there.
	Dir               string
	Listen            string // HOST:PORT
	Hosts             []string
	CertFile, KeyFile string
	Version           string
	Logger            *slog.Logger
	Metrics           *telemetry.Telemetry // as in Config
}

// Running is a server with its database and its listener.
type Running struct {
	*Server
	db       kv.DB
	listener net.Listener
}

// cacheBytes is the memory of the database: it is small.
const cacheBytes = 8 << 20

// Start opens a server and listens. It answers once Run is called; either Run or
// Close must be.
func Start(ctx context.Context, o RunOptions) (r *Running, err error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if err := MakeDir(o.Dir); err != nil {
		return nil, fmt.Errorf("admin server: %w", err)
	}
	r = &Running{}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	r.db, err = pebble.Open(filepath.Join(o.Dir, "db"), pebble.Options{CacheBytes: cacheBytes, MemTableBytes: cacheBytes / 2, Logger: o.Logger})
	if errors.Is(err, kv.ErrLocked) {
		return r, fmt.Errorf("admin server: another process has the database in %s open", o.Dir)
	}
	if err != nil {
		return r, fmt.Errorf("admin server: %w", err)
	}
	r.Server, err = New(ctx, Config{DB: r.db, Dir: o.Dir, Hosts: o.Hosts, CertFile: o.CertFile, KeyFile: o.KeyFile, Version: o.Version, Logger: o.Logger, Metrics: o.Metrics})
	if err != nil {
		return r, fmt.Errorf("admin server: %w", err)
	}
	if o.Listen == "" {
		return r, nil // for who only wants the database
	}
	r.listener, err = net.Listen("tcp", o.Listen)
	switch {
	case errors.Is(err, syscall.EACCES):
		return r, fmt.Errorf("admin server: port of %s: only root may listen there; choose another with --listen HOST:PORT", o.Listen)
	case errors.Is(err, os.ErrInvalid):
		return r, fmt.Errorf("admin server: --listen %s: write HOST:PORT", o.Listen)
	case err != nil:
		return r, fmt.Errorf("admin server: %w", err)
	}
	return r, nil
}

// Addr is where the server listens.
func (r *Running) Addr() net.Addr { return r.listener.Addr() }

// Run answers until ctx is done, and closes everything.
func (r *Running) Run(ctx context.Context) error {
	err := r.Serve(ctx, r.listener)
	r.listener = nil // closed by Serve
	return errors.Join(err, r.Close())
}

// Close closes what Run would have closed.
func (r *Running) Close() error {
	var errs []error
	if r.listener != nil {
		errs = append(errs, r.listener.Close())
	}
	if r.db != nil {
		errs = append(errs, r.db.Close())
	}
	r.listener, r.db = nil, nil
	return errors.Join(errs...)
}
