package bucket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/vfs"
)

const (
	copyBuffer = 256 << 10 // of a request for data
	fetchUnit  = 64 << 10  // what is fetched at least
	firstAhead = 1 << 20   // what is fetched ahead of somebody who begins to read on
)

// flights are the requests under way for a content's bytes, by unit.
type flights struct {
	mu sync.Mutex
	m  map[int64]*flight
}

type flight struct {
	s    span
	done chan struct{}
	err  error
}

// claim returns new flights for those bytes that are not here and not on their way, in pieces of
// at most size bytes, and the flights that bring the others.
func (c *content) claim(want span, size int64) (own, others []*flight) {
	want.off -= want.off % fetchUnit
	want.end = (want.end + fetchUnit - 1) / fetchUnit * fetchUnit
	c.flying.mu.Lock()
	defer c.flying.mu.Unlock()
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.flying.m == nil {
		c.flying.m = make(map[int64]*flight)
	}
	var last *flight
	for off := want.off; off < want.end && off < c.baseEnd; off += fetchUnit {
		unit := span{off, min(off+fetchUnit, c.baseEnd)}
		if f := c.flying.m[off/fetchUnit]; f != nil {
			if len(others) == 0 || others[len(others)-1] != f {
				others = append(others, f)
			}
			last = nil
			continue
		}
		if len(c.absent(unit)) == 0 {
			last = nil
			continue
		}
		if last == nil || unit.end-last.s.off > size {
			last = &flight{s: unit, done: make(chan struct{})}
			own = append(own, last)
		}
		last.s.end = unit.end
		c.flying.m[off/fetchUnit] = last
	}
	return own, others
}

func (c *content) land(f *flight, err error) {
	c.flying.mu.Lock()
	for off := f.s.off; off < f.s.end; off += fetchUnit {
		delete(c.flying.m, off/fetchUnit)
	}
	f.err = err
	c.flying.mu.Unlock()
	close(f.done)
}

