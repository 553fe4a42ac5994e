package kernel

import (
	"bytes"
	"encoding/binary"
	"io"
	"log/slog"
	"runtime"
	"syscall"
	"testing"
	"unsafe"
)

// echo is a handler that says yes to everything, and looks at all it is given.
type echo struct {
	seen  int
	panic bool
}

func (e *echo) note(names ...string) syscall.Errno {
	if e.panic {
		panic("as asked")
	}
	for _, n := range names {
		e.seen += len(n)
	}
	return 0
}

func (e *echo) Lookup(q *Request, name string, out *EntryOut) syscall.Errno {
	out.NodeID = 2
	return e.note(name)
}
func (e *echo) Forget(nodeID, n uint64)                                       { e.note() }
func (e *echo) GetAttr(q *Request, in *GetAttrIn, out *AttrOut) syscall.Errno { return e.note() }
func (e *echo) Statx(q *Request, in *StatxIn, out *StatxOut) syscall.Errno    { return e.note() }
func (e *echo) SetAttr(q *Request, in *SetAttrIn, out *AttrOut) syscall.Errno { return e.note() }
func (e *echo) Readlink(q *Request) (string, syscall.Errno)                   { return "target", e.note() }
func (e *echo) Symlink(q *Request, target, name string, out *EntryOut) syscall.Errno {
	return e.note(target, name)
}
func (e *echo) Mknod(q *Request, in *MknodIn, name string, out *EntryOut) syscall.Errno {
	return e.note(name)
}
func (e *echo) Mkdir(q *Request, in *MkdirIn, name string, out *EntryOut) syscall.Errno {
	return e.note(name)
}
func (e *echo) Unlink(q *Request, name string) syscall.Errno { return e.note(name) }
func (e *echo) Rmdir(q *Request, name string) syscall.Errno  { return e.note(name) }
func (e *echo) Rename(q *Request, in *RenameIn, oldName, newName string) syscall.Errno {
	return e.note(oldName, newName)
}
func (e *echo) Link(q *Request, in *LinkIn, name string, out *EntryOut) syscall.Errno {
	return e.note(name)
}
func (e *echo) Open(q *Request, in *OpenIn, out *OpenOut) syscall.Errno { return e.note() }
func (e *echo) Create(q *Request, in *CreateIn, name string, out *CreateOut) syscall.Errno {
	return e.note(name)
}
func (e *echo) Tmpfile(q *Request, in *CreateIn, out *CreateOut) syscall.Errno { return e.note() }
func (e *echo) Read(q *Request, in *ReadIn, buf []byte) (int, syscall.Errno) {
	clear(buf)
	return len(buf), e.note()
}
func (e *echo) Write(q *Request, in *WriteIn, data []byte) (int, syscall.Errno) {
	return len(data), e.note(string(data))
}
func (e *echo) Flush(q *Request, in *FlushIn) syscall.Errno                { return e.note() }
func (e *echo) Fsync(q *Request, in *FsyncIn) syscall.Errno                { return e.note() }
func (e *echo) Release(q *Request, in *ReleaseIn)                          { e.note() }
func (e *echo) Fallocate(q *Request, in *FallocateIn) syscall.Errno        { return e.note() }
func (e *echo) Lseek(q *Request, in *LseekIn, out *LseekOut) syscall.Errno { return e.note() }
func (e *echo) CopyFileRange(q *Request, in *CopyFileRangeIn) (uint64, syscall.Errno) {
	return in.Len, e.note()
}
func (e *echo) OpenDir(q *Request, in *OpenIn, out *OpenOut) syscall.Errno { return e.note() }
func (e *echo) ReadDir(q *Request, in *ReadIn, out *DirList) syscall.Errno {
	for out.Add(&DirEntry{Name: "entry"}) {
	}
	return e.note()
}
func (e *echo) ReadDirPlus(q *Request, in *ReadIn, out *DirList) syscall.Errno {
	for out.AddPlus(&DirEntry{Name: "entry"}) != nil {
	}
	return e.note()
}
func (e *echo) FsyncDir(q *Request, in *FsyncIn) syscall.Errno { return e.note() }
func (e *echo) ReleaseDir(q *Request, in *ReleaseIn)           { e.note() }
func (e *echo) GetXattr(q *Request, name string, dest []byte) (int, syscall.Errno) {
	return copy(dest, "value"), e.note(name)
}
func (e *echo) ListXattr(q *Request, dest []byte) (int, syscall.Errno) {
	return copy(dest, "user.a\x00"), e.note()
}
func (e *echo) SetXattr(q *Request, in *SetXattrIn, name string, value []byte) syscall.Errno {
	return e.note(name, string(value))
}
func (e *echo) RemoveXattr(q *Request, name string) syscall.Errno    { return e.note(name) }
func (e *echo) GetLk(q *Request, in *LkIn, out *LkOut) syscall.Errno { return e.note() }
func (e *echo) SetLk(q *Request, in *LkIn) syscall.Errno             { return e.note() }
func (e *echo) SetLkw(q *Request, in *LkIn) syscall.Errno            { return e.note() }
func (e *echo) StatFs(q *Request, out *StatfsOut) syscall.Errno      { return e.note() }
func (e *echo) SyncFs(q *Request) syscall.Errno                      { return e.note() }
func (e *echo) Access(q *Request, in *AccessIn) syscall.Errno        { return e.note() }
func (e *echo) Ioctl(q *Request, in *IoctlIn) syscall.Errno          { return e.note() }

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

