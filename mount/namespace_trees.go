package mount

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/massif-fs/massif/tree/namespace"
	nskinds "github.com/massif-fs/massif/tree/namespace/kinds"
)

// Massif's own trees as kinds of storages in a namespace: the parameters are those of the
// spec's "tree" section, with "type" for "kind", and "passphrase-file".
func init() {
	for _, kind := range []string{"volume", "shared"} {
		nskinds.Register(kind, treeMaker(kind))
	}
}

func treeMaker(kind string) nskinds.Maker {
	return func(p *nskinds.Params, env *nskinds.Env) (namespace.Storage, error) {
		config := kinds[kind]()
		if err := json.Unmarshal(p.Object(), config); err != nil {
			return namespace.Storage{}, fmt.Errorf("storage of type %s: %w", kind, err)
		}
		if err := config.Validate(); err != nil {
			return namespace.Storage{}, err
		}
		var options Options
		var err error
		if options.PassphraseFile, err = p.String("passphrase-file"); err != nil {
			return namespace.Storage{}, err
		}
		if options.ReadOnly, err = p.Bool("read-only", false); err != nil {
			return namespace.Storage{}, err
		}
		return namespace.Storage{Open: func(ctx context.Context) (*namespace.Backend, error) {
			return openTree(ctx, config, &options, env)
		}}, nil
	}
}

// openTree opens a tree for a namespace.
func openTree(ctx context.Context, config TreeConfig, options *Options, env *nskinds.Env) (*namespace.Backend, error) {
	registry, err := OpenRegistry()
	if err != nil {
		return nil, err
	}
	log := env.Log
	if log == nil {
		log = slog.Default()
	}
	// The tree may keep the context, which ends with the call that needed the tree.
	opened, err := config.Open(context.WithoutCancel(ctx), &Env{Registry: registry, Options: options, Point: env.Point, Log: log})
	if err != nil {
		return nil, err
	}
	b := &namespace.Backend{FS: opened.FS}
	if drop := opened.DropCaches; drop != nil {
		b.ClearCache = func(context.Context) error { return drop() }
	}
	b.Close = func() error {
		var errs []error
		if opened.Drain != nil {
			drainCtx, cancel := context.WithTimeout(context.Background(), forcePatience)
			errs = append(errs, opened.Drain(drainCtx))
			cancel()
		}
		if opened.Close != nil {
			errs = append(errs, opened.Close())
		}
		return errors.Join(errs...)
	}
	return b, nil
}
