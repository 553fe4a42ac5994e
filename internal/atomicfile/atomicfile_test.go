package atomicfile

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, x := range []struct {
		text string
		mode os.FileMode
	}{{"first", 0o600}, {"second", 0o644}} {
		if err := Write(path, []byte(x.text), x.mode); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != x.text {
			t.Errorf("%q, %v", got, err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode() != x.mode {
			t.Errorf("%v, %v", st.Mode(), err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(dir, "d"), nil, 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if l, err := os.ReadDir(dir); err != nil || len(l) != 2 {
		t.Errorf("left: %v, %v", l, err)
	}
}
