package fuse

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/massif-fs/massif/door/fuse/kernel"
	"github.com/massif-fs/massif/vfs"
)

// request is what the door needs during one message of the kernel: the context
// given to the tree, the caller, and room for results. It lives with its
// kernel.Request and is used again for the next message: a tree keeps neither the
// context nor the buffers (see vfs).
type request struct {
	door   *door
	q      *kernel.Request
	op     int
	ino    uint64
	name   string
	cancel <-chan struct{} // closed when the kernel says that the caller was interrupted
	prompt bool            // an interrupt counts at once (see interruptGrace)
	start  time.Duration   // since the door's epoch
	bytes  int
	err    error
	caller vfs.Caller

	attr   vfs.Attr
	set    vfs.SetAttr
	statfs vfs.StatFS
	learnt []*kernel.EntryOut // inodes that a directory listing tells the kernel

	recalls uint64   // recallLog.seq at the beginning
	locking []uint64 // directories counted in door.locked
	parent  vfs.Attr

	mu   sync.Mutex    // guards done and over
	done chan struct{} // made when somebody asks for it
	over chan struct{} // closed at the end of the request
}

// interruptGrace is how long a request may run before an interrupt ends it. Any
// signal that a program handles interrupts its system calls (the Go runtime sends
// such signals all the time), and local file systems do not answer EINTR to
// unlink or read: programs do not expect it. So an interrupt ends only what
// takes long, such as waiting for a store that does not answer, and, at once, the
// wait for a lock.
const interruptGrace = time.Second

// begin opens a request. Each handler pairs it with a deferred end.
func (d *door) begin(op int, q *kernel.Request, name string) *request {
	r, ok := q.Local.(*request)
	if !ok {
		r = &request{door: d, q: q}
		q.Local = r
	}
	r.op = op
	r.ino = q.NodeID
	r.name = name
	r.cancel = q.Interrupted()
	r.prompt = false
	r.bytes = 0
	r.err = nil
	r.caller = vfs.Caller{UID: q.UID, GID: q.GID, PID: q.PID}
	r.start = q.Start
	d.inflight.Add(1)
	d.lastRequest.Store(int64(r.start))
	if d.leases != nil {
		r.beginLeased()
	}
	return r
}

// end closes a request: it turns r.err into the reply's status, counts and logs.
// A panic of the handler becomes EIO for this request alone.
func (r *request) end(code *syscall.Errno) {
	d := r.door
	if p := recover(); p != nil {
		r.q.Local = nil // somebody may still hold it
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
	*code = errno
	took := d.now() - r.start
	r.q.Took = took
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
	if len(r.locking) > 0 {
		r.endLeased()
	}
	d.inflight.Add(-1)
	r.finish()
	r.err = nil
	r.name = ""
	if cap(r.learnt) > 4096 {
		r.learnt = nil
	}
}

// finish lets go of whoever waits for an interrupt of the request.
func (r *request) finish() {
	r.mu.Lock()
	if r.over != nil {
		close(r.over)
	}
	r.done, r.over = nil, nil
	r.mu.Unlock()
}

// A request is the context of its tree calls: done when the kernel says that the
// caller was interrupted (after the grace), or the connection died.

var _ context.Context = (*request)(nil)

// Deadline implements context.Context: there is none.
func (r *request) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements context.Context. Only what blocks asks for it, so that most
// requests need no goroutine.
func (r *request) Done() <-chan struct{} {
	if r.prompt || r.cancel == nil {
		return r.cancel
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil {
		r.done, r.over = make(chan struct{}), make(chan struct{})
		cancel, done, over, door, ripe := r.cancel, r.done, r.over, r.door, r.start+interruptGrace
		door.waiters.Go(func() {
			select {
			case <-over:
				return
			case <-cancel:
			}
			timer := time.NewTimer(ripe - door.now())
			defer timer.Stop()
			select {
			case <-over:
			case <-timer.C:
				close(done)
			}
		})
	}
	return r.done
}

// AfterFunc is what package context asks of contexts of other make, so that those
// derived from this one (context.WithTimeout, …) do not look at it after its end,
// when it may be another request's.
func (r *request) AfterFunc(f func()) (stop func() bool) {
	done := r.Done()
	if done == nil {
		return func() bool { return true }
	}
	r.mu.Lock()
	if r.over == nil {
		r.over = make(chan struct{})
	}
	over := r.over
	r.mu.Unlock()
	var settled atomic.Bool
	stopped := make(chan struct{})
	r.door.waiters.Go(func() {
		select {
		case <-done:
			if settled.CompareAndSwap(false, true) {
				f()
			}
		case <-over:
		case <-stopped:
		}
	})
	return func() bool {
		if !settled.CompareAndSwap(false, true) {
			return false
		}
		close(stopped)
		return true
	}
}

// Err implements context.Context.
func (r *request) Err() error {
	select {
	case <-r.cancel:
		if r.prompt || r.door.now() >= r.start+interruptGrace {
			return context.Canceled
		}
	default:
	}
	return nil
}

// Value implements context.Context: there are none.
func (r *request) Value(any) any { return nil }
