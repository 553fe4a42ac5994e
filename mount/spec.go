// Package mount is the assembly: it turns the description of a mount into a
// served mount.
//
// Everything that mounts goes one way. Native commands, foreign command lines
// and, later, CSI and the control socket first make a [Spec]: which tree (a
// volume, a local directory, …) and how it is mounted. Then [Start] runs a mount
// in the background, or [Serve] in this process: it takes the mount point's lock,
// opens the tree, puts it behind the FUSE door, opens the mount's control socket
// and stays until the mount ends.
//
// A kind of tree is one small file here that calls [RegisterKind]: its part of
// the spec, how that is checked, how the tree is opened.
//
// The volume [Registry] remembers which volumes this machine knows: for each a
// directory with a small record (where its metadata and its blocks are) and, by
// default, the metadata and the blocks themselves.
package mount

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/massif-fs/massif/seal"
)

// Spec describes a mount: a tree and how it is mounted. Written as YAML or JSON:
//
//	tree:
//	  kind: volume
//	  name: photos
//	mount:
//	  ro: true
//	  memory-limit: 300MiB
//	point: /mnt/photos    # optional: where "massif mount SPEC" without a mount point mounts
type Spec struct {
	Tree  Tree    `json:"tree"`
	Mount Options `json:"mount"`
	Point string  `json:"point,omitempty"`
	// Source is what the user named, for listings and as default of fsname.
	Source string `json:"source,omitempty"`
	// Passphrase of an encrypted tree. It is no part of a written spec.
	Passphrase seal.Passphrase `json:"-"`
}

// Tree describes a tree: its kind and what that kind needs to know.
type Tree struct {
	Kind   string
	Config TreeConfig
}

// maxSpec bounds the size of a spec, in bytes.
const maxSpec = 1 << 20

// ReadSpec reads a spec file. Errors name the file, the line and what is wrong.
func ReadSpec(path string) (*Spec, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("spec: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("spec: %w", err)
	}
	if info.IsDir() {
		return nil, fmt.Errorf("%s is a directory; to mount a local directory write file://%s", path, absolute(path))
	}
	var data bytes.Buffer
	if _, err := data.ReadFrom(&boundedReader{f, maxSpec}); err != nil {
		return nil, fmt.Errorf("spec %s: %w", path, err)
	}
	spec, err := ParseSpec(data.Bytes())
	if err != nil {
		return nil, fmt.Errorf("spec %s: %w", path, err)
	}
	if spec.Source == "" {
		spec.Source = path
	}
	return spec, nil
}

// ParseSpec reads a spec from YAML or JSON and checks it. Unknown keys are
// refused by name and place. Anchors and aliases are not accepted: a spec may come
// from elsewhere, and a few bytes of them can unfold into gigabytes.
func ParseSpec(data []byte) (*Spec, error) {
	if len(data) > maxSpec {
		return nil, errors.New("the spec is larger than 1MiB")
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, specError(err)
	}
	var docs []*ast.DocumentNode
	for _, doc := range file.Docs {
		if doc.Body != nil {
			docs = append(docs, doc)
		}
	}
	if len(docs) == 0 {
		return nil, errors.New("the spec is empty")
	}
	if len(docs) > 1 {
		return nil, errors.New("the spec has more than one document")
	}
	if at := findAlias(docs[0].Body); at != nil {
		return nil, placed(at, errors.New("anchors and aliases are not accepted in a spec"))
	}
	spec := &Spec{}
	err = eachKey(docs[0].Body, "the spec", map[string]func(ast.Node) error{
		"tree":   spec.Tree.decode,
		"mount":  spec.Mount.decode,
		"point":  func(n ast.Node) error { return decodeText(n, &spec.Point) },
		"source": func(n ast.Node) error { return decodeText(n, &spec.Source) },
	})
	if err != nil {
		return nil, err
	}
	if spec.Tree.Config == nil {
		return nil, errors.New(`the spec has no "tree"`)
	}
	return spec, spec.Validate()
}

// Validate checks the spec without touching what it names.
func (s *Spec) Validate() error {
	if s.Tree.Config == nil {
		return errors.New("no tree is named")
	}
	if err := s.Tree.Config.Validate(); err != nil {
		return err
	}
	if s.Point != "" && !filepath.IsAbs(s.Point) {
		return fmt.Errorf("point %q: write an absolute path", s.Point)
	}
	return s.Mount.Validate()
}

