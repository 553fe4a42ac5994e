package kernel

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FUSE over io_uring (Linux 6.14; root has to allow it: the parameter enable_uring of
// the module fuse). Messages do not come by read(2): each processor has a queue, each
// queue a number of entries, and each entry two places of memory that the kernel was
// told of (REGISTER): the headers and the payload. For a message of a program the
// kernel takes a free entry of the queue of the processor on which the program runs,
// puts the message there and completes the entry's command. The reply is put in the
// same places, and one command, COMMIT_AND_FETCH, hands it over and asks for the next
// message. So a message costs one system call instead of two, and its program and
// its handler share a processor: no other has to be woken.
//
// FORGET and INTERRUPT still come by read(2), notifications go by write(2).
//
// A queue has a thread, which stays on the queue's processor and handles its messages
// itself (queue.serve). It must never be what a message waits for while it waits for
// another message: what is known to take long gets a goroutine, and when a handler
// takes long unexpectedly the watch gives what came meanwhile to goroutines
// (queue.rescue).
//
// The kernel puts a message into an entry by the hands of the thread that submitted the
// entry's last command, when that thread returns from the kernel or waits there for
// something that a signal would end. So a command may only be submitted by a thread that
// never waits for anything else: not by one of Go's, which goes on with another
// goroutine that waits for a disk (or for a message of this very mount). Those are the
// queue's thread and, for the goroutines, one more (submitReplies).
//
// An entry in use is one that no other message gets. Locks that are waited for could
// use them all up (the classic way has small buffers for these, which cannot be had
// here): a door that serves locks must not use io_uring.
//
// When the process dies, messages that lie in a queue are lost: Resend does not reach
// them. A mount that is to outlive its server cannot use io_uring either.

const (
	uringRegister = 1
	uringCommit   = 2

	// minEntries is how many entries a queue needs at least, so that a few messages
	// may wait for others.
	// They are used in turn, so that in time the memory of all is touched.
	minEntries = 4
	maxEntries = 16
)

// ErrNoRings tells that messages cannot come by io_uring here.
var ErrNoRings = errors.New("fuse: io_uring cannot be used")

// entryHeaders is fuse_uring_req_header of linux/fuse.h.
type entryHeaders struct {
	inOut    [128]byte // the Header of a message, the replyHeader of a reply
	op       [128]byte // the structure of the operation
	flags    uint64
	commitID uint64
	payload  uint32 // bytes in the payload: what follows the structure; the whole reply
	_        uint32
	_        uint64
}

// entryCmd is fuse_uring_cmd_req: the last part of a submission.
type entryCmd struct {
	flags    uint64
	commitID uint64
	queue    uint16
	_        [6]byte
}

// queue is that of one processor.
type queue struct {
	conn    *Conn
	cpu     int
	ring    *ring
	memory  []byte // of the entries, mapped
	entries []*entry
	live    atomic.Int32 // entries that may get messages
	workers sync.WaitGroup
	since   atomic.Int64 // when the thread began with the message it handles; 0: none
	mu      sync.Mutex
	over    bool // under mu: the ring is no more
}

// entry is a place for a message.
type entry struct {
	queue   *queue
	id      uint64 // index in the queue, plus 1
	headers *entryHeaders
	places  [2]unix.Iovec
	request *Request
	commit  uint64 // names the message in progress
}

// RingsEnabled tells whether the running kernel has been allowed to use io_uring for
// FUSE.
func RingsEnabled() bool {
	b, err := os.ReadFile("/sys/module/fuse/parameters/enable_uring")
	return err == nil && strings.TrimSpace(string(b)) == "Y"
}

// possibleCPUs counts the processors that the machine could have, from a list such as
// "0-3,8".
func possibleCPUs(list string) (n int, err error) {
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		from, to, isRange := strings.Cut(part, "-")
		a, err := strconv.ParseUint(from, 10, 16)
		if err != nil {
			return 0, err
		}
		b := a
		if isRange {
			if b, err = strconv.ParseUint(to, 10, 16); err != nil || b < a {
				return 0, fmt.Errorf("%q is not a list of processors", list)
			}
		}
		n += int(b-a) + 1
	}
	return n, nil
}

