package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

// Handler carries out a command. Its result is written as JSON. ctx is done when
// the server is told to stop working (see Serve) or the client turns out to have
// gone, which is noticed when progress is written: a client may end its input and
// still wait for the answer.
type Handler func(ctx context.Context, call *Call) (any, error)

// Call is a command being carried out.
type Call struct {
	args map[string]json.RawMessage
	send func(progress any)
	conn *Conn
}

// Args are the arguments, with '-' for '_' in their names; nil if there are none.
func (c *Call) Args() map[string]json.RawMessage { return c.args }

// Decode reads the arguments into a struct with json tags; unknown and ill-typed
// arguments give an *Error of ClassSchema, to be returned as it is.
func (c *Call) Decode(into any) error {
	args := c.args
	if args == nil {
		args = map[string]json.RawMessage{}
	}
	data, err := json.Marshal(args)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return &Error{ClassSchema, err.Error()}
	}
	return nil
}

// Progress tells the client how far the command is.
func (c *Call) Progress(v any) { c.send(v) }

// Conn is the connection over which the command came.
func (c *Call) Conn() *Conn { return c.conn }

// maxConns bounds the connections of a server.
const maxConns = 4096

// Server serves a control socket.
type Server struct {
	path      string
	made      os.FileInfo // the socket's file
	listener  *net.UnixListener
	handlers  map[string]Handler
	log       *slog.Logger
	ctx       context.Context // of all calls
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	receiving receiving
	maxConns  int

	mu     sync.Mutex
	conns  map[*Conn]struct{}
	closed bool
}

// Serve listens at path, in place of a stale socket there, and serves until
// Close. Calls run under ctx. A path that a living process serves gives an error that
// wraps EADDRINUSE.
func Serve(ctx context.Context, path string, handlers map[string]Handler, log *slog.Logger) (*Server, error) {
	l, err := listenPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	made, err := os.Lstat(path)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Server{
		path: path, made: made, listener: l, handlers: handlers, log: log, ctx: ctx, cancel: cancel,
		maxConns: maxConns, conns: map[*Conn]struct{}{},
	}
	s.wg.Add(1)
	go s.accept()
	return s, nil
}

// Path returns where the socket is.
func (s *Server) Path() string { return s.path }

// Close removes the socket, lets commands that are under way finish and answer,
// and waits for them.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	for c := range s.conns {
		c.c.SetReadDeadline(time.Unix(1, 0)) // ends reading of further requests
		c.c.SetWriteDeadline(time.Now().Add(lastWords))
	}
	s.mu.Unlock()
	err := errors.Join(s.listener.Close(), removeOwn(s.path, s.made))
	s.wg.Wait()
	s.cancel()
	return err
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *Server) accept() {
	defer s.wg.Done()
	for {
		c, err := s.listener.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			s.log.Warn("control socket: accept", "err", err)
			time.Sleep(50 * time.Millisecond) // out of descriptors: do not spin
			continue
		}
		if err := checkPeer(c); err != nil {
			s.log.Warn("control socket: refused a client", "err", err)
			c.Close()
			continue
		}
		if !s.admit(c) {
			return
		}
	}
}

// admit begins to serve a connection, in place of the one that has been idle for
// longest if there are too many. It returns false when the server is closed.
func (s *Server) admit(u *net.UnixConn) bool {
	c := &Conn{server: s, c: u, wake: make(chan struct{}, 1)}
	c.idleSince.Store(time.Now().UnixNano())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		u.Close()
		return false
	}
	if len(s.conns) >= s.maxConns {
		victim := s.longestIdle()
		if victim == nil {
			s.log.Warn("control socket: too many connections, all of them in use")
			u.Close()
			return true
		}
		victim.c.Close()
		delete(s.conns, victim)
	}
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	go s.serve(c)
	return true
}

func (s *Server) longestIdle() (victim *Conn) {
	var since int64
	for c := range s.conns {
		if idle := c.idleSince.Load(); idle != 0 && !c.kept.Load() && (victim == nil || idle < since) {
			victim, since = c, idle
		}
	}
	return victim
}

// received is a frame, or why there are no more that is worth an answer.
type received struct {
	frame []byte
	err   error
}

// serve answers one connection. Reading runs beside the commands, so that a
// client that goes away cancels the command it was waiting for.
func (s *Server) serve(c *Conn) {
	defer s.wg.Done()
	ctx, cancel := context.WithCancel(s.ctx)
	frames := make(chan received)
	var helpers sync.WaitGroup
	helpers.Go(func() { s.receive(ctx, cancel, c, frames) })
	helpers.Go(func() { c.sendEvents(ctx) })
	defer func() {
		cancel()
		c.c.Close()
		helpers.Wait()
		c.end()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	for in := range frames {
		if in.err != nil {
			if err := c.write(reply{Error: &Error{ClassRequest, in.err.Error()}}); err != nil {
				s.log.Debug("control socket: answer", "err", err)
			}
			return
		}
		c.idleSince.Store(0)
		err := c.write(s.answer(ctx, cancel, in.frame, c))
		s.receiving.release(len(in.frame))
		c.idleSince.Store(time.Now().UnixNano())
		if err != nil {
			s.log.Debug("control socket: answer", "err", err)
			return
		}
	}
}

// receive reads frames until the input ends.
func (s *Server) receive(ctx context.Context, cancel context.CancelFunc, c *Conn, frames chan<- received) {
	defer close(frames)
	r := bufio.NewReader(c.c)
	for {
		frame, err := readFrame(r, &s.receiving)
		switch {
		case err == nil:
		case err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded):
			// A client may end its input (half-close) and still wait for the
			// answer; any other end means that nobody waits.
			return
		case errors.Is(err, errFrameSize) || errors.Is(err, errReceiving):
			s.log.Warn("control socket: request", "err", err)
		default:
			s.log.Debug("control socket: request", "err", err)
			cancel()
			return
		}
		select {
		case frames <- received{frame, err}:
			if err != nil {
				return
			}
		case <-ctx.Done():
			s.receiving.release(len(frame))
			return
		}
	}
}

// answer carries out one request. A client that has gone while a command tells its
// progress ends the command.
func (s *Server) answer(ctx context.Context, cancel context.CancelFunc, frame []byte, c *Conn) reply {
	req, bad := parseRequest(frame)
	out := reply{ID: req.ID}
	if bad != nil {
		out.Error = bad
		return out
	}
	handler := s.handlers[req.Cmd]
	if handler == nil {
		out.Error = &Error{ClassUnknown, "unknown command: " + req.Cmd}
		return out
	}
	call := &Call{args: req.Args, conn: c, send: func(p any) {
		if err := c.write(reply{Progress: p, ID: req.ID}); err != nil {
			s.log.Debug("control socket: progress", "err", err)
			cancel()
		}
	}}
	result, err := s.carryOut(ctx, req.Cmd, handler, call)
	if err == nil {
		out.Result, err = encodeResult(result)
	}
	if err != nil {
		out.Result = nil
		if !errors.As(err, &out.Error) {
			out.Error = &Error{ClassError, err.Error()}
		}
	}
	return out
}

// carryOut runs a handler. A panic is an error for the client who met it.
func (s *Server) carryOut(ctx context.Context, cmd string, handler Handler, call *Call) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("control socket: a command panicked", "cmd", cmd, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("command %s failed inside; the log has the details", cmd)
		}
	}()
	return handler(ctx, call)
}