// fakeConn is a connection whose kernel is the other end of a socket pair: replies
// arrive there in one piece each.
func fakeConn(t testing.TB, h Handler) (c *Conn, kernel int) {
	t.Helper()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(pair[0]); syscall.Close(pair[1]) })
	c = newConn(pair[0], Init{Minor: protocolMinor, Features: SetXattrExt, MaxWrite: minPayload}, Config{Logger: silent}, h)
	return c, pair[1]
}

// message makes a message with a right header.
func message(op Opcode, body []byte) []byte {
	b := make([]byte, headerSize, headerSize+len(body))
	*(*Header)(unsafe.Pointer(&b[0])) = Header{Len: uint32(headerSize + len(body)), Opcode: op, Unique: 42, NodeID: 1}
	return append(b, body...)
}

// deliver hands a message to a connection and returns the reply, nil if there is none.
func deliver(t testing.TB, c *Conn, kernel int, msg []byte) []byte {
	t.Helper()
	q := &Request{conn: c, buf: newBuffer(c.payload), out: replyHeaderSize, cancel: make(chan struct{})}
	n := copy(q.buf[headStart:], msg)
	c.handle(q, q.buf[headStart:headStart+n], false)
	c.wg.Wait() // for SETLKW, and interrupts that nobody waits for
	b := make([]byte, 1<<20)
	k, _, err := syscall.Recvfrom(kernel, b, syscall.MSG_DONTWAIT)
	if err != nil {
		return nil
	}
	return b[:k]
}

func noReplyTo(op Opcode) bool {
	switch op {
	case opForget, opBatchForget, opNotifyReply:
		return true
	}
	return false
}

// checkReply checks what the kernel checks of every reply.
func checkReply(t testing.TB, op Opcode, reply []byte) (errno syscall.Errno) {
	t.Helper()
	if noReplyTo(op) {
		if reply != nil {
			t.Fatalf("%v: a reply to what has none", op)
		}
		return 0
	}
	if len(reply) < replyHeaderSize {
		t.Fatalf("%v: a reply of %d bytes", op, len(reply))
	}
	h := (*replyHeader)(unsafe.Pointer(&reply[0]))
	if op == opInterrupt {
		if h.error != -int32(syscall.EAGAIN) {
			t.Fatalf("INTERRUPT of nothing: %d", h.error)
		}
		return 0
	}
	if int(h.len) != len(reply) || h.error > 0 || h.error <= -512 || h.error != 0 && len(reply) != replyHeaderSize {
		t.Fatalf("%v: reply %+v of %d bytes", op, *h, len(reply))
	}
	return syscall.Errno(-h.error)
}

