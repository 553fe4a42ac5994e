// Package mem keeps objects in memory: for tests, and for scratch volumes that
// end with the process. It has every ability of the contract in package object.
//
// Nothing bounds what it holds but the memory of the machine.
package mem

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/massif-fs/massif/object"
)

// Store is an object store in memory. Make one with New or Named.
type Store struct {
	name string

	mu      sync.RWMutex
	objects map[string]*entry
	keys    []string // sorted keys of objects; nil when they have to be sorted anew
	uploads map[*upload]struct{}
	version uint64 // of the object put last
}

// entry is an object. It never changes once it is in the map.
type entry struct {
	info object.Info
	data []byte
}

var (
	_ object.Store       = (*Store)(nil)
	_ object.Multipart   = (*Store)(nil)
	_ object.RangeReader = (*Store)(nil)
	_ object.Renamer     = (*Store)(nil)
)

// New returns an empty store.
func New() *Store {
	return &Store{name: "mem:", objects: make(map[string]*entry), uploads: make(map[*upload]struct{})}
}

var named struct {
	sync.Mutex
	stores map[string]*Store
}

// Named returns the store of that name in this process, made empty at the first
// call. It lives until Forget.
func Named(name string) *Store {
	named.Lock()
	defer named.Unlock()
	s := named.stores[name]
	if s == nil {
		s = New()
		s.name = "mem://" + name
		if named.stores == nil {
			named.stores = make(map[string]*Store)
		}
		named.stores[name] = s
	}
	return s
}

// Forget makes the next Named(name) an empty store.
func Forget(name string) {
	named.Lock()
	defer named.Unlock()
	delete(named.stores, name)
}

func (s *Store) String() string { return s.name }

// Close does nothing; a named store keeps its objects.
func (s *Store) Close() error { return nil }

// Capabilities says that the store can do everything, locally.
func (s *Store) Capabilities() object.Capabilities {
	return object.Capabilities{PutIfAbsent: true, PutIfMatch: true, Metadata: true}
}

// check is what every operation on keys begins with.
func check(ctx context.Context, op string, keys ...string) error {
	for _, key := range keys {
		if err := object.ValidKey(key); err != nil {
			return &object.Error{Op: op, Key: key, Err: err}
		}
	}
	if err := ctx.Err(); err != nil {
		return &object.Error{Op: op, Key: keys[0], Err: err}
	}
	return nil
}

// ctxReader ends a body when the context does.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func readBody(ctx context.Context, body io.Reader, size int64) ([]byte, error) {
	var b bytes.Buffer
	if size > 0 && size <= 64<<20 { // more than that only as it comes
		b.Grow(int(size) + bytes.MinRead)
	}
	if _, err := b.ReadFrom(ctxReader{ctx, object.Sized(body, size)}); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return slices.Clip(b.Bytes()), nil
}

// Put implements object.Store.
func (s *Store) Put(ctx context.Context, key string, body io.Reader, size int64, opts *object.PutOptions) (object.Info, error) {
	if err := check(ctx, "put", key); err != nil {
		return object.Info{}, err
	}
	if err := opts.Validate(); err != nil {
		return object.Info{}, &object.Error{Op: "put", Key: key, Err: err}
	}
	data, err := readBody(ctx, body, size)
	if err != nil {
		return object.Info{}, &object.Error{Op: "put", Key: key, Err: err}
	}
	return s.store("put", key, data, opts)
}

// store makes data the object key.
func (s *Store) store(op, key string, data []byte, opts *object.PutOptions) (object.Info, error) {
	if opts == nil {
		opts = &object.PutOptions{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.objects[key]
	var err error
	switch {
	case opts.IfAbsent && old != nil:
		err = object.ErrExists
	case opts.IfMatch != "" && (old == nil || old.info.ETag != opts.IfMatch):
		err = object.ErrPrecondition
	}
	if err != nil {
		return object.Info{}, &object.Error{Op: op, Key: key, Err: err}
	}
	s.version++
	info := object.Info{
		Key:          key,
		Size:         int64(len(data)),
		ETag:         strconv.FormatUint(s.version, 16),
		ModTime:      time.Now(),
		ContentType:  opts.ContentType,
		Metadata:     maps.Clone(opts.Metadata),
		StorageClass: opts.StorageClass,
	}
	s.set(key, &entry{info, data})
	return s.objects[key].describe(), nil
}

// set is called with mu held; a nil entry removes.
func (s *Store) set(key string, e *entry) {
	if _, there := s.objects[key]; there != (e != nil) {
		s.keys = nil
	}
	if e == nil {
		delete(s.objects, key)
	} else {
		s.objects[key] = e
	}
}

func (s *Store) lookup(op, key string) (*entry, error) {
	s.mu.RLock()
	e := s.objects[key]
	s.mu.RUnlock()
	if e == nil {
		return nil, &object.Error{Op: op, Key: key, Err: object.ErrNotFound}
	}
	return e, nil
}

// describe returns the entry's Info for a caller to keep.
func (e *entry) describe() object.Info {
	info := e.info
	info.Metadata = maps.Clone(info.Metadata)
	return info
}

type body struct {
	ctxReader
}

func (body) Close() error { return nil }

// Get implements object.Store.
func (s *Store) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, object.Info, error) {
	if err := check(ctx, "get", key); err != nil {
		return nil, object.Info{}, err
	}
	if off < 0 {
		return nil, object.Info{}, &object.Error{Op: "get", Key: key, Err: fmt.Errorf("%w: negative offset", object.ErrInvalid)}
	}
	e, err := s.lookup("get", key)
	if err != nil {
		return nil, object.Info{}, err
	}
	data := e.data[min(off, int64(len(e.data))):]
	if n >= 0 && n < int64(len(data)) {
		data = data[:n]
	}
	return body{ctxReader{ctx, bytes.NewReader(data)}}, e.describe(), nil
}

// ReadRange implements object.RangeReader.
func (s *Store) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if err := check(ctx, "read", key); err != nil {
		return 0, err
	}
	e, err := s.lookup("read", key)
	if err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, &object.Error{Op: "read", Key: key, Err: fmt.Errorf("%w: negative offset", object.ErrInvalid)}
	}
	n := copy(p, e.data[min(off, int64(len(e.data))):])
	if n < len(p) {
		return n, &object.Error{Op: "read", Key: key, Err: io.ErrUnexpectedEOF}
	}
	return n, nil
}

