package testserver

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Fault is what a Proxy does to a connection, from the moment it is accepted.
type Fault struct {
	// Refuse closes each connection at once.
	Refuse bool
	// CutAnswer closes the connection when the server has sent that many bytes;
	// 0: never.
	CutAnswer int64
	// CutRequest closes it when the client has sent that many; 0: never.
	CutRequest int64
	// StallAnswer stops passing the server's bytes on after that many, with the
	// connection left open; 0: never, -1: from the first.
	StallAnswer int64
	// StallRequest is the same for the client's.
	StallRequest int64
	// Flip turns over a bit in the server's byte with that number, counted from
	// 1; 0: none.
	Flip int64
	// Delay is added before each piece of the answer.
	Delay time.Duration
}

// Proxy passes TCP connections on to a server, with faults. The zero Fault passes
// everything.
type Proxy struct {
	l      net.Listener
	server string

	mu    sync.Mutex
	fault Fault
	// times is the number of connections that the fault is still for, -1: all.
	times int
	conns map[net.Conn]struct{}
	stop  chan struct{}
	done  bool
	wg    sync.WaitGroup
}

// NewProxy starts a proxy for the server at addr ("host:port"). It ends with the
// test.
func NewProxy(t testing.TB, addr string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{l: l, server: addr, times: -1, conns: make(map[net.Conn]struct{}), stop: make(chan struct{})}
	p.wg.Go(p.serve)
	t.Cleanup(p.close)
	return p
}

// Addr is where clients reach the proxy.
func (p *Proxy) Addr() string { return p.l.Addr().String() }

// Set makes f the fault of all new connections and closes those that are open.
func (p *Proxy) Set(f Fault) { p.SetTimes(f, -1) }

// SetTimes makes f the fault of the next n connections.
func (p *Proxy) SetTimes(f Fault, n int) {
	p.mu.Lock()
	p.fault, p.times = f, n
	for c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.done = true
	close(p.stop)
	p.l.Close()
	for c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Proxy) serve() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.handle(c) })
	}
}

// track remembers a connection until its end, false if the proxy has ended.
func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) untrack(c net.Conn) {
	c.Close()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

func (p *Proxy) take() Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.times == 0 {
		return Fault{}
	}
	if p.times > 0 {
		p.times--
	}
	return p.fault
}

func (p *Proxy) handle(client net.Conn) {
	if !p.track(client) {
		return
	}
	defer p.untrack(client)
	f := p.take()
	if f.Refuse {
		return
	}
	server, err := net.Dial("tcp", p.server)
	if err != nil || !p.track(server) {
		return
	}
	defer p.untrack(server)
	var both sync.WaitGroup
	both.Go(func() {
		p.pass(server, client, pipe{cut: f.CutRequest, stall: f.StallRequest})
		server.Close()
		client.Close()
	})
	both.Go(func() {
		p.pass(client, server, pipe{cut: f.CutAnswer, stall: f.StallAnswer, flip: f.Flip, delay: f.Delay})
		client.Close()
		server.Close()
	})
	both.Wait()
}

// pipe is what happens to the bytes of one direction.
type pipe struct {
	cut, stall, flip int64
	delay            time.Duration
}

func (p *Proxy) pass(dst io.Writer, src io.Reader, f pipe) {
	buf := make([]byte, 32<<10)
	var done int64
	for {
		n, err := src.Read(buf)
		b := buf[:n]
		if f.delay > 0 {
			select {
			case <-time.After(f.delay):
			case <-p.stop:
				return
			}
		}
		if i := f.flip - 1 - done; f.flip > 0 && i >= 0 && i < int64(n) {
			b[i] ^= 0x10
		}
		cut, stall := false, false
		if f.cut > 0 && done+int64(n) >= f.cut {
			b, cut = b[:f.cut-done], true
		}
		if f.stall > 0 && done+int64(len(b)) >= f.stall {
			b, stall = b[:f.stall-done], true
		} else if f.stall < 0 {
			b, stall = nil, true
		}
		if _, werr := dst.Write(b); werr != nil {
			return
		}
		done += int64(len(b))
		if stall {
			// Take in what comes, pass nothing on, until somebody gives up.
			_, _ = io.Copy(io.Discard, src)
			return
		}
		if cut || err != nil {
			return
		}
	}
}
