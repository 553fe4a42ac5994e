package sealed

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/seal"
	"github.com/massif-fs/massif/vfs"
)

var (
	bg   = context.Background()
	root = &vfs.Caller{}
)

// secret is the key of all tests: making one takes Argon2id's time.
var secret = sync.OnceValues(func() (*seal.Record, *seal.Key) {
	r, k, _, err := seal.Create(seal.Passphrase("correct horse battery"))
	if err != nil {
		panic(err)
	}
	return r, k
})

// volume is an engine with a session; encrypted, if sealed.
type volume struct {
	t  testing.TB
	db *mem.DB
	e  *meta.Engine
	in meta.Session // of the engine
	s  meta.Session // as clients see it
}

func format(encrypted bool) meta.Format {
	f := meta.Format{Version: meta.FormatVersion, Name: "test", UUID: "00000000-0000-4000-8000-000000000001", ChunkSize: meta.MinChunkSize,
		Compression: "none", InlineLimit: meta.DefaultInlineLimit, Created: time.Unix(1_700_000_000, 0)}
	if encrypted {
		f.Version = meta.EncryptedVersion
		f.Seal, _ = secret()
	}
	return f
}

func newVolume(t testing.TB, encrypted bool, change func(*meta.Format)) *volume {
	t.Helper()
	v := &volume{t: t, db: mem.New()}
	f := format(encrypted)
	if change != nil {
		change(&f)
	}
	if err := meta.Create(bg, v.db, f); err != nil {
		t.Fatal(err)
	}
	v.open(encrypted)
	return v
}

func (v *volume) open(encrypted bool) {
	v.t.Helper()
	var err error
	if v.e, err = meta.Open(bg, v.db, meta.Options{Logger: slog.New(slog.DiscardHandler)}); err != nil {
		v.t.Fatal(err)
	}
	if v.in, err = v.e.NewSession(bg, meta.SessionInfo{Host: "test"}); err != nil {
		v.t.Fatal(err)
	}
	v.s = v.in
	if encrypted {
		_, key := secret()
		if v.s, err = New(v.in, key, Options{}); err != nil {
			v.t.Fatal(err)
		}
		v.e.SetKeyholder(Keyholder(key))
	}
}

func (v *volume) close() {
	v.t.Helper()
	if err := errors.Join(v.s.Close(), v.e.Close()); err != nil {
		v.t.Fatal(err)
	}
}

// clean checks the engine's invariants.
func (v *volume) clean() {
	v.t.Helper()
	if _, err := v.e.Check(bg, func(p meta.Problem) { v.t.Error(p) }); err != nil {
		v.t.Fatal(err)
	}
}

func (v *volume) ok(err error) {
	v.t.Helper()
	if err != nil {
		v.t.Fatal(err)
	}
}

func (v *volume) mkdir(dir vfs.Ino, name string) vfs.Ino {
	v.t.Helper()
	var a vfs.Attr
	v.ok(v.s.Mkdir(bg, root, dir, name, 0o755, &a))
	return a.Ino
}

func (v *volume) file(dir vfs.Ino, name, content string) vfs.Ino {
	v.t.Helper()
	var a vfs.Attr
	v.ok(v.s.Mknod(bg, root, dir, name, 0o644, 0, &a))
	v.write(a.Ino, content)
	return a.Ino
}

func (v *volume) write(ino vfs.Ino, content string) {
	v.t.Helper()
	_, err := v.s.Commit(bg, nil, []meta.FileWrite{{Ino: ino, SetInline: true, Inline: []byte(content)}})
	v.ok(err)
}

func (v *volume) content(ino vfs.Ino) string {
	v.t.Helper()
	data, _, err := v.s.Inline(bg, ino)
	v.ok(err)
	return string(data)
}

func (v *volume) lookup(dir vfs.Ino, name string) vfs.Attr {
	v.t.Helper()
	var a vfs.Attr
	if err := v.s.Lookup(bg, root, dir, name, &a); err != nil {
		v.t.Fatalf("lookup %s: %v", name, err)
	}
	return a
}

func (v *volume) list(s meta.Session, dir vfs.Ino) (names []string) {
	v.t.Helper()
	v.ok(s.ReadDir(bg, root, dir, 0, true, func(e *vfs.DirEntry) bool {
		names = append(names, strings.Clone(e.Name))
		return true
	}))
	return names
}

