package admin

import (
	_ "embed"
	"encoding/json"
	"reflect"
	"sort"
	"strings"
	"time"

	"github.com/massif-fs/massif/service/admin/adminapi"
)

// openAPI is the document that describes the API, made by describe and checked in, so
// that it can be read without a server. A test compares the two.
//
//go:embed openapi.json
var openAPI []byte

// getOpenAPI answers GET /v1/openapi.json.
func (s *Server) getOpenAPI(*request) (any, error) { return openAPI, nil }

type object = map[string]any

// describe makes the OpenAPI document of the table of routes and the types.
func describe() ([]byte, error) {
	schemas := object{}
	paths := object{}
	for _, r := range routeTable() {
		operation := object{
			"summary":     r.summary,
			"operationId": operationID(r),
			"responses": object{
				"default": object{"description": "Refusal or failure", "content": content(schemaOf(reflect.TypeOf(adminapi.Error{}), schemas))},
			},
		}
		responses := operation["responses"].(object)
		success := object{"description": "Done"}
		if r.out != nil {
			success["content"] = content(schemaOf(reflect.TypeOf(r.out), schemas))
		} else if r.path == "/v1/openapi.json" {
			success["content"] = content(object{"type": "object"})
		}
		responses[statusText(r.status)] = success
		if r.kind == "" {
			operation["security"] = []any{}
		} else {
			operation["description"] = "Takes a token of the kind " + r.kind + "."
		}
		if r.in != nil {
			operation["requestBody"] = object{"required": true, "content": content(schemaOf(reflect.TypeOf(r.in), schemas))}
		}
		if params := parameters(r); len(params) > 0 {
			operation["parameters"] = params
		}
		item, _ := paths[r.path].(object)
		if item == nil {
			item = object{}
			paths[r.path] = item
		}
		item[strings.ToLower(r.method)] = operation
	}
	doc := object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Massif admin server", "version": "1",
			"description": "Accounts, object stores, metadata servers, volumes and tokens of shared volumes. PATCH changes the fields that it names. An ID in a path or a reference may also be a name.",
		},
		"paths":    paths,
		"security": []any{object{"token": []any{}}},
		"components": object{
			"schemas":         schemas,
			"securitySchemes": object{"token": object{"type": "http", "scheme": "bearer", "description": "128 random bits in the form of a UUID"}},
		},
	}
	out, err := json.MarshalIndent(doc, "", "  ")
	return append(out, '\n'), err
}

func operationID(r *route) string {
	words := strings.FieldsFunc(strings.TrimPrefix(r.path, "/v1/"), func(c rune) bool { return strings.ContainsRune("/-{}.", c) })
	for i, w := range words {
		words[i] = strings.ToUpper(w[:1]) + w[1:]
	}
	return strings.ToLower(r.method) + strings.Join(words, "")
}

func statusText(n int) string { b, _ := json.Marshal(n); return string(b) }

func content(schema object) object {
	return object{"application/json": object{"schema": schema}}
}

func parameters(r *route) []any {
	var out []any
	if strings.Contains(r.path, "{id}") {
		out = append(out, object{"name": "id", "in": "path", "required": true, "schema": object{"type": "string"}, "description": "ID or name"})
	}
	for _, q := range r.query {
		name, doc, _ := strings.Cut(q, ": ")
		out = append(out, object{"name": name, "in": "query", "schema": object{"type": "string"}, "description": doc})
	}
	return out
}

// schemaOf makes the schema of a type. Structs go into the document's schemas once.
func schemaOf(t reflect.Type, schemas object) object {
	switch {
	case t.Kind() == reflect.Pointer:
		return schemaOf(t.Elem(), schemas)
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[json.RawMessage]():
		return object{"type": "object"}
	case t.Kind() == reflect.Slice:
		return object{"type": "array", "items": schemaOf(t.Elem(), schemas)}
	case t.Kind() == reflect.String:
		return object{"type": "string"}
	case t.Kind() == reflect.Bool:
		return object{"type": "boolean"}
	case t.Kind() == reflect.Int64 || t.Kind() == reflect.Uint64:
		return object{"type": "integer", "format": "int64"}
	}
	name := typeName(t)
	if schemas[name] == nil {
		s := object{"type": "object"}
		schemas[name] = s
		properties := object{}
		var required []string
		addProperties(t, schemas, properties, &required)
		s["properties"] = properties
		// A request may leave out any field of an entity: a change names few, and what
		// a new one needs depends on its kind.
		_, entity := reflect.New(t).Interface().(adminapi.Entity)
		if sort.Strings(required); len(required) > 0 && !entity {
			s["required"] = required
		}
		if name != "Error" && !strings.HasPrefix(name, "List") {
			s["additionalProperties"] = false
		}
	}
	return object{"$ref": "#/components/schemas/" + name}
}

// typeName is the name of a type; that of a listing is "ListVolume".
func typeName(t reflect.Type) string {
	name := t.Name()
	if head, arg, generic := strings.Cut(name, "["); generic {
		arg = strings.TrimSuffix(arg, "]")
		return head + arg[strings.LastIndexByte(arg, '.')+1:]
	}
	return name
}

func addProperties(t reflect.Type, schemas, properties object, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			addProperties(f.Type, schemas, properties, required)
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		p := schemaOf(f.Type, schemas)
		doc := f.Tag.Get("doc")
		if unit := f.Tag.Get("unit"); unit != "" {
			doc += " (in " + unit + ")"
		}
		if doc != "" {
			p["description"] = doc
		}
		if enum := f.Tag.Get("enum"); enum != "" {
			p["enum"] = strings.Split(enum, ",")
		}
		switch adminapi.Access(f.Tag.Get("access")) {
		case adminapi.AccessReadOnly, adminapi.AccessShown:
			p["readOnly"] = true
		case adminapi.AccessWrite:
			p["writeOnly"] = true
		default:
			if !strings.Contains(options, "omitempty") {
				*required = append(*required, name)
			}
		}
		properties[name] = p
	}
}
