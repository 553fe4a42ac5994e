package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/vfs"
)

// # How changes come to the store
//
// A file is stored at flush (close), fsync and sync, and by the queue: what write-back
// promised, what failed, changed attributes a moment after the change. One caller at a time
// stores a node (node.save). While an object is made of a content, the content stands still;
// a writer does not wait for an upload that nobody waits for, but has it begin anew later.
//
// An object is replaced only if it is the one that the file was made from (its ETag).

// takeSave has the sole right to store a node.
func (n *node) takeSave(ctx context.Context) error {
	select {
	case n.save <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *node) dropSave() { <-n.save }

// settleData makes what was written to a node safe, as the mount promises it.
func (fs *FS) settleData(ctx context.Context, n *node) error {
	if fs.cfg.ReadOnly || !fs.unsaved(n) {
		return nil
	}
	if !fs.cfg.Writeback || n.kind != syscall.S_IFREG {
		return fs.storeNode(ctx, n, true)
	}
	if err := fs.persist(ctx, n); err != nil {
		return err
	}
	fs.queue.add(fs, n, fs.cfg.AttrDelay)
	return nil
}

// unsaved tells whether something of a node is to be stored.
func (fs *FS) unsaved(n *node) bool {
	fs.mu.Lock()
	gone := n.gone
	fs.mu.Unlock()
	if gone {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.touched {
		return true
	}
	if n.content == nil {
		return false
	}
	_, changed, _ := n.content.now()
	return changed
}

// snapshot is what an object is to become.
type snapshot struct {
	meta    map[string]string
	ctype   string
	attrSeq uint64
	stored  bool
	etag    string
	content *content
}

func (fs *FS) snap(n *node) snapshot {
	n.mu.Lock()
	defer n.mu.Unlock()
	return snapshot{
		meta: fs.metadata(n.kind, n.link, &n.attrs), ctype: n.contentType, attrSeq: n.attrSeq,
		stored: n.stored, etag: n.etag, content: n.content,
	}
}

// storeNode stores what is unsaved of a node. Nobody waits for a store that is not urgent.
func (fs *FS) storeNode(ctx context.Context, n *node, urgent bool) error {
	if err := fs.useNode(ctx, n, false); err != nil {
		return err
	}
	defer fs.done(n)
	if err := n.takeSave(ctx); err != nil {
		return err
	}
	defer n.dropSave()
	for fs.unsaved(n) {
		s := fs.snap(n)
		var err error
		changed := false
		if s.content != nil {
			_, changed, _ = s.content.now()
		}
		if changed {
			err = fs.upload(ctx, n, s, urgent)
		} else {
			err = fs.restamp(ctx, n, s)
		}
		if err != nil {
			if err == errAgain {
				continue
			}
			if errors.Is(err, errYield) {
				return err
			}
			if fs.ctx.Err() == nil && !errors.Is(err, syscall.ESTALE) {
				fs.queue.failed(fs, n, err)
				if perr := fs.persistHeld(n); perr != nil {
					fs.log.Error("what could not be uploaded is in the memory of this process alone", "key", fs.key(n), "err", perr)
				}
			}
			return err
		}
	}
	fs.queue.remove(fs, n)
	return nil
}

// errYield ends an upload that a writer interrupts.
var errYield = errors.New("the file is being written")

// upload makes the object of a content.
func (fs *FS) upload(ctx context.Context, n *node, s snapshot, urgent bool) error {
	c := s.content
	fs.disk.use(c) // keeps its file open
	defer fs.leave(n, c)
	if !urgent {
		inner, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		yield := context.CancelFunc(func() { cancel(errYield) })
		c.yield.Store(&yield)
		defer c.yield.Store(nil)
		ctx = inner
	}
	c.gate.Lock()
	defer c.gate.Unlock()
	size, changed, seq := c.now()
	if !changed {
		return nil
	}
	s = fs.snap(n) // no write changes times now
	key := fs.key(n)
	info, err := fs.makeObject(ctx, key, n, c, size, s)
	if err != nil && context.Cause(ctx) == errYield {
		return errYield
	}
	if errors.Is(err, object.ErrPrecondition) || errors.Is(err, object.ErrExists) {
		info, err = fs.ourOwn(ctx, key, n, c, size, s, err)
		if errors.Is(err, object.ErrPrecondition) || errors.Is(err, object.ErrExists) {
			return fs.conflict(n, c, key, err)
		}
		if err == errAgain {
			return err
		}
	}
	if err != nil {
		n.mu.Lock()
		if s.meta != nil {
			n.attempts = append(n.attempts, attempt{size, s.meta})
			n.attempts = n.attempts[max(len(n.attempts)-attemptsKept, 0):]
		}
		n.mu.Unlock()
		return fail("upload", key, err)
	}
	fs.stats.uploads.Add(1)
	n.mu.Lock()
	n.stored, n.etag, n.size, n.checked, n.attempts = true, info.ETag, size, time.Now(), nil
	if n.attrSeq == s.attrSeq {
		n.touched = false
	}
	n.mu.Unlock()
	c.uploaded(version{key, info.ETag, size}, seq)
	fs.disk.unrecord(c)
	return nil
}

const (
	smallPut = 1 << 20 // is sent from memory
	partMost = 64 << 20
)

// makeObject puts a content, which stands still.
func (fs *FS) makeObject(ctx context.Context, key string, n *node, c *content, size int64, s snapshot) (object.Info, error) {
	opts := &object.PutOptions{ContentType: s.ctype, Metadata: s.meta}
	if err := fs.condition(ctx, key, s, opts); err != nil {
		return object.Info{}, err
	}
	if !c.allHere() {
		if info, done, err := fs.uploadChanges(ctx, key, c, size, s, opts); done || err != nil {
			return info, err
		}
		if err := fs.fetchAll(ctx, n, c); err != nil {
			if errors.Is(err, syscall.ESTALE) {
				err = fmt.Errorf("%w: %w", object.ErrPrecondition, err)
			}
			return object.Info{}, err
		}
	}
	body, err := c.body(size)
	if err != nil {
		return object.Info{}, err
	}
	if size <= smallPut {
		if err := fs.transfers.Acquire(ctx, copyBuffer); err != nil {
			return object.Info{}, err
		}
		defer fs.transfers.Release(copyBuffer)
		data := make([]byte, size)
		if _, err := io.ReadFull(body, data); err != nil {
			return object.Info{}, err
		}
		body = bytes.NewReader(data)
	}
	info, err := fs.store.Put(ctx, key, body, size, opts)
	if err == nil {
		fs.stats.uploaded.Add(size)
	}
	return info, err
}

// condition has the store replace only the object that is known. Where the store cannot do
// that, it is asked before.
func (fs *FS) condition(ctx context.Context, key string, s snapshot, opts *object.PutOptions) error {
	can := fs.store.Capabilities()
	switch {
	case !s.stored && can.PutIfAbsent:
		opts.IfAbsent = true
	case s.stored && can.PutIfMatch:
		opts.IfMatch = s.etag
	default:
		info, err := fs.head(ctx, key)
		switch {
		case errors.Is(err, object.ErrNotFound) && !s.stored, err == nil && s.stored && info.ETag == s.etag:
		case err != nil && !errors.Is(err, object.ErrNotFound):
			return err
		default:
			return object.ErrPrecondition
		}
	}
	return nil
}

// body returns the bytes of a content that is all here.
func (c *content) body(size int64) (io.ReadSeeker, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.f == nil && len(c.have) == 0 && size == 0 {
		return bytes.NewReader(nil), nil
	}
	if err := c.open(true); err != nil {
		return nil, err
	}
	if err := c.f.Truncate(size); err != nil { // a hole at the end
		return nil, err
	}
	return io.NewSectionReader(c.f, 0, size), nil
}

// ourOwn finds out whether the object that is in the way is of this mount: an attempt has stored
// it, and nobody heard of it. If it is what was to be put, it is returned. If it is an
// earlier attempt, errAgain: now that one is to be replaced. Otherwise the error is the given
// one, or why it could not be found out.
func (fs *FS) ourOwn(ctx context.Context, key string, n *node, c *content, size int64, s snapshot, failed error) (object.Info, error) {
	info, err := fs.head(ctx, key)
	if errors.Is(err, object.ErrNotFound) || err == nil && s.stored && info.ETag == s.etag {
		return object.Info{}, failed
	}
	if err != nil {
		return object.Info{}, err
	}
	now := attempt{size, s.meta}
	if s.meta != nil {
		if now.made(&info) {
			return info, nil
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, a := range n.attempts {
			if a.made(&info) {
				// What is not here of the old object is the same in this one.
				old := n.etag
				n.stored, n.etag = true, info.ETag
				c.rebase(old, version{key, info.ETag, info.Size})
				return object.Info{}, errAgain
			}
		}
		return object.Info{}, failed
	}
	if info.Size != size || !c.allHere() {
		return object.Info{}, failed
	}
	ours, err := c.body(size)
	if err != nil {
		return object.Info{}, err
	}
	theirs, _, err := fs.store.Get(ctx, key, 0, -1)
	if err != nil {
		return object.Info{}, err
	}
	defer theirs.Close()
	same, err := object.SameBytes(ours, theirs)
	if err == nil && !same {
		err = failed
	}
	return info, err
}

// errAgain: with what is known now it may succeed.
var errAgain = errors.New("to be tried again")

// attempt is an upload whose outcome is not known.
type attempt struct {
	size int64
	meta map[string]string
}

// made tells whether an object is what was to be put: its times are as good as a name.
func (a *attempt) made(info *object.Info) bool {
	if info.Size != a.size {
		return false
	}
	for _, k := range []string{metaMtime, metaCtime, metaBtime, metaUID, metaMode} {
		if info.Metadata[k] != a.meta[k] {
			return false
		}
	}
	return true
}

const attemptsKept = 8

// conflict gives up a content that lost against somebody else's change.
func (fs *FS) conflict(n *node, c *content, key string, cause error) error {
	where, err := fs.disk.setAside(c)
	fs.stats.conflicts.Add(1)
	fs.log.Error("somebody else has changed an object; what was written here is kept aside", "key", key, "kept", where, "err", cause)
	n.mu.Lock()
	if n.content == c {
		n.content = nil
	}
	n.touched, n.known, n.checked = false, false, time.Time{}
	stored := n.stored
	n.stored = true // whatever is there: the next look finds out
	if !stored {
		n.etag = ""
	}
	n.mu.Unlock()
	fs.queue.remove(fs, n)
	fs.feed.Send(vfs.Change{Kind: vfs.ChangeData, Ino: n.ino, Len: -1, Remote: true})
	return &vfs.Error{Op: "upload", Name: key, Err: errors.Join(vfs.WithErrno(syscall.ESTALE,
		fmt.Errorf("somebody else has changed the object; what was written here is kept in %s", where)), err)}
}

// restamp stores attributes alone.
func (fs *FS) restamp(ctx context.Context, n *node, s snapshot) error {
	key := fs.key(n)
	var info object.Info
	var err error
	switch {
	case fs.cfg.NoMetadata:
		// They are not kept.
	case n.isDir():
		if fs.real != nil || n.parent == nil {
			break
		}
		n.mu.Lock()
		a := n.attrs
		n.mu.Unlock()
		i, perr := fs.putMarker(ctx, n.path(), &a, false)
		if err = perr; i != nil {
			info = *i
		}
	case n.kind == syscall.S_IFLNK:
		n.mu.Lock()
		target := n.target
		n.mu.Unlock()
		if target == "" {
			body, _, gerr := fs.store.Get(ctx, key, 0, vfs.MaxSymlink)
			if gerr != nil {
				return fail("setattr", key, gerr)
			}
			b, rerr := io.ReadAll(body)
			body.Close()
			if rerr != nil {
				return fail("setattr", key, rerr)
			}
			target = string(b)
		}
		info, err = fs.putSmall(ctx, key, []byte(target), s.meta, false)
	default:
		if u, ok := object.As[object.Updater](fs.store); ok {
			info, err = u.Update(ctx, key, &object.PutOptions{IfMatch: s.etag, ContentType: s.ctype, Metadata: s.meta})
			break
		}
		return fs.rewrite(ctx, n)
	}
	if errors.Is(err, object.ErrPrecondition) || errors.Is(err, object.ErrNotFound) {
		// The attributes were of an object that is no more.
		fs.log.Warn("attributes are not stored: somebody else has changed the object", "key", key)
		n.mu.Lock()
		n.touched, n.checked = false, time.Time{}
		n.mu.Unlock()
		return nil
	}
	if err != nil {
		return fail("setattr", key, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.attrSeq == s.attrSeq {
		n.touched = false
	}
	if info.ETag != "" {
		old := version{key, n.etag, n.size}
		n.etag, n.stored = info.ETag, true
		if n.content != nil {
			n.content.rebase(old.etag, version{key, n.etag, n.size})
		} else {
			fs.disk.rekey(old, version{key, n.etag, n.size})
		}
	}
	return nil
}

// rewrite has the object of a file made anew, for a store that cannot change its metadata alone.
func (fs *FS) rewrite(ctx context.Context, n *node) error {
	n.mu.Lock()
	if n.content == nil {
		n.content = fs.disk.take(version{fs.key(n), n.etag, n.size})
	} else {
		fs.disk.use(n.content)
	}
	c := n.content
	n.mu.Unlock()
	defer fs.leave(n, c)
	if err := fs.fetchAll(ctx, n, c); err != nil {
		return err
	}
	c.mu.Lock()
	c.touch()
	c.mu.Unlock()
	return fs.upload(ctx, n, fs.snap(n), true) // errAgain has the caller go on
}
