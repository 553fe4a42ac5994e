package object

import "context"

// Updater is the optional ability to replace the content type and metadata of an
// object without sending its bytes again. Found by As.
type Updater interface {
	// Update gives an object the content type and metadata of opts in place of its
	// own. opts.IfMatch is a condition as for Put; a missing object gives ErrNotFound,
	// with IfMatch also ErrPrecondition. The ETag may or may not change. In between the
	// object is never missing.
	Update(ctx context.Context, key string, opts *PutOptions) (Info, error)
}

// Composer is the optional ability to make an object of new parts and of ranges of
// objects that are there, which do not travel. Found by As.
type Composer interface {
	// CreateComposed begins an upload as Multipart.CreateMultipart does. The part limits
	// are the same, for copied parts too.
	CreateComposed(ctx context.Context, key string, opts *PutOptions) (ComposedUpload, error)
}

// ComposedUpload is an upload that takes parts from other objects, also from the one
// that it will replace.
type ComposedUpload interface {
	Upload
	// CopyPart makes part n of the size bytes at off of the object src. If its ETag is
	// not etag: ErrPrecondition. If it is missing: ErrNotFound.
	CopyPart(ctx context.Context, n int, src, etag string, off, size int64) (Part, error)
}
