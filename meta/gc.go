package meta

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// Comparing the store with the records, in both directions, while the volume is
// in use
//
// An object without a record is garbage if nobody is about to commit it. A client
// allocates an id, puts the block and commits it, in that order; ids are never given
// out twice, and a commit that is made takes the id's record into existence at once.
// So an object that the records do not name is either on its way (put, not
// committed yet) or was left by a crash or a failed commit. Only time tells them
// apart: an object that was put longer than a grace ago is not on its way any more.
// A day is right for a volume in use; for one that nobody uses there is nothing on
// its way, and no grace is needed. The record is looked up after the object was
// listed, so that one that was committed in between is found.
//
// An object whose id has not been given out at all belongs to something else, or the
// database is an older one than the store: that is for people to decide, and is
// reported as foreign.
//
// A record without an object is damage, unless the block was made after the
// listing began, or is in the delete queue and nobody can need it: then it may have
// been deleted but not been forgotten yet. Records are looked at after the listing,
// and once more before they are reported.

// DefaultGrace is how old an object must be to be called an orphan while a volume
// is in use.
const DefaultGrace = 24 * time.Hour

// StoreProblem tells what is wrong with an object or a block.
type StoreProblem string

const (
	Orphan  StoreProblem = "orphan"  // an object that nobody refers to; it may be deleted
	Foreign StoreProblem = "foreign" // an object with an id that was never given out
	Missing StoreProblem = "missing" // a block without an object: files, now or in the past, have lost data
)

// StoreFinding is a difference between store and records.
type StoreFinding struct {
	Problem StoreProblem `json:"problem"`
	ID      uint64       `json:"id"`
	Bytes   int64        `json:"bytes"`          // of an object: its size; of a missing block: plain bytes
	Mod     time.Time    `json:"mod,omitzero"`   // of an object
	Past    bool         `json:"past,omitempty"` // only the past needs the missing block
}

// StoreSummary counts what FindOrphans has seen.
type StoreSummary struct {
	Objects      int64 `json:"objects"`
	Bytes        int64 `json:"bytes"`
	Orphans      int64 `json:"orphans"`
	OrphanBytes  int64 `json:"orphanBytes"`
	Young        int64 `json:"young"` // without a record, but within the grace
	Foreign      int64 `json:"foreign"`
	Missing      int64 `json:"missing"`
	MissingBytes int64 `json:"missingBytes"`
}

type object struct {
	id   uint64
	size int64
	mod  time.Time
}

// FindOrphans compares the objects that walk lists, in any order, with the
// volume's records and calls report for each difference. scratch is an empty
// database for remembering what was listed; without it (nil) missing blocks are
// not looked for. An error of report or walk ends it and is returned. Memory does
// not grow with the number of objects.
func (e *Engine) FindOrphans(ctx context.Context, walk func(fn func(id uint64, size int64, mod time.Time) error) error,
	grace time.Duration, scratch kv.DB, report func(StoreFinding) error) (StoreSummary, error) {
	g := &collector{e: e, ctx: ctx, scratch: scratch, report: report, began: e.clock.tick(e.now())}
	g.oldest = e.clockNow().Add(-grace)
	err := walk(func(id uint64, size int64, mod time.Time) error {
		g.batch = append(g.batch, object{id, size, mod})
		if len(g.batch) < maintainBatch {
			return ctx.Err()
		}
		return g.listed()
	})
	if err == nil {
		err = g.listed()
	}
	if err == nil && scratch != nil {
		err = g.missing()
	}
	return g.sum, fail("compare store and metadata", "", err)
}

type collector struct {
	e       *Engine
	ctx     context.Context
	scratch kv.DB
	report  func(StoreFinding) error
	began   uint64 // stamp
	oldest  time.Time
	batch   []object
	sum     StoreSummary
}

