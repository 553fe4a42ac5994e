package objecttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/massif-fs/massif/object"
)

// cancelAfter cancels its context when n bytes have been read, and goes on.
type cancelAfter struct {
	r      io.Reader
	n      int
	cancel context.CancelFunc
}

func (c *cancelAfter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p[:min(len(p), 64<<10)])
	if c.n -= n; c.n <= 0 {
		c.cancel()
	}
	return n, err
}

func (s *suite) testCancel(t *testing.T, store object.Store) {
	put(t, store, "k", []byte("content"), nil)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range map[string]func() error{
		"put": func() error {
			_, err := store.Put(gone, "new", strings.NewReader("x"), 1, nil)
			return err
		},
		"get": func() error {
			body, _, err := store.Get(gone, "k", 0, -1)
			if err == nil {
				body.Close()
			}
			return err
		},
		"read":   func() error { _, err := object.ReadRange(gone, store, "k", make([]byte, 2), 0); return err },
		"head":   func() error { _, err := store.Head(gone, "k"); return err },
		"delete": func() error { return store.Delete(gone, "k") },
		"list":   func() error { _, err := store.List(gone, object.ListOptions{}); return err },
		"copy":   func() error { _, err := store.Copy(gone, "new", "k", nil); return err },
	} {
		wantError(t, name+" with a cancelled context", call(), context.Canceled)
	}
	wantContent(t, store, "k", []byte("content"))
	wantAbsent(t, store, "new")

	// Cancelled while the body is read: nothing appears.
	for _, size := range []int64{6 << 20, -1} {
		ctx, cancel := context.WithCancel(t.Context())
		body := &cancelAfter{r: bytes.NewReader(content(50, 6<<20)), n: 1 << 20, cancel: cancel}
		_, err := store.Put(ctx, "new", body, size, nil)
		cancel()
		wantError(t, "put cancelled in its body", err, context.Canceled)
		wantAbsent(t, store, "new")
	}

	// Cancelled while the object is read: an error, or the right bytes.
	data := content(51, 6<<20)
	put(t, store, "big", data, nil)
	ctx, cancel := context.WithCancel(t.Context())
	body, _, err := store.Get(ctx, "big", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 1000)
	if _, err := io.ReadFull(body, head); err != nil {
		t.Fatal(err)
	}
	cancel()
	rest, err := io.ReadAll(body)
	body.Close()
	if err == nil && !bytes.Equal(append(head, rest...), data) {
		t.Errorf("a cancelled get gave %d bytes without an error", len(rest)+1000)
	}
}

// stamped returns content whose every part names the version it belongs to.
func stamped(version, size int) []byte {
	one := fmt.Appendf(nil, "<version %08d size %08d>", version, size)
	return bytes.Repeat(one, size/len(one)+1)[:size]
}

func checkStamped(p []byte) error {
	var version, size int
	if _, err := fmt.Sscanf(string(p[:min(len(p), 33)]), "<version %d size %d>", &version, &size); err != nil {
		return fmt.Errorf("no stamp in %s: %w", brief(p), err)
	}
	if !bytes.Equal(p, stamped(version, size)) {
		return fmt.Errorf("version %d is a mixture or torn: %d bytes of %d", version, len(p), size)
	}
	return nil
}

// testConcurrent: readers of an object that is replaced all the time see one of
// its versions, whole.
func (s *suite) testConcurrent(t *testing.T, store object.Store) {
	const rounds = 25
	put(t, store, "k", stamped(0, 100_000), nil)
	ctx, cancel := deadline(t)
	defer cancel()
	stop := make(chan struct{})
	var writing, reading sync.WaitGroup
	for w := range 3 {
		writing.Go(func() {
			for i := range rounds {
				data := stamped(w*rounds+i, 50_000+(w*rounds+i)*1009)
				if _, err := store.Put(ctx, "k", bytes.NewReader(data), int64(len(data)), nil); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for r := range 4 {
		reading.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if r%2 == 0 {
					body, info, err := store.Get(ctx, "k", 0, -1)
					if err != nil {
						t.Error(err)
						return
					}
					p, err := io.ReadAll(body)
					body.Close()
					if err != nil {
						t.Error(err)
						return
					}
					if err := checkStamped(p); err != nil || int64(len(p)) != info.Size {
						t.Errorf("read %d bytes, size %d: %v", len(p), info.Size, err)
						return
					}
					continue
				}
				p := make([]byte, 40_000)
				if _, err := object.ReadRange(ctx, store, "k", p, 0); err != nil {
					t.Error(err)
					return
				}
				var version, size int
				if _, err := fmt.Sscanf(string(p), "<version %d size %d>", &version, &size); err != nil || !bytes.Equal(p, stamped(version, size)[:len(p)]) {
					t.Errorf("a range mixes versions: %v", err)
					return
				}
			}
		})
	}
	writing.Wait()
	close(stop)
	reading.Wait()
}

// testConcurrentKeys: writers and deleters of many keys in the same directories.
func (s *suite) testConcurrentKeys(t *testing.T, store object.Store) {
	const workers, rounds = 8, 30
	ctx, cancel := deadline(t)
	defer cancel()
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				// All workers share the directories, so that they come and go.
				key := fmt.Sprintf("d%d/e/%d", i%3, w)
				data := fmt.Appendf(nil, "%d-%d", w, i)
				if _, err := store.Put(ctx, key, bytes.NewReader(data), int64(len(data)), nil); err != nil {
					t.Error(err)
					return
				}
				p := make([]byte, len(data))
				if _, err := object.ReadRange(ctx, store, key, p, 0); err != nil || !bytes.Equal(p, data) {
					t.Errorf("%q: %q, %v, want %q", key, p, err, data)
					return
				}
				if err := store.Delete(ctx, key); err != nil {
					t.Error(err)
					return
				}
				if _, err := store.Head(ctx, key); !errors.Is(err, object.ErrNotFound) {
					t.Errorf("%q after its deletion: %v", key, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got, _ := list(t, store, object.ListOptions{}); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

// testSecondHandle: what one process does, another sees at once.
func (s *suite) testSecondHandle(t *testing.T, store object.Store) {
	if s.Second == nil {
		t.Skip("the factory cannot open a store twice")
	}
	second := s.Second(t, store)
	defer second.Close()
	ctx := t.Context()
	for i := range 30 {
		data := content(uint64(200+i), 5000)
		put(t, store, "d/k", data, nil)
		p := make([]byte, len(data))
		for range 2 {
			if _, err := object.ReadRange(ctx, second, "d/k", p, 0); err != nil || !bytes.Equal(p, data) {
				t.Fatalf("round %d: the second handle reads something else: %v", i, err)
			}
		}
		if i%3 == 0 {
			if r, ok := object.As[object.Renamer](store); ok {
				if err := r.Rename(ctx, "d/renamed", "d/k"); err != nil {
					t.Fatal(err)
				}
				_, err := object.ReadRange(ctx, second, "d/k", p, 0)
				wantError(t, "read after rename", err, object.ErrNotFound)
			}
		}
		if i%5 == 0 {
			if err := store.Delete(ctx, "d/k"); err != nil {
				t.Fatal(err)
			}
			_, err := object.ReadRange(ctx, second, "d/k", p, 0)
			wantError(t, "read after delete", err, object.ErrNotFound)
		}
	}
}
