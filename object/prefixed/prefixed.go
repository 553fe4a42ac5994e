// Package prefixed makes a store of the objects of another store whose keys begin
// with a prefix: several volumes in one bucket, each as if it had one alone.
package prefixed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/massif-fs/massif/object"
)

// Store is the part of a store below a prefix.
type Store struct {
	s      object.Store
	prefix string
	own    bool
}

var (
	_ object.Store       = (*Store)(nil)
	_ object.RangeReader = (*Store)(nil)
	_ object.Renamer     = (*Store)(nil)
	_ object.Multipart   = (*Store)(nil)
	_ object.Presigner   = (*Store)(nil)
)

// New returns the part of s whose keys begin with prefix, which is left out of
// keys. It may, and mostly will, end with '/'. Close closes s.
func New(s object.Store, prefix string) *Store { return &Store{s: s, prefix: prefix, own: true} }

// Borrow is New, but that Close leaves s open for its other users.
func Borrow(s object.Store, prefix string) *Store { return &Store{s: s, prefix: prefix} }

// String returns the name of the store below, and the prefix.
func (s *Store) String() string {
	name, query, ok := strings.Cut(s.s.String(), "?")
	name = strings.TrimSuffix(name, "/") + "/" + s.prefix
	if ok {
		name += "?" + query
	}
	return name
}

// Capabilities returns those of the store below.
func (s *Store) Capabilities() object.Capabilities { return s.s.Capabilities() }

// Close closes the store below, unless it is borrowed.
func (s *Store) Close() error {
	if !s.own {
		return nil
	}
	return s.s.Close()
}

// full returns the key in the store below. A key that is not valid must not
// become so by the prefix.
func (s *Store) full(op, key string) (string, error) {
	if err := object.ValidKey(key); err != nil {
		return "", &object.Error{Op: op, Key: key, Err: err}
	}
	if len(s.prefix)+len(key) > object.MaxKey {
		err := fmt.Errorf("%w: with the prefix %q the key has more than %d bytes", object.ErrInvalid, s.prefix, object.MaxKey)
		return "", &object.Error{Op: op, Key: key, Err: err}
	}
	return s.prefix + key, nil
}

// short takes the prefix out of an error.
func (s *Store) short(err error) error {
	var oe *object.Error
	if err != nil && errors.As(err, &oe) {
		e := *oe
		e.Key = strings.TrimPrefix(oe.Key, s.prefix)
		return &e
	}
	return err
}

func (s *Store) info(info object.Info, err error) (object.Info, error) {
	info.Key = strings.TrimPrefix(info.Key, s.prefix)
	return info, s.short(err)
}

// Put implements object.Store.
func (s *Store) Put(ctx context.Context, key string, body io.Reader, size int64, opts *object.PutOptions) (object.Info, error) {
	full, err := s.full("put", key)
	if err != nil {
		return object.Info{}, err
	}
	return s.info(s.s.Put(ctx, full, body, size, opts))
}

// Get implements object.Store.
func (s *Store) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, object.Info, error) {
	full, err := s.full("get", key)
	if err != nil {
		return nil, object.Info{}, err
	}
	body, info, err := s.s.Get(ctx, full, off, n)
	info, err = s.info(info, err)
	return body, info, err
}

// ReadRange implements object.RangeReader, by Get if the store below must.
func (s *Store) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	full, err := s.full("read", key)
	if err != nil {
		return 0, err
	}
	n, err := object.ReadRange(ctx, s.s, full, p, off)
	return n, s.short(err)
}

// Head implements object.Store.
func (s *Store) Head(ctx context.Context, key string) (object.Info, error) {
	full, err := s.full("head", key)
	if err != nil {
		return object.Info{}, err
	}
	return s.info(s.s.Head(ctx, full))
}

// Delete implements object.Store.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	failed := make(map[string]error)
	fulls := make([]string, 0, len(keys))
	for _, key := range keys {
		full, err := s.full("delete", key)
		if err != nil {
			failed[key] = err
			continue
		}
		fulls = append(fulls, full)
	}
	err := s.s.Delete(ctx, fulls...)
	var de *object.DeleteError
	switch {
	case errors.As(err, &de):
		for key, err := range de.Failed {
			failed[strings.TrimPrefix(key, s.prefix)] = s.short(err)
		}
	case err != nil:
		return s.short(err)
	}
	if len(failed) > 0 {
		return &object.DeleteError{Failed: failed}
	}
	return nil
}

