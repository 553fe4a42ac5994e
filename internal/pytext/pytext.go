// Package pytext writes JSON values as Python's str and repr write what json.loads
// makes of them. Clients of Wildland's protocol see such texts in error messages, and the
// hash of a storage is made of them.
package pytext

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
)

// Str is str() of a JSON value: a string is itself, everything else as Repr.
func Str(raw json.RawMessage) (string, error) {
	trimmed := bytes.TrimSpace(raw)
	if len(trimmed) > 0 && trimmed[0] == '"' {
		var s string
		err := json.Unmarshal(trimmed, &s)
		return s, err
	}
	return Repr(raw)
}

// Repr is repr() of a JSON value. The keys of objects stand in the order in which they
// came, of equal ones the first place with the last value.
func Repr(raw json.RawMessage) (string, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var b strings.Builder
	if err := reprNext(dec, &b); err != nil {
		return "", err
	}
	if _, err := dec.Token(); err != io.EOF {
		return "", errors.New("more than one JSON value")
	}
	return b.String(), nil
}

func reprNext(dec *json.Decoder, b *strings.Builder) error {
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	switch t := tok.(type) {
	case nil:
		b.WriteString("None")
	case bool:
		if t {
			b.WriteString("True")
		} else {
			b.WriteString("False")
		}
	case json.Number:
		b.WriteString(Number(t.String()))
	case string:
		b.WriteString(Quote(t))
	case json.Delim:
		if t == '[' {
			return reprList(dec, b)
		}
		return reprObject(dec, b)
	}
	return nil
}

func reprList(dec *json.Decoder, b *strings.Builder) error {
	b.WriteByte('[')
	for i := 0; dec.More(); i++ {
		if i > 0 {
			b.WriteString(", ")
		}
		if err := reprNext(dec, b); err != nil {
			return err
		}
	}
	b.WriteByte(']')
	_, err := dec.Token()
	return err
}

func reprObject(dec *json.Decoder, b *strings.Builder) error {
	var keys []string
	values := map[string]string{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		var value strings.Builder
		if err := reprNext(dec, &value); err != nil {
			return err
		}
		name := key.(string)
		if _, known := values[name]; !known {
			keys = append(keys, name)
		}
		values[name] = value.String()
	}
	b.WriteByte('{')
	for i, k := range keys {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(Quote(k) + ": " + values[k])
	}
	b.WriteByte('}')
	_, err := dec.Token()
	return err
}

// Number is repr of a JSON number: integers of any size as they are, others as the
// shortest text of the double.
func Number(text string) string {
	if !strings.ContainsAny(text, ".eE") {
		if text == "-0" {
			return "0"
		}
		return text
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil { // out of range
		if strings.HasPrefix(text, "-") {
			return "-inf"
		}
		return "inf"
	}
	// Python uses an exponent below 1e-4 and from 1e16 on.
	s := strconv.FormatFloat(f, 'e', -1, 64)
	mantissa, exp, _ := strings.Cut(s, "e")
	if e, _ := strconv.Atoi(exp); f != 0 && (e < -4 || e >= 16) {
		return mantissa + "e" + exp
	}
	s = strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// Quote is repr of a string.
func Quote(s string) string {
	quote := '\''
	if strings.ContainsRune(s, '\'') && !strings.ContainsRune(s, '"') {
		quote = '"'
	}
	var b strings.Builder
	b.WriteRune(quote)
	for _, r := range s {
		switch {
		case r == quote || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x7f || unicode.IsPrint(r):
			b.WriteRune(r)
		case r <= 0xff:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	b.WriteRune(quote)
	return b.String()
}
