package gcs

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
	"github.com/massif-fs/massif/object/wire"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Put implements object.Store.
func (s *Store) Put(ctx context.Context, key string, body io.Reader, size int64, opts *object.PutOptions) (object.Info, error) {
	const op = "put"
	if err := s.begin(ctx, op, key); err != nil {
		return object.Info{}, err
	}
	if opts == nil {
		opts = &object.PutOptions{}
	}
	err := opts.Validate()
	if err == nil && opts.IfMatch != "" {
		_, err = generation(opts.IfMatch)
		if err != nil { // no content ever had that ETag
			err = object.ErrPrecondition
		}
	}
	if err != nil {
		return object.Info{}, &object.Error{Op: op, Key: key, Err: err}
	}
	if m, ok := body.(object.MemoryBody); ok && size <= 2*s.cfg.PartSize && int64(m.Len()) <= 2*s.cfg.PartSize {
		return s.putMemory(ctx, key, m, size, opts)
	}
	return s.putStream(ctx, key, object.Sized(body, size), size, opts)
}

// generation is the number of an ETag.
func generation(etag string) (uint64, error) {
	n, err := strconv.ParseUint(etag, 10, 63)
	if err != nil || n == 0 {
		return 0, invalid("%q is no ETag of this store", etag)
	}
	return n, nil
}

// wanted is the resource of a new object.
func (s *Store) wanted(key string, opts *object.PutOptions) resource {
	r := resource{Name: s.cfg.Prefix + key, ContentType: opts.ContentType, StorageClass: s.storageClass(opts)}
	if len(opts.Metadata) > 0 {
		r.Metadata = opts.Metadata // JSON holds every string
	}
	return r
}

func (s *Store) storageClass(opts *object.PutOptions) string {
	if opts.StorageClass != "" {
		return opts.StorageClass
	}
	return s.cfg.StorageClass
}

// uploadQuery has the conditions of opts.
func (s *Store) uploadQuery(kind string, opts *object.PutOptions) url.Values {
	q := s.conditions(opts)
	q.Set("uploadType", kind)
	if s.cfg.KMSKey != "" {
		q.Set("kmsKeyName", s.cfg.KMSKey)
	}
	return q
}

func (s *Store) conditions(opts *object.PutOptions) url.Values {
	q := make(url.Values)
	switch {
	case opts.IfAbsent:
		q.Set("ifGenerationMatch", "0")
	case opts.IfMatch != "":
		q.Set("ifGenerationMatch", opts.IfMatch)
	}
	return q
}

func (s *Store) uploadURL() string {
	return s.cfg.Endpoint + "/upload/storage/v1/b/" + url.PathEscape(s.cfg.Bucket) + "/o"
}

// putMemory puts the object in one request: a document of two parts, the resource
// and the bytes.
func (s *Store) putMemory(ctx context.Context, key string, m object.MemoryBody, size int64, opts *object.PutOptions) (object.Info, error) {
	const op = "put"
	p, err := wire.NewPayload(m, size, crc32.New(castagnoli))
	if err != nil {
		return object.Info{}, &object.Error{Op: op, Key: key, Err: err}
	}
	r := s.wanted(key, opts)
	r.CRC32C = base64.StdEncoding.EncodeToString(p.Sum) // of the big-endian value
	meta, err := json.Marshal(r)
	if err != nil {
		return object.Info{}, &object.Error{Op: op, Key: key, Err: err}
	}
	ctype := r.ContentType
	if ctype == "" {
		ctype = "application/octet-stream"
	}
	if strings.ContainsAny(ctype, "\r\n") {
		return object.Info{}, &object.Error{Op: op, Key: key, Err: invalid("the content type has a line break")}
	}
	boundary := "massif" + rand.Text()
	head := fmt.Sprintf("--%s\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n%s\r\n--%s\r\nContent-Type: %s\r\n\r\n", boundary, meta, boundary, ctype)
	tail := "\r\n--" + boundary + "--\r\n"
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	body := p.Body(w)
	defer body.Stop()
	resp, err := s.do(w, request{
		method: http.MethodPost, url: s.uploadURL(), query: s.uploadQuery("multipart", opts),
		header: http.Header{"Content-Type": {"multipart/related; boundary=" + boundary}},
		body:   io.MultiReader(strings.NewReader(head), body, strings.NewReader(tail)),
		size:   int64(len(head)) + p.Size + int64(len(tail)),
	})
	var got resource
	if err == nil {
		err = s.decode(resp, &got)
	}
	if err == nil {
		err = s.sameAs(got, p.Size, r.CRC32C)
	}
	if err != nil {
		return object.Info{}, conditionError(s.bucketMissing(s.fail(op, key, w, err)), opts)
	}
	return s.describe(key, got)
}

