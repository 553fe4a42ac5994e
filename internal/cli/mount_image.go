package cli

import (
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/massif-fs/massif/mount"
)

// imageFlags are the flags of "massif mount" for images and writable layers.
type imageFlags struct {
	stores   []string
	sha256   string
	writable bool
	layer    string
	size     sizeFlag
}

func (f *imageFlags) add(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.stores, "store", nil, "images: "+storesHelp)
	flags.StringVar(&f.sha256, "sha256", "", "images: refuse the file unless it has this `HASH`")
	flags.BoolVar(&f.writable, "writable", false, "images and local directories: put a layer on top that takes all changes and ends with the mount")
	flags.StringVar(&f.layer, "layer", "", "as --writable, but the layer stays: its `NAME`, or its directory")
	flags.Var(&f.size, "size", "limit of the layer")
}

// apply makes them part of a spec.
func (f *imageFlags) apply(spec *mount.Spec) error {
	if len(f.stores) > 0 || f.sha256 != "" {
		im, ok := spec.Tree.Config.(*mount.ImageTree)
		if !ok {
			return usageError("--store and --sha256 are for images (.fl, .flist)")
		}
		if len(f.stores) > 0 {
			im.Stores = f.stores
		}
		if f.sha256 != "" {
			im.SHA256 = f.sha256
		}
	}
	if !f.writable && f.layer == "" {
		if f.size.value != 0 {
			return usageError("--size is the limit of a layer: add --writable or --layer NAME")
		}
		return nil
	}
	layer := f.layer
	if strings.Contains(layer, "/") {
		var err error
		if layer, err = filepath.Abs(layer); err != nil {
			return err
		}
	}
	spec.Tree = mount.Tree{Kind: "overlay", Config: &mount.OverlayTree{Lower: spec.Tree, Layer: layer, Size: f.size.value}}
	return spec.Tree.Config.Validate()
}
