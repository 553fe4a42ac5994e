package volume

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/massif-fs/massif/vfs"
)

// counters of what the tree did, for Stats.
type counters struct {
	read, written, flushes, flushErrors, stalls atomic.Int64
}

// Stats is what the tree did since it was opened and what it holds now.
type Stats struct {
	BytesRead    int64 `json:"bytesRead"`
	BytesWritten int64 `json:"bytesWritten"`
	Flushes      int64 `json:"flushes"`
	FlushErrors  int64 `json:"flushErrors"`
	Stalls       int64 `json:"stalls"` // writes that had to wait for memory
	DirtyBytes   int64 `json:"dirtyBytes"`
	DirtyFiles   int   `json:"dirtyFiles"`
	// LastError is why the newest flush failed; empty if it worked.
	LastError string `json:"lastError,omitempty"`
}

// Stats returns a snapshot.
func (fs *FS) Stats() Stats {
	s := Stats{
		BytesRead: fs.stats.read.Load(), BytesWritten: fs.stats.written.Load(),
		Flushes: fs.stats.flushes.Load(), FlushErrors: fs.stats.flushErrors.Load(), Stalls: fs.stats.stalls.Load(),
		DirtyBytes: fs.dirtyBytes.Load(),
	}
	fs.dirtyMu.Lock()
	s.DirtyFiles = fs.dirtyNodes.Len()
	fs.dirtyMu.Unlock()
	if err := fs.lastError.Load(); err != nil {
		s.LastError = (*err).Error()
	}
	return s
}

const (
	// batchBytes and batchNodes bound what one flush of the flusher takes.
	batchBytes = 32 << 20
	batchNodes = 512
	// maxBackoff bounds the pause after failed flushes.
	maxBackoff = 10 * time.Second
)

// wakeFlusher lets the flusher look if there is work before the interval is over.
// The caller has just written to n.
func (fs *FS) wakeFlusher(n *node) {
	if fs.pressed() {
		fs.kickFlusher()
		return
	}
	n.mu.RLock()
	full := n.full
	n.mu.RUnlock()
	if full {
		fs.kickFlusher()
	}
}

func (fs *FS) kickFlusher() {
	select {
	case fs.kick <- struct{}{}:
	default:
	}
}

// pressed tells whether the dirty memory is so full that data should be flushed
// before its time.
func (fs *FS) pressed() bool { return fs.dirty.Used() > fs.cfg.DirtyLimit/4 }

// flusher flushes what is due, until the FS is closed.
func (fs *FS) flusher() {
	tick := time.NewTicker(max(fs.cfg.FlushInterval/4, 10*time.Millisecond))
	defer tick.Stop()
	backoff := time.Duration(0)
	for {
		select {
		case <-fs.ctx.Done():
			return
		case <-tick.C:
		case <-fs.kick:
		}
		for {
			n, err := fs.flushDue()
			if err != nil {
				backoff = min(max(2*backoff, 100*time.Millisecond), maxBackoff)
				fs.log.Warn("flush failed, data stays in memory and is tried again", "error", err, "pause", backoff, "dirtyBytes", fs.dirtyBytes.Load())
				select {
				case <-fs.ctx.Done():
					return
				case <-time.After(backoff):
				}
				continue
			}
			backoff = 0
			if n == 0 {
				break
			}
		}
	}
}

// flushDue flushes one batch of what is due and returns how many nodes it took.
func (fs *FS) flushDue() (int, error) {
	jobs, used := fs.due()
	defer func() {
		for _, n := range used {
			fs.drop(n)
		}
	}()
	if len(jobs) == 0 {
		return 0, nil
	}
	err := fs.flush(fs.ctx, jobs, false)
	for _, j := range jobs {
		if j.err != nil && fs.ctx.Err() == nil {
			j.n.mu.Lock()
			j.n.flushErr = j.err
			j.n.mu.Unlock()
		}
		j.n.flushMu.Unlock()
	}
	return len(jobs), err
}

