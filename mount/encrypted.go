package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime/debug"
	"syscall"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/meta/sealed"
	"github.com/massif-fs/massif/seal"
	"github.com/massif-fs/massif/vfs"
)

// PassphraseEnv is the environment variable that may hold a passphrase. Processes in
// the background do not inherit it.
const PassphraseEnv = "MASSIF_PASSPHRASE"

// LockedError says that a volume is encrypted and no passphrase was given.
type LockedError struct{ Name string }

func (e *LockedError) Error() string {
	return fmt.Sprintf("volume %s is encrypted: give its passphrase on a terminal, with --passphrase-file FILE, --passphrase-fd N or in %s", e.Name, PassphraseEnv)
}

func (e *LockedError) Unwrap() error { return syscall.ENOKEY }

// NeedsPassphrase tells whether the spec's tree is known to be encrypted, and what
// people call it. What is wrong with the tree otherwise shows when it is opened.
func (s *Spec) NeedsPassphrase(g *Registry) (name string, needs bool) {
	if t, ok := s.Tree.Config.(encryptedTree); ok && s.Mount.PassphraseFile == "" {
		return t.Encrypted(g)
	}
	return "", false
}

// encryptedTree is a TreeConfig of a kind that may be encrypted.
type encryptedTree interface {
	// Encrypted tells whether the tree needs Env.Passphrase, and its name.
	Encrypted(g *Registry) (name string, needs bool)
}

// Encrypted implements encryptedTree.
func (t *VolumeTree) Encrypted(g *Registry) (string, bool) {
	r, err := g.Get(t.Name)
	return t.Name, err == nil && r.Encrypted()
}

// maxPassphraseFile bounds what is read in search of a passphrase, in bytes.
const maxPassphraseFile = seal.MaxPassphrase + 2

// ReadPassphraseFile reads a passphrase from a file: all of it but a line feed at its
// end. A regular file that others may read is refused.
func ReadPassphraseFile(path string) (seal.Passphrase, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("passphrase file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("passphrase file: %w", err)
	case info.IsDir():
		return nil, fmt.Errorf("passphrase file %s is a directory", path)
	case info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("passphrase file %s can be read by others: chmod 600 it", path)
	}
	p, err := ReadPassphrase(f)
	if err != nil {
		return nil, fmt.Errorf("passphrase file %s: %w", path, err)
	}
	return p, nil
}

// ReadPassphrase reads a passphrase up to the end of r.
func ReadPassphrase(r io.Reader) (seal.Passphrase, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxPassphraseFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxPassphraseFile:
		return nil, fmt.Errorf("it is longer than %d bytes", seal.MaxPassphrase)
	}
	data = bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
	if len(data) == 0 {
		return nil, errors.New("it is empty")
	}
	return data, nil
}

// unlock makes an encrypted volume's key, if it is and a passphrase is there.
func (v *Volume) unlock(o OpenOptions) error {
	name, f := v.Record.Name, v.Engine.Settings()
	switch {
	case f.Seal == nil && v.Record.KeyID != "":
		return fmt.Errorf("volume %s is encrypted, but its metadata say that it is not: somebody has changed them; nothing was opened", name)
	case f.Seal == nil && o.Passphrase != nil:
		return fmt.Errorf("volume %s is not encrypted, but a passphrase was given", name)
	case f.Seal == nil:
		return nil
	case f.Seal.KeyID != v.Record.KeyID:
		return fmt.Errorf("volume %s: its metadata are encrypted with another key than the volume; nothing was opened", name)
	case o.Passphrase == nil && o.Locked:
		return nil
	case o.Passphrase == nil:
		return &LockedError{Name: name}
	}
	key, err := f.Seal.Unlock(o.Passphrase)
	if err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	debug.FreeOSMemory() // Argon2id took more than many a mount is to have
	v.Key = key
	v.Engine.SetKeyholder(sealed.Keyholder(key))
	v.close = append(v.close, func() error { key.Wipe(); return nil })
	return nil
}

// locked tells whether the volume is encrypted and its key is not here.
func (v *Volume) locked() bool { return v.Record.Encrypted() && v.Key == nil }

