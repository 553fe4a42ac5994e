package local

import (
	"context"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/vfs"
)

// Options say how a directory is presented.
type Options struct {
	// ReadOnly makes all changes fail with EROFS.
	ReadOnly bool
	// Exclusive promises that nobody else changes the directory while the tree is
	// open, so that doors may cache without limit.
	Exclusive bool
	// Valid is how long doors may believe names and attributes without asking
	// again, if not Exclusive. 0: not at all.
	Valid time.Duration
	// MaxDescriptors bounds the cache of open descriptors. Default 1024.
	MaxDescriptors int
	// MaxIdle bounds the inodes kept although nobody has pinned or opened them.
	// Default 262,144 where files can be opened by handle, else 4096.
	MaxIdle int
}

// FS is a directory of the host as a tree.
type FS struct {
	opts  Options
	table table
	root  *inode
	as    *identity // nil: inodes are made in the process's own name
	done  atomic.Bool
}

var (
	_ vfs.FS          = (*FS)(nil)
	_ vfs.Pinner      = (*FS)(nil)
	_ vfs.XattrFS     = (*FS)(nil)
	_ vfs.CopyFS      = (*FS)(nil)
	_ vfs.TmpfileFS   = (*FS)(nil)
	_ vfs.StatelessFS = (*FS)(nil)
	_ vfs.PolicyFS    = (*FS)(nil)
)

// Open opens a directory.
func Open(dir string, opts Options) (*FS, error) {
	if opts.MaxDescriptors <= 0 {
		opts.MaxDescriptors = 1024
	}
	if opts.MaxIdle <= 0 {
		opts.MaxIdle = 4096
		if handlesAllowed() {
			opts.MaxIdle = 1 << 18
		}
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &vfs.Error{Op: "open", Name: dir, Err: err}
	}
	var st unix.Statx_t
	if err := statx(fd, &st); err != nil {
		unix.Close(fd)
		return nil, &vfs.Error{Op: "stat", Name: dir, Err: err}
	}
	fs := &FS{opts: opts, as: newIdentity()}
	fs.table.init(opts.MaxDescriptors, opts.MaxIdle)
	fs.table.dev = unix.Mkdev(st.Dev_major, st.Dev_minor)
	root := &inode{
		ino: vfs.Root, typ: unix.S_IFDIR, key: hostKey{fs.table.dev, st.Ino}, fd: fd, pins: 1,
		orphan: true, // never closed
	}
	root.gen = generation(handleOf(fd), &st)
	fs.table.byIno[vfs.Root] = root
	fs.table.byKey[root.key] = root
	fs.table.addMount(fs.table.dev, fd, &st)
	fs.root = root
	return fs, nil
}

// Policy implements vfs.PolicyFS.
func (fs *FS) Policy() vfs.Policy {
	p := vfs.Policy{ReadOnly: fs.opts.ReadOnly}
	if fs.opts.Exclusive {
		p.EntryValid, p.AttrValid, p.NegativeValid = vfs.Forever, vfs.Forever, vfs.Forever
		p.KeepCache, p.Exclusive = true, true
	} else {
		p.EntryValid, p.AttrValid = fs.opts.Valid, fs.opts.Valid
	}
	return p
}

// Pin implements vfs.Pinner.
func (fs *FS) Pin(ino vfs.Ino) { fs.table.count(ino, 1, 0) }

// Unpin implements vfs.Pinner.
func (fs *FS) Unpin(ino vfs.Ino) { fs.table.count(ino, -1, 0) }

// StatFS implements vfs.FS.
func (fs *FS) StatFS(ctx context.Context, c *vfs.Caller, ino vfs.Ino, out *vfs.StatFS) error {
	n, err := fs.table.ref(ino)
	if err != nil {
		return err
	}
	defer fs.table.unref(n)
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(n.fd, &st) }); err != nil {
		return err
	}
	unit := uint64(st.Frsize)
	if unit == 0 {
		unit = uint64(st.Bsize)
	}
	*out = vfs.StatFS{
		BlockSize: uint32(unit), Blocks: st.Blocks, BlocksFree: st.Bavail,
		Files: st.Files, FilesFree: st.Ffree, MaxName: min(uint32(st.Namelen), vfs.MaxName),
	}
	return nil
}

