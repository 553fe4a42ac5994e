// Package ziparchive mounts a ZIP file in a namespace: the kind "zip-archive". It is
// read-only, and read anew when the file has another size or time of modification; while
// somebody watches, that is looked for once a second.
//
// Entries whose names lead out of the archive, or that are neither files nor directories,
// are left out. Compressed files are read as streams: forwards at their speed, backwards
// from the beginning again, in memory that does not depend on their size.
package ziparchive

import (
	"archive/zip"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/massif-fs/massif/tree/namespace"
	"github.com/massif-fs/massif/tree/namespace/kinds"
	"github.com/massif-fs/massif/tree/namespace/kinds/localdir"
	"github.com/massif-fs/massif/tree/pathtree"
	"github.com/massif-fs/massif/vfs"
)

func init() { kinds.Register("zip-archive", makeArchive) }

// maxEntries bounds what an archive may list.
const maxEntries = 1 << 20

func makeArchive(p *kinds.Params, _ *kinds.Env) (namespace.Storage, error) {
	location, err := p.Required("location")
	if err != nil {
		return namespace.Storage{}, err
	}
	if !filepath.IsAbs(location) {
		return namespace.Storage{}, fmt.Errorf("location %q is not absolute", location)
	}
	trusted, err := p.Bool("is-local-owner", true)
	if err != nil {
		return namespace.Storage{}, err
	}
	owner, err := p.String("owner")
	if err != nil {
		return namespace.Storage{}, err
	}
	return namespace.Storage{Open: func(context.Context) (*namespace.Backend, error) {
		if !trusted {
			if err := localdir.CheckOwner(filepath.Dir(location), owner); err != nil {
				return nil, err
			}
		}
		a := &archive{location: location}
		if _, err := a.current(); err != nil {
			return nil, fmt.Errorf("archive %s: %w", location, err)
		}
		fs := pathtree.New(a, uint32(os.Geteuid()), uint32(os.Getegid()), 0)
		return &namespace.Backend{FS: fs, PathOf: fs.PathOf, Watch: a.watch}, nil
	}}, nil
}

// archive is the file, and what was read of it.
type archive struct {
	location string

	mu   sync.Mutex
	seen *contents // nil: closed
}

// contents are an archive as it was at one time. They are closed with their last user.
type contents struct {
	size  int64
	mtime time.Time
	file  *os.File
	files map[string]*zip.File
	dirs  map[string][]pathtree.Info
	users int // open files; guarded by archive.mu
}

// current is the archive as it is now. The caller must not keep it beyond the call
// unless it counts as a user.
func (a *archive) current() (*contents, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.currentLocked()
}

func (a *archive) currentLocked() (*contents, error) {
	info, err := os.Stat(a.location)
	if err != nil {
		return nil, err
	}
	if c := a.seen; c != nil && info.Size() == c.size && info.ModTime().Equal(c.mtime) {
		return c, nil
	}
	c, err := readContents(a.location)
	if err != nil {
		return nil, err
	}
	old := a.seen
	a.seen = c
	if old != nil {
		a.settleLocked(old)
	}
	return c, nil
}

// settleLocked closes contents that are not the present ones and that nobody reads.
func (a *archive) settleLocked(c *contents) {
	if c.users == 0 && a.seen != c {
		c.file.Close()
	}
}

func readContents(location string) (*contents, error) {
	f, err := os.Open(location)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	r, err := zip.NewReader(f, info.Size())
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		f.Close()
		return nil, vfs.WithErrno(syscall.EIO, err)
	}
	if len(r.File) > maxEntries {
		f.Close()
		return nil, vfs.WithErrno(syscall.EFBIG, fmt.Errorf("it has more than %d entries", maxEntries))
	}
	c := &contents{size: info.Size(), mtime: info.ModTime(), file: f, files: map[string]*zip.File{}, dirs: map[string][]pathtree.Info{"": nil}}
	c.index(r.File)
	return c, nil
}

// index finds files and directories. Of two with the same name the later one wins, as
// programs that unpack would have it; a file that others lie below is none.
func (c *contents) index(files []*zip.File) {
	times := map[string]time.Time{}
	for _, f := range files {
		name := strings.TrimSuffix(f.Name, "/")
		if !sound(name) {
			continue
		}
		for dir := path.Dir("/" + name)[1:]; dir != ""; dir = path.Dir("/" + dir)[1:] {
			c.dirs[dir] = nil
		}
		switch {
		case strings.HasSuffix(f.Name, "/"):
			c.dirs[name] = nil
			times[name] = f.Modified
		case f.Mode().IsRegular():
			c.files[name] = f
		}
	}
	for dir := range c.dirs {
		delete(c.files, dir)
	}
	add := func(p string, i pathtree.Info) {
		dir := path.Dir("/" + p)[1:]
		i.Name = path.Base(p)
		c.dirs[dir] = append(c.dirs[dir], i)
	}
	var dirs []string
	for dir := range c.dirs {
		dirs = append(dirs, dir)
	}
	for _, dir := range dirs {
		if dir != "" {
			add(dir, pathtree.Info{Dir: true, Mtime: c.timeOf(times[dir])})
		}
	}
	for p, f := range c.files {
		add(p, c.info(f))
	}
}

func (c *contents) timeOf(t time.Time) time.Time {
	if t.IsZero() {
		return c.mtime
	}
	return t
}

func (c *contents) info(f *zip.File) pathtree.Info {
	return pathtree.Info{Name: path.Base(f.Name), Size: int64(min(f.UncompressedSize64, 1<<62)), Mtime: c.timeOf(f.Modified)}
}

