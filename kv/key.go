package kv

import (
	"encoding/binary"
	"fmt"
)

// Counter decodes the value of a counter key (see Txn.Add).
func Counter(value []byte) (int64, error) {
	if len(value) != 8 {
		return 0, fmt.Errorf("counter of %d bytes instead of 8: %w", len(value), ErrCorrupt)
	}
	return int64(binary.LittleEndian.Uint64(value)), nil
}

// CounterValue encodes n as the value of a counter key.
func CounterValue(n int64) []byte {
	return binary.LittleEndian.AppendUint64(make([]byte, 0, 8), uint64(n))
}

// PrefixEnd returns the smallest key above every key that begins with prefix,
// for use as the end of a Scan; nil means that there is no such key.
func PrefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] != 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return nil
}
