// Package kinds knows the kinds of storages that can be mounted in a namespace and makes
// storages of their parameters, which are JSON objects:
//
//	{"type": "local", "location": "/srv/data", "read-only": true}
//
// A kind is a small package below this one that calls [Register] when it is
// initialized. Parameters have the names that Wildland's manifests have; those that
// a kind does not know are ignored, as manifests carry many that are for others.
package kinds

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"sort"
	"strings"

	"github.com/massif-fs/massif/internal/pytext"
	"github.com/massif-fs/massif/tree/namespace"
)

// Env is what kinds are given besides parameters.
type Env struct {
	Log *slog.Logger
	// Point is where the namespace is mounted; empty if it is not.
	Point string
}

// Maker makes a storage of parameters. It checks them, and touches nothing that they
// name: that is for Storage.Open.
type Maker func(p *Params, env *Env) (namespace.Storage, error)

var makers = map[string]Maker{}

// Register makes a kind known. It is called by init functions.
func Register(name string, m Maker) {
	if makers[name] != nil {
		panic("kinds: " + name + " is registered twice")
	}
	makers[name] = m
}

// Names lists the kinds.
func Names() []string {
	var names []string
	for n := range makers {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// KeyError is a parameter that is missing, or a kind that is not known.
type KeyError struct {
	Key  string
	Hint string
}

func (e *KeyError) Error() string {
	if e.Hint == "" {
		return pytext.Quote(e.Key)
	}
	return pytext.Quote(e.Key) + ": " + e.Hint
}

// Params are the parameters of a storage.
type Params struct {
	fields map[string]json.RawMessage
}

// ParseParams reads parameters.
func ParseParams(raw json.RawMessage) (*Params, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
		return nil, errors.New("the parameters of a storage are a JSON object")
	}
	return &Params{fields}, nil
}

// Has tells whether a parameter is there and not null.
func (p *Params) Has(name string) bool {
	raw := p.fields[name]
	return raw != nil && !bytes.Equal(bytes.TrimSpace(raw), []byte("null"))
}

// Decode reads a parameter into a value; it says whether the parameter is there.
func (p *Params) Decode(name string, into any) (bool, error) {
	if !p.Has(name) {
		return false, nil
	}
	if err := json.Unmarshal(p.fields[name], into); err != nil {
		var typ *json.UnmarshalTypeError
		if errors.As(err, &typ) {
			return true, fmt.Errorf("parameter %q: a %s was expected, not a %s", name, typ.Type, typ.Value)
		}
		return true, fmt.Errorf("parameter %q: %w", name, err)
	}
	return true, nil
}

// String reads an optional text.
func (p *Params) String(name string) (s string, err error) {
	_, err = p.Decode(name, &s)
	return s, err
}

// Required reads a text that must be there: *KeyError.
func (p *Params) Required(name string) (string, error) {
	var s string
	ok, err := p.Decode(name, &s)
	if err == nil && !ok {
		err = &KeyError{Key: name}
	}
	return s, err
}

// Bool reads an optional truth, with a default.
func (p *Params) Bool(name string, def bool) (bool, error) {
	_, err := p.Decode(name, &def)
	return def, err
}

// Object are all parameters as a JSON object.
func (p *Params) Object() json.RawMessage {
	raw, err := json.Marshal(p.fields)
	if err != nil { // they were read as JSON
		panic("kinds: " + err.Error())
	}
	return raw
}

// Raw is a parameter as it was written.
func (p *Params) Raw(name string) json.RawMessage { return p.fields[name] }

// Hash tells storages apart, as the original driver does: the MD5 of a JSON object of
// all parameters as Python's texts, written as a UUID.
func (p *Params) Hash() (string, error) {
	texts := make(map[string]string, len(p.fields))
	var names []string
	for name, raw := range p.fields {
		text, err := pytext.Str(raw)
		if name == "storage" && p.isProxy() {
			text, err = proxyText(raw)
		}
		if err != nil {
			return "", err
		}
		names = append(names, name)
		texts[name] = text
	}
	sort.Strings(names)
	var b strings.Builder
	b.WriteByte('{')
	for i, name := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(asciiJSON(name) + ": " + asciiJSON(texts[name]))
	}
	b.WriteByte('}')
	sum := md5.Sum([]byte(b.String()))
	h := hex.EncodeToString(sum[:])
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-"), nil
}