// listed deals with the objects listed last.
func (g *collector) listed() error {
	var found []StoreFinding
	err := g.e.view(g.ctx, func(v *view) error {
		next, err := v.counter(keyCounter(counterBlock))
		if err != nil {
			return err
		}
		for _, o := range g.batch {
			g.sum.Objects++
			g.sum.Bytes += o.size
			v.key = appendBlockKey(v.key[:0], o.id)
			b, err := v.value(v.key)
			switch {
			case err != nil:
				return err
			case b != nil:
			case o.id == 0 || o.id >= uint64(next):
				g.sum.Foreign++
				found = append(found, StoreFinding{Problem: Foreign, ID: o.id, Bytes: o.size, Mod: o.mod})
			case o.mod.After(g.oldest):
				g.sum.Young++
			default:
				g.sum.Orphans++
				g.sum.OrphanBytes += o.size
				found = append(found, StoreFinding{Problem: Orphan, ID: o.id, Bytes: o.size, Mod: o.mod})
			}
		}
		return nil
	})
	if err == nil && g.scratch != nil && len(g.batch) > 0 {
		err = g.scratch.Update(g.ctx, func(w kv.Txn) error {
			var key []byte
			for _, o := range g.batch {
				key = binary.BigEndian.AppendUint64(key[:0], o.id)
				w.Put(key, nil)
			}
			return nil
		})
	}
	if err != nil {
		return err
	}
	g.batch = g.batch[:0]
	return g.tell(found)
}

func (g *collector) tell(found []StoreFinding) error {
	for _, f := range found {
		if err := g.report(f); err != nil {
			return err
		}
	}
	return nil
}

