package meta

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/massif-fs/massif/vfs"
)

// A dump is the metadata of a volume as text that does not depend on the database
// it was in: one JSON object a line, in this order: the header; blocks; inodes, each
// with link target and inline content; extended attributes; chunks; names; quotas;
// and, if history is dumped, snapshots and history; at last a count of all that. What follows
// from it (listing order, link records, references of blocks, totals, use of
// quotas) is made anew by Load. Data of blocks is not in it.
//
// Inodes without a name are in a dump as well, and go when the loaded volume is
// opened, as after a crash.

// DumpVersion is the version of dumps that this program writes, and the greatest
// that it reads.
const DumpVersion = 1

// DumpStats counts what a dump holds.
type DumpStats struct {
	Blocks    int64 `json:"blocks"`
	Inodes    int64 `json:"inodes"`
	Xattrs    int64 `json:"xattrs"`
	Chunks    int64 `json:"chunks"`
	Names     int64 `json:"names"`
	Quotas    int64 `json:"quotas"`
	Snapshots int64 `json:"snapshots"`
	History   int64 `json:"history"`
}

// DumpOptions say what to dump.
type DumpOptions struct {
	// History dumps snapshots and history with the present. A dump of a past has
	// none.
	History  bool
	Progress func(DumpStats) // called now and then; may be nil
}

// dumpLine is a line of a dump; one field is set.
type dumpLine struct {
	Header   *dumpHeader   `json:"massif,omitempty"`
	Block    *dumpBlock    `json:"block,omitempty"`
	Inode    *dumpInode    `json:"inode,omitempty"`
	Xattr    *dumpXattr    `json:"xattr,omitempty"`
	Chunk    *dumpChunk    `json:"chunk,omitempty"`
	Name     *dumpName     `json:"name,omitempty"`
	Quota    *dumpQuota    `json:"quota,omitempty"`
	Snapshot *dumpSnapshot `json:"snapshot,omitempty"`
	History  *dumpHistory  `json:"history,omitempty"`
	End      *DumpStats    `json:"end,omitempty"`

	number int // of the line, when it is read
}

type dumpHeader struct {
	Dump    string    `json:"dump"` // "volume metadata"
	Version int       `json:"version"`
	Time    time.Time `json:"time"` // of the state
	Format  Format    `json:"format"`
	// Counters: the next inode, block and session, the bound on stamps, and since
	// when there is history (0: there is none).
	NextIno     int64 `json:"nextIno"`
	NextBlock   int64 `json:"nextBlock"`
	NextSession int64 `json:"nextSession"`
	Stamp       int64 `json:"stamp"`
	Since       int64 `json:"since"`
}

const dumpKind = "volume metadata"

type dumpBlock struct {
	ID      uint64 `json:"id"`
	Size    uint32 `json:"size"`
	Created uint64 `json:"created"`
	Retired uint64 `json:"retired,omitempty"`
}

type dumpInode struct {
	Ino     vfs.Ino   `json:"ino"`
	Mode    uint32    `json:"mode"`
	Flags   uint8     `json:"flags,omitempty"`
	Nlink   uint32    `json:"nlink"`
	UID     uint32    `json:"uid"`
	GID     uint32    `json:"gid"`
	Gen     uint32    `json:"gen"`
	Rdev    uint32    `json:"rdev,omitempty"`
	Size    uint64    `json:"size,omitempty"`
	Alloc   uint64    `json:"alloc,omitempty"`
	Parent  vfs.Ino   `json:"parent"`
	Cookie  uint64    `json:"cookie,omitempty"`
	Next    uint64    `json:"next,omitempty"`
	Entries uint64    `json:"entries,omitempty"`
	Atime   dumpTime  `json:"atime"`
	Mtime   dumpTime  `json:"mtime"`
	Ctime   dumpTime  `json:"ctime"`
	Btime   dumpTime  `json:"btime"`
	Target  dumpBytes `json:"target,omitempty"`
	Data    []byte    `json:"data,omitempty"`
}

// dumpTime is seconds and nanoseconds.
type dumpTime [2]int64

type dumpXattr struct {
	Ino   vfs.Ino   `json:"ino"`
	Name  dumpBytes `json:"name"`
	Value []byte    `json:"value"`
}

// dumpChunk is a chunk or, of one with many extents, a piece: more of the same
// chunk follow.
type dumpChunk struct {
	Ino     vfs.Ino     `json:"ino"`
	Index   uint32      `json:"index"`
	More    bool        `json:"more,omitempty"`
	Extents [][5]uint64 `json:"extents"` // position, length, block, its size, offset
}

