package s3

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
	"golang.org/x/sync/errgroup"
)

// deletesAtOnce is the number of requests of one Delete under way at once.
const deletesAtOnce = 8

// Delete implements object.Store, by DeleteObjects a thousand at a time, several
// at once. Servers that lack that request get one for each key.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	const op = "delete"
	if err := ctx.Err(); err != nil {
		return &object.Error{Op: op, Err: err}
	}
	d := deletion{s: s, failed: make(map[string]error)}
	var batch, single []string
	seen := make(map[string]bool, len(keys))
	for _, key := range keys {
		switch err := s.begin(ctx, op, key); {
		case err != nil:
			d.failed[key] = err
		case seen[key]:
		case !inXML(key):
			single = append(single, key)
		default:
			batch = append(batch, key)
		}
		seen[key] = true
	}
	if len(batch) == 1 || s.noBatch.Load() {
		single = append(single, batch...)
		batch = nil
	}
	var group errgroup.Group
	group.SetLimit(deletesAtOnce)
	for part := range slices.Chunk(batch, deleteBatch) {
		group.Go(func() error { d.batch(ctx, part); return nil })
	}
	for _, key := range single {
		group.Go(func() error { d.one(ctx, key); return nil })
	}
	_ = group.Wait() // the errors are in d
	switch {
	case len(d.failed) == 0:
		return nil
	case ctx.Err() != nil:
		return &object.Error{Op: op, Err: errors.Join(ctx.Err(), &object.DeleteError{Failed: d.failed})}
	}
	return &object.DeleteError{Failed: d.failed}
}

// inXML reports whether an XML document, as which DeleteObjects names its keys,
// can hold the key (XML 1.0, section 2.2).
func inXML(key string) bool {
	for _, r := range key {
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF {
			return false
		}
	}
	return true
}

// deletion collects what one Delete could not remove.
type deletion struct {
	s *Store

	mu     sync.Mutex
	failed map[string]error
}

func (d *deletion) fail(key string, err error) {
	d.mu.Lock()
	d.failed[key] = err
	d.mu.Unlock()
}

func (d *deletion) one(ctx context.Context, key string) {
	w := watchdog.Watch(ctx, d.s.cfg.StallTimeout)
	defer w.End()
	_, err := d.s.client.DeleteObject(w.Context(), &s3.DeleteObjectInput{Bucket: &d.s.cfg.Bucket, Key: d.s.key(key)})
	if err = d.s.fail("delete", key, w, err); err != nil && !errors.Is(err, object.ErrNotFound) {
		d.fail(key, err)
	}
}

func (d *deletion) batch(ctx context.Context, keys []string) {
	s := d.s
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	in := &s3.DeleteObjectsInput{Bucket: &s.cfg.Bucket, Delete: &types.Delete{}} // not quiet: each key must be accounted for
	for _, key := range keys {
		in.Delete.Objects = append(in.Delete.Objects, types.ObjectIdentifier{Key: s.key(key)})
	}
	out, err := s.client.DeleteObjects(w.Context(), in, func(o *s3.Options) {
		// The checksum that all servers know; newer ones want no other.
		o.APIOptions = append(o.APIOptions, smithyhttp.AddContentChecksumMiddleware)
	})
	err = s.fail("delete", "", w, err)
	if errors.Is(err, object.ErrUnsupported) {
		s.noBatch.Store(true)
		for _, key := range keys {
			d.one(ctx, key)
		}
		return
	}
	if err != nil {
		for _, key := range keys {
			d.fail(key, err)
		}
		return
	}
	left := make(map[string]bool, len(keys))
	for _, key := range keys {
		left[s.cfg.Prefix+key] = true
	}
	for _, o := range out.Deleted {
		delete(left, aws.ToString(o.Key))
	}
	for _, e := range out.Errors {
		full := aws.ToString(e.Key)
		delete(left, full)
		key := strings.TrimPrefix(full, s.cfg.Prefix)
		api := &smithy.GenericAPIError{Code: aws.ToString(e.Code), Message: aws.ToString(e.Message)}
		if err := s.fail("delete", key, nil, api); !errors.Is(err, object.ErrNotFound) {
			d.fail(key, err)
		}
	}
	for full := range left {
		key := strings.TrimPrefix(full, s.cfg.Prefix)
		d.fail(key, s.fail("delete", key, nil, s.nonsense("it does not say whether the key was deleted")))
	}
}
