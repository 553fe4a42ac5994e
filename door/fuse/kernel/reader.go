package kernel

import (
	"fmt"
	"runtime/debug"
	"syscall"
	"unsafe"
)

// A buffer has a head and a payload:
//
//	0               replies with a structure: header, structure
//	headStart       the message: header, body
//	headSize        where the data of a WRITE begins, and the data of replies
//
// headStart is such that the data of a WRITE, behind a header and a WriteIn, begins
// at the payload, which begins at a page (of 4 KiB): whole pages of a program's buffer
// are copied to whole pages. The data of a reply goes to the same place, its header
// just before it, over the message, when the handler is done with that: one write(2)
// of one piece.
const (
	headSize  = 4096
	headStart = headSize - headerSize - int(unsafe.Sizeof(WriteIn{}))
)

func newBuffer(payload int) []byte {
	b := make([]byte, headSize+payload+pageSize)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (pageSize - 1)
	return b[skip : skip+headSize+payload : skip+headSize+payload]
}

// Serve answers the kernel until the mount is gone (unmounted, or the connection
// aborted) and all handlers have returned. It is called once.
func (c *Conn) Serve() {
	c.target.Store(1)
	c.grow()
	c.startQueues()
	c.wg.Go(c.watch)
	c.wg.Wait()
}

// grow starts a reader, if there may be one more.
func (c *Conn) grow() {
	if c.readers.Add(1) > c.maxReaders {
		c.readers.Add(-1)
		return
	}
	c.resting.Add(1)
	c.wg.Go(func() {
		q, ok := c.idle.Get().(*Request)
		if !ok {
			q = &Request{conn: c, buf: newBuffer(c.payload), out: replyHeaderSize, cancel: make(chan struct{})}
		}
		c.register(q)
		c.read(q)
		c.unregister(q)
		c.idle.Put(q)
		c.readers.Add(-1)
	})
}

// read is the loop of a reader: it reads a message, handles it itself, and replies. So
// the common case, a message answered from memory, costs two system calls and
// nothing else; see watch.go for how others come in.
func (c *Conn) read(q *Request) {
	in := q.buf[headStart:]
	for {
		n, _, errno := syscall.Syscall(syscall.SYS_READ, uintptr(c.fd), uintptr(unsafe.Pointer(&in[0])), uintptr(len(in)))
		switch errno {
		case 0:
		case syscall.EINTR, syscall.EAGAIN, syscall.ENOENT: // ENOENT: its caller was killed before we came to read it
			continue
		default:
			if errno != syscall.ENODEV && errno != syscall.ECONNABORTED {
				c.log.Error("fuse: reading from the kernel fails; the mount is given up", "error", errno.Error())
			}
			c.died()
			c.resting.Add(-1)
			return
		}
		left := c.resting.Add(-1)
		if !c.active.Load() {
			c.activate()
		}
		c.handle(q, in[:n], left == 0)
		if c.resting.Add(1) > c.target.Load() {
			if c.resting.Add(-1) > 0 {
				return
			}
			c.resting.Add(1)
		}
	}
}

// handle answers a message; alone tells that nobody reads meanwhile.
func (c *Conn) handle(q *Request, msg []byte, alone bool) {
	if len(msg) < headerSize {
		c.log.Error("fuse: a message is too short", "bytes", len(msg))
		return
	}
	q.Header = *(*Header)(unsafe.Pointer(&msg[0]))
	if int(q.Len) != len(msg) {
		c.log.Error("fuse: a message is not as long as it says", "bytes", len(msg), "says", q.Len, "opcode", q.Opcode.String())
	}
	end := len(msg) - 8*int(q.ExtWords)
	if end < headerSize {
		end = headerSize
	}
	q.body = msg[headerSize:end:end]
	if c.debug {
		c.log.Info("fuse <-", "op", q.Opcode.String(), "unique", q.Unique, "node", q.NodeID, "bytes", len(msg), "pid", q.PID)
	}
	switch q.Opcode {
	case opForget, opBatchForget, opInterrupt, opNotifyReply:
		c.noReply(q)
		return
	case opSetlkw:
		if c.detach(q, msg) {
			return
		}
	}
	if alone && c.isSlow(q.Opcode) {
		c.grow()
	}
	c.answer(q)
}