const dumpExtents = 4096 // of a line

type dumpName struct {
	Parent vfs.Ino   `json:"parent"`
	Name   dumpBytes `json:"name"`
	Ino    vfs.Ino   `json:"ino"`
	Cookie uint64    `json:"cookie"`
}

type dumpQuota struct {
	Ino    vfs.Ino `json:"ino"`
	Bytes  uint64  `json:"bytes"`
	Inodes uint64  `json:"inodes"`
}

type dumpSnapshot struct {
	Name  string `json:"name"`
	Stamp uint64 `json:"stamp"`
}

// dumpHistory is a record of history as it is.
type dumpHistory struct {
	Key   []byte `json:"key"`
	Value []byte `json:"value"`
}

// dumpBytes is text, or, where it is none, {"base64": …}.
type dumpBytes []byte

type dumpBinary struct {
	Base64 []byte `json:"base64"`
}

func (b dumpBytes) MarshalJSON() ([]byte, error) {
	if utf8.Valid(b) {
		return json.Marshal(string(b))
	}
	return json.Marshal(dumpBinary{b})
}

func (b *dumpBytes) UnmarshalJSON(text []byte) error {
	if len(text) > 0 && text[0] == '"' {
		var s string
		err := json.Unmarshal(text, &s)
		*b = dumpBytes(s)
		return err
	}
	var x dumpBinary
	err := json.Unmarshal(text, &x)
	*b = x.Base64
	return err
}

func dumpedTime(t vfs.Time) dumpTime { return dumpTime{t.Sec, int64(t.Nsec)} }

// Dump writes the metadata of the volume, of one moment, to w, while the volume may
// be in use. An engine of a past dumps that.
func (e *Engine) Dump(ctx context.Context, w io.Writer, o DumpOptions) (DumpStats, error) {
	if o.History && e.at != 0 {
		return DumpStats{}, vfs.WithErrno(syscall.EINVAL, errors.New("dump: a past of a volume has no history of its own"))
	}
	out := bufio.NewWriterSize(w, 256<<10)
	d := &dumper{ctx: ctx, out: json.NewEncoder(out), o: o}
	d.out.SetEscapeHTML(false)
	err := e.view(ctx, func(v *view) error {
		d.v = v
		d.in = view{e: e, r: v.r}
		return d.run()
	})
	if err == nil {
		err = out.Flush()
	}
	return d.stats, fail("dump metadata", "", err)
}

type dumper struct {
	ctx   context.Context
	v     *view // for scans
	in    view  // for reads within them
	out   *json.Encoder
	o     DumpOptions
	stats DumpStats
	lines int64
}

func (d *dumper) run() error {
	passes := []func() error{d.header, d.blocks, d.inodes, d.xattrs, d.chunks, d.names, d.quotas}
	if d.o.History {
		passes = append(passes, d.snapshots, d.history)
	}
	for _, pass := range passes {
		if err := pass(); err != nil {
			return err
		}
	}
	return d.line(&dumpLine{End: &d.stats})
}

func (d *dumper) line(l *dumpLine) error {
	if d.lines++; d.lines%4096 == 0 {
		if err := d.ctx.Err(); err != nil {
			return err
		}
		if d.o.Progress != nil {
			d.o.Progress(d.stats)
		}
	}
	return d.out.Encode(l)
}

// each scans the records of a kind.
func (d *dumper) each(kind byte, fn func(key, value []byte) error) error {
	return d.v.r.Scan([]byte{kind}, []byte{kind + 1}, func(key, value []byte) (bool, error) {
		if size := fixedKey(kind); size != 0 && len(key) != size {
			return false, badKey(key)
		}
		return true, fn(key, value)
	})
}

func (d *dumper) header() error {
	e := d.v.e
	h := &dumpHeader{Dump: dumpKind, Version: DumpVersion, Time: e.clockNow().UTC()}
	if e.at != 0 {
		h.Time = stampTime(e.at)
	}
	f, err := d.v.format()
	if err != nil {
		return err
	}
	h.Format = *f
	for name, to := range map[string]*int64{counterIno: &h.NextIno, counterBlock: &h.NextBlock, counterSession: &h.NextSession, counterStamp: &h.Stamp} {
		if *to, err = d.v.counter(keyCounter(name)); err != nil {
			return err
		}
	}
	if d.o.History {
		since, err := d.v.since()
		if err != nil {
			return err
		}
		h.Since = int64(since)
	}
	return d.line(&dumpLine{Header: h})
}

