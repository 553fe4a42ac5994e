// Package objecttest is the conformance suite of the object store contract
// (package object). Every driver and every wrapper runs it:
//
//	func TestStore(t *testing.T) {
//		objecttest.Run(t, objecttest.Factory{
//			New: func(t testing.TB) object.Store { return mem.New() },
//		})
//	}
//
// Each case gets an empty store of its own. What a store cannot do is said by its
// Capabilities, by the optional interfaces it lacks, and, for servers that fall
// short of the contract, by Factory.Skip and Factory.RefusesKey, each with a
// reason, so that every exception is written down where it is made.
package objecttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/massif-fs/massif/object"
)

// Factory makes the stores under test.
type Factory struct {
	// New returns an empty store. The suite closes it.
	New func(t testing.TB) object.Store
	// Second, if not nil, opens the store that s is once more, as another process
	// would. The suite closes it.
	Second func(t testing.TB, s object.Store) object.Store
	// Only, if not empty, names the cases to run: for a second configuration of a
	// store that passes all of them in another.
	Only []string
	// Skip names cases that do not hold, with the reason.
	Skip map[string]string
	// RefusesKey, if not nil, returns the reason why the server behind the store
	// refuses a valid key, "" if it keeps it. The suite checks that a refused key
	// gives an error and then leaves it out.
	RefusesKey func(key string) string
	// NoNesting, if not empty, is the reason why the server keeps no object whose
	// key goes on with '/' after the key of another object.
	NoNesting string
	// HTTP makes the requests that the store has signed, as somebody without its
	// credentials; nil: http.DefaultClient.
	HTTP *http.Client
	// UTF16Order, if not empty, is the reason why the server lists keys in the order
	// of their UTF-16 code units, which is that of their bytes only for characters
	// up to U+FFFF: keys with others are left out where several are listed.
	UTF16Order string
	// CopiesMetadata, if not empty, is the reason why the server gives a copy its
	// source's metadata though it was told that there shall be none.
	CopiesMetadata string
	// Many is the number of objects where many are wanted; 0: 2500. Fewer are for
	// servers that are slow.
	Many int
	// Parallel is the number of requests that the suite has in flight where it
	// prepares many objects; 0: 16.
	Parallel int
}

type suite struct {
	Factory
}

