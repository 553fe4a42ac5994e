package retry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/massif-fs/massif/object"
)

// replay gives the body of a write, once for each attempt.
type replay struct {
	body   io.Reader
	seeker io.Seeker // nil: cannot be repeated
	start  int64
	used   bool  // a byte of a body that cannot be repeated was read
	err    error // of the body itself
}

func newReplay(body io.Reader) *replay {
	r := &replay{body: body}
	if s, ok := body.(io.Seeker); ok {
		if start, err := s.Seek(0, io.SeekCurrent); err == nil {
			r.seeker, r.start = s, start
		}
	}
	return r
}

// next returns the body for an attempt.
func (r *replay) next(try int) (io.Reader, error) {
	if try > 0 && r.seeker != nil {
		if _, err := r.seeker.Seek(r.start, io.SeekStart); err != nil {
			return nil, fmt.Errorf("%w: body cannot be sent again: %w", object.ErrInvalid, err)
		}
	}
	if _, ok := r.body.(object.MemoryBody); ok {
		return r.body, nil // drivers send it without a copy, and it has no errors
	}
	return (*watched)(r), nil
}

// again reports whether another attempt can be made after err.
func (r *replay) again(err error) bool {
	return r.err == nil && !r.used && Retryable(err)
}

// watched is the body with an eye on what happens to it.
type watched replay

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.body.Read(p)
	if n > 0 && w.seeker == nil {
		w.used = true
	}
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}

// Put implements object.Store. See the package comment about bodies, and about
// conditions.
func (s *Store) Put(ctx context.Context, key string, body io.Reader, size int64, opts *object.PutOptions) (info object.Info, err error) {
	r := newReplay(body)
	lost := false // the outcome of an earlier attempt is not known
	err = s.try(ctx, "put", key, r.again, func(ctx context.Context, try int) error {
		body, err := r.next(try)
		if err != nil {
			return &object.Error{Op: "put", Key: key, Err: err}
		}
		info, err = s.s.Put(ctx, key, body, size, opts)
		if err != nil && lost && failedCondition(err, opts) {
			info, err = s.isOurs(ctx, key, r, err)
		}
		lost = lost || err != nil
		return err
	})
	return info, err
}

// failedCondition reports whether a condition of opts may have failed because an
// earlier attempt succeeded.
func failedCondition(err error, opts *object.PutOptions) bool {
	return opts != nil && (opts.IfAbsent && errors.Is(err, object.ErrExists) || opts.IfMatch != "" && errors.Is(err, object.ErrPrecondition))
}

// isOurs compares the object that is there with the body. If they are equal the
// Put has succeeded, else failed is what its caller gets.
func (s *Store) isOurs(ctx context.Context, key string, r *replay, failed error) (object.Info, error) {
	there, info, err := s.s.Get(ctx, key, 0, -1)
	if err != nil {
		if errors.Is(err, object.ErrNotFound) {
			err = failed
		}
		return object.Info{}, err
	}
	defer there.Close()
	ours, err := r.next(1)
	if err != nil {
		return object.Info{}, failed
	}
	same, err := object.SameBytes(there, ours)
	switch {
	case err != nil && r.err == nil:
		return object.Info{}, err // may pass
	case err != nil || !same:
		return object.Info{}, failed
	}
	return info, nil
}

// Copy implements object.Store. A condition that fails after an attempt whose
// outcome is not known is decided by comparing the objects.
func (s *Store) Copy(ctx context.Context, dst, src string, opts *object.PutOptions) (info object.Info, err error) {
	lost := false
	err = s.try(ctx, "copy", src, Retryable, func(ctx context.Context, _ int) (err error) {
		info, err = s.s.Copy(ctx, dst, src, opts)
		if err != nil && lost && failedCondition(err, opts) {
			info, err = s.isCopy(ctx, dst, src, err)
		}
		lost = lost || err != nil
		return err
	})
	return info, err
}

// isCopy compares two objects, as isOurs does.
func (s *Store) isCopy(ctx context.Context, dst, src string, failed error) (object.Info, error) {
	a, ainfo, err := s.s.Get(ctx, dst, 0, -1)
	if err != nil {
		return object.Info{}, errors.Join(failed, err)
	}
	defer a.Close()
	b, binfo, err := s.s.Get(ctx, src, 0, -1)
	if err != nil {
		return object.Info{}, errors.Join(failed, err)
	}
	defer b.Close()
	if ainfo.Size != binfo.Size {
		return object.Info{}, failed
	}
	same, err := object.SameBytes(a, b)
	if err != nil {
		return object.Info{}, err
	}
	if !same {
		return object.Info{}, failed
	}
	return ainfo, nil
}