// Head implements object.Store.
func (s *Store) Head(ctx context.Context, key string) (object.Info, error) {
	if err := check(ctx, "head", key); err != nil {
		return object.Info{}, err
	}
	e, err := s.lookup("head", key)
	if err != nil {
		return object.Info{}, err
	}
	return e.describe(), nil
}

// Delete implements object.Store.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	if err := ctx.Err(); err != nil {
		return &object.Error{Op: "delete", Err: err}
	}
	failed := make(map[string]error)
	s.mu.Lock()
	for _, key := range keys {
		if err := object.ValidKey(key); err != nil {
			failed[key] = err
			continue
		}
		s.set(key, nil)
	}
	s.mu.Unlock()
	if len(failed) > 0 {
		return &object.DeleteError{Failed: failed}
	}
	return nil
}

// pageSize is the length of a page when the caller gives none, that of S3.
const pageSize = 1000

// List implements object.Store. The token of a page is its last key or prefix,
// after a '>'.
func (s *Store) List(ctx context.Context, opts object.ListOptions) (object.Page, error) {
	fail := func(err error) (object.Page, error) {
		return object.Page{}, &object.Error{Op: "list", Key: opts.Prefix, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if err := opts.Validate(); err != nil {
		return fail(err)
	}
	after := opts.StartAfter
	if opts.Token != "" {
		last, ok := strings.CutPrefix(opts.Token, ">")
		if !ok {
			return fail(fmt.Errorf("%w: not a token of this store", object.ErrInvalid))
		}
		after = max(after, last)
	}
	limit := opts.Limit
	if limit == 0 {
		limit = pageSize
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil {
		s.keys = slices.Sorted(maps.Keys(s.objects))
	}
	var page object.Page
	last := ""
	for i := sort.SearchStrings(s.keys, max(after, opts.Prefix)); i < len(s.keys); {
		key := s.keys[i]
		rest, ok := strings.CutPrefix(key, opts.Prefix)
		if !ok {
			break
		}
		entry := key
		rolled := false
		if opts.Delimiter != "" {
			if j := strings.Index(rest, opts.Delimiter); j >= 0 {
				entry, rolled = key[:len(opts.Prefix)+j+len(opts.Delimiter)], true
			}
		}
		if entry > after {
			if len(page.Objects)+len(page.Prefixes) == limit {
				page.Next = ">" + last
				break
			}
			last = entry
			if rolled {
				page.Prefixes = append(page.Prefixes, entry)
			} else {
				page.Objects = append(page.Objects, s.objects[key].describe())
			}
		}
		i++
		if rolled { // on to the first key that does not begin with it
			i += sort.Search(len(s.keys)-i, func(j int) bool { return !strings.HasPrefix(s.keys[i+j], entry) })
		}
	}
	return page, nil
}

// Copy implements object.Store. The copy shares the memory of its source.
func (s *Store) Copy(ctx context.Context, dst, src string, opts *object.PutOptions) (object.Info, error) {
	if err := check(ctx, "copy", src, dst); err != nil {
		return object.Info{}, err
	}
	var o object.PutOptions
	if opts != nil {
		o = *opts
	}
	err := o.Validate()
	if dst == src {
		err = fmt.Errorf("%w: copy onto itself", object.ErrInvalid)
	}
	if err != nil {
		return object.Info{}, &object.Error{Op: "copy", Key: src, Err: err}
	}
	e, err := s.lookup("copy", src)
	if err != nil {
		return object.Info{}, err
	}
	if o.ContentType == "" {
		o.ContentType = e.info.ContentType
	}
	if o.Metadata == nil {
		o.Metadata = e.info.Metadata
	}
	return s.store("copy", dst, e.data, &o)
}

// Rename implements object.Renamer.
func (s *Store) Rename(ctx context.Context, dst, src string) error {
	if err := check(ctx, "rename", src, dst); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.objects[src]
	if e == nil {
		return &object.Error{Op: "rename", Key: src, Err: object.ErrNotFound}
	}
	if dst == src {
		return nil
	}
	moved := *e
	moved.info.Key = dst
	s.set(src, nil)
	s.set(dst, &moved)
	return nil
}
