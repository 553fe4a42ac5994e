// Package memory mounts in a namespace what stands in the parameters themselves: the
// kinds "static" (files with their content), "dummy" (an empty directory) and
// "pseudomanifest" (one file, at the mount path itself).
package memory

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/massif-fs/massif/tree/namespace"
	"github.com/massif-fs/massif/tree/namespace/kinds"
	"github.com/massif-fs/massif/tree/pathtree"
	"github.com/massif-fs/massif/vfs"
)

func init() {
	kinds.Register("static", makeStatic)
	kinds.Register("dummy", func(*kinds.Params, *kinds.Env) (namespace.Storage, error) {
		return storage(Files{}), nil
	})
	kinds.Register("pseudomanifest", makeManifest)
}

// Files are files by path.
type Files map[string]string

func makeStatic(p *kinds.Params, _ *kinds.Env) (namespace.Storage, error) {
	if !p.Has("content") {
		return namespace.Storage{}, &kinds.KeyError{Key: "content"}
	}
	files := Files{}
	if err := files.add("", p.Raw("content")); err != nil {
		return namespace.Storage{}, err
	}
	return storage(files), nil
}

// add takes an object of names and their content: a text, or again an object.
func (f Files) add(dir string, raw json.RawMessage) error {
	var names map[string]json.RawMessage
	if err := json.Unmarshal(raw, &names); err != nil || names == nil {
		return fmt.Errorf("content: %q must be an object of names", "/"+dir)
	}
	for name, value := range names {
		if err := vfs.CheckName(name); err != nil {
			return fmt.Errorf("content: %q: %w", name, err)
		}
		p := path.Join(dir, name)
		var text string
		if json.Unmarshal(value, &text) == nil {
			f[p] = text
			continue
		}
		f[p+"/"] = ""
		if err := f.add(p, value); err != nil {
			return err
		}
	}
	return nil
}

func storage(f Files) namespace.Storage {
	return namespace.Storage{Open: func(context.Context) (*namespace.Backend, error) {
		return &namespace.Backend{FS: f.tree()}, nil
	}}
}

func (f Files) tree() *pathtree.FS {
	return pathtree.New(&source{files: f, dirs: f.listings()}, uint32(os.Geteuid()), uint32(os.Getegid()), vfs.Forever)
}

// listings are the names in each directory.
func (f Files) listings() map[string][]pathtree.Info {
	dirs := map[string][]pathtree.Info{"": nil}
	var paths []string
	for p := range f {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	for _, p := range paths {
		clean, isDir := strings.CutSuffix(p, "/")
		if isDir && dirs[clean] == nil {
			dirs[clean] = []pathtree.Info{}
		}
		dir := path.Dir("/" + clean)[1:]
		dirs[dir] = append(dirs[dir], pathtree.Info{Name: path.Base(clean), Dir: isDir, Size: int64(len(f[p])), Mtime: time.Unix(0, 0)})
	}
	return dirs
}

// source is files in memory.
type source struct {
	files Files
	dirs  map[string][]pathtree.Info
	mode  uint32
}

func (s *source) Stat(_ context.Context, p string) (pathtree.Info, error) {
	info := pathtree.Info{Name: path.Base(p), Mtime: time.Unix(0, 0)}
	if _, ok := s.dirs[p]; ok {
		info.Dir = true
		return info, nil
	}
	text, ok := s.files[p]
	if !ok {
		return info, syscall.ENOENT
	}
	info.Size, info.Mode = int64(len(text)), s.mode
	return info, nil
}

func (s *source) List(_ context.Context, p string) ([]pathtree.Info, error) {
	list, ok := s.dirs[p]
	if !ok {
		return nil, syscall.ENOENT
	}
	return list, nil
}

func (s *source) Open(_ context.Context, p string) (pathtree.Content, error) {
	text, ok := s.files[p]
	if !ok {
		return nil, syscall.ENOENT
	}
	return textContent{strings.NewReader(text)}, nil
}

func (s *source) Close() error { return nil }

type textContent struct{ *strings.Reader }

func (c textContent) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	if off >= c.Size() {
		return 0, io.EOF
	}
	return c.Reader.ReadAt(p, off)
}

func (c textContent) Close() error { return nil }

// manifestName is the file that a pseudomanifest storage consists of; it is shown at the
// mount path, whatever that is called.
const manifestName = ".manifest.wildland.yaml"

// manifestHead stands before the manifest's text.
const manifestHead = "# This file describes the container that is mounted here. It cannot be edited here.\n"

// makeManifest makes a file of a container's manifest. It is for reading: changing a
// container is its client's business.
func makeManifest(p *kinds.Params, _ *kinds.Env) (namespace.Storage, error) {
	text, err := p.Required("content")
	if err != nil {
		return namespace.Storage{}, err
	}
	files := Files{manifestName: manifestHead + text}
	return namespace.Storage{File: true, Open: func(context.Context) (*namespace.Backend, error) {
		fs := files.tree()
		root := fs.Number(manifestName)
		return &namespace.Backend{FS: fs, Root: root}, nil
	}}, nil
}
