package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
)

// List implements object.Store: directory by directory, because the service lists
// a tree in the order of its directories, which is not that of keys: "a.txt" comes
// before "a/b" as a key, and after the directory "a" as a name. Within a directory
// names come in ascending order; a directory is held back until the names before
// its key, "a/", have come.
//
// The token of a page is its last entry, a NUL, and the service's continuation
// within the directory of that entry.
func (l *Lake) List(ctx context.Context, opts object.ListOptions) (object.Page, error) {
	const op = "list"
	fail := func(err error) (object.Page, error) {
		var oe *object.Error
		if errors.As(err, &oe) {
			err = oe.Err
		}
		return object.Page{}, &object.Error{Op: op, Key: opts.Prefix, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if err := opts.Validate(); err != nil {
		return fail(err)
	}
	w := &walk{l: l, ctx: ctx, opts: opts, after: opts.StartAfter, limit: opts.Limit}
	if w.limit == 0 || w.limit > lakePage {
		w.limit = lakePage
	}
	if opts.Token != "" {
		last, marker, ok := strings.Cut(opts.Token, "\x00")
		if !ok {
			return fail(invalid("not a token of this store"))
		}
		w.after, w.marker = max(w.after, last), marker
		w.resume = dirOf(strings.TrimSuffix(last, "/"))
	}
	root := dirOf(opts.Prefix)
	if opts.Delimiter != "" {
		w.resume = root // its only directory
	}
	if refused(strings.TrimSuffix(l.cfg.Prefix+root, "/"), true) != "" {
		return object.Page{}, nil // no directory has that name
	}
	err := w.dir(root)
	switch {
	case errors.Is(err, errFull):
		w.page.Next = w.last + "\x00" + w.next
	case err != nil:
		return fail(err)
	}
	return w.page, nil
}

// lakePage is the number of entries of a page, the service's and ours.
const lakePage = 5000

// dirOf is what a key has up to its last '/', with that.
func dirOf(key string) string { return key[:strings.LastIndexByte(key, '/')+1] }

// walk makes one page of a listing.
type walk struct {
	l      *Lake
	ctx    context.Context
	opts   object.ListOptions
	after  string
	resume string // directory in which marker is good
	marker string
	limit  int

	page object.Page
	last string // last entry of the page
	next string // marker of the entry after it, in its directory
}

// errFull: the page is full, and there is more.
var errFull = errors.New("page is full")

// entry is one of a directory, by its key: that of a directory ends with '/'.
type entry struct {
	key    string
	path   lakePath
	marker string // by which the service's page was asked for that has it
}

// dir goes through a directory, "" or with '/' at its end.
func (w *walk) dir(dir string) error {
	marker := ""
	if dir == w.resume {
		marker = w.marker
	}
	var held []entry // directories, by key
	before := ""
	flush := func(until string, all bool) error {
		for len(held) > 0 && (all || held[0].key < until) {
			if err := w.directory(held[0], held); err != nil {
				return err
			}
			held = held[1:]
		}
		return nil
	}
	for {
		paths, next, err := w.l.listDir(w.ctx, dir, marker, w.limit)
		if errors.Is(err, object.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, p := range paths {
			name, ok := strings.CutPrefix(p.Name, w.l.cfg.Prefix+dir)
			if !ok || name == "" || strings.Contains(name, "/") {
				return w.l.nonsense(fmt.Sprintf("%q is listed in directory %q", p.Name, w.l.cfg.Prefix+dir))
			}
			if name <= before {
				return fmt.Errorf("%w: %s lists names out of order: %q after %q", object.ErrUnsupported, w.l.where, name, before)
			}
			before = name
			e := entry{dir + name, p, marker}
			if err := flush(e.key, false); err != nil {
				return err
			}
			if p.directory() {
				e.key += "/"
				i, _ := slices.BinarySearchFunc(held, e, func(a, b entry) int { return strings.Compare(a.key, b.key) })
				held = slices.Insert(held, i, e)
				continue
			}
			if err := w.file(e, held); err != nil {
				return err
			}
		}
		if next == "" {
			return flush("", true)
		}
		if next == marker {
			return w.l.nonsense("the listing does not get ahead")
		}
		marker = next
	}
}

// room reports errFull if the page has none for e; then the next page begins where
// e and the entries held back were listed.
func (w *walk) room(e entry, held []entry) error {
	if len(w.page.Objects)+len(w.page.Prefixes) < w.limit {
		return nil
	}
	w.next = e.marker
	if dirOf(strings.TrimSuffix(w.last, "/")) != dirOf(strings.TrimSuffix(e.key, "/")) {
		w.next = "" // the last entry is in another directory
	}
	if len(held) > 0 && w.next != "" {
		w.next = w.earliest(e, held)
	}
	return errFull
}

// earliest is the marker of the first page that has one of the entries.
func (w *walk) earliest(e entry, held []entry) string {
	first := e
	for _, h := range held {
		// Names come in order, so that of two the smaller name was on the earlier page.
		if strings.TrimSuffix(h.key, "/") < strings.TrimSuffix(first.key, "/") {
			first = h
		}
	}
	return first.marker
}

func (w *walk) file(e entry, held []entry) error {
	if e.key <= w.after || !strings.HasPrefix(e.key, w.opts.Prefix) {
		return nil
	}
	if err := w.room(e, held); err != nil {
		return err
	}
	info, err := e.path.info(e.key)
	if err != nil {
		return w.l.nonsense(err.Error())
	}
	w.page.Objects = append(w.page.Objects, info)
	w.last = e.key
	return nil
}

func (w *walk) directory(e entry, held []entry) error {
	if e.key <= w.after && !strings.HasPrefix(w.after, e.key) {
		return nil // all in it lies behind
	}
	if !strings.HasPrefix(e.key, w.opts.Prefix) {
		return nil
	}
	if w.opts.Delimiter == "" {
		return w.dir(e.key)
	}
	if e.key <= w.after {
		return nil
	}
	if err := w.room(e, held); err != nil {
		return err
	}
	w.page.Prefixes = append(w.page.Prefixes, e.key)
	w.last = e.key
	return nil
}

// lakePath is an entry of the service's listing. Numbers and booleans are strings
// there.
type lakePath struct {
	Name          string `json:"name"`
	IsDirectory   string `json:"isDirectory"`
	ContentLength string `json:"contentLength"`
	ETag          string `json:"etag"`
	LastModified  string `json:"lastModified"`
}

func (p lakePath) directory() bool { return p.IsDirectory == "true" }

func (p lakePath) info(key string) (object.Info, error) {
	info := object.Info{Key: key, ETag: strings.Trim(p.ETag, `"`)}
	var err error
	if p.ContentLength != "" {
		var n uint64
		n, err = strconv.ParseUint(p.ContentLength, 10, 63)
		info.Size = int64(n)
	}
	var terr error
	info.ModTime, terr = http.ParseTime(p.LastModified)
	if err != nil || terr != nil || info.ETag == "" {
		return object.Info{}, fmt.Errorf("entry %q has no length, time or ETag", p.Name)
	}
	return info, nil
}

// parseListing parses a page of the service's listing.
func parseListing(r io.Reader) ([]lakePath, error) {
	var doc struct {
		Paths *[]lakePath `json:"paths"`
	}
	if err := json.NewDecoder(io.LimitReader(r, 64*mib)).Decode(&doc); err != nil || doc.Paths == nil {
		return nil, errors.New("not a listing")
	}
	return *doc.Paths, nil
}

// listDir is one page of a directory, and the marker of the next.
func (l *Lake) listDir(ctx context.Context, dir, marker string, most int) ([]lakePath, string, error) {
	q := url.Values{"resource": {"filesystem"}, "recursive": {"false"}, "maxResults": {strconv.Itoa(most)}}
	if p := l.path(dir); p != "" {
		q.Set("directory", p)
	}
	if marker != "" {
		q.Set("continuation", marker)
	}
	w := watchdog.Watch(ctx, l.cfg.StallTimeout)
	defer w.End()
	resp, err := l.lake(w, lakeRequest{method: http.MethodGet, query: q})
	if err != nil {
		return nil, "", l.fail("list", dir, w, err)
	}
	w.Kick()
	paths, err := parseListing(resp.Body)
	_ = resp.Body.Close() // it has been read, or is not to be
	if err != nil {
		if cause := w.Parent().Err(); cause != nil || w.Stalled() {
			return nil, "", l.fail("list", dir, w, err)
		}
		return nil, "", l.nonsense(err.Error())
	}
	return paths, resp.Header.Get("x-ms-continuation"), nil
}
