// Package vfs states the contract between storages and doors: a tree of
// inodes with POSIX semantics.
//
// A storage that presents itself as a file system is a tree: it implements
// [FS]. A way onto a tree from outside the process (the kernel through FUSE, the
// control socket) is a door: it knows FS and nothing else. Trees nest: an FS may
// be made of other FSes.
//
// # Inodes
//
// Calls name files by inode number, not by path, so that renames, hard links
// and files that are open but unlinked are right by construction. The root is
// [Root]; numbers fit in 48 bits ([MaxIno]) so that a tree made of trees can put
// a slot number above them (whose own then do not fit). While an inode is pinned (see [Pinner]), open, or
// has a name, its number means this inode and no other. A number may be used
// again for a new file only with another [Attr].Gen.
//
// # Callers and permissions
//
// Each call carries the [Caller] on whose behalf it is made. Trees do not check
// permission bits: doors do (the kernel does, under FUSE default_permissions).
// Trees do use the caller for what depends on it: the owner of a new inode,
// set-group-id inheritance, clearing of set-id bits. A tree checks what only it
// can know: read-only state, quotas, locks, scope of a token.
//
// # Errors
//
// Errors carry a syscall.Errno, found by [ErrnoOf] and errors.Is. A bare Errno is
// right where nothing needs saying (ENOENT of a lookup); everything else is an
// [Error] with operation and name. Nothing is flattened to EIO that has a better
// errno.
//
// # Contexts and concurrency
//
// All methods may be called concurrently. ctx is cancelled when the caller was
// interrupted (EINTR is returned if nothing was done yet). Contexts, callers and
// buffers belong to the caller and may be reused as soon as the method returns: an
// implementation keeps none of them.
package vfs

import "context"

// Ino is an inode number.
type Ino uint64

const (
	// Root is the inode number of a tree's root directory.
	Root Ino = 1
	// MaxIno is the greatest inode number.
	MaxIno Ino = 1<<48 - 1
	// MaxName is the length of the longest name of a directory entry, in bytes.
	// Longer names give ENAMETOOLONG.
	MaxName = 255
	// MaxSymlink is the length of the longest target of a symbolic link, in bytes.
	MaxSymlink = 4095
)

// Caller is on whose behalf a call is made.
type Caller struct {
	UID, GID uint32
	PID      uint32 // 0 if unknown
	// Umask is applied by Mknod, Mkdir and Create of trees that keep POSIX
	// ACLs, where the parent has no default ACL. Doors that have applied it to
	// the mode already leave it 0.
	Umask uint32
}

// FS is a tree. Optional abilities are the small interfaces of this package
// (Pinner, XattrFS, LockFS, CopyFS, Watchable, …), found by type assertion.
//
// Names are single components: not empty, without '/' and NUL, not "." or "..",
// at most MaxName bytes; trees refuse others with EINVAL or ENAMETOOLONG. The one
// exception is Lookup of "..". Parents that are no directories give ENOTDIR, inode
// numbers that mean nothing (any more) ESTALE, changes of a read-only tree EROFS.
//
// Results are written to out parameters so that hot paths need not allocate; they
// are undefined if an error is returned.
type FS interface {
	// StatFS describes the space of the tree (of the quota that holds for ino, if
	// one does).
	StatFS(ctx context.Context, c *Caller, ino Ino, out *StatFS) error

	// Lookup finds a name in a directory: ENOENT if there is none. ".." finds
	// the parent directory; the root's parent is the root.
	Lookup(ctx context.Context, c *Caller, parent Ino, name string, out *Attr) error

	// GetAttr returns the attributes. They show the effects of all writes that
	// have returned, also of those not yet durable.
	GetAttr(ctx context.Context, c *Caller, ino Ino, out *Attr) error

	// SetAttr changes the attributes chosen by set.Valid in one step and returns
	// the new ones. Changing the size truncates or extends with a hole: EFBIG
	// above the tree's limit, EISDIR for a directory, EINVAL for what has no
	// size. Changing owner, group or size clears set-id bits as POSIX and Linux do
	// where set.Valid has SetKillSUIDGID.
	SetAttr(ctx context.Context, c *Caller, ino Ino, set *SetAttr, out *Attr) error

	// Readlink returns the target of a symbolic link; EINVAL for other inodes.
	Readlink(ctx context.Context, c *Caller, ino Ino) (string, error)

	// Mknod makes a regular file, fifo, socket or device; mode has type and
	// permission bits. EEXIST if the name exists. The new inode's owner is the
	// caller's uid; its group the caller's gid or, in a set-group-id directory, the
	// directory's group.
	Mknod(ctx context.Context, c *Caller, parent Ino, name string, mode uint32, rdev uint32, out *Attr) error

	// Mkdir makes a directory. In a set-group-id directory it inherits that bit
	// with the group. EEXIST, EMLINK.
	Mkdir(ctx context.Context, c *Caller, parent Ino, name string, mode uint32, out *Attr) error

	// Symlink makes a symbolic link. EEXIST, ENAMETOOLONG.
	Symlink(ctx context.Context, c *Caller, parent Ino, name, target string, out *Attr) error

	// Link gives an inode another name. EEXIST, EPERM for directories, EMLINK.
	Link(ctx context.Context, c *Caller, ino Ino, parent Ino, name string, out *Attr) error

	// Unlink removes a name of an inode that is no directory (EISDIR). An inode
	// whose last name goes lives on while it is open or pinned.
	Unlink(ctx context.Context, c *Caller, parent Ino, name string) error

	// Rmdir removes an empty directory: ENOTEMPTY, ENOTDIR.
	Rmdir(ctx context.Context, c *Caller, parent Ino, name string) error

	// Rename moves a name, replacing what is at the target atomically as
	// rename(2) says. flags are RenameNoReplace, RenameExchange (Linux
	// renameat2), others give EINVAL. EINVAL for moving a directory below itself,
	// ENOTEMPTY, EISDIR, ENOTDIR, EXDEV where the tree cannot.
	Rename(ctx context.Context, c *Caller, oldParent Ino, oldName string, newParent Ino, newName string, flags uint32) error

	// Create makes a regular file and opens it in one step. If the name exists:
	// EEXIST (the caller has looked before; a lost race is his to retry).
	// flags are those of open(2).
	Create(ctx context.Context, c *Caller, parent Ino, name string, mode uint32, flags int, out *Attr) (File, error)

	// Open opens a regular file. Of flags the access mode, O_APPEND, O_TRUNC,
	// O_DIRECT and O_SYNC matter. Opening depends on the inode and flags alone, so
	// that a successor process can open again what its predecessor had open.
	Open(ctx context.Context, c *Caller, ino Ino, flags int) (File, error)

	// OpenDir opens a directory for reading.
	OpenDir(ctx context.Context, c *Caller, ino Ino) (Dir, error)

	// Sync makes all changes durable that returned before it was called.
	Sync(ctx context.Context) error

	// Close syncs and releases everything the tree holds, and waits for its
	// goroutines. Files still open give EIO or EBADF from then on.
	Close() error
}

