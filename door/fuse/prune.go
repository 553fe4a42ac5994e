package fuse

import (
	"sync"
	"time"

	"github.com/massif-fs/massif/door/fuse/kernel"
)

// pruner keeps the number of inodes that the kernel knows, and so what door and
// tree must remember for it, below a limit: when there are more it asks the
// kernel to forget some (NOTIFY_PRUNE, protocol 7.45). The kernel keeps those in
// use. What it forgets comes back as FORGET.
type pruner struct {
	limit int64
	wake  chan struct{} // capacity 1
}

const (
	pruneMinor = 45  // protocol 7.45 has it, Linux 6.18
	pruneBatch = 512 // inodes per message
	pruneTick  = 20 * time.Millisecond
	pruneStill = 10 // ticks without a FORGET, after which no more are expected
)

// start begins to watch the table until stop is closed.
func (p *pruner) start(d *door, limit int, stop <-chan struct{}, workers *sync.WaitGroup) {
	p.limit, p.wake = int64(limit), make(chan struct{}, 1)
	d.nodes.grown = p.check
	workers.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-p.wake:
			}
			p.round(d)
			p.settle(d, stop)
			p.check(d.nodes.total.Load())
		}
	})
}

// settle waits while the kernel's FORGETs come in: asking again meanwhile would
// have it forget too much, or, if it cannot, keep it busy in vain.
func (p *pruner) settle(d *door, stop <-chan struct{}) {
	tick := time.NewTicker(pruneTick)
	defer tick.Stop()
	last := d.nodes.total.Load()
	for still := 0; still < pruneStill; {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		now := d.nodes.total.Load()
		if still++; now < last {
			still = 0
		}
		last = now
	}
}

// check wakes the pruner if there are too many inodes.
func (p *pruner) check(total int64) {
	if total <= p.limit {
		return
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// round asks for as many inodes as are above nine tenths of the limit.
func (p *pruner) round(d *door) {
	left := d.nodes.total.Load() - p.limit*9/10
	var batch []uint64
	d.nodes.inos(func(ino uint64) bool {
		if ino == kernel.RootID {
			return true
		}
		if batch = append(batch, ino); len(batch) == pruneBatch {
			d.notify.prune(batch)
			batch = batch[:0]
		}
		left--
		return left > 0
	})
	if len(batch) > 0 {
		d.notify.prune(batch)
	}
}

// prune asks the kernel to forget inodes that are not in use.
func (n *notifier) prune(inos []uint64) {
	n.sentTo(n.door.conn.Prune(inos))
}
