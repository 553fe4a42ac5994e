package admin

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/pebble"
	"github.com/massif-fs/massif/service/admin/adminapi"
	"github.com/massif-fs/massif/telemetry"
)

// How the server is watched: figures for Config.Metrics, and Health. Labels are of
// routes and statuses: never what a client has sent.

// failures counts requests whose token is not good.
type failures struct{ refused, delayed atomic.Int64 }

// Stats are the figures of a server since New.
type Stats struct {
	// AuthRefused are requests with a token that is not good; AuthDelayed those whose
	// token was not looked at, as too many wrong ones had come from their address.
	AuthRefused int64 `json:"authRefusedTotal"`
	AuthDelayed int64 `json:"authDelayedTotal"`
}

// Stats returns the figures.
func (s *Server) Stats() Stats {
	return Stats{AuthRefused: s.failures.refused.Load(), AuthDelayed: s.failures.delayed.Load()}
}

// Health is nil while the server answers from its database; else it says what is
// wrong.
func (s *Server) Health(ctx context.Context) error {
	if _, closed := s.waitChannel(); closed {
		return errors.New("the admin server goes down")
	}
	err := s.db.View(ctx, func(r kv.Reader) error {
		return scan(r, adminapi.SchemaOf(adminapi.TableAccounts), "", func(adminapi.Entity) (bool, error) { return false, nil })
	})
	if err != nil {
		return fmt.Errorf("the admin server's database cannot be read: %w", err)
	}
	if db, ok := s.db.(*pebble.DB); ok {
		switch m := db.Metrics(); {
		case m.Failed != "":
			return fmt.Errorf("the admin server's database has failed: %s", m.Failed)
		case m.Full:
			return errors.New("the disk of the admin server's database is full")
		}
	}
	return nil
}

// export gives the server's figures to t, which may be nil.
func (s *Server) export(t *telemetry.Telemetry) (err error) {
	if t == nil {
		return nil
	}
	if s.requests, err = t.AddRequests("admin"); err != nil {
		return err
	}
	if db, ok := s.db.(*pebble.DB); ok {
		if _, err := t.AddStats("admin_database", nil, func() any { return db.Metrics() }); err != nil {
			return err
		}
	}
	_, err = t.AddStats("admin", nil, func() any { return s.Stats() })
	return err
}
