package cli

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNamespaceCommands(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	dir := filepath.Join(w.dir, "data")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	spec := filepath.Join(w.dir, "all.yaml")
	text := "tree:\n  kind: namespace\n  storages:\n    - paths: [/hello]\n      storage:\n        type: static\n        content: {README: hello}\n"
	if err := os.WriteFile(spec, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w.must("namespace", "start", w.mnt, spec)
	if w.read("hello/README") != "hello" {
		t.Error("the storage of the spec is not there")
	}
	w.must("namespace", "add", w.mnt, dir, "/data", "/both")
	w.must("namespace", "add", w.mnt, `{"type": "static", "content": {"x": "y"}}`, "/s", "/both", "--read-only")
	w.write("data/f", "1")
	if w.read("both/f") != "1" || w.read("both/x") != "y" {
		t.Error("the storages are not merged")
	}
	w.must("volume", "create", "v")
	w.must("namespace", "add", w.mnt, "v", "/volume")
	w.write("volume/kept", "in the volume")

	var rows []storageRow
	w.mustJSON(&rows, "namespace", "list", w.mnt)
	if len(rows) != 4 || rows[0].Type != "static" || rows[1].Paths[1] != "/both" || rows[3].Type != "volume" {
		t.Errorf("list: %+v", rows)
	}
	w.mustJSON(&rows, "namespace", "info", w.mnt, "/both")
	if len(rows) != 2 {
		t.Errorf("info: %+v", rows)
	}
	w.mustJSON(&rows, "namespace", "info", w.mnt, "/data/f")
	if len(rows) != 1 || rows[0].ID != 2 {
		t.Errorf("info of a file: %+v", rows)
	}
	var paths map[string][]int
	if err := json.Unmarshal([]byte(w.must("ctl", w.mnt, "paths")), &paths); err != nil || len(paths["/both"]) != 2 {
		t.Errorf("ctl paths: %v, %v", paths, err)
	}
	w.must("ctl", w.mnt, `{"cmd": "clear-cache", "args": {"storage-id": 2}}`)
	if out := w.must("ctl", w.mnt, "version"); !strings.Contains(out, "go1.") {
		t.Errorf("version: %s", out)
	}

	watch := w.command("namespace", "watch", w.mnt, "/data", "*.txt")
	out, err := watch.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	// The watch has begun at some time: files are made until one is told.
	told := make(chan string)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		told <- line
	}()
	var line string
	for i := 0; line == ""; i++ {
		w.write("data/new.txt", "x")
		if err := os.Remove(filepath.Join(w.mnt, "data/new.txt")); err != nil {
			t.Fatal(err)
		}
		select {
		case line = <-told:
		default:
		}
	}
	if !strings.HasSuffix(line, " new.txt\n") {
		t.Errorf("watch: %q", line)
	}
	watch.Process.Kill()
	watch.Wait()

	w.refuse(1, "no storage /zz", "namespace", "remove", w.mnt, "/zz")
	w.refuse(1, "Storage already mounted", "namespace", "add", w.mnt, dir, "/data")
	w.refuse(1, "massif: /n: there is no volume \"no-such-volume\"", "namespace", "add", w.mnt, "no-such-volume", "/n")
	w.refuse(2, "absolute path", "namespace", "add", w.mnt, "relative/path", "/n")
	w.refuse(2, "not well-formed", "ctl", w.mnt, "{")
	w.refuse(1, "unknown command: zz", "ctl", w.mnt, "zz")
	w.must("namespace", "remove", w.mnt, "/data", "3", "/volume")
	if entries, err := os.ReadDir(w.mnt); err != nil || len(entries) != 1 {
		t.Errorf("after removal: %v, %v", entries, err)
	}
	w.must("umount", w.mnt)

	// What was written to the volume is there, mounted alone.
	w.must("mount", "v", w.mnt)
	if got := w.read("kept"); got != "in the volume" {
		t.Errorf("the volume has %q", got)
	}
	w.refuse(1, "not a namespace", "namespace", "list", w.mnt)
	w.must("umount", w.mnt)
}
