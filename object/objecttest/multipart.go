package objecttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/massif-fs/massif/object"
)

func multipart(t *testing.T, store object.Store) object.Multipart {
	m, ok := object.As[object.Multipart](store)
	if !ok {
		t.Skip("the store has no multipart upload")
	}
	return m
}

// partSizes returns sizes of three parts that the store allows.
func partSizes(t *testing.T, m object.Multipart) [3]int {
	minSize, maxSize, maxParts := m.PartLimits()
	if minSize < 0 || maxSize < minSize || maxSize < 5<<20 || maxParts < 1000 {
		t.Fatalf("part limits %d, %d, %d", minSize, maxSize, maxParts)
	}
	n := int(max(minSize, 1000))
	return [3]int{n, n + 12345, 777}
}

func putPart(t testing.TB, up object.Upload, n int, data []byte) object.Part {
	t.Helper()
	part, err := up.PutPart(t.Context(), n, bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatalf("part %d: %v", n, err)
	}
	if part.Number != n || part.Size != int64(len(data)) || part.ETag == "" {
		t.Fatalf("part %d is described as %+v", n, part)
	}
	return part
}

func (s *suite) testMultipart(t *testing.T, store object.Store) {
	m := multipart(t, store)
	ctx := t.Context()
	sizes := partSizes(t, m)
	opts := &object.PutOptions{}
	if store.Capabilities().Metadata {
		opts = &object.PutOptions{ContentType: "text/x-massif", Metadata: map[string]string{"a": "b"}}
	}
	put(t, store, "dir/k", []byte("old"), nil)
	up, err := m.CreateMultipart(ctx, "dir/k", opts)
	if err != nil {
		t.Fatal(err)
	}
	one, two, three := content(1, sizes[0]), content(2, sizes[1]), content(3, sizes[2])
	// Out of order, numbers with gaps, the middle one twice.
	p3 := putPart(t, up, 30, three)
	putPart(t, up, 2, content(9, sizes[0]))
	p1 := putPart(t, up, 1, one)
	p2 := putPart(t, up, 2, two)
	wantContent(t, store, "dir/k", []byte("old"))
	_, err = up.PutPart(ctx, 31, bytes.NewReader(one), int64(len(one))+1)
	wantError(t, "part with a short body", err, io.ErrUnexpectedEOF, object.ErrInvalid)
	_, err = up.PutPart(ctx, 31, bytes.NewReader(one), int64(len(one))-1)
	wantError(t, "part with a long body", err, object.ErrInvalid)
	_, err = up.PutPart(ctx, 0, bytes.NewReader(one), int64(len(one)))
	wantError(t, "part number 0", err, object.ErrInvalid)
	wrong := p2
	wrong.ETag = p1.ETag
	_, err = up.Complete(ctx, []object.Part{p1, wrong, p3})
	wantError(t, "complete with the ETag of another part", err, object.ErrInvalid, object.ErrPrecondition)
	_, err = up.Complete(ctx, nil)
	wantError(t, "complete without parts", err, object.ErrInvalid)
	info, err := up.Complete(ctx, []object.Part{p1, p2, p3})
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Join([][]byte{one, two, three}, nil)
	wantContent(t, store, "dir/k", want)
	head, err := store.Head(ctx, "dir/k")
	if err != nil {
		t.Fatal(err)
	}
	if info.Key != "dir/k" || info.Size != int64(len(want)) || info.ETag != head.ETag {
		t.Errorf("complete gave %+v, head %+v", info, head)
	}
	if opts.ContentType != "" && (head.ContentType != opts.ContentType || head.Metadata["a"] != "b") {
		t.Errorf("content type and metadata are %q, %v", head.ContentType, head.Metadata)
	}
	if err := up.Abort(ctx); err != nil && !errors.Is(err, object.ErrNotFound) {
		t.Errorf("abort after complete: %v", err)
	}
	wantContent(t, store, "dir/k", want)

	// Many parts at once.
	up, err = m.CreateMultipart(ctx, "par", nil)
	if err != nil {
		t.Fatal(err)
	}
	parts := make([]object.Part, 4)
	s.parallel(t, len(parts), func(ctx context.Context, i int) (err error) {
		parts[i], err = up.PutPart(ctx, i+1, bytes.NewReader(one), int64(len(one)))
		return err
	})
	if _, err := up.Complete(ctx, parts); err != nil {
		t.Fatal(err)
	}
	wantContent(t, store, "par", bytes.Repeat(one, 4))
	if got, _ := list(t, store, object.ListOptions{}); len(got) != 2 {
		t.Errorf("the store lists %q", got)
	}
}

func (s *suite) testMultipartConditions(t *testing.T, store object.Store) {
	m := multipart(t, store)
	ctx := t.Context()
	if !store.Capabilities().PutIfAbsent {
		t.Skip("the store has no conditional put")
	}
	up, err := m.CreateMultipart(ctx, "k", &object.PutOptions{IfAbsent: true})
	if err != nil {
		t.Fatal(err)
	}
	part := putPart(t, up, 1, []byte("new"))
	put(t, store, "k", []byte("came between"), nil)
	_, err = up.Complete(ctx, []object.Part{part})
	wantError(t, "complete if absent", err, object.ErrExists)
	wantContent(t, store, "k", []byte("came between"))
	if err := up.Abort(ctx); err != nil {
		t.Error(err)
	}
}

func (s *suite) testMultipartAbort(t *testing.T, store object.Store) {
	m := multipart(t, store)
	ctx := t.Context()
	up, err := m.CreateMultipart(ctx, "k", nil)
	if err != nil {
		t.Fatal(err)
	}
	part := putPart(t, up, 1, []byte("x"))
	if err := up.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	wantAbsent(t, store, "k")
	_, err = up.PutPart(ctx, 2, strings.NewReader("x"), 1)
	wantError(t, "part after abort", err, object.ErrNotFound)
	_, err = up.Complete(ctx, []object.Part{part})
	wantError(t, "complete after abort", err, object.ErrNotFound)
	wantAbsent(t, store, "k")
	_, err = m.CreateMultipart(ctx, "", nil)
	wantError(t, "upload with an empty key", err, object.ErrInvalid)
}

func (s *suite) testAbortStale(t *testing.T, store object.Store) {
	m := multipart(t, store)
	ctx := t.Context()
	start := func(key string) (object.Upload, object.Part) {
		t.Helper()
		up, err := m.CreateMultipart(ctx, key, nil)
		if err != nil {
			t.Fatal(err)
		}
		return up, putPart(t, up, 1, []byte(key))
	}
	_, _ = start("in/1")
	two, p2 := start("in/2")
	other, po := start("other")
	abort := func(prefix string, before time.Time) int {
		t.Helper()
		n, err := m.AbortStale(ctx, prefix, before)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	// Times of servers are whole seconds and their clocks differ a little.
	if n := abort("", time.Now().Add(-time.Hour)); n != 0 {
		t.Errorf("%d uploads were called an hour old", n)
	}
	if n := abort("in/", time.Now().Add(time.Hour)); n != 2 {
		t.Errorf("%d uploads were aborted, want 2", n)
	}
	_, err := two.Complete(ctx, []object.Part{p2})
	wantError(t, "complete of a stale upload", err, object.ErrNotFound)
	if _, err := other.Complete(ctx, []object.Part{po}); err != nil {
		t.Errorf("the upload outside the prefix: %v", err)
	}
	wantContent(t, store, "other", []byte("other"))
	if n := abort("", time.Now().Add(time.Hour)); n != 0 {
		t.Errorf("%d uploads were left", n)
	}
}