// newQueues makes a queue for each processor that the machine could have, as the kernel
// wants it, with as many entries as memory (in bytes) allows.
func newQueues(payload, memory int) (queues []*queue, err error) {
	if !RingsEnabled() {
		return nil, fmt.Errorf("%w: the kernel does not allow it (module fuse, parameter enable_uring)", ErrNoRings)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrNoRings, err)
			for _, u := range queues {
				u.close()
			}
			queues = nil
		}
	}()
	list, err := os.ReadFile("/sys/devices/system/cpu/possible")
	if err != nil {
		return nil, err
	}
	cpus, err := possibleCPUs(string(list))
	if err != nil {
		return nil, err
	}
	size := headSize + payload
	n := min(memory/(cpus*size), maxEntries)
	if n < minEntries {
		return nil, fmt.Errorf("%d queues with %d entries of %d KiB need more than the %d MiB there are for requests",
			cpus, minEntries, size>>10, memory>>20)
	}
	for cpu := range cpus {
		u := &queue{cpu: cpu}
		if u.ring, err = newRing(2 * maxEntries); err != nil {
			return queues, err
		}
		queues = append(queues, u)
		if u.memory, err = unix.Mmap(-1, 0, n*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE); err != nil {
			return queues, err
		}
		for i := range n {
			b := u.memory[i*size : (i+1)*size : (i+1)*size]
			e := &entry{queue: u, id: uint64(i + 1), headers: (*entryHeaders)(unsafe.Pointer(&b[0]))}
			e.places[0] = unix.Iovec{Base: &b[0], Len: uint64(unsafe.Sizeof(entryHeaders{}))}
			e.places[1] = unix.Iovec{Base: &b[headSize], Len: uint64(payload)}
			e.request = &Request{buf: b, out: headSize, entry: e, cancel: make(chan struct{})}
			u.entries = append(u.entries, e)
		}
	}
	return queues, nil
}

// close gives memory and ring back; nobody uses them any more.
func (u *queue) close() {
	u.ring.close()
	if u.memory != nil {
		unix.Munmap(u.memory)
	}
}

// startQueues registers all entries: from now on, and not before, the kernel sends
// messages.
func (c *Conn) startQueues() {
	if len(c.queues) == 0 {
		return
	}
	result := make(chan error, len(c.queues))
	var threads sync.WaitGroup
	n := 0
	for _, u := range c.queues {
		u.conn = c
		for _, e := range u.entries {
			e.request.conn = c
			c.register(e.request)
		}
		n += len(u.entries)
		threads.Go(func() { u.serve(result) })
	}
	c.replies = make(chan *queue, n) // never blocks: an entry has one reply at a time
	c.wg.Go(c.submitReplies)
	c.wg.Go(func() {
		threads.Wait()
		close(c.replies)
	})
	for range c.queues {
		c.giveUp(<-result)
	}
}

// serve is the queue's thread.
func (u *queue) serve(result chan<- error) {
	// Never unlocked: the thread ends with the goroutine, since it is tied to a
	// processor.
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(u.cpu)
	// Refused if the processor is off or not ours; no program that uses the mount runs
	// there then.
	_ = unix.SchedSetaffinity(0, &set)

	defer u.end()
	result <- u.registerEntries()
	c := u.conn
	for u.live.Load() > 0 {
		if done, ok := u.ring.pop(); ok {
			if e := u.arrived(done); e != nil {
				u.take(e)
			}
			if u.ring.ready() { // the next one may take a while
				c.giveUp(u.ring.enter(false))
			}
			continue
		}
		if c.dead.Load() {
			return
		}
		c.giveUp(u.ring.enter(true))
	}
}

// submitReplies submits the replies of goroutines, on a thread that does nothing else.
func (c *Conn) submitReplies() {
	runtime.LockOSThread()
	for u := range c.replies {
		u.mu.Lock()
		var err error
		if !u.over {
			err = u.ring.enter(false)
		}
		u.mu.Unlock()
		c.giveUp(err)
	}
}

// end gives back what the queue has, when the last handler has returned.
func (u *queue) end() {
	u.mu.Lock()
	u.over = true // nobody comes any more
	u.mu.Unlock()
	u.workers.Wait()
	for _, e := range u.entries {
		u.conn.unregister(e.request)
	}
	u.ring.close()
	if u.live.Load() == 0 { // else the kernel may still write there
		unix.Munmap(u.memory)
	}
}

// registerEntries tells the kernel of the places for messages.
func (u *queue) registerEntries() error {
	u.live.Store(int32(len(u.entries)))
	for _, e := range u.entries {
		e.push(uringRegister)
	}
	if err := u.ring.enter(false); err != nil {
		return err
	}
	if done, ok := u.ring.peek(); ok && done.res < 0 {
		return fmt.Errorf("fuse: registering with queue %d: %w", u.cpu, syscall.Errno(-done.res))
	}
	return nil
}

