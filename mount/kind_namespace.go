package mount

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/massif-fs/massif/mount/nscommands"
	"github.com/massif-fs/massif/tree/namespace"
	nskinds "github.com/massif-fs/massif/tree/namespace/kinds"
	_ "github.com/massif-fs/massif/tree/namespace/kinds/delegate" // kinds of storages
	_ "github.com/massif-fs/massif/tree/namespace/kinds/localdir"
	_ "github.com/massif-fs/massif/tree/namespace/kinds/memory"
	_ "github.com/massif-fs/massif/tree/namespace/kinds/timeline"
	_ "github.com/massif-fs/massif/tree/namespace/kinds/ziparchive"
)

func init() { RegisterKind("namespace", func() TreeConfig { return &NamespaceTree{} }) }

// NamespaceTree is a namespace, in which storages are mounted through its control socket;
// those listed are mounted at the start:
//
//	tree:
//	  kind: namespace
//	  storages:
//	    - paths: [/photos, /by-date/2026]
//	      storage: {type: local, location: /srv/photos}
//	      read-only: true
type NamespaceTree struct {
	Storages []NamespaceStorage `yaml:"storages,omitempty" json:"storages,omitempty"`
	// Socket is where the control socket can be reached besides.
	Socket string `yaml:"socket,omitempty" json:"socket,omitempty"`
	// DefaultUser is what the command status tells as "default-user".
	DefaultUser string `yaml:"default-user,omitempty" json:"default-user,omitempty"`
	// Events is how types of events are written: lower (default) or upper.
	Events string `yaml:"events,omitempty" json:"events,omitempty"`
	// Breakpoint allows the command breakpoint.
	Breakpoint bool `yaml:"breakpoint,omitempty" json:"breakpoint,omitempty"`
	// Subtype is shown in the mount's type.
	Subtype string `yaml:"subtype,omitempty" json:"subtype,omitempty"`
}

// NamespaceStorage is an item of the command mount, in a spec.
type NamespaceStorage struct {
	Paths    []string       `yaml:"paths" json:"paths"`
	Storage  map[string]any `yaml:"storage" json:"storage"`
	ReadOnly bool           `yaml:"read-only,omitempty" json:"read-only,omitempty"`
	Extra    map[string]any `yaml:"extra,omitempty" json:"extra,omitempty"`
}

// Validate implements TreeConfig.
func (t *NamespaceTree) Validate() error {
	usage := func(format string, args ...any) error { return &UsageError{fmt.Errorf(format, args...)} }
	switch t.Events {
	case "", "lower", "upper":
	default:
		return usage("events %q of a namespace: use lower or upper", t.Events)
	}
	if t.Socket != "" && !filepath.IsAbs(t.Socket) {
		return usage("socket %q of a namespace must be an absolute path", t.Socket)
	}
	for i := range t.Storages {
		s := &t.Storages[i]
		if len(s.Paths) == 0 {
			return usage("storage %d of the namespace has no paths", i+1)
		}
		if s.Storage["type"] == nil {
			return usage("storage %s of the namespace has no type", s.Paths[0])
		}
	}
	return nil
}

// Item is the storage as the command mount has it.
func (s *NamespaceStorage) Item() (item nscommands.Item, err error) {
	item = nscommands.Item{Paths: s.Paths, ReadOnly: s.ReadOnly}
	if item.Storage, err = json.Marshal(s.Storage); err != nil {
		return item, err
	}
	if s.Extra != nil {
		item.Extra, err = json.Marshal(s.Extra)
	}
	return item, err
}

// Open implements TreeConfig.
func (t *NamespaceTree) Open(ctx context.Context, env *Env) (*Opened, error) {
	if env.Options.RootSquash {
		return nil, &UsageError{errors.New("option \"root-squash\" is for volumes, not for namespaces")}
	}
	// Modes come from programs, as with local directories.
	syscall.Umask(0)
	ns := namespace.New(namespace.Options{
		UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Valid: time.Second, ReadOnly: env.Options.ReadOnly,
	})
	commands := nscommands.New(ns, nscommands.Options{
		DefaultUser: t.DefaultUser, UpperEvents: t.Events == "upper", Breakpoint: t.Breakpoint, Log: env.Log,
		Env: &nskinds.Env{Log: env.Log, Point: env.Point},
	})
	var items []nscommands.Item
	for i := range t.Storages {
		item, err := t.Storages[i].Item()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("storage %s: %w", t.Storages[i].Paths[0], err), ns.Close())
		}
		items = append(items, item)
	}
	if _, errs := commands.Mount(ctx, items, true); len(errs) > 0 {
		return nil, errors.Join(errors.Join(errs...), ns.Close())
	}
	return &Opened{
		FS: ns, Source: "namespace", Commands: commands.Handlers(), Socket: t.Socket, Subtype: t.Subtype,
		DropCaches: func() error { return ns.ClearCache(context.Background(), 0) },
	}, nil
}
