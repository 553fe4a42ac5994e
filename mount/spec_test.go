package mount

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseSpec(t *testing.T) {
	yaml := `
tree:
  kind: local
  path: /srv/data
mount:
  ro: true
  umask: 022
  memory_limit: 128MiB
point: /mnt/data
`
	got, err := ParseSpec([]byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	umask := Octal(0o22)
	want := &Spec{
		Tree:  Tree{Kind: "local", Config: &LocalTree{Path: "/srv/data"}},
		Mount: Options{ReadOnly: true, Umask: &umask, MemoryLimit: 128 << 20},
		Point: "/mnt/data",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	if _, err := ParseSpec([]byte(`{"tree": {"kind": "volume", "name": "v"}, "mount": {"noatime": true}}`)); err != nil {
		t.Errorf("JSON: %v", err)
	}
}

func TestParseSpecRefuses(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":        {"tree:\n  kind: local\n  path: /x\nmuont: {}\n", `line 4, column 1: unknown key "muont" in the spec; known keys: mount, point, source, tree`},
		"unknown tree key":   {"tree:\n  kind: local\n  path: /x\n  colour: red\n", `line 4, column 3: unknown field "colour"`},
		"unknown option":     {"tree: {kind: local, path: /x}\nmount:\n  noatme: true\n", `line 3, column 3: unknown option "noatme"; did you mean "noatime"?`},
		"bad value":          {"tree: {kind: local, path: /x}\nmount:\n  umask: 99\n", "line 3, column 3"},
		"unknown kind":       {"tree: {kind: tape}\n", `unknown kind of tree "tape"; known kinds: bucket, image, local, namespace, overlay, shared, volume`},
		"no kind":            {"tree: {path: /x}\n", `has no "kind"`},
		"no tree":            {"mount: {}\n", `has no "tree"`},
		"empty":              {"", "empty"},
		"two documents":      {"tree: {kind: local, path: /x}\n---\ntree: {}\n", "more than one document"},
		"list":               {"- a\n", "must be a mapping"},
		"alias":              {"tree: &a {kind: local, path: /x}\nmount: *a\n", "anchors and aliases"},
		"merge":              {"tree:\n  <<: {kind: local}\n  path: /x\n", "anchors and aliases"},
		"syntax":             {"tree: {kind: local\n", "line"},
		"relative image":     {"tree: {kind: image, path: x.fl}\n", "must be absolute"},
		"bad image hash":     {"tree: {kind: image, path: /x.fl, sha256: abc}\n", "64 hexadecimal digits"},
		"overlay of nothing": {"tree: {kind: overlay}\n", "needs a lower tree"},
		"overlay of volume":  {"tree: {kind: overlay, lower: {kind: volume, name: x}}\n", "it can change"},
		"overlay's lower":    {"tree: {kind: overlay, lower: {kind: image, paht: /x}}\n", "paht"},
		"layer is a path":    {"tree: {kind: overlay, layer: a/b, lower: {kind: image, path: /x}}\n", "neither a name nor an absolute path"},
		"relative path":      {"tree: {kind: local, path: x}\n", "must be absolute"},
		"relative point":     {"tree: {kind: local, path: /x}\npoint: p\n", "absolute path"},
		"contradiction":      {"tree: {kind: local, path: /x}\nmount: {ro: true, writeback: true}\n", "contradict"},
		"volume's bad name":  {"tree: {kind: volume, name: ../x}\n", "cannot be a volume's name"},
		"value is a mapping": {"tree: {kind: local, path: /x}\nmount:\n  umask: {a: 1}\n", "a single value is expected"},
	} {
		_, err := ParseSpec([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: more than one line: %q", name, err)
		}
	}
}

func TestParseSource(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "s.yaml")
	if err := os.WriteFile(file, []byte("tree: {kind: local, path: /x}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]TreeConfig{
		"photos":               &VolumeTree{Name: "photos"},
		"file:///srv/data":     &LocalTree{Path: "/srv/data"},
		"file:///srv/a%20b/":   &LocalTree{Path: "/srv/a b"},
		"file://localhost/srv": &LocalTree{Path: "/srv"},
		file:                   &LocalTree{Path: "/x"},
	} {
		spec, err := Parse(source)
		if err != nil {
			t.Errorf("Parse(%q): %v", source, err)
			continue
		}
		if diff := cmp.Diff(want, spec.Tree.Config); diff != "" {
			t.Errorf("Parse(%q) (-want +got):\n%s", source, diff)
		}
		if spec.Source != source {
			t.Errorf("Parse(%q): source %q", source, spec.Source)
		}
	}
	for source, want := range map[string]string{
		"":                    "empty",
		"file://srv/data":     "three slashes",
		"file:///x?y=z":       "nothing else",
		"s3://":               "no bucket is named",
		"abfs://c/p":          "write az://CONTAINER/PREFIX",
		"gopher://x":          "unknown kind of source gopher://",
		"http://u:secret@%zz": "not a well-formed URL",
		dir + "/":             "is a directory; to mount a local directory write file://" + dir,
		"/nowhere/at/all":     "no such file",
		"missing.yaml":        "no such file",
	} {
		_, err := Parse(source)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) = %v, want %q", source, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("Parse(%q) gives a password away: %v", source, err)
		}
	}
}

func TestResolvePoint(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(dir, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ResolvePoint(filepath.Join(dir, "link")); err != nil || got != real {
		t.Errorf("ResolvePoint of a link = %q, %v; want %q", got, err, real)
	}
	if got, err := ResolvePoint(filepath.Join(dir, "link", "new")); err != nil || got != filepath.Join(real, "new") {
		t.Errorf("ResolvePoint of a missing name = %q, %v", got, err)
	}
	if _, err := ResolvePoint(filepath.Join(dir, "no", "such")); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("ResolvePoint of a missing directory: %v", err)
	}
	var usage *UsageError
	if _, err := ResolvePoint(""); !errors.As(err, &usage) {
		t.Errorf("ResolvePoint of nothing: %v", err)
	}
}

func FuzzParseSpec(f *testing.F) {
	f.Add([]byte("tree:\n  kind: local\n  path: /x\nmount:\n  ro: true\n"))
	f.Add([]byte(`{"tree": {"kind": "volume", "name": "v"}, "mount": {"umask": "022"}}`))
	f.Add([]byte("tree: &a {kind: *a}\n"))
	f.Add([]byte("tree:\n  <<: [x]\n"))
	f.Add([]byte("a: |\n  b\n...\n---\n? {c}\n: - d\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := ParseSpec(data)
		if err == nil && spec.Validate() != nil {
			t.Fatalf("ParseSpec gave a spec that Validate refuses: %q", data)
		}
	})
}
