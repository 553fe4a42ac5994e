package meta

import (
	"strings"
	"syscall"

	"pgregory.net/rapid"

	"github.com/massif-fs/massif/vfs"
)

// Calls on names

func (s *simulation) create(kind uint32) {
	c := simCaller
	c.Umask = rapid.SampledFrom([]uint32{0, 0o22}).Draw(s.T, "umask")
	parent, name := s.dir(), s.name()
	perm := rapid.SampledFrom([]uint32{0o644, 0o755, 0o2755, 0o4711, 0o1777}).Draw(s.T, "mode")
	target := rapid.SampledFrom([]string{"t", "/x/y", "", strings.Repeat("t", 4095), strings.Repeat("t", 4096)}).Draw(s.T, "target")
	var rdev uint32
	now := s.tick()
	var a vfs.Attr
	var err error
	errnos := []syscall.Errno{badName(name)}
	switch kind {
	case syscall.S_IFDIR:
		err = s.any().Mkdir(bg, &c, parent, name, perm, &a)
	case syscall.S_IFLNK:
		perm, c.Umask = 0o777, 0
		err = s.any().Symlink(bg, &c, parent, name, target, &a)
		switch {
		case len(target) > vfs.MaxSymlink:
			errnos = append(errnos, syscall.ENAMETOOLONG)
		case target == "":
			errnos = append(errnos, syscall.ENOENT)
		}
	default:
		if kind == syscall.S_IFCHR || kind == syscall.S_IFBLK {
			rdev = 0x305
		}
		err = s.any().Mknod(bg, &c, parent, name, kind|perm, 0x305, &a)
	}
	d, errno := s.w.dir(parent)
	errnos = append(errnos, errno)
	if d != nil {
		if _, exists := d.names[name]; exists {
			errnos = append(errnos, syscall.EEXIST)
		}
	}
	if !s.expect(err, errnos...) {
		return
	}
	x := s.w.add(a.Ino, kind|perm&^c.Umask, now)
	x.uid, x.gid, x.rdev = c.UID, c.GID, rdev
	if d.mode&syscall.S_ISGID != 0 {
		x.gid = d.gid
		if x.isDir() {
			x.mode |= syscall.S_ISGID
		} else if x.mode&0o2010 == 0o2010 && c.GID != d.gid {
			x.mode &^= syscall.S_ISGID
		}
	}
	if kind == syscall.S_IFLNK {
		x.target, x.size = target, uint64(len(target))
	}
	d.put(name, x, now)
	s.same(&a, x)
	s.tock()
}

func badName(name string) syscall.Errno { return vfs.ErrnoOf(vfs.CheckName(name)) }

func (s *simulation) link() {
	ino, parent, name := s.ino(), s.dir(), s.name()
	now := s.tick()
	var a vfs.Attr
	err := s.any().Link(bg, &simCaller, ino, parent, name, &a)
	d, errno := s.w.dir(parent)
	errnos := []syscall.Errno{badName(name), errno}
	x := s.w.things[ino]
	switch {
	case x == nil:
		errnos = append(errnos, syscall.ESTALE)
	case x.isDir():
		errnos = append(errnos, syscall.EPERM)
	case s.w.linked(ino) == 0 && !x.linkable:
		errnos = append(errnos, syscall.ENOENT)
	}
	if d != nil && d.names[name] != 0 {
		errnos = append(errnos, syscall.EEXIST)
	}
	if s.expect(err, errnos...) {
		d.put(name, x, now)
		x.ctime, x.linkable = now, false
		s.same(&a, x)
		s.tock()
	}
}

// tmpfile makes a file without a name.
func (s *simulation) tmpfile() {
	i := rapid.IntRange(0, len(s.sessions)-1).Draw(s.T, "session")
	parent, linkable := s.dir(), rapid.IntRange(0, 3).Draw(s.T, "linkable") > 0
	now := s.tick()
	var a vfs.Attr
	err := s.sessions[i].Tmpfile(bg, root, parent, 0o600, linkable, &a)
	d, errno := s.w.dir(parent)
	if !s.expect(err, errno) {
		return
	}
	x := s.w.add(a.Ino, syscall.S_IFREG|0o600, now)
	x.opens[i], x.linkable = 1, linkable
	if d.mode&syscall.S_ISGID != 0 {
		x.gid = d.gid
	}
	s.same(&a, x)
	s.tock()
}

