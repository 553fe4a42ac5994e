package cli

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/service/admin"
)

// adminFlags are the flags of an admin server.
type adminFlags struct {
	listen, cert, key, tokenFile string
	hosts                        []string
	keepToken                    bool // the caller takes care of the first token
}

func (f *adminFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", ":443", "`HOST:PORT` to listen on")
	flags.StringSliceVar(&f.hosts, "host", nil, "`NAME` or address under which mounts reach the server; may be repeated (always: this machine's name and addresses)")
	flags.StringVar(&f.cert, "cert", "", "`FILE` of a certificate (PEM) instead of one by the server's own authority")
	flags.StringVar(&f.key, "key", "", "`FILE` of the certificate's key (PEM)")
	flags.StringVar(&f.tokenFile, "token-file", "", "`FILE` into which the first account's token is written, instead of standard output")
}

// start starts the admin server and says what people must know of it.
func (f *adminFlags) start(ctx context.Context, a *app, dir string, w *serverWatch, log *slog.Logger) (*admin.Running, error) {
	if (f.cert == "") != (f.key == "") {
		return nil, usageError("give both --cert and --key, or none")
	}
	s, err := admin.Start(ctx, admin.RunOptions{
		Dir: dir, Listen: f.listen, Hosts: f.hosts, CertFile: f.cert, KeyFile: f.key,
		Version: currentVersion().Version, Logger: log, Metrics: w.metrics,
	})
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(a.out, "admin server on %s for %s\nfingerprint %s\n", s.Addr(), strings.Join(s.Names(), ", "), s.Fingerprint())
	if token := s.FirstToken(); token != "" && !f.keepToken {
		if err := a.handOut("token of the account main", token, f.tokenFile, filepath.Join(dir, "first-token")); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

func (a *app) serveAdminCommand() *cobra.Command {
	var common serverFlags
	var f adminFlags
	var newToken bool
	cmd := &cobra.Command{
		Use:   "admin",
		Short: "Run the admin server",
		Long: `Run the admin server: it knows the accounts, object stores, metadata servers,
volumes and tokens, and tells mounts and metadata servers what they need. It is on
no data path: while it is away, mounts go on.

On its first start it makes an account and prints that one's token, once; "massif
admin login" takes it. Its certificate is signed by an authority of its own, whose
fingerprint it prints at each start: clients compare it at their first contact.

The API is described at https://HOST/v1/openapi.json.`,
		Example: `  massif serve admin --host admin.example.com
  massif serve admin --listen 127.0.0.1:7443 --dir /var/lib/massif/admin
  massif serve admin --new-token    # the first token is lost: make another`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := applyConfig(cmd.Flags(), common.config); err != nil {
				return err
			}
			dir, err := common.directory("admin")
			if err != nil {
				return err
			}
			if newToken {
				return a.newOwnerToken(cmd.Context(), dir, f.tokenFile)
			}
			return common.serve(cmd, func(ctx context.Context, w *serverWatch, log *slog.Logger) (func(context.Context) error, error) {
				s, err := f.start(ctx, a, dir, w, log)
				if err != nil {
					return nil, err
				}
				w.working(s.Health)
				return s.Run, nil
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	common.add(cmd, "admin")
	f.add(cmd)
	cmd.Flags().BoolVar(&newToken, "new-token", false, "make another token of the installation's owner while the server is stopped, and stop")
	return cmd
}

// newOwnerToken is for who lost the token of the installation's account.
func (a *app) newOwnerToken(ctx context.Context, dir, file string) error {
	s, err := admin.Start(ctx, admin.RunOptions{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer s.Close()
	token := s.FirstToken()
	if token == "" {
		if token, err = s.NewOwnerToken(ctx); err != nil {
			return err
		}
	}
	return a.handOut("token of the installation's owner", token, file, filepath.Join(dir, "new-token"))
}