// answer calls the handler and replies.
func (c *Conn) answer(q *Request) {
	q.Start, q.Took = c.now(), 0
	q.progress.store(q.Opcode, q.Start)
	q.begin()
	q.from = q.out
	size, errno := c.call(q)
	q.end()
	c.learn(q.Opcode, q.Took)
	if errno != 0 {
		q.from, size = q.out, 0
	}
	c.reply(q, size, errno)
}

// call calls the handler and outlives its panics.
func (c *Conn) call(q *Request) (size int, errno syscall.Errno) {
	size, errno = 0, syscall.EIO // unless dispatch returns
	defer c.outlive(q)
	size, errno = c.dispatch(q)
	return size, errno
}

// outlive is deferred by whoever calls the handler.
func (c *Conn) outlive(q *Request) {
	if p := recover(); p != nil {
		c.log.Error("panic in the FUSE door", "op", q.Opcode.String(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		q.Local = nil // somebody may still use it
	}
}

// smallReply is up to what size a reply is written without telling Go's scheduler: it
// takes the kernel a microsecond or two.
const smallReply = 16 << 10

// reply sends what lies in the buffer.
func (c *Conn) reply(q *Request, size int, errno syscall.Errno) {
	if c.debug {
		c.log.Info("fuse ->", "op", q.Opcode.String(), "unique", q.Unique, "error", errnoName(errno), "bytes", size)
	}
	if q.entry != nil {
		q.entry.reply(size, errno)
		return
	}
	b := q.buf[q.from-replyHeaderSize : q.from+size]
	h := (*replyHeader)(unsafe.Pointer(&b[0]))
	*h = replyHeader{len: uint32(len(b)), error: -int32(errno), unique: q.Unique}
	var e syscall.Errno
	if len(b) <= smallReply {
		_, _, e = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(c.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	} else {
		_, _, e = syscall.Syscall(syscall.SYS_WRITE, uintptr(c.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	}
	switch e {
	case 0, syscall.ENOENT, syscall.ENODEV: // answered already, since the connection was aborted
		return
	}
	// The kernel did not understand it and the caller still waits.
	c.log.Error("fuse: the kernel does not take a reply", "op", q.Opcode.String(), "bytes", len(b), "errno", int(errno), "error", e.Error())
	*h = replyHeader{len: replyHeaderSize, error: -int32(syscall.EIO), unique: q.Unique}
	c.write(b[:replyHeaderSize])
}

// write sends a message that may block.
func (c *Conn) write(b []byte) syscall.Errno {
	for {
		_, _, e := syscall.Syscall(syscall.SYS_WRITE, uintptr(c.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		if e != syscall.EINTR {
			return e
		}
	}
}

func headerBytes(h *replyHeader) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(h)), replyHeaderSize)
}

const (
	// waiterBuffer holds a SETLKW message and its reply.
	waiterBuffer = headStart + 256
	// maxWaiters bounds the memory of locks that are waited for.
	maxWaiters = 16 << 10
)

// detach gives a message that may wait for ever to a goroutine of its own with a
// buffer as small as it is, so that those who wait for locks do not use up the
// readers. Too many of them get ENOLCK.
func (c *Conn) detach(q *Request, msg []byte) bool {
	if len(msg) > waiterBuffer-headStart {
		return false
	}
	if c.waiters.Add(1) > maxWaiters {
		c.waiters.Add(-1)
		q.from = q.out
		c.reply(q, 0, syscall.ENOLCK)
		return true
	}
	w := &Request{Header: q.Header, conn: c, buf: make([]byte, waiterBuffer), out: replyHeaderSize, cancel: make(chan struct{})}
	n := copy(w.buf[headStart:], msg)
	w.body = w.buf[headStart+headerSize : headStart+n]
	c.register(w)
	c.wg.Go(func() {
		c.answer(w)
		c.unregister(w)
		c.waiters.Add(-1)
	})
	return true
}

// Reading tells how many goroutines read from the kernel and handle what they read.
func (c *Conn) Reading() int { return int(c.readers.Load()) }
