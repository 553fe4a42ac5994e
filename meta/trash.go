package meta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/massif-fs/massif/vfs"
)

// The trash is a view of history: names that were removed, or given to something
// else, when what they meant had no other. It is there as long as retention lasts.
// To empty it earlier is to end the past: Purge.

// TrashEntry is a removed name and what it meant then.
type TrashEntry struct {
	Removed time.Time `json:"removed"`
	Parent  vfs.Ino   `json:"parent"`
	Name    string    `json:"name"`
	Path    string    `json:"path"` // from the root, as it was
	Ino     vfs.Ino   `json:"ino"`
	Mode    uint32    `json:"mode"`
	Size    uint64    `json:"size"`
	UID     uint32    `json:"uid"`
	GID     uint32    `json:"gid"`
	Mtime   time.Time `json:"mtime"`
}

// Trash calls fn with what was removed from directory dir (0: from all
// directories), ordered by directory, name and time. dir may be gone itself. An
// error of fn ends it and is returned.
func (e *Engine) Trash(ctx context.Context, dir vfs.Ino, fn func(TrashEntry) error) error {
	t := &trashScan{at: []byte{kindHistory, kindName}, end: []byte{kindHistory, kindName + 1}}
	if dir != 0 {
		t.at = append([]byte{kindHistory}, appendIno(nil, kindName, dir)...)
		t.end = append([]byte{kindHistory}, appendIno(nil, kindName, dir+1)...)
	}
	for !t.done {
		if err := e.view(ctx, t.page); err != nil {
			return fail("list trash", "", err)
		}
		for _, x := range t.found {
			if err := fn(x); err != nil {
				return err
			}
		}
	}
	return nil
}

type trashScan struct {
	at, end []byte
	done    bool
	found   []TrashEntry
}

// page looks at some records more.
func (t *trashScan) page(v *view) error {
	since, err := v.since()
	if err != nil {
		return err
	}
	t.found = t.found[:0]
	t.done = true
	if since == 0 {
		return nil
	}
	n := 0
	start := bytes.Clone(t.at)
	return v.r.Scan(start, t.end, func(hkey, value []byte) (bool, error) {
		if n == maintainBatch {
			t.done = false
			return false, nil
		}
		n++
		t.at = append(append(t.at[:0], hkey...), 0)
		key, stamp, err := splitHistoryKey(hkey)
		if err != nil {
			return false, err
		}
		old, err := oldValue(key, value)
		if stamp <= since || err != nil {
			return true, nil // out of reach, or the name was made then
		}
		x, ok, err := v.trashed(key, old, stamp)
		if ok {
			t.found = append(t.found, x)
		}
		return true, err
	})
}

// trashed tells what a name meant until stamp, if that was its last name.
func (v *view) trashed(key, value []byte, stamp uint64) (x TrashEntry, ok bool, err error) {
	parent, name, err := splitNameKey(key)
	if err != nil {
		return x, false, err
	}
	ent, err := decodeName(value)
	if err != nil {
		return x, false, fmt.Errorf("history of name %q in directory %d: %w", name, parent, err)
	}
	after := view{e: v.e, r: newHistoryReader(v.r, stamp)}
	var n inode
	switch err := after.inode(ent.ino, &n); {
	case errors.Is(err, syscall.ESTALE):
	case err != nil:
		return x, false, err
	case n.nlink > 0:
		return x, false, nil
	}
	before := view{e: v.e, r: newHistoryReader(v.r, stamp-1)}
	if err := before.inode(ent.ino, &n); errors.Is(err, syscall.ESTALE) {
		return x, false, nil // made and removed by one call
	} else if err != nil {
		return x, false, err
	}
	dir, err := before.path(parent)
	switch {
	case errors.Is(err, syscall.ENOENT): // in a copy that was not finished
		return x, false, nil
	case err != nil:
		return x, false, err
	case dir != "/":
		dir += "/"
	}
	shown := v.e.shownName(parent, string(name))
	return TrashEntry{
		Removed: stampTime(stamp), Parent: parent, Name: shown, Path: dir + shown, Ino: ent.ino,
		Mode: n.mode, Size: n.size, UID: n.uid, GID: n.gid, Mtime: n.mtime.Time(),
	}, true, nil
}

// RestoreTrash gives what an entry of the trash meant the name name in directory
// parent. A directory comes back as empty as it was when it was removed: what was
// in it has entries of its own; to bring back a whole tree, Restore it as it was
// before. ENOENT if retention is over.
func (e *Engine) RestoreTrash(ctx context.Context, x TrashEntry, parent vfs.Ino, name string, progress func(CopyStats)) (CopyStats, error) {
	stamp := stampOf(vfs.TimeOf(x.Removed))
	if stamp == 0 {
		return CopyStats{}, syscall.EINVAL
	}
	past, err := e.atStamp(ctx, stamp-1, "")
	if err != nil {
		return CopyStats{}, fail("restore", x.Path, err)
	}
	stats, err := e.Restore(ctx, past, x.Ino, parent, name, progress)
	return stats, errors.Join(err, past.Close())
}
