package block

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// Pending knows blocks whose objects are kept elsewhere until the store has them.
// Its methods may be called concurrently.
type Pending interface {
	// HasPending tells whether the block is one of them. It is an in-memory call.
	HasPending(id uint64) bool
	// PendingObject returns the object; nil if the store must have it.
	PendingObject(ctx context.Context, id uint64) ([]byte, error)
}

// Object appends the object of a block, as Put would store it, to dst. It is for
// small blocks that are kept elsewhere at first (see Pending) and for PutObject.
// Errors: EINVAL for id 0 or a size out of range, ENOMEM, EINTR.
func (s *Store) Object(ctx context.Context, id ID, dst []byte, data ...[]byte) ([]byte, error) {
	if id == 0 {
		return nil, fail("write", id, vfs.WithErrno(syscall.EINVAL, errors.New("0 is not a block's number")))
	}
	e, err := s.enc.encode(ctx, id, data)
	if err != nil {
		return nil, fail("write", id, err)
	}
	defer e.close()
	for _, p := range e.body.parts {
		dst = append(dst, p...)
	}
	s.headers.add(e.h)
	s.stats.putBytes.Add(int64(e.h.size))
	return dst, nil
}

// PutObject stores an object that Object made, and returns when the object store
// has it durably: also where there is a stage. Errors are those of Put.
func (s *Store) PutObject(ctx context.Context, id ID, object []byte) error {
	var size uint32
	if len(object) >= fixedBytes {
		size = binary.LittleEndian.Uint32(object[12:])
	}
	h, err := parseHeader(object, s.volume, Ref{ID: id, Size: size})
	if err == nil && int(h.object) != len(object) {
		err = damaged("object has %d bytes, its header says %d", len(object), h.object)
	}
	if err != nil {
		return fail("write", id, err)
	}
	if err := s.upload(ctx, id, bytes.NewReader(object), int64(len(object))); err != nil {
		return fail("write", id, err)
	}
	s.stats.puts.Add(1)
	s.stats.storedBytes.Add(int64(len(object)))
	return nil
}

// pendingSource reads a block that is not in the store yet.
type pendingSource struct {
	s      *Store
	id     ID
	object []byte // once it was asked for
}

func (o *pendingSource) local() bool { return true }
func (o *pendingSource) release()    {}

func (o *pendingSource) read(ctx context.Context, p []byte, off int64) (int, error) {
	if o.object == nil {
		object, err := o.s.pending.PendingObject(ctx, uint64(o.id))
		if err != nil {
			return 0, err
		}
		if object == nil { // it has just been put into the store
			return storeSource{o.s, o.id}.read(ctx, p, off)
		}
		o.object = object
	}
	if off >= int64(len(o.object)) {
		return 0, nil
	}
	return copy(p, o.object[off:]), nil
}
