package mount

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/object"
)

// LoadOptions say how a dump becomes a volume's metadata.
type LoadOptions struct {
	// Replace puts the dump in the place of the metadata of an existing volume,
	// which must be the dumped one. The old metadata is kept aside.
	Replace bool
	// Meta and Store are URLs for a volume that this machine does not know; empty:
	// below the volume's directory, and what the dump says.
	Meta, Store string
	Progress    func(Progress) // may be nil
}

// LoadResult tells what was loaded.
type LoadResult struct {
	Record  *Record   `json:"volume"`
	Time    time.Time `json:"time"` // of the dump
	Records int64     `json:"records"`
	Old     string    `json:"old,omitempty"` // where the replaced metadata is
}

// Load makes a volume of a dump and the object store that the dumped volume had,
// or replaces the metadata of a volume by a dump of it. The store's blocks are not
// touched. Either all of it happens, or nothing.
func (g *Registry) Load(ctx context.Context, name, file string, o LoadOptions) (*LoadResult, error) {
	if !validVolumeName(name) {
		return nil, &UsageError{fmt.Errorf("%q cannot be a volume's name: use 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit", name)}
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("dump: %w", err)
	}
	defer f.Close()
	d, err := openDump(bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("dump %s: %w", file, err)
	}
	defer d.close()
	lock, err := g.lock()
	if err != nil {
		return nil, err
	}
	defer lock.Close()

	l := &loading{g: g, d: d, file: file, o: o, LoadResult: LoadResult{Time: d.Time}}
	record, err := g.Get(name)
	var unknown *UnknownVolumeError
	switch {
	case errors.As(err, &unknown) && o.Replace:
		return nil, err
	case errors.As(err, &unknown):
		err = l.create(ctx, name)
	case err != nil:
		return nil, err
	case !o.Replace:
		return nil, fmt.Errorf("volume %s exists already; --replace puts the dump in the place of its metadata", name)
	default:
		err = l.replace(ctx, record)
	}
	if err != nil {
		return nil, err
	}
	return &l.LoadResult, nil
}

type loading struct {
	LoadResult
	g    *Registry
	d    *dumpReader
	file string
	o    LoadOptions
}

// create makes a volume that this machine does not know.
func (l *loading) create(ctx context.Context, name string) (err error) {
	final := filepath.Join(l.g.dir, name)
	if exists(final) {
		return fmt.Errorf("volume %s: %s is in the way", name, final)
	}
	r := &Record{Name: name, UUID: l.d.Format.UUID, Created: l.d.Format.Created, Store: l.o.Store, dir: final}
	if r.Store == "" {
		r.Store = l.d.Format.Store
	}
	r.KeyID = l.d.keyID()
	if err := checkStoreURL(r.Store); err != nil {
		return err
	}
	others, err := l.g.List()
	if err != nil {
		return err
	}
	for _, other := range others {
		if other.UUID == r.UUID {
			return fmt.Errorf("the dump is of volume %s, which is here; --replace puts it in the place of that volume's metadata", other.Name)
		}
	}
	temp, err := os.MkdirTemp(l.g.dir, ".new-"+name+"-")
	if err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	build := filepath.Join(temp, "meta")
	var undo []func() error
	undo = append(undo, func() error { return os.RemoveAll(temp) })
	defer func() {
		if err != nil {
			for i := len(undo) - 1; i >= 0; i-- {
				err = errors.Join(err, undo[i]())
			}
		}
	}()
	r.Meta = metaURL(filepath.Join(final, "meta"))
	if l.o.Meta != "" {
		dir, err := metaDir(l.o.Meta)
		if err != nil {
			return err
		}
		r.Meta = metaURL(dir)
		made, err := claimEmptyDir(dir)
		undo = append(undo, func() error { return removeDirs(made) })
		if err != nil {
			return fmt.Errorf("metadata directory: %w", err)
		}
		undo = append(undo, func() error { return emptyDir(dir) })
		build = dir
	}
	if err := l.fill(ctx, build, r); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(temp, lockFile), nil, 0o600); err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	if err := writeRecord(temp, r); err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	if err := os.Rename(temp, final); err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	undo = nil
	l.Record = r
	return syncDir(l.g.dir)
}

