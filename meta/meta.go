// Package meta is the POSIX metadata engine of volumes: inodes, names, extents,
// extended attributes, locks, quotas, trash, history and snapshots, kept as
// records of an ordered key-value store (package kv). doc/metadata.md describes
// the records and the invariants between them.
//
// A client of the engine works through a [Session]. The engine in this process
// implements it ([Engine].NewSession); the client of the metadata server
// (package metarpc) implements it over the wire. So nothing in it assumes
// shared memory: what a client holds (open files, pins, locks, reservations)
// belongs to its session and ends with it.
//
// Data is not the engine's business: it keeps where in which immutable block a
// piece of a file lies ([Extent]) and which blocks nothing points to any more.
// The one rule: Commit is called when the blocks it names are durable, so
// metadata never points at data that is not.
package meta

import (
	"context"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/massif-fs/massif/vfs"
)

// Extent says where a piece of a chunk lies. Extents of a chunk do not overlap
// and are ordered by Pos; what no extent covers is a hole and reads as zeros.
type Extent struct {
	Pos   uint32 // offset in the chunk, bytes
	Len   uint32 // bytes, at least 1
	Block uint64 // block id; 0: allocated but never written, reads as zeros
	Size  uint32 // plain bytes the whole block holds (needed to read it)
	Off   uint32 // offset of the piece in the block's plain bytes
}

// Chunk is the data layout of one chunk of a file: Format.ChunkSize bytes from
// offset Index*ChunkSize.
type Chunk struct {
	Index   uint32
	Extents []Extent
}

// Block names a new block of a Commit.
type Block struct {
	ID   uint64
	Size uint32 // plain bytes
}

// FileWrite is what a Commit changes of one file.
type FileWrite struct {
	Ino vfs.Ino
	// Extents replace what the chunks have in the ranges they cover, the other
	// parts of the chunks stay.
	Chunks []Chunk
	// SetInline makes Inline the whole content of the file: its size becomes
	// len(Inline) or Size, if that is greater (a hole follows). A file that has
	// extents gives ErrLayout.
	SetInline bool
	Inline    []byte
	// ClearInline removes inline content: Chunks carry it now. Chunks for a file
	// that has inline content give ErrLayout without it.
	ClearInline bool
	// Size is the least size of the file after the write: the file grows to it,
	// never shrinks.
	Size uint64
	// Mtime, if not zero, becomes mtime and ctime if it is later than they are.
	Mtime vfs.Time
	// Reserved bytes (see Reserve) are given back in the same step.
	Reserved int64
	// Base, if not nil, is what the file must still be for the write to be right: else
	// Commit changes nothing and gives ErrLayout. Whoever shares a volume gives it
	// with each SetInline and ClearInline, which would undo what others have written,
	// and with writes that go to the end of the file, wherever that is.
	Base *FileBase
}

// FileBase is what a client took a file for when it made a write.
type FileBase struct {
	Size   uint64 // of the file, bytes
	Inline uint64 // InlineSum of what Inline returned
}

// InlineSum tells inline contents apart; 0 stands for none.
func InlineSum(data []byte) uint64 {
	if len(data) == 0 {
		return 0
	}
	return max(xxh3.Hash(data), 1)
}

