package gcs

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/wire"
	"golang.org/x/sync/errgroup"
)

// listing is a page of the JSON interface.
type listing struct {
	Kind          string     `json:"kind"`
	Items         []resource `json:"items"`
	Prefixes      []string   `json:"prefixes"`
	NextPageToken string     `json:"nextPageToken"`
}

// List implements object.Store. A page begins where the one before ended, by
// startOffset, so that it sees what was put meanwhile whatever the service's tokens
// do; entries up to there are left out here.
//
// The token of a page is its last entry and, after a NUL, the service's token if
// the page had no new entries, else nothing.
func (s *Store) List(ctx context.Context, opts object.ListOptions) (object.Page, error) {
	const op = "list"
	fail := func(err error) (object.Page, error) {
		return object.Page{}, &object.Error{Op: op, Key: opts.Prefix, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if err := opts.Validate(); err != nil {
		return fail(err)
	}
	q := url.Values{"projection": {"noAcl"}, "prefix": {s.cfg.Prefix + opts.Prefix}}
	if opts.Delimiter != "" {
		q.Set("delimiter", opts.Delimiter)
	}
	after, token := opts.StartAfter, ""
	if opts.Token != "" {
		last, t, ok := strings.Cut(opts.Token, "\x00")
		if !ok {
			return fail(invalid("not a token of this store"))
		}
		after, token = max(after, last), t
	}
	if opts.Limit > 0 {
		q.Set("maxResults", strconv.Itoa(min(opts.Limit+1, 1000))) // the first may be after itself
	}
	if after != "" {
		q.Set("startOffset", s.cfg.Prefix+offset(after, opts))
	}
	if token != "" {
		q.Set("pageToken", token)
	}
	var got listing
	if err := s.call(ctx, op, opts.Prefix, request{method: http.MethodGet, url: s.bucketURL() + "/o", query: q}, false, &got); err != nil {
		return object.Page{}, s.bucketMissing(err)
	}
	if got.Kind != "storage#objects" {
		return fail(wire.Nonsense(s.where, "not a listing"))
	}
	page, last, err := s.pageOf(got, opts, after)
	if err != nil {
		return fail(err)
	}
	switch {
	case opts.Limit > 0 && len(page.Objects)+len(page.Prefixes) > opts.Limit:
		page = cut(page, opts.Limit)
	case got.NextPageToken == "":
	case last > after:
		page.Next = last + "\x00"
	case got.NextPageToken == token:
		return fail(wire.Nonsense(s.where, "the listing does not get ahead"))
	default:
		page.Next = last + "\x00" + got.NextPageToken
	}
	return page, nil
}

// offset is where a listing goes on after an entry. What is behind a rolled-up
// prefix is behind all keys that it stands for: '0' comes after '/'.
func offset(after string, opts object.ListOptions) string {
	if dir, ok := strings.CutSuffix(after, "/"); ok && opts.Delimiter != "" && len(after) > len(opts.Prefix) && strings.HasPrefix(after, opts.Prefix) {
		return dir + "0"
	}
	return after
}

// cut leaves the first n entries of a page.
func cut(page object.Page, n int) object.Page {
	i, j := 0, 0 // of objects and of prefixes
	last := ""
	for range n {
		if j == len(page.Prefixes) || i < len(page.Objects) && page.Objects[i].Key < page.Prefixes[j] {
			last = page.Objects[i].Key
			i++
		} else {
			last = page.Prefixes[j]
			j++
		}
	}
	return object.Page{Objects: page.Objects[:i], Prefixes: page.Prefixes[:j], Next: last + "\x00"}
}

// pageOf turns the service's page into ours. It returns the last entry, or after if
// there is none.
func (s *Store) pageOf(got listing, opts object.ListOptions, after string) (page object.Page, last string, err error) {
	last = after
	own := func(name, before string) (string, error) {
		key, ok := strings.CutPrefix(name, s.cfg.Prefix)
		switch {
		case !ok || !strings.HasPrefix(key, opts.Prefix):
			return "", wire.Nonsense(s.where, fmt.Sprintf("%q is listed, which does not begin with %q", name, s.cfg.Prefix+opts.Prefix))
		case key <= before && before != "":
			return "", fmt.Errorf("%w: %s lists names out of order: %q after %q", object.ErrUnsupported, s.where, key, before)
		}
		return key, nil
	}
	before := ""
	for _, r := range got.Items {
		key, err := own(r.Name, before)
		if err != nil {
			return page, "", err
		}
		before = key
		if key <= after || key == "" {
			continue
		}
		info, err := s.describe(key, r)
		if err != nil {
			return page, "", errors.Unwrap(err)
		}
		last = max(last, key)
		page.Objects = append(page.Objects, info)
	}
	before = ""
	for _, name := range got.Prefixes {
		key, err := own(name, before)
		if err != nil {
			return page, "", err
		}
		before = key
		if key <= after {
			continue
		}
		last = max(last, key)
		page.Prefixes = append(page.Prefixes, key)
	}
	return page, last, nil
}

// deletesAtOnce is the number of requests of one Delete under way at once. The
// service has batches, but counts and charges each request in them.
const deletesAtOnce = 32

// Delete implements object.Store.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	const op = "delete"
	if err := ctx.Err(); err != nil {
		return &object.Error{Op: op, Err: err}
	}
	var mu sync.Mutex
	failed := make(map[string]error)
	var group errgroup.Group
	group.SetLimit(deletesAtOnce)
	seen := make(map[string]bool, len(keys))
	for _, key := range keys {
		if seen[key] {
			continue
		}
		seen[key] = true
		group.Go(func() error {
			err := s.begin(ctx, op, key)
			if err == nil {
				err = s.call(ctx, op, key, request{method: http.MethodDelete, url: s.objectURL(key)}, false, nil)
			}
			if err != nil && !errors.Is(err, object.ErrNotFound) {
				mu.Lock()
				failed[key] = err
				mu.Unlock()
			}
			return nil
		})
	}
	_ = group.Wait() // the errors are in failed
	switch {
	case len(failed) == 0:
		return nil
	case ctx.Err() != nil:
		return &object.Error{Op: op, Err: errors.Join(ctx.Err(), &object.DeleteError{Failed: failed})}
	}
	return &object.DeleteError{Failed: failed}
}

// Copy implements object.Store, by rewriting inside the service, which takes as
// many requests as it wants for a large object.
func (s *Store) Copy(ctx context.Context, dst, src string, opts *object.PutOptions) (object.Info, error) {
	const op = "copy"
	if err := s.begin(ctx, op, src, dst); err != nil {
		return object.Info{}, err
	}
	var o object.PutOptions
	if opts != nil {
		o = *opts
	}
	err := o.Validate()
	if dst == src {
		err = invalid("copy onto itself")
	}
	if err != nil {
		return object.Info{}, &object.Error{Op: op, Key: src, Err: err}
	}
	from, err := s.head(ctx, op, src)
	if err != nil {
		return object.Info{}, err
	}
	if err := s.conditionHolds(ctx, op, dst, &o); err != nil {
		return object.Info{}, err
	}
	if o.ContentType == "" {
		o.ContentType = from.ContentType
	}
	if o.Metadata == nil {
		o.Metadata = from.Metadata
	}
	if o.Metadata == nil {
		o.Metadata = map[string]string{} // said in so many words, or some servers take the source's
	}
	want := map[string]any{"metadata": o.Metadata}
	if o.ContentType != "" {
		want["contentType"] = o.ContentType
	}
	if class := s.storageClass(&o); class != "" {
		want["storageClass"] = class
	}
	meta, err := json.Marshal(want)
	if err != nil {
		return object.Info{}, &object.Error{Op: op, Key: dst, Err: err}
	}
	q := s.conditions(&o)
	q.Set("projection", "noAcl")
	q.Set("ifSourceGenerationMatch", from.ETag)
	if s.cfg.KMSKey != "" {
		q.Set("destinationKmsKeyName", s.cfg.KMSKey)
	}
	for token := ""; ; {
		var got struct {
			Done         bool     `json:"done"`
			RewriteToken string   `json:"rewriteToken"`
			Resource     resource `json:"resource"`
		}
		err := s.call(ctx, op, dst, request{
			method: http.MethodPost, url: s.objectURL(src) + "/rewriteTo/b/" + url.PathEscape(s.cfg.Bucket) + "/o/" + url.PathEscape(s.cfg.Prefix+dst),
			query: q, header: http.Header{"Content-Type": {"application/json; charset=UTF-8"}}, body: bytes.NewReader(meta), size: int64(len(meta)),
		}, true, &got)
		switch {
		case err != nil:
			return object.Info{}, conditionError(err, &o)
		case got.Done:
			return s.describe(dst, got.Resource)
		case got.RewriteToken == "" || got.RewriteToken == token:
			return object.Info{}, &object.Error{Op: op, Key: dst, Err: wire.Nonsense(s.where, "the copy does not get ahead")}
		}
		token = got.RewriteToken
		q.Set("rewriteToken", token)
	}
}

// Check finds out whether the bucket is there and can be used, so that whoever
// configured it learns what is wrong before any data is at stake. With write it
// puts, reads and deletes a small object below the prefix.
func (s *Store) Check(ctx context.Context, write bool) error {
	if _, err := s.List(ctx, object.ListOptions{Limit: 1}); err != nil {
		return err
	}
	if !write {
		return nil
	}
	key := ".massif-check-" + rand.Text()
	put := func(opts *object.PutOptions) error {
		_, err := s.Put(ctx, key, bytes.NewReader([]byte("massif")), 6, opts)
		return err
	}
	if err := put(nil); err != nil {
		return err
	}
	p := make([]byte, 6)
	_, err := s.ReadRange(ctx, key, p, 0)
	if err == nil && string(p) != "massif" {
		err = &object.Error{Op: "check", Key: key, Err: fmt.Errorf("%w: the store returned other bytes than were put", object.ErrCorrupt)}
	}
	if err == nil {
		if err = put(&object.PutOptions{IfAbsent: true}); err == nil {
			err = &object.Error{Op: "check", Key: key, Err: fmt.Errorf("%w: the server ignores conditions", object.ErrUnsupported)}
		} else if errors.Is(err, object.ErrExists) {
			err = nil
		}
	}
	return errors.Join(err, s.Delete(context.WithoutCancel(ctx), key))
}
