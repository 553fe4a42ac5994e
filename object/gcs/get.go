package gcs

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

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
	var r resource
	err := s.call(ctx, op, key, request{method: http.MethodGet, url: s.objectURL(key), query: url.Values{"projection": {"noAcl"}}}, false, &r)
	if err != nil {
		return object.Info{}, err
	}
	return s.describe(key, r)
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

// readURL is that of an object in the XML interface.
func (s *Store) readURL(key string) string {
	parts := strings.Split(s.cfg.Prefix+key, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
		if p == "." || p == ".." { // or somebody on the way would follow it
			parts[i] = strings.ReplaceAll(p, ".", "%2E")
		}
	}
	return s.cfg.Endpoint + "/" + url.PathEscape(s.cfg.Bucket) + "/" + strings.Join(parts, "/")
}

// get asks for a range that is not empty. Its error wraps wire.ErrRange if the object
// ends before.
func (s *Store) get(ctx context.Context, op, key string, asked wire.Asked) (*wire.Receiving, object.Info, error) {
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	h := http.Header{"Accept-Encoding": {"gzip"}} // or what is stored compressed would come unpacked
	if asked.Ranged() {
		h.Set("Range", asked.Header())
	}
	resp, err := s.do(w, request{method: http.MethodGet, url: s.readURL(key), header: h})
	if err != nil {
		err = s.fail(op, key, w, err)
		w.End()
		return nil, object.Info{}, err
	}
	w.Pause()
	refuse := func(what string) (*wire.Receiving, object.Info, error) {
		err := s.fail(op, key, w, wire.Nonsense(s.where, what))
		w.End()
		resp.Body.Close()
		return nil, object.Info{}, err
	}
	r := resource{Generation: 0, ContentType: resp.Header.Get("Content-Type"), StorageClass: resp.Header.Get("X-Goog-Storage-Class")}
	gen, err := generation(resp.Header.Get("X-Goog-Generation"))
	mod, terr := http.ParseTime(resp.Header.Get("Last-Modified"))
	if err != nil || terr != nil || resp.ContentLength < 0 {
		return refuse("no Content-Length, no time or no generation")
	}
	left, total, nonsense := asked.Accept(resp.ContentLength, resp.Header.Get("Content-Range"))
	if nonsense != "" {
		return refuse(nonsense)
	}
	for name, values := range resp.Header {
		if k, ok := strings.CutPrefix(strings.ToLower(name), "x-goog-meta-"); ok && len(values) > 0 {
			if r.Metadata == nil {
				r.Metadata = make(map[string]string)
			}
			r.Metadata[k] = values[0]
		}
	}
	r.Generation, r.Size, r.Updated = gen, uint64(total), mod.Format(time.RFC3339Nano)
	info, err := s.describe(key, r)
	if err != nil {
		w.End()
		resp.Body.Close()
		return nil, object.Info{}, err
	}
	body := &wire.Receiving{
		Watch: w, Body: resp.Body, Left: left, Partial: left < resp.ContentLength, Where: s.where,
		Fail: func(err error) error { return s.fail("get", key, w, err) },
	}
	if want := storedSum(resp.Header); want != "" && left == total && resp.ContentLength == total && resp.Header.Get("Content-Range") == "" {
		sum := crc32.New(castagnoli)
		body.Sum = sum
		body.Verify = func() error {
			if got := base64.StdEncoding.EncodeToString(sum.Sum(nil)); got != want {
				return fmt.Errorf("%w: %s: the CRC-32C of the object is not that of what came", object.ErrCorrupt, s.where)
			}
			return nil
		}
	}
	return body, info, nil
}

// storedSum is the CRC-32C of the object as it is stored, "" if that is not told.
func storedSum(h http.Header) string {
	for _, v := range h.Values("X-Goog-Hash") {
		for part := range strings.SplitSeq(v, ",") {
			if sum, ok := strings.CutPrefix(strings.TrimSpace(part), "crc32c="); ok {
				return sum
			}
		}
	}
	return ""
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