// Sync implements vfs.FS.
func (fs *FS) Sync(ctx context.Context) error {
	dir, err := unix.Open(procPath(fs.root.fd), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &vfs.Error{Op: "sync", Err: err}
	}
	defer unix.Close(dir)
	if err := unix.Syncfs(dir); err != nil {
		return &vfs.Error{Op: "sync", Err: err}
	}
	return nil
}

// Close implements vfs.FS.
func (fs *FS) Close() error {
	if fs.done.Swap(true) {
		return nil
	}
	err := fs.Sync(context.Background())
	fs.table.close()
	return err
}

// changes refuses changes of a read-only tree.
func (fs *FS) changes() error {
	if fs.opts.ReadOnly {
		return syscall.EROFS
	}
	return nil
}

// refDir references a directory: ENOTDIR for others.
func (fs *FS) refDir(ino vfs.Ino) (*inode, error) {
	n, err := fs.table.ref(ino)
	if err != nil {
		return nil, err
	}
	if n.typ != unix.S_IFDIR {
		fs.table.unref(n)
		return nil, syscall.ENOTDIR
	}
	return n, nil
}

// procPath is a path that leads to a descriptor's inode itself, even if that is a
// symbolic link or was opened with O_PATH.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

func statx(fd int, st *unix.Statx_t) error {
	return retry(func() error {
		return unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, st)
	})
}

// fill translates what the host says of an inode.
func (n *inode) fill(st *unix.Statx_t, out *vfs.Attr) {
	*out = vfs.Attr{
		Ino: n.ino, Gen: n.gen, Mode: uint32(st.Mode), Nlink: st.Nlink, UID: st.Uid, GID: st.Gid,
		Rdev: encodeDev(st.Rdev_major, st.Rdev_minor), Size: st.Size, Blocks: st.Blocks, BlockSize: st.Blksize,
		Atime: timeOf(st.Atime), Mtime: timeOf(st.Mtime), Ctime: timeOf(st.Ctime),
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		out.Btime = timeOf(st.Btime)
	}
}

func timeOf(t unix.StatxTimestamp) vfs.Time { return vfs.Time{Sec: t.Sec, Nsec: t.Nsec} }

// encodeDev is the kernel's new_encode_dev.
func encodeDev(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}

func decodeDev(dev uint32) (major, minor uint32) {
	return (dev & 0xfff00) >> 8, dev&0xff | (dev>>12)&0xfff00
}

// GetAttr implements vfs.FS.
func (fs *FS) GetAttr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, out *vfs.Attr) error {
	n, err := fs.table.ref(ino)
	if err != nil {
		return err
	}
	defer fs.table.unref(n)
	return n.stat(out)
}

func (n *inode) stat(out *vfs.Attr) error {
	var st unix.Statx_t
	if err := statx(n.fd, &st); err != nil {
		return &vfs.Error{Op: "stat", Err: err}
	}
	n.fill(&st, out)
	return nil
}

// SetAttr implements vfs.FS. The host has no call for several attributes at once:
// they are changed one after the other, and an error leaves the first ones changed.
func (fs *FS) SetAttr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, set *vfs.SetAttr, out *vfs.Attr) error {
	if err := fs.changes(); err != nil {
		return err
	}
	n, err := fs.table.ref(ino)
	if err != nil {
		return err
	}
	defer fs.table.unref(n)
	if err := n.change(set); err != nil {
		return err
	}
	return n.stat(out)
}

