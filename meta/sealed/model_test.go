package sealed

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// TestLikePlain makes random calls on a sealed session and on one of a volume that
// is not encrypted: results, errors and everything that can be seen must be the same.
func TestLikePlain(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		p := &pair{T: r, t: t, plain: newVolume(t, false, nil), sealed: newVolume(t, true, nil), inodes: []vfs.Ino{vfs.Root}}
		p.Repeat(map[string]func(*rapid.T){
			"":        p.check,
			"mknod":   p.mknod,
			"mkdir":   p.mkdir,
			"symlink": p.symlink,
			"link":    p.link,
			"unlink":  p.unlink,
			"rmdir":   p.rmdir,
			"rename":  p.rename,
			"write":   p.write,
			"cut":     p.cut,
			"lookup":  p.lookup,
			"xattr":   p.xattr,
			"clone":   p.clone,
		})
		p.plain.close()
		p.sealed.clean()
		p.sealed.close()
	})
}

type pair struct {
	*rapid.T
	t             *testing.T
	plain, sealed *volume
	inodes        []vfs.Ino
}

// both makes a call on both and compares the errors.
func (p *pair) both(what string, call func(s meta.Session, out *vfs.Attr) error) {
	var a, b vfs.Attr
	errA, errB := call(p.plain.s, &a), call(p.sealed.s, &b)
	if vfs.ErrnoOf(errA) != vfs.ErrnoOf(errB) {
		p.Fatalf("%s: %v on the plain volume, %v on the sealed one", what, errA, errB)
	}
	if errA != nil {
		return
	}
	if timeless(a) != timeless(b) {
		p.Fatalf("%s: %+v on the plain volume, %+v on the sealed one", what, a, b)
	}
	if a.Ino != 0 && !slices.Contains(p.inodes, a.Ino) {
		p.inodes = append(p.inodes, a.Ino)
	}
}

func timeless(a vfs.Attr) vfs.Attr {
	a.Atime, a.Mtime, a.Ctime, a.Btime = vfs.Time{}, vfs.Time{}, vfs.Time{}, vfs.Time{}
	return a
}

func (p *pair) ino(r *rapid.T) vfs.Ino { return rapid.SampledFrom(p.inodes).Draw(r, "inode") }

var modelNames = []string{"a", "b", "c", "..", ".", "", "x/y", "caf\u00e9", "\xff\xfe", strings.Repeat("l", 255), strings.Repeat("l", 256),
	strings.Repeat("A", 43), "sixteen bytes..."}

func (p *pair) name(r *rapid.T) string {
	if rapid.Bool().Draw(r, "usual") {
		return rapid.SampledFrom(modelNames[:3]).Draw(r, "name")
	}
	return rapid.SampledFrom(modelNames).Draw(r, "name")
}

func (p *pair) mknod(r *rapid.T) {
	dir, name := p.ino(r), p.name(r)
	p.both("mknod", func(s meta.Session, out *vfs.Attr) error { return s.Mknod(bg, root, dir, name, 0o644, 0, out) })
}

func (p *pair) mkdir(r *rapid.T) {
	dir, name := p.ino(r), p.name(r)
	p.both("mkdir", func(s meta.Session, out *vfs.Attr) error { return s.Mkdir(bg, root, dir, name, 0o755, out) })
}

func (p *pair) symlink(r *rapid.T) {
	dir, name := p.ino(r), p.name(r)
	target := rapid.SampledFrom([]string{"", "t", "/some/where", strings.Repeat("t", 4095), strings.Repeat("t", 4096)}).Draw(r, "target")
	p.both("symlink", func(s meta.Session, out *vfs.Attr) error { return s.Symlink(bg, root, dir, name, target, out) })
}

func (p *pair) link(r *rapid.T) {
	ino, dir, name := p.ino(r), p.ino(r), p.name(r)
	p.both("link", func(s meta.Session, out *vfs.Attr) error { return s.Link(bg, root, ino, dir, name, out) })
}

