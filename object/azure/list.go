package azure

import (
	"context"
	"fmt"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
)

// List implements object.Store. The service has no StartAfter that it can be relied
// on for: entries up to it are asked for and left out. A page then may be empty
// where more follow.
//
// The token of a page is its last entry and, after a NUL, the service's marker.
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
	after := opts.StartAfter
	var marker *string
	if opts.Token != "" {
		last, m, ok := strings.Cut(opts.Token, "\x00")
		if !ok || m == "" {
			return fail(invalid("not a token of this store"))
		}
		after = max(after, last)
		marker = &m
	}
	var most *int32
	if opts.Limit > 0 {
		n := int32(min(opts.Limit, 5000))
		most = &n
	}
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	got, err := s.listOnce(w.Context(), opts, marker, most)
	if err != nil {
		return object.Page{}, s.fail(op, opts.Prefix, w, err)
	}
	page, last, err := s.pageOf(got, opts, after)
	if err != nil {
		return fail(err)
	}
	if got.next != "" {
		if marker != nil && got.next == *marker && last == after {
			return fail(s.nonsense("the listing does not get ahead"))
		}
		page.Next = last + "\x00" + got.next
	}
	return page, nil
}

// listed is a page of the service.
type listed struct {
	items    []*container.BlobItem
	prefixes []*container.BlobPrefix
	next     string
}

func (s *Store) listOnce(ctx context.Context, opts object.ListOptions, marker *string, most *int32) (listed, error) {
	c, err := s.container()
	if err != nil {
		return listed{}, err
	}
	prefix := s.cfg.Prefix + opts.Prefix
	text := func(p *string) string {
		if p == nil {
			return ""
		}
		return *p
	}
	if opts.Delimiter == "" {
		out, err := c.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: &prefix, Marker: marker, MaxResults: most}).NextPage(ctx)
		if err != nil {
			return listed{}, err
		}
		if out.Segment == nil || out.ContainerName == nil {
			return listed{}, s.nonsense("not a listing")
		}
		return listed{out.Segment.BlobItems, nil, text(out.NextMarker)}, nil
	}
	out, err := c.NewListBlobsHierarchyPager(opts.Delimiter, &container.ListBlobsHierarchyOptions{Prefix: &prefix, Marker: marker, MaxResults: most}).NextPage(ctx)
	if err != nil {
		return listed{}, err
	}
	if out.Segment == nil || out.ContainerName == nil {
		return listed{}, s.nonsense("not a listing")
	}
	return listed{out.Segment.BlobItems, out.Segment.BlobPrefixes, text(out.NextMarker)}, nil
}

// pageOf turns the service's page into ours. It returns the last entry, or after if
// there is none.
func (s *Store) pageOf(got listed, opts object.ListOptions, after string) (page object.Page, last string, err error) {
	own := func(name *string) (string, error) {
		if name == nil {
			return "", s.nonsense("an entry without a name")
		}
		key, ok := strings.CutPrefix(*name, s.cfg.Prefix)
		if !ok || !strings.HasPrefix(key, opts.Prefix) {
			return "", s.nonsense(fmt.Sprintf("%q is listed, which does not begin with %q", *name, s.cfg.Prefix+opts.Prefix))
		}
		return key, nil
	}
	order := func(before, key string) error {
		if key <= before && before != "" {
			return fmt.Errorf("%w: %s lists names out of order: %q after %q", object.ErrUnsupported, s.where, key, before)
		}
		return nil
	}
	last = after
	before := ""
	for _, o := range got.items {
		key, err := own(o.Name)
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
		p := o.Properties
		if p == nil || p.ContentLength == nil || etag(p.ETag) == "" {
			return page, "", s.nonsense("an entry without length or ETag")
		}
		last = max(last, key)
		var tier *string
		if p.AccessTier != nil {
			t := string(*p.AccessTier)
			tier = &t
		}
		page.Objects = append(page.Objects, describe(key, *p.ContentLength, p.ETag, p.LastModified, p.ContentType, nil, tier))
	}
	before = ""
	for _, p := range got.prefixes {
		key, err := own(p.Name)
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
