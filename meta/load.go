package meta

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// LoadOptions say how to load a dump.
type LoadOptions struct {
	// Change may change the settings: name, UUID and store, and those that can be
	// changed in any volume. The chunk size cannot. nil changes nothing.
	Change   func(*Format)
	Progress func(DumpStats) // called now and then; may be nil
}

const (
	maxDumpLine = 16 << 20
	// loadLines and loadBytes bound what one transaction of Load writes.
	loadLines = 1000
	loadBytes = 4 << 20
	// maxLoadExtents bounds the extents of a chunk: more do not fit a record.
	maxLoadExtents = 1 << 20
)

// Load makes the volume of a dump in an empty database (EEXIST, ENOTEMPTY), checks
// all invariants, and makes it durable. If it fails the database is empty
// again; a crash in between leaves a database that Open refuses. A dump that is
// damaged or ends early gives EINVAL and a sentence that names the line.
//
// The loaded volume uses the blocks of the one that was dumped: only one of them may
// be used from then on, unless the blocks have been copied to another store, too.
func Load(ctx context.Context, db kv.DB, r io.Reader, o LoadOptions) (DumpStats, error) {
	l := &loader{ctx: ctx, db: db, in: bufio.NewReaderSize(r, 256<<10), o: o}
	err := l.empty()
	if err == nil {
		if err = l.run(); err != nil {
			err = errors.Join(err, l.clear())
		}
	}
	return l.stats, fail("load metadata", "", err)
}

type loader struct {
	ctx    context.Context
	db     kv.DB
	in     *bufio.Reader
	o      LoadOptions
	number int // of the line
	part   int // of the dump in which it is

	header dumpHeader
	batch  []*dumpLine
	size   int // bytes of the batch's lines
	chunk  *dumpChunk
	stats  DumpStats
	use    usageSum
}

func (l *loader) empty() error {
	return l.db.View(l.ctx, func(r kv.Reader) error {
		if _, err := r.Get(keyFormat()); err == nil {
			return vfs.WithErrno(syscall.EEXIST, errors.New("the database already holds a volume"))
		} else if !errors.Is(err, kv.ErrNotFound) {
			return err
		}
		return r.Scan(nil, nil, func([]byte, []byte) (bool, error) {
			return false, vfs.WithErrno(syscall.ENOTEMPTY, errors.New("the database is not empty"))
		})
	})
}

// clear takes back what a load that failed has written.
func (l *loader) clear() error {
	return l.db.Update(context.WithoutCancel(l.ctx), func(w kv.Txn) error {
		w.DeleteRange([]byte{0}, nil)
		return nil
	})
}

// bad is an error of the dump.
func (l *loader) bad(format string, args ...any) error {
	return vfs.WithErrno(syscall.EINVAL, fmt.Errorf("line %d of the dump: %w", l.number, fmt.Errorf(format, args...)))
}

func (l *loader) run() error {
	for {
		text, err := l.readLine()
		if err != nil {
			return err
		}
		x := &dumpLine{number: l.number}
		l.size += len(text)
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(x); err != nil {
			return l.bad("%w", err)
		}
		if _, err := d.Token(); err != io.EOF {
			return l.bad("more than one object")
		}
		if err := l.order(x); err != nil {
			return err
		}
		switch {
		case x.Header != nil:
			if err := l.begin(x.Header); err != nil {
				return err
			}
			continue
		case x.End != nil:
			return l.end(x.End)
		case x.Chunk != nil:
			if x.Chunk, err = l.joinChunk(x.Chunk); err != nil {
				return err
			}
			if x.Chunk == nil {
				continue
			}
		}
		l.batch = append(l.batch, x)
		if len(l.batch) >= loadLines || l.size >= loadBytes {
			if err := l.flush(); err != nil {
				return err
			}
		}
	}
}

func (l *loader) readLine() ([]byte, error) {
	l.number++
	var line []byte
	for {
		part, err := l.in.ReadSlice('\n')
		switch {
		case len(line)+len(part) > maxDumpLine:
			return nil, l.bad("longer than %d bytes", maxDumpLine)
		case err == nil && line == nil:
			return part, nil
		case err == nil:
			return append(line, part...), nil
		case err == io.EOF:
			return nil, l.bad("the dump ends early")
		case err != bufio.ErrBufferFull:
			return nil, err
		}
		line = append(line, part...)
	}
}

