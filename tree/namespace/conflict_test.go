package namespace

import "testing"

func TestConflictNames(t *testing.T) {
	for _, c := range []struct {
		name string
		id   int
		want string
	}{
		{"a.jpg", 2, "a.wl_2.jpg"}, {"a.tar.gz", 2, "a.tar.wl_2.gz"}, {"noext", 2, "noext.wl_2"}, {".hid", 2, ".hid.wl_2"},
		{"file0.xyz.jpg", 0, "file0.xyz.wl_0.jpg"}, {"..x", 1, "..x.wl_1"}, {"a.", 1, "a.wl_1."}, {"real.wl_1.txt", 12, "real.wl_1.wl_12.txt"}, {".wl_1", 3, ".wl_1.wl_3"},
	} {
		got := conflictName(c.name, c.id)
		if got != c.want {
			t.Errorf("%q of storage %d: %q, want %q", c.name, c.id, got, c.want)
		}
		if name, id, ok := parseConflictName(got); !ok || name != c.name || id != c.id {
			t.Errorf("%q is taken for %q of storage %d, %v", got, name, id, ok)
		}
	}
	for _, name := range []string{"a", "a.wl_", "a.wl_x.jpg", "wl_1", "a.wl_01.jpg", "a.wl_1.b.c", ".wl_1", "a.wl_99999999999999999999"} {
		if true_, id, ok := parseConflictName(name); ok {
			t.Errorf("%q is taken for %q of storage %d", name, true_, id)
		}
	}
}

func FuzzConflictName(f *testing.F) {
	f.Add("a.wl_1.jpg", 3)
	f.Fuzz(func(t *testing.T, name string, id int) {
		parseConflictName(name)
		if name == "" || id < 0 || len(name) > 200 {
			return
		}
		shown := conflictName(name, id)
		if got, n, ok := parseConflictName(shown); !ok || got != name || n != id {
			t.Fatalf("%q of %d is shown as %q and taken for %q of %d", name, id, shown, got, n)
		}
	})
}
