package metarpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"syscall"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// handler does calls: it reads what they want, asks the engine's session, and
// writes the reply into e.
type handler struct {
	ss     *session
	l      *link
	slot   *slot // of the call; nil: none
	d      decoder
	e      encoder
	failed error     // the call's error, which the reply tells
	denied error     // of an inode that the session does not see
	spoken []vfs.Ino // inodes that the reply tells of
	// borrowed: it sees one only as long as it has it in use, so that it gets no lease.
	borrowed bool
	caller   vfs.Caller
	replay   *meta.Replay // of the call; nil: none
	made     vfs.Ino      // the new inode of a call that made one
	receipt  []byte       // of a change that is acknowledged early

	// Leases that the reply speaks of: they are looked at again when it is sent.
	epoch  uint64
	leases []replyLease
}

// replyLease is a lease that bit of the byte at offset at of the reply tells.
type replyLease struct {
	meta.Lease
	at  int
	bit uint8
}

// flags begins a reply that can tell leases.
func (h *handler) flags() (at int) {
	h.leases = h.leases[:0]
	if h.ss.leasing {
		h.epoch = h.ss.ms.LeaseEpoch()
	}
	h.e.u8(0)
	return len(h.e.b) - 1
}

// lease asks for a lease, before what it is about is read, which the reply tells with
// a bit.
func (h *handler) lease(ino vfs.Ino, kind meta.Leases, at int, bit uint8) {
	if !h.ss.leasing || h.borrowed {
		return
	}
	if l, ok := h.ss.ms.Lease(ino, kind); ok {
		h.tell(l, at, bit)
	}
}

func (h *handler) tell(l meta.Lease, at int, bit uint8) {
	h.e.b[at] |= bit
	h.leases = append(h.leases, replyLease{l, at, bit})
}

// early tells whether the reply speaks of what is not durable yet.
func (h *handler) early() bool {
	ss := h.ss
	if ss.sync == nil || ss.vol.Relaxed || ss.vol.Engine.AllDurable() {
		return false
	}
	if h.denied != nil { // by where directories are, which may not be durable
		return true
	}
	for _, ino := range h.spoken {
		if !ss.vol.Engine.Durable(ino, ss.author()) {
			return true
		}
	}
	return false
}

// sendLater is send when what the reply tells is durable; then it calls sent.
func (h *handler) sendLater(sent func()) {
	endFrame(h.e.b, 0)
	late := &handler{ss: h.ss, l: h.l, e: encoder{bytes.Clone(h.e.b)}, epoch: h.epoch, leases: slices.Clone(h.leases)}
	h.ss.sync.after(func(error) {
		late.l.w.addAfter(late.settle, late.e.b)
		late.l.w.post(nil)
		sent()
	})
}

// settle takes leases out of the reply that have ended since. The writer is locked:
// what ends from now on is told behind the reply.
func (h *handler) settle() {
	if len(h.leases) == 0 || h.ss.ms.LeaseEpoch() == h.epoch { // its session may have none at all
		return
	}
	for _, l := range h.leases {
		if !h.ss.ms.Holds(l.Lease) {
			h.e.b[l.at] &^= l.bit
		}
	}
}

// begin begins a reply.
func (h *handler) begin(id uint64) {
	h.e.b = beginFrame(h.e.b[:0], frameReply)
	h.e.b = binary.LittleEndian.AppendUint64(h.e.b, id)
}

// send lets the reply go out with the next write.
func (h *handler) send() {
	endFrame(h.e.b, 0)
	if len(h.leases) > 0 {
		h.l.w.addAfter(h.settle, h.e.b)
		h.leases = h.leases[:0]
	} else {
		h.l.w.add(h.e.b)
	}
	if cap(h.e.b) > 1<<20 {
		h.e.b = nil
	}
}

// cr reads the caller.
func (h *handler) cr() *vfs.Caller {
	h.d.caller(&h.caller)
	if g := h.ss.grant; g.RootSquash {
		if h.caller.UID == 0 {
			h.caller.UID = g.SquashUID
		}
		if h.caller.GID == 0 {
			h.caller.GID = g.SquashGID
		}
	}
	return &h.caller
}

