package objecttest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/massif-fs/massif/object"
)

func (s *suite) testInvalidKeys(t *testing.T, store object.Store) {
	ctx := t.Context()
	for name, key := range map[string]string{
		"empty":    "",
		"too long": strings.Repeat("k", object.MaxKey+1),
		"NUL":      "a\x00b",
		"no UTF-8": "a\xffb",
	} {
		_, err := store.Put(ctx, key, strings.NewReader("x"), 1, nil)
		wantError(t, "put, key "+name, err, object.ErrInvalid)
		_, _, err = store.Get(ctx, key, 0, -1)
		wantError(t, "get, key "+name, err, object.ErrInvalid)
		_, err = store.Head(ctx, key)
		wantError(t, "head, key "+name, err, object.ErrInvalid)
		_, err = store.Copy(ctx, "ok", key, nil)
		wantError(t, "copy from, key "+name, err, object.ErrInvalid)
		_, err = store.Copy(ctx, key, "ok", nil)
		wantError(t, "copy to, key "+name, err, object.ErrInvalid)
		_, err = object.ReadRange(ctx, store, key, make([]byte, 1), 0)
		wantError(t, "read, key "+name, err, object.ErrInvalid)

		put(t, store, "good", []byte("x"), nil)
		err = store.Delete(ctx, "good", key)
		var de *object.DeleteError
		if !errors.As(err, &de) || len(de.Failed) != 1 || !errors.Is(de.Failed[key], object.ErrInvalid) {
			t.Errorf("delete with key %s: %v, want a DeleteError that names it alone", name, err)
		}
		wantAbsent(t, store, "good")
	}
	_, err := store.List(ctx, object.ListOptions{Delimiter: "x"})
	wantError(t, "list with delimiter x", err, object.ErrInvalid)
	_, err = store.List(ctx, object.ListOptions{Limit: -1})
	wantError(t, "list with a negative limit", err, object.ErrInvalid)
}

// OddKeys are valid keys that stores and their file systems, URLs and XML
// documents tend to confuse.
var OddKeys = []string{
	" ", " a", "a ", "a b", "tab\there", "line\nbreak", "return\rhere", "\x01\x1f\x7f",
	"%", "%20", "a%2Fb", "%%", "a%", "%2e%2e", "+", "a+", "a+b", "++", "a+/b+", "%+", "x%+/y",
	"?", "a?b=c&d", "#", "a#b", "&amp;", "<key>", "\"quoted\"", "'", "`", "$HOME", "~", "a\\b", "*", "[a-z]", "{a,b}", "a|b", "a;b", "a:b", "a=b", "a,b", "a@b", "a!b", "a^b", "(a)",
	".", "..", "...", ".hidden", "dir/.hidden", "a/..", "a/.", "a/../b", "../up", "./here", "..a", "a..", ".massif", ".massif/tmp",
	"/", "//", "/lead", "trail/", "trail//", "a//b", "a///b",
	"é", "e\u0301", "ß", "ñandú", "日本語/キー", "Ω/α", "🏔", "a\u00a0b", "\ufeff", "\u202e", "\U0010ffff", "\ue000",
	"UPPER", "upper", "Upper", "con", "nul.txt", "a.", "-", "--", "-rf", "_", "0", "00",
}

func longKeys() []string {
	var keys []string
	for _, n := range []int{119, 120, 121, 239, 240, 241, 254, 255, 256, 257, object.MaxKey} {
		keys = append(keys, strings.Repeat("l", n), strings.Repeat("%", n), "d/"+strings.Repeat("é", (n-2)/2), strings.Repeat("l", n-1)+"/")
	}
	keys = append(keys,
		strings.Repeat("d/", object.MaxKey/2-1)+"x",
		strings.Repeat("/", object.MaxKey),
		strings.Repeat("./", object.MaxKey/2),
		strings.Repeat("long/", 100)+strings.Repeat("x", 300)+"/"+strings.Repeat("y", 200))
	slices.Sort(keys)
	return slices.Compact(keys)
}

func (s *suite) testOddKeys(t *testing.T, store object.Store) {
	ctx := t.Context()
	keys := s.keepable(t, store, append(longKeys(), OddKeys...))
	s.fill(t, store, keys)
	slices.Sort(keys)
	for _, key := range keys {
		wantContent(t, store, key, []byte(key))
		head, err := store.Head(ctx, key)
		if err != nil || head.Key != key {
			t.Fatalf("head %q: %+v, %v", key, head, err)
		}
	}
	got, _ := list(t, store, object.ListOptions{})
	diffKeys(t, "list", got, keys)
	for _, key := range keys {
		got, _ := list(t, store, object.ListOptions{Prefix: key})
		want := slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return !strings.HasPrefix(k, key) })
		diffKeys(t, fmt.Sprintf("list with prefix %.60q", key), got, want)
	}
	for i, key := range keys {
		if i%4 != 0 {
			continue
		}
		opts := object.ListOptions{StartAfter: key, Limit: 1}
		page, err := store.List(ctx, opts)
		for err == nil && len(page.Objects) == 0 && page.Next != "" { // pages may be empty
			opts.Token = page.Next
			page, err = store.List(ctx, opts)
		}
		if err != nil {
			t.Fatal(err)
		}
		if i+1 < len(keys) && (len(page.Objects) != 1 || page.Objects[0].Key != keys[i+1]) {
			t.Fatalf("list after %q (%d bytes) gave %d objects, more at %q; want %q", key, len(key), len(page.Objects), page.Next, keys[i+1])
		}
	}
	// Copy names keys in a header, not only in a path.
	for i, key := range keys {
		if i%3 == 0 {
			if _, err := store.Copy(ctx, "copied", key, nil); err != nil {
				t.Fatalf("copy from %q: %v", key, err)
			}
			wantContent(t, store, "copied", []byte(key))
		}
	}
	if err := store.Delete(ctx, append(keys, "copied")...); err != nil {
		t.Fatalf("delete of odd keys: %v", err)
	}
	if got, _ := list(t, store, object.ListOptions{}); len(got) != 0 {
		t.Errorf("left after deletion: %q", got)
	}
}

// testNestedKeys: '/' is an ordinary byte of a key, so that a key may go on where
// another ends.
func (s *suite) testNestedKeys(t *testing.T, store object.Store) {
	if s.NoNesting != "" {
		t.Skip(s.NoNesting)
	}
	ctx := t.Context()
	keys := []string{"a", "a/", "a//", "a/b", "a/b/c", "a/b/c/d", "a!", "a0", "ab", "a/b!"}
	for _, order := range [][]string{keys, {"a/b/c/d", "a/b/c", "a/b!", "a/b", "a0", "ab", "a//", "a/", "a!", "a"}} {
		for _, key := range order {
			put(t, store, key, []byte(key), nil)
		}
		sorted := slices.Sorted(slices.Values(keys))
		got, _ := list(t, store, object.ListOptions{})
		diffKeys(t, "list", got, sorted)
		for i, key := range order {
			wantContent(t, store, key, []byte(key))
			if err := store.Delete(ctx, key); err != nil {
				t.Fatal(err)
			}
			wantAbsent(t, store, key)
			for _, other := range order[i+1:] {
				wantContent(t, store, other, []byte(other))
			}
		}
		if got, prefixes := list(t, store, object.ListOptions{Delimiter: "/"}); len(got)+len(prefixes) != 0 {
			t.Errorf("left after deletion: %q %q", got, prefixes)
		}
	}
}
