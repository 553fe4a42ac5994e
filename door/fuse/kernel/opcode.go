package kernel

import "strconv"

// Opcode says what a message asks for.
type Opcode uint32

const (
	opLookup          Opcode = 1
	opForget          Opcode = 2
	opGetattr         Opcode = 3
	opSetattr         Opcode = 4
	opReadlink        Opcode = 5
	opSymlink         Opcode = 6
	opMknod           Opcode = 8
	opMkdir           Opcode = 9
	opUnlink          Opcode = 10
	opRmdir           Opcode = 11
	opRename          Opcode = 12
	opLink            Opcode = 13
	opOpen            Opcode = 14
	opRead            Opcode = 15
	opWrite           Opcode = 16
	opStatfs          Opcode = 17
	opRelease         Opcode = 18
	opFsync           Opcode = 20
	opSetxattr        Opcode = 21
	opGetxattr        Opcode = 22
	opListxattr       Opcode = 23
	opRemovexattr     Opcode = 24
	opFlush           Opcode = 25
	opInit            Opcode = 26
	opOpendir         Opcode = 27
	opReaddir         Opcode = 28
	opReleasedir      Opcode = 29
	opFsyncdir        Opcode = 30
	opGetlk           Opcode = 31
	opSetlk           Opcode = 32
	opSetlkw          Opcode = 33
	opAccess          Opcode = 34
	opCreate          Opcode = 35
	opInterrupt       Opcode = 36
	opBmap            Opcode = 37
	opDestroy         Opcode = 38
	opIoctl           Opcode = 39
	opPoll            Opcode = 40
	opNotifyReply     Opcode = 41
	opBatchForget     Opcode = 42
	opFallocate       Opcode = 43
	opReaddirplus     Opcode = 44
	opRename2         Opcode = 45
	opLseek           Opcode = 46
	opCopyFileRange   Opcode = 47
	opSetupmapping    Opcode = 48
	opRemovemapping   Opcode = 49
	opSyncfs          Opcode = 50
	opTmpfile         Opcode = 51
	opStatx           Opcode = 52
	opCopyFileRange64 Opcode = 53
	opCount                  = 54
)

var opcodeNames = [opCount]string{
	opLookup: "LOOKUP", opForget: "FORGET", opGetattr: "GETATTR", opSetattr: "SETATTR", opReadlink: "READLINK",
	opSymlink: "SYMLINK", opMknod: "MKNOD", opMkdir: "MKDIR", opUnlink: "UNLINK", opRmdir: "RMDIR",
	opRename: "RENAME", opLink: "LINK", opOpen: "OPEN", opRead: "READ", opWrite: "WRITE", opStatfs: "STATFS",
	opRelease: "RELEASE", opFsync: "FSYNC", opSetxattr: "SETXATTR", opGetxattr: "GETXATTR",
	opListxattr: "LISTXATTR", opRemovexattr: "REMOVEXATTR", opFlush: "FLUSH", opInit: "INIT",
	opOpendir: "OPENDIR", opReaddir: "READDIR", opReleasedir: "RELEASEDIR", opFsyncdir: "FSYNCDIR",
	opGetlk: "GETLK", opSetlk: "SETLK", opSetlkw: "SETLKW", opAccess: "ACCESS", opCreate: "CREATE",
	opInterrupt: "INTERRUPT", opBmap: "BMAP", opDestroy: "DESTROY", opIoctl: "IOCTL", opPoll: "POLL",
	opNotifyReply: "NOTIFY_REPLY", opBatchForget: "BATCH_FORGET", opFallocate: "FALLOCATE",
	opReaddirplus: "READDIRPLUS", opRename2: "RENAME2", opLseek: "LSEEK", opCopyFileRange: "COPY_FILE_RANGE",
	opSetupmapping: "SETUPMAPPING", opRemovemapping: "REMOVEMAPPING", opSyncfs: "SYNCFS", opTmpfile: "TMPFILE",
	opStatx: "STATX", opCopyFileRange64: "COPY_FILE_RANGE_64",
}

// String returns the name of the protocol's documentation.
func (o Opcode) String() string {
	if o < opCount && opcodeNames[o] != "" {
		return opcodeNames[o]
	}
	return "opcode " + strconv.FormatUint(uint64(o), 10)
}
