package metarpc

import (
	"sync/atomic"
	"time"
)

// Stats are the figures of a Server since NewServer; those without "Total" are of
// now.
type Stats struct {
	Sessions    int   `json:"sessions"`
	Connections int   `json:"connections"`
	Connected   int64 `json:"connectionsTotal"`
	Calls       int64 `json:"callsTotal"`
	Refused     int64 `json:"refusedTotal"`  // clients that were not let in, whatever the cause
	Resumed     int64 `json:"resumedTotal"`  // sessions that came back after a broken connection
	Restored    int64 `json:"restoredTotal"` // and after a restart of the server

	Leases              int64 `json:"leases"` // inodes with leases, of all sessions
	RecallsWaiting      int   `json:"recallsWaiting"`
	Recalls             int64 `json:"recallsTotal"`
	RecallsAcknowledged int64 `json:"recallsAcknowledgedTotal"`
	RecallsExpired      int64 `json:"recallsExpiredTotal"` // their client did not acknowledge in time
	// RecallWait is how long those that were acknowledged took together.
	RecallWait float64 `json:"recallWaitSecondsTotal"`
}

type recallCounters struct{ sent, acknowledged, expired, waited atomic.Int64 }

// Stats returns the figures.
func (s *Server) Stats() Stats {
	st := Stats{
		Connected: s.connections.Load(), Calls: s.calls.Load(), Refused: s.refused.Load(), Resumed: s.resumed.Load(), Restored: s.restored.Load(),
		Recalls: s.recalls.sent.Load(), RecallsAcknowledged: s.recalls.acknowledged.Load(), RecallsExpired: s.recalls.expired.Load(),
		RecallWait: time.Duration(s.recalls.waited.Load()).Seconds(),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Sessions, st.Connections = len(s.sessions), len(s.conns)
	for _, ss := range s.sessions {
		ss.leases.mu.Lock()
		st.RecallsWaiting += len(ss.leases.recalls)
		ss.leases.mu.Unlock()
		if ss.leasing {
			st.Leases += ss.ms.LeaseCount()
		}
	}
	return st
}

// OpNames are the names of the operations, by the numbers that Volume.Observe gets;
// empty where there is none.
func OpNames() []string {
	names := make([]string, len(ops))
	for i := range ops {
		names[i] = ops[i].name
	}
	return names
}

// observed tells Volume.Observe of a call that began at a time of nanotime; 0: nobody
// wants to know.
func (ss *session) observed(o op, began int64, bytes int, err error) {
	if began != 0 {
		ss.vol.Observe(int(o), time.Duration(nanotime()-began), bytes, err)
	}
}

// begun is when a call begins, for observed.
func (ss *session) begun() int64 {
	if ss.vol.Observe == nil {
		return 0
	}
	return nanotime()
}