func (s *simulation) remove(rmdir bool) {
	parent, name := s.dir(), s.name()
	now := s.tick()
	var a vfs.Attr
	var err error
	if rmdir {
		err = s.any().Rmdir(bg, &simCaller, parent, name)
	} else {
		err = s.any().Unlink(bg, &simCaller, parent, name, &a)
	}
	d, errno := s.w.dir(parent)
	errnos := []syscall.Errno{badName(name), errno}
	var x *thing
	if d != nil {
		x = s.w.things[d.names[name]]
		switch {
		case x == nil:
			errnos = append(errnos, syscall.ENOENT)
		case rmdir && !x.isDir():
			errnos = append(errnos, syscall.ENOTDIR)
		case rmdir && len(x.names) > 0:
			errnos = append(errnos, syscall.ENOTEMPTY)
		case !rmdir && x.isDir():
			errnos = append(errnos, syscall.EISDIR)
		}
	}
	if s.expect(err, errnos...) {
		d.put(name, nil, now)
		x.ctime = now
		if !rmdir && (a.Nlink != s.w.nlink(x) || a.Ino != x.ino) {
			s.Fatalf("unlink gives %+v", a)
		}
		s.tock()
	}
}

func (s *simulation) rename() {
	from, oldName, to, newName := s.dir(), s.name(), s.dir(), s.name()
	flags := rapid.SampledFrom([]uint32{0, 0, 0, vfs.RenameNoReplace, vfs.RenameExchange, 3, 8}).Draw(s.T, "flags")
	now := s.tick()
	var a vfs.Attr
	err := s.any().Rename(bg, &simCaller, from, oldName, to, newName, flags, &a)
	exchange := flags == vfs.RenameExchange
	var errnos []syscall.Errno
	bad := func(is bool, errno syscall.Errno) {
		if is {
			errnos = append(errnos, errno)
		}
	}
	bad(flags > vfs.RenameExchange, syscall.EINVAL)
	d1, errno1 := s.w.dir(from)
	d2, errno2 := s.w.dir(to)
	errnos = append(errnos, badName(oldName), badName(newName), errno1, errno2)
	var x, y *thing
	if d1 != nil && d2 != nil {
		x, y = s.w.things[d1.names[oldName]], s.w.things[d2.names[newName]]
		bad(x == nil, syscall.ENOENT)
		bad(y != nil && flags == vfs.RenameNoReplace, syscall.EEXIST)
		bad(y == nil && exchange, syscall.ENOENT)
	}
	if x != nil && x != y {
		bad(x.isDir() && s.w.below(to, x.ino), syscall.EINVAL)
		bad(exchange && y != nil && y.isDir() && s.w.below(from, y.ino), syscall.EINVAL)
		if y != nil && !exchange {
			bad(x.isDir() && !y.isDir(), syscall.ENOTDIR)
			bad(!x.isDir() && y.isDir(), syscall.EISDIR)
			bad(x.isDir() && len(y.names) > 0, syscall.ENOTEMPTY)
		}
	}
	if !s.expect(err, errnos...) || x == y {
		if err == nil && a.Ino != 0 {
			s.Fatalf("rename onto itself replaced %+v", a)
		}
		return
	}
	d1.put(oldName, nil, now)
	d2.put(newName, x, now)
	x.ctime = now
	if y != nil {
		y.ctime = now
	}
	switch {
	case exchange:
		d1.put(oldName, y, now)
	case y == nil && a.Ino != 0, y != nil && (a.Ino != y.ino || a.Nlink != s.w.nlink(y)):
		s.Fatalf("rename replaced %+v, should be %+v", a, y)
	}
	s.tock()
}

// Calls on attributes

