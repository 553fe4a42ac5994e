package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/seal"
)

func (a *app) volumePassphraseCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:   "passphrase",
		Short: "Change the passphrase of an encrypted volume, or use its recovery key",
		Long: `Change how the key of an encrypted volume is protected. The key itself and the
data stay as they are, so this takes no time, and works while the volume is
mounted. Whoever has an old copy of the volume's metadata and knows the old
passphrase can still read what he has.

A shared volume is named HOST[:PORT]/VOLUME. If this user's credentials hold the
passphrase they get the new one; for others it is: massif creds init --force.`,
	}, a.passphraseChangeCommand(), a.passphraseRecoverCommand(), a.recoveryKeyCommand())
}

// newPassphrase is where the new one comes from.
type newPassphrase struct{ file string }

func (n *newPassphrase) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&n.file, "new-passphrase-file", "", "`FILE` (mode 0600) with the new passphrase (default: it is asked for)")
}

func (n *newPassphrase) get(ctx context.Context, volume string) (seal.Passphrase, error) {
	if n.file == "" {
		return askNew(ctx, volume)
	}
	pass, err := mount.ReadPassphraseFile(n.file)
	if err != nil {
		return nil, err
	}
	return pass, pass.Check()
}

func (a *app) passphraseChangeCommand() *cobra.Command {
	var next newPassphrase
	cmd := &cobra.Command{
		Use:   "change NAME",
		Short: "Change the passphrase",
		Example: `  massif volume passphrase change photos
  massif volume passphrase change photos --passphrase-file old --new-passphrase-file new`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			var fresh seal.Passphrase
			defer func() { fresh.Wipe() }()
			return a.changePassphrase(cmd, name, &fresh, withPassphrase(cmd, name), func(r *seal.Record, k *seal.Key) (*seal.Record, error) {
				pass, err := next.get(cmd.Context(), name)
				if err != nil {
					return nil, err
				}
				fresh = pass
				return r.WithPassphrase(k, pass)
			}, "the passphrase of volume %s is changed\n")
		},
		ValidArgsFunction: completeVolume,
	}
	next.add(cmd)
	return cmd
}

func (a *app) passphraseRecoverCommand() *cobra.Command {
	var next newPassphrase
	var file string
	cmd := &cobra.Command{
		Use:   "recover NAME",
		Short: "Set a new passphrase with the recovery key",
		Example: `  massif volume passphrase recover photos
  massif volume passphrase recover photos --recovery-key-file key --new-passphrase-file new`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			unlock := func(r *seal.Record) (*seal.Key, error) {
				key, err := readRecoveryKey(cmd.Context(), file)
				if err != nil {
					return nil, err
				}
				defer key.Wipe()
				return r.Recover(key)
			}
			var fresh seal.Passphrase
			defer func() { fresh.Wipe() }()
			return a.changePassphrase(cmd, name, &fresh, unlock, func(r *seal.Record, k *seal.Key) (*seal.Record, error) {
				pass, err := next.get(cmd.Context(), name)
				if err != nil {
					return nil, err
				}
				fresh = pass
				return r.WithPassphrase(k, pass)
			}, "the passphrase of volume %s is the new one\n")
		},
		ValidArgsFunction: completeVolume,
	}
	next.add(cmd)
	cmd.Flags().StringVar(&file, "recovery-key-file", "", "`FILE` with the recovery key (default: it is asked for)")
	return cmd
}

func (a *app) recoveryKeyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "recovery-key NAME",
		Short: "Make a new recovery key and print it; the old one ends",
		Long: `Make a new recovery key for an encrypted volume and print it. It is not kept
anywhere and not shown again; the recovery key that there was opens nothing any more.`,
		Example: `  massif volume passphrase recovery-key photos`,
		Args:    exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var recovery *seal.RecoveryKey
			err := a.changeSeal(cmd, args[0], withPassphrase(cmd, args[0]), func(r *seal.Record, k *seal.Key) (next *seal.Record, err error) {
				next, recovery, err = r.WithRecoveryKey(k)
				return next, err
			}, "")
			if err != nil {
				return err
			}
			a.printRecoveryKey(recovery)
			return nil
		},
		ValidArgsFunction: completeVolume,
	}
}

// printRecoveryKey shows the recovery key, the only time.
func (a *app) printRecoveryKey(key *seal.RecoveryKey) {
	fmt.Fprintf(a.out, "recovery key: %s\n", key.Reveal())
	fmt.Fprintln(a.err, "Write it down and keep it in a safe place: it is not shown again, and without it a lost passphrase is lost data.")
	key.Wipe()
}

func (a *app) changeSeal(cmd *cobra.Command, name string, unlock func(*seal.Record) (*seal.Key, error), change func(*seal.Record, *seal.Key) (*seal.Record, error), done string) error {
	registry, err := registryFor(cmd)
	if err != nil {
		return err
	}
	if err := registry.ChangeSeal(cmd.Context(), name, unlock, change); err != nil {
		return err
	}
	if done != "" {
		fmt.Fprintf(a.out, done, name)
	}
	return nil
}

// changePassphrase is changeSeal for a new passphrase, which change leaves in fresh: the
// credentials of a shared volume may hold it.
func (a *app) changePassphrase(cmd *cobra.Command, name string, fresh *seal.Passphrase, unlock func(*seal.Record) (*seal.Key, error), change func(*seal.Record, *seal.Key) (*seal.Record, error), done string) error {
	if err := a.changeSeal(cmd, name, unlock, change, done); err != nil {
		return err
	}
	registry, err := registryFor(cmd)
	if err != nil {
		return err
	}
	return registry.KeepSecret(name, *fresh)
}

// withPassphrase unlocks a record with the present passphrase.
func withPassphrase(cmd *cobra.Command, name string) func(*seal.Record) (*seal.Key, error) {
	return func(r *seal.Record) (*seal.Key, error) {
		registry, err := registryFor(cmd)
		if err != nil {
			return nil, err
		}
		pass, err := registry.Passphrase(name, true)
		if err != nil {
			return nil, err
		}
		defer pass.Wipe()
		return r.Unlock(pass)
	}
}

// maxRecoveryFile bounds what is read in search of a recovery key, in bytes.
const maxRecoveryFile = 4096

func readRecoveryKey(ctx context.Context, file string) (*seal.RecoveryKey, error) {
	if file == "" {
		text, err := ask(ctx, "Recovery key: ")
		if errors.Is(err, errNoTerminal) {
			return nil, usageError("there is no terminal to ask for the recovery key on: give --recovery-key-file")
		}
		if err != nil {
			return nil, err
		}
		return seal.ParseRecoveryKey(string(text))
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("recovery key: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRecoveryFile))
	if err != nil {
		return nil, fmt.Errorf("recovery key: %w", err)
	}
	// What "volume create" printed may have been kept as it was.
	words := string(text)
	if _, after, found := strings.Cut(words, "recovery key:"); found {
		words, _, _ = strings.Cut(after, "\n")
	}
	key, err := seal.ParseRecoveryKey(words)
	if err != nil {
		return nil, fmt.Errorf("file %s: %w", file, err)
	}
	return key, nil
}
