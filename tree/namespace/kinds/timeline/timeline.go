// Package timeline mounts another storage by time in a namespace: the kind "timeline"
// (once "date-proxy"). A file d/f of the other storage that was modified on 2026-01-31
// (UTC) is 2026/01/31/d/f/f. It is read-only; the other storage is scanned when it is used
// and the last scan is older than three seconds.
package timeline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"sync"
	"syscall"
	"time"

	"github.com/massif-fs/massif/tree/namespace"
	"github.com/massif-fs/massif/tree/namespace/kinds"
	"github.com/massif-fs/massif/tree/pathtree"
	"github.com/massif-fs/massif/vfs"
)

func init() {
	kinds.Register("timeline", makeTimeline)
	kinds.Register("date-proxy", makeTimeline)
}

const (
	// validity is how long a scan is used.
	validity = 3 * time.Second
	// maxFiles bounds a scan.
	maxFiles = 1 << 20
	maxDepth = 256
)

func makeTimeline(p *kinds.Params, env *kinds.Env) (namespace.Storage, error) {
	if !p.Has("reference-container") {
		return namespace.Storage{}, &kinds.KeyError{Key: "reference-container"}
	}
	inner, err := kinds.Inner(p, env)
	if err != nil {
		return namespace.Storage{}, err
	}
	return namespace.Storage{Open: func(ctx context.Context) (*namespace.Backend, error) {
		b, err := inner.Storage.Open(ctx)
		if err != nil {
			return nil, err
		}
		s := &source{inner: b, root: b.Root}
		if s.root == 0 {
			s.root = vfs.Root
		}
		fs := pathtree.New(s, uint32(os.Geteuid()), uint32(os.Getegid()), 0)
		return &namespace.Backend{FS: fs, PathOf: fs.PathOf, ClearCache: s.clearCache}, nil
	}}, nil
}

// source is the other storage, and the last scan of it.
type source struct {
	inner *namespace.Backend
	root  vfs.Ino

	mu   sync.Mutex
	last *scan
}

// scan is where files are.
type scan struct {
	at    time.Time
	files map[string]vfs.Attr // by path here
	dirs  map[string][]pathtree.Info
	n     int
}

func (s *source) clearCache(ctx context.Context) error {
	s.mu.Lock()
	s.last = nil
	s.mu.Unlock()
	if s.inner.ClearCache != nil {
		return s.inner.ClearCache(ctx)
	}
	return nil
}

// current is a scan that is young enough. Others wait for one that is under way.
func (s *source) current(ctx context.Context) (*scan, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != nil && time.Since(s.last.at) < validity {
		return s.last, nil
	}
	next := &scan{at: time.Now(), files: map[string]vfs.Attr{}, dirs: map[string][]pathtree.Info{"": nil}}
	if err := s.walk(ctx, next, s.root, "", 0); err != nil {
		return nil, err
	}
	s.last = next
	return next, nil
}

// walk finds the files below a directory of the other storage.
func (s *source) walk(ctx context.Context, next *scan, dir vfs.Ino, at string, depth int) error {
	if depth > maxDepth {
		return vfs.WithErrno(syscall.ELOOP, fmt.Errorf("timeline: directories are nested more than %d deep", maxDepth))
	}
	c := &vfs.Caller{}
	d, err := s.inner.FS.OpenDir(ctx, c, dir)
	if err != nil {
		return err
	}
	var names []string
	var cookie uint64
	for {
		n := 0
		err = d.Read(ctx, cookie, false, func(e *vfs.DirEntry) bool {
			n++
			cookie = e.Cookie
			names = append(names, e.Name)
			return true
		})
		if err != nil || n == 0 {
			break
		}
	}
	if err := errors.Join(err, d.Close()); err != nil {
		return err
	}
	for _, name := range names {
		var a vfs.Attr
		err := s.inner.FS.Lookup(ctx, c, dir, name, &a)
		switch {
		case vfs.ErrnoOf(err) == syscall.ENOENT:
			continue // gone meanwhile
		case err != nil:
			return err
		case a.IsDir():
			if err := s.walk(ctx, next, a.Ino, path.Join(at, name), depth+1); err != nil {
				return err
			}
		case a.IsRegular():
			if next.n++; next.n > maxFiles {
				return vfs.WithErrno(syscall.EFBIG, fmt.Errorf("timeline: there are more than %d files", maxFiles))
			}
			next.add(path.Join(at, name), a)
		}
	}
	return nil
}

// add enters a file under the day of its modification.
func (n *scan) add(p string, a vfs.Attr) {
	t := a.Mtime.Time()
	here := path.Join(t.Format("2006/01/02"), p, path.Base(p))
	n.files[here] = a
	info := pathtree.Info{Name: path.Base(here), Size: int64(a.Size), Mtime: t}
	for at := here; at != ""; {
		dir := path.Dir("/" + at)[1:]
		_, known := n.dirs[dir]
		n.dirs[dir] = append(n.dirs[dir], info)
		if known {
			return
		}
		info = pathtree.Info{Name: path.Base(dir), Dir: true, Mtime: t}
		at = dir
	}
}

// Stat implements pathtree.Source.
func (s *source) Stat(ctx context.Context, p string) (pathtree.Info, error) {
	n, err := s.current(ctx)
	if err != nil {
		return pathtree.Info{}, err
	}
	if _, ok := n.dirs[p]; ok {
		return pathtree.Info{Name: path.Base(p), Dir: true}, nil
	}
	a, ok := n.files[p]
	if !ok {
		return pathtree.Info{}, syscall.ENOENT
	}
	return pathtree.Info{Name: path.Base(p), Size: int64(a.Size), Mtime: a.Mtime.Time()}, nil
}

// List implements pathtree.Source.
func (s *source) List(ctx context.Context, p string) ([]pathtree.Info, error) {
	n, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	list, ok := n.dirs[p]
	if !ok {
		return nil, syscall.ENOENT
	}
	return list, nil
}

// Open implements pathtree.Source.
func (s *source) Open(ctx context.Context, p string) (pathtree.Content, error) {
	n, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	a, ok := n.files[p]
	if !ok {
		return nil, syscall.ENOENT
	}
	f, err := s.inner.FS.Open(ctx, &vfs.Caller{}, a.Ino, syscall.O_RDONLY)
	if vfs.ErrnoOf(err) == syscall.ESTALE { // gone, or forgotten since the scan
		s.mu.Lock()
		s.last = nil
		s.mu.Unlock()
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Close implements pathtree.Source.
func (s *source) Close() error {
	err := s.inner.FS.Close()
	if s.inner.Close != nil {
		err = errors.Join(err, s.inner.Close())
	}
	return err
}
