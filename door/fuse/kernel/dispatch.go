package kernel

import (
	"bytes"
	"syscall"
	"unsafe"
)

// badMessage is the answer to what cannot be understood.
const badMessage = syscall.EINVAL

// take cuts a structure off the beginning of a message's body. The memory is aligned
// to eight bytes, as the structures are.
func take[T any](q *Request) (*T, bool) {
	var z T
	from := &q.body
	if q.op != nil {
		from = &q.op
	}
	size := int(unsafe.Sizeof(z))
	if len(*from) < size {
		return nil, false
	}
	p := (*T)(unsafe.Pointer(unsafe.SliceData(*from)))
	*from = (*from)[size:]
	return p, true
}

// takeName cuts a name off, which ends with a NUL.
func takeName(q *Request) (string, bool) {
	i := bytes.IndexByte(q.body, 0)
	if i < 0 {
		return "", false
	}
	s := string(q.body[:i])
	q.body = q.body[i+1:]
	return s, true
}

// give returns the place of the reply's structure, and its size.
func give[T any](q *Request) (*T, int) {
	p := (*T)(unsafe.Pointer(&q.buf[q.out]))
	var zero T
	*p = zero
	return p, int(unsafe.Sizeof(zero))
}

// data returns the place of a reply that is no structure.
func (q *Request) data(size uint32) []byte {
	q.from = headSize
	return q.buf[headSize : headSize+min(int(size), len(q.buf)-headSize)]
}

// ofNode calls a handler that needs a structure and no more.
func ofNode[In any](q *Request, fn func(*Request, *In) syscall.Errno) (int, syscall.Errno) {
	in, ok := take[In](q)
	if !ok {
		return 0, badMessage
	}
	return 0, fn(q, in)
}

