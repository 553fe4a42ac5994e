package mount

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"

	"github.com/massif-fs/massif/seal"
	"github.com/massif-fs/massif/service/admin/adminapi"
	"github.com/massif-fs/massif/vfs"
)

// do has an operation of Registry.Do done by the volume's metadata server, with a
// session for it alone. name is what the user calls the volume.
func (t *SharedTree) do(ctx context.Context, name, op string, args, result any, progress func(json.RawMessage)) (err error) {
	if _, known := servedOps[op]; !known {
		return notShared(name, op)
	}
	if args == nil {
		args = none{}
	}
	text, err := json.Marshal(args)
	if err != nil {
		return err
	}
	client, err := t.Session(ctx, false, quietLogger())
	if err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	out, err := client.Command(ctx, op, text)
	if err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(out, result); err != nil {
		return fmt.Errorf("volume %s: what the metadata server answers is malformed: %w", name, err)
	}
	if r, ok := result.(*FsckResult); ok && progress != nil {
		for _, p := range r.Problems {
			if text, err := json.Marshal(Progress{Stage: "found", Problem: p}); err == nil {
				progress(text)
			}
		}
	}
	return nil
}

// notShared says what to do instead of an operation that is for volumes of this
// machine.
func notShared(name, op string) error {
	err := fmt.Errorf("volume %s: %s works on volumes of this machine only", name, op)
	switch op {
	case "set":
		err = fmt.Errorf("volume %s: the settings of a shared volume are with its admin server: %s", name, adminUpdate)
	case "dump":
		err = fmt.Errorf("volume %s: the metadata of a shared volume is saved where its metadata server runs (its directory), not by a dump", name)
	}
	return vfs.WithErrno(syscall.EOPNOTSUPP, err)
}

// changeSeal is Registry.ChangeSeal: the admin server keeps the record. Credentials
// that held the old passphrase get the new one by KeepSecret.
func (t *SharedTree) changeSeal(ctx context.Context, name string, unlock func(*seal.Record) (*seal.Key, error), change func(*seal.Record, *seal.Key) (*seal.Record, error)) error {
	f, err := t.credentials()
	if err != nil {
		return err
	}
	client, err := f.Client()
	if err != nil {
		return err
	}
	defer client.Close()
	m, err := client.Mount(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("volume %s: %w", name, err)
	case m.VolumeName != t.Volume:
		return fmt.Errorf("volume %s: the credentials are for the volume %s", name, m.VolumeName)
	case !m.Encryption:
		return fmt.Errorf("volume %s is not encrypted", name)
	case len(m.Seal) == 0:
		return fmt.Errorf("volume %s has no passphrase yet; make one with: massif creds init --admin %s", name, t.Admin)
	}
	old, err := seal.ParseRecord(m.Seal)
	if err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	if f.KeyID != "" && old.KeyID != f.KeyID {
		return fmt.Errorf("volume %s: the admin server passes the key %s, the credentials know %s", name, old.KeyID, f.KeyID)
	}
	next, err := rewrap(name, old, unlock, change)
	if err != nil {
		return err
	}
	text, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := client.SetSeal(ctx, adminapi.SealChange{Old: m.Seal, New: text}); err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	return nil
}

// KeepSecret puts a changed passphrase of a shared volume into the credentials of this
// user, if they held the one before. It does nothing for other volumes.
func (g *Registry) KeepSecret(name string, pass seal.Passphrase) error {
	t, ok := sharedVolumeOf(name)
	if !ok {
		return nil
	}
	f, err := t.credentials()
	if err != nil || f.Secret == "" {
		return err
	}
	path, err := CredsPath(t.Admin, t.Volume)
	if err != nil {
		return err
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return err
	}
	f.Secret = string(pass)
	if err := f.Write(path, true); err != nil {
		return fmt.Errorf("the passphrase of volume %s is changed, but the credentials still have the old one: %w", name, err)
	}
	return nil
}
