package objecttest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/massif-fs/massif/object"
)

func (s *suite) testPutGet(t *testing.T, store object.Store) {
	if store.String() == "" {
		t.Error("the store has no name")
	}
	for i, size := range []int{0, 1, 100, 4096, 64<<10 + 1, 1 << 20} {
		key := fmt.Sprintf("dir/object-%d", size)
		data := content(uint64(i), size)
		before := time.Now()
		info := put(t, store, key, data, nil)
		if info.Key != key || info.Size != int64(size) || info.ETag == "" {
			t.Errorf("put gave %+v, want key %q, size %d and an ETag", info, key, size)
		}
		wantContent(t, store, key, data)

		head, err := store.Head(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		_, ginfo := get(t, store, key, 0, -1)
		for what, in := range map[string]object.Info{"head": head, "get": ginfo} {
			if in.Key != key || in.Size != int64(size) || in.ETag != info.ETag {
				t.Errorf("%s gave %+v, want key %q, size %d, ETag %s", what, in, key, size, info.ETag)
			}
			// Stores keep whole seconds, and clocks differ a little.
			if d := in.ModTime.Sub(before); d < -5*time.Minute || d > 5*time.Minute {
				t.Errorf("%s gave the time %v, it was put at %v", what, in.ModTime, before)
			}
		}
	}
}

func (s *suite) testGetRange(t *testing.T, store object.Store) {
	const size = 100_000
	data := content(1, size)
	put(t, store, "k", data, nil)
	for _, r := range []struct{ off, n int64 }{
		{0, -1}, {0, size}, {0, 1}, {0, 0}, {0, size + 1}, {1, 10}, {50_000, -1}, {50_000, 49_999},
		{size - 1, 1}, {size - 1, 1000}, {size - 1, -1}, {size, -1}, {size, 10}, {size + 1000, 5}, {7, 0},
	} {
		lo := min(r.off, size)
		hi := int64(size)
		if r.n >= 0 {
			hi = min(lo+r.n, size)
		}
		got, info := get(t, store, "k", r.off, r.n)
		if !bytes.Equal(got, data[lo:hi]) {
			t.Errorf("get off %d n %d: %s, want %s", r.off, r.n, brief(got), brief(data[lo:hi]))
		}
		if info.Size != size || info.Key != "k" || info.ETag == "" {
			t.Errorf("get off %d n %d describes %+v, not the whole object", r.off, r.n, info)
		}
	}
	put(t, store, "empty", nil, nil)
	for _, r := range []struct{ off, n int64 }{{0, -1}, {0, 10}, {5, -1}, {0, 0}} {
		if got, info := get(t, store, "empty", r.off, r.n); len(got) != 0 || info.Size != 0 {
			t.Errorf("get off %d n %d of an empty object: %d bytes, size %d", r.off, r.n, len(got), info.Size)
		}
	}
	_, _, err := store.Get(t.Context(), "k", -1, 5)
	wantError(t, "negative offset", err, object.ErrInvalid)
	// A body may be closed before its end.
	body, _, err := store.Get(t.Context(), "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(body, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := body.Close(); err != nil {
		t.Errorf("close of a body not read to its end: %v", err)
	}
}

func (s *suite) testReadRange(t *testing.T, store object.Store) {
	ctx := t.Context()
	const size = 300_000
	data := content(2, size)
	put(t, store, "k", data, nil)
	read := func(off int64, n int) ([]byte, error) {
		p := bytes.Repeat([]byte{0xAA}, n)
		got, err := object.ReadRange(ctx, store, "k", p, off)
		return p[:got], err
	}
	for _, r := range []struct {
		off int64
		n   int
	}{{0, size}, {0, 1}, {1000, 4096}, {size - 1, 1}, {123_456, 100_000}} {
		got, err := read(r.off, r.n)
		if err != nil || !bytes.Equal(got, data[r.off:r.off+int64(r.n)]) {
			t.Errorf("off %d n %d: %s, %v", r.off, r.n, brief(got), err)
		}
	}
	for _, r := range []struct {
		off  int64
		n    int
		want int
	}{{size - 10, 20, 10}, {size, 1, 0}, {size + 5, 1, 0}, {0, size + 1, size}} {
		got, err := read(r.off, r.n)
		if len(got) != r.want {
			t.Errorf("off %d n %d beyond the end: %d bytes, want %d", r.off, r.n, len(got), r.want)
		}
		wantError(t, fmt.Sprintf("off %d n %d beyond the end", r.off, r.n), err, io.ErrUnexpectedEOF)
		if !bytes.Equal(got, data[size-len(got):]) {
			t.Errorf("off %d n %d beyond the end: wrong bytes", r.off, r.n)
		}
	}
	_, err := object.ReadRange(ctx, store, "missing", make([]byte, 5), 0)
	wantError(t, "missing", err, object.ErrNotFound)

	// What was read before must not shine through after a change.
	for i := range 20 {
		next := content(uint64(100+i), 1000+i)
		put(t, store, "k", next, nil)
		p := make([]byte, len(next))
		if _, err := object.ReadRange(ctx, store, "k", p, 0); err != nil || !bytes.Equal(p, next) {
			t.Fatalf("after replacement %d: %s, %v", i, brief(p), err)
		}
	}
	if err := store.Delete(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	_, err = object.ReadRange(ctx, store, "k", make([]byte, 5), 0)
	wantError(t, "deleted", err, object.ErrNotFound)
}

func (s *suite) testReplace(t *testing.T, store object.Store) {
	one := put(t, store, "k", []byte("one"), nil)
	two := put(t, store, "k", []byte("the second"), nil)
	if one.ETag == two.ETag {
		t.Errorf("both contents have the ETag %s", one.ETag)
	}
	wantContent(t, store, "k", []byte("the second"))
	put(t, store, "k", nil, nil)
	wantContent(t, store, "k", nil)
}

func (s *suite) testMissing(t *testing.T, store object.Store) {
	ctx := t.Context()
	put(t, store, "dir/present", []byte("x"), nil)
	for _, key := range []string{"missing", "dir/missing", "dir", "dir/", "dir/present/below", "presen", "nodir/missing"} {
		if s.RefusesKey != nil && s.RefusesKey(key) != "" {
			continue
		}
		_, _, err := store.Get(ctx, key, 0, -1)
		wantError(t, "get "+key, err, object.ErrNotFound)
		_, _, err = store.Get(ctx, key, 100, 10)
		wantError(t, "get range "+key, err, object.ErrNotFound)
		_, err = store.Head(ctx, key)
		wantError(t, "head "+key, err, object.ErrNotFound)
		_, err = store.Copy(ctx, "copy", key, nil)
		wantError(t, "copy "+key, err, object.ErrNotFound)
		if err := store.Delete(ctx, key); err != nil {
			t.Errorf("delete of missing %q: %v", key, err)
		}
	}
	wantAbsent(t, store, "copy")
	wantContent(t, store, "dir/present", []byte("x"))
}

type closeSpy struct {
	io.Reader
	closed bool
}

func (c *closeSpy) Close() error { c.closed = true; return nil }

func (s *suite) testBodyLeftOpen(t *testing.T, store object.Store) {
	for _, size := range []int64{5, -1} {
		spy := &closeSpy{Reader: strings.NewReader("hello")}
		if _, err := store.Put(t.Context(), "k", spy, size, nil); err != nil {
			t.Fatal(err)
		}
		if spy.closed {
			t.Errorf("put with size %d closed its body", size)
		}
	}
	wantContent(t, store, "k", []byte("hello"))
}

func (s *suite) testWrongBodies(t *testing.T, store object.Store) {
	ctx := t.Context()
	broken := errors.New("the body broke")
	put(t, store, "old", []byte("old content"), nil)
	for _, n := range []int{0, 1, 1000, 6 << 20} {
		data := content(3, n)
		for _, key := range []string{"new", "old"} {
			_, err := store.Put(ctx, key, bytes.NewReader(data), int64(n)+1, nil)
			wantError(t, fmt.Sprintf("body of %d bytes, one short", n), err, io.ErrUnexpectedEOF, object.ErrInvalid)
			_, err = store.Put(ctx, key, onlyReader{bytes.NewReader(data)}, int64(n)+10, nil)
			wantError(t, fmt.Sprintf("plain body of %d bytes, ten short", n), err, io.ErrUnexpectedEOF, object.ErrInvalid)
			if n > 0 {
				_, err = store.Put(ctx, key, bytes.NewReader(data), int64(n)-1, nil)
				wantError(t, fmt.Sprintf("body of %d bytes, one too long", n), err, object.ErrInvalid)
				_, err = store.Put(ctx, key, onlyReader{bytes.NewReader(data)}, int64(n)-1, nil)
				wantError(t, fmt.Sprintf("plain body of %d bytes, one too long", n), err, object.ErrInvalid)
			}
			for _, size := range []int64{int64(n) + 5, int64(n), -1} {
				body := io.MultiReader(bytes.NewReader(data), iotest.ErrReader(broken))
				_, err = store.Put(ctx, key, body, size, nil)
				wantError(t, fmt.Sprintf("body that breaks after %d bytes, size %d", n, size), err, broken)
			}
		}
	}
	wantAbsent(t, store, "new")
	wantContent(t, store, "old", []byte("old content"))
}

func (s *suite) testStream(t *testing.T, store object.Store) {
	for i, size := range []int{0, 1, 100_000, 5 << 20, 11<<20 + 7} {
		data := content(uint64(10+i), size)
		info, err := store.Put(t.Context(), "k", onlyReader{bytes.NewReader(data)}, -1, nil)
		if err != nil {
			t.Fatalf("put of %d bytes of unknown size: %v", size, err)
		}
		if info.Size != int64(size) || info.Key != "k" || info.ETag == "" {
			t.Errorf("put of %d bytes of unknown size gave %+v", size, info)
		}
		wantContent(t, store, "k", data)
		head, err := store.Head(t.Context(), "k")
		if err != nil || head.ETag != info.ETag {
			t.Errorf("head gave ETag %s, %v; put gave %s", head.ETag, err, info.ETag)
		}
	}
	// Small reads, one byte short of what was asked.
	data := content(20, 100_000)
	if _, err := store.Put(t.Context(), "half", iotest.HalfReader(bytes.NewReader(data)), int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
	wantContent(t, store, "half", data)
	if _, err := store.Put(t.Context(), "dataerr", iotest.DataErrReader(bytes.NewReader(data)), int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
	wantContent(t, store, "dataerr", data)
}

func (s *suite) testBig(t *testing.T, store object.Store) {
	const size = 20 << 20
	data := content(30, size)
	put(t, store, "big", data, nil)
	wantContent(t, store, "big", data)
	for _, r := range []struct{ off, n int64 }{{8<<20 - 3, 7}, {5 << 20, 8 << 20}, {size - 100, -1}} {
		hi := r.off + r.n
		if r.n < 0 {
			hi = size
		}
		if got, _ := get(t, store, "big", r.off, r.n); !bytes.Equal(got, data[r.off:hi]) {
			t.Errorf("range off %d n %d differs", r.off, r.n)
		}
	}
	if _, err := store.Copy(t.Context(), "big copy", "big", nil); err != nil {
		t.Fatal(err)
	}
	wantContent(t, store, "big copy", data)
}

func (s *suite) testDelete(t *testing.T, store object.Store) {
	ctx := t.Context()
	if err := store.Delete(ctx); err != nil {
		t.Errorf("delete of nothing: %v", err)
	}
	put(t, store, "one", []byte("1"), nil)
	if err := store.Delete(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	wantAbsent(t, store, "one")
	if err := store.Delete(ctx, "one"); err != nil {
		t.Errorf("second delete: %v", err)
	}

	var keys []string
	for i := range s.Many * 11 / 25 {
		keys = append(keys, fmt.Sprintf("batch/%02d/%d", i%20, i))
	}
	s.fill(t, store, keys)
	put(t, store, "keep", []byte("keep"), nil)
	var batch []string
	for i, key := range keys {
		batch = append(batch, key)
		if i%50 == 0 {
			batch = append(batch, key+"-missing")
		}
	}
	batch = append(batch, keys[:3]...) // twice in one call
	if err := store.Delete(ctx, batch...); err != nil {
		t.Fatalf("delete of %d keys: %v", len(batch), err)
	}
	got, _ := list(t, store, object.ListOptions{})
	if len(got) != 1 || got[0] != "keep" {
		t.Errorf("after the deletion the store lists %d keys %.100q, want only \"keep\"", len(got), got)
	}
}

func (s *suite) testMetadata(t *testing.T, store object.Store) {
	ctx := t.Context()
	opts := &object.PutOptions{ContentType: "text/x-massif", Metadata: map[string]string{"mtime": "12345.678", "x-a_b": "some value"}}
	if !store.Capabilities().Metadata {
		_, err := store.Put(ctx, "k", strings.NewReader("x"), 1, opts)
		wantError(t, "put with metadata", err, object.ErrUnsupported)
		wantAbsent(t, store, "k")
		return
	}
	check := func(key, ctype string, meta map[string]string) {
		t.Helper()
		head, err := store.Head(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		_, ginfo := get(t, store, key, 0, 1)
		for what, in := range map[string]object.Info{"head": head, "get": ginfo} {
			if ctype != "" && in.ContentType != ctype {
				t.Errorf("%s %q: content type %q, want %q", what, key, in.ContentType, ctype)
			}
			if len(in.Metadata) != len(meta) {
				t.Errorf("%s %q: metadata %v, want %v", what, key, in.Metadata, meta)
			}
			for k, v := range meta {
				if in.Metadata[k] != v {
					t.Errorf("%s %q: metadata %v, want %v", what, key, in.Metadata, meta)
				}
			}
		}
	}
	put(t, store, "k", []byte("x"), opts)
	check("k", "text/x-massif", opts.Metadata)
	opts.Metadata["mtime"] = "changed by the caller" // must not reach into the store
	check("k", "text/x-massif", map[string]string{"mtime": "12345.678", "x-a_b": "some value"})
	opts.Metadata["mtime"] = "12345.678"

	if _, err := store.Put(ctx, "streamed", onlyReader{strings.NewReader("x")}, -1, opts); err != nil {
		t.Fatal(err)
	}
	check("streamed", "text/x-massif", opts.Metadata)

	if _, err := store.Copy(ctx, "copy", "k", nil); err != nil {
		t.Fatal(err)
	}
	check("copy", "text/x-massif", opts.Metadata)
	other := map[string]string{"other": "1"}
	if _, err := store.Copy(ctx, "copy2", "k", &object.PutOptions{Metadata: other}); err != nil {
		t.Fatal(err)
	}
	check("copy2", "text/x-massif", other)
	if _, err := store.Copy(ctx, "copy3", "k", &object.PutOptions{ContentType: "image/x-massif"}); err != nil {
		t.Fatal(err)
	}
	check("copy3", "image/x-massif", opts.Metadata)
	if s.CopiesMetadata == "" {
		if _, err := store.Copy(ctx, "copy4", "k", &object.PutOptions{Metadata: map[string]string{}}); err != nil {
			t.Fatal(err)
		}
		check("copy4", "text/x-massif", nil)
	}

	put(t, store, "k", []byte("y"), nil)
	check("k", "", nil)
	big := map[string]string{"big": strings.Repeat("v", 1800)}
	put(t, store, "k", []byte("y"), &object.PutOptions{Metadata: big})
	check("k", "", big)
	_, err := store.Put(ctx, "k", strings.NewReader("x"), 1, &object.PutOptions{Metadata: map[string]string{"Upper": "x"}})
	wantError(t, "metadata key in upper case", err, object.ErrInvalid)
}

func (s *suite) testCopy(t *testing.T, store object.Store) {
	ctx := t.Context()
	data := content(40, 100_000)
	put(t, store, "src dir/src+%", data, nil)
	for _, dst := range []string{"dst", "deep/er/dst", "src dir/other"} {
		info, err := store.Copy(ctx, dst, "src dir/src+%", nil)
		if err != nil {
			t.Fatal(err)
		}
		head, err := store.Head(ctx, dst)
		if err != nil {
			t.Fatal(err)
		}
		if info.Key != dst || info.Size != int64(len(data)) || info.ETag != head.ETag {
			t.Errorf("copy gave %+v, head %+v", info, head)
		}
		wantContent(t, store, dst, data)
	}
	put(t, store, "empty", nil, nil)
	if _, err := store.Copy(ctx, "dst", "empty", nil); err != nil {
		t.Fatal(err)
	}
	wantContent(t, store, "dst", nil)
	// The copy stands alone.
	if err := store.Delete(ctx, "src dir/src+%"); err != nil {
		t.Fatal(err)
	}
	wantContent(t, store, "deep/er/dst", data)
}

func (s *suite) testRename(t *testing.T, store object.Store) {
	r, ok := object.As[object.Renamer](store)
	if !ok {
		t.Skip("the store has no rename")
	}
	ctx := t.Context()
	data := content(41, 1000)
	p := make([]byte, len(data))
	for i, dst := range []string{"other", "deep/er/dst"} {
		put(t, store, "src", data, nil)
		put(t, store, "other", []byte("other"), nil)
		if _, err := object.ReadRange(ctx, store, "src", p, 0); err != nil {
			t.Fatal(err)
		}
		if err := r.Rename(ctx, dst, "src"); err != nil {
			t.Fatalf("rename %d: %v", i, err)
		}
		wantAbsent(t, store, "src")
		_, err := object.ReadRange(ctx, store, "src", p, 0)
		wantError(t, "read of the old name", err, object.ErrNotFound)
		wantContent(t, store, dst, data)
	}
	wantError(t, "rename of a missing object", r.Rename(ctx, "x", "missing"), object.ErrNotFound)
	wantAbsent(t, store, "x")
}
