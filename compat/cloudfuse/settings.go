package cloudfuse

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// settings are the values of keys from all sources: flags come before the environment,
// that before the file, and what none of them says has the default that the reader of a
// value knows. The first wrong value is kept in err.
type settings struct {
	values   map[string]value
	file     string // name of the configuration file, for messages; "": there is none
	reread   string // its path, if what a mount takes from it can be read again
	warnings []string
	quiet    bool // they have been shown
	used     map[string]bool
	err      error
}

// newSettings takes the values of a file, which may be nil, and of the environment.
func newSettings(c *config, file string, getenv func(string) string) *settings {
	s := &settings{values: map[string]value{}, used: map[string]bool{}, file: file}
	if c != nil {
		for name, v := range c.values {
			s.values[name] = v
		}
		for _, w := range c.warnings {
			s.warnings = append(s.warnings, s.place(w))
		}
	}
	for _, k := range keys {
		if k.env == "" {
			continue
		}
		if v := getenv(k.env); v != "" {
			s.values[k.name] = value{text: v, from: k.env}
		}
	}
	return s
}

// place puts the file's name before what begins with a line of it.
func (s *settings) place(text string) string {
	if s.file != "" && strings.HasPrefix(text, "line ") {
		return s.file + ", " + text
	}
	return text
}

// override gives a key the value of a flag or option.
func (s *settings) override(name string, v value) { s.values[name] = v }

// at names a key, and who gave it its value.
func (s *settings) at(name string) string {
	if from := s.values[name].from; from != "" {
		return s.place(from) + ": " + name
	}
	return name
}

// warn says what will not be as the settings ask for.
func (s *settings) warn(name, format string, args ...any) {
	s.warnings = append(s.warnings, s.at(name)+" "+fmt.Sprintf(format, args...))
}

// fail keeps the first error.
func (s *settings) fail(name, format string, args ...any) {
	if s.err == nil {
		s.err = usageError("%s: %s", s.at(name), fmt.Sprintf(format, args...))
	}
}

// has tells whether a key was given a value, also an empty one.
func (s *settings) has(name string) bool {
	if keyTable[name] == nil {
		panic("cloudfuse: there is no key " + name)
	}
	_, ok := s.values[name]
	return ok
}

// read marks a key as heeded and returns its value.
func (s *settings) read(name string) (value, bool) {
	given := s.has(name)
	s.used[name] = true
	return s.values[name], given
}

// text reads a text.
func (s *settings) text(name string) string {
	v, _ := s.read(name)
	return strings.TrimSpace(v.text)
}

// path reads a path, with what stands for something in it expanded, as an absolute one.
func (s *settings) path(name string) string {
	p := expand(s.text(name))
	if p == "" {
		return ""
	}
	abs, err := filepath.Abs(p)
	if err != nil {
		s.fail(name, "%v", err)
	}
	return abs
}

// list reads several texts.
func (s *settings) list(name string) []string {
	v, _ := s.read(name)
	return v.items
}

// maps reads a list of mappings.
func (s *settings) maps(name string) []map[string]string {
	v, _ := s.read(name)
	return v.maps
}

// toggle reads a switch.
func (s *settings) toggle(name string, otherwise bool) bool {
	v, ok := s.read(name)
	if !ok || v.text == "" {
		return otherwise
	}
	switch strings.ToLower(v.text) {
	case "true", "t", "1", "yes", "on":
		return true
	case "false", "f", "0", "no", "off":
		return false
	}
	s.fail(name, "%q is neither true nor false", s.shown(name))
	return otherwise
}

// shown is the value of a key as an error may show it.
func (s *settings) shown(name string) string {
	if keyTable[name].kind == secret {
		return "(secret)"
	}
	return s.values[name].text
}

// whole reads a whole number of 0 or more.
func (s *settings) whole(name string, otherwise uint64) uint64 {
	v, ok := s.read(name)
	if !ok || v.text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(strings.ReplaceAll(v.text, "_", ""), 10, 63)
	if err != nil {
		s.fail(name, "%q is no whole number of 0 or more", s.shown(name))
	}
	return n
}

// signed reads a whole number.
func (s *settings) signed(name string, otherwise int64) int64 {
	v, ok := s.read(name)
	if !ok || v.text == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(v.text, "_", ""), 10, 64)
	if err != nil {
		s.fail(name, "%q is no whole number", s.shown(name))
	}
	return n
}

// megabytes reads a number of MiB, as bytes.
func (s *settings) megabytes(name string, otherwise int64) int64 {
	v, ok := s.read(name)
	if !ok || v.text == "" {
		return otherwise
	}
	f, err := strconv.ParseFloat(v.text, 64)
	if err != nil || !(f >= 0 && f < math.MaxInt64>>20) {
		s.fail(name, "%q is no number of megabytes", s.shown(name))
		return otherwise
	}
	return int64(f * (1 << 20))
}

// seconds reads a number of seconds.
func (s *settings) seconds(name string, otherwise time.Duration) time.Duration {
	n := s.whole(name, uint64(otherwise/time.Second))
	if n > math.MaxInt64/uint64(time.Second) {
		s.fail(name, "%q is too long", s.shown(name))
		return otherwise
	}
	return time.Duration(n) * time.Second
}

// percent reads a share.
func (s *settings) percent(name string, otherwise int) int {
	n := s.whole(name, uint64(otherwise))
	if n > 100 {
		s.fail(name, "%q is no share from 0 to 100 percent", s.shown(name))
		return otherwise
	}
	return int(n)
}

// mode reads an octal number.
func (s *settings) mode(name string) (uint32, bool) {
	v, ok := s.read(name)
	if !ok || v.text == "" {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(v.text, "0o"), 8, 32)
	if err != nil || n > 0o777 {
		s.fail(name, "%q is no mode such as 0755", s.shown(name))
		return 0, false
	}
	return uint32(n), true
}

// choice reads one of several words, in lower case.
func (s *settings) choice(name string, words ...string) string {
	word := strings.ToLower(s.text(name))
	if word != "" && !slices.Contains(words, word) {
		s.fail(name, "%q is none of %s", s.shown(name), strings.Join(words, ", "))
		return ""
	}
	return word
}

// unused warns of all values that nothing was made of.
func (s *settings) unused(why func(name string) string) {
	var names []string
	for name := range s.values {
		if !s.used[name] {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		if d := s.values[a].line - s.values[b].line; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		s.warn(name, "has no effect: %s", why(name))
	}
}

// expand puts values in the place of what stands for them in a path: ~/ at its
// beginning, $HOME and $VARIABLE. Azure's own containers begin with a '$' and stay.
func expand(p string) string {
	if p == "~" || strings.HasPrefix(p, "~/") {
		if home, err := os.UserHomeDir(); err == nil {
			p = home + p[1:]
		}
	}
	return os.Expand(p, func(name string) string {
		switch name {
		case "web", "logs", "changefeed", "blobchangefeed", "root":
			return "$" + name
		}
		return os.Getenv(name)
	})
}