// errLocked is the error of operations that need the key.
func (v *Volume) errLocked(op string) error {
	if v.served {
		return vfs.WithErrno(syscall.ENOKEY, fmt.Errorf("%s: volume %s is encrypted, and its metadata server does not know the names of its files", op, v.Record.Name))
	}
	return vfs.WithErrno(syscall.ENOKEY, fmt.Errorf("%s: volume %s is encrypted and this needs its passphrase", op, v.Record.Name))
}

// begin begins a session of an engine of the volume, the present one or one of the
// past. It sees plain names if the volume's key is here.
func (v *Volume) begin(ctx context.Context, e *meta.Engine, info meta.SessionInfo) (meta.Session, error) {
	s, err := e.NewSession(ctx, info)
	if err != nil || v.Key == nil {
		return s, err
	}
	open, err := sealed.New(s, v.Key, sealed.Options{})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return open, nil
}

// needsKey tells whether an operation cannot be done without an encrypted volume's
// key; wantsKey, whether it says more with it.
func needsKey(op string, args any) bool {
	switch op {
	case "clone", "trash":
		return true
	case "quota-set":
		a, ok := args.(QuotaArgs)
		return !ok || !isRoot(a.Path)
	case "quota-remove":
		a, ok := args.(map[string]string)
		return !ok || !isRoot(a["path"])
	case "gc":
		a, ok := args.(GCArgs)
		return ok && a.Compact && !a.DryRun
	case "fsck":
		a, ok := args.(FsckArgs)
		return ok && a.Repair
	}
	return false
}

func isRoot(name string) bool { return path.Clean("/"+name) == "/" }

func wantsKey(op string) bool { return op == "fsck" || op == "quota-list" }

// passphraseFor gets the passphrase for an operation of Do, if it needs one.
func (g *Registry) passphraseFor(r *Record, op string, args any) (seal.Passphrase, error) {
	must := needsKey(op, args)
	if !r.Encrypted() || !must && !wantsKey(op) {
		return nil, nil
	}
	if g.Passphrase == nil {
		if must {
			return nil, &LockedError{Name: r.Name}
		}
		return nil, nil
	}
	return g.Passphrase(r.Name, must)
}

// SealChange replaces the encryption record of a volume by another of the same key,
// if it still is the old one.
type SealChange struct {
	Old *seal.Record `json:"old"`
	New *seal.Record `json:"new"`
}

func init() {
	registerOp("seal-change", func(ctx context.Context, v *Volume, c SealChange, _ func(any)) (any, error) {
		if c.Old == nil {
			return nil, vfs.WithErrno(syscall.EINVAL, fmt.Errorf("volume %s is not encrypted", v.Record.Name))
		}
		return nil, v.Engine.SetSeal(ctx, c.Old, c.New)
	})
}

// ChangeSeal changes how the key of an encrypted volume is wrapped: unlock gets the
// key from the record that there is, change makes the new record. The volume may be
// mounted; its data stay as they are.
func (g *Registry) ChangeSeal(ctx context.Context, name string, unlock func(*seal.Record) (*seal.Key, error), change func(*seal.Record, *seal.Key) (*seal.Record, error)) error {
	if tree, ok := sharedVolumeOf(name); ok {
		return tree.changeSeal(ctx, name, unlock, change)
	}
	var info VolumeInfo
	if err := g.Do(ctx, name, "info", nil, &info, nil); err != nil {
		return err
	}
	old := info.Settings.Seal
	switch {
	case old == nil && !info.Encrypted():
		return fmt.Errorf("volume %s is not encrypted", name)
	case old == nil || old.KeyID != info.KeyID:
		return fmt.Errorf("volume %s: its metadata do not have the key that it was made with", name)
	}
	next, err := rewrap(name, old, unlock, change)
	if err != nil {
		return err
	}
	return g.Do(ctx, name, "seal-change", SealChange{Old: old, New: next}, nil, nil)
}

// rewrap makes the record that replaces old.
func rewrap(name string, old *seal.Record, unlock func(*seal.Record) (*seal.Key, error), change func(*seal.Record, *seal.Key) (*seal.Record, error)) (*seal.Record, error) {
	key, err := unlock(old)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", name, err)
	}
	defer key.Wipe()
	next, err := change(old, key)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", name, err)
	}
	return next, nil
}
