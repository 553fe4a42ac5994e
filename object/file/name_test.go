package file

import (
	"slices"
	"strings"
	"testing"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/objecttest"
)

func TestPathOf(t *testing.T) {
	for key, want := range map[string]string{
		"a": "a", "a/b": "a+/b", "a+": "a%=", "+": "%=", "a/": "a+/%_", "/": "+/%_", "//x": "+/+/x",
		".hidden/50%": "%.hidden+/50%%", "..": "%..", ".": "%.", "../x": "%..+/x", "a+/b": "a++/b", "%+": "%%%=",
		".massif/tmp":                          "%.massif+/tmp",
		strings.Repeat("l", 119):               strings.Repeat("l", 119),
		strings.Repeat("l", 120):               strings.Repeat("l", 120) + "%+/%_",
		strings.Repeat("l", 121) + "/" + "b":   strings.Repeat("l", 120) + "%+/l+/b",
		strings.Repeat("l", 120) + "./" + "b":  strings.Repeat("l", 120) + "%+/%.+/b",
		strings.Repeat("l", 119) + "%+" + "/b": strings.Repeat("l", 119) + "%%%+/++/b",
	} {
		if got := pathOf(key); got != want {
			t.Errorf("pathOf(%q) = %q, want %q", key, got, want)
		}
	}
}

// checkPath checks that a key's path is one that file systems take and from which
// the key can be read.
func checkPath(t *testing.T, key string) {
	t.Helper()
	path := pathOf(key)
	if len(path) > 2*len(key)+3*(len(key)/chunkSize+1)+4 {
		t.Errorf("the path of %q is %d bytes long", key, len(path))
	}
	names := strings.Split(path, "/")
	back := ""
	for i, name := range names {
		if len(name) == 0 || len(name) > 255 || name[0] == '.' || strings.IndexByte(name, 0) >= 0 {
			t.Errorf("%q has the name %q", key, name)
		}
		frag, kind := fragmentOf(name)
		want := dirName
		if i == len(names)-1 {
			want = fileName
		}
		if kind != want {
			t.Errorf("%q: name %q is of kind %d, want %d", key, name, kind, want)
		}
		back += frag
	}
	if back != key {
		t.Errorf("%q became %q, which says %q", key, path, back)
	}
	dir, rest := dirOf(key)
	if !strings.HasPrefix(path, dir) || len(rest) >= chunkSize {
		t.Errorf("%q: path %q, directory %q, rest %q", key, path, dir, rest)
	}
	// Every key that begins with this one lies in that directory.
	for _, more := range []string{"x", "/", "/y", strings.Repeat("z", 2*chunkSize)} {
		if p := pathOf(key + more); !strings.HasPrefix(p, dir) {
			t.Errorf("%q lies at %q, outside of %q", key+more, p, dir)
		}
	}
}

func FuzzPathOf(f *testing.F) {
	for _, key := range objecttest.OddKeys {
		f.Add(key)
	}
	for _, n := range []int{119, 120, 121, 240, 1000} {
		f.Add(strings.Repeat("%", n))
		f.Add(strings.Repeat("+", n))
		f.Add(strings.Repeat("./", n/2))
	}
	f.Fuzz(func(t *testing.T, key string) {
		if object.ValidKey(key) == nil {
			checkPath(t, key)
		}
	})
}

// FuzzFragmentOf: whatever lies in a directory is an exact name of pathOf's or is
// foreign.
func FuzzFragmentOf(f *testing.F) {
	for _, name := range []string{"a", "a+", "+", "%_", "%=", "a%", "a%+", "%%", "%.", ".", "..", ".massif", "%.x+", strings.Repeat("x", 120) + "%+", strings.Repeat("x", 120)} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		frag, kind := fragmentOf(name)
		switch kind {
		case fileName:
			if got := pathOf(frag); got != name {
				t.Errorf("file %q stands for %q, whose path is %q", name, frag, got)
			}
		case dirName:
			if dir, rest := dirOf(frag); dir != name+"/" || rest != "" {
				t.Errorf("directory %q stands for %q, whose directory is %q + %q", name, frag, dir, rest)
			}
		}
	})
}

// TestOrder: in the order of fragments, all keys below a directory lie together.
func TestOrder(t *testing.T) {
	c := strings.Repeat("c", chunkSize)
	keys := []string{"a", "a!", "a/b", "a0", "a+", c, c + "!", c + "/x", c + "0", c + "d/y", c[:chunkSize-1], c[:chunkSize-1] + "/z", c[:chunkSize-1] + "b"}
	slices.Sort(keys)
	var frags []string
	for _, key := range keys {
		name, _, _ := strings.Cut(pathOf(key), "/")
		frag, _ := fragmentOf(name)
		if len(frags) == 0 || frags[len(frags)-1] != frag {
			frags = append(frags, frag)
		}
	}
	if !slices.IsSorted(frags) || len(slices.Compact(slices.Clone(frags))) != len(frags) {
		t.Errorf("fragments %q", frags)
	}
}
