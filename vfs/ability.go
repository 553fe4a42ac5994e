package vfs

import (
	"context"
	"os"
	"time"
)

// Pinner is implemented by trees whose inodes need to know that somebody holds
// their number: a door pins an inode when the kernel first learns its number and
// unpins it when the kernel has forgotten it. A pinned inode without a name or
// open File stays readable and writable.
//
// A Pin that comes after the inode is gone is harmless: calls give ESTALE.
//
// A door pins an inode at most once at a time and orders its Pins and Unpins of one
// inode by a lock of its own, under which it calls them: they must be quick and wait
// neither for I/O nor for other calls of the door.
type Pinner interface {
	Pin(ino Ino)
	Unpin(ino Ino)
}

// XattrFS keeps extended attributes. Names are whole ("user.x"), at most 255
// bytes. Errors: ENODATA (no such attribute), EEXIST, ERANGE, ENOSPC, E2BIG,
// EOPNOTSUPP (a name space the tree does not keep).
type XattrFS interface {
	GetXattr(ctx context.Context, c *Caller, ino Ino, name string) ([]byte, error)
	// SetXattr: flags are XattrCreate (EEXIST if there), XattrReplace (ENODATA if not).
	SetXattr(ctx context.Context, c *Caller, ino Ino, name string, value []byte, flags uint32) error
	ListXattr(ctx context.Context, c *Caller, ino Ino) ([]string, error)
	RemoveXattr(ctx context.Context, c *Caller, ino Ino, name string) error
}

// Flags of SetXattr, with Linux's values.
const (
	XattrCreate  uint32 = 1
	XattrReplace uint32 = 2
)

// Names of the attributes that hold POSIX ACLs, in the kernel's binary form. A tree
// that keeps them keeps their rules, too: an access ACL sets the permission bits
// (one of owner, group and others alone is nothing but them: ENODATA when read); a
// change of the mode changes the ACL's entries of owner, mask (or group) and others; new
// inodes inherit the directory's default ACL in place of the umask, directories also as
// their default; ill-formed ones give EINVAL. A tree without ACLs answers
// EOPNOTSUPP for both names: doors ask once.
const (
	XattrACLAccess  = "system.posix_acl_access"
	XattrACLDefault = "system.posix_acl_default"
)

// LockFS keeps advisory locks for trees that several mounts share. A door whose
// tree has no LockFS, or is exclusive (see Policy), leaves locks to the kernel.
type LockFS interface {
	// GetLock finds a lock that would keep lock from being set: it is returned
	// with its own type, range and pid, or with Type LockUnlock if there is none.
	GetLock(ctx context.Context, ino Ino, lock Lock) (Lock, error)
	// SetLock sets or removes a lock. A conflict gives EAGAIN, or with wait
	// blocks until the lock is free, ctx is done (EINTR) or a deadlock among
	// fcntl locks is found (EDEADLK).
	SetLock(ctx context.Context, ino Ino, lock Lock, wait bool) error
	// ReleaseLocks drops all locks of an owner on an inode, at its close.
	ReleaseLocks(ctx context.Context, ino Ino, owner uint64, kind LockKind) error
}

// LockKind tells fcntl from flock locks; the two do not see each other.
type LockKind uint8

const (
	LockPOSIX LockKind = iota // fcntl(2) record locks
	LockFlock                 // flock(2), always of the whole file
)

// LockType is the type of a lock.
type LockType uint8

const (
	LockUnlock LockType = iota
	LockRead
	LockWrite
)

// Lock is an advisory lock on the bytes Start to End, inclusive; End of
// LockEOF reaches to the end of every file.
type Lock struct {
	Kind       LockKind
	Type       LockType
	Owner      uint64 // differs between owners of one mount
	PID        uint32
	Start, End uint64
}

// LockEOF is the End of a lock without one.
const LockEOF uint64 = 1<<63 - 1

// CopyFS copies ranges between its files without moving the bytes through the
// caller, as copy_file_range(2).
type CopyFS interface {
	// CopyRange copies up to n bytes and returns how many; less is possible
	// at the end of in. Ranges of one file that overlap give EINVAL. Both Files
	// were opened by this FS.
	CopyRange(ctx context.Context, in File, inOff int64, out File, outOff int64, n int64) (int64, error)
}

// TmpfileFS makes regular files without a name, as open(2) with O_TMPFILE.
type TmpfileFS interface {
	// Tmpfile makes a regular file that belongs to directory parent's file system
	// (and, in a set-group-id directory, group) but has no name, and opens it with
	// flags as Create does. It goes away with its last File and pin, unless Link has
	// given it a name by then; with O_EXCL in flags Link refuses that with ENOENT.
	Tmpfile(ctx context.Context, c *Caller, parent Ino, mode uint32, flags int, out *Attr) (File, error)
}

// PassthroughFile is a File that lies whole in a file of the local disk, so that
// a door may let the kernel read and write there directly.
type PassthroughFile interface {
	// Backing returns that file, or nil if it does not (any longer) serve. It
	// stays open until the File is closed.
	Backing() *os.File
}

// StatelessFS is implemented by trees that can serve reads and writes by inode
// number alone, so that a door may spare the kernel its OPEN and RELEASE messages.
type StatelessFS interface {
	// OpenInode returns a File for reading and writing a regular file, without
	// the effects of an open(2). Closing it has none of those of a close(2).
	OpenInode(ctx context.Context, ino Ino) (File, error)
}

// Policy says how long what the tree has told may be cached by a door, if no
// Change says otherwise.
type Policy struct {
	// EntryValid, AttrValid and NegativeValid hold for names found, attributes
	// and names not found.
	EntryValid, AttrValid, NegativeValid time.Duration
	// KeepCache: data read stays valid across opens until a Change says otherwise.
	KeepCache bool
	// Exclusive: all changes come through this one FS value and this one door,
	// so the door may cache writes and keep locks itself.
	Exclusive bool
	// ReadOnly: all changes give EROFS.
	ReadOnly bool
	// Leased: the tree is a LeaseFS, and what that says comes before the validities
	// and KeepCache.
	Leased bool
}

// Forever is a validity without an end.
const Forever = 365 * 24 * time.Hour

// PolicyFS tells its caching policy; without it a door caches nothing.
type PolicyFS interface {
	Policy() Policy
}

// PolicyOf returns the policy of a tree, the zero Policy if it tells none.
func PolicyOf(fs FS) Policy {
	if p, ok := fs.(PolicyFS); ok {
		return p.Policy()
	}
	return Policy{}
}