// records calls fn with every record of the database.
func (v *volume) records(fn func(key, value []byte)) {
	v.t.Helper()
	v.ok(v.db.View(bg, func(r kv.Reader) error {
		return r.Scan([]byte{0}, nil, func(key, value []byte) (bool, error) {
			fn(key, value)
			return true, nil
		})
	}))
}

func (v *volume) change(fn func(w kv.Txn) error) {
	v.t.Helper()
	v.ok(v.db.Update(bg, fn))
}

func wantErrno(t testing.TB, what string, err error, want syscall.Errno) {
	t.Helper()
	if vfs.ErrnoOf(err) != want {
		t.Errorf("%s: %v (%v), want %v", what, err, vfs.ErrnoOf(err), want)
	}
}

// TestNothingPlainInTheDatabase looks for everything that was said to the session in
// all records, also of history.
func TestNothingPlainInTheDatabase(t *testing.T) {
	v := newVolume(t, true, func(f *meta.Format) { f.Retention = time.Hour })
	var a vfs.Attr
	dir := v.mkdir(vfs.Root, "SECRETdirectory")
	file := v.file(dir, "SECRETname.txt", "SECRET inline content")
	v.write(file, "SECRET second content")
	v.ok(v.s.Symlink(bg, root, dir, "SECRETlink", "/SECRET/target", &a))
	v.ok(v.s.Link(bg, root, file, vfs.Root, "SECRETsecond", &a))
	v.ok(v.s.SetXattr(bg, root, file, "user.SECRETattr", []byte("SECRET value"), 0))
	v.ok(v.s.Rename(bg, root, vfs.Root, "SECRETsecond", dir, "SECRETthird", 0, &a))
	v.ok(v.s.Unlink(bg, root, dir, "SECRETlink", &a))
	if got := v.list(v.s, dir); !slices.Equal(got, []string{"SECRETname.txt", "SECRETthird"}) {
		t.Errorf("listing %q", got)
	}
	var dump bytes.Buffer
	if _, err := v.e.Dump(bg, &dump, meta.DumpOptions{History: true}); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(dump.Bytes(), []byte("SECRET")) {
		t.Error("a dump has plain text")
	}
	v.clean()
	v.close()
	n := 0
	v.records(func(key, value []byte) {
		n++
		if bytes.Contains(key, []byte("SECRET")) || bytes.Contains(value, []byte("SECRET")) {
			t.Errorf("record %q: %q", key, value)
		}
	})
	if n < 20 {
		t.Errorf("only %d records were looked at", n)
	}
}