// decode reads the tree section: kind, then what that kind knows.
func (t *Tree) decode(node ast.Node) error {
	m, ok := node.(*ast.MappingNode)
	if !ok {
		return placed(node.GetToken(), errors.New(`"tree" must be a mapping with a "kind"`))
	}
	rest := *m
	rest.Values = nil
	var kindNode ast.Node
	for _, v := range m.Values {
		if keyOf(v) == "kind" {
			kindNode = v.Value
			continue
		}
		rest.Values = append(rest.Values, v)
	}
	if kindNode == nil {
		return placed(node.GetToken(), fmt.Errorf(`"tree" has no "kind"; known kinds: %s`, strings.Join(kindNames(), ", ")))
	}
	if err := decodeText(kindNode, &t.Kind); err != nil {
		return err
	}
	kind, ok := kinds[t.Kind]
	if !ok {
		return placed(kindNode.GetToken(), fmt.Errorf("unknown kind of tree %q; known kinds: %s", t.Kind, strings.Join(kindNames(), ", ")))
	}
	t.Config = kind()
	if len(rest.Values) == 0 {
		return nil
	}
	return specError(yaml.NodeToValue(&rest, t.Config, yaml.Strict()))
}

// decode reads the mount section, whose keys are the mount options.
func (o *Options) decode(node ast.Node) error {
	m, ok := node.(*ast.MappingNode)
	if !ok {
		if _, null := node.(*ast.NullNode); null {
			return nil
		}
		return placed(node.GetToken(), errors.New(`"mount" must be a mapping of options`))
	}
	for _, v := range m.Values {
		var value string
		if err := decodeText(v.Value, &value); err != nil {
			return err
		}
		if err := o.setWord(keyOf(v), value, true); err != nil {
			return placed(v.Key.GetToken(), err)
		}
	}
	return nil
}

// UnmarshalYAML reads a tree within a tree.
func (t *Tree) UnmarshalYAML(node ast.Node) error { return t.decode(node) }

// MarshalJSON writes the tree as a spec has it.
func (t Tree) MarshalJSON() ([]byte, error) {
	config, err := json.Marshal(t.Config)
	if err != nil {
		return nil, err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(config, &fields); err != nil {
		return nil, err
	}
	if fields["kind"], err = json.Marshal(t.Kind); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

// eachKey calls the function that belongs to each key of a mapping.
func eachKey(node ast.Node, where string, keys map[string]func(ast.Node) error) error {
	m, ok := node.(*ast.MappingNode)
	if !ok {
		return placed(node.GetToken(), fmt.Errorf("%s must be a mapping", where))
	}
	for _, v := range m.Values {
		decode := keys[keyOf(v)]
		if decode == nil {
			var names []string
			for name := range keys {
				names = append(names, name)
			}
			sort.Strings(names)
			return placed(v.Key.GetToken(), fmt.Errorf("unknown key %q in %s; known keys: %s", keyOf(v), where, strings.Join(names, ", ")))
		}
		if err := decode(v.Value); err != nil {
			return err
		}
	}
	return nil
}

func keyOf(v *ast.MappingValueNode) string { return v.Key.GetToken().Value }

// decodeText reads a scalar as the text it is written as.
func decodeText(node ast.Node, out *string) error {
	switch n := node.(type) {
	case *ast.NullNode:
		*out = ""
	case *ast.LiteralNode:
		*out = n.Value.Value
	case ast.ScalarNode:
		*out = n.GetToken().Value
	default:
		return placed(node.GetToken(), errors.New("a single value is expected here"))
	}
	return nil
}

// findAlias returns where the first anchor or alias of a document stands.
func findAlias(node ast.Node) *token.Token {
	v := &aliasFinder{}
	ast.Walk(v, node)
	return v.at
}

type aliasFinder struct{ at *token.Token }

func (v *aliasFinder) Visit(node ast.Node) ast.Visitor {
	switch node.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		if v.at == nil {
			v.at = node.GetToken()
		}
	}
	if v.at != nil {
		return nil
	}
	return v
}

// placed adds line and column to an error of a spec.
func placed(at *token.Token, err error) error {
	if at == nil || at.Position == nil {
		return err
	}
	return fmt.Errorf("line %d, column %d: %w", at.Position.Line, at.Position.Column, err)
}

// specError makes a sentence of the YAML library's errors, which are drawings.
func specError(err error) error {
	var y yaml.Error
	if errors.As(err, &y) {
		return placed(y.GetToken(), errors.New(y.GetMessage()))
	}
	return err
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
