package timeline

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/tree/namespace/kinds"
	_ "github.com/massif-fs/massif/tree/namespace/kinds/localdir"
	"github.com/massif-fs/massif/vfs"
)

// B3: layout and reading.
func TestTimeline(t *testing.T) {
	dir := t.TempDir()
	for name, day := range map[string]string{"a.txt": "2020-02-29", "sub/b": "2020-02-29", "sub/c": "2021-12-01", "empty/": ""} {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if day == "" {
			continue
		}
		when, err := time.Parse("2006-01-02", day)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte("content of "+name), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(full, when, when.Add(3*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	params, err := kinds.ParseParams(json.RawMessage(fmt.Sprintf(`{"type": "timeline", "reference-container": "x", "timeline-root": "/t", "storage": {"type": "local", "location": %q}}`, dir)))
	if err != nil {
		t.Fatal(err)
	}
	made, err := kinds.Make(params, &kinds.Env{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, c := context.Background(), &vfs.Caller{}
	b, err := made.Storage.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer b.FS.Close()
	var walk func(ino vfs.Ino, at string) []string
	walk = func(ino vfs.Ino, at string) (all []string) {
		d, err := b.FS.OpenDir(ctx, c, ino)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		var entries []vfs.DirEntry
		if err := d.Read(ctx, 0, true, func(e *vfs.DirEntry) bool { entries = append(entries, *e); return true }); err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Mode == syscall.S_IFDIR {
				all = append(all, walk(e.Ino, at+e.Name+"/")...)
				continue
			}
			f, err := b.FS.Open(ctx, c, e.Ino, syscall.O_RDONLY)
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 100)
			n, err := f.ReadAt(ctx, buf, 0)
			if err != nil {
				t.Error(err)
			}
			f.Close()
			all = append(all, at+e.Name+"="+string(buf[:n]))
		}
		return all
	}
	want := []string{"2020/02/29/a.txt/a.txt=content of a.txt", "2020/02/29/sub/b/b=content of sub/b", "2021/12/01/sub/c/c=content of sub/c"}
	if got := walk(vfs.Root, ""); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q", got)
	}
	if err := b.ClearCache(ctx); err != nil {
		t.Error(err)
	}
	// A file that is gone is so after the scan.
	if err := os.Remove(filepath.Join(dir, "a.txt")); err != nil {
		t.Fatal(err)
	}
	if got := walk(vfs.Root, ""); strings.Join(got, "\n") != strings.Join(want[1:], "\n") {
		t.Errorf("after a removal: %q", got)
	}
}
