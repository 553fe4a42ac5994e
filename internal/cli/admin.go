package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/internal/terminal"
	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/mount/creds"
	"github.com/massif-fs/massif/service/admin/adminapi"
)

func (a *app) adminCommand() *cobra.Command {
	c := &adminCommand{app: a}
	cmd := a.group(&cobra.Command{
		Use:     "admin",
		Short:   "Administer shared volumes",
		GroupID: "servers",
		Long: `Administer shared volumes at an admin server (see "massif serve admin"): accounts,
object stores, metadata servers, proxy groups, volumes and tokens.

"massif admin login" says which server and with which token; later commands take
that from a file of mode 0600. Entities are named by name or ID. Sizes and times are
written as people write them: 4MiB, 7d.`,
		Example: `  massif admin login --addr admin.example.com
  massif admin create store data --url s3://my-bucket/massif
  massif admin create metadata-server meta1 --address meta1.example.com:7444
  massif admin create volume photos --store data --metadata-server meta1 --retention 30d
  massif admin create token --volume photos --path team-a --read-only --expires 90d
  massif admin list volumes
  massif admin update volume photos --quota-bytes 2TiB
  massif admin delete token 4f1c…`,
	},
		c.login(), c.verb("create"), c.list(), c.show(), c.verb("update"), c.remove(), c.whoami(), c.audit(),
	)
	cmd.PersistentFlags().StringVar(&c.file, "creds-file", "", "`FILE` with the admin server's address and the token (default: admin.toml in Massif's directory)")
	return cmd
}

// adminCommand is what the commands below "massif admin" share.
type adminCommand struct {
	*app
	file string
}

// path is the file of the login.
func (c *adminCommand) path() (string, error) {
	if c.file != "" {
		return c.file, nil
	}
	home, err := mount.Home()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, "admin.toml"), nil
}

// client opens the admin server of the login.
func (c *adminCommand) client() (*adminapi.Client, error) {
	path, err := c.path()
	if err != nil {
		return nil, err
	}
	f, err := creds.Read(path)
	var missing *creds.MissingError
	if errors.As(err, &missing) {
		return nil, fmt.Errorf("no admin server is known (%s is not there); log in with: massif admin login --addr HOST", path)
	}
	if err != nil {
		return nil, err
	}
	return f.Client()
}

// contactFlags are the flags of commands that meet an admin server for the first time.
type contactFlags struct {
	fingerprint, ca string
	insecure        bool
}

func (f *contactFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.fingerprint, "fingerprint", "", "of the admin server, as it prints it (else it is shown, and asked about)")
	flags.StringVar(&f.ca, "ca", "", "`FILE` of the authorities (PEM) that vouch for the admin server")
	flags.BoolVar(&f.insecure, "insecure", false, "do not check who the server is: whoever answers gets the token")
}

func (f *contactFlags) contact(s streams) creds.Contact {
	return creds.Contact{
		Fingerprint: f.fingerprint, CAFile: f.ca, Insecure: f.insecure, Out: s.err,
		Confirm: confirmer(),
	}
}

// confirmer asks at the terminal, if there is one.
func confirmer() func(string) (bool, error) {
	if !terminal.Present() {
		return nil
	}
	return terminal.Confirm
}

func (c *adminCommand) login() *cobra.Command {
	var addr, token, tokenFile string
	var contact contactFlags
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Say which admin server, and with which token",
		Long: `Remember the address of an admin server, how it is recognized, and a token of an
account, in a file of mode 0600. The token is asked for, or read from --token-file
("-": standard input).`,
		Example: `  massif admin login --addr admin.example.com
  massif admin login --addr localhost:7443 --token-file /var/lib/massif/admin/first-token --fingerprint sha256:…`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if addr == "" {
				return usageError("%s: --addr is missing: name the admin server", cmd.CommandPath())
			}
			at, err := adminapi.Address(addr)
			if err != nil {
				return usageError("--addr: %v", err)
			}
			secret, err := c.secretOf("token", token, tokenFile)
			if err != nil {
				return err
			}
			if secret, err = adminapi.ParseToken(secret); err != nil {
				return err
			}
			trust, err := creds.FirstContact(cmd.Context(), at, contact.contact(c.streams))
			if err != nil {
				return err
			}
			f := &creds.File{AdminAddr: at, Token: secret, Fingerprint: trust.Fingerprint, CA: trust.CA, Insecure: trust.Insecure}
			client, err := f.Client()
			if err != nil {
				return err
			}
			defer client.Close()
			who, err := client.Whoami(cmd.Context())
			if err != nil {
				return err
			}
			path, err := c.path()
			if err != nil {
				return err
			}
			if err := f.Write(path, true); err != nil {
				return err
			}
			fmt.Fprintf(c.out, "logged in at %s as %s\n", at, describeWho(who))
			return nil
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&addr, "addr", "", "`HOST:PORT` of the admin server")
	flags.StringVar(&token, "token", "", "of an account; others on this machine see it with ps for a moment, so rather let yourself be asked")
	flags.StringVar(&tokenFile, "token-file", "", "`FILE` with the token; -: standard input")
	contact.add(cmd)
	return cmd
}

// secretOf gets a secret from a flag, a file or a person.
func (a *app) secretOf(what, value, file string) (string, error) {
	switch {
	case value != "" && file != "":
		return "", usageError("give --%s or --%s-file, not both", what, what)
	case value != "":
		return value, nil
	case file != "":
		return a.readSecret(what, file)
	}
	secret, err := terminal.Secret(strings.ToUpper(what[:1]) + what[1:] + ": ")
	if errors.Is(err, terminal.ErrNone) {
		return "", usageError("--%s-file is missing, and there is no terminal to ask at", what)
	}
	return secret, err
}

func (a *app) readSecret(what, file string) (string, error) {
	in := a.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("%s: %w", what, err)
		}
		defer f.Close()
		in = f
	}
	return creds.ReadSecret(in)
}

func describeWho(w *adminapi.Whoami) string {
	switch w.Token.Kind {
	case adminapi.TokenAccount:
		return fmt.Sprintf("%s of the account %s", w.Token.Role, w.AccountName)
	case adminapi.TokenVolume:
		return "a token of a volume"
	}
	return "a metadata server"
}

func (c *adminCommand) whoami() *cobra.Command {
	cmd := &cobra.Command{
		Use: "whoami", Short: "Show what the token is", Args: exactArgs(),
		Example: "  massif admin whoami",
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			defer client.Close()
			who, err := client.Whoami(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(who)
			}
			fmt.Fprintf(c.out, "%s at %s\n", describeWho(who), client.Addr())
			return nil
		},
	}
	c.jsonFlag(cmd)
	return cmd
}
