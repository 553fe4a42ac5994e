package blockgate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/wire"
	"github.com/massif-fs/massif/vfs"
)

// The protocol: HTTP/1.1 or 2 below Path.
//
//	POST grants                             JSON, request and answer below
//	GET  object/<block>?ino=&chunk=         the block's object, with Range
//	PUT  object/<block>                     its object, Content-Length and X-Massif-Crc32c
//	GET  plain/<block>?ino=&chunk=&off=&len=  plain bytes, with X-Massif-Crc32c
//
// <block> is 16 hexadecimal digits. Every request carries the session's number and
// secret in headers, so that neither is in a URL. Errors are JSON with a code.
const (
	// Path is where the gate is on the metadata server's port.
	Path = "/blocks/v1/"

	sessionHeader = "X-Massif-Session"
	sumHeader     = "X-Massif-Crc32c"

	maxBatch   = 128       // blocks in a request for grants
	maxRequest = 64 << 10  // bytes of a request for grants
	maxReply   = 1 << 20   // bytes of its answer
	maxPlain   = 1 << 20   // bytes of an answer with plain bytes
	maxBlockID = 1<<63 - 1 // as the metadata engine gives out
)

// grantRequest asks for grants; they are answered in order, reads before writes.
type grantRequest struct {
	Reads  []readRequest  `json:"reads,omitempty"`
	Writes []writeRequest `json:"writes,omitempty"`
}

// readRequest asks to read a block for a chunk of a file; without an inode for
// whatever the session may read.
type readRequest struct {
	Block uint64  `json:"block"`
	Ino   vfs.Ino `json:"ino,omitempty"`
	Chunk uint32  `json:"chunk,omitempty"`
}

// writeRequest asks to write the object of a block, of exactly Size bytes.
type writeRequest struct {
	Block uint64  `json:"block"`
	Size  int64   `json:"size"`
	Sum   *uint32 `json:"crc32c,omitempty"` // of the object
}

type grantReply struct {
	Grants []grant `json:"grants"`
}

// grant is what a client may do: a signed request, or (Through) the leave to ask
// the gate; or the refusal of it (Code).
type grant struct {
	LifeMillis int64               `json:"life_ms,omitempty"` // a duration: clocks may differ
	Method     string              `json:"method,omitempty"`
	URL        string              `json:"url,omitempty"`
	Header     map[string][]string `json:"header,omitempty"`
	Through    string              `json:"through,omitempty"`
	refusal
}

// What Through says.
const (
	throughObject = "object"
	throughPlain  = "plain"
)

// refusal is an error on the wire.
type refusal struct {
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"` // for people
}

// Codes of refusals, with the error of the client and the status of an answer.
var codes = []struct {
	code   string
	err    error
	status int
}{
	{"session", ErrSession, http.StatusUnauthorized},
	{"denied", ErrDenied, http.StatusForbidden},
	{"parts", block.ErrInParts, http.StatusForbidden},
	{"missing", object.ErrNotFound, http.StatusNotFound},
	{"exists", object.ErrExists, http.StatusPreconditionFailed},
	{"range", wire.ErrRange, http.StatusRequestedRangeNotSatisfiable},
	{"invalid", object.ErrInvalid, http.StatusBadRequest},
	{"unsupported", object.ErrUnsupported, http.StatusNotImplemented},
	{"corrupt", object.ErrCorrupt, http.StatusUnprocessableEntity},
	{"damaged", block.ErrDamaged, http.StatusUnprocessableEntity},
	{"full", object.ErrNoSpace, http.StatusInsufficientStorage},
	{"access", object.ErrAccess, http.StatusBadGateway}, // the server's own credentials
	{"bucket", object.ErrNoBucket, http.StatusBadGateway},
	{"busy", errBusy, http.StatusTooManyRequests},
	{"unavailable", object.ErrUnavailable, http.StatusServiceUnavailable},
}

var errBusy = fmt.Errorf("%w: the session has too much in flight", object.ErrUnavailable)

// refuse makes a refusal of an error. What the error says beyond its kind is for
// the server's log: it may name places that are no client's business.
func refuse(err error) (refusal, int) {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			text := c.err.Error()
			var said *saying
			if errors.As(err, &said) {
				text = said.text
			}
			return refusal{c.code, text}, c.status
		}
	}
	return refusal{"unavailable", "the server failed"}, http.StatusServiceUnavailable
}

// saying is an error whose text may go to the client.
type saying struct {
	kind error
	text string
}

func (e *saying) Error() string { return e.text }
func (e *saying) Unwrap() error { return e.kind }

func say(kind error, format string, args ...any) error {
	return &saying{kind, fmt.Sprintf(format, args...)}
}

// error is the inverse of refuse, in the words of package object.
func (r refusal) error() error {
	for _, c := range codes {
		if c.code != r.Code {
			continue
		}
		kind := c.err
		switch r.Code {
		case "denied":
			kind = object.ErrAccess
		case "session":
			kind = object.ErrUnavailable // it is begun anew, or its owner says that it is over
		case "damaged":
			kind = object.ErrCorrupt
		}
		text := clean(r.Message)
		if text == "" {
			text = c.err.Error()
		}
		return &saying{kind, text}
	}
	return &saying{object.ErrUnavailable, "the block gate's answer makes no sense"}
}

// clean makes a text of others fit for a log line.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '�' {
			return -1
		}
		return r
	}, text)
	if len(text) > 200 {
		text = strings.ToValidUTF8(text[:200], "") + "…"
	}
	return text
}