// dispatch calls the handler. size is how much of the reply, behind the header, is
// to be sent.
func (c *Conn) dispatch(q *Request) (size int, errno syscall.Errno) {
	h := c.handler
	switch q.Opcode {
	case opLookup:
		name, ok := takeName(q)
		if !ok {
			return 0, badMessage
		}
		out, size := give[EntryOut](q)
		if p := c.prime.Load(); p != nil && p.lookup(q, name, out) {
			return size, 0
		}
		return size, h.Lookup(q, name, out)

	case opGetattr:
		in, ok := take[GetAttrIn](q)
		if !ok {
			return 0, badMessage
		}
		out, size := give[AttrOut](q)
		return size, h.GetAttr(q, in, out)

	case opSetattr:
		in, ok := take[SetAttrIn](q)
		if !ok {
			return 0, badMessage
		}
		out, size := give[AttrOut](q)
		return size, h.SetAttr(q, in, out)

	case opStatx:
		in, ok := take[StatxIn](q)
		if !ok {
			return 0, badMessage
		}
		out, size := give[StatxOut](q)
		return size, h.Statx(q, in, out)

	case opRead:
		in, ok := take[ReadIn](q)
		if !ok {
			return 0, badMessage
		}
		return h.Read(q, in, q.data(in.Size))

	case opWrite:
		in, ok := take[WriteIn](q)
		if !ok || uint64(in.Size) > uint64(len(q.body)) {
			return 0, badMessage
		}
		n, errno := h.Write(q, in, q.body[:in.Size])
		out, size := give[writeOut](q)
		out.size = uint32(n)
		return size, errno

	case opOpen, opOpendir:
		in, ok := take[OpenIn](q)
		if !ok {
			return 0, badMessage
		}
		out, size := give[OpenOut](q)
		if q.Opcode == opOpendir {
			return size, h.OpenDir(q, in, out)
		}
		if c.prime.Load() != nil && q.NodeID == primeID {
			return size, 0
		}
		return size, h.Open(q, in, out)

	case opCreate, opTmpfile:
		in, ok := take[CreateIn](q)
		if !ok {
			return 0, badMessage
		}
		name, ok := takeName(q)
		if !ok {
			return 0, badMessage
		}
		out, size := give[CreateOut](q)
		if q.Opcode == opTmpfile {
			return size, h.Tmpfile(q, in, out)
		}
		return size, h.Create(q, in, name, out)

	case opRelease, opReleasedir:
		in, ok := take[ReleaseIn](q)
		if !ok {
			return 0, badMessage
		}
		switch {
		case q.NodeID == primeID:
		case q.Opcode == opReleasedir:
			h.ReleaseDir(q, in)
		default:
			h.Release(q, in)
		}
		return 0, 0

	case opFlush:
		if q.NodeID == primeID {
			return 0, 0
		}
		return ofNode(q, h.Flush)
	case opFsync:
		return ofNode(q, h.Fsync)
	case opFsyncdir:
		return ofNode(q, h.FsyncDir)
	case opFallocate:
		return ofNode(q, h.Fallocate)
	case opAccess:
		return ofNode(q, h.Access)
	case opIoctl:
		return ofNode(q, h.Ioctl)
	case opSetlk:
		return ofNode(q, h.SetLk)
	case opSetlkw:
		return ofNode(q, h.SetLkw)

	case opGetlk:
		in, ok := take[LkIn](q)
		if !ok {
			return 0, badMessage
		}
		out, size := give[LkOut](q)
		return size, h.GetLk(q, in, out)

	case opReaddir, opReaddirplus:
		in, ok := take[ReadIn](q)
		if !ok {
			return 0, badMessage
		}
		list := DirList{buf: q.data(in.Size)}
		if q.Opcode == opReaddir {
			errno = h.ReadDir(q, in, &list)
		} else {
			errno = h.ReadDirPlus(q, in, &list)
		}
		return list.used, errno

	case opReadlink:
		target, errno := h.Readlink(q)
		return copy(q.data(uint32(len(target))), target), errno

	case opSymlink:
		name, ok := takeName(q)
		if !ok {
			return 0, badMessage
		}
		target, ok := takeName(q)
		if !ok {
			return 0, badMessage
		}
		out, size := give[EntryOut](q)
		return size, h.Symlink(q, target, name, out)

	case opMknod:
		in, ok := take[MknodIn](q)
		if !ok {
			return 0, badMessage
		}
		name, ok := takeName(q)
		if !ok {
			return 0, badMessage
		}
		out, size := give[EntryOut](q)
		return size, h.Mknod(q, in, name, out)

	case opMkdir:
		in, ok := take[MkdirIn](q)
		if !ok {
			return 0, badMessage
		}
		name, ok := takeName(q)
		if !ok {
			return 0, badMessage
		}
		out, size := give[EntryOut](q)
		return size, h.Mkdir(q, in, name, out)

	case opLink:
		in, ok := take[LinkIn](q)
		if !ok {
			return 0, badMessage
		}
		name, ok := takeName(q)
		if !ok {
			return 0, badMessage
		}
		out, size := give[EntryOut](q)
		return size, h.Link(q, in, name, out)

	case opUnlink, opRmdir:
		name, ok := takeName(q)
		if !ok {
			return 0, badMessage
		}
		if q.Opcode == opRmdir {
			return 0, h.Rmdir(q, name)
		}
		return 0, h.Unlink(q, name)

	case opRename, opRename2:
		return c.rename(q)

	case opGetxattr:
		in, ok := take[getXattrIn](q)
		if !ok {
			return 0, badMessage
		}
		name, ok := takeName(q)
		if !ok {
			return 0, badMessage
		}
		n, errno := h.GetXattr(q, name, q.data(in.size))
		return sized(q, in.size, n, errno)

	case opListxattr:
		in, ok := take[getXattrIn](q)
		if !ok {
			return 0, badMessage
		}
		n, errno := h.ListXattr(q, q.data(in.size))
		return sized(q, in.size, n, errno)

	case opSetxattr:
		return c.setXattr(q)

	case opRemovexattr:
		name, ok := takeName(q)
		if !ok {
			return 0, badMessage
		}
		return 0, h.RemoveXattr(q, name)

	case opStatfs:
		out, size := give[StatfsOut](q)
		return size, h.StatFs(q, out)

	case opLseek:
		in, ok := take[LseekIn](q)
		if !ok {
			return 0, badMessage
		}
		out, size := give[LseekOut](q)
		return size, h.Lseek(q, in, out)

	case opCopyFileRange, opCopyFileRange64:
		in, ok := take[CopyFileRangeIn](q)
		if !ok {
			return 0, badMessage
		}
		n, errno := h.CopyFileRange(q, in)
		if q.Opcode == opCopyFileRange64 {
			out, size := give[copyFileRangeOut](q)
			out.copied = n
			return size, errno
		}
		out, size := give[writeOut](q)
		out.size = uint32(n)
		return size, errno

	case opSyncfs:
		return 0, h.SyncFs(q)
	case opDestroy:
		return 0, 0
	}
	// BMAP and DAX mappings, which only make sense with a block device and with
	// virtio; POLL (see poll.go); and what is not known yet.
	return 0, syscall.ENOSYS
}

