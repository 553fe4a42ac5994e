package mem

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/massif-fs/massif/object"
)

// PartLimits implements object.Multipart; the figures leave parts as free as
// memory is.
func (s *Store) PartLimits() (minSize, maxSize int64, maxParts int) {
	return 0, math.MaxInt64, 10_000
}

type upload struct {
	s       *Store
	key     string
	opts    object.PutOptions
	started time.Time

	mu     sync.Mutex
	parts  map[int]part
	serial uint64
	done   bool
}

type part struct {
	data []byte
	etag string
}

// CreateMultipart implements object.Multipart.
func (s *Store) CreateMultipart(ctx context.Context, key string, opts *object.PutOptions) (object.Upload, error) {
	if err := check(ctx, "create upload", key); err != nil {
		return nil, err
	}
	if err := opts.Validate(); err != nil {
		return nil, &object.Error{Op: "create upload", Key: key, Err: err}
	}
	u := &upload{s: s, key: key, started: time.Now(), parts: make(map[int]part)}
	if opts != nil {
		u.opts = *opts
	}
	s.mu.Lock()
	s.uploads[u] = struct{}{}
	s.mu.Unlock()
	return u, nil
}

// AbortStale implements object.Multipart.
func (s *Store) AbortStale(ctx context.Context, prefix string, before time.Time) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, &object.Error{Op: "abort stale uploads", Key: prefix, Err: err}
	}
	s.mu.Lock()
	var stale []*upload
	for u := range s.uploads {
		if strings.HasPrefix(u.key, prefix) && u.started.Before(before) {
			stale = append(stale, u)
		}
	}
	s.mu.Unlock()
	for _, u := range stale {
		u.end()
	}
	return len(stale), nil
}

func (u *upload) fail(op string, err error) error {
	return &object.Error{Op: op, Key: u.key, Err: err}
}

var errEnded = fmt.Errorf("upload: %w", object.ErrNotFound)

// PutPart implements object.Upload.
func (u *upload) PutPart(ctx context.Context, n int, body io.Reader, size int64) (object.Part, error) {
	const op = "put part"
	if n < 1 {
		return object.Part{}, u.fail(op, fmt.Errorf("%w: part number %d", object.ErrInvalid, n))
	}
	data, err := readBody(ctx, body, size)
	if err != nil {
		return object.Part{}, u.fail(op, err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.done {
		return object.Part{}, u.fail(op, errEnded)
	}
	u.serial++
	p := part{data, strconv.FormatUint(u.serial, 16)}
	u.parts[n] = p
	return object.Part{Number: n, Size: int64(len(data)), ETag: p.etag}, nil
}

// Complete implements object.Upload.
func (u *upload) Complete(ctx context.Context, parts []object.Part) (object.Info, error) {
	const op = "complete upload"
	if err := ctx.Err(); err != nil {
		return object.Info{}, u.fail(op, err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.done {
		return object.Info{}, u.fail(op, errEnded)
	}
	if len(parts) == 0 {
		return object.Info{}, u.fail(op, fmt.Errorf("%w: no parts", object.ErrInvalid))
	}
	parts = slices.SortedFunc(slices.Values(parts), func(a, b object.Part) int { return a.Number - b.Number })
	var all [][]byte
	for i, p := range parts {
		have, ok := u.parts[p.Number]
		if !ok || have.etag != p.ETag || i > 0 && parts[i-1].Number == p.Number {
			return object.Info{}, u.fail(op, fmt.Errorf("%w: part %d is not the one that was uploaded", object.ErrInvalid, p.Number))
		}
		all = append(all, have.data)
	}
	info, err := u.s.store(op, u.key, bytes.Join(all, nil), &u.opts)
	if err == nil {
		u.endLocked()
	}
	return info, err
}

// Abort implements object.Upload.
func (u *upload) Abort(context.Context) error {
	u.end()
	return nil
}

func (u *upload) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.endLocked()
}

func (u *upload) endLocked() {
	u.done, u.parts = true, nil
	u.s.mu.Lock()
	delete(u.s.uploads, u)
	u.s.mu.Unlock()
}
