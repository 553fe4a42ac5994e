package vfs

import (
	"context"
	"sync"
)

// ChangeKind tells what changed.
type ChangeKind uint8

const (
	// ChangeEntry: Name in directory Parent was added, removed or means another
	// inode (Ino, 0 if removed).
	ChangeEntry ChangeKind = iota + 1
	// ChangeAttr: attributes of Ino other than size and data.
	ChangeAttr
	// ChangeData: bytes Off to Off+Len of Ino (Len < 0: to the end), and its size
	// and times.
	ChangeData
	// ChangeGone: Ino does not exist any more.
	ChangeGone
	// ChangeAll: anything may have changed.
	ChangeAll
)

// Change is something that changed in a tree.
type Change struct {
	Kind   ChangeKind
	Ino    Ino
	Parent Ino
	Name   string
	Off    int64
	Len    int64
	// Remote: the change did not come through this FS value (another mount, the
	// storage below), so whoever caches must drop what it has.
	Remote bool
	// Ack is not nil in the changes of LeaseFS.Recalls only: somebody else is about to
	// make the change and waits for leave. A ChangeEntry without a Name stands for all
	// names of Parent then. The watcher calls Ack.Done when nothing that it has kept of
	// what changes can be used any more: from any goroutine, soon (within seconds), and
	// without waiting for changes of the tree. The change may not come about.
	Ack *Ack
}

// Ack lets a change go on.
type Ack struct {
	once sync.Once
	done chan<- struct{}
}

// Done lets the change go on. It may be called several times.
func (a *Ack) Done() { a.once.Do(func() { a.done <- struct{}{} }) }

// Watchable is implemented by trees that have a change feed.
type Watchable interface {
	// Watch calls fn with each change, in order, after it took effect. fn must
	// not block and must not call the tree; it may be called from any goroutine,
	// one call at a time. The returned function ends the watch and waits for a call
	// of fn that is under way.
	Watch(fn func(Change)) (stop func())
}

// Feed distributes changes to watchers: the ready-made part of a Watchable. Its
// zero value is ready; Send is cheap while nobody watches.
type Feed struct {
	mu       sync.RWMutex // held for reading by Send: stop waits for it
	order    sync.Mutex   // one call of watchers at a time
	watchers map[int]func(Change)
	next     int
}

// Watch implements Watchable.
func (f *Feed) Watch(fn func(Change)) (stop func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watchers == nil {
		f.watchers = make(map[int]func(Change))
	}
	id := f.next
	f.next++
	f.watchers[id] = fn
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watchers, id)
	}
}

// Send tells every watcher.
func (f *Feed) Send(c Change) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if len(f.watchers) == 0 {
		return
	}
	f.order.Lock()
	defer f.order.Unlock()
	for _, fn := range f.watchers {
		fn(c)
	}
}

// Recall tells every watcher that c is about to be made, and waits until all of them
// have called Ack.Done or ctx is done, whose error it then returns.
func (f *Feed) Recall(ctx context.Context, c Change) error {
	c.Remote = true
	f.mu.RLock()
	acks := make(chan struct{}, len(f.watchers))
	waiting := len(f.watchers)
	f.order.Lock()
	for _, fn := range f.watchers {
		c.Ack = &Ack{done: acks}
		fn(c)
	}
	f.order.Unlock()
	f.mu.RUnlock()
	for ; waiting > 0; waiting-- {
		select {
		case <-acks:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
