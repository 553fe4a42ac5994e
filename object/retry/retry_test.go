package retry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/faulty"
	"github.com/massif-fs/massif/object/intercept"
	"github.com/massif-fs/massif/object/mem"
	"github.com/massif-fs/massif/object/objecttest"
	"github.com/massif-fs/massif/object/retry"
)

var quick = retry.Options{First: 10 * time.Microsecond, Most: 100 * time.Microsecond}

func TestStore(t *testing.T) {
	objecttest.Run(t, objecttest.Factory{
		New: func(testing.TB) object.Store { return retry.New(mem.New(), quick) },
	})
}

// TestStoreOverFaults: with everything failing now and then, also after its
// effect, in the middle of bodies and with wrong answers, the contract holds.
func TestStoreOverFaults(t *testing.T) {
	injected := 0
	objecttest.Run(t, objecttest.Factory{
		New: func(t testing.TB) object.Store {
			f := faulty.New(mem.New(), 42,
				faulty.Rule{Probability: 0.1, Err: object.ErrUnavailable},
				faulty.Rule{Probability: 0.1, Err: object.ErrUnavailable, AfterEffect: true},
				faulty.Rule{Ops: []intercept.Op{intercept.Get, intercept.Read}, Probability: 0.1, Truncate: 1000, Err: syscall.ECONNRESET},
				faulty.Rule{Ops: []intercept.Op{intercept.Get}, Probability: 0.1, Truncate: faulty.TruncateAtOnce},
				faulty.Rule{Probability: 0.05, Err: syscall.ECONNRESET},
			)
			t.Cleanup(func() { injected += f.Injected() })
			return retry.New(f, quick)
		},
		Skip: map[string]string{
			"Stream":              "bodies that cannot be read twice are not tried again",
			"Random":              "bodies that cannot be read twice are not tried again",
			"BodyLeftOpen":        "bodies that cannot be read twice are not tried again",
			"WrongBodies":         "the faults change the error",
			"Cancel":              "the faults change the error",
			"Concurrent":          "a body of an object that is replaced while its connection breaks is an error",
			"MultipartAbort":      "an abort whose answer is lost ends in success",
			"AbortStale":          "answers that are lost are not counted",
			"IfMatchCounter":      "a lost answer and another writer's step cannot be told apart",
			"MultipartConditions": "the faults change the error",
		},
	})
	if injected < 1000 {
		t.Errorf("only %d faults were injected", injected)
	}
}

func TestFinalErrors(t *testing.T) {
	for _, final := range []error{object.ErrNotFound, object.ErrExists, object.ErrPrecondition, object.ErrAccess, object.ErrNoBucket, object.ErrInvalid, object.ErrNoSpace, object.ErrUnsupported} {
		f := faulty.New(mem.New(), 1, faulty.Rule{Err: final})
		if _, err := retry.New(f, quick).Head(t.Context(), "k"); !errors.Is(err, final) {
			t.Errorf("%v became %v", final, err)
		}
		if f.Injected() != 1 {
			t.Errorf("%v was tried %d times", final, f.Injected())
		}
	}
}

func TestGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := faulty.New(mem.New(), 1, faulty.Rule{Err: object.ErrUnavailable})
		s := retry.New(f, retry.Options{Total: time.Minute})
		begun := time.Now()
		_, err := s.Head(t.Context(), "k")
		spent := time.Since(begun)
		var oe *object.Error
		if !errors.Is(err, syscall.ETIMEDOUT) || !errors.Is(err, object.ErrUnavailable) || !errors.As(err, &oe) {
			t.Errorf("error %v", err)
		}
		if !strings.Contains(err.Error(), "gave up after") {
			t.Errorf("error %q", err)
		}
		if spent < 30*time.Second || spent > time.Minute {
			t.Errorf("gave up after %v", spent)
		}
		if n := f.Injected(); n < 8 || n > 60 {
			t.Errorf("%d attempts in a minute", n)
		}

		f.SetRules(faulty.Rule{Err: object.ErrUnavailable})
		before := f.Injected()
		_, err = retry.New(f, retry.Options{Attempts: 4}).Head(t.Context(), "k")
		if got := f.Injected() - before; got != 4 || !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("%d attempts, %v", got, err)
		}
	})
}

