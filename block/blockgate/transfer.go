package blockgate

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/wire"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const copyBuffer = 64 << 10

var buffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}
var plainBuffers = sync.Pool{New: func() any { return new([maxPlain]byte) }}

// serveGet sends a block's object, or a range of it.
func (g *Gate) serveGet(q *request) error {
	ctx := q.r.Context()
	id, err := parseID(q.r.PathValue("block"))
	if err != nil {
		return err
	}
	at, err := parsePlace(q.r.URL.Query())
	if err != nil {
		return err
	}
	off, n, err := parseRange(q.r.Header.Get("Range"))
	if err != nil {
		return err
	}
	may, err := g.mayRead(ctx, q.s, id, at)
	if err != nil {
		return err
	}
	if !may.all && !q.v.Sealed {
		return block.ErrInParts
	}
	size := n
	if size < 0 {
		size = block.MaxObject
	}
	leave, err := g.enter(q, size)
	if err != nil {
		return err
	}
	defer leave()
	g.stats.objectGets.Add(1)

	body, info, err := q.v.Objects.Get(ctx, q.v.Blocks.Key(id), off, n)
	if err != nil {
		return err
	}
	defer body.Close()
	if info.Size > 0 && off >= info.Size {
		q.w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", info.Size))
		return wire.ErrRange
	}
	length := info.Size - off
	if n >= 0 {
		length = min(length, n)
	}
	var allowed []block.Span
	if !may.all {
		if allowed, _, err = q.v.Blocks.Spans(ctx, may.ref, may.ranges); err != nil {
			return err
		}
	}
	h := q.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.FormatInt(length, 10))
	h.Set("ETag", `"`+info.ETag+`"`)
	if !info.ModTime.IsZero() {
		h.Set("Last-Modified", info.ModTime.UTC().Format(http.TimeFormat))
	}
	status := http.StatusOK
	if q.r.Header.Get("Range") != "" && info.Size > 0 {
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, off+length-1, info.Size))
	}
	q.begun = true
	q.w.WriteHeader(status)
	return g.send(q, body, off, length, may.all, allowed)
}

// send copies an object's bytes from off on to the client; those outside of the
// allowed spans as zeros, unless all are.
func (g *Gate) send(q *request, body io.Reader, off, length int64, all bool, allowed []block.Span) error {
	buf := buffers.Get().(*[copyBuffer]byte)
	defer buffers.Put(buf)
	for length > 0 {
		if err := q.alive(); err != nil {
			return err
		}
		n, err := body.Read(buf[:min(length, copyBuffer)])
		if n > 0 {
			if !all {
				redact(buf[:n], off, allowed)
			}
			_ = q.control.SetWriteDeadline(time.Now().Add(g.cfg.StallTimeout))
			if _, werr := q.w.Write(buf[:n]); werr != nil {
				return werr
			}
			g.stats.sentBytes.Add(int64(n))
			off, length = off+int64(n), length-int64(n)
		}
		if err == io.EOF && length > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}

// redact clears the bytes of p, which lie at off in the object, that are in no
// span. Frames that were cleared do not fit their checksums, so a reader never
// takes them for data.
func redact(p []byte, off int64, allowed []block.Span) {
	end := off + int64(len(p))
	at := off
	for _, s := range allowed {
		if s.Off >= end {
			break
		}
		if s.Off > at {
			clear(p[at-off : s.Off-off])
		}
		at = max(at, min(s.Off+s.Len, end))
	}
	clear(p[at-off:])
}

// alive returns an error if the request or its session has ended.
func (q *request) alive() error {
	select {
	case <-q.s.Done():
		return ErrSession
	case <-q.r.Context().Done():
		return q.r.Context().Err()
	default:
		return nil
	}
}

func (g *Gate) enter(q *request, n int64) (leave func(), err error) {
	leave, err = g.limits.enter(q.r.Context(), q.s, n)
	if errors.Is(err, errBusy) {
		g.stats.busy.Add(1)
	}
	return leave, err
}

// servePlain sends plain bytes of a block of which the session may see only parts.
func (g *Gate) servePlain(q *request) error {
	ctx := q.r.Context()
	id, err := parseID(q.r.PathValue("block"))
	if err != nil {
		return err
	}
	query := q.r.URL.Query()
	at, err := parsePlace(query)
	if err != nil {
		return err
	}
	off, n, err := parsePlain(query)
	if err != nil {
		return err
	}
	if at.ino == 0 {
		return object.ErrNotFound // see Refer
	}
	if q.v.Sealed {
		return say(object.ErrUnsupported, "the server cannot open blocks of an encrypted volume")
	}
	// Also a session that sees everything gets only what its file has here: the
	// block's size is in the metadata alone.
	size, ranges, err := q.s.Uses(ctx, at.ino, at.chunk, id)
	if err != nil {
		return missing(err)
	}
	if !within(ranges, off, n) || uint64(off)+uint64(n) > uint64(size) {
		return object.ErrNotFound
	}
	leave, err := g.enter(q, int64(n))
	if err != nil {
		return err
	}
	defer leave()
	g.stats.plainGets.Add(1)
	buf := plainBuffers.Get().(*[maxPlain]byte)
	defer plainBuffers.Put(buf)
	p := buf[:n]
	if err := q.v.Blocks.ReadAt(ctx, block.Ref{ID: id, Size: size}, p, off); err != nil {
		if errors.Is(err, block.ErrMissing) {
			return object.ErrNotFound
		}
		return err
	}
	if err := q.alive(); err != nil {
		return err
	}
	h := q.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.Itoa(n))
	h.Set(sumHeader, formatSum(crc32.Checksum(p, castagnoli)))
	q.begun = true
	_ = q.control.SetWriteDeadline(time.Now().Add(g.cfg.StallTimeout))
	if _, err := q.w.Write(p); err != nil {
		return err
	}
	g.stats.sentBytes.Add(int64(n))
	return nil
}

