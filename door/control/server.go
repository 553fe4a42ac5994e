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
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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
}

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

// Server serves a control socket.
type Server struct {
	path     string
	listener *net.UnixListener
	handlers map[string]Handler
	log      *slog.Logger
	ctx      context.Context // of all calls
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	mu     sync.Mutex
	conns  map[*net.UnixConn]struct{}
	closed bool
}

// Serve listens at path, in place of a stale socket there, and serves until
// Close. Calls run under ctx.
func Serve(ctx context.Context, path string, handlers map[string]Handler, log *slog.Logger) (*Server, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := listenPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Server{path: path, listener: l, handlers: handlers, log: log, ctx: ctx, cancel: cancel, conns: map[*net.UnixConn]struct{}{}}
	s.wg.Add(1)
	go s.accept()
	return s, nil
}

// listenPrivate makes a socket that at no moment is open to others: it is bound
// under a name that nobody knows and renamed when its mode is right.
func listenPrivate(path string) (*net.UnixListener, error) {
	temp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(temp, 0o600); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		l.Close()
		os.Remove(temp)
		return nil, err
	}
	return l, nil
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
		c.SetReadDeadline(time.Unix(1, 0)) // ends reading of further requests
	}
	s.mu.Unlock()
	err := s.listener.Close()
	if rerr := os.Remove(s.path); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	s.wg.Wait()
	s.cancel()
	return err
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
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			c.Close()
			return
		}
		s.conns[c] = struct{}{}
		s.wg.Add(1)
		s.mu.Unlock()
		go s.serve(c)
	}
}

// checkPeer refuses users other than our own and root.
func checkPeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, cerr); err != nil {
		return err
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d: %w", cred.Uid, syscall.EPERM)
	}
	return nil
}

// serve answers one connection. Reading runs beside the commands, so that a
// client that goes away cancels the command it was waiting for.
func (s *Server) serve(c *net.UnixConn) {
	defer s.wg.Done()
	defer func() {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		c.Close()
	}()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()

	frames := make(chan []byte)
	readerDone := make(chan struct{})
	go func() {
		defer close(readerDone)
		defer close(frames)
		r := bufio.NewReader(c)
		for {
			frame, err := readFrame(r)
			if err != nil {
				// A client may end its input (half-close) and still wait for the
				// answer; any other end means that nobody waits.
				if err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) {
					s.log.Debug("control socket: request", "err", err)
					cancel()
				}
				return
			}
			select {
			case frames <- frame:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() { cancel(); c.Close(); <-readerDone }()

	var writeMu sync.Mutex
	write := func(v any) error {
		data, err := encodeMessage(v)
		if err != nil {
			return err
		}
		writeMu.Lock()
		defer writeMu.Unlock()
		c.SetWriteDeadline(time.Now().Add(30 * time.Second))
		_, err = c.Write(data)
		return err
	}
	for frame := range frames {
		if err := write(s.answer(ctx, cancel, frame, write)); err != nil {
			s.log.Debug("control socket: answer", "err", err)
			return
		}
	}
}

// answer carries out one request. A client that has gone while a command tells its
// progress ends the command.
func (s *Server) answer(ctx context.Context, cancel context.CancelFunc, frame []byte, write func(any) error) reply {
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
	call := &Call{args: req.Args, send: func(p any) {
		if err := write(reply{Progress: p, ID: req.ID}); err != nil {
			s.log.Debug("control socket: progress", "err", err)
			cancel()
		}
	}}
	result, err := handler(ctx, call)
	if err == nil {
		out.Result, err = json.Marshal(result)
	}
	if err != nil {
		if !errors.As(err, &out.Error) {
			out.Error = &Error{ClassError, err.Error()}
		}
	}
	return out
}