// isProxy tells whether "storage" stands for another storage.
func (p *Params) isProxy() bool {
	raw := bytes.TrimSpace(p.fields["storage"])
	return len(raw) > 0 && raw[0] == '{'
}

// proxyText is how the original shows an inner storage.
func proxyText(raw json.RawMessage) (string, error) {
	inner, err := ParseParams(raw)
	if err != nil {
		return "", err
	}
	typ, err := inner.String("type")
	if err != nil {
		return "", err
	}
	id, err := inner.BackendID()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s(backend_id=%s)", pytext.Quote(typ), id), nil
}

// BackendID is the parameter "backend-id", else the hash.
func (p *Params) BackendID() (string, error) {
	if id, err := p.String("backend-id"); err != nil || id != "" {
		return id, err
	}
	return p.Hash()
}

// asciiJSON writes a string as json.dumps does.
func asciiJSON(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\b':
			b.WriteString(`\b`)
		case r == '\f':
			b.WriteString(`\f`)
		case r < 0x20 || r > 0x7e && r <= 0xffff:
			if r == 0x7f {
				b.WriteRune(r)
			} else {
				fmt.Fprintf(&b, `\u%04x`, r)
			}
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Made is a storage with what a namespace's control socket tells of it.
type Made struct {
	Storage       namespace.Storage
	Type          string
	Hash          string
	BackendID     string
	Owner         *string
	ContainerPath *string
	ReadOnly      bool
}

// Make makes a storage of its parameters. Errors are *KeyError for what is missing or
// not known.
func Make(p *Params, env *Env) (*Made, error) {
	m := &Made{}
	var err error
	if m.Type, err = p.Required("type"); err != nil {
		return nil, err
	}
	maker := makers[m.Type]
	if maker == nil {
		return nil, &KeyError{Key: m.Type, Hint: "no such kind of storage; known are " + strings.Join(Names(), ", ")}
	}
	if m.Storage, err = maker(p, env); err != nil {
		return nil, err
	}
	if m.Hash, err = p.Hash(); err != nil {
		return nil, err
	}
	if m.BackendID, err = p.BackendID(); err != nil {
		return nil, err
	}
	m.Storage.Key = m.Hash
	if m.ReadOnly, err = p.Bool("read-only", false); err != nil {
		return nil, err
	}
	for name, into := range map[string]**string{"owner": &m.Owner, "container-path": &m.ContainerPath} {
		if p.Has(name) {
			s, err := p.String(name)
			if err != nil {
				return nil, err
			}
			*into = &s
		}
	}
	return m, nil
}

// Inner makes the storage that a proxy kind is about: its parameter "storage".
func Inner(p *Params, env *Env) (*Made, error) {
	if !p.isProxy() {
		return nil, &KeyError{Key: "storage"}
	}
	inner, err := ParseParams(p.fields["storage"])
	if err != nil {
		return nil, err
	}
	return Make(inner, env)
}

// CleanSubdirectory checks the path of a directory within a storage.
func CleanSubdirectory(name, dir string) (string, error) {
	if !strings.HasPrefix(dir, "/") {
		return "", fmt.Errorf("parameter %q: %q is not absolute", name, dir)
	}
	for _, part := range strings.Split(dir, "/") {
		if part == ".." {
			return "", fmt.Errorf("parameter %q: %q has a \"..\" in it", name, dir)
		}
	}
	return path.Clean(dir), nil
}
