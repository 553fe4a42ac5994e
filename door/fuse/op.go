package fuse

// The operations that a Recorder is told of.
const (
	OpLookup = iota
	OpForget
	OpGetAttr
	OpSetAttr
	OpReadlink
	OpSymlink
	OpMknod
	OpMkdir
	OpUnlink
	OpRmdir
	OpRename
	OpLink
	OpOpen
	OpCreate
	OpTmpfile
	OpRead
	OpWrite
	OpFlush
	OpFsync
	OpRelease
	OpFallocate
	OpLseek
	OpCopyRange
	OpStatFS
	OpGetXattr
	OpSetXattr
	OpListXattr
	OpRemoveXattr
	OpOpenDir
	OpReadDir
	OpReadDirPlus
	OpReleaseDir
	OpFsyncDir
	OpGetLock
	OpSetLock
	OpIoctl
	OpAccess
	OpSyncFS
	// OpCount is how many operations there are.
	OpCount
)

var opNames = [OpCount]string{
	"lookup", "forget", "getattr", "setattr", "readlink", "symlink", "mknod", "mkdir", "unlink", "rmdir",
	"rename", "link", "open", "create", "tmpfile", "read", "write", "flush", "fsync", "release", "fallocate",
	"lseek", "copy_range", "statfs", "getxattr", "setxattr", "listxattr", "removexattr", "opendir", "readdir",
	"readdirplus", "releasedir", "fsyncdir", "getlock", "setlock", "ioctl", "access", "syncfs",
}

// OpName returns the name of an operation, as in logs and metrics.
func OpName(op int) string {
	if op < 0 || op >= OpCount {
		return "unknown"
	}
	return opNames[op]
}
