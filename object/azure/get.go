package azure

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
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
	c, err := s.blob(key)
	if err != nil {
		return object.Info{}, &object.Error{Op: op, Key: key, Err: err}
	}
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	out, err := c.GetProperties(w.Context(), &blob.GetPropertiesOptions{CPKInfo: s.cpk})
	switch {
	case err != nil:
	case out.ContentLength == nil || etag(out.ETag) == "":
		err = s.nonsense("no Content-Length or no ETag")
	case s.cfg.Hierarchical && isFolder(out.Metadata):
		return object.Info{}, &object.Error{Op: op, Key: key, Err: object.ErrNotFound}
	case out.CopyStatus != nil && *out.CopyStatus != blob.CopyStatusTypeSuccess:
		err = s.halfCopied(*out.CopyStatus)
	}
	if err != nil {
		return object.Info{}, s.fail(op, key, w, err)
	}
	return describe(key, *out.ContentLength, out.ETag, out.LastModified, out.ContentType, out.Metadata, out.AccessTier), nil
}

// halfCopied is the error of an object that a copy under way, or one that failed,
// has left.
func (s *Store) halfCopied(status blob.CopyStatusType) error {
	if status == blob.CopyStatusTypePending {
		return &wire.Failure{Kind: object.ErrUnavailable, Text: s.where + ": the object is still being copied by the service", Cause: errors.New("pending")}
	}
	return &wire.Failure{Kind: object.ErrNotFound, Text: s.where + ": " + object.ErrNotFound.Error() + ": the service did not finish copying it", Cause: errors.New(string(status))}
}

// isFolder reports whether a blob of a hierarchical account is a directory.
func isFolder(meta map[string]*string) bool {
	for k, v := range meta {
		if len(k) == len(folderMark) && decodeName(k) == folderMark && v != nil && *v == "true" {
			return true
		}
	}
	return false
}

// folderMark is the metadata by which the Blob protocol says that something is a
// directory.
const folderMark = "hdi_isfolder"

func describe(key string, size int64, tag *azcore.ETag, mod *time.Time, ctype *string, meta map[string]*string, tier *string) object.Info {
	info := object.Info{Key: key, Size: size, ETag: etag(tag), Metadata: decodeMetadata(meta)}
	if mod != nil {
		info.ModTime = *mod
	}
	if ctype != nil {
		info.ContentType = *ctype
	}
	if tier != nil {
		info.StorageClass = *tier
	}
	return info
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
	body, info, err := s.get(ctx, op, key, wire.Asked{Off: off, N: n})
	if errors.Is(err, wire.ErrRange) { // nothing there: describe it at least
		info, err := s.head(ctx, op, key)
		return io.NopCloser(bytes.NewReader(nil)), info, err
	}
	if err != nil {
		return nil, object.Info{}, err
	}
	return body, info, nil
}

// get asks for a range that is not empty. Its error wraps wire.ErrRange if the object
// ends before.
func (s *Store) get(ctx context.Context, op, key string, asked wire.Asked) (*wire.Receiving, object.Info, error) {
	c, err := s.blob(key)
	if err != nil {
		return nil, object.Info{}, &object.Error{Op: op, Key: key, Err: err}
	}
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	in := &blob.DownloadStreamOptions{CPKInfo: s.cpk}
	if asked.Ranged() {
		in.Range = blob.HTTPRange{Offset: asked.Off, Count: max(asked.N, 0)}
		if asked.Off+asked.N < 0 { // the sum overflows: to the end
			in.Range.Count = 0
		}
	}
	out, err := c.DownloadStream(w.Context(), in)
	if err != nil {
		err = s.fail(op, key, w, err)
		w.End()
		return nil, object.Info{}, err
	}
	w.Pause()
	refuse := func(cause error) (*wire.Receiving, object.Info, error) {
		err := s.fail(op, key, w, cause)
		w.End()
		out.Body.Close()
		return nil, object.Info{}, err
	}
	switch {
	case out.ContentLength == nil || etag(out.ETag) == "":
		return refuse(s.nonsense("no Content-Length or no ETag"))
	case s.cfg.Hierarchical && isFolder(out.Metadata):
		w.End()
		out.Body.Close()
		return nil, object.Info{}, &object.Error{Op: op, Key: key, Err: object.ErrNotFound}
	case out.CopyStatus != nil && *out.CopyStatus != blob.CopyStatusTypeSuccess:
		return refuse(s.halfCopied(*out.CopyStatus))
	}
	contentRange := ""
	if out.ContentRange != nil {
		contentRange = *out.ContentRange
	}
	left, total, nonsense := asked.Accept(*out.ContentLength, contentRange)
	if nonsense != "" {
		return refuse(s.nonsense(nonsense))
	}
	info := describe(key, total, out.ETag, out.LastModified, out.ContentType, out.Metadata, nil)
	r := &wire.Receiving{
		Watch: w, Body: out.Body, Left: left, Partial: left < *out.ContentLength, Where: s.where,
		Fail: func(err error) error { return s.fail("get", key, w, err) },
	}
	if want := out.ContentMD5; s.cfg.ContentMD5 && len(want) == md5.Size && left == total && contentRange == "" {
		sum := md5.New()
		r.Sum = sum
		r.Verify = func() error {
			if !bytes.Equal(sum.Sum(nil), want) {
				return fmt.Errorf("%w: %s: the MD5 of the object is not that of its content", object.ErrCorrupt, s.where)
			}
			return nil
		}
	}
	return r, info, nil
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
	body, _, err := s.get(ctx, op, key, wire.Asked{Off: off, N: int64(len(p))})
	if errors.Is(err, wire.ErrRange) {
		return 0, &object.Error{Op: op, Key: key, Err: io.ErrUnexpectedEOF}
	}
	if err != nil {
		return 0, err
	}
	return body.ReadInto(p, op, key)
}
