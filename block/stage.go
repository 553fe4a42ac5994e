package block

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/massif-fs/massif/internal/crashpoint"
	"golang.org/x/sys/unix"
)

// StageConfig says where Put leaves blocks that go to the object store later.
type StageConfig struct {
	// Dir is the directory of this stage alone, on a disk that keeps what was
	// synced to it. It is made if it is not there.
	Dir string
	// MaxBytes bounds what lies there; Put waits while it is reached. 0: 10 GiB.
	MaxBytes int64
	// MaxAge is how long a block may wait before its upload begins, so that what
	// is deleted soon is never uploaded. When half of MaxBytes is used, and during
	// Drain, nothing waits. 0: no wait.
	MaxAge time.Duration
}

const (
	defaultStageBytes = 10 << 30
	maxSegment        = 64 << 20
	// maxStaged bounds the number of staged blocks, and so the memory for them.
	maxStaged = 200_000
)

// stage is the write-back journal: segment files to which blocks are appended, and
// the uploads that empty them. doc/block-format.md describes the files.
//
// Put returns when its block is synced. One goroutine, the committer, writes:
// while it syncs, further Puts gather and share the next sync. Uploads take the
// blocks out in any order; a segment is removed when all its blocks are gone.
type stage struct {
	s      *Store
	dir    string
	max    int64
	maxAge time.Duration
	log    *slog.Logger
	lock   *os.File
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	blocks   map[ID]*staged
	queue    *list.List // of *staged, those that wait for their upload
	active   *segment   // nil: the next batch makes one
	segments map[uint64]*segment
	nextSeg  uint64
	used     int64 // bytes of all segments and of promised records
	waiters  *list.List
	pending  []*stageRequest // for the committer
	notes    []note
	draining int
	failures int // uploads in a row
	hold     time.Time
	lastErr  error
	lastFail time.Time
	damaged  int64
	uploaded int64
	bytes    int64 // of blocks in the stage

	wakeCommit chan struct{}
	wakeUpload chan struct{}
}

// staged is a block in the stage.
type staged struct {
	id     ID
	r      Ref
	seg    *segment
	off    int64 // of the object in the segment file
	length int64
	since  time.Time

	// under stage.mu
	elem      *list.Element // in queue
	notBefore time.Time
	attempts  int
	deleted   bool
	// superseded: the same block was staged again, and that copy counts.
	superseded bool
	done       chan struct{} // closed when the block is in the store or deleted
}

// segment is a file of the journal.
type segment struct {
	num   uint64
	file  *os.File
	size  int64 // written
	durab int64 // synced
	live  int   // blocks not yet uploaded
	// under stage.mu:
	busy bool // the committer writes to it, or replay reads it: it must stay, and size is theirs
	refs int  // readers
	gone bool
}

type stageRequest struct {
	id    ID
	h     *header
	body  *body
	taken bool
	done  chan error
}

// note is a record about a block whose data need not be kept any more.
type note struct {
	kind byte
	id   ID
}