// sameAs finds that what was stored is what was sent.
func (s *Store) sameAs(got resource, size int64, sum string) error {
	switch {
	case got.Generation == 0:
		return wire.Nonsense(s.where, "no generation")
	case int64(got.Size) != size:
		return wire.Nonsense(s.where, fmt.Sprintf("%d bytes were stored of %d", got.Size, size))
	case got.CRC32C != "" && got.CRC32C != sum:
		return &wire.Failure{Kind: object.ErrUnavailable, Text: s.where + ": the data was damaged on its way to the server", Cause: errors.New("crc32c")}
	}
	return nil
}

// bucketMissing: what is not found of a put can only be the bucket.
func (s *Store) bucketMissing(err error) error {
	var oe *object.Error
	var known *wire.Failure
	if errors.As(err, &oe) && errors.As(err, &known) && known.Kind == object.ErrNotFound {
		oe.Err = meanings["NoSuchBucket"].Failure(s.where, known.Cause.Error(), "", known.Cause)
	}
	return err
}

func (s *Store) describe(key string, r resource) (object.Info, error) {
	mod, err := time.Parse(time.RFC3339Nano, r.Updated)
	if err != nil || r.Generation == 0 {
		return object.Info{}, &object.Error{Op: "describe", Key: key, Err: wire.Nonsense(s.where, "no time or no generation")}
	}
	info := object.Info{Key: key, Size: int64(r.Size), ETag: strconv.FormatUint(r.Generation, 10), ModTime: mod, ContentType: r.ContentType, StorageClass: r.StorageClass}
	if len(r.Metadata) > 0 {
		info.Metadata = make(map[string]string, len(r.Metadata))
		for k, v := range r.Metadata {
			info.Metadata[strings.ToLower(k)] = v
		}
	}
	return info, nil
}

// conditionHolds asks before the body of a long upload is sent; the service
// decides when it is complete.
func (s *Store) conditionHolds(ctx context.Context, op, key string, opts *object.PutOptions) error {
	return wire.ConditionHolds(op, key, opts, func() (object.Info, error) { return s.head(ctx, op, key) })
}

// putStream puts what body gives, in one request if it fits into a part.
func (s *Store) putStream(ctx context.Context, key string, body io.Reader, size int64, opts *object.PutOptions) (object.Info, error) {
	const op = "put"
	part, whole, err := s.buffers.First(ctx, body, size, s.cfg.PartSize)
	if err != nil {
		return object.Info{}, &object.Error{Op: op, Key: key, Err: err}
	}
	defer part.Free()
	if whole {
		return s.putMemory(ctx, key, bytes.NewReader(part.P), -1, opts)
	}
	if err := s.conditionHolds(ctx, op, key, opts); err != nil {
		return object.Info{}, err
	}
	u := &resumable{s: s, key: key, opts: opts, sum: crc32.New(castagnoli)}
	if err := u.start(ctx); err != nil {
		return object.Info{}, err
	}
	got, err := u.send(ctx, part, body)
	if err != nil {
		u.cancel(ctx)
		var oe *object.Error
		if errors.As(err, &oe) {
			err = oe.Err
		}
		return object.Info{}, conditionError(&object.Error{Op: op, Key: key, Err: err}, opts)
	}
	return s.describe(key, got)
}

// resumable is an upload in parts, one after the other.
type resumable struct {
	s       *Store
	key     string
	opts    *object.PutOptions
	session string // its URL: a secret
	sent    int64
	sum     hash.Hash
}

func (u *resumable) start(ctx context.Context) error {
	const op = "put"
	s := u.s
	meta, err := json.Marshal(s.wanted(u.key, u.opts))
	if err != nil {
		return &object.Error{Op: op, Key: u.key, Err: err}
	}
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	resp, err := s.do(w, request{
		method: http.MethodPost, url: s.uploadURL(), query: s.uploadQuery("resumable", u.opts),
		header: http.Header{"Content-Type": {"application/json; charset=UTF-8"}}, body: bytes.NewReader(meta), size: int64(len(meta)),
	})
	if err == nil {
		err = s.decode(resp, nil)
	}
	if err == nil {
		u.session = resp.Header.Get("Location")
		if wire.CheckEndpoint(wire.RedactURL(u.session)) != nil {
			err = wire.Nonsense(s.where, "no session of the upload")
		}
	}
	return conditionError(s.bucketMissing(s.fail(op, u.key, w, err)), u.opts)
}

