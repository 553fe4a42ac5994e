package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/service/admin/adminapi"
)

// change is the making, changing or removing of an entity within a transaction.
type change struct {
	w      kv.Txn
	now    time.Time
	who    *who
	schema *adminapi.Schema

	old, new adminapi.Entity // old is nil for a new one
	given    map[string]json.RawMessage
	events   []adminapi.Event
	secret   string // of a token that was made
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

const maxNotes = 4 << 10

// decode reads the fields of a request. Unknown ones are refused by name.
func (c *change) decode(body []byte) error {
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&c.given); err != nil {
		return invalid("the request's body is not a JSON object: %v", err)
	}
	if _, err := d.Token(); err == nil || c.given == nil {
		return invalid("the request's body is not one JSON object")
	}
	for name := range c.given {
		f := c.schema.Field(name)
		switch {
		case f == nil:
			return invalid("a %s has no field %q%s", c.schema.One, name, nearField(c.schema, name))
		case f.Access == adminapi.AccessReadOnly || f.Access == adminapi.AccessShown:
			return invalid("the field %q of a %s is given by the server", name, c.schema.One)
		}
		// Decoding one at a time names the field that is wrong.
		v := f.Value(c.new)
		fresh := reflect.New(v.Type())
		if err := json.Unmarshal(c.given[name], fresh.Interface()); err != nil {
			return invalid("field %q: %s", name, kindHint(f))
		}
		before := v.Interface()
		v.Set(fresh.Elem())
		if f.Access == adminapi.AccessOnce && c.old != nil && !reflect.DeepEqual(before, v.Interface()) {
			if f.Ref == "" {
				return invalid("the field %q of a %s cannot be changed", name, c.schema.One)
			}
		}
	}
	return nil
}

func nearField(s *adminapi.Schema, name string) string {
	var names []string
	for _, f := range s.Fields {
		names = append(names, f.Name)
	}
	if near := mount.Nearest(name, names); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}

func kindHint(f *adminapi.Field) string {
	switch f.Kind {
	case adminapi.KindSwitch:
		return "write true or false"
	case adminapi.KindNumber:
		if f.Unit != "" {
			return "write a whole number of " + f.Unit
		}
		return "write a whole number"
	case adminapi.KindTime:
		return "write a time such as \"2026-12-31T12:00:00Z\""
	case adminapi.KindTexts:
		return "write a list of texts"
	}
	return "write a text"
}

