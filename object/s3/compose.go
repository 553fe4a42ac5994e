package s3

import (
	"context"
	"errors"

	"github.com/massif-fs/massif/object"
)

var (
	_ object.Updater  = (*Store)(nil)
	_ object.Composer = (*Store)(nil)
)

// Update implements object.Updater, by a copy of the object onto itself.
func (s *Store) Update(ctx context.Context, key string, opts *object.PutOptions) (object.Info, error) {
	const op = "update"
	if err := s.begin(ctx, op, key); err != nil {
		return object.Info{}, err
	}
	o := object.PutOptions{}
	if opts != nil {
		o = *opts
	}
	if err := s.checkPut(&o); err != nil {
		return object.Info{}, &object.Error{Op: op, Key: key, Err: err}
	}
	from, err := s.head(ctx, op, key)
	if err != nil {
		return object.Info{}, err
	}
	if o.IfMatch != "" && o.IfMatch != from.ETag {
		return object.Info{}, &object.Error{Op: op, Key: key, Err: object.ErrPrecondition}
	}
	if o.StorageClass == "" {
		o.StorageClass = from.StorageClass
	}
	// What the head said must be what is copied, which is the condition here: not
	// every server takes one on what a copy replaces.
	o.IfMatch = ""
	var info object.Info
	if from.Size > s.maxSingleCopy() {
		info, err = s.copyParts(ctx, key, key, from, &o)
	} else {
		info, err = s.copyWhole(ctx, key, key, from, &o, false)
	}
	return info, err
}

// CreateComposed implements object.Composer. Parts have no checksums of the kind that an
// upload is made with: servers have their own ideas of those of copied parts.
func (s *Store) CreateComposed(ctx context.Context, key string, opts *object.PutOptions) (object.ComposedUpload, error) {
	const op = "create upload"
	if err := s.begin(ctx, op, key); err != nil {
		return nil, err
	}
	if opts == nil {
		opts = &object.PutOptions{}
	}
	if err := s.checkPut(opts); err != nil {
		return nil, &object.Error{Op: op, Key: key, Err: err}
	}
	u, err := s.create(ctx, key, opts, NoChecksum)
	if err != nil {
		return nil, err
	}
	return composed{u}, nil
}

// composed is an upload with CopyPart.
type composed struct{ *upload }

// CopyPart implements object.ComposedUpload.
func (u composed) CopyPart(ctx context.Context, n int, src, etag string, off, size int64) (object.Part, error) {
	var err error
	switch {
	case n < 1 || n > maxParts:
		err = invalid("part number %d", n)
	case off < 0 || size < 1 || size > maxPart:
		err = invalid("a part of %d bytes at %d", size, off)
	default:
		err = ctx.Err()
	}
	if err != nil {
		return object.Part{}, &object.Error{Op: "copy part", Key: u.key, Err: err}
	}
	part, err := u.copyPart(ctx, n, src, etag, off, size)
	if errors.Is(err, object.ErrExists) { // how some servers put it
		err = &object.Error{Op: "copy part", Key: src, Err: object.ErrPrecondition}
	}
	return part, err
}
