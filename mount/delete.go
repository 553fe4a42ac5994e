package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/massif-fs/massif/object"
)

// DeleteProgress is how far a deletion is.
type DeleteProgress struct {
	Objects int64 `json:"objects"` // deleted so far
}

// DeleteOptions say what Delete leaves.
type DeleteOptions struct {
	// KeepStore leaves the object store alone.
	KeepStore bool
	Progress  func(DeleteProgress) // may be nil
}

// Delete removes a volume with all its data: first the objects, then the metadata,
// at last the record; so a deletion that was interrupted can be repeated. A volume
// in use is refused.
func (g *Registry) Delete(ctx context.Context, name string, o DeleteOptions) error {
	lock, err := g.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	record, err := g.Get(name)
	if err != nil {
		return err
	}
	dir, err := metaDir(record.Meta)
	if err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	if store, ok := localDir(record.Store); ok && o.KeepStore && within(store, record.dir) {
		return fmt.Errorf("volume %s: its store %s lies in the volume's own directory and cannot be kept; copy it first", name, store)
	}
	// Nobody opens the volume from here on.
	open, err := record.lockOpen()
	if err != nil {
		return err
	}
	defer open.Close()
	if exists(dir) { // the database may also be in use by something else
		db, err := openDatabase(dir, 0, false, quietLogger())
		switch {
		case err == nil:
			defer db.Close()
		case isLocked(err):
			return &InUseError{Name: name}
		}
		// A database that cannot be opened any more must not keep its volume for ever.
	}
	if !record.Deleting {
		record.Deleting = true
		if err := writeRecord(record.dir, record); err != nil {
			return fmt.Errorf("volume %s: %w", name, err)
		}
	}
	if !o.KeepStore {
		if err := deleteObjects(ctx, record, o.Progress); err != nil {
			return fmt.Errorf("volume %s is deleted in part, repeat the command to finish it: %w", name, err)
		}
	}
	if !within(dir, record.dir) {
		if err := errors.Join(emptyIfThere(dir), removeIfEmpty(dir)); err != nil {
			return fmt.Errorf("volume %s is deleted in part, repeat the command to finish it: %w", name, err)
		}
	}
	return g.dropDirectory(record)
}

// dropDirectory takes the volume out of the registry in one step, then removes
// what was its directory.
func (g *Registry) dropDirectory(record *Record) error {
	gone := filepath.Join(g.dir, ".deleted-"+record.Name+"-"+record.UUID)
	if err := os.Rename(record.dir, gone); err != nil {
		return fmt.Errorf("volume %s: %w", record.Name, err)
	}
	if err := errors.Join(syncDir(g.dir), os.RemoveAll(gone)); err != nil {
		return fmt.Errorf("volume %s is deleted, but its directory %s is not: %w", record.Name, gone, err)
	}
	return nil
}

// deleteObjects empties the volume's store. The marker goes last, and if it is not
// this volume's nothing is touched.
func deleteObjects(ctx context.Context, record *Record, progress func(DeleteProgress)) error {
	if dir, ok := localDir(record.Store); ok && !exists(dir) {
		return nil
	}
	store, err := openStore(ctx, record.Store)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer store.Close()
	m, err := readMarker(ctx, store)
	switch {
	case errors.Is(err, object.ErrNotFound):
		// Gone with an earlier, interrupted deletion, or never ours: look, do not touch.
		page, err := store.List(ctx, object.ListOptions{Limit: 1})
		if err != nil {
			return fmt.Errorf("store %s: %w", store, err)
		}
		if len(page.Objects) > 0 {
			return fmt.Errorf("store %s holds objects, but not the mark of this volume (%s): nothing was deleted there; --keep-store leaves the store alone", store, markerKey)
		}
		return nil
	case err != nil:
		return fmt.Errorf("store %s: %w", store, err)
	case m.UUID != record.UUID:
		return fmt.Errorf("store %s belongs to another volume, %q: nothing was deleted there; --keep-store leaves the store alone", store, m.Name)
	}
	if up, ok := object.As[object.Multipart](store); ok {
		if _, err := up.AbortStale(ctx, "", farFuture); err != nil && !errors.Is(err, object.ErrUnsupported) {
			return fmt.Errorf("store %s: %w", store, err)
		}
	}
	var done DeleteProgress
	opts := object.ListOptions{}
	for {
		page, err := store.List(ctx, opts)
		if err != nil {
			return fmt.Errorf("store %s: %w", store, err)
		}
		var keys []string
		for _, info := range page.Objects {
			if info.Key != markerKey {
				keys = append(keys, info.Key)
			}
		}
		if err := store.Delete(ctx, keys...); err != nil {
			return fmt.Errorf("store %s: %w", store, err)
		}
		done.Objects += int64(len(keys))
		if progress != nil {
			progress(done)
		}
		if page.Next == "" {
			break
		}
		opts.Token = page.Next
	}
	if err := store.Delete(ctx, markerKey); err != nil {
		return fmt.Errorf("store %s: %w", store, err)
	}
	if dir, ok := localDir(record.Store); ok && !within(dir, record.dir) {
		return removeStoreDir(dir)
	}
	return nil
}

func emptyIfThere(dir string) error {
	if !exists(dir) {
		return nil
	}
	return emptyDir(dir)
}

func removeIfEmpty(dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
