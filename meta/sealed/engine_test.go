package sealed

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/seal"
	"github.com/massif-fs/massif/vfs"
)

// tree makes a directory with one of everything in it.
func (v *volume) tree() (dir vfs.Ino) {
	v.t.Helper()
	var a vfs.Attr
	dir = v.mkdir(vfs.Root, "tree")
	sub := v.mkdir(dir, "sub")
	file := v.file(sub, "file", "content")
	v.ok(v.s.SetXattr(bg, root, file, "user.x", []byte("value"), 0))
	v.ok(v.s.SetXattr(bg, root, file, "trusted.y", []byte{}, 0))
	v.ok(v.s.SetXattr(bg, root, dir, vfs.XattrACLDefault, []byte{2, 0, 0, 0,
		1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 5, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255}, 0))
	v.ok(v.s.Link(bg, root, file, dir, "second name", &a))
	v.ok(v.s.Symlink(bg, root, sub, "link", "../second name", &a))
	return dir
}

// checkTree looks at what tree has made.
func (v *volume) checkTree(dir vfs.Ino) {
	v.t.Helper()
	if got := v.list(v.s, dir); !slices.Equal(got, []string{"sub", "second name"}) {
		v.t.Fatalf("listing %q", got)
	}
	sub := v.lookup(dir, "sub").Ino
	if got := v.list(v.s, sub); !slices.Equal(got, []string{"file", "link"}) {
		v.t.Fatalf("listing %q", got)
	}
	file := v.lookup(sub, "file")
	if second := v.lookup(dir, "second name"); second.Ino != file.Ino || file.Nlink != 2 || file.Size != 7 {
		v.t.Errorf("file %+v, its second name %+v", file, second)
	}
	if got := v.content(file.Ino); got != "content" {
		v.t.Errorf("content %q", got)
	}
	names, err := v.s.ListXattr(bg, root, file.Ino)
	v.ok(err)
	slices.Sort(names)
	if !slices.Equal(names, []string{"trusted.y", "user.x"}) {
		v.t.Errorf("attributes %q", names)
	}
	value, err := v.s.GetXattr(bg, root, file.Ino, "user.x")
	v.ok(err)
	if string(value) != "value" {
		v.t.Errorf("attribute %q", value)
	}
	acl, err := v.s.GetXattr(bg, root, dir, vfs.XattrACLDefault)
	if err != nil || len(acl) != 28 {
		v.t.Errorf("default ACL %v, %v", acl, err)
	}
	link := v.lookup(sub, "link")
	target, err := v.s.Readlink(bg, root, link.Ino)
	v.ok(err)
	if target != "../second name" || link.Size != uint64(len(target)) {
		v.t.Errorf("target %q, size %d", target, link.Size)
	}
}

func TestCopies(t *testing.T) {
	v := newVolume(t, true, func(f *meta.Format) { f.Retention = time.Hour })
	dir := v.tree()
	v.checkTree(dir)
	stats, err := v.e.Clone(bg, root, dir, vfs.Root, "clone", nil)
	v.ok(err)
	v.checkTree(stats.Ino)
	v.checkTree(v.lookup(vfs.Root, "clone").Ino)
	v.clean()

	before := time.Now()
	time.Sleep(time.Millisecond)
	file := v.lookup(v.lookup(dir, "sub").Ino, "file").Ino
	v.write(file, "changed")
	var a vfs.Attr
	v.ok(v.s.Unlink(bg, root, v.lookup(dir, "sub").Ino, "link", &a))
	past, err := v.e.At(bg, before)
	v.ok(err)
	defer past.Close()
	if _, err := v.e.Restore(bg, past, dir, vfs.Root, "restored", nil); err != nil {
		t.Fatal(err)
	}
	v.checkTree(v.lookup(vfs.Root, "restored").Ino)
	v.clean()

	// A mount of the past, and the trash.
	in, err := past.NewSession(bg, meta.SessionInfo{})
	v.ok(err)
	_, key := secret()
	old, err := New(in, key, Options{})
	v.ok(err)
	if got := v.list(old, vfs.Root); !slices.Equal(got, []string{"tree", "clone"}) {
		t.Errorf("the past has %q", got)
	}
	var trash []meta.TrashEntry
	v.ok(v.e.Trash(bg, 0, func(x meta.TrashEntry) error { trash = append(trash, x); return nil }))
	if len(trash) != 1 || trash[0].Path != "/tree/sub/link" || trash[0].Name != "link" || trash[0].Size != 14 {
		t.Fatalf("trash %+v", trash)
	}
	if _, err := v.e.RestoreTrash(bg, trash[0], vfs.Root, "back", nil); err != nil {
		t.Fatal(err)
	}
	target, err := v.s.Readlink(bg, root, v.lookup(vfs.Root, "back").Ino)
	if target != "../second name" || err != nil {
		t.Errorf("restored link: %q, %v", target, err)
	}
	if name, err := v.e.Path(bg, file); err != nil || !strings.HasPrefix(name, "/tree/") {
		t.Errorf("path %q, %v", name, err)
	}
}