// bodies are right messages' bodies, and how long the reply to each is behind its
// header.
func bodies() map[Opcode]struct {
	body  []byte
	reply int
} {
	type m = struct {
		body  []byte
		reply int
	}
	room := func(n int, names ...string) []byte {
		b := make([]byte, n)
		for _, s := range names {
			b = append(append(b, s...), 0)
		}
		return b
	}
	sized := func(n, at int, size uint32, names ...string) []byte {
		b := room(n, names...)
		binary.NativeEndian.PutUint32(b[at:], size)
		return b
	}
	return map[Opcode]m{
		opLookup: {room(0, "name"), 128}, opForget: {room(8), 0}, opGetattr: {room(16), 104}, opSetattr: {room(88), 104},
		opReadlink: {nil, 6}, opSymlink: {room(0, "name", "target"), 128}, opMknod: {room(16, "name"), 128},
		opMkdir: {room(8, "name"), 128}, opUnlink: {room(0, "name"), 0}, opRmdir: {room(0, "name"), 0},
		opRename: {room(8, "a", "b"), 0}, opRename2: {room(16, "a", "b"), 0}, opLink: {room(8, "name"), 128},
		opOpen: {room(8), 16}, opRead: {sized(40, 16, 5000), 5000}, opWrite: {append(sized(40, 16, 6), "data!!"...), 8},
		opStatfs: {nil, 80}, opRelease: {room(24), 0}, opFsync: {room(16), 0},
		opSetxattr: {append(sized(16, 0, 5, "user.a"), "value"...), 0}, opGetxattr: {sized(8, 0, 100, "user.a"), 5},
		opListxattr: {sized(8, 0, 100), 7}, opRemovexattr: {room(0, "user.a"), 0}, opFlush: {room(24), 0},
		opOpendir: {room(8), 16}, opReaddir: {sized(40, 16, 100), 96}, opReaddirplus: {sized(40, 16, 400), 320},
		opReleasedir: {room(24), 0}, opFsyncdir: {room(16), 0}, opGetlk: {room(48), 24}, opSetlk: {room(48), 0},
		opSetlkw: {room(48), 0}, opAccess: {room(8), 0}, opCreate: {room(16, "name"), 144}, opTmpfile: {room(16, "/"), 144},
		opInterrupt: {sized(8, 0, 4), 0}, opDestroy: {nil, 0}, opIoctl: {room(32), 0},
		opNotifyReply: {sized(40, 16, 0), 0}, opBatchForget: {append(sized(8, 0, 2), room(32)...), 0},
		opFallocate: {room(32), 0}, opLseek: {room(24), 8}, opCopyFileRange: {room(56), 8},
		opCopyFileRange64: {room(56), 8}, opSyncfs: {room(8), 0}, opStatx: {room(24), 288},
	}
}

// TestMessages: each operation reaches the handler and is answered with as much as the
// kernel expects; shortened by any number of bytes it is refused or means less, but
// never reads what is not there.
func TestMessages(t *testing.T) {
	e := &echo{}
	c, kernel := fakeConn(t, e)
	for op, m := range bodies() {
		if errno := checkReply(t, op, deliver(t, c, kernel, message(op, m.body))); errno != 0 {
			t.Errorf("%v: %v", op, errno)
		}
		if noReplyTo(op) || op == opInterrupt {
			continue
		}
		if r := deliver(t, c, kernel, message(op, m.body)); len(r) != replyHeaderSize+m.reply {
			t.Errorf("%v: a reply of %d bytes, want %d", op, len(r)-replyHeaderSize, m.reply)
		}
		if len(m.body) > 0 && op != opSyncfs {
			if errno := checkReply(t, op, deliver(t, c, kernel, message(op, m.body[:len(m.body)-1]))); errno != syscall.EINVAL {
				t.Errorf("%v, too short by a byte: %v", op, errno)
			}
		}
	}
	for _, op := range []Opcode{opPoll, opBmap, opSetupmapping, opRemovemapping, 7, 53 + 1, 4096, 1<<32 - 1} {
		if errno := checkReply(t, op, deliver(t, c, kernel, message(op, make([]byte, 64)))); errno != syscall.ENOSYS {
			t.Errorf("%v: %v", op, errno)
		}
	}
	if e.seen == 0 {
		t.Error("the handler saw nothing")
	}
	e.panic = true
	for op, m := range bodies() {
		if op == opDestroy || op == opInterrupt {
			continue
		}
		if errno := checkReply(t, op, deliver(t, c, kernel, message(op, m.body))); errno != syscall.EIO && !noReplyTo(op) {
			t.Errorf("%v, panicking: %v", op, errno)
		}
	}
}

// TestTooManyWaiters: there is an end to locks that are waited for.
func TestTooManyWaiters(t *testing.T) {
	c, kernel := fakeConn(t, &echo{})
	c.waiters.Store(maxWaiters)
	if errno := checkReply(t, opSetlkw, deliver(t, c, kernel, message(opSetlkw, make([]byte, 48)))); errno != syscall.ENOLCK {
		t.Error(errno)
	}
	c.waiters.Store(maxWaiters - 1)
	if errno := checkReply(t, opSetlkw, deliver(t, c, kernel, message(opSetlkw, make([]byte, 48)))); errno != 0 {
		t.Error(errno)
	}
	if n := c.waiters.Load(); n != maxWaiters-1 {
		t.Errorf("%d wait", n)
	}
}

// TestExtensions: what a newer kernel appends is no part of the body.
func TestExtensions(t *testing.T) {
	e := &echo{}
	c, kernel := fakeConn(t, e)
	msg := message(opMkdir, append(make([]byte, 8), "name\x00\x00\x00\x0012345678"...))
	(*Header)(unsafe.Pointer(&msg[0])).ExtWords = 1
	if errno := checkReply(t, opMkdir, deliver(t, c, kernel, msg)); errno != 0 || e.seen != 4 {
		t.Error(errno, e.seen)
	}
	(*Header)(unsafe.Pointer(&msg[0])).ExtWords = 1<<16 - 1
	if errno := checkReply(t, opMkdir, deliver(t, c, kernel, msg)); errno != syscall.EINVAL {
		t.Error(errno)
	}
}

