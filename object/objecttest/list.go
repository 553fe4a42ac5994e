package objecttest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/massif-fs/massif/object"
)

// list reads all pages. It checks what holds for each of them.
func list(t testing.TB, store object.Store, opts object.ListOptions) (keys, prefixes []string) {
	t.Helper()
	empty := 0
	last := ""
	for {
		page, err := store.List(t.Context(), opts)
		if err != nil {
			t.Fatalf("list %+v: %v", opts, err)
		}
		n := len(page.Objects) + len(page.Prefixes)
		if opts.Limit > 0 && n > opts.Limit {
			t.Fatalf("list %+v gave %d entries", opts, n)
		}
		if n == 0 && page.Next != "" {
			if empty++; empty > 1000 {
				t.Fatalf("list %+v never ends", opts)
			}
		}
		// Keys and prefixes of a page all come after those of the page before.
		pageLast := last
		check := func(what, s, before string) {
			t.Helper()
			if s <= before && !(s == "" && before == "") {
				t.Fatalf("list %+v: %s %q after %q", opts, what, s, before)
			}
			pageLast = max(pageLast, s)
		}
		before := last
		for _, o := range page.Objects {
			check("key", o.Key, before)
			before = o.Key
			if o.ETag == "" || o.ModTime.IsZero() {
				t.Fatalf("list %+v: %q has no ETag or time: %+v", opts, o.Key, o)
			}
			keys = append(keys, o.Key)
		}
		before = last
		for _, p := range page.Prefixes {
			check("prefix", p, before)
			before = p
			prefixes = append(prefixes, p)
		}
		last = pageLast
		if page.Next == "" {
			return keys, prefixes
		}
		opts.Token = page.Next
	}
}

// modelList is what a listing must give.
func modelList(all []string, opts object.ListOptions) (keys, prefixes []string) {
	for _, key := range slices.Sorted(slices.Values(all)) {
		rest, ok := strings.CutPrefix(key, opts.Prefix)
		if !ok {
			continue
		}
		if opts.Delimiter != "" {
			if i := strings.Index(rest, opts.Delimiter); i >= 0 {
				p := key[:len(opts.Prefix)+i+len(opts.Delimiter)]
				if p > opts.StartAfter && (len(prefixes) == 0 || prefixes[len(prefixes)-1] != p) {
					prefixes = append(prefixes, p)
				}
				continue
			}
		}
		if key > opts.StartAfter {
			keys = append(keys, key)
		}
	}
	return keys, prefixes
}

func diffKeys(t testing.TB, what string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Fatalf("%s: %d of %d entries, %.100q is missing", what, len(got), len(want), want[i])
		case i >= len(want):
			t.Fatalf("%s: %d entries, want %d; %.100q is too much", what, len(got), len(want), got[i])
		case got[i] != want[i]:
			t.Fatalf("%s: entry %d is %.100q, want %.100q", what, i, got[i], want[i])
		}
	}
}

