// Package object states the contract of an object store: whole objects by key,
// as S3 and its relatives keep them.
//
// A driver lives in a folder named by how it keeps objects: object/file,
// object/mem, object/s3, object/azure, object/gcs. Every driver passes
// the suite in object/objecttest. Behaviour that any store may want (retrying,
// rate limits, metrics, injected faults) is a wrapper over the contract, in a
// folder of its own, so that wrappers and drivers compose.
//
// # Keys
//
// A key is 1 to [MaxKey] bytes of valid UTF-8 without NUL. '/' has no meaning but
// for the delimiter of a listing. A driver that cannot keep a key as it is
// escapes it; it never confuses two keys. Stores that refuse some keys outright
// ("a//b", "a/.." on some S3 servers) return an error that wraps ErrInvalid.
//
// # Atomicity and durability
//
// An object is complete or absent: nobody sees a part of one, during Put or after
// a crash. When Put, Copy or Complete has returned, the object is durable and
// every later Get, Head and List sees it.
//
// # Errors
//
// Errors are of type *[Error] and wrap one of the sentinel errors below where one
// fits. A truncated answer is an error (io.ErrUnexpectedEOF), never a short read
// that looks like a success.
package object

import (
	"context"
	"io"
	"time"
)

// MaxKey is the length of the longest key, in bytes.
const MaxKey = 1024

// Store is an object store, or a part of one below some prefix. All methods may
// be called concurrently.
type Store interface {
	// String names the store as a URL for people to read, without secrets.
	String() string

	// Put stores the object, replacing one that is there. size is the number of
	// bytes body gives, or -1 where the caller does not know (then the driver
	// streams, in parts where it must). A body that ends early or late is
	// io.ErrUnexpectedEOF or ErrInvalid, an error of body is returned wrapped, and
	// nothing is stored. Put does not close body, and does not read from it after
	// it has returned. With
	// opts.IfAbsent an existing object gives ErrExists; with opts.IfMatch an
	// object whose ETag differs, or no object, gives ErrPrecondition. A driver
	// without that ability gives ErrUnsupported (see Capabilities). A nil opts
	// means the zero PutOptions.
	Put(ctx context.Context, key string, body io.Reader, size int64, opts *PutOptions) (Info, error)

	// Get opens the object for reading n bytes from offset off, or up to its end
	// if n is negative or reaches beyond it. off at or beyond the end gives an
	// empty body. The Info describes the whole object. A missing object gives
	// ErrNotFound. The caller closes the body; a body that cannot give all bytes
	// returns an error from Read.
	Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, Info, error)

	// Head describes the object without its bytes, ErrNotFound if it is missing.
	Head(ctx context.Context, key string) (Info, error)

	// Delete removes objects; a missing one is no error. Large lists are split
	// into the store's batches. If some could not be removed the error is a
	// *DeleteError that names them; the others are gone.
	Delete(ctx context.Context, keys ...string) error

	// List returns one page of the keys that begin with opts.Prefix, in
	// ascending byte order: all objects that were there when List was called and
	// stayed.
	List(ctx context.Context, opts ListOptions) (Page, error)

	// Copy makes dst a copy of src inside the store, also above the size that one
	// request can copy. dst gets src's content type and metadata unless opts
	// gives its own (a Metadata that is not nil, though it be empty, replaces
	// src's). The conditions in opts are about dst. dst must not be src.
	Copy(ctx context.Context, dst, src string, opts *PutOptions) (Info, error)

	// Capabilities says what the store can do beyond the calls above.
	Capabilities() Capabilities

	// Close ends the driver's goroutines and idle connections.
	Close() error
}

// Capabilities tells which promises hold for a store.
type Capabilities struct {
	// PutIfAbsent: PutOptions.IfAbsent works and of racing writers one wins.
	PutIfAbsent bool
	// PutIfMatch: PutOptions.IfMatch works.
	PutIfMatch bool
	// Metadata: content type and user metadata are kept, together 2 KiB at
	// least. Without it a Put that has some gives ErrUnsupported.
	Metadata bool
	// Remote: the store is reached over a network, so that a request costs
	// milliseconds and parallel requests pay.
	Remote bool
}

// PutOptions are the optional properties of a new object.
type PutOptions struct {
	IfAbsent    bool
	IfMatch     string            // ETag
	ContentType string            // empty: the store's default
	Metadata    map[string]string // keys are lower case
	// StorageClass in the store's own words; empty: the store's default.
	StorageClass string
}

