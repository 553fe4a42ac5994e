package bucket

import (
	"context"
	"errors"
	"slices"
	"sort"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/vfs"
)

// # Listings and cookies
//
// A cookie is a hash of the name, so that it means the same in every Dir and in every
// process. A directory that fits into the table is listed whole, its entries are
// given in the order of their cookies, and the listing answers lookups for a while. One
// that does not fit is given page by page in the order of the store's keys; what its
// cookies stand for is remembered for the latest of them, and found again by reading the
// directory from its beginning for others.

const (
	cookieMask   = 1<<61 - 1
	cookiePaged  = 1 << 61 // of a directory that is given page by page
	recentMost   = 8192
	listedAtOnce = 1000 // a directory is listed whole for a lookup up to so many entries
	aheadAttrs   = 64   // objects asked for at once for their attributes
)

var errLarge = errors.New("the directory is too large to be remembered")

type dirItem struct {
	cookie uint64
	name   string
	key    string // how the store sorts it; of paged directories
	ino    vfs.Ino
	kind   uint32
}

func cookieOf(name string) uint64 {
	return uint64(numberOf("/"+name))*0x9e3779b97f4a7c15&cookieMask | 4
}

// list gets the listing of a directory, unless it is fresh. errLarge: it has more entries
// than most. The directory is used.
func (fs *FS) list(ctx context.Context, dir *node, most int) error {
	d := dir.dir
	d.listing.Lock()
	defer d.listing.Unlock()
	began := time.Now()
	fs.mu.Lock()
	if began.Sub(d.complete) < fs.cfg.ListTimeout && !d.complete.IsZero() || dir.gone || fs.delayed(began) {
		fs.mu.Unlock()
		return nil
	}
	forgot := d.forgot
	d.listers++
	if d.changed == nil {
		d.changed = make(map[string]struct{})
	}
	fs.mu.Unlock()
	all := make(map[string]found)
	err := fs.eachPage(ctx, dir, "", func(page map[string]found, _ string) error {
		for name, f := range page {
			if old, ok := all[name]; !ok || f.kind == syscall.S_IFDIR || old.link {
				all[name] = f
			}
		}
		if len(all) > most {
			return errLarge
		}
		return nil
	})
	fs.mu.Lock()
	defer fs.mu.Unlock()
	changed := d.changed
	if d.listers--; d.listers == 0 {
		d.changed = nil
	}
	if err != nil {
		if err == errLarge {
			d.large = began
		}
		return err
	}
	for name, f := range all {
		if _, ours := changed[name]; ours {
			continue
		}
		fs.mu.Unlock()
		n, err := fs.enter(dir, name, f)
		if err == nil {
			fs.letGo(n)
		}
		fs.mu.Lock()
	}
	for name, n := range dir.children {
		_, there := all[name]
		_, ours := changed[name]
		if !there && !ours && !n.keepsItself() {
			fs.lost(n)
		}
	}
	d.misses = 0
	if d.forgot == forgot {
		d.complete = began
		d.absent = nil
	}
	return nil
}

// eachPage calls fn with the pages of a directory's listing from behind a key on, and the key
// up to which each goes: "" for the last one.
func (fs *FS) eachPage(ctx context.Context, dir *node, after string, fn func(page map[string]found, to string) error) error {
	prefix := dir.prefix()
	opts := object.ListOptions{Prefix: prefix, Delimiter: "/"}
	if after != "" {
		opts.StartAfter = prefix + after
	}
	for {
		at := time.Now()
		fs.stats.lists.Add(1)
		page, err := fs.store.List(ctx, opts)
		if err != nil {
			return err
		}
		got := make(map[string]found, len(page.Objects)+len(page.Prefixes))
		to := ""
		for _, info := range page.Objects {
			to = max(to, info.Key)
			name := info.Key[len(prefix):]
			if f, ok := fs.listed(&name, info); ok {
				f.at = at
				got[name] = f
			}
		}
		for _, p := range page.Prefixes {
			to = max(to, p)
			name := strings.TrimSuffix(p[len(prefix):], "/")
			if vfs.CheckName(name) != nil {
				continue
			}
			f, there := got[name]
			if fs.cfg.MarkedOnly && fs.real == nil && !(there && f.kind == syscall.S_IFDIR) {
				d, err := fs.askDir(ctx, prefix+name)
				if err != nil {
					return err
				}
				if d.kind == 0 {
					continue
				}
			}
			if !there || f.kind != syscall.S_IFDIR {
				got[name] = found{kind: syscall.S_IFDIR, at: at}
			}
		}
		if err := fs.sortOutFolders(ctx, prefix, got); err != nil {
			return err
		}
		if to != "" {
			to = to[len(prefix):]
		}
		if page.Next == "" {
			to = ""
		}
		if err := fn(got, to); err != nil || page.Next == "" {
			return err
		}
		opts.Token = page.Next
	}
}

