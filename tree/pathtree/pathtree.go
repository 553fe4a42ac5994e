// Package pathtree makes a read-only tree of what knows its files by path: an archive, a
// web server, a description. Such a [Source] lists directories and opens files; the tree
// gives them inode numbers, which it remembers while they are pinned or open, and some
// more. A number that is forgotten gives ESTALE until it is looked up again.
//
// The tree lacks everything that changes something (EROFS), links, devices and extended
// attributes. Positions in a listing are those of its order by name: stable while the
// directory does not change, and within one Dir from one reading of its beginning on.
package pathtree

import (
	"container/list"
	"context"
	"io"
	"path"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/massif-fs/massif/vfs"
)

// Info describes a file or directory.
type Info struct {
	Name  string
	Dir   bool
	Size  int64
	Mtime time.Time
	Mode  uint32 // permission bits; 0: 0444, 0555 for directories
}

// Source is what a tree is made of. Paths are slash-separated without a slash at the
// beginning, "" is the root. Errors carry an errno (vfs.ErrnoOf). It is used concurrently.
type Source interface {
	Stat(ctx context.Context, path string) (Info, error)
	List(ctx context.Context, path string) ([]Info, error)
	Open(ctx context.Context, path string) (Content, error)
	Close() error
}

// Content is an open file. ReadAt returns io.EOF with what is short, as io.ReaderAt has it.
type Content interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	Close() error
}

// FS is the tree.
type FS struct {
	src    Source
	uid    uint32
	gid    uint32
	policy vfs.Policy

	mu     sync.Mutex
	byPath map[string]*entry
	byIno  map[vfs.Ino]*entry
	idle   list.List
	next   vfs.Ino
	closed bool
	open   sync.WaitGroup // calls under way
}

type entry struct {
	ino   vfs.Ino
	path  string
	holds int
	idle  *list.Element
}

const maxIdle = 1 << 16

var (
	_ vfs.FS       = (*FS)(nil)
	_ vfs.Pinner   = (*FS)(nil)
	_ vfs.PolicyFS = (*FS)(nil)
)

// New makes a tree whose files belong to the given user and group. valid is how long
// doors may believe what it tells.
func New(src Source, uid, gid uint32, valid time.Duration) *FS {
	fs := &FS{
		src: src, uid: uid, gid: gid, policy: vfs.Policy{ReadOnly: true, EntryValid: valid, AttrValid: valid},
		byPath: map[string]*entry{}, byIno: map[vfs.Ino]*entry{}, next: vfs.Root,
	}
	fs.number("")
	fs.byPath[""].holds++
	fs.settleLocked(fs.byPath[""])
	return fs
}

// Policy implements vfs.PolicyFS.
func (fs *FS) Policy() vfs.Policy { return fs.policy }

// number finds or gives the number of a path.
func (fs *FS) number(p string) vfs.Ino {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if e := fs.byPath[p]; e != nil {
		if e.idle != nil {
			fs.idle.MoveToBack(e.idle)
		}
		return e.ino
	}
	e := &entry{ino: fs.next, path: p}
	fs.next++
	fs.byPath[p], fs.byIno[e.ino] = e, e
	fs.settleLocked(e)
	return e.ino
}

// Number gives the inode number of a path, for who shows a file as a root.
func (fs *FS) Number(p string) vfs.Ino { return fs.number(p) }

func (fs *FS) settleLocked(e *entry) {
	switch {
	case e.holds > 0 && e.idle != nil:
		fs.idle.Remove(e.idle)
		e.idle = nil
	case e.holds == 0 && e.idle == nil:
		e.idle = fs.idle.PushBack(e)
	}
	for fs.idle.Len() > maxIdle {
		old := fs.idle.Remove(fs.idle.Front()).(*entry)
		delete(fs.byPath, old.path)
		delete(fs.byIno, old.ino)
	}
}

func (fs *FS) hold(ino vfs.Ino, n int) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if e := fs.byIno[ino]; e != nil && ino != vfs.Root {
		e.holds = max(e.holds+n, 0)
		fs.settleLocked(e)
	}
}

// Pin implements vfs.Pinner.
func (fs *FS) Pin(ino vfs.Ino) { fs.hold(ino, 1) }

// Unpin implements vfs.Pinner.
func (fs *FS) Unpin(ino vfs.Ino) { fs.hold(ino, -1) }

// begin finds the path of an inode, for a call that ends with fs.open.Done.
func (fs *FS) begin(ino vfs.Ino) (string, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed {
		return "", syscall.EIO
	}
	e := fs.byIno[ino]
	if e == nil {
		return "", syscall.ESTALE
	}
	fs.open.Add(1)
	return e.path, nil
}

// PathOf tells the path of an inode number.
func (fs *FS) PathOf(ino vfs.Ino) (string, bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	e := fs.byIno[ino]
	if e == nil {
		return "", false
	}
	return e.path, true
}