// openStage opens the directory and finds what is in it.
func openStage(ctx context.Context, s *Store, cfg StageConfig) (_ *stage, err error) {
	g := &stage{s: s, dir: cfg.Dir, max: cfg.MaxBytes, maxAge: cfg.MaxAge, log: s.log,
		blocks: make(map[ID]*staged), queue: list.New(), segments: make(map[uint64]*segment), waiters: list.New(),
		wakeCommit: make(chan struct{}, 1), wakeUpload: make(chan struct{}, 1)}
	if g.max <= 0 {
		g.max = defaultStageBytes
	}
	if err := os.MkdirAll(g.dir, 0o700); err != nil {
		return nil, fmt.Errorf("write-back stage: %w", err)
	}
	if err := syncDir(filepath.Dir(g.dir)); err != nil { // the directory must survive, too
		return nil, fmt.Errorf("write-back stage: %w", err)
	}
	if g.lock, err = os.OpenFile(filepath.Join(g.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("write-back stage: %w", err)
	}
	defer func() {
		if err != nil {
			g.closeFiles()
		}
	}()
	if err := unix.Flock(int(g.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if err == unix.EWOULDBLOCK {
			return nil, fmt.Errorf("write-back stage %s is in use by another process: %w", g.dir, syscall.EBUSY)
		}
		return nil, fmt.Errorf("write-back stage %s: lock: %w", g.dir, err)
	}
	if err := g.replay(ctx); err != nil {
		return nil, fmt.Errorf("write-back stage %s: %w", g.dir, err)
	}
	g.ctx, g.cancel = context.WithCancel(s.ctx)
	g.wg.Add(2)
	go g.committer()
	go g.uploader()
	return g, nil
}

// close ends the goroutines. What is staged stays.
func (g *stage) close() error {
	g.cancel()
	g.wg.Wait()
	return g.closeFiles()
}

func (g *stage) closeFiles() (err error) {
	for _, seg := range g.segments {
		if cerr := seg.file.Close(); err == nil {
			err = cerr
		}
	}
	if cerr := g.lock.Close(); err == nil {
		err = cerr
	}
	return err
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// reserve waits for room for an object of up to most bytes. The room goes to put or
// back by cancelRoom.
func (g *stage) reserve(ctx context.Context, most int64) (int64, error) {
	n := recordSize(most)
	if n+segmentHeader > g.max {
		return 0, fmt.Errorf("write-back stage of %d bytes cannot hold a block of %d: %w", g.max, n, syscall.ENOSPC)
	}
	return n, g.room(ctx, n)
}

func (g *stage) cancelRoom(n int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.giveRoom(n)
}

// put makes a block durable in the stage, in the room reserved for it.
func (g *stage) put(ctx context.Context, id ID, h *header, b *body, room int64) error {
	n := recordSize(b.Size())
	if room > n {
		g.cancelRoom(room - n)
	}
	req := &stageRequest{id: id, h: h, body: b, done: make(chan error, 1)}
	g.mu.Lock()
	g.pending = append(g.pending, req)
	g.mu.Unlock()
	wake(g.wakeCommit)
	select {
	case err := <-req.done:
		return err
	case <-ctx.Done():
	case <-g.ctx.Done():
	}
	g.mu.Lock()
	if !req.taken {
		for i, r := range g.pending {
			if r == req {
				g.pending = append(g.pending[:i], g.pending[i+1:]...)
				break
			}
		}
		g.giveRoom(n)
		g.mu.Unlock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return errors.New("write-back stage is closed")
	}
	g.mu.Unlock()
	return <-req.done // the committer is at it, and reads the caller's memory
}

type roomWaiter struct {
	n     int64
	ready chan struct{}
}

// room takes n bytes of the stage, first come, first served.
func (g *stage) room(ctx context.Context, n int64) error {
	g.mu.Lock()
	if g.waiters.Len() == 0 && g.fits(n) {
		g.used += n
		g.mu.Unlock()
		return nil
	}
	w := &roomWaiter{n, make(chan struct{})}
	el := g.waiters.PushBack(w)
	g.retire()
	g.mu.Unlock()
	wake(g.wakeUpload)
	var err error
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-g.ctx.Done():
		err = errors.New("write-back stage is closed")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-w.ready:
		g.giveRoom(n)
	default:
		g.waiters.Remove(el)
		g.giveRoom(0)
	}
	return err
}

func (g *stage) fits(n int64) bool {
	return g.used+n+segmentHeader <= g.max && len(g.blocks)+len(g.pending) < maxStaged
}

// giveRoom returns n bytes and lets in who waits for them. g.mu is held.
func (g *stage) giveRoom(n int64) {
	g.used -= n
	for el := g.waiters.Front(); el != nil; el = g.waiters.Front() {
		w := el.Value.(*roomWaiter)
		if !g.fits(w.n) {
			return
		}
		g.used += w.n
		g.waiters.Remove(el)
		close(w.ready)
	}
}

// retire takes the active segment out of use if it only wastes room: nothing in it
// is needed and somebody waits, or it has grown a bit. g.mu is held.
func (g *stage) retire() {
	seg := g.active
	if seg == nil || seg.busy || seg.live > 0 || seg.size <= segmentHeader {
		return
	}
	if g.waiters.Len() > 0 || seg.size >= g.segmentSize()/4 {
		g.active = nil
		g.sweep(seg)
	}
}

func (g *stage) segmentSize() int64 { return min(maxSegment, g.max/8) }

// sweep removes a segment that nobody needs any more. g.mu is held.
func (g *stage) sweep(seg *segment) {
	if seg == g.active || seg.busy || seg.live > 0 || seg.gone {
		return
	}
	seg.gone = true
	delete(g.segments, seg.num)
	// Its blocks are in the store: a segment that comes back after a crash is
	// uploaded again, which changes nothing.
	crashpoint.Hit("stage.sweep.before")
	if err := os.Remove(seg.file.Name()); err != nil && !errors.Is(err, os.ErrNotExist) {
		g.log.Warn("write-back stage: a segment cannot be removed", "error", err)
	}
	if seg.refs == 0 {
		seg.file.Close()
	}
	g.giveRoom(seg.size)
}

// lookup finds a block in the stage. The caller releases the source.
func (g *stage) lookup(id ID) (stageSource, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.blocks[id]
	if e == nil {
		return stageSource{}, false
	}
	e.seg.refs++
	return stageSource{g, e}, true
}

func (g *stage) release(seg *segment) {
	g.mu.Lock()
	defer g.mu.Unlock()
	seg.refs--
	if seg.refs == 0 && seg.gone {
		seg.file.Close()
	}
}

// stageSource reads a staged object.
type stageSource struct {
	g *stage
	e *staged
}

func (o stageSource) local() bool { return true }
func (o stageSource) release()    { o.g.release(o.e.seg) }

func (o stageSource) read(_ context.Context, p []byte, off int64) (int, error) {
	if off >= o.e.length {
		return 0, nil
	}
	p = p[:min(int64(len(p)), o.e.length-off)]
	for done := 0; done < len(p); {
		n, err := unix.Pread(int(o.e.seg.file.Fd()), p[done:], o.e.off+off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, &os.PathError{Op: "read", Path: o.e.seg.file.Name(), Err: err}
		}
		if n == 0 {
			return done, nil
		}
		done += n
	}
	return len(p), nil
}

// forget takes deleted blocks out of the stage. It waits for uploads of theirs that
// are in progress, so that the caller can delete the objects afterwards.
func (g *stage) forget(ctx context.Context, ids []ID) error {
	var wait []*staged
	g.mu.Lock()
	for _, id := range ids {
		e := g.blocks[id]
		if e == nil {
			continue
		}
		e.deleted = true
		if e.elem != nil {
			g.queue.Remove(e.elem)
			e.elem = nil
			g.finish(e, noteDeleted)
		} else {
			wait = append(wait, e)
		}
	}
	g.mu.Unlock()
	wake(g.wakeCommit)
	for _, e := range wait {
		select {
		case <-e.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// finish ends the stay of a block and notes how, unless kind is 0. g.mu is held.
func (g *stage) finish(e *staged, kind byte) {
	if g.blocks[e.id] == e {
		delete(g.blocks, e.id)
	}
	g.bytes -= e.length
	e.seg.live--
	if kind != 0 {
		g.notes = append(g.notes, note{kind, e.id})
	}
	close(e.done)
	if e.seg == g.active {
		g.retire()
	} else {
		g.sweep(e.seg)
	}
}

// StageQueue describes what waits in the write-back stage.
type StageQueue struct {
	Blocks    int
	Bytes     int64     // of those blocks
	DiskBytes int64     // that the stage takes, of MaxBytes at most
	MaxBytes  int64     // 0: there is no stage
	Oldest    time.Time // when the oldest was staged; zero if there is none
	Uploaded  int64     // blocks since New
	Damaged   int64     // blocks that were damaged on the local disk and set aside
	LastError error     // of the uploads; nil after a success
	FailedAt  time.Time
}

// StageQueue describes what waits in the write-back stage.
func (s *Store) StageQueue() StageQueue {
	g := s.stage
	if g == nil {
		return StageQueue{}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	q := StageQueue{Blocks: len(g.blocks), Bytes: g.bytes, DiskBytes: g.used, MaxBytes: g.max, Uploaded: g.uploaded,
		Damaged: g.damaged, LastError: g.lastErr, FailedAt: g.lastFail}
	for _, e := range g.blocks {
		if q.Oldest.IsZero() || e.since.Before(q.Oldest) {
			q.Oldest = e.since
		}
	}
	return q
}

// Drain waits until all blocks that are staged now are in the object store. Error:
// that of ctx, joined with the last one of the uploads.
func (s *Store) Drain(ctx context.Context) error {
	g := s.stage
	if g == nil {
		return nil
	}
	g.mu.Lock()
	g.draining++
	g.hold = time.Time{}
	all := make([]*staged, 0, len(g.blocks))
	for _, e := range g.blocks {
		e.notBefore = time.Time{}
		all = append(all, e)
	}
	g.mu.Unlock()
	wake(g.wakeUpload)
	defer func() {
		g.mu.Lock()
		g.draining--
		g.mu.Unlock()
	}()
	for _, e := range all {
		select {
		case <-e.done:
		case <-ctx.Done():
			q := s.StageQueue()
			return fail("drain", 0, fmt.Errorf("%d blocks are not yet in the object store: %w", q.Blocks, errors.Join(context.Cause(ctx), q.LastError)))
		case <-g.ctx.Done():
			return fail("drain", 0, errors.New("write-back stage is closed"))
		}
	}
	return nil
}
