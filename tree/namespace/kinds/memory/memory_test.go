package memory

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/tree/namespace"
	"github.com/massif-fs/massif/tree/namespace/kinds"
	"github.com/massif-fs/massif/vfs"
)

func open(t *testing.T, params string) *namespace.Backend {
	t.Helper()
	p, err := kinds.ParseParams(json.RawMessage(params))
	if err != nil {
		t.Fatal(err)
	}
	made, err := kinds.Make(p, &kinds.Env{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := made.Storage.Open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.FS.Close() })
	return b
}

func TestStatic(t *testing.T) {
	ctx, c := context.Background(), &vfs.Caller{}
	fs := open(t, `{"type": "static", "content": {"b": "data", "a": {"deep": {"x": "1"}, "empty": {}}}}`).FS
	var a, up vfs.Attr
	if err := fs.Lookup(ctx, c, vfs.Root, "b", &a); err != nil || a.Mode != syscall.S_IFREG|0o444 || a.Size != 4 || a.Mtime != (vfs.Time{}) {
		t.Errorf("b: %+v, %v", a, err)
	}
	f, err := fs.Open(ctx, c, a.Ino, syscall.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if n, err := f.ReadAt(ctx, buf, 1); n != 3 || err != nil || string(buf[:n]) != "ata" {
		t.Errorf("read: %q, %v", buf[:n], err)
	}
	if n, err := f.ReadAt(ctx, buf, 4); n != 0 || err != nil {
		t.Errorf("read at the end: %d, %v", n, err)
	}
	if _, err := f.WriteAt(ctx, buf, 0); !errors.Is(err, syscall.EBADF) {
		t.Errorf("write: %v", err)
	}
	for op, err := range map[string]error{
		"mkdir":  fs.Mkdir(ctx, c, vfs.Root, "x", 0o755, &up),
		"unlink": fs.Unlink(ctx, c, vfs.Root, "b"),
		"rename": fs.Rename(ctx, c, vfs.Root, "b", vfs.Root, "c", 0),
		"chmod":  fs.SetAttr(ctx, c, a.Ino, &vfs.SetAttr{Valid: vfs.SetMode}, &up),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v", op, err)
		}
	}
	if err := fs.Lookup(ctx, c, a.Ino, "x", &up); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("lookup in a file: %v", err)
	}
	if err := fs.Lookup(ctx, c, vfs.Root, "zz", &up); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("lookup of nothing: %v", err)
	}
	if err := fs.GetAttr(ctx, c, 999, &up); !errors.Is(err, syscall.ESTALE) {
		t.Errorf("unknown inode: %v", err)
	}
	d, err := fs.OpenDir(ctx, c, vfs.Root)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	var cookie uint64
	for range 3 { // one entry at a time
		if err := d.Read(ctx, cookie, true, func(e *vfs.DirEntry) bool {
			if len(names) > 0 && e.Cookie == cookie {
				t.Errorf("the cookie stays at %d", cookie)
			}
			names, cookie = append(names, e.Name), e.Cookie
			return false
		}); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Join(names, " ") != "a b" {
		t.Errorf("names: %q", names)
	}
	d.Close()
	if err := fs.Lookup(ctx, c, vfs.Root, "a", &a); err != nil || !a.IsDir() {
		t.Fatal(err)
	}
	if err := fs.Lookup(ctx, c, a.Ino, "deep", &a); err != nil {
		t.Fatal(err)
	}
	if err := fs.Lookup(ctx, c, a.Ino, "..", &up); err != nil {
		t.Fatal(err)
	}
	if err := fs.Lookup(ctx, c, up.Ino, "..", &up); err != nil || up.Ino != vfs.Root {
		t.Errorf("the parent's parent is %d, %v", up.Ino, err)
	}
	if err := fs.Close(); err != nil {
		t.Error(err)
	}
	if _, err := f.ReadAt(ctx, buf, 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("read of a closed tree: %v", err)
	}
	f.Close()
}

func TestMistakes(t *testing.T) {
	for params, want := range map[string]string{
		`{"type": "static"}`:                               "'content'",
		`{"type": "static", "content": []}`:                "must be an object",
		`{"type": "static", "content": {"a/b": ""}}`:       "a/b",
		`{"type": "static", "content": {"a": {"..": ""}}}`: "..",
		`{"type": "static", "content": {"a": 3}}`:          "must be an object",
		`{"type": "pseudomanifest"}`:                       "'content'",
	} {
		p, err := kinds.ParseParams(json.RawMessage(params))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kinds.Make(p, &kinds.Env{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", params, err, want)
		}
	}
}
