package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
	"github.com/massif-fs/massif/object/wire"
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

func encodeMetadata(meta map[string]string) map[string]string {
	if len(meta) == 0 {
		return nil
	}
	out := make(map[string]string, len(meta))
	for k, v := range meta {
		out[k] = wire.EncodeValue(v)
	}
	return out
}

func decodeMetadata(meta map[string]string) map[string]string {
	if len(meta) == 0 {
		return nil
	}
	out := make(map[string]string, len(meta))
	for k, v := range meta {
		out[strings.ToLower(k)] = wire.DecodeValue(v)
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
	if errors.Is(err, wire.ErrRange) { // nothing there: describe it at least
		info, err := s.head(ctx, op, key)
		return io.NopCloser(bytes.NewReader(nil)), info, err
	}
	if err != nil {
		return nil, object.Info{}, err
	}
	return body, info, nil
}

// get asks for n > 0 bytes at off, all from there on if n is negative. Its error
// wraps wire.ErrRange if the object ends before.
func (s *Store) get(ctx context.Context, op, key string, off, n int64) (*wire.Receiving, object.Info, error) {
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	in := &s3.GetObjectInput{Bucket: &s.cfg.Bucket, Key: s.key(key)}
	asked := wire.Asked{Off: off, N: n}
	if asked.Ranged() {
		in.Range = aws.String(asked.Header())
	}
	if !asked.Ranged() && s.cfg.Checksum != NoChecksum {
		in.ChecksumMode = types.ChecksumModeEnabled
	}
	out, err := s.client.GetObject(w.Context(), in)
	if err != nil {
		err = s.fail(op, key, w, err)
		w.End()
		return nil, object.Info{}, err
	}
	w.Pause()
	refuse := func(what string) (*wire.Receiving, object.Info, error) {
		err := s.fail(op, key, w, s.nonsense(what))
		w.End()
		out.Body.Close()
		return nil, object.Info{}, err
	}
	if out.ContentLength == nil || aws.ToString(out.ETag) == "" {
		return refuse("no Content-Length or no ETag")
	}
	left, total, nonsense := asked.Accept(*out.ContentLength, aws.ToString(out.ContentRange))
	if nonsense != "" {
		return refuse(nonsense)
	}
	info := describe(key, total, out.ETag, out.LastModified, out.ContentType, out.Metadata, string(out.StorageClass))
	return &wire.Receiving{
		Watch: w, Body: out.Body, Left: left, Partial: left < *out.ContentLength, Where: s.where,
		Fail: func(err error) error { return s.fail("get", key, w, readError(err)) },
	}, info, nil
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
	if errors.Is(err, wire.ErrRange) {
		return 0, &object.Error{Op: op, Key: key, Err: io.ErrUnexpectedEOF}
	}
	if err != nil {
		return 0, err
	}
	return body.ReadInto(p, op, key)
}

// nonsense is for an answer that cannot be right.
func (s *Store) nonsense(what string) error { return wire.Nonsense(s.where, what) }

// readError tells a checksum of the SDK that does not fit from a connection that
// broke.
func readError(err error) error {
	if strings.Contains(err.Error(), "checksum did not match") {
		return fmt.Errorf("%w: %w", object.ErrCorrupt, err)
	}
	return err
}
