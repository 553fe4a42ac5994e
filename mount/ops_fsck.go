package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/kv/pebble"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// Progress is how far an operation is.
type Progress struct {
	Stage string `json:"stage"`
	Unit  string `json:"unit"` // what Done counts
	Done  int64  `json:"done"`
	Total int64  `json:"total,omitempty"` // 0: not known
	// Problem, if not empty, is a problem that was just found.
	Problem string `json:"problem,omitempty"`
}

// FsckArgs say how thorough a check is.
type FsckArgs struct {
	// Data reads and verifies every block, not only its presence.
	Data bool `json:"data"`
	// Repair makes the records fit each other again before the rest is checked.
	Repair bool `json:"repair"`
}

// FsckResult is what a check found. A volume without problems is Clean; orphans are
// no problem, only waste.
type FsckResult struct {
	Clean    bool              `json:"clean"`
	Repaired int64             `json:"repaired,omitempty"` // problems of the metadata that are no more
	Meta     meta.CheckSummary `json:"meta"`
	Store    meta.StoreSummary `json:"store"`
	Verified int64             `json:"verified"` // blocks read in full
	Damaged  int64             `json:"damaged"`  // of those
	// Problems in words, and files that lack data; at most maxReported of each.
	Problems []string `json:"problems,omitempty"`
	Files    []string `json:"files,omitempty"`
}

const maxReported = 10_000

func init() { registerOp("fsck", opFsck) }

func opFsck(ctx context.Context, v *Volume, args FsckArgs, progress func(any)) (any, error) {
	f := &fsck{v: v, args: args, progress: progress, bad: map[uint64]bool{}}
	if err := v.sync(ctx); err != nil {
		return nil, fmt.Errorf("fsck: what is written cannot be stored: %w", err)
	}
	if err := f.run(ctx); err != nil {
		return nil, fmt.Errorf("fsck: %w", err)
	}
	f.Clean = f.Meta.Problems == 0 && f.Store.Missing == 0 && f.Store.Foreign == 0 && f.Damaged == 0
	return f.FsckResult, nil
}

type fsck struct {
	FsckResult
	v        *Volume
	args     FsckArgs
	progress func(any)
	mu       sync.Mutex
	bad      map[uint64]bool // missing and damaged blocks
}

func (f *fsck) run(ctx context.Context) error {
	if err := f.checkMeta(ctx); err != nil {
		return err
	}
	if err := f.compareStore(ctx); err != nil {
		return err
	}
	if f.args.Data {
		if err := f.verifyBlocks(ctx); err != nil {
			return err
		}
	}
	return f.nameFiles(ctx)
}

func (f *fsck) checkMeta(ctx context.Context) (err error) {
	found := func(p meta.Problem) { f.problem("metadata", p.String()) }
	if !f.args.Repair {
		f.progress(Progress{Stage: "metadata"})
		f.Meta, err = f.v.Engine.Check(ctx, found)
		return err
	}
	f.progress(Progress{Stage: "repair"})
	scratch, remove, err := f.v.scratch()
	if err != nil {
		return err
	}
	defer remove()
	repaired := func(p meta.Problem) { f.progress(Progress{Stage: "repaired", Problem: p.String()}) }
	sum, err := f.v.Engine.Repair(ctx, scratch, repaired, found)
	f.Repaired, f.Meta = sum.Fixed, sum.Left
	return err
}

func (f *fsck) problem(stage, text string) {
	f.mu.Lock()
	if len(f.Problems) < maxReported {
		f.Problems = append(f.Problems, text)
	}
	f.mu.Unlock()
	f.progress(Progress{Stage: stage, Problem: text})
}

// compareStore looks for blocks without an object.
func (f *fsck) compareStore(ctx context.Context) error {
	scratch, remove, err := f.v.scratch()
	if err != nil {
		return err
	}
	defer remove()
	var missing, missingBytes int64
	f.Store, err = f.v.Engine.FindOrphans(ctx, f.v.walk(ctx, f.progress), meta.DefaultGrace, scratch, func(found meta.StoreFinding) error {
		switch found.Problem {
		case meta.Foreign:
			f.problem("store", fmt.Sprintf("object of block %d, a number that was never given out: the metadata is older than the store, or the object is another volume's", found.ID))
		case meta.Missing:
			// A block that waits in the journal has no object yet.
			there, err := f.v.Blocks.Exists(ctx, block.Ref{ID: block.ID(found.ID), Size: uint32(found.Bytes)})
			if err == nil && there {
				return nil
			}
			if err != nil && !errors.Is(err, block.ErrDamaged) {
				return err
			}
			missing++
			missingBytes += found.Bytes
			if !found.Past {
				f.bad[found.ID] = true
			}
			f.problem("store", fmt.Sprintf("block %d of %d bytes is missing in the store", found.ID, found.Bytes))
		}
		return nil
	})
	f.Store.Missing, f.Store.MissingBytes = missing, missingBytes
	return err
}

