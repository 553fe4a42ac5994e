package metarpc

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// A frame is the length of the rest in four bytes (little-endian), a byte that says
// what it is, and its body.

type frameKind uint8

const (
	// From the client.
	frameHello   frameKind = 1 // the first frame of a connection
	frameCall    frameKind = 2 // id, op, and what the op wants
	frameCancel  frameKind = 3 // id: the caller was interrupted
	frameUses    frameKind = 4 // inodes that came into use, and went out of it; no answer
	frameRestore frameKind = 5 // what the client holds, after a reconnection; no answer
	framePing    frameKind = 6 // a number, comes back in the pong
	frameAck     frameKind = 7 // ids of recalls
	frameBye     frameKind = 8 // the client ends the session
	frameAgain   frameKind = 9 // before a restoration: a change that was acknowledged early, see early.go

	// From the server.
	frameWelcome frameKind = 65
	frameReply   frameKind = 66 // id, status, and what the op returns
	framePong    frameKind = 67
	frameRecall  frameKind = 68 // id; leases end
	frameOwn     frameKind = 69 // what the client's own changes made of what it has leased
	frameChange  frameKind = 70 // the change feed
	frameLeave   frameKind = 71 // the server goes down: come back in a moment
	frameEnd     frameKind = 72 // the session has ended: why
	frameFormat  frameKind = 73 // the volume's settings have changed, or whether it has quotas
	frameEarly   frameKind = 74 // a reply to a change that is not durable yet, with what it takes to make it again
	frameDurable frameKind = 75 // which of these are durable by now
	frameSettled frameKind = 76 // what a restoration's changes have come to, and that they are durable
)

const (
	// MaxFrame is the greatest length of a frame after its length. Replies and
	// most calls are far smaller; a Commit may name many extents.
	MaxFrame = 8 << 20
	// maxHello bounds what is read from somebody who has not shown a token.
	maxHello = 64 << 10

	frameHeader = 5
)

var errFrameTooLong = errors.New("a frame is longer than the protocol allows")

// begin begins a frame in dst; end fills its length in.
func beginFrame(dst []byte, kind frameKind) []byte {
	return append(dst, 0, 0, 0, 0, byte(kind))
}

// endFrame completes the frame that begins at from.
func endFrame(b []byte, from int) {
	binary.LittleEndian.PutUint32(b[from:], uint32(len(b)-from-4))
}

// frameReader reads frames.
type frameReader struct {
	r   *bufio.Reader
	buf []byte // of a frame that did not fit into r
	own int    // bytes of r to be discarded before the next frame
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, 64<<10)}
}

