package meta

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// A snapshot is a name for a time that history must go on to reach back to. To
// make one costs a record. While there is one, what is overwritten and removed is
// kept as history, also without retention, as far as the snapshot needs it.

// Snapshot is a named state of the volume.
type Snapshot struct {
	Name string    `json:"name"`
	Time time.Time `json:"time"`

	stamp uint64
}

// snapshotRecord is the value of `S`.
type snapshotRecord struct {
	Stamp uint64 `json:"stamp"`
}

// maxSnapshots bounds what has to be kept in memory to find dead blocks.
const maxSnapshots = 1 << 16

// CreateSnapshot names the present state. It is durable when it returns. EEXIST;
// EINVAL for an impossible name (the rules for volumes' names hold).
func (e *Engine) CreateSnapshot(ctx context.Context, name string) (Snapshot, error) {
	if !volumeName.MatchString(name) {
		return Snapshot{}, vfs.WithErrno(syscall.EINVAL, fmt.Errorf("snapshot name %q: use 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit", name))
	}
	var s Snapshot
	err := e.updateAlone(ctx, nil, func(t *txn) error { // so the state is the same for all
		old, err := t.view.value(keySnapshot(name))
		if err != nil {
			return err
		}
		if old != nil {
			return vfs.WithErrno(syscall.EEXIST, errors.New("there is a snapshot of this name"))
		}
		shots, err := t.snapshotStamps()
		if err != nil {
			return err
		}
		if len(shots) >= maxSnapshots {
			return vfs.WithErrno(syscall.ENOSPC, fmt.Errorf("a volume has at most %d snapshots", maxSnapshots))
		}
		text, err := json.Marshal(snapshotRecord{Stamp: t.stamp})
		if err != nil {
			return err
		}
		t.w.Put(keySnapshot(name), text)
		s = Snapshot{Name: name, Time: stampTime(t.stamp), stamp: t.stamp}
		return t.historyMayChange()
	})
	if err == nil {
		err = e.db.Sync(ctx)
	}
	return s, fail("create snapshot", name, err)
}

// DeleteSnapshot removes a snapshot: ENOENT. What only it needed goes later.
func (e *Engine) DeleteSnapshot(ctx context.Context, name string) error {
	err := e.updateAlone(ctx, nil, func(t *txn) error {
		if _, err := t.snapshot(name); err != nil {
			return err
		}
		t.w.Delete(keySnapshot(name))
		t.then = append(t.then, func() {
			m := &t.e.maint
			m.mu.Lock()
			m.passed, m.dirty = nil, true
			m.mu.Unlock()
		})
		return t.historyMayChange()
	})
	if err == nil {
		err = e.db.Sync(ctx)
	}
	return fail("delete snapshot", name, err)
}

// historyMayChange begins or ends the keeping of history.
func (t *txn) historyMayChange() error {
	e := t.e
	on, err := t.setHistory(e.format.Load().Retention)
	t.then = append(t.then, func() { e.historyOn.Store(on) })
	return err
}

// ListSnapshots returns all snapshots, the oldest first.
func (e *Engine) ListSnapshots(ctx context.Context) (list []Snapshot, err error) {
	err = e.view(ctx, func(v *view) error {
		list = list[:0]
		return v.snapshots(func(s Snapshot) error {
			list = append(list, s)
			return nil
		})
	})
	slices.SortFunc(list, func(a, b Snapshot) int { return cmp.Compare(a.stamp, b.stamp) })
	return list, fail("list snapshots", "", err)
}

// AtSnapshot is At for a snapshot: ENOENT.
func (e *Engine) AtSnapshot(ctx context.Context, name string) (*Engine, error) {
	var s Snapshot
	err := e.view(ctx, func(v *view) (err error) {
		s, err = v.snapshot(name)
		return err
	})
	if err != nil {
		return nil, fail("show snapshot", name, err)
	}
	past, err := e.atStamp(ctx, s.stamp, name)
	return past, fail("show snapshot", name, err)
}

func (v *view) snapshots(fn func(Snapshot) error) error {
	return v.r.Scan([]byte{kindSnapshot}, []byte{kindSnapshot + 1}, func(key, value []byte) (bool, error) {
		s, err := decodeSnapshot(string(key[1:]), value)
		if err == nil {
			err = fn(s)
		}
		return true, err
	})
}

// snapshotStamps returns the times of all snapshots, ascending.
func (v *view) snapshotStamps() (stamps []uint64, err error) {
	err = v.snapshots(func(s Snapshot) error {
		stamps = append(stamps, s.stamp)
		return nil
	})
	slices.Sort(stamps)
	return stamps, err
}

// snapshot returns ENOENT if there is none of that name.
func (v *view) snapshot(name string) (Snapshot, error) {
	b, err := v.value(keySnapshot(name))
	if err != nil {
		return Snapshot{}, err
	}
	if b == nil {
		return Snapshot{}, vfs.WithErrno(syscall.ENOENT, errors.New("there is no snapshot of this name"))
	}
	return decodeSnapshot(name, b)
}

func decodeSnapshot(name string, value []byte) (Snapshot, error) {
	var r snapshotRecord
	if err := json.Unmarshal(value, &r); err != nil || r.Stamp == 0 {
		return Snapshot{}, corrupt("snapshot %q is unreadable", name)
	}
	return Snapshot{Name: name, Time: stampTime(r.Stamp), stamp: r.Stamp}, nil
}

// errPastGone ends the showing of a past that history does not reach any more.
var errPastGone = errors.New("the volume's history does not reach back that far (any more)")

// reach returns an error (ENOENT) if history does not reach back to a stamp, which
// may be that of a snapshot.
func (v *view) reach(stamp uint64, snapshot string) error {
	if snapshot != "" {
		s, err := v.snapshot(snapshot)
		if err == nil && s.stamp != stamp {
			err = vfs.WithErrno(syscall.ENOENT, errPastGone)
		}
		return err
	}
	since, err := v.since()
	switch {
	case err != nil:
	case since == 0:
		err = vfs.WithErrno(syscall.ENOENT, fmt.Errorf("%w: it keeps none", errPastGone))
	case stamp < since:
		err = vfs.WithErrno(syscall.ENOENT, fmt.Errorf("%w: the earliest time is %s", errPastGone, stampTime(since).Format(time.RFC3339Nano)))
	}
	return err
}

var _ kv.Reader = (*historyReader)(nil)
