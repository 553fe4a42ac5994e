package managed

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/block/blockgate"
	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/kv/pebble"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/meta/metarpc"
	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/retry"
	"github.com/massif-fs/massif/object/s3"
	"github.com/massif-fs/massif/object/storeurl"
	"github.com/massif-fs/massif/seal"
	"github.com/massif-fs/massif/service/admin"
	"github.com/massif-fs/massif/service/admin/adminapi"
	"github.com/massif-fs/massif/tree/volume"
	"github.com/massif-fs/massif/vfs"
)

// served is a volume that is open.
type served struct {
	id      string
	db      *pebble.DB
	engine  *meta.Engine
	objects object.Store
	blocks  *block.Store
	// tree does the volume's maintenance: it deletes blocks that nothing points to and
	// lets history expire.
	tree  *volume.FS
	rpc   *metarpc.Volume
	gate  *blockgate.Volume
	close []func() error
}

// markerKey and marker are as package mount has them: the object by which a store
// says whose it is.
const markerKey = "massif-volume.json"

type marker struct {
	UUID    string    `json:"uuid"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
}

// memory of a served volume, in bytes.
const (
	databaseCache = 32 << 20
	blockBudget   = 64 << 20
)

// open opens a volume below the server's directory, and makes it if it is new. A volume whose store holds
// data and whose metadata is missing is never made anew.
func open(ctx context.Context, cfg *Config, s *adminapi.ServedVolume, log *slog.Logger) (v *served, err error) {
	v = &served{id: s.Volume.ID}
	defer func() {
		if err != nil {
			err = fmt.Errorf("volume %s: %w", s.Volume.Name, errors.Join(err, v.Close()))
			v = nil
		}
	}()
	format, err := formatOf(s)
	if err != nil {
		return v, err
	}
	if v.objects, err = openStore(ctx, &s.Store); err != nil {
		return v, fmt.Errorf("store: %w", err)
	}
	v.close = append(v.close, v.objects.Close)
	dir := filepath.Join(cfg.volumes(), s.Volume.ID)
	meta := filepath.Join(dir, "meta")
	if err := os.MkdirAll(meta, 0o700); err != nil {
		return v, err
	}
	if v.db, err = pebble.Open(meta, pebble.Options{CacheBytes: databaseCache, MemTableBytes: databaseCache / 4, Logger: log}); err != nil {
		return v, err
	}
	v.close = append(v.close, v.db.Close)
	if err := v.openEngine(ctx, format, log); err != nil {
		return v, err
	}
	v.close = append(v.close, v.engine.Close)
	if err := v.apply(ctx, s); err != nil {
		return v, err
	}
	if err := v.openTree(ctx, log); err != nil {
		return v, err
	}
	ops, err := mount.NewServed(mount.Served{
		Record: mount.Record{Name: s.Volume.Name, UUID: s.Volume.ID, Created: format.Created, Store: s.Store.URL},
		Dir:    dir, Engine: v.engine, Objects: v.objects, Blocks: v.blocks, FS: v.tree,
	})
	if err != nil {
		return v, err
	}
	v.rpc = &metarpc.Volume{Engine: v.engine, Early: cfg.Early, Command: command(ops, log)}
	v.gate = &blockgate.Volume{Objects: v.objects, Blocks: v.blocks, Sealed: format.Seal != nil, NoSigning: s.Volume.BlockAccess == adminapi.BlocksServer}
	return v, v.export(cfg.Metrics, s.Volume.Name)
}

// command does what clients ask for, and notes who asked.
func command(ops *mount.ServedVolume, log *slog.Logger) func(context.Context, *metarpc.Grant, string, []byte) ([]byte, error) {
	return func(ctx context.Context, g *metarpc.Grant, name string, args []byte) ([]byte, error) {
		began := time.Now()
		out, err := ops.Do(ctx, g.ReadOnly, name, args)
		log.Info("command of a client", "command", name, "by", g.Principal, "took", time.Since(began), "err", err)
		return out, err
	}
}

// formatOf are the settings that the admin server has for a volume.
func formatOf(s *adminapi.ServedVolume) (meta.Format, error) {
	f := admin.VolumeFormat(&s.Volume)
	f.Store = s.Store.URL
	if !s.Volume.Encryption {
		return f, nil
	}
	if len(s.Seal) == 0 {
		return f, errNotSealed
	}
	record, err := seal.ParseRecord(s.Seal)
	if err != nil {
		return f, err
	}
	f.Version, f.Seal = meta.EncryptedVersion, record
	return f, nil
}

// errNotSealed says that an encrypted volume waits for its passphrase.
var errNotSealed = vfs.WithErrno(syscall.EAGAIN, errors.New("it is encrypted and has no passphrase yet"))

func openStore(ctx context.Context, b *adminapi.BlockStore) (object.Store, error) {
	o := storeurl.Options{UserAgent: "massif", Create: true}
	if b.AccessKeyID != "" {
		o.S3Credentials = &s3.Credentials{AccessKey: b.AccessKeyID, SecretKey: b.SecretKey}
	}
	s, err := storeurl.Open(ctx, b.URL, o)
	if err == nil && s.Capabilities().Remote {
		s = retry.New(s, retry.Options{Total: 30 * time.Second})
	}
	return s, err
}

// openEngine opens the metadata, or makes it together with the store's marker.
func (v *served) openEngine(ctx context.Context, format meta.Format, log *slog.Logger) error {
	e, err := meta.Open(ctx, v.db, meta.Options{Logger: log, Grace: metarpc.DefaultLife, LeaseGrace: metarpc.DefaultLease})
	mark, markErr := readMarker(ctx, v.objects)
	missing := errors.Is(markErr, object.ErrNotFound)
	switch {
	case errors.Is(err, meta.ErrNoVolume) && missing:
		if err := meta.Create(ctx, v.db, format); err != nil {
			return err
		}
		if e, err = meta.Open(ctx, v.db, meta.Options{Logger: log, Grace: metarpc.DefaultLife, LeaseGrace: metarpc.DefaultLease}); err != nil {
			return err
		}
	case errors.Is(err, meta.ErrNoVolume) && markErr == nil:
		return fmt.Errorf("the store %s has data of the volume, but its metadata is not here: bring the directory back, or load a dump", v.objects)
	case errors.Is(err, meta.ErrNoVolume):
		return fmt.Errorf("store %s: %w", v.objects, markErr)
	case err != nil:
		return err
	}
	v.engine = e
	if have := e.Settings().UUID; have != format.UUID {
		return errors.Join(fmt.Errorf("the metadata here is that of another volume (%s)", have), e.Close())
	}
	switch {
	case missing:
		err = writeMarker(ctx, v.objects, marker{format.UUID, format.Name, format.Created})
	case markErr != nil && !v.objects.Capabilities().Remote:
		err = markErr // a remote store may come back while the volume is in use
	case markErr == nil && mark.UUID != format.UUID:
		err = fmt.Errorf("the store %s belongs to another volume, %q", v.objects, mark.Name)
	default:
		err = nil
	}
	if err != nil {
		return errors.Join(err, e.Close())
	}
	return nil
}

func readMarker(ctx context.Context, s object.Store) (marker, error) {
	var m marker
	body, _, err := s.Get(ctx, markerKey, 0, 64<<10)
	if err != nil {
		return m, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, 64<<10))
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(data, &m)
}

func writeMarker(ctx context.Context, s object.Store, m marker) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	opts := &object.PutOptions{IfAbsent: s.Capabilities().PutIfAbsent, ContentType: "application/json"}
	_, err = s.Put(ctx, markerKey, bytes.NewReader(text), int64(len(text)), opts)
	return err
}

// apply brings the engine's settings to what the admin server has.
func (v *served) apply(ctx context.Context, s *adminapi.ServedVolume) error {
	want, err := formatOf(s)
	if err != nil {
		return err
	}
	have := v.engine.Settings()
	if have.Compression == want.Compression && have.Retention == want.Retention && have.QuotaBytes == want.QuotaBytes &&
		have.QuotaInodes == want.QuotaInodes && sameSeal(have.Seal, want.Seal) {
		return nil
	}
	return v.engine.UpdateSettings(ctx, func(f *meta.Format) error {
		f.Compression, f.Retention, f.QuotaBytes, f.QuotaInodes, f.Seal = want.Compression, want.Retention, want.QuotaBytes, want.QuotaInodes, want.Seal
		return nil
	})
}

func sameSeal(a, b *seal.Record) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// openTree opens what looks after the volume.
func (v *served) openTree(ctx context.Context, log *slog.Logger) error {
	f := v.engine.Settings()
	budget := cache.NewBudget(blockBudget)
	buffers, err := cache.NewBuffers(budget)
	if err != nil {
		return err
	}
	v.close = append(v.close, buffers.Close)
	memory, err := cache.NewMemory(buffers, blockBudget/4)
	if err != nil {
		return err
	}
	v.close = append(v.close, func() error { memory.Close(); return nil })
	compression, err := block.ParseCompression(f.Compression)
	if err != nil {
		return err
	}
	id, err := hex.DecodeString(strings.ReplaceAll(f.UUID, "-", ""))
	if err != nil || len(id) != 16 {
		return fmt.Errorf("UUID %q is not well formed", f.UUID)
	}
	v.blocks, err = block.New(ctx, block.Config{
		Store: v.objects, Volume: [16]byte(id), Compression: compression, Budget: budget, Buffers: buffers, Memory: memory,
		Pending: v.engine, Logger: log,
	})
	if err != nil {
		return err
	}
	v.close = append(v.close, v.blocks.Close)
	session, err := v.engine.NewSession(ctx, meta.SessionInfo{Host: "localhost", PID: os.Getpid(), Mountpoint: ownSession})
	if err != nil {
		return err
	}
	v.tree, err = volume.New(volume.Config{Session: session, Blocks: v.blocks, Budget: budget, Maintainer: v.engine, Pending: v.engine, Logger: log})
	if err != nil {
		return errors.Join(err, session.Close())
	}
	v.close = append(v.close, v.tree.Close)
	// Clients read the store themselves: what a mount left in the metadata goes there first.
	return v.tree.Settle(ctx)
}

// root finds the directory that a token is limited to; 0 for the whole volume.
func (v *served) root(ctx context.Context, path string) (vfs.Ino, error) {
	if path == "" {
		return 0, nil
	}
	s, err := v.engine.NewSession(ctx, meta.SessionInfo{Host: "localhost", PID: os.Getpid(), Mountpoint: ownSession})
	if err != nil {
		return 0, err
	}
	defer s.Close()
	ino := vfs.Ino(vfs.Root)
	for _, name := range strings.Split(path, "/") {
		var a vfs.Attr
		err := s.Lookup(ctx, &vfs.Caller{}, ino, name, &a)
		if err == nil && a.Mode&syscall.S_IFMT != syscall.S_IFDIR { // links are not followed
			err = vfs.WithErrno(syscall.ENOTDIR, fmt.Errorf("%s is no directory", name))
		}
		if err != nil {
			return 0, fmt.Errorf("the directory %s, which the token is limited to: %w", path, err)
		}
		ino = a.Ino
	}
	return ino, nil
}

// sessions is the number of mounts that have the volume.
func (v *served) sessions() int {
	n := 0
	for _, s := range v.engine.Sessions() {
		if s.Mountpoint != ownSession {
			n++
		}
	}
	return n
}

// ownSession marks the sessions of the server itself.
const ownSession = "(metadata server)"

// purge removes every object of a volume that was deleted, and its metadata.
func purge(ctx context.Context, dir string, s *adminapi.ServedVolume) error {
	objects, err := openStore(ctx, &s.Store)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer objects.Close()
	if m, err := readMarker(ctx, objects); err == nil && m.UUID != s.Volume.ID {
		return fmt.Errorf("the store %s belongs to another volume, %q", objects, m.Name)
	} else if err != nil && !errors.Is(err, object.ErrNotFound) {
		return err
	}
	for {
		page, err := objects.List(ctx, object.ListOptions{Limit: 1000})
		if err != nil {
			return err
		}
		var keys []string
		for _, o := range page.Objects {
			if o.Key != markerKey { // the last to go: it says whose the rest is
				keys = append(keys, o.Key)
			}
		}
		if len(keys) == 0 {
			break
		}
		if err := objects.Delete(ctx, keys...); err != nil {
			return err
		}
	}
	if err := objects.Delete(ctx, markerKey); err != nil && !errors.Is(err, object.ErrNotFound) {
		return err
	}
	// A store in a directory leaves the driver's own files; the directory is the
	// volume's, it has its ID as name.
	if l, err := storeurl.Parse(s.Store.URL); err == nil && l.Scheme == "file" {
		if err := os.RemoveAll(filepath.Join(l.Path, ".massif")); err != nil {
			return err
		}
		if err := os.Remove(l.Path); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return os.RemoveAll(filepath.Join(dir, s.Volume.ID))
}

// Close closes everything, last opened first.
func (v *served) Close() error {
	var errs []error
	for i := len(v.close) - 1; i >= 0; i-- {
		errs = append(errs, v.close[i]())
	}
	v.close = nil
	return errors.Join(errs...)
}
