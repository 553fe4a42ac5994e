package bucket

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// queue are the nodes that have something to store, and when.
type queue struct {
	mu     sync.Mutex
	jobs   map[*node]*job
	wakeup chan struct{}
	done   bool
}

// dirTimesDelay is how long a directory's new times wait to be stored: they change often, and
// are worth little.
const dirTimesDelay = 30 * time.Second

type job struct {
	due   time.Time
	tries int
	err   error // of the last try
	busy  bool
	again bool
}

func (q *queue) init() {
	q.jobs = make(map[*node]*job)
	q.wakeup = make(chan struct{}, 1)
}

func (q *queue) poke() {
	select {
	case q.wakeup <- struct{}{}:
	default:
	}
}

// add has a node stored after a while.
func (q *queue) add(fs *FS, n *node, after time.Duration) {
	fs.mu.Lock()
	if n.gone || fs.closed {
		fs.mu.Unlock()
		return
	}
	n.queued = true
	fs.unidle(n)
	fs.mu.Unlock()
	q.addLocked(n, after)
}

// addLocked is add for a node that is noted as queued.
func (q *queue) addLocked(n *node, after time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if j := q.jobs[n]; j != nil {
		j.again = true
		if due := time.Now().Add(after); j.tries == 0 && due.Before(j.due) {
			j.due = due
			q.poke()
		}
		return
	}
	q.jobs[n] = &job{due: time.Now().Add(after)}
	q.poke()
}

// failed has a node tried again later.
func (q *queue) failed(fs *FS, n *node, err error) {
	q.add(fs, n, fs.cfg.RetryMost)
	q.mu.Lock()
	defer q.mu.Unlock()
	if j := q.jobs[n]; j != nil {
		j.tries++
		j.err = err
		j.due = time.Now().Add(min(fs.cfg.RetryMost, time.Second<<min(j.tries, 10)/2))
		q.poke()
	}
}

// remove takes a node out that has nothing more to store.
func (q *queue) remove(fs *FS, n *node) {
	if fs.unsaved(n) {
		return
	}
	q.mu.Lock()
	_, there := q.jobs[n]
	delete(q.jobs, n)
	q.poke() // who waits for the end
	q.mu.Unlock()
	if there {
		fs.mu.Lock()
		n.queued = false
		fs.settle(n)
		fs.mu.Unlock()
	}
}

func (q *queue) count() (all, failing int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, j := range q.jobs {
		if j.err != nil {
			failing++
		}
	}
	return len(q.jobs), failing
}

func (q *queue) close() {
	q.mu.Lock()
	q.done = true
	q.mu.Unlock()
	q.poke()
}

// drain stores everything at once.
func (q *queue) drain(ctx context.Context, store func(*node) error) error {
	for ctx.Err() == nil {
		q.mu.Lock()
		var nodes []*node
		for n := range q.jobs {
			nodes = append(nodes, n)
		}
		q.mu.Unlock()
		if len(nodes) == 0 {
			return nil
		}
		var group errgroup.Group
		group.SetLimit(8)
		for _, n := range nodes {
			group.Go(func() error {
				err := store(n)
				if errors.Is(err, errYield) || errors.Is(err, syscall.ESTALE) {
					return nil // the one comes again, the other is told and gone
				}
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// runQueue stores what is due.
func (fs *FS) runQueue() {
	q := &fs.queue
	slots := make(chan struct{}, fs.cfg.Uploads)
	var group sync.WaitGroup
	defer group.Wait()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := time.Now()
		next := time.Hour
		q.mu.Lock()
		if q.done {
			q.mu.Unlock()
			return
		}
		for n, j := range q.jobs {
			switch wait := j.due.Sub(now); {
			case j.busy:
			case wait > 0:
				next = min(next, wait)
			default:
				select {
				case slots <- struct{}{}:
				default:
					continue
				}
				j.busy, j.again = true, false
				group.Go(func() {
					defer func() { <-slots; q.poke() }()
					err := fs.storeNode(fs.ctx, n, false)
					if err != nil && !errors.Is(err, errYield) && fs.ctx.Err() == nil {
						fs.log.Warn("upload", "err", err)
					}
					q.mu.Lock()
					if j := q.jobs[n]; j != nil {
						j.busy = false
						if errors.Is(err, errYield) {
							j.due = time.Now().Add(fs.cfg.AttrDelay)
						}
					}
					q.mu.Unlock()
					if err == nil {
						q.remove(fs, n)
					}
				})
			}
		}
		q.mu.Unlock()
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-q.wakeup:
		}
	}
}
