package meta

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// These passes of Repair count what there is and set right what the records say
// of it.

// numbers makes sure that numbers which are given out are fresh.
func (r *repairer) numbers() error {
	e := r.e
	last := func(in *view, kind byte, ends int) (n uint64, err error) {
		err = in.r.ScanReverse([]byte{kind}, []byte{kind + 1}, func(key, _ []byte) (bool, error) {
			if len(key) != ends {
				return true, nil
			}
			n, err = splitBlockKey(key) // of the same form
			return false, err
		})
		return n, err
	}
	err := r.e.db.View(r.ctx, func(reader kv.Reader) error {
		in := &view{e: e, r: reader}
		for _, x := range []struct {
			name string
			kind byte
		}{{counterIno, kindInode}, {counterBlock, kindBlock}, {counterSession, kindSession}} {
			n, err := last(in, x.kind, 9)
			if err != nil {
				return err
			}
			key := keyCounter(x.name)
			have, err := r.counter(in, key)
			if err != nil {
				return err
			}
			if have <= int64(n) || have < 1 {
				r.problem("counter", 0, "counter %q raised from %d to %d", x.name, have, n+1)
				r.put(key, kv.CounterValue(int64(n)+1))
			}
		}
		return nil
	})
	if err == nil {
		err = r.flush()
	}
	for _, s := range []*idSource{e.inos, e.blocks} {
		s.dropBatches()
	}
	return err
}

// dropBatches forgets numbers that were taken before the counter was set right.
func (s *idSource) dropBatches() {
	s.mu.Lock()
	for s.fetching != nil {
		wait := s.fetching
		s.mu.Unlock()
		<-wait
		s.mu.Lock()
	}
	s.next, s.end, s.next2, s.end2 = 0, 0, 0, 0
	s.mu.Unlock()
}

// counter reads a counter; a damaged one is 0.
func (r *repairer) counter(in *view, key []byte) (int64, error) {
	n, err := in.counter(key)
	if errors.Is(err, kv.ErrCorrupt) {
		return 0, nil
	}
	return n, err
}

// count sums up what names say of inodes, and removes second names of directories.
func (r *repairer) count() error {
	type place struct {
		dir    vfs.Ino
		cookie uint64
	}
	homes := make(map[vfs.Ino]place) // of directories that are not where they say
	return r.each(kindName, func(in *view, key, value []byte) error {
		dir, name, err := splitNameKey(key)
		if err != nil {
			return err
		}
		ent, err := decodeName(value)
		if err != nil {
			return err
		}
		isDir := int64(0)
		if ent.kind == syscall.S_IFDIR {
			isDir = 1
			n, err := find(in, ent.ino)
			if err != nil {
				return err
			}
			here := place{dir, ent.cookie}
			home, moved := homes[ent.ino]
			if !moved && n != nil {
				home = place{n.parent, n.cookie}
			}
			if home != here && !moved {
				b, err := in.value(appendEntryKey(nil, home.dir, home.cookie))
				if err != nil {
					return err
				}
				old, text, err := decodeEntry(b)
				if err == nil && old.ino == ent.ino {
					have, err := in.entry(home.dir, string(text))
					moved = err == nil && have.ino == ent.ino
				}
				if !moved {
					homes[ent.ino], home = here, here
				}
			}
			if home != here {
				r.problem("name", ent.ino, "second name %q of the directory, in %d, removed", r.shown(dir, name), dir)
				r.del(key)
				r.del(appendEntryKey(nil, dir, ent.cookie))
				return nil
			}
		}
		r.named(ent.ino, dir, ent.cookie, isDir)
		return nil
	})
}

// named counts a name.
func (r *repairer) named(ino, dir vfs.Ino, cookie uint64, isDir int64) {
	r.sums = append(r.sums,
		sumEdit{key: sumKey('i', uint64(ino)), add: [sumFields]int64{1, 0, 0, 0, int64(dir), int64(cookie)}, set: true},
		sumEdit{key: sumKey('i', uint64(dir)), add: [sumFields]int64{0, 1, isDir, int64(cookie)}})
}

