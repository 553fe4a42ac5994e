package sealed

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/seal"
	"github.com/massif-fs/massif/vfs"
)

// Options of a Session. The zero value will do for the whole of a volume.
type Options struct {
	// Root is the inode number that the volume knows vfs.Root of the session by, where
	// that is a directory of the volume and called vfs.Root; 0: what the session says,
	// if it is Rooted, else vfs.Root.
	Root vfs.Ino
}

// Rooted is a session that may show a directory of the volume as vfs.Root.
type Rooted interface {
	// Root returns the number that the volume knows the session's vfs.Root by. It is
	// the same for the life of the session.
	Root() vfs.Ino
}

// New wraps a session of an encrypted volume. The result closes it; it implements
// what the session does of the optional interfaces of package meta. EINVAL if the
// volume is not encrypted, ENOKEY if the key is not its key: what a server says of a
// volume cannot make a client that has a key store plain text.
func New(inner meta.Session, key *seal.Key, o Options) (meta.Session, error) {
	f := inner.Format()
	if err := Check(&f, key); err != nil {
		return nil, err
	}
	if r, ok := inner.(Rooted); ok && o.Root == 0 {
		o.Root = r.Root()
	}
	s := &session{in: inner, keys: key.Meta(), root: max(o.Root, vfs.Root)}
	if leased, ok := inner.(meta.LeasedSession); ok {
		return &leasedSession{s, leased}, nil
	}
	return s, nil
}

// Check returns an error unless a volume of these settings is encrypted with the key.
func Check(f *meta.Format, key *seal.Key) error {
	switch {
	case f.Seal == nil:
		return vfs.WithErrno(syscall.EINVAL, fmt.Errorf("volume %s is not encrypted", f.Name))
	case f.Seal.KeyID != key.ID():
		return vfs.WithErrno(syscall.ENOKEY, fmt.Errorf("volume %s is encrypted with another key", f.Name))
	}
	return nil
}

// session seals on the way to in. Each method of meta.Session is written out: one
// that is added there must be thought about here.
type session struct {
	in   meta.Session
	keys *seal.Meta
	root vfs.Ino
	sums inlineSums

	names nameCache
}

var _ meta.Session = (*session)(nil)

// place is the number that the volume knows an inode by.
func (s *session) place(ino vfs.Ino) uint64 {
	if ino == vfs.Root {
		return uint64(s.root)
	}
	return uint64(ino)
}

// damaged is the error of what cannot be opened.
func damaged(format string, args ...any) error {
	return vfs.WithErrno(syscall.EIO, fmt.Errorf(format, args...))
}

// named makes an error speak of the plain name.
func named(err error, plain string) error {
	var e *vfs.Error
	if err == nil || !errors.As(err, &e) || e != err || !seal.ValidText(e.Name) {
		return err
	}
	return &vfs.Error{Op: e.Op, Name: plain, Err: e.Err}
}

func (s *session) Format() meta.Format { return s.in.Format() }

func (s *session) StatFS(ctx context.Context, c *vfs.Caller, ino vfs.Ino, out *vfs.StatFS) error {
	return s.in.StatFS(ctx, c, ino, out)
}

func (s *session) Lookup(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, out *vfs.Attr) error {
	if name == ".." {
		return s.in.Lookup(ctx, c, parent, name, out)
	}
	sealed, err := s.name(parent, name)
	if err != nil {
		return err
	}
	return named(s.in.Lookup(ctx, c, parent, sealed, out), name)
}

func (s *session) GetAttr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, out *vfs.Attr) error {
	return s.in.GetAttr(ctx, c, ino, out)
}

func (s *session) SetAttr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, set *vfs.SetAttr, out *vfs.Attr) error {
	return s.in.SetAttr(ctx, c, ino, set, out)
}

func (s *session) Readlink(ctx context.Context, c *vfs.Caller, ino vfs.Ino) (string, error) {
	sealed, err := s.in.Readlink(ctx, c, ino)
	if err != nil {
		return "", err
	}
	target, err := s.keys.OpenTarget(sealed)
	if err != nil {
		return "", damaged("the target of symbolic link %d cannot be read: %w", ino, err)
	}
	return target, nil
}

func (s *session) Mknod(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode, rdev uint32, out *vfs.Attr) error {
	sealed, err := s.name(parent, name)
	if err != nil {
		return err
	}
	return named(s.in.Mknod(ctx, c, parent, sealed, mode, rdev, out), name)
}

// Create implements meta.Creator.
func (s *session) Create(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, out *vfs.Attr) error {
	sealed, err := s.name(parent, name)
	if err != nil {
		return err
	}
	if in, ok := s.in.(meta.Creator); ok {
		return named(in.Create(ctx, c, parent, sealed, mode, out), name)
	}
	if err := s.in.Mknod(ctx, c, parent, sealed, mode&07777|syscall.S_IFREG, 0, out); err != nil {
		return named(err, name)
	}
	s.in.Open(out.Ino)
	return nil
}