// sized ends a GETXATTR or LISTXATTR: asked for 0 bytes it tells how many there are.
func sized(q *Request, asked uint32, n int, errno syscall.Errno) (int, syscall.Errno) {
	if asked == 0 {
		q.from = q.out
		out, size := give[getXattrOut](q)
		out.size = uint32(n)
		return size, errno
	}
	return n, errno
}

func (c *Conn) rename(q *Request) (int, syscall.Errno) {
	var in RenameIn
	if q.Opcode == opRename { // its structure is RenameIn's first member
		dir, ok := take[uint64](q)
		if !ok {
			return 0, badMessage
		}
		in.NewDir = *dir
	} else {
		p, ok := take[RenameIn](q)
		if !ok {
			return 0, badMessage
		}
		in = *p
	}
	oldName, ok := takeName(q)
	if !ok {
		return 0, badMessage
	}
	newName, ok := takeName(q)
	if !ok {
		return 0, badMessage
	}
	return 0, c.handler.Rename(q, &in, oldName, newName)
}

func (c *Conn) setXattr(q *Request) (int, syscall.Errno) {
	var in SetXattrIn
	if c.init.Features&SetXattrExt != 0 {
		p, ok := take[SetXattrIn](q)
		if !ok {
			return 0, badMessage
		}
		in = *p
	} else {
		p, ok := take[compatSetXattrIn](q)
		if !ok {
			return 0, badMessage
		}
		in.Size, in.Flags = p.size, p.flags
	}
	name, ok := takeName(q)
	if !ok || uint64(in.Size) > uint64(len(q.body)) {
		return 0, badMessage
	}
	return 0, c.handler.SetXattr(q, &in, name, q.body[:in.Size])
}

// noReply handles the messages that are not answered.
func (c *Conn) noReply(q *Request) {
	defer c.outlive(q)
	switch q.Opcode {
	case opForget:
		if in, ok := take[forgetIn](q); ok && q.NodeID != primeID {
			c.handler.Forget(q.NodeID, in.nlookup)
		}
	case opBatchForget:
		in, ok := take[batchForgetIn](q)
		if !ok {
			return
		}
		for range in.count {
			one, ok := take[forgetOne](q)
			if !ok {
				return
			}
			if one.nodeID != primeID {
				c.handler.Forget(one.nodeID, one.nlookup)
			}
		}
	case opInterrupt:
		if in, ok := take[interruptIn](q); ok && !c.interrupt(in.unique) {
			c.overtook(in.unique)
		}
	case opNotifyReply:
		in, ok := take[retrieveIn](q)
		if !ok {
			return
		}
		if ch := c.retrieves.take(q.Unique); ch != nil {
			ch <- bytes.Clone(q.body[:min(uint64(in.size), uint64(len(q.body)))])
		}
	}
}