// rings cuts directories that are below themselves out of there.
func (r *repairer) rings() error {
	return r.each(kindInode, func(in *view, key, value []byte) error {
		ino, err := keyIno(key)
		if err != nil {
			return err
		}
		var n inode
		if err := n.decode(value); err != nil || !n.isDir() {
			return err
		}
		path := make(map[vfs.Ino]bool)
		for at := ino; at != vfs.Root && !path[at]; {
			if done, err := r.sum('r', uint64(at)); err != nil {
				return err
			} else if done[0] > 0 {
				break
			}
			path[at] = true
			sum, err := r.sum('i', uint64(at))
			if err != nil {
				return err
			}
			if sum[0] == 0 {
				break
			}
			up := vfs.Ino(sum[4])
			if path[up] {
				if err := r.cut(in, at, up, uint64(sum[5])); err != nil {
					return err
				}
				break
			}
			at = up
		}
		for at := range path {
			r.sums = append(r.sums, sumEdit{key: sumKey('r', uint64(at)), add: [sumFields]int64{1}})
		}
		if len(r.sums) > maintainBatch {
			return r.flushSums()
		}
		return nil
	})
}

// cut removes the name of a directory.
func (r *repairer) cut(in *view, ino, dir vfs.Ino, cookie uint64) error {
	key := appendEntryKey(nil, dir, cookie)
	b, err := in.value(key)
	if err != nil {
		return err
	}
	_, name, err := decodeEntry(b)
	if err != nil {
		return err
	}
	r.problem("name", ino, "name %q in directory %d, which is below it, removed", r.shown(dir, name), dir)
	r.del(key)
	r.del(appendNameKey(nil, dir, string(name)))
	r.sums = append(r.sums,
		sumEdit{key: sumKey('i', uint64(ino)), add: [sumFields]int64{-1}},
		sumEdit{key: sumKey('i', uint64(dir)), add: [sumFields]int64{0, -1, -1}})
	return r.flushSums() // others in the ring see it
}

// reattach gives inodes that have lost their names new ones in lost+found.
func (r *repairer) reattach() error {
	return r.each(kindInode, func(in *view, key, value []byte) error {
		ino, err := keyIno(key)
		if err != nil {
			return err
		}
		var n inode
		if err := n.decode(value); err != nil {
			return err
		}
		sum, err := r.sum('i', uint64(ino))
		if err != nil || sum[0] > 0 || n.nlink == 0 || ino == vfs.Root || ino == r.lost {
			return err
		}
		if err := r.lostFound(in); err != nil {
			return err
		}
		dir := &inode{mode: syscall.S_IFDIR, next: firstCookie}
		cookie, err := r.cookie(in, r.lost, dir)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("#%d", ino)
		var stored string
		for {
			if stored, err = r.e.sealedName(r.lost, name); err != nil {
				return err
			}
			_, err := in.entry(r.lost, stored)
			if err == syscall.ENOENT {
				break
			}
			if err != nil {
				return err
			}
			name += "~"
		}
		r.problem("name", ino, "has lost its name: is %s/%s now", LostFound, name)
		r.enter(r.lost, stored, entry{ino: ino, kind: n.kind(), cookie: cookie})
		return nil
	})
}

func (r *repairer) enter(dir vfs.Ino, name string, ent entry) {
	r.put(appendNameKey(nil, dir, name), ent.encodeName(nil))
	r.put(appendEntryKey(nil, dir, ent.cookie), ent.encodeEntry(nil, name))
	isDir := int64(0)
	if ent.kind == syscall.S_IFDIR {
		isDir = 1
	}
	r.named(ent.ino, dir, ent.cookie, isDir)
}

