package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strings"

	"github.com/massif-fs/massif/internal/pytext"
)

// Schema is the part of JSON Schema with which commands describe their arguments: type,
// description, properties, required, additionalProperties (true or false), items,
// minItems, pattern. Others are refused by ParseSchemas.
//
// The texts of violations are those that clients of the original driver know.
type Schema struct {
	Schema      string             `json:"$schema,omitempty"`
	Title       string             `json:"title,omitempty"`
	Description string             `json:"description,omitempty"`
	Type        string             `json:"type,omitempty"`
	Properties  map[string]*Schema `json:"properties,omitempty"`
	Required    []string           `json:"required,omitempty"`
	// Additional tells whether properties that are not listed are accepted; nil: yes.
	Additional *bool   `json:"additionalProperties,omitempty"`
	Items      *Schema `json:"items,omitempty"`
	MinItems   int     `json:"minItems,omitempty"`
	Pattern    string  `json:"pattern,omitempty"`
	Default    any     `json:"default,omitempty"`

	pattern *regexp.Regexp
}

var schemaTypes = map[string]string{
	"": "value", "object": "object", "array": "array", "string": "string", "number": "number", "integer": "integer", "boolean": "boolean",
}

// ParseSchemas reads an object whose values are the schemas of commands, by name.
func ParseSchemas(data []byte) (map[string]*Schema, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var all map[string]*Schema
	if err := dec.Decode(&all); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	for name, s := range all {
		if err := s.prepare(); err != nil {
			return nil, fmt.Errorf("schema of %s: %w", name, err)
		}
	}
	return all, nil
}

func (s *Schema) prepare() error {
	if s == nil {
		return nil
	}
	if _, ok := schemaTypes[s.Type]; !ok {
		return fmt.Errorf("unknown type %q", s.Type)
	}
	if s.Pattern != "" {
		var err error
		if s.pattern, err = regexp.Compile(s.Pattern); err != nil {
			return err
		}
	}
	for _, p := range s.Properties {
		if err := p.prepare(); err != nil {
			return err
		}
	}
	return s.Items.prepare()
}

// Validated is a handler that is called only if the arguments fit the schema; else the
// error is of ClassSchema and tells every violation.
func Validated(s *Schema, h Handler) Handler {
	return func(ctx context.Context, call *Call) (any, error) {
		args := make(map[string]any, len(call.args))
		for name, raw := range call.args {
			v, err := decodeValue(raw)
			if err != nil {
				return nil, &Error{ClassRequest, "Failed to parse request"}
			}
			args[name] = v
		}
		if violations := s.Violations(args); len(violations) > 0 {
			return nil, &Error{ClassSchema, strings.Join(violations, "\n")}
		}
		return h(ctx, call)
	}
}

func decodeValue(raw json.RawMessage) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("more than one value")
	}
	return v, nil
}

// maxViolations bounds what an error tells.
const maxViolations = 20

// Violations tells how a value, as encoding/json decodes it with UseNumber, does not fit:
// two lines each.
func (s *Schema) Violations(v any) []string {
	var out []string
	s.check(v, nil, &out)
	return out
}

func (s *Schema) check(v any, path []string, out *[]string) {
	if len(*out) >= maxViolations {
		return
	}
	bad := func(format string, args ...any) {
		where := ""
		if len(path) > 0 {
			where = strings.Join(path, ".") + ": "
		}
		*out = append(*out, where+fmt.Sprintf(format, args...)+"\n"+s.expected())
	}
	if !s.typeFits(v) {
		bad("%s is not of type '%s'", shown(v), s.Type)
		return
	}
	switch v := v.(type) {
	case map[string]any:
		for _, name := range s.Required {
			if _, ok := v[name]; !ok {
				bad("'%s' is a required property", name)
			}
		}
		if s.Additional != nil && !*s.Additional {
			var extra []string
			for name := range v {
				if s.Properties[name] == nil {
					extra = append(extra, pytext.Quote(name))
				}
			}
			sort.Strings(extra)
			switch len(extra) {
			case 0:
			case 1:
				bad("Additional properties are not allowed (%s was unexpected)", clip(extra[0]))
			default:
				bad("Additional properties are not allowed (%s were unexpected)", clip(strings.Join(extra, ", ")))
			}
		}
		for _, name := range sortedKeys(s.Properties) {
			if value, ok := v[name]; ok {
				s.Properties[name].check(value, append(path[:len(path):len(path)], name), out)
			}
		}
	case []any:
		if len(v) < s.MinItems {
			bad("%s is too short", shown(v))
		}
		if s.Items != nil {
			for i, value := range v {
				s.Items.check(value, append(path[:len(path):len(path)], fmt.Sprint(i)), out)
			}
		}
	case string:
		if s.pattern != nil && !s.pattern.MatchString(v) {
			bad("%s does not match '%s'", shown(v), s.Pattern)
		}
	}
}

func (s *Schema) expected() string {
	text := "Expected " + schemaTypes[s.Type]
	if s.Description != "" {
		text += " (" + s.Description + ")"
	}
	return text
}

func (s *Schema) typeFits(v any) bool {
	switch s.Type {
	case "object":
		_, ok := v.(map[string]any)
		return ok
	case "array":
		_, ok := v.([]any)
		return ok
	case "string":
		_, ok := v.(string)
		return ok
	case "boolean":
		_, ok := v.(bool)
		return ok
	case "number":
		_, ok := v.(json.Number)
		return ok
	case "integer":
		n, ok := v.(json.Number)
		return ok && !strings.ContainsAny(n.String(), ".eE")
	}
	return true
}

// shown is a value as clients of the original driver see it.
func shown(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return "the value"
	}
	text, err := pytext.Repr(raw)
	if err != nil {
		return "the value"
	}
	return clip(text)
}

func clip(text string) string {
	const longest = 200
	if r := []rune(text); len(r) > longest {
		return string(r[:longest]) + "…"
	}
	return text
}

func sortedKeys(m map[string]*Schema) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
