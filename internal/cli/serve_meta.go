package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/massif-fs/massif/mount/creds"
	"github.com/massif-fs/massif/service/admin"
	"github.com/massif-fs/massif/service/admin/adminapi"
	"github.com/massif-fs/massif/service/metad/managed"
)

// metaFlags are the flags of a metadata server.
type metaFlags struct {
	listen, admin, token, tokenFile string
	contact                         contactFlags
	early                           bool
}

// earlyFlag adds the flag of how a metadata server answers.
func earlyFlag(flags *pflag.FlagSet, to *bool) {
	flags.BoolVar(to, "early-replies", false, "answer changes before they are on stable storage (faster; mounts make them again if the server dies first)")
}

func (a *app) serveMetaCommand() *cobra.Command {
	var common serverFlags
	var f metaFlags
	cmd := &cobra.Command{
		Use:   "meta",
		Short: "Run a metadata server",
		Long: `Run a metadata server: it serves the volumes that the admin server assigns to it, and
keeps their metadata below its directory. "massif admin create metadata-server" makes
its token.

On the first start it is told the admin server and the token, and keeps both in its
directory; how the admin server is recognized is decided then, too. Its certificate is
signed by the admin server. While the admin server is away it serves on, also after a
restart.`,
		Example: `  massif serve meta --admin admin.example.com --token-file token --fingerprint sha256:…
  massif serve meta    # later
  massif serve meta --config /etc/massif/meta.toml`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := applyConfig(cmd.Flags(), common.config); err != nil {
				return err
			}
			dir, err := common.directory("meta")
			if err != nil {
				return err
			}
			file, err := f.credentials(cmd, a, dir)
			if err != nil {
				return err
			}
			return common.serve(cmd, func(ctx context.Context, w *serverWatch, log *slog.Logger) (func(context.Context) error, error) {
				client, err := file.Client()
				if err != nil {
					return nil, err
				}
				s, err := startMeta(ctx, a, client, dir, f.listen, f.early, w, log)
				if err != nil {
					client.Close()
					return nil, err
				}
				w.working(func(context.Context) error { return s.Health() })
				return func(ctx context.Context) error {
					defer client.Close()
					return s.Run(ctx)
				}, nil
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	common.add(cmd, "meta")
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", ":7444", "`HOST:PORT` to listen on")
	flags.StringVar(&f.admin, "admin", "", "`HOST:PORT` of the admin server (first start)")
	flags.StringVar(&f.token, "token", "", "of the metadata server (first start); rather use --token-file")
	flags.StringVar(&f.tokenFile, "token-file", "", "`FILE` with the token; -: standard input")
	earlyFlag(flags, &f.early)
	f.contact.add(cmd)
	return cmd
}

// credentials reads the server's credentials, or makes them of the flags.
func (f *metaFlags) credentials(cmd *cobra.Command, a *app, dir string) (*creds.File, error) {
	path := filepath.Join(dir, "creds")
	file, err := creds.Read(path)
	if err == nil && f.admin == "" && f.token == "" && f.tokenFile == "" {
		return file, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if f.admin == "" {
		if file != nil {
			return nil, usageError("%s: --token is for the first start, together with --admin", cmd.CommandPath())
		}
		return nil, usageError("%s: --admin is missing: this is the first start in %s", cmd.CommandPath(), dir)
	}
	addr, err := adminapi.Address(f.admin)
	if err != nil {
		return nil, usageError("--admin: %v", err)
	}
	if file != nil && file.AdminAddr == addr {
		return file, nil // a unit or configuration file names them each time
	}
	secret, err := a.secretOf("token", f.token, f.tokenFile)
	if err != nil {
		return nil, err
	}
	if secret, err = adminapi.ParseToken(secret); err != nil {
		return nil, err
	}
	trust, err := creds.FirstContact(cmd.Context(), addr, f.contact.contact(a.streams))
	if err != nil {
		return nil, err
	}
	file = &creds.File{AdminAddr: addr, Token: secret, Fingerprint: trust.Fingerprint, CA: trust.CA, Insecure: trust.Insecure}
	client, err := file.Client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if _, err := client.Served(cmd.Context()); err != nil {
		return nil, err
	}
	if err := admin.MakeDir(dir); err != nil {
		return nil, err
	}
	return file, file.Write(path, true)
}

// startMeta starts a metadata server and says so.
func startMeta(ctx context.Context, a *app, client *adminapi.Client, dir, listen string, early bool, w *serverWatch, log *slog.Logger) (*managed.Server, error) {
	s, err := managed.Start(ctx, managed.Config{Admin: client, Dir: dir, Listen: listen, Early: early, Version: currentVersion().Version, Logger: log, Metrics: w.metrics})
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(a.out, "metadata server %s on %s\n", s.Name(), s.Addr())
	return s, nil
}
