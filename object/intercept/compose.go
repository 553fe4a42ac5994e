package intercept

import (
	"context"

	"github.com/massif-fs/massif/object"
)

// Update implements object.Updater if the store below does.
func (s *Store) Update(ctx context.Context, key string, opts *object.PutOptions) (info object.Info, err error) {
	u, ok := object.As[object.Updater](s.s)
	if !ok {
		return object.Info{}, &object.Error{Op: string(Update), Key: key, Err: object.ErrUnsupported}
	}
	err = s.around(ctx, &Call{Update, key, 0}, func(ctx context.Context) (err error) {
		info, err = u.Update(ctx, key, opts)
		return err
	})
	return info, err
}

// CreateComposed implements object.Composer if the store below does.
func (s *Store) CreateComposed(ctx context.Context, key string, opts *object.PutOptions) (up object.ComposedUpload, err error) {
	c, ok := object.As[object.Composer](s.s)
	if !ok {
		return nil, &object.Error{Op: string(Create), Key: key, Err: object.ErrUnsupported}
	}
	err = s.around(ctx, &Call{Create, key, 0}, func(ctx context.Context) (err error) {
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

func (u *composed) CopyPart(ctx context.Context, n int, src, etag string, off, size int64) (part object.Part, err error) {
	err = u.s.around(ctx, &Call{CopyPart, u.key, 0}, func(ctx context.Context) (err error) {
		part, err = u.below.CopyPart(ctx, n, src, etag, off, size)
		return err
	})
	return part, err
}
