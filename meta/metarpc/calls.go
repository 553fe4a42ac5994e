package metarpc

import (
	"bytes"
	"context"
	"syscall"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// The calls of meta.Session, as the client makes them.

// Format implements meta.Session.
func (c *Client) Format() meta.Format { return *c.format.Load() }

// attrCall makes a call that returns attributes.
func (c *Client) attrCall(ctx context.Context, k *call, out *vfs.Attr) error {
	d, err := c.finish(ctx, k)
	if err != nil {
		c.drop(k)
		return err
	}
	d.attr(out)
	return c.end(k, d)
}

// StatFS implements meta.Session.
func (c *Client) StatFS(ctx context.Context, cr *vfs.Caller, ino vfs.Ino, out *vfs.StatFS) error {
	k := c.begin(opStatFS)
	k.caller(cr)
	k.ino(ino)
	d, err := c.finish(ctx, k)
	if err != nil {
		c.drop(k)
		return err
	}
	*out = vfs.StatFS{BlockSize: d.u32(), Blocks: d.uint(), BlocksFree: d.uint(), Files: d.uint(), FilesFree: d.uint(), MaxName: d.u32()}
	return c.end(k, d)
}

// Lookup implements meta.Session.
func (c *Client) Lookup(ctx context.Context, cr *vfs.Caller, parent vfs.Ino, name string, out *vfs.Attr) error {
	if name != ".." {
		if err := c.checkName(name); err != nil {
			return err
		}
		if known, err := c.cache.lookup(parent, name, out); known {
			return err
		}
	}
	k := c.begin(opLookup)
	k.key = callKey{ino: parent, name: name}
	k.caller(cr)
	k.ino(parent)
	k.str(name)
	return c.attrCall(ctx, k, out)
}

// checkName refuses names that there cannot be before the cache says that there is none.
func (c *Client) checkName(name string) error {
	if c.format.Load().Seal == nil {
		return vfs.CheckName(name)
	}
	return meta.CheckStoredName(name)
}

// GetAttr implements meta.Session.
func (c *Client) GetAttr(ctx context.Context, cr *vfs.Caller, ino vfs.Ino, out *vfs.Attr) error {
	if c.cache.attr(ino, out) {
		return nil
	}
	c.uses.settle(c, ino)
	k := c.begin(opGetAttr)
	k.key.ino = ino
	k.caller(cr)
	k.ino(ino)
	return c.attrCall(ctx, k, out)
}

// SetAttr implements meta.Session.
func (c *Client) SetAttr(ctx context.Context, cr *vfs.Caller, ino vfs.Ino, set *vfs.SetAttr, out *vfs.Attr) error {
	k := c.begin(opSetAttr)
	k.caller(cr)
	k.ino(ino)
	k.uint(uint64(set.Valid))
	k.uint(uint64(set.Mode))
	k.uint(uint64(set.UID))
	k.uint(uint64(set.GID))
	k.uint(set.Size)
	k.time(set.Atime)
	k.time(set.Mtime)
	k.time(set.Ctime)
	return c.attrCall(ctx, k, out)
}

// Readlink implements meta.Session.
func (c *Client) Readlink(ctx context.Context, cr *vfs.Caller, ino vfs.Ino) (string, error) {
	if target, ok := c.cache.target(ino); ok {
		return target, nil
	}
	k := c.begin(opReadlink)
	k.key.ino = ino
	k.caller(cr)
	k.ino(ino)
	d, err := c.finish(ctx, k)
	if err != nil {
		c.drop(k)
		return "", err
	}
	target := d.str(meta.MaxStoredTarget)
	return target, c.end(k, d)
}

// Mknod implements meta.Session.
func (c *Client) Mknod(ctx context.Context, cr *vfs.Caller, parent vfs.Ino, name string, mode, rdev uint32, out *vfs.Attr) error {
	if err := meta.CheckStoredName(name); err != nil {
		return err
	}
	k := c.begin(opMknod)
	k.caller(cr)
	k.ino(parent)
	k.str(name)
	k.uint(uint64(mode))
	k.uint(uint64(rdev))
	return c.attrCall(ctx, k, out)
}

// Create implements meta.Creator.
func (c *Client) Create(ctx context.Context, cr *vfs.Caller, parent vfs.Ino, name string, mode uint32, out *vfs.Attr) error {
	if err := meta.CheckStoredName(name); err != nil {
		return err
	}
	k := c.begin(opCreate)
	k.key.use = true // the server has counted it
	k.caller(cr)
	k.ino(parent)
	k.str(name)
	k.uint(uint64(mode & 07777))
	return c.attrCall(ctx, k, out)
}

// Mkdir implements meta.Session.
func (c *Client) Mkdir(ctx context.Context, cr *vfs.Caller, parent vfs.Ino, name string, mode uint32, out *vfs.Attr) error {
	if err := meta.CheckStoredName(name); err != nil {
		return err
	}
	k := c.begin(opMkdir)
	k.caller(cr)
	k.ino(parent)
	k.str(name)
	k.uint(uint64(mode))
	return c.attrCall(ctx, k, out)
}

// Symlink implements meta.Session.
func (c *Client) Symlink(ctx context.Context, cr *vfs.Caller, parent vfs.Ino, name, target string, out *vfs.Attr) error {
	switch {
	case len(target) > meta.MaxStoredTarget:
		return syscall.ENAMETOOLONG
	case target == "":
		return syscall.ENOENT
	}
	if err := meta.CheckStoredName(name); err != nil {
		return err
	}
	k := c.begin(opSymlink)
	k.caller(cr)
	k.ino(parent)
	k.str(name)
	k.str(target)
	return c.attrCall(ctx, k, out)
}

// Link implements meta.Session.
func (c *Client) Link(ctx context.Context, cr *vfs.Caller, ino, parent vfs.Ino, name string, out *vfs.Attr) error {
	if err := meta.CheckStoredName(name); err != nil {
		return err
	}
	k := c.begin(opLink)
	k.caller(cr)
	k.ino(ino)
	k.ino(parent)
	k.str(name)
	return c.attrCall(ctx, k, out)
}

// Tmpfile implements meta.Session.
func (c *Client) Tmpfile(ctx context.Context, cr *vfs.Caller, parent vfs.Ino, mode uint32, linkable bool, out *vfs.Attr) error {
	k := c.begin(opTmpfile)
	k.key.use = true // the server has counted it
	k.caller(cr)
	k.ino(parent)
	k.uint(uint64(mode))
	k.bool(linkable)
	return c.attrCall(ctx, k, out)
}

// Unlink implements meta.Session.
func (c *Client) Unlink(ctx context.Context, cr *vfs.Caller, parent vfs.Ino, name string, out *vfs.Attr) error {
	if err := meta.CheckStoredName(name); err != nil {
		return err
	}
	k := c.begin(opUnlink)
	k.caller(cr)
	k.ino(parent)
	k.str(name)
	return c.attrCall(ctx, k, out)
}

// Rmdir implements meta.Session.
func (c *Client) Rmdir(ctx context.Context, cr *vfs.Caller, parent vfs.Ino, name string) error {
	if err := meta.CheckStoredName(name); err != nil {
		return err
	}
	k := c.begin(opRmdir)
	k.caller(cr)
	k.ino(parent)
	k.str(name)
	return c.simple(ctx, k)
}

// Rename implements meta.Session.
func (c *Client) Rename(ctx context.Context, cr *vfs.Caller, oldParent vfs.Ino, oldName string, newParent vfs.Ino, newName string, flags uint32, replaced *vfs.Attr) error {
	for _, name := range [...]string{oldName, newName} {
		if err := meta.CheckStoredName(name); err != nil {
			return err
		}
	}
	k := c.begin(opRename)
	k.caller(cr)
	k.ino(oldParent)
	k.str(oldName)
	k.ino(newParent)
	k.str(newName)
	k.uint(uint64(flags))
	return c.attrCall(ctx, k, replaced)
}

// pageEntries is how many entries of a directory a reply has at the most.
const pageEntries = 1024

// ReadDir implements meta.Session.
func (c *Client) ReadDir(ctx context.Context, cr *vfs.Caller, ino vfs.Ino, cookie uint64, plus bool, emit func(*vfs.DirEntry) bool) error {
	if done, err := c.readCached(ino, &cookie, plus, emit); done {
		return err
	}
	for {
		k := c.begin(opReadDir)
		k.key = callKey{ino: ino, cookie: cookie}
		k.caller(cr)
		k.ino(ino)
		k.uint(cookie)
		k.bool(plus)
		k.uint(pageEntries)
		d, err := c.finish(ctx, k)
		if err != nil {
			c.drop(k)
			return err
		}
		page, more := d.entries()
		if err := c.end(k, d); err != nil {
			return err
		}
		for i := range page {
			if !emit(&page[i]) {
				return nil
			}
			cookie = page[i].Cookie
		}
		if !more || len(page) == 0 {
			return nil
		}
	}
}

// readCached gives out what is known of a directory; done: that was all.
func (c *Client) readCached(ino vfs.Ino, cookie *uint64, plus bool, emit func(*vfs.DirEntry) bool) (done bool, err error) {
	var room [64]listedEntry
	var x vfs.DirEntry
	for {
		page, known := c.cache.list(ino, *cookie, room[:0])
		if !known {
			return false, nil
		}
		for i := range page {
			e := &page[i]
			x = vfs.DirEntry{Name: e.name, Ino: e.ino, Mode: e.mode, Cookie: e.cookie}
			x.HasAttr = plus && c.cache.attr(e.ino, &x.Attr)
			if !emit(&x) {
				return true, nil
			}
			*cookie = e.cookie
		}
		if len(page) < cap(room) {
			return true, nil
		}
	}
}

const (
	entryAttr   = 1 << iota // the attributes follow
	entryLeased             // and are leased
)

// entry appends an entry of a page.
func (e *encoder) entry(x *vfs.DirEntry) {
	if x.HasAttr {
		e.u8(entryAttr)
	} else {
		e.u8(0)
	}
	e.str(x.Name)
	e.uint(x.Cookie)
	if x.HasAttr {
		e.attr(&x.Attr)
	} else {
		e.ino(x.Ino)
		e.uint(uint64(x.Mode))
	}
}

// entries reads a page: its entries, and whether there are more behind it.
func (d *decoder) entries() (page []vfs.DirEntry, more bool) {
	more = d.bool()
	n := d.fixed32()
	if n > pageEntries {
		d.fail()
		return nil, false
	}
	page = make([]vfs.DirEntry, 0, n)
	for ; n > 0 && !d.bad; n-- {
		var x vfs.DirEntry
		d.entry(&x)
		page = append(page, x)
	}
	return page, more
}

func (d *decoder) entry(x *vfs.DirEntry) (leased bool) {
	flags := d.u8()
	*x = vfs.DirEntry{HasAttr: flags&entryAttr != 0, Name: d.str(meta.MaxStoredName), Cookie: d.uint()}
	if x.HasAttr {
		d.attr(&x.Attr)
		x.Ino, x.Mode = x.Attr.Ino, x.Attr.Type()
	} else {
		x.Ino, x.Mode = d.ino(), d.u32()
	}
	return flags&entryLeased != 0
}

// GetXattr implements meta.Session.
func (c *Client) GetXattr(ctx context.Context, cr *vfs.Caller, ino vfs.Ino, name string) ([]byte, error) {
	if len(name) > meta.MaxStoredXattrName {
		return nil, syscall.ERANGE
	}
	if err := c.format.Load().CheckStoredXattr(name); err != nil {
		return nil, err
	}
	if value, known := c.cache.xattr(ino, name); known {
		if value == nil {
			return nil, syscall.ENODATA
		}
		return bytes.Clone(value), nil
	}
	k := c.begin(opGetXattr)
	k.key = callKey{ino: ino, name: name}
	k.caller(cr)
	k.ino(ino)
	k.str(name)
	d, err := c.finish(ctx, k)
	if err != nil {
		c.drop(k)
		return nil, err
	}
	value := append([]byte{}, d.bytes(meta.MaxStoredXattr)...)
	return value, c.end(k, d)
}

// SetXattr implements meta.Session.
func (c *Client) SetXattr(ctx context.Context, cr *vfs.Caller, ino vfs.Ino, name string, value []byte, flags uint32) error {
	switch {
	case len(name) > meta.MaxStoredXattrName:
		return syscall.ERANGE
	case len(value) > meta.MaxStoredXattr:
		return syscall.E2BIG
	}
	k := c.begin(opSetXattr)
	k.caller(cr)
	k.ino(ino)
	k.str(name)
	k.bytes(value)
	k.uint(uint64(flags))
	return c.simple(ctx, k)
}

// ListXattr implements meta.Session.
func (c *Client) ListXattr(ctx context.Context, cr *vfs.Caller, ino vfs.Ino) (names []string, err error) {
	k := c.begin(opListXattr)
	k.caller(cr)
	k.ino(ino)
	d, err := c.finish(ctx, k)
	if err != nil {
		c.drop(k)
		return nil, err
	}
	for n := d.count(2); n > 0 && !d.bad; n-- {
		names = append(names, d.str(meta.MaxStoredXattrName))
	}
	return names, c.end(k, d)
}

// RemoveXattr implements meta.Session.
func (c *Client) RemoveXattr(ctx context.Context, cr *vfs.Caller, ino vfs.Ino, name string) error {
	if len(name) > meta.MaxStoredXattrName {
		return syscall.ERANGE
	}
	k := c.begin(opRemoveXattr)
	k.caller(cr)
	k.ino(ino)
	k.str(name)
	return c.simple(ctx, k)
}

// Touch implements meta.Session.
func (c *Client) Touch(ctx context.Context, ino vfs.Ino) error {
	if c.readOnly {
		return nil
	}
	k := c.begin(opTouch)
	k.ino(ino)
	return c.simple(ctx, k)
}

// Inline implements meta.Session.
func (c *Client) Inline(ctx context.Context, ino vfs.Ino) (data []byte, ok bool, err error) {
	if data, ok, known := c.cache.inline(ino); known {
		return bytes.Clone(data), ok, nil
	}
	k := c.begin(opInline)
	k.key.ino = ino
	k.ino(ino)
	d, err := c.finish(ctx, k)
	if err != nil {
		c.drop(k)
		return nil, false, err
	}
	if ok = d.bool(); ok {
		data = bytes.Clone(d.bytes(meta.MaxStoredInline))
	}
	return data, ok, c.end(k, d)
}

// Extents implements meta.Session.
func (c *Client) Extents(ctx context.Context, ino vfs.Ino, index uint32, dst []meta.Extent) ([]meta.Extent, error) {
	if list, known := c.cache.chunk(ino, index, dst); known {
		return list, nil
	}
	k := c.begin(opExtents)
	k.key = callKey{ino: ino, index: index}
	k.ino(ino)
	k.uint(uint64(index))
	d, err := c.finish(ctx, k)
	if err != nil {
		c.drop(k)
		return dst, err
	}
	dst = d.extents(dst)
	return dst, c.end(k, d)
}

// Commit implements meta.Session.
func (c *Client) Commit(ctx context.Context, blocks []meta.Block, writes []meta.FileWrite) (gone []bool, err error) {
	k := c.begin(opCommit)
	k.blocks(blocks)
	k.uint(uint64(len(writes)))
	for i := range writes {
		k.write(&writes[i])
	}
	d, err := c.finish(ctx, k)
	if err != nil {
		c.drop(k)
		return nil, err
	}
	gone = make([]bool, 0, len(writes))
	for range writes {
		gone = append(gone, d.bool())
	}
	if err := c.end(k, d); err != nil {
		return nil, err
	}
	for i := range writes {
		if n := writes[i].Reserved; n > 0 {
			c.space.add(writes[i].Ino, -n, 0)
		}
	}
	return gone, nil
}

const (
	writeSetInline = 1 << iota
	writeClearInline
	writeBase // a base follows
)

func (e *encoder) write(w *meta.FileWrite) {
	var flags uint8
	if w.SetInline {
		flags |= writeSetInline
	}
	if w.ClearInline {
		flags |= writeClearInline
	}
	if w.Base != nil {
		flags |= writeBase
	}
	e.u8(flags)
	e.ino(w.Ino)
	e.uint(w.Size)
	e.time(w.Mtime)
	e.int(w.Reserved)
	e.bytes(w.Inline)
	if w.Base != nil {
		e.uint(w.Base.Size)
		e.uint(w.Base.Inline)
	}
	e.uint(uint64(len(w.Chunks)))
	for _, ch := range w.Chunks {
		e.uint(uint64(ch.Index))
		e.extents(ch.Extents)
	}
}

func (d *decoder) write() (w meta.FileWrite) {
	flags := d.u8()
	w = meta.FileWrite{SetInline: flags&writeSetInline != 0, ClearInline: flags&writeClearInline != 0,
		Ino: d.ino(), Size: d.uint(), Mtime: d.time(), Reserved: d.int(), Inline: d.bytes(MaxFrame)}
	if flags&writeBase != 0 {
		w.Base = &meta.FileBase{Size: d.uint(), Inline: d.uint()}
	}
	for n := d.count(2); n > 0 && !d.bad; n-- {
		w.Chunks = append(w.Chunks, meta.Chunk{Index: d.u32(), Extents: d.extents(nil)})
	}
	return w
}

// Replace implements meta.Session.
func (c *Client) Replace(ctx context.Context, ino vfs.Ino, index uint32, old, new []meta.Extent, blocks []meta.Block) error {
	k := c.begin(opReplace)
	k.ino(ino)
	k.uint(uint64(index))
	k.extents(old)
	k.extents(new)
	k.blocks(blocks)
	return c.simple(ctx, k)
}

// Allocate implements meta.Session.
func (c *Client) Allocate(ctx context.Context, cr *vfs.Caller, ino vfs.Ino, mode uint32, off, length uint64) error {
	k := c.begin(opAllocate)
	k.caller(cr)
	k.ino(ino)
	k.uint(uint64(mode))
	k.uint(off)
	k.uint(length)
	return c.simple(ctx, k)
}

// Seek implements meta.Session.
func (c *Client) Seek(ctx context.Context, ino vfs.Ino, off int64, whence int) (int64, error) {
	k := c.begin(opSeek)
	k.ino(ino)
	k.int(off)
	k.int(int64(whence))
	d, err := c.finish(ctx, k)
	if err != nil {
		c.drop(k)
		return 0, err
	}
	at := d.int()
	return at, c.end(k, d)
}

// CopyRange implements meta.Session.
func (c *Client) CopyRange(ctx context.Context, cr *vfs.Caller, in vfs.Ino, inOff uint64, out vfs.Ino, outOff, n uint64) error {
	k := c.begin(opCopyRange)
	k.caller(cr)
	k.ino(in)
	k.uint(inOff)
	k.ino(out)
	k.uint(outOff)
	k.uint(n)
	return c.simple(ctx, k)
}

// GetLock implements meta.Session.
func (c *Client) GetLock(ctx context.Context, ino vfs.Ino, lock vfs.Lock) (vfs.Lock, error) {
	k := c.begin(opGetLock)
	k.ino(ino)
	k.lock(&lock)
	d, err := c.finish(ctx, k)
	if err != nil {
		c.drop(k)
		return vfs.Lock{}, err
	}
	found := d.lock()
	return found, c.end(k, d)
}

// SetLock implements meta.Session.
func (c *Client) SetLock(ctx context.Context, ino vfs.Ino, lock vfs.Lock, wait bool) error {
	k := c.begin(opSetLock)
	k.ino(ino)
	k.lock(&lock)
	k.bool(wait)
	err := c.simple(ctx, k)
	if err == nil {
		c.locks.set(ino, lock)
	} else if lock.Kind == vfs.LockFlock && lock.Type != vfs.LockUnlock {
		// Converting one has given up the old one, unless the request was not valid:
		// then a restoration would lock less than is held, which the next one repairs.
		c.locks.release(ino, lock.Owner, lock.Kind)
	}
	return err
}

// ReleaseLocks implements meta.Session.
func (c *Client) ReleaseLocks(ctx context.Context, ino vfs.Ino, owner uint64, kind vfs.LockKind) error {
	k := c.begin(opReleaseLocks)
	k.ino(ino)
	k.uint(owner)
	k.u8(uint8(kind))
	err := c.simple(ctx, k)
	if err == nil {
		c.locks.release(ino, owner, kind)
	}
	return err
}

// Command gives the server a command (see Volume.Command) and returns what it says.
// EACCES for a token that is not for administration.
func (c *Client) Command(ctx context.Context, name string, args []byte) ([]byte, error) {
	k := c.begin(opCommand)
	k.str(name)
	k.bytes(args)
	d, err := c.finish(ctx, k)
	if err != nil {
		c.drop(k)
		return nil, err
	}
	out := bytes.Clone(d.bytes(MaxFrame))
	return out, c.end(k, d)
}
