package fuse

import (
	"io"
	"math"
	"sync"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/massif-fs/massif/vfs"
)

// readResult hands bytes to go-fuse without an allocation.
type readResult struct{ data []byte }

var readResultPool = sync.Pool{New: func() any { return new(readResult) }}

func (r *readResult) Bytes([]byte) ([]byte, gofuse.Status) { return r.data, gofuse.OK }
func (r *readResult) Size() int                            { return len(r.data) }
func (r *readResult) Done() {
	r.data = nil
	readResultPool.Put(r)
}

// Read implements gofuse.RawFileSystem.
func (d *door) Read(cancel <-chan struct{}, in *gofuse.ReadIn, buf []byte) (res gofuse.ReadResult, code gofuse.Status) {
	r := d.begin(OpRead, cancel, &in.InHeader, "")
	defer r.end(&code)
	f, n, err := d.file(r, in.NodeId, in.Fh)
	if err != nil {
		r.err = err
		return
	}
	defer d.done(n)
	// A short answer means the end of the file to the kernel: never one together
	// with an error.
	if r.bytes, r.err = f.ReadAt(r, buf[:in.Size], int64(in.Offset)); r.err == io.EOF {
		r.err = nil
	}
	if r.err == nil {
		rr := readResultPool.Get().(*readResult)
		rr.data = buf[:r.bytes]
		res = rr
	}
	return
}

// Writev implements gofuse.RawFileSystem. Data arrives in one piece on this
// transport.
func (d *door) Writev(cancel <-chan struct{}, in *gofuse.WriteIn, data [][]byte) (written uint32, code gofuse.Status) {
	if len(data) != 1 {
		return 0, gofuse.ENOSYS // go-fuse joins them and calls Write
	}
	return d.Write(cancel, in, data[0])
}

// Write implements gofuse.RawFileSystem.
func (d *door) Write(cancel <-chan struct{}, in *gofuse.WriteIn, data []byte) (written uint32, code gofuse.Status) {
	r := d.begin(OpWrite, cancel, &in.InHeader, "")
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	f, n, err := d.file(r, in.NodeId, in.Fh)
	if err != nil {
		r.err = err
		return
	}
	defer d.done(n)
	if in.WriteFlags&gofuse.WRITE_KILL_SUIDGID != 0 {
		if r.err = d.killPrivileges(r, in.NodeId); r.err != nil {
			return
		}
	}
	r.bytes, r.err = f.WriteAt(r, data, int64(in.Offset))
	if r.err != nil && r.bytes > 0 && in.WriteFlags&gofuse.WRITE_CACHE == 0 {
		// A program is told how much was written; its next write meets the cause.
		// For pages that the kernel writes back only the cause itself is of use.
		if errno := vfs.ErrnoOf(r.err); unexpected(errno) {
			d.complaints.report(d.log, r, errno)
		}
		r.err = nil
	}
	written = uint32(r.bytes)
	return
}

// Flush implements gofuse.RawFileSystem: a descriptor was closed.
func (d *door) Flush(cancel <-chan struct{}, in *gofuse.FlushIn) (code gofuse.Status) {
	if d.stateless {
		return gofuse.ENOSYS // once; errors are told by fsync
	}
	r := d.begin(OpFlush, cancel, &in.InHeader, "")
	defer r.end(&code)
	f, n, err := d.file(r, in.NodeId, in.Fh)
	if err != nil {
		r.err = err
		return
	}
	defer d.done(n)
	r.err = f.Flush(r)
	if d.locks != nil {
		// close(2) drops all fcntl locks of the process on the file.
		if err := d.locks.ReleaseLocks(r, vfs.Ino(in.NodeId), in.LockOwner, vfs.LockPOSIX); err != nil && r.err == nil {
			r.err = err
		}
	}
	return
}

const fsyncDataOnly = 1 // FUSE_FSYNC_FDATASYNC

// Fsync implements gofuse.RawFileSystem.
func (d *door) Fsync(cancel <-chan struct{}, in *gofuse.FsyncIn) (code gofuse.Status) {
	r := d.begin(OpFsync, cancel, &in.InHeader, "")
	defer r.end(&code)
	f, n, err := d.file(r, in.NodeId, in.Fh)
	if err != nil {
		r.err = err
		return
	}
	defer d.done(n)
	r.err = f.Sync(r, in.FsyncFlags&fsyncDataOnly != 0)
	return
}

// Fallocate implements gofuse.RawFileSystem.
func (d *door) Fallocate(cancel <-chan struct{}, in *gofuse.FallocateIn) (code gofuse.Status) {
	r := d.begin(OpFallocate, cancel, &in.InHeader, "")
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	if in.Offset > math.MaxInt64 || in.Length > math.MaxInt64 || in.Offset+in.Length > math.MaxInt64 {
		r.err = syscall.EFBIG
		return
	}
	f, n, err := d.file(r, in.NodeId, in.Fh)
	if err != nil {
		r.err = err
		return
	}
	defer d.done(n)
	if r.err = d.killPrivilegesOf(r, in.NodeId); r.err != nil {
		return
	}
	r.err = f.Allocate(r, in.Mode, int64(in.Offset), int64(in.Length))
	return
}

// Lseek implements gofuse.RawFileSystem for SEEK_DATA and SEEK_HOLE; the kernel
// does the others itself.
func (d *door) Lseek(cancel <-chan struct{}, in *gofuse.LseekIn, out *gofuse.LseekOut) (code gofuse.Status) {
	if d.writeback {
		return gofuse.ENOSYS // the tree does not know of the kernel's dirty pages
	}
	r := d.begin(OpLseek, cancel, &in.InHeader, "")
	defer r.end(&code)
	if in.Offset > math.MaxInt64 {
		r.err = syscall.ENXIO
		return
	}
	f, n, err := d.file(r, in.NodeId, in.Fh)
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

// maxCopy bounds what one COPY_FILE_RANGE does, so that its answer fits 32 bits
// and an interrupt does not wait for ever.
const maxCopy = 1 << 30

// CopyFileRange implements gofuse.RawFileSystem. Where the tree cannot copy, the
// kernel does, by reading and writing.
func (d *door) CopyFileRange(cancel <-chan struct{}, in *gofuse.CopyFileRangeIn) (written uint32, code gofuse.Status) {
	if d.copier == nil {
		return 0, gofuse.ENOSYS // once
	}
	r := d.begin(OpCopyRange, cancel, &in.InHeader, "")
	defer r.end(&code)
	if d.readOnly {
		r.err = syscall.EROFS
		return
	}
	if in.OffIn > math.MaxInt64 || in.OffOut > math.MaxInt64 || in.Flags != 0 {
		r.err = syscall.EINVAL
		return
	}
	src, n1, err := d.file(r, in.NodeId, in.FhIn)
	if err != nil {
		r.err = err
		return
	}
	defer d.done(n1)
	dst, n2, err := d.file(r, in.NodeIdOut, in.FhOut)
	if err != nil {
		r.err = err
		return
	}
	defer d.done(n2)
	if r.err = d.killPrivilegesOf(r, in.NodeIdOut); r.err != nil {
		return
	}
	var done int64
	done, r.err = d.copier.CopyRange(r, src, int64(in.OffIn), dst, int64(in.OffOut), int64(min(in.Len, maxCopy)))
	if done > 0 {
		r.err = nil // as for writes: the next call meets the cause
	}
	r.bytes = int(done)
	written = uint32(done)
	return
}
