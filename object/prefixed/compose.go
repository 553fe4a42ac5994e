package prefixed

import (
	"context"

	"github.com/massif-fs/massif/object"
)

// Update implements object.Updater if the store below does.
func (s *Store) Update(ctx context.Context, key string, opts *object.PutOptions) (object.Info, error) {
	full, err := s.full("update", key)
	if err != nil {
		return object.Info{}, err
	}
	u, ok := object.As[object.Updater](s.s)
	if !ok {
		return object.Info{}, &object.Error{Op: "update", Key: key, Err: object.ErrUnsupported}
	}
	return s.info(u.Update(ctx, full, opts))
}

// CreateComposed implements object.Composer if the store below does.
func (s *Store) CreateComposed(ctx context.Context, key string, opts *object.PutOptions) (object.ComposedUpload, error) {
	full, err := s.full("create upload", key)
	if err != nil {
		return nil, err
	}
	c, ok := object.As[object.Composer](s.s)
	if !ok {
		return nil, &object.Error{Op: "create upload", Key: key, Err: object.ErrUnsupported}
	}
	up, err := c.CreateComposed(ctx, full, opts)
	if err != nil {
		return nil, s.short(err)
	}
	return &composed{upload{s, up}, up}, nil
}

type composed struct {
	upload
	below object.ComposedUpload
}

func (u *composed) CopyPart(ctx context.Context, n int, src, etag string, off, size int64) (object.Part, error) {
	full, err := u.s.full("copy part", src)
	if err != nil {
		return object.Part{}, err
	}
	part, err := u.below.CopyPart(ctx, n, full, etag, off, size)
	return part, u.s.short(err)
}
