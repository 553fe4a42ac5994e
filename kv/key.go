package kv

import (
	"encoding/binary"
	"fmt"
	"syscall"
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

// CheckKey returns an error (EINVAL) if key has not 1 to [MaxKey] bytes. Drivers
// call it for every key read or written.
func CheckKey(key []byte) error {
	if len(key) == 0 || len(key) > MaxKey {
		return fmt.Errorf("key of %d bytes, 1 to %d are allowed: %w", len(key), MaxKey, syscall.EINVAL)
	}
	return nil
}

// CheckValue returns an error (EINVAL) if value has more than [MaxValue] bytes.
func CheckValue(value []byte) error {
	if len(value) > MaxValue {
		return fmt.Errorf("value of %d bytes, %d are allowed: %w", len(value), MaxValue, syscall.EINVAL)
	}
	return nil
}
