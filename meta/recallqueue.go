package meta

import (
	"sync"

	"github.com/massif-fs/massif/vfs"
)

// RecallQueue calls a function with recalls: in order for each inode, at once for
// different ones.
type RecallQueue struct {
	fn    func(Recall)
	mu    sync.Mutex
	m     map[vfs.Ino]*recallLine
	ended bool
	tasks sync.WaitGroup
}

type recallLine struct{ todo []queuedRecall }

type queuedRecall struct {
	what Recall
	done func()
}

// NewRecallQueue makes a queue for fn. It has goroutines only while there are
// recalls.
func NewRecallQueue(fn func(Recall)) *RecallQueue {
	return &RecallQueue{fn: fn, m: make(map[vfs.Ino]*recallLine)}
}

// Add lets fn be called with r, and done after it. It does not wait. After Close
// done is called at once.
func (q *RecallQueue) Add(r Recall, done func()) {
	q.mu.Lock()
	if q.ended {
		q.mu.Unlock()
		done()
		return
	}
	defer q.mu.Unlock()
	line := q.m[r.Ino]
	if line != nil {
		line.todo = append(line.todo, queuedRecall{r, done})
		return
	}
	line = &recallLine{todo: []queuedRecall{{r, done}}}
	q.m[r.Ino] = line
	q.tasks.Go(func() { q.run(r.Ino, line) })
}

func (q *RecallQueue) run(ino vfs.Ino, line *recallLine) {
	for {
		q.mu.Lock()
		if len(line.todo) == 0 {
			delete(q.m, ino)
			q.mu.Unlock()
			return
		}
		x := line.todo[0]
		line.todo = line.todo[1:]
		q.mu.Unlock()
		q.fn(x.what)
		x.done()
	}
}

// Close waits for what was added; nothing is any more.
func (q *RecallQueue) Close() {
	q.mu.Lock()
	q.ended = true
	q.mu.Unlock()
	q.tasks.Wait()
}