// order checks that a line has one field and comes where it may.
func (l *loader) order(x *dumpLine) error {
	there := []bool{x.Header != nil, x.Block != nil, x.Inode != nil, x.Xattr != nil, x.Chunk != nil, x.Name != nil,
		x.Quota != nil, x.Snapshot != nil, x.History != nil, x.End != nil}
	part, fields := 0, 0
	for i, is := range there {
		if is {
			part, fields = i, fields+1
		}
	}
	switch {
	case fields != 1:
		return l.bad("has %d of the known fields instead of one", fields)
	case (part == 0) != (l.number == 1):
		return l.bad("a dump begins with its header")
	case part < l.part:
		return l.bad("not where it belongs")
	case l.chunk != nil && part != l.part:
		return l.bad("the last chunk is incomplete")
	}
	l.part = part
	return nil
}

func (l *loader) begin(h *dumpHeader) error {
	switch {
	case h.Dump != dumpKind:
		return l.bad("this is no dump of a volume's metadata")
	case h.Version != DumpVersion:
		return l.bad("version %d of dumps is not known to this program (it knows %d)", h.Version, DumpVersion)
	}
	size := h.Format.ChunkSize
	if l.o.Change != nil {
		l.o.Change(&h.Format)
	}
	if err := h.Format.Validate(); err != nil {
		return l.bad("%w", err)
	}
	switch {
	case h.Format.ChunkSize != size:
		return vfs.WithErrno(syscall.EINVAL, errors.New("the block size of a volume cannot be changed"))
	case h.NextIno < 2 || h.NextIno > int64(vfs.MaxIno)+1 || h.NextBlock < 1 || h.NextSession < 1 || h.Stamp < 0 || h.Since < 0:
		return l.bad("a counter is impossible")
	}
	l.header = *h
	return nil
}

// joinChunk returns a chunk when it is complete.
func (l *loader) joinChunk(c *dumpChunk) (*dumpChunk, error) {
	if l.chunk != nil {
		if c.Ino != l.chunk.Ino || c.Index != l.chunk.Index {
			return nil, l.bad("the last chunk is incomplete")
		}
		c.Extents = append(l.chunk.Extents, c.Extents...)
		l.chunk = nil
	}
	if len(c.Extents) > maxLoadExtents {
		return nil, l.bad("a chunk of more than %d extents", maxLoadExtents)
	}
	if c.More {
		l.chunk = c
		return nil, nil
	}
	return c, nil
}

