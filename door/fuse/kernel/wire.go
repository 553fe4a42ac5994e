package kernel

// The bodies of messages as they lie in memory, in the machine's byte order: the
// structures that linux/fuse.h documents, each padded to eight bytes. A Request has
// the header of its message; In is what follows it, Out what follows the header of
// the reply.

// Header begins every message of the kernel.
type Header struct {
	Len      uint32 // of the message, in bytes, this header included
	Opcode   Opcode
	Unique   uint64 // names the request; see Request.Resent for its highest bit
	NodeID   uint64
	UID      uint32 // of the calling program: its file system uid and gid, …
	GID      uint32
	PID      uint32 // … and its process; 0 for what has no caller
	ExtWords uint16 // length of extensions at the end, in units of 8 bytes
	_        uint16
}

// replyHeader begins every reply and notification.
type replyHeader struct {
	len    uint32
	error  int32 // minus an errno; in notifications their code
	unique uint64
}

const (
	headerSize      = 40
	replyHeaderSize = 16
)

// Attr are the attributes of an inode.
type Attr struct {
	Ino       uint64
	Size      uint64
	Blocks    uint64 // of 512 bytes
	Atime     uint64 // seconds; as a signed number
	Mtime     uint64
	Ctime     uint64
	AtimeNsec uint32
	MtimeNsec uint32
	CtimeNsec uint32
	Mode      uint32
	Nlink     uint32
	UID       uint32
	GID       uint32
	Rdev      uint32
	BlockSize uint32
	Flags     uint32
}

// EntryOut tells of an inode found or made by name. NodeID 0 says that there is
// none by that name, which the kernel may believe for EntryValid.
type EntryOut struct {
	NodeID         uint64
	Generation     uint64
	EntryValid     uint64 // seconds
	AttrValid      uint64
	EntryValidNsec uint32
	AttrValidNsec  uint32
	Attr           Attr
}

type GetAttrIn struct {
	Flags uint32 // GetAttrFh: Fh means something
	_     uint32
	Fh    uint64
}

type AttrOut struct {
	AttrValid     uint64 // seconds
	AttrValidNsec uint32
	_             uint32
	Attr          Attr
}

type SetAttrIn struct {
	Valid     uint32 // SetAttr* bits
	_         uint32
	Fh        uint64
	Size      uint64
	LockOwner uint64
	Atime     uint64
	Mtime     uint64
	Ctime     uint64
	AtimeNsec uint32
	MtimeNsec uint32
	CtimeNsec uint32
	Mode      uint32
	_         uint32
	UID       uint32
	GID       uint32
	_         uint32
}

// Time is a time of Statx.
type Time struct {
	Sec  int64
	Nsec uint32
	_    int32
}

type StatxIn struct {
	Flags uint32 // GetAttrFh
	_     uint32
	Fh    uint64
	SxFl  uint32 // statx(2)'s flags
	Mask  uint32 // and mask
}

type Statx struct {
	Mask           uint32
	BlockSize      uint32
	Attributes     uint64
	Nlink          uint32
	UID            uint32
	GID            uint32
	Mode           uint16
	_              uint16
	Ino            uint64
	Size           uint64
	Blocks         uint64
	AttributesMask uint64
	Atime          Time
	Btime          Time
	Ctime          Time
	Mtime          Time
	RdevMajor      uint32
	RdevMinor      uint32
	DevMajor       uint32
	DevMinor       uint32
	_              [14]uint64
}

type StatxOut struct {
	AttrValid     uint64
	AttrValidNsec uint32
	Flags         uint32
	_             [2]uint64
	Statx         Statx
}

type MknodIn struct {
	Mode  uint32
	Rdev  uint32
	Umask uint32
	_     uint32
}

type MkdirIn struct {
	Mode  uint32
	Umask uint32
}

type RenameIn struct {
	NewDir uint64
	Flags  uint32 // of renameat2(2)
	_      uint32
}

type LinkIn struct {
	OldNodeID uint64
}

type OpenIn struct {
	Flags     uint32 // of open(2)
	OpenFlags uint32 // OpenKillSUIDGID
}

type OpenOut struct {
	Fh        uint64
	OpenFlags uint32 // Fopen* bits
	BackingID int32  // with FopenPassthrough
}