func (p *pair) unlink(r *rapid.T) {
	dir, name := p.ino(r), p.name(r)
	p.both("unlink", func(s meta.Session, out *vfs.Attr) error { return s.Unlink(bg, root, dir, name, out) })
}

func (p *pair) rmdir(r *rapid.T) {
	dir, name := p.ino(r), p.name(r)
	p.both("rmdir", func(s meta.Session, _ *vfs.Attr) error { return s.Rmdir(bg, root, dir, name) })
}

func (p *pair) rename(r *rapid.T) {
	from, old, to, name := p.ino(r), p.name(r), p.ino(r), p.name(r)
	flags := rapid.SampledFrom([]uint32{0, vfs.RenameNoReplace, vfs.RenameExchange, 8}).Draw(r, "flags")
	p.both("rename", func(s meta.Session, out *vfs.Attr) error { return s.Rename(bg, root, from, old, to, name, flags, out) })
}

func (p *pair) lookup(r *rapid.T) {
	dir, name := p.ino(r), p.name(r)
	p.both("lookup", func(s meta.Session, out *vfs.Attr) error { return s.Lookup(bg, root, dir, name, out) })
}

func (p *pair) write(r *rapid.T) {
	ino, n := p.ino(r), rapid.SampledFrom([]int{0, 1, 100, meta.MaxInlineLimit, meta.MaxInlineLimit + 1}).Draw(r, "length")
	data := bytes.Repeat([]byte{rapid.Byte().Draw(r, "byte")}, n)
	size := uint64(rapid.IntRange(0, 200).Draw(r, "size"))
	p.both("commit", func(s meta.Session, _ *vfs.Attr) error {
		_, err := s.Commit(bg, nil, []meta.FileWrite{{Ino: ino, SetInline: true, Inline: data, Size: size}})
		return err
	})
}

func (p *pair) cut(r *rapid.T) {
	ino, size := p.ino(r), uint64(rapid.IntRange(0, 150).Draw(r, "size"))
	p.both("truncate", func(s meta.Session, out *vfs.Attr) error {
		return s.SetAttr(bg, root, ino, &vfs.SetAttr{Valid: vfs.SetSize, Size: size}, out)
	})
}

func (p *pair) xattr(r *rapid.T) {
	ino := p.ino(r)
	name := rapid.SampledFrom([]string{"user.a", "user.b", "trusted.c", "user.", "system.d", "", "user." + strings.Repeat("n", 250), "user." + strings.Repeat("n", 251),
		vfs.XattrACLAccess}).Draw(r, "attribute")
	value := rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(r, "value")
	flags := rapid.SampledFrom([]uint32{0, vfs.XattrCreate, vfs.XattrReplace, 7}).Draw(r, "flags")
	switch rapid.IntRange(0, 2).Draw(r, "op") {
	case 0:
		p.both("remove xattr", func(s meta.Session, _ *vfs.Attr) error { return s.RemoveXattr(bg, root, ino, name) })
	default:
		p.both("set xattr", func(s meta.Session, _ *vfs.Attr) error { return s.SetXattr(bg, root, ino, name, value, flags) })
	}
}

func (p *pair) clone(r *rapid.T) {
	src, dir, name := p.ino(r), p.ino(r), p.name(r)
	a, errA := p.plain.e.Clone(bg, root, src, dir, name, nil)
	b, errB := p.sealed.e.Clone(bg, root, src, dir, name, nil)
	if vfs.ErrnoOf(errA) != vfs.ErrnoOf(errB) || errA == nil && a != b {
		p.Fatalf("clone: %+v, %v on the plain volume, %+v, %v on the sealed one", a, errA, b, errB)
	}
	if errA == nil {
		p.inodes = append(p.inodes, a.Ino)
	}
}

