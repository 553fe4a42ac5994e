package file

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/massif-fs/massif/object"
	"golang.org/x/sys/unix"
)

const (
	// pageSize is the length of a page when the caller gives none, that of S3.
	pageSize = 1000
	// maxPage bounds what a caller can ask for.
	maxPage = 10_000
)

// maxNames is the number of names of one directory held in memory (up to twice
// that many while it is read). A larger directory is read several times. Tests
// change it.
var maxNames = 50_000

// List implements object.Store. The token of a page is its last key or prefix,
// after a '>'.
func (s *Store) List(ctx context.Context, opts object.ListOptions) (object.Page, error) {
	page, err := s.list(ctx, opts)
	if err != nil {
		return object.Page{}, wrap("list", opts.Prefix, err)
	}
	return page, nil
}

func (s *Store) list(ctx context.Context, opts object.ListOptions) (object.Page, error) {
	if err := ctx.Err(); err != nil {
		return object.Page{}, err
	}
	if s.closed.Load() {
		return object.Page{}, errClosed
	}
	if err := opts.Validate(); err != nil {
		return object.Page{}, err
	}
	after := opts.StartAfter
	if opts.Token != "" {
		last, ok := strings.CutPrefix(opts.Token, ">")
		if !ok {
			return object.Page{}, fmt.Errorf("%w: not a token of this store", object.ErrInvalid)
		}
		after = max(after, last)
	}
	limit := opts.Limit
	if limit == 0 {
		limit = pageSize
	}
	limit = min(limit, maxPage)

	w := s.walks.take(s, opts.Prefix, opts.Delimiter, after)
	if w == nil {
		var err error
		if w, err = s.newWalk(opts.Prefix, opts.Delimiter, after); err != nil {
			return object.Page{}, err
		}
	}
	var page object.Page
	last := ""
	for range limit {
		if err := ctx.Err(); err != nil {
			return object.Page{}, err
		}
		e, err := w.next()
		if err == io.EOF {
			return page, nil
		}
		if err != nil {
			return object.Page{}, err
		}
		if e.rolled {
			page.Prefixes = append(page.Prefixes, e.key)
		} else {
			page.Objects = append(page.Objects, infoOf(e.key, &e.stat, attrs{}))
		}
		last = e.key
	}
	if w.exhausted() {
		return page, nil
	}
	page.Next = ">" + last
	w.after = last
	s.walks.keep(w)
	return page, nil
}

// walk goes through the tree in the order of keys. It holds the names of the
// directories between the root and its position.
type walk struct {
	s             *Store
	prefix, delim string
	after         string // entries up to it are left out
	stack         []*listing
	used          time.Time
}

type entry struct {
	key    string
	rolled bool // a prefix
	stat   unix.Stat_t
}

// listing is a directory in the order of keys.
type listing struct {
	rel   string // path
	base  string // what the keys of the directory begin with
	items []item
	pos   int
	more  bool   // the directory goes on after items
	floor string // fragments up to it are done with
	at    dirStamp
}

// item is a name in a directory.
type item struct {
	frag string // see fragmentOf
	name string
	dir  bool
}

// dirStamp tells whether a directory was changed.
type dirStamp struct {
	ino          uint64
	mtime, ctime unix.Timespec
	fresh        bool // changed so lately that a further change might not show
}

func stampOf(st *unix.Stat_t) dirStamp {
	return dirStamp{st.Ino, st.Mtim, st.Ctim, time.Since(time.Unix(st.Mtim.Unix())) < freshTime}
}

// newWalk begins at the directory that holds all keys with the prefix.
func (s *Store) newWalk(prefix, delim, after string) (*walk, error) {
	w := &walk{s: s, prefix: prefix, delim: delim, after: after}
	dir, rest := dirOf(prefix)
	l := &listing{rel: path.Clean(dir), base: prefix[:len(prefix)-len(rest)]}
	if err := w.read(l); err != nil && err != unix.ENOENT && err != unix.ENOTDIR {
		return nil, err
	}
	w.stack = append(w.stack, l)
	return w, nil
}

// read fills l with the next names of its directory.
func (w *walk) read(l *listing) error {
	l.items, l.pos, l.more = nil, 0, false
	fd, err := w.s.openDirAt(l.rel)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), l.rel)
	defer f.Close()
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return err
	}
	l.at = stampOf(&st) // of before the names are read
	bound := ""         // fragments from it on are left for the next read
	for {
		batch, err := f.ReadDir(2000)
		for _, e := range batch {
			it, ok := w.itemOf(l, e)
			if !ok || it.frag <= l.floor && l.floor != "" || bound != "" && it.frag >= bound {
				continue
			}
			l.items = append(l.items, it)
		}
		if len(l.items) > 2*maxNames {
			sortItems(l.items)
			bound = l.items[maxNames].frag
			clear(l.items[maxNames:])
			l.items = l.items[:maxNames]
			l.more = true
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	sortItems(l.items)
	return nil
}

func sortItems(items []item) {
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.frag, b.frag) })
}