// due freezes the dirty data that is old, or makes chunks full, or is in the way
// of more. The flushMu of each job's node is held; used are the nodes counted.
func (fs *FS) due() (jobs []*job, used []*node) {
	pressed := fs.pressed()
	old := time.Now().Add(-fs.cfg.FlushInterval)
	fs.dirtyMu.Lock()
	candidates := make([]*node, 0, min(fs.dirtyNodes.Len(), batchNodes))
	aged := 0
	for e := fs.dirtyNodes.Front(); e != nil && len(candidates) < batchNodes; e = e.Next() {
		n := e.Value.(*node)
		if n.unlinked.Load() && !pressed && !fs.shared {
			continue // likely to be gone before it needs a flush
		}
		candidates = append(candidates, n)
		if n.dirtySince.Before(old) {
			aged = len(candidates)
		}
	}
	fs.dirtyMu.Unlock()
	// A node of the list may have left it by now; being counted again it is still
	// the node of its inode, or another that is clean.
	var bytes int64
	for i, c := range candidates {
		n := fs.useIfPresent(c.ino)
		if n == nil {
			continue
		}
		used = append(used, n)
		n.mu.RLock()
		full := n.full
		n.mu.RUnlock()
		whole := i < aged || pressed
		if !whole && !full || !n.flushMu.TryLock() {
			continue
		}
		// A big file that is being written under pressure gives its full chunks
		// first; what is left over goes with its age or if that is not enough.
		var j *job
		if full && i >= aged {
			j = fs.freeze(n, true)
		}
		if j == nil && whole {
			j = fs.freeze(n, false)
		}
		if j == nil {
			n.flushMu.Unlock()
			continue
		}
		jobs = append(jobs, j)
		if bytes += j.bytes + int64(len(j.write.Inline)); bytes >= batchBytes {
			break
		}
	}
	return jobs, used
}

// flushAll flushes what was dirty when it was called.
func (fs *FS) flushAll(ctx context.Context) error {
	fs.dirtyMu.Lock()
	inos := make([]vfs.Ino, 0, fs.dirtyNodes.Len())
	for e := fs.dirtyNodes.Front(); e != nil; e = e.Next() {
		inos = append(inos, e.Value.(*node).ino)
	}
	fs.dirtyMu.Unlock()
	var errs []error
	for len(inos) > 0 {
		jobs, used, rest := fs.take(inos)
		if len(jobs) > 0 {
			if err := fs.flush(ctx, jobs, false); err != nil {
				errs = append(errs, err)
			}
		}
		for _, j := range jobs {
			j.n.flushMu.Unlock()
		}
		// Nodes that somebody else is flushing are waited for one by one.
		for _, n := range rest {
			if err := fs.flushNode(ctx, n); err != nil {
				errs = append(errs, err)
			}
		}
		inos = inos[len(used):]
		for _, n := range used {
			if n != nil {
				fs.drop(n)
			}
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// take freezes a batch of the given inodes: used has one entry for each inode it
// looked at (nil: clean), rest the nodes whose flushMu is taken.
func (fs *FS) take(inos []vfs.Ino) (jobs []*job, used, rest []*node) {
	var bytes int64
	for _, ino := range inos {
		n := fs.useIfPresent(ino)
		used = append(used, n)
		if n == nil {
			continue
		}
		if !n.flushMu.TryLock() {
			rest = append(rest, n)
			continue
		}
		j := fs.freeze(n, false)
		if j == nil {
			n.flushMu.Unlock()
			continue
		}
		jobs = append(jobs, j)
		if bytes += j.bytes + int64(len(j.write.Inline)); bytes >= batchBytes || len(jobs) == batchNodes {
			break
		}
	}
	return jobs, used, rest
}

// isGone tells whether err says that there is no such inode any more.
func isGone(err error) bool {
	errno := vfs.ErrnoOf(err)
	return errno == syscall.ESTALE || errno == syscall.ENOENT
}

// isFull tells whether err says that a quota or the store has no room.
func isFull(err error) bool {
	errno := vfs.ErrnoOf(err)
	return errno == syscall.ENOSPC || errno == syscall.EDQUOT
}
