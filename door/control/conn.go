package control

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Event is what a watch tells of.
type Event struct {
	Type      string `json:"type"`
	Path      string `json:"path"`
	WatchID   int    `json:"watch-id"`
	StorageID int    `json:"storage-id"`
}

const (
	// maxEvents bounds the events of a connection that wait to be sent, in bytes.
	maxEvents = 1 << 20
	// lastWords is how long a client has to take what is sent to it when the server ends.
	lastWords = 10 * time.Second
)

// ErrConnClosed is why a connection takes no subscriptions any more.
var ErrConnClosed = errors.New("the connection is closed")

// Conn is a client's connection. Its methods may be called concurrently, also when it
// is closed.
type Conn struct {
	server *Server
	c      *net.UnixConn

	idleSince atomic.Int64 // Unix nanoseconds; 0: a command is under way
	kept      atomic.Bool  // has subscriptions: is not closed for being idle

	writing sync.Mutex // one message at a time

	mu      sync.Mutex
	queue   [][]byte    // events, encoded
	size    int         // of queue, in bytes
	lost    map[int]int // watches of which events were dropped, with their storages
	wake    chan struct{}
	onClose []func()
	closed  bool
}

// Notify sends events of one watch without waiting. Those for which there is no room
// are dropped, which the client is told.
func (c *Conn) Notify(events []Event) {
	if len(events) == 0 {
		return
	}
	data, err := encodeMessage(map[string][]Event{"event": events})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if err != nil || c.size+len(data) > maxEvents || len(c.lost) > 0 {
		if c.lost == nil {
			c.lost = map[int]int{}
		}
		c.lost[events[0].WatchID] = events[0].StorageID
	} else {
		c.queue = append(c.queue, data)
		c.size += len(data)
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// OnClose has fn called when the connection is closed. The connection is not closed
// for being idle then. It fails with ErrConnClosed if it is closed already.
func (c *Conn) OnClose(fn func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrConnClosed
	}
	c.kept.Store(true)
	c.onClose = append(c.onClose, fn)
	return nil
}

// sendEvents sends what Notify has put into the queue until ctx is done.
func (c *Conn) sendEvents(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		for {
			data, err := c.nextEvents()
			if data == nil && err == nil {
				break
			}
			if err == nil {
				err = c.writeRaw(data)
			}
			if err != nil {
				c.server.log.Debug("control socket: event", "err", err)
				c.c.Close() // the reader notices
				return
			}
		}
	}
}

// nextEvents takes a message out of the queue; what was lost is told when the queue is
// empty, so that the order is true.
func (c *Conn) nextEvents() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) > 0 {
		data := c.queue[0]
		c.queue[0] = nil
		c.queue = c.queue[1:]
		c.size -= len(data)
		return data, nil
	}
	c.queue = nil
	for watch, storage := range c.lost {
		delete(c.lost, watch)
		return encodeMessage(map[string][]Event{"event": {{Type: "overflow", WatchID: watch, StorageID: storage}}})
	}
	return nil, nil
}

func (c *Conn) write(v any) error {
	data, err := encodeMessage(v)
	if err != nil {
		return err
	}
	return c.writeRaw(data)
}

func (c *Conn) writeRaw(data []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.server.isClosed() {
		c.c.SetWriteDeadline(time.Now().Add(lastWords))
	}
	_, err := c.c.Write(data)
	return err
}

// end tells who subscribed that the connection is gone.
func (c *Conn) end() {
	c.mu.Lock()
	c.closed = true
	fns := c.onClose
	c.onClose, c.queue, c.lost = nil, nil, nil
	c.mu.Unlock()
	for _, fn := range fns {
		fn()
	}
}
