package faulty_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/bits"
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
)

func TestStore(t *testing.T) {
	objecttest.Run(t, objecttest.Factory{
		New: func(testing.TB) object.Store { return faulty.New(mem.New(), 1) },
	})
}

func put(s object.Store, key, value string) error {
	_, err := s.Put(context.Background(), key, strings.NewReader(value), int64(len(value)), nil)
	return err
}

func TestWhich(t *testing.T) {
	ctx := t.Context()
	s := faulty.New(mem.New(), 1)
	failures := func(n int) (failed []int) {
		for i := 1; i <= n; i++ {
			_, err := s.Head(ctx, "a/k")
			if errors.Is(err, syscall.EIO) {
				failed = append(failed, i)
			}
		}
		return failed
	}
	head := []intercept.Op{intercept.Head}
	for name, c := range map[string]struct {
		rule faulty.Rule
		want []int
	}{
		"all":     {faulty.Rule{Ops: head}, []int{1, 2, 3, 4, 5, 6}},
		"third":   {faulty.Rule{Ops: head, Nth: 3}, []int{3}},
		"every":   {faulty.Rule{Every: 2}, []int{2, 4, 6}},
		"times":   {faulty.Rule{Times: 2}, []int{1, 2}},
		"prefix":  {faulty.Rule{Prefix: "b/"}, nil},
		"another": {faulty.Rule{Ops: []intercept.Op{intercept.Put}}, nil},
	} {
		c.rule.Err = syscall.EIO
		s.SetRules(c.rule)
		got := failures(6)
		if len(got) != len(c.want) {
			t.Errorf("%s: calls %v failed, want %v", name, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: calls %v failed, want %v", name, got, c.want)
			}
		}
	}
	// The same seed, the same failures.
	var runs [2][]int
	for i := range runs {
		s = faulty.New(mem.New(), 7, faulty.Rule{Probability: 0.3, Err: syscall.EIO})
		runs[i] = failures(100)
	}
	if len(runs[0]) < 15 || len(runs[0]) > 45 || len(runs[0]) != len(runs[1]) {
		t.Errorf("%d and %d of 100 calls failed", len(runs[0]), len(runs[1]))
	}
}

func TestHow(t *testing.T) {
	ctx := t.Context()
	m := mem.New()
	s := faulty.New(m, 1)
	data := strings.Repeat("content ", 1000)
	if err := put(s, "k", data); err != nil {
		t.Fatal(err)
	}
	get := func() (string, error) {
		body, _, err := s.Get(ctx, "k", 0, -1)
		if err != nil {
			return "", err
		}
		defer body.Close()
		p, err := io.ReadAll(body)
		return string(p), err
	}

	s.SetRules(faulty.Rule{Truncate: 100})
	if got, err := get(); got != data[:100] || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("truncated: %d bytes, %v", len(got), err)
	}
	p := make([]byte, 200)
	if n, err := object.ReadRange(ctx, s, "k", p, 0); n != 100 || !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.Equal(p[100:], make([]byte, 100)) {
		t.Errorf("truncated read: %d bytes, %v", n, err)
	}
	s.SetRules(faulty.Rule{Truncate: faulty.TruncateAtOnce, Err: syscall.ECONNRESET})
	if got, err := get(); got != "" || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("truncated at once: %d bytes, %v", len(got), err)
	}

	s.SetRules(faulty.Rule{Corrupt: true})
	differing := func(got string) (n int) {
		for i := range got {
			n += bits.OnesCount8(got[i] ^ data[i])
		}
		return n
	}
	if got, err := get(); err != nil || len(got) != len(data) || differing(got) != 1 {
		t.Errorf("corrupted: %d bits, %v", differing(got), err)
	}
	if _, err := object.ReadRange(ctx, s, "k", p, 0); err != nil || differing(string(p)) != 1 {
		t.Errorf("corrupted read: %d bits, %v", differing(string(p)), err)
	}
	if got, _, _ := m.Get(ctx, "k", 0, -1); got != nil {
		if p, _ := io.ReadAll(got); string(p) != data {
			t.Error("what is stored was changed")
		}
	}

	s.SetRules(faulty.Rule{Err: object.ErrUnavailable, AfterEffect: true})
	if err := put(s, "late", "x"); !errors.Is(err, object.ErrUnavailable) {
		t.Error(err)
	}
	if _, err := m.Head(ctx, "late"); err != nil {
		t.Errorf("no effect: %v", err)
	}
	s.SetRules(faulty.Rule{CutSent: 3, Err: syscall.EPIPE})
	if err := put(s, "cut", "longer"); !errors.Is(err, syscall.EPIPE) {
		t.Error(err)
	}
	if _, err := m.Head(ctx, "cut"); !errors.Is(err, object.ErrNotFound) {
		t.Errorf("a cut body was stored: %v", err)
	}
}

func TestWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := faulty.New(mem.New(), 1, faulty.Rule{Latency: 3 * time.Second})
		begun := time.Now()
		if err := put(s, "k", "x"); err != nil || time.Since(begun) != 3*time.Second {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
		s.SetRules(faulty.Rule{Stall: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		begun = time.Now()
		if _, err := s.Head(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Hour {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
	})
}
