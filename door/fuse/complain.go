package fuse

import (
	"log/slog"
	"sync"
	"syscall"
	"time"
)

// unexpected tells errors that an administrator should hear of from the ordinary
// answers to programs (ENOENT, EEXIST, ENOTEMPTY, …).
func unexpected(e syscall.Errno) bool {
	switch e {
	case syscall.EIO, syscall.EREMOTEIO, syscall.ETIMEDOUT, syscall.ENOTCONN, syscall.ECONNREFUSED, syscall.ECONNRESET,
		syscall.ECONNABORTED, syscall.EHOSTUNREACH, syscall.EHOSTDOWN, syscall.ENETUNREACH, syscall.ENETDOWN,
		syscall.EUCLEAN, syscall.EBADMSG, syscall.EPROTO, syscall.ENOMEM, syscall.ENFILE, syscall.EMFILE,
		syscall.ENOSPC, syscall.EDQUOT, syscall.EKEYREJECTED, syscall.EKEYEXPIRED, syscall.ENOKEY, syscall.ESHUTDOWN:
		return true
	}
	return false
}

// complaintEvery is how often one kind of failure is logged.
const complaintEvery = 10 * time.Second

// complaints logs failures, one line per kind (operation and errno) and interval.
type complaints struct {
	mu    sync.Mutex
	kinds map[complaint]*complaintState // bounded: OpCount × errnos of unexpected
}

type complaint struct {
	op    int
	errno syscall.Errno
}

type complaintState struct {
	logged     time.Duration
	suppressed int
}

// complain logs a failure of the door's own dealings with the kernel.
func (d *door) complain(what string, errno syscall.Errno) {
	if ok, suppressed := d.complaints.due(complaint{-1, errno}, d.now()); ok {
		d.log.Warn("fuse: "+what+" failed", "errno", errno.Error(), "unlogged", suppressed)
	}
}

func (c *complaints) report(log *slog.Logger, r *request, errno syscall.Errno) {
	ok, suppressed := c.due(complaint{r.op, errno}, r.door.now())
	if !ok {
		return
	}
	args := []any{"op", OpName(r.op), "ino", r.ino, "errno", errno.Error(), "cause", r.err.Error()}
	if r.name != "" {
		args = append(args, "name", r.name)
	}
	if suppressed > 0 {
		args = append(args, "unlogged", suppressed)
	}
	log.Error("file system request failed", args...)
}

// due tells whether a failure of this kind may be logged now, and how many were
// not since the last time.
func (c *complaints) due(key complaint, now time.Duration) (ok bool, suppressed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.kinds[key]
	if s == nil {
		if c.kinds == nil {
			c.kinds = make(map[complaint]*complaintState)
		}
		s = &complaintState{}
		c.kinds[key] = s
	} else if now-s.logged < complaintEvery {
		s.suppressed++
		return false, 0
	}
	suppressed = s.suppressed
	s.logged, s.suppressed = now, 0
	return true, suppressed
}