// giveUp ends the connection if err is not nil.
func (c *Conn) giveUp(err error) {
	if err != nil {
		c.log.Error("fuse: the mount is given up", "error", err)
		c.died()
	}
}

// arrived finds the entry that has got a message; nil if none has.
func (u *queue) arrived(done completion) *entry {
	if done.userData == 0 {
		return nil // rouse
	}
	if done.res < 0 {
		u.live.Add(-1)
		switch errno := syscall.Errno(-done.res); errno {
		case syscall.ENOTCONN, syscall.ECONNABORTED, syscall.ECANCELED, syscall.ENODEV:
		default:
			u.conn.log.Error("fuse: an entry of a queue is lost", "queue", u.cpu, "errno", int(errno), "error", errno.Error())
		}
		return nil
	}
	return u.entries[done.userData-1]
}

// take handles a message on the queue's thread, or has a goroutine do so.
func (u *queue) take(e *entry) {
	c := u.conn
	if !c.active.Load() {
		c.activate()
	}
	e.read()
	if c.isSlow(e.request.Opcode) {
		u.delegate(e)
		return
	}
	u.since.Store(int64(max(c.now(), 1)))
	e.handle()
	u.since.Store(0)
}

// delegate has a goroutine handle a message that was read.
func (u *queue) delegate(e *entry) {
	u.workers.Go(func() {
		e.handle()
		u.conn.replies <- u
	})
}

// rescue handles what has come while threads of queues are busy with other messages. It
// tells whether any thread is.
func (c *Conn) rescue() (busy bool) {
	for _, u := range c.queues {
		since := u.since.Load()
		if since == 0 {
			continue
		}
		busy = true
		if c.now()-time.Duration(since) >= watchTick && u.rescue() {
			c.learnEarly()
		}
	}
	return busy
}

// rescue has goroutines handle what has come. It tells whether there was anything.
func (u *queue) rescue() (found bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for !u.over {
		done, ok := u.ring.pop()
		if !ok {
			break
		}
		if e := u.arrived(done); e != nil {
			found = true
			e.read()
			u.delegate(e)
		}
	}
	return found
}

// rouse makes the queue's thread look whether the connection has ended.
func (u *queue) rouse() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.over || u.conn == nil {
		return
	}
	u.ring.push(&submission{opcode: opNop})
	if err := u.ring.enter(false); err != nil {
		u.conn.log.Error("fuse: cannot wake a queue", "queue", u.cpu, "error", err)
	}
}

// push gives the entry to the kernel.
func (e *entry) push(op uint32) {
	s := submission{
		opcode: opCmd, fd: int32(e.queue.conn.fd), cmdOp: op, userData: e.id,
		addr: uint64(uintptr(unsafe.Pointer(&e.places[0]))), len: uint32(len(e.places)),
	}
	*(*entryCmd)(unsafe.Pointer(&s.cmd[0])) = entryCmd{commitID: e.commit, queue: uint16(e.queue.cpu)}
	e.queue.ring.push(&s)
}

// read makes a Request of what lies in the entry.
func (e *entry) read() {
	q, h := e.request, e.headers
	e.commit = h.commitID
	q.Header = *(*Header)(unsafe.Pointer(&h.inOut[0]))
	n := min(int(h.payload), len(q.buf)-headSize)
	n = max(n-8*int(q.ExtWords), 0)
	q.op = h.op[:]
	if q.Opcode == opNotifyReply { // its structure is payload
		q.op = nil
	}
	q.body = q.buf[headSize : headSize+n : headSize+n]
	if c := e.queue.conn; c.debug {
		c.log.Info("fuse <-", "op", q.Opcode.String(), "unique", q.Unique, "node", q.NodeID, "bytes", n, "pid", q.PID, "queue", e.queue.cpu)
	}
}

// handle answers it.
func (e *entry) handle() {
	c, q := e.queue.conn, e.request
	switch q.Opcode {
	case opForget, opBatchForget, opInterrupt, opNotifyReply:
		c.noReply(q)
		e.reply(0, 0)
	default:
		c.answer(q)
	}
}

// reply hands the reply in the payload over and asks for the next message, as soon as
// somebody submits.
func (e *entry) reply(size int, errno syscall.Errno) {
	h := e.headers
	*(*replyHeader)(unsafe.Pointer(&h.inOut[0])) = replyHeader{
		len: uint32(replyHeaderSize + size), error: -int32(errno), unique: e.request.Unique,
	}
	h.payload = uint32(size)
	e.push(uringCommit)
}
