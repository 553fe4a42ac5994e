package mount

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/seal"
)

// Registry is the table of the volumes that this user's Massif knows: a directory
// with one directory for each volume, named as the volume, which holds
//
//	volume.json   the record (mode 0600)
//	lock          locked by the process that has the volume open
//	meta/         the metadata database, unless it is elsewhere
//	store/        the blocks, unless they are elsewhere
//	cache/        the disk cache, unless it is elsewhere
//	journal/      write-back staging
type Registry struct {
	// Passphrase, if not nil, gets the passphrase of an encrypted volume that an
	// operation is about to open, as a caller of Do wants it: nil if it has none and
	// must is false, an error if it has none and it is needed.
	Passphrase func(volume string, must bool) (seal.Passphrase, error)

	dir string
}

// Record says where a volume is.
type Record struct {
	Name    string    `json:"name"`
	UUID    string    `json:"uuid"`
	Created time.Time `json:"created"`
	Meta    string    `json:"meta"`  // URL of the metadata database: pebble:///DIR
	Store   string    `json:"store"` // URL of the object store: file:///DIR, s3://…
	// KeyID names the key of an encrypted volume; empty: the volume is not encrypted.
	// A volume whose metadata say otherwise is refused.
	KeyID string `json:"keyID,omitempty"`
	// Deleting is set when a deletion has begun: what is left is incomplete.
	Deleting bool `json:"deleting,omitempty"`

	dir string
}

// Encrypted tells whether the volume needs a passphrase.
func (r *Record) Encrypted() bool { return r.KeyID != "" }

// Dir is the volume's own directory.
func (r *Record) Dir() string { return r.dir }

const recordFile = "volume.json"

// OpenRegistry returns the registry below Home. Nothing is made before the first
// volume is.
func OpenRegistry() (*Registry, error) {
	home, err := Home()
	if err != nil {
		return nil, err
	}
	return &Registry{dir: filepath.Join(home, "volumes")}, nil
}

// UnknownVolumeError is the error of a name that no volume has.
type UnknownVolumeError struct {
	Name  string
	Known []string
	Dir   string
}

func (e *UnknownVolumeError) Error() string {
	switch near := Nearest(e.Name, e.Known); {
	case near != "":
		return fmt.Sprintf("there is no volume %q; did you mean %q?", e.Name, near)
	case len(e.Known) > 0 && len(e.Known) <= 8:
		return fmt.Sprintf("there is no volume %q; volumes here: %s", e.Name, strings.Join(e.Known, ", "))
	case len(e.Known) > 0:
		return fmt.Sprintf("there is no volume %q; \"massif volume list\" shows those that are", e.Name)
	}
	return fmt.Sprintf("there is no volume %q (none at all in %s); make it with: massif volume create %s", e.Name, e.Dir, e.Name)
}

// Get returns the record of a volume, or an *UnknownVolumeError.
func (g *Registry) Get(name string) (*Record, error) {
	if !validVolumeName(name) {
		return nil, &UsageError{fmt.Errorf("%q cannot be a volume's name: use 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit", name)}
	}
	dir := filepath.Join(g.dir, name)
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if errors.Is(err, os.ErrNotExist) {
		known, err := g.names()
		if err != nil {
			return nil, err
		}
		return nil, &UnknownVolumeError{Name: name, Known: known, Dir: g.dir}
	}
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", name, err)
	}
	r, err := parseRecord(data)
	if err != nil {
		return nil, fmt.Errorf("volume %s: its record %s is damaged: %w", name, filepath.Join(dir, recordFile), err)
	}
	if r.Name != name {
		return nil, fmt.Errorf("volume %s: its record %s is that of volume %q", name, filepath.Join(dir, recordFile), r.Name)
	}
	r.dir = dir
	return r, nil
}

func parseRecord(data []byte) (*Record, error) {
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, err
	}
	if r.Name == "" || r.UUID == "" || r.Meta == "" || r.Store == "" {
		return nil, errors.New("name, uuid, meta or store is missing")
	}
	return &r, nil
}

// List returns all volumes by name. A damaged record is an error that names it,
// besides those that are well.
func (g *Registry) List() ([]*Record, error) {
	names, err := g.names()
	if err != nil {
		return nil, err
	}
	var out []*Record
	var errs []error
	for _, name := range names {
		r, err := g.Get(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, r)
	}
	return out, errors.Join(errs...)
}

// names lists the directories that hold a record.
func (g *Registry) names() ([]string, error) {
	entries, err := os.ReadDir(g.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("volumes: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() || !validVolumeName(e.Name()) {
			continue
		}
		if _, err := os.Lstat(filepath.Join(g.dir, e.Name(), recordFile)); err == nil {
			names = append(names, e.Name())
		}
	}
	sort.Strings(names)
	return names, nil
}

// lockFile is locked by the process that has a volume open, deletes it or changes
// its metadata for others.
const lockFile = "lock"

// lockOpen takes the volume's lock, or returns an *InUseError. It is released with
// the file.
func (r *Record) lockOpen() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(r.dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", r.Name, err)
	}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return nil, &InUseError{Name: r.Name, Running: findVolume(r.UUID)}
	}
	return nil, fmt.Errorf("volume %s: lock: %w", r.Name, err)
}

// sweep removes what operations that were interrupted have left in the volume's
// directory. The volume's lock is held: none is under way.
func (r *Record) sweep() error {
	left, err := filepath.Glob(filepath.Join(r.dir, scratchPrefix+"*"))
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		return fmt.Errorf("volume %s: clean-up: %w", r.Name, err)
	}
	return nil
}

// scratchPrefix begins the names of directories that an operation on a volume needs
// for itself.
const scratchPrefix = ".scratch-"

// sweep removes what creations and deletions that were interrupted have left. The
// registry's lock is held: none is under way.
func (g *Registry) sweep() error {
	var errs []error
	for _, pattern := range []string{".new-*", ".deleted-*"} {
		left, err := filepath.Glob(filepath.Join(g.dir, pattern))
		errs = append(errs, err)
		for _, dir := range left {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("volumes: clean-up: %w", err)
	}
	return nil
}

// lock keeps two creations or deletions from meeting. It is released with the file.
func (g *Registry) lock() (*os.File, error) {
	if err := os.MkdirAll(g.dir, 0o700); err != nil {
		return nil, fmt.Errorf("volumes: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(g.dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("volumes: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("volumes: lock: %w", err)
	}
	if err := g.sweep(); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// writeRecord replaces the record in dir durably.
func writeRecord(dir string, r *Record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return writeDurably(filepath.Join(dir, recordFile), append(data, '\n'))
}

// writeDurably replaces a file of mode 0600 in one step that survives a crash.
func writeDurably(path string, data []byte) error {
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// validVolumeName is the rule of meta.Format.
func validVolumeName(name string) bool {
	if name == "" || len(name) > 63 {
		return false
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || !slices.Contains([]byte("._-"), c)) {
			return false
		}
	}
	return true
}
