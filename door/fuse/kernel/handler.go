package kernel

import "syscall"

// Handler answers the kernel's messages. Its methods are called concurrently, each on
// the goroutine that read the message, and may block. The errno 0 means that the reply
// was written to out (or returned). ENOSYS makes the kernel, for most messages, never
// send one of that kind again. in, out and byte slices are valid until the method
// returns; names are ordinary strings. out begins as zeros.
type Handler interface {
	Lookup(q *Request, name string, out *EntryOut) syscall.Errno
	// Forget takes back n of the references that entries in replies gave the
	// kernel. It has no reply.
	Forget(nodeID, n uint64)

	GetAttr(q *Request, in *GetAttrIn, out *AttrOut) syscall.Errno
	Statx(q *Request, in *StatxIn, out *StatxOut) syscall.Errno
	SetAttr(q *Request, in *SetAttrIn, out *AttrOut) syscall.Errno
	Readlink(q *Request) (string, syscall.Errno)

	Symlink(q *Request, target, name string, out *EntryOut) syscall.Errno
	Mknod(q *Request, in *MknodIn, name string, out *EntryOut) syscall.Errno
	Mkdir(q *Request, in *MkdirIn, name string, out *EntryOut) syscall.Errno
	Unlink(q *Request, name string) syscall.Errno
	Rmdir(q *Request, name string) syscall.Errno
	Rename(q *Request, in *RenameIn, oldName, newName string) syscall.Errno
	Link(q *Request, in *LinkIn, name string, out *EntryOut) syscall.Errno

	Open(q *Request, in *OpenIn, out *OpenOut) syscall.Errno
	Create(q *Request, in *CreateIn, name string, out *CreateOut) syscall.Errno
	Tmpfile(q *Request, in *CreateIn, out *CreateOut) syscall.Errno
	// Read fills buf, which is as long as what is asked for. Less than that is the
	// end of the file.
	Read(q *Request, in *ReadIn, buf []byte) (n int, errno syscall.Errno)
	Write(q *Request, in *WriteIn, data []byte) (n int, errno syscall.Errno)
	Flush(q *Request, in *FlushIn) syscall.Errno
	Fsync(q *Request, in *FsyncIn) syscall.Errno
	// Release ends an Open, Create or Tmpfile. Nobody hears of errors.
	Release(q *Request, in *ReleaseIn)
	Fallocate(q *Request, in *FallocateIn) syscall.Errno
	Lseek(q *Request, in *LseekIn, out *LseekOut) syscall.Errno
	CopyFileRange(q *Request, in *CopyFileRangeIn) (n uint64, errno syscall.Errno)

	OpenDir(q *Request, in *OpenIn, out *OpenOut) syscall.Errno
	ReadDir(q *Request, in *ReadIn, out *DirList) syscall.Errno
	ReadDirPlus(q *Request, in *ReadIn, out *DirList) syscall.Errno
	FsyncDir(q *Request, in *FsyncIn) syscall.Errno
	ReleaseDir(q *Request, in *ReleaseIn)

	// GetXattr copies the value to dest and returns its length. An empty dest asks for
	// the length only; ERANGE: dest is too short.
	GetXattr(q *Request, name string, dest []byte) (n int, errno syscall.Errno)
	// ListXattr does so with the names, each followed by a NUL.
	ListXattr(q *Request, dest []byte) (n int, errno syscall.Errno)
	SetXattr(q *Request, in *SetXattrIn, name string, value []byte) syscall.Errno
	RemoveXattr(q *Request, name string) syscall.Errno

	GetLk(q *Request, in *LkIn, out *LkOut) syscall.Errno
	// SetLk and SetLkw set or remove a lock; SetLkw waits for it, as long as it takes.
	SetLk(q *Request, in *LkIn) syscall.Errno
	SetLkw(q *Request, in *LkIn) syscall.Errno

	StatFs(q *Request, out *StatfsOut) syscall.Errno
	SyncFs(q *Request) syscall.Errno
	Access(q *Request, in *AccessIn) syscall.Errno
	Ioctl(q *Request, in *IoctlIn) syscall.Errno
}
