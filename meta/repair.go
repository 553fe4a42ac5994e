package meta

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"syscall"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// Repairing
//
// Repair makes the invariants hold again after damage. What is said twice is made
// again from what is left of it: names from entries and entries from names, counts
// from what they count. What has lost its name is put into the directory
// lost+found; what has lost its attributes comes back there as root's, with what is
// left of its content. Nothing that can be read is thrown away.
//
// Calls that change the volume wait meanwhile. Sums over blocks and inodes are
// kept in a scratch database, so memory does not grow with the volume.

// RepairSummary counts what Repair has done.
type RepairSummary struct {
	Fixed int64        `json:"fixed"`
	Left  CheckSummary `json:"left"` // of the check after it: Problems could not be repaired
}

// LostFound is the name of the directory in the root for what has lost its name.
const LostFound = "lost+found"

// Repair repairs the volume, calling report for each thing that it changes, and
// then left for each problem that the check after it finds. scratch is an
// empty database. What was done is durable when it returns.
func (e *Engine) Repair(ctx context.Context, scratch kv.DB, report, left func(Problem)) (sum RepairSummary, err error) {
	if e.readOnly {
		return sum, syscall.EROFS
	}
	if _, err := e.keys(); err != nil { // it may have to make names
		return sum, fail("repair", "", err)
	}
	e.gate.Lock()
	defer e.gate.Unlock()
	defer e.quotas.forgetChains()
	r := &repairer{e: e, ctx: ctx, scratch: scratch, report: report, now: vfs.TimeOf(e.clockNow())}
	r.stamp = e.clock.tick(r.now)
	for round := 1; ; round++ {
		if err = r.run(); err == nil {
			err = e.db.Sync(ctx)
		}
		sum.Fixed = r.fixed
		if err != nil {
			break
		}
		last := round == maxRepairs
		sum.Left, err = e.Check(ctx, func(p Problem) {
			if last {
				left(p)
			}
		})
		if err != nil || sum.Left.Problems == 0 || last {
			break
		}
	}
	e.reaper.wake()
	return sum, fail("repair", "", err)
}

// maxRepairs is how often Repair looks at everything: what one round repairs may
// uncover something else.
const maxRepairs = 3

type repairer struct {
	e       *Engine
	ctx     context.Context
	scratch kv.DB
	report  func(Problem)
	now     vfs.Time
	stamp   uint64
	fixed   int64

	edits   []edit
	sums    []sumEdit
	cookies map[vfs.Ino]uint64 // given to entries by this repair
	lost    vfs.Ino            // lost+found; 0: not made yet
	use     usageSum
}

// edit is a change of a record; value nil removes it.
type edit struct{ key, value []byte }

func (r *repairer) run() error {
	r.edits, r.sums, r.cookies, r.lost, r.use = nil, nil, nil, 0, usageSum{}
	err := r.scratch.Update(r.ctx, func(w kv.Txn) error {
		w.DeleteRange([]byte{0}, nil)
		return nil
	})
	if err != nil {
		return err
	}
	for _, pass := range []func() error{
		r.root, r.strays, r.numbers, r.names, r.entries, r.count, r.rings, r.reattach, r.inodes, r.links,
		r.sumBlocks, r.blocks, r.unknownBlocks, r.queue, r.pending, r.orphans, r.past, r.counters, r.quotas,
	} {
		if err := pass(); err != nil {
			return err
		}
	}
	return nil
}

func (r *repairer) problem(rule string, ino vfs.Ino, format string, args ...any) {
	r.fixed++
	r.report(Problem{Rule: rule, Ino: ino, Text: fmt.Sprintf(format, args...)})
}

// shown is a stored name for people.
func (r *repairer) shown(dir vfs.Ino, name []byte) string { return r.e.shownName(dir, string(name)) }

func (r *repairer) put(key, value []byte) {
	r.edits = append(r.edits, edit{bytes.Clone(key), append([]byte{}, value...)})
}

func (r *repairer) del(key []byte) { r.edits = append(r.edits, edit{key: bytes.Clone(key)}) }

func (r *repairer) putInode(ino vfs.Ino, n *inode) {
	r.put(appendInodeKey(nil, ino), n.encode(nil))
}