// flush writes the batch.
func (l *loader) flush() error {
	var sum usageSum
	var stats DumpStats
	err := l.db.Update(l.ctx, func(w kv.Txn) error {
		sum, stats = l.use, l.stats
		t := &loadTxn{loader: l, w: w, in: view{r: w}, use: &sum, stats: &stats}
		last := l.number
		defer func() { l.number = last }()
		for _, x := range l.batch {
			l.number = x.number
			if err := t.apply(x); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	l.use, l.stats = sum, stats
	clear(l.batch)
	l.batch, l.size = l.batch[:0], 0
	if l.o.Progress != nil {
		l.o.Progress(l.stats)
	}
	return nil
}

// loadTxn writes lines in one transaction.
type loadTxn struct {
	*loader
	w     kv.Txn
	in    view
	use   *usageSum
	stats *DumpStats
}

func (t *loadTxn) apply(x *dumpLine) error {
	switch {
	case x.Block != nil:
		t.stats.Blocks++
		return t.block(x.Block)
	case x.Inode != nil:
		t.stats.Inodes++
		return t.inode(x.Inode)
	case x.Xattr != nil:
		t.stats.Xattrs++
		return t.xattr(x.Xattr)
	case x.Chunk != nil:
		t.stats.Chunks++
		return t.addChunk(x.Chunk)
	case x.Name != nil:
		t.stats.Names++
		return t.name(x.Name)
	case x.Quota != nil:
		t.stats.Quotas++
		if x.Quota.Ino > vfs.MaxIno {
			return t.bad("quota of an impossible inode")
		}
		return t.put(appendQuotaKey(nil, x.Quota.Ino), limitRecord{bytes: x.Quota.Bytes, inodes: x.Quota.Inodes}.encode(nil))
	case x.Snapshot != nil:
		t.stats.Snapshots++
		if !volumeName.MatchString(x.Snapshot.Name) || x.Snapshot.Stamp == 0 {
			return t.bad("snapshot %q of %d", x.Snapshot.Name, x.Snapshot.Stamp)
		}
		text, err := json.Marshal(snapshotRecord{Stamp: x.Snapshot.Stamp})
		if err != nil {
			return err
		}
		return t.put(keySnapshot(x.Snapshot.Name), text)
	}
	t.stats.History++
	return t.past(x.History)
}

// put writes a record, which must not be there yet.
func (t *loadTxn) put(key, value []byte) error {
	if len(key) > kv.MaxKey || len(value) > kv.MaxValue {
		return t.bad("too long")
	}
	old, err := t.in.value(key)
	if err == nil && old != nil {
		err = t.bad("it has come before")
	}
	if err == nil {
		t.w.Put(key, value)
	}
	return err
}

// block: what points to it comes later; then it is no longer retired.
func (t *loadTxn) block(b *dumpBlock) error {
	if b.ID == 0 || b.ID >= maxBlockID || b.Size == 0 || b.Size > MaxChunkSize {
		return t.bad("block %d of %d bytes is impossible", b.ID, b.Size)
	}
	return t.put(appendBlockKey(nil, b.ID), blockRecord{size: b.Size, created: b.Created, retired: b.Retired}.encode(nil))
}

func (t *loadTxn) inode(x *dumpInode) error {
	n := inode{
		mode: x.Mode, flags: inodeFlags(x.Flags), nlink: x.Nlink, uid: x.UID, gid: x.GID, gen: x.Gen, rdev: x.Rdev,
		size: x.Size, alloc: x.Alloc, parent: x.Parent, cookie: x.Cookie, next: x.Next, entries: x.Entries,
		atime: x.Atime.time(), mtime: x.Mtime.time(), ctime: x.Ctime.time(), btime: x.Btime.time(),
	}
	f := &t.header.Format
	_, badInline := f.inlineSize(x.Data)
	switch {
	case x.Ino == 0 || x.Ino > vfs.MaxIno || n.flags&timeFlags != 0:
		return t.bad("inode %d is impossible", x.Ino)
	case n.isSymlink() != (x.Target != nil) || x.Target != nil && f.checkTarget(string(x.Target)) != nil:
		return t.bad("inode %d: link target of %d bytes with mode %o", x.Ino, len(x.Target), x.Mode)
	case (n.flags&flagInline != 0) != (x.Data != nil) || badInline != nil:
		return t.bad("inode %d: inline content of %d bytes with flags %b", x.Ino, len(x.Data), x.Flags)
	}
	value := n.encode(nil)
	var back inode
	if err := back.decode(value); err != nil || back != n {
		return t.bad("inode %d is impossible", x.Ino)
	}
	t.use.inodes++
	t.use.bytes += n.usage()
	if x.Target != nil {
		t.w.Put(appendTargetKey(nil, x.Ino), x.Target)
	}
	if x.Data != nil {
		t.w.Put(appendInlineKey(nil, x.Ino), x.Data)
	}
	if n.nlink == 0 {
		t.w.Put(appendOrphanKey(nil, systemSession, x.Ino), nil)
	}
	return t.put(appendInodeKey(nil, x.Ino), value)
}

func (d dumpTime) time() vfs.Time {
	if d[1] < 0 || d[1] > 999_999_999 {
		return vfs.Time{Nsec: 1<<32 - 1} // does not come back from its record
	}
	return vfs.Time{Sec: d[0], Nsec: uint32(d[1])}
}

func (t *loadTxn) xattr(x *dumpXattr) error {
	if f := &t.header.Format; x.Ino > vfs.MaxIno || f.CheckStoredXattr(string(x.Name)) != nil || len(x.Value) > f.maxXattrValue() {
		return t.bad("extended attribute %q of inode %d is impossible", x.Name, x.Ino)
	}
	return t.put(appendXattrKey(nil, x.Ino, string(x.Name)), x.Value)
}

func (t *loadTxn) addChunk(c *dumpChunk) error {
	if c.Ino > vfs.MaxIno || len(c.Extents) == 0 {
		return t.bad("chunk %d of inode %d is impossible", c.Index, c.Ino)
	}
	list := make([]Extent, 0, len(c.Extents))
	refs := make(map[uint64]blockRecord)
	for _, x := range c.Extents {
		if x[0] > MaxChunkSize || x[1] > MaxChunkSize || x[3] > MaxChunkSize || x[4] > MaxChunkSize {
			return t.bad("extent %v is impossible", x)
		}
		e := Extent{Pos: uint32(x[0]), Len: uint32(x[1]), Block: x[2], Size: uint32(x[3]), Off: uint32(x[4])}
		list = append(list, e)
		if e.Block != 0 {
			r := refs[e.Block]
			r.refs++
			r.live += uint64(e.Len)
			refs[e.Block] = r
		}
	}
	if err := checkExtents(list, t.header.Format.ChunkSize); err != nil {
		return t.bad("%w", err)
	}
	for id, more := range refs {
		key := appendBlockKey(nil, id)
		b, err := t.in.value(key)
		if err != nil {
			return err
		}
		if b == nil {
			return t.bad("block %d is not in the dump", id)
		}
		r, err := decodeBlock(b)
		if err != nil {
			return err
		}
		r.refs += more.refs
		r.live += more.live
		t.w.Put(key, r.encode(nil))
	}
	return t.put(appendChunkKey(nil, c.Ino, c.Index), encodeChunk(nil, list))
}

func (t *loadTxn) name(x *dumpName) error {
	name := string(x.Name)
	if x.Parent > vfs.MaxIno || x.Ino > vfs.MaxIno || t.header.Format.checkName(name) != nil || x.Cookie < firstCookie || x.Cookie >= 1<<63 {
		return t.bad("name %q of inode %d in directory %d is impossible", name, x.Ino, x.Parent)
	}
	var n inode
	if err := t.in.inode(x.Ino, &n); errors.Is(err, syscall.ESTALE) {
		return t.bad("inode %d is not in the dump", x.Ino)
	} else if err != nil {
		return err
	}
	ent := entry{ino: x.Ino, kind: n.kind(), cookie: x.Cookie}
	if !n.isDir() && n.nlink > 1 {
		t.w.Put(appendLinkKey(nil, x.Ino, x.Parent, name), nil)
	}
	if err := t.put(appendNameKey(nil, x.Parent, name), ent.encodeName(nil)); err != nil {
		return err
	}
	return t.put(appendEntryKey(nil, x.Parent, x.Cookie), ent.encodeEntry(nil, name))
}

func (t *loadTxn) past(x *dumpHistory) error {
	key, stamp, err := splitHistoryKey(x.Key)
	if err == nil {
		_, err = oldValue(key, x.Value)
	}
	if err != nil && err != kv.ErrNotFound || stamp > uint64(t.header.Stamp) {
		return t.bad("a record of history is unreadable")
	}
	return t.put(x.Key, x.Value)
}

// end makes what follows from the dump, checks it, and makes it a volume.
func (l *loader) end(want *DumpStats) error {
	if err := l.flush(); err != nil {
		return err
	}
	if l.stats != *want {
		return l.bad("the dump has %+v, it should have %+v", l.stats, *want)
	}
	if _, err := l.in.ReadByte(); err != io.EOF {
		return l.bad("something follows the end")
	}
	for _, step := range []func() error{l.retire, l.counters, l.quotas, l.check, l.publish} {
		if err := step(); err != nil {
			return err
		}
	}
	return l.db.Sync(l.ctx)
}

// retire puts blocks that nothing points to into the delete queue.
func (l *loader) retire() error {
	at := []byte{kindBlock}
	for more := true; more; {
		var next []byte
		err := l.db.Update(l.ctx, func(w kv.Txn) error {
			more = false
			n := 0
			type dead struct {
				id uint64
				r  blockRecord
			}
			var list []dead
			err := w.Scan(at, []byte{kindBlock + 1}, func(key, value []byte) (bool, error) {
				if n == maintainScan || len(list) == maintainBatch {
					more = true
					return false, nil
				}
				n++
				id, err := splitBlockKey(key)
				if err != nil {
					return false, err
				}
				r, err := decodeBlock(value)
				if err != nil {
					return false, err
				}
				if r.refs == 0 {
					list = append(list, dead{id, r})
				}
				next = append(append(next[:0], key...), 0)
				return true, nil
			})
			for _, d := range list {
				if d.r.retired == 0 {
					d.r.retired = uint64(l.header.Stamp)
				}
				w.Put(appendBlockKey(nil, d.id), d.r.encode(nil))
				w.Put(appendQueueKey(nil, d.r.retired, d.id), queueRecord{size: d.r.size, created: d.r.created}.encode(nil))
			}
			return err
		})
		if err != nil {
			return err
		}
		at = next
	}
	return nil
}

func (l *loader) counters() error {
	h := &l.header
	return l.db.Update(l.ctx, func(w kv.Txn) error {
		for name, n := range map[string]int64{
			counterIno: h.NextIno, counterBlock: h.NextBlock, counterSession: h.NextSession, counterStamp: h.Stamp,
			counterInodes: l.use.inodes, counterBytes: l.use.bytes,
		} {
			w.Put(keyCounter(name), kv.CounterValue(n))
		}
		since := uint64(h.Since)
		if since == 0 && (h.Format.Retention > 0 || l.stats.Snapshots > 0) {
			since = max(uint64(h.Stamp), 1)
		}
		if since != 0 {
			w.Put(keySince(), sinceRecord(since))
		}
		return nil
	})
}

// quotas counts the use of quotas.
func (l *loader) quotas() error {
	var inos []vfs.Ino
	for from := vfs.Ino(0); ; from = inos[len(inos)-1] + 1 {
		inos = inos[:0]
		uses := make(map[vfs.Ino]usageSum)
		err := l.db.View(l.ctx, func(r kv.Reader) error {
			v := view{r: r}
			err := r.Scan(appendQuotaKey(nil, from), []byte{kindQuota + 1}, func(key, _ []byte) (bool, error) {
				ino, err := keyIno(key)
				inos = append(inos, ino)
				return len(inos) < maintainBatch, err
			})
			if err != nil {
				return err
			}
			for _, ino := range inos {
				if uses[ino], err = v.subtree(ino); err != nil {
					return l.bad("quota of directory %d: %w", ino, err)
				}
			}
			return nil
		})
		if err != nil || len(inos) == 0 {
			return err
		}
		err = l.db.Update(l.ctx, func(w kv.Txn) error {
			for ino, use := range uses {
				w.Put(appendUsageKey(nil, ino, usageBytes), kv.CounterValue(use.bytes))
				w.Put(appendUsageKey(nil, ino, usageInodes), kv.CounterValue(use.inodes))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}

// check verifies the invariants.
func (l *loader) check() error {
	e := &Engine{db: l.db, readOnly: true}
	e.format.Store(&l.header.Format)
	var text []string
	sum, err := e.Check(l.ctx, func(p Problem) {
		if len(text) < 5 {
			text = append(text, p.String())
		}
	})
	if err == nil && sum.Problems > 0 {
		err = vfs.WithErrno(syscall.EINVAL, fmt.Errorf("what the dump says does not fit together in %d places, such as: %s", sum.Problems, strings.Join(text, "; ")))
	}
	return err
}

func (l *loader) publish() error {
	text, err := json.Marshal(&l.header.Format)
	if err != nil {
		return err
	}
	return l.db.Update(l.ctx, func(w kv.Txn) error {
		w.Put(keyFormat(), text)
		return nil
	})
}
