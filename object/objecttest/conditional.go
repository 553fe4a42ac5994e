package objecttest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/massif-fs/massif/object"
)

const writers = 16

func (s *suite) testIfAbsent(t *testing.T, store object.Store) {
	ctx := t.Context()
	opts := &object.PutOptions{IfAbsent: true}
	if !store.Capabilities().PutIfAbsent {
		_, err := store.Put(ctx, "k", strings.NewReader("x"), 1, opts)
		wantError(t, "put if absent", err, object.ErrUnsupported)
		wantAbsent(t, store, "k")
		return
	}
	put(t, store, "dir/k", []byte("first"), opts)
	_, err := store.Put(ctx, "dir/k", strings.NewReader("other"), 5, opts)
	wantError(t, "second put if absent", err, object.ErrExists)
	_, err = store.Put(ctx, "dir/k", onlyReader{strings.NewReader("other")}, -1, opts)
	wantError(t, "streamed put if absent", err, object.ErrExists)
	wantContent(t, store, "dir/k", []byte("first"))
	put(t, store, "src", []byte("src"), nil)
	_, err = store.Copy(ctx, "dir/k", "src", opts)
	wantError(t, "copy if absent", err, object.ErrExists)
	wantContent(t, store, "dir/k", []byte("first"))
	if _, err := store.Copy(ctx, "dir/new", "src", opts); err != nil {
		t.Errorf("copy if absent to a new key: %v", err)
	}
	wantContent(t, store, "dir/new", []byte("src"))
	if err := store.Delete(ctx, "dir/k"); err != nil {
		t.Fatal(err)
	}
	put(t, store, "dir/k", []byte("again"), opts)
	wantContent(t, store, "dir/k", []byte("again"))
	_, err = store.Put(ctx, "dir/k", strings.NewReader("x"), 1, &object.PutOptions{IfAbsent: true, IfMatch: "x"})
	wantError(t, "both conditions", err, object.ErrInvalid)
}

// race lets 16 writers put different contents of key at one moment and checks
// that exactly one of them wins while the others get loss.
func race(t *testing.T, store object.Store, key string, opts *object.PutOptions, loss error) {
	t.Helper()
	ctx, cancel := deadline(t)
	defer cancel()
	start := make(chan struct{})
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			data := fmt.Appendf(nil, "writer %d", w)
			<-start
			_, errs[w] = store.Put(ctx, key, bytes.NewReader(data), int64(len(data)), opts)
		})
	}
	close(start)
	wg.Wait()
	winner := -1
	for w, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Fatalf("writers %d and %d both won", winner, w)
		case err == nil:
			winner = w
		case !errors.Is(err, loss):
			t.Errorf("writer %d: %v, want %v", w, err, loss)
		}
	}
	if winner < 0 {
		t.Fatal("nobody won")
	}
	wantContent(t, store, key, fmt.Appendf(nil, "writer %d", winner))
}

func (s *suite) testIfAbsentRace(t *testing.T, store object.Store) {
	if !store.Capabilities().PutIfAbsent {
		t.Skip("the store has no conditional put")
	}
	for round := range 5 {
		race(t, store, fmt.Sprintf("race/%d", round), &object.PutOptions{IfAbsent: true}, object.ErrExists)
	}
}

func (s *suite) testIfMatch(t *testing.T, store object.Store) {
	ctx := t.Context()
	if !store.Capabilities().PutIfMatch {
		put(t, store, "k", []byte("x"), nil)
		_, err := store.Put(ctx, "k", strings.NewReader("y"), 1, &object.PutOptions{IfMatch: "etag"})
		wantError(t, "put if match", err, object.ErrUnsupported)
		wantContent(t, store, "k", []byte("x"))
		return
	}
	one := put(t, store, "k", []byte("one"), nil)
	two := put(t, store, "k", []byte("two"), &object.PutOptions{IfMatch: one.ETag})
	wantContent(t, store, "k", []byte("two"))
	_, err := store.Put(ctx, "k", strings.NewReader("bad"), 3, &object.PutOptions{IfMatch: one.ETag})
	wantError(t, "put with an old ETag", err, object.ErrPrecondition)
	_, err = store.Put(ctx, "k", onlyReader{strings.NewReader("bad")}, -1, &object.PutOptions{IfMatch: one.ETag})
	wantError(t, "streamed put with an old ETag", err, object.ErrPrecondition)
	wantContent(t, store, "k", []byte("two"))
	_, err = store.Put(ctx, "missing", strings.NewReader("bad"), 3, &object.PutOptions{IfMatch: two.ETag})
	wantError(t, "put with an ETag of a missing object", err, object.ErrPrecondition)
	wantAbsent(t, store, "missing")

	// The ETags of Head, Get and List serve as well.
	head, err := store.Head(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	put(t, store, "k", []byte("three"), &object.PutOptions{IfMatch: head.ETag})
	_, info := get(t, store, "k", 1, 1)
	put(t, store, "k", []byte("four"), &object.PutOptions{IfMatch: info.ETag})
	page, err := store.List(ctx, object.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	put(t, store, "k", []byte("five"), &object.PutOptions{IfMatch: page.Objects[0].ETag})
	wantContent(t, store, "k", []byte("five"))
}

func (s *suite) testIfMatchRace(t *testing.T, store object.Store) {
	if !store.Capabilities().PutIfMatch {
		t.Skip("the store has no IfMatch")
	}
	for round := range 5 {
		key := fmt.Sprintf("race/%d", round)
		info := put(t, store, key, []byte("start"), nil)
		race(t, store, key, &object.PutOptions{IfMatch: info.ETag}, object.ErrPrecondition)
	}
}

// testIfMatchCounter: several writers count in one object; no step is lost.
func (s *suite) testIfMatchCounter(t *testing.T, store object.Store) {
	if !store.Capabilities().PutIfMatch {
		t.Skip("the store has no IfMatch")
	}
	const workers, steps = 4, 8
	put(t, store, "n", []byte("0"), nil)
	stores := []object.Store{store}
	if s.Second != nil {
		second := s.Second(t, store)
		defer second.Close()
		stores = append(stores, second)
	}
	ctx, cancel := deadline(t)
	defer cancel()
	step := func(store object.Store) (bool, error) {
		body, info, err := store.Get(ctx, "n", 0, -1)
		if err != nil {
			return false, err
		}
		defer body.Close()
		text, err := io.ReadAll(body)
		if err != nil {
			return false, err
		}
		n, err := strconv.Atoi(string(text))
		if err != nil {
			return false, err
		}
		next := strconv.Itoa(n + 1)
		_, err = store.Put(ctx, "n", strings.NewReader(next), int64(len(next)), &object.PutOptions{IfMatch: info.ETag})
		if errors.Is(err, object.ErrPrecondition) {
			return false, nil
		}
		return err == nil, err
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for done := 0; done < steps; {
				ok, err := step(stores[w%len(stores)])
				if err != nil {
					t.Error(err)
					return
				}
				if ok {
					done++
				}
			}
		})
	}
	wg.Wait()
	wantContent(t, store, "n", []byte(strconv.Itoa(workers*steps)))
}
