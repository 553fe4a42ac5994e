package flexfs

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/internal/cmdline"
	"github.com/massif-fs/massif/internal/terminal"
	"github.com/massif-fs/massif/mount/creds"
)

// credsCommand makes "init creds".
func (p *Personality) credsCommand(use, short string) *cobra.Command {
	var addr, token, secret, file, fingerprint, ca string
	var force, insecure bool
	cmd := &cobra.Command{
		Use: use, Short: short,
		Long: `Check the token of a volume with the admin server and write the credentials file.

What is not given is asked for, hidden. An encrypted volume that has no secret yet
gets it now; the recovery key that is shown then is shown once. The first contact
with an admin server that no known authority vouches for shows its fingerprint and
asks; --fingerprint, --ca and --insecure answer that for scripts. The answer is kept
in the file, and a server that shows another certificate later is refused.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && use == "init" {
				return cmdline.UnknownCommand(cmd, args[0])
			}
			return cmdline.Args(0)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if addr == "" && use == "init" {
				return cmd.Help()
			}
			if addr == "" {
				return usageError("%s: --adminAddr is missing: name the admin server", cmd.CommandPath())
			}
			if token == "" {
				if token, err = terminal.Secret("Token: "); errors.Is(err, terminal.ErrNone) {
					return usageError("%s: --token is missing, and there is no terminal to ask at", cmd.CommandPath())
				}
				if err != nil {
					return err
				}
			}
			if file, err = absolute(file); err != nil {
				return err
			}
			join := creds.Join{
				Addr: addr, Token: token, Secret: secret, Path: file, DefaultPath: credsPath, Force: force,
				Contact:    creds.Contact{Fingerprint: fingerprint, CAFile: ca, Insecure: insecure, Out: p.Err},
				KeepSecret: true, Recovery: creds.ShowRecovery(p.Out),
			}
			if terminal.Present() {
				join.Contact.Confirm, join.AskSecret = terminal.Confirm, AskSecret
			}
			done, err := join.Do(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(p.Out, "credentials for the volume %s are in %s\n", done.Volume, done.Path)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&addr, "adminAddr", "", "`HOST:PORT` of the admin server")
	flags.StringVar(&token, "token", "", "`UUID` of the volume (else asked for)")
	flags.StringVar(&secret, "secret", "", "`TEXT` that encrypts the volume (else asked for, if it is encrypted)")
	flags.StringVar(&file, "credsFile", "", "`FILE` to write (default ~/.flexfs/mount/creds/<volume>)")
	flags.BoolVar(&force, "force", false, "replace an existing file")
	flags.StringVar(&fingerprint, "fingerprint", "", "of the admin server, as it prints it (Massif's own)")
	flags.StringVar(&ca, "ca", "", "`FILE` of the authorities (PEM) that vouch for the admin server (Massif's own)")
	flags.BoolVar(&insecure, "insecure", false, "do not check who the server is: whoever answers gets the token (Massif's own)")
	return cmd
}

// AskSecret asks for the passphrase of a volume, twice for a new one.
func AskSecret(volume string, fresh bool) (string, error) {
	if !fresh {
		return terminal.Secret("Secret of the volume " + volume + ": ")
	}
	first, err := terminal.Secret("The volume " + volume + " is encrypted and has no secret yet.\nNew secret, at least 8 characters: ")
	if err != nil {
		return "", err
	}
	again, err := terminal.Secret("The same again: ")
	if err == nil && first != again {
		err = creds.ErrSecrets
	}
	return first, err
}

// forgetCommand makes "deinit creds".
func (p *Personality) forgetCommand() *cobra.Command {
	var file string
	var force bool
	cmd := &cobra.Command{
		Use: "creds [NAME]", Short: "Remove the credentials file of a volume", Args: cmdline.Args(0, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			switch {
			case file != "" && len(args) > 0:
				return usageError("%s: name the volume or --credsFile, not both", cmd.CommandPath())
			case file == "" && len(args) == 0:
				return usageError("%s: NAME is missing; usage: %s", cmd.CommandPath(), cmd.UseLine())
			case file == "":
				if file, err = credsPath(args[0]); err != nil {
					return err
				}
			}
			// Only what is a credentials file is removed, unless it is to be forced.
			if _, err := creds.Read(file); err != nil && (!force || errors.Is(err, os.ErrNotExist)) {
				return err
			}
			if err := os.Remove(file); err != nil {
				return fmt.Errorf("credentials: %w", err)
			}
			fmt.Fprintf(p.Out, "%s is removed\n", file)
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "credsFile", "", "`FILE` to remove (default ~/.flexfs/mount/creds/<NAME>)")
	cmd.Flags().BoolVar(&force, "force", false, "remove it also if it is damaged")
	return cmd
}
