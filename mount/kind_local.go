package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/massif-fs/massif/tree/local"
)

func init() { RegisterKind("local", func() TreeConfig { return &LocalTree{} }) }

// LocalTree is a directory of this machine, passed through:
//
//	tree:
//	  kind: local
//	  path: /srv/data
type LocalTree struct {
	Path string `yaml:"path" json:"path"`
}

// Validate implements TreeConfig.
func (t *LocalTree) Validate() error {
	if t.Path == "" {
		return &UsageError{errors.New("a local tree needs a path")}
	}
	if !filepath.IsAbs(t.Path) {
		return &UsageError{fmt.Errorf("path %q of a local tree must be absolute", t.Path)}
	}
	return nil
}

// Open implements TreeConfig.
func (t *LocalTree) Open(_ context.Context, env *Env) (*Opened, error) {
	if env.Options.RootSquash {
		return nil, &UsageError{errors.New("option \"root-squash\" is for volumes, not for local directories")}
	}
	info, err := os.Stat(t.Path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("directory %s does not exist", t.Path)
	case err != nil:
		return nil, fmt.Errorf("directory %s: %w", t.Path, err)
	case !info.IsDir():
		return nil, fmt.Errorf("%s is not a directory", t.Path)
	}
	dir, err := filepath.EvalSymlinks(t.Path)
	if err != nil {
		return nil, fmt.Errorf("directory %s: %w", t.Path, err)
	}
	// A directory passed through to a place inside itself contains itself.
	if within(env.Point, dir) {
		return nil, fmt.Errorf("mount point %s lies inside the directory %s that would be mounted there", env.Point, dir)
	}
	// Modes come from programs, whose umask the kernel or the tree has applied: that
	// of this process must not take bits away once more. A process that serves a
	// local tree makes no other files with modes that rely on it.
	syscall.Umask(0)
	fs, err := local.Open(dir, local.Options{ReadOnly: env.Options.ReadOnly, Valid: time.Second})
	if err != nil {
		return nil, fmt.Errorf("directory %s: %w", t.Path, err)
	}
	return &Opened{FS: fs, Source: "file://" + dir}, nil
}