func (s *session) Mkdir(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, out *vfs.Attr) error {
	sealed, err := s.name(parent, name)
	if err != nil {
		return err
	}
	return named(s.in.Mkdir(ctx, c, parent, sealed, mode, out), name)
}

func (s *session) Symlink(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name, target string, out *vfs.Attr) error {
	switch {
	case len(target) > vfs.MaxSymlink:
		return syscall.ENAMETOOLONG
	case target == "":
		return syscall.ENOENT
	}
	sealed, err := s.name(parent, name)
	if err != nil {
		return err
	}
	return named(s.in.Symlink(ctx, c, parent, sealed, s.keys.Target(target), out), name)
}

func (s *session) Link(ctx context.Context, c *vfs.Caller, ino, parent vfs.Ino, name string, out *vfs.Attr) error {
	sealed, err := s.name(parent, name)
	if err != nil {
		return err
	}
	return named(s.in.Link(ctx, c, ino, parent, sealed, out), name)
}

func (s *session) Tmpfile(ctx context.Context, c *vfs.Caller, parent vfs.Ino, mode uint32, linkable bool, out *vfs.Attr) error {
	return s.in.Tmpfile(ctx, c, parent, mode, linkable, out)
}

func (s *session) Unlink(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, out *vfs.Attr) error {
	sealed, err := s.name(parent, name)
	if err != nil {
		return err
	}
	return named(s.in.Unlink(ctx, c, parent, sealed, out), name)
}

func (s *session) Rmdir(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string) error {
	sealed, err := s.name(parent, name)
	if err != nil {
		return err
	}
	return named(s.in.Rmdir(ctx, c, parent, sealed), name)
}

func (s *session) Rename(ctx context.Context, c *vfs.Caller, oldParent vfs.Ino, oldName string, newParent vfs.Ino, newName string, flags uint32, replaced *vfs.Attr) error {
	from, err := s.name(oldParent, oldName)
	if err != nil {
		return err
	}
	to, err := s.name(newParent, newName)
	if err != nil {
		return err
	}
	return named(s.in.Rename(ctx, c, oldParent, from, newParent, to, flags, replaced), oldName)
}

func (s *session) ReadDir(ctx context.Context, c *vfs.Caller, ino vfs.Ino, cookie uint64, plus bool, emit func(*vfs.DirEntry) bool) error {
	var failed error
	var open vfs.DirEntry
	err := s.in.ReadDir(ctx, c, ino, cookie, plus, func(e *vfs.DirEntry) bool {
		open = *e
		if open.Name, failed = s.openName(ino, e.Ino, e.Name); failed != nil {
			return false
		}
		return emit(&open)
	})
	if failed != nil {
		return &vfs.Error{Op: "read directory", Err: failed}
	}
	return err
}

// xattrName seals the name of an attribute, if it is one that is sealed.
func (s *session) xattrName(ino vfs.Ino, name string) (stored string, sealed bool, err error) {
	if err := meta.CheckXattr(name); err != nil {
		return "", false, err
	}
	if isACL(name) {
		return name, false, nil
	}
	space, rest, _ := strings.Cut(name, ".")
	return space + "." + s.keys.XattrName(s.place(ino), rest), true, nil
}

func isACL(name string) bool { return name == vfs.XattrACLAccess || name == vfs.XattrACLDefault }

func (s *session) GetXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string) ([]byte, error) {
	stored, sealed, err := s.xattrName(ino, name)
	if err != nil {
		return nil, err
	}
	value, err := s.in.GetXattr(ctx, c, ino, stored)
	if err != nil || !sealed {
		return value, attrNamed(err, name)
	}
	if value, err = s.keys.OpenXattr(s.place(ino), name, value); err != nil {
		return nil, damaged("attribute %s of inode %d cannot be read: %w", name, ino, err)
	}
	return value, nil
}

// attrNamed is named for attributes.
func attrNamed(err error, plain string) error {
	var e *vfs.Error
	if err == nil || !errors.As(err, &e) || e != err || e.Name == "" {
		return err
	}
	return &vfs.Error{Op: e.Op, Name: plain, Err: e.Err}
}

func (s *session) SetXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string, value []byte, flags uint32) error {
	stored, sealed, err := s.xattrName(ino, name)
	if err != nil {
		return err
	}
	if sealed {
		if len(value) > meta.MaxXattrValue {
			return syscall.E2BIG
		}
		value = s.keys.Xattr(s.place(ino), name, value)
	}
	return attrNamed(s.in.SetXattr(ctx, c, ino, stored, value, flags), name)
}

