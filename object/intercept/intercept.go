// Package intercept is what wrappers of object stores are made of that treat all
// operations alike: counting them (object/metered), limiting them (object/limit),
// making them fail (object/faulty). Such a wrapper states in an [Interceptor] what
// happens around a call and to the bytes that go either way, and gets a store with
// all methods and optional abilities from [New].
package intercept

import (
	"context"
	"io"
	"time"

	"github.com/massif-fs/massif/object"
)

// Op names an operation.
type Op string

// The operations.
const (
	Put        Op = "put"
	Get        Op = "get"
	Read       Op = "read" // ReadRange
	Head       Op = "head"
	Delete     Op = "delete"
	List       Op = "list"
	Copy       Op = "copy"
	Rename     Op = "rename"
	Create     Op = "create upload"
	PutPart    Op = "put part"
	Complete   Op = "complete upload"
	Abort      Op = "abort upload"
	AbortStale Op = "abort stale uploads"
	Update     Op = "update"
	CopyPart   Op = "copy part"
)

// Ops are all operations.
var Ops = []Op{Put, Get, Read, Head, Delete, List, Copy, Rename, Create, PutPart, Complete, Abort, AbortStale, Update, CopyPart}

// Call is one operation under way.
type Call struct {
	Op  Op
	Key string // the destination of Copy and Rename, the prefix of List and AbortStale, the first key of Delete
	// Size is the number of bytes that a Put or PutPart was announced to send, -1
	// if unknown, the number asked for by Read, and 0 else.
	Size int64
}

// Interceptor says what happens around calls. Its methods may be called
// concurrently.
type Interceptor interface {
	// Around makes the call by calling do, once or not at all, and returns its
	// error or another. A Get's do returns when its body can be read.
	Around(ctx context.Context, c *Call, do func(context.Context) error) error
	// Sending returns the body to send in place of body: body itself where
	// nothing is to be done, because drivers treat bodies in memory better.
	Sending(ctx context.Context, c *Call, body io.Reader) io.Reader
	// Receiving returns the body of a Get in place of body.
	Receiving(ctx context.Context, c *Call, body io.ReadCloser) io.ReadCloser
	// Received looks at the bytes that a Read returned and may change them. It
	// returns how many of them are to count.
	Received(ctx context.Context, c *Call, p []byte) (int, error)
}

// Store is an object store with an Interceptor around it.
type Store struct {
	s object.Store
	i Interceptor
}

var (
	_ object.Store       = (*Store)(nil)
	_ object.RangeReader = (*Store)(nil)
	_ object.Renamer     = (*Store)(nil)
	_ object.Multipart   = (*Store)(nil)
	_ object.Forwarder   = (*Store)(nil)
)

// New puts i around s.
func New(s object.Store, i Interceptor) *Store { return &Store{s, i} }

// Unwrap returns the store below.
func (s *Store) Unwrap() object.Store { return s.s }

// Forwards implements object.Forwarder.
func (s *Store) Forwards() object.Store { return s.s }

// String returns the name of the store below.
func (s *Store) String() string { return s.s.String() }

// Capabilities returns those of the store below.
func (s *Store) Capabilities() object.Capabilities { return s.s.Capabilities() }

// Close closes the store below.
func (s *Store) Close() error { return s.s.Close() }

// around calls do by the interceptor and makes sure of the error's type.
func (s *Store) around(ctx context.Context, c *Call, do func(context.Context) error) error {
	return wrap(c, s.i.Around(ctx, c, do))
}

func wrap(c *Call, err error) error {
	switch err.(type) {
	case nil, *object.Error, *object.DeleteError:
		return err
	}
	return &object.Error{Op: string(c.Op), Key: c.Key, Err: err}
}

// Put implements object.Store.
func (s *Store) Put(ctx context.Context, key string, body io.Reader, size int64, opts *object.PutOptions) (info object.Info, err error) {
	c := &Call{Put, key, size}
	err = s.around(ctx, c, func(ctx context.Context) (err error) {
		info, err = s.s.Put(ctx, key, s.i.Sending(ctx, c, body), size, opts)
		return err
	})
	return info, err
}

// Get implements object.Store.
func (s *Store) Get(ctx context.Context, key string, off, n int64) (body io.ReadCloser, info object.Info, err error) {
	c := &Call{Get, key, 0}
	err = s.around(ctx, c, func(ctx context.Context) (err error) {
		body, info, err = s.s.Get(ctx, key, off, n)
		if err == nil {
			body = s.i.Receiving(ctx, c, body)
		}
		return err
	})
	if err != nil {
		if body != nil {
			body.Close()
		}
		return nil, object.Info{}, err
	}
	return body, info, nil
}