// sound tells whether a name is a path within the archive.
func sound(name string) bool {
	for _, part := range strings.Split(name, "/") {
		if vfs.CheckName(part) != nil {
			return false
		}
	}
	return true
}

// Stat implements pathtree.Source.
func (a *archive) Stat(_ context.Context, p string) (pathtree.Info, error) {
	c, err := a.current()
	if err != nil {
		return pathtree.Info{}, err
	}
	if _, ok := c.dirs[p]; ok {
		return pathtree.Info{Name: path.Base(p), Dir: true, Mtime: c.mtime}, nil
	}
	if f := c.files[p]; f != nil {
		return c.info(f), nil
	}
	return pathtree.Info{}, syscall.ENOENT
}

// List implements pathtree.Source.
func (a *archive) List(_ context.Context, p string) ([]pathtree.Info, error) {
	c, err := a.current()
	if err != nil {
		return nil, err
	}
	list, ok := c.dirs[p]
	if !ok {
		return nil, syscall.ENOENT
	}
	return list, nil
}

// Open implements pathtree.Source. An open file is of the archive as it was then.
func (a *archive) Open(_ context.Context, p string) (pathtree.Content, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, err := a.currentLocked()
	if err != nil {
		return nil, err
	}
	f := c.files[p]
	if f == nil {
		return nil, syscall.ENOENT
	}
	c.users++
	return &stream{a: a, c: c, f: f}, nil
}

// Close implements pathtree.Source.
func (a *archive) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.seen
	a.seen = nil
	if c != nil {
		a.settleLocked(c)
	}
	return nil
}

// stream reads a file of an archive at any place.
type stream struct {
	a *archive
	c *contents
	f *zip.File

	mu sync.Mutex
	r  io.ReadCloser
	at int64
}

// ReadAt implements pathtree.Content. Damage is found where it is read, and by the checksum
// at the end of a reading from the beginning.
func (s *stream) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.r == nil || off < s.at {
		if err := s.restart(); err != nil {
			return 0, s.failed(err)
		}
	}
	if off > s.at {
		n, err := io.CopyN(io.Discard, s.r, off-s.at)
		s.at += n
		if err == io.EOF {
			return 0, io.EOF
		}
		if err != nil {
			return 0, s.failed(err)
		}
	}
	n, err := io.ReadFull(s.r, p)
	s.at += int64(n)
	switch {
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return n, io.EOF
	case err != nil:
		return n, s.failed(err)
	}
	return n, nil
}

func (s *stream) restart() (err error) {
	if s.r != nil {
		s.r.Close()
	}
	s.at = 0
	s.r, err = s.f.Open()
	return err
}

func (s *stream) failed(err error) error {
	var corrupt flate.CorruptInputError
	if errors.Is(err, zip.ErrChecksum) || errors.Is(err, zip.ErrFormat) || errors.As(err, &corrupt) {
		err = fmt.Errorf("the archive is damaged: %w", err)
	}
	if errors.Is(err, zip.ErrAlgorithm) {
		return &vfs.Error{Op: "read", Name: s.f.Name, Err: vfs.WithErrno(syscall.EOPNOTSUPP, err)}
	}
	return &vfs.Error{Op: "read", Name: s.f.Name, Err: vfs.WithErrno(syscall.EIO, err)}
}

// Close implements pathtree.Content.
func (s *stream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.r != nil {
		s.r.Close()
		s.r = nil
	}
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	s.c.users--
	s.a.settleLocked(s.c)
	return nil
}

// pollInterval is how often a watched archive is looked at.
const pollInterval = time.Second

// watch implements namespace.Backend.Watch.
func (a *archive) watch(fn func([]namespace.Event)) (stop func(), err error) {
	before, err := a.current()
	if err != nil {
		return nil, err
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(pollInterval)
		defer ticker.Stop()
		for {
			select {
			case <-quit:
				return
			case <-ticker.C:
			}
			now, err := a.current()
			if err != nil || now == before {
				continue // it may be being replaced
			}
			if events := differences(before, now); len(events) > 0 {
				fn(events)
			}
			before = now
		}
	}()
	return func() {
		close(quit)
		<-done
	}, nil
}

// differences are the events that lead from one state to another: what is gone, what is
// new, what is different.
func differences(before, now *contents) []namespace.Event {
	lists := map[namespace.EventType][]string{}
	for p, old := range before.files {
		f := now.files[p]
		switch {
		case f == nil:
			lists[namespace.EventDelete] = append(lists[namespace.EventDelete], p)
		case f.CRC32 != old.CRC32 || f.UncompressedSize64 != old.UncompressedSize64 || !f.Modified.Equal(old.Modified):
			lists[namespace.EventModify] = append(lists[namespace.EventModify], p)
		}
	}
	for p := range now.files {
		if before.files[p] == nil {
			lists[namespace.EventCreate] = append(lists[namespace.EventCreate], p)
		}
	}
	for p := range before.dirs {
		if _, ok := now.dirs[p]; !ok {
			lists[namespace.EventDelete] = append(lists[namespace.EventDelete], p)
		}
	}
	for p := range now.dirs {
		if _, ok := before.dirs[p]; !ok {
			lists[namespace.EventCreate] = append(lists[namespace.EventCreate], p)
		}
	}
	var out []namespace.Event
	for _, t := range []namespace.EventType{namespace.EventDelete, namespace.EventCreate, namespace.EventModify} {
		sort.Strings(lists[t])
		for _, p := range lists[t] {
			out = append(out, namespace.Event{Type: t, Path: p})
		}
	}
	return out
}
