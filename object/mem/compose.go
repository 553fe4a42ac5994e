package mem

import (
	"bytes"
	"context"
	"fmt"

	"github.com/massif-fs/massif/object"
)

var (
	_ object.Updater  = (*Store)(nil)
	_ object.Composer = (*Store)(nil)
)

// Update implements object.Updater.
func (s *Store) Update(ctx context.Context, key string, opts *object.PutOptions) (object.Info, error) {
	if err := check(ctx, "update", key); err != nil {
		return object.Info{}, err
	}
	var o object.PutOptions
	if opts != nil {
		o = *opts
	}
	if err := o.Validate(); err != nil {
		return object.Info{}, &object.Error{Op: "update", Key: key, Err: err}
	}
	e, err := s.lookup("update", key)
	if err != nil {
		return object.Info{}, err
	}
	if o.IfMatch == "" {
		o.IfMatch = e.info.ETag
	}
	return s.store("update", key, e.data, &o)
}

// CreateComposed implements object.Composer.
func (s *Store) CreateComposed(ctx context.Context, key string, opts *object.PutOptions) (object.ComposedUpload, error) {
	u, err := s.CreateMultipart(ctx, key, opts)
	if err != nil {
		return nil, err
	}
	return u.(*upload), nil
}

// CopyPart implements object.ComposedUpload.
func (u *upload) CopyPart(ctx context.Context, n int, src, etag string, off, size int64) (object.Part, error) {
	const op = "copy part"
	e, err := u.s.lookup(op, src)
	switch {
	case err != nil:
		return object.Part{}, err
	case e.info.ETag != etag:
		err = object.ErrPrecondition
	case off < 0 || size < 1 || off > int64(len(e.data)) || size > int64(len(e.data))-off:
		err = fmt.Errorf("%w: %d bytes at %d of %d", object.ErrInvalid, size, off, len(e.data))
	}
	if err != nil {
		return object.Part{}, u.fail(op, err)
	}
	return u.PutPart(ctx, n, bytes.NewReader(e.data[off:off+size]), size)
}
