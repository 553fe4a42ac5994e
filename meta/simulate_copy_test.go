package meta

import (
	"bytes"
	"maps"
	"slices"
	"syscall"
	"time"

	"pgregory.net/rapid"

	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/vfs"
)

// clone copies something that is, or restores something that was.
func (s *simulation) clone() {
	c := &simCaller
	if rapid.Bool().Draw(s.T, "as root") {
		c = root
	}
	src, parent, name := s.ino(), s.dir(), s.name()
	now := s.tick()
	stats, err := s.e.Clone(bg, c, src, parent, name, nil)
	if s.expect(err, s.cannotCopy(s.w, src, parent, name)...) {
		if c == root {
			c = nil
		}
		s.copied(s.w, src, parent, name, stats, func(x, from *thing) {
			x.ctime, x.btime = now, now
			if c == nil {
				return
			}
			if !x.isDir() || x.gid != c.GID {
				x.mode &^= syscall.S_ISUID | syscall.S_ISGID
			}
			x.uid, x.gid = c.UID, c.GID
			maps.DeleteFunc(x.xattrs, func(name, _ string) bool { return name[:5] != "user." })
		})
	}
}

func (s *simulation) restore() {
	var e *Engine
	var w *world
	var err error
	if len(s.shots) > 0 && rapid.Bool().Draw(s.T, "from snapshot") {
		x := s.shots[rapid.IntRange(0, len(s.shots)-1).Draw(s.T, "snapshot")]
		w = x.w
		e, err = s.e.AtSnapshot(bg, x.name)
	} else {
		all := append(slices.Clone(s.before), s.moments...)
		m := all[rapid.IntRange(0, len(all)-1).Draw(s.T, "moment")]
		w = m.w.named()
		e, err = s.e.At(bg, m.at.Add(time.Second))
		if vfs.ErrnoOf(err) == syscall.ENOENT && m.at.Before(s.reachable()) {
			return
		}
	}
	s.expect(err)
	src := rapid.SampledFrom(slices.Sorted(maps.Keys(w.things))).Draw(s.T, "src")
	parent, name := s.dir(), s.name()
	now := s.tick()
	stats, err := s.e.Restore(bg, e, src, parent, name, nil)
	if vfs.ErrnoOf(err) == syscall.ENOENT && e.snapshot == "" { // time has passed
		s.expect(e.Close())
		return
	}
	if s.expect(err, s.cannotCopy(w, src, parent, name)...) {
		s.copied(w, src, parent, name, stats, func(x, from *thing) { x.ctime = now })
	}
	s.expect(e.Close())
}

func (s *simulation) cannotCopy(from *world, src, parent vfs.Ino, name string) []syscall.Errno {
	d, errno := s.w.dir(parent)
	errnos := []syscall.Errno{badName(name), errno}
	if d != nil && d.names[name] != 0 {
		errnos = append(errnos, syscall.EEXIST)
	}
	if from.things[src] == nil {
		errnos = append(errnos, syscall.ESTALE)
	}
	return errnos
}

// copied puts into the world what a copy has made. The numbers of its inodes are
// the engine's choice.
func (s *simulation) copied(from *world, src, parent vfs.Ino, name string, stats CopyStats, change func(x, from *thing)) {
	from = from.clone() // it may be the present one
	made := map[vfs.Ino]*thing{}
	var walk func(src, parent vfs.Ino, name string) vfs.Ino
	walk = func(src, parent vfs.Ino, name string) vfs.Ino {
		var a vfs.Attr
		s.expect(s.sessions[0].Lookup(bg, root, parent, name, &a))
		old := from.things[src]
		if x := made[src]; x != nil {
			if x.ino != a.Ino {
				s.Fatalf("names of inode %d are copied to inodes %d and %d", src, x.ino, a.Ino)
			}
			return a.Ino
		}
		if s.w.things[a.Ino] != nil {
			s.Fatalf("the copy of %d is inode %d, which there was before", src, a.Ino)
		}
		c := *from.clone().things[src]
		x := &c
		x.ino, x.opens, x.linkable = a.Ino, map[int]int{}, false
		change(x, old)
		made[src] = x
		for name, ino := range x.names {
			x.names[name] = walk(ino, a.Ino, name)
		}
		return a.Ino
	}
	top := walk(src, parent, name)
	for _, x := range made {
		s.w.things[x.ino] = x
	}
	s.w.things[parent].put(name, s.w.things[top], vfs.TimeOf(s.now))
	if stats.Ino != top || stats.Inodes != int64(len(made)) {
		s.Fatalf("the copy says %+v, should be %d inodes, %d", stats, len(made), top)
	}
	s.tock()
}

// dump dumps the volume and compares what is loaded from it.
func (s *simulation) dump() {
	s.tick()
	history := rapid.Bool().Draw(s.T, "history")
	var b bytes.Buffer
	want, err := s.e.Dump(bg, &b, DumpOptions{History: history})
	s.expect(err)
	db := mem.New()
	got, err := Load(bg, db, &b, LoadOptions{})
	s.expect(err)
	if got != want {
		s.Fatalf("%+v were loaded, %+v dumped", got, want)
	}
	e, err := Open(bg, db, s.options)
	s.expect(err)
	sess, err := e.NewSession(bg, SessionInfo{})
	s.expect(err)
	if diff := s.w.named().differs(sess); diff != "" {
		s.Fatalf("what was dumped and loaded differs: %s", diff)
	}
	for _, x := range s.shots {
		if !history {
			break
		}
		past, err := e.AtSnapshot(bg, x.name)
		s.expect(err)
		s.showsPast(past, x.w, "snapshot of a dump")
	}
	s.expect(e.Close())
	s.tock()
}
