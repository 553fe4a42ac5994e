package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/tree/local"
	"github.com/massif-fs/massif/tree/overlay"
	"github.com/massif-fs/massif/vfs"
)

func init() { RegisterKind("overlay", func() TreeConfig { return &OverlayTree{} }) }

// OverlayTree is a writable layer over an image or a directory that nobody changes:
//
//	tree:
//	  kind: overlay
//	  lower: {kind: image, path: /srv/images/debian.fl}
//	  layer: web1      # optional: its name, or an absolute path; else it ends with the mount
//	  size: 2GiB       # optional: limit
type OverlayTree struct {
	Lower Tree   `yaml:"lower" json:"lower"`
	Layer string `yaml:"layer,omitempty" json:"layer,omitempty"`
	Size  Size   `yaml:"size,omitempty" json:"size,omitempty"`
}

// Validate implements TreeConfig.
func (t *OverlayTree) Validate() error {
	if t.Lower.Config == nil {
		return &UsageError{errors.New("an overlay needs a lower tree")}
	}
	switch t.Lower.Kind {
	case "image", "local":
	default:
		return &UsageError{fmt.Errorf("a tree of kind %s cannot be below a layer: it can change; an image or a local directory can", t.Lower.Kind)}
	}
	if strings.Contains(t.Layer, "/") && !filepath.IsAbs(t.Layer) || strings.HasPrefix(t.Layer, ".") || len(t.Layer) > 4000 {
		return &UsageError{fmt.Errorf("layer %.80q is neither a name nor an absolute path", t.Layer)}
	}
	return t.Lower.Config.Validate()
}

// layerDir returns the directory of the layer, and whether it ends with the mount.
func (t *OverlayTree) layerDir() (dir string, temporary bool, err error) {
	if filepath.IsAbs(t.Layer) {
		return filepath.Clean(t.Layer), false, nil
	}
	home, err := Home()
	if err != nil {
		return "", false, err
	}
	layers := filepath.Join(home, "layers")
	if t.Layer != "" {
		return filepath.Join(layers, t.Layer), false, nil
	}
	if err := os.MkdirAll(layers, 0o700); err != nil {
		return "", false, err
	}
	if err := sweepLayers(layers); err != nil {
		return "", false, err
	}
	dir, err = os.MkdirTemp(layers, temporaryLayer)
	return dir, true, err
}

const (
	// temporaryLayer begins the names of layers that end with their mounts.
	temporaryLayer = ".temporary-"
	layerUpper     = "upper"
	layerLock      = "lock"
)

// lockLayer makes a layer's directory and takes its lock, which is released with the file.
func lockLayer(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, layerLock), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		err = vfs.WithErrno(syscall.EBUSY, errors.New("it is in use by another mount"))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// sweepLayers removes temporary layers whose mounts have ended without doing so.
func sweepLayers(layers string) error {
	left, err := filepath.Glob(filepath.Join(layers, temporaryLayer+"*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		// One without a lock file is just being made.
		if !exists(filepath.Join(dir, layerLock)) {
			continue
		}
		lock, err := lockLayer(dir)
		if errors.Is(err, syscall.EBUSY) {
			continue
		}
		if err == nil {
			err = errors.Join(os.RemoveAll(dir), lock.Close())
		}
		if err != nil {
			return fmt.Errorf("layer %s: %w", dir, err)
		}
	}
	return nil
}

// identity names the lower tree, so that a layer is not used over another one.
func (t *OverlayTree) identity() (string, error) {
	switch c := t.Lower.Config.(type) {
	case *ImageTree:
		sum, err := fileSum(c.Path)
		if err != nil {
			return "", fmt.Errorf("image %s: %w", c.Path, err)
		}
		return "image sha256 " + sum, nil
	case *LocalTree:
		return "directory " + c.Path, nil
	}
	return "", errors.New("the lower tree is of a kind without identity")
}

// Open implements TreeConfig.
func (t *OverlayTree) Open(ctx context.Context, env *Env) (_ *Opened, err error) {
	if env.Options.ReadOnly {
		return nil, &UsageError{errors.New("option \"ro\" and a writable layer contradict each other; mount what is below it")}
	}
	if env.Options.RootSquash {
		return nil, &UsageError{errors.New("option \"root-squash\" is for volumes, not for layers")}
	}
	identity, err := t.identity()
	if err != nil {
		return nil, err
	}
	options := *env.Options
	options.ReadOnly = true
	below := *env
	below.Options = &options
	lower, err := t.Lower.Config.Open(ctx, &below)
	if err != nil {
		return nil, err
	}
	closeLower := func() error {
		if lower.Close == nil {
			return nil
		}
		return lower.Close()
	}
	fail := func(err error, more ...error) (*Opened, error) {
		return nil, errors.Join(append([]error{err}, more...)...)
	}
	dir, temporary, err := t.layerDir()
	if err != nil {
		return fail(fmt.Errorf("layer: %w", err), lower.FS.Close(), closeLower())
	}
	if within(env.Point, dir) {
		return fail(fmt.Errorf("mount point %s lies inside the layer's directory %s", env.Point, dir), lower.FS.Close(), closeLower())
	}
	lock, err := lockLayer(dir)
	if err != nil {
		return fail(fmt.Errorf("layer %s: %w", dir, err), lower.FS.Close(), closeLower())
	}
	end := func() error {
		err := closeLower()
		if temporary {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		return errors.Join(err, lock.Close())
	}
	upper, err := openUpper(filepath.Join(dir, layerUpper), lower.FS)
	if err != nil {
		return fail(fmt.Errorf("layer %s: %w", dir, err), lower.FS.Close(), end())
	}
	fs, err := overlay.New(ctx, upper, lower.FS, overlay.Options{Limit: int64(t.Size), Identity: identity, Volatile: temporary, Logger: env.Log})
	if err != nil {
		return fail(fmt.Errorf("layer %s: %w", dir, err), end())
	}
	opened := &Opened{FS: fs, Source: lower.Source, Stats: map[string]func() any{}, DropCaches: lower.DropCaches, Close: end}
	for name, read := range lower.Stats {
		opened.Stats[name] = read
	}
	opened.Stats["layer"] = func() any {
		used, limit := fs.Usage()
		return layerStats{Used: used, Limit: limit}
	}
	return opened, nil
}

// layerStats are the figures of a layer, in bytes; Used is 0 without a limit.
type layerStats struct {
	Used  int64 `json:"used"`
	Limit int64 `json:"limit"`
}

// openUpper opens the upper tree of a layer. A new one gets owner and mode of the lower
// root, which the upper one stands for.
func openUpper(dir string, lower vfs.FS) (*local.FS, error) {
	syscall.Umask(0) // as for a local tree
	err := os.Mkdir(dir, 0o700)
	isNew := err == nil
	if err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	if isNew {
		var a vfs.Attr
		if err := lower.GetAttr(context.Background(), &vfs.Caller{}, vfs.Root, &a); err != nil {
			return nil, err
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(dir, int(a.UID), int(a.GID)); err != nil {
				return nil, err
			}
		}
		if err := unix.Chmod(dir, a.Mode&0o7777); err != nil {
			return nil, err
		}
	}
	return local.Open(dir, local.Options{Exclusive: true})
}
