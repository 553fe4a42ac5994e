package wire

import (
	"mime"
	"strings"
)

// Headers are ASCII; other values of metadata travel as RFC 2047 words, as Amazon
// itself returns them.

// EncodeValue returns a value of metadata as it stands in a header.
func EncodeValue(v string) string {
	if !plain(v) {
		return mime.BEncoding.Encode("utf-8", v)
	}
	return v
}

// DecodeValue is the inverse of EncodeValue.
func DecodeValue(v string) string {
	if strings.HasPrefix(v, "=?") {
		var words mime.WordDecoder
		if d, err := words.DecodeHeader(v); err == nil {
			return d
		}
	}
	return v
}

// plain reports whether a header can hold v as it is.
func plain(v string) bool {
	for i := range len(v) {
		if v[i] < ' ' || v[i] > '~' {
			return false
		}
	}
	return !strings.HasPrefix(v, "=?") && strings.TrimSpace(v) == v
}
