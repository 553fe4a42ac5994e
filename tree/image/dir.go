package image

import (
	"context"
	"syscall"

	"github.com/massif-fs/massif/flist"
	"github.com/massif-fs/massif/vfs"
)

// dirBatch is how many entries are asked for at once.
const dirBatch = 512

// dir is an open directory.
type dir struct {
	fs     *FS
	ino    vfs.Ino
	batch  []flist.Entry
	after  uint64 // position that batch begins behind
	closed bool
	e      vfs.DirEntry
}

// OpenDir implements vfs.FS.
func (fs *FS) OpenDir(ctx context.Context, _ *vfs.Caller, ino vfs.Ino) (vfs.Dir, error) {
	if err := fs.usable(); err != nil {
		return nil, err
	}
	a, err := fs.im.Attr(ctx, uint64(ino))
	if err != nil {
		return nil, fs.fail("opendir", ino, err)
	}
	if a.Type() != syscall.S_IFDIR {
		return nil, syscall.ENOTDIR
	}
	return &dir{fs: fs, ino: ino}, nil
}

// Read implements vfs.Dir. Attributes come with the entries anyhow.
func (d *dir) Read(ctx context.Context, cookie uint64, _ bool, emit func(*vfs.DirEntry) bool) error {
	if d.closed {
		return syscall.EBADF
	}
	if err := d.fs.usable(); err != nil {
		return err
	}
	for {
		list, err := d.behind(ctx, cookie)
		if err != nil {
			return d.fs.fail("readdir", d.ino, err)
		}
		if len(list) == 0 {
			return nil
		}
		for i := range list {
			e := &list[i]
			d.e = vfs.DirEntry{Name: e.Name, Ino: vfs.Ino(e.Attr.Ino), Mode: e.Attr.Type(), Cookie: e.Cookie, HasAttr: true}
			d.fs.fill(&e.Attr, &d.e.Attr)
			if !emit(&d.e) {
				return nil
			}
			cookie = e.Cookie
		}
	}
}

// behind returns entries behind a position, from the last batch if it has them.
func (d *dir) behind(ctx context.Context, cookie uint64) ([]flist.Entry, error) {
	if len(d.batch) > 0 && cookie >= d.after && cookie < d.batch[len(d.batch)-1].Cookie {
		for i := range d.batch {
			if d.batch[i].Cookie > cookie {
				return d.batch[i:], nil
			}
		}
	}
	list, err := d.fs.im.ReadDir(ctx, uint64(d.ino), cookie, dirBatch)
	d.batch, d.after = list, cookie
	return list, err
}

// Sync implements vfs.Dir.
func (d *dir) Sync(context.Context) error {
	if d.closed {
		return syscall.EBADF
	}
	return d.fs.usable()
}

// Close implements vfs.Dir.
func (d *dir) Close() error {
	if d.closed {
		return syscall.EBADF
	}
	d.closed = true
	return nil
}
