package file

import (
	"container/list"
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/massif-fs/massif/object"
	"golang.org/x/sys/unix"
)

// openObject opens the object's file.
func (s *Store) openObject(key string) (int, *unix.Stat_t, error) {
	rel := pathOf(key)
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(s.root, rel, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, nil, err
	}
	st := new(unix.Stat_t)
	err = retry(func() error { return unix.Fstat(fd, st) })
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = unix.ENOENT
	}
	if err != nil {
		unix.Close(fd)
		return -1, nil, err
	}
	return fd, st, nil
}

// describe opens the object and reads all that is known of it.
func (s *Store) describe(key string) (int, object.Info, error) {
	fd, st, err := s.openObject(key)
	if err != nil {
		return -1, object.Info{}, err
	}
	var a attrs
	if s.can.xattr {
		if a, err = readAttrs(fd); err != nil {
			unix.Close(fd)
			return -1, object.Info{}, err
		}
	}
	return fd, infoOf(key, st, a), nil
}

// Head implements object.Store.
func (s *Store) Head(ctx context.Context, key string) (object.Info, error) {
	if err := s.begin(ctx, "head", key); err != nil {
		return object.Info{}, err
	}
	fd, info, err := s.describe(key)
	if err != nil {
		return object.Info{}, wrap("head", key, err)
	}
	unix.Close(fd)
	return info, nil
}

// Get implements object.Store. The body goes on with the object that was there,
// also after it was replaced or deleted.
func (s *Store) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, object.Info, error) {
	const op = "get"
	if err := s.begin(ctx, op, key); err != nil {
		return nil, object.Info{}, err
	}
	if off < 0 {
		return nil, object.Info{}, wrap(op, key, fmt.Errorf("%w: negative offset", object.ErrInvalid))
	}
	fd, info, err := s.describe(key)
	if err != nil {
		return nil, object.Info{}, wrap(op, key, err)
	}
	left := max(info.Size-off, 0)
	if n >= 0 {
		left = min(left, n)
	}
	return &body{ctx: ctx, key: key, f: os.NewFile(uintptr(fd), key), off: off, left: left}, info, nil
}

type body struct {
	ctx  context.Context
	key  string
	f    *os.File
	off  int64
	left int64
}

func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if err := b.ctx.Err(); err != nil {
		return 0, wrap("get", b.key, err)
	}
	n, err := b.f.ReadAt(p[:min(int64(len(p)), b.left)], b.off)
	b.off += int64(n)
	b.left -= int64(n)
	if err == io.EOF {
		err = nil
		if b.left > 0 { // objects do not change: somebody cut the file
			err = fmt.Errorf("file ended %d bytes early: %w", b.left, io.ErrUnexpectedEOF)
		}
	}
	return n, wrap("get", b.key, err)
}

func (b *body) Close() error { return b.f.Close() }

// ReadRange implements object.RangeReader. It keeps files open between calls.
func (s *Store) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	const op = "read"
	if err := s.begin(ctx, op, key); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, wrap(op, key, fmt.Errorf("%w: negative offset", object.ErrInvalid))
	}
	f := s.files.acquire(key)
	if f == nil {
		fd, st, err := s.openObject(key)
		if err != nil {
			return 0, wrap(op, key, err)
		}
		f = s.files.add(key, fd, st)
	}
	n, err := preadFull(f.fd, p, off)
	s.files.release(f)
	if err == nil && n < len(p) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return n, wrap(op, key, err)
	}
	return n, nil
}

// openFiles is a bounded table of open objects.
//
// An object may be replaced, deleted or renamed at any time, by another process
// too, and its descriptor would go on giving the old bytes. So each use asks the
// kernel with one fstat: a file that was replaced or deleted has no link left,
// one that was renamed has another change time. Change times can be as coarse as
// the kernel's tick; a file that changed less than freshTime ago is not kept, so
// that a later change always shows.
//
// Files that are not used for a while are closed, so that those which another
// process has deleted do not take up space for ever.
type openFiles struct {
	shards []fileShard

	mu     sync.Mutex
	timer  *time.Timer // runs while files are kept
	closed bool
}

const (
	freshTime = 30 * time.Millisecond
	fileIdle  = 30 * time.Second // and up to twice that
)

type fileShard struct {
	mu   sync.Mutex
	most int
	all  map[string]*openFile
	lru  list.List // of *openFile, the one used last in front
}

type openFile struct {
	shard *fileShard
	key   string
	fd    int
	ctime unix.Timespec

	refs int           // guarded by shard.mu, as the rest
	elem *list.Element // nil when not in the table
	used bool          // since the last look
}

