package mount

import (
	"path/filepath"
	"testing"
)

// The specs in examples/ are right.
func TestExamples(t *testing.T) {
	var files []string
	for _, pattern := range []string{"*.yaml", "*.json"} {
		found, err := filepath.Glob(filepath.Join("..", "examples", pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 4 {
		t.Fatalf("only %d examples", len(files))
	}
	for _, f := range files {
		spec, err := ReadSpec(f)
		if err != nil {
			t.Error(err)
		} else if spec.Point == "" {
			t.Errorf("%s has no mount point", f)
		}
	}
}