func (s *session) ListXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino) ([]string, error) {
	stored, err := s.in.ListXattr(ctx, c, ino)
	if err != nil || len(stored) == 0 {
		return nil, err
	}
	names := make([]string, len(stored))
	for i, name := range stored {
		if names[i], err = openXattrName(s.keys, s.place(ino), name); err != nil {
			return nil, damaged("the name of an attribute of inode %d cannot be read: %w", ino, err)
		}
	}
	return names, nil
}

func openXattrName(keys *seal.Meta, ino uint64, stored string) (string, error) {
	if isACL(stored) {
		return stored, nil
	}
	space, rest, _ := strings.Cut(stored, ".")
	name, err := keys.OpenXattrName(ino, rest)
	return space + "." + name, err
}

func (s *session) RemoveXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string) error {
	stored, _, err := s.xattrName(ino, name)
	if err != nil {
		return err
	}
	return attrNamed(s.in.RemoveXattr(ctx, c, ino, stored), name)
}

func (s *session) Open(ino vfs.Ino)           { s.in.Open(ino) }
func (s *session) Release(ino vfs.Ino, n int) { s.in.Release(ino, n) }

func (s *session) Touch(ctx context.Context, ino vfs.Ino) error { return s.in.Touch(ctx, ino) }

func (s *session) Extents(ctx context.Context, ino vfs.Ino, index uint32, dst []meta.Extent) ([]meta.Extent, error) {
	return s.in.Extents(ctx, ino, index, dst)
}

func (s *session) AllocBlocks(ctx context.Context, n int) (first uint64, err error) {
	return s.in.AllocBlocks(ctx, n)
}

func (s *session) Replace(ctx context.Context, ino vfs.Ino, index uint32, old, new []meta.Extent, blocks []meta.Block) error {
	return s.in.Replace(ctx, ino, index, old, new, blocks)
}

func (s *session) Reserve(ctx context.Context, ino vfs.Ino, bytes int64) error {
	return s.in.Reserve(ctx, ino, bytes)
}

func (s *session) Unreserve(ino vfs.Ino, bytes int64) { s.in.Unreserve(ino, bytes) }

func (s *session) Allocate(ctx context.Context, c *vfs.Caller, ino vfs.Ino, mode uint32, off, length uint64) error {
	return s.in.Allocate(ctx, c, ino, mode, off, length)
}

func (s *session) Seek(ctx context.Context, ino vfs.Ino, off int64, whence int) (int64, error) {
	return s.in.Seek(ctx, ino, off, whence)
}

func (s *session) CopyRange(ctx context.Context, c *vfs.Caller, in vfs.Ino, inOff uint64, out vfs.Ino, outOff, n uint64) error {
	return s.in.CopyRange(ctx, c, in, inOff, out, outOff, n)
}

func (s *session) GetLock(ctx context.Context, ino vfs.Ino, lock vfs.Lock) (vfs.Lock, error) {
	return s.in.GetLock(ctx, ino, lock)
}

func (s *session) SetLock(ctx context.Context, ino vfs.Ino, lock vfs.Lock, wait bool) error {
	return s.in.SetLock(ctx, ino, lock, wait)
}

func (s *session) ReleaseLocks(ctx context.Context, ino vfs.Ino, owner uint64, kind vfs.LockKind) error {
	return s.in.ReleaseLocks(ctx, ino, owner, kind)
}

func (s *session) Watch(fn func(vfs.Change)) (stop func()) {
	return s.in.Watch(func(c vfs.Change) { fn(s.openChange(c)) })
}

// openChange makes a change tell the plain name. Where that cannot be had, more may
// have changed than has.
func (s *session) openChange(c vfs.Change) vfs.Change {
	if c.Kind != vfs.ChangeEntry || c.Name == "" {
		return c
	}
	name, err := s.openName(c.Parent, c.Ino, c.Name)
	if err != nil && c.Ack == nil {
		return vfs.Change{Kind: vfs.ChangeAll, Remote: c.Remote}
	}
	c.Name = name // none: all names of the directory
	return c
}

func (s *session) Sync(ctx context.Context) error { return s.in.Sync(ctx) }

// SyncInode implements meta.InodeSyncer.
func (s *session) SyncInode(ctx context.Context, ino vfs.Ino) error {
	return meta.SyncInode(ctx, s.in, ino)
}

func (s *session) Close() error { return s.in.Close() }

// leasedSession is session over a meta.LeasedSession.
type leasedSession struct {
	*session
	leased meta.LeasedSession
}

var _ meta.LeasedSession = (*leasedSession)(nil)

func (s *leasedSession) Leased(ino vfs.Ino) meta.Leases { return s.leased.Leased(ino) }

func (s *leasedSession) OnRecall(fn func(meta.Recall)) {
	s.leased.OnRecall(func(r meta.Recall) {
		if r.Name != "" {
			// A name that cannot be opened stands for all of them.
			r.Name, _ = s.names.open(s.keys, s.place(r.Ino), r.Name)
		}
		fn(r)
	})
}
