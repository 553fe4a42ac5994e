package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
	"github.com/massif-fs/massif/object/wire"
)

// Check finds out whether the bucket is there and can be used, so that whoever
// configured it learns what is wrong before any data is at stake. With write it
// puts, reads and deletes a small object below the prefix, and finds out whether
// the server keeps the promise of conditional puts: if not, Capabilities tells so
// from then on.
func (s *Store) Check(ctx context.Context, write bool) error {
	if err := s.checkBucket(ctx); err != nil {
		return err
	}
	if !write {
		_, err := s.List(ctx, object.ListOptions{Limit: 1})
		return err
	}
	key := ".massif-check-" + rand.Text()
	_, err := s.Put(ctx, key, bytes.NewReader([]byte("massif")), 6, nil)
	if err != nil {
		return err
	}
	err = s.checkObject(ctx, key)
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	return errors.Join(err, s.Delete(clean, key))
}

func (s *Store) checkBucket(ctx context.Context) error {
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	_, err := s.client.HeadBucket(w.Context(), &s3.HeadBucketInput{Bucket: &s.cfg.Bucket})
	if err == nil {
		return nil
	}
	// HEAD has no body, hence no code: ask again in a way that has, which may tell
	// wrong keys from missing rights and both from a missing bucket.
	var re *smithyhttp.ResponseError
	if errors.As(err, &re) && re.Response != nil {
		if region := re.Response.Header.Get("x-amz-bucket-region"); region != "" && region != s.cfg.Region {
			err = &wire.Failure{Kind: object.ErrInvalid, Text: fmt.Sprintf("%s: the bucket is in region %s, the client is set to %s", s.where, region, s.cfg.Region), Cause: err}
			return s.fail("check", "", w, err)
		}
		if status := re.HTTPStatusCode(); status >= 400 && status < 500 {
			_, err := s.List(ctx, object.ListOptions{Limit: 1})
			return err // nil: may list, though not look at the bucket itself
		}
	}
	return s.fail("check", "", w, err)
}

func (s *Store) checkObject(ctx context.Context, key string) error {
	p := make([]byte, 6)
	if _, err := s.ReadRange(ctx, key, p, 0); err != nil {
		return err
	}
	if string(p) != "massif" {
		return &object.Error{Op: "check", Key: key, Err: fmt.Errorf("%w: the store returned other bytes than were put", object.ErrCorrupt)}
	}
	if s.noCond.Load() {
		return nil
	}
	one := func(opts *object.PutOptions) error {
		_, err := s.Put(ctx, key, bytes.NewReader([]byte("massif")), 6, opts)
		return err
	}
	absent := one(&object.PutOptions{IfAbsent: true})
	match := one(&object.PutOptions{IfMatch: "00000000000000000000000000000000"})
	switch {
	case errors.Is(absent, object.ErrExists) && errors.Is(match, object.ErrPrecondition):
	case errors.Is(absent, object.ErrUnavailable):
		return absent
	case errors.Is(match, object.ErrUnavailable):
		return match
	default:
		s.noCond.Store(true) // ignored, or refused
	}
	return nil
}
