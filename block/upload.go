package block

import (
	"context"
	"io"
)

// upload stores an object as that of block id.
func (s *Store) upload(ctx context.Context, id ID, body io.Reader, size int64) error {
	if err := acquire(ctx, s.uploads); err != nil {
		return err
	}
	defer func() { <-s.uploads }()
	_, err := s.store.Put(ctx, s.key(id), body, size, nil)
	return err
}
