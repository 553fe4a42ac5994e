package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/mount/creds"
	"github.com/massif-fs/massif/service/admin"
	"github.com/massif-fs/massif/service/admin/adminapi"
	"github.com/massif-fs/massif/service/metad/managed"
)

// allFlags are the flags of "serve all".
type allFlags struct {
	admin                          adminFlags
	metaListen, metaAddr           string
	store, accessKeyID, secretFile string
	volume                         string
	early                          bool
}

func (a *app) serveAllCommand() *cobra.Command {
	var common serverFlags
	var f allFlags
	cmd := &cobra.Command{
		Use:   "all",
		Short: "Run an admin and a metadata server in one process",
		Long: `Run an admin server and a metadata server in one process, for a laptop, a small site or a
test. The first start makes everything that a mount needs: the metadata server "local",
the object store "local" (a directory, or what --store names), a volume, and the
credentials with which this user administers and mounts it.`,
		Example: `  massif serve all --listen localhost:7443
  massif mount localhost:7443/main /mnt    # on the same machine, as the same user
  massif serve all --host files.example.com --store s3://my-bucket/massif --volume team`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := applyConfig(cmd.Flags(), common.config); err != nil {
				return err
			}
			dir, err := common.directory("all")
			if err != nil {
				return err
			}
			return common.serve(cmd, func(ctx context.Context, w *serverWatch, log *slog.Logger) (func(context.Context) error, error) {
				return f.start(ctx, a, dir, w, log)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	common.add(cmd, "all")
	f.admin.add(cmd)
	flags := cmd.Flags()
	flags.Lookup("listen").DefValue, f.admin.listen = ":7443", ":7443"
	earlyFlag(flags, &f.early)
	flags.StringVar(&f.metaListen, "meta-listen", ":7444", "`HOST:PORT` of the metadata server")
	flags.StringVar(&f.metaAddr, "meta-address", "", "`HOST:PORT` under which mounts reach the metadata server (default: the first --host, or localhost)")
	flags.StringVar(&f.store, "store", "", "`URL` of the object store (default: a directory below --dir)")
	flags.StringVar(&f.accessKeyID, "access-key-id", "", "credentials of an S3 store, else those of the environment")
	flags.StringVar(&f.secretFile, "secret-key-file", "", "`FILE` with the secret of the access key; -: standard input")
	flags.StringVar(&f.volume, "volume", "main", "`NAME` of the volume that the first start makes")
	return cmd
}

// start starts both servers. The result runs them.
func (f *allFlags) start(ctx context.Context, a *app, dir string, w *serverWatch, log *slog.Logger) (func(context.Context) error, error) {
	if err := admin.MakeDir(dir); err != nil {
		return nil, err
	}
	f.admin.keepToken = f.admin.tokenFile == "" // it goes into a file of ours anyway
	s, err := f.admin.start(ctx, a, filepath.Join(dir, "admin"), w, log)
	if err != nil {
		return nil, err
	}
	// The admin server must answer before the metadata server begins, and until it has
	// ended.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(serving) }()
	meta, client, err := f.startMeta(ctx, a, s, dir, w, log)
	if err != nil {
		stop()
		return nil, errors.Join(err, <-ended)
	}
	w.working(func(ctx context.Context) error {
		if err := meta.Health(); err != nil {
			return err
		}
		return s.Health(ctx)
	})
	return func(ctx context.Context) error {
		defer client.Close()
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error {
			defer stop()
			return meta.Run(ctx)
		})
		g.Go(func() error { return <-ended })
		return g.Wait()
	}, nil
}

// startMeta sets up what is missing and starts the metadata server.
func (f *allFlags) startMeta(ctx context.Context, a *app, s *admin.Running, dir string, w *serverWatch, log *slog.Logger) (*managed.Server, *adminapi.Client, error) {
	owner, err := f.owner(ctx, s, dir)
	if err != nil {
		return nil, nil, err
	}
	client, err := owner.Client()
	if err != nil {
		return nil, nil, err
	}
	defer client.Close()
	file, err := f.setUp(ctx, a, client, owner, dir)
	if err != nil {
		return nil, nil, err
	}
	own, err := file.Client()
	if err != nil {
		return nil, nil, err
	}
	m, err := startMeta(ctx, a, own, filepath.Join(dir, "meta"), f.metaListen, f.early, w, log)
	if err != nil {
		own.Close()
		return nil, nil, err
	}
	return m, own, nil
}

// owner reads the credentials of the installation's owner, or makes them.
func (f *allFlags) owner(ctx context.Context, s *admin.Running, dir string) (*creds.File, error) {
	path := filepath.Join(dir, "owner.toml")
	addr := localAddress(s.Addr())
	file, err := creds.Read(path)
	if err == nil && file.AdminAddr == addr {
		return file, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	token := s.FirstToken()
	if file != nil {
		token = file.Token // the port has changed
	}
	if token == "" {
		if token, err = s.NewOwnerToken(ctx); err != nil {
			return nil, err
		}
	}
	file = &creds.File{AdminAddr: addr, Token: token, Fingerprint: s.Fingerprint()}
	return file, file.Write(path, true)
}

// localAddress is how this machine reaches a listener.
func localAddress(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || tcp.IP.IsUnspecified() || tcp.IP.IsLoopback() {
		_, port, _ := net.SplitHostPort(a.String())
		return net.JoinHostPort("localhost", port)
	}
	return a.String()
}

// setUp makes the metadata server, and with it the store, the volume and the
// credentials, unless they are there.
func (f *allFlags) setUp(ctx context.Context, a *app, client *adminapi.Client, owner *creds.File, dir string) (*creds.File, error) {
	path := filepath.Join(dir, "meta-creds")
	file, err := creds.Read(path)
	if err == nil {
		if file.AdminAddr != owner.AdminAddr {
			file.AdminAddr = owner.AdminAddr
			err = file.Write(path, true)
		}
		return file, err
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	address, err := f.metaAddress()
	if err != nil {
		return nil, err
	}
	var ms adminapi.MetadataServer
	err = client.Create(ctx, adminapi.TableMetadataServers, map[string]any{"name": "local", "address": address}, &ms)
	if adminapi.IsCode(err, adminapi.CodeConflict) { // an earlier first start went no further
		var t adminapi.Token
		err = client.Create(ctx, adminapi.TableTokens, map[string]any{"metadataServer": "local"}, &t)
		ms.Token = t.Token
	}
	if err != nil {
		return nil, err
	}
	if err := f.firstVolume(ctx, a, client, owner, dir); err != nil {
		return nil, err
	}
	file = &creds.File{AdminAddr: owner.AdminAddr, Token: ms.Token, Fingerprint: owner.Fingerprint}
	return file, file.Write(path, true)
}

// metaAddress is under which mounts reach the metadata server.
func (f *allFlags) metaAddress() (string, error) {
	if f.metaAddr != "" {
		return f.metaAddr, nil
	}
	host, port, err := net.SplitHostPort(f.metaListen)
	if n, perr := strconv.Atoi(port); err != nil || perr != nil || n == 0 {
		return "", usageError("--meta-listen %s: write HOST:PORT with a port of its own, or give --meta-address", f.metaListen)
	}
	switch {
	case len(f.admin.hosts) > 0:
		host = f.admin.hosts[0]
	case host == "" || net.ParseIP(host).IsUnspecified():
		host = "localhost"
	}
	return net.JoinHostPort(host, port), nil
}

// firstVolume makes the store and the volume, and lets this user in.
func (f *allFlags) firstVolume(ctx context.Context, a *app, client *adminapi.Client, owner *creds.File, dir string) error {
	store := map[string]any{"name": "local", "url": f.store}
	if f.store == "" {
		store["url"] = (&url.URL{Scheme: "file", Path: filepath.Join(dir, "store")}).String()
	}
	if f.accessKeyID != "" || f.secretFile != "" {
		secret, err := a.readSecret("secret key", f.secretFile)
		if err != nil {
			return err
		}
		store["accessKeyID"], store["secretKey"] = f.accessKeyID, secret
	}
	exists := func(err error) bool { return err == nil || adminapi.IsCode(err, adminapi.CodeConflict) }
	if err := client.Create(ctx, adminapi.TableStores, store, nil); !exists(err) {
		return err
	}
	volume := map[string]any{"name": f.volume, "store": "local", "metadataServer": "local"}
	if err := client.Create(ctx, adminapi.TableVolumes, volume, nil); !exists(err) {
		return err
	}
	var token adminapi.Token
	if err := client.Create(ctx, adminapi.TableTokens, map[string]any{"volume": f.volume, "notes": "of the user who started the server"}, &token); err != nil {
		return err
	}
	path, err := mount.CredsPath(owner.AdminAddr, f.volume)
	if err != nil {
		return err
	}
	file := creds.File{AdminAddr: owner.AdminAddr, Token: token.Token, Fingerprint: owner.Fingerprint}
	if err := file.Write(path, true); err != nil {
		return err
	}
	c := &adminCommand{app: a}
	login, err := c.path()
	if err != nil {
		return err
	}
	err = owner.Write(login, false)
	var there *creds.ExistsError
	if errors.As(err, &there) {
		fmt.Fprintf(a.err, "%s stays as it is; the owner's credentials are in %s\n", login, filepath.Join(dir, "owner.toml"))
	} else if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "volume %s is made; this user mounts it with: massif mount %s/%s MOUNTPOINT\n", f.volume, owner.AdminAddr, f.volume)
	return nil
}
