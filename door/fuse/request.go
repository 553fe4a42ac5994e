package fuse

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/massif-fs/massif/vfs"
)

// request is what the door needs during one message of the kernel: the context
// given to the tree, the caller, and room for results. Requests are pooled: a
// tree keeps neither the context nor the buffers (see vfs).
type request struct {
	door   *door
	op     int
	ino    uint64
	name   string
	cancel <-chan struct{}
	start  time.Duration // since the door's epoch
	bytes  int
	err    error
	caller vfs.Caller

	attr   vfs.Attr
	set    vfs.SetAttr
	statfs vfs.StatFS
	learnt []uint64 // inode numbers that a directory listing tells the kernel
	parent vfs.Attr
}

var requestPool = sync.Pool{New: func() any { return new(request) }}

// begin opens a request. Each handler pairs it with a deferred end.
func (d *door) begin(op int, cancel <-chan struct{}, h *gofuse.InHeader, name string) *request {
	r := requestPool.Get().(*request)
	r.door = d
	r.op = op
	r.ino = h.NodeId
	r.name = name
	r.cancel = cancel
	r.bytes = 0
	r.err = nil
	r.caller = vfs.Caller{UID: h.Uid, GID: h.Gid, PID: h.Pid}
	r.start = d.now()
	d.inflight.Add(1)
	d.lastRequest.Store(int64(r.start))
	return r
}

// end closes a request: it turns r.err into the reply's status, counts and logs.
// A panic of the handler becomes EIO for this request alone.
func (r *request) end(code *gofuse.Status) {
	d := r.door
	reusable := true
	if p := recover(); p != nil {
		reusable = false // somebody may still hold it
		r.err = vfs.WithErrno(syscall.EIO, fmt.Errorf("panic: %v", p))
		d.panics.Add(1)
		d.log.Error("panic in the file system", "op", OpName(r.op), "ino", r.ino, "name", r.name,
			"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	}
	var errno syscall.Errno
	if r.err != nil {
		errno = vfs.ErrnoOf(r.err)
		if unexpected(errno) {
			d.complaints.report(d.log, r, errno)
		}
	}
	*code = gofuse.Status(errno)
	took := d.now() - r.start
	d.counts[r.op].add(took, r.bytes, errno)
	if d.opts.Recorder != nil {
		d.opts.Recorder.Record(r.op, took, r.bytes, errno)
	}
	if log := d.accessLog.Load(); log != nil {
		(*log)(&Access{
			Op: r.op, Ino: r.ino, Name: r.name, UID: r.caller.UID, GID: r.caller.GID, PID: r.caller.PID,
			Start: d.epoch.Add(r.start), Duration: took, Bytes: r.bytes, Errno: errno,
		})
	}
	d.inflight.Add(-1)
	if !reusable {
		return
	}
	r.cancel = nil
	r.err = nil
	r.name = ""
	if cap(r.learnt) > 4096 {
		r.learnt = nil
	}
	requestPool.Put(r)
}

// A request is the context of its tree calls: done when the kernel says that the
// caller was interrupted, or the connection died.

var _ context.Context = (*request)(nil)

// Deadline implements context.Context: there is none.
func (r *request) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements context.Context.
func (r *request) Done() <-chan struct{} { return r.cancel }

// Err implements context.Context.
func (r *request) Err() error {
	select {
	case <-r.cancel:
		return context.Canceled
	default:
		return nil
	}
}

// Value implements context.Context: there are none.
func (r *request) Value(any) any { return nil }