// listed tells what an object of a listing is.
func (fs *FS) listed(name *string, info object.Info) (found, bool) {
	f := found{kind: syscall.S_IFREG, info: info, stored: true, known: fs.cfg.NoMetadata || info.Metadata != nil}
	if link, ok := strings.CutSuffix(*name, linkSuffix); ok && fs.cfg.Links == SuffixLinks {
		*name, f.kind, f.link = link, syscall.S_IFLNK, true
	} else if info.Metadata != nil {
		f.kind = fs.kindOf(&info)
	}
	return f, vfs.CheckName(*name) == nil // also not the marker of the directory itself
}

// sortOutFolders finds out which empty objects are directories, where that is how directories
// are kept and the listing does not tell.
func (fs *FS) sortOutFolders(ctx context.Context, prefix string, page map[string]found) error {
	if fs.cfg.Markers != FolderMarkers || fs.real != nil {
		return nil
	}
	var names []string
	for name, f := range page {
		if f.kind == syscall.S_IFREG && f.info.Size == 0 && !f.known {
			names = append(names, name)
		}
	}
	results := make([]found, len(names))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(aheadAttrs)
	for i, name := range names {
		group.Go(func() error {
			info, err := fs.head(gctx, prefix+name)
			if err == nil {
				results[i] = found{kind: fs.kindOf(&info), info: info, stored: true, known: true, at: page[name].at}
			}
			return unlessAbsent(err)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, name := range names {
		if delete(page, name); results[i].kind != 0 {
			page[name] = results[i]
		}
	}
	return nil
}

// dirHandle is an open directory.
type dirHandle struct {
	fs     *FS
	n      *node
	items  []dirItem // of a directory that fits
	page   []dirItem // of one that does not: those read last, in order
	to     string    // sort key up to which page goes; "": the end
	closed bool
}

// OpenDir implements vfs.FS.
func (fs *FS) OpenDir(ctx context.Context, c *vfs.Caller, ino vfs.Ino) (vfs.Dir, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.dirLocked(ino)
	if err != nil {
		return nil, err
	}
	n.opens++
	fs.unidle(n)
	return &dirHandle{fs: fs, n: n}, nil
}

// Close implements vfs.Dir.
func (h *dirHandle) Close() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed {
		return syscall.EBADF
	}
	h.closed = true
	h.n.opens--
	h.fs.settle(h.n)
	return nil
}

// Sync implements vfs.Dir: entries are in the store when the calls that made them return.
func (h *dirHandle) Sync(ctx context.Context) error {
	if h.fs.cfg.ReadOnly {
		return nil
	}
	return fail("fsync", "", h.fs.settleData(ctx, h.n))
}

// Read implements vfs.Dir.
func (h *dirHandle) Read(ctx context.Context, cookie uint64, plus bool, emit func(*vfs.DirEntry) bool) error {
	fs := h.fs
	if err := fs.useNode(ctx, h.n, false); err != nil {
		return fail("readdir", "", err)
	}
	defer fs.done(h.n)
	if cookie == 0 || h.items == nil && h.page == nil {
		h.page, h.items = nil, nil
		if cookie&cookiePaged == 0 {
			items, err := fs.snapshot(ctx, h.n)
			if err != nil && err != errLarge {
				return fail("readdir", "", err)
			}
			h.items = items
		}
	}
	if h.items != nil {
		i := sort.Search(len(h.items), func(i int) bool { return h.items[i].cookie > cookie })
		_, err := h.give(ctx, h.items[i:], plus, emit)
		return fail("readdir", "", err)
	}
	return fail("readdir", "", h.readPaged(ctx, cookie, plus, emit))
}

// snapshot returns a directory's entries in the order of their cookies. errLarge.
func (fs *FS) snapshot(ctx context.Context, n *node) ([]dirItem, error) {
	most := fs.cfg.MaxEntries / 2
	err := fs.list(ctx, n, most)
	if err != nil {
		return nil, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	d := n.dir
	if d.complete.IsZero() && !n.gone && !fs.delayed(time.Now()) {
		return nil, errLarge // others need the table at the moment
	}
	if d.sorted != nil {
		return d.sorted, nil
	}
	items := make([]dirItem, 0, len(n.children))
	for name, child := range n.children {
		items = append(items, dirItem{cookie: cookieOf(name), name: name, ino: child.ino, kind: child.kind})
	}
	slices.SortFunc(items, func(a, b dirItem) int {
		if a.cookie != b.cookie {
			if a.cookie < b.cookie {
				return -1
			}
			return 1
		}
		return strings.Compare(a.name, b.name)
	})
	for i := 1; i < len(items); i++ {
		items[i].cookie = max(items[i].cookie, items[i-1].cookie+1)
	}
	d.sorted = items
	return items, nil
}

// give emits entries and tells whether all of them were taken.
func (h *dirHandle) give(ctx context.Context, items []dirItem, plus bool, emit func(*vfs.DirEntry) bool) (bool, error) {
	fs := h.fs
	var de vfs.DirEntry
	for len(items) > 0 {
		some := items[:min(len(items), aheadAttrs)]
		items = items[len(some):]
		nodes := make([]*node, len(some))
		fs.mu.Lock()
		complete := !h.n.dir.complete.IsZero()
		for i := range some {
			if n := h.n.children[some[i].name]; n != nil {
				n.holds++
				fs.unidle(n)
				nodes[i] = n
			}
		}
		fs.mu.Unlock()
		if plus {
			fs.learn(ctx, nodes)
		}
		more := true
		for i, it := range some {
			n := nodes[i]
			if n == nil && complete && h.items != nil {
				continue // removed meanwhile
			}
			de = vfs.DirEntry{Name: it.name, Ino: it.ino, Mode: it.kind, Cookie: it.cookie}
			if n != nil {
				de.Ino, de.Mode = n.ino, n.kind
				if fs.knows(n) {
					if de.HasAttr = plus; plus {
						fs.fill(n, &de.Attr)
					}
				} else if n.kind == syscall.S_IFREG && fs.cfg.Links == MetadataLinks {
					if n.mu.Lock(); n.size > 0 && n.size <= vfs.MaxSymlink {
						de.Mode = 0 // it may be a link: whoever wants to know looks it up
					}
					n.mu.Unlock()
				}
			}
			if more = emit(&de); !more {
				break
			}
		}
		fs.mu.Lock()
		for _, n := range nodes {
			if n != nil {
				n.holds--
				fs.settle(n)
			}
		}
		fs.mu.Unlock()
		if !more {
			return false, nil
		}
	}
	return true, ctx.Err()
}

// knows tells whether a node's attributes are those it really has.
func (fs *FS) knows(n *node) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.known || n.local()
}

// learn asks for the metadata of objects that were only listed. What fails is asked again by
// a lookup.
func (fs *FS) learn(ctx context.Context, nodes []*node) {
	var group errgroup.Group
	for _, n := range nodes {
		if n == nil || n.isDir() || fs.knows(n) {
			continue
		}
		group.Go(func() error { return fs.freshen(ctx, n) })
	}
	_ = group.Wait()
}

// readPaged gives a directory's entries in the order of the store's keys.
func (h *dirHandle) readPaged(ctx context.Context, cookie uint64, plus bool, emit func(*vfs.DirEntry) bool) error {
	fs := h.fs
	after, known := "", cookie == 0
	for i := range h.page {
		if h.page[i].cookie == cookie {
			if all, err := h.give(ctx, h.page[i+1:], plus, emit); err != nil || !all || h.to == "" {
				return err
			}
			after, known = h.to, true
			break
		}
	}
	if !known {
		fs.mu.Lock()
		for _, m := range h.n.dir.recent {
			if key, ok := m[cookie]; ok {
				after, known = key, true
			}
		}
		fs.mu.Unlock()
	}
	from := after
	stopped := errors.New("enough")
	err := fs.eachPage(ctx, h.n, after, func(got map[string]found, to string) error {
		h.page, h.to = fs.pageItems(h.n, got, from, to), to
		from = to
		items := h.page
		if !known {
			for i := range items {
				if items[i].cookie == cookie {
					items, known = items[i+1:], true
					break
				}
			}
			if !known {
				return nil
			}
		}
		all, err := h.give(ctx, items, plus, emit)
		if err == nil && !all {
			err = stopped
		}
		return err
	})
	if err == stopped {
		err = nil
	}
	return err
}

// pageItems enters a page of a large directory into the table and returns its entries, with
// those between from and to that are not in the store yet.
func (fs *FS) pageItems(dir *node, page map[string]found, from, to string) []dirItem {
	var items []dirItem
	item := func(n *node, key string) {
		items = append(items, dirItem{cookie: cookieOf(n.name) | cookiePaged, name: n.name, key: key, ino: n.ino, kind: n.kind})
	}
	for name, f := range page {
		n, err := fs.enter(dir, name, f)
		if err != nil {
			continue
		}
		item(n, sortKey(n))
		fs.letGo(n)
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for name, n := range dir.children {
		key := sortKey(n)
		if _, ok := page[name]; !ok && key > from && (to == "" || key <= to) && n.keepsItself() {
			item(n, key)
		}
	}
	slices.SortFunc(items, func(a, b dirItem) int { return strings.Compare(a.key, b.key) })
	d := dir.dir
	for _, it := range items {
		if len(d.recent[0]) >= recentMost || d.recent[0] == nil {
			d.recent[0], d.recent[1] = make(map[uint64]string), d.recent[0]
		}
		d.recent[0][it.cookie] = it.key
	}
	return items
}

// sortKey is what the store sorts an entry by.
func sortKey(n *node) string {
	switch {
	case n.isDir():
		return n.name + "/"
	case n.link:
		return n.name + linkSuffix
	}
	return n.name
}