// TestWithoutTheKey: what needs the key says so and changes nothing; the rest works.
func TestWithoutTheKey(t *testing.T) {
	v := newVolume(t, true, nil)
	dir := v.tree()
	v.close()
	e, err := meta.Open(bg, v.db, meta.Options{Logger: slog.New(slog.DiscardHandler)})
	v.ok(err)
	defer e.Close()
	_, err = e.Clone(bg, root, dir, vfs.Root, "clone", nil)
	wantErrno(t, "clone", err, syscall.ENOKEY)
	_, err = e.Repair(bg, mem.New(), func(meta.Problem) {}, func(meta.Problem) {})
	wantErrno(t, "repair", err, syscall.ENOKEY)
	path, err := e.Path(bg, dir)
	v.ok(err)
	if !seal.ValidText(strings.TrimPrefix(path, "/")) {
		t.Errorf("path %q", path)
	}
	if sum, err := e.Check(bg, func(p meta.Problem) { t.Error(p) }); err != nil || sum.Inodes != 5 {
		t.Errorf("check %+v, %v", sum, err)
	}
}

func TestDumpAndLoad(t *testing.T) {
	v := newVolume(t, true, func(f *meta.Format) { f.Retention = time.Hour })
	dir := v.tree()
	long := v.mkdir(vfs.Root, strings.Repeat("x", 255))
	var dump bytes.Buffer
	_, err := v.e.Dump(bg, &dump, meta.DumpOptions{History: true})
	v.ok(err)
	v.close()
	loaded := &volume{t: t, db: mem.New()}
	if _, err := meta.Load(bg, loaded.db, &dump, meta.LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	loaded.open(true)
	defer loaded.close()
	loaded.checkTree(dir)
	if got := loaded.lookup(vfs.Root, strings.Repeat("x", 255)).Ino; got != long {
		t.Errorf("inode %d, want %d", got, long)
	}
	loaded.clean()
}

// TestRepair loses names and content: what comes back has sealed names.
func TestRepair(t *testing.T) {
	v := newVolume(t, true, nil)
	dir := v.tree()
	sub, lost := v.lookup(dir, "sub").Ino, v.file(dir, "lost file", "its content")
	link := v.lookup(sub, "link").Ino
	v.close()
	ino := func(kind byte, n vfs.Ino) []byte { return append([]byte{kind}, 0, 0, 0, 0, 0, 0, 0, byte(n)) }
	v.change(func(w kv.Txn) error {
		var names [][]byte
		err := w.Scan(ino('n', dir), ino('n', dir+1), func(key, _ []byte) (bool, error) {
			names = append(names, bytes.Clone(key))
			return true, nil
		})
		for _, key := range names {
			w.Delete(key)
		}
		w.DeleteRange(ino('e', dir), ino('e', dir+1))
		w.Delete(ino('l', link))
		return err
	})
	v.open(true)
	var done []string
	sum, err := v.e.Repair(bg, mem.New(), func(p meta.Problem) { done = append(done, p.String()) }, func(p meta.Problem) { t.Error("left:", p) })
	v.ok(err)
	if sum.Fixed == 0 {
		t.Error("nothing was repaired")
	}
	v.clean()
	found := v.lookup(vfs.Root, meta.LostFound).Ino
	names := v.list(v.s, found)
	if !slices.Contains(names, "#"+itoa(sub)) || !slices.Contains(names, "#"+itoa(lost)) {
		t.Errorf("%s has %q; done: %q", meta.LostFound, names, done)
	}
	if got := v.content(v.lookup(found, "#"+itoa(lost)).Ino); got != "its content" {
		t.Errorf("content %q", got)
	}
	if target, err := v.s.Readlink(bg, root, link); err != nil || target != "(lost)" {
		t.Errorf("target %q, %v", target, err)
	}
}

func itoa(n vfs.Ino) string {
	if n >= 10 {
		return itoa(n/10) + string(rune('0'+n%10))
	}
	return string(rune('0' + n))
}

func TestSettings(t *testing.T) {
	first, key := secret()
	v := newVolume(t, true, nil)
	next, err := first.WithPassphrase(key, seal.Passphrase("the second passphrase"))
	v.ok(err)
	v.ok(v.e.SetSeal(bg, first, next))
	wantErrno(t, "a second change of the old record", v.e.SetSeal(bg, first, next), syscall.EAGAIN)
	other, _, _, err := seal.Create(seal.Passphrase("another passphrase"))
	v.ok(err)
	wantErrno(t, "another key", v.e.SetSeal(bg, next, other), syscall.EINVAL)
	wantErrno(t, "no key", v.e.SetSeal(bg, next, nil), syscall.EINVAL)
	wantErrno(t, "no encryption", v.e.UpdateSettings(bg, func(f *meta.Format) error { f.Seal, f.Version = nil, 1; return nil }), syscall.EINVAL)
	v.close()
	v.open(true)
	if f := v.e.Settings(); !f.Seal.Equal(next) {
		t.Error("the new record is not stored")
	}

	for what, change := range map[string]func(*meta.Format){
		"an encrypted volume of the plain version": func(f *meta.Format) { f.Version = meta.FormatVersion },
		"a plain volume of the other version":      func(f *meta.Format) { f.Seal = nil },
		"a damaged record":                         func(f *meta.Format) { f.Seal = &seal.Record{} },
	} {
		f := format(true)
		change(&f)
		if err := meta.Create(bg, mem.New(), f); err == nil {
			t.Errorf("%s: was made", what)
		}
	}
}
