package posix

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, out string
		cases     int
		failed    []int
		problem   string
	}{
		{"all pass", "1..2\nok 1\nok 2\n", 2, nil, ""},
		{"one fails", "1..3\nok 1\nnot ok 2 - tried 'x', expected 0, got ENOENT\nok 3\n", 3, []int{2}, ""},
		{"expected to fail", "1..1\nnot ok 1 # TODO not on Linux\n", 1, nil, ""},
		{"ends early", "1..3\nok 1\n", 1, nil, "1 cases ran, 3 were planned"},
		{"plan at the end", "noise\nok 1\n1..1\n", 1, nil, ""},
		{"says nothing", "", 0, nil, "0 cases ran, -1 were planned"},
		{"skipped", "1..0 # SKIP no such call\n", 0, nil, "skipped: SKIP no such call"},
	} {
		var f File
		f.parse([]byte(c.out))
		if f.Cases != c.cases || f.Problem != c.problem || len(f.Failed) != len(c.failed) {
			t.Errorf("%s: %+v", c.name, f)
			continue
		}
		for i, n := range c.failed {
			if f.Failed[i].Number != n {
				t.Errorf("%s: failed %v", c.name, f.Failed)
			}
		}
	}
}

// fakeSuite is a suite of two scripts.
func fakeSuite(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"pjdfstest":      "#!/bin/sh\n",
		"tests/conf":     "os=none\n",
		"tests/a/00.t":   "echo 1..2\nmkdir x && echo ok 1\n. $(dirname $0)/../conf\n[ $fs = EXT4 ] && echo ok 2\n",
		"tests/b/00.t":   "echo 1..1\necho not ok 1 - tried nothing\n",
		"tests/b/slow.t": "echo 1..1\nsleep 60\n",
		"tests/misc.sh":  "",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestRun(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	cfg := Config{Suite: fakeSuite(t), Dir: dir, Limit: 300 * time.Millisecond}
	rep, err := Run(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Files) != 3 || !rep.Files[0].OK() || rep.Files[0].Name != "a/00.t" || len(rep.Files[1].Failed) != 1 {
		t.Fatalf("%+v", rep)
	}
	if !strings.HasPrefix(rep.Files[2].Problem, "not done") {
		t.Errorf("a script that hangs: %+v", rep.Files[2])
	}
	if len(rep.Bad()) != 2 {
		t.Errorf("bad: %+v", rep.Bad())
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	cfg.Match = []string{"nothing/"}
	if _, err := Run(context.Background(), cfg); err == nil {
		t.Error("a run of no script passed")
	}
}