// next returns the next frame; body is valid until the next call. io.EOF if the
// peer closed the connection between frames.
func (f *frameReader) next(limit int) (kind frameKind, body []byte, err error) {
	if f.own > 0 {
		_, _ = f.r.Discard(f.own) // they are in the buffer
		f.own = 0
	}
	head, err := f.r.Peek(4)
	if err != nil {
		if len(head) > 0 && err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	n := int(binary.LittleEndian.Uint32(head))
	if n < 1 {
		return 0, nil, errMalformed
	}
	if n > limit {
		return 0, nil, fmt.Errorf("%w: %d bytes", errFrameTooLong, n)
	}
	if 4+n <= f.r.Size() {
		all, err := f.r.Peek(4 + n)
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
		f.own = 4 + n
		return frameKind(all[4]), all[5:], nil
	}
	_, _ = f.r.Discard(4)
	// Grow as bytes come, lest a length alone takes memory.
	f.buf = f.buf[:0]
	for len(f.buf) < n {
		step := min(n-len(f.buf), 256<<10)
		at := len(f.buf)
		if cap(f.buf) < at+step {
			f.buf = append(make([]byte, 0, min(n, max(2*cap(f.buf), at+step))), f.buf...)
		}
		f.buf = f.buf[:at+step]
		if _, err := io.ReadFull(f.r, f.buf[at:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
	}
	kind, body = frameKind(f.buf[0]), f.buf[1:]
	if cap(f.buf) > 1<<20 {
		f.buf = nil
	}
	return kind, body, nil
}

// waiting tells whether a whole frame has been read from the connection already.
func (f *frameReader) waiting() bool {
	n := f.r.Buffered() - f.own
	if n < 4 {
		return false
	}
	head, err := f.r.Peek(f.own + 4)
	if err != nil {
		return false
	}
	return uint64(n) >= 4+uint64(binary.LittleEndian.Uint32(head[f.own:]))
}

// frameWriter writes frames of many goroutines to a connection: the first one
// writes, what others have meanwhile goes out with its next write.
type frameWriter struct {
	c     net.Conn
	limit time.Duration // of a write

	mu      sync.Mutex
	buf     []byte // waits to be written
	spare   []byte
	writing bool
	err     error
	room    sync.Cond
	tasks   sync.WaitGroup // of post
}

// writeBacklog is how much waits for a connection before those who have more must
// wait.
const writeBacklog = 4 << 20

func newFrameWriter(c net.Conn, limit time.Duration) *frameWriter {
	w := &frameWriter{c: c, limit: limit}
	w.room.L = &w.mu
	return w
}

// add appends frames without writing them: flush, or the next write, does.
func (w *frameWriter) add(frames []byte) {
	w.mu.Lock()
	if w.err == nil {
		w.buf = append(w.buf, frames...)
	}
	w.mu.Unlock()
}

// addAfter is add of a frame that fn completes, with the writer locked.
func (w *frameWriter) addAfter(fn func(), frame []byte) {
	w.mu.Lock()
	fn()
	if w.err == nil {
		w.buf = append(w.buf, frame...)
	}
	w.mu.Unlock()
}

// write appends frames and sees to it that they are written. It does not wait for
// a write of somebody else, but for room.
func (w *frameWriter) write(frames []byte) error {
	w.mu.Lock()
	for w.err == nil && w.writing && len(w.buf) > writeBacklog {
		w.room.Wait()
	}
	if w.err != nil {
		err := w.err
		w.mu.Unlock()
		return err
	}
	w.buf = append(w.buf, frames...)
	return w.drain()
}

// post is write for who must not wait: false if the peer does not take what it
// gets.
func (w *frameWriter) post(frames []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || w.writing && len(w.buf) > 2*writeBacklog {
		return false
	}
	w.buf = append(w.buf, frames...)
	if !w.writing {
		w.writing = true
		w.tasks.Go(func() {
			w.mu.Lock()
			_ = w.loop() // others learn of the error
		})
	}
	return true
}

func (w *frameWriter) flush() error {
	w.mu.Lock()
	return w.drain()
}

// drain writes what there is, unless somebody does, and unlocks.
func (w *frameWriter) drain() error {
	if w.writing || len(w.buf) == 0 || w.err != nil {
		err := w.err
		w.mu.Unlock()
		return err
	}
	w.writing = true
	return w.loop()
}

// loop writes until there is nothing left, and unlocks. writing is set.
func (w *frameWriter) loop() error {
	for len(w.buf) > 0 && w.err == nil {
		b := w.buf
		w.buf = w.spare[:0]
		w.mu.Unlock()
		err := w.c.SetWriteDeadline(time.Now().Add(w.limit))
		if err == nil {
			_, err = w.c.Write(b)
		}
		w.mu.Lock()
		if cap(b) > 1<<20 {
			b = nil
		}
		w.spare = b
		if err != nil {
			w.err = err
			w.buf = nil
		}
		w.room.Broadcast()
	}
	w.writing = false
	err := w.err
	w.mu.Unlock()
	return err
}

// fail ends the writer: nothing is written any more.
func (w *frameWriter) fail(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
		w.buf = nil
	}
	w.room.Broadcast()
	w.mu.Unlock()
}
