// Package overlay is a writable tree over a read-only one: changes go to an upper tree,
// the lower one is never touched.
//
// An upper entry wins over a lower one of the same name; directories that are in both
// merge, unless the upper one is opaque. What is removed is hidden by a whiteout. A lower
// inode that is to change is copied up first. All that the layer has to say lies in the
// upper tree (doc/image.md): whiteouts and opaque directories as the kernel's overlayfs
// writes them, and a hidden directory with what is under construction and with the copies of
// lower inodes that have several names.
//
// # What the trees must be
//
// The lower tree does not change, and its inode numbers mean the same each time it is
// opened and lie below 2^47. The upper tree is the overlay's alone; it can rename with
// EXCHANGE, keeps devices 0/0 and extended attributes. Both are closed with the overlay.
//
// # Crashes
//
// Each operation is done by one step of the upper tree that shows its effect, or by
// steps of which none shows what was never there. Two things can be left: an empty
// directory that a directory was about to replace is gone already, and the link count of a
// lower inode with several names is one too high.
//
// # Inodes
//
// A lower inode keeps its number when it is copied up. Inodes that nobody has pinned or
// opened are forgotten when there are too many; their numbers then give ESTALE until they
// are looked up again, contrary to what package vfs promises. Doors pin what they use.
// For that reason no successor process can go on with numbers it was never asked for by
// name.
//
// # Exceptions
//
// Merged directories have a link count of 1. A copy-up takes the whole file, for a
// change of its attributes, too. A device 0/0 cannot be made (EPERM), and neither can the
// attributes of the layer be seen or set, nor a name ".massif-work" be used in the root.
// Reading a directory with a lower part takes memory for its names.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// Options say how two trees are joined.
type Options struct {
	// Limit bounds the bytes that the upper tree's files take; 0: none.
	Limit int64
	// Identity names the lower tree. An upper tree that was used with another one is
	// refused. Empty: not checked.
	Identity string
	// Volatile leaves it to the upper tree when a copy reaches the disk: a power failure
	// can then lose the content of files that were copied up.
	Volatile bool
	// MaxIdle bounds the inodes kept although nobody has pinned or opened them; 0: 65,536.
	MaxIdle int
	Logger  *slog.Logger // nil: slog.Default()
}

// Upper is what the upper tree must be able to do.
type Upper interface {
	vfs.FS
	vfs.XattrFS
}

// FS is the overlay.
type FS struct {
	upper  Upper
	lower  vfs.FS
	opts   Options
	log    *slog.Logger
	self   vfs.Caller // for what nobody asked for
	prefix string     // of the layer's attributes

	// mu is held for writing by whatever changes names, for reading by what looks at
	// them. It is not held while data is copied.
	mu    sync.RWMutex
	table table
	root  *node

	work, temp, index vfs.Ino // hidden directories of the upper tree
	serial            atomic.Uint64

	space  space
	copies chan struct{} // places for copy-ups
	closed atomic.Bool
}

var (
	_ vfs.FS       = (*FS)(nil)
	_ vfs.Pinner   = (*FS)(nil)
	_ vfs.XattrFS  = (*FS)(nil)
	_ vfs.PolicyFS = (*FS)(nil)
)

const (
	workName  = ".massif-work"
	tempName  = "temp"
	indexName = "index"
	// copyUps is how many files are copied up at once.
	copyUps = 4
)

// Names of attributes behind the prefix. The first two are those of the kernel.
const (
	attrOpaque   = "opaque"        // "y": a directory hides the lower one
	attrRedirect = "redirect"      // path of the lower directory that merges, from the root: "/a/b"
	attrOrigin   = "massif.origin" // number of the lower inode that was copied up
	attrIdentity = "massif.lower"  // of the root: Options.Identity
)

// New joins an upper and a lower tree. They belong to the overlay from then on, also if
// it fails. Errors: EBUSY-like refusals are sentences; EOPNOTSUPP if the upper tree cannot
// keep what the layer has to say.
func New(ctx context.Context, upper Upper, lower vfs.FS, opts Options) (_ *FS, err error) {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.MaxIdle <= 0 {
		opts.MaxIdle = 1 << 16
	}
	fs := &FS{
		upper: upper, lower: lower, opts: opts, log: opts.Logger, copies: make(chan struct{}, copyUps),
		self: vfs.Caller{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, upper.Close(), lower.Close())
		}
	}()
	fs.table.init(fs, opts.MaxIdle)
	fs.root = fs.table.addRoot()
	if err := fs.prepare(ctx); err != nil {
		return nil, err
	}
	fs.space.limit = opts.Limit
	if opts.Limit > 0 {
		used, err := fs.measure(ctx)
		if err != nil {
			return nil, fmt.Errorf("measuring the upper tree: %w", err)
		}
		fs.space.used = used
	}
	return fs, nil
}

