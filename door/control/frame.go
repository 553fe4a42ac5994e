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
// # Who may connect
//
// The socket has mode 0600, and the server asks the kernel for the peer's user:
// only the server's own user and root are served.
package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// maxFrame bounds a request, in bytes.
const maxFrame = 4 << 20

// Error is an error as it stands in a reply.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *Error) Error() string { return e.Desc }

// Classes of errors that clients tell apart. The first three have the names that
// clients of the original protocol match.
const (
	ClassRequest = "ControlRequestError" // the frame is no request
	ClassUnknown = "AssertionError"      // no such command
	ClassSchema  = "SchemaError"         // the arguments do not fit
	ClassError   = "MassifError"         // the command failed
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
	errFrameSize = errors.New("request is too large")
	errEncoding  = errors.New("request is not UTF-8")
)

// readFrame returns the next frame, or io.EOF when the input ended without one.
// A frame is what stands before an empty line or the end of the input; empty
// lines before it are passed over.
func readFrame(r *bufio.Reader) ([]byte, error) {
	var frame []byte
	for {
		line, err := r.ReadSlice('\n')
		if len(frame)+len(line) > maxFrame {
			return nil, errFrameSize
		}
		partial := errors.Is(err, bufio.ErrBufferFull)
		if err != nil && !partial && err != io.EOF {
			return nil, err
		}
		atLineStart := len(frame) == 0 || frame[len(frame)-1] == '\n'
		if empty := atLineStart && isEmptyLine(line); empty && !partial {
			if len(bytes.TrimSpace(frame)) > 0 {
				return checked(frame)
			}
			frame = frame[:0]
		} else {
			frame = append(frame, line...)
		}
		if err == io.EOF {
			if len(bytes.TrimSpace(frame)) > 0 {
				return checked(frame)
			}
			return nil, io.EOF
		}
	}
}

func isEmptyLine(line []byte) bool {
	return len(line) == 1 && line[0] == '\n' || len(line) == 2 && line[0] == '\r' && line[1] == '\n'
}

func checked(frame []byte) ([]byte, error) {
	if !utf8.Valid(frame) {
		return nil, errEncoding
	}
	return frame, nil
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
			req.Args[strings.ReplaceAll(name, "_", "-")] = v
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
