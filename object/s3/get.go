package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
)

// Head implements object.Store.
func (s *Store) Head(ctx context.Context, key string) (object.Info, error) {
	if err := s.begin(ctx, "head", key); err != nil {
		return object.Info{}, err
	}
	return s.head(ctx, "head", key)
}

func (s *Store) head(ctx context.Context, op, key string) (object.Info, error) {
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	out, err := s.client.HeadObject(w.Context(), &s3.HeadObjectInput{Bucket: &s.cfg.Bucket, Key: s.key(key)})
	if err != nil {
		return object.Info{}, s.fail(op, key, w, err)
	}
	if out.ContentLength == nil || aws.ToString(out.ETag) == "" {
		return object.Info{}, s.fail(op, key, w, s.nonsense("no Content-Length or no ETag"))
	}
	return describe(key, *out.ContentLength, out.ETag, out.LastModified, out.ContentType, out.Metadata, string(out.StorageClass)), nil
}

func describe(key string, size int64, etag *string, mod *time.Time, ctype *string, meta map[string]string, class string) object.Info {
	return object.Info{
		Key:          key,
		Size:         size,
		ETag:         strings.Trim(aws.ToString(etag), `"`),
		ModTime:      aws.ToTime(mod),
		ContentType:  aws.ToString(ctype),
		Metadata:     decodeMetadata(meta),
		StorageClass: class,
	}
}

// Headers are ASCII; other values travel as RFC 2047 words, as Amazon itself
// returns them.

func encodeMetadata(meta map[string]string) map[string]string {
	if len(meta) == 0 {
		return nil
	}
	out := make(map[string]string, len(meta))
	for k, v := range meta {
		if !plain(v) {
			v = mime.BEncoding.Encode("utf-8", v)
		}
		out[k] = v
	}
	return out
}

// plain reports whether a header can hold v as it is.
func plain(v string) bool {
	for i := range len(v) {
		if v[i] < ' ' || v[i] > '~' {
			return false
		}
	}
	return !strings.HasPrefix(v, "=?") && strings.TrimSpace(v) == v
}

func decodeMetadata(meta map[string]string) map[string]string {
	if len(meta) == 0 {
		return nil
	}
	out := make(map[string]string, len(meta))
	var words mime.WordDecoder
	for k, v := range meta {
		if strings.HasPrefix(v, "=?") {
			if d, err := words.DecodeHeader(v); err == nil {
				v = d
			}
		}
		out[strings.ToLower(k)] = v
	}
	return out
}

// Get implements object.Store.
func (s *Store) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, object.Info, error) {
	const op = "get"
	if err := s.begin(ctx, op, key); err != nil {
		return nil, object.Info{}, err
	}
	if off < 0 {
		return nil, object.Info{}, &object.Error{Op: op, Key: key, Err: invalid("negative offset")}
	}
	if n == 0 {
		info, err := s.head(ctx, op, key)
		return io.NopCloser(bytes.NewReader(nil)), info, err
	}
	body, info, err := s.get(ctx, op, key, off, n)
	if errors.Is(err, errRange) { // nothing there: describe it at least
		info, err := s.head(ctx, op, key)
		return io.NopCloser(bytes.NewReader(nil)), info, err
	}
	if err != nil {
		return nil, object.Info{}, err
	}
	return body, info, nil
}

