package kernel

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ring is an io_uring(7) with submission entries of 128 bytes, which commands to a
// device need, and as much of it as this package uses. The structures are those of
// linux/io_uring.h.
//
// Any thread may push, submit and pop, at the same time. Work that the kernel has to do
// for an entry (copying the next message to its buffers) is done by the thread that
// submitted it, at its next moment in the kernel; a thread's entries end with it.
type ring struct {
	fd   int
	maps [][]byte // of the three areas; the completions lie in that of the submissions

	mu     sync.Mutex // guards what follows
	sqHead *uint32
	sqTail *uint32
	sqMask uint32
	sqes   []submission
	cqHead *uint32
	cqTail *uint32
	cqMask uint32
	cqes   []completion
}

// submission is an io_uring_sqe of 128 bytes, as a URING_CMD has it.
type submission struct {
	opcode   uint8
	flags    uint8
	ioprio   uint16
	fd       int32
	cmdOp    uint32
	_        uint32
	addr     uint64
	len      uint32
	cmdFlags uint32
	userData uint64
	_        uint64
	cmd      [80]byte
}

// completion is an io_uring_cqe.
type completion struct {
	userData uint64
	res      int32 // minus an errno, or a result
	flags    uint32
}

type ringParams struct {
	sqEntries    uint32
	cqEntries    uint32
	flags        uint32
	sqThreadCPU  uint32
	sqThreadIdle uint32
	features     uint32
	wqFD         uint32
	_            [3]uint32
	sq           struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
}

const (
	setupCoopTaskrun = 1 << 8
	setupSQE128      = 1 << 10

	featSingleMmap = 1 << 0

	offSubmissions = 0
	offEntries     = 0x10000000

	opNop = 0
	opCmd = 46 // IORING_OP_URING_CMD

	enterGetEvents = 1 << 0
)

// newRing makes a ring for so many entries at a time, a power of two. EPERM or ENOSYS:
// io_uring is not allowed here (kernel.io_uring_disabled, a container's seccomp rules).
func newRing(entries int) (*ring, error) {
	p := ringParams{flags: setupSQE128 | setupCoopTaskrun}
	fd, _, errno := syscall.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", errno)
	}
	r := &ring{fd: int(fd)}
	unix.CloseOnExec(r.fd)
	if p.features&featSingleMmap == 0 {
		r.close()
		return nil, fmt.Errorf("io_uring: its queues do not share one mapping: %w", syscall.ENOSYS)
	}
	size := max(int(p.sq.array+p.sqEntries*4), int(p.cq.cqes+p.cqEntries*uint32(unsafe.Sizeof(completion{}))))
	queues, err := r.mmap(offSubmissions, size)
	if err != nil {
		return nil, err
	}
	entriesMap, err := r.mmap(offEntries, int(p.sqEntries)*int(unsafe.Sizeof(submission{})))
	if err != nil {
		return nil, err
	}
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&queues[off])) }
	r.sqHead, r.sqTail, r.sqMask = word(p.sq.head), word(p.sq.tail), *word(p.sq.mask)
	r.cqHead, r.cqTail, r.cqMask = word(p.cq.head), word(p.cq.tail), *word(p.cq.mask)
	r.sqes = unsafe.Slice((*submission)(unsafe.Pointer(&entriesMap[0])), p.sqEntries)
	r.cqes = unsafe.Slice((*completion)(unsafe.Pointer(&queues[p.cq.cqes])), p.cqEntries)
	slots := unsafe.Slice(word(p.sq.array), p.sqEntries)
	for i := range slots {
		slots[i] = uint32(i) // slot i holds entry i, always
	}
	return r, nil
}

func (r *ring) mmap(offset int64, size int) ([]byte, error) {
	b, err := unix.Mmap(r.fd, offset, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		r.close()
		return nil, fmt.Errorf("io_uring: mmap: %w", err)
	}
	r.maps = append(r.maps, b)
	return b, nil
}

// close ends all that was submitted. No other method may be running.
func (r *ring) close() {
	for _, m := range r.maps {
		unix.Munmap(m)
	}
	unix.Close(r.fd)
}

// push adds an entry, to be submitted by the next enter, whoever calls it. There is
// room by construction: a ring has more than twice as many as can be under way.
func (r *ring) push(s *submission) {
	r.mu.Lock()
	tail := *r.sqTail
	r.sqes[tail&r.sqMask] = *s
	atomic.StoreUint32(r.sqTail, tail+1)
	r.mu.Unlock()
}

// pop takes a completion, if there is one.
func (r *ring) pop() (c completion, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	head := *r.cqHead
	if head == atomic.LoadUint32(r.cqTail) {
		return c, false
	}
	c = r.cqes[head&r.cqMask]
	atomic.StoreUint32(r.cqHead, head+1)
	return c, true
}

// peek looks at what pop would take.
func (r *ring) peek() (c completion, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ready() {
		return c, false
	}
	return r.cqes[*r.cqHead&r.cqMask], true
}

// ready tells whether pop would find something.
func (r *ring) ready() bool { return atomic.LoadUint32(r.cqHead) != atomic.LoadUint32(r.cqTail) }

// enter submits what was pushed and, if wait, waits for a completion. It may return
// without one.
func (r *ring) enter(wait bool) error {
	for {
		n := atomic.LoadUint32(r.sqTail) - atomic.LoadUint32(r.sqHead)
		var least, flags uintptr
		if wait {
			least, flags = 1, enterGetEvents
		}
		_, _, errno := syscall.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(n), least, flags, 0, 0)
		switch errno {
		case 0:
			return nil
		case syscall.EINTR, syscall.EAGAIN, syscall.EBUSY:
			if wait {
				return nil
			}
		default:
			return fmt.Errorf("io_uring_enter: %w", errno)
		}
	}
}
