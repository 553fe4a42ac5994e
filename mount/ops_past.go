package mount

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

type snapshotArgs struct {
	Name string `json:"name"`
}

// CloneArgs name what is copied within a volume, and to where. Both are paths from
// the volume's root; To must not exist, its directory must.
type CloneArgs struct {
	From string `json:"from"`
	To   string `json:"to"`
	// At and Snapshot choose the past that From is taken from; at most one is set,
	// neither: the present.
	At       *time.Time `json:"at,omitempty"`
	Snapshot string     `json:"snapshot,omitempty"`
}

func init() {
	registerOp("snapshot-create", func(ctx context.Context, v *Volume, a snapshotArgs, _ func(any)) (any, error) {
		// What programs have written is part of the snapshot.
		if err := v.sync(ctx); err != nil {
			return nil, fmt.Errorf("snapshot: what is written cannot be stored: %w", err)
		}
		s, err := v.Engine.CreateSnapshot(ctx, a.Name)
		if errors.Is(err, syscall.EEXIST) {
			return nil, fmt.Errorf("there is a snapshot %q already", a.Name)
		}
		return s, err
	})
	registerOp("snapshot-delete", func(ctx context.Context, v *Volume, a snapshotArgs, _ func(any)) (any, error) {
		return nil, noSnapshot(a.Name, v.Engine.DeleteSnapshot(ctx, a.Name))
	})
	registerOp("snapshot-list", func(ctx context.Context, v *Volume, _ none, _ func(any)) (any, error) {
		list, err := v.Engine.ListSnapshots(ctx)
		if list == nil {
			list = []meta.Snapshot{}
		}
		return list, err
	})
	registerOp("clone", opClone)
}

// TrashArgs choose what was removed: from a directory and all that is below it.
type TrashArgs struct {
	Path string `json:"path"`
}

// maxTrash bounds a list of removed names.
const maxTrash = 100_000

func init() {
	registerOp("trash", func(ctx context.Context, v *Volume, a TrashArgs, _ func(any)) (any, error) {
		if err := v.sync(ctx); err != nil {
			return nil, err
		}
		if v.locked() {
			return nil, v.errLocked("trash")
		}
		below := path.Clean("/" + a.Path)
		list := []meta.TrashEntry{}
		err := v.Engine.Trash(ctx, 0, func(e meta.TrashEntry) error {
			if below != "/" && e.Path != below && !strings.HasPrefix(e.Path, below+"/") {
				return nil
			}
			if len(list) == maxTrash {
				return errTrashFull
			}
			list = append(list, e)
			return nil
		})
		if errors.Is(err, errTrashFull) {
			err = fmt.Errorf("more than %d names were removed: name a directory", maxTrash)
		}
		return list, err
	})
}

var errTrashFull = errors.New("too many")

func noSnapshot(name string, err error) error {
	if errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("there is no snapshot %q; \"massif volume snapshot list\" shows those that are", name)
	}
	return err
}

// ParsePast reads how people name a state of the past: a time in one of the usual
// forms, how long ago it was, or else a snapshot.
func ParsePast(s string, now time.Time) (at *time.Time, snapshot string) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return &t, ""
		}
	}
	if d, err := ParseDuration(s); err == nil {
		t := now.Add(-time.Duration(d))
		return &t, ""
	}
	return nil, s
}

// past opens the state of the volume that the arguments choose, nil for the
// present. It must be closed.
func (v *Volume) past(ctx context.Context, at *time.Time, snapshot string) (*meta.Engine, error) {
	switch {
	case at != nil && snapshot != "":
		return nil, errors.New("name a time or a snapshot, not both")
	case snapshot != "":
		past, err := v.Engine.AtSnapshot(ctx, snapshot)
		return past, noSnapshot(snapshot, err)
	case at != nil:
		return v.Engine.At(ctx, *at)
	}
	return nil, nil
}

func opClone(ctx context.Context, v *Volume, a CloneArgs, progress func(any)) (_ any, err error) {
	if v.locked() {
		return nil, v.errLocked("clone")
	}
	if err := v.sync(ctx); err != nil {
		return nil, fmt.Errorf("clone: what is written cannot be stored: %w", err)
	}
	past, err := v.past(ctx, a.At, a.Snapshot)
	if err != nil {
		return nil, err
	}
	source := v.Engine
	if past != nil {
		defer func() { err = errors.Join(err, past.Close()) }()
		source = past
	}
	from, err := v.inodeOf(ctx, source, a.From)
	if err != nil {
		return nil, err
	}
	to := path.Clean("/" + a.To)
	if to == "/" {
		return nil, errors.New("the copy needs a name of its own, not the volume's root")
	}
	parent, err := v.inodeOf(ctx, v.Engine, path.Dir(to))
	if err != nil {
		return nil, err
	}
	tell := func(s meta.CopyStats) { progress(Progress{Stage: "clone", Unit: "inodes", Done: s.Inodes}) }
	var stats meta.CopyStats
	if past != nil {
		stats, err = v.Engine.Restore(ctx, past, from, parent, path.Base(to), tell)
	} else {
		stats, err = v.Engine.Clone(ctx, caller, from, parent, path.Base(to), tell)
	}
	if errors.Is(err, syscall.EEXIST) {
		return nil, fmt.Errorf("%s exists already in the volume", to)
	}
	return stats, err
}

// inodeOf finds a path in a state of the volume.
func (v *Volume) inodeOf(ctx context.Context, e *meta.Engine, name string) (vfs.Ino, error) {
	session, err := v.begin(ctx, e, operation)
	if err != nil {
		return 0, err
	}
	attr, err := lookupPath(ctx, session, name)
	return attr.Ino, errors.Join(err, session.Close())
}