// run does a call. An error says that the client does not keep to the protocol; those
// of the call are in the reply.
func (h *handler) run(ctx context.Context, o op, args []byte) error {
	h.d = decoder{b: args}
	h.failed, h.denied, h.borrowed = nil, nil, false
	h.spoken = h.spoken[:0]
	h.leases = h.leases[:0]
	from := len(h.e.b)
	h.e.u8(statusOK)
	var err error
	if ops[o].change && h.ss.readOnly {
		h.d.b = nil
		err = syscall.EROFS
	} else {
		err = h.do(ctx, o)
	}
	if h.d.bad || err == errMalformed {
		h.e.b = h.e.b[:from]
		h.e.u8(statusError)
		h.e.error(vfs.WithErrno(syscall.EINVAL, errMalformed))
		h.failed = errMalformed
		return errMalformed
	}
	if h.failed = err; err != nil {
		h.leases = h.leases[:0]
		h.e.b = h.e.b[:from]
		h.e.u8(statusError)
		h.e.error(err)
	}
	return nil
}

func (h *handler) do(ctx context.Context, o op) error {
	ms := h.ss.ms
	var a vfs.Attr
	if h.replay != nil {
		h.replay.Reply = func(dst []byte) []byte { return h.record(dst, o, &a) }
	}
	attr := func(err error) error {
		if err == nil {
			h.attr(&a)
		}
		return err
	}
	made := func(err error) error {
		h.made = a.Ino
		return attr(err)
	}
	switch o {
	case opStatFS:
		cr, ino := h.cr(), h.ino()
		if err := h.read(); err != nil {
			return err
		}
		var st vfs.StatFS
		if err := ms.StatFS(ctx, cr, ino, &st); err != nil {
			return err
		}
		h.e.uint(uint64(st.BlockSize))
		h.e.uint(st.Blocks)
		h.e.uint(st.BlocksFree)
		h.e.uint(st.Files)
		h.e.uint(st.FilesFree)
		h.e.uint(uint64(st.MaxName))
		return nil
	case opLookup:
		cr, parent, name := h.cr(), h.ino(), h.d.name()
		if err := h.read(); err != nil {
			return err
		}
		return h.lookup(ctx, cr, parent, name)
	case opGetAttr:
		cr, ino := h.cr(), h.ino()
		if err := h.read(); err != nil {
			return err
		}
		at := h.flags()
		h.lease(ino, meta.LeaseAttr, at, replyAttr)
		return attr(ms.GetAttr(ctx, cr, ino, &a))
	case opSetAttr:
		cr, ino := h.cr(), h.ino()
		set := vfs.SetAttr{Valid: vfs.SetMask(h.d.u32()), Mode: h.d.u32(), UID: h.d.u32(), GID: h.d.u32(), Size: h.d.uint(),
			Atime: h.d.time(), Mtime: h.d.time(), Ctime: h.d.time()}
		if err := h.read(); err != nil {
			return err
		}
		return attr(ms.SetAttr(ctx, cr, ino, &set, &a))
	case opReadlink:
		cr, ino := h.cr(), h.ino()
		if err := h.read(); err != nil {
			return err
		}
		at := h.flags()
		h.lease(ino, meta.LeaseAttr, at, replyAttr)
		target, err := ms.Readlink(ctx, cr, ino)
		h.e.str(target)
		return err
	case opMknod:
		cr, parent, name, mode, rdev := h.cr(), h.ino(), h.d.name(), h.d.u32(), h.d.u32()
		if err := h.read(); err != nil {
			return err
		}
		return made(ms.Mknod(ctx, cr, parent, name, mode, rdev, &a))
	case opCreate:
		cr, parent, name, mode := h.cr(), h.ino(), h.d.name(), h.d.u32()
		if err := h.read(); err != nil {
			return err
		}
		err := ms.Create(ctx, cr, parent, name, mode, &a)
		if err == nil {
			h.ss.usedAlready(h.slot, a.Ino)
		}
		return made(err)
	case opMkdir:
		cr, parent, name, mode := h.cr(), h.ino(), h.d.name(), h.d.u32()
		if err := h.read(); err != nil {
			return err
		}
		return made(ms.Mkdir(ctx, cr, parent, name, mode, &a))
	case opSymlink:
		cr, parent, name, target := h.cr(), h.ino(), h.d.name(), h.d.str(2*vfs.MaxSymlink)
		if err := h.read(); err != nil {
			return err
		}
		return made(ms.Symlink(ctx, cr, parent, name, target, &a))
	case opLink:
		cr, ino, parent, name := h.cr(), h.ino(), h.ino(), h.d.name()
		if err := h.read(); err != nil {
			return err
		}
		return attr(ms.Link(ctx, cr, ino, parent, name, &a))
	case opTmpfile:
		cr, parent, mode, linkable := h.cr(), h.ino(), h.d.u32(), h.d.bool()
		if err := h.read(); err != nil {
			return err
		}
		err := ms.Tmpfile(ctx, cr, parent, mode, linkable, &a)
		if err == nil {
			h.ss.usedAlready(h.slot, a.Ino)
		}
		return made(err)
	case opUnlink:
		cr, parent, name := h.cr(), h.ino(), h.d.name()
		if err := h.read(); err != nil {
			return err
		}
		return attr(ms.Unlink(ctx, cr, parent, name, &a))
	case opRmdir:
		cr, parent, name := h.cr(), h.ino(), h.d.name()
		if err := h.read(); err != nil {
			return err
		}
		return ms.Rmdir(ctx, cr, parent, name)
	case opRename:
		cr, from, oldName, to, newName, flags := h.cr(), h.ino(), h.d.name(), h.ino(), h.d.name(), h.d.u32()
		if err := h.read(); err != nil {
			return err
		}
		return attr(ms.Rename(ctx, cr, from, oldName, to, newName, flags, &a))
	case opReadDir:
		return h.readDir(ctx)
	case opGetXattr:
		cr, ino, name := h.cr(), h.ino(), h.d.name()
		if err := h.read(); err != nil {
			return err
		}
		at := h.flags()
		h.lease(ino, meta.LeaseAttr, at, replyAttr)
		value, err := ms.GetXattr(ctx, cr, ino, name)
		if err == syscall.ENODATA {
			h.e.b[at] |= replyMissing
			return nil
		}
		h.e.bytes(value)
		return err
	case opSetXattr:
		cr, ino, name, value, flags := h.cr(), h.ino(), h.d.name(), h.d.bytes(meta.MaxStoredXattr+1), h.d.u32()
		if err := h.read(); err != nil {
			return err
		}
		return ms.SetXattr(ctx, cr, ino, name, value, flags)
	case opListXattr:
		cr, ino := h.cr(), h.ino()
		if err := h.read(); err != nil {
			return err
		}
		names, err := ms.ListXattr(ctx, cr, ino)
		h.e.uint(uint64(len(names)))
		for _, name := range names {
			h.e.str(name)
		}
		return err
	case opRemoveXattr:
		cr, ino, name := h.cr(), h.ino(), h.d.name()
		if err := h.read(); err != nil {
			return err
		}
		return ms.RemoveXattr(ctx, cr, ino, name)
	case opTouch:
		ino := h.ino()
		if err := h.read(); err != nil {
			return err
		}
		return ms.Touch(ctx, ino)
	case opGetLock:
		ino, l := h.ino(), h.d.lock()
		if err := h.read(); err != nil {
			return err
		}
		found, err := ms.GetLock(ctx, ino, l)
		h.e.lock(&found)
		return err
	case opSetLock:
		ino, l, wait := h.ino(), h.d.lock(), h.d.bool()
		if err := h.read(); err != nil {
			return err
		}
		return ms.SetLock(ctx, ino, l, wait)
	case opReleaseLocks:
		ino, owner, kind := h.ino(), h.d.uint(), vfs.LockKind(h.d.u8())
		if err := h.read(); err != nil {
			return err
		}
		return ms.ReleaseLocks(ctx, ino, owner, kind)
	case opSync:
		if h.ss.sync != nil && !h.ss.vol.Relaxed {
			return nil // the reply waits for it
		}
		return ms.Sync(ctx)
	case opWatch:
		on := h.d.bool()
		if err := h.read(); err != nil {
			return err
		}
		h.ss.watch(on)
		return nil
	case opCommand:
		return h.command(ctx)
	}
	return h.doData(ctx, o)
}

