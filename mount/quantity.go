package mount

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, written with a unit where people write it: 4096,
// 4KiB, 4M, 1.5GiB. K, M, G, T and P are powers of 1024 with or without "iB";
// KB, MB and so on are powers of 1000.
type Size int64

var sizeUnits = []struct {
	name string
	unit float64
}{
	{"", 1}, {"B", 1},
	{"K", 1 << 10}, {"KIB", 1 << 10}, {"KB", 1e3},
	{"M", 1 << 20}, {"MIB", 1 << 20}, {"MB", 1e6},
	{"G", 1 << 30}, {"GIB", 1 << 30}, {"GB", 1e9},
	{"T", 1 << 40}, {"TIB", 1 << 40}, {"TB", 1e12},
	{"P", 1 << 50}, {"PIB", 1 << 50}, {"PB", 1e15},
}

// ParseSize reads a Size.
func ParseSize(s string) (Size, error) {
	number, unit := splitQuantity(s)
	for _, u := range sizeUnits {
		if u.name != strings.ToUpper(unit) {
			continue
		}
		if n, err := strconv.ParseInt(number, 10, 64); err == nil {
			if n > math.MaxInt64/int64(u.unit) {
				return 0, fmt.Errorf("size %q is too large", s)
			}
			return Size(n * int64(u.unit)), nil
		}
		f, err := strconv.ParseFloat(number, 64)
		if err != nil {
			break
		}
		if f *= u.unit; f >= math.MaxInt64 {
			return 0, fmt.Errorf("size %q is too large", s)
		}
		return Size(f), nil
	}
	return 0, fmt.Errorf("size %q: write a number with a unit, such as 4096, 256KiB, 300M or 1.5GiB", s)
}

// splitQuantity parts the digits from the unit that follows them.
func splitQuantity(s string) (number, unit string) {
	s = strings.TrimSpace(s)
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] == '.') {
		i++
	}
	return s[:i], strings.TrimSpace(s[i:])
}

// String writes the size so that ParseSize reads the same back: with the largest
// unit that leaves a whole number.
func (s Size) String() string {
	if s == 0 {
		return "0"
	}
	units := []string{"", "KiB", "MiB", "GiB", "TiB", "PiB"}
	n, i := int64(s), 0
	for n%1024 == 0 && i < len(units)-1 {
		n /= 1024
		i++
	}
	return strconv.FormatInt(n, 10) + units[i]
}

// UnmarshalText makes Size readable from specs.
func (s *Size) UnmarshalText(text []byte) error {
	v, err := ParseSize(string(text))
	*s = v
	return err
}

// MarshalText writes what UnmarshalText reads.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Duration is a time.Duration that also knows days and weeks: 90s, 10m, 36h,
// 7d, 2w, 1d12h.
type Duration time.Duration

// ParseDuration reads a Duration. A bare 0 is allowed, other bare numbers are not.
func ParseDuration(s string) (Duration, error) {
	bad := fmt.Errorf("duration %q: write a number with a unit, such as 90s, 10m, 36h, 7d or 2w", s)
	rest := strings.TrimSpace(s)
	if rest == "0" {
		return 0, nil
	}
	if rest == "" {
		return 0, bad
	}
	var total float64
	for rest != "" {
		i := 0
		for i < len(rest) && (rest[i] >= '0' && rest[i] <= '9' || rest[i] == '.') {
			i++
		}
		n, err := strconv.ParseFloat(rest[:i], 64)
		if err != nil {
			return 0, bad
		}
		j := i
		for j < len(rest) && rest[j] >= 'a' && rest[j] <= 'z' {
			j++
		}
		unit, ok := durationUnits[rest[i:j]]
		if !ok {
			return 0, bad
		}
		total += n * float64(unit)
		rest = rest[j:]
	}
	if total >= math.MaxInt64 {
		return 0, fmt.Errorf("duration %q is too long", s)
	}
	return Duration(total), nil
}

var durationUnits = map[string]time.Duration{
	"ms": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour,
	"d": 24 * time.Hour, "w": 7 * 24 * time.Hour,
}

// String writes the duration so that ParseDuration reads the same back.
func (d Duration) String() string {
	t := time.Duration(d)
	if t == 0 {
		return "0"
	}
	var b strings.Builder
	for _, u := range []struct {
		name string
		unit time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}} {
		if n := t / u.unit; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			t -= n * u.unit
		}
	}
	if t > 0 {
		fmt.Fprintf(&b, "%sms", strconv.FormatFloat(float64(t)/float64(time.Millisecond), 'f', -1, 64))
	}
	return b.String()
}

// UnmarshalText makes Duration readable from specs.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := ParseDuration(string(text))
	*d = v
	return err
}

// MarshalText writes what UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Octal is a number written in base 8, as permission masks are.
type Octal uint32

// UnmarshalText makes Octal readable from specs, where 022, 0o22 and "22" mean
// the same.
func (o *Octal) UnmarshalText(text []byte) error {
	s := strings.TrimPrefix(string(text), "0o")
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o7777 {
		return fmt.Errorf("mode %q: write an octal number up to 7777, such as 022", text)
	}
	*o = Octal(n)
	return nil
}

// UnmarshalYAML reads the digits as they stand, before they are taken for a number.
func (o *Octal) UnmarshalYAML(text []byte) error {
	return o.UnmarshalText([]byte(strings.Trim(strings.TrimSpace(string(text)), `"'`)))
}

// MarshalText writes what UnmarshalText reads.
func (o Octal) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%04o", uint32(o)), nil }