// TestAttemptTimeout: a call that hangs is ended and repeated.
func TestAttemptTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mem.New()
		if _, err := m.Put(t.Context(), "k", strings.NewReader("v"), 1, nil); err != nil {
			t.Fatal(err)
		}
		f := faulty.New(m, 1, faulty.Rule{Stall: true, Times: 2})
		var told []string
		s := retry.New(f, retry.Options{Attempt: 5 * time.Second, Notify: func(op, key string, n int, err error, _ time.Duration) {
			told = append(told, op+" "+key)
			if !errors.Is(err, syscall.ETIMEDOUT) {
				t.Errorf("attempt %d ended with %v", n, err)
			}
		}})
		if _, err := s.Head(t.Context(), "k"); err != nil {
			t.Error(err)
		}
		if len(told) != 2 || told[0] != "head k" {
			t.Errorf("told %q", told)
		}
		// The caller's deadline is not the attempt's.
		f.SetRules(faulty.Rule{Stall: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Head(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestPutBodies(t *testing.T) {
	ctx := t.Context()
	data := bytes.Repeat([]byte("body "), 10_000)
	cut := faulty.Rule{Ops: []intercept.Op{intercept.Put}, CutSent: 1000, Err: syscall.ECONNRESET, Times: 2}

	// A seekable body is sent again from where it stood.
	m := mem.New()
	s := retry.New(faulty.New(m, 1, faulty.Rule{Err: object.ErrUnavailable, Times: 2}), quick)
	r := bytes.NewReader(append([]byte("before"), data...))
	r.Seek(6, io.SeekStart)
	if _, err := s.Put(ctx, "k", r, int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
	check(t, m, "k", data)

	// Also when it broke in the middle, and is no bytes.Reader.
	s = retry.New(faulty.New(m, 1, faulty.Rule{Ops: cut.Ops, Err: object.ErrUnavailable, AfterEffect: true, Times: 2}), quick)
	if _, err := s.Put(ctx, "k2", io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data))), int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
	check(t, m, "k2", data)

	// One that cannot be read twice: only if it was not touched.
	f := faulty.New(m, 1, faulty.Rule{Err: object.ErrUnavailable, Times: 2})
	s = retry.New(f, quick)
	if _, err := s.Put(ctx, "k3", io.MultiReader(bytes.NewReader(data)), int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
	check(t, m, "k3", data)
	f.SetRules(cut)
	if _, err := s.Put(ctx, "k4", io.MultiReader(bytes.NewReader(data)), int64(len(data)), nil); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a body that was half read: %v", err)
	}
	if _, err := m.Head(ctx, "k4"); !errors.Is(err, object.ErrNotFound) {
		t.Error(err)
	}
}

func check(t *testing.T, s object.Store, key string, want []byte) {
	t.Helper()
	p := make([]byte, len(want))
	if _, err := object.ReadRange(t.Context(), s, key, p, 0); err != nil || !bytes.Equal(p, want) {
		t.Errorf("%q: wrong content, %v", key, err)
	}
}

// TestLostAnswers: conditional writes whose answer was lost.
func TestLostAnswers(t *testing.T) {
	ctx := t.Context()
	m := mem.New()
	lose := faulty.Rule{Err: object.ErrUnavailable, AfterEffect: true, Times: 1}
	f := faulty.New(m, 1, lose)
	s := retry.New(f, quick)
	absent := &object.PutOptions{IfAbsent: true}
	if _, err := s.Put(ctx, "k", strings.NewReader("mine"), 4, absent); err != nil {
		t.Errorf("a put that took effect at its first attempt: %v", err)
	}
	f.SetRules(lose)
	info, _ := m.Head(ctx, "k")
	if _, err := s.Put(ctx, "k", strings.NewReader("next"), 4, &object.PutOptions{IfMatch: info.ETag}); err != nil {
		t.Errorf("a put with IfMatch that took effect at its first attempt: %v", err)
	}
	// Somebody else's object is not ours.
	f.SetRules(faulty.Rule{Ops: []intercept.Op{intercept.Put}, Err: object.ErrUnavailable, Times: 1})
	if _, err := s.Put(ctx, "k", strings.NewReader("mine"), 4, absent); !errors.Is(err, object.ErrExists) {
		t.Errorf("a put over somebody else's object: %v", err)
	}
	f.SetRules(lose)
	if err := s.Rename(ctx, "k2", "k"); err != nil {
		t.Errorf("rename: %v", err)
	}
	f.SetRules(lose)
	if _, err := s.Copy(ctx, "k3", "k2", absent); err != nil {
		t.Errorf("copy: %v", err)
	}
	up, err := s.CreateMultipart(ctx, "multi", nil)
	if err != nil {
		t.Fatal(err)
	}
	part, err := up.PutPart(ctx, 1, strings.NewReader("part"), 4)
	if err != nil {
		t.Fatal(err)
	}
	f.SetRules(lose)
	if _, err := up.Complete(ctx, []object.Part{part}); err != nil {
		t.Errorf("complete: %v", err)
	}
}

// TestResume: a body goes on where its connection broke, but not with another
// object's bytes.
func TestResume(t *testing.T) {
	ctx := t.Context()
	m := mem.New()
	data := make([]byte, 100_000)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	put := func(p []byte) {
		if _, err := m.Put(ctx, "k", bytes.NewReader(p), int64(len(p)), nil); err != nil {
			t.Fatal(err)
		}
	}
	put(data)
	f := faulty.New(m, 1, faulty.Rule{Truncate: 3000})
	s := retry.New(f, retry.Options{First: time.Microsecond, Most: 2 * time.Microsecond, Attempts: 3})
	for _, n := range []int64{-1, 50_000} {
		body, _, err := s.Get(ctx, "k", 10, n)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		want := data[10:]
		if n >= 0 {
			want = want[:n]
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("n %d: %d bytes, %v", n, len(got), err)
		}
		body.Close()
	}
	if f.Injected() < 40 {
		t.Errorf("only %d breaks", f.Injected())
	}
	body, _, err := s.Get(ctx, "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, err := io.ReadFull(body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	put(bytes.Repeat([]byte("other"), 20_000))
	if _, err := io.ReadAll(body); !errors.Is(err, object.ErrPrecondition) {
		t.Errorf("after a change: %v", err)
	}
	// Without progress it gives up.
	put(data)
	f.SetRules(faulty.Rule{Truncate: faulty.TruncateAtOnce})
	body, _, err = s.Get(ctx, "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, err := io.ReadAll(body); !errors.Is(err, syscall.ETIMEDOUT) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("without progress: %v", err)
	}
}

func TestDeletePartly(t *testing.T) {
	ctx := t.Context()
	m := &partlyDeleting{Store: mem.New(), fail: map[string][]error{
		"a": {object.ErrUnavailable, object.ErrUnavailable}, "b": {object.ErrAccess}, "c": {object.ErrUnavailable},
	}}
	err := retry.New(m, quick).Delete(ctx, "a", "b", "c", "d")
	var de *object.DeleteError
	if !errors.As(err, &de) || len(de.Failed) != 1 || !errors.Is(de.Failed["b"], object.ErrAccess) {
		t.Errorf("delete: %v", err)
	}
	if m.calls != 3 {
		t.Errorf("%d calls", m.calls)
	}
}

type partlyDeleting struct {
	object.Store
	fail  map[string][]error
	calls int
}

func (p *partlyDeleting) Delete(_ context.Context, keys ...string) error {
	p.calls++
	failed := make(map[string]error)
	for _, key := range keys {
		if errs := p.fail[key]; len(errs) > 0 {
			failed[key], p.fail[key] = errs[0], errs[1:]
		}
	}
	if len(failed) > 0 {
		return &object.DeleteError{Failed: failed}
	}
	return nil
}