// replace changes the metadata of a volume for the dump's.
func (l *loading) replace(ctx context.Context, r *Record) (err error) {
	if r.UUID != l.d.Format.UUID {
		return fmt.Errorf("the dump %s is of another volume, %q", l.file, l.d.Format.Name)
	}
	if r.KeyID != l.d.keyID() {
		return fmt.Errorf("the dump %s is not encrypted with the key of volume %s", l.file, r.Name)
	}
	if l.o.Meta != "" || l.o.Store != "" {
		return &UsageError{errors.New("--meta and --store are for volumes that are not here yet")}
	}
	dir, err := metaDir(r.Meta)
	if err != nil {
		return err
	}
	open, err := r.lockOpen()
	if err != nil {
		return err
	}
	defer open.Close()
	if exists(dir) { // it may be damaged, but must not be in use
		db, err := openDatabase(dir, 0, false, quietLogger())
		if isLocked(err) {
			return &InUseError{Name: r.Name}
		}
		if err == nil {
			if err := db.Close(); err != nil {
				return fmt.Errorf("volume %s: %w", r.Name, err)
			}
		}
	}
	build, err := os.MkdirTemp(filepath.Dir(dir), scratchPrefix)
	if err != nil {
		return fmt.Errorf("volume %s: %w", r.Name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(build))
		}
	}()
	if err := l.fill(ctx, build, r); err != nil {
		return err
	}
	if exists(dir) {
		old := dir + ".old-" + time.Now().UTC().Format("20060102T150405.000")
		if err := os.Rename(dir, old); err != nil {
			return fmt.Errorf("volume %s: %w", r.Name, err)
		}
		l.Old = old
	}
	if err := os.Rename(build, dir); err != nil {
		if l.Old != "" {
			err = errors.Join(err, os.Rename(l.Old, dir))
		}
		return fmt.Errorf("volume %s: %w", r.Name, err)
	}
	l.Record = r
	return syncDir(filepath.Dir(dir))
}

// fill makes a database of the dump and checks that it is that of the store.
func (l *loading) fill(ctx context.Context, dir string, r *Record) error {
	store, err := openStore(ctx, r.Store)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	m, err := readMarker(ctx, store)
	err = errors.Join(err, store.Close())
	switch {
	case errors.Is(err, object.ErrNotFound):
		return fmt.Errorf("store %s is not that of the dumped volume: %s is missing there", r.Store, markerKey)
	case err != nil:
		return fmt.Errorf("store %s: %w", r.Store, err)
	case m.UUID != r.UUID:
		return fmt.Errorf("store %s belongs to another volume, %q", r.Store, m.Name)
	}
	db, err := openDatabase(dir, 0, false, quietLogger())
	if err != nil {
		return err
	}
	err = l.copyRecords(ctx, db, r)
	if err == nil {
		err = db.Sync(ctx)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("dump %s: %w", l.file, err)
	}
	return l.skipUsedBlocks(ctx, dir, r)
}

func (l *loading) copyRecords(ctx context.Context, db kv.DB, r *Record) error {
	o := meta.LoadOptions{Change: func(f *meta.Format) { f.Name, f.Store = r.Name, r.Store }}
	if l.o.Progress != nil {
		o.Progress = func(s meta.DumpStats) {
			l.o.Progress(Progress{Stage: "load", Unit: "records", Done: dumpRecords(s)})
		}
	}
	stats, err := meta.Load(ctx, db, l.d, o)
	l.Records = dumpRecords(stats)
	return err
}

// skipUsedBlocks lets new blocks begin behind those that the store has. The volume
// may have gone on after the dump was made: a number that was used then must not
// mean another block now, also to a cache that remembers it.
func (l *loading) skipUsedBlocks(ctx context.Context, dir string, r *Record) error {
	v := &Volume{Record: &Record{Name: r.Name, UUID: r.UUID, KeyID: r.KeyID, Meta: metaURL(dir), Store: r.Store, dir: r.dir}}
	o := OpenOptions{Options: &Options{}, Locked: true, Log: quietLogger()}
	memory := divideMemory(memoryLimit(o.Options))
	err := v.openObjects(ctx)
	if err == nil {
		err = v.openMeta(ctx, memory, o)
	}
	if err == nil {
		err = v.openBlocks(ctx, v.Engine.Settings(), memory, o)
	}
	if err == nil {
		err = v.skipTo(ctx)
	}
	if err = errors.Join(err, v.Close()); err != nil {
		return fmt.Errorf("dump %s: %w", l.file, err)
	}
	return nil
}

func (v *Volume) skipTo(ctx context.Context) error {
	session, err := v.session(ctx)
	if err != nil {
		return err
	}
	defer session.Close()
	var last uint64
	err = v.Blocks.Walk(ctx, func(id block.ID, _ int64, _ time.Time) error {
		last = max(last, uint64(id))
		return nil
	})
	if err != nil {
		return err
	}
	first, err := session.AllocBlocks(ctx, 1)
	if err != nil || first > last {
		return err
	}
	// One range, wider than what the engine keeps at hand, so that the numbers it
	// gives out after the next start come behind it.
	_, err = session.AllocBlocks(ctx, int(max(last-first+1, 1<<16)))
	return err
}
