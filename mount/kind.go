package mount

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sort"

	"github.com/massif-fs/massif/door/control"
	"github.com/massif-fs/massif/seal"
	"github.com/massif-fs/massif/vfs"
)

// TreeConfig is what a spec says about a tree of one kind. It is decoded from the
// spec strictly: fields carry yaml and json tags.
type TreeConfig interface {
	// Validate finds what cannot be, without touching what the tree names.
	Validate() error
	// Open opens the tree. Whatever it took is given back if it fails.
	Open(ctx context.Context, env *Env) (*Opened, error)
}

// Env is what a tree is opened with.
type Env struct {
	Registry *Registry
	Options  *Options
	// Point is where the tree will be mounted.
	Point string
	// Passphrase is that of an encrypted tree; nil if nobody gave one.
	Passphrase seal.Passphrase
	Log        *slog.Logger
}

// Opened is an open tree and what belongs to it.
type Opened struct {
	FS vfs.FS
	// Source names the tree for people, without secrets.
	Source string
	// Volume is set where the tree is a volume.
	Volume *Volume
	// Stats read the figures of the tree's parts, each a struct, for "massif stats"
	// and metrics.
	Stats map[string]func() any
	// Drain, if not nil, waits until what was staged on the local disk is in the
	// store. It is called after FS.Close; what it leaves is found by the next mount.
	Drain func(ctx context.Context) error
	// DropCaches, if not nil, forgets what could be read again.
	DropCaches func() error
	// Commands are those that the tree adds to the mount's control socket, or puts in
	// the place of others.
	Commands map[string]control.Handler
	// Socket, if not empty, is where the control socket can be reached besides.
	Socket string
	// Subtype is shown in the mount's type, "fuse.SUBTYPE". Default: massif.
	Subtype string
	// Close, if not nil, is called after FS.Close.
	Close func() error
}

// kinds makes an empty configuration for each known kind of tree.
var kinds = map[string]func() TreeConfig{}

// RegisterKind makes a kind of tree known. It is called by init functions.
func RegisterKind(name string, config func() TreeConfig) {
	if kinds[name] != nil {
		panic("mount: kind " + name + " is registered twice")
	}
	kinds[name] = config
}

func kindNames() []string {
	var names []string
	for name := range kinds {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// boundedReader fails when more than the given number of bytes is read.
type boundedReader struct {
	r    io.Reader
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("larger than %v", Size(maxSpec))
	}
	return n, err
}