// missing looks for blocks that were not listed.
func (g *collector) missing() error {
	var page []BlockRef
	return g.e.pageBlocks(g.ctx, g.began, func(refs []BlockRef) error {
		page = page[:0]
		err := g.scratch.View(g.ctx, func(r kv.Reader) error {
			for _, ref := range refs {
				_, err := r.Get(binary.BigEndian.AppendUint64(nil, ref.ID))
				switch {
				case errors.Is(err, kv.ErrNotFound):
					page = append(page, ref)
				case err != nil:
					return err
				}
			}
			return nil
		})
		if err != nil || len(page) == 0 {
			return err
		}
		var found []StoreFinding
		err = g.e.view(g.ctx, func(v *view) error { // may they have been deleted meanwhile?
			found = found[:0]
			needs, err := v.needs()
			if err != nil {
				return err
			}
			for _, ref := range page {
				now, needed, err := v.blockRef(ref.ID, needs)
				if err != nil {
					return err
				}
				if needed {
					found = append(found, StoreFinding{Problem: Missing, ID: ref.ID, Bytes: int64(ref.Size), Past: now.Refs == 0})
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, f := range found {
			g.sum.Missing++
			g.sum.MissingBytes += f.Bytes
		}
		return g.tell(found)
	})
}

// BlockRef is a block that files, now or in the past, need.
type BlockRef struct {
	ID   uint64 `json:"id"`
	Size uint32 `json:"size"` // plain bytes
	Refs uint64 `json:"refs"` // extents that point into it; 0: only the past needs it
	Live uint64 `json:"live"` // bytes that they cover, each counted
}

// CheckBlocks calls fn with each block that present files or the past need, so
// that the caller can look for it in the store. A block may be retired and deleted
// while fn looks at it: ask Needed before calling it missing. An error of fn ends
// it and is returned.
func (e *Engine) CheckBlocks(ctx context.Context, fn func(BlockRef) error) error {
	err := e.pageBlocks(ctx, 1<<64-1, func(refs []BlockRef) error {
		for _, ref := range refs {
			if err := fn(ref); err != nil {
				return err
			}
		}
		return nil
	})
	return fail("check blocks", "", err)
}

// Needed tells whether a block is needed by present files or by the past.
func (e *Engine) Needed(ctx context.Context, id uint64) (needed bool, err error) {
	err = e.view(ctx, func(v *view) error {
		needs, err := v.needs()
		if err == nil {
			_, needed, err = v.blockRef(id, needs)
		}
		return err
	})
	return needed, fail("look for block", fmt.Sprint(id), err)
}

// needs is what decides whether a block is needed.
type needs struct {
	since uint64
	shots []uint64
}

func (v *view) needs() (n needs, err error) {
	if n.since, err = v.since(); err == nil {
		n.shots, err = v.snapshotStamps()
	}
	return n, err
}

func (n *needs) block(r *blockRecord) bool {
	return r.refs > 0 || n.since != 0 && (r.retired > n.since || anyBetween(n.shots, r.created, r.retired))
}

// blockRef reads a block's record and tells whether anybody needs it.
func (v *view) blockRef(id uint64, n needs) (ref BlockRef, needed bool, err error) {
	b, err := v.value(appendBlockKey(nil, id))
	if err != nil || b == nil {
		return ref, false, err
	}
	r, err := decodeBlock(b)
	if err != nil {
		return ref, false, fmt.Errorf("block %d: %w", id, err)
	}
	ref = BlockRef{ID: id, Size: r.size, Refs: r.refs, Live: r.live}
	return ref, n.block(&r), nil
}

// pageBlocks calls fn with blocks that are needed and were made before a stamp, a
// page at a time and while no state of the store is held.
func (e *Engine) pageBlocks(ctx context.Context, before uint64, fn func([]BlockRef) error) error {
	at := uint64(0)
	var page []BlockRef
	for more := true; more; {
		err := e.view(ctx, func(v *view) error {
			page, more = page[:0], false
			needs, err := v.needs()
			if err != nil {
				return err
			}
			n := 0
			return v.r.Scan(appendBlockKey(nil, at), []byte{kindBlock + 1}, func(key, value []byte) (bool, error) {
				if n == maintainBatch {
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
					return false, fmt.Errorf("block %d: %w", id, err)
				}
				if at = id + 1; r.created < before && needs.block(&r) {
					page = append(page, BlockRef{ID: id, Size: r.size, Refs: r.refs, Live: r.live})
				}
				return true, nil
			})
		})
		if err != nil {
			return err
		}
		if err := fn(page); err != nil {
			return err
		}
	}
	return nil
}

// BlockUser is a place in a present file that needs a block.
type BlockUser struct {
	Block  uint64  `json:"block"`
	Ino    vfs.Ino `json:"ino"`
	Offset uint64  `json:"offset"` // in the file
	Len    uint32  `json:"len"`
}

// BlockUsers calls fn with each place in present files that needs one of blocks.
// It reads the layout of all files.
func (e *Engine) BlockUsers(ctx context.Context, blocks map[uint64]bool, fn func(BlockUser) error) error {
	size := uint64(e.format.Load().ChunkSize)
	var failed error
	err := e.Fragmented(ctx, 1, func(ino vfs.Ino, index uint32, list []Extent) bool {
		for _, x := range list {
			if x.Block != 0 && blocks[x.Block] && failed == nil {
				failed = fn(BlockUser{Block: x.Block, Ino: ino, Offset: uint64(index)*size + uint64(x.Pos), Len: x.Len})
			}
		}
		return failed == nil
	})
	return errors.Join(err, failed)
}

// Path returns where an inode is, from the root, for people: one of its names if it
// has several. ESTALE if it does not exist, ENOENT if it has no name.
func (e *Engine) Path(ctx context.Context, ino vfs.Ino) (path string, err error) {
	err = e.view(ctx, func(v *view) (err error) {
		path, err = v.path(ino)
		return err
	})
	return path, fail("find path of inode", fmt.Sprint(ino), err)
}

func (v *view) path(ino vfs.Ino) (string, error) {
	if ino == vfs.Root {
		return "/", nil
	}
	path := ""
	for depth := 0; ino != vfs.Root; depth++ {
		parent, name, err := v.nameOf(ino)
		if err != nil {
			return "", err
		}
		if depth > maxDepth || len(path) > 1<<20 {
			return "", corrupt("directories above %d do not lead to the root", ino)
		}
		path = "/" + v.e.shownName(parent, name) + path
		ino = parent
	}
	return path, nil
}

// nameOf returns a name of an inode and the directory it is in: ENOENT if it has
// none.
func (v *view) nameOf(ino vfs.Ino) (parent vfs.Ino, name string, err error) {
	var n inode
	if err := v.inode(ino, &n); err != nil {
		return 0, "", err
	}
	if n.parent == 0 {
		return 0, "", syscall.ENOENT
	}
	if n.isDir() || n.nlink == 1 {
		b, err := v.value(appendEntryKey(nil, n.parent, n.cookie))
		if err != nil {
			return 0, "", err
		}
		if b == nil {
			return 0, "", corrupt("the name of inode %d in directory %d is missing", ino, n.parent)
		}
		_, text, err := decodeEntry(b)
		return n.parent, string(text), err
	}
	err = v.links(ino, func(dir vfs.Ino, text []byte) (bool, error) {
		parent, name = dir, string(text)
		return false, nil
	})
	if err == nil && name == "" {
		err = corrupt("no name of inode %d is recorded", ino)
	}
	return parent, name, err
}
