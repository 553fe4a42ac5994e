package file

import (
	"context"

	"golang.org/x/sys/unix"
)

// Advise asks the kernel to read n bytes of the object from off into its page cache,
// and does not wait for them: what is read soon afterwards is found there. It is
// a hint; a missing object is an error all the same.
func (s *Store) Advise(ctx context.Context, key string, off, n int64) error {
	const op = "advise"
	if err := s.begin(ctx, op, key); err != nil {
		return err
	}
	f := s.files.acquire(key)
	if f == nil {
		fd, st, err := s.openObject(key)
		if err != nil {
			return wrap(op, key, err)
		}
		f = s.files.add(key, fd, st)
	}
	defer s.files.release(f)
	return wrap(op, key, unix.Fadvise(f.fd, off, n, unix.FADV_WILLNEED))
}