// List implements object.Store.
func (s *Store) List(ctx context.Context, opts object.ListOptions) (object.Page, error) {
	opts.Prefix = s.prefix + opts.Prefix
	if opts.StartAfter != "" || s.prefix != "" {
		// Also without StartAfter: an object named as the prefix itself has no key.
		opts.StartAfter = s.prefix + opts.StartAfter
	}
	page, err := s.s.List(ctx, opts)
	if err != nil {
		return object.Page{}, s.short(err)
	}
	for i := range page.Objects {
		page.Objects[i].Key = strings.TrimPrefix(page.Objects[i].Key, s.prefix)
	}
	for i := range page.Prefixes {
		page.Prefixes[i] = strings.TrimPrefix(page.Prefixes[i], s.prefix)
	}
	return page, nil
}

// Copy implements object.Store.
func (s *Store) Copy(ctx context.Context, dst, src string, opts *object.PutOptions) (object.Info, error) {
	from, err := s.full("copy", src)
	if err != nil {
		return object.Info{}, err
	}
	to, err := s.full("copy", dst)
	if err != nil {
		return object.Info{}, err
	}
	return s.info(s.s.Copy(ctx, to, from, opts))
}

// Forwards implements object.Forwarder. There is no Unwrap: abilities that Store
// knows nothing of must not be used past the prefix.
func (s *Store) Forwards() object.Store { return s.s }

// Rename implements object.Renamer if the store below does.
func (s *Store) Rename(ctx context.Context, dst, src string) error {
	from, err := s.full("rename", src)
	if err != nil {
		return err
	}
	to, err := s.full("rename", dst)
	if err != nil {
		return err
	}
	r, ok := object.As[object.Renamer](s.s)
	if !ok {
		return &object.Error{Op: "rename", Key: src, Err: object.ErrUnsupported}
	}
	return s.short(r.Rename(ctx, to, from))
}

// PresignGet implements object.Presigner if the store below does.
func (s *Store) PresignGet(ctx context.Context, key string, life time.Duration) (object.SignedRequest, error) {
	full, p, err := s.presigner("sign get", key)
	if err != nil {
		return object.SignedRequest{}, err
	}
	r, err := p.PresignGet(ctx, full, life)
	return r, s.short(err)
}

// PresignPut implements object.Presigner if the store below does.
func (s *Store) PresignPut(ctx context.Context, key string, size int64, sum *uint32, life time.Duration, opts *object.PutOptions) (object.SignedRequest, error) {
	full, p, err := s.presigner("sign put", key)
	if err != nil {
		return object.SignedRequest{}, err
	}
	r, err := p.PresignPut(ctx, full, size, sum, life, opts)
	return r, s.short(err)
}

func (s *Store) presigner(op, key string) (full string, p object.Presigner, err error) {
	if full, err = s.full(op, key); err != nil {
		return "", nil, err
	}
	p, ok := object.As[object.Presigner](s.s)
	if !ok {
		return "", nil, &object.Error{Op: op, Key: key, Err: object.ErrUnsupported}
	}
	return full, p, nil
}

// PartLimits implements object.Multipart if the store below does.
func (s *Store) PartLimits() (minSize, maxSize int64, maxParts int) {
	if m, ok := object.As[object.Multipart](s.s); ok {
		return m.PartLimits()
	}
	return 0, 0, 0
}

// CreateMultipart implements object.Multipart if the store below does.
func (s *Store) CreateMultipart(ctx context.Context, key string, opts *object.PutOptions) (object.Upload, error) {
	full, err := s.full("create upload", key)
	if err != nil {
		return nil, err
	}
	m, ok := object.As[object.Multipart](s.s)
	if !ok {
		return nil, &object.Error{Op: "create upload", Key: key, Err: object.ErrUnsupported}
	}
	up, err := m.CreateMultipart(ctx, full, opts)
	if err != nil {
		return nil, s.short(err)
	}
	return &upload{s, up}, nil
}

// AbortStale implements object.Multipart if the store below does.
func (s *Store) AbortStale(ctx context.Context, prefix string, before time.Time) (int, error) {
	m, ok := object.As[object.Multipart](s.s)
	if !ok {
		return 0, &object.Error{Op: "abort stale uploads", Key: prefix, Err: object.ErrUnsupported}
	}
	n, err := m.AbortStale(ctx, s.prefix+prefix, before)
	return n, s.short(err)
}

type upload struct {
	s  *Store
	up object.Upload
}

func (u *upload) PutPart(ctx context.Context, n int, body io.Reader, size int64) (object.Part, error) {
	part, err := u.up.PutPart(ctx, n, body, size)
	return part, u.s.short(err)
}

func (u *upload) Complete(ctx context.Context, parts []object.Part) (object.Info, error) {
	return u.s.info(u.up.Complete(ctx, parts))
}

func (u *upload) Abort(ctx context.Context) error { return u.s.short(u.up.Abort(ctx)) }