func (s *simulation) setAttr() {
	ino := s.ino()
	all := []vfs.SetMask{vfs.SetMode, vfs.SetUID, vfs.SetGID, vfs.SetSize, vfs.SetAtime, vfs.SetMtime, vfs.SetCtime, vfs.SetAtimeNow, vfs.SetMtimeNow, vfs.SetKillSUIDGID}
	set := &vfs.SetAttr{
		Valid: rapid.SampledFrom(all).Draw(s.T, "set") | rapid.SampledFrom(all).Draw(s.T, "and"),
		Mode:  rapid.Uint32Range(0, 0o7777).Draw(s.T, "mode"), UID: rapid.Uint32Range(0, 3).Draw(s.T, "uid"), GID: rapid.Uint32Range(0, 3).Draw(s.T, "gid"),
		Size:  s.offset("size"),
		Atime: vfs.Time{Sec: -5, Nsec: 7}, Mtime: vfs.Time{Sec: 1 << 33, Nsec: 999_999_999}, Ctime: vfs.Time{Sec: 12345},
	}
	now := s.tick()
	var a vfs.Attr
	err := s.any().SetAttr(bg, &simCaller, ino, set, &a)
	x := s.w.things[ino]
	var errnos []syscall.Errno
	switch {
	case x == nil:
		errnos = append(errnos, syscall.ESTALE)
	case set.Has(vfs.SetSize) && x.isDir():
		errnos = append(errnos, syscall.EISDIR)
	case set.Has(vfs.SetSize) && !x.isRegular():
		errnos = append(errnos, syscall.EINVAL)
	}
	if !s.expect(err, errnos...) {
		return
	}
	if set.Has(vfs.SetMode) {
		x.mode = x.kind() | set.Mode
	}
	if set.Has(vfs.SetUID) {
		x.uid = set.UID
	}
	if set.Has(vfs.SetGID) {
		x.gid = set.GID
	}
	if set.Has(vfs.SetKillSUIDGID) && !x.isDir() {
		x.mode &^= syscall.S_ISUID
		if x.mode&0o010 != 0 {
			x.mode &^= syscall.S_ISGID
		}
	}
	if set.Has(vfs.SetSize) {
		x.truncate(set.Size)
		x.mtime = now
	}
	if set.Has(vfs.SetAtime) {
		x.atime = set.Atime
	}
	if set.Has(vfs.SetMtime) {
		x.mtime = set.Mtime
	}
	if set.Has(vfs.SetAtimeNow) {
		x.atime = now
	}
	if set.Has(vfs.SetMtimeNow) {
		x.mtime = now
	}
	if x.ctime = now; set.Has(vfs.SetCtime) {
		x.ctime = set.Ctime
	}
	if set.Valid == vfs.SetKillSUIDGID { // whether that alone is a change of status is open
		x.ctime = a.Ctime
	}
	s.same(&a, x)
	s.tock()
}

func (s *simulation) touch() {
	ino := s.ino()
	now := s.tick()
	err := s.any().Touch(bg, ino)
	x := s.w.things[ino]
	if x == nil {
		s.expect(err, syscall.ESTALE)
		return
	}
	s.expect(err)
	if !x.mtime.Before(x.atime) || !x.ctime.Before(x.atime) || now.Sec-x.atime.Sec >= 86400 {
		x.atime = now
	}
	s.tock()
}

func (s *simulation) xattr() {
	ino := s.ino()
	name := rapid.SampledFrom([]string{"user.a", "user.b", "trusted.c", "security.capability", "system.other", "plain"}).Draw(s.T, "name")
	value := rapid.SampledFrom([]string{"", "v", strings.Repeat("w", 5000), strings.Repeat("w", 65537)}).Draw(s.T, "value")
	flags := rapid.SampledFrom([]uint32{0, 0, vfs.XattrCreate, vfs.XattrReplace}).Draw(s.T, "flags")
	remove := rapid.Bool().Draw(s.T, "remove")
	now := s.tick()
	var err error
	if remove {
		err = s.any().RemoveXattr(bg, &simCaller, ino, name)
	} else {
		err = s.any().SetXattr(bg, &simCaller, ino, name, []byte(value), flags)
	}
	var errnos []syscall.Errno
	if name == "plain" || name == "system.other" {
		errnos = append(errnos, syscall.EOPNOTSUPP)
	}
	x := s.w.things[ino]
	if x == nil {
		errnos = append(errnos, syscall.ESTALE)
	} else {
		_, have := x.xattrs[name]
		switch {
		case remove && !have, !remove && !have && flags == vfs.XattrReplace:
			errnos = append(errnos, syscall.ENODATA)
		case !remove && have && flags == vfs.XattrCreate:
			errnos = append(errnos, syscall.EEXIST)
		}
	}
	if !remove && len(value) > MaxXattrValue {
		errnos = append(errnos, syscall.E2BIG)
	}
	if s.expect(err, errnos...) {
		if delete(x.xattrs, name); !remove {
			x.xattrs[name] = value
		}
		x.ctime = now
		s.tock()
	}
}

// Uses

func (s *simulation) use() {
	i := rapid.IntRange(0, len(s.sessions)-1).Draw(s.T, "session")
	x := s.w.things[s.ino()]
	if x == nil {
		return
	}
	s.tick()
	if x.opens[i] > 0 && rapid.Bool().Draw(s.T, "release") {
		n := rapid.IntRange(1, x.opens[i]).Draw(s.T, "uses")
		s.sessions[i].Release(x.ino, n)
		if x.opens[i] -= n; x.opens[i] == 0 {
			delete(x.opens, i)
		}
	} else {
		s.sessions[i].Open(x.ino)
		x.opens[i]++
	}
	s.tock()
}

func (s *simulation) endSession() {
	i := rapid.IntRange(0, len(s.sessions)-1).Draw(s.T, "session")
	s.tick()
	s.expect(s.sessions[i].Close())
	s.sessions[i] = s.session()
	for _, x := range s.w.things {
		delete(x.opens, i)
	}
	s.tock()
}