// fetch brings bytes of a file's object. It returns when all are here, or one could not be
// brought. What it has begun goes on when its caller goes away.
func (fs *FS) fetch(ctx context.Context, n *node, c *content, want span, size int64) error {
	own, others := c.claim(want, size)
	for _, f := range own {
		fs.launch(n, c, f, true)
	}
	for _, f := range append(own, others...) {
		select {
		case <-f.done:
			if f.err != nil {
				return f.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// ahead begins to fetch what will be read next, if there is a free slot for it.
func (fs *FS) ahead(n *node, c *content, want span) {
	if len(fs.slots) >= cap(fs.slots)/2+1 {
		return
	}
	own, _ := c.claim(want, fs.cfg.BlockSize)
	for _, f := range own {
		fs.launch(n, c, f, false)
	}
}

// launch fetches in the background. One that nobody waits for does not wait, either.
func (fs *FS) launch(n *node, c *content, f *flight, wait bool) {
	fs.mu.Lock()
	if fs.closed {
		fs.mu.Unlock()
		c.land(f, syscall.EBADF)
		return
	}
	fs.wg.Add(1)
	fs.mu.Unlock()
	go func() {
		defer fs.wg.Done()
		ctx := fs.ctx
		if !wait {
			select {
			case fs.slots <- struct{}{}:
			default:
				c.land(f, nil) // whoever needs it asks again
				return
			}
		} else {
			select {
			case fs.slots <- struct{}{}:
			case <-ctx.Done():
				c.land(f, ctx.Err())
				return
			}
		}
		defer func() { <-fs.slots }()
		err := fs.useNode(ctx, n, !wait)
		if err != nil {
			if !wait {
				err = nil
			}
			c.land(f, err)
			return
		}
		defer fs.done(n)
		c.land(f, fs.bring(ctx, n, c, f.s))
	}()
}

var buffers = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

// bring fetches a span into the cache.
func (fs *FS) bring(ctx context.Context, n *node, c *content, s span) error {
	if err := fs.transfers.Acquire(ctx, copyBuffer); err != nil {
		return err
	}
	defer fs.transfers.Release(copyBuffer)
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	return fs.stream(ctx, n, c, s, func(from version, r io.Reader) error {
		for s.off < s.end {
			p := (*buf)[:min(copyBuffer, s.len())]
			if _, err := io.ReadFull(r, p); err != nil {
				return err
			}
			if err := fs.disk.reserve(int64(len(p))); err != nil {
				return err
			}
			if ok, err := c.install(from, p, s.off); err != nil || !ok {
				return err
			}
			s.off += int64(len(p))
		}
		return nil
	})
}

// stream opens a span of a content's object. ESTALE: the object is another one now.
func (fs *FS) stream(ctx context.Context, n *node, c *content, s span, fn func(from version, r io.Reader) error) error {
	c.mu.RLock()
	from := c.base
	c.mu.RUnlock()
	fs.stats.fetches.Add(1)
	body, info, err := fs.store.Get(ctx, from.key, s.off, s.len())
	if errors.Is(err, object.ErrNotFound) || err == nil && (info.ETag != from.etag || info.Size != from.size) {
		if body != nil {
			body.Close()
		}
		fs.overtaken(n, c)
		return &vfs.Error{Op: "read", Name: from.key, Err: vfs.WithErrno(syscall.ESTALE, errors.New("somebody else has changed the object since the file was opened"))}
	}
	if err != nil {
		return fail("read", from.key, err)
	}
	defer body.Close()
	err = fn(from, body)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	fs.stats.fetched.Add(s.len())
	if err != nil {
		return fail("read", from.key, err)
	}
	return nil
}

// overtaken notes that a content's object is another one now: who opens the file next gets that.
func (fs *FS) overtaken(n *node, c *content) {
	if n == nil {
		return // the upload that wanted it finds out
	}
	n.mu.Lock()
	if _, changed, _ := c.now(); !changed && n.content == c {
		n.abandon()
		n.target, n.known, n.checked = "", false, time.Time{}
	}
	n.mu.Unlock()
	fs.feed.Send(vfs.Change{Kind: vfs.ChangeData, Ino: n.ino, Len: -1, Remote: true})
}

// fetchAll brings everything that is not here, for a caller that uses the node or holds it still.
func (fs *FS) fetchAll(ctx context.Context, n *node, c *content) error {
	for {
		c.mu.RLock()
		missing := c.absent(span{0, c.baseEnd})
		c.mu.RUnlock()
		if len(missing) == 0 {
			return nil
		}
		var group errgroup.Group
		group.SetLimit(4)
		for _, s := range missing {
			for off := s.off; off < s.end; off += fs.cfg.BlockSize {
				part := span{off, min(off+fs.cfg.BlockSize, s.end)}
				group.Go(func() error { return fs.bring(ctx, n, c, part) })
			}
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
}

// readPast reads a file's bytes without leaving them in the cache.
func (fs *FS) readPast(ctx context.Context, n *node, c *content, p []byte, off int64) (int, error) {
	if err := fs.useNode(ctx, n, false); err != nil {
		return 0, err
	}
	defer fs.done(n)
	size, _, _ := c.now()
	if off >= size {
		return 0, nil
	}
	p = p[:min(int64(len(p)), size-off)]
	for pos := 0; pos < len(p); {
		s := span{off + int64(pos), off + int64(len(p))}
		c.mu.RLock()
		missing := c.absent(s)
		c.mu.RUnlock()
		if len(missing) == 0 || missing[0].off > s.off {
			if len(missing) > 0 {
				s.end = missing[0].off
			}
			n, again, err := c.read(p[pos:pos+int(s.len())], s.off)
			if err != nil {
				return pos, err
			}
			if n == 0 && len(again) == 0 {
				return pos, nil // it was cut off
			}
			pos += n
			continue
		}
		s.end = missing[0].end
		err := fs.stream(ctx, n, c, s, func(_ version, r io.Reader) error {
			k, err := io.ReadFull(r, p[pos:pos+int(s.len())])
			pos += k
			return err
		})
		if err != nil {
			return pos, err
		}
	}
	return len(p), nil
}

func copyAll(w io.Writer, r io.Reader) (int64, error) { return io.Copy(w, r) }

// preload fetches all files, in the order of a walk.
func (fs *FS) preload() {
	var group errgroup.Group
	group.SetLimit(max(fs.cfg.Parallel/4, 1))
	err := fs.walk(fs.ctx, func(key string, n *node) {
		group.Go(func() error {
			defer fs.letGo(n)
			if err := fs.preloadFile(n); err != nil && fs.ctx.Err() == nil {
				fs.log.Warn("preload", "key", key, "err", err)
			}
			return nil
		})
	})
	_ = group.Wait()
	if err != nil && fs.ctx.Err() == nil {
		fs.log.Warn("preload", "err", err)
	}
}

func (fs *FS) preloadFile(n *node) error {
	f, err := fs.Open(fs.ctx, &vfs.Caller{}, n.ino, syscall.O_RDONLY)
	if err != nil {
		return err
	}
	h := f.(*handle)
	size, _, _ := h.c.now()
	err = fs.fetch(fs.ctx, n, h.c, span{0, size}, fs.cfg.BlockSize)
	return errors.Join(err, f.Close())
}

// walk calls fn with every regular file, each held.
func (fs *FS) walk(ctx context.Context, fn func(key string, n *node)) error {
	opts := object.ListOptions{}
	for {
		page, err := fs.store.List(ctx, opts)
		if err != nil {
			return err
		}
		for _, info := range page.Objects {
			n, err := fs.walkTo(ctx, info.Key)
			if err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				continue
			}
			if n.kind != syscall.S_IFREG {
				fs.letGo(n)
				continue
			}
			fn(info.Key, n)
		}
		if page.Next == "" {
			return nil
		}
		opts.Token = page.Next
	}
}

// walkTo looks up all names of a key and holds the node.
func (fs *FS) walkTo(ctx context.Context, key string) (*node, error) {
	at := vfs.Root
	var a vfs.Attr
	for _, name := range bytes.Split([]byte(key), []byte("/")) {
		if err := fs.Lookup(ctx, &vfs.Caller{}, at, string(name), &a); err != nil {
			return nil, err
		}
		at = a.Ino
	}
	return fs.held(at)
}
