package blockgate

import (
	"context"
	"sync"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/object"
)

const (
	// batch is how many blocks one request for grants asks for: enough for a window
	// of read-ahead, and its answer stays below 64 KiB or so.
	batch = 32
	// askers is how many such requests are under way at once. What comes meanwhile
	// gathers for the next.
	askers = 4
)

// book keeps the grants to read that a client has, and asks for those that it
// lacks, many at once. Grants to write are used once and not kept.
type book struct {
	c *Client

	mu     sync.Mutex
	grants recent[block.ID, *held]
	files  recent[block.ID, place]
	reads  map[block.ID]*ask // under way or in the queue
	queue  []*ask
	askers int
}

// held is a grant with the time until which it is used.
type held struct {
	grant
	until time.Time
}

// ask is a grant being asked for.
type ask struct {
	read  readRequest
	write *writeRequest // nil: read
	done  chan struct{}
	// below: written before done is closed
	held *held
	err  error
}

func (b *book) open(c *Client) {
	b.c = c
	b.grants.limit, b.files.limit = c.cfg.Grants/2, c.cfg.Files/2
	b.reads = make(map[block.ID]*ask)
}

func (b *book) refer(p place, ids []block.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range ids {
		if id != 0 {
			b.files.put(id, p)
		}
	}
}

// file is where a block is known to belong.
func (b *book) file(id block.ID) place {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, _ := b.files.get(id)
	return p
}

// read returns a grant to read a block, a new one if there is none that will
// still be good when it is used.
func (b *book) read(ctx context.Context, id block.ID) (*held, error) {
	b.mu.Lock()
	if h, ok := b.grants.get(id); ok {
		if time.Now().Before(h.until) {
			b.mu.Unlock()
			return h, nil
		}
		b.grants.drop(id)
	}
	a := b.reads[id]
	if a == nil {
		p, _ := b.files.get(id)
		a = &ask{read: readRequest{Block: uint64(id), Ino: p.ino, Chunk: p.chunk}, done: make(chan struct{})}
		b.reads[id] = a
		b.enqueue(a)
	}
	b.mu.Unlock()
	return a.wait(ctx)
}

func (b *book) write(ctx context.Context, w writeRequest) (*held, error) {
	a := &ask{write: &w, done: make(chan struct{})}
	b.mu.Lock()
	b.enqueue(a)
	b.mu.Unlock()
	return a.wait(ctx)
}

func (a *ask) wait(ctx context.Context) (*held, error) {
	select {
	case <-a.done:
		return a.held, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// forget drops a grant that did not work.
func (b *book) forget(id block.ID, h *held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if have, ok := b.grants.get(id); ok && have == h {
		b.grants.drop(id)
	}
}

// forgetFile drops what is known of a block that does not belong there.
func (b *book) forgetFile(id block.ID, p place) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if have, ok := b.files.get(id); ok && have == p {
		b.files.drop(id)
	}
}

// enqueue is called with mu held.
func (b *book) enqueue(a *ask) {
	b.queue = append(b.queue, a)
	if b.askers < askers && b.c.ctx.Err() == nil {
		b.askers++
		b.c.wg.Go(b.work)
	} else if b.c.ctx.Err() != nil && b.askers == 0 {
		b.queue = nil
		b.settle(a, nil, errClosed)
	}
}

// work asks for what is in the queue until it is empty.
func (b *book) work() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.queue) > 0 {
		n := min(batch, len(b.queue))
		asks := b.queue[:n:n]
		b.queue = b.queue[n:]
		b.mu.Unlock()
		grants, sent, err := b.request(asks)
		b.mu.Lock()
		for i, a := range asks {
			if err != nil {
				b.settle(a, nil, err)
				continue
			}
			g := grants[i]
			if g.Code != "" {
				b.settle(a, nil, g.error())
				continue
			}
			// Used up to a while before its end: the request itself takes time. Counted
			// by our own clock from before the gate was asked.
			life := min(max(time.Duration(g.LifeMillis)*time.Millisecond, 0), object.MaxSignedLife)
			b.settle(a, &held{g, sent.Add(life - min(life/5, 30*time.Second))}, nil)
		}
	}
	b.queue = nil
	b.askers--
}

// settle ends an ask, with mu held.
func (b *book) settle(a *ask, h *held, err error) {
	a.held, a.err = h, err
	if a.write == nil {
		id := block.ID(a.read.Block)
		if b.reads[id] == a {
			delete(b.reads, id)
		}
		if h != nil {
			b.grants.put(id, h)
		}
	}
	close(a.done)
}

// request asks the gate for grants, reads before writes, and brings the answers
// into the order of asks.
func (b *book) request(asks []*ask) ([]grant, time.Time, error) {
	var q grantRequest
	order := make([]int, 0, len(asks))
	for i, a := range asks {
		if a.write == nil {
			q.Reads = append(q.Reads, a.read)
			order = append(order, i)
		}
	}
	for i, a := range asks {
		if a.write != nil {
			q.Writes = append(q.Writes, *a.write)
			order = append(order, i)
		}
	}
	sent := time.Now()
	answer, err := b.c.askGrants(b.c.ctx, &q)
	if err != nil {
		return nil, sent, err
	}
	grants := make([]grant, len(asks))
	for k, i := range order {
		grants[i] = answer[k]
	}
	return grants, sent, nil
}
