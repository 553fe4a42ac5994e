package bucket

import (
	"context"
	"errors"
	"syscall"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/vfs"
)

// persist makes what was written survive a crash of this process and of the machine.
func (fs *FS) persist(ctx context.Context, n *node) error {
	if err := fs.useNode(ctx, n, false); err != nil {
		return err
	}
	defer fs.done(n)
	n.mu.Lock()
	c := n.content
	n.mu.Unlock()
	if c == nil {
		return nil
	}
	if cancel := c.yield.Load(); cancel != nil {
		(*cancel)()
	}
	if err := n.takeSave(ctx); err != nil {
		return err
	}
	defer n.dropSave()
	return fs.persistHeld(n)
}

// persistHeld is persist for whoever has the node's save and place.
func (fs *FS) persistHeld(n *node) error {
	s := fs.snap(n)
	c := s.content
	if c == nil {
		return nil
	}
	fs.disk.use(c)
	defer fs.leave(n, c)
	c.mu.Lock()
	if !c.changed || c.stale {
		c.mu.Unlock()
		return nil
	}
	// What a write that comes now adds is not in the record, and not promised.
	rec := c.record(&record{Key: fs.key(n), Meta: s.meta, Type: s.ctype})
	if s.stored {
		rec.Replaces = s.etag
	}
	f := c.f
	if f == nil && len(c.have) > 0 {
		if err := c.open(false); err != nil {
			c.mu.Unlock()
			return err
		}
		f = c.f
	}
	c.mu.Unlock()
	if f != nil {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := writeDurable(c.recordPath(), rec.encode()); err != nil {
		return err
	}
	c.mu.Lock()
	c.recorded = true
	c.mu.Unlock()
	return nil
}

// keepAll makes everything unsaved survive the end of this process.
func (fs *FS) keepAll() error {
	fs.mu.Lock()
	var nodes []*node
	for _, n := range fs.table {
		if n.kind == syscall.S_IFREG && !n.gone && (n.queued || n.opens > 0) {
			nodes = append(nodes, n)
		}
	}
	fs.mu.Unlock()
	var errs []error
	for _, n := range nodes {
		errs = append(errs, fs.persistHeld(n))
	}
	return errors.Join(errs...)
}

// adopt takes over what an earlier mount has left to upload.
func (fs *FS) adopt(pending []*content) {
	for _, c := range pending {
		rec := c.pending
		c.pending = nil
		c.recorded = true
		dir, name, err := fs.placeFor(rec.Key)
		if err != nil {
			where, serr := fs.disk.setAside(c)
			fs.log.Error("what an earlier mount left to upload has no place; it is kept aside", "key", rec.Key, "kept", where, "err", errors.Join(err, serr))
			continue
		}
		info := &object.Info{Metadata: rec.Meta, ContentType: rec.Type, ModTime: fs.begun}
		fs.mu.Lock()
		n := fs.newNode(dir, name, syscall.S_IFREG)
		n.queued = true
		fs.unidle(n)
		n.mu.Lock()
		n.attrs, n.known, n.checked = fs.attrsOf(n.kind, info), true, fs.begun
		n.stored, n.etag, n.size = rec.Replaces != "", rec.Replaces, c.base.size
		n.content = c
		n.mu.Unlock()
		fs.mu.Unlock()
		fs.queue.add(fs, n, 0)
	}
	if len(pending) > 0 {
		fs.log.Info("uploading what an earlier mount has left", "files", len(pending))
	}
}

// placeFor makes nodes of the directories above a key.
func (fs *FS) placeFor(key string) (*node, string, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	dir := fs.root
	for {
		name, rest, more := cutKey(key)
		if err := vfs.CheckName(name); err != nil {
			return nil, "", err
		}
		child := dir.children[name]
		if !more {
			if child != nil {
				return nil, "", syscall.EEXIST
			}
			return dir, name, nil
		}
		if child == nil {
			child = fs.newNode(dir, name, syscall.S_IFDIR)
			child.attrs = fs.defaults(syscall.S_IFDIR, vfs.TimeOf(fs.begun))
			child.known = true
		}
		if !child.isDir() {
			return nil, "", syscall.ENOTDIR
		}
		dir, key = child, rest
	}
}

func cutKey(key string) (name, rest string, more bool) {
	for i := range len(key) {
		if key[i] == '/' {
			return key[:i], key[i+1:], true
		}
	}
	return key, "", false
}
