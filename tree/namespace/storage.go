package namespace

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/massif-fs/massif/vfs"
)

// Storage says what is mounted.
type Storage struct {
	// Key tells storages apart: of those with an equal one (that is not empty) all
	// share one Backend.
	Key string
	// Open opens the storage. It is called when the storage is first used, again
	// after it has failed, and by one goroutine at a time. ctx is that of the call that
	// needs the storage; the Backend must not depend on it. Errors that IsAbsent finds are told as ENOENT, others
	// as EIO.
	Open func(ctx context.Context) (*Backend, error)
	// File tells that the storage's root is a file.
	File bool
	// EmptyWhileAbsent has what does not exist yet (see Absent) shown as an empty
	// directory.
	EmptyWhileAbsent bool
}

// Backend is an open storage.
type Backend struct {
	// FS is its tree. The namespace closes it.
	FS vfs.FS
	// Root is the inode that is shown at the mount path; 0: the tree's root.
	Root vfs.Ino
	// Links, if not nil, has symbolic links followed and shown as what they lead to. It
	// turns an absolute target into a path below the tree's root; not ok means that
	// it leads out (EXDEV), as do relative ones that climb above the root.
	Links func(target string) (path string, ok bool)
	// Token, if not nil, tells the change token of a file, "" if it has none just now.
	Token func(ctx context.Context, a *vfs.Attr) (string, error)
	// ClearCache, if not nil, drops what is cached of the storage.
	ClearCache func(ctx context.Context) error
	// Watch, if not nil, starts to watch the storage below the namespace: fn is
	// called with batches of events. Own changes of the tree are among them.
	Watch func(fn func([]Event)) (stop func(), err error)
	// PathOf, if not nil, tells where an inode is, relative to the tree's root, "" for the root.
	PathOf func(ino vfs.Ino) (string, bool)
	// Close, if not nil, is called after FS.Close.
	Close func() error
}

type absentError struct{ error }

func (e absentError) Unwrap() error { return e.error }

// Absent marks an error of Storage.Open: what the storage shows does not exist yet.
func Absent(err error) error { return absentError{err} }

// IsAbsent finds the mark of Absent.
func IsAbsent(err error) bool {
	var absent absentError
	return errors.As(err, &absent)
}

// retryPause is how long a storage that could not be opened is left alone.
const retryPause = time.Second

// backend is what mounteds with an equal key share.
type backend struct {
	ns   *FS
	key  string
	open func(ctx context.Context) (*Backend, error)
	refs int // mounteds; guarded by ns.mu

	cur      atomic.Pointer[opened]
	calls    atomic.Int64 // calls under way, +1 while the backend is not closing
	closing  atomic.Bool
	idle     chan struct{} // closed when it is closing and no call is under way
	idleOnce sync.Once

	mu       sync.Mutex
	opening  chan struct{} // not nil while somebody opens; closed at the end of that
	failed   error
	failedAt time.Time

	places  []*place // guarded by ns.mu
	watches watchSet
}

// opened is a backend's tree with its abilities.
type opened struct {
	Backend
	fs     vfs.FS
	root   vfs.Ino
	ro     bool
	pinner vfs.Pinner
	pins   pinTable
	names  nameTable
	stop   func() // ends the watch of its feed
}

func newBackend(ns *FS, key string, open func(ctx context.Context) (*Backend, error)) *backend {
	b := &backend{ns: ns, key: key, open: open, idle: make(chan struct{})}
	b.calls.Store(1)
	b.watches.b = b
	return b
}

// enter begins a call; leave ends it. ESTALE if the storage is unmounted.
func (b *backend) enter(ctx context.Context) (*opened, error) {
	if err := b.hold(); err != nil {
		return nil, err
	}
	if o := b.cur.Load(); o != nil {
		return o, nil
	}
	o, err := b.openNow(ctx)
	if err != nil {
		b.leave()
		return nil, err
	}
	return o, nil
}

// enterOpen is enter for what makes sense only if the storage is open already.
func (b *backend) enterOpen() *opened {
	if b.hold() != nil {
		return nil
	}
	o := b.cur.Load()
	if o == nil {
		b.leave()
	}
	return o
}

