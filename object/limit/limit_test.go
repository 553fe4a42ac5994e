package limit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/limit"
	"github.com/massif-fs/massif/object/mem"
	"github.com/massif-fs/massif/object/objecttest"
)

func TestStore(t *testing.T) {
	objecttest.Run(t, objecttest.Factory{
		New: func(testing.TB) object.Store {
			return limit.New(mem.New(), limit.Options{Concurrency: 8, Requests: 1e6, Upload: 1e9, Download: 1e9})
		},
	})
}

func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		data := make([]byte, 1_000_000)
		m := mem.New()
		s := limit.New(m, limit.Options{Upload: 100_000, Download: 200_000})
		took := func(what string, want time.Duration, do func() error) {
			t.Helper()
			begun := time.Now()
			if err := do(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if d := time.Since(begun); d < want*8/10 || d > want*11/10 {
				t.Errorf("%s took %v, want %v", what, d, want)
			}
		}
		took("put", 10*time.Second, func() error {
			_, err := s.Put(ctx, "k", bytes.NewReader(data), int64(len(data)), nil)
			return err
		})
		took("get", 5*time.Second, func() error {
			body, _, err := s.Get(ctx, "k", 0, -1)
			if err != nil {
				return err
			}
			defer body.Close()
			_, err = io.Copy(io.Discard, body)
			return err
		})
		took("read", 5*time.Second, func() error {
			_, err := object.ReadRange(ctx, s, "k", data, 0)
			return err
		})
		r := limit.New(m, limit.Options{Requests: 10})
		took("requests", 10*time.Second, func() error {
			for range 100 {
				if _, err := r.Head(ctx, "k"); err != nil {
					return err
				}
			}
			return nil
		})
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		begun := time.Now()
		if _, err := s.Put(short, "k2", bytes.NewReader(data), int64(len(data)), nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if d := time.Since(begun); d < 900*time.Millisecond || d > 1100*time.Millisecond {
			t.Errorf("gave up after %v", d)
		}
	})
}

// TestConcurrency: an open body counts.
func TestConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		m := mem.New()
		for i := range 3 {
			if _, err := m.Put(ctx, fmt.Sprint(i), bytes.NewReader(nil), 0, nil); err != nil {
				t.Fatal(err)
			}
		}
		s := limit.New(m, limit.Options{Concurrency: 2})
		a, _, err := s.Get(ctx, "0", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		b, _, err := s.Get(ctx, "1", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() {
			_, err := s.Head(ctx, "2")
			done <- err
		}()
		synctest.Wait()
		select {
		case <-done:
			t.Error("three requests at once")
		default:
		}
		a.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		b.Close()
		b.Close()
	})
}
