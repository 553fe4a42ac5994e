package kvtest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/massif-fs/massif/kv"
)

var modelTests = []test{
	{"Random", testModel},
}

// model is the plainest database: a sorted map with counters in it.
type model map[string]string

func (m model) scan(start, end []byte, reverse bool) (keys []string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if k >= string(start) && (end == nil || k < string(end)) {
			keys = append(keys, k)
		}
	}
	if reverse {
		slices.Reverse(keys)
	}
	return keys
}

// testModel runs random transactions against the database and the model. Half
// the keys are counters, so that Put and Add do not meet on one.
func testModel(t *testing.T, open Opener) {
	db, reopen := open(t)
	rapid.Check(t, func(rt *rapid.T) {
		// Below what the model knows of lie the remains of earlier checks.
		if err := db.Update(ctx, func(tx kv.Txn) error { tx.DeleteRange(nil, nil); return nil }); err != nil {
			rt.Fatalf("Update: %v", err)
		}
		m := &machine{t: rt, db: db, state: model{}}
		for range rapid.IntRange(1, 8).Draw(rt, "transactions") {
			m.transaction()
		}
		if reopen != nil && rapid.IntRange(0, 19).Draw(rt, "reopen") == 0 {
			if err := db.Sync(ctx); err != nil {
				rt.Fatalf("Sync: %v", err)
			}
			db = reopen()
			m.db = db
		}
		m.compare()
	})
}

type machine struct {
	t     *rapid.T
	db    kv.DB
	state model
}

var errUndo = errors.New("undo")

func (m *machine) transaction() {
	// Choices are drawn before the run, which may be repeated.
	type step struct {
		op      int
		key, to []byte
		value   []byte
		delta   int64
		limit   int
	}
	keys := rapid.Custom(func(t *rapid.T) []byte {
		prefix := rapid.SampledFrom([]string{"c", "p"}).Draw(t, "kind")
		return []byte(prefix + strings.Repeat("\xff", rapid.IntRange(0, 1).Draw(t, "ff")) +
			rapid.SampledFrom([]string{"", "a", "b", "bb", "c", "\x00"}).Draw(t, "key"))
	})
	var steps []step
	for range rapid.IntRange(0, 40).Draw(m.t, "steps") {
		s := step{
			op:    rapid.IntRange(0, 7).Draw(m.t, "op"),
			key:   keys.Draw(m.t, "key"),
			to:    rapid.OneOf(keys, rapid.Just[[]byte](nil)).Draw(m.t, "to"),
			value: rapid.SliceOfN(rapid.Byte(), 0, 12).Draw(m.t, "value"),
			delta: rapid.Int64Range(-5, 5).Draw(m.t, "delta"),
			limit: rapid.IntRange(1, 20).Draw(m.t, "limit"),
		}
		if s.key[0] == 'c' {
			s.value = kv.CounterValue(s.delta * 100)
		} else if s.op == 2 {
			s.op = 0
		}
		steps = append(steps, s)
	}
	undo := rapid.IntRange(0, 4).Draw(m.t, "undo") == 0

	var after model
	err := m.db.Update(ctx, func(tx kv.Txn) error {
		after = maps.Clone(m.state)
		for _, s := range steps {
			switch s.op {
			case 0:
				tx.Put(s.key, s.value)
				after[string(s.key)] = string(s.value)
			case 1:
				tx.Delete(s.key)
				delete(after, string(s.key))
			case 2:
				n := int64(0)
				if v, ok := after[string(s.key)]; ok {
					n, _ = kv.Counter([]byte(v))
				}
				tx.Add(s.key, s.delta)
				after[string(s.key)] = string(kv.CounterValue(n + s.delta))
			case 3:
				tx.DeleteRange(s.key, s.to)
				for _, k := range after.scan(s.key, s.to, false) {
					delete(after, k)
				}
			case 4, 5:
				if err := same(tx, after, s.key); err != nil {
					return err
				}
			case 6, 7:
				if err := sameScan(tx, after, s.key, s.to, s.op == 7, s.limit); err != nil {
					return err
				}
			}
		}
		if undo {
			return errUndo
		}
		return nil
	})
	switch {
	case undo && err == errUndo:
	case err != nil:
		m.t.Fatalf("Update: %v", err)
	default:
		m.state = after
	}
}

func same(r kv.Reader, want model, key []byte) error {
	got, err := r.Get(key)
	v, ok := want[string(key)]
	if ok && (err != nil || string(got) != v) || !ok && err != kv.ErrNotFound {
		return fmt.Errorf("Get(%q) = %q, %v; want %q, %v", key, got, err, v, ok)
	}
	return nil
}

func sameScan(r kv.Reader, want model, start, end []byte, reverse bool, limit int) error {
	keys := want.scan(start, end, reverse)
	keys = keys[:min(len(keys), limit)]
	scan := r.Scan
	if reverse {
		scan = r.ScanReverse
	}
	i := 0
	err := scan(start, end, func(k, v []byte) (bool, error) {
		if i >= len(keys) || string(k) != keys[i] || !bytes.Equal(v, []byte(want[keys[i]])) {
			return false, fmt.Errorf("scan [%q, %q) shows %q=%q as key %d; want %q", start, end, k, v, i, keys)
		}
		i++
		return i < limit, nil
	})
	if err == nil && i != len(keys) {
		err = fmt.Errorf("scan [%q, %q) ends after %d keys; want %q", start, end, i, keys)
	}
	return err
}

func (m *machine) compare() {
	err := m.db.View(ctx, func(r kv.Reader) error {
		if err := sameScan(r, m.state, nil, nil, true, 1<<30); err != nil {
			return err
		}
		return sameScan(r, m.state, nil, nil, false, 1<<30)
	})
	if err != nil {
		m.t.Fatal(err)
	}
}