// within tells whether the n bytes at off lie in the ranges together.
func within(ranges []block.Range, off uint32, n int) bool {
	var inside []block.Range
	end := uint64(off) + uint64(n)
	for _, r := range ranges {
		from, to := max(uint64(r.Off), uint64(off)), min(uint64(r.Off)+uint64(r.Len), end)
		if from < to {
			inside = append(inside, block.Range{Off: uint32(from) - off, Len: uint32(to - from)})
		}
	}
	return covers(inside, uint32(n))
}

// servePut takes a block's object. It never replaces one: the store promises that,
// or the gate asks first, with one writer of a block at a time.
func (g *Gate) servePut(q *request) error {
	ctx := q.r.Context()
	id, err := parseID(q.r.PathValue("block"))
	if err != nil {
		return err
	}
	if err := checkSize(q.r.ContentLength); err != nil {
		return err
	}
	sum, summed, err := parseSum(q.r.Header.Get(sumHeader))
	if err != nil {
		return err
	}
	if err := q.s.MayWrite(ctx, id); err != nil {
		return err
	}
	leave, err := g.enter(q, q.r.ContentLength)
	if err != nil {
		return err
	}
	defer leave()
	done, err := g.beginWrite(writeKey{q.v, id})
	if err != nil {
		return err
	}
	defer done()
	key := q.v.Blocks.Key(id)
	opts := &object.PutOptions{IfAbsent: q.v.Objects.Capabilities().PutIfAbsent}
	if !opts.IfAbsent {
		switch _, err := q.v.Objects.Head(ctx, key); {
		case err == nil:
			return object.ErrExists
		case !errors.Is(err, object.ErrNotFound):
			return err
		}
	}
	g.stats.puts.Add(1)
	body := &receivedBody{g: g, q: q, left: q.r.ContentLength, summed: summed, want: sum}
	info, err := q.v.Objects.Put(ctx, key, body, q.r.ContentLength, opts)
	if err != nil {
		return err
	}
	q.w.Header().Set("ETag", `"`+info.ETag+`"`)
	q.begun = true
	q.w.WriteHeader(http.StatusCreated)
	return nil
}

// beginWrite makes sure that a block has one writer.
func (g *Gate) beginWrite(k writeKey) (done func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, busy := g.writing[k]; busy {
		return nil, say(object.ErrUnavailable, "the block is being written by another request")
	}
	g.writing[k] = struct{}{}
	return func() {
		g.mu.Lock()
		delete(g.writing, k)
		g.mu.Unlock()
	}, nil
}

// receivedBody is the body of a PUT: it ends with an error if the session ends, if
// the client stands still, and if the bytes do not fit their checksum.
type receivedBody struct {
	g      *Gate
	q      *request
	left   int64
	summed bool
	sum    uint32
	want   uint32
}

func (b *receivedBody) Read(p []byte) (int, error) {
	if err := b.q.alive(); err != nil {
		return 0, err
	}
	_ = b.q.control.SetReadDeadline(time.Now().Add(b.g.cfg.StallTimeout))
	n, err := b.q.r.Body.Read(p[:min(len(p), copyBuffer)])
	b.g.stats.receivedBytes.Add(int64(n))
	b.sum = crc32.Update(b.sum, castagnoli, p[:n])
	b.left -= int64(n)
	switch {
	case err == io.EOF && b.left > 0:
		err = io.ErrUnexpectedEOF
	case b.left == 0 && b.summed && b.sum != b.want:
		err = say(object.ErrCorrupt, "the block was damaged on its way to the server")
	}
	return n, err
}
