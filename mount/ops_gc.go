package mount

import (
	"context"
	"fmt"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/meta"
)

// GCArgs say what a collection does.
type GCArgs struct {
	// DryRun only counts.
	DryRun bool `json:"dryRun"`
	// Compact writes chunks anew that lie in many pieces.
	Compact bool `json:"compact"`
	// Grace is how old an object that no record names must be; nil: a day on a
	// mounted or shared volume, none on one that is not.
	Grace *time.Duration `json:"grace_ns,omitempty"`
}

// GCResult is what a collection did, or with DryRun would do.
type GCResult struct {
	Orphans      int64 `json:"orphans"` // objects that no record names
	OrphanBytes  int64 `json:"orphanBytes"`
	Young        int64 `json:"young"`   // such objects within the grace, which stay
	Foreign      int64 `json:"foreign"` // objects that are not this volume's, which stay
	Objects      int64 `json:"objects"` // all objects
	Bytes        int64 `json:"bytes"`   // of all objects
	Expired      int   `json:"expired"` // records of history
	Compacted    int   `json:"compacted"`
	ForeignKeys  int64 `json:"foreignKeys"`
	DeletedBytes int64 `json:"deletedBytes"` // of orphans
}

func init() { registerOp("gc", opGC) }

// orphanBatch is how many orphans are deleted at a time.
const orphanBatch = 1000

func opGC(ctx context.Context, v *Volume, args GCArgs, progress func(any)) (any, error) {
	var r GCResult
	if err := v.sync(ctx); err != nil {
		return nil, fmt.Errorf("gc: what is written cannot be stored: %w", err)
	}
	if args.Compact && !args.DryRun {
		if v.locked() {
			return nil, v.errLocked("gc")
		}
		progress(Progress{Stage: "compact"})
		var err error
		if r.Compacted, err = v.FS.CompactAll(ctx, 2); err != nil {
			return nil, fmt.Errorf("gc: compaction: %w", err)
		}
	}
	if !args.DryRun {
		progress(Progress{Stage: "history"})
		var err error
		if r.Expired, err = v.Engine.Expire(ctx, time.Now()); err != nil {
			return nil, fmt.Errorf("gc: %w", err)
		}
		progress(Progress{Stage: "deleted files"})
		if err := v.FS.DeleteDead(ctx, time.Now()); err != nil {
			return nil, fmt.Errorf("gc: %w", err)
		}
	}
	grace := meta.DefaultGrace
	if v.point == "" && !v.served {
		grace = 0 // nobody else has the volume open: nothing is on its way
	}
	if args.Grace != nil {
		grace = *args.Grace
	}
	before := v.Blocks.Stats().ForeignKeys
	var batch []block.ID
	var batchBytes int64
	remove := func() error {
		if len(batch) == 0 || args.DryRun {
			return nil
		}
		if err := v.Blocks.Delete(ctx, batch); err != nil {
			return err
		}
		r.DeletedBytes += batchBytes
		batch, batchBytes = batch[:0], 0
		return nil
	}
	sum, err := v.Engine.FindOrphans(ctx, v.walk(ctx, progress), grace, nil, func(found meta.StoreFinding) error {
		if found.Problem != meta.Orphan {
			return nil
		}
		batch, batchBytes = append(batch, block.ID(found.ID)), batchBytes+found.Bytes
		if len(batch) < orphanBatch {
			return nil
		}
		return remove()
	})
	if err == nil {
		err = remove()
	}
	if err != nil {
		return nil, fmt.Errorf("gc: %w", err)
	}
	r.Orphans, r.OrphanBytes, r.Young, r.Foreign = sum.Orphans, sum.OrphanBytes, sum.Young, sum.Foreign
	r.Objects, r.Bytes = sum.Objects, sum.Bytes
	r.ForeignKeys = v.Blocks.Stats().ForeignKeys - before
	return r, nil
}
