package kernel

import (
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// How many readers there should be.
//
// Those that rest in read(2) are woken in turn: the kernel wakes who has waited
// longest. With two of them a single caller's messages go to one thread and the other
// alternately, each time to the one whose processor has gone to sleep meanwhile, and
// a message of 6 µs becomes one of 30 µs (measured on a machine with two virtual
// processors). So as a rule one rests, and handles what it reads itself. There have to
// be more
//
//   - when its handler takes long, since it waits for a disk or a network: then
//     nobody would read. What kinds of messages do so is learnt (learn): before such
//     a one is handled, another reader is started. What comes as a surprise is found by
//     the watch, which looks every millisecond whether messages wait and nobody reads
//     them.
//   - when several programs ask at once and there are processors to answer them in
//     parallel: the watch finds messages waiting again and again, and lets more
//     readers rest, up to one for each processor, until it finds none any more.
const (
	watchTick = time.Millisecond
	// watchCalm is after how many ticks without a message waiting one reader less is
	// enough.
	watchCalm = 16
	// watchIdle is after how many ticks without a message the watch stops, until the
	// next one comes.
	watchIdle = 100

	// slowAfter is how long a handler takes at least of which it is worth to start
	// another reader before.
	slowAfter = 500 * time.Microsecond
	// slowFor is how many quick ones in a row make a kind of message quick again.
	slowFor = 16
)

// readerCount is the state of that decision.
type readerCount struct {
	_       [64]byte
	resting atomic.Int64 // readers in read(2), or about to be
	active  atomic.Bool  // a message came since the last tick
	_       [48]byte
	target  atomic.Int64 // how many may rest
	readers atomic.Int64
	stopped atomic.Bool   // the watch waits to be woken
	wake    chan struct{} // capacity 1
	slow    [opCount]atomic.Int32
}

// isSlow tells whether to expect that an operation takes long.
func (r *readerCount) isSlow(op Opcode) bool { return op < opCount && r.slow[op].Load() > 0 }

// learn takes note of how long an operation took.
func (r *readerCount) learn(op Opcode, took time.Duration) {
	if op >= opCount || took == 0 {
		return
	}
	s := &r.slow[op]
	if took >= slowAfter {
		s.Store(slowFor)
	} else if s.Load() > 0 {
		s.Add(-1)
	}
}

// activate notes that there is a message.
func (r *readerCount) activate() {
	r.active.Store(true)
	if r.stopped.Load() {
		r.rouse()
	}
}

func (r *readerCount) rouse() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// watch sees to it that messages do not wait for want of readers.
func (c *Conn) watch() {
	limit := min(int64(runtime.NumCPU()), int64(runtime.GOMAXPROCS(0)), 16, c.maxReaders)
	calm, idle := 0, 0
	for !c.dead.Load() {
		time.Sleep(watchTick)
		active := c.active.Swap(false)
		resting := c.resting.Load()
		// Either nobody reads, or who was woken has not got a processor for a tick.
		stuck := resting == 0 || !active && resting < limit
		if stuck && c.waiting() {
			c.target.Store(min(c.target.Load()+1, limit))
			c.grow()
			c.learnEarly()
			calm = 0
		} else if calm++; calm >= watchCalm {
			c.target.Store(max(c.target.Load()-1, 1))
			calm = 0
		}
		if c.rescue() || active {
			idle = 0
			continue
		}
		if idle++; idle < watchIdle || c.resting.Load() == 0 {
			continue
		}
		c.stopped.Store(true)
		if !c.active.Load() && !c.dead.Load() { // activate and died look the other way round
			<-c.wake
		}
		c.stopped.Store(false)
		idle = 0
	}
}

// learnEarly learns from what is still in progress, so that a hundred reads that all
// wait for a network are begun at once and not one each tick.
func (c *Conn) learnEarly() {
	before := c.now() - slowAfter
	c.mu.Lock()
	defer c.mu.Unlock()
	for q := range c.requests {
		if op, start := q.progress.load(); q.state.Load() != 0 && op < opCount && start < before {
			c.slow[op].Store(slowFor)
		}
	}
}

// progress is an operation and when it began, readable by others.
type progress struct{ v atomic.Uint64 }

func (p *progress) store(op Opcode, start time.Duration) {
	p.v.Store(uint64(start.Microseconds())<<8 | uint64(op)&0xff)
}

func (p *progress) load() (op Opcode, start time.Duration) {
	v := p.v.Load()
	return Opcode(v & 0xff), time.Duration(v>>8) * time.Microsecond
}

// waiting tells whether read(2) would return: the kernel has a message that nobody has
// read, or the connection has ended (POLLERR).
func (c *Conn) waiting() bool {
	p := unix.PollFd{Fd: int32(c.fd), Events: unix.POLLIN}
	var now unix.Timespec
	n, _, _ := syscall.RawSyscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	return n == 1 && p.Revents != 0
}
