package object

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// ValidKey returns nil if key is one that the contract allows: 1 to MaxKey bytes
// of UTF-8 without NUL. Otherwise the error says what is wrong and wraps
// ErrInvalid. Every driver refuses other keys in every call.
func ValidKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: empty key", ErrInvalid)
	case len(key) > MaxKey:
		return fmt.Errorf("%w: key of %d bytes, the longest has %d", ErrInvalid, len(key), MaxKey)
	case strings.IndexByte(key, 0) >= 0:
		return fmt.Errorf("%w: key contains a NUL byte", ErrInvalid)
	case !utf8.ValidString(key):
		return fmt.Errorf("%w: key is not UTF-8", ErrInvalid)
	}
	return nil
}

// Validate returns nil if the options do not contradict each other.
func (o *PutOptions) Validate() error {
	if o == nil {
		return nil
	}
	if o.IfAbsent && o.IfMatch != "" {
		return fmt.Errorf("%w: IfAbsent and IfMatch exclude each other", ErrInvalid)
	}
	for k, v := range o.Metadata {
		if k == "" || k != strings.ToLower(k) {
			return fmt.Errorf("%w: metadata key %q is not lower case", ErrInvalid, k)
		}
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return fmt.Errorf("%w: metadata %q is not UTF-8", ErrInvalid, k)
		}
	}
	if !utf8.ValidString(o.ContentType) {
		return fmt.Errorf("%w: content type is not UTF-8", ErrInvalid)
	}
	return nil
}

// Validate returns nil if the options are ones that List understands.
func (o ListOptions) Validate() error {
	if o.Delimiter != "" && o.Delimiter != "/" {
		return fmt.Errorf("%w: delimiter %q, only \"/\" is possible", ErrInvalid, o.Delimiter)
	}
	if o.Limit < 0 {
		return fmt.Errorf("%w: negative limit", ErrInvalid)
	}
	return nil
}