// ReadRange implements object.RangeReader, by Get if the store below must.
func (s *Store) ReadRange(ctx context.Context, key string, p []byte, off int64) (n int, err error) {
	c := &Call{Read, key, int64(len(p))}
	err = s.around(ctx, c, func(ctx context.Context) (err error) {
		n, err = object.ReadRange(ctx, s.s, key, p, off)
		m, rerr := s.i.Received(ctx, c, p[:n])
		if n = m; err == nil {
			err = rerr
		}
		return err
	})
	return n, err
}

// Head implements object.Store.
func (s *Store) Head(ctx context.Context, key string) (info object.Info, err error) {
	err = s.around(ctx, &Call{Head, key, 0}, func(ctx context.Context) (err error) {
		info, err = s.s.Head(ctx, key)
		return err
	})
	return info, err
}

// Delete implements object.Store.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	c := &Call{Delete, "", 0}
	if len(keys) > 0 {
		c.Key = keys[0]
	}
	return s.around(ctx, c, func(ctx context.Context) error { return s.s.Delete(ctx, keys...) })
}

// List implements object.Store.
func (s *Store) List(ctx context.Context, opts object.ListOptions) (page object.Page, err error) {
	err = s.around(ctx, &Call{List, opts.Prefix, 0}, func(ctx context.Context) (err error) {
		page, err = s.s.List(ctx, opts)
		return err
	})
	if err != nil {
		return object.Page{}, err
	}
	return page, nil
}

// Copy implements object.Store.
func (s *Store) Copy(ctx context.Context, dst, src string, opts *object.PutOptions) (info object.Info, err error) {
	err = s.around(ctx, &Call{Copy, dst, 0}, func(ctx context.Context) (err error) {
		info, err = s.s.Copy(ctx, dst, src, opts)
		return err
	})
	return info, err
}

// Rename implements object.Renamer if the store below does.
func (s *Store) Rename(ctx context.Context, dst, src string) error {
	r, ok := object.As[object.Renamer](s.s)
	if !ok {
		return &object.Error{Op: string(Rename), Key: src, Err: object.ErrUnsupported}
	}
	return s.around(ctx, &Call{Rename, dst, 0}, func(ctx context.Context) error { return r.Rename(ctx, dst, src) })
}

// PartLimits implements object.Multipart if the store below does.
func (s *Store) PartLimits() (minSize, maxSize int64, maxParts int) {
	if m, ok := object.As[object.Multipart](s.s); ok {
		return m.PartLimits()
	}
	return 0, 0, 0
}

// CreateMultipart implements object.Multipart if the store below does.
func (s *Store) CreateMultipart(ctx context.Context, key string, opts *object.PutOptions) (up object.Upload, err error) {
	m, ok := object.As[object.Multipart](s.s)
	if !ok {
		return nil, &object.Error{Op: string(Create), Key: key, Err: object.ErrUnsupported}
	}
	err = s.around(ctx, &Call{Create, key, 0}, func(ctx context.Context) (err error) {
		up, err = m.CreateMultipart(ctx, key, opts)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &upload{s, up, key}, nil
}

// AbortStale implements object.Multipart if the store below does.
func (s *Store) AbortStale(ctx context.Context, prefix string, before time.Time) (n int, err error) {
	m, ok := object.As[object.Multipart](s.s)
	if !ok {
		return 0, &object.Error{Op: string(AbortStale), Key: prefix, Err: object.ErrUnsupported}
	}
	err = s.around(ctx, &Call{AbortStale, prefix, 0}, func(ctx context.Context) (err error) {
		n, err = m.AbortStale(ctx, prefix, before)
		return err
	})
	return n, err
}

type upload struct {
	s   *Store
	up  object.Upload
	key string
}

func (u *upload) PutPart(ctx context.Context, n int, body io.Reader, size int64) (part object.Part, err error) {
	c := &Call{PutPart, u.key, size}
	err = u.s.around(ctx, c, func(ctx context.Context) (err error) {
		part, err = u.up.PutPart(ctx, n, u.s.i.Sending(ctx, c, body), size)
		return err
	})
	return part, err
}

func (u *upload) Complete(ctx context.Context, parts []object.Part) (info object.Info, err error) {
	err = u.s.around(ctx, &Call{Complete, u.key, 0}, func(ctx context.Context) (err error) {
		info, err = u.up.Complete(ctx, parts)
		return err
	})
	return info, err
}

func (u *upload) Abort(ctx context.Context) error {
	return u.s.around(ctx, &Call{Abort, u.key, 0}, u.up.Abort)
}