func (o *openFiles) init(most int) {
	o.shards = make([]fileShard, min(most, 16))
	for i := range o.shards {
		o.shards[i].most = most / len(o.shards)
		o.shards[i].all = make(map[string]*openFile)
	}
}

func (o *openFiles) shard(key string) *fileShard { return &o.shards[shardOf(key, len(o.shards))] }

// acquire returns the open file of key, nil if there is none that is still the
// object.
func (o *openFiles) acquire(key string) *openFile {
	sh := o.shard(key)
	sh.mu.Lock()
	f := sh.all[key]
	if f == nil {
		sh.mu.Unlock()
		return nil
	}
	f.refs++
	f.used = true
	sh.lru.MoveToFront(f.elem)
	sh.mu.Unlock()
	var st unix.Stat_t
	for {
		err := unix.Fstat(f.fd, &st)
		if err == unix.EINTR {
			continue
		}
		if err == nil && st.Nlink > 0 && st.Ctim == f.ctime {
			return f
		}
		break
	}
	o.drop(f)
	o.release(f)
	return nil
}

// add returns an openFile of fd, kept in the table if it may be.
func (o *openFiles) add(key string, fd int, st *unix.Stat_t) *openFile {
	f := &openFile{shard: o.shard(key), key: key, fd: fd, ctime: st.Ctim, refs: 1, used: true}
	age := time.Since(time.Unix(st.Ctim.Unix()))
	if st.Nlink == 0 || age < freshTime {
		return f
	}
	sh := f.shard
	var closing []int
	sh.mu.Lock()
	if old := sh.all[key]; old != nil {
		closing = sh.remove(old, closing)
	}
	sh.all[key] = f
	f.elem = sh.lru.PushFront(f)
	for len(sh.all) > sh.most {
		closing = sh.remove(sh.lru.Back().Value.(*openFile), closing)
	}
	sh.mu.Unlock()
	for _, fd := range closing {
		unix.Close(fd)
	}
	o.watch()
	return f
}

// watch sees to it that idle files are closed.
func (o *openFiles) watch() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.timer == nil && !o.closed {
		o.timer = time.AfterFunc(fileIdle, o.closeIdle)
	}
}

// closeIdle closes the files that were not used since it was called last.
func (o *openFiles) closeIdle() {
	left := 0
	for i := range o.shards {
		left += o.shards[i].closeIdle()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.timer = nil
	if left > 0 && !o.closed {
		o.timer = time.AfterFunc(fileIdle, o.closeIdle)
	}
}

func (sh *fileShard) closeIdle() (left int) {
	var closing []int
	sh.mu.Lock()
	for _, f := range sh.all {
		if f.used {
			f.used = false
			continue
		}
		closing = sh.remove(f, closing)
	}
	left = len(sh.all)
	sh.mu.Unlock()
	for _, fd := range closing {
		unix.Close(fd)
	}
	return left
}

// remove takes f out of the table, with mu held. It appends the descriptor to
// closing if nobody uses it.
func (sh *fileShard) remove(f *openFile, closing []int) []int {
	delete(sh.all, f.key)
	sh.lru.Remove(f.elem)
	f.elem = nil
	if f.refs == 0 {
		closing = append(closing, f.fd)
	}
	return closing
}

func (o *openFiles) release(f *openFile) {
	f.shard.mu.Lock()
	f.refs--
	last := f.refs == 0 && f.elem == nil
	f.shard.mu.Unlock()
	if last {
		unix.Close(f.fd)
	}
}

func (o *openFiles) drop(f *openFile) {
	sh := f.shard
	var closing []int
	sh.mu.Lock()
	if f.elem != nil {
		closing = sh.remove(f, nil)
	}
	sh.mu.Unlock()
	for _, fd := range closing {
		unix.Close(fd)
	}
}

// forget closes the file of an object that was replaced or removed here, so that
// its space comes back at once.
func (o *openFiles) forget(key string) {
	sh := o.shard(key)
	sh.mu.Lock()
	f := sh.all[key]
	sh.mu.Unlock()
	if f != nil {
		o.drop(f)
	}
}

func (o *openFiles) closeAll() {
	o.mu.Lock()
	o.closed = true
	if o.timer != nil {
		o.timer.Stop()
	}
	o.mu.Unlock()
	for i := range o.shards {
		sh := &o.shards[i]
		var closing []int
		sh.mu.Lock()
		for _, f := range sh.all {
			closing = sh.remove(f, closing)
		}
		sh.mu.Unlock()
		for _, fd := range closing {
			unix.Close(fd)
		}
	}
}
