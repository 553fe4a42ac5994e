package managed

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/massif-fs/massif/meta/metarpc"
	"github.com/massif-fs/massif/telemetry"
	"github.com/massif-fs/massif/vfs"
)

// How the server is watched: figures for Config.Metrics, and Health.
//
// Labels of figures are names of volumes and operations, and errnos: never what a
// client has sent.

// Stats are the figures of a server that are of no single volume. What ends in Total
// counts from Start on.
type Stats struct {
	VolumesWanted  int  `json:"volumesWanted"` // that the admin server has assigned
	VolumesServed  int  `json:"volumesServed"`
	VolumesWaiting int  `json:"volumesWaiting"` // that wait for their first passphrase
	AdminHeard     bool `json:"adminHeard"`     // the admin server answers

	ReceivedBytes int64 `json:"receivedBytesTotal"` // of the metadata protocol, within TLS
	SentBytes     int64 `json:"sentBytesTotal"`
	// AuthRefused are clients with a token that is not good; AuthUnknown those of whose
	// token nobody could tell, because the admin server was away.
	AuthRefused int64 `json:"authRefusedTotal"`
	AuthUnknown int64 `json:"authUnknownTotal"`
}

// Stats returns the figures.
func (s *Server) Stats() Stats {
	st := Stats{
		AdminHeard: !s.link.away.Load(), ReceivedBytes: s.traffic.received.Load(), SentBytes: s.traffic.sent.Load(),
		AuthRefused: s.traffic.refused.Load(), AuthUnknown: s.traffic.unknown.Load(),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, w := range s.wanted {
		if w.Volume.Retired != nil {
			continue
		}
		st.VolumesWanted++
		switch {
		case s.open[id] != nil:
			st.VolumesServed++
		case errors.Is(s.errs[id], errNotSealed):
			st.VolumesWaiting++
		}
	}
	return st
}

// Health is nil while the server serves all volumes that are its own; else it says
// what is wrong. A volume that waits for its passphrase, and an admin server that is
// away, are nothing wrong.
func (s *Server) Health() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errors.New("the metadata server goes down")
	}
	var wrong []string
	open := map[string]*served{} // by name
	for id, w := range s.wanted {
		switch err := s.errs[id]; {
		case w.Volume.Retired != nil || errors.Is(err, errNotSealed):
		case err != nil && s.open[id] == nil: // it names the volume
			wrong = append(wrong, err.Error())
		case err != nil:
			wrong = append(wrong, fmt.Sprintf("volume %s: its settings are not those of the admin server: %v", w.Volume.Name, err))
		case s.open[id] == nil:
			wrong = append(wrong, fmt.Sprintf("volume %s: it is being opened", w.Volume.Name))
		default:
			open[w.Volume.Name] = s.open[id]
		}
	}
	s.mu.Unlock()
	for name, v := range open { // one that is closed meanwhile has no figures
		switch m := v.db.Metrics(); {
		case m.Failed != "":
			wrong = append(wrong, fmt.Sprintf("volume %s: its database has failed: %s", name, m.Failed))
		case m.Full:
			wrong = append(wrong, fmt.Sprintf("volume %s: the disk of its database is full", name))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	slices.Sort(wrong)
	if n := len(wrong) - 1; n > 0 {
		return fmt.Errorf("%s; and %d more", wrong[0], n)
	}
	return errors.New(wrong[0])
}

// ends lets Health say that the server goes down.
func (s *Server) ends() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// export gives the server's figures to t, which may be nil.
func (s *Server) export(t *telemetry.Telemetry) error {
	if t == nil {
		return nil
	}
	rpc, gate := s.rpc, s.gate
	for name, read := range map[string]func() any{
		"metad": func() any { return s.Stats() }, "rpc": func() any { return rpc.Stats() }, "block_gate": func() any { return gate.Stats() },
	} {
		if _, err := t.AddStats(name, nil, read); err != nil {
			return err
		}
	}
	return nil
}

// volumeStats are the figures of a served volume.
type volumeStats struct {
	Sessions      int   `json:"sessions"` // mounts
	UsedBytes     int64 `json:"usedBytes"`
	UsedInodes    int64 `json:"usedInodes"`
	PendingBlocks int   `json:"pendingBlocks"` // in the metadata, on their way to the store
}

// export gives the volume's figures to t, which may be nil, until the volume is closed.
// They bear the name that the volume has now.
func (v *served) export(t *telemetry.Telemetry, name string) error {
	if t == nil {
		return nil
	}
	calls := telemetry.NewOps(metarpc.OpNames())
	v.rpc.Observe = func(op int, took time.Duration, bytes int, err error) {
		if err == nil {
			calls.Record(op, took, bytes, 0)
		} else {
			calls.Record(op, took, bytes, vfs.ErrnoOf(err))
		}
	}
	labels := telemetry.Labels{"volume": name, "id": v.id} // a name may come again
	added := func(remove func(), err error) error {
		if err == nil {
			v.close = append(v.close, func() error { remove(); return nil })
		}
		return err
	}
	errs := []error{added(t.AddOps("rpc", labels, calls))}
	for part, read := range map[string]func() any{
		"volume": func() any {
			bytes, inodes := v.engine.Usage()
			return volumeStats{Sessions: v.sessions(), UsedBytes: bytes, UsedInodes: inodes, PendingBlocks: len(v.engine.PendingBlocks())}
		},
		"database": func() any { return v.db.Metrics() },
		"blocks":   func() any { return v.blocks.Stats() },
	} {
		errs = append(errs, added(t.AddStats(part, labels, read)))
	}
	return errors.Join(errs...)
}

// traffic counts what goes through the server.
type traffic struct {
	received, sent, refused, unknown atomic.Int64
}

// unauthenticated counts a client that was not let in.
func (t *traffic) unauthenticated(err error) {
	if vfs.ErrnoOf(err) == syscall.EACCES {
		t.refused.Add(1)
	} else {
		t.unknown.Add(1)
	}
}

// countedConn counts the bytes of a connection.
type countedConn struct {
	*tls.Conn
	t *traffic
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.t.received.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.t.sent.Add(int64(n))
	return n, err
}