// record appends what the store keeps of a call that was done: its op, and its reply.
func (h *handler) record(dst []byte, o op, a *vfs.Attr) []byte {
	e := encoder{b: append(dst, byte(o), statusOK)}
	switch o {
	case opSetAttr, opMknod, opCreate, opMkdir, opSymlink, opLink, opTmpfile, opUnlink, opRename:
		x := *a
		x.Ino = h.ss.shown(x.Ino)
		e.attr(&x)
	case opCommit:
		for _, gone := range h.replay.Gone {
			e.bool(gone)
		}
	}
	return e.b
}

// doData does the calls about data.
func (h *handler) doData(ctx context.Context, o op) error {
	ms := h.ss.ms
	switch o {
	case opInline:
		ino := h.ino()
		if err := h.read(); err != nil {
			return err
		}
		at := h.flags()
		h.lease(ino, meta.LeaseData, at, replyData)
		data, ok, err := ms.Inline(ctx, ino)
		if h.e.bool(ok); ok {
			h.e.bytes(data)
		}
		return err
	case opExtents:
		ino, index := h.ino(), h.d.u32()
		if err := h.read(); err != nil {
			return err
		}
		at := h.flags()
		h.lease(ino, meta.LeaseData, at, replyData)
		list, err := ms.Extents(ctx, ino, index, nil)
		h.e.extents(list)
		return err
	case opAllocBlocks:
		n := h.d.most(1 << 20)
		if err := h.read(); err != nil {
			return err
		}
		first, err := ms.AllocBlocks(ctx, int(n))
		if err == nil {
			err = ms.RecordBlocks(ctx, first, int(n))
		}
		if err == nil {
			h.ss.numbers.Allocated(block.ID(first), int(n))
		}
		h.e.uint(first)
		return err
	case opCommit:
		blocks := h.d.blocks()
		var writes []meta.FileWrite
		for n := h.d.count(8); n > 0 && !h.d.bad; n-- {
			writes = append(writes, h.d.write())
		}
		if err := h.read(); err != nil {
			return err
		}
		if err := h.scopeWrites(writes); err != nil {
			return err
		}
		if err := checkWrites(blocks, writes); err != nil {
			return err
		}
		undo, err := h.ss.claim(blocks)
		if err != nil {
			return err
		}
		gone, err := ms.Commit(ctx, blocks, writes)
		if err != nil {
			undo()
		}
		for _, g := range gone {
			h.e.bool(g)
		}
		return err
	case opReplace:
		ino, index, old, new, blocks := h.ino(), h.d.u32(), h.d.extents(nil), h.d.extents(nil), h.d.blocks()
		if err := h.read(); err != nil {
			return err
		}
		if err := checkReplace(blocks, old, new); err != nil {
			return err
		}
		undo, err := h.ss.claim(blocks)
		if err != nil {
			return err
		}
		if err := ms.Replace(ctx, ino, index, old, new, blocks); err != nil {
			undo()
			return err
		}
		return nil
	case opReserve:
		ino, n := h.ino(), h.d.int()
		if err := h.read(); err != nil {
			return err
		}
		return ms.Reserve(ctx, ino, n)
	case opUnreserve:
		ino, n := h.ino(), h.d.int()
		if err := h.read(); err != nil {
			return err
		}
		ms.Unreserve(ino, n)
		return nil
	case opAllocate:
		cr, ino, mode, off, length := h.cr(), h.ino(), h.d.u32(), h.d.uint(), h.d.uint()
		if err := h.read(); err != nil {
			return err
		}
		return ms.Allocate(ctx, cr, ino, mode, off, length)
	case opSeek:
		ino, off, whence := h.ino(), h.d.int(), h.d.int()
		if err := h.read(); err != nil {
			return err
		}
		at, err := ms.Seek(ctx, ino, off, int(whence))
		h.e.int(at)
		return err
	case opCopyRange:
		cr, in, inOff, out, outOff, n := h.cr(), h.ino(), h.d.uint(), h.ino(), h.d.uint(), h.d.uint()
		if err := h.read(); err != nil {
			return err
		}
		return ms.CopyRange(ctx, cr, in, inOff, out, outOff, n)
	}
	return syscall.EOPNOTSUPP
}