// decode reads one JSON value of at most limit bytes, and nothing behind it.
func decode(r io.Reader, limit int64, v any) error {
	lr := &io.LimitedReader{R: r, N: limit + 1}
	d := json.NewDecoder(lr)
	if err := d.Decode(v); err != nil {
		if lr.N <= 0 {
			return say(object.ErrInvalid, "more than %d bytes of JSON", limit)
		}
		return say(object.ErrInvalid, "not the JSON that was expected")
	}
	if _, err := d.Token(); err != io.EOF {
		return say(object.ErrInvalid, "something follows the JSON, or it has more than %d bytes", limit)
	}
	return nil
}

func decodeGrants(r io.Reader) (*grantRequest, error) {
	q := new(grantRequest)
	if err := decode(r, maxRequest, q); err != nil {
		return nil, err
	}
	if n := len(q.Reads) + len(q.Writes); n == 0 || n > maxBatch {
		return nil, say(object.ErrInvalid, "%d blocks in a request (1 to %d)", n, maxBatch)
	}
	for _, r := range q.Reads {
		if err := checkPlace(r.Block, uint64(r.Ino)); err != nil {
			return nil, err
		}
	}
	for _, w := range q.Writes {
		if err := checkPlace(w.Block, 0); err != nil {
			return nil, err
		}
		if err := checkSize(w.Size); err != nil {
			return nil, err
		}
	}
	return q, nil
}

func checkPlace(id, ino uint64) error {
	if id == 0 || id > maxBlockID {
		return say(object.ErrInvalid, "%d is no block's number", id)
	}
	if ino > uint64(vfs.MaxIno) {
		return say(object.ErrInvalid, "%d is no inode's number", ino)
	}
	return nil
}

func checkSize(size int64) error {
	if size <= 0 || size > block.MaxObject {
		return say(object.ErrInvalid, "a block's object cannot have %d bytes", size)
	}
	return nil
}

// parseID reads the last part of a path.
func parseID(text string) (block.ID, error) {
	id, err := strconv.ParseUint(text, 16, 64)
	if err != nil || len(text) != 16 {
		return 0, say(object.ErrInvalid, "%q is no block's number", clean(text))
	}
	return block.ID(id), checkPlace(id, 0)
}

func formatID(id block.ID) string { return fmt.Sprintf("%016x", uint64(id)) }

// place is the file that a block is read for; Ino 0: not told.
type place struct {
	ino   vfs.Ino
	chunk uint32
}

func (p place) values() url.Values {
	v := url.Values{}
	if p.ino != 0 {
		v.Set("ino", strconv.FormatUint(uint64(p.ino), 10))
		v.Set("chunk", strconv.FormatUint(uint64(p.chunk), 10))
	}
	return v
}

func parsePlace(v url.Values) (place, error) {
	if v.Get("ino") == "" && v.Get("chunk") == "" {
		return place{}, nil
	}
	ino, err := parseUint(v, "ino", uint64(vfs.MaxIno))
	if err != nil {
		return place{}, err
	}
	chunk, err := parseUint(v, "chunk", math.MaxUint32)
	return place{vfs.Ino(ino), uint32(chunk)}, err
}

func parseUint(v url.Values, name string, most uint64) (uint64, error) {
	n, err := strconv.ParseUint(v.Get(name), 10, 64)
	if err != nil || n > most {
		return 0, say(object.ErrInvalid, "%s is not a number up to %d", name, most)
	}
	return n, nil
}

// parsePlain reads which plain bytes are asked for.
func parsePlain(v url.Values) (off uint32, n int, err error) {
	from, err := parseUint(v, "off", block.MaxSize)
	if err != nil {
		return 0, 0, err
	}
	length, err := parseUint(v, "len", maxPlain)
	if err != nil {
		return 0, 0, err
	}
	if length == 0 {
		return 0, 0, say(object.ErrInvalid, "no bytes are asked for")
	}
	return uint32(from), int(length), nil
}

// parseRange reads a Range header of the two forms that the client sends:
// "bytes=FROM-TO" and "bytes=FROM-" (RFC 9110, section 14.1.2). n is negative for
// the latter, and where there is none.
func parseRange(text string) (off, n int64, err error) {
	if text == "" {
		return 0, -1, nil
	}
	bad := say(object.ErrInvalid, "the range is not of the form bytes=FROM-TO")
	span, ok1 := strings.CutPrefix(text, "bytes=")
	first, last, ok2 := strings.Cut(span, "-")
	from, err := strconv.ParseUint(first, 10, 62)
	if !ok1 || !ok2 || err != nil {
		return 0, 0, bad
	}
	if last == "" {
		return int64(from), -1, nil
	}
	to, err := strconv.ParseUint(last, 10, 62)
	if err != nil || to < from {
		return 0, 0, bad
	}
	return int64(from), int64(to-from) + 1, nil
}

func formatSum(sum uint32) string { return fmt.Sprintf("%08x", sum) }

// parseSum reads a checksum; ok is false where there is none.
func parseSum(text string) (sum uint32, ok bool, err error) {
	if text == "" {
		return 0, false, nil
	}
	n, err := strconv.ParseUint(text, 16, 32)
	if err != nil || len(text) != 8 {
		return 0, false, say(object.ErrInvalid, "the checksum is not 8 hexadecimal digits")
	}
	return uint32(n), true, nil
}