type CreateIn struct {
	Flags     uint32 // of open(2)
	Mode      uint32
	Umask     uint32
	OpenFlags uint32
}

type CreateOut struct {
	EntryOut
	OpenOut
}

type ReleaseIn struct {
	Fh           uint64
	Flags        uint32 // of open(2)
	ReleaseFlags uint32 // Release* bits
	LockOwner    uint64
}

type FlushIn struct {
	Fh        uint64
	_         uint64
	LockOwner uint64
}

type ReadIn struct {
	Fh        uint64
	Offset    uint64
	Size      uint32
	ReadFlags uint32
	LockOwner uint64
	Flags     uint32 // of open(2)
	_         uint32
}

type WriteIn struct {
	Fh         uint64
	Offset     uint64
	Size       uint32
	WriteFlags uint32 // Write* bits
	LockOwner  uint64
	Flags      uint32 // of open(2)
	_          uint32
}

type writeOut struct {
	size uint32
	_    uint32
}

type StatfsOut struct {
	Blocks  uint64 // of FragSize bytes
	Bfree   uint64
	Bavail  uint64
	Files   uint64
	Ffree   uint64
	Bsize   uint32
	NameLen uint32
	Frsize  uint32
	_       uint32
	_       [6]uint32
}

type FsyncIn struct {
	Fh         uint64
	FsyncFlags uint32 // FsyncDataOnly
	_          uint32
}

// SetXattrIn has its second half only if SetXattrExt was negotiated.
type SetXattrIn struct {
	Size          uint32
	Flags         uint32 // of setxattr(2)
	SetXattrFlags uint32 // SetXattrACLKillSGID
	_             uint32
}

type compatSetXattrIn struct {
	size  uint32
	flags uint32
}

type getXattrIn struct {
	size uint32
	_    uint32
}

type getXattrOut struct {
	size uint32
	_    uint32
}

// FileLock is a range of a file, from Start to End, both included.
type FileLock struct {
	Start uint64
	End   uint64
	Type  uint32 // F_RDLCK, F_WRLCK, F_UNLCK
	PID   uint32
}

type LkIn struct {
	Fh      uint64
	Owner   uint64
	Lk      FileLock
	LkFlags uint32 // LkFlock
	_       uint32
}

type LkOut struct {
	Lk FileLock
}

type AccessIn struct {
	Mask uint32
	_    uint32
}

type IoctlIn struct {
	Fh      uint64
	Flags   uint32
	Cmd     uint32
	Arg     uint64
	InSize  uint32
	OutSize uint32
}

type FallocateIn struct {
	Fh     uint64
	Offset uint64
	Length uint64
	Mode   uint32
	_      uint32
}

type LseekIn struct {
	Fh     uint64
	Offset uint64
	Whence uint32
	_      uint32
}

type LseekOut struct {
	Offset uint64
}

type CopyFileRangeIn struct {
	FhIn      uint64
	OffIn     uint64
	NodeIDOut uint64
	FhOut     uint64
	OffOut    uint64
	Len       uint64
	Flags     uint64
}

type copyFileRangeOut struct {
	copied uint64
}

type forgetIn struct {
	nlookup uint64
}

type batchForgetIn struct {
	count uint32
	_     uint32
}

type forgetOne struct {
	nodeID  uint64
	nlookup uint64
}

type interruptIn struct {
	unique uint64
}

// retrieveIn comes with the pages that a Retrieve asked for. It is as long as
// WriteIn.
type retrieveIn struct {
	_    uint64
	_    uint64 // offset
	size uint32
	_    uint32
	_    [2]uint64
}

type initIn struct {
	major        uint32
	minor        uint32
	maxReadahead uint32
	flags        uint32
	flags2       uint32 // from here on only with InitExt
	_            [11]uint32
}

const compatInitInSize = 16

type initOut struct {
	major               uint32
	minor               uint32
	maxReadahead        uint32
	flags               uint32
	maxBackground       uint16
	congestionThreshold uint16
	maxWrite            uint32
	timeGran            uint32
	maxPages            uint16
	mapAlignment        uint16
	flags2              uint32
	maxStackDepth       uint32
	requestTimeout      uint16
	_                   [11]uint16
}