// File is an open regular file. Offsets and lengths are in bytes and never
// negative. A File may be used concurrently.
type File interface {
	// ReadAt fills p from off. It reads less only at the end of the file, and
	// 0 bytes without an error at or behind it. It shows the effects of all
	// writes, through any File, that have returned.
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)

	// WriteAt writes all of p at off, extending the file if need be, or returns
	// how much was written and why not more. With O_APPEND in the flags of Open
	// off is ignored and p goes to the end atomically. It leaves set-id bits
	// alone: the door knows the caller's privileges and asks by SetKillSUIDGID.
	WriteAt(ctx context.Context, p []byte, off int64) (int, error)

	// Truncate sets the size through this File.
	Truncate(ctx context.Context, size int64) error

	// Allocate is fallocate(2) with its FALLOC_FL_ mode bits; EOPNOTSUPP for
	// modes the tree has not.
	Allocate(ctx context.Context, mode uint32, off, length int64) error

	// Seek finds the next data (SEEK_DATA) or hole (SEEK_HOLE) at or after off,
	// as lseek(2): ENXIO.
	Seek(ctx context.Context, off int64, whence int) (int64, error)

	// Flush is called for each close(2) of a descriptor. It reports the errors of
	// earlier writes that have not been reported yet, and makes what was written
	// visible to other mounts where the tree has any.
	Flush(ctx context.Context) error

	// Sync makes the file's data and attributes durable (with dataOnly: those
	// needed to read the data back) and reports unreported errors.
	Sync(ctx context.Context, dataOnly bool) error

	// Close releases the handle. It is called once, after all other calls.
	Close() error
}

// Dir is an open directory. One goroutine at a time uses it.
type Dir interface {
	// Read calls emit with the entries behind the position cookie (0: the
	// first), without "." and "..", until emit returns false or there are no
	// more. Each entry's Cookie is the position behind it. Cookies are 3 or
	// greater, below 1<<63, and mean the same in each Dir of this directory, also in a
	// successor process. An entry that exists throughout is given exactly once
	// in a walk from cookie 0, whatever is added and removed meanwhile. With plus,
	// Attr is filled in where HasAttr says so. The DirEntry may be reused for the
	// next call of emit.
	Read(ctx context.Context, cookie uint64, plus bool, emit func(*DirEntry) bool) error
	// Sync makes the directory's entries durable.
	Sync(ctx context.Context) error
	Close() error
}

// DirEntry is an entry of a directory.
type DirEntry struct {
	Name    string
	Ino     Ino
	Mode    uint32 // type bits (S_IFMT)
	Cookie  uint64 // position behind this entry
	HasAttr bool
	Attr    Attr
}

// Flags of Rename, with Linux's values.
const (
	RenameNoReplace uint32 = 1
	RenameExchange  uint32 = 2
)
