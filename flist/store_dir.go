package flist

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
)

// dirStore keeps a block in DIR/<first two digits>/<id>; DIR/<id> is read, too, where
// an older layout left it.
type dirStore struct{ dir string }

func (s *dirStore) String() string { return (&url.URL{Scheme: "dir", Path: s.dir}).String() }
func (s *dirStore) Close() error   { return nil }

func (s *dirStore) path(id []byte) string {
	name := hex.EncodeToString(id)
	return filepath.Join(s.dir, name[:2], name)
}

func (s *dirStore) Get(_ context.Context, id []byte) ([]byte, error) {
	f, err := os.Open(s.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		f, err = os.Open(filepath.Join(s.dir, hex.EncodeToString(id)))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBlock(f)
}

// readBlock reads all there is, up to the length of a block.
func readBlock(r io.Reader) ([]byte, error) {
	p, err := io.ReadAll(io.LimitReader(r, int64(MaxSealed)+1))
	if err == nil && len(p) > MaxSealed {
		return nil, errTooLong
	}
	return p, err
}

// Put makes the file in one step; it is durable when Put returns.
func (s *dirStore) Put(_ context.Context, id, sealed []byte) error {
	path := s.path(id)
	if st, err := os.Stat(path); err == nil && st.Size() == int64(len(sealed)) {
		return nil
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return err
	}
	_, err = f.Write(sealed)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
