package kv_test

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/massif-fs/massif/kv"
)

func TestCounter(t *testing.T) {
	for _, n := range []int64{0, 1, -1, math.MaxInt64, math.MinInt64} {
		if got, err := kv.Counter(kv.CounterValue(n)); got != n || err != nil {
			t.Errorf("%d comes back as %d, %v", n, got, err)
		}
	}
	for _, v := range [][]byte{nil, make([]byte, 7), make([]byte, 9)} {
		if _, err := kv.Counter(v); !errors.Is(err, kv.ErrCorrupt) {
			t.Errorf("%d bytes: %v", len(v), err)
		}
	}
}

// FuzzPrefixEnd: the end is above all keys with the prefix, and nothing lies
// between it and them.
func FuzzPrefixEnd(f *testing.F) {
	f.Add([]byte("a"), []byte("b"))
	f.Add([]byte("a\xff"), []byte("\xff\xff"))
	f.Add([]byte("\xff\xff"), []byte("x"))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, prefix, other []byte) {
		before := bytes.Clone(prefix)
		end := kv.PrefixEnd(prefix)
		if !bytes.Equal(prefix, before) {
			t.Fatal("the prefix was changed")
		}
		for _, key := range [][]byte{other, append(bytes.Clone(prefix), other...)} {
			inside := bytes.Compare(key, prefix) >= 0 && (end == nil || bytes.Compare(key, end) < 0)
			if inside != bytes.HasPrefix(key, prefix) {
				t.Errorf("%q with prefix %q: between it and %q: %v", key, prefix, end, inside)
			}
		}
	})
}