// verifyBlocks reads every block that files, now or in the past, need.
func (f *fsck) verifyBlocks(ctx context.Context) error {
	workers := 2
	if f.v.Objects.Capabilities().Remote {
		workers = 16
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	refs := make(chan meta.BlockRef)
	var verified atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for ref := range refs {
				err := f.verify(ctx, ref)
				if err != nil {
					cancel(err)
					return
				}
				n := verified.Add(1)
				if n%64 == 0 {
					f.progress(Progress{Stage: "data", Unit: "blocks", Done: n, Total: f.Meta.Blocks})
				}
			}
		})
	}
	err := f.v.Engine.CheckBlocks(ctx, func(ref meta.BlockRef) error {
		select {
		case refs <- ref:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	close(refs)
	wg.Wait()
	f.Verified = verified.Load()
	if err == nil {
		err = context.Cause(ctx)
	}
	return err
}

// verify reads one block. Its error is one of the attempt, not of the block.
func (f *fsck) verify(ctx context.Context, ref meta.BlockRef) error {
	f.mu.Lock()
	known := f.bad[ref.ID]
	f.mu.Unlock()
	if known {
		return nil
	}
	err := f.v.Blocks.Verify(ctx, block.Ref{ID: block.ID(ref.ID), Size: ref.Size})
	if err == nil || !errors.Is(err, block.ErrDamaged) && !errors.Is(err, block.ErrMissing) {
		return err
	}
	if needed, nerr := f.v.Engine.Needed(ctx, ref.ID); nerr != nil || !needed {
		return nerr // deleted meanwhile
	}
	f.mu.Lock()
	f.Damaged++
	f.bad[ref.ID] = true
	f.mu.Unlock()
	f.problem("data", err.Error())
	return nil
}

// nameFiles finds the files that need missing and damaged blocks.
func (f *fsck) nameFiles(ctx context.Context) error {
	if len(f.bad) == 0 {
		return nil
	}
	f.progress(Progress{Stage: "files"})
	seen := map[vfs.Ino]bool{}
	return f.v.Engine.BlockUsers(ctx, f.bad, func(u meta.BlockUser) error {
		if seen[u.Ino] || len(f.Files) >= maxReported {
			return nil
		}
		seen[u.Ino] = true
		name, err := f.v.Engine.Path(ctx, u.Ino)
		if err == nil && f.v.locked() {
			name = fmt.Sprintf("(inode %d, whose name is sealed)", u.Ino)
		}
		if err != nil {
			name = fmt.Sprintf("(inode %d, which has no name)", u.Ino)
		}
		f.Files = append(f.Files, name)
		f.problem("files", fmt.Sprintf("%s lacks data, first at byte %d", name, u.Offset))
		return nil
	})
}

// walk lists the store for FindOrphans.
func (v *Volume) walk(ctx context.Context, progress func(any)) func(fn func(uint64, int64, time.Time) error) error {
	return func(fn func(uint64, int64, time.Time) error) error {
		n := int64(0)
		return v.Blocks.Walk(ctx, func(id block.ID, size int64, mod time.Time) error {
			if n++; n%1000 == 0 {
				progress(Progress{Stage: "store", Unit: "objects", Done: n})
			}
			return fn(uint64(id), size, mod)
		})
	}
}

// scratch makes an empty database for remembering things during an operation.
func (v *Volume) scratch() (*pebble.DB, func(), error) {
	dir, err := os.MkdirTemp(v.Record.dir, scratchPrefix)
	if err != nil {
		return nil, nil, err
	}
	db, err := pebble.Open(filepath.Join(dir, "db"), pebble.Options{CacheBytes: 8 << 20, MemTableBytes: 4 << 20})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return db, func() { db.Close(); os.RemoveAll(dir) }, nil
}

// sync makes what was written part of the volume, so that an operation sees it.
func (v *Volume) sync(ctx context.Context) error {
	if v.point != "" {
		if err := syncPoint(v.point); err != nil { // what the kernel holds
			return err
		}
	}
	return v.FS.Sync(ctx)
}
