package block

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/massif-fs/massif/object"
)

// source is where the object of a block can be read: the object store, the stage, or
// what keeps pending blocks.
type source interface {
	// read fills p with the object's bytes at off, and returns how many there are
	// before its end; fewer than wanted is no error.
	read(ctx context.Context, p []byte, off int64) (int, error)
	// local: the kernel caches the object's bytes on this machine.
	local() bool
	release()
}

// storeSource reads from the object store.
type storeSource struct {
	s  *Store
	id ID
}

func (o storeSource) local() bool { return !o.s.remote }
func (o storeSource) release()    {}

func (o storeSource) read(ctx context.Context, p []byte, off int64) (int, error) {
	s := o.s
	if err := acquire(ctx, s.downloads); err != nil {
		return 0, err
	}
	start := time.Now()
	n, err := object.ReadRange(ctx, s.store, s.key(o.id), p, off)
	took := time.Since(start)
	<-s.downloads
	s.stats.fetches.Add(1)
	s.stats.fetchedBytes.Add(int64(n))
	if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		s.speed.add(n, took)
		return n, nil
	}
	if errors.Is(err, object.ErrCorrupt) { // the driver noticed before we could
		err = fmt.Errorf("%w: %w", errDamaged, err)
	}
	return n, err
}

// readFull fills p or fails.
func readFull(ctx context.Context, src source, p []byte, off int64) error {
	n, err := src.read(ctx, p, off)
	if err == nil && n < len(p) {
		err = damaged("object ends at byte %d", off+int64(n))
	}
	return err
}
