package cloudfuse

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxConfig bounds a configuration file in bytes, maxNodes what its aliases unfold to.
const (
	maxConfig = 1 << 20
	maxNodes  = 10_000
)

// config is a configuration file that was read: the values of known keys as texts, and
// what is wrong with the others.
type config struct {
	values   map[string]value
	warnings []string
}

// value is what a key was given.
type value struct {
	text  string
	items []string            // of a list
	maps  []map[string]string // of records
	// from says who gave it: "line 12", "--tmp-path", "AZURE_STORAGE_ACCOUNT".
	from string
	line int // in the file; 0: it is not from there
}

// parseConfig reads a configuration file. Unknown keys are warned about; only what is
// no YAML, or has a shape that nothing can be made of, is an error.
func parseConfig(data []byte) (*config, error) {
	c := &config{values: map[string]value{}}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("the configuration is larger than %d bytes", maxConfig)
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, yamlError(err)
	}
	r := &reader{config: c, anchors: map[string]ast.Node{}}
	found := false
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if found {
			return nil, errors.New("the configuration has more than one document")
		}
		found = true
		if err := r.top(doc.Body); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// yamlError makes a sentence of the library's errors, which are drawings of the file
// and would show what secrets stand near.
func yamlError(err error) error {
	var y yaml.Error
	if errors.As(err, &y) {
		if at := y.GetToken(); at != nil && at.Position != nil {
			return fmt.Errorf("line %d: this is no YAML: %s", at.Position.Line, y.GetMessage())
		}
		return fmt.Errorf("this is no YAML: %s", y.GetMessage())
	}
	return errors.New("this is no YAML")
}

// reader walks a document.
type reader struct {
	*config
	anchors map[string]ast.Node
	nodes   int
}

func (r *reader) warn(node ast.Node, format string, args ...any) {
	r.warnings = append(r.warnings, fmt.Sprintf("line %d: ", lineOf(node))+fmt.Sprintf(format, args...))
}

func lineOf(node ast.Node) int {
	if node == nil || node.GetToken() == nil || node.GetToken().Position == nil {
		return 0
	}
	return node.GetToken().Position.Line
}

func bad(node ast.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: %s", lineOf(node), fmt.Sprintf(format, args...))
}

var errUnfolds = errors.New("the aliases of the configuration unfold to too much")

// plain takes anchors, aliases and tags off a node.
func (r *reader) plain(node ast.Node) (ast.Node, error) {
	for {
		if r.nodes++; r.nodes > maxNodes {
			return nil, errUnfolds
		}
		switch n := node.(type) {
		case *ast.AnchorNode:
			r.anchors[n.Name.GetToken().Value] = n.Value
			node = n.Value
		case *ast.AliasNode:
			to := r.anchors[n.Value.GetToken().Value]
			if to == nil {
				return nil, bad(n, "nothing is named &%s", n.Value.GetToken().Value)
			}
			node = to
		case *ast.TagNode:
			node = n.Value
		default:
			return node, nil
		}
	}
}

// pairs are the keys and values of a mapping, those that it merges in first.
func (r *reader) pairs(node ast.Node) (pairs []*ast.MappingValueNode, isMap bool, err error) {
	if node, err = r.plain(node); err != nil {
		return nil, false, err
	}
	m, ok := node.(*ast.MappingNode)
	if !ok {
		if v, one := node.(*ast.MappingValueNode); one {
			return []*ast.MappingValueNode{v}, true, nil
		}
		return nil, false, nil
	}
	for _, v := range m.Values {
		if _, merges := v.Key.(*ast.MergeKeyNode); merges {
			from, err := r.plain(v.Value)
			if err != nil {
				return nil, false, err
			}
			merged := []ast.Node{from}
			if seq, ok := from.(*ast.SequenceNode); ok {
				merged = seq.Values
			}
			for _, one := range merged {
				if one == node {
					return nil, false, bad(v, "a mapping is merged into itself")
				}
				more, _, err := r.pairs(one)
				if err != nil {
					return nil, false, err
				}
				pairs = append(pairs, more...)
			}
			continue
		}
		pairs = append(pairs, v)
	}
	r.nodes += len(pairs)
	return pairs, true, nil
}

