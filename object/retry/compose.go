package retry

import (
	"context"
	"maps"

	"github.com/massif-fs/massif/object"
)

// Update implements object.Updater if the store below does. One that fails a condition
// after an attempt whose outcome is not known has succeeded, if the object has the metadata.
func (s *Store) Update(ctx context.Context, key string, opts *object.PutOptions) (info object.Info, err error) {
	u, ok := object.As[object.Updater](s.s)
	if !ok {
		return object.Info{}, &object.Error{Op: "update", Key: key, Err: object.ErrUnsupported}
	}
	lost := false
	err = s.try(ctx, "update", key, Retryable, func(ctx context.Context, _ int) (err error) {
		info, err = u.Update(ctx, key, opts)
		if err != nil && lost && failedCondition(err, opts) {
			if there, herr := s.s.Head(ctx, key); herr == nil && maps.Equal(there.Metadata, opts.Metadata) {
				info, err = there, nil
			}
		}
		lost = lost || err != nil
		return err
	})
	return info, err
}

// CreateComposed implements object.Composer if the store below does.
func (s *Store) CreateComposed(ctx context.Context, key string, opts *object.PutOptions) (object.ComposedUpload, error) {
	c, ok := object.As[object.Composer](s.s)
	if !ok {
		return nil, &object.Error{Op: "create upload", Key: key, Err: object.ErrUnsupported}
	}
	var up object.ComposedUpload
	err := s.try(ctx, "create upload", key, Retryable, func(ctx context.Context, _ int) (err error) {
		up, err = c.CreateComposed(ctx, key, opts)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &composed{upload{s, up, key}, up}, nil
}

type composed struct {
	upload
	below object.ComposedUpload
}

// CopyPart implements object.ComposedUpload.
func (u *composed) CopyPart(ctx context.Context, n int, src, etag string, off, size int64) (part object.Part, err error) {
	err = u.s.try(ctx, "copy part", u.key, Retryable, func(ctx context.Context, _ int) (err error) {
		part, err = u.below.CopyPart(ctx, n, src, etag, off, size)
		return err
	})
	return part, err
}