// FuzzMessage feeds a connection with whatever: it answers or drops it.
func FuzzMessage(f *testing.F) {
	for op, m := range bodies() {
		f.Add(uint32(op), m.body, uint16(0))
	}
	f.Add(uint32(opWrite), make([]byte, 39), uint16(3))
	f.Add(uint32(99), []byte{1}, uint16(9))
	f.Fuzz(func(t *testing.T, op uint32, body []byte, ext uint16) {
		if len(body) > minPayload || Opcode(op) == opInterrupt {
			return // longer ones the kernel does not send; interrupts wait
		}
		c, kernel := fakeConn(t, &echo{})
		msg := message(Opcode(op), body)
		(*Header)(unsafe.Pointer(&msg[0])).ExtWords = ext
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		checkReply(t, Opcode(op), deliver(t, c, kernel, msg))
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
			t.Errorf("%d bytes for a message of %d", grown, len(body))
		}
	})
}

// FuzzInit: the first message can be anything.
func FuzzInit(f *testing.F) {
	init := make([]byte, 64)
	binary.NativeEndian.PutUint32(init, 7)
	binary.NativeEndian.PutUint32(init[4:], 45)
	f.Add(message(opInit, init))
	f.Add(message(opInit, init[:16]))
	f.Add(message(opLookup, []byte("x\x00")))
	f.Fuzz(func(t *testing.T, msg []byte) {
		init, reply, again, err := answerInit(msg, Config{Features: ^Features(0), MaxWrite: 1 << 20})
		if err != nil {
			return
		}
		if len(reply) != replyHeaderSize+64 {
			t.Errorf("a reply of %d bytes", len(reply))
		}
		if !again && (init.MaxWrite < pageSize || init.MaxWrite > 1<<20 || init.Minor < oldestMinor) {
			t.Errorf("%+v", init)
		}
	})
}

// TestFeatureNames: each bit has one name.
func TestFeatureNames(t *testing.T) {
	all := (^Features(0)).Names()
	seen := map[string]bool{}
	for _, n := range all {
		if seen[n] {
			t.Errorf("%s twice", n)
		}
		seen[n] = true
	}
	if got := (MaxPages | Passthrough).Names(); len(got) != 2 || got[0] != "max-pages" || got[1] != "passthrough" {
		t.Error(got)
	}
}

// TestInit: kernels of different ages.
func TestInit(t *testing.T) {
	offer := func(major, minor uint32, f Features, size int) []byte {
		b := make([]byte, 64)
		*(*initIn)(unsafe.Pointer(&b[0])) = initIn{major: major, minor: minor, maxReadahead: 128 << 10, flags: uint32(f), flags2: uint32(f >> 32)}
		return message(opInit, b[:size])
	}
	cfg := Config{Features: MaxPages | Passthrough | AsyncRead, MaxWrite: 1 << 20, MaxReadAhead: 4 << 20, MaxBackground: 64}
	for _, k := range []struct {
		name     string
		msg      []byte
		fails    bool
		again    bool
		features Features
		maxWrite int
	}{
		{"Linux 6.18", offer(7, 45, AsyncRead|MaxPages|Passthrough|initExt, 64), false, false, AsyncRead | MaxPages | Passthrough | initExt, 1 << 20},
		{"Linux 5.10", offer(7, 32, AsyncRead|MaxPages, 16), false, false, AsyncRead | MaxPages, 1 << 20},
		{"without big requests", offer(7, 45, AsyncRead|initExt, 64), false, false, AsyncRead | initExt, 32 * pageSize},
		{"Linux 4.19", offer(7, 27, AsyncRead, 16), true, false, 0, 0},
		{"protocol 8", offer(8, 1, 0, 64), false, true, 0, 0},
		{"protocol 6", offer(6, 9, 0, 16), true, false, 0, 0},
		{"no INIT", message(opLookup, []byte("x\x00")), true, false, 0, 0},
	} {
		init, reply, again, err := answerInit(bytes.Clone(k.msg), cfg)
		if (err != nil) != k.fails {
			t.Errorf("%s: %v", k.name, err)
		}
		if err != nil {
			continue
		}
		if again != k.again || init.Features != k.features || init.MaxWrite != k.maxWrite {
			t.Errorf("%s: again %v, %+v", k.name, again, init)
		}
		out := (*initOut)(unsafe.Pointer(&reply[replyHeaderSize]))
		if out.major != 7 || out.minor > 45 || !again && int(out.maxWrite) != k.maxWrite {
			t.Errorf("%s: %+v", k.name, *out)
		}
	}
}