// Info describes an object.
type Info struct {
	Key          string
	Size         int64 // bytes
	ETag         string
	ModTime      time.Time
	ContentType  string
	Metadata     map[string]string // nil in listings of most stores
	StorageClass string
}

// ListOptions choose a page of a listing.
type ListOptions struct {
	Prefix    string
	Delimiter string // "" or "/": keys with it after Prefix are rolled up into Page.Prefixes
	// StartAfter lists only keys (and rolled-up prefixes) greater than it.
	StartAfter string
	// Token continues where an earlier page ended (its Page.Next); the other
	// fields must be as they were for that page.
	Token string
	// Limit is the number of keys and prefixes wanted at most; 0: the store's
	// page size. The page may be shorter, even empty, where more follow.
	Limit int
}

// Page is one page of a listing.
type Page struct {
	Objects  []Info
	Prefixes []string
	Next     string // token of the next page; "" at the end
}

// Multipart is the optional ability to upload an object in parts, in parallel and
// in any order. Found by As.
type Multipart interface {
	// PartLimits gives the least size of a part but the last, the greatest size
	// of a part, in bytes, and the greatest number of parts.
	PartLimits() (minSize, maxSize int64, maxParts int)
	// CreateMultipart begins an upload. Nothing is visible before Complete.
	CreateMultipart(ctx context.Context, key string, opts *PutOptions) (Upload, error)
	// AbortStale aborts the uploads below prefix that began before the given
	// time, those of crashed processes too, and returns how many.
	AbortStale(ctx context.Context, prefix string, before time.Time) (int, error)
}

// Upload is a multipart upload in progress. PutPart may be called concurrently.
type Upload interface {
	// PutPart stores part number n, 1 or greater, of size bytes. A repeated
	// number replaces the earlier part.
	PutPart(ctx context.Context, n int, body io.Reader, size int64) (Part, error)
	// Complete makes the object of the parts, ordered by number. PutOptions'
	// conditions are checked now.
	Complete(ctx context.Context, parts []Part) (Info, error)
	// Abort drops the upload and its parts.
	Abort(ctx context.Context) error
}

// Part names an uploaded part.
type Part struct {
	Number int
	Size   int64
	ETag   string
}

// RangeReader is the optional ability to read a range into memory without a
// stream. Found by As; use ReadRange, which falls back to Get.
type RangeReader interface {
	// ReadRange fills p with the bytes at off. An object that ends before gives
	// io.ErrUnexpectedEOF with the count read.
	ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error)
}

// Renamer is the optional ability to rename an object atomically.
type Renamer interface {
	Rename(ctx context.Context, dst, src string) error
}

// Unwrapper is implemented by wrappers, so that As finds abilities below them.
// A wrapper that must not be passed by (because it counts, limits or fails
// requests) implements the optional interfaces itself.
type Unwrapper interface {
	Unwrap() Store
}

// Forwarder is implemented by wrappers that have optional interfaces but only pass
// their calls on to the store below, which Forwards returns: As takes such a
// wrapper to have an ability only if that store has it.
type Forwarder interface{ Forwards() Store }

// As returns the first of s and the stores it wraps that has ability T. It stops
// at a store that does not implement Unwrapper.
func As[T any](s Store) (T, bool) {
	for s != nil {
		if t, ok := s.(T); ok {
			f, ok := s.(Forwarder)
			if !ok {
				return t, true
			}
			if _, ok := As[T](f.Forwards()); ok {
				return t, true
			}
			break
		}
		u, ok := s.(Unwrapper)
		if !ok {
			break
		}
		s = u.Unwrap()
	}
	var zero T
	return zero, false
}

// ReadRange fills p with the bytes of the object at off, by the store's
// RangeReader if it has one, else by Get. An object that ends before gives
// io.ErrUnexpectedEOF.
func ReadRange(ctx context.Context, s Store, key string, p []byte, off int64) (int, error) {
	if r, ok := As[RangeReader](s); ok {
		return r.ReadRange(ctx, key, p, off)
	}
	body, _, err := s.Get(ctx, key, off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	n, err := io.ReadFull(body, p)
	if cerr := body.Close(); err == nil {
		err = cerr
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return n, &Error{Op: "read", Key: key, Err: err}
	}
	return n, nil
}