// check looks at everything that is alike in all tables, and resolves references.
func (c *change) check() error {
	b := c.new.Base()
	for i := range c.schema.Fields {
		f := &c.schema.Fields[i]
		v := f.Value(c.new)
		if len(f.Enum) > 0 && v.Kind() == reflect.String && v.String() != "" && !slices.Contains(f.Enum, v.String()) {
			return invalid("field %q: %q is not known; use %s", f.Name, v.String(), strings.Join(f.Enum, ", "))
		}
		if f.Kind == adminapi.KindText && strings.ContainsFunc(v.String(), isControl) && f.Name != "notes" {
			return invalid("field %q holds control characters", f.Name)
		}
		if f.Ref != "" {
			if err := c.resolve(f, v); err != nil {
				return err
			}
		}
	}
	named := b.Name != "" || c.schema.Table != adminapi.TableTokens
	switch {
	case named && !nameForm.MatchString(b.Name):
		return invalid("name %q: use 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit", b.Name)
	case isUUID(b.Name):
		return invalid("name %q: a name must not look like an ID", b.Name)
	case len(b.Notes) > maxNotes:
		return invalid("the notes are longer than %d bytes", maxNotes)
	}
	return nil
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

// resolve replaces names by IDs, and refuses what is out of sight.
func (c *change) resolve(f *adminapi.Field, v reflect.Value) error {
	one := func(text string) (string, error) {
		if text == "" {
			return "", nil
		}
		s := adminapi.SchemaOf(f.Ref)
		e, err := find(c.w, s, c.who, text)
		if err != nil {
			return "", err
		}
		if vol, ok := e.(*adminapi.Volume); ok && vol.Retired != nil && c.old == nil {
			return "", refuse(adminapi.CodeConflict, "the volume %s is deleted", vol.Name)
		}
		return e.Base().ID, nil
	}
	if v.Kind() == reflect.Slice {
		for i := range v.Len() {
			id, err := one(v.Index(i).String())
			if err != nil {
				return err
			}
			v.Index(i).SetString(id)
		}
		return nil
	}
	id, err := one(v.String())
	if err != nil {
		return err
	}
	v.SetString(id)
	if f.Access == adminapi.AccessOnce && c.old != nil && f.Value(c.old).String() != id {
		return invalid("the field %q of a %s cannot be changed", f.Name, c.schema.One)
	}
	return nil
}

// find finds an entity in sight by ID or name.
func find(r kv.Reader, s *adminapi.Schema, w *who, text string) (adminapi.Entity, error) {
	missing := refuse(adminapi.CodeNotFound, "there is no %s %q", s.One, text)
	if len(text) > 63 || !nameForm.MatchString(text) {
		return nil, missing
	}
	e, err := readEntity(r, s, text)
	if err == nil {
		if !w.sees(s, e) {
			return nil, missing // not even that it exists
		}
		return e, nil
	}
	if !errors.Is(err, kv.ErrNotFound) {
		return nil, err
	}
	id, err := findName(r, s, w, text)
	if err != nil {
		return nil, err
	}
	if id == "" {
		return nil, missing
	}
	if e, err = readEntity(r, s, id); err != nil {
		return nil, err
	}
	if !w.sees(s, e) {
		return nil, missing
	}
	return e, nil
}

// findName returns the ID that a name has: in the token's account, else among those
// for all, else (for the installation's account) in whichever account it is unique.
func findName(r kv.Reader, s *adminapi.Schema, w *who, name string) (string, error) {
	for _, account := range []string{w.token.Account, ""} {
		id, err := r.Get([]byte(nameKey(s.Table, account, name)))
		if err == nil {
			return string(id), nil
		}
		if !errors.Is(err, kv.ErrNotFound) {
			return "", err
		}
	}
	if !w.system() {
		return "", nil
	}
	var found []string
	err := r.Scan([]byte("n/"+s.Table+"/"), []byte("n/"+s.Table+"0"), func(key, id []byte) (bool, error) {
		if strings.HasSuffix(string(key), "/"+name) {
			found = append(found, string(id))
		}
		return true, nil
	})
	if err != nil || len(found) == 0 {
		return "", err
	}
	if len(found) > 1 {
		return "", refuse(adminapi.CodeConflict, "several accounts have a %s %q: name it by its ID", s.One, name)
	}
	return found[0], nil
}

// rename keeps the index of names.
func (c *change) rename() error {
	if c.old != nil {
		if o, n := c.old.Base(), c.new.Base(); o.Name == n.Name && o.Account == n.Account {
			return nil
		}
		if err := c.unname(); err != nil {
			return err
		}
	}
	b := c.new.Base()
	if b.Name == "" {
		return nil
	}
	key := []byte(nameKey(c.schema.Table, b.Account, b.Name))
	switch _, err := c.w.Get(key); {
	case err == nil:
		return refuse(adminapi.CodeConflict, "there is a %s %q already", c.schema.One, b.Name)
	case !errors.Is(err, kv.ErrNotFound):
		return err
	}
	c.w.Put(key, []byte(b.ID))
	return nil
}

// unname gives the name of the old entity back, if it has it.
func (c *change) unname() error {
	o := c.old.Base()
	if o.Name == "" {
		return nil
	}
	key := []byte(nameKey(c.schema.Table, o.Account, o.Name))
	id, err := c.w.Get(key)
	if errors.Is(err, kv.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if string(id) == o.ID {
		c.w.Delete(key)
	}
	return nil
}

func isUUID(s string) bool {
	_, err := adminapi.ParseToken(s)
	return err == nil
}
