package creds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/massif-fs/massif/seal"
	"github.com/massif-fs/massif/service/admin/adminapi"
)

// Join is the making of the credentials for a volume.
type Join struct {
	Addr  string // of the admin server
	Token string // of the volume
	// Secret is the passphrase of an encrypted volume; "": AskSecret.
	Secret string
	// Path is where the file goes; nil: DefaultPath, which gets the volume's name.
	Path        string
	DefaultPath func(volume string) (string, error)
	Force       bool // replace an existing file
	Contact     Contact
	// AskSecret asks a person for the passphrase, for a new one with fresh; nil where
	// nobody can be asked.
	AskSecret func(volume string, fresh bool) (string, error)
	// KeepSecret says whether the passphrase is kept in the file.
	KeepSecret bool
	// Recovery is told the recovery key of a volume that got its passphrase just now.
	Recovery func(volume, key string)
}

// Joined is what came of it.
type Joined struct {
	Volume string
	Path   string
	Fresh  bool // the volume has got its passphrase just now
}

// Do checks the token with the admin server, and the passphrase of an encrypted
// volume, and writes the file. If anything is wrong nothing is written.
func (j Join) Do(ctx context.Context) (*Joined, error) {
	addr, err := adminapi.Address(j.Addr)
	if err != nil {
		return nil, err
	}
	token, err := adminapi.ParseToken(j.Token)
	if err != nil {
		return nil, err
	}
	if j.Path != "" && !j.Force {
		if _, err := os.Lstat(j.Path); err == nil {
			return nil, &ExistsError{j.Path}
		}
	}
	trust, err := FirstContact(ctx, addr, j.Contact)
	if err != nil {
		return nil, err
	}
	f := &File{AdminAddr: addr, Token: token, Fingerprint: trust.Fingerprint, CA: trust.CA, Insecure: trust.Insecure}
	client, err := f.Client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	m, err := client.Mount(ctx)
	if err != nil {
		return nil, err
	}
	done := &Joined{Volume: m.VolumeName, Path: j.Path}
	if j.Path == "" {
		if done.Path, err = j.DefaultPath(m.VolumeName); err != nil {
			return nil, err
		}
		if _, err := os.Lstat(done.Path); err == nil && !j.Force {
			return nil, &ExistsError{done.Path}
		}
	}
	if err := j.unlock(ctx, client, m, f, done); err != nil {
		return nil, err
	}
	return done, f.Write(done.Path, j.Force)
}

// unlock checks the passphrase of an encrypted volume, or sets it where there is none.
func (j Join) unlock(ctx context.Context, client *adminapi.Client, m *adminapi.MountSettings, f *File, done *Joined) error {
	if !m.Encryption {
		if j.Secret != "" {
			return fmt.Errorf("the volume %s is not encrypted: it takes no secret", m.VolumeName)
		}
		return nil
	}
	secret := j.Secret
	fresh := len(m.Seal) == 0
	if secret == "" {
		if j.AskSecret == nil {
			return fmt.Errorf("the volume %s is encrypted: give its secret, for there is no terminal to ask at", m.VolumeName)
		}
		var err error
		if secret, err = j.AskSecret(m.VolumeName, fresh); err != nil {
			return err
		}
	}
	if fresh {
		if err := j.seal(ctx, client, m, secret, f); err != nil {
			return err
		}
		done.Fresh = true
	} else {
		record, err := seal.ParseRecord(m.Seal)
		if err != nil {
			return fmt.Errorf("volume %s: %w", m.VolumeName, err)
		}
		key, err := record.Unlock(seal.Passphrase(secret))
		if err != nil {
			return fmt.Errorf("volume %s: %w", m.VolumeName, err)
		}
		f.KeyID = key.ID()
		key.Wipe()
	}
	if j.KeepSecret {
		f.Secret = secret
	}
	return nil
}

// seal makes the volume's key and stores it with the admin server, wrapped.
func (j Join) seal(ctx context.Context, client *adminapi.Client, m *adminapi.MountSettings, secret string, f *File) error {
	record, key, recovery, err := seal.Create(seal.Passphrase(secret))
	if err != nil {
		return fmt.Errorf("secret of volume %s: %w", m.VolumeName, err)
	}
	defer key.Wipe()
	text, err := json.Marshal(record)
	if err != nil {
		return err
	}
	// Whoever is first sets it: the server refuses a second one.
	if err := client.SetSeal(ctx, adminapi.SealChange{New: text}); err != nil {
		return err
	}
	f.KeyID = key.ID()
	if j.Recovery != nil {
		j.Recovery(m.VolumeName, recovery.Reveal())
	}
	return nil
}

// ShowRecovery writes a recovery key for a person.
func ShowRecovery(out io.Writer) func(volume, key string) {
	return func(volume, key string) {
		fmt.Fprintf(out, "The volume %s is encrypted with this secret from now on. If it is lost, this recovery key opens the\n"+
			"volume; without either, the data is lost. It is shown this once, keep it in a safe place:\n\n  %s\n\n", volume, key)
	}
}

// ErrSecrets says that two entries of a new secret differ.
var ErrSecrets = errors.New("the two secrets differ")