// get asks for n > 0 bytes at off, all from there on if n is negative. Its error
// wraps errRange if the object ends before.
func (s *Store) get(ctx context.Context, op, key string, off, n int64) (*receiving, object.Info, error) {
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	in := &s3.GetObjectInput{Bucket: &s.cfg.Bucket, Key: s.key(key)}
	ranged := off > 0 || n > 0
	switch {
	case n > 0 && off+n > 0: // the sum may overflow
		in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	case ranged:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", off))
	}
	if !ranged && s.cfg.Checksum != NoChecksum {
		in.ChecksumMode = types.ChecksumModeEnabled
	}
	out, err := s.client.GetObject(w.Context(), in)
	if err != nil {
		err = s.fail(op, key, w, err)
		w.End()
		return nil, object.Info{}, err
	}
	w.Pause()
	refuse := func(what string) (*receiving, object.Info, error) {
		err := s.fail(op, key, w, s.nonsense(what))
		w.End()
		out.Body.Close()
		return nil, object.Info{}, err
	}
	if out.ContentLength == nil || aws.ToString(out.ETag) == "" {
		return refuse("no Content-Length or no ETag")
	}
	left, total := *out.ContentLength, *out.ContentLength
	if out.ContentRange != nil {
		var from, to int64
		if from, to, total, err = parseContentRange(*out.ContentRange); err != nil {
			return refuse(err.Error())
		}
		if from != off || to-from+1 != left || n > 0 && left > n || n > 0 && left < n && to != total-1 || n < 0 && to != total-1 {
			return refuse(fmt.Sprintf("Content-Range %q for %d bytes, asked for %q", *out.ContentRange, left, aws.ToString(in.Range)))
		}
	} else if ranged {
		// The whole object: right only if the range began at its beginning.
		if off > 0 {
			return refuse("the server ignores ranges")
		}
		if n > 0 && n < left {
			left = n
		}
	}
	info := describe(key, total, out.ETag, out.LastModified, out.ContentType, out.Metadata, string(out.StorageClass))
	return &receiving{s: s, w: w, key: key, body: out.Body, left: left, partial: left < *out.ContentLength}, info, nil
}

// parseContentRange parses "bytes FROM-TO/TOTAL" (RFC 9110, section 14.4).
func parseContentRange(h string) (from, to, total int64, err error) {
	bad := fmt.Errorf("Content-Range %q", h)
	rest, ok := strings.CutPrefix(h, "bytes ")
	if !ok {
		return 0, 0, 0, bad
	}
	span, size, ok1 := strings.Cut(rest, "/")
	first, last, ok2 := strings.Cut(span, "-")
	if !ok1 || !ok2 {
		return 0, 0, 0, bad
	}
	for _, f := range []struct {
		v *int64
		s string
	}{{&from, first}, {&to, last}, {&total, size}} {
		n, err := strconv.ParseUint(f.s, 10, 63)
		if err != nil {
			return 0, 0, 0, bad
		}
		*f.v = int64(n)
	}
	if from > to || to >= total {
		return 0, 0, 0, bad
	}
	return from, to, total, nil
}

// ReadRange implements object.RangeReader.
func (s *Store) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	const op = "read"
	if err := s.begin(ctx, op, key); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, &object.Error{Op: op, Key: key, Err: invalid("negative offset")}
	}
	if len(p) == 0 {
		_, err := s.head(ctx, op, key)
		return 0, err
	}
	body, _, err := s.get(ctx, op, key, off, int64(len(p)))
	if errors.Is(err, errRange) {
		return 0, &object.Error{Op: op, Key: key, Err: io.ErrUnexpectedEOF}
	}
	if err != nil {
		return 0, err
	}
	n, err := io.ReadFull(body, p)
	if cerr := body.Close(); err == nil {
		err = cerr
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF { // the object ends here, the answer was whole
		err = &object.Error{Op: op, Key: key, Err: io.ErrUnexpectedEOF}
	}
	return n, err
}

// nonsense is for an answer that cannot be right.
func (s *Store) nonsense(what string) error {
	return &storeError{object.ErrUnavailable, fmt.Sprintf("%s: the server's answer makes no sense: %s", s.where, what), errors.New(what)}
}

// cut is for a body that ended early.
func (s *Store) cut(left int64) error {
	return &storeError{object.ErrUnavailable, fmt.Sprintf("%s: the answer was cut short by %d bytes", s.where, left), io.ErrUnexpectedEOF}
}

func (s *Store) tooMuch() error { return s.nonsense("more bytes than announced") }

// readError tells a checksum of the SDK that does not fit from a connection that
// broke.
func readError(err error) error {
	if strings.Contains(err.Error(), "checksum did not match") {
		return fmt.Errorf("%w: %w", object.ErrCorrupt, err)
	}
	return err
}
