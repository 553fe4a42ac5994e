package blockgate

import (
	"context"
	"errors"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/vfs"
)

// Authority says who asks, and what he may do. The metadata server implements it.
type Authority interface {
	// Authenticate returns the live session with that name and bearer secret. It
	// compares secrets in constant time. Anything else gives ErrSession, without
	// telling which part was wrong; an error that may pass (the server starts, and
	// sessions may still come back) wraps object.ErrUnavailable.
	Authenticate(ctx context.Context, session, secret string) (Session, error)
}

// Session is what the gate must know of a session. Methods may be called
// concurrently, and cheaply: they are called for every block.
type Session interface {
	// Name is what the session was found by, for limits and logs.
	Name() string
	// Volume is the volume that the session has open.
	Volume() *Volume
	// Whole tells that the session sees all of the volume, so that it may read
	// every block: its token is confined to no directory.
	Whole() bool
	// Uses tells which ranges of a block the extents of a chunk point to, as the
	// session sees them (at its time, if it travels), and how many plain bytes the
	// block has. No ranges: the chunk does not point to it. ErrDenied: the inode
	// is not below the session's root, or is not there.
	Uses(ctx context.Context, ino vfs.Ino, chunk uint32, id block.ID) (size uint32, ranges []block.Range, err error)
	// MayWrite returns nil if the block's number was allocated to this session,
	// which is not read-only, and no commit has named it yet; else ErrDenied.
	MayWrite(ctx context.Context, id block.ID) error
	// Done is closed when the session ends: transfers under way are cut then.
	Done() <-chan struct{}
}

// Volume is where the blocks of a volume are, for the server.
type Volume struct {
	// Objects is the object store, with the server's credentials. If it has the
	// ability object.Presigner clients go to it themselves.
	Objects object.Store
	// Blocks are the volume's blocks in that store: for their keys, and to open
	// those of which a session may see only parts.
	Blocks *block.Store
	// Sealed: the blocks are encrypted and the server has no key.
	Sealed bool
	// NoSigning makes all of them go through the server, also where the store could
	// sign requests: for buckets that clients cannot reach.
	NoSigning bool
}

var (
	// ErrSession: there is no such session, or its secret is another.
	ErrSession = errors.New("no such session")
	// ErrDenied: the session may not do this.
	ErrDenied = errors.New("not allowed to this session")
)
