// Package kvtest is the conformance suite of kv.DB. Every driver runs it from a
// test of its own:
//
//	func TestSuite(t *testing.T) {
//		kvtest.Run(t, func(t *testing.T) (kv.DB, func() kv.DB) { … })
//	}
//
// The suite checks the whole contract in package kv: reads, scans and own
// writes (basic.go, scan.go), serializability with many goroutines
// (serial.go), random transactions against a model (model.go), and what is left
// after a restart (durable.go). It is meant to be run with the race detector too.
package kvtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/massif-fs/massif/kv"
)

// Opener makes a new, empty database for one test and closes it, if the test has
// not, with t.Cleanup.
//
// reopen ends the use of the database it was made with, by Close or by a crash,
// and returns the database as it is found afterwards; it may be called again
// for what it returned. It is nil if the driver cannot do that.
type Opener func(t *testing.T) (db kv.DB, reopen func() kv.DB)

// Run runs the suite.
func Run(t *testing.T, open Opener) {
	groups := []struct {
		name  string
		tests []test
	}{
		{"Basic", basicTests},
		{"Scan", scanTests},
		{"Serial", serialTests},
		{"Model", modelTests},
		{"Durable", durableTests},
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			for _, c := range g.tests {
				t.Run(c.name, func(t *testing.T) { c.run(t, open) })
			}
		})
	}
}

type test struct {
	name string
	run  func(t *testing.T, open Opener)
}

var ctx = context.Background()

// opened is a test that needs the database only.
func opened(fn func(t *testing.T, db kv.DB)) func(*testing.T, Opener) {
	return func(t *testing.T, open Opener) {
		db, _ := open(t)
		fn(t, db)
	}
}

func update(t testing.TB, db kv.DB, fn func(tx kv.Txn)) {
	t.Helper()
	err := db.Update(ctx, func(tx kv.Txn) error { fn(tx); return nil })
	if err != nil {
		t.Fatalf("Update: %v", err)
	}
}

// put sets keys to values, given in turn.
func put(t testing.TB, db kv.DB, pairs ...string) {
	t.Helper()
	update(t, db, func(tx kv.Txn) {
		for i := 0; i < len(pairs); i += 2 {
			tx.Put([]byte(pairs[i]), []byte(pairs[i+1]))
		}
	})
}

func view(t testing.TB, db kv.DB, fn func(r kv.Reader)) {
	t.Helper()
	err := db.View(ctx, func(r kv.Reader) error { fn(r); return nil })
	if err != nil {
		t.Fatalf("View: %v", err)
	}
}

const absent = "(absent)"

func get(t testing.TB, r kv.Reader, key string) string {
	t.Helper()
	value, err := r.Get([]byte(key))
	if errors.Is(err, kv.ErrNotFound) {
		return absent
	}
	if err != nil {
		t.Fatalf("Get(%q): %v", key, err)
	}
	return string(value)
}

func wantGet(t testing.TB, r kv.Reader, key, want string) {
	t.Helper()
	if got := get(t, r, key); got != want {
		t.Errorf("Get(%q) = %q, want %q", key, got, want)
	}
}

func wantStored(t testing.TB, db kv.DB, pairs ...string) {
	t.Helper()
	view(t, db, func(r kv.Reader) {
		t.Helper()
		for i := 0; i < len(pairs); i += 2 {
			wantGet(t, r, pairs[i], pairs[i+1])
		}
	})
}

// list returns the result of a scan as "key=value key=value".
func list(t testing.TB, r kv.Reader, start, end string, reverse bool) string {
	t.Helper()
	var out bytes.Buffer
	scan := r.Scan
	if reverse {
		scan = r.ScanReverse
	}
	err := scan(bound(start), bound(end), func(key, value []byte) (bool, error) {
		if out.Len() > 0 {
			out.WriteByte(' ')
		}
		fmt.Fprintf(&out, "%s=%s", key, value)
		return true, nil
	})
	if err != nil {
		t.Fatalf("scan [%q, %q): %v", start, end, err)
	}
	return out.String()
}

// bound makes "" no bound.
func bound(s string) []byte {
	if s == "" {
		return nil
	}
	return []byte(s)
}

func wantList(t testing.TB, r kv.Reader, start, end, want string) {
	t.Helper()
	if got := list(t, r, start, end, false); got != want {
		t.Errorf("Scan [%q, %q)\n got %s\nwant %s", start, end, got, want)
	}
}

func wantReverse(t testing.TB, r kv.Reader, start, end, want string) {
	t.Helper()
	if got := list(t, r, start, end, true); got != want {
		t.Errorf("ScanReverse [%q, %q)\n got %s\nwant %s", start, end, got, want)
	}
}

// counter reads a counter; 0 if it is absent.
func counter(r kv.Reader, key string) (int64, error) {
	value, err := r.Get([]byte(key))
	if errors.Is(err, kv.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return kv.Counter(value)
}

func wantCounter(t testing.TB, r kv.Reader, key string, want int64) {
	t.Helper()
	got, err := counter(r, key)
	if err != nil {
		t.Fatalf("counter %q: %v", key, err)
	}
	if got != want {
		t.Errorf("counter %q = %d, want %d", key, got, want)
	}
}
