package block

import (
	"strconv"
	"strings"
)

// DefaultPrefix begins the keys of blocks where Config.Prefix is empty.
const DefaultPrefix = "blocks/"

// MaxObject is above the length of the object of any block, in bytes.
const MaxObject = 2*MaxSize + 1<<20

// Key is the name of a block's object: the lowest byte of the number first, which
// spreads neighbours over the partitions of a bucket and the folders of a disk.
func Key(prefix string, id ID) string {
	const hex = "0123456789abcdef"
	b := make([]byte, 0, len(prefix)+19)
	b = append(b, prefix...)
	b = append(b, hex[id>>4&15], hex[id&15], '/')
	return string(appendID(b, id))
}

func appendID(b []byte, id ID) []byte {
	const hex = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, hex[id>>shift&15])
	}
	return b
}

// ParseKey is the inverse of Key; false for a key that is no block's.
func ParseKey(prefix, key string) (ID, bool) {
	rest, ok := strings.CutPrefix(key, prefix)
	if !ok || len(rest) != 19 || rest[2] != '/' {
		return 0, false
	}
	n, err := strconv.ParseUint(rest[3:], 16, 64)
	if err != nil || n == 0 || Key(prefix, ID(n)) != key {
		return 0, false
	}
	return ID(n), true
}

func (s *Store) key(id ID) string               { return Key(s.prefix, id) }
func (s *Store) parseKey(key string) (ID, bool) { return ParseKey(s.prefix, key) }

// Key returns the name of a block's object in the store.
func (s *Store) Key(id ID) string { return s.key(id) }
