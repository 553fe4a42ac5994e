package prefixed_test

import (
	"context"
	"strings"
	"testing"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/mem"
	"github.com/massif-fs/massif/object/objecttest"
	"github.com/massif-fs/massif/object/prefixed"
)

func TestStore(t *testing.T) {
	objecttest.Run(t, objecttest.Factory{
		New: func(t testing.TB) object.Store {
			m := mem.New()
			// Neighbours that must stay out of sight, and as they are.
			neighbours := []string{"a", "vol", "vol/x", "vol/x0", "vol/x.", "vol/", "w"}
			for _, key := range neighbours {
				if _, err := m.Put(t.Context(), key, strings.NewReader(key), int64(len(key)), nil); err != nil {
					t.Fatal(err)
				}
			}
			t.Cleanup(func() {
				for _, key := range neighbours { // the test's own context has ended
					if _, err := m.Head(context.Background(), key); err != nil {
						t.Errorf("the neighbour %q: %v", key, err)
					}
				}
			})
			return prefixed.New(m, "vol/x/")
		},
		RefusesKey: func(key string) string {
			if len(key)+len("vol/x/") > object.MaxKey {
				return "too long together with the prefix"
			}
			return ""
		},
	})
}

func TestString(t *testing.T) {
	if got := prefixed.New(mem.Named("n"), "p/").String(); got != "mem://n/p/" {
		t.Errorf("named %s", got)
	}
}

// TestUnknownAbilities: an ability that prefixed knows nothing of is not found
// behind it, where it would see other keys.
func TestUnknownAbilities(t *testing.T) {
	type forget interface{ Named() string }
	s := prefixed.New(odd{mem.New()}, "p/")
	if _, ok := object.As[forget](s); ok {
		t.Error("found behind the prefix")
	}
	if _, ok := object.As[object.Renamer](prefixed.New(plain{mem.New()}, "p/")); ok {
		t.Error("rename is claimed over a store that has none")
	}
	if _, ok := object.As[object.Renamer](s); !ok {
		t.Error("rename is not found")
	}
}

type odd struct{ *mem.Store }

func (odd) Named() string { return "" }

// plain hides optional abilities.
type plain struct{ object.Store }