func (s *suite) testList(t *testing.T, store object.Store) {
	if got, prefixes := list(t, store, object.ListOptions{}); len(got)+len(prefixes) != 0 {
		t.Fatalf("a new store lists %q, %q", got, prefixes)
	}
	candidates := []string{
		"a", "a!", "a-b", "a.b", "a/b", "a/c/d", "a/c/e", "a/c!", "a0", "aa/b", "ab",
		"b/1", "b/2", "b/3", "b/sub/1", "b/sub/2", "b/sub!/x", "b0",
		"c", "d/e/f/g/h", "d/e/f/g/i", "é/1", "é/2", "日本", "z z/1", "z+z/1", "z%20z/1",
	}
	keys := s.keepable(t, store, candidates)
	s.fill(t, store, keys)
	for _, prefix := range []string{"", "a", "a/", "a/c", "a/c/", "b/", "b/s", "b/sub/", "d/e", "d/e/f/g/h", "none", "é", "z", "a/b/", "zz"} {
		for _, delim := range []string{"", "/"} {
			for _, after := range []string{"", "a", "a/", "a/b", "a/c", "a/c/", "a/c/d", "a/c/zzz", "b", "b/sub/1", "b/sub/", "0", "é/1", "zz", "\U0010ffff"} {
				opts := object.ListOptions{Prefix: prefix, Delimiter: delim, StartAfter: after}
				wantKeys, wantPrefixes := modelList(keys, opts)
				limits := []int{0, 1, 3}
				if after != "" && prefix != "" {
					limits = []int{2}
				}
				for _, limit := range limits {
					opts.Limit = limit
					gotKeys, gotPrefixes := list(t, store, opts)
					diffKeys(t, fmt.Sprintf("keys of %+v", opts), gotKeys, wantKeys)
					diffKeys(t, fmt.Sprintf("prefixes of %+v", opts), gotPrefixes, wantPrefixes)
				}
			}
		}
	}
	// What a listing says about an object is what Head says.
	page, err := store.List(t.Context(), object.ListOptions{Prefix: "b/"})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range page.Objects {
		head, err := store.Head(t.Context(), o.Key)
		if err != nil {
			t.Fatal(err)
		}
		if o.Size != head.Size || o.ETag != head.ETag || o.ModTime.Unix() != head.ModTime.Unix() {
			t.Errorf("listed %+v, head %+v", o, head)
		}
	}
	// Keys that were deleted take their prefixes along.
	if err := store.Delete(t.Context(), "d/e/f/g/h", "d/e/f/g/i", "b/sub/1", "b/sub/2"); err != nil {
		t.Fatal(err)
	}
	_, prefixes := list(t, store, object.ListOptions{Delimiter: "/"})
	if slices.Contains(prefixes, "d/") {
		t.Errorf("prefixes %q still hold d/", prefixes)
	}
	_, prefixes = list(t, store, object.ListOptions{Delimiter: "/", Prefix: "b/"})
	if slices.Contains(prefixes, "b/sub/") {
		t.Errorf("prefixes %q still hold b/sub/", prefixes)
	}
	// A bad token is an error or is understood, never a panic.
	_, _ = store.List(t.Context(), object.ListOptions{Token: "no such token"})
}

func (s *suite) testListMany(t *testing.T, store object.Store) {
	var keys []string
	for i := range s.Many {
		switch {
		case i%5 == 0:
			keys = append(keys, fmt.Sprintf("dir%03d/sub/%d", i%97, i))
		case i%5 == 1:
			keys = append(keys, fmt.Sprintf("flat-%d", i))
		default:
			keys = append(keys, fmt.Sprintf("one/%05d", i))
		}
	}
	s.fill(t, store, keys)
	for _, opts := range []object.ListOptions{
		{}, {Limit: 999}, {Limit: 37, Prefix: "dir"}, {Delimiter: "/"}, {Delimiter: "/", Limit: 50}, {Prefix: "one/", Delimiter: "/", Limit: 300}, {Limit: 100_000},
	} {
		wantKeys, wantPrefixes := modelList(keys, opts)
		gotKeys, gotPrefixes := list(t, store, opts)
		diffKeys(t, fmt.Sprintf("keys of %+v", opts), gotKeys, wantKeys)
		diffKeys(t, fmt.Sprintf("prefixes of %+v", opts), gotPrefixes, wantPrefixes)
	}
}

// testListChanging: objects that come and go between two pages. Those that stay
// are listed once, and each page sees what was put before it was asked for.
func (s *suite) testListChanging(t *testing.T, store object.Store) {
	ctx := t.Context()
	var keys []string
	for i := range 200 {
		keys = append(keys, fmt.Sprintf("stay/%d/%03d", i%2, i))
	}
	s.fill(t, store, keys)
	slices.Sort(keys)
	var got []string
	opts := object.ListOptions{Limit: 20}
	for n := 0; ; n++ {
		page, err := store.List(ctx, opts)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Objects {
			got = append(got, o.Key)
		}
		if page.Next == "" {
			break
		}
		opts.Token = page.Next
		// One before, one right behind the position, one near the end.
		put(t, store, fmt.Sprintf("a/%d", n), nil, nil)
		next := got[len(got)-1] + "-next"
		put(t, store, next, nil, nil)
		late := fmt.Sprintf("stay/1/zz%02d", n)
		put(t, store, late, nil, nil)
		keys = append(keys, next, late)
		if n%2 == 1 {
			if err := store.Delete(ctx, late, next); err != nil {
				t.Fatal(err)
			}
			keys = keys[:len(keys)-2]
		}
	}
	slices.Sort(keys)
	diffKeys(t, "listing while objects come and go", got, keys)
}