// each calls fn with the records of a kind, a page at a time; what fn edits is
// written after the page. in reads the state before the page.
func (r *repairer) each(kind byte, fn func(in *view, key, value []byte) error) error {
	at := []byte{kind}
	for more := true; more; {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		err := r.e.db.View(r.ctx, func(reader kv.Reader) error {
			in := &view{e: r.e, r: reader}
			more = false
			n := 0
			start := bytes.Clone(at)
			return reader.Scan(start, []byte{kind + 1}, func(key, value []byte) (bool, error) {
				if n == maintainBatch || len(r.edits) > maintainBatch {
					more = true
					return false, nil
				}
				n++
				at = append(append(at[:0], key...), 0)
				if size := fixedKey(kind); size != 0 && len(key) != size {
					r.problem("record", 0, "record with key %q removed", key)
					r.del(key)
					return true, nil
				}
				return true, fn(in, key, value)
			})
		})
		if err == nil {
			err = r.flush()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// flush writes the edits.
func (r *repairer) flush() error {
	if err := r.flushSums(); err != nil || len(r.edits) == 0 {
		return err
	}
	var inos []vfs.Ino
	for _, x := range r.edits {
		if x.key[0] == kindInode {
			ino, err := keyIno(x.key)
			if err != nil {
				return err
			}
			inos = append(inos, ino)
		}
	}
	for _, ino := range inos {
		r.e.cache.begin(ino)
	}
	err := r.e.db.Update(r.ctx, func(w kv.Txn) error {
		for _, x := range r.edits {
			if x.value == nil {
				w.Delete(x.key)
			} else {
				w.Put(x.key, x.value)
			}
		}
		return nil
	})
	for _, ino := range inos {
		r.e.cache.end(ino, nil)
	}
	r.edits = r.edits[:0]
	return err
}

// find reads an inode: nil if there is none that can be read.
func find(in *view, ino vfs.Ino) (*inode, error) {
	n := new(inode)
	err := in.inode(ino, n)
	if errors.Is(err, syscall.ESTALE) || errors.Is(err, kv.ErrCorrupt) {
		return nil, nil
	}
	return n, err
}

// root makes sure that there is one.
func (r *repairer) root() error {
	err := r.e.db.View(r.ctx, func(reader kv.Reader) error {
		n, err := find(&view{e: r.e, r: reader}, vfs.Root)
		if err == nil && (n == nil || !n.isDir()) {
			r.problem("record", vfs.Root, "the root was missing: made anew")
			n = &inode{mode: syscall.S_IFDIR | 0o755, nlink: 2, gen: 1, parent: vfs.Root, next: firstCookie,
				atime: r.now, mtime: r.now, ctime: r.now, btime: r.now}
			r.putInode(vfs.Root, n)
		}
		return err
	})
	if err == nil {
		err = r.flush()
	}
	return err
}

// strays makes inodes for content that has none, and removes attribute records
// that cannot be read.
func (r *repairer) strays() error {
	err := r.each(kindInode, func(_ *view, key, value []byte) error {
		var n inode
		if ino, err := keyIno(key); n.decode(value) != nil || err != nil {
			r.problem("record", ino, "its attributes cannot be read: removed")
			r.del(key)
		}
		return nil
	})
	if err != nil {
		return err
	}
	size := uint64(r.e.format.Load().ChunkSize)
	lost := &inode{nlink: 1, gen: 1, atime: r.now, mtime: r.now, ctime: r.now, btime: r.now}
	var made vfs.Ino // keys of one inode stand together
	var n inode
	again := func(in *view, key []byte) (ino vfs.Ino, is bool, err error) {
		if ino, err = keyIno(key); err != nil || ino == made {
			return ino, err == nil, err
		}
		have, err := find(in, ino)
		if err != nil || have != nil || ino > vfs.MaxIno || ino == 0 {
			return ino, false, err
		}
		r.problem("record", ino, "its attributes are lost: made anew for what is left of its content")
		made, n = ino, *lost
		return ino, true, nil
	}
	err = r.each(kindChunk, func(in *view, key, value []byte) error {
		list, err := decodeChunk(nil, value)
		if err == nil {
			err = checkExtents(list, uint32(size))
		}
		ino, index, _ := splitChunkKey(key)
		if err != nil || len(list) == 0 {
			r.problem("chunk", ino, "chunk %d cannot be read: removed, what it held is lost", index)
			r.del(key)
			return nil
		}
		ino, is, err := again(in, key)
		if is {
			n.mode = syscall.S_IFREG | 0o600
			n.size = uint64(index)*size + list[len(list)-1].end()
			n.alloc += sumExtents(list)
			r.putInode(ino, &n)
		}
		return err
	})
	if err != nil {
		return err
	}
	err = r.each(kindInline, func(in *view, key, value []byte) error {
		ino, is, err := again(in, key)
		if is {
			n.mode, n.flags = syscall.S_IFREG|0o600, flagInline
			n.alloc, _ = r.e.format.Load().inlineSize(value) // what is none goes later
			n.size = n.alloc
			r.putInode(ino, &n)
		}
		return err
	})
	if err != nil {
		return err
	}
	return r.each(kindTarget, func(in *view, key, value []byte) error {
		ino, is, err := again(in, key)
		if is {
			n.mode, n.size = syscall.S_IFLNK|0o777, r.e.format.Load().targetSize(string(value))
			r.putInode(ino, &n)
		}
		return err
	})
}

// cookie returns a fresh one for a directory.
func (r *repairer) cookie(in *view, dir vfs.Ino, n *inode) (uint64, error) {
	next, ok := r.cookies[dir]
	if !ok {
		next = max(n.next, firstCookie)
		err := in.r.ScanReverse(appendEntryKey(nil, dir, 0), appendEntryKey(nil, dir, math.MaxUint64), func(key, _ []byte) (bool, error) {
			_, last, err := splitEntryKey(key)
			next = max(next, last+1)
			return false, err
		})
		if err != nil {
			return 0, err
		}
	}
	if r.cookies == nil {
		r.cookies = make(map[vfs.Ino]uint64)
	}
	r.cookies[dir] = next + 1
	return next, nil
}

// names gives each name that means something its entry, and removes the others.
func (r *repairer) names() error {
	return r.each(kindName, func(in *view, key, value []byte) error {
		dir, name, err := splitNameKey(key)
		if err != nil {
			return err
		}
		ent, err := decodeName(value)
		if err != nil { // its entry may be good
			r.problem("name", dir, "name %q cannot be read: removed", r.shown(dir, name))
			r.del(key)
			return nil
		}
		n, err := find(in, ent.ino)
		if err != nil {
			return err
		}
		parent, err := find(in, dir)
		if err != nil {
			return err
		}
		if n == nil || parent == nil || !parent.isDir() || ent.ino == vfs.Root || r.e.format.Load().checkName(string(name)) != nil {
			r.problem("name", dir, "name %q of inode %d removed: inode or directory do not exist", r.shown(dir, name), ent.ino)
			r.del(key)
			return nil
		}
		b, err := in.value(appendEntryKey(nil, dir, ent.cookie))
		if err != nil {
			return err
		}
		old, text, err := decodeEntry(b)
		good := err == nil && bytes.Equal(text, name)
		if good && old.ino == ent.ino && old.kind == ent.kind && ent.kind == n.kind() && ent.cookie >= firstCookie {
			return nil
		}
		r.problem("name", dir, "entry of name %q made anew", r.shown(dir, name))
		if ent.kind = n.kind(); !good && b != nil || ent.cookie < firstCookie || ent.cookie >= 1<<63-1 {
			if ent.cookie, err = r.cookie(in, dir, parent); err != nil {
				return err
			}
		}
		r.put(key, ent.encodeName(nil))
		r.put(appendEntryKey(nil, dir, ent.cookie), ent.encodeEntry(nil, string(name)))
		return nil
	})
}

// entries gives each entry its name, and removes those that are none.
func (r *repairer) entries() error {
	return r.each(kindEntry, func(in *view, key, value []byte) error {
		dir, cookie, err := splitEntryKey(key)
		if err != nil {
			return err
		}
		ent, name, err := decodeEntry(value)
		if err != nil {
			r.problem("name", dir, "entry %d cannot be read: removed", cookie)
			r.del(key)
			return nil
		}
		ent.cookie = cookie
		have, err := in.entry(dir, string(name))
		if err == nil && have.cookie == cookie {
			return nil
		}
		if err != nil && err != syscall.ENOENT {
			return err
		}
		n, err2 := find(in, ent.ino)
		parent, err3 := find(in, dir)
		if err2 != nil || err3 != nil {
			return errors.Join(err2, err3)
		}
		if err == nil || n == nil || parent == nil || !parent.isDir() || ent.ino == vfs.Root || r.e.format.Load().checkName(string(name)) != nil || cookie < firstCookie || cookie >= 1<<63-1 {
			r.problem("name", dir, "entry %d (%q) removed: it has no name", cookie, r.shown(dir, name))
			r.del(key)
			return nil
		}
		r.problem("name", dir, "name %q made anew from its entry", r.shown(dir, name))
		ent.kind = n.kind()
		r.put(appendNameKey(nil, dir, string(name)), ent.encodeName(nil))
		r.put(key, ent.encodeEntry(nil, string(name)))
		return nil
	})
}

// links makes `p` records fit: exactly the names of files that have several.
func (r *repairer) links() error {
	err := r.each(kindLink, func(in *view, key, _ []byte) error {
		ino, dir, name, err := splitLinkKey(key)
		if err != nil {
			return err
		}
		ent, err := in.entry(dir, string(name))
		if err != nil && err != syscall.ENOENT {
			return err
		}
		n, err2 := find(in, ino)
		if err2 != nil {
			return err2
		}
		if err != nil || ent.ino != ino || n == nil || n.isDir() || n.nlink < 2 {
			r.problem("link", ino, "record of name %q in directory %d removed", r.shown(dir, name), dir)
			r.del(key)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.each(kindName, func(in *view, key, value []byte) error {
		dir, name, err := splitNameKey(key)
		if err != nil {
			return err
		}
		ent, err := decodeName(value)
		if err != nil || ent.kind == syscall.S_IFDIR {
			return err
		}
		n, err := find(in, ent.ino)
		if err != nil || n == nil || n.nlink < 2 {
			return err
		}
		p := appendLinkKey(nil, ent.ino, dir, string(name))
		b, err := in.value(p)
		if err == nil && b == nil {
			r.problem("link", ent.ino, "record of name %q in directory %d made anew", r.shown(dir, name), dir)
			r.put(p, nil)
		}
		return err
	})
}

// orphans makes `o` records fit: of inodes without a name, and only those.
func (r *repairer) orphans() error {
	return r.each(kindOrphan, func(in *view, key, _ []byte) error {
		session, ino, err := splitOrphanKey(key)
		if err != nil {
			return err
		}
		n, err := find(in, ino)
		if err != nil {
			return err
		}
		if n == nil || n.nlink != 0 {
			r.problem("orphan", ino, "session %d held it as one without a name, but it is not", session)
			r.del(key)
			return nil
		}
		if session == systemSession {
			return nil
		}
		b, err := in.value(appendSessionKey(nil, session))
		if err == nil && b == nil {
			r.problem("orphan", ino, "was held by session %d, which does not exist: is removed", session)
			r.del(key)
			r.put(appendOrphanKey(nil, systemSession, ino), nil)
		}
		return err
	})
}

// sumEdit adds to a sum in the scratch database.
type sumEdit struct {
	key []byte
	add [sumFields]int64
	set bool // the last two fields replace what is there
}

const sumFields = 6

// Sums of inodes, under 'i' ino: names, entries, subdirectories, greatest cookie
// (a maximum), and of the last name parent and cookie. Sums of blocks, under 'b' id:
// references, live bytes, size.
func sumKey(kind byte, id uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind}, id)
}

const sumMax = 3 // this field is a maximum

func (r *repairer) flushSums() error {
	if len(r.sums) == 0 {
		return nil
	}
	err := r.scratch.Update(r.ctx, func(w kv.Txn) error {
		for _, x := range r.sums {
			have, err := readSum(w, x.key)
			if err != nil {
				return err
			}
			for i := range have {
				switch {
				case i == sumMax:
					have[i] = max(have[i], x.add[i])
				case i > sumMax:
					if x.set {
						have[i] = x.add[i]
					}
				default:
					have[i] += x.add[i]
				}
			}
			var value []byte
			for _, n := range have {
				value = appendInt64(value, n)
			}
			w.Put(x.key, append([]byte{recordVersion}, value...))
		}
		return nil
	})
	r.sums = r.sums[:0]
	return err
}

func readSum(r kv.Reader, key []byte) (sum [sumFields]int64, err error) {
	b, err := r.Get(key)
	if errors.Is(err, kv.ErrNotFound) {
		return sum, nil
	}
	if err != nil {
		return sum, err
	}
	d := newDecoder(b)
	for i := range sum {
		sum[i] = d.int64()
	}
	return sum, d.finish("sum")
}

func (r *repairer) sum(kind byte, id uint64) (sum [sumFields]int64, err error) {
	err = r.scratch.View(r.ctx, func(reader kv.Reader) (err error) {
		sum, err = readSum(reader, sumKey(kind, id))
		return err
	})
	return sum, err
}
