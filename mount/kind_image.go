package mount

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/flist"
	"github.com/massif-fs/massif/tree/image"
)

func init() { RegisterKind("image", func() TreeConfig { return &ImageTree{} }) }

// ImageTree is an image file, whose content is fetched from block stores when it is read:
//
//	tree:
//	  kind: image
//	  path: /srv/images/debian.fl
//	  stores: [https://blocks.example.com]  # optional: instead of what the image says
//	  sha256: 2c26b46b…                     # optional: of the image file
type ImageTree struct {
	Path   string   `yaml:"path" json:"path"`
	Stores []string `yaml:"stores,omitempty" json:"stores,omitempty"`
	SHA256 string   `yaml:"sha256,omitempty" json:"sha256,omitempty"`
}

// blockIdentity names what a disk cache of image blocks holds. Blocks of all images have
// names of their content alone.
const blockIdentity = "image blocks 1"

// Validate implements TreeConfig.
func (t *ImageTree) Validate() error {
	switch {
	case t.Path == "":
		return &UsageError{errors.New("an image needs a path")}
	case !filepath.IsAbs(t.Path):
		return &UsageError{fmt.Errorf("path %q of an image must be absolute", t.Path)}
	}
	if t.SHA256 != "" {
		if sum, err := hex.DecodeString(t.SHA256); err != nil || len(sum) != sha256.Size {
			return &UsageError{errors.New("the sha256 of an image has 64 hexadecimal digits")}
		}
	}
	_, err := ImageRoutes(t.Stores)
	return err
}

// ImageRoutes reads block stores as people write them: [XX-YY=]URL, see flist.ParseRoute.
func ImageRoutes(stores []string) (flist.Routes, error) {
	var routes flist.Routes
	for _, s := range stores {
		r, err := flist.ParseRoute(s)
		if err != nil {
			return nil, &UsageError{err}
		}
		routes = append(routes, r)
	}
	return routes, nil
}

// OpenImage opens an image file and its block stores: those given, else those that the
// image names.
func OpenImage(ctx context.Context, path string, stores []string) (flist.Image, *flist.Router, error) {
	im, err := flist.Open(ctx, path, flist.OpenOptions{})
	if err != nil {
		return nil, nil, err
	}
	routes, err := ImageRoutes(stores)
	if err == nil && len(routes) == 0 {
		routes, err = im.Routes(ctx)
	}
	if err == nil && len(routes) == 0 {
		err = errors.New("it does not say where its blocks are; name a block store with --store URL")
	}
	var router *flist.Router
	if err == nil {
		router, err = flist.NewRouter(ctx, im.Version(), routes)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("image %s: %w", path, err), im.Close())
	}
	return im, router, nil
}

// Open implements TreeConfig.
func (t *ImageTree) Open(ctx context.Context, env *Env) (_ *Opened, err error) {
	if env.Options.RootSquash {
		return nil, &UsageError{errors.New("option \"root-squash\" is for volumes, not for images")}
	}
	if err := t.checkSum(); err != nil {
		return nil, err
	}
	var closers []func() error
	closeAll := func() error {
		var errs []error
		for i := len(closers) - 1; i >= 0; i-- {
			errs = append(errs, closers[i]())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll())
		}
	}()
	im, router, err := OpenImage(ctx, t.Path, t.Stores)
	if err != nil {
		return nil, err
	}
	closers = append(closers, im.Close, router.Close)
	limit := memoryLimit(env.Options)
	budget := cache.NewBudget(limit - min(limit/4, 32<<20))
	bufs, err := cache.NewBuffers(budget)
	if err != nil {
		return nil, fmt.Errorf("memory: %w", err)
	}
	closers = append(closers, bufs.Close)
	memory, err := cache.NewMemory(bufs, 0)
	if err != nil {
		return nil, fmt.Errorf("memory: %w", err)
	}
	closers = append(closers, func() error { memory.Close(); return nil })
	disk, err := t.openCache(ctx, im, env)
	if err != nil {
		return nil, fmt.Errorf("disk cache: %w", err)
	}
	if disk != nil {
		closers = append(closers, disk.Close)
	}
	fs, err := image.New(image.Config{Image: im, Blocks: router, Budget: budget, Memory: memory, Disk: disk, Logger: env.Log})
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", t.Path, err)
	}
	opened := &Opened{
		FS: fs, Source: t.Path, Close: closeAll,
		Stats: map[string]func() any{
			"image":  func() any { return fs.Stats() },
			"budget": func() any { return budget.Stats() },
			"memory": func() any { return memory.Stats() },
		},
		DropCaches: func() error { memory.DropAll(); return nil },
	}
	if disk != nil {
		opened.Stats["disk"] = func() any { return disk.Stats() }
	}
	return opened, nil
}

// checkSum compares the image file with the hash that was asked for.
func (t *ImageTree) checkSum() error {
	if t.SHA256 == "" {
		return nil
	}
	sum, err := fileSum(t.Path)
	if err != nil {
		return fmt.Errorf("image %s: %w", t.Path, err)
	}
	if !strings.EqualFold(sum, t.SHA256) {
		return fmt.Errorf("image %s is not the one that was asked for: its sha256 is %s", t.Path, sum)
	}
	return nil
}

func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// openCache opens the disk cache, if there is one: blocks in directories of this machine
// need none, unless its size is given.
func (t *ImageTree) openCache(ctx context.Context, im flist.Image, env *Env) (*cache.Disk, error) {
	size := int64(defaultCacheSize)
	if env.Options.CacheSize != nil {
		size = int64(*env.Options.CacheSize)
	} else if near, err := t.near(ctx, im); err != nil || near {
		return nil, err
	}
	if size == 0 {
		return nil, nil
	}
	dir := env.Options.CacheDir
	if dir == "" {
		home, err := Home()
		if err != nil {
			return nil, err
		}
		dir = filepath.Join(home, "cache")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return openFreeDisk(filepath.Join(dir, "image-blocks"), size, blockIdentity, env.Log)
}

// near tells whether all blocks lie in directories of this machine.
func (t *ImageTree) near(ctx context.Context, im flist.Image) (bool, error) {
	routes, err := ImageRoutes(t.Stores)
	if err == nil && len(routes) == 0 {
		routes, err = im.Routes(ctx)
	}
	for _, r := range routes {
		if u, err := url.Parse(r.URL); err != nil || u.Scheme != "dir" && u.Scheme != "file" {
			return false, nil
		}
	}
	return true, err
}
