package local

import (
	"context"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/vfs"
)

// Lookup implements vfs.FS.
func (fs *FS) Lookup(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, out *vfs.Attr) error {
	dir, err := fs.refDir(parent)
	if err != nil {
		return err
	}
	defer fs.table.unref(dir)
	if name == ".." {
		return fs.lookupParent(dir, out)
	}
	if err := vfs.CheckName(name); err != nil {
		return err
	}
	n, err := fs.find(dir.fd, name, out)
	if err != nil {
		return err
	}
	fs.table.unref(n)
	return nil
}

// find looks a name up and references its inode.
func (fs *FS) find(dirfd int, name string, out *vfs.Attr) (*inode, error) {
	fd, err := unix.Openat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return fs.take(fd, out)
}

// take makes an O_PATH descriptor an inode, referenced.
func (fs *FS) take(fd int, out *vfs.Attr) (*inode, error) {
	var st unix.Statx_t
	if err := statx(fd, &st); err != nil {
		unix.Close(fd)
		return nil, &vfs.Error{Op: "stat", Err: err}
	}
	n, err := fs.table.enter(fd, &st)
	if err != nil {
		return nil, err
	}
	n.fill(&st, out)
	return n, nil
}

// lookupParent finds "..", which must not lead out of the tree: not from the root,
// nor from a directory that somebody has moved out of it.
func (fs *FS) lookupParent(dir *inode, out *vfs.Attr) error {
	if dir == fs.root {
		return dir.stat(out)
	}
	up, err := unix.Openat(dir.fd, "..", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := fs.below(up); err != nil {
		unix.Close(up)
		return err
	}
	n, err := fs.take(up, out)
	if err != nil {
		return err
	}
	fs.table.unref(n)
	return nil
}

// below tells (by ESTALE) that a directory does not lie in the tree.
func (fs *FS) below(fd int) error {
	at, err := unix.Dup(fd)
	if err != nil {
		return err
	}
	defer func() { unix.Close(at) }()
	var last hostKey
	for {
		var st unix.Stat_t
		if err := unix.Fstat(at, &st); err != nil {
			return err
		}
		key := hostKey{st.Dev, st.Ino}
		if key == fs.root.key {
			return nil
		}
		if key == last { // the host's own root
			return syscall.ESTALE
		}
		last = key
		next, err := unix.Openat(at, "..", unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		unix.Close(at)
		at = next
	}
}

// prepare checks what making a name needs, and references the directory.
func (fs *FS) prepare(parent vfs.Ino, name string) (*inode, error) {
	if err := vfs.CheckName(name); err != nil {
		return nil, err
	}
	dir, err := fs.refDir(parent)
	if err != nil {
		return nil, err
	}
	if err := fs.changes(); err != nil {
		fs.table.unref(dir)
		return nil, err
	}
	return dir, nil
}

// modeFor applies the caller's umask, unless the directory has a default ACL.
func modeFor(c *vfs.Caller, dir *inode, mode uint32) uint32 {
	if c.Umask == 0 || mode&c.Umask == 0 {
		return mode
	}
	if size, err := unix.Getxattr(procPath(dir.fd), vfs.XattrACLDefault, nil); err == nil && size > 0 {
		return mode
	}
	return mode &^ (c.Umask & 0777)
}

// Mknod implements vfs.FS.
func (fs *FS) Mknod(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, rdev uint32, out *vfs.Attr) error {
	if mode&unix.S_IFMT == 0 {
		mode |= unix.S_IFREG
	}
	switch mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK:
	default:
		return syscall.EINVAL
	}
	dir, err := fs.prepare(parent, name)
	if err != nil {
		return err
	}
	defer fs.table.unref(dir)
	major, minor := decodeDev(rdev)
	err = fs.as.do(c, func() error {
		return unix.Mknodat(dir.fd, name, modeFor(c, dir, mode), int(unix.Mkdev(major, minor)))
	})
	if err != nil {
		return fail("mknod", name, err)
	}
	return fs.made(dir, name, out)
}

// made finds what was just made.
func (fs *FS) made(dir *inode, name string, out *vfs.Attr) error {
	n, err := fs.find(dir.fd, name, out)
	if err != nil {
		return fail("lookup", name, err)
	}
	fs.table.unref(n)
	return nil
}

// Mkdir implements vfs.FS.
func (fs *FS) Mkdir(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, out *vfs.Attr) error {
	dir, err := fs.prepare(parent, name)
	if err != nil {
		return err
	}
	defer fs.table.unref(dir)
	mode = modeFor(c, dir, mode&07777)
	if err := fs.as.do(c, func() error { return unix.Mkdirat(dir.fd, name, mode) }); err != nil {
		return fail("mkdir", name, err)
	}
	if mode&(unix.S_ISUID|unix.S_ISGID) == 0 { // mkdir(2) ignores these two
		return fs.made(dir, name, out)
	}
	n, err := fs.find(dir.fd, name, out)
	if err != nil {
		return fail("lookup", name, err)
	}
	defer fs.table.unref(n)
	if n.typ != unix.S_IFDIR {
		return nil // somebody has replaced it
	}
	if err := unix.Fchmodat(unix.AT_FDCWD, procPath(n.fd), out.Mode&07777|mode&(unix.S_ISUID|unix.S_ISGID), 0); err != nil {
		return fail("chmod", name, err)
	}
	return n.stat(out)
}

// Symlink implements vfs.FS.
func (fs *FS) Symlink(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name, target string, out *vfs.Attr) error {
	if len(target) > vfs.MaxSymlink {
		return syscall.ENAMETOOLONG
	}
	dir, err := fs.prepare(parent, name)
	if err != nil {
		return err
	}
	defer fs.table.unref(dir)
	if err := fs.as.do(c, func() error { return unix.Symlinkat(target, dir.fd, name) }); err != nil {
		return fail("symlink", name, err)
	}
	return fs.made(dir, name, out)
}

// Link implements vfs.FS.
func (fs *FS) Link(ctx context.Context, c *vfs.Caller, ino vfs.Ino, parent vfs.Ino, name string, out *vfs.Attr) error {
	dir, err := fs.prepare(parent, name)
	if err != nil {
		return err
	}
	defer fs.table.unref(dir)
	n, err := fs.table.ref(ino)
	if err != nil {
		return err
	}
	defer fs.table.unref(n)
	if n.typ == unix.S_IFDIR {
		return syscall.EPERM
	}
	if err := unix.Linkat(unix.AT_FDCWD, procPath(n.fd), dir.fd, name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return fail("link", name, err)
	}
	fs.table.named(n)
	return n.stat(out)
}

// Unlink implements vfs.FS.
func (fs *FS) Unlink(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string) error {
	return fs.remove(parent, name, "unlink", 0)
}

// Rmdir implements vfs.FS.
func (fs *FS) Rmdir(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string) error {
	return fs.remove(parent, name, "rmdir", unix.AT_REMOVEDIR)
}

func (fs *FS) remove(parent vfs.Ino, name, op string, flags int) error {
	dir, err := fs.prepare(parent, name)
	if err != nil {
		return err
	}
	defer fs.table.unref(dir)
	victim := fs.table.victim(dir.fd, name)
	err = unix.Unlinkat(dir.fd, name, flags)
	fs.table.bereave(victim, err == nil)
	return fail(op, name, err)
}

// Rename implements vfs.FS.
func (fs *FS) Rename(ctx context.Context, c *vfs.Caller, oldParent vfs.Ino, oldName string, newParent vfs.Ino, newName string, flags uint32) error {
	if flags&^(vfs.RenameNoReplace|vfs.RenameExchange) != 0 || flags == vfs.RenameNoReplace|vfs.RenameExchange {
		return syscall.EINVAL
	}
	if err := vfs.CheckName(newName); err != nil {
		return err
	}
	from, err := fs.prepare(oldParent, oldName)
	if err != nil {
		return err
	}
	defer fs.table.unref(from)
	to, err := fs.refDir(newParent)
	if err != nil {
		return err
	}
	defer fs.table.unref(to)
	var victim *inode
	if flags == 0 {
		victim = fs.table.victim(to.fd, newName)
	}
	if flags == 0 {
		err = unix.Renameat(from.fd, oldName, to.fd, newName)
	} else {
		err = unix.Renameat2(from.fd, oldName, to.fd, newName, uint(flags))
	}
	if victim != nil {
		// Renaming an inode to another of its own names does nothing.
		fs.table.bereave(victim, err == nil && !stillThere(to.fd, newName, victim))
	}
	return fail("rename", oldName, err)
}

func stillThere(dirfd int, name string, n *inode) bool {
	var st unix.Stat_t
	return unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && hostKey{st.Dev, st.Ino} == n.key
}

// fail says what failed. The everyday answers go without.
func fail(op, name string, err error) error {
	switch err {
	case nil:
		return nil
	case unix.ENOENT, unix.EEXIST, unix.ENOTEMPTY, unix.EISDIR, unix.ENOTDIR, unix.EXDEV, unix.EINVAL:
		return err
	}
	return &vfs.Error{Op: op, Name: name, Err: err}
}

// Create implements vfs.FS.
func (fs *FS) Create(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, flags int, out *vfs.Attr) (vfs.File, error) {
	dir, err := fs.prepare(parent, name)
	if err != nil {
		return nil, err
	}
	defer fs.table.unref(dir)
	var fd int
	err = fs.as.do(c, func() (err error) {
		fd, err = unix.Openat(dir.fd, name, flags&openMask|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, modeFor(c, dir, mode&07777))
		return err
	})
	if err != nil {
		return nil, fail("create", name, err)
	}
	return fs.fileOf(fd, flags, false, out)
}

// Tmpfile implements vfs.TmpfileFS.
func (fs *FS) Tmpfile(ctx context.Context, c *vfs.Caller, parent vfs.Ino, mode uint32, flags int, out *vfs.Attr) (vfs.File, error) {
	if err := fs.changes(); err != nil {
		return nil, err
	}
	dir, err := fs.refDir(parent)
	if err != nil {
		return nil, err
	}
	defer fs.table.unref(dir)
	open := flags&openMask | flags&unix.O_EXCL
	if open&unix.O_ACCMODE == unix.O_RDONLY {
		open |= unix.O_RDWR // as the host demands
	}
	var fd int
	err = fs.as.do(c, func() (err error) {
		fd, err = unix.Openat(unix.AT_FDCWD, procPath(dir.fd), open|unix.O_TMPFILE|unix.O_CLOEXEC, modeFor(c, dir, mode&07777))
		return err
	})
	if err != nil {
		return nil, fail("tmpfile", "", err)
	}
	return fs.fileOf(fd, flags, true, out)
}

// fileOf makes an open descriptor of a new regular file a File.
func (fs *FS) fileOf(fd, flags int, orphan bool, out *vfs.Attr) (vfs.File, error) {
	path, err := unix.Open(procPath(fd), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(fd)
		return nil, fail("open", "", err)
	}
	n, err := fs.take(path, out)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	defer fs.table.unref(n)
	if orphan {
		fs.table.mu.Lock()
		n.orphan = true
		fs.table.fds.remove(n)
		fs.table.mu.Unlock()
	}
	return fs.newFile(n, os.NewFile(uintptr(fd), "file"), flags), nil
}
