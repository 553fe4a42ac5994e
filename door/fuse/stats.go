package fuse

import (
	"sync/atomic"
	"syscall"
	"time"
)

// opCounter counts the requests of one operation.
type opCounter struct {
	count, errors, bytes atomic.Uint64
	nanos                atomic.Int64
	_                    [32]byte
}

func (c *opCounter) add(d time.Duration, bytes int, errno syscall.Errno) {
	c.count.Add(1)
	c.nanos.Add(int64(d))
	if bytes != 0 {
		c.bytes.Add(uint64(bytes))
	}
	if errno != 0 {
		c.errors.Add(1)
	}
}

// Stats is a snapshot of what a mount has done and holds.
type Stats struct {
	Mountpoint string `json:"mountpoint"`
	// How the mount works.
	Stateless      bool   `json:"stateless"`
	WritebackCache bool   `json:"writeback_cache"`
	Passthrough    bool   `json:"passthrough"`
	ACL            bool   `json:"acl"`
	ReadOnly       bool   `json:"read_only"`
	KernelMinor    uint32 `json:"kernel_minor"` // of the kernel's protocol 7.x
	// Features are those agreed on with the kernel, by the names of package kernel.
	Features []string `json:"features"`
	Readers  int      `json:"readers"` // goroutines that read from the kernel

	InFlight  int64         `json:"in_flight"`  // requests
	Idle      time.Duration `json:"idle_ns"`    // since the last request
	Nodes     int           `json:"nodes"`      // inodes the kernel knows
	Handles   int           `json:"handles"`    // open files and directories
	OpenFiles int64         `json:"open_files"` // Files kept for a stateless mount
	Panics    uint64        `json:"panics"`

	// Notifications sent to the kernel, and how often everything was dropped
	// because single ones would have been too many or too late.
	Invalidations    uint64 `json:"invalidations"`
	InvalidationsAll uint64 `json:"invalidations_all"`

	Ops []OpStats `json:"ops"` // those that came at all
}

// OpStats are the totals of one operation.
type OpStats struct {
	Op     string        `json:"op"`
	Count  uint64        `json:"count"`
	Errors uint64        `json:"errors"`
	Bytes  uint64        `json:"bytes,omitempty"`
	Time   time.Duration `json:"time_ns"` // sum of all
}

// Stats takes a snapshot.
func (s *Server) Stats() Stats {
	d := s.door
	st := Stats{
		Mountpoint: s.mountpoint,
		Stateless:  d.stateless, WritebackCache: d.writeback, Passthrough: d.passthrough, ACL: d.acl,
		ReadOnly: d.readOnly, KernelMinor: d.kernelMinor,
		Features: d.conn.Init().Features.Names(), Readers: d.conn.Reading(),
		InFlight: d.inflight.Load(), Idle: d.now() - time.Duration(d.lastRequest.Load()),
		Nodes: int(d.nodes.total.Load()), Handles: d.handles.count(), OpenFiles: d.nodes.files.Load(), Panics: d.panics.Load(),
		Invalidations: d.notify.sent.Load(), InvalidationsAll: d.notify.all.Load(),
	}
	for op := range d.counts {
		c := &d.counts[op]
		if n := c.count.Load(); n > 0 {
			st.Ops = append(st.Ops, OpStats{
				Op: OpName(op), Count: n, Errors: c.errors.Load(), Bytes: c.bytes.Load(),
				Time: time.Duration(c.nanos.Load()),
			})
		}
	}
	return st
}
