package mount

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/storeurl"
	"github.com/massif-fs/massif/vfs"
)

// CreateOptions are what a new volume is made with.
type CreateOptions struct {
	// Format holds the settings; Name is the volume's name. Version, UUID,
	// Created and Store are filled in. With Seal, which seal.Create makes, the
	// volume is encrypted.
	Format meta.Format
	// Meta and Store are URLs; empty: below the volume's own directory.
	Meta, Store string
}

// markerKey is the object that marks a store as a volume's. It is there from the
// volume's creation to the end of its deletion, and keeps a second volume out.
const markerKey = "massif-volume.json"

// marker is the content of that object.
type marker struct {
	UUID    string    `json:"uuid"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
}

// Create makes a volume. Either all of it is there afterwards, or nothing: a
// volume, a database or an object store that is in use already is refused and not
// touched.
func (g *Registry) Create(ctx context.Context, o CreateOptions) (r *Record, err error) {
	format := o.Format
	format.Version = meta.FormatVersion
	if format.Seal != nil {
		format.Version = meta.EncryptedVersion
	}
	format.UUID, format.Created = newUUID(), time.Now().UTC().Truncate(time.Second)
	if err := format.Validate(); err != nil {
		return nil, &UsageError{err}
	}
	lock, err := g.lock()
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	final := filepath.Join(g.dir, format.Name)
	if _, err := os.Lstat(final); err == nil {
		return nil, fmt.Errorf("volume %s exists already", format.Name)
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("volume %s: %w", format.Name, err)
	}

	// Everything is built in a directory of another name, which a crash may leave
	// behind but which is no volume.
	temp, err := os.MkdirTemp(g.dir, ".new-"+format.Name+"-")
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", format.Name, err)
	}
	var undo []func() error
	undo = append(undo, func() error { return os.RemoveAll(temp) })
	defer func() {
		if err == nil {
			return
		}
		for i := len(undo) - 1; i >= 0; i-- {
			if uerr := undo[i](); uerr != nil {
				err = fmt.Errorf("%w; and cleaning up failed: %w", err, uerr)
			}
		}
	}()

	r = &Record{Name: format.Name, UUID: format.UUID, Created: format.Created, Meta: o.Meta, Store: o.Store, dir: final}
	if format.Seal != nil {
		r.KeyID = format.Seal.KeyID
	}
	buildMeta := filepath.Join(temp, "meta")
	if r.Meta == "" {
		r.Meta = metaURL(filepath.Join(final, "meta"))
	} else {
		dir, err := metaDir(r.Meta)
		if err != nil {
			return nil, err
		}
		r.Meta = metaURL(dir)
		madeDirs, err := claimEmptyDir(dir)
		undo = append(undo, func() error { return removeDirs(madeDirs) })
		if err != nil {
			return nil, fmt.Errorf("metadata directory: %w", err)
		}
		buildMeta = dir
		undo = append(undo, func() error { return emptyDir(dir) })
	}
	if r.Store == "" {
		r.Store = storeURL(filepath.Join(final, "store"))
		if err := createEmptyStore(ctx, filepath.Join(temp, "store"), &format); err != nil {
			return nil, err
		}
	} else {
		unclaim, err := claimStore(ctx, r.Store, &format)
		if unclaim != nil {
			undo = append(undo, unclaim)
		}
		if err != nil {
			return nil, err
		}
	}
	format.Store = r.Store
	if err := createMeta(ctx, buildMeta, format); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(temp, lockFile), nil, 0o600); err != nil {
		return nil, fmt.Errorf("volume %s: %w", format.Name, err)
	}
	if err := writeRecord(temp, r); err != nil {
		return nil, fmt.Errorf("volume %s: %w", format.Name, err)
	}
	if err := os.Rename(temp, final); err != nil {
		return nil, fmt.Errorf("volume %s: %w", format.Name, err)
	}
	undo = nil // the volume is there
	if err := syncDir(g.dir); err != nil {
		return nil, fmt.Errorf("volume %s is made, but may be lost if the machine fails now: %w", format.Name, err)
	}
	return r, nil
}

// createMeta makes the metadata database.
func createMeta(ctx context.Context, dir string, format meta.Format) (err error) {
	db, err := openDatabase(dir, 0, false, nil)
	if err != nil {
		return err
	}
	err = meta.Create(ctx, db, format)
	if uid := os.Geteuid(); err == nil && uid != 0 {
		err = giveRoot(ctx, db, uint32(uid), uint32(os.Getegid()))
	}
	if cerr := db.Close(); err == nil {
		err = cerr
	}
	return err
}

// giveRoot makes a user the owner of a new volume's root directory, who could not
// write to it otherwise.
func giveRoot(ctx context.Context, db kv.DB, uid, gid uint32) error {
	engine, err := meta.Open(ctx, db, meta.Options{})
	if err != nil {
		return err
	}
	session, err := engine.NewSession(ctx, meta.SessionInfo{Host: "localhost", PID: os.Getpid(), Mountpoint: "(creation)"})
	if err == nil {
		var out vfs.Attr
		set := vfs.SetAttr{Valid: vfs.SetUID | vfs.SetGID, UID: uid, GID: gid}
		err = session.SetAttr(ctx, caller, vfs.Root, &set, &out)
		err = errors.Join(err, session.Close())
	}
	return errors.Join(err, engine.Close())
}

// createEmptyStore makes a store in a local directory that nobody else knows.
func createEmptyStore(ctx context.Context, dir string, format *meta.Format) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	_, err := claimStore(ctx, storeURL(dir), format)
	return err
}

// claimStore checks that a store can be reached, is empty and can be written to,
// and puts the marker into it. unclaim takes that back; it may be there with an
// error too.
func claimStore(ctx context.Context, url string, format *meta.Format) (unclaim func() error, err error) {
	if err := checkStoreURL(url); err != nil {
		return nil, err
	}
	madeDirs, err := makeStoreDir(url)
	undoDirs := func() error {
		if dir, ok := localDir(url); ok {
			// The driver's own files are empty where nobody else uses the store.
			return errors.Join(removeOwnFiles(dir), removeDirs(madeDirs))
		}
		return nil
	}
	if err != nil {
		return undoDirs, err
	}
	if err := refuseForeignFiles(url); err != nil {
		return undoDirs, err
	}
	store, err := openStore(ctx, url)
	if err != nil {
		return undoDirs, fmt.Errorf("store: %w", err)
	}
	defer store.Close()
	if err := storeurl.Check(ctx, store, true); err != nil {
		return undoDirs, fmt.Errorf("store %s: %w", store, err)
	}
	page, err := store.List(ctx, object.ListOptions{Limit: 1})
	if err != nil {
		return undoDirs, fmt.Errorf("store %s: %w", store, err)
	}
	if len(page.Objects)+len(page.Prefixes) > 0 {
		return undoDirs, fmt.Errorf("store %s is not empty%s: a volume needs a place of its own, such as a new prefix", store, ownerOf(ctx, store))
	}
	text, err := json.Marshal(marker{UUID: format.UUID, Name: format.Name, Created: format.Created})
	if err != nil {
		return undoDirs, err
	}
	opts := &object.PutOptions{IfAbsent: store.Capabilities().PutIfAbsent, ContentType: "application/json"}
	if _, err := store.Put(ctx, markerKey, bytes.NewReader(text), int64(len(text)), opts); err != nil {
		if errors.Is(err, object.ErrExists) {
			return undoDirs, fmt.Errorf("store %s was taken by another volume just now", store)
		}
		return undoDirs, fmt.Errorf("store %s: %w", store, err)
	}
	return func() error {
		store, err := openStore(context.WithoutCancel(ctx), url)
		if err == nil {
			err = store.Delete(context.WithoutCancel(ctx), markerKey)
			err = errors.Join(err, store.Close())
		}
		return errors.Join(err, undoDirs())
	}, nil
}

// readMarker returns the marker of a store, or object.ErrNotFound.
func readMarker(ctx context.Context, store object.Store) (marker, error) {
	var m marker
	body, _, err := store.Get(ctx, markerKey, 0, 64<<10)
	if err != nil {
		return m, err
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("%s: %w", markerKey, err)
	}
	return m, nil
}

func ownerOf(ctx context.Context, store object.Store) string {
	if m, err := readMarker(ctx, store); err == nil {
		return fmt.Sprintf(" (it belongs to volume %q, made %s)", m.Name, m.Created.Format(time.DateOnly))
	}
	return ""
}

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// claimEmptyDir makes a directory, or accepts an empty one, and returns the
// directories it made, outermost first.
func claimEmptyDir(dir string) (made []string, err error) {
	made, err = makeDirs(dir)
	if err != nil {
		return made, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return made, err
	}
	if len(entries) > 0 {
		return made, fmt.Errorf("%s is not empty", dir)
	}
	return made, nil
}

// makeDirs is os.MkdirAll that tells what it made.
func makeDirs(dir string) (made []string, err error) {
	var missing []string
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil {
			break
		} else if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		missing = append(missing, d)
	}
	for i := len(missing) - 1; i >= 0; i-- {
		if err := os.Mkdir(missing[i], 0o700); err != nil {
			return made, err
		}
		made = append(made, missing[i])
	}
	return made, nil
}

func removeDirs(made []string) error {
	for i := len(made) - 1; i >= 0; i-- {
		if err := os.Remove(made[i]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// emptyDir removes what is in a directory.
func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}
