package azure

import (
	"encoding/hex"
	"strings"

	"github.com/massif-fs/massif/object/wire"
)

// Names of metadata are identifiers in the service: letters, digits and '_', not
// beginning with a digit. Others are kept as escape + name, with every byte that is
// no letter or digit as '_' and its two hexadecimal digits.
const escape = "esc_"

func encodeName(name string) string {
	if identifier(name) && !strings.HasPrefix(name, escape) {
		return name
	}
	var b strings.Builder
	b.WriteString(escape)
	for _, c := range []byte(name) {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			b.WriteByte(c)
		} else {
			b.WriteByte('_')
			b.WriteString(hex.EncodeToString([]byte{c}))
		}
	}
	return b.String()
}

func identifier(name string) bool {
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

func decodeName(name string) string {
	name = strings.ToLower(name)
	rest, ok := strings.CutPrefix(name, escape)
	if !ok {
		return name
	}
	var b strings.Builder
	for i := 0; i < len(rest); i++ {
		if rest[i] != '_' {
			b.WriteByte(rest[i])
			continue
		}
		if i+3 > len(rest) {
			return name
		}
		c, err := hex.DecodeString(rest[i+1 : i+3])
		if err != nil {
			return name // somebody else's
		}
		b.Write(c)
		i += 2
	}
	return b.String()
}

func encodeMetadata(meta map[string]string) map[string]*string {
	if len(meta) == 0 {
		return nil
	}
	out := make(map[string]*string, len(meta))
	for k, v := range meta {
		v = wire.EncodeValue(v)
		out[encodeName(k)] = &v
	}
	return out
}

func decodeMetadata(meta map[string]*string) map[string]string {
	var out map[string]string
	for k, v := range meta {
		if v == nil || ofService(strings.ToLower(k)) {
			continue
		}
		if out == nil {
			out = make(map[string]string, len(meta))
		}
		out[decodeName(k)] = wire.DecodeValue(*v)
	}
	return out
}

// ofService reports whether the metadata is this driver's own.
func ofService(name string) bool { return name == madeOnPurpose }