// TestOnlyWithTheKey: what a server says cannot make a client write plain text, and a
// client without the key cannot write anything.
func TestOnlyWithTheKey(t *testing.T) {
	_, key := secret()
	plain := newVolume(t, false, nil)
	_, err := New(plain.in, key, Options{})
	wantErrno(t, "a key for a plain volume", err, syscall.EINVAL)
	v := newVolume(t, true, nil)
	_, other, _, err := seal.Create(seal.Passphrase("another passphrase"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(v.in, other, Options{})
	wantErrno(t, "another volume's key", err, syscall.ENOKEY)

	file := v.file(vfs.Root, "file", "content")
	var a vfs.Attr
	s := v.in
	wantErrno(t, "mknod without the key", s.Mknod(bg, root, vfs.Root, "plain", 0o644, 0, &a), syscall.ENOKEY)
	wantErrno(t, "mkdir without the key", s.Mkdir(bg, root, vfs.Root, "plain", 0o755, &a), syscall.ENOKEY)
	wantErrno(t, "link without the key", s.Link(bg, root, file, vfs.Root, "plain", &a), syscall.ENOKEY)
	wantErrno(t, "symlink without the key", s.Symlink(bg, root, vfs.Root, sealedName(v, "l"), "plain", &a), syscall.ENOKEY)
	wantErrno(t, "rename without the key", s.Rename(bg, root, vfs.Root, sealedName(v, "file"), vfs.Root, "plain", 0, &a), syscall.ENOKEY)
	wantErrno(t, "set xattr without the key", s.SetXattr(bg, root, file, "user.plain", []byte("x"), 0), syscall.ENOKEY)
	_, err = s.Commit(bg, nil, []meta.FileWrite{{Ino: file, SetInline: true, Inline: []byte("plain text, long enough to be mistaken for what is sealed")}})
	wantErrno(t, "inline content without the key", err, syscall.ENOKEY)
	v.clean()
}

func sealedName(v *volume, name string) string {
	_, key := secret()
	return key.Meta().Name(uint64(vfs.Root), name)
}

func TestInlineIsCutWithoutTheKey(t *testing.T) {
	v := newVolume(t, true, nil)
	file := v.file(vfs.Root, "file", "0123456789")
	var a vfs.Attr
	size := func(n uint64) {
		t.Helper()
		v.ok(v.in.SetAttr(bg, root, file, &vfs.SetAttr{Valid: vfs.SetSize, Size: n}, &a))
		if a.Size != n {
			t.Errorf("size %d, want %d", a.Size, n)
		}
	}
	size(6)
	if got := v.content(file); got != "012345" {
		t.Errorf("content %q", got)
	}
	size(20) // what was cut must not come back
	if got := v.content(file); got != "012345" {
		t.Errorf("content %q", got)
	}
	if at, err := v.s.Seek(bg, file, 0, 4); err != nil || at != 6 { // SEEK_HOLE
		t.Errorf("hole at %d, %v", at, err)
	}
	v.clean()
	size(0)
	if _, ok, err := v.s.Inline(bg, file); ok || err != nil {
		t.Errorf("inline content is still there: %v", err)
	}
	v.clean()
}

func TestCommitBase(t *testing.T) {
	v := newVolume(t, true, nil)
	_, key := secret()
	other, err := v.e.NewSession(bg, meta.SessionInfo{Host: "other"})
	v.ok(err)
	second, err := New(other, key, Options{})
	v.ok(err)
	defer second.Close()
	file := v.file(vfs.Root, "file", "abc")
	commit := func(s meta.Session, data string, base string, want error) {
		t.Helper()
		_, err := s.Commit(bg, nil, []meta.FileWrite{{Ino: file, SetInline: true, Inline: []byte(data),
			Base: &meta.FileBase{Size: uint64(len(base)), Inline: meta.InlineSum([]byte(base))}}})
		if !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%q on %q: %v, want %v", data, base, err, want)
		}
	}
	commit(second, "abcd", "abc", nil) // it has not read it
	commit(v.s, "lost", "abc", meta.ErrLayout)
	commit(v.s, "abcde", "abcd", nil)
	commit(second, "lost", "abcd", meta.ErrLayout)
	commit(second, "lost", "", meta.ErrLayout)
	var a vfs.Attr
	v.ok(second.SetAttr(bg, root, file, &vfs.SetAttr{Valid: vfs.SetSize, Size: 2}, &a))
	commit(second, "lost", "abcde", meta.ErrLayout)
	commit(second, "abX", "ab", nil)
	if got := v.content(file); got != "abX" {
		t.Errorf("content %q", got)
	}
}

// TestTampering changes records behind the engine's back.
func TestTampering(t *testing.T) {
	key := func(kind byte, ino vfs.Ino, rest string) []byte {
		b := append([]byte{kind}, 0, 0, 0, 0, 0, 0, 0, byte(ino))
		return append(b, rest...)
	}
	for _, test := range []struct {
		name string
		do   func(v *volume, w kv.Txn, a, b vfs.Ino) error
		try  func(v *volume, a, b vfs.Ino) error
	}{
		{"inline content exchanged", func(_ *volume, w kv.Txn, a, b vfs.Ino) error { return swap(w, key('d', a, ""), key('d', b, "")) },
			func(v *volume, a, _ vfs.Ino) error { _, _, err := v.s.Inline(bg, a); return err }},
		{"inline content changed", func(_ *volume, w kv.Txn, a, _ vfs.Ino) error { return flip(w, key('d', a, "")) },
			func(v *volume, a, _ vfs.Ino) error { _, _, err := v.s.Inline(bg, a); return err }},
		{"attributes exchanged", func(v *volume, w kv.Txn, a, b vfs.Ino) error {
			_, k := secret()
			return swap(w, key('x', a, "user."+k.Meta().XattrName(uint64(a), "x")), key('x', b, "user."+k.Meta().XattrName(uint64(b), "x")))
		}, func(v *volume, a, _ vfs.Ino) error { _, err := v.s.GetXattr(bg, root, a, "user.x"); return err }},
		{"attribute name moved", func(v *volume, w kv.Txn, a, b vfs.Ino) error {
			_, k := secret()
			from := key('x', a, "user."+k.Meta().XattrName(uint64(a), "x"))
			value, err := w.Get(from)
			w.Put(key('x', b, string(from[9:])), value)
			return err
		}, func(v *volume, _, b vfs.Ino) error { _, err := v.s.ListXattr(bg, root, b); return err }},
		{"link target changed", func(v *volume, w kv.Txn, _, _ vfs.Ino) error {
			return flip(w, key('l', v.lookup(vfs.Root, "link").Ino, ""))
		},
			func(v *volume, _, _ vfs.Ino) error {
				_, err := v.s.Readlink(bg, root, v.lookup(vfs.Root, "link").Ino)
				return err
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := newVolume(t, true, nil)
			a, b := v.file(vfs.Root, "a", "content of a"), v.file(vfs.Root, "b", "content of b")
			v.ok(v.s.SetXattr(bg, root, a, "user.x", []byte("of a"), 0))
			v.ok(v.s.SetXattr(bg, root, b, "user.x", []byte("of b"), 0))
			var attr vfs.Attr
			v.ok(v.s.Symlink(bg, root, vfs.Root, "link", "somewhere", &attr))
			if err := test.try(v, a, b); err != nil {
				t.Fatal(err)
			}
			v.change(func(w kv.Txn) error { return test.do(v, w, a, b) })
			err := test.try(v, a, b)
			wantErrno(t, "after it", err, syscall.EIO)
			if err != nil && !strings.Contains(err.Error(), "cannot be read") {
				t.Errorf("the error does not say so: %v", err)
			}
		})
	}
}

func swap(w kv.Txn, a, b []byte) error {
	x, err := w.Get(a)
	if err != nil {
		return err
	}
	x = bytes.Clone(x)
	y, err := w.Get(b)
	if err != nil {
		return err
	}
	y = bytes.Clone(y)
	w.Put(a, y)
	w.Put(b, x)
	return nil
}

func flip(w kv.Txn, key []byte) error {
	x, err := w.Get(key)
	if err != nil {
		return err
	}
	x = bytes.Clone(x)
	x[len(x)-1] ^= 1
	w.Put(key, x)
	return nil
}

// TestNamesOfOtherDirectories: a server that shows the names of one directory in
// another is found out.
func TestNamesOfOtherDirectories(t *testing.T) {
	v := newVolume(t, true, nil)
	one, two := v.mkdir(vfs.Root, "one"), v.mkdir(vfs.Root, "two")
	v.file(one, "in one", "1")
	var moved vfs.Attr
	_, key := secret()
	// The engine moves the name as it is, as if the key did not matter.
	stored := key.Meta().Name(uint64(one), "in one")
	v.ok(v.in.Rename(bg, root, one, stored, two, stored, 0, &moved))
	err := v.s.ReadDir(bg, root, two, 0, false, func(*vfs.DirEntry) bool { return true })
	wantErrno(t, "listing", err, syscall.EIO)
	if err == nil || !strings.Contains(err.Error(), "inode 4 in directory 3") {
		t.Errorf("the error does not name the inode: %v", err)
	}
	var a vfs.Attr
	wantErrno(t, "lookup", v.s.Lookup(bg, root, two, "in one", &a), syscall.ENOENT)
	// The client's rename gives it a new form.
	v.ok(v.in.Rename(bg, root, two, stored, one, stored, 0, &moved))
	v.ok(v.s.Rename(bg, root, one, "in one", two, "in two", 0, &moved))
	if got := v.list(v.s, two); !slices.Equal(got, []string{"in two"}) {
		t.Errorf("listing %q", got)
	}
}

func TestErrorsSpeakPlainly(t *testing.T) {
	v := newVolume(t, true, nil)
	v.file(vfs.Root, "file", "x")
	var a vfs.Attr
	for what, err := range map[string]error{
		"lookup": v.s.Lookup(bg, root, 999, "some name", &a),
		"mkdir":  v.s.Mkdir(bg, root, 999, "some name", 0o755, &a),
	} {
		if err == nil || len(err.Error()) > 40 && !strings.Contains(err.Error(), "some name") {
			t.Errorf("%s: %v", what, err)
		}
	}
	wantErrno(t, "a long name", v.s.Mkdir(bg, root, vfs.Root, strings.Repeat("x", 256), 0o755, &a), syscall.ENAMETOOLONG)
	wantErrno(t, "a long target", v.s.Symlink(bg, root, vfs.Root, "l", strings.Repeat("x", 4096), &a), syscall.ENAMETOOLONG)
	wantErrno(t, "no target", v.s.Symlink(bg, root, vfs.Root, "l", "", &a), syscall.ENOENT)
	wantErrno(t, "a long attribute name", v.s.SetXattr(bg, root, vfs.Root, "user."+strings.Repeat("x", 251), nil, 0), syscall.ERANGE)
	wantErrno(t, "a long value", v.s.SetXattr(bg, root, vfs.Root, "user.x", make([]byte, meta.MaxXattrValue+1), 0), syscall.E2BIG)
	wantErrno(t, "another name space", v.s.SetXattr(bg, root, vfs.Root, "system.x", nil, 0), syscall.EOPNOTSUPP)
	v.ok(v.s.Mkdir(bg, root, vfs.Root, strings.Repeat("x", 255), 0o755, &a))
	v.ok(v.s.Symlink(bg, root, vfs.Root, "l", strings.Repeat("x", 4095), &a))
	if a.Size != 4095 {
		t.Errorf("a link has the size %d", a.Size)
	}
	v.ok(v.s.SetXattr(bg, root, vfs.Root, "user."+strings.Repeat("x", 250), make([]byte, meta.MaxXattrValue), 0))
	v.clean()
}

func TestFeedTellsPlainNames(t *testing.T) {
	v := newVolume(t, true, nil)
	var got []string
	stop := v.s.Watch(func(c vfs.Change) {
		if c.Kind == vfs.ChangeEntry {
			got = append(got, c.Name)
		}
		if c.Kind == vfs.ChangeAll {
			got = append(got, "(all)")
		}
	})
	var a vfs.Attr
	v.ok(v.s.Mkdir(bg, root, vfs.Root, "new", 0o755, &a))
	_, key := secret()
	v.ok(v.in.Mkdir(bg, root, a.Ino, key.Meta().Name(uint64(vfs.Root), "strange"), 0o755, &a))
	stop()
	if !slices.Equal(got, []string{"new", "(all)"}) {
		t.Errorf("told %q", got)
	}
}

// leased is a session that says that it holds leases.
type leased struct {
	meta.Session
	fn func(meta.Recall)
}

func (l *leased) Leased(vfs.Ino) meta.Leases    { return meta.LeaseNames }
func (l *leased) OnRecall(fn func(meta.Recall)) { l.fn = fn }

func TestLeases(t *testing.T) {
	v := newVolume(t, true, nil)
	_, key := secret()
	without, err := New(struct{ meta.Session }{v.in}, key, Options{})
	v.ok(err)
	if _, ok := without.(meta.LeasedSession); ok {
		t.Error("a session over one without leases has leases")
	}
	in := &leased{Session: v.in}
	s, err := New(in, key, Options{Root: 77})
	v.ok(err)
	l := s.(meta.LeasedSession)
	var got []meta.Recall
	l.OnRecall(func(r meta.Recall) { got = append(got, r) })
	in.fn(meta.Recall{Kind: meta.LeaseNames, Ino: 5, Name: key.Meta().Name(5, "name")})
	in.fn(meta.Recall{Kind: meta.LeaseNames, Ino: vfs.Root, Name: key.Meta().Name(77, "in root")})
	in.fn(meta.Recall{Kind: meta.LeaseNames, Ino: 5, Name: "strange"})
	in.fn(meta.Recall{Kind: meta.LeaseData, Ino: 5, Off: 1, Len: 2})
	if len(got) != 4 || got[0].Name != "name" || got[1].Name != "in root" || got[2].Name != "" || got[3].Len != 2 || l.Leased(1) != meta.LeaseNames {
		t.Errorf("told %+v", got)
	}
}

// TestRootOfSubtree: where a directory is called root, names are bound to its own
// number.
func TestRootOfSubtree(t *testing.T) {
	v := newVolume(t, true, nil)
	dir := v.mkdir(vfs.Root, "dir")
	v.file(dir, "file", "x")
	_, key := secret()
	for _, o := range []Options{{Root: dir}, {}} {
		s, err := New(&subtree{v.in, dir}, key, o)
		v.ok(err)
		if got := v.list(s, vfs.Root); !slices.Equal(got, []string{"file"}) {
			t.Errorf("listing %q", got)
		}
	}
}

// subtree shows a directory as the root.
type subtree struct {
	meta.Session
	root vfs.Ino
}

func (s *subtree) Root() vfs.Ino { return s.root }

func (s *subtree) ReadDir(ctx context.Context, c *vfs.Caller, ino vfs.Ino, cookie uint64, plus bool, emit func(*vfs.DirEntry) bool) error {
	if ino == vfs.Root {
		ino = s.root
	}
	return s.Session.ReadDir(ctx, c, ino, cookie, plus, emit)
}
