package file

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/massif-fs/massif/object"
)

func TestAdvise(t *testing.T) {
	ctx := context.Background()
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Put(ctx, "k", bytes.NewReader(make([]byte, 100_000)), 100_000, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Advise(ctx, "k", 4096, 1<<20); err != nil {
		t.Error(err)
	}
	if err := s.Advise(ctx, "other", 0, 1); !errors.Is(err, object.ErrNotFound) {
		t.Error(err)
	}
}
