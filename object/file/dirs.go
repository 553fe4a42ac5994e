package file

import (
	"container/list"
	"math/rand/v2"
	"path"
	"sync"
	"time"

	"github.com/massif-fs/massif/internal/crashpoint"
	"golang.org/x/sys/unix"
)

// dirs remembers the directories that objects were lately put into, each with an
// open descriptor, so that a put pays neither for the path nor for finding out
// that the directory exists and is durable.
type dirs struct {
	s    *Store
	most int // directories remembered

	mu  sync.Mutex
	all map[string]*dir
	lru list.List // of *dir, the one used last in front
}

// dir is a directory below the root. It is held by those who use it and by the
// table of dirs.
type dir struct {
	path string // relative to the root, "." for the root
	fd   int
	err  error         // why it could not be opened
	open chan struct{} // closed when fd or err is set

	syncer syncer

	refs int           // guarded by dirs.mu, as elem is
	elem *list.Element // nil when it is no longer in the table
}

// acquire returns the directory at path, made if it is missing; its name in its
// parent is durable then. release it after use.
func (ds *dirs) acquire(p string) (*dir, error) {
	for try := 0; ; try++ {
		d, err := ds.acquireOnce(p)
		// A parent that was just removed, because it had become empty, is made again.
		if err != unix.ENOENT || try == maxTries {
			return d, err
		}
		contend(try)
	}
}

// maxTries bounds the contest between who makes a directory to put something into
// it and who removes it because it is empty, which somebody wins long before.
const maxTries = 1000

// contend waits a little, the longer the more tries there were.
func contend(try int) {
	if try > 5 {
		time.Sleep(time.Duration(rand.IntN(10*min(try, 100))) * time.Microsecond)
	}
}

func (ds *dirs) acquireOnce(p string) (*dir, error) {
	ds.mu.Lock()
	d := ds.all[p]
	if d != nil {
		d.refs++
		ds.lru.MoveToFront(d.elem)
		ds.mu.Unlock()
		<-d.open
		if d.err != nil {
			defer ds.release(d)
			return nil, d.err
		}
		return d, nil
	}
	d = &dir{path: p, fd: -1, open: make(chan struct{}), refs: 1}
	d.elem = ds.lru.PushFront(d)
	ds.all[p] = d
	ds.mu.Unlock()

	d.fd, d.err = ds.openDir(p)
	if d.err != nil {
		ds.forget(d) // before others learn of it, so that they do not find it again
		close(d.open)
		ds.release(d)
		return nil, d.err
	}
	close(d.open)
	ds.trim()
	return d, nil
}

// acquireExisting is acquire for a directory that is not to be made.
func (ds *dirs) acquireExisting(p string) (*dir, error) {
	ds.mu.Lock()
	if d := ds.all[p]; d != nil {
		d.refs++
		ds.mu.Unlock()
		<-d.open
		if d.err == nil {
			return d, nil
		}
		ds.release(d)
	} else {
		ds.mu.Unlock()
	}
	fd, err := ds.s.openDirAt(p)
	if err != nil {
		return nil, err
	}
	d := &dir{path: p, fd: fd, refs: 1, open: make(chan struct{})}
	close(d.open)
	return d, nil // not in the table: closed by the last release
}

// openDir opens the directory p, after making it and its parents where missing.
func (ds *dirs) openDir(p string) (int, error) {
	if p == "." {
		return ds.s.openDirAt(p)
	}
	parent, err := ds.acquire(path.Dir(p))
	if err != nil {
		return -1, err
	}
	defer ds.release(parent)
	err = retry(func() error { return unix.Mkdirat(parent.fd, path.Base(p), 0o777) })
	if err == unix.ENOENT {
		ds.forget(parent)
	}
	if err != nil && err != unix.EEXIST {
		return -1, err
	}
	fd, err := ds.s.openDirAt(p)
	if err != nil {
		return -1, err
	}
	crashpoint.Hit("object.file.mkdir")
	// Also when somebody else made it: that one's sync may not be done.
	if err := ds.s.syncDir(parent); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (ds *dirs) release(d *dir) {
	ds.mu.Lock()
	d.refs--
	last := d.refs == 0 && d.elem == nil
	ds.mu.Unlock()
	if last && d.fd >= 0 {
		unix.Close(d.fd)
	}
}

// forget drops d from the table, because it was removed from the disk or could
// not be opened.
func (ds *dirs) forget(d *dir) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.drop(d)
}

// drop is called with mu held, by someone who holds d or for a d not in use.
func (ds *dirs) drop(d *dir) {
	if d.elem == nil {
		return
	}
	ds.lru.Remove(d.elem)
	d.elem = nil
	if ds.all[d.path] == d {
		delete(ds.all, d.path)
	}
	if d.refs == 0 && d.fd >= 0 {
		unix.Close(d.fd)
		d.fd = -1
	}
}

func (ds *dirs) trim() {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for e := ds.lru.Back(); e != nil && len(ds.all) > ds.most; {
		d := e.Value.(*dir)
		e = e.Prev()
		if d.refs == 0 {
			ds.drop(d)
		}
	}
}

func (ds *dirs) closeAll() {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for ds.lru.Front() != nil {
		ds.drop(ds.lru.Front().Value.(*dir))
	}
}

// syncer makes one directory durable for many callers: whoever comes while an
// fsync is running joins the next round, so that a hundred puts at once cost a
// handful of fsyncs, and a single one waits for nobody. Directories do not wait
// for one another: file systems put their fsyncs into common journal commits
// better than we could (measured on ext4).
type syncer struct {
	turn sync.Mutex // held by the round that runs

	mu   sync.Mutex
	next *syncRound // collects callers; nil until the first comes
}

type syncRound struct {
	err  error
	done chan struct{}
}

// syncDir makes d's entries durable.
func (s *Store) syncDir(d *dir) error {
	if s.opts.NoSync {
		return nil
	}
	g := &d.syncer
	g.mu.Lock()
	round := g.next
	lead := round == nil
	if lead {
		round = &syncRound{done: make(chan struct{})}
		g.next = round
	}
	g.mu.Unlock()
	if !lead {
		<-round.done
		return round.err
	}
	g.turn.Lock()
	g.mu.Lock()
	g.next = nil // who comes now is too late for the fsync that begins
	g.mu.Unlock()
	round.err = d.fsync()
	g.turn.Unlock()
	close(round.done)
	return round.err
}

func (d *dir) fsync() error {
	err := fsync(d.fd)
	if err == unix.EINVAL { // a file system that has nothing to sync for directories
		return nil
	}
	return err
}

func fsync(fd int) error {
	return retry(func() error { return unix.Fsync(fd) })
}