// check compares all that can be seen.
func (p *pair) check(*rapid.T) {
	if a, b := look(p.plain.s, p.inodes), look(p.sealed.s, p.inodes); a != b {
		p.Fatalf("the plain volume shows\n%s\nthe sealed one\n%s", a, b)
	}
}

func look(s meta.Session, inodes []vfs.Ino) string {
	var b strings.Builder
	for _, ino := range inodes {
		var a vfs.Attr
		if err := s.GetAttr(bg, root, ino, &a); err != nil {
			fmt.Fprintf(&b, "%d: %v\n", ino, vfs.ErrnoOf(err))
			continue
		}
		fmt.Fprintf(&b, "%d: %+v\n", ino, timeless(a))
		names, err := s.ListXattr(bg, root, ino)
		slices.Sort(names)
		fmt.Fprintf(&b, "  attributes %q %v\n", names, err)
		for _, name := range names {
			value, err := s.GetXattr(bg, root, ino, name)
			fmt.Fprintf(&b, "  %s %q %v\n", name, value, err)
		}
		switch {
		case a.IsDir():
			err = s.ReadDir(bg, root, ino, 0, true, func(e *vfs.DirEntry) bool {
				fmt.Fprintf(&b, "  %q %d %o %d %t %+v\n", e.Name, e.Ino, e.Mode, e.Cookie, e.HasAttr, timeless(e.Attr))
				return true
			})
			fmt.Fprintf(&b, "  %v\n", err)
		case a.IsRegular():
			data, ok, err := s.Inline(bg, ino)
			hole, errHole := s.Seek(bg, ino, 0, 4)
			fmt.Fprintf(&b, "  %d %q %t %v hole %d %v\n", len(data), data[:min(len(data), 200)], ok, err, hole, errHole)
		case a.Mode&syscall.S_IFMT == syscall.S_IFLNK:
			target, err := s.Readlink(bg, root, ino)
			fmt.Fprintf(&b, "  -> %q %v\n", target, err)
		}
	}
	return b.String()
}

func BenchmarkLookup(b *testing.B) {
	for _, encrypted := range []bool{false, true} {
		b.Run(fmt.Sprintf("encrypted=%t", encrypted), func(b *testing.B) {
			v := newVolume(b, encrypted, nil)
			defer v.close()
			v.file(vfs.Root, "IMG_20260131_120000.jpg", "x")
			var a vfs.Attr
			b.ReportAllocs()
			for b.Loop() {
				if err := v.s.Lookup(bg, root, vfs.Root, "IMG_20260131_120000.jpg", &a); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReadDir(b *testing.B) {
	for _, encrypted := range []bool{false, true} {
		b.Run(fmt.Sprintf("encrypted=%t", encrypted), func(b *testing.B) {
			v := newVolume(b, encrypted, nil)
			defer v.close()
			for i := range 1000 {
				v.file(vfs.Root, fmt.Sprintf("IMG_20260131_%06d.jpg", i), "x")
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := v.s.ReadDir(bg, root, vfs.Root, 0, true, func(*vfs.DirEntry) bool { return true }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// FuzzStored gives the session what a database might hold instead of sealed things.
func FuzzStored(f *testing.F) {
	_, key := secret()
	keys := key.Meta()
	f.Add(sealInline(keys, 2, []byte("content")))
	f.Add([]byte("plain"))
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, stored []byte) {
		if data, err := openInline(keys, 2, stored); err == nil {
			if keep, _, err := meta.SplitInline(stored); err != nil || keep != len(data) || keep == 0 {
				t.Fatalf("%d bytes of %d hold, %v", len(data), keep, err)
			}
		}
		if name, err := openXattrName(keys, 2, string(stored)); err == nil && name == string(stored) && !isACL(name) {
			t.Fatalf("%q was taken for a sealed name", name)
		}
		k := keyholder{keys}
		k.MoveInline(2, 3, stored)
		k.MoveXattr(2, 3, string(stored), stored)
	})
}
