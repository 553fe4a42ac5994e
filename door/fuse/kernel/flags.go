package kernel

// Features are what kernel and door agree on in INIT: the kernel offers, the door
// takes. (The names in linux/fuse.h begin with FUSE_ and are written in capitals.)
type Features uint64

const (
	AsyncRead         Features = 1 << 0  // several reads of a file at a time
	PosixLocks        Features = 1 << 1  // fcntl locks come as messages
	AtomicOTrunc      Features = 1 << 3  // OPEN truncates
	ExportSupport     Features = 1 << 4  // LOOKUP of "." and ".." for the NFS server
	BigWrites         Features = 1 << 5  // WRITE of more than a page
	DontMask          Features = 1 << 6  // the umask comes with the message
	FlockLocks        Features = 1 << 10 // flock locks come as messages
	AutoInvalData     Features = 1 << 12 // drop pages when size or mtime is another
	ReaddirPlus       Features = 1 << 13
	ReaddirPlusAuto   Features = 1 << 14 // READDIRPLUS only where it seems of use
	AsyncDIO          Features = 1 << 15
	WritebackCache    Features = 1 << 16
	NoOpenSupport     Features = 1 << 17 // ENOSYS to OPEN: never send one again
	ParallelDirOps    Features = 1 << 18 // several LOOKUPs and READDIRs of a directory at a time
	PosixACL          Features = 1 << 20
	AbortError        Features = 1 << 21 // reading gives ECONNABORTED after an abort
	MaxPages          Features = 1 << 22 // requests of more than 128 KiB
	CacheSymlinks     Features = 1 << 23
	NoOpendirSupport  Features = 1 << 24 // as NoOpenSupport, for OPENDIR
	ExplicitInvalData Features = 1 << 25 // drop pages only when told
	HandleKillprivV2  Features = 1 << 28 // the door clears set-id bits
	SetXattrExt       Features = 1 << 29 // SetXattrIn is long
	initExt           Features = 1 << 30 // the upper half of Features means something
	HasExpireOnly     Features = 1 << 35
	DirectIOAllowMmap Features = 1 << 36
	Passthrough       Features = 1 << 37
	HasResend         Features = 1 << 39
	OverIOUring       Features = 1 << 41
	RequestTimeout    Features = 1 << 42
)

var featureNames = []struct {
	bit  Features
	name string
}{
	{AsyncRead, "async-read"}, {PosixLocks, "posix-locks"}, {AtomicOTrunc, "atomic-o-trunc"},
	{ExportSupport, "export"}, {BigWrites, "big-writes"}, {DontMask, "dont-mask"}, {FlockLocks, "flock-locks"},
	{AutoInvalData, "auto-inval-data"}, {ReaddirPlus, "readdirplus"}, {ReaddirPlusAuto, "readdirplus-auto"},
	{AsyncDIO, "async-dio"}, {WritebackCache, "writeback-cache"}, {NoOpenSupport, "no-open"},
	{ParallelDirOps, "parallel-dirops"}, {PosixACL, "posix-acl"}, {AbortError, "abort-error"}, {MaxPages, "max-pages"},
	{CacheSymlinks, "cache-symlinks"}, {NoOpendirSupport, "no-opendir"}, {ExplicitInvalData, "explicit-inval-data"},
	{HandleKillprivV2, "handle-killpriv-v2"}, {SetXattrExt, "setxattr-ext"}, {HasExpireOnly, "expire-only"},
	{DirectIOAllowMmap, "direct-io-mmap"}, {Passthrough, "passthrough"}, {HasResend, "resend"},
	{OverIOUring, "io-uring"}, {RequestTimeout, "request-timeout"},
}

// Names lists the features that have a name here, in the order of their bits.
func (f Features) Names() (names []string) {
	for _, n := range featureNames {
		if f&n.bit != 0 {
			names = append(names, n.name)
		}
	}
	return names
}

// Bits of message bodies.
const (
	GetAttrFh = 1 << 0 // of GetAttrIn.Flags and StatxIn.Flags

	// SetAttrIn.Valid.
	SetAttrMode        = 1 << 0
	SetAttrUID         = 1 << 1
	SetAttrGID         = 1 << 2
	SetAttrSize        = 1 << 3
	SetAttrAtime       = 1 << 4
	SetAttrMtime       = 1 << 5
	SetAttrFh          = 1 << 6
	SetAttrAtimeNow    = 1 << 7
	SetAttrMtimeNow    = 1 << 8
	SetAttrLockOwner   = 1 << 9
	SetAttrCtime       = 1 << 10
	SetAttrKillSUIDGID = 1 << 11

	OpenKillSUIDGID = 1 << 0 // of OpenIn.OpenFlags

	// OpenOut.OpenFlags.
	FopenDirectIO             = 1 << 0
	FopenKeepCache            = 1 << 1
	FopenNonSeekable          = 1 << 2
	FopenCacheDir             = 1 << 3
	FopenStream               = 1 << 4
	FopenNoFlush              = 1 << 5
	FopenParallelDirectWrites = 1 << 6
	FopenPassthrough          = 1 << 7

	// ReleaseIn.ReleaseFlags.
	ReleaseFlush       = 1 << 0
	ReleaseFlockUnlock = 1 << 1

	// WriteIn.WriteFlags.
	WriteCache       = 1 << 0 // from the page cache, without a caller
	WriteLockOwner   = 1 << 1
	WriteKillSUIDGID = 1 << 2

	FsyncDataOnly       = 1 << 0 // of FsyncIn.FsyncFlags
	LkFlock             = 1 << 0 // of LkIn.LkFlags
	SetXattrACLKillSGID = 1 << 0 // of SetXattrIn.SetXattrFlags
)

// RootID is the node id of the mount's root.
const RootID = 1