func (b *backend) hold() error {
	b.calls.Add(1)
	if b.closing.Load() {
		b.leave()
		return syscall.ESTALE
	}
	return nil
}

func (b *backend) leave() {
	if b.calls.Add(-1) == 0 { // only when closing; later calls may get here again
		b.idleOnce.Do(func() { close(b.idle) })
	}
}

// openError is what programs see of an error of opening.
func openError(err error) error {
	if IsAbsent(err) {
		return vfs.WithErrno(syscall.ENOENT, err)
	}
	return vfs.WithErrno(syscall.EIO, fmt.Errorf("the storage cannot be opened: %w", err))
}

// openNow opens the storage, or waits for who does.
func (b *backend) openNow(ctx context.Context) (*opened, error) {
	b.mu.Lock()
	for {
		if o := b.cur.Load(); o != nil {
			b.mu.Unlock()
			return o, nil
		}
		if b.opening == nil {
			break
		}
		wait := b.opening
		b.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		b.mu.Lock()
		if b.cur.Load() == nil && b.failed != nil {
			err := b.failed
			b.mu.Unlock()
			return nil, openError(err)
		}
	}
	if b.failed != nil && !IsAbsent(b.failed) && time.Since(b.failedAt) < retryPause {
		err := b.failed
		b.mu.Unlock()
		return nil, openError(err)
	}
	done := make(chan struct{})
	b.opening = done
	b.mu.Unlock()

	o, err := b.openBackend(ctx)

	b.mu.Lock()
	b.opening = nil
	switch {
	case err == nil:
		b.failed = nil
		b.cur.Store(o)
	case ctx.Err() == nil: // who was interrupted says nothing of the storage
		b.failed, b.failedAt = err, time.Now()
	}
	b.mu.Unlock()
	close(done)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, openError(err)
	}
	o.watchFeed(b)
	return o, nil
}

func (b *backend) openBackend(ctx context.Context) (o *opened, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("opening it failed inside: %v", p)
		}
	}()
	be, err := b.open(ctx)
	if err != nil {
		return nil, err
	}
	if _, isNamespace := be.FS.(*FS); isNamespace {
		err := errors.New("a namespace cannot be a storage of another one")
		return nil, errors.Join(err, be.close())
	}
	o = &opened{Backend: *be, fs: be.FS, root: be.Root, ro: vfs.PolicyOf(be.FS).ReadOnly}
	if o.root == 0 {
		o.root = vfs.Root
	}
	o.pinner, _ = be.FS.(vfs.Pinner)
	o.pin(o.root)
	return o, nil
}

func (be *Backend) close() error {
	err := be.FS.Close()
	if be.Close != nil {
		err = errors.Join(err, be.Close())
	}
	return err
}

// why is the error with which opening has failed last.
func (b *backend) why() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

// shut closes the backend when no call is under way any more. From its beginning on
// calls give ESTALE, and those of open files EIO.
func (b *backend) shut() error {
	if b.closing.Swap(true) {
		return nil
	}
	b.leave()
	<-b.idle
	b.watches.stopAll()
	o := b.cur.Swap(nil)
	if o == nil {
		return nil
	}
	if o.stop != nil {
		o.stop()
	}
	return o.close()
}

// pinTable lets several hold one inode, which the tree may be told once only.
type pinTable struct {
	mu sync.Mutex
	n  map[vfs.Ino]int
}

func (o *opened) pin(ino vfs.Ino) {
	if o.pinner == nil {
		return
	}
	o.pins.mu.Lock()
	defer o.pins.mu.Unlock()
	if o.pins.n == nil {
		o.pins.n = map[vfs.Ino]int{}
	}
	o.pins.n[ino]++
	if o.pins.n[ino] == 1 {
		o.pinner.Pin(ino)
	}
}

func (o *opened) unpin(ino vfs.Ino) {
	if o.pinner == nil {
		return
	}
	o.pins.mu.Lock()
	defer o.pins.mu.Unlock()
	switch o.pins.n[ino] {
	case 0:
	case 1:
		o.names.forget(ino)
		delete(o.pins.n, ino)
		o.pinner.Unpin(ino)
	default:
		o.pins.n[ino]--
	}
}
