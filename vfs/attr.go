package vfs

import (
	"syscall"
	"time"
)

// Time is a point in time as inodes keep it: seconds since the epoch, also
// negative ones, and nanoseconds 0 to 999,999,999.
type Time struct {
	Sec  int64
	Nsec uint32
}

// Now is the present time.
func Now() Time { return TimeOf(time.Now()) }

// TimeOf converts a time.Time.
func TimeOf(t time.Time) Time {
	return Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}

// Time converts to a time.Time in UTC.
func (t Time) Time() time.Time { return time.Unix(t.Sec, int64(t.Nsec)).UTC() }

// Before tells whether t is earlier than u.
func (t Time) Before(u Time) bool {
	return t.Sec < u.Sec || t.Sec == u.Sec && t.Nsec < u.Nsec
}

// Attr are the attributes of an inode.
type Attr struct {
	Ino    Ino
	Gen    uint32 // generation: differs if the number was used before
	Mode   uint32 // type (S_IFMT) and permission bits, as st_mode
	Nlink  uint32 // 2 + subdirectories for a directory
	UID    uint32
	GID    uint32
	Rdev   uint32 // of devices, as the kernel's new_encode_dev and stat(2) on Linux
	Size   uint64 // bytes
	Blocks uint64 // allocated space in units of 512 bytes
	// BlockSize is the preferred size of an I/O, in bytes.
	BlockSize uint32

	Atime, Mtime, Ctime, Btime Time

	// NoXattrs: there are no extended attributes. False: it is not known, ask.
	NoXattrs bool
}

// Type returns the type bits of the mode.
func (a *Attr) Type() uint32 { return a.Mode & syscall.S_IFMT }

// IsDir tells whether the inode is a directory.
func (a *Attr) IsDir() bool { return a.Mode&syscall.S_IFMT == syscall.S_IFDIR }

// IsRegular tells whether the inode is a regular file.
func (a *Attr) IsRegular() bool { return a.Mode&syscall.S_IFMT == syscall.S_IFREG }

// SetAttr chooses and gives new attributes.
type SetAttr struct {
	Valid SetMask
	Mode  uint32 // permission bits only
	UID   uint32
	GID   uint32
	Size  uint64
	Atime Time
	Mtime Time
	// Ctime is set by a kernel that caches writes and owns the times; else the
	// tree sets it to now.
	Ctime Time
}

// SetMask chooses attributes of a SetAttr.
type SetMask uint32

const (
	SetMode SetMask = 1 << iota
	SetUID
	SetGID
	SetSize
	SetAtime
	SetMtime
	SetCtime
	SetAtimeNow // the tree's present time; SetAtime is not set with it
	SetMtimeNow
	// SetKillSUIDGID asks to clear the set-user-id bit, and the set-group-id bit
	// of group-executable files, with the change (the door has found that the
	// caller lacks the privilege to keep them). Directories and symbolic links are
	// left as they are.
	SetKillSUIDGID
)

// Has tells whether all of m is chosen.
func (s *SetAttr) Has(m SetMask) bool { return s.Valid&m == m }

// StatFS describes the space of a tree, as statfs(2).
type StatFS struct {
	BlockSize  uint32 // bytes
	Blocks     uint64 // in units of BlockSize
	BlocksFree uint64
	Files      uint64 // inodes
	FilesFree  uint64
	MaxName    uint32 // bytes
}