func (fs *FS) fill(p string, i *Info, out *vfs.Attr) {
	t := vfs.TimeOf(i.Mtime)
	if i.Mtime.IsZero() {
		t = vfs.Time{}
	}
	*out = vfs.Attr{
		Ino: fs.number(p), Mode: modeOf(i), Nlink: 1, UID: fs.uid, GID: fs.gid, Size: uint64(max(i.Size, 0)), BlockSize: 4096,
		Atime: t, Mtime: t, Ctime: t, NoXattrs: true,
	}
	if i.Dir {
		out.Nlink, out.Size = 2, 0
	}
	out.Blocks = (out.Size + 511) / 512
}

func modeOf(i *Info) uint32 {
	mode := i.Mode & 0o777
	switch {
	case i.Dir && mode == 0:
		return syscall.S_IFDIR | 0o555
	case i.Dir:
		return syscall.S_IFDIR | mode
	case mode == 0:
		mode = 0o444
	}
	return syscall.S_IFREG | mode
}

// StatFS implements vfs.FS.
func (fs *FS) StatFS(_ context.Context, _ *vfs.Caller, ino vfs.Ino, out *vfs.StatFS) error {
	if _, err := fs.begin(ino); err != nil {
		return err
	}
	defer fs.open.Done()
	*out = vfs.StatFS{BlockSize: 4096, MaxName: vfs.MaxName}
	return nil
}

// Lookup implements vfs.FS.
func (fs *FS) Lookup(ctx context.Context, _ *vfs.Caller, parent vfs.Ino, name string, out *vfs.Attr) error {
	dir, err := fs.begin(parent)
	if err != nil {
		return err
	}
	defer fs.open.Done()
	p := path.Dir("/" + dir)[1:]
	if name != ".." {
		if err := vfs.CheckName(name); err != nil {
			return err
		}
		p = strings.TrimPrefix(dir+"/"+name, "/")
	}
	up, err := fs.src.Stat(ctx, dir)
	if err != nil {
		return err
	}
	if !up.Dir {
		return syscall.ENOTDIR
	}
	info, err := fs.src.Stat(ctx, p)
	if err != nil {
		return err
	}
	fs.fill(p, &info, out)
	return nil
}

// GetAttr implements vfs.FS.
func (fs *FS) GetAttr(ctx context.Context, _ *vfs.Caller, ino vfs.Ino, out *vfs.Attr) error {
	p, err := fs.begin(ino)
	if err != nil {
		return err
	}
	defer fs.open.Done()
	info, err := fs.src.Stat(ctx, p)
	if err != nil {
		return err
	}
	fs.fill(p, &info, out)
	return nil
}

// Open implements vfs.FS.
func (fs *FS) Open(ctx context.Context, _ *vfs.Caller, ino vfs.Ino, flags int) (vfs.File, error) {
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY || flags&syscall.O_TRUNC != 0 {
		return nil, syscall.EROFS
	}
	p, err := fs.begin(ino)
	if err != nil {
		return nil, err
	}
	defer fs.open.Done()
	info, err := fs.src.Stat(ctx, p)
	if err != nil {
		return nil, err
	}
	if info.Dir {
		return nil, syscall.EISDIR
	}
	c, err := fs.src.Open(ctx, p)
	if err != nil {
		return nil, err
	}
	fs.hold(ino, 1)
	return &file{fs: fs, ino: ino, content: c, size: info.Size}, nil
}

// OpenDir implements vfs.FS.
func (fs *FS) OpenDir(ctx context.Context, _ *vfs.Caller, ino vfs.Ino) (vfs.Dir, error) {
	p, err := fs.begin(ino)
	if err != nil {
		return nil, err
	}
	defer fs.open.Done()
	info, err := fs.src.Stat(ctx, p)
	if err != nil {
		return nil, err
	}
	if !info.Dir {
		return nil, syscall.ENOTDIR
	}
	fs.hold(ino, 1)
	return &dir{fs: fs, ino: ino}, nil
}

// Readlink implements vfs.FS: there are no links.
func (fs *FS) Readlink(_ context.Context, _ *vfs.Caller, ino vfs.Ino) (string, error) {
	if _, err := fs.begin(ino); err != nil {
		return "", err
	}
	defer fs.open.Done()
	return "", syscall.EINVAL
}

func (fs *FS) refuse(inos ...vfs.Ino) error {
	for _, ino := range inos {
		if _, err := fs.begin(ino); err != nil {
			return err
		}
		fs.open.Done()
	}
	return syscall.EROFS
}

// SetAttr implements vfs.FS.
func (fs *FS) SetAttr(_ context.Context, _ *vfs.Caller, ino vfs.Ino, _ *vfs.SetAttr, _ *vfs.Attr) error {
	return fs.refuse(ino)
}

// Mknod implements vfs.FS.
func (fs *FS) Mknod(_ context.Context, _ *vfs.Caller, parent vfs.Ino, _ string, _, _ uint32, _ *vfs.Attr) error {
	return fs.refuse(parent)
}