// send sends the first part and the rest of the body. The last part is known by
// the end of the body, so that one byte is read ahead of each.
func (u *resumable) send(ctx context.Context, part *wire.Buffer, body io.Reader) (resource, error) {
	var ahead [1]byte
	for {
		n, err := io.ReadFull(body, ahead[:])
		last := n == 0 && err == io.EOF
		if !last && err != nil {
			return resource{}, err
		}
		if u.sent+int64(len(part.P)) > maxObject {
			return resource{}, invalid("the object is larger than 5 TiB")
		}
		got, err := u.part(ctx, part.P, last)
		if err != nil || last {
			return got, err
		}
		part.P = part.P[:u.s.cfg.PartSize]
		part.P[0] = ahead[0]
		rest := &wire.Buffer{P: part.P[1:]}
		if _, err := rest.Fill(ctx, body); err != nil {
			return resource{}, err
		}
		part.P = part.P[:1+len(rest.P)]
	}
}

// part sends one part, and again from where the service stopped taking it.
func (u *resumable) part(ctx context.Context, p []byte, last bool) (resource, error) {
	s := u.s
	_, _ = u.sum.Write(p) // a hash never fails
	end := u.sent + int64(len(p))
	for {
		rest := p[int64(len(p))-(end-u.sent):]
		h := http.Header{"Content-Range": {fmt.Sprintf("bytes %d-%d/*", u.sent, end-1)}}
		sum := base64.StdEncoding.EncodeToString(u.sum.Sum(nil))
		if last {
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", u.sent, end-1, end))
			if len(rest) == 0 {
				h.Set("Content-Range", fmt.Sprintf("bytes */%d", end))
			}
			h.Set("X-Goog-Hash", "crc32c="+sum)
		}
		taken, got, done, err := u.once(ctx, h, rest)
		switch {
		case err != nil:
			return resource{}, err
		case done && !last:
			return resource{}, wire.Nonsense(s.where, "the upload was taken for complete")
		case done:
			return got, s.sameAs(got, end, sum)
		case taken <= u.sent && len(rest) > 0 || taken > end:
			return resource{}, wire.Nonsense(s.where, "the server takes nothing of a part")
		}
		u.sent = taken
		if taken == end && !last {
			return resource{}, nil
		}
		if taken == end && len(rest) == 0 {
			return resource{}, wire.Nonsense(s.where, "the upload does not end")
		}
	}
}

// once sends bytes. It returns how many of the object the service has, or the
// object if that is done.
func (u *resumable) once(ctx context.Context, h http.Header, p []byte) (taken int64, got resource, done bool, err error) {
	s := u.s
	payload, err := wire.NewPayload(bytes.NewReader(p), -1, nil)
	if err != nil {
		return 0, resource{}, false, err
	}
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	body := payload.Body(w)
	defer body.Stop()
	resp, err := s.do(w, request{method: http.MethodPut, url: u.session, header: h, body: body, size: payload.Size})
	if err != nil {
		return 0, resource{}, false, s.fail("put", u.key, w, err)
	}
	if resp.StatusCode != statusResume {
		err := s.decode(resp, &got)
		return 0, got, true, s.fail("put", u.key, w, err)
	}
	if err := s.decode(resp, nil); err != nil {
		return 0, resource{}, false, s.fail("put", u.key, w, err)
	}
	rng := resp.Header.Get("Range") // "bytes=0-N", absent if there is nothing
	if rng == "" {
		return 0, resource{}, false, nil
	}
	end, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimPrefix(rng, "bytes="), "0-"), 10, 62)
	if err != nil {
		return 0, resource{}, false, s.fail("put", u.key, w, wire.Nonsense(s.where, "Range of an upload"))
	}
	return int64(end) + 1, resource{}, false, nil
}

// cancelTimeout bounds the cancelling of an upload that failed.
const cancelTimeout = 30 * time.Second

// cancel drops the upload, also when the caller's context has ended. The service
// drops what cannot be cancelled after a week.
func (u *resumable) cancel(ctx context.Context) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	defer stop()
	w := watchdog.Watch(ctx, u.s.cfg.StallTimeout)
	defer w.End()
	if resp, err := u.s.do(w, request{method: http.MethodDelete, url: u.session}); err == nil {
		resp.Body.Close()
	}
}
