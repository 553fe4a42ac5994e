package metarpc

import (
	"strings"
	"testing"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/meta/sealed"
	"github.com/massif-fs/massif/seal"
	"github.com/massif-fs/massif/vfs"
)

// TestEncryptedVolume: two clients with the key, one of them confined to a directory,
// see the same; the greatest of everything fits through the protocol.
func TestEncryptedVolume(t *testing.T) {
	record, key, _, err := seal.Create(seal.Passphrase("correct horse battery"))
	if err != nil {
		t.Fatal(err)
	}
	g := newGated(t, func(f *meta.Format) { f.Seal = record })
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	open := func(grant *Grant) meta.Session {
		t.Helper()
		c, _ := g.mount(grant)
		s, err := sealed.New(c, key, sealed.Options{})
		ok(err)
		return s
	}
	ctx, root := t.Context(), &vfs.Caller{}
	all := open(&Grant{})
	var dir, a vfs.Attr
	ok(all.Mkdir(ctx, root, vfs.Root, "dir", 0o755, &dir))
	name, target := strings.Repeat("n", vfs.MaxName), strings.Repeat("t", vfs.MaxSymlink)
	attr, value := "user."+strings.Repeat("a", 250), make([]byte, meta.MaxXattrValue)
	inline := make([]byte, meta.MaxInlineLimit)

	in := open(&Grant{Root: dir.Ino})
	ok(in.Mknod(ctx, root, vfs.Root, name, 0o644, 0, &a))
	file := a.Ino
	ok(in.SetXattr(ctx, root, file, attr, value, 0))
	ok(in.SetXattr(ctx, root, vfs.Root, "user.of the root", []byte("x"), 0))
	_, err = in.Commit(ctx, nil, []meta.FileWrite{{Ino: file, SetInline: true, Inline: inline}})
	ok(err)
	ok(in.Symlink(ctx, root, vfs.Root, "link", target, &a))

	look := func(s meta.Session, dir vfs.Ino) {
		t.Helper()
		var names []string
		ok(s.ReadDir(ctx, root, dir, 0, true, func(e *vfs.DirEntry) bool {
			names = append(names, strings.Clone(e.Name))
			return true
		}))
		if len(names) != 2 || names[0] != name || names[1] != "link" {
			t.Errorf("listing %q", names)
		}
		ok(s.Lookup(ctx, root, dir, name, &a))
		if a.Ino != file || a.Size != uint64(len(inline)) {
			t.Errorf("file %+v", a)
		}
		data, _, err := s.Inline(ctx, file)
		ok(err)
		got, err := s.GetXattr(ctx, root, file, attr)
		ok(err)
		if len(data) != len(inline) || len(got) != len(value) {
			t.Errorf("%d bytes of content, %d of the attribute", len(data), len(got))
		}
		list, err := s.ListXattr(ctx, root, dir)
		ok(err)
		if len(list) != 1 || list[0] != "user.of the root" {
			t.Errorf("attributes %q", list)
		}
		ok(s.Lookup(ctx, root, dir, "link", &a))
		if got, err := s.Readlink(ctx, root, a.Ino); got != target || err != nil || a.Size != uint64(len(target)) {
			t.Errorf("target of %d bytes, %v, size %d", len(got), err, a.Size)
		}
	}
	look(in, vfs.Root)
	look(all, dir.Ino)
}