// prepare makes the hidden directories, empties that of things under construction, and
// checks that the two trees belong together.
func (fs *FS) prepare(ctx context.Context) (err error) {
	if fs.work, err = fs.hidden(ctx, vfs.Root, workName); err != nil {
		return err
	}
	if fs.temp, err = fs.hidden(ctx, fs.work, tempName); err != nil {
		return err
	}
	if fs.index, err = fs.hidden(ctx, fs.work, indexName); err != nil {
		return err
	}
	for _, prefix := range []string{"trusted.overlay.", "user.overlay."} {
		if err = fs.upper.SetXattr(ctx, &fs.self, fs.work, prefix+"massif.test", []byte("y"), 0); err == nil {
			fs.prefix = prefix
			break
		}
	}
	if err != nil {
		return fmt.Errorf("the upper tree keeps no extended attributes: %w", err)
	}
	if err := fs.clear(ctx, fs.temp); err != nil {
		return fmt.Errorf("clean-up of the upper tree: %w", err)
	}
	if fs.opts.Identity == "" {
		return nil
	}
	have, err := fs.upper.GetXattr(ctx, &fs.self, vfs.Root, fs.prefix+attrIdentity)
	switch {
	case errors.Is(err, syscall.ENODATA):
		return fs.upper.SetXattr(ctx, &fs.self, vfs.Root, fs.prefix+attrIdentity, []byte(fs.opts.Identity), 0)
	case err != nil:
		return err
	case string(have) != fs.opts.Identity:
		return fmt.Errorf("the upper tree belongs to another lower one: it was made over %.80q, this is %.80q", have, fs.opts.Identity)
	}
	return nil
}

func (fs *FS) hidden(ctx context.Context, parent vfs.Ino, name string) (vfs.Ino, error) {
	var a vfs.Attr
	err := fs.upper.Lookup(ctx, &fs.self, parent, name, &a)
	if errors.Is(err, syscall.ENOENT) {
		err = fs.upper.Mkdir(ctx, &fs.self, parent, name, 0o700, &a)
	}
	if err != nil {
		return 0, fmt.Errorf("the layer's directory %s in the upper tree: %w", name, err)
	}
	fs.pinUpper(a.Ino)
	return a.Ino, nil
}

func (fs *FS) pinUpper(ino vfs.Ino) {
	if p, ok := fs.upper.(vfs.Pinner); ok {
		p.Pin(ino)
	}
}

func (fs *FS) unpinUpper(ino vfs.Ino) {
	if p, ok := fs.upper.(vfs.Pinner); ok {
		p.Unpin(ino)
	}
}

// clear removes all that lies in an upper directory.
func (fs *FS) clear(ctx context.Context, dir vfs.Ino) error {
	for {
		var names []vfs.DirEntry
		d, err := fs.upper.OpenDir(ctx, &fs.self, dir)
		if err != nil {
			return err
		}
		err = d.Read(ctx, 0, false, func(e *vfs.DirEntry) bool {
			names = append(names, vfs.DirEntry{Name: e.Name, Mode: e.Mode})
			return len(names) < 1000
		})
		if err = errors.Join(err, d.Close()); err != nil || len(names) == 0 {
			return err
		}
		for _, e := range names {
			if err := fs.discard(ctx, dir, e.Name, e.Mode == syscall.S_IFDIR); err != nil {
				return err
			}
		}
	}
}

// discard removes an upper entry with all that it holds.
func (fs *FS) discard(ctx context.Context, parent vfs.Ino, name string, isDir bool) error {
	if !isDir {
		return fs.upper.Unlink(ctx, &fs.self, parent, name)
	}
	var a vfs.Attr
	if err := fs.upper.Lookup(ctx, &fs.self, parent, name, &a); err != nil {
		return err
	}
	if err := fs.clear(ctx, a.Ino); err != nil {
		return err
	}
	return fs.upper.Rmdir(ctx, &fs.self, parent, name)
}

// Policy implements vfs.PolicyFS: what holds for both trees.
func (fs *FS) Policy() vfs.Policy {
	u, l := vfs.PolicyOf(fs.upper), vfs.PolicyOf(fs.lower)
	return vfs.Policy{
		EntryValid: min(u.EntryValid, l.EntryValid), AttrValid: min(u.AttrValid, l.AttrValid), NegativeValid: min(u.NegativeValid, l.NegativeValid),
		KeepCache: u.KeepCache && l.KeepCache, Exclusive: u.Exclusive && l.Exclusive,
	}
}

// Pin implements vfs.Pinner.
func (fs *FS) Pin(ino vfs.Ino) { fs.table.pin(ino, 1) }

// Unpin implements vfs.Pinner.
func (fs *FS) Unpin(ino vfs.Ino) { fs.table.pin(ino, -1) }

// Sync implements vfs.FS.
func (fs *FS) Sync(ctx context.Context) error {
	if err := fs.usable(); err != nil {
		return err
	}
	return fs.upper.Sync(ctx)
}

// Close implements vfs.FS. It closes both trees.
func (fs *FS) Close() error {
	if fs.closed.Swap(true) {
		return nil
	}
	return errors.Join(fs.upper.Close(), fs.lower.Close())
}

func (fs *FS) usable() error {
	if fs.closed.Load() {
		return syscall.EIO
	}
	return nil
}

// StatFS implements vfs.FS: the upper tree, as far as the limit lets it.
func (fs *FS) StatFS(ctx context.Context, _ *vfs.Caller, ino vfs.Ino, out *vfs.StatFS) error {
	if err := fs.usable(); err != nil {
		return err
	}
	if _, err := fs.get(ino); err != nil {
		return err
	}
	if err := fs.upper.StatFS(ctx, &fs.self, vfs.Root, out); err != nil {
		return err
	}
	fs.space.show(out)
	return nil
}

// get returns a node by its number; ESTALE.
func (fs *FS) get(ino vfs.Ino) (*node, error) {
	if n := fs.table.get(ino); n != nil {
		return n, nil
	}
	return nil, syscall.ESTALE
}

func isWhiteout(a *vfs.Attr) bool { return a.Type() == syscall.S_IFCHR && a.Rdev == 0 }

func fail(op, name string, err error) error {
	var errno syscall.Errno
	if err == nil || errors.As(err, &errno) && err == error(errno) {
		return err
	}
	return &vfs.Error{Op: op, Name: name, Err: err}
}
