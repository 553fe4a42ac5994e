// Package delegate mounts another storage, or a directory of it, in a namespace: the kind
// "delegate". The other storage is the parameter "storage"; "reference-container", which
// says where it comes from, must be there, but means nothing here.
package delegate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/massif-fs/massif/tree/namespace"
	"github.com/massif-fs/massif/tree/namespace/kinds"
	"github.com/massif-fs/massif/vfs"
)

func init() { kinds.Register("delegate", makeDelegate) }

func makeDelegate(p *kinds.Params, env *kinds.Env) (namespace.Storage, error) {
	if !p.Has("reference-container") {
		return namespace.Storage{}, &kinds.KeyError{Key: "reference-container"}
	}
	inner, err := kinds.Inner(p, env)
	if err != nil {
		return namespace.Storage{}, err
	}
	dir, err := p.String("subdirectory")
	if err != nil {
		return namespace.Storage{}, err
	}
	if dir != "" {
		if dir, err = kinds.CleanSubdirectory("subdirectory", dir); err != nil {
			return namespace.Storage{}, err
		}
	}
	return namespace.Storage{Open: func(ctx context.Context) (*namespace.Backend, error) {
		return open(ctx, inner, dir)
	}, File: inner.Storage.File && dir == "", EmptyWhileAbsent: inner.Storage.EmptyWhileAbsent}, nil
}

func open(ctx context.Context, inner *kinds.Made, dir string) (*namespace.Backend, error) {
	b, err := inner.Storage.Open(ctx)
	if err != nil {
		return nil, err
	}
	// Own changes are all that a delegate tells of: whom the other storage is shown
	// to besides is not known here.
	b.Watch = nil
	if err := descend(ctx, b, dir); err != nil {
		return nil, errors.Join(err, b.FS.Close(), closeOf(b))
	}
	return b, nil
}

func closeOf(b *namespace.Backend) error {
	if b.Close == nil {
		return nil
	}
	return b.Close()
}

// descend makes a directory of the storage its root.
func descend(ctx context.Context, b *namespace.Backend, dir string) error {
	if b.Root == 0 {
		b.Root = vfs.Root
	}
	if dir == "" || dir == "/" {
		return nil
	}
	var a vfs.Attr
	for _, name := range strings.Split(dir[1:], "/") {
		err := b.FS.Lookup(ctx, &vfs.Caller{}, b.Root, name, &a)
		if err == nil && !a.IsDir() {
			err = syscall.ENOTDIR
		}
		if err != nil {
			return fmt.Errorf("subdirectory %s: %w", dir, err)
		}
		b.Root = a.Ino
	}
	if pathOf := b.PathOf; pathOf != nil {
		b.PathOf = func(ino vfs.Ino) (string, bool) {
			p, ok := pathOf(ino)
			if !ok {
				return "", false
			}
			if "/"+p == dir {
				return "", true
			}
			return strings.CutPrefix("/"+p, dir+"/")
		}
	}
	return nil
}
