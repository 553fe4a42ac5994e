package mem_test

import (
	"strings"
	"testing"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/mem"
	"github.com/massif-fs/massif/object/objecttest"
)

func TestStore(t *testing.T) {
	objecttest.Run(t, objecttest.Factory{
		New: func(testing.TB) object.Store { return mem.New() },
		// The same store again is all that another process could see.
		Second: func(_ testing.TB, s object.Store) object.Store { return s },
	})
}

func TestNamed(t *testing.T) {
	defer mem.Forget("x")
	if _, err := mem.Named("x").Put(t.Context(), "k", strings.NewReader("v"), 1, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := mem.Named("x").Head(t.Context(), "k"); err != nil {
		t.Error(err)
	}
	if _, err := mem.Named("y").Head(t.Context(), "k"); err == nil {
		t.Error("two names share a store")
	}
	mem.Forget("y")
	mem.Forget("x")
	if _, err := mem.Named("x").Head(t.Context(), "k"); err == nil {
		t.Error("a forgotten store is still there")
	}
}