// Session is a client's connection to the engine. All methods may be called
// concurrently. Errors carry an errno as package vfs says. Namespace calls mean
// what the methods of vfs.FS of the same name mean; they are atomic and visible
// to all sessions when they return, and durable after the next Sync.
type Session interface {
	// Format returns the volume's settings.
	Format() Format

	StatFS(ctx context.Context, c *vfs.Caller, ino vfs.Ino, out *vfs.StatFS) error
	Lookup(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, out *vfs.Attr) error
	GetAttr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, out *vfs.Attr) error
	// SetAttr: with SetSize it truncates: extents behind the size are cut.
	// Inline content is cut or, when the file grows, kept with a hole behind.
	SetAttr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, set *vfs.SetAttr, out *vfs.Attr) error
	Readlink(ctx context.Context, c *vfs.Caller, ino vfs.Ino) (string, error)
	Mknod(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode, rdev uint32, out *vfs.Attr) error
	Mkdir(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, out *vfs.Attr) error
	Symlink(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name, target string, out *vfs.Attr) error
	Link(ctx context.Context, c *vfs.Caller, ino, parent vfs.Ino, name string, out *vfs.Attr) error
	// Tmpfile makes a regular file without a name, as vfs.TmpfileFS says, and
	// counts one use of it by this session (see Open). Only with linkable can Link
	// give it a name.
	Tmpfile(ctx context.Context, c *vfs.Caller, parent vfs.Ino, mode uint32, linkable bool, out *vfs.Attr) error
	// Unlink returns the attributes that the inode has now, so that the client
	// knows whether it lives on (Nlink > 0) and can drop what it cached.
	Unlink(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, out *vfs.Attr) error
	Rmdir(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string) error
	// Rename: replaced describes the inode whose name was replaced, with Ino 0
	// if there was none.
	Rename(ctx context.Context, c *vfs.Caller, oldParent vfs.Ino, oldName string, newParent vfs.Ino, newName string, flags uint32, replaced *vfs.Attr) error
	// ReadDir is vfs.Dir.Read, without state.
	ReadDir(ctx context.Context, c *vfs.Caller, ino vfs.Ino, cookie uint64, plus bool, emit func(*vfs.DirEntry) bool) error

	GetXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string) ([]byte, error)
	SetXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string, value []byte, flags uint32) error
	ListXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino) ([]string, error)
	RemoveXattr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, name string) error

	// Open counts one more use of an inode by this session: an inode without a
	// name lives until nobody uses it. It is an in-memory call unless the inode
	// has no name any more. Release ends n uses; it never fails: what must be
	// removed is removed now or at the next opportunity.
	Open(ino vfs.Ino)
	Release(ino vfs.Ino, n int)

	// Touch sets atime to now as relatime does: if it is not later than mtime or
	// ctime, or older than a day.
	Touch(ctx context.Context, ino vfs.Ino) error

	// Inline returns the inline content, or ok = false if the file has none
	// (it is empty, or in chunks).
	Inline(ctx context.Context, ino vfs.Ino) (data []byte, ok bool, err error)
	// Extents appends the extents of a chunk to dst.
	Extents(ctx context.Context, ino vfs.Ino, index uint32, dst []Extent) ([]Extent, error)
	// AllocBlocks returns the first of n fresh block ids in a row. Ids are never
	// given out twice.
	AllocBlocks(ctx context.Context, n int) (first uint64, err error)
	// Commit registers new blocks and makes files point to them, all in one
	// transaction. Files that are gone are passed over: gone tells for each
	// write whether that was so. New blocks that nothing points to after it go to the
	// delete queue. Written extents behind the size that a file then has are cut off,
	// lest they show when it grows. If Commit returns an error nothing was changed.
	Commit(ctx context.Context, blocks []Block, writes []FileWrite) (gone []bool, err error)
	// Replace makes a chunk point to a new block holding the same bytes
	// (compaction): only if the chunk's extents still are old; ErrLayout if not.
	Replace(ctx context.Context, ino vfs.Ino, index uint32, old, new []Extent, blocks []Block) error
	// Reserve claims bytes of the quotas that hold for a file, for data which a
	// later Commit will allocate: ENOSPC (volume) or EDQUOT (directory) if they do
	// not suffice. Unreserve gives back what no Commit will.
	Reserve(ctx context.Context, ino vfs.Ino, bytes int64) error
	Unreserve(ino vfs.Ino, bytes int64)

	// Allocate is fallocate(2) on committed data: mode 0 and KEEP_SIZE allocate
	// unwritten extents where holes are, PUNCH_HOLE, ZERO_RANGE; others
	// EOPNOTSUPP. A file with inline content gives ErrLayout: the caller moves it to
	// chunks first.
	Allocate(ctx context.Context, c *vfs.Caller, ino vfs.Ino, mode uint32, off, length uint64) error
	// Seek is SEEK_DATA and SEEK_HOLE on committed data.
	Seek(ctx context.Context, ino vfs.Ino, off int64, whence int) (int64, error)
	// CopyRange makes out share in's committed extents; both ranges must be in
	// chunks, not inline, and in must have all n bytes, else it gives ErrLayout. It does
	// not read or write data. Ranges of one file that overlap: EINVAL.
	CopyRange(ctx context.Context, c *vfs.Caller, in vfs.Ino, inOff uint64, out vfs.Ino, outOff, n uint64) error

	GetLock(ctx context.Context, ino vfs.Ino, lock vfs.Lock) (vfs.Lock, error)
	SetLock(ctx context.Context, ino vfs.Ino, lock vfs.Lock, wait bool) error
	ReleaseLocks(ctx context.Context, ino vfs.Ino, owner uint64, kind vfs.LockKind) error

	// Watch is the change feed of all sessions' changes; Remote tells those of
	// other sessions.
	Watch(fn func(vfs.Change)) (stop func())

	// Sync makes all that committed before it durable.
	Sync(ctx context.Context) error

	// Close ends the session: its locks go, inodes without a name that only it
	// used are removed.
	Close() error
}

// InodeSyncer is a Session that knows of which inodes changes are lost that it had
// returned from.
type InodeSyncer interface {
	// SyncInode is Sync for somebody who has changed one inode: EIO, once, if changes of
	// it are lost. Sync returns EIO, once, if changes of any are.
	SyncInode(ctx context.Context, ino vfs.Ino) error
}

// SyncInode is SyncInode of a session, or its Sync.
func SyncInode(ctx context.Context, s Session, ino vfs.Ino) error {
	if is, ok := s.(InodeSyncer); ok {
		return is.SyncInode(ctx, ino)
	}
	return s.Sync(ctx)
}

// Creator is a Session that can make a regular file and use it in one step, so that it
// is still there when its maker opens it, whatever others do to its name.
type Creator interface {
	// Create is Mknod of a regular file, and Open of what it made.
	Create(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, out *vfs.Attr) error
}

// Maintainer is the part of the engine that looks after blocks and time. One
// process does it for a volume.
type Maintainer interface {
	// DeadBlocks returns up to limit blocks whose retention is over (at now) and
	// which may be deleted from the store.
	DeadBlocks(ctx context.Context, now time.Time, limit int) ([]Block, error)
	// ForgetBlocks removes blocks, which have been deleted, from the queue.
	ForgetBlocks(ctx context.Context, blocks []Block) error
	// Expire removes history and trash older than the retention allows at now, in
	// steps of bounded transactions, and returns the number of records removed.
	Expire(ctx context.Context, now time.Time) (int, error)
	// Fragmented calls fn with chunks that have at least min extents, until fn
	// returns false.
	Fragmented(ctx context.Context, min int, fn func(ino vfs.Ino, index uint32, extents []Extent) bool) error
}
