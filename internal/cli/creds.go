package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/compat/flexfs"
	"github.com/massif-fs/massif/internal/terminal"
	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/mount/creds"
	"github.com/massif-fs/massif/service/admin/adminapi"
)

func (a *app) credsCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use: "creds", Short: "Keep the credentials of shared volumes", GroupID: "servers",
		Long: `Keep the credentials with which this machine mounts shared volumes: files of mode 0600
below Massif's directory, in creds/ADMIN-SERVER/VOLUME. Besides the token they say how
the admin server is recognized.`,
	}, a.credsInit(), a.credsList(), a.credsRemove())
}

func (a *app) credsInit() *cobra.Command {
	var admin, token, tokenFile, file string
	var force, noSecret bool
	var contact contactFlags
	var pass passphraseFlags
	cmd := &cobra.Command{
		Use: "init", Short: "Make the credentials of a volume",
		Long: `Check the token of a volume with the admin server and keep it. The token is asked for,
or read from --token-file ("-": standard input).

The first contact with an admin server that no known authority vouches for shows its
fingerprint, which it also prints when it starts, and asks whether it is the same;
--fingerprint, --ca and --insecure answer that for scripts. A server that shows
another certificate later is refused.

An encrypted volume that has no passphrase yet gets it now, and its recovery key is
shown, once. The passphrase is kept with the credentials, so that the volume can be
mounted without a person; with --no-secret it is asked for at each mount.`,
		Example: `  massif creds init --admin admin.example.com
  massif creds init --admin admin.example.com --token-file token --fingerprint sha256:…
  massif mount admin.example.com/photos /mnt/photos`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if admin == "" {
				return usageError("%s: --admin is missing: name the admin server", cmd.CommandPath())
			}
			addr, err := adminapi.Address(admin)
			if err != nil {
				return usageError("--admin: %v", err)
			}
			secret, err := a.secretOf("token", token, tokenFile)
			if err != nil {
				return err
			}
			phrase, err := pass.get()
			if err != nil {
				return err
			}
			defer phrase.Wipe()
			join := creds.Join{
				Addr: addr, Token: secret, Secret: string(phrase), Path: file, Force: force, Contact: contact.contact(a.streams),
				KeepSecret: !noSecret, Recovery: creds.ShowRecovery(a.out),
				DefaultPath: func(volume string) (string, error) { return mount.CredsPath(addr, volume) },
			}
			if terminal.Present() {
				join.AskSecret = flexfs.AskSecret
			}
			done, err := join.Do(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(a.out, "credentials are in %s; mount the volume with: massif mount %s/%s MOUNTPOINT\n", done.Path, admin, done.Volume)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&admin, "admin", "", "`HOST:PORT` of the admin server")
	flags.StringVar(&token, "token", "", "of the volume; others on this machine see it with ps for a moment, so rather let yourself be asked")
	flags.StringVar(&tokenFile, "token-file", "", "`FILE` with the token; -: standard input")
	flags.StringVar(&file, "creds-file", "", "`FILE` to write (default: below Massif's directory)")
	flags.BoolVar(&force, "force", false, "replace existing credentials")
	flags.BoolVar(&noSecret, "no-secret", false, "do not keep the passphrase of an encrypted volume")
	pass.fd = -1
	pass.add(flags)
	contact.add(cmd)
	return cmd
}

// credsRow is a credentials file as "massif creds list" shows it.
type credsRow struct {
	Admin    string `json:"admin"`
	Volume   string `json:"volume"`
	Path     string `json:"path"`
	Insecure bool   `json:"insecure,omitempty"`
	Error    string `json:"error,omitempty"`
}

func (a *app) credsList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List the credentials of this user", Args: exactArgs(),
		Example: "  massif creds list",
		RunE: func(*cobra.Command, []string) error {
			home, err := mount.Home()
			if err != nil {
				return err
			}
			files, err := filepath.Glob(filepath.Join(globQuote(home), "creds", "*", "*"))
			if err != nil {
				return err
			}
			rows := []credsRow{}
			for _, path := range files {
				row := credsRow{Admin: filepath.Base(filepath.Dir(path)), Volume: filepath.Base(path), Path: path}
				f, err := creds.Read(path)
				if err != nil {
					row.Error = err.Error()
				} else {
					row.Insecure = f.Insecure
				}
				rows = append(rows, row)
			}
			if a.json {
				return a.printJSON(rows)
			}
			if len(rows) == 0 {
				fmt.Fprintln(a.err, "there are no credentials")
				return nil
			}
			t := newTable(a.out, "ADMIN", "VOLUME", "FILE", "PROBLEM")
			for _, r := range rows {
				problem := orDash(r.Error)
				if r.Insecure {
					problem = "insecure: nobody checks who the admin server is"
				}
				t.row(r.Admin, r.Volume, r.Path, problem)
			}
			return t.flush()
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

// globQuote takes the meaning from what a pattern would read as one.
func globQuote(path string) string {
	var b []byte
	for i := range len(path) {
		switch path[i] {
		case '*', '?', '[', '\\':
			b = append(b, '\\')
		}
		b = append(b, path[i])
	}
	return string(b)
}

func (a *app) credsRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove ADMIN/VOLUME", Short: "Remove the credentials of a volume", Args: exactArgs("ADMIN/VOLUME"),
		Example: "  massif creds remove admin.example.com/photos",
		RunE: func(_ *cobra.Command, args []string) error {
			spec, err := mount.Parse(args[0])
			if err != nil {
				return err
			}
			t, ok := spec.Tree.Config.(*mount.SharedTree)
			if !ok {
				return usageError("%q: write ADMIN/VOLUME, such as admin.example.com/photos", args[0])
			}
			path, err := mount.CredsPath(t.Admin, t.Volume)
			if err != nil {
				return err
			}
			err = os.Remove(path)
			if errors.Is(err, os.ErrNotExist) {
				return &creds.MissingError{Path: path}
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(a.out, "%s is removed\n", path)
			return nil
		},
	}
}
