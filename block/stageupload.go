package block

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/massif-fs/massif/internal/crashpoint"
)

const (
	firstBackoff = 200 * time.Millisecond
	longestHold  = 30 * time.Second
)

// backoff is how long to wait after n failures in a row: full jitter.
func backoff(n int) time.Duration {
	most := min(longestHold, firstBackoff<<min(n, 16))
	return most/4 + rand.N(most)*3/4
}

// uploader takes due blocks from the queue and uploads them, several at a time. It
// never gives up: while the store is down it tries again, less and less often.
func (g *stage) uploader() {
	defer g.wg.Done()
	slots := make(chan struct{}, cap(g.s.uploads))
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case slots <- struct{}{}:
		case <-g.ctx.Done():
			g.settle(slots)
			return
		}
		for {
			e, wait := g.due()
			if e != nil {
				go func() {
					g.uploadOne(e)
					<-slots
				}()
				break
			}
			timer.Reset(wait)
			select {
			case <-g.ctx.Done():
				<-slots
				g.settle(slots)
				return
			case <-g.wakeUpload:
			case <-timer.C:
			}
		}
	}
}

// settle waits for the uploads in progress.
func (g *stage) settle(slots chan struct{}) {
	for range cap(slots) {
		slots <- struct{}{}
	}
}

// due takes the next block from the queue, or says how long none will be due.
func (g *stage) due() (*staged, time.Duration) {
	const never = time.Hour
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if now.Before(g.hold) {
		return nil, g.hold.Sub(now)
	}
	hurry := g.draining > 0 || g.waiters.Len() > 0 || g.used > g.max/2
	wait := never
	for el := g.queue.Front(); el != nil; el = el.Next() {
		e := el.Value.(*staged)
		at := e.notBefore
		if !hurry && at.Before(e.since.Add(g.maxAge)) {
			at = e.since.Add(g.maxAge)
		}
		if !now.Before(at) {
			g.queue.Remove(el)
			e.elem = nil
			e.seg.refs++
			return e, 0
		}
		wait = min(wait, at.Sub(now))
		if e.attempts == 0 {
			break // those behind it are younger
		}
	}
	return nil, wait
}

// uploadOne moves a block to the object store, or puts it back into the queue.
func (g *stage) uploadOne(e *staged) {
	src := stageSource{g, e}
	err := g.s.verify(g.ctx, src, e.r, false)
	bad := errors.Is(err, errDamaged)
	if err == nil {
		body := io.NewSectionReader(e.seg.file, e.off, e.length)
		err = g.s.upload(g.ctx, e.id, body, e.length)
		crashpoint.Hit("stage.upload.after")
	}
	if bad {
		err = errors.Join(err, g.setAside(e))
	}
	src.release() // before the block is done with: then its segment's space is free at once
	g.mu.Lock()
	defer wake(g.wakeCommit)
	defer g.mu.Unlock()
	switch {
	case e.superseded:
		g.finish(e, 0) // a note would speak about the later copy
	case bad:
		g.damaged++
		g.log.Error("write-back stage: a staged block is damaged on the local disk and was set aside; its data is lost",
			"block", uint64(e.id), "segment", e.seg.file.Name(), "error", err)
		g.finish(e, noteDamaged)
	case err == nil:
		g.failures, g.hold, g.lastErr = 0, time.Time{}, nil
		g.uploaded++
		g.finish(e, noteUploaded)
	case e.deleted:
		g.finish(e, noteDeleted)
	case g.ctx.Err() != nil:
		// The stage closes; the next one finds the block.
	default:
		e.attempts++
		g.failures++
		g.hold = time.Now().Add(backoff(g.failures))
		e.notBefore = time.Now().Add(backoff(e.attempts))
		if g.lastErr == nil {
			g.log.Warn("write-back stage: blocks cannot be uploaded; they stay on the local disk", "blocks", len(g.blocks), "error", err)
		}
		g.lastErr, g.lastFail = err, time.Now()
		e.elem = g.queue.PushFront(e) // where those that failed are
	}
	wake(g.wakeUpload)
}

// setAside keeps the bytes of a damaged block for people.
func (g *stage) setAside(e *staged) error {
	name := fmt.Sprintf("block-%016x-segment-%016x", uint64(e.id), e.seg.num)
	return g.aside(e.seg.file, e.off, e.length, name)
}

func (g *stage) aside(f *os.File, off, length int64, name string) error {
	dir := filepath.Join(g.dir, "damaged")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.NewSectionReader(f, off, length))
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}

// StageHasBlocks tells whether a directory holds a stage with segments: blocks that
// may not be in the object store yet. A volume that was staged there must be
// opened with that stage again, or it misses them.
func StageHasBlocks(dir string) (bool, error) {
	names, err := filepath.Glob(filepath.Join(dir, "segment-*"))
	return len(names) > 0, err
}