func (d *dumper) blocks() error {
	return d.each(kindBlock, func(key, value []byte) error {
		id, err := splitBlockKey(key)
		if err != nil {
			return err
		}
		r, err := decodeBlock(value)
		if err != nil {
			return fmt.Errorf("block %d: %w", id, err)
		}
		d.stats.Blocks++
		return d.line(&dumpLine{Block: &dumpBlock{ID: id, Size: r.size, Created: r.created, Retired: r.retired}})
	})
}

func (d *dumper) inodes() error {
	return d.each(kindInode, func(key, value []byte) error {
		ino, err := keyIno(key)
		if err != nil {
			return err
		}
		var n inode
		if err := n.decode(value); err != nil {
			return fmt.Errorf("inode %d: %w", ino, err)
		}
		x := &dumpInode{
			Ino: ino, Mode: n.mode, Flags: uint8(n.flags), Nlink: n.nlink, UID: n.uid, GID: n.gid, Gen: n.gen, Rdev: n.rdev,
			Size: n.size, Alloc: n.alloc, Parent: n.parent, Cookie: n.cookie, Next: n.next, Entries: n.entries,
			Atime: dumpedTime(n.atime), Mtime: dumpedTime(n.mtime), Ctime: dumpedTime(n.ctime), Btime: dumpedTime(n.btime),
		}
		if n.isSymlink() {
			target, err := d.in.target(ino)
			if err != nil {
				return err
			}
			x.Target = dumpBytes(target)
		}
		if n.flags&flagInline != 0 {
			if x.Data, err = d.in.inline(ino); err != nil {
				return err
			}
		}
		d.stats.Inodes++
		return d.line(&dumpLine{Inode: x})
	})
}

func (d *dumper) xattrs() error {
	return d.each(kindXattr, func(key, value []byte) error {
		ino, name, err := splitXattrKey(key)
		if err != nil {
			return err
		}
		d.stats.Xattrs++
		return d.line(&dumpLine{Xattr: &dumpXattr{Ino: ino, Name: name, Value: append([]byte{}, value...)}})
	})
}

func (d *dumper) chunks() error {
	var list []Extent
	return d.each(kindChunk, func(key, value []byte) error {
		ino, index, err := splitChunkKey(key)
		if err != nil {
			return err
		}
		if list, err = decodeChunk(list[:0], value); err != nil {
			return fmt.Errorf("chunk %d of inode %d: %w", index, ino, err)
		}
		d.stats.Chunks++
		for rest := list; len(rest) > 0; {
			n := min(len(rest), dumpExtents)
			c := &dumpChunk{Ino: ino, Index: index, More: n < len(rest)}
			for _, x := range rest[:n] {
				c.Extents = append(c.Extents, [5]uint64{uint64(x.Pos), uint64(x.Len), x.Block, uint64(x.Size), uint64(x.Off)})
			}
			rest = rest[n:]
			if err := d.line(&dumpLine{Chunk: c}); err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *dumper) names() error {
	return d.each(kindName, func(key, value []byte) error {
		parent, name, err := splitNameKey(key)
		if err != nil {
			return err
		}
		ent, err := decodeName(value)
		if err != nil {
			return fmt.Errorf("name %q in directory %d: %w", name, parent, err)
		}
		d.stats.Names++
		return d.line(&dumpLine{Name: &dumpName{Parent: parent, Name: name, Ino: ent.ino, Cookie: ent.cookie}})
	})
}

// quotas: of a past, only those that are about a directory it had.
func (d *dumper) quotas() error {
	return d.each(kindQuota, func(key, value []byte) error {
		ino, err := keyIno(key)
		if err != nil {
			return err
		}
		r, err := decodeLimit(value)
		if err != nil {
			return fmt.Errorf("quota of directory %d: %w", ino, err)
		}
		var n inode
		if err := d.in.inode(ino, &n); errors.Is(err, syscall.ESTALE) && d.v.e.at != 0 {
			return nil
		} else if err != nil {
			return err
		}
		d.stats.Quotas++
		return d.line(&dumpLine{Quota: &dumpQuota{Ino: ino, Bytes: r.bytes, Inodes: r.inodes}})
	})
}

func (d *dumper) snapshots() error {
	return d.v.snapshots(func(s Snapshot) error {
		d.stats.Snapshots++
		return d.line(&dumpLine{Snapshot: &dumpSnapshot{Name: s.Name, Stamp: s.stamp}})
	})
}

func (d *dumper) history() error {
	return d.each(kindHistory, func(key, value []byte) error {
		d.stats.History++
		return d.line(&dumpLine{History: &dumpHistory{Key: bytes.Clone(key), Value: append([]byte{}, value...)}})
	})
}