// lostFound finds or makes the directory.
func (r *repairer) lostFound(in *view) error {
	if r.lost != 0 {
		return nil
	}
	name := LostFound
	var stored string
	for {
		var err error
		if stored, err = r.e.sealedName(vfs.Root, name); err != nil {
			return err
		}
		ent, err := in.entry(vfs.Root, stored)
		if err == nil && ent.kind == syscall.S_IFDIR {
			r.lost = ent.ino
			return nil
		}
		if err == syscall.ENOENT {
			break
		}
		if err != nil {
			return err
		}
		name += "~"
	}
	id, err := r.e.inos.take(r.ctx, 1)
	if err != nil {
		return err
	}
	cookie, err := r.cookie(in, vfs.Root, &inode{next: firstCookie})
	if err != nil {
		return err
	}
	r.lost = vfs.Ino(id)
	r.putInode(r.lost, &inode{mode: syscall.S_IFDIR | 0o700, nlink: 2, gen: 1, parent: vfs.Root, cookie: cookie, next: firstCookie,
		atime: r.now, mtime: r.now, ctime: r.now, btime: r.now})
	r.enter(vfs.Root, stored, entry{ino: r.lost, kind: syscall.S_IFDIR, cookie: cookie})
	return nil
}

// inodes makes each inode's record say what there is of it.
func (r *repairer) inodes() error {
	return r.each(kindInode, func(in *view, key, value []byte) error {
		ino, err := keyIno(key)
		if err != nil {
			return err
		}
		var old inode
		if err := old.decode(value); err != nil {
			return err
		}
		n := old
		if err := r.place(in, ino, &n); err != nil {
			return err
		}
		if err := r.content(in, ino, &n); err != nil {
			return err
		}
		if err := r.xattrs(in, ino, &n); err != nil {
			return err
		}
		if n != old {
			r.problem("link", ino, "its record said %+v, now %+v", old, n)
			r.putInode(ino, &n)
		}
		r.use.inodes++
		r.use.bytes += n.usage()
		return nil
	})
}

// place sets what names and entries say.
func (r *repairer) place(in *view, ino vfs.Ino, n *inode) error {
	sum, err := r.sum('i', uint64(ino))
	if err != nil {
		return err
	}
	names, entries, subdirs, cookie, parent, at := sum[0], sum[1], sum[2], uint64(sum[3]), vfs.Ino(sum[4]), uint64(sum[5])
	if n.isDir() {
		n.entries = uint64(entries)
		n.next = max(n.next, cookie+1, firstCookie)
	}
	switch {
	case ino == vfs.Root:
		n.nlink, n.parent, n.cookie = uint32(2+subdirs), vfs.Root, 0
		return nil
	case names == 0: // it has been removed
		n.nlink, n.parent, n.cookie = 0, 0, 0
		return r.held(in, ino)
	case n.isDir():
		n.nlink, n.parent, n.cookie = uint32(2+subdirs), parent, at
	case names == 1:
		n.nlink, n.parent, n.cookie = 1, parent, at
	default:
		n.nlink, n.cookie = uint32(names), 0
		home := false
		err := in.links(ino, func(dir vfs.Ino, _ []byte) (bool, error) {
			home = home || dir == n.parent
			return !home, nil
		})
		if err != nil {
			return err
		}
		if home { // is that still one of its names?
			home = false
			err := in.links(ino, func(dir vfs.Ino, name []byte) (bool, error) {
				if dir == n.parent {
					other := view{e: r.e, r: in.r}
					ent, err := other.entry(dir, string(name))
					home = home || err == nil && ent.ino == ino
				}
				return !home, nil
			})
			if err != nil {
				return err
			}
		}
		if !home {
			n.parent = parent
		}
	}
	return nil
}

