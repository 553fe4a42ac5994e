// Package control is the control socket of a mount: a Unix stream socket over
// which other programs ask a mount about itself and change it.
//
// # Protocol
//
// The framing is the one of Wildland's FUSE driver. A request is a JSON object
// {"cmd": NAME, "args": {…}, "id": ANY} that ends at an empty line or at the end
// of the input; it may span lines as long as none is empty. Requests of one
// connection are handled and answered in order; they may be sent without waiting
// for the answers. A reply is {"result": X} or {"error": {"class": C, "desc": D}},
// with the request's id where it had one, indented by two blanks and followed by
// an empty line. At the top level of args '_' in names means '-'.
//
// While a long command runs the server may send {"progress": X} messages, with
// the id, before the reply. This is our addition; clients that do not know it never
// start a command that sends them.
//
// A command can subscribe its connection to events, which come at any time as
// {"event": [{"type", "path", "watch-id", "storage-id"}, …]}, also between a request
// and its reply. Each message is one write. Subscriptions end with the connection.
//
// # Who may connect
//
// The socket is made with mode 0600, and the server asks the kernel for the peer's
// user: only the server's own user and root are served. A socket that a living process
// serves is never taken over; one that nobody listens to is replaced.
//
// # Bounds
//
// A request has 64 MiB at most; all requests that are being received by a server
// together have 256 MiB. There are 4096 connections at most: beyond, the one that has
// been idle for longest goes. A connection whose client does not read is waited for by
// its own commands only; of its events those beyond 1 MiB are dropped, and it is told
// so by an event of the type "overflow" for each watch concerned.
package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"unicode/utf8"
)

const (
	// maxFrame bounds a request, in bytes: 10,000 storages with all their paths.
	maxFrame = 64 << 20
	// maxReceiving bounds what all connections of a server have received of requests
	// that are not carried out yet.
	maxReceiving = 256 << 20
)

// Error is an error as it stands in a reply.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *Error) Error() string { return e.Desc }

// Classes of errors that clients tell apart. All but the last have the names that
// clients of the original protocol know.
const (
	ClassRequest  = "ControlRequestError" // the frame is no request
	ClassUnknown  = "AssertionError"      // no such command
	ClassSchema   = "SchemaError"         // the arguments do not fit
	ClassWildland = "WildlandError"       // a command on storages failed
	ClassKey      = "KeyError"            // a parameter of a storage is missing or unknown
	ClassType     = "TypeError"           // a value has the wrong form
	ClassValue    = "ValueError"          // a value means nothing
	ClassError    = "MassifError"         // any other command failed
)

type request struct {
	Cmd  string
	Args map[string]json.RawMessage
	ID   json.RawMessage // nil if the request had none
}

type reply struct {
	Progress any             `json:"progress,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Error    *Error          `json:"error,omitempty"`
	ID       json.RawMessage `json:"id,omitempty"`
}

var (
	errFrameSize = errors.New("a request is 64 MiB at most")
	errReceiving = errors.New("too much is being received at the same time")
	errEncoding  = errors.New("request is not UTF-8")
)

// readFrame returns the next frame, or io.EOF when the input ended without one.
// A frame is what stands before an empty line or the end of the input; empty
// lines before it are passed over. What it holds is counted in receiving, also after it has
// returned a frame: the caller takes that back.
func readFrame(r *bufio.Reader, receiving *receiving) (frame []byte, err error) {
	defer func() {
		if err != nil {
			receiving.release(len(frame))
			frame = nil
		}
	}()
	for {
		line, err := r.ReadSlice('\n')
		if len(frame)+len(line) > maxFrame {
			return frame, errFrameSize
		}
		partial := errors.Is(err, bufio.ErrBufferFull)
		if err != nil && !partial && err != io.EOF {
			return frame, err
		}
		atLineStart := len(frame) == 0 || frame[len(frame)-1] == '\n'
		if empty := atLineStart && isEmptyLine(line); empty && !partial {
			if len(bytes.TrimSpace(frame)) > 0 {
				return frame, checkEncoding(frame)
			}
			receiving.release(len(frame))
			frame = frame[:0]
		} else {
			if !receiving.take(len(line)) {
				return frame, errReceiving
			}
			frame = append(frame, line...)
		}
		if err == io.EOF {
			if len(bytes.TrimSpace(frame)) > 0 {
				return frame, checkEncoding(frame)
			}
			return frame, io.EOF
		}
	}
}

func isEmptyLine(line []byte) bool {
	return len(line) == 1 && line[0] == '\n' || len(line) == 2 && line[0] == '\r' && line[1] == '\n'
}

func checkEncoding(frame []byte) error {
	if !utf8.Valid(frame) {
		return errEncoding
	}
	return nil
}

// receiving counts the bytes of requests that are being received. A nil one is one
// without a bound.
type receiving struct{ n atomic.Int64 }

func (r *receiving) take(n int) bool {
	if r == nil {
		return true
	}
	if r.n.Add(int64(n)) > maxReceiving {
		r.n.Add(-int64(n))
		return false
	}
	return true
}

func (r *receiving) release(n int) {
	if r != nil {
		r.n.Add(-int64(n))
	}
}

// parseRequest reads a frame. The request has its ID also when an error is
// returned, if the frame had one.
func parseRequest(frame []byte) (request, *Error) {
	bad := &Error{ClassRequest, "Failed to parse request"}
	var req request
	var fields map[string]json.RawMessage
	if !json.Valid(frame) {
		return req, bad
	}
	if err := json.Unmarshal(frame, &fields); err != nil || fields == nil {
		return req, &Error{ClassRequest, ""}
	}
	req.ID = fields["id"]
	if cmd := fields["cmd"]; len(cmd) > 0 && (cmd[0] == '[' || cmd[0] == '{') {
		return req, &Error{ClassType, "the command's name is no string"}
	}
	if err := json.Unmarshal(fields["cmd"], &req.Cmd); err != nil || req.Cmd == "" {
		return req, &Error{ClassRequest, ""}
	}
	if args := fields["args"]; args != nil {
		var named map[string]json.RawMessage
		if err := json.Unmarshal(args, &named); err != nil {
			return req, bad
		}
		req.Args = make(map[string]json.RawMessage, len(named))
		for name, v := range named {
			dashed := strings.ReplaceAll(name, "_", "-")
			if _, both := named[dashed]; both && dashed != name {
				continue // the name as it is written wins
			}
			req.Args[dashed] = v
		}
	}
	return req, nil
}

// encodeMessage writes a message as the protocol wants it: ASCII, indented by two
// blanks, ended by an empty line.
func encodeMessage(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return escapeNonASCII(b.Bytes()), nil
}

// encodeResult is what a command returned as JSON, without the escapes that the
// library makes for HTML.
func encodeResult(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return b.Bytes(), err
}

// escapeNonASCII writes runes above ASCII, which in JSON stand only inside
// strings, as \u escapes.
func escapeNonASCII(p []byte) []byte {
	ascii := true
	for _, c := range p {
		if c >= utf8.RuneSelf {
			ascii = false
			break
		}
	}
	if ascii {
		return p
	}
	out := make([]byte, 0, len(p)+32)
	for len(p) > 0 {
		r, n := utf8.DecodeRune(p)
		switch {
		case r < utf8.RuneSelf:
			out = append(out, byte(r))
		case r > 0xffff:
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		p = p[n:]
	}
	return out
}
