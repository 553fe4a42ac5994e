package mount

import (
	"context"
	"fmt"
)

func init() { RegisterKind("volume", func() TreeConfig { return &VolumeTree{} }) }

// VolumeTree is a volume of the registry:
//
//	tree:
//	  kind: volume
//	  name: photos
type VolumeTree struct {
	Name string `yaml:"name" json:"name"`
}

// Validate implements TreeConfig.
func (t *VolumeTree) Validate() error {
	if !validVolumeName(t.Name) {
		return &UsageError{fmt.Errorf("%q cannot be a volume's name: use 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit", t.Name)}
	}
	return nil
}

// Open implements TreeConfig.
func (t *VolumeTree) Open(ctx context.Context, env *Env) (*Opened, error) {
	passphrase := env.Passphrase
	if file := env.Options.PassphraseFile; file != "" {
		var err error
		if passphrase, err = ReadPassphraseFile(file); err != nil {
			return nil, err
		}
		defer passphrase.Wipe()
	}
	v, err := env.Registry.OpenVolume(ctx, t.Name, OpenOptions{
		Options: env.Options, Tree: true, Point: env.Point, Passphrase: passphrase, Log: env.Log,
	})
	if err != nil {
		return nil, err
	}
	return &Opened{
		FS: squashed(v.FS, env.Options), Source: t.Name, Volume: v,
		Stats: v.Stats(), Drain: v.Blocks.Drain, DropCaches: v.Blocks.DropCaches, Close: v.Close,
	}, nil
}
