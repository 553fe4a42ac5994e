package fuse

import (
	"io"
	"math"
	"syscall"

	"github.com/massif-fs/massif/door/fuse/kernel"
	"github.com/massif-fs/massif/vfs"
)

// Read implements kernel.Handler.
func (d *door) Read(q *kernel.Request, in *kernel.ReadIn, buf []byte) (n int, code syscall.Errno) {
	r := d.begin(OpRead, q, "")
	defer r.end(&code)
	f, node, err := d.file(r, q.NodeID, in.Fh)
	if err != nil {
		r.err = err
		return
	}
	defer d.done(node)
	// A short answer means the end of the file to the kernel: never one together
	// with an error.
	if r.bytes, r.err = f.ReadAt(r, buf, int64(in.Offset)); r.err == io.EOF {
		r.err = nil
	}
	if d.leases != nil && r.err == nil && r.bytes > 0 {
		r.leaseRead(f, buf, int64(in.Offset))
	}
	return r.bytes, 0
}

// Write implements kernel.Handler.
func (d *door) Write(q *kernel.Request, in *kernel.WriteIn, data []byte) (written int, code syscall.Errno) {
	r := d.begin(OpWrite, q, "")
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	f, n, err := d.file(r, q.NodeID, in.Fh)
	if err != nil {
		r.err = err
		return
	}
	defer d.done(n)
	if in.WriteFlags&kernel.WriteKillSUIDGID != 0 {
		if r.err = d.killPrivileges(r, q.NodeID); r.err != nil {
			return
		}
	}
	length := len(data)
	if in.WriteFlags&kernel.WriteCache != 0 {
		var within int64
		if within, r.err = d.clipWriteBack(r, q.NodeID, int64(in.Offset), int64(len(data))); r.err != nil {
			return
		}
		data = data[:within]
	}
	if len(data) > 0 {
		r.bytes, r.err = f.WriteAt(r, data, int64(in.Offset))
	}
	if r.err == nil && r.bytes == len(data) {
		r.bytes = length
	}
	if r.err != nil && r.bytes > 0 && in.WriteFlags&kernel.WriteCache == 0 {
		// A program is told how much was written; its next write meets the cause.
		// For pages that the kernel writes back only the cause itself is of use.
		if errno := vfs.ErrnoOf(r.err); unexpected(errno) {
			d.complaints.report(d.log, r, errno)
		}
		r.err = nil
	}
	return r.bytes, 0
}

// Flush implements kernel.Handler: a descriptor was closed.
func (d *door) Flush(q *kernel.Request, in *kernel.FlushIn) (code syscall.Errno) {
	if d.stateless {
		return syscall.ENOSYS // once; errors are told by fsync
	}
	r := d.begin(OpFlush, q, "")
	defer r.end(&code)
	f, n, err := d.file(r, q.NodeID, in.Fh)
	if err != nil {
		r.err = err
		return
	}
	defer d.done(n)
	r.err = f.Flush(r)
	if d.locks != nil {
		// close(2) drops all fcntl locks of the process on the file.
		if err := d.locks.ReleaseLocks(r, vfs.Ino(q.NodeID), in.LockOwner, vfs.LockPOSIX); err != nil && r.err == nil {
			r.err = err
		}
	}
	return
}

// Fsync implements kernel.Handler.
func (d *door) Fsync(q *kernel.Request, in *kernel.FsyncIn) (code syscall.Errno) {
	r := d.begin(OpFsync, q, "")
	defer r.end(&code)
	f, n, err := d.file(r, q.NodeID, in.Fh)
	if err != nil {
		r.err = err
		return
	}
	defer d.done(n)
	r.err = f.Sync(r, in.FsyncFlags&kernel.FsyncDataOnly != 0)
	return
}

// Fallocate implements kernel.Handler.
func (d *door) Fallocate(q *kernel.Request, in *kernel.FallocateIn) (code syscall.Errno) {
	r := d.begin(OpFallocate, q, "")
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	if in.Offset > math.MaxInt64 || in.Length > math.MaxInt64 || in.Offset+in.Length > math.MaxInt64 {
		r.err = syscall.EFBIG
		return
	}
	f, n, err := d.file(r, q.NodeID, in.Fh)
	if err != nil {
		r.err = err
		return
	}
	defer d.done(n)
	if r.err = d.killPrivilegesOf(r, q.NodeID); r.err != nil {
		return
	}
	r.err = f.Allocate(r, in.Mode, int64(in.Offset), int64(in.Length))
	return
}

// Lseek implements kernel.Handler for SEEK_DATA and SEEK_HOLE; the kernel
// does the others itself.
func (d *door) Lseek(q *kernel.Request, in *kernel.LseekIn, out *kernel.LseekOut) (code syscall.Errno) {
	if d.writeback {
		return syscall.ENOSYS // the tree does not know of the kernel's dirty pages
	}
	r := d.begin(OpLseek, q, "")
	defer r.end(&code)
	if in.Offset > math.MaxInt64 {
		r.err = syscall.ENXIO
		return
	}
	f, n, err := d.file(r, q.NodeID, in.Fh)
	if err != nil {
		r.err = err
		return
	}
	defer d.done(n)
	var pos int64
	if pos, r.err = f.Seek(r, int64(in.Offset), int(in.Whence)); r.err == nil {
		out.Offset = uint64(pos)
	}
	return
}

// maxCopy bounds what one COPY_FILE_RANGE does, so that its answer fits the 32 bits of
// its older form and an interrupt does not wait for ever.
const maxCopy = 1 << 30

// CopyFileRange implements kernel.Handler. Where the tree cannot copy, the
// kernel does, by reading and writing.
func (d *door) CopyFileRange(q *kernel.Request, in *kernel.CopyFileRangeIn) (written uint64, code syscall.Errno) {
	if d.copier == nil {
		return 0, syscall.ENOSYS // once
	}
	r := d.begin(OpCopyRange, q, "")
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	if in.OffIn > math.MaxInt64 || in.OffOut > math.MaxInt64 || in.Flags != 0 {
		r.err = syscall.EINVAL
		return
	}
	src, n1, err := d.file(r, q.NodeID, in.FhIn)
	if err != nil {
		r.err = err
		return
	}
	defer d.done(n1)
	dst, n2, err := d.file(r, in.NodeIDOut, in.FhOut)
	if err != nil {
		r.err = err
		return
	}
	defer d.done(n2)
	if r.err = d.killPrivilegesOf(r, in.NodeIDOut); r.err != nil {
		return
	}
	var done int64
	done, r.err = d.copier.CopyRange(r, src, int64(in.OffIn), dst, int64(in.OffOut), int64(min(in.Len, maxCopy)))
	if done > 0 {
		r.err = nil // as for writes: the next call meets the cause
	}
	r.bytes = int(done)
	return uint64(done), 0
}