// pageBytes bounds a page of a directory.
const pageBytes = 256 << 10

func (h *handler) readDir(ctx context.Context) error {
	cr, ino, cookie, plus, most := h.cr(), h.ino(), h.d.uint(), h.d.bool(), h.d.most(1<<20)
	if err := h.read(); err != nil {
		return err
	}
	most = min(max(most, 1), pageEntries)
	flags := h.flags()
	h.lease(ino, meta.LeaseNames, flags, replyNames)
	head := len(h.e.b)
	h.e.b = append(h.e.b, 0, 0, 0, 0, 0) // more, count
	count := uint32(0)
	add := func(x *vfs.DirEntry, l *meta.Lease) bool {
		if uint64(count) == most || len(h.e.b) > pageBytes {
			h.e.b[head] = 1
			return false
		}
		count++
		h.spoken = append(h.spoken, x.Ino)
		x.Ino, x.Attr.Ino = h.ss.shown(x.Ino), h.ss.shown(x.Attr.Ino)
		at := len(h.e.b)
		h.e.entry(x)
		if l != nil && x.HasAttr {
			h.tell(*l, at, entryLeased)
		}
		return true
	}
	var err error
	if plus && h.ss.leasing {
		err = h.ss.ms.ReadDirLeased(ctx, ino, cookie, add)
	} else {
		err = h.ss.ms.ReadDir(ctx, cr, ino, cookie, plus, func(x *vfs.DirEntry) bool { return add(x, nil) })
	}
	binary.LittleEndian.PutUint32(h.e.b[head+1:], count)
	return err
}

