package adminapi

import (
	"reflect"
	"strings"
	"time"
)

// Schema describes the entity of a table, as its struct tags say.
type Schema struct {
	Table  string
	One    string // the word for one of them, as in "massif admin create volume"
	Fields []Field
	New    func() Entity
}

// Field describes a field of an entity.
type Field struct {
	Name   string // in JSON
	Kind   Kind
	Doc    string
	Access Access
	Ref    string   // table
	Unit   string   // "bytes" or "seconds"
	Enum   []string // empty: any value

	index []int
}

// Kind is the kind of a field's value.
type Kind int

// The kinds there are.
const (
	KindText Kind = iota
	KindSwitch
	KindNumber
	KindTime
	KindTexts
)

// Access says who sets a field and who sees it.
type Access string

// The kinds of access; the empty one is a field that may be changed.
const (
	AccessReadOnly Access = "ro"
	AccessOnce     Access = "once"
	AccessWrite    Access = "write"
	AccessShown    Access = "shown"
)

// Schemas lists the tables in the order of help texts.
func Schemas() []*Schema { return schemas }

// SchemaOf finds a table by its name or by the word for one entity; nil if there
// is none.
func SchemaOf(name string) *Schema {
	for _, s := range schemas {
		if s.Table == name || s.One == name {
			return s
		}
	}
	return nil
}

// Field finds a field by its name in JSON; nil if there is none.
func (s *Schema) Field(name string) *Field {
	for i := range s.Fields {
		if s.Fields[i].Name == name {
			return &s.Fields[i]
		}
	}
	return nil
}

// Value is the field of an entity.
func (f *Field) Value(e Entity) reflect.Value {
	return reflect.ValueOf(e).Elem().FieldByIndex(f.index)
}

var schemas = []*Schema{
	newSchema(TableAccounts, "account", func() Entity { return &Account{} }),
	newSchema(TableStores, "store", func() Entity { return &Store{} }),
	newSchema(TableMetadataServers, "metadata-server", func() Entity { return &MetadataServer{} }),
	newSchema(TableProxyGroups, "proxy-group", func() Entity { return &ProxyGroup{} }),
	newSchema(TableVolumes, "volume", func() Entity { return &Volume{} }),
	newSchema(TableTokens, "token", func() Entity { return &Token{} }),
}

func newSchema(table, one string, fresh func() Entity) *Schema {
	s := &Schema{Table: table, One: one, New: fresh}
	for _, f := range fieldsOf(reflect.TypeOf(fresh()).Elem(), nil) {
		if table == TableAccounts && f.Name == "account" {
			continue // an account belongs to none
		}
		s.Fields = append(s.Fields, f)
	}
	return s
}

// fieldsOf reads the tags of a struct type, embedded structs included.
func fieldsOf(t reflect.Type, at []int) []Field {
	var out []Field
	for i := range t.NumField() {
		sf := t.Field(i)
		index := append(append([]int(nil), at...), i)
		if sf.Anonymous {
			out = append(out, fieldsOf(sf.Type, index)...)
			continue
		}
		f := Field{
			Name: jsonName(sf), Kind: kindOf(sf.Type), Doc: sf.Tag.Get("doc"), Access: Access(sf.Tag.Get("access")),
			Ref: sf.Tag.Get("ref"), Unit: sf.Tag.Get("unit"), index: index,
		}
		if list := sf.Tag.Get("enum"); list != "" {
			f.Enum = strings.Split(list, ",")
		}
		out = append(out, f)
	}
	return out
}

func jsonName(sf reflect.StructField) string {
	name, _, _ := strings.Cut(sf.Tag.Get("json"), ",")
	return name
}

func kindOf(t reflect.Type) Kind {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[time.Time]():
		return KindTime
	case t.Kind() == reflect.Bool:
		return KindSwitch
	case t.Kind() == reflect.Int64:
		return KindNumber
	case t.Kind() == reflect.Slice:
		return KindTexts
	}
	return KindText
}

// Redact empties what never leaves the server.
func (s *Schema) Redact(e Entity) {
	for i := range s.Fields {
		if a := s.Fields[i].Access; a == AccessWrite || a == AccessShown {
			s.Fields[i].Value(e).SetZero()
		}
	}
}