// itemOf says what a directory entry stands for, false if it is foreign or cannot
// hold what the walk looks for.
func (w *walk) itemOf(l *listing, e os.DirEntry) (item, bool) {
	frag, kind := fragmentOf(e.Name())
	switch {
	case kind == fileName && e.Type().IsRegular():
		full := l.base + frag
		return item{frag, e.Name(), false}, full > w.after && strings.HasPrefix(full, w.prefix)
	case kind == dirName && e.IsDir():
		full := l.base + frag
		ok := strings.HasPrefix(full, w.prefix) || strings.HasPrefix(w.prefix, full)
		return item{frag, e.Name(), true}, ok && (full > w.after || strings.HasPrefix(w.after, full))
	}
	return item{}, false
}

// next returns the next entry, io.EOF at the end.
func (w *walk) next() (entry, error) {
	for len(w.stack) > 0 {
		l := w.stack[len(w.stack)-1]
		if l.pos == len(l.items) {
			if !l.more {
				w.stack = w.stack[:len(w.stack)-1]
				continue
			}
			err := w.read(l)
			if err == unix.ENOENT || err == unix.ENOTDIR {
				continue
			}
			if err != nil {
				return entry{}, err
			}
			continue
		}
		it := l.items[l.pos]
		l.pos++
		l.floor = it.frag
		e, ok, err := w.visit(l, it)
		if ok || err != nil {
			return e, err
		}
	}
	return entry{}, io.EOF
}

// visit returns the entry that an item makes, or goes down into a directory.
func (w *walk) visit(l *listing, it item) (e entry, ok bool, err error) {
	e.key = l.base + it.frag
	rel := path.Join(l.rel, it.name)
	if !it.dir {
		if object.ValidKey(e.key) != nil {
			return e, false, nil
		}
		err := retry(func() error { return unix.Fstatat(w.s.root, rel, &e.stat, unix.AT_SYMLINK_NOFOLLOW) })
		if err == unix.ENOENT || err == unix.ENOTDIR {
			return e, false, nil // deleted meanwhile
		}
		return e, err == nil && e.stat.Mode&unix.S_IFMT == unix.S_IFREG, err
	}
	if w.delim != "" && strings.HasSuffix(e.key, "/") && len(e.key) > len(w.prefix) {
		if e.key <= w.after {
			return e, false, nil
		}
		e.rolled = true
		some, err := w.s.holdsObject(rel)
		return e, some, err
	}
	below := &listing{rel: rel, base: e.key}
	err = w.read(below)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return e, false, nil
	}
	if err == nil {
		w.stack = append(w.stack, below)
	}
	return e, false, err
}

// exhausted reports whether the walk is certainly at its end.
func (w *walk) exhausted() bool {
	for _, l := range w.stack {
		if l.pos < len(l.items) || l.more {
			return false
		}
	}
	return true
}

// holdsObject reports whether there is an object below a directory.
func (s *Store) holdsObject(rel string) (bool, error) {
	fd, err := s.openDirAt(rel)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	f := os.NewFile(uintptr(fd), rel)
	defer f.Close()
	for {
		batch, err := f.ReadDir(100)
		for _, e := range batch {
			switch _, kind := fragmentOf(e.Name()); {
			case kind == fileName && e.Type().IsRegular():
				return true, nil
			case kind == dirName && e.IsDir():
				if some, err := s.holdsObject(path.Join(rel, e.Name())); some || err != nil {
					return some, err
				}
			}
		}
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// walks keeps the walks whose next page is likely to be asked for, so that a
// large directory is read once and not once a page.
type walks struct {
	mu     sync.Mutex
	idle   []*walk // the one used last at the end
	timer  *time.Timer
	closed bool
}

const (
	maxWalks = 2
	walkIdle = 30 * time.Second
)

// keep takes a walk that the caller has done with.
func (ws *walks) keep(w *walk) {
	w.used = time.Now()
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.closed {
		return
	}
	ws.idle = append(ws.idle, w)
	if len(ws.idle) > maxWalks {
		ws.idle = slices.Delete(ws.idle, 0, 1)
	}
	if ws.timer == nil {
		ws.timer = time.AfterFunc(walkIdle, ws.expire)
	}
}

// expire forgets the walks that nobody has gone on with.
func (ws *walks) expire() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.idle = slices.DeleteFunc(ws.idle, func(w *walk) bool { return time.Since(w.used) >= walkIdle })
	ws.timer = nil
	if len(ws.idle) > 0 && !ws.closed {
		ws.timer = time.AfterFunc(walkIdle, ws.expire)
	}
}

// take returns a walk that goes on after the given entry, nil if there is none or
// a directory that it holds was changed: each page shows what is there when it is
// asked for.
func (ws *walks) take(s *Store, prefix, delim, after string) *walk {
	ws.mu.Lock()
	i := slices.IndexFunc(ws.idle, func(w *walk) bool {
		return w.prefix == prefix && w.delim == delim && w.after == after
	})
	if i < 0 {
		ws.mu.Unlock()
		return nil
	}
	w := ws.idle[i]
	ws.idle = slices.Delete(ws.idle, i, i+1)
	ws.mu.Unlock()
	for _, l := range w.stack {
		var st unix.Stat_t
		err := retry(func() error { return unix.Fstatat(s.root, l.rel, &st, unix.AT_SYMLINK_NOFOLLOW) })
		if err != nil || l.at.fresh || stampOf(&st) != l.at {
			return nil
		}
	}
	return w
}

func (ws *walks) closeAll() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.idle, ws.closed = nil, true
	if ws.timer != nil {
		ws.timer.Stop()
	}
}
