package flist

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/vfs"
)

// database makes a SQLite file by statements.
func database(t testing.TB, tables string, statements ...func(p *partial) error) string {
	t.Helper()
	p, err := newPartial(filepath.Join(t.TempDir(), "db"), tables)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if err := s(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.commit(); err != nil {
		t.Fatal(err)
	}
	if err := p.publish(p.file()); err != nil {
		t.Fatal(err)
	}
	return p.path
}

func statement(query string, args ...any) func(*partial) error {
	return func(p *partial) error { return p.exec(query, args...) }
}

func inode(ino, parent int, name any, mode int, more ...int) func(*partial) error {
	size, uid, gid := 0, 0, 0
	for i, v := range []*int{&size, &uid, &gid} {
		if i < len(more) {
			*v = more[i]
		}
	}
	return statement("INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0)", ino, parent, name, size, uid, gid, mode)
}

var rootInode = inode(1, 0, "/", syscall.S_IFDIR|0o755)

// What real images of other writers have wrong, or differently.
func TestOthersImages(t *testing.T) {
	ctx := t.Context()
	// The original's tables alone, names as text and as blobs, a file without blocks.
	tables := strings.Split(v2Tables, "CREATE TABLE massif_time")[0]
	im, err := Open(ctx, database(t, tables, rootInode,
		inode(2, 1, "file", syscall.S_IFREG|0o644, 600000, 7, 8), inode(3, 1, []byte("blob"), syscall.S_IFREG|0o644, 5),
		inode(4, 1, "dir", syscall.S_IFDIR|0o2755)), OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	for _, name := range []string{"file", "blob", "dir"} {
		if _, err := im.Lookup(ctx, Root, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if a, _ := im.Lookup(ctx, Root, "file"); a.UID != 7 || a.GID != 8 {
		t.Errorf("owner %d:%d", a.UID, a.GID)
	}
	a, _ := im.Lookup(ctx, Root, "blob")
	err = EachBlock(ctx, im, &a, func(int64, Block, int) error { return nil })
	if !errors.Is(err, ErrFormat) || vfs.ErrnoOf(err) != syscall.EIO {
		t.Errorf("a file whose blocks are missing: %v", err)
	}

	// Version 1 without the table metadata, as bare database, without owner records.
	d := &dirRecord{parent: pathKey(""), acl: "none", entries: []entryRecord{{name: "x", kind: kindSpecial, device: "1,3"}}}
	value, err := d.marshal()
	if err != nil {
		t.Fatal(err)
	}
	im1, err := Open(ctx, database(t, strings.Split(v1Tables, "CREATE TABLE metadata")[0],
		statement("INSERT INTO entries VALUES ('0123456789abcdef', ?)", []byte("owner")), statement("INSERT INTO entries VALUES (?, ?)", pathKey(""), segmented(t, value))), OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer im1.Close()
	a, err = im1.Lookup(ctx, Root, "x")
	if err != nil || a.Mode != syscall.S_IFCHR|0o400 || a.UID != 1000 || a.Rdev != makeDevice(1, 3) {
		t.Errorf("%+v, %v", a, err)
	}
	if routes, err := im1.Routes(ctx); err != nil || len(routes) != 0 {
		t.Errorf("%v, %v", routes, err)
	}
}

func TestV1Backend(t *testing.T) {
	root := &dirRecord{parent: pathKey("")}
	value, _ := root.marshal()
	row := statement("INSERT INTO entries VALUES (?, ?)", pathKey(""), value)
	for backend, want := range map[string]string{
		`{"host":"hub.example","port":9900}`:                         "zdb://hub.example:9900/",
		`{"host":"h","port":1,"namespace":"ns","password":"secret"}`: "zdb://:secret@h:1/ns",
		`{"socket":"/run/zdb.sock"}`:                                 "zdb:///run/zdb.sock",
		`{"host":"","port":9900}`:                                    "",
		`not json`:                                                   "",
		`{"host":"h","port":70000}`:                                  "",
	} {
		im, err := Open(t.Context(), database(t, v1Tables, row, statement("INSERT INTO metadata VALUES ('backend', ?)", backend)), OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		routes, err := im.Routes(t.Context())
		im.Close()
		if want == "" {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("%s: %v", backend, err)
			}
		} else if err != nil || len(routes) != 1 || routes[0].URL != want {
			t.Errorf("%s: %+v, %v", backend, routes, err)
		}
	}
}

func TestHostileV2(t *testing.T) {
	for what, rows := range map[string][]func(*partial) error{
		"no root":                 {inode(2, 1, "x", syscall.S_IFREG)},
		"a root that is a file":   {inode(1, 0, "/", syscall.S_IFREG)},
		"a name with a slash":     {rootInode, inode(2, 1, "../etc", syscall.S_IFREG)},
		"the name ..":             {rootInode, inode(2, 1, "..", syscall.S_IFDIR)},
		"a name with NUL":         {rootInode, inode(2, 1, []byte("a\x00b"), syscall.S_IFREG)},
		"a name too long":         {rootInode, inode(2, 1, strings.Repeat("x", 256), syscall.S_IFREG)},
		"a negative size":         {rootInode, inode(2, 1, "x", syscall.S_IFREG, -1)},
		"an absurd size":          {rootInode, inode(2, 1, "x", syscall.S_IFREG, 1<<60)},
		"an owner beyond 32 bits": {rootInode, inode(2, 1, "x", syscall.S_IFREG, 0, 1<<40)},
		"no type":                 {rootInode, inode(2, 1, "x", 0o644)},
		"a number beyond 47 bits": {rootInode, inode(1<<50, 1, "x", syscall.S_IFREG)},
		"a second name of a directory": {rootInode, inode(2, 1, "d", syscall.S_IFDIR|0o755), inode(3, 2, "loop", syscall.S_IFDIR|0o755),
			statement("INSERT INTO massif_link VALUES (3, 2)")},
		"text for a number":     {rootInode, statement("INSERT INTO inode VALUES (2, 1, 'x', 'large', 0, 0, 33188, 0, 0, 0)")},
		"a route for block 300": {rootInode, statement("INSERT INTO route VALUES (0, 300, 'dir:///x')")},
	} {
		t.Run(what, func(t *testing.T) {
			im, err := Open(t.Context(), database(t, v2Tables, rows...), OpenOptions{})
			if err == nil {
				defer im.Close()
				err = walkAll(t.Context(), im)
			}
			if !errors.Is(err, ErrFormat) || vfs.ErrnoOf(err) != syscall.EIO {
				t.Fatalf("error %v", err)
			}
		})
	}
}

// walkAll looks at everything that an image has, as far as a bound.
func walkAll(ctx context.Context, im Image) error {
	if _, err := im.Routes(ctx); err != nil {
		return err
	}
	if _, err := im.Tags(ctx); err != nil {
		return err
	}
	todo := []uint64{Root}
	for n := 0; len(todo) > 0 && n < 1000; n++ {
		dir := todo[0]
		todo = todo[1:]
		list, err := im.ReadDir(ctx, dir, 0, 100)
		if err != nil {
			return err
		}
		for _, e := range list {
			if err := checkEntry(e.Name, e.Attr.Mode); err != nil {
				return errors.Join(errors.New("it was shown"), err)
			}
			if _, err := im.Xattrs(ctx, e.Attr.Ino); err != nil {
				return err
			}
			switch e.Attr.Type() {
			case syscall.S_IFDIR:
				todo = append(todo, e.Attr.Ino)
			case syscall.S_IFLNK:
				_, err = im.Readlink(ctx, e.Attr.Ino)
			case syscall.S_IFREG:
				_, err = im.Blocks(ctx, e.Attr.Ino, 0, 100)
			}
			if err != nil {
				return err
			}
		}
	}
	if len(todo) > 0 {
		return errors.New("there is no end to it")
	}
	return nil
}

func TestHostileV1(t *testing.T) {
	dir := func(location string, entries ...entryRecord) func(*partial) error {
		d := &dirRecord{location: location, name: baseName(location), parent: pathKey(dirName(location)), entries: entries}
		value, err := d.marshal()
		if err != nil {
			t.Fatal(err)
		}
		return statement("INSERT INTO entries VALUES (?, ?)", pathKey(location), value)
	}
	sub := func(name, key string) entryRecord { return entryRecord{name: name, kind: kindDir, key: key} }
	wrongPlace := &dirRecord{location: "elsewhere"}
	value, _ := wrongPlace.marshal()
	for what, rows := range map[string][]func(*partial) error{
		"no root":                        {dir("a")},
		"the root in itself":             {dir("", sub("loop", pathKey("")))},
		"a directory below itself":       {dir("", sub("a", pathKey("a"))), dir("a", sub("b", pathKey("a")))},
		"a missing directory":            {dir("", sub("a", pathKey("a")))},
		"a name with a slash":            {dir("", entryRecord{name: "a/b", kind: kindFile})},
		"the name .":                     {dir("", entryRecord{name: ".", kind: kindFile})},
		"two entries of one name":        {dir("", entryRecord{name: "x", kind: kindFile}, entryRecord{name: "x", kind: kindLink})},
		"an absurd size":                 {dir("", entryRecord{name: "x", kind: kindFile, size: 1 << 62})},
		"a target that is too long":      {dir("", entryRecord{name: "x", kind: kindLink, target: strings.Repeat("x", 5000)})},
		"a kind that is not known":       {dir("", entryRecord{name: "x", kind: 9})},
		"a record under another's key":   {statement("INSERT INTO entries VALUES (?, ?)", pathKey(""), value)},
		"a record that is none":          {statement("INSERT INTO entries VALUES (?, ?)", pathKey(""), []byte("nonsense"))},
		"a row with an absurd number":    {dir(""), statement("INSERT INTO entries (rowid, key) VALUES (1 << 50, 'x')")},
		"an owner record that is broken": {dir("", entryRecord{name: "x", kind: kindFile, acl: "k"}), statement("INSERT INTO entries VALUES ('k', 'nonsense')")},
	} {
		t.Run(what, func(t *testing.T) {
			im, err := Open(t.Context(), database(t, v1Tables, rows...), OpenOptions{})
			if err == nil {
				defer im.Close()
				err = walkAll(t.Context(), im)
			}
			if !errors.Is(err, ErrFormat) || vfs.ErrnoOf(err) != syscall.EIO {
				t.Fatalf("error %v", err)
			}
		})
	}
}

// container makes a tar.gz of names and contents.
func container(t testing.TB, members ...string) string {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for i := 0; i < len(members); i += 2 {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: members[i], Size: int64(len(members[i+1])), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(members[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "x.flist")
	if err := os.WriteFile(file, buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestHostileContainers(t *testing.T) {
	root := &dirRecord{parent: pathKey("")}
	value, _ := root.marshal()
	good, err := os.ReadFile(database(t, v1Tables, statement("INSERT INTO entries VALUES (?, ?)", pathKey(""), value)))
	if err != nil {
		t.Fatal(err)
	}
	temp := filepath.Join(t.TempDir(), "temp")
	if err := os.Mkdir(temp, 0o755); err != nil {
		t.Fatal(err)
	}
	open := func(file string, most int64) error {
		im, err := Open(t.Context(), file, OpenOptions{TempDir: temp, MaxUnpacked: most})
		if err == nil {
			_, err = im.Routes(t.Context())
			err = errors.Join(err, im.Close())
		}
		return err
	}
	// Names that would lead elsewhere are passed over, and written nowhere.
	if err := open(container(t, "../../evil", "x", "/etc/evil", "y", "./flistdb.sqlite3", string(good), "flistdb.sqlite3", "a second one"), 0); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(temp, "../../evil")); err == nil {
		t.Error("it was written")
	}
	whole, _ := os.ReadFile(container(t, "flistdb.sqlite3", string(good)))
	cut := filepath.Join(t.TempDir(), "cut")
	os.WriteFile(cut, whole[:len(whole)/2], 0o644)
	empty := filepath.Join(t.TempDir(), "empty")
	os.WriteFile(empty, nil, 0o644)
	for what, c := range map[string]struct {
		file string
		most int64
		says string
	}{
		"no database":       {container(t, "other", "x"), 0, "no flistdb.sqlite3"},
		"rocksdb":           {container(t, "CURRENT", "x", "MANIFEST-000001", "y"), 0, "RocksDB"},
		"too large":         {container(t, "flistdb.sqlite3", string(good)), 100, "more than 100 bytes"},
		"no sqlite":         {container(t, "flistdb.sqlite3", "nonsense"), 0, "SQLite"},
		"cut":               {cut, 0, ""},
		"empty":             {empty, 0, "neither"},
		"a bad router":      {container(t, "flistdb.sqlite3", string(good), "router.yaml", "lookup: [x]"), 0, "pool"},
		"yaml that unfolds": {container(t, "flistdb.sqlite3", string(good), "router.yaml", "a: &a [x]\nlookup: *a"), 0, "anchors"},
	} {
		err := open(c.file, c.most)
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := open(filepath.Join(temp, "absent"), 0); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := open(temp, 0); err == nil {
		t.Error("a directory is an image")
	}
	if left, _ := os.ReadDir(temp); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func FuzzImage(f *testing.F) {
	source := f.TempDir()
	os.Mkdir(filepath.Join(source, "d"), 0o755)
	os.WriteFile(filepath.Join(source, "d", "f"), []byte("x"), 0o644)
	for _, v := range []Version{V1, V2} {
		file, _ := packTree(f, v, source)
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<20 {
			return
		}
		file := filepath.Join(dir, "image")
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
		im, err := Open(t.Context(), file, OpenOptions{TempDir: dir, MaxUnpacked: 4 << 20})
		if err != nil {
			return
		}
		defer im.Close()
		if err := walkAll(t.Context(), im); err != nil && !errors.Is(err, ErrFormat) {
			t.Fatal(err)
		}
	})
}