// Mkdir implements vfs.FS.
func (fs *FS) Mkdir(_ context.Context, _ *vfs.Caller, parent vfs.Ino, _ string, _ uint32, _ *vfs.Attr) error {
	return fs.refuse(parent)
}

// Symlink implements vfs.FS.
func (fs *FS) Symlink(_ context.Context, _ *vfs.Caller, parent vfs.Ino, _, _ string, _ *vfs.Attr) error {
	return fs.refuse(parent)
}

// Link implements vfs.FS.
func (fs *FS) Link(_ context.Context, _ *vfs.Caller, ino, parent vfs.Ino, _ string, _ *vfs.Attr) error {
	return fs.refuse(ino, parent)
}

// Unlink implements vfs.FS.
func (fs *FS) Unlink(_ context.Context, _ *vfs.Caller, parent vfs.Ino, _ string) error {
	return fs.refuse(parent)
}

// Rmdir implements vfs.FS.
func (fs *FS) Rmdir(_ context.Context, _ *vfs.Caller, parent vfs.Ino, _ string) error {
	return fs.refuse(parent)
}

// Rename implements vfs.FS.
func (fs *FS) Rename(_ context.Context, _ *vfs.Caller, from vfs.Ino, _ string, to vfs.Ino, _ string, _ uint32) error {
	return fs.refuse(from, to)
}

// Create implements vfs.FS.
func (fs *FS) Create(_ context.Context, _ *vfs.Caller, parent vfs.Ino, _ string, _ uint32, _ int, _ *vfs.Attr) (vfs.File, error) {
	return nil, fs.refuse(parent)
}

// Sync implements vfs.FS.
func (fs *FS) Sync(context.Context) error { return nil }

// Close implements vfs.FS.
func (fs *FS) Close() error {
	fs.mu.Lock()
	if fs.closed {
		fs.mu.Unlock()
		return nil
	}
	fs.closed = true
	fs.mu.Unlock()
	fs.open.Wait()
	return fs.src.Close()
}

// file is an open file.
type file struct {
	fs      *FS
	ino     vfs.Ino
	content Content
	size    int64
}

// ReadAt implements vfs.File.
func (f *file) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if _, err := f.fs.begin(f.ino); err != nil {
		return 0, err
	}
	defer f.fs.open.Done()
	n, err := f.content.ReadAt(ctx, p, off)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

func (f *file) WriteAt(context.Context, []byte, int64) (int, error) { return 0, f.refused() }
func (f *file) Truncate(context.Context, int64) error               { return f.refused() }

func (f *file) Allocate(context.Context, uint32, int64, int64) error { return f.refused() }

// refused is why a file that is open for reading is not written.
func (f *file) refused() error {
	if _, err := f.fs.begin(f.ino); err != nil {
		return err
	}
	f.fs.open.Done()
	return syscall.EBADF
}

// Seek implements vfs.File: all is data.
func (f *file) Seek(_ context.Context, off int64, whence int) (int64, error) {
	const data, hole = 3, 4
	switch {
	case whence != data && whence != hole:
		return 0, syscall.EINVAL
	case off >= f.size:
		return 0, syscall.ENXIO
	case whence == hole:
		return f.size, nil
	}
	return off, nil
}

func (f *file) Flush(context.Context) error      { return nil }
func (f *file) Sync(context.Context, bool) error { return nil }

// Close implements vfs.File.
func (f *file) Close() error {
	f.fs.hold(f.ino, -1)
	return f.content.Close()
}

// dir is an open directory: its listing of when it was last read from the beginning.
type dir struct {
	fs   *FS
	ino  vfs.Ino
	list []Info
	read bool
}

const firstCookie = 3

// Read implements vfs.Dir.
func (d *dir) Read(ctx context.Context, cookie uint64, plus bool, emit func(*vfs.DirEntry) bool) error {
	p, err := d.fs.begin(d.ino)
	if err != nil {
		return err
	}
	defer d.fs.open.Done()
	if cookie == 0 || !d.read {
		list, err := d.fs.src.List(ctx, p)
		if err != nil {
			return err
		}
		list = append([]Info(nil), list...)
		sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
		d.list, d.read = list, true
	}
	from := 0
	if cookie >= firstCookie {
		from = int(min(cookie-firstCookie+1, uint64(len(d.list))))
	}
	for i := from; i < len(d.list); i++ {
		info := &d.list[i]
		e := vfs.DirEntry{Name: info.Name, Cookie: firstCookie + uint64(i), HasAttr: true}
		d.fs.fill(strings.TrimPrefix(p+"/"+info.Name, "/"), info, &e.Attr)
		e.Ino, e.Mode = e.Attr.Ino, e.Attr.Type()
		if !emit(&e) {
			return nil
		}
	}
	return nil
}

func (d *dir) Sync(context.Context) error { return nil }

// Close implements vfs.Dir.
func (d *dir) Close() error {
	d.fs.hold(d.ino, -1)
	return nil
}
