package mount

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"syscall"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/meta/metarpc"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/tree/volume"
	"github.com/massif-fs/massif/vfs"
)

// Served are the parts of a volume that a metadata server has open.
type Served struct {
	Record  Record // without KeyID, which comes from the volume's settings
	Dir     string // for what operations need for a while
	Engine  *meta.Engine
	Objects object.Store
	Blocks  *block.Store
	FS      *volume.FS // that of the server itself
}

// ServedVolume does the operations of package mount on a volume for clients of its
// metadata server. The server keeps what is open, and closes it after the last Do
// has returned. Do may be called at any time by many.
type ServedVolume struct {
	v     *Volume
	heavy chan struct{} // held by the operation that goes through the whole volume
}

// NewServed makes the operations of a volume. It removes what those of a server that
// died have left in Dir.
func NewServed(s Served) (*ServedVolume, error) {
	r := s.Record
	r.dir = s.Dir
	if f := s.Engine.Settings(); f.Seal != nil {
		r.KeyID = f.Seal.KeyID
	}
	if err := r.sweep(); err != nil {
		return nil, err
	}
	v := &Volume{Record: &r, Engine: s.Engine, Objects: s.Objects, Blocks: s.Blocks, FS: s.FS, served: true}
	return &ServedVolume{v: v, heavy: make(chan struct{}, 1)}, nil
}

// servedOps are the operations that a metadata server does for its clients, and what
// their token must allow.
var servedOps = map[string]struct {
	reads bool // a token for reading will do
	heavy bool // it goes through the volume: one at a time
}{
	"info":            {reads: true},
	"df":              {reads: true},
	"snapshot-list":   {reads: true},
	"quota-list":      {reads: true},
	"trash":           {reads: true, heavy: true},
	"snapshot-create": {},
	"snapshot-delete": {},
	"quota-set":       {},
	"quota-remove":    {},
	"clone":           {heavy: true},
	"fsck":            {heavy: true},
	"gc":              {heavy: true},
}

// maxServedArgs bounds the arguments of an operation, in bytes.
const maxServedArgs = 64 << 10

// Do runs an operation whose arguments and result are JSON; what it changed is
// durable when it returns. EOPNOTSUPP: clients cannot have that operation done;
// EACCES: not with a token for reading; EINVAL: the arguments are malformed; ENOKEY: the
// volume is encrypted, and names would be needed; E2BIG: the result is too long.
func (s *ServedVolume) Do(ctx context.Context, readOnly bool, op string, args []byte) ([]byte, error) {
	traits, known := servedOps[op]
	switch {
	case !known:
		return nil, vfs.WithErrno(syscall.EOPNOTSUPP, fmt.Errorf("the metadata server does not know the operation %q on a volume", op))
	case readOnly && !traits.reads:
		return nil, vfs.WithErrno(syscall.EACCES, fmt.Errorf("%s: the token is for reading only", op))
	case len(args) > maxServedArgs:
		return nil, vfs.WithErrno(syscall.EINVAL, fmt.Errorf("%s: the arguments are longer than %d bytes", op, maxServedArgs))
	}
	if traits.heavy {
		select {
		case s.heavy <- struct{}{}:
			defer func() { <-s.heavy }()
		case <-ctx.Done():
			return nil, vfs.WithErrno(syscall.EINTR, ctx.Err())
		}
	}
	decode := func(into any) error {
		if err := decodeArgs(args)(into); err != nil {
			return vfs.WithErrno(syscall.EINVAL, fmt.Errorf("%s: the arguments are malformed: %w", op, err))
		}
		return s.refuse(op, into)
	}
	out, err := volumeOps[op](ctx, s.v, decode, func(any) {})
	if err == nil && !traits.reads {
		err = s.v.Engine.Sync(ctx)
	}
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(out)
	if err == nil && len(text) > metarpc.MaxFrame/2 {
		err = vfs.WithErrno(syscall.E2BIG, fmt.Errorf("%s: the result is too long to be sent: choose less of the volume", op))
	}
	return text, err
}

// refuse tells what cannot be done on a volume that others have mounted, or that the
// admin server decides.
func (s *ServedVolume) refuse(op string, args any) error {
	switch a := args.(type) {
	case *FsckArgs:
		if a.Repair {
			return vfs.WithErrno(syscall.EOPNOTSUPP, errors.New("fsck: a shared volume cannot be repaired while it is served"))
		}
	case *GCArgs:
		// Mounts bring blocks first and name them later.
		if a.Grace != nil && *a.Grace < meta.DefaultGrace {
			return vfs.WithErrno(syscall.EINVAL, fmt.Errorf("gc: on a shared volume the grace is at least %s, since younger objects may be on their way from a mount", Duration(meta.DefaultGrace)))
		}
	case *QuotaArgs:
		return s.refuseRoot(a.Path)
	case *pathArgs:
		return s.refuseRoot(a.Path)
	}
	return nil
}

func (s *ServedVolume) refuseRoot(path string) error {
	if !isRoot(path) {
		return nil
	}
	return vfs.WithErrno(syscall.EOPNOTSUPP, errors.New("the limits of a whole shared volume are with its admin server: "+adminUpdate))
}

const adminUpdate = "massif admin update volume NAME --quota-bytes, --quota-inodes, --retention, --compression"

// decodeArgs reads the arguments of an operation strictly.
func decodeArgs(text []byte) func(any) error {
	return func(into any) error {
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.DisallowUnknownFields()
		if err := dec.Decode(into); err != nil {
			return err
		}
		if dec.More() {
			return errors.New("something follows them")
		}
		return nil
	}
}