func keyOf(v *ast.MappingValueNode) string {
	return strings.ToLower(strings.TrimSpace(v.Key.GetToken().Value))
}

// top reads the top level.
func (r *reader) top(node ast.Node) error {
	pairs, isMap, err := r.pairs(node)
	switch {
	case err != nil:
		return err
	case !isMap:
		return bad(node, "the configuration is no mapping of keys to values")
	}
	for _, v := range pairs {
		name := keyOf(v)
		if slices.Contains(sections, name) {
			if err := r.section(name, v); err != nil {
				return err
			}
			continue
		}
		if keyTable[name] == nil {
			r.warn(v.Key, "unknown key %q%s", name, nearest("", name))
			continue
		}
		if err := r.set(name, v); err != nil {
			return err
		}
	}
	return nil
}

// section reads the keys of a section.
func (r *reader) section(section string, v *ast.MappingValueNode) error {
	pairs, isMap, err := r.pairs(v.Value)
	if err != nil {
		return err
	}
	if !isMap {
		node, err := r.plain(v.Value)
		if err != nil {
			return err
		}
		if _, empty := node.(*ast.NullNode); empty {
			return nil
		}
		return bad(v.Key, "section %s is no mapping of keys to values", section)
	}
	for _, v := range pairs {
		name := section + "." + keyOf(v)
		if keyTable[name] == nil {
			r.warn(v.Key, "unknown key %q in section %s%s", keyOf(v), section, nearest(section, keyOf(v)))
			continue
		}
		if err := r.set(name, v); err != nil {
			return err
		}
	}
	return nil
}

// set keeps the value of a key. A later one wins.
func (r *reader) set(name string, v *ast.MappingValueNode) error {
	k := keyTable[name]
	if k.alias != "" {
		name, k = k.alias, keyTable[k.alias]
	}
	val := value{line: lineOf(v.Key), from: fmt.Sprintf("line %d", lineOf(v.Key))}
	node, err := r.plain(v.Value)
	if err != nil {
		return err
	}
	switch k.kind {
	case list:
		val.items, err = r.texts(name, node)
	case records:
		val.maps, err = r.records(name, node)
	default:
		val.text, err = r.scalar(name, node)
	}
	if err != nil {
		return err
	}
	if node.Type() == ast.NullType {
		delete(r.values, name) // a key without a value is one that is not there
		return nil
	}
	r.values[name] = val
	return nil
}

// scalar reads a single value as the text it is written as.
func (r *reader) scalar(name string, node ast.Node) (string, error) {
	node, err := r.plain(node)
	if err != nil {
		return "", err
	}
	switch n := node.(type) {
	case *ast.NullNode:
		return "", nil
	case *ast.LiteralNode:
		return strings.TrimSuffix(n.Value.Value, "\n"), nil
	case ast.ScalarNode:
		return n.GetToken().Value, nil
	}
	return "", bad(node, "%s is not a single value", name)
}

// texts reads a list; a single text is a list of those that commas or blanks part.
func (r *reader) texts(name string, node ast.Node) ([]string, error) {
	seq, ok := node.(*ast.SequenceNode)
	if !ok {
		one, err := r.scalar(name, node)
		return strings.FieldsFunc(one, func(c rune) bool { return c == ',' || c == ' ' }), err
	}
	out := []string{}
	for _, n := range seq.Values {
		one, err := r.scalar(name, n)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return out, nil
}

// records reads a list of mappings.
func (r *reader) records(name string, node ast.Node) ([]map[string]string, error) {
	if node.Type() == ast.NullType {
		return nil, nil
	}
	seq, ok := node.(*ast.SequenceNode)
	if !ok {
		return nil, bad(node, "%s is no list", name)
	}
	var out []map[string]string
	for _, n := range seq.Values {
		pairs, isMap, err := r.pairs(n)
		switch {
		case err != nil:
			return nil, err
		case !isMap:
			return nil, bad(n, "%s is a list of mappings", name)
		}
		one := map[string]string{}
		for _, v := range pairs {
			if one[keyOf(v)], err = r.scalar(name, v.Value); err != nil {
				return nil, err
			}
		}
		out = append(out, one)
	}
	return out, nil
}
