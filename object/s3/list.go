package s3

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
)

// List implements object.Store, by ListObjectsV2. It does not rely on the server
// to know StartAfter: entries up to it are left out here. A server that lists out
// of order is refused, because nobody could go through its bucket safely.
//
// The token of a page is its last entry and, after a NUL, the server's token, or
// nothing if the page goes on after the entry itself.
func (s *Store) List(ctx context.Context, opts object.ListOptions) (object.Page, error) {
	page, err := s.list(ctx, opts)
	if err != nil {
		return object.Page{}, err
	}
	return page, nil
}

func (s *Store) list(ctx context.Context, opts object.ListOptions) (object.Page, error) {
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
	in := &s3.ListObjectsV2Input{
		Bucket:       &s.cfg.Bucket,
		Prefix:       text(s.cfg.Prefix + opts.Prefix),
		Delimiter:    text(opts.Delimiter),
		EncodingType: types.EncodingTypeUrl, // keys may hold what XML cannot
	}
	if opts.Limit > 0 {
		// Never one: MinIO answers that without looking further if the prefix is a key.
		in.MaxKeys = aws.Int32(int32(min(max(opts.Limit, 2), 1000)))
	}
	after := opts.StartAfter
	if opts.Token != "" {
		last, token, ok := strings.Cut(opts.Token, "\x00")
		if !ok {
			return fail(invalid("not a token of this store"))
		}
		after = max(after, last)
		in.ContinuationToken = text(token)
	}
	if after != "" && in.ContinuationToken == nil {
		in.StartAfter = aws.String(s.cfg.Prefix + after)
	}
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	out, err := s.client.ListObjectsV2(w.Context(), in)
	if err != nil {
		return object.Page{}, s.fail(op, opts.Prefix, w, err)
	}
	if out.Name == nil && out.KeyCount == nil && out.MaxKeys == nil && out.IsTruncated == nil {
		// Some other document, as from a proxy: it must not pass for an empty bucket.
		return fail(s.nonsense("not a listing"))
	}
	page, last, err := s.pageOf(out, opts, after)
	if err != nil {
		return fail(err)
	}
	if opts.Limit == 1 && len(page.Objects)+len(page.Prefixes) > 1 {
		return firstOf(page), nil
	}
	if aws.ToBool(out.IsTruncated) {
		next := aws.ToString(out.NextContinuationToken)
		if next == "" {
			return fail(s.nonsense("a truncated page without a token"))
		}
		if next == aws.ToString(in.ContinuationToken) && last == after {
			return fail(s.nonsense("the listing does not get ahead"))
		}
		page.Next = last + "\x00" + next
	}
	return page, nil
}

// firstOf cuts a page after its first entry.
func firstOf(page object.Page) object.Page {
	if len(page.Prefixes) == 0 || len(page.Objects) > 0 && page.Objects[0].Key < page.Prefixes[0] {
		return object.Page{Objects: page.Objects[:1], Next: page.Objects[0].Key + "\x00"}
	}
	return object.Page{Prefixes: page.Prefixes[:1], Next: page.Prefixes[0] + "\x00"}
}

// pageOf turns the server's page into ours. It returns the last entry, or after
// if there is none.
func (s *Store) pageOf(out *s3.ListObjectsV2Output, opts object.ListOptions, after string) (page object.Page, last string, err error) {
	decode := func(p *string) (string, error) {
		v := aws.ToString(p)
		if out.EncodingType == types.EncodingTypeUrl {
			d, err := url.QueryUnescape(v)
			if err != nil {
				return "", s.nonsense(fmt.Sprintf("key %q is not URL encoded", v))
			}
			v = d
		}
		key, ok := strings.CutPrefix(v, s.cfg.Prefix)
		if !ok || !strings.HasPrefix(key, opts.Prefix) {
			return "", s.nonsense(fmt.Sprintf("%q is listed, which does not begin with %q", v, s.cfg.Prefix+opts.Prefix))
		}
		return key, nil
	}
	order := func(before, key string) error {
		if key <= before && before != "" {
			return fmt.Errorf("%w: %s lists keys out of order: %q after %q", object.ErrUnsupported, s.where, key, before)
		}
		return nil
	}
	last = after
	before := ""
	for _, o := range out.Contents {
		key, err := decode(o.Key)
		if err != nil {
			return page, "", err
		}
		if err := order(before, key); err != nil {
			return page, "", err
		}
		before = key
		if key <= after || key == "" {
			continue
		}
		last = max(last, key)
		page.Objects = append(page.Objects, describe(key, aws.ToInt64(o.Size), o.ETag, o.LastModified, nil, nil, string(o.StorageClass)))
	}
	before = ""
	for _, p := range out.CommonPrefixes {
		key, err := decode(p.Prefix)
		if err != nil {
			return page, "", err
		}
		if err := order(before, key); err != nil {
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