// Rename implements object.Renamer if the store below does. A source that is
// missing after an attempt whose outcome is not known was renamed by it, if the
// destination is there.
func (s *Store) Rename(ctx context.Context, dst, src string) error {
	r, ok := object.As[object.Renamer](s.s)
	if !ok {
		return &object.Error{Op: "rename", Key: src, Err: object.ErrUnsupported}
	}
	lost := false
	return s.try(ctx, "rename", src, Retryable, func(ctx context.Context, _ int) error {
		err := r.Rename(ctx, dst, src)
		if lost && errors.Is(err, object.ErrNotFound) {
			if _, herr := s.s.Head(ctx, dst); herr == nil {
				return nil
			}
		}
		lost = lost || err != nil
		return err
	})
}

// PartLimits implements object.Multipart if the store below does.
func (s *Store) PartLimits() (minSize, maxSize int64, maxParts int) {
	if m, ok := object.As[object.Multipart](s.s); ok {
		return m.PartLimits()
	}
	return 0, 0, 0
}

// CreateMultipart implements object.Multipart if the store below does. An attempt
// whose answer was lost may leave an upload for AbortStale.
func (s *Store) CreateMultipart(ctx context.Context, key string, opts *object.PutOptions) (object.Upload, error) {
	m, ok := object.As[object.Multipart](s.s)
	if !ok {
		return nil, &object.Error{Op: "create upload", Key: key, Err: object.ErrUnsupported}
	}
	var up object.Upload
	err := s.try(ctx, "create upload", key, Retryable, func(ctx context.Context, _ int) (err error) {
		up, err = m.CreateMultipart(ctx, key, opts)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &upload{s, up, key}, nil
}

// AbortStale implements object.Multipart if the store below does. The number may
// leave out uploads of attempts that failed.
func (s *Store) AbortStale(ctx context.Context, prefix string, before time.Time) (int, error) {
	m, ok := object.As[object.Multipart](s.s)
	if !ok {
		return 0, &object.Error{Op: "abort stale uploads", Key: prefix, Err: object.ErrUnsupported}
	}
	total := 0
	err := s.try(ctx, "abort stale uploads", prefix, Retryable, func(ctx context.Context, _ int) error {
		n, err := m.AbortStale(ctx, prefix, before)
		total += n
		return err
	})
	return total, err
}

type upload struct {
	s   *Store
	up  object.Upload
	key string
}

// PutPart implements object.Upload. A repeated part replaces the earlier one.
func (u *upload) PutPart(ctx context.Context, n int, body io.Reader, size int64) (part object.Part, err error) {
	r := newReplay(body)
	err = u.s.try(ctx, "put part", u.key, r.again, func(ctx context.Context, try int) error {
		body, err := r.next(try)
		if err != nil {
			return &object.Error{Op: "put part", Key: u.key, Err: err}
		}
		part, err = u.up.PutPart(ctx, n, body, size)
		return err
	})
	return part, err
}

// Complete implements object.Upload. An upload that has gone after an attempt
// whose outcome is not known was completed by it, if the object has the size and
// is no older than the attempt.
func (u *upload) Complete(ctx context.Context, parts []object.Part) (info object.Info, err error) {
	lost := false
	begun := time.Now().Add(-clockSlack)
	err = u.s.try(ctx, "complete upload", u.key, Retryable, func(ctx context.Context, _ int) (err error) {
		info, err = u.up.Complete(ctx, parts)
		if lost && errors.Is(err, object.ErrNotFound) {
			info, err = u.isComplete(ctx, parts, begun, err)
		}
		lost = lost || err != nil
		return err
	})
	return info, err
}

// clockSlack is how far the server's clock may differ from ours.
const clockSlack = 15 * time.Minute

func (u *upload) isComplete(ctx context.Context, parts []object.Part, begun time.Time, failed error) (object.Info, error) {
	var size int64
	for _, p := range parts {
		size += p.Size
	}
	info, err := u.s.s.Head(ctx, u.key)
	switch {
	case errors.Is(err, object.ErrNotFound):
		return object.Info{}, failed
	case err != nil:
		return object.Info{}, err
	case info.Size != size || info.ModTime.Before(begun):
		return object.Info{}, failed
	}
	return info, nil
}

// Abort implements object.Upload.
func (u *upload) Abort(ctx context.Context) error {
	return u.s.try(ctx, "abort upload", u.key, Retryable, func(ctx context.Context, _ int) error { return u.up.Abort(ctx) })
}