// Run runs the suite.
func Run(t *testing.T, f Factory) {
	if f.Parallel == 0 {
		f.Parallel = 16
	}
	if f.HTTP == nil {
		f.HTTP = http.DefaultClient
	}
	if f.Many == 0 {
		f.Many = 2500
	}
	s := &suite{f}
	cases := []struct {
		name string
		run  func(*testing.T, object.Store)
	}{
		{"PutGet", s.testPutGet},
		{"GetRange", s.testGetRange},
		{"ReadRange", s.testReadRange},
		{"Replace", s.testReplace},
		{"Missing", s.testMissing},
		{"BodyLeftOpen", s.testBodyLeftOpen},
		{"WrongBodies", s.testWrongBodies},
		{"Stream", s.testStream},
		{"Big", s.testBig},
		{"Delete", s.testDelete},
		{"Metadata", s.testMetadata},
		{"Copy", s.testCopy},
		{"Rename", s.testRename},
		{"Update", s.testUpdate},
		{"Compose", s.testCompose},
		{"InvalidKeys", s.testInvalidKeys},
		{"OddKeys", s.testOddKeys},
		{"NestedKeys", s.testNestedKeys},
		{"List", s.testList},
		{"ListMany", s.testListMany},
		{"ListChanging", s.testListChanging},
		{"Random", s.testRandom},
		{"IfAbsent", s.testIfAbsent},
		{"IfAbsentRace", s.testIfAbsentRace},
		{"IfMatch", s.testIfMatch},
		{"IfMatchRace", s.testIfMatchRace},
		{"IfMatchCounter", s.testIfMatchCounter},
		{"Cancel", s.testCancel},
		{"Concurrent", s.testConcurrent},
		{"ConcurrentKeys", s.testConcurrentKeys},
		{"SecondHandle", s.testSecondHandle},
		{"Multipart", s.testMultipart},
		{"MultipartConditions", s.testMultipartConditions},
		{"MultipartAbort", s.testMultipartAbort},
		{"AbortStale", s.testAbortStale},
		{"Presign", s.testPresign},
		{"PresignExpired", s.testPresignExpired},
	}
	known := make(map[string]bool)
	for _, c := range cases {
		known[c.name] = true
		if len(f.Only) > 0 && !slices.Contains(f.Only, c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			if why := f.Skip[c.name]; why != "" {
				t.Skip(why)
			}
			store := f.New(t)
			t.Cleanup(func() {
				if err := store.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			c.run(t, store)
		})
	}
	for _, name := range slices.AppendSeq(slices.Clone(f.Only), maps.Keys(f.Skip)) {
		if !known[name] {
			t.Errorf("the factory names an unknown case %q", name)
		}
	}
}

// refused reports whether the server does not keep key, after checking that it
// says so.
func (s *suite) refused(t *testing.T, store object.Store, key string) bool {
	t.Helper()
	if s.RefusesKey == nil {
		return false
	}
	why := s.RefusesKey(key)
	if why == "" {
		return false
	}
	if _, err := store.Put(t.Context(), key, bytes.NewReader([]byte("x")), 1, nil); err == nil {
		t.Errorf("put %q was accepted though the store refuses it: %s", key, why)
	}
	return true
}

// keepable leaves out the keys that the server does not keep, each because of
// itself or of another one.
func (s *suite) keepable(t *testing.T, store object.Store, keys []string) []string {
	t.Helper()
	var kept []string
	for _, key := range keys {
		if s.UTF16Order != "" && strings.ContainsFunc(key, func(r rune) bool { return r > 0xFFFF }) {
			continue
		}
		below := func(other string) bool { return strings.HasPrefix(key, other+"/") || strings.HasPrefix(other, key+"/") }
		if s.NoNesting != "" && slices.ContainsFunc(kept, below) || s.refused(t, store, key) {
			continue
		}
		kept = append(kept, key)
	}
	return kept
}

// content returns n bytes that depend on seed.
func content(seed uint64, n int) []byte {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	p := make([]byte, n)
	rand.NewChaCha8(key).Read(p) // never fails
	return p
}

func put(t testing.TB, store object.Store, key string, data []byte, opts *object.PutOptions) object.Info {
	t.Helper()
	info, err := store.Put(t.Context(), key, bytes.NewReader(data), int64(len(data)), opts)
	if err != nil {
		t.Fatalf("put %q: %v", key, err)
	}
	return info
}

// fill puts objects with the given keys, several at once; each holds its key.
func (s *suite) fill(t testing.TB, store object.Store, keys []string) {
	t.Helper()
	s.parallel(t, len(keys), func(ctx context.Context, i int) error {
		_, err := store.Put(ctx, keys[i], bytes.NewReader([]byte(keys[i])), int64(len(keys[i])), nil)
		return err
	})
}

// parallel calls do for 0 to n-1, s.Parallel at once, and fails the test on the
// first error.
func (s *suite) parallel(t testing.TB, n int, do func(ctx context.Context, i int) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	next := make(chan int)
	workers := min(s.Parallel, n)
	errs := make(chan error, workers)
	for range workers {
		go func() {
			var err error
			for i := range next {
				if err == nil {
					if err = do(ctx, i); err != nil {
						cancel()
					}
				}
			}
			errs <- err
		}()
	}
	for i := range n {
		next <- i
	}
	close(next)
	var all []error
	for range workers {
		if err := <-errs; err != nil {
			all = append(all, err)
		}
	}
	if len(all) > 0 {
		t.Fatal(all[0])
	}
}

func get(t testing.TB, store object.Store, key string, off, n int64) ([]byte, object.Info) {
	t.Helper()
	body, info, err := store.Get(t.Context(), key, off, n)
	if err != nil {
		t.Fatalf("get %q: %v", key, err)
	}
	data, err := io.ReadAll(body)
	if cerr := body.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		t.Fatalf("read %q: %v", key, err)
	}
	return data, info
}

func wantContent(t testing.TB, store object.Store, key string, want []byte) {
	t.Helper()
	got, info := get(t, store, key, 0, -1)
	if !bytes.Equal(got, want) {
		t.Fatalf("%q holds %s, want %s", key, brief(got), brief(want))
	}
	if info.Size != int64(len(want)) {
		t.Fatalf("get %q: size %d, want %d", key, info.Size, len(want))
	}
}

func wantAbsent(t testing.TB, store object.Store, key string) {
	t.Helper()
	_, err := store.Head(t.Context(), key)
	wantError(t, "head of absent "+key, err, object.ErrNotFound)
}

// wantError checks that err is an *object.Error that wraps one of the sentinels.
func wantError(t testing.TB, what string, err error, sentinels ...error) {
	t.Helper()
	if err == nil {
		t.Fatalf("%s: no error, want %v", what, sentinels)
	}
	ok := false
	for _, s := range sentinels {
		ok = ok || errors.Is(err, s)
	}
	if !ok {
		t.Fatalf("%s: error %q, want one that wraps %v", what, err, sentinels)
	}
	var oe *object.Error
	if !errors.As(err, &oe) {
		t.Fatalf("%s: error %q is a %T, want *object.Error", what, err, err)
	}
}

func brief(p []byte) string {
	if len(p) <= 40 {
		return fmt.Sprintf("%q", p)
	}
	return fmt.Sprintf("%q… (%d bytes)", p[:32], len(p))
}

// onlyReader hides every other ability of a reader, as a pipe would.
type onlyReader struct{ io.Reader }

// deadline bounds cases that would hang where a promise is broken.
func deadline(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), 5*time.Minute)
}
