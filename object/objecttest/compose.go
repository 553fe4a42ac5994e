package objecttest

import (
	"errors"
	"testing"

	"github.com/massif-fs/massif/object"
)

func (s *suite) testUpdate(t *testing.T, store object.Store) {
	u, ok := object.As[object.Updater](store)
	if !ok {
		t.Skip("the store cannot change metadata alone")
	}
	ctx := t.Context()
	data := content(7, 3000)
	first := put(t, store, "d/k", data, &object.PutOptions{ContentType: "text/x-one", Metadata: map[string]string{"a": "1", "b": "2"}})
	info, err := u.Update(ctx, "d/k", &object.PutOptions{ContentType: "text/x-two", Metadata: map[string]string{"b": "3", "c": "4"}, IfMatch: first.ETag})
	if err != nil {
		t.Fatal(err)
	}
	head, err := store.Head(ctx, "d/k")
	if err != nil {
		t.Fatal(err)
	}
	if head.ETag != info.ETag || head.Size != int64(len(data)) || head.ContentType != "text/x-two" || len(head.Metadata) != 2 || head.Metadata["b"] != "3" || head.Metadata["c"] != "4" {
		t.Fatalf("updated to %+v, is %+v", info, head)
	}
	wantContent(t, store, "d/k", data)
	if _, err := u.Update(ctx, "d/k", &object.PutOptions{Metadata: map[string]string{"x": "y"}, IfMatch: "0123456789abcdef0123456789abcdef"}); !errors.Is(err, object.ErrPrecondition) {
		t.Errorf("an update of another version: %v", err)
	}
	if _, err := u.Update(ctx, "d/none", &object.PutOptions{Metadata: map[string]string{"x": "y"}}); !errors.Is(err, object.ErrNotFound) {
		t.Errorf("an update of nothing: %v", err)
	}
}

func (s *suite) testCompose(t *testing.T, store object.Store) {
	c, ok := object.As[object.Composer](store)
	if !ok {
		t.Skip("the store cannot copy parts")
	}
	ctx := t.Context()
	m := multipart(t, store)
	sizes := partSizes(t, m)
	n := sizes[0]
	old := content(8, 3*n+500)
	was := put(t, store, "d/k", old, nil)
	fresh := content(9, n+10)
	// The object is replaced by one made of its own beginning, something new, and its end.
	up, err := c.CreateComposed(ctx, "d/k", &object.PutOptions{Metadata: map[string]string{"a": "b"}, IfMatch: ifMatch(store, was)})
	if err != nil {
		t.Fatal(err)
	}
	p1, err := up.CopyPart(ctx, 1, "d/k", was.ETag, 0, int64(n))
	if err != nil {
		t.Fatal(err)
	}
	p2 := putPart(t, up, 2, fresh)
	p3, err := up.CopyPart(ctx, 3, "d/k", was.ETag, int64(2*n), int64(n+500))
	if err != nil {
		t.Fatal(err)
	}
	wantContent(t, store, "d/k", old)
	info, err := up.Complete(ctx, []object.Part{p1, p2, p3})
	if err != nil {
		t.Fatal(err)
	}
	want := append(append(append([]byte{}, old[:n]...), fresh...), old[2*n:]...)
	wantContent(t, store, "d/k", want)
	if head, err := store.Head(ctx, "d/k"); err != nil || head.ETag != info.ETag || head.Metadata["a"] != "b" {
		t.Fatalf("made %+v, is %+v, %v", info, head, err)
	}
	up, err = c.CreateComposed(ctx, "d/other", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := up.CopyPart(ctx, 1, "d/k", was.ETag, 0, int64(n)); !errors.Is(err, object.ErrPrecondition) {
		t.Errorf("a part of another version: %v", err)
	}
	if _, err := up.CopyPart(ctx, 1, "d/none", was.ETag, 0, int64(n)); !errors.Is(err, object.ErrNotFound) {
		t.Errorf("a part of nothing: %v", err)
	}
	if err := up.Abort(ctx); err != nil {
		t.Fatal(err)
	}
}

func ifMatch(store object.Store, info object.Info) string {
	if !store.Capabilities().PutIfMatch {
		return ""
	}
	return info.ETag
}