func (h *handler) lookup(ctx context.Context, cr *vfs.Caller, parent vfs.Ino, name string) error {
	ms := h.ss.ms
	at := h.flags()
	var a vfs.Attr
	if name == ".." && h.ss.confined() {
		err := h.above(ctx, cr, parent, &a)
		h.attr(&a)
		return err
	}
	if name != ".." {
		h.lease(parent, meta.LeaseNames, at, replyNames)
	}
	for {
		err := ms.Lookup(ctx, cr, parent, name, &a)
		if err == syscall.ENOENT && name != ".." {
			h.e.b[at] |= replyMissing
			return nil
		}
		if err != nil {
			return err
		}
		if !h.ss.leasing {
			break
		}
		// The attributes must not be older than their lease.
		l, ok := ms.Lease(a.Ino, meta.LeaseAttr)
		err = ms.GetAttr(ctx, cr, a.Ino, &a)
		if errors.Is(err, syscall.ESTALE) {
			continue // the name means something else by now
		}
		if err != nil {
			return err
		}
		if ok {
			h.tell(l, at, replyAttr)
		}
		break
	}
	h.attr(&a)
	return nil
}

var (
	errNoCommands       = vfs.WithErrno(syscall.EACCES, errors.New("the token does not allow to administer the volume"))
	errConfinedCommands = vfs.WithErrno(syscall.EACCES, errors.New("the token is limited to a directory, and this concerns the whole volume"))
)

func (h *handler) command(ctx context.Context) error {
	name, args := h.d.str(64), h.d.bytes(MaxFrame)
	if err := h.read(); err != nil {
		return err
	}
	ss := h.ss
	switch {
	case ss.confined():
		return errConfinedCommands
	case !ss.grant.Commands:
		return errNoCommands
	case ss.vol.Command == nil:
		return syscall.EOPNOTSUPP
	}
	out, err := ss.vol.Command(ctx, ss.grant, name, args)
	h.e.bytes(out)
	return err
}