// held makes sure that an inode without a name is held, if only to be removed.
func (r *repairer) held(in *view, ino vfs.Ino) error {
	found := false
	check := func(session uint64) (bool, error) {
		b, err := in.value(appendOrphanKey(nil, session, ino))
		found = found || b != nil
		return !found, err
	}
	if _, err := check(systemSession); err != nil {
		return err
	}
	if !found {
		err := in.sessions(func(id uint64) (bool, error) {
			other := view{e: r.e, r: in.r}
			b, err := other.value(appendOrphanKey(nil, id, ino))
			found = found || b != nil
			return !found, err
		})
		if err != nil {
			return err
		}
	}
	if !found {
		r.problem("orphan", ino, "has no name and nobody held it: is removed")
		r.put(appendOrphanKey(nil, systemSession, ino), nil)
	}
	return nil
}

// content sets what inline content, chunks and link target say.
func (r *repairer) content(in *view, ino vfs.Ino, n *inode) error {
	switch n.kind() {
	case syscall.S_IFREG, syscall.S_IFDIR, syscall.S_IFLNK, syscall.S_IFIFO, syscall.S_IFSOCK, syscall.S_IFCHR, syscall.S_IFBLK:
	default:
		n.mode = n.mode&^syscall.S_IFMT | syscall.S_IFREG
	}
	size := uint64(r.e.format.Load().ChunkSize)
	var alloc, end uint64
	chunks := false
	err := in.chunks(ino, 0, 1<<32-1, func(index uint32, list []Extent) (bool, error) {
		if !n.isRegular() {
			r.problem("chunk", ino, "chunk %d removed: it is no file", index)
			r.del(appendChunkKey(nil, ino, index))
			return true, nil
		}
		chunks = true
		alloc += sumExtents(list)
		for _, x := range list {
			if x.Block != 0 {
				end = uint64(index)*size + x.end()
			}
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	data, err := in.value(appendInlineKey(nil, ino))
	if err != nil {
		return err
	}
	f := r.e.format.Load()
	have, bad := f.inlineSize(data)
	if data != nil && (have == 0 || bad != nil || chunks || !n.isRegular()) {
		r.problem("chunk", ino, "inline content of %d bytes removed: it is empty, or there are chunks, or it is no file", len(data))
		r.del(appendInlineKey(nil, ino))
		data = nil
	}
	if n.flags&flagInline != 0 && data == nil {
		r.problem("chunk", ino, "its inline content is lost")
	}
	if n.flags &^= flagInline; data != nil {
		n.flags |= flagInline
		alloc, end = have, have
	}
	n.alloc = alloc
	if n.isRegular() {
		n.size = max(n.size, end)
	}
	target, err := in.value(appendTargetKey(nil, ino))
	switch {
	case err != nil:
		return err
	case target != nil && !n.isSymlink():
		r.problem("record", ino, "link target removed: it is no symbolic link")
		r.del(appendTargetKey(nil, ino))
	case target == nil && n.isSymlink():
		r.problem("record", ino, "the target of the symbolic link is lost")
		keys, err := r.e.keys()
		if err != nil {
			return err
		}
		lost := "(lost)"
		n.size = uint64(len(lost))
		if keys != nil {
			lost = keys.SealTarget(lost)
		}
		r.put(appendTargetKey(nil, ino), []byte(lost))
	case target != nil:
		n.size = f.targetSize(string(target))
	}
	return nil
}

// xattrs sets what extended attributes say.
func (r *repairer) xattrs(in *view, ino vfs.Ino, n *inode) error {
	names, err := in.xattrNames(ino)
	if err != nil {
		return err
	}
	n.flags &^= flagXattr | flagACL | flagDefaultACL
	for _, name := range names {
		if name == vfs.XattrACLAccess || name == vfs.XattrACLDefault {
			b, err := in.xattr(ino, name)
			if err != nil {
				return err
			}
			a, err := parseACL(b)
			if err != nil || a == nil {
				r.problem("record", ino, "%s cannot be read: removed", name)
				r.del(appendXattrKey(nil, ino, name))
				continue
			}
			if name == vfs.XattrACLDefault {
				n.flags |= flagDefaultACL
			} else {
				n.flags |= flagACL
				n.mode = n.mode&^0o777 | a.mode()
			}
		}
		n.flags |= flagXattr
	}
	return nil
}