func (n *inode) change(set *vfs.SetAttr) error {
	fail := func(op string, err error) error {
		if err == nil {
			return nil
		}
		return &vfs.Error{Op: op, Err: err}
	}
	path := procPath(n.fd)
	if set.Valid&vfs.SetSize != 0 {
		switch {
		case n.typ == unix.S_IFDIR:
			return syscall.EISDIR
		case n.typ != unix.S_IFREG:
			return syscall.EINVAL
		case set.Size > 1<<63-1:
			return syscall.EFBIG
		}
	}
	if set.Valid&(vfs.SetUID|vfs.SetGID) != 0 {
		uid, gid := -1, -1
		if set.Valid&vfs.SetUID != 0 {
			uid = int(set.UID)
		}
		if set.Valid&vfs.SetGID != 0 {
			gid = int(set.GID)
		}
		keep, err := n.modeToKeep(set)
		if err != nil {
			return fail("chown", err)
		}
		if err := unix.Fchownat(n.fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
			return fail("chown", err)
		}
		if keep != 0 { // the host has cleared set-id bits without being asked
			if err := unix.Fchmodat(unix.AT_FDCWD, path, keep, 0); err != nil {
				return fail("chmod", err)
			}
		}
	}
	if set.Valid&vfs.SetSize != 0 {
		if err := retry(func() error { return unix.Truncate(path, int64(set.Size)) }); err != nil {
			return fail("truncate", err)
		}
	}
	if set.Valid&vfs.SetKillSUIDGID != 0 {
		if err := n.clearSetID(path); err != nil {
			return fail("chmod", err)
		}
	}
	if set.Valid&vfs.SetMode != 0 {
		if n.typ == unix.S_IFLNK {
			return syscall.EOPNOTSUPP
		}
		if err := unix.Fchmodat(unix.AT_FDCWD, path, set.Mode&07777, 0); err != nil {
			return fail("chmod", err)
		}
	}
	if set.Valid&(vfs.SetAtime|vfs.SetMtime|vfs.SetAtimeNow|vfs.SetMtimeNow) != 0 {
		ts := [2]unix.Timespec{
			timespec(set, vfs.SetAtime, vfs.SetAtimeNow, set.Atime),
			timespec(set, vfs.SetMtime, vfs.SetMtimeNow, set.Mtime),
		}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, ts[:], 0); err != nil {
			return fail("utimes", err)
		}
	}
	return nil
}

// modeToKeep finds the mode to set again after a chown, which clears set-id bits
// of everything but directories; 0 if that is as it should be.
func (n *inode) modeToKeep(set *vfs.SetAttr) (uint32, error) {
	if set.Valid&(vfs.SetKillSUIDGID|vfs.SetMode) != 0 || n.typ == unix.S_IFDIR || n.typ == unix.S_IFLNK {
		return 0, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(n.fd, &st); err != nil {
		return 0, err
	}
	if st.Mode&(unix.S_ISUID|unix.S_ISGID) == 0 {
		return 0, nil
	}
	return st.Mode & 07777, nil
}

func (n *inode) clearSetID(path string) error {
	if n.typ == unix.S_IFDIR || n.typ == unix.S_IFLNK {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(n.fd, &st); err != nil {
		return err
	}
	mode := st.Mode & 07777 &^ unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	if mode == st.Mode&07777 {
		return nil
	}
	return unix.Fchmodat(unix.AT_FDCWD, path, mode, 0)
}

func timespec(set *vfs.SetAttr, given, now vfs.SetMask, t vfs.Time) unix.Timespec {
	switch {
	case set.Valid&now != 0:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	case set.Valid&given != 0:
		return unix.Timespec{Sec: t.Sec, Nsec: int64(t.Nsec)}
	}
	return unix.Timespec{Nsec: unix.UTIME_OMIT}
}

// Readlink implements vfs.FS.
func (fs *FS) Readlink(ctx context.Context, c *vfs.Caller, ino vfs.Ino) (string, error) {
	n, err := fs.table.ref(ino)
	if err != nil {
		return "", err
	}
	defer fs.table.unref(n)
	if n.typ != unix.S_IFLNK {
		return "", syscall.EINVAL
	}
	var buf [vfs.MaxSymlink + 1]byte
	k, err := unix.Readlinkat(n.fd, "", buf[:])
	if err != nil {
		return "", &vfs.Error{Op: "readlink", Err: err}
	}
	return string(buf[:k]), nil
}

// PathOf tells where an inode is now, relative to the root, "" for the root; of several
// names one. Inodes that have none in the tree are not found.
func (fs *FS) PathOf(ino vfs.Ino) (string, bool) {
	n, err := fs.table.ref(ino)
	if err != nil {
		return "", false
	}
	defer fs.table.unref(n)
	root, err := os.Readlink(procPath(fs.root.fd))
	if err != nil {
		return "", false
	}
	at, err := os.Readlink(procPath(n.fd))
	switch {
	case err != nil:
		return "", false
	case at == root:
		return "", true
	}
	rel, ok := strings.CutPrefix(at, strings.TrimSuffix(root, "/")+"/")
	if !ok {
		return "", false
	}
	// The kernel marks what has no name any more; a file may be called so, too.
	if strings.HasSuffix(rel, " (deleted)") {
		var st unix.Stat_t
		if unix.Fstat(n.fd, &st) != nil || st.Nlink == 0 {
			return "", false
		}
	}
	return rel, true
}
