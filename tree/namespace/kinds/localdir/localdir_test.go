package localdir

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/tree/namespace"
	"github.com/massif-fs/massif/tree/namespace/kinds"
	"github.com/massif-fs/massif/vfs"
)

// B5: who may own a directory.
func TestCheckOwner(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "a", "b")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := CheckOwner(dir, "0xaaa"); vfs.ErrnoOf(err) != syscall.EACCES {
		t.Errorf("without a file: %v", err)
	}
	for _, c := range []struct {
		text, owner string
		ok          bool
	}{
		{"0xaaa", "0xaaa", true}, {"# 0xaaa\n0xbbb\n", "0xaaa", false}, {"0xbbb\n\t0xaaa  # me\n", "0xaaa", true}, {"0xaaab", "0xaaa", false}, {"", "", false}, {"\n", "", false},
	} {
		for _, at := range []string{dir, root} {
			file := filepath.Join(at, OwnersFile)
			if err := os.WriteFile(file, []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := CheckOwner(dir, c.owner); (err == nil) != c.ok {
				t.Errorf("%q in %s for %q: %v", c.text, at, c.owner, err)
			}
			if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
}

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		target, rel string
		ok          bool
	}{
		{"/data", "", true}, {"/data/a/b", "a/b", true}, {"/alias/a", "a", true}, {"/database", "", false}, {"/", "", false}, {"/etc", "", false},
	} {
		if rel, ok := within("/data", "/alias/", c.target); rel != c.rel || ok != c.ok {
			t.Errorf("%s: %q, %v", c.target, rel, ok)
		}
	}
}

// What others change below a directory that is watched is told to who watches and to doors.
func TestForeignChanges(t *testing.T) {
	ctx, c := context.Background(), &vfs.Caller{}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	params, err := kinds.ParseParams(json.RawMessage(fmt.Sprintf(`{"type": "local", "location": %q}`, dir)))
	if err != nil {
		t.Fatal(err)
	}
	made, err := kinds.Make(params, &kinds.Env{})
	if err != nil {
		t.Fatal(err)
	}
	ns := namespace.New(namespace.Options{})
	defer ns.Close()
	ids, errs := ns.Mount(ctx, []namespace.Item{{Paths: []string{"/x", "/y"}, Storage: made.Storage}}, false)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	var views []vfs.Ino
	for _, p := range []string{"x", "y"} {
		var a vfs.Attr
		if err := ns.Lookup(ctx, c, vfs.Root, p, &a); err != nil {
			t.Fatal(err)
		}
		if err := ns.Lookup(ctx, c, a.Ino, "sub", &a); err != nil {
			t.Fatal(err)
		}
		views = append(views, a.Ino)
	}
	changes, events := make(chan vfs.Change, 1000), make(chan namespace.Event, 1000)
	stopFeed := ns.Watch(func(ch vfs.Change) { changes <- ch })
	defer stopFeed()
	stop, err := ns.WatchStorage(ctx, ids[0], namespace.WatchOptions{Pattern: "*"}, func(list []namespace.Event) {
		for _, e := range list {
			events <- e
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := os.WriteFile(filepath.Join(dir, "sub", "new"), []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	limit := time.After(time.Minute)
	for told := map[vfs.Ino]bool{}; len(told) < 2; {
		select {
		case ch := <-changes:
			if ch.Kind == vfs.ChangeEntry && ch.Name == "new" && ch.Remote {
				told[ch.Parent] = true
			}
		case <-limit:
			t.Fatalf("doors are told of %v, not of %v", told, views)
		}
	}
	for {
		select {
		case e := <-events:
			if e == (namespace.Event{Type: namespace.EventModify, Path: "sub/new"}) {
				return
			}
		case <-limit:
			t.Fatal("no event")
		}
	}
}

// A directory that is renamed goes on being watched, one that is moved out does not.
func TestRenamedDirectories(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	events := make(chan namespace.Event, 1000)
	stop, err := (&watcher{root: dir}).watch(func(list []namespace.Event) {
		for _, e := range list {
			events <- e
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	expect := func(want ...namespace.Event) {
		t.Helper()
		limit := time.After(time.Minute)
		for len(want) > 0 {
			select {
			case e := <-events:
				if e == want[0] {
					want = want[1:]
				} else if e.Path == "lost" || filepath.Base(e.Path) == "unseen" {
					t.Errorf("event %v", e)
				}
			case <-limit:
				t.Fatalf("no event %v", want[0])
			}
		}
	}
	do := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	p := func(parts ...string) string { return filepath.Join(append([]string{dir}, parts...)...) }
	// At once, so that the watcher sees it all afterwards.
	do(os.Rename(p("a"), p("c")), os.WriteFile(p("c", "b", "new"), nil, 0o644), os.Mkdir(p("a"), 0o755), os.WriteFile(p("a", "second"), nil, 0o644))
	expect(namespace.Event{Type: namespace.EventDelete, Path: "a"}, namespace.Event{Type: namespace.EventCreate, Path: "c"},
		namespace.Event{Type: namespace.EventCreate, Path: "c/b/new"}, namespace.Event{Type: namespace.EventCreate, Path: "a"}, namespace.Event{Type: namespace.EventCreate, Path: "a/second"})
	do(os.Rename(p("c"), filepath.Join(outside, "c")))
	expect(namespace.Event{Type: namespace.EventDelete, Path: "c"})
	do(os.WriteFile(filepath.Join(outside, "c", "b", "unseen"), nil, 0o644), os.WriteFile(p("last"), nil, 0o644))
	expect(namespace.Event{Type: namespace.EventCreate, Path: "last"})
}
