package meta

import (
	"fmt"
	"maps"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/vfs"
)

// Comparing

func (s *simulation) same(a *vfs.Attr, x *thing) {
	if want := s.w.attr(x); *a != want {
		s.Fatalf("attributes\n%+v, should be\n%+v", *a, want)
	}
}

func (s *simulation) check() {
	for i, sess := range s.sessions {
		if i > 0 && len(s.moments)%4 != 0 {
			break
		}
		if diff := s.w.differs(sess); diff != "" {
			s.Fatal(diff)
		}
	}
	s.invariants()
}

// differs compares everything that a session shows with the world, and says what
// is different.
func (w *world) differs(s Session) string {
	for ino, x := range w.things {
		if diff := w.thingDiffers(s, x); diff != "" {
			return fmt.Sprintf("inode %d: %s", ino, diff)
		}
	}
	return ""
}

func (w *world) thingDiffers(s Session, x *thing) string {
	var a vfs.Attr
	if err := s.GetAttr(bg, root, x.ino, &a); err != nil {
		return err.Error()
	}
	if want := w.attr(x); a != want {
		return fmt.Sprintf("attributes\n%+v, should be\n%+v", a, want)
	}
	names, err := s.ListXattr(bg, root, x.ino)
	if err != nil || len(names) != len(x.xattrs) {
		return fmt.Sprintf("has attributes %q, should be %q (%v)", names, x.xattrs, err)
	}
	for name, value := range x.xattrs {
		if have, err := s.GetXattr(bg, root, x.ino, name); err != nil || string(have) != value {
			return fmt.Sprintf("attribute %s is %q, should be %q (%v)", name, have, value, err)
		}
	}
	switch x.kind() {
	case syscall.S_IFDIR:
		return w.dirDiffers(s, x)
	case syscall.S_IFLNK:
		if target, err := s.Readlink(bg, root, x.ino); err != nil || target != x.target {
			return fmt.Sprintf("target is %q, should be %q (%v)", target, x.target, err)
		}
	case syscall.S_IFREG:
		return w.dataDiffers(s, x)
	}
	return ""
}

func (w *world) dirDiffers(s Session, x *thing) string {
	var a vfs.Attr
	parent := w.parent(x.ino)
	if err := s.Lookup(bg, root, x.ino, "..", &a); parent == 0 && vfs.ErrnoOf(err) != syscall.ENOENT || parent != 0 && (err != nil || a.Ino != parent) {
		return fmt.Sprintf("parent is %d, should be %d (%v)", a.Ino, parent, err)
	}
	if err := s.Lookup(bg, root, x.ino, "nothing", &a); vfs.ErrnoOf(err) != syscall.ENOENT {
		return fmt.Sprintf("a name that is not there: %v", err)
	}
	got := map[string]vfs.Ino{}
	diff := ""
	cookie := uint64(0)
	for more, step := true, 1; more; step = step*2 + 1 {
		more = false
		n := 0
		err := s.ReadDir(bg, root, x.ino, cookie, step%4 == 3, func(d *vfs.DirEntry) bool {
			if n++; n > step {
				more = true
				return false
			}
			if d.Cookie <= max(cookie, 2) || d.Cookie >= 1<<63 {
				diff = fmt.Sprintf("cookie %d behind %d", d.Cookie, cookie)
			}
			if _, twice := got[d.Name]; twice {
				diff = fmt.Sprintf("%q is listed twice", d.Name)
			}
			cookie = d.Cookie
			got[d.Name] = d.Ino
			y := w.things[d.Ino]
			if y == nil || y.kind() != d.Mode || d.HasAttr && d.Attr != w.attr(y) {
				diff = fmt.Sprintf("entry %+v, should be %+v", d, y)
			}
			return true
		})
		if err != nil {
			return err.Error()
		}
	}
	if diff != "" || !maps.Equal(got, x.names) {
		return fmt.Sprintf("lists %v, should be %v %s", got, x.names, diff)
	}
	for name, ino := range x.names {
		if err := s.Lookup(bg, root, x.ino, name, &a); err != nil || a != w.attr(w.things[ino]) {
			return fmt.Sprintf("name %q is\n%+v, should be\n%+v (%v)", name, a, w.attr(w.things[ino]), err)
		}
	}
	return ""
}

func (w *world) dataDiffers(s Session, x *thing) string {
	data, ok, err := s.Inline(bg, x.ino)
	if err != nil || ok != (len(x.inline) > 0) || string(data) != string(x.inline) {
		return fmt.Sprintf("inline content of %d bytes, should be %d (%v)", len(data), len(x.inline), err)
	}
	chunks := x.chunks(w.chunk)
	for _, index := range []uint32{0, 1, 2, 3, 4, 5, 6, 1 << 20, 1<<20 + 1, 1 << 22, 1<<22 - 1, 1<<22 + 1} {
		have, err := s.Extents(bg, x.ino, index, nil)
		if err != nil || !slices.Equal(joinAll(have), chunks[index]) {
			return fmt.Sprintf("chunk %d is\n%+v, should be\n%+v (%v)", index, have, chunks[index], err)
		}
	}
	for _, off := range []uint64{0, 1, 511, 512, 4096, w.chunk, x.size - min(1, x.size), x.size} {
		for whence, hole := range map[int]bool{unix.SEEK_DATA: false, unix.SEEK_HOLE: true} {
			want, ok := x.seek(off, hole)
			at, err := s.Seek(bg, x.ino, int64(off), whence)
			if ok != (err == nil) || ok && uint64(at) != want || !ok && vfs.ErrnoOf(err) != syscall.ENXIO {
				return fmt.Sprintf("seek from %d with whence %d finds %d, should be %d, %v (%v)", off, whence, at, want, ok, err)
			}
		}
	}
	return ""
}

func (s *simulation) invariants() {
	if _, err := s.e.Check(bg, func(p Problem) { s.Errorf("%v", p) }); err != nil {
		s.Fatal(err)
	}
	if s.Failed() {
		s.FailNow()
	}
}
